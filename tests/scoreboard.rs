//! A worker that writes garbage to all shared memory harms at most itself.
#![allow(clippy::unwrap_used)]

mod util;

use std::time::Duration;
use util::{Mode, Server, Start, Style, comes_true, handler, proc, wait_until};

/// The worker in slot 0 keeps writing to every page of the scoreboard that it can write, from a thread of its own.
const SCRIBBLER: &str = r#"
    #define _GNU_SOURCE
    #include <prefork.h>
    #include <pthread.h>
    #include <stdio.h>
    #include <stdlib.h>
    #include <string.h>
    #include <unistd.h>

    static volatile unsigned long *pages[8], words[8];
    static int n;

    static void *scribble(void *unused)
    {
        static const unsigned long patterns[] = {0, ~0ul, 1, 2, 1ul << 63, 0x0101010101010101};

        (void)unused;
        for (unsigned long turn = 0;; turn++) {
            for (int i = 0; i < n; i++)
                for (unsigned long w = 0; w < words[i]; w++)
                    pages[i][w] = turn % 7 == 6 ? turn * 0x9e3779b97f4a7c15 + w : patterns[turn % 7];
            usleep(200);
        }
        return NULL;
    }

    static int start(prefork_worker *worker, void **state)
    {
        unsigned long from, to;
        char line[512], flags[8];
        pthread_t thread;
        FILE *maps = fopen("/proc/self/maps", "r");

        (void)state;
        while (prefork_worker_slot(worker) == 0 && fgets(line, sizeof line, maps))
            if (strstr(line, "prefork-scoreboard") && sscanf(line, "%lx-%lx %7s", &from, &to, flags) == 3 && flags[1] == 'w') {
                pages[n] = (volatile unsigned long *)from;
                words[n++] = (to - from) / sizeof **pages;
            }
        fclose(maps);
        if (prefork_worker_slot(worker) != 0)
            return 0;
        return n == 0 || pthread_create(&thread, NULL, scribble, NULL);
    }

    static void on_request(prefork_request *req, prefork_response *res, void *state)
    {
        char text[32];

        (void)req, (void)state;
        usleep(500);
        prefork_response_body(res, text, (size_t)snprintf(text, sizeof text, "%d", (int)getpid()));
    }

    static void on_connection(prefork_conn *conn, void *state)
    {
        char in[64], text[32];

        (void)state;
        if (prefork_conn_read(conn, in, sizeof in) <= 0)
            return;
        usleep(500);
        prefork_conn_write(conn, text, (size_t)snprintf(text, sizeof text, "%d\n", (int)getpid()));
    }

    #ifdef BLOCKING
    PREFORK_MODULE(.worker_start = start, .on_connection = on_connection)
    #else
    PREFORK_MODULE(.worker_start = start, .on_request = on_request)
    #endif
"#;

fn scribbled(style: Style, dispatch: &str, mode: Mode) -> Server {
    let blocking: &[&str] =
        if style == Style::Connection { &["-pthread", "-DBLOCKING"] } else { &["-pthread"] };
    let start = Start::new(style).module(handler::compile(SCRIBBLER, blocking)).workers(3);
    start.set("dispatch", dispatch).set("max-conns", "4").accept(mode).start()
}

#[test]
fn garbage_on_the_scoreboard_harms_at_most_the_worker_that_writes_it() {
    for (style, dispatch, mode) in [
        (Style::Request, "round-robin", Mode::Master),
        (Style::Request, "least-connections", Mode::Master),
        (Style::Connection, "round-robin", Mode::Master),
        (Style::Request, "round-robin", Mode::Shared),
        (Style::Connection, "round-robin", Mode::ReusePort),
    ] {
        let mut server = scribbled(style, dispatch, mode);
        let (culprit, others) = (server.worker_in(0), [server.worker_in(1), server.worker_in(2)]);
        let tally = server.ask_at_once(60, "pid");
        // Connections that the worker's own counts delay go to others once it is seen to take none.
        assert_eq!(tally.answered(), 60, "{style:?} {dispatch} {mode:?}: {tally:?}");
        let load = server.load(16, "pid");
        load.go_on_for(600);
        let tally = load.stop();
        assert!(tally.faults.is_empty(), "{style:?} {dispatch} {mode:?}: {tally:?}");
        for pid in others {
            assert!(tally.answers.contains_key(&pid.to_string()), "{style:?} {dispatch} {mode:?}: {tally:?}");
        }
        server.reload();
        proc::signal(server.worker_in(0), libc::SIGKILL);
        assert!(comes_true(Duration::from_secs(5), || server.has_replaced(culprit)));
        wait_until("all serve", || server.workers().len() == 3);
        server.may_say("died: SIGKILL");
        server.may_say("lost");
        server.stop();
    }
}
