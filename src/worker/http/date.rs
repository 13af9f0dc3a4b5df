//! The Date field, formatted once per second (RFC 9110 section 6.6.1).

use crate::sys::time;
use httpdate::HttpDate;
use std::fmt::Write;
use std::time::{Duration, UNIX_EPOCH};

/// A Date field line.
pub(super) struct Date {
    second: u64,
    line: String,
}

impl Date {
    pub const fn new() -> Self {
        Self { second: u64::MAX, line: String::new() }
    }

    /// The field line of this moment, with its CRLF. The clock is read each time, since a handler may have taken long.
    pub fn line(&mut self) -> &[u8] {
        let second = time::unix_seconds();
        if self.second != second {
            self.second = second;
            self.format();
        }
        self.line.as_bytes()
    }

    /// Apart from [`Date::line`], which every response needs.
    #[cold]
    fn format(&mut self) {
        self.line.clear();
        let date = HttpDate::from(UNIX_EPOCH + Duration::from_secs(self.second));
        // Writing to a string does not fail.
        let _ = write!(self.line, "Date: {date}\r\n");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_has_the_present_time() {
        let before = time::unix_seconds();
        let mut date = Date::new();
        let line = String::from_utf8(date.line().to_vec()).unwrap();
        let value = line.strip_prefix("Date: ").unwrap().strip_suffix("\r\n").unwrap();
        assert_eq!(value.len(), "Sun, 06 Nov 1994 08:49:37 GMT".len());
        let shown = httpdate::parse_http_date(value).unwrap().duration_since(UNIX_EPOCH).unwrap().as_secs();
        assert!((before..=time::unix_seconds()).contains(&shown), "{line}");
    }
}
