//! Deadlines of connections: one queue per kind of deadline.
//!
//! All deadlines of a kind last equally long, so a queue in order of setting is in order of expiry, and setting, clearing
//! and finding the next one take a few steps whatever the number of connections. The links lie in the connections' table.

use super::engine::Deadline;
use crate::config::Timeouts;
use std::time::Duration;

const KINDS: usize = 5;
const NONE: u32 = u32::MAX;
/// How long a lingering close lasts at the most.
const LINGER: Duration = Duration::from_secs(2);
/// How long an idle connection has to send another request when the worker drains.
const DRAIN_GRACE: Duration = Duration::from_millis(500);

/// A connection's place in a queue.
#[derive(Clone, Copy, Debug)]
pub struct Link {
    prev: u32,
    next: u32,
    kind: Option<Deadline>,
    expires: u64,
}

impl Default for Link {
    fn default() -> Self {
        Self { prev: NONE, next: NONE, kind: None, expires: 0 }
    }
}

/// The heads of the queues.
pub struct Deadlines {
    first: [u32; KINDS],
    last: [u32; KINDS],
    /// Milliseconds; 0 where such a deadline never comes.
    length: [u64; KINDS],
}

impl Deadlines {
    /// Empty queues with the lengths that are set.
    pub fn new(t: &Timeouts) -> Self {
        let lengths = [t.header, t.body, t.idle, t.write, LINGER];
        Self { first: [NONE; KINDS], last: [NONE; KINDS], length: lengths.map(|d| d.as_millis() as u64) }
    }

    /// Puts the connection at `index` under a deadline instead of the one it was under. `Header`, `Write` and `Linger` run on where
    /// they run already.
    pub fn set(&mut self, links: &mut impl Links, index: u32, kind: Deadline, now: u64) {
        let old = links.link(index).kind;
        if old == Some(kind) && runs_on(kind) {
            return;
        }
        self.clear(links, index);
        let k = kind as usize;
        if self.length[k] == 0 {
            *links.link(index) = Link { kind: Some(kind), ..Link::default() };
            return;
        }
        let last = self.last[k];
        *links.link(index) = Link { prev: last, next: NONE, kind: Some(kind), expires: now + self.length[k] };
        match last {
            NONE => self.first[k] = index,
            before => links.link(before).next = index,
        }
        self.last[k] = index;
    }

    /// Takes the connection at `index` out of its queue.
    pub fn clear(&mut self, links: &mut impl Links, index: u32) {
        let Link { prev, next, kind, .. } = std::mem::take(links.link(index));
        let Some(k) = kind.map(|k| k as usize) else { return };
        match prev {
            // Under a deadline that never comes it stands in no queue.
            NONE if self.first[k] != index => return,
            NONE => self.first[k] = next,
            before => links.link(before).next = next,
        }
        match next {
            NONE => self.last[k] = prev,
            behind => links.link(behind).prev = prev,
        }
    }

    /// Takes the connection at `index` out of its queue if it is the one of this kind.
    pub fn clear_if(&mut self, links: &mut impl Links, index: u32, kind: Deadline) {
        if links.link(index).kind == Some(kind) {
            self.clear(links, index);
        }
    }

    /// When the next deadline comes.
    pub fn next(&self, links: &mut impl Links) -> Option<u64> {
        self.first.iter().filter(|&&i| i != NONE).map(|&i| links.link(i).expires).min()
    }

    /// A connection whose deadline has come. The caller gives it another one, or closes it.
    pub fn expired(&self, links: &mut impl Links, now: u64) -> Option<u32> {
        self.first.iter().copied().find(|&i| i != NONE && links.link(i).expires <= now)
    }

    /// From now on a connection that is set idle has but a short grace. Those that are idle already are to be set again.
    pub fn shorten_idle(&mut self) {
        let grace = DRAIN_GRACE.as_millis() as u64;
        let length = &mut self.length[Deadline::Idle as usize];
        *length = if *length == 0 { grace } else { grace.min(*length) };
    }
}

fn runs_on(kind: Deadline) -> bool {
    matches!(kind, Deadline::Header | Deadline::Write | Deadline::Linger)
}

/// Where the links lie.
pub trait Links {
    /// The link of the connection at `index`.
    fn link(&mut self, index: u32) -> &mut Link;
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    impl Links for Vec<Link> {
        fn link(&mut self, index: u32) -> &mut Link {
            &mut self[index as usize]
        }
    }

    const ALL: [Deadline; KINDS] =
        [Deadline::Header, Deadline::Body, Deadline::Idle, Deadline::Write, Deadline::Linger];

    fn times() -> Timeouts {
        let ms = Duration::from_millis;
        Timeouts { header: ms(30), body: ms(20), idle: ms(0), write: ms(10) }
    }

    proptest! {
        /// Against a table of expiry times that is searched from end to end.
        #[test]
        fn expires_what_a_naive_table_expires(steps in proptest::collection::vec((0u32..6, 0usize..7, 0u64..9), 1..200)) {
            let mut links = vec![Link::default(); 6];
            let mut d = Deadlines::new(&times());
            let mut naive: [Option<(Deadline, Option<u64>)>; 6] = [None; 6];
            let mut now = 0;
            for (index, what, wait) in steps {
                now += wait;
                match ALL.get(what) {
                    Some(&kind) => {
                        let runs_on = runs_on(kind) && naive[index as usize].is_some_and(|(k, _)| k == kind);
                        if !runs_on {
                            let length = d.length[kind as usize];
                            naive[index as usize] = Some((kind, (length > 0).then_some(now + length)));
                        }
                        d.set(&mut links, index, kind, now);
                    }
                    None => {
                        naive[index as usize] = None;
                        d.clear(&mut links, index);
                    }
                }
                prop_assert_eq!(d.next(&mut links), naive.iter().filter_map(|n| n.and_then(|n| n.1)).min());
                while let Some(i) = d.expired(&mut links, now) {
                    let (_, at) = naive[i as usize].take().unwrap();
                    prop_assert!(at.unwrap() <= now);
                    d.clear(&mut links, i);
                }
                prop_assert!(naive.iter().flatten().all(|(_, at)| at.is_none_or(|at| at > now)));
            }
        }
    }

    #[test]
    fn idle_connections_get_a_grace_when_draining_even_where_they_had_for_ever() {
        let mut links = vec![Link::default(); 1];
        let mut d = Deadlines::new(&times());
        d.set(&mut links, 0, Deadline::Idle, 0);
        assert_eq!(d.next(&mut links), None);
        d.shorten_idle();
        d.set(&mut links, 0, Deadline::Idle, 1000);
        assert_eq!(d.next(&mut links), Some(1500));
    }
}
