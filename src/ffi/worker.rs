//! The worker, as C sees it.

use super::guard::{Opaque, borrow, guard, lend};
use super::status::prefork_status;
use crate::{Role, Worker, role};
use std::ffi::{c_char, c_int};

/// The worker process a callback runs in, given to `worker_start`, `worker_stop`, `on_drain` and
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
