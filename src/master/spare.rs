//! A few descriptors kept back, so that a worker can still be started when the process has no other left.

use std::fs::File;
use std::os::fd::AsRawFd;

/// What a start needs at the most at one time: two socket pairs and a pidfd.
const COUNT: usize = 5;

/// The descriptors kept back.
pub struct Spare(Vec<File>);

impl Spare {
    /// Takes the reserve.
    pub fn new() -> Self {
        let mut spare = Self(Vec::with_capacity(COUNT));
        spare.refill();
        spare
    }

    /// Gives it free, for a moment.
    pub fn release(&mut self) {
        self.0.clear();
    }

    /// Makes sure that the next descriptor finds a place, at the cost of the reserve where need be. `false` where none is free.
    pub fn make_room(&mut self) -> bool {
        self.0.pop().is_some() || File::open("/dev/null").is_ok()
    }

    /// A number has become free. The reserve has the lowest ones, and so is of use also where somebody lowers the limit.
    pub fn sink(&mut self) {
        if let Some(highest) = self.0.iter_mut().max_by_key(|file| file.as_raw_fd())
            && let Ok(lower) = File::open("/dev/null")
            && lower.as_raw_fd() < highest.as_raw_fd()
        {
            *highest = lower;
        }
    }

    /// Takes back as much of it as there is.
    pub fn refill(&mut self) {
        while self.0.len() < COUNT {
            match File::open("/dev/null") {
                Ok(file) => self.0.push(file),
                Err(_) => return,
            }
        }
    }
}
