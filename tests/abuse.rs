//! Hostile clients: they get an error or nothing, and do not affect others.
#![allow(clippy::unwrap_used)]

mod util;

use std::time::{Duration, Instant};
use util::{Fault, Start, Style, load, proc};

#[test]
fn thousands_of_resets_have_no_effect() {
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
fn resets_in_the_backlog_have_no_effect() {
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
fn slow_clients_are_cut_at_the_deadline_and_delay_no_other() {
    let server = Start::new(Style::Request).workers(1).set("header-timeout", "500ms").start();
    let mut slow: Vec<_> = (0..200).map(|_| server.connect()).collect();
    slow.iter_mut().for_each(|c| c.send(b"GET /pid HTTP/1.1\r\nHost: ").unwrap());
    for _ in 0..20 {
        assert!(server.ask("pid").is_ok());
        // A byte now and then does not postpone the deadline.
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

/// Three seconds of work at once: another client of the same worker waits for a part of it, not for all.
#[test]
fn a_client_that_pipelines_thousands_gets_a_fair_share() {
    const REQUESTS: usize = 3000;
    let server = Start::new(Style::Request).workers(1).start();
    let mut greedy = server.connect();
    let mut other = server.connect();
    other.ask("pid").unwrap();
    let mut half = greedy.half();
    let sender = std::thread::spawn(move || {
        half.send(&b"GET /sleep/1 HTTP/1.1\r\nHost: t\r\n\r\n".repeat(REQUESTS)).unwrap();
    });
    let reader = std::thread::spawn(move || {
        (0..REQUESTS).for_each(|_| assert_eq!(greedy.answer(), Ok("sleep".into())));
        greedy
    });
    let (mut slowest, mut asked, begun) = (Duration::ZERO, 0, Instant::now());
    while !reader.is_finished() {
        let begin = Instant::now();
        // On the connection it has, and on a new one.
        other.ask("pid").unwrap();
        server.ask("pid").unwrap();
        slowest = slowest.max(begin.elapsed());
        asked += 1;
    }
    let all = begun.elapsed();
    sender.join().unwrap();
    drop((reader.join().unwrap(), other));
    assert!(asked >= 5 && slowest < all / 3, "{asked} answers, the slowest in {slowest:?} of {all:?}");
    server.stop();
}

#[test]
fn endless_heads_and_bodies_take_a_bounded_amount_of_memory() {
    let server = Start::new(Style::Request).workers(1).set("max-body", "64K").start();
    let pids = [server.pid, server.workers()[0]];
    let peak = |pid: i32| proc::status(pid, "VmHWM").trim_end_matches(" kB").parse::<u64>().unwrap() / 1024;
    assert!(server.ask("pid").is_ok());
    let before = pids.map(peak);
    let floods = [
        ("a head", b"GET / HTTP/1.1\r\nHost: t\r\nX: ".to_vec(), b"x".repeat(1 << 20)),
        ("many fields", b"GET / HTTP/1.1\r\nHost: t\r\n".to_vec(), b"X: y\r\n".repeat(1 << 17)),
        ("a target", b"GET /".to_vec(), b"x".repeat(1 << 20)),
        ("empty lines", vec![], b"\r\n".repeat(1 << 19)),
        (
            "a body",
            b"POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 99999999999\r\n\r\n".to_vec(),
            vec![0; 1 << 20],
        ),
        (
            "chunks",
            b"POST / HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec(),
            b"8000\r\n"
                .iter()
                .copied()
                .chain(vec![b'x'; 0x8000])
                .chain(*b"\r\n")
                .collect::<Vec<u8>>()
                .repeat(256),
        ),
    ];
    for (what, start, more) in &floods {
        let answers = load::at_once(32, |_| {
            let mut client = server.connect();
            // It may be cut at any time.
            let _ = client.send(start).and_then(|()| client.send(more));
            let _ = client.end();
            client.http_answer().map(|a| a.status)
        });
        for answer in answers {
            match answer {
                Ok(status) => assert!([400, 413, 414, 431].contains(&status), "{what}: {status}"),
                Err(fault) => assert!(matches!(fault, Fault::Closed | Fault::Reset), "{what}: {fault:?}"),
            }
        }
        assert!(server.ask("pid").is_ok(), "{what}");
    }
    let grown = [0, 1].map(|i| peak(pids[i]) - before[i]);
    assert!(grown[0] <= 2 && grown[1] <= 16, "master and worker have grown by {grown:?} MiB");
    server.stop();
}
