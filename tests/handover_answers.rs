//! Responses that go on, such as server-sent events and long polls, and go from worker to worker with their state.
#![allow(clippy::unwrap_used)]

mod util;

use std::path::{Path, PathBuf};
use std::time::Duration;
use util::handler::compile;
use util::later::{ask, get};
use util::{Client, Server, Start, Style, comes_true, wait_until};

fn module() -> PathBuf {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/handover_answers.c");
    compile(&std::fs::read_to_string(source).unwrap(), &["-Wextra", "-Werror"])
}

fn start(workers: usize) -> Start {
    Start::new(Style::Request).workers(workers).module(module())
}

/// A client of lines "NAME N".
struct Lines {
    client: Client,
    text: Vec<u8>,
    name: String,
    next: u64,
}

impl Lines {
    fn open(server: &Server, path: &str) -> Self {
        let mut client = server.connect();
        get(&mut client, path);
        let name = path.split('/').nth(2).unwrap().to_owned();
        Self { client, text: Vec::new(), name, next: 1 }
    }

    /// Reads until there are `count` more lines, which must be the next numbers.
    #[track_caller]
    fn read(&mut self, count: u64) {
        let until = self.next + count;
        while self.next < until {
            let mut bytes = [0; 4096];
            let n = self.client.read_some(&mut bytes).unwrap();
            assert!(n > 0, "the end at {}", self.next);
            self.text.extend(&bytes[..n]);
            while let Some(end) = self.text.iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = self.text.drain(..=end).collect();
                let line = String::from_utf8(line).unwrap();
                assert!(!line.contains("nobody"), "{line}");
                if let Some(number) = line.trim_end().strip_prefix(&format!("{} ", self.name)) {
                    assert_eq!(number, self.next.to_string());
                    self.next += 1;
                }
            }
        }
    }
}

fn old_workers_go(server: &Server, before: &[i32]) {
    wait_until("the old workers have gone", || before.iter().all(|pid| !server.workers().contains(pid)));
}

#[test]
fn events_go_on_in_the_new_worker_from_where_they_were() {
    let mut server = start(2).start();
    let mut all: Vec<_> = ["/events/a", "/events/b/200000", "/produce/c", "/produce/d"]
        .iter()
        .map(|path| Lines::open(&server, path))
        .collect();
    all.iter_mut().for_each(|lines| lines.read(3));
    for _ in 0..4 {
        let before = server.workers();
        server.reload();
        old_workers_go(&server, &before);
        all.iter_mut().for_each(|lines| lines.read(20));
    }
    drop(all);
    server.stop();
}

#[test]
fn a_slow_client_gets_all_of_them() {
    let mut server = start(1).start();
    let mut slow = Lines::open(&server, "/produce/late");
    slow.client.wait_for_bytes().unwrap();
    for _ in 0..2 {
        let before = server.workers();
        server.reload();
        old_workers_go(&server, &before);
    }
    slow.read(500_000);
    drop(slow);
    server.stop();
}

#[test]
fn a_poll_that_moves_is_answered_by_the_new_worker() {
    let mut server = start(1).start();
    let mut poll = server.connect();
    get(&mut poll, "/poll/p");
    let mut by = server.connect();
    assert_eq!(ask(&mut by, "/who"), "1");
    for generation in 2..5 {
        let before = server.workers();
        server.reload();
        old_workers_go(&server, &before);
        assert_eq!(ask(&mut by, "/who"), generation.to_string());
        assert!(!comes_true(Duration::from_millis(50), || poll.has_bytes()));
    }
    assert_eq!(ask(&mut by, "/wake"), "");
    let answer = poll.http_answer().unwrap();
    assert_eq!((answer.status, answer.body.as_str()), (200, "p 3"));
    assert!(answer.head.contains("X-Poll: yes\r\n"), "{}", answer.head);
    // The connection is one like others.
    assert_eq!(ask(&mut poll, "/who"), "4");
    server.stop();
}

#[test]
fn one_that_ends_as_it_is_asked_for_its_state_is_finished_by_its_worker() {
    let mut server = start(1).start();
    let mut poll = server.connect();
    get(&mut poll, "/poll/ends");
    let mut by = server.connect();
    assert_eq!(ask(&mut by, "/who"), "1");
    server.reload();
    assert_eq!(poll.http_answer().unwrap().body, "the end");
    assert_eq!(ask(&mut poll, "/who"), "2");
    server.stop();
}

#[test]
fn one_that_is_refused_goes_on_in_its_worker() {
    let mut server = start(1).start();
    server.may_say("on_resume");
    let mut refused = Lines::open(&server, "/events/refused");
    refused.read(3);
    let before = server.workers();
    server.reload();
    server.wait_for_line("on_resume");
    refused.read(20);
    assert!(server.workers().contains(&before[0]));
    drop(refused);
    old_workers_go(&server, &before);
    server.stop();
}

#[test]
fn one_that_stays_or_has_a_request_behind_it_goes_on_in_its_worker() {
    let mut server = start(1).start();
    let mut stays = Lines::open(&server, "/events/stays");
    let mut followed = server.connect();
    followed.send(b"GET /poll/q HTTP/1.1\r\nHost: t\r\n\r\nGET /who HTTP/1.1\r\nHost: t\r\n\r\n").unwrap();
    stays.read(3);
    let before = server.workers();
    server.reload();
    stays.read(20);
    assert!(server.workers().contains(&before[0]));
    drop((stays, followed));
    old_workers_go(&server, &before);
    server.stop();
}

#[test]
fn a_body_of_a_given_length_is_whole_and_no_longer() {
    let mut server = start(1).start();
    let (mut sized, mut closed, mut by) = (server.connect(), server.connect(), server.connect());
    get(&mut sized, "/sized/one");
    get(&mut closed, "/sized/close");
    sized.wait_for_bytes().unwrap();
    closed.wait_for_bytes().unwrap();
    for _ in 0..2 {
        let before = server.workers();
        server.reload();
        old_workers_go(&server, &before);
        assert_eq!(ask(&mut by, "/wake"), "");
    }
    let answer = sized.http_answer().unwrap();
    assert!(
        answer.head.contains("Content-Length: 30\r\n") && !answer.head.contains("chunked"),
        "{}",
        answer.head
    );
    assert_eq!(answer.body, "0123456789".repeat(3));
    assert_eq!(ask(&mut sized, "/who"), "3");
    let answer = closed.http_answer().unwrap();
    assert!(answer.head.contains("Connection: close\r\n"), "{}", answer.head);
    assert_eq!(closed.rest(), Ok(vec![]), "as its head said");
    server.stop();
}
