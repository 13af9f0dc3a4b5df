//! The lifecycle of all workers: a pure state machine. What happened and the time go in, what to do comes out.
//!
//! No system call, no clock, no chance of its own: the master's loop feeds it and carries out what it says, and so does a
//! simulator with virtual time. It must hold that a slot has at most one current worker and one successor, that at most
//! two generations live, that each reload ends, committed or rolled back, and that each stop ends.

use super::restart::Restart;
use crate::sys::overdue;
use crate::sys::process::Exit;
use crate::sys::signal::{SIGABRT, SIGKILL, SIGTERM};
use std::fmt;

/// Later than any time.
pub const NEVER: u64 = u64::MAX;
/// The exit code by which a worker says that its configuration is wrong and starting it again of no use (sysexits(3)).
pub const EX_CONFIG: i32 = 78;
/// How long a worker that hangs has from one step against it to the next (milliseconds).
const HANG_GRACE: u64 = 1000;
/// A look at the deadlines that comes so much later than due says that the master itself stood still (milliseconds).
const LATE: u64 = 500;
/// The master looks at what workers do at least so often (milliseconds).
const NEWS: u64 = 200;
/// How long a verdict waits at the most for the exit status of the worker it is about, once that was sent SIGKILL (milliseconds).
const VERDICT_WAITS: u64 = 1000;

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

/// How far a worker has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Forked, not ready yet.
    Starting,
    /// It can serve.
    Ready,
    /// It finishes what it has.
    Draining,
    /// SIGKILL is on its way.
    Killed,
}

/// A worker, from its fork until it is reaped.
#[derive(Clone, Debug)]
pub struct Worker {
    /// A number no other worker has.
    pub id: u32,
    /// The slot it was started for.
    pub slot: usize,
    /// The generation of its handler.
    pub generation: u32,
    /// How far it has come.
    pub phase: Phase,
    /// When it was forked.
    pub since: u64,
    /// When something is done about it: it is not ready, or not drained.
    deadline: u64,
    /// Since when it has been in one call of its handler, as last told.
    busy_since: u64,
    /// When the next step against it is due, if it stays in that call.
    hang_at: u64,
    hang: Hang,
    worn: bool,
    leaving: Option<Reason>,
    /// Signals sent to it through the master, a bit each.
    sent: u64,
}

impl Worker {
    /// When the next step against it is due, should it not come back from its handler.
    fn next_hang_step(&self) -> u64 {
        if matches!(self.phase, Phase::Ready | Phase::Draining) { self.hang_at } else { NEVER }
    }

    /// Whether somebody sent it this signal through the master.
    fn was_sent(&self, signal: i32) -> bool {
        self.sent & bit(signal) != 0
    }

    /// Whether it ended so because of a signal that was sent to it through the master. Most signals do nothing to a worker, so
    /// what it dies of later may be something else.
    fn was_ended_by(&self, exit: Exit) -> bool {
        match exit {
            Exit::Signal { number, .. } => self.was_sent(number),
            // A handler of its own may have answered to it.
            Exit::Code(_) => self.was_sent(SIGTERM),
            // Nobody can tell.
            Exit::Unknown => self.sent != 0,
        }
    }
}

/// Steps against a worker that hangs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hang {
    No,
    /// Told to the host and, by a signal, to the handler; out of dispatch.
    Noticed,
    /// SIGABRT sent.
    Aborted,
}

/// A place for a worker.
#[derive(Clone, Debug, Default)]
pub struct Slot {
    /// The worker there; it may still be starting.
    pub current: Option<u32>,
    /// The one that is to take its place.
    pub successor: Option<u32>,
    start_at: u64,
    restart: Restart,
    /// A scale-up has made it, and nobody has served there yet.
    fresh: bool,
}

#[derive(Clone, Debug)]
struct Reload {
    generation: u32,
    stage: ReloadStage,
    /// Where it has failed: old workers come back.
    back: Option<Back>,
}

#[derive(Clone, Debug)]
struct Back {
    failure: ReloadFailure,
    since: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stopping {
    Emptying { until: u64 },
    Draining,
}

/// The machine.
#[derive(Clone, Debug)]
pub struct Lifecycle {
    rules: Rules,
    workers: Vec<Worker>,
    slots: Vec<Slot>,
    generation: u32,
    last_generation: u32,
    last_id: u32,
    now: u64,
    due: u64,
    booting: bool,
    reload: Option<Reload>,
    reload_wanted: bool,
    /// The worker that is being recycled, until it is gone.
    recycling: Option<u32>,
    recycle_at: u64,
    stopping: Option<Stopping>,
    killed: u32,
    random: u64,
}

/// What the machine of the next program in this process must know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// The generation that serves.
    pub generation: u32,
    /// The last one that was tried.
    pub last_generation: u32,
    /// The last worker's number.
    pub last_id: u32,
    /// The number of slots.
    pub slots: usize,
    /// The workers, ready or draining.
    pub workers: Vec<SnapshotWorker>,
}

/// A worker in a [`Snapshot`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SnapshotWorker {
    /// Its number.
    pub id: u32,
    /// Its slot.
    pub slot: usize,
    /// Its generation.
    pub generation: u32,
    /// When it was forked.
    pub since: u64,
    /// Whether it finishes what it has.
    pub draining: bool,
}

impl Lifecycle {
    /// Whether nothing is under way that another program could not go on with.
    pub fn is_at_rest(&self) -> bool {
        let settled = |w: &Worker| matches!(w.phase, Phase::Ready | Phase::Draining);
        !self.booting
            && self.stopping.is_none()
            && self.reload.is_none()
            && self.recycling.is_none()
            && self.workers.iter().all(settled)
    }

    /// What another machine is to go on with.
    pub fn snapshot(&self) -> Snapshot {
        let worker = |w: &Worker| SnapshotWorker {
            id: w.id,
            slot: w.slot,
            generation: w.generation,
            since: w.since,
            draining: w.phase != Phase::Ready,
        };
        Snapshot {
            generation: self.generation,
            last_generation: self.last_generation,
            last_id: self.last_id,
            slots: self.slots.len(),
            workers: self.workers.iter().map(worker).collect(),
        }
    }

    /// Goes on where another machine stopped.
    pub fn resume(rules: Rules, from: &Snapshot, now: u64, seed: u64) -> Self {
        let mut life = Self::new(rules, from.slots, seed);
        (life.generation, life.last_generation, life.last_id) =
            (from.generation, from.last_generation, from.last_id);
        (life.booting, life.now, life.due) = (false, now, now);
        for w in &from.workers {
            let (phase, wait) = if w.draining {
                (Phase::Draining, after(now, rules.drain_timeout))
            } else {
                (Phase::Ready, after(w.since, rules.max_age))
            };
            life.workers.push(Worker {
                id: w.id,
                slot: w.slot,
                generation: w.generation,
                phase,
                since: w.since,
                deadline: wait,
                busy_since: 0,
                hang: Hang::No,
                worn: false,
                hang_at: NEVER,
                leaving: w.draining.then_some(Reason::Drain),
                sent: 0,
            });
            if let Some(slot) = life.slots.get_mut(w.slot).filter(|_| !w.draining) {
                slot.current = Some(w.id);
            }
        }
        life
    }

    /// `slots` empty slots to be filled at the first tick. `seed` spreads the delays of restarts.
    pub fn new(rules: Rules, slots: usize, seed: u64) -> Self {
        Self {
            rules,
            workers: Vec::with_capacity(2 * slots),
            slots: vec![Slot::default(); slots],
            generation: 1,
            last_generation: 1,
            last_id: 0,
            now: 0,
            due: 0,
            booting: true,
            reload: None,
            reload_wanted: false,
            recycling: None,
            recycle_at: 0,
            stopping: None,
            killed: 0,
            random: seed | 1,
        }
    }

    /// Takes one thing that happened at `now` (milliseconds, never less than before) and says what to do, in this order.
    pub fn step(&mut self, now: u64, input: Input, out: &mut Vec<Action>) {
        self.forgive_lateness(now);
        self.now = now;
        match input {
            // Deadlines pass here alone: a tick comes behind the news of all workers, so that a late master blames nobody for
            // a call that ended long ago.
            Input::Tick => self.expire(out),
            Input::SpawnFailed(id, why) => self.spawn_failed(id, why, out),
            Input::Ready(id) => self.is_ready(id, out),
            Input::Died(id, exit, last) => self.died(id, exit, last, out),
            Input::Prepared(result) => self.prepared(result, out),
            Input::Reload => self.reload_wanted = self.stopping.is_none(),
            Input::Scale(n) => self.scale(n.max(1), out),
            Input::Drain(id, patience) => self.drain(id, patience, out),
            Input::Leaving(id) => self.leaves(id, out),
            Input::Signalled(id, signal) => {
                if let Some(w) = self.find(id) {
                    w.sent |= bit(signal);
                }
            }
            Input::Busy(id, since) => self.busy(id, since, out),
            Input::Worn(id) => {
                if let Some(w) = self.find(id) {
                    w.worn = true;
                }
            }
            Input::Stop => self.stop(out),
            Input::Emptied => self.emptied(out),
        }
        self.end_emptying(out);
        self.advance(out);
        self.due = self.next_due();
    }

    /// When [`Input::Tick`] must come at the latest.
    pub fn due(&self) -> u64 {
        self.due
    }

    /// Whether a stop is complete: every worker was reaped.
    pub fn has_stopped(&self) -> bool {
        self.stopping == Some(Stopping::Draining) && self.workers.is_empty()
    }

    /// Whether a stop has begun.
    pub fn is_stopping(&self) -> bool {
        self.stopping.is_some()
    }

    /// Whether the first workers are not all ready yet.
    pub fn is_booting(&self) -> bool {
        self.booting
    }

    /// Whether this worker is not ready yet, and may become so.
    pub fn is_starting(&self, id: u32) -> bool {
        self.workers.iter().any(|w| w.id == id && w.phase == Phase::Starting)
    }

    /// Whether this worker has shown what there was to show: it can serve, and its generation is not on trial.
    pub fn is_proved(&self, id: u32) -> bool {
        let serves = |w: &Worker| matches!(w.phase, Phase::Ready | Phase::Draining);
        let worker = self.workers.iter().find(|w| w.id == id);
        !self.booting && worker.is_some_and(|w| serves(w) && !self.is_on_trial(w.generation))
    }

    /// Whether a reload is under way, or asked for.
    pub fn is_reloading(&self) -> bool {
        self.reload.is_some() || self.reload_wanted
    }

    /// Whether every slot has a worker that can serve, and no worker is left of a slot there is no more.
    #[cfg(feature = "control")]
    pub fn is_complete(&self) -> bool {
        self.slots.iter().all(|s| self.serves(s)) && self.workers.iter().all(|w| w.slot < self.slots.len())
    }

    /// Workers that had to be killed because they did not finish in time.
    pub fn killed(&self) -> u32 {
        self.killed
    }

    /// The generation that serves, or is being replaced.
    pub fn generation(&self) -> u32 {
        self.generation
    }

    /// All workers that have not been reaped.
    pub fn workers(&self) -> &[Worker] {
        &self.workers
    }

    /// All slots.
    pub fn slots(&self) -> &[Slot] {
        &self.slots
    }

    /// After the whole machine stood still (SIGSTOP, suspend) no worker is to blame for what it could not do meanwhile. Since
    /// when it stood still nobody knows, so each gets what it had left at the last step.
    fn forgive_lateness(&mut self, now: u64) {
        let late = now.saturating_sub(self.due.max(self.now));
        if self.due == NEVER || self.due == 0 || late < LATE {
            return;
        }
        let stood = now - self.now;
        for w in &mut self.workers {
            w.deadline = w.deadline.saturating_add(stood);
            w.hang_at = w.hang_at.saturating_add(stood);
        }
        if let Some(Stopping::Emptying { until }) = &mut self.stopping {
            *until = until.saturating_add(stood);
        }
    }

    fn find(&mut self, id: u32) -> Option<&mut Worker> {
        self.workers.iter_mut().find(|w| w.id == id)
    }

    fn is_current(&self, w: &Worker) -> bool {
        self.slots.get(w.slot).is_some_and(|s| s.current == Some(w.id))
    }

    fn spawn(&mut self, slot: usize, generation: u32, out: &mut Vec<Action>) -> u32 {
        self.last_id += 1;
        let id = self.last_id;
        let deadline = after(self.now, self.rules.boot_timeout);
        self.workers.push(Worker {
            id,
            slot,
            generation,
            phase: Phase::Starting,
            since: self.now,
            deadline,
            busy_since: 0,
            hang_at: NEVER,
            hang: Hang::No,
            worn: false,
            leaving: None,
            sent: 0,
        });
        out.push(Action::Spawn { id, slot, generation });
        out.push(Action::Tell(Happening::Fork(id)));
        id
    }

    fn kill(&mut self, id: u32, reason: Reason, out: &mut Vec<Action>) {
        if let Some(w) = self.find(id).filter(|w| w.phase != Phase::Killed) {
            w.phase = Phase::Killed;
            w.deadline = NEVER;
            w.leaving = Some(reason);
            out.push(Action::Withdraw(id));
            out.push(Action::Signal(id, SIGKILL));
        }
    }

    /// Takes a worker out of dispatch and has it finish; one that has not started to serve is killed.
    fn retire(&mut self, id: u32, reason: Reason, patience: u64, out: &mut Vec<Action>) {
        let deadline = after(self.now, patience);
        let Some(w) = self.find(id) else { return };
        match w.phase {
            Phase::Starting => self.kill(id, reason, out),
            Phase::Ready => {
                w.phase = Phase::Draining;
                w.deadline = deadline;
                w.leaving = Some(reason);
                out.push(Action::Withdraw(id));
                out.push(Action::Drain(id));
                out.push(Action::Tell(Happening::Disconnect(id)));
            }
            Phase::Draining | Phase::Killed => {}
        }
    }

    fn is_ready(&mut self, id: u32, out: &mut Vec<Action>) {
        let max_age = self.rules.max_age;
        let Some(w) = self.find(id).filter(|w| w.phase == Phase::Starting) else { return };
        w.phase = Phase::Ready;
        let slot = w.slot;
        w.deadline = after(w.since, max_age);
        out.push(Action::Tell(Happening::Ready(id)));
        out.push(Action::Admit(id));
        if std::mem::take(&mut self.slots[slot].fresh) {
            out.push(Action::Rebalance(id));
        }
        if self.slots[slot].successor == Some(id) {
            self.slots[slot].successor = None;
            let before = self.slots[slot].current.replace(id);
            let reason = if self.recycling.is_some() && self.recycling == before {
                Reason::Recycle
            } else {
                Reason::Reload
            };
            if let Some(before) = before {
                self.retire(before, reason, self.rules.drain_timeout, out);
            }
        }
        if let Some(reload) = &mut self.reload
            && (reload.stage, reload.back.is_none()) == (ReloadStage::Canary, true)
            && self.workers.iter().any(|w| w.id == id && w.generation == reload.generation)
        {
            reload.stage = ReloadStage::Rolling;
        }
        self.booting &= self.slots.iter().any(|s| !self.serves(s));
    }

    fn serves(&self, slot: &Slot) -> bool {
        self.workers.iter().any(|w| Some(w.id) == slot.current && w.phase == Phase::Ready)
    }

    fn spawn_failed(&mut self, id: u32, why: String, out: &mut Vec<Action>) {
        let Some(at) = self.workers.iter().position(|w| w.id == id) else { return };
        let w = self.workers.swap_remove(at);
        if self.booting && self.stopping.is_none() {
            return out.push(Action::Fail(why));
        }
        let text = match self.vacate(&w, None, &why, &[], out) {
            Some(ms) => format!("{why}; tried again in {ms} ms"),
            None => why,
        };
        out.push(Action::Tell(Happening::Error(text)));
    }

    fn died(&mut self, id: u32, exit: Exit, last: LastWords, out: &mut Vec<Action>) {
        let Some(at) = self.workers.iter().position(|w| w.id == id) else { return };
        let mut w = self.workers.swap_remove(at);
        if w.leaving.is_none() && w.was_ended_by(exit) {
            w.leaving = Some(Reason::Killed);
        }
        let reason = w.leaving.unwrap_or(match w.phase {
            Phase::Starting => Reason::BootFailure,
            _ => Reason::Crash,
        });
        let why = match &last.said {
            Some(text) => text.clone(),
            None if w.leaving == Some(Reason::BootFailure) => {
                format!("not ready within the boot-timeout of {} ms", self.rules.boot_timeout)
            }
            None => exit.to_string(),
        };
        if self.booting && self.stopping.is_none() && !reason.is_intended() {
            return out.push(Action::Fail(why));
        }
        if let Some(Back { failure, .. }) = self.reload.as_mut().and_then(|r| r.back.as_mut())
            && failure.worker == Some(id)
        {
            (failure.exit, failure.stderr) = (Some(exit), last.stderr.clone());
        }
        let restart = self.vacate(&w, Some(exit), &why, &last.stderr, out);
        if self.recycling == Some(id) {
            self.recycling = None;
        }
        out.push(Action::Tell(Happening::Exit { id, exit, reason, last, restart }));
    }

    /// A worker is no more: frees its place, and says when the next one starts there.
    fn vacate(
        &mut self,
        w: &Worker,
        exit: Option<Exit>,
        why: &str,
        stderr: &[String],
        out: &mut Vec<Action>,
    ) -> Option<u64> {
        if self.stopping.is_some() {
            return None;
        }
        let is_new = self.is_on_trial(w.generation);
        let unasked = w.leaving.is_none_or(|r| !r.is_intended());
        let slot = self.slots.get_mut(w.slot)?;
        let mut restart = None;
        if slot.current == Some(w.id) {
            slot.current = slot.successor.take();
            // The code speaks of its own generation, not of the one that a roll-back brings back; and of nothing where the worker
            // was told to end.
            let says_wrong = exit == Some(Exit::Code(EX_CONFIG)) && w.phase == Phase::Starting;
            let gives_up = says_wrong && unasked && !is_new;
            let delay = if gives_up {
                NEVER
            } else {
                self.random = next_random(self.random);
                let lived = if unasked { self.now - w.since } else { NEVER };
                let was_ready = w.phase != Phase::Starting && w.leaving != Some(Reason::BootFailure);
                slot.restart.delay(self.now, lived, was_ready, self.random)
            };
            slot.start_at = self.now.saturating_add(delay);
            restart = (slot.current.is_none() && delay < NEVER).then_some(delay);
        } else if slot.successor == Some(w.id) {
            slot.successor = None;
            self.successor_failed(w, out);
        }
        if is_new && unasked {
            self.roll_back(w.id, w.slot, why, out);
            if let Some(Back { failure, .. }) = self.reload.as_mut().and_then(|r| r.back.as_mut()) {
                (failure.exit, failure.stderr) = (exit, stderr.to_vec());
            }
        }
        restart
    }

    fn successor_failed(&mut self, w: &Worker, out: &mut Vec<Action>) {
        self.random = next_random(self.random);
        let slot = &mut self.slots[w.slot];
        let delay = slot.restart.delay(self.now, self.now - w.since, false, self.random);
        if self.recycling.is_some() {
            // The old one serves on; it is tried again when another would be started in that slot.
            self.recycling = None;
            self.recycle_at = self.now.saturating_add(delay.max(1000));
        } else if self.reload.as_ref().is_some_and(|r| r.back.is_some()) {
            // Not even the old generation starts: the slot is left to the ordinary restarts, so that the reload ends.
            slot.start_at = self.now.saturating_add(delay);
            if let Some(new) = slot.current.take() {
                self.retire(new, Reason::Reload, self.rules.drain_timeout, out);
            }
        }
    }

    /// Somebody wants this worker replaced.
    fn drain(&mut self, id: u32, patience: u64, out: &mut Vec<Action>) {
        if self.find(id).is_some_and(|w| matches!(w.phase, Phase::Starting | Phase::Ready)) {
            self.retire(id, Reason::Drain, patience, out);
            self.leave_slot(id, 0);
        }
    }

    /// A worker ends of its own will. That is no crash, but it counts as a death for when the next one starts, and for a reload;
    /// unless it answers to a SIGTERM that was sent to it through the master.
    fn leaves(&mut self, id: u32, out: &mut Vec<Action>) {
        let Some(w) = self.find(id) else { return };
        let Worker { slot, generation, phase, since, .. } = *w;
        if w.was_sent(SIGTERM) && matches!(phase, Phase::Starting | Phase::Ready) {
            self.retire(id, Reason::Killed, self.rules.drain_timeout, out);
            return self.leave_slot(id, 0);
        }
        match phase {
            Phase::Starting => return self.give_up_start(id, "it left before it was ready", out),
            Phase::Ready => {}
            Phase::Draining | Phase::Killed => return,
        }
        self.retire(id, Reason::Left, self.rules.drain_timeout, out);
        self.random = next_random(self.random);
        let (now, random) = (self.now, self.random);
        let delay = self.slots.get_mut(slot).map_or(0, |s| s.restart.delay(now, now - since, true, random));
        self.leave_slot(id, delay);
        if self.is_on_trial(generation) {
            self.roll_back(id, slot, "it left", out);
        }
    }

    /// A worker's place is free, and is filled again after `delay`.
    fn leave_slot(&mut self, id: u32, delay: u64) {
        if let Some(slot) = self.slots.iter_mut().find(|s| s.current == Some(id)) {
            slot.current = slot.successor.take();
            slot.start_at = self.now.saturating_add(delay);
        }
    }

    fn scale(&mut self, n: usize, out: &mut Vec<Action>) {
        if self.stopping.is_some() || self.booting {
            return;
        }
        while self.slots.len() > n {
            let Some(slot) = self.slots.pop() else { break };
            for id in [slot.successor, slot.current].into_iter().flatten() {
                self.retire(id, Reason::Scale, self.rules.drain_timeout, out);
                if self.recycling == Some(id) {
                    self.recycling = None;
                }
            }
        }
        let fresh = Slot { start_at: self.now, fresh: true, ..Slot::default() };
        self.slots.resize(n.max(self.slots.len()), fresh);
    }

    fn busy(&mut self, id: u32, since: u64, out: &mut Vec<Action>) {
        let Some(at) = self.workers.iter().position(|w| w.id == id) else { return };
        let w = &mut self.workers[at];
        // After SIGABRT it is too late to come back: it may have been cut short anywhere.
        if w.busy_since == since || w.hang == Hang::Aborted {
            return;
        }
        w.busy_since = since;
        // The master looks many times in this time: what it sees later than that it missed because it stood still itself.
        let seen = since.max(self.now.saturating_sub(NEWS));
        w.hang_at = if since == 0 { NEVER } else { after(seen, self.rules.hang_timeout) };
        let came_back = std::mem::replace(&mut w.hang, Hang::No) == Hang::Noticed;
        if came_back && self.workers[at].phase == Phase::Ready && self.is_current(&self.workers[at]) {
            out.push(Action::Admit(id));
        }
    }

    /// What is overdue.
    fn expire(&mut self, out: &mut Vec<Action>) {
        for i in 0..self.workers.len() {
            let w = &self.workers[i];
            let (id, phase) = (w.id, w.phase);
            if w.deadline <= self.now {
                match phase {
                    Phase::Starting => {
                        let why =
                            format!("not ready within the boot-timeout of {} ms", self.rules.boot_timeout);
                        self.give_up_start(id, &why, out);
                    }
                    Phase::Draining => {
                        self.killed += 1;
                        self.kill(id, Reason::DrainTimeout, out);
                    }
                    Phase::Ready => {
                        self.workers[i].worn = true;
                        self.workers[i].deadline = NEVER;
                    }
                    Phase::Killed => {}
                }
            }
            self.expire_call(i, out);
        }
    }

    /// Backlogs are emptied no longer than there is time and somebody to serve what they hold.
    fn end_emptying(&mut self, out: &mut Vec<Action>) {
        if let Some(Stopping::Emptying { until }) = self.stopping
            && (until <= self.now || !self.accepts())
        {
            self.emptied(out);
        }
    }

    /// A worker that is starting will not be waited for.
    fn give_up_start(&mut self, id: u32, why: &str, out: &mut Vec<Action>) {
        let Some(&mut Worker { slot, generation, .. }) = self.find(id) else { return };
        self.kill(id, Reason::BootFailure, out);
        if self.is_on_trial(generation) {
            self.roll_back(id, slot, why, out);
        }
    }

    /// Whether this generation is the new one of a reload that may still fail.
    fn is_on_trial(&self, generation: u32) -> bool {
        self.reload.as_ref().is_some_and(|r| r.generation == generation && r.back.is_none())
    }

    fn expire_call(&mut self, i: usize, out: &mut Vec<Action>) {
        let w = &mut self.workers[i];
        if w.next_hang_step() > self.now {
            return;
        }
        let id = w.id;
        w.hang_at = self.now + HANG_GRACE;
        match w.hang {
            Hang::No => {
                w.hang = Hang::Noticed;
                out.push(Action::Withdraw(id));
                out.push(Action::Signal(id, overdue::SIGNAL));
                out.push(Action::Tell(Happening::Hang(id)));
            }
            Hang::Noticed => {
                w.hang = Hang::Aborted;
                w.leaving = Some(Reason::Hang);
                out.push(Action::Signal(id, SIGABRT));
            }
            Hang::Aborted => self.kill(id, Reason::Hang, out),
        }
    }

    fn advance(&mut self, out: &mut Vec<Action>) {
        if self.stopping.is_some() {
            return;
        }
        self.begin_reload(out);
        self.roll(out);
        self.recycle(out);
        self.fill_slots(out);
    }

    /// A reload begins when no other is under way and no generation before this one has workers left.
    fn begin_reload(&mut self, out: &mut Vec<Action>) {
        if !self.reload_wanted || self.keeps_a_reload_waiting() {
            return;
        }
        self.reload_wanted = false;
        self.last_generation += 1;
        let generation = self.last_generation;
        self.reload = Some(Reload { generation, stage: ReloadStage::Preparing, back: None });
        out.push(Action::Tell(Happening::ReloadStarted(generation)));
        out.push(Action::Prepare(generation));
    }

    /// Whether a reload that is asked for now cannot begin at once.
    pub fn keeps_a_reload_waiting(&self) -> bool {
        let busy = self.booting || self.reload.is_some() || self.recycling.is_some();
        busy || self.workers.iter().any(|w| w.generation != self.generation)
    }

    fn prepared(&mut self, result: Result<(), String>, out: &mut Vec<Action>) {
        let Some(reload) = self.reload.as_mut().filter(|r| r.stage == ReloadStage::Preparing) else { return };
        match result {
            Ok(()) => reload.stage = ReloadStage::Canary,
            Err(why) => self.end_reload(&why, out),
        }
    }

    /// Ends a reload that will not be: for the reason it failed for before, or else for this one.
    fn end_reload(&mut self, why: &str, out: &mut Vec<Action>) {
        if let Some(Reload { generation, stage, back }) = self.reload.take() {
            let other = || ReloadFailure {
                stage,
                reason: why.to_owned(),
                worker: None,
                exit: None,
                stderr: Vec::new(),
            };
            let failure = back.map_or_else(other, |back| back.failure);
            out.push(Action::Revert);
            out.push(Action::Tell(Happening::ReloadRolledBack(generation, failure)));
        }
    }

    fn roll_back(&mut self, worker: u32, slot: usize, why: &str, out: &mut Vec<Action>) {
        let since = self.now;
        let Some(reload) = &mut self.reload else { return };
        let failure = ReloadFailure {
            stage: reload.stage,
            reason: format!("worker {worker} (slot {slot}): {why}"),
            worker: Some(worker),
            exit: None,
            stderr: Vec::new(),
        };
        reload.back = Some(Back { failure, since });
        let new = reload.generation;
        for i in 0..self.slots.len() {
            let fails = |id: &u32| {
                self.workers.iter().any(|w| w.id == *id && w.generation == new && w.phase != Phase::Ready)
            };
            let successor = self.slots[i].successor.filter(&fails);
            let current = self.slots[i].current.filter(&fails);
            if let Some(id) = successor {
                self.slots[i].successor = None;
                self.kill(id, Reason::Reload, out);
            }
            if let Some(id) = current {
                self.slots[i].current = None;
                self.slots[i].start_at = self.now;
                self.kill(id, Reason::Reload, out);
            }
        }
    }

    /// When a reload that is being rolled back may be told of: how the worker that failed has ended is a part of that, and where
    /// it was just killed it is about to be known.
    fn verdict_due(&self) -> u64 {
        let Some(Back { failure, since }) = self.reload.as_ref().and_then(|r| r.back.as_ref()) else {
            return NEVER;
        };
        let dying = |w: &Worker| Some(w.id) == failure.worker && w.phase == Phase::Killed;
        if self.workers.iter().any(dying) { since + VERDICT_WAITS } else { self.now }
    }

    /// Carries a reload on: new workers beside the old ones, a few at a time; or, rolling back, the other way round.
    fn roll(&mut self, out: &mut Vec<Action>) {
        let Some(&Reload { generation: new, stage, ref back }) = self.reload.as_ref() else { return };
        let goes_back = back.is_some();
        let (to, at_once) = match stage {
            _ if goes_back => (self.generation, self.rules.surge.max(1)),
            ReloadStage::Preparing => return,
            ReloadStage::Canary => (new, 1),
            ReloadStage::Rolling => (new, self.rules.surge.max(1)),
        };
        // One that was killed for not being ready still counts: it is about to end the reload.
        let starts = |w: &&Worker| w.generation == to && w.phase == Phase::Starting;
        let given_up = |w: &&Worker| w.generation == to && w.leaving == Some(Reason::BootFailure);
        let mut starting = self.workers.iter().filter(|w| starts(w) || given_up(w)).count();
        let mut left = false;
        for i in 0..self.slots.len() {
            let Slot { current, successor, .. } = self.slots[i];
            let current = self.workers.iter().find(|w| Some(w.id) == current);
            let done = match current {
                Some(w) if goes_back => w.generation == to,
                Some(w) => w.generation == to && w.phase == Phase::Ready,
                // Rolling back, an empty slot is filled with the old generation in its own time.
                None => goes_back,
            };
            left |= !done || successor.is_some();
            let moves = current.is_none_or(|w| w.generation != to);
            if !done && moves && successor.is_none() && starting < at_once {
                starting += 1;
                let occupied = current.is_some();
                let id = self.spawn(i, to, out);
                let slot = &mut self.slots[i];
                *(if occupied { &mut slot.successor } else { &mut slot.current }) = Some(id);
            }
        }
        if left {
            return;
        }
        if goes_back {
            if self.verdict_due() <= self.now {
                self.end_reload("", out);
            }
            return;
        }
        self.reload = None;
        self.generation = new;
        out.push(Action::Commit);
        out.push(Action::Tell(Happening::ReloadCommitted(new)));
    }

    /// Replaces a worn worker, the new one first, one at a time.
    fn recycle(&mut self, out: &mut Vec<Action>) {
        if self.booting || self.reload.is_some() || self.recycling.is_some() || self.recycle_at > self.now {
            return;
        }
        let worn = self.workers.iter().find(|w| w.worn && w.phase == Phase::Ready && self.is_current(w));
        if let Some((id, slot)) = worn.map(|w| (w.id, w.slot)) {
            self.recycling = Some(id);
            let new = self.spawn(slot, self.generation, out);
            self.slots[slot].successor = Some(new);
        }
    }

    fn fill_slots(&mut self, out: &mut Vec<Action>) {
        let generation = match &self.reload {
            // The canary has shown that the new generation starts.
            Some(r) if r.stage == ReloadStage::Rolling && r.back.is_none() => r.generation,
            _ => self.generation,
        };
        for i in 0..self.slots.len() {
            let slot = &self.slots[i];
            if slot.current.is_none() && slot.successor.is_none() && slot.start_at <= self.now {
                let id = self.spawn(i, generation, out);
                self.slots[i].current = Some(id);
            }
        }
    }

    fn stop(&mut self, out: &mut Vec<Action>) {
        if self.stopping.is_some() {
            for id in self.ids() {
                self.kill(id, Reason::Stop, out);
            }
            return self.emptied(out);
        }
        self.reload_wanted = false;
        self.end_reload("the master stops", out);
        self.stopping = Some(Stopping::Emptying { until: after(self.now, self.time_to_empty()) });
        let starting: Vec<u32> =
            self.workers.iter().filter(|w| w.phase == Phase::Starting).map(|w| w.id).collect();
        for id in starting {
            self.kill(id, Reason::Stop, out);
        }
        out.push(Action::EmptyBacklogs);
    }

    /// Whether connections are accepted at all: there is a worker for them, and all have been ready.
    fn accepts(&self) -> bool {
        !self.booting && self.workers.iter().any(|w| w.phase == Phase::Ready)
    }

    fn emptied(&mut self, out: &mut Vec<Action>) {
        let Some(Stopping::Emptying { until }) = self.stopping else { return };
        self.stopping = Some(Stopping::Draining);
        out.push(Action::CloseListeners);
        // One timeout for both: what emptying took is not given again.
        let took = self.time_to_empty().saturating_sub(until.saturating_sub(self.now));
        let patience = match self.rules.drain_timeout {
            0 => 0,
            timeout => (timeout - took).max(1),
        };
        for id in self.ids() {
            self.retire(id, Reason::Stop, patience, out);
        }
    }

    /// How long a stop waits at most until all that was accepted is with a worker that has taken it.
    fn time_to_empty(&self) -> u64 {
        self.rules.drain_timeout.div_ceil(2)
    }

    fn ids(&self) -> Vec<u32> {
        self.workers.iter().map(|w| w.id).collect()
    }

    fn next_due(&self) -> u64 {
        let workers = self.workers.iter().flat_map(|w| [w.deadline, w.next_hang_step()]);
        let slots =
            self.slots.iter().filter(|s| s.current.is_none() && s.successor.is_none()).map(|s| s.start_at);
        let until = match self.stopping {
            Some(Stopping::Emptying { until }) => until,
            _ => NEVER,
        };
        let worn = self.recycling.is_none() && self.workers.iter().any(|w| w.worn && w.phase == Phase::Ready);
        let recycle = if worn && self.recycle_at > self.now { self.recycle_at } else { NEVER };
        let slots = slots.map(|at| if self.stopping.is_some() { NEVER } else { at });
        let verdict = Some(self.verdict_due()).filter(|at| *at > self.now).unwrap_or(NEVER);
        workers.chain(slots).chain([until, recycle, verdict]).min().unwrap_or(NEVER)
    }
}

/// The bit that stands for a signal; none for what is no signal's number.
fn bit(signal: i32) -> u64 {
    u32::try_from(signal - 1).ok().and_then(|n| 1u64.checked_shl(n)).unwrap_or(0)
}

/// A time that much later; 0 is never.
fn after(now: u64, wait: u64) -> u64 {
    if wait == 0 { NEVER } else { now.saturating_add(wait) }
}

/// Marsaglia's xorshift: even enough for jitter, and the same everywhere.
fn next_random(mut x: u64) -> u64 {
    x ^= x << 13;
    x ^= x >> 7;
    x ^ (x << 17)
}

#[cfg(test)]
mod simulate;
