//! The worker that this process is, as its handler has it.

use super::conns::Conns;
use super::messages::WorkerMessages;
use super::recent::Recent;
use super::timers::Timers;
use super::topics::Topics;
use super::waker::Queue;
use super::watches::Watches;
use crate::event::{LastExit, WorkerInfo, WorkerState, WorkerStatus};
use crate::ids::{Generation, Slot, WorkerId};
use crate::message::Undelivered;
use crate::role::{self, Role};
use crate::scoreboard::{Word, WorkerPage};
use crate::sys::poll::Interest;
use crate::sys::time::Time;
use crate::sys::{overdue, process};
use std::cell::{Cell, RefCell};
use std::ffi::CString;
use std::fmt;
use std::os::fd::RawFd;
use std::ptr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicPtr;
use std::sync::atomic::Ordering::Relaxed;
use std::time::SystemTime;

/// Exit code of a worker that could not serve, and has told the master why.
pub const EXIT_FAILED: i32 = 70;

/// The worker that this process is. For use in its first thread only. A clone is the same worker: keep one to send messages
/// from callbacks that are not given it.
#[derive(Clone)]
pub struct Worker {
    pub(super) info: Rc<SelfInfo>,
    pub(super) state: Rc<Cell<WorkerState>>,
    /// The time at which to tell the master that this worker leaves by itself.
    pub(super) leave_at: Rc<Cell<Time>>,
    /// It drains, and others go on with what it hands over.
    pub(super) hands_over: Rc<Cell<bool>>,
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
    /// The listeners, in the order of the settings.
    pub listeners: Vec<Served>,
    /// What it has made itself.
    pub own: Own,
}

/// What a worker makes while it serves; nothing at its start.
#[derive(Default)]
pub struct Own {
    /// Its streams.
    pub conns: Conns,
    /// What its streams have subscribed to.
    pub topics: Topics,
    /// What was published to them last.
    pub recent: Recent,
    /// Its handler's timers.
    pub timers: RefCell<Timers<OnTimer>>,
    /// The descriptors that its handler has watched.
    pub watches: RefCell<Watches<OnReady>>,
    /// What its threads have queued for the first.
    pub woken: Arc<Queue<OnWake>>,
}

/// What is called of a watched descriptor: with its number, and what it is ready for.
pub type OnReady = Box<dyn FnMut(&Worker, RawFd, Interest)>;

/// What a thread has run in the first.
pub type OnWake = Box<dyn FnOnce(&Worker) + Send>;

/// A listener as a worker knows it.
pub struct Served {
    /// The name; empty if it has none.
    pub name: CString,
    /// The address.
    pub address: String,
    /// It is for datagrams.
    pub takes_datagrams: bool,
}

/// What a timer calls.
pub enum OnTimer {
    /// Once.
    Once(Box<dyn FnOnce(&Worker)>),
    /// Each time that it is due.
    Each(Box<dyn FnMut(&Worker)>),
}

impl fmt::Debug for Worker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Worker").field("id", &self.id()).finish_non_exhaustive()
    }
}

/// A worker that is never freed. A tool that looks for leaks finds it from [`LAST`].
struct Kept {
    worker: Worker,
    before: AtomicPtr<Kept>,
}

static LAST: AtomicPtr<Kept> = AtomicPtr::new(ptr::null_mut());

thread_local! {
    static CURRENT: Cell<Option<&'static Worker>> = const { Cell::new(None) };
}

impl Worker {
    pub(crate) fn new(info: SelfInfo) -> Self {
        Self {
            info: Rc::new(info),
            state: Rc::new(Cell::new(WorkerState::Starting)),
            leave_at: Rc::new(Cell::new(Time::NEVER)),
            hands_over: Rc::default(),
        }
    }

    /// A worker that is never freed: a handler may keep its address.
    pub(crate) fn kept(info: SelfInfo) -> &'static Self {
        let kept = Box::leak(Box::new(Kept { worker: Self::new(info), before: AtomicPtr::default() }));
        let kept: &'static Kept = kept;
        kept.before.store(LAST.swap(ptr::from_ref(kept).cast_mut(), Relaxed), Relaxed);
        &kept.worker
    }

    /// Makes this the worker that [`Worker::current`] returns in this thread.
    pub(super) fn set_current(&'static self) {
        CURRENT.set(Some(self));
    }

    /// Undoes [`Worker::set_current`].
    pub(super) fn unset_current() {
        CURRENT.set(None);
    }

    /// As [`Worker::set_current`], while a worker of [`crate::testing`] runs; returns the one before.
    pub(super) fn replace_current(worker: Option<&'static Self>) -> Option<&'static Self> {
        CURRENT.replace(worker)
    }

    /// The worker that this process is, in its first thread; `None` elsewhere. [`crate::role`] works in any thread.
    pub fn current() -> Option<&'static Self> {
        CURRENT.get().filter(|_| matches!(role::role(), Role::Worker { .. }))
    }

    /// True in the first thread of the worker's own process.
    pub(crate) fn is_here(&self) -> bool {
        Self::current().is_some()
    }

    /// True in the first thread of a worker, and of a process that its handler has forked there.
    pub(crate) fn is_first_thread() -> bool {
        CURRENT.get().is_some()
    }

    /// Has this worker leave of its own accord: it gets no more connections, another takes its place, and when it has drained
    /// it exits with code 0. Returns at once, and cannot be undone. A worker that leaves soon after its start is replaced with a
    /// delay.
    pub fn leave(&self) {
        self.leave_at.set(Time::default());
    }

    /// True while this worker drains and other workers stay, which go on with the streams that it hands over
    /// ([`crate::Handler::on_handover`]). False if it does not drain; and if the server stops, or its master is gone: then its
    /// streams are to be ended here. That may begin while it drains.
    pub fn hands_over(&self) -> bool {
        self.hands_over.get()
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
        let SelfInfo { started, forked_at, page, .. } = *self.info;
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
            idle: u32::try_from(page.get(Word::Idle)).unwrap_or(u32::MAX),
            queued: 0,
            requests: page.get(Word::Requests),
            errors: page.get(Word::Errors),
            bytes_in: page.get(Word::BytesIn),
            bytes_out: page.get(Word::BytesOut),
            skipped: page.get(Word::Skipped),
            streams: u32::try_from(page.get(Word::Streams)).unwrap_or(u32::MAX),
            kept_responses: u32::try_from(page.get(Word::Later)).unwrap_or(u32::MAX),
            within: None,
            rss: None,
            last_exit: self.info.last_exit.clone(),
        }
    }

    /// The arguments for the handler: those that follow it on the command line.
    pub fn args(&self) -> &[CString] {
        &self.info.args
    }

    /// The listeners.
    pub(crate) fn listeners(&self) -> &[Served] {
        &self.info.listeners
    }

    pub(super) fn messages(&self) -> &WorkerMessages {
        &self.info.messages
    }

    /// Its messages, for its first thread: what they hold has no lock.
    pub(super) fn messages_here(&self) -> Result<&WorkerMessages, Undelivered> {
        if Self::is_first_thread() { Ok(self.messages()) } else { Err(Undelivered::Impossible) }
    }
}
