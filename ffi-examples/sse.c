/* Server-sent events: a clock, and whatever anybody posts. What one worker is told reaches the clients of all. A reload closes
 * none: they go to other workers. Events that are posted while a client is on its way do not reach it.
 *
 *     cc -shared -fPIC -o sse.so sse.c && prefork ./sse.so
 *     curl -N http://127.0.0.1:8080/events
 *     curl -d 'hello' http://127.0.0.1:8080/
 */
#include <prefork.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static struct client {
    prefork_response *res; /* goes on */
    struct client *next;
} *clients;
static prefork_worker *self;

/* It goes to another worker, which needs to know nothing of it, and prefork frees the response. */
static ptrdiff_t forget(prefork_response *res, void *buffer, size_t room, void *arg)
{
    struct client **at = &clients, *client = arg;
    (void)res, (void)buffer, (void)room;
    while (*at != client)
        at = &(*at)->next;
    *at = client->next;
    free(client);
    return 0;
}

/* Also of a client that has gone: prefork_response_end() alone frees a response. */
static void end(void *arg)
{
    prefork_response_end(((struct client *)arg)->res);
    forget(NULL, NULL, 0, arg);
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

static int on_resume(prefork_response *res, uint32_t version, const void *data, size_t size, void *state)
{
    struct client *client = malloc(sizeof *client);
    (void)version, (void)data, (void)size, (void)state;
    *client = (struct client){res, clients};
    clients = client;
    prefork_response_on_gone(res, end, client);
    return prefork_response_on_handover(res, forget, client);
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
    prefork_response_status(res, prefork_worker_send(self, PREFORK_TO_ALL, 0, event, size) == PREFORK_OK ? 200 : 503);
}

static void on_request(prefork_request *req, prefork_response *res, void *state)
{
    prefork_slice method = prefork_request_method(req), path = prefork_request_path(req);
    (void)state;
    if (method.len == 4 && memcmp(method.data, "POST", 4) == 0)
        post(res, prefork_request_body(req));
    else if (path.len == 7 && memcmp(path.data, "/events", 7) == 0) {
        prefork_response_header(res, "Content-Type", "text/event-stream");
        prefork_response_header(res, "Cache-Control", "no-store");
        prefork_response_write(res, ": welcome\n\n", 11);
        on_resume(prefork_response_later(res), 0, NULL, 0, NULL);
    } else
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

static void on_drain(prefork_worker *worker, void *state)
{
    (void)state;
    while (clients && !prefork_worker_hands_over(worker))
        end(clients);
}

static int start(prefork_worker *worker, void **state)
{
    *state = NULL;
    self = worker;
    return prefork_timer_start(worker, 1000, 1000, tick, NULL) == 0;
}

PREFORK_MODULE(.worker_start = start, .on_request = on_request, .on_message = on_message, .on_drain = on_drain,
               .state_version = 1, .on_resume = on_resume)
