//! Locks on open files (flock(2)), which end with their owner, however it ends.

use super::{check, retry};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// The flags with which a file of a stranger's choice is opened: no link is followed, and a pipe is not waited for (open(2)).
pub const OF_STRANGERS: i32 = libc::O_NOFOLLOW | libc::O_NONBLOCK;

/// Locks an open file or directory against all others that lock it; false if another process has it locked.
pub fn try_lock(fd: BorrowedFd<'_>) -> io::Result<bool> {
    let locked = retry(|| {
        // SAFETY: takes no pointers.
        check(unsafe { libc::flock(fd.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) })
    });
    match locked {
        Ok(_) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(false),
        Err(e) => Err(e),
    }
}
