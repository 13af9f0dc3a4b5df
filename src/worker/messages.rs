//! A worker's messages: what its handler sends, requests and replies, and what arrives for it. Never waits.

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

/// The outgoing direction of a worker's message channel, and the requests that wait for their replies.
pub struct WorkerMessages {
    id: WorkerId,
    socket: OwnedFd,
    outbox: RefCell<Outbox>,
    requests: RefCell<Requests<OnReply>>,
    /// The request that the handler is being called for, until it is answered.
    unanswered: Cell<Option<Envelope>>,
    /// Workers whose queue is full, as the master has told.
    overflowing: RefCell<BTreeSet<WorkerId>>,
}

impl WorkerMessages {
    pub fn new(id: WorkerId, socket: OwnedFd, outbox: Outbox) -> Self {
        Self {
            id,
            socket,
            outbox: RefCell::new(outbox),
            requests: RefCell::default(),
            unanswered: Cell::new(None),
            overflowing: RefCell::default(),
        }
    }

    /// As [`Worker::send`].
    pub fn send(&self, to: u32, kind: u32, bytes: &[u8]) -> Result<(), Undelivered> {
        self.send_new(Purpose::Message, to.into(), kind, 0, bytes)
    }

    /// As [`Worker::request`].
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
        self.send_new(Purpose::Request, to, kind, number, bytes)?;
        self.requests.borrow_mut().add(to, Time::now().deadline(deadline), on_reply);
        Ok(())
    }

    /// As [`Worker::reply`].
    pub fn reply(&self, bytes: &[u8]) -> Result<(), Undelivered> {
        let request = self.unanswered.get().ok_or(Undelivered::Impossible)?;
        self.transmit(&request.answer(Purpose::Reply), bytes, Room::Needed)?;
        self.unanswered.set(None);
        Ok(())
    }

    fn send_new(
        &self,
        purpose: Purpose,
        to: Address,
        kind: u32,
        request: u64,
        bytes: &[u8],
    ) -> Result<(), Undelivered> {
        let envelope = Envelope { purpose, from: Address::Worker(self.id), to, kind, request };
        self.transmit(&envelope, bytes, Room::Needed)
    }

    fn transmit(&self, envelope: &Envelope, bytes: &[u8], room: Room) -> Result<(), Undelivered> {
        if let Address::Worker(id) = envelope.to
            && room == Room::Needed
            && self.overflowing.borrow().contains(&id)
        {
            return Err(Undelivered::Full);
        }
        // A process that the handler forked has a copy of the channel, and would break the order of frames.
        if !matches!(role(), Role::Worker { .. }) {
            return Err(Undelivered::Impossible);
        }
        self.outbox.borrow_mut().send(self.socket.as_fd(), envelope, bytes, room)
    }

    /// Sends a notice to the master.
    pub fn notify(&self, notice: &Notice) -> Result<(), Undelivered> {
        self.outbox.borrow_mut().notify(self.socket.as_fd(), notice)
    }

    /// Sends what waits, as far as the socket takes it.
    pub fn flush(&self) -> io::Result<()> {
        if self.has_unsent() {
            self.outbox.borrow_mut().flush(self.socket.as_fd(), usize::MAX)?;
        }
        Ok(())
    }

    /// Sends all that waits; gives up when the socket takes nothing for `patience`.
    pub fn flush_all(&self, patience: Duration) -> io::Result<()> {
        self.outbox.borrow_mut().flush_all(self.socket.as_fd(), patience)
    }

    /// True if something waits to be sent.
    pub fn has_unsent(&self) -> bool {
        !self.outbox.borrow().is_empty()
    }

    /// The next deadline of a request of this worker.
    pub fn next_deadline(&self) -> Time {
        self.requests.borrow().next_deadline()
    }

    /// Ends the requests whose deadline has come.
    pub fn expire(&self, cx: &mut Context<'_>) {
        loop {
            // Not in the condition of a `while let`, which would keep the borrow: the callback may send requests.
            let expired = self.requests.borrow_mut().take_expired(cx.now);
            let Some(call) = expired else { return };
            cx.call(|_| call(Err(Undelivered::TimedOut)));
        }
    }

    /// Ends the requests to a receiver that has ended; all requests if it is the master, which routes them.
    pub fn forget(&self, receiver: Address, cx: &mut Context<'_>) {
        if let Address::Worker(id) = receiver {
            self.overflowing.borrow_mut().remove(&id);
        }
        let only_to = (receiver != Address::Master).then_some(receiver);
        let ended = self.requests.borrow_mut().take_all(only_to);
        for call in ended {
            cx.call(|_| call(Err(Undelivered::Gone)));
        }
    }

    /// Notes that the master drops messages to this worker, or no longer does.
    pub fn set_overflowing(&self, id: WorkerId, overflowing: bool) {
        let mut set = self.overflowing.borrow_mut();
        let _ = if overflowing { set.insert(id) } else { set.remove(&id) };
    }

    /// Calls the handler with a message, or the callback of the request that it answers.
    pub fn deliver(&self, worker: &Worker, envelope: Envelope, bytes: &[u8], cx: &mut Context<'_>) {
        match envelope.purpose {
            Purpose::Message | Purpose::Request => {
                self.unanswered.set(Some(envelope).filter(|e| e.purpose == Purpose::Request));
                let message = Message::new(envelope, bytes);
                cx.call(|handler| handler.on_message(worker, &message));
                if let Some(request) = self.unanswered.take() {
                    let reason = [Undelivered::Unanswered as u8];
                    // If the master is gone, the sender cannot be told.
                    let _ = self.transmit(&request.answer(Purpose::Failure), &reason, Room::Ignored);
                }
            }
            Purpose::Reply | Purpose::Failure => {
                let pending = self.requests.borrow_mut().take_answered(envelope.request, envelope.from);
                let failed = envelope.purpose == Purpose::Failure;
                let result = if failed { Err(Undelivered::from_bytes(bytes)) } else { Ok(bytes) };
                // A request that is no longer pending has timed out.
                if let Some(call) = pending {
                    cx.call(|_| call(result));
                }
            }
        }
    }
}

impl AsFd for WorkerMessages {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl fmt::Debug for WorkerMessages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WorkerMessages").field("id", &self.id).finish_non_exhaustive()
    }
}
