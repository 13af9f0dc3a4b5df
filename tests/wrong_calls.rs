//! Calls of C that make no sense in a style, or at a time, are refused with a status: none is ignored.
#![allow(clippy::unwrap_used)]

mod util;

use std::io::{Read, Write};
use std::net::TcpStream;
use util::handler::compile;
use util::{Server, Start, Style};

fn start(style: Style) -> Server {
    let source =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/wrong_calls.c")).unwrap();
    let define = match style {
        Style::Request => "-DON_REQUEST",
        Style::Connection => "-DON_CONNECTION",
        _ => "-DON_DATA",
    };
    let module = compile(&source, &[define, "-Wno-unused-function"]);
    Start::new(style).workers(1).module(module).start()
}

/// The statuses of `prefork.h`; 0 is also no pointer, and 1 a pointer.
const INVALID: i32 = -2;
const STATE: i32 = -4;
const LATE: i32 = -11;
const GONE: i32 = -13;
const UPGRADE: i32 = -14;
const AGAIN: i32 = -15;

/// By callback: a result, and the calls that have it.
const TABLE: &[(&str, &[(i32, &str)])] = &[
    (
        "worker_start",
        &[
            (STATE, "worker_reply datagram_reply"),
            (0, "conn_find publish_n"),
            (INVALID, "publish_elsewhere_n"),
        ],
    ),
    (
        "on_request",
        &[
            (
                STATE,
                "worker_serve worker_reply worker_request datagram_reply request_pause request_stop request_set_user response_on_gone response_on_handover response_end",
            ),
            (GONE, "request_resume timer_stop unwatch"),
            (INVALID, "watch"),
            (0, "conn_find"),
            (UPGRADE, "response_set_user response_upgrade"),
        ],
    ),
    (
        "kept",
        &[
            (0, "response_later response_later"),
            (
                LATE,
                "response_status response_header response_body response_body_static response_body_owned response_write response_printf response_file response_send_file response_flush response_close response_stream response_upgrade response_on_gone response_on_handover response_fail",
            ),
            (STATE, "response_end"),
        ],
    ),
    (
        "upgrade",
        &[
            (0, "response_upgrade_n response_header"),
            (
                LATE,
                "response_status response_body response_body_static response_body_owned response_write response_printf response_file response_send_file response_flush response_close response_stream response_upgrade",
            ),
            (STATE, "response_end"),
        ],
    ),
    (
        "on_connection",
        &[
            (
                STATE,
                "worker_serve worker_reply worker_request datagram_reply conn_consume conn_at_end conn_set_reading conn_set_half_open conn_transfer conn_set_slow subscribe subscribe_n unsubscribe_n unsubscribe unsubscribe_all worker_each_conn conn_close",
            ),
            (GONE, "request_resume timer_stop unwatch"),
            (INVALID, "watch conn_read"),
            (0, "conn_find conn_data conn_pending conn_room conn_end_reason"),
        ],
    ),
    (
        "on_data",
        &[
            (AGAIN, "conn_read"),
            (INVALID, "conn_transfer conn_set_slow watch"),
            (STATE, "worker_serve worker_reply worker_request datagram_reply"),
            (GONE, "request_resume timer_stop unwatch"),
            (0, "conn_find"),
        ],
    ),
    (
        "on_close",
        &[
            (
                GONE,
                "conn_read conn_write conn_printf conn_consume conn_set_reading conn_set_half_open conn_transfer conn_set_slow subscribe subscribe_n unsubscribe_n unsubscribe unsubscribe_all",
            ),
            (1, "conn_data"),
            (0, "conn_pending conn_room worker_each_conn conn_close conn_find"),
        ],
    ),
    ("worker_stop", &[(0, "timer_start worker_leave"), (STATE, "watch"), (GONE, "worker_wake")]),
];

/// Checks the lines that a server gives, one for each callback in which it has made calls.
fn check(text: &str, callbacks: &[&str]) {
    let mut seen = Vec::new();
    for line in text.lines() {
        let (callback, calls) = line.split_once(": ").unwrap();
        let (_, table) = TABLE.iter().find(|(name, _)| *name == callback).unwrap();
        for call in calls.split_terminator(',') {
            let (call, result) = call.trim().split_once(' ').unwrap();
            let is_it = |(_, calls): &&(i32, &str)| calls.split(' ').any(|name| name == call);
            // These say what has happened.
            if !matches!((callback, call), ("on_close", "conn_at_end" | "conn_end_reason")) {
                let expected = table.iter().find(is_it).map(|(result, _)| result.to_string());
                assert_eq!(Some(result), expected.as_deref(), "{callback}: {call}");
            }
        }
        seen.push(callback);
    }
    assert!(callbacks.iter().all(|callback| seen.contains(callback)), "{text}");
}

fn ask(server: &Server) -> String {
    let mut client = TcpStream::connect(server.tcp()).unwrap();
    client.write_all(b"x\n").unwrap();
    let mut text = String::new();
    client.read_to_string(&mut text).unwrap();
    text
}

/// Ends a server, whose worker says what it was answered in `worker_stop`.
fn stop(mut server: Server) {
    server.says("worker_stop: ");
    server.signal(libc::SIGTERM);
    server.wait_for_line("worker_stop: ");
    check(&server.stderr().join("\n"), &["worker_stop"]);
    server.ends();
}

#[test]
fn of_requests_and_upgraded_connections() {
    let server = start(Style::Request);
    let mut client = TcpStream::connect(server.tcp()).unwrap();
    client
        .write_all(b"GET /upgrade HTTP/1.1\r\nHost: t\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n")
        .unwrap();
    client.shutdown(std::net::Shutdown::Write).unwrap();
    let mut text = String::new();
    client.read_to_string(&mut text).unwrap();
    assert!(text.starts_with("HTTP/1.1 101 "), "{text}");
    let mut client = server.connect();
    client.send(b"GET / HTTP/1.1\r\nHost: t\r\n\r\n").unwrap();
    let text = client.http_answer().unwrap().body;
    check(&text, &["worker_start", "upgrade", "on_close", "on_request", "kept"]);
    drop(client);
    stop(server);
}

#[test]
fn in_blocking_style() {
    let server = start(Style::Connection);
    check(&ask(&server), &["worker_start", "on_connection"]);
    stop(server);
}

#[test]
fn of_streams() {
    let server = start(Style::Data);
    ask(&server);
    check(&ask(&server), &["worker_start", "on_data", "on_close"]);
    stop(server);
}
