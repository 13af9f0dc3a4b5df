//! The host program's handle for messages, for all of its code that runs in the master.

use super::{Router, RouterEvent};
use crate::message::{Budget, Envelope, Message, MessageKind, Purpose, To, Undelivered};
use crate::sys::process;
use crate::sys::time::{self, Time};
use std::cell::{Cell, RefCell, RefMut};
use std::fmt;
use std::rc::Rc;
use std::time::Duration;

/// Sends messages from the host program to the workers of a [`crate::Server`], in the master while it runs. A clone is the
/// same handle. In a worker every call is refused; there, use [`crate::Worker::send`].
#[derive(Clone, Default)]
pub struct Messages {
    inner: Rc<Inner>,
}

#[derive(Default)]
struct Inner {
    router: RefCell<Router>,
    /// The process id of the master while it runs; 0 before and after.
    master: Cell<i32>,
    /// The request that the host's callback is called with, until it is answered.
    asked: Cell<Option<Envelope>>,
}

/// The host's callback for messages to the master.
pub type OnMessage = Box<dyn FnMut(&Messages, &Message<'_>)>;

impl Messages {
    /// Sends a message, with a type of your own, to a worker ([`To::Worker`]) or to all ([`To::All`]). Never waits: what
    /// a worker does not take at once is kept for it.
    ///
    /// Messages to one worker arrive in the order in which they were sent. Messages that a worker has not read when it ends
    /// are lost; use [`Messages::request`] to know.
    ///
    /// # Errors
    /// [`Undelivered::TooLarge`] over [`crate::Config::max_message`]; [`Undelivered::Full`] if four messages of that size
    /// wait for the worker already (to all: for one of them; the others got it); [`Undelivered::Gone`] if there is no
    /// such worker; [`Undelivered::Impossible`] if the server does not run in this process.
    pub fn send(&self, to: impl Into<To>, kind: MessageKind, bytes: &[u8]) -> Result<(), Undelivered> {
        self.running()?.send(to.into().into(), kind.0, bytes)
    }

    /// Sends a request. `on_reply` is called once, from the master's loop, with the reply or with the reason why there is
    /// none. The deadline has a resolution of milliseconds; zero means forever, that is, until the worker ends.
    ///
    /// # Errors
    /// As [`Messages::send`], and then `on_reply` is not called; [`Undelivered::Impossible`] to all.
    pub fn request(
        &self,
        to: impl Into<To>,
        kind: MessageKind,
        bytes: &[u8],
        deadline: Duration,
        on_reply: impl FnOnce(Result<&[u8], Undelivered>) + 'static,
    ) -> Result<(), Undelivered> {
        let deadline = Time::now().deadline(deadline);
        self.running()?.request(to.into().into(), kind.0, bytes, deadline, Box::new(on_reply))
    }

    /// Answers, once, the request that the callback of [`crate::Server::on_message`] is being called with. If the callback
    /// returns without a reply, the worker gets [`Undelivered::Unanswered`].
    ///
    /// # Errors
    /// As [`Messages::send`]; [`Undelivered::Impossible`] if there is no request to answer.
    pub fn reply(&self, bytes: &[u8]) -> Result<(), Undelivered> {
        let asked = self.inner.asked.get().ok_or(Undelivered::Impossible)?;
        self.running()?.reply(&asked, bytes)?;
        self.inner.asked.set(None);
        Ok(())
    }

    /// Allows messages: this process is the master now.
    pub(in crate::master) fn open(&self) {
        self.inner.master.set(process::own_pid());
        self.router().number_from(time::monotonic_ns());
    }

    /// Closes all channels: the master has ended, or this process is a worker.
    pub(crate) fn close(&self) {
        self.inner.master.set(0);
        self.router().clear();
    }

    /// The router, for the master. The borrow must end before the host's code runs.
    pub(in crate::master) fn router(&self) -> RefMut<'_, Router> {
        self.inner.router.borrow_mut()
    }

    /// As [`Router::carry`]; nothing stays borrowed while the master acts on the event.
    pub(in crate::master) fn carry(&self, budget: &mut Budget, now: Time) -> Option<RouterEvent> {
        self.router().carry(budget, now)
    }

    /// Calls the host's callback with a message, if it has one, and ends the request that it leaves unanswered.
    pub(crate) fn deliver(&self, envelope: Envelope, bytes: &[u8], call: Option<impl FnOnce(&Message<'_>)>) {
        let is_request = envelope.purpose == Purpose::Request;
        self.inner.asked.set(is_request.then_some(envelope));
        if let Some(call) = call {
            call(&Message::new(envelope, bytes));
        }
        if let Some(unanswered) = self.inner.asked.take() {
            self.router().fail(&unanswered, Undelivered::Unanswered);
        }
    }

    fn running(&self) -> Result<RefMut<'_, Router>, Undelivered> {
        // A process that the host has forked has a copy of all this, and may be a master of its own.
        let is_master = self.inner.master.get() == process::own_pid();
        if is_master { Ok(self.router()) } else { Err(Undelivered::Impossible) }
    }
}

impl fmt::Debug for Messages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Messages").field("master", &self.inner.master.get()).finish_non_exhaustive()
    }
}
