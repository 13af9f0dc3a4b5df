//! What to run: every setting with its default, checked once, before anything starts. No I/O here.
//!
//! One name per setting, the same in [`Config::set`] (which the C API uses) and on the command line.

use crate::error::{Error, ErrorKind, Result};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

/// Everything the master and its workers are told before they start.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Config {
    /// What `prefork ls` and `prefork -n` call this server; empty means the handler's file name, or `built-in`.
    pub name: String,
    /// Whether there is a control socket, in builds that have the feature `control`; in others there is none. See
    /// `prefork::control`.
    pub control: bool,
    /// Worker processes, 1 to 1024; 0 takes as many as there are CPUs this process may use.
    pub workers: usize,
    /// Addresses to listen on; empty means `127.0.0.1:8080`.
    pub listen: Vec<ListenAddr>,
    /// How a worker is chosen for a connection.
    pub dispatch: Dispatch,
    /// Who takes connections off the backlog.
    pub accept: Accept,
    /// Connections the kernel holds per listener until they are accepted (listen(2)); it caps this at `net.core.somaxconn`.
    pub backlog: u32,
    /// Whether accepted TCP connections have `TCP_NODELAY` (tcp(7)).
    pub nodelay: bool,
    /// How long the kernel waits for the first bytes of a TCP connection before it hands it out (`TCP_DEFER_ACCEPT`, whole
    /// seconds); zero hands it out at once.
    pub defer_accept: Duration,
    /// Permission bits of Unix sockets that are made here.
    pub unix_mode: u32,
    /// Connections one worker may have in flight, 1 to 1,000,000. A worker whose handler is in blocking style always has one.
    pub max_conns: u32,
    /// How long a worker may take from its start until it is ready.
    pub boot_timeout: Duration,
    /// How long a draining worker may take to finish what it has before it is killed.
    pub drain_timeout: Duration,
    /// How long one call of a handler may take before its worker counts as hanging: it gets no more, and what waits for it goes to
    /// others, and its handler is told ([`crate::Worker::is_overdue`]); a second later it gets SIGABRT, another second later SIGKILL.
    /// Zero is for ever.
    pub timeout: Duration,
    /// Workers that may start at one time in a reload, 1 to 1024.
    pub surge: usize,
    /// Whether idle connections move to the workers that a scale-up has added, until each has its share. Not with
    /// [`Dispatch::SourceHash`].
    pub rebalance: bool,
    /// Requests (in blocking style: connections) after which a worker is replaced, spread over a tenth more; 0 is never.
    pub max_requests: u64,
    /// Bytes of memory in RAM above which a worker is replaced, looked at once a second; 0 is never.
    pub max_memory: u64,
    /// The life of a worker after which it is replaced; zero is never.
    pub max_age: Duration,
    /// Bytes of one message between processes, 1 KiB to 1 GiB. Four of that size, and 64 KiB, may wait for each process.
    pub max_message: usize,
    /// Whether the master takes the signals that steer it, through signalfd(2) with those signals blocked in its thread. `None`:
    /// [`crate::Server::run`] does, [`crate::Server::start`] leaves them, and SIGPIPE, to its host.
    pub signals: Option<bool>,
    /// What a request may weigh.
    pub limits: Limits,
    /// How long a client may take.
    pub timeouts: Timeouts,
}

/// How a worker is chosen for a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Dispatch {
    /// The next worker in turn that has room.
    #[default]
    RoundRobin,
    /// The worker with the fewest connections in flight; in turn among equals.
    LeastConnections,
    /// The worker that the client's IP address falls to, the same one each time; where that one has no room (or is being
    /// replaced), the next in an order that is the address's own. Clients of Unix sockets have no address: in turn.
    SourceHash,
}

/// Who takes connections off the backlog. Only the master can take back what a worker does not come to; the other two spare its
/// part of the work, for short connections on many cores.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Accept {
    /// The master, which hands each to a worker.
    #[default]
    Master,
    /// The workers, from one backlog: whoever is free. [`Config::dispatch`] has no say in it.
    Shared,
    /// The workers, each from a backlog of its slot's own, among which the kernel spreads the clients (`SO_REUSEPORT`,
    /// socket(7)). The master keeps the backlogs: a dead worker's goes on to its successor. Addresses that cannot be bound
    /// several times, Unix sockets and inherited ones, have one backlog for all as with [`Accept::Shared`].
    ReusePort,
}

/// What a request may weigh. What is over is refused with the status named, and the connection closed.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Bytes of the request line (414).
    pub line: usize,
    /// Bytes of the request line and the header fields together (431).
    pub head: usize,
    /// Number of header fields (431), at most 1000.
    pub headers: usize,
    /// Bytes of a request body (413).
    pub body: u64,
    /// Bytes of a response that may wait in memory for a slow reader before a handler's `write` is refused.
    pub pending: usize,
}

/// How long a client may take. Zero means for ever.
#[derive(Clone, Debug)]
pub struct Timeouts {
    /// From the first byte of a request, or from the start of a connection, to the end of its head (408).
    pub header: Duration,
    /// Between two reads of a request body (408); in blocking style, a read.
    pub body: Duration,
    /// Between two requests of a connection; between two reads of a stream connection.
    pub idle: Duration,
    /// Between two writes that made progress.
    pub write: Duration,
}

/// Where to listen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListenAddr {
    /// TCP. Port 0 takes a free one.
    Tcp(SocketAddr),
    /// UDP, for a handler that takes datagrams. The workers read from one socket, or from one per slot where
    /// [`Config::accept`] is [`Accept::ReusePort`].
    Udp(SocketAddr),
    /// A Unix stream socket.
    Unix(PathBuf),
    /// A descriptor that is a listening socket already, inherited from whoever started this process.
    Fd(u32),
}

impl Default for Config {
    fn default() -> Self {
        Self {
            name: String::new(),
            control: true,
            workers: 0,
            listen: Vec::new(),
            dispatch: Dispatch::default(),
            accept: Accept::default(),
            backlog: 4096,
            nodelay: true,
            defer_accept: Duration::ZERO,
            unix_mode: 0o660,
            max_conns: 10_240,
            boot_timeout: Duration::from_secs(30),
            drain_timeout: Duration::from_secs(30),
            timeout: Duration::ZERO,
            surge: 1,
            rebalance: false,
            max_requests: 0,
            max_memory: 0,
            max_age: Duration::ZERO,
            max_message: 16 * 1024 * 1024,
            signals: None,
            limits: Limits {
                line: 8 * 1024,
                head: 32 * 1024,
                headers: 100,
                body: 8 * 1024 * 1024,
                pending: 16 * 1024 * 1024,
            },
            timeouts: Timeouts {
                header: Duration::from_secs(10),
                body: Duration::from_secs(30),
                idle: Duration::from_secs(75),
                write: Duration::from_secs(30),
            },
        }
    }
}

impl Config {
    /// Sets one setting by the name its command-line option has, from text: `set("max-body", "1M")`.
    ///
    /// Sizes are bytes and take the suffixes K, M and G (powers of 1024); durations are seconds, or take ms, s, m or h.
    /// `listen` adds an address; everything else replaces.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] where the name is unknown or the value does not fit; the message says what would.
    pub fn set(&mut self, name: &str, value: &str) -> Result<()> {
        let bad = |expected: &str| {
            Error::new(ErrorKind::Config, format!("{name} = {value:?}: expected {expected}"))
        };
        let number = |low: u64, high: u64| {
            value
                .parse()
                .ok()
                .filter(|n| (low..=high).contains(n))
                .ok_or_else(|| bad(&format!("a whole number from {low} to {high}")))
        };
        let size = || parse_size(value).map_err(|e| bad(&e));
        let time = || parse_duration(value).map_err(|e| bad(&e));
        match name {
            "name" => self.name = parse_name(value).map_err(|e| bad(&e))?,
            "control" => self.control = parse_switch(value).map_err(|e| bad(&e))?,
            "workers" => self.workers = parse_workers(value).map_err(|e| bad(&e))?,
            "listen" => self.listen.push(value.parse().map_err(|e: String| bad(&e))?),
            "dispatch" => self.dispatch = value.parse().map_err(|e: String| bad(&e))?,
            "accept" => self.accept = value.parse().map_err(|e: String| bad(&e))?,
            "backlog" => self.backlog = number(1, 1 << 20)? as u32,
            "nodelay" => self.nodelay = parse_switch(value).map_err(|e| bad(&e))?,
            "defer-accept" => self.defer_accept = time()?,
            "unix-mode" => self.unix_mode = parse_mode(value).map_err(|e| bad(&e))?,
            "max-conns" => self.max_conns = number(1, 1_000_000)? as u32,
            "boot-timeout" => self.boot_timeout = time()?,
            "drain-timeout" => self.drain_timeout = time()?,
            "timeout" => self.timeout = time()?,
            "surge" => self.surge = number(1, MAX_WORKERS as u64)? as usize,
            "rebalance" => self.rebalance = parse_switch(value).map_err(|e| bad(&e))?,
            "max-requests" => self.max_requests = number(0, u64::MAX)?,
            "max-memory" => self.max_memory = size()?,
            "max-age" => self.max_age = time()?,
            "max-message" => self.max_message = size()? as usize,
            "signals" => self.signals = Some(parse_switch(value).map_err(|e| bad(&e))?),
            "max-line" => self.limits.line = size()? as usize,
            "max-head" => self.limits.head = size()? as usize,
            "max-headers" => self.limits.headers = number(1, 1000)? as usize,
            "max-body" => self.limits.body = size()?,
            "max-pending" => self.limits.pending = size()? as usize,
            "header-timeout" => self.timeouts.header = time()?,
            "body-timeout" => self.timeouts.body = time()?,
            "idle-timeout" => self.timeouts.idle = time()?,
            "write-timeout" => self.timeouts.write = time()?,
            _ => return Err(Error::new(ErrorKind::Config, format!("{name}: no such setting"))),
        }
        Ok(())
    }

    /// Checks what no single setting can tell by itself.
    ///
    /// # Errors
    /// [`ErrorKind::Config`], naming the setting and the range it must be in.
    pub fn check(&self) -> Result<()> {
        let rule = |holds: bool, text: &str| {
            if holds { Ok(()) } else { Err(Error::new(ErrorKind::Config, text)) }
        };
        rule(
            self.name.is_empty() || parse_name(&self.name).is_ok(),
            "name: expected 1 to 64 letters, digits, or any of . _ - + @, and neither a number nor \"all\"",
        )?;
        rule(self.workers <= MAX_WORKERS, "workers: expected at most 1024 (or 0 for one per CPU)")?;
        rule((1..=MAX_WORKERS).contains(&self.surge), "surge: expected 1 to 1024")?;
        rule(
            self.accept == Accept::Master || self.dispatch != Dispatch::SourceHash,
            "dispatch source-hash: expected accept master; otherwise the kernel spreads the clients",
        )?;
        rule(
            !self.rebalance || self.dispatch != Dispatch::SourceHash,
            "rebalance: expected another dispatch than source-hash, where each client has its worker",
        )?;
        rule((1..=1_000_000).contains(&self.max_conns), "max-conns: expected 1 to 1000000")?;
        rule((1 << 10..=1 << 30).contains(&self.max_message), "max-message: expected 1K to 1G")?;
        rule(
            self.limits.line >= 64,
            "max-line: expected at least 64 bytes, the shortest request lines need them",
        )?;
        rule(
            self.limits.head >= self.limits.line,
            "max-head: expected at least max-line, which it includes",
        )?;
        rule(self.limits.head <= 1 << 20, "max-head: expected at most 1M")?;
        rule((1..=1000).contains(&self.limits.headers), "max-headers: expected 1 to 1000")?;
        rule(self.limits.body <= 1 << 40, "max-body: expected at most 1024G")?;
        rule(self.unix_mode <= 0o777, "unix-mode: expected an octal mode from 0 to 777")?;
        rule(self.listen.len() <= MAX_LISTENERS, "listen: expected at most 64 addresses")?;
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

/// The most workers one master runs.
pub const MAX_WORKERS: usize = 1024;
/// The most addresses one master listens on.
pub const MAX_LISTENERS: usize = 64;

/// Parses what a server is called: 1 to 64 letters, digits, or any of `. _ - + @`, not all of them digits, for that would be a
/// process id; and not `all`. Nothing at all leaves the choice to the handler.
///
/// # Errors
/// What was expected.
pub fn parse_name(s: &str) -> std::result::Result<String, String> {
    let fits = |c: char| c.is_ascii_alphanumeric() || "._-+@".contains(c);
    let is_number = !s.is_empty() && s.chars().all(|c| c.is_ascii_digit());
    if s.len() <= 64 && s.chars().all(fits) && !is_number && s != "all" && !s.starts_with(['-', '+', '.']) {
        return Ok(s.to_owned());
    }
    Err("1 to 64 letters, digits, or any of . _ - + @, beginning with a letter or digit; not a number, and not \"all\"".into())
}

/// What a server is called that was given no name: after its handler's file, with what a name cannot have replaced.
pub(crate) fn name_after(handler: &str) -> String {
    let file = Path::new(handler).file_name().unwrap_or_default().to_string_lossy();
    let fit = |c: char| if c.is_ascii_alphanumeric() || "._-+@".contains(c) { c } else { '_' };
    let name: String = file.chars().map(fit).take(63).collect();
    parse_name(&name).ok().filter(|n| !n.is_empty()).unwrap_or_else(|| format!("_{name}"))
}

/// Parses a worker count: `auto` and `0` are 0.
///
/// # Errors
/// What was expected.
pub fn parse_workers(s: &str) -> std::result::Result<usize, String> {
    if s == "auto" {
        return Ok(0);
    }
    s.parse()
        .ok()
        .filter(|n| *n <= MAX_WORKERS)
        .ok_or_else(|| "auto, or a whole number from 0 to 1024".into())
}

/// Parses bytes: `8192`, `8K`, `1M`, `2G`.
///
/// # Errors
/// What was expected.
pub fn parse_size(s: &str) -> std::result::Result<u64, String> {
    let (digits, unit) = match s.as_bytes().last() {
        Some(b'k' | b'K') => (&s[..s.len() - 1], 1 << 10),
        Some(b'm' | b'M') => (&s[..s.len() - 1], 1 << 20),
        Some(b'g' | b'G') => (&s[..s.len() - 1], 1 << 30),
        _ => (s, 1),
    };
    let value = digits.parse::<u64>().ok().filter(|_| digits.as_bytes()[0].is_ascii_digit());
    value.and_then(|n| n.checked_mul(unit)).ok_or_else(|| "bytes, such as 8192, 64K, 8M or 1G".into())
}

/// Parses a time: `30` and `30s` are seconds; `250ms`, `5m` and `1h` work too.
///
/// # Errors
/// What was expected.
pub fn parse_duration(s: &str) -> std::result::Result<Duration, String> {
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

/// Parses permission bits in octal: `660`, `0660`.
///
/// # Errors
/// What was expected.
pub fn parse_mode(s: &str) -> std::result::Result<u32, String> {
    u32::from_str_radix(s, 8).ok().filter(|m| *m <= 0o777).ok_or_else(|| "an octal mode from 0 to 777".into())
}

/// Parses `on` or `off`.
///
/// # Errors
/// What was expected.
pub fn parse_switch(s: &str) -> std::result::Result<bool, String> {
    match s {
        "on" | "true" | "yes" | "1" => Ok(true),
        "off" | "false" | "no" | "0" => Ok(false),
        _ => Err("on or off".into()),
    }
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

/// `HOST:PORT` with a numeric host, or `localhost`, or none for all addresses.
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
    fn a_name_can_be_told_from_a_pid_a_worker_and_an_option() {
        for good in ["", "web", "hello.so", "web-2", "2nd", "a@b_c+d"] {
            assert_eq!(parse_name(good).as_deref(), Ok(good));
        }
        let long = "x".repeat(65);
        for bad in ["7", "all", "a/b", "../x", "-w", "+1", ".hidden", "a b", "a\n", "é", &long] {
            assert!(parse_name(bad).is_err(), "{bad}");
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
            assert!(parse_name(name).is_ok(), "{name}");
        }
        assert_eq!(name_after(&"é".repeat(200)).len(), 63);
    }

    #[test]
    fn a_refused_setting_says_what_would_do() {
        let mut c = Config::default();
        let text = c.set("max-headers", "many").unwrap_err().to_string();
        assert_eq!(text, "max-headers = \"many\": expected a whole number from 1 to 1000");
        assert!(c.set("colour", "red").unwrap_err().to_string().contains("no such setting"));
    }

    #[test]
    fn a_client_cannot_keep_its_worker_where_workers_accept() {
        let mut c = Config::default();
        c.set("dispatch", "source-hash").unwrap();
        c.check().unwrap();
        for accept in ["shared", "reuseport"] {
            c.set("accept", accept).unwrap();
            assert!(c.check().unwrap_err().to_string().contains("expected accept master"));
        }
    }

    #[test]
    fn clients_that_keep_their_worker_are_not_spread_anew() {
        let mut c = Config::default();
        c.set("rebalance", "on").unwrap();
        c.check().unwrap();
        c.set("dispatch", "source-hash").unwrap();
        assert!(c.check().unwrap_err().to_string().contains("expected another dispatch"));
    }

    #[test]
    fn defaults_are_consistent() {
        Config::default().check().unwrap();
    }
}
