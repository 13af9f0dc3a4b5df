//! A worker: takes connections from the handoff channel, runs the handler on them, counts.
//!
//! Single-threaded, forked from the master, leaves by `_exit`. Learns of the master's death as end of file on its channel.

pub mod acceptor;
mod blocking;
pub mod conn;
pub mod datagram;
mod deadlines;
pub mod engine;
mod events;
pub mod handler;
pub mod http;
mod inlet;
mod stream;
mod table;

use crate::config::Config;
use crate::handoff::Taker;
use crate::log::log;
use crate::message::{Channel, Message};
use crate::role::{self, Role};
use crate::scoreboard::{Common, Seat};
use crate::server::Source;
use crate::sys::{process, signal};
use handler::{Handler, Kind};
use std::any::Any;
use std::cell::Cell;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::panic::{self, AssertUnwindSafe, catch_unwind};
use std::time::Duration;

/// Exit code of a worker that could not serve; its reason went to the master.
pub const EXIT_FAILED: i32 = 70;
/// How long a worker waits for room in its channel to the master.
const PATIENCE: Duration = Duration::from_secs(5);
/// Descriptors a worker leaves free: for what its handler opens, and so that one that arrives always finds a place.
pub const DESCRIPTOR_RESERVE: u64 = 32;

/// The worker this code runs in, as its handler sees it.
#[derive(Debug)]
pub struct Worker {
    pub(crate) id: u32,
    pub(crate) slot: u32,
    pub(crate) generation: u32,
    pub(crate) args: Vec<std::ffi::CString>,
    pub(crate) leaves: Cell<bool>,
}

thread_local! {
    static CURRENT: Cell<Option<&'static Worker>> = const { Cell::new(None) };
}

impl Worker {
    /// The worker this process is, in its first thread; `None` elsewhere. [`crate::role`] tells who it is in any thread.
    pub fn current() -> Option<&'static Self> {
        CURRENT.get().filter(|_| matches!(role::role(), Role::Worker { .. }))
    }

    /// Has this worker leave on its own account: it gets no more connections, another one takes its place, and when it has
    /// finished what it has it exits with code 0. Returns at once.
    pub fn leave(&self) {
        self.leaves.set(true);
    }

    /// A number no other worker of this master has had, from 1.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// The index of this worker's place, from 0; a successor has the same.
    pub fn slot(&self) -> u32 {
        self.slot
    }

    /// The start or reload this worker belongs to, from 1.
    pub fn generation(&self) -> u32 {
        self.generation
    }

    /// The arguments that stand behind the handler on the command line.
    pub fn args(&self) -> &[std::ffi::CString] {
        &self.args
    }
}

/// What a worker is born with.
pub struct Birth<'a> {
    /// Who it is. It lives as long as the process: a handler may keep its address.
    pub worker: &'static Worker,
    /// Where connections come from.
    pub queue: Taker,
    /// Where it takes them from the kernel itself.
    pub doors: Vec<acceptor::Door>,
    /// What the handler must be able to serve.
    pub addresses: Addresses,
    /// Messages.
    pub channel: Channel,
    /// Its counters.
    pub seat: Seat,
    /// What it shares with all.
    pub common: Common,
    /// Wakes the master.
    pub wake: BorrowedFd<'a>,
    /// A signal asks this worker to leave.
    pub leave: OwnedFd,
}

/// The first address of each kind that is listened on.
pub struct Addresses {
    /// For connections.
    pub connections: Option<String>,
    /// For datagrams.
    pub datagrams: Option<String>,
}

/// The life of a worker, right after the fork. Never returns.
pub fn run(source: &mut dyn Source, config: &Config, birth: Birth<'_>, poll: &mut mio::Poll) -> ! {
    CURRENT.set(Some(birth.worker));
    process::set_name(&format!("prefork/{}", birth.worker.slot));
    signal::count(signal::SIGTERM, &birth.leave);
    introduce(birth.worker);
    let tell = panic::take_hook();
    panic::set_hook(Box::new(move |about| {
        // The usual hook waits for whoever reads standard error; the client of this request need not.
        if crate::log::is_read() {
            tell(about);
        }
    }));
    let _ = birth.channel.send(&Message::Online, Some(PATIENCE));
    let started = guarded(|| start(source, &birth));
    let mut handler = match started {
        Ok(handler) => handler,
        Err(text) => fail(&birth, text),
    };
    let kind = handler.kind();
    let limit = match kind {
        Kind::Connection | Kind::Datagram => 1,
        Kind::Request | Kind::Data => descriptor_credit(config),
    };
    if let Err(e) = birth.channel.send(&Message::Ready { kind: kind as u8, limit }, Some(PATIENCE)) {
        log!("worker {}: tell the master: {e}", birth.worker.id);
        process::exit(EXIT_FAILED);
    }
    let mut inlet = inlet::Inlet::new(birth, kind, poll, config.drain_timeout);
    let ended = match kind {
        Kind::Connection => blocking::serve(&mut *handler, config, &mut inlet, poll),
        Kind::Request | Kind::Data | Kind::Datagram => {
            events::EventLoop::new(&mut *handler, kind, config, limit, &mut inlet, poll).serve()
        }
    };
    if let Err(e) = ended {
        log!("worker {}: {e}", inlet.worker.id);
        process::exit(EXIT_FAILED);
    }
    let _ = catch_unwind(AssertUnwindSafe(|| handler.stop(inlet.worker)));
    process::exit(0)
}

/// Tells the handler, and what it executes, who this worker is.
fn introduce(worker: &Worker) {
    let Worker { id, slot, generation, .. } = *worker;
    role::set(Role::Worker { id, slot, generation });
    process::set_environment("PREFORK_WORKER_ID", &worker.id.to_string());
    process::set_environment("PREFORK_SLOT", &worker.slot.to_string());
    process::set_environment("PREFORK_GENERATION", &worker.generation.to_string());
}

fn start(source: &mut dyn Source, birth: &Birth<'_>) -> Result<Box<dyn Handler>, String> {
    let mut handler = source.open(birth.worker)?;
    handler.start(birth.worker)?;
    birth.addresses.are_served_by(&*handler)?;
    Ok(handler)
}

impl Addresses {
    fn are_served_by(&self, handler: &dyn Handler) -> Result<(), String> {
        match (&self.datagrams, &self.connections) {
            (Some(address), _) if !handler.takes_datagrams() => {
                Err(format!("listen {address}: expected a handler with on_datagram, this one has none"))
            }
            (_, Some(address)) if handler.kind() == Kind::Datagram => Err(format!(
                "listen {address}: expected a handler for connections, this one has on_datagram only: \
                 listen on udp:HOST:PORT"
            )),
            _ => Ok(()),
        }
    }
}

/// Runs user code before the worker is ready; a panic is a reason like any other.
fn guarded<T>(f: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(f)).unwrap_or_else(|panic| Err(format!("panic: {}", panic_text(&*panic))))
}

fn panic_text(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("(no text)")
}

fn fail(birth: &Birth<'_>, text: String) -> ! {
    if let Err(e) = birth.channel.send(&Message::Failed(text), Some(PATIENCE)) {
        log!("worker {}: tell the master: {e}", birth.worker.id);
    }
    process::exit(EXIT_FAILED)
}

/// How many connections this worker has descriptors for, up to `max-conns`. The soft limit is raised as far as that needs.
fn descriptor_credit(config: &Config) -> u32 {
    let wanted = u64::from(config.max_conns);
    // What is open already counts too; it is far less than the reserve again.
    let have = process::raise_descriptor_limit(wanted + 2 * DESCRIPTOR_RESERVE).unwrap_or(0);
    u32::try_from(have.saturating_sub(2 * DESCRIPTOR_RESERVE).min(wanted)).unwrap_or(u32::MAX).max(1)
}
