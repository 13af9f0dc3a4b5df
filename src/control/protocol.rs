//! What goes over a control socket: one JSON object a line, both ways. For the master and for whoever speaks to it.
//!
//! The master begins with [`Reply::Hello`]. A request must come whole within 5 seconds, in at most [`MAX_REQUEST`] bytes,
//! and is answered before the next one is read. What a request has too much is refused, since it may mean something; what a
//! reply has too much is to be ignored, so that masters can learn to say more. [`VERSION`] counts what breaks either.

use crate::server;
use serde::{Deserialize, Serialize};
use std::time::{SystemTime, UNIX_EPOCH};

/// The version of this protocol.
pub const VERSION: u32 = 1;
/// The longest request, its line end included (bytes).
pub const MAX_REQUEST: usize = 1024;
/// The longest reply there can be: the status of as many workers as a master can have (bytes).
pub const MAX_REPLY: usize = 4 * 1024 * 1024;

/// What can be asked of a master.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "verb", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// What runs: [`Reply::Status`].
    Status {},
    /// Replace all workers: [`Reply::Accepted`], then [`Reply::Reload`].
    Reload {},
    /// Run more or fewer workers: [`Reply::Accepted`], then [`Reply::Scaled`] when all are ready and no other is left.
    Scale(Count),
    /// Have a worker finish and leave; another takes its place: [`Reply::Accepted`], then [`Reply::Drained`].
    Drain {
        /// Its number.
        worker: u32,
    },
    /// Stop: [`Reply::Accepted`], then [`Reply::Stopped`].
    Stop {
        /// At once, without waiting for what is in progress.
        #[serde(default)]
        now: bool,
    },
    /// All that happens from now on: [`Reply::Event`] for ever, the first one [`Event::Setup`].
    Events {},
}

/// How many workers there are to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Count {
    /// So many.
    To(u32),
    /// So many more, or fewer.
    By(i32),
}

/// Reads a request.
///
/// # Errors
/// What is wrong with it.
pub fn parse(line: &[u8]) -> Result<Request, String> {
    // What the parser quotes may hold anything; the reader of a log or a terminal is not to suffer it.
    serde_json::from_slice(line).map_err(|e| e.to_string().replace(char::is_control, "?"))
}

/// Appends a line: an object and its line end.
///
/// # Errors
/// None that can happen to the types of this module.
pub fn write_line(line: &impl Serialize, out: &mut Vec<u8>) -> serde_json::Result<()> {
    serde_json::to_writer(&mut *out, line)?;
    out.push(b'\n');
    Ok(())
}

/// What a master says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "kebab-case")]
pub enum Reply {
    /// Who is there, unasked.
    Hello(Hello),
    /// What runs.
    Status(Box<Status>),
    /// It is being done; how it ended follows.
    Accepted {
        /// Something else must end first: a reload that is under way, or the start.
        queued: bool,
    },
    /// How a reload ended.
    Reload(Verdict),
    /// Every worker there is to be is ready, every other one gone.
    Scaled {
        /// Workers there are.
        workers: usize,
    },
    /// The worker has ended.
    Drained {
        /// Which.
        worker: u32,
        /// How.
        exit: Exit,
        /// It had not finished in time.
        killed: bool,
    },
    /// Every worker has ended; the master is about to.
    Stopped {
        /// Workers that had not finished in time.
        killed: u32,
    },
    /// Something happened.
    Event(Stamped),
    /// It is not, or was not, done.
    Error(Refusal),
}

/// Who a master is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// The version of prefork.
    pub prefork: String,
    /// [`VERSION`].
    pub protocol: u32,
    /// What the app is called.
    pub name: String,
    /// The master's process, as it sees itself.
    pub pid: i32,
}

/// Why something is not done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// For programs.
    pub kind: RefusalKind,
    /// For people.
    pub text: String,
}

/// The classes of [`Refusal`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RefusalKind {
    /// The request is none, or asks for what cannot be. The master closes.
    Usage,
    /// There is no such worker.
    NoSuchWorker,
    /// It cannot be done now, or came to nothing.
    Failed,
    /// Not for this user. The master closes.
    Denied,
    /// Too many speak to this master. It closes.
    Busy,
    /// The other end did not send or read in time. The master closes.
    TooSlow,
    /// A kind this version does not know.
    #[serde(other)]
    Other,
}

/// How a reload ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// All of the new generation, or all of the old.
    pub outcome: Outcome,
    /// The new generation.
    pub generation: u32,
    /// How far it had come when it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stage: Option<Stage>,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The new worker that failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worker: Option<u32>,
    /// How that worker ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit: Option<Exit>,
    /// The last lines of that worker's standard error.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stderr: Vec<String>,
}

impl Verdict {
    /// The verdict in an event that ends a reload.
    pub(crate) fn of(event: &server::Event) -> Option<Self> {
        let (generation, failure) = match event {
            server::Event::ReloadCommitted(generation) => (*generation, None),
            server::Event::ReloadRolledBack(generation, failure) => (*generation, Some(failure.clone())),
            _ => return None,
        };
        let outcome = if failure.is_some() { Outcome::RolledBack } else { Outcome::Committed };
        Some(Self {
            outcome,
            generation,
            stage: failure.as_ref().map(|f| f.stage.into()),
            worker: failure.as_ref().and_then(|f| f.worker),
            exit: failure.as_ref().and_then(|f| f.exit).map(Exit::from),
            reason: failure.as_ref().map(|f| f.reason.clone()),
            stderr: failure.map_or_else(Vec::new, |f| f.stderr),
        })
    }
}

/// What came of a reload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// Every worker is of the new generation.
    Committed,
    /// Every worker is of the generation before.
    RolledBack,
}

/// How far a reload has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stage {
    /// The handler's file is read.
    Preparing,
    /// The first new worker starts.
    Canary,
    /// New workers take the old ones' places.
    Rolling,
}

impl From<server::ReloadStage> for Stage {
    fn from(stage: server::ReloadStage) -> Self {
        match stage {
            server::ReloadStage::Preparing => Self::Preparing,
            server::ReloadStage::Canary => Self::Canary,
            server::ReloadStage::Rolling => Self::Rolling,
        }
    }
}

/// How a process ended: one of `code` and `signal`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// The exit code.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<i32>,
    /// The signal, as `SIGSEGV`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<String>,
    /// Whether there is a core dump.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub core: bool,
}

impl From<server::Exit> for Exit {
    fn from(exit: server::Exit) -> Self {
        match exit {
            server::Exit::Code(code) => Self { code: Some(code), signal: None, core: false },
            server::Exit::Signal { number, core } => {
                Self { code: None, signal: Some(crate::sys::signal::name(number)), core }
            }
            server::Exit::Unknown => Self { code: None, signal: None, core: false },
        }
    }
}

impl std::fmt::Display for Exit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (&self.signal, self.code) {
            (Some(signal), _) => f.write_str(signal)?,
            (None, Some(code)) => write!(f, "exit code {code}")?,
            (None, None) => f.write_str("an end unknown")?,
        }
        f.write_str(if self.core { ", core dumped" } else { "" })
    }
}

/// What runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// What the app is called.
    pub name: String,
    /// The master's process, as it sees itself.
    pub pid: i32,
    /// The version of prefork.
    pub version: String,
    /// The handler's file, or `built-in`.
    pub handler: String,
    /// What the master is at.
    pub state: MasterState,
    /// The generation that serves, or is being replaced.
    pub generation: u32,
    /// The addresses bound.
    pub addresses: Vec<String>,
    /// Workers that can serve and are not to leave.
    pub ready: usize,
    /// Workers there are to be.
    pub total: usize,
    /// Since the master's start.
    pub uptime_ms: u64,
    /// Connections taken since the start.
    pub taken: u64,
    /// Requests answered since the start; in blocking style, connections served.
    pub requests: u64,
    /// Requests refused or failed since the start.
    pub errors: u64,
    /// Bytes from clients since the start.
    pub bytes_in: u64,
    /// Bytes to clients since the start.
    pub bytes_out: u64,
    /// What all processes hold in RAM. Not from the master, which has better to do: [`Status::measure`] finds it out.
    #[serde(default)]
    pub memory: Option<u64>,
    /// Workers until they are reaped, by slot, then by number.
    pub workers: Vec<Worker>,
}

/// What a master is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MasterState {
    /// Not all of the first workers are ready.
    Starting,
    /// All is as it should be.
    Serving,
    /// It serves, with fewer workers than are wanted.
    Degraded,
    /// A reload is under way, or waits.
    Reloading,
    /// A stop is under way.
    Stopping,
}

/// Who a worker is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerInfo {
    /// Its number; no other worker has it.
    pub id: u32,
    /// Its slot.
    pub slot: u32,
    /// Its generation.
    pub generation: u32,
    /// Its process.
    pub pid: i32,
}

impl From<server::WorkerInfo> for WorkerInfo {
    fn from(w: server::WorkerInfo) -> Self {
        Self { id: w.id, slot: w.slot, generation: w.generation, pid: w.pid }
    }
}

/// One worker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Worker {
    /// Who.
    #[serde(flatten)]
    pub worker: WorkerInfo,
    /// How far it has come.
    pub state: WorkerState,
    /// Since its fork.
    pub age_ms: u64,
    /// Connections given to it and not finished.
    pub in_flight: u32,
    /// Of those, connections it has not taken yet.
    pub queued: u64,
    /// Requests answered; in blocking style, connections served.
    pub requests: u64,
    /// Requests refused or failed.
    pub errors: u64,
    /// Bytes from clients.
    pub bytes_in: u64,
    /// Bytes to clients.
    pub bytes_out: u64,
    /// What it holds in RAM ([`Status::measure`]).
    #[serde(default)]
    pub rss: Option<u64>,
}

/// How far a worker has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WorkerState {
    /// Forked, not ready.
    Starting,
    /// It serves.
    Ready,
    /// It serves, but takes nothing at the moment.
    Stuck,
    /// It finishes what it has.
    Draining,
    /// SIGKILL is on its way.
    Killed,
}

impl Status {
    /// Of what runs.
    pub(crate) fn new(s: server::Status) -> Self {
        let state = match &s {
            s if s.stopping => MasterState::Stopping,
            s if s.starting => MasterState::Starting,
            s if s.reloading => MasterState::Reloading,
            s if s.workers.iter().filter(|w| w.state == server::State::Ready).count() < s.slots => {
                MasterState::Degraded
            }
            _ => MasterState::Serving,
        };
        let mut workers: Vec<_> = s.workers.iter().map(Worker::new).collect();
        workers.sort_by_key(|w| (w.worker.slot, w.worker.id));
        Self {
            pid: crate::sys::process::own_pid(),
            version: env!("CARGO_PKG_VERSION").into(),
            name: s.name,
            handler: s.handler,
            state,
            generation: s.generation,
            addresses: s.addresses,
            ready: s.workers.iter().filter(|w| w.state == server::State::Ready).count().min(s.slots),
            total: s.slots,
            uptime_ms: s.uptime.as_millis() as u64,
            taken: s.totals.taken,
            requests: s.totals.requests,
            errors: s.totals.errors,
            bytes_in: s.totals.bytes_in,
            bytes_out: s.totals.bytes_out,
            memory: None,
            workers,
        }
    }

    /// Looks up in `/proc` what the processes hold: for one that runs on the same machine, in the same pid namespace.
    pub fn measure(&mut self) {
        for w in &mut self.workers {
            w.rss = crate::sys::process::resident_bytes(w.worker.pid);
        }
        let pids = self.workers.iter().map(|w| w.worker.pid).chain([self.pid]);
        // Pages that several of them share are to count once.
        self.memory = pids.map(proportional_bytes).try_fold(0u64, |sum, bytes| Some(sum + bytes?));
    }
}

/// A process's share of the memory it maps (proc(5), `smaps_rollup`).
fn proportional_bytes(pid: i32) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
    let line = text.lines().find_map(|l| l.strip_prefix("Pss:"))?;
    Some(line.trim().trim_end_matches(" kB").parse::<u64>().ok()? * 1024)
}

impl Worker {
    fn new(w: &server::WorkerStatus) -> Self {
        Self {
            worker: w.worker.into(),
            state: match w.state {
                server::State::Starting => WorkerState::Starting,
                server::State::Ready if w.stuck => WorkerState::Stuck,
                server::State::Ready => WorkerState::Ready,
                server::State::Draining => WorkerState::Draining,
                server::State::Killed => WorkerState::Killed,
            },
            age_ms: w.age.as_millis() as u64,
            in_flight: w.in_flight,
            queued: w.queued,
            requests: w.requests,
            errors: w.errors,
            bytes_in: w.bytes_in,
            bytes_out: w.bytes_out,
            rss: None,
        }
    }
}

/// An event, and when it happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stamped {
    /// Milliseconds since 1970-01-01 00:00:00 UTC.
    pub time_ms: u64,
    /// What.
    #[serde(flatten)]
    pub event: Event,
}

impl Stamped {
    /// An event of now.
    pub fn now(event: Event) -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { time_ms: since.as_millis() as u64, event }
    }
}

/// Something that happened. The names are those of Node's `cluster`, where it has one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Event {
    /// What there is when a stream of events begins.
    Setup {
        /// What the app is called.
        name: String,
        /// The generation that serves.
        generation: u32,
        /// Workers there are to be.
        workers: usize,
        /// The addresses bound.
        addresses: Vec<String>,
    },
    /// A worker was forked.
    Fork {
        /// Which.
        worker: WorkerInfo,
    },
    /// A worker runs.
    Online {
        /// Which.
        worker: WorkerInfo,
    },
    /// A worker serves connections of this address.
    Listening {
        /// Which.
        worker: WorkerInfo,
        /// The address, without its port.
        address: String,
        /// The port, where it has one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        port: Option<u16>,
        /// `4`, `6`, `udp4`, `udp6` or `unix`.
        r#type: String,
    },
    /// A worker can serve.
    Ready {
        /// Which.
        worker: WorkerInfo,
    },
    /// A worker gets no more connections, on purpose, and finishes what it has.
    Disconnect {
        /// Which.
        worker: WorkerInfo,
    },
    /// A worker has ended and was reaped.
    Exit {
        /// Which.
        worker: WorkerInfo,
        /// How.
        exit: Exit,
        /// Why: `crash`, `boot failure`, `reload`, `scale`, `drain`, `left`, `drain timeout`, `hang`, `recycle`, `killed`,
        /// `stop`.
        reason: String,
        /// Whether the master wanted it to end (Node: `exitedAfterDisconnect`).
        intended: bool,
        /// The last lines of its standard error, where it ended before it had proved itself.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        stderr: Vec<String>,
    },
    /// A worker has been in one call of its handler for too long.
    Hang {
        /// Which.
        worker: WorkerInfo,
    },
    /// A worker has sent the master a message.
    Message {
        /// Which.
        worker: WorkerInfo,
        /// What sort of message it is, as the worker said.
        r#type: u32,
        /// Its length (bytes).
        size: usize,
        /// Messages before this one that the reader was not told of, because it had enough to read.
        #[serde(default, skip_serializing_if = "is_zero")]
        left_out: u64,
    },
    /// Something went wrong that cost no connection.
    Error {
        /// What.
        text: String,
    },
    /// A reload began or ended.
    Reload {
        /// Which of it.
        state: ReloadState,
        /// The new generation.
        generation: u32,
        /// How far it had come when it failed.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        stage: Option<Stage>,
        /// Why it was rolled back.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
        /// The new worker that failed.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        worker: Option<u32>,
        /// How that worker ended.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        exit: Option<Exit>,
        /// The last lines of that worker's standard error.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        stderr: Vec<String>,
    },
    /// An event this version does not know.
    #[serde(other)]
    Other,
}

/// Where a reload stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ReloadState {
    /// It began.
    Started,
    /// Every worker is of the new generation.
    Committed,
    /// Every worker is of the generation before.
    RolledBack,
}

impl Event {
    /// As it is told; `None` where the master has it to itself: a stream begins with its own setup and ends with the master.
    pub(crate) fn of(event: &server::Event) -> Option<Self> {
        use server::Event as E;
        let ends = |state| {
            let Verdict { generation, stage, reason, worker, exit, stderr, .. } = Verdict::of(event)?;
            Some(Self::Reload { state, generation, stage, reason, worker, exit, stderr })
        };
        Some(match event {
            E::Setup | E::Stopped(_) => return None,
            E::Fork(w) => Self::Fork { worker: (*w).into() },
            E::Online(w) => Self::Online { worker: (*w).into() },
            E::Listening(w, at) => {
                let (worker, port) = ((*w).into(), at.port);
                Self::Listening { worker, address: host(&at.text), port, r#type: at.family.to_string() }
            }
            E::Ready(w) => Self::Ready { worker: (*w).into() },
            E::Disconnect(w) => Self::Disconnect { worker: (*w).into() },
            E::Exit { worker, exit, reason, stderr } => Self::Exit {
                worker: (*worker).into(),
                exit: (*exit).into(),
                reason: reason.to_string(),
                intended: reason.is_intended(),
                stderr: stderr.clone(),
            },
            E::Hang(w) => Self::Hang { worker: (*w).into() },
            E::Message { worker, kind, size } => {
                Self::Message { worker: (*worker).into(), r#type: *kind, size: *size, left_out: 0 }
            }
            E::Error(text) => Self::Error { text: text.clone() },
            E::ReloadStarted(generation) => Self::Reload {
                state: ReloadState::Started,
                generation: *generation,
                stage: None,
                reason: None,
                worker: None,
                exit: None,
                stderr: Vec::new(),
            },
            E::ReloadCommitted(_) => return ends(ReloadState::Committed),
            E::ReloadRolledBack(..) => return ends(ReloadState::RolledBack),
        })
    }
}

fn is_zero(n: &u64) -> bool {
    *n == 0
}

/// The address without its port and its scheme, which stand beside it.
fn host(address: &str) -> String {
    let bare = address.strip_prefix("udp:").unwrap_or(address);
    match bare.parse::<std::net::SocketAddr>() {
        Ok(inet) => inet.ip().to_string(),
        Err(_) => address.trim_start_matches("unix:").to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
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
            (Request::Reload {}, r#"{"verb":"reload"}"#),
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
    fn what_is_no_request_is_refused_with_a_reason_of_one_line() {
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
        let bound = |text: &str, port, family| server::Bound { text: text.into(), port, family };
        let w = server::WorkerInfo { id: 7, slot: 1, generation: 2, pid: 99 };
        let who = r#""worker":{"id":7,"slot":1,"generation":2,"pid":99}"#;
        for (event, line) in [
            (server::Event::Fork(w), format!(r#"{{"event":"fork",{who}}}"#)),
            (server::Event::Online(w), format!(r#"{{"event":"online",{who}}}"#)),
            (
                server::Event::Listening(w, bound("[::1]:80", Some(80), server::Family::V6)),
                format!(r#"{{"event":"listening",{who},"address":"::1","port":80,"type":"6"}}"#),
            ),
            (
                server::Event::Listening(w, bound("unix:/run/x", None, server::Family::Unix)),
                format!(r#"{{"event":"listening",{who},"address":"/run/x","type":"unix"}}"#),
            ),
            (
                server::Event::Listening(w, bound("udp:127.0.0.1:53", Some(53), server::Family::Udp4)),
                format!(r#"{{"event":"listening",{who},"address":"127.0.0.1","port":53,"type":"udp4"}}"#),
            ),
            (server::Event::Ready(w), format!(r#"{{"event":"ready",{who}}}"#)),
            (server::Event::Disconnect(w), format!(r#"{{"event":"disconnect",{who}}}"#)),
            (
                server::Event::Exit {
                    worker: w,
                    exit: server::Exit::Signal { number: 11, core: true },
                    reason: server::Reason::Crash,
                    stderr: vec!["a".into(), "b\"".into()],
                },
                format!(
                    r#"{{"event":"exit",{who},"exit":{{"signal":"SIGSEGV","core":true}},"reason":"crash","intended":false,"stderr":["a","b\""]}}"#
                ),
            ),
            (
                server::Event::Exit {
                    worker: w,
                    exit: server::Exit::Code(0),
                    reason: server::Reason::Reload,
                    stderr: Vec::new(),
                },
                format!(r#"{{"event":"exit",{who},"exit":{{"code":0}},"reason":"reload","intended":true}}"#),
            ),
            (
                server::Event::Message { worker: w, kind: 5, size: 64 },
                format!(r#"{{"event":"message",{who},"type":5,"size":64}}"#),
            ),
            (server::Event::Error("no\n".into()), r#"{"event":"error","text":"no\n"}"#.into()),
            (
                server::Event::ReloadStarted(3),
                r#"{"event":"reload","state":"started","generation":3}"#.into(),
            ),
            (
                server::Event::ReloadRolledBack(
                    3,
                    server::ReloadFailure {
                        stage: server::ReloadStage::Canary,
                        reason: "why".into(),
                        worker: Some(7),
                        exit: Some(server::Exit::Code(3)),
                        stderr: vec!["a".into()],
                    },
                ),
                r#"{"event":"reload","state":"rolled-back","generation":3,"stage":"canary","reason":"why","worker":7,"exit":{"code":3},"stderr":["a"]}"#
                    .into(),
            ),
        ] {
            let event = Event::of(&event).unwrap();
            assert_eq!(text(&event), line + "\n");
            let reply = Reply::Event(Stamped { time_ms: 1, event });
            assert_eq!(serde_json::from_str::<Reply>(&text(&reply)).unwrap(), reply);
        }
    }

    #[test]
    fn what_a_later_master_says_more_is_no_error() {
        let reply = r#"{"reply":"event","time_ms":5,"event":"aurora","colour":"green"}"#;
        let stamped = Stamped { time_ms: 5, event: Event::Other };
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
