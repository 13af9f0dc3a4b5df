//! The lifecycle as another program in the same process goes on with it.

use super::{Hang, Lifecycle, NEVER, Phase, Reason, Rules, Worker, after};

/// What the machine of the next program in this process must know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// The generation that serves.
    pub generation: u32,
    /// The last one that was tried.
    pub last_generation: u32,
    /// The last worker's number.
    pub last_id: u32,
    /// The number of slots.
    pub slots: usize,
    /// The workers, ready or draining.
    pub workers: Vec<SnapshotWorker>,
}

/// A worker in a [`Snapshot`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SnapshotWorker {
    /// Its number.
    pub id: u32,
    /// Its slot.
    pub slot: usize,
    /// Its generation.
    pub generation: u32,
    /// When it was forked.
    pub since: u64,
    /// Whether it finishes what it has.
    pub draining: bool,
}

impl Lifecycle {
    /// Whether nothing is under way that another program could not go on with.
    pub fn is_at_rest(&self) -> bool {
        let settled = |w: &Worker| matches!(w.phase, Phase::Ready | Phase::Draining);
        !self.booting
            && self.stopping.is_none()
            && self.reload.is_none()
            && self.recycling.is_none()
            && self.workers.iter().all(settled)
    }

    /// What another machine is to go on with.
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
            slots: self.slots.len(),
            workers: self.workers.iter().map(worker).collect(),
        }
    }

    /// Goes on where another machine stopped.
    pub fn resume(rules: Rules, from: &Snapshot, now: u64, seed: u64) -> Self {
        let mut life = Self::new(rules, from.slots, seed);
        (life.generation, life.last_generation, life.last_id) =
            (from.generation, from.last_generation, from.last_id);
        (life.booting, life.now, life.due) = (false, now, now);
        for w in &from.workers {
            let (phase, wait) = if w.draining {
                (Phase::Draining, after(now, rules.drain_timeout))
            } else {
                (Phase::Ready, after(w.since, rules.max_age))
            };
            life.workers.push(Worker {
                id: w.id,
                slot: w.slot,
                generation: w.generation,
                phase,
                since: w.since,
                deadline: wait,
                busy_since: 0,
                hang: Hang::No,
                worn: false,
                hang_at: NEVER,
                leaving: w.draining.then_some(Reason::Drain),
                sent: 0,
            });
            if let Some(slot) = life.slots.get_mut(w.slot).filter(|_| !w.draining) {
                slot.current = Some(w.id);
            }
        }
        life
    }
}
