//! The requests of one process that wait for their replies: to whom, until when, and what is called then. Pure.

use std::collections::{BTreeSet, HashMap};

/// Requests by their numbers; `C` is what is done with the answer.
#[derive(Debug)]
pub struct Requests<C> {
    last: u64,
    open: HashMap<u64, Open<C>>,
    deadlines: BTreeSet<(u64, u64)>,
}

#[derive(Debug)]
struct Open<C> {
    to: u32,
    deadline: u64,
    call: C,
}

impl<C> Default for Requests<C> {
    fn default() -> Self {
        Self { last: 0, open: HashMap::new(), deadlines: BTreeSet::new() }
    }
}

impl<C> Requests<C> {
    /// None; the first one gets the number behind `number`.
    pub fn numbered_from(number: u64) -> Self {
        Self { last: number, ..Self::default() }
    }

    /// The number the next request will have.
    pub fn next_number(&self) -> u64 {
        self.last + 1
    }

    /// Adds the request of that number, which was sent to `to`; `deadline` is `u64::MAX` where it has none.
    pub fn add(&mut self, to: u32, deadline: u64, call: C) {
        self.last += 1;
        self.open.insert(self.last, Open { to, deadline, call });
        if deadline < u64::MAX {
            self.deadlines.insert((deadline, self.last));
        }
    }

    /// Takes the request that a reply answers; `None` where it is over already, or was sent to somebody else.
    pub fn answered(&mut self, number: u64, by: u32) -> Option<C> {
        self.open.get(&number).filter(|open| open.to == by)?;
        self.remove(number)
    }

    /// Takes a request whose deadline has come.
    pub fn expired(&mut self, now: u64) -> Option<C> {
        let (deadline, number) = *self.deadlines.first()?;
        if deadline > now { None } else { self.remove(number) }
    }

    /// Takes the requests to somebody who is gone, oldest first; all of them where `to` is `None`.
    pub fn abandoned(&mut self, to: Option<u32>) -> Vec<C> {
        let those = self.open.iter().filter(|(_, open)| to.is_none_or(|to| open.to == to));
        let mut numbers: Vec<u64> = those.map(|(number, _)| *number).collect();
        numbers.sort_unstable();
        numbers.into_iter().filter_map(|number| self.remove(number)).collect()
    }

    /// When the next deadline comes.
    pub fn due(&self) -> Option<u64> {
        self.deadlines.first().map(|(deadline, _)| *deadline)
    }

    fn remove(&mut self, number: u64) -> Option<C> {
        let open = self.open.remove(&number)?;
        self.deadlines.remove(&(open.deadline, number));
        Some(open.call)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn three() -> Requests<&'static str> {
        let mut requests = Requests::default();
        requests.add(1, 30, "first");
        requests.add(2, 10, "second");
        requests.add(1, u64::MAX, "third");
        requests
    }

    #[test]
    fn a_reply_counts_once_and_only_from_the_one_who_was_asked() {
        let mut requests = three();
        assert_eq!(requests.answered(1, 2), None);
        assert_eq!(requests.answered(1, 1), Some("first"));
        assert_eq!(requests.answered(1, 1), None);
        assert_eq!(requests.answered(9, 1), None);
        assert_eq!(requests.due(), Some(10));
    }

    #[test]
    fn deadlines_come_in_their_order() {
        let mut requests = three();
        assert_eq!(requests.expired(9), None);
        assert_eq!(requests.expired(100), Some("second"));
        assert_eq!(requests.expired(100), Some("first"));
        assert_eq!(requests.expired(u64::MAX), None);
        assert_eq!(requests.due(), None);
    }

    #[test]
    fn what_was_asked_of_the_dead_is_given_up() {
        let mut requests = three();
        assert_eq!(requests.abandoned(Some(1)), ["first", "third"]);
        assert_eq!(requests.abandoned(None), ["second"]);
        assert_eq!(requests.due(), None);
    }
}
