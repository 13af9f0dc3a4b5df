//! Processes that are no children of this one: who they are, and that they have ended.

use super::check;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// Who is at the other end of a Unix socket, as the kernel knows it since the connection was made (unix(7), `SO_PEERCRED`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its process; of a listener the one that called listen(2). 0 where it is in a pid namespace this process does not see.
    pub pid: i32,
    /// Its effective user.
    pub uid: u32,
}

/// Asks who is at the other end of a Unix socket.
pub fn peer_of(fd: BorrowedFd<'_>) -> io::Result<Peer> {
    let mut found = libc::ucred { pid: 0, uid: 0, gid: 0 };
    let mut len = size_of::<libc::ucred>() as libc::socklen_t;
    // SAFETY: `found` is writable, `len` is its size, and both live through the call.
    let ret = unsafe {
        libc::getsockopt(
            fd.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            (&raw mut found).cast(),
            &raw mut len,
        )
    };
    check(ret)?;
    Ok(Peer { pid: found.pid, uid: found.uid })
}

/// The effective user of this process (geteuid(2)).
pub fn own_user() -> u32 {
    // SAFETY: cannot fail, takes no pointers.
    unsafe { libc::geteuid() }
}

/// Watches a process that is no child of this one: readable once it has ended (pidfd_open(2)).
pub fn watch_stranger(pid: i32) -> io::Result<OwnedFd> {
    // SAFETY: takes no pointers.
    let ret = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    // SAFETY: where there was no error, a new descriptor that nobody else knows of; pidfds are CLOEXEC from birth.
    check(ret as libc::c_int).map(|fd| unsafe { OwnedFd::from_raw_fd(fd) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::{fdpass, process, socket};
    use std::os::fd::AsFd;
    use std::time::Duration;

    #[test]
    fn the_other_end_is_known_by_process_and_user() {
        let (a, _b) = fdpass::stream_pair().unwrap();
        assert_eq!(peer_of(a.as_fd()).unwrap(), Peer { pid: process::own_pid(), uid: own_user() });
    }

    #[test]
    fn a_strangers_end_is_seen() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let watch = watch_stranger(child.id() as i32).unwrap();
        assert!(!socket::wait_ready(watch.as_fd(), false, Some(Duration::ZERO)).unwrap());
        child.kill().unwrap();
        assert!(socket::wait_ready(watch.as_fd(), false, Some(Duration::from_secs(10))).unwrap());
        child.wait().unwrap();
        assert!(watch_stranger(-1).is_err());
    }
}
