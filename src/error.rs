//! The error of the public API.

use std::fmt;
use std::io;

/// A failure, shown as `operation on what: cause`, for instance `bind 127.0.0.1:80: Permission denied (os error 13)`. Its `Debug` shows
/// the same text, so that a `main` that returns it prints `Error: bind 127.0.0.1:80: Permission denied (os error 13)`.
pub struct Error {
    kind: ErrorKind,
    what: String,
    cause: Option<io::Error>,
}

/// The classes of [`Error`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// A setting that cannot be used as given.
    Config,
    /// An address could not be listened on.
    Listen,
    /// The handler could not be loaded, or no worker became ready with it.
    Handler,
    /// A first worker has ended with exit code 78 (`EX_CONFIG`), as it does with [`Misconfigured`]: its configuration is wrong, and to start
    /// it again is useless. Or later, all workers have, and no reload came within ten seconds.
    Misconfigured,
    /// The call is not possible in this process or at this time, for instance `run` in a process with several threads.
    State,
    /// A system call failed.
    System,
    /// There is no such worker, or it has ended.
    Gone,
}

impl Error {
    /// An error that no system call has caused.
    pub(crate) fn new(kind: ErrorKind, what: impl Into<String>) -> Self {
        Self { kind, what: what.into(), cause: None }
    }

    /// An error of a system call.
    pub(crate) fn io(kind: ErrorKind, what: impl Into<String>, cause: io::Error) -> Self {
        Self { kind, what: what.into(), cause: Some(cause) }
    }

    /// The number of the error of a system call.
    pub(crate) fn os_error(&self) -> Option<i32> {
        self.cause.as_ref().and_then(io::Error::raw_os_error)
    }

    /// The class of this error.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.cause {
            Some(cause) => write!(f, "{}: {cause}", self.what),
            None => f.write_str(&self.what),
        }
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.cause.as_ref().map(|cause| cause as _)
    }
}

/// A result whose error is [`Error`].
pub type Result<T> = std::result::Result<T, Error>;

/// An error that each attempt would meet again, such as a wrong configuration. If a factory ([`crate::Server::factory`]) or
/// [`crate::Handler::start`] returns it, or an error that has it among its causes, the worker ends with exit code 78 (`EX_CONFIG`,
/// sysexits(3)). Its slot then stays empty until a reload, and of the first workers none is tried again:
/// [`crate::Server::run`] fails with [`ErrorKind::Misconfigured`]. With any other error a new worker tries again, after longer and longer
/// delays.
///
/// ```
/// # use prefork::Misconfigured;
/// fn port(text: &str) -> Result<u16, Misconfigured> {
///     text.parse().map_err(|e| Misconfigured::new(format!("port {text:?}: {e}")))
/// }
/// assert_eq!(port("http").unwrap_err().to_string(), "port \"http\": invalid digit found in string");
/// ```
#[derive(Debug)]
pub struct Misconfigured(Box<dyn std::error::Error + Send + Sync>);

impl Misconfigured {
    /// The exit code of a worker that cannot serve for this reason.
    pub const EXIT_CODE: i32 = 78;

    /// Says what is wrong, as an error or as text.
    pub fn new(reason: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self(reason.into())
    }
}

impl fmt::Display for Misconfigured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for Misconfigured {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source()
    }
}
