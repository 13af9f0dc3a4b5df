/* WebSocket: sends clients their messages back, for thousands of clients in one worker.
 *
 *     cc -shared -fPIC -O2 websocket.c -o websocket.so && prefork ./websocket.so
 *     python3 -m websockets ws://127.0.0.1:8080
 *
 * The protocol is in websocket.h. MAX_MESSAGE (bytes) and PING_MS in the environment change two of its settings; larger
 * messages than 8 MiB need a larger --max-pending than its 16 MiB too.
 */
#include "websocket.h"

static void echo(prefork_conn *conn, int type, const void *data, size_t size, void *state)
{
    (void)state;
    if (websocket_send(conn, type, data, size) == PREFORK_TOO_LARGE)
        websocket_close(conn, WEBSOCKET_TOO_BIG, "");
}

static void handshake(prefork_request *req, prefork_response *res, void *state)
{
    (void)state;
    websocket_accept(req, res);
}

static unsigned long number(const char *name, unsigned long otherwise)
{
    const char *text = getenv(name);

    return text ? strtoul(text, NULL, 10) : otherwise;
}

static int start(prefork_worker *worker, void **state)
{
    static struct websocket_handler handler = {.on_message = echo};

    (void)state;
    handler.max_message = number("MAX_MESSAGE", 8 << 20);
    handler.ping_ms = number("PING_MS", 30000);
    return websocket_start(worker, &handler);
}

PREFORK_MODULE(.worker_start = start, .on_request = handshake, WEBSOCKET_CALLBACKS)
