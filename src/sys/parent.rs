//! The death of the parent process, noticed even while user code runs or waits.
//!
//! A worker sees the master's death as end of file on its channel, but not before its callback returns. So the kernel sends it a
//! signal as well (prctl(2), PR_SET_PDEATHSIG). The handler lets go of the sockets that would keep the addresses taken, and sets a
//! timer whose signal is SIGKILL: nothing else ends a process whatever its code does.

use super::{check, forks, overdue, signal};
use std::ffi::c_int;
use std::io;
use std::mem;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, compiler_fence};
use std::time::Duration;

/// No limit.
const NONE: u64 = u64::MAX;

static PROCESS: AtomicI32 = AtomicI32::new(0);
static PARENT: AtomicI32 = AtomicI32::new(0);
static LIMIT_MS: AtomicU64 = AtomicU64::new(NONE);
static HAS_DIED: AtomicBool = AtomicBool::new(false);
/// Until the first [`end_call`], user code that starts the worker may run.
static IN_CALL: AtomicBool = AtomicBool::new(true);

/// Ends this process by SIGKILL at the latest `limit` after its parent has died, if there is a limit. While user code runs ([`begin_call`]) the sockets of
/// [`forks::watch`] are released at the same moment; at other times they are left to the caller, who can still serve what waits
/// there.
///
/// # Errors
/// As prctl(2). If the parent has died already, that is no error; the limit runs from now.
pub fn watch(parent: i32, limit: Option<Duration>) -> io::Result<()> {
    // SAFETY: takes nothing and cannot fail.
    PROCESS.store(unsafe { libc::getpid() }, Relaxed);
    PARENT.store(parent, Relaxed);
    let limit = limit.map_or(NONE, |limit| u64::try_from(limit.as_millis()).unwrap_or(NONE).max(1));
    LIMIT_MS.store(limit, Relaxed);
    // SAFETY: `signalled` reads and writes memory and makes system calls that signal-safety(7) lists, or are as safe.
    unsafe { signal::interrupt(overdue::SIGNAL, signalled) };
    ask_kernel()
}

/// As [`watch`], after user code that may have changed the user, the group or the capabilities of this process: the kernel then
/// forgets what it was asked for (prctl(2)). A signal that user code has asked for instead stays.
///
/// # Errors
/// As prctl(2).
pub fn watch_again() -> io::Result<()> {
    let mut asked: c_int = 0;
    // SAFETY: the pointer is valid through the call.
    check(unsafe { libc::prctl(libc::PR_GET_PDEATHSIG, &raw mut asked) })?;
    if asked == 0 { ask_kernel() } else { Ok(()) }
}

fn ask_kernel() -> io::Result<()> {
    // SAFETY: takes a number.
    check(unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, overdue::SIGNAL) })?;
    // It may have died before the kernel was asked to tell: then no signal comes.
    signalled();
    Ok(())
}

/// User code begins.
pub fn begin_call() {
    IN_CALL.store(true, Relaxed);
    compiler_fence(SeqCst);
    // The signal came while the worker's own code ran, which could not tell that this call would follow.
    if HAS_DIED.load(Relaxed) {
        forks::release();
    }
}

/// User code has returned.
pub fn end_call() {
    IN_CALL.store(false, Relaxed);
}

/// True while user code runs. May be called in a signal handler.
pub fn is_in_call() -> bool {
    IN_CALL.load(Relaxed)
}

fn signalled() {
    // SAFETY: takes nothing and cannot fail.
    if unsafe { libc::getpid() } != PROCESS.load(Relaxed) {
        return;
    }
    // SAFETY: as above.
    if unsafe { libc::getppid() } == PARENT.load(Relaxed) {
        return overdue::signalled();
    }
    if HAS_DIED.swap(true, Relaxed) {
        return;
    }
    let limit = LIMIT_MS.load(Relaxed);
    if limit != NONE {
        kill_after(limit);
    }
    if IN_CALL.load(Relaxed) {
        forks::release();
    }
}

/// Has the kernel send SIGKILL to this process after a time in milliseconds, more than 0.
fn kill_after(ms: u64) {
    // SAFETY: sigevent is plain data for which all zero bytes are a valid value.
    let mut event: libc::sigevent = unsafe { mem::zeroed() };
    (event.sigev_notify, event.sigev_signo) = (libc::SIGEV_SIGNAL, libc::SIGKILL);
    let mut timer: c_int = 0;
    let time = libc::timespec {
        tv_sec: libc::time_t::try_from(ms / 1000).unwrap_or(libc::time_t::MAX),
        tv_nsec: (ms % 1000 * 1_000_000) as libc::c_long,
    };
    let once = libc::itimerspec { it_interval: libc::timespec { tv_sec: 0, tv_nsec: 0 }, it_value: time };
    // The system call itself, since the function of the same name is not made for signal handlers.
    // SAFETY: both pointers are valid through the call; the kernel's timer number is an int.
    let made = unsafe {
        libc::syscall(libc::SYS_timer_create, libc::CLOCK_MONOTONIC, &raw const event, &raw mut timer)
    };
    // SAFETY: as above; no former value is asked for.
    let set = made == 0
        && unsafe { libc::syscall(libc::SYS_timer_settime, timer, 0, &raw const once, 0usize) } == 0;
    if !set {
        // Second best: a signal that a handler may take or block.
        // SAFETY: takes a number.
        unsafe { libc::alarm(u32::try_from(ms.div_ceil(1000)).unwrap_or(u32::MAX)) };
    }
}
