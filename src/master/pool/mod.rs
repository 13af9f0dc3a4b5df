//! The pool: which worker has which connection.
//!
//! It accepts connections, dispatches each to a worker, takes back what workers have not taken or hand back, and watches their
//! health. It makes no system call itself: a [`System`] gives it queues to workers and backlogs to accept from. The simulator
//! runs this very code on a system of its own.
//!
//! No connection is ever in two places: it is in a backlog, parked here, in the queue of one worker, or with one worker.

mod accept;
pub mod dispatch;
mod health;
mod returns;
mod shares;
mod streams;
mod system;
mod workers;

use crate::config::{Accept, Config};
use crate::event::Departed;
use crate::handoff::{Given, Origin};
use crate::ids::{Generation, Page, WorkerId};
use crate::scoreboard::Word;
use crate::sys::time::Time;
pub use health::Findings;
use health::MemoryLimit;
pub use returns::Return;
use std::collections::VecDeque;
use std::io;
use std::time::Duration;
use streams::Streams;
pub use streams::Transit;
pub use system::{Backlog, Link, Queue, System};
pub use workers::{PAGES, WorkerEntry, Workers};

/// The initial [`Pool::max_queued`]: enough to keep a worker busy; few enough that a stuck one delays few clients, and that all
/// queues together stay below what the kernel lets an ordinary user have in flight (`ETOOMANYREFS`).
const MAX_QUEUED: u64 = 64;
/// The initial [`Pool::per_turn`].
const PER_TURN: usize = 64;
/// The most connections that are parked: those of a batch, and as many that were taken back.
const MOST_PARKED: usize = 2 * accept::BATCH;
/// The time without batches after a worker has ended and lost connections.
const AFTER_A_LOSS: Duration = Duration::from_secs(60);
/// The time without batches after a worker has taken nothing between two checks.
const AFTER_A_HALT: Duration = Duration::from_secs(1);

/// A connection that the master has and no worker yet.
pub struct Unplaced<C> {
    /// The connection.
    pub connection: C,
    /// The listener it came from, and whether a worker has served it before.
    pub origin: Origin,
    /// The client's number, if dispatch uses it and the client has an IP address.
    pub client: Option<u64>,
    /// True if a worker had it before, taken or not.
    pub came_back: bool,
    /// The worker that has shed it, which is not to get it again.
    pub shed_by: Option<WorkerId>,
    /// The slot that was chosen for it last.
    pub slot: usize,
}

/// A worker that was reaped.
pub struct Removed {
    /// Why it could not serve, in its own words.
    pub failure: Option<String>,
    /// True if it was ready.
    pub was_ready: bool,
    /// Connections that it had not taken, and that others get.
    pub queued: u64,
    /// Connections that it had in progress.
    pub lost: u64,
    /// What has become of the others since it was told to finish, if it was.
    pub departed: Option<Departed>,
    /// Connections that it has ended at its deadline.
    pub cut: u64,
}

/// Which worker has which connection.
pub struct Pool<S: System> {
    /// The running workers.
    pub workers: Workers<S>,
    /// The listeners, by [`crate::ids::ListenerId`].
    pub listeners: Vec<S::Backlog>,
    /// The kernel's part.
    pub system: S,
    /// Connections that were accepted or taken back when no queue would take them.
    pub parked: VecDeque<Unplaced<S::Connection>>,
    /// The connections that are accepted and not given yet: none between two calls.
    batch: Vec<Unplaced<S::Connection>>,
    /// Those of listeners that no worker serves at the moment: a program may close one of its own.
    stray: VecDeque<Unplaced<S::Connection>>,
    /// Streams that go from one worker to another.
    pub streams: Streams<S::Connection>,
    /// The queues from which connections are taken back.
    pub returns: VecDeque<Return<S::Queue>>,
    /// True if a turn was cut short: the next one must not sleep.
    pub has_more: bool,
    /// Connections that a worker may leave in its queue.
    pub max_queued: u64,
    /// Connections taken in one turn from one listener that is not watched, so that signals and deaths get their turn.
    pub per_turn: usize,
    /// True if faults of workers end batches for a while.
    pub is_cautious: bool,
    /// The end of that time.
    singly_until: Time,
    /// The connections accepted by this program.
    pub accepted: u64,
    /// The time at which a connection was accepted last.
    accepted_at: Time,
    /// How often a listener said that only one connection waits, since it last said more.
    asked_in_vain: u32,
    /// Turns until a listener is asked again.
    ask_in: u32,
    config: Config,
    /// The monotonic clock, read once a turn.
    now: Time,
    /// The slot whose turn it is under round robin.
    cursor: usize,
    /// The generation whose workers get what comes back first: the lifecycle's destination, as of the last look.
    destination: Generation,
    /// Checks of the workers' shares that are left after a scale-up.
    share_checks: u32,
    /// Attempts to accept that have failed since the last connection.
    failures: u32,
    /// Nothing is accepted before this time.
    resting_until: Time,
    /// The end of the shortage of descriptors or memory; never if there is none.
    shortage_until: Time,
    /// The next check of the workers' health.
    check_at: Time,
    /// The next check of their memory.
    memory_at: Time,
    /// Whether `max-memory` is more than new workers use.
    memory_limit: MemoryLimit,
    /// True while a stop empties the backlogs.
    is_emptying: bool,
    /// By listener: a stop has found its backlog empty.
    emptied: u64,
    /// True once a stop has closed the listeners: no worker gets anything any more.
    is_closed: bool,
    /// A rule that the simulator has broken.
    #[cfg(test)]
    pub fault: Option<Fault>,
}

/// Rules that the simulator breaks, to see that its checks find that.
#[cfg(test)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A worker may get back a connection that it has shed.
    ShedToItself,
    /// The queue of a dead worker is dropped.
    QueueOfTheDeadForgotten,
    /// A connection that is reclaimed from a worker still counts as given to it.
    ReclaimedStillCounts,
    /// A probe that is reclaimed still counts as sent.
    ProbeStillCounts,
    /// The queue of a stuck worker is not reclaimed.
    StuckNotReclaimed,
    /// A worker that has been stuck stays out of dispatch forever.
    StuckForever,
    /// The connection that no worker takes is forgotten.
    ParkedForgotten,
    /// Of a message that a worker does not take, only the first connection goes to others.
    RestOfMessageForgotten,
    /// A message that a worker does not take goes to others and still counts as given.
    RefusedMessageCounts,
    /// Room that was made just before the master publishes that it waits is not noticed.
    NoSecondLook,
    /// The poll does not report any more what a worker hands back, once that was found empty.
    ReturnsNotRewatched,
    /// Workers are checked half as often.
    ChecksSeldom,
    /// Idle connections of full workers keep clients out.
    IdleKept,
    /// Idle connections are closed although another worker has room.
    IdleFirst,
    /// What comes back is given in turn, not to the worker with the fewest connections.
    ReturnedInTurn,
    /// What comes back may go to a worker that is about to be replaced.
    ReturnedToAnyGeneration,
    /// A stream that a worker refuses is offered to any other.
    RefusedToAnyone,
    /// A stream that goes to a worker is not counted as under way.
    HandoverUncounted,
    /// A giver is not told that a stream of it was taken over.
    TakeoverUnsettled,
    /// What a worker that ends had taken is never settled.
    DeadTakerUnsettled,
    /// It is settled before its queues are read.
    DeadTakerSettledEarly,
    /// A stream that comes out of a worker's queue still counts as with it.
    ReturnedStillUnderWay,
    /// A stream without a giver, which a worker has not taken, becomes one of that worker.
    UntakenBecomesOwn,
    /// It is not noted which worker gives a stream away.
    GiverForgotten,
    /// A stream whose giver has a full queue is forgotten.
    DirectedForgotten,
    /// It waits, and nothing wakes the master for it.
    DirectedUnchecked,
    /// It is not checked that a worker takes a stream that is for it.
    DirectedNotWatched,
    /// A stream that is for a certain worker goes to any.
    GoalIgnored,
    /// One whose goal has no room goes to any worker, and not back.
    GoalMissedToAnyone,
    /// A stream that was refused is reset although its giver lives.
    RefusedReset,
    /// Those whose giver is gone go from one worker to the next without end.
    OfferedWithoutEnd,
    /// Streams that are lost are not counted.
    LossUncounted,
    /// A stop closes the streams that are under way.
    StopClosesStreams,
    /// What is refused waits until another worker has room.
    RefusedWaitsForRoom,
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
    pub fn new(system: S, listeners: Vec<S::Backlog>, config: &Config, now: Time) -> Self {
        // Each check plans the next one, as long as there is something to watch.
        let first = |wanted, wait| if wanted { now + wait } else { Time::NEVER };
        Self {
            workers: Workers::new(),
            listeners,
            system,
            parked: VecDeque::with_capacity(MOST_PARKED),
            batch: Vec::with_capacity(accept::BATCH),
            stray: VecDeque::new(),
            streams: Streams::default(),
            returns: VecDeque::new(),
            has_more: false,
            max_queued: MAX_QUEUED,
            per_turn: PER_TURN,
            is_cautious: true,
            singly_until: Time::default(),
            accepted: 0,
            accepted_at: Time::default(),
            asked_in_vain: 0,
            ask_in: 0,
            config: config.clone(),
            now,
            cursor: 0,
            destination: Generation::FIRST,
            share_checks: 0,
            failures: 0,
            resting_until: Time::default(),
            shortage_until: Time::NEVER,
            check_at: first(!config.timeout.is_zero() || config.max_requests > 0, health::CHECK),
            memory_at: first(config.max_memory > 0, health::MEMORY_CHECK),
            memory_limit: MemoryLimit::default(),
            is_emptying: false,
            emptied: 0,
            is_closed: false,
            #[cfg(test)]
            fault: None,
        }
    }

    /// Begins a turn of the master's loop.
    pub fn begin_turn(&mut self, now: Time) {
        self.now = now;
    }

    /// The time at which [`Pool::run_timers`] has something to do.
    pub fn due(&self) -> Time {
        let rest_ends = if self.resting_until > self.now { self.resting_until } else { Time::NEVER };
        rest_ends.min(self.shortage_until).min(self.check_at).min(self.memory_at)
    }

    /// Admits a worker to dispatch, as the one of its slot. The poll reports what it hands back.
    pub fn admit(&mut self, id: WorkerId, poll: &S::Poll) {
        self.weigh(id);
        self.workers.admit(id);
        self.watch_returns(id, poll);
    }

    /// Takes a worker out of dispatch, and gives others what it has not taken.
    pub fn withdraw(&mut self, id: WorkerId) {
        self.workers.withdraw(id);
        self.reclaim_queue(id);
    }

    /// Takes out a worker that was reaped. What it had not taken and what it handed back goes to others.
    pub fn remove(&mut self, page: Page) -> Option<Removed> {
        let entry = self.workers.remove(page)?;
        // Not by its own count, which it may not have kept: a signal can end it as the call returns that takes a connection.
        let queued = entry.queue.waiting().unwrap_or_else(|_| entry.queued());
        let (in_flight, departed) = (u64::from(entry.in_flight()), entry.departed());
        // Whatever it has written: no more than it has had.
        let cut = entry.link.count(Word::Cut).min(entry.link.count(Word::Finished));
        if broken!(self, DeadTakerSettledEarly) {
            self.streams.end_taker(entry.id);
        }
        if !broken!(self, QueueOfTheDeadForgotten) {
            self.add_return(Return::OfDeadWorker(entry.id, entry.queue));
        }
        let lost = in_flight.saturating_sub(queued);
        if lost > 0 {
            self.be_cautious(AFTER_A_LOSS);
        }
        let was_ready = entry.kind.is_some();
        Some(Removed { failure: entry.failure, was_ready, queued, lost, cut, departed })
    }

    /// Takes over the sockets of slots that have no admitted worker, and leaves the others to the workers, if these accept.
    pub fn divide_sockets(&mut self, poll: &S::Poll, slots: usize, is_stopping: bool) {
        let all = self.config.accept == Accept::Master || is_stopping;
        for listener in &mut self.listeners {
            listener.divide(poll, slots, all, |slot| self.workers.admitted(slot).is_some());
        }
    }

    /// Begins a stop: what waits in the backlogs is accepted, and nothing is added to them.
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
        for (index, listener) in self.listeners.iter().enumerate().filter(|(_, l)| l.is_left_to_workers()) {
            self.emptied |= u64::from(listener.waiting().unwrap_or(0) == 0) << index;
        }
        if self.emptied.count_ones() < self.listeners.len() as u32 {
            self.check_soon();
        }
        let empty = (0..self.listeners.len()).all(|index| self.emptied & (1 << index) != 0);
        if empty {
            // Now, so that new clients are refused at once, however long the workers take. Workers in a call have copies.
            self.listeners.iter_mut().for_each(S::Backlog::refuse_clients);
            self.listeners.retain(|l| l.takes_datagrams() || l.is_left_to_workers());
            self.emptied = u64::MAX;
        }
        // A worker takes what is in its queue, or is found stuck, and others get it.
        let taken = self.workers.iter().all(|w| !w.admitted || w.queued() == 0);
        if empty && !taken {
            // A worker that takes something, or accepts it, does not say so.
            self.check_soon();
        }
        let none_waits = self.parked.is_empty() && self.stray.is_empty();
        let done = empty && taken && none_waits && !self.awaits_returns();
        self.is_emptying &= !done;
        done
    }

    /// Closes the listeners and what no worker had room for; returns the number of connections that are closed unanswered. Idle
    /// ones that workers hand back, also later, are closed too.
    pub fn close(&mut self) -> u64 {
        self.is_closed = true;
        self.listeners.iter_mut().for_each(S::Backlog::refuse_clients);
        self.listeners.clear();
        let mut closed = 0;
        for parked in std::mem::take(&mut self.parked).into_iter().chain(std::mem::take(&mut self.stray)) {
            closed += u64::from(!parked.origin.used);
            if parked.origin.stream.is_some() {
                self.send_home(parked);
            } else if parked.origin.used {
                self.system.close(parked.connection);
            }
        }
        closed + self.abandon_returns()
    }

    /// In a worker: drops everything that is the master's, and returns the listeners.
    pub fn abandon(&mut self) -> Vec<S::Backlog> {
        self.workers.clear();
        self.returns.clear();
        self.parked.clear();
        self.stray.clear();
        self.streams = Streams::default();
        std::mem::take(&mut self.listeners)
    }

    /// Accepts nothing for a moment: descriptors or memory have run out.
    fn rest(&mut self, cause: &io::Error) {
        if !self.has_shortage() {
            self.system.log(format_args!("accept: {cause}; clients wait in the backlog meanwhile"));
        }
        self.resting_until = self.now + accept::REST;
        self.shortage_until = self.resting_until + accept::SHORTAGE_OVER;
    }

    /// True while a shortage of descriptors or memory lasts.
    pub fn has_shortage(&self) -> bool {
        self.shortage_until != Time::NEVER
    }

    /// Gives each worker its connections one by one for a while. Those that came in one message with a connection that ends a worker, or
    /// keeps it in a call, would be lost, or wait, with that.
    fn be_cautious(&mut self, span: Duration) {
        if self.is_cautious {
            self.singly_until = self.singly_until.max(self.now + span);
        }
    }

    /// Parks a connection that a former program in this process had parked.
    pub fn park(&mut self, connection: S::Connection, origin: Origin) {
        let client = self.client_of(&connection);
        let unplaced = Unplaced { connection, origin, client, came_back: true, shed_by: None, slot: 0 };
        if streams::is_directed(&origin) {
            self.streams.directed.push_back(unplaced);
        } else {
            self.parked.push_back(unplaced);
        }
    }

    /// True if workers take connections or datagrams from sockets of their own.
    pub fn has_listeners_for_workers(&self) -> bool {
        self.listeners.iter().any(|l| l.is_for_workers(self.config.accept))
    }

    fn pause(&mut self, index: usize, poll: &S::Poll) {
        if let Err(e) = self.listeners[index].pause(poll) {
            self.system.log(format_args!("pause listener {index}: {e}"));
        }
    }
}

#[cfg(test)]
mod tests;
