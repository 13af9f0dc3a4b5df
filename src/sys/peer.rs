//! The process at the other end of a Unix socket.

use super::check;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// The process and user at the other end of a Unix socket when the connection was made (unix(7), `SO_PEERCRED`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// The process id; of a listener, of the process that called listen(2). 0 if it is in a pid namespace that is hidden from this
    /// process.
    pub pid: i32,
    /// The effective user.
    pub uid: u32,
}

/// Returns the process and user at the other end of a Unix socket.
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

/// True if there is a process with this number (kill(2)), even one that has not been reaped.
pub fn exists(pid: i32) -> bool {
    // SAFETY: takes no pointers; signal 0 is none.
    let sent = check(unsafe { libc::kill(pid, 0) });
    sent.map_or_else(|e| e.raw_os_error() == Some(libc::EPERM), |_| true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::{fdpass, process};
    use process::own_user;
    use std::os::fd::AsFd;

    #[test]
    fn the_process_and_user_at_the_other_end_are_known() {
        let (a, _b) = fdpass::stream_pair().unwrap();
        assert_eq!(peer_of(a.as_fd()).unwrap(), Peer { pid: process::own_pid(), uid: own_user() });
    }

    #[test]
    fn a_process_exists_until_it_is_reaped() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        assert!(exists(child.id() as i32));
        child.wait().unwrap();
        assert!(!exists(child.id() as i32));
    }
}
