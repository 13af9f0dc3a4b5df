//! Replies to datagrams in C.

use super::guard::{Opaque, borrow, bytes, guard, lend};
use super::status::{answered, prefork_status};
use super::worker::prefork_worker;
use crate::Datagram;
use std::cell::Cell;
use std::ffi::{c_int, c_void};
use std::ptr::null;

/// Sends bytes to the sender of the datagram for which `on_datagram` is being called, from the address at which
/// that one arrived. It may be called several times. The sender's address may be forged, so do not reply with
/// much more than was received.
///
/// Returns PREFORK_OK; PREFORK_STATE outside `on_datagram`; PREFORK_AGAIN if too much waits to be sent;
/// PREFORK_SYSTEM if the kernel refuses, for instance more than fits into a datagram; PREFORK_INVALID or
/// PREFORK_NULL.
/// Process: worker, in `on_datagram`.
/// # Safety
/// Borrows `worker` until return. Copies `size` bytes at `data`, which may be NULL if `size` is 0.
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
        // SAFETY: NULL, or lent by `during`, which is still running: its callback makes this call.
        let datagram = unsafe { borrow(CURRENT.get()) }.map_err(|_| prefork_status::PREFORK_STATE)?;
        answered(datagram.reply(data))
    })
}

/// A datagram, lent to [`prefork_datagram_reply`].
struct Current(());

impl Opaque for Current {
    type Inner<'a> = Datagram<'a>;
}

thread_local! {
    /// The datagram whose callback is running.
    static CURRENT: Cell<*const Current> = const { Cell::new(null()) };
}

/// Runs a callback, in which [`prefork_datagram_reply`] finds the datagram.
pub(super) fn during(datagram: &Datagram<'_>, callback: impl FnOnce()) {
    CURRENT.set(lend(datagram));
    // A callback does not unwind: a panic of Rust code in it ends the process at the border of C.
    callback();
    CURRENT.set(null());
}
