/* prefork.h: worker processes behind one address, and no accepted connection lost.
 *
 * Made by cbindgen from src/ffi of prefork: change it there, then run `make header`.
 *
 * WHAT IT IS
 *
 * A master process listens, accepts, and hands each connection to one of N worker processes. A worker runs
 * your code, a handler, in one of three styles:
 *
 *     on_request      answers complete HTTP/1.1 requests; thousands of connections per worker
 *     on_data         called when a connection has bytes; never waits; thousands of connections per worker
 *     on_connection   serves one connection at a time; reads and writes wait, as in the simplest of programs
 *
 * AS A MODULE: a shared object that the program `prefork` loads. A whole one:
 *
 *     #include <prefork.h>
 *
 *     static void hello(prefork_request *req, prefork_response *res, void *state)
 *     {
 *         prefork_response_body(res, "hello world\n", 12);
 *     }
 *
 *     PREFORK_MODULE(.on_request = hello)
 *
 *     cc -shared -fPIC hello.c -o hello.so $(pkg-config --cflags prefork) && prefork --workers 8 ./hello.so
 *
 * There is no library to link: the program that loads the module has the functions below.
 *
 * AS A PART OF YOUR PROGRAM: the same handler, and
 *
 *     int main(void)
 *     {
 *         prefork_server *server = prefork_server_new();
 *         prefork_server_on_request(server, hello, NULL);
 *         prefork_server_listen(server, "127.0.0.1:8080");
 *         if (prefork_server_run(server) != PREFORK_OK)           // until a signal ends it
 *             fprintf(stderr, "%s\n", prefork_server_error(server));
 *         prefork_server_free(server);
 *     }
 *
 *     cc host.c $(pkg-config --cflags --libs prefork)                  with libprefork.so
 *     cc -static host.c $(pkg-config --cflags --libs --static prefork) with libprefork.a, libc and all
 *     cc host.c libprefork.a -lpthread -ldl -lm                        with libprefork.a, and libc shared
 *
 * The third needs no flag against warnings, and since glibc 2.34 none of the three libraries. With the second
 * the linker warns that dlopen, getaddrinfo and getpwuid_r would need the shared glibc at run time. prefork
 * calls the first for modules only (prefork_server_module_file(), which a program that is all static cannot
 * use), and never the others, which come with Rust's library: `-Wl,--no-warnings` says so to the linker.
 *
 * IN YOUR EVENT LOOP: the master is one more descriptor to poll. Instead of prefork_server_run()
 *
 *     int status = prefork_server_start(server);                          // 0; each step that follows: 1
 *     for (; status >= 0 && prefork_server_fd(server) >= 0; status = prefork_server_step(server, 0)) {
 *         struct pollfd fds[] = {{prefork_server_fd(server), POLLIN, 0}, ...};
 *         poll(fds, n, prefork_server_timeout(server));                   // or epoll, or a library's loop
 *     }
 *
 * While it runs, prefork_server_reload(), _scale(), _drain(), _stop() and others control it, and
 * prefork_server_on_event() reports events, with the names of Node's cluster.
 *
 * WHAT RUNS WHERE
 *
 *     master   prefork_server_* and the callbacks given to prefork_server_on_start(), _on_event(),
 *              _on_message(), _on_log() and _request(); never a handler
 *     worker   the callbacks of the handler, and in them prefork_request_*, prefork_response_*,
 *              prefork_conn_*, prefork_worker_* and prefork_datagram_*
 *
 * A worker is a fork of the process that called prefork_server_run(). It has a copy of that process's memory
 * as of then; what a process writes afterwards, no other process sees. A module is loaded in each worker,
 * after the fork, from a private copy of its file; libraries that it needs by $ORIGIN in its run path are those
 * beside its file, if they have a DT_SONAME.
 *
 * A worker that ends in order runs worker_stop, writes what stdio has buffered, and ends by _exit: no exit handler
 * (atexit) and no destructor runs, since it has those of the process that it was forked from. With the setting
 * "worker-exit" at "full" it ends by exit(3), and they run, also those that the host has registered before the fork.
 *
 * THREADS AND FORK
 *
 * Call prefork_server_run() or _start() while the process has one thread: a fork of a process with several
 * threads may only exec, so prefork refuses (PREFORK_STATE). Open in worker_start, not before, what processes
 * must not share: database connections, epoll descriptors, random number generators. A worker calls its
 * callbacks one at a time, from its one thread. It may start threads of its own, but only the first may call
 * functions of this header, except where `Process:` says "in any thread": elsewhere they return PREFORK_STATE,
 * 0 or NULL, and do nothing. No longjmp and no C++ exception may leave a callback; an exception that does ends
 * the process where it was thrown, with a line that has the callback's name, and on x86-64 the exception's type
 * and, if it is a std::exception, its what(). A child that a callback forks ends by _exit or exec: one that
 * returns from the callback is ended there, with a line. A crash costs the worker, which is replaced, and the
 * connections it had in progress.
 *
 * UPGRADES
 *
 * USR2 replaces the program by the file now at its path, in the same process, with its listeners, workers and
 * connections. The start of the new program, from main() to prefork_server_run() or _start(), runs twice: first
 * on trial, in a child of the master, while the old program serves; then in the master's own process. On trial
 * that call does not return, neither when the program could serve nor when it is refused, and runs no exit
 * handler. The old program ends without a return from prefork_server_run().
 * In both, the variable PREFORK_UPGRADE is in the environment until that call. A program that does something
 * only once (writes its process id, takes a lock, refuses if it runs already) skips that if the variable is set.
 * A program that ends before the call, whatever its exit code, is not upgraded to.
 *
 * POINTERS
 *
 * Four words say who owns what is behind a pointer. A function
 *     borrows   uses it until the time named, and does not keep the pointer
 *     copies    has its own copy when it returns
 *     takes     owns it from the call on
 *     creates   returns something new, which is to be freed as said
 * Strings that go in are NUL-terminated UTF-8 (paths: any bytes); bytes that go in are a pointer and a size; bytes that
 * come out are a prefork_slice, which is not NUL-terminated. NULL where a pointer is needed is never a crash: the
 * call returns PREFORK_NULL, 0, or an empty slice. `state` and `arg` are yours: prefork passes them on.
 *
 * STATUSES
 *
 * A call that can fail returns PREFORK_OK (0) or a negative status (enum prefork_status); a call that moves
 * bytes returns their number or a negative status. prefork_strerror() has the text. Each function lists its
 * statuses, except those with the same meaning everywhere:
 *     PREFORK_NULL    a pointer is NULL that must not be NULL
 *     PREFORK_PANIC   prefork has a bug
 *     PREFORK_STATE   called in another process or thread, or at another time, than the Process: line
 *                     says, for instance prefork_server_* in a worker
 */
#ifndef PREFORK_H
#define PREFORK_H

#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct sockaddr; /* of <sys/socket.h> */

#ifdef __cplusplus
extern "C" {
#endif
