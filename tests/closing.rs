//! The end of a connection: the last answer arrives whole, whatever the client has sent beyond its request, and whenever.
#![allow(clippy::unwrap_used)]

mod util;

use std::fmt;
use std::io;
use std::time::{Duration, Instant};
use util::answers::{Answer, Checker, Form, Reached};
use util::load::at_once;
use util::reader::Reader;
use util::{Mode, Server, Start, Style, proc, wait_until};

fn start() -> Start {
    Start::new(Style::Request).module(Style::Request.answers()).workers(1).set("max-pending", "32M")
}

/// Reads the answer of this size, which must be complete, and the end of the connection, which must not be a reset.
#[track_caller]
fn assert_whole(reader: &mut Reader, size: usize, what: impl fmt::Display) {
    let ended = reader.rest();
    let mut checker = Checker::new([Answer { form: Form::Response, size, salt: 0 }]);
    let fed = checker.feed(&reader.read);
    assert!(
        fed.is_ok() && checker.end() == Reached::All && ended.is_ok(),
        "{what}: {fed:?}, {}, {ended:?}",
        checker.place()
    );
}

fn request(path: &str, minor: u8, close: bool) -> Vec<u8> {
    let close = if close { "Connection: close\r\n" } else { "" };
    format!("GET {path} HTTP/1.{minor}\r\nHost: a\r\n{close}\r\n").into_bytes()
}

const STRAY: [&[u8]; 4] = [b"\r\n", b"x", b"GET /s/0/0/1/1/0 HTTP/1.1\r\nHost: a\r\n\r\n", &[b'z'; 100_000]];

/// Sends `stray` while the handler runs, for each way to set a body.
fn send_while_the_handler_runs(server: &Server, stray: &[u8]) {
    for (how, size, minor) in [
        ('s', 1, 1),
        ('s', 1, 0),
        ('b', 100, 1),
        ('w', 100, 1),
        ('w', 100, 0),
        ('f', 100, 1),
        ('s', 100_000, 1),
        ('f', 100_000, 1),
        ('w', 300_000, 1),
        ('w', 300_000, 0),
        ('S', 1, 1),
    ] {
        let mut reader = Reader::connect(server.address());
        reader.send(&request(&format!("/gate/{how}/0/0/{size}/5000/0"), minor, how != 'S')).unwrap();
        let here = server.dir.file("here");
        wait_until("the handler runs", || here.exists());
        reader.send(stray).unwrap();
        server.dir.make("go");
        let what = format!("{how} {size} HTTP/1.{minor}, {} bytes at {:?}", stray.len(), server.address());
        assert_whole(&mut reader, size, what);
        wait_until("the handler has ended", || !here.exists());
        server.dir.remove("go");
    }
}

#[test]
fn bytes_that_come_while_the_handler_runs_cost_nothing_of_the_answer() {
    let server = start().start();
    STRAY.iter().for_each(|stray| send_while_the_handler_runs(&server, stray));
    server.stop();
}

#[test]
fn so_on_other_sockets_and_however_connections_are_accepted() {
    for mode in [Mode::Shared, Mode::ReusePort] {
        let server = start().accept(mode).start();
        send_while_the_handler_runs(&server, STRAY[0]);
        server.stop();
    }
    let server = start().set("defer-accept", "5s").start();
    send_while_the_handler_runs(&server, STRAY[0]);
    server.stop();
    let unix = start();
    let path = format!("unix:{}", unix.dir().file("socket").display());
    let server = unix.listen(path).start();
    STRAY.iter().for_each(|stray| send_while_the_handler_runs(&server, stray));
    server.stop();
}

#[test]
fn bytes_that_come_while_an_answer_is_sent_cost_nothing_of_it() {
    let server = start().start();
    // The first does not fit into the buffers between the two; the others are the kernel's to send when the client begins.
    for size in [8 << 20, 2 << 20, 400_000, 20_000] {
        for how in ['s', 'f', 'w'] {
            let mut reader = Reader::connect(server.address());
            reader.send(&request(&format!("/{how}/0/0/{size}/5000/0"), 1, true)).unwrap();
            reader.step(1000).unwrap();
            for _ in 0..20 {
                // One at a time, as the answer goes on.
                reader.send(b"\r\n").unwrap();
                reader.step(700).unwrap();
            }
            assert_whole(&mut reader, size, format!("{how} {size}"));
        }
    }
    server.stop();
}

/// Uploads to a server that refuses it at once, `part` bytes a time with a pause in between, and returns the answer.
fn upload(server: &Server, total: usize, part: usize, pause: Duration) -> io::Result<String> {
    let mut reader = Reader::connect(server.address());
    reader.send(format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {total}\r\n\r\n").as_bytes())?;
    let part = vec![b'z'; part];
    let mut sent = 0;
    while sent < total {
        reader.send(&part)?;
        sent += part.len();
        std::thread::sleep(pause);
    }
    reader.rest()?;
    Ok(String::from_utf8_lossy(&reader.read).into_owned())
}

#[test]
fn a_refusal_reaches_a_client_that_sends_everything_first() {
    let server = start().set("max-body", "1M").start();
    // Fast and long, beyond any buffer; and slow, with pauses, for more than 2 seconds.
    let answers = at_once(2, |i| match i {
        0 => upload(&server, 100 << 20, 1 << 16, Duration::ZERO),
        _ => upload(&server, 5 << 20, 1 << 20, Duration::from_millis(700)),
    });
    for answer in answers {
        assert!(answer.as_ref().is_ok_and(|a| a.starts_with("HTTP/1.1 413 ")), "{answer:?}");
    }
    server.stop();
}

#[test]
fn a_refused_client_that_neither_sends_nor_closes_is_closed_after_five_seconds() {
    let server = start().set("max-body", "1M").start();
    let worker = server.workers()[0];
    let before = proc::kinds(worker);
    let mut reader = Reader::connect(server.address());
    reader.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9999999\r\n\r\n").unwrap();
    reader.rest().unwrap();
    let start = Instant::now();
    assert_ne!(proc::kinds(worker), before, "the connection is closed already");
    wait_until("the server closes", || proc::kinds(worker) == before);
    let took = start.elapsed();
    assert!((Duration::from_secs(4)..Duration::from_secs(10)).contains(&took), "{took:?}");
    server.stop();
}
