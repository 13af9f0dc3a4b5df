//! The protocol of the control socket: one JSON object per line, in both directions.
//!
//! The master begins with [`Reply::Hello`]. A whole request must arrive within 5 seconds, in at most [`MAX_REQUEST`] bytes, and
//! is answered before the next one is read. Unknown fields of a request are refused, since they may matter; clients ignore
//! unknown fields of a reply, so that later masters can add some. [`VERSION`] changes if either breaks.

pub use crate::event::{
    CodeFile, Connections, Departed, Event, Exit, ReloadFailure, ReloadStage, ReloadState, ServerState,
    Status, WorkerInfo, WorkerState, WorkerStatus,
};
use serde::{Deserialize, Serialize};
use std::time::{SystemTime, UNIX_EPOCH};

/// The version of this protocol.
pub const VERSION: u32 = 1;
/// The most bytes of a request, with its line end.
pub const MAX_REQUEST: usize = 1024;
/// More than the bytes of any reply; the largest is the status of the most workers that a master can have.
pub const MAX_REPLY: usize = 4 * 1024 * 1024;

/// A request to a master.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "verb", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// Show the server and its workers: [`Reply::Status`].
    Status {},
    /// Replace all workers: [`Reply::Accepted`], then [`Reply::Reload`], then, if it is to be waited for, [`Reply::Gone`].
    Reload {
        /// True to wait until the workers that were replaced have ended.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        wait: bool,
    },
    /// Have the file now at the program's path take the master's place, and replace all workers: [`Reply::Accepted`], then
    /// [`Reply::Reload`], on the same connection but from the new program, unless that failed in its trial.
    Upgrade {},
    /// Run more or fewer workers: [`Reply::Accepted`], then [`Reply::Scaled`] when all of them are ready and all others have
    /// ended.
    Scale(Count),
    /// Drain a worker, which is replaced: [`Reply::Accepted`], then [`Reply::Drained`].
    Drain {
        /// Its id.
        worker: u32,
    },
    /// Stop: [`Reply::Accepted`], then [`Reply::Stopped`].
    Stop {
        /// True to stop without waiting for requests in progress.
        #[serde(default)]
        now: bool,
    },
    /// Follow events: [`Reply::Event`] until [`Event::Stopped`]. The first one is [`Event::Setup`], which is also the first one of
    /// another program after an upgrade. A connection that is closed without [`Event::Stopped`]: the master was killed.
    Events {},
}

/// The number of workers to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Count {
    /// A number.
    To(u32),
    /// A number to add, or to remove if it is negative.
    By(i32),
}

/// Reads a request.
///
/// # Errors
/// The reason why the line is no request.
pub fn parse(line: &[u8]) -> Result<Request, String> {
    // The parser quotes the line, which may contain control sequences for the reader's terminal.
    serde_json::from_slice(line).map_err(|e| e.to_string().replace(char::is_control, "?"))
}

/// Appends an object and its line end.
///
/// # Errors
/// Never for the types of this module.
pub fn write_line(line: &impl Serialize, out: &mut Vec<u8>) -> serde_json::Result<()> {
    serde_json::to_writer(&mut *out, line)?;
    out.push(b'\n');
    Ok(())
}

/// A reply of a master.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "kebab-case")]
pub enum Reply {
    /// The introduction of the master, sent when a client connects.
    Hello(Hello),
    /// The server and its workers.
    Status(Box<Status>),
    /// The command is being executed; its outcome follows.
    Accepted {
        /// True if a reload or the start has to end first.
        queued: bool,
    },
    /// The end of the reload or upgrade.
    Reload(Verdict),
    /// The workers that the reload has replaced, or of the generation that it has rolled back, have ended, and all older ones too.
    Gone {
        /// What has become of the connections that they had when they were told to finish.
        connections: Departed,
    },
    /// All workers are ready, and all others have ended.
    Scaled {
        /// The number of workers.
        workers: usize,
    },
    /// The worker has ended.
    Drained {
        /// Its id.
        worker: u32,
        /// How it ended.
        exit: Exit,
        /// True if it did not finish in time and was killed.
        killed: bool,
    },
    /// All workers have ended; the master ends next.
    Stopped {
        /// The number of workers that did not end in time and were killed.
        killed: u32,
        /// The number of connections that workers have ended at their deadline.
        #[serde(default)]
        cut: u64,
    },
    /// An event.
    Event(Stamped),
    /// The request is refused, or its command has failed.
    Error(Refusal),
}

/// The introduction of a master.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// The version of prefork.
    pub prefork: String,
    /// [`VERSION`].
    pub protocol: u32,
    /// The name of the server.
    pub name: String,
    /// The master's process id, as the master sees it.
    pub pid: i32,
}

/// The reason why a request is refused, or its command has failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// The reason for programs.
    pub kind: RefusalKind,
    /// The reason for people.
    pub text: String,
}

/// The classes of [`Refusal`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RefusalKind {
    /// The line is no request. The master closes the connection.
    Usage,
    /// No worker has this id.
    NoSuchWorker,
    /// The command cannot be executed now, or has failed.
    Failed,
    /// This user is not admitted. The master closes the connection.
    Denied,
    /// The master has too many clients, and closes the connection; or too many followers.
    Busy,
    /// The client did not send or read in time. The master closes the connection.
    TooSlow,
    /// A kind that this version does not know.
    #[serde(other)]
    Other,
}

/// The end of a reload or upgrade.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// Committed or rolled back.
    pub outcome: ReloadState,
    /// The generation of the reload; of an upgrade that failed in its trial, the one that serves.
    pub generation: u32,
    /// Why it was rolled back, if it was.
    #[serde(flatten)]
    pub failure: Option<ReloadFailure>,
    /// The file that the code was read from; see [`Event::Reload`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<Box<CodeFile>>,
    /// What it has done with the connections of the workers that it replaced; `None` if it was an upgrade that failed in its trial.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connections: Option<Box<Connections>>,
}

impl Verdict {
    /// The verdict in an event that ends a reload.
    pub(crate) fn of(event: &Event) -> Option<Self> {
        match event {
            Event::Reload { state, generation, failure, code, connections }
                if *state != ReloadState::Started =>
            {
                let (failure, code, connections) = (failure.clone(), code.clone(), connections.clone());
                Some(Self { outcome: *state, generation: *generation, failure, code, connections })
            }
            _ => None,
        }
    }
}

/// An event and its time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stamped {
    /// Milliseconds since 1970-01-01 00:00:00 UTC.
    pub time_ms: u64,
    /// The event.
    #[serde(flatten)]
    pub event: Event,
    /// The number of message events omitted before this one, because the client did not read fast enough.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub left_out: u64,
}

impl Stamped {
    /// An event that happens now.
    pub fn now(event: Event) -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { time_ms: since.as_millis() as u64, event, left_out: 0 }
    }
}

fn is_zero(n: &u64) -> bool {
    *n == 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Bound, Family, Reason};
    use crate::message::MessageKind;
    use proptest::prelude::*;

    fn text(line: &impl Serialize) -> String {
        let mut out = Vec::new();
        write_line(line, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn requests_are_written_as_they_are_read() {
        for (request, line) in [
            (Request::Status {}, r#"{"verb":"status"}"#),
            (Request::Reload { wait: false }, r#"{"verb":"reload"}"#),
            (Request::Reload { wait: true }, r#"{"verb":"reload","wait":true}"#),
            (Request::Upgrade {}, r#"{"verb":"upgrade"}"#),
            (Request::Scale(Count::To(4)), r#"{"verb":"scale","to":4}"#),
            (Request::Scale(Count::By(-1)), r#"{"verb":"scale","by":-1}"#),
            (Request::Drain { worker: 3 }, r#"{"verb":"drain","worker":3}"#),
            (Request::Stop { now: true }, r#"{"verb":"stop","now":true}"#),
            (Request::Events {}, r#"{"verb":"events"}"#),
        ] {
            assert_eq!(text(&request), format!("{line}\n"));
            assert_eq!(parse(line.as_bytes()), Ok(request));
        }
        assert_eq!(parse(br#" { "verb" : "stop" } "#), Ok(Request::Stop { now: false }));
    }

    #[test]
    fn a_line_that_is_no_request_is_refused_with_a_reason_of_one_line() {
        for bad in [
            &b""[..],
            b"reload",
            b"{}",
            b"[]",
            br#"{"verb":"explode"}"#,
            br#"{"verb":"reload","dry-run":true}"#,
            br#"{"verb":"scale"}"#,
            br#"{"verb":"scale","to":-1}"#,
            br#"{"verb":"scale","to":1,"by":1}"#,
            br#"{"verb":"drain","worker":"1"}"#,
            br#"{"verb":"reload"}{"verb":"reload"}"#,
            br#"{"verb":"a\nb\u001b[31m"}"#,
            b"{\"verb\":\"\xff\"}",
        ] {
            let why = parse(bad).unwrap_err();
            assert!(!why.is_empty() && !why.contains(char::is_control), "{why:?}");
        }
        let nested = "[".repeat(MAX_REQUEST);
        assert!(parse(nested.as_bytes()).is_err());
    }

    #[test]
    fn events_have_the_names_of_nodes_cluster() {
        let bound = |text: &str, host: &str, port, family| Bound {
            text: text.into(),
            host: host.into(),
            port,
            family,
        };
        let worker = WorkerInfo { id: 7, slot: 1, generation: 2, pid: 99 };
        let (crash, reload) = (Reason::Crash, Reason::Reload);
        let departed = Departed::default();
        let died = crate::event::Crash {
            callback: "on_request".into(),
            lasted: Some(std::time::Duration::from_millis(12)),
            request: Some("GET /".into()),
            peer: Some("unix".into()),
            address: Some(16),
            backtrace: vec!["f+0x1 (m.so+0x2)".into()],
        };
        let counts = r#"{"moved":0,"handed_over":0,"ended":0,"cut":0,"lost":0}"#;
        let who = r#""worker":{"id":7,"slot":1,"generation":2,"pid":99}"#;
        for (event, line) in [
            (Event::Fork { worker }, format!(r#"{{"event":"fork",{who}}}"#)),
            (Event::Online { worker }, format!(r#"{{"event":"online",{who}}}"#)),
            (
                Event::Listening { worker, address: bound("[::1]:80", "::1", Some(80), Family::V6) },
                format!(r#"{{"event":"listening",{who},"address":"::1","port":80,"type":"6"}}"#),
            ),
            (
                Event::Listening { worker, address: bound("unix:/run/x", "/run/x", None, Family::Unix) },
                format!(r#"{{"event":"listening",{who},"address":"/run/x","type":"unix"}}"#),
            ),
            (
                Event::Listening { worker, address: bound("udp:127.0.0.1:53", "127.0.0.1", Some(53), Family::Udp4) },
                format!(r#"{{"event":"listening",{who},"address":"127.0.0.1","port":53,"type":"udp4"}}"#),
            ),
            (Event::Ready { worker }, format!(r#"{{"event":"ready",{who}}}"#)),
            (Event::Disconnect { worker }, format!(r#"{{"event":"disconnect",{who}}}"#)),
            (
                Event::Exit {
                    worker,
                    exit: Exit::Signal { number: 11, core: true },
                    reason: crash,
                    intended: false,
                    stderr: vec!["a".into(), "b\"".into()],
                    connections: None,
                    crash: Some(Box::new(died)),
                },
                format!(
                    r#"{{"event":"exit",{who},"exit":{{"signal":"SIGSEGV","core":true}},"reason":"crash","intended":false,"stderr":["a","b\""],"crash":{{"callback":"on_request","lasted_ms":12,"request":"GET /","peer":"unix","address":16,"backtrace":["f+0x1 (m.so+0x2)"]}}}}"#
                ),
            ),
            (
                Event::Exit {
                    worker,
                    exit: Exit::Code(0),
                    reason: reload,
                    intended: true,
                    stderr: Vec::new(),
                    connections: Some(Box::new(departed)),
                    crash: None,
                },
                format!(r#"{{"event":"exit",{who},"exit":{{"code":0}},"reason":"reload","intended":true,"connections":{counts}}}"#),
            ),
            (
                Event::Message { worker, kind: MessageKind(5), size: 64 },
                format!(r#"{{"event":"message",{who},"type":5,"size":64}}"#),
            ),
            (
                Event::Gone { generation: 1, connections: departed },
                format!(r#"{{"event":"gone","generation":1,"connections":{counts}}}"#),
            ),
            (Event::Error { text: "no\n".into() }, r#"{"event":"error","text":"no\n"}"#.into()),
            (
                Event::Reload {
                    state: ReloadState::Started,
                    generation: 3,
                    failure: None,
                    code: None,
                    connections: None,
                },
                r#"{"event":"reload","state":"started","generation":3}"#.into(),
            ),
            (
                Event::Reload {
                    state: ReloadState::RolledBack,
                    generation: 3,
                    failure: Some(ReloadFailure {
                        stage: ReloadStage::Canary,
                        reason: "why".into(),
                        worker: Some(7),
                        exit: Some(Exit::Code(3)),
                        stderr: vec!["a".into()],
                    }),
                    code: None,
                    connections: Some(Box::default()),
                },
                r#"{"event":"reload","state":"rolled-back","generation":3,"stage":"canary","reason":"why","worker":7,"exit":{"code":3},"stderr":["a"],"connections":{"moved":0,"handed_over":0,"staying":{"workers":0,"requests":0,"kept_responses":0,"streams":0,"within_ms":null}}}"#
                    .into(),
            ),
        ] {
            assert_eq!(text(&event), line + "\n");
            let reply = Reply::Event(Stamped { time_ms: 1, event, left_out: 0 });
            let mut read: Reply = serde_json::from_str(&text(&reply)).unwrap();
            // The text of an address is not sent.
            if let (Reply::Event(read), Reply::Event(sent)) = (&mut read, &reply)
                && let (Event::Listening { address: read, .. }, Event::Listening { address: sent, .. }) =
                    (&mut read.event, &sent.event)
            {
                read.text.clone_from(&sent.text);
            }
            assert_eq!(read, reply);
        }
    }

    #[test]
    fn additions_of_a_later_version_are_no_error() {
        let reply = r#"{"reply":"event","time_ms":5,"event":"aurora","colour":"green"}"#;
        let stamped = Stamped { time_ms: 5, event: Event::Other, left_out: 0 };
        assert_eq!(serde_json::from_str::<Reply>(reply).unwrap(), Reply::Event(stamped));
        let reply = r#"{"reply":"scaled","workers":3,"more":[1]}"#;
        assert_eq!(serde_json::from_str::<Reply>(reply).unwrap(), Reply::Scaled { workers: 3 });
        let reply = r#"{"reply":"error","kind":"full-moon","text":"x"}"#;
        let refusal = Refusal { kind: RefusalKind::Other, text: "x".into() };
        assert_eq!(serde_json::from_str::<Reply>(reply).unwrap(), Reply::Error(refusal));
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_request_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..MAX_REQUEST)) {
            let _ = parse(&bytes);
        }

        #[test]
        fn almost_requests_are_a_request_or_an_error(line in r#"\{"verb":"(scale|stop|drain)","(to|by|now|worker)":[-0-9a-z"{}\[\]]{0,20}\}"#) {
            if let Ok(request) = parse(line.as_bytes()) {
                prop_assert_eq!(parse(text(&request).as_bytes()), Ok(request));
            }
        }
    }
}
