/* Large bodies in both directions, and small responses, for `bodies.py`:
 *
 *     GET /N     N bytes, by a producer
 *     POST /up   a body taken as it comes: the response is its length
 *     GET /      "hello world"
 */
#include <prefork.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static char part[65536];

static int more(prefork_response *res, void *arg)
{
    size_t *left = arg, n = *left < sizeof part ? *left : sizeof part;

    if (prefork_response_write(res, part, n) == PREFORK_OK)
        *left -= n;
    return *left > 0;
}

#ifdef UPLOADS
static int on_head(prefork_request *req, prefork_response *res, void *state)
{
    (void)res, (void)state;
    return prefork_request_method(req).len == 4;
}

static void on_body(prefork_request *req, const void *data, size_t size, int last, void *state)
{
    (void)req, (void)data, (void)last;
    *(size_t *)state += size;
}
#endif

static void on_request(prefork_request *req, prefork_response *res, void *state)
{
    prefork_slice path = prefork_request_path(req);
    size_t *left;

    (void)state;
    if (path.len < 2 || path.data[1] > '9') {
        prefork_response_body_static(res, "hello world\n", 12);
        return;
    }
    left = malloc(sizeof *left);
    *left = strtoul(path.data + 1, NULL, 10);
    prefork_response_stream(res, more, free, left);
}

#ifdef UPLOADS
static size_t received;

static int start(prefork_worker *worker, void **state)
{
    (void)worker;
    *state = &received;
    return 0;
}

PREFORK_MODULE(.worker_start = start, .on_request = on_request, .on_head = on_head, .on_body = on_body)
#else
PREFORK_MODULE(.on_request = on_request)
#endif
