//! The Date field, formatted once per second (RFC 9110 section 6.6.1).

use crate::sys::time::{self, Time};
use httpdate::HttpDate;
use std::fmt::Write;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A Date field line.
pub(super) struct Date {
    /// The status line of a 200, which most responses begin with, and the field line.
    text: String,
    /// The second that it shows.
    second: u64,
    /// The time at which its second is over by the monotonic clock; the wall clock is read again then.
    until: Time,
}

/// The status line of a 200.
const OK: &str = "HTTP/1.1 200 OK\r\n";

impl Date {
    pub const fn new() -> Self {
        Self { text: String::new(), second: 0, until: Time::from_millis(0) }
    }

    /// The field line with its CRLF. `now` is the present time, and not that before a handler ran. If the wall clock is set, the line
    /// follows within a second: reading it for each response would cost 65 instructions.
    pub fn line(&mut self, now: Time) -> &[u8] {
        &self.after_ok(now)[OK.len()..]
    }

    /// The time that the line shows.
    pub fn shown(&mut self, now: Time) -> SystemTime {
        self.after_ok(now);
        UNIX_EPOCH + Duration::from_secs(self.second)
    }

    /// The same after the status line of a 200.
    #[inline]
    pub fn after_ok(&mut self, now: Time) -> &[u8] {
        if now >= self.until {
            self.format(now);
        }
        self.text.as_bytes()
    }

    /// Apart from [`Date::after_ok`], which every response needs.
    #[cold]
    fn format(&mut self, now: Time) {
        let (second, rest) = time::unix_second();
        (self.second, self.until) = (second, now + rest);
        self.text.clear();
        let date = HttpDate::from(UNIX_EPOCH + Duration::from_secs(second));
        // Writing to a string does not fail.
        let _ = write!(self.text, "{OK}Date: {date}\r\n");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(line: &[u8]) -> u64 {
        let line = str::from_utf8(line).unwrap();
        let value = line.strip_prefix("Date: ").unwrap().strip_suffix("\r\n").unwrap();
        assert_eq!(value.len(), "Sun, 06 Nov 1994 08:49:37 GMT".len());
        httpdate::parse_http_date(value).unwrap().duration_since(UNIX_EPOCH).unwrap().as_secs()
    }

    #[test]
    fn the_line_has_the_present_time() {
        let mut date = Date::new();
        let begun = Time::now();
        while Time::now() - begun < Duration::from_millis(2100) {
            let before = time::unix_second().0;
            let shown = shown(date.line(Time::now()));
            // The clocks tick every few milliseconds.
            assert!((before - 1..=time::unix_second().0).contains(&shown));
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    #[test]
    fn the_line_is_of_the_time_given() {
        let (mut date, now) = (Date::new(), Time::now());
        let second = shown(date.line(now));
        let end = date.until;
        assert!(end > now && end - now <= Duration::from_millis(1001));
        assert_eq!(shown(date.line(now)), second);
        assert!(date.after_ok(now).starts_with(b"HTTP/1.1 200 OK\r\nDate: "));
        // Then the wall clock is read again.
        date.line(end);
        assert!(date.until > end);
    }
}
