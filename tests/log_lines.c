/* A host in C with a log of its own, for the tests: as tests/hosts/log_lines.rs. */
#define _POSIX_C_SOURCE 200809L
#include <prefork.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static void on_request(prefork_request *req, prefork_response *res, void *state)
{
    (void)req;
    (void)state;
    /* The handler says three bytes and writes one: a line of the worker. */
    prefork_response_header(res, "Content-Length", "3");
    prefork_response_write(res, "x", 1);
}

static void on_log(int level, const char *line, void *state)
{
    int *lines = state;

    ++*lines;
    printf("%ld %d %s %s\n", (long)getpid(), *lines, level == PREFORK_LOG_ERROR ? "error" : "other", line);
    fflush(stdout);
}

static void on_start(const prefork_started *started, void *state)
{
    (void)state;
    printf("listening on http://%s\n", started->addresses[0]);
    fflush(stdout);
}

int main(int argc, char **argv)
{
    static int lines;
    prefork_server *server = prefork_server_new();
    int status;

    if (argc != 2)
        return 2;
    prefork_server_on_request(server, on_request, NULL);
    prefork_server_set(server, "log-level", "debug");
    prefork_server_workers(server, 1);
    prefork_server_listen(server, argv[1]);
    prefork_server_on_log(server, on_log, &lines);
    prefork_server_on_start(server, on_start, NULL);
    status = prefork_server_run(server);
    if (status != PREFORK_OK)
        fprintf(stderr, "%s\n", prefork_server_error(server));
    prefork_server_free(server);
    return status != PREFORK_OK;
}
