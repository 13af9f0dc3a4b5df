//! Standard error (descriptor 2) of this process, and diverting it into a pipe for a time.

use super::{check, check_len, retry};
use std::io;
use std::mem;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

const STDERR: libc::c_int = libc::STDERR_FILENO;

/// True if it is open. A program may have closed it, and then the next file that is opened gets its number.
pub fn is_open() -> bool {
    // SAFETY: takes no pointers.
    unsafe { libc::fcntl(STDERR, libc::F_GETFD) >= 0 }
}

/// Creates a pipe (pipe2(2)): the end to read from, which never blocks, and the end to write to, which may.
pub fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let mut ends = [-1; 2];
    // SAFETY: `ends` is writable.
    check(unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) })?;
    // SAFETY: a new descriptor that nothing else owns; so is the other.
    let [from, to] = ends.map(|fd| unsafe { OwnedFd::from_raw_fd(fd) });
    // SAFETY: takes no pointers.
    check(unsafe { libc::fcntl(from.as_raw_fd(), libc::F_SETFL, libc::O_NONBLOCK) })?;
    Ok((from, to))
}

/// Reads what is there (read(2)); returns 0 at end of file.
pub fn read(fd: BorrowedFd<'_>, buf: &mut [u8]) -> io::Result<usize> {
    // SAFETY: `buf` is writable for its length through the call.
    retry(|| check_len(unsafe { libc::read(fd.as_raw_fd(), buf.as_mut_ptr().cast(), buf.len()) }))
}

/// The original of standard error while that is diverted. Dropping this leaves it diverted and closes the original.
#[derive(Debug)]
pub struct RestoreStderr {
    original: OwnedFd,
    diverted_to: (u64, u64),
}

impl RestoreStderr {
    /// Diverts into another file what this process, and what it executes, writes to standard error.
    pub fn into(file: &OwnedFd) -> io::Result<Self> {
        let identity = identity(file.as_raw_fd())?;
        // SAFETY: takes no pointers.
        let original = check(unsafe { libc::fcntl(STDERR, libc::F_DUPFD_CLOEXEC, 3) })?;
        // SAFETY: a new descriptor that nothing else owns.
        let original = unsafe { OwnedFd::from_raw_fd(original) };
        replace(file.as_raw_fd())?;
        Ok(Self { original, diverted_to: identity })
    }

    /// Restores the original, unless the program itself has replaced standard error in the meantime: then that stays.
    pub fn restore(self) -> io::Result<()> {
        match identity(STDERR) {
            Ok(identity) if identity == self.diverted_to => replace(self.original.as_raw_fd()),
            _ => Ok(()),
        }
    }
}

/// Makes descriptor 2 a copy of another one (dup2(2)), in one step.
fn replace(with: libc::c_int) -> io::Result<()> {
    // SAFETY: takes no pointers. Closing what was there is the purpose.
    retry(|| check(unsafe { libc::dup2(with, STDERR) })).map(drop)
}

/// The device and inode of a descriptor's file (fstat(2)).
fn identity(fd: libc::c_int) -> io::Result<(u64, u64)> {
    // SAFETY: stat is plain data for which all zero bytes are a valid value.
    let mut stat: libc::stat = unsafe { mem::zeroed() };
    // SAFETY: `stat` is writable.
    check(unsafe { libc::fstat(fd, &raw mut stat) })?;
    Ok((stat.st_dev, stat.st_ino))
}
