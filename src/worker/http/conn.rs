//! The state of an HTTP connection between two calls of the engine.

use super::input::Input;
use super::output::Output;
use crate::sys::time::Time;
use crate::worker::engine::{Deadline, Next};

/// One connection. Between requests it owns no buffer.
#[derive(Default)]
pub(crate) struct HttpConn {
    pub(super) input: Option<Box<Input>>,
    pub(super) output: Option<Box<Output>>,
    pub(super) phase: Phase,
    /// The kernel may hold bytes that poll does not report again.
    pub(super) has_more: bool,
    /// Poll has reported, or a read has shown, that the client ended its side.
    pub(super) client_ended: bool,
    /// A request has been answered, by this worker or another.
    pub(super) used: bool,
    /// The socket is non-blocking, as sendfile(2) needs it.
    pub(super) nonblocking: bool,
    /// The empty lines read before the current request.
    pub(super) empty_lines: u8,
    /// The bytes read and dropped while lingering.
    pub(super) dropped: u32,
    /// The client has taken bytes since the loop was last told so.
    pub(super) progress: bool,
    /// The start of the partial head.
    pub(super) head_since: Time,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Phase {
    /// Requests are read and answered.
    #[default]
    Open,
    /// Closes once everything is sent.
    Closing,
    /// Lingers once everything is sent, so that the client can read it (RFC 9112 section 9.6).
    ClosingSlowly,
    /// The sending side is shut down; what the client sends is dropped.
    Lingering,
    /// Becomes a stream once everything is sent.
    Upgrading,
}

impl HttpConn {
    /// A new connection of this worker; `used` if another worker has served it before.
    pub(crate) fn new(used: bool) -> Self {
        Self { used, ..Self::default() }
    }

    /// True between two requests.
    pub(crate) fn is_idle(&self) -> bool {
        self.phase == Phase::Open && self.input.is_none() && self.output.is_none()
    }

    /// Waits for the client, under the deadline of what it is to do.
    pub(super) fn wait(&mut self) -> Next {
        let deadline = match (self.phase, &self.output, &self.input) {
            (_, Some(_), _) => Deadline::Write,
            (Phase::Open, None, Some(input)) if input.partial.is_some() => Deadline::Body,
            (Phase::Open, None, None) if self.used => Deadline::Idle,
            (Phase::Open, None, _) => Deadline::Header,
            _ => Deadline::Linger,
        };
        let progress = std::mem::take(&mut self.progress);
        Next::Wait { write: self.output.is_some(), progress, deadline }
    }
}
