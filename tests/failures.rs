//! Handlers in Rust that fail: the log says why with all causes, for which request or client, and in which worker.
#![allow(clippy::unwrap_used)]

mod util;

use serde_json::Value;
use std::path::PathBuf;
use std::process::Command;
use std::sync::LazyLock;
use std::time::Duration;
use util::client::Address;
use util::handler::compile;
use util::host::example;
use util::{Server, Start, Style, comes_true, wait_until};

fn start(style: Style, words: &[&str]) -> Server {
    program(style, &[&["fail"], words].concat()).start()
}

fn program(style: Style, words: &[&str]) -> Start {
    // Cargo takes a second to see that nothing is to be built.
    static PROGRAM: LazyLock<PathBuf> = LazyLock::new(|| example("faults"));
    let words = [PROGRAM.to_str().unwrap()].into_iter().chain(words.iter().copied());
    Start::new(style).program(words).through(&["sh", "-c", "exec \"$@\" 9>&1", "sh"])
}

/// Waits for a line about a failure, which names one of the two workers, and returns the text after that.
#[track_caller]
fn line(server: &Server, with: &str) -> String {
    server.wait_for_line(with);
    let line = server.stderr().into_iter().find(|line| line.contains(with)).unwrap();
    let about = |id| line.strip_prefix(&format!("prefork: worker {id}: ")).map(str::to_owned);
    about(1).or_else(|| about(2)).unwrap_or_else(|| panic!("{line}"))
}

/// The `requests` and `errors` of `prefork show`.
fn counted(server: &Server) -> (u64, u64) {
    let mut show = Command::new(env!("CARGO_BIN_EXE_prefork"));
    show.args(["show", "--json"]).env("PREFORK_RUNTIME_DIR", server.dir.runtime());
    let status: Value = serde_json::from_slice(&show.output().unwrap().stdout).unwrap();
    (status["requests"].as_u64().unwrap(), status["errors"].as_u64().unwrap())
}

const CAUSES: &str = "look up the customer: no route";

#[test]
fn an_error_is_logged_with_its_causes_and_the_request() {
    for error in ["typed", "boxed", "sendable"] {
        let mut server = start(Style::Request, &[error]);
        server.says("on_request: ");
        let mut client = server.connect();
        client.send(b"POST /orders/7?x=%20 HTTP/1.1\r\nHost: t\r\nContent-Length: 0\r\n\r\n").unwrap();
        assert_eq!(client.http_answer().unwrap().status, 500, "{error}");
        let line = line(&server, "on_request");
        let start =
            format!("on_request: POST /orders/7?x=%20 from {}: look up the customer: ", client.local());
        assert!(line.starts_with(&start), "{error}: {line}");
        assert!(line.ends_with("no route"), "{error}: {line}");
        assert_eq!(line.matches("no route").count(), 1, "{error}: {line}");
        server.stop();
    }
}

#[test]
fn a_worker_that_cannot_start_says_why_with_all_causes() {
    for (how, code) in [("factory", 1), ("start", 1), ("wrong", 78), ("wrapped", 78), ("start-wrong", 78)] {
        let refused = program(Style::Request, &["start", how]).refused();
        assert_eq!(refused.code, Some(code), "{how}: {refused:?}");
        let (program, why) = refused.stderr.split_once(": ").unwrap();
        assert!(program.ends_with("/faults") && why == format!("{CAUSES}\n"), "{how}: {refused:?}");
    }
}

#[test]
fn a_slot_whose_configuration_is_wrong_stays_empty_until_a_reload() {
    let mut server = program(Style::Request, &["start", "later"]).workers(2).start();
    let first = server.workers()[0];
    server.says("SIGKILL");
    server.says(&format!("died before it was ready: {CAUSES}"));
    util::proc::signal(first, libc::SIGKILL);
    server.wait_for_line(CAUSES);
    assert!(!comes_true(Duration::from_millis(1500), || server.lines_with(CAUSES) > 1));
    let mut client = server.connect();
    client.send(b"GET / HTTP/1.1\r\nHost: t\r\n\r\n").unwrap();
    assert!(["first", "second"].contains(&client.http_answer().unwrap().body.as_str()));
    drop(client);
    server.scaled_to(1);
    server.stop();
}

#[test]
fn what_a_client_has_sent_is_shortened_and_escaped() {
    let mut server = start(Style::Request, &["text"]);
    server.says("on_request: ");
    let mut client = server.connect();
    let target = format!("/\"{}", "a".repeat(3000));
    client.send(format!("GET {target} HTTP/1.1\r\nHost: t\r\n\r\n").as_bytes()).unwrap();
    assert_eq!(client.http_answer().unwrap().status, 500);
    let expected =
        format!("on_request: GET /\\\"{}... from {}: two\\nlines", "a".repeat(198), client.local());
    assert_eq!(line(&server, "on_request"), expected);
    server.stop();
}

#[test]
fn a_panic_is_logged_with_the_request_or_the_client() {
    let mut server = start(Style::Request, &["panic"]);
    for text in ["panicked at", "on purpose", "on_request: "] {
        server.says(text);
    }
    server.may_say("RUST_BACKTRACE");
    let mut client = server.connect();
    client.send(b"GET /p HTTP/1.1\r\nHost: t\r\n\r\n").unwrap();
    assert_eq!(client.http_answer().unwrap().status, 500);
    assert_eq!(line(&server, "on_request"), format!("on_request: GET /p from {}: panicked", client.local()));
    server.stop();

    for (style, name, callback) in
        [(Style::Connection, "connection", "on_connection"), (Style::Data, "data", "on_data")]
    {
        let mut server = start(style, &[name]);
        for text in ["panicked at", "on purpose", callback] {
            server.says(text);
        }
        server.may_say("RUST_BACKTRACE");
        let mut client = server.connect();
        client.send(b"panic\n").unwrap();
        assert_eq!(client.rest().unwrap(), b"");
        let line = line(&server, callback);
        assert!(line.starts_with(&format!("{callback}: client 127.0.0.1:")), "{line}");
        assert!(line.ends_with(": panicked"), "{line}");
        server.stop();
    }
}

#[test]
fn a_panic_that_is_for_no_client_is_logged_with_its_callback() {
    let mut server = start(Style::Request, &["others"]);
    for text in ["panicked at", "on purpose"] {
        server.says(text);
    }
    server.may_say("RUST_BACKTRACE");
    let callbacks =
        ["on_message", "on_reply", "on_drain", "worker_stop"].map(|name| format!("{name}: panicked"));
    callbacks.iter().for_each(|text| server.says(text));
    let mut client = server.connect();
    assert_eq!(client.http_answer_to("/"), Ok(5));
    for text in &callbacks[..2] {
        assert_eq!(line(&server, text), *text);
    }
    drop(client);
    server.signal(libc::SIGTERM);
    for text in &callbacks[2..] {
        assert_eq!(line(&server, text), *text);
    }
    server.ends();
}

#[test]
fn an_error_for_a_connection_or_a_datagram_is_logged_with_the_client() {
    for (style, name, callback) in
        [(Style::Connection, "connection", "on_connection"), (Style::Data, "data", "on_data")]
    {
        let mut server = start(style, &[name]);
        server.says(callback);
        let mut client = server.connect();
        client.send(b"fail\n").unwrap();
        assert_eq!(client.rest().unwrap(), b"");
        let line = line(&server, callback);
        assert!(line.starts_with(&format!("{callback}: client 127.0.0.1:")), "{line}");
        assert!(line.ends_with(CAUSES), "{line}");
        server.stop();
    }

    let mut server = start(Style::Datagram, &["datagram"]);
    for text in ["panicked at", "on purpose", "on_datagram"] {
        server.says(text);
    }
    server.may_say("RUST_BACKTRACE");
    let Address::Udp(address) = *server.address() else { panic!("{:?}", server.address()) };
    let client = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let subject = format!("on_datagram: client {}", client.local_addr().unwrap());
    for (text, reason) in [("x", CAUSES), ("panic", "panicked")] {
        client.send_to(text.as_bytes(), address).unwrap();
        assert_eq!(line(&server, &format!(": {reason}")), format!("{subject}: {reason}"));
    }
    server.stop();
}

#[test]
fn what_fails_is_counted_once_and_nothing_else_is() {
    for (style, name, rounds) in [
        (Style::Request, "typed", &["x", "x"][..]),
        (Style::Request, "panic", &["x", "x"]),
        (Style::Connection, "connection", &["fail", "good", "panic"]),
        (Style::Data, "data", &["fail", "good", "panic"]),
    ] {
        let mut server = start(style, &[name]);
        for text in ["panicked at", "on purpose", "RUST_BACKTRACE", "worker "] {
            server.may_say(text);
        }
        for round in rounds {
            let answer = server.ask(round);
            assert_eq!(answer.is_ok(), *round == "good", "{name}: {answer:?}");
        }
        wait_until("both are counted", || counted(&server).1 == 2);
        assert!(!comes_true(Duration::from_millis(50), || counted(&server).1 != 2), "{name}");
        server.stop();
    }

    let mut server = start(Style::Datagram, &["datagram"]);
    for text in ["panicked at", "on purpose", "RUST_BACKTRACE", "worker "] {
        server.may_say(text);
    }
    let Address::Udp(address) = *server.address() else { panic!("{:?}", server.address()) };
    let client = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    for n in 1..=2 {
        for text in ["x", "panic"] {
            client.send_to(text.as_bytes(), address).unwrap();
        }
        wait_until("both are counted", || counted(&server).1 == 2 * n);
    }
    server.stop();

    // In C, with a status of its own choice, and with a failure.
    let module = compile(
        "#include <prefork.h>\n\
         static void answer(prefork_request *req, prefork_response *res, void *state)\n\
         { (void)state; prefork_response_status(res, 503); if (prefork_request_path(req).len > 1) prefork_response_fail(res); }\n\
         PREFORK_MODULE(.on_request = answer)",
        &[],
    );
    let server = Start::new(Style::Request).module(module).start();
    let mut client = server.connect();
    for (path, status) in [("/", 503), ("/fail", 500), ("/", 503)] {
        client.send(format!("GET {path} HTTP/1.1\r\nHost: t\r\n\r\n").as_bytes()).unwrap();
        assert_eq!(client.http_answer().unwrap().status, status);
    }
    wait_until("all are counted", || counted(&server).0 == 3);
    assert_eq!(counted(&server), (3, 1));
    drop(client);
    server.stop();
}

/// What clients do is no failure of the handler, though its calls return errors and it returns these.
#[test]
fn silent_and_vanished_clients_are_not_logged() {
    for (style, name) in [(Style::Connection, "connection"), (Style::Data, "data")] {
        let server = start(style, &[name, "100ms"]);
        let mut silent: Vec<_> = (0..4).map(|_| server.connect()).collect();
        (0..4).for_each(|_| server.connect().reset());
        if style == Style::Connection {
            silent.iter_mut().for_each(|client| assert_eq!(client.rest().unwrap(), b""));
        }
        assert_eq!(server.ask("x").unwrap(), "x");
        // Any line would be unexpected.
        drop(silent);
        assert_eq!(counted(&server).1, 0, "{name}");
        server.stop();
    }
    let server = start(Style::Request, &["gone"]);
    for _ in 0..2 {
        let mut client = server.connect();
        client.send(b"GET / HTTP/1.1\r\nHost: t\r\n\r\n").unwrap();
        client.reset();
    }
    wait_until("both are over", || {
        let connected = |pid: &i32| util::proc::kinds(*pid).iter().filter(|kind| *kind == "socket").count();
        let mut counts: Vec<_> = server.workers().iter().map(connected).collect();
        counts.dedup();
        counts.len() == 1
    });
    assert_eq!(counted(&server).1, 0);
    server.stop();
}
