//! prefork: worker processes behind one address, and no accepted connection lost.
#[cfg(not(target_os = "linux"))]
compile_error!(
    "prefork needs Linux 5.10 or newer: it is built on pidfd, signalfd and SCM_RIGHTS over SOCK_SEQPACKET"
);

pub mod config;
pub mod error;
pub mod ffi;
mod handoff;
mod log;
mod master;
mod message;
mod scoreboard;
pub mod server;
mod sys;
mod worker;

pub use config::Config;
pub use error::{Error, ErrorKind, Result};
pub use server::{Server, Started, Stopped};
pub use worker::Worker;
pub use worker::conn::Conn;
pub use worker::handler::{Handler, Kind, Outcome, blocking, http, stream};
pub use worker::http::{Refused, Request, Response};
