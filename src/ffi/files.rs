//! Files as answers, in C.

use super::guard::{borrow, borrow_mut, bytes, c_str, file_path, guard};
use super::request::{prefork_request, prefork_slice};
use super::response::prefork_response;
use crate::worker::http::content_type;
use std::ffi::{c_char, c_int};

/// The content type for a file by the extension of its name, whatever its case: `text/html; charset=utf-8` for
/// `x.html`.
///
/// Returns a static string; `application/octet-stream` for what is not known, and if `path` is NULL.
/// Process: any, in any thread.
/// # Safety
/// Borrows `path`, which is NUL-terminated, until return.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_content_type(path: *const c_char) -> *const c_char {
    // SAFETY: `path` is NULL or a C string that lives until return.
    guard(|| Ok(content_type::of(unsafe { c_str(path) }.map_or(b"", |path| path.to_bytes())).as_ptr()))
}

/// As `prefork_content_type()`, with a path of `len` bytes that is not NUL-terminated, for instance that of a request.
///
/// Returns as `prefork_content_type()`.
/// Process: any, in any thread.
/// # Safety
/// Borrows `len` bytes at `path` until return.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_content_type_n(path: *const c_char, len: usize) -> *const c_char {
    // SAFETY: `path` is NULL or has that many bytes, which live until return.
    guard(|| Ok(content_type::of(unsafe { bytes(path.cast(), len) }.unwrap_or_default()).as_ptr()))
}

/// Answers a request with a file. Everything is set: the status, Content-Type by the extension of the path unless it
/// was set before, Last-Modified, ETag (of the size, the time in nanoseconds and the inode; weak within a second of
/// the last change) and Accept-Ranges. The conditions of the request are evaluated: If-Match, If-None-Match,
/// If-Modified-Since, If-Unmodified-Since and If-Range (RFC 9110 section 13). One range is sent as such; several
/// ranges are answered with the whole file, as section 14.2 permits. The bytes are sent by sendfile(2).
///
/// The path is trusted, and symbolic links are followed; for a path from a request there is
/// `prefork_response_send_below()`. A file of any other kind, a folder or a FIFO, is not waited for and is a 404.
///
/// Returns the status code that it has set: 200, 206 (a range), 304 (the client has this version), 403 (it may not be
/// read), 404, 405 (the method is neither GET nor HEAD), 412 (the client wants another version), 416 (it does not have
/// that range), 503 (no descriptor or memory is left) or 500 (any other reason); with 400 and more there is no body,
/// and the handler may set one. Or PREFORK_LATE, PREFORK_GONE, PREFORK_FULL or PREFORK_NULL, as
/// `prefork_response_body()` and `prefork_response_header()`.
/// Process: worker.
/// # Safety
/// Borrows `req`, `res`, and `path`, which is NUL-terminated, until return.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_response_send_file(
    req: *const prefork_request,
    res: *mut prefork_response,
    path: *const c_char,
) -> c_int {
    guard(|| {
        // SAFETY: `req` is NULL or lent to the caller.
        let req = unsafe { borrow(req) }?;
        // SAFETY: `res` is NULL or lent to the caller, who uses it in no other call meanwhile.
        let res = unsafe { borrow_mut(res) }?;
        // SAFETY: `path` is NULL or a C string that lives until return.
        Ok(res.send_file(req, unsafe { file_path(path) }?)?.into())
    })
}

/// As `prefork_response_send_file()`, with the file below the folder `root` that a path of a request names:
///
/// ```c
/// prefork_response_send_below(req, res, "/srv/www", prefork_request_path(req));
/// ```
///
/// or what is left of that behind a prefix of yours. It is percent-decoded here; a `/` at its start is dropped. Nothing
/// outside of `root` is sent: 404 for a path with an empty name, `.` or `..`, a NUL or an encoded `/` in it, so that
/// each file has one path, and for symbolic links that lead out of `root` or are absolute (openat2(2),
/// RESOLVE_BENEATH; if a filter refuses that call, no link below `root` is followed). Names that begin with a dot are
/// names as others.
///
/// Returns as `prefork_response_send_file()`.
/// Process: worker.
/// # Safety
/// Borrows `req`, `res`, `root`, which is NUL-terminated, and the bytes of `path` until return.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_response_send_below(
    req: *const prefork_request,
    res: *mut prefork_response,
    root: *const c_char,
    path: prefork_slice,
) -> c_int {
    guard(|| {
        // SAFETY: `req` is NULL or lent to the caller.
        let req = unsafe { borrow(req) }?;
        // SAFETY: `res` is NULL or lent to the caller, who uses it in no other call meanwhile.
        let res = unsafe { borrow_mut(res) }?;
        // SAFETY: `root` is NULL or a C string that lives until return.
        let root = unsafe { file_path(root) }?;
        // SAFETY: the bytes live until return.
        let path = unsafe { bytes(path.data.cast(), path.len) }?;
        Ok(res.send_below(req, root, path)?.into())
    })
}
