//! Servers with `tests/wakeups.c`: what the tests of timers, watches and wake-ups ask of them.

use super::{Server, Start, Style, comes_true, proc, wait_until};
use std::fs;
use std::time::{Duration, Instant};

/// Workers with `tests/wakeups.c`.
pub fn start(style: Style, workers: usize) -> Start {
    let start = Start::new(style).workers(workers).module(style.wakeups());
    start.dir().file("log");
    start
}

/// The lines that the handler has written.
pub fn log(server: &Server) -> Vec<String> {
    let text = fs::read_to_string(server.dir.path().join("log")).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

#[track_caller]
pub fn ask(server: &Server, command: &str) -> String {
    server.ask(command).unwrap()
}

#[track_caller]
pub fn wait_for_trace(server: &Server, trace: &str) {
    let mut now = String::new();
    let came = comes_true(super::PATIENCE, || {
        now = ask(server, "trace");
        now == trace
    });
    assert!(came, "expected {trace:?}, found {now:?}: {:?}", server.style);
}

/// Checks that the worker sleeps while nothing happens.
#[track_caller]
pub fn sleeps(server: &Server) {
    let worker = server.worker_in(0);
    let (before, since) = (proc::cpu(worker), Instant::now());
    wait_until("half a second is over", || since.elapsed() > Duration::from_millis(500));
    let used = proc::cpu(worker) - before;
    assert!(used < Duration::from_millis(100), "{used:?}");
}

/// Checks that a command after which the handler is called again and again, and traces that, delays no connection.
#[track_caller]
pub fn delays_no_connection(style: Style, command: &str, trace: &str) {
    let server = start(style, 1).start();
    ask(&server, command);
    wait_for_trace(&server, trace);
    let tally = server.ask_at_once(50, "early");
    assert_eq!(tally.answers["0"], 50, "{tally:?}");
    server.stop();
}
