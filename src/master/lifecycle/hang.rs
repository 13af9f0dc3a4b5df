//! Calls that take too long: left out, told, aborted, killed.

use super::{Action, Hang, Lifecycle, NEVER, Phase, Reason, after};
use crate::event::Event;
use crate::sys::overdue;
use crate::sys::signal::SIGABRT;

/// How long a worker that hangs has from one step against it to the next (milliseconds).
pub(super) const HANG_GRACE: u64 = 1000;
/// The master looks at what workers do at least so often (milliseconds).
pub(super) const NEWS: u64 = 200;

impl Lifecycle {
    /// A worker is in a call since then, or in none: 0.
    pub(super) fn busy(&mut self, id: u32, since: u64, out: &mut Vec<Action>) {
        let Some(at) = self.workers.iter().position(|w| w.id == id) else { return };
        let w = &mut self.workers[at];
        // After SIGABRT it is too late to come back: it may have been cut short anywhere.
        if w.busy_since == since || w.hang == Hang::Aborted {
            return;
        }
        w.busy_since = since;
        // The master looks many times in this time: what it sees later than that it missed because it stood still itself.
        let seen = since.max(self.now.saturating_sub(NEWS));
        w.hang_at = if since == 0 { NEVER } else { after(seen, self.rules.hang_timeout) };
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
