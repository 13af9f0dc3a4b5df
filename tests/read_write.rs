//! Connections as `Read`, `Write` and `BufRead`, deadlines of their calls, and bodies from and to such.
#![allow(clippy::unwrap_used)]

mod util;

use std::thread;
use std::time::{Duration, Instant};
use util::host::{Link, example, program, search};
use util::{Client, Server, Start, Style, wait_until};

fn host(kind: &str) -> Server {
    let host = example("read_write");
    Start::new(Style::Request)
        .workers(1)
        .program([host.as_os_str(), kind.as_ref(), "127.0.0.1:0".as_ref()])
        .start()
}

/// Reads a line.
#[track_caller]
fn line(client: &mut Client) -> String {
    let mut line = Vec::new();
    while line.last() != Some(&b'\n') {
        let mut byte = [0];
        assert_eq!(client.read_some(&mut byte), Ok(1), "after {line:?}");
        line.push(byte[0]);
    }
    line.pop();
    String::from_utf8(line).unwrap()
}

#[test]
fn nothing_is_lost_between_a_reader_and_a_read() {
    let server = host("blocking");
    let mut client = server.connect();
    // All at once: the first reader reads it all ahead.
    client.send(b"copy 5\nabcderaw 3\nxyzcopy 0\nlines 2\none\ntwo\n").unwrap();
    let mut bytes = [0; 8];
    let mut n = 0;
    while n < bytes.len() {
        n += client.read_some(&mut bytes[n..]).unwrap();
    }
    assert_eq!(&bytes, b"abcdexyz");
    assert_eq!(line(&mut client), "one+two");
    // More than it reads at once, in pieces.
    let large: Vec<u8> = (0..500_000_u32).map(|n| n as u8).collect();
    let half = client.half();
    let sent = [&b"copy 500000\n"[..], &large, b"raw 500000\n", &large].concat();
    let writer = thread::spawn(move || {
        let mut half = half;
        for piece in sent.chunks(7001) {
            half.send(piece).unwrap();
        }
        half.end().unwrap();
    });
    let back = client.rest().unwrap();
    writer.join().unwrap();
    assert!(back == [&large[..], &large].concat(), "{} bytes", back.len());
    server.stop();
}

#[test]
fn calls_of_a_blocking_connection_have_times_of_their_own() {
    let server = host("blocking");
    let mut client = server.connect();
    client.send(b"read 50\n").unwrap();
    assert_eq!(line(&mut client), "TimedOut");
    // A byte now and then does not put the deadline off.
    client.send(b"deadline 200\n").unwrap();
    let start = Instant::now();
    while !client.has_bytes() {
        client.send(b"x").unwrap();
        thread::sleep(Duration::from_millis(20));
        assert!(start.elapsed() < util::PATIENCE);
    }
    assert!(start.elapsed() >= Duration::from_millis(190));
    assert_eq!(line(&mut client), "TimedOut true");
    drop(client);
    let mut client = server.connect();
    client.send(b"write 50\n").unwrap();
    wait_until("a write that is over", || server.stdout().contains(&"write: TimedOut".to_owned()));
    drop(client);
    server.stop();
}

#[test]
fn a_host_in_c_sets_them_too() {
    let host = program("tests/deadlines.c", "deadlines", Link::Shared);
    let words = ["env".into(), search().into(), host.into_os_string(), "127.0.0.1:0".into()];
    let server = Start::new(Style::Request).workers(1).program(words).start();
    let mut client = server.connect();
    client.send(b"x").unwrap();
    assert_eq!(line(&mut client), "invalid -2 -1");
    assert_eq!(line(&mut client), "read -16 write 1 read -16");
    client.end().unwrap();
    server.stop();
}

#[test]
fn a_stream_takes_what_it_has_room_for_and_says_so() {
    let server = host("stream");
    let mut client = server.connect();
    client.send(b"no line").unwrap();
    let says = |text: &str| wait_until(text, || server.stdout().iter().any(|line| line.starts_with(text)));
    says("read_line: WouldBlock \"no line\"");
    client.send(b"go\n").unwrap();
    says("wrote ");
    says("timeouts: Unsupported");
    let first = server.stdout().into_iter().find(|line| line.starts_with("wrote ")).unwrap();
    assert!(first.ends_with(&format!(" and {}: WouldBlock Err(OutOfMemory)", 1 << 20)), "{first}");
    let mut bytes = vec![0; 1 << 20];
    while !server.stdout().iter().any(|line| line == "there is room") {
        assert!(client.read_some(&mut bytes).unwrap() > 0);
    }
    drop(client);
    server.stop();
}

/// Asks for a path on a connection of its own; returns the head and the body, decoded.
fn get(server: &Server, request: &str) -> (String, Vec<u8>, bool) {
    let mut client = server.connect();
    client.send(format!("{request}\r\nHost: t\r\nConnection: close\r\n\r\n").as_bytes()).unwrap();
    read(&mut client)
}

/// Reads an answer until the end of the connection.
fn read(client: &mut Client) -> (String, Vec<u8>, bool) {
    let answer = client.rest().unwrap_or_default();
    let end = answer.windows(4).position(|w| w == b"\r\n\r\n").unwrap() + 4;
    let head = String::from_utf8_lossy(&answer[..end]).into_owned();
    let (mut body, mut rest) = (Vec::new(), &answer[end..]);
    if !head.contains("chunked") {
        return (head, rest.to_vec(), true);
    }
    while let Some(at) = rest.iter().position(|b| *b == b'\r') {
        let size = usize::from_str_radix(str::from_utf8(&rest[..at]).unwrap(), 16).unwrap();
        if size == 0 {
            return (head, body, true);
        }
        let Some(part) = rest.get(at + 2..at + 2 + size) else { break };
        body.extend_from_slice(part);
        rest = &rest[(at + 4 + size).min(rest.len())..];
    }
    (head, body, false)
}

fn counted(n: usize) -> Vec<u8> {
    (0..n).map(|n| n as u8).collect()
}

#[test]
fn a_body_comes_from_any_source() {
    let mut server = host("http");
    let (head, body, is_whole) = get(&server, "GET /from?3000000 HTTP/1.1");
    assert!(
        head.starts_with("HTTP/1.1 200 ") && is_whole && body == counted(3_000_000),
        "{head} {}",
        body.len()
    );
    let (_, body, is_whole) = get(&server, "GET /from?0 HTTP/1.1");
    assert!(body.is_empty() && is_whole);
    // It has more than its length: the rest is not read.
    let (head, body, _) = get(&server, "GET /length?400000 HTTP/1.1");
    assert!(head.contains("Content-Length: 300000\r\n") && body == counted(300_000), "{head} {}", body.len());
    wait_until("it is dropped", || server.stdout().iter().any(|l| l == "source dropped at 300000"));
    // It has less: the client can see it.
    server.says("more: the source of a body ended 1 bytes short of its length");
    let (_, body, _) = get(&server, "GET /length?299999 HTTP/1.1");
    assert_eq!(body.len(), 299_999);
    server.says("the disk is gone");
    let (_, body, is_whole) = get(&server, "GET /fails?1000 HTTP/1.1");
    assert!(body == counted(1000) && !is_whole);
    let (head, body, _) = get(&server, "HEAD /length?400000 HTTP/1.1");
    assert!(head.contains("Content-Length: 300000\r\n") && body.is_empty());
    wait_until("it is not read", || server.stdout().iter().any(|l| l == "source dropped at 0"));
    // A client that leaves.
    let mut client = server.connect();
    client.send(b"GET /from?900000000 HTTP/1.1\r\nHost: t\r\n\r\n").unwrap();
    client.wait_for_bytes().unwrap();
    client.reset();
    let dropped = || server.stdout().iter().filter(|line| line.starts_with("source dropped")).count();
    wait_until("it is dropped", || dropped() == 7);
    server.stop();
}

#[test]
fn a_body_is_written_by_any_writer() {
    let mut server = host("http");
    let (_, body, is_whole) = get(&server, "GET /writer?20000 HTTP/1.1");
    let lines: String = (0..20_000).map(|n| format!("line {n}\n")).collect();
    assert!(is_whole && body == lines.as_bytes());
    server.says(": the response has begun already");
    assert!(get(&server, "GET /late HTTP/1.1").0.starts_with("HTTP/1.1 500 "));
    server.stop();
}

#[test]
fn header_fields_are_there_in_order_and_by_name() {
    let server = host("http");
    let mut client = server.connect();
    let fields = b"GET / HTTP/1.1\r\nX-Many: 1\r\nx-bytes: \xff\r\nx-many: 2, 3\r\nHost: t\r\nConnection: close\r\n\r\n";
    client.send(fields).unwrap();
    let (_, body, _) = read(&mut client);
    let text = String::from_utf8(body).unwrap();
    for expected in [
        "X-One=1 x-two=\\xff own\n",
        "X-Many=1 x-bytes=\\xff x-many=2, 3 Host=t Connection=close ",
        "many: 1+2, 3\n",
        "text: Some(\"1\") None None\n",
    ] {
        assert!(text.contains(expected), "{expected:?}: {text}");
    }
    server.stop();
}
