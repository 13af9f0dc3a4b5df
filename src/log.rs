//! One line at a time on standard error. A line that cannot be written is dropped: no log is worth a connection.

use crate::sys::socket;
use std::fmt::Arguments;
use std::io::Write;
use std::os::fd::AsFd;

/// Bytes of a line.
const LONGEST: usize = 4000;

/// Writes `prefork: ` and the line, with control bytes of what it quotes escaped, in one write(2).
pub fn line(text: Arguments<'_>) {
    let mut out = String::from("prefork: ");
    for c in text.to_string().chars() {
        if c.is_control() { out.extend(c.escape_default()) } else { out.push(c) }
    }
    // A pipe takes a line of this length whole or not at all (pipe(7), PIPE_BUF).
    let end = (0..=LONGEST.min(out.len())).rev().find(|&i| out.is_char_boundary(i)).unwrap_or(0);
    out.truncate(end);
    out.push('\n');
    copy(&out);
}

/// Writes lines, which are not to be longer than 4096 bytes together, in one write(2). `false` where they are dropped.
pub fn copy(lines: &str) -> bool {
    is_read() && std::io::stderr().lock().write_all(lines.as_bytes()).is_ok()
}

/// Whether standard error takes a line now. A reader that does not read must not stop the one who has something to say.
pub fn is_read() -> bool {
    socket::takes_a_line(std::io::stderr().as_fd())
}

/// Writes a line to standard error, formatted as `format!` does.
macro_rules! log {
    ($($arg:tt)*) => { $crate::log::line(format_args!($($arg)*)) };
}
pub(crate) use log;
