//! Connections taken back from workers: reclaimed from the queue of one that is dead, stuck or draining; or handed back by one
//! that drains, or has more than its share.
//!
//! The pool takes one connection at a time, and only when another worker has room for it: until then the socket's own queue
//! keeps it.

use super::{Pool, Queue, System, Unplaced, broken};
use crate::handoff::Taken;
use crate::ids::{Page, WorkerId};
use crate::sys::errno;
use std::io;

/// A queue from which connections are taken back.
pub enum Return<Q> {
    /// Connections that a worker has not taken: it is stuck, or is given no more.
    Unclaimed(WorkerId),
    /// Connections that a worker has handed back.
    HandedBack(WorkerId),
    /// Both queues of a worker that has ended.
    OfDeadWorker(Q),
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
        !self.returns.is_empty() && self.now >= self.resting_until
    }

    /// Takes one connection back from the first queue. `None` if none is left there: then the queue is off the list.
    pub(super) fn next_return(&mut self, poll: &S::Poll) -> Option<Unplaced<S::Connection>> {
        loop {
            if !self.system.make_room() {
                // A connection that is received without a free descriptor is lost: it stays in its queue.
                self.rest(&errno::error(errno::EMFILE));
                return None;
            }
            match self.take_return() {
                Ok(Taken::Connection(connection, origin)) => {
                    let shed_by = self.returns.front().and_then(|source| self.shedder(source));
                    if let Some(Return::Unclaimed(id)) = self.returns.front()
                        && let Some(worker) = self.workers.get_mut(*id)
                        && !broken!(self, ReclaimedStillCounts)
                    {
                        worker.given = worker.given.wrapping_sub(1);
                    }
                    let client = self.client_of(&connection);
                    return Some(Unplaced { connection, origin, client, shed_by });
                }
                Ok(Taken::Probe) => self.forget_probe(),
                Ok(Taken::Lost) => {
                    self.system.log(format_args!("reclaim: no free descriptor, a connection is lost"));
                }
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

    fn take_return(&self) -> io::Result<Taken<S::Connection>> {
        let queue_of = |id| self.workers.get(id).map(|worker| &worker.queue);
        match self.returns.front() {
            Some(Return::Unclaimed(id)) => queue_of(*id).map_or(Ok(Taken::End), Queue::reclaim),
            Some(Return::HandedBack(id)) => queue_of(*id).map_or(Ok(Taken::End), Queue::take_returned),
            Some(Return::OfDeadWorker(queue)) => match queue.reclaim() {
                // Each of the two has its own end.
                Ok(Taken::Nothing | Taken::End) => queue.take_returned(),
                taken => taken,
            },
            None => Ok(Taken::End),
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
            _ => {}
        }
    }

    /// Closes the connections of workers that have ended, and returns their number. What is queued for a live worker is left to
    /// it.
    pub(super) fn abandon_returns(&mut self) -> u64 {
        let mut closed = 0;
        self.returns.retain(|source| matches!(source, Return::OfDeadWorker(_)));
        while !self.returns.is_empty() {
            match self.take_return() {
                Ok(Taken::Connection(..) | Taken::Lost) => closed += 1,
                Ok(Taken::Probe) => {}
                Ok(Taken::Nothing | Taken::End) | Err(_) => drop(self.returns.pop_front()),
            }
        }
        closed
    }
}
