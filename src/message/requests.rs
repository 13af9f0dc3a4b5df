//! The requests of one process that wait for their replies: the receiver, the deadline, and the callback of each. Pure.

use super::{Address, Undelivered};
use crate::sys::time::Time;
use std::collections::{BTreeSet, HashMap};

/// The callback for the answer to a request.
pub type OnReply = Box<dyn FnOnce(Result<&[u8], Undelivered>)>;

/// Requests by their numbers; `C` is the callback for the answer.
#[derive(Debug)]
pub struct Requests<C> {
    last: u64,
    pending: HashMap<u64, Pending<C>>,
    deadlines: BTreeSet<(Time, u64)>,
}

#[derive(Debug)]
struct Pending<C> {
    to: Address,
    deadline: Time,
    call: C,
}

impl<C> Default for Requests<C> {
    fn default() -> Self {
        Self { last: 0, pending: HashMap::new(), deadlines: BTreeSet::new() }
    }
}

impl<C> Requests<C> {
    /// An empty table; the first request gets the number after `number`.
    pub fn numbered_from(number: u64) -> Self {
        Self { last: number, ..Self::default() }
    }

    /// The number of the next request.
    pub fn next_number(&self) -> u64 {
        self.last + 1
    }

    /// Adds the request with that number, which was sent to `to`.
    pub fn add(&mut self, to: Address, deadline: Time, call: C) {
        self.last += 1;
        self.pending.insert(self.last, Pending { to, deadline, call });
        if deadline < Time::NEVER {
            self.deadlines.insert((deadline, self.last));
        }
    }

    /// Takes the request that a reply from `by` answers; `None` if it is over already, or was sent to another receiver.
    pub fn take_answered(&mut self, number: u64, by: Address) -> Option<C> {
        self.pending.get(&number).filter(|pending| pending.to == by)?;
        self.take(number)
    }

    /// The receivers of requests whose deadline has come.
    pub fn overdue(&self, now: Time) -> BTreeSet<Address> {
        self.expired(now).map(|(_, pending)| pending.to).collect()
    }

    /// Takes the requests to this receiver, or all requests if it is `None`, whose deadline had come at this time; the earliest first.
    pub fn take_expired(&mut self, at: Time, to: Option<Address>) -> Vec<C> {
        let those = self.expired(at).filter(|(_, pending)| to.is_none_or(|to| pending.to == to));
        let numbers: Vec<u64> = those.map(|(number, _)| number).collect();
        numbers.into_iter().filter_map(|number| self.take(number)).collect()
    }

    fn expired(&self, at: Time) -> impl Iterator<Item = (u64, &Pending<C>)> {
        let numbers = self.deadlines.range(..=(at, u64::MAX)).map(|(_, number)| *number);
        numbers.filter_map(|number| Some((number, self.pending.get(&number)?)))
    }

    /// Takes all requests to this receiver, or all requests if it is `None`; oldest first.
    pub fn take_all(&mut self, to: Option<Address>) -> Vec<C> {
        let those = self.pending.iter().filter(|(_, pending)| to.is_none_or(|to| pending.to == to));
        let mut numbers: Vec<u64> = those.map(|(number, _)| *number).collect();
        numbers.sort_unstable();
        numbers.into_iter().filter_map(|number| self.take(number)).collect()
    }

    /// The next deadline; [`Time::NEVER`] if there is none.
    pub fn next_deadline(&self) -> Time {
        self.deadlines.first().map_or(Time::NEVER, |(deadline, _)| *deadline)
    }

    fn take(&mut self, number: u64) -> Option<C> {
        let pending = self.pending.remove(&number)?;
        self.deadlines.remove(&(pending.deadline, number));
        Some(pending.call)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn three() -> Requests<&'static str> {
        let mut requests = Requests::default();
        requests.add(1.into(), at(30), "first");
        requests.add(2.into(), at(10), "second");
        requests.add(1.into(), Time::NEVER, "third");
        requests
    }

    fn at(ms: u64) -> Time {
        Time::from_millis(ms)
    }

    #[test]
    fn a_reply_counts_once_and_only_from_the_receiver() {
        let mut requests = three();
        assert_eq!(requests.take_answered(1, 2.into()), None);
        assert_eq!(requests.take_answered(1, 1.into()), Some("first"));
        assert_eq!(requests.take_answered(1, 1.into()), None);
        assert_eq!(requests.take_answered(9, 1.into()), None);
        assert_eq!(requests.next_deadline(), at(10));
    }

    #[test]
    fn requests_expire_in_the_order_of_their_deadlines() {
        let mut requests = three();
        assert_eq!(requests.take_expired(at(9), None), [""; 0]);
        assert!(requests.overdue(at(9)).is_empty());
        assert_eq!(requests.overdue(at(100)), BTreeSet::from([1.into(), 2.into()]));
        assert_eq!(requests.take_expired(at(100), Some(3.into())), [""; 0]);
        assert_eq!(requests.take_expired(at(100), None), ["second", "first"]);
        assert_eq!(requests.take_expired(Time::NEVER, None), [""; 0]);
        assert_eq!(requests.next_deadline(), Time::NEVER);
    }

    #[test]
    fn requests_to_a_dead_worker_are_taken() {
        let mut requests = three();
        assert_eq!(requests.take_all(Some(1.into())), ["first", "third"]);
        assert_eq!(requests.take_all(None), ["second"]);
        assert_eq!(requests.next_deadline(), Time::NEVER);
    }
}
