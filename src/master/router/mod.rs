//! The router carries messages between workers, and between workers and the host program. It owns the master's ends of all
//! message channels, knows workers by their ids only, and never waits. The master's loop marks the channels that the poll
//! reports and calls [`Router::carry`], which returns what the master has to act on.
//!
//! Every queue is bounded. A message whose receiver's queue is full is *parked*, and nothing more is read from its sender,
//! so that the sender's own queue fills and its sends are refused. A receiver that takes no byte for three seconds while a
//! message is parked is *overflowing*: messages to it are dropped and their senders notified, so that a worker that sleeps
//! holds up no other for longer.

mod deliver;
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
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

/// The time after which a full queue that moves no byte is overflowing.
const PATIENCE: Duration = Duration::from_secs(3);
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
    pub notified: BTreeSet<WorkerId>,
    /// Workers that await replies of this one, and the number of replies.
    pub awaiting_reply: Vec<(WorkerId, u32)>,
    /// Bytes from the worker that are not carried yet: whole frames and the first part of one.
    pub unread: Vec<u8>,
    /// Bytes to the worker that are not sent yet: the rest of a frame and whole ones.
    pub unsent: Vec<u8>,
}

/// All message channels.
#[derive(Default)]
pub struct Router {
    channels: BTreeMap<WorkerId, WorkerChannel>,
    /// Channels that have something to read or to send, in the order of their turns.
    busy: VecDeque<WorkerId>,
    /// Workers that have sent a message that is parked.
    parked: BTreeSet<WorkerId>,
    /// Channels whose interest may have to change.
    stale_interests: BTreeSet<WorkerId>,
    events: VecDeque<RouterEvent>,
    /// The requests of the host.
    requests: Requests<OnReply>,
    /// The read buffer that idle inboxes share.
    read_buffer: Vec<u8>,
    now: Time,
}

/// The channel of one worker.
struct WorkerChannel {
    socket: OwnedFd,
    page: Page,
    /// The interest that the poll has in it; `None` if it is not registered.
    watched: Option<Interest>,
    /// True if it is in [`Router::busy`], or has its turn.
    is_busy: bool,
    inbox: Inbox,
    /// The message from it that waits for room in its receiver's queue.
    parked: Option<(Envelope, Vec<u8>)>,
    /// True if nothing more is read from it.
    ended: bool,
    outbox: Outbox,
    /// The time since which a message is parked for it and nothing was sent.
    full_since: Option<Time>,
    overflowing: bool,
    /// Workers that were notified that it is overflowing.
    notified: BTreeSet<WorkerId>,
    /// Workers that await replies of this worker, and the number of replies.
    awaiting_reply: BTreeMap<WorkerId, u32>,
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
        let channel = WorkerChannel {
            socket,
            page,
            watched: None,
            is_busy: false,
            inbox,
            parked: None,
            ended: false,
            outbox,
            full_since: None,
            overflowing: false,
            notified: BTreeSet::new(),
            awaiting_reply: BTreeMap::new(),
        };
        self.channels.insert(id, channel);
        self.stale_interests.insert(id);
    }

    /// Reads the rest of what a dead worker has sent, and carries it even to full queues. [`Router::carry`] returns what of
    /// it is for the master.
    pub fn read_rest(&mut self, id: WorkerId) {
        if let Some((envelope, bytes)) = self.unpark(id) {
            self.deliver(envelope, bytes.into(), Room::Ignored);
        }
        let mut budget = REST;
        self.read(id, &mut budget, Room::Ignored);
    }

    /// Removes a worker and notifies those that await its replies.
    pub fn remove(&mut self, id: WorkerId, poll: &Poll) {
        let Some(gone) = self.channels.remove(&id) else { return };
        if gone.watched.is_some() {
            let _ = poll::unwatch(poll, gone.socket.as_fd());
        }
        self.parked.remove(&id);
        self.stale_interests.remove(&id);
        for channel in self.channels.values_mut() {
            channel.awaiting_reply.remove(&id);
            channel.notified.remove(&id);
        }
        let waiting: BTreeSet<WorkerId> = gone.awaiting_reply.into_keys().chain(gone.notified).collect();
        for sender in waiting {
            let _ = self.notify(sender, &Notice::Gone(id));
        }
        for call in self.requests.take_all(Some(Address::Worker(id))) {
            self.events.push_back(RouterEvent::Reply(call, Err(Undelivered::Gone)));
        }
        self.mark_parked();
    }

    /// Numbers the host's requests from here. After an upgrade, a late reply to a request of the former program must not be
    /// taken for one to a request of this program.
    pub fn number_from(&mut self, number: u64) {
        self.requests = Requests::numbered_from(number);
    }

    /// Closes all channels, in a process that is not the master.
    pub fn clear(&mut self) {
        *self = Self::default();
    }

    /// The socket of a worker's channel.
    pub fn channel(&self, id: WorkerId) -> Option<BorrowedFd<'_>> {
        self.channels.get(&id).map(|channel| channel.socket.as_fd())
    }

    /// Returns the state of a channel, for the program that replaces this one.
    pub fn save(&self, id: WorkerId) -> Option<ChannelState> {
        let channel = self.channels.get(&id)?;
        let parked = channel.parked.as_ref();
        let mut unread = parked.map_or_else(Vec::new, |(envelope, bytes)| encode_message(envelope, bytes));
        unread.extend(channel.inbox.unread());
        Some(ChannelState {
            overflowing: channel.overflowing,
            notified: channel.notified.clone(),
            awaiting_reply: channel.awaiting_reply.iter().map(|(id, n)| (*id, *n)).collect(),
            unread,
            unsent: channel.outbox.unsent(),
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
        let inbox = Inbox::new(max_message, state.unread);
        let outbox = Outbox::new(max_message, &state.unsent);
        self.add(id, page, Channel { socket, inbox, outbox });
        if let Some(channel) = self.channels.get_mut(&id) {
            channel.overflowing = state.overflowing;
            channel.notified = state.notified;
            channel.awaiting_reply.extend(state.awaiting_reply);
        }
        // The poll does not report frames that were read already.
        self.mark(id);
    }

    /// Sends a message of the host. A message to all goes to each worker that has room.
    ///
    /// # Errors
    /// [`Undelivered::TooLarge`], [`Undelivered::Full`], [`Undelivered::Gone`], [`Undelivered::Impossible`] to the master
    /// itself.
    pub fn send(&mut self, to: Address, kind: u32, bytes: &[u8]) -> Result<(), Undelivered> {
        let envelope = Envelope { purpose: Purpose::Message, from: Address::Master, to, kind, request: 0 };
        if to != Address::All {
            return self.send_now(&envelope, bytes, Room::Needed);
        }
        let mut result = Ok(());
        let ids: Vec<WorkerId> = self.channels.keys().copied().collect();
        for id in ids {
            let envelope = Envelope { to: Address::Worker(id), ..envelope };
            // A worker that has just ended misses nothing.
            match self.send_now(&envelope, bytes, Room::Needed) {
                Err(Undelivered::Gone) => {}
                sent => result = result.and(sent),
            }
        }
        result
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
        let request = self.requests.next_number();
        let envelope = Envelope { purpose: Purpose::Request, from: Address::Master, to, kind, request };
        self.send_now(&envelope, bytes, Room::Needed)?;
        self.requests.add(to, deadline, on_reply);
        Ok(())
    }

    /// Answers a worker's request to the host.
    ///
    /// # Errors
    /// As [`Router::send`].
    pub fn reply(&mut self, request: &Envelope, bytes: &[u8]) -> Result<(), Undelivered> {
        self.send_now(&request.answer(Purpose::Reply), bytes, Room::Needed)
    }

    /// Notes that a channel may have something to read or room to send.
    pub fn mark(&mut self, id: WorkerId) {
        if let Some(channel) = self.channels.get_mut(&id).filter(|c| !c.is_busy) {
            channel.is_busy = true;
            self.busy.push_back(id);
        }
    }

    /// Reads, carries and sends until there is something for the master, the budget is spent, or no channel is busy.
    pub fn carry(&mut self, budget: &mut Budget, now: Time) -> Option<RouterEvent> {
        if self.now != now {
            self.now = now;
            self.expire();
        }
        loop {
            if let Some(event) = self.events.pop_front() {
                return Some(event);
            }
            if budget.is_spent() {
                return None;
            }
            let Some(id) = self.busy.pop_front() else {
                // What was read now is what had to be read first.
                self.expire();
                return self.events.pop_front();
            };
            if self.serve(id, budget) == Turn::Soon {
                self.busy.push_back(id);
            } else if let Some(channel) = self.channels.get_mut(&id) {
                channel.is_busy = false;
            }
        }
    }

    /// The time at which [`Router::carry`] has something to do even if the poll reports nothing; zero for at once.
    pub fn due(&self) -> Time {
        if !self.busy.is_empty() || !self.events.is_empty() {
            return Time::default();
        }
        let request = self.requests.next_deadline();
        if self.parked.is_empty() {
            return request;
        }
        let full = self.channels.values().filter(|c| !c.overflowing).filter_map(|c| c.full_since);
        full.min().map_or(request, |since| request.min(since + PATIENCE))
    }

    /// True if [`Router::update_poll`] may have something to change.
    pub fn has_stale_interests(&self) -> bool {
        !self.stale_interests.is_empty()
    }

    /// Has the poll watch each channel for what it needs now; to be called before each wait. A channel that cannot be
    /// watched is broken.
    pub fn update_poll(&mut self, poll: &Poll) {
        while let Some(id) = self.stale_interests.pop_first() {
            let Some(channel) = self.channels.get_mut(&id) else { continue };
            let (fd, token) = (channel.socket.as_fd(), Token::Messages(channel.page).into());
            let updated = match (channel.watched, channel.wanted_interest()) {
                (watched, wanted) if watched == wanted => continue,
                (None, Some(wanted)) => poll::watch_level_for(poll, fd, token, wanted),
                (Some(_), Some(wanted)) => poll::rewatch_level(poll, fd, token, wanted),
                (_, None) => poll::unwatch(poll, fd),
            };
            match updated {
                Ok(()) => channel.watched = channel.wanted_interest(),
                Err(e) => self.end(id, RouterEvent::Broken(id, e)),
            }
        }
    }

    /// Ends requests whose deadline has come and whose reply has not, and declares queues overflowing that have been full for too long.
    /// Callbacks of the host may have taken any time: neither counts before the sockets have been asked.
    fn expire(&mut self) {
        if self.requests.next_deadline() <= self.now {
            self.expire_requests();
        }
        if !self.parked.is_empty() {
            self.expire_patience();
        }
    }

    fn expire_requests(&mut self) {
        for to in self.requests.overdue(self.now) {
            let Address::Worker(id) = to else { continue };
            let caught_up = match self.channels.get_mut(&id) {
                Some(channel) if channel.is_read() => {
                    channel.inbox.caught_up(channel.socket.as_fd(), self.now)
                }
                // What it has sent may be read much later.
                _ => Some(self.now),
            };
            let Some(at) = caught_up else {
                self.mark(id);
                continue;
            };
            for call in self.requests.take_expired(at, Some(to)) {
                self.events.push_back(RouterEvent::Reply(call, Err(Undelivered::TimedOut)));
            }
        }
    }

    fn expire_patience(&mut self) {
        let is_late = |c: &WorkerChannel| {
            !c.overflowing && c.full_since.is_some_and(|since| self.now >= since + PATIENCE)
        };
        let late: Vec<WorkerId> =
            self.channels.iter().filter(|(_, c)| is_late(c)).map(|(id, _)| *id).collect();
        for id in &late {
            self.stale_interests.insert(*id);
            if self.flush(*id, &mut SHARE.clone()) {
                continue;
            }
            if let Some(channel) = self.channels.get_mut(id) {
                channel.overflowing = true;
                self.events.push_back(RouterEvent::Overflowing(*id));
            }
        }
        if !late.is_empty() {
            self.mark_parked();
        }
    }

    /// Gives one channel its share of the budget: sends first, since that makes room, then reads.
    fn serve(&mut self, id: WorkerId, budget: &mut Budget) -> Turn {
        let mut share = SHARE.min(*budget);
        let before = share;
        self.stale_interests.insert(id);
        if self.flush(id, &mut share) {
            // Before this channel parks a message again: it is busy, so it would not be marked, and forgotten.
            self.mark_parked();
        }
        let turn = if share.is_spent() { Turn::Soon } else { self.serve_inbox(id, &mut share) };
        budget.spend(before, share);
        turn
    }

    /// Reads, unless a message is parked, or the worker does not read itself.
    fn serve_inbox(&mut self, id: WorkerId, share: &mut Budget) -> Turn {
        if let Some((envelope, bytes)) = self.unpark(id)
            && let Some(bytes) = self.deliver(envelope, bytes.into(), Room::Needed)
        {
            return self.park(id, envelope, bytes);
        }
        if self.channels.get(&id).is_some_and(WorkerChannel::is_over_full) {
            return Turn::WhenMarked;
        }
        self.read(id, share, Room::Needed)
    }

    fn read(&mut self, id: WorkerId, share: &mut Budget, room: Room) -> Turn {
        let Some(channel) = self.channels.get_mut(&id) else { return Turn::WhenMarked };
        // Taken out, because a message borrows from it while it is delivered to other channels.
        let mut inbox = std::mem::take(&mut channel.inbox);
        inbox.borrow_buffer(&mut self.read_buffer);
        let turn = self.read_frames(id, &mut inbox, share, room);
        inbox.return_buffer(&mut self.read_buffer);
        if let Some(channel) = self.channels.get_mut(&id) {
            channel.inbox = inbox;
        }
        turn
    }

    fn read_frames(&mut self, id: WorkerId, inbox: &mut Inbox, share: &mut Budget, room: Room) -> Turn {
        while let Some(channel) = self.channels.get(&id).filter(|c| !c.ended) {
            match inbox.receive(channel.socket.as_fd(), share) {
                Ok(Received::Message(envelope, bytes)) if envelope.from == Address::Worker(id) => {
                    if let Some(bytes) = self.deliver(envelope, bytes, room) {
                        return self.park(id, envelope, bytes);
                    }
                }
                Ok(Received::Notice(notice)) if notice.is_from_worker() => {
                    self.events.push_back(RouterEvent::Notice(id, notice));
                }
                Ok(Received::Nothing) => return Turn::WhenMarked,
                Ok(Received::BudgetSpent) => return Turn::Soon,
                Ok(Received::Closed) => self.end(id, RouterEvent::Closed(id)),
                Ok(Received::Message(..) | Received::Notice(_)) => {
                    self.end(id, RouterEvent::Broken(id, io::ErrorKind::InvalidData.into()));
                }
                Err(e) => self.end(id, RouterEvent::Broken(id, e)),
            }
        }
        Turn::WhenMarked
    }

    fn end(&mut self, id: WorkerId, event: RouterEvent) {
        if let Some(channel) = self.channels.get_mut(&id) {
            channel.ended = true;
        }
        self.events.push_back(event);
    }

    fn park(&mut self, id: WorkerId, envelope: Envelope, bytes: Vec<u8>) -> Turn {
        if let Some(channel) = self.channels.get_mut(&id) {
            channel.parked = Some((envelope, bytes));
            self.parked.insert(id);
        }
        Turn::WhenMarked
    }

    fn unpark(&mut self, id: WorkerId) -> Option<(Envelope, Vec<u8>)> {
        self.parked.remove(&id);
        self.channels.get_mut(&id)?.parked.take()
    }

    /// Marks the channels with a parked message: it may find room now.
    fn mark_parked(&mut self) {
        for id in std::mem::take(&mut self.parked) {
            self.mark(id);
        }
    }
}

impl WorkerChannel {
    /// The interest that the poll should have in the channel.
    fn wanted_interest(&self) -> Option<Interest> {
        let (read, write) = (self.is_read(), !self.outbox.is_empty());
        // With neither it must not be registered at all: epoll would report its end again and again.
        (!self.ended && (read || write)).then_some(Interest { read, write })
    }

    /// True if what the worker sends is read.
    fn is_read(&self) -> bool {
        !self.ended && self.parked.is_none() && !self.is_over_full()
    }

    /// True if more waits than fits, which only frames that bypass the limit can cause: the worker does not read, but keeps
    /// sending.
    fn is_over_full(&self) -> bool {
        self.outbox.waiting() > self.outbox.capacity()
    }
}

#[cfg(test)]
mod tests;
