//! The outgoing half of the router: puts messages into the queues of their receivers, and sends what is queued.

use super::{Router, RouterEvent, WorkerChannel};
use crate::ids::WorkerId;
use crate::message::{Address, Budget, Envelope, Notice, Purpose, Room, Undelivered};
use std::borrow::Cow;
use std::os::fd::AsFd;
use std::rc::Rc;

/// A message with at most this many bytes is sent at once, and copied if the socket does not take it; a longer one is sent
/// in shares.
const SHORT: usize = 16 * 1024;

impl Router {
    /// Delivers a message of a worker. Returns the content if the message has to wait for room.
    pub(super) fn deliver(
        &mut self,
        envelope: Envelope,
        bytes: Cow<'_, [u8]>,
        room: Room,
    ) -> Option<Vec<u8>> {
        match (envelope.to, envelope.purpose) {
            (Address::Master, Purpose::Message | Purpose::Request) => {
                self.events.push_back(RouterEvent::Message(envelope, bytes.into_owned()));
            }
            // The host has no subscribers.
            (Address::Master, Purpose::Publication) => {}
            (Address::Master, purpose) => {
                if let Some(call) = self.requests.take_answered(envelope.request, envelope.from) {
                    let failed = purpose == Purpose::Failure;
                    let result =
                        if failed { Err(Undelivered::from_bytes(&bytes)) } else { Ok(bytes.into_owned()) };
                    self.events.push_back(RouterEvent::Reply(call, result));
                }
            }
            (Address::All, Purpose::Message | Purpose::Publication) => {
                return self.deliver_to_all(envelope, bytes, room);
            }
            (Address::All, Purpose::Request) => self.fail(&envelope, Undelivered::Impossible),
            (Address::All, _) => {}
            (Address::Worker(to), _) => return self.deliver_to_worker(envelope, to, bytes, room),
        }
        None
    }

    fn deliver_to_worker(
        &mut self,
        envelope: Envelope,
        to: WorkerId,
        bytes: Cow<'_, [u8]>,
        room: Room,
    ) -> Option<Vec<u8>> {
        let Address::Worker(from) = envelope.from else { return None };
        let answers = matches!(envelope.purpose, Purpose::Reply | Purpose::Failure);
        // A reply to no request is dropped.
        if answers && !self.channels.get(&from).is_some_and(|c| c.awaiting_reply.contains_key(&to)) {
            return None;
        }
        let Some(receiver) = self.channels.get_mut(&to) else {
            if envelope.purpose == Purpose::Request {
                let _ = self.notify(from, &Notice::Gone(to));
            }
            return None;
        };
        if room == Room::Ignored || receiver.outbox.has_room(bytes.len()) {
            receiver.queue(&envelope, bytes);
            if envelope.purpose == Purpose::Request {
                *receiver.awaiting_reply.entry(from).or_default() += 1;
            }
            self.stale_interests.insert(to);
        } else if envelope.purpose == Purpose::Request {
            self.fail(&envelope, Undelivered::Full);
        } else if !receiver.overflowing {
            receiver.full_since.get_or_insert(self.now);
            return Some(bytes.into_owned());
        } else if answers {
            // The failure takes the reply's place. It bypasses the queue limit; such failures are bounded by the requests
            // outstanding.
            let failure = Envelope { purpose: Purpose::Failure, ..envelope };
            receiver.queue(&failure, Cow::Borrowed(&[Undelivered::Full as u8]));
        } else if receiver.notified.insert(from) {
            let _ = self.notify(from, &Notice::Overflowing(to));
        }
        if answers {
            self.count_answer(from, to);
        }
        None
    }

    /// Delivers a broadcast. All receivers get it at the same time, so it waits until no queue is full except overflowing
    /// ones.
    fn deliver_to_all(&mut self, envelope: Envelope, bytes: Cow<'_, [u8]>, room: Room) -> Option<Vec<u8>> {
        let is_receiver =
            |id: &WorkerId, c: &WorkerChannel| Address::Worker(*id) != envelope.from && !c.overflowing;
        if room == Room::Needed {
            let mut receivers = self.channels.iter_mut().filter(|(id, c)| is_receiver(id, c));
            if let Some((_, full)) = receivers.find(|(_, c)| !c.outbox.has_room(bytes.len())) {
                full.full_since.get_or_insert(self.now);
                return Some(bytes.into_owned());
            }
        }
        let bytes = Rc::new(bytes.into_owned());
        for (id, channel) in self.channels.iter_mut().filter(|(id, c)| is_receiver(id, c)) {
            channel.queue_shared(&Envelope { to: Address::Worker(*id), ..envelope }, &bytes);
            self.stale_interests.insert(*id);
        }
        None
    }

    /// Sends a message to a worker.
    pub(super) fn send_now(
        &mut self,
        envelope: &Envelope,
        bytes: &[u8],
        room: Room,
    ) -> Result<(), Undelivered> {
        let Address::Worker(to) = envelope.to else { return Err(Undelivered::Impossible) };
        let channel = self.channels.get_mut(&to).ok_or(Undelivered::Gone)?;
        self.stale_interests.insert(to);
        channel.outbox.send(channel.socket.as_fd(), envelope, bytes, room)
    }

    /// Sends a notice to a worker.
    ///
    /// # Errors
    /// [`Undelivered::Gone`]
    pub fn notify(&mut self, id: WorkerId, notice: &Notice) -> Result<(), Undelivered> {
        let channel = self.channels.get_mut(&id).ok_or(Undelivered::Gone)?;
        self.stale_interests.insert(id);
        channel.outbox.notify(channel.socket.as_fd(), notice)
    }

    /// Tells a worker why its request has no answer. A worker that has ended needs no answer.
    pub fn fail(&mut self, request: &Envelope, reason: Undelivered) {
        let _ = self.send_now(&request.answer(Purpose::Failure), &[reason as u8], Room::Ignored);
    }

    fn count_answer(&mut self, by: WorkerId, to: WorkerId) {
        if let Some(channel) = self.channels.get_mut(&by)
            && let Some(count) = channel.awaiting_reply.get_mut(&to)
        {
            *count -= 1;
            channel.awaiting_reply.retain(|_, count| *count > 0);
        }
    }

    /// Sends what waits for a worker, within its share; returns true if there is more room than before.
    pub(super) fn flush(&mut self, id: WorkerId, share: &mut Budget) -> bool {
        let Some(channel) = self.channels.get_mut(&id).filter(|c| !c.outbox.is_empty()) else {
            return false;
        };
        let Ok(sent) = channel.outbox.flush(channel.socket.as_fd(), share.bytes) else {
            // The worker's end is closed, which reading reports. Messages that wait for room must not wait for this worker.
            channel.outbox.clear();
            return true;
        };
        share.bytes -= sent;
        if sent == 0 {
            return false;
        }
        channel.full_since = None;
        if channel.overflowing && channel.outbox.waiting() <= channel.outbox.capacity() / 2 {
            channel.overflowing = false;
            for sender in std::mem::take(&mut channel.notified) {
                let _ = self.notify(sender, &Notice::HasRoom(id));
            }
        }
        true
    }
}

impl WorkerChannel {
    /// Queues a message, whatever waits already. An error means that the worker has ended, which its pidfd reports.
    fn queue(&mut self, envelope: &Envelope, bytes: Cow<'_, [u8]>) {
        match bytes {
            Cow::Owned(bytes) => self.queue_shared(envelope, &Rc::new(bytes)),
            Cow::Borrowed(bytes) => {
                let _ = self.outbox.send(self.socket.as_fd(), envelope, bytes, Room::Ignored);
            }
        }
    }

    fn queue_shared(&mut self, envelope: &Envelope, bytes: &Rc<Vec<u8>>) {
        if bytes.len() > SHORT {
            self.outbox.add_shared(envelope, bytes.clone());
        } else {
            let _ = self.outbox.send(self.socket.as_fd(), envelope, bytes, Room::Ignored);
        }
    }
}
