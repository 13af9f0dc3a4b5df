/*
 * later: a module whose requests take CPU time, in the call itself or in a pool of threads.
 *
 *     /20      answers after 20 µs of work
 *
 * Compiled with -DPOOL=N the work is done by N threads of each worker: the response is kept (prefork_response_later), and the
 * thread wakes the worker (prefork_worker_wake), which ends it. Otherwise the call does the work and answers at once.
 */
#define _GNU_SOURCE
#include <prefork.h>
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>

struct job {
    prefork_response *res;
    unsigned micros;
    uint32_t result;
    struct job *next;
};

/* The same number of steps whoever does them: about one for each two nanoseconds. */
static uint32_t work(unsigned micros)
{
    uint32_t hash = 2166136261u;

    for (unsigned long i = 0; i < micros * 500ul; i++)
        hash = (hash ^ (uint32_t)i) * 16777619u;
    return hash;
}

static void finish(prefork_response *res, uint32_t result)
{
    volatile uint32_t used = result;

    (void)used;
    prefork_response_body_static(res, "hello world\n", 12);
}

static unsigned micros_of(const prefork_request *req)
{
    prefork_slice path = prefork_request_path(req);
    unsigned micros = 0;

    for (size_t i = 1; i < path.len && path.data[i] >= '0' && path.data[i] <= '9'; i++)
        micros = micros * 10 + (unsigned)(path.data[i] - '0');
    return micros;
}

#ifdef POOL

static prefork_worker *self;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t some = PTHREAD_COND_INITIALIZER;
static struct job *first, **last = &first;

/* In the worker's first thread. */
static void end(prefork_worker *worker, void *arg)
{
    struct job *job = arg;

    (void)worker;
    finish(job->res, job->result);
    prefork_response_end(job->res);
    free(job);
}

static void *serve(void *arg)
{
    (void)arg;
    for (;;) {
        struct job *job;

        pthread_mutex_lock(&lock);
        while (first == NULL)
            pthread_cond_wait(&some, &lock);
        job = first;
        first = job->next;
        if (first == NULL)
            last = &first;
        pthread_mutex_unlock(&lock);
        job->result = work(job->micros);
        if (prefork_worker_wake(self, end, job) != PREFORK_OK)
            free(job);
    }
    return NULL;
}

static int start(prefork_worker *worker, void **state)
{
    pthread_t thread;

    (void)state;
    self = worker;
    for (int i = 0; i < POOL; i++)
        if (pthread_create(&thread, NULL, serve, NULL) != 0)
            return 1;
    return 0;
}

static void on_request(prefork_request *req, prefork_response *res, void *state)
{
    struct job *job = malloc(sizeof *job);

    (void)state;
    if (job == NULL) {
        prefork_response_status(res, 503);
        return;
    }
    *job = (struct job){prefork_response_later(res), micros_of(req), 0, NULL};
    pthread_mutex_lock(&lock);
    *last = job;
    last = &job->next;
    pthread_cond_signal(&some);
    pthread_mutex_unlock(&lock);
}

PREFORK_MODULE(.worker_start = start, .on_request = on_request)

#else

static void on_request(prefork_request *req, prefork_response *res, void *state)
{
    (void)state;
    finish(res, work(micros_of(req)));
}

PREFORK_MODULE(.on_request = on_request)

#endif
