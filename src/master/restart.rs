//! The delay before the successor of a dead worker starts: none after a long life, doubling after quick deaths, and long enough
//! that restarts stay within a budget.

use crate::ids::WorkerId;
use crate::sys::time::Time;
use std::collections::VecDeque;
use std::time::Duration;

/// A worker that lived this long did not die of its start.
const LONG_LIFE: Duration = Duration::from_secs(5);
/// The first delay after the second quick death in a row, doubled by each further one.
const FIRST_DELAY: Duration = Duration::from_millis(50);
/// The longest of those delays.
const LAST_DELAY: Duration = Duration::from_secs(10);
/// The longest one after the death of a worker that was ready: it could serve, and a single request may have killed it.
const READY_DELAY: Duration = Duration::from_millis(500);
/// The most restarts of a slot whose workers do not become ready ...
pub const BUDGET: usize = 20;
/// ... in any time of this length.
pub const WINDOW: Duration = Duration::from_secs(60);

/// The history of the deaths in one slot.
#[derive(Clone, Debug, Default)]
pub struct Restart {
    quick_deaths: u32,
    /// The times of restarts that still count, and of one to come: at most [`BUDGET`] and one.
    starts: VecDeque<Time>,
}

impl Restart {
    /// Returns the delay before the next worker of the slot starts, after worker `id` has ended at `now`; it has `lived` for a time
    /// ([`Duration::MAX`] if it was asked to end). If it `was_ready`, delays stay short, and the budget is not touched.
    ///
    /// The first quick death costs no delay: one crash is repaired at once. From the second in a row on the delay doubles, and the
    /// worker's number spreads it over the upper half, so that slots that died together do not start together.
    pub fn delay(&mut self, now: Time, lived: Duration, was_ready: bool, id: WorkerId) -> Duration {
        if was_ready {
            return self.after_deaths(lived, id).min(READY_DELAY);
        }
        // A command has started a worker before the planned time, so the planned restart did not happen.
        while self.starts.back().is_some_and(|&start| start > now) {
            self.starts.pop_back();
        }
        while self.starts.front().is_some_and(|&start| start + WINDOW <= now) {
            self.starts.pop_front();
        }
        let start = (now + self.after_deaths(lived, id)).max(self.budget_free_at());
        if lived < Duration::MAX {
            self.starts.push_back(start);
        }
        start - now
    }

    fn after_deaths(&mut self, lived: Duration, id: WorkerId) -> Duration {
        if lived >= LONG_LIFE {
            self.quick_deaths = 0;
            return Duration::ZERO;
        }
        self.quick_deaths = self.quick_deaths.saturating_add(1);
        match self.quick_deaths {
            1 => Duration::ZERO,
            n => {
                let half = FIRST_DELAY.saturating_mul(1 << (n - 2).min(16)).min(LAST_DELAY) / 2;
                half + Duration::from_millis(id.spread() % (half.as_millis() as u64 + 1))
            }
        }
    }

    /// When the oldest of the last [`BUDGET`] restarts leaves the window.
    fn budget_free_at(&self) -> Time {
        let oldest = self.starts.len().checked_sub(BUDGET).and_then(|at| self.starts.get(at));
        oldest.map_or(Time::default(), |oldest| *oldest + WINDOW)
    }
}

#[cfg(test)]
impl Restart {
    /// For the simulator's mutation that has no budget.
    pub fn forget_starts(&mut self) {
        self.starts.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_first_death_and_a_long_life_are_repaired_at_once() {
        let mut r = Restart::default();
        let mut delay = |now, lived: u64| {
            r.delay(Time::from_millis(now), Duration::from_millis(lived), false, WorkerId(0))
        };
        assert_eq!(delay(0, 10), Duration::ZERO);
        assert!(delay(10, 10) > Duration::ZERO);
        assert_eq!(delay(5000, 5000), Duration::ZERO);
        assert_eq!(delay(5000, 10), Duration::ZERO);
    }

    #[test]
    fn a_worker_that_could_serve_is_replaced_soon_however_often_it_dies() {
        let mut r = Restart::default();
        assert!(
            (0..1000).all(|n| r.delay(Time::from_millis(n), MS, true, WorkerId(n as u32)) <= READY_DELAY)
        );
    }

    proptest! {
        #[test]
        fn no_window_has_more_restarts_than_the_budget(lives in proptest::collection::vec((0u64..8_000, any::<u32>()), 300)) {
            let mut r = Restart::default();
            let (mut now, mut starts) = (Time::default(), Vec::new());
            for (lived, id) in lives {
                let lived = Duration::from_millis(lived);
                now = now + lived;
                now = now + r.delay(now, lived, false, WorkerId(id));
                starts.push(now);
            }
            for window in starts.windows(BUDGET + 1) {
                prop_assert!(window[BUDGET] >= window[0] + WINDOW);
            }
        }

        #[test]
        fn a_start_that_is_overtaken_costs_no_place(overtaken in proptest::collection::vec(any::<bool>(), 300)) {
            let mut r = Restart::default();
            let (mut now, mut starts) = (Time::default(), Vec::new());
            for overtaken in overtaken {
                now = now + r.delay(now, MS, false, WorkerId(0));
                starts.push(now);
                now = now + MS;
                if overtaken {
                    // Another one dies before it is due.
                    r.delay(now, MS, false, WorkerId(0));
                    now = now + MS;
                }
            }
            for window in starts.windows(BUDGET + 1) {
                prop_assert!(window[BUDGET] >= window[0] + WINDOW);
            }
        }

        #[test]
        fn quick_deaths_in_ten_seconds_are_few(ids in proptest::collection::vec(any::<u32>(), 200)) {
            let mut r = Restart::default();
            let (mut now, mut starts) = (Time::default(), 0);
            for id in ids {
                now = now + r.delay(now, MS, false, WorkerId(id)) + MS;
                starts += u32::from(now <= Time::from_millis(10_000));
            }
            prop_assert!(starts <= 12, "{} starts", starts);
        }
    }
}
