//! Parameters of the query, fields of forms, and cookies in C.

use super::guard::{borrow, guard, text};
use super::request::{prefork_request, prefork_slice};
use crate::{Pairs, Request};
use std::ffi::c_char;

/// The value of the first parameter of the query with this name, which is case-sensitive, decoded. The query is
/// `application/x-www-form-urlencoded`: `+` is a space, `%2B` a plus. A percent sign without two hexadecimal digits
/// behind it stands for itself; without `=` the value is empty.
///
/// Returns a slice, borrowed until the callback returns; `data` is NULL if there is none.
/// Process: worker.
/// # Safety
/// Borrows `req` and `name` until return; `name` is NUL-terminated.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_request_query_get(
    req: *const prefork_request,
    name: *const c_char,
) -> prefork_slice {
    // SAFETY: what the caller promises.
    unsafe { nth(req, name, 0, |req| req.query_pairs()) }
}

/// As `prefork_request_query_get()`, of one of several with the same name; `index` counts them from 0 in the order
/// sent.
///
/// Returns as `prefork_request_query_get()`; `data` is NULL if there are not that many.
/// Process: worker.
/// # Safety
/// Borrows `req` and `name` until return; `name` is NUL-terminated.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_request_query_nth(
    req: *const prefork_request,
    name: *const c_char,
    index: usize,
) -> prefork_slice {
    // SAFETY: what the caller promises.
    unsafe { nth(req, name, index, |req| req.query_pairs()) }
}

/// The number of the parameters of the query.
///
/// Returns the number, or 0 if `req` is NULL.
/// Process: worker.
/// # Safety
/// Borrows `req` until return.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_request_query_count(req: *const prefork_request) -> usize {
    // SAFETY: `req` is NULL or lent to the caller.
    guard(|| Ok(unsafe { borrow(req) }?.query_pairs().len()))
}

/// The name of a parameter of the query; `index` counts from 0 in the order sent.
///
/// Returns a slice, borrowed until the callback returns; `data` is NULL if there are not that many.
/// Process: worker.
/// # Safety
/// Borrows `req` until return.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_request_query_name(
    req: *const prefork_request,
    index: usize,
) -> prefork_slice {
    // SAFETY: what the caller promises.
    unsafe { at(req, index, |req| req.query_pairs(), 0) }
}

/// The value of a parameter of the query, decoded; `index` counts from 0 in the order sent.
///
/// Returns a slice, borrowed until the callback returns; `data` is NULL if there are not that many.
/// Process: worker.
/// # Safety
/// Borrows `req` until return.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_request_query_value(
    req: *const prefork_request,
    index: usize,
) -> prefork_slice {
    // SAFETY: what the caller promises.
    unsafe { at(req, index, |req| req.query_pairs(), 1) }
}

/// The value of the first field of a form with this name, which is case-sensitive, decoded. The body must be whole
/// (`on_request`), and its Content-Type `application/x-www-form-urlencoded`, which is decoded as a query is;
/// `prefork_request_part()` is for forms with files.
///
/// Returns a slice, borrowed until the callback returns; `data` is NULL if there is none.
/// Process: worker.
/// # Safety
/// Borrows `req` and `name` until return; `name` is NUL-terminated.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_request_form_get(
    req: *const prefork_request,
    name: *const c_char,
) -> prefork_slice {
    // SAFETY: what the caller promises.
    unsafe { nth(req, name, 0, |req| req.form()) }
}

/// As `prefork_request_form_get()`, of one of several with the same name; `index` counts them from 0 in the order sent.
///
/// Returns as `prefork_request_form_get()`; `data` is NULL if there are not that many.
/// Process: worker.
/// # Safety
/// Borrows `req` and `name` until return; `name` is NUL-terminated.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_request_form_nth(
    req: *const prefork_request,
    name: *const c_char,
    index: usize,
) -> prefork_slice {
    // SAFETY: what the caller promises.
    unsafe { nth(req, name, index, |req| req.form()) }
}

/// The number of the fields of a form.
///
/// Returns the number, or 0 if `req` is NULL.
/// Process: worker.
/// # Safety
/// Borrows `req` until return.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_request_form_count(req: *const prefork_request) -> usize {
    // SAFETY: `req` is NULL or lent to the caller.
    guard(|| Ok(unsafe { borrow(req) }?.form().len()))
}

/// The name of a field of a form; `index` counts from 0 in the order sent.
///
/// Returns a slice, borrowed until the callback returns; `data` is NULL if there are not that many.
/// Process: worker.
/// # Safety
/// Borrows `req` until return.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_request_form_name(
    req: *const prefork_request,
    index: usize,
) -> prefork_slice {
    // SAFETY: what the caller promises.
    unsafe { at(req, index, |req| req.form(), 0) }
}

/// The value of a field of a form, decoded; `index` counts from 0 in the order sent.
///
/// Returns a slice, borrowed until the callback returns; `data` is NULL if there are not that many.
/// Process: worker.
/// # Safety
/// Borrows `req` until return.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_request_form_value(
    req: *const prefork_request,
    index: usize,
) -> prefork_slice {
    // SAFETY: what the caller promises.
    unsafe { at(req, index, |req| req.form(), 1) }
}

/// The value of the first cookie with this name, which is case-sensitive, decoded. Names are as sent. Of values percent
/// signs are decoded, and quotes around them are dropped (RFC 6265 section 4.1.1); what has no `=` is no cookie.
///
/// Returns a slice, borrowed until the callback returns; `data` is NULL if there is none.
/// Process: worker.
/// # Safety
/// Borrows `req` and `name` until return; `name` is NUL-terminated.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_request_cookie_get(
    req: *const prefork_request,
    name: *const c_char,
) -> prefork_slice {
    // SAFETY: what the caller promises.
    unsafe { nth(req, name, 0, |req| req.cookies()) }
}

/// As `prefork_request_cookie_get()`, of one of several with the same name; `index` counts them from 0 in the order
/// sent.
///
/// Returns as `prefork_request_cookie_get()`; `data` is NULL if there are not that many.
/// Process: worker.
/// # Safety
/// Borrows `req` and `name` until return; `name` is NUL-terminated.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_request_cookie_nth(
    req: *const prefork_request,
    name: *const c_char,
    index: usize,
) -> prefork_slice {
    // SAFETY: what the caller promises.
    unsafe { nth(req, name, index, |req| req.cookies()) }
}

/// The number of the cookies.
///
/// Returns the number, or 0 if `req` is NULL.
/// Process: worker.
/// # Safety
/// Borrows `req` until return.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_request_cookie_count(req: *const prefork_request) -> usize {
    // SAFETY: `req` is NULL or lent to the caller.
    guard(|| Ok(unsafe { borrow(req) }?.cookies().len()))
}

/// The name of a cookie; `index` counts from 0 in the order sent.
///
/// Returns a slice, borrowed until the callback returns; `data` is NULL if there are not that many.
/// Process: worker.
/// # Safety
/// Borrows `req` until return.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_request_cookie_name(
    req: *const prefork_request,
    index: usize,
) -> prefork_slice {
    // SAFETY: what the caller promises.
    unsafe { at(req, index, |req| req.cookies(), 0) }
}

/// The value of a cookie, decoded; `index` counts from 0 in the order sent.
///
/// Returns a slice, borrowed until the callback returns; `data` is NULL if there are not that many.
/// Process: worker.
/// # Safety
/// Borrows `req` until return.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_request_cookie_value(
    req: *const prefork_request,
    index: usize,
) -> prefork_slice {
    // SAFETY: what the caller promises.
    unsafe { at(req, index, |req| req.cookies(), 1) }
}

/// The value of one of those with a name.
///
/// # Safety
/// As for `prefork_request_query_nth`.
unsafe fn nth(
    req: *const prefork_request,
    name: *const c_char,
    index: usize,
    pairs: for<'a, 'b> fn(&'a Request<'b>) -> &'a Pairs,
) -> prefork_slice {
    guard(|| {
        // SAFETY: what the caller promises.
        let req = unsafe { borrow(req) }?;
        // SAFETY: what the caller promises.
        let name = unsafe { text(name) }?;
        Ok(prefork_slice::of_option(pairs(req).all(name).nth(index)))
    })
}

/// The name (`part` is 0) or the value (1) of the one at an index.
///
/// # Safety
/// As for `prefork_request_query_name`.
unsafe fn at(
    req: *const prefork_request,
    index: usize,
    pairs: for<'a, 'b> fn(&'a Request<'b>) -> &'a Pairs,
    part: usize,
) -> prefork_slice {
    guard(|| {
        // SAFETY: what the caller promises.
        let req = unsafe { borrow(req) }?;
        let found = pairs(req).at(index).map(|(name, value)| [name, value]);
        Ok(prefork_slice::of_option(found.and_then(|pair| pair.get(part).copied())))
    })
}
