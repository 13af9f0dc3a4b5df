//! The log: one line at a time on standard error. A line that cannot be written is dropped: no log is worth a connection.

use crate::sys::{output, socket};
use std::fmt::Arguments;
use std::os::fd::AsFd;

/// The length of the longest line (bytes): a pipe takes such a line whole or not at all (pipe(7), PIPE_BUF).
const LONGEST: usize = 4000;

/// Writes `prefork: ` and the line in one write(2), with control characters escaped.
pub fn line(text: Arguments<'_>) {
    let mut out = String::from("prefork: ");
    for c in text.to_string().chars() {
        if c.is_control() { out.extend(c.escape_default()) } else { out.push(c) }
    }
    while out.len() > LONGEST {
        out.pop();
    }
    out.push('\n');
    copy(&out);
}

/// Writes lines of at most 4096 bytes together in one write(2). Returns false if they are dropped.
pub fn copy(lines: &str) -> bool {
    // A test reads its own.
    crate::sys::test_thread::keep_line(lines)
        || output::write_now(std::io::stderr().as_fd(), lines.as_bytes())
}

/// Prints text on standard output in one write that never waits; drops it if it would. For what a server prints while it runs.
pub fn print(text: &str) {
    output::write_now(std::io::stdout().as_fd(), text.as_bytes());
}

/// True if standard error takes a line now: a reader that does not read must not block this process.
pub fn is_read() -> bool {
    socket::takes_a_line(std::io::stderr().as_fd())
}

/// Returns a number and what it counts: `1 worker`, `2 workers`.
pub fn counted(n: u64, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}

/// Writes a line to standard error, formatted as `format!` does.
macro_rules! log {
    ($($arg:tt)*) => { $crate::log::line(format_args!($($arg)*)) };
}
pub(crate) use log;
