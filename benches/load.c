/*
 * load: a client that makes one connection for each request, at a steady pace or with a number of clients at a time.
 *
 *     cc -O2 -o load load.c -lm && ./load -r 2000 -d 3 8080
 *
 * At a pace the load is open: a connection begins at its time, whatever the state of the others, and its latency counts
 * from that time. So every client that waits for a server that has paused is counted. The latency ends with the last
 * byte of the response. The times and requests are the same in each run.
 *
 *   -r N      connections a second ...
 *   -x        ... at random moments (a Poisson process), instead of evenly spaced ones
 *   -c N      or N clients, each with one connection after the other
 *   -d N      seconds (3); SIGTERM ends it sooner
 *   -p PATH   the path of the requests (/)
 *   -m P:A:B  P percent of the requests, chosen by a hash of their number, ask for /A, the others for /B
 *   -t N      seconds after which a connection counts as failed (10)
 *
 * It runs with real-time priority if that is allowed, so that busy servers do not delay it. Prints one line of JSON;
 * `lag` is the delay with which connections began. Failures by kind: refused, reset, closed (before the response was
 * complete), timeout, wrong.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <math.h>
#include <netinet/in.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

enum { MAX_FD = 65536, MAX_EVENTS = 256, MAX_TOLD = 50 };
enum { REFUSED, RESET, CLOSED, TIMEOUT, WRONG, KINDS };

static const char *const KIND[KINDS] = {"refused", "reset", "closed", "timeout", "wrong"};
static const char BODY[] = "hello world\n";

struct conn {
    int64_t due; /* the time at which it was to begin; 0 if there is no connection */
    int sent, answered, rare;
    size_t have;
    char in[512];
};

struct sample {
    int32_t us;
    int rare;
};

struct failure {
    int kind, sent;
    size_t have;
    int64_t at, lasted;
};

static struct conn *conns;
static struct sample *samples;
static struct failure told[MAX_TOLD];
static int *lags;
static size_t answered, begun, failed[KINDS], failures, room;
static int epoll, under_way, highest, port;
static int64_t began, limit = 10000000;
static double rare_percent;
static volatile sig_atomic_t told_to_end;
static const char *rare_path = "/", *path = "/";

static void die(const char *what)
{
    perror(what);
    exit(1);
}

static void take_signal(int number)
{
    (void)number;
    told_to_end = 1;
}

static int64_t now_us(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000LL + t.tv_nsec / 1000;
}

/* The last step of splitmix64. */
static uint64_t hash(uint64_t n)
{
    n += 0x9e3779b97f4a7c15;
    n = (n ^ (n >> 30)) * 0xbf58476d1ce4e5b9;
    n = (n ^ (n >> 27)) * 0x94d049bb133111eb;
    return n ^ (n >> 31);
}

/* Between 0 and 1, exclusive. */
static double fraction(uint64_t n)
{
    return ((hash(n) >> 11) + 0.5) / 9007199254740992.0;
}

static void end(int fd)
{
    conns[fd].due = 0;
    under_way--;
    close(fd);
}

static void fail(int fd, int kind)
{
    struct conn *c = &conns[fd];
    int64_t now = now_us();

    failed[kind]++;
    if (failures < MAX_TOLD)
        told[failures] = (struct failure){kind, c->sent, c->have, now - began, now - c->due};
    failures++;
    end(fd);
}

static void fail_by_errno(int fd)
{
    fail(fd, errno == ECONNREFUSED ? REFUSED : errno == ECONNRESET || errno == EPIPE ? RESET : WRONG);
}

static void send_request(int fd)
{
    struct conn *c = &conns[fd];
    char out[256];
    int size = snprintf(out, sizeof out, "GET %s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
                        c->rare ? rare_path : path);

    if (send(fd, out, (size_t)size, MSG_NOSIGNAL) == size)
        c->sent = 1;
    else if (errno != EAGAIN && errno != ENOTCONN)
        fail_by_errno(fd);
}

static void begin(int64_t due)
{
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLET};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (fd < 0 || fd >= MAX_FD)
        die("socket");
    if (begun == room) {
        room = room ? 2 * room : 4096;
        samples = realloc(samples, room * sizeof *samples);
        lags = realloc(lags, room * sizeof *lags);
        if (!samples || !lags)
            die("realloc");
    }
    lags[begun] = (int)(now_us() - due);
    conns[fd] = (struct conn){.due = due, .rare = fraction(2 * begun) * 100 < rare_percent};
    begun++;
    under_way++;
    if (fd > highest)
        highest = fd;
    event.data.fd = fd;
    if (epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) != 0)
        die("epoll_ctl");
    if (connect(fd, (struct sockaddr *)&to, sizeof to) != 0 && errno != EINPROGRESS)
        fail_by_errno(fd);
    else
        send_request(fd);
}

/* The connection has ended, with or without an error. */
static void ended(int fd)
{
    if (conns[fd].answered)
        end(fd);
    else if (errno != 0)
        fail_by_errno(fd);
    else
        fail(fd, CLOSED);
}

static void proceed(int fd)
{
    struct conn *c = &conns[fd];
    size_t tail = sizeof BODY - 1;

    if (c->due != 0 && !c->sent)
        send_request(fd);
    while (c->due != 0 && c->sent) {
        ssize_t n = recv(fd, c->in + c->have, sizeof c->in - c->have, 0);

        if (n < 0 && errno == EAGAIN)
            return;
        if (n <= 0) {
            errno = n == 0 ? 0 : errno;
            return ended(fd);
        }
        c->have += (size_t)n;
        if (!c->answered && c->have > tail && memcmp(c->in + c->have - tail, BODY, tail) == 0 &&
            memcmp(c->in, "HTTP/1.1 200", 12) == 0) {
            c->answered = 1;
            samples[answered++] = (struct sample){(int32_t)(now_us() - c->due), c->rare};
        } else if (c->have == sizeof c->in || c->answered) {
            return fail(fd, WRONG);
        }
    }
}

static void end_overdue(void)
{
    int64_t now = now_us();
    int fd;

    for (fd = 0; fd <= highest; fd++)
        if (conns[fd].due != 0 && now - conns[fd].due > limit) {
            if (conns[fd].answered)
                end(fd);
            else
                fail(fd, TIMEOUT);
        }
}

static int by_us(const void *a, const void *b)
{
    int32_t x = ((const struct sample *)a)->us, y = ((const struct sample *)b)->us;

    return (x > y) - (x < y);
}

static int by_int(const void *a, const void *b)
{
    int x = *(const int *)a, y = *(const int *)b;

    return (x > y) - (x < y);
}

/* The latency at a percentile; of the common requests only if `common`. */
static int percentile(int percent, int common)
{
    size_t i, n = 0, at;

    for (i = 0; i < answered; i++)
        n += !(common && samples[i].rare);
    at = n * (size_t)percent / 100;
    for (i = 0; i < answered; i++)
        if (!(common && samples[i].rare) && at-- == 0)
            return samples[i].us;
    return answered ? samples[answered - 1].us : 0;
}

static void report(void)
{
    size_t i;

    qsort(samples, answered, sizeof *samples, by_us);
    qsort(lags, begun, sizeof *lags, by_int);
    printf("{\"begun\": %zu, \"answered\": %zu, \"failed\": %zu, \"p50_us\": %d, \"p99_us\": %d, \"max_us\": %d, "
           "\"common_p99_us\": %d, \"lag_p99_us\": %d, \"kinds\": {",
           begun, answered, failures, percentile(50, 0), percentile(99, 0),
           answered ? samples[answered - 1].us : 0, percentile(99, 1), begun ? lags[begun * 99 / 100] : 0);
    for (i = 0; i < KINDS; i++)
        printf("%s\"%s\": %zu", i ? ", " : "", KIND[i], failed[i]);
    printf("}, \"told\": [");
    for (i = 0; i < failures && i < MAX_TOLD; i++)
        printf("%s{\"kind\": \"%s\", \"at_us\": %lld, \"lasted_us\": %lld, \"sent\": %d, \"received\": %zu}",
               i ? ", " : "", KIND[told[i].kind], (long long)told[i].at, (long long)told[i].lasted, told[i].sent,
               told[i].have);
    printf("]}\n");
}

static void run(double rate, int random, int clients, double seconds)
{
    struct epoll_event events[MAX_EVENTS], event = {.events = EPOLLIN};
    int timer = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC), i, n;
    double next = 0;
    int64_t look = 0, due;

    event.data.fd = timer;
    if (timer < 0 || epoll_ctl(epoll, EPOLL_CTL_ADD, timer, &event) != 0)
        die("timerfd");
    began = now_us();
    for (;;) {
        int64_t now = now_us();
        int over = told_to_end || now - began >= seconds * 1e6;

        if (over && under_way == 0)
            return;
        for (; !over && clients == 0 && began + (int64_t)next <= now; now = now_us()) {
            begin(began + (int64_t)next);
            next += (random ? -log(fraction(2 * begun + 1)) : 1.0) * 1e6 / rate;
            if (next >= seconds * 1e6)
                break;
        }
        while (!over && under_way < clients)
            begin(now_us());
        if (now - look > 50000) {
            end_overdue();
            look = now;
        }
        due = clients == 0 && next < seconds * 1e6 ? began + (int64_t)next : now + 50000;
        timerfd_settime(timer, TFD_TIMER_ABSTIME,
                        &(struct itimerspec){.it_value = {due / 1000000, due % 1000000 * 1000}}, NULL);
        n = epoll_wait(epoll, events, MAX_EVENTS, 100);
        for (i = 0; i < n; i++) {
            if (events[i].data.fd != timer) /* setting it again clears its expiration */
                proceed(events[i].data.fd);
        }
    }
}

int main(int argc, char **argv)
{
    struct rlimit files;
    double rate = 0, seconds = 3;
    int random = 0, clients = 0, option;
    char *rest;

    while ((option = getopt(argc, argv, "r:xc:d:p:m:t:")) != -1)
        switch (option) {
        case 'r': rate = atof(optarg); break;
        case 'x': random = 1; break;
        case 'c': clients = atoi(optarg); break;
        case 'd': seconds = atof(optarg); break;
        case 'p': path = optarg; break;
        case 'm':
            rare_percent = strtod(optarg, &rest);
            if (asprintf((char **)&rare_path, "/%ld", strtol(rest + 1, &rest, 10)) < 0 ||
                asprintf((char **)&path, "/%s", rest + 1) < 0)
                die("asprintf");
            break;
        case 't': limit = (int64_t)(atof(optarg) * 1e6); break;
        default: return 2;
        }
    if (optind != argc - 1 || (rate > 0) == (clients > 0) || (port = atoi(argv[optind])) <= 0) {
        fprintf(stderr, "usage: load (-r RATE [-x] | -c CLIENTS) [-d S] [-p PATH] [-m P:A:B] [-t S] PORT\n");
        return 2;
    }
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max < MAX_FD ? files.rlim_max : MAX_FD;
    setrlimit(RLIMIT_NOFILE, &files);
    sigaction(SIGTERM, &(struct sigaction){.sa_handler = take_signal}, NULL);
    prctl(PR_SET_TIMERSLACK, 1UL);
    sched_setscheduler(0, SCHED_RR, &(struct sched_param){2}); /* refused to an ordinary user */
    conns = calloc(MAX_FD, sizeof *conns);
    epoll = epoll_create1(EPOLL_CLOEXEC);
    if (!conns || epoll < 0)
        die("start");
    run(rate, random, clients, seconds);
    report();
    return 0;
}
