//! Scheduling policies (sched(7)) of this thread. The processes that it forks have the same.

use super::check;
use std::io;

/// `SCHED_BATCH` in place of the normal policy, until this is dropped. Over an exec it stays: [`BatchPolicy::inherited`].
#[derive(Debug)]
pub struct BatchPolicy(());

impl BatchPolicy {
    /// Sets it; returns `None` if the thread has another policy than the normal one, which somebody has chosen.
    pub fn set() -> io::Result<Option<Self>> {
        // SAFETY: takes no pointers.
        let found = check(unsafe { libc::sched_getscheduler(0) })?;
        if found != libc::SCHED_OTHER {
            return Ok(None);
        }
        set(libc::SCHED_BATCH)?;
        Ok(Some(Self(())))
    }

    /// The one that a former program in this process has set.
    pub fn inherited() -> Self {
        Self(())
    }
}

impl Drop for BatchPolicy {
    fn drop(&mut self) {
        // Allowed without privileges; if the host has taken it from itself, this thread stays as it is.
        let _ = set(libc::SCHED_OTHER);
    }
}

fn set(policy: libc::c_int) -> io::Result<()> {
    let none = libc::sched_param { sched_priority: 0 };
    // SAFETY: the pointer is to a sched_param, which is only read.
    check(unsafe { libc::sched_setscheduler(0, policy, &raw const none) }).map(drop)
}
