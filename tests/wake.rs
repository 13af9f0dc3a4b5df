//! Threads of a handler that have functions run in their worker's first thread.
#![allow(clippy::unwrap_used)]

mod util;

use std::fs;
use util::handler::compile;
use util::host::example;
use util::wakeups::{ask, sleeps, start};
use util::{Start, Style, proc, wait_until};

#[test]
fn functions_of_threads_run_in_the_order_in_which_each_gave_them() {
    for style in Style::ALL {
        let server = start(style, 1).start();
        // From before there was a loop.
        wait_until("those of worker_start", || ask(&server, "woken") == "100 0");
        ask(&server, "threads 8 5000");
        wait_until("all of them", || ask(&server, "woken") == "40100 0");
        server.stop();
    }
}

#[test]
fn functions_without_end_delay_no_connection() {
    for style in Style::ALL {
        let server = start(style, 1).start();
        ask(&server, "endless");
        wait_until("it runs", || ask(&server, "trace") == "e");
        ask(&server, "wakes");
        let tally = server.ask_at_once(50, "early");
        assert_eq!(tally.answers["0"], 50, "{tally:?}");
        server.stop();
    }
}

#[test]
fn a_worker_that_nobody_wakes_sleeps() {
    let server = start(Style::Request, 1).start();
    ask(&server, "threads 4 1000");
    wait_until("all of them", || ask(&server, "woken") == "4100 0");
    sleeps(&server);
    server.stop();
}

#[test]
fn threads_that_wake_a_worker_that_leaves_are_refused() {
    for style in Style::ALL {
        for round in 0..5 {
            let mut server = start(style, 2).start();
            for _ in 0..4 {
                ask(&server, "wakes");
            }
            // All ways in which workers end.
            match round {
                0 => server.reload(),
                1 => {
                    let worker = server.worker_in(1);
                    server.may_say("exited");
                    proc::signal(worker, libc::SIGTERM);
                    server.replaces(worker);
                }
                2 => {
                    let worker = server.worker_in(1);
                    server.says("died: SIGKILL");
                    proc::signal(worker, libc::SIGKILL);
                    server.replaces(worker);
                }
                _ => {}
            }
            let log = server.dir.path().join("log");
            let dir = std::sync::Arc::clone(&server.dir);
            server.stop();
            let log = fs::read_to_string(&log).unwrap();
            let ended: Vec<_> = log.lines().filter(|line| line.starts_with("-13")).collect();
            assert!(!ended.is_empty() && ended.iter().all(|line| *line == "-13 all"), "{log}");
            drop(dir);
        }
    }
}

#[test]
fn a_process_that_a_handler_has_forked_wakes_nobody() {
    let server = start(Style::Request, 1).start();
    ask(&server, "wakes");
    for _ in 0..20 {
        assert_eq!(ask(&server, "fork"), "-4");
    }
    server.stop();
}

#[test]
fn wakers_in_rust() {
    let start = Start::new(Style::Request).workers(1);
    start.dir().file("log");
    let words = [example("wakeups").into_os_string(), "request".into(), start.dir().path().into()];
    let mut server = start.program(words).start();
    assert_eq!(ask(&server, "wake good"), "(Ok(()), Ok(()))");
    wait_until("the function", || ask(&server, "told") == "Ok(\"good\")");
    for text in ["panicked at tests/hosts/wakeups.rs", "assertion", "left:", "right:", "note: run with"] {
        server.may_say(text);
    }
    server.says("worker 1: wake: panicked");
    ask(&server, "wake bad");
    wait_until("the function", || ask(&server, "told") == "Ok(\"bad\")");
    server.wait_for_line("worker 1: wake: panicked");
    assert_eq!(ask(&server, "trace"), "");
    server.stop();
}

/// "hash WORD" is answered with the hash of crypt(3), which a pool of threads makes; other commands with the number of hashes that
/// have been answered.
const POOL: &str = r#"
    #define _GNU_SOURCE
    #include <crypt.h>
    #include <prefork.h>
    #include <pthread.h>
    #include <stdio.h>
    #include <stdlib.h>
    #include <string.h>

    enum { THREADS = 4 };

    struct job {
        struct job *next;
        uint64_t client;
        prefork_response *res;
        char word[32], hash[200];
    };

    static prefork_worker *self;
    static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    static pthread_cond_t more = PTHREAD_COND_INITIALIZER;
    static struct job *first, **last = &first;
    static int answered, is_over;
    static pthread_t threads[THREADS];

    /* In the first thread. */
    static void answer(prefork_worker *worker, void *arg)
    {
        struct job *job = arg;
        prefork_conn *conn = prefork_conn_find(worker, job->client);

        answered++;
        if (job->res) {
            prefork_response_body(job->res, job->hash, strcspn(job->hash, "\n"));
            prefork_response_end(job->res);
        } else if (conn) {
            prefork_conn_write(conn, job->hash, strlen(job->hash));
        }
        free(job);
    }

    static void *work(void *arg)
    {
        (void)arg;
        for (;;) {
            struct crypt_data data = {0};
            struct job *job;

            pthread_mutex_lock(&lock);
            while (!first && !is_over)
                pthread_cond_wait(&more, &lock);
            job = first;
            if (job && !(first = job->next))
                last = &first;
            pthread_mutex_unlock(&lock);
            if (!job)
                return NULL;
            snprintf(job->hash, sizeof job->hash, "%s\n", crypt_r(job->word, "$6$rounds=1000$salt", &data));
            if (prefork_worker_wake(self, answer, job) != PREFORK_OK)
                free(job);
        }
    }

    static int worker_start(prefork_worker *worker, void **state)
    {
        int i;

        (void)state;
        self = worker;
        for (i = 0; i < THREADS; i++) {
            if (pthread_create(&threads[i], NULL, work, NULL) != 0)
                return 1;
        }
        return 0;
    }

    static void worker_stop(prefork_worker *worker, void *state)
    {
        int i;

        (void)worker, (void)state;
        pthread_mutex_lock(&lock);
        is_over = 1;
        pthread_cond_broadcast(&more);
        pthread_mutex_unlock(&lock);
        for (i = 0; i < THREADS; i++)
            pthread_join(threads[i], NULL);
    }

    static void give(uint64_t client, prefork_response *res, const char *word, size_t len)
    {
        struct job *job = calloc(1, sizeof *job);

        job->client = client;
        job->res = res;
        snprintf(job->word, sizeof job->word, "%.*s", (int)len, word);
        pthread_mutex_lock(&lock);
        *last = job;
        last = &job->next;
        pthread_cond_signal(&more);
        pthread_mutex_unlock(&lock);
    }

    static void on_request(prefork_request *req, prefork_response *res, void *state)
    {
        prefork_slice path = prefork_request_path(req);
        char text[32];

        (void)state;
        if (path.len > 6 && memcmp(path.data, "/hash/", 6) == 0)
            give(0, prefork_response_later(res), (const char *)path.data + 6, path.len - 6);
        else
            prefork_response_body(res, text, (size_t)snprintf(text, sizeof text, "%d", answered));
    }

    static void on_data(prefork_conn *conn, void *state)
    {
        char line[64];
        ptrdiff_t n = prefork_conn_read(conn, line, sizeof line - 1);

        (void)state;
        if (n == PREFORK_AGAIN)
            return;
        if (n <= 0) {
            prefork_conn_close(conn);
            return;
        }
        line[n] = 0;
        if (strncmp(line, "hash ", 5) == 0) {
            give(prefork_conn_id(conn), NULL, line + 5, strcspn(line + 5, "\n"));
        } else {
            int len = snprintf(line, sizeof line, "%d\n", answered);
            prefork_conn_write(conn, line, (size_t)len);
        }
    }

    PREFORK_MODULE(.worker_start = worker_start, .worker_stop = worker_stop, CALLBACK)
"#;

/// Over streams; then as responses that are finished later.
#[test]
fn a_pool_of_threads_hashes_a_thousand_passwords_while_others_are_served() {
    hash_passwords(Style::Data, "-DCALLBACK=.on_data=on_data");
    hash_passwords(Style::Request, "-DCALLBACK=.on_request=on_request");
}

fn hash_passwords(style: Style, callback: &str) {
    const CLIENTS: usize = 20;
    const EACH: usize = 50;
    let flags = ["-pthread", "-Wl,--no-as-needed,-lcrypt", "-Wno-unused-function", callback];
    let server = Start::new(style).workers(1).module(compile(POOL, &flags)).start();
    let expected = ask(&server, "hash word0");
    assert!(expected.starts_with("$6$rounds=1000$salt$"), "{expected}");
    let address = server.address().clone();
    let clients: Vec<_> = (0..CLIENTS)
        .map(|n| {
            let address = address.clone();
            std::thread::spawn(move || {
                let mut client = util::Client::connect(&address, style).unwrap();
                client.patience(util::PATIENCE);
                let hashes: Vec<_> =
                    (0..EACH).map(|_| client.ask(&format!("hash word{n}")).unwrap()).collect();
                assert!(hashes.iter().all(|hash| *hash == hashes[0]), "{hashes:?}");
                hashes[0].clone()
            })
        })
        .collect();
    // One after the other; each would wait for a hash at least, if it had to wait for any.
    let mut other = server.connect();
    wait_until("the first hashes", || other.ask("count").unwrap().parse::<usize>().unwrap() > CLIENTS);
    let mut counts = Vec::new();
    for _ in 0..100 {
        counts.push(other.ask("count").unwrap().parse::<usize>().unwrap());
    }
    let hashes: std::collections::BTreeSet<_> = clients.into_iter().map(|c| c.join().unwrap()).collect();
    assert_eq!(hashes.len(), CLIENTS);
    assert!(hashes.contains(&expected));
    assert_eq!(other.ask("count").unwrap(), (CLIENTS * EACH + 1).to_string());
    assert!(counts[99] < CLIENTS * EACH, "all were answered first: {counts:?}");
    let unmoved = counts.windows(2).filter(|pair| pair[0] == pair[1]).count();
    assert!(unmoved > 50, "others waited for hashes: {counts:?}");
    drop(other);
    server.stop();
}
