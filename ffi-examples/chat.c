/* Chat rooms over WebSocket: who says something is heard by all in the room, whichever worker they are at.
 *
 *     cc -shared -fPIC -O2 chat.c -o chat.so && prefork --workers 4 ./chat.so
 *     python3 -m websockets ws://127.0.0.1:8080
 *     /join ROOM    leaves the room that one was in; /name NAME; anything else is said in the room
 *
 * A room is a topic of prefork: a message is made one WebSocket frame, once, and written to every connection that has
 * subscribed, in all workers. Who reads too slowly misses messages, whole ones.
 */
#include "websocket.h"
#include <stdio.h>

struct guest {
    char room[64], name[32];
};

static void say(prefork_conn *conn, const char *text)
{
    websocket_send(conn, WEBSOCKET_TEXT, text, strlen(text));
}

static void say_all(const char *room, const char *name, const char *verb, const char *text, size_t size)
{
    char line[1200];
    int n = snprintf(line, sizeof line, "%s%s%.*s", name, verb, (int)size, text);

    websocket_publish(prefork_worker_self(), room, WEBSOCKET_TEXT, line, (size_t)n);
}

static void leave(prefork_conn *conn, struct guest *guest)
{
    if (!guest->room[0])
        return;
    prefork_unsubscribe(conn, guest->room);
    say_all(guest->room, guest->name, " leaves", "", 0);
    guest->room[0] = '\0';
}

/* Copies a name; false if it is empty or too long. Not cut, as the cut could be within a character. */
static int take(char *to, size_t room, const char *from, size_t size)
{
    if (size == 0 || size >= room || memchr(from, '\0', size))
        return 0;
    memcpy(to, from, size);
    to[size] = '\0';
    return 1;
}

static void on_message(prefork_conn *conn, int type, const void *data, size_t size, void *state)
{
    struct guest *guest = websocket_of(conn)->user;
    const char *text = data;
    char room[sizeof guest->room];

    (void)state;
    if (type != WEBSOCKET_TEXT) {
        websocket_close(conn, 1003, "text, please");
    } else if (size > 6 && memcmp(text, "/name ", 6) == 0) {
        say(conn, take(guest->name, sizeof guest->name, text + 6, size - 6) ? "ok" : "no such name");
    } else if (size > 6 && memcmp(text, "/join ", 6) == 0) {
        if (!take(room, sizeof room, text + 6, size - 6)) {
            say(conn, "no such room");
            return;
        }
        leave(conn, guest);
        memcpy(guest->room, room, sizeof room);
        prefork_subscribe(conn, room);
        say_all(room, guest->name, " joins", "", 0);
    } else if (!guest->room[0]) {
        say(conn, "/join ROOM first");
    } else {
        say_all(guest->room, guest->name, ": ", text, size);
    }
}

static void on_open(prefork_conn *conn, void *state)
{
    struct guest *guest = calloc(1, sizeof *guest);

    (void)state;
    if (!guest) {
        websocket_close(conn, WEBSOCKET_FAILURE, "");
        return;
    }
    websocket_of(conn)->user = guest;
    snprintf(guest->name, sizeof guest->name, "guest %u.%llu", prefork_worker_id(prefork_worker_self()),
             (unsigned long long)prefork_conn_id(conn));
}

static void on_close(prefork_conn *conn, void *state)
{
    struct guest *guest = websocket_of(conn)->user;

    (void)state;
    if (guest)
        leave(conn, guest);
    free(guest);
}

static void handshake(prefork_request *req, prefork_response *res, void *state)
{
    (void)state;
    websocket_accept(req, res);
}

static int start(prefork_worker *worker, void **state)
{
    static const struct websocket_handler handler = {
        .on_message = on_message, .on_open = on_open, .on_close = on_close, .max_message = 1024, .ping_ms = 30000};

    (void)state;
    return websocket_start(worker, &handler);
}

PREFORK_MODULE(.worker_start = start, .on_request = handshake, WEBSOCKET_CALLBACKS)
