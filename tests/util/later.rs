//! Servers with `tests/later.c`, which keeps responses and finishes them as other requests say.

use super::handler::compile;
use super::{Client, Server, Start, Style, wait_until};
use std::path::Path;

/// The statuses of `prefork.h`.
pub const STATE: i32 = -4;
pub const LATE: i32 = -11;
pub const FULL: i32 = -12;
pub const GONE: i32 = -13;
/// `tests/later.c` knows no response of that name, in this worker.
pub const UNKNOWN: i32 = 2;

pub fn start(workers: usize) -> Start {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/later.c");
    let module = compile(&std::fs::read_to_string(path).unwrap(), &["-Wextra", "-Werror"]);
    Start::new(Style::Request).workers(workers).module(module)
}

pub fn get(client: &mut Client, path: &str) {
    client.send(format!("GET {path} HTTP/1.1\r\nHost: t\r\n\r\n").as_bytes()).unwrap();
}

#[track_caller]
pub fn ask(client: &mut Client, path: &str) -> String {
    get(client, path);
    client.http_answer().unwrap().body
}

/// What a call returned.
#[track_caller]
pub fn tell(by: &mut Client, name: &str, what: &str) -> i32 {
    ask(by, &format!("/tell/{name}/{what}")).parse().unwrap()
}

/// A client whose request is answered when another one, of the same worker, tells the handler to.
#[track_caller]
pub fn keep(server: &Server, by: &mut Client, name: &str) -> Client {
    let mut client = server.connect();
    get(&mut client, &format!("/keep/{name}"));
    is_kept(by, name);
    client
}

#[track_caller]
pub fn is_kept(by: &mut Client, name: &str) {
    wait_until("the response is kept", || tell(by, name, "known") == 0);
}
