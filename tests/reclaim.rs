//! No accepted connection is lost: others serve those that a dead or stopped worker had not taken, once.
#![allow(clippy::unwrap_used)]

mod util;

use std::time::{Duration, Instant};
use util::load::at_once;
use util::{Fault, Server, Start, Style, comes_true, proc, wait_until};

#[test]
fn a_killed_idle_worker_is_replaced_at_once_and_no_client_notices() {
    for style in Style::ALL {
        let mut server = Start::new(style).start();
        server.says("died: SIGKILL");
        for slot in 0..2 {
            let victim = server.worker_in(slot);
            proc::signal(victim, libc::SIGKILL);
            // The next of these may be handed to it before its death is known.
            for _ in 0..20 {
                server.ask("pid").unwrap();
            }
            let soon = comes_true(Duration::from_millis(500), || server.has_replaced(victim));
            assert!(soon, "{style:?}: {:?}", server.stderr());
        }
        server.stop();
    }
}

/// 20 clients connect while one of two workers is stopped; `then` is called when the other has served its share.
fn with_a_stopped_worker(style: Style, then: impl Fn(&Server, i32) + Sync) -> (Server, i32) {
    let server = Start::new(style).start();
    let stopped = server.worker_in(0);
    proc::freeze(stopped);
    let start = Instant::now();
    let results = at_once(21, |i| {
        if i < 20 {
            return server.ask("count hits").map(drop);
        }
        wait_until("the other worker serves", || server.dir.count("hits") > 0);
        then(&server, stopped);
        Ok(())
    });
    assert_eq!(results, vec![Ok(()); 21], "{style:?}");
    assert_eq!(server.dir.count("hits"), 20, "{style:?}: each is served once");
    assert!(start.elapsed() < Duration::from_secs(3), "{style:?}: {:?}", start.elapsed());
    (server, stopped)
}

#[test]
fn connections_queued_for_a_killed_worker_are_served_once() {
    for style in Style::ALL {
        let (mut server, killed) =
            with_a_stopped_worker(style, |_, stopped| proc::signal(stopped, libc::SIGKILL));
        server.says("died: SIGKILL; 0 connections in progress lost");
        server.replaces(killed);
        server.stop();
    }
}

#[test]
fn a_stopped_worker_delays_no_client_and_is_admitted_again_when_it_continues() {
    for style in Style::ALL {
        let (server, stopped) = with_a_stopped_worker(style, |_, _| {});
        assert_eq!(proc::state(stopped), Some('T'), "all were served without it");
        for _ in 0..10 {
            assert_ne!(server.ask("pid"), Ok(stopped.to_string()), "{style:?}");
        }
        proc::signal(stopped, libc::SIGCONT);
        wait_until("it serves again", || server.ask("pid") == Ok(stopped.to_string()));
        assert_eq!(server.dir.count("hits"), 20, "{style:?}: it found nothing that others had served");
        server.stop();
    }
}

#[test]
fn requests_in_progress_in_a_stopped_worker_continue_with_it() {
    for style in Style::ALL {
        let server = Start::new(style).start();
        let mut client = server.connect();
        let pid = client.ask("pid").unwrap().parse().unwrap();
        client.send_command("gate g").unwrap();
        wait_until("the handler runs", || server.dir.at_gate("g") == 1);
        proc::freeze(pid);
        assert_eq!(server.ask_at_once(20, "pid").failed(), 0, "{style:?}");
        server.dir.make("g");
        proc::signal(pid, libc::SIGCONT);
        assert_eq!(client.answer(), Ok("gate".into()), "{style:?}");
        drop(client);
        server.stop();
    }
}

#[test]
fn a_killed_blocking_worker_loses_only_the_connection_in_progress() {
    let mut server = Start::new(Style::Connection).start();
    server.says("died: SIGKILL; 1 connection in progress lost");
    let mut client = server.connect();
    let pid = client.ask("pid").unwrap().parse().unwrap();
    client.send_command("gate g").unwrap();
    wait_until("the handler runs", || server.dir.at_gate("g") == 1);
    let results = at_once(21, |i| {
        if i < 20 {
            return server.ask("count hits").map(drop);
        }
        proc::signal(pid, libc::SIGKILL);
        Ok(())
    });
    assert_eq!(results, vec![Ok(()); 21]);
    assert_eq!(server.dir.count("hits"), 20);
    assert!(client.answer().is_err(), "its process is gone");
    assert_eq!(server.dir.at_gate("g"), 1, "what was begun is not begun again elsewhere");
    server.replaces(pid);
    server.stop();
}

#[test]
fn kills_under_load_lose_at_most_what_was_in_progress() {
    const KILLS: u64 = 10;
    for style in Style::ALL {
        let mut server = Start::new(style).start();
        server.says("died: SIGKILL");
        const CLIENTS: u64 = 6;
        let load = server.load(CLIENTS as usize, "sleep 3");
        for n in 0..KILLS {
            load.go_on_for(40 + n % 7);
            let victim = server.worker_in((n % 2) as u32);
            proc::signal(victim, libc::SIGKILL);
            server.replaces(victim);
        }
        load.go_on_for(40);
        let tally = load.stop();
        let each = if style == Style::Connection { 1 } else { CLIENTS };
        assert!(tally.failed() <= KILLS * each && tally.answered() > 400, "{style:?}: {tally:?}");
        let cut = |f: &Fault| matches!(f, Fault::Reset | Fault::Closed);
        assert!(tally.faults.keys().all(cut), "{style:?}: {tally:?}");
        server.stop();
    }
}

#[test]
fn a_pause_of_all_processes_costs_nothing() {
    for style in Style::ALL {
        let server = Start::new(style).start();
        let pids = server.workers();
        let load = server.load(4, "pid");
        load.go_on_for(20);
        let all: Vec<i32> = pids.iter().copied().chain([server.pid]).collect();
        all.iter().for_each(|&pid| proc::freeze(pid));
        comes_true(Duration::from_secs(1), || false);
        all.iter().rev().for_each(|&pid| proc::signal(pid, libc::SIGCONT));
        load.go_on_for(100);
        let tally = load.stop();
        assert!(tally.faults.is_empty(), "{style:?}: {tally:?}");
        assert_eq!(server.workers(), pids, "{style:?}");
        server.stop();
    }
}

#[test]
fn when_all_workers_are_killed_the_next_clients_wait_for_successors() {
    for style in Style::ALL {
        let mut server = Start::new(style).start();
        server.says("died: SIGKILL");
        server.workers().into_iter().for_each(|pid| proc::signal(pid, libc::SIGKILL));
        let tally = server.ask_at_once(20, "count hits");
        assert_eq!((tally.answered(), server.dir.count("hits")), (20, 20), "{style:?}: {tally:?}");
        server.stop();
    }
}

#[test]
fn when_all_workers_are_killed_their_queued_connections_are_served_by_successors() {
    for style in Style::ALL {
        let mut server = Start::new(style).start();
        server.says("died: SIGKILL");
        server.workers().into_iter().for_each(proc::freeze);
        // 20 are in queues or in the backlog when the last worker dies.
        let mut clients: Vec<_> = (0..20).map(|_| server.connect()).collect();
        clients.iter_mut().for_each(|c| c.send_command("count hits").unwrap());
        server.workers().into_iter().for_each(|pid| proc::signal(pid, libc::SIGKILL));
        for client in clients {
            client.end().unwrap();
            let mut client = client;
            assert_eq!(client.answer(), Ok("count".into()), "{style:?}");
        }
        assert_eq!(server.dir.count("hits"), 20, "{style:?}");
        server.stop();
    }
}
