/* Says what runs at the end of a worker: as a module, or with -DHOST as a program. Its argument, or WORKER_EXIT, is the setting; HANG has an
 * exit handler that does not return. */
#define _POSIX_C_SOURCE 200809L
#include <prefork.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void *volatile lost;
static pid_t host;

static void say(const char *what)
{
    char line[100];
    int len = snprintf(line, sizeof line, "%s\n", what);

    if (write(2, line, (size_t)len) < 0)
        _exit(1);
}

static void at_exit(void)
{
    say("exit handler");
    if (getenv("HANG") != NULL)
        for (;;)
            pause();
}

__attribute__((destructor)) static void destroyed(void)
{
    say(getpid() == host ? "destructor of the host" : "destructor");
}

static void on_request(prefork_request *req, prefork_response *res, void *state)
{
    prefork_slice path = prefork_request_path(req);

    (void)state;
    if (path.len == 5 && memcmp(path.data, "/leak", 5) == 0) {
        lost = malloc(4321);
        lost = NULL;
    }
    if (path.len == 6 && memcmp(path.data, "/leave", 6) == 0)
        prefork_worker_leave(prefork_worker_self());
    /* Without a line's end: it is written when the process ends. */
    printf("buffered");
    prefork_response_body(res, "ok", 2);
}

static int start(prefork_worker *worker, void **state)
{
    (void)worker, (void)state;
    return atexit(at_exit);
}

static void stop(prefork_worker *worker, void *state)
{
    (void)worker, (void)state;
    say("worker_stop");
}

#ifdef HOST

static void before_the_fork(void)
{
    say(getpid() == host ? "exit handler of the host, in the host" : "exit handler of the host, in a worker");
}

static void on_start(const prefork_started *started, void *state)
{
    (void)state;
    printf("listening on http://%s\n", started->addresses[0]);
    fflush(stdout);
}

int main(void)
{
    struct prefork_module module = prefork_module_init();
    prefork_server *server = prefork_server_new();
    int status;

    host = getpid();
    atexit(before_the_fork);
    module.worker_start = start;
    module.worker_stop = stop;
    module.on_request = on_request;
    prefork_server_module(server, &module, NULL);
    prefork_server_listen(server, "127.0.0.1:0");
    prefork_server_set(server, "workers", "1");
    if (prefork_server_set(server, "worker-exit", getenv("WORKER_EXIT")) != PREFORK_OK)
        say(prefork_server_error(server));
    prefork_server_on_start(server, on_start, NULL);
    status = prefork_server_run(server);
    prefork_server_free(server);
    return status < 0;
}

#else

PREFORK_MODULE(.worker_start = start, .worker_stop = stop, .on_request = on_request)

#endif
