//! What a handler in C has its worker wait for, besides connections and messages.

use super::guard::{Result, borrow, borrow_anywhere, guard};
use super::status::{answered, prefork_status};
use super::worker::prefork_worker;
use crate::Interest;
use crate::sys::poll;
use crate::worker::OnTimer;
use crate::worker::wakeups::Timer;
use std::ffi::{c_int, c_void};
use std::io;
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

/// What a descriptor is watched for, and what it is ready for: one of these or both, `PREFORK_READ | PREFORK_WRITE`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum prefork_watch_event {
    /// A read will not wait: there is something to read, the end, or an error.
    PREFORK_READ = 1,
    /// A write will not wait: there is room, or an error.
    PREFORK_WRITE = 2,
}

use prefork_watch_event::*;

/// Called when a watched descriptor is ready. `events` has those of the events asked for that have come. A hang-up or an
/// error of the descriptor is reported as all that was asked for.
pub type prefork_on_ready = Option<
    unsafe extern "C-unwind" fn(worker: *mut prefork_worker, fd: c_int, events: c_int, arg: *mut c_void),
>;

/// Has `ready` called whenever a descriptor of yours is ready, as long as it is (level-triggered): a socket of a
/// client library, a pipe, a timerfd. For a descriptor that is watched already, changes `events`, `ready` and
/// `arg`. In blocking style descriptors are looked at between two connections.
///
/// The descriptor stays yours, and should be non-blocking. It may be closed at any time, best after
/// `prefork_unwatch()`: `ready` is not called of a closed descriptor, whatever its number stands for
/// afterwards, and also if a duplicate is left (dup, or in a process that was forked). A worker that drains
/// goes on with its watches, but does not wait for them; they end before `worker_stop`, and nothing is called.
///
/// Returns PREFORK_OK; PREFORK_INVALID if `fd` is not open, or is a regular file or a directory, which are always
/// ready (epoll_ctl(2), EPERM), or if `events` is 0 or has other bits; PREFORK_SYSTEM if the kernel lacks memory
/// or this process a descriptor; PREFORK_STATE, also in `worker_stop`; PREFORK_NULL.
/// Process: worker.
/// # Safety
/// Borrows `worker` until return, and `arg`, which may be NULL, until the watch is changed or ends.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_watch(
    worker: *mut prefork_worker,
    fd: c_int,
    events: c_int,
    ready: prefork_on_ready,
    arg: *mut c_void,
) -> c_int {
    guard(|| {
        // SAFETY: `worker` is NULL or lent to the caller.
        let this = unsafe { borrow(worker) }?;
        let ready = ready.ok_or(prefork_status::PREFORK_NULL)?;
        let interest = interest(events)?;
        let call = move |_: &_, fd, ready_for| {
            // SAFETY: the caller gave both for this call; the worker lives as long as the process.
            unsafe { ready(worker, fd, self::events(ready_for), arg) }
        };
        answered(this.start_watch(fd, interest, Box::new(call)).map_err(|e| unwatchable(&e)))
    })
}

/// Stops watching a descriptor, also the one of which `ready` is being called, and also a closed one.
///
/// Returns PREFORK_OK; PREFORK_GONE if it is not watched, or not any more because it was found closed;
/// PREFORK_STATE; PREFORK_NULL.
/// Process: worker.
/// # Safety
/// Borrows `worker` until return.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_unwatch(worker: *mut prefork_worker, fd: c_int) -> c_int {
    guard(|| {
        // SAFETY: `worker` is NULL or lent to the caller.
        let worker = unsafe { borrow(worker) }?;
        if !worker.is_here() {
            return Err(prefork_status::PREFORK_STATE);
        }
        answered(worker.unwatch(&fd).then_some(()).ok_or(prefork_status::PREFORK_GONE))
    })
}

/// Has `run` called in the worker's first thread, between other callbacks; in blocking style between two
/// connections. It is how a thread that the handler has started gives a result to the first, which alone may call
/// the other functions of this header. Never waits.
///
/// Functions are called in the order in which they were given; one that is given while another runs is called in
/// a later turn of the worker's loop. Those given until the worker has finished its last connection are all
/// called, before `worker_stop`; the worker does not wait for later ones, which are refused.
///
/// Returns PREFORK_OK, and then `run` is called exactly once, unless the worker is killed; PREFORK_GONE if the
/// worker has finished its last connection; PREFORK_STATE in another process; PREFORK_NULL.
/// Process: worker, in any thread, but not in signal handlers.
/// # Safety
/// Borrows `worker` until return, and `arg`, which may be NULL, until `run` returns.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_worker_wake(
    worker: *mut prefork_worker,
    run: prefork_on_wakeup,
    arg: *mut c_void,
) -> c_int {
    guard(|| {
        // SAFETY: `worker` is NULL or lent to the caller; its queue is atomic behind a lock.
        let this = unsafe { borrow_anywhere(worker) }?;
        let run = run.ok_or(prefork_status::PREFORK_NULL)?;
        let call = Woken { run, worker, arg };
        answered(this.waker().wake(move |_| call.run()))
    })
}

/// A call in the first thread, given by any.
struct Woken {
    run: unsafe extern "C-unwind" fn(*mut prefork_worker, *mut c_void),
    worker: *mut prefork_worker,
    arg: *mut c_void,
}

// SAFETY: the worker is used in its first thread only; the caller hands `arg` over to that thread.
unsafe impl Send for Woken {}

impl Woken {
    fn run(self) {
        // SAFETY: the caller gave both for this call; the worker lives as long as the process.
        unsafe { (self.run)(self.worker, self.arg) }
    }
}

fn interest(events: c_int) -> Result<Interest> {
    let (read, write) = (PREFORK_READ as c_int, PREFORK_WRITE as c_int);
    if events & (read | write) != events || events == 0 {
        return Err(prefork_status::PREFORK_INVALID);
    }
    Ok(Interest { read: events & read != 0, write: events & write != 0 })
}

fn events(Interest { read, write }: Interest) -> c_int {
    (if read { PREFORK_READ as c_int } else { 0 }) | (if write { PREFORK_WRITE as c_int } else { 0 })
}

fn unwatchable(e: &io::Error) -> prefork_status {
    match e.raw_os_error() {
        None => prefork_status::PREFORK_STATE,
        Some(_) if poll::is_unwatchable(e) => prefork_status::PREFORK_INVALID,
        Some(_) => prefork_status::PREFORK_SYSTEM,
    }
}

/// Continues with the body of a request that was paused, from any callback of its worker. The next call of
/// `on_body` comes in the next turn of the worker's loop. Does nothing if the body is not paused.
///
/// Returns PREFORK_OK; PREFORK_GONE (the request with the number `id` is over: answered, refused, or its client has
/// gone; or there never was one); PREFORK_STATE (in another process or thread); PREFORK_NULL.
/// Process: worker.
/// # Safety
/// Borrows `worker` until return.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_request_resume(worker: *mut prefork_worker, id: u64) -> c_int {
    guard(|| {
        // SAFETY: `worker` is NULL or lent to the caller.
        let worker = unsafe { borrow(worker) }?;
        if !worker.is_here() {
            return Err(prefork_status::PREFORK_STATE);
        }
        answered(worker.resume(id).then_some(()).ok_or(prefork_status::PREFORK_GONE))
    })
}
