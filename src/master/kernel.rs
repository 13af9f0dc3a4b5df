//! The master's part of the pool's system: channels to workers, pages of the scoreboard, processes. Listeners are in `sockets`.

use super::fd_reserve::FdReserve;
use super::pool::{Link, Queue, System, Unplaced, dispatch};
use super::programs::channel::NodeChannel;
use super::sockets::Listener;
use super::token::Token;
use crate::handoff::{self, Given, HandoffEnd, Passed, Taken};
use crate::ids::Page;
use crate::log::log;
use crate::scoreboard::{Common, Word, WorkerPage};
use crate::sys::process::{self, Process};
use crate::sys::signal::SIGKILL;
use crate::sys::{poll, socket};
use std::fmt::Arguments;
use std::io;
use std::os::fd::AsFd;

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
    /// True if it leads a process group of its own, which ends with it.
    pub leads_group: bool,
}

impl WorkerLink {
    /// Sends the worker a signal; SIGKILL goes to its group too, if it leads one.
    pub fn kill(&self, signal: i32) -> io::Result<()> {
        if signal == SIGKILL && self.leads_group {
            self.process.kill_group();
        }
        self.process.kill(signal)
    }
}

/// The way by which a worker gets connections.
pub enum WorkerQueue {
    /// Its handoff channel.
    Handoff(HandoffQueue),
    /// The channel of Node's cluster.
    Node(NodeChannel),
    /// It accepts them itself.
    Own,
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
    type Connection = Passed;
    type Queue = WorkerQueue;
    type Link = WorkerLink;
    type Backlog = Listener;

    fn make_room(&mut self) -> bool {
        self.reserve.make_room(handoff::MOST)
    }

    fn refill_reserve(&mut self) {
        self.reserve.refill();
    }

    fn set_waiting(&mut self, waits: bool) {
        if waits { self.common.start_waiting() } else { self.common.stop_waiting() }
    }

    fn start_final_intake(&mut self) {
        self.common.start_final_intake();
    }

    fn client_of(connection: &Passed) -> Option<u64> {
        socket::peer_ip(connection.fd.as_fd()).map(dispatch::client_of)
    }

    fn close_copies(given: &mut Vec<Unplaced<Passed>>) {
        let descriptors = |Passed { fd, state }| std::iter::once(fd).chain(state);
        process::close_all(given.drain(..).flat_map(|unplaced| descriptors(unplaced.connection)));
    }

    fn reset(&self, connection: Passed) {
        let _ = socket::reset_on_close(connection.fd.as_fd());
    }

    fn log(&self, line: Arguments<'_>) {
        log!(Warn, "{line}");
    }
}

impl Queue<Kernel> for WorkerQueue {
    fn give(&self, connections: &[Unplaced<Passed>]) -> io::Result<Given> {
        match self {
            Self::Handoff(queue) => queue.master.give(connections.iter().map(
                |Unplaced { connection: Passed { fd, state }, origin, .. }| {
                    (fd.as_fd(), state.as_ref().map(AsFd::as_fd), *origin)
                },
            )),
            Self::Node(channel) => channel.give(connections),
            Self::Own => Ok(Given::Full),
        }
    }

    fn reclaim(&self) -> io::Result<Taken> {
        match self {
            Self::Handoff(queue) => queue.worker.take(),
            Self::Node(channel) => channel.reclaim(),
            Self::Own => Ok(Taken::End),
        }
    }

    fn waiting(&self) -> io::Result<u64> {
        match self {
            Self::Handoff(queue) => queue.worker.waiting(),
            Self::Node(channel) => Ok(channel.waiting()),
            Self::Own => Ok(0),
        }
    }

    fn take_returned(&self) -> io::Result<Taken> {
        match self {
            Self::Handoff(queue) => queue.master.take(),
            Self::Node(channel) => Ok(channel.take_refused()),
            Self::Own => Ok(Taken::End),
        }
    }

    fn probe(&self) -> bool {
        match self {
            Self::Handoff(queue) => queue.master.probe(),
            Self::Node(channel) => channel.probe(),
            Self::Own => false,
        }
    }

    fn watch(&self, poll: &mio::Poll, page: Page) -> io::Result<()> {
        match self {
            Self::Handoff(queue) => {
                poll::watch_level(poll, queue.master.as_fd(), Token::Returns(page).into())
            }
            // What it does not accept is seen as its answers are read.
            Self::Node(_) | Self::Own => Ok(()),
        }
    }

    fn unwatch(&self, poll: &mio::Poll) {
        if let Self::Handoff(queue) = self {
            let _ = poll::unwatch(poll, queue.master.as_fd());
        }
    }
}

impl Link for WorkerLink {
    fn count(&self, word: Word) -> u64 {
        self.page.get(word)
    }

    fn memory(&self) -> Option<u64> {
        process::private_bytes(self.process.pid())
    }
}
