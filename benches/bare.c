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
 *   -n N   connections the master accepts before it calls epoll_wait again (16, at most 64)
 *   -d     TCP_DEFER_ACCEPT: a connection can be accepted once its first bytes have arrived
 *   -m     batches: the listener says how many connections it holds (TCP_INFO), so that no accept finds none, and each
 *          worker gets its share of them as one message with several descriptors
 *   -r     with -m: one close_range(2) for all of the master's copies whose numbers are a run that holds nothing else
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

enum { MAX_WORKERS = 64, MAX_EVENTS = 64, MAX_TAKEN = 16, MAX_BATCH = 64 };

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

/* ---- descriptors in a message ---- */

struct passage {
    char header[4]; /* as long as a header that names the listener */
    size_t control[CMSG_SPACE(MAX_BATCH * sizeof(int)) / sizeof(size_t)]; /* aligned as a cmsghdr */
    struct iovec data;
    struct msghdr message;
};

/* Prepares a message with room for `count` descriptors. */
static struct msghdr *prepare(struct passage *passage, int count)
{
    passage->data = (struct iovec){ passage->header, sizeof passage->header };
    passage->message = (struct msghdr){ .msg_iov = &passage->data, .msg_iovlen = 1,
        .msg_control = passage->control, .msg_controllen = CMSG_SPACE((size_t)count * sizeof(int)) };
    return &passage->message;
}

static ssize_t send_fds(int channel, const int *fds, int count, int flags)
{
    struct passage passage;
    struct msghdr *message = prepare(&passage, count);
    struct cmsghdr *rights = CMSG_FIRSTHDR(message);

    memset(passage.header, 0, sizeof passage.header);
    rights->cmsg_level = SOL_SOCKET;
    rights->cmsg_type = SCM_RIGHTS;
    rights->cmsg_len = CMSG_LEN((size_t)count * sizeof *fds);
    memcpy(CMSG_DATA(rights), fds, (size_t)count * sizeof *fds);
    return sendmsg(channel, message, flags | MSG_NOSIGNAL);
}

/* Returns the number of connections in the next message, or 0 if there is none. A worker exits when its master has. */
static int receive_fds(int channel, int *fds)
{
    struct passage passage;
    struct msghdr *message = prepare(&passage, MAX_BATCH);
    ssize_t got = recvmsg(channel, message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    struct cmsghdr *rights;
    size_t size;

    if (got == 0)
        exit(0);
    if (got < 0)
        return 0;
    /* The kernel drops the descriptors for which this process has no room. */
    if (message->msg_flags & MSG_CTRUNC || (rights = CMSG_FIRSTHDR(message)) == NULL)
        die("connections lost");
    size = rights->cmsg_len - CMSG_LEN(0);
    memcpy(fds, CMSG_DATA(rights), size);
    return (int)(size / sizeof *fds);
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
    int fds[MAX_BATCH], count;

    for (int taken = 0; taken < MAX_TAKEN && (count = receive_fds(channel, fds)) > 0; taken += count) {
        for (int i = 0; i < count; i++) {
            if (serve(fds[i]))
                watch(epoll, fds[i], EPOLLIN | EPOLLET);
            else
                close(fds[i]);
        }
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

static int next_worker(void)
{
    static int next;
    int slot = next;

    next = next + 1 < workers ? next + 1 : 0;
    return slot;
}

/* Round robin, skipping workers whose queue is full; if all are, the master waits for the next one. */
static void hand_off(int fd)
{
    for (int tried = 0; tried <= workers; tried++)
        if (send_fds(channels[next_worker()], &fd, 1, tried < workers ? MSG_DONTWAIT : 0) >= 0)
            return;
    die("sendmsg");
}

/* One turn of the plain server: accepts until there is no connection. */
static void accept_singly(int listener, int batch)
{
    for (int accepted = 0; accepted < batch; accepted++) {
        int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);

        if (fd < 0)
            return;
        hand_off(fd);
        close(fd);
    }
}

/* The number of connections that can be accepted: for a listening socket, that is what tcpi_unacked is. */
static int acceptable(int listener)
{
    struct tcp_info info;
    socklen_t len = sizeof info;

    if (getsockopt(listener, IPPROTO_TCP, TCP_INFO, &info, &len) < 0)
        die("TCP_INFO");
    return (int)info.tcpi_unacked;
}

/* Nothing else has a number within a run of descriptors that are all in `fds`. */
static void close_copies(const int *fds, int count, int by_range)
{
    for (int first = 0, last; first < count; first = last + 1) {
        for (last = first; by_range && last + 1 < count && fds[last + 1] == fds[last] + 1; last++) {
        }
        if (last > first)
            close_range((unsigned)fds[first], (unsigned)fds[last], 0);
        else
            close(fds[first]);
    }
}

/* One turn with batches: round robin connection by connection, as without them, but one message for each worker. */
static void accept_batch(int listener, int batch, int by_range)
{
    static int shares[MAX_WORKERS][MAX_BATCH], sizes[MAX_WORKERS];
    int fds[MAX_BATCH], touched[MAX_BATCH], held = acceptable(listener), count = 0, touches = 0;

    if (held > batch)
        held = batch;
    while (count < held && (fds[count] = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
        int slot = next_worker();

        if (sizes[slot] == 0)
            touched[touches++] = slot;
        shares[slot][sizes[slot]++] = fds[count++];
    }
    for (int i = 0; i < touches; i++) {
        int slot = touched[i];

        if (send_fds(channels[slot], shares[slot], sizes[slot], MSG_DONTWAIT) < 0)
            for (int one = 0; one < sizes[slot]; one++)
                hand_off(shares[slot][one]);
        sizes[slot] = 0;
    }
    close_copies(fds, count, by_range);
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
    int option, port = 0, batch = 16, deferred = 0, batches = 0, by_range = 0, listener, epoll;
    char ready;

    while ((option = getopt(argc, argv, "w:p:n:dmrb")) != -1) {
        switch (option) {
        case 'w': workers = atoi(optarg); break;
        case 'p': port = atoi(optarg); break;
        case 'n': batch = atoi(optarg); break;
        case 'd': deferred = 1; break;
        case 'm': batches = 1; break;
        case 'r': by_range = 1; break;
        case 'b': sched_setscheduler(0, SCHED_BATCH, &none); break;
        default: return 2;
        }
    }
    if (workers < 1 || workers > MAX_WORKERS || batch < 1 || batch > MAX_BATCH)
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
        if (batches)
            accept_batch(listener, batch, by_range);
        else
            accept_singly(listener, batch);
    }
}
