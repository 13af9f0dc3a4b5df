//! The lifecycle as the next program in the same process continues it.

use super::{Lifecycle, Phase, Reason, Rules, Worker};
use crate::ids::{Generation, Slot, WorkerId};
use crate::sys::time::Time;

/// The part of a lifecycle at rest that the next program must know.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "control", derive(serde::Serialize, serde::Deserialize))]
pub struct Snapshot {
    /// The generation that serves.
    pub generation: Generation,
    /// The last one that was tried.
    pub last_generation: Generation,
    /// The last worker's number.
    pub last_id: WorkerId,
    /// The number of slots.
    pub slots: usize,
    /// The workers, ready or draining.
    pub workers: Vec<SnapshotWorker>,
}

/// A worker in a [`Snapshot`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "control", derive(serde::Serialize, serde::Deserialize))]
pub struct SnapshotWorker {
    pub id: WorkerId,
    pub slot: Slot,
    pub generation: Generation,
    /// When it was forked.
    pub since: Time,
    /// True if it finishes what it has; it is ready otherwise.
    pub draining: bool,
}

impl Lifecycle {
    /// True if nothing is under way that another program could not continue.
    pub fn is_at_rest(&self) -> bool {
        let busy = self.booting || self.is_stopping() || self.reload.is_some() || self.recycling.is_some();
        !busy && self.workers.iter().all(|w| w.can_serve() && !w.is_ending)
    }

    /// Returns what the next program continues with.
    pub fn snapshot(&self) -> Snapshot {
        let worker = |w: &Worker| SnapshotWorker {
            id: w.id,
            slot: w.slot,
            generation: w.generation,
            since: w.since,
            draining: w.phase != Phase::Ready,
        };
        Snapshot {
            generation: self.generation,
            last_generation: self.last_generation,
            last_id: self.last_id,
            slots: self.places.len(),
            workers: self.workers.iter().map(worker).collect(),
        }
    }

    /// Continues from a snapshot, with rules of its own.
    pub fn resume(rules: Rules, from: &Snapshot, now: Time) -> Self {
        let mut life = Self::new(rules, from.slots);
        (life.generation, life.last_generation, life.last_id) =
            (from.generation, from.last_generation, from.last_id);
        (life.booting, life.now, life.due) = (false, now, now);
        for w in &from.workers {
            let mut worker =
                Worker::new(w.id, w.slot, w.generation, w.since, w.since.deadline(rules.max_age));
            worker.phase = Phase::Ready;
            if w.draining {
                worker.phase = Phase::Draining;
                worker.deadline = life.kill_at(rules.drain_timeout);
                worker.leaving = Some(Reason::Drain);
                worker.drains_since = now;
                worker.ends_from = Time::default();
            } else if let Some(place) = life.places.get_mut(w.slot.index()) {
                place.current = Some(w.id);
            }
            life.workers.push(worker);
        }
        life
    }
}
