/* The handler of the tests: does what a client tells it to, in each of the three styles, and by datagrams.
 *
 * A command is a line, or the path of a request: "sleep 300" is GET /sleep/300. Built with -DON_REQUEST, -DON_CONNECTION,
 * -DON_DATA or -DON_DATAGRAM; a datagram is answered with "ANSWER COMMAND", by each of them. Its argument is the directory of the test, in which effects are counted and gates stand.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <prefork.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static const char *dir;
static unsigned slot, id;

static void pause_ms(long ms)
{
    struct timespec left = {ms / 1000, ms % 1000 * 1000000};

    while (nanosleep(&left, &left) < 0 && errno == EINTR)
        ;
}

static int exists(const char *name)
{
    char path[512];

    snprintf(path, sizeof path, "%s/%s", dir, name);
    return access(path, F_OK) == 0;
}

/* Adds one byte to a file: however many processes do, each is counted once. */
static void count(const char *name)
{
    char path[512];
    int fd;

    snprintf(path, sizeof path, "%s/%s", dir, name);
    fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
    if (fd < 0 || write(fd, ".", 1) != 1)
        abort();
    close(fd);
}

/* Says that somebody is here, and waits until the test makes the file. */
static void wait_at_gate(const char *name)
{
    char here[300];

    snprintf(here, sizeof here, "%s.here", name);
    count(here);
    while (!exists(name))
        pause_ms(1);
}

static int overflow(volatile char *above)
{
    volatile char frame[4096];

    frame[0] = above ? above[0] : 1;
    if (frame[0] == 0) /* never */
        return 0;
    return overflow(frame) + frame[0];
}

static void act(const char *command, unsigned listener, char *answer, size_t size)
{
    char word[32] = "", rest[128] = "";

    sscanf(command, "%31[^ /]%*1[ /]%127s", word, rest);
    snprintf(answer, size, "%s", word);
    if (!strcmp(word, "pid"))
        snprintf(answer, size, "%d", (int)getpid());
    else if (!strcmp(word, "slot"))
        snprintf(answer, size, "%u", slot);
    else if (!strcmp(word, "id"))
        snprintf(answer, size, "%u", id);
    else if (!strcmp(word, "listener"))
        snprintf(answer, size, "%u", listener);
    else if (!strcmp(word, "sleep"))
        pause_ms(atol(rest));
    else if (!strcmp(word, "count"))
        count(rest);
    else if (!strcmp(word, "gate"))
        wait_at_gate(rest);
    else if (!strcmp(word, "segv"))
        raise(SIGSEGV);
    else if (!strcmp(word, "null"))
        *(volatile char *)NULL = 1;
    else if (!strcmp(word, "abort"))
        abort();
    else if (!strcmp(word, "exit"))
        exit(0);
    else if (!strcmp(word, "overflow"))
        overflow(NULL);
    else
        snprintf(answer, size, "no such command: %s", word);
}

static int start(prefork_worker *worker, void **state)
{
    (void)state;
    slot = prefork_worker_slot(worker);
    id = prefork_worker_id(worker);
    dir = prefork_worker_arg(worker, 0);
    if (dir == NULL || exists("refuse"))
        return 1;
    if (exists("die"))
        abort();
    if (slot == 1 && exists("late"))
        wait_at_gate("ready");
    return 0;
}

static void on_datagram(prefork_worker *worker, const struct sockaddr *peer, const void *data, size_t size, void *state)
{
    char command[256], answer[520];
    size_t len;

    (void)state;
    if (peer->sa_family != AF_INET && peer->sa_family != AF_INET6)
        abort();
    snprintf(command, sizeof command, "%.*s", (int)size, (const char *)data);
    act(command, 0, answer, 256);
    len = strlen(answer);
    snprintf(answer + len, sizeof answer - len, " %s", command);
    if (prefork_datagram_reply(worker, answer, strlen(answer)) != PREFORK_OK)
        count("unsent");
}

#if defined ON_DATAGRAM

PREFORK_MODULE(.worker_start = start, .on_datagram = on_datagram)

#elif defined ON_REQUEST

static void on_request(prefork_request *req, prefork_response *res, void *state)
{
    prefork_slice path = prefork_request_path(req);
    char command[256], answer[256];

    (void)state;
    snprintf(command, sizeof command, "%.*s", (int)path.len - 1, path.data + 1);
    act(command, prefork_request_listener(req), answer, sizeof answer);
    prefork_response_body(res, answer, strlen(answer));
}

PREFORK_MODULE(.worker_start = start, .on_request = on_request, .on_datagram = on_datagram)

#elif defined ON_CONNECTION

static void on_connection(prefork_conn *conn, void *state)
{
    char in[1024], answer[257], *end;
    size_t have = 0;
    ptrdiff_t n;

    (void)state;
    while (have < sizeof in && (n = prefork_conn_read(conn, in + have, sizeof in - have)) > 0) {
        have += (size_t)n;
        while ((end = memchr(in, '\n', have)) != NULL) {
            *end = '\0';
            act(in, prefork_conn_listener(conn), answer, sizeof answer - 1);
            strcat(answer, "\n");
            if (prefork_conn_write(conn, answer, strlen(answer)) < 0)
                return;
            have -= (size_t)(end + 1 - in);
            memmove(in, end + 1, have);
        }
    }
}

PREFORK_MODULE(.worker_start = start, .on_connection = on_connection, .on_datagram = on_datagram)

#else

static void on_data(prefork_conn *conn, void *state)
{
    prefork_slice in;
    char command[256], answer[257];
    const char *end;

    (void)state;
    while (in = prefork_conn_data(conn), in.len > 0 && (end = memchr(in.data, '\n', in.len)) != NULL) {
        snprintf(command, sizeof command, "%.*s", (int)(end - in.data), in.data);
        prefork_conn_consume(conn, (size_t)(end + 1 - in.data));
        act(command, prefork_conn_listener(conn), answer, sizeof answer - 1);
        strcat(answer, "\n");
        if (prefork_conn_write(conn, answer, strlen(answer)) < 0)
            prefork_conn_close(conn);
    }
    if (prefork_conn_at_end(conn))
        prefork_conn_close(conn);
}

PREFORK_MODULE(.worker_start = start, .on_data = on_data, .on_datagram = on_datagram)

#endif
