//! What an HTTP connection keeps between two calls of the engine.

use super::input::Input;
use super::output::Output;
use crate::sys::time::Time;
use crate::worker::engine::{Deadline, Next};

/// What one connection keeps between two calls. Between requests it owns no buffer.
#[derive(Default)]
pub(crate) struct HttpConn {
    pub(super) input: Option<Box<Input>>,
    pub(super) output: Option<Box<Output>>,
    pub(super) phase: Phase,
    /// Whether the kernel may hold bytes that poll will not tell of again.
    pub(super) more: bool,
    /// Whether the client has ended its side.
    pub(super) ended: bool,
    /// Whether a request has been answered.
    pub(super) used: bool,
    /// Whether the socket is non-blocking, as sendfile(2) wants it.
    pub(super) nonblocking: bool,
    pub(super) empty_lines: u8,
    pub(super) dropped: u32,
    /// The client has taken bytes since this was told.
    pub(super) progress: bool,
    /// The time at which the partial head began to arrive.
    pub(super) head_since: Time,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Phase {
    /// Requests are read and answered.
    #[default]
    Open,
    /// Over, once everything is sent.
    Closing,
    /// Over, once everything is sent and the client has had time to read it (RFC 9112 section 9.6).
    Staged,
    /// Everything is sent; what comes is dropped.
    Lingering,
    /// Another protocol begins, once everything is sent.
    Upgrading,
}

impl HttpConn {
    /// A connection that begins; `used` where another worker has served it before.
    pub(crate) fn new(used: bool) -> Self {
        Self { used, ..Self::default() }
    }

    /// Whether nothing is under way.
    pub(crate) fn is_idle(&self) -> bool {
        self.phase == Phase::Open && self.input.is_none() && self.output.is_none()
    }
}

/// What a connection waits for, and under which deadline.
pub(super) fn wait(conn: &mut HttpConn) -> Next {
    let deadline = match (conn.phase, &conn.output, &conn.input) {
        (_, Some(_), _) => Deadline::Write,
        (Phase::Open, None, Some(input)) if input.due.is_some() => Deadline::Body,
        (Phase::Open, None, Some(_)) => Deadline::Header,
        (Phase::Open, None, None) if conn.used => Deadline::Idle,
        (Phase::Open, None, None) => Deadline::Header,
        _ => Deadline::Linger,
    };
    let progress = std::mem::take(&mut conn.progress);
    Next::Wait { write: conn.output.is_some(), progress, deadline }
}
