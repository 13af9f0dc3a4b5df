//! The health of workers: if they take what they are given, how long they have been in a call, how large they are.
//!
//! Workers are checked twenty times a second, but only while connections are in flight or the settings ask for it.

use super::{Link, Pool, System, broken};
use crate::ids::WorkerId;
use crate::master::lifecycle::{Input, Lifecycle};
use crate::scoreboard::Word;
use crate::sys::time::Time;
use std::time::Duration;

/// The time between two checks. What a stuck worker has not taken is reclaimed after at most two of them.
pub const CHECK: Duration = Duration::from_millis(50);
/// The time between two checks of the memory of workers.
pub(super) const MEMORY_CHECK: Duration = Duration::from_secs(1);

/// The time until a worker is replaced that was too large from the start, doubled each time ...
const FIRST_WAIT: Duration = Duration::from_secs(60);
/// ... up to this.
const LAST_WAIT: Duration = Duration::from_secs(3600);

/// What is known of the limit on memory.
#[derive(Default)]
pub struct MemoryLimit {
    /// True if the log says that new workers are beyond it.
    is_told: bool,
    /// The time from the next replacement of such a worker to the one after it.
    wait: Duration,
    /// No such worker is replaced before.
    next_at: Time,
}

/// The findings of a check.
#[derive(Default)]
pub struct Findings {
    /// Inputs for the lifecycle, in this order.
    pub inputs: Vec<Input>,
    /// Workers that are to hand back idle connections, and the number that each is to keep.
    pub sheds: Vec<(WorkerId, u32)>,
}

impl<S: System> Pool<S> {
    /// Does what is due.
    pub fn run_timers(&mut self, lifecycle: &Lifecycle, poll: &S::Poll) -> Findings {
        let mut findings = Findings::default();
        if self.check_at <= self.now {
            self.check_at = Time::NEVER;
            self.find_stuck();
            self.report_calls(&mut findings.inputs);
            findings.sheds = self.check_shares(lifecycle, poll);
        }
        if self.memory_at <= self.now {
            self.memory_at = self.now + MEMORY_CHECK;
            self.find_large(&mut findings.inputs);
        }
        if self.shortage_until <= self.now {
            self.shortage_until = Time::NEVER;
            self.system.refill_reserve();
        }
        if self.watches_calls() {
            self.check_soon();
        }
        findings
    }

    /// Makes sure that a check follows.
    pub(super) fn check_soon(&mut self) {
        if self.check_at == Time::NEVER {
            self.check_at = self.now + if broken!(self, ChecksSeldom) { 2 * CHECK } else { CHECK };
        }
    }

    /// Finds workers that took nothing of what was queued for them between two checks. They are stuck: they get no more, and what
    /// is queued goes to others. One that takes something is eligible again.
    fn find_stuck(&mut self) {
        for page in self.workers.pages() {
            let Some(worker) = self.workers.at(page).filter(|w| w.admitted) else { continue };
            let progress = worker.progress();
            let moved = progress != worker.last_progress;
            worker.last_progress = progress;
            let queued = worker.queued() > 0;
            // Connections queued since the last check do not count yet.
            let newly_stuck = std::mem::replace(&mut worker.was_queued, queued) && queued && !moved;
            worker.stuck = newly_stuck || worker.stuck && (!moved || broken!(self, StuckForever));
            let (check_again, id) = (queued || worker.stuck, worker.id);
            if newly_stuck {
                self.be_cautious(super::AFTER_A_HALT);
                if !broken!(self, StuckNotReclaimed) {
                    self.reclaim_queue(id);
                }
            } else if worker.stuck {
                // The last probe may not have found room, or was reclaimed; without one the worker would stay stuck.
                worker.probe();
            }
            if check_again {
                self.check_soon();
            }
        }
    }

    /// Reports the starts of workers' calls that have changed, and the workers that have served enough requests.
    pub fn report_calls(&mut self, inputs: &mut Vec<Input>) {
        for worker in self.workers.iter_mut() {
            let since = worker.link.count(Word::BusySince);
            if worker.max_requests > 0 && worker.link.count(Word::Requests) >= worker.max_requests {
                worker.max_requests = 0;
                inputs.push(Input::Worn(worker.id));
            }
            if since != std::mem::replace(&mut worker.busy_reported, since) && !self.config.timeout.is_zero()
            {
                // The worker writes it, so it may be nonsense: at most now.
                inputs.push(Input::Busy(worker.id, Time::from_millis(since).min(self.now)));
            }
        }
    }

    /// Looks at the memory of a worker that has not served yet.
    pub(super) fn weigh(&mut self, id: WorkerId) {
        let limit = self.config.max_memory;
        let Some(worker) = self.workers.get_mut(id).filter(|w| limit > 0 && w.born_large.is_none()) else {
            return;
        };
        let Some(bytes) = worker.link.memory() else { return };
        worker.born_large = Some(bytes > limit);
        if bytes <= limit {
            self.memory_limit = MemoryLimit::default();
        } else if !std::mem::replace(&mut self.memory_limit.is_told, true) {
            self.memory_limit.wait = FIRST_WAIT;
            self.memory_limit.next_at = self.now + FIRST_WAIT;
            self.system.log(format_args!(
                "max-memory is {limit} bytes, but a worker that has served nothing uses {bytes}: the limit is too low; workers are \
                 replaced for it at growing intervals"
            ));
        }
    }

    fn find_large(&mut self, inputs: &mut Vec<Input>) {
        let limit = self.config.max_memory;
        for worker in self.workers.iter().filter(|w| w.admitted) {
            if worker.link.memory().is_none_or(|bytes| bytes <= limit) {
                continue;
            }
            if worker.born_large == Some(true) {
                // A successor would be as large. But it may have grown beyond that, so it is not kept for ever.
                if self.memory_limit.next_at > self.now {
                    continue;
                }
                self.memory_limit.wait = (self.memory_limit.wait * 2).min(LAST_WAIT);
                self.memory_limit.next_at = self.now + self.memory_limit.wait;
            }
            inputs.push(Input::Worn(worker.id));
        }
    }

    /// True if workers are to be checked even if nothing is given to them.
    fn watches_calls(&self) -> bool {
        let busy = || self.workers.iter().any(|w| w.busy_reported > 0 || w.in_flight() > 0);
        // What workers take from the kernel themselves does not wake the master.
        (!self.config.timeout.is_zero() || self.config.max_requests > 0)
            && (busy() || self.has_listeners_for_workers())
    }
}
