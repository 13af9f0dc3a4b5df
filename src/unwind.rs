//! Callbacks that do not return: a Rust panic passes, an exception of another language ends the process. In any process.
//!
//! Such an exception cannot be caught here, and prefork must not continue as if the callback had returned.

use crate::log::log;
use crate::role::{Role, role};
use std::{mem, process, thread};

/// Runs the callback of this name.
pub fn named<T>(callback: &str, f: impl FnOnce() -> T) -> T {
    let unwound = Unwound(callback);
    let result = f();
    mem::forget(unwound);
    result
}

/// Dropped only if its callback does not return.
struct Unwound<'a>(&'a str);

impl Drop for Unwound<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            return;
        }
        match role() {
            Role::Worker { id, .. } => log!("worker {id}: {}: {EXCEPTION}", self.0),
            Role::Master | Role::None => log!("{}: {EXCEPTION}", self.0),
        }
        process::abort();
    }
}

const EXCEPTION: &str = "a C++ exception left the callback";
