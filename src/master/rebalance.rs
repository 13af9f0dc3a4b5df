//! Rebalancing, where the settings ask for it: after a scale-up workers that have more than their share of the connections hand
//! idle ones back, and those with the fewest get them.
//!
//! The master says what to keep and not what to give: an order that is heard late, or twice, takes nothing too much. What comes
//! back takes the way of all that is handed back (`reclaim.rs`); here is only where it goes.

use super::reclaim::Return;
use super::{Master, dispatch};
use crate::Kind;
use crate::ids::WorkerId;
use crate::message::Notice;

/// Looks after the last new worker has become ready, a tick apart: for what was not idle, or not with any worker, at the first.
const LOOKS: u32 = 20;

impl Master {
    /// A worker more than there were is ready.
    pub(super) fn rebalance(&mut self) {
        if self.config.rebalance {
            self.share_looks = LOOKS;
            self.tick_soon();
        }
    }

    /// Has workers with more than their share hand some back; a share is the mean of those that take connections, rounded up. Not
    /// during a reload, in which a connection must not go back to the old generation; and not while connections are under way
    /// that no worker's count holds.
    pub(super) fn look_at_shares(&mut self) {
        if self.share_looks == 0 || self.lifecycle.is_stopping() {
            self.share_looks = 0;
            return;
        }
        self.tick_soon();
        if self.lifecycle.is_reloading() || self.in_hand.is_some() || !self.returns.is_empty() {
            return;
        }
        self.share_looks -= 1;
        let (mut workers, mut connections) = (0u64, 0u64);
        for worker in self.crew.iter().filter(|w| w.takes()) {
            workers += 1;
            connections += u64::from(worker.in_flight());
        }
        let share = connections.checked_div(workers).map_or(0, |n| n + u64::from(connections % workers > 0));
        for seat in self.crew.seats() {
            let over = |w: &&mut super::crew::Record| {
                // Others have nothing that could be handed back.
                w.takes() && w.kind == Some(Kind::Request) && u64::from(w.in_flight()) > share
            };
            let Some(id) = self.crew.at(seat).filter(over).map(|w| w.id) else { continue };
            self.watch_for_returns(id);
            // What could not be said is said at the next look, and one that is gone has nothing to shed.
            let _ = self.messages.router().notify(WorkerId(id), &Notice::Shed { keep: share as u32 });
        }
    }

    /// The worker that has shed what comes from there. One that drains is let in nowhere, so nothing goes back to it anyway.
    pub(super) fn shedder(&self, source: &Return) -> Option<u32> {
        let Return::Living { id, .. } = source else { return None };
        self.crew.iter().any(|w| w.id == *id && w.admitted).then_some(*id)
    }

    /// The slot with the fewest connections beside that of the worker that sheds. `None` where another one has room as soon as it
    /// has taken what lies in its queue; where nobody else will, the worker gets its connection back, so that no client waits.
    pub(super) fn pick_beside(&self, id: u32) -> Option<usize> {
        let crew = &self.crew;
        let beside = |slot: usize| crew.record_behind(slot).filter(|w| w.id != id);
        let other = dispatch::least(crew.slots(), |slot| beside(slot)?.load());
        let will = || (0..crew.slots()).any(|slot| beside(slot).is_some_and(|w| w.will_have_room()));
        if other.is_some() || will() {
            return other;
        }
        dispatch::least(crew.slots(), |slot| crew.load(slot))
    }

    /// The slot for the next connection that comes back. What can be placed is served before what waits for room.
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

    /// Whether something of what comes back could be placed.
    pub(super) fn has_room_for_returns(&self) -> bool {
        self.returns.iter().any(|source| match self.shedder(source) {
            Some(id) => self.pick_beside(id).is_some(),
            None => self.has_room(),
        })
    }
}
