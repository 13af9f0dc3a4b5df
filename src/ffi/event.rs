//! Events in C, for the host's callback in the master.

use crate::event::Departed;
use crate::{Event, Exit, LastExit};
use std::ffi::{CString, c_char, c_void};

/// The types of events. No number ever gets another meaning; later versions may have more.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum prefork_event_type {
    /// The addresses are bound; the first workers follow.
    PREFORK_EVENT_SETUP = 1,
    /// A worker was forked.
    PREFORK_EVENT_FORK = 2,
    /// A worker has begun to run.
    PREFORK_EVENT_ONLINE = 3,
    /// A worker serves connections of `address`; one event for each address.
    PREFORK_EVENT_LISTENING = 4,
    /// A worker can serve: `worker_start` has returned.
    PREFORK_EVENT_READY = 5,
    /// A worker gets no more connections, on purpose, and finishes what it has.
    PREFORK_EVENT_DISCONNECT = 6,
    /// A worker has ended and was reaped: `code` or `signal` say how, `reason` why. `stderr_lines` has the end
    /// of its standard error, if it ended before it was ready or before its reload was complete; `moved`,
    /// `handed_over`, `ended`, `cut` and `lost` what has become of the connections that it had when it was told to
    /// finish.
    PREFORK_EVENT_EXIT = 7,
    /// A worker has been in one call of its handler for longer than the setting `timeout`.
    PREFORK_EVENT_HANG = 8,
    /// Something went wrong that cost no connection; `text` says what.
    PREFORK_EVENT_ERROR = 9,
    /// A reload to `generation` began.
    PREFORK_EVENT_RELOAD_STARTED = 10,
    /// Every worker is of `generation`. `moved`, `handed_over` and the members that begin with `staying` say what
    /// has become of the connections of those that they have replaced, once these have handed back what they can.
    PREFORK_EVENT_RELOAD_COMMITTED = 11,
    /// The reload to `generation` failed, at `stage`, because of `text`; every worker is of the generation
    /// before. If a new worker failed, `id` is its number, `code` or `signal` say how it ended, and
    /// `stderr_lines` has the end of its standard error.
    PREFORK_EVENT_RELOAD_ROLLED_BACK = 12,
    /// The run is over: the last worker was reaped. `killed` workers had to be killed, and `cut` connections were ended
    /// at the deadline of the others.
    PREFORK_EVENT_STOPPED = 13,
    /// A worker has sent the master a message; the callback of `prefork_server_on_message()`, called next, gets
    /// its bytes.
    PREFORK_EVENT_MESSAGE = 14,
    /// The last worker of `generation`, which was replaced or rolled back, has ended. `moved`, `handed_over`,
    /// `ended`, `cut` and `lost` say what has become of the connections that its workers had when they were told to
    /// finish.
    PREFORK_EVENT_GONE = 15,
}

/// The reasons why a worker ended. No number ever gets another meaning; later versions may have more.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum prefork_reason {
    /// It crashed, or exited without being asked to.
    PREFORK_REASON_CRASH = 1,
    /// It was not ready in time, or ended before it was.
    PREFORK_REASON_BOOT_FAILURE = 2,
    /// A new generation took its place, or its generation was rolled back.
    PREFORK_REASON_RELOAD = 3,
    /// Fewer workers are wanted.
    PREFORK_REASON_SCALE = 4,
    /// It was drained: `prefork_server_drain()`.
    PREFORK_REASON_DRAIN = 5,
    /// It left by itself: `prefork_worker_leave()`, or SIGTERM to it from elsewhere.
    PREFORK_REASON_LEFT = 6,
    /// It had not ended at its deadline and was killed.
    PREFORK_REASON_DRAIN_TIMEOUT = 7,
    /// It hung in its handler and was killed.
    PREFORK_REASON_HANG = 8,
    /// It had served enough: settings `max-requests`, `max-memory`, `max-age`.
    PREFORK_REASON_RECYCLE = 9,
    /// It ended by a signal that was sent to it through the master: `prefork_server_kill()`.
    PREFORK_REASON_KILLED = 10,
    /// The server stops.
    PREFORK_REASON_STOP = 11,
}

/// The stages of a reload. No number ever gets another meaning; later versions may have more.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum prefork_stage {
    /// The handler's file is read.
    PREFORK_STAGE_PREPARING = 1,
    /// The first new worker starts.
    PREFORK_STAGE_CANARY = 2,
    /// New workers take the places of the old ones.
    PREFORK_STAGE_ROLLING = 3,
    /// The program of an upgrade is tried. No event has this stage.
    PREFORK_STAGE_TRIAL = 4,
}

/// The end of a worker. Later versions may add members at the end.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct prefork_exit {
    /// The size of this struct: set it before the call; afterwards the size that was filled in.
    pub size: u32,
    /// The worker's number.
    pub id: u32,
    /// Its slot.
    pub slot: u32,
    /// Its generation.
    pub generation: u32,
    /// The process id it had.
    pub pid: i32,
    /// Its exit code; -1 if a signal ended it, or if this program has reaped it itself.
    pub code: i32,
    /// The signal that ended it, or 0.
    pub signal: i32,
    /// 1 if a core was dumped, else 0.
    pub core: u32,
    /// The reason: one of `enum prefork_reason`.
    pub reason: u32,
    /// 1 if the master wanted it to end, else 0 (Node: `exitedAfterDisconnect`).
    pub intended: u32,
}

/// An event, given to the callback of `prefork_server_on_event()`. A number that does not apply is 0 (`port` and
/// `code`: -1), and a string is empty, not NULL. Later versions may add members at the end.
#[repr(C)]
#[derive(Debug, Default)]
pub struct prefork_event {
    /// The size of this struct in the library.
    pub size: u32,
    /// The type: one of `enum prefork_event_type`.
    pub r#type: u32,
    /// The name of the type, that of its constant in small letters: `fork`, `exit`, `reload rolled back`; as in
    /// Node's `cluster` if that has the event.
    pub name: *const c_char,
    /// The worker's number; 0 if the event is about no worker.
    pub id: u32,
    /// Its slot.
    pub slot: u32,
    /// Its generation; of a reload, the new generation.
    pub generation: u32,
    /// Its process id.
    pub pid: i32,
    /// The address, as `127.0.0.1:8080`, `[::1]:8080`, `udp:127.0.0.1:53` or `unix:/path`.
    pub address: *const c_char,
    /// The type of address: `4`, `6`, `udp4`, `udp6` or `unix`.
    pub address_type: *const c_char,
    /// The port bound, or -1 if the address has no port.
    pub port: i32,
    /// The worker's exit code, or -1 if a signal ended it.
    pub code: i32,
    /// The signal that ended it, or 0.
    pub signal: i32,
    /// 1 if a core was dumped, else 0.
    pub core: u32,
    /// The reason: one of `enum prefork_reason`.
    pub reason: u32,
    /// 1 if the master wanted it to end, else 0 (Node: `exitedAfterDisconnect`).
    pub intended: u32,
    /// The name of the reason: `crash`, `boot failure`, `reload` and so on.
    pub reason_name: *const c_char,
    /// The fault, or the reason of a failure, in words.
    pub text: *const c_char,
    /// Workers that had to be killed at the end of the run.
    pub killed: u32,
    /// The stage at which a reload failed: one of `enum prefork_stage`.
    pub stage: u32,
    /// The name of the stage: `preparing`, `canary` or `rolling`.
    pub stage_name: *const c_char,
    /// The last lines of a worker's standard error, at most 20 and 4 KiB, separated by line feeds; control
    /// characters except tabs are escaped.
    pub stderr_lines: *const c_char,
    /// The type of a message, which is the worker's to choose.
    pub message_type: u32,
    /// Its length (bytes).
    pub message_size: usize,
    /// The file that the code of a reload that has ended was read from, without symbolic links: the module, or the
    /// program of a handler in it. Empty if it could not be read.
    pub code_path: *const c_char,
    /// 1 if that path, as it was given, leads to another file by now. The workers of a handler in the program run older
    /// code then: `prefork_server_upgrade()` takes the file.
    pub code_changed: u32,
    /// The old workers that connections stay with.
    pub staying_workers: u32,
    /// Idle connections that went to other workers.
    pub moved: u64,
    /// Streams, upgraded connections and kept responses that went to other workers with their state.
    pub handed_over: u64,
    /// Connections that ended by themselves.
    pub ended: u64,
    /// Those that were closed because the time to finish was over (setting `drain-timeout`), or too many generations
    /// drained (`max-draining`).
    pub cut: u64,
    /// Those that were lost with a worker that died before that.
    pub lost: u64,
    /// Requests in progress that stay with old workers until they end, or the time of these is over; in blocking
    /// style, connections.
    pub staying_requests: u64,
    /// Responses of theirs that handlers keep (`prefork_response_later()`).
    pub staying_responses: u64,
    /// Their streams and upgraded connections.
    pub staying_streams: u64,
    /// Milliseconds in which the last of these workers has to end; 0 if there is no limit, or nothing stays.
    pub staying_ms: u64,
    /// The callback in which a worker has died, in its first 16 bytes: `on_request`, `timer`, `worker_start`. Empty if
    /// none ran, or the worker does not say. It and the next members are the worker's own word, and may be wrong.
    pub crash_callback: *const c_char,
    /// Milliseconds that this call had run.
    pub crash_lasted_ms: u64,
    /// The method and the target of its request, cut after 32 and 200 bytes; empty if there is none, or the worker
    /// ended by SIGKILL.
    pub crash_request: *const c_char,
    /// The address of its client: `127.0.0.1:50000`, `[::1]:50000` or `unix`; empty as `crash_request` is.
    pub crash_peer: *const c_char,
    /// The functions on its stack if a signal of a fault ended it, innermost first and up to the callback, separated by
    /// line feeds: `name+0x12 (file+0x1234)`, or what of that is known.
    pub crash_backtrace: *const c_char,
}

/// Called with each event, in the master.
pub type prefork_on_event =
    Option<unsafe extern "C-unwind" fn(event: *const prefork_event, state: *mut c_void)>;

/// Calls `call` with an event as C has it.
pub(super) fn tell(event: &Event, call: impl FnOnce(*const prefork_event)) {
    // The strings live until `call` has returned.
    let mut strings = Vec::new();
    let mut string = |text: &str| {
        strings.push(CString::new(text.replace('\0', "\\0")).unwrap_or_default());
        strings.last().map_or(NONE, |string| string.as_ptr())
    };
    let (number, name, worker) = event.row();
    let worker = worker.copied().unwrap_or_default();
    let mut told = prefork_event {
        size: size_of::<prefork_event>() as u32,
        r#type: number,
        name: string(name),
        id: worker.id,
        slot: worker.slot,
        generation: worker.generation,
        pid: worker.pid,
        address: NONE,
        address_type: NONE,
        port: -1,
        code: -1,
        reason_name: NONE,
        text: NONE,
        stage_name: NONE,
        stderr_lines: NONE,
        code_path: NONE,
        crash_callback: NONE,
        crash_request: NONE,
        crash_peer: NONE,
        crash_backtrace: NONE,
        ..prefork_event::default()
    };
    match event {
        Event::Listening { address, .. } => {
            told.address = string(&address.text);
            told.address_type = string(address.family.name());
            told.port = address.port.map_or(-1, i32::from);
        }
        Event::Exit { exit, reason, intended, stderr, connections, crash, .. } => {
            if let Some(crash) = crash {
                told.crash_callback = string(&crash.callback);
                told.crash_lasted_ms = crash.lasted.map_or(0, |lasted| lasted.as_millis() as u64);
                told.crash_request = string(crash.request.as_deref().unwrap_or_default());
                told.crash_peer = string(crash.peer.as_deref().unwrap_or_default());
                told.crash_backtrace = string(&crash.backtrace.join("\n"));
            }
            tell_departed(connections.as_deref().copied().unwrap_or_default(), &mut told);
            (told.code, told.signal, told.core) = numbers(*exit);
            (told.reason, told.intended) = (*reason as u32, (*intended).into());
            told.reason_name = string(reason.name());
            told.stderr_lines = string(&stderr.join("\n"));
        }
        Event::Error { text } => told.text = string(text),
        Event::Gone { generation, connections } => {
            told.generation = *generation;
            tell_departed(*connections, &mut told);
        }
        Event::Reload { generation, failure, code, connections, .. } => {
            told.generation = *generation;
            if let Some(connections) = connections {
                let staying = &connections.staying;
                (told.moved, told.handed_over) = (connections.moved, connections.handed_over);
                (told.staying_workers, told.staying_requests) = (staying.workers, staying.requests);
                (told.staying_responses, told.staying_streams) = (staying.kept_responses, staying.streams);
                // A limit that has just passed is one.
                told.staying_ms = staying.within.map_or(0, |within| (within.as_millis() as u64).max(1));
            }
            if let Some(code) = code {
                told.code_path = string(&code.path);
                told.code_changed = code.changed.into();
            }
            if let Some(failure) = failure {
                (told.code, told.signal, told.core) = failure.exit.map_or((-1, 0, 0), numbers);
                told.id = failure.worker.unwrap_or(0);
                told.stage = failure.stage as u32;
                told.stage_name = string(failure.stage.name());
                told.text = string(&failure.reason);
                told.stderr_lines = string(&failure.stderr.join("\n"));
            }
        }
        Event::Message { kind, size, .. } => (told.message_type, told.message_size) = (kind.0, *size),
        Event::Stopped { killed, cut } => (told.killed, told.cut) = (*killed, *cut),
        _ => {}
    }
    call(&raw const told);
}

fn tell_departed(departed: Departed, told: &mut prefork_event) {
    let Departed { moved, handed_over, ended, cut, lost } = departed;
    (told.moved, told.handed_over, told.ended) = (moved, handed_over, ended);
    (told.cut, told.lost) = (cut, lost);
}

/// The string that does not apply.
const NONE: *const c_char = c"".as_ptr();

/// The end of a worker as C has it.
pub(super) fn exit_of(last: &LastExit) -> prefork_exit {
    let LastExit { worker, exit, reason, .. } = last;
    let (code, signal, core) = numbers(*exit);
    prefork_exit {
        size: size_of::<prefork_exit>() as u32,
        id: worker.id,
        slot: worker.slot,
        generation: worker.generation,
        pid: worker.pid,
        code,
        signal,
        core,
        reason: *reason as u32,
        intended: reason.is_intended().into(),
    }
}

/// The code, the signal, and 1 if a core was dumped.
fn numbers(exit: Exit) -> (i32, i32, u32) {
    match exit {
        Exit::Code(code) => (code, 0, 0),
        Exit::Signal { number, core } => (-1, number, core.into()),
        Exit::Unknown => (-1, 0, 0),
    }
}

#[cfg(test)]
mod tests {
    use super::prefork_reason::*;
    use super::prefork_stage::*;
    use super::*;
    use crate::WorkerState;
    use crate::ffi::worker::prefork_worker_state::{self, *};
    use crate::{Reason, ReloadStage};
    use std::collections::BTreeSet;

    /// The name of a value in C: `boot failure` is `PREFORK_REASON_BOOT_FAILURE`.
    fn c_name(prefix: &str, name: &str) -> String {
        format!("PREFORK_{prefix}_{}", name.to_uppercase().replace(' ', "_"))
    }

    /// The rows of events in `event.rs`, as the lines of `enum prefork_event_type` that they need.
    fn rows() -> BTreeSet<String> {
        let rows = include_str!("../event.rs").lines().filter_map(|line| line.split_once("=> ("));
        let parts = rows
            .filter_map(|(_, row)| row.split_once(", \"")?.1.split_once('"').map(|(name, _)| (row, name)));
        let number = |row: &str| row.split(',').next().unwrap().to_owned();
        parts.map(|(row, name)| format!("{} = {},", c_name("EVENT", name), number(row))).collect()
    }

    #[test]
    fn events_have_the_numbers_and_names_of_their_types() {
        let mut rows = rows();
        assert!(rows.remove("PREFORK_EVENT_OTHER = 0,"), "{rows:?}");
        let types = include_str!("event.rs").lines().map(str::trim);
        let types = types.filter(|line| line.starts_with("PREFORK_EVENT_") && line.contains(" = "));
        assert_eq!(types.map(str::to_owned).collect::<BTreeSet<_>>(), rows);
        let event = Event::Stopped { killed: 0, cut: 0 };
        assert_eq!(event.row().0, prefork_event_type::PREFORK_EVENT_STOPPED as u32);
    }

    #[test]
    fn numbers_and_names_are_those_of_the_rust_enums() {
        let reasons: [(Reason, prefork_reason); 11] = [
            (Reason::Crash, PREFORK_REASON_CRASH),
            (Reason::BootFailure, PREFORK_REASON_BOOT_FAILURE),
            (Reason::Reload, PREFORK_REASON_RELOAD),
            (Reason::Scale, PREFORK_REASON_SCALE),
            (Reason::Drain, PREFORK_REASON_DRAIN),
            (Reason::Left, PREFORK_REASON_LEFT),
            (Reason::DrainTimeout, PREFORK_REASON_DRAIN_TIMEOUT),
            (Reason::Hang, PREFORK_REASON_HANG),
            (Reason::Recycle, PREFORK_REASON_RECYCLE),
            (Reason::Killed, PREFORK_REASON_KILLED),
            (Reason::Stop, PREFORK_REASON_STOP),
        ];
        for (rust, c) in reasons {
            assert_eq!((rust as u32, c_name("REASON", rust.name())), (c as u32, format!("{c:?}")));
        }
        let stages: [(ReloadStage, prefork_stage); 4] = [
            (ReloadStage::Preparing, PREFORK_STAGE_PREPARING),
            (ReloadStage::Canary, PREFORK_STAGE_CANARY),
            (ReloadStage::Rolling, PREFORK_STAGE_ROLLING),
            (ReloadStage::Trial, PREFORK_STAGE_TRIAL),
        ];
        for (rust, c) in stages {
            assert_eq!((rust as u32, c_name("STAGE", rust.name())), (c as u32, format!("{c:?}")));
        }
        let states: [(WorkerState, prefork_worker_state); 5] = [
            (WorkerState::Starting, PREFORK_WORKER_STARTING),
            (WorkerState::Ready, PREFORK_WORKER_READY),
            (WorkerState::Stuck, PREFORK_WORKER_STUCK),
            (WorkerState::Draining, PREFORK_WORKER_DRAINING),
            (WorkerState::Killed, PREFORK_WORKER_KILLED),
        ];
        for (rust, c) in states {
            assert_eq!((rust as u32, c_name("WORKER", rust.name())), (c as u32, format!("{c:?}")));
        }
    }
}
