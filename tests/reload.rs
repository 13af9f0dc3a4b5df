//! A reload brings new code to all workers, and no client loses anything, not even its connection.
#![allow(clippy::unwrap_used)]

mod util;

use std::sync::atomic::Ordering;
use std::time::Duration;
use util::load::Tally;
use util::wrk::{OWN_NETWORK, can_have_own_network, tcp_counter};
use util::{Client, Load, PATIENCE, RELOAD, Server, Start, Style, Wrk, comes_true, proc, wait_until};

const RELOADS: usize = 5;

/// In a network of its own, if this user may have one.
fn alone(start: Start) -> (Server, bool) {
    let alone = can_have_own_network();
    (if alone { start.through(&[&OWN_NETWORK[..], &["sh"]].concat()) } else { start }.start(), alone)
}

#[test]
fn kept_connections_survive_reloads() {
    const CLIENTS: usize = 64;
    let (mut server, alone) = alone(Start::new(Style::Request).workers(4));
    let wrk = Wrk::start(&server, CLIENTS, "pid", None);
    let (connections, first) = (wrk.connections(), server.workers());
    for _ in 0..RELOADS {
        wrk.continues();
        server.reload();
    }
    wrk.continues();
    // A new connection would have another port at the client's end.
    assert_eq!(wrk.connections(), connections);
    if alone {
        // wrk opens one more to test that the server listens.
        assert_eq!(tcp_counter(server.pid, "PassiveOpens"), CLIENTS as u64 + 1);
    }
    assert!(wrk.stop_without_errors() > 1000);
    assert!(server.workers().iter().all(|pid| !first.contains(pid)));
    server.stop();
}

#[test]
fn clients_with_a_connection_per_request_see_no_error() {
    let (mut server, _) = alone(Start::new(Style::Request).workers(4));
    let wrk = Wrk::start(&server, 32, "pid", Some("Connection: close"));
    for _ in 0..RELOADS {
        wrk.continues();
        server.reload();
    }
    wrk.continues();
    assert!(wrk.stop_without_errors() > 1000);
    server.stop();
}

#[test]
fn every_style_reloads_under_load_without_an_error() {
    for style in Style::ALL {
        let mut server = Start::new(style).start();
        let load = server.load(6, "sleep 1");
        for _ in 0..RELOADS {
            load.go_on_for(20);
            server.reload();
        }
        let tally = load.stop();
        assert!(tally.faults.is_empty(), "{style:?}: {tally:?}");
        server.stop();
    }
}

/// Clients that request the version repeatedly, on one connection each or on many, and get no old one after a new one.
fn watch_versions(server: &Server, keep: bool) -> Load {
    Load::run(4, |_, stop, done| {
        let (address, style) = (server.address().clone(), server.style);
        move || {
            let (mut tally, mut last) = (Tally::default(), "v1".to_owned());
            let mut client = Client::connect(&address, style).unwrap();
            while !stop.load(Ordering::Relaxed) {
                if !keep {
                    client = Client::connect(&address, style).unwrap();
                }
                let answer = client.ask("version");
                if keep && let Ok(version) = &answer {
                    assert!(*version >= last, "{version} after {last}");
                    last.clone_from(version);
                }
                tally.add(answer);
                done.fetch_add(1, Ordering::Relaxed);
            }
            tally
        }
    })
}

#[test]
fn new_code_answers_after_a_reload_and_a_connection_never_returns_to_old_code() {
    for keep in [true, false] {
        let mut server = Start::new(Style::Request).workers(3).own_module().start();
        let load = watch_versions(&server, keep);
        load.go_on_for(50);
        server.install(&Style::Request.version("v2"));
        load.go_on_for(50);
        assert_eq!(server.ask("version"), Ok("v1".into()), "no new file counts before it is asked for");
        server.reload();
        for _ in 0..6 {
            assert_eq!(server.ask("version"), Ok("v2".into()));
            assert_eq!(server.ask("generation"), Ok("2".into()));
        }
        load.go_on_for(50);
        let tally = load.stop();
        assert!(tally.faults.is_empty() && tally.answers.len() == 2, "{tally:?}");
        server.stop();
    }
}

#[test]
fn there_are_never_fewer_workers_ready_than_before() {
    const WORKERS: usize = 3;
    let mut server = Start::new(Style::Request).workers(WORKERS).start();
    server.may_say(RELOAD);
    let old = server.workers();
    // The new ones start one by one, each when the test opens its gate.
    (0..WORKERS).for_each(|slot| server.dir.make(&format!("wait.{slot}")));
    server.signal(libc::SIGHUP);
    for slot in 0..WORKERS as u32 {
        let mut slots: Vec<u32> = (0..WORKERS as u32).chain([slot]).collect();
        slots.sort_unstable();
        wait_until("one more starts, and none else is there", || server.slots() == slots);
        let starting = server.worker_in(slot);
        // All others serve, those before and after this slot.
        let mut serving: Vec<i32> = server.workers().into_iter().filter(|&pid| pid != starting).collect();
        assert_eq!(serving.iter().filter(|p| old.contains(p)).count(), WORKERS - slot as usize);
        wait_until("they all serve", || {
            let pid = server.ask("pid").unwrap().parse().unwrap();
            assert_ne!(pid, starting);
            serving.retain(|&p| p != pid);
            serving.is_empty()
        });
        server.dir.remove(&format!("wait.{slot}"));
    }
    server.wait_for_line("is complete");
    server.stop();
}

#[test]
fn surge_limits_how_many_start_at_a_time_after_the_first() {
    let mut server = Start::new(Style::Request).workers(4).set("surge", "3").start();
    server.may_say(RELOAD);
    server.dir.make("wait");
    server.signal(libc::SIGHUP);
    wait_until("the canary starts", || server.workers().len() == 5);
    // It starts alone: none follows before it is ready.
    assert!(!comes_true(Duration::from_millis(200), || server.workers().len() > 5));
    (1..4).for_each(|slot| server.dir.make(&format!("wait.{slot}")));
    server.dir.remove("wait");
    let both = [0, 1, 1, 2, 2, 3, 3];
    wait_until("three start at once, and the first old one has left", || server.slots() == both);
    (1..4).for_each(|slot| server.dir.remove(&format!("wait.{slot}")));
    server.wait_for_line("is complete");
    server.stop();
}

#[test]
fn a_file_replaced_truncated_or_overwritten_harms_no_running_worker() {
    let mut server = Start::new(Style::Request).own_module().start();
    server.may_say("died: SIGKILL");
    let load = Load::keep(server.address(), server.style, 4, "version");
    let pids = server.workers();
    for contents in [&b"none"[..], b"", &[0x90; 200_000]] {
        // In place: a process that has the file mapped would see it.
        std::fs::write(server.module(), contents).unwrap();
        load.go_on_for(200);
    }
    std::fs::remove_file(server.module()).unwrap();
    load.go_on_for(200);
    assert_eq!(server.workers(), pids);
    let tally = load.stop();
    assert!(tally.faults.is_empty(), "{tally:?}");
    // Nor does a successor: it gets the code of its generation.
    proc::signal(pids[0], libc::SIGKILL);
    server.replaces(pids[0]);
    assert!((0..4).all(|_| server.ask("version") == Ok("v1".into())));
    server.install(&Style::Request.version("v2"));
    server.reload();
    assert_eq!(server.ask("version"), Ok("v2".into()));
    server.stop();
}

/// HUPs at these intervals under load, none of which may do harm.
fn storm(hups: usize, distance: Duration) {
    let mut server = Start::new(Style::Request).workers(2).own_module().start();
    server.may_say(RELOAD);
    let kept = Load::keep(server.address(), server.style, 4, "pid");
    let fresh = server.load(4, "pid");
    fresh.go_on_for(20);
    server.install(&Style::Request.version("v2"));
    let mut most = 0;
    for _ in 0..hups {
        server.signal(libc::SIGHUP);
        most = most.max(server.workers().len());
        std::thread::sleep(distance);
    }
    server.rests();
    fresh.go_on_for(20);
    kept.go_on_for(20);
    for tally in [kept.stop(), fresh.stop()] {
        assert!(tally.faults.is_empty(), "{tally:?}");
    }
    assert!(most <= 14, "{most} processes: the new, the present and a few former generations");
    let reloads = server.lines_with("is complete");
    assert!((1..=hups).contains(&reloads), "{reloads} reloads of {hups}");
    assert_eq!(server.lines_with("rolled back"), 0);
    // The last HUP is not lost: the file at that time is the one that serves.
    assert!((0..4).all(|_| server.ask("version") == Ok("v2".into())));
    server.stop();
}

#[test]
fn a_reload_requested_during_a_reload_follows_it() {
    storm(2, Duration::from_millis(10));
}

#[test]
fn ten_reloads_requested_in_a_tenth_of_a_second_lose_nothing() {
    storm(10, Duration::from_millis(10));
}

#[test]
fn two_hundred_reloads_requested_under_load_lose_nothing() {
    storm(200, Duration::from_millis(10));
}

#[test]
fn a_reload_requested_during_a_reload_loads_the_newest_file() {
    let mut server = Start::new(Style::Request).own_module().start();
    server.may_say(RELOAD);
    server.dir.make("wait");
    server.install(&Style::Request.version("v2"));
    server.signal(libc::SIGHUP);
    wait_until("the canary starts", || server.workers().len() == 3);
    server.install(&Style::Request.version("v3"));
    server.signal(libc::SIGHUP);
    server.dir.remove("wait");
    server.wait_for_line("generation 3 is complete");
    assert!((0..4).all(|_| server.ask("version") == Ok("v3".into())));
    server.stop();
}

#[test]
fn an_idle_server_of_eight_workers_reloads_quickly() {
    let mut server = Start::new(Style::Request).workers(8).start();
    // The best of a few: the machine may be busy.
    let fast = (0..10).any(|_| {
        let start = std::time::Instant::now();
        server.reload();
        start.elapsed() < Duration::from_millis(200)
    });
    assert!(fast);
    server.stop();
}

#[test]
fn a_request_in_progress_is_finished_by_old_code_however_many_reloads_follow() {
    for style in Style::ALL {
        let mut server = Start::new(style).own_module().start();
        server.may_say(RELOAD);
        let mut client = server.connect();
        client.send_command("gate g").unwrap();
        wait_until("the handler runs", || server.dir.at_gate("g") == 1);
        server.install(&style.version("v2"));
        server.reload();
        for generation in 3..6 {
            server.reload();
            assert_eq!(server.ask("generation"), Ok(generation.to_string()), "{style:?}");
        }
        assert_eq!(server.ask("version"), Ok("v2".into()), "{style:?}");
        server.dir.make("g");
        client.patience(PATIENCE);
        assert_eq!(client.answer(), Ok("gate".into()), "{style:?}");
        assert_eq!(server.dir.at_gate("g"), 1, "{style:?}");
        drop(client);
        server.rests();
        server.stop();
    }
}
