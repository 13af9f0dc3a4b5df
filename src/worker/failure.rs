//! The line in the log about a callback that has failed.

use super::this_worker::Worker;
use crate::log::log;
use crate::scoreboard::Word;
use std::fmt::Display;

/// The reason of a callback that panicked; the panic hook has printed more.
pub const PANICKED: &str = "panicked";

/// Logs that a callback has failed: in which worker, for whom, and why.
pub fn report(callback: &str, subject: &dyn Display, reason: &str) {
    let id = Worker::current().map_or(0, Worker::id);
    log!("worker {id}: {callback}: {subject}: {reason}");
}

/// Logs that a callback has panicked that was for no client, if it returned `None`.
pub fn report_panic<T>(callback: &str, returned: Option<T>) {
    if returned.is_none() {
        let id = Worker::current().map_or(0, Worker::id);
        log!("worker {id}: {callback}: {PANICKED}");
    }
}

/// Counts a callback that has failed and has no response that would be counted as failed.
pub fn count() {
    if let Some(worker) = Worker::current() {
        worker.info.page.add(Word::Errors, 1);
    }
}
