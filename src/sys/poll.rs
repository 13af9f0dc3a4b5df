//! What mio leaves out: level-triggered watching, in the same epoll instance that mio waits on (epoll(7)).
//!
//! mio registers everything edge-triggered, which asks for reading until `EAGAIN`; for a listener that means a third of the
//! calls fail, and each failed accept4 makes and frees a socket. A level-triggered descriptor is simply reported again.

use super::check;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// What a descriptor is watched for. Its end is reported in any case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interest {
    /// Something to read.
    pub read: bool,
    /// Room to write.
    pub write: bool,
}

impl Interest {
    /// Something to read.
    pub const READ: Self = Self { read: true, write: false };

    fn event(self, token: mio::Token) -> libc::epoll_event {
        let bit = |wanted: bool, bit: libc::c_int| if wanted { bit as u32 } else { 0 };
        let events = bit(self.read, libc::EPOLLIN) | bit(self.write, libc::EPOLLOUT);
        libc::epoll_event { events, u64: token.0 as u64 }
    }
}

/// Watches `fd` for readability, level-triggered: `poll` reports `token` as long as there is something to read.
pub fn watch_level(poll: &mio::Poll, fd: BorrowedFd<'_>, token: mio::Token) -> io::Result<()> {
    watch_level_for(poll, fd, token, Interest::READ)
}

/// Watches `fd` level-triggered for what is wanted.
pub fn watch_level_for(
    poll: &mio::Poll,
    fd: BorrowedFd<'_>,
    token: mio::Token,
    interest: Interest,
) -> io::Result<()> {
    control(poll, libc::EPOLL_CTL_ADD, fd, interest.event(token))
}

/// Watches a descriptor that is watched already for something else.
pub fn rewatch_level(
    poll: &mio::Poll,
    fd: BorrowedFd<'_>,
    token: mio::Token,
    interest: Interest,
) -> io::Result<()> {
    control(poll, libc::EPOLL_CTL_MOD, fd, interest.event(token))
}

/// As [`watch_level`], where several processes watch the same open file: of those that wait, one is woken (`EPOLLEXCLUSIVE`),
/// the one that has watched longest. It must look at once: nobody else is told.
pub fn watch_level_exclusive(poll: &mio::Poll, fd: BorrowedFd<'_>, token: mio::Token) -> io::Result<()> {
    let mut event = Interest::READ.event(token);
    event.events |= libc::EPOLLEXCLUSIVE as u32;
    control(poll, libc::EPOLL_CTL_ADD, fd, event)
}

fn control(
    poll: &mio::Poll,
    what: libc::c_int,
    fd: BorrowedFd<'_>,
    mut event: libc::epoll_event,
) -> io::Result<()> {
    // SAFETY: `event` is valid through the call; the kernel copies it.
    let ret = unsafe { libc::epoll_ctl(poll.as_raw_fd(), what, fd.as_raw_fd(), &raw mut event) };
    check(ret).map(drop)
}

/// The descriptor of a poll: readable when the poll has something to report, so that another poll can watch it.
pub fn descriptor(poll: &mio::Poll) -> BorrowedFd<'_> {
    // SAFETY: the descriptor is open as long as `poll` lives, which the result borrows.
    unsafe { BorrowedFd::borrow_raw(poll.as_raw_fd()) }
}

/// Stops watching `fd`.
pub fn unwatch(poll: &mio::Poll, fd: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: a null event is allowed for EPOLL_CTL_DEL since Linux 2.6.9.
    let ret = unsafe {
        libc::epoll_ctl(poll.as_raw_fd(), libc::EPOLL_CTL_DEL, fd.as_raw_fd(), std::ptr::null_mut())
    };
    check(ret).map(drop)
}
