//! The lifecycle of all workers: a pure state machine. Events and the time go in, actions come out.
//!
//! It makes no system call and reads no clock: the master's loop feeds it and executes its actions, and so does a simulator with
//! virtual time. It must hold that a slot has at most one current worker and one successor, that besides the generation that serves
//! and the one on trial a bounded number of older ones finish what they have, that there is room for each worker that is forked, that
//! each reload ends, committed or rolled back, and that each stop ends.
//!
//! Births and deaths are here; `reload`, `draining`, `hang` and `stop` have the rest, `terms` what goes in and comes out.

mod draining;
mod given_up;
mod hang;
mod reload;
mod shortage;
#[cfg(test)]
pub mod simulate;
mod snapshot;
mod stop;
mod terms;

use super::restart::Restart;
use crate::error::Misconfigured;
use crate::event::{Event, Exit, Reason, ReloadFailure, ReloadStage, ReloadState, WorkerInfo};
use crate::ids::{Generation, Slot, WorkerId};
use crate::sys::signal::{SIGKILL, SIGTERM};
use crate::sys::time::Time;
use shortage::Shortage;
pub use snapshot::Snapshot;
use std::time::Duration;
pub(super) use stop::SAME_INTERRUPT;
pub use terms::{Action, Ended, Input, Rules};

/// The exit code by which a worker says that its configuration is wrong, so that starting it again is useless (sysexits(3)).
pub const EX_CONFIG: i32 = Misconfigured::EXIT_CODE;
/// If a tick comes this much later than due, the master itself stood still.
const LATE: Duration = Duration::from_millis(500);
/// The shortest time until a failed recycling is tried again.
const RECYCLE_AGAIN: Duration = Duration::from_secs(1);

/// The state of a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Forked, not ready yet.
    Starting,
    /// It can serve.
    Ready,
    /// It finishes what it has.
    Draining,
    /// It was sent SIGKILL.
    Killed,
}

/// A worker, from its fork until it is reaped.
#[derive(Clone, Debug)]
pub struct Worker {
    pub id: WorkerId,
    pub slot: Slot,
    pub generation: Generation,
    pub phase: Phase,
    /// When it was forked.
    pub since: Time,
    /// The end of its time to become ready, to grow old, or to drain.
    deadline: Time,
    /// The start of the call of its handler that it is in, as last reported; zero if it is in none.
    busy_since: Time,
    /// When the next step against it is due, unless that call has returned.
    hang_at: Time,
    hang: Hang,
    /// True if it is to be replaced because of what it has served, its memory or its age.
    worn: bool,
    /// Why it is to end.
    leaving: Option<Reason>,
    /// When it began to drain.
    drains_since: Time,
    /// The time from which on it may close what it still has.
    ends_from: Time,
    /// True if it was ordered to end at once what it still has.
    is_ending: bool,
    /// The signals sent to it through the master, a bit each.
    sent: u64,
}

impl Worker {
    fn new(id: WorkerId, slot: Slot, generation: Generation, since: Time, deadline: Time) -> Self {
        Self {
            id,
            slot,
            generation,
            phase: Phase::Starting,
            since,
            deadline,
            busy_since: Time::default(),
            hang_at: Time::NEVER,
            hang: Hang::No,
            worn: false,
            leaving: None,
            drains_since: Time::NEVER,
            ends_from: Time::NEVER,
            is_ending: false,
            sent: 0,
        }
    }

    fn info(&self) -> WorkerInfo {
        WorkerInfo { id: self.id.0, slot: self.slot.0, generation: self.generation.0, pid: 0 }
    }

    /// The time at which it ends what it still has; `None` if it does not drain, or has all the time it needs.
    pub fn finishes_by(&self) -> Option<Time> {
        let kills_at = Some(self.deadline).filter(|at| self.phase == Phase::Draining && *at < Time::NEVER)?;
        Some(kills_at.earlier_by(draining::END_GRACE))
    }

    fn can_serve(&self) -> bool {
        matches!(self.phase, Phase::Ready | Phase::Draining)
    }

    /// When the next step against it is due, if its call has not returned by then.
    fn next_hang_step(&self) -> Time {
        if self.can_serve() { self.hang_at } else { Time::NEVER }
    }

    /// True if it was sent this signal through the master.
    fn was_sent(&self, signal: i32) -> bool {
        self.sent & bit(signal) != 0
    }

    /// True if a signal that was sent to it through the master has ended it. Most signals do nothing to a worker, so it may die of
    /// something else later.
    fn was_ended_by(&self, exit: Exit) -> bool {
        match exit {
            Exit::Signal { number, .. } => self.was_sent(number),
            // Its own signal handler may have called exit.
            Exit::Code(_) => self.was_sent(SIGTERM),
            // Any of them may have.
            Exit::Unknown => self.sent != 0,
        }
    }
}

/// The steps against a worker that hangs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hang {
    No,
    /// Reported to the host and, by a signal, to the handler; out of dispatch.
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
    /// When a worker is started here if there is none; never if its configuration is wrong.
    start_at: Time,
    restart: Restart,
    /// True if a scale-up has made it, and no worker has been ready here yet.
    fresh: bool,
}

impl Place {
    fn is_empty(&self) -> bool {
        self.current.is_none() && self.successor.is_none()
    }

    /// The current worker leaves; its successor takes over, or a new one starts at this time.
    fn hand_over(&mut self, start_at: Time) {
        self.current = self.successor.take();
        self.start_at = start_at;
    }
}

#[derive(Clone, Debug)]
struct Reload {
    generation: Generation,
    stage: ReloadStage,
    /// Why it is being rolled back, if it is: old workers replace the new ones.
    failure: Option<ReloadFailure>,
    /// When it failed.
    failed_at: Time,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stopping {
    Emptying { until: Time },
    Draining,
}

/// The state machine.
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
    /// The worker that is being recycled, until its successor is ready.
    recycling: Option<WorkerId>,
    /// The worker that was recycled last, until it is reaped.
    recycled: Option<WorkerId>,
    recycle_at: Time,
    stopping: Option<Stopping>,
    /// The time at which the stop began.
    stop_began: Time,
    killed: u32,
    cut: u64,
    /// The failure to start workers, if that goes on.
    shortage: Option<Shortage>,
    /// When the run ends because all slots stay empty.
    gives_up_at: Time,
}

impl Lifecycle {
    /// Begins with `slots` empty slots, which the first tick fills.
    pub fn new(rules: Rules, slots: usize) -> Self {
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
            recycled: None,
            recycle_at: Time::default(),
            stopping: None,
            stop_began: Time::NEVER,
            killed: 0,
            cut: 0,
            shortage: None,
            gives_up_at: Time::NEVER,
        }
    }

    /// Takes one input at `now` (never earlier than before) and appends the actions, in the order of their execution.
    pub fn step(&mut self, now: Time, input: Input, out: &mut Vec<Action>) {
        self.forgive_lateness(now);
        self.now = now;
        match input {
            // Deadlines pass only here: a tick comes after the news of all workers, so that a late master blames no worker for a
            // call that returned long ago.
            Input::Tick => {
                self.expire(out);
                self.tell_shortage(out);
                self.give_up(out);
            }
            Input::SpawnFailed(id, why) => self.spawn_failed(id, why, out),
            Input::Ready(id) => self.became_ready(id, out),
            Input::Died(ended) => self.died(ended, out),
            Input::Prepared(result) => self.prepared(result, out),
            Input::Reload => self.reload_wanted = self.stopping.is_none(),
            Input::Scale(n) => self.scale(n.max(1), out),
            Input::Drain(id, patience) => self.drain(id, patience, out),
            Input::Leaving(id) => self.leaves(id, out),
            Input::Signalled(id, signal) => self.find_mut(id).into_iter().for_each(|w| w.sent |= bit(signal)),
            Input::Busy(id, since) => self.busy(id, since, out),
            Input::Worn(id) => self.find_mut(id).into_iter().for_each(|w| w.worn = true),
            Input::Stop => self.stop(out),
            Input::Interrupt => self.interrupt(out),
            Input::Emptied => self.emptied(out),
        }
        self.end_emptying(out);
        if self.stopping.is_none() {
            self.begin_reload(out);
            self.roll(out);
            self.bound_generations(out);
            self.recycle(out);
            self.fill_slots(out);
        }
        self.note_given_up(out);
        self.due = self.next_due();
    }

    /// When [`Input::Tick`] must come at the latest.
    pub fn due(&self) -> Time {
        self.due
    }

    /// True if a stop is complete: every worker was reaped.
    pub fn has_stopped(&self) -> bool {
        self.stopping == Some(Stopping::Draining) && self.workers.is_empty()
    }

    /// True if a stop has begun.
    pub fn is_stopping(&self) -> bool {
        self.stopping.is_some()
    }

    /// True until the first workers are all ready.
    pub fn is_booting(&self) -> bool {
        self.booting
    }

    /// True if this worker is not ready yet, and may become so.
    pub fn is_starting(&self, id: WorkerId) -> bool {
        self.find(id).is_some_and(|w| w.phase == Phase::Starting)
    }

    /// True if this worker can serve, and its generation is not on trial.
    pub fn is_proved(&self, id: WorkerId) -> bool {
        !self.booting && self.find(id).is_some_and(|w| w.can_serve() && !self.is_on_trial(w.generation))
    }

    /// True if a reload is under way or wanted.
    pub fn is_reloading(&self) -> bool {
        self.reload.is_some() || self.reload_wanted
    }

    /// True if every slot has a worker that can serve, and no worker of a slot that was scaled away is left.
    pub fn is_complete(&self) -> bool {
        self.places.iter().all(|p| self.serves(p))
            && self.workers.iter().all(|w| w.slot.index() < self.places.len())
    }

    /// The first slot that stays empty because its worker said that its configuration is wrong.
    pub fn given_up(&self) -> Option<Slot> {
        if self.reload.is_some() || self.stopping.is_some() {
            return None;
        }
        self.places.iter().position(|p| p.is_empty() && p.start_at == Time::NEVER).map(Slot::at)
    }

    /// The number of workers that the stop has killed because they did not drain in time.
    pub fn killed(&self) -> u32 {
        self.killed
    }

    /// The number of connections that workers have ended at their deadline during the stop.
    pub fn cut(&self) -> u64 {
        self.cut
    }

    /// The generation that serves, or is being replaced.
    pub fn generation(&self) -> Generation {
        self.generation
    }

    /// The generation whose workers get what comes back from others: the new one as soon as it has shown that it serves.
    pub fn destination(&self) -> Generation {
        match &self.reload {
            Some(r) if r.stage == ReloadStage::Rolling && r.failure.is_none() => r.generation,
            _ => self.generation,
        }
    }

    /// All workers that have not been reaped.
    pub fn workers(&self) -> &[Worker] {
        &self.workers
    }

    /// A worker, until it is reaped.
    pub fn find(&self, id: WorkerId) -> Option<&Worker> {
        self.workers.iter().find(|w| w.id == id)
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

    /// Moves deadlines if the master itself stood still (SIGSTOP, suspend): workers are not to blame for that time. It cannot be
    /// known when it began, so each worker gets what it had left at the last step.
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

    fn find_mut(&mut self, id: WorkerId) -> Option<&mut Worker> {
        self.workers.iter_mut().find(|w| w.id == id)
    }

    fn remove(&mut self, id: WorkerId) -> Option<Worker> {
        let at = self.workers.iter().position(|w| w.id == id)?;
        Some(self.workers.swap_remove(at))
    }

    fn is_current(&self, w: &Worker) -> bool {
        self.places.get(w.slot.index()).is_some_and(|s| s.current == Some(w.id))
    }

    fn spawn(&mut self, slot: Slot, generation: Generation, out: &mut Vec<Action>) -> WorkerId {
        self.last_id = WorkerId(self.last_id.0 + 1);
        let id = self.last_id;
        let deadline = self.now.deadline(self.rules.boot_timeout);
        let worker = Worker::new(id, slot, generation, self.now, deadline);
        out.push(Action::Spawn { id, slot, generation });
        out.push(Action::Tell(Event::Fork { worker: worker.info() }));
        self.workers.push(worker);
        id
    }

    fn kill(&mut self, id: WorkerId, reason: Reason, out: &mut Vec<Action>) {
        if let Some(w) = self.find_mut(id).filter(|w| w.phase != Phase::Killed) {
            w.phase = Phase::Killed;
            w.deadline = Time::NEVER;
            w.leaving = Some(reason);
            out.push(Action::Withdraw(id));
            out.push(Action::Signal(id, SIGKILL));
        }
    }

    /// Takes a worker out of dispatch and has it finish; one that has not started to serve is killed.
    fn retire(&mut self, id: WorkerId, reason: Reason, patience: Duration, out: &mut Vec<Action>) {
        let (now, deadline) = (self.now, self.kill_at(patience));
        let Some(w) = self.find_mut(id) else { return };
        match w.phase {
            Phase::Starting => self.kill(id, reason, out),
            Phase::Ready => {
                w.phase = Phase::Draining;
                w.deadline = deadline;
                w.leaving = Some(reason);
                w.drains_since = now;
                w.ends_from = now.deadline(patience);
                let worker = w.info();
                out.push(Action::Withdraw(id));
                out.push(Action::Drain(id, patience));
                out.push(Action::Tell(Event::Disconnect { worker }));
            }
            Phase::Draining | Phase::Killed => {}
        }
    }

    fn became_ready(&mut self, id: WorkerId, out: &mut Vec<Action>) {
        let max_age = self.rules.max_age;
        let Some(w) = self.find_mut(id).filter(|w| w.phase == Phase::Starting) else { return };
        w.phase = Phase::Ready;
        w.deadline = w.since.deadline(max_age);
        let (slot, generation, worker) = (w.slot, w.generation, w.info());
        out.push(Action::Tell(Event::Ready { worker }));
        out.push(Action::Admit(id));
        let place = &mut self.places[slot.index()];
        if std::mem::take(&mut place.fresh) {
            out.push(Action::Rebalance(id));
        }
        if place.successor == Some(id) {
            place.successor = None;
            if let Some(before) = place.current.replace(id) {
                let recycled = self.recycling.take_if(|id| *id == before);
                let reason = if recycled.is_some() { Reason::Recycle } else { Reason::Reload };
                self.recycled = recycled.or(self.recycled);
                self.retire(before, reason, self.rules.drain_timeout, out);
            }
        }
        if self.is_on_trial(generation)
            && let Some(reload) = &mut self.reload
        {
            reload.stage = ReloadStage::Rolling;
        }
        self.booting &= self.places.iter().any(|p| !self.serves(p));
        self.started_in_shortage();
    }

    fn serves(&self, place: &Place) -> bool {
        self.workers.iter().any(|w| Some(w.id) == place.current && w.phase == Phase::Ready)
    }

    fn spawn_failed(&mut self, id: WorkerId, why: String, out: &mut Vec<Action>) {
        let Some(w) = self.remove(id) else { return };
        if self.booting && self.stopping.is_none() {
            return out.push(Action::Fail { why, is_wrong_config: false });
        }
        self.free_place(&w, None, &why, out);
        self.note_shortage(why);
    }

    fn died(&mut self, mut ended: Ended, out: &mut Vec<Action>) {
        let (id, exit) = (ended.id, ended.exit);
        let Some(mut w) = self.remove(id) else { return };
        if self.now < w.ends_from {
            // Whatever is on its page.
            ended.cut = 0;
        }
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
            let is_wrong_config = exit == Exit::Code(EX_CONFIG);
            return out.push(Action::Fail { why, is_wrong_config });
        }
        let restart = self.free_place(&w, Some(exit), &why, out);
        if let Some(failure) = self.failure_mut().filter(|f| f.worker == Some(id.0)) {
            (failure.exit, failure.stderr) = (Some(exit), ended.stderr.clone());
        }
        self.recycling.take_if(|recycling| *recycling == id);
        self.recycled.take_if(|recycled| *recycled == id);
        self.cut += if self.stopping.is_some() { ended.cut } else { 0 };
        let worker = WorkerInfo { pid: ended.pid, ..w.info() };
        out.push(Action::TellExit { worker, ended, reason, restart });
    }

    /// Frees the place of a worker that has ended; returns the delay until the next one starts there, if one does.
    fn free_place(
        &mut self,
        w: &Worker,
        exit: Option<Exit>,
        why: &str,
        out: &mut Vec<Action>,
    ) -> Option<Duration> {
        if self.stopping.is_some() {
            return None;
        }
        let is_new = self.is_on_trial(w.generation);
        let unasked = w.leaving.is_none_or(|r| !r.is_intended());
        let now = self.now;
        let place = self.places.get_mut(w.slot.index())?;
        let mut restart = None;
        if place.current == Some(w.id) {
            // Exit code 78 blocks the slot only for the generation it came from, and not if the worker was asked to exit.
            let says_wrong = exit == Some(Exit::Code(EX_CONFIG)) && w.phase == Phase::Starting;
            if says_wrong && unasked && !is_new {
                place.hand_over(Time::NEVER);
            } else {
                let lived = if unasked { now - w.since } else { Duration::MAX };
                let was_ready = w.phase != Phase::Starting && w.leaving != Some(Reason::BootFailure);
                let delay = place.restart.delay(now, lived, was_ready, w.id);
                place.hand_over(now + delay);
                restart = place.current.is_none().then_some(delay);
            }
        } else if place.successor == Some(w.id) {
            place.successor = None;
            self.successor_failed(w, out);
        }
        if is_new && unasked {
            self.roll_back(w.id, w.slot, why, out);
        }
        restart
    }

    fn successor_failed(&mut self, w: &Worker, out: &mut Vec<Action>) {
        if self.recycling.is_none() && self.failure_mut().is_none() {
            // A new generation that fails says nothing about the slot, in which an old worker still serves.
            return;
        }
        let place = &mut self.places[w.slot.index()];
        let delay = place.restart.delay(self.now, self.now - w.since, false, w.id);
        if self.recycling.take().is_some() {
            // The old one still serves; it is tried again when another would be started in that slot.
            self.recycle_at = self.now + delay.max(RECYCLE_AGAIN);
            return;
        }
        // Not even the old generation starts: the slot is left to the ordinary restarts, so that the reload ends.
        place.start_at = self.now + delay;
        if let Some(new) = place.current.take() {
            self.retire(new, Reason::Reload, self.rules.drain_timeout, out);
        }
    }

    /// Has a worker finish, and frees its place for another.
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
        if let Some(place) = self.places.get_mut(slot.index()) {
            let delay = place.restart.delay(self.now, self.now - since, true, id);
            self.leave_slot(id, delay);
        }
        if self.is_on_trial(generation) {
            self.roll_back(id, slot, "it left", out);
        }
    }

    /// Frees a worker's place, which is filled again after `delay`.
    fn leave_slot(&mut self, id: WorkerId, delay: Duration) {
        if let Some(place) = self.places.iter_mut().find(|p| p.current == Some(id)) {
            place.hand_over(self.now + delay);
        }
    }

    fn scale(&mut self, n: usize, out: &mut Vec<Action>) {
        if self.stopping.is_some() || self.booting {
            return;
        }
        for place in self.places.split_off(n.min(self.places.len())) {
            for id in [place.successor, place.current].into_iter().flatten() {
                self.retire(id, Reason::Scale, self.rules.drain_timeout, out);
                self.recycling.take_if(|recycling| *recycling == id);
            }
        }
        if n > self.places.len() {
            self.renew_shortage();
        }
        let fresh = Place { start_at: self.now, fresh: true, ..Place::default() };
        self.places.resize(n.max(self.places.len()), fresh);
    }

    /// Acts on the deadlines that have passed.
    fn expire(&mut self, out: &mut Vec<Action>) {
        for i in 0..self.workers.len() {
            let w = &mut self.workers[i];
            let (id, phase) = (w.id, w.phase);
            if w.deadline <= self.now {
                match phase {
                    Phase::Starting => {
                        let why = self.boot_timeout_text();
                        self.give_up_start(id, &why, out);
                    }
                    Phase::Draining => {
                        self.killed += u32::from(self.stopping.is_some());
                        self.kill(id, Reason::DrainTimeout, out);
                    }
                    Phase::Ready => (w.worn, w.deadline) = (true, Time::NEVER),
                    Phase::Killed => {}
                }
            }
            self.expire_call(i, out);
        }
    }

    fn boot_timeout_text(&self) -> String {
        format!("not ready within the boot-timeout of {} ms", self.rules.boot_timeout.as_millis())
    }

    /// Kills a worker that is starting and will not become ready.
    fn give_up_start(&mut self, id: WorkerId, why: &str, out: &mut Vec<Action>) {
        let Some(&mut Worker { slot, generation, .. }) = self.find_mut(id) else { return };
        self.kill(id, Reason::BootFailure, out);
        if self.is_on_trial(generation) {
            self.roll_back(id, slot, why, out);
        }
    }

    /// Replaces a worn worker, the new one first, one at a time.
    fn recycle(&mut self, out: &mut Vec<Action>) {
        let busy = self.booting || self.reload.is_some() || self.recycling.or(self.recycled).is_some();
        if busy || self.recycle_at > self.now {
            return;
        }
        let worn = self.workers.iter().find(|w| w.worn && w.phase == Phase::Ready && self.is_current(w));
        if let Some((id, slot)) = worn.map(|w| (w.id, w.slot))
            && self.has_room(1, out)
        {
            self.recycling = Some(id);
            let new = self.spawn(slot, self.generation, out);
            self.places[slot.index()].successor = Some(new);
        }
    }

    fn fill_slots(&mut self, out: &mut Vec<Action>) {
        let generation = self.destination();
        for i in 0..self.places.len() {
            if self.places[i].is_empty() && self.places[i].start_at <= self.now {
                if !self.has_room(self.rules.surge, out) {
                    return;
                }
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
        let stop = match self.stopping {
            None => {
                let starts = self.places.iter().filter(|p| p.is_empty()).map(|p| p.start_at);
                // Without room the next death is waited for.
                let starts = starts.filter(|at| *at > self.now || self.workers.len() < self.rules.room);
                let worn = self.recycling.is_none()
                    && self.workers.iter().any(|w| w.worn && w.phase == Phase::Ready);
                let recycling = worn.then_some(self.recycle_at);
                let later = recycling.into_iter().chain([self.verdict_due()]).filter(|at| *at > self.now);
                let shortage = self.shortage.as_ref().map(Shortage::due);
                starts.chain(later).chain(shortage).chain([self.gives_up_at]).min()
            }
            Some(Stopping::Emptying { until }) => Some(until),
            Some(Stopping::Draining) => None,
        };
        workers.chain(stop).min().unwrap_or(Time::NEVER)
    }
}

/// The bit of a signal; none for a number that is no signal's.
fn bit(signal: i32) -> u64 {
    u32::try_from(signal - 1).ok().and_then(|n| 1u64.checked_shl(n)).unwrap_or(0)
}
