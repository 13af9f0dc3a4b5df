//! The pool without processes: the simulator's kernel, in which nothing goes wrong by chance, and workers that the test plays.

use super::*;
use crate::config::Dispatch;
use crate::event::Kind;
use crate::ids::{Generation, ListenerId, Slot};
use crate::master::lifecycle::simulate::model::{Counters, Model, ModelBacklog, ModelQueue, Shared};
use crate::master::lifecycle::simulate::process::{self, Item};
use crate::master::lifecycle::{self, Input, Lifecycle};
use std::rc::Rc;
use std::time::Duration;

/// A pool with one listener, and workers with room for two connections each.
struct Fixture {
    pool: Pool<Model>,
    life: Lifecycle,
    shared: Rc<Shared>,
    workers: Vec<ModelQueue>,
    now: Time,
}

impl Fixture {
    fn new(workers: u32) -> Self {
        let now = Time::from_millis(1000);
        let never = Duration::ZERO;
        let rules = lifecycle::Rules {
            boot_timeout: never,
            drain_timeout: never,
            hang_timeout: never,
            max_age: never,
            surge: 1,
            max_draining: 4,
            room: 100,
        };
        let mut life = Lifecycle::new(rules, workers as usize);
        life.step(now, Input::Tick, &mut Vec::new());
        (1..=workers).for_each(|id| life.step(now, Input::Ready(WorkerId(id)), &mut Vec::new()));
        let shared = Shared::new(None, None);
        let listeners = vec![ModelBacklog::new(&shared)];
        let pool = Pool::new(Model(shared.clone()), listeners, &Config::default(), now);
        let mut f = Self { pool, life, shared, workers: Vec::new(), now };
        (1..=workers).for_each(|id| f.admit(id, Slot(id - 1), Generation::FIRST));
        f
    }

    /// Another worker is ready.
    fn admit(&mut self, id: u32, slot: Slot, generation: Generation) {
        let queue = ModelQueue {
            id: WorkerId(id),
            to_worker: Rc::default(),
            back: Rc::default(),
            counters: Rc::new(Counters::default()),
            shared: self.shared.clone(),
        };
        self.workers.push(queue.clone());
        let entry = WorkerEntry::new(WorkerId(id), slot, generation, queue.clone(), queue, 0);
        let entry = WorkerEntry { limit: 2, kind: Some(Kind::Request), ..entry };
        self.pool.workers.add(Page(id), entry);
        self.pool.workers.admit(WorkerId(id));
    }

    /// A worker has so many connections, of those that it may have.
    fn has(&mut self, id: u32, connections: u64, limit: u32) {
        let worker = self.pool.workers.get_mut(WorkerId(id)).unwrap();
        (worker.given, worker.limit) = (connections, limit);
        self.workers[id as usize - 1].counters.taken.set(connections);
    }

    /// A worker drains, and hands these back.
    fn hand_back(&mut self, id: u32, connections: std::ops::Range<u32>) {
        self.pool.withdraw(WorkerId(id));
        self.pool.watch_returns(WorkerId(id), &());
        let finished = connections.len() as u64;
        self.workers[id as usize - 1].back.borrow_mut().extend(connections.map(Item::idle));
        self.finish(id, finished);
        self.turn();
    }

    /// Clients connect, and the master runs a turn.
    fn connect(&mut self, clients: u32) {
        self.pool.listeners[0].waiting += clients;
        self.turn();
    }

    fn turn(&mut self) {
        self.pool.begin_turn(self.now);
        for (page, worker) in (1..).map(Page).zip(&self.workers) {
            if !worker.back.borrow().is_empty() {
                self.pool.mark_returns(page, &());
            }
        }
        if self.pool.due() <= self.now {
            self.pool.run_timers(&self.life, &());
        }
        if self.pool.listeners[0].watched && self.pool.listeners[0].waiting > 0 {
            self.pool.accept_from(ListenerId(0), &());
        }
        self.pool.serve_waiting(&self.life, &());
    }

    /// Time passes, in which a check of the workers' health is due.
    fn check(&mut self) {
        self.now = self.now + health::CHECK;
        self.turn();
    }

    /// A worker takes all that is queued for it; returns the connections.
    fn take(&self, id: u32) -> Vec<u32> {
        let worker = &self.workers[id as usize - 1];
        let add = |counter: &std::cell::Cell<u64>| counter.set(counter.get() + 1);
        let items = std::mem::take(&mut *worker.to_worker.borrow_mut());
        let connections = items.into_iter().filter_map(|item| match item {
            Item::Connection(connection, _) | Item::Another(connection, _) => {
                add(&worker.counters.taken);
                Some(connection)
            }
            Item::Probe => {
                add(&worker.counters.probed);
                None
            }
        });
        connections.collect()
    }

    /// A worker has finished connections.
    fn finish(&self, id: u32, connections: u64) {
        let finished = &self.workers[id as usize - 1].counters.finished;
        finished.set(finished.get() + connections);
    }

    fn is_watched(&self) -> bool {
        self.pool.listeners[0].watched
    }
}

#[test]
fn without_room_the_listener_is_paused_until_a_worker_makes_room() {
    let mut f = Fixture::new(2);
    f.connect(6);
    assert_eq!((f.take(1), f.take(2)), (vec![0, 2], vec![1, 3]));
    assert_eq!(f.pool.listeners[0].waiting, 2);
    assert!(!f.is_watched() && f.shared.waiting.get(), "the worker that makes room wakes the master");
    f.finish(2, 2);
    f.turn();
    assert_eq!((f.take(1), f.take(2)), (vec![], vec![4, 5]));
    f.finish(1, 1);
    f.turn();
    assert!(f.is_watched() && !f.shared.waiting.get());
}

#[test]
fn without_room_the_worker_with_most_idle_connections_makes_room() {
    let mut f = Fixture::new(2);
    f.pool.config.dispatch = Dispatch::LeastConnections;
    f.connect(5);
    assert_eq!((f.take(1), f.take(2)), (vec![0, 2], vec![1, 3]));
    assert!(!f.is_watched());
    f.workers[0].counters.idle.set(1);
    f.workers[1].counters.idle.set(2);
    f.turn();
    assert_eq!((f.take(1), f.take(2)), (vec![], vec![4]));
    assert!(f.is_watched());
    // It has closed one for it, the other one is in a request, and a place becomes free elsewhere.
    f.workers[1].counters.idle.set(0);
    f.finish(2, 1);
    f.finish(1, 1);
    f.connect(3);
    f.turn();
    f.turn();
    assert_eq!((f.take(1), f.take(2)), (vec![5, 6], vec![]));
    assert_eq!(f.pool.listeners[0].waiting, 1, "no more than are idle");
}

#[test]
fn a_worker_that_writes_nonsense_gets_at_most_twice_its_limit() {
    let mut f = Fixture::new(1);
    f.workers[0].counters.idle.set(u64::MAX);
    f.connect(9);
    assert_eq!(f.take(1).len(), 4);
}

#[test]
fn the_queue_of_a_dead_worker_goes_to_another() {
    let mut f = Fixture::new(2);
    f.connect(2);
    assert_eq!(f.take(2), [1]);
    let removed = f.pool.remove(Page(1)).unwrap();
    assert_eq!((removed.queued, removed.lost, removed.was_ready), (1, 0, true));
    f.turn();
    assert_eq!(f.take(2), [0]);
    f.finish(2, 1);
    f.turn();
    assert!(f.pool.returns.is_empty(), "found empty, and closed");
}

#[test]
fn connections_that_are_handed_back_go_to_another_worker_when_it_has_room() {
    let mut f = Fixture::new(2);
    f.connect(3);
    assert_eq!((f.take(1), f.take(2)), (vec![0, 2], vec![1]));
    f.pool.watch_returns(WorkerId(1), &());
    f.pool.withdraw(WorkerId(1));
    f.workers[0].back.borrow_mut().extend([0, 2].map(Item::idle));
    f.finish(1, 2);
    f.turn();
    assert_eq!(f.take(2), [0]);
    assert_eq!(f.workers[0].back.borrow().len(), 1, "without room it stays in its queue");
    f.finish(2, 1);
    f.turn();
    assert_eq!(f.take(2), [2]);
}

#[test]
fn a_connection_that_a_worker_took_as_it_died_is_lost_and_not_kept() {
    let mut f = Fixture::new(1);
    f.connect(2);
    f.workers[0].to_worker.borrow_mut().pop_front();
    let removed = f.pool.remove(Page(1)).unwrap();
    assert_eq!((removed.queued, removed.lost), (1, 1));
}

#[test]
fn a_stuck_worker_gets_nothing_until_it_takes_the_probe() {
    let mut f = Fixture::new(2);
    f.connect(2);
    assert_eq!(f.take(2), [1]);
    f.check();
    f.check();
    assert!(f.pool.workers.get(WorkerId(1)).unwrap().stuck);
    assert_eq!(f.take(2), [0], "reclaimed");
    f.finish(2, 2);
    f.connect(2);
    assert_eq!(f.take(2), [2, 3]);
    assert!(f.take(1).is_empty(), "only the probe");
    f.check();
    f.connect(1);
    assert_eq!(f.take(1), [4]);
}

#[test]
fn a_connection_that_no_queue_takes_is_parked_and_comes_first() {
    let mut f = Fixture::new(1);
    // More than the queue holds, though not more than the worker may have.
    f.pool.workers.get_mut(WorkerId(1)).unwrap().limit = 100;
    f.connect(9);
    let queued = f.workers[0].to_worker.borrow().len() as u32;
    assert_eq!(f.pool.parked.iter().map(|c| c.connection).collect::<Vec<_>>(), [queued]);
    assert_eq!(f.take(1), (0..queued).collect::<Vec<_>>());
    f.turn();
    assert_eq!(f.take(1)[0], queued);
    assert!(f.pool.parked.is_empty());
}

/// The numbers of connections in the messages to a worker that takes them.
fn messages(f: &mut Fixture, clients: u32) -> Vec<usize> {
    f.pool.listeners[0].watched = false;
    f.connect(clients);
    let mut messages = Vec::new();
    for item in f.workers[1].to_worker.borrow().iter() {
        match item {
            Item::Connection(..) => messages.push(1),
            Item::Another(..) => *messages.last_mut().unwrap() += 1,
            Item::Probe => {}
        }
    }
    let taken = f.take(2).len() as u64;
    f.finish(2, taken);
    messages
}

#[test]
fn for_a_while_after_a_worker_was_stuck_or_lost_connections_each_goes_alone() {
    let stuck = |f: &mut Fixture| {
        f.connect(1);
        f.check();
        f.check();
        assert!(f.pool.workers.get(WorkerId(1)).unwrap().stuck);
    };
    let lost = |f: &mut Fixture| {
        f.connect(1);
        f.take(1);
        assert_eq!(f.pool.remove(Page(1)).unwrap().lost, 1);
    };
    let ended = |f: &mut Fixture| assert_eq!(f.pool.remove(Page(1)).unwrap().lost, 0);
    type Fault<'a> = &'a dyn Fn(&mut Fixture);
    let stuck = (&stuck as Fault, Some(AFTER_A_HALT));
    for (fault, lasts) in [stuck, (&lost, Some(AFTER_A_LOSS)), (&ended, None)] {
        let mut f = Fixture::new(2);
        f.pool.workers.get_mut(WorkerId(2)).unwrap().limit = 100;
        fault(&mut f);
        let reclaimed = f.take(2).len() as u64;
        f.finish(2, reclaimed);
        // Of a worker that is stuck, so that it stays out.
        f.pool.workers.withdraw(WorkerId(1));
        if let Some(lasts) = lasts {
            let begun = f.now;
            assert_eq!(messages(&mut f, 4), [1; 4]);
            f.now = begun + (lasts - Duration::from_millis(1));
            assert_eq!(messages(&mut f, 4), [1; 4]);
            f.now = begun + lasts;
        }
        assert_eq!(messages(&mut f, 4), [4]);
    }
}

#[test]
fn if_no_queue_takes_a_connection_more_are_taken_back_which_may_be_why() {
    let mut f = Fixture::new(2);
    for worker in &f.workers {
        f.pool.workers.get_mut(worker.id).unwrap().limit = 100;
    }
    f.workers[0].to_worker.borrow_mut().extend((0..6).map(Item::idle));
    f.pool.remove(Page(1)).unwrap();
    // As if the kernel counted too many descriptors in flight.
    f.workers[1].to_worker.borrow_mut().extend([Item::Probe; process::QUEUE_ROOM]);
    f.turn();
    assert_eq!(f.pool.parked.len(), 6);
    f.take(2);
    f.turn();
    assert_eq!((f.take(2).len(), f.pool.parked.len()), (6, 0));
}

#[test]
fn what_a_full_queue_refuses_is_given_to_others_after_their_own() {
    let mut f = Fixture::new(2);
    // One has room and a full queue, the other one room for three, and an idle connection that it closes for a fourth.
    f.pool.workers.get_mut(WorkerId(1)).unwrap().limit = 100;
    f.workers[0].to_worker.borrow_mut().extend([Item::Probe; process::QUEUE_ROOM]);
    let other = f.pool.workers.get_mut(WorkerId(2)).unwrap();
    (other.limit, other.given) = (5, 2);
    f.workers[1].counters.taken.set(2);
    f.workers[1].counters.idle.set(1);
    f.connect(6);
    // A message of several must not come when it has room for some of them only.
    let new = Origin::listener(ListenerId(0));
    let expected =
        [Item::Connection(1, new), Item::Another(3, new), Item::Another(5, new), Item::Connection(0, new)];
    assert_eq!(*f.workers[1].to_worker.borrow(), expected);
    assert_eq!(f.pool.parked.iter().map(|c| c.connection).collect::<Vec<_>>(), [2, 4]);
}

#[test]
fn what_comes_back_goes_to_the_worker_with_the_fewest_connections() {
    let mut f = Fixture::new(4);
    for (id, has) in [(1, 9), (2, 2), (3, 0), (4, 3)] {
        f.has(id, has, 100);
    }
    f.hand_back(1, 0..9);
    assert_eq!([2, 3, 4].map(|id| f.take(id).len()), [3, 5, 1]);
    // It was nobody's turn.
    (0..3).for_each(|_| f.connect(1));
    assert_eq!([2, 3, 4].map(|id| f.take(id).len()), [1, 1, 1]);
}

#[test]
fn what_comes_back_goes_to_the_generation_that_stays_if_that_has_room() {
    let mut f = Fixture::new(3);
    let step = |f: &mut Fixture, input| f.life.step(f.now, input, &mut Vec::new());
    step(&mut f, Input::Reload);
    step(&mut f, Input::Prepared(Ok(())));
    for (id, has) in [(1, 5), (2, 0), (3, 4)] {
        f.has(id, has, 100);
    }
    let next = Generation::FIRST.next();
    assert_eq!(f.life.destination(), Generation::FIRST, "before the first new worker is ready");
    step(&mut f, Input::Ready(WorkerId(4)));
    assert_eq!(f.life.destination(), next);
    f.admit(4, Slot(0), next);
    f.has(4, 1, 3);
    f.hand_back(1, 0..5);
    assert_eq!([2, 3, 4].map(|id| f.take(id).len()), [3, 0, 2], "the rest to others, as nobody may wait");
    // Rolled back, it is the other way round.
    step(&mut f, Input::Leaving(WorkerId(4)));
    assert_eq!(f.life.destination(), Generation::FIRST);
}

#[test]
fn what_comes_back_waits_for_a_worker_that_stays_and_has_only_to_take_what_is_queued() {
    let mut f = Fixture::new(3);
    let step = |f: &mut Fixture, input| f.life.step(f.now, input, &mut Vec::new());
    for input in [Input::Reload, Input::Prepared(Ok(())), Input::Ready(WorkerId(4))] {
        step(&mut f, input);
    }
    f.admit(4, Slot(0), Generation::FIRST.next());
    (1..=4).for_each(|id| f.has(id, if id == 1 { 10 } else { 0 }, 100));
    f.pool.max_queued = 4;
    f.hand_back(1, 0..10);
    assert_eq!([2, 3, 4].map(|id| f.take(id).len()), [0, 0, 4]);
    assert!(f.shared.waiting.get(), "it wakes the master");
    f.turn();
    assert_eq!([2, 3, 4].map(|id| f.take(id).len()), [0, 0, 4]);
    f.turn();
    // Not for one that takes nothing.
    f.pool.workers.get_mut(WorkerId(4)).unwrap().mark_stuck();
    f.has(1, 3, 100);
    f.hand_back(1, 10..13);
    assert_eq!([2, 3].map(|id| f.take(id).len()), [2, 1]);
}

#[test]
fn a_client_that_has_a_worker_of_its_own_comes_back_to_that() {
    let mut f = Fixture::new(3);
    f.pool.config.dispatch = Dispatch::SourceHash;
    for (id, has) in [(1, 9), (2, 50), (3, 60)] {
        f.has(id, has, 100);
    }
    let own = |connection| dispatch::pick_for(Model::client_of(&connection).unwrap(), 3, |_| true).unwrap();
    f.hand_back(1, 0..6);
    for (slot, id) in [(1, 2), (2, 3)] {
        let others = f.take(id);
        assert!(others.iter().all(|&connection| matches!(own(connection), 0) || own(connection) == slot));
    }
    f.pool.workers.admit(WorkerId(1));
    f.hand_back(2, 6..12);
    assert!(f.take(1).iter().all(|&connection| own(connection) != 2));
    assert!(f.take(3).iter().all(|&connection| own(connection) != 0));
}

#[test]
fn a_worker_that_is_too_large_from_the_start_is_replaced_at_growing_intervals() {
    let mut f = Fixture::new(1);
    f.pool.config.max_memory = 100;
    f.workers[0].counters.memory.set(Some(200));
    f.pool.admit(WorkerId(1), &());
    let begun = f.now;
    let mut replaced = Vec::new();
    while f.now - begun < Duration::from_secs(5 * 3600) {
        f.now = f.now + Duration::from_secs(1);
        f.pool.begin_turn(f.now);
        f.pool.memory_at = f.now;
        let inputs = f.pool.run_timers(&f.life, &()).inputs;
        if inputs.iter().any(|input| matches!(input, Input::Worn(WorkerId(1)))) {
            replaced.push((f.now - begun).as_secs());
        }
    }
    let intervals: Vec<_> = replaced.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert_eq!(replaced[0], 60);
    assert_eq!(intervals, [120, 240, 480, 960, 1920, 3600, 3600, 3600]);
}
