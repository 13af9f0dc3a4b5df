/* Takes files of any size: PUT /NAME writes the body to DIR/NAME as it comes, and answers with its size and checksum.
 *
 *     cc -shared -fPIC -O2 upload.c -o upload.so && prefork ./upload.so DIR
 *     curl -T film.mp4 http://127.0.0.1:8080/film.mp4
 *
 * A file gets its name when it is complete. What is broken off leaves none.
 */
#include <inttypes.h>
#include <prefork.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct upload {
    char *path, partial[96];
    FILE *file;
    int failed;
    uint64_t size, sum;
};

/* Called once for each upload, whatever becomes of it. */
static void release(void *user)
{
    struct upload *up = user;
    if (up->file)
        fclose(up->file);
    unlink(up->partial); /* fails if it has its name */
    free(up->path);
    free(up);
}

/* "/" and a name of letters, digits, '.', '-' and '_', with no '.' in front. */
static int is_name(const char *path)
{
    size_t len = *path ? strspn(path + 1, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789.-_") : 0;

    return len > 0 && len < 65 && !path[len + 1] && path[1] != '.';
}

/* Decides before the client sends its file: 1, in pieces; -1, the response is the refusal. */
static int on_head(prefork_request *req, prefork_response *res, void *state)
{
    struct upload *up = calloc(1, sizeof *up);
    unsigned refusal = 0;

    (void)state;
    if (!up)
        return prefork_response_fail(res), -1;
    prefork_request_set_user(req, up, release);
    up->sum = UINT64_C(0xcbf29ce484222325);
    up->path = prefork_slice_dup(prefork_request_path(req));
    /* The number of a request is one of its worker. */
    snprintf(up->partial, sizeof up->partial, ".%ld-%" PRIu64, (long)getpid(), prefork_request_id(req));
    if (!prefork_slice_is(prefork_request_method(req), "PUT"))
        refusal = 405;
    else if (prefork_request_length(req) > INT64_C(1) << 40)
        refusal = 413;
    else if (!up->path || !is_name(up->path))
        refusal = 400;
    else if (!(up->file = fopen(up->partial, "w")))
        refusal = 500;
    if (refusal == 405)
        prefork_response_header(res, "Allow", "PUT");
    return refusal ? prefork_response_status(res, refusal), -1 : 1;
}

static void on_body(prefork_request *req, const void *data, size_t size, int last, void *state)
{
    struct upload *up = prefork_request_user(req);

    (void)state;
    for (size_t i = 0; i < size; i++)
        up->sum = (up->sum ^ ((const unsigned char *)data)[i]) * UINT64_C(0x100000001b3); /* FNV-1a */
    up->size += size;
    if (fwrite(data, 1, size, up->file) != size || (last && fflush(up->file))) {
        up->failed = 1;
        prefork_request_stop(req); /* on_request is next */
    }
}

static void on_request(prefork_request *req, prefork_response *res, void *state)
{
    struct upload *up = prefork_request_user(req);

    (void)state;
    if (up->failed || rename(up->partial, up->path + 1))
        prefork_response_status(res, 507);
    else
        prefork_response_printf(res, "%" PRIu64 " %016" PRIx64 "\n", up->size, up->sum);
}

static int start(prefork_worker *worker, void **state)
{
    (void)state;
    return prefork_worker_arg_count(worker) == 1 ? chdir(prefork_worker_arg(worker, 0)) : 1;
}

PREFORK_MODULE(.worker_start = start, .on_head = on_head, .on_body = on_body, .on_request = on_request)
