/* A stream handler whose connections act on each other: a line is a command, an answer is a line.
 *
 *     id                 the connection's own id
 *     count              how many streams the worker has
 *     say ID TEXT        writes TEXT to another: "ok N" with the bytes that wait for it, or "none"
 *     three ID TEXT      the same in three writes
 *     all TEXT           writes TEXT to all, itself included, and answers nothing else
 *     first TEXT         walks until the first: "ok", which got TEXT
 *     close ID [TIMES]   closes another, or itself
 *     after ID           closes itself, then writes to ID, then to itself: "STATUS" there
 *     stuff ID COUNT     COUNT times 10,000 bytes, as many as are taken; on_writable goes on: "ok"
 *     huge ID            one write that can never be taken: its status
 *     post ID TEXT       the same as `say`, but a message to this worker's own handler by way of another worker's
 *     join NAME          subscribes it to a topic: the status; also `leave NAME`
 *     tell NAME TEXT     publishes TEXT: the status; also `else NAME TEXT`, to other workers' streams only
 *     flood NAME COUNT   publishes COUNT times 10,000 bytes: the first status that is not 0, or 0
 *     large NAME SIZE    publishes SIZE bytes: the status
 *     slow NUMBER        what becomes of it if it is too slow: the status
 *     name SIZE          subscribes it to a topic with a name of SIZE bytes: the status
 *     at-close NAME      publishes "closed" to it in on_close: "ok"
 *     slot               the worker's slot
 *     log TEXT           what follows is written to all at the drain
 *     half               it stays open when its client has ended its side: the status
 *     cross              from now on bytes without a line's end have all others read: "ok"
 *     longest            the most calls of on_data in one turn, and all calls since `cross`
 *     copy               the statuses of calls in a process that it forks
 *     state              the statuses of calls that make no sense in blocking style
 *     last               the number of the last connection that closed, and of those it could find in on_close
 */
#include <prefork.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

struct worker {
    prefork_worker *self;
    char at_drain[100], at_close[20];
    uint64_t closed;
    int found;
    int cross;
    long calls, before, longest;
};

/* What a connection is still to get. */
struct job {
    unsigned long left, done;
};

static char filler[10000];

static struct job *job_of(prefork_conn *conn)
{
    struct job *job = prefork_conn_user(conn);

    if (!job) {
        job = calloc(1, sizeof *job);
        prefork_conn_set_user(conn, job);
    }
    return job;
}

static void stuff(prefork_conn *conn)
{
    struct job *job = job_of(conn);
    ptrdiff_t n;

    for (; job->left; job->left--) {
        memset(filler, 'a' + (int)(job->done % 26), sizeof filler);
        n = prefork_conn_write(conn, filler, sizeof filler);
        if (n == PREFORK_FULL)
            return;
        if (n < 0)
            abort();
        job->done++;
    }
    if (job->done) {
        prefork_conn_write(conn, "done\n", 5);
        job->done = 0;
    }
}

static int say(prefork_conn *conn, void *line)
{
    prefork_conn_write(conn, line, strlen(line));
    return 0;
}

static int first(prefork_conn *conn, void *line)
{
    say(conn, line);
    return 7;
}

static int count(prefork_conn *conn, void *n)
{
    (void)conn;
    ++*(int *)n;
    return 0;
}

static void answer(prefork_conn *conn, const char *format, long value)
{
    char line[64];

    prefork_conn_write(conn, line, (size_t)snprintf(line, sizeof line, format, value));
}

/* True if it was one. */
static int topic_command(struct worker *w, prefork_conn *conn, const char *line, const char *name)
{
    static char large[1 << 20];
    char topic[50] = "", text[200] = "";
    size_t size = 0;
    long status = 0;

    if (sscanf(line, "%*s %49s %199[^\n]", topic, text) < 1)
        return 0;
    size = strtoul(text, NULL, 10);
    if (strcmp(name, "join") == 0) {
        status = prefork_subscribe(conn, topic);
    } else if (strcmp(name, "leave") == 0) {
        status = prefork_unsubscribe(conn, topic);
    } else if (strcmp(name, "leave-all") == 0) {
        status = prefork_unsubscribe_all(conn);
    } else if (strcmp(name, "at-close") == 0) {
        strcpy(w->at_close, topic);
    } else if (strcmp(name, "tell") == 0) {
        strcat(text, "\n");
        status = prefork_publish(w->self, topic, text, strlen(text));
    } else if (strcmp(name, "else") == 0) {
        strcat(text, "\n");
        status = prefork_publish_elsewhere(w->self, topic, text, strlen(text));
    } else if (strcmp(name, "flood") == 0) {
        memset(filler, 'f', sizeof filler);
        for (; size > 0 && status == 0; size--)
            status = prefork_publish(w->self, topic, filler, sizeof filler);
    } else if (strcmp(name, "large") == 0) {
        status = prefork_publish(w->self, topic, large, size);
    } else {
        return 0;
    }
    answer(conn, "%ld\n", status);
    return 1;
}

/* In a process that is not the worker: nothing of this reaches a client. */
static void in_a_copy(prefork_conn *conn)
{
    static char large[500000];
    char line[200] = "";
    int ends[2];
    pid_t pid;

    memset(large, 'C', sizeof large);
    if (pipe(ends) != 0 || (pid = fork()) < 0)
        abort();
    if (pid == 0) {
        long statuses[] = {prefork_conn_write(conn, large, sizeof large), prefork_conn_set_half_open(conn, 1),
                           prefork_conn_set_reading(conn, 0), prefork_conn_set_slow(conn, 1),
                           prefork_conn_consume(conn, 1), prefork_conn_close(conn)};
        size_t i, n = 0;

        for (i = 0; i < sizeof statuses / sizeof *statuses; i++)
            n += (size_t)snprintf(line + n, sizeof line - n, "%s%ld", i ? " " : "", statuses[i]);
        _exit(write(ends[1], line, n) != (ssize_t)n);
    }
    close(ends[1]);
    if (read(ends[0], line, sizeof line - 2) <= 0)
        abort();
    close(ends[0]);
    waitpid(pid, NULL, 0);
    strcat(line, "\n");
    say(conn, line);
}

/* In each turn. */
static void turn(prefork_worker *worker, void *arg)
{
    struct worker *w = arg;

    if (w->calls - w->before > w->longest)
        w->longest = w->calls - w->before;
    w->before = w->calls;
    prefork_timer_start(worker, 0, 0, turn, w);
}

static int read_on(prefork_conn *conn, void *arg)
{
    (void)arg;
    return prefork_conn_set_reading(conn, 1);
}

static void command(struct worker *w, prefork_conn *conn, char *line)
{
    char name[20] = "", text[200] = "";
    unsigned long id = 0, i, n = 0;
    prefork_conn *other;

    if (sscanf(line, "%19s", name) < 1)
        return;
    if (sscanf(line, "%*s %lu %199[^\n]", &id, text) >= 1)
        sscanf(text, "%lu", &n);
    else
        sscanf(line, "%*s %199[^\n]", text);
    strcat(text, "\n");
    other = prefork_conn_find(w->self, id);
    if (strcmp(name, "id") == 0) {
        answer(conn, "%ld\n", (long)prefork_conn_id(conn));
    } else if (strcmp(name, "count") == 0) {
        int streams = 0;

        prefork_worker_each_conn(w->self, count, &streams);
        answer(conn, "%ld\n", streams);
    } else if (strcmp(name, "all") == 0) {
        prefork_worker_each_conn(w->self, say, text);
    } else if (strcmp(name, "first") == 0) {
        if (prefork_worker_each_conn(w->self, first, text) != 7)
            abort();
    } else if (strcmp(name, "log") == 0) {
        strcpy(w->at_drain, text);
        answer(conn, "ok\n", 0);
    } else if (strcmp(name, "slot") == 0) {
        answer(conn, "%ld\n", (long)prefork_worker_slot(w->self));
    } else if (strcmp(name, "slow") == 0) {
        answer(conn, "%ld\n", prefork_conn_set_slow(conn, (int)id));
    } else if (strcmp(name, "name") == 0) {
        char topic[1000];

        memset(topic, 'n', sizeof topic);
        topic[id] = '\0';
        answer(conn, "%ld\n", prefork_subscribe(conn, topic));
    } else if (strcmp(name, "half") == 0) {
        answer(conn, "%ld\n", prefork_conn_set_half_open(conn, 1));
    } else if (strcmp(name, "cross") == 0) {
        w->cross = 1;
        turn(w->self, w);
        answer(conn, "ok\n", 0);
    } else if (strcmp(name, "longest") == 0) {
        answer(conn, "%ld", w->longest);
        answer(conn, " %ld\n", w->calls);
    } else if (strcmp(name, "copy") == 0) {
        in_a_copy(conn);
    } else if (topic_command(w, conn, line, name)) {
        return;
    } else if (strcmp(name, "last") == 0) {
        answer(conn, "%ld", (long)w->closed);
        answer(conn, " %ld\n", w->found);
    } else if (strcmp(name, "post") == 0) {
        char message[300];

        i = (unsigned long)snprintf(message, sizeof message, "%lu %s", id, text);
        answer(conn, "%ld\n", prefork_worker_send(w->self, PREFORK_TO_ALL, prefork_worker_id(w->self), message, i));
    } else if (!other) {
        answer(conn, "none\n", 0);
    } else if (strcmp(name, "say") == 0) {
        say(other, text);
        answer(conn, "ok %ld\n", (long)prefork_conn_pending(other));
    } else if (strcmp(name, "room") == 0) {
        answer(conn, "%ld", (long)prefork_conn_room(other));
        answer(conn, " %ld\n", (long)prefork_conn_pending(other));
    } else if (strcmp(name, "three") == 0) {
        for (i = 0; i < 3; i++)
            say(other, text);
        answer(conn, "ok\n", 0);
    } else if (strcmp(name, "close") == 0) {
        for (i = 0; i < (n ? n : 1); i++)
            if (prefork_conn_close(other) != PREFORK_OK)
                abort();
        /* Found until it is over; nothing more can be written. */
        if (prefork_conn_find(w->self, id) != other || prefork_conn_write(other, "x", 1) != PREFORK_GONE)
            abort();
        answer(conn, "ok\n", 0);
    } else if (strcmp(name, "after") == 0) {
        prefork_conn_close(conn);
        answer(other, "%ld\n", (long)prefork_conn_write(conn, "x", 1));
    } else if (strcmp(name, "stuff") == 0) {
        job_of(other)->left += n;
        stuff(other);
        answer(conn, "ok\n", 0);
    } else if (strcmp(name, "huge") == 0) {
        static char huge[4 << 20];

        answer(conn, "%ld\n", (long)prefork_conn_write(other, huge, sizeof huge));
    }
}

static void on_data(prefork_conn *conn, void *state)
{
    prefork_slice in = prefork_conn_data(conn);
    struct worker *w = state;
    size_t start = 0, i;
    char line[300];

    w->calls++;
    if (w->cross && in.len > 0 && !memchr(in.data, '\n', in.len)) {
        prefork_conn_consume(conn, in.len);
        prefork_worker_each_conn(w->self, read_on, NULL);
        return;
    }
    for (i = 0; i < in.len; i++) {
        if (in.data[i] != '\n' || i - start >= sizeof line)
            continue;
        memcpy(line, in.data + start, i - start);
        line[i - start] = '\0';
        start = i + 1;
        command(state, conn, line);
    }
    prefork_conn_consume(conn, start);
}

static void on_writable(prefork_conn *conn, void *state)
{
    (void)state;
    stuff(conn);
}

static int found(prefork_conn *conn, void *self)
{
    return conn == self;
}

static void on_close(prefork_conn *conn, void *state)
{
    struct worker *w = state;

    w->closed = prefork_conn_id(conn);
    w->found = prefork_conn_find(w->self, w->closed) != NULL || prefork_worker_each_conn(w->self, found, conn) != 0;
    if (prefork_conn_write(conn, "x", 1) != PREFORK_GONE || prefork_conn_close(conn) != PREFORK_OK)
        abort();
    free(prefork_conn_user(conn));
    if (prefork_subscribe(conn, "lost") != PREFORK_GONE)
        abort();
    if (w->at_close[0])
        prefork_publish(w->self, w->at_close, "closed\n", 7);
}

/* From another worker: back to the sender's. Its own comes back: for the connection it names. */
static void on_message(prefork_worker *worker, uint32_t from, uint32_t type, const void *data, size_t size, void *state)
{
    char text[300] = "";
    unsigned long id;
    int at = 0;
    prefork_conn *conn;

    (void)state;
    if (type != prefork_worker_id(worker)) {
        prefork_worker_send(worker, from, type, data, size);
        return;
    }
    memcpy(text, data, size);
    sscanf(text, "%lu %n", &id, &at);
    conn = prefork_conn_find(worker, id);
    if (conn)
        say(conn, text + at);
}

static void on_drain(prefork_worker *worker, void *state)
{
    struct worker *w = state;

    if (!w->at_drain[0])
        return;
    prefork_worker_each_conn(worker, say, w->at_drain);
    prefork_worker_each_conn(worker, (int (*)(prefork_conn *, void *))prefork_conn_close, NULL);
}

static int start(prefork_worker *worker, void **state)
{
    struct worker *w = calloc(1, sizeof *w);

    if (!w)
        return 1;
    w->self = worker;
    *state = w;
    /* None is there yet. */
    return prefork_conn_find(worker, 1) != NULL || prefork_worker_each_conn(worker, count, &w->found) != 0;
}

#ifndef ON_CONNECTION
PREFORK_MODULE(.worker_start = start, .on_data = on_data, .on_writable = on_writable, .on_close = on_close,
               .on_message = on_message, .on_drain = on_drain)
#else
static void on_connection(prefork_conn *conn, void *state)
{
    struct worker *w = state;
    char buf[16];

    prefork_conn_read(conn, buf, sizeof buf);
    answer(conn, "%ld", prefork_conn_close(conn));
    answer(conn, " %ld", prefork_conn_consume(conn, 1));
    answer(conn, " %ld", (long)(prefork_conn_pending(conn) + prefork_conn_room(conn)));
    answer(conn, " %ld", prefork_worker_each_conn(w->self, count, NULL));
    answer(conn, " %ld", prefork_conn_find(w->self, prefork_conn_id(conn)) != NULL);
    answer(conn, " %ld", prefork_subscribe(conn, "topic"));
    answer(conn, " %ld", prefork_conn_set_slow(conn, PREFORK_SLOW_CLOSE));
    answer(conn, " %ld\n", prefork_publish(w->self, "topic", "x", 1));
}

PREFORK_MODULE(.worker_start = start, .on_connection = on_connection)
#endif
