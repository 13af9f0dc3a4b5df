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
#include <sys/time.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#ifndef VERSION
#define VERSION "v1"
#endif

static const char *dir;
static unsigned slot, id, generation;
static prefork_worker *self;
/* Set by on_hang. */
static volatile sig_atomic_t hangs;
static int waits_for = -1;
static char hung[512];

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

/* Reports that a connection is here, and waits until the test makes the file. */
static void wait_at_gate(const char *name)
{
    char here[300];

    snprintf(here, sizeof here, "%s.here", name);
    count(here);
    while (!exists(name))
        pause_ms(1);
}

/* Memory that is really there, and stays. */
static void allocate(size_t mb)
{
    static char *volatile kept;
    char *p = kept = malloc(mb << 20);

    if (p == NULL)
        abort();
    memset(p, 1, mb << 20);
}

/* Busy until it is told that this takes too long. */
static void loop_until_told(void)
{
    for (hangs = 0; !hangs;)
        ;
}

static void loop_while_in_time(void)
{
    for (volatile unsigned n = 0; !prefork_worker_overdue(self); n++)
        ;
}

/* Waits in one system call, which ends when it is told. */
static const char *wait_once(const char *how)
{
    struct timespec minute = {60, 0};
    int pair[2], done;
    char c;

    if (pipe(pair) < 0)
        abort();
    done = strcmp(how, "read") ? nanosleep(&minute, NULL) : (int)read(pair[0], &c, 1);
    how = done < 0 && errno == EINTR ? "EINTR" : "not interrupted";
    close(pair[0]);
    close(pair[1]);
    return how;
}

/* Waits for bytes, whatever signals come, until the socket is shut. */
static const char *wait_for_bytes(void)
{
    int pair[2];
    ssize_t n;
    char c;

    if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair) < 0)
        abort();
    waits_for = pair[0];
    while ((n = read(pair[0], &c, 1)) < 0 && errno == EINTR)
        ;
    waits_for = -1;
    close(pair[0]);
    close(pair[1]);
    return n == 0 ? "shut" : "not shut";
}

/* Runs in a signal handler: only what signal-safety(7) lists. Counts if the test has made a file for that. */
static void on_hang(prefork_worker *worker, void *state)
{
    int fd = open(hung, O_WRONLY | O_APPEND | O_CLOEXEC);

    (void)state;
    if (prefork_worker_overdue(worker) != 1 || (fd >= 0 && write(fd, ".", 1) != 1))
        abort();
    if (fd >= 0)
        close(fd);
    if (waits_for >= 0)
        shutdown(waits_for, SHUT_RDWR);
    hangs = 1;
}

/* Never returns; keeps the CPU busy. */
static void loop(void)
{
    for (volatile unsigned n = 0;; n++)
        ;
}

/* The same, and SIGABRT does not end it. */
static void deaf_loop(void)
{
    signal(SIGABRT, SIG_IGN);
    loop();
}

/* A text so often that mixing it with another shows. */
static void repeat(const char *text, char *answer, size_t size)
{
    size_t len = strlen(text), at = 0;

    if (len == 0)
        return;
    for (; at + len < size; at += len)
        memcpy(answer + at, text, len);
    answer[at] = '\0';
}

static int overflow(volatile char *above)
{
    volatile char frame[4096];

    frame[0] = above ? above[0] : 1;
    if (frame[0] == 0) /* never */
        return 0;
    return overflow(frame) + frame[0];
}

/* A process of the handler's own that outlives the call, and its worker. */
static int child(void)
{
    int pid = fork();

    if (pid < 0)
        abort();
    while (pid == 0)
        pause();
    return pid;
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
    else if (!strcmp(word, "generation"))
        snprintf(answer, size, "%u", generation);
    else if (!strcmp(word, "version"))
        snprintf(answer, size, "%s", VERSION);
    else if (!strcmp(word, "repeat"))
        repeat(rest, answer, size);
    else if (!strcmp(word, "busy")) {
        count("busy.here");
        act(command + strlen("busy "), listener, answer, size);
    } else if (!strcmp(word, "child"))
        snprintf(answer, size, "%d", child());
    else if (!strcmp(word, "alloc"))
        allocate(strtoul(rest, NULL, 10));
    else if (!strcmp(word, "loop"))
        loop();
    else if (!strcmp(word, "deaf"))
        deaf_loop();
    else if (!strcmp(word, "heed"))
        loop_until_told();
    else if (!strcmp(word, "look"))
        loop_while_in_time();
    else if (!strcmp(word, "wait"))
        snprintf(answer, size, "%s", wait_once(rest));
    else if (!strcmp(word, "shut"))
        snprintf(answer, size, "%s", wait_for_bytes());
    else if (!strcmp(word, "overdue"))
        snprintf(answer, size, "%d", prefork_worker_overdue(self));
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

/* True if the test has made a file of this name for every slot, or with ".SLOT" for this one. */
static int told_to(const char *what)
{
    char name[64];

    snprintf(name, sizeof name, "%s.%u", what, slot);
    return exists(what) || exists(name);
}

static int start(prefork_worker *worker, void **state)
{
    (void)state;
    self = worker;
    slot = prefork_worker_slot(worker);
    id = prefork_worker_id(worker);
    generation = prefork_worker_generation(worker);
    dir = prefork_worker_arg(worker, 0);
    if (dir != NULL && told_to("speak")) {
        fputs("out of luck\n", stderr);
        return 1;
    }
    if (dir == NULL || told_to("refuse"))
        return 1;
    snprintf(hung, sizeof hung, "%s/hung", dir);
    if (told_to("unprivileged") && (setgid(65534) < 0 || setuid(65534) < 0))
        abort();
    if (told_to("die"))
        abort();
    if (told_to("misconfigured"))
        _exit(78);
    while (told_to("wait"))
        pause_ms(1);
    if (told_to("brief")) {
        /* Ready, and dead a moment later. */
        struct itimerval soon = {{0, 0}, {0, 30000}};

        setitimer(ITIMER_REAL, &soon, NULL);
    }
    if (slot == 1 && told_to("late"))
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

PREFORK_MODULE(.worker_start = start, .on_datagram = on_datagram, .on_hang = on_hang)

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

PREFORK_MODULE(.worker_start = start, .on_request = on_request, .on_datagram = on_datagram, .on_hang = on_hang)

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

PREFORK_MODULE(.worker_start = start, .on_connection = on_connection, .on_datagram = on_datagram, .on_hang = on_hang)

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

PREFORK_MODULE(.worker_start = start, .on_data = on_data, .on_datagram = on_datagram, .on_hang = on_hang)

#endif
