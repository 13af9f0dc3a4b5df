//! Level-triggered watching, which mio leaves out, in the same epoll instance that mio waits on (epoll(7)).
//!
//! mio registers everything edge-triggered, which asks for reading until `EAGAIN`; for a listener that means a third of the
//! calls fail, and each failed accept4 makes and frees a socket. A level-triggered descriptor is simply reported again.

use super::check;
use libc::{EPOLL_CTL_ADD, EPOLL_CTL_DEL, EPOLL_CTL_MOD, EPOLLEXCLUSIVE, EPOLLIN, EPOLLOUT};
use std::ffi::c_int;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};

/// The conditions that a descriptor is watched for. End of file and errors are reported in any case.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Interest {
    /// There is something to read.
    pub read: bool,
    /// There is room to write.
    pub write: bool,
}

impl Interest {
    /// Nothing.
    pub(crate) const NONE: Self = Self { read: false, write: false };
    /// There is something to read.
    pub const READ: Self = Self { read: true, write: false };
    /// There is room to write.
    pub const WRITE: Self = Self { read: false, write: true };
    /// Either of them.
    pub const BOTH: Self = Self { read: true, write: true };

    fn events(self) -> c_int {
        (if self.read { EPOLLIN } else { 0 }) | (if self.write { EPOLLOUT } else { 0 })
    }
}

/// Watches `fd` for readability: `poll` reports `token` as long as there is something to read.
pub fn watch_level(poll: &mio::Poll, fd: BorrowedFd<'_>, token: mio::Token) -> io::Result<()> {
    watch_level_for(poll, fd, token, Interest::READ)
}

/// Watches `fd` for what is wanted.
pub fn watch_level_for(
    poll: &mio::Poll,
    fd: BorrowedFd<'_>,
    token: mio::Token,
    interest: Interest,
) -> io::Result<()> {
    control(poll, EPOLL_CTL_ADD, fd, token, interest.events())
}

/// Changes what a watched descriptor is watched for.
pub fn rewatch_level(
    poll: &mio::Poll,
    fd: BorrowedFd<'_>,
    token: mio::Token,
    interest: Interest,
) -> io::Result<()> {
    control(poll, EPOLL_CTL_MOD, fd, token, interest.events())
}

/// As [`watch_level`], if several processes watch the same open file: the kernel wakes one of those that wait, the one that has
/// watched longest (`EPOLLEXCLUSIVE`). That one must act at once: the others are not told.
pub fn watch_level_exclusive(poll: &mio::Poll, fd: BorrowedFd<'_>, token: mio::Token) -> io::Result<()> {
    control(poll, EPOLL_CTL_ADD, fd, token, EPOLLIN | EPOLLEXCLUSIVE)
}

/// Stops watching `fd`.
pub fn unwatch(poll: &mio::Poll, fd: BorrowedFd<'_>) -> io::Result<()> {
    control(poll, EPOLL_CTL_DEL, fd, mio::Token(0), 0)
}

/// A change of what a poll watches.
#[derive(Clone, Copy, Debug)]
pub enum Change {
    /// A descriptor is added.
    Add,
    /// It is watched for something else, with another token.
    Modify,
    /// It is removed.
    Remove,
}

/// Changes, level-triggered, what is watched of a descriptor that its owner may have closed already. Fails with `EBADF` then; with
/// `ENOENT` if the number stands for another file than when it was added, and with `EEXIST` if it is added a second time.
pub fn change(
    poll: &mio::Poll,
    change: Change,
    fd: RawFd,
    token: mio::Token,
    interest: Interest,
) -> io::Result<()> {
    let operation = match change {
        Change::Add => EPOLL_CTL_ADD,
        Change::Modify => EPOLL_CTL_MOD,
        Change::Remove => EPOLL_CTL_DEL,
    };
    control_number(poll, operation, fd, token, interest.events())
}

/// True if an error of [`change`] says that this descriptor can never be watched: it is not open, or of a kind that has no readiness.
pub fn is_unwatchable(e: &io::Error) -> bool {
    matches!(e.raw_os_error(), Some(libc::EBADF | libc::EPERM | libc::EINVAL | libc::ELOOP))
}

fn control(
    poll: &mio::Poll,
    operation: c_int,
    fd: BorrowedFd<'_>,
    token: mio::Token,
    events: c_int,
) -> io::Result<()> {
    control_number(poll, operation, fd.as_raw_fd(), token, events)
}

fn control_number(
    poll: &mio::Poll,
    operation: c_int,
    fd: RawFd,
    token: mio::Token,
    events: c_int,
) -> io::Result<()> {
    let mut event = libc::epoll_event { events: events as u32, u64: token.0 as u64 };
    // SAFETY: `event` is valid through the call; the kernel copies it.
    let ret = unsafe { libc::epoll_ctl(poll.as_raw_fd(), operation, fd, &raw mut event) };
    check(ret).map(drop)
}

/// The descriptor of a poll, which is readable if the poll has something to report: another poll can watch it.
pub fn descriptor(poll: &mio::Poll) -> BorrowedFd<'_> {
    // SAFETY: the descriptor is open as long as `poll` lives, which the result borrows.
    unsafe { BorrowedFd::borrow_raw(poll.as_raw_fd()) }
}

/// The descriptor of a poll, for an owner that cannot lend the poll itself. The owner keeps the poll as long as this.
#[derive(Debug)]
pub struct Descriptor(RawFd);

impl Descriptor {
    /// That of this poll.
    pub fn of(poll: BorrowedFd<'_>) -> Self {
        Self(poll.as_raw_fd())
    }
}

impl AsFd for Descriptor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: open as long as the poll, which the owner of this keeps.
        unsafe { BorrowedFd::borrow_raw(self.0) }
    }
}
