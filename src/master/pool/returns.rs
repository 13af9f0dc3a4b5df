//! Connections taken back from workers: reclaimed from the queue of one that is dead, stuck or draining; or handed back by one
//! that drains, or has more than its share.
//!
//! The pool takes one message at a time, and only when another worker has room for a connection: until then the socket's own queue
//! keeps it.

use super::streams::{Way, is_directed};
use super::{MOST_PARKED, Pool, Queue, System, Unplaced, broken};

use crate::handoff::{self, Message, Taken};
use crate::ids::{Page, WorkerId};
use crate::log::counted;
use crate::sys::errno;
use std::io;

/// A queue from which connections are taken back.
pub enum Return<Q> {
    /// Connections that a worker has not taken: it is stuck, or is given no more.
    Unclaimed(WorkerId),
    /// Connections that a worker has handed back.
    HandedBack(WorkerId),
    /// Both queues of a worker that has ended.
    OfDeadWorker(WorkerId, Q),
}

impl<Q> Return<Q> {
    /// The worker whose queue it is.
    fn owner(&self) -> WorkerId {
        match self {
            Self::Unclaimed(id) | Self::HandedBack(id) | Self::OfDeadWorker(id, _) => *id,
        }
    }
}

impl<S: System> Pool<S> {
    /// Gives others what is queued for a worker.
    pub fn reclaim_queue(&mut self, id: WorkerId) {
        if !self.returns.iter().any(|r| matches!(r, Return::Unclaimed(other) if *other == id)) {
            self.add_return(Return::Unclaimed(id));
        }
    }

    /// Adds a queue from which connections are taken back.
    pub fn add_return(&mut self, source: Return<S::Queue>) {
        self.returns.push_back(source);
        self.check_soon();
    }

    /// Notes that the poll has reported connections that the worker of a page hands back.
    pub fn mark_returns(&mut self, page: Page, poll: &S::Poll) {
        // The event may be about the former worker of this page.
        let Some(worker) = self.workers.at(page).filter(|w| w.watched) else { return };
        worker.watched = false;
        // Not watched again until the queue is found empty: while no worker has room it would be reported without end.
        worker.queue.unwatch(poll);
        self.returns.push_back(Return::HandedBack(worker.id));
    }

    /// Has the poll report what a worker hands back.
    pub fn watch_returns(&mut self, id: WorkerId, poll: &S::Poll) {
        let Some(page) = self.workers.page_of(id) else { return };
        let is_listed = self.returns.iter().any(|r| matches!(r, Return::HandedBack(other) if *other == id));
        let Some(worker) = self.workers.at(page).filter(|w| !w.watched && !is_listed) else { return };
        match worker.queue.watch(poll, page) {
            Ok(()) => worker.watched = true,
            Err(e) => self.system.log(format_args!("watch what worker {id} hands back: {e}")),
        }
    }

    /// True if connections may be taken back.
    pub(super) fn has_returns(&self) -> bool {
        // Those that wait for a certain worker have descriptors here as well.
        let waits = self.streams.directed.len() + handoff::MOST <= MOST_PARKED;
        !self.returns.is_empty() && self.now >= self.resting_until && waits
    }

    /// Takes a message back from the first queue; returns its first connection, and parks the others. `None` if none is left there:
    /// then the queue is off the list.
    ///
    /// `has_descriptors` says that descriptors are free for a message. They are again when its connections are closed, so that a turn
    /// in which that happens before each next call makes sure of it once.
    pub(super) fn next_return(
        &mut self,
        has_descriptors: &mut bool,
        poll: &S::Poll,
    ) -> Option<Unplaced<S::Connection>> {
        loop {
            *has_descriptors = *has_descriptors || self.system.make_room();
            if !*has_descriptors {
                // A connection that is received without a free descriptor is lost: it stays in its queue.
                self.rest(&errno::error(errno::EMFILE));
                return None;
            }
            let (taken, way) = self.take_return();
            match taken {
                Ok(Taken::Connections(message)) => {
                    if let Some(first) = self.take_in(message, way) {
                        return Some(first);
                    }
                    // All were for certain workers, and keep their descriptors until these have them.
                    *has_descriptors = false;
                    // The queue of a live worker is read to its end: what goes back to that worker would come out of it again.
                    let to_end = matches!(self.returns.front(), Some(Return::Unclaimed(_)));
                    if !to_end && !self.has_returns() {
                        return None;
                    }
                }
                Ok(Taken::Probe) => self.forget_probe(),
                // A worker that writes nonsense to its channel loses that, and no more.
                Err(e) if e.kind() == io::ErrorKind::InvalidData => {}
                end => {
                    if let Err(e) = end {
                        self.system.log(format_args!("reclaim: {e}"));
                    }
                    self.end_return(poll);
                    return None;
                }
            }
        }
    }

    /// Takes more back, up to the number that may be parked, after no queue took a connection. The kernel lets a user have only so many
    /// descriptors in flight (`ETOOMANYREFS`), and those that are to be taken back are among them: it looks before a message and not
    /// behind it, so that a full one takes more than one back until it lets the next one pass.
    pub(super) fn take_more(&mut self, poll: &S::Poll) {
        while self.parked.len() + handoff::MOST <= MOST_PARKED && self.has_returns() {
            if let Some(connection) = self.next_return(&mut false, poll) {
                self.parked.push_back(connection);
            }
        }
    }

    /// Takes back what workers may have refused, even if no worker has room: its giver needs none for it. What comes with it is parked.
    pub(super) fn take_refused(&mut self, poll: &S::Poll) {
        let may_refuse = |pool: &Self| {
            pool.returns.iter().position(|r| {
                let id = r.owner();
                !matches!(r, Return::Unclaimed(_)) && pool.streams.transits.iter().any(|t| t.taker == id)
            })
        };
        while !broken!(self, RefusedWaitsForRoom)
            && self.parked.len() + handoff::MOST <= MOST_PARKED
            && self.has_returns()
            && let Some(at) = may_refuse(self)
        {
            self.returns.swap(0, at);
            if let Some(connection) = self.next_return(&mut false, poll) {
                self.parked.push_back(connection);
            }
        }
        self.place_directed();
    }

    /// Returns the first connection of a message that was taken back, and parks the others. What is for a certain worker is put aside.
    fn take_in(&mut self, message: Message<S::Connection>, way: Way) -> Option<Unplaced<S::Connection>> {
        let shed_by = self.returns.front().and_then(|source| self.shedder(source));
        let lost = message.lost;
        if lost > 0 {
            self.system.log(format_args!(
                "reclaim: no free descriptor, {} lost",
                counted(lost as u64, "connection")
            ));
        }
        let owner = self.returns.front().map(Return::owner);
        let (mut first, mut count) = (None, lost);
        for (connection, mut origin) in message {
            count += 1;
            if let Some(owner) = owner {
                self.streams.comes_from(owner, way, &mut origin);
            }
            let client = self.client_of(&connection);
            let unplaced = Unplaced { connection, origin, client, came_back: true, shed_by, slot: 0 };
            if is_directed(&origin) && !broken!(self, RefusedToAnyone) {
                self.streams.directed.push_back(unplaced);
            } else if first.is_none() {
                first = Some(unplaced);
            } else {
                self.parked.push_back(unplaced);
            }
        }
        if let Some(Return::Unclaimed(id)) = self.returns.front()
            && let Some(worker) = self.workers.get_mut(*id)
            && !broken!(self, ReclaimedStillCounts)
        {
            worker.given = worker.given.wrapping_sub(count as u64);
        }
        first
    }

    fn take_return(&self) -> (io::Result<Taken<S::Connection>>, Way) {
        let queue_of = |id| self.workers.get(id).map(|worker| &worker.queue);
        match self.returns.front() {
            Some(Return::Unclaimed(id)) => {
                (queue_of(*id).map_or(Ok(Taken::End), Queue::reclaim), Way::ToWorker)
            }
            Some(Return::HandedBack(id)) => {
                (queue_of(*id).map_or(Ok(Taken::End), Queue::take_returned), Way::ToMaster)
            }
            Some(Return::OfDeadWorker(_, queue)) => match queue.reclaim() {
                // Each of the two has its own end.
                Ok(Taken::Nothing | Taken::End) => (queue.take_returned(), Way::ToMaster),
                taken => (taken, Way::ToWorker),
            },
            None => (Ok(Taken::End), Way::ToMaster),
        }
    }

    /// Notes that the probe of a live worker was reclaimed: another may be sent.
    fn forget_probe(&mut self) {
        if let Some(Return::Unclaimed(id)) = self.returns.front()
            && let Some(worker) = self.workers.get_mut(*id)
            && !broken!(self, ProbeStillCounts)
        {
            worker.last_probe = 0;
        }
    }

    fn end_return(&mut self, poll: &S::Poll) {
        match self.returns.pop_front() {
            // If the worker lives, the next thing it finds is the probe; taking it shows that the worker is no longer stuck.
            Some(Return::Unclaimed(id)) => {
                if let Some(worker) = self.workers.get_mut(id).filter(|w| w.admitted) {
                    worker.probe();
                }
            }
            Some(Return::HandedBack(id)) if !broken!(self, ReturnsNotRewatched) => {
                self.watch_returns(id, poll);
            }
            Some(Return::OfDeadWorker(id, _)) => self.streams.end_taker(id),
            _ => {}
        }
    }

    /// True if a stop has to wait for what is taken back: not for idle connections that no worker has room for.
    pub(super) fn awaits_returns(&self) -> bool {
        let is_idle = |source: &Return<S::Queue>| matches!(source, Return::HandedBack(_));
        !self.returns.iter().all(is_idle) || self.has_returns() && self.has_room_for_returns()
    }

    /// Closes what is taken back after a stop has closed the listeners. A worker could not end as long as its queue of idle
    /// connections is full.
    pub(super) fn close_returns(&mut self, poll: &S::Poll) {
        let mut has_descriptors = false;
        for _ in 0..self.per_turn {
            if !self.has_returns() {
                break;
            }
            let first = self.next_return(&mut has_descriptors, poll);
            let parked = std::mem::take(&mut self.parked);
            for unplaced in first.into_iter().chain(parked) {
                if unplaced.origin.stream.is_some() {
                    self.send_home(unplaced);
                } else {
                    self.system.close(unplaced.connection);
                }
            }
        }
        self.place_directed();
        self.has_more |= self.has_returns();
    }

    /// Closes the connections of workers that have ended, and returns the number of those that are not idle. What is queued for a
    /// live worker is left to it, and what it has handed back to [`Pool::close_returns`].
    pub(super) fn abandon_returns(&mut self) -> u64 {
        let mut closed = 0;
        let is_ended = |source: &Return<S::Queue>| matches!(source, Return::OfDeadWorker(..));
        let mut of_live;
        (self.returns, of_live) = std::mem::take(&mut self.returns).into_iter().partition(is_ended);
        while !self.returns.is_empty() {
            let (taken, way) = self.take_return();
            match taken {
                Ok(Taken::Connections(message)) => {
                    closed += message.lost as u64;
                    for (connection, mut origin) in message {
                        closed += u64::from(!origin.used);
                        if let Some(owner) = self.returns.front().map(Return::owner)
                            && origin.stream.is_some()
                        {
                            self.streams.comes_from(owner, way, &mut origin);
                            self.send_home(Unplaced {
                                connection,
                                origin,
                                client: None,
                                came_back: true,
                                shed_by: None,
                                slot: 0,
                            });
                        } else if origin.used {
                            self.system.close(connection);
                        }
                    }
                }
                Ok(Taken::Probe) => {}
                Ok(Taken::Nothing | Taken::End) | Err(_) => {
                    if let Some(ended) = self.returns.pop_front() {
                        self.streams.end_taker(ended.owner());
                    }
                }
            }
        }
        of_live.retain(|source| matches!(source, Return::HandedBack(_)));
        self.returns = of_live;
        closed
    }
}
