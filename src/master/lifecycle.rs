//! When a dead worker's place is filled again. Pure: no clock and no calls of its own.

/// A worker that lived so long (milliseconds) died of something else than its start.
const LONG_LIFE: u64 = 5_000;
/// The first delay after the second quick death in a row, doubled by each further one.
const FIRST_DELAY: u64 = 50;
/// The longest delay.
const LAST_DELAY: u64 = 10_000;

/// The memory of one slot for how its workers have died.
#[derive(Clone, Copy, Debug, Default)]
pub struct Backoff {
    quick_deaths: u32,
}

impl Backoff {
    /// A worker of the slot has died after `lived` milliseconds; returns after how many to start its successor.
    ///
    /// The first quick death costs no delay: one crash is repaired at once. From the second in a row on the delay doubles,
    /// and `random` (any number) spreads it over the upper half, so that slots that died together do not start together.
    pub fn died(&mut self, lived: u64, random: u64) -> u64 {
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
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_first_death_and_a_long_life_are_repaired_at_once() {
        let mut b = Backoff::default();
        assert_eq!(b.died(10, 0), 0);
        assert!(b.died(10, 0) > 0);
        assert_eq!(b.died(LONG_LIFE, 0), 0);
        assert_eq!(b.died(10, 0), 0);
    }

    proptest! {
        #[test]
        fn quick_deaths_in_ten_seconds_are_few(randoms in proptest::collection::vec(any::<u64>(), 200)) {
            let mut b = Backoff::default();
            let (mut now, mut spawns) = (0, 0);
            for r in randoms {
                now += b.died(1, r) + 1;
                spawns += u32::from(now <= 10_000);
            }
            prop_assert!(spawns <= 11, "{} spawns", spawns);
        }
    }
}
