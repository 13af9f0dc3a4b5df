//! The master's part in messages: it has the courier carry them, a bounded share each turn, and deals with what is for itself.

use super::courier::Heard;
use super::slot::Phase;
use super::{Master, message_token};
use crate::log::log;
use crate::message::{Budget, Verb};
use crate::sys::poll;
use crate::sys::signal;
use std::io;

/// What is carried in a turn in which no connection waits.
const AT_EASE: Budget = Budget::new(512 * 1024, 256);
/// What is carried in a turn in which one does: about as much work as the connection.
const IN_HASTE: Budget = Budget::new(16 * 1024, 4);

impl Master {
    /// Carries messages, and hears what workers have to say.
    pub(super) fn carry_messages(&mut self, connections_wait: bool) {
        let mut budget = if connections_wait { IN_HASTE } else { AT_EASE };
        if self.post.borrow().due().is_some_and(|at| at <= self.now) {
            self.post.borrow().expire(self.now);
        }
        while let Some(heard) = self.post.next(&mut budget, self.now) {
            self.hear(heard);
        }
    }

    fn hear(&mut self, heard: Heard) {
        match heard {
            Heard::Verb(id, verb) => self.heard(id, verb),
            Heard::Mail(mail) => self.post.deliver(&mail, self.on_message.as_mut()),
            Heard::Reply(call, result) => call(result.as_ref().map(Vec::as_slice).map_err(|e| *e)),
            Heard::Broken(id, e) => self.kill_broken(id, &e),
            Heard::End(id) => self.kill_deaf(id),
        }
    }

    fn kill_broken(&mut self, id: u32, cause: &io::Error) {
        let Some(slot) = self.slot_of(id) else { return };
        let Some(worker) = &mut self.slots[slot].worker else { return };
        log!("worker {id}: unreadable message ({cause}); killing it");
        let _ = worker.process.kill(signal::SIGKILL);
        worker.phase = Phase::Killed;
    }

    /// A worker that has closed its channel is about to end. Where it is not, nobody could tell it anything any more; and where it
    /// is, the signal comes too late to change its exit status.
    fn kill_deaf(&self, id: u32) {
        let worker = self.slot_of(id).and_then(|slot| self.slots[slot].worker.as_ref());
        if let Some(worker) = worker {
            let _ = worker.process.kill(signal::SIGKILL);
        }
    }

    fn heard(&mut self, id: u32, verb: Verb) {
        let Some(slot) = self.slot_of(id) else { return };
        let Some(worker) = &mut self.slots[slot].worker else { return };
        match (verb, worker.phase) {
            (Verb::Ready { kind, limit }, Phase::Starting) => {
                worker.phase = Phase::Ready;
                worker.limit = limit.clamp(1, self.config.max_conns);
                self.kind = crate::Kind::from_number(kind).unwrap_or(self.kind);
            }
            // It became ready while SIGKILL was on its way.
            (Verb::Ready { .. }, Phase::Killed) => {}
            (Verb::Failed(text), _) => worker.failure = Some(text),
            (other, phase) => {
                log!("worker {id}: unexpected message {other:?} while {phase:?}; ignored")
            }
        }
    }

    /// The poll says something about the channel of a slot's worker.
    pub(super) fn mark_channel(&mut self, slot: usize) {
        if let Some(worker) = &self.slots[slot].worker {
            self.post.borrow().mark(worker.id);
        }
    }

    /// Has the poll watch channels for what they need now.
    pub(super) fn settle_channels(&mut self) {
        let (poll, slots) = (&self.poll, &self.slots);
        self.post.borrow().settle(|id, channel, before, after| {
            let slot = slots.iter().position(|s| s.worker.as_ref().is_some_and(|w| w.id == id));
            let token = message_token(slot.ok_or(io::ErrorKind::NotFound)?);
            match (before, after) {
                (None, Some(wanted)) => poll::watch_level(poll, channel, token, wanted),
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

    fn slot_of(&self, id: u32) -> Option<usize> {
        self.slots.iter().position(|s| s.worker.as_ref().is_some_and(|w| w.id == id))
    }
}
