//! Worker processes behind one address, and no accepted connection lost.
//!
//! ```no_run
//! # fn main() -> prefork::Result<()> {
//! prefork::Server::http(|_req, res| res.body("hello world\n")).listen("127.0.0.1:8080").workers(8).run()?;
//! # Ok(())
//! # }
//! ```
//!
//! # The life of a connection
//!
//! [`Server::run`] makes the calling process the *master*: it binds the addresses, forks the *workers*, and from then on accepts
//! connections and hands each to a worker, over a Unix socket. It reads nothing of what clients send and runs none of your
//! code but what it tells things: [`Server::on_start`], [`Server::on_event`], [`Server::on_message`].
//!
//! A worker is a fork of the master with one thread. It makes its *handler*, says that it is ready, and serves what is handed
//! to it. A handler has one of three styles:
//!
//! | style | is called | made by |
//! |---|---|---|
//! | requests | with a complete [`Request`], to fill in a [`Response`] | [`Server::http`] |
//! | streams | when a [`Conn`] has bytes | [`Server::stream`] |
//! | blocking | with a [`Conn`] to read and write until done | [`Server::blocking`] |
//!
//! Beside its style, or in place of one, a handler may take [`Datagram`]s ([`Server::datagram`]).
//!
//! Since a worker is a process of its own, closures are `FnMut` and hold what they like, without locks: what one worker changes,
//! no other sees.
//!
//! ```no_run
//! # fn main() -> prefork::Result<()> {
//! let mut count = 0;
//! prefork::Server::http(move |_req, res| {
//!     count += 1;
//!     res.body(format!("request {count} of this worker\n"))
//! })
//! .run()?;
//! # Ok(())
//! # }
//! ```
//!
//! What must be opened after the fork (a database connection, a random number generator) is made by a factory, in the worker:
//!
//! ```no_run
//! # fn main() -> prefork::Result<()> {
//! prefork::Server::factory(|worker| {
//!     let name = format!("worker {} in slot {}", worker.id(), worker.slot());
//!     prefork::http(move |_req, res| res.body(&name))
//! })
//! .run()?;
//! # Ok(())
//! # }
//! ```
//!
//! A type of your own that implements [`Handler`] can mix styles: an HTTP handler that [upgrades](Response::upgrade) a connection
//! gets [`Handler::on_data`] for it from then on.
//!
//! # When things go wrong
//!
//! A panic in a handler costs the connection it was called for (an HTTP client gets 500) and the worker goes on. A crash costs
//! the worker its connections in progress; what it had not taken yet goes to others, and a successor is started. While no
//! worker has room, clients wait in the kernel's backlog. TERM ends the run: backlogs are emptied, workers finish, then
//! [`Server::run`] returns. HUP reloads: new workers take the old ones' places one by one, or, if one of them fails, none does.
//!
//! # Messages
//!
//! Workers, and the program in the master, write to one another: bytes with a type, to one, to all, as a request that is answered
//! within a deadline. [`Worker::send`] and its like in a worker, [`Messages`] in the master; a handler hears in [`Handler::on_message`].
//!
//! # In an event loop of your own
//!
//! [`Server::start`] returns a [`Running`] master to step through: its descriptor says when, and it can be told to reload, to
//! scale, to drain or to stop. What happens is told as an [`Event`].
//!
//! ```no_run
//! # fn main() -> prefork::Result<()> {
//! let server = prefork::Server::http(|_req, res| res.body("hello world\n"));
//! let mut running = server.on_event(|event| println!("{event:?}")).start()?;
//! while running.step(running.timeout())?.is_none() {
//!     // Whatever else this program does; here it would poll the descriptor of `running` beside its own.
//! }
//! # Ok(())
//! # }
//! ```
//!
//! # Settings
//!
//! [`Config`] has them all, with their defaults; [`Server::set`] takes them by the names they have on the command line.
//!
//! # From C
//!
//! The same library is `libprefork`, with `include/prefork.h`; see [`ffi`].
#![cfg_attr(
    not(feature = "control"),
    allow(dead_code, reason = "upgrades and the control socket use more of it")
)]
#[cfg(not(target_os = "linux"))]
compile_error!(
    "prefork needs Linux 5.10 or newer: it is built on pidfd, signalfd and SCM_RIGHTS over SOCK_SEQPACKET"
);

pub mod config;
#[cfg(feature = "control")]
pub mod control;
pub mod error;
pub mod event;
pub mod ffi;
mod handoff;
mod ids;
mod log;
#[cfg_attr(
    not(feature = "control"),
    allow(dead_code, reason = "upgrades and the control socket use more of it")
)]
mod master;
mod message;
mod role;
mod scoreboard;
pub mod server;
mod sys;
mod worker;

pub use config::Config;
pub use error::{Error, ErrorKind, Result};
pub use event::{
    Bound, Event, Exit, Family, LastExit, Reason, ReloadFailure, ReloadStage, ReloadState, ServerState,
    Started, Status, Stopped, Totals, WorkerInfo, WorkerState, WorkerStatus,
};
pub use master::router::Messages;
pub use message::{ALL, MASTER, Message, Undelivered};
pub use role::{Role, role};
pub use server::{Running, Server};
/// For the binary alone.
#[cfg(feature = "cli")]
#[doc(hidden)]
pub use sys::code::give_back as give_back_code;
pub use worker::Worker;
pub use worker::conn::Conn;
pub use worker::datagram::Datagram;
pub use worker::handler::{Handler, Kind, Outcome, blocking, datagram, http, stream};
#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzzing {
    pub use crate::message::fuzzing::frames;
    pub use crate::worker::http::fuzzing::request;
}
pub use worker::http::{Refused, Request, Response};
