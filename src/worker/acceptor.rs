//! The acceptor: the sockets of the master's at which a worker takes what comes itself: connections with `--accept shared` and
//! `reuseport`, datagrams always.
//!
//! Watched level-triggered, so that one connection is taken per report. Where all workers watch the same socket the kernel wakes
//! one of them for each client, and that one must look at once: nobody else is told. Having accepted, a worker goes to the back
//! of the line, or else the same one would be woken each time it is free.

use crate::log::log;
use crate::sys::{errno, poll, socket};
use mio::Token;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

/// The token of the first door; each following one's is one less.
const FIRST: usize = usize::MAX - 4;
/// How long accepting rests when descriptors or memory ran out (milliseconds).
const EXHAUSTED_REST: u64 = 250;

/// A socket at which a worker accepts.
#[derive(Debug)]
pub struct Door {
    /// The socket, shared with the master and perhaps with other workers.
    pub fd: OwnedFd,
    /// The index of its listener.
    pub listener: u16,
    /// Whether it is this worker's alone.
    pub alone: bool,
    /// Whether it has datagrams, and not connections.
    pub datagrams: bool,
}

/// The doors of a worker.
pub struct Acceptor {
    doors: Vec<Door>,
    /// Whether the kernel may wake this worker alone for what comes to a shared door.
    exclusive: bool,
    open: Open,
    rest_until: u64,
}

/// Which doors the poll reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Open {
    /// Those with connections.
    pub connections: bool,
    /// Those with datagrams.
    pub datagrams: bool,
}

impl Open {
    const NONE: Self = Self { connections: false, datagrams: false };

    fn has(self, door: &Door) -> bool {
        if door.datagrams { self.datagrams } else { self.connections }
    }
}

impl Acceptor {
    /// Doors that are not watched yet. A worker that takes `one_at_a_time` may be woken alone for one door, but not for one of
    /// several: what it finds at the first would keep it from the second, which nobody else was told of.
    pub fn new(doors: Vec<Door>, one_at_a_time: bool) -> Self {
        let exclusive = !one_at_a_time || doors.len() == 1;
        Self { doors, exclusive, open: Open::NONE, rest_until: 0 }
    }

    /// The doors' indexes.
    pub fn doors(&self) -> std::ops::Range<usize> {
        0..self.doors.len()
    }

    /// A door by its index, where it has datagrams.
    pub fn datagrams(&self, door: usize) -> Option<&Door> {
        self.doors.get(door).filter(|door| door.datagrams)
    }

    /// The door a token stands for.
    pub fn find(&self, token: Token) -> Option<usize> {
        FIRST.checked_sub(token.0).filter(|door| *door < self.doors.len())
    }

    /// Whether accepting rests for want of descriptors or memory.
    pub fn rests(&self) -> bool {
        self.rest_until > 0
    }

    /// Sets which doors the poll reports.
    pub fn set_open(&mut self, mut open: Open, poll: &mio::Poll, now: u64) {
        if now >= self.rest_until {
            self.rest_until = 0;
        }
        open.connections &= self.rest_until == 0;
        if open == self.open {
            return;
        }
        let before = std::mem::replace(&mut self.open, open);
        for (index, door) in self.doors.iter().enumerate() {
            let done = match (before.has(door), open.has(door)) {
                (false, true) => self.watch(index, poll),
                (true, false) => self.unwatch(index, poll),
                _ => Ok(()),
            };
            if let Err(e) = done {
                log!("watch listener {}: {e}", door.listener);
            }
        }
    }

    fn watch(&self, door: usize, poll: &mio::Poll) -> io::Result<()> {
        let (fd, token) = (self.doors[door].fd.as_fd(), Token(FIRST - door));
        if self.is_exclusive(door) {
            poll::watch_level_exclusive(poll, fd, token)
        } else {
            poll::watch_level(poll, fd, token)
        }
    }

    fn unwatch(&self, door: usize, poll: &mio::Poll) -> io::Result<()> {
        poll::unwatch(poll, self.doors[door].fd.as_fd())
    }

    fn is_exclusive(&self, door: usize) -> bool {
        self.exclusive && !self.doors[door].alone
    }

    /// Accepts a connection, and says through which listener. `None` where there is none, or it failed.
    pub fn accept(&mut self, door: usize, poll: &mio::Poll, now: u64) -> Option<(OwnedFd, u16)> {
        let at = &self.doors[door];
        match socket::accept(at.fd.as_fd()) {
            Ok(fd) => {
                let listener = at.listener;
                self.step_back(door, poll);
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

    /// Goes to the back of the line of those that wait at a shared door.
    pub fn step_back(&self, door: usize, poll: &mio::Poll) {
        if self.is_exclusive(door)
            && self.open.has(&self.doors[door])
            && let Err(e) = self.unwatch(door, poll).and_then(|()| self.watch(door, poll))
        {
            log!("watch listener {}: {e}", self.doors[door].listener);
        }
    }

    fn rest(&mut self, cause: &io::Error, poll: &mio::Poll, now: u64) {
        log!("accept: {cause}; clients wait in the backlog meanwhile");
        self.rest_until = now + EXHAUSTED_REST;
        self.set_open(Open { connections: false, ..self.open }, poll, now);
    }

    /// Lets go of the doors: what comes is for others.
    pub fn leave(&mut self, poll: &mio::Poll, now: u64) {
        self.set_open(Open::NONE, poll, now);
        self.doors.clear();
    }
}
