//! The settings of a server, checked once, before the server starts. No I/O here.
//!
//! A setting has one name, the same in [`Config::set`] (which the C API uses) and on the command line. Their table is in
//! `settings.rs`.

mod address;
mod settings;
pub(crate) mod template;
mod value;

use crate::error::{Error, ErrorKind, Result};
pub use address::{Listen, ListenAddr, MAX_LISTENERS};
pub use settings::{
    Accept, Config, DeferAccept, Dispatch, Limits, LogLevel, LogTime, Protocol, Ready, Scheduling, Setting,
    Timeouts, WorkerExit,
};
use std::ffi::OsStr;
use std::path::Path;
pub use value::{MAX_WORKERS, parse_duration};
use value::{Name, Value, fits_name};

impl Config {
    /// Sets one setting by the name of its command-line option, from text: `set("max-body", "1M")`.
    ///
    /// Sizes are bytes and take the suffixes K, M and G (powers of 1024); times are seconds, or take ms, s, m or h.
    /// `listen` adds an address, whose path may be any bytes; every other setting replaces its value.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] if there is no such setting, or the value is out of its range, which the message gives.
    pub fn set(&mut self, name: &str, value: impl AsRef<OsStr>) -> Result<()> {
        let Some(setting) = Self::settings().find(|s| s.name == name) else {
            let hint = closest(name).map_or_else(String::new, |other| format!("; did you mean \"{other}\"?"));
            return Err(refuse(format!("unknown setting \"{name}\"{hint}")));
        };
        let value = value.as_ref();
        (setting.set)(self, value).map_err(|expected| out_of_range(name, &value.to_string_lossy(), &expected))
    }

    /// Checks the range of each setting, since a program may have set it directly, and which settings can be combined.
    ///
    /// # Errors
    /// [`ErrorKind::Config`], naming the setting and its range, or the settings that cannot be combined.
    pub fn check(&self) -> Result<()> {
        for setting in Self::settings() {
            (setting.check)(self)
                .map_err(|expected| out_of_range(setting.name, &(setting.show)(self), &expected))?;
        }
        let source_hash = self.dispatch == Dispatch::SourceHash;
        for (refused, why) in [
            (
                self.accept != Accept::Master && source_hash,
                "--dispatch source-hash needs --accept master: otherwise the kernel spreads the clients",
            ),
            (
                self.rebalance && source_hash,
                "--rebalance on cannot be combined with --dispatch source-hash, which gives each client its worker",
            ),
            (
                self.limits.head < self.limits.line,
                "--max-head must be at least --max-line, which it includes",
            ),
        ] {
            if refused {
                return Err(refuse(why));
            }
        }
        if self.listen.len() > MAX_LISTENERS {
            return Err(refuse(format!("listen: at most {MAX_LISTENERS} addresses")));
        }
        // Port 0 is another free port each time.
        let is_fixed =
            |a: &&ListenAddr| !matches!(a, ListenAddr::Tcp(a) | ListenAddr::Udp(a) if a.port() == 0);
        let addresses = || self.listen.iter().map(|listen| &listen.address);
        let mut fixed: Vec<_> = addresses().filter(is_fixed).collect();
        while let Some(address) = fixed.pop() {
            if fixed.contains(&address) {
                return Err(refuse(format!("listen {address}: given twice")));
            }
            if let Some(wide) = addresses().find(|other| other.includes(address)) {
                return Err(refuse(format!(
                    "listen {address}: {wide} includes it; leave out one of the two"
                )));
            }
        }
        let mut paths = addresses().filter(|a| matches!(a, ListenAddr::Unix(_))).peekable();
        let default = Self::default().unix_mode;
        if let Some(first) = paths.peek().copied()
            && self.unix_mode != default
            && paths.all(ListenAddr::is_abstract)
        {
            let text = format!("--unix-mode has no effect on {first}: an abstract socket has no permissions");
            return Err(refuse(text));
        }
        Ok(())
    }
}

fn refuse(why: impl Into<String>) -> Error {
    Error::new(ErrorKind::Config, why)
}

fn out_of_range(name: &str, value: &str, expected: &str) -> Error {
    refuse(format!("{name} = {value:?}: expected {expected}"))
}

/// Returns the setting that a misspelled name is closest to, if at most two letters are wrong, missing or too many.
fn closest(name: &str) -> Option<&'static str> {
    // As a variable or an option.
    let name = name.trim_start_matches('-').to_ascii_lowercase().replace('_', "-");
    let distances = Config::settings().map(|setting| (distance(&name, setting.name), setting.name));
    distances.min().filter(|(distance, _)| *distance <= 2).map(|(_, name)| name)
}

/// Returns the number of bytes to change, add or remove to make one text of the other (Levenshtein's distance).
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.bytes().enumerate() {
            let changed = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = changed.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

/// Returns the name of a server without one: that of its handler's file without `.so` and a version behind it. `_`
/// replaces each character that a name cannot contain.
pub(crate) fn name_after(handler: &str) -> String {
    let file = Path::new(handler).file_name().unwrap_or_default().to_string_lossy();
    let is_version = |text: &str| text.chars().all(|c| c.is_ascii_digit() || c == '.');
    let stem = file.rsplit_once(".so").filter(|(stem, rest)| !stem.is_empty() && is_version(rest));
    let stem = stem.map_or(&*file, |(stem, _)| stem);
    let name: String = stem.chars().map(|c| if fits_name(c) { c } else { '_' }).take(63).collect();
    Name.read(&name).ok().filter(|n| !n.is_empty()).unwrap_or_else(|| format!("_{name}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_after_a_handlers_file_is_valid() {
        for (handler, name) in [
            ("/srv/web/hello.so", "hello"),
            ("libweb.so.1.2", "libweb"),
            ("web.v2.so", "web.v2"),
            ("a.so.conf", "a.so.conf"),
            (".so", "_.so"),
            ("/usr/bin/web-app", "web-app"),
            ("x/a b\n\u{1b}.so", "a_b__"),
            ("x/42", "_42"),
            ("x/42.so", "_42"),
            ("all", "_all"),
            ("../-w", "_-w"),
            (".hidden.so", "_.hidden"),
            ("", "_"),
        ] {
            assert_eq!(name_after(handler), name);
            assert!(Name.read(name).is_ok(), "{name}");
        }
        assert_eq!(name_after(&"é".repeat(200)).len(), 63);
    }

    #[test]
    fn a_refused_setting_says_what_is_expected() {
        let mut c = Config::default();
        let text = c.set("max-headers", "many").unwrap_err().to_string();
        assert_eq!(text, "max-headers = \"many\": expected a whole number from 1 to 1000");
        let unknown = |c: &mut Config, name| c.set(name, "1s").unwrap_err().to_string();
        assert_eq!(unknown(&mut c, "colour"), "unknown setting \"colour\"");
        assert_eq!(
            unknown(&mut c, "drain-timout"),
            "unknown setting \"drain-timout\"; did you mean \"drain-timeout\"?"
        );
        for (name, meant) in [("--workers", "workers"), ("MAX_BODY", "max-body"), ("wrokers", "workers")] {
            assert!(unknown(&mut c, name).ends_with(&format!("did you mean \"{meant}\"?")), "{name}");
        }
        c.set("max-line", "32").unwrap_err();
        c.limits.line = 32;
        let text = c.check().unwrap_err().to_string();
        assert_eq!(text, "max-line = \"32\": expected bytes from 64 to 1M, such as 8192, 64K or 8M");
    }

    #[test]
    fn every_default_is_read_as_it_is_shown_and_every_value_offered_is_accepted() {
        for setting in Config::settings() {
            let mut c = Config::default();
            let default = (setting.show)(&c);
            if !default.is_empty() {
                c.set(setting.name, &default).unwrap();
                assert_eq!((setting.show)(&c), default, "{}", setting.name);
            }
            (setting.words)().iter().for_each(|value| c.set(setting.name, value).unwrap());
        }
    }

    #[test]
    fn source_hash_needs_a_master_that_accepts() {
        let mut c = Config::default();
        c.set("dispatch", "source-hash").unwrap();
        c.check().unwrap();
        for accept in ["shared", "reuseport"] {
            c.set("accept", accept).unwrap();
            assert!(c.check().unwrap_err().to_string().contains("needs --accept master"));
        }
    }

    #[test]
    fn source_hash_cannot_be_combined_with_rebalance() {
        let mut c = Config::default();
        c.set("rebalance", "on").unwrap();
        c.check().unwrap();
        c.set("dispatch", "source-hash").unwrap();
        assert!(
            c.check().unwrap_err().to_string().contains("cannot be combined with --dispatch source-hash")
        );
    }

    #[test]
    fn defaults_are_consistent() {
        Config::default().check().unwrap();
    }
}
