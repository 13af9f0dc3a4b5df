//! Stop: empty the backlogs, let the workers finish, then the deadline, then SIGKILL.

use super::Master;
use super::slot::Phase;
use crate::log::log;
use crate::message::Verb;
use crate::sys::signal;

/// How far a stop has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stopping {
    /// Clients that the kernel has accepted for us are still taken, so that closing the listener resets nobody.
    Emptying {
        /// When to go on all the same.
        until: u64,
    },
    /// Listeners are closed; workers finish what they have.
    Draining {
        /// When to kill those that have not.
        until: u64,
    },
    /// All were killed.
    Killing,
}

impl Master {
    /// A signal asks for the end: the first for an orderly one, a second for an immediate one.
    pub(super) fn stop(&mut self) {
        match self.stopping {
            None => {
                let patience = self.config.drain_timeout.as_millis() as u64;
                let until = self.now + patience / 2;
                self.stopping = Some(Stopping::Emptying { until });
                self.arm(until);
                for index in 0..self.listeners.len() {
                    self.pause(index);
                }
                self.kill_workers(|phase| phase == Phase::Starting);
            }
            Some(_) => {
                self.listeners.clear();
                self.kill_workers(|_| true);
                self.stopping = Some(Stopping::Killing);
            }
        }
    }

    /// Carries a stop on as far as it can go now.
    pub(super) fn go_on_stopping(&mut self) {
        match self.stopping {
            Some(Stopping::Emptying { until }) => {
                let all = (1u64 << self.listeners.len()).wrapping_sub(1);
                let empty = self.emptied & all == all && self.in_hand.is_none() && self.orphans.is_empty();
                if empty || self.now >= until || self.ready() == 0 {
                    self.drain_workers();
                }
            }
            Some(Stopping::Draining { until }) if self.now >= until => {
                let late = self.kill_workers(|phase| phase != Phase::Killed);
                self.killed += late;
                log!("{late} workers had not finished within the drain-timeout and were killed");
                self.stopping = Some(Stopping::Killing);
            }
            _ => {}
        }
    }

    fn drain_workers(&mut self) {
        let until = self.now + self.config.drain_timeout.as_millis() as u64;
        self.stopping = Some(Stopping::Draining { until });
        self.arm(until);
        self.listeners.clear();
        let unanswered = u64::from(self.in_hand.take().is_some()) + self.abandon_orphans();
        if unanswered > 0 {
            log!("stop: {unanswered} connections that no worker had room for are closed unanswered");
        }
        for slot in &mut self.slots {
            let Some(worker) = slot.worker.as_mut().filter(|w| w.phase == Phase::Ready) else { continue };
            worker.phase = Phase::Draining;
            if let Err(e) = self.post.borrow().say(worker.id, &Verb::Drain) {
                log!("tell worker {} to drain: {e}; killing it", worker.id);
                worker.phase = Phase::Killed;
                let _ = worker.process.kill(signal::SIGKILL);
            }
        }
    }

    /// Sends SIGKILL to the workers in these phases; returns how many there were.
    pub(super) fn kill_workers(&mut self, which: impl Fn(Phase) -> bool) -> u32 {
        let mut killed = 0;
        for slot in &mut self.slots {
            if let Some(worker) = slot.worker.as_mut().filter(|w| which(w.phase)) {
                worker.phase = Phase::Killed;
                killed += 1;
                let _ = worker.process.kill(signal::SIGKILL);
            }
        }
        killed
    }

    /// Whether nothing is left to wait for.
    pub(super) fn has_stopped(&self) -> bool {
        matches!(self.stopping, Some(Stopping::Draining { .. } | Stopping::Killing))
            && self.slots.iter().all(|s| s.worker.is_none())
    }
}
