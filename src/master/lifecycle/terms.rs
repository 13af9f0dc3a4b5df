//! The terms of the lifecycle: its rules, its inputs, its actions.

use crate::event::{Event, Exit, Reason, WorkerInfo};
use crate::ids::{Generation, Slot, WorkerId};
use crate::sys::time::Time;
use std::time::Duration;

/// The rules. A time of zero is no limit.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// From the fork to ready.
    pub boot_timeout: Duration,
    /// From being told to drain to SIGKILL.
    pub drain_timeout: Duration,
    /// One call of a handler.
    pub hang_timeout: Duration,
    /// The life of a worker.
    pub max_age: Duration,
    /// New workers that may start at one time in a reload, at least 1.
    pub surge: usize,
}

/// An input: something that happened.
#[derive(Clone, Debug)]
pub enum Input {
    /// Time has passed: deadlines may be over.
    Tick,
    /// The fork of this worker failed.
    SpawnFailed(WorkerId, String),
    /// The worker can serve.
    Ready(WorkerId),
    /// The worker was reaped.
    Died(Ended),
    /// The handler for the next generation was read, or could not be.
    Prepared(Result<(), String>),
    /// A reload is wanted.
    Reload,
    /// This number of workers is wanted.
    Scale(usize),
    /// This worker is to be replaced; it has this time to finish.
    Drain(WorkerId, Duration),
    /// This worker leaves by itself.
    Leaving(WorkerId),
    /// This signal was sent to the worker through the master.
    Signalled(WorkerId, i32),
    /// The start of the call of its handler that the worker is in; zero if it is in none.
    Busy(WorkerId, Time),
    /// The worker has served enough, or grown too large.
    Worn(WorkerId),
    /// A stop is wanted; the second one is immediate.
    Stop,
    /// All backlogs are empty and everything accepted is with a worker.
    Emptied,
}

/// An action: something to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Fork a worker.
    Spawn {
        /// Its number.
        id: WorkerId,
        /// Its slot.
        slot: Slot,
        /// The generation of its handler.
        generation: Generation,
    },
    /// Admit the worker to dispatch, as the one of its slot.
    Admit(WorkerId),
    /// Give it no more, and reclaim what it has not taken.
    Withdraw(WorkerId),
    /// Tell it to finish and to hand back what is idle.
    Drain(WorkerId),
    /// The first worker of a slot that a scale-up has made is ready: others may give it of their connections.
    Rebalance(WorkerId),
    /// Send it a signal.
    Signal(WorkerId, i32),
    /// Read the handler for a new generation; [`Input::Prepared`] follows.
    Prepare(Generation),
    /// The generation last prepared is the one from now on: forget the one before.
    Commit,
    /// The generation last prepared will not be: forget it.
    Revert,
    /// Accept what waits in the backlogs; [`Input::Emptied`] follows.
    EmptyBacklogs,
    /// Close the listeners.
    CloseListeners,
    /// Log an event and tell it to the host and to control clients. The lifecycle does not know process ids: they are 0.
    Tell(Event),
    /// The same of a worker that has ended.
    TellExit {
        /// The worker.
        worker: WorkerInfo,
        /// How it ended.
        ended: Ended,
        /// Why it ended.
        reason: Reason,
        /// The time until its successor starts; `None` if it has one, or gets none.
        restart: Option<Duration>,
    },
    /// The first workers could not start, and why; all are killed.
    Fail(String),
}

/// A worker that was reaped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// Its number.
    pub id: WorkerId,
    /// The process id it had.
    pub pid: i32,
    /// How it ended.
    pub exit: Exit,
    /// Why it cannot serve, if it could tell the master.
    pub failure: Option<String>,
    /// The last lines of its standard error, if it had not proved itself.
    pub stderr: Vec<String>,
    /// True if it had been ready.
    pub was_ready: bool,
    /// Connections it had not taken, which others get.
    pub queued: u64,
    /// Connections that were in progress and are lost.
    pub lost: u64,
}
