//! The two clocks: monotonic for every deadline, the wall clock for the `Date` field alone. The first one stands still in a thread with
//! workers of [`crate::testing`] (`test_thread.rs`).

use super::test_thread;
use std::ops::{Add, Sub};
use std::time::Duration;

/// A point on the monotonic clock (clock_gettime(2), `CLOCK_MONOTONIC`), in milliseconds. The clock never goes back and stops
/// in suspend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
#[cfg_attr(feature = "control", derive(serde::Serialize, serde::Deserialize), serde(transparent))]
pub struct Time(u64);

impl Time {
    /// Later than any other.
    pub const NEVER: Self = Self(u64::MAX);

    /// Reads the clock.
    pub fn now() -> Self {
        Self(monotonic_ns() / 1_000_000)
    }

    /// The first point that is `wait` or more from now; saturates at [`Time::NEVER`].
    pub fn after(wait: Duration) -> Self {
        let ns = u128::from(monotonic_ns()) + wait.as_nanos();
        Self(u64::try_from(ns.div_ceil(1_000_000)).unwrap_or(u64::MAX))
    }

    /// The time of the kernel's last tick (`CLOCK_MONOTONIC_COARSE`): up to 10 ms old, and a quarter of the price of
    /// [`Time::now`].
    pub fn last_tick() -> Self {
        Self(test_thread::clock().unwrap_or_else(|| ns(libc::CLOCK_MONOTONIC_COARSE)) / 1_000_000)
    }

    /// The point `ms` milliseconds after the clock's zero.
    pub const fn from_millis(ms: u64) -> Self {
        Self(ms)
    }

    /// Milliseconds since the clock's zero.
    pub const fn as_millis(self) -> u64 {
        self.0
    }

    /// The point `span` earlier; the clock's zero if that is later.
    pub fn earlier_by(self, span: Duration) -> Self {
        Self(self.0.saturating_sub(span.as_millis() as u64))
    }

    /// The point `wait` later, or never if `wait` is zero, which means no limit in settings.
    pub fn deadline(self, wait: Duration) -> Self {
        if wait.is_zero() { Self::NEVER } else { self + wait }
    }
}

impl Add<Duration> for Time {
    type Output = Self;

    /// Saturates at [`Time::NEVER`].
    fn add(self, wait: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(wait.as_millis()).unwrap_or(u64::MAX)))
    }
}

impl Sub for Time {
    type Output = Duration;

    /// The time from `earlier` to this point; zero if it is not earlier.
    fn sub(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

/// Nanoseconds of the monotonic clock.
pub fn monotonic_ns() -> u64 {
    test_thread::clock().unwrap_or_else(|| ns(libc::CLOCK_MONOTONIC))
}

fn ns(clock: libc::clockid_t) -> u64 {
    let t = read(clock);
    // Neither clock is ever before its zero.
    t.tv_sec as u64 * 1_000_000_000 + t.tv_nsec as u64
}

/// Seconds since 1970-01-01 00:00:00 UTC, and the time until the next one, rounded up to milliseconds. Read with
/// `CLOCK_REALTIME_COARSE`: a second is all that `Date` shows.
pub fn unix_second() -> (u64, Duration) {
    let t = read(libc::CLOCK_REALTIME_COARSE);
    let rest = Duration::from_secs(1).saturating_sub(Duration::from_nanos(t.tv_nsec.unsigned_abs()));
    (t.tv_sec.unsigned_abs(), Duration::from_millis(rest.as_millis() as u64 + 1))
}

fn read(clock: libc::clockid_t) -> libc::timespec {
    let mut t = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `t` is a valid timespec to write to; the call cannot fail for the clocks named above.
    unsafe { libc::clock_gettime(clock, &raw mut t) };
    t
}
