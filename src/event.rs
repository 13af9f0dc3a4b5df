//! Workers and their ends, events, status: the public nouns, defined once for Rust, C, the log and the control socket, whose
//! JSON is serde's of these types (feature `control`).

mod connections;
mod crash;

use crate::message::MessageKind;
pub use crate::sys::process::Exit;
pub use connections::{Connections, Departed, Staying};
pub use crash::Crash;
#[cfg(feature = "control")]
use serde::{Deserialize, Serialize};
use std::fmt;
use std::time::{Duration, SystemTime};

/// Defines an enum whose values have the same names in Rust, in C, in the log and in JSON.
macro_rules! named {
    ($(
        $(#[$attribute:meta])*
        pub enum $type:ident { $($(#[$doc:meta])* $value:ident $(= $number:literal)? => $name:literal,)* }
    )*) => {$(
        $(#[$attribute])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[cfg_attr(feature = "control", derive(Serialize, Deserialize))]
        #[non_exhaustive]
        pub enum $type {$(
            $(#[$doc])*
            #[cfg_attr(feature = "control", serde(rename = $name))]
            $value $(= $number)?,
        )*}

        impl $type {
            /// All values.
            #[allow(dead_code, reason = "not each type is read back")]
            pub(crate) const ALL: &[Self] = &[$(Self::$value),*];

            /// The name of the value.
            pub fn name(self) -> &'static str {
                match self { $(Self::$value => $name,)* }
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.name())
            }
        }
    )*};
}

/// The identity of a worker.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "control", derive(Serialize, Deserialize))]
#[non_exhaustive]
pub struct WorkerInfo {
    /// Its number, from 1; no other worker of the master has had it.
    pub id: u32,
    /// The index of its place, from 0; its successor has the same.
    pub slot: u32,
    /// The start (1) or reload that it belongs to.
    pub generation: u32,
    /// Its process id.
    pub pid: i32,
}

/// Something that happened, reported in the master ([`crate::Server::on_event`]), with the names of Node's `cluster` if it has one.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(
    feature = "control",
    derive(Serialize, Deserialize),
    serde(tag = "event", rename_all = "kebab-case")
)]
#[non_exhaustive]
pub enum Event {
    /// The addresses are bound; the first workers follow. On the control socket: the state of the server when the stream begins.
    #[non_exhaustive]
    Setup {
        /// The name of the server.
        name: String,
        /// The generation that serves.
        generation: u32,
        /// The number of workers wanted.
        workers: usize,
        /// The addresses bound.
        addresses: Vec<String>,
    },
    /// A worker was forked.
    #[non_exhaustive]
    Fork {
        /// The worker.
        worker: WorkerInfo,
    },
    /// A worker runs.
    #[non_exhaustive]
    Online {
        /// The worker.
        worker: WorkerInfo,
    },
    /// A worker serves connections of an address.
    #[non_exhaustive]
    Listening {
        /// The worker.
        worker: WorkerInfo,
        /// The address.
        #[cfg_attr(feature = "control", serde(flatten))]
        address: Bound,
    },
    /// A worker can serve.
    #[non_exhaustive]
    Ready {
        /// The worker.
        worker: WorkerInfo,
    },
    /// A worker gets no more connections, on purpose, and finishes what it has.
    #[non_exhaustive]
    Disconnect {
        /// The worker.
        worker: WorkerInfo,
    },
    /// A worker has ended and was reaped.
    #[non_exhaustive]
    Exit {
        /// The worker.
        worker: WorkerInfo,
        /// The way it ended.
        exit: Exit,
        /// The reason.
        reason: Reason,
        /// True if the master wanted it to end (Node: `exitedAfterDisconnect`).
        intended: bool,
        /// The last lines of its standard error, if it ended before it could serve, or before its reload was committed: at most 20
        /// of them and 4 KiB.
        #[cfg_attr(feature = "control", serde(default, skip_serializing_if = "Vec::is_empty"))]
        stderr: Vec<String>,
        /// What has become of the connections that it had when it was told to finish; `None` if it was not.
        #[cfg_attr(feature = "control", serde(default, skip_serializing_if = "Option::is_none"))]
        connections: Option<Box<Departed>>,
        /// What it was doing, if it died in a call of its handler or by the signal of a fault.
        #[cfg_attr(feature = "control", serde(default, skip_serializing_if = "Option::is_none"))]
        crash: Option<Box<Crash>>,
    },
    /// The last worker of a generation that was replaced, or rolled back, has ended.
    #[non_exhaustive]
    Gone {
        /// The generation.
        generation: u32,
        /// What has become of the connections that its workers had when they were told to finish.
        connections: Departed,
    },
    /// A worker has been in one call of its handler for longer than [`crate::Config::timeout`]; SIGABRT follows in a second.
    #[non_exhaustive]
    Hang {
        /// The worker.
        worker: WorkerInfo,
    },
    /// A worker has sent the master a message; [`crate::Server::on_message`], called next, has its bytes.
    #[non_exhaustive]
    Message {
        /// The worker.
        worker: WorkerInfo,
        /// The type of the message, which is the worker's to choose.
        #[cfg_attr(feature = "control", serde(rename = "type"))]
        kind: MessageKind,
        /// Its length (bytes).
        size: usize,
    },
    /// Something went wrong that cost no connection.
    #[non_exhaustive]
    Error {
        /// The fault in words.
        text: String,
    },
    /// A reload began or ended.
    #[non_exhaustive]
    Reload {
        /// The state it has reached.
        state: ReloadState,
        /// Its generation.
        generation: u32,
        /// The reason of the failure, if it was rolled back.
        #[cfg_attr(feature = "control", serde(flatten))]
        failure: Option<ReloadFailure>,
        /// The file that the code was read from: the module, or the program of a handler in it. `None` at the start, and if it could
        /// not be read. Unless it is a module, [`CodeFile::changed`] says that workers run older code than the file has, and that an
        /// upgrade takes it.
        #[cfg_attr(feature = "control", serde(default, skip_serializing_if = "Option::is_none"))]
        code: Option<Box<CodeFile>>,
        /// What has become of the connections of the workers that it replaced, at its end. `None` at the start.
        #[cfg_attr(feature = "control", serde(default, skip_serializing_if = "Option::is_none"))]
        connections: Option<Box<Connections>>,
    },
    /// The run is over: the last worker was reaped.
    #[non_exhaustive]
    Stopped {
        /// Workers that had to be killed because they did not end by themselves after [`crate::Config::drain_timeout`].
        killed: u32,
        /// Connections that workers have ended at that time.
        #[cfg_attr(feature = "control", serde(default))]
        cut: u64,
    },
    /// An event that this version does not know, from the control socket of a later one.
    #[cfg_attr(feature = "control", serde(other))]
    Other,
}

/// The number of an event in `enum prefork_event_type` of C, its name there and on the command line, and its worker if it is
/// about one: the row of each event, for `&Event` and for `&mut Event`.
macro_rules! row {
    ($event:expr) => {
        match $event {
            Event::Other => (0, "other", None),
            Event::Setup { .. } => (1, "setup", None),
            Event::Fork { worker } => (2, "fork", Some(worker)),
            Event::Online { worker } => (3, "online", Some(worker)),
            Event::Listening { worker, .. } => (4, "listening", Some(worker)),
            Event::Ready { worker } => (5, "ready", Some(worker)),
            Event::Disconnect { worker } => (6, "disconnect", Some(worker)),
            Event::Exit { worker, .. } => (7, "exit", Some(worker)),
            Event::Hang { worker } => (8, "hang", Some(worker)),
            Event::Error { .. } => (9, "error", None),
            Event::Reload { state: ReloadState::Started, .. } => (10, "reload started", None),
            Event::Reload { state: ReloadState::Committed, .. } => (11, "reload committed", None),
            Event::Reload { state: ReloadState::RolledBack, .. } => (12, "reload rolled back", None),
            Event::Stopped { .. } => (13, "stopped", None),
            Event::Message { worker, .. } => (14, "message", Some(worker)),
            Event::Gone { .. } => (15, "gone", None),
        }
    };
}

impl Event {
    /// The name of the event in C and on the command line.
    pub fn name(&self) -> &'static str {
        self.row().1
    }

    /// The number in `enum prefork_event_type` of C, the name, and the worker.
    pub(crate) fn row(&self) -> (u32, &'static str, Option<&WorkerInfo>) {
        row!(self)
    }

    /// The worker, if the event is about one.
    pub fn worker(&self) -> Option<&WorkerInfo> {
        self.row().2
    }

    /// The worker, for the master to fill in: the lifecycle does not know process ids.
    pub(crate) fn worker_mut(&mut self) -> Option<&mut WorkerInfo> {
        let (_, _, worker) = row!(self);
        worker
    }
}

named! {
    /// The reason why a worker ended. The numbers are those of `enum prefork_reason` in C.
    pub enum Reason {
        /// It crashed, or exited without being asked to.
        Crash = 1 => "crash",
        /// It was not ready in time, or ended before it was.
        BootFailure = 2 => "boot failure",
        /// A new generation took its place, or its generation was rolled back.
        Reload = 3 => "reload",
        /// Fewer workers are wanted.
        Scale = 4 => "scale",
        /// It was drained on request.
        Drain = 5 => "drain",
        /// It left by itself.
        Left = 6 => "left",
        /// It had not ended at its deadline and was killed.
        DrainTimeout = 7 => "drain timeout",
        /// It hung in its handler and was killed.
        Hang = 8 => "hang",
        /// It had served enough, or grown too large or too old.
        Recycle = 9 => "recycle",
        /// It ended by a signal that was sent to it through the master.
        Killed = 10 => "killed",
        /// The server stops.
        Stop = 11 => "stop",
    }

    /// A stage of a reload. The numbers are those of `enum prefork_stage` in C.
    pub enum ReloadStage {
        /// The program of an upgrade is tried. Not the stage of a reload.
        Trial = 4 => "trial",
        /// The handler's file is read.
        Preparing = 1 => "preparing",
        /// The first new worker starts.
        Canary = 2 => "canary",
        /// New workers take the places of the old ones.
        Rolling = 3 => "rolling",
    }

    /// The types of addresses, named as in Node's `cluster`.
    pub enum Family {
        /// TCP over IPv4.
        V4 => "4",
        /// TCP over IPv6.
        V6 => "6",
        /// A Unix stream socket.
        Unix => "unix",
        /// UDP over IPv4.
        Udp4 => "udp4",
        /// UDP over IPv6.
        Udp6 => "udp6",
    }

    /// The states of a server.
    pub enum ServerState {
        /// Not all of the first workers are ready.
        Starting => "starting",
        /// All workers serve.
        Serving => "serving",
        /// Fewer workers serve than are wanted.
        Degraded => "degraded",
        /// A reload is under way, or waits.
        Reloading => "reloading",
        /// A stop is under way.
        Stopping => "stopping",
    }

    /// The states of a worker. The numbers are those of `enum prefork_worker_state` in C.
    pub enum WorkerState {
        /// Forked, not ready.
        Starting = 1 => "starting",
        /// It serves.
        Ready = 2 => "ready",
        /// It could serve, but takes nothing at the moment; known to the master only.
        Stuck = 3 => "stuck",
        /// It finishes what it has.
        Draining = 4 => "draining",
        /// SIGKILL was sent to it.
        Killed = 5 => "killed",
    }
}

impl Reason {
    /// True if the master wanted the worker to end (Node: `exitedAfterDisconnect`).
    pub fn is_intended(self) -> bool {
        !matches!(self, Self::Crash | Self::BootFailure | Self::Hang)
    }
}

impl WorkerState {
    /// True if the worker gets connections, or will when it is ready (Node: `isConnected`).
    pub fn is_connected(self) -> bool {
        matches!(self, Self::Starting | Self::Ready | Self::Stuck)
    }
}

/// The end of a worker.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "control", derive(Serialize, Deserialize))]
#[non_exhaustive]
pub struct LastExit {
    /// The worker.
    pub worker: WorkerInfo,
    /// The way it ended.
    pub exit: Exit,
    /// The reason.
    pub reason: Reason,
    /// What it was doing, if it died in a call of its handler or by the signal of a fault.
    #[cfg_attr(feature = "control", serde(default, skip_serializing_if = "Option::is_none"))]
    pub crash: Option<Box<Crash>>,
}

/// A state of a reload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "control", derive(Serialize, Deserialize), serde(rename_all = "kebab-case"))]
#[non_exhaustive]
pub enum ReloadState {
    /// It began.
    Started,
    /// Every worker is of the new generation.
    Committed,
    /// Every worker is of the generation before.
    RolledBack,
}

/// The reason why a reload was rolled back.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "control", derive(Serialize, Deserialize))]
#[non_exhaustive]
pub struct ReloadFailure {
    /// The stage it had reached.
    pub stage: ReloadStage,
    /// The fault in words.
    pub reason: String,
    /// The new worker that failed, if one did.
    #[cfg_attr(feature = "control", serde(default, skip_serializing_if = "Option::is_none"))]
    pub worker: Option<u32>,
    /// The way that worker ended, if it has.
    #[cfg_attr(feature = "control", serde(default, skip_serializing_if = "Option::is_none"))]
    pub exit: Option<Exit>,
    /// The last lines of its standard error.
    #[cfg_attr(feature = "control", serde(default, skip_serializing_if = "Vec::is_empty"))]
    pub stderr: Vec<String>,
}

/// `at the first new worker: worker 3 (slot 0): worker_start returned 1 (exit code 70)`
impl fmt::Display for ReloadFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let stage = match self.stage {
            ReloadStage::Trial => "while the new program was tried",
            ReloadStage::Preparing => "while the handler was read",
            ReloadStage::Canary => "at the first new worker",
            ReloadStage::Rolling => "while workers were being replaced",
        };
        write!(f, "{stage}: {}", self.reason)?;
        match self.exit.map(|exit| exit.to_string()) {
            // The reason may be the worker's own, which does not tell how it ended.
            Some(exit) if !self.reason.contains(&exit) => write!(f, " ({exit})"),
            _ => Ok(()),
        }
    }
}

/// An address that is listened on.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "control", derive(Serialize, Deserialize))]
#[non_exhaustive]
pub struct Bound {
    /// As in the settings: `127.0.0.1:8080`, `[::1]:8080`, `udp:127.0.0.1:53` or `unix:/path`.
    #[cfg_attr(feature = "control", serde(skip))]
    pub text: String,
    /// The address alone: `127.0.0.1`, `::1` or `/path`.
    #[cfg_attr(feature = "control", serde(rename = "address"))]
    pub host: String,
    /// The port, unless it is a Unix socket.
    #[cfg_attr(feature = "control", serde(default, skip_serializing_if = "Option::is_none"))]
    pub port: Option<u16>,
    /// The type of address.
    #[cfg_attr(feature = "control", serde(rename = "type"))]
    pub family: Family,
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// The style in which a handler serves new connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(u8)]
#[non_exhaustive]
pub enum Kind {
    /// As HTTP requests: [`crate::Handler::on_request`].
    #[default]
    Request = 1,
    /// One at a time, in blocking style: [`crate::Handler::on_connection`].
    Blocking = 2,
    /// As a stream of bytes: [`crate::Handler::on_open`], [`crate::Handler::on_data`], [`crate::Handler::on_close`].
    Stream = 3,
    /// None: it serves datagrams only ([`crate::Handler::on_datagram`]).
    Datagram = 4,
}

impl Kind {
    /// The kind with this number.
    pub(crate) fn from_number(n: u8) -> Option<Self> {
        [Self::Request, Self::Blocking, Self::Stream, Self::Datagram].into_iter().find(|k| *k as u8 == n)
    }
}

/// The start of a server, reported to [`crate::Server::on_start`] when every worker is ready.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Started {
    /// The addresses bound, as `127.0.0.1:8080`, `[::1]:8080`, `udp:127.0.0.1:53` or `unix:/path`.
    pub addresses: Vec<String>,
    /// The number of workers.
    pub workers: usize,
    /// The style of the handler.
    pub kind: Kind,
    /// Its style at each of the addresses, which may differ ([`crate::Worker::serve`]).
    pub kinds: Vec<Kind>,
}

/// The end of a run: every worker was reaped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stopped {
    /// Workers that the stop had to kill because they did not end by themselves after [`crate::Config::drain_timeout`]; not those that a
    /// second request to stop has killed at once.
    pub killed: u32,
    /// Connections that workers have ended at that time, unfinished.
    pub cut: u64,
}

/// A running server.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "control", derive(Serialize, Deserialize))]
#[non_exhaustive]
pub struct Status {
    /// The name of the server: [`crate::Config::name`], or that of the handler's file.
    pub name: String,
    /// The master's process id, as the master sees it.
    pub pid: i32,
    /// The version of prefork.
    pub version: String,
    /// The handler's file; the program's if the handler is in it.
    pub handler: String,
    /// The file of the program that is the master.
    #[cfg_attr(feature = "control", serde(default))]
    pub program: Option<CodeFile>,
    /// The file that the handler of the workers was read from, if it is a module.
    #[cfg_attr(feature = "control", serde(default))]
    pub module: Option<CodeFile>,
    /// The state of the server as a whole.
    pub state: ServerState,
    /// The generation that serves, or is being replaced.
    pub generation: u32,
    /// The addresses bound.
    pub addresses: Vec<String>,
    /// The number of workers that can serve and are not to leave, at most `total`.
    pub ready: usize,
    /// The number of workers wanted.
    pub total: usize,
    /// The time since the master's start.
    #[cfg_attr(feature = "control", serde(rename = "uptime_ms", with = "json::millis"))]
    pub uptime: Duration,
    /// The counters of all workers since the start, including those that have ended.
    #[cfg_attr(feature = "control", serde(flatten))]
    pub totals: Totals,
    /// The memory that all processes hold in RAM (bytes); `None` unless measured.
    #[cfg_attr(feature = "control", serde(default))]
    pub memory: Option<u64>,
    /// The workers until they are reaped, by slot, then by number.
    pub workers: Vec<WorkerStatus>,
}

/// A file of code, as it was when it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "control", derive(Serialize, Deserialize))]
#[non_exhaustive]
pub struct CodeFile {
    /// Its path, without symbolic links.
    pub path: String,
    /// Its inode.
    pub inode: u64,
    /// The time of its last change.
    #[cfg_attr(feature = "control", serde(rename = "modified_ms", with = "json::unix_millis"))]
    pub modified: SystemTime,
    /// The SHA-256 of its contents in hexadecimal; `None` unless measured.
    #[cfg_attr(feature = "control", serde(default))]
    pub sha256: Option<String>,
    /// True if the path that was given leads to another file, or to none, by now.
    #[cfg_attr(feature = "control", serde(default))]
    pub changed: bool,
}

/// The counters of workers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "control", derive(Serialize, Deserialize))]
#[non_exhaustive]
pub struct Totals {
    /// Connections taken.
    pub taken: u64,
    /// Requests answered; in blocking style, connections served.
    pub requests: u64,
    /// Requests that prefork refused, or whose handler failed: an error or a panic, a deadline, a body that was cut. Statuses that
    /// a handler chose are not counted, whatever they are.
    pub errors: u64,
    /// Bytes from clients.
    pub bytes_in: u64,
    /// Bytes to clients.
    pub bytes_out: u64,
}

/// A worker, from its fork until it is reaped ([`crate::Running::worker`], [`crate::Running::status`]; its own:
/// [`crate::Worker::status`]).
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "control", derive(Serialize, Deserialize))]
#[non_exhaustive]
pub struct WorkerStatus {
    /// Its identity.
    #[cfg_attr(feature = "control", serde(flatten))]
    pub worker: WorkerInfo,
    /// Its state.
    pub state: WorkerState,
    /// The time of its fork, by the wall clock.
    #[cfg_attr(feature = "control", serde(rename = "started_ms", with = "json::unix_millis"))]
    pub started: SystemTime,
    /// The time since its fork, by the monotonic clock.
    #[cfg_attr(feature = "control", serde(rename = "age_ms", with = "json::millis"))]
    pub age: Duration,
    /// Connections given to it and not finished.
    pub in_flight: u32,
    /// Of those, connections between two requests when the worker last waited for events: they are closed if there is no other room
    /// for new clients.
    #[cfg_attr(feature = "control", serde(default))]
    pub idle: u32,
    /// Of those in flight, connections it has not taken yet; known to the master only.
    pub queued: u64,
    /// Requests answered; in blocking style, connections served.
    pub requests: u64,
    /// Requests that prefork refused, or whose handler failed: an error or a panic, a deadline, a body that was cut. Statuses that
    /// a handler chose are not counted, whatever they are.
    pub errors: u64,
    /// Bytes from clients.
    pub bytes_in: u64,
    /// Bytes to clients.
    pub bytes_out: u64,
    /// Publications that one of its streams did not get, as its client was too slow ([`crate::Conn::set_slow`]).
    pub skipped: u64,
    /// Of the connections in flight, streams and upgraded connections.
    #[cfg_attr(feature = "control", serde(default))]
    pub streams: u32,
    /// Of the connections in flight, those whose response its handler keeps ([`crate::Response::later`]).
    #[cfg_attr(feature = "control", serde(default))]
    pub kept_responses: u32,
    /// The time in which it has to end; `None` unless it finishes, or if there is no limit. Known to the master only.
    #[cfg_attr(
        feature = "control",
        serde(
            default,
            skip_serializing_if = "Option::is_none",
            rename = "within_ms",
            with = "json::maybe_millis"
        )
    )]
    pub within: Option<Duration>,
    /// The memory that it holds in RAM (bytes); `None` unless measured.
    #[cfg_attr(feature = "control", serde(default))]
    pub rss: Option<u64>,
    /// The last worker of its slot that has ended; in a worker's own status, before its fork.
    #[cfg_attr(feature = "control", serde(default, skip_serializing_if = "Option::is_none"))]
    pub last_exit: Option<LastExit>,
}

/// Times in JSON.
#[cfg(feature = "control")]
mod json {
    /// A duration in milliseconds.
    pub mod millis {
        use serde::{Deserialize, Deserializer, Serializer};
        use std::time::Duration;

        pub fn serialize<S: Serializer>(time: &Duration, s: S) -> Result<S::Ok, S::Error> {
            s.serialize_u64(time.as_millis() as u64)
        }

        pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Duration, D::Error> {
            u64::deserialize(d).map(Duration::from_millis)
        }
    }

    /// A duration in milliseconds, or `null`.
    pub mod maybe_millis {
        use serde::{Deserialize, Deserializer, Serialize, Serializer};
        use std::time::Duration;

        pub fn serialize<S: Serializer>(time: &Option<Duration>, s: S) -> Result<S::Ok, S::Error> {
            time.map(|time| time.as_millis() as u64).serialize(s)
        }

        pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Option<Duration>, D::Error> {
            Option::<u64>::deserialize(d).map(|ms| ms.map(Duration::from_millis))
        }
    }

    /// A time of the wall clock in milliseconds since 1970.
    pub mod unix_millis {
        use serde::{Deserializer, Serializer};
        use std::time::{SystemTime, UNIX_EPOCH};

        pub fn serialize<S: Serializer>(time: &SystemTime, s: S) -> Result<S::Ok, S::Error> {
            super::millis::serialize(&time.duration_since(UNIX_EPOCH).unwrap_or_default(), s)
        }

        pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<SystemTime, D::Error> {
            super::millis::deserialize(d).map(|since| UNIX_EPOCH + since)
        }
    }
}
