//! A few descriptors kept back, so that a worker can still be started when the process has no other left.

use std::fs::File;

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
