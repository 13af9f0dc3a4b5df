//! The pool's system in the master: handoff channels, pages of the scoreboard, sockets.

use super::{Backlog, Link, Queue, System};
use crate::config::Accept;
use crate::handoff::{Given, HandoffEnd, Origin, Taken};
use crate::ids::Page;
use crate::master::fd_reserve::FdReserve;
use crate::master::sockets::{Listener, Owner};
use crate::master::token::Token;
use crate::scoreboard::{Common, Word, WorkerPage};
use crate::sys::process::{self, Process};
use crate::sys::{poll, socket};
use std::fmt::Arguments;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

/// The kernel, with the master's reserve of descriptors and the words on the scoreboard for all workers.
pub struct Kernel {
    /// The reserve.
    pub reserve: FdReserve,
    /// The pages for all workers.
    pub common: Common,
}

/// The link to a worker process.
pub struct WorkerLink {
    /// Signals go here, the exit status comes from here.
    pub process: Process,
    /// Its handoff channel.
    pub queue: HandoffQueue,
    /// Its counters.
    pub page: WorkerPage,
}

/// Both ends of a worker's handoff channel, as the master has them.
pub struct HandoffQueue {
    /// The master's end: connections go to the worker, and those it hands back come.
    pub master: HandoffEnd,
    /// A copy of the worker's end, to reclaim what the worker does not take.
    pub worker: HandoffEnd,
}

impl System for Kernel {
    type Poll = mio::Poll;
    type Connection = OwnedFd;
    type Link = WorkerLink;
    type Backlog = Listener;

    fn make_room(&mut self) -> bool {
        self.reserve.make_room()
    }

    fn refill_reserve(&mut self) {
        self.reserve.refill();
    }

    fn set_waiting(&mut self, waits: bool) {
        if waits { self.common.start_waiting() } else { self.common.stop_waiting() }
    }

    fn allow_intake(&mut self) {
        self.common.allow_intake();
    }

    fn start_final_intake(&mut self) {
        self.common.start_final_intake();
    }

    fn client_of(connection: &OwnedFd) -> Option<u64> {
        socket::peer_ip(connection.as_fd()).map(super::dispatch::client_of)
    }

    fn log(&self, line: Arguments<'_>) {
        crate::log::line(line);
    }
}

impl Queue for HandoffQueue {
    type Connection = OwnedFd;

    fn give(&self, connection: &OwnedFd, origin: Origin) -> io::Result<Given> {
        self.master.give(connection.as_fd(), origin)
    }

    fn reclaim(&self) -> io::Result<Taken> {
        self.worker.take()
    }

    fn take_returned(&self) -> io::Result<Taken> {
        self.master.take()
    }

    fn probe(&self) -> bool {
        self.master.probe()
    }
}

impl Link for WorkerLink {
    type Poll = mio::Poll;
    type Queue = HandoffQueue;

    fn queue(&self) -> &HandoffQueue {
        &self.queue
    }

    fn into_queue(self) -> HandoffQueue {
        self.queue
    }

    fn count(&self, word: Word) -> u64 {
        self.page.get(word)
    }

    fn watch_returns(&self, poll: &mio::Poll, page: Page) -> io::Result<()> {
        poll::watch_level(poll, self.queue.master.as_fd(), Token::Returns(page).into())
    }

    fn unwatch_returns(&self, poll: &mio::Poll) {
        let _ = poll::unwatch(poll, self.queue.master.as_fd());
    }

    fn memory(&self) -> Option<u64> {
        process::resident_bytes(self.process.pid())
    }
}

impl Backlog for Listener {
    type Poll = mio::Poll;
    type Connection = OwnedFd;

    fn accept(&mut self, with_client: bool) -> io::Result<(OwnedFd, Option<u64>)> {
        self.accept_with(|socket| {
            if with_client {
                socket::accept_with_ip(socket).map(|(fd, ip)| (fd, ip.map(super::dispatch::client_of)))
            } else {
                socket::accept(socket).map(|fd| (fd, None))
            }
        })
    }

    fn is_watched(&self) -> bool {
        self.is_watched()
    }

    fn is_paused(&self) -> bool {
        self.is_paused()
    }

    fn resume(&mut self, poll: &mio::Poll) -> io::Result<()> {
        self.resume(poll)
    }

    fn pause(&mut self, poll: &mio::Poll) -> io::Result<()> {
        self.pause(poll)
    }

    fn stop_intake(&mut self) {
        self.stop_intake();
    }

    fn expects_more(&mut self) -> bool {
        self.expects_more()
    }

    fn takes_datagrams(&self) -> bool {
        self.takes_datagrams()
    }

    fn is_for_workers(&self, accept: Accept) -> bool {
        self.is_for_workers(accept)
    }

    fn divide(&mut self, poll: &mio::Poll, slots: usize, all: bool, is_admitted: impl Fn(usize) -> bool) {
        if self.takes_datagrams() {
            return self.settle(slots, is_admitted);
        }
        self.claim(poll, |owner| match owner {
            Owner::All => all,
            Owner::Slot(slot) => all || !is_admitted(slot),
        });
    }
}
