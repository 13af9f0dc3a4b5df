//! A worker: takes connections from the handoff channel, runs the handler on them, counts.
//!
//! Single-threaded, forked from the master, leaves by `_exit`. Learns of the master's death as end of file on its channel.

mod blocking;
mod channel;
pub mod conn;
pub mod datagram;
mod deadlines;
pub mod engine;
mod event_loop;
pub mod handler;
pub mod http;
mod intake;
pub mod mailbox;
pub mod own_sockets;
mod stream;
mod table;

use crate::config::Config;
use crate::event::{LastExit, WorkerInfo, WorkerState, WorkerStatus};
use crate::handoff::HandoffEnd;
use crate::log::log;
use crate::message::{Inbox, Notice, Undelivered};
use crate::role::{self, Role};
use crate::scoreboard::{Common, Word, WorkerPage};
use crate::server::Source;
use crate::sys::stderr::RestoreStderr;
use crate::sys::{overdue, process, signal, time};
use handler::{Handler, Kind};
use mailbox::Mailbox;
use std::any::Any;
use std::cell::Cell;
use std::ffi::CString;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::panic::{self, AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::time::{Duration, SystemTime};

/// Exit code of a worker that could not serve; its reason went to the master.
pub const EXIT_FAILED: i32 = 70;
/// By so many thousandths of all memory a worker counts as larger than it is where memory runs out: it goes before its master,
/// which can start another.
const OFFERED: i32 = 100;
/// How long a worker waits for room in its channel to the master.
const PATIENCE: Duration = Duration::from_secs(5);
/// Descriptors a worker leaves free: for what its handler opens, and so that one that arrives always finds a place.
pub const DESCRIPTOR_RESERVE: u64 = 32;

/// The worker this code runs in, as its handler sees it; of use in that process and its first thread alone. A clone is the same
/// worker: keep one to send messages from callbacks that are not given it.
#[derive(Clone, Debug)]
pub struct Worker {
    id: u32,
    slot: u32,
    generation: u32,
    args: Rc<[CString]>,
    leaves: Rc<Cell<bool>>,
    mailbox: Rc<Mailbox>,
    own: Rc<SelfInfo>,
    state: Rc<Cell<WorkerState>>,
}

/// What a worker knows of itself besides its numbers.
#[derive(Debug)]
pub struct SelfInfo {
    /// When it was forked, by the wall clock.
    pub started: SystemTime,
    /// The same by the monotonic clock (milliseconds).
    pub forked_at: u64,
    /// How the last worker of its slot that had ended then did.
    pub last_exit: Option<LastExit>,
    /// Its counters.
    pub page: WorkerPage,
}

thread_local! {
    static CURRENT: Cell<Option<&'static Worker>> = const { Cell::new(None) };
}

impl Worker {
    pub(crate) fn new(
        id: u32,
        slot: u32,
        generation: u32,
        args: &[CString],
        own: SelfInfo,
        mailbox: Mailbox,
    ) -> Self {
        Self {
            id,
            slot,
            generation,
            args: args.into(),
            leaves: Rc::default(),
            mailbox: Rc::new(mailbox),
            own: Rc::new(own),
            state: Rc::new(Cell::new(WorkerState::Starting)),
        }
    }

    /// The worker this process is, in its first thread; `None` elsewhere. [`crate::role`] tells who it is in any thread.
    pub fn current() -> Option<&'static Self> {
        CURRENT.get().filter(|_| matches!(role::role(), Role::Worker { .. }))
    }

    /// Has this worker leave on its own account: it gets no more connections, another one takes its place, and when it has
    /// finished what it has it exits with code 0. Returns at once; it can be said once, and not taken back. A worker that leaves
    /// soon after its start is replaced with a delay.
    pub fn leave(&self) {
        self.leaves.set(true);
    }

    /// Whether the call of the handler that is running, or was last, has taken longer than [`crate::Config::timeout`]. The worker
    /// is out of dispatch then, and what waited for it went to others; a second later it gets SIGABRT. A call that may be long can
    /// look now and then, and come to its end while there is time: its client is answered, and the worker is let in again.
    ///
    /// May be called in any thread, and in a signal handler. Where there is no limit it is never so.
    pub fn is_overdue(&self) -> bool {
        overdue::is_overdue()
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

    /// What there is to say of this worker: its numbers, its process id, how far it has come, when it was forked, what it has
    /// counted, and how the one before it in its slot ended.
    pub fn status(&self) -> WorkerStatus {
        let SelfInfo { started, forked_at, last_exit, page } = *self.own;
        let in_flight = page.get(Word::Taken).saturating_sub(page.get(Word::Finished));
        WorkerStatus {
            worker: WorkerInfo {
                id: self.id,
                slot: self.slot,
                generation: self.generation,
                pid: process::own_pid(),
            },
            state: self.state.get(),
            started,
            age: Duration::from_millis(time::monotonic_ms().saturating_sub(forked_at)),
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

    /// The arguments that stand behind the handler on the command line.
    pub fn args(&self) -> &[CString] {
        &self.args
    }

    /// Sends a message of a type of your own to another worker by its id, to [`crate::MASTER`], or to [`crate::ALL`] other
    /// workers (not the master). Never waits: what the channel does not take at once is sent as soon as this worker's callback has
    /// returned and there is room.
    ///
    /// Messages from one process to another arrive in the order they were sent. A message to a worker that has ended is lost;
    /// [`Worker::request`] tells.
    ///
    /// # Errors
    /// [`Undelivered::TooLarge`] over [`crate::Config::max_message`]; [`Undelivered::Full`] where four messages of that size
    /// wait already, here or for that worker; [`Undelivered::Gone`] where the master is gone.
    pub fn send(&self, to: u32, kind: u32, bytes: &[u8]) -> Result<(), Undelivered> {
        self.mailbox.send(to, kind, bytes)
    }

    /// Sends a message that is to be answered. `on_reply` is called once, from this worker's loop: with the reply, or with the
    /// reason why there is none. The deadline has a resolution of milliseconds; zero is for ever, that is, until the receiver
    /// ends.
    ///
    /// # Errors
    /// As [`Worker::send`], then `on_reply` is not called; [`Undelivered::Impossible`] to all.
    pub fn request(
        &self,
        to: u32,
        kind: u32,
        bytes: &[u8],
        deadline: Duration,
        on_reply: impl FnOnce(Result<&[u8], Undelivered>) + 'static,
    ) -> Result<(), Undelivered> {
        self.mailbox.request(to, kind, bytes, deadline, Box::new(on_reply))
    }

    /// Answers the request that [`Handler::on_message`] is being called for, once. Who returns from there without having replied
    /// will not: the sender is told [`Undelivered::Unanswered`].
    ///
    /// # Errors
    /// As [`Worker::send`]; [`Undelivered::Impossible`] where there is no request to answer.
    pub fn reply(&self, bytes: &[u8]) -> Result<(), Undelivered> {
        self.mailbox.reply(bytes)
    }
}

/// What a worker gets from the master.
pub struct WorkerSetup<'a> {
    /// The worker. It lives as long as the process: a handler may keep its address.
    pub worker: &'static Worker,
    /// Its end of the handoff channel.
    pub queue: HandoffEnd,
    /// The sockets at which it takes what comes from the kernel itself.
    pub own_sockets: Vec<own_sockets::OwnSocket>,
    /// The addresses that its handler must be able to serve.
    pub addresses: Addresses,
    /// Reads the message channel.
    pub inbox: Inbox,
    /// Its counters.
    pub page: WorkerPage,
    /// The pages for all workers.
    pub common: Common,
    /// Wakes the master.
    pub wake: BorrowedFd<'a>,
    /// Readable when a signal asks this worker to leave.
    pub leave: OwnedFd,
    /// Its own standard error, which passes through the master until this worker has proved itself.
    pub stderr: Option<RestoreStderr>,
}

/// The first address of each kind that is listened on.
pub struct Addresses {
    /// For connections.
    pub connections: Option<String>,
    /// For datagrams.
    pub datagrams: Option<String>,
}

/// The life of a worker, right after the fork. Never returns.
pub fn run(source: &mut dyn Source, config: &Config, setup: WorkerSetup<'_>, poll: &mut mio::Poll) -> ! {
    CURRENT.set(Some(setup.worker));
    process::set_name(&format!("prefork/{}", setup.worker.slot));
    signal::count(signal::SIGTERM, &setup.leave);
    match config.timeout.as_millis() as u64 {
        0 => {}
        limit => overdue::watch(setup.page.word(Word::BusySince), limit),
    }
    introduce(setup.worker);
    // Where there is no such file, nobody is chosen by it.
    let _ = process::offer_memory(OFFERED);
    let usual = panic::take_hook();
    panic::set_hook(Box::new(move |about| {
        // The usual hook waits for whoever reads standard error; the client of this request need not.
        if crate::log::is_read() {
            usual(about);
        }
    }));
    tell(setup.worker, &Notice::Online);
    let started = guarded(|| start(source, &setup));
    let mut handler = match started {
        Ok(handler) => handler,
        Err(text) => fail(setup.worker, text),
    };
    let kind = handler.kind();
    let limit = match kind {
        Kind::Connection | Kind::Datagram => 1,
        Kind::Request | Kind::Data => descriptor_credit(config),
    };
    setup.worker.state.set(WorkerState::Ready);
    tell(setup.worker, &Notice::Ready { kind: kind as u8, limit });
    let WorkerSetup { worker, queue, own_sockets, inbox, page, common, wake, leave, stderr, .. } = setup;
    let own = own_sockets::OwnSockets::new(own_sockets, kind == Kind::Connection);
    let intake = intake::Intake::new(worker, page, queue, own, (common, wake), poll);
    let channel = channel::Channel::new(worker, inbox, leave, stderr, config.drain_timeout, poll);
    let ends = (worker, intake, channel);
    let event_loop = event_loop::EventLoop::new(&mut *handler, kind, config, limit, ends, poll);
    if let Err(e) = event_loop.serve() {
        log!("worker {}: {e}", worker.id);
        process::exit(EXIT_FAILED);
    }
    let _ = catch_unwind(AssertUnwindSafe(|| handler.stop(worker)));
    // What the handler has just sent. If the master is gone, that fails.
    let _ = worker.mailbox.finish(PATIENCE);
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

fn start(source: &mut dyn Source, setup: &WorkerSetup<'_>) -> Result<Box<dyn Handler>, String> {
    let mut handler = source.open(setup.worker)?;
    handler.start(setup.worker)?;
    setup.addresses.are_served_by(&*handler)?;
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

/// Says why this worker cannot serve, and leaves.
pub fn fail(worker: &Worker, text: String) -> ! {
    tell(worker, &Notice::Failed(text));
    process::exit(EXIT_FAILED)
}

/// Says something to the master that must arrive before anything else happens.
fn tell(worker: &Worker, notice: &Notice) {
    let sent = worker.mailbox.notify(notice).map_err(io::Error::other);
    if let Err(e) = sent.and_then(|()| worker.mailbox.finish(PATIENCE)) {
        log!("worker {}: tell the master: {e}", worker.id);
        process::exit(EXIT_FAILED);
    }
}

/// How many connections this worker has descriptors for, up to `max-conns`. The soft limit is raised as far as that needs.
fn descriptor_credit(config: &Config) -> u32 {
    let wanted = u64::from(config.max_conns);
    // What is open already counts too; it is far less than the reserve again.
    let have = process::raise_descriptor_limit(wanted + 2 * DESCRIPTOR_RESERVE).unwrap_or(0);
    u32::try_from(have.saturating_sub(2 * DESCRIPTOR_RESERVE).min(wanted)).unwrap_or(u32::MAX).max(1)
}
