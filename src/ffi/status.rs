//! The statuses that calls of the C API return, and their texts.

use super::guard::Result;
use crate::error::ErrorKind;
use crate::message::Undelivered;
use crate::worker::http::Refused;
use std::ffi::{CStr, c_char, c_int};
use std::io;

/// The result of a call: 0, or a negative number if the call was refused. A refused call has changed nothing, unless
/// its description says so. No number ever gets another meaning.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum prefork_status {
    /// Done.
    PREFORK_OK = 0,
    /// A pointer is NULL that must not be NULL.
    PREFORK_NULL = -1,
    /// An argument is out of range, or a string is not UTF-8.
    PREFORK_INVALID = -2,
    /// A bug in prefork; please report what it printed on standard error.
    PREFORK_PANIC = -3,
    /// The call is not possible now or in this process, for instance `prefork_server_run()` with several
    /// threads, or on a server that is running already.
    PREFORK_STATE = -4,
    /// A system call failed; `prefork_server_error()` says which.
    PREFORK_SYSTEM = -5,
    /// There is no such setting, or it cannot have this value; `prefork_server_error()` says what is
    /// expected.
    PREFORK_CONFIG = -6,
    /// An address could not be listened on; `prefork_server_error()` says why.
    PREFORK_LISTEN = -7,
    /// The handler could not be loaded, or no worker became ready with it; `prefork_server_error()` says
    /// why.
    PREFORK_HANDLER = -8,
    /// The name of a header field is not a token, or its value has a control byte (RFC 9110 section 5.5).
    PREFORK_FIELD = -9,
    /// The header field frames the message (Content-Length, Transfer-Encoding, Connection and the like), and
    /// is prefork's to write.
    PREFORK_FRAMING = -10,
    /// The response has begun already.
    PREFORK_LATE = -11,
    /// Too much waits for a slow client (setting `max-pending`), or the head of the response is over 64 KiB;
    /// or too much waits for the receiver of a message (four times the setting `max-message`).
    PREFORK_FULL = -12,
    /// The client, or the receiver of a message, is gone; or there is no such worker, timer or watch.
    PREFORK_GONE = -13,
    /// The request did not ask for this upgrade (RFC 9110 section 7.8).
    PREFORK_UPGRADE = -14,
    /// In a stream: no more has arrived; return, and prefork calls again when there is more.
    PREFORK_AGAIN = -15,
    /// In blocking style: the client sent or took nothing before the deadline. Of a request to another
    /// process: no reply arrived before its deadline.
    PREFORK_TIMEOUT = -16,
    /// A message is longer than the setting `max-message`, or a body than its Content-Length; or a stream could
    /// never take as much as this.
    PREFORK_TOO_LARGE = -17,
    /// Of a request to another process: the receiver has no `on_message`, or that returned without a reply.
    PREFORK_UNANSWERED = -18,
    /// A first worker has ended with exit code 78 (EX_CONFIG in sysexits.h): its configuration is wrong. Or later, all
    /// workers have, and no reload came within ten seconds. A program that serves only this should end with the same
    /// code, which a supervisor understands (systemd: `RestartPreventExitStatus=78`).
    PREFORK_MISCONFIGURED = -19,
}

use prefork_status::*;

const TEXTS: [(prefork_status, &CStr); 20] = [
    (PREFORK_OK, c"done"),
    (PREFORK_NULL, c"a pointer is NULL that must not be NULL"),
    (PREFORK_INVALID, c"an argument is out of range, or not UTF-8"),
    (PREFORK_PANIC, c"a bug in prefork"),
    (PREFORK_STATE, c"not possible now or in this process"),
    (PREFORK_SYSTEM, c"a system call failed"),
    (PREFORK_CONFIG, c"no such setting, or it cannot have this value"),
    (PREFORK_LISTEN, c"an address could not be listened on"),
    (PREFORK_HANDLER, c"the handler could not be loaded, or no worker became ready with it"),
    (PREFORK_FIELD, c"a header name is not a token, or its value has a control byte"),
    (PREFORK_FRAMING, c"prefork writes the header fields that frame the message"),
    (PREFORK_LATE, c"the response has begun already"),
    (PREFORK_FULL, c"too much waits for the receiver"),
    (PREFORK_GONE, c"the receiver is gone"),
    (PREFORK_UPGRADE, c"the request did not ask for this upgrade"),
    (PREFORK_AGAIN, c"no more has arrived yet"),
    (PREFORK_TIMEOUT, c"the deadline has passed"),
    (PREFORK_TOO_LARGE, c"longer than max-message, max-pending or the Content-Length allows"),
    (PREFORK_UNANSWERED, c"the receiver did not reply"),
    (PREFORK_MISCONFIGURED, c"a worker says that its configuration is wrong"),
];

/// The text of a status, for a message to a human.
///
/// Returns a static string; `unknown status` if there is no such status.
/// Process: any.
#[unsafe(no_mangle)]
pub extern "C" fn prefork_strerror(status: c_int) -> *const c_char {
    let known = TEXTS.iter().find(|(known, _)| *known as c_int == status);
    known.map_or(c"unknown status", |(_, text)| text).as_ptr()
}

impl prefork_status {
    /// The text of this status.
    pub(super) fn text(self) -> &'static str {
        let known = TEXTS.iter().find(|(known, _)| *known == self);
        known.and_then(|(_, text)| text.to_str().ok()).unwrap_or_default()
    }
}

/// The value that an export returns for this outcome.
pub(super) fn answered<E: Into<prefork_status>>(result: std::result::Result<(), E>) -> Result<c_int> {
    result.map(|()| PREFORK_OK as c_int).map_err(Into::into)
}

impl From<Refused> for prefork_status {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Status | Refused::File => PREFORK_INVALID,
            Refused::Field => PREFORK_FIELD,
            Refused::Framing => PREFORK_FRAMING,
            Refused::Length => PREFORK_TOO_LARGE,
            Refused::Late => PREFORK_LATE,
            Refused::Full => PREFORK_FULL,
            Refused::Gone => PREFORK_GONE,
            Refused::Upgrade => PREFORK_UPGRADE,
            Refused::NoStreams | Refused::State => PREFORK_STATE,
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
            ErrorKind::Misconfigured => PREFORK_MISCONFIGURED,
            ErrorKind::State => PREFORK_STATE,
            ErrorKind::System => PREFORK_SYSTEM,
            ErrorKind::Gone => PREFORK_GONE,
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
            K::FileTooLarge => PREFORK_TOO_LARGE,
            K::Unsupported => PREFORK_STATE,
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
        let texts: std::collections::BTreeSet<_> = TEXTS.iter().map(|(_, text)| text).collect();
        assert_eq!(texts.len(), TEXTS.len());
        for (number, (status, _)) in TEXTS.into_iter().enumerate() {
            assert_eq!(status as c_int, -(number as c_int));
        }
    }

    #[test]
    fn an_unknown_status_has_a_text_too() {
        // SAFETY: a static C string.
        assert_eq!(unsafe { CStr::from_ptr(prefork_strerror(1)) }, c"unknown status");
    }
}
