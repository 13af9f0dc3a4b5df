//! What comes back from workers: reclaimed from the queue of one that is dead, stuck or leaving; or handed back by one that
//! drains, or has more than its share.
//!
//! The master takes one connection at a time, and only when another worker has room for it: until then the socket's own queue
//! keeps it.

use super::accept::InHand;
use super::crew::Record;
use super::{Master, Token};
use crate::handoff::{Giver, Taken, Taker};
use crate::ids::Page;
use crate::log::log;
use crate::sys::{errno, poll};
use std::os::fd::AsFd;

/// How often the master looks at its workers while connections are under way (milliseconds). What lies in a queue at two looks,
/// while its worker takes nothing, is reclaimed: after a tenth of a second at the latest.
const TICK: u64 = 50;

/// A queue that connections come back from.
pub enum Return {
    /// The handoff queue of a worker that will not take what lies in it.
    Orphan {
        /// The master's own copy of the worker's end.
        queue: Taker,
        /// The worker.
        id: u32,
    },
    /// What a worker that drains, or sheds, has handed back.
    Living {
        /// Its seat.
        seat: usize,
        /// The worker.
        id: u32,
    },
    /// What a worker handed back that is no more.
    Left(Giver),
}

impl Master {
    /// Puts what lies in the queue of a worker up for others.
    pub(super) fn orphan(&mut self, id: u32) {
        let is_up = |r: &Return| matches!(r, Return::Orphan { id: other, .. } if *other == id);
        if self.returns.iter().any(is_up) {
            return self.tick_soon();
        }
        let Some(worker) = self.crew.find(id) else { return };
        match worker.queue.duplicate() {
            Ok(queue) => self.returns.push_back(Return::Orphan { queue, id }),
            Err(e) => {
                // It is tried again when the worker is looked at, and at its death the queue itself is there.
                worker.stuck = true;
                log!("reclaim from worker {id}: {e}; tried again");
            }
        }
        self.tick_soon();
    }

    /// A worker is no more: what it had not taken, and what it handed back.
    pub(super) fn orphan_all(&mut self, worker: Record) {
        self.returns.push_back(Return::Orphan { queue: worker.queue, id: worker.id });
        self.returns.push_back(Return::Left(worker.giver));
    }

    /// Something may have been handed back by the worker in this seat.
    pub(super) fn handed_back(&mut self, seat: usize) {
        // The event may be one about the former worker of this seat.
        let Some(worker) = self.crew.at(seat).filter(|w| w.watched) else { return };
        worker.watched = false;
        // Not watched again until the queue was found empty: without room it would be reported without end.
        let _ = poll::unwatch(&self.poll, worker.giver.as_fd());
        self.returns.push_back(Return::Living { seat, id: worker.id });
    }

    /// Has the poll report what a worker hands back.
    pub(super) fn watch_for_returns(&mut self, id: u32) {
        let Some(seat) = self.crew.seat_of(id) else { return };
        let is_up =
            self.returns.iter().any(|r| matches!(r, Return::Living { id: other, .. } if *other == id));
        let Some(worker) = self.crew.at(seat).filter(|w| !w.watched && !is_up) else { return };
        match poll::watch_level(&self.poll, worker.giver.as_fd(), Token::Returns(Page::at(seat)).into()) {
            Ok(()) => worker.watched = true,
            Err(e) => log!("watch what worker {id} hands back: {e}"),
        }
    }

    /// Whether connections may wait to come back.
    pub(super) fn has_returns(&self) -> bool {
        !self.returns.is_empty() && self.now >= self.accept_at
    }

    /// Takes one connection back from the first source. `None` where none is left there: then it is no source any more.
    pub(super) fn next_return(&mut self) -> Option<InHand> {
        while let Some(source) = self.returns.front() {
            if !self.fd_reserve.make_room() {
                // One that is taken without a place for it is lost: it stays where it is.
                let cause = errno::error(errno::EMFILE);
                self.rest(&cause);
                return None;
            }
            let shed_by = self.shedder(source);
            let taken = match source {
                Return::Orphan { queue, .. } => queue.take(),
                Return::Left(giver) => giver.take_back(),
                Return::Living { seat, id } => match self.crew.at(*seat).filter(|w| w.id == *id) {
                    Some(worker) => worker.giver.take_back(),
                    None => Ok(Taken::End),
                },
            };
            match taken {
                Ok(Taken::Connection(fd, origin)) => {
                    if let Some(Return::Orphan { id, .. }) = self.returns.front()
                        && let Some(worker) = self.crew.find(*id)
                    {
                        worker.given = worker.given.wrapping_sub(1);
                    }
                    let client = self.client_of(fd.as_fd());
                    return Some(InHand { fd, origin, client, shed_by });
                }
                Ok(Taken::Probe) => {
                    if let Some(Return::Orphan { id, .. }) = self.returns.front()
                        && let Some(worker) = self.crew.find(*id)
                    {
                        worker.asked = 0;
                    }
                    continue;
                }
                Ok(Taken::Lost) => {
                    log!("reclaim: no free descriptor, a connection is lost");
                    continue;
                }
                Ok(Taken::Nothing | Taken::End) => {}
                // A worker that writes to its channel what it should not loses that, and no more.
                Err(e) if e.kind() == std::io::ErrorKind::InvalidData => continue,
                Err(e) => log!("reclaim: {e}"),
            }
            match self.returns.pop_front() {
                // If the worker lives, the next thing it finds is the probe, and taking it shows that it is back.
                Some(Return::Orphan { id, .. }) => {
                    if let Some(worker) = self.crew.find(id).filter(|w| w.admitted) {
                        worker.probe();
                    }
                }
                Some(Return::Living { id, .. }) => self.watch_for_returns(id),
                Some(Return::Left(_)) | None => {}
            }
            return None;
        }
        None
    }

    /// Closes what still waits to come back from workers that are no more, and returns how many connections that were. What
    /// lies in the queue of a worker that lives is left to it.
    pub(super) fn abandon_returns(&mut self) -> u64 {
        let mut closed = 0;
        for source in std::mem::take(&mut self.returns) {
            let take = || match &source {
                Return::Orphan { queue, id } if self.crew.seat_of(*id).is_none() => queue.take(),
                Return::Left(giver) => giver.take_back(),
                Return::Orphan { .. } | Return::Living { .. } => Ok(Taken::Nothing),
            };
            while matches!(take(), Ok(Taken::Connection(..))) {
                closed += 1;
            }
        }
        closed
    }

    /// Makes sure that a look at the workers follows.
    pub(super) fn tick_soon(&mut self) {
        if self.tick_at.is_none() {
            self.tick_at = Some(self.now + TICK);
            self.arm(self.now + TICK);
        }
    }

    /// A worker that took nothing of what waited for it through a whole tick is stuck: it gets no more, and what waits goes to
    /// others. One that takes again is let in again.
    pub(super) fn look_for_stuck(&mut self) {
        for seat in self.crew.seats() {
            let Some(worker) = self.crew.at(seat).filter(|w| w.admitted) else { continue };
            let progress = worker.progress();
            let moved = progress != worker.last_progress;
            worker.last_progress = progress;
            let queued = worker.queued() > 0;
            // What came just before this look is no reproach yet.
            let lies = std::mem::replace(&mut worker.lay, queued) && queued && !moved;
            worker.stuck = lies || worker.stuck && !moved;
            let (watch_on, id) = (queued || worker.stuck, worker.id);
            if lies {
                self.orphan(id);
            } else if worker.stuck {
                // The probe sent to it may not have found room, or was reclaimed: nothing else would show that it is back.
                worker.probe();
            }
            if watch_on {
                self.tick_soon();
            }
        }
    }
}
