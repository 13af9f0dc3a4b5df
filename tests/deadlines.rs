//! Deadlines: the time that handlers take is not counted against clients, and one that reads is not silent.
#![allow(clippy::unwrap_used)]

mod util;

use std::io::ErrorKind;
use std::net::UdpSocket;
use std::time::{Duration, Instant, SystemTime};
use util::answers::{Answer, Checker, Form, Reached};
use util::client::Address;
use util::handler::{compile, host_with};
use util::load::at_once;
use util::reader::Reader;
use util::{Client, Server, Start, Style, proc, wait_until};

/// As a request or a line `/MS/SIZE`: takes so long, and answers with so many bytes.
const SLOW: &str = r#"
#include <prefork.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
static char big[16 << 20];
static long work(const char *text, size_t len)
{
    char t[128];
    long ms = 0, size = 3;
    snprintf(t, sizeof t, "%.*s", (int)len, text);
    sscanf(t, "/%ld/%ld", &ms, &size);
    nanosleep(&(struct timespec){ms / 1000, ms % 1000 * 1000000}, NULL);
    return size;
}
static void on_request(prefork_request *req, prefork_response *res, void *state)
{
    prefork_slice path = prefork_request_path(req);
    (void)state;
    prefork_response_body_static(res, big, (size_t)work(path.data, path.len));
}
static void on_data(prefork_conn *conn, void *state)
{
    prefork_slice in = prefork_conn_data(conn);
    (void)state;
    prefork_conn_write(conn, big, (size_t)work(in.data, in.len));
    prefork_conn_consume(conn, in.len);
}
static void on_datagram(prefork_worker *worker, const struct sockaddr *peer, const void *data, size_t len, void *state)
{
    (void)worker, (void)peer, (void)state;
    work(data, len);
}
#ifdef STREAM
PREFORK_MODULE(.on_data = on_data, .on_datagram = on_datagram)
#else
PREFORK_MODULE(.on_request = on_request, .on_datagram = on_datagram)
#endif
"#;

const SIZE: usize = 16 << 20;

fn start(style: Style) -> Start {
    let flags: &[&str] = if style == Style::Data { &["-DSTREAM"] } else { &[] };
    let flags = [flags, &["-Wno-unused-function"]].concat();
    Start::new(style).workers(1).module(compile(SLOW, &flags))
}

fn request(style: Style, path: &str) -> String {
    match style {
        Style::Data => path.into(),
        _ => format!("GET {path} HTTP/1.1\r\nHost: t\r\n\r\n"),
    }
}

/// Reads an answer of [`SIZE`] bytes, without its head.
fn reads_all(client: &mut Client, style: Style) {
    match style {
        Style::Data => assert_eq!(client.rest_up_to(SIZE), Ok(SIZE)),
        _ => assert_eq!(client.http_answer().map(|answer| answer.body.len()), Ok(SIZE)),
    }
}

#[test]
fn the_answer_of_a_slow_handler_is_not_cut() {
    for style in [Style::Request, Style::Data] {
        let server = start(style).set("write-timeout", "1s").start();
        let (mut client, mut other) = (server.connect(), server.connect());
        client.send(request(style, &format!("/1500/{SIZE}")).as_bytes()).unwrap();
        // It waits while the handler runs.
        other.send(request(style, "/0/3").as_bytes()).unwrap();
        client.wait_for_bytes().unwrap();
        // A client that reads at once would keep the connection by that.
        std::thread::sleep(Duration::from_millis(400));
        reads_all(&mut client, style);
        drop((client, other));
        server.stop();
    }
}

#[test]
fn many_handlers_in_one_turn_cut_no_answer() {
    for style in [Style::Request, Style::Data] {
        let server = start(style).set("write-timeout", "1s").start();
        let mut first = server.connect();
        first.send(request(style, "/300/3").as_bytes()).unwrap();
        // They are reported together when the first has returned.
        let mut clients: Vec<_> = (0..8).map(|_| server.connect()).collect();
        for client in &mut clients {
            client.send(request(style, &format!("/200/{SIZE}")).as_bytes()).unwrap();
        }
        std::thread::scope(|scope| {
            for client in &mut clients {
                scope.spawn(move || {
                    client.wait_for_bytes().unwrap();
                    // Within the time that it has from then on, and long after that from the beginning of the turn.
                    std::thread::sleep(Duration::from_millis(300));
                    reads_all(client, style);
                });
            }
        });
        drop((first, clients));
        server.stop();
    }
}

#[test]
fn a_kept_connection_is_kept_from_its_answer_on() {
    for style in [Style::Request, Style::Data] {
        let server = start(style).set("idle-timeout", "1s").start();
        let (mut client, mut other) = (server.connect(), server.connect());
        let is_answered = |client: &mut Client| match style {
            Style::Data => assert_eq!(client.rest_up_to(3), Ok(3)),
            _ => assert_eq!(client.http_answer().map(|answer| answer.body.len()), Ok(3)),
        };
        other.send(request(style, "/0/3").as_bytes()).unwrap();
        is_answered(&mut other);
        client.send(request(style, "/1200/3").as_bytes()).unwrap();
        std::thread::sleep(Duration::from_millis(100));
        // Sent in time, while the handler runs.
        other.send(request(style, "/0/3").as_bytes()).unwrap();
        is_answered(&mut client);
        is_answered(&mut other);
        std::thread::sleep(Duration::from_millis(300));
        client.send(request(style, "/0/3").as_bytes()).unwrap();
        is_answered(&mut client);
        // And no longer than that.
        assert_eq!(client.rest(), Ok(vec![]), "{style:?}");
        drop((client, other));
        server.stop();
    }
}

/// The loop sleeps until the next deadline: not longer by the time that a handler took.
#[test]
fn the_time_of_a_handler_delays_no_deadline() {
    for style in [Style::Request, Style::Data] {
        let server = start(style).set("idle-timeout", "1s").start();
        let mut client = server.connect();
        client.send(request(style, "/2500/3").as_bytes()).unwrap();
        client.wait_for_bytes().unwrap();
        let answered = Instant::now();
        client.rest().unwrap();
        let (kept, slack) = (answered.elapsed(), Duration::from_millis(1400));
        assert!(kept < Duration::from_secs(1) + slack, "{style:?}: {kept:?}");
        server.stop();
    }
}

/// Datagrams are read first in a turn, and a message may be too.
#[test]
fn the_time_of_another_callback_cuts_no_answer() {
    let server = start(Style::Request)
        .listen("127.0.0.1:0")
        .listen("udp:127.0.0.1:0")
        .set("write-timeout", "1s")
        .start();
    let Address::Udp(datagrams) = server.addresses[1] else { panic!("{:?}", server.addresses) };
    let mut client = server.connect();
    assert_eq!(client.http_answer_to("/0/3"), Ok(3));
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.send_to(b"/400", datagrams).unwrap();
    // While it is served: both are reported together then, and this one is served first.
    std::thread::sleep(Duration::from_millis(100));
    socket.send_to(b"/1500", datagrams).unwrap();
    client.send(request(Style::Request, &format!("/0/{SIZE}")).as_bytes()).unwrap();
    client.wait_for_bytes().unwrap();
    std::thread::sleep(Duration::from_millis(300));
    reads_all(&mut client, Style::Request);
    drop(client);
    server.stop();
}

/// A host with a callback that takes a long time before it drains a worker.
const HOST: &str = r#"
#define _POSIX_C_SOURCE 200809L
#include <prefork.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
static void rest(long ms)
{
    struct timespec left = {ms / 1000, ms % 1000 * 1000000};
    while (nanosleep(&left, &left) != 0)
        ;
}
static void on_request(prefork_request *req, prefork_response *res, void *state)
{
    (void)req, (void)state;
    prefork_worker_send(prefork_worker_self(), PREFORK_TO_MASTER, 1, "", 0);
    rest(1600);
    prefork_response_body(res, "done", 4);
}
static void on_message(prefork_server *server, uint32_t from, uint32_t type, const void *data, size_t size, void *state)
{
    (void)type, (void)data, (void)size, (void)state;
    rest(800);
    prefork_server_drain(server, from, 1200);
}
static void on_start(const prefork_started *started, void *state)
{
    (void)state;
    printf("listening on %s\n", started->addresses[0]);
    fflush(stdout);
}
int main(void)
{
    prefork_server *server = prefork_server_new();
    prefork_server_on_request(server, on_request, NULL);
    prefork_server_on_message(server, on_message, NULL);
    prefork_server_on_start(server, on_start, NULL);
    prefork_server_listen(server, "127.0.0.1:0");
    prefork_server_workers(server, 2);
    return prefork_server_run(server) != PREFORK_OK;
}
"#;

#[test]
fn the_time_of_a_callback_of_the_master_is_not_counted_against_a_worker() {
    let server = Start::new(Style::Request).program([host_with(HOST, &[])]).start();
    assert_eq!(server.connect().http_answer_to("/"), Ok(4), "800 ms of the 1200 that the worker has");
    server.stop();
}

/// A host whose processes ask each other, and do something else for longer than the deadline of what they ask. Compiled with `STEP`,
/// the host does that between its steps.
const ASKING_HOST: &str = r#"
#define _POSIX_C_SOURCE 200809L
#include <prefork.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
enum { ASK = 1, ASK_ME, NOISE };
enum { DEADLINE = 300, LONGER = 800 };
static int to_rest;
static void rest(void)
{
    struct timespec left = {0, LONGER * 1000000};
    while (nanosleep(&left, &left) != 0)
        ;
}
static void say(const char *who, int status)
{
    char line[64];
    snprintf(line, sizeof line, "%s: %d\n", who, status);
    fputs(line, stdout);
    fflush(stdout);
}
static void worker_replied(prefork_worker *worker, int status, const void *data, size_t size, void *arg)
{
    (void)worker, (void)data, (void)size, (void)arg;
    say("worker", status);
}
static void server_replied(prefork_server *server, int status, const void *data, size_t size, void *arg)
{
    (void)server, (void)data, (void)size, (void)arg;
    say("master", status);
}
/* /ask/TO from here; /be-asked by the master */
static void on_request(prefork_request *req, prefork_response *res, void *state)
{
    prefork_worker *self = prefork_worker_self();
    prefork_slice path = prefork_request_path(req);
    (void)state;
    if (!strncmp(path.data, "/ask/", 5)) {
        prefork_worker_request(self, (uint32_t)atoi(path.data + 5), ASK, "", 0, DEADLINE, worker_replied, NULL);
        rest();
    } else
        prefork_worker_send(self, PREFORK_TO_MASTER, ASK_ME, "", 0);
    prefork_response_body(res, "done", 4);
}
static void worker_asked(prefork_worker *worker, uint32_t from, uint32_t type, const void *data, size_t size, void *state)
{
    (void)data, (void)size, (void)state;
    if (type != ASK)
        return;
    /* More than is read in one turn, and in a few. */
    for (int i = 0; i < 200; i++)
        prefork_worker_send(worker, from, NOISE, "", 0);
    prefork_worker_reply(worker, "", 0);
}
static void on_message(prefork_server *server, uint32_t from, uint32_t type, const void *data, size_t size, void *state)
{
    (void)data, (void)size, (void)state;
    if (type == ASK) {
        for (int i = 0; i < 200; i++)
            prefork_server_send(server, from, NOISE, "", 0);
        prefork_server_reply(server, "", 0);
    }
    if (type == ASK_ME) {
        prefork_server_request(server, from, ASK, "", 0, DEADLINE, server_replied, NULL);
        /* Its death is seen together with the reply, and comes first. */
        prefork_server_drain(server, 3 - from, 0);
#ifdef STEP
        to_rest = 1;
#else
        rest();
#endif
    }
}
static void on_start(const prefork_started *started, void *state)
{
    (void)state;
    printf("listening on %s\n", started->addresses[0]);
    fflush(stdout);
}
int main(void)
{
    prefork_server *server = prefork_server_new();
    struct prefork_module module = prefork_module_init();
    int status = 1;
    module.on_request = on_request;
    module.on_message = worker_asked;
    prefork_server_module(server, &module, NULL);
    prefork_server_on_message(server, on_message, NULL);
    prefork_server_on_start(server, on_start, NULL);
    prefork_server_listen(server, "127.0.0.1:0");
    prefork_server_workers(server, 2);
#ifdef STEP
    prefork_server_set(server, "signals", "on");
    if (prefork_server_start(server) != PREFORK_OK)
        return 1;
    while ((status = prefork_server_step(server, -1)) == 1)
        if (to_rest) {
            to_rest = 0;
            rest();
        }
#else
    (void)to_rest;
    status = prefork_server_run(server);
#endif
    return status != PREFORK_OK;
}
"#;

#[test]
fn a_reply_that_came_in_time_counts_though_a_callback_took_longer_than_the_deadline() {
    for flags in [&[][..], &["-DSTEP"]] {
        let server = Start::new(Style::Request).program([host_with(ASKING_HOST, flags)]).start();
        for (path, line) in [
            ("/ask/0", "worker: 0"),
            ("/ask/1", "worker: 0"),
            ("/ask/2", "worker: 0"),
            ("/be-asked", "master: 0"),
        ] {
            let said = server.stdout().len();
            assert_eq!(server.connect().http_answer_to(path), Ok(4));
            wait_until("the reply, or the deadline, is told", || server.stdout().len() > said);
            assert_eq!(server.stdout()[said], line, "{path} {flags:?}");
        }
        server.stop();
    }
}

#[test]
fn the_date_of_an_answer_is_that_of_its_writing() {
    let server = start(Style::Request).start();
    let mut client = server.connect();
    let asked = SystemTime::now();
    client.send(request(Style::Request, "/1100/3").repeat(2).as_bytes()).unwrap();
    for n in 1..=2 {
        let head = client.http_answer().unwrap().head;
        let date = head.lines().find_map(|l| l.strip_prefix("Date: ")).unwrap();
        let date = httpdate::parse_http_date(date).unwrap();
        // To the second, which has begun before.
        assert!(date + Duration::from_secs(1) > asked + n * Duration::from_millis(1050), "{head}");
    }
    drop(client);
    server.stop();
}

/// A server for `tests/answers.c` at a TCP and a Unix address.
fn answers(style: Style, setting: &str) -> Server {
    let start = Start::new(style).module(style.answers()).workers(2).set(setting, "500ms");
    let path = format!("unix:{}", start.dir().file("socket").display());
    start.listen("127.0.0.1:0").listen(path).start()
}

/// A command to answer with so many bytes, and then to close if `last` is set.
fn command(style: Style, size: usize, last: bool) -> String {
    let how = if last { 'W' } else { 'w' };
    let line = format!("{how}/0/0/{size}/100000/0");
    if style == Style::Request { request(style, &format!("/{line}")) } else { line + "\n" }
}

fn checker(style: Style, sizes: &[usize]) -> Checker {
    let form = if style == Style::Request { Form::Response } else { Form::Plain };
    Checker::new(sizes.iter().map(|size| Answer { form, size: *size, salt: 0 }))
}

/// Reads `size` bytes at a time, `times` times.
fn read_slowly(reader: &mut Reader, size: usize, times: u32) {
    for _ in 0..times {
        std::thread::sleep(Duration::from_millis(60));
        assert!(reader.step(size).unwrap(), "cut after {} bytes", reader.read.len());
    }
}

#[test]
fn a_client_that_reads_slowly_is_not_cut() {
    for style in Style::ALL {
        let server = answers(style, "write-timeout");
        at_once(2, |i| {
            // Less in the time allowed than either kernel tells the server of: a third of the one's buffer, most of the other's.
            let part = [25_000, 10_000][i];
            let mut reader = Reader::connect(&server.addresses[i]);
            reader.send(command(style, 8 << 20, true).as_bytes()).unwrap();
            read_slowly(&mut reader, part, 30);
            let ended = reader.rest();
            let mut checker = checker(style, &[8 << 20]);
            let fed = checker.feed(&reader.read);
            assert!(
                fed.is_ok() && checker.end() == Reached::All,
                "{style:?} {i}: {fed:?}, {}, {ended:?}",
                checker.place()
            );
        });
        server.stop();
    }
}

#[test]
fn a_client_that_reads_nothing_is_reset() {
    for style in Style::ALL {
        let server = answers(style, "write-timeout");
        let at_first: Vec<_> = server.workers().into_iter().map(proc::kinds).collect();
        let mut sent = command(style, 8 << 20, true);
        for minor in [1, 0] {
            sent = sent.replace("HTTP/1.1", &format!("HTTP/1.{minor}"));
            let mut reader = Reader::connect(server.address());
            let begun = Instant::now();
            reader.send(sent.as_bytes()).unwrap();
            reader.step(1).unwrap();
            wait_until("the server closes", || {
                server.workers().into_iter().map(proc::kinds).eq(at_first.clone())
            });
            assert!(begun.elapsed() >= Duration::from_millis(480), "{:?}", begun.elapsed());
            let ended = reader.rest();
            let mut checker = checker(style, &[8 << 20]);
            checker.feed(&reader.read).unwrap();
            assert_ne!(checker.end(), Reached::All);
            assert_eq!(ended.map_err(|e| e.kind()), Err(ErrorKind::ConnectionReset), "{style:?} {sent:?}");
        }
        server.stop();
    }
}

#[test]
fn a_connection_is_not_idle_while_its_client_reads() {
    const MIB: usize = 1 << 20;
    for style in [Style::Request, Style::Data] {
        let server = answers(style, "idle-timeout");
        // Another command comes while it reads, or when it has read all.
        at_once(2, |i| {
            let mut reader = Reader::connect_with(server.address(), Some(16 << 10));
            reader.send(command(style, MIB, false).as_bytes()).unwrap();
            read_slowly(&mut reader, 30_000, 25);
            if i == 1 {
                while reader.read.len() < MIB {
                    reader.step(1 << 16).unwrap();
                }
            }
            reader.send(command(style, 3, false).as_bytes()).unwrap();
            let ended = reader.rest();
            let mut checker = checker(style, &[MIB, 3]);
            let fed = checker.feed(&reader.read);
            assert!(
                fed.is_ok() && checker.end() == Reached::All,
                "{style:?} {i}: {fed:?}, {}, {ended:?}",
                checker.place()
            );
        });
        server.stop();
    }
}
