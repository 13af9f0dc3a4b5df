/* prefork.h: worker processes behind one address, and no accepted connection lost.
 *
 * Made by cbindgen from src/ffi of prefork: change it there, then run `make header`.
 *
 * WHAT IT IS
 *
 * A master process listens, accepts, and hands each connection to one of N worker processes. A worker runs
 * your code, a handler, in one of three styles:
 *
 *     on_request      a complete HTTP/1.1 request comes, a response goes; thousands of connections per worker
 *     on_data         a connection has bytes; your protocol, nothing waits; thousands of connections per worker
 *     on_connection   one connection at a time; read and write wait, as in the simplest of programs
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
 * There is nothing to link: the functions below are in the program that loads it.
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
 *
 * IN AN EVENT LOOP OF YOURS: the master is one more descriptor to poll. Instead of prefork_server_run()
 *
 *     int status = prefork_server_start(server);                          // 0; then 1 as long as it runs
 *     for (; status >= 0 && prefork_server_fd(server) >= 0; status = prefork_server_step(server, 0)) {
 *         struct pollfd fds[] = {{prefork_server_fd(server), POLLIN, 0}, ...};
 *         poll(fds, n, prefork_server_timeout(server));                   // or epoll, or a library's loop
 *     }
 *
 * and meanwhile prefork_server_reload(), _scale(), _drain(), _stop() and so on. prefork_server_on_event()
 * tells what happens to workers, in the words of Node's cluster.
 *
 * WHAT RUNS WHERE
 *
 *     master   prefork_server_*, the callbacks of prefork_server_on_start(), _on_event() and _on_message(),
 *              and those of requests; never a handler
 *     worker   worker_start, the handler's callbacks, worker_stop; in them prefork_request_*,
 *              prefork_response_*, prefork_conn_*, prefork_worker_*
 *
 * A worker is a fork of the process that called prefork_server_run(), with a copy of all its memory as of
 * then. What is written afterwards is seen by that process alone. A module is loaded in each worker, after
 * the fork, from a private copy of the file; so its $ORIGIN is not the file's folder.
 *
 * THREADS AND FORK
 *
 * Call prefork_server_run() or _start() while the process has one thread: a forked copy of a process with
 * several may do nothing but exec, and so it is refused (PREFORK_STATE). Calls from a process that is not
 * the master, a worker for instance, are refused in the same way. Open in worker_start, not before, what
 * processes must not share: database connections, epoll descriptors, random number generators. A worker
 * calls its callbacks one at a time from its one thread; it may start threads of its own, but only the
 * first may call functions of this header. A callback must return: no longjmp and no C++ exception may
 * leave it. A crash costs the worker, which is replaced, and the connections it had in progress.
 *
 * POINTERS
 *
 * Four words say who owns what is behind a pointer. A function
 *     borrows   uses it until the time named, and then has no copy of the pointer
 *     copies    has its own copy when it returns
 *     takes     owns it from the call on
 *     creates   gives you something new, to be freed as said
 * Strings that go in end with NUL and are UTF-8; bytes that go in are a pointer and a size; bytes that
 * come out are a prefork_slice, which does not end with NUL. NULL where something is needed is answered
 * with PREFORK_NULL (or with nothing: 0, an empty slice), never with a crash. `state` and other pointers
 * of your own are handed through unseen.
 *
 * STATUSES
 *
 * Calls that can fail return PREFORK_OK (0) or a negative status (enum prefork_status). Calls that move
 * bytes return a number of bytes, or such a status. prefork_strerror() has the text.
 */
#ifndef PREFORK_H
#define PREFORK_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

struct sockaddr; /* of <sys/socket.h> */

#ifdef __cplusplus
extern "C" {
#endif
