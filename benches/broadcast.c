/*
 * broadcast: what is published to all of many WebSocket connections: how long it takes, and whether all arrives.
 *
 *     cc -O2 -o broadcast broadcast.c && ./broadcast -n 10000 -r 30 8080
 *
 *   -n N   connections (10000), from the addresses 127.1.0.1 and up, 5,000 of each
 *   -r N   messages (30) of 100 bytes, each sent over another connection when the one before has arrived everywhere
 *
 * Prints "open" when all are open. After a line on its standard input it publishes, and prints how many messages arrived
 * and how many should have, and the median, the 99th percentile and the most of their latencies in microseconds: from
 * before the send to after the receive. A message that is not the expected one ends it with an error. At its end it resets
 * all connections.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
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

enum { PER_ADDRESS = 5000, SIZE = 100, PATIENCE_MS = 20000, PAUSE_US = 100000 };

static const char REQUEST[] = "GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                              "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";

static void die(const char *what)
{
    perror(what);
    exit(1);
}

static uint64_t now_us(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000 + (uint64_t)now.tv_nsec / 1000;
}

static int open_one(uint32_t source, int port)
{
    struct sockaddr_in from = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(source)};
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    struct timeval patience = {.tv_sec = 10};
    struct linger reset = {.l_onoff = 1};
    int on = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    char head[1024];
    size_t have = 0;

    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &on, sizeof on);
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
    if (fd < 0 || bind(fd, (struct sockaddr *)&from, sizeof from) < 0 || connect(fd, (struct sockaddr *)&to, sizeof to) < 0)
        die("connect");
    if (send(fd, REQUEST, sizeof REQUEST - 1, MSG_NOSIGNAL) != sizeof REQUEST - 1)
        die("send");
    while (have < 4 || memcmp(head + have - 4, "\r\n\r\n", 4) != 0) {
        ssize_t n = recv(fd, head + have, sizeof head - have, 0);

        if (n <= 0)
            die("handshake");
        have += (size_t)n;
    }
    if (memcmp(head, "HTTP/1.1 101 ", 13) != 0) {
        fprintf(stderr, "broadcast: unexpected answer: %.13s\n", head);
        exit(1);
    }
    return fd;
}

/* 100 bytes: a number, and then always the same. */
static void set_text(char *text, int number)
{
    char digits[16];

    memset(text, 'x', SIZE);
    snprintf(digits, sizeof digits, "%08d", number);
    memcpy(text, digits, 8);
}

/* Its mask is zeros. */
static void publish(int fd, int number)
{
    char frame[6 + SIZE] = {(char)0x81, (char)(0x80 | SIZE)};

    set_text(frame + 6, number);
    if (send(fd, frame, 6 + SIZE, MSG_NOSIGNAL) != 6 + SIZE)
        die("publish");
}

static int compare(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

    return (x > y) - (x < y);
}

int main(int argc, char **argv)
{
    struct rlimit files;
    struct epoll_event events[256];
    int count = 10000, rounds = 30, option, *fds, epoll = epoll_create1(EPOLL_CLOEXEC);
    size_t arrived = 0, all;
    uint32_t *latencies;
    char line[64], frame[SIZE + 2], in[SIZE + 3];

    while ((option = getopt(argc, argv, "n:r:")) != -1) {
        switch (option) {
        case 'n': count = atoi(optarg); break;
        case 'r': rounds = atoi(optarg); break;
        default: return 2;
        }
    }
    if (optind != argc - 1 || count < 1 || rounds < 1)
        return 2;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    all = (size_t)count * (size_t)rounds;
    fds = calloc((size_t)count, sizeof *fds);
    latencies = calloc(all, sizeof *latencies);
    if (!fds || !latencies)
        die("calloc");
    for (int i = 0; i < count; i++) {
        struct epoll_event event = {.events = EPOLLIN | EPOLLET};

        fds[i] = event.data.fd = open_one(0x7f010001 + (uint32_t)(i / PER_ADDRESS), atoi(argv[optind]));
        if (epoll_ctl(epoll, EPOLL_CTL_ADD, fds[i], &event) < 0)
            die("epoll_ctl");
    }
    puts("open");
    fflush(stdout);
    if (!fgets(line, sizeof line, stdin))
        return 0;
    for (int round = 0; round < rounds; round++) {
        size_t due = (size_t)count * (size_t)(round + 1);
        uint64_t sent;

        frame[0] = (char)0x81;
        frame[1] = SIZE;
        set_text(frame + 2, round);
        sent = now_us();
        publish(fds[(long)round * 997 % count], round);
        while (arrived < due) {
            int ready = epoll_wait(epoll, events, 256, PATIENCE_MS);

            if (ready <= 0)
                break;
            for (int i = 0; i < ready; i++) {
                ssize_t n = recv(events[i].data.fd, in, sizeof in, MSG_DONTWAIT);

                if (n != SIZE + 2 || memcmp(in, frame, SIZE + 2) != 0) {
                    fprintf(stderr, "broadcast: %zd bytes that were not expected\n", n);
                    exit(1);
                }
                latencies[arrived++] = (uint32_t)(now_us() - sent);
            }
        }
        if (arrived < due)
            break;
        usleep(PAUSE_US);
    }
    qsort(latencies, arrived, sizeof *latencies, compare);
    printf("%zu %zu %u %u %u\n", arrived, all, arrived ? latencies[arrived / 2] : 0,
           arrived ? latencies[arrived * 99 / 100] : 0, arrived ? latencies[arrived - 1] : 0);
    return 0;
}
