//! Where connections are: backlogs, the queues of the workers, what comes back from them, the one in hand. A model of
//! `accept.rs`, `reclaim.rs` and `crew.rs` with their functions' names, since those work on descriptors; the choice of the
//! worker is the real `dispatch::pick`.

use super::super::{Input, NEVER};
use super::mutation::Mutation;
use super::process::{Item, Process, QUEUE_ROOM, Queue, Ran};
use super::random::Random;
use super::world::World;
use crate::config::Dispatch;
use crate::master::dispatch;
use std::collections::VecDeque;
use std::rc::Rc;

/// As the constants of `accept.rs` and `crew.rs`, smaller, so that the limits are met.
const EXHAUSTED_REST: u64 = 250;
const BATCH: usize = 8;
const MAX_QUEUED: u64 = 4;

#[derive(Debug, Default)]
pub struct Listener {
    pub backlog: u32,
    pub watched: bool,
    emptied: bool,
}

pub enum Return {
    Orphan { queue: Queue, id: u32 },
    Living { id: u32 },
    Left(Queue),
}

enum Accepted {
    One,
    Empty,
    Exhausted,
}

/// What the master has beside the machine.
pub struct Desk {
    pub listeners: Vec<Listener>,
    pub in_hand: Option<u32>,
    /// The worker that has shed the one in hand.
    hand_shed_by: Option<u32>,
    pub returns: VecDeque<Return>,
    /// The word on the common page.
    pub waiting: bool,
    pub accept_at: u64,
    pub emptying: bool,
    pub more_to_do: bool,
    /// accept4 fails until then for want of descriptors.
    pub shortage_until: u64,
    pub accepted: u32,
    pub finished: u32,
    pub lost: u32,
    pub unanswered: u32,
    /// By slot: the worker that is let in.
    pub doors: Vec<Option<u32>>,
    woken: bool,
    pub policy: Dispatch,
    cursor: usize,
}

impl Desk {
    pub fn new(random: &mut Random) -> Self {
        Self {
            listeners: (0..random.between(1, 2)).map(|_| Listener::default()).collect(),
            in_hand: None,
            hand_shed_by: None,
            returns: VecDeque::new(),
            waiting: false,
            accept_at: 0,
            emptying: false,
            more_to_do: false,
            shortage_until: 0,
            accepted: 0,
            finished: 0,
            lost: 0,
            unanswered: 0,
            doors: Vec::new(),
            woken: false,
            policy: random.one_of(&[Dispatch::RoundRobin, Dispatch::LeastConnections, Dispatch::SourceHash]),
            cursor: 0,
        }
    }

    /// For the reader of a violation.
    pub fn line(&self) -> String {
        format!(
            "listeners {:?}, in hand {:?}, {} returns, waiting {}, doors {:?}",
            self.listeners,
            self.in_hand,
            self.returns.len(),
            self.waiting,
            self.doors
        )
    }

    /// What a worker's page and the kernel tell.
    pub fn ran(&mut self, ran: &Ran) {
        self.finished += ran.finished;
        self.lost += ran.lost;
        if ran.made_room && self.waiting {
            self.waiting = false;
            self.woken = true;
        }
    }

    pub fn has_news(&self) -> bool {
        self.more_to_do || self.woken || self.listeners.iter().any(|l| l.watched && l.backlog > 0)
    }

    pub fn rest_ends(&self, now: u64) -> u64 {
        if self.accept_at > now { self.accept_at } else { NEVER }
    }

    pub fn empty_backlogs(&mut self) {
        self.emptying = true;
        self.listeners.iter_mut().for_each(|l| l.watched = false);
    }
}

impl World {
    pub fn admit(&mut self, id: u32) {
        let Some(p) = self.processes.iter_mut().find(|p| p.id == id) else { return };
        p.record.admitted = true;
        p.record.stuck = false;
        let slot = p.slot;
        if self.desk.doors.len() <= slot {
            self.desk.doors.resize(slot + 1, None);
        }
        self.desk.doors[slot] = Some(id);
    }

    pub fn withdraw(&mut self, id: u32) {
        let Some(p) = self.processes.iter_mut().find(|p| p.id == id) else { return };
        p.record.admitted = false;
        let slot = p.slot;
        self.shut(slot, id);
    }

    fn shut(&mut self, slot: usize, id: u32) {
        if let Some(door) = self.desk.doors.get_mut(slot).filter(|door| **door == Some(id)) {
            *door = None;
        }
    }

    pub fn orphan(&mut self, id: u32) {
        let short = self.now < self.desk.shortage_until && self.random.chance(30);
        let Some(p) = self.processes.iter_mut().find(|p| p.id == id) else { return };
        let is_up = |r: &Return| matches!(r, Return::Orphan { id: other, .. } if *other == id);
        if self.desk.returns.iter().any(is_up) {
            // It is read back already.
        } else if short {
            p.record.stuck = true;
        } else {
            let queue = Rc::clone(&p.queue);
            self.desk.returns.push_back(Return::Orphan { queue, id });
        }
        self.tick_soon();
    }

    pub fn orphan_all(&mut self, p: &Process) {
        self.shut(p.slot, p.id);
        if self.machine.is(Mutation::QueueOfTheDeadForgotten) {
            return;
        }
        self.desk.returns.push_back(Return::Orphan { queue: Rc::clone(&p.queue), id: p.id });
        self.desk.returns.push_back(Return::Left(Rc::clone(&p.back)));
    }

    pub fn see_returns(&mut self) {
        for p in self.processes.iter_mut().filter(|p| p.record.watched && !p.back.borrow().is_empty()) {
            p.record.watched = false;
            self.desk.returns.push_back(Return::Living { id: p.id });
        }
    }

    /// The next connection that comes back, and who has shed it.
    fn next_return(&mut self) -> Option<(u32, Option<u32>)> {
        while let Some(source) = self.desk.returns.front() {
            if self.now < self.desk.shortage_until && self.random.chance(50) {
                self.rest();
                return None;
            }
            let shed_by = self.shedder(source);
            let (queue, orphan_of) = match source {
                Return::Orphan { queue, id } => (Some(Rc::clone(queue)), Some(*id)),
                Return::Left(back) => (Some(Rc::clone(back)), None),
                Return::Living { id } => (self.get(*id).map(|p| Rc::clone(&p.back)), None),
            };
            match queue.and_then(|q| q.borrow_mut().pop_front()) {
                Some(Item::Connection(connection)) => {
                    if let Some(p) = orphan_of.and_then(|id| self.find(id)) {
                        p.record.given -= 1;
                    }
                    self.count("connection came back");
                    if shed_by.is_some() {
                        self.count("connection shed");
                    }
                    return Some((connection, shed_by));
                }
                Some(Item::Probe) => {
                    if let Some(p) = orphan_of.and_then(|id| self.find(id)) {
                        p.record.asked = 0;
                    }
                    continue;
                }
                None => {}
            }
            match self.desk.returns.pop_front() {
                Some(Return::Orphan { id, .. }) => {
                    self.note(|| format!("      the queue of {id} is empty"));
                    self.probe(id, true);
                }
                Some(Return::Living { id }) => {
                    if let Some(p) = self.find(id) {
                        p.record.watched = true;
                    }
                }
                Some(Return::Left(_)) | None => {}
            }
            return None;
        }
        None
    }

    /// As `Master::look_at_shares`.
    pub fn look_at_shares(&mut self) {
        if self.share_looks == 0 || self.machine.life.is_stopping() {
            self.share_looks = 0;
            return;
        }
        self.tick_soon();
        let reloads = self.machine.life.is_reloading();
        if reloads || self.desk.in_hand.is_some() || !self.desk.returns.is_empty() {
            return;
        }
        self.share_looks -= 1;
        let takers = || self.processes.iter().filter(|p| p.takes_connections());
        let connections: u64 = takers().map(Process::in_flight).sum();
        let share = connections.div_ceil(takers().count().max(1) as u64);
        let now = self.now;
        for p in &mut self.processes {
            if p.takes_connections() && p.can_shed() && p.in_flight() > share {
                p.record.watched = true;
                p.shed(now, share);
            }
        }
    }

    fn shedder(&self, source: &Return) -> Option<u32> {
        let Return::Living { id } = source else { return None };
        self.get(*id).filter(|p| p.record.admitted).map(|p| p.id)
    }

    fn behind(&self, slot: usize) -> Option<&Process> {
        self.get(self.desk.doors.get(slot).copied().flatten()?)
    }

    fn pick_beside(&self, id: u32) -> Option<usize> {
        let slots = self.desk.doors.len();
        let itself = self.machine.is(Mutation::ShedToItself);
        let beside = |slot: usize| self.behind(slot).filter(|p| p.id != id || itself);
        let other = dispatch::least(slots, |slot| beside(slot)?.load(MAX_QUEUED));
        let will = || (0..slots).any(|slot| beside(slot).is_some_and(Process::will_have_room));
        if other.is_some() || will() {
            return other;
        }
        dispatch::least(slots, |slot| self.behind(slot)?.load(MAX_QUEUED))
    }

    fn pick_for_return(&mut self) -> Option<usize> {
        for index in 0..self.desk.returns.len() {
            let slot = match self.shedder(&self.desk.returns[index]) {
                Some(id) => self.pick_beside(id),
                None => self.pick(),
            };
            if slot.is_some() {
                self.desk.returns.swap(0, index);
                return slot;
            }
        }
        None
    }

    pub fn has_room_for_returns(&self) -> bool {
        self.desk.returns.iter().any(|source| match self.shedder(source) {
            Some(id) => self.pick_beside(id).is_some(),
            None => self.has_room(),
        })
    }

    /// A worker does not get back what it has shed while another one takes it.
    fn check_shed(&mut self, id: u32, shed_by: Option<u32>) {
        let others = self.processes.iter().any(|p| p.id != id && p.load(MAX_QUEUED).is_some());
        let back = shed_by == Some(id);
        self.must(!back || !others, || {
            format!("worker {id} gets back what it has shed, and another has room")
        });
    }

    fn probe(&mut self, id: u32, if_admitted: bool) {
        let Some(p) = self.processes.iter_mut().find(|p| p.id == id) else { return };
        let full = p.queue.borrow().len() >= QUEUE_ROOM;
        if (p.record.admitted || !if_admitted) && !full && p.record.asked <= p.probed {
            p.record.asked = p.probed + 1;
            p.queue.borrow_mut().push_back(Item::Probe);
            p.nudge(self.now, &mut self.random);
        }
    }

    pub fn look_for_stuck(&mut self) {
        for i in 0..self.processes.len() {
            let Some(p) = self.processes.get_mut(i).filter(|p| p.record.admitted) else { continue };
            let progress = p.progress();
            let moved = progress != p.record.last_progress;
            p.record.last_progress = progress;
            let queued = p.queued() > 0;
            let id = p.id;
            let lies = std::mem::replace(&mut p.record.lay, queued) && queued && !moved;
            p.record.stuck = lies || p.record.stuck && !moved;
            let (watch_on, stuck) = (queued || p.record.stuck, p.record.stuck);
            if lies {
                self.count("worker found stuck");
                self.note(|| format!("      worker {id} takes nothing"));
                self.orphan(id);
            } else if stuck {
                self.probe(id, true);
            }
            if watch_on {
                self.tick_soon();
            }
        }
    }

    pub fn accept(&mut self) {
        for index in 0..self.desk.listeners.len() {
            if !self.desk.listeners[index].watched || self.desk.listeners[index].backlog == 0 {
                continue;
            }
            match self.pick() {
                _ if self.desk.in_hand.is_some() || self.has_returns() => {
                    self.desk.listeners[index].watched = false;
                }
                None => self.desk.listeners[index].watched = false,
                Some(slot) => {
                    if matches!(self.accept_one(index, slot), Accepted::Exhausted) {
                        self.rest_from(index);
                    }
                }
            }
        }
    }

    pub fn serve_waiting(&mut self) {
        self.desk.woken = false;
        self.desk.more_to_do = false;
        self.serve_what_has_room();
        let waits = !self.desk.more_to_do && self.waits_for_room();
        self.desk.waiting = waits && !self.machine.is(Mutation::WaitingWordForgotten);
    }

    fn serve_what_has_room(&mut self) {
        self.place_returns();
        for index in 0..self.desk.listeners.len() {
            if self.is_paused(index) {
                self.accept_paused(index);
            }
        }
    }

    fn place_returns(&mut self) {
        for _ in 0..BATCH {
            if self.desk.in_hand.is_none() && !self.has_returns() {
                break;
            }
            let turn = self.desk.cursor;
            let slot = if self.desk.in_hand.is_some() { self.pick() } else { self.pick_for_return() };
            let Some(slot) = slot else { break };
            let in_hand = self.desk.in_hand.take().map(|c| (c, self.desk.hand_shed_by));
            match in_hand.or_else(|| self.next_return()) {
                Some((connection, shed_by)) => self.give(connection, shed_by, slot),
                None => self.desk.cursor = turn,
            }
        }
        self.desk.more_to_do |= self.has_returns() && self.has_room_for_returns();
    }

    pub fn has_returns(&self) -> bool {
        !self.desk.returns.is_empty() && self.now >= self.desk.accept_at
    }

    fn accept_paused(&mut self, index: usize) {
        for _ in 0..BATCH {
            let Some(slot) = self.pick().filter(|_| self.desk.in_hand.is_none()) else { return };
            match self.accept_one(index, slot) {
                Accepted::One => {}
                Accepted::Empty => return self.backlog_is_empty(index),
                Accepted::Exhausted => return self.rest_from(index),
            }
        }
        self.desk.more_to_do = true;
    }

    fn backlog_is_empty(&mut self, index: usize) {
        if self.desk.emptying {
            self.desk.listeners[index].emptied = true;
        } else if !self.machine.is(Mutation::NeverResumed) {
            self.desk.listeners[index].watched = true;
        }
    }

    fn accept_one(&mut self, index: usize, slot: usize) -> Accepted {
        let empty = self.desk.listeners[index].backlog == 0;
        if empty || self.now < self.desk.shortage_until {
            self.desk.cursor = slot;
            return if empty { Accepted::Empty } else { Accepted::Exhausted };
        }
        self.desk.listeners[index].backlog -= 1;
        let connection = self.desk.accepted;
        self.desk.accepted += 1;
        self.count("connection accepted");
        self.give(connection, None, slot);
        Accepted::One
    }

    fn give(&mut self, connection: u32, shed_by: Option<u32>, slot: usize) {
        let mut choice = self.pick_for(connection, shed_by).or(Some(slot));
        while let Some(slot) = choice {
            let door = self.desk.doors.get(slot).copied().flatten();
            door.into_iter().for_each(|id| self.check_shed(id, shed_by));
            if self.give_to(slot, connection) {
                return;
            }
            choice = self.pick_for(connection, shed_by).or_else(|| self.pick());
        }
        self.count("connection in hand");
        (self.desk.in_hand, self.desk.hand_shed_by) = (Some(connection), shed_by);
    }

    fn give_to(&mut self, slot: usize, connection: u32) -> bool {
        let door = self.desk.doors.get(slot).copied().flatten();
        // The kernel may refuse before the master's own count does, as for descriptors under way.
        let refuses = self.random.chance(3);
        let Some(p) = door.and_then(|id| self.processes.iter_mut().find(|p| p.id == id)) else {
            return false;
        };
        let taken = !refuses && p.queue.borrow().len() < QUEUE_ROOM;
        let id = p.id;
        if taken {
            p.queue.borrow_mut().push_back(Item::Connection(connection));
            p.record.given += 1;
            p.nudge(self.now, &mut self.random);
        } else {
            p.is_stuck();
            self.probe(id, false);
            self.count("queue full");
            self.note(|| format!("      the queue of {id} is full"));
        }
        self.tick_soon();
        taken
    }

    fn pick(&mut self) -> Option<usize> {
        let (doors, processes) = (&self.desk.doors, &self.processes);
        let load = |slot: usize| load_of(doors[slot], processes);
        dispatch::pick(self.desk.policy, &mut self.desk.cursor, doors.len(), load)
    }

    /// A few clients have all connections.
    fn pick_for(&self, connection: u32, shed_by: Option<u32>) -> Option<usize> {
        if let Some(id) = shed_by {
            return self.pick_beside(id);
        }
        let is_asked = matches!(self.desk.policy, Dispatch::SourceHash);
        let has_room = |slot: usize| load_of(self.desk.doors[slot], &self.processes).is_some();
        is_asked.then(|| dispatch::pick_for(u64::from(connection % 7), self.desk.doors.len(), has_room))?
    }

    pub fn has_room(&self) -> bool {
        self.desk.doors.iter().any(|&door| load_of(door, &self.processes).is_some())
    }

    pub fn waits_for_room(&self) -> bool {
        let paused = (0..self.desk.listeners.len()).any(|index| self.is_paused(index));
        self.desk.in_hand.is_some() || self.has_returns() || paused
    }

    pub fn is_paused(&self, index: usize) -> bool {
        let l = &self.desk.listeners[index];
        let rests = self.now < self.desk.accept_at || self.machine.life.is_booting() || l.emptied;
        !rests && !l.watched
    }

    fn rest_from(&mut self, index: usize) {
        self.desk.listeners[index].watched = false;
        self.rest();
    }

    fn rest(&mut self) {
        self.count("accepting rests");
        self.desk.accept_at = self.now + EXHAUSTED_REST;
        self.arm(self.desk.accept_at);
    }

    pub fn look_whether_empty(&mut self) {
        let all = self.desk.listeners.iter().all(|l| l.emptied);
        if self.desk.emptying && all && self.desk.in_hand.is_none() && self.desk.returns.is_empty() {
            self.desk.emptying = false;
            self.happened(Input::Emptied);
        }
    }

    pub fn close_listeners(&mut self) {
        self.desk.listeners.clear();
        self.desk.unanswered += u32::from(self.desk.in_hand.take().is_some());
        for source in std::mem::take(&mut self.desk.returns) {
            let queue = match source {
                Return::Orphan { queue, id } if self.get(id).is_none() => queue,
                Return::Left(back) => back,
                Return::Orphan { .. } | Return::Living { .. } => continue,
            };
            let is_connection = |item: &Item| matches!(item, Item::Connection(_));
            self.desk.unanswered += queue.borrow_mut().drain(..).filter(is_connection).count() as u32;
        }
    }
}

fn load_of(door: Option<u32>, processes: &[Process]) -> Option<u32> {
    processes.iter().find(|p| Some(p.id) == door)?.load(MAX_QUEUED)
}
