//! Connections that come back from workers: reclaimed from the queue of one that is dead, stuck or leaving; or handed back by one
//! that drains, or has more than its share.
//!
//! The pool takes one connection at a time, and only when another worker has room for it: until then the socket's own queue
//! keeps it.

use super::{Link, Pool, Queue, System, Unplaced, broken};
use crate::handoff::{Origin, Taken};
use crate::ids::{Page, WorkerId};
use crate::sys::errno;
use std::io;

/// A queue from which connections come back.
pub enum Return<Q> {
    /// What a worker has not taken: it is stuck, or is given no more.
    Unclaimed(WorkerId),
    /// What a worker that drains, or sheds, has handed back.
    HandedBack(WorkerId),
    /// What a worker that has ended had not taken, and what it had handed back.
    OfDeadWorker(Q),
}

impl<S: System> Pool<S> {
    /// Has what is queued for a worker go to others.
    pub fn reclaim_queue(&mut self, id: WorkerId) {
        if !self.returns.iter().any(|r| matches!(r, Return::Unclaimed(other) if *other == id)) {
            self.returns.push_back(Return::Unclaimed(id));
        }
        self.check_soon();
    }

    /// The poll has reported what the worker of a page hands back.
    pub fn mark_returns(&mut self, page: Page, poll: &S::Poll) {
        // The event may be about the former worker of this page.
        let Some(worker) = self.workers.at(page).filter(|w| w.watched) else { return };
        worker.watched = false;
        // Not watched again until the queue is found empty: while no worker has room it would be reported without end.
        worker.link.unwatch_returns(poll);
        self.returns.push_back(Return::HandedBack(worker.id));
    }

    /// Has the poll report what a worker hands back.
    pub fn watch_returns(&mut self, id: WorkerId, poll: &S::Poll) {
        let Some(page) = self.workers.page_of(id) else { return };
        let is_up = self.returns.iter().any(|r| matches!(r, Return::HandedBack(other) if *other == id));
        let Some(worker) = self.workers.at(page).filter(|w| !w.watched && !is_up) else { return };
        match worker.link.watch_returns(poll, page) {
            Ok(()) => worker.watched = true,
            Err(e) => self.system.log(format_args!("watch what worker {id} hands back: {e}")),
        }
    }

    /// True if connections may wait to come back.
    pub(super) fn has_returns(&self) -> bool {
        !self.returns.is_empty() && self.now >= self.resting_until
    }

    /// Takes one connection back from the first queue. `None` if none is left there: then the queue is off the list.
    pub(super) fn next_return(&mut self, poll: &S::Poll) -> Option<Unplaced<S::Connection>> {
        while !self.returns.is_empty() {
            if !self.system.make_room() {
                // A connection that is received without a free descriptor is lost: it stays in its queue.
                self.rest(&errno::error(errno::EMFILE));
                return None;
            }
            match self.take_return() {
                Ok(Taken::Connection(connection, origin)) => {
                    return Some(self.unplaced(connection, origin));
                }
                Ok(Taken::Probe) => self.forget_probe(),
                Ok(Taken::Lost) => {
                    self.system.log(format_args!("reclaim: no free descriptor, a connection is lost"));
                }
                Ok(Taken::Nothing | Taken::End) => {
                    self.end_return(poll);
                    return None;
                }
                // A worker that writes nonsense to its channel loses that, and no more.
                Err(e) if e.kind() == io::ErrorKind::InvalidData => {}
                Err(e) => {
                    self.system.log(format_args!("reclaim: {e}"));
                    self.end_return(poll);
                    return None;
                }
            }
        }
        None
    }

    fn take_return(&self) -> io::Result<Taken<S::Connection>> {
        match self.returns.front() {
            Some(Return::Unclaimed(id)) => {
                self.workers.get(*id).map_or(Ok(Taken::End), |w| w.link.queue().reclaim())
            }
            Some(Return::HandedBack(id)) => {
                self.workers.get(*id).map_or(Ok(Taken::End), |w| w.link.queue().take_returned())
            }
            Some(Return::OfDeadWorker(queue)) => match queue.reclaim() {
                // Each of the two has its own end.
                Ok(Taken::Nothing | Taken::End) => queue.take_returned(),
                taken => taken,
            },
            None => Ok(Taken::End),
        }
    }

    fn unplaced(&mut self, connection: S::Connection, origin: Origin) -> Unplaced<S::Connection> {
        let shed_by = self.returns.front().and_then(|source| self.shedder(source));
        if let Some(Return::Unclaimed(id)) = self.returns.front()
            && let Some(worker) = self.workers.find(*id)
            && !broken!(self, ReclaimedStillCounts)
        {
            worker.given = worker.given.wrapping_sub(1);
        }
        let client = self.client_of(&connection);
        Unplaced { connection, origin, client, shed_by }
    }

    /// The probe of a live worker was reclaimed: another may be sent.
    fn forget_probe(&mut self) {
        if let Some(Return::Unclaimed(id)) = self.returns.front()
            && let Some(worker) = self.workers.find(*id)
            && !broken!(self, ProbeStillCounts)
        {
            worker.asked = 0;
        }
    }

    fn end_return(&mut self, poll: &S::Poll) {
        match self.returns.pop_front() {
            // If the worker lives, the next thing it finds is the probe, and taking it shows that it is back.
            Some(Return::Unclaimed(id)) => {
                if let Some(worker) = self.workers.find(id).filter(|w| w.admitted) {
                    worker.probe();
                }
            }
            Some(Return::HandedBack(id)) if !broken!(self, ReturnsNotRewatched) => {
                self.watch_returns(id, poll);
            }
            _ => {}
        }
    }

    /// Closes what still waits to come back from workers that have ended, and returns the number of connections. What is queued
    /// for a live worker is left to it.
    pub(super) fn abandon_returns(&mut self) -> u64 {
        let mut closed = 0;
        for source in std::mem::take(&mut self.returns) {
            let Return::OfDeadWorker(queue) = source else { continue };
            loop {
                match queue.reclaim() {
                    Ok(Taken::Connection(..)) => closed += 1,
                    Ok(Taken::Probe) => {}
                    _ => break,
                }
            }
            while matches!(queue.take_returned(), Ok(Taken::Connection(..))) {
                closed += 1;
            }
        }
        closed
    }
}
