//! What a reload says about connections that move, and about those that stay with old workers, in every place where it is said.
#![allow(clippy::unwrap_used)]

mod util;

use serde_json::{Value, json};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::LazyLock;
use util::handler::{ECHO_IN_C, compile};
use util::{Client, Server, Start, Style, proc, wait_until};

/// Connections of every kind. A stream ends all responses that are kept by the word `end`.
const HANDLER: &str = r#"
#include <prefork.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static prefork_response *kept[16];
static int count;

static int start(prefork_worker *worker, void **state)
{
    (void)worker;
    (void)state;
    return access(getenv("BROKEN"), F_OK) == 0;
}

static void on_request(prefork_request *req, prefork_response *res, void *state)
{
    prefork_slice path = prefork_request_path(req);
    char pid[32];
    (void)state;
    if (memcmp(path.data, "/keep", path.len) == 0) {
        kept[count++] = prefork_response_later(res);
    } else if (memcmp(path.data, "/up", path.len) == 0) {
        prefork_response_upgrade(res, "echo");
    } else if (memcmp(path.data, "/file", path.len) == 0) {
        int fd = memfd_create("file", 0);
        if (ftruncate(fd, 64 << 20) != 0)
            abort();
        prefork_response_file(res, fd, 0, 64 << 20);
    } else {
        prefork_response_body(res, pid, (size_t)snprintf(pid, sizeof pid, "%d", (int)getpid()));
    }
}

static void on_data(prefork_conn *conn, void *state)
{
    prefork_slice in = prefork_conn_data(conn);
    if (in.len == 3 && memcmp(in.data, "end", 3) == 0)
        while (count > 0)
            prefork_response_end(kept[--count]);
    echo(conn, state);
}

static int on_takeover(prefork_conn *conn, uint32_t version, const void *bytes, size_t size, void *state)
{
    (void)conn;
    (void)version;
    (void)bytes;
    (void)size;
    (void)state;
    uint32_t generation = 0;
    prefork_role(NULL, NULL, &generation);
    return generation > 1 && access(getenv("REFUSES"), F_OK) == 0;
}

PREFORK_MODULE(.worker_start = start, .on_request = on_request, .on_data = on_data, .state_version = STATE,
               .on_handover = no_state, .on_takeover = on_takeover)
"#;

/// The handler whose streams stay, and the one whose streams go on elsewhere.
static MODULES: LazyLock<[PathBuf; 2]> = LazyLock::new(|| {
    ["-DSTATE=0", "-DSTATE=1"]
        .map(|state| compile(&[ECHO_IN_C, HANDLER].concat(), &["-Wextra", "-Werror", "-D_GNU_SOURCE", state]))
});

fn start(workers: usize, drain_timeout: &str) -> Server {
    start_with(&MODULES[0], workers, drain_timeout)
}

fn start_with(module: &Path, workers: usize, drain_timeout: &str) -> Server {
    let start = Start::new(Style::Request).workers(workers).module(module.into());
    let broken = start.dir().file("broken");
    let refuses = start.dir().file("refuses");
    let start = start.env("BROKEN", Some(broken.as_os_str())).env("REFUSES", Some(refuses.as_os_str()));
    let mut server = start.set("drain-timeout", drain_timeout).start();
    for line in
        ["control: ", "reload to generation", "has gone", "has ended at its deadline", "had not ended"]
    {
        server.may_say(line);
    }
    server
}

fn begin(server: &Server, words: &[&str]) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_prefork"));
    command.args(words).env("PREFORK_RUNTIME_DIR", server.dir.runtime()).stdin(Stdio::null());
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

fn verb(server: &Server, words: &[&str]) -> Output {
    begin(server, words).wait_with_output().unwrap()
}

#[track_caller]
fn text(out: &Output) -> String {
    assert!(out.status.success(), "{out:?}");
    String::from_utf8(out.stdout.clone()).unwrap()
}

#[track_caller]
fn json(out: &Output) -> Value {
    serde_json::from_slice(&out.stdout).unwrap_or_else(|e| panic!("{e}: {out:?}"))
}

fn get(client: &mut Client, path: &str) {
    client.send(format!("GET {path} HTTP/1.1\r\nHost: t\r\n\r\n").as_bytes()).unwrap();
}

/// A client that is between two requests.
fn idle(server: &Server) -> Client {
    let mut client = server.connect();
    get(&mut client, "/pid");
    client.http_answer().unwrap();
    client
}

/// A client of which half a request has come.
fn busy(server: &Server) -> Client {
    let mut client = idle(server);
    client.send(b"POST /pid HTTP/1.1\r\nHost: t\r\nContent-Length: 4\r\n\r\nab").unwrap();
    client
}

fn stream(server: &Server) -> Client {
    let mut client = server.connect();
    client.send(b"GET /up HTTP/1.1\r\nHost: t\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\nhello").unwrap();
    let mut got = Vec::new();
    while !got.ends_with(b"hello") {
        let mut buf = [0; 512];
        let n = client.read_some(&mut buf).unwrap();
        got.extend_from_slice(&buf[..n]);
    }
    client
}

fn status(server: &Server) -> Value {
    json(&verb(server, &["show", "--json"]))
}

/// Clients of every kind, of one worker.
struct Clients {
    idle: Vec<Client>,
    busy: Client,
    kept: Client,
    streams: Vec<Client>,
}

fn clients(server: &Server) -> Clients {
    let clients = Clients {
        idle: (0..5).map(|_| idle(server)).collect(),
        busy: busy(server),
        kept: {
            let mut kept = server.connect();
            get(&mut kept, "/keep");
            kept
        },
        streams: (0..2).map(|_| stream(server)).collect(),
    };
    wait_until("all are there", || {
        let worker = &status(server)["workers"][0];
        worker["in_flight"] == 9
            && worker["idle"] == 5
            && worker["kept_responses"] == 1
            && worker["streams"] == 2
    });
    clients
}

/// Ends what stays, and waits for the worker's end.
fn finish(server: &Server, mut clients: Clients) {
    clients.busy.send(b"cd").unwrap();
    clients.busy.http_answer().unwrap();
    clients.streams[0].send(b"end").unwrap();
    clients.kept.http_answer().unwrap();
    clients.streams.clear();
    wait_until("the old worker has gone", || proc::children(server.pid).len() == 1);
    // Those whose request was answered moved too.
    for client in clients.idle.iter_mut().chain([&mut clients.busy, &mut clients.kept]) {
        get(client, "/pid");
        assert_eq!(client.http_answer().unwrap().body, server.workers()[0].to_string());
    }
}

#[test]
fn a_verdict_says_what_has_moved_and_what_stays_of_what_kind_until_when() {
    let server = start(1, "20s");
    let mut follower = begin(&server, &["events", "--json"]);
    let mut events = BufReader::new(follower.stdout.take().unwrap()).lines();
    let mut event = |wanted: &[(&str, Value)]| loop {
        let event: Value = serde_json::from_str(&events.next().unwrap().unwrap()).unwrap();
        if wanted.iter().all(|(name, value)| event[name] == *value) {
            break event;
        }
    };
    event(&[("event", json!("setup"))]);
    let kinds = clients(&server);

    let verdict = json(&verb(&server, &["reload", "--json"]));
    assert_eq!((&verdict["outcome"], &verdict["generation"]), (&json!("committed"), &json!(2)));
    let connections = verdict["connections"].clone();
    assert_eq!((&connections["moved"], &connections["handed_over"]), (&json!(5), &json!(0)));
    let mut staying = connections["staying"].clone();
    let within = staying["within_ms"].take().as_u64().unwrap();
    assert!((15_000..=20_000).contains(&within), "{within}");
    let kept = json!({ "workers": 1, "requests": 1, "kept_responses": 1, "streams": 2, "within_ms": null });
    assert_eq!(staying, kept);
    let told = event(&[("event", json!("reload")), ("state", json!("committed"))]);
    assert_eq!(told["connections"], connections);

    let old = status(&server)["workers"][0].clone();
    assert_eq!((&old["state"], &old["generation"]), (&json!("draining"), &json!(1)));
    assert_eq!(
        (&old["in_flight"], &old["kept_responses"], &old["streams"]),
        (&json!(4), &json!(1), &json!(2))
    );
    assert!(old["within_ms"].as_u64().unwrap() <= within);
    let shown = text(&verb(&server, &["show"]));
    let row = shown.lines().find(|line| line.contains("draining")).unwrap();
    assert!(shown.contains("ENDS IN") && row.contains('s'), "{shown}");
    let listed = text(&verb(&server, &["ls"]));
    assert!(listed.contains("OLD") && listed.contains("1, 4 in flight, 1"), "{listed}");

    finish(&server, kinds);
    let gone = event(&[("event", json!("exit")), ("reason", json!("reload"))]);
    let counts = json!({ "moved": 7, "handed_over": 0, "ended": 2, "cut": 0, "lost": 0 });
    assert_eq!(gone["connections"], counts);
    let gone = event(&[("event", json!("gone"))]);
    assert_eq!((&gone["generation"], &gone["connections"]), (&json!(1), &counts));
    server.wait_for_line("generation 1 has gone: 7 connections moved, 2 ended");
    server.wait_for_line(
        ": 5 connections moved; 4 connections stay with 1 old worker, for up to 20 s: 1 request, 1 kept response, 2 streams",
    );
    follower.kill().unwrap();
    follower.wait().unwrap();
    server.stop();
}

#[test]
fn a_reload_prints_what_stays_and_waits_for_it_if_it_is_to() {
    let server = start(1, "20s");
    let kinds = clients(&server);
    let mut waits = begin(&server, &["reload", "--wait"]);
    let mut lines = BufReader::new(waits.stdout.take().unwrap()).lines();
    let line = lines.next().unwrap().unwrap();
    let stays = "4 connections stay with 1 old worker, for up to 20 s: 1 request, 1 kept response, 2 streams";
    assert!(
        line.contains("generation 2 serves, from ")
            && line.ends_with(&format!("; 5 connections moved; {stays}")),
        "{line}"
    );
    finish(&server, kinds);
    let line = lines.next().unwrap().unwrap();
    assert!(line.ends_with(": the old workers have ended: 7 connections moved, 2 ended"), "{line}");
    assert!(lines.next().is_none() && waits.wait().unwrap().success());

    // Nothing to say, and nothing to wait for.
    let out = text(&verb(&server, &["reload", "--wait"]));
    assert!(out.ends_with(": the old workers have ended\n") && !out.contains("connection"), "{out}");
    server.stop();
}

#[test]
fn what_the_drain_timeout_closes_is_counted_and_is_no_failure_of_the_reload() {
    let server = start(2, "700ms");
    let streams: Vec<_> = (0..4).map(|_| stream(&server)).collect();
    let mut download = server.connect();
    get(&mut download, "/file");
    download.wait_for_bytes().unwrap();
    let waited = json(&verb(&server, &["reload", "--wait", "--json"]));
    assert_eq!(waited["outcome"], "committed");
    let staying = &waited["connections"]["staying"];
    assert_eq!((&staying["requests"], &staying["streams"]), (&json!(1), &json!(4)));
    let departed = json!({ "moved": 0, "handed_over": 0, "ended": 0, "cut": 5, "lost": 0 });
    assert_eq!(waited["departed"], departed);
    server.wait_for_line("generation 1 has gone: 5 connections were cut off at the deadline");
    drop((streams, download));

    let _stream = stream(&server);
    let out = text(&verb(&server, &["reload", "--wait"]));
    assert!(
        out.contains("; 1 connection stays with 1 old worker, for up to ") && out.contains(" ms: 1 stream\n"),
        "{out}"
    );
    assert!(
        out.ends_with(": the old workers have ended: 1 connection was cut off at the deadline\n"),
        "{out}"
    );
    server.stop();
}

#[test]
fn a_timeout_is_for_the_reload_and_its_old_workers() {
    let server = start(1, "20s");
    let stream = stream(&server);
    let out = verb(&server, &["reload", "--wait", "--timeout", "300ms"]);
    assert_eq!(out.status.code(), Some(5), "{out:?}");
    let said = String::from_utf8(out.stderr).unwrap();
    assert!(said.contains("old workers have not ended within the timeout; they continue"), "{said}");
    drop(stream);
    wait_until("the old worker has gone", || proc::children(server.pid).len() == 1);
    let stream = self::stream(&server);
    let out = verb(&server, &["reload", "--wait", "--timeout", "300ms", "--json"]);
    let outcome = json(&out);
    assert_eq!((out.status.code(), &outcome["error"]["code"]), (Some(5), &json!(5)));
    assert_eq!(
        (&outcome["outcome"], &outcome["connections"]["staying"]["streams"]),
        (&json!("committed"), &json!(1))
    );
    drop(stream);
    server.stop();
}

#[test]
fn a_reload_that_fails_says_so_whatever_is_waited_for() {
    let server = start(1, "20s");
    let mut stream = stream(&server);
    server.dir.make("broken");
    let mut server = server;
    server.may_say("worker");
    let out = verb(&server, &["reload", "--wait"]);
    assert_eq!(out.status.code(), Some(4), "{out:?}");
    let out = verb(&server, &["reload", "--wait", "--json"]);
    let outcome = json(&out);
    assert_eq!((out.status.code(), &outcome["error"]["code"]), (Some(4), &json!(4)));
    assert_eq!(outcome["departed"]["cut"], 0);
    server.dir.remove("broken");
    stream.send(b"still here").unwrap();
    stream.wait_for_bytes().unwrap();
    drop(stream);
    server.stop();
}

#[test]
fn without_a_drain_timeout_what_stays_has_no_limit() {
    let server = start(1, "0");
    let stream = stream(&server);
    let verdict = json(&verb(&server, &["reload", "--json"]));
    assert_eq!(verdict["connections"]["staying"]["within_ms"], Value::Null);
    server.wait_for_line("1 connection stays with 1 old worker, without a limit: 1 stream");
    let listed = text(&verb(&server, &["ls"]));
    assert!(listed.contains("1, 1 in flight, no limit"), "{listed}");
    drop(stream);
    wait_until("the old worker has gone", || proc::children(server.pid).len() == 1);
    server.stop();
}

#[test]
fn thousands_that_move_are_in_the_verdict_whichever_worker_had_them() {
    const MANY: usize = 2000;
    proc::limit(std::process::id() as i32, "nofile", 2 * MANY as u32);
    for workers in [1, 4] {
        let server = start(workers, "20s");
        let mut clients: Vec<_> = (0..MANY).map(|_| idle(&server)).collect();
        let verdict = json(&verb(&server, &["reload", "--json"]));
        assert_eq!(verdict["connections"]["moved"], MANY, "{verdict}");
        assert_eq!(verdict["connections"]["staying"]["workers"], 0);
        for client in &mut clients {
            get(client, "/pid");
            client.http_answer().unwrap();
        }
        drop(clients);
        server.stop();
    }
}

#[test]
fn streams_that_go_on_elsewhere_are_handed_over_and_those_that_are_refused_stay() {
    for is_refused in [false, true] {
        let mut server = start_with(&MODULES[1], 1, "20s");
        server.may_say("on_takeover");
        let mut streams: Vec<_> = (0..50).map(|_| stream(&server)).collect();
        let _idle = idle(&server);
        if is_refused {
            server.dir.make("refuses");
        }
        let verdict = json(&verb(&server, &["reload", "--json"]));
        let (connections, staying) = (&verdict["connections"], &verdict["connections"]["staying"]);
        let (over, stay) = if is_refused { (0, 50) } else { (50, 0) };
        assert_eq!(
            (&connections["moved"], &connections["handed_over"]),
            (&json!(1), &json!(over)),
            "{verdict}"
        );
        assert_eq!(staying["streams"], stay, "{verdict}");
        for stream in &mut streams {
            stream.send(b"still here").unwrap();
            stream.wait_for_bytes().unwrap();
        }
        drop(streams);
        wait_until("the old worker has gone", || proc::children(server.pid).len() == 1);
        server.wait_for_line(if is_refused { "50 ended" } else { "50 handed over" });
        server.stop();
    }
}
