//! The intake of a worker: its handoff queue and its own sockets, its limit on descriptors, and the wake-up of a master that
//! waits for room.

use super::own_sockets::{Accepts, OwnSockets};
use super::this_worker::Worker;
use crate::handoff::{self, Given, HandoffEnd, Origin, Taken};
use crate::ids::ListenerId;
use crate::log::{counted, log};
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
    page: WorkerPage,
    queue: HandoffEnd,
    common: Common,
    wake: BorrowedFd<'a>,
    /// The soft limit on descriptors, and the time at which it was read.
    descriptor_limit: u64,
    limit_read_at: Option<Time>,
    /// The highest descriptor that a connection has had.
    highest: u64,
    /// True if no descriptor was free when one was wanted, and no connection has ended since.
    is_short: bool,
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
            page: worker.info.page,
            queue,
            common,
            wake,
            descriptor_limit: 0,
            limit_read_at: None,
            highest: 0,
            is_short: false,
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
            Err(e) => log!(Error, "watch the handoff channel: {e}"),
        }
    }

    fn unwatch(&mut self, poll: &mio::Poll) {
        if self.watching && poll::unwatch(poll, self.queue.as_fd()).is_ok() {
            self.watching = false;
        }
    }

    /// True if the rest of the queue is left to the master.
    pub fn is_closed(&self) -> bool {
        self.is_closed
    }

    /// Takes from the queue: connections, for which there must be free descriptors, [`Taken::Nothing`] or [`Taken::End`].
    pub fn take(&mut self, poll: &mio::Poll) -> Taken {
        loop {
            match self.queue.take() {
                Ok(Taken::Connections(message)) => {
                    if message.lost > 0 {
                        let lost = counted(message.lost as u64, "connection");
                        log!(Error, "no free descriptor, {lost} lost");
                        self.page.add(Word::Taken, message.lost as u64);
                        self.page.add(Word::Finished, message.lost as u64);
                        self.made_room();
                    }
                    return Taken::Connections(message);
                }
                Ok(Taken::Probe) => {
                    self.page.add(Word::Probed, 1);
                    self.made_room();
                }
                Ok(Taken::Nothing) => return Taken::Nothing,
                end => {
                    if let Err(e) = end {
                        log!(Error, "read the handoff channel: {e}");
                    }
                    self.unwatch(poll);
                    return Taken::End;
                }
            }
        }
    }

    /// Counts a connection of a message as taken, before the handler sees it.
    pub fn count_taken(&mut self, connection: &OwnedFd) {
        self.note_number(connection);
        self.page.add(Word::Taken, 1);
        self.made_room();
    }

    /// Accepts a connection at an own socket. `None` if there is none.
    pub fn accept(&mut self, index: usize, poll: &mio::Poll, now: Time) -> Option<(OwnedFd, ListenerId)> {
        // Before the call, since a signal can end the worker as it returns: then the connection counts as lost.
        let accepted = self.page.get(Word::Accepted);
        self.page.set(Word::Accepted, accepted.wrapping_add(1));
        let Some((fd, listener)) = self.own.accept(index, poll, now) else {
            self.page.set(Word::Accepted, accepted);
            // To the master it looked like one less.
            self.made_room();
            return None;
        };
        self.note_number(&fd);
        self.page.add(Word::Taken, 1);
        Some((fd, listener))
    }

    /// Has the poll report the own sockets as long as the worker may and can take what arrives.
    pub fn watch_own_sockets(&mut self, may_take: bool, accepts: Accepts, poll: &mio::Poll, now: Time) {
        let accepts = if may_take && self.watching { accepts } else { Accepts::Nothing };
        self.own.watch_only(accepts, may_take, poll, now);
    }

    /// True if no other worker will serve what waits at an own socket. (Nor will one if the master is gone.)
    pub fn is_last_at(&self, index: usize) -> bool {
        self.common.is_final_intake()
            || self.own.datagrams(index).is_some_and(|socket| datagram::is_retired(socket.fd.as_fd()))
    }

    /// True if descriptors are free for as many connections as a message has.
    pub fn has_descriptors(&mut self, now: Time) -> bool {
        if self.limit_read_at.is_none_or(|read_at| now >= read_at + LIMIT_AGE) {
            self.limit_read_at = Some(now);
            self.descriptor_limit = process::descriptor_limit().unwrap_or(u64::MAX);
        }
        let has_enough = |highest: u64| highest + DESCRIPTOR_RESERVE / 2 < self.descriptor_limit;
        // If a number has been near the limit, lower ones may be free again. The kernel gives the lowest.
        let lowest = || {
            let copies = [(); handoff::MOST].map(|()| self.queue.as_fd().try_clone_to_owned());
            copies.iter().all(|copy| copy.as_ref().is_ok_and(|fd| has_enough(number(fd))))
        };
        self.is_short = !has_enough(self.highest) && !lowest();
        !self.is_short
    }

    /// True if no descriptor was free when one was wanted, and no connection has ended since.
    pub fn is_short(&self) -> bool {
        self.is_short
    }

    fn note_number(&mut self, connection: &OwnedFd) {
        self.highest = self.highest.max(number(connection));
    }

    /// Has the poll report the queue no more: the worker has no room, and its connections go to other workers.
    pub fn pause(&mut self, poll: &mio::Poll) {
        self.unwatch(poll);
    }

    /// Has the poll report the queue again.
    pub fn resume(&mut self, poll: &mio::Poll) {
        if !self.watching && !self.is_closed {
            self.watch(poll);
        }
    }

    /// A connection is over, and its descriptor free.
    pub fn finished(&mut self) {
        self.page.add(Word::Finished, 1);
        self.is_short = false;
        self.made_room();
    }

    /// True if the queue is not watched, because there was no room for what it has.
    pub fn is_paused(&self) -> bool {
        !self.watching
    }

    /// Hands up to [`handoff::MOST`] idle connections back to the master. Returns false if the channel is full.
    pub fn hand_back<'f>(
        &mut self,
        connections: impl Iterator<Item = (BorrowedFd<'f>, ListenerId)> + Clone,
    ) -> bool {
        self.give_back(connections.map(|(fd, listener)| (fd, None, Origin::idle(listener))))
    }

    /// Gives the master connections, as many as are [`handoff::fitting`]. Returns false if the channel is full.
    pub fn give_back<'f>(
        &mut self,
        connections: impl Iterator<Item = (BorrowedFd<'f>, Option<BorrowedFd<'f>>, Origin)> + Clone,
    ) -> bool {
        matches!(self.queue.give(connections), Ok(Given::Done))
    }

    /// Wakes the master if it waits for room.
    pub fn made_room(&self) {
        if self.common.claim_wake() {
            // This fails only if the counter is full, and then the master is awake.
            let _ = memory::wake(self.wake);
        }
    }
}

fn number(fd: &OwnedFd) -> u64 {
    fd.as_raw_fd().unsigned_abs().into()
}
