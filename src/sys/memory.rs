//! Memory shared between the master and its workers; files in memory; counters that wake a poll.

use super::{check, check_len};
use std::ffi::{CStr, c_int, c_void};
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::atomic::AtomicU64;

/// Bytes of a page.
pub const PAGE: usize = 4096;
/// 64-bit words in a page.
pub const PAGE_WORDS: usize = PAGE / 8;

/// One page of shared words.
pub type SharedPage = [AtomicU64; PAGE_WORDS];

/// Creates a file in memory with `pages` pages of zeroed words, for [`map_pages`].
pub fn page_file(name: &CStr, pages: usize) -> io::Result<OwnedFd> {
    let file = File::from(memory_file(name)?);
    file.set_len((pages * PAGE) as u64)?;
    Ok(file.into())
}

/// Maps a file of [`page_file`] (mmap(2), `MAP_SHARED`): every process forked from now on shares its pages. A page takes memory
/// when it is first touched. The mapping stays for the rest of the process's life.
pub fn map_pages(file: BorrowedFd<'_>, pages: usize) -> io::Result<&'static [SharedPage]> {
    // SAFETY: at a place of the kernel's choice.
    let at = unsafe { map(std::ptr::null_mut(), pages * PAGE, libc::MAP_SHARED, Some(file)) }?;
    // SAFETY: the mapping is page-aligned, readable, writable, zeroed (a valid AtomicU64) and `pages` pages long; it is never
    // unmapped in the process that made it. Other processes change it, which atomics allow.
    Ok(unsafe { std::slice::from_raw_parts(at.cast::<SharedPage>(), pages) })
}

/// Replaces pages mapped by [`map_pages`] (mmap(2), `MAP_FIXED`): by those of another file of the same length, or, with `None`, by
/// zeroed pages of this process alone, which take memory when they are touched.
pub fn map_over(pages: &'static [SharedPage], file: Option<BorrowedFd<'_>>) -> io::Result<()> {
    let flags = match file {
        Some(_) => libc::MAP_SHARED,
        None => libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
    };
    let at = pages.as_ptr().cast_mut().cast();
    // SAFETY: a whole mapping of ours that is never unmapped. The new one has the same length and is readable and writable too;
    // atomics allow for values that change.
    unsafe { map(at, size_of_val(pages), flags | libc::MAP_FIXED, file) }.map(drop)
}

/// Maps a page of this process alone, which is all zero in a process that is forked from it (madvise(2), `MADV_WIPEONFORK`). It stays
/// for the rest of the process's life.
pub fn map_cleared_on_fork() -> io::Result<*mut c_void> {
    // SAFETY: at a place of the kernel's choice.
    let page = unsafe { map(std::ptr::null_mut(), PAGE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, None) }?;
    // SAFETY: exactly the mapping made above.
    if let Err(e) = check(unsafe { libc::madvise(page, PAGE, libc::MADV_WIPEONFORK) }) {
        // SAFETY: exactly the mapping made above, which nothing refers to.
        unsafe { libc::munmap(page, PAGE) };
        return Err(e);
    }
    Ok(page)
}

/// Maps memory of this process alone, of whole pages, above a page that nobody may touch: a stack that overflows ends there. It stays for
/// the rest of the process's life.
pub fn map_with_guard(len: usize) -> io::Result<*mut c_void> {
    // SAFETY: at a place of the kernel's choice.
    let start =
        unsafe { map(std::ptr::null_mut(), len + PAGE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, None) }?;
    // SAFETY: the first page of the mapping made above, to which nothing refers.
    check(unsafe { libc::mprotect(start, PAGE, libc::PROT_NONE) })?;
    Ok(start.wrapping_byte_add(PAGE))
}

/// # Safety
/// With `MAP_FIXED`, the program expects other memory from `at` on.
unsafe fn map(
    at: *mut c_void,
    len: usize,
    flags: c_int,
    file: Option<BorrowedFd<'_>>,
) -> io::Result<*mut c_void> {
    let access = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: as the caller promises; elsewhere it is a new mapping.
    let mapped = unsafe { libc::mmap(at, len, access, flags, file.map_or(-1, |fd| fd.as_raw_fd()), 0) };
    if mapped == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(mapped) }
}

/// Makes pages read-only in this process (mprotect(2)): a stray write of a worker to another worker's page then ends it with a
/// fault.
pub fn protect(pages: &'static [SharedPage]) -> io::Result<()> {
    if pages.is_empty() {
        return Ok(());
    }
    let at = pages.as_ptr().cast_mut().cast();
    // SAFETY: whole pages of a mapping that is never unmapped; they stay readable.
    check(unsafe { libc::mprotect(at, size_of_val(pages), libc::PROT_READ) }).map(drop)
}

/// Creates an empty file in memory (memfd_create(2)), which is freed with its last descriptor and mapping.
pub fn memory_file(name: &CStr) -> io::Result<OwnedFd> {
    // SAFETY: `name` is a C string.
    let fd = check(unsafe { libc::memfd_create(name.as_ptr(), libc::MFD_CLOEXEC) })?;
    // SAFETY: a new descriptor, without another owner.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Checks that code of a file may run (mmap(2), `PROT_EXEC`): not if it lies on a file system that is mounted `noexec`, or if a security
/// module forbids it.
///
/// # Errors
/// As mmap(2): `EPERM`, `EACCES`.
pub fn can_run_code(file: BorrowedFd<'_>) -> io::Result<()> {
    let access = libc::PROT_READ | libc::PROT_EXEC;
    // SAFETY: a new mapping at a place of the kernel's choice, which nothing executes or reads.
    let mapped =
        unsafe { libc::mmap(std::ptr::null_mut(), PAGE, access, libc::MAP_PRIVATE, file.as_raw_fd(), 0) };
    if mapped == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: exactly the mapping made above, which nothing refers to.
    unsafe { libc::munmap(mapped, PAGE) };
    Ok(())
}

/// Creates a counter that wakes the process that polls it (eventfd(2)). Each write is an edge for an edge-triggered poll, so that
/// it need not be read.
pub fn wake_counter() -> io::Result<OwnedFd> {
    // SAFETY: takes no pointers.
    let fd = check(unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) })?;
    // SAFETY: a new descriptor, without another owner.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Sets a counter of [`wake_counter`] to 0.
pub fn clear(counter: BorrowedFd<'_>) {
    let mut value = [0u8; 8];
    // It fails only if the counter is 0.
    // SAFETY: eight writable bytes, as eventfd(2) asks for.
    unsafe { libc::read(counter.as_raw_fd(), value.as_mut_ptr().cast(), value.len()) };
}

/// Adds one to a counter of [`wake_counter`].
pub fn wake(counter: BorrowedFd<'_>) -> io::Result<()> {
    let one = 1u64.to_ne_bytes();
    // SAFETY: eight readable bytes, as eventfd(2) asks for.
    check_len(unsafe { libc::write(counter.as_raw_fd(), one.as_ptr().cast(), one.len()) }).map(drop)
}
