//! The intake: where connections and datagrams come from, the worker's limits on them, and how it says that it has room again.

use super::own_sockets::{OwnSocket, OwnSockets, Watched};
use super::{DESCRIPTOR_RESERVE, Worker};
use crate::handoff::{Given, HandoffEnd, Origin, Taken};
use crate::log::log;
use crate::scoreboard::{Common, Word, WorkerPage};
use crate::sys::time::Time;
use crate::sys::{datagram, memory, poll, process};
use mio::Token;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

/// The handoff channel has something.
pub const QUEUE: Token = Token(usize::MAX - 1);
/// The age at which the limit on descriptors is read again: it may be lowered from outside, see prlimit(1).
const LIMIT_AGE: Duration = Duration::from_millis(100);

/// Where connections and datagrams come from.
pub struct Intake<'a> {
    worker: &'static Worker,
    /// The worker's counters.
    pub page: WorkerPage,
    queue: HandoffEnd,
    own: OwnSockets,
    common: Common,
    wake: BorrowedFd<'a>,
    /// The soft limit on descriptors, and when it was read.
    descriptor_limit: u64,
    limit_read_at: Time,
    /// The number of the last connection taken; 0 if one was closed since.
    highest: u64,
    /// True if the poll reports the queue.
    watching: bool,
    /// True if no more is taken from the queue: the worker drains, and others get the rest.
    is_closed: bool,
}

/// The result of taking from the handoff channel.
pub enum Took {
    /// A connection.
    Connection(OwnedFd, Origin),
    /// Nothing there, or no descriptor to spare for it.
    Nothing,
    /// The master is gone, and the queue is empty.
    MasterGone,
}

impl<'a> Intake<'a> {
    /// Watches the handoff channel, level-triggered.
    pub fn new(
        worker: &'static Worker,
        page: WorkerPage,
        queue: HandoffEnd,
        own: OwnSockets,
        (common, wake): (Common, BorrowedFd<'a>),
        poll: &mio::Poll,
    ) -> Self {
        let (descriptor_limit, limit_read_at) = (0, Time::default());
        let mut intake = Self {
            worker,
            page,
            queue,
            own,
            common,
            wake,
            descriptor_limit,
            limit_read_at,
            highest: 0,
            watching: false,
            is_closed: false,
        };
        intake.watch(poll);
        intake
    }

    /// Takes no more from the queue: the master gives the rest to others.
    pub fn close_queue(&mut self, poll: &mio::Poll) {
        self.is_closed = true;
        self.unwatch(poll);
    }

    /// Takes from the queue again after [`Intake::close_queue`]: the master is gone, and no other will serve the rest.
    pub fn reopen_queue(&mut self) {
        self.is_closed = false;
    }

    fn watch(&mut self, poll: &mio::Poll) {
        if !self.watching {
            match poll::watch_level(poll, self.queue.as_fd(), QUEUE) {
                Ok(()) => self.watching = true,
                Err(e) => log!("worker {}: watch the handoff channel: {e}", self.worker.id),
            }
        }
    }

    fn unwatch(&mut self, poll: &mio::Poll) {
        if self.watching && poll::unwatch(poll, self.queue.as_fd()).is_ok() {
            self.watching = false;
        }
    }

    /// Takes the next connection. Without a descriptor to spare for it the queue is not watched until [`Intake::may_take`] finds
    /// one.
    pub fn take(&mut self, poll: &mio::Poll, now: Time) -> Took {
        loop {
            if self.is_closed || !self.may_take(poll, now) {
                return Took::Nothing;
            }
            match self.queue.take() {
                Ok(Taken::Connection(fd, origin)) => {
                    self.highest = fd.as_raw_fd().unsigned_abs().into();
                    self.page.add(Word::Taken, 1);
                    self.made_room();
                    return Took::Connection(fd, origin);
                }
                Ok(Taken::Probe) => {
                    self.page.add(Word::Probed, 1);
                    self.made_room();
                }
                Ok(Taken::Lost) => {
                    log!("worker {}: no free descriptor, a connection is lost", self.worker.id);
                    self.page.add(Word::Taken, 1);
                    self.finished(1);
                }
                Ok(Taken::Nothing) => return Took::Nothing,
                Ok(Taken::End) => {
                    self.unwatch(poll);
                    return Took::MasterGone;
                }
                Err(e) => {
                    log!("worker {}: read the handoff channel: {e}", self.worker.id);
                    self.unwatch(poll);
                    return Took::MasterGone;
                }
            }
        }
    }

    /// The index of the own socket that a token of the poll stands for.
    pub fn own_socket(&self, token: Token) -> Option<usize> {
        self.own.find(token)
    }

    /// The indexes of the own sockets.
    pub fn own_sockets(&self) -> std::ops::Range<usize> {
        self.own.sockets()
    }

    /// An own socket by its index, if it has datagrams.
    pub fn datagrams(&self, index: usize) -> Option<&OwnSocket> {
        self.own.datagrams(index)
    }

    /// Has the kernel wake another worker first for a shared socket.
    pub fn requeue(&self, index: usize, poll: &mio::Poll) {
        self.own.requeue(index, poll);
    }

    /// Accepts a connection at an own socket. `None` if there is none, or no descriptor to spare for it.
    pub fn accept(&mut self, index: usize, poll: &mio::Poll, now: Time) -> Option<(OwnedFd, u16)> {
        if !self.may_take(poll, now) {
            return None;
        }
        let (fd, listener) = self.own.accept(index, poll, now)?;
        self.highest = fd.as_raw_fd().unsigned_abs().into();
        // In this order: the master must not see more taken than there were to take.
        self.page.add(Word::Accepted, 1);
        self.page.add(Word::Taken, 1);
        Some((fd, listener))
    }

    /// Has the poll report the own sockets as long as the worker may and can take what comes.
    pub fn watch_own_sockets(&mut self, has_room: bool, is_draining: bool, poll: &mio::Poll, now: Time) {
        let datagrams = !is_draining && self.common.may_take_in();
        let wanted = Watched { connections: datagrams && has_room && self.watching, datagrams };
        self.own.watch_only(wanted, poll, now);
    }

    /// Closes the own sockets.
    pub fn close_own_sockets(&mut self, poll: &mio::Poll, now: Time) {
        self.own.leave(poll, now);
    }

    /// True if no worker follows this one at an own socket, so that what waits there is lost unless this one serves it; the caller
    /// knows if the master is gone.
    pub fn is_last_at(&self, index: usize) -> bool {
        self.common.is_final_intake()
            || self.datagrams(index).is_some_and(|socket| datagram::is_retired(socket.fd.as_fd()))
    }

    /// Returns true if a descriptor is to spare. The kernel gives the lowest free number, so the number of the last connection taken
    /// is a lower bound of those in use. Without one the queue is left alone: what is in it goes to other workers.
    pub fn may_take(&mut self, poll: &mio::Poll, now: Time) -> bool {
        if now >= self.limit_read_at + LIMIT_AGE || self.limit_read_at == Time::default() {
            self.limit_read_at = now;
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

    /// A connection that was taken is over: its number is free again, and the next one will be at most as high.
    pub fn finished(&mut self, n: u64) {
        self.page.add(Word::Finished, n);
        self.highest = 0;
        self.made_room();
    }

    /// True if the queue, or the own sockets, are left alone for want of descriptors.
    pub fn lacks_descriptors(&self) -> bool {
        !self.watching || self.own.is_resting()
    }

    /// Gives an idle connection back to the master. `false` if it stays here for now.
    pub fn hand_back(&mut self, connection: BorrowedFd<'_>, listener: u16) -> bool {
        matches!(self.queue.give(connection, Origin { listener, used: true }), Ok(Given::Done))
    }

    fn made_room(&self) {
        if self.common.claim_wake() {
            // A full counter has woken the master already.
            let _ = memory::wake(self.wake);
        }
    }
}
