//! Scheduling policies (sched(7)) of this thread. The processes that it forks have the same.

use super::check;
use std::fs::File;
use std::io::{self, Read};
use std::time::Duration;

/// `SCHED_BATCH` in place of the normal policy, until this is dropped. Over an exec it stays: [`BatchPolicy::inherited`].
#[derive(Debug)]
pub struct BatchPolicy(());

impl BatchPolicy {
    /// Sets it; returns `None` if the thread has another policy than the normal one, which somebody has chosen.
    pub fn set() -> io::Result<Option<Self>> {
        if current()? != libc::SCHED_OTHER {
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
        // Another one was chosen for this thread meanwhile: it stays.
        if current().is_ok_and(|policy| policy == libc::SCHED_BATCH) {
            // Allowed without privileges; if the host has taken it from itself, this thread stays as it is.
            let _ = set(libc::SCHED_OTHER);
        }
    }
}

/// True if this thread has the normal policy, and may set policies. A seccomp filter that ends processes for that does so here.
pub fn can_change() -> bool {
    current().is_ok_and(|policy| policy == libc::SCHED_OTHER) && set(libc::SCHED_OTHER).is_ok()
}

/// The time for which this thread was ready to run and had no CPU, since it began (proc(5), `schedstat`).
///
/// # Errors
/// If the file cannot be read, or the kernel does not keep the time.
pub fn time_without_cpu() -> io::Result<Duration> {
    let mut text = [0; 96];
    let len = File::open("/proc/thread-self/schedstat")?.read(&mut text)?;
    parse(&text[..len]).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// The second of the three numbers: nanoseconds that it ran, nanoseconds that it waited, and how often it got a CPU. All are 0 if the
/// kernel does not count.
fn parse(text: &[u8]) -> Option<Duration> {
    let mut numbers = std::str::from_utf8(text).ok()?.split_ascii_whitespace().map(str::parse::<u64>);
    let (_, waited, runs) = (numbers.next()?.ok()?, numbers.next()?.ok()?, numbers.next()?.ok()?);
    (runs > 0).then_some(Duration::from_nanos(waited))
}

fn current() -> io::Result<libc::c_int> {
    // SAFETY: takes no pointers.
    check(unsafe { libc::sched_getscheduler(0) })
}

fn set(policy: libc::c_int) -> io::Result<()> {
    let none = libc::sched_param { sched_priority: 0 };
    // SAFETY: the pointer is to a sched_param, which is only read.
    check(unsafe { libc::sched_setscheduler(0, policy, &raw const none) }).map(drop)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_time_without_cpu_is_the_second_number_if_the_kernel_counts() {
        assert_eq!(parse(b"5064 63115 1\n"), Some(Duration::from_nanos(63115)));
        for text in [&b"0 0 0\n"[..], b"", b"1 2", b"1 -2 3", b"a b c"] {
            assert_eq!(parse(text), None);
        }
    }

    #[test]
    fn the_time_without_cpu_never_goes_back() {
        if let Ok(first) = time_without_cpu() {
            assert!(time_without_cpu().unwrap() >= first);
        }
    }
}
