//! With the feature `http`: requests and responses as types of the crate `http`.
#![allow(clippy::unwrap_used)]

mod util;

use util::{Start, Style};

#[test]
fn a_handler_may_know_the_types_of_that_crate_alone() {
    let host = util::host::example_with("http_types", "log,http");
    let mut server =
        Start::new(Style::Request).workers(1).program([host.as_os_str(), "127.0.0.1:0".as_ref()]).start();
    server.says(": fields that frame the message are written by prefork alone");
    let ask = |request: &str| {
        let mut client = server.connect();
        client.send(format!("{request}\r\nHost: t\r\nConnection: close\r\n\r\n").as_bytes()).unwrap();
        String::from_utf8(client.rest().unwrap()).unwrap()
    };
    let answer = ask("GET /a/b?c=%20d HTTP/1.1\r\nX-Many: 1\r\nx-many: \u{e9}");
    assert!(answer.starts_with("HTTP/1.1 201 "), "{answer}");
    assert!(answer.contains("\r\nx-a: 1\r\nx-a: 2\r\n"), "{answer}");
    assert!(
        answer.ends_with("\r\n\r\nGET /a/b Some(\"c=%20d\") HTTP/1.1 \"\" \"1\" \"\\xc3\\xa9\"\n"),
        "{answer}"
    );
    let mut client = server.connect();
    client.send(b"PATCH * HTTP/1.0\r\nContent-Length: 4\r\n\r\nbody").unwrap();
    let answer = String::from_utf8(client.rest().unwrap()).unwrap();
    assert!(answer.starts_with("HTTP/1.1 4"), "* is for OPTIONS alone: {answer}");
    let answer = ask("OPTIONS * HTTP/1.1");
    assert!(answer.ends_with("OPTIONS * None HTTP/1.1 \"\" \n"), "{answer}");
    let answer = ask("GET /|{} HTTP/1.1");
    assert!(answer.starts_with("HTTP/1.1 201 ") || answer.starts_with("HTTP/1.1 400 "), "{answer}");
    let answer = ask("GET /teapot HTTP/1.1\r\nUpgrade: tea");
    assert!(
        answer.starts_with("HTTP/1.1 418 ") && answer.contains("\r\ncontent-type: text/teapot\r\n"),
        "{answer}"
    );
    assert!(answer.ends_with("\r\n\r\nGET /teapot\n"), "{answer}");
    assert!(ask("GET /framing HTTP/1.1").starts_with("HTTP/1.1 500 "));
    server.stop();
}
