//! What the tests share: a server as a process of its own, clients, and a look at processes from outside.
//!
//! No test forks inside the test process, and none waits for time to pass where it can wait for a condition: a server is
//! ready when it says "listening", everything else is watched with [`wait_until`].
#![allow(dead_code, unused_imports, missing_docs, clippy::unwrap_used, clippy::expect_used)]

pub mod client;
pub mod dir;
pub mod handler;
pub mod host;
pub mod load;
pub mod proc;
pub mod random;
pub mod server;
pub mod wrk;

pub use client::{Client, Fault};
pub use dir::Dir;
pub use handler::{Mode, Style};
pub use load::Load;
pub use server::{RELOAD, Server, Start};
pub use wrk::Wrk;

use std::time::{Duration, Instant};

/// How long anything may take that is bound to happen. Long: only a failing test waits for it.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Waits for a condition; says what was waited for where it does not come.
#[track_caller]
pub fn wait_until(what: &str, condition: impl FnMut() -> bool) {
    assert!(comes_true(PATIENCE, condition), "waited {PATIENCE:?} for: {what}");
}

/// Whether a condition comes true within a time.
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
