/* ffi-examples/hello.c in a worker whose loop waits for much else: 10,000 repeated timers, of which the first comes in 50 s, and 1,000
 * descriptors, of which none becomes readable.
 */
#include <prefork.h>
#include <stdlib.h>
#include <sys/eventfd.h>

enum { TIMERS = 10000, DESCRIPTORS = 1000 };

static void fire(prefork_worker *worker, void *arg)
{
    (void)worker, (void)arg;
}

static void ready(prefork_worker *worker, int fd, int events, void *arg)
{
    (void)worker, (void)fd, (void)events, (void)arg;
    abort();
}

static int start(prefork_worker *worker, void **state)
{
    int i, fd;

    (void)state;
    for (i = 0; i < TIMERS; i++) {
        if (prefork_timer_start(worker, 50000 + (uint64_t)i * 7919 % TIMERS * 10, TIMERS * 10, fire, NULL) == 0)
            return 1;
    }
    for (i = 0; i < DESCRIPTORS; i++) {
        fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
        if (fd < 0 || prefork_watch(worker, fd, PREFORK_READ, ready, NULL) != PREFORK_OK)
            return 1;
    }
    return 0;
}

static void hello(prefork_request *req, prefork_response *res, void *state)
{
    (void)req;
    (void)state;
    prefork_response_body(res, "hello world\n", 12);
}

PREFORK_MODULE(.worker_start = start, .on_request = hello)
