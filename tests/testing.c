/* What prefork_test_* does with handlers of every style, and what it says when it cannot: see testing_c.rs. */
#undef NDEBUG
#include <assert.h>
#include <prefork.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifdef HEAP
static char *volatile leaked;
static char *volatile freed;
#endif

static prefork_response *kept;

static int is(prefork_slice slice, const char *text)
{
    return slice.len == strlen(text) && memcmp(slice.data, text, slice.len) == 0;
}

static void fire(prefork_worker *worker, void *arg)
{
    (void)worker;
    (void)arg;
    prefork_response_body(kept, "later", 5);
    prefork_response_end(kept);
}

struct state {
    prefork_worker *worker;
    int calls, drained, stopped, closed;
    prefork_test *test;
};

static int start(prefork_worker *worker, void **state)
{
    struct state *s = *state;
    s->worker = worker;
    return prefork_worker_arg_count(worker) == 1;
}

static void stop(prefork_worker *worker, void *state)
{
    (void)worker;
    ((struct state *)state)->stopped++;
}

static void drain(prefork_worker *worker, void *state)
{
    (void)worker;
    ((struct state *)state)->drained++;
}

static void request(prefork_request *req, prefork_response *res, void *state)
{
    struct state *s = state;
    prefork_slice path = prefork_request_path(req), body = prefork_request_body(req);
    prefork_slice peer = prefork_request_peer(req);

    s->calls++;
    if (is(path, "/peer")) {
        prefork_response_body(res, peer.data, peer.len);
    } else if (is(path, "/later")) {
        kept = prefork_response_later(res);
        prefork_timer_start(s->worker, 30000, 0, fire, NULL);
    } else if (is(path, "/never")) {
        kept = prefork_response_later(res);
    } else if (is(path, "/upgrade")) {
        prefork_response_upgrade(res, "echo");
    } else if (is(path, "/within")) {
        /* No callback may use the test that runs it. */
        assert(prefork_test_advance(s->test, 1) == PREFORK_STATE);
    } else if (is(path, "/send")) {
        prefork_worker_send(s->worker, PREFORK_TO_MASTER, 7, "hello", 5);
#ifdef HEAP
    } else if (is(path, "/leak")) {
        leaked = malloc(4321);
        leaked = NULL;
    } else if (is(path, "/freed")) {
        freed = malloc(10);
        free(freed);
        prefork_response_status(res, freed[3] == 7 ? 200 : 202);
#endif
    } else {
        prefork_response_header(res, "X-Header", "a value");
        prefork_response_body(res, body.data, body.len);
    }
}

static void data(prefork_conn *conn, void *state)
{
    prefork_slice in = prefork_conn_data(conn);

    (void)state;
    assert(prefork_conn_write(conn, in.data, in.len) >= 0);
    prefork_conn_consume(conn, in.len);
}

static void closed(prefork_conn *conn, void *state)
{
    (void)conn;
    ((struct state *)state)->closed++;
}

static void datagram(prefork_worker *worker, const struct sockaddr *peer, const void *bytes, size_t size, void *state)
{
    (void)peer;
    (void)state;
    prefork_datagram_reply(worker, "got", 3);
    prefork_datagram_reply(worker, bytes, size);
}

static void message(prefork_worker *worker, uint32_t from, uint32_t type, const void *bytes, size_t size, void *state)
{
    (void)state;
    assert(from == 3);
    prefork_worker_send(worker, 99, type + 1, bytes, size);
}

static void blocking(prefork_conn *conn, void *state)
{
    char line[100];
    ptrdiff_t n;

    (void)state;
    prefork_conn_write(conn, "ready\n", 6);
    while ((n = prefork_conn_read(conn, line, sizeof line)) > 0)
        prefork_conn_write(conn, line, (size_t)n);
}

static ptrdiff_t handover(prefork_conn *conn, void *buffer, size_t room, void *state)
{
    (void)conn;
    (void)state;
    assert(room >= 5);
    memcpy(buffer, "state", 5);
    return 5;
}

static int takeover(prefork_conn *conn, uint32_t version, const void *bytes, size_t size, void *state)
{
    (void)state;
    assert(version == 4 && size == 5);
    return prefork_conn_write(conn, bytes, size) < 0;
}

static struct prefork_module empty(void)
{
    return prefork_module_init();
}

static struct prefork_module whole(void)
{
    struct prefork_module m = empty();
    m.worker_start = start;
    m.worker_stop = stop;
    m.on_drain = drain;
    m.on_request = request;
    m.on_data = data;
    m.on_close = closed;
    m.on_datagram = datagram;
    m.on_message = message;
    return m;
}

static prefork_test *make(struct state *state)
{
    struct prefork_module m = whole();
    prefork_test *test = prefork_test_new(&m, state);

    memset(state, 0, sizeof *state);
    assert(test && !*prefork_test_error(test));
    state->test = test;
    return test;
}

static void requests(void)
{
    struct state state;
    prefork_test *test = make(&state);
    prefork_test_client *client;
    char *large = calloc(1, 3000000);

    assert(prefork_test_set(test, "max-body", "4M") == PREFORK_OK);
    assert(prefork_test_status(test) == 0 && !prefork_test_body(test).data && !prefork_test_connection(test));
    assert(prefork_test_request(test, "POST", "/", "body", 4) == 200 && prefork_test_status(test) == 200);
    assert(is(prefork_test_body(test), "body") && is(prefork_test_header(test, "x-header"), "a value"));
    assert(!prefork_test_header(test, "x-other").data);
    assert(prefork_test_request(test, "POST", "/", large, 3000000) == 200);
    assert(prefork_test_body(test).len == 3000000);
    free(large);
    assert(prefork_test_set(test, "max-body", "1") == PREFORK_STATE);
    assert(prefork_test_peer(test, "203.0.113.7:9") == PREFORK_OK);
    assert(prefork_test_request(test, "GET", "/peer", NULL, 0) == 200);
    assert(is(prefork_test_body(test), "203.0.113.7:9"));
    assert(prefork_test_request(test, "GET", "/within", NULL, 0) == 200);
    client = prefork_test_begin(test, "GET", "/later", NULL, 0);
    assert(prefork_test_response(test, client) == PREFORK_AGAIN);
    assert(prefork_test_advance(test, 29999) == PREFORK_OK);
    assert(prefork_test_response(test, client) == PREFORK_AGAIN);
    assert(prefork_test_advance(test, 1) == PREFORK_OK);
    assert(prefork_test_response(test, client) == 200 && is(prefork_test_body(test), "later"));
    prefork_test_close(client);
    prefork_test_set_header(test, "Connection", "upgrade");
    prefork_test_set_header(test, "Upgrade", "echo");
    assert(prefork_test_request(test, "GET", "/upgrade", NULL, 0) == 101);
    client = prefork_test_connection(test);
    assert(prefork_test_send(client, "frame", 5) == PREFORK_OK);
    assert(is(prefork_test_receive(client), "frame") && !prefork_test_receive(client).len);
    assert(prefork_test_is_closed(client) == 0 && prefork_test_finish(client) == PREFORK_OK);
    assert(prefork_test_is_closed(client) == 1 && state.closed == 1);
    prefork_test_close(client);
    assert(prefork_test_drain(test) == 1 && state.drained == 1 && state.stopped == 1);
    prefork_test_free(test);
    assert(state.stopped == 1);
}

static void datagrams_and_messages(void)
{
    struct state state;
    uint32_t to = 0, type = 0;
    prefork_test *test = make(&state);

    assert(prefork_test_datagram(test, "ping", 4) == 2);
    assert(is(prefork_test_reply(test, 0), "got") && is(prefork_test_reply(test, 1), "ping"));
    assert(!prefork_test_reply(test, 2).data);
    assert(prefork_test_request(test, "GET", "/send", NULL, 0) == 200);
    assert(is(prefork_test_sent(test, &to, &type), "hello") && to == PREFORK_TO_MASTER && type == 7);
    assert(!prefork_test_sent(test, NULL, NULL).data);
    assert(prefork_test_message(test, 3, 8, "well", 4) == PREFORK_OK);
    assert(is(prefork_test_sent(test, &to, &type), "well") && to == 99 && type == 9);
    prefork_test_free(test);
}

static void streams_go_on_elsewhere(void)
{
    struct state one = {0}, two = {0};
    struct prefork_module m = empty();
    prefork_test *old, *new;
    prefork_test_client *client;

    m.on_data = data;
    m.on_close = closed;
    m.state_version = 4;
    m.on_handover = handover;
    m.on_takeover = takeover;
    old = prefork_test_new(&m, &one);
    new = prefork_test_new(&m, &two);
    client = prefork_test_connect(old, NULL);
    prefork_test_send(client, "hello", 5);
    assert(is(prefork_test_receive(client), "hello"));
    assert(prefork_test_hand_over(old, old) == PREFORK_INVALID);
    assert(prefork_test_hand_over(old, new) == 1);
    assert(is(prefork_test_receive(client), "state"));
    prefork_test_send(client, "again", 5);
    assert(is(prefork_test_receive(client), "again"));
    prefork_test_free(old);
    assert(prefork_test_stop(new) == 1 && one.closed == 0 && two.closed == 1);
    prefork_test_free(new);
    assert(prefork_test_is_closed(client) == 1);
    prefork_test_close(client);
}

static void blocking_style(void)
{
    struct prefork_module m = empty();
    prefork_test *test;
    prefork_test_client *client;

    m.on_connection = blocking;
    test = prefork_test_new(&m, NULL);
    client = prefork_test_connect(test, NULL);
    prefork_test_send(client, "one ", 4);
    prefork_test_send(client, "two", 3);
    assert(is(prefork_test_receive(client), "ready\none two") && prefork_test_is_closed(client) == 1);
    prefork_test_close(client);
    assert(prefork_test_request(test, "GET", "/", NULL, 0) == PREFORK_STATE);
    prefork_test_free(test);
}

static void *other_thread(void *test)
{
    assert(prefork_test_advance(test, 1) == PREFORK_STATE);
    return NULL;
}

static void refusals(void)
{
    struct state state;
    struct prefork_module m = empty();
    prefork_test *test;
    pthread_t thread;
    const char *args[] = {"one"};

    assert(!prefork_test_new(NULL, NULL));
    assert(!prefork_test_new(&m, NULL));
    m.on_request = request;
    m.abi_major = 1;
    assert(!prefork_test_new(&m, NULL));
    test = make(&state);
    assert(prefork_test_set(test, "max-bdy", "1") == PREFORK_CONFIG);
    assert(strstr(prefork_test_error(test), "max-body"));
    assert(prefork_test_args(test, 1, args) == PREFORK_OK);
    assert(prefork_test_start(test) == PREFORK_HANDLER);
    assert(!strcmp(prefork_test_error(test), "worker_start returned 1"));
    assert(prefork_test_request(test, "GET", "/", NULL, 0) == PREFORK_STATE);
    prefork_test_free(test);
    test = make(&state);
    assert(prefork_test_request(test, "GET", "/never", NULL, 0) == PREFORK_AGAIN);
    assert(strstr(prefork_test_error(test), "GET /never: no response"));
    pthread_create(&thread, NULL, other_thread, test);
    pthread_join(thread, NULL);
    assert(!prefork_test_connect(test, "admin") && strstr(prefork_test_error(test), "\"admin\""));
    assert(prefork_test_peer(test, "nowhere") == PREFORK_INVALID);
    prefork_test_stop(test);
    assert(prefork_test_request(test, "GET", "/", NULL, 0) < 0);
    assert(!strcmp(prefork_test_error(test), "GET /: the worker has ended"));
    prefork_test_free(test);
    test = prefork_test_load("/nowhere/handler.so");
    assert(prefork_test_start(test) == PREFORK_HANDLER);
    prefork_test_free(test);
}

int main(int argc, char **argv)
{
    if (argc == 3 && !strcmp(argv[1], "load")) {
        prefork_test *test = prefork_test_load(argv[2]);
        assert(prefork_test_request(test, "GET", "/", NULL, 0) == 200);
        assert(is(prefork_test_body(test), "hello world\n"));
        prefork_test_free(test);
    } else if (argc == 2) {
        struct state state;
        prefork_test *test = make(&state);
        printf("%d\n", prefork_test_request(test, "GET", argv[1], NULL, 0));
        prefork_test_free(test);
    } else {
        requests();
        datagrams_and_messages();
        streams_go_on_elsewhere();
        blocking_style();
        refusals();
    }
    puts("all passed");
    return 0;
}
