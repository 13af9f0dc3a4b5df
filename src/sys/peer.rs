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

/// The effective user of this process (geteuid(2)).
pub fn own_user() -> u32 {
    // SAFETY: cannot fail, takes no pointers.
    unsafe { libc::geteuid() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::{fdpass, process};
    use std::os::fd::AsFd;

    #[test]
    fn the_process_and_user_at_the_other_end_are_known() {
        let (a, _b) = fdpass::stream_pair().unwrap();
        assert_eq!(peer_of(a.as_fd()).unwrap(), Peer { pid: process::own_pid(), uid: own_user() });
    }
}
