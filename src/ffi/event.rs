//! Events, as the master's host sees them in C. Told in the master, between two turns of its loop.

use super::guard::fill;
use super::status::prefork_status;
use crate::{Event, Exit, LastExit, ReloadState};
use std::ffi::{CString, c_char, c_int, c_void};

/// What an event tells. A number never gets another meaning; there may be more of them in later versions.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum prefork_event_type {
    /// The addresses are bound, the first workers follow.
    PREFORK_EVENT_SETUP = 1,
    /// A worker was forked.
    PREFORK_EVENT_FORK = 2,
    /// A worker runs.
    PREFORK_EVENT_ONLINE = 3,
    /// A worker serves connections of `address`; one event for each address.
    PREFORK_EVENT_LISTENING = 4,
    /// A worker can serve: `worker_start` has returned.
    PREFORK_EVENT_READY = 5,
    /// A worker gets no more connections, on purpose, and finishes what it has.
    PREFORK_EVENT_DISCONNECT = 6,
    /// A worker has ended and was reaped; `code` or `signal` say how, `reason` why; `stderr_lines` what it wrote last,
    /// where it ended before it could serve, or before the reload that it belongs to was complete.
    PREFORK_EVENT_EXIT = 7,
    /// A worker has been in one call of its handler for longer than the setting `timeout`.
    PREFORK_EVENT_HANG = 8,
    /// Something went wrong that cost no connection; `text` says what.
    PREFORK_EVENT_ERROR = 9,
    /// A reload to `generation` began.
    PREFORK_EVENT_RELOAD_STARTED = 10,
    /// Every worker is of `generation`.
    PREFORK_EVENT_RELOAD_COMMITTED = 11,
    /// The reload to `generation` failed: every worker is of the one before; `text` says why, `stage` how far it had
    /// come. Where a new worker failed, `id` says which, `code` or `signal` how it ended, and `stderr_lines` what
    /// it wrote last.
    PREFORK_EVENT_RELOAD_ROLLED_BACK = 12,
    /// The run is over: the last worker was reaped; `killed` of them had to be killed.
    PREFORK_EVENT_STOPPED = 13,
    /// A worker has sent the master a message; the callback of `prefork_server_on_message()`, called next, has
    /// what it says.
    PREFORK_EVENT_MESSAGE = 14,
}

use prefork_event_type::*;

/// Why a worker ended. A number never gets another meaning; there may be more of them in later versions.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum prefork_reason {
    /// It crashed, or exited unasked.
    PREFORK_REASON_CRASH = 1,
    /// It was not ready in time, or ended before.
    PREFORK_REASON_BOOT_FAILURE = 2,
    /// A new generation took its place, or its generation was rolled back.
    PREFORK_REASON_RELOAD = 3,
    /// There are to be fewer.
    PREFORK_REASON_SCALE = 4,
    /// It was drained: `prefork_server_drain()`.
    PREFORK_REASON_DRAIN = 5,
    /// It left on its own account: `prefork_worker_leave()`, or SIGTERM to it from elsewhere.
    PREFORK_REASON_LEFT = 6,
    /// It had not finished within its deadline and was killed.
    PREFORK_REASON_DRAIN_TIMEOUT = 7,
    /// It hung in its handler and was killed.
    PREFORK_REASON_HANG = 8,
    /// It had served enough: settings `max-requests`, `max-memory`, `max-age`.
    PREFORK_REASON_RECYCLE = 9,
    /// It ended by a signal that was sent to it through the master: `prefork_server_kill()`.
    PREFORK_REASON_KILLED = 10,
    /// All stop.
    PREFORK_REASON_STOP = 11,
}

/// How far a reload had come when it failed. A number never gets another meaning; there may be more of them in later
/// versions.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum prefork_stage {
    /// The handler's file was read.
    PREFORK_STAGE_PREPARING = 1,
    /// The first new worker was starting.
    PREFORK_STAGE_CANARY = 2,
    /// New workers were taking the old ones' places.
    PREFORK_STAGE_ROLLING = 3,
}

/// How a worker ended. It may grow at its end.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
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
    /// Its exit code; -1 where a signal ended it, or where this process had its status collected otherwise.
    pub code: i32,
    /// The signal that ended it, or 0.
    pub signal: i32,
    /// Whether a core was dumped: 0 or 1.
    pub core: u32,
    /// Why: one of `enum prefork_reason`.
    pub reason: u32,
    /// Whether the master meant it to end, 0 or 1 (Node: `exitedAfterDisconnect`).
    pub intended: u32,
}

/// Something that happened, given to the callback of `prefork_server_on_event()`. It may grow at its end.
/// What the event says nothing of is 0, and its strings are empty, never NULL; but `port` and `code`
/// are -1.
#[repr(C)]
#[derive(Debug)]
pub struct prefork_event {
    /// The size of this struct in the library that tells.
    pub size: u32,
    /// What happened: one of `enum prefork_event_type`.
    pub r#type: u32,
    /// The same in words, those of Node's `cluster` where it has one: `fork`, `online`, `listening`, `ready`,
    /// `disconnect`, `exit`, `hang`, `message`, `error`, `setup`, `reload started`, `reload committed`,
    /// `reload rolled back`, `stopped`.
    pub name: *const c_char,
    /// The worker's number; 0 where the event is about none.
    pub id: u32,
    /// Its slot.
    pub slot: u32,
    /// Its generation; of a reload, the new one.
    pub generation: u32,
    /// Its process id.
    pub pid: i32,
    /// The address, as `127.0.0.1:8080`, `[::1]:8080`, `udp:127.0.0.1:53` or `unix:/path`.
    pub address: *const c_char,
    /// The sort of address: `4`, `6`, `udp4`, `udp6` or `unix`.
    pub address_type: *const c_char,
    /// The port really bound, or -1 where the address has none.
    pub port: i32,
    /// The exit code, or -1 where a signal ended the worker.
    pub code: i32,
    /// The signal that ended it, or 0.
    pub signal: i32,
    /// Whether a core was dumped: 0 or 1.
    pub core: u32,
    /// Why it ended: one of `enum prefork_reason`.
    pub reason: u32,
    /// Whether the master meant it to end, 0 or 1 (Node: `exitedAfterDisconnect`).
    pub intended: u32,
    /// The reason in words: `crash`, `boot failure`, `reload` and so on.
    pub reason_name: *const c_char,
    /// What went wrong.
    pub text: *const c_char,
    /// Workers that had to be killed at the end of the run.
    pub killed: u32,
    /// How far a reload had come when it failed: one of `enum prefork_stage`.
    pub stage: u32,
    /// The same in words: `preparing`, `canary` or `rolling`.
    pub stage_name: *const c_char,
    /// The last lines of a worker's standard error, at most 20 of them and 4 KiB, with a line feed between two; control
    /// characters but for the tab are escaped.
    pub stderr_lines: *const c_char,
    /// What sort of message has come, as the worker said.
    pub message_type: u32,
    /// Its length (bytes).
    pub message_size: usize,
}

/// Called with an event, in the master, between two turns of its loop.
pub type prefork_on_event = Option<unsafe extern "C" fn(event: *const prefork_event, state: *mut c_void)>;

type EventCallback = unsafe extern "C" fn(*const prefork_event, *mut c_void);

/// Calls a program's callback with an event.
pub(super) fn tell(call: EventCallback, state: *mut c_void, event: &Event) {
    let clean = |text: &str| CString::new(text.replace('\0', "\\0")).unwrap_or_default();
    let worker = event.worker().copied().unwrap_or_default();
    let name = clean(event.name());
    let mut told = prefork_event {
        size: size_of::<prefork_event>() as u32,
        r#type: type_of(event) as u32,
        name: name.as_ptr(),
        id: worker.id,
        slot: worker.slot,
        generation: worker.generation,
        pid: worker.pid,
        address: c"".as_ptr(),
        address_type: c"".as_ptr(),
        port: -1,
        code: -1,
        signal: 0,
        core: 0,
        reason: 0,
        intended: 0,
        reason_name: c"".as_ptr(),
        text: c"".as_ptr(),
        killed: 0,
        stage: 0,
        stage_name: c"".as_ptr(),
        stderr_lines: c"".as_ptr(),
        message_type: 0,
        message_size: 0,
    };
    // Live until the callback has returned.
    let (first, second, third);
    match event {
        Event::Listening { address, .. } => {
            (first, second) = (clean(&address.text), clean(address.family.name()));
            (told.address, told.address_type) = (first.as_ptr(), second.as_ptr());
            told.port = address.port.map_or(-1, i32::from);
        }
        Event::Exit { exit, reason, stderr, .. } => {
            first = clean(reason.name());
            second = clean(&stderr.join("\n"));
            told.stderr_lines = second.as_ptr();
            (told.code, told.signal, told.core) = numbers(*exit);
            (told.reason, told.intended) = (*reason as u32, reason.is_intended().into());
            told.reason_name = first.as_ptr();
        }
        Event::Error { text } => {
            first = clean(text);
            told.text = first.as_ptr();
        }
        Event::Reload { generation, failure, .. } => {
            told.generation = *generation;
            if let Some(failure) = failure {
                first = clean(&failure.reason);
                told.text = first.as_ptr();
                (told.code, told.signal, told.core) = failure.exit.map_or((-1, 0, 0), numbers);
                told.id = failure.worker.unwrap_or(0);
                second = clean(failure.stage.name());
                (told.stage, told.stage_name) = (failure.stage as u32, second.as_ptr());
                third = clean(&failure.stderr.join("\n"));
                told.stderr_lines = third.as_ptr();
            }
        }
        Event::Message { kind, size, .. } => (told.message_type, told.message_size) = (*kind, *size),
        Event::Stopped { killed } => told.killed = *killed,
        _ => {}
    }
    // SAFETY: a callback and a state that were given for this; `told` and what it points to live until it returns.
    unsafe { call(&raw const told, state) }
}

/// Fills in how a worker ended.
///
/// # Safety
/// As [`fill`].
pub(super) unsafe fn fill_exit(into: *mut prefork_exit, last: LastExit) -> super::guard::Result<c_int> {
    // SAFETY: what the caller promises; the struct begins with its size.
    unsafe { fill(into, &exit_of(last)) }?;
    Ok(prefork_status::PREFORK_OK as c_int)
}

/// How a worker ended, as C sees it.
pub(super) fn exit_of(last: LastExit) -> prefork_exit {
    let LastExit { worker, exit, reason } = last;
    let (code, signal, core) = numbers(exit);
    prefork_exit {
        size: size_of::<prefork_exit>() as u32,
        id: worker.id,
        slot: worker.slot,
        generation: worker.generation,
        pid: worker.pid,
        code,
        signal,
        core,
        reason: reason as u32,
        intended: reason.is_intended().into(),
    }
}

/// Code, signal, core.
fn numbers(exit: Exit) -> (i32, i32, u32) {
    match exit {
        Exit::Code(code) => (code, 0, 0),
        Exit::Signal { number, core } => (-1, number, core.into()),
        Exit::Unknown => (-1, 0, 0),
    }
}

fn type_of(event: &Event) -> prefork_event_type {
    match event {
        // `Other` comes from a control socket alone, and never to a callback.
        Event::Setup { .. } | Event::Other => PREFORK_EVENT_SETUP,
        Event::Fork { .. } => PREFORK_EVENT_FORK,
        Event::Online { .. } => PREFORK_EVENT_ONLINE,
        Event::Listening { .. } => PREFORK_EVENT_LISTENING,
        Event::Ready { .. } => PREFORK_EVENT_READY,
        Event::Disconnect { .. } => PREFORK_EVENT_DISCONNECT,
        Event::Exit { .. } => PREFORK_EVENT_EXIT,
        Event::Hang { .. } => PREFORK_EVENT_HANG,
        Event::Error { .. } => PREFORK_EVENT_ERROR,
        Event::Reload { state: ReloadState::Started, .. } => PREFORK_EVENT_RELOAD_STARTED,
        Event::Reload { state: ReloadState::Committed, .. } => PREFORK_EVENT_RELOAD_COMMITTED,
        Event::Reload { state: ReloadState::RolledBack, .. } => PREFORK_EVENT_RELOAD_ROLLED_BACK,
        Event::Stopped { .. } => PREFORK_EVENT_STOPPED,
        Event::Message { .. } => PREFORK_EVENT_MESSAGE,
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

    /// The C names of the variants of an enum, from those of Rust: `BootFailure` is `PREFORK_REASON_BOOT_FAILURE`.
    fn c_name(prefix: &str, name: &str) -> String {
        format!("PREFORK_{prefix}_{}", name.to_uppercase().replace(' ', "_"))
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
        let stages: [(ReloadStage, prefork_stage); 3] = [
            (ReloadStage::Preparing, PREFORK_STAGE_PREPARING),
            (ReloadStage::Canary, PREFORK_STAGE_CANARY),
            (ReloadStage::Rolling, PREFORK_STAGE_ROLLING),
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
