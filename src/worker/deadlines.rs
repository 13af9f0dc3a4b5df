//! Deadlines of connections: one queue per kind of deadline.
//!
//! All deadlines of a kind last equally long, so they expire in the order in which they were set: setting, clearing and
//! finding the next one take a few steps whatever the number of connections.

use super::engine::Deadline;
use crate::config::Timeouts;
use crate::sys::time::Time;
use std::time::Duration;

const KINDS: usize = 7;
const NONE: u32 = u32::MAX;
/// The longest pause of a client during a lingering close.
const LINGER: Duration = Duration::from_secs(5);
/// The time an idle connection has to send another request when the worker drains.
const DRAIN_GRACE: Duration = Duration::from_millis(500);

/// All deadlines. A connection is known by the index of its row in the table of connections.
pub struct Deadlines {
    queues: [Queue; KINDS],
    /// A bit for each queue that is not empty.
    used: u8,
    /// By connection.
    links: Vec<Link>,
}

struct Queue {
    first: u32,
    last: u32,
    /// The number of deadlines.
    count: u32,
    /// Zero if these deadlines never come.
    length: Duration,
}

/// The place of a connection in the queue of its deadline.
#[derive(Clone, Copy)]
struct Link {
    kind: Option<Deadline>,
    prev: u32,
    next: u32,
    expires: Time,
}

impl Link {
    const UNUSED: Self = Self { kind: None, prev: NONE, next: NONE, expires: Time::NEVER };
}

impl Deadlines {
    /// Empty queues for up to `capacity` connections.
    pub fn new(t: &Timeouts, capacity: u32) -> Self {
        let queue = |length| Queue { first: NONE, last: NONE, count: 0, length };
        Self {
            queues: [t.header, t.body, t.idle, t.idle, t.write, LINGER, t.response].map(queue),
            used: 0,
            links: Vec::with_capacity(capacity as usize),
        }
    }

    /// Replaces the deadline of a connection. The same deadline starts again, except as [`Deadline`] says; `progress` is true if
    /// the client has taken bytes since the last time, or the handler has written some. Returns false if the deadline continues.
    pub fn set(&mut self, index: u32, kind: Deadline, progress: bool, now: Time) -> bool {
        let at = index as usize;
        if self.links.len() <= at {
            self.links.resize(at + 1, Link::UNUSED);
        }
        let continues = match kind {
            Deadline::Header => true,
            Deadline::Write | Deadline::Response => !progress,
            Deadline::Body | Deadline::Idle | Deadline::Quiet | Deadline::Linger => false,
        };
        if continues && self.links[at].kind == Some(kind) {
            return false;
        }
        self.clear(index);
        let queue = &mut self.queues[kind as usize];
        queue.count += 1;
        self.used |= 1 << kind as u8;
        let prev = std::mem::replace(&mut queue.last, index);
        self.links[at] = Link { kind: Some(kind), prev, next: NONE, expires: now.deadline(queue.length) };
        match self.links.get_mut(prev as usize) {
            Some(prev) => prev.next = index,
            None => queue.first = index,
        }
        true
    }

    /// The kind of deadline that a connection has.
    pub fn kind(&self, index: u32) -> Option<Deadline> {
        self.links.get(index as usize)?.kind
    }

    /// Removes the deadline of a connection, if it has one.
    pub fn clear(&mut self, index: u32) {
        let Some(link) = self.links.get_mut(index as usize) else { return };
        let Link { kind: Some(kind), prev, next, .. } = std::mem::replace(link, Link::UNUSED) else { return };
        let queue = &mut self.queues[kind as usize];
        queue.count -= 1;
        match self.links.get_mut(prev as usize) {
            Some(prev) => prev.next = next,
            None => {
                queue.first = next;
                self.used &= !(u8::from(next == NONE) << kind as u8);
            }
        }
        match self.links.get_mut(next as usize) {
            Some(next) => next.prev = prev,
            None => queue.last = prev,
        }
    }

    /// The time of the next deadline; [`Time::NEVER`] if there is none.
    pub fn next(&self) -> Time {
        self.heads().map(|(_, expires)| expires).min().unwrap_or(Time::NEVER)
    }

    /// A connection whose deadline has come. The caller sets another one, or clears this one.
    pub fn expired(&self, now: Time) -> Option<u32> {
        self.heads().find(|(_, expires)| *expires <= now).map(|(index, _)| index)
    }

    /// The connection that has had a deadline of this kind longest.
    pub fn first(&self, kind: Deadline) -> Option<u32> {
        Some(self.queues[kind as usize].first).filter(|index| *index != NONE)
    }

    /// The connections that have a deadline of this kind, in the order in which they were set.
    pub fn of(&self, kind: Deadline) -> impl Iterator<Item = u32> {
        let next =
            |index: &u32| self.links.get(*index as usize).map(|link| link.next).filter(|next| *next != NONE);
        std::iter::successors(self.first(kind), next)
    }

    /// The number of connections that have a deadline of this kind.
    pub fn count(&self, kind: Deadline) -> u32 {
        self.queues[kind as usize].count
    }

    fn heads(&self) -> impl Iterator<Item = (u32, Time)> {
        let mut used = self.used;
        std::iter::from_fn(move || {
            let queue = self.queues.get(used.trailing_zeros() as usize)?;
            used &= used - 1;
            Some((queue.first, self.links.get(queue.first as usize)?.expires))
        })
    }

    /// Leaves idle HTTP connections only a short grace from now on: those that are idle, and those that will be.
    pub fn shorten_idle(&mut self, now: Time) {
        let queue = &mut self.queues[Deadline::Idle as usize];
        queue.length = if queue.length.is_zero() { DRAIN_GRACE } else { DRAIN_GRACE.min(queue.length) };
        let mut index = queue.first;
        while let Some(link) = self.links.get_mut(index as usize) {
            link.expires = now + queue.length;
            index = link.next;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ALL: [Deadline; KINDS] = [
        Deadline::Header,
        Deadline::Body,
        Deadline::Idle,
        Deadline::Quiet,
        Deadline::Write,
        Deadline::Linger,
        Deadline::Response,
    ];

    fn times() -> Timeouts {
        let ms = Duration::from_millis;
        Timeouts { header: ms(30), body: ms(20), idle: ms(0), write: ms(10), response: ms(40) }
    }

    fn at(ms: u64) -> Time {
        Time::from_millis(ms)
    }

    proptest! {
        /// Against a table of expiry times that is searched from end to end.
        #[test]
        fn expires_what_a_naive_table_expires(
            steps in proptest::collection::vec((0u32..6, 0usize..9, any::<bool>(), 0u64..9), 1..200)
        ) {
            let mut d = Deadlines::new(&times(), 6);
            let mut naive: [Option<(Deadline, Time)>; 6] = [None; 6];
            let mut now = at(0);
            for (index, kind, progress, wait) in steps {
                now = now + Duration::from_millis(wait);
                match ALL.get(kind) {
                    Some(&kind) => {
                        let may_restart = matches!(kind, Deadline::Write | Deadline::Response);
                        let continues = (may_restart && !progress || kind == Deadline::Header)
                            && naive[index as usize].is_some_and(|(k, _)| k == kind);
                        if !continues {
                            naive[index as usize] = Some((kind, now.deadline(d.queues[kind as usize].length)));
                        }
                        d.set(index, kind, progress, now);
                    }
                    None => {
                        naive[index as usize] = None;
                        d.clear(index);
                    }
                }
                let next = naive.iter().flatten().map(|(_, at)| *at).min();
                prop_assert_eq!(d.next(), next.unwrap_or(Time::NEVER));
                for kind in ALL {
                    let listed: Vec<u32> = d.of(kind).collect();
                    let mut expected: Vec<u32> =
                        (0..6).filter(|i| naive[*i as usize].is_some_and(|(k, _)| k == kind)).collect();
                    prop_assert_eq!(d.count(kind) as usize, listed.len());
                    prop_assert!(listed.is_sorted_by_key(|i| d.links[*i as usize].expires));
                    expected.sort_by_key(|i| listed.iter().position(|l| l == i));
                    prop_assert_eq!(listed, expected);
                }
                while let Some(i) = d.expired(now) {
                    let (_, at) = naive[i as usize].take().unwrap();
                    prop_assert!(at <= now);
                    d.clear(i);
                }
                prop_assert!(naive.iter().flatten().all(|(_, at)| *at > now));
            }
        }
    }

    #[test]
    fn idle_connections_have_a_grace_when_the_worker_drains_even_if_they_had_forever() {
        let mut d = Deadlines::new(&times(), 2);
        d.set(0, Deadline::Idle, false, at(0));
        assert_eq!(d.next(), Time::NEVER);
        d.shorten_idle(at(1000));
        assert_eq!(d.next(), at(1500));
        d.set(1, Deadline::Idle, false, at(1200));
        d.clear(0);
        assert_eq!(d.next(), at(1700));
        let mut d = Deadlines::new(&times(), 1);
        d.set(0, Deadline::Quiet, false, at(0));
        d.shorten_idle(at(1000));
        assert_eq!(d.next(), Time::NEVER, "a stream has its own end");
    }
}
