//! A response, as C sees it.

use super::guard::{Opaque, Result, borrow_mut, bytes, c_str, guard, text};
use super::status::{answered, prefork_status};
use crate::Response;
use std::ffi::{c_char, c_int, c_uint, c_void};
use std::os::fd::{FromRawFd, OwnedFd};

/// The answer to a request, given to `on_request`. Without any call it is a 200 with an empty body; it is
/// sent when the callback returns, and lives until then. prefork writes Date, Connection, and
/// Content-Length or Transfer-Encoding; the rest of the head is the handler's.
pub struct prefork_response {
    _behind: (),
}

impl Opaque for prefork_response {
    type Inner<'a> = Response;
}

/// Sets the status code, from 200 to 599 (RFC 9110 section 15). Without this call it is 200.
///
/// Returns PREFORK_OK, PREFORK_INVALID, PREFORK_LATE or PREFORK_NULL.
/// Process: worker.
///
/// # Safety
/// Borrows `res` until return.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_response_status(res: *mut prefork_response, code: c_uint) -> c_int {
    guard(|| {
        // SAFETY: `res` is NULL or lent to the caller, who uses it in no other call meanwhile.
        let res = unsafe { borrow_mut(res) }?;
        let code = u16::try_from(code).map_err(|_| prefork_status::PREFORK_INVALID)?;
        answered(res.status(code))
    })
}

/// Adds a header field; the same name may be added several times. A `Date` replaces the one that prefork
/// would have written. What could break the message's framing is refused, not repaired.
///
/// Returns PREFORK_OK, PREFORK_FIELD (the name is no token, or the value has CR, LF or another control byte
/// in it; RFC 9110 section 5.5), PREFORK_FRAMING, PREFORK_LATE, PREFORK_FULL or PREFORK_NULL.
/// Process: worker.
///
/// # Safety
/// Borrows `res` until return. Copies `name` and `value`, which are NUL-terminated.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_response_header(
    res: *mut prefork_response,
    name: *const c_char,
    value: *const c_char,
) -> c_int {
    guard(|| {
        // SAFETY: `res` is NULL or lent to the caller, who uses it in no other call meanwhile.
        let res = unsafe { borrow_mut(res) }?;
        // SAFETY: `name` is NULL or a C string that lives until return.
        let name = unsafe { c_str(name) }?.to_str().map_err(|_| prefork_status::PREFORK_FIELD)?;
        // SAFETY: `value` is NULL or a C string that lives until return.
        let value = unsafe { c_str(value) }?;
        answered(res.header(name, value.to_bytes()))
    })
}

/// Sets the body; Content-Length is written by prefork. A second body replaces the first. What the answer
/// may not have is not sent: a body for HEAD, or with status 204, 205 or 304 (RFC 9110 section 6.4.1).
///
/// Returns PREFORK_OK, PREFORK_LATE (after `prefork_response_write()`), PREFORK_INVALID or PREFORK_NULL.
/// Process: worker.
///
/// # Safety
/// Borrows `res` until return. Copies `size` bytes at `data`, which may be NULL where `size` is
/// 0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_response_body(
    res: *mut prefork_response,
    data: *const c_void,
    size: usize,
) -> c_int {
    guard(|| {
        // SAFETY: `res` is NULL or lent to the caller, who uses it in no other call meanwhile.
        let res = unsafe { borrow_mut(res) }?;
        // SAFETY: `data` is NULL or has `size` bytes, for as long as the documentation asks.
        answered(res.body(unsafe { bytes(data, size) }?))
    })
}

/// Sets the body without copying it, from bytes that neither change nor go away as long as the worker
/// lives: literals, tables, a file mapped at start.
///
/// Returns as `prefork_response_body()`.
/// Process: worker.
///
/// # Safety
/// Borrows `res` until return. Borrows `size` bytes at `data` for ever; it may be NULL where
/// `size` is 0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_response_body_static(
    res: *mut prefork_response,
    data: *const c_void,
    size: usize,
) -> c_int {
    guard(|| {
        // SAFETY: `res` is NULL or lent to the caller, who uses it in no other call meanwhile.
        let res = unsafe { borrow_mut(res) }?;
        // SAFETY: `data` is NULL or has `size` bytes, for as long as the documentation asks.
        answered(res.body_static(unsafe { bytes(data, size) }?))
    })
}

/// Sets the body without copying it, from bytes that are given away: `prefork_response_body_owned(res, p,
/// n, free, p)`. `release(owner)` is called exactly once, in this worker: when the bytes have been sent or
/// the client is gone, or before this call returns where it refuses them.
///
/// Returns as `prefork_response_body()`. PREFORK_NULL where `release` is NULL: then nothing was taken.
/// Process: worker.
///
/// # Safety
/// Borrows `res` until return. Takes `size` bytes at `data` and `owner` until `release(owner)`;
/// `data` may be NULL where `size` is 0, `owner` may be NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_response_body_owned(
    res: *mut prefork_response,
    data: *const c_void,
    size: usize,
    release: Option<unsafe extern "C" fn(owner: *mut c_void)>,
    owner: *mut c_void,
) -> c_int {
    guard(|| {
        let release = release.ok_or(prefork_status::PREFORK_NULL)?;
        let given = Given { owner, release };
        // SAFETY: `res` is NULL or lent to the caller, who uses it in no other call meanwhile.
        let res = unsafe { borrow_mut(res) }?;
        // SAFETY: `data` is NULL or has `size` bytes, for as long as the documentation asks.
        let bytes = unsafe { bytes(data, size) }?;
        answered(res.body_owned(Box::new(Owned { bytes, _given: given })))
    })
}

/// What C gave away; calls back when dropped.
struct Given {
    owner: *mut c_void,
    release: unsafe extern "C" fn(*mut c_void),
}

impl Drop for Given {
    fn drop(&mut self) {
        // SAFETY: given for this very purpose, and dropped once.
        unsafe { (self.release)(self.owner) }
    }
}

/// Bytes that C gave away; `'static` stands for "as long as `_given`".
struct Owned {
    bytes: &'static [u8],
    _given: Given,
}

impl AsRef<[u8]> for Owned {
    fn as_ref(&self) -> &[u8] {
        self.bytes
    }
}

/// Sends a part of a body whose length is not known yet. The head goes out with the first part, the end
/// with the return of `on_request`: chunked for HTTP/1.1, ended by the close for HTTP/1.0 (RFC 9112 section
/// 6.3). Parts are gathered, and sent when they make 64 KiB. Never waits: what the client does not take yet
/// is kept, up to the setting `max-pending`.
///
/// Returns PREFORK_OK, PREFORK_LATE (after `prefork_response_body()` and its like), PREFORK_FULL,
/// PREFORK_GONE, PREFORK_INVALID or PREFORK_NULL.
/// Process: worker.
///
/// # Safety
/// Borrows `res` until return. Copies `size` bytes at `data`, which may be NULL where `size` is
/// 0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_response_write(
    res: *mut prefork_response,
    data: *const c_void,
    size: usize,
) -> c_int {
    guard(|| {
        // SAFETY: `res` is NULL or lent to the caller, who uses it in no other call meanwhile.
        let res = unsafe { borrow_mut(res) }?;
        // SAFETY: `data` is NULL or has `size` bytes, for as long as the documentation asks.
        answered(res.write(unsafe { bytes(data, size) }?))
    })
}

/// Sets the body to `size` bytes of a regular file from `offset` on (sendfile(2)). A file that gets shorter
/// before they are sent cuts the connection, since its length was promised.
///
/// Returns as `prefork_response_body()`; PREFORK_INVALID where `fd` is negative, is no regular file, or does
/// not hold the range.
/// Process: worker.
///
/// # Safety
/// Borrows `res` until return. Takes `fd`, in any case: prefork closes it when the bytes are
/// sent, the client is gone, or the call is refused.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_response_file(
    res: *mut prefork_response,
    fd: c_int,
    offset: u64,
    size: u64,
) -> c_int {
    guard(|| {
        // SAFETY: `fd` is the caller's to give away.
        let file = unsafe { take_fd(fd) }?;
        // SAFETY: `res` is NULL or lent to the caller, who uses it in no other call meanwhile.
        let res = unsafe { borrow_mut(res) }?;
        answered(res.file(file, offset, size))
    })
}

/// # Safety
/// `fd` is negative, or open and given away by its owner.
unsafe fn take_fd(fd: c_int) -> Result<OwnedFd> {
    if fd < 0 {
        return Err(prefork_status::PREFORK_INVALID);
    }
    // SAFETY: not negative; the rest is what the caller promises.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Closes the connection after this response, which says so (`Connection: close`, RFC 9112 section 9.6)
/// where its head has not been written yet.
///
/// Returns PREFORK_OK or PREFORK_NULL.
/// Process: worker.
///
/// # Safety
/// Borrows `res` until return.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_response_close(res: *mut prefork_response) -> c_int {
    guard(|| {
        // SAFETY: `res` is NULL or lent to the caller, who uses it in no other call meanwhile.
        unsafe { borrow_mut(res) }?.close();
        Ok(prefork_status::PREFORK_OK as c_int)
    })
}

/// Gives up: the response becomes a plain 500, or where a part of it was sent already the connection is
/// cut, so that the client cannot take it for a complete one.
///
/// Returns PREFORK_OK or PREFORK_NULL.
/// Process: worker.
///
/// # Safety
/// Borrows `res` until return.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_response_fail(res: *mut prefork_response) -> c_int {
    guard(|| {
        // SAFETY: `res` is NULL or lent to the caller, who uses it in no other call meanwhile.
        unsafe { borrow_mut(res) }?.fail();
        Ok(prefork_status::PREFORK_OK as c_int)
    })
}

/// Answers 101 and makes this connection a stream of bytes: from now on `on_open`, `on_data` and `on_close`
/// are called for it. Header fields added to this response, before or after, go out with the 101 (RFC 9110
/// section 7.8).
///
/// Returns PREFORK_OK, PREFORK_UPGRADE where the request's Upgrade field does not name `protocol`,
/// PREFORK_LATE, PREFORK_INVALID or PREFORK_NULL.
/// Process: worker.
///
/// # Safety
/// Borrows `res` until return. Copies `protocol`, which is NUL-terminated.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_response_upgrade(
    res: *mut prefork_response,
    protocol: *const c_char,
) -> c_int {
    guard(|| {
        // SAFETY: `res` is NULL or lent to the caller, who uses it in no other call meanwhile.
        let res = unsafe { borrow_mut(res) }?;
        // SAFETY: `protocol` is NULL or a C string that lives until return.
        answered(res.upgrade(unsafe { text(protocol) }?))
    })
}
