//! A worker's messages: what its handler sends, and the requests that wait for replies. Never waits.

use super::this_worker::Worker;
use crate::ids::WorkerId;
use crate::message::{
    Address, Envelope, MessageKind, Notice, OnReply, Outbox, Purpose, Requests, Room, To, Undelivered,
};
use crate::role::{Role, role};
use crate::sys::time::Time;
use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::time::Duration;

/// The outgoing direction of a worker's message channel, and the requests that wait for their replies.
pub struct WorkerMessages {
    /// The channel's socket.
    socket: RefCell<Rc<OwnedFd>>,
    outbox: RefCell<Outbox>,
    pub(super) requests: RefCell<Requests<OnReply>>,
    /// The request that the handler is being called for, until it is answered.
    pub(super) unanswered: Cell<Option<Envelope>>,
    /// Workers whose queue is full, according to the master.
    pub(super) overflowing: RefCell<BTreeSet<WorkerId>>,
    /// In a server that is one process: the other end of `socket`, where this worker writes what it is to read itself.
    loopback: Option<Rc<OwnedFd>>,
}

impl Worker {
    /// Sends a message of a type of your own to another worker ([`To::Worker`]), to the master ([`To::Master`]), or to all other workers
    /// ([`To::All`]). Never waits: bytes that the channel does not take at once are sent when the running callback
    /// has returned and there is room.
    ///
    /// Messages from one process to another arrive in the order they were sent. A message to a worker that has ended is lost;
    /// only [`Worker::request`] reports that.
    ///
    /// # Errors
    /// [`Undelivered::TooLarge`] over [`crate::Config::max_message`]; [`Undelivered::Full`] if four messages of that size wait
    /// already, here or for that worker; [`Undelivered::Gone`] if the master is gone; [`Undelivered::Impossible`] in another thread
    /// than the first, or another process.
    pub fn send(&self, to: impl Into<To>, kind: MessageKind, bytes: &[u8]) -> Result<(), Undelivered> {
        let (from, to) = (Address::Worker(self.info.id), to.into().into());
        let envelope = Envelope { purpose: Purpose::Message, from, to, kind: kind.0, request: 0 };
        self.messages_here()?.send(&envelope, bytes, Room::Needed)
    }

    /// Sends a message that needs a reply. `on_reply` is called once, from this worker's loop: with the reply, or with the
    /// reason why there is none. The deadline is in whole milliseconds; with zero the request waits until the receiver ends.
    ///
    /// # Errors
    /// As [`Worker::send`], and [`Undelivered::Impossible`] to [`To::All`]; then `on_reply` is not called.
    pub fn request(
        &self,
        to: impl Into<To>,
        kind: MessageKind,
        bytes: &[u8],
        deadline: Duration,
        on_reply: impl FnOnce(Result<&[u8], Undelivered>) + 'static,
    ) -> Result<(), Undelivered> {
        let (from, to) = (Address::Worker(self.info.id), Address::from(to.into()));
        if to == Address::All {
            return Err(Undelivered::Impossible);
        }
        let requests = &self.messages_here()?.requests;
        let request = requests.borrow().next_number();
        let envelope = Envelope { purpose: Purpose::Request, from, to, kind: kind.0, request };
        self.messages().send(&envelope, bytes, Room::Needed)?;
        requests.borrow_mut().add(to, Time::now().deadline(deadline), Box::new(on_reply));
        Ok(())
    }

    /// Replies to the request that [`crate::Handler::on_message`] is being called for, once. If that returns without a reply, the
    /// sender gets [`Undelivered::Unanswered`].
    ///
    /// # Errors
    /// As [`Worker::send`]; [`Undelivered::Impossible`] if there is no request to reply to.
    pub fn reply(&self, bytes: &[u8]) -> Result<(), Undelivered> {
        let unanswered = &self.messages_here()?.unanswered;
        let request = unanswered.get().ok_or(Undelivered::Impossible)?;
        self.messages().send(&request.answer(Purpose::Reply), bytes, Room::Needed)?;
        unanswered.set(None);
        Ok(())
    }
}

impl WorkerMessages {
    /// Messages over this socket.
    pub fn new(socket: OwnedFd, outbox: Outbox) -> Self {
        Self {
            socket: RefCell::new(Rc::new(socket)),
            outbox: RefCell::new(outbox),
            requests: RefCell::default(),
            unanswered: Cell::new(None),
            overflowing: RefCell::default(),
            loopback: None,
        }
    }

    /// The messages of a server that is one process: this worker reads at `socket` what it writes to `other_end`.
    pub fn alone(socket: OwnedFd, other_end: OwnedFd, outbox: Outbox) -> Self {
        Self { loopback: Some(Rc::new(other_end)), ..Self::new(socket, outbox) }
    }

    /// The other end of the socket, in a server that is one process.
    pub(super) fn loopback(&self) -> Option<BorrowedFd<'_>> {
        self.loopback.as_ref().map(AsFd::as_fd)
    }

    /// True if there is no master, and no other worker.
    pub fn is_alone(&self) -> bool {
        self.loopback.is_some()
    }

    /// The channel's socket.
    pub fn socket(&self) -> Rc<OwnedFd> {
        Rc::clone(&self.socket.borrow())
    }

    /// Replaces the socket of a worker that has ended: this lives on.
    pub fn replace_socket(&self, socket: Rc<OwnedFd>) {
        self.socket.replace(socket);
    }

    /// The socket at which messages are sent.
    fn way_out(&self) -> Rc<OwnedFd> {
        self.loopback.as_ref().map_or_else(|| self.socket(), Rc::clone)
    }

    /// As [`WorkerMessages::send`], if there is no other process: with the results that there would be if this were the only worker, and
    /// the host had no callback for messages.
    fn send_alone(&self, envelope: &Envelope, bytes: &[u8], room: Room) -> Result<(), Undelivered> {
        let mut outbox = self.outbox.borrow_mut();
        let reason = match envelope.to {
            to if to == envelope.from => return outbox.send(self.way_out().as_fd(), envelope, bytes, room),
            Address::Master => Undelivered::Unanswered,
            Address::All | Address::Worker(_) => Undelivered::Gone,
        };
        outbox.check(bytes.len(), room)?;
        if envelope.purpose != Purpose::Request {
            return Ok(());
        }
        outbox.send(
            self.way_out().as_fd(),
            &envelope.answer(Purpose::Failure),
            &[reason as u8],
            Room::Ignored,
        )
    }

    pub(super) fn send(&self, envelope: &Envelope, bytes: &[u8], room: Room) -> Result<(), Undelivered> {
        if let Address::Worker(id) = envelope.to
            && room == Room::Needed
            && self.overflowing.borrow().contains(&id)
        {
            return Err(Undelivered::Full);
        }
        // A process that the handler forked has a copy of the channel, and its frames would get between this worker's.
        if !matches!(role(), Role::Worker { .. }) {
            return Err(Undelivered::Impossible);
        }
        if self.is_alone() {
            return self.send_alone(envelope, bytes, room);
        }
        self.outbox.borrow_mut().send(self.socket().as_fd(), envelope, bytes, room)
    }

    /// Sends a notice to the master, if there is one.
    pub fn notify(&self, notice: &Notice) -> Result<(), Undelivered> {
        if self.is_alone() {
            return Ok(());
        }
        self.outbox.borrow_mut().notify(self.socket().as_fd(), notice)
    }

    /// Sends what waits, as far as the socket takes it.
    pub fn flush(&self) -> io::Result<()> {
        if self.has_unsent() {
            self.outbox.borrow_mut().flush(self.way_out().as_fd(), usize::MAX)?;
        }
        Ok(())
    }

    /// Sends all that waits; gives up when the socket takes nothing for `patience`.
    pub fn flush_all(&self, patience: Duration) -> io::Result<()> {
        self.outbox.borrow_mut().flush_all(self.socket().as_fd(), patience)
    }

    /// True if something waits to be sent.
    pub fn has_unsent(&self) -> bool {
        !self.outbox.borrow().is_empty()
    }

    /// The next deadline of a request of this worker.
    pub fn next_deadline(&self) -> Time {
        self.requests.borrow().next_deadline()
    }

    /// Notes that the master drops messages to this worker, or no longer does.
    pub fn set_overflowing(&self, id: WorkerId, overflowing: bool) {
        let mut set = self.overflowing.borrow_mut();
        let _ = if overflowing { set.insert(id) } else { set.remove(&id) };
    }
}
