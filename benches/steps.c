/*
 * steps: counts the instructions that running processes execute in user space, one single step at a time.
 *
 *     ./steps PID...      prints "counting" and counts until SIGTERM; at each SIGUSR1 prints the counts so far in one line
 *
 * Slow, and exact on any machine: it needs no hardware counter, which virtual machines often lack, and works with
 * any system call, unlike valgrind. Only a process's first thread is counted. A repeated string instruction counts
 * once for every repetition.
 *
 * C99 with POSIX and Linux.
 */
#define _GNU_SOURCE
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

enum { MAX_PIDS = 64 };

static volatile sig_atomic_t ended;
static unsigned long counts[MAX_PIDS];
static int n;

static void end(int signal)
{
    (void)signal;
    ended = 1;
    alarm(1); /* once more, if the loop was about to wait */
}

/* Not left to the loop, which may be about to wait. Nothing else prints meanwhile. */
static void print_counts(int signal)
{
    (void)signal;
    for (int i = 0; i < n; i++)
        dprintf(STDOUT_FILENO, "%lu%c", counts[i], i + 1 < n ? ' ' : '\n');
}

static void check(long result, const char *what)
{
    if (result < 0) {
        perror(what);
        exit(1);
    }
}

/* The SIGTRAP of the last step may still be pending, and would kill the process: one more step ends with it, or makes one. */
static void let_go(pid_t pid)
{
    int status;

    ptrace(PTRACE_INTERRUPT, pid, NULL, NULL);
    while (waitpid(pid, &status, __WALL) == pid && WIFSTOPPED(status) && status >> 8 != SIGTRAP)
        ptrace(PTRACE_SINGLESTEP, pid, NULL, NULL);
    ptrace(PTRACE_DETACH, pid, NULL, NULL);
}

int main(int argc, char **argv)
{
    struct sigaction on_term = { .sa_handler = end }; /* without SA_RESTART: it interrupts waitpid */
    struct sigaction on_usr1 = { .sa_handler = print_counts };
    pid_t pids[MAX_PIDS];
    cpu_set_t one = { { 0 } };
    int status;

    n = argc - 1 < MAX_PIDS ? argc - 1 : MAX_PIDS;
    CPU_SET(sched_getcpu(), &one);
    sched_setaffinity(0, sizeof one, &one);
    sigaction(SIGTERM, &on_term, NULL);
    sigaction(SIGALRM, &on_term, NULL);
    sigaction(SIGUSR1, &on_usr1, NULL);
    for (int i = 0; i < n; i++) {
        pids[i] = (pid_t)atoi(argv[i + 1]);
        sched_setaffinity(pids[i], sizeof one, &one); /* a step switches here and back: cheaper on one CPU */
        check(ptrace(PTRACE_SEIZE, pids[i], NULL, NULL), "PTRACE_SEIZE");
        check(ptrace(PTRACE_INTERRUPT, pids[i], NULL, NULL), "PTRACE_INTERRUPT");
    }
    puts("counting");
    fflush(stdout);
    while (!ended) {
        pid_t pid = waitpid(-1, &status, __WALL);
        long forwarded = 0;

        if (pid < 0)
            continue; /* a signal */
        if (!WIFSTOPPED(status)) {
            fprintf(stderr, "%d has ended\n", (int)pid);
            return 1;
        }
        if (status >> 8 == SIGTRAP) {
            for (int i = 0; i < n; i++)
                counts[i] += pids[i] == pid;
        } else if (status >> 16 == 0) {
            forwarded = WSTOPSIG(status);
        }
        check(ptrace(PTRACE_SINGLESTEP, pid, NULL, forwarded), "PTRACE_SINGLESTEP");
    }
    alarm(0);
    for (int i = 0; i < n; i++)
        let_go(pids[i]);
    return 0;
}
