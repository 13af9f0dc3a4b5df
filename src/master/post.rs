//! The host program's way to its workers: a handle for messages, usable wherever the host's code runs in the master.

use super::courier::{Courier, Heard, Mail};
use crate::message::{self, Budget, Label, Purpose, Undelivered};
use crate::sys::{process, time};
use crate::worker::mailbox::Message;
use std::cell::{Cell, RefCell, RefMut};
use std::fmt;
use std::rc::Rc;
use std::time::Duration;

/// What sends messages from the host program to the workers of a [`crate::Server`], in the master while it runs. A clone is the
/// same; in a worker every call is refused ([`crate::Worker::send`] is there for that).
#[derive(Clone, Default)]
pub struct Post {
    inner: Rc<Inner>,
}

#[derive(Default)]
struct Inner {
    courier: RefCell<Courier>,
    /// The process of the master, while it runs; 0 before and after.
    home: Cell<i32>,
    /// The request that is being handled, until it is answered.
    asked: Cell<Option<Label>>,
}

pub use super::courier::OnReply;

/// What is called in the master with a message for it.
pub type OnMessage = Box<dyn FnMut(&Post, &Message<'_>)>;

impl Post {
    /// Sends a message of a type of your own to a worker by its id, or to [`crate::ALL`] workers. Never waits: what a worker
    /// does not take at once is kept for it.
    ///
    /// Messages to one worker arrive in the order they were sent. A worker that ends with messages unread takes them with it;
    /// [`Post::request`] tells.
    ///
    /// # Errors
    /// [`Undelivered::TooLarge`] over [`crate::Config::max_message`]; [`Undelivered::Full`] where four messages of that size
    /// wait for the worker already (of all workers: for one of them; the others got it); [`Undelivered::Gone`] where there is no
    /// such worker; [`Undelivered::Impossible`] where the server does not run in this process.
    pub fn send(&self, to: u32, kind: u32, bytes: &[u8]) -> Result<(), Undelivered> {
        self.courier()?.send(to, kind, bytes)
    }

    /// Sends a message that is to be answered. `on_reply` is called once, from the master's loop: with the reply, or with the
    /// reason why there is none. The deadline has a resolution of milliseconds; zero is for ever, that is, until the worker
    /// ends.
    ///
    /// # Errors
    /// As [`Post::send`], then `on_reply` is not called; [`Undelivered::Impossible`] to all.
    pub fn request(
        &self,
        to: u32,
        kind: u32,
        bytes: &[u8],
        deadline: Duration,
        on_reply: impl FnOnce(Result<&[u8], Undelivered>) + 'static,
    ) -> Result<(), Undelivered> {
        let deadline = message::deadline(time::monotonic_ms(), deadline);
        self.courier()?.request(to, kind, bytes, deadline, Box::new(on_reply))
    }

    /// Answers the request that the callback of [`crate::Server::on_message`] is being called for, once. Where it returns without
    /// having replied, the worker is told [`Undelivered::Unanswered`].
    ///
    /// # Errors
    /// As [`Post::send`]; [`Undelivered::Impossible`] where there is no request to answer.
    pub fn reply(&self, bytes: &[u8]) -> Result<(), Undelivered> {
        let asked = self.inner.asked.get().ok_or(Undelivered::Impossible)?;
        self.courier()?.reply(&asked, bytes)?;
        self.inner.asked.set(None);
        Ok(())
    }

    /// The master runs: workers may be written to.
    pub(super) fn open(&self) {
        self.inner.home.set(process::own_pid());
        self.borrow().number_from(time::monotonic_ns());
    }

    /// The master does not run any more, or this process is a worker.
    pub(crate) fn close(&self) {
        self.inner.home.set(0);
        self.borrow().clear();
    }

    /// The courier behind it, for the master. Not to be kept while code of the host's runs.
    pub(super) fn borrow(&self) -> RefMut<'_, Courier> {
        self.inner.courier.borrow_mut()
    }

    /// The next thing for the master to deal with. A statement of its own, so that nothing is borrowed meanwhile.
    pub(super) fn next(&self, budget: &mut Budget, now: u64) -> Option<Heard> {
        self.borrow().next(budget, now)
    }

    /// Hands a message to the host, if it has a use for it.
    pub(crate) fn deliver(&self, mail: &Mail, call: Option<impl FnOnce(&Message<'_>)>) {
        let is_request = mail.label.purpose == Purpose::Request;
        self.inner.asked.set(is_request.then_some(mail.label));
        if let Some(call) = call {
            call(&Message::new(&mail.label, &mail.bytes));
        }
        if let Some(unanswered) = self.inner.asked.take() {
            self.borrow().fail(&unanswered, Undelivered::Unanswered);
        }
    }

    fn courier(&self) -> Result<RefMut<'_, Courier>, Undelivered> {
        // A process that the host forked by itself has a copy of all this, and may be a master of its own.
        let here = self.inner.home.get() == process::own_pid();
        if here { Ok(self.borrow()) } else { Err(Undelivered::Impossible) }
    }
}

impl fmt::Debug for Post {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Post").field("home", &self.inner.home.get()).finish_non_exhaustive()
    }
}
