//! A worker's messages: what its handler sends, asks and answers, and what comes for it. Runs in the worker, never waits.

use super::Worker;
use super::engine::Context;
use crate::message::{self, ALL, Label, Letter, MASTER, Outbox, Purpose, Requests, Room, Undelivered, Verb};
use crate::role::{Role, role};
use crate::sys::time;
use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

/// What is called with the answer to a request.
pub type OnReply = Box<dyn FnOnce(Result<&[u8], Undelivered>)>;

/// A message, given to [`crate::Handler::on_message`] and the callback of [`crate::Server::on_message`].
#[derive(Clone, Copy, Debug)]
pub struct Message<'a> {
    from: u32,
    kind: u32,
    bytes: &'a [u8],
    is_request: bool,
}

impl<'a> Message<'a> {
    pub(crate) fn new(label: &Label, bytes: &'a [u8]) -> Self {
        Self { from: label.from, kind: label.kind, bytes, is_request: label.purpose == Purpose::Request }
    }

    /// The id of the worker that sent it, or [`crate::MASTER`].
    pub fn from(&self) -> u32 {
        self.from
    }

    /// What sort of message it is, as the sender said.
    pub fn kind(&self) -> u32 {
        self.kind
    }

    /// What it says.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// Whether the sender waits for a reply ([`Worker::reply`]).
    pub fn is_request(&self) -> bool {
        self.is_request
    }
}

/// The outgoing side of a worker's channel, and what it has asked.
pub struct Mailbox {
    id: u32,
    socket: OwnedFd,
    outbox: RefCell<Outbox>,
    requests: RefCell<Requests<OnReply>>,
    /// The request that is being handled, until it is answered: who sent it, its number.
    asked: Cell<Option<(u32, u64)>>,
    /// Workers whose queue the master says is full.
    shut: RefCell<BTreeSet<u32>>,
}

impl Mailbox {
    pub fn new(id: u32, socket: OwnedFd, outbox: Outbox) -> Self {
        Self {
            id,
            socket,
            outbox: RefCell::new(outbox),
            requests: RefCell::default(),
            asked: Cell::new(None),
            shut: RefCell::default(),
        }
    }

    pub fn send(&self, to: u32, kind: u32, bytes: &[u8]) -> Result<(), Undelivered> {
        self.post(Purpose::Message, to, kind, 0, bytes, Room::Needed)
    }

    pub fn request(
        &self,
        to: u32,
        kind: u32,
        bytes: &[u8],
        deadline: Duration,
        on_reply: OnReply,
    ) -> Result<(), Undelivered> {
        if to == ALL {
            return Err(Undelivered::Impossible);
        }
        let number = self.requests.borrow().next_number();
        self.post(Purpose::Request, to, kind, number, bytes, Room::Needed)?;
        self.requests.borrow_mut().add(to, message::deadline(time::monotonic_ms(), deadline), on_reply);
        Ok(())
    }

    pub fn reply(&self, bytes: &[u8]) -> Result<(), Undelivered> {
        let (to, number) = self.asked.get().ok_or(Undelivered::Impossible)?;
        self.post(Purpose::Reply, to, 0, number, bytes, Room::Needed)?;
        self.asked.set(None);
        Ok(())
    }

    fn post(
        &self,
        purpose: Purpose,
        to: u32,
        kind: u32,
        request: u64,
        bytes: &[u8],
        room: Room,
    ) -> Result<(), Undelivered> {
        if self.shut.borrow().contains(&to) && room == Room::Needed {
            return Err(Undelivered::Full);
        }
        // A process that the worker forked by itself has a copy of the channel.
        if !matches!(role(), Role::Worker { .. }) {
            return Err(Undelivered::Impossible);
        }
        let label = Label { purpose, from: self.id, to, kind, request };
        self.outbox.borrow_mut().send(self.socket.as_fd(), &label, bytes, room)
    }

    /// Says a verb to the master.
    pub fn say(&self, verb: &Verb) -> Result<(), Undelivered> {
        self.outbox.borrow_mut().say(self.socket.as_fd(), verb)
    }

    /// Sends what waits, as far as the socket takes it.
    pub fn flush(&self) -> io::Result<()> {
        let mut outbox = self.outbox.borrow_mut();
        if !outbox.is_empty() {
            outbox.flush(self.socket.as_fd(), usize::MAX)?;
        }
        Ok(())
    }

    /// Sends what waits; at most so long between two steps.
    pub fn finish(&self, patience: Duration) -> io::Result<()> {
        message::finish(&mut self.outbox.borrow_mut(), self.socket.as_fd(), patience)
    }

    /// Whether something waits to be sent.
    pub fn waits(&self) -> bool {
        !self.outbox.borrow().is_empty()
    }

    /// When the next request of this worker has waited long enough.
    pub fn due(&self) -> Option<u64> {
        self.requests.borrow().due()
    }

    /// Gives up the requests whose deadline has come.
    pub fn expire(&self, cx: &mut Context<'_>) {
        loop {
            // A statement of its own: the callback may send requests.
            let expired = self.requests.borrow_mut().expired(cx.now);
            let Some(call) = expired else { return };
            cx.call(|_| call(Err(Undelivered::TimedOut)));
        }
    }

    /// Gives up what was asked of somebody who has ended; of everybody where that is the master, through whom all goes.
    pub fn gone(&self, id: u32, cx: &mut Context<'_>) {
        self.shut.borrow_mut().remove(&id);
        let abandoned = self.requests.borrow_mut().abandoned((id != MASTER).then_some(id));
        for call in abandoned {
            cx.call(|_| call(Err(Undelivered::Gone)));
        }
    }

    /// Whether the master takes letters to this worker.
    pub fn set_shut(&self, id: u32, shut: bool) {
        let mut set = self.shut.borrow_mut();
        if shut {
            set.insert(id)
        } else {
            set.remove(&id)
        };
    }

    fn answered(&self, label: &Label, result: Result<&[u8], Undelivered>, cx: &mut Context<'_>) {
        let open = self.requests.borrow_mut().answered(label.request, label.from);
        // What is not open any more has timed out.
        if let Some(call) = open {
            cx.call(|_| call(result));
        }
    }
}

/// Hands a letter to the worker's handler, or to the request it answers.
pub fn deliver(worker: &Worker, letter: &Letter<'_>, cx: &mut Context<'_>) {
    let (mailbox, label) = (&*worker.mailbox, &letter.label);
    let message = Message::new(label, &letter.bytes);
    match label.purpose {
        Purpose::Message => {
            cx.call(|handler| handler.on_message(worker, &message));
        }
        Purpose::Request => {
            mailbox.asked.set(Some((label.from, label.request)));
            cx.call(|handler| handler.on_message(worker, &message));
            if let Some((to, number)) = mailbox.asked.take() {
                let reason = [Undelivered::Unanswered as u8];
                // Where the master is gone there is nobody to tell.
                let _ = mailbox.post(Purpose::Failure, to, 0, number, &reason, Room::Ignored);
            }
        }
        Purpose::Reply => mailbox.answered(label, Ok(&letter.bytes), cx),
        Purpose::Failure => mailbox.answered(label, Err(Undelivered::read(&letter.bytes)), cx),
    }
}

impl AsFd for Mailbox {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl fmt::Debug for Mailbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mailbox").field("id", &self.id).finish_non_exhaustive()
    }
}
