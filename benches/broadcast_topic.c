/* What broadcast.c measures of prefork: what a client says is published to all. */
#include "../ffi-examples/websocket.h"

static void on_open(prefork_conn *conn, void *state)
{
    (void)state;
    prefork_subscribe(conn, "all");
}

static void on_message(prefork_conn *conn, int type, const void *data, size_t size, void *state)
{
    (void)conn;
    (void)state;
    websocket_publish(prefork_worker_self(), "all", type, data, size);
}

static void handshake(prefork_request *req, prefork_response *res, void *state)
{
    (void)state;
    websocket_accept(req, res);
}

static int start(prefork_worker *worker, void **state)
{
    static const struct websocket_handler handler = {.on_message = on_message, .on_open = on_open, .max_message = 1000};

    (void)state;
    return websocket_start(worker, &handler);
}

PREFORK_MODULE(.worker_start = start, .on_request = handshake, WEBSOCKET_CALLBACKS)
