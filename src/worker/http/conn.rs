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
    /// The number of bytes sent; the most if another worker has sent some.
    pub(super) sent: u32,
    /// The client has taken bytes since the loop was last told so.
    pub(super) progress: bool,
    /// The last response is counted as failed, or as refused.
    pub(super) counted: bool,
    /// The start of the partial head, or of lingering.
    pub(super) since: Time,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Phase {
    /// Requests are read and answered.
    #[default]
    Open,
    /// Closes once everything is sent, without a word about what is missing.
    Cut,
    /// Closes once everything is sent; lingers if bytes of the client have come until then, or if much was sent.
    Closing,
    /// Lingers once everything is sent: bytes that are left unread, or come after a close, make the kernel reset the connection,
    /// which can destroy what the client has not read yet (RFC 9112 section 9.6).
    ClosingSlowly,
    /// The sending side is shut down; what the client sends is dropped.
    Lingering,
    /// Becomes a stream once everything is sent.
    Upgrading,
}

impl HttpConn {
    /// A new connection of this worker; `used` if another worker has served it before.
    pub(crate) fn new(used: bool) -> Self {
        Self { used, sent: if used { u32::MAX } else { 0 }, ..Self::default() }
    }

    /// The client has ended its side, as another worker has seen.
    pub(crate) fn set_client_ended(&mut self, has_ended: bool) {
        self.client_ended = has_ended;
    }

    /// True between two requests.
    pub(crate) fn is_idle(&self) -> bool {
        self.phase == Phase::Open && self.input.is_none() && self.output.is_none()
    }

    /// True if the last request is answered, and the rest of that is to be sent, or the end of the connection to be waited for.
    pub(crate) fn is_answered(&self) -> bool {
        self.input.is_none() && !self.is_idle()
    }

    /// True if bytes wait for the client.
    pub(crate) fn has_unsent(&self) -> bool {
        self.output.is_some()
    }

    /// True if nothing follows what is being sent.
    pub(crate) fn is_last(&self) -> bool {
        self.phase != Phase::Open
    }

    /// True, once, if the handler has ended the pause of a body.
    #[cold]
    #[inline(never)]
    pub(crate) fn take_resumed(&self) -> bool {
        self.input
            .as_ref()
            .and_then(|input| input.upload.as_ref())
            .is_some_and(|upload| upload.take_resumed())
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
