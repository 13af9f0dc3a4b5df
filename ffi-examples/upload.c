/* Takes files of any size: PUT /NAME writes the body to DIR/NAME as it comes, and answers with its size and checksum.
 *
 *     cc -shared -fPIC -O2 upload.c -o upload.so && prefork ./upload.so DIR
 *     curl -T film.mp4 http://127.0.0.1:8080/film.mp4
 *
 * A file gets its name when it is complete. What is broken off leaves none.
 */
#include <fcntl.h>
#include <inttypes.h>
#include <prefork.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MOST (INT64_C(1) << 40)

struct upload {
    char name[65], partial[96];
    int fd, failed;
    uint64_t size, sum;
};

/* Called once for each upload, whatever becomes of it. */
static void release(void *user)
{
    struct upload *up = user;

    close(up->fd);
    unlink(up->partial); /* fails if it has its name */
    free(up);
}

/* Letters, digits, '.', '-' and '_', and no '.' in front. */
static int copy_name(char name[65], prefork_slice path)
{
    static const char set[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789.-_";

    if (path.len < 2 || path.len > 65 || path.data[1] == '.')
        return 0;
    memcpy(name, path.data + 1, path.len - 1);
    name[path.len - 1] = 0;
    return strspn(name, set) == path.len - 1;
}

static int refuse(prefork_response *res, unsigned status)
{
    prefork_response_status(res, status);
    return -1;
}

/* Decides before the client sends its file. */
static int on_head(prefork_request *req, prefork_response *res, void *state)
{
    prefork_slice method = prefork_request_method(req);
    struct upload *up;

    (void)state;
    if (method.len != 3 || memcmp(method.data, "PUT", 3)) {
        prefork_response_header(res, "Allow", "PUT");
        return refuse(res, 405);
    }
    if (prefork_request_length(req) > MOST)
        return refuse(res, 413);
    if (!(up = calloc(1, sizeof *up)))
        return refuse(res, 500);
    prefork_request_set_user(req, up, release);
    up->fd = -1;
    up->sum = UINT64_C(0xcbf29ce484222325);
    /* The number of a request is one of its worker. */
    snprintf(up->partial, sizeof up->partial, ".%ld-%" PRIu64, (long)getpid(), prefork_request_id(req));
    if (!copy_name(up->name, prefork_request_path(req)))
        return refuse(res, 400);
    up->fd = open(up->partial, O_WRONLY | O_CREAT | O_TRUNC, 0644);
    return up->fd < 0 ? refuse(res, 500) : 1;
}

static void on_body(prefork_request *req, const void *data, size_t size, int last, void *state)
{
    struct upload *up = prefork_request_user(req);
    const unsigned char *at = data;

    (void)last, (void)state;
    for (size_t i = 0; i < size; i++)
        up->sum = (up->sum ^ at[i]) * UINT64_C(0x100000001b3); /* FNV-1a */
    up->size += size;
    while (size > 0 && !up->failed) {
        ssize_t n = write(up->fd, at, size);

        up->failed = n <= 0 || up->size > (uint64_t)MOST;
        at += n > 0 ? n : 0;
        size -= n > 0 ? (size_t)n : 0;
    }
    if (up->failed)
        prefork_request_stop(req); /* on_request is next */
}

static void on_request(prefork_request *req, prefork_response *res, void *state)
{
    struct upload *up = prefork_request_user(req);
    char text[64];
    int len = snprintf(text, sizeof text, "%" PRIu64 " %016" PRIx64 "\n", up->size, up->sum);

    (void)state;
    if (up->failed || rename(up->partial, up->name))
        prefork_response_status(res, 507);
    else
        prefork_response_body(res, text, (size_t)len);
}

static int start(prefork_worker *worker, void **state)
{
    (void)state;
    return prefork_worker_arg_count(worker) == 1 ? chdir(prefork_worker_arg(worker, 0)) : 1;
}

PREFORK_MODULE(.worker_start = start, .on_head = on_head, .on_body = on_body, .on_request = on_request)
