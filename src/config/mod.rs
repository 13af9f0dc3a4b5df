//! The settings of a server: each with its default and range, checked once, before anything starts. No I/O here.
//!
//! A setting has one name, the same in [`Config::set`] (which the C API uses) and on the command line. The table of them is in
//! `settings.rs`.

mod settings;
mod value;

use crate::error::{Error, ErrorKind, Result};
pub use settings::{Config, Limits, Setting, Timeouts};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use value::{Name, Value};
pub use value::{parse_duration, parse_size, show_duration};

/// How a worker is chosen for a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Dispatch {
    /// The next worker in turn that has room.
    #[default]
    RoundRobin,
    /// The worker with the fewest connections in flight; in turn among equals.
    LeastConnections,
    /// The worker that the client's IP address falls to, the same one each time; if that one has no room (or is being
    /// replaced), the next in an order that depends on the address. Clients of Unix sockets have no address: in turn.
    SourceHash,
}

/// The process that takes connections off the backlog. Only the master can take back what a worker does not take; the other two
/// spare the master's part of the work, for short connections on many cores.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Accept {
    /// The master, which hands each to a worker.
    #[default]
    Master,
    /// The workers, from one backlog: the first that is free. [`Config::dispatch`] does not matter.
    Shared,
    /// The workers, each from a backlog of its slot's own, among which the kernel spreads the clients (`SO_REUSEPORT`,
    /// socket(7)). The master keeps the backlogs: a dead worker's goes on to its successor. Addresses that cannot be bound
    /// several times, Unix sockets and inherited ones, have one backlog for all as with [`Accept::Shared`].
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
    /// A descriptor that is a listening socket already, inherited from the process that started this one.
    Fd(u32),
}

impl Config {
    /// Sets one setting by the name its command-line option has, from text: `set("max-body", "1M")`.
    ///
    /// Sizes are bytes and take the suffixes K, M and G (powers of 1024); durations are seconds, or take ms, s, m or h.
    /// `listen` adds an address; everything else replaces.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] if there is no such setting, or the value is not in its range; the message says what is.
    pub fn set(&mut self, name: &str, value: &str) -> Result<()> {
        let Some(setting) = Self::settings().find(|s| s.name == name) else {
            let hint = closest(name).map_or_else(String::new, |other| format!("; did you mean \"{other}\"?"));
            return Err(Error::new(ErrorKind::Config, format!("unknown setting \"{name}\"{hint}")));
        };
        (setting.set)(self, value).map_err(|expected| out_of_range(name, value, &expected))
    }

    /// All settings, in the order of help.
    pub fn settings() -> impl Iterator<Item = &'static Setting> {
        settings::all()
    }

    /// Checks the range of each setting, since a program may have set it directly, and what depends on several.
    ///
    /// # Errors
    /// [`ErrorKind::Config`], naming the setting and its range, or the settings that cannot be combined.
    pub fn check(&self) -> Result<()> {
        for setting in Self::settings() {
            (setting.check)(self)
                .map_err(|expected| out_of_range(setting.name, &setting.show(self), &expected))?;
        }
        let rule = |holds: bool, text: &str| {
            if holds { Ok(()) } else { Err(Error::new(ErrorKind::Config, text)) }
        };
        let source_hash = self.dispatch == Dispatch::SourceHash;
        rule(
            self.accept == Accept::Master || !source_hash,
            "--dispatch source-hash needs --accept master: otherwise the kernel spreads the clients",
        )?;
        rule(
            !self.rebalance || !source_hash,
            "--rebalance on cannot be combined with --dispatch source-hash, which gives each client its worker",
        )?;
        rule(
            self.limits.head >= self.limits.line,
            "--max-head must be at least --max-line, which it includes",
        )?;
        rule(self.listen.len() <= MAX_LISTENERS, "listen: at most 64 addresses")?;
        let twice = (1..self.listen.len()).find(|&i| self.listen[..i].contains(&self.listen[i]));
        match twice.map(|i| &self.listen[i]) {
            // Port 0 asks for a free port each time.
            Some(addr) if !matches!(addr, ListenAddr::Tcp(a) | ListenAddr::Udp(a) if a.port() == 0) => {
                Err(Error::new(ErrorKind::Config, format!("listen {addr}: given twice")))
            }
            _ => Ok(()),
        }
    }
}

fn out_of_range(name: &str, value: &str, expected: &str) -> Error {
    Error::new(ErrorKind::Config, format!("{name} = {value:?}: expected {expected}"))
}

/// Returns the setting whose name is meant by a misspelled one: at most two letters are wrong, missing or too many.
fn closest(name: &str) -> Option<&'static str> {
    let close = |s: &Setting| (s.name, distance(name, s.name));
    Config::settings()
        .map(close)
        .filter(|(_, distance)| *distance <= 2)
        .min_by_key(|(_, d)| *d)
        .map(|(name, _)| name)
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

/// Returns the name of a server that was given none: that of its handler's file, with what a name cannot have replaced.
pub(crate) fn name_after(handler: &str) -> String {
    let file = Path::new(handler).file_name().unwrap_or_default().to_string_lossy();
    let fit = |c: char| if c.is_ascii_alphanumeric() || "._-+@".contains(c) { c } else { '_' };
    let name: String = file.chars().map(fit).take(63).collect();
    Name.read(&name).ok().filter(|n| !n.is_empty()).unwrap_or_else(|| format!("_{name}"))
}

impl FromStr for Dispatch {
    type Err = String;

    fn from_str(s: &str) -> std::result::Result<Self, String> {
        match s {
            "round-robin" => Ok(Self::RoundRobin),
            "least-connections" => Ok(Self::LeastConnections),
            "source-hash" => Ok(Self::SourceHash),
            _ => Err("round-robin, least-connections or source-hash".into()),
        }
    }
}

impl std::fmt::Display for Dispatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::RoundRobin => "round-robin",
            Self::LeastConnections => "least-connections",
            Self::SourceHash => "source-hash",
        })
    }
}

impl FromStr for Accept {
    type Err = String;

    fn from_str(s: &str) -> std::result::Result<Self, String> {
        match s {
            "master" => Ok(Self::Master),
            "shared" => Ok(Self::Shared),
            "reuseport" => Ok(Self::ReusePort),
            _ => Err("master, shared or reuseport".into()),
        }
    }
}

impl std::fmt::Display for Accept {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Master => "master",
            Self::Shared => "shared",
            Self::ReusePort => "reuseport",
        })
    }
}

impl FromStr for ListenAddr {
    type Err = String;

    fn from_str(s: &str) -> std::result::Result<Self, String> {
        let expected = || {
            "HOST:PORT with a numeric host, [IPV6]:PORT, :PORT, udp: in front of one of these, unix:/path or fd:N"
                .to_owned()
        };
        if let Some(rest) = s.strip_prefix("udp:") {
            return parse_inet(rest).map(Self::Udp).ok_or_else(expected);
        }
        if let Some(path) = s.strip_prefix("unix:") {
            // sun_path holds 108 bytes with the final NUL (unix(7)).
            return match path.len() {
                1..=107 if !path.contains('\0') => Ok(Self::Unix(path.into())),
                0 => Err(expected()),
                _ => Err("a Unix socket path of at most 107 bytes".into()),
            };
        }
        if let Some(n) = s.strip_prefix("fd:") {
            return n.parse().ok().filter(|n| *n <= i32::MAX as u32).map(Self::Fd).ok_or_else(expected);
        }
        parse_inet(s).map(Self::Tcp).ok_or_else(expected)
    }
}

/// Parses `HOST:PORT` with a numeric host, or `localhost`, or none for all addresses.
fn parse_inet(s: &str) -> Option<SocketAddr> {
    if let Some(port) = s.strip_prefix(':') {
        return Some((std::net::Ipv6Addr::UNSPECIFIED, port.parse().ok()?).into());
    }
    let text = s.strip_prefix("localhost:").map(|port| format!("127.0.0.1:{port}"));
    text.as_deref().unwrap_or(s).parse().ok()
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
        assert_eq!(":80".parse(), Ok(ListenAddr::Tcp((std::net::Ipv6Addr::UNSPECIFIED, 80).into())));
        assert_eq!("udp:[::1]:53".parse(), Ok(ListenAddr::Udp("[::1]:53".parse().unwrap())));
        assert_eq!("udp::53".parse(), Ok(ListenAddr::Udp((std::net::Ipv6Addr::UNSPECIFIED, 53).into())));
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
    fn a_handlers_file_gives_a_name_that_a_name_may_be() {
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
    fn a_refused_setting_says_what_would_do() {
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
            let default = setting.show(&c);
            if !default.is_empty() {
                c.set(setting.name, &default).unwrap();
                assert_eq!(setting.show(&c), default, "{}", setting.name);
            }
            setting.values().iter().for_each(|value| c.set(setting.name, value).unwrap());
        }
    }

    #[test]
    fn a_client_cannot_keep_its_worker_where_workers_accept() {
        let mut c = Config::default();
        c.set("dispatch", "source-hash").unwrap();
        c.check().unwrap();
        for accept in ["shared", "reuseport"] {
            c.set("accept", accept).unwrap();
            assert!(c.check().unwrap_err().to_string().contains("needs --accept master"));
        }
    }

    #[test]
    fn clients_that_keep_their_worker_are_not_spread_anew() {
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
