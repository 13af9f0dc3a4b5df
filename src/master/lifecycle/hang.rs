//! Calls that take too long: the worker is withdrawn and warned, aborted, killed.

use super::{Action, Hang, Lifecycle, Phase, Reason};
use crate::event::Event;
use crate::ids::WorkerId;
use crate::sys::overdue;
use crate::sys::signal::SIGABRT;
use crate::sys::time::Time;
use std::time::Duration;

/// The time from one step against a worker that hangs to the next.
pub(super) const HANG_GRACE: Duration = Duration::from_secs(1);
/// The longest time between two checks of the calls that workers are in.
pub(super) const NEWS: Duration = Duration::from_millis(200);

impl Lifecycle {
    /// Notes that a worker is in a call that started at `since`, or in none if that is zero.
    pub(super) fn busy(&mut self, id: WorkerId, since: Time, out: &mut Vec<Action>) {
        let (now, timeout) = (self.now, self.rules.hang_timeout);
        let Some(w) = self.find_mut(id) else { return };
        // After SIGABRT it is too late for the call to return: it may have been cut short anywhere.
        if w.busy_since == since || w.hang == Hang::Aborted {
            return;
        }
        w.busy_since = since;
        // Checks are more frequent than this: a call that is seen later was missed because the master itself stood still.
        let seen = since.max(now.earlier_by(NEWS));
        w.hang_at = if since == Time::default() { Time::NEVER } else { seen.deadline(timeout) };
        let has_returned = std::mem::replace(&mut w.hang, Hang::No) == Hang::Noticed;
        if has_returned && self.find(id).is_some_and(|w| w.phase == Phase::Ready && self.is_current(w)) {
            out.push(Action::Admit(id));
        }
    }

    /// Takes the next step against a worker whose call has not returned, if it is due.
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
