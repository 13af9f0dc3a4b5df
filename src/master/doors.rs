//! Doors: the sockets behind one address, and who accepts at them. One for all, or one per slot (`--accept reuseport`).
//!
//! The master owns them all, so that what waits at one outlives the worker: its successor inherits the same socket. Where
//! workers accept, a door is the master's while no worker is there to do it, and at the end, when backlogs are emptied: nobody
//! waits for a worker that is gone, or for a slot that is no more.

use super::Master;
use crate::config::Accept;
use crate::log::log;
use crate::sys::socket::{Address, bind, local_address};
use crate::sys::{errno, poll};
use crate::worker::Addresses;
use crate::worker::acceptor::Door as WorkerDoor;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// The sockets of one address.
pub struct Doors {
    doors: Vec<Door>,
    per_slot: bool,
    /// The one accepted at last.
    turn: usize,
}

struct Door {
    fd: OwnedFd,
    /// The master accepts here.
    ours: bool,
    /// The master's poll reports it.
    watched: bool,
    /// It has its address. One for datagrams waits for that until somebody is there to read them.
    bound: bool,
}

/// Whom a door is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whose {
    /// Every worker.
    All,
    /// The worker in this slot.
    Slot(usize),
}

impl Doors {
    /// One socket for all.
    pub fn one(fd: OwnedFd) -> Self {
        Self { doors: vec![Door::new(fd, true)], per_slot: false, turn: 0 }
    }

    /// Those that a former program in this process had.
    pub fn resumed(fds: Vec<OwnedFd>, per_slot: bool) -> Self {
        let is_bound =
            |fd: &OwnedFd| !matches!(local_address(fd.as_fd()), Ok(Address::Inet(a)) if a.port() == 0);
        let doors =
            fds.into_iter().map(|fd| (is_bound(&fd), fd)).map(|(bound, fd)| Door::new(fd, bound)).collect();
        Self { doors, per_slot, turn: 0 }
    }

    /// One for each slot, of which there are none yet.
    pub fn per_slot() -> Self {
        Self { doors: Vec::new(), per_slot: true, turn: 0 }
    }

    /// Whether each slot has its own.
    pub fn are_per_slot(&self) -> bool {
        self.per_slot
    }

    /// The sockets.
    pub fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.doors.iter().map(|door| door.fd.as_fd())
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.doors.len()
    }

    /// Adds a door, for the next slot; without an address where it is not `bound`.
    pub fn add(&mut self, fd: OwnedFd, bound: bool) {
        self.doors.push(Door::new(fd, bound));
    }

    /// Binds those that have no address yet and whose slot is attended.
    pub fn bind(&mut self, addr: SocketAddr, attended: impl Fn(usize) -> bool) -> io::Result<()> {
        let unbound = |(slot, door): &(usize, &mut Door)| !door.bound && attended(*slot);
        for (_, door) in self.doors.iter_mut().enumerate().filter(unbound) {
            // Tried once: it does not get better by itself, and others have doors.
            door.bound = true;
            bind(door.fd.as_fd(), addr)?;
        }
        Ok(())
    }

    /// Takes the doors of the slots from `slots` on, those that have an address.
    pub fn split_off(&mut self, slots: usize) -> impl Iterator<Item = OwnedFd> + use<> {
        let doors = self.doors.split_off(slots.min(self.doors.len()));
        doors.into_iter().filter(|door| door.bound).map(|door| door.fd)
    }

    /// In a worker: the door it accepts at. The others are closed.
    pub fn into_door_of(mut self, slot: usize) -> Option<OwnedFd> {
        let door = slot.checked_rem(self.doors.len())?;
        Some(self.doors.swap_remove(door).fd)
    }

    /// Sets at which doors the master accepts. It watches those of them that are not new to it as before.
    pub fn claim(&mut self, poll: &mio::Poll, ours: impl Fn(Whose) -> bool) -> io::Result<()> {
        let mut result = Ok(());
        for (slot, door) in self.doors.iter_mut().enumerate() {
            door.ours = ours(if self.per_slot { Whose::Slot(slot) } else { Whose::All });
            if !door.ours {
                result = result.and(door.unwatch(poll));
            }
        }
        result
    }

    /// Whether the master accepts at any of them.
    pub fn are_ours(&self) -> bool {
        self.doors.iter().any(|door| door.ours)
    }

    /// Whether the poll reports all at which the master accepts, of which there is one at least.
    pub fn are_watched(&self) -> bool {
        self.are_ours() && self.doors.iter().all(|door| door.watched || !door.ours)
    }

    /// Has the poll report all at which the master accepts.
    pub fn watch(&mut self, poll: &mio::Poll, token: mio::Token) -> io::Result<()> {
        for door in self.doors.iter_mut().filter(|door| door.ours && !door.watched) {
            poll::watch_level(poll, door.fd.as_fd(), token)?;
            door.watched = true;
        }
        Ok(())
    }

    /// Has the poll report none.
    pub fn unwatch(&mut self, poll: &mio::Poll) -> io::Result<()> {
        self.doors.iter_mut().map(|door| door.unwatch(poll)).fold(Ok(()), Result::and)
    }

    /// Accepts where it is the master's to do, at the next door that has somebody.
    ///
    /// # Errors
    /// `EAGAIN` where nobody waits at any; what `accept` says.
    pub fn accept<T>(&mut self, accept: impl Fn(BorrowedFd<'_>) -> io::Result<T>) -> io::Result<T> {
        for _ in 0..self.doors.len() {
            self.turn = if self.turn + 1 < self.doors.len() { self.turn + 1 } else { 0 };
            let door = &self.doors[self.turn];
            if !door.ours {
                continue;
            }
            match accept(door.fd.as_fd()) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                done => return done,
            }
        }
        Err(io::Error::from_raw_os_error(errno::EAGAIN))
    }
}

impl Door {
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

impl Master {
    /// Takes over the doors that no worker is there to attend, and leaves the others to the workers.
    pub(super) fn mind_doors(&mut self) {
        let ours = self.config.accept == Accept::Master || self.lifecycle.is_stopping();
        let (crew, slots) = (&self.crew, self.lifecycle.slots().len());
        for listener in &mut self.listeners {
            if listener.takes_datagrams() {
                listener.settle(slots, |slot| crew.is_attended(slot));
                continue;
            }
            listener.claim(&self.poll, |whose| match whose {
                Whose::All => ours,
                Whose::Slot(slot) => ours || !crew.is_attended(slot),
            });
        }
    }

    /// Makes the doors that a new worker needs and that are not there yet.
    pub(super) fn make_doors(&mut self) {
        let slots = self.lifecycle.slots().len();
        for listener in &mut self.listeners {
            if let Err(e) = listener.make_doors(slots, &self.config, false) {
                log!("{e}; a worker without a door of its own uses another's");
            }
        }
    }

    /// The first workers are all ready: they may accept now.
    pub(super) fn open_doors(&mut self) {
        self.board.common().allow_intake();
        if self.listeners.iter().any(|l| l.is_for_workers(self.config.accept)) {
            // Wakes them, so that they look.
            for worker in self.crew.iter() {
                worker.giver.probe();
            }
        }
    }

    /// The first address for connections, and the first for datagrams: for the worker to say what its handler cannot serve.
    pub(super) fn addresses_by_kind(&self) -> Addresses {
        let first = |datagrams| self.listeners.iter().find(|l| l.takes_datagrams() == datagrams);
        Addresses {
            connections: first(false).map(ToString::to_string),
            datagrams: first(true).map(ToString::to_string),
        }
    }

    /// In a worker: its doors. All others are closed.
    pub(super) fn doors_of(&mut self, slot: usize) -> Vec<WorkerDoor> {
        let accept = self.config.accept;
        let listeners = std::mem::take(&mut self.listeners).into_iter().enumerate();
        listeners.filter_map(|(index, listener)| listener.into_door_of(slot, index as u16, accept)).collect()
    }
}
