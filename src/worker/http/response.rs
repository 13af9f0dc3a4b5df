//! The answer a handler builds, and how it becomes bytes.

use std::fmt;
use std::os::fd::OwnedFd;

/// Why a response call was refused. The response is as it was before the call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Refused {
    /// A status code outside 200 to 599.
    Status,
    /// A field name that is not a token, or a value with CR, LF, NUL or another control byte (RFC 9110 section 5.5).
    Field,
    /// A field that frames the message (Content-Length, Transfer-Encoding, Connection, ...), which prefork writes itself.
    Framing,
    /// The head is on its way already, or a body was given already.
    Late,
    /// Too much is waiting for a slow client ([`crate::config::Limits::pending`]), or the head grew over 64 KiB.
    Full,
    /// The client is gone.
    Gone,
    /// The request did not ask for an upgrade to that protocol (RFC 9110 section 7.8).
    Upgrade,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Status => "status: expected 200 to 599",
            Self::Field => "header: the name must be a token, the value free of control bytes",
            Self::Framing => "header: prefork frames the message itself",
            Self::Late => "the response has begun already",
            Self::Full => "too much of the response waits for a slow client",
            Self::Gone => "the client is gone",
            Self::Upgrade => "the request did not ask for this upgrade",
        })
    }
}

impl std::error::Error for Refused {}

/// The answer to one request. Without any call it is an empty 200.
pub struct Response {
    _head: Vec<u8>,
}

impl Response {
    /// Sets the status code, 200 to 599 (default 200).
    ///
    /// # Errors
    /// [`Refused::Status`], [`Refused::Late`].
    pub fn status(&mut self, _code: u16) -> Result<(), Refused> {
        todo!()
    }

    /// Adds a header field; the bytes are copied. `Date`, `Server` and the like replace what prefork would have written.
    ///
    /// # Errors
    /// [`Refused::Field`], [`Refused::Framing`], [`Refused::Late`], [`Refused::Full`].
    pub fn header(&mut self, _name: &str, _value: impl AsRef<[u8]>) -> Result<(), Refused> {
        todo!()
    }

    /// Sets the body; the bytes are copied, Content-Length is written. A second call replaces the first.
    ///
    /// # Errors
    /// [`Refused::Late`] after [`Response::write`].
    pub fn body(&mut self, _bytes: impl AsRef<[u8]>) -> Result<(), Refused> {
        todo!()
    }

    /// Sets the body without copying: bytes that live for ever.
    ///
    /// # Errors
    /// As [`Response::body`].
    pub fn body_static(&mut self, _bytes: &'static [u8]) -> Result<(), Refused> {
        todo!()
    }

    /// Sets the body without copying: bytes that the response owns, and drops when they are sent or the client is gone.
    ///
    /// # Errors
    /// As [`Response::body`].
    pub fn body_owned(&mut self, _bytes: Box<dyn AsRef<[u8]>>) -> Result<(), Refused> {
        todo!()
    }

    /// Sends `len` bytes of a file from `offset` as the body (sendfile(2)); the descriptor is taken.
    ///
    /// # Errors
    /// As [`Response::body`].
    pub fn file(&mut self, _file: impl Into<OwnedFd>, _offset: u64, _len: u64) -> Result<(), Refused> {
        todo!()
    }

    /// Streams a part of the body: the head goes out with the first part, chunked for HTTP/1.1, ended by the close for HTTP/1.0.
    ///
    /// # Errors
    /// [`Refused::Late`] after [`Response::body`] and its like, [`Refused::Full`], [`Refused::Gone`].
    pub fn write(&mut self, _part: &[u8]) -> Result<(), Refused> {
        todo!()
    }

    /// Closes the connection after this response, which says so (`Connection: close`).
    pub fn close(&mut self) {
        todo!()
    }

    /// Answers 101 and makes this connection a stream of bytes: [`crate::Handler::on_open`] and [`crate::Handler::on_data`]
    /// are called for it from now on (RFC 9110 section 7.8).
    ///
    /// # Errors
    /// [`Refused::Upgrade`] where the request's Upgrade field does not name `protocol`; [`Refused::Late`].
    pub fn upgrade(&mut self, _protocol: &str) -> Result<(), Refused> {
        todo!()
    }

    /// Makes the response a plain 500 if nothing has been sent yet; otherwise cuts the connection after what was sent.
    pub(crate) fn fail(&mut self) {
        todo!()
    }
}
