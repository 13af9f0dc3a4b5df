/* A host with an event loop of its own, for the tests: does what it reads, a line each, and says what comes of it.
 *
 *     steer [NAME VALUE]...      settings
 *
 * It has an epoll instance in which the server's descriptor is nested, children, and handlers of SIGCHLD, SIGTERM and SIGSEGV.
 * tests/hosts/steer.rs is the same in Rust.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <prefork.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static prefork_server *server;
static volatile sig_atomic_t terms, deaths;
static int loop;

/* As a host may have it to tell of its own crash, and then to die of it. */
static void crashed(int number)
{
    ssize_t n = write(1, "its own handler\n", 16);

    (void)n;
    signal(number, SIG_DFL);
}

static void count(int number)
{
    if (number == SIGTERM)
        terms++;
    else
        deaths++;
}

/* What calls say in a process that is not the master. */
static int elsewhere(char *text, size_t size)
{
    prefork_server *own = prefork_server_new();
    uint32_t id = 9, slot = 9, generation = 9, role = prefork_role(&id, &slot, &generation);
    int n;

    prefork_server_on_connection(own, NULL, NULL);
    prefork_server_set(own, "listen", "127.0.0.1:0");
    prefork_server_free(NULL);
    n = snprintf(text, size,
                 "role %u %u %u %u self %d reload %d scale %d fork %d drain %d kill %d stop %d step %d run %d start %d "
                 "set %d",
                 role, id, slot, generation, prefork_worker_self() != NULL, prefork_server_reload(server),
                 prefork_server_scale(server, 1), prefork_server_fork(server, 0, NULL),
                 prefork_server_drain(server, 1, -1), prefork_server_kill(server, 1, SIGKILL),
                 prefork_server_stop(server), prefork_server_step(server, 0), prefork_server_run(server),
                 prefork_server_start(server), prefork_server_set(server, "workers", "1"));
    prefork_server_free(own);
    prefork_server_free(server);
    return n;
}

static void nested(prefork_request *req, prefork_response *res, void *state);

static unsigned long wall_ms(void)
{
    struct timespec now;

    clock_gettime(CLOCK_REALTIME, &now);
    return (unsigned long)now.tv_sec * 1000 + (unsigned long)now.tv_nsec / 1000000;
}

/* What a worker is, to itself or to the master. */
static int tell(char *text, size_t size, const prefork_worker_status *w)
{
    long off = (long)(wall_ms() - w->started_ms - w->age_ms);

    return snprintf(text, size, "%u %u %u state %u connected %u started %d last %u %d %d %u %u", w->id, w->slot,
                    w->generation, w->state, w->connected, off > -1000 && off < 1000, w->last_id, w->last_code,
                    w->last_signal, w->last_reason, w->last_intended);
}

static int describe(char *text, size_t size)
{
    uint32_t id = 0, slot = 0, generation = 0, role = prefork_role(&id, &slot, &generation);
    prefork_worker_status me = {0};
    int status, n;

    me.size = sizeof me;
    status = prefork_worker_info(prefork_worker_self(), &me);
    n = snprintf(text, size, "look %d role %u %u %u %u environment %s %s %s pid %d: ", status, role, id, slot, generation,
                 getenv("PREFORK_WORKER_ID"), getenv("PREFORK_SLOT"), getenv("PREFORK_GENERATION"), me.pid == getpid());
    return n + tell(text + n, size - (size_t)n, &me);
}

/* Says that it is here, and waits until the test makes the file. */
static void wait_at_gate(const char *name)
{
    struct timespec moment = {0, 1000000};
    char here[64];
    FILE *f;

    snprintf(here, sizeof here, "%s.here", name);
    f = fopen(here, "a");
    fputc('.', f);
    fclose(f);
    while (access(name, F_OK) != 0)
        nanosleep(&moment, NULL);
}

static void answer(prefork_request *req, prefork_response *res, void *state)
{
    prefork_slice path = prefork_request_path(req);
    prefork_worker *self = prefork_worker_self();
    char text[512] = "", command[64], word[16] = "", rest[32] = "";
    const char *variable = getenv("COLOUR");

    snprintf(command, sizeof command, "%.*s", (int)path.len, path.data);
    sscanf(command, "/%15[a-z]/%31[a-z0-9]", word, rest);
    if (strcmp(word, "crash") == 0)
        abort();
    else if (strcmp(word, "exit") == 0)
        exit(atoi(rest));
    else if (strcmp(word, "gate") == 0)
        wait_at_gate(rest);
    else if (strcmp(word, "me") == 0)
        describe(text, sizeof text);
    else if (strcmp(word, "leave") == 0)
        sprintf(text, "%d", prefork_worker_leave(self));
    else if (strcmp(word, "wrong") == 0)
        elsewhere(text, sizeof text);
    else if (strcmp(word, "nested") == 0)
        nested(req, res, text);
    else
        sprintf(text, "%u %u %s", prefork_worker_id(self), prefork_worker_slot(self), variable ? variable : "-");
    (void)state;
    prefork_response_body(res, text, strlen(text));
}

/* A worker that would be a master too. */
static void nested(prefork_request *req, prefork_response *res, void *state)
{
    prefork_server *own = prefork_server_new();

    (void)req;
    (void)res;
    prefork_server_on_request(own, answer, NULL);
    sprintf(state, "%d ", prefork_server_start(own));
    strcat(state, prefork_server_error(own));
    prefork_server_free(own);
}

/* In a worker: tells the master how much has come. */
static void heard(prefork_worker *worker, uint32_t from, uint32_t type, const void *data, size_t size, void *state)
{
    uint64_t number = size;

    (void)from;
    (void)data;
    (void)state;
    prefork_worker_send(worker, PREFORK_TO_MASTER, type + 1, &number, sizeof number);
}

/* In the master. */
static void reported(prefork_server *s, uint32_t from, uint32_t type, const void *data, size_t size, void *state)
{
    uint64_t number;

    (void)s;
    (void)size;
    (void)state;
    memcpy(&number, data, sizeof number);
    printf("report %u %u %lu\n", from, type, (unsigned long)number);
}

static int message(uint32_t to, size_t size)
{
    void *bytes = calloc(1, size);
    int status = prefork_server_send(server, to, 5, bytes, size);

    free(bytes);
    return status;
}

/* A generation that does not start, or workers that do not. */
static int begin(prefork_worker *worker, void **state)
{
    (void)state;
    if (access("misconfigured", F_OK) == 0)
        _exit(78);
    if ((prefork_worker_generation(worker) > 1 && access("broken", F_OK) == 0) || access("refuse", F_OK) == 0) {
        fprintf(stderr, "this is\nbroken\n");
        return 1;
    }
    return 0;
}

/* Tells the master what it thinks of itself. */
static void draining(prefork_worker *worker, void *state)
{
    prefork_worker_status me = {0};
    uint64_t number;

    (void)state;
    me.size = sizeof me;
    prefork_worker_info(worker, &me);
    number = me.state;
    if (access("tell", F_OK) == 0)
        prefork_worker_send(worker, PREFORK_TO_MASTER, 77, &number, sizeof number);
}

static void started(const prefork_started *what, void *state)
{
    (void)state;
    printf("listening on %s\n", what->addresses[0]);
}

static void answer_datagram(prefork_worker *worker, const struct sockaddr *peer, const void *data, size_t size, void *state)
{
    (void)peer;
    (void)state;
    prefork_datagram_reply(worker, data, size);
}

/* With a file "on-reload", the workers of a reload have a colour: its number, or if its number is not told yet, none. */
static const char *may_reload(uint32_t generation, void *state)
{
    char number[16];

    if (access("on-reload", F_OK) == 0) {
        snprintf(number, sizeof number, "%u", generation);
        setenv("COLOUR", number, 1);
        printf("on_reload %u\n", generation);
    }
    if (access("stop-at-reload", F_OK) == 0)
        prefork_server_stop(server);
    (void)state;
    return access("refuse-reload", F_OK) == 0 ? "not today" : NULL;
}

static void happened(const prefork_event *e, void *state)
{
    (void)state;
    printf("event %s %u %u %u", e->name, e->id, e->slot, e->generation);
    if (e->type == PREFORK_EVENT_LISTENING)
        printf(" %s %s %d", e->address, e->address_type, e->port);
    if (e->type == PREFORK_EVENT_EXIT)
        printf(" %d %d %s %u", e->code, e->signal, e->reason_name, e->intended);
    if (e->type == PREFORK_EVENT_MESSAGE)
        printf(" %u %lu", e->message_type, (unsigned long)e->message_size);
    if (e->type == PREFORK_EVENT_STOPPED)
        printf(" %u", e->killed);
    if (e->cut) /* of an exit or of the stop */
        printf(" cut %lu", (unsigned long)e->cut);
    printf(" %s", e->text);
    if (e->type == PREFORK_EVENT_RELOAD_ROLLED_BACK)
        printf("; %u %s, %d %d", e->stage, e->stage_name, e->code, e->signal);
    if (*e->stderr_lines) /* on one line */
        for (const char *c = (printf("; "), e->stderr_lines); *c; c++)
            putchar(*c == '\n' ? '|' : *c);
    printf("\n");
    if (e->type == PREFORK_EVENT_RELOAD_COMMITTED)
        printf("stays moved %lu over %lu workers %u requests %lu responses %lu streams %lu limit %d\n",
               (unsigned long)e->moved, (unsigned long)e->handed_over, e->staying_workers,
               (unsigned long)e->staying_requests, (unsigned long)e->staying_responses,
               (unsigned long)e->staying_streams, e->staying_ms > 0);
    if (e->type == PREFORK_EVENT_EXIT || e->type == PREFORK_EVENT_GONE)
        printf("departed %s moved %lu over %lu ended %lu cut %lu lost %lu\n", e->name, (unsigned long)e->moved,
               (unsigned long)e->handed_over, (unsigned long)e->ended, (unsigned long)e->cut, (unsigned long)e->lost);
    if (e->type == PREFORK_EVENT_RELOAD_COMMITTED) /* a callback may ask for more */
        printf("meanwhile %d %d\n", prefork_server_scale(server, 2), prefork_server_step(server, 0));
}

static void row(const prefork_worker_status *w, void *arg)
{
    char text[256];

    (void)arg;
    tell(text, sizeof text, w);
    printf("row %s there %d\n", text, w->size == sizeof *w && kill(w->pid, 0) == 0);
}

static void *sleep_on(void *arg)
{
    pause();
    return arg;
}

static int entries(const char *folder)
{
    DIR *dir = opendir(folder);
    int n = 0;

    while (readdir(dir) != NULL)
        n++;
    closedir(dir);
    return n;
}

static int lines(const char *file)
{
    FILE *f = fopen(file, "r");
    int c, n = 0;

    while ((c = getc(f)) != EOF)
        n += c == '\n';
    fclose(f);
    return n;
}

static void begin_serving(void)
{
    struct epoll_event event = {.events = EPOLLIN};
    int status = prefork_server_start(server);

    printf("start %d %s\n", status, prefork_server_error(server));
    event.data.fd = prefork_server_fd(server);
    if (status == PREFORK_OK && epoll_ctl(loop, EPOLL_CTL_ADD, event.data.fd, &event) != 0)
        perror("epoll_ctl");
}

static void child(void)
{
    int status = 0;
    pid_t pid = fork();

    if (pid == 0)
        _exit(7);
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
        ;
    printf("child %d none left %d\n", WEXITSTATUS(status), waitpid(pid, &status, 0) < 0);
}

static void copy(void)
{
    char text[512];
    int status;
    pid_t pid = fork();

    if (pid == 0) {
        elsewhere(text, sizeof text);
        printf("%s\n", text);
        fflush(stdout);
        _exit(0);
    }
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
        ;
    printf("copy ended %d\n", status);
}

/* A copy of the master becomes a master of its own, and asks what is not its. */
static void usurp(void)
{
    int status;
    pid_t pid = fork();

    if (pid == 0) {
        prefork_server *own = prefork_server_new();
        int reload, kill, step, send;

        prefork_server_on_request(own, answer, NULL);
        prefork_server_listen(own, "127.0.0.1:0");
        if (prefork_server_start(own) != PREFORK_OK)
            _exit(1);
        reload = prefork_server_reload(server);
        kill = prefork_server_kill(server, 1, SIGKILL);
        step = prefork_server_step(server, 0);
        send = prefork_server_send(server, 1, 5, "", 0);
        prefork_server_free(server);
        printf("usurp reload %d kill %d step %d send %d role %u own %d\n", reload, kill, step, send,
               prefork_role(NULL, NULL, NULL), prefork_server_stop(own));
        prefork_server_free(own);
        fflush(stdout);
        _exit(0);
    }
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
        ;
    printf("usurper ended %d\n", status);
}

static void say(const char *what, int status)
{
    printf("%s %d %s\n", what, status, prefork_server_error(server));
}

static void obey(char *line)
{
    prefork_worker_status info = {0};
    prefork_server_status all = {0};
    prefork_exit last = {0};
    pthread_t thread;
    char *word = strtok(line, " "), *a = strtok(NULL, " "), *b = strtok(NULL, " ");
    unsigned n = a ? (unsigned)atoi(a) : 0;
    const char *variables[2];
    int status;

    variables[0] = a;
    variables[1] = b;
    info.size = sizeof info;
    all.size = sizeof all;
    last.size = sizeof last;
    if (strcmp(word, "reload") == 0)
        say("reload", prefork_server_reload(server));
    else if (strcmp(word, "upgrade") == 0)
        say("upgrade", prefork_server_upgrade(server));
    else if (strcmp(word, "scale") == 0)
        say("scale", prefork_server_scale(server, n));
    else if (strcmp(word, "fork") == 0)
        say("fork", prefork_server_fork(server, (a != NULL) + (b != NULL), variables));
    else if (strcmp(word, "drain") == 0)
        say("drain", prefork_server_drain(server, n, b ? atoi(b) : -1));
    else if (strcmp(word, "kill") == 0)
        say("kill", prefork_server_kill(server, n, atoi(b)));
    else if (strcmp(word, "message") == 0)
        printf("message %d\n", message(n, (size_t)atol(b)));
    else if (strcmp(word, "stop") == 0)
        printf("stop %d\n", prefork_server_stop(server));
    else if (strcmp(word, "table") == 0)
        printf("table %d\n", prefork_server_each_worker(server, row, NULL));
    else if (strcmp(word, "worker") == 0) {
        status = prefork_server_worker(server, n, &info);
        printf("worker %d %u %u\n", status, info.id, info.state);
    } else if (strcmp(word, "short") == 0) {
        info.size = 8; /* as an older header may have it */
        info.slot = 99;
        status = prefork_server_worker(server, n, &info);
        printf("short %d %u %u %u\n", status, info.size, info.id, info.slot);
    } else if (strcmp(word, "last") == 0) {
        status = prefork_server_last_exit(server, n, &last);
        printf("last %d %u %d %d %u %u\n", status, last.id, last.code, last.signal, last.reason, last.intended);
    } else if (strcmp(word, "look") == 0) {
        status = prefork_server_info(server, &all);
        printf("look %d generation %u slots %u workers %u\n", status, all.generation, all.slots, all.workers);
    } else if (strcmp(word, "child") == 0)
        child();
    else if (strcmp(word, "copy") == 0)
        copy();
    else if (strcmp(word, "usurp") == 0)
        usurp();
    else if (strcmp(word, "ignore") == 0)
        printf("ignore %d\n", signal(SIGCHLD, SIG_IGN) == count);
    else if (strcmp(word, "signals") == 0)
        printf("signals %d %d\n", (int)terms, deaths > 0);
    else if (strcmp(word, "thread") == 0)
        printf("thread %d\n", pthread_create(&thread, NULL, sleep_on, NULL));
    else if (strcmp(word, "second") == 0) {
        prefork_server *other = prefork_server_new();
        prefork_server_on_request(other, answer, NULL);
        status = prefork_server_start(other);
        printf("second %d %s\n", status, prefork_server_error(other));
        prefork_server_free(other);
    } else if (strcmp(word, "left") == 0)
        printf("left %d descriptors %d maps\n", entries("/proc/self/fd"), lines("/proc/self/maps"));
    else if (strcmp(word, "start") == 0)
        begin_serving();
    else if (strcmp(word, "crash") == 0)
        *(volatile char *)NULL = 1;
    else if (strcmp(word, "role") == 0)
        printf("role %u\n", prefork_role(NULL, NULL, NULL));
    else if (strcmp(word, "free") == 0) {
        prefork_server_free(server);
        printf("free %d\n", waitpid(-1, &status, 0) < 0 && errno == ECHILD);
        server = NULL;
    } else
        printf("%s?\n", word);
}

int main(int argc, char **argv)
{
    struct sigaction action;
    struct epoll_event event = {.events = EPOLLIN, .data = {.fd = 0}};
    struct prefork_module module = prefork_module_init();
    char input[4096];
    size_t held = 0;
    int n, has_address = 0;

    memset(&action, 0, sizeof action);
    action.sa_handler = count;
    sigaction(SIGCHLD, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    action.sa_handler = crashed;
    sigaction(SIGSEGV, &action, NULL);
    setvbuf(stdout, NULL, _IOLBF, 0);
    loop = epoll_create1(EPOLL_CLOEXEC);
    epoll_ctl(loop, EPOLL_CTL_ADD, 0, &event);
    server = prefork_server_new();
    module.on_request = answer;
    module.worker_start = begin;
    module.on_message = heard;
    module.on_drain = draining;
    module.on_datagram = answer_datagram;
    prefork_server_module(server, &module, NULL);
    prefork_server_workers(server, 2);
    for (n = 1; n + 1 < argc; n += 2) {
        has_address |= strcmp(argv[n], "listen") == 0;
        if (prefork_server_set(server, argv[n], argv[n + 1]) != PREFORK_OK)
            printf("%s\n", prefork_server_error(server));
    }
    if (!has_address)
        prefork_server_listen(server, "127.0.0.1:0");
    prefork_server_on_start(server, started, NULL);
    prefork_server_on_event(server, happened, NULL);
    prefork_server_on_reload(server, may_reload, NULL);
    prefork_server_on_message(server, reported, NULL);
    begin_serving();
    for (;;) {
        struct epoll_event found[4];
        int i, status, n = epoll_wait(loop, found, 4, prefork_server_timeout(server));

        for (i = 0; i < n; i++) {
            ssize_t got = 0;
            char *end;

            if (found[i].data.fd != 0)
                continue;
            got = read(0, input + held, sizeof input - held - 1);
            if (got <= 0) {
                prefork_server_free(server);
                return EXIT_SUCCESS;
            }
            held += (size_t)got;
            input[held] = '\0';
            while ((end = strchr(input, '\n')) != NULL) {
                *end = '\0';
                obey(input);
                held -= (size_t)(end + 1 - input);
                memmove(input, end + 1, held + 1);
            }
        }
        if (prefork_server_fd(server) < 0)
            continue;
        status = prefork_server_step(server, 0);
        if (status <= 0)
            printf("ended %d killed %u fd %d cut %lu\n", status, prefork_server_killed(server),
                   prefork_server_fd(server), (unsigned long)prefork_server_cut(server));
    }
}
