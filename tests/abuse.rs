//! Clients that do their worst: they get an error or nothing, and cost nobody else anything.
#![allow(clippy::unwrap_used)]

mod util;

use std::time::Duration;
use util::{Fault, Start, Style, proc};

#[test]
fn resets_by_the_thousand_are_no_event() {
    for style in Style::ALL {
        let server = Start::new(style).start();
        let (pids, load) = (server.workers(), server.load(1, "pid"));
        for i in 0..1000 {
            let mut client = server.connect();
            match i % 4 {
                0 => {}
                1 => client.send_command("pid").unwrap(),
                2 => client.send(b"GET /pid HTTP/1.1\r\nHo").unwrap(),
                _ => drop(client.ask("pid")),
            }
            client.reset();
        }
        load.go_on_for(10);
        let tally = load.stop();
        assert!(tally.faults.is_empty(), "{style:?}: {tally:?}");
        assert_eq!(server.workers(), pids, "{style:?}");
        server.stop();
    }
}

#[test]
fn resets_in_the_backlog_are_no_event() {
    for style in Style::ALL {
        let server = Start::new(style).start();
        proc::freeze(server.pid);
        for _ in 0..300 {
            let mut client = server.connect();
            client.send_command("pid").unwrap();
            client.reset();
        }
        proc::signal(server.pid, libc::SIGCONT);
        assert_eq!(server.ask_at_once(10, "pid").answered(), 10, "{style:?}");
        server.stop();
    }
}

#[test]
fn garbage_is_refused_and_closed() {
    let server = Start::new(Style::Request).start();
    let random: Vec<u8> = (0..4096u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    for garbage in
        [&b"\0\0\0\0\0\0\r\n\r\n"[..], b"GET\r\n\r\n", b"\x16\x03\x01\x02\0\x01\0\x01\xfc", &random]
    {
        let mut client = server.connect();
        client.send(garbage).unwrap();
        client.end().unwrap();
        match client.http_answer() {
            Ok(answer) => assert_eq!(answer.status / 100, 4, "{answer:?}"),
            Err(fault) => assert_eq!(fault, Fault::Closed),
        }
    }
    assert!(server.ask("pid").is_ok());
    server.stop();
}

#[test]
fn slow_clients_are_cut_at_the_deadline_and_hold_up_nobody() {
    let server = Start::new(Style::Request).workers(1).set("header-timeout", "500ms").start();
    let mut slow: Vec<_> = (0..200).map(|_| server.connect()).collect();
    slow.iter_mut().for_each(|c| c.send(b"GET /pid HTTP/1.1\r\nHost: ").unwrap());
    for _ in 0..20 {
        assert!(server.ask("pid").is_ok());
        // One byte at a time does not move the deadline.
        for client in &mut slow {
            let _ = client.send(b"x");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    for client in &mut slow {
        assert!(matches!(client.http_answer(), Ok(a) if a.status == 408));
    }
    drop(slow);
    server.stop();
}
