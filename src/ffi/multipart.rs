//! Forms of parts, with files, in C.

use super::guard::{Opaque, borrow, borrow_mut, bytes, fill, guard};
use super::request::{prefork_request, prefork_slice};
use super::status::prefork_status;
use crate::{Malformed, Multipart, Part, PartEvent, Worker};
use std::ffi::{c_int, c_void};

/// A part of a form: a field, or a file. Later versions may add members at the end.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct prefork_part {
    /// The size of this struct: set it before the call; afterwards the size that was filled in.
    pub size: u32,
    /// The name of the field.
    pub name: prefork_slice,
    /// The name of the file, as the client gave it: not to be used as a path, and with `%22` for a quote from browsers.
    /// `data` is NULL if the part is no file.
    pub filename: prefork_slice,
    /// The content type; `data` is NULL if the client gave none, which means text.
    pub content_type: prefork_slice,
    /// The bytes.
    pub data: prefork_slice,
}

impl prefork_part {
    const NONE: Self = Self {
        size: size_of::<Self>() as u32,
        name: prefork_slice::NONE,
        filename: prefork_slice::NONE,
        content_type: prefork_slice::NONE,
        data: prefork_slice::NONE,
    };

    fn of(part: &Part<'_>) -> Self {
        Self {
            name: prefork_slice::of(&part.name),
            filename: prefork_slice::of_option(part.filename.as_deref()),
            content_type: prefork_slice::of_option(part.content_type),
            data: prefork_slice::of(part.data),
            ..Self::NONE
        }
    }
}

/// What `prefork_multipart_next()` has found.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum prefork_part_event {
    /// A part begins: its name, the name of its file and its content type are filled in.
    PREFORK_PART_BEGIN = 1,
    /// Bytes of that part: `data` is filled in, and not empty.
    PREFORK_PART_DATA = 2,
    /// That part is complete.
    PREFORK_PART_END = 3,
}

/// A reader of a form that comes in pieces.
pub struct prefork_multipart(());

impl Opaque for prefork_multipart {
    type Inner<'a> = Multipart;

    fn is_usable() -> bool {
        Worker::is_first_thread()
    }
}

impl From<Malformed> for prefork_status {
    fn from(_: Malformed) -> Self {
        Self::PREFORK_INVALID
    }
}

/// One of the parts of a form with files (`multipart/form-data`, RFC 7578) whose body is whole, in `on_request`;
/// `index` counts from 0 in the order sent:
///
/// ```c
/// prefork_part part;
/// part.size = sizeof part;
/// for (size_t i = 0; prefork_request_part(req, i, &part) == PREFORK_OK; i++)
///     printf("%.*s: %zu bytes\n", (int)part.name.len, part.name.data, part.data.len);
/// ```
///
/// Returns PREFORK_OK; PREFORK_GONE if there are not that many; PREFORK_INVALID if the body is no such form, or is
/// malformed, or if `part->size` is not set; PREFORK_NULL.
/// Process: worker.
/// # Safety
/// Borrows `req` until return, and `part`, of which `part->size` bytes are filled in. Its slices are
/// borrowed until the callback returns.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_request_part(
    req: *const prefork_request,
    index: usize,
    part: *mut prefork_part,
) -> c_int {
    guard(|| {
        // SAFETY: `req` is NULL or lent to the caller.
        let parts = unsafe { borrow(req) }?.parts()?;
        let found = parts.get(index).ok_or(prefork_status::PREFORK_GONE)?;
        // SAFETY: `part` is NULL or has as many bytes as it says.
        unsafe { fill(part, &prefork_part::of(found)) }
    })
}

/// Creates a reader for a form with files (`multipart/form-data`) that `on_body` gets in pieces; call it in `on_head`.
/// It keeps at most 16 KiB of a piece that has been read. In `on_body`:
///
/// ```c
/// prefork_part part;
/// part.size = sizeof part;
/// int event = prefork_multipart_feed(form, data, size);
/// while (event >= 0 && (event = prefork_multipart_next(form, &part)) > 0) {
///     if (event == PREFORK_PART_BEGIN) ...     // part.name, part.filename, part.content_type
///     else if (event == PREFORK_PART_DATA) ... // part.data
/// }
/// if (last && event != PREFORK_OK) ...         // malformed, or not complete
/// ```
///
/// Returns a new reader (creates: free it with `prefork_multipart_free()`); NULL if the content type of the request is
/// not `multipart/form-data` with a boundary, or if `req` is NULL.
/// Process: worker.
/// # Safety
/// Borrows `req` until return.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_multipart_new(req: *const prefork_request) -> *mut prefork_multipart {
    guard(|| {
        // SAFETY: `req` is NULL or lent to the caller.
        let form = unsafe { borrow(req) }?.multipart()?;
        Ok(Box::into_raw(Box::new(form)).cast())
    })
}

/// Gives a reader the next piece of the body.
///
/// Returns PREFORK_OK, PREFORK_INVALID or PREFORK_NULL.
/// Process: worker.
/// # Safety
/// Borrows `form` until return. Copies `size` bytes at `data`, which may be NULL if `size` is 0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_multipart_feed(
    form: *mut prefork_multipart,
    data: *const c_void,
    size: usize,
) -> c_int {
    guard(|| {
        // SAFETY: `form` is NULL or the caller's, who uses it in no other call meanwhile.
        let form = unsafe { borrow_mut(form) }?;
        // SAFETY: `data` is NULL or has `size` bytes that live until return.
        form.feed(unsafe { bytes(data, size) }?);
        Ok(prefork_status::PREFORK_OK as c_int)
    })
}

/// The next of what was given to a reader. The slices that do not belong to the event have `data` = NULL.
///
/// Returns one of `enum prefork_part_event`, which are positive; PREFORK_AGAIN if the next piece is needed; PREFORK_OK
/// when the last part has ended; PREFORK_INVALID if the form is malformed, or if `part->size` is not set;
/// PREFORK_NULL.
/// Process: worker.
/// # Safety
/// Borrows `form` until return, and `part`, of which `part->size` bytes are filled in. Its slices are
/// borrowed until the next call with `form`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_multipart_next(
    form: *mut prefork_multipart,
    part: *mut prefork_part,
) -> c_int {
    guard(|| {
        // SAFETY: `form` is NULL or the caller's, who uses it in no other call meanwhile.
        let form = unsafe { borrow_mut(form) }?;
        // SAFETY: `part` is NULL or has as many bytes as it says.
        unsafe { fill(part, &prefork_part::NONE) }?;
        let (event, found) = match form.next()? {
            None => {
                let status = form.finish().map(|()| prefork_status::PREFORK_OK as c_int);
                return status.map_err(|_| prefork_status::PREFORK_AGAIN);
            }
            Some(PartEvent::Begin(begun)) => {
                let found = prefork_part { data: prefork_slice::NONE, ..prefork_part::of(&begun) };
                (prefork_part_event::PREFORK_PART_BEGIN, found)
            }
            Some(PartEvent::Data(data)) => {
                let found = prefork_part { data: prefork_slice::of(data), ..prefork_part::NONE };
                (prefork_part_event::PREFORK_PART_DATA, found)
            }
            Some(PartEvent::End) => (prefork_part_event::PREFORK_PART_END, prefork_part::NONE),
        };
        // SAFETY: as above.
        unsafe { fill(part, &found) }?;
        Ok(event as c_int)
    })
}

/// Frees a reader. Does nothing if `form` is NULL, and in another thread than the worker's first.
///
/// Process: worker.
/// # Safety
/// Takes `form`: no other call with it after this one.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_multipart_free(form: *mut prefork_multipart) {
    guard(|| {
        // SAFETY: `form` is NULL or the caller's, who uses it in no other call meanwhile.
        let form = unsafe { borrow_mut(form) }?;
        // SAFETY: made by Box::into_raw; the caller does not use it any more.
        drop(unsafe { Box::from_raw(form) });
        Ok(0)
    });
}
