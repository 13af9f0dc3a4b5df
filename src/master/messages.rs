//! The master's part in messages: it has the courier carry them, a bounded share each turn, and deals with what is for itself.

use super::courier::Heard;
use super::lifecycle::{Input, NEVER};
use super::{Master, News, Token};
use crate::Kind;
use crate::ids::Page;
use crate::log::log;
use crate::message::{Budget, Verb};
use crate::sys::poll;
use crate::sys::signal;
use std::io;

/// What is carried in a turn in which no connection waits.
const AT_EASE: Budget = Budget::new(128 * 1024, 128);
/// What is carried in a turn in which one does: about as much work as the connection.
const IN_HASTE: Budget = Budget::new(16 * 1024, 4);

impl Master {
    /// Carries messages, and hears what workers have to say.
    pub(super) fn carry_messages(&mut self, connections_wait: bool) {
        let mut budget = if connections_wait { IN_HASTE } else { AT_EASE };
        self.post.borrow().expire(self.now);
        while let Some(heard) = self.post.next(&mut budget, self.now) {
            self.hear(heard);
        }
    }

    /// When messages want the master's attention at the latest, beside what the poll reports (0: at once).
    pub(super) fn messages_due(&self) -> u64 {
        let courier = self.post.borrow();
        if courier.is_busy() { 0 } else { courier.due().unwrap_or(NEVER) }
    }

    fn hear(&mut self, heard: Heard) {
        match heard {
            Heard::Verb(id, verb) => self.heard(id, verb),
            Heard::Mail(mail) => {
                self.tell_message(mail.label.from, mail.label.kind, mail.bytes.len());
                self.news.push_back(News::Mail(mail));
            }
            Heard::Reply(call, result) => self.news.push_back(News::Reply(call, result)),
            Heard::Broken(id, e) => self.kill_broken(id, &e),
            Heard::End(id) => self.kill_deaf(id),
            Heard::Shut(id) => log!(
                "worker {id} has taken no message for 3 s and its queue is full: messages to it are dropped until it does"
            ),
        }
    }

    fn kill_broken(&mut self, id: u32, cause: &io::Error) {
        let Some(worker) = self.crew.find(id) else { return };
        worker.failure = Some(format!("unreadable message ({cause})"));
        let _ = worker.process.kill(signal::SIGKILL);
    }

    /// A worker that has closed its channel is about to end. Where it is not, nobody could tell it anything any more; and where it
    /// is, the signal comes too late to change its exit status.
    fn kill_deaf(&mut self, id: u32) {
        if let Some(worker) = self.crew.find(id) {
            let _ = worker.process.kill(signal::SIGKILL);
        }
    }

    fn heard(&mut self, id: u32, verb: Verb) {
        let Some(worker) = self.crew.find(id) else { return };
        match verb {
            // Too late where SIGKILL is on its way.
            Verb::Ready { .. } if !self.lifecycle.is_starting(id) => {}
            Verb::Ready { kind, limit } => {
                let kind = Kind::from_number(kind).unwrap_or(Kind::Request);
                worker.kind = Some(kind);
                worker.limit =
                    if kind == Kind::Connection { 1 } else { limit.clamp(1, self.config.max_conns) };
                self.kind = kind;
                self.feed(Input::Ready(id));
            }
            Verb::Online => self.tell_online(id),
            Verb::Failed(text) => worker.failure = Some(text),
            Verb::Leaving => self.feed(Input::Leaving(id)),
            other => log!("worker {id}: unexpected message {other:?}; ignored"),
        }
    }

    /// The poll says something about the channel of a seat's worker.
    pub(super) fn mark_channel(&mut self, seat: usize) {
        if let Some(worker) = self.crew.at(seat) {
            self.post.borrow().mark(worker.id);
        }
    }

    /// Has the poll watch channels for what they need now.
    pub(super) fn settle_channels(&self) {
        let (poll, crew) = (&self.poll, &self.crew);
        self.post.borrow().settle(|id, channel, before, after| {
            let token = Token::Messages(Page::at(crew.seat_of(id).ok_or(io::ErrorKind::NotFound)?)).into();
            match (before, after) {
                (None, Some(wanted)) => poll::watch_level_for(poll, channel, token, wanted),
                (Some(_), Some(wanted)) => poll::rewatch_level(poll, channel, token, wanted),
                (_, None) => poll::unwatch(poll, channel),
            }
        });
    }

    /// A worker has been reaped: what it said last is heard, then its channel is closed.
    pub(super) fn close_channel(&mut self, id: u32) {
        self.post.borrow().finish(id);
        self.carry_messages(false);
        let poll = &self.poll;
        self.post.borrow().leave(id, |channel| {
            let _ = poll::unwatch(poll, channel);
        });
    }
}
