//! The message channel of a worker: messages for the handler, orders of the master, leaving.

use super::call::Context;
use super::this_worker::{EXIT_FAILED, Worker};
use crate::event::WorkerState;
use crate::log::log;
use crate::message::{Address, Budget, Inbox, Notice, Received};
use crate::sys::poll::{self, Interest};
use crate::sys::stderr::RestoreStderr;
use crate::sys::time::Time;
use crate::sys::{ending, memory, process};
use mio::Token;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

/// The token of the message channel.
pub const CHANNEL: Token = Token(usize::MAX - 2);
/// The token of the counter that becomes readable when a signal asks this worker to leave.
pub const LEAVE: Token = Token(usize::MAX - 3);

/// The time that a worker which a signal asks to leave waits for an order of the master.
const LEAVE_DELAY: Duration = Duration::from_millis(100);
/// Messages read in one turn before connections have theirs.
const MESSAGES: Budget = Budget::new(128 * 1024, 64);

/// The orders of the master that are in force.
#[derive(Default)]
pub struct Orders {
    /// True if the worker may take connections and datagrams from its own sockets.
    pub takes_in: bool,
    /// Set if the worker is to finish and exit: the time at which it ends what it still has.
    pub drain: Option<Time>,
    /// While draining: the rest of the queue is left to the master, and idle connections are handed back to it.
    pub hands_back: bool,
    /// Set if idle connections are to be handed back until at most this number is left.
    pub keep: Option<u32>,
    /// Streams that were handed over and will not come back, since the loop last looked.
    pub settled: u32,
    /// The master is gone, or there is none.
    pub master_is_gone: bool,
    /// All ends now: a second signal has come to a server that is one process.
    pub ends_at_once: bool,
}

impl Orders {
    /// True if the worker is to finish and exit.
    pub fn is_draining(&self) -> bool {
        self.drain.is_some()
    }
}

/// The message channel.
pub struct Channel {
    /// The orders.
    pub orders: Orders,
    /// True if [`Channel::read`] has more to do than the poll reports.
    pub has_more: bool,
    worker: &'static Worker,
    inbox: Inbox,
    /// The events that the poll reports of the channel; `None` once it is closed.
    interest: Option<Interest>,
    leave: OwnedFd,
    /// The worker's own standard error, while it passes through the master.
    stderr: Option<RestoreStderr>,
    drain_timeout: Duration,
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
        let watched = poll::watch_level(poll, worker.messages().socket().as_fd(), CHANNEL);
        if let Err(e) = watched.and_then(|()| poll::watch_level(poll, leave.as_fd(), LEAVE)) {
            log!(Error, "watch the message channel: {e}");
            process::exit(EXIT_FAILED);
        }
        Self {
            orders: Orders::default(),
            has_more: false,
            worker,
            inbox,
            interest: Some(Interest::READ),
            leave,
            stderr,
            drain_timeout,
        }
    }

    /// A signal asks this worker to leave. It waits a moment first: if all workers are to stop, the master orders it to drain,
    /// and does not replace it.
    pub fn leave_on_signal(&mut self, poll: &mio::Poll, now: Time) {
        if self.worker.messages().is_alone() {
            memory::clear(self.leave.as_fd());
            self.lose_master();
            self.orders.ends_at_once = ending::is_at_once();
            return;
        }
        let _ = poll::unwatch(poll, self.leave.as_fd());
        let leave_at = &self.worker.leave_at;
        leave_at.set(leave_at.get().min(now + LEAVE_DELAY));
    }

    /// Tells the master that this worker leaves, if it is time to.
    pub fn leave_if_due(&mut self, now: Time) {
        if self.worker.leave_at.get() > now {
            return;
        }
        self.worker.leave_at.set(Time::NEVER);
        if self.worker.messages().is_alone() {
            return self.lose_master();
        }
        if !self.orders.is_draining()
            && let Err(e) = self.worker.messages().notify(&Notice::Leaving)
        {
            log!(Error, "tell the master that it leaves: {e}");
        }
    }

    /// Obeys orders, and gives messages to the handler, as many as one turn allows; sends what waits.
    pub fn read(&mut self, poll: &mio::Poll, cx: &mut Context<'_>) {
        let messages = self.worker.messages();
        let mut budget = MESSAGES;
        self.has_more = false;
        // An error here is one of the next read as well.
        let _ = messages.flush();
        loop {
            match self.inbox.receive(messages.socket().as_fd(), &mut budget) {
                Ok(Received::Message(envelope, bytes)) => {
                    messages.deliver(self.worker, envelope, &bytes, cx);
                }
                Ok(Received::Notice(notice)) => self.obey(notice, cx),
                Ok(Received::Nothing) => return,
                Ok(Received::BudgetSpent) => {
                    self.has_more = true;
                    return;
                }
                Ok(Received::Closed) | Err(_) => {
                    self.interest = None;
                    let _ = poll::unwatch(poll, messages.socket().as_fd());
                    messages.end_requests_to(Address::Master, cx);
                    return self.lose_master();
                }
            }
        }
    }

    fn obey(&mut self, notice: Notice, cx: &mut Context<'_>) {
        let messages = self.worker.messages();
        match notice {
            Notice::TakeIn => self.orders.takes_in = true,
            Notice::Drain { hand_back, patience } => {
                self.orders.hands_back = hand_back;
                self.worker.hands_over.set(hand_back);
                self.orders.keep = hand_back.then_some(0);
                let until = cx.now.deadline(Duration::from_millis(patience.into()));
                // A second order never leaves more time than the first.
                self.orders.drain = Some(self.orders.drain.map_or(until, |earlier| earlier.min(until)));
                self.worker.state.set(WorkerState::Draining);
            }
            // An order to drain includes it.
            Notice::Shed { .. } if self.orders.is_draining() => {}
            Notice::Shed { keep } => self.orders.keep = Some(keep),
            Notice::RestoreStderr => self.restore_stderr(),
            Notice::Settled(count) => self.orders.settled = self.orders.settled.saturating_add(count),
            Notice::Gone(id) => messages.end_requests_to(Address::Worker(id), cx),
            Notice::Overflowing(id) => messages.set_overflowing(id, true),
            Notice::HasRoom(id) => messages.set_overflowing(id, false),
            other => log!(Warn, "unexpected message {other:?}; ignored"),
        }
    }

    /// Ends requests whose deadline has come and whose reply has not, and has the poll report when there is room to send; at the end of
    /// each turn.
    pub fn update(&mut self, poll: &mio::Poll, polled_at: Time, cx: &mut Context<'_>) {
        let messages = self.worker.messages();
        if messages.next_deadline() <= polled_at {
            // A callback may have taken any time, and what has come meanwhile may be more than one turn reads.
            match self.inbox.caught_up(messages.socket().as_fd(), polled_at) {
                Some(at) => messages.expire(at, cx),
                None => self.has_more = true,
            }
        }
        let wanted = Interest { read: true, write: messages.has_unsent() };
        if self.interest.is_none_or(|interest| interest == wanted) {
            return;
        }
        match poll::rewatch_level(poll, messages.socket().as_fd(), CHANNEL, wanted) {
            Ok(()) => self.interest = Some(wanted),
            Err(e) => log!(Error, "watch the message channel: {e}"),
        }
    }

    /// The time at which the channel has something to do even if the poll reports nothing.
    pub fn due(&self) -> Time {
        if self.has_more {
            return Time::default();
        }
        self.worker.messages().next_deadline().min(self.worker.leave_at.get())
    }

    /// The master is gone, or there was none and this is the end, so the worker drains, and ends itself in time.
    pub fn lose_master(&mut self) {
        // The other end of the pipe is closed.
        self.restore_stderr();
        let until = Time::now().deadline(self.drain_timeout);
        let until = self.orders.drain.map_or(until, |earlier| earlier.min(until));
        self.orders = Orders { drain: Some(until), master_is_gone: true, ..Orders::default() };
        self.worker.hands_over.set(false);
        self.worker.state.set(WorkerState::Draining);
    }

    fn restore_stderr(&mut self) {
        if let Some(Err(e)) = self.stderr.take().map(RestoreStderr::restore) {
            log!(Warn, "dup2 of standard error: {e}");
        }
    }
}
