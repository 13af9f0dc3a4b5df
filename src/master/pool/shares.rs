//! Shares of the connections, if the settings ask for them: after a scale-up workers that have more than their share hand idle
//! connections back, and those with the fewest get them.
//!
//! The pool says how many to keep, not how many to give: an order that arrives late, or twice, takes nothing too much. What is
//! handed back takes the way of all returns (`returns.rs`); here is only where it goes.

use super::returns::Return;
use super::{Pool, QueueOf, System, broken, dispatch};
use crate::Kind;
use crate::ids::WorkerId;
use crate::master::lifecycle::Lifecycle;

/// Checks after the last new worker has become ready: for what was not idle, or not with any worker, at the first.
const CHECKS: u32 = 20;

impl<S: System> Pool<S> {
    /// One more worker than before is ready.
    pub fn rebalance(&mut self) {
        if self.rules.rebalance {
            self.share_checks = CHECKS;
            self.check_soon();
        }
    }

    /// Returns how many connections each worker with more than its share is to keep; the share is the mean of those that take
    /// connections, rounded up. Not during a reload, in which a connection must not go back to the old generation; and not while
    /// connections are on their way that are in no worker's count.
    pub(super) fn check_shares(&mut self, lifecycle: &Lifecycle, poll: &S::Poll) -> Vec<(WorkerId, u32)> {
        if self.share_checks == 0 || lifecycle.is_stopping() {
            self.share_checks = 0;
            return Vec::new();
        }
        self.check_soon();
        if lifecycle.is_reloading() || self.parked.is_some() || !self.returns.is_empty() {
            return Vec::new();
        }
        self.share_checks -= 1;
        let eligible = || self.workers.iter().filter(|w| w.is_eligible());
        let connections: u64 = eligible().map(|w| u64::from(w.in_flight())).sum();
        let share = connections.div_ceil((eligible().count() as u64).max(1));
        // Workers of the other kinds have nothing that could be handed back.
        let over = eligible().filter(|w| w.kind == Some(Kind::Request) && u64::from(w.in_flight()) > share);
        let over: Vec<_> = over.map(|w| (w.id, share as u32)).collect();
        for (id, _) in &over {
            self.watch_returns(*id, poll);
        }
        over
    }

    /// Returns the worker that has shed what comes from a queue. One that drains is not admitted, so nothing goes back to it anyway.
    pub(super) fn shedder(&self, source: &Return<QueueOf<S>>) -> Option<WorkerId> {
        let Return::HandedBack(id) = source else { return None };
        self.workers.get(*id).filter(|w| w.admitted).map(|w| w.id)
    }

    /// Chooses the slot with the fewest connections, other than that of the worker that sheds. `None` if another one has room as
    /// soon as it has taken what is queued for it; if no other will, the worker gets its connection back, so that no client waits.
    pub(super) fn pick_beside(&self, id: WorkerId) -> Option<usize> {
        let workers = &self.workers;
        let beside =
            |slot: usize| workers.admitted(slot).filter(|w| w.id != id || broken!(self, ShedToItself));
        let other = dispatch::least(workers.slots(), |slot| beside(slot)?.load(self.rules.max_queued));
        let will = || (0..workers.slots()).any(|slot| beside(slot).is_some_and(|w| w.will_have_room()));
        if other.is_some() || will() {
            return other;
        }
        dispatch::least(workers.slots(), |slot| self.load(slot))
    }

    /// Chooses the slot for the next connection that comes back. A queue of which something can be placed is moved to the front.
    pub(super) fn pick_for_return(&mut self) -> Option<usize> {
        for index in 0..self.returns.len() {
            let slot = match self.shedder(&self.returns[index]) {
                Some(id) => self.pick_beside(id),
                None => self.pick(),
            };
            if slot.is_some() {
                self.returns.swap(0, index);
                return slot;
            }
        }
        None
    }

    /// True if something of what comes back could be placed.
    pub(super) fn has_room_for_returns(&self) -> bool {
        self.returns.iter().any(|source| match self.shedder(source) {
            Some(id) => self.pick_beside(id).is_some(),
            None => self.has_room(),
        })
    }
}
