//! Workers that have served enough, grown too large or too old are replaced, the new one first and one at a time.
#![allow(clippy::unwrap_used)]

mod util;

use std::collections::BTreeSet;
use std::time::Duration;
use util::{Load, Server, Start, Style, comes_true, handler, wait_until};

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

#[test]
fn a_limit_on_memory_that_new_workers_exceed_is_told_once_and_replaces_nobody_in_a_hurry() {
    let mut server = Start::new(Style::Request).set("max-memory", "4096").start();
    server.says("the limit is too low");
    let first = server.workers();
    assert!(!comes_true(Duration::from_millis(2500), || server.workers() != first), "replaced");
    assert_eq!(server.lines_with("the limit is too low"), 1);
    // A reload changes nothing in that.
    server.reload();
    assert_eq!(server.lines_with("the limit is too low"), 1);
    server.stop();
}

// What a worker shares with its master since the fork would not be free if it ended.
#[test]
fn memory_that_a_host_had_before_the_fork_does_not_count() {
    let mut server = Start::new(Style::Request).program([handler::host(HOST)]).start();
    server.may_say("stop");
    let first = server.workers();
    assert_eq!(server.ask("pid"), Ok("small".into()));
    assert!(!comes_true(Duration::from_millis(1500), || server.workers() != first), "replaced");
    // It writes to all of that: now the copies are its own.
    assert_eq!(server.ask("write"), Ok("large".into()));
    wait_until("that one is replaced", || {
        let now = server.workers();
        now.len() == 2 && now != first
    });
    server.stop();
}

/// A host that has 100 MB before its workers are forked, of which each may have 50.
const HOST: &str = r#"#include <prefork.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#define SIZE ((size_t)100 << 20)
static char *data;
static void started(const prefork_started *what, void *state)
{
    (void)state;
    printf("listening on %s\n", what->addresses[0]);
    fflush(stdout);
}
static void answer(prefork_request *req, prefork_response *res, void *state)
{
    prefork_slice path = prefork_request_path(req);
    int large = path.len >= 6 && memcmp(path.data, "/write", 6) == 0;
    (void)state;
    if (large)
        memset(data, 2, SIZE);
    prefork_response_body(res, large ? "large" : "small", 5);
}
int main(void)
{
    prefork_server *server = prefork_server_new();
    int status;
    data = malloc(SIZE);
    memset(data, 1, SIZE);
    prefork_server_on_request(server, answer, NULL);
    prefork_server_on_start(server, started, NULL);
    prefork_server_listen(server, "127.0.0.1:0");
    prefork_server_set(server, "workers", "2");
    prefork_server_set(server, "max-memory", "50M");
    status = prefork_server_run(server);
    if (status != 0)
        fprintf(stderr, "%s\n", prefork_server_error(server));
    prefork_server_free(server);
    return status;
}
"#;
