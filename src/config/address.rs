//! Addresses to listen on, as text and as values.

use std::ffi::OsStr;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::str::FromStr;

/// The most addresses one master listens on.
pub const MAX_LISTENERS: usize = 64;

/// An address to listen on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ListenAddr {
    /// TCP. Port 0 takes a free one.
    Tcp(SocketAddr),
    /// UDP, for a handler that takes datagrams. The workers read from one socket, or from one per slot if
    /// [`crate::Config::accept`] is [`crate::config::Accept::ReusePort`].
    Udp(SocketAddr),
    /// A Unix stream socket. A path that begins with `@` is the name of an abstract one, which has no file (unix(7)): any user's
    /// processes in the same network namespace can connect.
    Unix(PathBuf),
    /// The descriptor of a listening socket, or of one for datagrams, inherited from the process that started this one.
    Fd(u32),
}

/// An address to listen on, and the name by which a handler knows it ([`crate::Worker::serve`]).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Listen {
    /// The name; empty if it has none. Several addresses may have the same.
    pub name: String,
    /// The address.
    pub address: ListenAddr,
}

impl From<ListenAddr> for Listen {
    fn from(address: ListenAddr) -> Self {
        Self { name: String::new(), address }
    }
}

impl FromStr for Listen {
    type Err = String;

    fn from_str(s: &str) -> std::result::Result<Self, String> {
        Self::parse(OsStr::new(s))
    }
}

impl Listen {
    /// Parses `ADDRESS` or `NAME=ADDRESS`, with a path that may be any bytes.
    pub(crate) fn parse(text: &OsStr) -> std::result::Result<Self, String> {
        let bytes = text.as_bytes();
        let is_name =
            |at: &usize| bytes[..*at].iter().all(|b| b.is_ascii_alphanumeric() || b"_-.".contains(b));
        // A path may have the sign too, behind the colon of `unix:`.
        match bytes.iter().position(|b| *b == b'=').filter(is_name) {
            Some(0) => Err("a name in front of =, such as api=127.0.0.1:8080".into()),
            Some(at) => {
                let name = String::from_utf8_lossy(&bytes[..at]).into_owned();
                Ok(Self { name, address: ListenAddr::parse(OsStr::from_bytes(&bytes[at + 1..]))? })
            }
            None => ListenAddr::parse(text).map(Self::from),
        }
    }
}

impl std::fmt::Display for Listen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if !self.name.is_empty() {
            write!(f, "{}=", self.name)?;
        }
        self.address.fmt(f)
    }
}

impl FromStr for ListenAddr {
    type Err = String;

    fn from_str(s: &str) -> std::result::Result<Self, String> {
        Self::parse(OsStr::new(s))
    }
}

impl ListenAddr {
    /// As [`str::parse`], with a path that may be any bytes.
    pub(crate) fn parse(text: &OsStr) -> std::result::Result<Self, String> {
        if let Some(path) = text.as_bytes().strip_prefix(b"unix:") {
            return parse_unix(path).map(Self::Unix);
        }
        let text = text.to_str().ok_or(ADDRESS)?;
        match text.split_once(':') {
            Some(("udp", address)) => parse_inet("udp:", address).map(Self::Udp),
            Some(("fd", number)) => {
                let number = number.parse().ok().filter(|n| *n <= i32::MAX as u32);
                number.map(Self::Fd).ok_or_else(|| "the number of a descriptor, such as fd:3".into())
            }
            _ => parse_inet("", text).map(Self::Tcp),
        }
    }

    /// True for a Unix socket without a file.
    pub(crate) fn is_abstract(&self) -> bool {
        matches!(self, Self::Unix(path) if path.as_os_str().as_bytes().starts_with(b"@"))
    }

    /// True for all addresses of the machine if they include `other`, so that only one of the two can be bound.
    pub(super) fn includes(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Tcp(a), Self::Tcp(b)) | (Self::Udp(a), Self::Udp(b)) => {
                let is_wider = a.ip().is_unspecified() && (a.is_ipv6() || b.is_ipv4());
                a != b && a.port() == b.port() && is_wider
            }
            _ => false,
        }
    }
}

/// The words for what is expected of an address.
const ADDRESS: &str = "HOST:PORT, :PORT, udp: in front of one of these, unix:/path, unix:@name or fd:N";

/// Parses the path of a Unix socket, or `@` and the name of one without a file.
fn parse_unix(path: &[u8]) -> std::result::Result<PathBuf, String> {
    match path {
        // sun_path holds 108 bytes with the final NUL (unix(7)).
        _ if path.len() > 107 => Err("a Unix socket path of at most 107 bytes".into()),
        [] => Err("a path, such as unix:/run/web".into()),
        b"@" => Err("a name, such as unix:@web".into()),
        _ if path.contains(&0) => Err("a path without NUL".into()),
        _ => Ok(OsStr::from_bytes(path).into()),
    }
}

/// Parses `HOST:PORT` with an IP address or `localhost` as host, or without one for all addresses. The scheme before it is for errors.
fn parse_inet(scheme: &str, s: &str) -> std::result::Result<SocketAddr, String> {
    if s.parse::<u16>().is_ok() {
        return Err(format!(
            "an address: {scheme}:{s} is every one of this machine, {scheme}127.0.0.1:{s} is for clients on it"
        ));
    }
    if s.parse::<Ipv6Addr>().is_ok() && !s.rsplit_once(':').is_some_and(|(host, _)| is_ipv6(host)) {
        return Err(format!("an IPv6 address in brackets: {scheme}[{s}]:PORT"));
    }
    let Some((host, port)) = s.rsplit_once(':').filter(|_| !s.ends_with(']')) else {
        return Err(ADDRESS.into());
    };
    let number: u16 = port.parse().map_err(|_| format!("a port from 0 to 65535, found {port:?}"))?;
    match host {
        "" => Ok((Ipv6Addr::UNSPECIFIED, number).into()),
        "localhost" => Ok((Ipv4Addr::LOCALHOST, number).into()),
        _ if is_ipv6(host) => Err(format!("an IPv6 address in brackets: {scheme}[{host}]:{port}")),
        _ => s.parse().map_err(|_| {
            format!("an IP address or localhost (127.0.0.1) in front of :{port}; names are not looked up")
        }),
    }
}

fn is_ipv6(host: &str) -> bool {
    host.parse::<Ipv6Addr>().is_ok()
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
    fn an_address_may_have_a_name() {
        let named =
            |name: &str, address: &str| Ok(Listen { name: name.into(), address: address.parse().unwrap() });
        for (text, name, address) in [
            ("api=127.0.0.1:80", "api", "127.0.0.1:80"),
            ("a.b_c-9=unix:/x=y", "a.b_c-9", "unix:/x=y"),
            ("unix:/x=y", "", "unix:/x=y"),
            ("u=udp:[::1]:53", "u", "udp:[::1]:53"),
        ] {
            let parsed = text.parse::<Listen>();
            assert_eq!(parsed, named(name, address));
            assert_eq!(parsed.unwrap().to_string(), text);
        }
        for bad in ["=127.0.0.1:80", "api=", "a b=127.0.0.1:80", "api=x"] {
            assert!(bad.parse::<Listen>().is_err(), "{bad}");
        }
    }

    #[test]
    fn listen_addresses_are_numeric_or_paths_or_descriptors() {
        assert_eq!("127.0.0.1:80".parse(), Ok(ListenAddr::Tcp(([127, 0, 0, 1], 80).into())));
        assert_eq!(":80".parse(), Ok(ListenAddr::Tcp((Ipv6Addr::UNSPECIFIED, 80).into())));
        assert_eq!("udp:[::1]:53".parse(), Ok(ListenAddr::Udp("[::1]:53".parse().unwrap())));
        assert_eq!("udp::53".parse(), Ok(ListenAddr::Udp((Ipv6Addr::UNSPECIFIED, 53).into())));
        assert_eq!("localhost:80".parse(), Ok(ListenAddr::Tcp(([127, 0, 0, 1], 80).into())));
        assert_eq!("unix:/run/x".parse(), Ok(ListenAddr::Unix("/run/x".into())));
        assert_eq!("unix:@x".parse(), Ok(ListenAddr::Unix("@x".into())));
        let path = OsStr::from_bytes(b"/run/\xff");
        assert_eq!(
            ListenAddr::parse(OsStr::from_bytes(b"unix:/run/\xff")),
            Ok(ListenAddr::Unix(path.into()))
        );
        assert_eq!("fd:3".parse(), Ok(ListenAddr::Fd(3)));
        for bad in [
            "",
            "80",
            "example.org:80",
            "unix:",
            "unix:@",
            "::1",
            "::1:80",
            "80:",
            "127.0.0.1:",
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
}
