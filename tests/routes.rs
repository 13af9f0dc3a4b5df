//! Listeners with names, each served by a handler and in a style of its own.
#![allow(clippy::unwrap_used)]

mod util;

use std::fs;
use std::net::{SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use util::client::Address;
use util::handler::compile;
use util::{Client, Mode, Server, Start, Style, wait_until};

fn module(flags: &[&str]) -> PathBuf {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/routes.c");
    compile(&fs::read_to_string(source).unwrap(), flags)
}

const ADDRESSES: [&str; 5] =
    ["api=127.0.0.1:0", "line=127.0.0.1:0", "admin=127.0.0.1:0", "time=udp:127.0.0.1:0", "127.0.0.1:0"];

fn start() -> Start {
    ADDRESSES.into_iter().fold(Start::new(Style::Request).module(module(&[])), Start::listen)
}

const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: t\r\n\r\n";

fn get(address: &Address) -> String {
    let mut client = Client::connect(address, Style::Request).unwrap();
    client.send(GET).unwrap();
    client.http_answer().unwrap().body
}

fn udp(address: &Address) -> SocketAddr {
    let Address::Udp(address) = address else { panic!("{address:?}") };
    *address
}

/// Everything at every listener, by a server that was just started.
fn is_served(server: &Server) {
    let at = &server.addresses;
    assert_eq!(get(&at[0]), "api by own");
    assert_eq!(get(&at[2]), "admin by admin handler");
    assert_eq!(get(&at[4]), " by own");
    // A server that speaks first does so at once: the kernel does not wait for the client.
    let begun = Instant::now();
    let mut line = Client::connect(&at[1], Style::Data).unwrap();
    assert_eq!(line.answer().unwrap(), "line handler");
    assert!(begun.elapsed() < Duration::from_millis(900), "{:?}", begun.elapsed());
    line.send(b"hello\n").unwrap();
    assert_eq!(line.answer().unwrap(), "hello");
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    socket.send_to(b"?", udp(&at[3])).unwrap();
    let mut text = [0; 100];
    let n = socket.recv(&mut text).unwrap();
    assert_eq!(&text[..n], b"datagram by time handler");
}

/// An upgrade, of which one handler is able and another not.
fn upgrades(address: &Address) -> bool {
    let mut client = Client::connect(address, Style::Request).unwrap();
    client.send(b"GET /u HTTP/1.1\r\nHost: t\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n").unwrap();
    client.end().unwrap();
    String::from_utf8(client.rest().unwrap()).unwrap().starts_with("HTTP/1.1 101 ")
}

#[test]
fn each_listener_has_the_handler_and_the_style_of_its_name() {
    for mode in Mode::ALL {
        let server = start().accept(mode).start();
        for _ in 0..10 {
            is_served(&server);
        }
        assert!(upgrades(&server.addresses[0]) && !upgrades(&server.addresses[2]));
        server.stop();
    }
}

#[test]
fn names_outlive_reloads_and_upgrades() {
    let mut server = start().start();
    server.reload();
    is_served(&server);
    server.may_say("");
    server.signal(libc::SIGUSR2);
    server.wait_for_line("reload to generation 3 is complete");
    is_served(&server);
    server.reload();
    is_served(&server);
    server.stop();
}

#[test]
fn a_reload_that_changes_the_style_gives_no_client_another_protocol() {
    let other = module(&["-DOTHER_STYLE", "-Wno-unused-function"]);
    let mut server = ["api=127.0.0.1:0", "line=127.0.0.1:0"]
        .into_iter()
        .fold(Start::new(Style::Request), Start::listen)
        .module(other.clone())
        .own_module()
        .start();
    let mut api = Client::connect(&server.addresses[0], Style::Request).unwrap();
    let mut line = Client::connect(&server.addresses[1], Style::Request).unwrap();
    for client in [&mut api, &mut line] {
        client.send(GET).unwrap();
        assert_eq!(client.http_answer().unwrap().status, 200);
    }
    server.install(&module(&[]));
    server.reload();
    // An idle HTTP connection, which the new handler of its listener cannot continue.
    assert_eq!(line.rest().unwrap(), b"");
    api.send(GET).unwrap();
    assert_eq!(api.http_answer().unwrap().body, "api by own");
    let mut stream = Client::connect(&server.addresses[1], Style::Data).unwrap();
    assert_eq!(stream.answer().unwrap(), "line handler");
    server.install(&other);
    server.signal(libc::SIGHUP);
    wait_until("new connections get the new style", || {
        let mut client = Client::connect(&server.addresses[1], Style::Request).unwrap();
        client.send(GET).unwrap();
        client.http_answer().is_ok_and(|answer| answer.body == "line by line handler")
    });
    // The old worker serves it to its end.
    stream.send(b"hello\n").unwrap();
    assert_eq!(stream.answer().unwrap(), "hello");
    drop(stream);
    server.wait_for_line("reload to generation 3 is complete");
    server.stop();
}

#[test]
fn a_handler_without_a_listener_is_left_out() {
    let server = Start::new(Style::Request).module(module(&[])).start();
    assert_eq!(get(server.address()), " by own");
    server.stop();
}

#[test]
fn several_listeners_may_share_a_name() {
    let mut start = Start::new(Style::Data).module(module(&[]));
    for address in ["line=127.0.0.1:0", "line=127.0.0.1:0"] {
        start = start.listen(address);
    }
    let server = start.start();
    for address in &server.addresses {
        let mut line = Client::connect(address, Style::Data).unwrap();
        assert_eq!(line.answer().unwrap(), "line handler");
    }
    server.stop();
}

#[test]
fn what_cannot_be_served_is_refused_with_the_reason() {
    let blocking = Start::new(Style::Connection).module(module(&["-DOWN_BLOCKING"]));
    let text = blocking.listen("line=127.0.0.1:0").refused().stderr;
    assert!(text.contains("serves all listeners or none"), "{text}");
    // The worker's own handler has no on_datagram.
    let text = start().listen("other=udp:127.0.0.1:0").refused().stderr;
    assert!(text.contains("the handler has no on_datagram"), "{text}");
    // A handler of datagrams alone at an address for connections.
    let text = Start::new(Style::Request).module(module(&[])).listen("time=127.0.0.1:0").refused().stderr;
    assert!(text.contains("on_datagram only"), "{text}");
    // A name that no address has.
    let other = Start::new(Style::Request).module(module(&["-DOTHER_STYLE", "-Wno-unused-function"]));
    let text = other.listen("lin=127.0.0.1:0").refused().stderr;
    let reason =
        "worker_start returned -13: serve \"line\": no listener has this name: add --listen NAME=ADDRESS";
    assert!(text.contains(reason), "{text}");
    let text = Start::new(Style::Request).module(module(&[])).listen("=127.0.0.1:0").refused().stderr;
    assert!(text.contains("a name in front of ="), "{text}");
}

#[test]
fn the_banner_says_how_each_address_is_spoken_to() {
    let server = start().start();
    let banner = server.stdout().join("\n");
    let schemes: Vec<_> = ["http://", "tcp://", "http://", "udp://", "http://"].into();
    let urls: Vec<_> =
        banner.lines().find_map(|line| line.split_once("listening on ")).unwrap().1.split(", ").collect();
    assert_eq!(urls.len(), schemes.len(), "{banner}");
    assert!(urls.iter().zip(schemes).all(|(url, scheme)| url.starts_with(scheme)), "{banner}");
    server.stop();
}

#[test]
fn a_rust_handler_does_the_same() {
    let server = Start::new(Style::Request)
        .program([util::host::example("conns").into_os_string(), "routes".into()])
        .start();
    wait_until("both are served", || server.addresses.len() == 2);
    assert_eq!(get(&server.addresses[0]), "api");
    let mut line = Client::connect(&server.addresses[1], Style::Data).unwrap();
    line.send(b"hello\n").unwrap();
    assert_eq!(line.answer().unwrap(), "hello");
    drop(line);
    server.stop();
}
