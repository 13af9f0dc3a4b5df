//! The Date field, formatted once per second (RFC 9110 section 6.6.1).

use crate::sys::time::{self, Time};
use httpdate::HttpDate;
use std::fmt::Write;
use std::time::{Duration, UNIX_EPOCH};

/// A Date field line, up to date for the current turn of the loop.
pub(super) struct Date {
    turn: Time,
    second: u64,
    line: String,
}

impl Date {
    pub const fn new() -> Self {
        Self { turn: Time::NEVER, second: u64::MAX, line: String::new() }
    }

    /// Reads the wall clock, at most once for each `now` of the loop's clock.
    pub fn refresh(&mut self, now: Time) {
        if self.turn == now {
            return;
        }
        self.turn = now;
        let second = time::unix_seconds();
        if self.second != second {
            self.second = second;
            self.format();
        }
    }

    /// Apart from [`Date::refresh`], which every request needs.
    #[cold]
    fn format(&mut self) {
        self.line.clear();
        let date = HttpDate::from(UNIX_EPOCH + Duration::from_secs(self.second));
        // Writing to a string does not fail.
        let _ = write!(self.line, "Date: {date}\r\n");
    }

    /// The field line, with its CRLF.
    pub fn line(&self) -> &[u8] {
        self.line.as_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_has_the_time_of_the_last_refresh() {
        let before = time::unix_seconds();
        let mut date = Date::new();
        date.refresh(Time::default());
        let line = String::from_utf8(date.line().to_vec()).unwrap();
        let value = line.strip_prefix("Date: ").unwrap().strip_suffix("\r\n").unwrap();
        assert_eq!(value.len(), "Sun, 06 Nov 1994 08:49:37 GMT".len());
        let shown = httpdate::parse_http_date(value).unwrap().duration_since(UNIX_EPOCH).unwrap().as_secs();
        assert!((before..=time::unix_seconds()).contains(&shown), "{line}");
    }
}
