/*
 * work: a module whose requests take the time given in their path, without using the CPU.
 *
 *     /        answers at once            /20     answers after 20 ms of sleep
 *     /pid     answers with the worker's process id
 *
 * Compiled with -DBLOCKING it is a handler in blocking style, otherwise one for requests.
 */
#define _GNU_SOURCE
#include <prefork.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* Carries out the request for a path; returns the length of the response. */
static size_t work(const char *path, char *text, size_t size)
{
    long ms = strtol(path + 1, NULL, 10);
    struct timespec left = {ms / 1000, ms % 1000 * 1000000};

    if (strncmp(path, "/pid", 4) == 0)
        return (size_t)snprintf(text, size, "%ld\n", (long)getpid());
    if (ms > 0)
        while (nanosleep(&left, &left) != 0)
            ;
    return (size_t)snprintf(text, size, "hello world\n");
}

#ifdef BLOCKING
static void serve(prefork_conn *conn, void *state)
{
    char in[1024], body[32], out[160];
    size_t have = 0;
    ptrdiff_t n;

    (void)state;
    do {
        if (have == sizeof in - 1 || (n = prefork_conn_read(conn, in + have, sizeof in - 1 - have)) <= 0)
            return;
        have += (size_t)n;
        in[have] = '\0';
    } while (strstr(in, "\r\n\r\n") == NULL);
    if (strncmp(in, "GET /", 5) == 0) {
        size_t size = work(in + 4, body, sizeof body);
        int length = snprintf(out, sizeof out, "HTTP/1.1 200 OK\r\nContent-Length: %zu\r\nConnection: close\r\n\r\n%s",
                              size, body);

        prefork_conn_write(conn, out, (size_t)length);
    }
}

PREFORK_MODULE(.on_connection = serve)
#else
static void answer(prefork_request *req, prefork_response *res, void *state)
{
    char path[32], body[32];
    prefork_slice given = prefork_request_path(req);

    (void)state;
    snprintf(path, sizeof path, "%.*s", (int)given.len, given.data);
    prefork_response_body(res, body, work(path, body, sizeof body));
}

PREFORK_MODULE(.on_request = answer)
#endif
