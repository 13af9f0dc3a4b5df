//! A handler that crashes costs its worker's connections in progress and nothing else.
#![allow(clippy::unwrap_used)]

mod util;

use std::time::{Duration, Instant};
use util::{Start, Style, comes_true, proc, wait_until};

const WAYS_TO_DIE: [(&str, &str); 5] = [
    ("null", "SIGSEGV"),
    ("segv", "SIGSEGV"),
    ("abort", "SIGABRT"),
    ("overflow", "SIGSEGV"),
    ("exit", "exit code 0"),
];

#[test]
fn a_crash_loses_only_the_connections_of_its_worker() {
    for style in Style::ALL {
        let mut server = Start::new(style).start();
        let mut other = server.connect();
        let safe = other.ask("slot").unwrap();
        for (command, cause) in WAYS_TO_DIE {
            server.says(&format!("died: {cause}"));
            // Not in the worker of the other client; a blocking worker that has one gets no second.
            let mut client = server.connect();
            while client.ask("slot").as_ref() == Ok(&safe) {
                client = server.connect();
            }
            assert!(client.ask(command).is_err(), "{style:?}: {command}");
            assert_eq!(other.ask("slot").as_ref(), Ok(&safe), "{style:?}: {command}");
            let back = || server.ask("slot").is_ok_and(|slot| slot != safe);
            wait_until("the slot serves again", back);
        }
        drop(other);
        server.stop();
    }
}

#[test]
fn a_panic_is_answered_with_500_and_the_worker_survives() {
    let demo = [env!("CARGO_BIN_EXE_prefork"), "demo", "--workers", "2", "--listen", "127.0.0.1:0"];
    let mut server = Start::new(Style::Request).program(demo).start();
    server.says("panicked at");
    server.says("on_request: GET /panic from ");
    server.says("demo: asked to panic");
    server.may_say("note: run with `RUST_BACKTRACE");
    let pids = server.workers();
    for _ in 0..4 {
        let mut client = server.connect();
        client.send_command("panic").unwrap();
        assert_eq!(client.http_answer().unwrap().status, 500);
        assert_eq!(server.ask("hello"), Ok("hello world\n".into()));
    }
    assert_eq!(server.workers(), pids);
    server.stop();
}

#[test]
fn a_worker_that_cannot_start_is_retried_at_growing_intervals_while_the_others_serve() {
    for (file, cause) in [("refuse", "worker_start"), ("die", "SIGABRT")] {
        let mut server = Start::new(Style::Request).start();
        server.says("died: SIGKILL");
        server.says("died before it was ready");
        server.says(cause);
        server.dir.make(file);
        proc::signal(server.worker_in(0), libc::SIGKILL);
        server.wait_for_line("before it was ready");
        let (before, start) = (proc::cpu(server.pid), Instant::now());
        while start.elapsed() < Duration::from_secs(3) {
            assert_eq!(server.ask("slot"), Ok("1".into()));
            std::thread::sleep(Duration::from_millis(20));
        }
        let used = proc::cpu(server.pid) - before;
        let deaths = server.stderr().iter().filter(|l| l.contains("before it was ready")).count();
        assert!((2..=10).contains(&deaths), "{file}: {deaths} deaths in three seconds");
        assert!(used < Duration::from_millis(150), "{file}: the master took {used:?} in three seconds");
        // The cause is gone: the next try succeeds.
        server.dir.remove(file);
        server.stop();
    }
}

#[test]
fn a_fork_that_fails_is_retried_while_the_others_serve() {
    let mut server = Start::new(Style::Request).by_ordinary_user().start();
    server.says("died: SIGKILL");
    server.says("start worker in slot 0: ");
    let victim = server.worker_in(0);
    proc::limit(server.pid, "nproc", 1);
    proc::signal(victim, libc::SIGKILL);
    server.wait_for_line("start worker in slot 0: ");
    for _ in 0..20 {
        assert_eq!(server.ask("slot"), Ok("1".into()));
    }
    proc::limit(server.pid, "nproc", 1000);
    server.stop();
}

#[test]
fn requests_that_crash_do_not_starve_the_others() {
    let mut server = Start::new(Style::Connection).workers(3).start();
    server.says("died: SIGSEGV");
    let load = server.load(2, "sleep 1");
    const POISON: usize = 12;
    for _ in 0..POISON {
        load.go_on_for(20);
        assert!(server.ask("segv").is_err());
    }
    load.go_on_for(20);
    let tally = load.stop();
    assert_eq!(tally.failed(), 0, "{tally:?}");
    let deaths = server.stderr().iter().filter(|l| l.contains("died: SIGSEGV")).count();
    assert_eq!(deaths, POISON);
    server.stop();
}

#[test]
fn a_handler_that_always_crashes_costs_the_master_next_to_nothing() {
    let mut server = Start::new(Style::Connection).start();
    server.says("died: SIGABRT");
    let load = server.load(4, "abort");
    load.go_on_for(2);
    let (before, start) = (proc::cpu(server.pid), Instant::now());
    let forks = || server.stderr().iter().filter(|l| l.contains("died: SIGABRT")).count();
    let few = forks();
    comes_true(Duration::from_secs(3), || false);
    let (used, deaths) = (proc::cpu(server.pid) - before, forks() - few);
    assert!(deaths <= 20, "{deaths} deaths of two workers in {:?}", start.elapsed());
    assert!(used < Duration::from_millis(150), "the master took {used:?} in {:?}", start.elapsed());
    // Waiting clients would be served by the next worker; the server stops regardless.
    server.signal(libc::SIGTERM);
    server.may_say("lost");
    server.may_say("closed");
    let tally = load.stop();
    assert_eq!(tally.answered(), 0, "{tally:?}");
    server.ends();
}

#[test]
fn a_request_that_crashes_once_a_second_delays_others_only_briefly() {
    let mut server = Start::new(Style::Request).start();
    server.says("died: SIGSEGV");
    for _ in 0..6 {
        assert!(server.ask("segv").is_err());
        let start = Instant::now();
        server.ask("pid").unwrap();
        assert!(start.elapsed() < Duration::from_secs(2), "answered after {:?}", start.elapsed());
    }
    server.stop();
}

#[test]
fn a_server_started_with_sigchld_ignored_replaces_its_workers_and_stops() {
    let mut server =
        Start::new(Style::Request).through(&["sh", "-c", "trap '' CHLD; exec \"$@\"", "sh"]).start();
    server.says("died: SIGKILL");
    let victim = server.worker_in(0);
    proc::signal(victim, libc::SIGKILL);
    server.replaces(victim);
    server.stop();
}
