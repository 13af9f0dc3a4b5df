//! Responses of handlers in C: what a head may say, what is refused at the call, and how a client is named.
#![allow(clippy::unwrap_used)]

mod util;

use socket2::{Domain, SockAddr, Socket, Type};
use std::io::{Read, Write};
use std::process::Command;
use util::client::Address;
use util::{Client, Server, Start, Style, handler};

/// Each path tries one thing; the body says what the call returned.
const TRIES: &str = r#"
#include <fcntl.h>
#include <prefork.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int more(prefork_response *res, void *arg)
{
    static const char part[10000];
    uint64_t *left = arg;
    size_t size = *left < sizeof part ? *left : sizeof part;

    if (prefork_response_write(res, part, size) == PREFORK_TOO_LARGE)
        return -1;
    *left -= size;
    return *left > 0;
}

static void on_request(prefork_request *req, prefork_response *res, void *state)
{
    prefork_slice path = prefork_request_path(req);
    char name[64], text[16];
    int said = 1;

    (void)state;
    snprintf(name, sizeof name, "%.*s", (int)path.len, path.data);
    if (!strcmp(name, "/write-only")) {
        int fd = open("written", O_WRONLY | O_CREAT | O_CLOEXEC, 0600);

        if (write(fd, "hello", 5) == 5)
            said = prefork_response_file(res, fd, 0, 5);
    } else if (!strcmp(name, "/upgrade")) {
        said = prefork_response_upgrade(res, "echo");
    } else if (!strcmp(name, "/426")) {
        prefork_response_status(res, 426);
        said = prefork_response_header(res, "Upgrade", "websocket");
    } else if (!strcmp(name, "/length")) {
        said = prefork_response_header(res, "Content-Length", "1234");
    } else if (!strncmp(name, "/parts/", 7)) {
        /* Of the length that is the path's number, and as many bytes as its query says. */
        prefork_slice query = prefork_request_query(req);
        static uint64_t left;

        if (prefork_response_header(res, "Content-Length", name + 7) == PREFORK_OK) {
            left = strtoull(query.data, NULL, 10);
            prefork_response_stream(res, more, NULL, &left);
        }
        return;
    } else if (!strcmp(name, "/date")) {
        prefork_response_header(res, "Date", "Thu, 01 Jan 1970 00:00:00 GMT");
        said = prefork_response_header(res, "date", "Fri, 02 Jan 1970 00:00:00 GMT");
    } else if (!strncmp(name, "/too-much", 9)) {
        static char much[100000];

        if (prefork_response_write(res, much, sizeof much) != PREFORK_FULL)
            return;
        if (!strcmp(name, "/too-much-503"))
            prefork_response_status(res, 503);
        if (strcmp(name, "/too-much-body"))
            return;
        said = PREFORK_FULL;
    } else if (!strcmp(name, "/peer")) {
        path = prefork_request_peer(req);
        prefork_response_body(res, path.data, path.len);
        return;
    }
    prefork_response_body(res, text, (size_t)snprintf(text, sizeof text, "%d", said));
}

PREFORK_MODULE(.on_request = on_request)
"#;

/// Says by which name it knows its client.
const PEER: &str = r#"
#include <prefork.h>

static void say(prefork_conn *conn, void *state)
{
    prefork_slice peer = prefork_conn_peer(conn);

    (void)state;
    prefork_conn_write(conn, peer.data, peer.len);
    prefork_conn_write(conn, "\n", 1);
    prefork_conn_close(conn);
}

PREFORK_MODULE(.CALLBACK = say)
"#;

fn start() -> Server {
    start_with("16M")
}

/// With this many bytes that may wait.
fn start_with(pending: &str) -> Server {
    let start = Start::new(Style::Request)
        .module(handler::compile(TRIES, &[]))
        .workers(1)
        .set("max-pending", pending);
    start.dir().file("written");
    start.start()
}

/// The head, in lower case, and the body of the answer to `line` with these fields, as the last of its connection.
fn answer(server: &Server, line: &str, fields: &str) -> (String, String) {
    let mut client = Client::connect(server.address(), Style::Request).unwrap();
    client.send(format!("{line} HTTP/1.1\r\nHost: a\r\n{fields}\r\n").as_bytes()).unwrap();
    client.end().unwrap();
    let text = String::from_utf8(client.rest().unwrap()).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    (head.to_lowercase(), body.to_owned())
}

#[test]
fn what_cannot_be_carried_out_is_refused_at_the_call() {
    let server = start();
    let (head, body) = answer(&server, "GET /write-only", "");
    assert!(head.starts_with("http/1.1 200 "), "{head}");
    assert_eq!(body, "-2", "PREFORK_INVALID");
    // This handler has no on_data.
    let (head, body) = answer(&server, "GET /upgrade", "Connection: Upgrade\r\nUpgrade: echo\r\n");
    assert!(head.starts_with("http/1.1 200 "), "{head}");
    assert_eq!(body, "-4", "PREFORK_STATE");
    server.stop();
}

#[test]
fn an_upgrade_can_be_required() {
    let server = start();
    let (head, body) = answer(&server, "GET /426", "");
    assert!(head.starts_with("http/1.1 426 upgrade required\r\n"), "{head}");
    assert!(head.contains("\r\nupgrade: websocket") && head.contains("\r\nconnection: upgrade"), "{head}");
    assert_eq!(body, "0");
    let (head, _) = answer(&server, "GET /426", "Connection: close\r\n");
    assert!(head.contains("\r\nconnection: close, upgrade"), "{head}");
    server.stop();
}

#[test]
fn a_response_has_one_date_and_may_say_the_length_it_does_not_send() {
    let server = start();
    let (head, _) = answer(&server, "GET /date", "");
    assert_eq!(head.matches("\r\ndate: ").count(), 1, "{head}");
    assert!(head.contains("\r\ndate: fri, 02 jan 1970 00:00:00 gmt"), "{head}");
    let (head, body) = answer(&server, "HEAD /length", "");
    assert!(head.contains("\r\ncontent-length: 1234"), "{head}");
    assert_eq!(body, "");
    let (head, body) = answer(&server, "GET /length", "");
    // A whole body has its own.
    assert!(head.contains("\r\ncontent-length: 1") && !head.contains("1234"), "{head}");
    assert_eq!(body, "0");
    server.stop();
}

#[test]
fn the_path_of_a_client_cannot_break_a_line() {
    let peer = |callback: &str| handler::compile(PEER, &[&format!("-DCALLBACK={callback}")]);
    for (style, module) in [
        (Style::Request, handler::compile(TRIES, &[])),
        (Style::Connection, peer("on_connection")),
        (Style::Data, peer("on_data")),
    ] {
        let start = Start::new(style).module(module).workers(1);
        let (path, own) = (start.dir().file("socket"), start.dir().file("a\nb\x1b[31m"));
        let server = start.listen(format!("unix:{}", path.display())).start();
        let Address::Unix(path) = server.address() else { panic!("a Unix socket") };
        let mut socket = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
        socket.bind(&SockAddr::unix(&own).unwrap()).unwrap();
        socket.connect(&SockAddr::unix(path).unwrap()).unwrap();
        // In blocking style the handler does not wait for anything.
        let sent: &[u8] = match style {
            Style::Request => b"GET /peer HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
            Style::Data => b"x",
            Style::Connection | Style::Datagram => b"",
        };
        socket.write_all(sent).unwrap();
        let mut text = String::new();
        socket.read_to_string(&mut text).unwrap();
        let dir = own.parent().unwrap().display();
        let name = text.rsplit("\r\n\r\n").next().unwrap().trim_end();
        assert_eq!(name, format!(r"unix:{dir}/a\x0ab\x1b[31m"), "{style:?}");
        server.stop();
    }
}

#[test]
fn a_response_whose_first_part_is_refused_does_not_look_complete() {
    let server = start_with("64K");
    let (head, body) = answer(&server, "GET /too-much", "");
    assert!(head.starts_with("http/1.1 500 ") && body.contains("the handler failed"), "{head}{body}");
    let (head, _) = answer(&server, "GET /too-much-503", "");
    assert!(head.starts_with("http/1.1 503 "), "{head}");
    let (head, body) = answer(&server, "GET /too-much-body", "");
    assert!(head.starts_with("http/1.1 200 ") && body == "-12", "{head}{body}");
    server.stop();
}

#[test]
fn a_streamed_body_of_a_given_length_is_whole_or_cut() {
    let mut server = start();
    let (all, less) = (5_000_000, 4_999_999);
    server.says("a response ended 1 byte short of the Content-Length that its handler had set");
    let curl = |path: String, args: &[&str]| {
        let url = format!("http://{}{path}", server.tcp());
        let mut curl = Command::new("curl");
        curl.args(["-s", "-o", "/dev/null", "-w", "%{http_code} %{size_download}"]);
        let out = curl.args(args).arg(url).output().unwrap();
        (out.status.code().unwrap(), String::from_utf8(out.stdout).unwrap())
    };
    // Two on one connection.
    let second = format!("http://{}/parts/{all}?{all}", server.tcp());
    let both = ["-w", "%{num_connects} %{size_download} ", "-o", "/dev/null", &second];
    assert_eq!(curl(format!("/parts/{all}?{all}"), &both), (0, format!("1 {all} 0 {all} ")));
    assert_eq!(curl(format!("/parts/{all}?{all}"), &["-0"]), (0, format!("200 {all}")));
    // CURLE_PARTIAL_FILE: shorter, and broken off when more was to be written.
    assert_eq!(curl(format!("/parts/{all}?{less}"), &[]), (18, format!("200 {less}")));
    let (code, _) = curl(format!("/parts/{less}?{all}"), &[]);
    assert_eq!(code, 18);
    let (head, body) = answer(&server, &format!("HEAD /parts/{all}?{less}"), "");
    assert!(head.contains(&format!("\r\ncontent-length: {all}")) && body.is_empty(), "{head}");
    server.stop();
}
