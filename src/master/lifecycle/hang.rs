//! Calls that take too long: left out, told, aborted, killed.

use super::{Action, Hang, Lifecycle, Phase, Reason};
use crate::event::Event;
use crate::ids::WorkerId;
use crate::sys::overdue;
use crate::sys::signal::SIGABRT;
use crate::sys::time::Time;
use std::time::Duration;

/// The time from one step against a worker that hangs to the next.
pub(super) const HANG_GRACE: Duration = Duration::from_secs(1);
/// The longest time between two checks of what workers do.
pub(super) const NEWS: Duration = Duration::from_millis(200);

impl Lifecycle {
    /// A worker is in a call that started at `since`, or in none if that is zero.
    pub(super) fn busy(&mut self, id: WorkerId, since: Time, out: &mut Vec<Action>) {
        let Some(at) = self.workers.iter().position(|w| w.id == id) else { return };
        let w = &mut self.workers[at];
        // After SIGABRT it is too late to come back: it may have been cut short anywhere.
        if w.busy_since == since || w.hang == Hang::Aborted {
            return;
        }
        w.busy_since = since;
        // Checks are more frequent than this: a call that is seen later was missed because the master itself stood still.
        let seen = since.max(self.now.earlier_by(NEWS));
        w.hang_at =
            if since == Time::default() { Time::NEVER } else { seen.deadline(self.rules.hang_timeout) };
        let came_back = std::mem::replace(&mut w.hang, Hang::No) == Hang::Noticed;
        if came_back && self.workers[at].phase == Phase::Ready && self.is_current(&self.workers[at]) {
            out.push(Action::Admit(id));
        }
    }

    /// The next step against a worker that is still in the call.
    pub(super) fn expire_call(&mut self, i: usize, out: &mut Vec<Action>) {
        let w = &mut self.workers[i];
        if w.next_hang_step() > self.now {
            return;
        }
        let (id, worker) = (w.id, w.info());
        w.hang_at = self.now + HANG_GRACE;
        match w.hang {
            Hang::No => {
                w.hang = Hang::Noticed;
                out.push(Action::Withdraw(id));
                out.push(Action::Signal(id, overdue::SIGNAL));
                out.push(Action::Tell(Event::Hang { worker }));
            }
            Hang::Noticed => {
                w.hang = Hang::Aborted;
                w.leaving = Some(Reason::Hang);
                out.push(Action::Signal(id, SIGABRT));
            }
            Hang::Aborted => self.kill(id, Reason::Hang, out),
        }
    }
}
