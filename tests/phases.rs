//! A stop comes before everything in progress; and so does the end of a master that is killed.
#![allow(clippy::unwrap_used)]

mod util;

use std::time::{Duration, Instant};
use util::{Fault, RELOAD, Server, Start, Style, comes_true, proc, wait_until};

const STYLE: Style = Style::Request;

/// Brings a server of two workers into a phase.
type Phase = (&'static str, fn() -> Server);

const PHASES: [Phase; 11] = [
    ("boot", || {
        let start = Start::new(STYLE).workers(2);
        start.dir().make("wait");
        let server = start.launch();
        wait_until("they are there", || server.slots().len() == 2);
        server
    }),
    ("canary", || {
        let server = Start::new(STYLE).start();
        server.dir.make("wait");
        server.signal(libc::SIGHUP);
        wait_until("the canary starts", || server.workers().len() == 3);
        server
    }),
    ("rolling", || {
        let server = Start::new(STYLE).start();
        server.dir.make("wait.1");
        server.signal(libc::SIGHUP);
        wait_until("the second rolls", || server.slots() == [0, 1, 1]);
        server
    }),
    ("rolling back", || {
        let mut server = Start::new(STYLE).set("boot-timeout", "10s").start();
        server.may_say("before it was ready");
        server.dir.make("wait.1");
        server.signal(libc::SIGHUP);
        wait_until("the second rolls", || server.slots() == [0, 1, 1]);
        server.dir.make("wait.0");
        proc::signal(*server.workers().last().unwrap(), libc::SIGKILL);
        wait_until("the old code is restored", || server.slots() == [0, 0, 1]);
        server
    }),
    ("another reload waiting", || {
        let server = Start::new(STYLE).start();
        server.dir.make("wait");
        for _ in 0..2 {
            server.signal(libc::SIGHUP);
            wait_until("the canary starts", || server.workers().len() == 3);
        }
        server
    }),
    ("an old worker draining", || {
        let mut server = Start::new(STYLE).start();
        let client = server.client_at_gate();
        server.reload();
        server.dir.make("g");
        drop(client);
        server
    }),
    ("scaled up", || {
        let server = Start::new(STYLE).start();
        server.dir.make("wait");
        server.signal(libc::SIGTTIN);
        wait_until("one more starts", || server.workers().len() == 3);
        server
    }),
    ("scaled down", || {
        let server = Start::new(STYLE).start();
        server.signal(libc::SIGTTOU);
        server
    }),
    ("a successor starting", || {
        let mut server = Start::new(STYLE).start();
        server.says("died: SIGKILL");
        server.dir.make("wait");
        proc::signal(server.worker_in(0), libc::SIGKILL);
        server.wait_for_line("died: SIGKILL");
        server
    }),
    ("a successor due", || {
        let mut server = Start::new(STYLE).start();
        server.says("died: SIGKILL");
        server.says("before it was ready");
        server.dir.make("die");
        proc::signal(server.worker_in(0), libc::SIGKILL);
        wait_until("they are tried less often", || server.lines_with("before it was ready") > 3);
        server
    }),
    ("a worker leaving", || {
        let server = Start::new(STYLE).start();
        proc::signal(server.worker_in(0), libc::SIGTERM);
        server
    }),
];

#[test]
fn a_stop_comes_first_in_every_phase() {
    for (phase, bring) in PHASES {
        let mut server = bring();
        server.may_say(RELOAD);
        let start = Instant::now();
        server.signal(libc::SIGTERM);
        server.ends();
        assert!(start.elapsed() < Duration::from_secs(5), "{phase}: {:?}", start.elapsed());
    }
}

#[test]
fn a_master_killed_in_any_phase_leaves_no_worker_and_the_port_free() {
    for (phase, bring) in PHASES {
        let mut server = bring();
        server.may_say(RELOAD);
        let port = server.addresses.first().map(|_| server.port());
        server.may_say("tell the master");
        server.signal(libc::SIGKILL);
        if let Some(port) = port {
            wait_until("the listener is closed", || server.refuses());
            let next = Start::new(STYLE).listen(format!("127.0.0.1:{port}")).start();
            assert!(next.ask("pid").is_ok(), "{phase}");
            next.stop();
        }
        // A starting worker notices it when it has started.
        for gate in ["wait", "wait.0", "wait.1"] {
            let _ = std::fs::remove_file(server.dir.path().join(gate));
        }
        server.dies_out();
    }
}

#[test]
fn a_stop_right_after_a_reload_was_requested_is_clean_under_load() {
    for after in [0, 5, 50] {
        for _ in 0..3 {
            let mut server = Start::new(STYLE).workers(3).start();
            server.may_say(RELOAD);
            let load = server.load(4, "pid");
            load.go_on_for(20);
            server.signal(libc::SIGHUP);
            std::thread::sleep(Duration::from_millis(after));
            server.signal(libc::SIGTERM);
            load.go_on_for(4);
            let mut tally = load.stop();
            tally.faults.remove(&Fault::Refused);
            // The kernel resets connections that are not yet accepted when the listener closes. Accepted ones are not reset.
            let resets = tally.faults.remove(&Fault::Reset).unwrap_or(0);
            assert!(tally.faults.is_empty() && resets <= 4, "after {after} ms: {resets} resets, {tally:?}");
            server.ends();
        }
    }
}

/// Its request comes when nobody can be given it any more, and in the time that connections of all other workers have.
#[test]
fn a_client_without_a_request_yet_is_answered_though_its_worker_was_draining_when_the_stop_began() {
    let mut server = Start::new(STYLE).start();
    server.may_say(RELOAD);
    let old = server.worker_in(0);
    let mut clients: Vec<_> = (0..4).map(|_| server.connect()).collect();
    wait_until("both have theirs", || connections(&server).iter().all(|n| *n == 2));
    proc::freeze(old);
    server.signal(libc::SIGHUP);
    wait_until("its successor is there", || server.slots() == [0, 0, 1] || server.slots() == [0, 0, 1, 1]);
    server.signal(libc::SIGTERM);
    wait_until("the listener is closed", || server.refuses());
    wait_until("the others are gone", || server.workers() == [old]);
    proc::signal(old, libc::SIGCONT);
    wait_until("it has its orders", || matches!(proc::state(old), None | Some('S' | 'Z')));
    let answers: Vec<_> = clients.iter_mut().map(|client| client.ask("pid")).collect();
    let answered = answers.iter().filter(|answer| **answer == Ok(old.to_string())).count();
    assert_eq!(answered, 2, "{answers:?}");
    drop(clients);
    server.ends();
}

/// The connections of each worker.
fn connections(server: &Server) -> Vec<usize> {
    let mut show = std::process::Command::new(env!("CARGO_BIN_EXE_prefork"));
    let out =
        show.args(["show", "--json"]).env("PREFORK_RUNTIME_DIR", server.dir.runtime()).output().unwrap();
    let status: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
    let workers = status["workers"].as_array().unwrap();
    workers.iter().map(|w| w["in_flight"].as_u64().unwrap() as usize).collect()
}

#[test]
fn requests_in_both_generations_are_finished_by_a_stop() {
    let mut server = Start::new(STYLE).start();
    let mut old = server.client_at_gate();
    server.reload();
    let mut new = server.connect();
    new.send_command("gate h").unwrap();
    wait_until("the handler runs", || server.dir.at_gate("h") == 1);
    server.signal(libc::SIGTERM);
    wait_until("new clients are refused", || server.refuses());
    server.dir.make("g");
    server.dir.make("h");
    assert_eq!((old.answer(), new.answer()), (Ok("gate".into()), Ok("gate".into())));
    server.ends();
}

#[test]
fn a_stopped_worker_is_killed_at_the_drain_timeout_and_the_reload_ends() {
    for style in Style::ALL {
        let mut server = Start::new(style).set("drain-timeout", "400ms").start();
        server.says("had not ended at its deadline and was killed");
        let still = server.worker_in(1);
        proc::freeze(still);
        server.reload();
        wait_until("it is gone", || proc::state(still).is_none());
        // The previous generation has ended, so that the next can start.
        server.reload();
        server.stop();
    }
}

#[test]
fn a_second_signal_during_a_reload_ends_both_generations_at_once() {
    let mut server = Start::new(STYLE).start();
    server.may_say(RELOAD);
    server.may_say("killed");
    server.may_say("lost");
    let client = server.client_at_gate();
    server.dir.make("wait.1");
    server.signal(libc::SIGHUP);
    wait_until("the second rolls", || server.slots().len() >= 3);
    let start = Instant::now();
    server.interrupt_twice(libc::SIGTERM);
    server.ends();
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    drop(client);
}

#[test]
fn commands_to_a_stopping_master_are_ignored() {
    let server = Start::new(STYLE).start();
    let mut client = server.client_at_gate();
    server.signal(libc::SIGTERM);
    wait_until("new clients are refused", || server.refuses());
    for signal in [libc::SIGHUP, libc::SIGTTIN, libc::SIGTTOU, libc::SIGUSR2] {
        server.signal(signal);
    }
    assert!(!comes_true(Duration::from_millis(100), || server.workers().len() > 2));
    server.dir.make("g");
    assert_eq!(client.answer(), Ok("gate".into()));
    server.ends();
}

#[test]
fn a_reload_requested_while_the_first_workers_start_follows() {
    let start = Start::new(STYLE);
    start.dir().make("wait");
    let mut server = start.launch();
    server.may_say(RELOAD);
    wait_until("they are there", || server.slots() == [0, 1]);
    server.signal(libc::SIGHUP);
    server.dir.remove("wait");
    server.comes_up();
    server.wait_for_line("generation 2 is complete");
    assert_eq!(server.ask("generation"), Ok("2".into()));
    server.signal(libc::SIGTERM);
    server.ends();
}
