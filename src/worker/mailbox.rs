//! A worker's messages: what its handler sends, asks and answers, and what comes for it. Runs in the worker, never waits.

use super::Worker;
use super::engine::Context;
use crate::ids::WorkerId;
use crate::message::{
    Address, Envelope, Message, Notice, OnReply, Outbox, Purpose, Requests, Room, Undelivered,
};
use crate::role::{Role, role};
use crate::sys::time::Time;
use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

/// The outgoing side of a worker's channel, and what it has asked.
pub struct Mailbox {
    id: u32,
    socket: OwnedFd,
    outbox: RefCell<Outbox>,
    requests: RefCell<Requests<OnReply>>,
    /// The request that is being handled, until it is answered: who sent it, its number.
    asked: Cell<Option<(Address, u64)>>,
    /// Workers whose queue the master says is full.
    overflowing: RefCell<BTreeSet<WorkerId>>,
}

impl Mailbox {
    pub fn new(id: u32, socket: OwnedFd, outbox: Outbox) -> Self {
        Self {
            id,
            socket,
            outbox: RefCell::new(outbox),
            requests: RefCell::default(),
            asked: Cell::new(None),
            overflowing: RefCell::default(),
        }
    }

    pub fn send(&self, to: u32, kind: u32, bytes: &[u8]) -> Result<(), Undelivered> {
        self.send_as(Purpose::Message, to.into(), kind, 0, bytes, Room::Needed)
    }

    pub fn request(
        &self,
        to: u32,
        kind: u32,
        bytes: &[u8],
        deadline: Duration,
        on_reply: OnReply,
    ) -> Result<(), Undelivered> {
        let to = Address::from(to);
        if to == Address::All {
            return Err(Undelivered::Impossible);
        }
        let number = self.requests.borrow().next_number();
        self.send_as(Purpose::Request, to, kind, number, bytes, Room::Needed)?;
        self.requests.borrow_mut().add(to, Time::now().deadline(deadline), on_reply);
        Ok(())
    }

    pub fn reply(&self, bytes: &[u8]) -> Result<(), Undelivered> {
        let (to, number) = self.asked.get().ok_or(Undelivered::Impossible)?;
        self.send_as(Purpose::Reply, to, 0, number, bytes, Room::Needed)?;
        self.asked.set(None);
        Ok(())
    }

    fn send_as(
        &self,
        purpose: Purpose,
        to: Address,
        kind: u32,
        request: u64,
        bytes: &[u8],
        room: Room,
    ) -> Result<(), Undelivered> {
        if let Address::Worker(id) = to
            && room == Room::Needed
            && self.overflowing.borrow().contains(&id)
        {
            return Err(Undelivered::Full);
        }
        // A process that the worker forked by itself has a copy of the channel.
        if !matches!(role(), Role::Worker { .. }) {
            return Err(Undelivered::Impossible);
        }
        let envelope = Envelope { purpose, from: self.id.into(), to, kind, request };
        self.outbox.borrow_mut().send(self.socket.as_fd(), &envelope, bytes, room)
    }

    /// Sends a notice to the master.
    pub fn notify(&self, notice: &Notice) -> Result<(), Undelivered> {
        self.outbox.borrow_mut().notify(self.socket.as_fd(), notice)
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
        self.outbox.borrow_mut().flush_all(self.socket.as_fd(), patience)
    }

    /// Whether something waits to be sent.
    pub fn waits(&self) -> bool {
        !self.outbox.borrow().is_empty()
    }

    /// When the next request of this worker has waited long enough.
    pub fn due(&self) -> Option<u64> {
        let deadline = self.requests.borrow().next_deadline();
        (deadline < Time::NEVER).then(|| deadline.as_millis())
    }

    /// Gives up the requests whose deadline has come.
    pub fn expire(&self, cx: &mut Context<'_>) {
        loop {
            // A statement of its own: the callback may send requests.
            let expired = self.requests.borrow_mut().take_expired(Time::from_millis(cx.now));
            let Some(call) = expired else { return };
            cx.call(|_| call(Err(Undelivered::TimedOut)));
        }
    }

    /// Gives up the requests to a receiver that has ended; all requests if it is the master, which routes them.
    pub fn gone(&self, receiver: Address, cx: &mut Context<'_>) {
        if let Address::Worker(id) = receiver {
            self.overflowing.borrow_mut().remove(&id);
        }
        let of = (receiver != Address::Master).then_some(receiver);
        let abandoned = self.requests.borrow_mut().take_all(of);
        for call in abandoned {
            cx.call(|_| call(Err(Undelivered::Gone)));
        }
    }

    /// Notes whether the master drops messages to this worker.
    pub fn set_overflowing(&self, id: WorkerId, overflowing: bool) {
        let mut set = self.overflowing.borrow_mut();
        if overflowing {
            set.insert(id)
        } else {
            set.remove(&id)
        };
    }

    fn answered(&self, envelope: &Envelope, result: Result<&[u8], Undelivered>, cx: &mut Context<'_>) {
        let pending = self.requests.borrow_mut().take_answered(envelope.request, envelope.from);
        // A request that is no longer pending has timed out.
        if let Some(call) = pending {
            cx.call(|_| call(result));
        }
    }
}

/// Hands a message to the worker's handler, or to the request that it answers.
pub fn deliver(worker: &Worker, envelope: Envelope, bytes: &[u8], cx: &mut Context<'_>) {
    let mailbox = &*worker.mailbox;
    let message = Message::new(envelope, bytes);
    match envelope.purpose {
        Purpose::Message => {
            cx.call(|handler| handler.on_message(worker, &message));
        }
        Purpose::Request => {
            mailbox.asked.set(Some((envelope.from, envelope.request)));
            cx.call(|handler| handler.on_message(worker, &message));
            if let Some((to, number)) = mailbox.asked.take() {
                let reason = [Undelivered::Unanswered as u8];
                // If the master is gone, the sender cannot be told.
                let _ = mailbox.send_as(Purpose::Failure, to, 0, number, &reason, Room::Ignored);
            }
        }
        Purpose::Reply => mailbox.answered(&envelope, Ok(bytes), cx),
        Purpose::Failure => mailbox.answered(&envelope, Err(Undelivered::from_bytes(bytes)), cx),
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
