//! Standard error (descriptor 2) of this process, and leading it elsewhere for a time. Pipes, to lead it through.

use super::{check, check_len, retry};
use std::io;
use std::mem;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

const STDERR: libc::c_int = libc::STDERR_FILENO;

/// Whether there is one. A program may have closed it, and then its number is the next file's.
pub fn is_open() -> bool {
    // SAFETY: takes no pointers.
    unsafe { libc::fcntl(STDERR, libc::F_GETFD) >= 0 }
}

/// A new pipe (pipe2(2)): the end to read from, where nothing ever waits, and the end to write to, where writing may.
pub fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let mut ends = [-1; 2];
    // SAFETY: `ends` is writable.
    check(unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) })?;
    // SAFETY: a new descriptor that nobody else knows of; so is the other.
    let [from, to] = ends.map(|fd| unsafe { OwnedFd::from_raw_fd(fd) });
    // SAFETY: takes no pointers.
    check(unsafe { libc::fcntl(from.as_raw_fd(), libc::F_SETFL, libc::O_NONBLOCK) })?;
    Ok((from, to))
}

/// Reads what is there (read(2)): 0 at end of file.
pub fn read(fd: BorrowedFd<'_>, buf: &mut [u8]) -> io::Result<usize> {
    // SAFETY: `buf` is writable for its length through the call.
    retry(|| check_len(unsafe { libc::read(fd.as_raw_fd(), buf.as_mut_ptr().cast(), buf.len()) }))
}

/// Standard error led elsewhere. Dropping this leaves it so; the original is closed.
#[derive(Debug)]
pub struct Diverted {
    original: OwnedFd,
    elsewhere: (u64, u64),
}

impl Diverted {
    /// Leads what this process, and what it executes, writes to standard error into another file.
    pub fn into(elsewhere: &OwnedFd) -> io::Result<Self> {
        let identity = identity(elsewhere.as_raw_fd())?;
        // SAFETY: takes no pointers.
        let original = check(unsafe { libc::fcntl(STDERR, libc::F_DUPFD_CLOEXEC, 3) })?;
        // SAFETY: a new descriptor that nobody else knows of.
        let original = unsafe { OwnedFd::from_raw_fd(original) };
        replace(elsewhere.as_raw_fd())?;
        Ok(Self { original, elsewhere: identity })
    }

    /// Puts the original back; but where somebody else has led it to a third place meanwhile, there it stays.
    pub fn end(self) -> io::Result<()> {
        match identity(STDERR) {
            Ok(identity) if identity == self.elsewhere => replace(self.original.as_raw_fd()),
            _ => Ok(()),
        }
    }
}

/// Makes descriptor 2 a copy of another one (dup2(2)), in one step.
fn replace(with: libc::c_int) -> io::Result<()> {
    // SAFETY: takes no pointers. That what was there is closed is what is wanted.
    retry(|| check(unsafe { libc::dup2(with, STDERR) })).map(drop)
}

/// What a descriptor stands for: device and inode (fstat(2)).
fn identity(fd: libc::c_int) -> io::Result<(u64, u64)> {
    // SAFETY: stat is plain data for which all zero bytes are a valid value.
    let mut stat: libc::stat = unsafe { mem::zeroed() };
    // SAFETY: `stat` is writable.
    check(unsafe { libc::fstat(fd, &raw mut stat) })?;
    Ok((stat.st_dev, stat.st_ino))
}
