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


/* STATUSES
 * -------------------------------------------------------------------------------------------------------- */

/**
 * The result of a call: 0, or a negative number if the call was refused. A refused call has changed nothing, unless
 * its description says so. No number ever gets another meaning.
 */
typedef enum prefork_status {
    /** Done. */
    PREFORK_OK = 0,
    /** A pointer is NULL that must not be NULL. */
    PREFORK_NULL = -1,
    /** An argument is out of range, or a string is not UTF-8. */
    PREFORK_INVALID = -2,
    /** A bug in prefork; please report what it printed on standard error. */
    PREFORK_PANIC = -3,
    /**
     * The call is not possible now or in this process, for instance `prefork_server_run()` with several
     * threads, or on a server that is running already.
     */
    PREFORK_STATE = -4,
    /** A system call failed; `prefork_server_error()` says which. */
    PREFORK_SYSTEM = -5,
    /**
     * There is no such setting, or it cannot have this value; `prefork_server_error()` says what is
     * expected.
     */
    PREFORK_CONFIG = -6,
    /** An address could not be listened on; `prefork_server_error()` says why. */
    PREFORK_LISTEN = -7,
    /**
     * The handler could not be loaded, or no worker became ready with it; `prefork_server_error()` says
     * why.
     */
    PREFORK_HANDLER = -8,
    /** The name of a header field is not a token, or its value has a control byte (RFC 9110 section 5.5). */
    PREFORK_FIELD = -9,
    /**
     * The header field frames the message (Content-Length, Transfer-Encoding, Connection and the like), and
     * is prefork's to write.
     */
    PREFORK_FRAMING = -10,
    /** The response has begun already. */
    PREFORK_LATE = -11,
    /**
     * Too much waits for a slow client (setting `max-pending`), or the head of the response is over 64 KiB;
     * or too much waits for the receiver of a message (four times the setting `max-message`).
     */
    PREFORK_FULL = -12,
    /** The client, or the receiver of a message, is gone; or there is no such worker, timer or watch. */
    PREFORK_GONE = -13,
    /** The request did not ask for this upgrade (RFC 9110 section 7.8). */
    PREFORK_UPGRADE = -14,
    /** In a stream: no more has arrived; return, and prefork calls again when there is more. */
    PREFORK_AGAIN = -15,
    /**
     * In blocking style: the client sent or took nothing before the deadline. Of a request to another
     * process: no reply arrived before its deadline.
     */
    PREFORK_TIMEOUT = -16,
    /**
     * A message is longer than the setting `max-message`, or a body than its Content-Length; or a stream could
     * never take as much as this.
     */
    PREFORK_TOO_LARGE = -17,
    /** Of a request to another process: the receiver has no `on_message`, or that returned without a reply. */
    PREFORK_UNANSWERED = -18,
    /**
     * A first worker has ended with exit code 78 (EX_CONFIG in sysexits.h): its configuration is wrong. Or later, all
     * workers have, and no reload came within ten seconds. A program that serves only this should end with the same
     * code, which a supervisor understands (systemd: `RestartPreventExitStatus=78`).
     */
    PREFORK_MISCONFIGURED = -19,
} prefork_status;

/**
 * The text of a status, for a message to a human.
 *
 * Returns a static string; `unknown status` if there is no such status.
 * Process: any.
 */
const char *prefork_strerror(int status);


/* REQUESTS
 * -------------------------------------------------------------------------------------------------------- */

/**
 * An HTTP request, given to `on_request`, `on_head` and `on_body` and borrowed until that callback returns, as is
 * all that the functions below return. The body is there in `on_request` only.
 */
typedef struct prefork_request prefork_request;

/**
 * Borrowed bytes, not NUL-terminated; the call that returns them says how long they stay.
 *
 * `data` is NULL if there is no value (no such header field), and not NULL if the value is empty. To print
 * one: `printf("%.*s", (int)s.len, s.data)`.
 */
typedef struct prefork_slice {
    /** The first byte, or NULL. */
    const char *data;
    /** The number of bytes. */
    size_t len;
} prefork_slice;

/**
 * The method as sent, for instance `GET`; it is case-sensitive (RFC 9110 section 9.1).
 *
 * Returns a slice, borrowed until `on_request` returns.
 * Process: worker.
 * Pointers: Borrows `req` until return.
 */
prefork_slice prefork_request_method(const prefork_request *req);

/**
 * The request target as sent, for instance `/search?q=x` (RFC 9112 section 3.2).
 *
 * Returns a slice, borrowed until `on_request` returns.
 * Process: worker.
 * Pointers: Borrows `req` until return.
 */
prefork_slice prefork_request_target(const prefork_request *req);

/**
 * The path of the target without its query, not percent-decoded: `/search`. `*` for `OPTIONS *`, empty for
 * CONNECT (RFC 9112 section 3.2).
 *
 * Returns a slice, borrowed until `on_request` returns.
 * Process: worker.
 * Pointers: Borrows `req` until return.
 */
prefork_slice prefork_request_path(const prefork_request *req);

/**
 * The query of the target without the `?`, not percent-decoded: `q=x` (RFC 3986 section 3.4).
 *
 * Returns a slice, borrowed until `on_request` returns; `data` is NULL if the target has no `?`.
 * Process: worker.
 * Pointers: Borrows `req` until return.
 */
prefork_slice prefork_request_query(const prefork_request *req);

/**
 * The authority that the request is for, for instance `example.org:8080`: that of an absolute target, else
 * the value of Host (RFC 9112 section 3.3). Empty if an HTTP/1.0 request has neither.
 *
 * Returns a slice, borrowed until `on_request` returns.
 * Process: worker.
 * Pointers: Borrows `req` until return.
 */
prefork_slice prefork_request_host(const prefork_request *req);

/**
 * The version of HTTP: 11 for HTTP/1.1, 10 for HTTP/1.0.
 *
 * Returns the version, or 0 if `req` is NULL.
 * Process: worker.
 * Pointers: Borrows `req` until return.
 */
uint32_t prefork_request_version(const prefork_request *req);

/**
 * The value of the first header field with this name, which is case-insensitive (RFC 9110 section 5.1),
 * without the white space around the value.
 *
 * Returns a slice, borrowed until `on_request` returns; `data` is NULL if there is no such field.
 * Process: worker.
 * Pointers: Borrows `req` and `name` until return; `name` is NUL-terminated.
 */
prefork_slice prefork_request_header(const prefork_request *req, const char *name);

/**
 * As `prefork_request_header()`, with a name of `name_len` bytes that is not NUL-terminated.
 *
 * Returns as `prefork_request_header()`.
 * Process: worker.
 * Pointers: Borrows `req`, and `name_len` bytes at `name`, until return.
 */
prefork_slice prefork_request_header_n(const prefork_request *req, const char *name, size_t name_len);

/**
 * The value of one of several header fields with the same name; `index` counts them from 0 in the order sent.
 *
 *     for (size_t i = 0; (value = prefork_request_header_nth(req, "Accept", i)).data; i++)
 *
 * Returns a slice, borrowed until `on_request` returns; `data` is NULL if there are not that many.
 * Process: worker.
 * Pointers: Borrows `req` and `name` until return; `name` is NUL-terminated.
 */
prefork_slice prefork_request_header_nth(const prefork_request *req, const char *name, size_t index);

/**
 * The number of header fields.
 *
 * Returns the number, or 0 if `req` is NULL.
 * Process: worker.
 * Pointers: Borrows `req` until return.
 */
size_t prefork_request_header_count(const prefork_request *req);

/**
 * The name of a header field as sent; `index` counts from 0 in the order sent.
 *
 * Returns a slice, borrowed until `on_request` returns; `data` is NULL if there are not that many fields.
 * Process: worker.
 * Pointers: Borrows `req` until return.
 */
prefork_slice prefork_request_header_name(const prefork_request *req, size_t index);

/**
 * The value of a header field without the white space around it; `index` counts from 0 in the order sent.
 *
 * Returns a slice, borrowed until `on_request` returns; `data` is NULL if there are not that many fields.
 * Process: worker.
 * Pointers: Borrows `req` until return.
 */
prefork_slice prefork_request_header_value(const prefork_request *req, size_t index);

/**
 * The body, complete and without its transfer coding; empty if the request has no body, or if `on_body` had it.
 * The setting `max-body` limits its size.
 *
 * Returns a slice, borrowed until `on_request` returns.
 * Process: worker.
 * Pointers: Borrows `req` until return.
 */
prefork_slice prefork_request_body(const prefork_request *req);

/**
 * The client's address: `192.0.2.1:4711`, `[2001:db8::1]:4711`, `unix:`, or `unix:/path` if the client has bound
 * its socket. The first call asks the kernel (getpeername(2)); empty if the client is gone by then.
 * Control characters and backslashes of a path, and bytes that are not UTF-8, are given as `\xNN`.
 *
 * Returns a slice, borrowed until `on_request` returns.
 * Process: worker.
 * Pointers: Borrows `req` until return.
 */
prefork_slice prefork_request_peer(const prefork_request *req);

/**
 * The index of the listener that accepted the connection, from 0, in the order of the addresses.
 *
 * Returns the index, or 0 if `req` is NULL.
 * Process: worker.
 * Pointers: Borrows `req` until return.
 */
uint32_t prefork_request_listener(const prefork_request *req);

/**
 * The length of the body as the client has declared it (Content-Length), or 0 if there is none. What does not
 * fit is INT64_MAX.
 *
 * Returns the length, or -1 if the body is chunked, so that only its end tells, or if `req` is NULL.
 * Process: worker.
 * Pointers: Borrows `req` until return.
 */
int64_t prefork_request_length(const prefork_request *req);

/**
 * The number of a request, for `prefork_request_resume()`. No other request of this worker has it; it is over when
 * `on_request` has returned.
 *
 * Returns the number, or 0 if the handler has no `on_head`, or if `req` is NULL.
 * Process: worker.
 * Pointers: Borrows `req` until return.
 */
uint64_t prefork_request_id(const prefork_request *req);

/**
 * In `on_body`: has nothing more of the body read after this piece, until `prefork_request_resume()`. The client
 * can send as much as the kernel and a buffer of 64 KiB hold, and then waits. No timeout runs meanwhile, except
 * `drain-timeout` in a worker that drains. In `on_head`, if that returns 1, also the first piece waits, and so
 * does a client that expects a 100.
 *
 * Returns PREFORK_OK; PREFORK_LATE (this is the last piece, or `on_request`); PREFORK_STATE (the handler has no
 * `on_head`); PREFORK_NULL.
 * Process: worker.
 * Pointers: Borrows `req` until return.
 */
int prefork_request_pause(prefork_request *req);

/**
 * In `on_body`: no further piece is wanted, for instance as the body is too large. When `on_body` has returned,
 * `on_request` is called to answer, and after the response the connection is closed, in stages, as more of the
 * body may follow.
 *
 * Returns PREFORK_OK; PREFORK_LATE (this is the last piece, or `on_request`); PREFORK_STATE (in `on_head`, which
 * can refuse; or the handler has none); PREFORK_NULL.
 * Process: worker.
 * Pointers: Borrows `req` until return.
 */
int prefork_request_stop(prefork_request *req);

/**
 * Gives a request the handler's own pointer, in `on_head` or `on_body`, for the callbacks that follow. `release`,
 * which may be NULL, is called with it once, when the request is over: after `on_request` has returned, after a
 * refusal, and also if the client goes, the body is malformed or takes too long, or the worker ends first. A second
 * call replaces what the first one gave, which is released.
 *
 * Returns PREFORK_OK, or a status, and nothing is taken: PREFORK_STATE (the handler has no `on_head`), PREFORK_NULL.
 * Process: worker.
 * Pointers: Borrows `req` until return. Takes `user`, which may be NULL, until `release` is called.
 */
int prefork_request_set_user(prefork_request *req, void *user, void (*release)(void *user));

/**
 * The handler's own pointer for this request, set by `prefork_request_set_user()`.
 *
 * Returns the pointer, or NULL if there is none.
 * Process: worker.
 * Pointers: Borrows `req` until return.
 */
void *prefork_request_user(const prefork_request *req);


/* RESPONSES
 * -------------------------------------------------------------------------------------------------------- */

/**
 * The response to a request, given to `on_request`, and to `on_head`. If no function is called it is a 200 with an
 * empty body. It is sent when the callback returns, and is valid until then; `prefork_response_later()` and
 * `prefork_response_stream()` are for one that is not finished by then. prefork writes the header fields Date,
 * Connection, and Content-Length or Transfer-Encoding; the handler writes the others.
 */
typedef struct prefork_response prefork_response;

/**
 * Sets the status code, from 200 to 599 (RFC 9110 section 15). The default is 200.
 *
 * Returns PREFORK_OK, PREFORK_INVALID, PREFORK_LATE or PREFORK_NULL.
 * Process: worker.
 * Pointers: Borrows `res` until return.
 */
int prefork_response_status(prefork_response *res, unsigned int code);

/**
 * Adds a header field; a name may be added several times. A `Date` replaces that of prefork, or the one added
 * before. `Upgrade` says which protocols the server offers, as it must with status 426 (RFC 9110 section 7.8);
 * prefork adds `Connection: upgrade`. `Content-Length` is the length of a body that is written in parts
 * (`prefork_response_write()`, `_stream()`), which is then not chunked, or of one that is not sent, to HEAD and with
 * status 304. A part that would make the body longer is refused; if it is shorter at its end, the connection is
 * cut. A second one replaces the first; a body that is set whole has its own length; statuses 204 and 205 have
 * none. Other fields that could break the framing of the message are refused.
 *
 * Returns PREFORK_OK, PREFORK_FIELD (the name is not a token, or the value has CR, LF or another control
 * byte, RFC 9110 section 5.5, or is no length), PREFORK_FRAMING, PREFORK_LATE, PREFORK_FULL or PREFORK_NULL.
 * Process: worker.
 * Pointers: Borrows `res` until return. Copies `name` and `value`, which are NUL-terminated.
 */
int prefork_response_header(prefork_response *res, const char *name, const char *value);

/**
 * As `prefork_response_header()`, with a name and a value that are not NUL-terminated, for instance of a
 * `prefork_slice`.
 *
 * Returns as `prefork_response_header()`.
 * Process: worker.
 * Pointers: Borrows `res` until return. Copies `name_len` bytes at `name` and `value_len` bytes at `value`.
 */
int prefork_response_header_n(prefork_response *res,
                              const char *name,
                              size_t name_len,
                              const char *value,
                              size_t value_len);

/**
 * Sets the body, and with it Content-Length. A second body replaces the first. A body that the response must
 * not have is not sent: to HEAD, and with status 204, 205 or 304 (RFC 9110 section 6.4.1).
 *
 * Returns PREFORK_OK, PREFORK_LATE (after `prefork_response_write()`), PREFORK_INVALID or PREFORK_NULL.
 * Process: worker.
 * Pointers: Borrows `res` until return. Copies `size` bytes at `data`, which may be NULL if `size` is 0.
 */
int prefork_response_body(prefork_response *res, const void *data, size_t size);

/**
 * As `prefork_response_body()`, without a copy, for bytes that stay unchanged as long as the worker lives:
 * literals, tables, files mapped at start.
 *
 * Returns as `prefork_response_body()`.
 * Process: worker.
 * Pointers: Borrows `res` until return, and forever `size` bytes at `data`, which may be NULL if `size` is 0.
 */
int prefork_response_body_static(prefork_response *res, const void *data, size_t size);

/**
 * As `prefork_response_body()`, without a copy, for bytes that the caller gives away, for instance with
 * `prefork_response_body_owned(res, p, n, free, p)`. `release(owner)` is called exactly once, in this worker:
 * when the bytes have been sent, when the client is gone, or before this call returns a refusal.
 *
 * Returns as `prefork_response_body()`; PREFORK_NULL also if `release` is NULL, and then nothing is taken.
 * Process: worker.
 * Pointers: Borrows `res` until return. Takes `owner` and `size` bytes at `data` until `release(owner)`; `owner` may
 * be NULL, and `data` too if `size` is 0.
 */
int prefork_response_body_owned(prefork_response *res,
                                const void *data,
                                size_t size,
                                void (*release)(void *owner),
                                void *owner);

/**
 * Adds to a body whose length is not known yet. The head is sent with the first bytes, the end when
 * `on_request` returns: chunked in HTTP/1.1, until the close in HTTP/1.0 (RFC 9112 section 6.3), or by a
 * `Content-Length` that was set by `prefork_response_header()`. prefork collects 64 KiB before it sends, never
 * waits, and keeps what the client does not take yet, up to the setting `max-pending`. For a body of any size use
 * `prefork_response_stream()`. Of a response that is kept, what callbacks write is sent together when they have
 * returned.
 *
 * Returns PREFORK_OK, PREFORK_LATE (after one of the functions that set a whole body), PREFORK_FULL (the
 * response is incomplete: the connection is cut behind the parts before; if there was none, it becomes a 500,
 * unless the handler sets another status or body. A response that is kept is not harmed: none of these bytes
 * was taken, and `prefork_response_stream()` calls back when there is room), PREFORK_TOO_LARGE (longer than that
 * Content-Length: none of these bytes was taken), PREFORK_GONE, PREFORK_INVALID or PREFORK_NULL.
 * Process: worker.
 * Pointers: Borrows `res` until return. Copies `size` bytes at `data`, which may be NULL if `size` is 0.
 */
int prefork_response_write(prefork_response *res, const void *data, size_t size);

/**
 * As `prefork_response_body()`, with the `size` bytes of a regular file that begin at `offset` (sendfile(2)).
 * If the file becomes shorter before they are sent, the connection is cut, since its head gives their number.
 *
 * Returns as `prefork_response_body()`; PREFORK_INVALID if `fd` is negative, is not a regular file, cannot be
 * read, or does not have these bytes.
 * Process: worker.
 * Pointers: Borrows `res` until return. Takes `fd` in any case: prefork closes it when the bytes have been sent,
 * when the client is gone, or when the call is refused.
 */
int prefork_response_file(prefork_response *res, int fd, uint64_t offset, uint64_t size);

/**
 * Closes the connection after this response. If its head has not been sent yet, it says so
 * (`Connection: close`, RFC 9112 section 9.6).
 *
 * Returns PREFORK_OK, PREFORK_LATE (also after `prefork_response_upgrade()`: `prefork_conn_close()` closes a stream),
 * PREFORK_GONE or PREFORK_NULL.
 * Process: worker.
 * Pointers: Borrows `res` until return.
 */
int prefork_response_close(prefork_response *res);

/**
 * Gives up. The response becomes a 500; if some of it was sent already, the connection is cut, so that the
 * client does not take it for complete. A response that is kept still has to be ended; it is cut if some of it
 * was written.
 *
 * Returns PREFORK_OK, PREFORK_LATE, PREFORK_GONE or PREFORK_NULL.
 * Process: worker.
 * Pointers: Borrows `res` until return.
 */
int prefork_response_fail(prefork_response *res);

/**
 * Sends now what has been written by `prefork_response_write()`; the head in any case, after which it is too
 * late to set a whole body. Does not wait: what the client does not take yet is kept.
 *
 * Returns PREFORK_OK, PREFORK_LATE (after one of the functions that set a whole body), PREFORK_GONE or
 * PREFORK_NULL.
 * Process: worker.
 * Pointers: Borrows `res` until return.
 */
int prefork_response_flush(prefork_response *res);

/**
 * Keeps the response, which is finished by `prefork_response_end()` after `on_request` has returned, in any
 * callback of this worker. What was set so far goes with it. `res` answers every further call with
 * PREFORK_LATE.
 *
 * Until then nothing further of that connection is read or answered: requests that the client has sent
 * meanwhile wait. The connection counts as busy for `max-conns` and `least-connections`; a worker that drains
 * waits for it, up to the setting `drain-timeout`; it is no hang for the setting `timeout`.
 *
 * All functions for responses take the result. When the client has gone (it was reset, or took nothing for the
 * setting `write-timeout`), or when nothing has been written for the setting `response-timeout` while the
 * client had nothing to take (it then gets a 504, or if some of the response was written, the connection is
 * cut), they return PREFORK_GONE; the result stays valid until it is ended. If `on_request` fails by a panic,
 * the client gets a 500. A worker that is killed takes its responses with it, and their clients see the end of
 * the connection.
 *
 * Returns the response, which the call creates: end it with `prefork_response_end()`, whatever happens; or
 * NULL if `res` is NULL or has been kept before, or in another process.
 * Process: worker.
 * Pointers: Borrows `res` until return.
 */
prefork_response *prefork_response_later(prefork_response *res);

/**
 * Finishes a response that was kept: sends what was set, and the end of a body that was written in parts. The
 * call itself sends nothing: that happens when the callback has returned.
 *
 * Returns PREFORK_OK or PREFORK_GONE (the client has gone, or the time was over), and in both cases `res` is
 * freed; PREFORK_STATE (`res` was not returned by `prefork_response_later()`, or `prefork_response_stream()`
 * has taken it) or PREFORK_NULL, and then it is not.
 * Process: worker.
 * Pointers: Takes `res`.
 */
int prefork_response_end(prefork_response *res);

/**
 * Sends a body of any size, whose parts a callback writes when there is room for them: `more(res, arg)` is
 * called whenever little of what it has written waits for the client (64 KiB, or half of the setting
 * `max-pending`), not within another callback, and in turn with other connections. It writes with
 * `prefork_response_write()` and returns 1 if more follows, 0 at the end, or a negative number to break off:
 * then the connection is cut, so that the client does not take the body for complete. A slow client holds no
 * more than `max-pending` bytes of memory: a part that has no room is refused with PREFORK_FULL and does no
 * harm; return 1, and `more` is called when there is room. If `more` returns 1 and has tried to write nothing,
 * it is not called again before something is written to `res`, or `prefork_response_flush()` is called, in
 * another callback: keep the pointer that `more` was given. The setting `response-timeout` counts meanwhile.
 *
 * The head is that of `prefork_response_write()`. If the response has no body (to HEAD; status 204, 205 and
 * 304), `more` is not called, and `done` is.
 *
 * `done(arg)`, which may be NULL, is called once in this worker when the response is over: at its end, when it
 * was broken off, when the client has gone, when the time was over, or before `worker_stop`; not if this call
 * is refused. From then on `res` is freed.
 *
 * `res` may be the response given to `on_request`, which is then kept as by `prefork_response_later()`: `more`
 * is given another pointer. It may also be one that was kept, also if some of it was written.
 *
 * Returns PREFORK_OK; PREFORK_LATE (a whole body was set, or it has such a callback already, or it was kept),
 * PREFORK_GONE, PREFORK_NULL (also if `more` is NULL), and then `res` is as before.
 * Process: worker.
 * Pointers: Takes `res` if it was returned by `prefork_response_later()`, otherwise borrows it until return; borrows
 * `arg` until `done(arg)` returns.
 */
int prefork_response_stream(prefork_response *res,
                            int (*more)(prefork_response *res, void *arg),
                            void (*done)(void *arg),
                            void *arg);

/**
 * Has `gone(arg)` called once if the client leaves before the response has ended: when it has closed its side
 * or was reset, or has taken nothing for the setting `write-timeout`; and when the setting `response-timeout`
 * is over, or `on_request` has failed by a panic. It is called from the worker's loop, not within another
 * callback, and never after `prefork_response_end()`. A client that has closed only its sending side still
 * gets the response: end it as ever. A second call replaces the first. The end of a client that has sent more
 * than the kernel holds for it is not seen.
 *
 * Returns PREFORK_OK; PREFORK_STATE (`res` was not kept: while `on_request` runs, nobody looks), PREFORK_GONE,
 * PREFORK_LATE or PREFORK_NULL (also if `gone` is NULL), and then it is not called.
 * Process: worker.
 * Pointers: Borrows `res` until return, and `arg` until `gone(arg)` returns or the response is over.
 */
int prefork_response_on_gone(prefork_response *res, void (*gone)(void *arg), void *arg);

/**
 * Has another worker go on with a response that is kept if this one drains: then `give(res, buffer, room, arg)` is
 * called, and writes what `on_resume` needs there into `buffer`, which has `room` bytes (the setting `max-state`). It
 * returns the bytes used, maybe 0; or a negative number if the response stays, until this worker's deadline. More
 * than `room` is logged, and it stays.
 *
 * If it does not stay, it is over here: `res` is freed when `give` has returned, the callback of
 * `prefork_response_on_gone()` is not called, and `done` of `prefork_response_stream()` is. What was written and not
 * sent goes with it; a head that has not been sent is forgotten, and so is what was set of it. It stays, without a
 * call, if the client has sent another request behind it, and if the handler's `state_version` is 0. If `give` ends
 * it, it is finished here, whatever `give` returns. A second call replaces the first.
 *
 * Returns PREFORK_OK; PREFORK_STATE (`res` was not kept), PREFORK_GONE, PREFORK_LATE or PREFORK_NULL (also if `give`
 * is NULL), and then it is not called.
 * Process: worker.
 * Pointers: Borrows `res` until return, and `arg` until the response is over.
 */
int prefork_response_on_handover(prefork_response *res, ptrdiff_t (*give)(prefork_response *res,
                                                                                 void *buffer,
                                                                                 size_t room,
                                                                                 void *arg), void *arg);

/**
 * Answers 101 and makes the connection a stream, for which `on_open`, `on_data` and `on_close` are called.
 * Header fields added before or after go into the 101 (RFC 9110 section 7.8).
 *
 * A response that is kept can do so too: the 101 is sent when it ends.
 *
 * Returns PREFORK_OK, PREFORK_UPGRADE (the request's Upgrade field does not name `protocol`), PREFORK_STATE
 * (the handler has no `on_data`), PREFORK_LATE, PREFORK_GONE, PREFORK_INVALID or PREFORK_NULL.
 * Process: worker.
 * Pointers: Borrows `res` until return. Copies `protocol`, which is NUL-terminated.
 */
int prefork_response_upgrade(prefork_response *res, const char *protocol);

/**
 * As `prefork_response_upgrade()`, with a protocol of `protocol_len` bytes that is not NUL-terminated.
 *
 * Returns as `prefork_response_upgrade()`.
 * Process: worker.
 * Pointers: Borrows `res` until return. Copies `protocol_len` bytes at `protocol`.
 */
int prefork_response_upgrade_n(prefork_response *res, const char *protocol, size_t protocol_len);

/**
 * Gives the stream that this connection becomes its first `prefork_conn_user()`, for instance what the request was
 * about; call it after `prefork_response_upgrade()`. `release`, which may be NULL, is called with it once: after the
 * stream's `on_close`, or when it is certain that there will be no stream (the response has failed, the client has
 * gone). A second call replaces what the first one gave, which is released.
 *
 * Returns PREFORK_OK, or a status, and nothing is taken: PREFORK_UPGRADE (the response is none to an upgrade),
 * PREFORK_STATE or PREFORK_NULL.
 * Process: worker.
 * Pointers: Borrows `res` until return. Takes `user`, which may be NULL, until `release` is called.
 */
int prefork_response_set_user(prefork_response *res, void *user, void (*release)(void *user));


/* PARAMETERS OF THE QUERY, FORMS, COOKIES
 * -------------------------------------------------------------------------------------------------------- */

/**
 * The value of the first parameter of the query with this name, which is case-sensitive, decoded. The query is
 * `application/x-www-form-urlencoded`: `+` is a space, `%2B` a plus. A percent sign without two hexadecimal digits
 * behind it stands for itself; without `=` the value is empty.
 *
 * Returns a slice, borrowed until the callback returns; `data` is NULL if there is none.
 * Process: worker.
 * Pointers: Borrows `req` and `name` until return; `name` is NUL-terminated.
 */
prefork_slice prefork_request_query_get(const prefork_request *req, const char *name);

/**
 * As `prefork_request_query_get()`, of one of several with the same name; `index` counts them from 0 in the order
 * sent.
 *
 * Returns as `prefork_request_query_get()`; `data` is NULL if there are not that many.
 * Process: worker.
 * Pointers: Borrows `req` and `name` until return; `name` is NUL-terminated.
 */
prefork_slice prefork_request_query_nth(const prefork_request *req, const char *name, size_t index);

/**
 * The number of the parameters of the query.
 *
 * Returns the number, or 0 if `req` is NULL.
 * Process: worker.
 * Pointers: Borrows `req` until return.
 */
size_t prefork_request_query_count(const prefork_request *req);

/**
 * The name of a parameter of the query; `index` counts from 0 in the order sent.
 *
 * Returns a slice, borrowed until the callback returns; `data` is NULL if there are not that many.
 * Process: worker.
 * Pointers: Borrows `req` until return.
 */
prefork_slice prefork_request_query_name(const prefork_request *req, size_t index);

/**
 * The value of a parameter of the query, decoded; `index` counts from 0 in the order sent.
 *
 * Returns a slice, borrowed until the callback returns; `data` is NULL if there are not that many.
 * Process: worker.
 * Pointers: Borrows `req` until return.
 */
prefork_slice prefork_request_query_value(const prefork_request *req, size_t index);

/**
 * The value of the first field of a form with this name, which is case-sensitive, decoded. The body must be whole
 * (`on_request`), and its Content-Type `application/x-www-form-urlencoded`, which is decoded as a query is;
 * `prefork_request_part()` is for forms with files.
 *
 * Returns a slice, borrowed until the callback returns; `data` is NULL if there is none.
 * Process: worker.
 * Pointers: Borrows `req` and `name` until return; `name` is NUL-terminated.
 */
prefork_slice prefork_request_form_get(const prefork_request *req, const char *name);

/**
 * As `prefork_request_form_get()`, of one of several with the same name; `index` counts them from 0 in the order sent.
 *
 * Returns as `prefork_request_form_get()`; `data` is NULL if there are not that many.
 * Process: worker.
 * Pointers: Borrows `req` and `name` until return; `name` is NUL-terminated.
 */
prefork_slice prefork_request_form_nth(const prefork_request *req, const char *name, size_t index);

/**
 * The number of the fields of a form.
 *
 * Returns the number, or 0 if `req` is NULL.
 * Process: worker.
 * Pointers: Borrows `req` until return.
 */
size_t prefork_request_form_count(const prefork_request *req);

/**
 * The name of a field of a form; `index` counts from 0 in the order sent.
 *
 * Returns a slice, borrowed until the callback returns; `data` is NULL if there are not that many.
 * Process: worker.
 * Pointers: Borrows `req` until return.
 */
prefork_slice prefork_request_form_name(const prefork_request *req, size_t index);

/**
 * The value of a field of a form, decoded; `index` counts from 0 in the order sent.
 *
 * Returns a slice, borrowed until the callback returns; `data` is NULL if there are not that many.
 * Process: worker.
 * Pointers: Borrows `req` until return.
 */
prefork_slice prefork_request_form_value(const prefork_request *req, size_t index);

/**
 * The value of the first cookie with this name, which is case-sensitive, decoded. Names are as sent. Of values percent
 * signs are decoded, and quotes around them are dropped (RFC 6265 section 4.1.1); what has no `=` is no cookie.
 *
 * Returns a slice, borrowed until the callback returns; `data` is NULL if there is none.
 * Process: worker.
 * Pointers: Borrows `req` and `name` until return; `name` is NUL-terminated.
 */
prefork_slice prefork_request_cookie_get(const prefork_request *req, const char *name);

/**
 * As `prefork_request_cookie_get()`, of one of several with the same name; `index` counts them from 0 in the order
 * sent.
 *
 * Returns as `prefork_request_cookie_get()`; `data` is NULL if there are not that many.
 * Process: worker.
 * Pointers: Borrows `req` and `name` until return; `name` is NUL-terminated.
 */
prefork_slice prefork_request_cookie_nth(const prefork_request *req, const char *name, size_t index);

/**
 * The number of the cookies.
 *
 * Returns the number, or 0 if `req` is NULL.
 * Process: worker.
 * Pointers: Borrows `req` until return.
 */
size_t prefork_request_cookie_count(const prefork_request *req);

/**
 * The name of a cookie; `index` counts from 0 in the order sent.
 *
 * Returns a slice, borrowed until the callback returns; `data` is NULL if there are not that many.
 * Process: worker.
 * Pointers: Borrows `req` until return.
 */
prefork_slice prefork_request_cookie_name(const prefork_request *req, size_t index);

/**
 * The value of a cookie, decoded; `index` counts from 0 in the order sent.
 *
 * Returns a slice, borrowed until the callback returns; `data` is NULL if there are not that many.
 * Process: worker.
 * Pointers: Borrows `req` until return.
 */
prefork_slice prefork_request_cookie_value(const prefork_request *req, size_t index);


/* FORMS WITH FILES
 * -------------------------------------------------------------------------------------------------------- */

/** What `prefork_multipart_next()` has found. */
typedef enum prefork_part_event {
    /** A part begins: its name, the name of its file and its content type are filled in. */
    PREFORK_PART_BEGIN = 1,
    /** Bytes of that part: `data` is filled in, and not empty. */
    PREFORK_PART_DATA = 2,
    /** That part is complete. */
    PREFORK_PART_END = 3,
} prefork_part_event;

/** A reader of a form that comes in pieces. */
typedef struct prefork_multipart prefork_multipart;

/** A part of a form: a field, or a file. Later versions may add members at the end. */
typedef struct prefork_part {
    /** The size of this struct: set it before the call; afterwards the size that was filled in. */
    uint32_t size;
    /** The name of the field. */
    prefork_slice name;
    /**
     * The name of the file, as the client gave it: not to be used as a path, and with `%22` for a quote from browsers.
     * `data` is NULL if the part is no file.
     */
    prefork_slice filename;
    /** The content type; `data` is NULL if the client gave none, which means text. */
    prefork_slice content_type;
    /** The bytes. */
    prefork_slice data;
} prefork_part;

/**
 * One of the parts of a form with files (`multipart/form-data`, RFC 7578) whose body is whole, in `on_request`;
 * `index` counts from 0 in the order sent:
 *
 *     prefork_part part;
 *     part.size = sizeof part;
 *     for (size_t i = 0; prefork_request_part(req, i, &part) == PREFORK_OK; i++)
 *         printf("%.*s: %zu bytes\n", (int)part.name.len, part.name.data, part.data.len);
 *
 * Returns PREFORK_OK; PREFORK_GONE if there are not that many; PREFORK_INVALID if the body is no such form, or is
 * malformed, or if `part->size` is not set; PREFORK_NULL.
 * Process: worker.
 * Pointers: Borrows `req` until return, and `part`, of which `part->size` bytes are filled in. Its slices are
 * borrowed until the callback returns.
 */
int prefork_request_part(const prefork_request *req, size_t index, prefork_part *part);

/**
 * Creates a reader for a form with files (`multipart/form-data`) that `on_body` gets in pieces; call it in `on_head`.
 * It keeps at most 16 KiB of a piece that has been read. In `on_body`:
 *
 *     prefork_part part;
 *     part.size = sizeof part;
 *     int event = prefork_multipart_feed(form, data, size);
 *     while (event >= 0 && (event = prefork_multipart_next(form, &part)) > 0) {
 *         if (event == PREFORK_PART_BEGIN) ...     // part.name, part.filename, part.content_type
 *         else if (event == PREFORK_PART_DATA) ... // part.data
 *     }
 *     if (last && event != PREFORK_OK) ...         // malformed, or not complete
 *
 * Returns a new reader (creates: free it with `prefork_multipart_free()`); NULL if the content type of the request is
 * not `multipart/form-data` with a boundary, or if `req` is NULL.
 * Process: worker.
 * Pointers: Borrows `req` until return.
 */
prefork_multipart *prefork_multipart_new(const prefork_request *req);

/**
 * Gives a reader the next piece of the body.
 *
 * Returns PREFORK_OK, PREFORK_INVALID or PREFORK_NULL.
 * Process: worker.
 * Pointers: Borrows `form` until return. Copies `size` bytes at `data`, which may be NULL if `size` is 0.
 */
int prefork_multipart_feed(prefork_multipart *form, const void *data, size_t size);

/**
 * The next of what was given to a reader. The slices that do not belong to the event have `data` = NULL.
 *
 * Returns one of `enum prefork_part_event`, which are positive; PREFORK_AGAIN if the next piece is needed; PREFORK_OK
 * when the last part has ended; PREFORK_INVALID if the form is malformed, or if `part->size` is not set;
 * PREFORK_NULL.
 * Process: worker.
 * Pointers: Borrows `form` until return, and `part`, of which `part->size` bytes are filled in. Its slices are
 * borrowed until the next call with `form`.
 */
int prefork_multipart_next(prefork_multipart *form, prefork_part *part);

/**
 * Frees a reader. Does nothing if `form` is NULL, and in another thread than the worker's first.
 *
 * Process: worker.
 * Pointers: Takes `form`: no other call with it after this one.
 */
void prefork_multipart_free(prefork_multipart *form);


/* FILES AS ANSWERS
 * -------------------------------------------------------------------------------------------------------- */

/**
 * The content type for a file by the extension of its name, whatever its case: `text/html; charset=utf-8` for
 * `x.html`.
 *
 * Returns a static string; `application/octet-stream` for what is not known, and if `path` is NULL.
 * Process: any, in any thread.
 * Pointers: Borrows `path`, which is NUL-terminated, until return.
 */
const char *prefork_content_type(const char *path);

/**
 * As `prefork_content_type()`, with a path of `len` bytes that is not NUL-terminated, for instance that of a request.
 *
 * Returns as `prefork_content_type()`.
 * Process: any, in any thread.
 * Pointers: Borrows `len` bytes at `path` until return.
 */
const char *prefork_content_type_n(const char *path, size_t len);

/**
 * Answers a request with a file. Everything is set: the status, Content-Type by the extension of the path unless it
 * was set before, Last-Modified, ETag (of the size, the time in nanoseconds and the inode; weak within a second of
 * the last change) and Accept-Ranges. The conditions of the request are evaluated: If-Match, If-None-Match,
 * If-Modified-Since, If-Unmodified-Since and If-Range (RFC 9110 section 13). One range is sent as such; several
 * ranges are answered with the whole file, as section 14.2 permits. The bytes are sent by sendfile(2).
 *
 * The path is trusted, and symbolic links are followed; for a path from a request there is
 * `prefork_response_send_below()`. A file of any other kind, a folder or a FIFO, is not waited for and is a 404.
 *
 * Returns the status code that it has set: 200, 206 (a range), 304 (the client has this version), 403 (it may not be
 * read), 404, 405 (the method is neither GET nor HEAD), 412 (the client wants another version), 416 (it does not have
 * that range), 503 (no descriptor or memory is left) or 500 (any other reason); with 400 and more there is no body,
 * and the handler may set one. Or PREFORK_LATE, PREFORK_GONE, PREFORK_FULL or PREFORK_NULL, as
 * `prefork_response_body()` and `prefork_response_header()`.
 * Process: worker.
 * Pointers: Borrows `req`, `res`, and `path`, which is NUL-terminated, until return.
 */
int prefork_response_send_file(const prefork_request *req, prefork_response *res, const char *path);

/**
 * As `prefork_response_send_file()`, with the file below the folder `root` that a path of a request names:
 *
 *     prefork_response_send_below(req, res, "/srv/www", prefork_request_path(req));
 *
 * or what is left of that behind a prefix of yours. It is percent-decoded here; a `/` at its start is dropped. Nothing
 * outside of `root` is sent: 404 for a path with an empty name, `.` or `..`, a NUL or an encoded `/` in it, so that
 * each file has one path, and for symbolic links that lead out of `root` or are absolute (openat2(2),
 * RESOLVE_BENEATH; if a filter refuses that call, no link below `root` is followed). Names that begin with a dot are
 * names as others.
 *
 * Returns as `prefork_response_send_file()`.
 * Process: worker.
 * Pointers: Borrows `req`, `res`, `root`, which is NUL-terminated, and the bytes of `path` until return.
 */
int prefork_response_send_below(const prefork_request *req,
                                prefork_response *res,
                                const char *root,
                                prefork_slice path);


/* CONNECTIONS: blocking style and streams
 * -------------------------------------------------------------------------------------------------------- */

/**
 * A connection whose bytes the handler reads and writes itself: in blocking style (`on_connection`), in which
 * reading and writing wait, or as a stream (`on_open`, `on_data`, `on_close`), in which they never wait. It
 * is valid until `on_connection` or `on_close` returns; then it is closed, and its memory may serve the next
 * connection: keep `prefork_conn_id()`, and find the connection with `prefork_conn_find()`.
 *
 * A stream may be read, written and closed in any callback of its worker, not only in its own. What is written
 * in a turn of the worker's loop leaves at the end of that turn.
 */
typedef struct prefork_conn prefork_conn;

/**
 * Reads at least one byte and at most `size`. In blocking style it waits, up to the setting `header-timeout`
 * for the first read and `body-timeout` for others; a stream returns what has arrived.
 *
 * Returns the number of bytes; 0 if the client has ended its side; or a negative status: PREFORK_AGAIN (in a
 * stream: no more has arrived), PREFORK_TIMEOUT (in blocking style), PREFORK_GONE, PREFORK_SYSTEM,
 * PREFORK_INVALID (`size` is 0), PREFORK_NULL.
 * Process: worker.
 * Pointers: Borrows `conn`, and `size` writable bytes at `buf`, until return.
 */
ptrdiff_t prefork_conn_read(prefork_conn *conn, void *buf, size_t size);

/**
 * Writes `size` bytes. In blocking style it waits until the client has taken all of them, up to the setting
 * `write-timeout` between two steps; a stream keeps what the client does not take yet, up to the setting
 * `max-pending`. While more than half of that waits, nothing more of this client is read.
 *
 * Returns `size`, or a negative status: PREFORK_FULL (in a stream: too much is kept; none of these bytes was
 * taken. `on_writable` is called when there is room; leave unconsumed what is not answered yet, then `on_data`
 * is called again too), PREFORK_TOO_LARGE (in a stream: these are more than `max-pending`, and are never taken),
 * PREFORK_TIMEOUT (the client has taken nothing for that time; it may have received some of these bytes, and its
 * connection is reset when `on_connection` returns), PREFORK_GONE, PREFORK_SYSTEM, PREFORK_INVALID, PREFORK_NULL.
 * Process: worker.
 * Pointers: Borrows `conn` until return. Copies `size` bytes at `data`, which may be NULL if `size` is 0.
 */
ptrdiff_t prefork_conn_write(prefork_conn *conn, const void *data, size_t size);

/**
 * In blocking style: the longest time that a read of this connection waits, in milliseconds, in place of the settings
 * `header-timeout` and `body-timeout`; from the next call on. 0 is forever, -1 as the settings say.
 *
 * Returns PREFORK_OK, PREFORK_STATE (in a stream, whose calls never wait), PREFORK_INVALID or PREFORK_NULL.
 * Process: worker.
 * Pointers: Borrows `conn` until return.
 */
int prefork_conn_set_read_timeout(prefork_conn *conn, int64_t milliseconds);

/**
 * In blocking style: the longest time that a write to this connection waits without the client taking a byte, in
 * milliseconds, in place of the setting `write-timeout`; from the next call on. 0 is forever, -1 as the setting says.
 *
 * Returns as `prefork_conn_set_read_timeout()`.
 * Process: worker.
 * Pointers: Borrows `conn` until return.
 */
int prefork_conn_set_write_timeout(prefork_conn *conn, int64_t milliseconds);

/**
 * In blocking style: the time from now, in milliseconds, after which every read and write of this connection fails
 * with PREFORK_TIMEOUT, whatever the other times are, and however steadily a client sends a byte now and then. -1 is
 * never, as at first.
 *
 * Returns as `prefork_conn_set_read_timeout()`.
 * Process: worker.
 * Pointers: Borrows `conn` until return.
 */
int prefork_conn_set_deadline(prefork_conn *conn, int64_t milliseconds);

/**
 * In a stream: the bytes that have arrived and were not consumed. Used with `prefork_conn_consume()`, it saves
 * the copy that `prefork_conn_read()` makes. What is left when `on_data` returns is there again at its next
 * call, followed by what has arrived since. That call comes when more arrives, or, if there was no room to
 * write, as soon as there is. The connection is cut if more than the setting `max-body` arrives
 * and none of it is consumed.
 *
 * Returns a slice, borrowed until the callback returns or calls `prefork_conn_read()` or
 * `prefork_conn_consume()`; `data` is NULL in blocking style.
 * Process: worker.
 * Pointers: Borrows `conn` until return.
 */
prefork_slice prefork_conn_data(const prefork_conn *conn);

/**
 * In a stream: drops the first `size` bytes of `prefork_conn_data()`, or all if there are fewer.
 *
 * Returns PREFORK_OK, PREFORK_STATE (in blocking style), PREFORK_GONE (in `on_close`) or PREFORK_NULL.
 * Process: worker.
 * Pointers: Borrows `conn` until return. Ends the loan of `prefork_conn_data()`.
 */
int prefork_conn_consume(prefork_conn *conn, size_t size);

/**
 * In a stream: true if the client has ended its side; `prefork_conn_data()` then has the last bytes. You may
 * still write; the connection closes once that is sent, unless `prefork_conn_set_half_open()` was called.
 *
 * Returns 1 or 0; PREFORK_STATE (in blocking style) or PREFORK_NULL.
 * Process: worker.
 * Pointers: Borrows `conn` until return.
 */
int prefork_conn_at_end(const prefork_conn *conn);

/**
 * In a stream: says whether prefork reads what the client sends (1, the default) or not (0). Until it reads again, the
 * client's bytes wait with the client, and its end is not seen; for handlers that cannot take more yet, such as a
 * proxy's. What was read before stays in `prefork_conn_data()`, and `on_data` is called when there is more.
 *
 * Returns PREFORK_OK, PREFORK_STATE (in blocking style), PREFORK_GONE (in `on_close`) or PREFORK_NULL.
 * Process: worker.
 * Pointers: Borrows `conn` until return.
 */
int prefork_conn_set_reading(prefork_conn *conn, int reading);

/**
 * In a stream: says whether the connection stays open (1) when the client has ended its side and all that was written
 * is sent, until `prefork_conn_close()` or a deadline; for handlers whose answer comes later, such as a proxy's. By
 * default (0) it closes then.
 *
 * Returns PREFORK_OK, PREFORK_STATE (in blocking style), PREFORK_GONE (in `on_close`) or PREFORK_NULL.
 * Process: worker.
 * Pointers: Borrows `conn` until return.
 */
int prefork_conn_set_half_open(prefork_conn *conn, int half_open);

/**
 * In a stream: closes the connection once all that was written has been sent, in whichever callback of its
 * worker this is called. `on_close` is called at the end of the turn or later, never within this call. To close it
 * again does nothing. In blocking style the connection closes when `on_connection` returns.
 *
 * Returns PREFORK_OK, PREFORK_STATE (in blocking style) or PREFORK_NULL.
 * Process: worker.
 * Pointers: Borrows `conn` until return; it stays usable until `on_close` returns.
 */
int prefork_conn_close(prefork_conn *conn);

/**
 * In a stream: has the worker with the id `worker` go on with it, for instance one that has all others of a room.
 * 0 is the worker that prefork chooses, as when this one drains: for a stream that has stayed then, and can go now.
 * At the end of the turn `on_handover` is called for it. If that returns a negative number, or there is none, it
 * stays; if there is no such worker, or it refuses the stream or has no room, it comes back by `on_takeover`.
 *
 * Returns PREFORK_OK, PREFORK_STATE (in blocking style), PREFORK_GONE (in `on_close`), PREFORK_INVALID (`worker` is
 * this worker) or PREFORK_NULL.
 * Process: worker.
 * Pointers: Borrows `conn` until return.
 */
int prefork_conn_transfer(prefork_conn *conn, uint32_t worker);

/**
 * In a stream: the number of bytes that were written and that the kernel has not taken yet, at most the setting
 * `max-pending`; 0 in blocking style.
 *
 * Returns the number, or 0 if `conn` is NULL.
 * Process: worker.
 * Pointers: Borrows `conn` until return.
 */
size_t prefork_conn_pending(const prefork_conn *conn);

/**
 * In a stream: the number of bytes that `prefork_conn_write()` would take now; 0 in blocking style, and if nothing can
 * be written any more.
 *
 * Returns the number, or 0 if `conn` is NULL.
 * Process: worker.
 * Pointers: Borrows `conn` until return.
 */
size_t prefork_conn_room(const prefork_conn *conn);

/**
 * The number of the connection, from 1; no other connection of this worker has it, now or later. With it
 * `prefork_conn_find()` finds the connection as long as it is there.
 *
 * Returns the number, or 0 if `conn` is NULL.
 * Process: worker.
 * Pointers: Borrows `conn` until return.
 */
uint64_t prefork_conn_id(const prefork_conn *conn);

/**
 * The index of the listener that accepted the connection, from 0, in the order of the addresses.
 *
 * Returns the index, or 0 if `conn` is NULL.
 * Process: worker.
 * Pointers: Borrows `conn` until return.
 */
uint32_t prefork_conn_listener(const prefork_conn *conn);

/**
 * The client's address: `192.0.2.1:4711`, `[2001:db8::1]:4711`, `unix:`, or `unix:/path` if the client has bound
 * its socket. The first call asks the kernel (getpeername(2)); empty if the client is gone by then.
 * Control characters and backslashes of a path, and bytes that are not UTF-8, are given as `\xNN`.
 *
 * Returns a slice, borrowed until the callback returns.
 * Process: worker.
 * Pointers: Borrows `conn` until return.
 */
prefork_slice prefork_conn_peer(const prefork_conn *conn);

/**
 * The connection's socket, for socket options and the like, and in blocking style for TLS: there it is a
 * blocking socket that may be read and written directly, without prefork's deadlines. A stream's socket must
 * not be read or written.
 *
 * Returns the descriptor, which stays prefork's (do not close it), or PREFORK_NULL.
 * Process: worker.
 * Pointers: Borrows `conn` until return.
 */
int prefork_conn_fd(const prefork_conn *conn);

/**
 * The handler's own pointer for this connection, set by `prefork_conn_set_user()`.
 *
 * Returns the pointer; NULL if it was not set.
 * Process: worker.
 * Pointers: Borrows `conn` until return.
 */
void *prefork_conn_user(prefork_conn *conn);

/**
 * Sets the handler's own pointer for this connection. prefork does not free what it points to: do so in
 * `on_close`.
 *
 * Returns PREFORK_OK or PREFORK_NULL.
 * Process: worker.
 * Pointers: Borrows `conn` until return, and `user`, which may be NULL, until `on_close` returns.
 */
int prefork_conn_set_user(prefork_conn *conn, void *user);


/* THE WORKER
 * -------------------------------------------------------------------------------------------------------- */

/** The master, as the receiver or the sender of a message. */
#define PREFORK_TO_MASTER 0

/** All workers, as the receivers of a message, except the worker that sends it. */
#define PREFORK_TO_ALL 4294967295

/** The state of a worker. */
typedef enum prefork_worker_state {
    /** It was forked and is not ready. */
    PREFORK_WORKER_STARTING = 1,
    /** It serves. */
    PREFORK_WORKER_READY = 2,
    /** It is ready, but has stopped taking its connections. Only the master knows. */
    PREFORK_WORKER_STUCK = 3,
    /** It finishes what it has. */
    PREFORK_WORKER_DRAINING = 4,
    /** SIGKILL was sent to it. */
    PREFORK_WORKER_KILLED = 5,
} prefork_worker_state;

/** The role of a process. */
typedef enum prefork_role_type {
    /** No role: no server runs here, or the host or a handler has forked this process itself. */
    PREFORK_ROLE_NONE = 0,
    /** The master of a server. */
    PREFORK_ROLE_MASTER = 1,
    /** A worker. */
    PREFORK_ROLE_WORKER = 2,
} prefork_role_type;

/**
 * The worker process in which a callback runs, given to callbacks and returned by `prefork_worker_self()`. It
 * is always the same pointer, valid as long as the process lives.
 */
typedef struct prefork_worker prefork_worker;

/**
 * A worker that has not been reaped, as the master sees it (`prefork_server_worker()`) or as it sees itself
 * (`prefork_worker_info()`). Later versions may add members at the end.
 */
typedef struct prefork_worker_status {
    /** The size of this struct: set it before the call; afterwards the size that was filled in. */
    uint32_t size;
    /** Its number; no other worker of this server has it. */
    uint32_t id;
    /** Its slot, from 0. */
    uint32_t slot;
    /** Its generation, from 1. */
    uint32_t generation;
    /** Its process id. */
    int32_t pid;
    /** Its state: one of `enum prefork_worker_state`. */
    uint32_t state;
    /** 1 if it gets connections, or will when it is ready, else 0 (Node: `isConnected`). */
    uint32_t connected;
    /** Connections in flight: given to it and not finished. */
    uint32_t in_flight;
    /** Those of them that it has not taken yet. Only the master knows. */
    uint32_t queued;
    /**
     * The number of the last worker that ended in this slot, or 0 if none has ended; in a worker: as
     * of its fork. The four members below are 0 if this is 0.
     */
    uint32_t last_id;
    /** Its exit code; -1 if a signal ended it. */
    int32_t last_code;
    /** The signal that ended it, or 0. */
    int32_t last_signal;
    /** The reason: one of `enum prefork_reason`. */
    uint32_t last_reason;
    /** 1 if the master wanted it to end, else 0 (Node: `exitedAfterDisconnect`). */
    uint32_t last_intended;
    /** Milliseconds since this worker's fork, by the monotonic clock. */
    uint64_t age_ms;
    /** Requests answered; in blocking style, connections served. */
    uint64_t requests;
    /**
     * Requests that prefork refused, or whose handler failed: an error or a panic, a deadline, a body that was cut.
     * Statuses that a handler chose are not counted, whatever they are.
     */
    uint64_t errors;
    /** Bytes from clients. */
    uint64_t bytes_in;
    /** Bytes to clients. */
    uint64_t bytes_out;
    /** The time of its fork: milliseconds since 1970, by the wall clock at that time. */
    uint64_t started_ms;
    /**
     * Connections of those in flight that were between two requests when the worker last waited for events: they
     * are closed if there is no other room for new clients.
     */
    uint64_t idle;
    /** Publications that one of its streams did not get, as its client was too slow (`prefork_conn_set_slow()`). */
    uint64_t skipped;
    /** Connections of those in flight that are streams or upgraded. */
    uint64_t streams;
    /** Connections of those in flight whose response the handler keeps (`prefork_response_later()`). */
    uint64_t kept_responses;
    /** Milliseconds in which it has to end; 0 unless it finishes, or if there is no limit. Known to the master only. */
    uint64_t within_ms;
} prefork_worker_status;

/**
 * Gets the reply to a request, or the reason why there is none: `status` is PREFORK_OK, or PREFORK_TIMEOUT (no
 * reply before the deadline), PREFORK_GONE (there is no such worker, it has ended, or this worker ends),
 * PREFORK_UNANSWERED, or PREFORK_FULL (too much waits for the receiver). The bytes are borrowed until it
 * returns.
 */
typedef void (*prefork_on_worker_reply)(prefork_worker *worker,
                                        int status,
                                        const void *data,
                                        size_t size,
                                        void *arg);

/**
 * The role of this process. A worker has its numbers also in the environment: `PREFORK_WORKER_ID`,
 * `PREFORK_SLOT`, `PREFORK_GENERATION`.
 *
 * Returns one of `enum prefork_role_type`, and fills in a worker's number, slot and generation; in other
 * processes they are 0.
 * Process: any, in any thread.
 * Pointers: Borrows `id`, `slot` and `generation`, each of which may be NULL, until return.
 */
uint32_t prefork_role(uint32_t *id, uint32_t *slot, uint32_t *generation);

/**
 * The worker that this process is, for callbacks that are not given it.
 *
 * Returns the worker, borrowed as long as the process lives; NULL if this process is not a worker, or the
 * calling thread is not its first.
 * Process: any.
 */
prefork_worker *prefork_worker_self(void);

/**
 * True while this worker drains and other workers stay, which go on with the streams that it hands over
 * (`on_handover`). False if it does not drain; and if the server stops, or its master is gone: then its streams are to
 * be ended here. That may begin while it drains.
 *
 * Returns 1 or 0; 0 if `worker` is NULL, and in another thread than the first.
 * Process: worker.
 * Pointers: Borrows `worker` until return.
 */
int prefork_worker_hands_over(const prefork_worker *worker);

/**
 * Makes this worker leave: it gets no more connections, another worker takes its place, and when it has
 * finished what it has (`on_drain`, `worker_stop`) it exits with code 0. A worker that leaves soon after its
 * start is replaced with a delay.
 *
 * Returns PREFORK_OK at once; PREFORK_STATE if this process is not a worker; PREFORK_NULL.
 * Process: worker.
 * Pointers: Borrows `worker` until return.
 */
int prefork_worker_leave(prefork_worker *worker);

/**
 * The number of this worker, from 1; no other worker of this server has it.
 *
 * Returns the number, or 0 if `worker` is NULL.
 * Process: worker, in any thread.
 * Pointers: Borrows `worker` until return.
 */
uint32_t prefork_worker_id(const prefork_worker *worker);

/**
 * The slot of this worker, from 0 to the number of workers less one. The worker that replaces it has the same.
 *
 * Returns the slot, or 0 if `worker` is NULL.
 * Process: worker, in any thread.
 * Pointers: Borrows `worker` until return.
 */
uint32_t prefork_worker_slot(const prefork_worker *worker);

/**
 * The generation of this worker: 1 from the start, one more with each reload.
 *
 * Returns the generation, or 0 if `worker` is NULL.
 * Process: worker, in any thread.
 * Pointers: Borrows `worker` until return.
 */
uint32_t prefork_worker_generation(const prefork_worker *worker);

/**
 * True if the callback that is running, or was the last to run, has taken longer than the setting `timeout`.
 * Such a worker gets no more connections, others get those queued for it, and it is aborted one second after
 * the limit. A long callback can call this now and then and return in time: then its client is answered, and
 * the worker continues to serve.
 *
 * Returns 1 or 0, or PREFORK_NULL.
 * Process: worker, in any thread and in signal handlers.
 * Pointers: Borrows `worker` until return.
 */
int prefork_worker_overdue(const prefork_worker *worker);

/**
 * Fills in the status of this worker.
 *
 * Returns PREFORK_OK; PREFORK_INVALID if `info->size` is not set; PREFORK_NULL.
 * Process: worker.
 * Pointers: Borrows `worker`, and `info->size` writable bytes at `info`, until return.
 */
int prefork_worker_info(const prefork_worker *worker, prefork_worker_status *info);

/**
 * The number of the handler's arguments: those after the handler on the command line, or those of
 * `prefork_server_args()`.
 *
 * Returns the number, or 0 if `worker` is NULL.
 * Process: worker, in any thread.
 * Pointers: Borrows `worker` until return.
 */
size_t prefork_worker_arg_count(const prefork_worker *worker);

/**
 * One of the handler's arguments; `index` counts from 0.
 *
 * Returns a NUL-terminated string, borrowed as long as the worker lives, or NULL if `index` is
 * `prefork_worker_arg_count()` or more.
 * Process: worker, in any thread.
 * Pointers: Borrows `worker` until return.
 */
const char *prefork_worker_arg(const prefork_worker *worker, size_t index);

/**
 * Sends a message to another worker (its id), to the master (PREFORK_TO_MASTER), or to all other workers
 * (PREFORK_TO_ALL). The meaning of `type` is yours to choose. A worker gets it in `on_message`, the master in
 * the callback of `prefork_server_on_message()`.
 *
 * Never waits: what cannot be sent at once is sent after the callback has returned. Messages from one process
 * to another arrive in the order they were sent. A message to a worker that has ended is lost without notice,
 * unlike a request.
 *
 * Returns PREFORK_OK; PREFORK_TOO_LARGE over the setting `max-message`; PREFORK_FULL if four messages of
 * that size wait already, here or for the receiver; PREFORK_GONE if the master is gone; PREFORK_INVALID or
 * PREFORK_NULL.
 * Process: worker.
 * Pointers: Borrows `worker` until return. Copies `size` bytes at `data`, which may be NULL if `size` is 0.
 */
int prefork_worker_send(prefork_worker *worker, uint32_t to, uint32_t type, const void *data, size_t size);

/**
 * Sends a message and asks for a reply. If this returns PREFORK_OK, `on_reply` is called exactly once, after
 * the current callback has returned, and at the latest after `deadline_ms` milliseconds (0: no deadline).
 *
 * Returns as `prefork_worker_send()`; PREFORK_STATE if `to` is PREFORK_TO_ALL; PREFORK_NULL also if `on_reply` is
 * NULL.
 * Process: worker.
 * Pointers: Borrows `worker` until return, and `arg`, which may be NULL, until `on_reply` returns. Copies `size`
 * bytes at `data`, which may be NULL if `size` is 0.
 */
int prefork_worker_request(prefork_worker *worker,
                           uint32_t to,
                           uint32_t type,
                           const void *data,
                           size_t size,
                           uint32_t deadline_ms,
                           prefork_on_worker_reply on_reply,
                           void *arg);

/**
 * Answers the request for which `on_message` is being called, once. If `on_message` returns without a reply,
 * the sender gets PREFORK_UNANSWERED.
 *
 * Returns as `prefork_worker_send()`; PREFORK_STATE if no request is being handled, or it has its reply.
 * Process: worker.
 * Pointers: Borrows `worker` until return. Copies `size` bytes at `data`, which may be NULL if `size` is 0.
 */
int prefork_worker_reply(prefork_worker *worker, const void *data, size_t size);

/**
 * The name of a listener, by its index from 0 in the order of the settings, as `prefork_conn_listener()` and
 * `prefork_request_listener()` give it.
 *
 * Returns the name, which lives as long as the process; empty if it has none; NULL if there is no such listener, or
 * `worker` is NULL.
 * Process: worker.
 * Pointers: Borrows `worker` until return.
 */
const char *prefork_worker_listener_name(const prefork_worker *worker, uint32_t index);


/* TIMERS, DESCRIPTORS OF YOUR OWN, THREADS
 * -------------------------------------------------------------------------------------------------------- */

/** What a descriptor is watched for, and what it is ready for: one of these or both, `PREFORK_READ | PREFORK_WRITE`. */
typedef enum prefork_watch_event {
    /** A read will not wait: there is something to read, the end, or an error. */
    PREFORK_READ = 1,
    /** A write will not wait: there is room, or an error. */
    PREFORK_WRITE = 2,
} prefork_watch_event;

/** Called in the worker's first thread, between other callbacks, with the `arg` that was given with it. */
typedef void (*prefork_on_wakeup)(prefork_worker *worker, void *arg);

/**
 * Called when a watched descriptor is ready. `events` has those of the events asked for that have come. A hang-up or an
 * error of the descriptor is reported as all that was asked for.
 */
typedef void (*prefork_on_ready)(prefork_worker *worker, int fd, int events, void *arg);

/**
 * Starts a timer: `fire` is called once in `after_ms` milliseconds, and then, unless `every_ms` is 0, every
 * `every_ms` milliseconds until `prefork_timer_stop()`. Times are of the monotonic clock, and no call comes
 * early. After 0 ms it is called in the next turn of the worker's loop. A call that comes late does not delay
 * the next one; times that have passed meanwhile are skipped.
 *
 * Timers cost no descriptor, and any number may wait. In blocking style they are called between two
 * connections. One that is started in `worker_start` is called when the worker serves. A worker that drains
 * goes on calling them, but does not wait for them: those that are left when it has finished its last
 * connection are forgotten, before `worker_stop`; then nothing is called.
 *
 * Returns the timer's number, which no other timer of this worker gets; 0 if it was refused: `worker` or
 * `fire` is NULL, in another thread than the first, in another process, or in `worker_stop`.
 * Process: worker.
 * Pointers: Borrows `worker` until return, and `arg`, which may be NULL, until the last call of `fire`, or until the
 * timer is stopped.
 */
uint64_t prefork_timer_start(prefork_worker *worker,
                             uint64_t after_ms,
                             uint64_t every_ms,
                             prefork_on_wakeup fire,
                             void *arg);

/**
 * Stops a timer, which may be the one that is being called, or one that is due: it is not called again.
 *
 * Returns PREFORK_OK; PREFORK_GONE if there is no such timer, any more or at all: it has been called for the
 * last time, or was stopped; PREFORK_STATE; PREFORK_NULL.
 * Process: worker.
 * Pointers: Borrows `worker` until return.
 */
int prefork_timer_stop(prefork_worker *worker, uint64_t timer);

/**
 * Has `ready` called whenever a descriptor of yours is ready, as long as it is (level-triggered): a socket of a
 * client library, a pipe, a timerfd. For a descriptor that is watched already, changes `events`, `ready` and
 * `arg`. In blocking style descriptors are looked at between two connections.
 *
 * The descriptor stays yours, and should be non-blocking. It may be closed at any time, best after
 * `prefork_unwatch()`: `ready` is not called of a closed descriptor, whatever its number stands for
 * afterwards, and also if a duplicate is left (dup, or in a process that was forked). A worker that drains
 * goes on with its watches, but does not wait for them; they end before `worker_stop`, and nothing is called.
 *
 * Returns PREFORK_OK; PREFORK_INVALID if `fd` is not open, or is a regular file or a directory, which are always
 * ready (epoll_ctl(2), EPERM), or if `events` is 0 or has other bits; PREFORK_SYSTEM if the kernel lacks memory
 * or this process a descriptor; PREFORK_STATE, also in `worker_stop`; PREFORK_NULL.
 * Process: worker.
 * Pointers: Borrows `worker` until return, and `arg`, which may be NULL, until the watch is changed or ends.
 */
int prefork_watch(prefork_worker *worker, int fd, int events, prefork_on_ready ready, void *arg);

/**
 * Stops watching a descriptor, also the one of which `ready` is being called, and also a closed one.
 *
 * Returns PREFORK_OK; PREFORK_GONE if it is not watched, or not any more because it was found closed;
 * PREFORK_STATE; PREFORK_NULL.
 * Process: worker.
 * Pointers: Borrows `worker` until return.
 */
int prefork_unwatch(prefork_worker *worker, int fd);

/**
 * Has `run` called in the worker's first thread, between other callbacks; in blocking style between two
 * connections. It is how a thread that the handler has started gives a result to the first, which alone may call
 * the other functions of this header. Never waits.
 *
 * Functions are called in the order in which they were given; one that is given while another runs is called in
 * a later turn of the worker's loop. Those given until the worker has finished its last connection are all
 * called, before `worker_stop`; the worker does not wait for later ones, which are refused.
 *
 * Returns PREFORK_OK, and then `run` is called exactly once, unless the worker is killed; PREFORK_GONE if the
 * worker has finished its last connection; PREFORK_STATE in another process; PREFORK_NULL.
 * Process: worker, in any thread, but not in signal handlers.
 * Pointers: Borrows `worker` until return, and `arg`, which may be NULL, until `run` returns.
 */
int prefork_worker_wake(prefork_worker *worker, prefork_on_wakeup run, void *arg);

/**
 * Continues with the body of a request that was paused, from any callback of its worker. The next call of
 * `on_body` comes in the next turn of the worker's loop. Does nothing if the body is not paused.
 *
 * Returns PREFORK_OK; PREFORK_GONE (the request with the number `id` is over: answered, refused, or its client has
 * gone; or there never was one); PREFORK_STATE (in another process or thread); PREFORK_NULL.
 * Process: worker.
 * Pointers: Borrows `worker` until return.
 */
int prefork_request_resume(prefork_worker *worker, uint64_t id);


/* ALL STREAMS OF A WORKER, AND TOPICS
 * -------------------------------------------------------------------------------------------------------- */

/** What becomes of a stream whose client reads too slowly for what is published to its topics. */
typedef enum prefork_slow {
    /** It does not get what it has no room for. */
    PREFORK_SLOW_SKIP = 0,
    /** It is reset. */
    PREFORK_SLOW_CLOSE = 1,
} prefork_slow;

/** Why a stream has ended, or is about to. No number ever gets another meaning; later versions may have more. */
typedef enum prefork_end {
    /** Nothing ends it. */
    PREFORK_END_NONE = 0,
    /** The client has ended its side, has gone or reset the connection. */
    PREFORK_END_CLIENT = 1,
    /** The handler has closed it. */
    PREFORK_END_HANDLER = 2,
    /**
     * Reading or writing has failed, a callback has panicked, or the client has passed a limit: it has sent more than
     * may be unread (setting `max-body`), or was too slow for what is published (PREFORK_SLOW_CLOSE).
     */
    PREFORK_END_ERROR = 3,
    /** The client was silent (setting `idle-timeout`) or took nothing (`write-timeout`) for too long. */
    PREFORK_END_TIMEOUT = 4,
    /**
     * The worker ends: its time to finish (setting `drain-timeout`) is over, or too many generations drain
     * (`max-draining`).
     */
    PREFORK_END_WORKER = 5,
} prefork_end;

/**
 * Finds a stream by its id, in any callback. An upgraded HTTP connection is a stream.
 *
 * Returns the connection; NULL if it has ended (also in its `on_close`), in blocking style, in another thread than
 * the worker's first, and in a process that the handler has forked.
 * Process: worker.
 * Pointers: Borrows `worker` until return. The result is lent until the connection's `on_close` returns.
 */
prefork_conn *prefork_conn_find(prefork_worker *worker, uint64_t id);

/**
 * Calls `each` with every stream of this worker, in no particular order, as long as it returns 0. `each` may write to
 * them, close them and walk them again.
 *
 * Returns 0, or the number that `each` has returned to end the walk; PREFORK_STATE in blocking style, in another
 * thread than the worker's first, and in a process that the handler has forked; PREFORK_NULL.
 * Process: worker.
 * Pointers: Borrows `worker` and `arg`, which may be NULL, until return. `each` lets no C++ exception and no longjmp
 * out.
 */
int prefork_worker_each_conn(prefork_worker *worker, int (*each)(prefork_conn *conn, void *arg), void *arg);

/**
 * Why a stream has ended, for `on_close`, or is about to: one of `enum prefork_end`.
 *
 * Returns it; PREFORK_END_NONE as long as nothing ends the stream, in blocking style, outside of the worker's first
 * thread, and if `conn` is NULL.
 * Process: worker.
 * Pointers: Borrows `conn` until return.
 */
uint32_t prefork_conn_end_reason(const prefork_conn *conn);

/**
 * Subscribes a stream to a topic: from now on it gets what any worker publishes to that name. Subscribing again does
 * nothing; the end of the connection ends its subscriptions.
 *
 * Returns PREFORK_OK; PREFORK_INVALID if the name has no byte, more than 255, or is not UTF-8; PREFORK_GONE if the
 * stream has ended; PREFORK_STATE in blocking style, in another thread than the worker's first, and in a process
 * that the handler has forked; PREFORK_NULL.
 * Process: worker.
 * Pointers: Borrows `conn` until return. Copies `topic`, which is NUL-terminated.
 */
int prefork_subscribe(prefork_conn *conn, const char *topic);

/**
 * As `prefork_subscribe()`, with a name of `topic_len` bytes that is not NUL-terminated.
 *
 * Returns as `prefork_subscribe()`.
 * Process: worker.
 * Pointers: Borrows `conn` until return. Copies `topic_len` bytes at `topic`.
 */
int prefork_subscribe_n(prefork_conn *conn, const char *topic, size_t topic_len);

/**
 * Ends a stream's subscription to a topic.
 *
 * Returns PREFORK_OK; PREFORK_GONE if it has none; otherwise as `prefork_subscribe()`.
 * Process: worker.
 * Pointers: Borrows `conn`, and `topic`, which is NUL-terminated, until return.
 */
int prefork_unsubscribe(prefork_conn *conn, const char *topic);

/**
 * As `prefork_unsubscribe()`, with a name of `topic_len` bytes that is not NUL-terminated.
 *
 * Returns as `prefork_unsubscribe()`.
 * Process: worker.
 * Pointers: Borrows `conn`, and `topic_len` bytes at `topic`, until return.
 */
int prefork_unsubscribe_n(prefork_conn *conn, const char *topic, size_t topic_len);

/**
 * Ends all subscriptions of a stream, if it has any.
 *
 * Returns PREFORK_OK; PREFORK_STATE and PREFORK_GONE as `prefork_subscribe()`; PREFORK_NULL.
 * Process: worker.
 * Pointers: Borrows `conn` until return.
 */
int prefork_unsubscribe_all(prefork_conn *conn);

/**
 * Says what becomes of a stream if what is published to its topics comes faster than its client reads, that is if more
 * bytes than the setting `max-pending` would wait. PREFORK_SLOW_SKIP is the default. What was not written is counted:
 * `skipped` of `prefork_worker_status`.
 *
 * Returns PREFORK_OK, PREFORK_STATE (in blocking style), PREFORK_GONE (in `on_close`), PREFORK_INVALID or
 * PREFORK_NULL.
 * Process: worker.
 * Pointers: Borrows `conn` until return.
 */
int prefork_conn_set_slow(prefork_conn *conn, int slow);

/**
 * Writes bytes to all streams of all workers that have subscribed to a topic, this worker's included; those of others
 * get them by way of the master. Each stream gets all of the bytes or none (`prefork_conn_set_slow()`), and what one
 * worker publishes in the order it was published. The bytes are written as they are: publish whole frames to
 * WebSocket connections.
 *
 * A stream that is on its way to another worker meanwhile (`on_handover`) gets the bytes there, once and in that
 * order, but not those that were published before that worker was forked; and not if more than 2 MiB are published
 * meanwhile. `skipped` counts both. Of two workers' publications one stream may get either first.
 *
 * Never waits. A worker that is too busy to read its messages for 3 seconds does not get what is published until it
 * has room again.
 *
 * Returns PREFORK_OK, or a status, with which no stream gets it: PREFORK_TOO_LARGE (name and bytes are longer than
 * the setting `max-message`, or the bytes than `max-pending`), PREFORK_FULL (four messages of that size wait to be
 * sent already), PREFORK_GONE (the master is gone), PREFORK_INVALID (the topic, as for `prefork_subscribe()`),
 * PREFORK_STATE, PREFORK_NULL.
 * Process: worker.
 * Pointers: Borrows `worker` until return. Copies `topic`, which is NUL-terminated, and `size` bytes at `data`, which
 * may be NULL if `size` is 0.
 */
int prefork_publish(prefork_worker *worker, const char *topic, const void *data, size_t size);

/**
 * As `prefork_publish()`, with a name of `topic_len` bytes that is not NUL-terminated.
 *
 * Returns as `prefork_publish()`.
 * Process: worker.
 * Pointers: Borrows `worker` until return. Copies `topic_len` bytes at `topic`, and `size` bytes at `data`, which may
 * be NULL if `size` is 0.
 */
int prefork_publish_n(prefork_worker *worker, const char *topic, size_t topic_len, const void *data, size_t size);

/**
 * As `prefork_publish()`, to the streams of all other workers.
 *
 * Returns as `prefork_publish()`.
 * Process: worker.
 * Pointers: Borrows `worker` until return. Copies `topic`, which is NUL-terminated, and `size` bytes at `data`, which
 * may be NULL if `size` is 0.
 */
int prefork_publish_elsewhere(prefork_worker *worker, const char *topic, const void *data, size_t size);

/**
 * As `prefork_publish_elsewhere()`, with a name of `topic_len` bytes that is not NUL-terminated.
 *
 * Returns as `prefork_publish_elsewhere()`.
 * Process: worker.
 * Pointers: Borrows `worker` until return. Copies `topic_len` bytes at `topic`, and `size` bytes at `data`, which may
 * be NULL if `size` is 0.
 */
int prefork_publish_elsewhere_n(prefork_worker *worker,
                                const char *topic,
                                size_t topic_len,
                                const void *data,
                                size_t size);


/* DATAGRAMS
 * -------------------------------------------------------------------------------------------------------- */

/**
 * Sends bytes to the sender of the datagram for which `on_datagram` is being called, from the address at which
 * that one arrived. It may be called several times. The sender's address may be forged, so do not reply with
 * much more than was received.
 *
 * Returns PREFORK_OK; PREFORK_STATE outside `on_datagram`; PREFORK_AGAIN if too much waits to be sent;
 * PREFORK_SYSTEM if the kernel refuses, for instance more than fits into a datagram; PREFORK_INVALID or
 * PREFORK_NULL.
 * Process: worker, in `on_datagram`.
 * Pointers: Borrows `worker` until return. Copies `size` bytes at `data`, which may be NULL if `size` is 0.
 */
int prefork_datagram_reply(const prefork_worker *worker, const void *data, size_t size);


/* HANDLERS
 * -------------------------------------------------------------------------------------------------------- */

/** The major version of the binary interface. A module loads only if its version is equal. */
#define PREFORK_ABI_MAJOR 2

/** The minor version of the binary interface, raised by each addition. A module with any minor version loads. */
#define PREFORK_ABI_MINOR 1

/** Called when the worker stops, is drained, or hangs. */
typedef void (*prefork_on_worker)(prefork_worker *worker, void *state);

/** Called with a complete HTTP request. */
typedef void (*prefork_on_request)(prefork_request *req, prefork_response *res, void *state);

/** Called for a connection. */
typedef void (*prefork_on_conn)(prefork_conn *conn, void *state);

/** Called with a datagram. */
typedef void (*prefork_on_datagram)(prefork_worker *worker,
                                    const struct sockaddr *peer,
                                    const void *data,
                                    size_t len,
                                    void *state);

/** Called with the head of an HTTP request. Returns 0, 1, or another number. */
typedef int (*prefork_on_head)(prefork_request *req, prefork_response *res, void *state);

/** Called with a piece of the body of an HTTP request. */
typedef void (*prefork_on_body)(prefork_request *req, const void *data, size_t size, int last, void *state);

/** Called when a stream may go to another worker. Returns the bytes used, or a negative number. */
typedef ptrdiff_t (*prefork_on_handover)(prefork_conn *conn, void *buffer, size_t room, void *state);

/** Called when a stream has come from another worker. Returns 0 if it is taken over. */
typedef int (*prefork_on_takeover)(prefork_conn *conn, uint32_t version, const void *data, size_t size,
                                   void *state);

/** Called when a response has come from another worker. Returns 0 if the handler goes on with it. */
typedef int (*prefork_on_resume)(prefork_response *res, uint32_t version, const void *data, size_t size,
                                 void *state);

/**
 * A handler: the callbacks of a module or a program. One of `on_request`, `on_connection` and `on_data` serves
 * new connections; `on_datagram` serves datagrams, alone or in addition. The other members may be NULL.
 *
 * Callbacks run in the worker, one at a time, in its one thread. `state` is the pointer that `worker_start`
 * has left. What a callback is given is borrowed until it returns. No callback may let a C++ exception or a
 * longjmp out.
 *
 * PREFORK_MODULE or `prefork_module_init()` fills in the first three members. The struct grows at its end
 * only, and each side uses only those members that both know.
 */
struct prefork_module {
    /** The size of this struct in the header that the module was compiled with. */
    uint32_t size;
    /** PREFORK_ABI_MAJOR of that header. */
    uint16_t abi_major;
    /** PREFORK_ABI_MINOR of that header. */
    uint16_t abi_minor;
    /**
     * Called first, before the worker is ready: open here what processes must not share. `*state` is the
     * pointer given with the handler (NULL for a module from a file) and may be replaced. Returns 0, or
     * another number if this worker cannot serve: a new worker tries again, after longer and longer delays.
     * If each try would fail, for instance because of a wrong configuration, call `_exit(78)` (EX_CONFIG):
     * then the slot stays empty until a reload. If all slots do for ten seconds, the server ends
     * (PREFORK_MISCONFIGURED).
     */
    int (*worker_start)(prefork_worker *worker, void **state);
    /**
     * Called last, when the worker has finished its last connection; not called if the worker crashes or is killed.
     * Then stdio's buffers are written. Exit handlers and destructors run only with "worker-exit" at "full".
     */
    prefork_on_worker worker_stop;
    /** Answers one complete HTTP request. The worker has many connections, but serves none of them meanwhile. */
    prefork_on_request on_request;
    /** Serves one connection in blocking style. It is the worker's only one, and closes when this returns. */
    prefork_on_conn on_connection;
    /**
     * A stream begins: a new connection, or one that `prefork_response_upgrade()` has made a stream, when its 101
     * has been sent, in front of all that is written here. What the client has sent behind its handshake can be
     * read already; `on_data` is called for it next.
     */
    prefork_on_conn on_open;
    /**
     * A stream has bytes to read, has reached its end, or has room again for a write that was refused and input
     * left. Together with `on_request` it serves upgraded
     * connections only.
     */
    prefork_on_conn on_data;
    /** A stream is over; nothing can be read or written any more. `prefork_conn_end_reason()` says why. */
    prefork_on_conn on_close;
    /** The worker is being drained: it finishes what it has and takes nothing new. */
    prefork_on_worker on_drain;
    /**
     * A message has arrived from the worker with the id `from`, or from the master (PREFORK_TO_MASTER).
     * `type` is the sender's. `prefork_worker_reply()` answers a request. In blocking style it is called
     * between two connections.
     */
    void (*on_message)(prefork_worker *worker, uint32_t from, uint32_t type, const void *data, size_t size,
                       void *state);
    /**
     * A datagram has arrived at an address `udp:HOST:PORT`, from `peer`: a `struct sockaddr_in` or
     * `sockaddr_in6`, as its `sa_family` says. `prefork_datagram_reply()` answers it.
     */
    prefork_on_datagram on_datagram;
    /**
     * The callback that is running has taken longer than the setting `timeout`; in one second the worker is
     * aborted (SIGABRT). Called once, IN A SIGNAL HANDLER that interrupts that callback anywhere: only what
     * signal-safety(7) lists may be called, and `prefork_worker_overdue()`; no malloc, no stdio, no lock,
     * no longjmp. A system call in which the callback waits (read, nanosleep, poll, ...) ends with EINTR
     * afterwards; prefork's own are restarted.
     *
     * Uses: write(2) a line, or a backtrace with backtrace_symbols_fd(3) if backtrace(3) was called once
     * before; set a `volatile sig_atomic_t` that a long loop reads; shutdown(2) the socket that the callback
     * waits for. If the callback returns in time, its client is answered and the worker keeps serving.
     */
    prefork_on_worker on_hang;
    /**
     * A stream that has refused a write with PREFORK_FULL has room for it now. If input is left, `on_data` is
     * called next.
     */
    prefork_on_conn on_writable;
    /**
     * Together with `on_request`: the head of a request has come. Returns 0 to have the whole body given to
     * `on_request`, as without this callback; 1 to have it given to `on_body` as it comes; or another number, for
     * instance -1, to refuse it: then what was set of the response is the answer (401, 413, 417, or any other),
     * no body is read, a client that expects a 100 gets none, and neither `on_body` nor `on_request` is called.
     * If a refused request has a body, its connection is closed after the answer, in stages; else it is kept.
     *
     * Called once for every request, in order, also for one without a body, or whose body has come already. With
     * 0 and 1, what was set of the response is forgotten; but a response of which a part was written, or that was
     * kept, is the answer whatever is returned. The setting `max-body` holds with 0 only: see
     * `prefork_request_length()` and `prefork_request_stop()`.
     */
    prefork_on_head on_head;
    /**
     * A piece of a body for which `on_head` has returned 1: in order, decoded, up to 64 KiB or as much as came
     * with the head. The last one, which may be empty, has `last` = 1, all others 0. After it `on_request` is
     * called, with an empty body, to answer; keep what you need with `prefork_request_set_user()`. Between two
     * pieces the setting `body-timeout` runs. If the client goes, or the rest of the body is malformed, neither
     * is called any more. While this runs nothing is read; `prefork_request_pause()` lets the client wait longer.
     * If it is NULL, such a body is read and dropped.
     */
    prefork_on_body on_body;
    /** The version of the bytes that `on_handover` writes; 0 if streams stay in their worker. */
    uint32_t state_version;
    /**
     * This worker drains, or `prefork_conn_transfer()` was called for this stream: writes what another worker
     * needs to go on with it into `buffer`, which has `room` bytes (the setting `max-state`). Returns the bytes
     * used, maybe 0; or a negative number if the stream stays, until this worker's deadline. More than `room`
     * is logged, and it stays.
     *
     * If it does not stay, it is over for this worker: nothing can be read or written, `on_close` is not called, and
     * what the pointer of `prefork_conn_set_user()` points to is to be freed here (what `prefork_response_set_user()`
     * was given is released). What was read and not
     * consumed, what was written and not sent, its subscriptions, and what was set for it go with it. Timers and
     * watched descriptors do not: stop them here, and start them again in `on_takeover` (the time of
     * clock_gettime(CLOCK_MONOTONIC) is the same in all workers). If no worker takes it over, it comes back to
     * this one by `on_takeover`. One that is closed in this call is closed by the worker that has taken it over.
     */
    prefork_on_handover on_handover;
    /**
     * A stream has come from another worker: `data` is what its `on_handover` wrote, `version` its
     * `state_version`, since another version of the module may run there. It has a new `prefork_conn_id()`. What is
     * written here is sent when this has returned; `on_data` is called next if there is something to read.
     * `on_open` is not called.
     *
     * Returns 0 if it is taken over. Else what was written here is forgotten, and the stream goes back to the
     * worker from which it came; if that refuses it too, or has ended, its client gets a reset. It must be
     * set if `on_handover` is.
     */
    prefork_on_takeover on_takeover;
    /**
     * A response that another worker had kept has come from there: `data` is what the callback of
     * `prefork_response_on_handover()` wrote. `res` is as one returned by `prefork_response_later()`; if its head
     * was sent, parts of the body follow. What is written here is sent when this has returned.
     *
     * Returns 0 if the handler goes on with it: then `res` is its own, to be ended. Else `res` is freed, and it goes
     * back as a stream does; so it does if this is NULL. The handler must not end a response that it refuses.
     */
    prefork_on_resume on_resume;
};

/**
 * Has another handler serve the listeners of a name (`--listen NAME=ADDRESS`), in its own style, for instance a line
 * protocol beside requests; only in `worker_start`. Of its callbacks those about connections, requests and datagrams
 * are called, with `state`; all others are the module's own. The last handler for a name serves it.
 *
 * Returns PREFORK_OK; PREFORK_GONE if no listener has this name; PREFORK_INVALID if `handler` is of another binary
 * interface, has no handler, or has `on_connection` (with which a worker serves all listeners or none);
 * PREFORK_STATE outside of `worker_start`; PREFORK_NULL.
 * Process: worker.
 * Pointers: Borrows `worker` until return. Copies `name`, which is NUL-terminated, and `handler`, which begins with the
 * members that `prefork_module_init()` fills in. Takes `state`, which may be NULL, as long as the worker lives.
 */
int prefork_worker_serve(prefork_worker *worker, const char *name, const struct prefork_module *handler, void *state);


/* EVENTS: for programs that embed prefork
 * -------------------------------------------------------------------------------------------------------- */

/** The types of events. No number ever gets another meaning; later versions may have more. */
typedef enum prefork_event_type {
    /** The addresses are bound; the first workers follow. */
    PREFORK_EVENT_SETUP = 1,
    /** A worker was forked. */
    PREFORK_EVENT_FORK = 2,
    /** A worker has begun to run. */
    PREFORK_EVENT_ONLINE = 3,
    /** A worker serves connections of `address`; one event for each address. */
    PREFORK_EVENT_LISTENING = 4,
    /** A worker can serve: `worker_start` has returned. */
    PREFORK_EVENT_READY = 5,
    /** A worker gets no more connections, on purpose, and finishes what it has. */
    PREFORK_EVENT_DISCONNECT = 6,
    /**
     * A worker has ended and was reaped: `code` or `signal` say how, `reason` why. `stderr_lines` has the end
     * of its standard error, if it ended before it was ready or before its reload was complete; `moved`,
     * `handed_over`, `ended`, `cut` and `lost` what has become of the connections that it had when it was told to
     * finish.
     */
    PREFORK_EVENT_EXIT = 7,
    /** A worker has been in one call of its handler for longer than the setting `timeout`. */
    PREFORK_EVENT_HANG = 8,
    /** Something went wrong that cost no connection; `text` says what. */
    PREFORK_EVENT_ERROR = 9,
    /** A reload to `generation` began. */
    PREFORK_EVENT_RELOAD_STARTED = 10,
    /**
     * Every worker is of `generation`. `moved`, `handed_over` and the members that begin with `staying` say what
     * has become of the connections of those that they have replaced, once these have handed back what they can.
     */
    PREFORK_EVENT_RELOAD_COMMITTED = 11,
    /**
     * The reload to `generation` failed, at `stage`, because of `text`; every worker is of the generation
     * before. If a new worker failed, `id` is its number, `code` or `signal` say how it ended, and
     * `stderr_lines` has the end of its standard error.
     */
    PREFORK_EVENT_RELOAD_ROLLED_BACK = 12,
    /**
     * The run is over: the last worker was reaped. `killed` workers had to be killed, and `cut` connections were ended
     * at the deadline of the others.
     */
    PREFORK_EVENT_STOPPED = 13,
    /**
     * A worker has sent the master a message; the callback of `prefork_server_on_message()`, called next, gets
     * its bytes.
     */
    PREFORK_EVENT_MESSAGE = 14,
    /**
     * The last worker of `generation`, which was replaced or rolled back, has ended. `moved`, `handed_over`,
     * `ended`, `cut` and `lost` say what has become of the connections that its workers had when they were told to
     * finish.
     */
    PREFORK_EVENT_GONE = 15,
} prefork_event_type;

/** The reasons why a worker ended. No number ever gets another meaning; later versions may have more. */
typedef enum prefork_reason {
    /** It crashed, or exited without being asked to. */
    PREFORK_REASON_CRASH = 1,
    /** It was not ready in time, or ended before it was. */
    PREFORK_REASON_BOOT_FAILURE = 2,
    /** A new generation took its place, or its generation was rolled back. */
    PREFORK_REASON_RELOAD = 3,
    /** Fewer workers are wanted. */
    PREFORK_REASON_SCALE = 4,
    /** It was drained: `prefork_server_drain()`. */
    PREFORK_REASON_DRAIN = 5,
    /** It left by itself: `prefork_worker_leave()`, or SIGTERM to it from elsewhere. */
    PREFORK_REASON_LEFT = 6,
    /** It had not ended at its deadline and was killed. */
    PREFORK_REASON_DRAIN_TIMEOUT = 7,
    /** It hung in its handler and was killed. */
    PREFORK_REASON_HANG = 8,
    /** It had served enough: settings `max-requests`, `max-memory`, `max-age`. */
    PREFORK_REASON_RECYCLE = 9,
    /** It ended by a signal that was sent to it through the master: `prefork_server_kill()`. */
    PREFORK_REASON_KILLED = 10,
    /** The server stops. */
    PREFORK_REASON_STOP = 11,
} prefork_reason;

/** The stages of a reload. No number ever gets another meaning; later versions may have more. */
typedef enum prefork_stage {
    /** The handler's file is read. */
    PREFORK_STAGE_PREPARING = 1,
    /** The first new worker starts. */
    PREFORK_STAGE_CANARY = 2,
    /** New workers take the places of the old ones. */
    PREFORK_STAGE_ROLLING = 3,
    /** The program of an upgrade is tried. No event has this stage. */
    PREFORK_STAGE_TRIAL = 4,
} prefork_stage;

/** The end of a worker. Later versions may add members at the end. */
typedef struct prefork_exit {
    /** The size of this struct: set it before the call; afterwards the size that was filled in. */
    uint32_t size;
    /** The worker's number. */
    uint32_t id;
    /** Its slot. */
    uint32_t slot;
    /** Its generation. */
    uint32_t generation;
    /** The process id it had. */
    int32_t pid;
    /** Its exit code; -1 if a signal ended it, or if this program has reaped it itself. */
    int32_t code;
    /** The signal that ended it, or 0. */
    int32_t signal;
    /** 1 if a core was dumped, else 0. */
    uint32_t core;
    /** The reason: one of `enum prefork_reason`. */
    uint32_t reason;
    /** 1 if the master wanted it to end, else 0 (Node: `exitedAfterDisconnect`). */
    uint32_t intended;
} prefork_exit;

/**
 * An event, given to the callback of `prefork_server_on_event()`. A number that does not apply is 0 (`port` and
 * `code`: -1), and a string is empty, not NULL. Later versions may add members at the end.
 */
typedef struct prefork_event {
    /** The size of this struct in the library. */
    uint32_t size;
    /** The type: one of `enum prefork_event_type`. */
    uint32_t type;
    /**
     * The name of the type, that of its constant in small letters: `fork`, `exit`, `reload rolled back`; as in
     * Node's `cluster` if that has the event.
     */
    const char *name;
    /** The worker's number; 0 if the event is about no worker. */
    uint32_t id;
    /** Its slot. */
    uint32_t slot;
    /** Its generation; of a reload, the new generation. */
    uint32_t generation;
    /** Its process id. */
    int32_t pid;
    /** The address, as `127.0.0.1:8080`, `[::1]:8080`, `udp:127.0.0.1:53` or `unix:/path`. */
    const char *address;
    /** The type of address: `4`, `6`, `udp4`, `udp6` or `unix`. */
    const char *address_type;
    /** The port bound, or -1 if the address has no port. */
    int32_t port;
    /** The worker's exit code, or -1 if a signal ended it. */
    int32_t code;
    /** The signal that ended it, or 0. */
    int32_t signal;
    /** 1 if a core was dumped, else 0. */
    uint32_t core;
    /** The reason: one of `enum prefork_reason`. */
    uint32_t reason;
    /** 1 if the master wanted it to end, else 0 (Node: `exitedAfterDisconnect`). */
    uint32_t intended;
    /** The name of the reason: `crash`, `boot failure`, `reload` and so on. */
    const char *reason_name;
    /** The fault, or the reason of a failure, in words. */
    const char *text;
    /** Workers that had to be killed at the end of the run. */
    uint32_t killed;
    /** The stage at which a reload failed: one of `enum prefork_stage`. */
    uint32_t stage;
    /** The name of the stage: `preparing`, `canary` or `rolling`. */
    const char *stage_name;
    /**
     * The last lines of a worker's standard error, at most 20 and 4 KiB, separated by line feeds; control
     * characters except tabs are escaped.
     */
    const char *stderr_lines;
    /** The type of a message, which is the worker's to choose. */
    uint32_t message_type;
    /** Its length (bytes). */
    size_t message_size;
    /**
     * The file that the code of a reload that has ended was read from, without symbolic links: the module, or the
     * program of a handler in it. Empty if it could not be read.
     */
    const char *code_path;
    /**
     * 1 if that path, as it was given, leads to another file by now. The workers of a handler in the program run older
     * code then: `prefork_server_upgrade()` takes the file.
     */
    uint32_t code_changed;
    /** The old workers that connections stay with. */
    uint32_t staying_workers;
    /** Idle connections that went to other workers. */
    uint64_t moved;
    /** Streams, upgraded connections and kept responses that went to other workers with their state. */
    uint64_t handed_over;
    /** Connections that ended by themselves. */
    uint64_t ended;
    /**
     * Those that were closed because the time to finish was over (setting `drain-timeout`), or too many generations
     * drained (`max-draining`).
     */
    uint64_t cut;
    /** Those that were lost with a worker that died before that. */
    uint64_t lost;
    /**
     * Requests in progress that stay with old workers until they end, or the time of these is over; in blocking
     * style, connections.
     */
    uint64_t staying_requests;
    /** Responses of theirs that handlers keep (`prefork_response_later()`). */
    uint64_t staying_responses;
    /** Their streams and upgraded connections. */
    uint64_t staying_streams;
    /** Milliseconds in which the last of these workers has to end; 0 if there is no limit, or nothing stays. */
    uint64_t staying_ms;
    /**
     * The callback in which a worker has died, in its first 16 bytes: `on_request`, `timer`, `worker_start`. Empty if
     * none ran, or the worker does not say. It and the next members are the worker's own word, and may be wrong.
     */
    const char *crash_callback;
    /** Milliseconds that this call had run. */
    uint64_t crash_lasted_ms;
    /**
     * The method and the target of its request, cut after 32 and 200 bytes; empty if there is none, or the worker
     * ended by SIGKILL.
     */
    const char *crash_request;
    /** The address of its client: `127.0.0.1:50000`, `[::1]:50000` or `unix`; empty as `crash_request` is. */
    const char *crash_peer;
    /**
     * The functions on its stack if a signal of a fault ended it, innermost first and up to the callback, separated by
     * line feeds: `name+0x12 (file+0x1234)`, or what of that is known.
     */
    const char *crash_backtrace;
} prefork_event;

/** Called with each event, in the master. */
typedef void (*prefork_on_event)(const prefork_event *event, void *state);


/* THE SERVER: for programs that embed prefork
 * -------------------------------------------------------------------------------------------------------- */

/**
 * A server: a handler, its settings, and its run. Created by `prefork_server_new()`, freed by
 * `prefork_server_free()`.
 */
typedef struct prefork_server prefork_server;

/**
 * The start of a server, given to the callback of `prefork_server_on_start()`. Later versions may add members at
 * the end.
 */
typedef struct prefork_started {
    /**
     * The addresses bound, in the order they were given: `127.0.0.1:8080`, `[::1]:8080`,
     * `udp:127.0.0.1:53` or `unix:/path`, each NUL-terminated.
     */
    const char *const *addresses;
    /** The number of addresses. */
    size_t address_count;
    /** The number of workers, all of which are ready. */
    size_t workers;
} prefork_started;

/** Called once, when every worker is ready for the first time. */
typedef void (*prefork_on_start)(const prefork_started *started, void *state);

/**
 * Called when a reload to `generation` is about to begin. Returns NULL to let it, or the reason not to, which is
 * copied.
 */
typedef const char *(*prefork_on_reload)(uint32_t generation, void *state);

/** Called with a message of the worker whose id is `from`: `type` is the worker's to choose. */
typedef void (*prefork_on_message)(prefork_server *server,
                                   uint32_t from,
                                   uint32_t type,
                                   const void *data,
                                   size_t size,
                                   void *state);

/**
 * The version of the library, for instance `0.1.0`.
 *
 * Returns a static string.
 * Process: any.
 */
const char *prefork_version(void);

/**
 * The version of the library's binary interface, as `PREFORK_ABI_MAJOR << 16 | PREFORK_ABI_MINOR`. The constants
 * have the version of the header that the program was compiled with.
 *
 * Returns the version.
 * Process: any.
 */
uint32_t prefork_abi_version(void);

/**
 * Creates a server with default settings and no handler. Nothing is opened or started.
 *
 * Returns a new server (creates: free it with `prefork_server_free()`), or NULL after a bug in prefork.
 * Process: any.
 */
prefork_server *prefork_server_new(void);

/**
 * Frees a server. If it is running, its workers are killed. In another process, which the program has forked itself,
 * it frees the copy there and does not affect the master.
 *
 * Returns PREFORK_OK; PREFORK_STATE in a callback and in a worker, and PREFORK_NULL, and then nothing is freed.
 * Process: master.
 * Pointers: Takes `server`: no other call with it after this one.
 */
int prefork_server_free(prefork_server *server);

/**
 * The reason why the last call with this server was refused: one line, `operation on what: cause`, for instance
 * `bind 127.0.0.1:80: Permission denied (os error 13)`.
 *
 * Returns a NUL-terminated string that borrows from `server` until the next call with it; empty if that call was
 * not refused, or if `server` is NULL.
 * Process: master.
 * Pointers: Borrows `server` until return.
 */
const char *prefork_server_error(const prefork_server *server);

/**
 * Adds an address to listen on: `127.0.0.1:8080`, `[::1]:8080`, `localhost:8080` (127.0.0.1), `:8080` (all
 * addresses), `udp:127.0.0.1:53` (for `on_datagram`), `unix:/path` (any bytes), `unix:@name` (abstract, see unix(7):
 * no file, no permissions), or `fd:3` (an inherited socket that listens or receives datagrams). Port 0 is any free
 * port. The default is `127.0.0.1:8080`. The same as `prefork_server_set(server, "listen", address)`; the address is
 * bound when the server runs.
 *
 * Returns PREFORK_OK, PREFORK_CONFIG or PREFORK_INVALID.
 * Process: master, before it runs.
 * Pointers: Borrows `server` until return. Copies `address`, which is NUL-terminated.
 */
int prefork_server_listen(prefork_server *server, const char *address);

/**
 * Sets the number of workers, at most 1024; 0 (the default) is one per CPU that this process may use.
 *
 * Returns PREFORK_OK or PREFORK_CONFIG.
 * Process: master, before it runs.
 * Pointers: Borrows `server` until return.
 */
int prefork_server_workers(prefork_server *server, uint32_t count);

/**
 * Sets a setting by the name of its command-line option, as listed by `prefork --help`:
 * `prefork_server_set(server, "max-body", "1M")`. Sizes are bytes and take the suffixes K, M and G (powers
 * of 1024); times are seconds and take ms, s, m and h; switches are `on` or `off`. `listen` adds an
 * address; the other settings are replaced.
 *
 * Returns PREFORK_OK, PREFORK_CONFIG (`prefork_server_error()` says what is expected) or PREFORK_INVALID.
 * Process: master, before it runs.
 * Pointers: Borrows `server` until return. Copies `name` and `value`, which are NUL-terminated.
 */
int prefork_server_set(prefork_server *server, const char *name, const char *value);

/**
 * Sets the arguments of the handler, which `prefork_worker_arg()` returns in workers.
 *
 * Returns PREFORK_OK.
 * Process: master, before it runs.
 * Pointers: Borrows `server` until return. Copies `count` strings at `args`, each NUL-terminated; `args`
 * may be NULL if `count` is 0.
 */
int prefork_server_args(prefork_server *server, size_t count, const char *const *args);

/**
 * Sets the handler to a function that answers HTTP requests. A server has one handler: each function that sets
 * one replaces the one before. `prefork_server_module()` sets one of several callbacks.
 *
 * Returns PREFORK_OK.
 * Process: master, before it runs; `on_request` is called in workers.
 * Pointers: Borrows `server` until return. Borrows `state`, which may be NULL, until `server` is freed: a worker has
 * its own copy of the memory behind it, as of its fork.
 */
int prefork_server_on_request(prefork_server *server, prefork_on_request on_request, void *state);

/**
 * Sets the handler to a function that serves connections in blocking style; a worker has one at a time.
 *
 * Returns PREFORK_OK.
 * Process: master, before it runs; `on_connection` is called in workers.
 * Pointers: Borrows `server` until return. Borrows `state`, which may be NULL, until `server` is freed.
 */
int prefork_server_on_connection(prefork_server *server, prefork_on_conn on_connection, void *state);

/**
 * Sets the handler to functions that serve streams; `on_open` and `on_close` may be NULL.
 *
 * Returns PREFORK_OK.
 * Process: master, before it runs; the functions are called in workers.
 * Pointers: Borrows `server` until return. Borrows `state`, which may be NULL, until `server` is freed.
 */
int prefork_server_on_data(prefork_server *server,
                           prefork_on_conn on_open,
                           prefork_on_conn on_data,
                           prefork_on_conn on_close,
                           void *state);

/**
 * Sets the handler to a function that serves datagrams, on addresses `udp:HOST:PORT`.
 *
 * Returns PREFORK_OK.
 * Process: master, before it runs; `on_datagram` is called in workers.
 * Pointers: Borrows `server` until return. Borrows `state`, which may be NULL, until `server` is freed.
 */
int prefork_server_on_datagram(prefork_server *server, prefork_on_datagram on_datagram, void *state);

/**
 * Sets the handler to the callbacks of a descriptor made by `prefork_module_init()` or PREFORK_MODULE.
 *
 * Returns PREFORK_OK or PREFORK_HANDLER (another ABI, no handler in it, or more than one).
 * Process: master, before it runs; the callbacks are called in workers.
 * Pointers: Borrows `server` until return. Copies `module`. Borrows `state`, which may be NULL, until
 * `server` is freed.
 */
int prefork_server_module(prefork_server *server, const struct prefork_module *module, void *state);

/**
 * Sets the handler to a module in a file. The file is read when the server runs, and by each reload, which follows
 * the path anew; each worker loads a private copy. A relative path is meant from the working directory at the run.
 * The module needs the `prefork_*` functions of the program: one linked with libprefork.so has them; one linked
 * with libprefork.a needs `-Wl,--export-dynamic-symbol='prefork_*'`, and cannot be fully static.
 *
 * Returns PREFORK_OK. `prefork_server_run()` reports a file that cannot be loaded.
 * Process: master, before it runs.
 * Pointers: Borrows `server` until return. Copies `path`, which is NUL-terminated.
 */
int prefork_server_module_file(prefork_server *server, const char *path);

/**
 * Sets a function that is called once, when every worker is ready for the first time and the addresses are known.
 * NULL unsets it.
 *
 * Returns PREFORK_OK.
 * Process: master, before it runs; `on_start` is called in the master.
 * Pointers: Borrows `server` until return. Borrows `state`, which may be NULL, until `server` is freed.
 * `started` and what it points to are borrowed until `on_start` returns.
 */
int prefork_server_on_start(prefork_server *server, prefork_on_start on_start, void *state);

/**
 * Sets a function that is called with every event (`enum prefork_event_type`), in the order in which they happened.
 * It runs between two turns of the master's loop, and may call anything except `prefork_server_step()`, `_start()`,
 * `_run()` and `_free()`. NULL unsets it.
 *
 * Returns PREFORK_OK.
 * Process: master, before it runs; `on_event` is called in the master.
 * Pointers: Borrows `server` until return. Borrows `state`, which may be NULL, until `server` is freed.
 * `event` and what it points to are borrowed until `on_event` returns.
 */
int prefork_server_on_event(prefork_server *server, prefork_on_event on_event, void *state);

/**
 * Sets a function that is called when a reload begins, also that of an upgrade: after the event
 * PREFORK_EVENT_RELOAD_STARTED, and before any code of it is read and any worker of it is forked. What it changes in
 * this process, such as a configuration that workers inherit, all of them have. If it returns a reason, the reload is
 * rolled back with that, and nothing has changed. It may call what the function of `prefork_server_on_event()` may.
 * NULL unsets it.
 *
 * Returns PREFORK_OK.
 * Process: master, before it runs; `on_reload` is called in the master.
 * Pointers: Borrows `server` until return. Borrows `state`, which may be NULL, until `server` is freed. Copies what
 * `on_reload` returns.
 */
int prefork_server_on_reload(prefork_server *server, prefork_on_reload on_reload, void *state);

/**
 * Sets a function that is called with each message that a worker sends to PREFORK_TO_MASTER: `from` is the worker's
 * id, `type` is the worker's to choose. `prefork_server_reply()` answers a request. It runs as the function of
 * `prefork_server_on_event()` does; nothing is accepted meanwhile. Without a function messages are dropped, and
 * requests fail with PREFORK_UNANSWERED. NULL unsets it.
 *
 * Returns PREFORK_OK.
 * Process: master, before it runs; `on_message` is called in the master.
 * Pointers: Borrows `server` until return. Borrows `state`, which may be NULL, until `server` is freed. `size` bytes
 * at `data` are borrowed until `on_message` returns.
 */
int prefork_server_on_message(prefork_server *server, prefork_on_message on_message, void *state);

/**
 * Sends a message to the worker with the id `to`, or to all workers (PREFORK_TO_ALL), for `on_message` there. Never
 * waits: what the worker does not take at once is queued. Messages to one worker arrive in the order they were
 * sent.
 *
 * Returns PREFORK_OK; PREFORK_TOO_LARGE if it is longer than the setting `max-message`; PREFORK_FULL if four
 * messages of that size are queued for the worker (to all: for one of them; the others get it); PREFORK_GONE if
 * there is no such worker; PREFORK_STATE if `to` is PREFORK_TO_MASTER; PREFORK_INVALID.
 * Process: master, while it runs, from its callbacks.
 * Pointers: Borrows `server` until return. Copies `size` bytes at `data`, which may be NULL if `size` is 0.
 */
int prefork_server_send(prefork_server *server, uint32_t to, uint32_t type, const void *data, size_t size);

/**
 * Sends a request: a message that is to be answered. If this returns PREFORK_OK, `on_reply` is called once, from the
 * master's loop: with PREFORK_OK and the reply, or with PREFORK_TIMEOUT after `deadline_ms` milliseconds (0: no
 * deadline), PREFORK_GONE (the worker has ended) or PREFORK_UNANSWERED.
 *
 * Returns as `prefork_server_send()`; PREFORK_STATE also if `to` is PREFORK_TO_ALL.
 * Process: master, while it runs, from its callbacks.
 * Pointers: Borrows `server` until return. Copies `size` bytes at `data`, which may be NULL if `size` is 0.
 * Borrows `arg`, which may be NULL, until `on_reply` returns or the run ends; the bytes of the reply are
 * borrowed until `on_reply` returns.
 */
int prefork_server_request(prefork_server *server,
                           uint32_t to,
                           uint32_t type,
                           const void *data,
                           size_t size,
                           uint32_t deadline_ms,
                           void (*on_reply)(prefork_server *server,
                                            int status,
                                            const void *data,
                                            size_t size,
                                            void *arg),
                           void *arg);

/**
 * Answers the request that `on_message` is being called for, once. If `on_message` returns without a reply, the
 * worker gets PREFORK_UNANSWERED at once.
 *
 * Returns as `prefork_server_send()`; PREFORK_STATE if the message is no request, or has been answered.
 * Process: master, while it runs, from `on_message`.
 * Pointers: Borrows `server` until return. Copies `size` bytes at `data`, which may be NULL if `size` is 0.
 */
int prefork_server_reply(prefork_server *server, const void *data, size_t size);

/**
 * Makes this process the master and serves until a signal ends it: TERM, INT and QUIT drain all workers, a second
 * one kills them; HUP reloads; TTIN and TTOU start and stop a worker; USR2 upgrades: it executes the program's file
 * anew in this process. In workers, which are forked from here, and in a program that an upgrade tries out (see
 * UPGRADES above), this call never returns, whether it is refused or not.
 *
 * It installs no signal handler: the calling thread has these signals blocked meanwhile and reads them itself
 * (signalfd(2)). After `prefork_server_set(server, "signals", "off")` it leaves them alone, and only
 * `prefork_server_stop()` in a callback ends the run. Afterwards the server may run again.
 *
 * After `prefork_server_set(server, "one-process", "on")` it forks nothing: this process binds the addresses and
 * serves itself, for gdb, valgrind, sanitizers, rr, perf and reports of coverage. It is worker 1 in slot 0, of
 * generation 1, may have several threads, and loads a module by its own path. TERM, INT and QUIT drain, for at most
 * the setting `drain-timeout`; a second one, a second later or more, ends the run at once, and if the handler is in a
 * call, the process. These have signal handlers then, and so have HUP, USR1 and USR2, which only print that they do
 * nothing. `prefork_worker_leave()` ends the run too; `prefork_server_stop()` and the like return PREFORK_STATE. There
 * is no reload, no upgrade, no control socket, no restart after a crash, and no limit by the setting `timeout`. Of the
 * host's callbacks only that of `prefork_server_on_start()` is called. A message to this worker itself arrives; one to
 * another worker or the master is dropped, and a request to them fails with PREFORK_GONE and PREFORK_UNANSWERED. A
 * stream that is transferred stays.
 *
 * Standard input, output or error that is closed becomes /dev/null, so that no client gets what is printed.
 *
 * Returns PREFORK_OK when all workers have ended (`prefork_server_killed()` says how many were killed,
 * `prefork_server_cut()` how many connections were cut);
 * PREFORK_STATE if this process has more than one thread and is to fork; PREFORK_CONFIG, PREFORK_LISTEN,
 * PREFORK_HANDLER (also if none was set), PREFORK_MISCONFIGURED or PREFORK_SYSTEM, before anything was served;
 * PREFORK_MISCONFIGURED also later, if all workers have ended with exit code 78.
 * `prefork_server_error()` has the reason.
 * Process: becomes the master.
 * Pointers: Borrows `server` until return.
 */
int prefork_server_run(prefork_server *server);

/**
 * The number of workers that the stop at the end of the last run had to kill, because they did not end by themselves
 * after the setting `drain-timeout`; not those that a second request to stop has killed at once.
 *
 * Returns the number, or 0 if `server` is NULL.
 * Process: master.
 * Pointers: Borrows `server` until return.
 */
uint32_t prefork_server_killed(const prefork_server *server);

/**
 * The number of connections that workers have ended unfinished in the stop at the end of the last run, because the
 * setting `drain-timeout` was over.
 *
 * Returns the number, or 0 if `server` is NULL.
 * Process: master.
 * Pointers: Borrows `server` until return.
 */
uint64_t prefork_server_cut(const prefork_server *server);


/* THE LOG: for programs that embed prefork
 * -------------------------------------------------------------------------------------------------------- */

/**
 * How important a line of prefork's own is. The numbers are the priorities of syslog(3). No number ever gets another
 * meaning; later versions may have more.
 */
typedef enum prefork_log_level {
    /**
     * Something has failed that somebody has to look into: a worker has crashed, a reload was rolled back, a callback
     * has failed.
     */
    PREFORK_LOG_ERROR = 3,
    /**
     * Something is not as it should be, and prefork copes: a worker hangs, a deadline has cut connections,
     * descriptors have run out.
     */
    PREFORK_LOG_WARN = 4,
    /** What an operator has asked for has begun, or is done: a reload, an upgrade, a command. */
    PREFORK_LOG_INFO = 6,
    /** What happens all the time: forks, admissions, ends of workers, pauses in accepting. */
    PREFORK_LOG_DEBUG = 7,
} prefork_log_level;

/** Called with a line that prefork itself logs. `level` is one of `enum prefork_log_level`. */
typedef void (*prefork_on_log)(int level, const char *line, void *state);

/**
 * Sets a function that is called with each line that prefork itself logs, instead of writing it to standard error.
 * The line has no line end, no control characters, no time, and no `prefork: ` before it; that of a worker begins with
 * `worker ID: `. Lines less important than the setting `log-level` (`error`, `warn`, `info`, `debug`) are left out.
 * `syslog(level, "%s", line)` is all that is needed for syslog(3). NULL unsets it.
 *
 * It is called in the middle of prefork's work: it must not call any function of this header, and must not take long.
 * What handlers print does not come here.
 *
 * Returns PREFORK_OK.
 * Process: master, before it runs; `on_log` is called in the master and in workers, in the first thread.
 * Pointers: Borrows `server` until return. Borrows `state`, which may be NULL, until `server` is freed: a worker has
 * its own copy of the memory behind it, as of its fork. `line` is borrowed until `on_log` returns.
 */
int prefork_server_on_log(prefork_server *server, prefork_on_log on_log, void *state);


/* THE RUNNING SERVER: its loop, commands and queries
 * -------------------------------------------------------------------------------------------------------- */

/** A running server. Later versions may add members at the end. */
typedef struct prefork_server_status {
    /** The size of this struct: set it before the call; afterwards the size that was filled in. */
    uint32_t size;
    /** The generation that serves, or is being replaced. */
    uint32_t generation;
    /** The number of workers wanted. */
    uint32_t slots;
    /** The number of workers that are not reaped yet. */
    uint32_t workers;
    /** 1 during a reload, else 0. */
    uint32_t reloading;
    /** 1 during a stop, else 0. */
    uint32_t stopping;
    /** Connections taken by workers. This counter and those below include workers that have ended. */
    uint64_t taken;
    /** Requests answered; in blocking style, connections served. */
    uint64_t requests;
    /**
     * Requests that prefork refused, or whose handler failed: an error or a panic, a deadline, a body that was cut.
     * Statuses that a handler chose are not counted, whatever they are.
     */
    uint64_t errors;
    /** Bytes from clients. */
    uint64_t bytes_in;
    /** Bytes to clients. */
    uint64_t bytes_out;
} prefork_server_status;

/**
 * Makes this process the master, for a program with an event loop of its own, and returns at once. Then call
 * `prefork_server_step()`: now, which starts the workers; whenever the descriptor of `prefork_server_fd()` is
 * readable; and when the time of `prefork_server_timeout()` has passed.
 *
 * Signals stay the program's, SIGPIPE too, unless `prefork_server_set(server, "signals", "on")` says that they are
 * handled as in `prefork_server_run()`. The program may have children of its own and a handler of SIGCHLD, but
 * should not reap workers: their exit codes would be lost. It must not start a thread while the server runs: no
 * more workers could be forked. Workers have copies of all descriptors that are open at their fork: close in
 * `worker_start` those whose peers wait for them to be closed. Standard input, output or error that is closed
 * becomes /dev/null, as in `prefork_server_run()`.
 *
 * Returns as `prefork_server_run()`, except for failures of workers.
 * Process: becomes the master.
 * Pointers: Borrows `server` until return.
 */
int prefork_server_start(prefork_server *server);

/**
 * The descriptor to watch, which is readable while there is something for `prefork_server_step()` to do. It is an
 * epoll descriptor, which poll(2) and epoll(7) can watch.
 *
 * Returns a descriptor that is borrowed until the server has ended, which closes it: neither read nor close it.
 * Process: master, while it runs.
 * Pointers: Borrows `server` until return.
 */
int prefork_server_fd(const prefork_server *server);

/**
 * The time after which to call `prefork_server_step()` although the descriptor is not readable, in the form that
 * poll(2) and epoll_wait(2) take.
 *
 * Returns milliseconds. 0: call now. Negative: no need to call, or the server is not running.
 * Process: master.
 * Pointers: Borrows `server` until return.
 */
int prefork_server_timeout(const prefork_server *server);

/**
 * Waits until there is something to do, for at most `timeout_ms` milliseconds (0: not at all; negative: forever),
 * does it, and then runs the callbacks. A callback may call anything except `prefork_server_step()`, `_start()`,
 * `_run()` and `_free()`.
 *
 * Returns 1 while the server runs, and PREFORK_OK when it has ended: every worker is reaped, everything is closed,
 * and the server may be started again or freed. PREFORK_HANDLER (the first workers could not start),
 * PREFORK_MISCONFIGURED and PREFORK_SYSTEM end it too.
 * Process: master, while it runs; not in a callback.
 * Pointers: Borrows `server` until return.
 */
int prefork_server_step(prefork_server *server, int timeout_ms);

/**
 * Replaces all workers by a new generation, one after the other. If a new worker fails, the old generation is
 * restored. An event PREFORK_EVENT_RELOAD_* reports the outcome. The file of a module is read anew. A reload asked
 * for during another begins after it. It begins in the next step, if `prefork_server_on_reload()` does not refuse it.
 *
 * Returns PREFORK_OK; PREFORK_STATE also if the server is stopping.
 * Process: master, while it runs.
 * Pointers: Borrows `server` until return.
 */
int prefork_server_reload(prefork_server *server);

/**
 * Has the file now at the program's path take this program's place, in this process and with its workers, after a
 * trial (see UPGRADES above), and then replaces all workers. If that succeeds, a later step does not return: the new
 * program runs instead. If it fails, PREFORK_EVENT_ERROR has the reason.
 *
 * Returns PREFORK_OK; PREFORK_STATE also if the server is stopping, or an upgrade is under way.
 * Process: master, while it runs.
 * Pointers: Borrows `server` until return.
 */
int prefork_server_upgrade(prefork_server *server);

/**
 * Sets the number of workers, 1 to 1024. If there are fewer than before, those in the highest slots leave.
 *
 * Returns PREFORK_OK; PREFORK_CONFIG if the number is out of range; PREFORK_STATE also if the server is stopping, or
 * its first workers are not all ready yet; PREFORK_SYSTEM if the hard limit on open descriptors (`ulimit -Hn`) is too
 * low for that many.
 * Process: master, while it runs.
 * Pointers: Borrows `server` until return.
 */
int prefork_server_scale(prefork_server *server, uint32_t workers);

/**
 * Starts one more worker. It and its successors in the slot have `count` variables, given as `NAME=value`, in their
 * environment (getenv(3)), in addition to those of this process.
 *
 * Returns the slot, which is the highest; PREFORK_CONFIG if there are 1024 workers, or if a string is not a
 * variable; PREFORK_INVALID if one is not UTF-8; PREFORK_STATE and PREFORK_SYSTEM as `prefork_server_scale()`.
 * Process: master, while it runs.
 * Pointers: Borrows `server` until return. Copies `count` strings at `variables`, each NUL-terminated;
 * `variables` may be NULL if `count` is 0.
 */
int prefork_server_fork(prefork_server *server, size_t count, const char *const *variables);

/**
 * Drains a worker: it finishes what it has and exits; its idle connections go to other workers. Its successor starts
 * at once. After `deadline_ms` milliseconds (0: forever; negative: the setting `drain-timeout`) it ends what it still
 * has, and a second later it is killed.
 *
 * Returns PREFORK_OK, or PREFORK_GONE if there is no such worker.
 * Process: master, while it runs.
 * Pointers: Borrows `server` until return.
 */
int prefork_server_drain(prefork_server *server, uint32_t id, int deadline_ms);

/**
 * Sends a signal to a worker (kill(2)); 0 only checks that it exists. If the signal ends the worker, the reason is
 * PREFORK_REASON_KILLED with `intended` = 1, and its successor starts at once. SIGTERM drains the worker first, as
 * `prefork_server_drain()` does. HUP, INT, QUIT and others that workers ignore have no effect.
 *
 * Returns PREFORK_OK; PREFORK_GONE if there is no such worker; PREFORK_SYSTEM if kill(2) fails.
 * Process: master, while it runs.
 * Pointers: Borrows `server` until return.
 */
int prefork_server_kill(prefork_server *server, uint32_t id, int signal);

/**
 * Begins an orderly stop: what was accepted is served, and all workers are drained. A second call kills them. When
 * the last worker is reaped, `prefork_server_step()` or `prefork_server_run()` returns PREFORK_OK, after
 * PREFORK_EVENT_STOPPED.
 *
 * Returns PREFORK_OK.
 * Process: master, while it runs.
 * Pointers: Borrows `server` until return.
 */
int prefork_server_stop(prefork_server *server);

/**
 * Calls a function with each worker that is not reaped yet. The function may call anything: the list is a copy.
 *
 * Returns the number of workers.
 * Process: master, while it runs.
 * Pointers: Borrows `server` and `arg`, which may be NULL, until return. `info` is borrowed until `each` returns.
 */
int prefork_server_each_worker(const prefork_server *server,
                               void (*each)(const prefork_worker_status *info, void *arg),
                               void *arg);

/**
 * Fills `info` with the state and counters of a worker.
 *
 * Returns PREFORK_OK; PREFORK_GONE if there is no such worker, or it is reaped (Node: `isDead`); PREFORK_INVALID if
 * `info->size` is not set.
 * Process: master, while it runs.
 * Pointers: Borrows `server` until return, and `info`, of which `info->size` bytes are filled in.
 */
int prefork_server_worker(const prefork_server *server, uint32_t id, prefork_worker_status *info);

/**
 * Fills `info` with the state and counters of the server.
 *
 * Returns PREFORK_OK, or PREFORK_INVALID if `info->size` is not set.
 * Process: master, while it runs.
 * Pointers: Borrows `server` until return, and `info`, of which `info->size` bytes are filled in.
 */
int prefork_server_info(const prefork_server *server, prefork_server_status *info);

/**
 * Fills `last` with the end of the last worker of a slot that has ended.
 *
 * Returns PREFORK_OK; PREFORK_GONE if no worker has ended there, or there is no such slot; PREFORK_INVALID if
 * `last->size` is not set.
 * Process: master, while it runs.
 * Pointers: Borrows `server` until return, and `last`, of which `last->size` bytes are filled in.
 */
int prefork_server_last_exit(const prefork_server *server, uint32_t slot, prefork_exit *last);


/* UNIT TESTS of handlers: no process, no port, no waiting
 * -------------------------------------------------------------------------------------------------------- */

/**
 * A worker with the handler that is tested, in the thread of the test, and the response that came last. Created by
 * `prefork_test_new()` or `prefork_test_load()`, freed by `prefork_test_free()`.
 *
 * Only the thread that has created it may use it, and no callback of the handler: elsewhere calls return
 * PREFORK_STATE. A call that is refused prints one line on standard error, and `prefork_test_error()` returns it.
 */
typedef struct prefork_test prefork_test;

/**
 * A client of the handler: the other end of its connection. Created by `prefork_test_connect()` and others, freed by
 * `prefork_test_close()`. Only the thread that has created it may use it, and no callback of the handler.
 */
typedef struct prefork_test_client prefork_test_client;

/**
 * Creates a test of a handler. `handler` is the descriptor that PREFORK_MODULE defines (`&prefork_module`) or that
 * `prefork_module_init()` has filled in; `state` is what `*state` is in `worker_start`, and may be NULL.
 *
 * Returns a new test (creates: free it with `prefork_test_free()`); NULL if `handler` is NULL, of another ABI, or has
 * no handler in it, after a line on standard error that says what to do.
 * Process: any that runs no server.
 * Pointers: Copies `handler`. Borrows `state` until the test is freed.
 */
prefork_test *prefork_test_new(const struct prefork_module *handler, void *state);

/**
 * Creates a test of the module in a file. It is loaded by its own path when the worker starts, and stays loaded.
 *
 * Returns a new test (creates: free it with `prefork_test_free()`), or NULL.
 * Process: any that runs no server.
 * Pointers: Copies `path`, which is NUL-terminated.
 */
prefork_test *prefork_test_load(const char *path);

/**
 * Frees a test. Its worker stops, as by `prefork_test_stop()`. Does nothing if `test` is NULL, in a callback, and in
 * another thread.
 *
 * Process: that of the test.
 * Pointers: Takes `test`: no other call with it after this one. Its clients are to be closed too.
 */
void prefork_test_free(prefork_test *test);

/**
 * The reason why the last call with this test was refused: one line.
 *
 * Returns a NUL-terminated string that borrows from `test` until the next call with it; empty if that call was not
 * refused, or if `test` is NULL.
 * Process: that of the test.
 * Pointers: Borrows `test` until return.
 */
const char *prefork_test_error(const prefork_test *test);

/**
 * Sets a setting as `prefork_server_set()` does, before the worker starts: `prefork_test_set(test, "max-body", "1K")`.
 * `listen` adds a listener, such as `admin=127.0.0.1:8081`; nothing is bound. Without any there are two,
 * `127.0.0.1:8080` and `udp:127.0.0.1:8080`, and the handler need not serve both.
 *
 * Returns PREFORK_OK, PREFORK_CONFIG, PREFORK_INVALID, or PREFORK_STATE after the start.
 * Process: that of the test.
 * Pointers: Borrows `test` until return. Copies `name` and `value`, which are NUL-terminated.
 */
int prefork_test_set(prefork_test *test, const char *name, const char *value);

/**
 * Sets the arguments of the handler, which `prefork_worker_arg()` returns, before the worker starts.
 *
 * Returns PREFORK_OK, or PREFORK_STATE after the start.
 * Process: that of the test.
 * Pointers: Borrows `test` until return. Copies `count` strings at `args`, each NUL-terminated; `args` may be NULL if
 * `count` is 0.
 */
int prefork_test_args(prefork_test *test, size_t count, const char *const *args);

/**
 * Starts the worker: `worker_start` is called. The first of the other calls does so too.
 *
 * Returns PREFORK_OK; PREFORK_HANDLER if the handler cannot serve; PREFORK_CONFIG if settings cannot be combined;
 * PREFORK_SYSTEM; PREFORK_STATE if it has failed to start before.
 * Process: that of the test.
 * Pointers: Borrows `test` until return.
 */
int prefork_test_start(prefork_test *test);

/**
 * Sets the address of the clients that follow, for instance `203.0.113.7:4711`; NULL: one of 127.0.0.1.
 *
 * Returns PREFORK_OK, or PREFORK_INVALID if it is no IP address with a port.
 * Process: that of the test.
 * Pointers: Borrows `test` until return. Copies `address`, which is NULL or NUL-terminated.
 */
int prefork_test_peer(prefork_test *test, const char *address);

/**
 * Adds a field to the next request. `Host: localhost` and the length of the body need not be given.
 *
 * Returns PREFORK_OK.
 * Process: that of the test.
 * Pointers: Borrows `test` until return. Copies `name` and `value`, which are NUL-terminated.
 */
int prefork_test_set_header(prefork_test *test, const char *name, const char *value);

/**
 * Sends a request on a connection of its own and waits for the response, which `prefork_test_body()` and
 * `prefork_test_header()` read: `prefork_test_request(test, "GET", "/path?n=1", NULL, 0)`. A response that the handler
 * keeps for a timer does not come by itself: `prefork_test_begin()`. One that a thread of the handler ends is waited
 * for, up to ten seconds.
 *
 * Returns the status code, 200 to 599 or 101; PREFORK_AGAIN if no response comes; PREFORK_STATE if the handler takes no
 * requests; those of `prefork_test_start()`.
 * Process: that of the test.
 * Pointers: Borrows `test` until return. Copies `method` and `target`, which are NUL-terminated, and `size` bytes at
 * `body`, which may be NULL if `size` is 0.
 */
int prefork_test_request(prefork_test *test,
                         const char *method,
                         const char *target,
                         const void *body,
                         size_t size);

/**
 * As `prefork_test_request()`, and does not wait for the response: `prefork_test_response()` returns it.
 *
 * Returns a new client (creates: free it with `prefork_test_close()`), or NULL if the handler takes no requests.
 * Process: that of the test.
 * Pointers: As `prefork_test_request()`. Borrows `test` until return. Copies the rest.
 */
prefork_test_client *prefork_test_begin(prefork_test *test,
                                               const char *method,
                                               const char *target,
                                               const void *body,
                                               size_t size);

/**
 * The response to the request that a client has begun. If it is complete, `prefork_test_body()` and
 * `prefork_test_header()` read it.
 *
 * Returns the status code; PREFORK_AGAIN if it has not come, or not all of it.
 * Process: that of the test.
 * Pointers: Borrows `test` and `client` until return.
 */
int prefork_test_response(prefork_test *test, prefork_test_client *client);

/**
 * The status code of the response that came last.
 *
 * Returns it, or 0 before the first.
 * Process: that of the test.
 * Pointers: Borrows `test` until return.
 */
int prefork_test_status(prefork_test *test);

/**
 * The body of the response that came last, decoded of chunks.
 *
 * Returns bytes that borrow from `test` until the next response; no value before the first.
 * Process: that of the test.
 * Pointers: Borrows `test` until return.
 */
prefork_slice prefork_test_body(prefork_test *test);

/**
 * The value of a field of the response that came last; of several, the first.
 *
 * Returns bytes that borrow from `test` until the next response; no value if there is no such field.
 * Process: that of the test.
 * Pointers: Borrows `test` until return, and `name`, which is NUL-terminated.
 */
prefork_slice prefork_test_header(prefork_test *test, const char *name);

/**
 * The connection of the response that came last: for another request by `prefork_test_send()`, or for the stream that
 * follows an upgrade (101).
 *
 * Returns a new client (creates: free it with `prefork_test_close()`), or NULL before the first response.
 * Process: that of the test.
 * Pointers: Borrows `test` until return.
 */
prefork_test_client *prefork_test_connection(prefork_test *test);

/**
 * Connects a client: for a stream, a connection in blocking style, or bytes of HTTP as they are. `listener` is the name
 * of a listener, or NULL for the first one.
 *
 * Returns a new client (creates: free it with `prefork_test_close()`); NULL if there is no such listener, or if the
 * handler takes datagrams only.
 * Process: that of the test.
 * Pointers: Borrows `test` until return, and `listener`, which is NULL or NUL-terminated.
 */
prefork_test_client *prefork_test_connect(prefork_test *test, const char *listener);

/**
 * Sends bytes from a client, and lets the worker do what there is to do. In blocking style they wait for
 * `prefork_test_receive()`, which sends them and the end of file, and calls the handler.
 *
 * Returns PREFORK_OK.
 * Process: that of the test.
 * Pointers: Borrows `client` until return. Copies `size` bytes at `data`, which may be NULL if `size` is 0.
 */
int prefork_test_send(prefork_test_client *client, const void *data, size_t size);

/**
 * What a client has received since the last call, when the worker has nothing more to do.
 *
 * Returns bytes that borrow from `client` until the next call with it; an empty value if nothing has come.
 * Process: that of the test.
 * Pointers: Borrows `client` until return.
 */
prefork_slice prefork_test_receive(prefork_test_client *client);

/**
 * Ends the client's side: the handler finds the end of file behind what was sent.
 *
 * Returns PREFORK_OK.
 * Process: that of the test.
 * Pointers: Borrows `client` until return.
 */
int prefork_test_finish(prefork_test_client *client);

/**
 * Says whether a client reads what comes, as it does from the start. One that does not is slow: the handler's writes
 * find no room when the sockets' buffers are full (about 200 KiB) and `max-pending` bytes wait.
 *
 * Returns PREFORK_OK.
 * Process: that of the test.
 * Pointers: Borrows `client` until return.
 */
int prefork_test_set_reading(prefork_test_client *client, int reads);

/**
 * Says whether the worker has closed a client's connection.
 *
 * Returns 1 if it has, in order or by a reset, else 0; PREFORK_NULL, PREFORK_STATE.
 * Process: that of the test.
 * Pointers: Borrows `client` until return.
 */
int prefork_test_is_closed(prefork_test_client *client);

/**
 * Closes a client's connection, lets the worker notice, and frees the client. Does nothing if it is NULL, and in
 * another thread.
 *
 * Process: that of the test.
 * Pointers: Takes `client`: no other call with it after this one.
 */
void prefork_test_close(prefork_test_client *client);

/**
 * Sends the handler a datagram, at the first listener for datagrams. `prefork_test_reply()` returns those that it
 * answers with.
 *
 * Returns the number of answers; PREFORK_STATE if the handler takes no datagrams; PREFORK_TOO_LARGE over 65,507 bytes.
 * Process: that of the test.
 * Pointers: Borrows `test` until return. Copies `size` bytes at `data`, which may be NULL if `size` is 0.
 */
int prefork_test_datagram(prefork_test *test, const void *data, size_t size);

/**
 * One of the answers to the last datagram, from 0.
 *
 * Returns bytes that borrow from `test` until the next datagram; no value if there are fewer.
 * Process: that of the test.
 * Pointers: Borrows `test` until return.
 */
prefork_slice prefork_test_reply(prefork_test *test, size_t index);

/**
 * Sends the handler a message (`on_message`) from the worker with the id `from`, or from PREFORK_TO_MASTER.
 *
 * Returns PREFORK_OK, PREFORK_TOO_LARGE, or PREFORK_GONE if the worker has ended.
 * Process: that of the test.
 * Pointers: Borrows `test` until return. Copies `size` bytes at `data`, which may be NULL if `size` is 0.
 */
int prefork_test_message(prefork_test *test, uint32_t from, uint32_t type, const void *data, size_t size);

/**
 * Takes the next message that the handler has sent to the master, or to a worker that is not in the test; `*to` and
 * `*type` are what it has given with it. What it has published has the type 0 and PREFORK_TO_ALL, without its topic.
 *
 * Returns bytes that borrow from `test` until the next call of this; no value if there is none.
 * Process: that of the test.
 * Pointers: Borrows `test` until return, and `to` and `type`, which may be NULL.
 */
prefork_slice prefork_test_sent(prefork_test *test, uint32_t *to, uint32_t *type);

/**
 * Advances the clock of timers and deadlines, which stands still otherwise, for all tests of this thread. What is due
 * meanwhile happens in order, each at its time. time(2), clock_gettime(2), and the deadlines of reads and writes in
 * blocking style are not affected.
 *
 * Returns PREFORK_OK.
 * Process: that of the test.
 * Pointers: Borrows `test` until return.
 */
int prefork_test_advance(prefork_test *test, uint64_t milliseconds);

/**
 * Calls a function as a callback of the worker, in which the functions of prefork_worker_* can be used.
 *
 * Returns PREFORK_OK.
 * Process: that of the test.
 * Pointers: Borrows `test` and `state` until return.
 */
int prefork_test_call(prefork_test *test, void (*function)(prefork_worker *worker, void *state), void *state);

/**
 * Tells the worker to drain, as a stop does: `on_drain` is called, nothing new is taken, and when it has finished what
 * it has, it ends. What it has may last until the setting `drain-timeout` (`prefork_test_advance()`).
 *
 * Returns 1 if it has ended, else 0.
 * Process: that of the test.
 * Pointers: Borrows `test` until return.
 */
int prefork_test_drain(prefork_test *test);

/**
 * Stops the worker: it drains, what it cannot finish now is cut, and `worker_stop` is called.
 *
 * Returns the number of connections that were cut.
 * Process: that of the test.
 * Pointers: Borrows `test` until return.
 */
int prefork_test_stop(prefork_test *test);

/**
 * Has the worker of another test, with a handler of the same kind, go on with the streams and connections of this one,
 * as in a reload: this one drains, and `on_handover` and `on_takeover` are called. Clients stay as they are.
 *
 * Returns 1 if this one has ended, 0 if it keeps something until the setting `drain-timeout`; PREFORK_INVALID if
 * `other` is `test`.
 * Process: that of the test.
 * Pointers: Borrows `test` and `other` until return.
 */
int prefork_test_hand_over(prefork_test *test, prefork_test *other);

/* MACROS AND INLINE FUNCTIONS
 * -------------------------------------------------------------------------------------------------------- */

/**
 * A descriptor without callbacks, for `prefork_server_module()`, with the size and versions of this header.
 *
 * Returns the descriptor, by value.
 * Process: any.
 */
static inline struct prefork_module prefork_module_init(void)
{
    struct prefork_module module;
    memset(&module, 0, sizeof module);
    module.size = sizeof module;
    module.abi_major = PREFORK_ABI_MAJOR;
    module.abi_minor = PREFORK_ABI_MINOR;
    return module;
}

/**
 * True if a slice has exactly the bytes of a text: `prefork_slice_is(prefork_request_method(req), "GET")`.
 *
 * Returns 1 or 0; 0 also if there is no value, or `text` is NULL.
 * Process: any, in any thread.
 * Pointers: Borrows the bytes of `slice`, and `text`, which is NUL-terminated, until return.
 */
static inline int prefork_slice_is(prefork_slice slice, const char *text)
{
    return slice.data && text && strlen(text) == slice.len && memcmp(slice.data, text, slice.len) == 0;
}

/**
 * As `prefork_slice_is()`, whatever the case of ASCII letters, for names and values that have none: `keep-alive`.
 *
 * Returns 1 or 0; 0 also if there is no value, or `text` is NULL.
 * Process: any, in any thread.
 * Pointers: Borrows the bytes of `slice`, and `text`, which is NUL-terminated, until return.
 */
static inline int prefork_slice_is_nocase(prefork_slice slice, const char *text)
{
    size_t i;

    if (!slice.data || !text || strlen(text) != slice.len)
        return 0;
    for (i = 0; i < slice.len; i++) {
        unsigned char a = (unsigned char)slice.data[i], b = (unsigned char)text[i];
        if (a != b && ((a ^ b) != 0x20 || (a | 0x20) < 'a' || (a | 0x20) > 'z'))
            return 0;
    }
    return 1;
}

/**
 * Copies a slice, for what is kept longer than the slice, and for functions that take NUL-terminated strings. A NUL in
 * it ends the string for these.
 *
 * Returns a new NUL-terminated string (creates: free it with free(3)); NULL if there is no value, or no memory.
 * Process: any, in any thread.
 * Pointers: Borrows the bytes of `slice` until return.
 */
static inline char *prefork_slice_dup(prefork_slice slice)
{
    char *copy = slice.data ? (char *)malloc(slice.len + 1) : NULL;

    if (copy) {
        memcpy(copy, slice.data, slice.len);
        copy[slice.len] = 0;
    }
    return copy;
}

/* Formats a text as vsnprintf(3) does: into `room` bytes at `buffer`, or if it is longer, into memory for free(3). Its
 * size without the NUL is in `size`. Returns NULL if the format is invalid or there is no memory. */
static inline char *prefork_format_(char *buffer, size_t room, size_t *size, const char *format, va_list arguments)
{
    va_list again;
    char *text = buffer;
    int len;

    va_copy(again, arguments);
    len = vsnprintf(buffer, room, format, arguments);
    if (len >= 0 && (size_t)len >= room) {
        text = (char *)malloc((size_t)len + 1);
        if (text)
            vsnprintf(text, (size_t)len + 1, format, again);
    }
    va_end(again);
    *size = len < 0 ? 0 : (size_t)len;
    return len < 0 ? NULL : text;
}

/* The compiler checks arguments against the format, which is the parameter with this number. */
#define PREFORK_PRINTF_(at) __attribute__((__format__(__printf__, at, at + 1)))

static inline int prefork_response_printf(prefork_response *res, const char *format, ...) PREFORK_PRINTF_(2);
static inline ptrdiff_t prefork_conn_printf(prefork_conn *conn, const char *format, ...) PREFORK_PRINTF_(2);

/**
 * Adds a text to the body as `prefork_response_write()` does, formatted as by printf(3). It may be called several
 * times; set the status and header fields before.
 *
 * Returns as `prefork_response_write()`; PREFORK_INVALID if the format or an argument is invalid, or there is no
 * memory.
 * Process: worker.
 * Pointers: Borrows `res`, `format`, which is NUL-terminated, and the arguments until return.
 */
static inline int prefork_response_printf(prefork_response *res, const char *format, ...)
{
    char buffer[1024], *text;
    va_list arguments;
    size_t size;
    int status = PREFORK_INVALID;

    if (!res || !format)
        return PREFORK_NULL;
    va_start(arguments, format);
    text = prefork_format_(buffer, sizeof buffer, &size, format, arguments);
    va_end(arguments);
    if (text)
        status = prefork_response_write(res, text, size);
    if (text != buffer)
        free(text);
    return status;
}

/**
 * Writes a text as `prefork_conn_write()` does, formatted as by printf(3).
 *
 * Returns as `prefork_conn_write()`; PREFORK_INVALID if the format or an argument is invalid, or there is no memory.
 * Process: worker.
 * Pointers: Borrows `conn`, `format`, which is NUL-terminated, and the arguments until return.
 */
static inline ptrdiff_t prefork_conn_printf(prefork_conn *conn, const char *format, ...)
{
    char buffer[1024], *text;
    va_list arguments;
    size_t size;
    ptrdiff_t status = PREFORK_INVALID;

    if (!conn || !format)
        return PREFORK_NULL;
    va_start(arguments, format);
    text = prefork_format_(buffer, sizeof buffer, &size, format, arguments);
    va_end(arguments);
    if (text)
        status = prefork_conn_write(conn, text, size);
    if (text != buffer)
        free(text);
    return status;
}

/* Makes a symbol of a module visible to the program that loads it, whatever -fvisibility says. */
#define PREFORK_EXPORT __attribute__((visibility("default")))

/**
 * Defines the one symbol of a module, `prefork_module`. Use it once, at file scope, without a semicolon.
 *
 *     PREFORK_MODULE(.on_request = hello)
 *     PREFORK_MODULE(.worker_start = start, .on_data = data, .on_close = close)
 *
 * It is written the same way in C99 and in C++11, which has no designated initialisers: there each
 * `.member = function` is an assignment that runs when the module is loaded.
 */
#ifndef __cplusplus
#define PREFORK_MODULE(...)                                                                                \
    extern PREFORK_EXPORT const struct prefork_module prefork_module;                                      \
    const struct prefork_module prefork_module = {.size = sizeof(struct prefork_module),                   \
                                                  .abi_major = PREFORK_ABI_MAJOR,                          \
                                                  .abi_minor = PREFORK_ABI_MINOR,                          \
                                                  __VA_ARGS__};
#else
#define PREFORK_MODULE(...)                                                                                \
    extern "C" {                                                                                           \
    extern PREFORK_EXPORT const struct prefork_module prefork_module;                                      \
    }                                                                                                      \
    static struct prefork_module prefork_module_make()                                                     \
    {                                                                                                      \
        struct prefork_module m = prefork_module_init();                                                   \
        PREFORK_SET_(__VA_ARGS__)                                                                          \
        return m;                                                                                          \
    }                                                                                                      \
    const struct prefork_module prefork_module = prefork_module_make();
#define PREFORK_SET_(...)                                                                                  \
    PREFORK_PICK_(__VA_ARGS__, PREFORK_18_, PREFORK_17_, PREFORK_16_, PREFORK_15_, PREFORK_14_,            \
                  PREFORK_13_, PREFORK_12_, PREFORK_11_, PREFORK_10_, PREFORK_9_, PREFORK_8_, PREFORK_7_,  \
                  PREFORK_6_, PREFORK_5_, PREFORK_4_, PREFORK_3_, PREFORK_2_, PREFORK_1_,                  \
                  none)(__VA_ARGS__)
#define PREFORK_PICK_(_1, _2, _3, _4, _5, _6, _7, _8, _9, _10, _11, _12, _13, _14, _15, _16, _17, _18,     \
                      macro, ...) macro
#define PREFORK_1_(a) m a;
#define PREFORK_2_(a, ...) m a; PREFORK_1_(__VA_ARGS__)
#define PREFORK_3_(a, ...) m a; PREFORK_2_(__VA_ARGS__)
#define PREFORK_4_(a, ...) m a; PREFORK_3_(__VA_ARGS__)
#define PREFORK_5_(a, ...) m a; PREFORK_4_(__VA_ARGS__)
#define PREFORK_6_(a, ...) m a; PREFORK_5_(__VA_ARGS__)
#define PREFORK_7_(a, ...) m a; PREFORK_6_(__VA_ARGS__)
#define PREFORK_8_(a, ...) m a; PREFORK_7_(__VA_ARGS__)
#define PREFORK_9_(a, ...) m a; PREFORK_8_(__VA_ARGS__)
#define PREFORK_10_(a, ...) m a; PREFORK_9_(__VA_ARGS__)
#define PREFORK_11_(a, ...) m a; PREFORK_10_(__VA_ARGS__)
#define PREFORK_12_(a, ...) m a; PREFORK_11_(__VA_ARGS__)
#define PREFORK_13_(a, ...) m a; PREFORK_12_(__VA_ARGS__)
#define PREFORK_14_(a, ...) m a; PREFORK_13_(__VA_ARGS__)
#define PREFORK_15_(a, ...) m a; PREFORK_14_(__VA_ARGS__)
#define PREFORK_16_(a, ...) m a; PREFORK_15_(__VA_ARGS__)
#define PREFORK_17_(a, ...) m a; PREFORK_16_(__VA_ARGS__)
#define PREFORK_18_(a, ...) m a; PREFORK_17_(__VA_ARGS__)
#endif

#ifdef __cplusplus
}
#endif

#endif /* PREFORK_H */
