//! What Node's cluster primary and its workers say to each other: JSON, one object a line, on a stream socket; a descriptor comes with the
//! line it belongs to. It is internal to Node (`lib/internal/cluster`, `lib/internal/child_process.js`), so all that is known of it is
//! here. What a worker sends is read in place; the two lines that come for each connection are compared byte by byte.
//!
//! Tested with: Node 20.20. A trial with a simple primary found the same messages in Node 18.20, 22.23, 24.21, 26.10 and Deno 2.9.

use crate::ids::ListenerId;
use crate::sys::socket::Address;
use std::io::Write;

/// What a worker has said in one line.
#[derive(Debug, PartialEq)]
pub enum Said<'a> {
    /// It has the descriptor of the oldest message with one.
    HandleTaken,
    /// It lacks the descriptor of the oldest message that was to have one.
    HandleMissed,
    /// It accepts, or does not accept, the connection of this number.
    Answer {
        /// The number.
        seq: u64,
        /// False if it does not serve that listener any more, or has as many connections as it wants.
        accepted: bool,
    },
    /// Its cluster module runs.
    Online,
    /// It asks for a listener; an answer is due.
    Query(Query),
    /// It listens.
    Listening {
        /// The number of the message, for the answer.
        seq: u64,
    },
    /// It has closed a listener.
    Close(ListenerId),
    /// It is about to end by its own decision; an answer is due.
    Leaves {
        /// The number of the message, for the answer.
        seq: u64,
    },
    /// A message of the program (`process.send`), as JSON.
    Message(&'a str),
    /// An act that is not known here.
    Unknown(String),
}

/// A listener that a worker asks for.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Query {
    /// The number of the message, for the answer.
    pub seq: u64,
    /// The address or path; `None` for all addresses.
    pub address: Option<String>,
    /// The port; negative for a path.
    pub port: i64,
    /// 4 or 6; -1 for a path or a descriptor.
    pub family: i64,
    /// True for datagrams.
    pub datagrams: bool,
    /// A descriptor of the primary; negative if it is none.
    pub fd: i64,
    /// Tells apart several listeners of a worker with the same address.
    pub index: u64,
    /// Flags of libuv.
    pub flags: u64,
    /// What all workers with this listener share, as JSON: the first of them says it.
    pub data: String,
}

/// The flag of libuv for `[::]` without IPv4 (`UV_TCP_IPV6ONLY`).
pub const IPV6_ONLY: u64 = 1;

const TAKEN: &[u8] = br#"{"cmd":"NODE_HANDLE_ACK"}"#;
const MISSED: &[u8] = br#"{"cmd":"NODE_HANDLE_NACK"}"#;
const ACK: &[u8] = br#"{"cmd":"NODE_CLUSTER","ack":"#;
const ACCEPTED: &[u8] = br#","accepted":true}"#;

/// Reads a line of a worker, without its end.
///
/// # Errors
/// What is wrong with it, in a few words.
pub fn read(line: &[u8]) -> Result<Said<'_>, &'static str> {
    if line == TAKEN {
        return Ok(Said::HandleTaken);
    }
    if let Some(number) = line.strip_prefix(ACK).and_then(|rest| rest.strip_suffix(ACCEPTED))
        && let Some(seq) = decimal(number)
    {
        return Ok(Said::Answer { seq, accepted: true });
    }
    if line == MISSED {
        return Ok(Said::HandleMissed);
    }
    json::read(line)
}

fn decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || digits.len() > 15 {
        return None;
    }
    digits.iter().try_fold(0, |sum, digit| match digit {
        b'0'..=b'9' => Some(sum * 10 + u64::from(digit - b'0')),
        _ => None,
    })
}

/// A line to a worker, with its end, in memory of its own: no allocation.
pub struct Line {
    bytes: [u8; 128],
    len: usize,
}

impl Line {
    fn of(text: std::fmt::Arguments<'_>) -> Self {
        let mut line = Self { bytes: [0; 128], len: 0 };
        let mut rest = &mut line.bytes[..];
        // What is written here fits.
        let _ = rest.write_fmt(text);
        line.len = 128 - rest.len();
        line
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

const NEW: &str = "{\"cmd\":\"NODE_HANDLE\",\"type\":\"net.Native\",\"msg\":{\"cmd\":\"NODE_CLUSTER\",\"act\":\"newconn\",\"key\":";
const PROBE: &str = "{\"cmd\":\"NODE_HANDLE\",\"type\":\"net.Native\",\"msg\":{}}\n";

/// The number by which the two know a listener: from 1, since a worker takes 0 for none.
fn key_of(listener: ListenerId) -> u64 {
    u64::from(listener.0) + 1
}

fn listener_of(key: u64) -> Option<ListenerId> {
    u16::try_from(key.checked_sub(1)?).ok().map(ListenerId)
}

/// A connection of a listener, for [`Said::Answer`]; its descriptor comes with it.
pub fn connection(listener: ListenerId, seq: u64) -> Line {
    let key = key_of(listener);
    Line::of(format_args!("{NEW}{key},\"seq\":{seq}}}}}\n"))
}

/// A question that every worker that reads answers by [`Said::HandleMissed`], since no descriptor comes with it. While it is unread, no line
/// with a descriptor may follow: the worker would give that to this one.
pub fn probe() -> Line {
    Line::of(format_args!("{PROBE}"))
}

/// A line of this primary that a worker has not read.
#[derive(Debug, PartialEq, Eq)]
pub enum Unread {
    /// A connection with this number.
    Connection(u64),
    /// A probe.
    Probe,
    /// Anything else.
    Other,
}

/// Reads a line that this primary has written, without its end.
pub fn own(line: &[u8]) -> Unread {
    if line == PROBE.trim_end().as_bytes() {
        return Unread::Probe;
    }
    let number = line.strip_prefix(NEW.as_bytes()).and_then(|rest| rest.strip_suffix(b"}}"));
    let number = number.and_then(|rest| {
        let at = rest.iter().position(|byte| *byte == b',')?;
        decimal(rest[at..].strip_prefix(b",\"seq\":")?)
    });
    number.map_or(Unread::Other, Unread::Connection)
}

/// Asks a worker to close its listeners and its channel, and to end when it has nothing left to do.
pub const DISCONNECT: &[u8] = b"{\"cmd\":\"NODE_CLUSTER\",\"act\":\"disconnect\"}\n";
/// The message of PM2 to a program that is to end.
pub const SHUTDOWN: &[u8] = b"\"shutdown\"\n";
/// The message of a program that is ready, as PM2 wants it.
pub const READY: &str = "\"ready\"";

/// The answer to [`Said::Listening`] and [`Said::Leaves`].
pub fn done(seq: u64) -> Line {
    Line::of(format_args!("{{\"cmd\":\"NODE_CLUSTER\",\"ack\":{seq}}}\n"))
}

/// The answer to a query that fails with this error number.
pub fn refusal(seq: u64, errno: i32) -> Line {
    Line::of(format_args!(
        "{{\"cmd\":\"NODE_CLUSTER\",\"ack\":{seq},\"errno\":{},\"key\":null,\"data\":null}}\n",
        -errno
    ))
}

/// The answer to a query: the listener, its address, and the data of the worker that asked first.
pub fn answer(seq: u64, listener: ListenerId, address: &Address, data: &str) -> Vec<u8> {
    let key = key_of(listener);
    let socket = match address {
        Address::Inet(inet) => format!(
            ",\"sockname\":{{\"address\":\"{}\",\"family\":\"{}\",\"port\":{}}}",
            inet.ip(),
            if inet.is_ipv4() { "IPv4" } else { "IPv6" },
            inet.port()
        ),
        Address::Unix(_) => String::new(),
    };
    format!(
        "{{\"cmd\":\"NODE_CLUSTER\",\"ack\":{seq},\"errno\":null,\"key\":{key},\"data\":{data}{socket}}}\n"
    )
    .into_bytes()
}

#[cfg(feature = "control")]
mod json {
    use super::{Query, Said};
    use serde::Deserialize;
    use serde::de::IgnoredAny;
    use serde_json::Value;
    use std::borrow::Cow;

    /// The fields of all messages of a worker. What its type is, it may not be: it is whatever a program says.
    #[derive(Deserialize)]
    struct Fields<'a> {
        #[serde(borrow, default)]
        act: Option<Cow<'a, str>>,
        #[serde(default)]
        seq: u64,
        ack: Option<u64>,
        #[serde(default)]
        accepted: bool,
        #[serde(default)]
        key: Option<Value>,
        #[serde(default)]
        address: Option<String>,
        #[serde(default)]
        port: Option<i64>,
        #[serde(default, rename = "addressType")]
        kind: Value,
        #[serde(default)]
        fd: Option<i64>,
        #[serde(default)]
        index: u64,
        #[serde(default)]
        flags: Option<u64>,
        #[serde(default)]
        data: Value,
    }

    #[derive(Deserialize)]
    struct Command<'a> {
        #[serde(borrow, default)]
        cmd: Option<Cow<'a, str>>,
    }

    pub fn read(line: &[u8]) -> Result<Said<'_>, &'static str> {
        let text = std::str::from_utf8(line).map_err(|_| "bytes that are no UTF-8")?;
        let message = || {
            serde_json::from_str::<IgnoredAny>(text)
                .map(|_| Said::Message(text))
                .map_err(|_| "a line that is no JSON")
        };
        let command = match serde_json::from_str::<Command<'_>>(text) {
            Ok(Command { cmd: Some(command) }) if command.starts_with("NODE_") => command,
            _ => return message(),
        };
        match &*command {
            "NODE_CLUSTER" => {}
            "NODE_HANDLE_ACK" => return Ok(Said::HandleTaken),
            "NODE_HANDLE_NACK" => return Ok(Said::HandleMissed),
            "NODE_HANDLE" => return Err("a descriptor, which nobody asked for"),
            other => return Ok(Said::Unknown(other.to_owned())),
        }
        let fields: Fields<'_> =
            serde_json::from_str(text).map_err(|_| "a message of NODE_CLUSTER with fields of other types")?;
        let seq = fields.seq;
        if let Some(seq) = fields.ack {
            return Ok(Said::Answer { seq, accepted: fields.accepted });
        }
        Ok(match fields.act.as_deref() {
            Some("online") => Said::Online,
            Some("listening") => Said::Listening { seq },
            Some("exitedAfterDisconnect") => Said::Leaves { seq },
            Some("close") => match fields.key.as_ref().and_then(Value::as_u64).and_then(super::listener_of) {
                Some(listener) => Said::Close(listener),
                None => return Err("the end of a listener that it does not have"),
            },
            Some("queryServer") => {
                let (family, datagrams) = match &fields.kind {
                    Value::String(kind) if kind == "udp4" => (4, true),
                    Value::String(kind) if kind == "udp6" => (6, true),
                    kind => (kind.as_i64().unwrap_or(-1), false),
                };
                Said::Query(Query {
                    seq,
                    address: fields.address,
                    port: fields.port.unwrap_or(-1),
                    family,
                    datagrams,
                    fd: fields.fd.unwrap_or(-1),
                    index: fields.index,
                    flags: fields.flags.unwrap_or(0),
                    data: fields.data.to_string(),
                })
            }
            other => Said::Unknown(other.unwrap_or("no act").to_owned()),
        })
    }
}

#[cfg(not(feature = "control"))]
mod json {
    use super::Said;

    pub fn read(_line: &[u8]) -> Result<Said<'_>, &'static str> {
        Err("JSON, which only the feature `control` reads")
    }
}

#[cfg(all(test, feature = "control"))]
mod tests {
    use super::*;
    use std::net::SocketAddr;

    /// As Node 20.20 has sent them.
    #[test]
    fn what_node_says_is_read() {
        let said = |text: &'static str| read(text.as_bytes()).unwrap();
        assert_eq!(said(r#"{"cmd":"NODE_CLUSTER","act":"online","seq":0}"#), Said::Online);
        assert_eq!(said(r#"{"cmd":"NODE_HANDLE_ACK"}"#), Said::HandleTaken);
        assert_eq!(said(r#"{"cmd":"NODE_HANDLE_NACK"}"#), Said::HandleMissed);
        let query = said(
            r#"{"cmd":"NODE_CLUSTER","act":"queryServer","index":0,"data":null,"address":"127.0.0.1","port":9300,"addressType":4,"flags":0,"backlog":false,"seq":1}"#,
        );
        let expected = Query {
            seq: 1,
            address: Some("127.0.0.1".into()),
            port: 9300,
            family: 4,
            fd: -1,
            data: "null".into(),
            ..Query::default()
        };
        assert_eq!(query, Said::Query(expected.clone()));
        let path = said(
            r#"{"cmd":"NODE_CLUSTER","act":"queryServer","index":0,"data":"ab","address":"/tmp/a \"b\"","port":-1,"addressType":-1,"backlog":511,"seq":2}"#,
        );
        let of_path = Query {
            seq: 2,
            address: Some("/tmp/a \"b\"".into()),
            port: -1,
            family: -1,
            data: "\"ab\"".into(),
            ..expected
        };
        assert_eq!(path, Said::Query(of_path));
        assert_eq!(
            said(r#"{"cmd":"NODE_CLUSTER","ack":7,"accepted":true,"seq":8}"#),
            Said::Answer { seq: 7, accepted: true }
        );
        assert_eq!(
            said(r#"{"cmd":"NODE_CLUSTER","ack":12,"accepted":true}"#),
            Said::Answer { seq: 12, accepted: true }
        );
        assert_eq!(
            said(r#"{"cmd":"NODE_CLUSTER","ack":0,"accepted":false,"seq":8}"#),
            Said::Answer { seq: 0, accepted: false }
        );
        assert_eq!(
            said(r#"{"cmd":"NODE_CLUSTER","act":"close","key":3,"seq":8}"#),
            Said::Close(ListenerId(2))
        );
        assert_eq!(
            said(r#"{"cmd":"NODE_CLUSTER","act":"exitedAfterDisconnect","seq":8}"#),
            Said::Leaves { seq: 8 }
        );
        assert!(matches!(
            said(
                r#"{"cmd":"NODE_CLUSTER","act":"listening","address":null,"port":80,"addressType":4,"seq":5}"#
            ),
            Said::Listening { seq: 5 }
        ));
    }

    #[test]
    fn what_a_program_says_is_a_message() {
        for text in [
            "\"ready\"",
            "7",
            "null",
            r#"{"cmd":7,"port":"x","seq":[]}"#,
            r#"{"a":{"cmd":"NODE_HANDLE"}}"#,
            "[1,2]",
        ] {
            assert_eq!(read(text.as_bytes()), Ok(Said::Message(text)));
        }
    }

    #[test]
    fn what_is_wrong_is_said() {
        for bad in [
            &b""[..],
            b"{",
            b"garbage",
            b"\xff\xfe",
            b"{\"cmd\":\"NODE_CLUSTER\",\"seq\":-1}",
            b"{\"cmd\":\"NODE_HANDLE\"}",
        ] {
            assert!(read(bad).is_err(), "{}", String::from_utf8_lossy(bad));
        }
        assert_eq!(read(br#"{"cmd":"NODE_CLUSTER","act":"dance"}"#), Ok(Said::Unknown("dance".into())));
    }

    #[test]
    fn what_is_written_is_known_again() {
        for (key, seq) in [(0, 0), (63, 12), (u16::MAX, 999_999_999_999)] {
            let line = connection(ListenerId(key), seq);
            assert_eq!(own(line.bytes().strip_suffix(b"\n").unwrap()), Unread::Connection(seq));
        }
        assert_eq!(own(probe().bytes().strip_suffix(b"\n").unwrap()), Unread::Probe);
        assert_eq!(own(DISCONNECT.strip_suffix(b"\n").unwrap()), Unread::Other);
        let inet: SocketAddr = "[::1]:80".parse().unwrap();
        let text = answer(4, ListenerId(1), &Address::Inet(inet), "null");
        let value: serde_json::Value = serde_json::from_slice(&text).unwrap();
        assert_eq!(value["sockname"]["address"], "::1");
        assert_eq!((&value["key"], &value["ack"]), (&2.into(), &4.into()));
        assert!(refusal(u64::MAX, i32::MAX).bytes().ends_with(b"}\n"));
    }
}
