//! Bodies of any size and any duration: written by a callback when there is room, flushed, ticked by timers.
#![allow(clippy::unwrap_used)]

mod util;

use std::path::PathBuf;
use std::sync::LazyLock;
use std::time::{Duration, Instant};
use util::handler::{Mode, compile};
use util::host::example;
use util::later::{GONE, LATE, STATE, UNKNOWN, ask, get, keep, start, tell};
use util::reader::Reader;
use util::{Client, Fault, Server, Start, Style, comes_true, proc, wait_until};

fn rust() -> Server {
    static PROGRAM: LazyLock<PathBuf> = LazyLock::new(|| example("later"));
    Start::new(Style::Request).workers(1).program([PROGRAM.to_str().unwrap()]).start()
}

/// The memory of a process in RAM, in MiB.
fn memory(pid: i32) -> u64 {
    proc::status(pid, "VmRSS").trim_end_matches("kB").trim().parse::<u64>().unwrap() / 1024
}

fn is_body(bytes: &[u8]) -> bool {
    bytes.iter().enumerate().all(|(i, byte)| *byte == (i % 251) as u8)
}

/// The content of a chunked body, and true if it has its end.
fn unchunk(mut text: &[u8]) -> (Vec<u8>, bool) {
    let mut content = Vec::new();
    while let Some(end) = text.windows(2).position(|w| w == b"\r\n") {
        let size = usize::from_str_radix(str::from_utf8(&text[..end]).unwrap(), 16).unwrap();
        if size == 0 {
            return (content, text == b"0\r\n\r\n");
        }
        let part = &text[end + 2..text.len().min(end + 2 + size)];
        content.extend_from_slice(part);
        text = &text[text.len().min(end + 4 + size)..];
    }
    (content, false)
}

#[test]
fn a_large_body_arrives_whole_however_slowly_the_client_reads_and_takes_little_memory() {
    let mut server = start(1).set("max-pending", "1M").start();
    server.says("done stream");
    let pid = server.workers()[0];
    let before = memory(pid);
    let mut client = Reader::connect_with(server.address(), Some(64 << 10));
    client.send(b"GET /stream/42000000/50000 HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n").unwrap();
    let begun = Instant::now();
    let mut most = 0;
    // 5 MB/s.
    loop {
        let due = Duration::from_micros(client.read.len() as u64 / 5);
        std::thread::sleep(due.saturating_sub(begun.elapsed()));
        if !client.step(64 << 10).unwrap() {
            break;
        }
        most = most.max(memory(pid));
    }
    assert!(begun.elapsed() > Duration::from_secs(8));
    assert!(most <= before + 4, "{before} MiB, and then {most}");
    let head = client.read.windows(4).position(|w| w == b"\r\n\r\n").unwrap() + 4;
    let (body, is_whole) = unchunk(&client.read[head..]);
    assert!(is_whole && body.len() == 42_000_000 && is_body(&body), "{}", body.len());
    server.stop();
}

#[test]
fn many_slow_clients_take_little_memory_and_delay_nobody() {
    let server = start(1).set("max-pending", "1M").start();
    let pid = server.workers()[0];
    let mut slow: Vec<_> = (0..100)
        .map(|_| {
            let mut client = Reader::connect_with(server.address(), Some(4096));
            client.send(b"GET /stream/1000000000/60000 HTTP/1.1\r\nHost: t\r\n\r\n").unwrap();
            client
        })
        .collect();
    let mut by = server.connect();
    for round in 0..50 {
        slow.iter_mut().for_each(|client| assert!(client.step(2000).unwrap()));
        let begun = Instant::now();
        ask(&mut by, "/refused");
        assert!(begun.elapsed() < Duration::from_secs(2), "{round}: {:?}", begun.elapsed());
    }
    // Each has at most 64 KiB and one part waiting, in buffers that may be twice as large.
    assert!(memory(pid) < 40, "{} MiB", memory(pid));
    drop(slow);
    wait_until("each is told", || ask(&mut by, "/gone").matches("done stream").count() == 100);
    let mut server = server;
    server.may_say("done stream");
    server.stop();
}

#[test]
fn a_fast_client_takes_turns_with_others() {
    let server = start(1).start();
    let mut by = server.connect();
    let mut fast = Reader::connect(server.address());
    fast.send(b"GET /stream/100000000000/60000 HTTP/1.1\r\nHost: t\r\n\r\n").unwrap();
    let thread = std::thread::spawn(move || {
        while fast.step(1 << 20).unwrap_or(false) {
            let n = fast.read.len();
            fast.read.clear();
            if n == 0 {
                break;
            }
        }
    });
    for _ in 0..200 {
        let begun = Instant::now();
        ask(&mut by, "/refused");
        assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    }
    let mut server = server;
    server.may_say("lost");
    server.may_say("died");
    server.may_say("done stream");
    let pid = server.workers()[0];
    proc::signal(pid, libc::SIGKILL);
    thread.join().unwrap();
    server.replaces(pid);
    server.stop();
}

#[test]
fn what_is_flushed_arrives_at_once() {
    let server = start(1).start();
    let mut client = server.connect();
    get(&mut client, "/slow/4");
    let mut times = Vec::new();
    for _ in 0..4 {
        client.wait_for_bytes().unwrap();
        client.gather();
        times.push(Instant::now());
    }
    for pair in times.windows(2) {
        assert!(pair[1] - pair[0] > Duration::from_millis(50), "{times:?}");
    }
    assert_eq!(client.http_answer().unwrap().body, "part\n".repeat(4));
    // The rest of the connection is as ever.
    assert_eq!(ask(&mut client, "/refused"), "1");
    server.stop();
}

#[test]
fn each_producer_is_told_its_end_once() {
    let mut server = start(1).set("response-timeout", "1s").start();
    server.may_say("done ");
    server.may_say("gone ");
    let mut by = server.connect();
    let mut expected = String::new();
    let mut check = |by: &mut Client, lines: &str| {
        expected += lines;
        let mut seen = String::new();
        if !comes_true(Duration::from_secs(20), || {
            seen = ask(by, "/gone");
            seen == expected
        }) {
            panic!("{seen:?}, not {expected:?}");
        }
    };
    // At its end, with and without a body.
    assert_eq!(ask(&mut by, "/stream/100/7").len(), 100);
    by.send(b"HEAD /stream/100/7 HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n").unwrap();
    let head = String::from_utf8(by.rest().unwrap()).unwrap();
    assert!(head.contains("chunked") && head.ends_with("\r\n\r\n"), "{head}");
    let mut by = server.connect();
    check(&mut by, "done stream\ndone stream\n");
    let mut client = keep(&server, &mut by, "n");
    assert_eq!(tell(&mut by, "n", "status/204"), 0);
    assert_eq!(tell(&mut by, "n", "stream/1000"), 0);
    wait_until("it is over", || tell(&mut by, "n", "known") == UNKNOWN);
    client.end().unwrap();
    assert!(client.rest().unwrap().starts_with(b"HTTP/1.1 204 "));
    check(&mut by, "done n\n");
    // A client that leaves.
    let client = keep(&server, &mut by, "r");
    assert_eq!(tell(&mut by, "r", "wait"), 0);
    assert_eq!(tell(&mut by, "r", "wait"), LATE);
    assert_eq!(tell(&mut by, "r", "end"), STATE);
    client.reset();
    check(&mut by, "gone r\ndone r\n");
    // One that is broken off: the parts before arrive.
    let mut client = keep(&server, &mut by, "f");
    assert_eq!(tell(&mut by, "f", "write/part"), 0);
    assert_eq!(tell(&mut by, "f", "wait"), 0);
    assert_eq!(tell(&mut by, "f", "fail"), 0);
    assert!(client.rest().unwrap().ends_with(b"\r\n4\r\npart\r\n"));
    check(&mut by, "done f\n");
    let mut client = server.connect();
    client.send(b"GET /keep/o HTTP/1.0\r\n\r\n").unwrap();
    wait_until("the response is kept", || tell(&mut by, "o", "wait") == 0);
    assert_eq!(tell(&mut by, "o", "fail"), 0);
    assert_eq!(client.rest(), Err(Fault::Reset));
    check(&mut by, "done o\n");
    // One that writes nothing for too long.
    let mut client = keep(&server, &mut by, "t");
    assert_eq!(tell(&mut by, "t", "wait"), 0);
    let rest = client.rest().unwrap();
    assert!(rest.ends_with(b"\r\n\r\n") && !rest.ends_with(b"0\r\n\r\n"));
    check(&mut by, "gone t\ndone t\n");
    // One that is refused is told nothing.
    let _client = keep(&server, &mut by, "x");
    assert_eq!(tell(&mut by, "x", "body/whole"), 0);
    assert_eq!(tell(&mut by, "x", "stream/1000"), LATE);
    assert_eq!(tell(&mut by, "x", "end"), 0);
    let client = keep(&server, &mut by, "y");
    client.reset();
    check(&mut by, "gone y\n");
    assert_eq!(tell(&mut by, "y", "stream/1000"), GONE);
    assert_eq!(tell(&mut by, "y", "end"), GONE);
    check(&mut by, "");
    server.stop();
}

#[test]
fn a_producer_that_writes_nothing_waits_for_another_callback() {
    let server = start(1).start();
    let mut by = server.connect();
    let mut client = keep(&server, &mut by, "w");
    assert_eq!(tell(&mut by, "w", "wait"), 0);
    client.wait_for_bytes().unwrap();
    client.gather();
    let cpu = proc::cpu(server.workers()[0]);
    assert!(!comes_true(Duration::from_millis(300), || client.has_bytes()));
    assert!(proc::cpu(server.workers()[0]) - cpu < Duration::from_millis(100));
    assert_eq!(tell(&mut by, "w", "write/from-elsewhere"), 0);
    client.wait_for_bytes().unwrap();
    assert_eq!(tell(&mut by, "w", "last"), 0);
    assert_eq!(client.http_answer().unwrap().body, "from-elsewhere");
    assert_eq!(ask(&mut by, "/gone"), "done w\n");
    let mut server = server;
    server.says("done w");
    server.stop();
}

#[test]
fn a_stream_that_is_being_sent_is_finished_before_a_stop_or_reload_whoever_accepts() {
    for mode in Mode::ALL {
        for signal in [libc::SIGTERM, libc::SIGHUP] {
            let mut server = start(1).accept(mode).own_module().start();
            server.may_say("done stream");
            server.may_say("reload to generation");
            let mut client = Reader::connect_with(server.address(), Some(16 << 10));
            client
                .send(b"GET /stream/20000000/50000 HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n")
                .unwrap();
            while client.read.len() < 1_000_000 {
                assert!(client.step(1 << 16).unwrap());
            }
            server.signal(signal);
            if signal == libc::SIGTERM {
                wait_until("new clients are refused", || server.refuses());
            } else {
                wait_until("there are two workers", || server.workers().len() == 2);
            }
            client.rest().unwrap();
            let head = client.read.windows(4).position(|w| w == b"\r\n\r\n").unwrap() + 4;
            let (body, is_whole) = unchunk(&client.read[head..]);
            assert!(is_whole && body.len() == 20_000_000 && is_body(&body), "{mode:?} {}", body.len());
            if signal == libc::SIGTERM {
                server.ends();
            } else {
                server.rests();
                server.stop();
            }
        }
    }
}

#[test]
fn producers_are_told_before_their_worker_stops() {
    // It has a second before it is killed, which may be too little on a busy machine.
    let is_told = || {
        let mut server = start(1).set("drain-timeout", "500ms").start();
        server.may_say("gone w");
        server.may_say("done w");
        let mut by = server.connect();
        let mut client = keep(&server, &mut by, "w");
        assert_eq!(tell(&mut by, "w", "wait"), 0);
        proc::signal(server.pid, libc::SIGKILL);
        assert!(matches!(client.http_answer(), Err(Fault::Closed | Fault::Reset)));
        wait_until("every process is gone", || proc::group(server.pid).is_empty());
        let said = comes_true(Duration::from_secs(1), || {
            server.lines_with("gone w") + server.lines_with("done w") == 2
        });
        server.dies_out();
        said
    };
    assert!((0..5).any(|_| is_told()));
}

#[test]
fn a_rust_handler_does_the_same() {
    let mut server = rust();
    let mut by = server.connect();
    // By timers, while others are served at once.
    let mut waits = server.connect();
    get(&mut waits, "/after/300");
    assert_eq!(ask(&mut by, "/after/1"), "after 1");
    assert!(!waits.has_bytes());
    assert_eq!(waits.http_answer().unwrap().body, "after 300");
    assert_eq!(ask(&mut by, "/ticks/5"), "tick\n".repeat(5));
    // By closures.
    let body = ask(&mut by, "/stream/3000");
    assert_eq!(
        body.len(),
        String::from_utf8_lossy(&(0..3000).map(|i| (i % 251) as u8).collect::<Vec<_>>()).len()
    );
    assert_eq!(ask(&mut by, "/events"), "streamed\n");
    let mut client = server.connect();
    get(&mut client, "/break");
    assert!(client.rest().unwrap().ends_with(b"4\r\npart\r\n4\r\npart\r\n"));
    assert_eq!(ask(&mut by, "/events"), "broken\n");
    server.says("more: no more of it");
    let mut client = server.connect();
    get(&mut client, "/wait");
    client.wait_for_bytes().unwrap();
    assert_eq!(ask(&mut by, "/resume"), "");
    assert_eq!(client.http_answer().unwrap().body, "resumed");
    // Not at all.
    server.says("a response was dropped before its end");
    server.says("on_request: GET /error from ");
    server.says("on_request: GET /panic from ");
    server.says("panicked at");
    server.may_say("on purpose");
    server.may_say("RUST_BACKTRACE");
    for path in ["/drop", "/fail", "/error", "/panic"] {
        get(&mut by, path);
        assert_eq!(by.http_answer().unwrap().status, 500, "{path}");
    }
    // A panic ends the connection.
    assert_eq!(by.rest(), Ok(vec![]));
    let mut by = server.connect();
    assert_eq!(ask(&mut by, "/kept"), "2 2");
    let mut client = server.connect();
    get(&mut client, "/gone");
    wait_until("it is kept", || ask(&mut by, "/held") == "1");
    client.reset();
    wait_until("the handler is told", || ask(&mut by, "/events") == "gone in slot 0\n");
    assert_eq!(ask(&mut by, "/kept"), "1 1");
    server.stop();
}

/// Every turn of the loop takes 10 ms for a body without end; other responses are the number of its parts so far.
const SLOW_TURNS: &str = "
#define _POSIX_C_SOURCE 200809L
#include <prefork.h>
#include <stdio.h>
#include <time.h>
static unsigned long turns;
static int more(prefork_response *res, void *arg)
{
    struct timespec ten = {0, 10000000};
    (void)arg;
    turns++;
    nanosleep(&ten, NULL);
    return prefork_response_write(res, \"x\", 1) == PREFORK_OK;
}
static void on_request(prefork_request *req, prefork_response *res, void *state)
{
    char text[20];
    (void)state;
    if (prefork_request_path(req).len > 1) {
        prefork_response_stream(res, more, NULL, NULL);
        return;
    }
    prefork_response_body(res, text, (size_t)sprintf(text, \"%lu\", turns));
}
PREFORK_MODULE(.on_request = on_request)
";

#[test]
fn many_clients_that_come_in_long_turns_of_the_loop_are_taken_together() {
    let server = Start::new(Style::Request).workers(1).module(compile(SLOW_TURNS, &[])).start();
    let mut endless = server.connect();
    get(&mut endless, "/stream");
    endless.wait_for_bytes().unwrap();
    let mut clients: Vec<_> = (0..60).map(|_| server.connect()).collect();
    clients.iter_mut().for_each(|client| get(client, "/"));
    let turns = clients.iter_mut().map(|client| client.http_answer().unwrap().body.parse::<u64>().unwrap());
    let turns: Vec<u64> = turns.collect();
    let (first, last) = (turns.iter().min().unwrap(), turns.iter().max().unwrap());
    // Four a turn would take fifteen.
    assert!(last - first <= 10, "{turns:?}");
    drop((endless, clients));
    server.stop();
}
