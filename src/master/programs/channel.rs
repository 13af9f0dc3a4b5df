//! The channel to a Node worker, with the connections on their way through it: the master's end of a stream socket.
//!
//! The master keeps a copy of each connection until the worker has accepted it. One that it does not accept goes to another worker, and so do
//! those of a worker that dies. What a worker has not read lies in the receive queue of its end, of which the master has a copy, and is
//! taken back from there: the kernel gives each message to one reader, whole.
//!
//! Each line is sent by one call, so that it is in the queue whole or not at all. The master writes the counters of the worker's page.

use super::wire::{self, Query, Said, Unread};
use crate::handoff::{Given, Message, Origin, Passed, Taken};
use crate::ids::ListenerId;
use crate::master::pool::Unplaced;
use crate::scoreboard::{Word, WorkerPage};
use crate::sys::time::Time;
use crate::sys::{errno, fdpass};
use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// The connections that may be on their way to a worker: more than it accepts in a turn of its loop.
pub const WINDOW: u32 = 16;
/// The bytes that are read at a time.
const READ: usize = 64 * 1024;
/// The bytes that are read of a worker in a turn of the master's loop.
const READ_IN_A_TURN: usize = 4 * READ;
/// The bytes that wait for a worker that does not read.
const OUTBOX: usize = 256 * 1024;

/// Why a worker is replaced for which too much waits.
pub const UNREAD: &str = "it does not read its channel";

/// What a worker has said that is for others than the channel.
#[derive(Debug)]
pub enum Event {
    /// It runs.
    Online,
    /// It asks for a listener.
    Query(Query),
    /// It listens.
    Listening,
    /// It has closed a listener.
    Close(ListenerId),
    /// It is about to end.
    Leaves,
    /// It has no room for a connection of this listener, or does not serve that any more.
    Refused(ListenerId),
    /// A message of the program, as JSON.
    Message(String),
    /// It gets no more connections, and has closed its end.
    Closed,
    /// It has said something that is not understood, or too much.
    Broken(String),
}

/// The channel. Its owner is the pool, which gives connections; the master reads it.
pub struct NodeChannel(RefCell<Channel>);

struct Channel {
    ours: OwnedFd,
    /// A copy of the worker's end, to take back what it does not read; `None` once it gets no more: then its end is seen.
    theirs: Option<OwnedFd>,
    /// True if the worker gets no more connections.
    is_leaving: bool,
    page: WorkerPage,
    /// What the worker has not answered, in the order of sending.
    sent: VecDeque<Sent>,
    /// What it does not accept.
    refused: VecDeque<(Passed, Origin)>,
    last_seq: u64,
    /// What has come and is not read: from `read` on. There is no line end before `searched`.
    inbox: Vec<u8>,
    read: usize,
    searched: usize,
    /// Lines that the socket has not taken.
    outbox: VecDeque<Vec<u8>>,
    /// Lines that were taken back with connections, and are to be sent again.
    again: Vec<u8>,
    /// Probes that were taken back.
    probes_back: u32,
    /// The worker was reaped, or its channel is of no use any more.
    ended: bool,
    /// True if it has accepted a connection since that was asked last.
    has_accepted: bool,
}

struct Sent {
    seq: u64,
    /// `None` for a probe.
    connection: Option<(Passed, Origin)>,
    /// True if the worker has the descriptor.
    received: bool,
}

impl NodeChannel {
    /// The channel to a worker with this page, which has the other end.
    pub fn new(ours: OwnedFd, theirs: OwnedFd, page: WorkerPage) -> Self {
        Self(RefCell::new(Channel {
            ours,
            theirs: Some(theirs),
            is_leaving: false,
            page,
            sent: VecDeque::with_capacity(WINDOW as usize + 1),
            refused: VecDeque::new(),
            last_seq: 0,
            inbox: Vec::new(),
            read: 0,
            searched: 0,
            outbox: VecDeque::new(),
            again: Vec::new(),
            probes_back: 0,
            ended: false,
            has_accepted: false,
        }))
    }

    /// Calls `f` with the master's end.
    pub fn with_descriptor<T>(&self, f: impl FnOnce(BorrowedFd<'_>) -> T) -> T {
        f(self.0.borrow().ours.as_fd())
    }

    /// As [`crate::master::pool::Queue::give`].
    pub fn give(&self, connections: &[Unplaced<Passed>]) -> io::Result<Given> {
        self.0.borrow_mut().give(connections)
    }

    /// Takes back the oldest connection that the worker has not read, or if it has ended, has not answered.
    pub fn reclaim(&self) -> io::Result<Taken> {
        self.0.borrow_mut().reclaim()
    }

    /// The connections that the worker has not answered.
    pub fn waiting(&self) -> u64 {
        self.0.borrow().sent.iter().filter(|sent| sent.connection.is_some()).count() as u64
    }

    /// Takes a connection that the worker did not accept.
    pub fn take_refused(&self) -> Taken {
        let mut channel = self.0.borrow_mut();
        match channel.refused.pop_front() {
            Some(refused) => Taken::Connections(Message::new(std::iter::once(refused), 0)),
            None if channel.ended => Taken::End,
            None => Taken::Nothing,
        }
    }

    /// True if there are connections that the worker did not accept.
    pub fn has_refused(&self) -> bool {
        !self.0.borrow().refused.is_empty()
    }

    /// True if the worker has accepted a connection since this was asked last.
    pub fn has_accepted(&self) -> bool {
        std::mem::take(&mut self.0.borrow_mut().has_accepted)
    }

    /// Sends a probe; false if that is not possible now.
    pub fn probe(&self) -> bool {
        let mut channel = self.0.borrow_mut();
        if channel.has_probe() || !channel.can_send() || !channel.send_now(wire::probe().bytes(), None) {
            return false;
        }
        channel.note_sent(0, None);
        true
    }

    /// Sends a line, or keeps it until there is room. False if the worker does not read what it is sent.
    pub fn send(&self, line: &[u8]) -> bool {
        self.0.borrow_mut().send(line)
    }

    /// True if lines wait for room.
    pub fn has_unsent(&self) -> bool {
        !self.0.borrow().outbox.is_empty()
    }

    /// Sends what waits for room.
    pub fn flush(&self) {
        self.0.borrow_mut().flush();
    }

    /// Reads what has come, up to a bound. A line may have `longest` bytes.
    pub fn fill(&self, longest: usize) -> Result<(), Event> {
        self.0.borrow_mut().fill(longest, READ_IN_A_TURN)
    }

    /// The next thing that the worker has said and that is not for the channel.
    pub fn next(&self) -> Option<Event> {
        self.0.borrow_mut().next()
    }

    /// The worker gets no more connections. What it does not read is taken back once more.
    pub fn finish(&self) {
        self.0.borrow_mut().is_leaving = true;
    }

    /// The worker was reaped: what it has not answered is to be taken back. Reads its last answers first.
    pub fn end(&self) {
        let mut channel = self.0.borrow_mut();
        let _ = channel.fill(READ, 16 * READ_IN_A_TURN);
        while channel.next().is_some() {}
        channel.ended = true;
    }
}

impl Channel {
    fn can_send(&self) -> bool {
        self.outbox.is_empty() && self.again.is_empty() && !self.ended
    }

    fn has_probe(&self) -> bool {
        self.sent.iter().any(|sent| sent.connection.is_none())
    }

    fn give(&mut self, connections: &[Unplaced<Passed>]) -> io::Result<Given> {
        if !self.can_send() || self.has_probe() {
            return Ok(Given::Full);
        }
        for (at, unplaced) in connections.iter().enumerate() {
            let Unplaced { connection: Passed { fd, state: None }, origin, .. } = unplaced else {
                return Err(io::Error::other("a stream with a state, for a program"));
            };
            let seq = self.last_seq + 1;
            let line = wire::connection(origin.listener, seq);
            // The copy first: what the worker has got must not be lost with it.
            let sent = match fd.try_clone() {
                Ok(copy) => {
                    fdpass::send(self.ours.as_fd(), line.bytes(), std::iter::once(fd.as_fd())).map(|()| copy)
                }
                Err(e) => Err(e),
            };
            match sent {
                Ok(copy) => {
                    self.last_seq = seq;
                    self.note_sent(seq, Some((copy.into(), *origin)));
                }
                // All or none: the others follow by the way of those that are not accepted.
                Err(_) if at > 0 => {
                    let rest = connections[at..].iter().filter_map(|unplaced| {
                        Some((unplaced.connection.fd.try_clone().ok()?.into(), unplaced.origin))
                    });
                    let rest: Vec<_> = rest.collect();
                    self.count_taken(rest.len() as u64);
                    self.refused.extend(rest);
                    return Ok(Given::Done);
                }
                Err(e) => {
                    return match e.raw_os_error() {
                        Some(errno::EPIPE | errno::ECONNRESET) => Ok(Given::Gone),
                        Some(
                            errno::EAGAIN
                            | errno::ENOBUFS
                            | errno::ENOMEM
                            | errno::ETOOMANYREFS
                            | errno::EMFILE,
                        ) => Ok(Given::Full),
                        _ => Err(e),
                    };
                }
            }
        }
        Ok(Given::Done)
    }

    fn note_sent(&mut self, seq: u64, connection: Option<(Passed, Origin)>) {
        if self.sent.is_empty() && self.page.get(Word::BusySince) == 0 {
            self.page.set(Word::BusySince, Time::last_tick().as_millis());
        }
        self.sent.push_back(Sent { seq, connection, received: false });
    }

    /// Notes that the worker has answered something: it runs.
    fn note_answer(&mut self) {
        let since = if self.sent.is_empty() { 0 } else { Time::last_tick().as_millis() };
        self.page.set(Word::BusySince, since);
    }

    /// Counts connections that the worker has no longer on its way: it has accepted or refused them.
    fn count_taken(&self, n: u64) {
        self.page.add(Word::Taken, n);
        self.page.add(Word::Finished, n);
    }

    /// Sends a line with one call; false if there is no room.
    fn send_now(&self, line: &[u8], fd: Option<BorrowedFd<'_>>) -> bool {
        fdpass::send(self.ours.as_fd(), line, fd.into_iter()).is_ok()
    }

    fn send(&mut self, line: &[u8]) -> bool {
        if self.ended || self.can_send() && self.send_now(line, None) {
            return true;
        }
        self.outbox.push_back(line.to_owned());
        self.outbox.iter().map(Vec::len).sum::<usize>() <= OUTBOX
    }

    fn flush(&mut self) {
        if !self.again.is_empty() {
            self.outbox.push_front(std::mem::take(&mut self.again));
        }
        while let Some(line) = self.outbox.front() {
            if !self.send_now(line, None) {
                return;
            }
            self.outbox.pop_front();
        }
    }

    fn reclaim(&mut self) -> io::Result<Taken> {
        if self.ended {
            while let Some(sent) = self.sent.pop_front() {
                if let Some(connection) = sent.connection {
                    return Ok(Taken::Connections(Message::new(std::iter::once(connection), 0)));
                }
            }
            return Ok(Taken::End);
        }
        loop {
            if self.probes_back > 0 {
                self.probes_back -= 1;
                return Ok(Taken::Probe);
            }
            let Some(theirs) = &self.theirs else { return Ok(Taken::Nothing) };
            let mut chunk = vec![0; READ];
            let got = match fdpass::recv(theirs.as_fd(), &mut chunk) {
                Ok(got) if got.len > 0 => got,
                Err(e) if e.kind() != io::ErrorKind::WouldBlock => return Err(e),
                _ => {
                    self.flush();
                    if self.is_leaving {
                        self.theirs = None;
                    }
                    if self.sent.is_empty() {
                        self.page.set(Word::BusySince, 0);
                    }
                    return Ok(Taken::Nothing);
                }
            };
            // A message with a descriptor is the last one that a call returns, and has one line.
            let mut connection = None;
            for line in chunk[..got.len].split_inclusive(|byte| *byte == b'\n') {
                match wire::own(line.strip_suffix(b"\n").unwrap_or(line)) {
                    Unread::Connection(seq) => {
                        let at =
                            self.sent.iter().position(|sent| sent.seq == seq && sent.connection.is_some());
                        connection = at.and_then(|at| self.sent.remove(at)?.connection);
                    }
                    Unread::Probe => {
                        let at = self.sent.iter().position(|sent| sent.connection.is_none());
                        at.and_then(|at| self.sent.remove(at));
                        self.probes_back += 1;
                    }
                    Unread::Other => self.again.extend_from_slice(line),
                }
            }
            if let Some(connection) = connection {
                return Ok(Taken::Connections(Message::new(std::iter::once(connection), 0)));
            }
        }
    }

    fn fill(&mut self, longest: usize, most: usize) -> Result<(), Event> {
        if self.read > 0 {
            self.inbox.drain(..self.read);
            self.searched -= self.read;
            self.read = 0;
        }
        let mut left = most;
        while left > 0 {
            let start = self.inbox.len();
            self.inbox.resize(start + READ, 0);
            let got = fdpass::recv(self.ours.as_fd(), &mut self.inbox[start..]);
            let len = got.as_ref().map_or(0, |got| got.len);
            self.inbox.truncate(start + len);
            match got {
                Ok(got) if got.fds.iter().flatten().count() > 0 || got.lost => {
                    return Err(Event::Broken("a descriptor, which nobody asked for".into()));
                }
                Ok(got) if got.len == 0 => return Err(Event::Closed),
                Ok(got) => left = left.saturating_sub(got.len),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                Err(e) if e.kind() == io::ErrorKind::ConnectionReset => return Err(Event::Closed),
                Err(e) => return Err(Event::Broken(e.to_string())),
            }
            // A line that is too long is refused as soon as that is known.
            let has_end = self.inbox[self.searched..].contains(&b'\n');
            if !has_end {
                self.searched = self.inbox.len();
                if self.inbox.len() > longest {
                    (self.inbox, self.searched) = (Vec::new(), 0);
                    return Err(Event::Broken(format!(
                        "a line of more than {longest} bytes (--max-message)"
                    )));
                }
            }
        }
        Ok(())
    }

    fn next(&mut self) -> Option<Event> {
        loop {
            let Some(end) = self.inbox[self.searched..].iter().position(|byte| *byte == b'\n') else {
                self.searched = self.inbox.len();
                if self.read == self.inbox.len() && self.inbox.capacity() > 2 * READ {
                    // One long line is no reason to keep so much memory.
                    self.inbox = Vec::new();
                    (self.read, self.searched) = (0, 0);
                }
                return None;
            };
            let line = self.read..self.searched + end;
            self.read = line.end + 1;
            self.searched = self.read;
            // The line stays where it is; what is said in it goes on as it is.
            let inbox = std::mem::take(&mut self.inbox);
            let event = match wire::read(&inbox[line]) {
                Ok(said) => self.act_on(said),
                Err(what) => Some(Event::Broken(format!("it wrote {what} to its channel"))),
            };
            self.inbox = inbox;
            if event.is_some() {
                return event;
            }
        }
    }

    fn act_on(&mut self, said: Said<'_>) -> Option<Event> {
        let event = match said {
            Said::HandleTaken => {
                self.sent
                    .iter_mut()
                    .find(|sent| !sent.received)
                    .into_iter()
                    .for_each(|sent| sent.received = true);
                return None;
            }
            Said::HandleMissed => {
                let at = self.sent.iter().position(|sent| !sent.received)?;
                let missed = self.sent.remove(at)?;
                self.note_answer();
                let Some((connection, origin)) = missed.connection else {
                    self.page.add(Word::Probed, 1);
                    return None;
                };
                self.count_taken(1);
                self.refused.push_back((connection, origin));
                Event::Refused(origin.listener)
            }
            Said::Answer { seq, accepted } => {
                let at = self.sent.iter().position(|sent| sent.seq == seq && sent.connection.is_some())?;
                let answered = self.sent.remove(at)?;
                self.note_answer();
                self.count_taken(1);
                if accepted {
                    self.page.add(Word::Requests, 1);
                    self.has_accepted = true;
                    return None;
                }
                let (connection, origin) = answered.connection?;
                self.refused.push_back((connection, origin));
                Event::Refused(origin.listener)
            }
            Said::Online => Event::Online,
            Said::Query(query) => Event::Query(query),
            Said::Listening { seq } | Said::Leaves { seq } if !self.send(wire::done(seq).bytes()) => {
                Event::Broken(UNREAD.into())
            }
            Said::Listening { .. } => Event::Listening,
            Said::Leaves { .. } => Event::Leaves,
            Said::Close(listener) => Event::Close(listener),
            Said::Message(text) => Event::Message(text.to_owned()),
            Said::Unknown(what) => Event::Broken(format!("it speaks an unknown protocol: {what:?}")),
        };
        Some(event)
    }
}
