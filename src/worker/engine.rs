//! The border between the worker's loop, which owns descriptors, deadlines and the poll, and the protocol of a connection.

use super::http::exchange::Exchange;
use super::http::response::Response;
use super::http::upload::Upload;
use super::user::User;
use std::rc::Rc;

/// The loop's next step with a connection after an engine has run on it.
pub enum Next {
    /// Wait for bytes (and for room to write if `write` is set), until the deadline.
    Wait {
        /// True if the engine has bytes to write that the socket did not take.
        write: bool,
        /// True if the client has taken bytes since the last time.
        progress: bool,
        /// The deadline that runs.
        deadline: Deadline,
    },
    /// Call the engine again in the next turn: it has more to do, but other connections come first.
    Again,
    /// Close the connection.
    Close,
    /// The handler is done with the stream, and the sending side is shut down: close it when the client has closed too.
    Linger,
    /// The handler keeps the response to the last request: the connection waits for that.
    Later(Rc<Exchange<Response>>),
    /// The handler has paused the body of a request: the connection waits for that, without a deadline.
    Pause(Rc<Upload>),
    /// A response that was kept is finished: the connection goes on as any other of HTTP.
    Answered,
    /// The connection becomes a stream.
    Upgrade {
        /// Bytes that have been read already.
        read: Vec<u8>,
        /// What the handler of its last request has left for it.
        user: Option<Box<User>>,
    },
}

/// The deadline of a connection. Setting the same one again starts it anew, except `Header`, which continues from its first
/// setting, `Write`, which continues until the client takes bytes, and `Response`, which continues until the handler writes some.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deadline {
    /// `header-timeout`: the rest of a request's head is due, or the first bytes of a new connection.
    Header,
    /// `body-timeout`: more of a body is due.
    Body,
    /// `idle-timeout`: no request is in progress; the connection may be handed back, or closed, also before to make room.
    Idle,
    /// `idle-timeout` of a stream.
    Quiet,
    /// `write-timeout`: the client has to read.
    Write,
    /// Five seconds between two reads. Everything is sent; what the client still sends is read and dropped, so that no reset
    /// destroys the last response on its way (RFC 9112 section 9.6).
    Linger,
    /// `response-timeout`: the handler has to continue a response that it keeps.
    Response,
}
