/* A handler whose functions debuggers, profilers and sanitizers are to name. The path says which one runs. */
#define _POSIX_C_SOURCE 200809L
#include <prefork.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#ifdef HELPER
int helper(void);
#else
#define helper() 0
#endif

/* Until a debugger says otherwise, or ten seconds are over. */
__attribute__((noinline)) static void planted_wait(void)
{
    time_t end = time(NULL) + 10;

    while (time(NULL) < end) {
        struct timespec pause = {0, 10 * 1000000};

        nanosleep(&pause, NULL);
    }
}

/* A few seconds of work. */
__attribute__((noinline)) static unsigned planted_work(void)
{
    volatile unsigned sum = 0;
    time_t end = time(NULL) + 5;
    unsigned i;

    while (time(NULL) < end)
        for (i = 0; i < 1000 * 1000; i++)
            sum += i;
    return sum;
}

__attribute__((noinline)) static int planted_use_after_free(void)
{
    volatile char *p = malloc(16);

    free((void *)p);
    return p[1];
}

static void on_request(prefork_request *req, prefork_response *res, void *state)
{
    prefork_slice path = prefork_request_path(req);
    char answer[64];
    unsigned n = 0;

    (void)state;
    if (path.len == 5 && memcmp(path.data, "/wait", 5) == 0)
        planted_wait();
    else if (path.len == 5 && memcmp(path.data, "/work", 5) == 0)
        n = planted_work();
    else if (path.len == 6 && memcmp(path.data, "/freed", 6) == 0)
        n = (unsigned)planted_use_after_free();
    else if (path.len == 7 && memcmp(path.data, "/helper", 7) == 0)
        n = (unsigned)helper();
    snprintf(answer, sizeof answer, "%u", n);
    prefork_response_body(res, answer, strlen(answer));
}

PREFORK_MODULE(.on_request = on_request)
