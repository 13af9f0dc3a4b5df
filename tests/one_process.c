/* A handler for one process, as a module, or with -DHOST as a program: answers what a path asks for, has planted faults, and says what
 * runs at its end. */
#define _POSIX_C_SOURCE 200809L
#include <prefork.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static char told[512];
static void *volatile lost;

static void note(const char *who, int result)
{
    size_t len = strlen(told);

    snprintf(told + len, sizeof told - len, "%s %d;", who, result);
}

static int is(prefork_slice slice, const char *text)
{
    return slice.len == strlen(text) && memcmp(slice.data, text, slice.len) == 0;
}

static void on_reply(prefork_worker *worker, int result, const void *data, size_t size, void *arg)
{
    (void)worker, (void)data;
    note(arg, result == PREFORK_OK ? (int)size : result);
}

static void send_all(prefork_worker *worker)
{
    uint32_t own = prefork_worker_id(worker);

    note("send self", prefork_worker_send(worker, own, 1, "abc", 3));
    note("send all", prefork_worker_send(worker, PREFORK_TO_ALL, 1, "abc", 3));
    note("send 7", prefork_worker_send(worker, 7, 1, "abc", 3));
    note("publish", prefork_publish(worker, "topic", "abc", 3));
    prefork_worker_request(worker, own, 2, "abc", 3, 0, on_reply, "self");
    prefork_worker_request(worker, 7, 2, "abc", 3, 0, on_reply, "other");
    prefork_worker_request(worker, PREFORK_TO_MASTER, 2, "abc", 3, 0, on_reply, "master");
}

static void on_message(prefork_worker *worker, uint32_t from, uint32_t type, const void *data, size_t size, void *state)
{
    (void)from, (void)data, (void)state;
    note("message", (int)type);
    if (type == 2)
        prefork_worker_reply(worker, "12345", size + 2);
}

__attribute__((noinline)) static int planted_invalid_read(void)
{
    volatile char *p = malloc(16);
    int c = p[16];

    free((void *)p);
    return c;
}

__attribute__((noinline)) static int planted_use_after_free(void)
{
    volatile char *p = malloc(16);

    free((void *)p);
    return p[1];
}

__attribute__((noinline)) static void planted_leak(void)
{
    lost = malloc(4321);
    lost = NULL;
}

static void on_request(prefork_request *req, prefork_response *res, void *state)
{
    prefork_slice path = prefork_request_path(req);
    prefork_worker *worker = prefork_worker_self();
    char answer[512] = "ok";

    (void)state;
    if (is(path, "/who"))
        snprintf(answer, sizeof answer, "%u %u %u %s", (unsigned)prefork_worker_id(worker),
                 (unsigned)prefork_worker_slot(worker), (unsigned)prefork_worker_generation(worker),
                 getenv("PREFORK_WORKER_ID"));
    else if (is(path, "/send"))
        send_all(worker);
    else if (is(path, "/told"))
        snprintf(answer, sizeof answer, "%s", told);
    else if (is(path, "/leave"))
        prefork_worker_leave(worker);
    else if (is(path, "/read"))
        snprintf(answer, sizeof answer, "%d", planted_invalid_read());
    else if (is(path, "/freed"))
        snprintf(answer, sizeof answer, "%d", planted_use_after_free());
    else if (is(path, "/leak"))
        planted_leak();
    prefork_response_body(res, answer, strlen(answer));
}

static void at_exit(void)
{
    fputs("exit handler\n", stderr);
}

__attribute__((destructor)) static void destroyed(void)
{
    fputs("destructor\n", stderr);
}

static int start(prefork_worker *worker, void **state)
{
    (void)worker;
    *state = malloc(100);
    return atexit(at_exit);
}

static void stop(prefork_worker *worker, void *state)
{
    (void)worker;
    free(state);
    fputs("worker_stop\n", stderr);
}

#ifdef HOST

static void on_start(const prefork_started *started, void *state)
{
    printf("listening on http://%s\n", started->addresses[0]);
    fflush(stdout);
    fprintf(stderr, "stop: %d\n", prefork_server_stop(state));
}

int main(void)
{
    struct prefork_module module = prefork_module_init();
    prefork_server *server = prefork_server_new();
    sigset_t term, mask;
    int status;

    /* It reads TERM nevertheless, and leaves the mask as it was. */
    sigemptyset(&term);
    sigaddset(&term, SIGTERM);
    sigprocmask(SIG_BLOCK, &term, NULL);
    module.worker_start = start;
    module.worker_stop = stop;
    module.on_request = on_request;
    module.on_message = on_message;
    prefork_server_module(server, &module, NULL);
    prefork_server_listen(server, "127.0.0.1:0");
    prefork_server_set(server, "one-process", "on");
    prefork_server_on_start(server, on_start, server);
    status = prefork_server_start(server);
    fprintf(stderr, "start: %d %s\n", status, prefork_server_error(server));
    fprintf(stderr, "run: %d\n", prefork_server_run(server));
    sigprocmask(SIG_BLOCK, NULL, &mask);
    fprintf(stderr, "blocked: %d %d\n", sigismember(&mask, SIGTERM), sigismember(&mask, SIGINT));
    prefork_server_free(server);
    return 0;
}

#else

PREFORK_MODULE(.worker_start = start, .worker_stop = stop, .on_request = on_request, .on_message = on_message)

#endif
