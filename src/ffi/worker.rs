//! The worker, as C sees it.

use super::event::exit_of;
use super::guard::{Opaque, borrow, bytes, fill, guard, lend};
use super::status::{prefork_status, sent};
use crate::{Role, Undelivered, Worker, WorkerStatus, role};
use std::ffi::{c_char, c_int, c_void};
use std::ptr;
use std::time::{Duration, UNIX_EPOCH};

/// The master, as the receiver of a message or its sender.
pub const PREFORK_TO_MASTER: u32 = 0;

/// All workers, as receivers of a message; of a worker's, all others, without the master.
pub const PREFORK_TO_ALL: u32 = 0xffff_ffff;

/// The worker process a callback runs in, given to `worker_start`, `worker_stop`, `on_drain`, `on_message` and
/// `on_datagram`; others have it from `prefork_worker_self()`. It is always the same, and good as long as the
/// process lives.
pub struct prefork_worker {
    _behind: (),
}

impl Opaque for prefork_worker {
    type Inner<'a> = Worker;
}

/// What a process is.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum prefork_role_type {
    /// Neither: no server runs here, or a master or a worker has forked this process by itself.
    PREFORK_ROLE_NONE = 0,
    /// The master of a server.
    PREFORK_ROLE_MASTER = 1,
    /// A worker.
    PREFORK_ROLE_WORKER = 2,
}

use prefork_role_type::*;

/// How far a worker has come.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum prefork_worker_state {
    /// Forked, not ready.
    PREFORK_WORKER_STARTING = 1,
    /// It serves.
    PREFORK_WORKER_READY = 2,
    /// It could serve, but takes nothing at the moment. Only the master knows.
    PREFORK_WORKER_STUCK = 3,
    /// It finishes what it has.
    PREFORK_WORKER_DRAINING = 4,
    /// SIGKILL was sent to it.
    PREFORK_WORKER_KILLED = 5,
}

/// A worker, until it is reaped; `prefork_server_worker()` has the master look at it, `prefork_worker_info()`
/// the worker at itself. It may grow at its end.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct prefork_worker_status {
    /// The size of this struct: set it before the call; afterwards the size that was filled in.
    pub size: u32,
    /// Its number; no other worker of this server has it.
    pub id: u32,
    /// Its slot, from 0.
    pub slot: u32,
    /// Its generation, from 1.
    pub generation: u32,
    /// Its process id.
    pub pid: i32,
    /// How far it has come: one of `enum prefork_worker_state`.
    pub state: u32,
    /// Whether it gets connections, or will when it is ready: 0 or 1 (Node: `isConnected`).
    pub connected: u32,
    /// Connections given to it and not finished.
    pub in_flight: u32,
    /// Of those, connections it has not taken yet. Only the master knows.
    pub queued: u32,
    /// How the worker ended that was the last one to end in this slot; to a worker that looks at itself:
    /// before it was forked. Its number, or 0 where none has; then the four below are 0.
    pub last_id: u32,
    /// Its exit code; -1 where a signal ended it.
    pub last_code: i32,
    /// The signal that ended it, or 0.
    pub last_signal: i32,
    /// Why: one of `enum prefork_reason`.
    pub last_reason: u32,
    /// Whether the master meant it to end, 0 or 1 (Node: `exitedAfterDisconnect`).
    pub last_intended: u32,
    /// Milliseconds since its fork, by the monotonic clock.
    pub age_ms: u64,
    /// Requests answered; in blocking style, connections served.
    pub requests: u64,
    /// Requests refused or failed.
    pub errors: u64,
    /// Bytes from clients.
    pub bytes_in: u64,
    /// Bytes to clients.
    pub bytes_out: u64,
    /// When it was forked: milliseconds since 1970, by the wall clock as of then.
    pub started_ms: u64,
}

/// What this process is, from any thread. A worker finds its numbers also in its environment:
/// `PREFORK_WORKER_ID`, `PREFORK_SLOT`, `PREFORK_GENERATION`.
///
/// Returns one of `enum prefork_role_type`. In a worker its number, slot and generation are filled in;
/// elsewhere 0.
/// Process: any.
///
/// # Safety
/// Borrows `id`, `slot` and `generation`, each of which may be NULL, until return.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_role(id: *mut u32, slot: *mut u32, generation: *mut u32) -> u32 {
    let (kind, numbers) = match role() {
        Role::None => (PREFORK_ROLE_NONE, [0; 3]),
        Role::Master => (PREFORK_ROLE_MASTER, [0; 3]),
        Role::Worker { id, slot, generation } => (PREFORK_ROLE_WORKER, [id, slot, generation]),
    };
    for (number, into) in numbers.into_iter().zip([id, slot, generation]) {
        if !into.is_null() {
            // SAFETY: not NULL, and the caller's to be written.
            unsafe { into.write(number) };
        }
    }
    kind as u32
}

/// The worker this process is: for callbacks that are not given it.
///
/// Returns a worker that is borrowed as long as the process lives, or NULL where this process is no worker, or
/// this is not its first thread.
/// Process: any.
#[unsafe(no_mangle)]
pub extern "C" fn prefork_worker_self() -> *mut prefork_worker {
    guard(|| Ok(Worker::current().map_or(std::ptr::null_mut(), lend)))
}

/// Has this worker leave on its own account: it gets no more connections, another one takes its place, and
/// when it has finished what it has (`on_drain`, `worker_stop`) it exits with code 0. A worker that leaves
/// soon after its start is replaced with a delay.
///
/// Returns PREFORK_OK, at once; PREFORK_STATE where this process is no worker; PREFORK_NULL.
/// Process: worker.
///
/// # Safety
/// Borrows `worker` until return.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_worker_leave(worker: *mut prefork_worker) -> c_int {
    guard(|| {
        // SAFETY: `worker` is NULL or lent to the caller.
        let worker = unsafe { borrow(worker) }?;
        if Worker::current().is_none() {
            return Err(prefork_status::PREFORK_STATE);
        }
        worker.leave();
        Ok(prefork_status::PREFORK_OK as c_int)
    })
}

/// A number that no other worker of this master has had, from 1.
///
/// Returns the number, or 0 where `worker` is NULL.
/// Process: worker.
///
/// # Safety
/// Borrows `worker` until return.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_worker_id(worker: *const prefork_worker) -> u32 {
    // SAFETY: `worker` is NULL or lent to the caller.
    guard(|| Ok(unsafe { borrow(worker) }?.id()))
}

/// The index of this worker's place, from 0 to the number of workers less one; a successor has the same.
///
/// Returns the index, or 0 where `worker` is NULL.
/// Process: worker.
///
/// # Safety
/// Borrows `worker` until return.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_worker_slot(worker: *const prefork_worker) -> u32 {
    // SAFETY: `worker` is NULL or lent to the caller.
    guard(|| Ok(unsafe { borrow(worker) }?.slot()))
}

/// The start or reload this worker belongs to, from 1.
///
/// Returns the generation, or 0 where `worker` is NULL.
/// Process: worker.
///
/// # Safety
/// Borrows `worker` until return.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_worker_generation(worker: *const prefork_worker) -> u32 {
    // SAFETY: `worker` is NULL or lent to the caller.
    guard(|| Ok(unsafe { borrow(worker) }?.generation()))
}

/// Whether the callback that is running, or ran last, has taken longer than the setting `timeout`: the worker
/// gets no more connections, what waited for it went to others, and a second after the limit it is aborted. A
/// callback that may be long can look now and then and return while there is time: its client is answered,
/// and the worker serves on.
///
/// Returns 1 or 0, or PREFORK_NULL.
/// Process: worker, in any thread and in signal handlers.
///
/// # Safety
/// Borrows `worker` until return.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_worker_overdue(worker: *const prefork_worker) -> c_int {
    // SAFETY: `worker` is NULL or lent to the caller.
    guard(|| Ok(unsafe { borrow(worker) }?.is_overdue().into()))
}

/// Looks at this worker: its numbers, its process id, how far it has come, when it was forked, what it has
/// counted, and how the one before it in its slot ended.
///
/// Returns PREFORK_OK; PREFORK_INVALID where `info->size` is not set; PREFORK_NULL.
/// Process: worker.
///
/// # Safety
/// Borrows `worker` until return, and `info`, of which `info->size` bytes are filled in.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_worker_info(
    worker: *const prefork_worker,
    info: *mut prefork_worker_status,
) -> c_int {
    guard(|| {
        // SAFETY: `worker` is NULL or lent to the caller.
        let status = unsafe { borrow(worker) }?.status();
        // SAFETY: `info` is NULL or has as many bytes as it says; it begins with its size.
        unsafe { fill(info, &self::info(&status)) }?;
        Ok(prefork_status::PREFORK_OK as c_int)
    })
}

/// The number of arguments behind the handler on the command line, or given to `prefork_server_args()`.
///
/// Returns the number, or 0 where `worker` is NULL.
/// Process: worker.
///
/// # Safety
/// Borrows `worker` until return.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_worker_arg_count(worker: *const prefork_worker) -> usize {
    // SAFETY: `worker` is NULL or lent to the caller.
    guard(|| Ok(unsafe { borrow(worker) }?.args().len()))
}

/// One of those arguments.
///
/// Returns a NUL-terminated string that is borrowed as long as the worker lives, or NULL from
/// `prefork_worker_arg_count()` on.
/// Process: worker.
///
/// # Safety
/// Borrows `worker` until return.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_worker_arg(worker: *const prefork_worker, index: usize) -> *const c_char {
    guard(|| {
        // SAFETY: `worker` is NULL or lent to the caller.
        let args = unsafe { borrow(worker) }?.args();
        Ok(args.get(index).map_or(std::ptr::null(), |arg| arg.as_ptr()))
    })
}

/// Sends a message to another worker by its id, to the master (PREFORK_TO_MASTER), or to all other workers
/// (PREFORK_TO_ALL; not to the master). `type` is for you to choose. There it comes to `on_message`, or to
/// the callback of `prefork_server_on_message()`.
///
/// Never waits: what is not taken at once is sent when the callback has returned and there is room.
/// Messages from one process to another arrive in the order they were sent. A message to a worker that has
/// ended is lost; `prefork_worker_request()` tells.
///
/// Returns PREFORK_OK; PREFORK_TOO_LARGE over the setting `max-message`; PREFORK_FULL where four messages of
/// that size wait already, here or for that worker; PREFORK_GONE where the master is gone; PREFORK_INVALID
/// or PREFORK_NULL.
/// Process: worker.
///
/// # Safety
/// Borrows `worker` until return. Copies `size` bytes at `data`, which may be NULL where `size` is 0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_worker_send(
    worker: *mut prefork_worker,
    to: u32,
    r#type: u32,
    data: *const c_void,
    size: usize,
) -> c_int {
    guard(|| {
        // SAFETY: `worker` is NULL or lent to the caller.
        let worker = unsafe { borrow(worker) }?;
        // SAFETY: `data` is NULL or has `size` bytes that live until return.
        sent(worker.send(to, r#type, unsafe { bytes(data, size) }?))
    })
}

/// Sends a message that is to be answered. If this returns PREFORK_OK, `on_reply` is called once, after the
/// callback that asks has returned: with PREFORK_OK and the reply, or with the reason why there is none:
/// PREFORK_TIMEOUT after `deadline_ms` milliseconds (0: no deadline), PREFORK_GONE (there is no such worker,
/// it has ended, or this one does), PREFORK_UNANSWERED, or PREFORK_FULL (too much waits for it).
///
/// Returns as `prefork_worker_send()`; PREFORK_STATE to PREFORK_TO_ALL; PREFORK_NULL also where `on_reply`
/// is NULL.
/// Process: worker.
///
/// # Safety
/// Borrows `worker` until return. Copies `size` bytes at `data`, which may be NULL where `size` is 0.
/// Borrows `arg`, which may be NULL, until `on_reply` returns; the reply's bytes are borrowed until then.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_worker_request(
    worker: *mut prefork_worker,
    to: u32,
    r#type: u32,
    data: *const c_void,
    size: usize,
    deadline_ms: u32,
    on_reply: Option<
        unsafe extern "C" fn(
            worker: *mut prefork_worker,
            status: c_int,
            data: *const c_void,
            size: usize,
            arg: *mut c_void,
        ),
    >,
    arg: *mut c_void,
) -> c_int {
    guard(|| {
        // SAFETY: `worker` is NULL or lent to the caller.
        let this = unsafe { borrow(worker) }?;
        let on_reply = on_reply.ok_or(prefork_status::PREFORK_NULL)?;
        // SAFETY: `data` is NULL or has `size` bytes that live until return.
        let data = unsafe { bytes(data, size) }?;
        let deadline = Duration::from_millis(deadline_ms.into());
        sent(this.request(to, r#type, data, deadline, move |result| {
            let (status, data, size) = reply_parts(result);
            // SAFETY: a callback and an argument that were given for this; the worker lives as long as its requests.
            unsafe { on_reply(worker, status, data, size, arg) }
        }))
    })
}

/// Answers the request that `on_message` is being called for, once. If it returns without, the sender is told
/// PREFORK_UNANSWERED at once.
///
/// Returns as `prefork_worker_send()`; PREFORK_STATE where no request is being handled, or it has its reply.
/// Process: worker.
///
/// # Safety
/// Borrows `worker` until return. Copies `size` bytes at `data`, which may be NULL where `size` is 0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_worker_reply(
    worker: *mut prefork_worker,
    data: *const c_void,
    size: usize,
) -> c_int {
    guard(|| {
        // SAFETY: `worker` is NULL or lent to the caller.
        let worker = unsafe { borrow(worker) }?;
        // SAFETY: `data` is NULL or has `size` bytes that live until return.
        sent(worker.reply(unsafe { bytes(data, size) }?))
    })
}

/// A worker's record, as C sees it.
pub(super) fn info(w: &WorkerStatus) -> prefork_worker_status {
    let last = w.last_exit.map(exit_of);
    prefork_worker_status {
        size: size_of::<prefork_worker_status>() as u32,
        id: w.worker.id,
        slot: w.worker.slot,
        generation: w.worker.generation,
        pid: w.worker.pid,
        state: w.state as u32,
        connected: w.state.is_connected().into(),
        in_flight: w.in_flight,
        queued: u32::try_from(w.queued).unwrap_or(u32::MAX),
        age_ms: w.age.as_millis() as u64,
        requests: w.requests,
        errors: w.errors,
        bytes_in: w.bytes_in,
        bytes_out: w.bytes_out,
        started_ms: w.started.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64),
        last_id: last.map_or(0, |l| l.id),
        last_code: last.map_or(0, |l| l.code),
        last_signal: last.map_or(0, |l| l.signal),
        last_reason: last.map_or(0, |l| l.reason),
        last_intended: last.map_or(0, |l| l.intended),
    }
}

/// What a callback is given of a reply, or of its want.
pub(super) fn reply_parts(result: Result<&[u8], Undelivered>) -> (c_int, *const c_void, usize) {
    match result {
        Ok(bytes) => (prefork_status::PREFORK_OK as c_int, bytes.as_ptr().cast(), bytes.len()),
        Err(reason) => (prefork_status::from(reason) as c_int, ptr::null(), 0),
    }
}
