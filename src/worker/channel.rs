//! The message channel of a worker: messages for the handler, orders of the master, leaving.

use super::Worker;
use super::engine::Context;
use super::mailbox::deliver;
use crate::event::WorkerState;
use crate::log::log;
use crate::message::{Address, Budget, Inbox, Notice, Received};
use crate::sys::poll::{self, Interest};
use crate::sys::process;
use crate::sys::stderr::RestoreStderr;
use crate::sys::time::Time;
use mio::Token;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

/// The message channel has something.
pub const CHANNEL: Token = Token(usize::MAX - 2);
/// A signal asks this worker to leave.
pub const LEAVE: Token = Token(usize::MAX - 3);

/// The time that a worker which a signal asks to leave waits for an order of the master.
const LEAVE_DELAY: Duration = Duration::from_millis(100);
/// What is read of messages before connections have their turn.
const MESSAGES: Budget = Budget::new(128 * 1024, 64);

/// The orders of the master that are in force.
pub struct Orders {
    /// Set if the worker is to serve what is in its queue, finish, and leave: never as long as the master sees to the end, and the
    /// time by which it must have left if the master is gone.
    pub drain: Option<Time>,
    /// While draining: what is in the queue is left to the master, and idle connections are handed back to it.
    pub hands_back: bool,
    /// Idle connections are to be handed back until no more than this number is left.
    pub keep: Option<u32>,
    /// The master is gone.
    pub master_is_gone: bool,
}

/// The message channel.
pub struct Channel {
    worker: &'static Worker,
    inbox: Inbox,
    /// There are messages that the poll does not report any more.
    has_more: bool,
    /// What the poll watches the channel for; `None` once it is closed.
    interest: Option<Interest>,
    /// Readable when a signal asks this worker to leave.
    leave: OwnedFd,
    /// When to tell the master that this worker leaves because a signal asks for it.
    leave_at: Option<Time>,
    /// The worker's own standard error, while it passes through the master.
    stderr: Option<RestoreStderr>,
    drain_timeout: Duration,
    /// The orders.
    pub orders: Orders,
}

impl Channel {
    /// Watches the channel, level-triggered.
    pub fn new(
        worker: &'static Worker,
        inbox: Inbox,
        leave: OwnedFd,
        stderr: Option<RestoreStderr>,
        drain_timeout: Duration,
        poll: &mio::Poll,
    ) -> Self {
        let watched = poll::watch_level(poll, worker.mailbox.as_fd(), CHANNEL);
        if let Err(e) = watched.and_then(|()| poll::watch_level(poll, leave.as_fd(), LEAVE)) {
            log!("worker {}: watch the message channel: {e}", worker.id);
            process::exit(super::EXIT_FAILED);
        }
        let orders = Orders { drain: None, hands_back: false, keep: None, master_is_gone: false };
        Self {
            worker,
            inbox,
            has_more: false,
            interest: Some(Interest::READ),
            leave,
            leave_at: None,
            stderr,
            drain_timeout,
            orders,
        }
    }

    /// A signal asks this worker to leave. If all workers are to stop, the master says so in a moment, and that comes first.
    pub fn leave_on_signal(&mut self, poll: &mio::Poll, now: Time) {
        let _ = poll::unwatch(poll, self.leave.as_fd());
        self.leave_at.get_or_insert(now + LEAVE_DELAY);
    }

    /// The time at which to tell the master that this worker leaves by itself.
    fn leave_due(&self) -> Option<Time> {
        if self.worker.leaves.get() { Some(Time::default()) } else { self.leave_at }
    }

    /// Tells the master that this worker leaves, if it is time to.
    pub fn leave_if_due(&mut self, now: Time) {
        if self.leave_due().is_some_and(|at| at <= now) {
            self.leave_at = None;
            self.worker.leaves.set(false);
            if self.orders.drain.is_none()
                && let Err(e) = self.worker.mailbox.notify(&Notice::Leaving)
            {
                log!("worker {}: tell the master that it leaves: {e}", self.worker.id);
            }
        }
    }

    /// Reads orders, and hands messages to the handler, as many as one turn allows; sends what waits.
    pub fn read(&mut self, poll: &mio::Poll, cx: &mut Context<'_>) {
        let mut budget = MESSAGES;
        self.has_more = false;
        // An error here is one of the next read as well.
        let _ = self.worker.mailbox.flush();
        loop {
            match self.inbox.receive(self.worker.mailbox.as_fd(), &mut budget) {
                Ok(Received::Message(envelope, bytes)) => deliver(self.worker, envelope, &bytes, cx),
                Ok(Received::Notice(notice)) => self.obey(notice, cx),
                Ok(Received::Nothing) => return,
                Ok(Received::BudgetSpent) => {
                    self.has_more = true;
                    return;
                }
                Ok(Received::Closed) | Err(_) => {
                    self.interest = None;
                    let _ = poll::unwatch(poll, self.worker.mailbox.as_fd());
                    self.worker.mailbox.gone(Address::Master, cx);
                    return self.lose_master();
                }
            }
        }
    }

    fn obey(&mut self, notice: Notice, cx: &mut Context<'_>) {
        match notice {
            Notice::Drain { hand_back } => {
                self.orders.hands_back = hand_back;
                self.orders.drain.get_or_insert(Time::NEVER);
                self.worker.state.set(WorkerState::Draining);
            }
            Notice::Shed { keep } => self.orders.keep = Some(keep),
            Notice::RestoreStderr => self.restore_stderr(),
            Notice::Gone(id) => self.worker.mailbox.gone(Address::Worker(id), cx),
            Notice::Overflowing(id) => self.worker.mailbox.set_overflowing(id, true),
            Notice::HasRoom(id) => self.worker.mailbox.set_overflowing(id, false),
            other => log!("worker {}: unexpected message {other:?}; ignored", self.worker.id),
        }
    }

    /// Ends requests whose deadline has come, and has the poll say when there is room to send; at the end of each turn.
    pub fn update(&mut self, poll: &mio::Poll, cx: &mut Context<'_>) {
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

    /// The time at which the channel has something to do even if the poll reports nothing.
    pub fn due(&self) -> Time {
        let messages = if self.has_more() {
            Some(Time::default())
        } else {
            self.worker.mailbox.due().map(Time::from_millis)
        };
        messages.into_iter().chain(self.leave_due()).min().unwrap_or(Time::NEVER)
    }

    /// True if [`Channel::read`] has more to do than the poll reports.
    pub fn has_more(&self) -> bool {
        self.has_more && self.interest.is_some()
    }

    /// Ends the requests that still wait for a reply, at the worker's end.
    pub fn close(&self, cx: &mut Context<'_>) {
        self.worker.mailbox.gone(Address::Master, cx);
    }

    /// The master is gone: nobody else sees to it that this worker ends in time.
    pub fn lose_master(&mut self) {
        // The other end of the pipe is closed.
        self.restore_stderr();
        let until = Time::now() + self.drain_timeout;
        self.orders.master_is_gone = true;
        self.orders.hands_back = false;
        self.orders.drain = Some(self.orders.drain.unwrap_or(until).min(until));
        self.worker.state.set(WorkerState::Draining);
    }

    fn restore_stderr(&mut self) {
        if let Some(Err(e)) = self.stderr.take().map(RestoreStderr::restore) {
            log!("worker {}: dup2 of standard error: {e}", self.worker.id);
        }
    }
}
