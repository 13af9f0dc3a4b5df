//! Lending a descriptor to a value that cannot hold a borrow, for the time of one call.

use std::cell::Cell;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};

const NONE: RawFd = -1;

/// A descriptor that is available during one call, and not longer.
#[derive(Debug)]
pub struct Lent(Cell<RawFd>);

impl Lent {
    /// No descriptor.
    pub const fn new() -> Self {
        Self(Cell::new(NONE))
    }

    /// Runs `f`, in which [`Lent::with`] finds `fd`. Afterwards, and after a panic, the descriptor before is lent again.
    pub fn during<T>(&self, fd: BorrowedFd<'_>, f: impl FnOnce() -> T) -> T {
        struct Restore<'a>(&'a Cell<RawFd>, RawFd);
        impl Drop for Restore<'_> {
            fn drop(&mut self) {
                self.0.set(self.1);
            }
        }
        let _restore = Restore(&self.0, self.0.replace(fd.as_raw_fd()));
        f()
    }

    /// Runs `f` with the descriptor that is lent; returns `None` outside of [`Lent::during`].
    pub fn with<T>(&self, f: impl FnOnce(BorrowedFd<'_>) -> T) -> Option<T> {
        let raw = self.0.get();
        if raw == NONE {
            return None;
        }
        // SAFETY: only `during` stores a number here, and removes it before the borrow it was given ends; `f` runs within
        // that call and cannot keep its borrow.
        Some(f(unsafe { BorrowedFd::borrow_raw(raw) }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn a_descriptor_is_lent_for_one_call() {
        let file = std::fs::File::open("/dev/null").unwrap();
        let lent = Lent::new();
        assert_eq!(lent.with(|_| ()), None);
        let seen = lent.during(file.as_fd(), || lent.with(|fd| fd.as_raw_fd()));
        assert_eq!(seen, Some(file.as_raw_fd()));
        assert_eq!(lent.with(|_| ()), None);
        let panic = std::panic::AssertUnwindSafe(|| lent.during(file.as_fd(), || panic!("handler")));
        assert!(std::panic::catch_unwind(panic).is_err());
        assert_eq!(lent.with(|_| ()), None);
    }
}
