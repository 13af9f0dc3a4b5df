/* A handler whose timers and descriptors do as clients tell it to, in the style that ON_REQUEST, ON_CONNECTION or ON_DATA says.
 *
 * A command is a line, or the path of a request: "after 50 a" is GET /after/50/a. Each answers with one line.
 *     after MS TEXT           a timer that adds TEXT to the trace; the answer: its number
 *     every MS TEXT           the same, repeated
 *     stop ID                 the answer: the status
 *     trace                   what the timers have added so far
 *     early                   the number of calls that came before their time, or were the third in half a period
 *     due                     three timers for the same time, of which the first stops the second
 *     self                    a repeated timer that stops itself at its third call
 *     zero                    a timer that starts itself again, after 0 ms, for ever
 *     churn N                 starts and stops N timers; the answer: the bytes of memory that are not free afterwards and were before
 *     sleep MS                a long callback
 *     fork                    what the calls return in a process of its own
 *     hang                    a timer that does not return
 *     pipe, pair              makes a pipe, a pair of sockets; the answer: its two descriptors
 *     watch FD EVENTS         has FD watched: each event adds "FD:EVENTS:BYTES " to the trace, with the bytes that were read; at the
 *                             end of a file FD is unwatched and closed, and after an event to write unwatched
 *     unwatch FD              the answer: the status
 *     send FD TEXT            writes to it
 *     close FD, dup FD, move FD TO
 *     refused                 the statuses of watches that make no sense
 *     duel                    two that are ready at once, of which each unwatches the other
 *     again FD                changes a watch within itself: "old " in the trace, then "new "
 *     spin                    one that is always ready
 *     many N                  N pipes that are watched; the answer: the bytes of memory that are not free after they are closed
 *     threads N M             N threads, each of which has M functions run; "woken": how many were, and how many not in order
 *     endless                 a function that has itself run again, for ever
 *     wakes                   a thread that has a function run, again and again, for as long as that is not refused
 *     child, kill PID         forks a process that has all descriptors; ends it
 * In the file "log" of the test's directory: "first" of a timer that worker_start has started, "drain", "tick" after that of a
 * repeated timer, "end" of worker_stop with what starts of a timer and a watch return there.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <malloc.h>
#include <pthread.h>
#include <prefork.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static prefork_worker *self;
static char trace[8000];
static int early, drains;
static uint64_t ids[3];

static void note(const char *text)
{
    char path[512], line[64];
    int len = snprintf(line, sizeof line, "%s\n", text), fd;

    snprintf(path, sizeof path, "%s/log", prefork_worker_arg(self, 0));
    fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
    if (fd < 0 || write(fd, line, (size_t)len) != len)
        abort();
    close(fd);
}

static int64_t now_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * INT64_C(1000000000) + now.tv_nsec;
}

static void pause_ms(long ms)
{
    struct timespec left = {ms / 1000, ms % 1000 * 1000000};

    while (nanosleep(&left, &left) < 0 && errno == EINTR)
        ;
}

/* A timer of "after" or "every". */
struct timer {
    int64_t begun, period, calls, last[2];
    char text[32];
};

static void fire(prefork_worker *worker, void *arg)
{
    struct timer *timer = arg;
    int64_t now = now_ns();

    if (now < timer->begun + ++timer->calls * timer->period || now < timer->last[0] + timer->period / 2)
        early++;
    timer->last[0] = timer->last[1];
    timer->last[1] = now;
    if (worker != self || strlen(trace) + 40 > sizeof trace)
        abort();
    strcat(trace, timer->text);
}

static uint64_t start(const char *ms, const char *text, int repeated)
{
    struct timer *timer = calloc(1, sizeof *timer);

    timer->begun = now_ns();
    timer->period = atol(ms) * 1000000;
    snprintf(timer->text, sizeof timer->text, "%s", text);
    return prefork_timer_start(self, strtoull(ms, NULL, 10), repeated ? strtoull(ms, NULL, 10) : 0, fire, timer);
}

static void stops_the_second(prefork_worker *worker, void *arg)
{
    int twice[2];

    (void)arg;
    twice[0] = prefork_timer_stop(worker, ids[1]);
    twice[1] = prefork_timer_stop(worker, ids[1]);
    /* It has been called already. */
    snprintf(trace, sizeof trace, "%d %d %d ", twice[0], twice[1], prefork_timer_stop(worker, ids[0]));
}

static void never(prefork_worker *worker, void *arg)
{
    (void)worker, (void)arg;
    __builtin_trap();
}

static void stops_itself(prefork_worker *worker, void *arg)
{
    (void)arg;
    strcat(trace, "s");
    if (strlen(trace) == 3) {
        int first = prefork_timer_stop(worker, ids[0]);
        sprintf(trace, "%d %d", first, prefork_timer_stop(worker, ids[0]));
    }
}

static void again(prefork_worker *worker, void *arg)
{
    (void)arg;
    trace[0] = 'z';
    if (prefork_timer_start(worker, 0, 0, again, NULL) == 0)
        abort();
}

static void tick(prefork_worker *worker, void *arg)
{
    (void)worker, (void)arg;
    note("tick");
}

static void hang(prefork_worker *worker, void *arg)
{
    (void)worker, (void)arg;
    for (;;)
        pause();
}

static int watch(int fd, int events);

static void first(prefork_worker *worker, void *arg)
{
    (void)worker, (void)arg;
    note("first");
}

/* Adds and removes timers in an order in which most are removed from the middle. */
static long churn(long n)
{
    static uint64_t waiting[100];
    size_t before = mallinfo2().uordblks, i;
    long k;

    for (k = 0; k < n; k++) {
        uint64_t *id = &waiting[k * 37 % 100];

        if (*id && prefork_timer_stop(self, *id) != PREFORK_OK)
            abort();
        *id = prefork_timer_start(self, 1000 + (uint64_t)(k * 7919 % 100000), (uint64_t)k % 2, never, NULL);
        if (*id == 0)
            abort();
    }
    for (i = 0; i < 100; i++) {
        if (waiting[i] && prefork_timer_stop(self, waiting[i]) != PREFORK_OK)
            abort();
        waiting[i] = 0;
    }
    return (long)(mallinfo2().uordblks - before);
}

static int in_a_child(void)
{
    int status = 0;
    pid_t pid = fork();

    if (pid == 0)
        _exit(prefork_timer_start(self, 1, 0, never, NULL) != 0 || watch(0, PREFORK_READ) != PREFORK_STATE ||
                      prefork_unwatch(self, 0) != PREFORK_STATE || prefork_worker_wake(self, hang, NULL) != PREFORK_STATE
                  ? 1
                  : -prefork_timer_stop(self, ids[0]));
    waitpid(pid, &status, 0);
    return -WEXITSTATUS(status);
}

static void ready(prefork_worker *worker, int fd, int events, void *arg)
{
    char bytes[100] = "";
    ssize_t n = events & PREFORK_READ ? read(fd, bytes, sizeof bytes - 1) : 0;

    if (worker != self || arg != trace || strlen(trace) + 200 > sizeof trace)
        abort();
    sprintf(trace + strlen(trace), "%d:%d:%.*s ", fd, events, n > 0 ? (int)n : 0, bytes);
    if (events & PREFORK_WRITE || n <= 0) {
        if (prefork_unwatch(worker, fd) != PREFORK_OK || prefork_unwatch(worker, fd) != PREFORK_GONE)
            abort();
    }
    if (events == PREFORK_READ && n <= 0)
        close(fd);
}

static int watch(int fd, int events)
{
    return prefork_watch(self, fd, events, ready, trace);
}

static int duelists[2][2];

static void shoots(prefork_worker *worker, int fd, int events, void *arg)
{
    int other = duelists[fd == duelists[0][0]][0];

    (void)arg;
    sprintf(trace, "%d %d", events, prefork_unwatch(worker, other));
    prefork_unwatch(worker, fd);
}

static void duel(void)
{
    int i;

    for (i = 0; i < 2; i++) {
        if (pipe2(duelists[i], O_NONBLOCK) < 0 || prefork_watch(self, duelists[i][0], PREFORK_READ, shoots, NULL) != 0 ||
            write(duelists[i][1], "x", 1) != 1)
            abort();
    }
}

static void newer(prefork_worker *worker, int fd, int events, void *arg)
{
    char byte;

    (void)worker, (void)events;
    strcat(trace, arg);
    if (read(fd, &byte, 1) != 1)
        abort();
}

static void older(prefork_worker *worker, int fd, int events, void *arg)
{
    (void)events, (void)arg;
    strcat(trace, "old ");
    if (prefork_watch(worker, fd, PREFORK_READ, newer, "new ") != PREFORK_OK)
        abort();
}

static void spins(prefork_worker *worker, int fd, int events, void *arg)
{
    (void)worker, (void)fd, (void)events, (void)arg;
    trace[0] = 'w';
}

static void is_refused(char *answer, size_t size)
{
    int fds[2], file = open("/proc/self/exe", O_RDONLY | O_CLOEXEC), folder = open("/", O_RDONLY | O_CLOEXEC);

    if (pipe2(fds, O_NONBLOCK) < 0)
        abort();
    snprintf(answer, size, "%d %d %d %d %d %d %d %d %d", watch(-1, 1), watch(9999, 1), watch(fds[0], 0), watch(fds[0], 4),
             watch(fds[0], -1), watch(file, 1), watch(folder, 1), prefork_watch(self, fds[0], 1, NULL, NULL),
             prefork_unwatch(self, fds[0]));
    close(fds[0]), close(fds[1]), close(file), close(folder);
}

static long many(int n)
{
    int (*pipes)[2] = calloc((size_t)n, sizeof *pipes), i;
    size_t before = mallinfo2().uordblks;

    for (i = 0; i < n; i++) {
        if (pipe2(pipes[i], O_NONBLOCK) < 0 || watch(pipes[i][0], PREFORK_READ) != PREFORK_OK)
            abort();
    }
    for (i = 0; i < n; i++) {
        /* In this order or the other. */
        if (i % 2 == 0)
            close(pipes[i][0]);
        if (prefork_unwatch(self, pipes[i][0]) != PREFORK_OK)
            abort();
        if (i % 2 != 0)
            close(pipes[i][0]);
        close(pipes[i][1]);
    }
    before = mallinfo2().uordblks - before;
    free(pipes);
    return (long)before;
}

/* A thread of "threads": the number it has queued last, and the one that was run last. */
struct waking {
    long queued, run, most;
};
static long woken, disordered;

struct call {
    struct waking *by;
    long number;
};

static void run(prefork_worker *worker, void *arg)
{
    struct call *call = arg;

    if (worker != self || prefork_worker_self() != self)
        abort();
    disordered += call->number != ++call->by->run;
    woken++;
    free(call);
}

static void *wake_often(void *arg)
{
    struct waking *waking = arg;

    while (waking->queued < waking->most) {
        struct call *call = malloc(sizeof *call);

        call->by = waking;
        call->number = ++waking->queued;
        if (prefork_worker_wake(self, run, call) != PREFORK_OK)
            abort();
    }
    return NULL;
}

static void endless(prefork_worker *worker, void *arg)
{
    trace[0] = 'e';
    if (prefork_worker_wake(worker, endless, arg) != PREFORK_OK && drains == 0)
        abort();
}

static pthread_t waker;
static int last_status = 1;
static long begun, ended;

static void counts(prefork_worker *worker, void *arg)
{
    (void)worker, (void)arg;
    ended++;
}

static void *wake_until_refused(void *arg)
{
    (void)arg;
    while ((last_status = prefork_worker_wake(self, counts, NULL)) == PREFORK_OK) {
        begun++;
        usleep(20);
    }
    return NULL;
}

static void *wake_for_ever(void *arg)
{
    (void)arg;
    for (;;) {
        prefork_worker_wake(self, counts, NULL);
        usleep(20);
    }
    return NULL;
}

/* A command about threads; 0 if it is none. */
static int act_on_threads(char **words, int n, char *answer, size_t size)
{
    long i;

    if (strcmp(words[0], "threads") == 0 && n == 3) {
        for (i = 0; i < atol(words[1]); i++) {
            struct waking *waking = calloc(1, sizeof *waking);
            pthread_t thread;

            waking->most = atol(words[2]);
            if (pthread_create(&thread, NULL, wake_often, waking) != 0 || pthread_detach(thread) != 0)
                abort();
        }
    } else if (strcmp(words[0], "endless") == 0) {
        endless(self, NULL);
        trace[0] = 0;
    } else if (strcmp(words[0], "wakes") == 0) {
        pthread_t other;

        if (pthread_create(&waker, NULL, wake_until_refused, NULL) != 0 || pthread_create(&other, NULL, wake_for_ever, NULL) != 0)
            abort();
    } else if (strcmp(words[0], "woken") != 0) {
        return 0;
    }
    snprintf(answer, size, "%ld %ld", woken, disordered);
    return 1;
}

/* A command about descriptors; 0 if it is none. */
static int act_on_descriptors(char **words, int n, char *answer, size_t size)
{
    int fd = n > 1 ? atoi(words[1]) : -1, arg = n > 2 ? atoi(words[2]) : 0, fds[2];
    long result = 0;

    if (strcmp(words[0], "pipe") == 0 || strcmp(words[0], "pair") == 0) {
        int made = words[0][2] == 'p' ? pipe2(fds, O_NONBLOCK | O_CLOEXEC)
                                      : socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds);
        if (made < 0)
            abort();
        snprintf(answer, size, "%d %d", fds[0], fds[1]);
        return 1;
    }
    if (strcmp(words[0], "refused") == 0) {
        is_refused(answer, size);
        return 1;
    }
    if (strcmp(words[0], "watch") == 0) {
        result = watch(fd, arg);
    } else if (strcmp(words[0], "unwatch") == 0) {
        result = prefork_unwatch(self, fd);
    } else if (strcmp(words[0], "send") == 0) {
        result = write(fd, words[2], strlen(words[2]));
    } else if (strcmp(words[0], "close") == 0) {
        result = close(fd);
    } else if (strcmp(words[0], "dup") == 0) {
        result = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    } else if (strcmp(words[0], "move") == 0) {
        result = dup3(fd, arg, O_CLOEXEC);
        close(fd);
    } else if (strcmp(words[0], "duel") == 0) {
        duel();
    } else if (strcmp(words[0], "again") == 0) {
        result = prefork_watch(self, fd, PREFORK_READ, older, NULL);
    } else if (strcmp(words[0], "spin") == 0) {
        if (pipe2(fds, O_NONBLOCK) < 0)
            abort();
        result = prefork_watch(self, fds[1], PREFORK_WRITE, spins, NULL);
    } else if (strcmp(words[0], "many") == 0) {
        result = many(fd);
    } else if (strcmp(words[0], "child") == 0) {
        result = fork();
        if (result == 0)
            for (;;)
                pause();
    } else if (strcmp(words[0], "kill") == 0) {
        result = kill(fd, SIGKILL);
        waitpid(fd, NULL, 0);
    } else {
        return 0;
    }
    snprintf(answer, size, "%ld", result);
    return 1;
}

/* Does a command, and puts the answer into its place. */
static void act(char *command, size_t size)
{
    char *words[4] = {0}, *rest = NULL, *word;
    int n = 0;
    long result = 0;

    for (word = strtok_r(command, " /", &rest); word && n < 4; word = strtok_r(NULL, " /", &rest))
        words[n++] = word;
    if (n == 0 || act_on_descriptors(words, n, command, size) || act_on_threads(words, n, command, size))
        return;
    if (strcmp(words[0], "after") == 0) {
        result = (long)start(words[1], words[2], 0);
    } else if (strcmp(words[0], "every") == 0) {
        result = (long)start(words[1], words[2], 1);
    } else if (strcmp(words[0], "stop") == 0) {
        result = prefork_timer_stop(self, strtoull(words[1], NULL, 10));
    } else if (strcmp(words[0], "trace") == 0) {
        snprintf(command, size, "%s", trace);
        return;
    } else if (strcmp(words[0], "early") == 0) {
        result = early;
    } else if (strcmp(words[0], "due") == 0) {
        trace[0] = 0;
        ids[0] = prefork_timer_start(self, 20, 0, stops_the_second, NULL);
        ids[1] = prefork_timer_start(self, 20, 0, never, NULL);
        start("20", "third", 0);
        pause_ms(40);
    } else if (strcmp(words[0], "self") == 0) {
        trace[0] = 0;
        ids[0] = prefork_timer_start(self, 1, 1, stops_itself, NULL);
    } else if (strcmp(words[0], "zero") == 0) {
        again(self, NULL);
        trace[0] = 0;
    } else if (strcmp(words[0], "churn") == 0) {
        result = churn(atol(words[1]));
    } else if (strcmp(words[0], "sleep") == 0) {
        pause_ms(atol(words[1]));
    } else if (strcmp(words[0], "fork") == 0) {
        result = in_a_child();
    } else if (strcmp(words[0], "hang") == 0) {
        prefork_timer_start(self, 0, 0, hang, NULL);
    } else {
        result = -1000;
    }
    snprintf(command, size, "%ld", result);
}

static int worker_start(prefork_worker *worker, void **state)
{
    static struct waking at_start = {0, 0, 100};
    pthread_t starter;

    (void)state;
    self = worker;
    if (prefork_timer_start(worker, 1, 0, NULL, NULL) != 0 || prefork_timer_start(NULL, 1, 0, never, NULL) != 0)
        return 1;
    if (prefork_worker_wake(NULL, never, NULL) != PREFORK_NULL || prefork_worker_wake(worker, NULL, NULL) != PREFORK_NULL)
        return 1;
    /* Before there is a loop. */
    if (pthread_create(&starter, NULL, wake_often, &at_start) != 0 || pthread_join(starter, NULL) != 0)
        return 1;
    /* Times that never come. */
    prefork_timer_start(worker, UINT64_MAX, 1, never, NULL);
    prefork_timer_start(worker, 1000 * 1000, UINT64_MAX, never, NULL);
    return prefork_timer_start(worker, 1, 0, first, NULL) == 0;
}

static void worker_stop(prefork_worker *worker, void *state)
{
    char text[60];

    (void)state;
    if (last_status != 1) {
        pthread_join(waker, NULL);
        /* Those of the other thread are among them. */
        snprintf(text, sizeof text, "%d %s", last_status, ended >= begun ? "all" : "some are lost");
        note(text);
    }
    snprintf(text, sizeof text, "end %d %d %d", (int)prefork_timer_start(worker, 0, 0, never, NULL), watch(0, PREFORK_READ),
             prefork_worker_wake(worker, never, NULL));
    note(text);
}

static void on_drain(prefork_worker *worker, void *state)
{
    (void)state;
    note("drain");
    if (drains++ == 0)
        prefork_timer_start(worker, 10, 10, tick, NULL);
}

#define COMMON .worker_start = worker_start, .worker_stop = worker_stop, .on_drain = on_drain

#if defined ON_REQUEST
static void on_request(prefork_request *req, prefork_response *res, void *state)
{
    prefork_slice path = prefork_request_path(req);
    char command[sizeof trace];

    (void)state;
    snprintf(command, sizeof command, "%.*s", (int)path.len, (const char *)path.data);
    act(command, sizeof command);
    prefork_response_body(res, command, strlen(command));
}
PREFORK_MODULE(COMMON, .on_request = on_request)
#else
/* Answers the lines that have come; 0 when there will be no more. */
static int answer_lines(prefork_conn *conn)
{
    char line[sizeof trace];
    ptrdiff_t n = prefork_conn_read(conn, line, sizeof line - 1);

    if (n <= 0)
        return n == PREFORK_AGAIN;
    line[n] = 0;
    line[strcspn(line, "\n")] = 0;
    act(line, sizeof line - 1);
    strcat(line, "\n");
    return prefork_conn_write(conn, line, strlen(line)) >= 0;
}

static void on_conn(prefork_conn *conn, void *state)
{
    (void)state;
#ifdef ON_CONNECTION
    while (answer_lines(conn))
        ;
#else
    if (!answer_lines(conn))
        prefork_conn_close(conn);
#endif
}
#ifdef ON_CONNECTION
PREFORK_MODULE(COMMON, .on_connection = on_conn)
#else
PREFORK_MODULE(COMMON, .on_data = on_conn)
#endif
#endif
