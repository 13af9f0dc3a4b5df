/* A TCP proxy: each client is connected to another server, by a descriptor that the worker's loop watches.
 *
 *     cc -shared -fPIC -o proxy.so proxy.c
 *     prefork --listen 127.0.0.1:8080 ./proxy.so 127.0.0.1 9000
 *
 * Neither side gets more than the other takes: what waits, waits in the sockets and in one buffer.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <prefork.h>
#include <stdlib.h>
#include <unistd.h>

struct link {
    uint64_t id;     /* the client's; its pointer is not kept */
    int fd, watched; /* the server, and what is watched of it */
    int has_ended;   /* the client's end was passed on */
    size_t left;     /* bytes of the server's that the client had no room for */
    char buffer[16384];
};

static prefork_worker *self;
static struct sockaddr_in server = {.sin_family = AF_INET};

static int is_fatal(ssize_t n) { return n < 0 && errno != EAGAIN && errno != EINPROGRESS && errno != ENOTCONN; }

/* From the client to the server. Returns 1 if the server takes no more for now. */
static int to_server(prefork_conn *conn, struct link *link)
{
    prefork_slice in = prefork_conn_data(conn);
    ssize_t n = in.len ? send(link->fd, in.data, in.len, MSG_NOSIGNAL) : 0;

    if (is_fatal(n))
        prefork_conn_close(conn);
    if (n > 0)
        prefork_conn_consume(conn, (size_t)n);
    if (in.len > (size_t)(n > 0 ? n : 0))
        return 1;
    if (prefork_conn_at_end(conn) && !link->has_ended)
        link->has_ended = shutdown(link->fd, SHUT_WR) == 0;
    return 0;
}

/* From the server to the client. Returns 1 if the client takes no more for now. */
static int to_client(prefork_conn *conn, struct link *link)
{
    ssize_t n = link->left ? 0 : recv(link->fd, link->buffer, sizeof link->buffer, 0);

    if (is_fatal(n) || (n == 0 && !link->left))
        prefork_conn_close(conn); /* when all that was written is sent */
    if (n > 0)
        link->left = (size_t)n;
    if (link->left && prefork_conn_write(conn, link->buffer, link->left) == PREFORK_FULL)
        return 1;
    link->left = 0;
    return 0;
}

/* Both ways, as far as it goes: called when either side has something to send, or room again. */
static void pump(prefork_worker *worker, int fd, int ready, void *arg)
{
    struct link *link = arg;
    prefork_conn *conn = prefork_conn_find(worker, link->id); /* it is there: on_close ends the watch */
    int up = to_server(conn, link), down = to_client(conn, link);
    int events = (up ? PREFORK_WRITE : 0) | (down ? 0 : PREFORK_READ);

    (void)fd, (void)ready;
    prefork_conn_set_reading(conn, !up);
    if (events && events != link->watched)
        prefork_watch(worker, link->fd, events, pump, link);
    else if (!events && link->watched)
        prefork_unwatch(worker, link->fd);
    link->watched = events;
}

static void on_open(prefork_conn *conn, void *state)
{
    struct link *link = calloc(1, sizeof *link);

    (void)state;
    prefork_conn_set_user(conn, link);
    prefork_conn_set_half_open(conn, 1);
    link->id = prefork_conn_id(conn);
    link->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    link->watched = PREFORK_WRITE; /* until it is connected */
    if (connect(link->fd, (struct sockaddr *)&server, sizeof server) < 0 && errno != EINPROGRESS)
        prefork_conn_close(conn);
    else
        prefork_watch(self, link->fd, link->watched, pump, link);
}

static void on_data(prefork_conn *conn, void *state)
{
    (void)state;
    pump(self, 0, 0, prefork_conn_user(conn));
}

static void on_close(prefork_conn *conn, void *state)
{
    struct link *link = prefork_conn_user(conn);

    (void)state;
    prefork_unwatch(self, link->fd);
    close(link->fd);
    free(link);
}

static int start(prefork_worker *worker, void **state)
{
    (void)state;
    self = worker;
    if (prefork_worker_arg_count(worker) != 2)
        return 1;
    server.sin_port = htons((uint16_t)atoi(prefork_worker_arg(worker, 1)));
    return inet_pton(AF_INET, prefork_worker_arg(worker, 0), &server.sin_addr) != 1;
}

PREFORK_MODULE(.worker_start = start, .on_open = on_open, .on_data = on_data, .on_writable = on_data, .on_close = on_close)
