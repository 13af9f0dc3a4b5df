//! A worker process: takes connections from the handoff channel, runs the handler on them, counts.
//!
//! Single-threaded, forked from the master, ends with `_exit`. Learns of the master's death as end of file on its channels.

mod channel;
pub mod conn;
pub mod datagram;
mod deadlines;
pub mod engine;
mod event_loop;
pub mod handler;
pub mod http;
mod intake;
pub mod messages;
pub mod own_sockets;
pub mod source;
mod stream;
mod table;

use crate::config::Config;
use crate::event::{Kind, LastExit, WorkerInfo, WorkerState, WorkerStatus};
use crate::handoff::HandoffEnd;
use crate::ids::{Generation, Slot, WorkerId};
use crate::log::log;
use crate::message::{Inbox, Notice};
use crate::role::{self, Role};
use crate::scoreboard::{Common, Word, WorkerPage};
use crate::sys::stderr::RestoreStderr;
use crate::sys::time::Time;
use crate::sys::{forks, overdue, parent, process, signal};
use handler::Handler;
use messages::WorkerMessages;
use own_sockets::OwnSocket;
use source::Source;
use std::any::Any;
use std::cell::Cell;
use std::ffi::CString;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::panic::{self, AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::time::{Duration, SystemTime};

/// Exit code of a worker that could not serve, and has told the master why.
pub const EXIT_FAILED: i32 = 70;
/// When memory runs out, the kernel counts a worker as larger by this many thousandths of all memory, so that it kills workers
/// before their master, which can replace them.
const MEMORY_HANDICAP: i32 = 100;
/// The time beyond the drain-timeout after which a worker whose master is gone is killed, in case it has not ended by itself.
const LAST_MOMENT: Duration = Duration::from_millis(100);
/// The time that a worker waits for room in its channel to the master.
const PATIENCE: Duration = Duration::from_secs(5);
/// Descriptors that a worker leaves free: for its handler, and so that there is always one for a connection that arrives.
pub const DESCRIPTOR_RESERVE: u64 = 32;

/// The worker that this process is. For use in its first thread only. A clone is the same worker: keep one to send messages
/// from callbacks that are not given it.
#[derive(Clone)]
pub struct Worker {
    info: Rc<SelfInfo>,
    state: Rc<Cell<WorkerState>>,
    /// The time at which to tell the master that this worker leaves by itself.
    leave_at: Rc<Cell<Time>>,
}

/// A worker's numbers, start and arguments, its counters and its messages.
pub struct SelfInfo {
    /// Its number.
    pub id: WorkerId,
    /// Its slot.
    pub slot: Slot,
    /// Its generation.
    pub generation: Generation,
    /// The arguments for its handler.
    pub args: Vec<CString>,
    /// The time of its fork, by the wall clock.
    pub started: SystemTime,
    /// The time of its fork, by the monotonic clock.
    pub forked_at: Time,
    /// The end of the last worker of its slot.
    pub last_exit: Option<LastExit>,
    /// Its counters.
    pub page: WorkerPage,
    /// Its messages.
    pub messages: WorkerMessages,
}

impl fmt::Debug for Worker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Worker").field("id", &self.id()).finish_non_exhaustive()
    }
}

thread_local! {
    static CURRENT: Cell<Option<&'static Worker>> = const { Cell::new(None) };
}

impl Worker {
    pub(crate) fn new(info: SelfInfo) -> Self {
        Self {
            info: Rc::new(info),
            state: Rc::new(Cell::new(WorkerState::Starting)),
            leave_at: Rc::new(Cell::new(Time::NEVER)),
        }
    }

    /// The worker that this process is, in its first thread; `None` elsewhere. [`crate::role`] works in any thread.
    pub fn current() -> Option<&'static Self> {
        CURRENT.get().filter(|_| matches!(role::role(), Role::Worker { .. }))
    }

    /// Has this worker leave of its own accord: it gets no more connections, another takes its place, and when it has drained
    /// it exits with code 0. Returns at once, and cannot be undone. A worker that leaves soon after its start is replaced with a
    /// delay.
    pub fn leave(&self) {
        self.leave_at.set(Time::default());
    }

    /// True if the present or last call of the handler has taken longer than [`crate::Config::timeout`]. The worker then gets no
    /// connections, and those queued for it are given to others; a second later it gets SIGABRT. A long call can check this now
    /// and then, and return in time: its client is answered, and the worker gets connections again.
    ///
    /// May be called in any thread, and in a signal handler. Always false without a limit.
    pub fn is_overdue(&self) -> bool {
        overdue::is_overdue()
    }

    /// Its number, from 1; no other worker of this master has it.
    pub fn id(&self) -> u32 {
        self.info.id.0
    }

    /// The index of this worker's place, from 0; its successor has the same.
    pub fn slot(&self) -> u32 {
        self.info.slot.0
    }

    /// The start or reload that this worker belongs to, from 1.
    pub fn generation(&self) -> u32 {
        self.info.generation.0
    }

    /// Its numbers, state, start, counters, and the end of the last worker of its slot.
    pub fn status(&self) -> WorkerStatus {
        let SelfInfo { started, forked_at, last_exit, page, .. } = *self.info;
        let in_flight = page.get(Word::Taken).saturating_sub(page.get(Word::Finished));
        WorkerStatus {
            worker: WorkerInfo {
                id: self.id(),
                slot: self.slot(),
                generation: self.generation(),
                pid: process::own_pid(),
            },
            state: self.state.get(),
            started,
            age: Time::now() - forked_at,
            in_flight: u32::try_from(in_flight).unwrap_or(u32::MAX),
            queued: 0,
            requests: page.get(Word::Requests),
            errors: page.get(Word::Errors),
            bytes_in: page.get(Word::BytesIn),
            bytes_out: page.get(Word::BytesOut),
            rss: None,
            last_exit,
        }
    }

    /// The arguments for the handler: those that follow it on the command line.
    pub fn args(&self) -> &[CString] {
        &self.info.args
    }

    fn messages(&self) -> &WorkerMessages {
        &self.info.messages
    }
}

/// Everything that a new worker gets from the master.
pub struct WorkerSetup<'a> {
    /// The worker. It lives as long as the process: a handler may keep its address.
    pub worker: &'static Worker,
    /// The process id of the master.
    pub master: i32,
    /// Its end of the handoff channel.
    pub queue: HandoffEnd,
    /// The sockets at which it accepts or reads datagrams itself.
    pub own_sockets: Vec<OwnSocket>,
    /// The addresses that its handler must be able to serve.
    pub addresses: Addresses,
    /// The incoming direction of its message channel.
    pub inbox: Inbox,
    /// The pages about all workers.
    pub common: Common,
    /// Wakes the master.
    pub wake: BorrowedFd<'a>,
    /// Readable when a signal asks this worker to leave.
    pub leave: OwnedFd,
    /// Its own standard error, which passes through the master until this worker has proved itself.
    pub stderr: Option<RestoreStderr>,
}

/// The first listener's address of each type.
pub struct Addresses {
    /// For connections.
    pub connections: Option<String>,
    /// For datagrams.
    pub datagrams: Option<String>,
}

/// Runs the worker, right after the fork. Never returns.
pub fn run(source: &mut dyn Source, config: &Config, setup: WorkerSetup<'_>, poll: &mut mio::Poll) -> ! {
    let worker = setup.worker;
    CURRENT.set(Some(worker));
    signal::count(signal::SIGTERM, &setup.leave);
    forks::watch(setup.own_sockets.iter().map(|socket| socket.fd.as_fd()), setup.leave.as_fd());
    if let Err(e) = parent::watch(setup.master, config.drain_timeout + LAST_MOMENT) {
        fail(worker, format!("prctl: {e}"));
    }
    match config.timeout.as_millis() as u64 {
        0 => {}
        limit => overdue::watch(worker.info.page.word(Word::BusySince), limit),
    }
    introduce(worker);
    // Fails only if the kernel has no such file, and then it does not choose by it.
    let _ = process::offer_memory(MEMORY_HANDICAP);
    let usual = panic::take_hook();
    panic::set_hook(Box::new(move |about| {
        // The usual hook waits until standard error is read, and the client of the request would wait with it.
        if crate::log::is_read() {
            usual(about);
        }
    }));
    tell(worker, &Notice::Online);
    let started = catch_unwind(AssertUnwindSafe(|| start(source, &setup)));
    engine::end_copy("worker_start");
    let mut handler = match started {
        Ok(Ok(handler)) => handler,
        Ok(Err(reason)) => fail(worker, reason),
        Err(panic) => fail(worker, format!("panic: {}", panic_text(&*panic))),
    };
    let kind = handler.kind();
    let limit = match kind {
        Kind::Connection | Kind::Datagram => 1,
        Kind::Request | Kind::Data => connection_limit(config),
    };
    worker.state.set(WorkerState::Ready);
    tell(worker, &Notice::Ready { kind: kind as u8, limit });
    parent::end_call();
    if let Err(e) = event_loop::EventLoop::new(&mut *handler, config, limit, setup, poll).serve() {
        log!("worker {}: {e}", worker.id());
        process::exit(EXIT_FAILED);
    }
    forks::forget();
    let _ = catch_unwind(AssertUnwindSafe(|| handler.stop(worker)));
    engine::end_copy("worker_stop");
    // The messages that the handler has just sent. This fails if the master is gone.
    let _ = worker.messages().flush_all(PATIENCE);
    process::exit(0)
}

/// Makes the worker's numbers known to the handler, to programs that it executes, and to ps(1).
fn introduce(worker: &Worker) {
    let (id, slot, generation) = (worker.id(), worker.slot(), worker.generation());
    role::set(Role::Worker { id, slot, generation });
    process::set_name(&format!("prefork/{slot}"));
    let numbers = [("PREFORK_WORKER_ID", id), ("PREFORK_SLOT", slot), ("PREFORK_GENERATION", generation)];
    for (name, value) in numbers {
        process::set_environment(name, &value.to_string());
    }
}

fn start(source: &mut dyn Source, setup: &WorkerSetup<'_>) -> Result<Box<dyn Handler>, String> {
    let mut handler = source.open(setup.worker)?;
    handler.start(setup.worker)?;
    let Addresses { connections, datagrams } = &setup.addresses;
    match (datagrams, connections) {
        (Some(address), _) if !handler.takes_datagrams() => {
            Err(format!("listen {address}: the handler has no on_datagram"))
        }
        (_, Some(address)) if handler.kind() == Kind::Datagram => {
            Err(format!("listen {address}: the handler has on_datagram only: listen on udp:HOST:PORT"))
        }
        _ => Ok(handler),
    }
}

fn panic_text(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("(no text)")
}

/// Tells the master why this worker cannot serve, and exits.
pub fn fail(worker: &Worker, reason: String) -> ! {
    tell(worker, &Notice::Failed(reason));
    process::exit(EXIT_FAILED)
}

/// Sends a notice that must reach the master before anything else happens.
fn tell(worker: &Worker, notice: &Notice) {
    let sent = worker.messages().notify(notice).map_err(io::Error::other);
    if let Err(e) = sent.and_then(|()| worker.messages().flush_all(PATIENCE)) {
        log!("worker {}: tell the master: {e}", worker.id());
        process::exit(EXIT_FAILED);
    }
}

/// Returns the number of connections that this worker has descriptors for, up to `max-conns`. Raises the soft limit as far as
/// that needs.
fn connection_limit(config: &Config) -> u32 {
    let wanted = u64::from(config.max_conns);
    // Twice the reserve, because descriptors that are open already count as well; they are far fewer than the reserve.
    let have = process::raise_descriptor_limit(wanted + 2 * DESCRIPTOR_RESERVE).unwrap_or(0);
    u32::try_from(have.saturating_sub(2 * DESCRIPTOR_RESERVE).min(wanted)).unwrap_or(u32::MAX).max(1)
}
