//! The deadline of a worker: what it still has ends in order, its handler is told, and nothing has to be killed but what hangs.
#![allow(clippy::unwrap_used)]

mod util;

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use util::handler::compile;
use util::{Client, Fault, RELOAD, Server, Start, Style, comes_true, proc, wait_until};

/// The exit code of a stop that had to cut connections, and of one that had to kill workers.
const CUT: i32 = 6;
const TIMED_OUT: i32 = 5;
/// The lines of the log about one connection that is cut.
const ENDED: &str = "has ended at its deadline, and 1 connection with it";

fn module(flags: &[&str]) -> std::path::PathBuf {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cut.c");
    compile(&fs::read_to_string(source).unwrap(), flags)
}

fn start(drain_timeout: &str) -> Start {
    Start::new(Style::Data).workers(1).module(module(&[])).set("drain-timeout", drain_timeout)
}

/// A server with a stream in its worker.
fn with_stream(start: Start) -> (Server, Client) {
    let mut server = start.start();
    server.may_say("worker_stop");
    server.may_say("control: ");
    server.may_say(RELOAD);
    let mut client = server.connect();
    client.ask("pid").unwrap();
    (server, client)
}

fn verb(server: &Server, args: &[&str]) -> (Option<i32>, String) {
    let mut command = Command::new("timeout");
    command.args(["30", env!("CARGO_BIN_EXE_prefork")]).args(args);
    command.env("PREFORK_RUNTIME_DIR", server.dir.runtime()).stdin(Stdio::null());
    let out = command.output().unwrap();
    (out.status.code(), String::from_utf8_lossy(&[out.stdout, out.stderr].concat()).into_owned())
}

/// A way to have the worker of slot 0 drain.
type Way = (&'static str, fn(&mut Server, i32));

#[test]
fn a_stream_ends_at_the_deadline_whatever_its_worker_ends_for() {
    let ways: [Way; 5] = [
        ("reload", |server, _| server.reload()),
        ("SIGTERM to the worker", |_, worker| proc::signal(worker, libc::SIGTERM)),
        ("scale", |server, _| {
            server.signal(libc::SIGTTOU);
            server.scaled_to(1);
        }),
        ("recycle", |server, _| (0..30).for_each(|_| drop(server.ask("pid")))),
        ("drain", |server, _| {
            let (code, said) = verb(server, &["stop", "2", "--no-wait"]);
            assert_eq!(code, Some(0), "{said}");
        }),
    ];
    for (way, drain) in ways {
        let start = start("600ms").workers(2);
        let start = if way == "recycle" { start.set("max-requests", "8") } else { start };
        let mut server = start.start();
        server.may_say("control: ");
        server.may_say(RELOAD);
        for line in ["closed 5", "worker_stop"] {
            server.says(line);
        }
        // Those of other clients of the test.
        server.may_say("closed 1");
        server.may_say(ENDED);
        let (mut client, worker) = loop {
            let mut client = server.connect();
            let pid = client.ask("pid").unwrap().parse::<i32>().unwrap();
            if pid == server.worker_in(1) {
                break (client, pid);
            }
        };
        let begun = Instant::now();
        drain(&mut server, worker);
        assert_eq!(client.rest(), Ok(vec![]), "{way}: an end of file, not a reset");
        assert!(begun.elapsed() >= Duration::from_millis(600), "{way}: {:?}", begun.elapsed());
        drop(client);
        wait_until("it has ended", || proc::state(worker).is_none());
        wait_until("the handler is told", || server.lines_with("closed 5") == 1);
        wait_until("the log has it", || server.lines_with(ENDED) == 1);
        server.stop();
    }
}

#[test]
fn a_stop_gives_streams_the_same_time_and_says_how_many_it_has_cut() {
    let (mut server, mut client) = with_stream(start("1500ms"));
    let mut other = server.connect();
    other.ask("pid").unwrap();
    server.says("closed 5");
    server.says("has ended at its deadline, and 2 connections with it");
    let mut events = Command::new(env!("CARGO_BIN_EXE_prefork"));
    events.args(["events", "--json"]).env("PREFORK_RUNTIME_DIR", server.dir.runtime());
    let mut events = events.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(events.stdout.take().unwrap()).lines().map(Result::unwrap);
    assert!(lines.next().unwrap().contains(r#""event":"setup""#));
    server.signal(libc::SIGTERM);
    let begun = Instant::now();
    // Longer than an idle HTTP connection has.
    while begun.elapsed() < Duration::from_secs(1) {
        assert!(client.ask("pid").is_ok());
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(client.rest(), Ok(vec![]));
    drop((client, other));
    let said: Vec<String> = lines.collect();
    let exit = said.iter().find(|line| line.contains(r#""event":"exit""#)).unwrap();
    assert!(exit.contains(r#""exit":{"code":0}"#) && exit.contains(r#""cut":2"#), "{exit}");
    let last = said.last().unwrap();
    assert!(last.contains(r#""killed":0"#) && last.contains(r#""cut":2"#), "{last}");
    assert!(events.wait().unwrap().success());
    server.ends_with(CUT);
}

#[test]
fn the_verb_that_stops_has_the_exit_code_of_the_server() {
    for (command, code, text) in [
        ("pid", CUT, "1 connection cut at the drain-timeout"),
        ("hang", TIMED_OUT, "1 worker did not end in time"),
        ("close", 0, "stopped"),
    ] {
        let (mut server, mut client) = with_stream(start("300ms"));
        for line in ["closed", ENDED, "had not ended at its deadline and was killed"] {
            server.may_say(line);
        }
        client.send_command(command).unwrap();
        std::thread::sleep(Duration::from_millis(100));
        let (ended, said) = verb(&server, &["stop"]);
        assert_eq!(ended, Some(code), "{said}");
        assert!(said.contains(text), "{said}");
        drop(client);
        server.ends_with(code);
    }
}

#[test]
fn streams_of_a_killed_master_end_in_the_same_way() {
    let (mut server, mut client) = with_stream(start("700ms"));
    server.says("closed 5");
    server.says("worker_stop");
    let begun = Instant::now();
    server.signal(libc::SIGKILL);
    assert_eq!(client.rest(), Ok(vec![]));
    let took = begun.elapsed();
    assert!(took >= Duration::from_millis(700) && took < Duration::from_secs(5), "{took:?}");
    server.dies_out();
}

#[test]
fn without_a_drain_timeout_streams_end_when_they_end() {
    for signal in [libc::SIGTERM, libc::SIGKILL] {
        let (mut server, mut client) = with_stream(start("0"));
        server.says("closed 1");
        server.signal(signal);
        for _ in 0..12 {
            assert!(client.ask("pid").is_ok());
            std::thread::sleep(Duration::from_millis(100));
        }
        client.end().unwrap();
        assert_eq!(client.rest(), Ok(vec![]));
        if signal == libc::SIGTERM { server.ends() } else { server.dies_out() }
    }
}

#[test]
fn what_was_written_is_sent_as_far_as_the_client_takes_it() {
    const BYTES: usize = 12 << 20;
    let (mut server, mut client) = with_stream(start("500ms"));
    server.says("closed 5");
    server.says("has ended at its deadline, and 3 connections with it");
    let mut reads = server.connect();
    let mut never = server.connect();
    for client in [&mut reads, &mut never] {
        client.ask("pid").unwrap();
        client.send_command(&format!("fill {BYTES}")).unwrap();
        client.wait_for_bytes().unwrap();
    }
    server.reload();
    // The deadline has come when another stream has ended.
    assert_eq!(client.rest(), Ok(vec![]));
    let begun = Instant::now();
    let mut room = vec![0; 1 << 20];
    let mut got = 0;
    while let Ok(n @ 1..) = reads.read_some(&mut room) {
        got += n;
    }
    // On a busy machine half a second may be too short for all of it.
    assert!(got == BYTES || begun.elapsed() > Duration::from_millis(300), "{got} of {BYTES}");
    wait_until("it has ended", || server.workers().len() == 1);
    wait_until("all handlers are told", || server.lines_with("closed 5") == 3);
    drop(never);
    server.stop();
}

#[test]
fn a_handler_that_does_not_return_is_killed_a_second_after_the_deadline() {
    let (mut server, mut client) = with_stream(start("400ms"));
    server.says("had not ended at its deadline and was killed; 1 connection lost");
    client.send_command("hang").unwrap();
    std::thread::sleep(Duration::from_millis(50));
    server.reload();
    let begun = Instant::now();
    assert!(matches!(client.rest(), Ok(_) | Err(Fault::Reset)));
    let took = begun.elapsed();
    assert!(took > Duration::from_millis(1200) && took < Duration::from_secs(5), "{took:?}");
    server.rests();
    server.stop();
}

#[test]
fn on_close_can_ask_for_the_reason() {
    let start = start("10s").set("idle-timeout", "300ms").set("write-timeout", "300ms");
    let mut server = start.set("max-body", "64K").start();
    server.says("closed");
    server.says("worker_stop");
    let closes_with = |reason: u32, act: &dyn Fn(&mut Client)| {
        let line = format!("closed {reason}");
        let before = server.lines_with(&line);
        let mut client = server.connect();
        assert_eq!(client.ask("reason"), Ok("0".into()));
        act(&mut client);
        wait_until(&line, || server.lines_with(&line) > before);
    };
    closes_with(1, &|client| client.end().unwrap());
    closes_with(2, &|client| client.send_command("close").unwrap());
    // No byte either way, and one that takes nothing.
    closes_with(4, &|client| assert_eq!(client.rest(), Ok(vec![])));
    closes_with(4, &|client| client.send_command(&format!("fill {}", 14 << 20)).unwrap());
    // A stream that is closed, and whose client does not take the rest.
    closes_with(4, &|client| client.send(format!("fill {}\nclose\n", 14 << 20).as_bytes()).unwrap());
    // It leaves unread what it is sent: the last one.
    closes_with(3, &|client| {
        client.send_command("keep").unwrap();
        let _ = client.send(&[b'x'; 200_000]);
    });
    server.stop();
}

#[test]
fn a_reset_is_the_clients_end() {
    let (mut server, client) = with_stream(start("10s"));
    server.says("closed 1");
    client.reset();
    wait_until("it is told", || server.lines_with("closed 1") == 1);
    server.stop();
}

#[test]
fn an_upgraded_connection_and_a_kept_response_end_so_too() {
    let start = Start::new(Style::Request).workers(1).module(module(&["-DON_REQUEST"]));
    let mut server = start.set("drain-timeout", "500ms").start();
    for line in ["worker_stop", "closed 5", "gone", "has ended at its deadline, and 4 connections with it"] {
        server.says(line);
    }
    server.may_say(RELOAD);
    let begun = |request: &str| {
        let mut client = server.connect();
        client.send(request.as_bytes()).unwrap();
        client.wait_for_bytes().unwrap();
        client
    };
    let mut upgraded =
        begun("GET /upgrade HTTP/1.1\r\nHost: t\r\nConnection: upgrade\r\nUpgrade: lines\r\n\r\n");
    let mut chunked = begun("GET /kept HTTP/1.1\r\nHost: t\r\n\r\n");
    let mut until_close = begun("GET /kept HTTP/1.0\r\nHost: t\r\n\r\n");
    let mut half = server.connect();
    half.send(b"GET /kept HTTP/1.1\r\nHo").unwrap();
    server.has_read();
    server.reload();
    assert!(upgraded.rest().unwrap().starts_with(b"HTTP/1.1 101 "));
    let text = chunked.rest().unwrap();
    assert!(text.ends_with(b"begun\n\r\n"), "without the last chunk: {}", String::from_utf8_lossy(&text));
    // The end of the connection would be the end of the message.
    assert_eq!(until_close.rest(), Err(Fault::Reset));
    assert!(matches!(half.rest(), Ok(_) | Err(Fault::Reset)));
    wait_until("both are told", || server.lines_with("gone") == 2 && server.lines_with("closed 5") == 1);
    drop((upgraded, chunked, until_close, half));
    assert!(comes_true(Duration::from_secs(10), || server.workers().len() == 1));
    server.stop();
}
