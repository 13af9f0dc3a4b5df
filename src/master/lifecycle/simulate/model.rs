//! A model of the kernel: the queues, backlogs and counters that the master's own pool works on.

use super::handover::put_message;
use super::mutation::Mutation;
use super::process::{Item, QUEUE_ROOM, take_rest};
use super::random::Random;
use super::tracks::Tracks;
use crate::handoff::{self, Given, Message, Taken};
use crate::ids::{Page, WorkerId};
use crate::master::pool::{Backlog, Link, Queue, System, Unplaced};
use crate::scoreboard::Word;
use crate::sys::errno;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::fmt::Arguments;
use std::io;
use std::rc::Rc;

/// Messages in a socket: they stay as long as a copy of the descriptor does.
pub type Messages = Rc<RefCell<VecDeque<Item>>>;

/// The state that the kernel, the workers and the master share.
pub struct Shared {
    pub now: Cell<u64>,
    /// `None` if nothing goes wrong by chance.
    random: RefCell<Option<Random>>,
    pub mutation: Option<Mutation>,
    /// accept4 and recvmsg find no descriptor until then.
    pub shortage_until: Cell<u64>,
    /// True if the master has announced that it waits for room.
    pub waiting: Cell<bool>,
    pub accepted: Cell<u32>,
    /// Connections that were dead in the backlog.
    pub dead: Cell<u32>,
    pub counts: RefCell<BTreeMap<&'static str, u64>>,
    /// Connections that the master has closed because a stop left no worker for them.
    pub closed: Cell<u32>,
    /// Workers that have made room which the master has not seen yet.
    pub unseen: RefCell<Vec<Rc<Counters>>>,
    /// By connection: the worker that has handed it back while it was admitted.
    pub shed_by: RefCell<BTreeMap<u32, WorkerId>>,
    /// Connections that went back to the worker that had shed them.
    pub shed_to_itself: RefCell<Vec<WorkerId>>,
    /// Connections that came back and were given to a worker in this turn.
    pub returned: RefCell<Vec<Returned>>,
    /// Workers of which connections were reclaimed in this turn.
    pub reclaimed: RefCell<Vec<WorkerId>>,
    /// Streams.
    pub tracks: Rc<Tracks>,
}

/// A connection that came back was given to a worker.
pub struct Returned {
    pub to: WorkerId,
    /// The connections that this worker had before.
    pub load: u64,
    pub shed_by: Option<WorkerId>,
}

/// The counters of a worker's page, and what the master's side of its link knows of it.
#[derive(Debug, Default)]
pub struct Counters {
    /// Connections given to it and not reclaimed.
    pub given: Cell<u64>,
    pub taken: Cell<u64>,
    pub probed: Cell<u64>,
    pub finished: Cell<u64>,
    /// Part of `finished` that is on the page only when the master looks for the second time.
    pub unseen: Cell<u64>,
    /// Idle connections that the worker would close to make room.
    pub idle: Cell<u64>,
    pub busy_since: Cell<u64>,
    /// The memory of the worker, if that is known.
    pub memory: Cell<Option<u64>>,
    /// Something came into its queue.
    pub nudged: Cell<bool>,
    pub admitted: Cell<bool>,
}

/// The system that the pool runs on.
pub struct Model(pub Rc<Shared>);

/// Both queues of a worker.
#[derive(Clone)]
pub struct ModelQueue {
    pub id: WorkerId,
    pub to_worker: Messages,
    pub back: Messages,
    pub counters: Rc<Counters>,
    pub shared: Rc<Shared>,
}

/// A listener.
pub struct ModelBacklog {
    pub waiting: u32,
    pub watched: bool,
    /// The poll does report it.
    pub reported: bool,
    shared: Rc<Shared>,
}

impl Shared {
    pub fn new(random: Option<Random>, mutation: Option<Mutation>) -> Rc<Self> {
        Rc::new(Self {
            now: Cell::new(0),
            random: RefCell::new(random),
            mutation,
            shortage_until: Cell::new(0),
            waiting: Cell::new(false),
            accepted: Cell::new(0),
            closed: Cell::default(),
            dead: Cell::new(0),
            counts: RefCell::default(),
            unseen: RefCell::default(),
            shed_by: RefCell::default(),
            shed_to_itself: RefCell::default(),
            returned: RefCell::default(),
            reclaimed: RefCell::default(),
            tracks: Rc::new(Tracks::new(mutation)),
        })
    }

    pub fn count(&self, what: &'static str) {
        *self.counts.borrow_mut().entry(what).or_default() += 1;
    }

    pub fn is_short(&self) -> bool {
        self.now.get() < self.shortage_until.get()
    }

    fn is(&self, mutation: Mutation) -> bool {
        self.mutation == Some(mutation)
    }

    fn chance(&self, percent: u64) -> bool {
        self.random.borrow_mut().as_mut().is_some_and(|random| random.chance(percent))
    }

    /// Makes connections that workers have finished visible on their pages.
    pub fn publish(&self) {
        for counters in self.unseen.take() {
            counters.finished.set(counters.finished.get() + counters.unseen.take());
        }
    }
}

impl System for Model {
    type Poll = ();
    type Connection = u32;
    type Queue = ModelQueue;
    type Link = ModelQueue;
    type Backlog = ModelBacklog;

    fn make_room(&mut self) -> bool {
        !(self.0.is_short() && self.0.chance(50))
    }

    fn refill_reserve(&mut self) {}

    fn set_waiting(&mut self, waits: bool) {
        // A worker that made room just before this has not seen the announcement, and does not wake the master.
        self.0.publish();
        self.0.waiting.set(waits && !self.0.is(Mutation::WaitingForgotten));
    }

    fn start_final_intake(&mut self) {}

    /// A few clients have all connections.
    fn client_of(connection: &u32) -> Option<u64> {
        Some(u64::from(connection % 7))
    }

    fn close(&self, connection: u32) {
        self.0.tracks.closed(connection);
        self.0.closed.set(self.0.closed.get() + 1);
        self.0.count("connection closed at a stop");
    }

    fn reset(&self, connection: u32) {
        self.0.tracks.reset(connection);
        self.0.closed.set(self.0.closed.get() + 1);
    }

    fn log(&self, _: Arguments<'_>) {}
}

impl Queue<Model> for ModelQueue {
    fn give(&self, connections: &[Unplaced<u32>]) -> io::Result<Given> {
        // The kernel may refuse before the master's own count does, as for descriptors in flight.
        if self.shared.chance(3) || self.to_worker.borrow().len() >= QUEUE_ROOM {
            self.shared.count("queue full");
            return Ok(Given::Full);
        }
        if connections.len() > 1 {
            self.shared.count("message of several connections");
        }
        assert_eq!(handoff::fitting(connections.iter().map(|c| c.origin)), connections.len());
        for Unplaced { connection, origin, came_back, shed_by, .. } in connections {
            let given = self.counters.given.get();
            self.counters.given.set(given + 1);
            let is_directed = self.shared.tracks.is_directed(*connection, *origin);
            self.shared.tracks.put(*connection, self.id, *origin);
            if *came_back && !is_directed {
                let load = given.saturating_sub(self.counters.finished.get());
                let returned = Returned { to: self.id, load, shed_by: *shed_by };
                self.shared.returned.borrow_mut().push(returned);
            }
            if self.shared.shed_by.borrow_mut().remove(connection) == Some(self.id) {
                self.shared.shed_to_itself.borrow_mut().push(self.id);
            }
        }
        put_message(&self.to_worker, connections.iter().map(|c| (c.connection, c.origin)));
        self.counters.nudged.set(true);
        Ok(Given::Done)
    }

    fn reclaim(&self) -> io::Result<Taken<u32>> {
        let before = self.waiting()?;
        let taken = self.taken(&mut self.to_worker.borrow_mut());
        let reclaimed = before - self.waiting()?;
        if reclaimed > 0 {
            self.counters.given.set(self.counters.given.get().saturating_sub(reclaimed));
            self.shared.reclaimed.borrow_mut().push(self.id);
        }
        Ok(taken)
    }

    fn waiting(&self) -> io::Result<u64> {
        let queue = self.to_worker.borrow();
        Ok(queue.iter().filter_map(|item| item.connection()).count() as u64)
    }

    fn take_returned(&self) -> io::Result<Taken<u32>> {
        let mut queue = self.back.borrow_mut();
        if let (Some(Item::Connection(connection, origin)), true) =
            (queue.front(), self.counters.admitted.get())
            && !self.shared.tracks.is_directed(*connection, *origin)
        {
            self.shared.count("connection shed");
            self.shared.shed_by.borrow_mut().insert(*connection, self.id);
        }
        Ok(self.taken(&mut queue))
    }

    fn probe(&self) -> bool {
        let room = self.to_worker.borrow().len() < QUEUE_ROOM;
        if room {
            self.to_worker.borrow_mut().push_back(Item::Probe);
            self.counters.nudged.set(true);
        }
        room
    }

    fn watch(&self, (): &(), _: Page) -> io::Result<()> {
        Ok(())
    }

    fn unwatch(&self, (): &()) {}
}

impl ModelQueue {
    fn taken(&self, queue: &mut VecDeque<Item>) -> Taken<u32> {
        let first = match queue.pop_front() {
            Some(Item::Connection(first, origin) | Item::Another(first, origin)) => (first, origin),
            Some(Item::Probe) => return Taken::Probe,
            None => return Taken::Nothing,
        };
        let rest = take_rest(queue);
        self.shared.count(if rest.is_empty() {
            "connection taken back"
        } else {
            "several connections taken back"
        });
        Taken::Connections(Message::new(std::iter::once(first).chain(rest), 0))
    }
}

impl Link for ModelQueue {
    fn count(&self, word: Word) -> u64 {
        match word {
            Word::Taken => self.counters.taken.get(),
            Word::Probed => self.counters.probed.get(),
            Word::Finished => self.counters.finished.get(),
            Word::BusySince => self.counters.busy_since.get(),
            Word::Idle => self.counters.idle.get(),
            _ => 0,
        }
    }

    fn memory(&self) -> Option<u64> {
        self.counters.memory.get()
    }
}

impl ModelBacklog {
    pub fn new(shared: &Rc<Shared>) -> Self {
        Self { waiting: 0, watched: false, reported: false, shared: Rc::clone(shared) }
    }
}

impl Backlog for ModelBacklog {
    type Poll = ();
    type Connection = u32;

    fn accept(&mut self, with_client: bool) -> io::Result<(u32, Option<u64>)> {
        if self.waiting == 0 {
            return Err(errno::error(errno::EAGAIN));
        }
        if self.shared.is_short() {
            self.shared.count("accept without a descriptor");
            return Err(errno::error(errno::EMFILE));
        }
        self.waiting -= 1;
        if self.shared.chance(3) {
            self.shared.count("dead in the backlog");
            self.shared.dead.set(self.shared.dead.get() + 1);
            return Err(errno::error(errno::OF_ONE_CONNECTION[0]));
        }
        let connection = self.shared.accepted.get();
        self.shared.accepted.set(connection + 1);
        self.shared.count("connection accepted");
        Ok((connection, with_client.then(|| u64::from(connection % 7))))
    }

    fn waiting(&self) -> Option<usize> {
        // Another process may have taken some.
        Some(self.waiting as usize + usize::from(self.shared.chance(5)))
    }

    fn is_watched(&self) -> bool {
        self.watched
    }

    fn is_paused(&self) -> bool {
        !self.watched
    }

    fn resume(&mut self, (): &()) -> io::Result<()> {
        if self.shared.chance(2) {
            self.shared.count("resume refused");
            return Err(errno::error(errno::ENOMEM));
        }
        self.watched = true;
        self.reported = !self.shared.is(Mutation::NeverResumed);
        Ok(())
    }

    fn pause(&mut self, (): &()) -> io::Result<()> {
        self.watched = false;
        self.reported &= self.shared.is(Mutation::NeverPaused);
        Ok(())
    }

    fn stop_intake(&mut self) {}

    fn refuse_clients(&mut self) {}

    fn expects_more(&mut self) -> bool {
        true
    }

    fn takes_datagrams(&self) -> bool {
        false
    }

    fn divide(&mut self, (): &(), _: usize, _: bool, _: impl Fn(usize) -> bool) {}
}
