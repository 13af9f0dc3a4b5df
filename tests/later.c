/* Keeps responses, and finishes them as other requests say.
 *
 *     /keep/NAME            keeps the response under a name; NAME of up to 31 characters
 *     /tell/NAME/WHAT/TEXT  does something with it, as `do_it` says
 *     /say/NAME             has the other workers finish it: the body is the slot of the one that does
 *     /gone                 the names whose clients were reported to have gone, and those that `done` was called for
 *     /same/WHAT            keeps the response and does this in `on_request` itself
 *     /stream/BYTES/PART    streams so many bytes in parts of this size; the byte at offset i is i % 251
 *     /slow/N               writes N parts, each flushed, 100 ms apart
 *
 * The answer to /tell is the number that the call returned; 2 if there is no response of that name here. When the worker drains it
 * finishes those whose names begin with "drain"; when it stops it prints what /gone answers.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <prefork.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define MOST 1024

struct kept {
    char name[32];
    prefork_response *res;
    /* What its producer writes: parts of a size, up to a number of bytes. */
    size_t size, part, at;
    int waits, ends;
};

static struct kept kept[MOST];
static char events[65536];
static prefork_worker *self;

static void note(const char *what, const char *name)
{
    size_t len = strlen(events);

    snprintf(events + len, sizeof events - len, "%s %s\n", what, name);
}

static struct kept *find(const char *name)
{
    for (int i = 0; i < MOST; i++)
        if (kept[i].name[0] && !strcmp(kept[i].name, name))
            return &kept[i];
    return NULL;
}

static struct kept *new_one(const char *name)
{
    for (int i = 0; i < MOST; i++)
        if (!kept[i].name[0]) {
            memset(&kept[i], 0, sizeof kept[i]);
            snprintf(kept[i].name, sizeof kept[i].name, "%s", name);
            return &kept[i];
        }
    abort();
}

static void on_gone(void *arg)
{
    note("gone", ((struct kept *)arg)->name);
}

static void on_done(void *arg)
{
    struct kept *k = arg;

    note("done", k->name);
    k->name[0] = '\0';
}

/* Writes the next part; or nothing, until it is told to end. */
static int more(prefork_response *res, void *arg)
{
    struct kept *k = arg;
    unsigned char part[65536];
    size_t n = k->size - k->at < k->part ? k->size - k->at : k->part;

    k->res = res;
    if (k->waits)
        return k->ends ? 0 : 1;
    for (size_t i = 0; i < n; i++)
        part[i] = (unsigned char)((k->at + i) % 251);
    switch (prefork_response_write(res, part, n)) {
    case PREFORK_OK:
        k->at += n;
        return k->at < k->size;
    case PREFORK_FULL:
        return 1;
    default:
        return -1;
    }
}

static int do_it(struct kept *k, const char *what, const char *text)
{
    prefork_response *res = k->res;
    int said, fd;

    if (!strcmp(what, "body"))
        return prefork_response_body(res, text, strlen(text));
    if (!strcmp(what, "status"))
        return prefork_response_status(res, (unsigned)atoi(text));
    if (!strcmp(what, "field"))
        return prefork_response_header(res, "X-Field", text);
    if (!strcmp(what, "write"))
        return prefork_response_write(res, text, strlen(text));
    if (!strcmp(what, "much")) {
        size_t size = strtoul(text, NULL, 10);
        char *much = malloc(size + 1);

        memset(much, 'm', size);
        said = prefork_response_write(res, much, size);
        free(much);
        return said;
    }
    if (!strcmp(what, "flush"))
        return prefork_response_flush(res);
    if (!strcmp(what, "file")) {
        fd = open(text[0] ? text : "/proc/self/exe", O_RDONLY | O_CLOEXEC);
        return prefork_response_file(res, fd, 0, 100000);
    }
    if (!strcmp(what, "close"))
        return prefork_response_close(res);
    if (!strcmp(what, "fail"))
        return prefork_response_fail(res);
    if (!strcmp(what, "upgrade"))
        return prefork_response_upgrade(res, "echo");
    if (!strcmp(what, "end")) {
        said = prefork_response_end(res);
        if (said != PREFORK_STATE)
            k->name[0] = '\0';
        return said;
    }
    if (!strcmp(what, "finish")) {
        k->name[0] = '\0';
        prefork_response_body(res, text, strlen(text));
        return prefork_response_end(res);
    }
    if (!strcmp(what, "stream")) {
        k->size = strtoul(text, NULL, 10);
        k->part = 50000;
        return prefork_response_stream(res, more, on_done, k);
    }
    if (!strcmp(what, "wait")) {
        k->waits = 1;
        return prefork_response_stream(res, more, on_done, k);
    }
    if (!strcmp(what, "last")) {
        k->ends = 1;
        return prefork_response_flush(res);
    }
    return strcmp(what, "known") ? 1 : 0;
}

static void on_request(prefork_request *req, prefork_response *res, void *state)
{
    prefork_slice path = prefork_request_path(req);
    char line[512], *words[4] = {"", "", "", ""}, *next = line, text[32];
    struct kept *k;
    int said = 1;

    (void)state;
    snprintf(line, sizeof line, "%.*s", (int)path.len, path.data);
    strsep(&next, "/");
    for (int i = 0; i < 4 && next; i++)
        words[i] = i < 3 ? strsep(&next, "/") : next;
    if (!strcmp(words[0], "keep")) {
        k = new_one(words[1]);
        k->res = prefork_response_later(res);
        prefork_response_on_gone(k->res, on_gone, k);
        return;
    }
    if (!strcmp(words[0], "tell")) {
        k = find(words[1]);
        said = k ? do_it(k, words[2], words[3]) : 2;
    } else if (!strcmp(words[0], "gone")) {
        prefork_response_body(res, events, strlen(events));
        return;
    } else if (!strcmp(words[0], "pid")) {
        said = (int)getpid();
    } else if (!strcmp(words[0], "say")) {
        said = prefork_worker_send(self, PREFORK_TO_ALL, 1, words[1], strlen(words[1]));
    } else if (!strcmp(words[0], "same")) {
        k = new_one("same");
        prefork_response_header(res, "X-Before", "yes");
        k->res = prefork_response_later(res);
        do_it(k, words[1], words[2]);
        if (k->name[0])
            do_it(k, "end", "");
        /* The old one has no effect any more. */
        if (prefork_response_status(res, 404) != PREFORK_LATE || prefork_response_body(res, "x", 1) != PREFORK_LATE ||
            prefork_response_header(res, "A", "b") != PREFORK_LATE || prefork_response_write(res, "x", 1) != PREFORK_LATE ||
            prefork_response_close(res) != PREFORK_LATE || prefork_response_fail(res) != PREFORK_LATE ||
            prefork_response_flush(res) != PREFORK_LATE || prefork_response_upgrade(res, "echo") != PREFORK_LATE ||
            prefork_response_later(res) != NULL || prefork_response_end(res) != PREFORK_STATE ||
            prefork_response_stream(res, more, NULL, NULL) != PREFORK_LATE ||
            prefork_response_on_gone(res, on_gone, NULL) != PREFORK_LATE)
            abort();
        return;
    } else if (!strcmp(words[0], "stream")) {
        k = new_one("stream");
        k->size = strtoul(words[1], NULL, 10);
        k->part = strtoul(words[2], NULL, 10);
        said = prefork_response_stream(res, more, on_done, k);
        if (said == PREFORK_OK)
            return;
    } else if (!strcmp(words[0], "fork")) {
        /* A copy of this process can do nothing with what is kept here. */
        int status = 1, pid;

        k = new_one("fork");
        k->res = prefork_response_later(res);
        fflush(NULL);
        pid = fork();
        if (pid == 0) {
            res = k->res;
            _exit(prefork_response_body(res, "x", 1) == PREFORK_STATE && prefork_response_write(res, "x", 1) == PREFORK_STATE &&
                          prefork_response_flush(res) == PREFORK_STATE && prefork_response_fail(res) == PREFORK_STATE &&
                          prefork_response_stream(res, more, NULL, k) == PREFORK_STATE &&
                          prefork_response_on_gone(res, on_gone, k) == PREFORK_STATE && prefork_response_end(res) == PREFORK_STATE
                      ? 7
                      : 8);
        }
        waitpid(pid, &status, 0);
        do_it(k, "finish", WIFEXITED(status) && WEXITSTATUS(status) == 7 ? "refused" : "not refused");
        return;
    } else if (!strcmp(words[0], "slow")) {
        struct timespec pause = {0, 100000000};

        for (int i = atoi(words[1]); i > 0; i--) {
            prefork_response_write(res, "part\n", 5);
            if (prefork_response_flush(res) != PREFORK_OK)
                return;
            nanosleep(&pause, NULL);
        }
        return;
    } else if (!strcmp(words[0], "refused")) {
        /* What only a response that was kept can do. */
        said = prefork_response_end(res) == PREFORK_STATE && prefork_response_on_gone(res, on_gone, NULL) == PREFORK_STATE &&
               prefork_response_stream(res, NULL, NULL, NULL) == PREFORK_NULL;
    }
    prefork_response_body(res, text, (size_t)snprintf(text, sizeof text, "%d", said));
}

static void on_message(prefork_worker *worker, uint32_t from, uint32_t type, const void *data, size_t size, void *state)
{
    char name[32], text[32];
    struct kept *k;

    (void)from, (void)state, (void)type;
    snprintf(name, sizeof name, "%.*s", (int)size, (const char *)data);
    k = find(name);
    if (k) {
        snprintf(text, sizeof text, "%u", prefork_worker_slot(worker));
        do_it(k, "finish", text);
    }
}

static void on_data(prefork_conn *conn, void *state)
{
    prefork_slice in = prefork_conn_data(conn);

    (void)state;
    prefork_conn_write(conn, in.data, in.len);
    prefork_conn_consume(conn, in.len);
    if (prefork_conn_at_end(conn))
        prefork_conn_close(conn);
}

static int start(prefork_worker *worker, void **state)
{
    (void)state;
    self = worker;
    return 0;
}

static void on_drain(prefork_worker *worker, void *state)
{
    (void)state, (void)worker;
    for (int i = 0; i < MOST; i++)
        if (!strncmp(kept[i].name, "drain", 5))
            do_it(&kept[i], "finish", "drained");
}

static void stop(prefork_worker *worker, void *state)
{
    (void)state, (void)worker;
    fputs(events, stderr);
}

PREFORK_MODULE(.worker_start = start, .worker_stop = stop, .on_request = on_request, .on_message = on_message, .on_data = on_data,
               .on_drain = on_drain)
