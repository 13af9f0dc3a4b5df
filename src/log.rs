//! One line at a time on standard error. A line that cannot be written is dropped: no log is worth a connection.

use std::fmt::Arguments;
use std::io::Write;

/// Writes `prefork: ` and the line, with control bytes of what it quotes escaped, in one write(2).
pub fn line(text: Arguments<'_>) {
    let mut out = String::from("prefork: ");
    for c in text.to_string().chars() {
        if c.is_control() { out.extend(c.escape_default()) } else { out.push(c) }
    }
    out.push('\n');
    let _ = std::io::stderr().write_all(out.as_bytes());
}

/// Writes a line to standard error, formatted as `format!` does.
macro_rules! log {
    ($($arg:tt)*) => { $crate::log::line(format_args!($($arg)*)) };
}
pub(crate) use log;
