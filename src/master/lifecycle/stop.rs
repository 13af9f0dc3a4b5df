//! The end: backlogs emptied, workers drained, all within one timeout, and what they still have ended.

use super::{Action, Lifecycle, Phase, Reason, Stopping, Worker};
use std::time::Duration;

/// Signals that ask for a stop within this time from its beginning are the same one.
pub(in crate::master) const SAME_INTERRUPT: Duration = Duration::from_secs(1);

impl Lifecycle {
    /// Ends the emptying of the backlogs if its time is over, or no worker could serve what they hold.
    pub(super) fn end_emptying(&mut self, out: &mut Vec<Action>) {
        let accepts = !self.booting && self.workers.iter().any(|w| w.phase == Phase::Ready);
        if let Some(Stopping::Emptying { until }) = self.stopping
            && (until <= self.now || !accepts)
        {
            self.emptied(out);
        }
    }

    /// Begins a stop on a signal. Ctrl-C arrives twice within milliseconds if a wrapper passes it on that is in the same process
    /// group (a shell's trap, timeout(1)): that is not the impatience of a second one.
    pub(super) fn interrupt(&mut self, out: &mut Vec<Action>) {
        if self.stopping.is_none() || self.now - self.stop_began >= SAME_INTERRUPT {
            self.stop(out);
        }
    }

    /// Begins an orderly stop; the second time, kills all workers.
    pub(super) fn stop(&mut self, out: &mut Vec<Action>) {
        if self.stopping.is_some() {
            for id in self.ids() {
                self.kill(id, Reason::Stop, out);
            }
            return self.emptied(out);
        }
        self.stop_began = self.now;
        self.reload_wanted = false;
        self.end_reload("the master stops", out);
        self.stopping = Some(Stopping::Emptying { until: self.now.deadline(self.time_to_empty()) });
        for id in self.ids() {
            if self.is_starting(id) {
                self.kill(id, Reason::Stop, out);
            }
        }
        out.push(Action::EmptyBacklogs);
    }

    /// Closes the listeners and has all workers finish what they have.
    pub(super) fn emptied(&mut self, out: &mut Vec<Action>) {
        let Some(Stopping::Emptying { until }) = self.stopping else { return };
        self.stopping = Some(Stopping::Draining);
        out.push(Action::CloseListeners);
        // One timeout for both: the workers get what emptying has left of it.
        let took = self.time_to_empty().saturating_sub(until - self.now);
        let patience = match self.rules.drain_timeout {
            Duration::ZERO => Duration::ZERO,
            timeout => (timeout - took).max(Duration::from_millis(1)),
        };
        let drains = |w: &&Worker| w.phase == Phase::Draining;
        out.extend(self.workers.iter().filter(drains).map(|w| Action::KeepIdle(w.id)));
        for id in self.ids() {
            self.retire(id, Reason::Stop, patience, out);
        }
    }

    /// The longest that a stop waits until workers have taken all that was accepted.
    fn time_to_empty(&self) -> Duration {
        // In whole milliseconds, rounded up: half of a timeout that is set is not no timeout.
        Duration::from_millis((self.rules.drain_timeout.as_millis() as u64).div_ceil(2))
    }
}
