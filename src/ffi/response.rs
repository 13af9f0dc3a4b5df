//! Responses in C.

use super::guard::{Opaque, borrow_mut, bytes, c_str, guard, text};
use super::status::{answered, prefork_status};
use crate::unwind::named;
use crate::{Response, Worker};
use std::ffi::{c_char, c_int, c_uint, c_void};
use std::os::fd::{FromRawFd, OwnedFd};

/// The response to a request, given to `on_request`. If no function is called it is a 200 with an empty body.
/// It is sent when the callback returns, and is valid until then. prefork writes the header fields Date,
/// Connection, and Content-Length or Transfer-Encoding; the handler writes the others.
pub struct prefork_response(());

impl Opaque for prefork_response {
    type Inner<'a> = Response;

    fn is_usable() -> bool {
        Worker::is_first_thread()
    }
}

/// Sets the status code, from 200 to 599 (RFC 9110 section 15). The default is 200.
///
/// Returns PREFORK_OK, PREFORK_INVALID, PREFORK_LATE or PREFORK_NULL.
/// Process: worker.
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

/// Adds a header field; a name may be added several times. A `Date` replaces that of prefork, or the one added
/// before. `Upgrade` says which protocols the server offers, as it must with status 426 (RFC 9110 section 7.8);
/// prefork adds `Connection: upgrade`. `Content-Length` can be given if the body is not sent: to HEAD, and after
/// the status was set to 304. Other fields that could break the framing of the message are refused.
///
/// Returns PREFORK_OK, PREFORK_FIELD (the name is not a token, or the value has CR, LF or another control
/// byte; RFC 9110 section 5.5), PREFORK_FRAMING, PREFORK_LATE, PREFORK_FULL or PREFORK_NULL.
/// Process: worker.
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
        answered(res.header(name, unsafe { c_str(value) }?.to_bytes()))
    })
}

/// Sets the body, and with it Content-Length. A second body replaces the first. A body that the response must
/// not have is not sent: to HEAD, and with status 204, 205 or 304 (RFC 9110 section 6.4.1).
///
/// Returns PREFORK_OK, PREFORK_LATE (after `prefork_response_write()`), PREFORK_INVALID or PREFORK_NULL.
/// Process: worker.
/// # Safety
/// Borrows `res` until return. Copies `size` bytes at `data`, which may be NULL if `size` is 0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_response_body(
    res: *mut prefork_response,
    data: *const c_void,
    size: usize,
) -> c_int {
    guard(|| {
        // SAFETY: `res` is NULL or lent to the caller, who uses it in no other call meanwhile.
        let res = unsafe { borrow_mut(res) }?;
        // SAFETY: `data` is NULL or has `size` bytes that live until return.
        answered(res.body(unsafe { bytes(data, size) }?))
    })
}

/// As `prefork_response_body()`, without a copy, for bytes that stay unchanged as long as the worker lives:
/// literals, tables, files mapped at start.
///
/// Returns as `prefork_response_body()`.
/// Process: worker.
/// # Safety
/// Borrows `res` until return, and forever `size` bytes at `data`, which may be NULL if `size` is 0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_response_body_static(
    res: *mut prefork_response,
    data: *const c_void,
    size: usize,
) -> c_int {
    guard(|| {
        // SAFETY: `res` is NULL or lent to the caller, who uses it in no other call meanwhile.
        let res = unsafe { borrow_mut(res) }?;
        // SAFETY: `data` is NULL or has `size` bytes that live forever.
        answered(res.body_static(unsafe { bytes(data, size) }?))
    })
}

/// As `prefork_response_body()`, without a copy, for bytes that the caller gives away, for instance with
/// `prefork_response_body_owned(res, p, n, free, p)`. `release(owner)` is called exactly once, in this worker:
/// when the bytes have been sent, when the client is gone, or before this call returns a refusal.
///
/// Returns as `prefork_response_body()`; PREFORK_NULL also if `release` is NULL, and then nothing is taken.
/// Process: worker.
/// # Safety
/// Borrows `res` until return. Takes `owner` and `size` bytes at `data` until `release(owner)`; `owner` may
/// be NULL, and `data` too if `size` is 0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_response_body_owned(
    res: *mut prefork_response,
    data: *const c_void,
    size: usize,
    release: Option<unsafe extern "C-unwind" fn(owner: *mut c_void)>,
    owner: *mut c_void,
) -> c_int {
    guard(|| {
        let release = release.ok_or(prefork_status::PREFORK_NULL)?;
        // From here on each return releases the bytes.
        let mut owned = Owned { bytes: &[], owner, release };
        // SAFETY: `res` is NULL or lent to the caller, who uses it in no other call meanwhile.
        let res = unsafe { borrow_mut(res) }?;
        // SAFETY: `data` is NULL or has `size` bytes that live until `release`.
        owned.bytes = unsafe { bytes(data, size) }?;
        answered(res.body_owned(Box::new(owned)))
    })
}

/// Bytes that C gave away; `'static` stands for "until this is dropped".
struct Owned {
    bytes: &'static [u8],
    owner: *mut c_void,
    release: unsafe extern "C-unwind" fn(*mut c_void),
}

impl Drop for Owned {
    fn drop(&mut self) {
        // SAFETY: the caller gave both for this call, which is the only one.
        named("release", || unsafe { (self.release)(self.owner) });
    }
}

impl AsRef<[u8]> for Owned {
    fn as_ref(&self) -> &[u8] {
        self.bytes
    }
}

/// Adds to a body whose length is not known yet. The head is sent with the first bytes, the end when
/// `on_request` returns: chunked in HTTP/1.1, until the close in HTTP/1.0 (RFC 9112 section 6.3). prefork
/// collects 64 KiB before it sends, never waits, and keeps what the client does not take yet, up to the
/// setting `max-pending`.
///
/// Returns PREFORK_OK, PREFORK_LATE (after one of the functions that set a whole body), PREFORK_FULL (the response is
/// incomplete: the connection is cut behind the parts before; if there was none, it becomes a 500, unless the handler
/// sets another status or body), PREFORK_GONE, PREFORK_INVALID or PREFORK_NULL.
/// Process: worker.
/// # Safety
/// Borrows `res` until return. Copies `size` bytes at `data`, which may be NULL if `size` is 0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_response_write(
    res: *mut prefork_response,
    data: *const c_void,
    size: usize,
) -> c_int {
    guard(|| {
        // SAFETY: `res` is NULL or lent to the caller, who uses it in no other call meanwhile.
        let res = unsafe { borrow_mut(res) }?;
        // SAFETY: `data` is NULL or has `size` bytes that live until return.
        answered(res.write(unsafe { bytes(data, size) }?))
    })
}

/// As `prefork_response_body()`, with the `size` bytes of a regular file that begin at `offset` (sendfile(2)).
/// If the file becomes shorter before they are sent, the connection is cut, since its head gives their number.
///
/// Returns as `prefork_response_body()`; PREFORK_INVALID if `fd` is negative, is not a regular file, cannot be
/// read, or does not have these bytes.
/// Process: worker.
/// # Safety
/// Borrows `res` until return. Takes `fd` in any case: prefork closes it when the bytes have been sent,
/// when the client is gone, or when the call is refused.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_response_file(
    res: *mut prefork_response,
    fd: c_int,
    offset: u64,
    size: u64,
) -> c_int {
    guard(|| {
        if fd < 0 {
            return Err(prefork_status::PREFORK_INVALID);
        }
        // SAFETY: not negative; the caller gives it away.
        let file = unsafe { OwnedFd::from_raw_fd(fd) };
        // SAFETY: `res` is NULL or lent to the caller, who uses it in no other call meanwhile.
        answered(unsafe { borrow_mut(res) }?.file(file, offset, size))
    })
}

/// Closes the connection after this response. If its head has not been sent yet, it says so
/// (`Connection: close`, RFC 9112 section 9.6).
///
/// Returns PREFORK_OK or PREFORK_NULL.
/// Process: worker.
/// # Safety
/// Borrows `res` until return.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_response_close(res: *mut prefork_response) -> c_int {
    // SAFETY: `res` is NULL or lent to the caller, who uses it in no other call meanwhile.
    guard(|| answered(unsafe { borrow_mut(res) }.map(Response::close)))
}

/// Gives up. The response becomes a 500; if some of it was sent already, the connection is cut, so that the
/// client does not take it for complete.
///
/// Returns PREFORK_OK or PREFORK_NULL.
/// Process: worker.
/// # Safety
/// Borrows `res` until return.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_response_fail(res: *mut prefork_response) -> c_int {
    // SAFETY: `res` is NULL or lent to the caller, who uses it in no other call meanwhile.
    guard(|| answered(unsafe { borrow_mut(res) }.map(Response::fail)))
}

/// Answers 101 and makes the connection a stream, for which `on_open`, `on_data` and `on_close` are called.
/// Header fields added before or after go into the 101 (RFC 9110 section 7.8).
///
/// Returns PREFORK_OK, PREFORK_UPGRADE (the request's Upgrade field does not name `protocol`), PREFORK_STATE
/// (the handler has no `on_data`), PREFORK_LATE, PREFORK_INVALID or PREFORK_NULL.
/// Process: worker.
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
