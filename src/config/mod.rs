//! The settings of a server, checked once, before the server starts. No I/O here.
//!
//! A setting has one name, the same in [`Config::set`] (which the C API uses) and on the command line. Their table is in
//! `settings.rs`.

mod settings;
mod value;

use crate::error::{Error, ErrorKind, Result};
pub use settings::{Config, Limits, Setting, Timeouts};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::str::FromStr;
pub use value::parse_duration;
use value::{Name, Value, fits_name};

/// How a worker is chosen for a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Dispatch {
    /// The next worker in turn that has room.
    #[default]
    RoundRobin,
    /// The worker with the fewest connections in flight; in turn among equals.
    LeastConnections,
    /// The worker that the hash of the client's IP address selects, the same one each time; if it has no room or is being replaced,
    /// the next in an order that depends on the address. Clients of Unix sockets have no address: round-robin.
    SourceHash,
}

/// The process that accepts connections. Only a master that does can reclaim those that a worker does not take; the other two save
/// the master's work, for short connections on many cores.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Accept {
    /// The master, which hands each off to a worker.
    #[default]
    Master,
    /// The workers, from one backlog: the first that is free. [`Config::dispatch`] has no effect.
    Shared,
    /// The workers, each from the backlog of its slot, among which the kernel spreads the clients (`SO_REUSEPORT`, socket(7)). The
    /// master keeps the backlogs open, so that a dead worker's successor takes its over. Addresses that cannot be bound several
    /// times, Unix sockets and inherited ones, have one backlog for all, as with [`Accept::Shared`].
    ReusePort,
}

/// An address to listen on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListenAddr {
    /// TCP. Port 0 takes a free one.
    Tcp(SocketAddr),
    /// UDP, for a handler that takes datagrams. The workers read from one socket, or from one per slot if
    /// [`Config::accept`] is [`Accept::ReusePort`].
    Udp(SocketAddr),
    /// A Unix stream socket.
    Unix(PathBuf),
    /// The descriptor of a listening socket, inherited from the process that started this one.
    Fd(u32),
}

impl Config {
    /// Sets one setting by the name of its command-line option, from text: `set("max-body", "1M")`.
    ///
    /// Sizes are bytes and take the suffixes K, M and G (powers of 1024); times are seconds, or take ms, s, m or h. `listen`
    /// adds an address; every other setting replaces its value.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] if there is no such setting, or the value is out of its range, which the message gives.
    pub fn set(&mut self, name: &str, value: &str) -> Result<()> {
        let Some(setting) = Self::settings().find(|s| s.name == name) else {
            let hint = closest(name).map_or_else(String::new, |other| format!("; did you mean \"{other}\"?"));
            return Err(refuse(format!("unknown setting \"{name}\"{hint}")));
        };
        (setting.set)(self, value).map_err(|expected| out_of_range(name, value, &expected))
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
        let mut fixed: Vec<_> = self.listen.iter().filter(is_fixed).collect();
        while let Some(address) = fixed.pop() {
            if fixed.contains(&address) {
                return Err(refuse(format!("listen {address}: given twice")));
            }
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
    let distances = Config::settings().map(|setting| (distance(name, setting.name), setting.name));
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

/// The most workers one master runs.
pub const MAX_WORKERS: usize = 1024;
/// The most addresses one master listens on.
pub const MAX_LISTENERS: usize = 64;

/// Returns the name of a server without one: that of its handler's file, in which `_` replaces each character that a name cannot
/// contain.
pub(crate) fn name_after(handler: &str) -> String {
    let file = Path::new(handler).file_name().unwrap_or_default().to_string_lossy();
    let name: String = file.chars().map(|c| if fits_name(c) { c } else { '_' }).take(63).collect();
    Name.read(&name).ok().filter(|n| !n.is_empty()).unwrap_or_else(|| format!("_{name}"))
}

impl FromStr for ListenAddr {
    type Err = String;

    fn from_str(s: &str) -> std::result::Result<Self, String> {
        let address = match s.split_once(':') {
            Some(("udp", address)) => parse_inet(address).map(Self::Udp),
            // sun_path holds 108 bytes with the final NUL (unix(7)).
            Some(("unix", path)) if path.len() > 107 => {
                return Err("a Unix socket path of at most 107 bytes".into());
            }
            Some(("unix", path)) if !path.is_empty() && !path.contains('\0') => Some(Self::Unix(path.into())),
            Some(("fd", number)) => number.parse().ok().filter(|n| *n <= i32::MAX as u32).map(Self::Fd),
            _ => parse_inet(s).map(Self::Tcp),
        };
        address.ok_or_else(|| {
            "HOST:PORT with a numeric host, [IPV6]:PORT, :PORT, udp: in front of one of these, unix:/path or fd:N"
                .into()
        })
    }
}

/// Parses `HOST:PORT` with a numeric host, or `localhost`, or none for all addresses.
fn parse_inet(s: &str) -> Option<SocketAddr> {
    match s.rsplit_once(':')? {
        ("", port) => Some((Ipv6Addr::UNSPECIFIED, port.parse().ok()?).into()),
        ("localhost", port) => Some((Ipv4Addr::LOCALHOST, port.parse().ok()?).into()),
        _ => s.parse().ok(),
    }
}

impl std::fmt::Display for ListenAddr {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tcp(a) => a.fmt(f),
            Self::Udp(a) => write!(f, "udp:{a}"),
            Self::Unix(p) => write!(f, "unix:{}", p.display()),
            Self::Fd(n) => write!(f, "fd:{n}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listen_addresses_are_numeric_or_paths_or_descriptors() {
        assert_eq!("127.0.0.1:80".parse(), Ok(ListenAddr::Tcp(([127, 0, 0, 1], 80).into())));
        assert_eq!(":80".parse(), Ok(ListenAddr::Tcp((Ipv6Addr::UNSPECIFIED, 80).into())));
        assert_eq!("udp:[::1]:53".parse(), Ok(ListenAddr::Udp("[::1]:53".parse().unwrap())));
        assert_eq!("udp::53".parse(), Ok(ListenAddr::Udp((Ipv6Addr::UNSPECIFIED, 53).into())));
        assert_eq!("unix:/run/x".parse(), Ok(ListenAddr::Unix("/run/x".into())));
        assert_eq!("fd:3".parse(), Ok(ListenAddr::Fd(3)));
        for bad in [
            "",
            "80",
            "example.org:80",
            "unix:",
            "fd:",
            "fd:-1",
            "[::1]",
            "127.0.0.1:70000",
            "udp:",
            "udp:unix:/x",
        ] {
            assert!(bad.parse::<ListenAddr>().is_err(), "{bad}");
        }
    }

    #[test]
    fn the_name_after_a_handlers_file_is_valid() {
        for (handler, name) in [
            ("/srv/web/hello.so", "hello.so"),
            ("built-in", "built-in"),
            ("x/a b\n\u{1b}.so", "a_b__.so"),
            ("x/42", "_42"),
            ("all", "_all"),
            ("../-w", "_-w"),
            (".hidden.so", "_.hidden.so"),
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
