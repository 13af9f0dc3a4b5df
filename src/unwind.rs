//! Callbacks that do not return: a Rust panic passes, an exception of another language ends the process. In any process.
//!
//! Such an exception cannot be caught here, and prefork must not continue as if the callback had returned.

use crate::log::log;
use crate::sys::exception;
use std::{mem, process, thread};

/// Runs the callback of this name.
pub fn named<T>(callback: &str, f: impl FnOnce() -> T) -> T {
    let unwound = Unwound(callback);
    let result = exception::watch(&|what| ends(callback, what), f);
    mem::forget(unwound);
    result
}

/// Dropped only if its callback does not return, and no exception was seen to leave it.
struct Unwound<'a>(&'a str);

impl Drop for Unwound<'_> {
    fn drop(&mut self) {
        if !thread::panicking() {
            ends(self.0, None);
        }
    }
}

/// Ends the process, with the callback that an exception leaves, and what is known of that.
fn ends(callback: &str, what: Option<String>) {
    // One line of the log, whatever the text is.
    let line = |what: String| what.replace(|c: char| c.is_control(), " ");
    let what = what.map_or_else(String::new, |what| format!(": {}", line(what)));
    log!(Error, "{callback}: {EXCEPTION}{what}");
    process::abort();
}

const EXCEPTION: &str = "a C++ exception left the callback";
