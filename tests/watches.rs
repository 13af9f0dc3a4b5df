//! Descriptors of a handler that its worker watches: events, closes, numbers used again, duplicates, and their end.
#![allow(clippy::unwrap_used)]

mod util;

use std::fs;
use util::host::example;
use util::wakeups::{ask, delays_no_connection, sleeps, start, wait_for_trace};
use util::{Server, Start, Style, proc, wait_until};

/// Makes a pipe or a pair.
#[track_caller]
fn make(server: &Server, what: &str) -> [u32; 2] {
    let text = ask(server, what);
    let (one, other) = text.split_once(' ').unwrap();
    [one, other].map(|fd| fd.parse().unwrap())
}

#[test]
fn events_are_reported_as_they_come() {
    for style in Style::ALL {
        let server = start(style, 1).start();
        let [to_read, to_write] = make(&server, "pipe");
        assert_eq!(ask(&server, &format!("watch {to_read} 1")), "0");
        ask(&server, &format!("send {to_write} first"));
        wait_for_trace(&server, &format!("{to_read}:1:first "));
        ask(&server, &format!("send {to_write} second"));
        wait_for_trace(&server, &format!("{to_read}:1:first {to_read}:1:second "));
        assert_eq!(ask(&server, &format!("watch {to_write} 2")), "0");
        let so_far = format!("{to_read}:1:first {to_read}:1:second {to_write}:2: ");
        wait_for_trace(&server, &so_far);
        // It unwatches and closes at the end of the file.
        ask(&server, &format!("close {to_write}"));
        wait_for_trace(&server, &format!("{so_far}{to_read}:1: "));
        sleeps(&server);
        server.stop();
    }
}

#[test]
fn a_hang_up_is_reported_as_all_that_was_asked_for() {
    let server = start(Style::Request, 1).start();
    let [here, there] = make(&server, "pair");
    ask(&server, &format!("close {there}"));
    assert_eq!(ask(&server, &format!("watch {here} 3")), "0");
    wait_for_trace(&server, &format!("{here}:3: "));
    let [to_read, to_write] = make(&server, "pipe");
    ask(&server, &format!("close {to_read}"));
    assert_eq!(ask(&server, &format!("watch {to_write} 1")), "0");
    wait_for_trace(&server, &format!("{here}:3: {to_write}:1: "));
    server.stop();
}

#[test]
fn what_makes_no_sense_is_refused() {
    for style in Style::ALL {
        let server = start(style, 1).start();
        assert_eq!(ask(&server, "refused"), "-2 -2 -2 -2 -2 -2 -2 -1 -13");
        assert_eq!(ask(&server, "fork"), "-4");
        server.stop();
    }
}

#[test]
fn a_number_that_is_used_again_is_another_descriptor() {
    for style in Style::ALL {
        let server = start(style, 1).start();
        let [to_read, to_write] = make(&server, "pipe");
        ask(&server, &format!("watch {to_read} 1"));
        ask(&server, &format!("close {to_read}"));
        let reused = loop {
            let [here, there] = make(&server, "pipe");
            if here == to_read {
                break there;
            }
        };
        for fd in [to_write, reused] {
            ask(&server, &format!("send {fd} lost"));
        }
        sleeps(&server);
        assert_eq!(ask(&server, "trace"), "");
        assert_eq!(ask(&server, &format!("watch {to_read} 1")), "0");
        wait_for_trace(&server, &format!("{to_read}:1:lost "));
        assert_eq!(ask(&server, &format!("unwatch {to_read}")), "0");
        assert_eq!(ask(&server, &format!("unwatch {to_read}")), "-13");
        server.stop();
    }
}

/// With a duplicate in this process, or in one that was forked.
#[test]
fn a_descriptor_that_was_closed_is_not_called_though_a_duplicate_is_left() {
    for (duplicate, is_unwatched) in [("dup", false), ("dup", true), ("child", false), ("child", true)] {
        let server = start(Style::Request, 1).start();
        let [to_read, to_write] = make(&server, "pipe");
        let [other_read, other_write] = make(&server, "pipe");
        ask(&server, &format!("watch {to_read} 1"));
        ask(&server, &format!("watch {other_read} 1"));
        let duplicate_is = ask(&server, &format!("{duplicate} {to_read}"));
        ask(&server, &format!("close {to_read}"));
        if is_unwatched {
            assert_eq!(ask(&server, &format!("unwatch {to_read}")), "0");
        }
        // The next client gets this number.
        let mut client = server.connect();
        client.ask("early").unwrap();
        ask(&server, &format!("send {to_write} stale"));
        sleeps(&server);
        assert_eq!(client.ask("trace").unwrap(), "", "{duplicate}");
        assert_eq!(client.ask(&format!("unwatch {to_read}")).unwrap(), "-13");
        ask(&server, &format!("send {other_write} fresh"));
        wait_for_trace(&server, &format!("{other_read}:1:fresh "));
        drop(client);
        if duplicate == "child" {
            ask(&server, &format!("kill {duplicate_is}"));
        }
        server.stop();
    }
}

#[test]
fn a_duplicate_under_the_old_number_is_watched_anew() {
    let server = start(Style::Request, 1).start();
    let [to_read, to_write] = make(&server, "pipe");
    ask(&server, &format!("watch {to_read} 1"));
    let duplicate = ask(&server, &format!("dup {to_read}"));
    ask(&server, &format!("close {to_read}"));
    // Which the kernel cannot do any more.
    assert_eq!(ask(&server, &format!("unwatch {to_read}")), "0");
    ask(&server, &format!("move {duplicate} {to_read}"));
    assert_eq!(ask(&server, &format!("watch {to_read} 1")), "0");
    ask(&server, &format!("send {to_write} x"));
    wait_for_trace(&server, &format!("{to_read}:1:x "));
    server.stop();
}

#[test]
fn one_that_is_unwatched_or_changed_in_the_same_turn_is_not_called() {
    for style in Style::ALL {
        let server = start(style, 1).start();
        ask(&server, "duel");
        wait_for_trace(&server, "1 0");
        sleeps(&server);
        assert_eq!(ask(&server, "trace"), "1 0");
        server.stop();
    }
    let server = start(Style::Request, 1).start();
    let [to_read, to_write] = make(&server, "pipe");
    ask(&server, &format!("again {to_read}"));
    ask(&server, &format!("send {to_write} xx"));
    wait_for_trace(&server, "old new new ");
    server.stop();
}

#[test]
fn one_that_is_always_ready_delays_no_connection() {
    for style in Style::ALL {
        delays_no_connection(style, "spin", "w");
    }
}

#[test]
fn thousands_leave_nothing() {
    let server = start(Style::Request, 1).start();
    ask(&server, "many 100");
    let descriptors = proc::descriptors(server.worker_in(0)).len();
    // What is free but kept for the next of its size counts, once.
    ask(&server, "many 300");
    for _ in 0..10 {
        let left: i64 = ask(&server, "many 300").parse().unwrap();
        assert!(left.abs() < 1000, "{left}");
    }
    // The last client's connection is one for a moment yet.
    wait_until("no more descriptors than before", || {
        proc::descriptors(server.worker_in(0)).len() <= descriptors
    });
    server.stop();
}

#[test]
fn watches_go_on_while_the_worker_drains_and_end_before_it_stops() {
    for how in [libc::SIGTERM, libc::SIGHUP] {
        let mut server = start(Style::Data, 1).start();
        let [to_read, to_write] = make(&server, "pipe");
        ask(&server, &format!("watch {to_read} 1"));
        ask(&server, "spin");
        let mut client = server.connect();
        client.ask("early").unwrap();
        server.may_say("reload");
        server.signal(how);
        let log = server.dir.path().join("log");
        wait_until("the drain", || fs::read_to_string(&log).is_ok_and(|log| log.contains("drain")));
        client.ask(&format!("send {to_write} late")).unwrap();
        wait_until("the event", || client.ask("trace").unwrap().contains(":1:late"));
        client.end().unwrap();
        wait_until("its end", || fs::read_to_string(&log).unwrap().contains("end 0 -4 -13"));
        if how == libc::SIGHUP {
            server.rests();
            server.stop();
        } else {
            server.ends();
        }
    }
}

#[test]
fn descriptors_in_rust() {
    let start = Start::new(Style::Request).workers(1);
    start.dir().file("log");
    let words = [example("wakeups").into_os_string(), "request".into(), start.dir().path().into()];
    let mut server = start.program(words).start();
    assert_eq!(ask(&server, "watch"), "Ok(())");
    ask(&server, "send hello");
    wait_for_trace(&server, "Ready { read: true, write: false } hello ");
    assert_eq!(ask(&server, "unwatch"), "true false");
    assert_eq!(
        ask(&server, "refused"),
        "Bad file descriptor (os error 9); invalid input parameter; Operation not permitted (os error 1)"
    );
    for text in ["panicked at tests/hosts/wakeups.rs", "on purpose", "note: run with"] {
        server.may_say(text);
    }
    server.says("worker 1: watch: panicked");
    ask(&server, "panic watch");
    server.wait_for_line("worker 1: watch: panicked");
    // It would be called again at once.
    sleeps(&server);
    assert_eq!(server.lines_with("watch: panicked"), 1);
    ask(&server, "watch");
    let dir = std::sync::Arc::clone(&server.dir);
    server.stop();
    let log = fs::read_to_string(dir.path().join("log")).unwrap();
    assert_eq!(log, "stop: None, not possible here or now, the receiver does not exist or has ended\n");
}
