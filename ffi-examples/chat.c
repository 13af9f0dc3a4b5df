/* Chat rooms over WebSocket: who says something is heard by all in the room, whichever worker they are at.
 *
 *     cc -shared -fPIC -O2 chat.c -o chat.so && prefork --workers 4 ./chat.so
 *     python3 -m websockets ws://127.0.0.1:8080/ROOM      then lines: "/name NAME", or what is to be said
 *
 * A room is a topic of prefork: a message is made one WebSocket frame, once, and written to every connection that has
 * subscribed, in all workers. Who reads too slowly misses messages, whole ones. Nobody notices a reload.
 */
#include "websocket.h"
#include <stdio.h>

/* It goes along when a connection goes to another worker, maybe of the next deployment: a change of it is another version. */
enum { GUEST = 1 };
struct guest {
    char room[64], name[32];
};

/* Copies a name. Returns 0 if it is empty or too long; it is not cut, as the cut could be within a character. */
static int take(char *to, size_t room, const char *from, size_t size)
{
    if (size == 0 || size >= room || memchr(from, '\0', size))
        return 0;
    memcpy(to, from, size);
    to[size] = '\0';
    return 1;
}

static void say_all(const struct guest *guest, const char *verb, const char *text, size_t size)
{
    char line[1200];
    size_t head = (size_t)snprintf(line, 100, "%s%s", guest->name, verb);

    if (size)
        memcpy(line + head, text, size);
    websocket_publish(prefork_worker_self(), guest->room, WEBSOCKET_TEXT, line, head + size);
}

/* The path is the room. */
static void handshake(prefork_request *req, prefork_response *res, void *state)
{
    static unsigned count;
    prefork_slice path = prefork_request_path(req);
    struct guest *guest;

    (void)state;
    if (path.len >= sizeof guest->room) {
        prefork_response_status(res, 404);
        return;
    }
    if (!websocket_accept(req, res))
        return;
    guest = calloc(1, sizeof *guest);
    if (!guest || prefork_response_set_user(res, guest, free) != PREFORK_OK) {
        free(guest);
        prefork_response_fail(res);
        return;
    }
    memcpy(guest->room, path.data, path.len);
    snprintf(guest->name, sizeof guest->name, "guest %u.%u", prefork_worker_id(prefork_worker_self()), ++count);
}

static void on_open(prefork_conn *conn, void *state)
{
    struct guest *guest = websocket_of(conn)->user;

    (void)state;
    prefork_subscribe(conn, guest->room);
    say_all(guest, " joins", "", 0);
}

static void on_message(prefork_conn *conn, int type, const void *data, size_t size, void *state)
{
    struct guest *guest = websocket_of(conn)->user;
    const char *text = data, *answer = "ok";

    (void)state;
    if (type != WEBSOCKET_TEXT) {
        websocket_close(conn, 1003, "text, please");
    } else if (size >= 6 && memcmp(text, "/name ", 6) == 0) {
        if (!take(guest->name, sizeof guest->name, text + 6, size - 6))
            answer = "no such name";
        websocket_send(conn, WEBSOCKET_TEXT, answer, strlen(answer));
    } else {
        say_all(guest, ": ", text, size);
    }
}

static void on_close(prefork_conn *conn, void *state)
{
    (void)state;
    say_all(websocket_of(conn)->user, " leaves", "", 0);
}

static int start(prefork_worker *worker, void **state)
{
    static const struct websocket_handler handler = {
        .on_message = on_message, .on_open = on_open, .on_close = on_close, .max_message = 1024, .ping_ms = 30000,
        .version = GUEST, .user_size = sizeof(struct guest)};

    (void)state;
    return websocket_start(worker, &handler);
}

PREFORK_MODULE(.worker_start = start, .on_request = handshake, WEBSOCKET_CALLBACKS)
