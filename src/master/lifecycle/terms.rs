//! The terms of the lifecycle: what it is told once, what goes in, what comes out, and what is told of it.

use crate::sys::process::Exit;
use std::fmt;

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
    Died(u32, Exit, LastWords),
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
    /// Tell whoever listens.
    Tell(Happening),
    /// The first workers could not start, and why; all are killed.
    Fail(String),
}

/// What is told to listeners.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Happening {
    /// A worker was started.
    Fork(u32),
    /// It can serve.
    Ready(u32),
    /// It gets no more connections, on purpose.
    Disconnect(u32),
    /// It has ended.
    Exit {
        /// The worker.
        id: u32,
        /// How.
        exit: Exit,
        /// Why.
        reason: Reason,
        /// What it said.
        last: LastWords,
        /// When its successor starts, in milliseconds from now; `None` where it has one, or gets none.
        restart: Option<u64>,
    },
    /// A worker has been in one call of its handler for longer than allowed.
    Hang(u32),
    /// A reload to this generation began.
    ReloadStarted(u32),
    /// All workers are of this generation.
    ReloadCommitted(u32),
    /// All workers are of the generation before; why.
    ReloadRolledBack(u32, ReloadFailure),
    /// Something went wrong that costs nobody anything yet.
    Error(String),
}

/// What a worker said before it ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LastWords {
    /// Why it cannot serve, if it could tell.
    pub said: Option<String>,
    /// The last lines of its standard error, where it had not proved itself.
    pub stderr: Vec<String>,
}

/// Why a reload was rolled back.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ReloadFailure {
    /// How far it had come.
    pub stage: ReloadStage,
    /// What went wrong.
    pub reason: String,
    /// The new worker that failed, where it was one.
    pub worker: Option<u32>,
    /// How that worker ended, where it has.
    pub exit: Option<Exit>,
    /// The last lines of its standard error.
    pub stderr: Vec<String>,
}

/// How far a reload has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum ReloadStage {
    /// The handler's file is read.
    Preparing,
    /// The first new worker starts.
    Canary,
    /// New workers take the old ones' places.
    Rolling,
}

impl fmt::Display for ReloadStage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Preparing => "preparing",
            Self::Canary => "canary",
            Self::Rolling => "rolling",
        })
    }
}

/// `at the first new worker: worker 3 (slot 0): worker_start returned 1 (exit code 70)`
impl fmt::Display for ReloadFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let stage = match self.stage {
            ReloadStage::Preparing => "while the handler was read",
            ReloadStage::Canary => "at the first new worker",
            ReloadStage::Rolling => "while workers were being replaced",
        };
        write!(f, "{stage}: {}", self.reason)?;
        match self.exit.map(|exit| exit.to_string()) {
            // The reason may be what the worker said, and then does not tell how it ended.
            Some(exit) if !self.reason.contains(&exit) => write!(f, " ({exit})"),
            _ => Ok(()),
        }
    }
}

/// Why a worker ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// It crashed, or exited unasked.
    Crash,
    /// It was not ready in time, or died before.
    BootFailure,
    /// A new generation took its place, or its generation was rolled back.
    Reload,
    /// There are to be fewer.
    Scale,
    /// It was to be drained.
    Drain,
    /// It left on its own account.
    Left,
    /// It had not finished in time and was killed.
    DrainTimeout,
    /// It hung in its handler and was killed.
    Hang,
    /// It had served enough.
    Recycle,
    /// It ended by a signal that was sent to it through the master.
    Killed,
    /// All stop.
    Stop,
}

impl Reason {
    /// All there are.
    pub(crate) const ALL: [Self; 11] = [
        Self::Crash,
        Self::BootFailure,
        Self::Reload,
        Self::Scale,
        Self::Drain,
        Self::Left,
        Self::DrainTimeout,
        Self::Hang,
        Self::Recycle,
        Self::Killed,
        Self::Stop,
    ];

    /// Whether the master wanted it to end (Node: `exitedAfterDisconnect`).
    pub fn is_intended(self) -> bool {
        !matches!(self, Self::Crash | Self::BootFailure | Self::Hang)
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Crash => "crash",
            Self::BootFailure => "boot failure",
            Self::Reload => "reload",
            Self::Scale => "scale",
            Self::Drain => "drain",
            Self::Left => "left",
            Self::DrainTimeout => "drain timeout",
            Self::Hang => "hang",
            Self::Recycle => "recycle",
            Self::Killed => "killed",
            Self::Stop => "stop",
        })
    }
}
