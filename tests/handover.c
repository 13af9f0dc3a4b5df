/* A stream handler whose streams go from worker to worker. A line is a command; each stream counts them, and the count is
 * its state. A line is left unconsumed until its end has come.
 *
 *     count TEXT         "TEXT N" with the number of commands of this stream so far
 *     who                "WORKER PID GENERATION VERSION MOVES CLOSED": the worker, the version of the state it last came
 *                        with, how often it has come, and how many streams on_close was called for in this worker
 *     stay               it is not given away, or is again: "ok"
 *     move WORKER        transfers it: "ok", or the status
 *     go                 transfers it to any worker, and leaves what follows unconsumed: "ok"
 *     refuse TEXT        it is refused by other workers, and by its own if TEXT is "all": "ok"
 *     crash              the worker that takes it over aborts: "ok"
 *     state SIZE         as many bytes of state beside the count: "ok"
 *     more SIZE          its on_handover returns this number: "ok"
 *     flood SIZE         as many bytes, of which each line of 64 says which it is, then "done"
 *     join NAME, tell NAME TEXT
 *     half, hold         it stays open at its client's end; nothing more is read: "ok"
 *     slow               on_takeover writes 100,000 bytes and then refuses, if it is not its own worker: "ok"
 *     late               on_handover takes 300 ms: "ok"
 *     close              on_handover writes "bye" and closes it: "ok"
 *     topics COUNT       joins as many topics, each with a name of 200 bytes: "ok"
 */
#include <prefork.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#ifndef VERSION
#define VERSION 1
#endif

struct stream {
    uint64_t count, moves, size, sum;
    int64_t more;
    uint32_t version, worker;
    char stays, crashes, refused, is_slow, is_late, goes, closes;
};

static prefork_worker *self;
static unsigned long closed;

static struct stream *of(prefork_conn *conn)
{
    return prefork_conn_user(conn);
}

static void on_open(prefork_conn *conn, void *state)
{
    (void)state;
    prefork_conn_set_user(conn, calloc(1, sizeof(struct stream)));
}

static void on_close(prefork_conn *conn, void *state)
{
    (void)state;
    closed++;
    free(of(conn));
}

static void flood(prefork_conn *conn, unsigned long size)
{
    char line[65];
    unsigned long at;

    for (at = 0; at < size; at += 64) {
        snprintf(line, sizeof line, "%063lu\n", at);
        prefork_conn_write(conn, line, 64);
    }
}

static void run(prefork_conn *conn, char *line)
{
    struct stream *s = of(conn);
    char out[300] = "ok", name[100], text[200];
    long long number;

    s->count++;
    if (sscanf(line, "count %199s", text) == 1)
        snprintf(out, sizeof out, "%s %llu", text, (unsigned long long)s->count);
    else if (!strcmp(line, "who"))
        snprintf(out, sizeof out, "%u %d %u %u %llu %lu", prefork_worker_id(self), (int)getpid(),
                 prefork_worker_generation(self), s->version, (unsigned long long)s->moves, closed);
    else if (!strcmp(line, "stay"))
        s->stays = !s->stays;
    else if (sscanf(line, "move %lld", &number) == 1) {
        int status = prefork_conn_transfer(conn, (uint32_t)number);

        if (status)
            snprintf(out, sizeof out, "%d", status);
    } else if (!strcmp(line, "go")) {
        s->goes = 1;
        prefork_conn_transfer(conn, 0);
    } else if (sscanf(line, "refuse %199s", text) == 1)
        s->refused = text[0] == 'a' ? 2 : 1;
    else if (!strcmp(line, "crash"))
        s->crashes = 1;
    else if (!strcmp(line, "slow"))
        s->is_slow = 1;
    else if (!strcmp(line, "close"))
        s->closes = 1;
    else if (sscanf(line, "topics %lld", &number) == 1)
        for (char topic[201]; number > 0; number--) {
            snprintf(topic, sizeof topic, "%0200lld", number);
            prefork_subscribe(conn, topic);
        }
    else if (!strcmp(line, "late"))
        s->is_late = 1;
    else if (sscanf(line, "state %lld", &number) == 1)
        s->size = (uint64_t)number;
    else if (sscanf(line, "more %lld", &number) == 1)
        s->more = number;
    else if (sscanf(line, "flood %lld", &number) == 1) {
        flood(conn, (unsigned long)number);
        strcpy(out, "done");
    } else if (sscanf(line, "join %99s", name) == 1)
        snprintf(out, sizeof out, "%d", prefork_subscribe(conn, name));
    else if (sscanf(line, "tell %99s %199[^\n]", name, text) == 2) {
        strcat(text, "\n");
        snprintf(out, sizeof out, "%d", prefork_publish(self, name, text, strlen(text)));
    } else if (!strcmp(line, "half"))
        prefork_conn_set_half_open(conn, 1);
    else if (!strcmp(line, "hold"))
        prefork_conn_set_reading(conn, 0);
    else
        strcpy(out, "unknown");
    strcat(out, "\n");
    prefork_conn_write(conn, out, strlen(out));
}

static void on_data(prefork_conn *conn, void *state)
{
    (void)state;
    for (;;) {
        prefork_slice in = prefork_conn_data(conn);
        const char *end = in.len ? memchr(in.data, 0x0a, in.len) : NULL;
        char line[1000];
        size_t size;

        if (!end || of(conn)->goes)
            return;
        size = (size_t)(end - in.data);
        if (size >= sizeof line)
            abort();
        memcpy(line, in.data, size);
        line[size] = 0;
        prefork_conn_consume(conn, size + 1);
        run(conn, line);
    }
}

static ptrdiff_t on_handover(prefork_conn *conn, void *buffer, size_t room, void *state)
{
    struct stream *s = of(conn);
    size_t size = sizeof *s + s->size, i;

    (void)state;
    if (s->is_late)
        usleep(300000);
    if (s->closes) {
        prefork_conn_write(conn, "bye\n", 4);
        prefork_conn_close(conn);
    }
    if (s->stays)
        return -1;
    if (s->more)
        return (ptrdiff_t)s->more;
    if (size > room)
        return (ptrdiff_t)size;
    s->sum = 0;
    for (i = 0; i < s->size; i++) {
        unsigned char byte = (unsigned char)(i * 7 + s->count);

        ((unsigned char *)buffer)[sizeof *s + i] = byte;
        s->sum += byte;
    }
    s->worker = prefork_worker_id(self);
    s->goes = 0;
    memcpy(buffer, s, sizeof *s);
    free(s);
    prefork_conn_set_user(conn, NULL);
    return (ptrdiff_t)size;
}

static int on_takeover(prefork_conn *conn, uint32_t version, const void *data, size_t size, void *state)
{
    struct stream *s = malloc(sizeof *s);
    uint64_t sum = 0;
    size_t i;
    int is_own;

    (void)state;
    if (size < sizeof *s)
        abort();
    memcpy(s, data, sizeof *s);
    if (size != sizeof *s + s->size)
        abort();
    for (i = sizeof *s; i < size; i++)
        sum += ((const unsigned char *)data)[i];
    if (sum != s->sum && s->size)
        abort();
    is_own = s->worker == prefork_worker_id(self);
    if (s->crashes)
        abort();
    if (s->is_slow && !is_own) {
        static char text[100000];

        memset(text, '!', sizeof text);
        prefork_conn_write(conn, text, sizeof text);
        prefork_conn_write(conn, text, sizeof text);
    }
    if (s->refused == 2 || ((s->refused == 1 || s->is_slow) && !is_own)) {
        free(s);
        return 7;
    }
    s->moves++;
    s->version = version;
    prefork_conn_set_user(conn, s);
    return 0;
}

static int worker_start(prefork_worker *worker, void **state)
{
    (void)state;
    self = worker;
#ifdef ONE_STARTS
    if (prefork_worker_slot(worker) == 0)
        return 0;
    usleep(500000); /* until streams are with the first */
    return 1;
#else
    return 0;
#endif
}

#ifdef NO_STATE
PREFORK_MODULE(.worker_start = worker_start, .on_open = on_open, .on_close = on_close, .on_data = on_data)
void *unused[] = {(void *)on_handover, (void *)on_takeover};
#else
PREFORK_MODULE(.worker_start = worker_start, .on_open = on_open, .on_close = on_close, .on_data = on_data,
               .state_version = VERSION, .on_handover = on_handover, .on_takeover = on_takeover)
#endif
