//! Shared by the tests: a server as a process of its own, clients, and the state of processes in /proc.
//!
//! No test forks inside the test process, and none waits for time if it can wait for a condition: a server is ready when it prints
//! "listening"; for everything else there is [`wait_until`].
#![allow(dead_code, unused_imports, missing_docs, clippy::unwrap_used, clippy::expect_used)]

pub mod answers;
pub mod client;
pub mod dir;
pub mod handler;
pub mod host;
pub mod later;
pub mod load;
pub mod proc;
pub mod random;
pub mod reader;
pub mod server;
pub mod streams;
pub mod wakeups;
pub mod websocket;
pub mod wrk;

pub use client::{Client, Fault};
pub use dir::Dir;
pub use handler::{Mode, Style};
pub use load::Load;
pub use server::{RELOAD, Server, Start};
pub use wrk::Wrk;

use std::time::{Duration, Instant};

/// The time limit of conditions that must come true. Long, since only a failing test waits for it.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Waits for a condition; panics with `what` if it does not come true.
#[track_caller]
pub fn wait_until(what: &str, condition: impl FnMut() -> bool) {
    assert!(comes_true(PATIENCE, condition), "waited {PATIENCE:?} for: {what}");
}

/// True if a condition comes true within a time.
pub fn comes_true(within: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let start = Instant::now();
    while !condition() {
        if start.elapsed() > within {
            return false;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    true
}
