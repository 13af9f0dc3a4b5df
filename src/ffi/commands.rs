//! The running server in C: its loop, commands and queries. In the master; refused in any other process.

use super::event::{exit_of, prefork_exit};
use super::guard::{Result, borrow, borrow_mut, fill, guard, strings};
use super::server::{prefork_server, start, step};
use super::status::prefork_status;
use super::worker::{info, prefork_worker_status};
use crate::unwind::named;
use crate::{Error, ErrorKind, Running, ServerState};
use std::ffi::{c_char, c_int, c_void};
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

/// A running server. Later versions may add members at the end.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct prefork_server_status {
    /// The size of this struct: set it before the call; afterwards the size that was filled in.
    pub size: u32,
    /// The generation that serves, or is being replaced.
    pub generation: u32,
    /// The number of workers wanted.
    pub slots: u32,
    /// The number of workers that are not reaped yet.
    pub workers: u32,
    /// 1 during a reload, else 0.
    pub reloading: u32,
    /// 1 during a stop, else 0.
    pub stopping: u32,
    /// Connections taken by workers. This counter and those below include workers that have ended.
    pub taken: u64,
    /// Requests answered; in blocking style, connections served.
    pub requests: u64,
    /// Requests that prefork refused, or whose handler failed: an error or a panic, a deadline, a body that was cut.
    /// Statuses that a handler chose are not counted, whatever they are.
    pub errors: u64,
    /// Bytes from clients.
    pub bytes_in: u64,
    /// Bytes to clients.
    pub bytes_out: u64,
}

/// Makes this process the master, for a program with an event loop of its own, and returns at once. Then call
/// `prefork_server_step()`: now, which starts the workers; whenever the descriptor of `prefork_server_fd()` is
/// readable; and when the time of `prefork_server_timeout()` has passed.
///
/// Signals stay the program's, SIGPIPE too, unless `prefork_server_set(server, "signals", "on")` says that they are
/// handled as in `prefork_server_run()`. The program may have children of its own and a handler of SIGCHLD, but
/// should not reap workers: their exit codes would be lost. It must not start a thread while the server runs: no
/// more workers could be forked. Workers have copies of all descriptors that are open at their fork: close in
/// `worker_start` those whose peers wait for them to be closed. Standard input, output or error that is closed
/// becomes /dev/null, as in `prefork_server_run()`.
///
/// Returns as `prefork_server_run()`, except for failures of workers.
/// Process: becomes the master.
/// # Safety
/// Borrows `server` until return.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_server_start(server: *mut prefork_server) -> c_int {
    // SAFETY: `server` is NULL or lent to the caller, who uses it in no other call meanwhile.
    unsafe { start(server) }
}

/// The descriptor to watch, which is readable while there is something for `prefork_server_step()` to do. It is an
/// epoll descriptor, which poll(2) and epoll(7) can watch.
///
/// Returns a descriptor that is borrowed until the server has ended, which closes it: neither read nor close it.
/// Process: master, while it runs.
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

/// The time after which to call `prefork_server_step()` although the descriptor is not readable, in the form that
/// poll(2) and epoll_wait(2) take.
///
/// Returns milliseconds. 0: call now. Negative: no need to call, or the server is not running.
/// Process: master.
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

/// Waits until there is something to do, for at most `timeout_ms` milliseconds (0: not at all; negative: forever),
/// does it, and then runs the callbacks. A callback may call anything except `prefork_server_step()`, `_start()`,
/// `_run()` and `_free()`.
///
/// Returns 1 while the server runs, and PREFORK_OK when it has ended: every worker is reaped, everything is closed,
/// and the server may be started again or freed. PREFORK_HANDLER (the first workers could not start),
/// PREFORK_MISCONFIGURED and PREFORK_SYSTEM end it too.
/// Process: master, while it runs; not in a callback.
/// # Safety
/// Borrows `server` until return.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_server_step(server: *mut prefork_server, timeout_ms: c_int) -> c_int {
    guard(|| {
        // SAFETY: `server` is NULL or lent to the caller.
        if !running(unsafe { borrow(server) }?)?.master.borrow().is_here() {
            return Err(prefork_status::PREFORK_STATE);
        }
        // SAFETY: as above; the caller uses it in no other call meanwhile, except in callbacks.
        unsafe { step(server, milliseconds(timeout_ms)) }
    })
}

/// Replaces all workers by a new generation, one after the other. If a new worker fails, the old generation is
/// restored. An event PREFORK_EVENT_RELOAD_* reports the outcome. The file of a module is read anew. A reload asked
/// for during another begins after it. It begins in the next step, if `prefork_server_on_reload()` does not refuse it.
///
/// Returns PREFORK_OK; PREFORK_STATE also if the server is stopping.
/// Process: master, while it runs.
/// # Safety
/// Borrows `server` until return.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_server_reload(server: *mut prefork_server) -> c_int {
    // SAFETY: `server` is NULL or lent to the caller.
    unsafe { command(server, |running| running.reload().map(done)) }
}

/// Has the file now at the program's path take this program's place, in this process and with its workers, after a
/// trial (see UPGRADES above), and then replaces all workers. If that succeeds, a later step does not return: the new
/// program runs instead. If it fails, PREFORK_EVENT_ERROR has the reason.
///
/// Returns PREFORK_OK; PREFORK_STATE also if the server is stopping, or an upgrade is under way.
/// Process: master, while it runs.
/// # Safety
/// Borrows `server` until return.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_server_upgrade(server: *mut prefork_server) -> c_int {
    // SAFETY: `server` is NULL or lent to the caller.
    unsafe { command(server, |running| running.upgrade().map(done)) }
}

/// Sets the number of workers, 1 to 1024. If there are fewer than before, those in the highest slots leave.
///
/// Returns PREFORK_OK; PREFORK_CONFIG if the number is out of range; PREFORK_STATE also if the server is stopping, or
/// its first workers are not all ready yet; PREFORK_SYSTEM if the hard limit on open descriptors (`ulimit -Hn`) is too
/// low for that many.
/// Process: master, while it runs.
/// # Safety
/// Borrows `server` until return.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_server_scale(server: *mut prefork_server, workers: u32) -> c_int {
    // SAFETY: `server` is NULL or lent to the caller.
    unsafe { command(server, |running| running.scale(workers as usize).map(done)) }
}

/// Starts one more worker. It and its successors in the slot have `count` variables, given as `NAME=value`, in their
/// environment (getenv(3)), in addition to those of this process.
///
/// Returns the slot, which is the highest; PREFORK_CONFIG if there are 1024 workers, or if a string is not a
/// variable; PREFORK_INVALID if one is not UTF-8; PREFORK_STATE and PREFORK_SYSTEM as `prefork_server_scale()`.
/// Process: master, while it runs.
/// # Safety
/// Borrows `server` until return. Copies `count` strings at `variables`, each NUL-terminated;
/// `variables` may be NULL if `count` is 0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_server_fork(
    server: *mut prefork_server,
    count: usize,
    variables: *const *const c_char,
) -> c_int {
    guard(|| {
        // SAFETY: `server` is NULL or lent to the caller.
        unsafe { borrow(server) }?;
        // SAFETY: `variables` is NULL or has `count` pointers to C strings that live until return.
        let variables = unsafe { strings(variables, count) }?.into_iter().map(|variable| {
            let text = variable.to_str().map_err(|_| prefork_status::PREFORK_INVALID)?;
            // Without `=` there is no name, which is refused below.
            Ok(text.split_once('=').unwrap_or(("", text)))
        });
        let variables = variables.collect::<Result<Vec<_>>>()?;
        // SAFETY: `server` is NULL or lent to the caller.
        Ok(unsafe { command(server, |running| running.fork(&variables).map(|slot| slot as c_int)) })
    })
}

/// Drains a worker: it finishes what it has and exits; its idle connections go to other workers. Its successor starts
/// at once. After `deadline_ms` milliseconds (0: forever; negative: the setting `drain-timeout`) it ends what it still
/// has, and a second later it is killed.
///
/// Returns PREFORK_OK, or PREFORK_GONE if there is no such worker.
/// Process: master, while it runs.
/// # Safety
/// Borrows `server` until return.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_server_drain(
    server: *mut prefork_server,
    id: u32,
    deadline_ms: c_int,
) -> c_int {
    // SAFETY: `server` is NULL or lent to the caller.
    unsafe { command(server, |running| running.drain(id, milliseconds(deadline_ms)).map(done)) }
}

/// Sends a signal to a worker (kill(2)); 0 only checks that it exists. If the signal ends the worker, the reason is
/// PREFORK_REASON_KILLED with `intended` = 1, and its successor starts at once. SIGTERM drains the worker first, as
/// `prefork_server_drain()` does. HUP, INT, QUIT and others that workers ignore have no effect.
///
/// Returns PREFORK_OK; PREFORK_GONE if there is no such worker; PREFORK_SYSTEM if kill(2) fails.
/// Process: master, while it runs.
/// # Safety
/// Borrows `server` until return.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_server_kill(server: *mut prefork_server, id: u32, signal: c_int) -> c_int {
    // SAFETY: `server` is NULL or lent to the caller.
    unsafe { command(server, |running| running.kill(id, signal).map(done)) }
}

/// Begins an orderly stop: what was accepted is served, and all workers are drained. A second call kills them. When
/// the last worker is reaped, `prefork_server_step()` or `prefork_server_run()` returns PREFORK_OK, after
/// PREFORK_EVENT_STOPPED.
///
/// Returns PREFORK_OK.
/// Process: master, while it runs.
/// # Safety
/// Borrows `server` until return.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_server_stop(server: *mut prefork_server) -> c_int {
    // SAFETY: `server` is NULL or lent to the caller.
    unsafe { command(server, |running| running.stop().map(done)) }
}

/// Calls a function with each worker that is not reaped yet. The function may call anything: the list is a copy.
///
/// Returns the number of workers.
/// Process: master, while it runs.
/// # Safety
/// Borrows `server` and `arg`, which may be NULL, until return. `info` is borrowed until `each` returns.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_server_each_worker(
    server: *const prefork_server,
    each: Option<unsafe extern "C-unwind" fn(info: *const prefork_worker_status, arg: *mut c_void)>,
    arg: *mut c_void,
) -> c_int {
    guard(|| {
        // SAFETY: `server` is NULL or lent to the caller.
        let workers = running(unsafe { borrow(server) }?)?.status().workers;
        let each = each.ok_or(prefork_status::PREFORK_NULL)?;
        for info in workers.iter().map(info) {
            // SAFETY: a callback and an argument that were given for this; `info` lives until it returns.
            named("each", || unsafe { each(&raw const info, arg) });
        }
        Ok(workers.len() as c_int)
    })
}

/// Fills `info` with the state and counters of a worker.
///
/// Returns PREFORK_OK; PREFORK_GONE if there is no such worker, or it is reaped (Node: `isDead`); PREFORK_INVALID if
/// `info->size` is not set.
/// Process: master, while it runs.
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
        unsafe { fill(info, &self::info(&worker)) }
    })
}

/// Fills `info` with the state and counters of the server.
///
/// Returns PREFORK_OK, or PREFORK_INVALID if `info->size` is not set.
/// Process: master, while it runs.
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
        unsafe { fill(info, &value) }
    })
}

/// Fills `last` with the end of the last worker of a slot that has ended.
///
/// Returns PREFORK_OK; PREFORK_GONE if no worker has ended there, or there is no such slot; PREFORK_INVALID if
/// `last->size` is not set.
/// Process: master, while it runs.
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
        // SAFETY: `last` is NULL or has as many bytes as it says; it begins with its size.
        unsafe { fill(last, &exit_of(&found)) }
    })
}

fn running(server: &prefork_server) -> Result<&Running> {
    server.running.as_deref().ok_or(prefork_status::PREFORK_STATE)
}

/// Has the running server execute a command, and keeps the error.
///
/// # Safety
/// As [`borrow_mut`].
unsafe fn command(
    server: *mut prefork_server,
    f: impl FnOnce(&mut Running) -> crate::Result<c_int>,
) -> c_int {
    guard(|| {
        // SAFETY: what the caller promises.
        let server = unsafe { borrow_mut(server) }?;
        let done = match &mut server.running {
            Some(running) => f(running),
            None => Err(Error::new(ErrorKind::State, "the server does not run in this process")),
        };
        server.keep_error(done.map_err(Into::into))
    })
}

fn done((): ()) -> c_int {
    prefork_status::PREFORK_OK as c_int
}

/// A time of C's: none if it is negative.
fn milliseconds(time: c_int) -> Option<Duration> {
    u64::try_from(time).ok().map(Duration::from_millis)
}
