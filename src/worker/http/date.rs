//! The Date field, made once per second (RFC 9110 sections 5.6.7 and 6.6.1).

use crate::sys::time::{self, Time};

const LEN: usize = "Date: Sun, 06 Nov 1994 08:49:37 GMT\r\n".len();
const DAYS: [&[u8; 3]; 7] = [b"Thu", b"Fri", b"Sat", b"Sun", b"Mon", b"Tue", b"Wed"];
const MONTHS: [&[u8; 3]; 12] =
    [b"Jan", b"Feb", b"Mar", b"Apr", b"May", b"Jun", b"Jul", b"Aug", b"Sep", b"Oct", b"Nov", b"Dec"];

/// A Date field line that is right for the current turn of the loop.
pub(super) struct Date {
    turn: Time,
    second: u64,
    line: [u8; LEN],
}

impl Date {
    pub fn new() -> Self {
        let second = time::unix_seconds();
        Self { turn: Time::default(), second, line: format_line(second) }
    }

    /// Looks at the wall clock, at most once per value of the loop's own clock.
    pub fn refresh(&mut self, now: Time) {
        if self.turn == now {
            return;
        }
        self.turn = now;
        let second = time::unix_seconds();
        if self.second != second {
            self.second = second;
            self.line = format_line(second);
        }
    }

    /// The field line, with its CRLF.
    pub fn line(&self) -> &[u8] {
        &self.line
    }
}

fn format_line(second: u64) -> [u8; LEN] {
    let (days, of_day) = (second / 86_400, second % 86_400);
    let (year, month, day) = civil(days);
    let mut line = *b"Date: Sun, 06 Nov 1994 08:49:37 GMT\r\n";
    line[6..9].copy_from_slice(DAYS[(days % 7) as usize]);
    put_two(&mut line[11..], day);
    line[14..17].copy_from_slice(MONTHS[month as usize - 1]);
    put_two(&mut line[18..], year / 100);
    put_two(&mut line[20..], year % 100);
    put_two(&mut line[23..], of_day / 3600);
    put_two(&mut line[26..], of_day / 60 % 60);
    put_two(&mut line[29..], of_day % 60);
    line
}

fn put_two(to: &mut [u8], n: u64) {
    to[0] = b'0' + (n / 10 % 10) as u8;
    to[1] = b'0' + (n % 10) as u8;
}

/// Year, month and day of a number of days since 1970-01-01. Years are counted from March, so that the leap day comes last;
/// 400 of them have 146,097 days.
fn civil(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let (month, carry) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    (era * 400 + year + carry, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: u64) -> String {
        String::from_utf8(format_line(second).to_vec()).unwrap()
    }

    #[test]
    fn known_dates() {
        assert_eq!(at(784_111_777), "Date: Sun, 06 Nov 1994 08:49:37 GMT\r\n");
        assert_eq!(at(0), "Date: Thu, 01 Jan 1970 00:00:00 GMT\r\n");
        assert_eq!(at(951_782_400), "Date: Tue, 29 Feb 2000 00:00:00 GMT\r\n");
        assert_eq!(at(4_102_444_799), "Date: Thu, 31 Dec 2099 23:59:59 GMT\r\n");
        assert_eq!(at(4_107_542_400), "Date: Mon, 01 Mar 2100 00:00:00 GMT\r\n");
    }

    #[test]
    fn every_day_follows_the_one_before() {
        let lengths = |y: u64| {
            let leap = y.is_multiple_of(4) && (!y.is_multiple_of(100) || y.is_multiple_of(400));
            [31, if leap { 29 } else { 28 }, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31]
        };
        let (mut year, mut month, mut day) = (1970, 1, 1);
        for days in 0..200_000 {
            assert_eq!(civil(days), (year, month, day));
            day += 1;
            if day > lengths(year)[month as usize - 1] {
                (month, day) = (month + 1, 1);
            }
            if month > 12 {
                (year, month) = (year + 1, 1);
            }
        }
    }
}
