/* A program with an event loop of its own, of which the server is a part.
 *
 *     cc loop.c $(pkg-config --cflags --libs prefork) -o loop && ./loop 127.0.0.1:8080 4
 *     r, Enter: reload; +, Enter: one more worker; -, Enter: one less; q, Enter: stop
 *
 * The server's descriptor is one more for the loop to poll, and prefork_server_step() does what there is to do.
 */
#include <poll.h>
#include <prefork.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static unsigned workers;

static void greet(prefork_request *req, prefork_response *res, void *state)
{
    prefork_worker *self = prefork_worker_self();
    char text[64];
    int len = snprintf(text, sizeof text, "hello from worker %u of generation %u\n", prefork_worker_id(self),
                       prefork_worker_generation(self));

    (void)req, (void)state;
    prefork_response_body(res, text, (size_t)len);
}

/* Called by prefork_server_step(). */
static void happened(const prefork_event *event, void *state)
{
    (void)state;
    if (event->type == PREFORK_EVENT_LISTENING)
        printf("listening on http://%s (worker %u)\n", event->address, event->id);
    else
        printf("%s %u %s%s\n", event->name, event->id, event->reason_name, event->text);
    fflush(stdout);
}

/* Returns the descriptor to read keys from: -1 after the end of the input. */
static int pressed(prefork_server *server)
{
    int status = PREFORK_OK;
    char key;

    if (read(STDIN_FILENO, &key, 1) != 1)
        return -1;
    if (key == 'r')
        status = prefork_server_reload(server);
    else if (key == 'q')
        status = prefork_server_stop(server);
    else if (key == '+' || (key == '-' && workers > 1))
        status = prefork_server_scale(server, key == '+' ? ++workers : --workers);
    if (status != PREFORK_OK)
        fprintf(stderr, "loop: %s\n", prefork_server_error(server));
    return STDIN_FILENO;
}

int main(int argc, char **argv)
{
    prefork_server *server = prefork_server_new();
    struct pollfd ready[2] = {{STDIN_FILENO, POLLIN, 0}, {-1, POLLIN, 0}};
    int status = prefork_server_listen(server, argc > 1 ? argv[1] : "127.0.0.1:8080");

    workers = argc > 2 ? (unsigned)atoi(argv[2]) : 2;
    prefork_server_on_request(server, greet, NULL);
    prefork_server_on_event(server, happened, NULL);
    prefork_server_workers(server, workers);
    prefork_server_set(server, "signals", "on"); /* this program does not use TERM, HUP and the like itself */
    if (status == PREFORK_OK && (status = prefork_server_start(server)) == PREFORK_OK)
        for (status = 1; status > 0; status = prefork_server_step(server, 0)) {
            ready[1].fd = prefork_server_fd(server);
            poll(ready, 2, prefork_server_timeout(server));
            if (ready[0].revents != 0)
                ready[0].fd = pressed(server);
        }
    if (status != PREFORK_OK)
        fprintf(stderr, "loop: %s\n", prefork_server_error(server));
    prefork_server_free(server);
    return status == PREFORK_OK ? EXIT_SUCCESS : EXIT_FAILURE;
}
