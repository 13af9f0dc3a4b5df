/* Connections that live through deploys: deploy [-l STATE] [-n CONNECTIONS] [-s SECONDS] PORT
 *
 * Each connection sends a numbered message a second and expects it back: as a WebSocket, or with -l as lines to tests/handover.c with
 * STATE bytes of state. One that is closed is opened again, and sends the message that was not answered once more. While it runs, what it has seen so far is written
 * whenever a line comes on standard input; at the end of that it stops, when every message has been answered or 10 s are over:
 *
 *     {"sent": N, "answered": N, "closed": N, "lost": N, "doubled": N, "reordered": N, "gap_ms": F}
 *
 * The gap is the longest time that a message waited for its answer, over closed connections too. A message is lost if its connection
 * was closed before its answer came.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { ROOM = 512 };

struct conn {
    int fd, ready;      /* ready: the handshake is over */
    int again;          /* the last message is to be sent once more */
    uint64_t sent, got; /* numbers of messages */
    uint64_t lines;     /* answers on this connection, with -l */
    double sent_at, next_at;
    size_t len;
    char in[ROOM];
};

static struct conn *all;
static int count = 10000, port, epoll, line_mode;
static long state_size;
static uint64_t total_sent, answered, closed, lost, doubled, reordered;
static double gap;

static double now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void put(struct conn *c, const void *data, size_t size)
{
    if (send(c->fd, data, size, MSG_NOSIGNAL) != (ssize_t)size && errno != EPIPE && errno != ECONNRESET)
        perror("send");
}

static void put_message(struct conn *c, uint64_t number)
{
    char text[64];
    unsigned char frame[80];
    int size;

    if (line_mode) {
        size = snprintf(text, sizeof text, "count %llu\n", (unsigned long long)number);
        put(c, text, (size_t)size);
        return;
    }
    /* A masked text frame (RFC 6455 section 5.2); a mask of zeros leaves the text as it is. */
    size = snprintf(text, sizeof text, "%llu", (unsigned long long)number);
    frame[0] = 0x81;
    frame[1] = (unsigned char)(0x80 | size);
    memset(frame + 2, 0, 4);
    memcpy(frame + 6, text, (size_t)size);
    put(c, frame, 6 + (size_t)size);
}

static void open_it(struct conn *c)
{
    static const char hello[] = "GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                                "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr = {htonl(INADDR_LOOPBACK)}};
    struct epoll_event event = {EPOLLIN, {.ptr = c}};
    int one = 1, tries = 0;

    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    while (connect(c->fd, (struct sockaddr *)&to, sizeof to) != 0) {
        if ((errno != ECONNREFUSED && errno != EAGAIN) || ++tries > 10000) {
            perror("connect");
            exit(1);
        }
        usleep(1000);
    }
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    fcntl(c->fd, F_SETFL, O_NONBLOCK);
    c->len = 0;
    c->lines = 0;
    c->ready = line_mode;
    if (line_mode) {
        char text[64];

        put(c, text, (size_t)snprintf(text, sizeof text, "state %ld\n", state_size));
    } else
        put(c, hello, sizeof hello - 1);
    epoll_ctl(epoll, EPOLL_CTL_ADD, c->fd, &event);
}

static void reopen(struct conn *c)
{
    closed++;
    lost += c->sent - c->got;
    c->again = c->sent > c->got;
    close(c->fd);
    open_it(c);
}

static void answer(struct conn *c, uint64_t number)
{
    double t = now();

    if (number == c->got + 1)
        c->got = number;
    else if (number <= c->got)
        doubled++;
    else
        reordered++;
    answered++;
    if (t - c->sent_at > gap)
        gap = t - c->sent_at;
}

/* Takes one message from the front of `in`; 0 if it has not come in whole, -1 if it is none. */
static int take(struct conn *c)
{
    unsigned char *in = (unsigned char *)c->in;
    size_t size;
    char *end;

    if (!c->ready) {
        end = memmem(in, c->len, "\r\n\r\n", 4);
        if (!end)
            return 0;
        if (memcmp(in, "HTTP/1.1 101", 12) != 0)
            return -1;
        size = (size_t)(end + 4 - c->in);
        c->ready = 1;
    } else if (line_mode) {
        end = memchr(in, '\n', c->len);
        if (!end)
            return 0;
        size = (size_t)(end + 1 - c->in);
        if (c->lines++ > 0) { /* the first is the answer to `state` */
            unsigned long long number, counted;

            if (sscanf(c->in, "%llu %llu", &number, &counted) != 2 || counted != c->lines)
                reordered++;
            answer(c, number);
        }
    } else {
        if (c->len < 2 || c->len < 2u + (in[1] & 0x7f))
            return 0;
        size = 2u + (in[1] & 0x7f);
        if ((in[0] & 0x0f) == 8)
            return -1;
        if ((in[0] & 0x0f) == 1) {
            char text[64] = {0};

            memcpy(text, in + 2, size - 2 < 63 ? size - 2 : 63);
            answer(c, strtoull(text, NULL, 10));
        }
    }
    memmove(in, in + size, c->len - size);
    c->len -= size;
    return 1;
}

static void receive(struct conn *c)
{
    ssize_t n = recv(c->fd, c->in + c->len, ROOM - c->len, 0);
    int taken;

    if (n < 0 && errno == EAGAIN)
        return;
    if (n <= 0) {
        reopen(c);
        return;
    }
    c->len += (size_t)n;
    while ((taken = take(c)) > 0)
        ;
    if (taken < 0)
        reopen(c);
}

static void report(void)
{
    printf("{\"sent\": %llu, \"answered\": %llu, \"closed\": %llu, \"lost\": %llu, \"doubled\": %llu, \"reordered\": %llu, "
           "\"gap_ms\": %.1f}\n",
           (unsigned long long)total_sent, (unsigned long long)answered, (unsigned long long)closed,
           (unsigned long long)lost, (unsigned long long)doubled, (unsigned long long)reordered, gap * 1e3);
    fflush(stdout);
}

int main(int argc, char **argv)
{
    struct rlimit files = {60000, 60000};
    struct epoll_event events[512], event = {EPOLLIN, {.ptr = NULL}};
    double began, ends = 0;
    int option, i, n, stopping = 0;

    while ((option = getopt(argc, argv, "l:n:")) != -1) {
        if (option == 'l')
            line_mode = 1, state_size = atol(optarg);
        else if (option == 'n')
            count = atoi(optarg);
        else
            return 2;
    }
    if (optind >= argc)
        return 2;
    port = atoi(argv[optind]);
    setrlimit(RLIMIT_NOFILE, &files);
    epoll = epoll_create1(EPOLL_CLOEXEC);
    all = calloc((size_t)count, sizeof *all);
    for (i = 0; i < count; i++)
        open_it(&all[i]);
    epoll_ctl(epoll, EPOLL_CTL_ADD, 0, &event);
    began = now();
    for (i = 0; i < count; i++)
        all[i].next_at = began + 1 + (double)i / count;
    for (;;) {
        double t;
        int waiting = 0;

        n = epoll_wait(epoll, events, 512, 5);
        for (i = 0; i < n; i++) {
            if (events[i].data.ptr)
                receive(events[i].data.ptr);
            else {
                char line[64];

                if (read(0, line, sizeof line) > 0)
                    report(), gap = 0;
                else {
                    stopping = 1, ends = now() + 10;
                    epoll_ctl(epoll, EPOLL_CTL_DEL, 0, NULL);
                }
            }
        }
        t = now();
        for (i = 0; i < count; i++) {
            struct conn *c = &all[i];

            waiting += c->got < c->sent;
            if (c->again && c->ready) {
                c->again = 0;
                put_message(c, c->sent);
            }
            /* One at a time, so that the gap is that of a message. */
            if (!stopping && c->ready && c->next_at <= t && c->got == c->sent) {
                c->next_at += 1;
                if (c->next_at < t)
                    c->next_at = t + 1;
                c->sent_at = t;
                total_sent++;
                put_message(c, ++c->sent);
            }
            /* While nothing comes the gap grows too. */
            if (c->got < c->sent && t - c->sent_at > gap)
                gap = t - c->sent_at;
        }
        if (stopping && (!waiting || t > ends)) {
            lost += (uint64_t)waiting;
            report();
            return 0;
        }
    }
}
