//! Timers of a handler, in C and in Rust: their times, their order, what they may do, and their end.
#![allow(clippy::unwrap_used)]

mod util;

use std::fs;
use std::time::Duration;
use util::host::example;
use util::wakeups::{ask, delays_no_connection, log, sleeps, start, wait_for_trace};
use util::{Server, Start, Style, comes_true, proc, wait_until};

const STATE: &str = "-4";
const GONE: &str = "-13";

#[test]
fn timers_fire_in_the_order_of_their_times_and_never_early() {
    for style in Style::ALL {
        let server = start(style, 1).start();
        wait_until("the timer of worker_start", || log(&server) == ["first"]);
        let before: u64 = ask(&server, "after 150 c").parse().unwrap();
        for (n, command) in ["after 50 a", "after 100 b", "after 0 -"].into_iter().enumerate() {
            assert_eq!(ask(&server, command), (before + 1 + n as u64).to_string());
        }
        wait_for_trace(&server, "-abc");
        assert_eq!(ask(&server, "early"), "0");
        assert_eq!(ask(&server, &format!("stop {before}")), GONE);
        assert_eq!(ask(&server, "stop 12345"), GONE);
        server.stop();
    }
}

#[test]
fn a_repeated_timer_skips_what_it_missed() {
    for style in Style::ALL {
        let server = start(style, 1).start();
        let id = ask(&server, "every 30 t");
        // A call in a period that has had one already counts as early.
        for _ in 0..5 {
            ask(&server, "sleep 100");
        }
        let ticks = ask(&server, "trace").len();
        assert!((2..30).contains(&ticks), "{ticks}");
        wait_until("more of them", || ask(&server, "trace").len() > ticks + 3);
        assert_eq!(ask(&server, &format!("stop {id}")), "0");
        assert_eq!(ask(&server, &format!("stop {id}")), GONE);
        let ticks = ask(&server, "trace");
        ask(&server, "after 100 .");
        wait_for_trace(&server, &format!("{ticks}."));
        assert_eq!(ask(&server, "early"), "0");
        server.stop();
    }
}

#[test]
fn a_timer_may_stop_itself_and_others_that_are_due() {
    for style in Style::ALL {
        let server = start(style, 1).start();
        ask(&server, "due");
        wait_for_trace(&server, &format!("0 {GONE} {GONE} third"));
        ask(&server, "self");
        wait_for_trace(&server, &format!("0 {GONE}"));
        server.stop();
    }
}

#[test]
fn a_timer_that_starts_itself_again_at_once_delays_no_connection() {
    for style in Style::ALL {
        delays_no_connection(style, "zero", "z");
    }
}

#[test]
fn a_hundred_thousand_starts_and_stops_leave_nothing() {
    for style in Style::ALL {
        let server = start(style, 1).start();
        wait_until("the timer of worker_start", || log(&server) == ["first"]);
        ask(&server, "churn 1000");
        let rss = proc::status(server.worker_in(0), "RssAnon");
        let left: i64 = ask(&server, "churn 100000").parse().unwrap();
        assert!(left.abs() < 1000, "{left}");
        assert_eq!(proc::status(server.worker_in(0), "RssAnon"), rss);
        server.stop();
    }
}

#[test]
fn a_time_that_never_comes_costs_nothing() {
    let server = start(Style::Request, 1).start();
    wait_until("the timer of worker_start", || log(&server) == ["first"]);
    sleeps(&server);
    server.stop();
}

#[test]
fn timers_go_on_while_the_worker_drains_and_end_before_it_stops() {
    let server = start(Style::Data, 1).start();
    ask(&server, "after 3600000 never");
    let mut client = server.connect();
    client.ask("early").unwrap();
    server.signal(libc::SIGTERM);
    wait_until("ticks", || log(&server).iter().filter(|line| *line == "tick").count() > 3);
    assert_eq!(log(&server)[..2], ["first", "drain"]);
    client.end().unwrap();
    let dir = std::sync::Arc::clone(&server.dir);
    server.ends();
    let log = fs::read_to_string(dir.path().join("log")).unwrap();
    assert!(log.ends_with("tick\nend 0 -4 -13\n"), "{log}");
}

#[test]
fn a_worker_does_not_wait_for_its_timers() {
    for style in Style::ALL {
        let mut server = start(style, 1).start();
        for command in ["after 3600000 never", "every 3600000 never", "zero"] {
            ask(&server, command);
        }
        server.reload();
        server.rests();
        wait_until("the end of the first worker", || log(&server).iter().any(|line| line == "end 0 -4 -13"));
        server.stop();
    }
}

#[test]
fn a_timer_that_does_not_return_is_a_hang() {
    let mut server = start(Style::Request, 1).set("timeout", "200ms").start();
    server.says("hangs in its handler");
    server.says("died: SIGABRT");
    let worker = server.worker_in(0);
    ask(&server, "hang");
    server.replaces(worker);
    server.stop();
}

#[test]
fn a_process_that_a_handler_has_forked_has_no_timers() {
    let server = start(Style::Request, 1).start();
    assert_eq!(ask(&server, "fork"), STATE);
    server.stop();
}

/// `tests/hosts/wakeups.rs`.
fn host(style: Style) -> Server {
    let name = if style == Style::Request { "request" } else { "connection" };
    let start = Start::new(style).workers(1);
    start.dir().file("log");
    let words = [example("wakeups").into_os_string(), name.into(), start.dir().path().into()];
    start.program(words).start()
}

#[test]
fn timers_in_rust() {
    for style in [Style::Request, Style::Connection] {
        let mut server = host(style);
        assert_eq!(ask(&server, "after 20 a"), "Some(Timer(1))");
        wait_for_trace(&server, "a");
        assert_eq!(ask(&server, "every 5 b"), "Some(Timer(2))");
        wait_until("several calls", || ask(&server, "trace").starts_with("abbb"));
        assert_eq!(ask(&server, "stop 2"), "true");
        assert_eq!(ask(&server, "stop 2"), "false");
        server.says("worker 1: timer: panicked");
        server.may_say("panicked at tests/hosts/wakeups.rs");
        server.may_say("on purpose");
        server.may_say("note: run with");
        ask(&server, "panic timer");
        wait_until("a second panic of the repeated timer", || server.lines_with("timer: panicked") > 1);
        // It owns a value that panics when it is dropped.
        ask(&server, "after 3600000 drop");
        let dir = std::sync::Arc::clone(&server.dir);
        server.stop();
        let log = fs::read_to_string(dir.path().join("log")).unwrap();
        assert_eq!(
            log,
            "dropped: None\nstop: None, not possible here or now, the receiver does not exist or has ended\n"
        );
    }
}

#[test]
fn a_turn_with_many_timers_serves_connections_too() {
    let server = host(Style::Request);
    ask(&server, "many 2000");
    // Each takes a millisecond.
    assert!(comes_true(Duration::from_millis(500), || !ask(&server, "trace").is_empty()));
    server.stop();
}
