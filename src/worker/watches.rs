//! The descriptors that a worker's handler has watched, in an epoll instance of their own (epoll(7)), which the worker's poll
//! watches.
//!
//! They are the handler's, which may close them at any time. The kernel then forgets the registration; but if the open file lives
//! on in a duplicate, it goes on reporting it, and nobody can remove it, as it goes by the number and the file. So each registration
//! has a serial number, and before a callback the kernel is asked if the number still stands for the same file. When one is
//! found that cannot be removed, the instance is replaced by a new one.

use crate::sys::poll::{self, Interest};
use mio::{Events, Poll, Token};
use std::collections::BTreeMap;
use std::io;
use std::os::fd::RawFd;
use std::time::Duration;

/// Events that are read in one turn before connections have theirs.
const EVENTS: usize = 64;

/// Watched descriptors; `C` is what is called of each.
pub struct Watches<C> {
    /// `None` until the first is watched.
    poll: Option<Poll>,
    /// True if the worker's poll does not watch this one yet.
    is_new: bool,
    events: Option<Events>,
    /// Descriptors that are ready, the last one first.
    reports: Vec<Report>,
    /// The serial number of each descriptor's watch.
    serials: BTreeMap<RawFd, usize>,
    watches: BTreeMap<usize, Watch<C>>,
    last: usize,
    is_over: bool,
}

struct Watch<C> {
    fd: RawFd,
    interest: Interest,
    /// `None` while it is being called.
    call: Option<C>,
}

/// A descriptor that is ready.
struct Report {
    serial: usize,
    ready: Interest,
}

/// A watch whose descriptor was ready.
pub enum Next<C> {
    /// It is to be called.
    Call(Call<C>),
    /// Its descriptor is closed. What it would have called.
    Closed(Option<C>),
}

/// What is to be called.
pub struct Call<C> {
    /// The number of the watch.
    pub serial: usize,
    /// The descriptor.
    pub fd: RawFd,
    /// What it is ready for.
    pub ready: Interest,
    /// The function.
    pub call: C,
}

impl<C> Default for Watches<C> {
    fn default() -> Self {
        Self {
            poll: None,
            is_new: false,
            events: None,
            reports: Vec::new(),
            serials: BTreeMap::new(),
            watches: BTreeMap::new(),
            last: 0,
            is_over: false,
        }
    }
}

impl<C> Watches<C> {
    /// Watches a descriptor, or changes what it is watched for and what is called. Returns what would have been called until now.
    ///
    /// # Errors
    /// Those of epoll_create1(2) and epoll_ctl(2); then nothing has changed.
    pub fn add(&mut self, fd: RawFd, interest: Interest, call: C) -> io::Result<Option<C>> {
        if self.poll.is_none() {
            self.poll = Some(Poll::new()?);
            self.is_new = true;
        }
        let Some(poll) = &self.poll else { return Ok(None) };
        let (serial, before) = (self.last + 1, self.serials.get(&fd).copied());
        // The number may stand for another file than when it was watched first, and for one that an older watch left behind.
        let (first, unless, second) = match before {
            Some(_) => (poll::Change::Modify, io::ErrorKind::NotFound, poll::Change::Add),
            None => (poll::Change::Add, io::ErrorKind::AlreadyExists, poll::Change::Modify),
        };
        match poll::change(poll, first, fd, Token(serial), interest) {
            Err(e) if e.kind() == unless => poll::change(poll, second, fd, Token(serial), interest)?,
            done => done?,
        }
        self.last = serial;
        self.serials.insert(fd, serial);
        self.watches.insert(serial, Watch { fd, interest, call: Some(call) });
        Ok(before.and_then(|before| self.watches.remove(&before)).and_then(|watch| watch.call))
    }

    /// Stops watching a descriptor, closed or not. Returns `None` if it is not watched, else what would have been called, which is
    /// `None` while it is being called.
    pub fn remove(&mut self, fd: RawFd) -> Option<Option<C>> {
        let serial = self.serials.remove(&fd)?;
        if let Some(poll) = &self.poll {
            // Fails if the handler has closed it.
            let _ = poll::change(poll, poll::Change::Remove, fd, Token(0), Interest::READ);
        }
        self.watches.remove(&serial).map(|watch| watch.call)
    }

    /// Has the worker's poll watch this one, if it does not yet.
    ///
    /// # Errors
    /// Those of epoll_ctl(2).
    pub fn attach(&mut self, outer: &Poll, token: Token) -> io::Result<()> {
        if let Some(poll) = self.poll.as_ref().filter(|_| self.is_new) {
            poll::watch_level(outer, poll::descriptor(poll), token)?;
            self.is_new = false;
        }
        Ok(())
    }

    /// Asks the kernel which descriptors are ready, as many as one turn allows; [`Watches::next`] takes them.
    pub fn look(&mut self, outer: &Poll, token: Token) {
        let Some(poll) = &mut self.poll else { return };
        let events = self.events.get_or_insert_with(|| Events::with_capacity(EVENTS));
        if poll.poll(events, Some(Duration::ZERO)).is_err() {
            return;
        }
        let mut is_stale = false;
        for event in &*events {
            let serial = event.token().0;
            let Some(Watch { interest, .. }) = self.watches.get(&serial) else {
                is_stale = true;
                continue;
            };
            let is_broken = event.is_error() || event.is_read_closed() && event.is_write_closed();
            let ready = Interest {
                read: interest.read && (event.is_readable() || is_broken),
                write: interest.write && (event.is_writable() || is_broken),
            };
            self.reports.push(Report { serial, ready });
        }
        self.reports.reverse();
        if is_stale {
            // Without a descriptor for it, the next turn tries again.
            let _ = self.renew(outer, token);
        }
    }

    /// Takes the next one that was ready, unless it has been removed or changed since.
    pub fn next(&mut self) -> Option<Next<C>> {
        let poll = self.poll.as_ref()?;
        loop {
            let Report { serial, ready } = self.reports.pop()?;
            let Some(watch) = self.watches.get_mut(&serial) else { continue };
            let fd = watch.fd;
            if poll::change(poll, poll::Change::Modify, fd, Token(serial), watch.interest).is_err() {
                self.serials.remove(&fd);
                return self.watches.remove(&serial).map(|watch| Next::Closed(watch.call));
            }
            if let Some(call) = watch.call.take() {
                return Some(Next::Call(Call { serial, fd, ready, call }));
            }
        }
    }

    /// Gives a watch back what it calls; returns it if that was removed or changed meanwhile.
    pub fn put_back(&mut self, serial: usize, call: C) -> Option<C> {
        match self.watches.get_mut(&serial) {
            Some(watch) => watch.call.replace(call),
            None => Some(call),
        }
    }

    /// Removes the watch of this number, which is being called.
    pub fn drop_running(&mut self, serial: usize) {
        if let Some(fd) = self.watches.get(&serial).map(|watch| watch.fd) {
            self.remove(fd);
        }
    }

    /// Stops watching all. Returns what would have been called.
    pub fn end(&mut self) -> Vec<C> {
        self.is_over = true;
        self.poll = None;
        self.reports.clear();
        self.serials.clear();
        std::mem::take(&mut self.watches).into_values().filter_map(|watch| watch.call).collect()
    }

    /// True if nothing is watched.
    pub fn is_empty(&self) -> bool {
        self.watches.is_empty()
    }

    /// True after [`Watches::end`].
    pub fn is_over(&self) -> bool {
        self.is_over
    }

    /// Makes a new instance of those that are still the same files.
    fn renew(&mut self, outer: &Poll, token: Token) -> io::Result<()> {
        let new = Poll::new()?;
        let Some(old) = &self.poll else { return Ok(()) };
        for (serial, Watch { fd, interest, .. }) in &self.watches {
            let is_same = poll::change(old, poll::Change::Modify, *fd, Token(*serial), *interest).is_ok();
            if is_same {
                poll::change(&new, poll::Change::Add, *fd, Token(*serial), *interest)?;
            }
        }
        // A process that the handler has forked may have the old one too, so that it lives on.
        let _ = poll::unwatch(outer, poll::descriptor(old));
        (self.poll, self.is_new) = (Some(new), true);
        self.attach(outer, token)
    }
}
