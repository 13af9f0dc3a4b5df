//! The world around the machine: virtual time, the workers, and the master's loop that feeds the machine and carries out what
//! it says (the counterpart of `master/mod.rs`, `duties.rs` and `spawn.rs`).

use super::super::{Action, Ended, Event, Input, NEVER, ReloadState, Rules};
use super::check::{Watch, words_of};
use super::desk::Desk;
use super::mutation::{Machine, Mutation};
use super::process::{Endless, KILL_TAKES, LONGEST, Mark, Process, Temper, Word};
use super::random::Random;
use crate::config::Dispatch;
use crate::sys::overdue;
use crate::sys::signal::SIGKILL;
use std::collections::{BTreeMap, VecDeque};

/// How often the master looks at its workers (`reclaim::TICK`).
pub const TICK: u64 = 50;
/// Looks at the shares after a scale-up (`rebalance::LOOKS`).
const LOOKS: u32 = 20;
/// A look at the deadlines that is so late is forgiven (`lifecycle::LATE`).
pub const LATE: u64 = super::super::LATE;
/// Lines that are kept to show what led to a violation.
const TRACE: usize = 120;

/// How workers of a generation are: the first few, then the others.
#[derive(Clone, Copy, Debug)]
pub struct Character {
    pub first: (u32, Temper),
    pub then: Temper,
}

/// Everything that a schedule plays with.
pub struct World {
    pub random: Random,
    pub now: u64,
    pub machine: Machine,
    pub rules: Rules,
    pub endless: Endless,
    pub processes: Vec<Process>,
    pub desk: Desk,
    pub watch: Watch,
    /// Handlers that the master has: by generation, how their workers are.
    pub characters: BTreeMap<u32, Character>,
    pub handlers: Vec<u32>,
    /// Prepared or not, the next time.
    pub prepare_fails: bool,
    pub next_character: Character,
    pub forks_fail_until: u64,
    /// Nothing bad begins any more.
    pub calm: bool,
    /// The first workers could not start.
    pub failed: bool,
    pub violation: Option<String>,
    pub steps: u64,
    pub counts: BTreeMap<&'static str, u64>,
    pub trace: Option<VecDeque<String>>,
    /// The master's forgiveness, all together: what it was seen to stand still.
    pub stood: u64,
    pub last_step: u64,
    timer_at: u64,
    pub tick_at: Option<u64>,
    /// The setting of this name.
    rebalance: bool,
    pub share_looks: u32,
    inputs: VecDeque<Input>,
    in_step: bool,
    signals: VecDeque<Input>,
}

impl World {
    pub fn new(mut random: Random, rules: Rules, slots: usize, machine: Machine) -> Self {
        let endless = Endless {
            boot: rules.boot_timeout > 0,
            drain: rules.drain_timeout > 0,
            call: rules.hang_timeout > 0,
        };
        let good = Character { first: (0, Temper::Good), then: Temper::Good };
        let now = random.between(1, 1_000_000);
        let desk = Desk::new(&mut random);
        Self {
            now,
            rebalance: desk.policy != Dispatch::SourceHash && random.chance(70),
            share_looks: 0,
            desk,
            random,
            machine,
            rules,
            endless,
            processes: Vec::new(),
            watch: Watch::new(slots, now),
            characters: BTreeMap::from([(1, good)]),
            handlers: vec![1],
            prepare_fails: false,
            next_character: good,
            forks_fail_until: 0,
            calm: false,
            failed: false,
            violation: None,
            steps: 0,
            counts: BTreeMap::new(),
            trace: None,
            stood: 0,
            last_step: now,
            timer_at: 0,
            tick_at: None,
            inputs: VecDeque::new(),
            in_step: false,
            signals: VecDeque::new(),
        }
    }

    /// The run is over, well or not.
    pub fn is_over(&self) -> bool {
        self.violation.is_some() || self.failed || self.machine.life.has_stopped()
    }

    pub fn must(&mut self, holds: bool, what: impl FnOnce() -> String) {
        if !holds && self.violation.is_none() {
            self.violation = Some(what());
            let mut lines: Vec<String> = self.processes.iter().map(Process::line).collect();
            lines.push(self.desk.line());
            lines.into_iter().for_each(|line| self.note(|| line));
        }
    }

    pub fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }

    pub fn note(&mut self, line: impl FnOnce() -> String) {
        if let Some(trace) = &mut self.trace {
            if trace.len() == TRACE {
                trace.pop_front();
            }
            trace.push_back(format!("{:>9} {}", self.now, line()));
        }
    }

    pub fn mark(&self, still: u64) -> Mark {
        Mark { at: self.now, stood: self.stood, still }
    }

    pub fn find(&mut self, id: u32) -> Option<&mut Process> {
        self.processes.iter_mut().find(|p| p.id == id)
    }

    pub fn get(&self, id: u32) -> Option<&Process> {
        self.processes.iter().find(|p| p.id == id)
    }

    /// Somebody outside sends the master a signal or uses its interface.
    pub fn ask(&mut self, input: Input) {
        self.signals.push_back(input);
    }

    /// Lets time pass until then.
    pub fn run_until(&mut self, until: u64) {
        let mut turns = 0;
        while !self.is_over() {
            self.run_processes();
            if self.has_news() || self.now >= self.timer() {
                turns += 1;
                self.must(turns < 3000, || "the master turns without end at one time".into());
                self.turn();
                continue;
            }
            turns = 0;
            let next = self.processes.iter().map(|p| p.next(self.now)).min().unwrap_or(NEVER);
            self.now = next.min(self.timer()).min(until);
            if self.now == until {
                return;
            }
        }
    }

    /// Everything stands still for so long, as under SIGSTOP for the group, or a debugger.
    pub fn suspend(&mut self, by: u64) {
        self.note(|| "-- all stand still, the workers too".into());
        let seen = self.stand_still(by);
        self.processes.iter_mut().for_each(|p| p.shift(by, seen));
    }

    /// The master stands still; returns whether it can know that.
    pub fn stand_still(&mut self, by: u64) -> bool {
        self.note(|| format!("-- the master stands still for {by} ms"));
        let due = self.machine.due();
        self.now += by;
        for seen in self.processes.iter_mut().map(|p| &mut p.seen) {
            seen.shut.iter_mut().for_each(|m| m.at += by);
            seen.lying.iter_mut().for_each(|(at, _)| *at += by);
        }
        let seen = due != NEVER && self.now >= due.max(self.last_step) + LATE;
        if seen {
            self.stood += self.now - self.last_step;
        } else if due == NEVER {
            // The machine has nothing to forgive.
            self.stood += by;
        }
        seen
    }

    fn timer(&self) -> u64 {
        self.timer_at.min(self.machine.due())
    }

    fn run_processes(&mut self) {
        for i in 0..self.processes.len() {
            let ran = self.processes[i].run(self.now, &mut self.random);
            self.desk.ran(&ran);
        }
    }

    fn has_news(&self) -> bool {
        let of_workers = |p: &Process| {
            p.ended.is_some() || !p.outbox.is_empty() || p.record.watched && !p.back.borrow().is_empty()
        };
        !self.signals.is_empty() || self.desk.has_news() || self.processes.iter().any(of_workers)
    }

    /// One turn of the master's loop (`Master::turn`).
    fn turn(&mut self) {
        self.timer_at = self.timer();
        while let Some(input) = self.signals.pop_front() {
            self.happened(input);
        }
        self.reap();
        self.read_messages();
        self.see_returns();
        if self.now >= self.timer_at {
            self.run_timers();
        }
        if self.is_over() {
            return;
        }
        self.accept();
        self.serve_waiting();
        self.check_turn();
        self.look_whether_empty();
    }

    fn reap(&mut self) {
        while let Some(at) = self.processes.iter().position(|p| p.ended.is_some()) {
            let process = self.processes.swap_remove(at);
            let Some(exit) = process.ended else { return };
            let words = process.outbox.clone();
            let id = process.id;
            self.orphan_all(&process);
            self.watch.is_gone(process);
            // What it said last is read first.
            let said = words.contains(&Word::Ready).then(|| "said".to_owned());
            let ended = Ended {
                id,
                pid: 0,
                exit,
                failure: said,
                stderr: words_of(id),
                was_ready: false,
                queued: 0,
                lost: 0,
            };
            self.happened(Input::Died(ended));
            if self.is_over() {
                return;
            }
        }
    }

    fn read_messages(&mut self) {
        for i in 0..self.processes.len() {
            while let Some((id, word)) =
                self.processes.get_mut(i).and_then(|p| p.outbox.pop_front().map(|word| (p.id, word)))
            {
                match word {
                    // Too late where SIGKILL is on its way.
                    Word::Ready if !self.machine.life.is_starting(id) => {}
                    Word::Ready => {
                        self.processes[i].seen.ready = true;
                        self.happened(Input::Ready(id));
                    }
                    Word::Leaving => {
                        self.processes[i].seen.asked = true;
                        self.happened(Input::Leaving(id));
                    }
                }
                if self.is_over() {
                    return;
                }
            }
        }
    }

    fn run_timers(&mut self) {
        self.timer_at = NEVER;
        if self.tick_at.is_some_and(|at| at <= self.now) {
            self.tick_at = None;
            self.look_for_stuck();
            self.look_at_work();
            self.look_at_shares();
        }
        self.look_at_wear();
        if !self.is_over() && self.machine.due() <= self.now {
            self.look_at_work();
            self.happened(Input::Tick);
        }
        let watches = self.rules.hang_timeout > 0
            && self.processes.iter().any(|p| p.record.busy_told > 0 || p.in_flight() > 0);
        if watches {
            self.tick_soon();
        }
        let next = [self.tick_at.unwrap_or(NEVER), self.desk.rest_ends(self.now), self.next_wear()];
        next.into_iter().for_each(|at| self.arm(at));
    }

    pub fn tick_soon(&mut self) {
        if self.tick_at.is_none() {
            let tick = if self.machine.is(Mutation::LooksSeldom) { 2 * TICK } else { TICK };
            self.tick_at = Some(self.now + tick);
            self.arm(self.now + tick);
        }
    }

    pub fn arm(&mut self, at: u64) {
        self.timer_at = self.timer_at.min(at);
    }

    fn look_at_work(&mut self) {
        let mark = self.mark(0);
        for i in 0..self.processes.len() {
            let Some(p) = self.processes.get_mut(i) else { return };
            let (id, since) = (p.id, p.busy_since());
            let news = since != p.record.busy_told;
            p.record.busy_told = since;
            p.seen.busy = if news { (since > 0).then_some(mark) } else { p.seen.busy };
            if news && self.rules.hang_timeout > 0 {
                self.happened(Input::Busy(id, since));
            }
        }
    }

    /// Requests served and memory used, in place of both counters.
    fn look_at_wear(&mut self) {
        for i in 0..self.processes.len() {
            let Some(p) = self.processes.get_mut(i).filter(|p| p.worn_at <= self.now) else { continue };
            p.worn_at = NEVER;
            let id = p.id;
            self.happened(Input::Worn(id));
        }
    }

    pub fn next_wear(&self) -> u64 {
        self.processes.iter().map(|p| p.worn_at).min().unwrap_or(NEVER)
    }

    /// As `Master::happened`.
    pub fn happened(&mut self, input: Input) {
        self.inputs.push_back(input);
        if std::mem::replace(&mut self.in_step, true) {
            return;
        }
        while let Some(input) = self.inputs.pop_front() {
            if self.violation.is_some() {
                break;
            }
            self.step(input);
        }
        self.in_step = false;
    }

    fn step(&mut self, input: Input) {
        self.steps += 1;
        self.count(name_of_input(&input));
        self.note(|| format!("   {input:?}"));
        self.check_input(&input);
        let mut actions = Vec::new();
        self.machine.step(self.now, input, &mut actions);
        self.last_step = self.now;
        for action in actions {
            self.count(name_of_action(&action));
            self.note(|| format!("      -> {action:?}"));
            self.check_action(&action);
            self.carry_out(action);
        }
        self.check_step();
    }

    fn carry_out(&mut self, action: Action) {
        let now = self.now;
        match action {
            Action::Spawn { id, slot, generation } => self.spawn(id, slot, generation),
            Action::Admit(id) => self.admit(id),
            Action::Withdraw(id) => {
                self.withdraw(id);
                self.orphan(id);
            }
            Action::Drain(id) => {
                let hands_back = !self.machine.life.is_stopping();
                if let Some(p) = self.processes.iter_mut().find(|p| p.id == id) {
                    p.record.watched |= hands_back;
                    p.drain(now, hands_back);
                }
            }
            Action::Signal(id, signal) => {
                if let Some(p) = self.processes.iter_mut().find(|p| p.id == id) {
                    match signal {
                        SIGKILL => p.kill(now, &mut self.random),
                        overdue::SIGNAL => p.warn(now, self.rules.hang_timeout, &mut self.random),
                        _ => p.abort(now),
                    }
                }
            }
            Action::Rebalance(_) => {
                if self.rebalance {
                    self.share_looks = LOOKS;
                    self.tick_soon();
                }
            }
            Action::Prepare(generation) => self.prepare(generation),
            Action::Commit | Action::Revert => {
                let generation = self.machine.life.generation();
                self.handlers.retain(|&g| g == generation);
            }
            Action::EmptyBacklogs => self.desk.empty_backlogs(),
            Action::CloseListeners => self.close_listeners(),
            Action::Tell(_) | Action::TellExit { .. } => {}
            Action::Fail(_) => self.failed = true,
        }
    }

    fn prepare(&mut self, generation: u32) {
        if std::mem::take(&mut self.prepare_fails) && !self.calm {
            return self.happened(Input::Prepared(Err("no such file".into())));
        }
        self.handlers.push(generation);
        let character = self.next_character;
        self.characters.insert(generation, character);
        self.happened(Input::Prepared(Ok(())));
    }

    fn spawn(&mut self, id: u32, slot: usize, generation: u32) {
        if self.now < self.forks_fail_until {
            self.watch.stillborn.push(id);
            return self.happened(Input::SpawnFailed(id, "fork: EAGAIN".into()));
        }
        let temper = self.temper_of(generation);
        let born = self.mark(0);
        let mut process = Process::new(id, slot, generation, born, temper, self.endless, &mut self.random);
        if !self.calm && self.random.chance(10) {
            process.worn_at = self.now + self.random.between(0, 3000);
            self.arm(process.worn_at);
        }
        self.processes.push(process);
    }

    fn temper_of(&mut self, generation: u32) -> Temper {
        let Some(character) = self.characters.get_mut(&generation).filter(|_| !self.calm) else {
            return Temper::Good;
        };
        let (left, first) = &mut character.first;
        if *left > 0 {
            *left -= 1;
            return *first;
        }
        if self.random.chance(85) { character.then } else { Temper::Good }
    }

    /// The longest that a start takes until it is over, one way or the other.
    pub fn boot_bound(&self) -> u64 {
        let timeout = self.rules.boot_timeout;
        KILL_TAKES + LATE + if timeout > 0 { timeout } else { 2 * LONGEST }
    }

    /// The longest that a worker takes to drain.
    pub fn drain_bound(&self, patience: u64) -> u64 {
        KILL_TAKES + LATE + if patience > 0 { patience } else { 20 * LONGEST }
    }
}

fn name_of_input(input: &Input) -> &'static str {
    match input {
        Input::Tick => "input Tick",
        Input::SpawnFailed(..) => "input SpawnFailed",
        Input::Ready(_) => "input Ready",
        Input::Died(..) => "input Died",
        Input::Prepared(Ok(())) => "input Prepared(Ok)",
        Input::Prepared(Err(_)) => "input Prepared(Err)",
        Input::Reload => "input Reload",
        Input::Scale(_) => "input Scale",
        Input::Drain(..) => "input Drain",
        Input::Leaving(_) => "input Leaving",
        Input::Signalled(..) => "input Signalled",
        Input::Busy(..) => "input Busy",
        Input::Worn(_) => "input Worn",
        Input::Stop => "input Stop",
        Input::Emptied => "input Emptied",
    }
}

fn name_of_action(action: &Action) -> &'static str {
    match action {
        Action::Spawn { .. } => "action Spawn",
        Action::Admit(_) => "action Admit",
        Action::Withdraw(_) => "action Withdraw",
        Action::Drain(_) => "action Drain",
        Action::Rebalance(_) => "action Rebalance",
        Action::Signal(_, SIGKILL) => "action Signal(KILL)",
        Action::Signal(_, overdue::SIGNAL) => "action Signal(URG)",
        Action::Signal(..) => "action Signal(ABRT)",
        Action::Prepare(_) => "action Prepare",
        Action::Commit => "action Commit",
        Action::Revert => "action Revert",
        Action::EmptyBacklogs => "action EmptyBacklogs",
        Action::CloseListeners => "action CloseListeners",
        Action::Fail(_) => "action Fail",
        Action::TellExit { .. } => "told Exit",
        Action::Tell(Event::Fork { .. }) => "told Fork",
        Action::Tell(Event::Ready { .. }) => "told Ready",
        Action::Tell(Event::Disconnect { .. }) => "told Disconnect",
        Action::Tell(Event::Hang { .. }) => "told Hang",
        Action::Tell(Event::Reload { state: ReloadState::Started, .. }) => "told reload started",
        Action::Tell(Event::Reload { state: ReloadState::Committed, .. }) => "told reload committed",
        Action::Tell(Event::Reload { state: ReloadState::RolledBack, .. }) => "told reload rolled back",
        Action::Tell(Event::Error { .. }) => "told Error",
        Action::Tell(_) => "told what the lifecycle does not know",
    }
}
