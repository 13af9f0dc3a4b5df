//! The worker, as C sees it.

use super::guard::{Opaque, borrow, guard};
use crate::Worker;
use std::ffi::c_char;

/// The worker process a callback runs in, given to `worker_start`, `worker_stop`, `on_drain` and
/// `on_datagram`. It is borrowed until that callback returns: keep what it says, not the pointer.
pub struct prefork_worker {
    _behind: (),
}

impl Opaque for prefork_worker {
    type Inner<'a> = Worker;
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
