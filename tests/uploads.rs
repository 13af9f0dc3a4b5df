//! Requests that a handler decides about after the head, and takes the body of as it comes.
#![allow(clippy::unwrap_used)]

mod util;

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use util::handler::compile;
use util::random::Random;
use util::{Client, Fault, Server, Start, Style, comes_true, proc, wait_until};

/// The statuses of `prefork.h`.
const NULL: i32 = -1;
const STATE: i32 = -4;
const LATE: i32 = -11;
const GONE: i32 = -13;
/// The exit code of a stop that had to cut connections.
const CUT: i32 = 6;

fn compiled(path: &str) -> PathBuf {
    let source = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap();
    compile(&source, &["-O2", "-Wextra", "-Werror"])
}

fn start() -> Start {
    Start::new(Style::Request).workers(1).module(compiled("tests/uploads.c"))
}

fn started(start: Start) -> Server {
    let mut server = start.start();
    server.may_say("counts");
    server
}

fn head(path: &str, fields: &str) -> String {
    format!("POST {path} HTTP/1.1\r\nHost: t\r\n{fields}\r\n")
}

fn sized(path: &str, length: usize) -> String {
    head(path, &format!("Content-Length: {length}\r\n"))
}

fn get(by: &mut Client, path: &str) -> String {
    by.send(format!("GET {path} HTTP/1.1\r\nHost: t\r\n\r\n").as_bytes()).unwrap();
    by.http_answer().unwrap().body
}

/// Heads, answers and releases so far.
fn counts(by: &mut Client) -> (u64, u64, u64) {
    let text = get(by, "/counts");
    let mut numbers = text.split(' ').map(|n| n.parse::<u64>().unwrap());
    let mut next = || numbers.next().unwrap();
    (next(), next(), next())
}

fn sum(bytes: &[u8]) -> u64 {
    bytes.iter().map(|b| u64::from(*b)).sum()
}

/// The resident memory of a process at its largest, in KiB.
fn peak(pid: i32) -> u64 {
    proc::status(pid, "VmHWM").trim_end_matches(" kB").parse().unwrap()
}

#[test]
fn a_gigabyte_is_taken_in_little_memory_while_others_are_served() {
    let server = started(start());
    let pid = server.workers()[0];
    let mut by = server.connect();
    let block: Vec<u8> = (0..1_048_576u32).map(|i| (i % 251) as u8).collect();
    let sending = {
        let mut client = server.connect();
        let block = block.clone();
        std::thread::spawn(move || {
            client.send(sized("/pieces", 1 << 30).as_bytes()).unwrap();
            for _ in 0..1024 {
                client.send(&block).unwrap();
            }
            client.http_answer().unwrap().body
        })
    };
    while !sending.is_finished() {
        assert_eq!(get(&mut by, "/whole"), "0 0 1");
    }
    let answer = sending.join().unwrap();
    assert!(answer.starts_with(&format!("{} {} ", 1u64 << 30, 1024 * sum(&block))), "{answer}");
    assert!(peak(pid) < 64 * 1024, "{} KiB", peak(pid));
    server.stop();
}

/// Sends until the kernel takes no more for a while, or `most` is sent; returns how much was.
fn send_what_goes(stream: &mut TcpStream, most: usize) -> usize {
    let block = [b'x'; 65_536];
    let mut sent = 0;
    stream.set_nonblocking(true).unwrap();
    comes_true(Duration::from_millis(500), || {
        while sent < most {
            match stream.write(&block[..block.len().min(most - sent)]) {
                Ok(n) => sent += n,
                Err(e) if e.kind() == ErrorKind::WouldBlock => return false,
                Err(e) => panic!("{e}"),
            }
        }
        true
    });
    stream.set_nonblocking(false).unwrap();
    sent
}

#[test]
fn a_client_whose_body_is_paused_cannot_send_on() {
    const SIZE: usize = 64 << 20;
    let server = started(start().set("body-timeout", "500ms"));
    let pid = server.workers()[0];
    let mut by = server.connect();
    let mut stream = TcpStream::connect(server.tcp()).unwrap();
    stream.write_all(sized("/pause", SIZE).as_bytes()).unwrap();
    let mut sent = send_what_goes(&mut stream, SIZE);
    // What the kernel holds on both sides.
    assert!(sent < 16 << 20, "{sent}");
    assert!(peak(pid) < 32 * 1024);
    // No deadline comes while the handler wants it so.
    assert!(!comes_true(Duration::from_millis(800), || send_what_goes(&mut stream, SIZE - sent) > 0));
    let sending = std::thread::spawn(move || {
        let block = [b'x'; 65_536];
        while sent < SIZE {
            let n = block.len().min(SIZE - sent);
            stream.write_all(&block[..n]).unwrap();
            sent += n;
        }
        let (mut answer, mut part) = (String::new(), [0; 1000]);
        while !answer.contains("\r\n\r\n") || answer.ends_with("\r\n\r\n") {
            let n = stream.read(&mut part).unwrap();
            assert!(n > 0, "{answer}");
            answer += str::from_utf8(&part[..n]).unwrap();
        }
        answer
    });
    let id = get(&mut by, "/paused");
    let resumed = || get(&mut by, &format!("/resume/{id}"));
    let resumes = std::iter::repeat_with(resumed).take_while(|status| status == "0").count();
    assert!(resumes >= SIZE / (1 << 20), "{resumes}");
    let answer = sending.join().unwrap();
    assert!(answer.contains(&format!("\r\n\r\n{SIZE} {} ", SIZE * usize::from(b'x'))), "{answer}");
    assert!(peak(pid) < 32 * 1024);
    server.stop();
}

#[test]
fn a_timer_resumes_a_body_piece_by_piece() {
    let server = started(start());
    let mut client = server.connect();
    let body: Vec<u8> = (0..3_000_000u32).map(|i| (i % 253) as u8).collect();
    client.send(sized("/tick", body.len()).as_bytes()).unwrap();
    client.send(&body).unwrap();
    let answer = client.http_answer().unwrap().body;
    assert!(answer.starts_with(&format!("{} {} ", body.len(), sum(&body))), "{answer}");
    // The connection is one like others.
    assert_eq!(get(&mut client, "/whole"), "0 0 1");
    server.stop();
}

#[test]
fn curl_sends_no_body_that_is_refused() {
    let server = started(start());
    let file = server.dir.file("body");
    std::fs::write(&file, vec![b'x'; 2_000_000]).unwrap();
    let curl = |path: &str, size: &str| {
        let mut curl = Command::new("curl");
        curl.args([
            "-sv",
            "--max-time",
            "20",
            "--expect100-timeout",
            "20",
            "-H",
            "Expect: 100-continue",
            "-T",
        ]);
        let out = curl.arg(&file).arg(format!("http://{}{path}", server.tcp())).args(["-w", size]).output();
        let out = out.unwrap();
        (String::from_utf8(out.stdout).unwrap(), String::from_utf8_lossy(&out.stderr).into_owned())
    };
    for status in [401, 413, 417, 503] {
        let (answer, wire) = curl(&format!("/{status}"), " %{http_code} %{size_upload}");
        assert_eq!(answer, format!("refused {status} 0"), "{wire}");
        assert!(!wire.contains("100 Continue"), "{wire}");
    }
    let (answer, wire) = curl("/pieces", " %{http_code} %{size_upload}");
    assert!(answer.starts_with(&format!("2000000 {} ", 2_000_000 * u64::from(b'x'))), "{answer}");
    assert!(answer.ends_with(" 200 2000000"), "{answer}");
    assert!(wire.contains("100 Continue"), "{wire}");
    server.stop();
}

#[test]
fn a_client_that_does_not_wait_can_read_why_it_is_refused() {
    let server = started(start());
    for (path, status, body) in [("/401", 401, "refused"), ("/stop", 413, "")] {
        let mut client = server.connect();
        client.send(sized(path, 4_000_000).as_bytes()).unwrap();
        for _ in 0..40 {
            // It is read and dropped; the connection must not be reset under the answer.
            client.send(&[b'x'; 100_000]).unwrap();
        }
        let answer = client.http_answer().unwrap();
        assert_eq!(answer.status, status);
        assert!(answer.body.starts_with(body));
        assert!(answer.head.contains("Connection: close\r\n"));
        client.end().unwrap();
        assert_eq!(client.rest().unwrap(), b"");
    }
    let mut client = server.connect();
    client.send(format!("{}{}", head("/401", ""), head("/whole", "")).as_bytes()).unwrap();
    assert_eq!(client.http_answer().unwrap().status, 401);
    assert_eq!(client.http_answer().unwrap().body, "0 0 1");
    server.stop();
}

#[test]
fn chunks_of_any_size_and_pipelines_arrive_to_the_byte() {
    let server = started(start());
    let mut random = Random::new(10);
    for _ in 0..40 {
        let mut client = server.connect();
        let (mut wire, mut expected) = (Vec::new(), Vec::new());
        for _ in 0..=random.below(4) {
            let path = random.one_of(&["/pieces", "/whole", "/tick"]);
            let body: Vec<u8> = (0..random.below(200_000)).map(|_| random.below(256) as u8).collect();
            expected.push(format!("{} {} ", body.len(), sum(&body)));
            if random.once_in(2) {
                wire.extend_from_slice(sized(path, body.len()).as_bytes());
                wire.extend_from_slice(&body);
                continue;
            }
            wire.extend_from_slice(head(path, "Transfer-Encoding: chunked\r\n").as_bytes());
            let mut rest = &body[..];
            while !rest.is_empty() {
                let most = random.one_of(&[10, 1000, 100_000]);
                let (chunk, after) = rest.split_at((random.below(most) as usize + 1).min(rest.len()));
                wire.extend_from_slice(format!("{:X}\r\n", chunk.len()).as_bytes());
                wire.extend_from_slice(chunk);
                wire.extend_from_slice(b"\r\n");
                rest = after;
            }
            wire.extend_from_slice(b"0\r\n\r\n");
        }
        let mut rest = &wire[..];
        while !rest.is_empty() {
            let most = random.one_of(&[3, 5000, 500_000]);
            let (part, after) = rest.split_at((random.below(most) as usize + 1).min(rest.len()));
            client.send(part).unwrap();
            rest = after;
            if rest.len() < 100_000 && random.once_in(50) {
                std::thread::sleep(Duration::from_millis(1));
            }
            if most == 3 && random.once_in(20) {
                client.send(rest).unwrap();
                break;
            }
        }
        for start in &expected {
            let answer = client.http_answer().unwrap().body;
            assert!(answer.starts_with(start), "{answer} for {start}");
        }
    }
    server.stop();
}

#[test]
fn clients_that_leave_at_any_stage_are_released() {
    let server = started(start().set("body-timeout", "1s"));
    let mut by = server.connect();
    let mut begun = 0;
    for round in 0..3 {
        for path in ["/pieces", "/pause", "/whole"] {
            for sent in ["", "a", "abc"] {
                let mut client = server.connect();
                client.send((sized(path, 10) + sent).as_bytes()).unwrap();
                begun += 1;
                wait_until("the head is read", || counts(&mut by).0 == begun);
                match round {
                    0 => client.reset(),
                    1 => drop(client),
                    // What is paused stays.
                    _ if path == "/pause" && !sent.is_empty() => client.reset(),
                    // The timeout comes.
                    _ => assert_eq!(client.http_answer().unwrap().status, 408),
                }
                if round == 1 && path == "/pause" && !sent.is_empty() {
                    // A plain end is seen when it is read.
                    let id = get(&mut by, "/paused");
                    assert_eq!(get(&mut by, &format!("/resume/{id}")), "0");
                }
                wait_until("it is released", || counts(&mut by).2 == begun);
            }
        }
    }
    server.stop();
}

#[test]
fn calls_at_the_wrong_time_are_refused() {
    let server = started(start());
    let mut client = server.connect();
    client.send((sized("/calls", 3) + "abc").as_bytes()).unwrap();
    let expected = [STATE, LATE, LATE, LATE, NULL, NULL].map(|n| n.to_string()).join(" ");
    assert_eq!(client.http_answer().unwrap().body, expected);
    assert_eq!(get(&mut client, "/resume/12345"), GONE.to_string());
    server.stop();
}

/// A client in the middle of its body, which has been read so far.
fn half(server: &Server, by: &mut Client) -> Client {
    let before = counts(by).0;
    let mut client = server.connect();
    client.send((sized("/pieces", 6) + "abc").as_bytes()).unwrap();
    wait_until("the head is read", || counts(by).0 > before);
    client
}

#[test]
fn a_stop_waits_for_the_rest_of_a_body() {
    let mut server = start().start();
    server.may_say("counts");
    let mut by = server.connect();
    let mut client = half(&server, &mut by);
    server.signal(libc::SIGTERM);
    wait_until("new clients are refused", || server.refuses());
    assert!(!comes_true(Duration::from_millis(300), || client.has_bytes()));
    client.send(b"def").unwrap();
    let answer = client.http_answer().unwrap();
    assert!(answer.body.starts_with("6 597 "), "{answer:?}");
    assert!(answer.head.contains("Connection: close\r\n"));
    server.ends();
}

#[test]
fn a_stop_ends_at_its_deadline_whatever_has_not_come() {
    let mut server = start().set("drain-timeout", "500ms").start();
    server.says("counts 2 0 2");
    server.says("has ended at its deadline, and 2 connections with it");
    let mut by = server.connect();
    let mut client = half(&server, &mut by);
    let mut paused = server.connect();
    paused.send((sized("/pause", 6) + "abc").as_bytes()).unwrap();
    wait_until("it is paused", || get(&mut by, "/paused") != "0");
    server.signal(libc::SIGTERM);
    for client in [&mut client, &mut paused] {
        assert!(matches!(client.http_answer(), Err(Fault::Closed | Fault::Reset)));
    }
    server.ends_with(CUT);
}

#[test]
fn a_reload_leaves_the_rest_of_a_body_to_the_old_worker() {
    let mut server = started(start().own_module());
    let old = server.workers()[0];
    server.says("reload to generation");
    let mut by = server.connect();
    let mut client = half(&server, &mut by);
    server.signal(libc::SIGHUP);
    wait_until("there is a new worker", || server.workers().iter().any(|pid| *pid != old));
    client.send(b"def").unwrap();
    assert!(client.http_answer().unwrap().body.starts_with("6 597 "));
    wait_until("the old one has gone", || !server.workers().contains(&old));
    server.stop();
}

#[test]
fn a_killed_worker_costs_its_clients_and_no_others() {
    let mut server = started(start());
    let pid = server.workers()[0];
    server.says("died: SIGKILL");
    server.may_say("lost");
    let mut by = server.connect();
    let mut client = half(&server, &mut by);
    proc::signal(pid, libc::SIGKILL);
    assert!(matches!(client.http_answer(), Err(Fault::Closed | Fault::Reset)));
    server.replaces(pid);
    let mut next = server.connect();
    next.send((sized("/pieces", 6) + "abcdef").as_bytes()).unwrap();
    assert!(next.http_answer().unwrap().body.starts_with("6 597 "));
    server.stop();
}

#[test]
fn a_handler_in_rust_does_the_same_and_its_panics_cost_one_request() {
    let program = util::host::example("uploads").into_os_string();
    let server = Start::new(Style::Request).workers(1).program([program]);
    let mut server = server.env("RUST_BACKTRACE", Some("0".as_ref())).start();
    let pid = server.workers()[0];
    let body = vec![b'x'; 1_000_000];
    let mut client = server.connect();
    client.send(sized("/", body.len()).as_bytes()).unwrap();
    client.send(&body).unwrap();
    assert_eq!(client.http_answer().unwrap().body, "1000000");
    client.send(head("/length", "Transfer-Encoding: chunked\r\n").as_bytes()).unwrap();
    assert_eq!(client.http_answer().unwrap().status, 411);
    for path in ["/panic-head", "/panic-body", "/panic"] {
        server.says(&format!("POST {path} from "));
        server.may_say("as asked");
        let mut client = server.connect();
        client.send((sized(path, 3) + "abc").as_bytes()).unwrap();
        assert_eq!(client.http_answer().unwrap().status, 500, "{path}");
    }
    for line in ["panicked at", "RUST_BACKTRACE"] {
        server.may_say(line);
    }
    // A refusal that is finished later, of a client that sends on meanwhile.
    let mut client = server.connect();
    client.send(sized("/later", 3_000_000).as_bytes()).unwrap();
    for _ in 0..30 {
        client.send(&[b'x'; 100_000]).unwrap();
    }
    let answer = client.http_answer().unwrap();
    assert_eq!(answer.status, 401);
    assert!(answer.head.contains("Connection: close\r\n"));
    let mut by = server.connect();
    assert_eq!(get(&mut by, "/dropped"), "6");
    assert_eq!(server.workers(), [pid]);
    server.stop();
}

#[test]
fn workers_of_a_killed_master_release_what_has_not_come_in_time() {
    let mut server = start().set("drain-timeout", "500ms").start();
    server.says("counts 2 0 2");
    let mut by = server.connect();
    let mut client = half(&server, &mut by);
    let mut paused = server.connect();
    paused.send((sized("/pause", 6) + "abc").as_bytes()).unwrap();
    wait_until("it is paused", || get(&mut by, "/paused") != "0");
    proc::signal(server.pid, libc::SIGKILL);
    for client in [&mut client, &mut paused] {
        assert!(matches!(client.http_answer(), Err(Fault::Closed | Fault::Reset)));
    }
    server.dies_out();
}
