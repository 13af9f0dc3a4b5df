//! The running server: to step through, to steer and to look at. Runs in the master; anywhere else it is refused.

use super::event::{fill_exit, prefork_exit};
use super::guard::{Result, borrow, borrow_mut, c_str, fill, guard, pointers};
use super::server::{Run, prefork_server};
use super::status::prefork_status;
use super::worker::{info, prefork_worker_status};
use crate::{Error, ErrorKind, Running, ServerState};
use std::ffi::{CStr, c_char, c_int, c_void};
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

/// What runs. It may grow at its end.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct prefork_server_status {
    /// The size of this struct: set it before the call; afterwards the size that was filled in.
    pub size: u32,
    /// The generation that serves, or is being replaced.
    pub generation: u32,
    /// Workers there are to be.
    pub slots: u32,
    /// Workers there are.
    pub workers: u32,
    /// Whether a reload is under way: 0 or 1.
    pub reloading: u32,
    /// Whether a stop is: 0 or 1.
    pub stopping: u32,
    /// Connections taken by workers, those that are no more included; so with the counts below.
    pub taken: u64,
    /// Requests answered; in blocking style, connections served.
    pub requests: u64,
    /// Requests refused or failed.
    pub errors: u64,
    /// Bytes from clients.
    pub bytes_in: u64,
    /// Bytes to clients.
    pub bytes_out: u64,
}

/// As `prefork_server_run()`, for a program with an event loop of its own: makes this process the master and
/// returns at once. Then have `prefork_server_step()` called whenever the descriptor of
/// `prefork_server_fd()` is readable and when `prefork_server_timeout()` says so, for the first time at once:
/// that starts the workers.
///
/// Signals stay the program's, SIGPIPE too, unless it asks with `prefork_server_set(server, "signals",
/// "on")`: then they are blocked and steer the master as in a run. There is no handler of SIGCHLD and no
/// waiting for children that are not workers: the program may have its own, but should not collect
/// workers, whose exit codes would be lost. It must not start a thread as long as the server runs: no
/// further worker could be forked. Workers have a copy of every descriptor that is open when they are
/// forked: close in `worker_start` what clients of yours wait to see closed.
///
/// Returns as `prefork_server_run()`, but for what comes of the workers.
/// Process: becomes the master.
///
/// # Safety
/// Borrows `server` until return.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_server_start(server: *mut prefork_server) -> c_int {
    guard(|| {
        // SAFETY: `server` is NULL or lent to the caller, who uses it in no other call meanwhile.
        let this = unsafe { super::server::idle(server) }?;
        let done = this.start();
        this.say(done)
    })
}

/// The descriptor to watch: readable as long as there is something for `prefork_server_step()` to do. It is
/// an epoll descriptor, which poll(2) and another epoll(7) can watch.
///
/// Returns a descriptor that is borrowed until the server has ended, which closes it: neither read nor close
/// it; or PREFORK_STATE where the server has not been started, or PREFORK_NULL.
/// Process: master.
///
/// # Safety
/// Borrows `server` until return.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_server_fd(server: *const prefork_server) -> c_int {
    guard(|| {
        // SAFETY: `server` is NULL or lent to the caller.
        let running = running(unsafe { borrow(server) }?)?;
        Ok(running.as_fd().as_raw_fd())
    })
}

/// When to call `prefork_server_step()` at the latest although the descriptor is not readable.
///
/// Returns milliseconds, 0 for at once, or a negative number where only the descriptor says when, also where
/// nothing runs: what poll(2) and epoll_wait(2) take.
/// Process: master.
///
/// # Safety
/// Borrows `server` until return.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_server_timeout(server: *const prefork_server) -> c_int {
    guard(|| {
        // SAFETY: `server` is NULL or lent to the caller.
        let running = running(unsafe { borrow(server) }?)?;
        Ok(running.timeout().map_or(-1, |due| c_int::try_from(due.as_millis()).unwrap_or(c_int::MAX)))
    })
}

/// Does what there is to do, after waiting for it for `timeout_ms` milliseconds at the most (0: not at all;
/// negative: as long as it takes), and then calls back for what has happened. Callbacks may ask the server
/// for anything but a step, a start and its end; but that of `prefork_server_on_message()` and replies come
/// in the middle of a turn, and may send, no more.
///
/// Returns 1 as long as the server runs, and PREFORK_OK when it has ended: every worker is reaped, all is
/// closed, and the server may be started again or freed. A refusal ends it too: PREFORK_HANDLER where the
/// first workers could not start, PREFORK_SYSTEM. PREFORK_STATE where it has not been started, in another
/// process, or in a callback; PREFORK_NULL.
/// Process: master.
///
/// # Safety
/// Borrows `server` until return.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_server_step(server: *mut prefork_server, timeout_ms: c_int) -> c_int {
    guard(|| {
        // SAFETY: `server` is NULL or lent to the caller.
        let this = unsafe { borrow(server) }?;
        if !running(this)?.is_here() {
            return Err(prefork_status::PREFORK_STATE);
        }
        let patience = u64::try_from(timeout_ms).ok().map(Duration::from_millis);
        // SAFETY: as above; the caller uses it in no other call but in callbacks meanwhile.
        unsafe { super::server::step(server, patience) }
    })
}

/// Replaces all workers by a new generation, one after the other, or leaves all as it was: PREFORK_EVENT_*
/// tells what came of it. A module file is read anew. A reload that is asked for during another follows it.
///
/// Returns PREFORK_OK; PREFORK_STATE where the server does not run in this process, or stops; PREFORK_NULL.
/// Process: master.
///
/// # Safety
/// Borrows `server` until return.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_server_reload(server: *mut prefork_server) -> c_int {
    // SAFETY: `server` is NULL or lent to the caller.
    guard(|| unsafe { command(server, |running| running.reload()) })
}

/// Runs so many workers from now on; those in the highest slots go first.
///
/// Returns PREFORK_OK; PREFORK_CONFIG where `workers` is not 1 to 1024; PREFORK_STATE where the server does
/// not run in this process, stops, or its first workers are not all ready yet; PREFORK_NULL.
/// Process: master.
///
/// # Safety
/// Borrows `server` until return.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_server_scale(server: *mut prefork_server, workers: u32) -> c_int {
    // SAFETY: `server` is NULL or lent to the caller.
    guard(|| unsafe { command(server, |running| running.scale(workers as usize)) })
}

/// Starts one more worker. It finds `count` variables, given as `NAME=value`, in its environment (getenv(3))
/// beside those this process has; so do all that follow it in its slot.
///
/// Returns the slot, which is the highest; PREFORK_CONFIG where there are 1024 workers, or where a string is
/// no variable; PREFORK_STATE as `prefork_server_scale()`; PREFORK_INVALID where one is not UTF-8;
/// PREFORK_NULL.
/// Process: master.
///
/// # Safety
/// Borrows `server` until return. Copies `count` strings at `variables`, each NUL-terminated;
/// `variables` may be NULL where `count` is 0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_server_fork(
    server: *mut prefork_server,
    count: usize,
    variables: *const *const c_char,
) -> c_int {
    guard(|| {
        // SAFETY: `server` is NULL or lent to the caller.
        unsafe { borrow(server) }?;
        // SAFETY: `variables` is NULL or has `count` pointers.
        let variables = unsafe { pointers(variables, count) }?;
        // SAFETY: each is NULL or a C string that lives until return.
        let text = |p: &*const c_char| unsafe { c_str(*p) };
        let texts: Result<Vec<&CStr>> = variables.iter().map(text).collect();
        let pairs = texts?.into_iter().map(|text| {
            let text = text.to_str().map_err(|_| prefork_status::PREFORK_INVALID)?;
            // Without `=` there is no name, which is refused below.
            Ok(text.split_once('=').unwrap_or(("", text)))
        });
        let pairs = pairs.collect::<Result<Vec<_>>>()?;
        let mut slot = 0;
        // SAFETY: `server` is NULL or lent to the caller.
        unsafe { command(server, |running| running.fork(&pairs).map(|at| slot = at)) }?;
        Ok(slot as c_int)
    })
}

/// Has a worker finish what it has and leave; idle connections go to others. Another worker takes its place.
/// After `deadline_ms` milliseconds it is killed: 0 is for ever, a negative number the setting
/// `drain-timeout`.
///
/// Returns PREFORK_OK; PREFORK_GONE where there is no such worker (any more); PREFORK_STATE where the server
/// does not run in this process; PREFORK_NULL.
/// Process: master.
///
/// # Safety
/// Borrows `server` until return.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_server_drain(
    server: *mut prefork_server,
    id: u32,
    deadline_ms: c_int,
) -> c_int {
    let patience = u64::try_from(deadline_ms).ok().map(Duration::from_millis);
    // SAFETY: `server` is NULL or lent to the caller.
    guard(|| unsafe { order(server, id, |running| running.drain(id, patience)) })
}

/// Sends a worker a signal (kill(2)); 0 only asks whether it is there. Where the signal ends it, its exit is
/// PREFORK_REASON_KILLED, and intended: another worker takes its place at once. After SIGTERM it finishes
/// what it has first, as after `prefork_server_drain()`; HUP, INT, QUIT and what else means nothing to a
/// worker does nothing, and what it dies of later is no intention.
///
/// Returns PREFORK_OK; PREFORK_GONE where there is no such worker (any more); PREFORK_SYSTEM where the kernel
/// refuses; PREFORK_STATE where the server does not run in this process; PREFORK_NULL.
/// Process: master.
///
/// # Safety
/// Borrows `server` until return.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_server_kill(server: *mut prefork_server, id: u32, signal: c_int) -> c_int {
    // SAFETY: `server` is NULL or lent to the caller.
    guard(|| unsafe { order(server, id, |running| running.kill(id, signal)) })
}

/// Begins an orderly stop: what was accepted is finished, all workers are drained. A second call ends them
/// at once. It is done when the last one is reaped: `prefork_server_step()` or `prefork_server_run()` returns
/// PREFORK_OK, after PREFORK_EVENT_STOPPED.
///
/// Returns PREFORK_OK; PREFORK_STATE where the server does not run in this process; PREFORK_NULL.
/// Process: master.
///
/// # Safety
/// Borrows `server` until return.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_server_stop(server: *mut prefork_server) -> c_int {
    // SAFETY: `server` is NULL or lent to the caller.
    guard(|| unsafe { command(server, |running| running.stop()) })
}

/// Calls a function with each worker, those that drain included, until they are reaped. It may ask the
/// server for anything: what it walks through is a copy.
///
/// Returns the number of workers; PREFORK_STATE where the server does not run; PREFORK_NULL.
/// Process: master.
///
/// # Safety
/// Borrows `server` until return, and `arg`, which may be NULL. The info is borrowed until `each` returns.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_server_each_worker(
    server: *const prefork_server,
    each: Option<unsafe extern "C" fn(info: *const prefork_worker_status, arg: *mut c_void)>,
    arg: *mut c_void,
) -> c_int {
    guard(|| {
        // SAFETY: `server` is NULL or lent to the caller.
        let workers = running(unsafe { borrow(server) }?)?.status().workers;
        let each = each.ok_or(prefork_status::PREFORK_NULL)?;
        for info in workers.iter().map(info) {
            // SAFETY: a callback and an argument that were given for this; `info` lives until it returns.
            unsafe { each(&raw const info, arg) }
        }
        Ok(workers.len() as c_int)
    })
}

/// Looks at one worker.
///
/// Returns PREFORK_OK; PREFORK_GONE where there is no such worker, or it was reaped (Node: `isDead`);
/// PREFORK_STATE where the server does not run; PREFORK_INVALID where `info->size` is not set; PREFORK_NULL.
/// Process: master.
///
/// # Safety
/// Borrows `server` until return, and `info`, of which `info->size` bytes are filled in.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_server_worker(
    server: *const prefork_server,
    id: u32,
    info: *mut prefork_worker_status,
) -> c_int {
    guard(|| {
        // SAFETY: `server` is NULL or lent to the caller.
        let running = running(unsafe { borrow(server) }?)?;
        let worker = running.worker(id).ok_or(prefork_status::PREFORK_GONE)?;
        // SAFETY: `info` is NULL or has as many bytes as it says; it begins with its size.
        unsafe { fill(info, &self::info(&worker)) }?;
        Ok(prefork_status::PREFORK_OK as c_int)
    })
}

/// Looks at the server.
///
/// Returns PREFORK_OK; PREFORK_STATE where the server does not run; PREFORK_INVALID where `info->size` is not
/// set; PREFORK_NULL.
/// Process: master.
///
/// # Safety
/// Borrows `server` until return, and `info`, of which `info->size` bytes are filled in.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_server_info(
    server: *const prefork_server,
    info: *mut prefork_server_status,
) -> c_int {
    guard(|| {
        // SAFETY: `server` is NULL or lent to the caller.
        let now = running(unsafe { borrow(server) }?)?.status();
        let value = prefork_server_status {
            size: 0,
            generation: now.generation,
            slots: now.total as u32,
            workers: now.workers.len() as u32,
            reloading: (now.state == ServerState::Reloading).into(),
            stopping: (now.state == ServerState::Stopping).into(),
            taken: now.totals.taken,
            requests: now.totals.requests,
            errors: now.totals.errors,
            bytes_in: now.totals.bytes_in,
            bytes_out: now.totals.bytes_out,
        };
        // SAFETY: `info` is NULL or has as many bytes as it says; it begins with its size.
        unsafe { fill(info, &value) }?;
        Ok(prefork_status::PREFORK_OK as c_int)
    })
}

/// How the last worker of a slot ended.
///
/// Returns PREFORK_OK; PREFORK_GONE where none has ended there, or there is no such slot; PREFORK_STATE where
/// the server does not run; PREFORK_INVALID where `last->size` is not set; PREFORK_NULL.
/// Process: master.
///
/// # Safety
/// Borrows `server` until return, and `last`, of which `last->size` bytes are filled in.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_server_last_exit(
    server: *const prefork_server,
    slot: u32,
    last: *mut prefork_exit,
) -> c_int {
    guard(|| {
        // SAFETY: `server` is NULL or lent to the caller.
        let running = running(unsafe { borrow(server) }?)?;
        let found = running.last_exit(slot as usize).ok_or(prefork_status::PREFORK_GONE)?;
        // SAFETY: `last` is NULL or has as many bytes as it says.
        unsafe { fill_exit(last, found) }
    })
}

fn running(server: &prefork_server) -> Result<&Running> {
    match &server.run {
        Run::Here(running) => Ok(running),
        Run::No | Run::Turn => Err(prefork_status::PREFORK_STATE),
    }
}

/// Has the running server do something, and keeps the reason where it does not.
///
/// # Safety
/// As [`borrow_mut`].
unsafe fn command(
    server: *mut prefork_server,
    f: impl FnOnce(&mut Running) -> crate::Result<()>,
) -> Result<c_int> {
    // SAFETY: what the caller promises.
    let server = unsafe { borrow_mut(server) }?;
    let done = match &mut server.run {
        Run::Here(running) => f(running),
        Run::No | Run::Turn => Err(Error::new(ErrorKind::State, NOT_RUNNING)),
    };
    server.say(done)
}

/// As [`command`], where it is about a worker.
///
/// # Safety
/// As [`borrow_mut`].
unsafe fn order(
    server: *mut prefork_server,
    id: u32,
    f: impl FnOnce(&mut Running) -> crate::Result<()>,
) -> Result<c_int> {
    // SAFETY: what the caller promises.
    let this = unsafe { borrow(server) }?;
    let gone = running(this).is_ok_and(|running| running.worker(id).is_none());
    // SAFETY: what the caller promises.
    let done = unsafe { command(server, f) };
    if gone { Err(prefork_status::PREFORK_GONE) } else { done }
}

const NOT_RUNNING: &str = "the server does not run in this process";
