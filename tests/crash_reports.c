/* Crashes where it is told to: as a module, or with -DHOST as a program that prints what its events say. -DSTREAM serves streams. The path, or
 * the line, says how; START crashes in worker_start. */
#define _GNU_SOURCE
#include <prefork.h>
#include <malloc.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static void (*volatile nowhere)(void);
static int *volatile null;
static volatile int depth;

__attribute__((noinline)) static void planted_segv(void)
{
    *null = 1;
}

__attribute__((noinline)) static void planted_abort(void)
{
    abort();
}

__attribute__((noinline)) static int planted_overflow(int n)
{
    volatile char room[4096];

    room[0] = (char)n;
    depth++;
    return planted_overflow(n + 1) + room[0];
}

__attribute__((noinline)) static void planted_loop(void)
{
    volatile unsigned n = 0;

    for (;;)
        n++;
}

/* A fault in malloc itself: whoever allocates from then on waits for its lock, or faults again. */
__attribute__((noinline)) static void planted_in_malloc(void)
{
    size_t i, sizes[] = {2000, 3000, 5000, 9000};
    char *all[4];

    for (i = 0; i < 4; i++)
        all[i] = malloc(sizes[i]);
    for (i = 0; i < 4; i++)
        memset(all[i] - 16, 0x41, sizes[i]);
    for (i = 0; i < 4; i++)
        free(all[i]);
    all[0] = malloc(100000);
    abort();
}

static void own_handler(int number)
{
    static const char line[] = "own handler\n";

    if (write(2, line, sizeof line - 1) < 0)
        _exit(1);
    _exit(number);
}

static void on_timer(prefork_worker *worker, void *arg)
{
    (void)worker, (void)arg;
    planted_segv();
}

static void crash(const char *how, size_t len)
{
#define IS(word) (len >= sizeof word - 1 && memcmp(how, word, sizeof word - 1) == 0)
    if (IS("segv"))
        planted_segv();
    if (IS("abort"))
        planted_abort();
    if (IS("overflow"))
        planted_overflow(1);
    if (IS("nowhere"))
        nowhere();
    if (IS("malloc"))
        planted_in_malloc();
    if (IS("loop"))
        planted_loop();
    if (IS("exit"))
        exit(3);
    if (IS("kill"))
        raise(SIGKILL);
    if (IS("own")) {
        signal(SIGSEGV, own_handler);
        planted_segv();
    }
    if (IS("default")) {
        signal(SIGSEGV, SIG_DFL);
        planted_segv();
    }
    if (IS("child")) {
        pid_t pid = fork();
        int status = 0;

        if (pid == 0)
            planted_segv();
        waitpid(pid, &status, 0);
        if (!WIFSIGNALED(status) || WTERMSIG(status) != SIGSEGV)
            _exit(9);
    }
    if (IS("timer"))
        prefork_timer_start(prefork_worker_self(), 10, 0, on_timer, NULL);
}

#ifdef STREAM

static void on_data(prefork_conn *conn, void *state)
{
    prefork_slice in = prefork_conn_data(conn);

    (void)state;
    crash(in.data, in.len);
    prefork_conn_write(conn, "ok\n", 3);
    prefork_conn_consume(conn, in.len);
}

PREFORK_MODULE(.on_data = on_data)

#else

static void on_request(prefork_request *req, prefork_response *res, void *state)
{
    prefork_slice path = prefork_request_path(req);

    (void)state;
    crash(path.data + 1, path.len - 1);
    prefork_response_body(res, "ok", 2);
}

static void on_datagram(prefork_worker *worker, const struct sockaddr *peer, const void *data, size_t len, void *state)
{
    (void)worker, (void)peer, (void)state;
    crash(data, len);
}

static int start(prefork_worker *worker, void **state)
{
    (void)state;
    if (getenv("START") != NULL && prefork_worker_id(worker) == 1)
        planted_segv();
    return 0;
}

#ifdef HOST

static void on_start(const prefork_started *started, void *state)
{
    (void)state;
    printf("listening on http://%s\n", started->addresses[0]);
    fflush(stdout);
}

static void on_event(const prefork_event *event, void *state)
{
    (void)state;
    if (event->type == PREFORK_EVENT_EXIT && event->signal != 0)
        printf("exit: %d %s %s %d %s\n", event->signal, event->crash_callback, event->crash_request,
               event->crash_lasted_ms < 60000, strstr(event->crash_backtrace, "planted_segv") ? "planted_segv" : "?"),
            printf("peer: %s\n", event->crash_peer), fflush(stdout);
}

int main(void)
{
    struct prefork_module module = prefork_module_init();
    prefork_server *server = prefork_server_new();
    int status;

    module.worker_start = start;
    module.on_request = on_request;
    prefork_server_module(server, &module, NULL);
    prefork_server_listen(server, "127.0.0.1:0");
    prefork_server_set(server, "workers", "1");
    prefork_server_on_start(server, on_start, NULL);
    prefork_server_on_event(server, on_event, NULL);
    status = prefork_server_run(server);
    prefork_server_free(server);
    return status < 0;
}

#else

PREFORK_MODULE(.worker_start = start, .on_request = on_request, .on_datagram = on_datagram)

#endif
#endif
