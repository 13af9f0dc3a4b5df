//! The sockets of one address: one for all workers, or one per slot (`--accept reuseport`).
//!
//! The master has them all, so that the clients in a backlog outlive the worker: its successor inherits the same socket. Even if
//! workers accept, the master accepts at the sockets of slots without an admitted worker, and at all of them in a stop: no client
//! waits for a worker that is gone.

use crate::ids::Slot;
use crate::sys::socket::{Address, bind, local_address};
use crate::sys::{errno, poll};
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// The sockets of one address.
pub struct SocketSet {
    sockets: Vec<Socket>,
    per_slot: bool,
    /// The socket at which the last connection was accepted.
    turn: usize,
}

struct Socket {
    fd: OwnedFd,
    /// True if the master accepts here.
    ours: bool,
    /// True if the master's poll reports it.
    watched: bool,
    /// True if it has its address. One for datagrams gets it when a worker is there to read them.
    bound: bool,
}

impl SocketSet {
    /// One socket for all workers.
    pub fn one(fd: OwnedFd) -> Self {
        Self { sockets: vec![Socket::new(fd, true)], per_slot: false, turn: 0 }
    }

    /// The sockets that a former program in this process had.
    pub fn resume(fds: Vec<OwnedFd>, per_slot: bool) -> Self {
        let socket = |fd: OwnedFd| {
            let bound = !matches!(local_address(fd.as_fd()), Ok(Address::Inet(a)) if a.port() == 0);
            Socket::new(fd, bound)
        };
        Self { sockets: fds.into_iter().map(socket).collect(), per_slot, turn: 0 }
    }

    /// One socket for each slot; there are no slots yet.
    pub fn per_slot() -> Self {
        Self { sockets: Vec::new(), per_slot: true, turn: 0 }
    }

    /// True if each slot has its own.
    pub fn are_per_slot(&self) -> bool {
        self.per_slot
    }

    /// The sockets.
    pub fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.sockets.iter().map(|socket| socket.fd.as_fd())
    }

    /// The number of sockets.
    pub fn len(&self) -> usize {
        self.sockets.len()
    }

    /// Adds the socket of the next slot.
    pub fn add(&mut self, fd: OwnedFd, bound: bool) {
        self.sockets.push(Socket::new(fd, bound));
    }

    /// Binds the sockets that have no address yet and whose slot has an admitted worker.
    pub fn bind(&mut self, addr: SocketAddr, is_admitted: impl Fn(usize) -> bool) -> io::Result<()> {
        let unbound = |(slot, socket): &(usize, &mut Socket)| !socket.bound && is_admitted(*slot);
        for (_, socket) in self.sockets.iter_mut().enumerate().filter(unbound) {
            // Also if binding fails: it would fail again, and the other slots have sockets.
            socket.bound = true;
            bind(socket.fd.as_fd(), addr)?;
        }
        Ok(())
    }

    /// Takes out the sockets of the slots from `slots` on; returns those that have an address.
    pub fn split_off(&mut self, slots: usize) -> impl Iterator<Item = OwnedFd> + use<> {
        let sockets = self.sockets.split_off(slots.min(self.sockets.len()));
        sockets.into_iter().filter(|socket| socket.bound).map(|socket| socket.fd)
    }

    /// In a worker: returns the socket it accepts at; the others are closed.
    pub fn into_socket_of(mut self, slot: Slot) -> Option<OwnedFd> {
        let index = slot.index().checked_rem(self.sockets.len())?;
        Some(self.sockets.swap_remove(index).fd)
    }

    /// Has the master accept at `all` sockets, or at those of slots without an admitted worker. Those at which it accepts
    /// already are watched as before.
    pub fn claim(
        &mut self,
        poll: &mio::Poll,
        all: bool,
        is_admitted: impl Fn(usize) -> bool,
    ) -> io::Result<()> {
        let mut result = Ok(());
        for (slot, socket) in self.sockets.iter_mut().enumerate() {
            socket.ours = all || self.per_slot && !is_admitted(slot);
            if !socket.ours {
                result = result.and(socket.unwatch(poll));
            }
        }
        result
    }

    /// True if the master accepts at any of them.
    pub fn are_ours(&self) -> bool {
        self.sockets.iter().any(|socket| socket.ours)
    }

    /// True if the poll reports all at which the master accepts, of which there is at least one.
    pub fn are_watched(&self) -> bool {
        self.are_ours() && self.sockets.iter().all(|socket| socket.watched || !socket.ours)
    }

    /// Has the poll report all at which the master accepts.
    pub fn watch(&mut self, poll: &mio::Poll, token: mio::Token) -> io::Result<()> {
        for socket in self.sockets.iter_mut().filter(|socket| socket.ours && !socket.watched) {
            poll::watch_level(poll, socket.fd.as_fd(), token)?;
            socket.watched = true;
        }
        Ok(())
    }

    /// Has the poll report none.
    pub fn unwatch(&mut self, poll: &mio::Poll) -> io::Result<()> {
        self.sockets.iter_mut().map(|socket| socket.unwatch(poll)).fold(Ok(()), Result::and)
    }

    /// Accepts at the next socket at which the master accepts and a client waits.
    ///
    /// # Errors
    /// `EAGAIN` if no client waits; as `accept`.
    pub fn accept<T>(&mut self, accept: impl Fn(BorrowedFd<'_>) -> io::Result<T>) -> io::Result<T> {
        for _ in 0..self.sockets.len() {
            self.turn = if self.turn + 1 < self.sockets.len() { self.turn + 1 } else { 0 };
            let socket = &self.sockets[self.turn];
            if !socket.ours {
                continue;
            }
            match accept(socket.fd.as_fd()) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                done => return done,
            }
        }
        Err(io::Error::from_raw_os_error(errno::EAGAIN))
    }
}

impl Socket {
    fn new(fd: OwnedFd, bound: bool) -> Self {
        Self { fd, ours: false, watched: false, bound }
    }

    fn unwatch(&mut self, poll: &mio::Poll) -> io::Result<()> {
        if std::mem::replace(&mut self.watched, false) {
            poll::unwatch(poll, self.fd.as_fd())
        } else {
            Ok(())
        }
    }
}
