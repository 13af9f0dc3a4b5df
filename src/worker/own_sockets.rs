//! The sockets from which a worker itself takes what arrives: connections with `--accept shared` and `reuseport`, datagrams
//! always. They are the master's, inherited.
//!
//! Watched level-triggered, so that one connection is accepted per report. If several workers watch the same socket, the
//! kernel wakes one of them for each client, and that one must accept at once: no other is woken. Having accepted, a worker
//! registers the socket again, which makes it the last in line; otherwise the kernel would always wake the same one.
//!
//! A worker that would have to close an idle connection leaves what comes at a shared socket to the others for a moment. It is
//! woken beside the one of them that the kernel chooses, and looks again when they have had time.

use crate::ids::ListenerId;
use crate::log::log;
use crate::sys::time::Time;
use crate::sys::{errno, forks, poll, socket};
use mio::Token;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;
use std::{fmt, io};

/// The token of the first socket; each following one's is one less.
const FIRST: usize = usize::MAX - 6;
/// The pause when descriptors or memory have run out, or a call is refused.
const PAUSE: Duration = Duration::from_millis(250);
/// The time in which other workers may take what comes at a shared socket before one does that has to close a connection for it.
const OTHERS_FIRST: Duration = Duration::from_millis(100);
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
    /// How the poll reports it; `None` if it does not.
    pub watched: Option<Watch>,
}

/// How the poll of a worker reports a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Watch {
    /// Each time that something is there.
    Always,
    /// If it is this worker's turn.
    InTurn,
}

/// The connections that a worker accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accepts {
    /// None: it has no room.
    Nothing,
    /// Those that no other worker takes: it has to close an idle connection for each.
    Leftovers,
    /// Any.
    All,
}

/// The sockets of a worker.
pub struct OwnSockets {
    sockets: Vec<OwnSocket>,
    /// True if the kernel may wake this worker alone for a shared socket.
    exclusive: bool,
    accepting: Attempts,
    reading: Attempts,
    /// When to look whether others have left something at the shared sockets, which are not watched until then; never if they are.
    look_at: Time,
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
            log!(Warn, "{why}");
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
        let (accepting, reading) = (Attempts::default(), Attempts::default());
        Self { sockets, exclusive, accepting, reading, look_at: Time::NEVER }
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

    /// Has the poll report only the sockets with such connections, and those with datagrams if that is set.
    pub fn watch_only(&mut self, accepts: Accepts, datagrams: bool, poll: &mio::Poll, now: Time) {
        if forks::has_released() {
            // The kernel forgets by itself what the poll knew of them.
            return self.sockets.clear();
        }
        self.accepting.end_pause(now);
        self.reading.end_pause(now);
        let accepts = if self.accepting.is_paused() { Accepts::Nothing } else { accepts };
        let datagrams = datagrams && !self.reading.is_paused();
        if accepts == Accepts::All {
            self.look_at = Time::NEVER;
        }
        for index in self.indexes() {
            let is_exclusive = self.is_exclusive(index);
            let usual = if is_exclusive { Watch::InTurn } else { Watch::Always };
            let wanted = match accepts {
                _ if self.sockets[index].datagrams => datagrams.then_some(usual),
                Accepts::Nothing => None,
                Accepts::Leftovers if is_exclusive => (self.look_at == Time::NEVER).then_some(Watch::Always),
                Accepts::Leftovers | Accepts::All => Some(usual),
            };
            if self.sockets[index].watched != wanted {
                self.rewatch(index, wanted, poll);
            }
        }
    }

    fn rewatch(&mut self, index: usize, wanted: Option<Watch>, poll: &mio::Poll) {
        let OwnSocket { fd, listener, watched, .. } = &mut self.sockets[index];
        let former = std::mem::replace(watched, wanted);
        let unwatched = if former.is_some() { poll::unwatch(poll, fd.as_fd()) } else { Ok(()) };
        let watch = match wanted {
            Some(Watch::Always) => poll::watch_level,
            Some(Watch::InTurn) => poll::watch_level_exclusive,
            None => |_: &_, _: BorrowedFd<'_>, _| Ok(()),
        };
        if let Err(e) = unwatched.and_then(|()| watch(poll, fd.as_fd(), Token(FIRST - index))) {
            log!(Error, "watch listener {}: {e}", listener.0);
        }
    }

    /// Leaves what the poll has reported to other workers for a moment, if they come first; false if this worker is to take it.
    pub fn defer(&mut self, index: usize, now: Time) -> bool {
        let defers = self.is_exclusive(index) && self.sockets[index].watched == Some(Watch::Always);
        if defers {
            self.look_at = now + OTHERS_FIRST;
        }
        defers
    }

    /// True if the kernel wakes no other worker for what it has reported here.
    pub fn is_woken_alone(&self, index: usize) -> bool {
        self.sockets[index].watched == Some(Watch::InTurn)
    }

    /// When to look whether others have left something.
    pub fn look_at(&self) -> Time {
        self.look_at
    }

    /// Sets when to look again; if never, the poll reports what comes.
    pub fn look_again(&mut self, at: Time) {
        self.look_at = at;
    }

    /// True if others take from this socket too.
    pub fn is_shared(&self, index: usize) -> bool {
        !self.sockets[index].alone && !self.sockets[index].datagrams
    }

    fn is_exclusive(&self, index: usize) -> bool {
        self.exclusive && !self.sockets[index].alone
    }

    /// Accepts a connection; returns it with its listener. `None` if there is none, or accepting failed.
    pub fn accept(&mut self, index: usize, poll: &mio::Poll, now: Time) -> Option<(OwnedFd, ListenerId)> {
        let OwnSocket { fd, listener, .. } = &self.sockets[index];
        let listener = *listener;
        match socket::accept(fd.as_fd()) {
            Ok(connection) => {
                self.accepting.failures = 0;
                self.requeue(index, poll);
                Some((connection, listener))
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
    pub fn requeue(&mut self, index: usize, poll: &mio::Poll) {
        if self.is_woken_alone(index) {
            self.rewatch(index, Some(Watch::InTurn), poll);
        }
    }

    /// Closes the sockets. The open files live on in other processes, and so would their registrations in the poll.
    pub fn close(&mut self, poll: &mio::Poll, now: Time) {
        self.watch_only(Accepts::Nothing, false, poll, now);
        forks::forget();
        self.sockets.clear();
    }
}
