//! Addresses to listen on, as text and as values.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;

/// The most addresses one master listens on.
pub const MAX_LISTENERS: usize = 64;

/// An address to listen on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListenAddr {
    /// TCP. Port 0 takes a free one.
    Tcp(SocketAddr),
    /// UDP, for a handler that takes datagrams. The workers read from one socket, or from one per slot if
    /// [`crate::Config::accept`] is [`crate::config::Accept::ReusePort`].
    Udp(SocketAddr),
    /// A Unix stream socket.
    Unix(PathBuf),
    /// The descriptor of a listening socket, inherited from the process that started this one.
    Fd(u32),
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
}
