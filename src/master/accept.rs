//! The hot path: a connection comes off a listener's backlog, a worker is picked, the descriptor goes to it.
//!
//! Three system calls a connection: accept4, sendmsg, close. Nothing is allocated, locked, formatted or logged on the way.
//! A listener is watched level-triggered and gives one connection a turn, so no call is made to find the backlog empty.
//! While no worker has room the listener is paused and the clients stay in the backlog; the first worker that makes room wakes
//! the master, which then accepts as many as there is room for and only watches again when the backlog was found empty.

use super::{Master, dispatch};
use crate::config::Dispatch;
use crate::handoff::{Given, Origin};
use crate::log::log;
use crate::sys::{errno, socket};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// How long accepting rests when descriptors or memory ran out (milliseconds).
const EXHAUSTED_REST: u64 = 250;
/// After so long without another shortage it is over, and the next one is told again (milliseconds).
const SHORTAGE_OVER: u64 = 1000;
/// Connections taken from one listener in one turn when it is not watched, so that signals and deaths get their turn.
const BATCH: usize = 64;

/// A connection the master has and no worker yet.
pub struct InHand {
    pub(super) fd: OwnedFd,
    pub(super) origin: Origin,
    /// Who it is from, where dispatch asks for that and the client has an address.
    pub(super) client: Option<u64>,
    /// The worker that has handed it back for others to have a share, and is not to get it again.
    pub(super) shed_by: Option<u32>,
}

/// What an attempt to take a connection off a backlog came to.
enum Accepted {
    /// One was taken; it has a worker, or is in hand.
    One,
    /// The backlog is empty.
    Empty,
    /// The one at the head had failed already, or will not do; there may be another.
    Failed,
    /// No descriptor or memory is free.
    Exhausted(io::Error),
}

impl Master {
    /// A watched listener has a connection.
    pub(super) fn accept_from(&mut self, index: usize) {
        match self.pick() {
            // What was accepted before comes first: the one in hand, for there is no place for a second, and what comes back.
            _ if self.in_hand.is_some() || self.has_returns() => self.pause(index),
            None => self.pause(index),
            Some(slot) => {
                if let Accepted::Exhausted(e) = self.accept_one(index, slot) {
                    self.rest_from(index, &e);
                }
            }
        }
    }

    /// Gives workers what waits for room: the connection in hand, then what comes back from other workers, then the backlogs of
    /// paused listeners. Says to the workers that the master waits, where something is left and nobody has room.
    pub(super) fn serve_waiting(&mut self) {
        self.more_to_do = false;
        loop {
            self.serve_what_has_room();
            if self.more_to_do || !self.waits_for_room() {
                return self.board.common().stop_waiting();
            }
            self.board.common().start_waiting();
            // A worker may have made room between the last look and the word: it has not seen that anybody waits.
            if !self.has_room_for_what_waits() {
                return;
            }
        }
    }

    fn serve_what_has_room(&mut self) {
        self.place_returns();
        for index in 0..self.listeners.len() {
            if self.is_paused(index) {
                self.accept_paused(index);
            }
        }
    }

    fn place_returns(&mut self) {
        let some = self.has_returns();
        for _ in 0..BATCH {
            if self.in_hand.is_none() && !self.has_returns() {
                break;
            }
            let turn = self.cursor;
            let slot = if self.in_hand.is_some() { self.pick() } else { self.pick_for_return() };
            let Some(slot) = slot else { break };
            match self.in_hand.take().or_else(|| self.next_return()) {
                Some(connection) => self.give(connection, slot),
                None => self.cursor = turn,
            }
        }
        if some && self.shortage.is_none() {
            self.fd_reserve.refill();
        }
        self.more_to_do |= self.has_returns() && self.has_room_for_returns();
    }

    fn accept_paused(&mut self, index: usize) {
        for _ in 0..BATCH {
            let Some(slot) = self.pick().filter(|_| self.in_hand.is_none()) else { return };
            match self.accept_one(index, slot) {
                Accepted::One | Accepted::Failed if self.emptying && !self.listeners[index].one_less() => {
                    return self.backlog_is_empty(index);
                }
                Accepted::One | Accepted::Failed => {}
                Accepted::Empty => return self.backlog_is_empty(index),
                Accepted::Exhausted(e) => return self.rest_from(index, &e),
            }
        }
        self.more_to_do = true;
    }

    fn backlog_is_empty(&mut self, index: usize) {
        if self.emptying {
            self.emptied |= 1 << index;
        } else if let Err(e) = self.listeners[index].resume(&self.poll) {
            log!("watch listener {}: {e}", self.listeners[index]);
        }
    }

    fn accept_one(&mut self, index: usize, slot: usize) -> Accepted {
        let policy = self.config.dispatch;
        match self.listeners[index].accept(|listener| accept(policy, listener)) {
            Ok((fd, client)) => {
                let origin = Origin::listener(index as u16);
                self.give(InHand { fd, origin, client, shed_by: None }, slot);
                Accepted::One
            }
            Err(e) => {
                // Nothing was given, so it is still this slot's turn.
                self.cursor = slot;
                match e.raw_os_error() {
                    Some(errno::EAGAIN) => Accepted::Empty,
                    // What accept(2) calls errors of the new connection: the next one may be well.
                    Some(code) if errno::OF_ONE_CONNECTION.contains(&code) => Accepted::Failed,
                    // No descriptor, no memory, or a listener that somebody has ended: trying again at once is of no use.
                    _ => Accepted::Exhausted(e),
                }
            }
        }
    }

    /// Gives a connection to its client's worker, else to the one in `slot`, or to the next one that takes it. Where none does,
    /// it stays in hand.
    fn give(&mut self, connection: InHand, slot: usize) {
        let mut choice = self.pick_for(&connection).or(Some(slot));
        while let Some(slot) = choice {
            if self.give_to(slot, &connection) {
                return;
            }
            choice = self.pick_for(&connection).or_else(|| self.pick());
        }
        self.in_hand = Some(connection);
    }

    /// Where the worker does not take it, it is out of dispatch until it is seen taking again, so that `give` ends.
    fn give_to(&mut self, slot: usize, connection: &InHand) -> bool {
        let Some(worker) = self.crew.behind(slot) else { return false };
        match worker.giver.give(connection.fd.as_fd(), connection.origin) {
            Ok(Given::Done) => {
                worker.given = worker.given.wrapping_add(1);
                self.tick_soon();
                return true;
            }
            Ok(Given::Full | Given::Gone) => {}
            Err(e) => log!("hand a connection to worker {}: {e}", worker.id),
        }
        // In this order: a worker that takes the probe at once has moved since.
        worker.is_stuck();
        worker.probe();
        self.tick_soon();
        false
    }

    /// The slot whose turn it is, among those with room.
    pub(super) fn pick(&mut self) -> Option<usize> {
        let crew = &self.crew;
        dispatch::pick(self.config.dispatch, &mut self.cursor, crew.slots(), |slot| crew.load(slot))
    }

    /// The slot of a connection's client, or the next in the client's order that has room; for a connection that was shed, the one
    /// with the fewest.
    fn pick_for(&self, connection: &InHand) -> Option<usize> {
        if let Some(id) = connection.shed_by {
            return self.pick_beside(id);
        }
        let has_room = |slot| self.crew.load(slot).is_some();
        dispatch::pick_for(connection.client?, self.crew.slots(), has_room)
    }

    /// Who a connection is from that did not come from a backlog, where dispatch asks for that.
    pub(super) fn client_of(&self, connection: BorrowedFd<'_>) -> Option<u64> {
        match self.config.dispatch {
            Dispatch::SourceHash => socket::peer_ip(connection).map(dispatch::client_of),
            Dispatch::RoundRobin | Dispatch::LeastConnections => None,
        }
    }

    /// Whether something of what waits could go on.
    fn has_room_for_what_waits(&self) -> bool {
        let in_turn = self.in_hand.is_some() || (0..self.listeners.len()).any(|index| self.is_paused(index));
        in_turn && self.has_room() || self.has_returns() && self.has_room_for_returns()
    }

    pub(super) fn has_room(&self) -> bool {
        (0..self.crew.slots()).any(|slot| self.crew.load(slot).is_some())
    }

    /// Whether something waits that could go on if a worker had room.
    fn waits_for_room(&self) -> bool {
        self.in_hand.is_some()
            || self.has_returns()
            || (0..self.listeners.len()).any(|index| self.is_paused(index))
    }

    /// Whether a listener is left alone for want of room; not one that rests, waits for the first workers, was emptied by a stop,
    /// or is for the workers to accept from.
    fn is_paused(&self, index: usize) -> bool {
        let rests =
            self.now < self.accept_at || self.lifecycle.is_booting() || self.emptied & (1 << index) != 0;
        !rests && self.listeners[index].is_paused()
    }

    pub(super) fn pause(&mut self, index: usize) {
        if let Err(e) = self.listeners[index].pause(&self.poll) {
            log!("pause listener {}: {e}", self.listeners[index]);
        }
    }

    /// Leaves the listeners alone for a moment: without a free descriptor, or memory, accept would only fail again.
    fn rest_from(&mut self, index: usize, cause: &io::Error) {
        self.pause(index);
        self.rest(cause);
    }

    /// As [`Master::rest_from`], where it is not a listener that needs a descriptor.
    pub(super) fn rest(&mut self, cause: &io::Error) {
        if self.shortage.is_none() {
            log!("accept: {cause}; clients wait in the backlog meanwhile");
        }
        self.accept_at = self.now + EXHAUSTED_REST;
        self.shortage = Some(self.accept_at + SHORTAGE_OVER);
        self.arm(self.accept_at);
    }

    /// A shortage that has not come back is over.
    pub(super) fn look_at_shortage(&mut self) {
        if self.shortage.is_some_and(|until| until <= self.now) {
            self.shortage = None;
            self.fd_reserve.refill();
        }
    }
}

/// Takes a connection off a backlog; who it is from only where dispatch asks.
fn accept(policy: Dispatch, listener: BorrowedFd<'_>) -> io::Result<(OwnedFd, Option<u64>)> {
    match policy {
        Dispatch::RoundRobin | Dispatch::LeastConnections => socket::accept(listener).map(|fd| (fd, None)),
        Dispatch::SourceHash => {
            socket::accept_with_ip(listener).map(|(fd, ip)| (fd, ip.map(dispatch::client_of)))
        }
    }
}
