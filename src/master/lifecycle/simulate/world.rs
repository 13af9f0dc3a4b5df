//! The world around the lifecycle and the pool: virtual time, the workers, and a loop that feeds both and executes the actions
//! (the counterpart of `master/mod.rs`, `supervise.rs` and `spawn.rs`).

use super::super::{Action, Ended, Event, Input, ReloadState};
use super::check::{Watch, stderr_of};
use super::handover::Style;
use super::model::{Model, ModelBacklog, ModelQueue, Shared};
use super::mutation::{Machine, Mutation};
use super::process::{Endless, KILL_TAKES, LONGEST, Mark, Notice, Process, Temper};
use super::random::Random;
use super::{NEVER, Times};
use crate::config::{Config, Dispatch};
use crate::event::Kind;
use crate::ids::{Generation, ListenerId, Slot, WorkerId};
use crate::master::pool::{Pool, WorkerEntry};
use crate::sys::overdue;
use crate::sys::signal::SIGKILL;
use crate::sys::time::Time;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::time::Duration;

/// As in `draining.rs`.
pub const END_GRACE: u64 = super::super::draining::END_GRACE.as_millis() as u64;
/// The time between two checks of the workers (`pool::health::CHECK`).
pub const TICK: u64 = 50;
/// A tick that is this late is forgiven (`lifecycle::LATE`).
pub const LATE: u64 = super::super::LATE.as_millis() as u64;
/// Connections that a worker may leave in its queue, and that are accepted in one turn: few, so that the limits are met.
pub const MAX_QUEUED: u64 = 4;
const BATCH: usize = 8;
/// Lines that are kept to show what led to a violation.
const TRACE: usize = 120;

/// The behaviour of the workers of a generation: of the first few, then of the others.
#[derive(Clone, Copy, Debug)]
pub struct Character {
    pub first: (u32, Temper),
    pub then: Temper,
}

/// The state of a schedule.
pub struct World {
    pub random: Random,
    pub now: u64,
    pub machine: Machine,
    pub rules: Times,
    pub endless: Endless,
    pub style: Style,
    pub processes: Vec<Process>,
    pub pool: Pool<Model>,
    pub shared: Rc<Shared>,
    pub dispatch: Dispatch,
    pub finished: u32,
    pub lost: u32,
    pub unanswered: u32,
    woken: bool,
    pub watch: Watch,
    /// By generation: the behaviour of its workers.
    pub characters: BTreeMap<Generation, Character>,
    pub handlers: Vec<Generation>,
    /// True if the next handler cannot be read.
    pub prepare_fails: bool,
    pub next_character: Character,
    pub forks_fail_until: u64,
    /// True once no fault begins any more.
    pub calm: bool,
    /// The first workers could not start.
    pub failed: bool,
    pub violation: Option<String>,
    pub steps: u64,
    pub counts: BTreeMap<&'static str, u64>,
    pub trace: Option<VecDeque<String>>,
    /// The time that the master stood still and could know it.
    pub stood: u64,
    pub last_step: u64,
    timer_at: u64,
    /// A host is told of a reload, and takes its time: when it is done.
    announced: Option<(u64, Generation)>,
    signals: VecDeque<Input>,
}

impl World {
    pub fn new(mut random: Random, rules: Times, slots: usize, machine: Machine) -> Self {
        let endless = Endless {
            boot: rules.boot_timeout > 0,
            drain: rules.drain_timeout > 0,
            call: rules.hang_timeout > 0,
        };
        let style = Style::some(&mut random);
        let good = Character { first: (0, Temper::Good), then: Temper::Good };
        let now = random.between(1, 1_000_000);
        let shared = Shared::new(Some(Random::new(random.between(0, u64::MAX - 1))), machine.mutation());
        let listeners = (0..random.between(1, 2)).map(|_| ModelBacklog::new(&shared)).collect();
        let dispatch =
            random.one_of(&[Dispatch::RoundRobin, Dispatch::LeastConnections, Dispatch::SourceHash]);
        let config = Config {
            dispatch,
            rebalance: dispatch != Dispatch::SourceHash && random.chance(70),
            timeout: Duration::from_millis(rules.hang_timeout),
            ..Config::default()
        };
        let model = Model(Rc::clone(&shared));
        let mut pool = Pool::new(model, listeners, &config, Time::from_millis(now));
        (pool.max_queued, pool.per_turn) = (MAX_QUEUED, BATCH);
        if random.chance(80) {
            pool.is_cautious = false;
        }
        (pool.fault, pool.streams.fault) = (machine.fault(), machine.fault());
        Self {
            now,
            pool,
            shared,
            dispatch,
            finished: 0,
            lost: 0,
            unanswered: 0,
            woken: false,
            random,
            machine,
            rules,
            endless,
            style,
            processes: Vec::new(),
            watch: Watch::new(slots, now),
            characters: BTreeMap::from([(Generation::FIRST, good)]),
            handlers: vec![Generation::FIRST],
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
            announced: None,
            signals: VecDeque::new(),
        }
    }

    /// True if the run is over, or a check has failed.
    pub fn is_over(&self) -> bool {
        self.violation.is_some() || self.failed || self.machine.life.has_stopped()
    }

    pub fn must(&mut self, holds: bool, what: impl FnOnce() -> String) {
        if !holds && self.violation.is_none() {
            self.violation = Some(what());
            let mut lines: Vec<String> = self.processes.iter().map(Process::line).collect();
            lines.extend(self.pool.workers.iter().map(|w| {
                let (id, given, admitted, stuck) = (w.id, w.given, w.admitted, w.stuck);
                format!("worker {id}: given {given}, admitted {admitted}, stuck {stuck}")
            }));
            let waiting: Vec<_> = self.pool.listeners.iter().map(|l| (l.waiting, l.watched)).collect();
            let parked: Vec<_> = self.pool.parked.iter().map(|c| c.connection).collect();
            lines.push(format!(
                "listeners {waiting:?}, parked {parked:?}, {} returns",
                self.pool.returns.len()
            ));
            let streams = &self.pool.streams;
            let directed: Vec<_> = streams.directed.iter().map(|c| (c.connection, c.origin.stream)).collect();
            lines.push(format!("directed {directed:?}, {:?}", streams.transits));
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

    pub fn find(&mut self, id: WorkerId) -> Option<&mut Process> {
        self.processes.iter_mut().find(|p| p.id == id)
    }

    pub fn get(&self, id: WorkerId) -> Option<&Process> {
        self.processes.iter().find(|p| p.id == id)
    }

    /// A signal to the master, or a command.
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
            self.check_sleep();
            let next = self.processes.iter().map(|p| p.next(self.now)).min().unwrap_or(NEVER);
            self.now = next.min(self.timer()).min(until);
            if self.now == until {
                return;
            }
        }
    }

    /// All processes stand still for this time, as under SIGSTOP for the group, or a debugger.
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
            seen.home.iter_mut().for_each(|(_, at)| *at += by);
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
        let announced = self.announced.map_or(NEVER, |(at, _)| at);
        self.timer_at.min(self.machine.due()).min(self.pool.due().as_millis()).min(announced)
    }

    fn run_processes(&mut self) {
        for i in 0..self.processes.len() {
            let ran = self.processes[i].run(self.now, &mut self.random);
            self.finished += ran.finished;
            self.lost += ran.lost + ran.cut + ran.refused;
            if ran.is_done {
                self.check_giver_end(i);
            }
            for _ in 0..ran.given_away {
                self.count("stream given away");
            }
            for _ in 0..ran.cut {
                self.count("connection cut at its worker's end");
            }
            for _ in 0..ran.displaced {
                self.count("idle connection closed for a new one");
            }
            let became_idle = ran.became_idle && !self.machine.is(Mutation::IdleWakesNobody);
            let counters = &self.processes[i].counters;
            if (ran.made_room || became_idle) && self.shared.waiting.take() {
                self.woken = true;
            } else if counters.unseen.get() > 0 && self.random.chance(25) {
                // It is seen only when the master looks for the second time.
                self.shared.unseen.borrow_mut().push(Rc::clone(counters));
                continue;
            }
            counters.finished.set(counters.finished.get() + counters.unseen.take());
        }
    }

    fn has_news(&self) -> bool {
        let of_workers = |p: &Process| {
            let watched = self.pool.workers.get(p.id).is_some_and(|w| w.watched);
            p.ended.is_some() || !p.outbox.is_empty() || watched && !p.back.borrow().is_empty()
        };
        let clients = self.pool.listeners.iter().any(|l| l.reported && l.waiting > 0);
        let of_pool = self.pool.has_more || self.woken || clients;
        !self.signals.is_empty() || of_pool || self.processes.iter().any(of_workers)
    }

    /// One turn of the master's loop (`Master::turn`).
    fn turn(&mut self) {
        self.timer_at = self.timer();
        self.pool.begin_turn(Time::from_millis(self.now));
        self.shared.now.set(self.now);
        self.woken = false;
        self.watch.given = self.pool.workers.iter().map(|w| (w.id, w.given)).collect();
        while let Some(input) = self.signals.pop_front() {
            self.feed(input);
        }
        self.reap();
        self.read_messages();
        for page in self.pool.workers.pages() {
            let back = self.pool.workers.at(page).map(|w| Rc::clone(&w.queue.back));
            if back.is_some_and(|back| !back.borrow().is_empty()) {
                self.pool.mark_returns(page, &());
            }
        }
        self.run_timers();
        if self.is_over() {
            return;
        }
        for index in 0..self.pool.listeners.len() {
            if self.pool.listeners[index].reported && self.pool.listeners[index].waiting > 0 {
                self.pool.accept_from(ListenerId::at(index), &());
            }
        }
        let unseen = self.shared.unseen.borrow().clone();
        let has_room = |slot: &usize| self.pool.load(*slot).is_some();
        let with_room =
            (0..self.pool.workers.slots()).filter(has_room).filter_map(|s| self.pool.workers.admitted(s));
        let seen = with_room.filter(|w| !unseen.iter().any(|c| Rc::ptr_eq(c, &w.link.counters)));
        self.watch.with_room = seen.map(|w| w.id).collect();
        self.pool.serve_waiting(&self.machine.life, &());
        self.tell_settled();
        self.nudge_workers();
        self.check_turn();
        if self.pool.has_emptied_backlogs() {
            self.feed(Input::Emptied);
        }
        // When the turn is over, as `Master::begin_announced`.
        if let Some((_, generation)) = self.announced.take_if(|(at, _)| *at <= self.now) {
            if self.machine.life.is_preparing(generation) {
                let prepared = self.prepare(generation);
                self.feed(prepared);
            } else {
                self.count("announced in vain");
            }
        }
    }

    fn reap(&mut self) {
        while let Some(at) = self.processes.iter().position(|p| p.ended.is_some()) {
            let process = self.processes.swap_remove(at);
            let Some(exit) = process.ended else { return };
            let words = process.outbox.clone();
            let (id, cut) = (process.id, process.cut);
            for word in &words {
                if let Notice::TookOver { giver, count } = *word {
                    self.pool.streams.took_over(giver, id, count);
                }
            }
            // What it handed back was not shed.
            process.counters.admitted.set(false);
            if let Some(page) = self.pool.workers.page_of(id) {
                self.pool.remove(page);
            }
            self.watch.is_gone(process);
            // Its last notices are read first.
            let said = words.contains(&Notice::Ready).then(|| "said".to_owned());
            let ended = Ended {
                id,
                pid: 0,
                exit,
                failure: said,
                stderr: stderr_of(id),
                was_ready: false,
                queued: 0,
                lost: 0,
                cut,
            };
            self.feed(Input::Died(ended));
            if self.is_over() {
                return;
            }
        }
    }

    fn read_messages(&mut self) {
        for i in 0..self.processes.len() {
            while let Some((id, notice)) =
                self.processes.get_mut(i).and_then(|p| p.outbox.pop_front().map(|notice| (p.id, notice)))
            {
                match notice {
                    // Too late if it was sent SIGKILL.
                    Notice::Ready if !self.machine.life.is_starting(id) => {}
                    Notice::Ready => {
                        self.processes[i].seen.ready = true;
                        if let Some(worker) = self.pool.workers.get_mut(id) {
                            worker.limit = self.processes[i].limit;
                            let sheds = self.processes[i].can_shed();
                            worker.kind = Some(if sheds { Kind::Request } else { Kind::Blocking });
                        }
                        self.feed(Input::Ready(id));
                    }
                    Notice::Leaving => {
                        self.processes[i].seen.asked = true;
                        self.feed(Input::Leaving(id));
                    }
                    Notice::TookOver { giver, count } => self.pool.streams.took_over(giver, id, count),
                }
                if self.is_over() {
                    return;
                }
            }
        }
    }

    fn run_timers(&mut self) {
        self.timer_at = NEVER;
        if self.pool.due().as_millis() <= self.now {
            let findings = self.pool.run_timers(&self.machine.life, &());
            self.busy(findings.inputs);
            for (id, keep) in findings.sheds {
                let now = self.now;
                if let Some(p) = self.find(id) {
                    p.shed(now, keep.into());
                }
            }
        }
        self.look_at_wear();
        if !self.is_over() && self.machine.due() <= self.now {
            let mut inputs = Vec::new();
            self.pool.report_calls(&mut inputs);
            self.busy(inputs);
            self.feed(Input::Tick);
        }
        self.arm(self.next_wear());
    }

    /// Feeds the lifecycle with what workers are busy with.
    fn busy(&mut self, inputs: Vec<Input>) {
        let mark = self.mark(0);
        for input in inputs {
            if let Input::Busy(id, since) = input
                && let Some(p) = self.find(id)
            {
                p.seen.busy = (since.as_millis() > 0).then_some(mark);
            }
            self.feed(input);
        }
    }

    /// As `Master::tell_settled`.
    fn tell_settled(&mut self) {
        for (giver, count) in self.pool.streams.settled.drain(..) {
            if let Some(p) = self.processes.iter_mut().find(|p| p.id == giver) {
                p.settle(count, self.now, &mut self.random);
            }
        }
    }

    /// What the master does in its last turn after the last worker was reaped.
    pub fn finish_turn(&mut self) {
        self.pool.serve_waiting(&self.machine.life, &());
    }

    /// Wakes the workers whose queues have got something.
    fn nudge_workers(&mut self) {
        for p in &mut self.processes {
            if p.counters.nudged.take() {
                p.nudge(self.now, &mut self.random);
            }
        }
    }

    pub fn arm(&mut self, at: u64) {
        self.timer_at = self.timer_at.min(at);
    }

    /// Requests served and memory used, in place of both counters.
    fn look_at_wear(&mut self) {
        for i in 0..self.processes.len() {
            let Some(p) = self.processes.get_mut(i).filter(|p| p.worn_at <= self.now) else { continue };
            p.worn_at = NEVER;
            let id = p.id;
            self.feed(Input::Worn(id));
        }
    }

    pub fn next_wear(&self) -> u64 {
        self.processes.iter().map(|p| p.worn_at).min().unwrap_or(NEVER)
    }

    /// As `Master::feed`.
    pub fn feed(&mut self, input: Input) {
        let (mut next, mut follow_ups) = (Some(input), VecDeque::new());
        while let Some(input) = next.filter(|_| self.violation.is_none()) {
            self.step(input, &mut follow_ups);
            next = follow_ups.pop_front();
        }
    }

    fn step(&mut self, input: Input, follow_ups: &mut VecDeque<Input>) {
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
            follow_ups.extend(self.execute(action));
        }
        self.check_step();
    }

    fn execute(&mut self, action: Action) -> Option<Input> {
        let now = self.now;
        match action {
            Action::Spawn { id, slot, generation } => return self.spawn(id, slot, generation),
            Action::Admit(id) => {
                self.pool.admit(id, &());
                self.set_admitted(id, true);
            }
            Action::Withdraw(id) => {
                self.pool.withdraw(id);
                self.set_admitted(id, false);
            }
            Action::Drain(id, patience) => {
                let hands_back = !self.machine.life.is_stopping();
                if let Some(p) = self.find(id) {
                    p.drain(now, hands_back, patience.as_millis() as u64);
                }
            }
            Action::End(id) => self.find(id).into_iter().for_each(|p| p.end_at(now + 1)),
            Action::KeepIdle(id) => self.find(id).into_iter().for_each(|p| p.keep(now)),
            Action::Signal(id, signal) => {
                if let Some(p) = self.processes.iter_mut().find(|p| p.id == id) {
                    match signal {
                        SIGKILL => p.kill(now, &mut self.random),
                        overdue::SIGNAL => p.warn(now, self.rules.hang_timeout, &mut self.random),
                        _ => p.abort(now),
                    }
                }
            }
            Action::Rebalance(_) => self.pool.rebalance(),
            Action::Prepare(generation) if self.random.chance(30) => {
                self.announced = Some((now + self.random.between(0, 300), generation));
            }
            Action::Prepare(generation) => return Some(self.prepare(generation)),
            Action::Commit | Action::Revert => {
                let generation = self.machine.life.generation();
                self.handlers.retain(|&g| g == generation);
            }
            Action::EmptyBacklogs => self.pool.empty_backlogs(&()),
            Action::CloseListeners => self.unanswered += self.pool.close() as u32,
            Action::Tell(_) | Action::TellExit { .. } => {}
            Action::Fail { .. } => self.failed = true,
        }
        None
    }

    fn set_admitted(&mut self, id: WorkerId, admitted: bool) {
        if let Some(p) = self.find(id) {
            p.counters.admitted.set(admitted);
        }
    }

    fn prepare(&mut self, generation: Generation) -> Input {
        if std::mem::take(&mut self.prepare_fails) && !self.calm {
            return Input::Prepared(Err("no such file".into()));
        }
        self.handlers.push(generation);
        let character = self.next_character;
        self.characters.insert(generation, character);
        Input::Prepared(Ok(()))
    }

    fn spawn(&mut self, id: WorkerId, slot: Slot, generation: Generation) -> Option<Input> {
        if self.now < self.forks_fail_until {
            self.watch.stillborn.push(id);
            return Some(Input::SpawnFailed(id, "fork: EAGAIN".into()));
        }
        let temper = self.temper_of(generation);
        let born = self.mark(0);
        let ways = (self.endless, self.style, &self.shared.tracks);
        let mut process = Process::new(id, slot.index(), generation, born, temper, ways, &mut self.random);
        if !self.calm && self.random.chance(10) {
            process.worn_at = self.now + self.random.between(0, 3000);
            self.arm(process.worn_at);
        }
        let link = ModelQueue {
            id,
            to_worker: Rc::clone(&process.queue),
            back: Rc::clone(&process.back),
            counters: Rc::clone(&process.counters),
            shared: Rc::clone(&self.shared),
        };
        if let Some(page) = self.pool.workers.free_page() {
            self.pool.workers.add(page, WorkerEntry::new(id, slot, generation, link.clone(), link, 0));
        }
        self.processes.push(process);
        None
    }

    fn temper_of(&mut self, generation: Generation) -> Temper {
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
        KILL_TAKES + LATE + if patience > 0 { patience + END_GRACE } else { 20 * LONGEST }
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
        Input::Interrupt => "input Interrupt",
        Input::Emptied => "input Emptied",
    }
}

fn name_of_action(action: &Action) -> &'static str {
    match action {
        Action::Spawn { .. } => "action Spawn",
        Action::Admit(_) => "action Admit",
        Action::Withdraw(_) => "action Withdraw",
        Action::Drain(..) => "action Drain",
        Action::End(_) => "action End",
        Action::KeepIdle(_) => "action KeepIdle",
        Action::Rebalance(_) => "action Rebalance",
        Action::Signal(_, SIGKILL) => "action Signal(KILL)",
        Action::Signal(_, overdue::SIGNAL) => "action Signal(URG)",
        Action::Signal(..) => "action Signal(ABRT)",
        Action::Prepare(_) => "action Prepare",
        Action::Commit => "action Commit",
        Action::Revert => "action Revert",
        Action::EmptyBacklogs => "action EmptyBacklogs",
        Action::CloseListeners => "action CloseListeners",
        Action::Fail { .. } => "action Fail",
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
