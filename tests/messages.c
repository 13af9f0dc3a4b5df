/* A server whose workers and master exchange messages as clients tell them to. Each process writes what it was sent, and
 * what became of what it asked, to the file "log" in the test's directory.
 *
 *     messages request|connection DIRECTORY WORKERS [NAME VALUE]...
 *
 * A command is a line, or the path of a request: "send 2 7 100" is GET /send/2/7/100.
 *     send TO TYPE SIZE [COUNT]       COUNT messages, or until one is refused; the answer: how many were taken, last status
 *     ask TO TYPE SIZE DEADLINE       a request; the answer: the status
 *     master COMMAND                  has the master do it; it writes the answer to the log
 *     garbage WHAT                    writes what is no message to every socket the worker has
 *     reload, scale N, stop           asks the server for that
 *     foreign, forked                 sends with the server's handle; in a process of its own
 *     id, pid, gate NAME              as everywhere
 * What a receiver does with a message of a type: 1 replies with the bytes, 2 does not, 3 aborts, 4 sleeps for 300 ms and
 * replies, 5 replies twice, 6 leaves with status 0, 7 waits at the gate "held"; others are written down.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <prefork.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static prefork_worker *self;
static prefork_server *server;
static const char *dir;
static char who[32] = "master";

static void note(const char *format, ...)
{
    char path[512], line[512];
    int len = snprintf(line, sizeof line, "%s ", who), fd;
    va_list args;

    va_start(args, format);
    len += vsnprintf(line + len, sizeof line - (size_t)len - 1, format, args);
    va_end(args);
    line[len++] = '\n';
    snprintf(path, sizeof path, "%s/log", dir);
    fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
    if (fd < 0 || write(fd, line, (size_t)len) != len)
        abort();
    close(fd);
}

static void pause_ms(long ms)
{
    struct timespec left = {ms / 1000, ms % 1000 * 1000000};

    while (nanosleep(&left, &left) < 0 && errno == EINTR)
        ;
}

static void wait_at_gate(const char *name)
{
    char path[512];

    note("at %s", name);
    snprintf(path, sizeof path, "%s/%s", dir, name);
    while (access(path, F_OK) != 0)
        pause_ms(1);
}

/* Bytes whose values depend on their position. */
static unsigned char *pattern(size_t size)
{
    unsigned char *bytes = malloc(size + 1);
    size_t i;

    for (i = 0; i < size; i++)
        bytes[i] = (unsigned char)(i * 7 + i / 251 + size);
    return bytes;
}

static const char *judge(const void *data, size_t size)
{
    unsigned char *expected = pattern(size);
    const char *verdict = memcmp(expected, data ? data : "", size) == 0 ? "good" : "BAD";

    free(expected);
    return verdict;
}

static int send_one(uint32_t to, uint32_t type, const void *data, size_t size)
{
    return self ? prefork_worker_send(self, to, type, data, size) : prefork_server_send(server, to, type, data, size);
}

static int reply(const void *data, size_t size)
{
    return self ? prefork_worker_reply(self, data, size) : prefork_server_reply(server, data, size);
}

static void answered(int status, const void *data, size_t size, void *arg)
{
    note("answer to %s: %d, %zu bytes, %s", (char *)arg, status, size, judge(data, size));
    free(arg);
}

static void worker_answered(prefork_worker *worker, int status, const void *data, size_t size, void *arg)
{
    (void)worker;
    answered(status, data, size, arg);
}

static void server_answered(prefork_server *s, int status, const void *data, size_t size, void *arg)
{
    (void)s;
    answered(status, data, size, arg);
}

static int ask(uint32_t to, uint32_t type, const void *data, size_t size, uint32_t deadline)
{
    char *name = malloc(32);
    int status;

    snprintf(name, 32, "%u", type);
    status = self ? prefork_worker_request(self, to, type, data, size, deadline, worker_answered, name)
                  : prefork_server_request(server, to, type, data, size, deadline, server_answered, name);
    if (status != PREFORK_OK)
        free(name);
    return status;
}

/* Writes to what is the message channel, among others. */
static void garbage(const char *what)
{
    static const unsigned char huge[8] = {255, 255, 255, 127, 'M'}, forged[29] = {21, 0, 0, 0, 'M', 0, 0, 0, 99, 0, 0, 0};
    DIR *fds = opendir("/proc/self/fd");
    struct dirent *entry;
    struct stat st;

    while ((entry = readdir(fds)) != NULL) {
        int fd = atoi(entry->d_name);

        if (fd <= 2 || fstat(fd, &st) != 0 || !S_ISSOCK(st.st_mode))
            continue;
        if (!strcmp(what, "text"))
            (void)!write(fd, "this is no message\n", 19);
        else if (!strcmp(what, "huge"))
            (void)!write(fd, huge, sizeof huge);
        else if (!strcmp(what, "forged"))
            (void)!write(fd, forged, sizeof forged);
        else if (!strcmp(what, "close"))
            close(fd);
    }
    closedir(fds);
}

static int send_as_worker(void)
{
    return prefork_worker_send(self, PREFORK_TO_MASTER, 50, "", 0);
}

static int send_as_server(void)
{
    return prefork_server_send(server, 1, 50, "", 0);
}

/* What a call says in a process that this one forks: minus a status. */
static int in_a_child(int (*call)(void))
{
    pid_t pid = fork();
    int status = 0;

    if (pid == 0)
        _exit(-call());
    waitpid(pid, &status, 0);
    return WEXITSTATUS(status);
}

static void act(const char *command, char *answer, size_t size)
{
    char word[32] = "", rest[200] = "";
    unsigned to = 0, type = 0, deadline = 0;
    unsigned long bytes = 0, count = 1, i;
    int status = PREFORK_OK;
    unsigned char *data;

    sscanf(command, "%31[^ /]%*1[ /]%199[^\n]", word, rest);
    for (i = 0; rest[i]; i++)
        if (rest[i] == '/')
            rest[i] = ' ';
    snprintf(answer, size, "%s", word);
    if (!strcmp(word, "send")) {
        sscanf(rest, "%u %u %lu %lu", &to, &type, &bytes, &count);
        data = pattern(bytes);
        for (i = 0; i < count && (status = send_one(to, type, data, bytes)) == PREFORK_OK; i++)
            ;
        free(data);
        snprintf(answer, size, "%lu taken, %d", i, status);
    } else if (!strcmp(word, "ask")) {
        sscanf(rest, "%u %u %lu %u", &to, &type, &bytes, &deadline);
        data = pattern(bytes);
        snprintf(answer, size, "%d", ask(to, type, data, bytes, deadline));
        free(data);
    } else if (!strcmp(word, "reply"))
        snprintf(answer, size, "%d", reply("", 0));
    else if (!strcmp(word, "master"))
        snprintf(answer, size, "%d", prefork_worker_send(self, PREFORK_TO_MASTER, 100, rest, strlen(rest) + 1));
    else if (!strcmp(word, "foreign"))
        snprintf(answer, size, "%d", prefork_server_send(server, 1, 0, "", 0));
    else if (!strcmp(word, "forked"))
        snprintf(answer, size, "%d %d", -in_a_child(send_as_worker), -in_a_child(send_as_server));
    else if (!strcmp(word, "garbage"))
        garbage(rest);
    else if (!strcmp(word, "reload"))
        snprintf(answer, size, "%d", prefork_server_reload(server));
    else if (!strcmp(word, "scale"))
        snprintf(answer, size, "%d", prefork_server_scale(server, (uint32_t)atoi(rest)));
    else if (!strcmp(word, "stop"))
        snprintf(answer, size, "%d", prefork_server_stop(server));
    else if (!strcmp(word, "id"))
        snprintf(answer, size, "%u", prefork_worker_id(self));
    else if (!strcmp(word, "pid"))
        snprintf(answer, size, "%d", (int)getpid());
    else if (!strcmp(word, "gate"))
        wait_at_gate(rest);
    else
        snprintf(answer, size, "no such command: %s", word);
}

static void receive(uint32_t from, uint32_t type, const void *data, size_t size)
{
    char answer[200];

    if (type == 100) {
        act(data, answer, sizeof answer);
        note("%s: %s", (const char *)data, answer);
        return;
    }
    note("got %u from %u: %zu bytes, %s", type, from, size, judge(data, size));
    if (type == 3)
        abort();
    if (type == 4)
        pause_ms(300);
    if (type == 1 || type == 4 || type == 5)
        reply(data, size);
    if (type == 5)
        note("second reply: %d", reply(data, size));
    if (type == 6)
        exit(0);
    if (type == 7)
        wait_at_gate("held");
}

static void on_message(prefork_worker *worker, uint32_t from, uint32_t type, const void *data, size_t size, void *state)
{
    (void)worker;
    (void)state;
    receive(from, type, data, size);
}

static void on_host_message(prefork_server *s, uint32_t from, uint32_t type, const void *data, size_t size, void *state)
{
    (void)s;
    (void)state;
    receive(from, type, data, size);
}

static int start(prefork_worker *worker, void **state)
{
    (void)state;
    self = worker;
    snprintf(who, sizeof who, "worker %u", prefork_worker_id(worker));
    return 0;
}

static void on_drain(prefork_worker *worker, void *state)
{
    (void)state;
    prefork_worker_send(worker, PREFORK_TO_MASTER, 50, "", 0);
}

static void on_request(prefork_request *req, prefork_response *res, void *state)
{
    prefork_slice path = prefork_request_path(req);
    char command[256], answer[256];

    (void)state;
    snprintf(command, sizeof command, "%.*s", (int)path.len - 1, path.data + 1);
    act(command, answer, sizeof answer);
    prefork_response_body(res, answer, strlen(answer));
}

static void on_connection(prefork_conn *conn, void *state)
{
    char in[256], answer[257];
    size_t have = 0;
    ptrdiff_t n;

    (void)state;
    while (have < sizeof in - 1 && (n = prefork_conn_read(conn, in + have, sizeof in - 1 - have)) > 0) {
        have += (size_t)n;
        if (in[have - 1] != '\n')
            continue;
        in[have - 1] = '\0';
        act(in, answer, sizeof answer - 1);
        strcat(answer, "\n");
        prefork_conn_write(conn, answer, strlen(answer));
        have = 0;
    }
}

static void started(const prefork_started *what, void *state)
{
    (void)state;
    printf("listening on %s\n", what->addresses[0]);
    fflush(stdout);
}

int main(int argc, char **argv)
{
    struct prefork_module module = prefork_module_init();
    int i, status;

    server = prefork_server_new();
    dir = argv[2];
    module.worker_start = start;
    module.on_message = on_message;
    module.on_drain = on_drain;
    if (!strcmp(argv[1], "request"))
        module.on_request = on_request;
    else
        module.on_connection = on_connection;
    if (prefork_server_send(server, 1, 0, "", 0) != PREFORK_STATE)
        return 2;
    prefork_server_module(server, &module, NULL);
    prefork_server_listen(server, "127.0.0.1:0");
    prefork_server_set(server, "workers", argv[3]);
    for (i = 4; i + 1 < argc; i += 2)
        prefork_server_set(server, argv[i], argv[i + 1]);
    prefork_server_on_start(server, started, NULL);
    prefork_server_on_message(server, on_host_message, NULL);
    status = prefork_server_run(server);
    if (status != PREFORK_OK)
        fprintf(stderr, "%s\n", prefork_server_error(server));
    if (prefork_server_send(server, 1, 0, "", 0) != PREFORK_STATE)
        return 2;
    prefork_server_free(server);
    return status != PREFORK_OK;
}
