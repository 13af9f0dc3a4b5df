//! The standard descriptors of this process, and diverting standard error into a pipe for a time.

use super::{check, check_len, retry, socket};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;

const STDERR: libc::c_int = libc::STDERR_FILENO;

/// Opens /dev/null in place of standard input, output and error as far as they are closed. Otherwise the next socket would get
/// the number, and its peer what a program prints. Programs that this one executes inherit them.
pub fn open_missing() -> io::Result<()> {
    for number in 0..=STDERR {
        // SAFETY: takes no pointers.
        if unsafe { libc::fcntl(number, libc::F_GETFD) } < 0 {
            // It gets the lowest free number, which is this one.
            // SAFETY: a C string that lives through the call.
            retry(|| check(unsafe { libc::open(c"/dev/null".as_ptr(), libc::O_RDWR) }))?;
        }
    }
    Ok(())
}

/// Creates a pipe: the end to read from, which never blocks, and the end to write to, which may.
pub fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let (source, end) = io::pipe()?;
    socket::set_nonblocking(source.as_fd(), true)?;
    Ok((source.into(), end.into()))
}

/// Reads into `buf` (read(2)); returns 0 at end of file.
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
    /// Diverts to another file what this process, and programs it executes, write to standard error.
    pub fn into(file: &OwnedFd) -> io::Result<Self> {
        let diverted_to = identity(file.as_fd())?;
        let original = io::stderr().as_fd().try_clone_to_owned()?;
        replace(file.as_fd())?;
        Ok(Self { original, diverted_to })
    }

    /// The original, and the device and inode of the file to which it is diverted.
    pub fn into_parts(self) -> (OwnedFd, (u64, u64)) {
        (self.original, self.diverted_to)
    }

    /// Of [`RestoreStderr::into_parts`].
    pub fn from_parts(original: OwnedFd, diverted_to: (u64, u64)) -> Self {
        Self { original, diverted_to }
    }

    /// Restores the original, unless the program itself has replaced standard error in the meantime.
    pub fn restore(self) -> io::Result<()> {
        match identity(io::stderr().as_fd()) {
            Ok(identity) if identity == self.diverted_to => replace(self.original.as_fd()),
            _ => Ok(()),
        }
    }
}

/// Makes standard error a duplicate of another descriptor (dup2(2)), in one step.
fn replace(with: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: takes no pointers. Closing the file that was there is the purpose.
    retry(|| check(unsafe { libc::dup2(with.as_raw_fd(), STDERR) })).map(drop)
}

/// True if standard error is the stream to the journal that the service manager has opened (`JOURNAL_STREAM`, systemd.exec(5)).
pub fn is_journal() -> bool {
    let Ok(stream) = std::env::var("JOURNAL_STREAM") else { return false };
    identity(io::stderr().as_fd()).is_ok_and(|(device, inode)| stream == format!("{device}:{inode}"))
}

/// The device and inode of a descriptor's file.
fn identity(fd: BorrowedFd<'_>) -> io::Result<(u64, u64)> {
    let about = File::from(fd.try_clone_to_owned()?).metadata()?;
    Ok((about.dev(), about.ino()))
}
