//! Commands of a host in Rust from its callbacks, while `Server::run` has the loop.
#![allow(clippy::unwrap_used)]

mod util;

use util::host::example;
use util::{Client, Server, Start, Style, comes_true, wait_until};

fn request(server: &Server, path: &str) -> Client {
    let mut client = server.connect();
    client.send(format!("GET {path} HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n").as_bytes()).unwrap();
    client
}

fn send(server: &Server, path: &str) {
    assert_eq!(request(server, path).http_answer().unwrap().body, "Ok(())");
}

fn prints(server: &Server, line: &str) {
    wait_until(line, || server.stdout().iter().any(|printed| printed == line));
}

#[test]
fn callbacks_give_commands() {
    let program = example("commands");
    let mut server = Start::new(Style::Request).program([program.to_str().unwrap(), "127.0.0.1:0"]).start();
    for line in ["reload to generation", "SIGKILL", "was told to end"] {
        server.may_say(line);
    }
    // on_start has asked for one more.
    wait_until("three workers", || server.workers().len() == 3);
    prints(&server, "Commands { runs: true, .. }");
    // The event of the first reload begins a second one.
    send(&server, "/reload");
    prints(&server, "reload to 2");
    prints(&server, "reload to 3");
    prints(&server, "generation 3");
    send(&server, "/none");
    prints(&server, "none");
    send(&server, "/fork");
    prints(&server, "slot 3");
    wait_until("four workers", || server.workers().len() == 4);
    let before = server.workers();
    // The worker that is killed may be the one that answers.
    let client = request(&server, "/kill");
    prints(&server, "killed");
    wait_until("a successor", || {
        let now = server.workers();
        now.len() == 4 && now != before
    });
    drop(client);
    server.scaled_to(4);
    assert!(comes_true(util::PATIENCE, || server.stdout().len() > 5));
    send(&server, "/stop");
    server.ends();
}
