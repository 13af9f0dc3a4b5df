//! The border between the worker's loop, which owns descriptors, deadlines and the poll, and the protocol of a connection.

use super::handler::Handler;
use crate::config::Config;
use crate::log::log;
use crate::scoreboard::{Word, WorkerPage};
use crate::sys::time::Time;
use crate::sys::{forks, overdue, parent, process};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// The loop's next step with a connection after an engine has run on it.
pub enum Next {
    /// Wait for bytes (and for room to write if `write` is set), until the deadline.
    Wait {
        /// True if the engine has bytes to write that the socket did not take.
        write: bool,
        /// True if the client has taken bytes since the last time.
        progress: bool,
        /// The deadline that runs.
        deadline: Deadline,
    },
    /// Call the engine again in the next turn: it has more to do, but other connections come first.
    Again,
    /// Close the connection.
    Close,
    /// The connection becomes a stream; these bytes have been read already.
    Upgrade(Vec<u8>),
}

/// The deadline of a connection. Setting the same one again starts it anew, except `Header`, which continues from its first
/// setting, and `Write`, which continues until the client takes bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deadline {
    /// `header-timeout`: the rest of a request's head is due, or the first bytes of a new connection.
    Header,
    /// `body-timeout`: more of a body is due.
    Body,
    /// `idle-timeout`: no request is in progress; the connection may be handed back or closed.
    Idle,
    /// `write-timeout`: the client has to read.
    Write,
    /// Five seconds between two reads. Everything is sent; what the client still sends is read and dropped, so that no reset
    /// destroys the last response on its way (RFC 9112 section 9.6).
    Linger,
}

/// The worker as an engine sees it during a call.
pub struct Context<'a> {
    /// The user's code.
    pub handler: &'a mut dyn Handler,
    /// The settings.
    pub config: &'a Config,
    /// The worker's counters.
    pub page: WorkerPage,
    /// The time at which this turn of the loop began.
    pub now: Time,
    /// True if the worker drains and has to close its connections itself.
    pub draining: bool,
}

impl Context<'_> {
    /// Runs the callback of this name, and shows it on the scoreboard meanwhile. `None` if it panicked; the panic hook has printed the
    /// panic. Does not return in a process that the callback has forked.
    pub fn call<T>(&mut self, name: &str, f: impl FnOnce(&mut dyn Handler) -> T) -> Option<T> {
        let mut since = self.now;
        if !self.config.timeout.is_zero() {
            // The limit is for this call alone, and others may have run in the same turn.
            since = Time::now();
            overdue::begin();
        }
        self.page.set(Word::BusySince, since.as_millis().max(1));
        parent::begin_call();
        // The handler serves on after a panic, as users of a server expect; unfinished changes to its state are its own affair.
        let result = catch_unwind(AssertUnwindSafe(|| f(self.handler))).ok();
        end_copy(name);
        parent::end_call();
        self.page.set(Word::BusySince, 0);
        result
    }
}

/// Ends a process that a callback has forked and that returns from it: it would serve clients as a second worker.
pub fn end_copy(callback: &str) {
    if forks::is_copy() {
        let pid = process::own_pid();
        log!(
            "{callback}: process {pid}, which it has forked, returned from it and ends here; a child must call _exit"
        );
        process::exit(super::EXIT_FAILED);
    }
}
