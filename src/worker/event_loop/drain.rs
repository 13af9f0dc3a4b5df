//! The end of a worker's part: what is idle goes back to the master, the rest is served, nothing new is taken.

use super::{Context, EventLoop, context};
use crate::event::Kind;
use crate::handoff;
use crate::message::Notice;
use crate::scoreboard::Word;
use crate::worker::engine::Deadline;
use crate::worker::failure::report_panic;
use crate::worker::table::Protocol;
use std::time::Duration;
/// The time after which handing back is tried again if the channel to the master was full.
pub(super) const HAND_BACK_AGAIN: Duration = Duration::from_millis(5);
/// Datagrams served at the end, when what a socket still holds would be lost.
const LAST_DATAGRAMS: u32 = 1 << 16;

impl EventLoop<'_> {
    /// The worker is to exit: connections in its queue are accepted already and are served, idle ones are closed soon unless
    /// they are handed back ([`EventLoop::hand_back_idle`]).
    pub(super) fn drain(&mut self) {
        let (worker, is_blocking) = (self.worker, self.kind == Kind::Blocking);
        if is_blocking && !self.drain_begun {
            // First, since serving the rest may take long.
            report_panic("on_drain", context!(self).call("on_drain", |handler| handler.on_drain(worker)));
        }
        while self.take_message() {}
        if !std::mem::replace(&mut self.drain_begun, true) {
            self.leave_own_sockets();
            if !is_blocking {
                report_panic("on_drain", context!(self).call("on_drain", |handler| handler.on_drain(worker)));
            }
        }
        // Also if the master, which was to take them, has died since.
        if !self.channel.orders.hands_back && !std::mem::replace(&mut self.is_closing_idle, true) {
            self.deadlines.shorten_idle(self.now);
            for index in self.table.indexes() {
                // New connections without a request so far are under another deadline.
                if self.is_idle(index) {
                    self.deadlines.set(index, Deadline::Idle, false, self.now);
                }
            }
        }
    }

    /// True if this is an HTTP connection without a request in progress.
    pub(super) fn is_idle(&mut self, index: u32) -> bool {
        matches!(&self.table.row(index).protocol, Protocol::Http(_, conn) if conn.is_idle())
    }

    /// Hands idle HTTP connections back to the master as it has ordered, and continues later if the channel is full.
    pub(super) fn hand_back_idle(&mut self) {
        let Some(keep) = self.channel.orders.keep.filter(|_| self.hand_back_at <= self.now) else { return };
        let (mut message, mut count) = ([0; handoff::MOST], 0);
        for index in self.table.indexes() {
            if self.table.len() - count as u32 <= keep {
                break;
            }
            if !self.is_idle(index) {
                continue;
            }
            message[count] = index;
            count += 1;
            if count == message.len() {
                if !self.hand_back(&message) {
                    return;
                }
                count = 0;
            }
        }
        if count == 0 || self.hand_back(&message[..count]) {
            self.channel.orders.keep = None;
            self.shed_streams(keep);
        }
    }

    /// Tells the master that this worker has given back what it could when it was told to drain, so that the master knows what stays.
    pub(super) fn tell_given_back(&mut self) {
        let orders = &self.channel.orders;
        let is_done = orders.hands_back && orders.keep.is_none() && self.moves.are_done();
        if is_done && !std::mem::replace(&mut self.has_given_back, true) {
            // This fails if the master is gone.
            let _ = self.worker.messages().notify(&Notice::GaveBack);
        }
    }

    /// Hands connections back to the master, all or none; false if they are no HTTP connections, or if the channel is full.
    pub(super) fn hand_back(&mut self, indexes: &[u32]) -> bool {
        let connections = indexes.iter().filter_map(|index| self.table.http(*index));
        if connections.clone().count() < indexes.len() {
            return false;
        }
        if !self.intake.hand_back(connections) {
            self.channel.orders.keep.get_or_insert(0);
            if self.hand_back_at <= self.now {
                self.hand_back_at = self.now + HAND_BACK_AGAIN;
            }
            return false;
        }
        // Before they count as finished.
        self.worker.info.page.add(Word::Moved, indexes.len() as u64);
        for &index in indexes {
            self.unwatch(index);
            self.close(index);
        }
        true
    }

    /// Leaves what waits at the own sockets to the next worker; if none follows, serves it.
    pub(super) fn leave_own_sockets(&mut self) {
        for index in self.intake.own.indexes() {
            let is_last = self.channel.orders.master_is_gone || self.intake.is_last_at(index);
            // A backlog holds at most so many connections; clients that connect meanwhile must not keep this worker.
            let most = if is_last { self.config.backlog } else { 0 };
            (0..most).take_while(|_| self.serve_own_socket(index, LAST_DATAGRAMS)).for_each(drop);
        }
        self.intake.own.close(self.poll, self.now);
    }
}
