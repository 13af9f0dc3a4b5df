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


/* STATUSES
 * -------------------------------------------------------------------------------------------------------- */

/**
 * What a call may return. Done is 0, refusals are negative, and a number never gets another meaning.
 *
 * A call that was refused has changed nothing, unless its description says so.
 */
typedef enum prefork_status {
    /** Done. */
    PREFORK_OK = 0,
    /** A pointer is NULL that must not be. */
    PREFORK_NULL = -1,
    /** An argument is outside its range, or text is not UTF-8. */
    PREFORK_INVALID = -2,
    /** A fault in prefork itself; please report what it printed on standard error. */
    PREFORK_PANIC = -3,
    /**
     * The call is not possible now or in this process: `prefork_server_run()` with several threads, a
     * server that runs already.
     */
    PREFORK_STATE = -4,
    /** The kernel refused; `prefork_server_error()` says what. */
    PREFORK_SYSTEM = -5,
    /** A setting is unknown or cannot have this value; `prefork_server_error()` says what it can have. */
    PREFORK_CONFIG = -6,
    /** An address could not be listened on; `prefork_server_error()` says why. */
    PREFORK_LISTEN = -7,
    /**
     * The handler could not be loaded, or no worker became ready with it; `prefork_server_error()` says
     * why.
     */
    PREFORK_HANDLER = -8,
    /**
     * The name of a header field is not a token, or its value has a control byte in it (RFC 9110 section
     * 5.5).
     */
    PREFORK_FIELD = -9,
    /**
     * A header field that frames the message (Content-Length, Transfer-Encoding, Connection and the like):
     * prefork writes them.
     */
    PREFORK_FRAMING = -10,
    /** Too late: the response has begun already. */
    PREFORK_LATE = -11,
    /**
     * Too much waits for a slow client already (setting `max-pending`), or the response's head grew over
     * 64 KiB; or too much waits for the receiver of a message (four of the size `max-message`).
     */
    PREFORK_FULL = -12,
    /** The client is gone; or the receiver of a message does not exist, or has ended. */
    PREFORK_GONE = -13,
    /** The request did not ask for this upgrade (RFC 9110 section 7.8). */
    PREFORK_UPGRADE = -14,
    /** As a stream: nothing more has arrived; return from the handler and be called again. */
    PREFORK_AGAIN = -15,
    /**
     * In blocking style: the client sent or took nothing before the deadline. To a request between
     * processes: no reply came before its deadline.
     */
    PREFORK_TIMEOUT = -16,
    /** A message is longer than the setting `max-message`. */
    PREFORK_TOO_LARGE = -17,
    /** To a request between processes: its receiver has no `on_message`, or that returned without a reply. */
    PREFORK_UNANSWERED = -18,
} prefork_status;

/**
 * The text of a status, for a message to a human.
 *
 * Returns a static string, never NULL: `unknown status` for a number that is none.
 * Process: any.
 */
const char *prefork_strerror(int status);


/* REQUESTS
 * -------------------------------------------------------------------------------------------------------- */

/**
 * A complete HTTP request, given to `on_request` and borrowed until that callback returns, as is all that the
 * functions below return.
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
 * The body, complete and without its transfer coding; empty if the request has no body. The setting
 * `max-body` limits its size.
 *
 * Returns a slice, borrowed until `on_request` returns.
 * Process: worker.
 * Pointers: Borrows `req` until return.
 */
prefork_slice prefork_request_body(const prefork_request *req);

/**
 * The client's address: `192.0.2.1:4711`, `[2001:db8::1]:4711` or `unix:`; empty if the client has gone before
 * the first call, which makes a system call, getpeername(2).
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


/* RESPONSES
 * -------------------------------------------------------------------------------------------------------- */

/**
 * The response to a request, given to `on_request`. If no function is called it is a 200 with an empty body.
 * It is sent when the callback returns, and is valid until then. prefork writes the header fields Date,
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
 * Adds a header field; a name may be added several times. A `Date` replaces that of prefork. A field that
 * could break the framing of the message is refused.
 *
 * Returns PREFORK_OK, PREFORK_FIELD (the name is not a token, or the value has CR, LF or another control
 * byte; RFC 9110 section 5.5), PREFORK_FRAMING, PREFORK_LATE, PREFORK_FULL or PREFORK_NULL.
 * Process: worker.
 * Pointers: Borrows `res` until return. Copies `name` and `value`, which are NUL-terminated.
 */
int prefork_response_header(prefork_response *res, const char *name, const char *value);

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
 * `on_request` returns: chunked in HTTP/1.1, until the close in HTTP/1.0 (RFC 9112 section 6.3). prefork
 * collects 64 KiB before it sends, never waits, and keeps what the client does not take yet, up to the
 * setting `max-pending`.
 *
 * Returns PREFORK_OK, PREFORK_LATE (after one of the functions that set a whole body), PREFORK_FULL,
 * PREFORK_GONE, PREFORK_INVALID or PREFORK_NULL.
 * Process: worker.
 * Pointers: Borrows `res` until return. Copies `size` bytes at `data`, which may be NULL if `size` is 0.
 */
int prefork_response_write(prefork_response *res, const void *data, size_t size);

/**
 * As `prefork_response_body()`, with the `size` bytes of a regular file that begin at `offset` (sendfile(2)).
 * If the file becomes shorter before they are sent, the connection is cut, since its head gives their number.
 *
 * Returns as `prefork_response_body()`; PREFORK_INVALID if `fd` is negative, is not a regular file, or does
 * not have these bytes.
 * Process: worker.
 * Pointers: Borrows `res` until return. Takes `fd` in any case: prefork closes it when the bytes have been sent,
 * when the client is gone, or when the call is refused.
 */
int prefork_response_file(prefork_response *res, int fd, uint64_t offset, uint64_t size);

/**
 * Closes the connection after this response. If its head has not been sent yet, it says so
 * (`Connection: close`, RFC 9112 section 9.6).
 *
 * Returns PREFORK_OK or PREFORK_NULL.
 * Process: worker.
 * Pointers: Borrows `res` until return.
 */
int prefork_response_close(prefork_response *res);

/**
 * Gives up. The response becomes a 500; if some of it was sent already, the connection is cut, so that the
 * client does not take it for complete.
 *
 * Returns PREFORK_OK or PREFORK_NULL.
 * Process: worker.
 * Pointers: Borrows `res` until return.
 */
int prefork_response_fail(prefork_response *res);

/**
 * Answers 101 and makes the connection a stream, for which `on_open`, `on_data` and `on_close` are called.
 * Header fields added before or after go into the 101 (RFC 9110 section 7.8).
 *
 * Returns PREFORK_OK, PREFORK_UPGRADE (the request's Upgrade field does not name `protocol`), PREFORK_LATE,
 * PREFORK_INVALID or PREFORK_NULL.
 * Process: worker.
 * Pointers: Borrows `res` until return. Copies `protocol`, which is NUL-terminated.
 */
int prefork_response_upgrade(prefork_response *res, const char *protocol);


/* CONNECTIONS: blocking style and streams
 * -------------------------------------------------------------------------------------------------------- */

/**
 * A connection whose bytes the handler reads and writes itself: in blocking style (`on_connection`), in which
 * reading and writing wait, or as a stream (`on_open`, `on_data`, `on_close`), in which they never wait. It
 * is valid until `on_connection` or `on_close` returns; then it is closed.
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
 * `max-pending`.
 *
 * Returns `size`, or a negative status: PREFORK_FULL (in a stream: too much is kept; none of these bytes was
 * taken), PREFORK_TIMEOUT (the client may have received some of them), PREFORK_GONE, PREFORK_SYSTEM,
 * PREFORK_INVALID, PREFORK_NULL.
 * Process: worker.
 * Pointers: Borrows `conn` until return. Copies `size` bytes at `data`, which may be NULL if `size` is 0.
 */
ptrdiff_t prefork_conn_write(prefork_conn *conn, const void *data, size_t size);

/**
 * In a stream: the bytes that have arrived and were not consumed. Used with `prefork_conn_consume()`, it saves
 * the copy that `prefork_conn_read()` makes. What is left when `on_data` returns is there again at its next
 * call, followed by what has arrived since. The connection is cut if more than the setting `max-body` arrives
 * and none of it is consumed.
 *
 * Returns a slice, borrowed until the callback returns or calls `prefork_conn_read()` or
 * `prefork_conn_consume()`; empty in blocking style.
 * Process: worker.
 * Pointers: Borrows `conn` until return.
 */
prefork_slice prefork_conn_data(const prefork_conn *conn);

/**
 * In a stream: drops the first `size` bytes of `prefork_conn_data()`, or all if there are fewer.
 *
 * Returns PREFORK_OK or PREFORK_NULL.
 * Process: worker.
 * Pointers: Borrows `conn` until return. Ends the loan of `prefork_conn_data()`.
 */
int prefork_conn_consume(prefork_conn *conn, size_t size);

/**
 * In a stream: true if the client has ended its side; `prefork_conn_data()` then has the last bytes. The client
 * may still read: what is written now is sent, and then the connection closes by itself.
 *
 * Returns 1 or 0, or PREFORK_NULL.
 * Process: worker.
 * Pointers: Borrows `conn` until return.
 */
int prefork_conn_at_end(const prefork_conn *conn);

/**
 * In a stream: closes the connection once all that was written has been sent. In blocking style it does
 * nothing; the connection closes when `on_connection` returns.
 *
 * Returns PREFORK_OK or PREFORK_NULL.
 * Process: worker.
 * Pointers: Borrows `conn` until return; it stays usable until the callback returns.
 */
int prefork_conn_close(prefork_conn *conn);

/**
 * The number of the connection; no other connection of this worker has it.
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
 * The client's address: `192.0.2.1:4711`, `[2001:db8::1]:4711` or `unix:`; empty if the client has gone before
 * the first call, which makes a system call, getpeername(2).
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
     * The number of the last worker that ended in this slot, or 0 if none has ended; a worker that calls
     * gets the state before its fork. The four members below are 0 if this is 0.
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
    /** Requests refused or failed. */
    uint64_t errors;
    /** Bytes from clients. */
    uint64_t bytes_in;
    /** Bytes to clients. */
    uint64_t bytes_out;
    /** The time of its fork: milliseconds since 1970, by the wall clock at that time. */
    uint64_t started_ms;
} prefork_worker_status;

/**
 * Gets the reply to a request, or the reason why there is none: `status` is PREFORK_OK, or PREFORK_TIMEOUT (no
 * reply before the deadline), PREFORK_GONE (there is no such worker, it has ended, or this worker ends),
 * PREFORK_UNANSWERED, or PREFORK_FULL (too much waits for the receiver). The bytes are borrowed until it
 * returns.
 */
typedef void (*prefork_on_worker_reply)(prefork_worker *worker, int status, const void *data, size_t size,
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
 * Process: worker.
 * Pointers: Borrows `worker` until return.
 */
uint32_t prefork_worker_id(const prefork_worker *worker);

/**
 * The slot of this worker, from 0 to the number of workers less one. The worker that replaces it has the same.
 *
 * Returns the slot, or 0 if `worker` is NULL.
 * Process: worker.
 * Pointers: Borrows `worker` until return.
 */
uint32_t prefork_worker_slot(const prefork_worker *worker);

/**
 * The generation of this worker: 1 from the start, one more with each reload.
 *
 * Returns the generation, or 0 if `worker` is NULL.
 * Process: worker.
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
 * Process: worker.
 * Pointers: Borrows `worker` until return.
 */
size_t prefork_worker_arg_count(const prefork_worker *worker);

/**
 * One of the handler's arguments; `index` counts from 0.
 *
 * Returns a NUL-terminated string, borrowed as long as the worker lives, or NULL if `index` is
 * `prefork_worker_arg_count()` or more.
 * Process: worker.
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
 * Returns as `prefork_worker_send()`; PREFORK_STATE to PREFORK_TO_ALL; PREFORK_NULL also if `on_reply` is
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

/** The major version of the binary interface: a module loads where it is equal. */
#define PREFORK_ABI_MAJOR 2

/**
 * The minor version of the binary interface: it counts what was added, and does not keep a module from
 * loading.
 */
#define PREFORK_ABI_MINOR 0

/**
 * A handler: the callbacks a module or a program offers. Every one may be NULL but for one of
 * `on_request`, `on_connection`, `on_data` and `on_datagram`. Which of the first three is set says how new
 * connections are served; `on_datagram` may stand beside each of them, or alone.
 *
 * All run in the worker, which has one thread, one at a time. `state` is what `worker_start` left there.
 * No callback may let a C++ exception or a longjmp out.
 *
 * The first three members are filled in by PREFORK_MODULE or `prefork_module_init()`. The struct grows at
 * its end only, and each side reads no more of it than both know.
 */
struct prefork_module {
    /** The size of this struct where the module was compiled. */
    uint32_t size;
    /** PREFORK_ABI_MAJOR where the module was compiled. */
    uint16_t abi_major;
    /** PREFORK_ABI_MINOR where the module was compiled. */
    uint16_t abi_minor;
    /**
     * Called first, before the worker is ready: open here what must not be shared between processes.
     * `*state` is the pointer given with the handler (NULL for a module from a file) and may be replaced.
     * Returns 0, or anything else where this worker cannot serve: it is tried again, later and later. One
     * that would fail in the same way each time, since its configuration is wrong, calls `_exit(78)`
     * (EX_CONFIG): its slot stays empty until a reload.
     */
    int (*worker_start)(prefork_worker *worker, void **state);
    /**
     * Called last, when the worker has finished its last connection. A worker that is killed does not get
     * here.
     */
    void (*worker_stop)(prefork_worker *worker, void *state);
    /**
     * Answers one complete HTTP request. `req`, `res` and all they give are borrowed until it returns. The
     * worker serves many connections, but none of them while this runs.
     */
    void (*on_request)(prefork_request *req, prefork_response *res, void *state);
    /**
     * Serves one connection in blocking style and returns when done with it, which closes it. The worker
     * has this one only.
     */
    void (*on_connection)(prefork_conn *conn, void *state);
    /** A stream connection begins: a new one, or one that `prefork_response_upgrade()` has made. */
    void (*on_open)(prefork_conn *conn, void *state);
    /**
     * A stream connection has bytes to read, or has reached its end. Beside `on_request` it serves
     * upgraded connections.
     */
    void (*on_data)(prefork_conn *conn, void *state);
    /** A stream connection is over; nothing can be read or written any more. */
    void (*on_close)(prefork_conn *conn, void *state);
    /** The worker was told to finish what it has and takes nothing new. */
    void (*on_drain)(prefork_worker *worker, void *state);
    /**
     * A message has come from the worker with the id `from`, or from the master (PREFORK_TO_MASTER).
     * `type` is what the sender gave. A request is answered with `prefork_worker_reply()`. `size` bytes at
     * `data` are borrowed until it returns. In blocking style it is called between two connections.
     */
    void (*on_message)(prefork_worker *worker, uint32_t from, uint32_t type, const void *data, size_t size,
                       void *state);
    /**
     * A datagram has come to an address `udp:HOST:PORT`, from `peer`: a `struct sockaddr_in` or
     * `sockaddr_in6`, as its `sa_family` says. All is borrowed until it returns;
     * `prefork_datagram_reply()` answers.
     */
    void (*on_datagram)(prefork_worker *worker, const struct sockaddr *peer, const void *data, size_t len,
                        void *state);
    /**
     * The callback that is running has taken longer than the setting `timeout`; a second from now the
     * worker is aborted (SIGABRT). Called once, IN A SIGNAL HANDLER that interrupts that callback wherever
     * it is: only what signal-safety(7) lists may be called here, of this header `prefork_worker_overdue()`
     * alone; no malloc, no stdio, no lock, no longjmp. A system call in which the callback waits (read,
     * nanosleep, poll, ...) ends with EINTR afterwards; prefork's own are made again.
     *
     * It is good for: write(2) of a line, or of a backtrace with backtrace_symbols_fd(3) where backtrace(3)
     * has been called once before; setting a `volatile sig_atomic_t` that a long loop looks at; shutdown(2)
     * of a socket that the callback waits for. If the callback returns in time, its client is answered and
     * the worker serves on.
     */
    void (*on_hang)(prefork_worker *worker, void *state);
};


/* EVENTS: for programs that embed prefork
 * -------------------------------------------------------------------------------------------------------- */

/** What an event tells. A number never gets another meaning; there may be more of them in later versions. */
typedef enum prefork_event_type {
    /** The addresses are bound, the first workers follow. */
    PREFORK_EVENT_SETUP = 1,
    /** A worker was forked. */
    PREFORK_EVENT_FORK = 2,
    /** A worker runs. */
    PREFORK_EVENT_ONLINE = 3,
    /** A worker serves connections of `address`; one event for each address. */
    PREFORK_EVENT_LISTENING = 4,
    /** A worker can serve: `worker_start` has returned. */
    PREFORK_EVENT_READY = 5,
    /** A worker gets no more connections, on purpose, and finishes what it has. */
    PREFORK_EVENT_DISCONNECT = 6,
    /**
     * A worker has ended and was reaped; `code` or `signal` say how, `reason` why; `stderr_lines` what it wrote last,
     * where it ended before it could serve, or before the reload that it belongs to was complete.
     */
    PREFORK_EVENT_EXIT = 7,
    /** A worker has been in one call of its handler for longer than the setting `timeout`. */
    PREFORK_EVENT_HANG = 8,
    /** Something went wrong that cost no connection; `text` says what. */
    PREFORK_EVENT_ERROR = 9,
    /** A reload to `generation` began. */
    PREFORK_EVENT_RELOAD_STARTED = 10,
    /** Every worker is of `generation`. */
    PREFORK_EVENT_RELOAD_COMMITTED = 11,
    /**
     * The reload to `generation` failed: every worker is of the one before; `text` says why, `stage` how far it had
     * come. Where a new worker failed, `id` says which, `code` or `signal` how it ended, and `stderr_lines` what
     * it wrote last.
     */
    PREFORK_EVENT_RELOAD_ROLLED_BACK = 12,
    /** The run is over: the last worker was reaped; `killed` of them had to be killed. */
    PREFORK_EVENT_STOPPED = 13,
    /**
     * A worker has sent the master a message; the callback of `prefork_server_on_message()`, called next, has
     * what it says.
     */
    PREFORK_EVENT_MESSAGE = 14,
} prefork_event_type;

/** Why a worker ended. A number never gets another meaning; there may be more of them in later versions. */
typedef enum prefork_reason {
    /** It crashed, or exited unasked. */
    PREFORK_REASON_CRASH = 1,
    /** It was not ready in time, or ended before. */
    PREFORK_REASON_BOOT_FAILURE = 2,
    /** A new generation took its place, or its generation was rolled back. */
    PREFORK_REASON_RELOAD = 3,
    /** There are to be fewer. */
    PREFORK_REASON_SCALE = 4,
    /** It was drained: `prefork_server_drain()`. */
    PREFORK_REASON_DRAIN = 5,
    /** It left on its own account: `prefork_worker_leave()`, or SIGTERM to it from elsewhere. */
    PREFORK_REASON_LEFT = 6,
    /** It had not finished within its deadline and was killed. */
    PREFORK_REASON_DRAIN_TIMEOUT = 7,
    /** It hung in its handler and was killed. */
    PREFORK_REASON_HANG = 8,
    /** It had served enough: settings `max-requests`, `max-memory`, `max-age`. */
    PREFORK_REASON_RECYCLE = 9,
    /** It ended by a signal that was sent to it through the master: `prefork_server_kill()`. */
    PREFORK_REASON_KILLED = 10,
    /** All stop. */
    PREFORK_REASON_STOP = 11,
} prefork_reason;

/**
 * How far a reload had come when it failed. A number never gets another meaning; there may be more of them in later
 * versions.
 */
typedef enum prefork_stage {
    /** The handler's file was read. */
    PREFORK_STAGE_PREPARING = 1,
    /** The first new worker was starting. */
    PREFORK_STAGE_CANARY = 2,
    /** New workers were taking the old ones' places. */
    PREFORK_STAGE_ROLLING = 3,
} prefork_stage;

/** How a worker ended. It may grow at its end. */
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
    /** Its exit code; -1 where a signal ended it, or where this process had its status collected otherwise. */
    int32_t code;
    /** The signal that ended it, or 0. */
    int32_t signal;
    /** Whether a core was dumped: 0 or 1. */
    uint32_t core;
    /** Why: one of `enum prefork_reason`. */
    uint32_t reason;
    /** Whether the master meant it to end, 0 or 1 (Node: `exitedAfterDisconnect`). */
    uint32_t intended;
} prefork_exit;

/**
 * Something that happened, given to the callback of `prefork_server_on_event()`. It may grow at its end.
 * What the event says nothing of is 0, and its strings are empty, never NULL; but `port` and `code`
 * are -1.
 */
typedef struct prefork_event {
    /** The size of this struct in the library that tells. */
    uint32_t size;
    /** What happened: one of `enum prefork_event_type`. */
    uint32_t type;
    /**
     * The same in words, those of Node's `cluster` where it has one: `fork`, `online`, `listening`, `ready`,
     * `disconnect`, `exit`, `hang`, `message`, `error`, `setup`, `reload started`, `reload committed`,
     * `reload rolled back`, `stopped`.
     */
    const char *name;
    /** The worker's number; 0 where the event is about none. */
    uint32_t id;
    /** Its slot. */
    uint32_t slot;
    /** Its generation; of a reload, the new one. */
    uint32_t generation;
    /** Its process id. */
    int32_t pid;
    /** The address, as `127.0.0.1:8080`, `[::1]:8080`, `udp:127.0.0.1:53` or `unix:/path`. */
    const char *address;
    /** The sort of address: `4`, `6`, `udp4`, `udp6` or `unix`. */
    const char *address_type;
    /** The port really bound, or -1 where the address has none. */
    int32_t port;
    /** The exit code, or -1 where a signal ended the worker. */
    int32_t code;
    /** The signal that ended it, or 0. */
    int32_t signal;
    /** Whether a core was dumped: 0 or 1. */
    uint32_t core;
    /** Why it ended: one of `enum prefork_reason`. */
    uint32_t reason;
    /** Whether the master meant it to end, 0 or 1 (Node: `exitedAfterDisconnect`). */
    uint32_t intended;
    /** The reason in words: `crash`, `boot failure`, `reload` and so on. */
    const char *reason_name;
    /** What went wrong. */
    const char *text;
    /** Workers that had to be killed at the end of the run. */
    uint32_t killed;
    /** How far a reload had come when it failed: one of `enum prefork_stage`. */
    uint32_t stage;
    /** The same in words: `preparing`, `canary` or `rolling`. */
    const char *stage_name;
    /**
     * The last lines of a worker's standard error, at most 20 of them and 4 KiB, with a line feed between two; control
     * characters but for the tab are escaped.
     */
    const char *stderr_lines;
    /** What sort of message has come, as the worker said. */
    uint32_t message_type;
    /** Its length (bytes). */
    size_t message_size;
} prefork_event;

/** Called with an event, in the master, between two turns of its loop. */
typedef void (*prefork_on_event)(const prefork_event *event, void *state);


/* THE SERVER: for programs that embed prefork
 * -------------------------------------------------------------------------------------------------------- */

/**
 * A server to be: a handler and its settings; `prefork_server_run()` makes the calling process its master.
 * Made by `prefork_server_new()`, ended by `prefork_server_free()`.
 */
typedef struct prefork_server prefork_server;

/** What has been started, given to the callback of `prefork_server_on_start()`. It may grow at its end. */
typedef struct prefork_started {
    /**
     * The addresses really listened on, in the order they were given: `127.0.0.1:8080`, `[::1]:8080`,
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

/** Called with a message of a worker: its id, the type it gave, `size` bytes at `data`. */
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
 * The version of the binary interface this library has: `PREFORK_ABI_MAJOR << 16 | PREFORK_ABI_MINOR`,
 * where the constants of the same name are those a program was compiled with.
 *
 * Returns the version.
 * Process: any.
 */
uint32_t prefork_abi_version(void);

/**
 * Makes a server with default settings and no handler. Nothing is opened or started.
 *
 * Returns a new server (creates: free it with `prefork_server_free()`), or NULL after a fault in prefork
 * itself.
 * Process: any.
 */
prefork_server *prefork_server_new(void);

/**
 * Frees a server. One that was started and has not ended is ended at once: its workers are killed. Does
 * nothing where `server` is NULL, in a callback, or in a worker. In another process, which the program
 * itself has forked, it frees that process's copy and leaves the master alone.
 *
 * Process: master.
 *
 * Pointers: Takes `server`: no other call with it after this one.
 */
void prefork_server_free(prefork_server *server);

/**
 * Why the last call with this server was refused: one line, `operation on what: cause`, for instance `bind
 * 127.0.0.1:80: Permission denied (os error 13)`.
 *
 * Returns a NUL-terminated string that borrows from `server` until the next call with it; empty where
 * nothing was refused, or where `server` is NULL.
 * Process: master.
 *
 * Pointers: Borrows `server` until return.
 */
const char *prefork_server_error(const prefork_server *server);

/**
 * Adds an address to listen on, from where `prefork_server_run()` is called on: `127.0.0.1:8080`,
 * `[::1]:8080`, `:8080` (every address), `udp:127.0.0.1:53` (for `on_datagram`), `unix:/path`, or `fd:3` (a
 * listening socket this process has inherited). Port 0 takes a free one. Without any it is
 * `127.0.0.1:8080`. The same as `prefork_server_set(server, "listen", address)`.
 *
 * Returns PREFORK_OK, PREFORK_CONFIG, PREFORK_INVALID, PREFORK_STATE or PREFORK_NULL.
 * Process: master, before it runs.
 *
 * Pointers: Borrows `server` until return. Copies `address`, which is NUL-terminated.
 */
int prefork_server_listen(prefork_server *server, const char *address);

/**
 * Sets the number of workers, at most 1024; 0 (the default) takes one per CPU this process may use.
 *
 * Returns PREFORK_OK, PREFORK_CONFIG, PREFORK_STATE or PREFORK_NULL.
 * Process: master, before it runs.
 *
 * Pointers: Borrows `server` until return.
 */
int prefork_server_workers(prefork_server *server, uint32_t count);

/**
 * Sets one setting by the name of its command-line option (`prefork --help` lists them), from text:
 * `prefork_server_set(server, "max-body", "1M")`. Sizes are bytes and take the suffixes K, M and G (powers
 * of 1024); times are seconds and take ms, s, m and h; switches are `on` or `off`. `listen` adds an
 * address, the others replace.
 *
 * Returns PREFORK_OK, PREFORK_CONFIG (`prefork_server_error()` says what would do), PREFORK_INVALID,
 * PREFORK_STATE or PREFORK_NULL.
 * Process: master, before it runs.
 *
 * Pointers: Borrows `server` until return. Copies `name` and `value`, which are NUL-terminated.
 */
int prefork_server_set(prefork_server *server, const char *name, const char *value);

/**
 * Sets the arguments that workers find with `prefork_worker_arg()`.
 *
 * Returns PREFORK_OK, PREFORK_STATE or PREFORK_NULL.
 * Process: master, before it runs.
 *
 * Pointers: Borrows `server` until return. Copies `count` strings at `args`, each NUL-terminated; `args`
 * may be NULL where `count` is 0.
 */
int prefork_server_args(prefork_server *server, size_t count, const char *const *args);

/**
 * Serves HTTP requests with one function. Each of the functions that set a handler replaces the handler
 * set before; where several callbacks belong together, use `prefork_server_module()`.
 *
 * Returns PREFORK_OK, PREFORK_STATE or PREFORK_NULL.
 * Process: master, before it runs; `on_request` is called in workers.
 *
 * Pointers: Borrows `server` until return. Borrows `state`, which may be NULL, until `server` is freed:
 * workers have their own copy of the memory behind it, as it is when they are forked.
 */
int prefork_server_on_request(prefork_server *server, void (*on_request)(prefork_request *req,
                                                                                prefork_response *res,
                                                                                void *state), void *state);

/**
 * Serves connections in blocking style with one function; a worker has one connection at a time.
 *
 * Returns PREFORK_OK, PREFORK_STATE or PREFORK_NULL.
 * Process: master, before it runs; `on_connection` is called in workers.
 *
 * Pointers: Borrows `server` until return. Borrows `state`, which may be NULL, until `server` is freed.
 */
int prefork_server_on_connection(prefork_server *server,
                                 void (*on_connection)(prefork_conn *conn, void *state),
                                 void *state);

/**
 * Serves streams of bytes with up to three functions; `on_open` and `on_close` may be NULL.
 *
 * Returns PREFORK_OK, PREFORK_STATE or PREFORK_NULL.
 * Process: master, before it runs; the functions are called in workers.
 *
 * Pointers: Borrows `server` until return. Borrows `state`, which may be NULL, until `server` is freed.
 */
int prefork_server_on_data(prefork_server *server,
                           void (*on_open)(prefork_conn *conn, void *state),
                           void (*on_data)(prefork_conn *conn, void *state),
                           void (*on_close)(prefork_conn *conn, void *state),
                           void *state);

/**
 * Serves datagrams with one function, on addresses `udp:HOST:PORT`.
 *
 * Returns PREFORK_OK, PREFORK_STATE or PREFORK_NULL.
 * Process: master, before it runs; `on_datagram` is called in workers.
 *
 * Pointers: Borrows `server` until return. Borrows `state`, which may be NULL, until `server` is freed.
 */
int prefork_server_on_datagram(prefork_server *server, void (*on_datagram)(prefork_worker *worker,
                                                                                  const struct sockaddr *peer,
                                                                                  const void *data,
                                                                                  size_t len,
                                                                                  void *state), void *state);

/**
 * Serves with the callbacks of a descriptor, which `prefork_module_init()` or PREFORK_MODULE has begun.
 *
 * Returns PREFORK_OK, PREFORK_HANDLER (another ABI, no handler in it, or more than one), PREFORK_STATE or
 * PREFORK_NULL.
 * Process: master, before it runs; the callbacks are called in workers.
 *
 * Pointers: Borrows `server` until return. Copies `module`. Borrows `state`, which may be NULL, until
 * `server` is freed.
 */
int prefork_server_module(prefork_server *server, const struct prefork_module *module, void *state);

/**
 * Serves with a module from a file. It is read when the server runs: each worker loads a private copy.
 * The module finds the `prefork_*` functions in the program: one linked with libprefork.so has them
 * ready, one linked with libprefork.a needs `-Wl,--export-dynamic-symbol='prefork_*'`, and may not be
 * all static.
 *
 * Returns PREFORK_OK, PREFORK_STATE or PREFORK_NULL. A file that does not load is told by
 * `prefork_server_run()`.
 * Process: master, before it runs.
 *
 * Pointers: Borrows `server` until return. Copies `path`, which is NUL-terminated.
 */
int prefork_server_module_file(prefork_server *server, const char *path);

/**
 * Calls a function once, when every worker is ready for the first time and the addresses are known. It may
 * not change the server, which runs.
 *
 * Returns PREFORK_OK or PREFORK_STATE. NULL for `on_start` takes back what was set; PREFORK_NULL where
 * `server` is NULL.
 * Process: master, before it runs; `on_start` is called in the master.
 *
 * Pointers: Borrows `server` until return. Borrows `state`, which may be NULL, until `server` is freed.
 * `started` and what it points to are borrowed until `on_start` returns.
 */
int prefork_server_on_start(prefork_server *server, prefork_on_start on_start, void *state);

/**
 * Calls a function with every event (`enum prefork_event_type`), in the order in which they happened. It is
 * called between two turns of the master's loop, and may ask the server for anything but a step, a start
 * and its end.
 *
 * Returns PREFORK_OK or PREFORK_STATE. NULL for `on_event` takes back what was set; PREFORK_NULL where
 * `server` is NULL.
 * Process: master, before it runs; `on_event` is called in the master.
 *
 * Pointers: Borrows `server` until return. Borrows `state`, which may be NULL, until `server` is freed.
 * `event` and what it points to are borrowed until `on_event` returns.
 */
int prefork_server_on_event(prefork_server *server, prefork_on_event on_event, void *state);

/**
 * Calls a function in the master with each message that a worker sends to PREFORK_TO_MASTER: `from` is the
 * worker's id, `type` what it gave. A request is answered with `prefork_server_reply()`. Without a function
 * messages to the master are dropped, and requests unanswered. It is called between two turns of the
 * master's loop, and may ask the server for anything but a step, a start and its end; as long as it runs,
 * nothing is accepted.
 *
 * Returns PREFORK_OK or PREFORK_STATE. NULL for `on_message` takes back what was set; PREFORK_NULL where
 * `server` is NULL.
 * Process: master, before it runs; `on_message` is called in the master.
 *
 * Pointers: Borrows `server` until return. Borrows `state`, which may be NULL, until `server` is freed. `size` bytes
 * at `data` are borrowed until `on_message` returns.
 */
int prefork_server_on_message(prefork_server *server, prefork_on_message on_message, void *state);

/**
 * Sends a message to a worker by its id, or to all workers (PREFORK_TO_ALL): there it comes to `on_message`.
 * Never waits: what a worker does not take at once is kept for it. Messages to one worker arrive in the
 * order they were sent.
 *
 * Returns PREFORK_OK; PREFORK_TOO_LARGE over the setting `max-message`; PREFORK_FULL where four messages of
 * that size wait for the worker already (to all: for one of them; the others got it); PREFORK_GONE where
 * there is no such worker; PREFORK_STATE where the server does not run, in another process, or to the
 * master itself; PREFORK_INVALID or PREFORK_NULL.
 * Process: master, while it runs, from its callbacks.
 *
 * Pointers: Borrows `server` until return. Copies `size` bytes at `data`, which may be NULL where `size` is 0.
 */
int prefork_server_send(prefork_server *server, uint32_t to, uint32_t type, const void *data, size_t size);

/**
 * Sends a message that is to be answered. If this returns PREFORK_OK, `on_reply` is called once, from the
 * master's loop: with PREFORK_OK and the reply, or with the reason why there is none: PREFORK_TIMEOUT after
 * `deadline_ms` milliseconds (0: no deadline), PREFORK_GONE (the worker has ended) or PREFORK_UNANSWERED.
 *
 * Returns as `prefork_server_send()`; PREFORK_STATE also to PREFORK_TO_ALL; PREFORK_NULL also where
 * `on_reply` is NULL.
 * Process: master, while it runs, from its callbacks.
 *
 * Pointers: Borrows `server` until return. Copies `size` bytes at `data`, which may be NULL where `size` is 0.
 * Borrows `arg`, which may be NULL, until `on_reply` returns, or the run ends; the reply's bytes are
 * borrowed until then.
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
 * Answers the request that the callback of `prefork_server_on_message()` is being called for, once. If it
 * returns without, the worker is told PREFORK_UNANSWERED at once.
 *
 * Returns as `prefork_server_send()`; PREFORK_STATE where no request is being handled, or it has its reply.
 * Process: master, while it runs, from that callback.
 *
 * Pointers: Borrows `server` until return. Copies `size` bytes at `data`, which may be NULL where `size` is 0.
 */
int prefork_server_reply(prefork_server *server, const void *data, size_t size);

/**
 * Makes this process the master and serves until a signal ends it: TERM, INT and QUIT finish what was
 * accepted, a second one stops at once; HUP reloads, TTIN and TTOU are for one worker more or less, USR2
 * executes this program's file anew in this process. Workers are forked from here: in them this call never
 * returns. It installs no signal handler; while it runs, the calling thread has those signals blocked and
 * reads them itself (signalfd(2)), unless `prefork_server_set(server, "signals", "off")` leaves them alone:
 * then a callback has to end it with `prefork_server_stop()`. Afterwards it may be called again.
 *
 * Returns PREFORK_OK when all workers have ended (`prefork_server_killed()` says whether one had to be
 * killed); PREFORK_STATE where this process has more than one thread, or the server runs already;
 * PREFORK_CONFIG, PREFORK_LISTEN, PREFORK_HANDLER (also where none was set) or PREFORK_SYSTEM, before
 * anything was served; PREFORK_NULL. `prefork_server_error()` has the reason.
 * Process: becomes the master.
 *
 * Pointers: Borrows `server` until return.
 */
int prefork_server_run(prefork_server *server);

/**
 * The workers that had to be killed at the end of the last run, because they did not finish within the
 * setting `drain-timeout`.
 *
 * Returns the number, or 0 where `server` is NULL.
 * Process: master.
 *
 * Pointers: Borrows `server` until return.
 */
uint32_t prefork_server_killed(const prefork_server *server);


/* THE RUNNING SERVER: for programs that step through it, steer it or look at it
 * -------------------------------------------------------------------------------------------------------- */

/** What runs. It may grow at its end. */
typedef struct prefork_server_status {
    /** The size of this struct: set it before the call; afterwards the size that was filled in. */
    uint32_t size;
    /** The generation that serves, or is being replaced. */
    uint32_t generation;
    /** Workers there are to be. */
    uint32_t slots;
    /** Workers there are. */
    uint32_t workers;
    /** Whether a reload is under way: 0 or 1. */
    uint32_t reloading;
    /** Whether a stop is: 0 or 1. */
    uint32_t stopping;
    /** Connections taken by workers, those that are no more included; so with the counts below. */
    uint64_t taken;
    /** Requests answered; in blocking style, connections served. */
    uint64_t requests;
    /** Requests refused or failed. */
    uint64_t errors;
    /** Bytes from clients. */
    uint64_t bytes_in;
    /** Bytes to clients. */
    uint64_t bytes_out;
} prefork_server_status;

/**
 * As `prefork_server_run()`, for a program with an event loop of its own: makes this process the master and
 * returns at once. Then have `prefork_server_step()` called whenever the descriptor of
 * `prefork_server_fd()` is readable and when `prefork_server_timeout()` says so, for the first time at once:
 * that starts the workers.
 *
 * Signals stay the program's, SIGPIPE too, unless it asks with `prefork_server_set(server, "signals",
 * "on")`: then they are blocked and steer the master as in a run. There is no handler of SIGCHLD and no
 * waiting for children that are not workers: the program may have its own, but should not collect
 * workers, whose exit codes would be lost. It must not start a thread as long as the server runs: no
 * further worker could be forked. Workers have a copy of every descriptor that is open when they are
 * forked: close in `worker_start` what clients of yours wait to see closed.
 *
 * Returns as `prefork_server_run()`, but for what comes of the workers.
 * Process: becomes the master.
 *
 * Pointers: Borrows `server` until return.
 */
int prefork_server_start(prefork_server *server);

/**
 * The descriptor to watch: readable as long as there is something for `prefork_server_step()` to do. It is
 * an epoll descriptor, which poll(2) and another epoll(7) can watch.
 *
 * Returns a descriptor that is borrowed until the server has ended, which closes it: neither read nor close
 * it; or PREFORK_STATE where the server has not been started, or PREFORK_NULL.
 * Process: master.
 *
 * Pointers: Borrows `server` until return.
 */
int prefork_server_fd(const prefork_server *server);

/**
 * When to call `prefork_server_step()` at the latest although the descriptor is not readable.
 *
 * Returns milliseconds, 0 for at once, or a negative number where only the descriptor says when, also where
 * nothing runs: what poll(2) and epoll_wait(2) take.
 * Process: master.
 *
 * Pointers: Borrows `server` until return.
 */
int prefork_server_timeout(const prefork_server *server);

/**
 * Does what there is to do, after waiting for it for `timeout_ms` milliseconds at the most (0: not at all;
 * negative: as long as it takes), and then calls back for what has happened. Callbacks may ask the server
 * for anything but a step, a start and its end; but that of `prefork_server_on_message()` and replies come
 * in the middle of a turn, and may send, no more.
 *
 * Returns 1 as long as the server runs, and PREFORK_OK when it has ended: every worker is reaped, all is
 * closed, and the server may be started again or freed. A refusal ends it too: PREFORK_HANDLER where the
 * first workers could not start, PREFORK_SYSTEM. PREFORK_STATE where it has not been started, in another
 * process, or in a callback; PREFORK_NULL.
 * Process: master.
 *
 * Pointers: Borrows `server` until return.
 */
int prefork_server_step(prefork_server *server, int timeout_ms);

/**
 * Replaces all workers by a new generation, one after the other, or leaves all as it was: PREFORK_EVENT_*
 * tells what came of it. A module file is read anew. A reload that is asked for during another follows it.
 *
 * Returns PREFORK_OK; PREFORK_STATE where the server does not run in this process, or stops; PREFORK_NULL.
 * Process: master.
 *
 * Pointers: Borrows `server` until return.
 */
int prefork_server_reload(prefork_server *server);

/**
 * Runs so many workers from now on; those in the highest slots go first.
 *
 * Returns PREFORK_OK; PREFORK_CONFIG where `workers` is not 1 to 1024; PREFORK_STATE where the server does
 * not run in this process, stops, or its first workers are not all ready yet; PREFORK_NULL.
 * Process: master.
 *
 * Pointers: Borrows `server` until return.
 */
int prefork_server_scale(prefork_server *server, uint32_t workers);

/**
 * Starts one more worker. It finds `count` variables, given as `NAME=value`, in its environment (getenv(3))
 * beside those this process has; so do all that follow it in its slot.
 *
 * Returns the slot, which is the highest; PREFORK_CONFIG where there are 1024 workers, or where a string is
 * no variable; PREFORK_STATE as `prefork_server_scale()`; PREFORK_INVALID where one is not UTF-8;
 * PREFORK_NULL.
 * Process: master.
 *
 * Pointers: Borrows `server` until return. Copies `count` strings at `variables`, each NUL-terminated;
 * `variables` may be NULL where `count` is 0.
 */
int prefork_server_fork(prefork_server *server, size_t count, const char *const *variables);

/**
 * Has a worker finish what it has and leave; idle connections go to others. Another worker takes its place.
 * After `deadline_ms` milliseconds it is killed: 0 is for ever, a negative number the setting
 * `drain-timeout`.
 *
 * Returns PREFORK_OK; PREFORK_GONE where there is no such worker (any more); PREFORK_STATE where the server
 * does not run in this process; PREFORK_NULL.
 * Process: master.
 *
 * Pointers: Borrows `server` until return.
 */
int prefork_server_drain(prefork_server *server, uint32_t id, int deadline_ms);

/**
 * Sends a worker a signal (kill(2)); 0 only asks whether it is there. Where the signal ends it, its exit is
 * PREFORK_REASON_KILLED, and intended: another worker takes its place at once. After SIGTERM it finishes
 * what it has first, as after `prefork_server_drain()`; HUP, INT, QUIT and what else means nothing to a
 * worker does nothing, and what it dies of later is no intention.
 *
 * Returns PREFORK_OK; PREFORK_GONE where there is no such worker (any more); PREFORK_SYSTEM where the kernel
 * refuses; PREFORK_STATE where the server does not run in this process; PREFORK_NULL.
 * Process: master.
 *
 * Pointers: Borrows `server` until return.
 */
int prefork_server_kill(prefork_server *server, uint32_t id, int signal);

/**
 * Begins an orderly stop: what was accepted is finished, all workers are drained. A second call ends them
 * at once. It is done when the last one is reaped: `prefork_server_step()` or `prefork_server_run()` returns
 * PREFORK_OK, after PREFORK_EVENT_STOPPED.
 *
 * Returns PREFORK_OK; PREFORK_STATE where the server does not run in this process; PREFORK_NULL.
 * Process: master.
 *
 * Pointers: Borrows `server` until return.
 */
int prefork_server_stop(prefork_server *server);

/**
 * Calls a function with each worker, those that drain included, until they are reaped. It may ask the
 * server for anything: what it walks through is a copy.
 *
 * Returns the number of workers; PREFORK_STATE where the server does not run; PREFORK_NULL.
 * Process: master.
 *
 * Pointers: Borrows `server` until return, and `arg`, which may be NULL. The info is borrowed until `each` returns.
 */
int prefork_server_each_worker(const prefork_server *server,
                               void (*each)(const prefork_worker_status *info, void *arg),
                               void *arg);

/**
 * Looks at one worker.
 *
 * Returns PREFORK_OK; PREFORK_GONE where there is no such worker, or it was reaped (Node: `isDead`);
 * PREFORK_STATE where the server does not run; PREFORK_INVALID where `info->size` is not set; PREFORK_NULL.
 * Process: master.
 *
 * Pointers: Borrows `server` until return, and `info`, of which `info->size` bytes are filled in.
 */
int prefork_server_worker(const prefork_server *server, uint32_t id, prefork_worker_status *info);

/**
 * Looks at the server.
 *
 * Returns PREFORK_OK; PREFORK_STATE where the server does not run; PREFORK_INVALID where `info->size` is not
 * set; PREFORK_NULL.
 * Process: master.
 *
 * Pointers: Borrows `server` until return, and `info`, of which `info->size` bytes are filled in.
 */
int prefork_server_info(const prefork_server *server, prefork_server_status *info);

/**
 * How the last worker of a slot ended.
 *
 * Returns PREFORK_OK; PREFORK_GONE where none has ended there, or there is no such slot; PREFORK_STATE where
 * the server does not run; PREFORK_INVALID where `last->size` is not set; PREFORK_NULL.
 * Process: master.
 *
 * Pointers: Borrows `server` until return, and `last`, of which `last->size` bytes are filled in.
 */
int prefork_server_last_exit(const prefork_server *server, uint32_t slot, prefork_exit *last);

/* MACROS AND INLINE FUNCTIONS
 * -------------------------------------------------------------------------------------------------------- */

/**
 * A descriptor without callbacks, to be filled in for `prefork_server_module()`: its size and versions are
 * those this file has.
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

/* Makes a symbol of a module visible to the program that loads it, whatever -fvisibility says. */
#define PREFORK_EXPORT __attribute__((visibility("default")))

/**
 * Defines the one symbol of a module, `prefork_module`: at file scope, once, with no semicolon behind it.
 *
 *     PREFORK_MODULE(.on_request = hello)
 *     PREFORK_MODULE(.worker_start = start, .on_data = data, .on_close = close)
 *
 * It is written the same way in C99 and in C++11, which has no designated initialisers: there each
 * `.member = function` becomes an assignment that runs when the module is loaded.
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
    PREFORK_PICK_(__VA_ARGS__, PREFORK_11_, PREFORK_10_, PREFORK_9_, PREFORK_8_, PREFORK_7_, PREFORK_6_,   \
                  PREFORK_5_, PREFORK_4_, PREFORK_3_, PREFORK_2_, PREFORK_1_, none)(__VA_ARGS__)
#define PREFORK_PICK_(_1, _2, _3, _4, _5, _6, _7, _8, _9, _10, _11, macro, ...) macro
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
#endif

#ifdef __cplusplus
}
#endif

#endif /* PREFORK_H */
