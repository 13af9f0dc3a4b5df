//! What goes into the lifecycle and what comes out: its rules, inputs and actions.

use crate::event::{Event, Exit, Reason, WorkerInfo};
use crate::ids::{Generation, Slot, WorkerId};
use crate::sys::time::Time;
use std::time::Duration;

/// The settings of the lifecycle. A time of zero is no limit.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// From the fork to ready.
    pub boot_timeout: Duration,
    /// From the order to drain until a worker ends what it still has; it is killed a moment later.
    pub drain_timeout: Duration,
    /// One call of a handler.
    pub hang_timeout: Duration,
    /// The life of a worker.
    pub max_age: Duration,
    /// New workers that may start at one time in a reload, at least 1.
    pub surge: usize,
    /// Former generations that may drain beside the one that serves, at least 1.
    pub max_draining: usize,
    /// Workers that there may be at one time, those that drain and those that start included: at least two for each slot.
    pub room: usize,
}

/// An event or a command.
#[derive(Clone, Debug)]
pub enum Input {
    /// Deadlines may have passed.
    Tick,
    /// The fork of this worker failed.
    SpawnFailed(WorkerId, String),
    /// The worker can serve.
    Ready(WorkerId),
    /// The worker was reaped.
    Died(Ended),
    /// The handler for the next generation was read, or could not be, or the host has refused it.
    Prepared(Result<(), String>),
    /// A reload is wanted.
    Reload,
    /// This number of workers is wanted.
    Scale(usize),
    /// This worker is to be replaced, and has this time to finish.
    Drain(WorkerId, Duration),
    /// This worker leaves by itself.
    Leaving(WorkerId),
    /// This signal was sent to the worker through the master.
    Signalled(WorkerId, i32),
    /// The start of the call of its handler that the worker is in; zero if it is in none.
    Busy(WorkerId, Time),
    /// The worker has served enough, or grown too large: it is to be recycled.
    Worn(WorkerId),
    /// A stop is wanted; the second one is immediate.
    Stop,
    /// A signal asks for a stop; the second one is immediate, unless the stop began less than a second ago.
    Interrupt,
    /// All backlogs are empty, and workers have taken everything that was accepted.
    Emptied,
}

/// An action for the master to execute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Fork a worker.
    Spawn { id: WorkerId, slot: Slot, generation: Generation },
    /// Admit the worker to dispatch, as the one of its slot.
    Admit(WorkerId),
    /// Give the worker no more, and reclaim what it has not taken.
    Withdraw(WorkerId),
    /// Order the worker to finish in this time (zero: any), and to hand back idle connections.
    Drain(WorkerId, Duration),
    /// Order a worker that drains already to end at once what it still has, and to exit.
    End(WorkerId),
    /// Order a worker that drains already to keep its idle connections: no worker is left to get them.
    KeepIdle(WorkerId),
    /// Have other workers hand back connections for this one, the first to be ready in a slot that a scale-up has made.
    Rebalance(WorkerId),
    /// Send the worker a signal.
    Signal(WorkerId, i32),
    /// Tell the host, and then read the handler for a new generation; [`Input::Prepared`] follows.
    Prepare(Generation),
    /// Forget the handler of the generation before the one last prepared.
    Commit,
    /// Forget the handler of the generation last prepared.
    Revert,
    /// Accept all that waits in the backlogs; [`Input::Emptied`] follows.
    EmptyBacklogs,
    /// Close the listeners.
    CloseListeners,
    /// Report an event. The lifecycle does not know process ids: they are 0.
    Tell(Event),
    /// Report the end of a worker.
    TellExit {
        worker: WorkerInfo,
        ended: Ended,
        reason: Reason,
        /// The time until its successor starts; `None` if it has one, or gets none.
        restart: Option<Duration>,
    },
    /// End the run: the first workers could not start, for this reason; by their own word if their configuration is wrong.
    Fail { why: String, is_wrong_config: bool },
}

/// A worker that was reaped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    pub id: WorkerId,
    pub pid: i32,
    pub exit: Exit,
    /// Why it could not serve, in its own words.
    pub failure: Option<String>,
    /// The last lines of its standard error, if it had not proved itself.
    pub stderr: Vec<String>,
    pub was_ready: bool,
    /// Connections it had not taken, which others get.
    pub queued: u64,
    /// Connections that were in progress and are lost.
    pub lost: u64,
    /// Connections that it has ended at its deadline.
    pub cut: u64,
}
