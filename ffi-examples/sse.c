/* Server-sent events: a clock, and whatever anybody posts. What one worker is told reaches the clients of all.
 *
 *     cc -shared -fPIC -o sse.so sse.c
 *     prefork ./sse.so
 *     curl -N http://127.0.0.1:8080/events
 *     curl -d 'hello' http://127.0.0.1:8080/
 */
#include <prefork.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct client {
    prefork_response *res; /* goes on */
    struct client *next, **at;
};

static struct client *clients;
static prefork_worker *self;

/* Also of a client that has gone: prefork_response_end() alone frees a response. */
static void end(void *arg)
{
    struct client *client = arg;

    *client->at = client->next;
    if (client->next)
        client->next->at = client->at;
    prefork_response_end(client->res);
    free(client);
}

/* All that the callbacks of a turn write to a client leaves in one piece. */
static void publish(const char *event, size_t size)
{
    for (struct client *client = clients, *next; client; client = next) {
        next = client->next;
        if (prefork_response_write(client->res, event, size) != PREFORK_OK)
            end(client); /* too slow: it connects again */
    }
}

static void subscribe(prefork_response *res)
{
    struct client *client = calloc(1, sizeof *client);

    prefork_response_header(res, "Content-Type", "text/event-stream");
    prefork_response_header(res, "Cache-Control", "no-store");
    prefork_response_write(res, ": welcome\n\n", 11);
    *client = (struct client){prefork_response_later(res), clients, &clients};
    if (clients)
        clients->at = &client->next;
    clients = client;
    prefork_response_on_gone(client->res, end, client);
}

/* An event has one line for each of its text's. */
static void post(prefork_response *res, prefork_slice text)
{
    static char event[70000];
    size_t size = 0;

    for (size_t i = 0; i < text.len && size < sizeof event - 10; i++) {
        if (i == 0 || text.data[i - 1] == '\n')
            size += (size_t)sprintf(event + size, "data: ");
        if (text.data[i] != '\r')
            event[size++] = text.data[i];
    }
    size += (size_t)sprintf(event + size, "\n\n");
    publish(event, size);
    if (prefork_worker_send(self, PREFORK_TO_ALL, 0, event, size) != PREFORK_OK)
        prefork_response_status(res, 503);
}

static void on_request(prefork_request *req, prefork_response *res, void *state)
{
    prefork_slice method = prefork_request_method(req), path = prefork_request_path(req);

    (void)state;
    if (method.len == 4 && memcmp(method.data, "POST", 4) == 0)
        post(res, prefork_request_body(req));
    else if (path.len == 7 && memcmp(path.data, "/events", 7) == 0)
        subscribe(res);
    else
        prefork_response_status(res, 404);
}

static void on_message(prefork_worker *w, uint32_t from, uint32_t type, const void *data, size_t size, void *state)
{
    (void)w, (void)from, (void)type, (void)state;
    publish(data, size);
}

static void tick(prefork_worker *worker, void *arg)
{
    static unsigned long seconds;
    char event[64];

    (void)worker, (void)arg;
    publish(event, (size_t)sprintf(event, "event: tick\ndata: %lu\n\n", ++seconds));
}

/* The clients connect again, to a worker that stays. */
static void on_drain(prefork_worker *worker, void *state)
{
    (void)worker, (void)state;
    while (clients)
        end(clients);
}

static int start(prefork_worker *worker, void **state)
{
    *state = NULL;
    self = worker;
    return prefork_timer_start(worker, 1000, 1000, tick, NULL) == 0;
}

PREFORK_MODULE(.worker_start = start, .on_request = on_request, .on_message = on_message, .on_drain = on_drain)
