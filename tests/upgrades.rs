//! From a request to a stream: the order of the 101, of `on_open` and of bytes behind the handshake, and what the request leaves.
#![allow(clippy::unwrap_used)]

mod util;

use std::fs;
use std::path::Path;
use util::handler::compile;
use util::{Client, Server, Start, Style, wait_until};

fn start() -> Server {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/upgrades.c");
    Start::new(Style::Request).workers(1).module(compile(&fs::read_to_string(source).unwrap(), &[])).start()
}

fn request(target: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: t\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n")
}

fn log(server: &Server) -> String {
    server.ask("log").unwrap()
}

/// What the client gets behind the head of the 101.
fn stream(client: &mut Client) -> String {
    let text = String::from_utf8(client.rest().unwrap()).unwrap();
    let (head, rest) = text.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 101 ") && head.contains("\r\nUpgrade: echo"), "{head}");
    rest.into()
}

#[test]
fn the_stream_begins_after_its_101_with_the_user_of_its_request_and_then_gets_what_came_early() {
    for how in ["now", "later"] {
        for early in ["", "early"] {
            let server = start();
            let mut client = server.connect();
            client.send(format!("{}{early}", request(&format!("/{how}?anna"))).as_bytes()).unwrap();
            client.wait_for_bytes().unwrap();
            client.send(b" late").unwrap();
            wait_until("what is late has arrived", || {
                let log = log(&server);
                log.contains("data 5 anna") && (early.is_empty() || log.matches("data").count() == 2)
                    || log.contains("data 10 anna")
            });
            client.end().unwrap();
            assert_eq!(stream(&mut client), format!("hello anna{early} late"), "{how}");
            let log = log(&server);
            let lines: Vec<_> = log.lines().filter(|line| !line.starts_with("data")).collect();
            let mut expected = vec!["release other", "open anna", "early anna", "close anna", "release anna"];
            expected.retain(|line| !early.is_empty() || *line != "early anna");
            assert_eq!(lines, expected, "{how}");
            let data: usize = log
                .lines()
                .filter_map(|l| l.strip_prefix("data ")?.split(' ').next()?.parse::<usize>().ok())
                .sum();
            assert_eq!(data, early.len() + " late".len());
            server.stop();
        }
    }
}

#[test]
fn what_is_left_for_a_stream_that_never_begins_is_released() {
    let server = start();
    let mut client = server.connect();
    client.send(request("/fail?bert").as_bytes()).unwrap();
    assert_eq!(client.http_answer().unwrap().status, 500);
    wait_until("it is released", || log(&server).contains("release bert"));
    // The client goes before the response is decided.
    let mut client = server.connect();
    client.send(request("/later?carl").as_bytes()).unwrap();
    client.reset();
    wait_until("it is released", || log(&server).contains("release carl"));
    let log = log(&server);
    assert_eq!(log.matches("release").count(), 3, "{log}");
    assert!(!log.contains("bert\nclose"), "{log}");
    server.stop();
}

#[test]
fn streams_of_one_client_after_another_have_their_own_users() {
    let server = start();
    for n in 0..50 {
        let mut client = server.connect();
        // Behind another request, in the same packet.
        let both = format!("GET /plain HTTP/1.1\r\nHost: t\r\n\r\n{}", request(&format!("/now?user{n}")));
        client.send(both.as_bytes()).unwrap();
        assert_eq!(client.http_answer().unwrap().body, "plain");
        client.end().unwrap();
        assert_eq!(stream(&mut client), format!("hello user{n}"));
    }
    server.stop();
}
