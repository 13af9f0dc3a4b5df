//! The seam between the worker's loop, which owns descriptors, deadlines and the poll, and what is spoken on a connection.

use super::handler::Handler;
use crate::config::Config;
use crate::scoreboard::{Word, WorkerPage};
use crate::sys::{overdue, time};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// What the loop does with a connection after an engine has run on it.
pub enum Next {
    /// Wait for bytes (and for room to write if `write` is set), until the deadline.
    Wait {
        /// True if the engine has bytes to write that the socket did not take.
        write: bool,
        /// True if the client has taken bytes since the last time: a deadline for writing starts anew.
        progress: bool,
        /// The deadline that runs.
        deadline: Deadline,
    },
    /// More can be done at once, but others come first: call again in the next turn.
    Again,
    /// The connection is over.
    Close,
    /// The connection speaks another protocol from now on; these bytes have been read already.
    Upgrade(Vec<u8>),
}

/// Which of the settings' times a connection is under. Setting the same deadline again starts it anew, except `Header` and
/// `Linger`, which run on from their first setting, and `Write`, which runs on while the client takes nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deadline {
    /// `header-timeout`: the head of a request is on its way, or the first bytes of a new connection are due.
    Header,
    /// `body-timeout`: more of a body is due.
    Body,
    /// `idle-timeout`: nothing is under way; the connection may be handed back or closed.
    Idle,
    /// `write-timeout`: the client is to read.
    Write,
    /// Two seconds in all: everything was sent and said; what the client still sends is read and dropped, so that no reset
    /// destroys the last response on its way (RFC 9112 section 9.6).
    Linger,
}

/// What an engine may use while it runs.
pub struct Context<'a> {
    /// The user's code.
    pub handler: &'a mut dyn Handler,
    /// The settings.
    pub config: &'a Config,
    /// The worker's counters.
    pub page: WorkerPage,
    /// The monotonic clock in milliseconds, read once per turn of the loop.
    pub now: u64,
    /// Whether the worker takes nothing new and is to end its connections.
    pub draining: bool,
}

impl Context<'_> {
    /// Runs user code: the scoreboard shows it as busy meanwhile. `None` where it panicked (the panic hook has printed it).
    pub fn call<T>(&mut self, f: impl FnOnce(&mut dyn Handler) -> T) -> Option<T> {
        let mut since = self.now;
        if !self.config.timeout.is_zero() {
            // Of this call alone: a turn may be as long as all its calls together.
            since = time::monotonic_ms();
            overdue::begin();
        }
        self.page.set(Word::BusySince, since.max(1));
        // The handler is used on after a panic, as a server's user expects; what it left half done is its own.
        let result = catch_unwind(AssertUnwindSafe(|| f(self.handler))).ok();
        self.page.set(Word::BusySince, 0);
        result
    }
}
