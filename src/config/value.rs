//! The kinds of values that settings have: how each is read from text, shown as text, and which range it has.

use super::{ListenAddr, MAX_WORKERS};
use std::fmt::Display;
use std::str::FromStr;
use std::time::Duration;

/// A kind of value; `T` is the type of the field. Errors say what was expected.
pub trait Value<T> {
    /// Reads a value.
    fn read(&self, text: &str) -> Result<T, String>;

    /// Shows a value as [`Value::read`] reads it.
    fn show(&self, value: &T) -> String;

    /// Sets a field from text.
    fn set(&self, field: &mut T, text: &str) -> Result<(), String> {
        *field = self.read(text)?;
        Ok(())
    }

    /// Checks the range of a value that the program has set.
    fn check(&self, value: &T) -> Result<(), String> {
        self.read(&self.show(value)).map(drop)
    }

    /// True if each value adds to those given before.
    fn repeats(&self) -> bool {
        false
    }

    /// All values there are; empty if there are many.
    fn values(&self) -> &'static [&'static str] {
        &[]
    }
}

/// A number in a range, or a number of bytes.
pub struct Size {
    low: u64,
    high: u64,
    is_bytes: bool,
}

impl Size {
    /// A whole number.
    pub const fn number(low: u64, high: u64) -> Self {
        Self { low, high, is_bytes: false }
    }

    /// A number of bytes.
    pub const fn bytes(low: u64, high: u64) -> Self {
        Self { low, high, is_bytes: true }
    }

    fn expected(&self) -> String {
        match (self.is_bytes, self.high) {
            (false, u64::MAX) => "a whole number".into(),
            (false, _) => format!("a whole number from {} to {}", self.low, self.high),
            (true, u64::MAX) => BYTES.into(),
            (true, high) => {
                format!("bytes from {} to {}, such as 8192, 64K or 8M", show_size(self.low), show_size(high))
            }
        }
    }
}

const BYTES: &str = "bytes, such as 8192, 64K, 8M or 1G";

impl<T: TryFrom<u64> + Copy> Value<T> for Size
where
    u64: TryFrom<T>,
{
    fn read(&self, text: &str) -> Result<T, String> {
        let number = if self.is_bytes { parse_size(text).ok() } else { text.parse().ok() };
        let number = number.filter(|n| (self.low..=self.high).contains(n));
        number.and_then(|n| T::try_from(n).ok()).ok_or_else(|| self.expected())
    }

    fn show(&self, value: &T) -> String {
        let number = u64::try_from(*value).unwrap_or(u64::MAX);
        if self.is_bytes { show_size(number) } else { number.to_string() }
    }
}

/// A time.
pub struct Time;

impl Value<Duration> for Time {
    fn read(&self, text: &str) -> Result<Duration, String> {
        parse_duration(text)
    }

    fn show(&self, value: &Duration) -> String {
        show_duration(*value)
    }

    fn check(&self, _: &Duration) -> Result<(), String> {
        Ok(())
    }
}

/// `on` or `off`.
pub struct Switch;

impl Value<bool> for Switch {
    fn read(&self, text: &str) -> Result<bool, String> {
        match text {
            "on" | "true" | "yes" | "1" => Ok(true),
            "off" | "false" | "no" | "0" => Ok(false),
            _ => Err("on or off".into()),
        }
    }

    fn show(&self, value: &bool) -> String {
        if *value { "on".into() } else { "off".into() }
    }

    fn values(&self) -> &'static [&'static str] {
        &["on", "off"]
    }
}

/// `on` or `off`, or neither as long as it is not set.
pub struct OptionalSwitch;

impl Value<Option<bool>> for OptionalSwitch {
    fn read(&self, text: &str) -> Result<Option<bool>, String> {
        Switch.read(text).map(Some)
    }

    fn show(&self, value: &Option<bool>) -> String {
        value.map_or_else(String::new, |value| Switch.show(&value))
    }

    fn check(&self, _: &Option<bool>) -> Result<(), String> {
        Ok(())
    }
}

/// One of a few words, which the type reads and shows itself.
pub struct OneOf(pub &'static [&'static str]);

impl<T: FromStr<Err = String> + Display> Value<T> for OneOf {
    fn read(&self, text: &str) -> Result<T, String> {
        text.parse()
    }

    fn show(&self, value: &T) -> String {
        value.to_string()
    }

    fn values(&self) -> &'static [&'static str] {
        self.0
    }
}

/// A number of workers: `auto` and `0` are 0.
pub struct Count;

impl Value<usize> for Count {
    fn read(&self, text: &str) -> Result<usize, String> {
        let number = if text == "auto" { Some(0) } else { text.parse().ok() };
        number
            .filter(|n| *n <= MAX_WORKERS)
            .ok_or_else(|| format!("auto, or a whole number from 0 to {MAX_WORKERS}"))
    }

    fn show(&self, value: &usize) -> String {
        if *value == 0 { "auto".into() } else { value.to_string() }
    }
}

/// Permission bits in octal: `660`, `0660`.
pub struct Mode;

impl Value<u32> for Mode {
    fn read(&self, text: &str) -> Result<u32, String> {
        let mode = u32::from_str_radix(text, 8).ok().filter(|m| *m <= 0o777);
        mode.ok_or_else(|| "an octal mode from 0 to 777".into())
    }

    fn show(&self, value: &u32) -> String {
        format!("{value:o}")
    }
}

/// The name of a server: 1 to 64 letters, digits, or any of `. _ - + @`, not all of them digits, since that would be a process
/// id; and not `all`. An empty name leaves the choice to the handler.
pub struct Name;

impl Value<String> for Name {
    fn read(&self, text: &str) -> Result<String, String> {
        let fits = |c: char| c.is_ascii_alphanumeric() || "._-+@".contains(c);
        let is_number = !text.is_empty() && text.chars().all(|c| c.is_ascii_digit());
        let begins = !text.starts_with(['-', '+', '.']);
        if text.len() <= 64 && text.chars().all(fits) && !is_number && text != "all" && begins {
            return Ok(text.to_owned());
        }
        Err("1 to 64 letters, digits, or any of . _ - + @, beginning with a letter or digit; not a number, and not \"all\"".into())
    }

    fn show(&self, value: &String) -> String {
        value.clone()
    }
}

/// A list of addresses, to which each value adds one.
pub struct Addresses;

impl Value<Vec<ListenAddr>> for Addresses {
    fn read(&self, text: &str) -> Result<Vec<ListenAddr>, String> {
        text.parse().map(|address| vec![address])
    }

    fn show(&self, value: &Vec<ListenAddr>) -> String {
        let addresses: Vec<_> = value.iter().map(ToString::to_string).collect();
        if addresses.is_empty() { "127.0.0.1:8080".into() } else { addresses.join(" ") }
    }

    fn set(&self, field: &mut Vec<ListenAddr>, text: &str) -> Result<(), String> {
        field.extend(self.read(text)?);
        Ok(())
    }

    fn repeats(&self) -> bool {
        true
    }

    fn check(&self, _: &Vec<ListenAddr>) -> Result<(), String> {
        Ok(())
    }
}

/// Parses bytes: `8192`, `8K`, `1M`, `2G`.
///
/// # Errors
/// What was expected.
pub fn parse_size(s: &str) -> Result<u64, String> {
    let (digits, unit) = match s.as_bytes().last() {
        Some(b'k' | b'K') => (&s[..s.len() - 1], 1 << 10),
        Some(b'm' | b'M') => (&s[..s.len() - 1], 1 << 20),
        Some(b'g' | b'G') => (&s[..s.len() - 1], 1 << 30),
        _ => (s, 1),
    };
    // Rust would take a plus sign.
    let value = digits.parse::<u64>().ok().filter(|_| digits.as_bytes()[0].is_ascii_digit());
    value.and_then(|n| n.checked_mul(unit)).ok_or_else(|| BYTES.into())
}

fn show_size(n: u64) -> String {
    [("G", 30), ("M", 20), ("K", 10)]
        .iter()
        .find(|(_, shift)| n >= 1 << shift && n.trailing_zeros() >= *shift)
        .map_or_else(|| n.to_string(), |(unit, shift)| format!("{}{unit}", n >> shift))
}

/// Parses a time: `30` and `30s` are seconds; `250ms`, `5m` and `1h` work too.
///
/// # Errors
/// What was expected.
pub fn parse_duration(s: &str) -> Result<Duration, String> {
    let split = s.find(|c: char| !c.is_ascii_digit()).unwrap_or(s.len());
    let expected = || "a time, such as 30, 30s, 250ms, 5m or 1h (at most 365 days)".to_owned();
    let n: u64 = s[..split].parse().map_err(|_| expected())?;
    let ms = match &s[split..] {
        "ms" => Some(n),
        "" | "s" => n.checked_mul(1000),
        "m" => n.checked_mul(60_000),
        "h" => n.checked_mul(3_600_000),
        _ => None,
    };
    ms.filter(|ms| *ms <= 365 * 86_400_000).map(Duration::from_millis).ok_or_else(expected)
}

/// Shows a time as [`parse_duration`] reads it.
pub fn show_duration(t: Duration) -> String {
    match t.as_millis() {
        0 => "0".into(),
        ms if ms % 1000 == 0 => format!("{}s", ms / 1000),
        ms => format!("{ms}ms"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_take_binary_suffixes() {
        assert_eq!(parse_size("8K"), Ok(8192));
        assert_eq!(parse_size("1m"), Ok(1 << 20));
        for bad in ["", "K", "-1", "+1", "1.5M", "18446744073709551615G", "1KB"] {
            assert!(parse_size(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn times_default_to_seconds() {
        assert_eq!(parse_duration("30"), Ok(Duration::from_secs(30)));
        assert_eq!(parse_duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(parse_duration("2h"), Ok(Duration::from_secs(7200)));
        for bad in ["", "s", "-1", "1d", "99999999999999999999", "1.5"] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn sizes_and_times_are_shown_as_they_are_read() {
        for n in [0, 1, 1000, 1024, 1536, 8 << 20, 1 << 30] {
            assert_eq!(parse_size(&show_size(n)), Ok(n));
        }
        for ms in [0, 1, 250, 1000, 75_000] {
            let t = Duration::from_millis(ms);
            assert_eq!(parse_duration(&show_duration(t)), Ok(t));
        }
    }

    #[test]
    fn a_name_can_be_told_from_a_pid_a_worker_and_an_option() {
        for good in ["", "web", "hello.so", "web-2", "2nd", "a@b_c+d"] {
            assert_eq!(Name.read(good).as_deref(), Ok(good));
        }
        let long = "x".repeat(65);
        for bad in ["7", "all", "a/b", "../x", "-w", "+1", ".hidden", "a b", "a\n", "é", &long] {
            assert!(Name.read(bad).is_err(), "{bad}");
        }
    }
}
