//! A few descriptors in reserve, for what must still be possible when the process has run out of them.

use crate::handoff;
use std::fs::File;
use std::os::fd::AsRawFd;

/// The most descriptors that the start of a worker opens: two socket pairs and a pidfd.
const START: usize = 5;
/// The descriptors in reserve for the pool: to replace a worker, and to take a message back from the one that has ended.
pub const SIZE: usize = START + handoff::MOST;

/// The descriptors in reserve.
pub struct FdReserve {
    files: Vec<File>,
    size: usize,
}

impl FdReserve {
    /// Opens a reserve of this many descriptors.
    pub fn new(size: usize) -> Self {
        let mut reserve = Self { files: Vec::with_capacity(size), size };
        reserve.refill();
        reserve
    }

    /// Closes the reserve, for what is opened at once.
    pub fn release(&mut self) {
        self.files.clear();
    }

    /// Makes sure that `count` descriptors can be opened, if necessary by closing some of the reserve. `false` if fewer are free.
    pub fn make_room(&mut self, count: usize) -> bool {
        let given_up = (0..count).take_while(|_| self.give_up_one()).count();
        // Those given up are free, and are opened too: all at the same time.
        given_up == count
            || (0..count).map(|_| File::open("/dev/null")).collect::<Result<Vec<_>, _>>().is_ok()
    }

    /// Closes one of the reserve, for what is opened at once. `false` if there is none.
    pub fn give_up_one(&mut self) -> bool {
        self.files.pop().is_some()
    }

    /// Opens what the reserve lacks, as far as the process may.
    pub fn refill(&mut self) {
        while self.files.len() < self.size {
            match File::open("/dev/null") {
                Ok(file) => self.files.push(file),
                Err(_) => return,
            }
        }
    }

    /// Moves to the number of a descriptor that was just closed, if it is lower. After an administrator has lowered the process's
    /// limit, only numbers below it can be opened again, so the reserve must have the lowest.
    pub fn move_down(&mut self) {
        if let Some(highest) = self.files.iter_mut().max_by_key(|file| file.as_raw_fd())
            && let Ok(lower) = File::open("/dev/null")
            && lower.as_raw_fd() < highest.as_raw_fd()
        {
            *highest = lower;
        }
    }
}
