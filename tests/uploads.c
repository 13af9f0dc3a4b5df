/* Takes bodies as they come.
 *
 *     /whole, /pieces    the body at once, or as it comes; answered with its size, the sum of its bytes, and the number of pieces
 *     /STATUS            refused with that status
 *     /pause             pauses after each piece; /paused is the number of the last request that did
 *     /resume/ID         resumes one, and answers what the call returned
 *     /tick              pauses after each piece, and goes on by a timer, 1 ms later
 *     /stop              stops after the first piece, and is answered with 413
 *     /calls             the return values of calls that are refused in each callback
 *     /counts            heads, answers and releases so far, of all but GET; they are printed at the end, too
 */
#include <inttypes.h>
#include <prefork.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct upload {
    uint64_t size, sum, pieces;
    char calls[64];
};

static uint64_t paused, heads, answers, releases;

static void release(void *user)
{
    releases++;
    free(user);
}

static int is(prefork_request *req, const char *path)
{
    prefork_slice own = prefork_request_path(req);

    return own.len == strlen(path) && !memcmp(own.data, path, own.len);
}

static void note(struct upload *up, int status)
{
    size_t len = strlen(up->calls);

    snprintf(up->calls + len, sizeof up->calls - len, "%d ", status);
}

static int on_head(prefork_request *req, prefork_response *res, void *state)
{
    prefork_slice path = prefork_request_path(req);
    struct upload *up;
    unsigned status = path.len > 1 ? (unsigned)atoi(path.data + 1) : 0;

    (void)state;
    if (*prefork_request_method(req).data != 'G') {
        heads++;
        up = calloc(1, sizeof *up);
        prefork_request_set_user(req, up, release);
    }
    if (status) {
        prefork_response_status(res, status);
        prefork_response_body(res, "refused", 7);
        return -1;
    }
    if (is(req, "/calls"))
        note(prefork_request_user(req), prefork_request_stop(req));
    return is(req, "/pieces") || is(req, "/pause") || is(req, "/tick") || is(req, "/stop") || is(req, "/calls");
}

static void go_on(prefork_worker *self, void *arg)
{
    prefork_request_resume(self, (uint64_t)(uintptr_t)arg);
}

static void take(struct upload *up, const unsigned char *data, size_t size)
{
    up->size += size;
    up->pieces++;
    for (size_t i = 0; i < size; i++)
        up->sum += data[i];
}

static void on_body(prefork_request *req, const void *data, size_t size, int last, void *state)
{
    struct upload *up = prefork_request_user(req);

    (void)state;
    take(up, data, size);
    if (is(req, "/calls") && last) {
        note(up, prefork_request_pause(req));
        note(up, prefork_request_stop(req));
    }
    if (last)
        return;
    if (is(req, "/pause") && prefork_request_pause(req) == PREFORK_OK)
        paused = prefork_request_id(req);
    if (is(req, "/tick") && prefork_request_pause(req) == PREFORK_OK)
        prefork_timer_start(prefork_worker_self(), 1, 0, go_on, (void *)(uintptr_t)prefork_request_id(req));
    if (is(req, "/stop"))
        prefork_request_stop(req);
}

static void on_request(prefork_request *req, prefork_response *res, void *state)
{
    struct upload *up = prefork_request_user(req), none = {0};
    prefork_slice body = prefork_request_body(req), path = prefork_request_path(req);
    char text[128];

    (void)state;
    answers += up != NULL;
    up = up ? up : &none;
    if (up->pieces == 0)
        take(up, (const unsigned char *)body.data, body.len);
    snprintf(text, sizeof text, "%" PRIu64 " %" PRIu64 " %" PRIu64, up->size, up->sum, up->pieces);
    if (is(req, "/stop"))
        prefork_response_status(res, 413);
    if (is(req, "/paused"))
        snprintf(text, sizeof text, "%" PRIu64, paused);
    if (is(req, "/counts"))
        snprintf(text, sizeof text, "%" PRIu64 " %" PRIu64 " %" PRIu64, heads, answers, releases);
    if (path.len > 8 && !memcmp(path.data, "/resume/", 8))
        snprintf(text, sizeof text, "%d",
                 prefork_request_resume(prefork_worker_self(), strtoull(path.data + 8, NULL, 10)));
    if (is(req, "/calls")) {
        note(up, prefork_request_pause(req));
        snprintf(text, sizeof text, "%s%d %d", up->calls, prefork_request_resume(NULL, 1),
                 prefork_request_pause(NULL));
    }
    prefork_response_body(res, text, strlen(text));
}

static void stop(prefork_worker *self, void *state)
{
    (void)self, (void)state;
    fprintf(stderr, "counts %" PRIu64 " %" PRIu64 " %" PRIu64 "\n", heads, answers, releases);
}

PREFORK_MODULE(.on_head = on_head, .on_body = on_body, .on_request = on_request, .worker_stop = stop)
