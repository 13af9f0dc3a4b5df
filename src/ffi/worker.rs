//! The worker in C.

use super::event::exit_of;
use super::guard::{Opaque, borrow, borrow_anywhere, bytes, fill, guard, lend};
use super::status::{answered, prefork_status};
use crate::message::Address;
use crate::{MessageKind, Role, Undelivered, Worker, WorkerStatus, role};
use std::ffi::{c_char, c_int, c_void};
use std::ptr;
use std::time::{Duration, UNIX_EPOCH};

/// The master, as the receiver or the sender of a message.
pub const PREFORK_TO_MASTER: u32 = 0;

/// All workers, as the receivers of a message, except the worker that sends it.
pub const PREFORK_TO_ALL: u32 = 0xffff_ffff;

/// The worker process in which a callback runs, given to callbacks and returned by `prefork_worker_self()`. It
/// is always the same pointer, valid as long as the process lives.
pub struct prefork_worker(());

impl Opaque for prefork_worker {
    type Inner<'a> = Worker;

    fn is_usable() -> bool {
        Worker::is_first_thread()
    }
}

/// The role of a process.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum prefork_role_type {
    /// No role: no server runs here, or the host or a handler has forked this process itself.
    PREFORK_ROLE_NONE = 0,
    /// The master of a server.
    PREFORK_ROLE_MASTER = 1,
    /// A worker.
    PREFORK_ROLE_WORKER = 2,
}

use prefork_role_type::*;

/// The state of a worker.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum prefork_worker_state {
    /// It was forked and is not ready.
    PREFORK_WORKER_STARTING = 1,
    /// It serves.
    PREFORK_WORKER_READY = 2,
    /// It is ready, but has stopped taking its connections. Only the master knows.
    PREFORK_WORKER_STUCK = 3,
    /// It finishes what it has.
    PREFORK_WORKER_DRAINING = 4,
    /// SIGKILL was sent to it.
    PREFORK_WORKER_KILLED = 5,
}

/// A worker that has not been reaped, as the master sees it (`prefork_server_worker()`) or as it sees itself
/// (`prefork_worker_info()`). Later versions may add members at the end.
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
    /// Its state: one of `enum prefork_worker_state`.
    pub state: u32,
    /// 1 if it gets connections, or will when it is ready, else 0 (Node: `isConnected`).
    pub connected: u32,
    /// Connections in flight: given to it and not finished.
    pub in_flight: u32,
    /// Those of them that it has not taken yet. Only the master knows.
    pub queued: u32,
    /// The number of the last worker that ended in this slot, or 0 if none has ended; in a worker: as
    /// of its fork. The four members below are 0 if this is 0.
    pub last_id: u32,
    /// Its exit code; -1 if a signal ended it.
    pub last_code: i32,
    /// The signal that ended it, or 0.
    pub last_signal: i32,
    /// The reason: one of `enum prefork_reason`.
    pub last_reason: u32,
    /// 1 if the master wanted it to end, else 0 (Node: `exitedAfterDisconnect`).
    pub last_intended: u32,
    /// Milliseconds since this worker's fork, by the monotonic clock.
    pub age_ms: u64,
    /// Requests answered; in blocking style, connections served.
    pub requests: u64,
    /// Requests that prefork refused, or whose handler failed: an error or a panic, a deadline, a body that was cut.
    /// Statuses that a handler chose are not counted, whatever they are.
    pub errors: u64,
    /// Bytes from clients.
    pub bytes_in: u64,
    /// Bytes to clients.
    pub bytes_out: u64,
    /// The time of its fork: milliseconds since 1970, by the wall clock at that time.
    pub started_ms: u64,
    /// Connections of those in flight that were between two requests when the worker last waited for events: they
    /// are closed if there is no other room for new clients.
    pub idle: u64,
    /// Publications that one of its streams did not get, as its client was too slow (`prefork_conn_set_slow()`).
    pub skipped: u64,
    /// Connections of those in flight that are streams or upgraded.
    pub streams: u64,
    /// Connections of those in flight whose response the handler keeps (`prefork_response_later()`).
    pub kept_responses: u64,
    /// Milliseconds in which it has to end; 0 unless it finishes, or if there is no limit. Known to the master only.
    pub within_ms: u64,
}

/// The role of this process. A worker has its numbers also in the environment: `PREFORK_WORKER_ID`,
/// `PREFORK_SLOT`, `PREFORK_GENERATION`.
///
/// Returns one of `enum prefork_role_type`, and fills in a worker's number, slot and generation; in other
/// processes they are 0.
/// Process: any, in any thread.
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
        // SAFETY: NULL, or the caller's to be written.
        if let Some(into) = unsafe { into.as_mut() } {
            *into = number;
        }
    }
    kind as u32
}

/// The worker that this process is, for callbacks that are not given it.
///
/// Returns the worker, borrowed as long as the process lives; NULL if this process is not a worker, or the
/// calling thread is not its first.
/// Process: any.
#[unsafe(no_mangle)]
pub extern "C" fn prefork_worker_self() -> *mut prefork_worker {
    guard(|| Ok(Worker::current().map_or(ptr::null_mut(), lend)))
}

/// True while this worker drains and other workers stay, which go on with the streams that it hands over
/// (`on_handover`). False if it does not drain; and if the server stops, or its master is gone: then its streams are to
/// be ended here. That may begin while it drains.
///
/// Returns 1 or 0; 0 if `worker` is NULL, and in another thread than the first.
/// Process: worker.
/// # Safety
/// Borrows `worker` until return.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_worker_hands_over(worker: *const prefork_worker) -> c_int {
    // SAFETY: `worker` is NULL or lent to the caller.
    guard(|| Ok(unsafe { borrow(worker) }?.hands_over().into()))
}

/// Makes this worker leave: it gets no more connections, another worker takes its place, and when it has
/// finished what it has (`on_drain`, `worker_stop`) it exits with code 0. A worker that leaves soon after its
/// start is replaced with a delay.
///
/// Returns PREFORK_OK at once; PREFORK_STATE if this process is not a worker; PREFORK_NULL.
/// Process: worker.
/// # Safety
/// Borrows `worker` until return.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_worker_leave(worker: *mut prefork_worker) -> c_int {
    guard(|| {
        // SAFETY: `worker` is NULL or lent to the caller.
        let worker = unsafe { borrow(worker) }?;
        // A process forked by the handler has a copy of the worker.
        answered(Worker::current().map(|_| worker.leave()).ok_or(prefork_status::PREFORK_STATE))
    })
}

/// The number of this worker, from 1; no other worker of this server has it.
///
/// Returns the number, or 0 if `worker` is NULL.
/// Process: worker, in any thread.
/// # Safety
/// Borrows `worker` until return.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_worker_id(worker: *const prefork_worker) -> u32 {
    // SAFETY: `worker` is NULL or lent to the caller.
    guard(|| Ok(unsafe { borrow_anywhere(worker) }?.id()))
}

/// The slot of this worker, from 0 to the number of workers less one. The worker that replaces it has the same.
///
/// Returns the slot, or 0 if `worker` is NULL.
/// Process: worker, in any thread.
/// # Safety
/// Borrows `worker` until return.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_worker_slot(worker: *const prefork_worker) -> u32 {
    // SAFETY: `worker` is NULL or lent to the caller.
    guard(|| Ok(unsafe { borrow_anywhere(worker) }?.slot()))
}

/// The generation of this worker: 1 from the start, one more with each reload.
///
/// Returns the generation, or 0 if `worker` is NULL.
/// Process: worker, in any thread.
/// # Safety
/// Borrows `worker` until return.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_worker_generation(worker: *const prefork_worker) -> u32 {
    // SAFETY: `worker` is NULL or lent to the caller.
    guard(|| Ok(unsafe { borrow_anywhere(worker) }?.generation()))
}

/// True if the callback that is running, or was the last to run, has taken longer than the setting `timeout`.
/// Such a worker gets no more connections, others get those queued for it, and it is aborted one second after
/// the limit. A long callback can call this now and then and return in time: then its client is answered, and
/// the worker continues to serve.
///
/// Returns 1 or 0, or PREFORK_NULL.
/// Process: worker, in any thread and in signal handlers.
/// # Safety
/// Borrows `worker` until return.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_worker_overdue(worker: *const prefork_worker) -> c_int {
    // SAFETY: `worker` is NULL or lent to the caller.
    guard(|| Ok(unsafe { borrow_anywhere(worker) }?.is_overdue().into()))
}

/// Fills in the status of this worker.
///
/// Returns PREFORK_OK; PREFORK_INVALID if `info->size` is not set; PREFORK_NULL.
/// Process: worker.
/// # Safety
/// Borrows `worker`, and `info->size` writable bytes at `info`, until return.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_worker_info(
    worker: *const prefork_worker,
    info: *mut prefork_worker_status,
) -> c_int {
    guard(|| {
        // SAFETY: `worker` is NULL or lent to the caller.
        let status = unsafe { borrow(worker) }?.status();
        // SAFETY: `info` is NULL or has as many bytes as it says; it begins with its size.
        unsafe { fill(info, &self::info(&status)) }
    })
}

/// The number of the handler's arguments: those after the handler on the command line, or those of
/// `prefork_server_args()`.
///
/// Returns the number, or 0 if `worker` is NULL.
/// Process: worker, in any thread.
/// # Safety
/// Borrows `worker` until return.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_worker_arg_count(worker: *const prefork_worker) -> usize {
    // SAFETY: `worker` is NULL or lent to the caller.
    guard(|| Ok(unsafe { borrow_anywhere(worker) }?.args().len()))
}

/// One of the handler's arguments; `index` counts from 0.
///
/// Returns a NUL-terminated string, borrowed as long as the worker lives, or NULL if `index` is
/// `prefork_worker_arg_count()` or more.
/// Process: worker, in any thread.
/// # Safety
/// Borrows `worker` until return.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_worker_arg(worker: *const prefork_worker, index: usize) -> *const c_char {
    guard(|| {
        // SAFETY: `worker` is NULL or lent to the caller.
        Ok(unsafe { borrow_anywhere(worker) }?.args().get(index).map_or(ptr::null(), |arg| arg.as_ptr()))
    })
}

/// Sends a message to another worker (its id), to the master (PREFORK_TO_MASTER), or to all other workers
/// (PREFORK_TO_ALL). The meaning of `type` is yours to choose. A worker gets it in `on_message`, the master in
/// the callback of `prefork_server_on_message()`.
///
/// Never waits: what cannot be sent at once is sent after the callback has returned. Messages from one process
/// to another arrive in the order they were sent. A message to a worker that has ended is lost without notice,
/// unlike a request.
///
/// Returns PREFORK_OK; PREFORK_TOO_LARGE over the setting `max-message`; PREFORK_FULL if four messages of
/// that size wait already, here or for the receiver; PREFORK_GONE if the master is gone; PREFORK_INVALID or
/// PREFORK_NULL.
/// Process: worker.
/// # Safety
/// Borrows `worker` until return. Copies `size` bytes at `data`, which may be NULL if `size` is 0.
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
        answered(worker.send(Address::from(to), MessageKind(r#type), unsafe { bytes(data, size) }?))
    })
}

/// Gets the reply to a request, or the reason why there is none: `status` is PREFORK_OK, or PREFORK_TIMEOUT (no
/// reply before the deadline), PREFORK_GONE (there is no such worker, it has ended, or this worker ends),
/// PREFORK_UNANSWERED, or PREFORK_FULL (too much waits for the receiver). The bytes are borrowed until it
/// returns.
pub type prefork_on_worker_reply = Option<
    unsafe extern "C-unwind" fn(
        worker: *mut prefork_worker,
        status: c_int,
        data: *const c_void,
        size: usize,
        arg: *mut c_void,
    ),
>;

/// Sends a message and asks for a reply. If this returns PREFORK_OK, `on_reply` is called exactly once, after
/// the current callback has returned, and at the latest after `deadline_ms` milliseconds (0: no deadline).
///
/// Returns as `prefork_worker_send()`; PREFORK_STATE if `to` is PREFORK_TO_ALL; PREFORK_NULL also if `on_reply` is
/// NULL.
/// Process: worker.
/// # Safety
/// Borrows `worker` until return, and `arg`, which may be NULL, until `on_reply` returns. Copies `size`
/// bytes at `data`, which may be NULL if `size` is 0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_worker_request(
    worker: *mut prefork_worker,
    to: u32,
    r#type: u32,
    data: *const c_void,
    size: usize,
    deadline_ms: u32,
    on_reply: prefork_on_worker_reply,
    arg: *mut c_void,
) -> c_int {
    guard(|| {
        // SAFETY: `worker` is NULL or lent to the caller.
        let this = unsafe { borrow(worker) }?;
        let on_reply = on_reply.ok_or(prefork_status::PREFORK_NULL)?;
        // SAFETY: `data` is NULL or has `size` bytes that live until return.
        let data = unsafe { bytes(data, size) }?;
        let deadline = Duration::from_millis(deadline_ms.into());
        answered(this.request(Address::from(to), MessageKind(r#type), data, deadline, move |result| {
            let (status, data, size) = reply_parts(result);
            // SAFETY: the caller gave both for this call; the worker lives as long as the process.
            unsafe { on_reply(worker, status, data, size, arg) }
        }))
    })
}

/// Answers the request for which `on_message` is being called, once. If `on_message` returns without a reply,
/// the sender gets PREFORK_UNANSWERED.
///
/// Returns as `prefork_worker_send()`; PREFORK_STATE if no request is being handled, or it has its reply.
/// Process: worker.
/// # Safety
/// Borrows `worker` until return. Copies `size` bytes at `data`, which may be NULL if `size` is 0.
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
        answered(worker.reply(unsafe { bytes(data, size) }?))
    })
}

/// A worker's status in C.
pub(super) fn info(w: &WorkerStatus) -> prefork_worker_status {
    let last = w.last_exit.as_ref().map(exit_of);
    prefork_worker_status {
        size: size_of::<prefork_worker_status>() as u32,
        id: w.worker.id,
        slot: w.worker.slot,
        generation: w.worker.generation,
        pid: w.worker.pid,
        state: w.state as u32,
        connected: w.state.is_connected().into(),
        in_flight: w.in_flight,
        idle: w.idle.into(),
        skipped: w.skipped,
        streams: w.streams.into(),
        kept_responses: w.kept_responses.into(),
        // A limit that has just passed is one.
        within_ms: w.within.map_or(0, |within| (within.as_millis() as u64).max(1)),
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

/// The result of a request as a callback gets it: status, bytes, size.
pub(super) fn reply_parts(result: Result<&[u8], Undelivered>) -> (c_int, *const c_void, usize) {
    match result {
        Ok(bytes) => (prefork_status::PREFORK_OK as c_int, bytes.as_ptr().cast(), bytes.len()),
        Err(reason) => (prefork_status::from(reason) as c_int, ptr::null(), 0),
    }
}

/// The name of a listener, by its index from 0 in the order of the settings, as `prefork_conn_listener()` and
/// `prefork_request_listener()` give it.
///
/// Returns the name, which lives as long as the process; empty if it has none; NULL if there is no such listener, or
/// `worker` is NULL.
/// Process: worker.
/// # Safety
/// Borrows `worker` until return.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_worker_listener_name(
    worker: *const prefork_worker,
    index: u32,
) -> *const c_char {
    guard(|| {
        // SAFETY: `worker` is NULL or lent to the caller.
        let served = unsafe { borrow(worker) }?.served(index as usize);
        Ok(served.map_or(ptr::null(), |served| served.name.as_ptr()))
    })
}
