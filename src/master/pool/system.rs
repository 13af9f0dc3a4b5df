//! What the pool needs of the kernel, as traits, and the master's implementation: handoff channels, pages of the scoreboard,
//! sockets. ([`Backlog`] is implemented by the listeners themselves.) The simulator has another.

use super::dispatch;
use crate::config::Accept;
use crate::handoff::{Given, HandoffEnd, Origin, Taken};
use crate::ids::Page;
use crate::master::fd_reserve::FdReserve;
use crate::master::sockets::Listener;
use crate::master::token::Token;
use crate::scoreboard::{Common, Word, WorkerPage};
use crate::sys::process::{self, Process};
use crate::sys::{poll, socket};
use std::fmt::Arguments;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

/// The kernel, as far as it is about no single worker or listener.
pub trait System: Sized {
    /// Reports descriptors.
    type Poll;
    /// A connection.
    type Connection;
    /// The queues of a worker.
    type Queue: Queue<Self>;
    /// The counters and the process of a worker.
    type Link: Link;
    /// A listener.
    type Backlog: Backlog<Self>;

    /// Makes sure that the next descriptor can be opened; `false` if none is free.
    fn make_room(&mut self) -> bool;

    /// Restores the reserve of descriptors.
    fn refill_reserve(&mut self);

    /// Publishes whether the master waits for room; the worker that makes room then wakes it.
    fn set_waiting(&mut self, waits: bool);

    /// Allows workers to take connections and datagrams from their own sockets.
    fn allow_intake(&mut self);

    /// Publishes that no workers follow: one that drains first takes all that waits at its own sockets.
    fn start_final_intake(&mut self);

    /// The number of a connection's client in dispatch; `None` if the client has no IP address.
    fn client_of(connection: &Self::Connection) -> Option<u64>;

    /// Writes a line to the log.
    fn log(&self, line: Arguments<'_>);
}

/// The two queues between the master and one worker: connections to it, and those that it hands back. They outlive the worker.
pub trait Queue<S: System> {
    /// Queues a connection for the worker; the caller's copy can be closed after [`Given::Done`].
    fn give(&self, connection: &S::Connection, origin: Origin) -> io::Result<Given>;

    /// Takes the oldest message to the worker out of its queue again.
    fn reclaim(&self) -> io::Result<Taken<S::Connection>>;

    /// Takes the oldest connection that the worker has handed back.
    fn take_returned(&self) -> io::Result<Taken<S::Connection>>;

    /// Queues a probe, which a worker that reads its queue counts; `false` if the queue is full.
    fn probe(&self) -> bool;

    /// Has the poll report what the worker of a page hands back.
    fn watch(&self, poll: &S::Poll, page: Page) -> io::Result<()>;

    /// Undoes [`Queue::watch`].
    fn unwatch(&self, poll: &S::Poll);
}

/// The counters and the process of one worker.
pub trait Link {
    /// Reads a counter of the worker's page.
    fn count(&self, word: Word) -> u64;

    /// The resident memory of the worker (bytes), if it is known.
    fn memory(&self) -> Option<u64>;
}

/// A listener: its sockets, and the connections that wait there.
pub trait Backlog<S: System> {
    /// Accepts a connection; with its client's number for dispatch if `with_client` is set and there is one.
    ///
    /// # Errors
    /// As accept(2); `EAGAIN` if no connection waits.
    fn accept(&mut self, with_client: bool) -> io::Result<(S::Connection, Option<u64>)>;

    /// True if the poll reports all sockets at which the master accepts, of which there is at least one.
    fn is_watched(&self) -> bool;

    /// True if the master accepts here and the poll does not report it.
    fn is_paused(&self) -> bool;

    /// Has the poll report the listener as long as a connection waits.
    fn resume(&mut self, poll: &S::Poll) -> io::Result<()>;

    /// Leaves connections in the backlog until [`Backlog::resume`].
    fn pause(&mut self, poll: &S::Poll) -> io::Result<()>;

    /// For a stop: has the kernel add nothing to the backlog any more, if it can.
    fn stop_intake(&mut self);

    /// Refuses clients from now on, in other processes that have the socket too; not if it is inherited, and so another
    /// program's as well.
    fn refuse_clients(&mut self);

    /// Counts a connection that was accepted during a stop; false if there can be no more.
    fn expects_more(&mut self) -> bool;

    /// True if it is UDP: workers read from it, even if the master accepts connections.
    fn takes_datagrams(&self) -> bool;

    /// True if workers take what arrives here from the kernel themselves.
    fn is_for_workers(&self, accept: Accept) -> bool {
        accept != Accept::Master || self.takes_datagrams()
    }

    /// Divides the sockets between the master and the workers of `slots` slots: the master accepts at all of them if `all`,
    /// otherwise at those of slots without an admitted worker.
    fn divide(&mut self, poll: &S::Poll, slots: usize, all: bool, is_admitted: impl Fn(usize) -> bool);
}

/// The master's system.
pub struct Kernel {
    /// The reserve of descriptors.
    pub reserve: FdReserve,
    /// The scoreboard's pages for all workers.
    pub common: Common,
}

/// The link to a worker process.
pub struct WorkerLink {
    /// The process.
    pub process: Process,
    /// Its counters.
    pub page: WorkerPage,
}

/// The master's descriptors of a handoff channel.
pub struct HandoffQueue {
    /// The master's end.
    pub master: HandoffEnd,
    /// A copy of the worker's end, to reclaim what the worker does not take.
    pub worker: HandoffEnd,
}

impl System for Kernel {
    type Poll = mio::Poll;
    type Connection = OwnedFd;
    type Queue = HandoffQueue;
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
        socket::peer_ip(connection.as_fd()).map(dispatch::client_of)
    }

    fn log(&self, line: Arguments<'_>) {
        crate::log::line(line);
    }
}

impl Queue<Kernel> for HandoffQueue {
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

    fn watch(&self, poll: &mio::Poll, page: Page) -> io::Result<()> {
        poll::watch_level(poll, self.master.as_fd(), Token::Returns(page).into())
    }

    fn unwatch(&self, poll: &mio::Poll) {
        let _ = poll::unwatch(poll, self.master.as_fd());
    }
}

impl Link for WorkerLink {
    fn count(&self, word: Word) -> u64 {
        self.page.get(word)
    }

    fn memory(&self) -> Option<u64> {
        process::resident_bytes(self.process.pid())
    }
}
