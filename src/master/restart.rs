//! When the successor of a dead worker starts: at once after a long life, slower and slower after quick deaths, and never
//! more often than a budget lets.

use std::collections::VecDeque;

/// A worker that lived so long (milliseconds) died of something else than its start.
const LONG_LIFE: u64 = 5_000;
/// The first delay after the second quick death in a row, doubled by each further one.
const FIRST_DELAY: u64 = 50;
/// The longest of those delays.
const LAST_DELAY: u64 = 10_000;
/// The longest one for a worker that was ready: it has shown that it can serve, and what killed it may have been one request.
const READY_DELAY: u64 = 500;
/// So many restarts a slot gets ...
pub const BUDGET: usize = 20;
/// ... in any time of this length.
pub const WINDOW: u64 = 60_000;

/// The memory of one slot for how its workers have died.
#[derive(Clone, Debug, Default)]
pub struct Restart {
    quick_deaths: u32,
    /// When restarts were due that still count, and one to come: at most [`BUDGET`] and one.
    starts: VecDeque<u64>,
}

impl Restart {
    /// A worker of the slot is gone at `now` after `lived` milliseconds ([`u64::MAX`] where it was meant to go); returns after
    /// how many to start the next one. `was_ready`: it could serve; then the delays stay short, and the budget is not touched.
    ///
    /// The first quick death costs no delay: one crash is repaired at once. From the second in a row on the delay doubles,
    /// and `random` (any number) spreads it over the upper half, so that slots that died together do not start together.
    pub fn delay(&mut self, now: u64, lived: u64, was_ready: bool, random: u64) -> u64 {
        if was_ready {
            return self.after_deaths(lived, random).min(READY_DELAY);
        }
        // A start that was planned for later has been overtaken by another, which somebody asked for.
        while self.starts.back().is_some_and(|&start| start > now) {
            self.starts.pop_back();
        }
        while self.starts.front().is_some_and(|&start| start + WINDOW <= now) {
            self.starts.pop_front();
        }
        let start = (now + self.after_deaths(lived, random)).max(self.budget_free_at());
        if lived < u64::MAX {
            self.starts.push_back(start);
        }
        start - now
    }

    fn after_deaths(&mut self, lived: u64, random: u64) -> u64 {
        if lived >= LONG_LIFE {
            self.quick_deaths = 0;
            return 0;
        }
        self.quick_deaths = self.quick_deaths.saturating_add(1);
        match self.quick_deaths {
            1 => 0,
            n => {
                let delay = FIRST_DELAY.saturating_mul(1 << (n - 2).min(16)).min(LAST_DELAY);
                delay / 2 + random % (delay / 2 + 1)
            }
        }
    }

    /// When the oldest of the last [`BUDGET`] restarts leaves the window.
    fn budget_free_at(&self) -> u64 {
        let oldest = self.starts.len().checked_sub(BUDGET).and_then(|at| self.starts.get(at));
        oldest.map_or(0, |oldest| oldest + WINDOW)
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

    #[test]
    fn a_first_death_and_a_long_life_are_repaired_at_once() {
        let mut r = Restart::default();
        assert_eq!(r.delay(0, 10, false, 0), 0);
        assert!(r.delay(10, 10, false, 0) > 0);
        assert_eq!(r.delay(LONG_LIFE, LONG_LIFE, false, 0), 0);
        assert_eq!(r.delay(LONG_LIFE, 10, false, 0), 0);
    }

    #[test]
    fn what_could_serve_is_soon_back_however_often_it_dies() {
        let mut r = Restart::default();
        assert!((0..1000).all(|n| r.delay(n, 1, true, u64::MAX) <= READY_DELAY));
    }

    proptest! {
        #[test]
        fn no_window_has_more_restarts_than_the_budget(lives in proptest::collection::vec((0u64..8_000, any::<u64>()), 300)) {
            let mut r = Restart::default();
            let (mut now, mut starts) = (0, Vec::new());
            for (lived, random) in lives {
                now += lived;
                now += r.delay(now, lived, false, random);
                starts.push(now);
            }
            for window in starts.windows(BUDGET + 1) {
                prop_assert!(window[BUDGET] >= window[0] + WINDOW);
            }
        }

        #[test]
        fn a_start_that_is_overtaken_costs_no_place(overtaken in proptest::collection::vec(any::<bool>(), 300)) {
            let mut r = Restart::default();
            let (mut now, mut starts) = (0, Vec::new());
            for overtaken in overtaken {
                now += r.delay(now, 1, false, 0);
                starts.push(now);
                now += 1;
                if overtaken {
                    // One more dies that nobody waits for.
                    r.delay(now, 1, false, 0);
                    now += 1;
                }
            }
            for window in starts.windows(BUDGET + 1) {
                prop_assert!(window[BUDGET] >= window[0] + WINDOW);
            }
        }

        #[test]
        fn quick_deaths_in_ten_seconds_are_few(randoms in proptest::collection::vec(any::<u64>(), 200)) {
            let mut r = Restart::default();
            let (mut now, mut starts) = (0, 0);
            for random in randoms {
                now += r.delay(now, 1, false, random) + 1;
                starts += u32::from(now <= 10_000);
            }
            prop_assert!(starts <= 12, "{} starts", starts);
        }
    }
}
