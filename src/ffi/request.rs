//! Requests in C.

use super::guard::{Answer, Opaque, borrow, guard, text};
use super::status::prefork_status;
use crate::{Request, Worker};
use std::ffi::c_char;

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
    const NONE: Self = Self { data: std::ptr::null(), len: 0 };

    /// Bytes that C may read as long as they live.
    pub(super) fn of(bytes: &[u8]) -> Self {
        // The pointer of an empty Rust slice may be dangling.
        let data = if bytes.is_empty() { c"".as_ptr() } else { bytes.as_ptr().cast() };
        Self { data, len: bytes.len() }
    }

    fn of_option(bytes: Option<&[u8]>) -> Self {
        bytes.map_or(Self::NONE, Self::of)
    }
}

impl Answer for prefork_slice {
    fn refused(_: prefork_status) -> Self {
        Self::NONE
    }
}

/// A complete HTTP request, given to `on_request` and borrowed until that callback returns, as is all that the
/// functions below return.
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

/// The body, complete and without its transfer coding; empty if the request has no body. The setting
/// `max-body` limits its size.
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
