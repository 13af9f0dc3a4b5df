//! A worker process: takes connections from the handoff channel, runs the handler on them, counts.
//!
//! Single-threaded, forked from the master (or the whole server, `one_process.rs`), ends with `_exit`, or if that is set, exit(3). Learns of the master's death as end of file on its channels.

mod all_streams;
pub mod call;
mod channel;
pub mod conn;
pub mod conns;
pub mod datagram;
mod deadlines;
mod delivery;
mod engine;
mod event_loop;
pub mod failure;
pub mod handed;
pub mod handler;
pub mod handover;
pub mod http;
mod intake;
mod linger;
pub mod messages;
pub mod one_process;
pub mod own_sockets;
pub mod recent;
pub mod routes;
pub mod source;
pub mod stepped;
mod stream;
mod table;
mod this_worker;
mod timers;
pub mod topics;
mod touched;
mod udp;
mod user;
mod waker;
pub mod wakeups;
mod watches;

use crate::config::{Config, WorkerExit};
use crate::error::Misconfigured;
use crate::event::{Kind, WorkerState};
use crate::handoff::HandoffEnd;
use crate::log::log;
use crate::message::{Inbox, Notice, Undelivered};
use crate::role::{self, Role};
use crate::scoreboard::{Common, Word};
use crate::sys::stderr::{self, RestoreStderr};
use crate::sys::{crash, forks, overdue, parent, process, signal};
use call::call_apart;
use failure::StartFailure;
use handed::Handed;
use handler::Handler;
use intake::DESCRIPTOR_RESERVE;
use own_sockets::OwnSocket;
use source::{Opened, Source};
use std::any::Any;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::panic::{self, AssertUnwindSafe, catch_unwind};
use std::time::Duration;
use this_worker::OnWake;
pub use this_worker::{EXIT_FAILED, OnTimer, Own, SelfInfo, Served, Worker};
pub use user::User;
use waker::Queue;

/// When memory runs out, the kernel counts a worker as larger by this many thousandths of all memory, so that it kills workers
/// before their master, which can replace them.
const MEMORY_HANDICAP: i32 = 100;
/// The time beyond the drain-timeout after which a worker whose master is gone is killed, in case it has not ended by itself; as long as
/// a master would wait.
const LAST_MOMENT: Duration = Duration::from_secs(1);
/// The time that a worker waits for room in its channel to the master.
const PATIENCE: Duration = Duration::from_secs(5);
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

/// Runs the worker, right after the fork. Never returns.
pub fn run(source: &mut dyn Source, config: &Config, setup: WorkerSetup<'_>, poll: &mut mio::Poll) -> ! {
    prepare(config, &setup);
    // Fails only if the kernel has no such file, and then it does not choose by it.
    let _ = process::offer_memory(MEMORY_HANDICAP);
    tell(setup.worker, &Notice::Online);
    serve(source, config, setup, poll)
}

/// Goes on as the worker that another copy of this code has prepared ([`source::Successor`]). Never returns.
pub fn succeed(source: &mut dyn Source, config: &Config, setup: WorkerSetup<'_>, poll: &mut mio::Poll) -> ! {
    prepare(config, &setup);
    serve(source, config, setup, poll)
}

/// Sets what this copy of the code keeps of its process.
fn prepare(config: &Config, setup: &WorkerSetup<'_>) {
    let worker = setup.worker;
    worker.set_current();
    signal::count(signal::SIGTERM, &setup.leave);
    forks::watch(setup.own_sockets.iter().map(|socket| socket.fd.as_fd()), setup.leave.as_fd());
    // Zero is no limit.
    let limit = Some(config.drain_timeout).filter(|limit| !limit.is_zero()).map(|limit| limit + LAST_MOMENT);
    if let Err(e) = parent::watch(setup.master, limit) {
        fail(worker, format!("prctl: {e}").into());
    }
    match config.timeout.as_millis() as u64 {
        0 => {}
        limit => overdue::watch(worker.info.page.word(Word::BusySince), limit),
    }
    crash::watch(worker.info.page.crash_area(), worker.info.page.word(Word::BusySince));
    introduce(worker);
    let usual = panic::take_hook();
    panic::set_hook(Box::new(move |about| {
        // The usual hook waits until standard error is read, and the client of the request would wait with it.
        if crate::log::is_read() {
            usual(about);
        }
    }));
}

/// Opens the handler and serves with it.
fn serve(source: &mut dyn Source, config: &Config, setup: WorkerSetup<'_>, poll: &mut mio::Poll) -> ! {
    let worker = setup.worker;
    let started = catch_unwind(AssertUnwindSafe(|| start(worker, |worker| source.open(worker))));
    call::end_copy("worker_start");
    let handler = match started {
        Ok(Ok(Opened::Handler(handler))) => handler,
        Ok(Ok(Opened::Successor(successor))) => successor.serve(hand_over(config, setup)),
        Ok(Err(failure)) => fail(worker, failure),
        Err(panic) => fail(worker, format!("panic: {}", panic_text(&*panic)).into()),
    };
    if let Err(e) = parent::watch_again() {
        fail(worker, format!("prctl: {e}").into());
    }
    // The handler may have closed some, and connections come next.
    let _ = stderr::open_missing();
    let kind = handler.kind();
    let limit = limit_of(kind, config);
    worker.state.set(WorkerState::Ready);
    if !handler.is_same_everywhere() {
        let takes_requests = |at: &u16| handler.kind_at(*at) == Kind::Request;
        let bits = (0..worker.info.listeners.len() as u16).filter(takes_requests).map(|at| 1 << at).sum();
        tell(worker, &Notice::Serves { takes_requests: bits });
    }
    tell(worker, &Notice::Ready { kind: kind as u8, limit });
    parent::end_call();
    let (mut handler, served) = event_loop::EventLoop::new(handler, config, limit, setup, poll).serve();
    if let Err(e) = served {
        log!(Error, "{e}");
        process::exit(EXIT_FAILED);
    }
    forks::forget();
    let page = worker.info.page;
    let stopped = catch_unwind(AssertUnwindSafe(|| call_apart(page, "worker_stop", || handler.stop(worker))));
    failure::report_panic("worker_stop", stopped.ok());
    call::end_copy("worker_stop");
    if config.worker_exit == WorkerExit::Full {
        let dropped = catch_unwind(AssertUnwindSafe(|| call_apart(page, "drop", || drop(handler))));
        failure::report_panic("drop", dropped.ok());
        call::end_copy("drop");
    }
    // The messages that the handler has just sent. This fails if the master is gone.
    let _ = worker.messages().flush_all(PATIENCE);
    match config.worker_exit {
        WorkerExit::Quick => process::exit(0),
        WorkerExit::Full => std::process::exit(0),
    }
}

/// Has this copy of the code let go of the worker, for a [`source::Successor`].
fn hand_over<'a>(config: &'a Config, setup: WorkerSetup<'a>) -> Handed<'a> {
    // The numbers of the sockets may stand for others soon. The successor watches for forks and faults itself.
    forks::unwatch();
    crash::unwatch();
    Worker::unset_current();
    Handed { config, setup, alone: None }
}

/// Makes the worker's numbers known to the handler, to programs that it executes, and to ps(1).
fn introduce(worker: &Worker) {
    let (id, slot, generation) = (worker.id(), worker.slot(), worker.generation());
    role::set(Role::Worker { id, slot, generation });
    process::set_name(&format!("prefork/{slot}"));
    for (name, value) in numbers(worker) {
        process::set_environment(name, &value.to_string());
    }
}

/// The variables with a worker's numbers.
fn numbers(worker: &Worker) -> [(&'static str, u32); 3] {
    let (id, slot, generation) = (worker.id(), worker.slot(), worker.generation());
    [("PREFORK_WORKER_ID", id), ("PREFORK_SLOT", slot), ("PREFORK_GENERATION", generation)]
}

/// Opens and starts the handler.
fn start(
    worker: &'static Worker,
    open: impl FnOnce(&Worker) -> Result<Opened, StartFailure>,
) -> Result<Opened, StartFailure> {
    let page = worker.info.page;
    let mut handler = match call_apart(page, "load", || open(worker))? {
        Opened::Handler(handler) => handler,
        successor @ Opened::Successor(_) => return Ok(successor),
    };
    call_apart(page, "worker_start", || handler.start(worker))?;
    Ok(Opened::Handler(routes::join(handler, worker)?))
}

/// The queue of a worker of [`crate::testing`] for what its threads have run.
pub fn queue_of_test() -> Queue<OnWake> {
    let mut queue = Queue::default();
    queue.is_of_test = true;
    queue
}

/// The connections that a worker may have at a time.
fn limit_of(kind: Kind, config: &Config) -> u32 {
    match kind {
        Kind::Blocking | Kind::Datagram => 1,
        Kind::Request | Kind::Stream => connection_limit(config),
    }
}

/// The text of a panic.
pub fn panic_text(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("(no text)")
}

/// Tells the master why this worker cannot serve, and exits.
pub fn fail(worker: &Worker, failure: StartFailure) -> ! {
    tell(worker, &Notice::Failed(failure.reason));
    process::exit(if failure.is_misconfigured { Misconfigured::EXIT_CODE } else { EXIT_FAILED })
}

/// Sends a notice that must reach the master before anything else happens.
fn tell(worker: &Worker, notice: &Notice) {
    let told = match worker.messages().notify(notice) {
        Ok(()) => worker.messages().flush_all(PATIENCE),
        // Nobody is there to be told, nor to read why: the server has ended meanwhile.
        Err(Undelivered::Gone) => process::exit(EXIT_FAILED),
        Err(other) => Err(io::Error::other(other)),
    };
    if let Err(e) = told {
        if e.kind() != io::ErrorKind::BrokenPipe {
            log!(Error, "tell the master: {e}");
        }
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
