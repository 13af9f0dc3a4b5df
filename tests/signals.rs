//! The effect of each signal on each process, as in SIGNALS.md; none of them disturbs clients.
#![allow(clippy::unwrap_used)]

mod util;

use std::time::{Duration, Instant};
use util::{Server, Start, Style, comes_true, proc, wait_until};

/// Signals that change nothing in a worker.
const NOTHING_TO_WORKERS: [i32; 12] = [
    libc::SIGHUP,
    libc::SIGUSR2,
    libc::SIGTTIN,
    libc::SIGTTOU,
    libc::SIGUSR1,
    libc::SIGINT,
    libc::SIGQUIT,
    libc::SIGPIPE,
    libc::SIGXFSZ,
    libc::SIGCHLD,
    libc::SIGWINCH,
    libc::SIGURG,
];
/// Signals that change nothing in the master.
const NOTHING_TO_MASTER: [i32; 5] =
    [libc::SIGPIPE, libc::SIGCHLD, libc::SIGWINCH, libc::SIGURG, libc::SIGCONT];

/// Calls `f` once a millisecond for a time.
fn each_millisecond(time: Duration, mut f: impl FnMut(usize)) {
    let start = Instant::now();
    for n in 0.. {
        if start.elapsed() > time {
            return;
        }
        f(n);
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Under load, `disturb` affects no client and no worker.
fn undisturbed(style: Style, disturb: impl FnOnce(&Server, &[i32])) {
    let server = Start::new(style).start();
    let pids = server.workers();
    // Long enough in the handler for signals to arrive there too.
    let load = server.load(6, "sleep 2");
    load.go_on_for(6);
    disturb(&server, &pids);
    load.go_on_for(20);
    let tally = load.stop();
    assert!(tally.faults.is_empty(), "{style:?}: {tally:?}");
    assert_eq!(server.workers(), pids, "{style:?}");
    server.stop();
}

#[test]
fn signals_without_a_meaning_to_a_worker_do_nothing() {
    for style in Style::ALL {
        undisturbed(style, |_, pids| {
            each_millisecond(Duration::from_secs(1), |n| {
                let signal = NOTHING_TO_WORKERS[n % NOTHING_TO_WORKERS.len()];
                pids.iter().for_each(|&pid| proc::signal(pid, signal));
            });
        });
    }
}

#[test]
fn signals_without_a_meaning_to_the_master_do_nothing() {
    for style in Style::ALL {
        undisturbed(style, |server, _| {
            each_millisecond(Duration::from_millis(500), |n| {
                server.signal(NOTHING_TO_MASTER[n % NOTHING_TO_MASTER.len()]);
            });
        });
    }
}

#[test]
fn an_interrupted_system_call_is_repeated() {
    // After SIGSTOP and SIGCONT, epoll_wait(2) and reads with a timeout are interrupted (signal(7)).
    for style in Style::ALL {
        undisturbed(style, |server, pids| {
            each_millisecond(Duration::from_secs(1), |n| {
                let pid = [server.pid, pids[0], pids[1]][n % 3];
                proc::signal(pid, libc::SIGSTOP);
                proc::signal(pid, libc::SIGCONT);
            });
        });
    }
}

#[test]
fn a_slow_client_is_served_during_a_storm_of_signals() {
    for style in Style::ALL {
        let server = Start::new(style).workers(1).start();
        let pid = server.workers()[0];
        let mut client = server.connect();
        let bytes: &[u8] = match style {
            Style::Request => b"GET /repeat/x HTTP/1.1\r\nHost: t\r\n\r\n",
            Style::Connection | Style::Data | Style::Datagram => b"repeat x\n",
        };
        for byte in bytes {
            client.send(&[*byte]).unwrap();
            each_millisecond(Duration::from_millis(10), |_| proc::signal(pid, libc::SIGHUP));
        }
        assert!(client.answer().unwrap().starts_with("xxx"), "{style:?}");
        drop(client);
        server.stop();
    }
}

#[test]
fn a_worker_that_gets_sigterm_exits_with_code_0_and_has_a_successor() {
    for style in Style::ALL {
        let server = Start::new(style).start();
        for slot in [0, 1] {
            let pid = server.worker_in(slot);
            proc::signal(pid, libc::SIGTERM);
            server.replaces(pid);
        }
        // Anything but code 0 would be in the log, and unexpected.
        server.stop();
    }
}

#[test]
fn a_worker_that_gets_sigterm_finishes_its_request_first() {
    for style in Style::ALL {
        let server = Start::new(style).start();
        let mut client = server.connect();
        let pid: i32 = client.ask("pid").unwrap().parse().unwrap();
        client.send_command("gate g").unwrap();
        wait_until("the handler runs", || server.dir.at_gate("g") == 1);
        proc::signal(pid, libc::SIGTERM);
        assert!((0..4).all(|_| server.ask("pid").is_ok()), "{style:?}: others are served");
        server.dir.make("g");
        assert_eq!(client.answer(), Ok("gate".into()), "{style:?}");
        drop(client);
        server.replaces(pid);
        server.stop();
    }
}

#[test]
fn a_worker_that_dies_of_a_signal_is_reported_by_its_name() {
    for (signal, name) in [
        (libc::SIGKILL, "SIGKILL"),
        (libc::SIGABRT, "SIGABRT"),
        (libc::SIGSEGV, "SIGSEGV"),
        (libc::SIGBUS, "SIGBUS"),
        (libc::SIGFPE, "SIGFPE"),
        (libc::SIGILL, "SIGILL"),
        (libc::SIGSYS, "SIGSYS"),
        (libc::SIGALRM, "SIGALRM"),
    ] {
        let mut server = Start::new(Style::Request).start();
        server.says(&format!("died: {name}"));
        let pid = server.worker_in(0);
        proc::signal(pid, signal);
        server.replaces(pid);
        server.stop();
    }
}

#[test]
fn a_stopped_master_delays_new_clients_but_not_connected_ones() {
    let server = Start::new(Style::Request).start();
    let mut client = server.connect();
    client.ask("pid").unwrap();
    proc::freeze(server.pid);
    assert!((0..10).all(|_| client.ask("pid").is_ok()));
    let mut waiting = server.connect();
    waiting.send_command("pid").unwrap();
    waiting.patience(Duration::from_millis(200));
    assert!(waiting.answer().is_err());
    proc::signal(server.pid, libc::SIGCONT);
    waiting.patience(util::PATIENCE);
    assert!(waiting.answer().is_ok());
    drop((client, waiting));
    server.stop();
}

#[test]
fn sigusr1_ends_no_process_and_logs_that_there_are_no_log_files() {
    const LINE: &str = "prefork: SIGUSR1: there are no log files to reopen; nothing done";
    let mut server = Start::new(Style::Request).start();
    server.says(LINE);
    let pids = server.workers();
    let mut client = server.connect();
    let pid = client.ask("pid");
    for n in 1..=3 {
        // To the whole group, as `kill -USR1 -PGID` does.
        proc::signal(-server.pid, libc::SIGUSR1);
        wait_until("the master says so", || server.lines_with(LINE) == n);
    }
    assert_eq!(client.ask("pid"), pid);
    assert_eq!(server.workers(), pids);
    drop(client);
    server.stop();
}

#[test]
fn a_terminal_that_hangs_up_reloads_once() {
    let mut server = Start::new(Style::Request).start();
    server.may_say(util::RELOAD);
    // To the whole group: only the master's counts.
    proc::signal(-server.pid, libc::SIGHUP);
    server.wait_for_line("is complete");
    assert!(!comes_true(Duration::from_millis(200), || server.lines_with("begins") > 1));
    server.stop();
}

/// SIGNALS.md: the signal does not make such workers drain; the master asks them through their channel.
#[test]
fn a_worker_whose_handler_handles_sigterm_itself_still_drains() {
    let code = "#include <prefork.h>\n#include <signal.h>\n#include <string.h>\n\
        static int start(prefork_worker *w, void **s) { (void)w; (void)s; signal(SIGTERM, SIG_IGN); return 0; }\n\
        static void on_request(prefork_request *q, prefork_response *r, void *s)\n\
        { (void)q; (void)s; prefork_response_body(r, \"here\", 4); }\n\
        PREFORK_MODULE(.worker_start = start, .on_request = on_request)\n";
    let mut server = Start::new(Style::Request).module(util::handler::compile(code, &[])).start();
    let pids = server.workers();
    pids.iter().for_each(|&pid| proc::signal(pid, libc::SIGTERM));
    let mut client = server.connect();
    assert_eq!(client.ask("x"), Ok("here".into()));
    assert_eq!(server.workers(), pids);
    server.reload();
    wait_until("all are new", || server.workers().iter().all(|pid| !pids.contains(pid)));
    assert_eq!(client.ask("x"), Ok("here".into()), "its connection has moved");
    drop(client);
    server.stop();
}
