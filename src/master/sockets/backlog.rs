//! A listener as a backlog of the pool: accepts at its sockets, watches them, and divides them between the master and the workers.
//!
//! The master has all sockets, so that the clients in a backlog outlive the worker: its successor inherits the same socket. Even if
//! workers accept, the master accepts at the sockets of slots without an admitted worker, and at all of them in a stop: no client
//! waits for a worker that is gone.

use super::{Kind, Listener};
use crate::handoff::Passed;
use crate::log::log;
use crate::master::pool::{Backlog, dispatch};
use crate::sys::socket::Address;
use crate::sys::time::Time;
use crate::sys::{datagram, errno, poll, socket};
use std::io;
use std::os::fd::{AsFd, OwnedFd};

/// A socket of a listener.
pub struct Socket {
    pub fd: OwnedFd,
    /// True if it has its address. One for datagrams gets it when a worker is there to read them.
    pub bound: bool,
    /// True if the master accepts here.
    ours: bool,
    /// True if the master's poll reports it.
    watched: bool,
}

impl Socket {
    /// A socket at which the master does not accept yet.
    pub fn new(fd: OwnedFd, bound: bool) -> Self {
        Self { fd, bound, ours: false, watched: false }
    }

    fn unwatch(&mut self, poll: &mio::Poll) -> io::Result<()> {
        if std::mem::take(&mut self.watched) { poll::unwatch(poll, self.fd.as_fd()) } else { Ok(()) }
    }
}

impl Backlog for Listener {
    type Poll = mio::Poll;
    type Connection = Passed;

    fn accept(&mut self, with_client: bool) -> io::Result<(Passed, Option<u64>)> {
        for _ in 0..self.sockets.len() {
            self.turn = if self.turn + 1 < self.sockets.len() { self.turn + 1 } else { 0 };
            let Socket { fd, ours: true, .. } = &self.sockets[self.turn] else { continue };
            let accepted = if with_client {
                socket::accept_with_ip(fd.as_fd()).map(|(fd, ip)| (fd.into(), ip.map(dispatch::client_of)))
            } else {
                socket::accept(fd.as_fd()).map(|fd| (fd.into(), None))
            };
            match accepted {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                done => return done,
            }
        }
        Err(errno::error(errno::EAGAIN))
    }

    fn waiting(&self) -> Option<usize> {
        match (self.sockets.as_slice(), &self.address) {
            ([only], Address::Inet(_)) => socket::waiting(only.fd.as_fd()),
            _ => None,
        }
    }

    fn is_watched(&self) -> bool {
        let mut ours = self.sockets.iter().filter(|socket| socket.ours).peekable();
        ours.peek().is_some() && ours.all(|socket| socket.watched)
    }

    fn is_paused(&self) -> bool {
        self.sockets.iter().any(|socket| socket.ours && !socket.watched)
    }

    fn resume(&mut self, poll: &mio::Poll) -> io::Result<()> {
        for socket in self.sockets.iter_mut().filter(|socket| socket.ours && !socket.watched) {
            poll::watch_level(poll, socket.fd.as_fd(), self.token)?;
            socket.watched = true;
        }
        log!(Debug, "{self}: accepting is resumed");
        Ok(())
    }

    fn pause(&mut self, poll: &mio::Poll) -> io::Result<()> {
        log!(Debug, "{self}: accepting is paused; clients wait in the backlog");
        self.sockets.iter_mut().map(|socket| socket.unwatch(poll)).fold(Ok(()), Result::and)
    }

    fn stop_intake(&mut self) {
        // An inherited socket is another process's too, and a Unix socket has no such switch. Of those, as many connections are
        // accepted as the backlog can hold, and no more.
        if self.inet().is_some() && self.sockets.iter().all(|s| socket::stop_intake(s.fd.as_fd()).is_ok()) {
            self.left = None;
        }
        self.end_deferral();
    }

    fn refuse_clients(&mut self) {
        // Programs that accept themselves would find an error there before they are told to finish.
        if !self.left_to_workers && matches!(self.kind, Kind::Tcp | Kind::Unix(_)) {
            // One that was shut before is refused the second time.
            self.sockets.iter().for_each(|socket| drop(socket::refuse_clients(socket.fd.as_fd())));
        }
    }

    fn expects_more(&mut self) -> bool {
        self.left.as_mut().is_none_or(|left| {
            *left = left.saturating_sub(1);
            *left > 0
        })
    }

    fn holds_connections(&self, now: Time) -> bool {
        Self::holds_connections(self, now)
    }

    fn takes_datagrams(&self) -> bool {
        matches!(self.kind, Kind::Udp | Kind::InheritedUdp)
    }

    fn is_left_to_workers(&self) -> bool {
        self.left_to_workers
    }

    fn divide(&mut self, poll: &mio::Poll, slots: usize, all: bool, is_admitted: impl Fn(usize) -> bool) {
        if self.left_to_workers {
            return;
        }
        if self.takes_datagrams() {
            return self.divide_datagrams(slots, is_admitted);
        }
        for (slot, socket) in self.sockets.iter_mut().enumerate() {
            // Those at which the master accepts already are watched as before.
            socket.ours = all || self.per_slot && !is_admitted(slot);
            if !socket.ours
                && let Err(e) = socket.unwatch(poll)
            {
                log!(Warn, "pause a socket of {}: {e}", self.address);
            }
        }
    }
}

impl Listener {
    /// If each slot has its own socket: binds those of slots with an admitted worker, and has the kernel put no more datagrams into
    /// those of slots that are no more; their workers read the rest.
    fn divide_datagrams(&mut self, slots: usize, is_admitted: impl Fn(usize) -> bool) {
        let Some(inet) = self.inet().filter(|_| self.per_slot) else { return };
        let unbound = |(slot, socket): &(usize, &mut Socket)| !socket.bound && is_admitted(*slot);
        for (_, socket) in self.sockets.iter_mut().enumerate().filter(unbound) {
            // Also if binding fails: it would fail again, and the other slots have sockets.
            socket.bound = true;
            if let Err(e) = socket::bind(socket.fd.as_fd(), inet) {
                log!(Warn, "bind udp:{inet}: {e}");
            }
        }
        for socket in self.sockets.drain(slots.min(self.sockets.len())..).filter(|socket| socket.bound) {
            if let Err(e) = datagram::retire(socket.fd.as_fd()) {
                log!(Warn, "retire udp:{inet}: {e}");
            }
        }
    }
}
