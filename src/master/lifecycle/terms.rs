//! The terms of the lifecycle: its rules, its inputs, its actions.

use crate::event::{Event, Exit, Reason, WorkerInfo};

/// What the machine is told once. Times are milliseconds; 0 is never.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// From the fork to ready.
    pub boot_timeout: u64,
    /// From being told to drain to SIGKILL.
    pub drain_timeout: u64,
    /// One call of a handler.
    pub hang_timeout: u64,
    /// The life of a worker.
    pub max_age: u64,
    /// New workers that may start at one time in a reload, at least 1.
    pub surge: usize,
}

/// What happened.
#[derive(Clone, Debug)]
pub enum Input {
    /// Time has passed.
    Tick,
    /// The fork of this worker failed.
    SpawnFailed(u32, String),
    /// The worker can serve.
    Ready(u32),
    /// The worker was reaped.
    Died(Ended),
    /// The handler for the next generation was read, or why not.
    Prepared(Result<(), String>),
    /// A reload is asked for.
    Reload,
    /// So many workers are asked for.
    Scale(usize),
    /// This worker is to be replaced; it has so many milliseconds to finish.
    Drain(u32, u64),
    /// This worker leaves on its own account.
    Leaving(u32),
    /// Somebody sent the worker this signal through the master.
    Signalled(u32, i32),
    /// Since when the worker has been in one call of its handler; 0: in none.
    Busy(u32, u64),
    /// The worker has served enough, or grown too large.
    Worn(u32),
    /// An orderly stop is asked for; a second time: an immediate one.
    Stop,
    /// All backlogs are empty and everything accepted is with a worker.
    Emptied,
}

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Fork a worker.
    Spawn {
        /// Its number.
        id: u32,
        /// Its slot.
        slot: usize,
        /// Which generation's handler it runs.
        generation: u32,
    },
    /// Let dispatch give connections to the worker, as the one of its slot.
    Admit(u32),
    /// Give it no more, and reclaim what it has not taken.
    Withdraw(u32),
    /// Tell it to finish and to hand back what is idle.
    Drain(u32),
    /// A slot that a scale-up has made serves for the first time, by this worker: others may give it of what they have.
    Rebalance(u32),
    /// Send it a signal.
    Signal(u32, i32),
    /// Read the handler for a new generation, then say [`Input::Prepared`].
    Prepare(u32),
    /// The generation last prepared is the one from now on: forget the one before.
    Commit,
    /// The generation last prepared will not be: forget it.
    Revert,
    /// Accept what waits in the backlogs, then say [`Input::Emptied`].
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
        /// Milliseconds until its successor starts; `None` if it has one, or gets none.
        restart: Option<u64>,
    },
    /// The first workers could not start, and why; all are killed.
    Fail(String),
}

/// A worker that was reaped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// Its number.
    pub id: u32,
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
