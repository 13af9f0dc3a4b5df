//! The lifecycle as another program in the same process goes on with it.

use super::{Hang, Lifecycle, Phase, Reason, Rules, Worker};
use crate::ids::{Generation, Slot, WorkerId};
use crate::sys::time::Time;

/// What the lifecycle in the next program of this process must know.
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
    /// Its number.
    pub id: WorkerId,
    /// Its slot.
    pub slot: Slot,
    /// Its generation.
    pub generation: Generation,
    /// When it was forked.
    pub since: Time,
    /// Whether it finishes what it has.
    pub draining: bool,
}

impl Lifecycle {
    /// True if nothing is under way that another program could not continue.
    pub fn is_at_rest(&self) -> bool {
        let settled = |w: &Worker| matches!(w.phase, Phase::Ready | Phase::Draining);
        !self.booting
            && self.stopping.is_none()
            && self.reload.is_none()
            && self.recycling.is_none()
            && self.workers.iter().all(settled)
    }

    /// Returns what another program is to continue with.
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

    /// Goes on where another machine stopped.
    pub fn resume(rules: Rules, from: &Snapshot, now: Time, seed: u64) -> Self {
        let mut life = Self::new(rules, from.slots, seed);
        (life.generation, life.last_generation, life.last_id) =
            (from.generation, from.last_generation, from.last_id);
        (life.booting, life.now, life.due) = (false, now, now);
        for w in &from.workers {
            let (phase, wait) = if w.draining {
                (Phase::Draining, now.deadline(rules.drain_timeout))
            } else {
                (Phase::Ready, w.since.deadline(rules.max_age))
            };
            life.workers.push(Worker {
                id: w.id,
                slot: w.slot,
                generation: w.generation,
                phase,
                since: w.since,
                deadline: wait,
                busy_since: Time::default(),
                hang: Hang::No,
                worn: false,
                hang_at: Time::NEVER,
                leaving: w.draining.then_some(Reason::Drain),
                sent: 0,
            });
            if let Some(place) = life.places.get_mut(w.slot.index()).filter(|_| !w.draining) {
                place.current = Some(w.id);
            }
        }
        life
    }
}
