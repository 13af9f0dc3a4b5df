//! The error of the public API.

use std::fmt;
use std::io;

/// A failure, shown as `operation on what: cause`, for instance `bind 127.0.0.1:80: Permission denied (os error 13)`.
#[derive(Debug)]
pub struct Error {
    kind: ErrorKind,
    what: String,
    cause: Option<io::Error>,
}

/// The classes of [`Error`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// A setting that cannot be used as given.
    Config,
    /// An address could not be listened on.
    Listen,
    /// The handler could not be loaded, or no worker became ready with it.
    Handler,
    /// A first worker has ended with exit code 78 (`EX_CONFIG`): its configuration is wrong, and to start it again is useless.
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

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.cause.as_ref().map(|cause| cause as _)
    }
}

/// A result whose error is [`Error`].
pub type Result<T> = std::result::Result<T, Error>;
