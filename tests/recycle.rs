//! Workers that have served enough, grown too large or too old are replaced, the new one first and one at a time.
#![allow(clippy::unwrap_used)]

mod util;

use std::collections::BTreeSet;
use std::time::Duration;
use util::{Load, Server, Start, Style, comes_true, wait_until};

const WORKERS: usize = 3;

/// Watches the server until all first workers are replaced, and that there are never fewer workers, nor two more, meanwhile.
#[track_caller]
fn all_are_replaced_one_at_a_time(server: &Server) {
    let first = server.workers();
    let (mut fewest, mut most, mut seen) = (WORKERS, WORKERS, BTreeSet::new());
    wait_until("all are replaced", || {
        let now = server.workers();
        (fewest, most) = (fewest.min(now.len()), most.max(now.len()));
        seen.extend(now.iter().copied());
        seen.len() >= 2 * WORKERS && now.iter().all(|pid| !first.contains(pid))
    });
    assert!(fewest == WORKERS && most <= WORKERS + 1, "{fewest} to {most}");
}

#[test]
fn workers_are_replaced_after_max_requests_and_no_client_notices() {
    for style in Style::ALL {
        let server = Start::new(style).workers(WORKERS).set("max-requests", "50").start();
        let load = server.load(6, "pid");
        all_are_replaced_one_at_a_time(&server);
        wait_until("a thousand are served", || load.done() > 1000);
        let tally = load.stop();
        assert!(tally.faults.is_empty(), "{style:?}: {tally:?}");
        server.stop();
    }
}

#[test]
fn requests_on_kept_connections_count() {
    let server = Start::new(Style::Request).workers(WORKERS).set("max-requests", "50").start();
    let load = Load::keep(server.address(), server.style, 6, "pid");
    all_are_replaced_one_at_a_time(&server);
    let tally = load.stop();
    assert!(tally.faults.is_empty(), "{tally:?}");
    server.stop();
}

#[test]
fn requests_count_even_without_new_connections() {
    let server = Start::new(Style::Request).set("max-requests", "50").start();
    let mut client = server.connect();
    let pid = client.ask("pid").unwrap();
    // The master has no connection to reclaim and nothing to do.
    comes_true(Duration::from_millis(500), || false);
    for _ in 0..60 {
        client.ask("pid").unwrap();
    }
    wait_until("it is replaced", || client.ask("pid").unwrap() != pid);
    drop(client);
    server.stop();
}

#[test]
fn workers_that_have_grown_too_large_are_replaced() {
    let server = Start::new(Style::Request).set("max-memory", "64M").start();
    let mut client = server.connect();
    let pid = client.ask("pid").unwrap();
    assert_eq!(client.ask("alloc 80"), Ok("alloc".into()));
    // The same connection is served by the successor.
    wait_until("it is replaced", || client.ask("pid").unwrap() != pid);
    server.settles();
    let left = server.workers();
    assert!(!comes_true(Duration::from_millis(1500), || server.workers() != left), "the others are small");
    drop(client);
    server.stop();
}

#[test]
fn workers_that_are_too_old_are_replaced() {
    for style in Style::ALL {
        let server = Start::new(style).workers(WORKERS).set("max-age", "500ms").start();
        let load = server.load(3, "pid");
        all_are_replaced_one_at_a_time(&server);
        let tally = load.stop();
        assert!(tally.faults.is_empty(), "{style:?}: {tally:?}");
        server.stop();
    }
}

#[test]
fn idle_workers_that_are_too_old_are_replaced() {
    let server = Start::new(Style::Request).workers(WORKERS).set("max-age", "500ms").start();
    all_are_replaced_one_at_a_time(&server);
    server.stop();
}

#[test]
fn if_a_successor_does_not_start_the_old_worker_stays() {
    let mut server = Start::new(Style::Request).set("max-requests", "20").start();
    server.says("before it was ready");
    server.dir.make("refuse");
    let pids = server.workers();
    let load = server.load(2, "pid");
    server.wait_for_line("before it was ready");
    load.go_on_for(200);
    assert!(pids.iter().all(|pid| server.workers().contains(pid)));
    let deaths = server.lines_with("before it was ready");
    assert!(deaths < 5, "{deaths} tries");
    server.dir.remove("refuse");
    wait_until("both are replaced", || server.workers().iter().all(|pid| !pids.contains(pid)));
    let tally = load.stop();
    assert!(tally.faults.is_empty(), "{tally:?}");
    server.stop();
}
