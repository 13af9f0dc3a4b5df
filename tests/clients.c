/* A handler whose worker asks another server for each line "ask N" of a client, with a library that others wrote, and answers when
 * that has answered: -DWITH_POSTGRES with libpq, -DWITH_CURL with libcurl, -DWITH_REDIS with hiredis. Other lines are answered at once, with the
 * number of answers so far. Its second argument is the server's directory or address.
 */
#define _GNU_SOURCE
#include <prefork.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* What a client waits for. */
struct job {
    struct job *next;
    uint64_t client;
    long number;
};

static prefork_worker *self;
static const char *place;
static long answered;

static void fail(const char *what)
{
    fprintf(stderr, "the library failed: %s\n", what);
    abort();
}

/* The other server has answered. */
static void finish(struct job *job, const char *answer)
{
    prefork_conn *conn = prefork_conn_find(self, job->client);
    char line[64];
    int len = snprintf(line, sizeof line, "%s\n", answer);

    answered++;
    if (conn && prefork_conn_write(conn, line, (size_t)len) < 0)
        fail("prefork_conn_write");
    free(job);
}

static void begin(void);
static void ask(struct job *job);
static void end(void);

#ifdef WITH_POSTGRES
#include <libpq-fe.h>

enum { SESSIONS = 4 };

static struct job *first, **last = &first;
static struct session {
    PGconn *pg;
    int fd, is_ready;
    struct job *job;
} sessions[SESSIONS];

static void on_postgres(prefork_worker *worker, int fd, int events, void *arg);

/* libpq may have closed its socket and opened another one, under the same number or not. */
static void wait_for(struct session *session, int events)
{
    int fd = PQsocket(session->pg);

    if (session->fd != fd && session->fd >= 0)
        prefork_unwatch(self, session->fd);
    session->fd = fd;
    if (prefork_watch(self, fd, events, on_postgres, session) != PREFORK_OK)
        fail("prefork_watch");
}

static void send_next(struct session *session)
{
    char number[32];
    const char *values[] = {number};
    struct job *job = first;
    int unsent;

    if (!job || session->job || !session->is_ready)
        return;
    first = job->next;
    if (!first)
        last = &first;
    session->job = job;
    snprintf(number, sizeof number, "%ld", job->number);
    if (!PQsendQueryParams(session->pg, "SELECT $1::bigint * 2, pg_sleep(0.005)", 1, NULL, values, NULL, NULL, 0) ||
        (unsent = PQflush(session->pg)) < 0)
        fail(PQerrorMessage(session->pg));
    wait_for(session, unsent ? PREFORK_READ | PREFORK_WRITE : PREFORK_READ);
}

static void on_postgres(prefork_worker *worker, int fd, int events, void *arg)
{
    struct session *session = arg;
    PGresult *result;

    (void)worker, (void)fd;
    if (!session->is_ready) {
        switch (PQconnectPoll(session->pg)) {
        case PGRES_POLLING_OK:
            session->is_ready = 1;
            if (PQsetnonblocking(session->pg, 1) != 0)
                fail("PQsetnonblocking");
            wait_for(session, PREFORK_READ);
            send_next(session);
            return;
        case PGRES_POLLING_READING:
            wait_for(session, PREFORK_READ);
            return;
        case PGRES_POLLING_WRITING:
            wait_for(session, PREFORK_WRITE);
            return;
        default:
            fail(PQerrorMessage(session->pg));
        }
    }
    if (events & PREFORK_READ && !PQconsumeInput(session->pg))
        fail(PQerrorMessage(session->pg));
    if (PQflush(session->pg) == 0)
        wait_for(session, PREFORK_READ);
    while (session->job && !PQisBusy(session->pg)) {
        result = PQgetResult(session->pg);
        if (result) {
            if (PQresultStatus(result) != PGRES_TUPLES_OK)
                fail(PQresultErrorMessage(result));
            finish(session->job, PQgetvalue(result, 0, 0));
            session->job = calloc(1, sizeof *session->job);
            PQclear(result);
        } else {
            /* The end of this query. */
            free(session->job);
            session->job = NULL;
            send_next(session);
        }
    }
}

static void begin(void)
{
    char options[512];
    int i;

    snprintf(options, sizeof options, "host=%s user=postgres dbname=postgres", place);
    for (i = 0; i < SESSIONS; i++) {
        sessions[i].fd = -1;
        sessions[i].pg = PQconnectStart(options);
        if (!sessions[i].pg || PQstatus(sessions[i].pg) == CONNECTION_BAD)
            fail("PQconnectStart");
        wait_for(&sessions[i], PREFORK_WRITE);
    }
}

static void ask(struct job *job)
{
    int i;

    *last = job;
    last = &job->next;
    for (i = 0; i < SESSIONS; i++)
        send_next(&sessions[i]);
}

/* The worker has unwatched them. */
static void end(void)
{
    int i;

    for (i = 0; i < SESSIONS; i++)
        PQfinish(sessions[i].pg);
}

#elif defined WITH_CURL
#include <curl/curl.h>

static CURLM *multi;
static uint64_t timer;

/* A transfer. */
struct transfer {
    struct job *job;
    char text[64];
    size_t len;
};

static size_t on_bytes(char *bytes, size_t one, size_t size, void *arg)
{
    struct transfer *transfer = arg;

    (void)one;
    if (transfer->len + size >= sizeof transfer->text)
        return 0;
    memcpy(transfer->text + transfer->len, bytes, size);
    transfer->len += size;
    return size;
}

static void act(curl_socket_t socket, int what)
{
    CURLMsg *message;
    int running, left;

    if (curl_multi_socket_action(multi, socket, what, &running) != CURLM_OK)
        fail("curl_multi_socket_action");
    while ((message = curl_multi_info_read(multi, &left))) {
        CURL *easy = message->easy_handle;
        CURLcode code = message->data.result;
        struct transfer *transfer;

        if (message->msg != CURLMSG_DONE)
            continue;
        if (code != CURLE_OK)
            fail(curl_easy_strerror(code));
        curl_easy_getinfo(easy, CURLINFO_PRIVATE, &transfer);
        curl_multi_remove_handle(multi, easy);
        curl_easy_cleanup(easy);
        finish(transfer->job, transfer->text);
        free(transfer);
    }
}

static void on_curl(prefork_worker *worker, int fd, int events, void *arg)
{
    (void)worker, (void)arg;
    act(fd, (events & PREFORK_READ ? CURL_CSELECT_IN : 0) | (events & PREFORK_WRITE ? CURL_CSELECT_OUT : 0));
}

static void on_timer(prefork_worker *worker, void *arg)
{
    (void)worker, (void)arg;
    timer = 0;
    act(CURL_SOCKET_TIMEOUT, 0);
}

static int set_socket(CURL *easy, curl_socket_t fd, int what, void *arg, void *socket)
{
    int events = (what & CURL_POLL_IN ? PREFORK_READ : 0) | (what & CURL_POLL_OUT ? PREFORK_WRITE : 0);

    (void)easy, (void)arg, (void)socket;
    if (what == CURL_POLL_REMOVE)
        prefork_unwatch(self, fd);
    else if (prefork_watch(self, fd, events, on_curl, NULL) != PREFORK_OK)
        fail("prefork_watch");
    return 0;
}

static int set_timer(CURLM *m, long ms, void *arg)
{
    (void)m, (void)arg;
    if (timer)
        prefork_timer_stop(self, timer);
    timer = ms < 0 ? 0 : prefork_timer_start(self, (uint64_t)ms, 0, on_timer, NULL);
    return 0;
}

static void begin(void)
{
    curl_global_init(CURL_GLOBAL_DEFAULT);
    multi = curl_multi_init();
    curl_multi_setopt(multi, CURLMOPT_SOCKETFUNCTION, set_socket);
    curl_multi_setopt(multi, CURLMOPT_TIMERFUNCTION, set_timer);
    /* Fewer than the clients: the others wait in the library. */
    curl_multi_setopt(multi, CURLMOPT_MAX_TOTAL_CONNECTIONS, 8L);
}

static void ask(struct job *job)
{
    struct transfer *transfer = calloc(1, sizeof *transfer);
    CURL *easy = curl_easy_init();
    char url[256];

    transfer->job = job;
    snprintf(url, sizeof url, "http://%s/echo/%ld", place, job->number * 2);
    curl_easy_setopt(easy, CURLOPT_URL, url);
    curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(easy, CURLOPT_PRIVATE, transfer);
    curl_easy_setopt(easy, CURLOPT_WRITEDATA, transfer);
    curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, on_bytes);
    if (curl_multi_add_handle(multi, easy) != CURLM_OK)
        fail("curl_multi_add_handle");
}

static void end(void)
{
    curl_multi_cleanup(multi);
    curl_global_cleanup();
}

#else
#include <hiredis/async.h>

static redisAsyncContext *redis;
static int wanted;

static void on_redis(prefork_worker *worker, int fd, int events, void *arg)
{
    (void)worker, (void)fd;
    if (events & PREFORK_READ)
        redisAsyncHandleRead(arg);
    /* The read may have ended it. */
    if (redis && events & PREFORK_WRITE)
        redisAsyncHandleWrite(arg);
}

static void want(int events)
{
    int fd = redis->c.fd;

    if (events == wanted)
        return;
    wanted = events;
    if (!events)
        prefork_unwatch(self, fd);
    else if (prefork_watch(self, fd, events, on_redis, redis) != PREFORK_OK)
        fail("prefork_watch");
}

static void add_read(void *arg) { (void)arg, want(wanted | PREFORK_READ); }
static void del_read(void *arg) { (void)arg, want(wanted & ~PREFORK_READ); }
static void add_write(void *arg) { (void)arg, want(wanted | PREFORK_WRITE); }
static void del_write(void *arg) { (void)arg, want(wanted & ~PREFORK_WRITE); }

static void cleanup(void *arg)
{
    (void)arg;
    want(0);
    redis = NULL;
}

static void on_reply(redisAsyncContext *context, void *answer, void *arg)
{
    redisReply *reply = answer;

    if (!reply || reply->type != REDIS_REPLY_STRING)
        fail(reply ? reply->str : context->errstr);
    finish(arg, reply->str);
}

static void on_sleep(redisAsyncContext *context, void *answer, void *arg)
{
    redisReply *reply = answer;

    (void)arg;
    if (!reply || reply->type == REDIS_REPLY_ERROR)
        fail(reply ? reply->str : context->errstr);
}

static void begin(void)
{
    char path[256];

    snprintf(path, sizeof path, "%s/redis", place);
    redis = redisAsyncConnectUnix(path);
    if (!redis || redis->err)
        fail("redisAsyncConnectUnix");
    redis->ev.data = redis;
    redis->ev.addRead = add_read;
    redis->ev.delRead = del_read;
    redis->ev.addWrite = add_write;
    redis->ev.delWrite = del_write;
    redis->ev.cleanup = cleanup;
    /* As its adapters for event loops do. */
    want(PREFORK_WRITE);
}

static void ask(struct job *job)
{
    if (redisAsyncCommand(redis, on_sleep, NULL, "DEBUG SLEEP 0.003") != REDIS_OK ||
        redisAsyncCommand(redis, on_reply, job, "ECHO %ld", job->number * 2) != REDIS_OK)
        fail(redis->errstr);
}

static void end(void)
{
    if (redis)
        redisAsyncFree(redis);
}
#endif

static int worker_start(prefork_worker *worker, void **state)
{
    (void)state;
    self = worker;
    place = getenv("PLACE");
    if (!place)
        return 1;
    begin();
    return 0;
}

static void worker_stop(prefork_worker *worker, void *state)
{
    (void)worker, (void)state;
    end();
}

static void on_data(prefork_conn *conn, void *state)
{
    char line[64];
    ptrdiff_t n = prefork_conn_read(conn, line, sizeof line - 1);

    (void)state;
    if (n == PREFORK_AGAIN)
        return;
    if (n <= 0) {
        prefork_conn_close(conn);
        return;
    }
    line[n] = 0;
    if (strncmp(line, "ask ", 4) == 0) {
        struct job *job = calloc(1, sizeof *job);

        job->client = prefork_conn_id(conn);
        job->number = atol(line + 4);
        ask(job);
    } else {
        int len = snprintf(line, sizeof line, "%ld\n", answered);
        prefork_conn_write(conn, line, (size_t)len);
    }
}

PREFORK_MODULE(.worker_start = worker_start, .worker_stop = worker_stop, .on_data = on_data)
