//! Lending a descriptor to code that is called with something that cannot hold a borrow.

use std::cell::Cell;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};

const NONE: RawFd = -1;

/// A place where a descriptor lies for the time of one call, and not longer.
#[derive(Debug)]
pub struct Lent(Cell<RawFd>);

impl Lent {
    /// An empty place.
    pub const fn new() -> Self {
        Self(Cell::new(NONE))
    }

    /// Runs `f`, in which [`Lent::with`] finds `fd`; afterwards, and after a panic, the place is as before.
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

    /// Runs `f` with the descriptor that lies here; `None` outside of [`Lent::during`].
    pub fn with<T>(&self, f: impl FnOnce(BorrowedFd<'_>) -> T) -> Option<T> {
        let raw = self.0.get();
        if raw == NONE {
            return None;
        }
        // SAFETY: only `during` puts a number here, and takes it away before the borrow it was given ends; `f` cannot keep
        // the borrow it is given, and runs within that call.
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
