//! The hot path: accepts a connection, chooses a worker, hands the connection off.
//!
//! Three system calls a connection that comes alone: accept4, sendmsg, close. Nothing is allocated, locked, formatted or logged on the way.
//! A listener is watched level-triggered and gives one connection a turn, so no call is made to find the backlog empty. If connections
//! come one upon the other, it is asked how many wait, and gives that many: a *batch*. A worker is chosen for each as if it came alone;
//! those of a worker go to it in one message, and the master's copies are closed together.
//! A worker has room as long as it has fewer connections than it may have. One that has none can make room if it has idle ones: it
//! closes one for each that it is given.
//! While no worker has room the listener is paused and the clients stay in the backlog; the first worker that makes room wakes
//! the master, which then accepts as many as there is room for and watches again only when it has found the backlog empty.

use super::{Backlog, Given, Pool, Queue, System, Unplaced, broken, dispatch};
use crate::config::Dispatch;
use crate::handoff::{self, Origin};
use crate::ids::ListenerId;
use crate::master::lifecycle::Lifecycle;
use crate::sys::errno;
use std::io;
use std::time::Duration;

/// The pause in accepting when descriptors or memory have run out.
pub(super) const REST: Duration = Duration::from_millis(250);
/// The most connections of a batch: few, so that the first one does not wait for the last.
pub(super) const BATCH: usize = 16;
/// The number of times that asking in vain lengthens the wait until the next question; every second one doubles it.
const MOST_IN_VAIN: u32 = 10;
/// The time after which a stop looks again for connections that the kernel has held until their first bytes come.
const LOOK_AGAIN: Duration = Duration::from_millis(5);
/// The time without another shortage after which it is over, and the next one is logged again.
pub(super) const SHORTAGE_OVER: Duration = Duration::from_secs(1);

/// The result of an attempt to accept.
enum Accepted {
    /// A connection was accepted, and a worker chosen for it.
    One,
    /// No worker has room.
    NoRoom,
    /// The backlog is empty.
    Empty,
    /// The first connection in the backlog was already dead; try the next.
    Failed,
    /// No descriptor or memory is free, or accepting is refused.
    Exhausted(io::Error),
}

impl<S: System> Pool<S> {
    /// Accepts a connection from a listener that the poll has reported.
    pub fn accept_from(&mut self, listener: ListenerId, poll: &S::Poll) {
        let index = listener.index();
        if !self.listeners.get(index).is_some_and(S::Backlog::is_watched) {
            return;
        }
        // Parked connections are older; so are those that workers have returned.
        if !self.parked.is_empty() || self.has_returns() {
            return self.pause(index, poll);
        }
        let most = self.expected(index);
        match self.accept_batch(index, most) {
            Accepted::NoRoom => self.pause(index, poll),
            Accepted::Exhausted(e) => self.rest_from(index, &e, poll),
            _ => {}
        }
    }

    /// The number of connections to accept in this turn.
    fn expected(&mut self, index: usize) -> usize {
        // Alone, a connection is not worth the question: it is asked seldom if the answer is always that one waits.
        let is_busy = self.accepted_at == self.now && self.now >= self.singly_until;
        if !is_busy || self.ask_in > 0 {
            self.ask_in = self.ask_in.saturating_sub(1);
            return 1;
        }
        let waiting = self.listeners[index].waiting().unwrap_or(1).clamp(1, BATCH);
        self.asked_in_vain = if waiting > 1 { 0 } else { (self.asked_in_vain + 1).min(MOST_IN_VAIN) };
        self.ask_in = (1 << (self.asked_in_vain / 2)) - 1;
        waiting
    }

    /// Accepts up to `most` connections, and gives each worker those that it is chosen for. Returns why there were no more.
    fn accept_batch(&mut self, index: usize, most: usize) -> Accepted {
        let mut result = Accepted::NoRoom;
        for _ in 0..most.min(BATCH) {
            // One that has to close idle connections gets new ones singly.
            let of = Some(ListenerId::at(index));
            let slot = if self.batch.is_empty() { self.pick_of(of) } else { self.pick_with_room(of) };
            result = match slot {
                Some(slot) => self.accept_one(index, slot),
                None if self.batch.is_empty() => Accepted::NoRoom,
                None => break,
            };
            if !matches!(result, Accepted::One) {
                break;
            }
        }
        self.give_batch();
        result
    }

    /// Gives workers what waits for room: parked connections, then those taken back from other workers, then the backlogs of
    /// paused listeners. If something is left and no worker has room, publishes that the master waits.
    pub fn serve_waiting(&mut self, lifecycle: &Lifecycle, poll: &S::Poll) {
        self.has_more = false;
        self.destination = lifecycle.destination();
        loop {
            self.place_directed();
            self.place_stray();
            self.place_returns(poll);
            for index in 0..self.listeners.len() {
                if self.is_paused(index, lifecycle) {
                    self.accept_paused(index, poll);
                }
            }
            if self.has_more || !self.waits_for_room(lifecycle) {
                return self.system.set_waiting(false);
            }
            self.system.set_waiting(true);
            // A worker that made room just before this does not wake the master, so the master checks once more.
            if broken!(self, NoSecondLook) || !self.has_room_for_what_waits(lifecycle) {
                return;
            }
        }
    }

    fn place_returns(&mut self, poll: &S::Poll) {
        let some = self.has_returns();
        if self.is_closed {
            return self.close_returns(poll);
        }
        let mut has_descriptors = false;
        for _ in 0..self.per_turn {
            if self.parked.is_empty() && !self.has_returns() {
                break;
            }
            let turn = self.cursor;
            let slot = match self.parked.front().map(|connection| connection.came_back) {
                None => self.pick_for_return(),
                Some(true) => self.pick_at_once(),
                Some(false) => self.pick(),
            };
            let Some(slot) = slot else { break };
            match self.parked.pop_front().or_else(|| self.next_return(&mut has_descriptors, poll)) {
                Some(connection) => {
                    self.place(connection, slot);
                    // The others of its message.
                    self.place_parked();
                    let parked = self.parked.len();
                    self.give_batch();
                    if self.parked.len() > parked {
                        self.take_more(poll);
                        has_descriptors = false;
                    }
                }
                None => self.cursor = turn,
            }
        }
        self.take_refused(poll);
        self.send_waiting_home(poll);
        if some && !self.has_shortage() {
            self.system.refill_reserve();
        }
        self.has_more |= self.has_returns() && self.has_room_for_returns();
    }

    /// Chooses workers for parked connections that fit into the batch.
    fn place_parked(&mut self) {
        while self.now >= self.singly_until
            && (1..BATCH).contains(&self.batch.len())
            && let Some(came_back) = self.parked.front().map(|connection| connection.came_back)
        {
            let turn = self.cursor;
            let slot = if came_back { self.pick_for_rest() } else { self.pick_with_room(None) };
            let Some(slot) = slot else { return };
            match self.parked.pop_front() {
                Some(connection) => self.place(connection, slot),
                None => self.cursor = turn,
            }
        }
    }

    fn accept_paused(&mut self, index: usize, poll: &S::Poll) {
        // Before the backlog is found empty: what the kernel holds may come into it at any time.
        let more_may_come = self.is_emptying && self.listeners[index].holds_connections(self.now);
        // In a stop each connection is counted.
        let most =
            if self.is_emptying || self.now < self.singly_until { 1 } else { BATCH.min(self.per_turn) };
        for _ in 0..self.per_turn / most {
            if !self.parked.is_empty() {
                return;
            }
            match self.accept_batch(index, most) {
                Accepted::NoRoom => return,
                Accepted::One | Accepted::Failed => {
                    if self.is_emptying && !self.listeners[index].expects_more() {
                        return self.backlog_is_empty(index, poll);
                    }
                }
                Accepted::Empty if more_may_come => {
                    self.resting_until = self.now + LOOK_AGAIN;
                    return;
                }
                Accepted::Empty => return self.backlog_is_empty(index, poll),
                Accepted::Exhausted(e) => {
                    self.rest_from(index, &e, poll);
                    // A stop waits for what can pass, and not for a refusal.
                    let passes = e.raw_os_error().is_some_and(|code| errno::OF_SHORTAGE.contains(&code));
                    if self.is_emptying && !passes {
                        self.backlog_is_empty(index, poll);
                    }
                    return;
                }
            }
        }
        self.has_more = true;
    }

    fn backlog_is_empty(&mut self, index: usize, poll: &S::Poll) {
        if self.is_emptying {
            self.emptied |= 1 << index;
        } else if let Err(e) = self.listeners[index].resume(poll) {
            // The listener stays paused: without a rest it would be tried again at once, and forever.
            self.rest(&e);
        }
    }

    fn accept_one(&mut self, index: usize, slot: usize) -> Accepted {
        let with_client = self.config.dispatch == Dispatch::SourceHash;
        match self.listeners[index].accept(with_client) {
            Ok((connection, client)) => {
                (self.failures, self.accepted_at) = (0, self.now);
                self.accepted += 1;
                let origin = Origin::listener(ListenerId::at(index));
                let connection =
                    Unplaced { connection, origin, client, came_back: false, shed_by: None, slot };
                self.place(connection, slot);
                Accepted::One
            }
            Err(e) => {
                // Nothing was given, so it is still this slot's turn.
                self.cursor = slot;
                match e.raw_os_error() {
                    Some(errno::EAGAIN) => Accepted::Empty,
                    Some(code)
                        if errno::OF_ONE_CONNECTION.contains(&code)
                            && self.failures < errno::MOST_IN_A_ROW =>
                    {
                        self.failures += 1;
                        Accepted::Failed
                    }
                    // No descriptor, no memory, a refusal, or a listener that was shut down: accept4 would fail again at once.
                    _ => Accepted::Exhausted(e),
                }
            }
        }
    }

    /// Adds a connection to the batch, for its client's worker or else for the one in `slot`.
    fn place(&mut self, mut connection: Unplaced<S::Connection>, slot: usize) {
        let own = self.pick_for(&connection);
        connection.slot = own.unwrap_or(slot);
        let listener = connection.origin.listener;
        if self.workers.admitted(connection.slot).is_some_and(|worker| !worker.serves(listener)) {
            // What comes back was not asked for its listener yet.
            let Some(slot) = self.pick_of(Some(listener)) else { return self.set_aside(connection) };
            connection.slot = slot;
        }
        // A worker that has to close an idle connection for it may find none: it must be able to leave this one.
        let singly = own.is_some() && self.load(connection.slot).is_none();
        if singly {
            self.give_batch();
        }
        self.count_given(connection.slot);
        self.batch.push(connection);
        if singly {
            self.give_batch();
        }
    }

    /// Keeps a connection that no worker takes at the moment: if none serves its listener, without holding up others.
    fn set_aside(&mut self, connection: Unplaced<S::Connection>) {
        let mut admitted = self.workers.iter().filter(|worker| worker.admitted).peekable();
        let listener = connection.origin.listener;
        if admitted.peek().is_some() && !admitted.any(|worker| worker.serves(listener)) {
            self.stray.push_back(connection);
        } else {
            self.parked.push_back(connection);
        }
    }

    /// Places connections whose listener was served by no worker.
    fn place_stray(&mut self) {
        for _ in 0..self.stray.len() {
            let Some(connection) = self.stray.pop_front() else { return };
            match self.pick_of(Some(connection.origin.listener)) {
                Some(slot) => {
                    self.place(connection, slot);
                    self.give_batch();
                }
                None => self.stray.push_back(connection),
            }
        }
    }

    /// True if the admitted worker of a slot takes connections of this listener.
    fn serves(&self, slot: usize, listener: ListenerId) -> bool {
        self.workers.admitted(slot).is_some_and(|worker| worker.serves(listener))
    }

    /// Counts a connection for which the worker of a slot is chosen as given to it.
    fn count_given(&mut self, slot: usize) {
        if let Some(worker) = self.workers.admitted_mut(slot) {
            worker.given = worker.given.wrapping_add(1);
        }
    }

    /// Gives each worker the connections that it was chosen for. What one does not take goes to others.
    fn give_batch(&mut self) {
        let mut batch = std::mem::take(&mut self.batch);
        if batch.len() > 1 {
            // The order of a worker's connections stays.
            batch.sort_by_key(|connection| connection.slot);
        }
        // What one refuses goes to others after their own: those count as given already, and a worker with room for them is to get
        // them before one for which it has to close an idle connection.
        let mut refused = Vec::new();
        let mut at = 0;
        while at < batch.len() {
            let slot = batch[at].slot;
            let share = batch[at..].iter().take_while(|c| c.slot == slot).map(|c| c.origin);
            let share = handoff::fitting(share);
            if self.give_to(slot, &batch[at..at + share]) {
                at += share;
                continue;
            }
            let kept = if broken!(self, RestOfMessageForgotten) { 1 } else { share };
            refused.extend(batch.drain(at..at + share).take(kept));
        }
        S::close_copies(&mut batch);
        self.batch = batch;
        refused.into_iter().for_each(|connection| self.give_elsewhere(connection));
    }

    /// Gives a connection to the next worker that takes it; else parks it.
    fn give_elsewhere(&mut self, connection: Unplaced<S::Connection>) {
        let listener = connection.origin.listener;
        let pick = |pool: &mut Self| {
            let slot = if connection.came_back { pool.pick_at_once() } else { pool.pick_of(Some(listener)) };
            slot.filter(|slot| pool.serves(*slot, listener)).or_else(|| pool.pick_of(Some(listener)))
        };
        while let Some(slot) = self.pick_for(&connection).or_else(|| pick(self)) {
            self.count_given(slot);
            if self.give_to(slot, std::slice::from_ref(&connection)) {
                return;
            }
        }
        if !broken!(self, ParkedForgotten) {
            self.set_aside(connection);
        }
    }

    /// Gives connections to the worker of a slot, for which they count already. One that does not take them counts as stuck, so that
    /// `give_elsewhere` ends.
    fn give_to(&mut self, slot: usize, connections: &[Unplaced<S::Connection>]) -> bool {
        let Some(worker) = self.workers.admitted_mut(slot) else { return false };
        match worker.queue.give(connections) {
            Ok(Given::Done) => {
                let taker = worker.id;
                for giver in connections.iter().filter_map(|c| c.origin.stream?.giver) {
                    if broken!(self, HandoverUncounted) {
                        break;
                    }
                    self.streams.note_given(giver, taker);
                }
                self.check_soon();
                return true;
            }
            Ok(Given::Full | Given::Gone) => {}
            Err(e) => self.system.log(format_args!("hand a connection to worker {}: {e}", worker.id)),
        }
        if !broken!(self, RefusedMessageCounts) {
            worker.given = worker.given.wrapping_sub(connections.len() as u64);
        }
        // In this order: a worker that takes the probe at once has made progress since.
        worker.mark_stuck();
        worker.probe();
        self.check_soon();
        false
    }

    /// Chooses the slot whose turn it is, among those with room; if there are none, among those that can make room.
    pub(super) fn pick(&mut self) -> Option<usize> {
        self.pick_of(None)
    }

    /// As [`Pool::pick`], for a connection of this listener.
    fn pick_of(&mut self, listener: Option<ListenerId>) -> Option<usize> {
        let slot = if broken!(self, IdleFirst) { None } else { self.pick_with_room(listener) };
        slot.or_else(|| self.pick_by(Self::load_without_idle, listener))
    }

    fn pick_with_room(&mut self, listener: Option<ListenerId>) -> Option<usize> {
        self.pick_by(Self::load, listener)
    }

    fn pick_by(
        &mut self,
        load: fn(&Self, usize) -> Option<u32>,
        listener: Option<ListenerId>,
    ) -> Option<usize> {
        let (policy, slots, mut cursor) = (self.config.dispatch, self.workers.slots(), self.cursor);
        let serves = |slot: usize| listener.is_none_or(|listener| self.serves(slot, listener));
        let slot =
            dispatch::pick(policy, &mut cursor, slots, |slot| load(self, slot).filter(|_| serves(slot)));
        self.cursor = cursor;
        slot
    }

    /// Chooses the slot of a connection's client, or the next in the client's order that has or can make room; for a connection that
    /// was shed, the one with the fewest connections.
    fn pick_for(&self, connection: &Unplaced<S::Connection>) -> Option<usize> {
        if let Some(id) = connection.shed_by {
            return self.pick_other(id);
        }
        let slots = self.workers.slots();
        let listener = connection.origin.listener;
        dispatch::pick_for(connection.client?, slots, |slot| {
            self.load_without_idle(slot).is_some() && self.serves(slot, listener)
        })
    }

    /// The connections in flight of the admitted worker of a slot; `None` if it has no room, or there is none.
    pub fn load(&self, slot: usize) -> Option<u32> {
        self.workers.admitted(slot)?.load(self.max_queued)
    }

    /// Those that are not idle; `None` if the worker has no room and can make none, or there is none.
    pub fn load_without_idle(&self, slot: usize) -> Option<u32> {
        if broken!(self, IdleKept) {
            return self.load(slot);
        }
        self.workers.admitted(slot)?.load_without_idle(self.max_queued)
    }

    /// The number of the client of a connection that did not come from a backlog, if dispatch uses it.
    pub(super) fn client_of(&self, connection: &S::Connection) -> Option<u64> {
        if self.config.dispatch == Dispatch::SourceHash { S::client_of(connection) } else { None }
    }

    /// True if a worker has room, or can make room.
    pub fn has_room(&self) -> bool {
        (0..self.workers.slots()).any(|slot| self.load_without_idle(slot).is_some())
    }

    /// True if a worker that takes connections of this listener has room, or can make room.
    fn has_room_for(&self, listener: ListenerId) -> bool {
        (0..self.workers.slots())
            .any(|slot| self.load_without_idle(slot).is_some() && self.serves(slot, listener))
    }

    /// True if a connection waits that could be placed now.
    pub fn has_room_for_what_waits(&self, lifecycle: &Lifecycle) -> bool {
        let at_listeners = (0..self.listeners.len())
            .any(|index| self.is_paused(index, lifecycle) && self.has_room_for(ListenerId::at(index)));
        at_listeners
            || !self.parked.is_empty() && self.has_room()
            || self.stray.iter().any(|stray| self.has_room_for(stray.origin.listener))
            || self.has_returns() && self.has_room_for_returns()
    }

    /// True if a connection may wait that could be placed if a worker had room.
    pub fn waits_for_room(&self, lifecycle: &Lifecycle) -> bool {
        !self.parked.is_empty()
            || !self.stray.is_empty()
            || !self.streams.directed.is_empty()
            || self.has_returns()
            || self.has_paused(lifecycle)
    }

    /// True if a listener is paused because no worker has room.
    pub fn has_paused(&self, lifecycle: &Lifecycle) -> bool {
        (0..self.listeners.len()).any(|index| self.is_paused(index, lifecycle))
    }

    /// True if a listener is paused because no worker has room; not if accepting rests, the first workers are not ready yet, a
    /// stop has emptied it, or workers accept from it.
    fn is_paused(&self, index: usize, lifecycle: &Lifecycle) -> bool {
        let rests =
            self.now < self.resting_until || lifecycle.is_booting() || self.emptied & (1 << index) != 0;
        !rests && self.listeners[index].is_paused()
    }

    fn rest_from(&mut self, index: usize, cause: &io::Error, poll: &S::Poll) {
        self.pause(index, poll);
        self.rest(cause);
    }
}
