//! A signal to a process whose current work takes too long: it sets a flag, calls a function, and interrupts the system call the
//! process waits in.
//!
//! The work may be over when the signal arrives. So the signal counts only if the time in memory that the process sets when it
//! begins something, and clears when that ends, is long enough ago.

use super::signal;
use super::time::Time;
use std::ptr;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicPtr, AtomicU64};

/// The signal. Its default is to be ignored (signal(7)).
pub const SIGNAL: i32 = signal::SIGURG;

type Function = Box<dyn Fn()>;

static SINCE: AtomicPtr<AtomicU64> = AtomicPtr::new(ptr::null_mut());
static LIMIT: AtomicU64 = AtomicU64::new(0);
static THREAD: AtomicI32 = AtomicI32::new(0);
static FUNCTION: AtomicPtr<Function> = AtomicPtr::new(ptr::null_mut());
static OVERDUE: AtomicBool = AtomicBool::new(false);

/// Has [`signalled`] look at this thread's work. `since` is the time at which it began (milliseconds of [`Time`]; 0: it has none); it is
/// overdue after `limit` milliseconds.
pub fn watch(since: &'static AtomicU64, limit: u64) {
    SINCE.store(ptr::from_ref(since).cast_mut(), Relaxed);
    LIMIT.store(limit, Relaxed);
    // SAFETY: takes nothing and cannot fail.
    THREAD.store(unsafe { libc::gettid() }, Relaxed);
}

/// Makes the signal call a function, once for each work that is overdue.
///
/// # Safety
/// `function` does only what a signal handler may (signal-safety(7)), and does not panic.
pub unsafe fn call(function: impl Fn() + 'static) {
    let function: Function = Box::new(function);
    // Leaked: a signal may be about to call the one before.
    FUNCTION.store(Box::into_raw(Box::new(function)), Relaxed);
}

/// Other work begins.
pub fn begin() {
    OVERDUE.store(false, Relaxed);
}

/// True if the signal has come for the work that began last.
pub fn is_overdue() -> bool {
    OVERDUE.load(Relaxed)
}

/// The signal has come. Runs in its handler; does nothing before [`watch`].
pub(super) fn signalled() {
    // SAFETY: takes nothing and cannot fail.
    let (this, first) = (unsafe { libc::gettid() }, THREAD.load(Relaxed));
    if this != first {
        // A signal to a process goes to any of its threads that does not block it, but only the first has to be interrupted.
        // SAFETY: takes no pointers. In a process that the worker has forked there is no such thread.
        unsafe { libc::syscall(libc::SYS_tgkill, std::process::id(), first, SIGNAL) };
        return;
    }
    // SAFETY: NULL, or the pointer given to `watch`, which is valid as long as the process lives.
    let since = unsafe { SINCE.load(Relaxed).as_ref() }.map_or(0, |since| since.load(Relaxed));
    let due = since.saturating_add(LIMIT.load(Relaxed));
    if since == 0 || Time::now().as_millis() < due || OVERDUE.swap(true, Relaxed) {
        return;
    }
    // SAFETY: NULL, or the pointer leaked by `call`.
    if let Some(function) = unsafe { FUNCTION.load(Relaxed).as_ref() } {
        function();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicU32;

    #[test]
    fn the_signal_counts_once_for_overdue_work_and_for_nothing_else() {
        static SINCE: AtomicU64 = AtomicU64::new(0);
        static CALLS: AtomicU32 = AtomicU32::new(0);
        let now = Time::now().as_millis();
        watch(&SINCE, 500);
        // SAFETY: `signalled` reads clocks and memory, and calls what `call` is promised of.
        unsafe { signal::interrupt(SIGNAL, signalled) };
        // SAFETY: adds to a number.
        unsafe { call(|| CALLS.store(CALLS.load(Relaxed) + 1, Relaxed)) };
        let signal = |since: u64| {
            SINCE.store(since, Relaxed);
            // SAFETY: a signal to this thread, which has a handler for it.
            unsafe { libc::raise(SIGNAL) };
            (is_overdue(), CALLS.load(Relaxed))
        };
        assert_eq!(signal(0), (false, 0), "no work");
        assert_eq!(signal(now), (false, 0), "begun just now");
        assert_eq!(signal(now - 500), (true, 1));
        assert_eq!(signal(now - 500), (true, 1), "a second time");
        begin();
        assert_eq!(signal(Time::now().as_millis()), (false, 1), "the next");
        assert_eq!(signal(u64::MAX), (false, 1), "a time in the future");
    }
}
