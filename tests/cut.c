/* What becomes of connections whose worker ends. As a stream, a line is a command, and an answer is a line:
 *
 *     pid                the worker's process
 *     fill COUNT         COUNT bytes, and no line's end
 *     close              closes it
 *     keep               leaves everything unread from now on
 *     hang               does not return
 *     reason             the reason of the end, before it
 *
 * As a request, built with -DON_REQUEST: /kept begins a response that goes on, /upgrade becomes a stream.
 * Standard error has a line for each on_close, with the reason, on_gone and worker_stop.
 */
#include <prefork.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int keeps;

static void answer(prefork_conn *conn, const char *format, long value)
{
    char line[64];

    prefork_conn_write(conn, line, (size_t)snprintf(line, sizeof line, format, value));
}

static void command(prefork_conn *conn, const char *line)
{
    if (!strncmp(line, "fill ", 5)) {
        size_t size = strtoul(line + 5, NULL, 10);
        char *bytes = malloc(size);

        memset(bytes, 'x', size);
        prefork_conn_write(conn, bytes, size);
        free(bytes);
    } else if (!strcmp(line, "close")) {
        prefork_conn_close(conn);
    } else if (!strcmp(line, "keep")) {
        keeps = 1;
    } else if (!strcmp(line, "reason")) {
        answer(conn, "%ld\n", (long)prefork_conn_end_reason(conn));
    } else if (!strcmp(line, "hang")) {
        for (;;)
            pause();
    } else {
        answer(conn, "%ld\n", (long)getpid());
    }
}

static void on_data(prefork_conn *conn, void *state)
{
    prefork_slice data = prefork_conn_data(conn);
    char line[100];
    const char *end;

    (void)state;
    while (!keeps && (end = memchr(data.data, '\n', data.len))) {
        size_t size = (size_t)(end - (const char *)data.data);

        memcpy(line, data.data, size);
        line[size] = 0;
        prefork_conn_consume(conn, size + 1);
        command(conn, line);
        data = prefork_conn_data(conn);
    }
}

static void on_close(prefork_conn *conn, void *state)
{
    (void)state;
    fprintf(stderr, "closed %u\n", prefork_conn_end_reason(conn));
}

static void stop(prefork_worker *worker, void *state)
{
    (void)worker;
    (void)state;
    fprintf(stderr, "worker_stop\n");
}

#ifndef ON_REQUEST
PREFORK_MODULE(.on_data = on_data, .on_close = on_close, .worker_stop = stop)
#else
static void gone(void *res)
{
    fprintf(stderr, "gone\n");
    prefork_response_end(res);
}

static void on_request(prefork_request *req, prefork_response *res, void *state)
{
    prefork_slice target = prefork_request_target(req);

    (void)state;
    if (target.len == 8) {
        prefork_response_upgrade(res, "lines");
        return;
    }
    if (target.len == 5) {
        prefork_response *kept = prefork_response_later(res);

        prefork_response_on_gone(kept, gone, kept);
        prefork_response_write(kept, "begun\n", 6);
        prefork_response_flush(kept);
    }
}

PREFORK_MODULE(.on_request = on_request, .on_data = on_data, .on_close = on_close, .worker_stop = stop)
#endif
