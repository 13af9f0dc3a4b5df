//! Requests in C.

use super::guard::{Answer, Opaque, borrow, guard, text, text_n};
use super::response::Owned;
use super::status::{answered, prefork_status};
use crate::worker::User;
use crate::{Request, Worker};
use std::ffi::{c_char, c_int, c_void};

/// Borrowed bytes, not NUL-terminated; the call that returns them says how long they stay.
///
/// `data` is NULL if there is no value (no such header field), and not NULL if the value is empty. To print
/// one: `printf("%.*s", (int)s.len, s.data)`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct prefork_slice {
    /// The first byte, or NULL.
    pub data: *const c_char,
    /// The number of bytes.
    pub len: usize,
}

impl prefork_slice {
    /// No value.
    pub(super) const NONE: Self = Self { data: std::ptr::null(), len: 0 };

    /// Bytes that C may read as long as they live.
    pub(super) fn of(bytes: &[u8]) -> Self {
        // The pointer of an empty Rust slice may be dangling.
        let data = if bytes.is_empty() { c"".as_ptr() } else { bytes.as_ptr().cast() };
        Self { data, len: bytes.len() }
    }

    pub(super) fn of_option(bytes: Option<&[u8]>) -> Self {
        bytes.map_or(Self::NONE, Self::of)
    }
}

impl Answer for prefork_slice {
    fn refused(_: prefork_status) -> Self {
        Self::NONE
    }
}

/// An HTTP request, given to `on_request`, `on_head` and `on_body` and borrowed until that callback returns, as is
/// all that the functions below return. The body is there in `on_request` only.
pub struct prefork_request(());

impl Opaque for prefork_request {
    type Inner<'a> = Request<'a>;

    fn is_usable() -> bool {
        Worker::is_first_thread()
    }
}

/// The method as sent, for instance `GET`; it is case-sensitive (RFC 9110 section 9.1).
///
/// Returns a slice, borrowed until `on_request` returns.
/// Process: worker.
/// # Safety
/// Borrows `req` until return.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_request_method(req: *const prefork_request) -> prefork_slice {
    // SAFETY: `req` is NULL or lent to the caller.
    guard(|| Ok(prefork_slice::of(unsafe { borrow(req) }?.method().as_bytes())))
}

/// The request target as sent, for instance `/search?q=x` (RFC 9112 section 3.2).
///
/// Returns a slice, borrowed until `on_request` returns.
/// Process: worker.
/// # Safety
/// Borrows `req` until return.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_request_target(req: *const prefork_request) -> prefork_slice {
    // SAFETY: `req` is NULL or lent to the caller.
    guard(|| Ok(prefork_slice::of(unsafe { borrow(req) }?.target().as_bytes())))
}

/// The path of the target without its query, not percent-decoded: `/search`. `*` for `OPTIONS *`, empty for
/// CONNECT (RFC 9112 section 3.2).
///
/// Returns a slice, borrowed until `on_request` returns.
/// Process: worker.
/// # Safety
/// Borrows `req` until return.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_request_path(req: *const prefork_request) -> prefork_slice {
    // SAFETY: `req` is NULL or lent to the caller.
    guard(|| Ok(prefork_slice::of(unsafe { borrow(req) }?.path().as_bytes())))
}

/// The query of the target without the `?`, not percent-decoded: `q=x` (RFC 3986 section 3.4).
///
/// Returns a slice, borrowed until `on_request` returns; `data` is NULL if the target has no `?`.
/// Process: worker.
/// # Safety
/// Borrows `req` until return.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_request_query(req: *const prefork_request) -> prefork_slice {
    // SAFETY: `req` is NULL or lent to the caller.
    guard(|| Ok(prefork_slice::of_option(unsafe { borrow(req) }?.query().map(str::as_bytes))))
}

/// The authority that the request is for, for instance `example.org:8080`: that of an absolute target, else
/// the value of Host (RFC 9112 section 3.3). Empty if an HTTP/1.0 request has neither.
///
/// Returns a slice, borrowed until `on_request` returns.
/// Process: worker.
/// # Safety
/// Borrows `req` until return.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_request_host(req: *const prefork_request) -> prefork_slice {
    // SAFETY: `req` is NULL or lent to the caller.
    guard(|| Ok(prefork_slice::of(unsafe { borrow(req) }?.host().as_bytes())))
}

/// The version of HTTP: 11 for HTTP/1.1, 10 for HTTP/1.0.
///
/// Returns the version, or 0 if `req` is NULL.
/// Process: worker.
/// # Safety
/// Borrows `req` until return.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_request_version(req: *const prefork_request) -> u32 {
    // SAFETY: `req` is NULL or lent to the caller.
    guard(|| Ok(10 + u32::from(unsafe { borrow(req) }?.minor_version())))
}

/// The value of the first header field with this name, which is case-insensitive (RFC 9110 section 5.1),
/// without the white space around the value.
///
/// Returns a slice, borrowed until `on_request` returns; `data` is NULL if there is no such field.
/// Process: worker.
/// # Safety
/// Borrows `req` and `name` until return; `name` is NUL-terminated.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_request_header(
    req: *const prefork_request,
    name: *const c_char,
) -> prefork_slice {
    guard(|| {
        // SAFETY: `req` is NULL or lent to the caller.
        let req = unsafe { borrow(req) }?;
        // SAFETY: `name` is NULL or a C string that lives until return.
        Ok(prefork_slice::of_option(req.header(unsafe { text(name) }?)))
    })
}

/// As `prefork_request_header()`, with a name of `name_len` bytes that is not NUL-terminated.
///
/// Returns as `prefork_request_header()`.
/// Process: worker.
/// # Safety
/// Borrows `req`, and `name_len` bytes at `name`, until return.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_request_header_n(
    req: *const prefork_request,
    name: *const c_char,
    name_len: usize,
) -> prefork_slice {
    guard(|| {
        // SAFETY: `req` is NULL or lent to the caller.
        let req = unsafe { borrow(req) }?;
        // SAFETY: `name` is NULL or has that many bytes, which live until return.
        Ok(prefork_slice::of_option(req.header(unsafe { text_n(name, name_len) }?)))
    })
}

/// The value of one of several header fields with the same name; `index` counts them from 0 in the order sent.
///
/// ```c
/// for (size_t i = 0; (value = prefork_request_header_nth(req, "Accept", i)).data; i++)
/// ```
///
/// Returns a slice, borrowed until `on_request` returns; `data` is NULL if there are not that many.
/// Process: worker.
/// # Safety
/// Borrows `req` and `name` until return; `name` is NUL-terminated.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_request_header_nth(
    req: *const prefork_request,
    name: *const c_char,
    index: usize,
) -> prefork_slice {
    guard(|| {
        // SAFETY: `req` is NULL or lent to the caller.
        let req = unsafe { borrow(req) }?;
        // SAFETY: `name` is NULL or a C string that lives until return.
        Ok(prefork_slice::of_option(req.header_all(unsafe { text(name) }?).nth(index)))
    })
}

/// The number of header fields.
///
/// Returns the number, or 0 if `req` is NULL.
/// Process: worker.
/// # Safety
/// Borrows `req` until return.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_request_header_count(req: *const prefork_request) -> usize {
    // SAFETY: `req` is NULL or lent to the caller.
    guard(|| Ok(unsafe { borrow(req) }?.header_count()))
}

/// The name of a header field as sent; `index` counts from 0 in the order sent.
///
/// Returns a slice, borrowed until `on_request` returns; `data` is NULL if there are not that many fields.
/// Process: worker.
/// # Safety
/// Borrows `req` until return.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_request_header_name(
    req: *const prefork_request,
    index: usize,
) -> prefork_slice {
    guard(|| {
        // SAFETY: `req` is NULL or lent to the caller.
        let field = unsafe { borrow(req) }?.header_at(index);
        Ok(prefork_slice::of_option(field.map(|(name, _)| name.as_bytes())))
    })
}

/// The value of a header field without the white space around it; `index` counts from 0 in the order sent.
///
/// Returns a slice, borrowed until `on_request` returns; `data` is NULL if there are not that many fields.
/// Process: worker.
/// # Safety
/// Borrows `req` until return.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_request_header_value(
    req: *const prefork_request,
    index: usize,
) -> prefork_slice {
    guard(|| {
        // SAFETY: `req` is NULL or lent to the caller.
        let field = unsafe { borrow(req) }?.header_at(index);
        Ok(prefork_slice::of_option(field.map(|(_, value)| value)))
    })
}

/// The body, complete and without its transfer coding; empty if the request has no body, or if `on_body` had it.
/// The setting `max-body` limits its size.
///
/// Returns a slice, borrowed until `on_request` returns.
/// Process: worker.
/// # Safety
/// Borrows `req` until return.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_request_body(req: *const prefork_request) -> prefork_slice {
    // SAFETY: `req` is NULL or lent to the caller.
    guard(|| Ok(prefork_slice::of(unsafe { borrow(req) }?.body())))
}

/// The client's address: `192.0.2.1:4711`, `[2001:db8::1]:4711`, `unix:`, or `unix:/path` if the client has bound
/// its socket. The first call asks the kernel (getpeername(2)); empty if the client is gone by then.
/// Control characters and backslashes of a path, and bytes that are not UTF-8, are given as `\xNN`.
///
/// Returns a slice, borrowed until `on_request` returns.
/// Process: worker.
/// # Safety
/// Borrows `req` until return.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_request_peer(req: *const prefork_request) -> prefork_slice {
    // SAFETY: `req` is NULL or lent to the caller.
    guard(|| Ok(prefork_slice::of(unsafe { borrow(req) }?.peer().as_bytes())))
}

/// The index of the listener that accepted the connection, from 0, in the order of the addresses.
///
/// Returns the index, or 0 if `req` is NULL.
/// Process: worker.
/// # Safety
/// Borrows `req` until return.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_request_listener(req: *const prefork_request) -> u32 {
    // SAFETY: `req` is NULL or lent to the caller.
    guard(|| Ok(unsafe { borrow(req) }?.listener().into()))
}

/// The length of the body as the client has declared it (Content-Length), or 0 if there is none. What does not
/// fit is INT64_MAX.
///
/// Returns the length, or -1 if the body is chunked, so that only its end tells, or if `req` is NULL.
/// Process: worker.
/// # Safety
/// Borrows `req` until return.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_request_length(req: *const prefork_request) -> i64 {
    guard(|| {
        // SAFETY: `req` is NULL or lent to the caller.
        let length = unsafe { borrow(req) }?.length();
        Ok(length.map_or(-1, |length| i64::try_from(length).unwrap_or(i64::MAX)))
    })
}

/// The number of a request, for `prefork_request_resume()`. No other request of this worker has it; it is over when
/// `on_request` has returned.
///
/// Returns the number, or 0 if the handler has no `on_head`, or if `req` is NULL.
/// Process: worker.
/// # Safety
/// Borrows `req` until return.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_request_id(req: *const prefork_request) -> u64 {
    // SAFETY: `req` is NULL or lent to the caller.
    guard(|| Ok(unsafe { borrow(req) }?.id()))
}

/// In `on_body`: has nothing more of the body read after this piece, until `prefork_request_resume()`. The client
/// can send as much as the kernel and a buffer of 64 KiB hold, and then waits. No timeout runs meanwhile, except
/// `drain-timeout` in a worker that drains. In `on_head`, if that returns 1, also the first piece waits, and so
/// does a client that expects a 100.
///
/// Returns PREFORK_OK; PREFORK_LATE (this is the last piece, or `on_request`); PREFORK_STATE (the handler has no
/// `on_head`); PREFORK_NULL.
/// Process: worker.
/// # Safety
/// Borrows `req` until return.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_request_pause(req: *mut prefork_request) -> c_int {
    // SAFETY: `req` is NULL or lent to the caller.
    guard(|| answered(unsafe { borrow(req) }?.pause()))
}

/// In `on_body`: no further piece is wanted, for instance as the body is too large. When `on_body` has returned,
/// `on_request` is called to answer, and after the response the connection is closed, in stages, as more of the
/// body may follow.
///
/// Returns PREFORK_OK; PREFORK_LATE (this is the last piece, or `on_request`); PREFORK_STATE (in `on_head`, which
/// can refuse; or the handler has none); PREFORK_NULL.
/// Process: worker.
/// # Safety
/// Borrows `req` until return.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_request_stop(req: *mut prefork_request) -> c_int {
    // SAFETY: `req` is NULL or lent to the caller.
    guard(|| answered(unsafe { borrow(req) }?.stop()))
}

/// Gives a request the handler's own pointer, in `on_head` or `on_body`, for the callbacks that follow. `release`,
/// which may be NULL, is called with it once, when the request is over: after `on_request` has returned, after a
/// refusal, and also if the client goes, the body is malformed or takes too long, or the worker ends first. A second
/// call replaces what the first one gave, which is released.
///
/// Returns PREFORK_OK, or a status, and nothing is taken: PREFORK_STATE (the handler has no `on_head`), PREFORK_NULL.
/// Process: worker.
/// # Safety
/// Borrows `req` until return. Takes `user`, which may be NULL, until `release` is called.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_request_set_user(
    req: *mut prefork_request,
    user: *mut c_void,
    release: Option<unsafe extern "C-unwind" fn(user: *mut c_void)>,
) -> c_int {
    guard(|| {
        // SAFETY: `req` is NULL or lent to the caller.
        let req = unsafe { borrow(req) }?;
        if !req.takes_user() {
            return Err(prefork_status::PREFORK_STATE);
        }
        let value = release.map(|release| Owned::value(user, release));
        answered(req.give_user(User { value, pointer: user }))
    })
}

/// The handler's own pointer for this request, set by `prefork_request_set_user()`.
///
/// Returns the pointer, or NULL if there is none.
/// Process: worker.
/// # Safety
/// Borrows `req` until return.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_request_user(req: *const prefork_request) -> *mut c_void {
    // SAFETY: `req` is NULL or lent to the caller.
    guard(|| Ok(unsafe { borrow(req) }?.user_pointer()))
}
