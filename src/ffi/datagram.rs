//! Answering a datagram, as a C handler does it.

use super::guard::{Opaque, Result, borrow, bytes, guard};
use super::status::prefork_status;
use super::worker::prefork_worker;
use crate::Datagram;
use std::cell::Cell;
use std::ffi::{c_int, c_void};
use std::ptr::null;

/// Sends bytes back to the sender of the datagram that `on_datagram` was called with, from the address that
/// one came to. It may be called more than once, or not at all. The sender's address may be forged: do not
/// answer with much more than was asked.
///
/// Returns PREFORK_OK; PREFORK_STATE outside of `on_datagram`; PREFORK_AGAIN where too much waits to be sent
/// already; PREFORK_SYSTEM where the kernel refuses, for instance more than fits into a datagram;
/// PREFORK_INVALID or PREFORK_NULL.
/// Process: worker, in `on_datagram`.
///
/// # Safety
/// Borrows `worker` until return. Copies `size` bytes at `data`, which may be NULL where `size` is
/// 0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_datagram_reply(
    worker: *const prefork_worker,
    data: *const c_void,
    size: usize,
) -> c_int {
    guard(|| {
        // SAFETY: `worker` is NULL or lent to the caller.
        unsafe { borrow(worker) }?;
        // SAFETY: `data` is NULL or has `size` bytes that live until return.
        let data = unsafe { bytes(data, size) }?;
        current()?.reply(data)?;
        Ok(prefork_status::PREFORK_OK as c_int)
    })
}

/// A datagram under the name it has while its callback runs.
struct Current;

impl Opaque for Current {
    type Inner<'a> = Datagram<'a>;
}

thread_local! {
    /// The datagram whose callback is running.
    static CURRENT: Cell<*const Current> = const { Cell::new(null()) };
}

/// Runs a callback, in which `prefork_datagram_reply` finds the datagram.
pub(super) fn during<T>(datagram: &Datagram<'_>, callback: impl FnOnce() -> T) -> T {
    let before = CURRENT.replace(super::guard::lend(datagram));
    // A callback does not unwind: a panic of Rust code in it ends the process at the border of C.
    let done = callback();
    CURRENT.set(before);
    done
}

fn current<'a>() -> Result<&'a Datagram<'a>> {
    // SAFETY: NULL, or lent by `during`, which has not returned yet: whoever asks was called by its callback.
    unsafe { borrow(CURRENT.get()) }.map_err(|_| prefork_status::PREFORK_STATE)
}
