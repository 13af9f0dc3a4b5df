//! Reclaim: what a dead or stuck worker has not taken from its queue goes to others.
//!
//! The master reads the queue through its own copy of the worker's end, one connection at a time and only when another worker
//! has room for it: until then the queue itself keeps them.

use super::Master;
use super::accept::InHand;
use super::slot::Phase;
use crate::handoff::{Taken, Taker};
use crate::log::log;

/// How often the master looks for stuck workers while connections are under way (milliseconds).
const TICK: u64 = 100;

/// A queue whose worker will not take what lies in it.
pub struct Orphan {
    queue: Taker,
    slot: usize,
    worker: u32,
}

impl Master {
    /// Puts what lies in a queue up for other workers.
    pub(super) fn orphan(&mut self, queue: Taker, slot: usize, worker: u32) {
        self.orphans.push_back(Orphan { queue, slot, worker });
    }

    /// Takes one connection back. `None` where none is left.
    pub(super) fn reclaim_one(&mut self) -> Option<InHand> {
        while let Some(orphan) = self.orphans.front() {
            match orphan.queue.take() {
                Ok(Taken::Connection(fd, listener)) => {
                    if let Some(worker) = owner(&mut self.slots, orphan) {
                        worker.given = worker.given.wrapping_sub(1);
                    }
                    return Some(InHand { fd, listener });
                }
                Ok(Taken::Probe) => continue,
                Ok(Taken::Lost) => log!("reclaim: no free descriptor, a connection is lost"),
                Ok(Taken::Nothing | Taken::End) => {}
                Err(e) => log!("reclaim from worker {}: {e}", orphan.worker),
            }
            // Empty now. If the worker lives, the next thing it finds is the probe, and taking it shows that it is back.
            if let Some(worker) = owner(&mut self.slots, orphan) {
                worker.giver.probe();
            }
            self.orphans.pop_front();
        }
        None
    }

    /// Closes what is still up for other workers, and returns how many connections that were. What lies in the queue of a
    /// worker that lives is left to it.
    pub(super) fn abandon_orphans(&mut self) -> u64 {
        let mut closed = 0;
        for orphan in std::mem::take(&mut self.orphans) {
            while owner(&mut self.slots, &orphan).is_none()
                && matches!(orphan.queue.take(), Ok(Taken::Connection(..)))
            {
                closed += 1;
            }
        }
        closed
    }

    /// Makes sure that a look for stuck workers follows.
    pub(super) fn tick_soon(&mut self) {
        if self.tick_at.is_none() {
            self.tick_at = Some(self.now + TICK);
            self.arm(self.now + TICK);
        }
    }

    /// A worker that took nothing of what waited for it through a whole tick is stuck: it gets no more, and what waits goes to
    /// others. One that takes again is let in again.
    pub(super) fn look_for_stuck(&mut self) {
        self.tick_at = None;
        for slot in 0..self.slots.len() {
            let seat = self.slots[slot].seat;
            let Some(worker) = self.slots[slot].worker.as_mut().filter(|w| w.phase == Phase::Ready) else {
                continue;
            };
            let progress = worker.progress(seat);
            let moved = progress != worker.last_progress;
            worker.last_progress = progress;
            let queued = worker.queued(seat) > 0;
            let newly_stuck = queued && !moved;
            if moved {
                worker.stuck = false;
            } else if newly_stuck {
                worker.stuck = true;
            }
            let (watch_on, id) = (queued || worker.stuck, worker.id);
            let copy = newly_stuck.then(|| worker.queue.duplicate());
            match copy {
                Some(Ok(queue)) => self.orphan(queue, slot, id),
                Some(Err(e)) => log!("reclaim from worker {id}: {e}; tried again"),
                None => {}
            }
            if watch_on {
                self.tick_soon();
            }
        }
    }
}

/// The worker an orphaned queue belongs to, where it still lives.
fn owner<'a>(slots: &'a mut [super::slot::Slot], orphan: &Orphan) -> Option<&'a mut super::slot::Record> {
    slots[orphan.slot].worker.as_mut().filter(|w| w.id == orphan.worker)
}
