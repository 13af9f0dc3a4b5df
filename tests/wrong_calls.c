/* Calls that make no sense where they are made, with what they return: CALLBACK: CALL RESULT, ... Built in the style that is defined.
 * A request is answered with all lines so far; so is what a stream or a connection sends. */
#include <fcntl.h>
#include <prefork.h>
#include <unistd.h>

static char lines[16384];
static uint64_t last;

static void line(const char *callback)
{
    size_t len = strlen(lines);

    snprintf(lines + len, sizeof lines - len, "%s%s:", len ? "\n" : "", callback);
}

static void note(const char *call, long result)
{
    size_t len = strlen(lines);

    snprintf(lines + len, sizeof lines - len, " %s %ld,", call, result);
}

#define CALL(function, ...) note(#function, (long)prefork_##function(__VA_ARGS__))
/* For pointers and slices: 1 if there is one. */
#define POINTER(function, ...) note(#function, prefork_##function(__VA_ARGS__) != NULL)
#define SLICE(function, ...) note(#function, prefork_##function(__VA_ARGS__).data != NULL)

static int each(prefork_conn *conn, void *arg)
{
    (void)conn;
    (void)arg;
    return 0;
}

static void fired(prefork_worker *worker, void *arg)
{
    (void)worker;
    (void)arg;
}

static void ready(prefork_worker *worker, int fd, int events, void *arg)
{
    (void)worker;
    (void)fd;
    (void)events;
    (void)arg;
}

static void replied(prefork_worker *worker, int status, const void *data, size_t size, void *arg)
{
    (void)worker;
    (void)status;
    (void)data;
    (void)size;
    (void)arg;
}

static void data(prefork_conn *conn, void *state);

static int more(prefork_response *res, void *arg)
{
    (void)res;
    (void)arg;
    return 0;
}

static ptrdiff_t give(prefork_response *res, void *buffer, size_t room, void *arg)
{
    (void)res;
    (void)buffer;
    (void)room;
    (void)arg;
    return -1;
}

static void gone(void *arg)
{
    (void)arg;
}

/* What is refused in any callback that is not for it. */
static void of_worker(void)
{
    prefork_worker *self = prefork_worker_self();
    struct prefork_module module = prefork_module_init();

    module.on_data = data;
    CALL(worker_serve, self, "x", &module, NULL);
    CALL(worker_reply, self, "", 0);
    CALL(worker_request, self, PREFORK_TO_ALL, 1, "", 0, 0, replied, NULL);
    CALL(datagram_reply, self, "", 0);
    CALL(request_resume, self, 12345);
    CALL(timer_stop, self, 12345);
    CALL(unwatch, self, 12345);
    CALL(watch, self, 12345, PREFORK_READ, ready, NULL);
    POINTER(conn_find, self, 12345);
}

static void of_conn(prefork_conn *conn)
{
    SLICE(conn_data, conn);
    CALL(conn_consume, conn, 0);
    CALL(conn_at_end, conn);
    CALL(conn_set_reading, conn, 1);
    CALL(conn_set_half_open, conn, 0);
    CALL(conn_transfer, conn, 12345);
    CALL(conn_pending, conn);
    CALL(conn_room, conn);
    CALL(conn_set_slow, conn, PREFORK_SLOW_SKIP);
    CALL(subscribe, conn, "t");
    CALL(subscribe_n, conn, "t!", 1);
    CALL(unsubscribe_n, conn, "t!", 1);
    CALL(unsubscribe, conn, "t");
    CALL(unsubscribe_all, conn);
    CALL(conn_end_reason, conn);
    CALL(worker_each_conn, prefork_worker_self(), each, NULL);
}

static int start(prefork_worker *worker, void **state)
{
    (void)state;
    line("worker_start");
    CALL(worker_reply, worker, "", 0);
    CALL(datagram_reply, worker, "", 0);
    POINTER(conn_find, worker, 1);
    CALL(publish_n, worker, "t!", 1, "x", 1);
    CALL(publish_elsewhere_n, worker, "", 0, "x", 1);
    return 0;
}

static void stop(prefork_worker *worker, void *state)
{
    (void)state;
    *lines = 0;
    line("worker_stop");
    CALL(timer_start, worker, 0, 0, fired, NULL);
    CALL(watch, worker, 0, PREFORK_READ, ready, NULL);
    CALL(worker_wake, worker, fired, NULL);
    CALL(worker_leave, worker);
    fprintf(stderr, "%s\n", lines);
}

static void of_response(prefork_request *req, prefork_response *res)
{
    CALL(response_status, res, 200);
    CALL(response_header, res, "X", "x");
    CALL(response_body, res, "x", 1);
    CALL(response_body_static, res, "x", 1);
    CALL(response_body_owned, res, "x", 1, gone, NULL);
    CALL(response_write, res, "x", 1);
    CALL(response_printf, res, "x");
    CALL(response_file, res, open("/proc/self/exe", O_RDONLY), 0, 0);
    CALL(response_send_file, req, res, "/dev/null");
    CALL(response_flush, res);
    CALL(response_close, res);
    CALL(response_end, res);
    CALL(response_stream, res, more, gone, NULL);
    CALL(response_upgrade, res, "x");
}

static void request(prefork_request *req, prefork_response *res, void *state)
{
    prefork_response *kept;

    (void)state;
    if (prefork_slice_is(prefork_request_path(req), "/upgrade")) {
        line("upgrade");
        CALL(response_upgrade_n, res, "x!", 1);
        of_response(req, res);
        return;
    }
    line("on_request");
    of_worker();
    CALL(request_pause, req);
    CALL(request_stop, req);
    CALL(request_set_user, req, NULL, NULL);
    CALL(response_on_gone, res, gone, NULL);
    CALL(response_on_handover, res, give, NULL);
    CALL(response_set_user, res, NULL, NULL);
    CALL(response_upgrade, res, "x");
    CALL(response_end, res);
    kept = prefork_response_later(res);
    line("kept");
    POINTER(response_later, kept);
    POINTER(response_later, res);
    of_response(req, res);
    CALL(response_on_gone, res, gone, NULL);
    CALL(response_on_handover, res, give, NULL);
    CALL(response_fail, res);
    prefork_response_body(kept, lines, strlen(lines));
    prefork_response_end(kept);
}

static void answer(prefork_conn *conn)
{
    prefork_conn_write(conn, lines, strlen(lines));
}

static void connection(prefork_conn *conn, void *state)
{
    char buffer[64];

    (void)state;
    prefork_conn_read(conn, buffer, sizeof buffer);
    line("on_connection");
    of_worker();
    of_conn(conn);
    CALL(conn_close, conn);
    CALL(conn_read, conn, buffer, 0);
    answer(conn);
}

static void data(prefork_conn *conn, void *state)
{
    char buffer[64];

    (void)state;
    last = prefork_conn_id(conn);
    if (prefork_conn_read(conn, buffer, sizeof buffer) > 0) {
        line("on_data");
        CALL(conn_read, conn, buffer, sizeof buffer);
        CALL(conn_transfer, conn, prefork_worker_id(prefork_worker_self()));
        CALL(conn_set_slow, conn, 7);
        of_worker();
        answer(conn);
        prefork_conn_close(conn);
    }
}

static void closed(prefork_conn *conn, void *state)
{
    char buffer[64];

    (void)state;
    line("on_close");
    CALL(conn_read, conn, buffer, sizeof buffer);
    CALL(conn_write, conn, "x", 1);
    CALL(conn_printf, conn, "x");
    of_conn(conn);
    CALL(conn_close, conn);
    POINTER(conn_find, prefork_worker_self(), last);
}

#ifdef ON_REQUEST
PREFORK_MODULE(.worker_start = start, .worker_stop = stop, .on_request = request, .on_data = data, .on_close = closed)
#elif defined ON_CONNECTION
PREFORK_MODULE(.worker_start = start, .worker_stop = stop, .on_connection = connection)
#else
PREFORK_MODULE(.worker_start = start, .worker_stop = stop, .on_data = data, .on_close = closed)
#endif
