//! Where each stream is, and what has happened to it: the truth beside the counts of the workers and of the pool, and the invariants of
//! streams that are handed over.

use super::mutation::Mutation;
use super::process::{Item, Notice, Process};
use super::world::{TICK, World};
use crate::handoff::{Handover, Origin};
use crate::ids::WorkerId;
use crate::master::pool::Return;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;

/// The time within which a worker that can take back a stream does (milliseconds).
const TAKEN_BACK_WITHIN: u64 = 1500;

/// A stream.
#[derive(Clone, Copy, Debug, Default)]
struct Track {
    until: u64,
    /// While it is between two workers: the one that has given it away.
    giver: Option<WorkerId>,
    /// The one that it is for, if the handler has named it and the master has not given it to anyone yet.
    goal: Option<WorkerId>,
    /// The one that has refused it last, since it was given away.
    refused_by: Option<WorkerId>,
    /// It has come back to a worker that drains.
    came_home: bool,
}

/// A stream was put into the queue of a worker.
#[derive(Clone, Copy, Debug)]
struct Put {
    connection: u32,
    to: WorkerId,
    stream: Handover,
    track: Track,
}

/// A stream that was reset: by which worker, or else the master; and its giver.
type Lost = (u32, Option<WorkerId>, Option<WorkerId>);

/// All streams.
#[derive(Default)]
pub struct Tracks {
    pub mutation: Option<Mutation>,
    all: RefCell<BTreeMap<u32, Track>>,
    /// Those that were put into queues in this turn.
    put: RefCell<Vec<Put>>,
    /// Streams that a worker or the master has reset, and their givers.
    lost: RefCell<Vec<Lost>>,
    /// By giver and worker: those that have died with a worker, and of which the pool does not know yet.
    died: RefCell<Vec<(WorkerId, WorkerId)>>,
    /// What must not be.
    faults: RefCell<Vec<String>>,
    /// Streams that the master has reset.
    pub resets: RefCell<u64>,
}

impl fmt::Debug for Tracks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("..")
    }
}

impl Tracks {
    pub fn new(mutation: Option<Mutation>) -> Self {
        Self { mutation, ..Self::default() }
    }

    fn change(&self, connection: u32, change: impl FnOnce(&mut Track)) {
        change(self.all.borrow_mut().entry(connection).or_default());
    }

    fn get(&self, connection: u32) -> Track {
        self.all.borrow().get(&connection).copied().unwrap_or_default()
    }

    pub fn begin(&self, connection: u32, until: u64) {
        self.change(connection, |track| track.until = until);
    }

    /// True if this worker has given it away.
    pub fn is_of(&self, connection: u32, worker: WorkerId) -> bool {
        self.get(connection).giver == Some(worker)
    }

    pub fn given_away(&self, connection: u32, giver: WorkerId, goal: Option<WorkerId>, drains: bool) {
        self.change(connection, |track| {
            if std::mem::take(&mut track.came_home) && drains {
                let fault =
                    format!("stream {connection} came back to worker {giver}, and is given away again");
                self.faults.borrow_mut().push(fault);
            }
            (track.giver, track.goal, track.refused_by) = (Some(giver), goal, None);
        });
    }

    pub fn came_home(&self, connection: u32) {
        self.change(connection, |track| track.came_home = true);
    }

    /// A worker serves it. Returns when it ends.
    pub fn taken(&self, connection: u32) -> u64 {
        let until = self.get(connection).until;
        self.change(connection, |track| *track = Track { until, ..Track::default() });
        until
    }

    pub fn refused(&self, connection: u32, by: WorkerId) {
        self.change(connection, |track| track.refused_by = Some(by));
    }

    /// A worker has reset it.
    pub fn lost(&self, connection: u32, by: WorkerId) {
        let giver = self.get(connection).giver;
        self.lost.borrow_mut().push((connection, Some(by), giver));
    }

    /// The master has reset it.
    pub fn reset(&self, connection: u32) {
        *self.resets.borrow_mut() += 1;
        let giver = self.get(connection).giver;
        self.lost.borrow_mut().push((connection, None, giver));
    }

    /// The master has closed a connection.
    pub fn closed(&self, connection: u32) {
        if self.get(connection).giver.is_some() {
            self.faults
                .borrow_mut()
                .push(format!("stream {connection} is closed, and its client is not told"));
        }
    }

    pub fn died(&self, giver: WorkerId, with: WorkerId) {
        self.died.borrow_mut().push((giver, with));
    }

    /// The master puts it into the queue of a worker.
    pub fn put(&self, connection: u32, to: WorkerId, origin: Origin) {
        let Some(stream) = origin.stream else { return };
        let track = self.get(connection);
        self.put.borrow_mut().push(Put { connection, to, stream, track });
        self.change(connection, |track| track.goal = None);
    }

    /// True if the master does not choose the worker by its connections.
    pub fn is_directed(&self, connection: u32, origin: Origin) -> bool {
        origin.stream.is_some_and(|stream| stream.is_refused || self.get(connection).goal.is_some())
    }

    /// True if a stream that was refused went back to this worker in this turn.
    pub fn sent_home(&self, to: WorkerId) -> bool {
        self.put.borrow().iter().any(|put| put.to == to && put.stream.is_refused)
    }
}

/// Streams that are under way: by giver, and by giver and taker.
#[derive(Default)]
struct UnderWay {
    by_giver: BTreeMap<WorkerId, u32>,
    by_pair: BTreeMap<(WorkerId, WorkerId), u32>,
}

impl UnderWay {
    fn add(&mut self, giver: Option<WorkerId>, taker: Option<WorkerId>, count: u32) {
        let Some(giver) = giver.filter(|_| count > 0) else { return };
        *self.by_giver.entry(giver).or_default() += count;
        if let Some(taker) = taker {
            *self.by_pair.entry((giver, taker)).or_default() += count;
        }
    }

    /// One that the master has put into the queue of a worker.
    fn put(&mut self, origin: Origin, taker: WorkerId) {
        let Some(stream) = origin.stream else { return };
        self.add(stream.giver, (!stream.is_refused).then_some(taker), 1);
    }

    /// One that a worker has given to the master.
    fn back(&mut self, origin: Origin, owner: WorkerId) {
        let Some(stream) = origin.stream else { return };
        match stream.giver {
            Some(giver) => self.add(Some(giver), Some(owner), 1),
            None => self.add(Some(owner), None, 1),
        }
    }
}

impl World {
    fn under_way(&self) -> UnderWay {
        let mut all = UnderWay::default();
        let origins = |queue: &super::model::Messages| -> Vec<Origin> {
            queue.borrow().iter().filter_map(|item: &Item| item.origin()).collect()
        };
        for p in &self.processes {
            origins(&p.queue).into_iter().for_each(|origin| all.put(origin, p.id));
            p.rest.iter().for_each(|(_, origin)| all.put(*origin, p.id));
            origins(&p.back).into_iter().for_each(|origin| all.back(origin, p.id));
            for (_, origin) in p.moves.leaving.iter().filter(|(_, o)| o.stream.is_some_and(|s| s.is_refused))
            {
                all.back(*origin, p.id);
            }
            p.moves.taken.iter().for_each(|&(giver, count)| all.add(Some(giver), Some(p.id), count));
            for notice in &p.outbox {
                if let Notice::TookOver { giver, count } = *notice {
                    all.add(Some(giver), Some(p.id), count);
                }
            }
            all.add(Some(p.id), None, p.moves.settled);
        }
        for source in &self.pool.returns {
            if let Return::OfDeadWorker(id, queue) = source {
                origins(&queue.to_worker).into_iter().for_each(|origin| all.put(origin, *id));
                origins(&queue.back).into_iter().for_each(|origin| all.back(origin, *id));
            }
        }
        for unplaced in self.pool.parked.iter().chain(&self.pool.streams.directed) {
            all.add(unplaced.origin.stream.and_then(|stream| stream.giver), None, 1);
        }
        self.pool.streams.settled.iter().for_each(|&(giver, count)| all.add(Some(giver), None, count));
        for &(giver, with) in &*self.shared.tracks.died.borrow() {
            all.add(Some(giver), Some(with), 1);
        }
        all
    }

    fn is_known(&self, id: WorkerId) -> bool {
        let is_dead = |r: &Return<_>| matches!(r, Return::OfDeadWorker(dead, _) if *dead == id);
        self.pool.workers.get(id).is_some() || self.pool.returns.iter().any(is_dead)
    }

    fn lives(&self, id: Option<WorkerId>) -> bool {
        id.is_some_and(|id| self.pool.workers.get(id).is_some())
    }

    /// A worker has ended, and nobody has killed it, nor was its time over: nothing of it can come back.
    pub fn check_giver_end(&mut self, i: usize) {
        let (id, left) = (self.processes[i].id, self.processes[i].moves.leaving.len());
        let open = self.under_way().by_giver.get(&id).copied().unwrap_or(0);
        self.must(open == 0 && left == 0, || {
            format!("worker {id} ends, and {open} of its streams are under way")
        });
    }

    /// After each turn.
    pub fn check_streams(&mut self) {
        let tracks = std::rc::Rc::clone(&self.shared.tracks);
        let known = |(_, with): &(WorkerId, WorkerId)| self.is_known(*with);
        tracks.died.borrow_mut().retain(known);
        let faults = tracks.faults.take();
        if let Some(fault) = faults.into_iter().next() {
            self.must(false, || fault);
        }
        self.check_put();
        for (connection, by, giver) in tracks.lost.take() {
            let lives = self.lives(giver) && giver != by;
            self.must(!lives, || {
                format!("stream {connection} is reset by {by:?}, and its giver {giver:?} lives")
            });
            self.count(if by.is_some() { "stream refused by all" } else { "stream left at a stop" });
        }
        let (resets, lost) = (*tracks.resets.borrow(), self.pool.streams.lost);
        self.must(resets == lost, || format!("{resets} streams are reset, {lost} counted"));
        self.check_under_way();
        let waits = !self.pool.streams.directed.is_empty();
        let (due, now) = (self.pool.due().as_millis(), self.now);
        self.must(!waits || due <= now + TICK || self.pool.has_more, || {
            "a stream waits for its worker, and no check is planned".into()
        });
        for i in 0..self.processes.len() {
            self.check_takes_back(i);
        }
    }

    fn check_under_way(&mut self) {
        let all = self.under_way();
        let mut pairs = BTreeMap::new();
        for t in self.pool.streams.transits.iter().filter(|t| t.count > 0) {
            *pairs.entry((t.giver, t.taker)).or_default() += t.count;
        }
        if pairs != all.by_pair {
            let real = all.by_pair;
            return self.must(false, || format!("{pairs:?} are counted as under way, {real:?} are"));
        }
        let differs = |p: &&Process| {
            p.ended.is_none() && p.moves.unsettled != all.by_giver.get(&p.id).copied().unwrap_or(0)
        };
        if let Some(p) = self.processes.iter().find(differs) {
            let (id, counted) = (p.id, p.moves.unsettled);
            let real = all.by_giver.get(&id).copied().unwrap_or(0);
            self.must(false, || format!("worker {id} waits for {counted} streams, {real} are under way"));
        }
    }

    fn check_put(&mut self) {
        for Put { connection, to, stream, track } in self.shared.tracks.put.take() {
            let Track { giver, goal, refused_by, .. } = track;
            let lives = self.lives(giver);
            let what = || {
                format!("stream {connection} of {giver:?}, refused by {refused_by:?}, goes to worker {to}")
            };
            self.count(match (refused_by, stream.is_refused) {
                (Some(_), false) => "stream offered to another",
                (_, true) => "stream sent home",
                (None, false) => "stream handed over",
            });
            if lives {
                self.must(refused_by.is_none() || Some(to) == giver, || {
                    format!("{}, and its giver lives", what())
                });
                self.must(stream.giver == giver, || format!("{} as that of {:?}", what(), stream.giver));
                self.must(
                    goal.is_none_or(|goal| to == goal || stream.is_refused && Some(to) == giver),
                    || format!("{}, and is for {goal:?}", what()),
                );
            } else {
                let offered = refused_by.is_none() || stream.giver.is_none();
                self.must(offered, || format!("{}, which may refuse it without end", what()));
            }
        }
    }

    /// A worker that drains and runs takes back what is in its queue.
    fn check_takes_back(&mut self, i: usize) {
        let now = self.now;
        let p = &mut self.processes[i];
        let mine = |item: &Item| item.origin().and_then(|o| o.stream).is_some_and(|s| s.is_refused);
        let waits = p.draining.is_some() && p.takes_back(now) && p.queue.borrow().iter().any(mine);
        let progress = p.progress();
        let before = p.seen.home.filter(|(then, _)| *then == progress);
        p.seen.home = waits.then(|| before.unwrap_or((progress, now)));
        let (id, since) = (p.id, p.seen.home);
        let long = since.is_some_and(|(_, since)| now > since + TAKEN_BACK_WITHIN);
        self.must(!long, || format!("worker {id} does not take back what was refused"));
    }

    /// When the master sleeps: what a worker has refused does not wait for room.
    pub fn check_refused(&mut self) {
        if self.pool.has_shortage() || self.is_over() {
            return;
        }
        let waits = |queue: &super::model::Messages| {
            let refused = |item: &Item| item.origin().and_then(|o| o.stream).filter(|s| s.is_refused);
            queue.borrow().iter().filter_map(refused).find_map(|s| s.giver.filter(|g| self.lives(Some(*g))))
        };
        let found = self
            .processes
            .iter()
            .filter(|p| p.ended.is_none())
            .find_map(|p| waits(&p.back).map(|g| (p.id, g)));
        if let Some((id, giver)) = found {
            self.must(false, || {
                format!("worker {id} has refused a stream, and its giver {giver} does not get it")
            });
        }
    }

    /// After the last turn: no stream is left without a word to its client.
    pub fn check_last_streams(&mut self) {
        if self.pool.has_shortage() {
            return;
        }
        let mut left = self.pool.streams.directed.len();
        let is_stream = |origin: Origin| origin.stream.is_some();
        left += self.pool.parked.iter().filter(|c| is_stream(c.origin)).count();
        for source in &self.pool.returns {
            if let Return::OfDeadWorker(_, queue) = source {
                for queue in [&queue.to_worker, &queue.back] {
                    left += queue
                        .borrow()
                        .iter()
                        .filter_map(|item| item.origin())
                        .filter(|o| is_stream(*o))
                        .count();
                }
            }
        }
        self.must(left == 0, || format!("stopped, and {left} streams are not reset"));
    }
}
