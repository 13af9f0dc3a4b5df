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
//! [`Server::run`] makes the calling process the *master*: it binds the addresses, forks the *workers*, and then accepts
//! connections and hands each to a worker over a Unix socket. It reads nothing of what clients send. Of your code it runs only
//! the callbacks [`Server::on_start`], [`Server::on_event`] and [`Server::on_message`].
//!
//! A worker is a fork of the master with one thread. It makes its *handler*, reports that it is ready, and serves the connections
//! it gets. A handler has one of three styles:
//!
//! | style | called | made by |
//! |---|---|---|
//! | requests | with a complete [`Request`], to fill in a [`Response`] | [`Server::http`] |
//! | streams | when a [`Conn`] has bytes | [`Server::stream`] |
//! | blocking | with a [`Conn`] to read and write until done | [`Server::blocking`] |
//!
//! In addition to its style, or instead of one, a handler may take [`Datagram`]s ([`Server::datagram`]).
//!
//! A worker is a process of its own, so closures are `FnMut` and need no locks; no worker sees what another one changes.
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
//! A factory, called in each worker, opens what processes must not share (a database connection, a random number generator):
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
//! # A module
//!
//! A crate with [`module!`] is a shared object that the command `prefork` loads, and loads anew on each reload: new code without an
//! end of the server. See [`guide::rust_module`].
//!
//! # When things go wrong
//!
//! A panic in a handler costs the connection it was called for (an HTTP client gets 500); the worker keeps serving. A crash costs
//! the connections the worker had in progress; those it had not taken yet are given to other workers, and a successor starts.
//! While no worker has room, clients wait in the kernel's backlog. TERM ends the run: backlogs are emptied, workers are drained,
//! then [`Server::run`] returns. HUP reloads: new workers replace the old ones one by one, or, if one of them fails, none.
//!
//! # Messages
//!
//! Workers and the program in the master send each other messages: bytes with a type, to one process, to all workers, or as a
//! request with a reply and a deadline. A worker calls [`Worker::send`] and [`Worker::request`], and gets messages in
//! [`Handler::on_message`]; the master uses [`Messages`].
//!
//! # Timers, descriptors of your own, threads
//!
//! [`Worker::after`] and [`Worker::every`] call a function at a time, in the worker that starts them:
//!
//! ```no_run
//! # fn main() -> prefork::Result<()> {
//! prefork::Server::factory(|worker| {
//!     worker.every(std::time::Duration::from_secs(60), |worker| println!("worker {} lives", worker.id()));
//!     prefork::http(|_req, res| res.body("hello world\n"))
//! })
//! .run()?;
//! # Ok(())
//! # }
//! ```
//!
//! A thread that a handler has started has a function run in the worker's first thread by [`Waker::wake`], and descriptors of a client
//! library, a pipe, a timerfd are watched by [`Worker::watch`]:
//!
//! ```no_run
//! # use std::{io::Read, os::unix::net::UnixStream};
//! # fn watch(worker: &prefork::Worker, mut stream: UnixStream) -> std::io::Result<()> {
//! stream.set_nonblocking(true)?;
//! let fd = stream.try_clone()?;
//! worker.watch(&fd, prefork::Interest::READ, move |worker, fd, _ready| {
//!     let mut bytes = [0; 1024];
//!     match stream.read(&mut bytes) {
//!         Ok(0) => drop(worker.unwatch(&fd)),
//!         Ok(n) => println!("{n} bytes"),
//!         Err(e) => println!("{e}"),
//!     }
//! })
//! # }
//! ```
//!
//! # In an event loop of your own
//!
//! [`Server::start`] returns a [`Running`] master: call [`Running::step`] when its descriptor is readable, and its other methods
//! to reload, scale, drain or stop. Each [`Event`] is reported to [`Server::on_event`].
//!
//! ```no_run
//! # fn main() -> prefork::Result<()> {
//! let server = prefork::Server::http(|_req, res| res.body("hello world\n"));
//! let mut running = server.on_event(|event| println!("{event:?}")).start()?;
//! while running.step(running.timeout())?.is_none() {
//!     // Whatever else this program does; it would poll the descriptor of `running` together with its own.
//! }
//! # Ok(())
//! # }
//! ```
//!
//! # Upgrades
//!
//! USR2 replaces the program by the file now at its path, in the same process, with its listeners, workers and connections. The
//! start of the new program, from `main` to [`Server::run`] or [`Server::start`], runs twice. First on trial, in a child of the
//! master, while the old program serves: the trial ends inside `run` or `start`, which does not return, neither when it could serve
//! nor when it is refused, and no exit handler and no destructor runs. Then in the master's own process, where `run` continues with
//! the workers. The old program ends at that moment without returning from `run`; what it had in memory is gone.
//!
//! In both, the variable `PREFORK_UPGRADE` is in the environment until `run` or `start` is called. A program that does something only
//! once (takes a lock, writes its process id, refuses if it runs already) skips that if the variable is set. A program that ends
//! before `run`, whatever its exit code, is not upgraded to: only `run` itself can tell the master that it would serve.
//!
//! # Settings
//!
//! [`Config`] has the settings and their defaults; [`Server::set`] takes them by their command-line names.
//!
//! # From C
//!
//! `include/prefork.h` declares the C API of the same library, `libprefork`; see [`ffi`].
//!
//! # Guide
//!
//! [`guide`]: the life of a worker, a request and a stream; what may be kept how long; who may call what from where; limits.
#![cfg_attr(
    not(feature = "control"),
    allow(dead_code, reason = "upgrades and the control socket use more of it")
)]
#[cfg(not(target_os = "linux"))]
compile_error!(
    "prefork needs Linux 5.10 or newer: it is built on pidfd, signalfd and SCM_RIGHTS over SOCK_SEQPACKET"
);

mod code;
mod commands;
pub mod config;
#[cfg(feature = "control")]
pub mod control;
pub mod error;
pub mod event;
pub mod ffi;
#[doc = include_str!("../docs/guide.md")]
pub mod guide {
    #[doc = include_str!("../docs/rust-module.md")]
    pub mod rust_module {}
    #[doc = include_str!("../docs/requests.md")]
    pub mod requests {}
}
/// Whose Rust is tested.
#[cfg(doctest)]
#[doc = include_str!("../docs/testing.md")]
struct TestingGuide;
mod handoff;
mod ids;
mod image;
#[doc(hidden)]
pub mod log;
mod master;
mod message;
mod program;
mod role;
mod runtime_dir;
mod scoreboard;
pub mod server;
mod sys;
pub mod testing;
mod unwind;
mod worker;

pub use commands::Commands;
pub use config::{Config, LogLevel};
pub use error::{Error, ErrorKind, Misconfigured, Result};
pub use event::{
    Bound, CodeFile, Connections, Crash, Departed, Event, Exit, Family, Kind, LastExit, Reason,
    ReloadFailure, ReloadStage, ReloadState, ServerState, Started, Status, Staying, Stopped, Totals,
    WorkerInfo, WorkerState, WorkerStatus,
};
pub use master::router::Messages;
pub use message::{ALL, MASTER, Message, MessageKind, Sender, To, Undelivered};
pub use role::{Role, role};
pub use server::{Running, Server};
/// For the binary alone.
#[cfg(feature = "cli")]
#[doc(hidden)]
pub use sys::code::give_back as give_back_code;
pub use sys::poll::Interest;
pub use worker::Worker;
pub use worker::conn::{Conn, EndReason, Reader, Slow};
pub use worker::datagram::Datagram;
pub use worker::handler::{Handler, IntoHandler, Outcome, blocking, datagram, http, stream};
pub use worker::http::{Later, Resume, Take, ToStatus, Writer};
#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzzing {
    pub use crate::message::fuzzing::frames;
    pub use crate::worker::http::fuzzing::request;
}
pub use worker::http::{
    Malformed, Multipart, Pairs, Part, PartEvent, Refused, Request, Response, content_type,
};
pub use worker::wakeups::{Ready, Timer, Waker};
