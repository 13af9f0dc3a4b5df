//! The two clocks: monotonic for every deadline, wall clock for `Date` alone.

/// Milliseconds of the monotonic clock (clock_gettime(2), `CLOCK_MONOTONIC`); never goes back, stops in suspend.
pub fn monotonic_ms() -> u64 {
    monotonic_ns() / 1_000_000
}

/// Nanoseconds of the monotonic clock.
pub fn monotonic_ns() -> u64 {
    let t = read(libc::CLOCK_MONOTONIC);
    t.tv_sec.unsigned_abs() * 1_000_000_000 + t.tv_nsec.unsigned_abs()
}

/// Seconds since 1970-01-01 00:00:00 UTC. Read with `CLOCK_REALTIME_COARSE`: a second is all that `Date` shows.
pub fn unix_seconds() -> u64 {
    read(libc::CLOCK_REALTIME_COARSE).tv_sec.unsigned_abs()
}

fn read(clock: libc::clockid_t) -> libc::timespec {
    let mut t = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `t` is a valid timespec to write to; the call cannot fail for the clocks named above.
    unsafe { libc::clock_gettime(clock, &raw mut t) };
    t
}
