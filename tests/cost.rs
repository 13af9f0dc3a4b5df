//! The system calls of a connection: in the master accept4, sendmsg and close, the last two shared by connections that come together, in
//! addition to the wait; in a worker those of a request and of the close; and which of them may delay bytes.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod util;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use util::{Server, Start, Style, handler, proc, wait_until};

const CONNECTIONS: usize = 300;

/// The output of strace(1) for a process while `f` runs.
fn trace_during(server: &Server, pid: i32, f: impl FnOnce()) -> String {
    let log = server.dir.file("strace");
    let mut strace = Command::new("strace")
        .args(["-p", &pid.to_string(), "-o"])
        .arg(&log)
        .stderr(Stdio::piped())
        .spawn()
        .expect("run strace");
    let mut said = BufReader::new(strace.stderr.take().unwrap());
    let mut line = String::new();
    said.read_line(&mut line).unwrap();
    assert!(line.contains("attached"), "{line}");
    f();
    proc::signal(strace.id() as i32, libc::SIGINT);
    strace.wait().unwrap();
    std::fs::read_to_string(log).unwrap()
}

/// The master's system calls while `f` runs, by name.
fn calls_during(server: &Server, f: impl FnOnce()) -> BTreeMap<String, usize> {
    calls_of(server, server.pid, f)
}

/// The system calls of a process while `f` runs, by name.
fn calls_of(server: &Server, pid: i32, f: impl FnOnce()) -> BTreeMap<String, usize> {
    let mut calls = BTreeMap::new();
    // Before it closes a descriptor, Rust's library makes sure that it is open; not in an optimised build.
    let checks = |line: &&str| cfg!(debug_assertions) && line.contains("F_GETFD");
    for line in trace_during(server, pid, f).lines().filter(|l| !checks(l)) {
        if let Some((name, _)) = line.split_once('(') {
            *calls.entry(name.trim_start_matches("<... ").to_owned()).or_insert(0) += 1;
        }
    }
    calls
}

#[track_caller]
fn costs_three_calls(calls: BTreeMap<String, usize>) {
    let waits: usize = calls.iter().filter(|(name, _)| name.starts_with("epoll_")).map(|(_, n)| n).sum();
    let others = calls.values().sum::<usize>() - waits;
    // If the backlog was full for a moment, watching the listener again costs a few more.
    assert!(others <= 3 * CONNECTIONS + 20, "{others} calls for {CONNECTIONS} connections: {calls:#?}");
    assert!(calls["accept4"] >= CONNECTIONS && calls["sendmsg"] >= CONNECTIONS, "{calls:#?}");
}

#[test]
fn single_connections_cost_three_system_calls_each() {
    for style in [Style::Request, Style::Data] {
        let server = Start::new(style).start();
        costs_three_calls(calls_during(&server, || {
            for _ in 0..CONNECTIONS {
                server.ask("pid").unwrap();
            }
        }));
        server.stop();
    }
}

#[test]
fn connections_that_come_together_cost_two_system_calls_each_and_less() {
    let server = Start::new(Style::Request).start();
    let calls = calls_during(&server, || {
        let tally = server.ask_at_once(CONNECTIONS, "pid");
        assert_eq!(tally.answered(), CONNECTIONS as u64, "{tally:?}");
    });
    // Waits and all else included.
    let all = calls.values().sum::<usize>();
    assert!(all <= CONNECTIONS * 2, "{all} calls for {CONNECTIONS} connections: {calls:#?}");
    assert!(calls["accept4"] >= CONNECTIONS && calls["close_range"] > 0, "{calls:#?}");
    server.stop();
}

#[test]
fn an_idle_connection_that_moves_at_a_reload_costs_the_master_no_look_for_descriptors() {
    let mut server = Start::new(Style::Request).start();
    server.may_say(util::RELOAD);
    let mut clients: Vec<_> = (0..CONNECTIONS).map(|_| server.connect()).collect();
    clients.iter_mut().for_each(|client| assert!(client.ask("pid").is_ok()));
    let old = server.workers();
    let calls = calls_during(&server, || {
        proc::signal(server.pid, libc::SIGHUP);
        wait_until("all have moved", || {
            let new = server.workers().into_iter().filter(|worker| !old.contains(worker));
            let sockets =
                |worker| proc::descriptors(worker).iter().filter(|(_, kind)| kind == "socket").count();
            new.map(sockets).sum::<usize>() >= CONNECTIONS
        });
    });
    // It is received, given and closed; the queues of workers that have ended are two, and both are looked at. The rest is the reload's.
    for (name, n) in [("recvmsg", 2), ("sendmsg", 1), ("close", 1), ("openat", 0)] {
        assert!(calls[name] <= n * CONNECTIONS + 120, "{name}: {calls:#?}");
    }
    drop(clients);
    server.stop();
}

#[test]
fn an_idle_server_makes_no_system_call() {
    let server = Start::new(Style::Request).start();
    server.ask("pid").unwrap();
    let calls = calls_during(&server, || {
        // Work that follows a connection is done before.
        wait_until("the master sleeps", || proc::state(server.pid) == Some('S'));
        std::thread::sleep(std::time::Duration::from_millis(700));
    });
    assert!(calls.values().sum::<usize>() <= 3, "{calls:#?}");
    server.stop();
}

#[test]
fn the_last_request_of_a_connection_costs_its_worker_six_system_calls() {
    let server = Start::new(Style::Request).workers(1).start();
    let calls = calls_of(&server, server.workers()[0], || {
        for _ in 0..CONNECTIONS {
            server.ask("slot").unwrap();
        }
    });
    // The queue and the request are read and the answer is sent; the close looks for bytes that came meanwhile.
    for (name, n) in [("recvmsg", 1), ("recvfrom", 2), ("sendto", 1), ("shutdown", 1), ("close", 1)] {
        // The client does not wait for the last ones.
        assert!((n * CONNECTIONS - 2..=n * CONNECTIONS + 20).contains(&calls[name]), "{name}: {calls:#?}");
    }
    let waits: usize = calls.iter().filter(|(name, _)| name.starts_with("epoll_")).map(|(_, n)| n).sum();
    assert!(calls.values().sum::<usize>() - waits <= 6 * CONNECTIONS + 50, "{calls:#?}");
    server.stop();
}

/// Answers with more than is gathered before it is sent.
const LARGE: &str = "
    #include <prefork.h>
    static void on_request(prefork_request *req, prefork_response *res, void *state)
    {
        static char body[40000];
        (void)req, (void)state;
        prefork_response_body(res, body, sizeof body);
    }
    PREFORK_MODULE(.on_request = on_request)
";

#[test]
fn only_the_end_of_a_connection_delays_bytes() {
    let server = Start::new(Style::Request).module(handler::compile(LARGE, &[])).workers(1).start();
    let trace = trace_during(&server, server.workers()[0], || {
        // The state of one connection does not carry over to the next.
        for _ in 0..3 {
            let mut stays = server.connect();
            stays.send_command("").unwrap();
            assert_eq!(stays.http_answer().unwrap().body.len(), 40_000);
            server.ask("").unwrap();
        }
    });
    let sends = |part: &str| trace.lines().filter(|l| l.starts_with("send") && l.contains(part)).count();
    assert_eq!((sends("MSG_MORE"), sends("200 OK")), (3, 6), "{trace}");
    server.stop();
}

/// Workers that send 1 MiB to each other without end once "/flood" was asked for.
const FLOOD: &str = "
    #include <prefork.h>
    static char bytes[1 << 20];
    static void send_to_other(prefork_worker *worker)
    {
        prefork_worker_send(worker, 3 - prefork_worker_id(worker), 1, bytes, sizeof bytes);
    }
    static void on_message(prefork_worker *worker, uint32_t from, uint32_t type, const void *data, size_t size, void *state)
    {
        (void)from, (void)type, (void)data, (void)size, (void)state;
        send_to_other(worker);
    }
    static void on_request(prefork_request *req, prefork_response *res, void *state)
    {
        (void)state;
        for (int i = 0; i < 3 && prefork_request_path(req).len > 1; i++)
            send_to_other(prefork_worker_self());
        prefork_response_body(res, \"hello\", 5);
    }
    PREFORK_MODULE(.on_request = on_request, .on_message = on_message)
";

/// A turn of the master: the bytes that it read and sent, and the connections that it accepted.
#[derive(Debug, Default)]
struct Turn {
    bytes: usize,
    accepted: usize,
}

/// The turns in a trace, from one wait to the next.
fn turns(trace: &str) -> Vec<Turn> {
    let mut turns = Vec::new();
    let mut turn = None;
    for line in trace.lines() {
        // A call whose line is cut ended after the trace did.
        let Some((call, result)) = line.rsplit_once(" = ") else { continue };
        let result = result.split(' ').next().and_then(|n| n.parse::<usize>().ok());
        match call.split('(').next().unwrap() {
            name if name.starts_with("epoll_") && name.ends_with("wait") => {
                turns.extend(turn.replace(Turn::default()))
            }
            "recvfrom" | "sendmsg" | "sendto" => {
                if let (Some(turn), Some(bytes)) = (&mut turn, result) {
                    turn.bytes += bytes;
                }
            }
            "accept4" => {
                if let (Some(turn), Some(_)) = (&mut turn, result) {
                    turn.accepted += 1;
                }
            }
            _ => {}
        }
    }
    turns
}

#[test]
fn a_turn_of_the_master_moves_few_bytes_of_messages_and_fewer_if_it_accepts() {
    let server = Start::new(Style::Request).module(handler::compile(FLOOD, &[])).workers(2).start();
    for _ in 0..2 {
        server.connect().http_answer_to("/flood").unwrap();
    }
    let trace = trace_during(&server, server.pid, || {
        for _ in 0..CONNECTIONS {
            server.connect().http_answer_to("/").unwrap();
        }
        // Turns that accept nothing.
        std::thread::sleep(std::time::Duration::from_millis(200));
    });
    let turns = turns(&trace);
    let most =
        |accepts: bool| turns.iter().filter(|t| (t.accepted > 0) == accepts).map(|t| t.bytes).max().unwrap();
    let accepted: usize = turns.iter().map(|t| t.accepted).sum();
    let bytes: usize = turns.iter().map(|t| t.bytes).sum();
    assert!(accepted >= CONNECTIONS - 10, "{accepted}");
    assert!(bytes > 1 << 20, "{bytes} bytes: the messages pass meanwhile");
    // A connection is given to a worker by a few bytes.
    assert!(
        most(true) <= 8 * 1024 + 64 && most(false) <= 32 * 1024 + 64,
        "{} and {}",
        most(true),
        most(false)
    );
    server.stop();
}
