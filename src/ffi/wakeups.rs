//! What a handler in C has its worker wait for, besides connections and messages.

use super::guard::{borrow, guard};
use super::status::{answered, prefork_status};
use super::worker::prefork_worker;
use crate::worker::OnTimer;
use crate::worker::wakeups::Timer;
use std::ffi::{c_int, c_void};
use std::time::Duration;

/// Called in the worker's first thread, between other callbacks, with the `arg` that was given with it.
pub type prefork_on_wakeup =
    Option<unsafe extern "C-unwind" fn(worker: *mut prefork_worker, arg: *mut c_void)>;

/// Starts a timer: `fire` is called once in `after_ms` milliseconds, and then, unless `every_ms` is 0, every
/// `every_ms` milliseconds until `prefork_timer_stop()`. Times are of the monotonic clock, and no call comes
/// early. After 0 ms it is called in the next turn of the worker's loop. A call that comes late does not delay
/// the next one; times that have passed meanwhile are skipped.
///
/// Timers cost no descriptor, and any number may wait. In blocking style they are called between two
/// connections. One that is started in `worker_start` is called when the worker serves. A worker that drains
/// goes on calling them, but does not wait for them: those that are left when it has finished its last
/// connection are forgotten, before `worker_stop`; then nothing is called.
///
/// Returns the timer's number, which no other timer of this worker gets; 0 if it was refused: `worker` or
/// `fire` is NULL, in another thread than the first, in another process, or in `worker_stop`.
/// Process: worker.
/// # Safety
/// Borrows `worker` until return, and `arg`, which may be NULL, until the last call of `fire`, or until the
/// timer is stopped.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_timer_start(
    worker: *mut prefork_worker,
    after_ms: u64,
    every_ms: u64,
    fire: prefork_on_wakeup,
    arg: *mut c_void,
) -> u64 {
    guard(|| {
        // SAFETY: `worker` is NULL or lent to the caller.
        let this = unsafe { borrow(worker) }?;
        let fire = fire.ok_or(prefork_status::PREFORK_NULL)?;
        // SAFETY: the caller gave both for this call; the worker lives as long as the process.
        let call = move || unsafe { fire(worker, arg) };
        let call = match every_ms {
            0 => OnTimer::Once(Box::new(move |_| call())),
            _ => OnTimer::Each(Box::new(move |_| call())),
        };
        let every = Some(Duration::from_millis(every_ms)).filter(|every| !every.is_zero());
        let timer = this.start_timer(Duration::from_millis(after_ms), every, call);
        Ok(timer.ok_or(prefork_status::PREFORK_STATE)?.0)
    })
}

/// Stops a timer, which may be the one that is being called, or one that is due: it is not called again.
///
/// Returns PREFORK_OK; PREFORK_GONE if there is no such timer, any more or at all: it has been called for the
/// last time, or was stopped; PREFORK_STATE; PREFORK_NULL.
/// Process: worker.
/// # Safety
/// Borrows `worker` until return.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_timer_stop(worker: *mut prefork_worker, timer: u64) -> c_int {
    guard(|| {
        // SAFETY: `worker` is NULL or lent to the caller.
        let worker = unsafe { borrow(worker) }?;
        if !worker.is_here() {
            return Err(prefork_status::PREFORK_STATE);
        }
        answered(worker.stop_timer(Timer(timer)).then_some(()).ok_or(prefork_status::PREFORK_GONE))
    })
}
