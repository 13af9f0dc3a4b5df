//! Writes of lines that never wait: to the log, and of what a server prints when it has started.
//!
//! poll(2) is not enough. It calls a terminal writable as long as its buffer takes one byte, and the write of a whole line then waits for
//! who reads it; and in a pipe another process may use up the room first. `O_NONBLOCK` on the descriptor would be seen by every
//! process that shares the open file, such as the user's shell. So the line goes through an open file of its own.

use super::{check, check_len, retry, socket};
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;

/// Writes bytes without waiting, in one call; returns false if they are dropped, in whole or in part.
pub fn write_now(fd: BorrowedFd<'_>, bytes: &[u8]) -> bool {
    matches!(try_write(fd, bytes), Ok(n) if n == bytes.len())
}

fn try_write(fd: BorrowedFd<'_>, bytes: &[u8]) -> io::Result<usize> {
    let file_type = type_of(fd)?;
    match file_type {
        libc::S_IFSOCK => return socket::send(fd, bytes),
        libc::S_IFIFO | libc::S_IFCHR => {}
        // A file never waits for a reader. An open file of our own would have an offset of its own.
        _ => return write(fd, bytes),
    }
    let mut own = OpenOptions::new();
    own.write(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY);
    match own.open(format!("/proc/self/fd/{}", fd.as_raw_fd())) {
        Ok(mut file) => retry(|| file.write(bytes)),
        // No descriptor is free, or the file is another user's.
        Err(_) if file_type == libc::S_IFCHR => write_nonblocking(fd, bytes),
        Err(_) if socket::takes_a_line(fd) => write(fd, bytes),
        Err(e) => Err(e),
    }
}

/// The type of the file (`S_IFMT`), without a descriptor more, as there may be none.
fn type_of(fd: BorrowedFd<'_>) -> io::Result<libc::mode_t> {
    let mut about = MaybeUninit::<libc::stat>::uninit();
    // SAFETY: `about` is writable for a stat.
    check(unsafe { libc::fstat(fd.as_raw_fd(), about.as_mut_ptr()) })?;
    // SAFETY: the call has succeeded, and so has filled it in.
    Ok(unsafe { about.assume_init() }.st_mode & libc::S_IFMT)
}

/// Has the open file not block for the time of one write. Whoever shares it sees that for as long.
fn write_nonblocking(fd: BorrowedFd<'_>, bytes: &[u8]) -> io::Result<usize> {
    // SAFETY: takes no pointers.
    let flags = check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GETFL) })?;
    // SAFETY: as above.
    check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETFL, flags | libc::O_NONBLOCK) })?;
    let result = write(fd, bytes);
    // SAFETY: as above.
    check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETFL, flags) })?;
    result
}

fn write(fd: BorrowedFd<'_>, bytes: &[u8]) -> io::Result<usize> {
    // SAFETY: `bytes` are readable through the call.
    retry(|| check_len(unsafe { libc::write(fd.as_raw_fd(), bytes.as_ptr().cast(), bytes.len()) }))
}
