//! The kinds of values that settings have: how each is read from text and shown as text, and its range.

use super::address::Listen;
use super::settings::DeferAccept;
use super::template;
use crate::sys::signal;
use std::ffi::OsStr;
use std::fmt::Display;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

/// A kind of value for fields of type `T`. Its errors are the words for what is expected.
pub trait Value<T> {
    /// Reads a value.
    fn read(&self, text: &str) -> Result<T, String>;

    /// Shows a value as [`Value::read`] reads it.
    fn show(&self, value: &T) -> String;

    /// Sets a field from text.
    fn set(&self, field: &mut T, text: &OsStr) -> Result<(), String> {
        *field = self.read(text.to_str().ok_or("UTF-8")?)?;
        Ok(())
    }

    /// Checks the range of a value that the program has set.
    fn check(&self, value: &T) -> Result<(), String> {
        self.read(&self.show(value)).map(drop)
    }

    /// Returns all values, or none if they are not a few words.
    fn words(&self) -> Vec<&'static str> {
        Vec::new()
    }
}

/// A whole number in a range.
pub struct Number(pub RangeInclusive<u64>);

impl<T: TryFrom<u64> + Display> Value<T> for Number {
    fn read(&self, text: &str) -> Result<T, String> {
        let number = text.parse().ok().filter(|n| self.0.contains(n));
        number.and_then(|n| T::try_from(n).ok()).ok_or_else(|| match (self.0.start(), self.0.end()) {
            (_, &u64::MAX) => "a whole number".into(),
            (low, high) => format!("a whole number from {low} to {high}"),
        })
    }

    fn show(&self, value: &T) -> String {
        value.to_string()
    }
}

/// A number of bytes in a range: `8192`, `8K`, `1M`, `2G`.
pub struct Bytes(pub RangeInclusive<u64>);

const UNITS: [(&str, u32); 4] = [("G", 30), ("M", 20), ("K", 10), ("", 0)];

impl<T: TryFrom<u64> + Copy> Value<T> for Bytes
where
    u64: TryFrom<T>,
{
    fn read(&self, text: &str) -> Result<T, String> {
        let number = number_and_unit(text).and_then(|(number, unit)| {
            let (_, shift) = UNITS.iter().find(|(name, _)| unit.eq_ignore_ascii_case(name))?;
            number.checked_mul(1 << shift).filter(|n| self.0.contains(n))
        });
        number.and_then(|n| T::try_from(n).ok()).ok_or_else(|| match (self.0.start(), self.0.end()) {
            (_, &u64::MAX) => "bytes, such as 8192, 64K, 8M or 1G".into(),
            (low, high) => {
                let show = |number| Value::<u64>::show(self, number);
                format!("bytes from {} to {}, such as 8192, 64K or 8M", show(low), show(high))
            }
        })
    }

    fn show(&self, value: &T) -> String {
        let n = u64::try_from(*value).unwrap_or(u64::MAX);
        let fits = |(_, shift): &&(_, u32)| n >= 1 << shift && n.trailing_zeros() >= *shift;
        UNITS.iter().find(fits).map_or_else(|| n.to_string(), |(unit, shift)| format!("{}{unit}", n >> shift))
    }
}

/// A time, at most a year.
pub struct Time;

impl Value<Duration> for Time {
    fn read(&self, text: &str) -> Result<Duration, String> {
        parse_duration(text)
    }

    fn show(&self, value: &Duration) -> String {
        match value.as_millis() {
            0 => "0".into(),
            ms if ms % 1000 == 0 => format!("{}s", ms / 1000),
            ms => format!("{ms}ms"),
        }
    }
}

/// `auto`, `off` or a time; zero is `off`.
pub struct Deferral;

impl Value<DeferAccept> for Deferral {
    fn read(&self, text: &str) -> Result<DeferAccept, String> {
        match text {
            "auto" => Ok(DeferAccept::Auto),
            "off" => Ok(DeferAccept::Off),
            _ => match parse_duration(text).map_err(|expected| format!("auto, off, or {expected}"))? {
                Duration::ZERO => Ok(DeferAccept::Off),
                time => Ok(DeferAccept::For(time)),
            },
        }
    }

    fn show(&self, value: &DeferAccept) -> String {
        match value {
            DeferAccept::Auto => "auto".into(),
            DeferAccept::Off => "off".into(),
            DeferAccept::For(time) => Time.show(time),
        }
    }
}

/// One of a few words, each with the value that it stands for.
pub struct OneOf<T: 'static>(pub &'static [(&'static str, T)]);

/// `on` or `off`.
pub const SWITCH: OneOf<bool> = OneOf(&[("on", true), ("off", false)]);

impl<T: Copy + PartialEq> Value<T> for OneOf<T> {
    fn read(&self, text: &str) -> Result<T, String> {
        let found = self.0.iter().find(|(word, _)| *word == text);
        found.map(|(_, value)| *value).ok_or_else(|| self.words().join(" or "))
    }

    fn show(&self, value: &T) -> String {
        self.0.iter().find(|(_, v)| v == value).map_or_else(String::new, |(word, _)| (*word).into())
    }

    fn words(&self) -> Vec<&'static str> {
        self.0.iter().map(|(word, _)| *word).collect()
    }
}

/// A value that may be unset, for which there is no text.
pub struct Optional<K>(pub K);

impl<T, K: Value<T>> Value<Option<T>> for Optional<K> {
    fn read(&self, text: &str) -> Result<Option<T>, String> {
        self.0.read(text).map(Some)
    }

    fn show(&self, value: &Option<T>) -> String {
        value.as_ref().map_or_else(String::new, |value| self.0.show(value))
    }

    fn check(&self, value: &Option<T>) -> Result<(), String> {
        value.as_ref().map_or(Ok(()), |value| self.0.check(value))
    }
}

/// The most workers one master runs.
pub const MAX_WORKERS: usize = 1024;

/// A number of workers; `auto` is 0.
pub struct Count;

impl Value<usize> for Count {
    fn read(&self, text: &str) -> Result<usize, String> {
        let text = if text == "auto" { "0" } else { text };
        Number(0..=MAX_WORKERS as u64).read(text).map_err(|expected| format!("auto, or {expected}"))
    }

    fn show(&self, value: &usize) -> String {
        if *value == 0 { "auto".into() } else { value.to_string() }
    }
}

/// Permission bits in octal: `660`, `0660`.
pub struct Mode;

impl Value<u32> for Mode {
    fn read(&self, text: &str) -> Result<u32, String> {
        let mode = u32::from_str_radix(text, 8).ok().filter(|mode| *mode <= 0o777);
        mode.ok_or_else(|| "an octal mode from 0 to 777".into())
    }

    fn show(&self, value: &u32) -> String {
        format!("{value:o}")
    }
}

/// The name of a server, or an empty text for the name of its handler's file. A number would be a process id, and `all` is every
/// server.
pub struct Name;

impl Value<String> for Name {
    fn read(&self, text: &str) -> Result<String, String> {
        let is_number = !text.is_empty() && text.bytes().all(|c| c.is_ascii_digit());
        let begins = !text.starts_with(['-', '+', '.']);
        if text.len() <= 64 && text.chars().all(fits_name) && begins && !is_number && text != "all" {
            return Ok(text.to_owned());
        }
        Err("1 to 64 letters, digits, or any of . _ - + @, beginning with a letter or digit; not a number, and not \"all\"".into())
    }

    fn show(&self, value: &String) -> String {
        value.clone()
    }
}

/// True if the name of a server may contain `c`.
pub fn fits_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || "._-+@".contains(c)
}

/// A list of addresses; each value adds one.
pub struct Addresses;

impl Value<Vec<Listen>> for Addresses {
    fn read(&self, text: &str) -> Result<Vec<Listen>, String> {
        text.parse().map(|address| vec![address])
    }

    fn show(&self, value: &Vec<Listen>) -> String {
        let addresses: Vec<_> = value.iter().map(ToString::to_string).collect();
        if addresses.is_empty() { "127.0.0.1:8080".into() } else { addresses.join(" ") }
    }

    fn set(&self, field: &mut Vec<Listen>, text: &OsStr) -> Result<(), String> {
        field.push(Listen::parse(text)?);
        Ok(())
    }

    fn check(&self, _: &Vec<Listen>) -> Result<(), String> {
        Ok(())
    }
}

/// A directory, whose path may be any bytes.
pub struct Folder;

impl Value<PathBuf> for Folder {
    fn read(&self, text: &str) -> Result<PathBuf, String> {
        Ok(text.into())
    }

    fn show(&self, value: &PathBuf) -> String {
        value.display().to_string()
    }

    fn set(&self, field: &mut PathBuf, text: &OsStr) -> Result<(), String> {
        if text.is_empty() || text.as_encoded_bytes().contains(&0) {
            return Err("a directory".into());
        }
        *field = text.into();
        Ok(())
    }
}

/// Variables, `NAME=VALUE`; each value adds one.
pub struct Variables;

impl Value<Vec<(String, String)>> for Variables {
    fn read(&self, text: &str) -> Result<Vec<(String, String)>, String> {
        let is_name = |name: &str| !name.is_empty() && !name.contains('\0');
        match text.split_once('=') {
            Some((name, value)) if is_name(name) && !value.contains('\0') => {
                template::check(value)?;
                Ok(vec![(name.into(), value.into())])
            }
            _ => Err("NAME=VALUE".into()),
        }
    }

    fn show(&self, value: &Vec<(String, String)>) -> String {
        let all: Vec<_> = value.iter().map(|(name, value)| format!("{name}={value}")).collect();
        all.join(" ")
    }

    fn set(&self, field: &mut Vec<(String, String)>, text: &OsStr) -> Result<(), String> {
        field.extend(self.read(text.to_str().ok_or("UTF-8")?)?);
        Ok(())
    }

    fn check(&self, value: &Vec<(String, String)>) -> Result<(), String> {
        value.iter().try_for_each(|(name, value)| self.read(&format!("{name}={value}")).map(drop))
    }
}

/// A signal by its name, with or without `SIG`; `auto` is 0.
pub struct Signal;

impl Value<i32> for Signal {
    fn read(&self, text: &str) -> Result<i32, String> {
        let name = text.to_ascii_uppercase();
        let full = if name.starts_with("SIG") { name } else { format!("SIG{name}") };
        match signal::number(&full) {
            _ if text == "auto" => Ok(0),
            Some(number) => Ok(number),
            None => Err("auto, or the name of a signal, such as TERM or INT".into()),
        }
    }

    fn show(&self, value: &i32) -> String {
        if *value == 0 { "auto".into() } else { signal::name(*value) }
    }
}

/// Parses a time: `30` and `30s` are seconds; `250ms`, `5m` and `1h` work too.
///
/// # Errors
/// The words for what is expected.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let time = number_and_unit(text).and_then(|(number, unit)| match unit {
        "ms" => Some(number),
        "" | "s" => number.checked_mul(1000),
        "m" => number.checked_mul(60_000),
        "h" => number.checked_mul(3_600_000),
        _ => None,
    });
    time.filter(|ms| *ms <= 365 * 86_400_000)
        .map(Duration::from_millis)
        .ok_or_else(|| "a time, such as 30, 30s, 250ms, 5m or 1h (at most 365 days)".into())
}

/// Splits `64K` into 64 and `K`.
fn number_and_unit(text: &str) -> Option<(u64, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    text[..end].parse().ok().map(|number| (number, &text[end..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANY: Bytes = Bytes(0..=u64::MAX);

    #[test]
    fn sizes_take_binary_suffixes() {
        assert_eq!(ANY.read("8K"), Ok(8192u64));
        assert_eq!(ANY.read("1m"), Ok(1u64 << 20));
        for bad in ["", "K", "-1", "+1", "1.5M", "18446744073709551615G", "1KB"] {
            assert!(Value::<u64>::read(&ANY, bad).is_err(), "{bad}");
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
        for n in [0u64, 1, 1000, 1024, 1536, 8 << 20, 1 << 30] {
            assert_eq!(ANY.read(&ANY.show(&n)), Ok(n));
        }
        for ms in [0, 1, 250, 1000, 75_000] {
            let t = Duration::from_millis(ms);
            assert_eq!(Time.read(&Time.show(&t)), Ok(t));
        }
    }

    #[test]
    fn a_deferral_is_a_word_or_a_time() {
        let read = |text| Deferral.read(text);
        assert_eq!(read("auto"), Ok(DeferAccept::Auto));
        assert_eq!((read("off"), read("0")), (Ok(DeferAccept::Off), Ok(DeferAccept::Off)));
        assert_eq!(read("5"), Ok(DeferAccept::For(Duration::from_secs(5))));
        for text in ["auto", "off", "5s", "1500ms"] {
            assert_eq!(read(text).map(|value| Deferral.show(&value)).as_deref(), Ok(text));
        }
        assert!(read("on").unwrap_err().starts_with("auto, off, or a time"));
    }

    #[test]
    fn a_name_is_no_pid_no_worker_and_no_option() {
        for good in ["", "web", "hello.so", "web-2", "2nd", "a@b_c+d"] {
            assert_eq!(Name.read(good).as_deref(), Ok(good));
        }
        let long = "x".repeat(65);
        for bad in ["7", "all", "a/b", "../x", "-w", "+1", ".hidden", "a b", "a\n", "é", &long] {
            assert!(Name.read(bad).is_err(), "{bad}");
        }
    }
}
