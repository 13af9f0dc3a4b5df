//! The timers of a worker's handler, in the order in which they are due. Pure.

use crate::sys::time::Time;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Timers by their numbers, which count from 1 and are never used again; `C` is what a timer calls.
pub struct Timers<C> {
    last: u64,
    timers: BTreeMap<u64, Timer<C>>,
    queue: BTreeSet<(Time, u64)>,
    /// The time of the first in the queue, so that a turn without timers costs one comparison.
    next_due: Time,
    is_over: bool,
}

struct Timer<C> {
    due: Time,
    /// The time from one call to the next; `None` if there is only one call.
    every: Option<Duration>,
    /// `None` while it is being called.
    call: Option<C>,
}

/// A timer that was stopped.
pub enum Stopped<C> {
    /// It waited.
    Waiting(C),
    /// It is being called, and will not be again.
    Running,
}

impl<C> Default for Timers<C> {
    fn default() -> Self {
        Self {
            last: 0,
            timers: BTreeMap::new(),
            queue: BTreeSet::new(),
            next_due: Time::NEVER,
            is_over: false,
        }
    }
}

impl<C> Timers<C> {
    /// Starts a timer and returns its number; `None` after [`Timers::end`]. `every` is a millisecond at least.
    pub fn start(&mut self, due: Time, every: Option<Duration>, call: C) -> Option<u64> {
        if self.is_over {
            return None;
        }
        self.last += 1;
        self.timers.insert(self.last, Timer { due, every, call: Some(call) });
        self.queue.insert((due, self.last));
        self.next_due = self.next_due.min(due);
        Some(self.last)
    }

    /// Stops a timer; `None` if there is no such timer any more.
    pub fn stop(&mut self, id: u64) -> Option<Stopped<C>> {
        let timer = self.timers.remove(&id)?;
        self.queue.remove(&(timer.due, id));
        self.find_next_due();
        Some(timer.call.map_or(Stopped::Running, Stopped::Waiting))
    }

    /// The time at which the next timer is due; [`Time::NEVER`] if none is.
    pub fn next_due(&self) -> Time {
        self.next_due
    }

    /// The number of the timer that was started last.
    pub fn last(&self) -> u64 {
        self.last
    }

    /// Takes what is to be called of the first timer that was due at `by`, of those with a number up to `last`. A repeated one is
    /// due again at the first of its times after `now`, which is `by` or later: those that have passed are skipped.
    pub fn take_due(&mut self, by: Time, now: Time, last: u64) -> Option<(u64, C)> {
        let is_due = |(due, _): &&(Time, u64)| *due <= by && *due < Time::NEVER;
        let (due, id) = *self.queue.iter().take_while(is_due).find(|(_, id)| *id <= last)?;
        self.queue.remove(&(due, id));
        let timer = self.timers.get_mut(&id)?;
        let call = timer.call.take();
        match timer.every {
            Some(every) => {
                timer.due = next_after(now, due, every);
                self.queue.insert((timer.due, id));
            }
            None => drop(self.timers.remove(&id)),
        }
        self.find_next_due();
        Some((id, call?))
    }

    /// Gives a repeated timer back what it calls; returns it if the timer was stopped meanwhile.
    pub fn put_back(&mut self, id: u64, call: C) -> Option<C> {
        match self.timers.get_mut(&id) {
            Some(timer) => timer.call.replace(call),
            None => Some(call),
        }
    }

    /// Stops all timers and starts no more. Returns what they would have called.
    pub fn end(&mut self) -> Vec<C> {
        self.is_over = true;
        self.queue.clear();
        self.next_due = Time::NEVER;
        std::mem::take(&mut self.timers).into_values().filter_map(|timer| timer.call).collect()
    }

    fn find_next_due(&mut self) {
        self.next_due = self.queue.first().map_or(Time::NEVER, |(due, _)| *due);
    }
}

/// The first of the times `due + n * every` that is later than `now`, which is `due` or later.
fn next_after(now: Time, due: Time, every: Duration) -> Time {
    let period = u64::try_from(every.as_millis()).unwrap_or(u64::MAX).max(1);
    let late = (now - due).as_millis() as u64;
    now + Duration::from_millis(period - late % period)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(ms: u64) -> Time {
        Time::from_millis(ms)
    }

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[derive(Clone, Debug)]
    enum Step {
        Start { after: u64, every: u64 },
        Stop(u64),
        Wait(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (0u64..20, 0u64..8).prop_map(|(after, every)| Step::Start { after, every }),
            (1u64..30).prop_map(Step::Stop),
            (0u64..15).prop_map(Step::Wait),
        ]
    }

    proptest! {
        /// Against a list that is searched from end to end.
        #[test]
        fn fires_what_a_naive_list_fires(steps in proptest::collection::vec(step(), 1..200)) {
            let mut timers = Timers::default();
            let mut naive: Vec<(Time, u64, u64)> = Vec::new();
            let mut now = at(1000);
            for step in steps {
                match step {
                    Step::Start { after, every } => {
                        let every_or_none = Some(ms(every)).filter(|every| !every.is_zero());
                        let id = timers.start(now + ms(after), every_or_none, ()).unwrap();
                        naive.push((now + ms(after), id, every));
                    }
                    Step::Stop(id) => {
                        let before = naive.len();
                        naive.retain(|timer| timer.1 != id);
                        prop_assert_eq!(timers.stop(id).is_some(), naive.len() < before);
                    }
                    Step::Wait(wait) => {
                        now = now + ms(wait);
                        let mut due: Vec<_> = naive.iter().filter(|timer| timer.0 <= now).copied().collect();
                        due.sort_unstable();
                        naive.retain(|timer| timer.0 > now || timer.2 > 0);
                        for timer in &mut naive {
                            while timer.0 <= now {
                                timer.0 = timer.0 + ms(timer.2);
                            }
                        }
                        let last = timers.last();
                        for (_, id, every) in due {
                            prop_assert_eq!(timers.take_due(now, now, last), Some((id, ())));
                            prop_assert_eq!(timers.put_back(id, ()).is_none(), every > 0);
                        }
                        prop_assert_eq!(timers.take_due(now, now, last), None);
                    }
                }
                prop_assert_eq!(timers.next_due(), naive.iter().map(|timer| timer.0).min().unwrap_or(Time::NEVER));
                prop_assert_eq!(timers.timers.len(), naive.len());
                prop_assert_eq!(timers.queue.len(), naive.len());
            }
        }
    }

    #[test]
    fn one_that_was_started_later_waits_for_the_next_turn() {
        let mut timers = Timers::default();
        timers.start(at(5), None, "first");
        let last = timers.last();
        timers.start(at(3), None, "second");
        assert_eq!(timers.take_due(at(5), at(5), last), Some((1, "first")));
        assert_eq!(timers.take_due(at(5), at(5), last), None);
        assert_eq!(timers.next_due(), at(3));
        assert_eq!(timers.take_due(at(5), at(5), timers.last()), Some((2, "second")));
    }

    #[test]
    fn a_time_beyond_the_clock_never_comes() {
        let mut timers = Timers::default();
        timers.start(Time::NEVER, Some(ms(1)), ());
        assert_eq!(timers.take_due(Time::NEVER, Time::NEVER, 1), None);
        timers.start(at(1), Some(Duration::MAX), ());
        assert_eq!(timers.take_due(at(2), at(2), 2), Some((2, ())));
        assert_eq!(timers.next_due(), Time::NEVER);
    }

    #[test]
    fn one_that_is_stopped_while_it_is_called_is_not_called_again() {
        let mut timers = Timers::default();
        timers.start(at(1), Some(ms(1)), "tick");
        let (id, call) = timers.take_due(at(1), at(1), 1).unwrap();
        assert!(matches!(timers.stop(id), Some(Stopped::Running)));
        assert!(timers.stop(id).is_none());
        assert_eq!(timers.put_back(id, call), Some("tick"));
        assert_eq!(timers.next_due(), Time::NEVER);
    }

    #[test]
    fn none_starts_after_the_end() {
        let mut timers = Timers::default();
        timers.start(at(1), None, "waits");
        assert_eq!(timers.end(), ["waits"]);
        assert_eq!(timers.start(at(1), None, "late"), None);
        assert_eq!(timers.next_due(), Time::NEVER);
    }
}
