/* A program that is the server itself.
 *
 *     cc embed.c $(pkg-config --cflags --libs prefork) -o embed && ./embed 127.0.0.1:8080 4
 *     curl http://127.0.0.1:8080/
 *
 * Workers are forks of this process, made in prefork_server_run(), so they have everything that was prepared before,
 * here behind `state`. Each has a copy of its own: the count is per worker.
 */
#include <prefork.h>
#include <stdio.h>
#include <stdlib.h>

struct app {
    const char *greeting;
    unsigned long requests;
};

static void greet(prefork_request *req, prefork_response *res, void *state)
{
    struct app *app = state;
    prefork_slice path = prefork_request_path(req);
    char text[256];
    int len = snprintf(text, sizeof text, "%s from request %lu to %.*s\n", app->greeting, ++app->requests,
                       path.len > 100 ? 100 : (int)path.len, path.data);

    prefork_response_header(res, "Content-Type", "text/plain");
    prefork_response_body(res, text, (size_t)len);
}

static void started(const prefork_started *what, void *state)
{
    size_t i;

    (void)state;
    for (i = 0; i < what->address_count; i++)
        printf("listening on http://%s\n", what->addresses[i]);
    fflush(stdout);
}

int main(int argc, char **argv)
{
    struct app app = {"hello", 0};
    prefork_server *server = prefork_server_new();
    int status = prefork_server_on_request(server, greet, &app);

    if (status == PREFORK_OK)
        status = prefork_server_listen(server, argc > 1 ? argv[1] : "127.0.0.1:8080");
    if (status == PREFORK_OK)
        status = prefork_server_set(server, "workers", argc > 2 ? argv[2] : "auto");
    if (status == PREFORK_OK)
        status = prefork_server_on_start(server, started, NULL);
    if (status == PREFORK_OK)
        status = prefork_server_run(server); /* until a signal ends it */
    if (status != PREFORK_OK)
        fprintf(stderr, "embed: %s\n", server ? prefork_server_error(server) : prefork_strerror(status));
    prefork_server_free(server);
    return status == PREFORK_OK ? EXIT_SUCCESS : EXIT_FAILURE;
}
