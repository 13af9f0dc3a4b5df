/* HTTP connections that become streams, with what the request has left for them.
 *
 *     /now?NAME     upgrades; the stream's user is NAME: it greets with "hello NAME", and echoes
 *     /later?NAME   the same, decided in a later callback: 50 ms after
 *     /fail?NAME    upgrades, then fails
 *     /plain        "plain", and what set_user says if nothing upgrades
 *     /log          every callback so far: "open NAME", "early NAME" with bytes to read, "data NAME BYTES", "close NAME", "release NAME"
 */
#include <prefork.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static char events[1 << 16];
static prefork_worker *self;

static void note(const char *what, const char *name)
{
    size_t len = strlen(events);

    snprintf(events + len, sizeof events - len, "%s %s\n", what, name);
}

static void release(void *user)
{
    note("release", user);
    free(user);
}

static void upgrade(prefork_response *res, char *name)
{
    char *other = strdup("other");

    if (prefork_response_set_user(res, name, release) != PREFORK_UPGRADE)
        abort();
    if (prefork_response_upgrade(res, "echo") != PREFORK_OK) {
        /* The client has gone: what is not taken is still ours. */
        release(name);
        free(other);
        return;
    }
    /* The second replaces the first. */
    if (prefork_response_set_user(res, other, release) != PREFORK_OK ||
        prefork_response_set_user(res, name, release) != PREFORK_OK)
        abort();
}

static void later(prefork_worker *worker, void *arg)
{
    void **both = arg;

    (void)worker;
    upgrade(both[0], both[1]);
    prefork_response_end(both[0]);
    free(both);
}

static void on_request(prefork_request *req, prefork_response *res, void *state)
{
    prefork_slice path = prefork_request_path(req), query = prefork_request_query(req);
    char *name = calloc(1, query.len + 1);

    (void)state;
    if (query.len)
        memcpy(name, query.data, query.len);
    if (path.len == 4 && memcmp(path.data, "/now", 4) == 0) {
        upgrade(res, name);
    } else if (path.len == 5 && memcmp(path.data, "/fail", 5) == 0) {
        upgrade(res, name);
        prefork_response_fail(res);
    } else if (path.len == 6 && memcmp(path.data, "/later", 6) == 0) {
        void **both = calloc(2, sizeof *both);

        both[0] = prefork_response_later(res);
        both[1] = name;
        prefork_timer_start(self, 50, 0, later, both);
    } else if (path.len == 4 && memcmp(path.data, "/log", 4) == 0) {
        prefork_response_body(res, events, strlen(events));
        free(name);
    } else {
        if (prefork_response_set_user(res, name, release) != PREFORK_UPGRADE)
            abort();
        free(name);
        prefork_response_body(res, "plain", 5);
    }
}

static void on_open(prefork_conn *conn, void *state)
{
    const char *name = prefork_conn_user(conn);

    (void)state;
    note("open", name);
    /* Bytes that came behind the handshake: they are there already, and on_data is called for them next. */
    if (prefork_conn_data(conn).len)
        note("early", name);
    prefork_conn_write(conn, "hello ", 6);
    prefork_conn_write(conn, name, strlen(name));
}

static void on_data(prefork_conn *conn, void *state)
{
    prefork_slice in = prefork_conn_data(conn);
    char what[32];

    (void)state;
    if (in.len) {
        snprintf(what, sizeof what, "data %zu", in.len);
        note(what, prefork_conn_user(conn));
        prefork_conn_write(conn, in.data, in.len);
        prefork_conn_consume(conn, in.len);
    }
    if (prefork_conn_at_end(conn))
        prefork_conn_close(conn);
}

static void on_close(prefork_conn *conn, void *state)
{
    (void)state;
    note("close", prefork_conn_user(conn));
}

static int start(prefork_worker *worker, void **state)
{
    (void)state;
    self = worker;
    return 0;
}

PREFORK_MODULE(.worker_start = start, .on_request = on_request, .on_open = on_open, .on_data = on_data,
               .on_close = on_close)
