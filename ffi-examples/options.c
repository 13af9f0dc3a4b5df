/* Arguments of a handler, read by getopt_long(3) as those of a program are.
 *
 *     cc -shared -fPIC -O2 options.c -o options.so && prefork ./options.so --greeting "good day" --times 3
 *     curl http://127.0.0.1:8080/Ada
 *
 * What is behind the handler belongs to the handler; options of prefork stand in front of it.
 */
#include <getopt.h>
#include <prefork.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define EX_CONFIG 78 /* sysexits.h */

static const char *greeting = "hello";
static long times = 1;

/* Wrong arguments are wrong for every worker: this exit code says that to start another one is of no use. */
static void refuse(const char *why)
{
    fprintf(stderr, "options.so: %s; usage: options.so [-g|--greeting TEXT] [-t|--times N]\n", why);
    _exit(EX_CONFIG);
}

static int start(prefork_worker *worker, void **state)
{
    static const struct option known[] = {
        {"greeting", required_argument, NULL, 'g'},
        {"times", required_argument, NULL, 't'},
        {NULL, 0, NULL, 0},
    };
    int argc = (int)prefork_worker_arg_count(worker) + 1, option;
    char **argv = calloc((size_t)argc + 1, sizeof *argv), *end;

    (void)state;
    if (!argv)
        return 1;
    argv[0] = "options.so";
    for (int i = 1; i < argc; i++)
        argv[i] = (char *)prefork_worker_arg(worker, (size_t)i - 1); /* getopt moves the pointers and leaves the text */
    while ((option = getopt_long(argc, argv, "g:t:", known, NULL)) != -1) {
        switch (option) {
        case 'g':
            greeting = optarg; /* lives as long as the worker */
            break;
        case 't':
            times = strtol(optarg, &end, 10);
            if (*end || times < 1 || times > 100)
                refuse("--times: expected a number from 1 to 100");
            break;
        default: /* getopt has said what it is */
            refuse("no such option");
        }
    }
    if (optind < argc)
        refuse("expected options only");
    free(argv);
    return 0;
}

static void answer(prefork_request *req, prefork_response *res, void *state)
{
    prefork_slice path = prefork_request_path(req);
    char line[256];

    (void)state;
    for (long i = 0; i < times; i++) {
        int len = snprintf(line, sizeof line, "%s %.*s\n", greeting, (int)(path.len - 1), path.data + 1);

        prefork_response_write(res, line, len < (int)sizeof line ? (size_t)len : sizeof line - 1);
    }
}

PREFORK_MODULE(.worker_start = start, .on_request = answer)
