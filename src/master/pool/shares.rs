//! Shares of the connections, if the settings ask for them: after a scale-up workers that have more than their share *shed*, that
//! is, hand back idle connections, and those with the fewest get them.
//!
//! An order says how many connections to keep, so that one that arrives late, or twice, takes no more than the share.

use super::returns::Return;
use super::{Pool, System, WorkerEntry, broken, dispatch};
use crate::event::Kind;
use crate::handoff;
use crate::ids::WorkerId;
use crate::master::lifecycle::Lifecycle;

/// Checks after the last new worker has become ready: connections that are not idle at the first may be at a later one.
const CHECKS: u32 = 20;

impl<S: System> Pool<S> {
    /// Plans checks of the shares: one more worker than before is ready.
    pub fn rebalance(&mut self) {
        if self.config.rebalance {
            self.share_checks = CHECKS;
            self.check_soon();
        }
    }

    /// Returns the workers with more than their share, and the number of connections that each is to keep: the mean of the
    /// eligible workers, rounded up. None during a reload, so that no connection goes to the old generation, and none while
    /// connections are in no worker's count.
    pub(super) fn check_shares(&mut self, lifecycle: &Lifecycle, poll: &S::Poll) -> Vec<(WorkerId, u32)> {
        if self.share_checks == 0 || lifecycle.is_stopping() {
            self.share_checks = 0;
            return Vec::new();
        }
        self.check_soon();
        if lifecycle.is_reloading() || !self.parked.is_empty() || !self.returns.is_empty() {
            return Vec::new();
        }
        self.share_checks -= 1;
        let eligible = || self.workers.iter().filter(|w| w.is_eligible());
        let connections: u64 = eligible().map(|w| u64::from(w.in_flight())).sum();
        let share = connections.div_ceil((eligible().count() as u64).max(1));
        // Workers of the other kinds cannot hand back. Those with streams give what their handler gives.
        let can = |kind| matches!(kind, Some(Kind::Request | Kind::Stream));
        let over = eligible().filter(|w| can(w.kind) && u64::from(w.in_flight()) > share);
        let over: Vec<_> = over.map(|w| (w.id, share as u32)).collect();
        for (id, _) in &over {
            self.watch_returns(*id, poll);
        }
        over
    }

    /// Returns the worker that sheds into a queue. A worker that drains gets nothing anyway.
    pub(super) fn shedder(&self, source: &Return<S::Queue>) -> Option<WorkerId> {
        let Return::HandedBack(id) = source else { return None };
        self.workers.get(*id).filter(|w| w.admitted).map(|w| w.id)
    }

    /// Chooses the slot with the fewest connections, other than that of the worker that sheds; `None` if another one will have
    /// room soon. If no other will, the worker gets its connection back, or one that can make room gets it, so that no client waits.
    pub(super) fn pick_other(&self, id: WorkerId) -> Option<usize> {
        let slots = self.workers.slots();
        let except = if broken!(self, ShedToItself) { None } else { Some(id) };
        self.least_with_room(except).or_else(|| {
            let other = |slot| self.workers.admitted(slot).filter(|w| Some(w.id) != except);
            let any_will = (0..slots).filter_map(other).any(WorkerEntry::will_have_room);
            let least =
                |load: fn(&Self, usize) -> Option<u32>| dispatch::least(slots, |slot| load(self, slot));
            if any_will { None } else { least(Self::load).or_else(|| least(Self::load_without_idle)) }
        })
    }

    /// Chooses the slot with the fewest connections among those with room, other than that of one worker: first of the generation
    /// that is to stay, so that nothing moves twice in a reload.
    pub(super) fn least_with_room(&self, except: Option<WorkerId>) -> Option<usize> {
        self.least_staying(except)
            .or_else(|| self.least_of(self.max_queued, |worker| Some(worker.id) != except))
    }

    fn least_staying(&self, except: Option<WorkerId>) -> Option<usize> {
        self.least_of(self.max_queued, |worker| Some(worker.id) != except && self.stays(worker))
    }

    fn least_of(&self, max_queued: u64, is_one: impl Fn(&WorkerEntry<S>) -> bool) -> Option<usize> {
        dispatch::least(self.workers.slots(), |slot| {
            self.workers.admitted(slot).filter(|worker| is_one(worker))?.load(max_queued)
        })
    }

    /// Chooses the slot for one of the connections that came back in a message, of which the first has its slot. A worker that stays
    /// had room for that one: its queue takes the others too.
    pub(super) fn pick_for_rest(&self) -> Option<usize> {
        let stays = |worker: &WorkerEntry<S>| self.stays(worker);
        self.least_of(self.max_queued + handoff::MOST as u64 - 1, stays)
            .or_else(|| self.least_with_room(None))
    }

    fn stays(&self, worker: &WorkerEntry<S>) -> bool {
        worker.generation == self.destination || broken!(self, ReturnedToAnyGeneration)
    }

    /// Chooses the slot for a connection that is parked, or finds no other place.
    pub(super) fn pick_at_once(&mut self) -> Option<usize> {
        if broken!(self, ReturnedInTurn) {
            return self.pick();
        }
        self.pick_for_rest().or_else(|| self.pick())
    }

    /// Chooses the slot for a connection that is in a queue from which it can be taken back, of the worker that has shed it, if one
    /// has. `None` if it has to wait: the worker that is to get it has only to take what is queued for it, which is better than to go
    /// to one that has more, or that leaves next.
    fn pick_for_returned(&self, shed_by: Option<WorkerId>) -> Option<usize> {
        if let Some(id) = shed_by {
            return self.pick_other(id);
        }
        match self.least_of(u64::MAX, |worker| self.stays(worker)) {
            Some(slot) => self.load(slot).map(|_| slot),
            None => {
                let least = self.least_of(self.max_queued, |_| true);
                least.or_else(|| dispatch::least(self.workers.slots(), |slot| self.load_without_idle(slot)))
            }
        }
    }

    /// Chooses the slot for the next connection that is taken back, and moves the queue that has it to the front.
    pub(super) fn pick_for_return(&mut self) -> Option<usize> {
        (0..self.returns.len()).find_map(|index| {
            let slot = match self.shedder(&self.returns[index]) {
                None if broken!(self, ReturnedInTurn) => self.pick(),
                shed_by => self.pick_for_returned(shed_by),
            }?;
            self.returns.swap(0, index);
            Some(slot)
        })
    }

    /// True if a connection that is taken back could be placed now, or soon: when a worker has taken what is queued for it, or is ready.
    pub(super) fn will_have_room_for_returns(&self) -> bool {
        let mut admitted = self.workers.iter().filter(|w| w.admitted).peekable();
        let is_starting = self.workers.iter().any(|w| w.kind.is_none());
        is_starting
            || admitted.peek().is_none()
            || admitted.any(WorkerEntry::will_have_room)
            || self.has_room_for_returns()
    }

    /// True if a connection that is taken back could be placed now.
    pub(super) fn has_room_for_returns(&self) -> bool {
        self.returns.iter().any(|source| self.pick_for_returned(self.shedder(source)).is_some())
    }
}
