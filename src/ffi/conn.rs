//! A connection, as C sees it.

use super::guard::{Opaque, borrow, borrow_mut, bytes, bytes_mut, guard};
use super::request::prefork_slice;
use super::status::prefork_status;
use crate::Conn;
use std::ffi::{c_int, c_void};
use std::os::fd::{AsFd, AsRawFd};

/// A connection whose bytes the handler reads and writes itself: in blocking style (`on_connection`), where
/// reading and writing wait, or as a stream (`on_open`, `on_data`, `on_close`), where they never do. It
/// lives until `on_connection` or `on_close` returns, which also closes it.
pub struct prefork_conn {
    _behind: (),
}

impl Opaque for prefork_conn {
    type Inner<'a> = Conn;
}

/// Reads at most `size` bytes, at least one. In blocking style it waits for them, as long as the settings
/// `header-timeout` (the first read) and `body-timeout` say; as a stream it gives what has arrived.
///
/// Returns the number of bytes; 0 where the client has ended its side; or a negative status: PREFORK_AGAIN
/// (as a stream: nothing more has arrived), PREFORK_TIMEOUT (in blocking style: nothing came),
/// PREFORK_GONE, PREFORK_SYSTEM, PREFORK_INVALID (`size` is 0), PREFORK_NULL.
/// Process: worker.
///
/// # Safety
/// Borrows `conn` until return. Borrows `size` writable bytes at `buf` until return.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_conn_read(conn: *mut prefork_conn, buf: *mut c_void, size: usize) -> isize {
    guard(|| {
        // SAFETY: `conn` is NULL or lent to the caller, who uses it in no other call meanwhile.
        let conn = unsafe { borrow_mut(conn) }?;
        // SAFETY: `buf` is NULL or has `size` bytes, for as long as the documentation asks.
        let buf = unsafe { bytes_mut(buf, size) }?;
        if buf.is_empty() {
            // It would look like the end: a full buffer must not be mistaken for it.
            return Err(prefork_status::PREFORK_INVALID);
        }
        Ok(conn.read(buf)?.cast_signed())
    })
}

/// Writes all of `size` bytes. In blocking style it waits until the client's side has taken them, as long
/// as the setting `write-timeout` says between two steps; as a stream it keeps what is not taken yet, up to
/// the setting `max-pending`.
///
/// Returns `size`, or a negative status: PREFORK_FULL (as a stream: too much waits; nothing of this was
/// taken), PREFORK_TIMEOUT, PREFORK_GONE, PREFORK_SYSTEM, PREFORK_INVALID, PREFORK_NULL. After a timeout the
/// client may have received a part.
/// Process: worker.
///
/// # Safety
/// Borrows `conn` until return. Copies `size` bytes at `data`, which may be NULL where `size` is
/// 0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_conn_write(
    conn: *mut prefork_conn,
    data: *const c_void,
    size: usize,
) -> isize {
    guard(|| {
        // SAFETY: `conn` is NULL or lent to the caller, who uses it in no other call meanwhile.
        let conn = unsafe { borrow_mut(conn) }?;
        // SAFETY: `data` is NULL or has `size` bytes, for as long as the documentation asks.
        let data = unsafe { bytes(data, size) }?;
        conn.write(data)?;
        Ok(size.cast_signed())
    })
}

/// As a stream: the bytes that have arrived and were not consumed yet; with `prefork_conn_consume()` it
/// spares the copy that `prefork_conn_read()` makes. What is left when `on_data` returns is there again at
/// its next call, with more behind it. A client that sends more than the setting `max-body` without anything
/// being consumed is cut off.
///
/// Returns a slice that borrows from `conn` until the callback returns, or `prefork_conn_read()` or
/// `prefork_conn_consume()` is called; empty in blocking style.
/// Process: worker.
///
/// # Safety
/// Borrows `conn` until return.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_conn_data(conn: *const prefork_conn) -> prefork_slice {
    // SAFETY: `conn` is NULL or lent to the caller.
    guard(|| Ok(prefork_slice::of(unsafe { borrow(conn) }?.data())))
}

/// As a stream: drops the first `size` bytes of `prefork_conn_data()`; all where there are fewer.
///
/// Returns PREFORK_OK or PREFORK_NULL.
/// Process: worker.
///
/// # Safety
/// Borrows `conn` until return; ends what `prefork_conn_data()` has lent.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_conn_consume(conn: *mut prefork_conn, size: usize) -> c_int {
    guard(|| {
        // SAFETY: `conn` is NULL or lent to the caller, who uses it in no other call meanwhile.
        unsafe { borrow_mut(conn) }?.consume(size);
        Ok(prefork_status::PREFORK_OK as c_int)
    })
}

/// As a stream: whether the client has ended its side; what `prefork_conn_data()` has then is the last. It
/// may still read: what is written now is sent, and then the connection closes by itself.
///
/// Returns 1 or 0, or PREFORK_NULL.
/// Process: worker.
///
/// # Safety
/// Borrows `conn` until return.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_conn_at_end(conn: *const prefork_conn) -> c_int {
    // SAFETY: `conn` is NULL or lent to the caller.
    guard(|| Ok(unsafe { borrow(conn) }?.at_end().into()))
}

/// As a stream: closes the connection when what was written has been sent. In blocking style it closes when
/// `on_connection` returns, and this call does nothing.
///
/// Returns PREFORK_OK or PREFORK_NULL.
/// Process: worker.
///
/// # Safety
/// Borrows `conn` until return; it stays usable until the callback returns.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_conn_close(conn: *mut prefork_conn) -> c_int {
    guard(|| {
        // SAFETY: `conn` is NULL or lent to the caller, who uses it in no other call meanwhile.
        unsafe { borrow_mut(conn) }?.close();
        Ok(prefork_status::PREFORK_OK as c_int)
    })
}

/// A number that no other connection of this worker has had.
///
/// Returns the number, or 0 where `conn` is NULL.
/// Process: worker.
///
/// # Safety
/// Borrows `conn` until return.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_conn_id(conn: *const prefork_conn) -> u64 {
    // SAFETY: `conn` is NULL or lent to the caller.
    guard(|| Ok(unsafe { borrow(conn) }?.id()))
}

/// The listener this connection came through: its index, from 0, in the order in which they were given.
///
/// Returns the index, or 0 where `conn` is NULL.
/// Process: worker.
///
/// # Safety
/// Borrows `conn` until return.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_conn_listener(conn: *const prefork_conn) -> u32 {
    // SAFETY: `conn` is NULL or lent to the caller.
    guard(|| Ok(unsafe { borrow(conn) }?.listener().into()))
}

/// The client's address: `192.0.2.1:4711`, `[2001:db8::1]:4711`, or `unix:`; empty where the kernel no
/// longer knows it.
///
/// Returns a slice that borrows from `conn` until the callback returns.
/// Process: worker.
///
/// # Safety
/// Borrows `conn` until return.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_conn_peer(conn: *const prefork_conn) -> prefork_slice {
    // SAFETY: `conn` is NULL or lent to the caller.
    guard(|| Ok(prefork_slice::of(unsafe { borrow(conn) }?.peer().as_bytes())))
}

/// The connection's socket, for what this API has no call for: socket options, TLS in blocking style. In
/// blocking style it is a blocking socket and may be read and written directly, then without prefork's
/// deadlines. As a stream it may be looked at only.
///
/// Returns the descriptor, which stays prefork's (do not close it), or PREFORK_NULL.
/// Process: worker.
///
/// # Safety
/// Borrows `conn` until return.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_conn_fd(conn: *const prefork_conn) -> c_int {
    // SAFETY: `conn` is NULL or lent to the caller.
    guard(|| Ok(unsafe { borrow(conn) }?.as_fd().as_raw_fd()))
}

/// A pointer of the handler's own for this connection, as set by `prefork_conn_set_user()`.
///
/// Returns the pointer; NULL before it was set.
/// Process: worker.
///
/// # Safety
/// Borrows `conn` until return.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_conn_user(conn: *mut prefork_conn) -> *mut c_void {
    guard(|| {
        // SAFETY: `conn` is NULL or lent to the caller, who uses it in no other call meanwhile.
        Ok(*unsafe { borrow_mut(conn) }?.user_pointer())
    })
}

/// Sets a pointer of the handler's own for this connection. prefork only keeps it: free what is behind it
/// in `on_close`.
///
/// Returns PREFORK_OK or PREFORK_NULL.
/// Process: worker.
///
/// # Safety
/// Borrows `conn` until return. Borrows `user` until `on_close` returns, without looking behind
/// it; it may be NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_conn_set_user(conn: *mut prefork_conn, user: *mut c_void) -> c_int {
    guard(|| {
        // SAFETY: `conn` is NULL or lent to the caller, who uses it in no other call meanwhile.
        *unsafe { borrow_mut(conn) }?.user_pointer() = user;
        Ok(prefork_status::PREFORK_OK as c_int)
    })
}
