/*
 * broadcast_bare: the limit that prefork's topics are measured against.
 *
 *     cc -O2 -o broadcast_bare broadcast_bare.c && ./broadcast_bare 4 8080
 *
 * N processes, each an epoll loop with connections of its own, that take WebSocket handshakes; what a client says, each
 * sends to all of its connections: one frame, one send(2) for each. Processes tell each other directly, over socket pairs.
 * No limits, no deadlines, nothing that is not needed: a handshake and a message must arrive in one piece each.
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
#include <sys/socket.h>
#include <unistd.h>

enum { MAX_WORKERS = 16, MAX_CONNS = 20000 };

/* For the key that broadcast.c sends. */
static const char ANSWER[] = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade\r\n"
                             "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

static int conns[MAX_CONNS], count, is_open[MAX_CONNS], peers[MAX_WORKERS], others;

static void die(const char *what)
{
    perror(what);
    exit(1);
}

static void watch(int epoll, int fd, uint32_t events)
{
    struct epoll_event event = {.events = events, .data.fd = fd};

    if (epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) < 0)
        die("epoll_ctl");
}

static void send_all(const char *frame, size_t size)
{
    for (int i = 0; i < count; i++)
        if (send(conns[i], frame, size, MSG_DONTWAIT | MSG_NOSIGNAL) != (ssize_t)size && errno == EAGAIN)
            die("a client that is too slow");
}

/* Returns 0 if the client has gone. */
static int serve(int fd)
{
    char in[4096], frame[130];
    ssize_t got = recv(fd, in, sizeof in, MSG_DONTWAIT);
    size_t size;

    if (got < 0 && errno == EAGAIN)
        return 1;
    if (got <= 0)
        return 0;
    if (!is_open[fd]) {
        is_open[fd] = 1;
        conns[count++] = fd;
        return send(fd, ANSWER, sizeof ANSWER - 1, MSG_NOSIGNAL) > 0;
    }
    size = (size_t)(in[1] & 127);
    if (got < 6 || size > 125 || (size_t)got != 6 + size)
        return 0;
    frame[0] = (char)0x81;
    frame[1] = (char)size;
    for (size_t i = 0; i < size; i++)
        frame[2 + i] = (char)(in[6 + i] ^ in[2 + (i & 3)]);
    for (int i = 0; i < others; i++)
        if (send(peers[i], frame, 2 + size, MSG_NOSIGNAL) < 0)
            die("send to a process");
    send_all(frame, 2 + size);
    return 1;
}

static void forget(int fd)
{
    for (int i = 0; i < count; i++)
        if (conns[i] == fd)
            conns[i--] = conns[--count];
    is_open[fd] = 0;
    close(fd);
}

static void run(int listener)
{
    struct epoll_event events[64];
    int epoll = epoll_create1(EPOLL_CLOEXEC);

    watch(epoll, listener, EPOLLIN | EPOLLEXCLUSIVE);
    for (int i = 0; i < others; i++)
        watch(epoll, peers[i], EPOLLIN);
    for (;;) {
        int ready = epoll_wait(epoll, events, 64, -1);

        for (int i = 0; i < ready; i++) {
            int fd = events[i].data.fd, of_peer = 0, on = 1;

            for (int j = 0; j < others; j++)
                of_peer |= peers[j] == fd;
            if (of_peer) {
                char frame[130];
                ssize_t got = recv(fd, frame, sizeof frame, MSG_DONTWAIT);

                if (got == 0)
                    exit(0);
                if (got > 0)
                    send_all(frame, (size_t)got);
            } else if (fd == listener) {
                int conn = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);

                if (conn < 0)
                    continue;
                setsockopt(conn, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
                watch(epoll, conn, EPOLLIN | EPOLLET);
            } else if (!serve(fd)) {
                forget(fd);
            }
        }
    }
}

int main(int argc, char **argv)
{
    struct sockaddr_in address = {.sin_family = AF_INET};
    socklen_t size = sizeof address;
    int workers = argc > 1 ? atoi(argv[1]) : 4, on = 1, listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    int ends[MAX_WORKERS][MAX_WORKERS];

    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    address.sin_port = htons((uint16_t)(argc > 2 ? atoi(argv[2]) : 0));
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (workers < 1 || workers > MAX_WORKERS || bind(listener, (struct sockaddr *)&address, sizeof address) < 0 ||
        listen(listener, 4096) < 0 || getsockname(listener, (struct sockaddr *)&address, &size) < 0)
        die("listen");
    for (int i = 0; i < workers; i++)
        for (int j = 0; j < i; j++) {
            int pair[2];

            if (socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair) < 0)
                die("socketpair");
            ends[i][j] = pair[0];
            ends[j][i] = pair[1];
        }
    printf("listening on http://127.0.0.1:%d\n", ntohs(address.sin_port));
    fflush(stdout);
    for (int i = 0; i < workers; i++) {
        if (i < workers - 1 && fork() != 0)
            continue;
        for (int a = 0; a < workers; a++)
            for (int b = 0; b < workers; b++) {
                if (a == b)
                    continue;
                if (a == i)
                    peers[others++] = ends[a][b];
                else
                    close(ends[a][b]);
            }
        run(listener);
    }
    return 0;
}
