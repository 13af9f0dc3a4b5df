//! Room for one more connection: a free place and free descriptors, or those of the connection that has been idle longest.

use super::{Cause, EventLoop};
use crate::event::Kind;
use crate::scoreboard::Word;
use crate::sys::socket;
use crate::sys::time::Time;
use crate::worker::engine::Deadline;
use crate::worker::own_sockets::Accepts;
use std::time::Duration;

/// Idle connections that are looked at to find one that can be closed.
const LOOKS: usize = 1000;
/// The time after which they are looked at again if there was none: shorter than the master leaves connections in a queue.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// A place for one more connection.
pub(super) enum Place {
    /// One that is free.
    Free,
    /// That of an idle connection, which is closed when the new one is there.
    Of(u32),
}

impl EventLoop<'_> {
    /// True if the worker has as many connections as it may have. In blocking style the table has only those that the handler is done
    /// with.
    pub(super) fn is_full(&self) -> bool {
        self.kind != Kind::Blocking && self.table.len() >= self.limit
    }

    /// True if there are idle connections, of which one may be found that can be closed.
    fn may_make_room(&self) -> bool {
        self.deadlines.count(Deadline::Idle) > 0 && self.search_at == Time::NEVER
    }

    pub(super) fn may_have_room(&mut self) -> bool {
        !self.is_full() && self.intake.has_descriptors(self.now) || self.may_make_room()
    }

    /// Which connections the worker accepts at its own sockets.
    pub(super) fn accepts(&self) -> Accepts {
        let is_short = || self.intake.is_short() && self.deadlines.count(Deadline::Idle) > 0;
        match self.is_full() || is_short() {
            false => Accepts::All,
            true if self.may_make_room() => Accepts::Leftovers,
            true => Accepts::Nothing,
        }
    }

    /// Finds a place for one more connection. If there is none, what comes waits, or goes to other workers; unless nobody else would take
    /// it (`must_take`), then there may be one more than the worker may have.
    pub(super) fn find_place(&mut self, must_take: bool) -> Option<Place> {
        while !self.intake.has_descriptors(self.now) {
            // The new one needs the descriptor of one that is closed.
            let Some(index) = self.longest_idle() else {
                self.intake.pause(self.poll);
                return None;
            };
            self.clear(Place::Of(index));
        }
        let place = match self.is_full() {
            true => self.longest_idle().map(Place::Of).or_else(|| must_take.then_some(Place::Free)),
            false => Some(Place::Free),
        };
        match place {
            Some(_) => self.intake.resume(self.poll),
            None => self.intake.pause(self.poll),
        }
        place
    }

    /// Returns the connection that has been idle longest and can be closed: nothing of a next request has arrived, and the kernel has
    /// sent the last response.
    fn longest_idle(&mut self) -> Option<u32> {
        if !self.may_make_room() {
            return None;
        }
        let (deadlines, table) = (&self.deadlines, &mut self.table);
        let found = deadlines.of(Deadline::Idle).take(LOOKS).find(|index| {
            let protocol = &table.row(*index).protocol;
            protocol.with_fd(|fd| !socket::has_unread(fd) && socket::unsent(fd) == 0).unwrap_or(false)
        });
        if found.is_none() {
            self.search_at = self.now + LOOK_AGAIN;
        }
        found
    }

    /// Closes the connection whose place it is, as if its idle-timeout had come.
    pub(super) fn clear(&mut self, place: Place) {
        if let Place::Of(index) = place {
            self.run(index, Cause::Deadline);
        }
    }

    /// Publishes how many idle connections could be closed to make room, and wakes a master that waits for one.
    pub(super) fn publish_idle(&mut self) {
        let idle = self.deadlines.count(Deadline::Idle);
        let known = std::mem::replace(&mut self.idle, idle);
        if idle != known {
            self.worker.info.page.set(Word::Idle, idle.into());
            if idle > known && self.is_full() {
                self.intake.made_room();
            }
        }
    }
}
