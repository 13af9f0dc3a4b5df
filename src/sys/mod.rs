//! The only place that calls the kernel: one file per mechanism, safe functions out.
//!
//! Everything here returns `io::Result`, retries `EINTR` itself, gives descriptors an owner at birth and
//! sets `CLOEXEC` on them. Nothing here knows what prefork is. Runs in the master and in workers.
#![allow(unsafe_code)]

#[cfg(feature = "cli")]
pub mod code;
mod control_message;
pub mod crash;
pub mod datagram;
pub mod dl;
pub mod elf;
pub mod ending;
pub mod exception;
pub mod exec;
pub mod fdpass;
pub mod files;
pub mod forks;
pub mod kernel;
pub mod lend;
pub mod lock;
pub mod memory;
pub mod output;
pub mod overdue;
pub mod parent;
#[cfg(feature = "control")]
pub mod peer;
pub mod poll;
pub mod process;
pub mod schedule;
pub mod signal;
pub mod sock_diag;
pub mod socket;
pub mod stderr;
pub mod test_thread;
pub mod time;

use std::io;
use std::mem::MaybeUninit;

/// Error numbers that callers tell apart (errno(3)).
pub mod errno {
    pub use libc::{
        EADDRINUSE, EAFNOSUPPORT, EAGAIN, EBADF, ECANCELED, ECONNRESET, EINVAL, ELOOP, EMFILE, ENAMETOOLONG,
        ENFILE, ENOBUFS, ENODEV, ENOMEM, ENXIO, EOPNOTSUPP, EPIPE, ETOOMANYREFS, EXDEV,
    };
    use libc::{
        ECONNABORTED, EHOSTDOWN, EHOSTUNREACH, ENETDOWN, ENETUNREACH, ENONET, ENOPROTOOPT, EPROTO, ETIMEDOUT,
    };

    /// Errors of accept(2) that are over when somebody frees a descriptor or memory.
    pub const OF_SHORTAGE: [i32; 4] = [EMFILE, ENFILE, ENOBUFS, ENOMEM];

    /// Errors of accept(2) that concern the first connection of the backlog only: the next one may be accepted. EPERM and EACCES
    /// are not among them: security modules refuse before a connection is taken out, and would refuse again.
    pub const OF_ONE_CONNECTION: [i32; 10] = [
        ECONNABORTED,
        EHOSTDOWN,
        EHOSTUNREACH,
        ENETDOWN,
        ENETUNREACH,
        ENONET,
        ENOPROTOOPT,
        EOPNOTSUPP,
        EPROTO,
        ETIMEDOUT,
    ];

    /// After this many of them in a row it is not the connections that are at fault.
    pub const MOST_IN_A_ROW: u32 = 64;

    /// The error of a number.
    pub fn error(number: i32) -> std::io::Error {
        std::io::Error::from_raw_os_error(number)
    }
}

/// Turns the return value of a system call into a result, reading `errno` on `-1`.
fn check(ret: libc::c_int) -> io::Result<libc::c_int> {
    if ret < 0 { Err(io::Error::last_os_error()) } else { Ok(ret) }
}

/// As [`check`], for the calls that return a length.
fn check_len(ret: libc::ssize_t) -> io::Result<usize> {
    usize::try_from(ret).map_err(|_| io::Error::last_os_error())
}

/// Calls `f` until it ends in anything but `EINTR` (signal(7)).
fn retry<T>(mut f: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match f() {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            done => return done,
        }
    }
}

/// A buffer as socket2 wants it for receiving.
fn as_uninit(buf: &mut [u8]) -> &mut [MaybeUninit<u8>] {
    // SAFETY: the same layout. The slice goes only to system calls, which write nothing but initialised bytes.
    unsafe { &mut *(std::ptr::from_mut(buf) as *mut [MaybeUninit<u8>]) }
}
