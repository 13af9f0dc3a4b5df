/* Requests, a line protocol that greets first, and datagrams, each at listeners of its own name:
 *
 *     --listen api=... --listen line=... --listen admin=... --listen time=udp:...
 *
 * The worker's own handler answers requests; `line` is a stream, `admin` answers requests in another way, `time` is for datagrams.
 * Without a listener of a name its handler is left out.
 */
#include <prefork.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static prefork_worker *self;

static void on_request(prefork_request *req, prefork_response *res, void *state)
{
    char text[100];
    uint32_t at = prefork_request_listener(req);

    if (prefork_request_path(req).len > 1 && prefork_response_upgrade(res, "echo") == PREFORK_OK)
        return;
    snprintf(text, sizeof text, "%s by %s", prefork_worker_listener_name(self, at), (const char *)state);
    prefork_response_body(res, text, strlen(text));
}

static void on_datagram(prefork_worker *worker, const struct sockaddr *peer, const void *data, size_t size, void *state)
{
    char text[100];

    (void)peer, (void)data, (void)size;
    prefork_datagram_reply(worker, text, (size_t)snprintf(text, sizeof text, "datagram by %s", (const char *)state));
}

static void on_open(prefork_conn *conn, void *state)
{
    prefork_conn_write(conn, state, strlen(state));
    prefork_conn_write(conn, "\n", 1);
}

static void on_data(prefork_conn *conn, void *state)
{
    prefork_slice in = prefork_conn_data(conn);

    (void)state;
    prefork_conn_write(conn, in.data, in.len);
    prefork_conn_consume(conn, in.len);
    if (prefork_conn_at_end(conn))
        prefork_conn_close(conn);
}

static void on_connection(prefork_conn *conn, void *state)
{
    (void)conn, (void)state;
}

static void late(prefork_worker *worker, void *arg)
{
    static const struct prefork_module stream = {.size = sizeof stream, .abi_major = PREFORK_ABI_MAJOR, .on_data = on_data};

    (void)arg;
    if (prefork_worker_serve(worker, "line", &stream, NULL) != PREFORK_STATE)
        abort();
}

/* A handler of the other style for `line`; without its listener the worker does not start. */
static int start_other(prefork_worker *worker, void **state)
{
    struct prefork_module line = prefork_module_init();

    self = worker;
    *state = "own";
    line.on_request = on_request;
    return prefork_worker_serve(worker, "line", &line, "line handler");
}

static int start(prefork_worker *worker, void **state)
{
    struct prefork_module line, admin, datagrams, blocking, nothing;
    int status;

    self = worker;
    *state = "own";
    admin = datagrams = blocking = nothing = line = prefork_module_init();
    line.on_open = on_open;
    line.on_data = on_data;
    admin.on_request = on_request;
    datagrams.on_datagram = on_datagram;
    blocking.on_connection = on_connection;
    status = prefork_worker_serve(worker, "line", &line, "line handler");
    if (status != PREFORK_OK && status != PREFORK_GONE)
        return 1;
    prefork_worker_serve(worker, "admin", &line, "not the last");
    prefork_worker_serve(worker, "admin", &admin, "admin handler");
    prefork_worker_serve(worker, "time", &datagrams, "time handler");
    if (prefork_worker_serve(worker, "nowhere", &line, NULL) != PREFORK_GONE)
        return 2;
    if (prefork_worker_serve(worker, "", &line, NULL) != PREFORK_GONE)
        return 3;
    if (prefork_worker_serve(worker, "line", &blocking, NULL) != PREFORK_INVALID ||
        prefork_worker_serve(worker, "line", &nothing, NULL) != PREFORK_INVALID ||
        prefork_worker_serve(worker, NULL, &line, NULL) != PREFORK_NULL ||
        prefork_worker_serve(worker, "line", NULL, NULL) != PREFORK_NULL)
        return 4;
    if (prefork_worker_listener_name(worker, 99))
        return 5;
    prefork_timer_start(worker, 0, 0, late, NULL);
    return 0;
}

#ifdef OTHER_STYLE
PREFORK_MODULE(.worker_start = start_other, .on_request = on_request)
#elif defined OWN_BLOCKING
PREFORK_MODULE(.worker_start = start, .on_connection = on_connection)
#else
PREFORK_MODULE(.worker_start = start, .on_request = on_request, .on_open = on_open, .on_data = on_data)
#endif
