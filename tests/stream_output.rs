//! What a stream writes: all of it arrives, however slowly the client reads and whatever it sends meanwhile.
#![allow(clippy::unwrap_used)]

mod util;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};
use util::handler::{Mode, compile};
use util::{Client, Server, Start, Style, wait_until};

/// Echoes, and keeps what it cannot write for later.
const KEEPS_THE_REST: &str = "
#include <prefork.h>
static void on_data(prefork_conn *conn, void *state)
{
    prefork_slice in = prefork_conn_data(conn);
    size_t n, done = 0;
    (void)state;
    for (; done < in.len; done += n) {
        n = in.len - done < 16384 ? in.len - done : 16384;
        if (prefork_conn_write(conn, in.data + done, n) < 0)
            break;
    }
    prefork_conn_consume(conn, done);
}
PREFORK_MODULE(.on_data = on_data)
";

/// Answers every byte with 300,000, each time as often as it can, and remembers how many it still owes.
const MULTIPLIES: &str = "
#include <prefork.h>
static char answer[300000];
static void on_data(prefork_conn *conn, void *state)
{
    (void)state;
    while (prefork_conn_data(conn).len > 0) {
        if (prefork_conn_write(conn, answer, sizeof answer) < 0)
            return;
        prefork_conn_consume(conn, 1);
    }
}
PREFORK_MODULE(.on_data = on_data)
";

/// More than the buffers of the kernel, of both ends and both directions, and `max-pending` hold.
const SIZE: usize = 40 << 20;

fn example(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("ffi-examples").join(name);
    compile(&std::fs::read_to_string(path).unwrap(), &[])
}

fn stream(module: PathBuf) -> Start {
    Start::new(Style::Data).workers(1).module(module)
}

fn bytes(n: usize) -> Vec<u8> {
    (0..n).map(|i| (i % 251) as u8).collect()
}

/// A client that sends and reads nothing until the server takes no more; then it reads all.
fn sends_first_and_reads_then(server: &Server, size: usize) {
    let (sent, mut client) = (bytes(size), server.connect());
    let taken = &AtomicUsize::new(0);
    std::thread::scope(|scope| {
        let mut half = client.half();
        scope.spawn({
            let sent = &sent;
            move || {
                for part in sent.chunks(10_000) {
                    half.send(part).unwrap();
                    taken.fetch_add(1, Relaxed);
                }
                half.end().unwrap();
            }
        });
        let mut before = usize::MAX;
        wait_until("the server takes no more", || {
            std::thread::sleep(Duration::from_millis(100));
            before == std::mem::replace(&mut before, taken.load(Relaxed))
        });
        assert!(before * 10_000 < size, "the server keeps all of it");
        let got = client.rest().unwrap();
        assert_eq!(got.len(), sent.len());
        assert!(got == sent, "the same bytes");
    });
}

#[test]
fn an_echo_of_more_than_may_wait_arrives_whole() {
    for module in [example("echo.c"), compile(KEEPS_THE_REST, &[])] {
        let server = stream(module).start();
        sends_first_and_reads_then(&server, SIZE);
        server.stop();
    }
}

#[test]
fn an_echo_arrives_whole_whatever_the_limits_are() {
    for (module, pending, body) in [
        (example("echo.c"), "100K", "1M"),
        (compile(KEEPS_THE_REST, &[]), "64K", "1G"),
        (example("echo.c"), "3K", "1K"),
    ] {
        let server = stream(module).set("max-pending", pending).set("max-body", body).start();
        sends_first_and_reads_then(&server, SIZE);
        server.stop();
    }
}

#[test]
fn a_handler_that_waits_for_room_is_called_again_without_more_from_the_client() {
    let server = stream(compile(MULTIPLIES, &[])).set("max-pending", "1M").start();
    for ends in [false, true] {
        let mut client = server.connect();
        client.send(&[b'x'; 100]).unwrap();
        if ends {
            client.end().unwrap();
        }
        // The client is behind by all that the socket and the worker hold.
        std::thread::sleep(Duration::from_millis(100));
        assert_eq!(client.rest_up_to(100 * 300_000), Ok(100 * 300_000), "client ends: {ends}");
        if ends {
            assert_eq!(client.rest(), Ok(vec![]));
        }
    }
    server.stop();
}

/// Every client hears of the others: a line goes to all others, `bye` closes them, and an end is told.
const CHAT: &str = r#"
#include <prefork.h>
#include <string.h>
static prefork_conn *all[64];
static void tell(prefork_conn *from, const char *text, size_t size)
{
    for (int i = 0; i < 64; i++)
        if (all[i] != NULL && all[i] != from)
            prefork_conn_write(all[i], text, size);
}
static void on_open(prefork_conn *conn, void *state)
{
    int i = 0;
    (void)state;
    while (all[i] != NULL)
        i++;
    all[i] = conn;
    prefork_conn_write(conn, "welcome\n", 8);
}
static void on_data(prefork_conn *conn, void *state)
{
    prefork_slice in = prefork_conn_data(conn);
    (void)state;
    tell(conn, in.data, in.len);
    for (int i = 0; in.len == 4 && !memcmp(in.data, "bye\n", 4) && i < 64; i++)
        if (all[i] != NULL && all[i] != conn)
            prefork_conn_close(all[i]);
    prefork_conn_consume(conn, in.len);
}
static void on_close(prefork_conn *conn, void *state)
{
    (void)state;
    tell(conn, "left\n", 5);
    for (int i = 0; i < 64; i++)
        if (all[i] == conn)
            all[i] = NULL;
}
static void on_datagram(prefork_worker *worker, const struct sockaddr *peer, const void *data, size_t size, void *state)
{
    (void)worker, (void)peer, (void)state;
    tell(NULL, data, size);
}
PREFORK_MODULE(.on_open = on_open, .on_data = on_data, .on_close = on_close, .on_datagram = on_datagram)
"#;

#[test]
fn what_is_written_to_another_connection_is_sent_at_once_and_so_is_its_end() {
    for mode in Mode::ALL {
        let server =
            stream(compile(CHAT, &[])).accept(mode).listen("127.0.0.1:0").listen("udp:127.0.0.1:0").start();
        let mut clients: Vec<Client> = (0..5).map(|_| server.connect()).collect();
        clients.iter_mut().for_each(|c| assert_eq!(c.answer(), Ok("welcome".into())));
        clients[0].send(b"hello\n").unwrap();
        clients[1..].iter_mut().for_each(|c| assert_eq!(c.answer(), Ok("hello".into()), "{mode:?}"));
        let datagram = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let util::client::Address::Udp(to) = &server.addresses[1] else { panic!("no datagrams") };
        datagram.send_to(b"news\n", to).unwrap();
        clients.iter_mut().for_each(|c| assert_eq!(c.answer(), Ok("news".into()), "{mode:?}"));
        drop(clients.pop());
        clients.iter_mut().for_each(|c| assert_eq!(c.answer(), Ok("left".into()), "{mode:?}"));
        clients[0].send(b"bye\n").unwrap();
        for client in &mut clients[1..] {
            let rest = client.rest().unwrap();
            assert!(rest.starts_with(b"bye\n"), "{mode:?}");
        }
        for _ in 1..4 {
            assert_eq!(clients[0].answer(), Ok("left".into()), "{mode:?}");
        }
        drop(clients);
        server.stop();
    }
}

/// Streams that hear what others say: in a request to any worker, which tells all others, and when their worker drains.
const ROOM: &str = r#"
#include <prefork.h>
#include <string.h>
static prefork_conn *all[64];
static void tell(const char *text, size_t size)
{
    for (int i = 0; i < 64; i++)
        if (all[i] != NULL) {
            prefork_conn_write(all[i], text, size);
            if (size == 4 && !memcmp(text, "bye\n", 4))
                prefork_conn_close(all[i]);
        }
}
static void on_request(prefork_request *req, prefork_response *res, void *state)
{
    prefork_slice path = prefork_request_path(req);
    char text[64];
    (void)state;
    if (path.len == 5 && !memcmp(path.data, "/join", 5)) {
        prefork_response_upgrade(res, "raw");
        return;
    }
    memcpy(text, path.data + 1, path.len - 1);
    text[path.len - 1] = '\n';
    tell(text, path.len);
    prefork_worker_send(prefork_worker_self(), PREFORK_TO_ALL, 1, text, path.len);
    prefork_response_body(res, "told", 4);
}
static void on_open(prefork_conn *conn, void *state)
{
    int i = 0;
    (void)state;
    while (all[i] != NULL)
        i++;
    all[i] = conn;
}
static void on_data(prefork_conn *conn, void *state)
{
    (void)state;
    prefork_conn_consume(conn, (size_t)-1);
}
static void on_close(prefork_conn *conn, void *state)
{
    (void)state;
    for (int i = 0; i < 64; i++)
        if (all[i] == conn)
            all[i] = NULL;
}
static void on_message(prefork_worker *worker, uint32_t from, uint32_t type, const void *data, size_t size, void *state)
{
    (void)worker, (void)from, (void)type, (void)state;
    tell(data, size);
}
static void on_drain(prefork_worker *worker, void *state)
{
    (void)worker, (void)state;
    tell("bye\n", 4);
}
PREFORK_MODULE(.on_request = on_request, .on_open = on_open, .on_data = on_data, .on_close = on_close,
               .on_message = on_message, .on_drain = on_drain)
"#;

#[test]
fn what_is_written_for_a_request_a_message_or_a_drain_is_sent_at_once_and_so_is_its_end() {
    for (mode, end) in Mode::ALL.into_iter().flat_map(|mode| [(mode, "request"), (mode, "drain")]) {
        let server = stream(compile(ROOM, &[])).accept(mode).workers(2).start();
        let ask = |path: &str| {
            let mut client = Client::connect(server.address(), Style::Request).unwrap();
            assert_eq!(client.http_answer_to(path), Ok(4), "{mode:?} {path}");
        };
        let mut clients: Vec<Client> = (0..6).map(|_| server.connect()).collect();
        clients.iter_mut().for_each(upgrade);
        for text in ["hello", "again"] {
            ask(&format!("/{text}"));
            clients.iter_mut().for_each(|c| assert_eq!(c.answer(), Ok(text.into()), "{mode:?}"));
        }
        match end {
            "request" => ask("/bye"),
            _ => server.signal(libc::SIGTERM),
        }
        for client in &mut clients {
            assert_eq!(client.answer(), Ok("bye".into()), "{mode:?} {end}");
            assert_eq!(client.rest(), Ok(vec![]), "{mode:?} {end}");
        }
        drop(clients);
        if end == "request" {
            server.stop();
            continue;
        }
        let begun = Instant::now();
        server.ends();
        assert!(begun.elapsed() < Duration::from_secs(5), "{mode:?}: {:?}", begun.elapsed());
    }
}

/// Answers the first bytes with 5 MiB and closes.
const ANSWERS_ONCE: &str = "
#include <prefork.h>
#ifndef SIZE
#define SIZE (5 << 20)
#endif
static char answer[SIZE];
#ifdef BLOCKING
static void on_connection(prefork_conn *conn, void *state)
{
    char c;
    (void)state;
    if (prefork_conn_read(conn, &c, 1) == 1)
        prefork_conn_write(conn, answer, sizeof answer);
}
PREFORK_MODULE(.on_connection = on_connection)
#else
static void on_data(prefork_conn *conn, void *state)
{
    (void)state;
    prefork_conn_consume(conn, (size_t)-1);
    prefork_conn_write(conn, answer, sizeof answer);
    prefork_conn_close(conn);
}
#ifdef UPGRADE
static void on_request(prefork_request *req, prefork_response *res, void *state)
{
    (void)req, (void)state;
    prefork_response_upgrade(res, \"raw\");
}
PREFORK_MODULE(.on_request = on_request, .on_data = on_data)
#else
PREFORK_MODULE(.on_data = on_data)
#endif
#endif
";

/// Reads an answer of [`ANSWERS_ONCE`], and sends this many bytes that nobody has asked for before each part.
#[track_caller]
fn reads_all_and_sends_on(mut client: Client, stray: usize, case: &str) {
    client.send(b"first").unwrap();
    let mut got = 0;
    for step in 1.. {
        // The server may have closed, and then it does not take them.
        let sent = client.send(&vec![b'u'; stray]).is_ok();
        let before = got;
        got += client
            .rest_up_to(100_000)
            .unwrap_or_else(|e| panic!("{case}, {stray} bytes: {e:?} after {got}, sent {sent}"));
        if before == got {
            break;
        }
        assert!(step < 1000);
    }
    assert_eq!(got, 5 << 20, "{case}, {stray} bytes");
}

#[test]
fn the_end_of_an_answer_arrives_even_if_the_client_goes_on_sending() {
    for (style, flags) in [(Style::Data, &[][..]), (Style::Connection, &["-DBLOCKING"])] {
        let module = compile(ANSWERS_ONCE, flags);
        for mode in Mode::ALL {
            let start =
                Start::new(style).accept(mode).workers(1).module(module.clone()).listen("127.0.0.1:0");
            let socket = format!("unix:{}", start.dir().path().join("s").display());
            let server = start.listen(socket).start();
            for address in &server.addresses {
                // A handler in blocking style does not read while it writes: a client that sends more waits for it.
                let strays = [0, 1, if style == Style::Data { 32768 } else { 1000 }];
                // Who accepts makes no difference to all of them.
                let strays = if mode == Mode::Master { &strays[..] } else { &strays[1..2] };
                for stray in strays {
                    let client = Client::connect(address, style).unwrap();
                    reads_all_and_sends_on(client, *stray, &format!("{style:?} {mode:?} {address:?}"));
                }
            }
            server.stop();
        }
    }
}

#[test]
fn the_end_of_an_upgraded_stream_arrives_even_if_the_client_goes_on_sending() {
    let server = stream(compile(ANSWERS_ONCE, &["-DUPGRADE"])).start();
    for stray in [0, 1, 32768] {
        let mut client = server.connect();
        upgrade(&mut client);
        reads_all_and_sends_on(client, stray, "upgraded");
    }
    server.stop();
}

/// Makes a connection a stream.
fn upgrade(client: &mut Client) {
    let request = "GET /join HTTP/1.1\r\nHost: t\r\nConnection: upgrade\r\nUpgrade: raw\r\n\r\n";
    client.send(request.as_bytes()).unwrap();
    let head: Vec<String> = (0..20).map(|_| client.answer().unwrap()).take_while(|l| l != "\r").collect();
    assert!(head[0].starts_with("HTTP/1.1 101 "), "{head:?}");
}

#[test]
fn blocking_workers_serve_others_while_clients_keep_their_side_open() {
    let server = Start::new(Style::Connection)
        .workers(1)
        .module(compile(ANSWERS_ONCE, &["-DBLOCKING", "-DSIZE=9"]))
        .start();
    let mut open = Vec::new();
    for _ in 0..200 {
        let mut client = server.connect();
        client.send(b"x").unwrap();
        assert_eq!(client.rest().map(|answer| answer.len()), Ok(9));
        open.push(client);
    }
    let worker = server.workers()[0];
    let descriptors = util::proc::descriptors(worker).len();
    assert!(descriptors < 190, "{descriptors}");
    drop(open);
    server.stop();
}
