/* The handler of tests that check each byte of an answer: takes the time, and answers with the bytes, that a command says.
 *
 * A command is HOW/BEFORE/AMID/SIZE/PIECE/SALT, as the path of a request or as a line. It takes BEFORE milliseconds before the
 * answer, and AMID more when half of it is written, or at once if it is not written in pieces. The answer has SIZE bytes, of which byte N is (SALT + N) % 251. HOW:
 *
 *     b s f   a request: sets a body that is copied, static, a file
 *     w       writes PIECE bytes at a time
 *     e       a line: sends back the SIZE bytes behind it, PIECE at a time
 *     u       a request: the connection becomes a stream
 *
 * A capital one closes the connection afterwards. A request for /gate/HOW/... first says by the file `here` that it runs, and
 * waits for the file `go`. Built with -DON_REQUEST (which has streams too), -DON_DATA or -DON_CONNECTION.
 */
#define _GNU_SOURCE
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <prefork.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

static char bytes[(8 << 20) + 251];

struct command {
    char how;
    int closes;
    long before, amid;
    size_t size, piece, salt;
};

static int start(prefork_worker *worker, void **state)
{
    size_t i;

    (void)worker, (void)state;
    for (i = 0; i < sizeof bytes; i++)
        bytes[i] = (char)(i % 251);
    return 0;
}

static void pause_ms(long ms)
{
    struct timespec left = {ms / 1000, ms % 1000 * 1000000};

    while (ms > 0 && nanosleep(&left, &left) < 0 && errno == EINTR)
        ;
}

static struct command parse(const char *text, size_t len)
{
    struct command c;
    char copy[128];

    snprintf(copy, sizeof copy, "%.*s", (int)len, text);
    if (sscanf(copy, "%c/%ld/%ld/%zu/%zu/%zu", &c.how, &c.before, &c.amid, &c.size, &c.piece, &c.salt) != 6)
        abort();
    c.closes = isupper((unsigned char)c.how);
    c.how = (char)tolower((unsigned char)c.how);
    return c;
}

/* The size of the piece that begins at `at`; half of the answer is a border. */
static size_t piece(struct command *c, size_t at, size_t have)
{
    size_t half = c->size / 2, end = at < half ? half : c->size, n = end - at;

    if (at >= half) {
        pause_ms(c->amid);
        c->amid = 0;
    }
    n = n < c->piece ? n : c->piece;
    return n < have ? n : have;
}

#ifdef ON_CONNECTION

static void on_connection(prefork_conn *conn, void *state)
{
    static char in[1 << 16];
    size_t have = 0, used, n, at;
    struct command c;
    char *end;
    ptrdiff_t got;

    (void)state;
    for (;;) {
        while ((end = memchr(in, '\n', have)) == NULL) {
            got = prefork_conn_read(conn, in + have, sizeof in - have);
            if (got <= 0)
                return;
            have += (size_t)got;
        }
        c = parse(in, (size_t)(end - in));
        used = (size_t)(end + 1 - in);
        pause_ms(c.before);
        for (at = 0; at < c.size; at += n) {
            if (c.how == 'e' && used == have) {
                used = have = 0;
                got = prefork_conn_read(conn, in, sizeof in);
                if (got <= 0)
                    return;
                have = (size_t)got;
            }
            n = piece(&c, at, c.how == 'e' ? have - used : c.size);
            if (prefork_conn_write(conn, c.how == 'e' ? in + used : bytes + c.salt + at, n) < 0)
                return;
            if (c.how == 'e')
                used += n;
        }
        if (c.closes)
            return;
        have -= used;
        memmove(in, in + used, have);
    }
}

PREFORK_MODULE(.worker_start = start, .on_connection = on_connection)

#else

/* The command of a stream that is being answered. */
struct job {
    struct command command;
    int is_begun;
    size_t line, at;
};

static void on_open(prefork_conn *conn, void *state)
{
    (void)state;
    if (prefork_conn_set_user(conn, calloc(1, sizeof(struct job))) != PREFORK_OK)
        abort();
}

static void on_close(prefork_conn *conn, void *state)
{
    (void)state;
    free(prefork_conn_user(conn));
}

/* Continues with an answer; 0 if it waits for more of the client's bytes or for room. Its line, or the bytes that are to be sent
 * back, stay unconsumed until then. */
static int answer(prefork_conn *conn, struct job *job)
{
    struct command *c = &job->command;
    prefork_slice in = prefork_conn_data(conn);
    const char *end;
    size_t n;

    if (!job->is_begun) {
        end = in.len > 0 ? memchr(in.data, '\n', in.len) : NULL;
        if (end == NULL)
            return 0;
        job->line = (size_t)(end + 1 - in.data);
        *c = parse(in.data, job->line);
        job->is_begun = 1;
        job->at = 0;
        pause_ms(c->before);
        if (c->how == 'e')
            prefork_conn_consume(conn, job->line);
    }
    for (; job->at < c->size; job->at += n) {
        in = prefork_conn_data(conn);
        if (c->how == 'e' && in.len == 0)
            return 0;
        n = piece(c, job->at, c->how == 'e' ? in.len : c->size);
        if (prefork_conn_write(conn, c->how == 'e' ? in.data : bytes + c->salt + job->at, n) < 0)
            return 0;
        if (c->how == 'e')
            prefork_conn_consume(conn, n);
    }
    if (c->how != 'e')
        prefork_conn_consume(conn, job->line);
    job->is_begun = 0;
    return 1;
}

static void on_data(prefork_conn *conn, void *state)
{
    struct job *job = prefork_conn_user(conn);

    (void)state;
    while (answer(conn, job)) {
        if (job->command.closes) {
            prefork_conn_close(conn);
            return;
        }
    }
}

#ifdef ON_DATA

PREFORK_MODULE(.worker_start = start, .on_open = on_open, .on_data = on_data, .on_close = on_close)

#else

static void wait_at_gate(void)
{
    close(open("here", O_WRONLY | O_CREAT, 0666));
    while (access("go", F_OK) < 0)
        pause_ms(1);
    unlink("here");
}

/* Writes a body in pieces. One that does not fit is tried again a few times; then the body stays incomplete. */
static void write_body(prefork_response *res, struct command *c)
{
    size_t at = 0, n;
    int tries = 3, status;

    while (at < c->size) {
        n = piece(c, at, c->size);
        status = prefork_response_write(res, bytes + c->salt + at, n);
        if (status == PREFORK_OK)
            at += n;
        else if (status != PREFORK_FULL || tries-- == 0)
            return;
        else
            pause_ms(1);
    }
}

static void on_request(prefork_request *req, prefork_response *res, void *state)
{
    prefork_slice path = prefork_request_path(req);
    const char *text = path.data + 1;
    size_t len = path.len - 1;
    struct command c;
    int fd, done = PREFORK_OK;

    (void)state;
    if (len > 5 && !memcmp(text, "gate/", 5)) {
        wait_at_gate();
        text += 5;
        len -= 5;
    }
    c = parse(text, len);
    pause_ms(c.before);
    if (c.how != 'w' || c.size == 0)
        pause_ms(c.amid);
    if (c.closes)
        prefork_response_close(res);
    switch (c.how) {
    case 'b':
        done = prefork_response_body(res, bytes + c.salt, c.size);
        break;
    case 's':
        done = prefork_response_body_static(res, bytes + c.salt, c.size);
        break;
    case 'f':
        fd = memfd_create("answer", MFD_CLOEXEC);
        if (write(fd, bytes + c.salt, c.size) != (ssize_t)c.size)
            abort();
        done = prefork_response_file(res, fd, 0, c.size);
        break;
    case 'w':
        write_body(res, &c);
        break;
    case 'u':
        done = prefork_response_upgrade(res, "answers");
        break;
    default:
        abort();
    }
    if (done != PREFORK_OK)
        abort();
}

PREFORK_MODULE(.worker_start = start, .on_request = on_request, .on_open = on_open, .on_data = on_data, .on_close = on_close)

#endif
#endif
