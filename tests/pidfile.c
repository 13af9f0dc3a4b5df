/* A host in C with a file of its process id, which it removes after the run; for the tests.
 *
 *     pidfile run|start DIR ADDRESS
 *
 * Files in DIR say what goes wrong from its next start on: `guarded`, `threads`, `missing`, `wrong`, `none`. With `leaves` it leaves
 * its working directory first, as daemons do.
 */
#define _POSIX_C_SOURCE 200809L
#include <prefork.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char *dir;

static const char *in_dir(const char *name)
{
    static char path[4096];

    snprintf(path, sizeof path, "%s/%s", dir, name);
    return path;
}

static int has(const char *name)
{
    return access(in_dir(name), F_OK) == 0;
}

static void on_request(prefork_request *req, prefork_response *res, void *state)
{
    (void)req;
    (void)state;
    prefork_response_body(res, "hello\n", 6);
}

static void on_start(const prefork_started *started, void *state)
{
    (void)state;
    printf("listening on http://%s\n", started->addresses[0]);
    fflush(stdout);
}

static void *wait_for_ever(void *arg)
{
    for (;;)
        pause();
    return arg;
}

int main(int argc, char **argv)
{
    prefork_server *server = prefork_server_new();
    pthread_t thread;
    FILE *file;
    int status;

    if (argc != 4)
        return 2;
    dir = argv[2];
    if (has("leaves") && chdir("/") < 0)
        return 2;
    if (getenv("PREFORK_UPGRADE") == NULL) {
        file = fopen(in_dir("pid"), "w");
        fprintf(file, "%d", (int)getpid());
        fclose(file);
    } else if (has("guarded")) {
        return 0;
    }
    if (has("threads"))
        pthread_create(&thread, NULL, wait_for_ever, NULL);
    if (!has("none"))
        prefork_server_on_request(server, on_request, NULL);
    if (has("missing"))
        prefork_server_module_file(server, "/nowhere.so");
    prefork_server_listen(server, argv[3]);
    prefork_server_workers(server, 2);
    /* Refused by the check of all settings together. */
    if (has("wrong")) {
        prefork_server_set(server, "dispatch", "source-hash");
        prefork_server_set(server, "rebalance", "on");
    }
    prefork_server_on_start(server, on_start, NULL);
    if (strcmp(argv[1], "run") == 0) {
        status = prefork_server_run(server);
    } else {
        prefork_server_set(server, "signals", "on");
        status = prefork_server_start(server);
        while (status >= 0 && prefork_server_fd(server) >= 0)
            status = prefork_server_step(server, -1);
    }
    unlink(in_dir("pid"));
    if (status >= 0)
        printf("after\n");
    else
        printf("refused: %s\n", prefork_server_error(server));
    prefork_server_free(server);
    return 0;
}
