//! The invariants, after every input and every turn of the master, and the longest time that anything may take. The checks see the
//! actions and the public tables of the lifecycle, and the real state of the workers.

use super::super::{Action, Event, Input, Reason, ReloadFailure, ReloadStage, ReloadState};
use super::super::{hang, reload};
use super::model::{Messages, Model, Returned};
use super::process::{Call, Item, KILL_TAKES, Mark, Process};
use super::world::{END_GRACE, LATE, MAX_QUEUED, TICK, World};
use crate::config::Dispatch;
use crate::event::Exit;
use crate::ids::{Generation, WorkerId};
use crate::master::pool::{Return, WorkerEntry};
use crate::master::restart;
use crate::sys::overdue;
use crate::sys::signal::{SIGKILL, SIGTERM};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;

/// As in `hang.rs` and `reload.rs`, in milliseconds.
const HANG_GRACE: u64 = hang::HANG_GRACE.as_millis() as u64;
const NEWS: u64 = hang::NEWS.as_millis() as u64;
const VERDICT_WAITS: u64 = reload::VERDICT_WAITS.as_millis() as u64;
/// The most that a deadline may be missed by: lateness that is not forgiven, and a check of the workers.
const SLACK: u64 = LATE + 120;
/// Restarts of a slot in a second: at once after a long life, at once after the first quick death, then after 25, 50, 100, 200 and
/// 400 ms at the least.
const RESTARTS_IN_A_SECOND: usize = 7;
/// A worker that takes all that is queued for this long must be eligible again (milliseconds).
const READMITTED_WITHIN: u64 = 1500;
/// A signal that workers do not heed.
pub const NOTHING_TO_IT: i32 = 1;
/// Ticks at one time without anything else.
const TICKS: u32 = 40;

/// The memory of a slot.
#[derive(Default)]
pub struct SlotSeen {
    /// Spawns that no command asked for, in a minute.
    restarts: VecDeque<u64>,
    /// The same in a second, since the last command.
    recent: VecDeque<u64>,
    /// Spawns that commands asked for and that have not happened yet.
    asked: u32,
    /// The last worker that died there had been ready: its restart costs none of the budget.
    was_ready: bool,
    /// Its worker said that its configuration is wrong.
    pub gave_up: bool,
    /// A scale-up has made it, and no worker has been ready there yet.
    fresh: bool,
}

struct Reloading {
    generation: Generation,
    since: Mark,
    /// A worker of the new generation has been ready.
    proved: bool,
    failed: bool,
    /// How its workers ended.
    ends: BTreeMap<WorkerId, Exit>,
}

/// The standard error of a worker.
pub fn stderr_of(id: WorkerId) -> Vec<String> {
    vec![format!("worker {id} is unwell")]
}

/// The memory of the checks.
pub struct Watch {
    pub stillborn: Vec<WorkerId>,
    pub slots: Vec<SlotSeen>,
    pub departed: Option<Process>,
    pub commits: u32,
    pub rollbacks: u32,
    pub last_id: WorkerId,
    reload: Option<Reloading>,
    wanted: Option<Mark>,
    stop: Option<Mark>,
    stop_again: Option<Mark>,
    ticks: (u64, u32),
    patience: u64,
    born: u32,
    gone: u32,
    drain_timeouts: u32,
    cut: u64,
    /// Workers that had room before connections were placed, all of it seen by the master.
    pub with_room: Vec<WorkerId>,
    /// Connections given to each worker before the turn.
    pub given: BTreeMap<WorkerId, u64>,
    /// The worker that has just been ready in a fresh slot.
    to_rebalance: Option<WorkerId>,
}

impl Watch {
    pub fn new(slots: usize, _now: u64) -> Self {
        let mut watch = Self {
            stillborn: Vec::new(),
            slots: Vec::new(),
            departed: None,
            commits: 0,
            rollbacks: 0,
            last_id: WorkerId(0),
            reload: None,
            wanted: None,
            stop: None,
            stop_again: None,
            ticks: (0, 0),
            patience: 0,
            born: 0,
            gone: 0,
            drain_timeouts: 0,
            cut: 0,
            with_room: Vec::new(),
            given: BTreeMap::new(),
            to_rebalance: None,
        };
        watch.fit(slots);
        watch.slots.iter_mut().for_each(|s| s.fresh = false);
        watch
    }

    pub fn is_gone(&mut self, process: Process) {
        self.departed = Some(process);
    }

    fn fit(&mut self, slots: usize) {
        self.slots.truncate(slots);
        // A slot made during a reload may have to go back with the others.
        let asked = 1 + u32::from(self.reload.is_some());
        self.slots.resize_with(slots, || SlotSeen { asked, fresh: true, ..SlotSeen::default() });
    }

    /// Expects one more spawn in this slot because of a command, and counts quick deaths from zero again.
    fn expects_spawn(&mut self, slot: usize) {
        if let Some(seen) = self.slots.get_mut(slot) {
            seen.asked = (seen.asked + 1).min(4);
            seen.recent.clear();
        }
    }
}

impl World {
    /// The time since then, without the time that the master stood still.
    fn elapsed(&self, mark: Mark) -> u64 {
        (self.now - mark.at).saturating_sub(self.stood - mark.stood)
    }

    fn disturbed(&mut self) {
        let now = self.mark(0);
        if let Some(reload) = &mut self.watch.reload {
            reload.since = now;
        }
        if let Some(wanted) = &mut self.watch.wanted {
            *wanted = now;
        }
    }

    /// A reload that is wanted has waited for the verdict of the one before it, and may begin.
    fn waits_no_more(&mut self) {
        let now = self.mark(0);
        self.watch.wanted.iter_mut().for_each(|wanted| *wanted = now);
    }

    fn is_successor(&self, p: &Process) -> bool {
        self.machine.life.places().get(p.slot).is_some_and(|s| s.successor == Some(p.id))
    }

    fn is_placed(&self, p: &Process) -> bool {
        let slot = self.machine.life.places().get(p.slot);
        slot.is_some_and(|s| s.current == Some(p.id) || s.successor == Some(p.id))
    }

    pub fn check_input(&mut self, input: &Input) {
        match input {
            Input::Tick => self.check_tick(),
            Input::Drain(id, patience) => self.check_asked(*id, Some(patience.as_millis() as u64)),
            Input::Signalled(id, signal) => self.check_signalled(*id, *signal),
            Input::Scale(_) => self.disturbed(),
            Input::Leaving(_) => {
                self.count(if self.watch.reload.is_some() { "left during a reload" } else { "left" })
            }
            Input::Reload => {
                let mark = self.mark(0);
                self.watch.wanted.get_or_insert(mark);
            }
            Input::Interrupt if self.watch.stop.is_some_and(|stop| self.now < stop.at + 1000) => {
                self.count("interrupted twice");
            }
            Input::Stop | Input::Interrupt => {
                let mark = self.mark(0);
                match self.watch.stop {
                    None => self.watch.stop = Some(mark),
                    Some(_) => self.watch.stop_again = self.watch.stop_again.or(Some(mark)),
                }
                if self.watch.reload.is_some() {
                    self.count("stop during a reload");
                }
            }
            Input::Worn(id) => {
                if let Some(p) = self.find(*id) {
                    p.seen.worn = true;
                }
            }
            Input::Died(ended) => self.check_death(ended.id, ended.exit),
            Input::SpawnFailed(id, _) => {
                let unborn = self.machine.life.workers().iter().find(|w| w.id == *id);
                let generation = unborn.map(|w| w.generation);
                if let Some(reload) = &mut self.watch.reload {
                    reload.failed |= generation == Some(reload.generation);
                }
            }
            _ => {}
        }
    }

    fn check_tick(&mut self) {
        let (at, n) = self.watch.ticks;
        self.watch.ticks = if at == self.now { (at, n + 1) } else { (self.now, 1) };
        self.must(n < TICKS || at != self.now, || "ticks are asked for without end at one time".into());
    }

    fn check_signalled(&mut self, id: WorkerId, signal: i32) {
        if let Some(p) = self.find(id) {
            p.seen.sent.push(signal);
        }
        if signal != NOTHING_TO_IT {
            self.check_asked(id, None);
        }
    }

    fn check_asked(&mut self, id: WorkerId, patience: Option<u64>) {
        self.disturbed();
        if let Some(patience) = patience {
            self.watch.patience = self.watch.patience.max(patience);
        }
        let Some(p) = self.processes.iter_mut().find(|p| p.id == id) else { return };
        p.seen.asked = true;
        if p.seen.drain.is_none() && patience.is_some() {
            p.seen.patience = patience;
        }
        let slot = p.slot;
        self.watch.expects_spawn(slot);
    }

    fn check_death(&mut self, id: WorkerId, exit: Exit) {
        self.watch.ticks = (0, 0);
        let committed = self.machine.life.generation();
        let Some(p) = &self.watch.departed else { return };
        let gives_up = exit == Exit::Code(78) && !p.seen.ready && p.generation == committed;
        let current = self.machine.life.places().get(p.slot).is_some_and(|s| s.current == Some(id));
        let is_new = self.watch.reload.as_ref().is_some_and(|r| r.generation == p.generation);
        let (slot, wanted) = (p.slot, p.seen.drain.is_none() && p.seen.killed.is_none() && !p.seen.asked);
        if is_new && let Some(reload) = &mut self.watch.reload {
            reload.failed |= wanted;
            reload.ends.insert(id, exit);
        }
        let was_ready = p.seen.ready;
        if let Some(seen) = self.watch.slots.get_mut(slot) {
            seen.was_ready = was_ready;
            seen.gave_up |= gives_up && current;
        }
    }

    pub fn check_action(&mut self, action: &Action) {
        match action {
            Action::Spawn { id, slot, generation } => self.check_spawn(*id, slot.index(), *generation),
            Action::Admit(id) => self.check_admit(*id),
            Action::Withdraw(id) => self.check_known(*id, "withdraw"),
            Action::Drain(id, patience) => self.check_drain(*id, patience.as_millis() as u64),
            Action::End(id) => self.check_end_of(*id),
            Action::KeepIdle(id) => {
                let drains = self.get(*id).is_some_and(|p| p.seen.drain.is_some());
                self.must(drains && self.watch.stop.is_some(), || {
                    format!("worker {id} is to keep what it does not hand back")
                });
            }
            Action::Signal(id, SIGKILL) => self.check_kill(*id),
            Action::Signal(id, overdue::SIGNAL) => self.check_warning(*id),
            Action::Signal(id, _) => self.check_abort(*id),
            Action::Rebalance(id) => self.check_rebalance(*id),
            Action::Prepare(_) => {}
            Action::Commit => self.check_commit(),
            Action::Revert => self.check_revert(),
            Action::EmptyBacklogs | Action::CloseListeners => {
                self.must(self.watch.stop.is_some(), || "intake ends without a stop".into());
            }
            Action::Tell(event) => self.check_event(event),
            Action::TellExit { worker, reason, .. } => self.check_exit(WorkerId(worker.id), *reason),
            Action::Fail { .. } => {
                let (is_booting, workers) = (self.machine.life.is_booting(), self.living());
                self.must(is_booting || workers == 0, || "the run fails although there are workers".into());
            }
        }
    }

    fn check_known(&mut self, id: WorkerId, what: &str) {
        let known = self.get(id).is_some() || self.watch.stillborn.contains(&id);
        self.must(known, || format!("{what} worker {id}, which is unknown"));
    }

    fn check_spawn(&mut self, id: WorkerId, slot: usize, generation: Generation) {
        self.watch.born += 1;
        self.must(id > self.watch.last_id, || format!("id {id} is used again"));
        self.watch.last_id = self.watch.last_id.max(id);
        self.must(self.handlers.contains(&generation), || format!("no handler for generation {generation}"));
        self.must(self.watch.stop.is_none(), || format!("worker {id} is started while stopping"));
        let slots = self.machine.life.slots();
        self.must(slot < slots, || format!("worker {id} for slot {slot} of {slots}"));
        let there = self.living();
        let room = self.rules.room;
        self.must(there < room, || {
            format!("worker {id} is started beside {there}, and there is room for {room}")
        });
        self.watch.fit(slots);
        let recycles = self.check_room(id, slot);
        self.check_canary(id, generation);
        if !recycles {
            self.check_budget(slot);
        }
    }

    /// A slot has at most one worker that stays, before the new one; outside a reload that one is worn, and tried at most once a
    /// second. Returns whether it is being recycled.
    fn check_room(&mut self, id: WorkerId, slot: usize) -> bool {
        let (now, max_age) = (self.now, self.rules.max_age);
        let stays = |p: &&mut Process| p.slot == slot && p.seen.drain.is_none() && p.seen.killed.is_none();
        let mut there: Vec<&mut Process> = self.processes.iter_mut().filter(stays).collect();
        let n = there.len();
        let Some(p) = there.pop().filter(|_| self.watch.reload.is_none()) else {
            self.must(n < 2, || format!("slot {slot} gets a third worker, {id}"));
            return false;
        };
        let worn = p.seen.worn || max_age > 0 && now - p.born.at >= max_age;
        let tried = p.seen.tried_at.replace(now);
        p.seen.recycling = true;
        self.count("recycled");
        self.must(n < 2, || format!("slot {slot} gets a third worker, {id}"));
        self.must(worn, || format!("worker {id} replaces one in slot {slot} that is not worn"));
        let soon = tried.is_some_and(|at| at + 1000 > now);
        self.must(!soon, || format!("recycling in slot {slot} is tried again within a second"));
        true
    }

    /// Before a worker of the new generation has been ready, there is one of it at a time.
    fn check_canary(&mut self, id: WorkerId, generation: Generation) {
        let Some(reload) = self.watch.reload.as_ref().filter(|r| r.generation == generation) else { return };
        let others =
            self.processes.iter().filter(|p| p.generation == generation && p.seen.killed.is_none()).count();
        let proved = reload.proved;
        self.must(proved || others == 0, || format!("worker {id} is a second canary"));
    }

    fn check_budget(&mut self, slot: usize) {
        let now = self.now;
        let Some(seen) = self.watch.slots.get_mut(slot) else { return };
        seen.gave_up = false;
        if seen.asked > 0 {
            seen.asked -= 1;
            return;
        }
        if !seen.was_ready {
            seen.restarts.push_back(now);
        }
        seen.recent.push_back(now);
        for (list, window) in
            [(&mut seen.restarts, restart::WINDOW.as_millis() as u64), (&mut seen.recent, 1000)]
        {
            while list.front().is_some_and(|&at| at + window <= now) {
                list.pop_front();
            }
        }
        let (minute, second) = (seen.restarts.len(), seen.recent.len());
        self.must(minute <= restart::BUDGET, || format!("{minute} restarts in slot {slot} in a minute"));
        self.must(second <= RESTARTS_IN_A_SECOND, || format!("{second} restarts in slot {slot} in a second"));
    }

    fn check_admit(&mut self, id: WorkerId) {
        self.check_known(id, "admit");
        let Some(p) = self.processes.iter_mut().find(|p| p.id == id) else { return };
        p.seen.hangs = false;
        let (ready, leaves) = (p.seen.ready, p.seen.drain.is_some() || p.seen.killed.is_some());
        self.must(ready, || format!("worker {id} is admitted and not ready"));
        self.must(!leaves, || format!("worker {id} is admitted and leaves"));
    }

    /// Connections are rebalanced once for each slot that a scale-up has made, and for no other.
    fn check_rebalance(&mut self, id: WorkerId) {
        let due = self.watch.to_rebalance.take();
        let admitted = self.pool.workers.get(id).is_some_and(|w| w.admitted);
        self.must(due == Some(id), || format!("worker {id} gets a share and is not additional"));
        self.must(admitted, || format!("worker {id} gets a share and is not admitted"));
    }

    fn check_drain(&mut self, id: WorkerId, told: u64) {
        self.check_known(id, "drain");
        let timeout = self.rules.drain_timeout;
        let Some(p) = self.get(id) else { return };
        let mark = self.mark(p.still);
        // Emptying the backlogs may have used up to half of a stop's timeout.
        let took = self.watch.stop.map_or(0, |stop| (self.now - stop.at).min(timeout.div_ceil(2)));
        let patience = p.seen.patience.unwrap_or((timeout - took).max(timeout.min(1)));
        // It stood still while it emptied them: so much more is left.
        let right = if self.watch.stop.is_some() && p.seen.patience.is_none() {
            patience..=timeout
        } else {
            patience..=patience
        };
        let slot = self.machine.life.places().get(p.slot);
        let replaced = slot.and_then(|s| self.get(s.current?)).is_some_and(|p| p.seen.ready && p.id != id);
        let is_new = self.watch.reload.as_ref().is_some_and(|r| r.generation == p.generation);
        let in_reload = self.watch.reload.is_some() && (replaced || is_new);
        let wanted = p.seen.asked || slot.is_none() || self.watch.stop.is_some();
        let allowed = wanted || in_reload || p.seen.recycling && replaced;
        let admitted = self.pool.workers.get(id).is_some_and(|w| w.admitted);
        let (ready, again) = (p.seen.ready, p.seen.drain.is_some());
        let (scaled, reloads) = (slot.is_none(), self.watch.reload.is_some());
        self.must(!admitted, || format!("worker {id} drains before it is withdrawn"));
        self.must(ready && !again, || format!("worker {id} drains before it is ready, or twice"));
        self.must(allowed, || format!("worker {id} drains, for no reason"));
        self.must(right.contains(&told), || format!("worker {id} is told of {told} ms, and has {right:?}"));
        if let Some(p) = self.find(id) {
            p.seen.drain = Some((mark, patience));
            p.seen.asked |= scaled;
            p.seen.recycling &= !reloads;
        }
        let recycled =
            self.processes.iter().filter(|p| p.seen.recycling && p.seen.drain.is_some() && !p.seen.asked);
        let recycled = recycled.filter(|p| p.slot < self.machine.life.slots()).count();
        let stops = self.watch.stop.is_some() || self.watch.reload.is_some();
        self.must(recycled <= 1 || stops, || format!("{recycled} workers are recycled at once"));
    }

    /// The workers that are there; those whose fork has just failed count until that is known.
    fn living(&self) -> usize {
        let unborn = |id: &&WorkerId| self.machine.life.find(**id).is_some();
        self.processes.len() + self.watch.stillborn.iter().filter(unborn).count()
    }

    /// A worker is ordered to end what it has only if a bound is passed, and the oldest first.
    fn check_end_of(&mut self, id: WorkerId) {
        self.check_known(id, "end");
        let Some(p) = self.get(id) else { return };
        let Some((since, _)) = p.seen.drain else {
            return self.must(false, || format!("worker {id} is to end, and does not drain"));
        };
        let (generation, mark) = (p.generation, self.mark(p.still));
        let serving = self.machine.life.generation();
        let drains = |p: &&Process| p.seen.drain.is_some();
        let is_former = |p: &&Process| p.generation != serving;
        let drain = || self.processes.iter().filter(drains);
        let former: BTreeSet<Generation> = drain().filter(is_former).map(|p| p.generation).collect();
        let over = former.len().saturating_sub(self.rules.max_draining);
        let is_oldest_generation = former.iter().take(over).any(|g| *g == generation);
        let is_full = self.living() >= self.rules.room;
        let still = |p: &&Process| p.seen.ended.is_none() && p.seen.killed.is_none();
        let first = drain().filter(still).filter_map(|p| p.seen.drain).map(|(mark, _)| mark.at).min();
        let by_room = is_full && first == Some(since.at);
        let by_generation = is_oldest_generation && self.watch.reload.is_none();
        let again = self.get(id).is_some_and(|p| p.seen.ended.is_some());
        self.must(by_room || by_generation, || format!("worker {id} is to end, for no reason"));
        self.must(!again, || format!("worker {id} is to end twice"));
        self.count(if by_generation { "ended: a generation too many" } else { "ended: for room" });
        if let Some(p) = self.find(id) {
            p.seen.ended = Some(mark);
        }
    }

    fn check_kill(&mut self, id: WorkerId) {
        self.check_known(id, "kill");
        let Some(p) = self.get(id) else { return };
        let own = |mark: Mark| self.now - mark.at - (p.still - mark.still);
        let late = match (p.seen.drain, p.seen.ready) {
            (Some((mark, patience)), _) => {
                patience > 0 && own(mark) >= patience + END_GRACE
                    || p.seen.ended.is_some_and(|mark| own(mark) >= END_GRACE)
            }
            (None, true) => false,
            (None, false) => {
                let timeout = self.rules.boot_timeout;
                let late = timeout > 0 && own(p.born) >= timeout;
                late || p.seen.asked || !self.is_placed(p) || self.watch.stop.is_some()
            }
        };
        let reason = late || p.seen.aborted.is_some() || self.watch.stop_again.is_some();
        let admitted = self.pool.workers.get(id).is_some_and(|w| w.admitted);
        let (mark, in_stop) = (self.mark(p.still), self.watch.stop.is_some());
        self.must(reason, || format!("worker {id} is killed, for no reason"));
        self.must(!admitted, || format!("worker {id} is killed before it is withdrawn"));
        if let Some(p) = self.find(id) {
            (p.seen.killed, p.seen.killed_in_stop) = (Some(mark), in_stop);
        }
    }

    /// True if a worker is in a call that takes too long, with this tolerance, or was until a moment ago.
    fn hangs(&self, p: &Process, but: u64) -> bool {
        let (now, timeout) = (self.now, self.rules.hang_timeout.saturating_sub(but));
        let lasted = |call: Call, end: u64| end - call.since - call.still.min(end - call.since);
        let hangs = p.call.is_some_and(|call| lasted(call, now) >= timeout)
            || p.seen.last_call.is_some_and(|(call, end)| lasted(call, end) >= timeout && now - end <= SLACK);
        self.rules.hang_timeout > 0 && hangs
    }

    fn check_warning(&mut self, id: WorkerId) {
        self.check_known(id, "warn");
        let Some(p) = self.get(id) else { return };
        // After a pause of all the machine takes a call for so much older than it saw it get.
        let (hangs, aborted, mark) = (self.hangs(p, NEWS), p.seen.aborted.is_some(), self.mark(p.still));
        self.must(hangs && !aborted, || format!("worker {id} is warned, and does not hang"));
        if let Some(p) = self.find(id) {
            p.seen.warned = Some(mark);
        }
    }

    fn check_abort(&mut self, id: WorkerId) {
        self.check_known(id, "abort");
        let Some(p) = self.get(id) else { return };
        let (hangs, mark) = (self.hangs(p, 0), self.mark(p.still));
        let warned = p.seen.warned.is_some_and(|warned| self.now - warned.at >= HANG_GRACE);
        self.must(hangs, || format!("worker {id} is aborted and does not hang"));
        self.must(warned, || format!("worker {id} is aborted, and its handler had no time"));
        if let Some(p) = self.find(id) {
            p.seen.aborted = Some(mark);
        }
    }

    fn check_commit(&mut self) {
        let generation = self.machine.life.generation();
        let serves = |id: Option<WorkerId>| {
            let p = id.and_then(|id| self.get(id));
            p.is_some_and(|p| p.generation == generation && p.seen.ready && p.seen.killed.is_none())
        };
        let all = self.machine.life.places().iter().all(|s| serves(s.current));
        self.must(all, || format!("generation {generation} is committed before all of it serve"));
    }

    fn check_revert(&mut self) {
        if self.watch.stop.is_some() {
            return;
        }
        let generation = self.machine.life.generation();
        let stays =
            |p: &Process| p.generation != generation && p.seen.drain.is_none() && p.seen.killed.is_none();
        let left = self.processes.iter().find(|p| stays(p)).map(|p| p.id);
        self.must(left.is_none(), || format!("rolled back, and worker {left:?} stays"));
    }

    fn check_event(&mut self, event: &Event) {
        match event {
            Event::Reload { state: ReloadState::Started, generation, .. } => {
                let serving = self.machine.life.generation();
                if self.processes.iter().any(|p| p.generation != serving) {
                    self.count("reload beside a generation that drains");
                }
                let starts = |p: &&Process| !p.seen.ready && p.seen.killed.is_none() && self.is_successor(p);
                let starting = self.processes.iter().find(starts).map(|p| p.id);
                self.must(starting.is_none(), || format!("a reload begins while worker {starting:?} starts"));
                self.must(self.watch.reload.is_none(), || "two reloads at a time".into());
                self.watch.wanted = None;
                let (since, generation) = (self.mark(0), Generation(*generation));
                self.watch.reload = Some(Reloading {
                    generation,
                    since,
                    proved: false,
                    failed: false,
                    ends: BTreeMap::new(),
                });
                for slot in 0..self.watch.slots.len() {
                    self.watch.expects_spawn(slot);
                    self.watch.expects_spawn(slot);
                }
            }
            Event::Reload { state: ReloadState::Committed, generation, .. } => {
                let same = self.watch.reload.take().is_some_and(|r| r.generation.0 == *generation);
                self.waits_no_more();
                self.must(same, || format!("commit of {generation}, which is not being loaded"));
                self.watch.commits += 1;
            }
            Event::Reload { generation, failure, .. } => match failure {
                Some(failure) => self.check_rolled_back(*generation, failure),
                None => self.must(false, || "a roll-back has no reason".into()),
            },
            Event::Ready { worker } => {
                let id = &WorkerId(worker.id);
                let generation = self.get(*id).map(|p| p.generation);
                let slot = self.get(*id).map_or(usize::MAX, |p| p.slot);
                let slot = self.watch.slots.get_mut(slot);
                self.watch.to_rebalance = slot.and_then(|s| std::mem::take(&mut s.fresh).then_some(*id));
                if let Some(reload) = &mut self.watch.reload {
                    reload.proved |= Some(reload.generation) == generation;
                }
            }
            Event::Hang { worker } => {
                let id = &WorkerId(worker.id);
                let warned = self.get(*id).is_none_or(|p| p.seen.warned.is_some_and(|m| m.at == self.now));
                self.must(warned, || format!("worker {id} hangs, and its handler is not warned"));
                if let Some(p) = self.find(*id) {
                    p.seen.hangs = true;
                }
            }
            _ => {}
        }
    }

    fn check_rolled_back(&mut self, generation: u32, failure: &ReloadFailure) {
        let reload = self.watch.reload.take();
        self.waits_no_more();
        let same = reload.as_ref().is_some_and(|r| r.generation.0 == generation);
        self.must(same, || format!("roll-back of {generation}, which is not being loaded"));
        self.watch.rollbacks += 1;
        let Some(Reloading { proved, ends, .. }) = reload else { return };
        self.must(proved == (failure.stage == ReloadStage::Rolling), || {
            format!("{failure:?}, proved: {proved}")
        });
        self.check_verdict(failure, &ends);
        self.count(if proved { "rolled back while rolling" } else { "rolled back before anything" });
    }

    /// The report of a failed worker has the exit status and the lines of that worker.
    fn check_verdict(&mut self, failure: &ReloadFailure, ends: &BTreeMap<WorkerId, Exit>) {
        let worker = failure.worker.map(WorkerId);
        let end = worker.and_then(|id| ends.get(&id).copied());
        let words = worker.filter(|_| end.is_some()).map_or_else(Vec::new, stderr_of);
        self.must((failure.exit, &failure.stderr) == (end, &words), || {
            format!("{failure:?}, ended: {end:?}")
        });
        let Some(p) = worker.and_then(|id| self.get(id)) else { return };
        // It still lives: it leaves by itself, or the wait for its end was over.
        let waits = p.seen.killed.is_some_and(|mark| self.now - mark.at < VERDICT_WAITS);
        let early = waits && self.watch.stop.is_none();
        self.must(!early, || format!("{failure:?} is reported before the worker has ended"));
        if end.is_none() {
            self.count("rolled back before the worker had ended");
        }
    }

    /// A worker counts as proved if it serves and its generation is committed.
    fn check_proof(&mut self, i: usize) {
        let p = &self.processes[i];
        let (id, ready, life) = (p.id, p.seen.ready, &self.machine.life);
        let committed = p.generation == life.generation() && !life.is_booting();
        let serves = ready && p.seen.killed.is_none();
        let on_trial = self.watch.reload.as_ref().is_some_and(|r| {
            let fails = |p: &Process| {
                p.generation == r.generation
                    && (p.seen.killed.is_some() || p.seen.drain.is_some() || p.ended.is_some())
            };
            r.generation == p.generation
                && !r.failed
                && r.ends.is_empty()
                && !self.processes.iter().any(fails)
        });
        let proved = self.machine.is_proved(id);
        self.must(!proved || ready && !on_trial, || format!("worker {id} counts as proved"));
        self.must(proved || !(serves && committed), || format!("worker {id} serves and is not proved"));
    }

    fn check_exit(&mut self, id: WorkerId, reason: Reason) {
        self.watch.gone += 1;
        let Some(p) = self.watch.departed.take() else { return };
        let by_stop = reason == Reason::DrainTimeout && p.seen.killed_in_stop;
        self.watch.drain_timeouts += u32::from(by_stop);
        self.watch.cut += if self.watch.stop.is_some() { p.cut } else { 0 };
        self.must(p.id == id, || format!("the exit of {id} is reported, {} has ended", p.id));
        let of_signal = match p.ended {
            Some(Exit::Signal { number, .. }) => p.seen.sent.contains(&number),
            _ => p.seen.sent.contains(&SIGTERM),
        };
        match reason {
            // One that was asked to leave may have died of something else meanwhile.
            Reason::Killed => {
                self.count("killed through the master");
                self.must(of_signal || p.seen.sent.contains(&SIGTERM), || {
                    format!("worker {id} is reported as killed, and was not")
                });
            }
            Reason::Crash => {
                self.must(!of_signal, || format!("worker {id} is reported as crashed, and was killed"));
                if !p.seen.sent.is_empty() {
                    self.count("crashed after a signal of no consequence");
                }
            }
            _ => {}
        }
        if reason.is_intended()
            && reason != Reason::Left
            && let Some(seen) = self.watch.slots.get_mut(p.slot)
        {
            seen.recent.clear();
        }
    }

    /// After each input.
    pub fn check_step(&mut self) {
        if self.violation.is_some() || self.failed {
            return;
        }
        let slots = self.machine.life.slots();
        self.watch.fit(slots);
        let forgotten = self.watch.to_rebalance;
        self.must(forgotten.is_none(), || format!("worker {forgotten:?} is additional and gets no share"));
        self.forget_stillborn();
        self.check_generations();
        self.check_places();
        self.check_replacements();
        for i in 0..self.processes.len() {
            self.check_worker(i);
            self.check_proof(i);
        }
        self.check_long_things();
    }

    fn forget_stillborn(&mut self) {
        let life = &self.machine.life;
        self.watch.stillborn.retain(|id| life.workers().iter().any(|w| w.id == *id));
    }

    fn check_generations(&mut self) {
        let (serving, reloads) = (self.machine.life.generation(), self.watch.reload.is_some());
        let drains = |p: &&Process| {
            let seen = &p.seen;
            seen.drain.is_some() && seen.ended.is_none() && seen.killed.is_none() && p.generation != serving
        };
        let former: BTreeSet<Generation> =
            self.processes.iter().filter(drains).map(|p| p.generation).collect();
        // A reload may add the one before it and, if it fails, its own.
        let most = self.rules.max_draining + if reloads || self.watch.stop.is_some() { 2 } else { 0 };
        self.must(former.len() <= most, || format!("generations {former:?} drain, at most {most} may"));
        let new = self.watch.reload.as_ref().map(|r| r.generation);
        let serves = |p: &&Process| p.seen.ready && p.seen.drain.is_none() && p.seen.killed.is_none();
        let strange = |p: &&Process| p.generation != serving && Some(p.generation) != new;
        let strange = self.processes.iter().filter(serves).find(strange).map(|p| p.id);
        self.must(strange.is_none() || self.watch.stop.is_some(), || {
            format!("worker {strange:?} of another generation serves")
        });
        let known = self.machine.life.workers().len();
        let real = self.processes.len() + self.watch.stillborn.len();
        self.must(known == real, || format!("{known} workers are known, {real} are there"));
    }

    fn check_places(&mut self) {
        if self.watch.stop.is_some() {
            return;
        }
        let mut ids = BTreeSet::new();
        for (slot, s) in self.machine.life.places().iter().enumerate() {
            for id in [s.current, s.successor].into_iter().flatten() {
                let there =
                    self.get(id).is_some_and(|p| p.slot == slot) || self.watch.stillborn.contains(&id);
                if !there || !ids.insert(id) {
                    return self
                        .must(false, || format!("slot {slot} has worker {id}, which is gone or elsewhere"));
                }
            }
        }
    }

    /// Workers are replaced in a reload only, or one at a time if they are worn.
    fn check_replacements(&mut self) {
        if self.watch.stop.is_some() {
            return;
        }
        let slots = self.machine.life.places();
        let lives = |id: WorkerId| self.get(id).is_some_and(|p| p.seen.killed.is_none());
        let successors = slots.iter().filter(|s| s.successor.is_some_and(lives)).count();
        let recycled = |p: &&Process| {
            p.seen.recycling && p.seen.drain.is_some() && !p.seen.asked && p.slot < slots.len()
        };
        let recycled = self.processes.iter().filter(recycled).count();
        match self.watch.reload {
            Some(_) => {
                self.must(successors <= self.rules.surge, || format!("{successors} successors at once"))
            }
            None => self.must(successors + recycled <= 1, || {
                format!("{recycled} workers are recycled and {successors} have a successor")
            }),
        }
    }

    fn check_worker(&mut self, i: usize) {
        let p = &self.processes[i];
        let id = p.id;
        let leaves = p.seen.drain.is_some() || p.seen.killed.is_some();
        let placed = self.is_placed(p);
        let out = p.seen.hangs || p.seen.aborted.is_some();
        let stops = self.watch.stop.is_some();
        let admitted = self.pool.workers.get(id).is_some_and(|w| w.admitted);
        let ready = p.seen.ready;
        self.must(!admitted || ready && !leaves, || {
            format!("worker {id} is admitted and not ready, or leaves")
        });
        self.must(!ready || leaves || out || admitted, || format!("worker {id} is ready and not admitted"));
        self.must(leaves || placed || stops, || format!("worker {id} is forgotten"));
        let p = &self.processes[i];
        let beyond = p.held().count() > p.limit as usize + p.moves.came_back;
        self.must(leaves || !beyond, || format!("worker {id} has more connections than it may have"));
        self.check_deadlines(i);
    }

    fn check_deadlines(&mut self, i: usize) {
        let p = &self.processes[i];
        if p.ended.is_some() || p.seen.killed.is_some() {
            return;
        }
        let (id, rules) = (p.id, self.rules);
        let boots = !p.seen.ready && p.outbox.is_empty() && rules.boot_timeout > 0;
        let boots = boots && self.elapsed(p.born) > rules.boot_timeout + SLACK;
        let drains = p
            .seen
            .drain
            // A stop in which the master stood still while it emptied the backlogs has more of its timeout left.
            .is_some_and(|(mark, patience)| {
                let ended = p.seen.ended.is_some_and(|mark| self.elapsed(mark) > END_GRACE + SLACK);
                let more =
                    self.watch.stop.map_or(0, |_| rules.drain_timeout - patience.min(rules.drain_timeout));
                ended || patience > 0 && self.elapsed(mark) > patience + more + END_GRACE + SLACK
            });
        let aborted = p.seen.aborted.is_some_and(|mark| self.elapsed(mark) > HANG_GRACE + SLACK);
        let hangs = p.seen.busy.is_some_and(|told| {
            let bound = rules.hang_timeout + HANG_GRACE + SLACK;
            rules.hang_timeout > 0
                && p.call.is_some()
                && p.seen.aborted.is_none()
                && self.elapsed(told) > bound
        });
        self.must(!boots, || format!("worker {id} is not ready in time and lives"));
        self.must(!drains, || format!("worker {id} drains for too long and lives"));
        self.must(!aborted, || format!("worker {id} was aborted and lives"));
        self.must(!hangs, || format!("worker {id} hangs and nothing is done"));
    }

    fn check_long_things(&mut self) {
        let slots = self.machine.life.slots() as u64;
        let drain = self.drain_bound(self.rules.drain_timeout).max(self.drain_bound(self.watch.patience));
        let boot = self.boot_bound();
        if let Some(reload) = &self.watch.reload {
            // Each that starts may have to wait for the room of another.
            let bound = (2 * slots + 2) * (boot + END_GRACE + KILL_TAKES + SLACK);
            let (took, generation) = (self.elapsed(reload.since), reload.generation);
            self.must(took <= bound, || format!("the reload to generation {generation} takes {took} ms"));
        }
        if let Some(wanted) =
            self.watch.wanted.filter(|_| self.watch.reload.is_none() && self.watch.stop.is_none())
        {
            let took = self.elapsed(wanted);
            self.must(took <= 3 * boot + SLACK, || format!("a reload is put off for {took} ms"));
        }
        if let Some(stop) = self.watch.stop {
            let took = self.elapsed(stop);
            let bound = drain + drain / 2 + END_GRACE + SLACK;
            self.must(took <= bound, || format!("the stop takes {took} ms"));
        }
        if let Some(stop) = self.watch.stop_again {
            let took = self.elapsed(stop);
            self.must(took <= KILL_TAKES + SLACK, || format!("the immediate stop takes {took} ms"));
        }
    }

    /// After each turn: every connection is in one place, and no worker with room waits.
    pub fn check_turn(&mut self) {
        if self.is_over() {
            return;
        }
        self.check_connections();
        let sent_home: Vec<WorkerId> =
            self.processes.iter().map(|p| p.id).filter(|id| self.shared.tracks.sent_home(*id)).collect();
        self.check_streams();
        let (pool, life) = (&self.pool, &self.machine.life);
        let (room, more, stuck) = (pool.has_room(), pool.has_more, pool.has_room_for_what_waits(life));
        let paused = pool.has_paused(life);
        let said = self.shared.waiting.get() || more || !pool.waits_for_room(life);
        self.must(!paused || !room || more, || "a worker has room and no listener is watched".into());
        self.must(!stuck || more, || "a worker has room and a connection waits".into());
        self.must(said, || "the master waits for room and does not say so".into());
        for id in self.shared.shed_to_itself.take() {
            let load = |slot| self.pool.load(slot).is_some();
            let had_room = |w: &WorkerId| *w != id && self.watch.with_room.contains(w);
            let other = |slot: &usize| self.pool.workers.admitted(*slot).is_some_and(|w| had_room(&w.id));
            let others = (0..self.pool.workers.slots()).filter(other).any(load);
            self.must(!others, || format!("worker {id} gets back what it has shed, and another has room"));
        }
        self.check_returned();
        self.check_idle(&sent_home);
        for i in 0..self.processes.len() {
            self.check_eligible(i);
            self.check_left_lying(i);
        }
    }

    /// A connection that came back goes to a worker of the generation that is to stay, if one has room, and of those with room to
    /// one with the fewest connections.
    fn check_returned(&mut self) {
        let returned = self.shared.returned.take();
        let reclaimed = self.shared.reclaimed.take();
        if self.dispatch == Dispatch::SourceHash {
            return;
        }
        let staying = self.machine.life.destination();
        // Those that had room all the time, and whose number of connections has not gone down meanwhile.
        let pool = &self.pool;
        let with_room = (0..pool.workers.slots())
            .filter(|slot| pool.load(*slot).is_some())
            .filter_map(|slot| pool.workers.admitted(slot))
            .filter(|w| self.watch.with_room.contains(&w.id) && !reclaimed.contains(&w.id));
        let loads: Vec<_> =
            with_room.map(|w| (w.id, w.generation == staying, u64::from(w.in_flight()))).collect();
        for Returned { to, load, shed_by } in returned {
            let stays = self.get(to).is_some_and(|p| p.generation == staying);
            self.count(if stays { "came back to the generation that stays" } else { "came back to another" });
            let others = loads.iter().filter(|(id, ..)| *id != to && Some(*id) != shed_by);
            let better = others.clone().find(
                |(_, is_staying, other)| {
                    if *is_staying == stays { *other < load } else { *is_staying }
                },
            );
            if let Some(&(id, ..)) = better {
                self.must(false, || {
                    format!("worker {to} with {load} connections gets what came back, and worker {id} should")
                });
            }
        }
    }

    /// A worker that has room or idle connections, and fewer queued than this.
    fn with_place(&self, queued: u64) -> Option<WorkerId> {
        let has_place = |p: &&Process| {
            let Some(worker) = self.pool.workers.get(p.id).filter(|w| w.is_eligible()) else { return false };
            let (taken, finished) = (p.counters.taken.get(), p.counters.finished.get());
            let places = u64::from(p.limit) + p.counters.idle.get();
            worker.given - finished < places && worker.given - taken < queued
        };
        self.processes.iter().find(has_place).map(|p| p.id)
    }

    /// No client waits while a worker has idle connections, and none of these is closed while another worker has room.
    fn check_idle(&mut self, sent_home: &[WorkerId]) {
        let (pool, life) = (&self.pool, &self.machine.life);
        let waits = (pool.has_paused(life) || !pool.parked.is_empty()) && !pool.has_more;
        if let Some(id) = self.with_place(MAX_QUEUED).filter(|_| waits) {
            return self
                .must(false, || format!("clients wait, and worker {id} has room or idle connections"));
        }
        if self.dispatch == Dispatch::SourceHash {
            return;
        }
        let beyond = pool.workers.iter().find(|w| {
            !sent_home.contains(&w.id)
                && w.in_flight() > w.limit
                && self.watch.given.get(&w.id).is_some_and(|before| w.given > *before)
        });
        let had_room = |w: &WorkerEntry<Model>| self.watch.with_room.contains(&w.id);
        let with_room = (0..pool.workers.slots())
            .filter(|slot| pool.load(*slot).is_some() && pool.workers.admitted(*slot).is_some_and(had_room));
        if let Some((id, slot)) = beyond.map(|w| w.id).zip(with_room.min()) {
            self.must(false, || {
                format!("worker {id} is to close an idle connection, and slot {slot} has room")
            });
        }
    }

    /// When the master sleeps: it waits for room only if there is none. A worker wakes it when it takes what is queued.
    pub fn check_sleep(&mut self) {
        self.check_refused();
        let life = &self.machine.life;
        let waits = self.shared.waiting.get() && (self.pool.has_paused(life) || !self.pool.parked.is_empty());
        if let Some(id) = self.with_place(1).filter(|_| waits && !self.is_over()) {
            self.must(false, || format!("worker {id} has room, and the master waits for it and is not told"));
        }
    }

    /// A worker that takes all that is queued does not stay ineligible for long.
    fn check_eligible(&mut self, i: usize) {
        let mark = self.mark(0);
        let p = &mut self.processes[i];
        let serves =
            p.seen.ready && p.seen.drain.is_none() && p.seen.killed.is_none() && p.seen.aborted.is_none();
        let well = p.ended.is_none() && p.takes(self.now);
        let out = !self.pool.workers.get(p.id).is_some_and(|w| w.is_eligible());
        p.seen.shut = p.seen.shut.or(Some(mark)).filter(|_| serves && well && out);
        let (id, since) = (p.id, p.seen.shut);
        let long = since.is_some_and(|since| self.elapsed(since) > READMITTED_WITHIN);
        self.must(!long, || format!("worker {id} is well and not eligible"));
    }

    /// Connections that a worker does not take are reclaimed for others after a tenth of a second.
    fn check_left_lying(&mut self, i: usize) {
        let id = self.processes[i].id;
        let up = self.pool.returns.iter().any(|r| matches!(r, Return::Unclaimed(other) if *other == id));
        let (now, short) = (self.now, self.shared.is_short());
        let worker = self.pool.workers.get(id);
        let p = &mut self.processes[i];
        let is_others = |item: &Item| item.origin().is_some_and(|o| !o.stream.is_some_and(|s| s.is_refused));
        let any = worker.is_some_and(|w| w.admitted && w.queued() > p.waiting());
        let lies = any && p.queue.borrow().iter().any(is_others) && !up && !short;
        let progress = p.progress();
        let before = p.seen.lying.filter(|&(_, then)| then == progress);
        p.seen.lying = lies.then(|| before.unwrap_or((now, progress)));
        let long = p.seen.lying.is_some_and(|(since, _)| now > since + 2 * TICK);
        self.must(!long, || format!("worker {id} takes nothing, and its queue is not reclaimed"));
    }

    fn check_connections(&mut self) {
        let directed = &self.pool.streams.directed;
        let mut found: Vec<u32> = self.pool.parked.iter().chain(directed).map(|c| c.connection).collect();
        let mut queues: Vec<&Messages> = Vec::new();
        for p in &self.processes {
            found.extend(p.held().chain(p.leaving()));
            queues.extend([&p.queue, &p.back]);
        }
        let mut unclaimed = BTreeSet::new();
        let mut twice = None;
        for source in self.pool.returns.iter() {
            match source {
                Return::Unclaimed(id) => twice = twice.or((!unclaimed.insert(*id)).then_some(*id)),
                Return::OfDeadWorker(_, queue) => queues.extend([&queue.to_worker, &queue.back]),
                Return::HandedBack(_) => {}
            }
        }
        queues.sort_by_key(|q| Rc::as_ptr(q));
        queues.dedup_by_key(|q| Rc::as_ptr(q));
        for queue in queues {
            found.extend(queue.borrow().iter().filter_map(|item| item.connection()));
        }
        let n = found.len() as u32;
        found.sort_unstable();
        found.dedup();
        let over = self.finished + self.lost + self.unanswered + self.shared.closed.get();
        let accepted = self.shared.accepted.get();
        self.must(found.len() as u32 == n, || "a connection is in two places".into());
        self.must(n + over == accepted, || {
            format!("{accepted} connections accepted, {over} over, {n} there")
        });
        self.must(twice.is_none(), || format!("the queue of worker {twice:?} is read back twice"));
        self.check_counts();
        self.check_watched();
        self.check_kept();
    }

    /// Once a stop has all workers drain, none hands back: nobody is left to get it.
    fn check_kept(&mut self) {
        let runs = |p: &&Process| p.ended.is_none() && p.seen.killed.is_none() && p.seen.ready;
        let running = || self.processes.iter().filter(runs);
        if self.watch.stop.is_none() || running().any(|p| p.seen.drain.is_none()) {
            return;
        }
        let found = running().find(|p| p.draining == Some(true)).map(|p| p.id);
        self.must(found.is_none(), || format!("worker {found:?} hands back, and nobody gets it"));
    }

    /// Connections that a worker hands back are noticed.
    fn check_watched(&mut self) {
        for p in &self.processes {
            let listed = self.pool.returns.iter().any(|r| matches!(r, Return::HandedBack(id) if *id == p.id));
            let watched = self.pool.workers.get(p.id).is_none_or(|w| w.watched);
            if !watched && !listed && !p.back.borrow().is_empty() {
                let id = p.id;
                return self
                    .must(false, || format!("worker {id} hands back, and the master does not notice"));
            }
        }
    }

    /// Connections that the master counts as given to a worker are with it, in its queue, or finished.
    fn check_counts(&mut self) {
        for p in &self.processes {
            let Some(worker) = self.pool.workers.get(p.id).filter(|_| p.ended.is_none()) else { continue };
            let connections =
                p.queue.borrow().iter().filter_map(|item| item.connection()).count() as u64 + p.waiting();
            let (given, taken) = (worker.given, p.counters.taken.get());
            if given != taken + connections {
                let id = p.id;
                return self.must(false, || {
                    format!("worker {id}: {given} counted as given, {taken} taken and {connections} queued")
                });
            }
            let probes = p.queue.borrow().iter().filter(|item| **item == Item::Probe).count();
            if probes == 0 && worker.last_probe > p.counters.probed.get() {
                let id = p.id;
                return self.must(false, || format!("worker {id}: a probe counts as sent that is not there"));
            }
        }
    }

    /// After the last pid is reaped.
    pub fn check_end(&mut self) {
        if self.violation.is_some() || self.failed {
            return;
        }
        let left = self.processes.len();
        self.must(left == 0, || format!("stopped, and {left} workers are there"));
        let (told, real) = (self.machine.life.killed(), self.watch.drain_timeouts);
        self.must(told == real, || format!("{told} are reported as killed, {real} were"));
        let (told, real) = (self.machine.life.cut(), self.watch.cut);
        self.must(told == real, || format!("{told} connections are reported as cut, {real} were"));
        self.finish_turn();
        self.check_last_streams();
    }
}
