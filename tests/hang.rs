//! `--timeout`: a worker that hangs in its handler is detected, and loses only its own connections.
#![allow(clippy::unwrap_used)]

mod util;

use std::time::{Duration, Instant};
use util::{Client, Fault, PATIENCE, Server, Start, Style, comes_true, proc, wait_until};

const HANGS: &str = "hangs in its handler";

fn limited(style: Style) -> Start {
    limited_to(style, "300ms")
}

fn limited_to(style: Style, timeout: &str) -> Start {
    let start = Start::new(style).set("timeout", timeout);
    // The file in which the handler counts the calls of on_hang.
    start.dir().make("hung");
    start
}

/// A client whose command the worker of this pid is busy with.
fn send_to(server: &Server, pid: i32, command: &str) -> Client {
    let mut client = server.connect();
    // A blocking worker whose client is silent has no second.
    let mut others = Vec::new();
    while client.ask("pid") != Ok(pid.to_string()) {
        others.push(std::mem::replace(&mut client, server.connect()));
        if others.len() > 1 {
            others.clear();
        }
    }
    drop(others);
    client.send_command(command).unwrap();
    client
}

#[test]
fn a_worker_that_loops_or_sleeps_is_aborted_and_replaced() {
    for style in Style::ALL {
        for command in ["loop", "sleep 60000"] {
            let mut server = limited(style).start();
            server.says(HANGS);
            server.says("died: SIGABRT; 1 connection in progress lost");
            let pid = server.worker_in(0);
            let mut client = send_to(&server, pid, command);
            let start = Instant::now();
            assert!(matches!(client.answer(), Err(Fault::Closed | Fault::Reset)), "{style:?}: {command}");
            let took = start.elapsed();
            // The timeout and a second of grace, and what a loaded machine adds.
            assert!(took > Duration::from_millis(1250) && took < Duration::from_secs(6), "{took:?}");
            server.replaces(pid);
            assert_eq!(server.dir.count("hung"), 1, "{style:?}: {command}: it was told, once");
            server.stop();
        }
    }
}

#[test]
fn a_worker_that_ignores_sigabrt_is_killed() {
    let mut server = limited(Style::Request).start();
    server.says(HANGS);
    server.says("died: SIGKILL; 1 connection in progress lost");
    let pid = server.worker_in(1);
    let mut client = send_to(&server, pid, "deaf");
    assert!(matches!(client.answer(), Err(Fault::Closed | Fault::Reset)));
    server.replaces(pid);
    server.stop();
}

#[test]
fn connections_queued_for_a_hanging_worker_are_answered_by_others_before_it_ends() {
    for style in [Style::Request, Style::Data] {
        let mut server = limited(style).start();
        server.says(HANGS);
        server.says("died: SIGABRT; 1 connection in progress lost");
        let pid = server.worker_in(0);
        let stuck = send_to(&server, pid, "loop");
        let mut queued: Vec<_> = (0..20).map(|_| server.connect()).collect();
        queued.iter_mut().for_each(|c| c.send_command("count hits").unwrap());
        for client in &mut queued {
            assert_eq!(client.answer(), Ok("count".into()), "{style:?}");
        }
        assert!(server.workers().contains(&pid), "{style:?}: it still lives");
        assert_eq!(server.dir.count("hits"), 20);
        drop((stuck, queued));
        server.replaces(pid);
        server.stop();
    }
}

#[test]
fn a_worker_that_was_only_slow_is_admitted_again() {
    for style in Style::ALL {
        // The test has to react within the second of grace: three tries on a loaded machine.
        let comes_back = |_| {
            let mut server = Start::new(style).set("timeout", "200ms").start();
            server.says(HANGS);
            server.may_say("died: SIGABRT");
            let pid = server.worker_in(0);
            let mut client = send_to(&server, pid, "gate g");
            wait_until("the handler runs", || server.dir.at_gate("g") == 1);
            server.wait_for_line(HANGS);
            server.dir.make("g");
            let in_time = client.answer() == Ok("gate".into());
            drop(client);
            if in_time {
                wait_until("it serves again", || server.ask("pid") == Ok(pid.to_string()));
            }
            server.stop();
            in_time
        };
        assert!((0..3).any(comes_back), "{style:?}");
    }
}

#[test]
fn a_handler_that_reacts_to_on_hang_answers_and_its_worker_survives() {
    for style in Style::ALL {
        for (command, answer) in [
            ("heed", "heed"),
            ("look", "look"),
            ("wait read", "EINTR"),
            ("wait sleep", "EINTR"),
            ("shut", "shut"),
        ] {
            let mut server = limited(style).start();
            server.says(HANGS);
            let pids = server.workers();
            let mut client = send_to(&server, pids[0], command);
            assert_eq!(client.answer(), Ok(answer.into()), "{style:?}: {command}");
            assert_eq!(server.dir.count("hung"), 1, "{style:?}: {command}");
            if style != Style::Connection {
                assert_eq!(client.ask("overdue"), Ok("0".into()), "{style:?}: {command}: the next call");
            }
            drop(client);
            wait_until("it serves again", || server.ask("pid") == Ok(pids[0].to_string()));
            assert_eq!(server.workers(), pids, "{style:?}: {command}");
            server.stop();
        }
    }
}

#[test]
fn a_worker_that_reacts_to_on_hang_repeatedly_survives() {
    let mut server = limited(Style::Request).start();
    server.says(HANGS);
    let pids = server.workers();
    let mut client = send_to(&server, pids[0], "heed");
    for n in 1..=4 {
        assert_eq!(client.answer(), Ok("heed".into()));
        assert_eq!(server.dir.count("hung"), n);
        client.send_command("heed").unwrap();
    }
    assert_eq!(client.answer(), Ok("heed".into()));
    drop(client);
    assert_eq!(server.workers(), pids);
    server.stop();
}

#[test]
fn on_hang_is_called_in_a_draining_worker() {
    let mut server = limited(Style::Request).start();
    server.says(HANGS);
    server.may_say("reload to generation");
    let mut client = send_to(&server, server.worker_in(0), "gate g");
    wait_until("the handler runs", || server.dir.at_gate("g") == 1);
    // It is in the next call when the drain begins, and hangs there.
    client.send_command("heed").unwrap();
    server.signal(libc::SIGHUP);
    server.dir.make("g");
    assert_eq!(client.answer(), Ok("gate".into()));
    assert_eq!(client.answer(), Ok("heed".into()));
    server.rests();
    drop(client);
    server.stop();
}

#[test]
fn a_signal_for_a_finished_call_does_not_affect_the_next() {
    for style in Style::ALL {
        let server = limited_to(style, "5s").start();
        let pids = server.workers();
        let load = server.load(6, "sleep 2");
        load.go_on_for(6);
        comes_true(Duration::from_secs(1), || {
            pids.iter().for_each(|&pid| proc::signal(pid, libc::SIGURG));
            false
        });
        load.go_on_for(20);
        let tally = load.stop();
        assert!(tally.faults.is_empty(), "{style:?}: {tally:?}");
        assert_eq!(server.dir.count("hung"), 0, "{style:?}");
        assert_eq!(server.workers(), pids, "{style:?}");
        server.stop();
    }
}

#[test]
fn many_short_calls_are_no_hang() {
    for style in Style::ALL {
        let server = limited(style).start();
        let pids = server.workers();
        let load = server.load(4, "sleep 20");
        comes_true(Duration::from_millis(1200), || false);
        let tally = load.stop();
        assert!(tally.faults.is_empty(), "{style:?}: {tally:?}");
        assert_eq!(server.workers(), pids);
        server.stop();
    }
}

#[test]
fn many_short_calls_in_one_turn_are_no_hang() {
    for style in [Style::Request, Style::Data] {
        let mut server = limited_to(style, "1s").workers(1).start();
        // A paused machine makes a call long; the test is that no worker is aborted.
        server.may_say(HANGS);
        let pids = server.workers();
        let mut clients: Vec<_> = (0..30).map(|_| server.connect()).collect();
        clients.iter_mut().for_each(|c| assert!(c.ask("pid").is_ok()));
        let mut first = clients.pop().unwrap();
        first.send_command("sleep 100").unwrap();
        // While it is busy: it finds them all in its next turn, which takes longer than all steps against a hang.
        clients.iter_mut().for_each(|c| c.send_command("sleep 100").unwrap());
        for client in clients.iter_mut().chain([&mut first]) {
            assert_eq!(client.answer(), Ok("sleep".into()), "{style:?}");
        }
        assert_eq!(server.workers(), pids, "{style:?}");
        drop((clients, first));
        server.stop();
    }
}

#[test]
fn a_pause_of_all_processes_is_no_hang() {
    for style in Style::ALL {
        let server = limited(style).start();
        let pids = server.workers();
        let mut client = send_to(&server, pids[0], "gate g");
        wait_until("the handler runs", || server.dir.at_gate("g") == 1);
        let all: Vec<i32> = [server.pid].into_iter().chain(pids.iter().copied()).collect();
        all.iter().for_each(|&pid| proc::freeze(pid));
        // Much longer than all steps against a hang.
        comes_true(Duration::from_secs(3), || false);
        server.dir.make("g");
        all.iter().rev().for_each(|&pid| proc::signal(pid, libc::SIGCONT));
        client.patience(PATIENCE);
        assert_eq!(client.answer(), Ok("gate".into()), "{style:?}");
        drop(client);
        assert!((0..10).all(|_| server.ask("pid").is_ok()));
        assert_eq!(server.workers(), pids, "{style:?}");
        server.stop();
    }
}

#[test]
fn if_all_workers_hang_they_are_replaced_and_waiting_clients_are_answered() {
    let mut server = limited(Style::Request).start();
    server.may_say("died while draining: SIGABRT");
    server.says(HANGS);
    server.says("died: SIGABRT");
    let pids = server.workers();
    let stuck: Vec<_> = pids.iter().map(|&pid| send_to(&server, pid, "loop")).collect();
    let tally = server.ask_at_once(20, "count hits");
    assert_eq!((tally.answered(), server.dir.count("hits")), (20, 20), "{tally:?}");
    drop(stuck);
    server.stop();
}

#[test]
fn a_worker_that_hangs_while_it_drains_ends_at_the_timeout() {
    let mut server = limited(Style::Request).start();
    server.says(HANGS);
    server.may_say("SIGABRT");
    server.may_say("reload to generation");
    let pid = server.worker_in(0);
    let client = send_to(&server, pid, "loop");
    server.signal(libc::SIGHUP);
    server.wait_for_line("is complete");
    wait_until("the old one is gone", || !server.workers().contains(&pid));
    drop(client);
    server.stop();
}
