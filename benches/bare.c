/*
 * bare: the practical limit that prefork is measured against.
 *
 *     cc -O2 -o bare bare.c && ./bare -w 2 -p 8080
 *
 * A server of prefork's shape and nothing more: one master accepts and passes each connection with sendmsg and
 * SCM_RIGHTS over a SEQPACKET socket to one of N forked workers, round robin; a worker is an epoll loop that answers
 * every request with the same 200. No supervision, no limits, no deadlines, one small response: its cost is the cost
 * of the system calls of this shape.
 *
 *   -w N   workers (2)
 *   -p N   port on 127.0.0.1 (0: a free one; the address is printed)
 *   -n N   connections the master accepts before it calls epoll_wait again (16)
 *   -d     TCP_DEFER_ACCEPT: a connection can be accepted once its first bytes have arrived
 *   -b     SCHED_BATCH: a wake-up of the master or a worker does not preempt other processes
 *
 * C99 with POSIX and Linux. A request's head must arrive in one piece, as those of wrk do.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { MAX_WORKERS = 64, MAX_EVENTS = 64, MAX_TAKEN = 16 };

static void die(const char *what)
{
    perror(what);
    exit(1);
}

static void watch(int epoll, int fd, uint32_t events)
{
    struct epoll_event event = { .events = events, .data.fd = fd };

    if (epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) < 0)
        die("epoll_ctl");
}

/* ---- one descriptor in one message ---- */

struct passage {
    char header[4]; /* as long as a header that names the listener */
    size_t control[CMSG_SPACE(sizeof(int)) / sizeof(size_t)]; /* aligned as a cmsghdr */
    struct iovec data;
    struct msghdr message;
};

static struct msghdr *prepare(struct passage *passage)
{
    passage->data = (struct iovec){ passage->header, sizeof passage->header };
    passage->message = (struct msghdr){ .msg_iov = &passage->data, .msg_iovlen = 1,
        .msg_control = passage->control, .msg_controllen = sizeof passage->control };
    return &passage->message;
}

static ssize_t send_fd(int channel, int fd, int flags)
{
    struct passage passage = { .header = { 0 } };
    struct msghdr *message = prepare(&passage);
    struct cmsghdr *rights = CMSG_FIRSTHDR(message);

    rights->cmsg_level = SOL_SOCKET;
    rights->cmsg_type = SCM_RIGHTS;
    rights->cmsg_len = CMSG_LEN(sizeof fd);
    memcpy(CMSG_DATA(rights), &fd, sizeof fd);
    return sendmsg(channel, message, flags | MSG_NOSIGNAL);
}

/* Returns the next connection, or -1 if there is none. A worker exits when its master has. */
static int receive_fd(int channel)
{
    struct passage passage;
    struct msghdr *message = prepare(&passage);
    ssize_t got = recvmsg(channel, message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    struct cmsghdr *rights;
    int fd;

    if (got == 0)
        exit(0);
    if (got < 0 || (rights = CMSG_FIRSTHDR(message)) == NULL)
        return -1;
    memcpy(&fd, CMSG_DATA(rights), sizeof fd);
    return fd;
}

/* ---- worker ---- */

struct answer {
    char text[256];
    size_t len;
};

static struct answer staying, closing;

static void set_answer(struct answer *answer, const char *date, const char *connection)
{
    answer->len = (size_t)snprintf(answer->text, sizeof answer->text,
        "HTTP/1.1 200 OK\r\nDate: %s\r\nContent-Length: 12\r\n%s\r\nhello world\n", date, connection);
}

/* Rewrites the two answers if the second has changed. */
static void refresh_answers(void)
{
    static time_t made;
    struct timespec now;
    struct tm parts;
    char date[64];

    clock_gettime(CLOCK_REALTIME_COARSE, &now);
    if (now.tv_sec == made)
        return;
    made = now.tv_sec;
    strftime(date, sizeof date, "%a, %d %b %Y %H:%M:%S GMT", gmtime_r(&made, &parts));
    set_answer(&staying, date, "");
    set_answer(&closing, date, "Connection: close\r\n");
}

/* Answers the requests that have arrived. Returns false if the connection is to be closed, as after an incomplete head. */
static int serve(int fd)
{
    char buffer[4096], *head = buffer, *end;
    ssize_t got = recv(fd, buffer, sizeof buffer - 1, MSG_DONTWAIT);

    if (got <= 0)
        return got < 0 && errno == EAGAIN;
    buffer[got] = '\0';
    for (; (end = strstr(head, "\r\n\r\n")) != NULL; head = end + 4) {
        char *wish = strstr(head, "\r\nConnection: close");

        if (wish != NULL && wish < end) {
            /* MSG_MORE: the answer leaves with the FIN of the close that follows, in one segment. */
            send(fd, closing.text, closing.len, MSG_DONTWAIT | MSG_NOSIGNAL | MSG_MORE);
            return 0;
        }
        if (send(fd, staying.text, staying.len, MSG_DONTWAIT | MSG_NOSIGNAL) != (ssize_t)staying.len)
            return 0;
    }
    return *head == '\0';
}

/* Takes connections from the master. Most requests have arrived by now: serves them, and watches those that stay open. */
static void take_connections(int epoll, int channel)
{
    for (int taken = 0, fd; taken < MAX_TAKEN && (fd = receive_fd(channel)) >= 0; taken++) {
        if (serve(fd))
            watch(epoll, fd, EPOLLIN | EPOLLET);
        else
            close(fd);
    }
}

static void run_worker(int channel)
{
    struct epoll_event events[MAX_EVENTS];
    int epoll = epoll_create1(EPOLL_CLOEXEC);

    watch(epoll, channel, EPOLLIN);
    refresh_answers();
    send(channel, "", 1, MSG_NOSIGNAL); /* ready */
    for (;;) {
        int ready = epoll_wait(epoll, events, MAX_EVENTS, -1);

        refresh_answers();
        for (int i = 0; i < ready; i++) {
            int fd = events[i].data.fd;

            if (fd == channel)
                take_connections(epoll, channel);
            else if (!serve(fd))
                close(fd);
        }
    }
}

/* ---- master ---- */

static int channels[MAX_WORKERS], workers = 2;

static void spawn_worker(int slot, int listener)
{
    int ends[2];

    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) < 0)
        die("socketpair");
    switch (fork()) {
    case -1:
        die("fork");
    case 0:
        while (slot > 0)
            close(channels[--slot]);
        close(ends[0]);
        close(listener);
        run_worker(ends[1]);
    }
    close(ends[1]);
    channels[slot] = ends[0];
}

/* Round robin, skipping workers whose queue is full; if all are, the master waits for the next one. */
static void hand_off(int fd)
{
    static int next;

    for (int tried = 0; tried <= workers; tried++) {
        int channel = channels[next];

        next = next + 1 < workers ? next + 1 : 0;
        if (send_fd(channel, fd, tried < workers ? MSG_DONTWAIT : 0) >= 0)
            return;
    }
    die("sendmsg");
}

static int listen_on(int *port, int deferred)
{
    struct sockaddr_in address = { .sin_family = AF_INET, .sin_port = htons((uint16_t)*port),
                                   .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    socklen_t len = sizeof address;
    int on = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (deferred)
        setsockopt(fd, IPPROTO_TCP, TCP_DEFER_ACCEPT, &on, sizeof on);
    if (bind(fd, (struct sockaddr *)&address, len) < 0 || listen(fd, 4096) < 0
        || getsockname(fd, (struct sockaddr *)&address, &len) < 0)
        die("bind");
    *port = ntohs(address.sin_port);
    return fd;
}

int main(int argc, char **argv)
{
    struct sched_param none = { 0 };
    struct epoll_event event;
    int option, port = 0, batch = 16, deferred = 0, listener, epoll;
    char ready;

    while ((option = getopt(argc, argv, "w:p:n:db")) != -1) {
        switch (option) {
        case 'w': workers = atoi(optarg); break;
        case 'p': port = atoi(optarg); break;
        case 'n': batch = atoi(optarg); break;
        case 'd': deferred = 1; break;
        case 'b': sched_setscheduler(0, SCHED_BATCH, &none); break;
        default: return 2;
        }
    }
    if (workers < 1 || workers > MAX_WORKERS || batch < 1)
        return 2;
    listener = listen_on(&port, deferred);
    for (int slot = 0; slot < workers; slot++)
        spawn_worker(slot, listener);
    for (int slot = 0; slot < workers; slot++)
        if (recv(channels[slot], &ready, 1, 0) != 1)
            die("worker");
    printf("listening on http://127.0.0.1:%d\n", port);
    fflush(stdout);
    epoll = epoll_create1(EPOLL_CLOEXEC);
    watch(epoll, listener, EPOLLIN);
    for (;;) {
        epoll_wait(epoll, &event, 1, -1);
        for (int accepted = 0; accepted < batch; accepted++) {
            int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);

            if (fd < 0)
                break;
            hand_off(fd);
            close(fd);
        }
    }
}
