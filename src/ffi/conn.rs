//! Connections in C.

use super::guard::{self, Opaque, borrow, bytes, bytes_mut, guard};
use super::request::prefork_slice;
use super::status::{answered, prefork_status};
use crate::sys::forks;
use crate::{Conn, Worker};
use std::ffi::{c_int, c_void};
use std::io;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

/// A connection whose bytes the handler reads and writes itself: in blocking style (`on_connection`), in which
/// reading and writing wait, or as a stream (`on_open`, `on_data`, `on_close`), in which they never wait. It
/// is valid until `on_connection` or `on_close` returns; then it is closed, and its memory may serve the next
/// connection: keep `prefork_conn_id()`, and find the connection with `prefork_conn_find()`.
///
/// A stream may be read, written and closed in any callback of its worker, not only in its own. What is written
/// in a turn of the worker's loop leaves at the end of that turn.
pub struct prefork_conn(());

impl Opaque for prefork_conn {
    type Inner<'a> = Conn;

    fn is_usable() -> bool {
        Worker::is_first_thread()
    }
}

/// A connection that must be a stream, and this process its worker.
///
/// # Safety
/// As [`borrow`].
pub(super) unsafe fn stream<'a>(conn: *const prefork_conn) -> guard::Result<&'a Conn> {
    // SAFETY: what the caller promises.
    let conn = unsafe { borrow(conn) }?;
    if conn.is_blocking() || forks::is_copy() { Err(prefork_status::PREFORK_STATE) } else { Ok(conn) }
}

/// A stream, as long as it is not over.
///
/// # Safety
/// As [`borrow`].
pub(super) unsafe fn open_stream<'a>(conn: *const prefork_conn) -> guard::Result<&'a Conn> {
    // SAFETY: what the caller promises.
    let conn = unsafe { stream(conn) }?;
    if conn.is_over() { Err(prefork_status::PREFORK_GONE) } else { Ok(conn) }
}

/// Reads at least one byte and at most `size`. In blocking style it waits, up to the setting `header-timeout`
/// for the first read and `body-timeout` for others; a stream returns what has arrived.
///
/// Returns the number of bytes; 0 if the client has ended its side; or a negative status: PREFORK_AGAIN (in a
/// stream: no more has arrived), PREFORK_TIMEOUT (in blocking style), PREFORK_GONE, PREFORK_SYSTEM,
/// PREFORK_INVALID (`size` is 0), PREFORK_NULL.
/// Process: worker.
/// # Safety
/// Borrows `conn`, and `size` writable bytes at `buf`, until return.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_conn_read(conn: *mut prefork_conn, buf: *mut c_void, size: usize) -> isize {
    guard(|| {
        // SAFETY: `conn` is NULL or lent to the caller.
        let conn = unsafe { borrow(conn) }?;
        // SAFETY: `buf` is NULL or has `size` bytes that live until return.
        let buf = unsafe { bytes_mut(buf, size) }?;
        if conn.is_over() {
            return Err(prefork_status::PREFORK_GONE);
        }
        if buf.is_empty() {
            // The 0 that this would return means the end.
            return Err(prefork_status::PREFORK_INVALID);
        }
        Ok(conn.read(buf)?.cast_signed())
    })
}

/// Writes `size` bytes. In blocking style it waits until the client has taken all of them, up to the setting
/// `write-timeout` between two steps; a stream keeps what the client does not take yet, up to the setting
/// `max-pending`. While more than half of that waits, nothing more of this client is read.
///
/// Returns `size`, or a negative status: PREFORK_FULL (in a stream: too much is kept; none of these bytes was
/// taken. `on_writable` is called when there is room; leave unconsumed what is not answered yet, then `on_data`
/// is called again too), PREFORK_TOO_LARGE (in a stream: these are more than `max-pending`, and are never taken),
/// PREFORK_TIMEOUT (the client has taken nothing for that time; it may have received some of these bytes, and its
/// connection is reset when `on_connection` returns), PREFORK_GONE, PREFORK_SYSTEM, PREFORK_INVALID, PREFORK_NULL.
/// Process: worker.
/// # Safety
/// Borrows `conn` until return. Copies `size` bytes at `data`, which may be NULL if `size` is 0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_conn_write(
    conn: *mut prefork_conn,
    data: *const c_void,
    size: usize,
) -> isize {
    guard(|| {
        // SAFETY: `conn` is NULL or lent to the caller.
        let conn = unsafe { borrow(conn) }?;
        // SAFETY: `data` is NULL or has `size` bytes that live until return.
        conn.write(unsafe { bytes(data, size) }?)?;
        Ok(size.cast_signed())
    })
}

/// In blocking style: the longest time that a read of this connection waits, in milliseconds, in place of the settings
/// `header-timeout` and `body-timeout`; from the next call on. 0 is forever, -1 as the settings say.
///
/// Returns PREFORK_OK, PREFORK_STATE (in a stream, whose calls never wait), PREFORK_INVALID or PREFORK_NULL.
/// Process: worker.
/// # Safety
/// Borrows `conn` until return.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_conn_set_read_timeout(conn: *mut prefork_conn, milliseconds: i64) -> c_int {
    // SAFETY: `conn` is NULL or lent to the caller.
    guard(|| timed(unsafe { borrow(conn) }?.set_read_timeout(time(milliseconds)?)))
}

/// In blocking style: the longest time that a write to this connection waits without the client taking a byte, in
/// milliseconds, in place of the setting `write-timeout`; from the next call on. 0 is forever, -1 as the setting says.
///
/// Returns as `prefork_conn_set_read_timeout()`.
/// Process: worker.
/// # Safety
/// Borrows `conn` until return.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_conn_set_write_timeout(conn: *mut prefork_conn, milliseconds: i64) -> c_int {
    // SAFETY: `conn` is NULL or lent to the caller.
    guard(|| timed(unsafe { borrow(conn) }?.set_write_timeout(time(milliseconds)?)))
}

/// In blocking style: the time from now, in milliseconds, after which every read and write of this connection fails
/// with PREFORK_TIMEOUT, whatever the other times are, and however steadily a client sends a byte now and then. -1 is
/// never, as at first.
///
/// Returns as `prefork_conn_set_read_timeout()`.
/// Process: worker.
/// # Safety
/// Borrows `conn` until return.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_conn_set_deadline(conn: *mut prefork_conn, milliseconds: i64) -> c_int {
    guard(|| {
        let deadline = time(milliseconds)?.and_then(|time| Instant::now().checked_add(time));
        // SAFETY: `conn` is NULL or lent to the caller.
        timed(unsafe { borrow(conn) }?.set_deadline(deadline))
    })
}

/// Returns a time that C has given; `None` is -1.
fn time(milliseconds: i64) -> guard::Result<Option<Duration>> {
    match milliseconds {
        -1 => Ok(None),
        ms => {
            let ms = u64::try_from(ms).map_err(|_| prefork_status::PREFORK_INVALID)?;
            Ok(Some(Duration::from_millis(ms)))
        }
    }
}

fn timed(set: io::Result<()>) -> guard::Result<c_int> {
    set.map_err(|_| prefork_status::PREFORK_STATE)?;
    Ok(prefork_status::PREFORK_OK as c_int)
}

/// In a stream: the bytes that have arrived and were not consumed. Used with `prefork_conn_consume()`, it saves
/// the copy that `prefork_conn_read()` makes. What is left when `on_data` returns is there again at its next
/// call, followed by what has arrived since. That call comes when more arrives, or, if there was no room to
/// write, as soon as there is. The connection is cut if more than the setting `max-body` arrives
/// and none of it is consumed.
///
/// Returns a slice, borrowed until the callback returns or calls `prefork_conn_read()` or
/// `prefork_conn_consume()`; `data` is NULL in blocking style.
/// Process: worker.
/// # Safety
/// Borrows `conn` until return.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_conn_data(conn: *const prefork_conn) -> prefork_slice {
    // SAFETY: `conn` is NULL or lent to the caller.
    guard(|| Ok(prefork_slice::of(&unsafe { stream(conn) }?.data())))
}

/// In a stream: drops the first `size` bytes of `prefork_conn_data()`, or all if there are fewer.
///
/// Returns PREFORK_OK, PREFORK_STATE (in blocking style), PREFORK_GONE (in `on_close`) or PREFORK_NULL.
/// Process: worker.
/// # Safety
/// Borrows `conn` until return. Ends the loan of `prefork_conn_data()`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_conn_consume(conn: *mut prefork_conn, size: usize) -> c_int {
    // SAFETY: `conn` is NULL or lent to the caller.
    guard(|| answered(unsafe { open_stream(conn) }.map(|conn| conn.consume(size))))
}

/// In a stream: true if the client has ended its side; `prefork_conn_data()` then has the last bytes. You may
/// still write; the connection closes once that is sent, unless `prefork_conn_set_half_open()` was called.
///
/// Returns 1 or 0; PREFORK_STATE (in blocking style) or PREFORK_NULL.
/// Process: worker.
/// # Safety
/// Borrows `conn` until return.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_conn_at_end(conn: *const prefork_conn) -> c_int {
    // SAFETY: `conn` is NULL or lent to the caller.
    guard(|| Ok(unsafe { stream(conn) }?.at_end().into()))
}

/// In a stream: says whether prefork reads what the client sends (1, the default) or not (0). Until it reads again, the
/// client's bytes wait with the client, and its end is not seen; for handlers that cannot take more yet, such as a
/// proxy's. What was read before stays in `prefork_conn_data()`, and `on_data` is called when there is more.
///
/// Returns PREFORK_OK, PREFORK_STATE (in blocking style), PREFORK_GONE (in `on_close`) or PREFORK_NULL.
/// Process: worker.
/// # Safety
/// Borrows `conn` until return.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_conn_set_reading(conn: *mut prefork_conn, reading: c_int) -> c_int {
    // SAFETY: `conn` is NULL or lent to the caller.
    guard(|| answered(unsafe { open_stream(conn) }.map(|conn| conn.set_reading(reading != 0))))
}

/// In a stream: says whether the connection stays open (1) when the client has ended its side and all that was written
/// is sent, until `prefork_conn_close()` or a deadline; for handlers whose answer comes later, such as a proxy's. By
/// default (0) it closes then.
///
/// Returns PREFORK_OK, PREFORK_STATE (in blocking style), PREFORK_GONE (in `on_close`) or PREFORK_NULL.
/// Process: worker.
/// # Safety
/// Borrows `conn` until return.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_conn_set_half_open(conn: *mut prefork_conn, half_open: c_int) -> c_int {
    // SAFETY: `conn` is NULL or lent to the caller.
    guard(|| answered(unsafe { open_stream(conn) }.map(|conn| conn.set_half_open(half_open != 0))))
}

/// In a stream: closes the connection once all that was written has been sent, in whichever callback of its
/// worker this is called. `on_close` is called at the end of the turn or later, never within this call. To close it
/// again does nothing. In blocking style the connection closes when `on_connection` returns.
///
/// Returns PREFORK_OK, PREFORK_STATE (in blocking style) or PREFORK_NULL.
/// Process: worker.
/// # Safety
/// Borrows `conn` until return; it stays usable until `on_close` returns.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_conn_close(conn: *mut prefork_conn) -> c_int {
    // SAFETY: `conn` is NULL or lent to the caller.
    guard(|| answered(unsafe { stream(conn) }.map(Conn::close)))
}

/// In a stream: has the worker with the id `worker` go on with it, for instance one that has all others of a room.
/// 0 is the worker that prefork chooses, as when this one drains: for a stream that has stayed then, and can go now.
/// At the end of the turn `on_handover` is called for it. If that returns a negative number, or there is none, it
/// stays; if there is no such worker, or it refuses the stream or has no room, it comes back by `on_takeover`.
///
/// Returns PREFORK_OK, PREFORK_STATE (in blocking style), PREFORK_GONE (in `on_close`), PREFORK_INVALID (`worker` is
/// this worker) or PREFORK_NULL.
/// Process: worker.
/// # Safety
/// Borrows `conn` until return.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_conn_transfer(conn: *mut prefork_conn, worker: u32) -> c_int {
    guard(|| {
        // SAFETY: `conn` is NULL or lent to the caller.
        let conn = unsafe { open_stream(conn) }?;
        if Worker::current().is_some_and(|own| own.id() == worker) {
            return Err(prefork_status::PREFORK_INVALID);
        }
        conn.transfer(worker);
        Ok(prefork_status::PREFORK_OK as c_int)
    })
}

/// In a stream: the number of bytes that were written and that the kernel has not taken yet, at most the setting
/// `max-pending`; 0 in blocking style.
///
/// Returns the number, or 0 if `conn` is NULL.
/// Process: worker.
/// # Safety
/// Borrows `conn` until return.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_conn_pending(conn: *const prefork_conn) -> usize {
    // SAFETY: `conn` is NULL or lent to the caller.
    guard(|| Ok(unsafe { borrow(conn) }?.pending()))
}

/// In a stream: the number of bytes that `prefork_conn_write()` would take now; 0 in blocking style, and if nothing can
/// be written any more.
///
/// Returns the number, or 0 if `conn` is NULL.
/// Process: worker.
/// # Safety
/// Borrows `conn` until return.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_conn_room(conn: *const prefork_conn) -> usize {
    // SAFETY: `conn` is NULL or lent to the caller.
    guard(|| Ok(unsafe { borrow(conn) }?.room()))
}

/// The number of the connection, from 1; no other connection of this worker has it, now or later. With it
/// `prefork_conn_find()` finds the connection as long as it is there.
///
/// Returns the number, or 0 if `conn` is NULL.
/// Process: worker.
/// # Safety
/// Borrows `conn` until return.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_conn_id(conn: *const prefork_conn) -> u64 {
    // SAFETY: `conn` is NULL or lent to the caller.
    guard(|| Ok(unsafe { borrow(conn) }?.id()))
}

/// The index of the listener that accepted the connection, from 0, in the order of the addresses.
///
/// Returns the index, or 0 if `conn` is NULL.
/// Process: worker.
/// # Safety
/// Borrows `conn` until return.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_conn_listener(conn: *const prefork_conn) -> u32 {
    // SAFETY: `conn` is NULL or lent to the caller.
    guard(|| Ok(unsafe { borrow(conn) }?.listener().into()))
}

/// The client's address: `192.0.2.1:4711`, `[2001:db8::1]:4711`, `unix:`, or `unix:/path` if the client has bound
/// its socket. The first call asks the kernel (getpeername(2)); empty if the client is gone by then.
/// Control characters and backslashes of a path, and bytes that are not UTF-8, are given as `\xNN`.
///
/// Returns a slice, borrowed until the callback returns.
/// Process: worker.
/// # Safety
/// Borrows `conn` until return.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_conn_peer(conn: *const prefork_conn) -> prefork_slice {
    // SAFETY: `conn` is NULL or lent to the caller.
    guard(|| Ok(prefork_slice::of(unsafe { borrow(conn) }?.peer().as_bytes())))
}

/// The connection's socket, for socket options and the like, and in blocking style for TLS: there it is a
/// blocking socket that may be read and written directly, without prefork's deadlines. A stream's socket must
/// not be read or written.
///
/// Returns the descriptor, which stays prefork's (do not close it), or PREFORK_NULL.
/// Process: worker.
/// # Safety
/// Borrows `conn` until return.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_conn_fd(conn: *const prefork_conn) -> c_int {
    // SAFETY: `conn` is NULL or lent to the caller.
    guard(|| unsafe { borrow(conn) }?.with_fd(|fd| fd.as_raw_fd()).ok_or(prefork_status::PREFORK_GONE))
}

/// The handler's own pointer for this connection, set by `prefork_conn_set_user()`.
///
/// Returns the pointer; NULL if it was not set.
/// Process: worker.
/// # Safety
/// Borrows `conn` until return.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_conn_user(conn: *mut prefork_conn) -> *mut c_void {
    // SAFETY: `conn` is NULL or lent to the caller.
    guard(|| Ok(unsafe { borrow(conn) }?.user_pointer().get()))
}

/// Sets the handler's own pointer for this connection. prefork does not free what it points to: do so in
/// `on_close`.
///
/// Returns PREFORK_OK or PREFORK_NULL.
/// Process: worker.
/// # Safety
/// Borrows `conn` until return, and `user`, which may be NULL, until `on_close` returns.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_conn_set_user(conn: *mut prefork_conn, user: *mut c_void) -> c_int {
    // SAFETY: `conn` is NULL or lent to the caller.
    guard(|| answered(unsafe { borrow(conn) }.map(|conn| conn.user_pointer().set(user))))
}
