//! Memory shared between the master and its workers, and files that live in memory.

use super::{check, check_len, retry};
use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::atomic::AtomicU64;

/// The unit in which a mapping is given back.
pub const PAGE: usize = 4096;
/// 64-bit words in a page.
pub const PAGE_WORDS: usize = PAGE / 8;

/// One page of shared words.
pub type SharedPage = [AtomicU64; PAGE_WORDS];

/// A file in memory of `pages` pages of zeroed words, to be mapped by [`map_pages`].
pub fn page_file(name: &CStr, pages: usize) -> io::Result<OwnedFd> {
    let file = memory_file(name)?;
    let len = libc::off_t::try_from(pages * PAGE).map_err(|_| io::ErrorKind::InvalidInput)?;
    // SAFETY: takes no pointers.
    check(unsafe { libc::ftruncate(file.as_raw_fd(), len) })?;
    Ok(file)
}

/// Maps the pages of a file of [`page_file`] (mmap(2), `MAP_SHARED`): every process forked from now on shares them. A page takes
/// memory when it is first touched. The mapping stays for the rest of the process's life.
pub fn map_pages(file: BorrowedFd<'_>, pages: usize) -> io::Result<&'static [SharedPage]> {
    // SAFETY: asks for a new mapping at a place of the kernel's choice.
    let at = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            pages * PAGE,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_SHARED,
            file.as_raw_fd(),
            0,
        )
    };
    if at == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the mapping is page-aligned, readable, writable, zeroed (a valid AtomicU64) and `pages` pages long; it is never
    // unmapped in the process that made it. Other processes change it, which atomics allow.
    Ok(unsafe { std::slice::from_raw_parts(at.cast::<SharedPage>(), pages) })
}

/// Maps other memory in the place of pages that were mapped by [`map_pages`] (mmap(2), `MAP_FIXED`): those of a file as long, or
/// `None`: zeroed pages of this process alone, which take memory when they are touched.
pub fn map_over(pages: &'static [SharedPage], file: Option<BorrowedFd<'_>>) -> io::Result<()> {
    let flags = match file {
        Some(_) => libc::MAP_SHARED,
        None => libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
    };
    // SAFETY: a whole mapping of ours that is never unmapped; what is there afterwards is as long, readable, writable and zeroed
    // or shared, as before, and atomics allow for values that change.
    let at = unsafe {
        libc::mmap(
            pages.as_ptr().cast_mut().cast(),
            size_of_val(pages),
            libc::PROT_READ | libc::PROT_WRITE,
            flags | libc::MAP_FIXED,
            file.map_or(-1, |fd| fd.as_raw_fd()),
            0,
        )
    };
    if at == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Makes pages read-only in this process (mprotect(2)): for a worker, which writes its own page and no other worker's. A write
/// to them is then a fault that ends this process, whatever made it.
pub fn protect(pages: &'static [SharedPage]) -> io::Result<()> {
    if pages.is_empty() {
        return Ok(());
    }
    let at = pages.as_ptr().cast_mut().cast();
    // SAFETY: whole pages of a mapping that is never unmapped; they stay readable.
    check(unsafe { libc::mprotect(at, size_of_val(pages), libc::PROT_READ) }).map(drop)
}

/// A new empty file in memory (memfd_create(2)); it is gone with its last descriptor and mapping.
pub fn memory_file(name: &CStr) -> io::Result<OwnedFd> {
    // SAFETY: `name` is a C string; the call returns a new descriptor.
    let fd = check(unsafe { libc::memfd_create(name.as_ptr(), libc::MFD_CLOEXEC) })?;
    // SAFETY: a new descriptor that nobody else knows of.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Copies `len` bytes from the start of one file to the position of another (sendfile(2)).
///
/// # Errors
/// `UnexpectedEof` where the source is shorter.
pub fn copy_file(from: BorrowedFd<'_>, to: BorrowedFd<'_>, len: u64) -> io::Result<()> {
    let mut at: libc::off_t = 0;
    while at.unsigned_abs() < len {
        let left = usize::try_from(len - at.unsigned_abs()).unwrap_or(usize::MAX);
        // SAFETY: `at` is a valid off_t through the call.
        let n = retry(|| {
            // SAFETY: as above.
            check_len(unsafe { libc::sendfile(to.as_raw_fd(), from.as_raw_fd(), &raw mut at, left) })
        })?;
        if n == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(())
}

/// A counter that wakes whoever polls it (eventfd(2)). A write is an edge for an edge-triggered poll, so nobody need read it.
pub fn wake_counter() -> io::Result<OwnedFd> {
    // SAFETY: takes no pointers.
    let fd = check(unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) })?;
    // SAFETY: a new descriptor that nobody else knows of.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Adds one to a counter of [`wake_counter`], waking its poller.
pub fn wake(counter: BorrowedFd<'_>) -> io::Result<()> {
    let one = 1u64.to_ne_bytes();
    // SAFETY: eight readable bytes, as eventfd(2) asks for.
    check_len(unsafe { libc::write(counter.as_raw_fd(), one.as_ptr().cast(), one.len()) }).map(drop)
}
