//! The sockets at which a worker takes what comes from the kernel itself: connections with `--accept shared` and `reuseport`,
//! datagrams always. They are the master's, which the worker has inherited.
//!
//! Watched level-triggered, so that one connection is taken per report. If all workers watch the same socket, the kernel wakes one
//! of them for each client, and that one must accept at once: no other is woken. Having accepted, a worker registers the socket
//! anew, which puts it behind the others: otherwise the same one would be woken each time it is free.

use crate::log::log;
use crate::sys::time::Time;
use crate::sys::{errno, poll, socket};
use mio::Token;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

/// The token of the first socket; each following one's is one less.
const FIRST: usize = usize::MAX - 4;
/// The pause in accepting when descriptors or memory have run out.
const REST: Duration = Duration::from_millis(250);

/// A socket at which a worker accepts or reads.
#[derive(Debug)]
pub struct OwnSocket {
    /// The socket, shared with the master and perhaps with other workers.
    pub fd: OwnedFd,
    /// The index of its listener.
    pub listener: u16,
    /// True if no other worker has it.
    pub alone: bool,
    /// True if it has datagrams, and not connections.
    pub datagrams: bool,
}

/// The sockets of a worker.
pub struct OwnSockets {
    sockets: Vec<OwnSocket>,
    /// True if the kernel may wake this worker alone for what comes to a shared socket.
    exclusive: bool,
    watched: Watched,
    resting_until: Time,
}

/// The sockets that the poll reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Watched {
    /// Those with connections.
    pub connections: bool,
    /// Those with datagrams.
    pub datagrams: bool,
}

impl Watched {
    const NONE: Self = Self { connections: false, datagrams: false };

    fn has(self, socket: &OwnSocket) -> bool {
        if socket.datagrams { self.datagrams } else { self.connections }
    }
}

impl OwnSockets {
    /// Sockets that are not watched yet. A worker that takes `one_at_a_time` may be woken alone for one socket, but not for one of
    /// several: what it finds at the first would keep it from the second, for which no other worker was woken.
    pub fn new(sockets: Vec<OwnSocket>, one_at_a_time: bool) -> Self {
        let exclusive = !one_at_a_time || sockets.len() == 1;
        Self { sockets, exclusive, watched: Watched::NONE, resting_until: Time::default() }
    }

    /// The indexes of the sockets.
    pub fn sockets(&self) -> std::ops::Range<usize> {
        0..self.sockets.len()
    }

    /// A socket by its index, if it has datagrams.
    pub fn datagrams(&self, index: usize) -> Option<&OwnSocket> {
        self.sockets.get(index).filter(|socket| socket.datagrams)
    }

    /// The index of the socket that a token stands for.
    pub fn find(&self, token: Token) -> Option<usize> {
        FIRST.checked_sub(token.0).filter(|index| *index < self.sockets.len())
    }

    /// True if accepting rests for want of descriptors or memory.
    pub fn is_resting(&self) -> bool {
        self.resting_until > Time::default()
    }

    /// Sets which sockets the poll reports.
    pub fn watch_only(&mut self, mut wanted: Watched, poll: &mio::Poll, now: Time) {
        if now >= self.resting_until {
            self.resting_until = Time::default();
        }
        wanted.connections &= !self.is_resting();
        if wanted == self.watched {
            return;
        }
        let before = std::mem::replace(&mut self.watched, wanted);
        for (index, socket) in self.sockets.iter().enumerate() {
            let done = match (before.has(socket), wanted.has(socket)) {
                (false, true) => self.watch(index, poll),
                (true, false) => self.unwatch(index, poll),
                _ => Ok(()),
            };
            if let Err(e) = done {
                log!("watch listener {}: {e}", socket.listener);
            }
        }
    }

    fn watch(&self, index: usize, poll: &mio::Poll) -> io::Result<()> {
        let (fd, token) = (self.sockets[index].fd.as_fd(), Token(FIRST - index));
        if self.is_exclusive(index) {
            poll::watch_level_exclusive(poll, fd, token)
        } else {
            poll::watch_level(poll, fd, token)
        }
    }

    fn unwatch(&self, index: usize, poll: &mio::Poll) -> io::Result<()> {
        poll::unwatch(poll, self.sockets[index].fd.as_fd())
    }

    fn is_exclusive(&self, index: usize) -> bool {
        self.exclusive && !self.sockets[index].alone
    }

    /// Accepts a connection; returns it with the index of its listener. `None` if there is none, or it failed.
    pub fn accept(&mut self, index: usize, poll: &mio::Poll, now: Time) -> Option<(OwnedFd, u16)> {
        let at = &self.sockets[index];
        match socket::accept(at.fd.as_fd()) {
            Ok(fd) => {
                let listener = at.listener;
                self.requeue(index, poll);
                Some((fd, listener))
            }
            Err(e) => {
                let code = e.raw_os_error();
                if let Some(errno::EMFILE | errno::ENFILE | errno::ENOBUFS | errno::ENOMEM) = code {
                    self.rest(&e, poll, now);
                }
                None
            }
        }
    }

    /// Registers a shared socket anew, so that the kernel wakes another worker first.
    pub fn requeue(&self, index: usize, poll: &mio::Poll) {
        if self.is_exclusive(index)
            && self.watched.has(&self.sockets[index])
            && let Err(e) = self.unwatch(index, poll).and_then(|()| self.watch(index, poll))
        {
            log!("watch listener {}: {e}", self.sockets[index].listener);
        }
    }

    fn rest(&mut self, cause: &io::Error, poll: &mio::Poll, now: Time) {
        log!("accept: {cause}; clients wait in the backlog meanwhile");
        self.resting_until = now + REST;
        self.watch_only(Watched { connections: false, ..self.watched }, poll, now);
    }

    /// Closes the sockets: what comes is for others.
    pub fn leave(&mut self, poll: &mio::Poll, now: Time) {
        self.watch_only(Watched::NONE, poll, now);
        self.sockets.clear();
    }
}
