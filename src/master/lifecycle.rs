//! The lifecycle of all workers: a pure state machine. What happened and the time go in, what to do comes out.
//!
//! No system call, no clock, no chance of its own: the master's loop feeds it and carries out what it says, and so does a
//! simulator with virtual time. It must hold that a slot has at most one current worker and one successor, that at most
//! two generations live, that each reload ends, committed or rolled back, and that each stop ends.
//!
//! Here are births and deaths; `reload`, `hang` and `stop` have the rest, `terms` what goes in and comes out.

mod hang;
mod reload;
#[cfg(test)]
pub mod simulate;
mod snapshot;
mod stop;
mod terms;

use super::restart::Restart;
use crate::event::{Event, Exit, Reason, ReloadFailure, ReloadStage, ReloadState, WorkerInfo};
use crate::ids::{Generation, Slot, WorkerId};
use crate::sys::signal::{SIGKILL, SIGTERM};
use crate::sys::time::Time;
pub use snapshot::Snapshot;
use std::time::Duration;
pub use terms::{Action, Ended, Input, Rules};

/// The exit code by which a worker says that its configuration is wrong and starting it again of no use (sysexits(3)).
pub const EX_CONFIG: i32 = 78;
/// If a tick comes this much later than due, the master itself stood still.
const LATE: Duration = Duration::from_millis(500);
/// The time after which a failed recycling is tried again, at least.
const RECYCLE_AGAIN: Duration = Duration::from_secs(1);

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
    pub id: WorkerId,
    /// The slot it was started for.
    pub slot: Slot,
    /// The generation of its handler.
    pub generation: Generation,
    /// How far it has come.
    pub phase: Phase,
    /// When it was forked.
    pub since: Time,
    /// When something is done about it: it is not ready, or not drained.
    deadline: Time,
    /// Since when it has been in one call of its handler, as last told.
    busy_since: Time,
    /// When the next step against it is due, if it stays in that call.
    hang_at: Time,
    hang: Hang,
    worn: bool,
    leaving: Option<Reason>,
    /// Signals sent to it through the master, a bit each.
    sent: u64,
}

impl Worker {
    fn info(&self) -> WorkerInfo {
        WorkerInfo { id: self.id.0, slot: self.slot.0, generation: self.generation.0, pid: 0 }
    }

    /// When the next step against it is due, should it not come back from its handler.
    fn next_hang_step(&self) -> Time {
        if matches!(self.phase, Phase::Ready | Phase::Draining) { self.hang_at } else { Time::NEVER }
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
pub struct Place {
    /// The worker there; it may still be starting.
    pub current: Option<WorkerId>,
    /// The one that is to replace it.
    pub successor: Option<WorkerId>,
    start_at: Time,
    restart: Restart,
    /// A scale-up has made it, and nobody has served there yet.
    fresh: bool,
}

#[derive(Clone, Debug)]
struct Reload {
    generation: Generation,
    stage: ReloadStage,
    /// Where it has failed: old workers come back.
    back: Option<Back>,
}

#[derive(Clone, Debug)]
struct Back {
    failure: ReloadFailure,
    since: Time,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stopping {
    Emptying { until: Time },
    Draining,
}

/// The machine.
#[derive(Clone, Debug)]
pub struct Lifecycle {
    rules: Rules,
    workers: Vec<Worker>,
    /// By slot.
    places: Vec<Place>,
    generation: Generation,
    last_generation: Generation,
    last_id: WorkerId,
    now: Time,
    due: Time,
    booting: bool,
    reload: Option<Reload>,
    reload_wanted: bool,
    /// The worker that is being recycled, until it is gone.
    recycling: Option<WorkerId>,
    recycle_at: Time,
    stopping: Option<Stopping>,
    killed: u32,
    random: u64,
}

impl Lifecycle {
    /// `slots` empty slots to be filled at the first tick. `seed` spreads the delays of restarts.
    pub fn new(rules: Rules, slots: usize, seed: u64) -> Self {
        Self {
            rules,
            workers: Vec::with_capacity(2 * slots),
            places: vec![Place::default(); slots],
            generation: Generation::FIRST,
            last_generation: Generation::FIRST,
            last_id: WorkerId(0),
            now: Time::default(),
            due: Time::default(),
            booting: true,
            reload: None,
            reload_wanted: false,
            recycling: None,
            recycle_at: Time::default(),
            stopping: None,
            killed: 0,
            random: seed | 1,
        }
    }

    /// Takes one thing that happened at `now` (never earlier than before) and appends what to do, in this order.
    pub fn step(&mut self, now: Time, input: Input, out: &mut Vec<Action>) {
        self.forgive_lateness(now);
        self.now = now;
        match input {
            // Deadlines pass here alone: a tick comes behind the news of all workers, so that a late master blames nobody for
            // a call that ended long ago.
            Input::Tick => self.expire(out),
            Input::SpawnFailed(id, why) => self.spawn_failed(id, why, out),
            Input::Ready(id) => self.became_ready(id, out),
            Input::Died(ended) => self.died(ended, out),
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
    pub fn due(&self) -> Time {
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
    pub fn is_starting(&self, id: WorkerId) -> bool {
        self.workers.iter().any(|w| w.id == id && w.phase == Phase::Starting)
    }

    /// Whether this worker has shown what there was to show: it can serve, and its generation is not on trial.
    pub fn is_proved(&self, id: WorkerId) -> bool {
        let serves = |w: &Worker| matches!(w.phase, Phase::Ready | Phase::Draining);
        let worker = self.workers.iter().find(|w| w.id == id);
        !self.booting && worker.is_some_and(|w| serves(w) && !self.is_on_trial(w.generation))
    }

    /// Whether a reload is under way, or asked for.
    pub fn is_reloading(&self) -> bool {
        self.reload.is_some() || self.reload_wanted
    }

    /// Whether every slot has a worker that can serve, and no worker is left of a slot there is no more.
    pub fn is_complete(&self) -> bool {
        self.places.iter().all(|p| self.serves(p))
            && self.workers.iter().all(|w| w.slot.index() < self.places.len())
    }

    /// The first slot that stays empty, since its worker said that its configuration is wrong.
    pub fn given_up(&self) -> Option<Slot> {
        let empty = |p: &Place| p.current.is_none() && p.successor.is_none() && p.start_at == Time::NEVER;
        self.places
            .iter()
            .position(empty)
            .map(Slot::at)
            .filter(|_| self.reload.is_none() && self.stopping.is_none())
    }

    /// Workers that had to be killed because they did not finish in time.
    pub fn killed(&self) -> u32 {
        self.killed
    }

    /// The generation that serves, or is being replaced.
    pub fn generation(&self) -> Generation {
        self.generation
    }

    /// All workers that have not been reaped.
    pub fn workers(&self) -> &[Worker] {
        &self.workers
    }

    /// The places of workers, by slot.
    #[cfg(test)]
    pub fn places(&self) -> &[Place] {
        &self.places
    }

    /// The number of slots.
    pub fn slots(&self) -> usize {
        self.places.len()
    }

    /// After the whole machine stood still (SIGSTOP, suspend) no worker is to blame for what it could not do meanwhile. Since
    /// when it stood still nobody knows, so each gets what it had left at the last step.
    fn forgive_lateness(&mut self, now: Time) {
        let late = now - self.due.max(self.now);
        if self.due == Time::NEVER || self.due == Time::default() || late < LATE {
            return;
        }
        let stood = now - self.now;
        for w in &mut self.workers {
            w.deadline = w.deadline + stood;
            w.hang_at = w.hang_at + stood;
        }
        if let Some(Stopping::Emptying { until }) = &mut self.stopping {
            *until = *until + stood;
        }
    }

    fn find(&mut self, id: WorkerId) -> Option<&mut Worker> {
        self.workers.iter_mut().find(|w| w.id == id)
    }

    fn is_current(&self, w: &Worker) -> bool {
        self.places.get(w.slot.index()).is_some_and(|s| s.current == Some(w.id))
    }

    fn spawn(&mut self, slot: Slot, generation: Generation, out: &mut Vec<Action>) -> WorkerId {
        self.last_id = WorkerId(self.last_id.0 + 1);
        let id = self.last_id;
        let deadline = self.now.deadline(self.rules.boot_timeout);
        let worker = Worker {
            id,
            slot,
            generation,
            phase: Phase::Starting,
            since: self.now,
            deadline,
            busy_since: Time::default(),
            hang_at: Time::NEVER,
            hang: Hang::No,
            worn: false,
            leaving: None,
            sent: 0,
        };
        out.push(Action::Spawn { id, slot, generation });
        out.push(Action::Tell(Event::Fork { worker: worker.info() }));
        self.workers.push(worker);
        id
    }

    fn kill(&mut self, id: WorkerId, reason: Reason, out: &mut Vec<Action>) {
        if let Some(w) = self.find(id).filter(|w| w.phase != Phase::Killed) {
            w.phase = Phase::Killed;
            w.deadline = Time::NEVER;
            w.leaving = Some(reason);
            out.push(Action::Withdraw(id));
            out.push(Action::Signal(id, SIGKILL));
        }
    }

    /// Takes a worker out of dispatch and has it finish; one that has not started to serve is killed.
    fn retire(&mut self, id: WorkerId, reason: Reason, patience: Duration, out: &mut Vec<Action>) {
        let deadline = self.now.deadline(patience);
        let Some(w) = self.find(id) else { return };
        match w.phase {
            Phase::Starting => self.kill(id, reason, out),
            Phase::Ready => {
                w.phase = Phase::Draining;
                w.deadline = deadline;
                w.leaving = Some(reason);
                let worker = w.info();
                out.push(Action::Withdraw(id));
                out.push(Action::Drain(id));
                out.push(Action::Tell(Event::Disconnect { worker }));
            }
            Phase::Draining | Phase::Killed => {}
        }
    }

    fn became_ready(&mut self, id: WorkerId, out: &mut Vec<Action>) {
        let max_age = self.rules.max_age;
        let Some(w) = self.find(id).filter(|w| w.phase == Phase::Starting) else { return };
        w.phase = Phase::Ready;
        let (slot, worker) = (w.slot, w.info());
        w.deadline = w.since.deadline(max_age);
        out.push(Action::Tell(Event::Ready { worker }));
        out.push(Action::Admit(id));
        let place = &mut self.places[slot.index()];
        if std::mem::take(&mut place.fresh) {
            out.push(Action::Rebalance(id));
        }
        if place.successor == Some(id) {
            place.successor = None;
            let before = place.current.replace(id);
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
        self.booting &= self.places.iter().any(|p| !self.serves(p));
    }

    fn serves(&self, place: &Place) -> bool {
        self.workers.iter().any(|w| Some(w.id) == place.current && w.phase == Phase::Ready)
    }

    fn spawn_failed(&mut self, id: WorkerId, why: String, out: &mut Vec<Action>) {
        let Some(at) = self.workers.iter().position(|w| w.id == id) else { return };
        let w = self.workers.swap_remove(at);
        if self.booting && self.stopping.is_none() {
            return out.push(Action::Fail(why));
        }
        let text = match self.vacate(&w, None, &why, &[], out) {
            Some(delay) => format!("{why}; tried again in {} ms", delay.as_millis()),
            None => why,
        };
        out.push(Action::Tell(Event::Error { text }));
    }

    fn died(&mut self, ended: Ended, out: &mut Vec<Action>) {
        let (id, exit) = (ended.id, ended.exit);
        let Some(at) = self.workers.iter().position(|w| w.id == id) else { return };
        let mut w = self.workers.swap_remove(at);
        if w.leaving.is_none() && w.was_ended_by(exit) {
            w.leaving = Some(Reason::Killed);
        }
        let reason = w.leaving.unwrap_or(match w.phase {
            Phase::Starting => Reason::BootFailure,
            _ => Reason::Crash,
        });
        let why = match &ended.failure {
            Some(text) => text.clone(),
            None if w.leaving == Some(Reason::BootFailure) => self.boot_timeout_text(),
            None => exit.to_string(),
        };
        if self.booting && self.stopping.is_none() && !reason.is_intended() {
            return out.push(Action::Fail(why));
        }
        if let Some(Back { failure, .. }) = self.reload.as_mut().and_then(|r| r.back.as_mut())
            && failure.worker == Some(id.0)
        {
            (failure.exit, failure.stderr) = (Some(exit), ended.stderr.clone());
        }
        let restart = self.vacate(&w, Some(exit), &why, &ended.stderr, out);
        if self.recycling == Some(id) {
            self.recycling = None;
        }
        let worker = WorkerInfo { pid: ended.pid, ..w.info() };
        out.push(Action::TellExit { worker, ended, reason, restart });
    }

    /// A worker is no more: frees its place, and says when the next one starts there.
    fn vacate(
        &mut self,
        w: &Worker,
        exit: Option<Exit>,
        why: &str,
        stderr: &[String],
        out: &mut Vec<Action>,
    ) -> Option<Duration> {
        if self.stopping.is_some() {
            return None;
        }
        let is_new = self.is_on_trial(w.generation);
        let unasked = w.leaving.is_none_or(|r| !r.is_intended());
        let place = self.places.get_mut(w.slot.index())?;
        let mut restart = None;
        if place.current == Some(w.id) {
            place.current = place.successor.take();
            // Exit code 78 blocks the slot only for the generation it came from, and not if the worker was asked to exit.
            let says_wrong = exit == Some(Exit::Code(EX_CONFIG)) && w.phase == Phase::Starting;
            let gives_up = says_wrong && unasked && !is_new;
            place.start_at = if gives_up {
                Time::NEVER
            } else {
                self.random = next_random(self.random);
                let lived = if unasked { self.now - w.since } else { Duration::MAX };
                let was_ready = w.phase != Phase::Starting && w.leaving != Some(Reason::BootFailure);
                self.now + place.restart.delay(self.now, lived, was_ready, self.random)
            };
            restart = (place.current.is_none() && !gives_up).then(|| place.start_at - self.now);
        } else if place.successor == Some(w.id) {
            place.successor = None;
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
        let goes_back = self.reload.as_ref().is_some_and(|r| r.back.is_some());
        if self.recycling.is_none() && !goes_back {
            // A new generation that fails says nothing about the slot, in which an old worker still serves.
            return;
        }
        self.random = next_random(self.random);
        let place = &mut self.places[w.slot.index()];
        let delay = place.restart.delay(self.now, self.now - w.since, false, self.random);
        if self.recycling.is_some() {
            // The old one still serves; it is tried again when another would be started in that slot.
            self.recycling = None;
            self.recycle_at = self.now + delay.max(RECYCLE_AGAIN);
            return;
        }
        // Not even the old generation starts: the slot is left to the ordinary restarts, so that the reload ends.
        place.start_at = self.now + delay;
        if let Some(new) = place.current.take() {
            self.retire(new, Reason::Reload, self.rules.drain_timeout, out);
        }
    }

    /// This worker is to be replaced.
    fn drain(&mut self, id: WorkerId, patience: Duration, out: &mut Vec<Action>) {
        if self.find(id).is_some_and(|w| matches!(w.phase, Phase::Starting | Phase::Ready)) {
            self.retire(id, Reason::Drain, patience, out);
            self.leave_slot(id, Duration::ZERO);
        }
    }

    /// A worker leaves by itself. That is no crash, but it counts as a death for the delay of the next one, and for a reload;
    /// unless it follows a SIGTERM that was sent to it through the master.
    fn leaves(&mut self, id: WorkerId, out: &mut Vec<Action>) {
        let Some(w) = self.find(id) else { return };
        let Worker { slot, generation, phase, since, .. } = *w;
        if w.was_sent(SIGTERM) && matches!(phase, Phase::Starting | Phase::Ready) {
            self.retire(id, Reason::Killed, self.rules.drain_timeout, out);
            return self.leave_slot(id, Duration::ZERO);
        }
        match phase {
            Phase::Starting => return self.give_up_start(id, "it left before it was ready", out),
            Phase::Ready => {}
            Phase::Draining | Phase::Killed => return,
        }
        self.retire(id, Reason::Left, self.rules.drain_timeout, out);
        self.random = next_random(self.random);
        let (now, random) = (self.now, self.random);
        let place = self.places.get_mut(slot.index());
        let delay = place.map_or(Duration::ZERO, |p| p.restart.delay(now, now - since, true, random));
        self.leave_slot(id, delay);
        if self.is_on_trial(generation) {
            self.roll_back(id, slot, "it left", out);
        }
    }

    /// A worker's place is free, and is filled again after `delay`.
    fn leave_slot(&mut self, id: WorkerId, delay: Duration) {
        if let Some(place) = self.places.iter_mut().find(|p| p.current == Some(id)) {
            place.current = place.successor.take();
            place.start_at = self.now + delay;
        }
    }

    fn scale(&mut self, n: usize, out: &mut Vec<Action>) {
        if self.stopping.is_some() || self.booting {
            return;
        }
        while self.places.len() > n {
            let Some(place) = self.places.pop() else { break };
            for id in [place.successor, place.current].into_iter().flatten() {
                self.retire(id, Reason::Scale, self.rules.drain_timeout, out);
                if self.recycling == Some(id) {
                    self.recycling = None;
                }
            }
        }
        let fresh = Place { start_at: self.now, fresh: true, ..Place::default() };
        self.places.resize(n.max(self.places.len()), fresh);
    }

    /// What is overdue.
    fn expire(&mut self, out: &mut Vec<Action>) {
        for i in 0..self.workers.len() {
            let w = &self.workers[i];
            let (id, phase) = (w.id, w.phase);
            if w.deadline <= self.now {
                match phase {
                    Phase::Starting => {
                        let why = self.boot_timeout_text();
                        self.give_up_start(id, &why, out);
                    }
                    Phase::Draining => {
                        self.killed += 1;
                        self.kill(id, Reason::DrainTimeout, out);
                    }
                    Phase::Ready => {
                        self.workers[i].worn = true;
                        self.workers[i].deadline = Time::NEVER;
                    }
                    Phase::Killed => {}
                }
            }
            self.expire_call(i, out);
        }
    }

    fn boot_timeout_text(&self) -> String {
        format!("not ready within the boot-timeout of {} ms", self.rules.boot_timeout.as_millis())
    }

    /// Waits no longer for a worker that is starting.
    fn give_up_start(&mut self, id: WorkerId, why: &str, out: &mut Vec<Action>) {
        let Some(&mut Worker { slot, generation, .. }) = self.find(id) else { return };
        self.kill(id, Reason::BootFailure, out);
        if self.is_on_trial(generation) {
            self.roll_back(id, slot, why, out);
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

    /// Replaces a worn worker, the new one first, one at a time.
    fn recycle(&mut self, out: &mut Vec<Action>) {
        if self.booting || self.reload.is_some() || self.recycling.is_some() || self.recycle_at > self.now {
            return;
        }
        let worn = self.workers.iter().find(|w| w.worn && w.phase == Phase::Ready && self.is_current(w));
        if let Some((id, slot)) = worn.map(|w| (w.id, w.slot)) {
            self.recycling = Some(id);
            let new = self.spawn(slot, self.generation, out);
            self.places[slot.index()].successor = Some(new);
        }
    }

    fn fill_slots(&mut self, out: &mut Vec<Action>) {
        let generation = match &self.reload {
            // The canary has shown that the new generation starts.
            Some(r) if r.stage == ReloadStage::Rolling && r.back.is_none() => r.generation,
            _ => self.generation,
        };
        for i in 0..self.places.len() {
            let place = &self.places[i];
            if place.current.is_none() && place.successor.is_none() && place.start_at <= self.now {
                let id = self.spawn(Slot::at(i), generation, out);
                self.places[i].current = Some(id);
            }
        }
    }

    fn ids(&self) -> Vec<WorkerId> {
        self.workers.iter().map(|w| w.id).collect()
    }

    fn next_due(&self) -> Time {
        let workers = self.workers.iter().flat_map(|w| [w.deadline, w.next_hang_step()]);
        let empty = self.places.iter().filter(|p| p.current.is_none() && p.successor.is_none());
        let until = match self.stopping {
            Some(Stopping::Emptying { until }) => until,
            _ => Time::NEVER,
        };
        let worn = self.recycling.is_none() && self.workers.iter().any(|w| w.worn && w.phase == Phase::Ready);
        let recycle = if worn && self.recycle_at > self.now { self.recycle_at } else { Time::NEVER };
        let starts = empty.map(|p| if self.stopping.is_some() { Time::NEVER } else { p.start_at });
        let verdict = Some(self.verdict_due()).filter(|at| *at > self.now).unwrap_or(Time::NEVER);
        workers.chain(starts).chain([until, recycle, verdict]).min().unwrap_or(Time::NEVER)
    }
}

/// The bit that stands for a signal; none for what is no signal's number.
fn bit(signal: i32) -> u64 {
    u32::try_from(signal - 1).ok().and_then(|n| 1u64.checked_shl(n)).unwrap_or(0)
}

/// Marsaglia's xorshift: even enough for jitter, and the same everywhere.
fn next_random(mut x: u64) -> u64 {
    x ^= x << 13;
    x ^= x >> 7;
    x ^ (x << 17)
}
