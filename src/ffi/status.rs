//! Statuses: what a call of the C API may return, and their texts.

use super::guard::Result;
use crate::error::ErrorKind;
use crate::message::Undelivered;
use crate::worker::http::Refused;
use std::ffi::{CStr, c_char, c_int};
use std::io;

/// What a call may return. Done is 0, refusals are negative, and a number never gets another meaning.
///
/// A call that was refused has changed nothing, unless its description says so.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum prefork_status {
    /// Done.
    PREFORK_OK = 0,
    /// A pointer is NULL that must not be.
    PREFORK_NULL = -1,
    /// An argument is outside its range, or text is not UTF-8.
    PREFORK_INVALID = -2,
    /// A fault in prefork itself; please report what it printed on standard error.
    PREFORK_PANIC = -3,
    /// The call is not possible now or in this process: `prefork_server_run()` with several threads, a
    /// server that runs already.
    PREFORK_STATE = -4,
    /// The kernel refused; `prefork_server_error()` says what.
    PREFORK_SYSTEM = -5,
    /// A setting is unknown or cannot have this value; `prefork_server_error()` says what it can have.
    PREFORK_CONFIG = -6,
    /// An address could not be listened on; `prefork_server_error()` says why.
    PREFORK_LISTEN = -7,
    /// The handler could not be loaded, or no worker became ready with it; `prefork_server_error()` says
    /// why.
    PREFORK_HANDLER = -8,
    /// The name of a header field is not a token, or its value has a control byte in it (RFC 9110 section
    /// 5.5).
    PREFORK_FIELD = -9,
    /// A header field that frames the message (Content-Length, Transfer-Encoding, Connection and the like):
    /// prefork writes them.
    PREFORK_FRAMING = -10,
    /// Too late: the response has begun already.
    PREFORK_LATE = -11,
    /// Too much waits for a slow client already (setting `max-pending`), or the response's head grew over
    /// 64 KiB; or too much waits for the receiver of a message (four of the size `max-message`).
    PREFORK_FULL = -12,
    /// The client is gone; or the receiver of a message does not exist, or has ended.
    PREFORK_GONE = -13,
    /// The request did not ask for this upgrade (RFC 9110 section 7.8).
    PREFORK_UPGRADE = -14,
    /// As a stream: nothing more has arrived; return from the handler and be called again.
    PREFORK_AGAIN = -15,
    /// In blocking style: the client sent or took nothing before the deadline. To a request between
    /// processes: no reply came before its deadline.
    PREFORK_TIMEOUT = -16,
    /// A message is longer than the setting `max-message`.
    PREFORK_TOO_LARGE = -17,
    /// To a request between processes: its receiver has no `on_message`, or that returned without a reply.
    PREFORK_UNANSWERED = -18,
}

use prefork_status::*;

const ALL: [prefork_status; 19] = [
    PREFORK_OK,
    PREFORK_NULL,
    PREFORK_INVALID,
    PREFORK_PANIC,
    PREFORK_STATE,
    PREFORK_SYSTEM,
    PREFORK_CONFIG,
    PREFORK_LISTEN,
    PREFORK_HANDLER,
    PREFORK_FIELD,
    PREFORK_FRAMING,
    PREFORK_LATE,
    PREFORK_FULL,
    PREFORK_GONE,
    PREFORK_UPGRADE,
    PREFORK_AGAIN,
    PREFORK_TIMEOUT,
    PREFORK_TOO_LARGE,
    PREFORK_UNANSWERED,
];

/// The text of a status, for a message to a human.
///
/// Returns a static string, never NULL: `unknown status` for a number that is none.
/// Process: any.
#[unsafe(no_mangle)]
pub extern "C" fn prefork_strerror(status: c_int) -> *const c_char {
    let known = ALL.into_iter().find(|s| *s as c_int == status);
    known.map_or(c"unknown status", prefork_status::text).as_ptr()
}

impl prefork_status {
    /// The text of this status.
    pub(super) fn message(self) -> &'static str {
        self.text().to_str().unwrap_or_default()
    }

    fn text(self) -> &'static CStr {
        match self {
            PREFORK_OK => c"done",
            PREFORK_NULL => c"a pointer is NULL that must not be",
            PREFORK_INVALID => c"an argument is outside its range",
            PREFORK_PANIC => c"a fault in prefork itself",
            PREFORK_STATE => c"not possible now or in this process",
            PREFORK_SYSTEM => c"a system call failed",
            PREFORK_CONFIG => c"a setting is unknown or cannot have this value",
            PREFORK_LISTEN => c"an address could not be listened on",
            PREFORK_HANDLER => c"the handler could not be loaded, or no worker became ready with it",
            PREFORK_FIELD => c"a header name must be a token, its value free of control bytes",
            PREFORK_FRAMING => c"prefork frames the message itself",
            PREFORK_LATE => c"the response has begun already",
            PREFORK_FULL => c"too much waits for the receiver already",
            PREFORK_GONE => c"the receiver is gone",
            PREFORK_UPGRADE => c"the request did not ask for this upgrade",
            PREFORK_AGAIN => c"nothing more has arrived yet",
            PREFORK_TIMEOUT => c"nothing came, or was taken, before the deadline",
            PREFORK_TOO_LARGE => c"the message is longer than max-message",
            PREFORK_UNANSWERED => c"the receiver did not reply",
        }
    }
}

/// The value that an export returns for this outcome.
pub(super) fn answered<E: Into<prefork_status>>(result: std::result::Result<(), E>) -> Result<c_int> {
    result.map(|()| PREFORK_OK as c_int).map_err(Into::into)
}

impl From<Refused> for prefork_status {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Status => PREFORK_INVALID,
            Refused::Field => PREFORK_FIELD,
            Refused::Framing => PREFORK_FRAMING,
            Refused::Late => PREFORK_LATE,
            Refused::Full => PREFORK_FULL,
            Refused::Gone => PREFORK_GONE,
            Refused::Upgrade => PREFORK_UPGRADE,
            Refused::File => PREFORK_INVALID,
        }
    }
}

impl From<Undelivered> for prefork_status {
    fn from(reason: Undelivered) -> Self {
        match reason {
            Undelivered::TooLarge => PREFORK_TOO_LARGE,
            Undelivered::Full => PREFORK_FULL,
            Undelivered::Gone => PREFORK_GONE,
            Undelivered::TimedOut => PREFORK_TIMEOUT,
            Undelivered::Unanswered => PREFORK_UNANSWERED,
            Undelivered::Impossible => PREFORK_STATE,
        }
    }
}

impl From<ErrorKind> for prefork_status {
    fn from(kind: ErrorKind) -> Self {
        match kind {
            ErrorKind::Config => PREFORK_CONFIG,
            ErrorKind::Listen => PREFORK_LISTEN,
            ErrorKind::Handler => PREFORK_HANDLER,
            ErrorKind::State => PREFORK_STATE,
            ErrorKind::System => PREFORK_SYSTEM,
        }
    }
}

impl From<io::Error> for prefork_status {
    fn from(e: io::Error) -> Self {
        use io::ErrorKind as K;
        match e.kind() {
            K::WouldBlock => PREFORK_AGAIN,
            K::TimedOut => PREFORK_TIMEOUT,
            K::OutOfMemory => PREFORK_FULL,
            K::BrokenPipe | K::ConnectionReset | K::ConnectionAborted | K::NotConnected => PREFORK_GONE,
            _ => PREFORK_SYSTEM,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_status_has_its_number_and_a_text_of_its_own() {
        let mut texts: Vec<_> = ALL.into_iter().map(prefork_status::text).collect();
        texts.sort();
        texts.dedup();
        assert_eq!(texts.len(), ALL.len());
        for (i, status) in ALL.into_iter().enumerate() {
            assert_eq!(status as c_int, -(i as c_int));
        }
    }

    #[test]
    fn an_unknown_status_has_a_text_too() {
        // SAFETY: a static C string.
        assert_eq!(unsafe { CStr::from_ptr(prefork_strerror(1)) }, c"unknown status");
    }
}
