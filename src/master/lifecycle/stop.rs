//! The end: backlogs emptied, workers drained, all within one timeout.

use super::{Action, Lifecycle, Phase, Reason, Stopping};
use crate::ids::WorkerId;
use std::time::Duration;

impl Lifecycle {
    /// Backlogs are emptied no longer than there is time and somebody to serve what they hold.
    pub(super) fn end_emptying(&mut self, out: &mut Vec<Action>) {
        if let Some(Stopping::Emptying { until }) = self.stopping
            && (until <= self.now || !self.accepts())
        {
            self.emptied(out);
        }
    }

    /// The first time in order, the second time at once.
    pub(super) fn stop(&mut self, out: &mut Vec<Action>) {
        if self.stopping.is_some() {
            for id in self.ids() {
                self.kill(id, Reason::Stop, out);
            }
            return self.emptied(out);
        }
        self.reload_wanted = false;
        self.end_reload("the master stops", out);
        self.stopping = Some(Stopping::Emptying { until: self.now.deadline(self.time_to_empty()) });
        let starting: Vec<WorkerId> =
            self.workers.iter().filter(|w| w.phase == Phase::Starting).map(|w| w.id).collect();
        for id in starting {
            self.kill(id, Reason::Stop, out);
        }
        out.push(Action::EmptyBacklogs);
    }

    /// Whether connections are accepted at all: there is a worker for them, and all have been ready.
    pub(super) fn accepts(&self) -> bool {
        !self.booting && self.workers.iter().any(|w| w.phase == Phase::Ready)
    }

    /// Nothing more is to be accepted: what is left is the workers'.
    pub(super) fn emptied(&mut self, out: &mut Vec<Action>) {
        let Some(Stopping::Emptying { until }) = self.stopping else { return };
        self.stopping = Some(Stopping::Draining);
        out.push(Action::CloseListeners);
        // One timeout for both: what emptying took is not given again.
        let took = self.time_to_empty().saturating_sub(until - self.now);
        let patience = match self.rules.drain_timeout {
            Duration::ZERO => Duration::ZERO,
            timeout => (timeout - took).max(Duration::from_millis(1)),
        };
        for id in self.ids() {
            self.retire(id, Reason::Stop, patience, out);
        }
    }

    /// How long a stop waits at most until all that was accepted is with a worker that has taken it.
    pub(super) fn time_to_empty(&self) -> Duration {
        // In whole milliseconds, rounded up: half of a timeout that is set is not no timeout.
        Duration::from_millis((self.rules.drain_timeout.as_millis() as u64).div_ceil(2))
    }
}
