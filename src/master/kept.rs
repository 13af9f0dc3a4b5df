//! Descriptors that stay open over the exec of an upgrade. The state that is handed over has them by their numbers.

use crate::error::{Error, ErrorKind, Result};
use crate::sys::process;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

/// A descriptor, by its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "control", derive(serde::Serialize, serde::Deserialize), serde(transparent))]
pub struct KeptFd(pub u32);

impl KeptFd {
    /// Takes ownership of the descriptor, which the former program has left open.
    ///
    /// # Errors
    /// [`ErrorKind::State`] if it is not open.
    pub fn adopt(self) -> Result<OwnedFd> {
        process::adopt_descriptor(self.0)
            .map_err(|e| Error::io(ErrorKind::State, "upgrade: a descriptor of the former program", e))
    }
}

/// The descriptors that stay open over the exec.
#[derive(Default)]
pub struct Kept<'a>(Vec<BorrowedFd<'a>>);

impl<'a> Kept<'a> {
    /// Adds a descriptor.
    pub fn keep(&mut self, fd: BorrowedFd<'a>) -> KeptFd {
        self.0.push(fd);
        KeptFd(fd.as_raw_fd().unsigned_abs())
    }

    /// Sets whether the descriptors stay open over an exec.
    pub fn over_exec(&self, open: bool) {
        self.0.iter().for_each(|fd| process::keep_over_exec(*fd, open));
    }
}
