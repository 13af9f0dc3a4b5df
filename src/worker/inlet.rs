//! The inlet: how connections and the master's words reach a worker, and how it says that it has room again.

use super::acceptor::{Acceptor, Door, Open};
use super::engine::Context;
use super::handler::{Handler, Kind};
use super::mailbox::deliver;
use super::{Birth, DESCRIPTOR_RESERVE, Worker};
use crate::config::Config;
use crate::event::WorkerState;
use crate::handoff::{Given, Origin, Taken, Taker};
use crate::log::log;
use crate::message::{Address, Budget, Inbox, Notice, Received};
use crate::scoreboard::{Common, Word, WorkerPage};
use crate::sys::poll::{self, Interest};
use crate::sys::stderr::Diverted;
use crate::sys::{datagram, memory, process, time};
use mio::Token;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

/// The handoff channel has something.
pub const QUEUE: Token = Token(usize::MAX - 1);
/// The message channel has something.
pub const CHANNEL: Token = Token(usize::MAX - 2);

/// A signal asks this worker to leave.
pub const LEAVE: Token = Token(usize::MAX - 3);

/// How long a worker that a signal asks to leave waits for the master's word (milliseconds).
const LEAVE_DELAY: u64 = 100;
/// How often the limit on descriptors is read again (milliseconds): somebody may lower it, see prlimit(1).
const LIMIT_AGE: u64 = 100;
/// What is read of messages before connections have their turn.
const MESSAGES: Budget = Budget::new(128 * 1024, 64);

/// A worker's side of its two channels.
pub struct Inlet<'a> {
    /// Who this worker is.
    pub worker: &'static Worker,
    /// Its counters.
    pub page: WorkerPage,
    /// Set when the worker is to take what lies in its queue, finish, and leave; until this time (monotonic milliseconds) where
    /// the master is gone, who would otherwise see to that.
    pub draining: Option<u64>,
    /// While draining: what lies in the queue is left to the master, and what is idle is handed back to it.
    pub hands_back: bool,
    /// The master wants idle connections back until no more than so many are left.
    pub sheds_to: Option<u32>,
    /// When to tell the master that this worker leaves because a signal asks for it.
    leave_at: Option<u64>,
    leave: OwnedFd,
    /// Standard error comes by the master.
    diverted: Option<Diverted>,
    queue: Taker,
    acceptor: Acceptor,
    inbox: Inbox,
    /// There are messages that the poll does not report any more.
    more: bool,
    /// What the poll watches the message channel for.
    interest: Option<Interest>,
    master_is_gone: bool,
    common: Common,
    wake: BorrowedFd<'a>,
    drain_timeout: Duration,
    descriptor_limit: u64,
    limit_read_at: u64,
    highest: u64,
    watching: bool,
}

impl<'a> Inlet<'a> {
    /// Watches both channels, level-triggered.
    pub fn new(birth: Birth<'a>, kind: Kind, poll: &mio::Poll, drain_timeout: Duration) -> Self {
        let Birth { worker, queue, doors, inbox, page, common, wake, leave, diverted, .. } = birth;
        let mut inlet = Self {
            worker,
            page,
            draining: None,
            hands_back: false,
            sheds_to: None,
            leave_at: None,
            leave,
            diverted,
            queue,
            acceptor: Acceptor::new(doors, kind == Kind::Connection),
            inbox,
            more: false,
            interest: Some(Interest::READ),
            master_is_gone: false,
            common,
            wake,
            drain_timeout,
            descriptor_limit: 0,
            limit_read_at: 0,
            highest: 0,
            watching: false,
        };
        inlet.watch(poll);
        let told = poll::watch_level(poll, inlet.worker.mailbox.as_fd(), CHANNEL);
        if let Err(e) = told.and_then(|()| poll::watch_level(poll, inlet.leave.as_fd(), LEAVE)) {
            log!("worker {}: watch the message channel: {e}", inlet.worker.id);
            process::exit(super::EXIT_FAILED);
        }
        inlet
    }

    fn watch(&mut self, poll: &mio::Poll) {
        if !self.watching {
            match poll::watch_level(poll, self.queue.as_fd(), QUEUE) {
                Ok(()) => self.watching = true,
                Err(e) => log!("worker {}: watch the handoff channel: {e}", self.worker.id),
            }
        }
    }

    fn unwatch(&mut self, poll: &mio::Poll) {
        if self.watching && poll::unwatch(poll, self.queue.as_fd()).is_ok() {
            self.watching = false;
        }
    }

    /// Takes the next connection, and the index of its listener. `None` where there is none, or no descriptor to spare for it:
    /// then the queue is not watched until [`Inlet::may_take`] finds one.
    pub fn take(&mut self, poll: &mio::Poll, now: u64) -> Option<(OwnedFd, Origin)> {
        loop {
            if self.hands_back || !self.may_take(poll, now) {
                return None;
            }
            match self.queue.take() {
                Ok(Taken::Connection(fd, origin)) => {
                    self.highest = fd.as_raw_fd().unsigned_abs().into();
                    self.page.add(Word::Taken, 1);
                    self.made_room();
                    return Some((fd, origin));
                }
                Ok(Taken::Probe) => {
                    self.page.add(Word::Probed, 1);
                    self.made_room();
                }
                Ok(Taken::Lost) => {
                    log!("worker {}: no free descriptor, a connection is lost", self.worker.id);
                    self.page.add(Word::Taken, 1);
                    self.finished(1);
                }
                Ok(Taken::Nothing) => return None,
                Ok(Taken::End) => {
                    self.unwatch(poll);
                    self.master_is_gone();
                    return None;
                }
                Err(e) => {
                    log!("worker {}: read the handoff channel: {e}", self.worker.id);
                    self.unwatch(poll);
                    self.master_is_gone();
                    return None;
                }
            }
        }
    }

    /// The door that a token of the poll stands for.
    pub fn door(&self, token: Token) -> Option<usize> {
        self.acceptor.find(token)
    }

    /// The indexes of this worker's doors.
    pub fn doors(&self) -> std::ops::Range<usize> {
        self.acceptor.doors()
    }

    /// A door by its index, where it has datagrams.
    pub fn datagrams(&self, door: usize) -> Option<&Door> {
        self.acceptor.datagrams(door)
    }

    /// Goes to the back of the line of those that wait at a shared door.
    pub fn step_back(&self, door: usize, poll: &mio::Poll) {
        self.acceptor.step_back(door, poll);
    }

    /// Accepts a connection at a door. `None` where there is none, or no descriptor to spare for it.
    pub fn accept(&mut self, door: usize, poll: &mio::Poll, now: u64) -> Option<(OwnedFd, u16)> {
        if !self.may_take(poll, now) {
            return None;
        }
        let (fd, listener) = self.acceptor.accept(door, poll, now)?;
        self.highest = fd.as_raw_fd().unsigned_abs().into();
        // In this order: the master must not see more taken than there were to take.
        self.page.add(Word::Accepted, 1);
        self.page.add(Word::Taken, 1);
        Some((fd, listener))
    }

    /// Has the poll report this worker's doors as long as it may and can take what comes.
    pub fn mind_doors(&mut self, has_room: bool, poll: &mio::Poll, now: u64) {
        let datagrams = self.draining.is_none() && self.common.may_take_in();
        let open = Open { connections: datagrams && has_room && self.watching, datagrams };
        self.acceptor.set_open(open, poll, now);
    }

    /// Lets go of this worker's doors.
    pub fn leave_doors(&mut self, poll: &mio::Poll, now: u64) {
        self.acceptor.leave(poll, now);
    }

    /// Whether nobody comes after this worker to a door, so that what waits there is its own to serve, or lost.
    pub fn is_last_at(&self, door: usize) -> bool {
        self.master_is_gone
            || self.common.is_final_intake()
            || self.datagrams(door).is_some_and(|door| datagram::is_retired(door.fd.as_fd()))
    }

    /// Whether a descriptor is to spare. The kernel gives the lowest free number, so the number of the last connection taken
    /// tells how many are in use at least. Without one the queue is left alone: what lies in it goes to other workers.
    pub fn may_take(&mut self, poll: &mio::Poll, now: u64) -> bool {
        if now >= self.limit_read_at + LIMIT_AGE || self.limit_read_at == 0 {
            self.limit_read_at = now.max(1);
            self.descriptor_limit = process::descriptor_limit().unwrap_or(u64::MAX);
        }
        let enough = self.highest + DESCRIPTOR_RESERVE / 2 < self.descriptor_limit;
        if !enough {
            self.unwatch(poll);
        } else if !self.watching && self.draining.is_none() {
            self.watch(poll);
        }
        enough
    }

    /// A connection that was taken is over: its number is free again, and the next one will be at most as high.
    pub fn finished(&mut self, n: u64) {
        self.page.add(Word::Finished, n);
        self.highest = 0;
        self.made_room();
    }

    /// Whether the queue, or the doors, are left alone for want of descriptors.
    pub fn starves(&self) -> bool {
        (!self.watching || self.acceptor.rests()) && self.draining.is_none()
    }

    /// Gives an idle connection back to the master. `false` where it stays here for now.
    pub fn hand_back(&mut self, connection: BorrowedFd<'_>, listener: u16) -> bool {
        matches!(self.queue.hand_back(connection, listener), Ok(Given::Done))
    }

    /// Somebody wants this worker to leave. If all are to stop, the master says so in a moment, and that comes first.
    pub fn asked_to_leave(&mut self, poll: &mio::Poll, now: u64) {
        let _ = poll::unwatch(poll, self.leave.as_fd());
        self.leave_at.get_or_insert(now + LEAVE_DELAY);
    }

    /// When to tell the master that this worker leaves on its own account.
    pub fn leave_due(&self) -> Option<u64> {
        if self.worker.leaves.get() { Some(0) } else { self.leave_at }
    }

    /// Tells the master, where it is time to.
    pub fn leave_if_due(&mut self, now: u64) {
        if self.leave_due().is_some_and(|at| at <= now) {
            self.leave_at = None;
            self.worker.leaves.set(false);
            if self.draining.is_none()
                && let Err(e) = self.worker.mailbox.notify(&Notice::Leaving)
            {
                log!("worker {}: tell the master that it leaves: {e}", self.worker.id);
            }
        }
    }

    fn made_room(&self) {
        if self.common.claim_wake() {
            // A full counter has woken the master already.
            let _ = memory::wake(self.wake);
        }
    }

    /// Hears the master and hands messages to the handler, as many as one turn allows; sends what waits.
    pub fn listen(&mut self, poll: &mio::Poll, cx: &mut Context<'_>) {
        let mut budget = MESSAGES;
        self.more = false;
        // An error here is one of the next read as well.
        let _ = self.worker.mailbox.flush();
        loop {
            match self.inbox.receive(self.worker.mailbox.as_fd(), &mut budget) {
                Ok(Received::Message(envelope, bytes)) => deliver(self.worker, envelope, &bytes, cx),
                Ok(Received::Notice(notice)) => self.heard(notice, poll, cx),
                Ok(Received::Nothing) => return,
                Ok(Received::BudgetSpent) => {
                    self.more = true;
                    return;
                }
                Ok(Received::Closed) | Err(_) => {
                    self.interest = None;
                    let _ = poll::unwatch(poll, self.worker.mailbox.as_fd());
                    self.worker.mailbox.gone(Address::Master, cx);
                    return self.master_is_gone();
                }
            }
        }
    }

    fn heard(&mut self, notice: Notice, poll: &mio::Poll, cx: &mut Context<'_>) {
        match notice {
            Notice::Drain { hand_back } => {
                self.hands_back = hand_back;
                self.draining.get_or_insert(u64::MAX);
                self.worker.state.set(WorkerState::Draining);
                if hand_back {
                    self.unwatch(poll);
                }
            }
            Notice::Shed { keep } => self.sheds_to = Some(keep),
            Notice::RestoreStderr => self.take_back_stderr(),
            Notice::Gone(id) => self.worker.mailbox.gone(Address::Worker(id), cx),
            Notice::Overflowing(id) => self.worker.mailbox.set_overflowing(id, true),
            Notice::HasRoom(id) => self.worker.mailbox.set_overflowing(id, false),
            other => log!("worker {}: unexpected message {other:?}; ignored", self.worker.id),
        }
    }

    /// What messages ask for at the end of a turn: deadlines that have come, and that the poll says when there is room to send.
    pub fn settle(&mut self, poll: &mio::Poll, cx: &mut Context<'_>) {
        self.worker.mailbox.expire(cx);
        let Some(watched) = self.interest else { return };
        let wanted = Interest { read: true, write: self.worker.mailbox.waits() };
        if watched == wanted {
            return;
        }
        match poll::rewatch_level(poll, self.worker.mailbox.as_fd(), CHANNEL, wanted) {
            Ok(()) => self.interest = Some(wanted),
            Err(e) => log!("worker {}: watch the message channel: {e}", self.worker.id),
        }
    }

    /// When messages have something to do next (monotonic milliseconds; 0: at once).
    pub fn due(&self) -> Option<u64> {
        if self.has_more() { Some(0) } else { self.worker.mailbox.due() }
    }

    /// Whether [`Inlet::listen`] has more to do than the poll reports.
    pub fn has_more(&self) -> bool {
        self.more && self.interest.is_some()
    }

    /// At the worker's end: nobody waits for replies any more.
    pub fn close(&self, handler: &mut dyn Handler, config: &Config) {
        let now = time::monotonic_ms();
        let mut cx = Context { handler, config, page: self.page, now, draining: true };
        self.worker.mailbox.gone(Address::Master, &mut cx);
    }

    fn take_back_stderr(&mut self) {
        if let Some(Err(e)) = self.diverted.take().map(Diverted::restore) {
            log!("worker {}: dup2 of standard error: {e}", self.worker.id);
        }
    }

    fn master_is_gone(&mut self) {
        // Nobody reads the pipe any more.
        self.take_back_stderr();
        self.master_is_gone = true;
        let until = time::monotonic_ms() + self.drain_timeout.as_millis() as u64;
        self.hands_back = false;
        self.draining = Some(self.draining.unwrap_or(until).min(until));
        self.worker.state.set(WorkerState::Draining);
    }
}
