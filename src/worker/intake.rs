//! The intake of a worker: its handoff queue and its own sockets, its limit on descriptors, and the wake-up of a master that
//! waits for room.

use super::own_sockets::OwnSockets;
use super::this_worker::Worker;
use crate::handoff::{Given, HandoffEnd, Origin, Taken};
use crate::ids::ListenerId;
use crate::log::log;
use crate::scoreboard::{Common, Word, WorkerPage};
use crate::sys::time::Time;
use crate::sys::{datagram, memory, poll, process};
use mio::Token;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

/// Descriptors that a worker leaves free: for its handler, and so that there is always one for a connection that arrives.
pub const DESCRIPTOR_RESERVE: u64 = 32;
/// The token of the handoff queue.
pub const QUEUE: Token = Token(usize::MAX - 1);
/// The age at which the limit on descriptors is read again: it may be lowered from outside (prlimit(1)).
const LIMIT_AGE: Duration = Duration::from_millis(100);

/// The intake.
pub struct Intake<'a> {
    /// The worker's own sockets.
    pub own: OwnSockets,
    worker: &'static Worker,
    page: WorkerPage,
    queue: HandoffEnd,
    common: Common,
    wake: BorrowedFd<'a>,
    /// The soft limit on descriptors, and the time at which it was read.
    descriptor_limit: u64,
    limit_read_at: Option<Time>,
    /// The descriptor of the last connection taken; 0 if a connection was closed since.
    highest: u64,
    /// True if the poll reports the queue.
    watching: bool,
    /// True if the rest of the queue is left to the master.
    is_closed: bool,
}

impl<'a> Intake<'a> {
    /// Watches the handoff queue, level-triggered.
    pub fn new(
        worker: &'static Worker,
        queue: HandoffEnd,
        own: OwnSockets,
        (common, wake): (Common, BorrowedFd<'a>),
        poll: &mio::Poll,
    ) -> Self {
        let mut intake = Self {
            own,
            worker,
            page: worker.info.page,
            queue,
            common,
            wake,
            descriptor_limit: 0,
            limit_read_at: None,
            highest: 0,
            watching: false,
            is_closed: false,
        };
        intake.watch(poll);
        intake
    }

    /// Closes the queue, whose rest the master gives to others; or opens it again, because the master is gone.
    pub fn set_closed(&mut self, is_closed: bool, poll: &mio::Poll) {
        self.is_closed = is_closed;
        if is_closed {
            self.unwatch(poll);
        }
    }

    fn watch(&mut self, poll: &mio::Poll) {
        match poll::watch_level(poll, self.queue.as_fd(), QUEUE) {
            Ok(()) => self.watching = true,
            Err(e) => log!("worker {}: watch the handoff channel: {e}", self.worker.id()),
        }
    }

    fn unwatch(&mut self, poll: &mio::Poll) {
        if self.watching && poll::unwatch(poll, self.queue.as_fd()).is_ok() {
            self.watching = false;
        }
    }

    /// Takes from the queue: a connection, [`Taken::Nothing`] also if there is no free descriptor for one, or [`Taken::End`].
    pub fn take(&mut self, poll: &mio::Poll, now: Time) -> Taken {
        while !self.is_closed && self.may_take(poll, now) {
            match self.queue.take() {
                Ok(Taken::Connection(fd, origin)) => {
                    self.highest = fd.as_raw_fd().unsigned_abs().into();
                    self.page.add(Word::Taken, 1);
                    self.made_room();
                    return Taken::Connection(fd, origin);
                }
                Ok(Taken::Probe) => {
                    self.page.add(Word::Probed, 1);
                    self.made_room();
                }
                Ok(Taken::Lost) => {
                    log!("worker {}: no free descriptor, a connection is lost", self.worker.id());
                    self.page.add(Word::Taken, 1);
                    self.finished();
                }
                Ok(Taken::Nothing) => break,
                end => {
                    if let Err(e) = end {
                        log!("worker {}: read the handoff channel: {e}", self.worker.id());
                    }
                    self.unwatch(poll);
                    return Taken::End;
                }
            }
        }
        Taken::Nothing
    }

    /// Accepts a connection at an own socket. `None` if there is none, or no free descriptor for one.
    pub fn accept(&mut self, index: usize, poll: &mio::Poll, now: Time) -> Option<(OwnedFd, ListenerId)> {
        if !self.may_take(poll, now) {
            return None;
        }
        // Before the call, since a signal can end the worker as it returns: then the connection counts as lost.
        let accepted = self.page.get(Word::Accepted);
        self.page.set(Word::Accepted, accepted.wrapping_add(1));
        let Some((fd, listener)) = self.own.accept(index, poll, now) else {
            self.page.set(Word::Accepted, accepted);
            // To the master it looked like one less.
            self.made_room();
            return None;
        };
        self.highest = fd.as_raw_fd().unsigned_abs().into();
        self.page.add(Word::Taken, 1);
        Some((fd, listener))
    }

    /// Has the poll report the own sockets as long as the worker may and can take what arrives.
    pub fn watch_own_sockets(&mut self, may_take: bool, has_room: bool, poll: &mio::Poll, now: Time) {
        self.own.watch_only(may_take && has_room && self.watching, may_take, poll, now);
    }

    /// True if no other worker will serve what waits at an own socket. (Nor will one if the master is gone.)
    pub fn is_last_at(&self, index: usize) -> bool {
        self.common.is_final_intake()
            || self.own.datagrams(index).is_some_and(|socket| datagram::is_retired(socket.fd.as_fd()))
    }

    /// Returns true if a descriptor is free; else the queue is not watched, and its connections go to other workers.
    ///
    /// The kernel gives the lowest free number, so all numbers below that of the last connection are in use.
    pub fn may_take(&mut self, poll: &mio::Poll, now: Time) -> bool {
        if self.limit_read_at.is_none_or(|read_at| now >= read_at + LIMIT_AGE) {
            self.limit_read_at = Some(now);
            self.descriptor_limit = process::descriptor_limit().unwrap_or(u64::MAX);
        }
        let enough = self.highest + DESCRIPTOR_RESERVE / 2 < self.descriptor_limit;
        if !enough {
            self.unwatch(poll);
        } else if !self.watching && !self.is_closed {
            self.watch(poll);
        }
        enough
    }

    /// A connection is over: its descriptor is free, and the next one's number is at most as high.
    pub fn finished(&mut self) {
        self.page.add(Word::Finished, 1);
        self.highest = 0;
        self.made_room();
    }

    /// True if the queue or the own sockets are not watched because descriptors have run out.
    pub fn lacks_descriptors(&self) -> bool {
        !self.watching || self.own.is_paused()
    }

    /// Hands an idle connection back to the master. Returns false if the channel is full.
    pub fn hand_back(&mut self, connection: BorrowedFd<'_>, listener: ListenerId) -> bool {
        matches!(self.queue.give(connection, Origin { listener, used: true }), Ok(Given::Done))
    }

    fn made_room(&self) {
        if self.common.claim_wake() {
            // This fails only if the counter is full, and then the master is awake.
            let _ = memory::wake(self.wake);
        }
    }
}
