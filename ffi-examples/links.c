/* Short links, whose unit tests are in test_links.c: PUT /NAME with a URL as its body makes a link for an hour,
 * GET /NAME leads there.
 *
 *     cc -shared -fPIC -O2 links.c -o links.so && prefork ./links.so
 *     curl -X PUT -d https://example.org/ http://127.0.0.1:8080/name && curl -i http://127.0.0.1:8080/name
 */
#include <prefork.h>
#include <stdlib.h>
#include <string.h>

enum { LINKS = 100, HOUR = 3600 * 1000 };

struct link {
    char *name, *url; /* NULL if the place is free */
};

struct links {
    prefork_worker *worker;
    struct link all[LINKS];
};

static int start(prefork_worker *worker, void **state)
{
    struct links *links = calloc(1, sizeof *links);

    if (!links)
        return 1;
    links->worker = worker;
    *state = links;
    return 0;
}

static void expire(prefork_worker *worker, void *arg)
{
    struct link *link = arg;

    (void)worker;
    free(link->name);
    free(link->url);
    link->name = link->url = NULL;
}

static void stop(prefork_worker *worker, void *state)
{
    struct links *links = state;

    for (int i = 0; i < LINKS; i++)
        expire(worker, &links->all[i]);
    free(links);
}

static char *copy(prefork_slice slice)
{
    char *text = malloc(slice.len + 1);

    if (text) {
        memcpy(text, slice.data, slice.len);
        text[slice.len] = '\0';
    }
    return text;
}

static int is(prefork_slice slice, const char *text)
{
    return slice.len == strlen(text) && memcmp(slice.data, text, slice.len) == 0;
}

static void answer(prefork_request *req, prefork_response *res, void *state)
{
    struct links *links = state;
    prefork_slice path = prefork_request_path(req);
    struct link *found = NULL, *free_place = NULL;

    for (int i = 0; i < LINKS; i++) {
        struct link *link = &links->all[i];
        if (link->name && is(path, link->name))
            found = link;
        if (!link->name)
            free_place = link;
    }
    if (is(prefork_request_method(req), "PUT")) {
        prefork_response_status(res, found ? 409 : free_place ? 201 : 507);
        if (found || !free_place)
            return;
        *free_place = (struct link){copy(path), copy(prefork_request_body(req))};
        prefork_timer_start(links->worker, HOUR, 0, expire, free_place);
    } else if (!found || !found->url || prefork_response_header(res, "Location", found->url) < 0) {
        prefork_response_status(res, 404);
    } else {
        prefork_response_status(res, 302);
    }
}

PREFORK_MODULE(.worker_start = start, .worker_stop = stop, .on_request = answer)
