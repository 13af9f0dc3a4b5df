//! The signals of a server that is one process: those that end it, and those that mean nothing to it.
//!
//! They have handlers, and are not blocked: a call that never returns must not keep Ctrl-C from ending the process, and threads and
//! programs that the handler starts inherit no mask.

use super::signal::{self, Former};
use super::time::Time;
use super::{memory, parent};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64};
use std::time::Duration;

/// The signals.
const SIGNALS: [i32; 6] =
    [signal::SIGTERM, signal::SIGINT, signal::SIGQUIT, signal::SIGHUP, signal::SIGUSR1, signal::SIGUSR2];

static COUNTER: AtomicI32 = AtomicI32::new(-1);
static PROCESS: AtomicI32 = AtomicI32::new(0);
/// The time in which a second signal counts as the first (milliseconds).
static SAME: AtomicU64 = AtomicU64::new(0);
/// When the first signal to end came (milliseconds of [`Time`]); 0 before.
static FIRST: AtomicU64 = AtomicU64::new(0);
/// Lines of the level info are logged.
static SPEAKS: AtomicBool = AtomicBool::new(false);
static AT_ONCE: AtomicBool = AtomicBool::new(false);

/// Handles the signals, until what is returned is dropped: those that end a server add one to the counter, which stays open until then,
/// but for a second one within `same` of the first. A later second one ends the process by itself if user code runs
/// ([`parent::begin_call`]): it may never return. Those that mean nothing are told if `speaks` is set.
pub fn watch(counter: &OwnedFd, same: Duration, speaks: bool) -> Former {
    SPEAKS.store(speaks, Relaxed);
    COUNTER.store(counter.as_raw_fd(), Relaxed);
    PROCESS.store(own_pid(), Relaxed);
    SAME.store(same.as_millis() as u64, Relaxed);
    FIRST.store(0, Relaxed);
    AT_ONCE.store(false, Relaxed);
    // SAFETY: `signalled` reads the clock, writes memory, and makes system calls that signal-safety(7) lists.
    unsafe { signal::call_on(&SIGNALS, signalled) }
}

/// True after a second signal to end.
pub fn is_at_once() -> bool {
    AT_ONCE.load(Relaxed)
}

fn signalled(number: i32) {
    if own_pid() != PROCESS.load(Relaxed) {
        // A process that the handler has forked: it is to end as any other.
        return end_by(number);
    }
    match number {
        signal::SIGHUP => say(b"prefork: SIGHUP: one process cannot reload; nothing done\n"),
        signal::SIGUSR1 => say(b"prefork: SIGUSR1: there are no log files to reopen; nothing done\n"),
        signal::SIGUSR2 => say(b"prefork: SIGUSR2: one process cannot be upgraded; nothing done\n"),
        _ => end(number),
    }
}

fn end(number: i32) {
    let now = Time::now().as_millis().max(1);
    match FIRST.load(Relaxed) {
        0 => FIRST.store(now, Relaxed),
        first if now.saturating_sub(first) < SAME.load(Relaxed) => return,
        _ => {
            AT_ONCE.store(true, Relaxed);
            if parent::is_in_call() {
                return end_by(number);
            }
        }
    }
    // SAFETY: `watch` says that it is open.
    let counter = unsafe { BorrowedFd::borrow_raw(COUNTER.load(Relaxed)) };
    // This fails only if the counter is full.
    let _ = memory::wake(counter);
}

/// Ends this process by the signal whose handler runs, when that returns.
fn end_by(number: i32) {
    // SAFETY: both may be called in a signal handler (signal-safety(7)), and take numbers.
    unsafe { libc::signal(number, libc::SIG_DFL) };
    // SAFETY: as above.
    unsafe { libc::raise(number) };
}

/// Writes a line to standard error, if lines of the level info are logged.
fn say(line: &[u8]) {
    if !SPEAKS.load(Relaxed) {
        return;
    }
    // SAFETY: may be called in a signal handler (signal-safety(7)); the bytes live through the call.
    unsafe { libc::write(2, line.as_ptr().cast(), line.len()) };
}

fn own_pid() -> i32 {
    // SAFETY: takes nothing and cannot fail.
    unsafe { libc::getpid() }
}
