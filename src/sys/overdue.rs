//! A signal that tells a process that what it is at takes too long: it sets a flag, calls a function, and interrupts the system
//! call the process waits in.
//!
//! Whoever sends it cannot know that the work is not over when it arrives. So it is heeded only if a stamp in memory, which the
//! process sets when it begins something and clears at its end, is old enough.

use super::{signal, time};
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

/// Takes the signal from now on. `since` is when this thread began what it is at (monotonic milliseconds; 0: it is at nothing),
/// which may take less than `limit` milliseconds.
pub fn watch(since: &'static AtomicU64, limit: u64) {
    SINCE.store(ptr::from_ref(since).cast_mut(), Relaxed);
    LIMIT.store(limit, Relaxed);
    // SAFETY: takes nothing and cannot fail.
    THREAD.store(unsafe { libc::gettid() }, Relaxed);
    // SAFETY: `signalled` reads clocks and memory, and calls what `call` was promised of.
    unsafe { signal::interrupt(SIGNAL, signalled) };
}

/// Has the signal call a function, once for each thing that is overdue.
///
/// # Safety
/// `function` does only what a signal handler may (signal-safety(7)), and does not panic.
pub unsafe fn call(function: impl Fn() + 'static) {
    let function: Function = Box::new(function);
    // Leaked: a signal may be about to call the one before.
    FUNCTION.store(Box::into_raw(Box::new(function)), Relaxed);
}

/// Something else begins.
pub fn begin() {
    OVERDUE.store(false, Relaxed);
}

/// Whether the signal has come for what began last.
pub fn is_overdue() -> bool {
    OVERDUE.load(Relaxed)
}

fn signalled() {
    // SAFETY: takes nothing and cannot fail.
    let (this, first) = (unsafe { libc::gettid() }, THREAD.load(Relaxed));
    if this != first {
        // A signal to a process goes to any of its threads that does not block it; only the first waits for something.
        // SAFETY: as above.
        let process = unsafe { libc::getpid() };
        // SAFETY: takes no pointers. In a process that the worker has forked there is no such thread.
        unsafe { libc::syscall(libc::SYS_tgkill, process, first, SIGNAL) };
        return;
    }
    // SAFETY: NULL, or what `watch` was given, which lives as long as the process.
    let since = unsafe { SINCE.load(Relaxed).as_ref() }.map_or(0, |since| since.load(Relaxed));
    let due = since.saturating_add(LIMIT.load(Relaxed));
    if since == 0 || time::monotonic_ms() < due || OVERDUE.swap(true, Relaxed) {
        return;
    }
    // SAFETY: NULL, or what `call` has leaked.
    if let Some(function) = unsafe { FUNCTION.load(Relaxed).as_ref() } {
        function();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicU32;

    #[test]
    fn the_signal_is_heeded_once_for_what_is_overdue_and_for_nothing_else() {
        static SINCE: AtomicU64 = AtomicU64::new(0);
        static CALLS: AtomicU32 = AtomicU32::new(0);
        let now = time::monotonic_ms();
        watch(&SINCE, 500);
        // SAFETY: adds to a number.
        unsafe { call(|| CALLS.store(CALLS.load(Relaxed) + 1, Relaxed)) };
        let told = |since: u64| {
            SINCE.store(since, Relaxed);
            // SAFETY: a signal to this thread, which has a handler for it.
            unsafe { libc::raise(SIGNAL) };
            (is_overdue(), CALLS.load(Relaxed))
        };
        assert_eq!(told(0), (false, 0), "at nothing");
        assert_eq!(told(now), (false, 0), "begun just now");
        assert_eq!(told(now - 500), (true, 1));
        assert_eq!(told(now - 500), (true, 1), "told again");
        begin();
        assert_eq!(told(time::monotonic_ms()), (false, 1), "the next");
        assert_eq!(told(u64::MAX), (false, 1), "nonsense");
    }
}
