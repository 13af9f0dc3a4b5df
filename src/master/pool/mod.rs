//! The pool: which worker has which connection.
//!
//! It accepts connections, dispatches each to a worker, takes back what workers have not taken or hand back, and watches their
//! health. It makes no system call itself: a [`System`] gives it queues to workers and backlogs to accept from. The master's is
//! `system.rs`; the simulator has another, and runs this very code.
//!
//! No connection is ever in two places: it is in a backlog, parked here, in the queue of one worker, or with one worker.

mod accept;
mod dispatch;
mod health;
mod returns;
mod shares;
mod system;
mod workers;

use crate::config::{Accept, Config, Dispatch};
use crate::handoff::{Given, Origin, Taken};
use crate::ids::{ListenerId, Page, WorkerId};
use crate::scoreboard::Word;
use crate::sys::time::Time;
pub use health::Findings;
pub use returns::Return;
use std::collections::VecDeque;
use std::fmt::Arguments;
use std::io;
pub use system::{HandoffQueue, Kernel, WorkerLink};
pub use workers::{PAGES, WorkerEntry, Workers};

/// The kernel's part, as the pool needs it.
pub trait System {
    /// What the poll is.
    type Poll;
    /// A connection.
    type Connection;
    /// The link to a worker.
    type Link: Link<Poll = Self::Poll, Queue: Queue<Connection = Self::Connection>>;
    /// A listener.
    type Backlog: Backlog<Poll = Self::Poll, Connection = Self::Connection>;

    /// Makes sure that the next descriptor can be opened. `false` if none is free.
    fn make_room(&mut self) -> bool;

    /// Restores the reserve of descriptors.
    fn refill_reserve(&mut self);

    /// Says to the workers whether the master waits for room; the one that makes room then wakes it.
    fn set_waiting(&mut self, waits: bool);

    /// Allows workers to take connections and datagrams from their own sockets.
    fn allow_intake(&mut self);

    /// Says to the workers that no others follow them: one that drains takes all that waits at its own sockets first.
    fn start_final_intake(&mut self);

    /// The number that dispatch has for the client of a connection; `None` for one without an IP address.
    fn client_of(connection: &Self::Connection) -> Option<u64>;

    /// Writes a line to the log.
    fn log(&self, line: Arguments<'_>);
}

/// The two queues between the master and one worker: of connections to it, and of those that it hands back. They outlive the
/// worker.
pub trait Queue {
    /// As [`System::Connection`].
    type Connection;

    /// Queues a connection for the worker; the caller's copy can be closed after [`Given::Done`].
    fn give(&self, connection: &Self::Connection, origin: Origin) -> io::Result<Given>;

    /// Takes the oldest message to the worker out of its queue again.
    fn reclaim(&self) -> io::Result<Taken<Self::Connection>>;

    /// Takes the oldest connection that the worker has handed back.
    fn take_returned(&self) -> io::Result<Taken<Self::Connection>>;

    /// Queues a probe, by which a worker that takes it shows that it is back. `false` if the queue is full.
    fn probe(&self) -> bool;
}

/// The link to one worker: its queues, its counters, and what the poll knows of it.
pub trait Link {
    /// As [`System::Poll`].
    type Poll;
    /// The queues.
    type Queue: Queue;

    /// The queues.
    fn queue(&self) -> &Self::Queue;

    /// The queues, of a worker that has ended.
    fn into_queue(self) -> Self::Queue;

    /// Reads a counter of the worker's page.
    fn count(&self, word: Word) -> u64;

    /// Has the poll report what the worker hands back.
    fn watch_returns(&self, poll: &Self::Poll, page: Page) -> io::Result<()>;

    /// Has the poll report it no more.
    fn unwatch_returns(&self, poll: &Self::Poll);

    /// The memory that the worker holds in RAM (bytes), if that can be told.
    fn memory(&self) -> Option<u64>;
}

/// A listener: its sockets, and the connections that wait there.
pub trait Backlog {
    /// As [`System::Poll`].
    type Poll;
    /// As [`System::Connection`].
    type Connection;

    /// Accepts a connection; with the client's number for dispatch if `with_client` is set and there is one.
    ///
    /// # Errors
    /// As accept(2); `EAGAIN` if none waits.
    fn accept(&mut self, with_client: bool) -> io::Result<(Self::Connection, Option<u64>)>;

    /// True if the poll reports all sockets at which the master accepts, of which there is at least one.
    fn is_watched(&self) -> bool;

    /// True if the master accepts here and the poll does not report it.
    fn is_paused(&self) -> bool;

    /// Has the poll report the listener as long as a connection waits.
    fn resume(&mut self, poll: &Self::Poll) -> io::Result<()>;

    /// Leaves connections to the backlog until [`Backlog::resume`].
    fn pause(&mut self, poll: &Self::Poll) -> io::Result<()>;

    /// Has the kernel add nothing to the backlog any more, as far as it can.
    fn stop_intake(&mut self);

    /// Counts a connection that was accepted while the server stops; false if there can be no more.
    fn expects_more(&mut self) -> bool;

    /// True if it is UDP, which workers read.
    fn takes_datagrams(&self) -> bool;

    /// True if workers take what comes here from the kernel themselves.
    fn is_for_workers(&self, accept: Accept) -> bool;

    /// Divides the sockets between the master and the workers: the master accepts at all of them if `all`, and otherwise at
    /// those of slots without an admitted worker. `slots` is the number of slots.
    fn divide(&mut self, poll: &Self::Poll, slots: usize, all: bool, is_admitted: impl Fn(usize) -> bool);
}

/// The settings of the pool.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// How a worker is chosen.
    pub dispatch: Dispatch,
    /// Who accepts.
    pub accept: Accept,
    /// Connections that a worker may leave in its queue.
    pub max_queued: u64,
    /// Connections taken in one turn from one listener that is not watched, so that signals and deaths get their turn.
    pub batch: usize,
    /// True if workers give of their connections after a scale-up.
    pub rebalance: bool,
    /// True if calls of handlers have a time limit.
    pub times_calls: bool,
    /// True if workers are replaced after a number of requests.
    pub counts_requests: bool,
    /// The memory after which a worker is replaced (bytes); 0 is never.
    pub max_memory: u64,
}

impl Rules {
    /// The rules that the settings ask for.
    pub fn new(config: &Config) -> Self {
        Self {
            dispatch: config.dispatch,
            accept: config.accept,
            max_queued: MAX_QUEUED,
            batch: BATCH,
            rebalance: config.rebalance,
            times_calls: !config.timeout.is_zero(),
            counts_requests: config.max_requests > 0,
            max_memory: config.max_memory,
        }
    }
}

/// Connections that a worker may leave in its queue: enough to keep it going, few enough that one that stands still holds up few,
/// and that all queues together stay below what the kernel lets an ordinary user have in flight (`ETOOMANYREFS`).
const MAX_QUEUED: u64 = 64;
/// See [`Rules::batch`].
const BATCH: usize = 64;

/// A connection that the master has and no worker yet.
pub struct Unplaced<C> {
    /// The connection.
    pub connection: C,
    /// The listener it came from, and whether a worker has served it before.
    pub origin: Origin,
    /// The client's number, if dispatch asks for it and the client has an address.
    pub client: Option<u64>,
    /// The worker that has shed it, which is not to get it again.
    pub shed_by: Option<WorkerId>,
}

/// The queues of a system's workers.
type QueueOf<S> = <<S as System>::Link as Link>::Queue;

/// What the pool knew of a worker that was reaped.
pub struct Removed {
    /// Why it could not serve, in its own words.
    pub failure: Option<String>,
    /// True if it was ready.
    pub was_ready: bool,
    /// Connections that it had not taken, and that others get.
    pub queued: u64,
    /// Connections that it had in progress.
    pub lost: u64,
}

/// Which worker has which connection.
pub struct Pool<S: System> {
    /// The running workers.
    pub workers: Workers<S::Link>,
    /// The listeners, by [`ListenerId`].
    pub listeners: Vec<S::Backlog>,
    /// The kernel's part.
    pub system: S,
    rules: Rules,
    /// The monotonic clock, read once a turn.
    now: Time,
    /// The slot whose turn it is under round robin.
    cursor: usize,
    /// The one connection that was accepted when no queue would take it.
    parked: Option<Unplaced<S::Connection>>,
    returns: VecDeque<Return<QueueOf<S>>>,
    /// Checks of the workers' shares that are left after a scale-up.
    share_checks: u32,
    /// Nothing is accepted before this time.
    resting_until: Time,
    /// The time until which a shortage of descriptors or memory counts as one; never if there is none.
    shortage_until: Time,
    /// The next check of the workers' health.
    check_at: Time,
    /// The next look at their memory.
    memory_at: Time,
    /// A turn was cut short: the next one must not sleep.
    has_more: bool,
    /// True while a stop empties the backlogs.
    is_emptying: bool,
    /// By listener: a stop has found its backlog empty.
    emptied: u64,
    /// A rule that the simulator has broken.
    #[cfg(test)]
    pub fault: Option<Fault>,
}

/// Rules that the simulator breaks, to see that its checks find that.
#[cfg(test)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// What a worker has shed may be given back to it.
    ShedToItself,
    /// What a dead worker had not taken is dropped.
    QueueOfTheDeadForgotten,
    /// A connection that is reclaimed from a worker still counts as given to it.
    ReclaimedStillCounts,
    /// A probe that is reclaimed still counts as sent.
    ProbeStillCounts,
    /// A worker that is found stuck gets what waits for it back.
    StuckNotReclaimed,
    /// A worker that has been stuck stays out for good.
    StuckForever,
    /// The connection that no worker takes is forgotten.
    ParkedForgotten,
    /// Room that was made between the last look and the word that the master waits is not noticed.
    NoSecondLook,
    /// What a worker hands back is not watched for any more once it was found empty.
    ReturnsNotRewatched,
    /// Workers are checked half as often.
    ChecksSeldom,
}

/// True if the simulator has broken this rule; never in the product.
#[cfg(test)]
macro_rules! broken {
    ($pool:expr, $fault:ident) => {
        $pool.fault == Some(crate::master::pool::Fault::$fault)
    };
}
#[cfg(not(test))]
macro_rules! broken {
    ($pool:expr, $fault:ident) => {
        false
    };
}
use broken;

impl<S: System> Pool<S> {
    /// A pool without workers.
    pub fn new(system: S, listeners: Vec<S::Backlog>, rules: Rules, now: Time) -> Self {
        Self {
            workers: Workers::new(),
            listeners,
            system,
            rules,
            now,
            cursor: 0,
            parked: None,
            returns: VecDeque::new(),
            share_checks: 0,
            resting_until: Time::default(),
            shortage_until: Time::NEVER,
            // Checks go on by themselves from the first one, as long as there is something to watch.
            check_at: if rules.times_calls || rules.counts_requests {
                now + health::CHECK
            } else {
                Time::NEVER
            },
            memory_at: if rules.max_memory > 0 { now + health::MEMORY_CHECK } else { Time::NEVER },
            has_more: false,
            is_emptying: false,
            emptied: 0,
            #[cfg(test)]
            fault: None,
        }
    }

    /// A turn of the master's loop begins.
    pub fn begin_turn(&mut self, now: Time) {
        self.now = now;
    }

    /// True if the next turn must not sleep.
    pub fn has_more(&self) -> bool {
        self.has_more
    }

    /// The time at which [`Pool::run_timers`] has something to do.
    pub fn due(&self) -> Time {
        let rest_ends = if self.resting_until > self.now { self.resting_until } else { Time::NEVER };
        rest_ends.min(self.shortage_until).min(self.check_at).min(self.memory_at)
    }

    /// Admits a worker, as the one of its slot, to dispatch.
    pub fn admit(&mut self, id: WorkerId) {
        self.workers.admit(id);
    }

    /// Gives a worker no more connections, and gives others what it has not taken.
    pub fn withdraw(&mut self, id: WorkerId) {
        self.workers.withdraw(id);
        self.reclaim_queue(id);
    }

    /// Takes out a worker that was reaped. What it had not taken and what it handed back goes to others.
    pub fn remove(&mut self, page: Page) -> Option<Removed> {
        let mut entry = self.workers.remove(page)?;
        let (queued, in_flight) = (entry.queued(), u64::from(entry.in_flight()));
        let removed = Removed {
            failure: entry.failure.take(),
            was_ready: entry.kind.is_some(),
            queued,
            lost: in_flight.saturating_sub(queued),
        };
        if !broken!(self, QueueOfTheDeadForgotten) {
            self.returns.push_back(Return::OfDeadWorker(entry.link.into_queue()));
        }
        self.check_soon();
        Some(removed)
    }

    /// The first workers are all ready: they may take connections and datagrams from their own sockets.
    pub fn allow_intake(&mut self) {
        self.system.allow_intake();
        if self.has_listeners_for_workers() {
            // Wakes them, so that they look.
            for worker in self.workers.iter() {
                worker.link.queue().probe();
            }
        }
    }

    /// Takes over the sockets of slots that have no admitted worker, and leaves the others to the workers, if these accept.
    pub fn divide_sockets(&mut self, poll: &S::Poll, slots: usize, is_stopping: bool) {
        let all = self.rules.accept == Accept::Master || is_stopping;
        let workers = &self.workers;
        for listener in &mut self.listeners {
            listener.divide(poll, slots, all, |slot| workers.is_admitted(slot));
        }
    }

    /// A stop begins: what waits in the backlogs is accepted, and nothing is added to them.
    pub fn empty_backlogs(&mut self, poll: &S::Poll) {
        self.is_emptying = true;
        self.system.start_final_intake();
        for index in 0..self.listeners.len() {
            self.pause(index, poll);
            self.listeners[index].stop_intake();
            // Datagrams that wait in a socket are for the workers to read.
            self.emptied |= u64::from(self.listeners[index].takes_datagrams()) << index;
        }
    }

    /// True once after [`Pool::empty_backlogs`]: all backlogs are empty, and workers have taken everything that was accepted.
    pub fn has_emptied_backlogs(&mut self) -> bool {
        if !self.is_emptying {
            return false;
        }
        let empty = (0..self.listeners.len()).all(|index| self.emptied & (1 << index) != 0);
        if empty {
            // A client that comes from now on is refused at once, however long the others take.
            self.listeners.retain(S::Backlog::takes_datagrams);
            self.emptied = u64::MAX;
        }
        // A worker takes what is in its queue; or a check of its health finds that it does not, and others get it.
        let taken = self.workers.iter().all(|w| !w.admitted || w.queued() == 0);
        let done = empty && taken && self.parked.is_none() && self.returns.is_empty();
        self.is_emptying &= !done;
        done
    }

    /// Closes the listeners and what no worker had room for; returns the number of connections that are closed unanswered.
    pub fn close(&mut self) -> u64 {
        self.listeners.clear();
        u64::from(self.parked.take().is_some()) + self.abandon_returns()
    }

    /// In a worker: drops everything that is the master's, and returns the listeners.
    pub fn abandon(&mut self) -> Vec<S::Backlog> {
        self.workers.clear();
        self.returns.clear();
        self.parked = None;
        std::mem::take(&mut self.listeners)
    }

    /// Descriptors or memory have run out: nothing is accepted for a moment.
    fn rest(&mut self, cause: &io::Error) {
        if self.shortage_until == Time::NEVER {
            self.system.log(format_args!("accept: {cause}; clients wait in the backlog meanwhile"));
        }
        self.resting_until = self.now + accept::REST;
        self.shortage_until = self.resting_until + accept::SHORTAGE_OVER;
    }

    /// True while a shortage of descriptors or memory lasts.
    pub fn has_shortage(&self) -> bool {
        self.shortage_until != Time::NEVER
    }

    /// The queues from which connections come back.
    pub fn returns(&self) -> impl Iterator<Item = &Return<QueueOf<S>>> {
        self.returns.iter()
    }

    /// Adds a queue from which connections come back.
    pub fn add_return(&mut self, source: Return<QueueOf<S>>) {
        self.returns.push_back(source);
        self.check_soon();
    }

    /// The connection that no queue took.
    pub fn parked(&self) -> Option<&Unplaced<S::Connection>> {
        self.parked.as_ref()
    }

    /// Parks a connection until a worker has room.
    pub fn park(&mut self, connection: S::Connection, origin: Origin) {
        let client = self.client_of(&connection);
        self.parked = Some(Unplaced { connection, origin, client, shed_by: None });
    }

    fn has_listeners_for_workers(&self) -> bool {
        self.listeners.iter().any(|l| l.is_for_workers(self.rules.accept))
    }

    fn pause(&mut self, index: usize, poll: &S::Poll) {
        if let Err(e) = self.listeners[index].pause(poll) {
            self.system.log(format_args!("pause listener {}: {e}", ListenerId::at(index).0));
        }
    }
}
