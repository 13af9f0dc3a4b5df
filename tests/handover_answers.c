/* Responses that go on, and go from worker to worker with their state.
 *
 *     /events/NAME    lines "NAME N" from 1 on, one every 5 ms, N counting over all workers; /events/NAME/SIZE: with as many
 *                     bytes in front of the first
 *     /poll/NAME      answered when somebody asks for /wake: "NAME MOVES", with the number of times it has come
 *     /sized/NAME     30 bytes with a Content-Length: 10 at once, 10 more whenever somebody asks for /wake
 *     /produce/NAME   lines as of /events, by a producer, without a pause
 *                     of NAMEs that begin with "c" the connection is closed afterwards
 *     /wake           answers all polls of this worker
 *     /who            the worker's generation
 * NAME of a response that others refuse begins with "r", of one that stays with "s", of one that ends when it is asked for
 * its state with "e".
 */
#include <prefork.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { EVENTS, POLL, PRODUCE, SIZED };

struct answer {
    prefork_response *res;
    struct answer *next, **at;
    uint64_t count, moves;
    uint32_t kind, worker;
    char name[40];
};

static struct answer *all;
static prefork_worker *self;

static void link_in(struct answer *a)
{
    a->next = all;
    a->at = &all;
    if (all)
        all->at = &a->next;
    all = a;
}

static void unlink_it(struct answer *a)
{
    if (!a->at)
        return;
    *a->at = a->next;
    if (a->next)
        a->next->at = a->at;
    a->at = NULL;
}

static void gone(void *arg)
{
    struct answer *a = arg;

    unlink_it(a);
    if (a->kind == PRODUCE) /* `done` frees it */
        return;
    prefork_response_end(a->res);
    free(a);
}

static ptrdiff_t give(prefork_response *res, void *buffer, size_t room, void *arg)
{
    struct answer *a = arg;

    if (a->name[0] == 's' || room < sizeof *a)
        return -1;
    a->worker = prefork_worker_id(self);
    memcpy(buffer, a, sizeof *a);
    unlink_it(a);
    if (a->name[0] == 'e') {
        prefork_response_write(res, "the end", 7);
        prefork_response_end(res);
    }
    if (a->kind != PRODUCE) /* else `done` frees it */
        free(a);
    return sizeof *a;
}

static int more(prefork_response *res, void *arg)
{
    struct answer *a = arg;
    char line[64];

    a->res = res;
    for (int i = 0; i < 100; i++) {
        int size = snprintf(line, sizeof line, "%s %llu\n", a->name, (unsigned long long)(a->count + 1));

        if (prefork_response_write(res, line, (size_t)size) != PREFORK_OK)
            return 1;
        a->count++;
    }
    return 1;
}

static void done(void *arg)
{
    unlink_it(arg);
    free(arg);
}

static void keep(struct answer *a, prefork_response *kept)
{
    a->res = kept;
    link_in(a);
    if (prefork_response_on_handover(kept, give, a) != PREFORK_OK || prefork_response_on_gone(kept, gone, a) != PREFORK_OK)
        abort();
    if (a->kind == PRODUCE && prefork_response_stream(kept, more, done, a) != PREFORK_OK)
        abort();
}

static void begin(prefork_response *res, uint32_t kind, const char *name, unsigned long size)
{
    struct answer *a = calloc(1, sizeof *a);
    char *filler;

    a->kind = kind;
    snprintf(a->name, sizeof a->name, "%s", name);
    if (size) {
        filler = malloc(size);
        memset(filler, '.', size);
        filler[size - 1] = '\n';
        prefork_response_write(res, filler, size);
        free(filler);
    }
    keep(a, prefork_response_later(res));
}

static void on_request(prefork_request *req, prefork_response *res, void *state)
{
    prefork_slice path = prefork_request_path(req);
    char text[200], name[40], out[100];
    unsigned long size = 0;

    (void)state;
    snprintf(text, sizeof text, "%.*s", (int)path.len, path.data);
    if (sscanf(text, "/events/%39[^/]/%lu", name, &size) >= 1)
        begin(res, EVENTS, name, size);
    else if (sscanf(text, "/poll/%39s", name) == 1)
        begin(res, POLL, name, 0);
    else if (sscanf(text, "/sized/%39s", name) == 1) {
        prefork_response_header(res, "Content-Length", "30");
        if (name[0] == 'c')
            prefork_response_close(res);
        prefork_response_write(res, "0123456789", 10);
        begin(res, SIZED, name, 0);
    } else if (sscanf(text, "/produce/%39s", name) == 1)
        begin(res, PRODUCE, name, 0);
    else if (!strcmp(text, "/wake")) {
        for (struct answer *a = all, *next; a; a = next) {
            next = a->next;
            if (a->kind == SIZED) {
                if (prefork_response_write(a->res, "0123456789", 10) != PREFORK_OK)
                    abort();
                if (++a->count == 2)
                    gone(a);
            }
            if (a->kind != POLL)
                continue;
            prefork_response_header(a->res, "X-Poll", "yes");
            prefork_response_body(a->res, out,
                                  (size_t)sprintf(out, "%s %llu", a->name, (unsigned long long)a->moves));
            gone(a);
        }
    } else if (!strcmp(text, "/who"))
        prefork_response_body(res, out, (size_t)sprintf(out, "%u", prefork_worker_generation(self)));
    else
        prefork_response_status(res, 404);
}

static int on_resume(prefork_response *res, uint32_t version, const void *data, size_t size, void *state)
{
    struct answer *a = malloc(sizeof *a);

    (void)state;
    if (size != sizeof *a || version != 3)
        abort();
    memcpy(a, data, sizeof *a);
    if (a->name[0] == 'r' && a->worker != prefork_worker_id(self)) {
        prefork_response_write(res, "nobody sees this\n", 17);
        free(a);
        return 1;
    }
    a->moves++;
    keep(a, res);
    return 0;
}

static void tick(prefork_worker *worker, void *arg)
{
    char line[64];

    (void)worker, (void)arg;
    for (struct answer *a = all; a; a = a->next) {
        if (a->kind == EVENTS) {
            int size = snprintf(line, sizeof line, "%s %llu\n", a->name, (unsigned long long)(a->count + 1));

            a->count += prefork_response_write(a->res, line, (size_t)size) == PREFORK_OK;
        }
    }
}

static int start(prefork_worker *worker, void **state)
{
    (void)state;
    self = worker;
    return prefork_timer_start(worker, 5, 5, tick, NULL) == 0;
}

PREFORK_MODULE(.worker_start = start, .on_request = on_request, .state_version = 3, .on_resume = on_resume)
