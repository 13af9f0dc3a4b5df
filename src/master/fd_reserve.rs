//! A few descriptors in reserve, so that a worker can still be started when the process has run out of them.

use std::fs::File;
use std::os::fd::AsRawFd;

/// The most descriptors that the start of a worker opens: two socket pairs and a pidfd.
const COUNT: usize = 5;

/// The descriptors in reserve.
pub struct FdReserve(Vec<File>);

impl FdReserve {
    /// Opens the reserve.
    pub fn new() -> Self {
        let mut reserve = Self(Vec::with_capacity(COUNT));
        reserve.refill();
        reserve
    }

    /// Closes the reserve, for a start that follows at once.
    pub fn release(&mut self) {
        self.0.clear();
    }

    /// Makes sure that a descriptor can be opened, if necessary by closing one of the reserve. `false` if none is free.
    pub fn make_room(&mut self) -> bool {
        self.0.pop().is_some() || File::open("/dev/null").is_ok()
    }

    /// Opens what the reserve lacks, as far as the process may.
    pub fn refill(&mut self) {
        while self.0.len() < COUNT {
            match File::open("/dev/null") {
                Ok(file) => self.0.push(file),
                Err(_) => return,
            }
        }
    }

    /// Moves to the number of a descriptor that was just closed, if it is lower. After an administrator has lowered the process's
    /// limit, only numbers below it can be opened again, so the reserve must have the lowest.
    pub fn move_down(&mut self) {
        if let Some(highest) = self.0.iter_mut().max_by_key(|file| file.as_raw_fd())
            && let Ok(lower) = File::open("/dev/null")
            && lower.as_raw_fd() < highest.as_raw_fd()
        {
            *highest = lower;
        }
    }
}
