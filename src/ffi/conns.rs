//! All streams of a worker in C.

use super::conn::prefork_conn;
use super::guard::{borrow, guard, lend};
use super::status::prefork_status;
use super::worker::prefork_worker;
use crate::unwind::named;
use std::ffi::{c_int, c_void};
use std::ptr;

/// Finds a stream by its id, in any callback. An upgraded HTTP connection is a stream.
///
/// Returns the connection; NULL if it has ended (also in its `on_close`), in blocking style, in another thread than
/// the worker's first, and in a process that the handler has forked.
/// Process: worker.
/// # Safety
/// Borrows `worker` until return. The result is lent until the connection's `on_close` returns.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_conn_find(worker: *mut prefork_worker, id: u64) -> *mut prefork_conn {
    guard(|| {
        // SAFETY: `worker` is NULL or lent to the caller.
        let conn = unsafe { borrow(worker) }?.conn(id);
        // Not dangling: the worker has the connection until its on_close has returned.
        Ok(conn.map_or(ptr::null_mut(), |conn| lend(&*conn)))
    })
}

/// Calls `each` with every stream of this worker, in no particular order, as long as it returns 0. `each` may write to
/// them, close them and walk them again.
///
/// Returns 0, or the number that `each` has returned to end the walk; PREFORK_STATE in blocking style, in another
/// thread than the worker's first, and in a process that the handler has forked; PREFORK_NULL.
/// Process: worker.
/// # Safety
/// Borrows `worker` and `arg`, which may be NULL, until return. `each` lets no C++ exception and no longjmp
/// out.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_worker_each_conn(
    worker: *mut prefork_worker,
    each: Option<unsafe extern "C-unwind" fn(conn: *mut prefork_conn, arg: *mut c_void) -> c_int>,
    arg: *mut c_void,
) -> c_int {
    guard(|| {
        // SAFETY: `worker` is NULL or lent to the caller.
        let worker = unsafe { borrow(worker) }?;
        let each = each.ok_or(prefork_status::PREFORK_NULL)?;
        let mut answer = 0;
        worker.each_conn(|conn| {
            // SAFETY: the caller gave both for this call.
            answer = named("each", || unsafe { each(lend(&**conn), arg) });
            answer == 0
        })?;
        Ok(answer)
    })
}
