//! All streams of a worker, as its handler has them: found by id, walked, and reached by topics in all workers.

use super::conn::Conn;
use super::conns::Conns;
use super::this_worker::{Own, Worker};
use super::topics::is_name;
use crate::message::{Address, Envelope, Purpose, Room, Undelivered};
use crate::scoreboard::Word;
use std::rc::Rc;

impl Worker {
    /// The stream with this id ([`Conn::id`]), in any callback; `None` if it has ended, in blocking style, and outside of the
    /// worker's first thread. An upgraded HTTP connection is a stream.
    pub fn conn(&self, id: u64) -> Option<Rc<Conn>> {
        self.conns_here().ok()?.find(id)
    }

    /// Calls `f` with each stream of this worker, in no particular order, until it returns false. The connections are those that were
    /// there when the running callback began; `f` may write to them and close them.
    ///
    /// # Errors
    /// [`Undelivered::Impossible`] in blocking style, and outside of the worker's first thread; then `f` is not called.
    pub fn each_conn(&self, f: impl FnMut(&Rc<Conn>) -> bool) -> Result<(), Undelivered> {
        self.conns_here()?.each(f);
        Ok(())
    }

    /// Subscribes a stream to a topic: from now on it gets what any worker publishes to that name. Subscribing again does nothing; the end
    /// of the connection ends it.
    ///
    /// # Errors
    /// [`Undelivered::Impossible`] if the name has no byte or more than 255, in blocking style, in another thread than the first, and in
    /// another process; [`Undelivered::Gone`] if the stream has ended.
    pub fn subscribe(&self, conn: &Conn, topic: &str) -> Result<(), Undelivered> {
        let conns = self.conns_here()?;
        check_topic(topic)?;
        self.info.own.topics.subscribe(&conns.find(conn.id()).ok_or(Undelivered::Gone)?, topic);
        Ok(())
    }

    /// Ends a stream's subscription to a topic.
    ///
    /// # Errors
    /// [`Undelivered::Gone`] if it has none; otherwise as [`Worker::subscribe`].
    pub fn unsubscribe(&self, conn: &Conn, topic: &str) -> Result<(), Undelivered> {
        self.conns_here()?;
        if self.info.own.topics.unsubscribe(conn.id(), topic) { Ok(()) } else { Err(Undelivered::Gone) }
    }

    /// Ends all subscriptions of a stream, if it has any.
    ///
    /// # Errors
    /// [`Undelivered::Impossible`] as for [`Worker::subscribe`].
    pub fn unsubscribe_all(&self, conn: &Conn) -> Result<(), Undelivered> {
        self.conns_here()?;
        self.info.own.topics.forget(conn.id());
        Ok(())
    }

    /// Writes bytes to all streams of all workers that have subscribed to a topic, this worker's included; those of others get them by
    /// way of the master. Each gets all of them or none ([`Conn::set_slow`]), and what one worker publishes in the order it was
    /// published. The bytes are written as they are: publish whole frames to WebSocket connections.
    ///
    /// A stream that is on its way to another worker meanwhile ([`crate::Handler::on_handover`]) gets the bytes there, once and in that
    /// order, but not those that were published before that worker was forked; and not if more than 2 MiB are published meanwhile.
    /// [`crate::event::WorkerStatus::skipped`] counts both. Of two workers' publications one stream may get either first.
    ///
    /// # Errors
    /// As [`Worker::publish_elsewhere`]; then no stream gets it.
    pub fn publish(&self, topic: &str, bytes: &[u8]) -> Result<(), Undelivered> {
        self.publish_elsewhere(topic, bytes)?;
        self.count_skipped(self.info.own.topics.publish(topic, bytes));
        Ok(())
    }

    /// As [`Worker::publish`], to the streams of all other workers.
    ///
    /// # Errors
    /// Those of [`Worker::send`], the name of the topic counted as part of the message; [`Undelivered::TooLarge`] also if the bytes are
    /// more than [`crate::config::Limits::pending`], [`Undelivered::Impossible`] also if the name has no byte or more than 255.
    pub fn publish_elsewhere(&self, topic: &str, bytes: &[u8]) -> Result<(), Undelivered> {
        check_topic(topic)?;
        if bytes.len() > self.info.own.conns.most_unsent() {
            // No stream would ever have room for it.
            return Err(Undelivered::TooLarge);
        }
        let from = Address::Worker(self.info.id);
        let kind = topic.len() as u32;
        let messages = self.messages_here()?;
        let request = self.info.own.recent.next_number();
        let envelope = Envelope { purpose: Purpose::Publication, from, to: Address::All, kind, request };
        messages.send(&envelope, &[topic.as_bytes(), bytes].concat(), Room::Needed)?;
        self.info.own.recent.note_own(self.info.id, topic, bytes);
        Ok(())
    }

    pub(super) fn count_skipped(&self, skipped: u64) {
        if skipped > 0 {
            self.info.page.add(Word::Skipped, skipped);
        }
    }

    /// What another worker has published: the topic's name, and the bytes.
    pub(super) fn deliver_publication(&self, envelope: Envelope, bytes: &[u8]) {
        let Own { topics, recent, .. } = &self.info.own;
        let (publisher, number) = (envelope.from.into(), envelope.request);
        if let Some((name, bytes)) = bytes.split_at_checked(envelope.kind as usize)
            && let Ok(name) = str::from_utf8(name)
        {
            recent.note(publisher, number, name, bytes);
            self.count_skipped(if recent.has_ahead() && number > 0 {
                topics.publish_to(name, bytes, |stream| recent.is_new_to(stream, publisher, number))
            } else {
                topics.publish(name, bytes)
            });
        }
    }

    fn conns_here(&self) -> Result<&Conns, Undelivered> {
        // None in a process that the handler has forked, too: that must not write to its parent's clients.
        let is_here = Self::current().is_some();
        if is_here && !self.info.own.conns.is_blocking() {
            Ok(&self.info.own.conns)
        } else {
            Err(Undelivered::Impossible)
        }
    }
}

fn check_topic(name: &str) -> Result<(), Undelivered> {
    if is_name(name) { Ok(()) } else { Err(Undelivered::Impossible) }
}
