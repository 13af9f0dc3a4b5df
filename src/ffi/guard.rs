//! The edge: panics and refusals become statuses, and C's pointers become references, here only. Runs in any process.

use super::status::prefork_status;
use std::ffi::{CStr, OsStr, c_char, c_int, c_void};
use std::os::unix::ffi::OsStrExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

/// The result of an export's body.
pub(super) type Result<T> = std::result::Result<T, prefork_status>;

/// A type that an export returns.
pub(super) trait Answer {
    /// The value for a refusal.
    fn refused(status: prefork_status) -> Self;
}

/// Integers: the status, or 0 if the type has no negative numbers.
macro_rules! integers {
    ($($type:ty)*) => {$(
        impl Answer for $type {
            fn refused(status: prefork_status) -> Self {
                Self::try_from(status as c_int).unwrap_or(0)
            }
        }
    )*};
}
integers!(c_int i64 isize u32 u64 usize);

impl<T> Answer for *const T {
    fn refused(_: prefork_status) -> Self {
        std::ptr::null()
    }
}

impl<T> Answer for *mut T {
    fn refused(_: prefork_status) -> Self {
        std::ptr::null_mut()
    }
}

/// Runs the body of an export. A panic would abort the process if it reached C, so it ends here, as a status.
pub(super) fn guard<T: Answer>(body: impl FnOnce() -> Result<T>) -> T {
    // Unwind safe: what a panic leaves half done is prefork's own, and usable.
    match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(answer)) => answer,
        Ok(Err(status)) => T::refused(status),
        Err(_) => T::refused(prefork_status::PREFORK_PANIC),
    }
}

/// A type that C knows by name only.
pub(super) trait Opaque {
    /// The type that a pointer to `Self` points to.
    type Inner<'a>;

    /// True if the calling thread may use values of this type: a worker's belong to its first thread.
    fn is_usable() -> bool {
        true
    }
}

/// Lends a value to C.
pub(super) fn lend<T: Opaque>(inner: &T::Inner<'_>) -> *mut T {
    std::ptr::from_ref(inner).cast::<T>().cast_mut()
}

/// As [`lend`], for a value that C may change.
pub(super) fn lend_mut<T: Opaque>(inner: &mut T::Inner<'_>) -> *mut T {
    std::ptr::from_mut(inner).cast()
}

/// The value that was lent to C; refused in another thread than its own.
///
/// # Safety
/// `p` is NULL or was made by [`lend`] or [`lend_mut`], and is still lent; the value does not change meanwhile, as far as this
/// thread may use it.
pub(super) unsafe fn borrow<'a, T: Opaque>(p: *const T) -> Result<&'a T::Inner<'a>> {
    check_thread(p)?;
    // SAFETY: what the caller promises.
    unsafe { borrow_anywhere(p) }
}

/// As [`borrow`], in any thread: for what never changes.
///
/// # Safety
/// As [`borrow`]; of the value only what never changes is read, or what is atomic.
pub(super) unsafe fn borrow_anywhere<'a, T: Opaque>(p: *const T) -> Result<&'a T::Inner<'a>> {
    // SAFETY: what the caller promises.
    unsafe { p.cast::<T::Inner<'a>>().as_ref() }.ok_or(prefork_status::PREFORK_NULL)
}

/// Refuses what this thread may not use. That NULL is NULL comes first.
fn check_thread<T: Opaque>(p: *const T) -> Result<()> {
    if p.is_null() || T::is_usable() { Ok(()) } else { Err(prefork_status::PREFORK_STATE) }
}

/// The value that was lent to C, to be changed; refused in another thread than its own.
///
/// # Safety
/// `p` is NULL or was made by [`lend_mut`], and is still lent; the value is not used otherwise meanwhile.
pub(super) unsafe fn borrow_mut<'a, T: Opaque>(p: *mut T) -> Result<&'a mut T::Inner<'a>> {
    check_thread(p)?;
    // SAFETY: what the caller promises.
    unsafe { p.cast::<T::Inner<'a>>().as_mut() }.ok_or(prefork_status::PREFORK_NULL)
}

/// A C string.
///
/// # Safety
/// `p` is NULL or points to a NUL-terminated string that stays unchanged while the result is used.
pub(super) unsafe fn c_str<'a>(p: *const c_char) -> Result<&'a CStr> {
    if p.is_null() {
        return Err(prefork_status::PREFORK_NULL);
    }
    // SAFETY: not NULL; the rest is what the caller promises.
    Ok(unsafe { CStr::from_ptr(p) })
}

/// A C string that must be UTF-8.
///
/// # Safety
/// As [`c_str`].
pub(super) unsafe fn text<'a>(p: *const c_char) -> Result<&'a str> {
    // SAFETY: what the caller promises.
    unsafe { c_str(p) }?.to_str().map_err(|_| prefork_status::PREFORK_INVALID)
}

/// Bytes from C that must be UTF-8; `p` may be NULL if there are none.
///
/// # Safety
/// As [`bytes`].
pub(super) unsafe fn text_n<'a>(p: *const c_char, len: usize) -> Result<&'a str> {
    // SAFETY: what the caller promises.
    str::from_utf8(unsafe { bytes(p.cast(), len) }?).map_err(|_| prefork_status::PREFORK_INVALID)
}

/// A C string that is a path.
///
/// # Safety
/// As [`c_str`].
pub(super) unsafe fn file_path<'a>(p: *const c_char) -> Result<&'a Path> {
    // SAFETY: what the caller promises.
    Ok(Path::new(OsStr::from_bytes(unsafe { c_str(p) }?.to_bytes())))
}

/// C strings; `p` may be NULL if there are none.
///
/// # Safety
/// `p` is NULL or points to `count` pointers as for [`c_str`].
pub(super) unsafe fn strings<'a>(p: *const *const c_char, count: usize) -> Result<Vec<&'a CStr>> {
    // SAFETY: what the caller promises.
    let pointers = unsafe { elements(p, count) }?;
    // SAFETY: what the caller promises.
    pointers.iter().map(|p| unsafe { c_str(*p) }).collect()
}

/// Bytes from C; `p` may be NULL if there are none.
///
/// # Safety
/// `p` is NULL or points to `size` bytes that stay unchanged while the result is used.
pub(super) unsafe fn bytes<'a>(p: *const c_void, size: usize) -> Result<&'a [u8]> {
    // SAFETY: what the caller promises.
    unsafe { elements(p.cast(), size) }
}

/// An array from C; `p` may be NULL if it is empty.
///
/// # Safety
/// `p` is NULL or points to `count` elements that stay unchanged while the result is used.
unsafe fn elements<'a, T>(p: *const T, count: usize) -> Result<&'a [T]> {
    check_size(p.cast(), count.saturating_mul(size_of::<T>()))?;
    if count == 0 {
        return Ok(&[]);
    }
    // SAFETY: not NULL and not longer than memory can be; the rest is what the caller promises.
    Ok(unsafe { std::slice::from_raw_parts(p, count) })
}

/// Writable bytes of C's; `p` may be NULL if there are none.
///
/// # Safety
/// `p` is NULL or points to `size` writable bytes that are not used otherwise while the result is used.
pub(super) unsafe fn bytes_mut<'a>(p: *mut c_void, size: usize) -> Result<&'a mut [u8]> {
    check_size(p, size)?;
    if size == 0 {
        return Ok(&mut []);
    }
    // SAFETY: not NULL and not longer than memory can be; the rest is what the caller promises.
    Ok(unsafe { std::slice::from_raw_parts_mut(p.cast(), size) })
}

/// Fills in a struct of C's, which begins with its size, as far as both sides know it. Returns `PREFORK_OK`.
///
/// # Safety
/// `into` is NULL or points to as many writable bytes as its first `u32` says. `T` is `repr(C)`, begins with a `u32`, and has no
/// padding in front of what an older header had.
pub(super) unsafe fn fill<T: Copy>(into: *mut T, value: &T) -> Result<c_int> {
    if into.is_null() {
        return Err(prefork_status::PREFORK_NULL);
    }
    let head = into.cast::<u32>();
    // SAFETY: not NULL, and a `u32` at least, as the caller promises.
    let size = unsafe { head.read() } as usize;
    if size < size_of::<u32>() {
        return Err(prefork_status::PREFORK_INVALID);
    }
    let known = size.min(size_of::<T>());
    // SAFETY: `known` bytes are there on both sides, which are not the same place.
    unsafe { std::ptr::copy_nonoverlapping(std::ptr::from_ref(value).cast::<u8>(), into.cast(), known) };
    // SAFETY: as above.
    unsafe { head.write(known as u32) };
    Ok(prefork_status::PREFORK_OK as c_int)
}

fn check_size(p: *const c_void, size: usize) -> Result<()> {
    if size > isize::MAX.unsigned_abs() {
        return Err(prefork_status::PREFORK_INVALID);
    }
    if p.is_null() && size > 0 {
        return Err(prefork_status::PREFORK_NULL);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_becomes_a_status() {
        assert_eq!(guard::<c_int>(|| panic!("on purpose")), prefork_status::PREFORK_PANIC as c_int);
        assert_eq!(guard::<isize>(|| panic!("on purpose")), prefork_status::PREFORK_PANIC as isize);
        assert!(guard::<*const c_char>(|| panic!("on purpose")).is_null());
    }

    #[test]
    fn null_is_a_status_and_no_bytes_may_be_null() {
        let null = std::ptr::null::<c_void>();
        // SAFETY: NULL is allowed.
        assert_eq!(unsafe { c_str(null.cast()) }, Err(prefork_status::PREFORK_NULL));
        // SAFETY: NULL is allowed.
        assert_eq!(unsafe { bytes(null, 1) }, Err(prefork_status::PREFORK_NULL));
        // SAFETY: NULL is allowed.
        assert_eq!(unsafe { bytes(null, 0) }, Ok(&[][..]));
        // SAFETY: the size is refused before the pointer is used.
        assert_eq!(unsafe { bytes(null, usize::MAX) }, Err(prefork_status::PREFORK_INVALID));
    }

    #[test]
    fn text_must_be_utf8() {
        // SAFETY: C strings that live forever.
        assert_eq!(unsafe { text(c"caf\xe9".as_ptr()) }, Err(prefork_status::PREFORK_INVALID));
        // SAFETY: as above.
        assert_eq!(unsafe { text(c"plain".as_ptr()) }, Ok("plain"));
    }
}
