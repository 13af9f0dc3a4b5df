//! Workers that cannot even be forked: for want of descriptors, processes or memory. Each slot is tried again in its own time; it
//! is told once for all of them, at growing intervals.

use super::{Action, Lifecycle};
use crate::event::Event;
use crate::sys::time::Time;
use std::time::Duration;

/// The time from the first telling to the second, doubled by each further one.
const FIRST_INTERVAL: Duration = Duration::from_secs(2);
/// The longest of those times.
const LAST_INTERVAL: Duration = Duration::from_secs(300);
/// After this time without a failure it is over if every slot has a worker that serves ...
const OVER: Duration = Duration::from_secs(5);
/// ... and after this one in any case: every slot has been tried again by then.
const LONG_OVER: Duration = Duration::from_secs(120);

/// Failures to start workers that have not ended.
#[derive(Clone, Debug)]
pub(super) struct Shortage {
    /// The last one that was not told yet.
    why: Option<String>,
    /// It is told no earlier.
    tell_at: Time,
    /// The time from the next telling to the one after it.
    interval: Duration,
    /// The last failure.
    last: Time,
}

impl Shortage {
    /// When there is something to tell.
    pub(super) fn due(&self) -> Time {
        if self.why.is_some() { self.tell_at } else { Time::NEVER }
    }
}

impl Lifecycle {
    /// True if workers could not be started of late.
    pub fn cannot_start(&self) -> bool {
        self.shortage.is_some()
    }

    /// Notes a failure. It is told by the next tick, when those of other slots are known.
    pub(super) fn note_shortage(&mut self, why: String) {
        self.end_shortage(LONG_OVER);
        let now = self.now;
        let first = || Shortage { why: None, tell_at: now, interval: FIRST_INTERVAL, last: now };
        let shortage = self.shortage.get_or_insert_with(first);
        (shortage.why, shortage.last) = (Some(why), now);
    }

    /// A worker serves: the shortage may be over.
    pub(super) fn started_in_shortage(&mut self) {
        if self.shortage.is_some() && self.is_complete() {
            self.end_shortage(OVER);
        }
    }

    /// More workers are wanted: if they cannot be started, that is told at once again.
    pub(super) fn renew_shortage(&mut self) {
        if let Some(shortage) = &mut self.shortage {
            (shortage.tell_at, shortage.interval) = (self.now, FIRST_INTERVAL);
        }
    }

    fn end_shortage(&mut self, after: Duration) {
        self.shortage.take_if(|s| s.why.is_none() && s.last + after <= self.now);
    }

    /// Tells what was noted, if it is time.
    pub(super) fn tell_shortage(&mut self, out: &mut Vec<Action>) {
        let (empty, slots) = (self.places.iter().filter(|p| p.is_empty()).count(), self.places.len());
        let Some(shortage) = &mut self.shortage else { return };
        if shortage.due() > self.now {
            return;
        }
        let Some(why) = shortage.why.take() else { return };
        shortage.tell_at = self.now + shortage.interval;
        shortage.interval = (shortage.interval * 2).min(LAST_INTERVAL);
        let text = match empty {
            0 => why,
            n => format!("{why}; {n} of {slots} slots are empty and are tried again"),
        };
        out.push(Action::Tell(Event::Error { text }));
    }
}
