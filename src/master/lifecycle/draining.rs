//! Workers that drain beside those that serve: how many there may be.
//!
//! Two bounds, past which the oldest end: former generations, by a setting, and all workers, by what the master has room for. The
//! second holds for whatever has made them drain: reloads, recycling, scaling, single orders.

use super::{Action, Lifecycle, Phase, Worker};
use crate::ids::{Generation, WorkerId};
use crate::sys::time::Time;
use std::collections::BTreeSet;
use std::time::Duration;

/// The time from the deadline that a worker has been told, or the order to end, until it is killed: it sends what its clients take, and
/// ends.
pub(super) const END_GRACE: Duration = Duration::from_secs(1);

impl Lifecycle {
    /// When a worker that is told now to finish in this time is killed; zero is no limit. It ends by itself before, unless it hangs.
    pub(super) fn kill_at(&self, patience: Duration) -> Time {
        if patience.is_zero() { Time::NEVER } else { self.now.deadline(patience) + END_GRACE }
    }

    /// Changes the number of workers that there may be at one time.
    pub fn set_room(&mut self, room: usize) {
        self.rules.room = room;
    }

    /// Has the oldest generations end if more than may do so drain beside the one that serves.
    pub(super) fn bound_generations(&mut self, out: &mut Vec<Action>) {
        if self.reload.is_some() {
            // It may bring back the one before, and must cost nothing until it is committed.
            return;
        }
        let serving = self.generation;
        let is_former = |w: &&Worker| w.phase == Phase::Draining && w.generation != serving;
        let former: BTreeSet<Generation> =
            self.workers.iter().filter(is_former).map(|w| w.generation).collect();
        for oldest in former.iter().take(former.len().saturating_sub(self.rules.max_draining)) {
            for id in self.ids() {
                if self.find(id).is_some_and(|w| w.generation == *oldest) {
                    self.end(id, out);
                }
            }
        }
    }

    /// True if there is room for one more worker. Otherwise has those end that have drained longest, so many that there will be room for
    /// `wanted`.
    pub(super) fn has_room(&mut self, wanted: usize, out: &mut Vec<Action>) -> bool {
        if self.workers.len() < self.rules.room {
            return true;
        }
        let is_leaving = |w: &&Worker| w.phase == Phase::Killed || w.is_ending;
        for _ in self.workers.iter().filter(is_leaving).count()..wanted.max(1) {
            let drains = |w: &&Worker| w.phase == Phase::Draining && !w.is_ending;
            let oldest = self.workers.iter().filter(drains).min_by_key(|w| (w.drains_since, w.id));
            let Some(id) = oldest.map(|w| w.id) else { break };
            self.end(id, out);
        }
        false
    }

    /// Has a worker that drains end what it has.
    fn end(&mut self, id: WorkerId, out: &mut Vec<Action>) {
        let latest = self.now + END_GRACE;
        if let Some(w) = self.find_mut(id).filter(|w| w.phase == Phase::Draining && !w.is_ending) {
            w.is_ending = true;
            w.deadline = w.deadline.min(latest);
            w.ends_from = w.ends_from.min(latest.earlier_by(END_GRACE));
            out.push(Action::End(id));
        }
    }
}
