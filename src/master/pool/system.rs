//! What the pool needs of the kernel, as traits: [`crate::master::kernel`] and the listeners implement them for the master. The
//! simulator has another system.

use super::Unplaced;
use crate::config::Accept;
use crate::handoff::{Given, Taken};
use crate::ids::Page;
use crate::scoreboard::Word;
use crate::sys::time::Time;
use std::fmt::Arguments;
use std::io;

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
    type Backlog: Backlog<Poll = Self::Poll, Connection = Self::Connection>;

    /// Makes sure that as many descriptors as a message has can be opened; `false` if fewer are free.
    fn make_room(&mut self) -> bool;

    /// Restores the reserve of descriptors.
    fn refill_reserve(&mut self);

    /// Publishes whether the master waits for room; the worker that makes room then wakes it.
    fn set_waiting(&mut self, waits: bool);

    /// Publishes that no workers follow: one that drains first takes all that waits at its own sockets.
    fn start_final_intake(&mut self);

    /// The number of a connection's client in dispatch; `None` if the client has no IP address.
    fn client_of(connection: &Self::Connection) -> Option<u64>;

    /// Closes the master's copies of connections that were given.
    fn close_copies(given: &mut Vec<Unplaced<Self::Connection>>) {
        given.clear();
    }

    /// Closes a connection that is left when a stop has closed the listeners.
    fn close(&self, connection: Self::Connection) {
        drop(connection);
    }

    /// Resets a connection, since its client would take its end for the end of what it gets.
    fn reset(&self, connection: Self::Connection) {
        drop(connection);
    }

    /// Logs a warning.
    fn log(&self, line: Arguments<'_>);
}

/// The two queues between the master and one worker: connections to it, and those that it hands back. They outlive the worker.
pub trait Queue<S: System> {
    /// Queues connections, as many as are [`crate::handoff::fitting`], for the worker, all or none; the caller's copies can be closed after
    /// [`Given::Done`].
    fn give(&self, connections: &[Unplaced<S::Connection>]) -> io::Result<Given>;

    /// Takes the oldest message to the worker out of its queue again.
    fn reclaim(&self) -> io::Result<Taken<S::Connection>>;

    /// The connections in the worker's queue, which it has not taken.
    fn waiting(&self) -> io::Result<u64>;

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

    /// The memory in RAM (bytes) that the worker shares with no other process, if it is known.
    fn memory(&self) -> Option<u64>;
}

/// A listener: its sockets, and the connections that wait there.
pub trait Backlog {
    /// Reports descriptors.
    type Poll;
    /// A connection.
    type Connection;

    /// Accepts a connection; with its client's number for dispatch if `with_client` is set and there is one.
    ///
    /// # Errors
    /// As accept(2); `EAGAIN` if no connection waits.
    fn accept(&mut self, with_client: bool) -> io::Result<(Self::Connection, Option<u64>)>;

    /// The number of connections that wait, if the kernel says it cheaply.
    fn waiting(&self) -> Option<usize>;

    /// True if the poll reports all sockets at which the master accepts, of which there is at least one.
    fn is_watched(&self) -> bool;

    /// True if the master accepts here and the poll does not report it.
    fn is_paused(&self) -> bool;

    /// Has the poll report the listener as long as a connection waits.
    fn resume(&mut self, poll: &Self::Poll) -> io::Result<()>;

    /// Leaves connections in the backlog until [`Backlog::resume`].
    fn pause(&mut self, poll: &Self::Poll) -> io::Result<()>;

    /// For a stop: has the kernel add nothing to the backlog any more, if it can.
    fn stop_intake(&mut self);

    /// Refuses clients from now on, in other processes that have the socket too; not if it is inherited, and so another
    /// program's as well.
    fn refuse_clients(&mut self);

    /// Counts a connection that was accepted during a stop; false if there can be no more.
    fn expects_more(&mut self) -> bool;

    /// In a stop: true if connections may still come into the backlog that the kernel has held until their first bytes come.
    fn holds_connections(&self, _now: Time) -> bool {
        false
    }

    /// True if it is UDP: workers read from it, even if the master accepts connections.
    fn takes_datagrams(&self) -> bool;

    /// True if workers alone accept here, also in a stop: they have the sockets, and no queue for what the master would accept.
    fn is_left_to_workers(&self) -> bool {
        false
    }

    /// True if workers take what arrives here from the kernel themselves.
    fn is_for_workers(&self, accept: Accept) -> bool {
        accept != Accept::Master || self.takes_datagrams()
    }

    /// Divides the sockets between the master and the workers of `slots` slots: the master accepts at all of them if `all`,
    /// otherwise at those of slots without an admitted worker.
    fn divide(&mut self, poll: &Self::Poll, slots: usize, all: bool, is_admitted: impl Fn(usize) -> bool);
}
