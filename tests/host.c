/* A program that embeds prefork, for the tests: tells what each call says, a line each.
 *
 *     host calls            every refusal, then a run that ends itself, twice
 *     host threads          a run in a process with two threads
 *     host module FILE ARGS serves with a module from a file until a signal ends it
 */
#define _POSIX_C_SOURCE 200809L
#include <prefork.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void on_request(prefork_request *req, prefork_response *res, void *state)
{
    (void)req;
    prefork_response_body(res, state, strlen(state));
}

static void on_conn(prefork_conn *conn, void *state)
{
    (void)conn;
    (void)state;
}

static void say(prefork_server *server, const char *what, int status)
{
    printf("%s: %d %s\n", what, status, prefork_server_error(server));
}

/* In the master, with all workers ready: changes nothing, and ends the run. */
static void end(const prefork_started *started, void *state)
{
    prefork_server *server = state;

    printf("started: %u addresses, %u workers, port 0: %d\n", (unsigned)started->address_count,
           (unsigned)started->workers, strstr(started->addresses[0], ":0") != NULL);
    printf("meanwhile: %d %d\n", prefork_server_set(server, "workers", "3"), prefork_server_run(server));
    prefork_server_free(server);
    /* Blocked for as long as it runs, and forgotten then. */
    kill(getpid(), SIGPIPE);
    kill(getpid(), SIGTERM);
}

/* Those that this process has blocked, or that wait for it. */
static int signals(void)
{
    sigset_t blocked, pending;
    int n = 0, i;

    sigprocmask(SIG_SETMASK, NULL, &blocked);
    sigpending(&pending);
    for (i = 1; i < 32; i++)
        n += sigismember(&blocked, i) + sigismember(&pending, i);
    return n;
}

static void calls(prefork_server *server)
{
    struct prefork_module module = prefork_module_init();
    const char *args[] = {"one", "two"}, *holes[] = {"one", NULL};
    int i;

    say(server, "run", prefork_server_run(server));
    say(server, "set", prefork_server_set(server, "workers", "many"));
    say(server, "set", prefork_server_set(server, "colour", "red"));
    say(server, "set", prefork_server_set(server, "wokers", "3"));
    say(server, "set", prefork_server_set(server, "dispatch", "\xff"));
    say(server, "set", prefork_server_set(server, "dispatch", NULL));
    say(server, "listen", prefork_server_listen(server, "nowhere"));
    say(server, "workers", prefork_server_workers(server, 1025));
    say(server, "args", prefork_server_args(server, 2, args));
    say(server, "args", prefork_server_args(server, 2, holes));
    say(server, "args", prefork_server_args(server, 0, NULL));
    say(server, "on_data", prefork_server_on_data(server, on_conn, NULL, on_conn, NULL));
    say(server, "module", prefork_server_module(server, &module, NULL));
    module.on_request = on_request;
    module.on_connection = on_conn;
    say(server, "module", prefork_server_module(server, &module, NULL));
    module.on_connection = NULL;
    module.abi_major++;
    say(server, "module", prefork_server_module(server, &module, NULL));
    module.abi_major--;
    say(server, "module", prefork_server_module(server, &module, "hello\n"));
    say(server, "module_file", prefork_server_module_file(server, "/nowhere.so"));
    say(server, "run", prefork_server_run(server));
    say(server, "on_request", prefork_server_on_request(server, on_request, "hello\n"));
    say(server, "listen", prefork_server_listen(server, "127.0.0.1:0"));
    say(server, "workers", prefork_server_workers(server, 2));
    say(server, "on_start", prefork_server_on_start(server, end, server));
    for (i = 0; i < 2; i++) {
        say(server, "run", prefork_server_run(server));
        printf("killed: %u\n", prefork_server_killed(server));
        printf("signals: %d\n", signals());
    }
}

static void *wait(void *state)
{
    pause();
    return state;
}

static void threads(prefork_server *server)
{
    pthread_t thread;

    pthread_create(&thread, NULL, wait, NULL);
    prefork_server_on_request(server, on_request, "hello\n");
    prefork_server_listen(server, "127.0.0.1:0");
    say(server, "run", prefork_server_run(server));
}

static void tell(const prefork_started *started, void *state)
{
    (void)state;
    printf("listening on http://%s\n", started->addresses[0]);
    fflush(stdout);
}

static int serve(prefork_server *server, const char *file, int n, char **args)
{
    int status;

    prefork_server_module_file(server, file);
    prefork_server_args(server, (size_t)n, (const char *const *)args);
    prefork_server_listen(server, "127.0.0.1:0");
    prefork_server_workers(server, 2);
    prefork_server_on_start(server, tell, NULL);
    status = prefork_server_run(server);
    if (status != PREFORK_OK)
        fprintf(stderr, "host: %s\n", prefork_server_error(server));
    return status == PREFORK_OK ? EXIT_SUCCESS : EXIT_FAILURE;
}

int main(int argc, char **argv)
{
    prefork_server *server = prefork_server_new();
    int code = EXIT_SUCCESS;

    setvbuf(stdout, NULL, _IOLBF, 0); /* what waits in a buffer would be written by each worker too */
    if (argc > 2)
        code = serve(server, argv[2], argc - 3, argv + 3);
    else if (argc > 1 && strcmp(argv[1], "threads") == 0)
        threads(server);
    else
        calls(server);
    prefork_server_free(server);
    return code;
}
