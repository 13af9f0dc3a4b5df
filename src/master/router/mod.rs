//! The router carries messages between workers, and between workers and the host program. It owns the master's ends of all
//! message channels, knows workers by their ids only, and never waits. The master's loop marks the channels that the poll
//! reports and calls [`Router::carry`], which returns what the master has to act on.
//!
//! Every queue is bounded. A message whose receiver's queue is full is *parked*, and nothing more is read from its sender,
//! so that the sender's own queue fills and its sends are refused. A receiver that takes no byte for three seconds while a
//! message is parked is *overflowing*: messages to it are dropped and their senders notified, so that a worker that sleeps
//! holds up no other for longer.

mod messages;

pub use messages::{Messages, OnMessage};

use super::Token;
use crate::ids::{Page, WorkerId};
use crate::message::{
    Address, Budget, Channel, Envelope, Inbox, Notice, OnReply, Outbox, Purpose, Received, Requests, Room,
    Undelivered, encode_message,
};
use crate::sys::poll::{self, Interest};
use crate::sys::time::Time;
use mio::Poll;
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::time::Duration;

/// The time after which a full queue that moves no byte is overflowing.
const PATIENCE: Duration = Duration::from_secs(3);
/// A message with at most this many bytes is sent at once, and copied if the socket does not take it; a longer one is sent
/// in shares.
const SHORT: usize = 16 * 1024;
/// The part of a turn's budget that one channel gets before the next has its share.
const SHARE: Budget = Budget::new(64 * 1024, 64);
/// The budget for reading the rest of a dead worker's channel: more than a socket holds, and finite if a process that the
/// worker forked keeps writing.
const REST: Budget = Budget::new(4 << 20, 64 * 1024);

/// Something for the master to act on.
pub enum RouterEvent {
    /// A worker has sent a notice.
    Notice(WorkerId, Notice),
    /// A message or a request for the host, and its content.
    Message(Envelope, Vec<u8>),
    /// A request of the host is over: its callback, and the result to call it with.
    Reply(OnReply, Result<Vec<u8>, Undelivered>),
    /// A worker has sent bytes that are no frame, or a frame that is not a worker's to send. Nothing more is read from it.
    Broken(WorkerId, io::Error),
    /// A worker has closed its end.
    Closed(WorkerId),
    /// Messages to this worker are dropped until it takes some.
    Overflowing(WorkerId),
}

/// The state of one channel that an upgrade carries over, besides its socket.
#[derive(Debug, Default)]
#[cfg_attr(feature = "control", derive(serde::Serialize, serde::Deserialize))]
pub struct ChannelState {
    /// True if messages to the worker are dropped.
    pub overflowing: bool,
    /// Workers that were notified of that.
    pub notified: Vec<u32>,
    /// Workers that await replies of this one, and the number of replies.
    pub awaiting_reply: Vec<(u32, u32)>,
    /// Bytes from the worker that are not carried yet: whole frames and the first part of one.
    pub unread: Vec<u8>,
    /// Bytes to the worker that are not sent yet: the rest of a frame and whole ones.
    pub unsent: Vec<u8>,
}

/// All message channels.
#[derive(Default)]
pub struct Router {
    incoming: BTreeMap<WorkerId, Incoming>,
    delivery: Delivery,
    /// Workers that have sent a message that is parked.
    parked: BTreeSet<WorkerId>,
    /// Channels that have something to read or to send, in the order of their turns.
    busy: VecDeque<WorkerId>,
}

/// The incoming direction of one worker's channel.
struct Incoming {
    socket: Rc<OwnedFd>,
    page: Page,
    inbox: Inbox,
    is_busy: bool,
    /// The message that waits for room in its receiver's queue.
    parked: Option<(Envelope, Rc<Vec<u8>>)>,
    ended: bool,
    /// The interest that the poll has in it; `None` if the channel is not registered.
    watched: Option<Interest>,
}

/// The outgoing directions, and what has come of messages and requests.
#[derive(Default)]
struct Delivery {
    outgoing: BTreeMap<WorkerId, Outgoing>,
    /// Channels whose interest may have to change.
    stale_interests: BTreeSet<WorkerId>,
    events: VecDeque<RouterEvent>,
    /// The requests of the host.
    requests: Requests<OnReply>,
    /// The read buffer that idle inboxes share.
    read_buffer: Vec<u8>,
    now: Time,
}

/// The outgoing direction of one worker's channel.
struct Outgoing {
    socket: Rc<OwnedFd>,
    outbox: Outbox,
    /// The time since which a message is parked for it and nothing was sent.
    full_since: Option<Time>,
    overflowing: bool,
    /// Workers that were notified that it is overflowing.
    notified: BTreeSet<WorkerId>,
    /// Workers that await replies of this worker, and the number of replies.
    awaiting_reply: BTreeMap<WorkerId, u32>,
}

/// The content of a message: borrowed, or shared by its receivers.
enum Bytes<'a> {
    Borrowed(&'a [u8]),
    Shared(Rc<Vec<u8>>),
}

/// Says when a channel needs its next turn.
#[derive(PartialEq, Eq)]
enum Turn {
    /// After the other channels that are busy.
    Soon,
    /// When the poll reports it, or a parked message may find room.
    WhenMarked,
}

impl Router {
    /// Adds a worker; its channel is watched after the next [`Router::update_poll`].
    pub fn add(&mut self, id: WorkerId, page: Page, channel: Channel) {
        let Channel { socket, inbox, outbox } = channel;
        let socket = Rc::new(socket);
        self.delivery.outgoing.insert(id, Outgoing::new(socket.clone(), outbox));
        self.delivery.stale_interests.insert(id);
        let incoming =
            Incoming { socket, page, inbox, is_busy: false, parked: None, ended: false, watched: None };
        self.incoming.insert(id, incoming);
    }

    /// Reads the rest of what a dead worker has sent, and carries it even to full queues. [`Router::carry`] returns what of
    /// it is for the master.
    pub fn read_rest(&mut self, id: WorkerId) {
        let mut budget = REST;
        if let Some(incoming) = self.incoming.get_mut(&id) {
            if let Some((envelope, bytes)) = incoming.parked.take() {
                self.delivery.carry(envelope, Bytes::Shared(bytes), Room::Ignored);
            }
            incoming.read(id, &mut self.delivery, &mut budget, Room::Ignored);
        }
    }

    /// Removes a worker and notifies those that await its replies.
    pub fn remove(&mut self, id: WorkerId, poll: &Poll) {
        let Some(incoming) = self.incoming.remove(&id) else { return };
        if incoming.watched.is_some() {
            let _ = poll::unwatch(poll, incoming.socket.as_fd());
        }
        self.parked.remove(&id);
        self.delivery.remove(id);
        self.mark_parked();
    }

    /// Numbers the host's requests from here. After an upgrade, a late reply to a request of the former program must not be
    /// taken for one to a request of this program.
    pub fn number_from(&mut self, number: u64) {
        self.delivery.requests = Requests::numbered_from(number);
    }

    /// Closes all channels, in a process that is not the master.
    pub fn clear(&mut self) {
        *self = Self::default();
    }

    /// The socket of a worker's channel.
    pub fn channel(&self, id: WorkerId) -> Option<BorrowedFd<'_>> {
        self.incoming.get(&id).map(|incoming| incoming.socket.as_fd())
    }

    /// Returns the state of a channel, for the program that replaces this one.
    pub fn save(&self, id: WorkerId) -> Option<ChannelState> {
        let (incoming, outgoing) = (self.incoming.get(&id)?, self.delivery.outgoing.get(&id)?);
        let mut unread = Vec::new();
        if let Some((envelope, bytes)) = &incoming.parked {
            unread = encode_message(envelope, bytes);
        }
        unread.extend(incoming.inbox.unread());
        Some(ChannelState {
            overflowing: outgoing.overflowing,
            notified: outgoing.notified.iter().map(|id| id.0).collect(),
            awaiting_reply: outgoing.awaiting_reply.iter().map(|(id, n)| (id.0, *n)).collect(),
            unread,
            unsent: outgoing.outbox.unsent(),
        })
    }

    /// Adds a worker whose channel the former program in this process has saved.
    pub fn restore(
        &mut self,
        id: WorkerId,
        page: Page,
        socket: OwnedFd,
        max_message: usize,
        state: ChannelState,
    ) {
        let inbox = Inbox::resume(max_message, state.unread);
        let outbox = Outbox::resume(max_message, &state.unsent);
        self.add(id, page, Channel { socket, inbox, outbox });
        if let Some(outgoing) = self.delivery.outgoing.get_mut(&id) {
            outgoing.overflowing = state.overflowing;
            outgoing.notified.extend(state.notified.into_iter().map(WorkerId));
            outgoing.awaiting_reply.extend(state.awaiting_reply.into_iter().map(|(id, n)| (WorkerId(id), n)));
        }
        // Saved frames are whole already: the poll will not report them.
        self.mark(id);
    }

    /// Sends a notice to a worker.
    ///
    /// # Errors
    /// [`Undelivered::Gone`]
    pub fn notify(&mut self, id: WorkerId, notice: &Notice) -> Result<(), Undelivered> {
        self.delivery.notify(id, notice)
    }

    /// Sends a message of the host. A message to all goes to each worker that has room.
    ///
    /// # Errors
    /// [`Undelivered::TooLarge`], [`Undelivered::Full`], [`Undelivered::Gone`], [`Undelivered::Impossible`] to the master
    /// itself.
    pub fn send(&mut self, to: Address, kind: u32, bytes: &[u8]) -> Result<(), Undelivered> {
        let envelope = Envelope { purpose: Purpose::Message, from: Address::Master, to, kind, request: 0 };
        if to != Address::All {
            return self.delivery.send(&envelope, bytes, Room::Needed);
        }
        let ids: Vec<WorkerId> = self.delivery.outgoing.keys().copied().collect();
        let send = |id| {
            let envelope = Envelope { to: Address::Worker(id), ..envelope };
            self.delivery.send(&envelope, bytes, Room::Needed)
        };
        // Collected before the first error is looked for: one full worker must not keep the message from the others. A
        // worker that has just ended misses nothing.
        let results: Vec<_> = ids.into_iter().map(send).filter(|r| *r != Err(Undelivered::Gone)).collect();
        results.into_iter().collect()
    }

    /// Sends a request of the host; [`Router::carry`] returns `on_reply` with the result.
    ///
    /// # Errors
    /// As [`Router::send`]; [`Undelivered::Impossible`] to all.
    pub fn request(
        &mut self,
        to: Address,
        kind: u32,
        bytes: &[u8],
        deadline: Time,
        on_reply: OnReply,
    ) -> Result<(), Undelivered> {
        if to == Address::All {
            return Err(Undelivered::Impossible);
        }
        let request = self.delivery.requests.next_number();
        let envelope = Envelope { purpose: Purpose::Request, from: Address::Master, to, kind, request };
        self.delivery.send(&envelope, bytes, Room::Needed)?;
        self.delivery.requests.add(to, deadline, on_reply);
        Ok(())
    }

    /// Answers a worker's request to the host.
    ///
    /// # Errors
    /// As [`Router::send`].
    pub fn reply(&mut self, request: &Envelope, bytes: &[u8]) -> Result<(), Undelivered> {
        self.delivery.send(&request.answer(Purpose::Reply), bytes, Room::Needed)
    }

    /// Tells a worker why its request to the host has no answer.
    pub fn fail(&mut self, request: &Envelope, reason: Undelivered) {
        self.delivery.fail(request, reason);
    }

    /// Notes that the poll has reported a worker's channel.
    pub fn mark(&mut self, id: WorkerId) {
        if let Some(incoming) = self.incoming.get_mut(&id).filter(|i| !i.is_busy) {
            incoming.is_busy = true;
            self.busy.push_back(id);
        }
    }

    /// Reads, carries and sends until there is something for the master, the budget is spent, or no channel is busy.
    pub fn carry(&mut self, budget: &mut Budget, now: Time) -> Option<RouterEvent> {
        if self.delivery.now != now {
            self.delivery.now = now;
            self.expire();
        }
        loop {
            if let Some(event) = self.delivery.events.pop_front() {
                return Some(event);
            }
            if budget.is_spent() {
                return None;
            }
            let id = self.busy.pop_front()?;
            if self.serve(id, budget) == Turn::Soon {
                self.busy.push_back(id);
            } else if let Some(incoming) = self.incoming.get_mut(&id) {
                incoming.is_busy = false;
            }
        }
    }

    /// The time at which [`Router::carry`] has something to do even if the poll reports nothing; zero for at once.
    pub fn due(&self) -> Time {
        if !self.busy.is_empty() || !self.delivery.events.is_empty() {
            return Time::default();
        }
        let request = self.delivery.requests.next_deadline();
        if self.parked.is_empty() {
            return request;
        }
        let full = self.delivery.outgoing.values().filter(|o| !o.overflowing).filter_map(|o| o.full_since);
        full.min().map_or(request, |since| request.min(since + PATIENCE))
    }

    /// True if [`Router::update_poll`] may have something to change.
    pub fn has_stale_interests(&self) -> bool {
        !self.delivery.stale_interests.is_empty()
    }

    /// Has the poll watch each channel for what it needs now; to be called before each wait. A channel that cannot be
    /// watched is broken.
    pub fn update_poll(&mut self, poll: &Poll) {
        while let Some(id) = self.delivery.stale_interests.pop_first() {
            let Some(incoming) = self.incoming.get_mut(&id) else { continue };
            let Some(outgoing) = self.delivery.outgoing.get(&id) else { continue };
            let wanted = incoming.wanted_interest(outgoing);
            let (channel, token) = (incoming.socket.as_fd(), Token::Messages(incoming.page).into());
            let updated = match (incoming.watched, wanted) {
                (watched, wanted) if watched == wanted => continue,
                (None, Some(wanted)) => poll::watch_level_for(poll, channel, token, wanted),
                (Some(_), Some(wanted)) => poll::rewatch_level(poll, channel, token, wanted),
                (_, None) => poll::unwatch(poll, channel),
            };
            match updated {
                Ok(()) => incoming.watched = wanted,
                Err(e) => incoming.end(&mut self.delivery, RouterEvent::Broken(id, e)),
            }
        }
    }

    /// Ends requests whose deadline has come, and declares queues overflowing that have been full for too long.
    fn expire(&mut self) {
        let now = self.delivery.now;
        while let Some(call) = self.delivery.requests.take_expired(now) {
            self.delivery.events.push_back(RouterEvent::Reply(call, Err(Undelivered::TimedOut)));
        }
        if self.parked.is_empty() {
            return;
        }
        let is_late =
            |o: &Outgoing| !o.overflowing && o.full_since.is_some_and(|since| now >= since + PATIENCE);
        let mut any = false;
        for (id, outgoing) in self.delivery.outgoing.iter_mut().filter(|(_, o)| is_late(o)) {
            (outgoing.overflowing, any) = (true, true);
            self.delivery.events.push_back(RouterEvent::Overflowing(*id));
        }
        if any {
            self.mark_parked();
        }
    }

    /// Gives one channel its share of the budget: sends first, since that makes room, then reads.
    fn serve(&mut self, id: WorkerId, budget: &mut Budget) -> Turn {
        let Some(incoming) = self.incoming.get_mut(&id) else { return Turn::WhenMarked };
        self.delivery.stale_interests.insert(id);
        let mut share = SHARE.min(*budget);
        let before = share;
        let made_room = self.delivery.flush(id, &mut share);
        let turn =
            if share.is_spent() { Turn::Soon } else { incoming.serve(id, &mut self.delivery, &mut share) };
        if incoming.parked.is_some() {
            self.parked.insert(id);
        } else {
            self.parked.remove(&id);
        }
        budget.spend(before, share);
        if made_room {
            self.mark_parked();
        }
        turn
    }

    /// Marks the channels with a parked message: it may find room now.
    fn mark_parked(&mut self) {
        for id in std::mem::take(&mut self.parked) {
            self.mark(id);
        }
    }
}

impl Incoming {
    /// Reads, unless a message is parked, or the worker does not read itself.
    fn serve(&mut self, id: WorkerId, delivery: &mut Delivery, share: &mut Budget) -> Turn {
        if let Some((envelope, bytes)) = self.parked.take()
            && let Some(bytes) = delivery.carry(envelope, Bytes::Shared(bytes), Room::Needed)
        {
            self.parked = Some((envelope, bytes));
            return Turn::WhenMarked;
        }
        if delivery.outgoing.get(&id).is_some_and(Outgoing::is_over_full) {
            return Turn::WhenMarked;
        }
        self.read(id, delivery, share, Room::Needed)
    }

    fn read(&mut self, id: WorkerId, delivery: &mut Delivery, share: &mut Budget, room: Room) -> Turn {
        self.inbox.borrow_buffer(&mut delivery.read_buffer);
        let turn = self.read_frames(id, delivery, share, room);
        self.inbox.return_buffer(&mut delivery.read_buffer);
        turn
    }

    fn read_frames(&mut self, id: WorkerId, delivery: &mut Delivery, share: &mut Budget, room: Room) -> Turn {
        while !self.ended {
            match self.inbox.receive(self.socket.as_fd(), share) {
                Ok(Received::Message(envelope, bytes)) if envelope.from == Address::Worker(id) => {
                    if let Some(bytes) = delivery.carry(envelope, bytes.into(), room) {
                        self.parked = Some((envelope, bytes));
                        return Turn::WhenMarked;
                    }
                }
                Ok(Received::Notice(notice)) if notice.is_from_worker() => {
                    delivery.events.push_back(RouterEvent::Notice(id, notice));
                }
                Ok(Received::Nothing) => return Turn::WhenMarked,
                Ok(Received::BudgetSpent) => return Turn::Soon,
                Ok(Received::Closed) => self.end(delivery, RouterEvent::Closed(id)),
                Ok(Received::Message(..) | Received::Notice(_)) => {
                    self.end(delivery, RouterEvent::Broken(id, io::ErrorKind::InvalidData.into()));
                }
                Err(e) => self.end(delivery, RouterEvent::Broken(id, e)),
            }
        }
        Turn::WhenMarked
    }

    fn end(&mut self, delivery: &mut Delivery, event: RouterEvent) {
        self.ended = true;
        delivery.events.push_back(event);
    }

    /// The interest that the poll should have in the channel.
    fn wanted_interest(&self, outgoing: &Outgoing) -> Option<Interest> {
        let read = self.parked.is_none() && !outgoing.is_over_full();
        let write = !outgoing.outbox.is_empty();
        // With neither it must not be registered at all: epoll would report its end again and again.
        (!self.ended && (read || write)).then_some(Interest { read, write })
    }
}

impl Delivery {
    /// Carries a message of a worker to its receiver. Returns the content if the message has to wait for room.
    fn carry(&mut self, envelope: Envelope, bytes: Bytes<'_>, room: Room) -> Option<Rc<Vec<u8>>> {
        match (envelope.to, envelope.purpose) {
            (Address::Master, Purpose::Message | Purpose::Request) => {
                self.events.push_back(RouterEvent::Message(envelope, bytes.into_vec()));
            }
            (Address::Master, purpose) => {
                if let Some(call) = self.requests.take_answered(envelope.request, envelope.from) {
                    let reply = bytes.into_vec();
                    let failed = purpose == Purpose::Failure;
                    let result = if failed { Err(Undelivered::from_bytes(&reply)) } else { Ok(reply) };
                    self.events.push_back(RouterEvent::Reply(call, result));
                }
            }
            (Address::All, Purpose::Message) => return self.carry_to_all(envelope, bytes, room),
            (Address::All, Purpose::Request) => self.fail(&envelope, Undelivered::Impossible),
            (Address::All, _) => {}
            (Address::Worker(to), _) => return self.carry_to_worker(envelope, to, bytes, room),
        }
        None
    }

    fn carry_to_worker(
        &mut self,
        envelope: Envelope,
        to: WorkerId,
        bytes: Bytes<'_>,
        room: Room,
    ) -> Option<Rc<Vec<u8>>> {
        let Address::Worker(from) = envelope.from else { return None };
        let answers = matches!(envelope.purpose, Purpose::Reply | Purpose::Failure);
        // A reply to no request is dropped.
        if answers && !self.outgoing.get(&from).is_some_and(|o| o.awaiting_reply.contains_key(&to)) {
            return None;
        }
        let Some(outgoing) = self.outgoing.get_mut(&to) else {
            if envelope.purpose == Purpose::Request {
                let _ = self.notify(from, &Notice::Gone(to));
            }
            return None;
        };
        if room == Room::Ignored || outgoing.outbox.has_room(bytes.len()) {
            outgoing.queue(&envelope, bytes);
            if envelope.purpose == Purpose::Request {
                *outgoing.awaiting_reply.entry(from).or_default() += 1;
            }
            self.stale_interests.insert(to);
        } else if envelope.purpose == Purpose::Request {
            self.fail(&envelope, Undelivered::Full);
        } else if !outgoing.overflowing {
            outgoing.full_since.get_or_insert(self.now);
            return Some(bytes.into_shared());
        } else if answers {
            // The failure takes the reply's place. It bypasses the queue limit; such failures are bounded by the requests
            // outstanding.
            let failure = Envelope { purpose: Purpose::Failure, ..envelope };
            outgoing.queue(&failure, Bytes::Borrowed(&[Undelivered::Full as u8]));
        } else if outgoing.notified.insert(from) {
            let _ = self.notify(from, &Notice::Overflowing(to));
        }
        if answers {
            self.count_answer(from, to);
        }
        None
    }

    /// Carries a broadcast. All receivers get it at the same time, so it waits until no queue is full except overflowing
    /// ones.
    fn carry_to_all(&mut self, envelope: Envelope, bytes: Bytes<'_>, room: Room) -> Option<Rc<Vec<u8>>> {
        let bytes = bytes.into_shared();
        let is_receiver =
            |id: &WorkerId, o: &Outgoing| Address::Worker(*id) != envelope.from && !o.overflowing;
        if room == Room::Needed {
            let mut receivers = self.outgoing.iter_mut().filter(|(id, o)| is_receiver(id, o));
            if let Some((_, full)) = receivers.find(|(_, o)| !o.outbox.has_room(bytes.len())) {
                full.full_since.get_or_insert(self.now);
                return Some(bytes);
            }
        }
        for (id, outgoing) in self.outgoing.iter_mut().filter(|(id, o)| is_receiver(id, o)) {
            outgoing.queue(&Envelope { to: Address::Worker(*id), ..envelope }, Bytes::Shared(bytes.clone()));
            self.stale_interests.insert(*id);
        }
        None
    }

    fn send(&mut self, envelope: &Envelope, bytes: &[u8], room: Room) -> Result<(), Undelivered> {
        let Address::Worker(to) = envelope.to else { return Err(Undelivered::Impossible) };
        let outgoing = self.outgoing.get_mut(&to).ok_or(Undelivered::Gone)?;
        self.stale_interests.insert(to);
        outgoing.outbox.send(outgoing.socket.as_fd(), envelope, bytes, room)
    }

    fn notify(&mut self, id: WorkerId, notice: &Notice) -> Result<(), Undelivered> {
        let outgoing = self.outgoing.get_mut(&id).ok_or(Undelivered::Gone)?;
        self.stale_interests.insert(id);
        outgoing.outbox.notify(outgoing.socket.as_fd(), notice)
    }

    /// Tells a worker why its request has no answer. A worker that has ended needs no answer.
    fn fail(&mut self, request: &Envelope, reason: Undelivered) {
        let _ = self.send(&request.answer(Purpose::Failure), &[reason as u8], Room::Ignored);
    }

    fn count_answer(&mut self, by: WorkerId, to: WorkerId) {
        let Some(outgoing) = self.outgoing.get_mut(&by) else { return };
        if let Some(count) = outgoing.awaiting_reply.get_mut(&to) {
            *count -= 1;
            if *count == 0 {
                outgoing.awaiting_reply.remove(&to);
            }
        }
    }

    /// Sends what waits for a worker, within its share; returns true if there is more room than before.
    fn flush(&mut self, id: WorkerId, share: &mut Budget) -> bool {
        let Some(outgoing) = self.outgoing.get_mut(&id).filter(|o| !o.outbox.is_empty()) else {
            return false;
        };
        let Ok(sent) = outgoing.outbox.flush(outgoing.socket.as_fd(), share.bytes) else {
            // The worker's end is closed. Reading reports that; here only those that wait for room matter.
            outgoing.outbox.clear();
            return true;
        };
        share.bytes -= sent;
        if sent == 0 {
            return false;
        }
        outgoing.full_since = None;
        if outgoing.overflowing && outgoing.outbox.waiting() <= outgoing.outbox.capacity() / 2 {
            outgoing.overflowing = false;
            for sender in std::mem::take(&mut outgoing.notified) {
                let _ = self.notify(sender, &Notice::HasRoom(id));
            }
        }
        true
    }

    fn remove(&mut self, id: WorkerId) {
        self.stale_interests.remove(&id);
        let Some(gone) = self.outgoing.remove(&id) else { return };
        for outgoing in self.outgoing.values_mut() {
            outgoing.awaiting_reply.remove(&id);
            outgoing.notified.remove(&id);
        }
        let waiting: BTreeSet<WorkerId> = gone.awaiting_reply.into_keys().chain(gone.notified).collect();
        for sender in waiting {
            let _ = self.notify(sender, &Notice::Gone(id));
        }
        for call in self.requests.take_all(Some(Address::Worker(id))) {
            self.events.push_back(RouterEvent::Reply(call, Err(Undelivered::Gone)));
        }
    }
}

impl Outgoing {
    fn new(socket: Rc<OwnedFd>, outbox: Outbox) -> Self {
        let (notified, awaiting_reply) = (BTreeSet::new(), BTreeMap::new());
        Self { socket, outbox, full_since: None, overflowing: false, notified, awaiting_reply }
    }

    /// True if more waits than fits, which only frames that bypass the limit can cause: the worker does not read, but sends
    /// on.
    fn is_over_full(&self) -> bool {
        self.outbox.waiting() > self.outbox.capacity()
    }

    /// Puts a message into the queue. An error means that the worker has ended, which its pidfd reports.
    fn queue(&mut self, envelope: &Envelope, bytes: Bytes<'_>) {
        let _ = match bytes {
            Bytes::Shared(bytes) if bytes.len() > SHORT => {
                self.outbox.send_shared(envelope, &bytes, Room::Ignored)
            }
            bytes => self.outbox.send(self.socket.as_fd(), envelope, bytes.as_slice(), Room::Ignored),
        };
    }
}

impl Bytes<'_> {
    fn as_slice(&self) -> &[u8] {
        match self {
            Self::Borrowed(bytes) => bytes,
            Self::Shared(bytes) => bytes,
        }
    }

    fn len(&self) -> usize {
        self.as_slice().len()
    }

    fn into_shared(self) -> Rc<Vec<u8>> {
        match self {
            Self::Borrowed(bytes) => Rc::new(bytes.to_vec()),
            Self::Shared(bytes) => bytes,
        }
    }

    fn into_vec(self) -> Vec<u8> {
        Rc::unwrap_or_clone(self.into_shared())
    }
}

impl<'a> From<Cow<'a, [u8]>> for Bytes<'a> {
    fn from(bytes: Cow<'a, [u8]>) -> Self {
        match bytes {
            Cow::Borrowed(bytes) => Self::Borrowed(bytes),
            Cow::Owned(bytes) => Self::Shared(Rc::new(bytes)),
        }
    }
}

#[cfg(test)]
mod tests;
