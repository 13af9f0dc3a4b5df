/* The handler the tests run against: a path for each thing that a handler may do, or that may happen to it.
 *
 *     prefork ./fixture.so [refuse | crash | hang | crash-while FILE | log FILE]
 *
 * The arguments say what worker_start does: return non-zero, abort, never return, abort as long as FILE exists;
 * `log` appends "start PID", "drain PID" and "stop PID" to FILE.
 */
#define _POSIX_C_SOURCE 200809L
#include <errno.h>
#include <fcntl.h>
#include <prefork.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

struct worker {
    unsigned id, slot, generation;
    size_t argc;
    const char **argv;
    const char *log;
};

static int is(prefork_slice s, const char *text)
{
    return s.len == strlen(text) && memcmp(s.data, text, s.len) == 0;
}

/* The value of a name in the query, NUL-terminated; empty if it is missing. Nothing is decoded. */
static const char *query(const prefork_request *req, const char *name)
{
    static char value[4096];
    prefork_slice q = prefork_request_query(req);
    size_t len = strlen(name), at = 0, end;

    value[0] = '\0';
    for (; q.data && at < q.len; at = end + 1) {
        for (end = at; end < q.len && q.data[end] != '&'; end++)
            continue;
        if (end - at > len && q.data[at + len] == '=' && memcmp(q.data + at, name, len) == 0) {
            size_t n = end - at - len - 1;

            if (n >= sizeof value)
                n = sizeof value - 1;
            memcpy(value, q.data + at + len + 1, n);
            value[n] = '\0';
        }
    }
    return value;
}

static unsigned long number(const prefork_request *req, const char *name)
{
    return strtoul(query(req, name), NULL, 10);
}

static void text(prefork_response *res, const char *format, unsigned long value)
{
    char line[64];

    prefork_response_body(res, line, (size_t)snprintf(line, sizeof line, format, value));
}

static void note(const struct worker *self, const char *what)
{
    char line[64];
    int fd, len = snprintf(line, sizeof line, "%s %ld\n", what, (long)getpid());

    if (!self->log)
        return;
    fd = open(self->log, O_WRONLY | O_CREAT | O_APPEND, 0666);
    if (fd < 0 || write(fd, line, (size_t)len) != len)
        abort();
    close(fd);
}

static void inspect(const prefork_request *req, prefork_response *res)
{
    static char out[1 << 17];
    prefork_slice method = prefork_request_method(req), target = prefork_request_target(req);
    prefork_slice host = prefork_request_host(req), x = prefork_request_header(req, "x-test");
    int len = snprintf(out, sizeof out, "method=%.*s\ntarget=%.*s\nhost=%.*s\nx-test=[%.*s]\n", (int)method.len,
                       method.data, (int)target.len, target.data, (int)host.len, host.data, (int)x.len,
                       x.data ? x.data : "");

    prefork_response_body(res, out, (size_t)len);
}

/* Every other thing a request has, a line each, then its header fields in the order sent. */
static void fields(const prefork_request *req, prefork_response *res)
{
    static char out[1 << 17];
    prefork_slice path = prefork_request_path(req), query = prefork_request_query(req);
    prefork_slice peer = prefork_request_peer(req);
    size_t i, count = prefork_request_header_count(req);
    int len = snprintf(out, sizeof out, "version=%u\npath=%.*s\nquery=%s%.*s\npeer=%.*s\nlistener=%u\nheaders=%u\n",
                       prefork_request_version(req), (int)path.len, path.data, query.data ? "?" : "absent",
                       (int)query.len, query.data ? query.data : "", (int)peer.len, peer.data,
                       prefork_request_listener(req), (unsigned)count);

    for (i = 0; i < count; i++) {
        prefork_slice name = prefork_request_header_name(req, i), value = prefork_request_header_value(req, i);

        len += snprintf(out + len, sizeof out - (size_t)len, "%.*s: %.*s\n", (int)name.len, name.data,
                        (int)value.len, value.data);
    }
    if (prefork_request_header_name(req, count).data || prefork_request_header_value(req, count).data)
        abort();
    prefork_response_body(res, out, (size_t)len);
}

static void nap(unsigned long ms)
{
    struct timespec left = {(time_t)(ms / 1000), (long)(ms % 1000) * 1000000L};

    while (nanosleep(&left, &left) == -1 && errno == EINTR)
        continue;
}

/* Memory that is really there, and stays. */
static void allocate(prefork_response *res, unsigned long mb)
{
    char *p = malloc(mb << 20);

    if (!p) {
        prefork_response_status(res, 507);
        return;
    }
    memset(p, 1, mb << 20);
    text(res, "%lu MiB\n", mb);
}

static void owned(prefork_response *res)
{
    static const char body[] = "owned\n";
    char *copy = malloc(sizeof body);

    if (copy)
        memcpy(copy, body, sizeof body);
    prefork_response_body_owned(res, copy, sizeof body - 1, free, copy);
}

static void send_static(prefork_response *res, unsigned long size)
{
    static char bytes[64 << 20];
    static size_t filled;

    if (size > sizeof bytes)
        size = sizeof bytes;
    for (; filled < size; filled++)
        bytes[filled] = (char)('a' + filled % 26);
    prefork_response_body_static(res, bytes, size);
}

static void stream(prefork_response *res, unsigned long count)
{
    char part[32];
    unsigned long i;

    for (i = 0; i < count; i++)
        if (prefork_response_write(res, part, (size_t)snprintf(part, sizeof part, "part %lu\n", i)) != PREFORK_OK)
            return;
}

static void send_file(prefork_response *res, const char *path)
{
    struct stat about;
    int fd = open(path, O_RDONLY | O_CLOEXEC);

    if (fd < 0 || fstat(fd, &about) < 0)
        prefork_response_status(res, 404);
    else
        prefork_response_file(res, fd, 0, (uint64_t)about.st_size);
}

/* What the calls say that should be refused, a line each. */
static void refusals(prefork_response *res)
{
    struct { const char *what; int status; } said[10];
    char out[512];
    size_t i, n = 0;
    int len = 0;

#define SAY(call) (said[n].what = #call, said[n++].status = prefork_response_##call)
    SAY(status(res, 600));
    SAY(status(res, 100));
    SAY(header(res, "bad name", "x"));
    SAY(header(res, "x", "one\r\ntwo"));
    SAY(header(res, "Transfer-Encoding", "chunked"));
    SAY(header(res, "x", NULL));
    SAY(body(res, NULL, 1));
    SAY(file(res, -1, 0, 1));
    SAY(upgrade(res, "nothing"));
    SAY(body(NULL, "x", 1));
#undef SAY
    for (i = 0; i < n; i++)
        len += snprintf(out + len, sizeof out - (size_t)len, "%s %d\n", said[i].what, said[i].status);
    prefork_response_body(res, out, (size_t)len);
}

static void arguments(prefork_response *res, const struct worker *self)
{
    char out[4096];
    size_t i;
    int len = 0;

    for (i = 0; i < self->argc && (size_t)len < sizeof out; i++)
        len += snprintf(out + len, sizeof out - (size_t)len, "%s\n", self->argv[i]);
    prefork_response_body(res, out, (size_t)len);
}

/* One byte more in a file for each call: proves what was run how often. */
static void count(prefork_response *res, const char *path)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);

    if (fd < 0 || write(fd, ".", 1) != 1)
        prefork_response_fail(res);
    if (fd >= 0)
        close(fd);
}

static void on_request(prefork_request *req, prefork_response *res, void *state)
{
    struct worker *self = state;
    prefork_slice path = prefork_request_path(req);
    volatile int *nowhere = NULL;

    if (is(path, "/hello")) {
        prefork_response_body_static(res, "hello\n", 6);
    } else if (is(path, "/echo")) {
        prefork_slice body = prefork_request_body(req);

        prefork_response_body(res, body.data, body.len);
    } else if (is(path, "/204")) {
        prefork_response_status(res, 204);
    } else if (is(path, "/304")) {
        prefork_response_status(res, 304);
    } else if (is(path, "/inspect")) {
        inspect(req, res);
    } else if (is(path, "/fields")) {
        fields(req, res);
    } else if (is(path, "/header")) {
        prefork_response_header(res, query(req, "name"), "value");
    } else if (is(path, "/status")) {
        prefork_response_status(res, (unsigned)number(req, "code"));
    } else if (is(path, "/close")) {
        prefork_response_close(res);
    } else if (is(path, "/fail")) {
        prefork_response_body(res, "never seen", 10);
        prefork_response_fail(res);
    } else if (is(path, "/fail-late")) {
        stream(res, 3);
        prefork_response_fail(res);
    } else if (is(path, "/refusals")) {
        refusals(res);
    } else if (is(path, "/sleep")) {
        nap(number(req, "ms"));
    } else if (is(path, "/crash")) {
        *nowhere = 1;
    } else if (is(path, "/abort")) {
        abort();
    } else if (is(path, "/loop")) {
        for (;;)
            continue;
    } else if (is(path, "/alloc")) {
        allocate(res, number(req, "mb"));
    } else if (is(path, "/exit")) {
        exit((int)number(req, "code"));
    } else if (is(path, "/pid")) {
        text(res, "%lu\n", (unsigned long)getpid());
    } else if (is(path, "/id")) {
        text(res, "%lu\n", self->id);
    } else if (is(path, "/slot")) {
        text(res, "%lu\n", self->slot);
    } else if (is(path, "/gen")) {
        text(res, "%lu\n", self->generation);
    } else if (is(path, "/args")) {
        arguments(res, self);
    } else if (is(path, "/count")) {
        count(res, query(req, "file"));
    } else if (is(path, "/stream")) {
        stream(res, number(req, "n"));
    } else if (is(path, "/file")) {
        send_file(res, query(req, "path"));
    } else if (is(path, "/owned")) {
        owned(res);
    } else if (is(path, "/static")) {
        send_static(res, number(req, "size"));
    } else if (is(path, "/upgrade")) {
        if (prefork_response_upgrade(res, "echo") != PREFORK_OK) {
            prefork_response_status(res, 426);
            prefork_response_header(res, "Upgrade", "echo");
        }
    }
}

/* An upgraded connection: greets with its number of bytes so far, then echoes; the pointer per connection counts. */
static void on_open(prefork_conn *conn, void *state)
{
    (void)state;
    prefork_conn_set_user(conn, calloc(1, sizeof(unsigned long)));
    prefork_conn_write(conn, "open\n", 5);
}

static void on_data(prefork_conn *conn, void *state)
{
    unsigned long *total = prefork_conn_user(conn);
    char buf[1024];
    ptrdiff_t n;

    (void)state;
    while ((n = prefork_conn_read(conn, buf, sizeof buf)) > 0) {
        *total += (unsigned long)n;
        prefork_conn_write(conn, buf, (size_t)n);
    }
    if (n == 0) {
        n = snprintf(buf, sizeof buf, "end after %lu\n", *total);
        prefork_conn_write(conn, buf, (size_t)n);
        prefork_conn_close(conn);
    } else if (n != PREFORK_AGAIN) {
        abort();
    }
}

static void on_close(prefork_conn *conn, void *state)
{
    (void)state;
    free(prefork_conn_user(conn));
}

static int start(prefork_worker *worker, void **state)
{
    struct worker *self = calloc(1, sizeof *self);
    size_t i;

    if (!self)
        return 1;
    self->id = prefork_worker_id(worker);
    self->slot = prefork_worker_slot(worker);
    self->generation = prefork_worker_generation(worker);
    self->argc = prefork_worker_arg_count(worker);
    self->argv = calloc(self->argc + 1, sizeof *self->argv);
    for (i = 0; i <= self->argc; i++) /* the last is NULL */
        self->argv[i] = prefork_worker_arg(worker, i);
    *state = self;
    if (self->argc && strcmp(self->argv[0], "refuse") == 0)
        return 7;
    if (self->argc && strcmp(self->argv[0], "crash") == 0)
        abort();
    if (self->argc && strcmp(self->argv[0], "hang") == 0)
        pause();
    if (self->argc > 1 && strcmp(self->argv[0], "crash-while") == 0 && access(self->argv[1], F_OK) == 0)
        abort();
    if (self->argc > 1 && strcmp(self->argv[0], "log") == 0)
        self->log = self->argv[1];
    note(self, "start");
    return 0;
}

static void stop(prefork_worker *worker, void *state)
{
    (void)worker;
    note(state, "stop");
}

static void drain(prefork_worker *worker, void *state)
{
    (void)worker;
    note(state, "drain");
}

PREFORK_MODULE(.worker_start = start, .worker_stop = stop, .on_request = on_request, .on_open = on_open,
               .on_data = on_data, .on_close = on_close, .on_drain = drain)
