//! The sockets from which a worker itself takes what arrives: connections with `--accept shared` and `reuseport`, datagrams
//! always. They are the master's, inherited.
//!
//! Watched level-triggered, so that one connection is accepted per report. If several workers watch the same socket, the
//! kernel wakes one of them for each client, and that one must accept at once: no other is woken. Having accepted, a worker
//! registers the socket again, which makes it the last in line; otherwise the kernel would always wake the same one.

use crate::ids::ListenerId;
use crate::log::log;
use crate::sys::time::Time;
use crate::sys::{errno, forks, poll, socket};
use mio::Token;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;
use std::{fmt, io};

/// The token of the first socket; each following one's is one less.
const FIRST: usize = usize::MAX - 4;
/// The pause when descriptors or memory have run out, or a call is refused.
const PAUSE: Duration = Duration::from_millis(250);
/// The time without a pause after which the next one is logged again.
const OVER: Duration = Duration::from_secs(1);

/// A socket at which a worker accepts or reads.
#[derive(Debug)]
pub struct OwnSocket {
    /// The socket, shared with the master and perhaps with other workers.
    pub fd: OwnedFd,
    /// Its listener.
    pub listener: ListenerId,
    /// True if no other worker has it.
    pub alone: bool,
    /// True if it has datagrams, and not connections.
    pub datagrams: bool,
    /// True if the poll reports it.
    pub watched: bool,
}

/// The sockets of a worker.
pub struct OwnSockets {
    sockets: Vec<OwnSocket>,
    /// True if the kernel may wake this worker alone for a shared socket.
    exclusive: bool,
    accepting: Attempts,
    reading: Attempts,
}

/// What became of the attempts to take something from the sockets of a kind: after failures that would come again at once, a pause.
#[derive(Default)]
struct Attempts {
    /// The end of the pause; zero if there is none.
    paused_until: Time,
    /// Until then a pause belongs to the last one.
    told_until: Time,
    /// Attempts that have failed since the last one that has not.
    failures: u32,
}

impl Attempts {
    fn is_paused(&self) -> bool {
        self.paused_until > Time::default()
    }

    fn end_pause(&mut self, now: Time) {
        if now >= self.paused_until {
            self.paused_until = Time::default();
        }
    }

    /// Counts a failure that may be over with the next attempt; false if there were too many of them in a row.
    fn may_go_on(&mut self) -> bool {
        let may = self.failures < errno::MOST_IN_A_ROW;
        self.failures += u32::from(may);
        may
    }

    fn pause(&mut self, now: Time) {
        self.paused_until = now + PAUSE;
    }

    /// Pauses, and logs why unless that is known.
    fn pause_for(&mut self, why: fmt::Arguments<'_>, now: Time) {
        if self.told_until <= now {
            log!("{why}");
        }
        self.pause(now);
        self.told_until = self.paused_until + OVER;
    }
}

impl OwnSockets {
    /// Sockets that are not watched yet. A worker that serves `one_at_a_time` may be woken alone for its only socket, but not
    /// for one of several: a connection of the first would keep it from the second, for which no other worker was woken.
    pub fn new(sockets: Vec<OwnSocket>, one_at_a_time: bool) -> Self {
        let exclusive = !one_at_a_time || sockets.len() == 1;
        Self { sockets, exclusive, accepting: Attempts::default(), reading: Attempts::default() }
    }

    /// The indexes of the sockets.
    pub fn indexes(&self) -> std::ops::Range<usize> {
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

    /// True if sockets are not watched for a moment, because descriptors or memory have run out or a call was refused.
    pub fn is_paused(&self) -> bool {
        self.accepting.is_paused() || self.reading.is_paused()
    }

    /// Has the poll report only the sockets with connections, with datagrams, both, or none.
    pub fn watch_only(&mut self, connections: bool, datagrams: bool, poll: &mio::Poll, now: Time) {
        if forks::has_released() {
            // The kernel forgets by itself what the poll knew of them.
            return self.sockets.clear();
        }
        self.accepting.end_pause(now);
        self.reading.end_pause(now);
        let connections = connections && !self.accepting.is_paused();
        let datagrams = datagrams && !self.reading.is_paused();
        for index in self.indexes() {
            let socket = &mut self.sockets[index];
            let wanted = if socket.datagrams { datagrams } else { connections };
            if std::mem::replace(&mut socket.watched, wanted) != wanted {
                self.report(index, if wanted { self.watch(index, poll) } else { self.unwatch(index, poll) });
            }
        }
    }

    fn watch(&self, index: usize, poll: &mio::Poll) -> io::Result<()> {
        let watch = if self.is_exclusive(index) { poll::watch_level_exclusive } else { poll::watch_level };
        watch(poll, self.sockets[index].fd.as_fd(), Token(FIRST - index))
    }

    fn unwatch(&self, index: usize, poll: &mio::Poll) -> io::Result<()> {
        poll::unwatch(poll, self.sockets[index].fd.as_fd())
    }

    fn report(&self, index: usize, result: io::Result<()>) {
        if let Err(e) = result {
            log!("watch listener {}: {e}", self.sockets[index].listener.0);
        }
    }

    fn is_exclusive(&self, index: usize) -> bool {
        self.exclusive && !self.sockets[index].alone
    }

    /// Accepts a connection; returns it with its listener. `None` if there is none, or accepting failed.
    pub fn accept(&mut self, index: usize, poll: &mio::Poll, now: Time) -> Option<(OwnedFd, ListenerId)> {
        let OwnSocket { fd, listener, .. } = &self.sockets[index];
        match socket::accept(fd.as_fd()) {
            Ok(connection) => {
                self.accepting.failures = 0;
                self.requeue(index, poll);
                Some((connection, *listener))
            }
            Err(e) => {
                match e.raw_os_error() {
                    Some(errno::EAGAIN) => {}
                    // The number stands for no socket any more.
                    _ if forks::has_released() => {}
                    Some(code) if errno::OF_ONE_CONNECTION.contains(&code) && self.accepting.may_go_on() => {}
                    // The master has shut the socket: it is about to have this worker drain.
                    Some(errno::EINVAL) => self.accepting.pause(now),
                    _ => {
                        let why = format_args!("accept: {e}; clients wait in the backlog meanwhile");
                        self.accepting.pause_for(why, now);
                    }
                }
                None
            }
        }
    }

    /// Notes how reading datagrams has ended. Most errors are reported once, such as that of an answer for which the client has no
    /// port any more; a refusal by a security module would come again at once, and forever.
    pub fn note_read(&mut self, read: io::Result<()>, now: Time) {
        match read {
            Err(e) if e.kind() != io::ErrorKind::WouldBlock => {
                if !self.reading.may_go_on() {
                    self.reading.pause_for(
                        format_args!("read datagrams: {e}; they wait in the socket meanwhile"),
                        now,
                    );
                }
            }
            _ => self.reading.failures = 0,
        }
    }

    /// Registers a shared socket again, so that the kernel wakes other workers first.
    pub fn requeue(&self, index: usize, poll: &mio::Poll) {
        if self.is_exclusive(index) && self.sockets[index].watched {
            self.report(index, self.unwatch(index, poll).and_then(|()| self.watch(index, poll)));
        }
    }

    /// Closes the sockets. The open files live on in other processes, and so would their registrations in the poll.
    pub fn close(&mut self, poll: &mio::Poll, now: Time) {
        self.watch_only(false, false, poll, now);
        forks::forget();
        self.sockets.clear();
    }
}
