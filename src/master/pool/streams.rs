//! Streams that go from one worker to another with their state.
//!
//! The worker that gives one away, the *giver*, waits until it is *settled*: another worker serves it, or is gone with it. One that
//! is refused goes back to its giver. So the pool counts, for each pair of workers, the streams that are with the second and not
//! settled. It decides by its own counts alone: what a worker says of them can only settle its own.

use super::returns::Return;
use super::{Given, MOST_PARKED, Pool, Queue, System, Unplaced, WorkerEntry, broken};
use crate::handoff::{self, Handover, Origin};
use crate::ids::WorkerId;
use crate::sys::time::Time;
use std::collections::VecDeque;
use std::time::Duration;

/// Streams that were given away by one worker, and given to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "control", derive(serde::Serialize, serde::Deserialize))]
pub struct Transit {
    /// The worker that has given them away.
    pub giver: WorkerId,
    /// The one that has them, or has them in its queue.
    pub taker: WorkerId,
    /// How many.
    pub count: u32,
}

/// The queue from which a stream is taken back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// What the worker has not taken.
    ToWorker,
    /// What it has given to the master.
    ToMaster,
}

/// What the pool knows of such streams.
pub struct Streams<C> {
    /// Those that are with another worker and not settled.
    pub transits: Vec<Transit>,
    /// Those that are for a certain worker, and that its queue has not taken.
    pub directed: VecDeque<Unplaced<C>>,
    /// By giver: those that have been settled since the master last told it.
    pub settled: Vec<(WorkerId, u32)>,
    /// Those that were lost, because neither another worker would take them nor their giver is left.
    pub lost: u64,
    /// The time since which no worker has had room for what comes back; never if one has, or nothing waits.
    without_room: Time,
    /// A rule that the simulator has broken.
    #[cfg(test)]
    pub fault: Option<super::Fault>,
}

impl<C> Default for Streams<C> {
    fn default() -> Self {
        Self {
            transits: Vec::new(),
            directed: VecDeque::new(),
            settled: Vec::new(),
            lost: 0,
            without_room: Time::NEVER,
            #[cfg(test)]
            fault: None,
        }
    }
}

impl<C> Streams<C> {
    /// A stream of `giver` is in the queue of `taker`.
    pub(super) fn note_given(&mut self, giver: WorkerId, taker: WorkerId) {
        match self.transits.iter_mut().find(|t| (t.giver, t.taker) == (giver, taker)) {
            Some(transit) => transit.count += 1,
            None => self.transits.push(Transit { giver, taker, count: 1 }),
        }
    }

    /// Takes up to `count` streams of `giver` out of the count of `taker`; returns how many there were.
    fn take(&mut self, giver: WorkerId, taker: WorkerId, count: u32) -> u32 {
        let Some(at) = self.transits.iter().position(|t| (t.giver, t.taker) == (giver, taker)) else {
            return 0;
        };
        let transit = &mut self.transits[at];
        let taken = transit.count.min(count);
        transit.count -= taken;
        if transit.count == 0 {
            self.transits.swap_remove(at);
        }
        taken
    }

    fn settle(&mut self, giver: WorkerId, count: u32) {
        match self.settled.iter_mut().find(|(id, _)| *id == giver) {
            Some((_, settled)) => *settled += count,
            None if count > 0 => self.settled.push((giver, count)),
            None => {}
        }
    }

    /// `taker` says that it serves `count` streams of `giver`.
    pub fn took_over(&mut self, giver: WorkerId, taker: WorkerId, count: u32) {
        let taken = self.take(giver, taker, count);
        if !broken!(self, TakeoverUnsettled) {
            self.settle(giver, taken);
        }
    }

    /// Both queues of a worker that has ended are empty: what it had taken is lost.
    pub(super) fn end_taker(&mut self, taker: WorkerId) {
        let lost: Vec<_> = self.transits.extract_if(.., |t| t.taker == taker).collect();
        for Transit { giver, count, .. } in lost {
            if !broken!(self, DeadTakerUnsettled) {
                self.settle(giver, count);
            }
        }
    }

    /// A stream has come out of a queue of this worker.
    pub(super) fn comes_from(&mut self, owner: WorkerId, way: Way, origin: &mut Origin) {
        let Some(stream) = &mut origin.stream else { return };
        match (stream.giver, way) {
            // One that goes back to its giver counts for no taker any more.
            (Some(_), Way::ToWorker) if stream.is_refused => {}
            (Some(_), _) if broken!(self, ReturnedStillUnderWay) => {}
            (Some(giver), _) => drop(self.take(giver, owner, 1)),
            (None, Way::ToMaster) if broken!(self, GiverForgotten) => {}
            (None, _) if way == Way::ToMaster || broken!(self, UntakenBecomesOwn) => {
                stream.giver = Some(owner)
            }
            // Its giver is gone, and its taker has not had it.
            (None, _) => {}
        }
    }
}

/// The time after which a stream goes back if no worker has room for it.
const WITHOUT_ROOM: Duration = Duration::from_secs(1);

/// True for a stream that can go back to the worker that has given it away.
fn has_giver(origin: &Origin) -> bool {
    origin.stream.is_some_and(|stream| stream.giver.is_some())
}

/// True for a stream that is for a certain worker.
pub(super) fn is_directed(origin: &Origin) -> bool {
    origin.stream.is_some_and(|stream| stream.is_refused || stream.taker.is_some())
}

impl<S: System> Pool<S> {
    /// Gives streams to the workers that they are for.
    pub(super) fn place_directed(&mut self) {
        for _ in 0..self.streams.directed.len() {
            let Some(unplaced) = self.streams.directed.pop_front() else { break };
            self.direct(unplaced);
        }
        if !self.streams.directed.is_empty() && !broken!(self, DirectedUnchecked) {
            self.check_soon();
        }
    }

    fn direct(&mut self, mut unplaced: Unplaced<S::Connection>) {
        let Some(stream) = &mut unplaced.origin.stream else { return self.parked.push_back(unplaced) };
        if let Some(taker) = stream.taker.take()
            && !stream.is_refused
        {
            let max_queued = self.max_queued;
            let giver = stream.giver;
            if broken!(self, GoalIgnored) {
                return self.parked.push_back(unplaced);
            }
            let fits = |w: &WorkerEntry<S>| w.load(max_queued).is_some() && Some(taker) != giver;
            if self.workers.get(taker).is_some_and(fits)
                && matches!(self.give_directly(taker, &unplaced), Some(Given::Done))
            {
                return;
            }
            // It has only to take what is queued for it.
            let waits = |w: &WorkerEntry<S>| w.will_have_room() && Some(taker) != giver;
            if self.workers.get(taker).is_some_and(waits) && !self.is_closed {
                unplaced.origin.stream = Some(Handover { giver, taker: Some(taker), is_refused: false });
                return self.streams.directed.push_back(unplaced);
            }
            let is_refused = !broken!(self, GoalMissedToAnyone);
            unplaced.origin.stream = Some(Handover { giver, taker: None, is_refused });
            if !is_refused {
                return self.parked.push_back(unplaced);
            }
        }
        let Some(Handover { giver, .. }) = unplaced.origin.stream else { return };
        let giver = giver.filter(|_| !broken!(self, RefusedReset));
        match giver.and_then(|giver| self.give_directly(giver, &unplaced)) {
            Some(Given::Done) => {}
            Some(Given::Full) if broken!(self, DirectedForgotten) => {}
            Some(Given::Full) => self.streams.directed.push_back(unplaced),
            Some(Given::Gone) | None => self.offer(unplaced),
        }
    }

    /// Offers a stream whose giver is gone to any worker, once.
    fn offer(&mut self, mut unplaced: Unplaced<S::Connection>) {
        let had_giver = unplaced.origin.stream.is_some_and(|stream| stream.giver.is_some());
        if had_giver && !self.is_closed {
            let giver = unplaced.origin.stream.and_then(|stream| stream.giver);
            let giver = giver.filter(|_| broken!(self, OfferedWithoutEnd));
            unplaced.origin.stream = Some(Handover { giver, ..Handover::default() });
            self.parked.push_back(unplaced);
        } else {
            self.streams.lost += u64::from(!broken!(self, LossUncounted));
            self.system.log(format_args!("a stream that is handed over has no worker any more: reset"));
            self.system.reset(unplaced.connection);
        }
    }

    /// Gives a stream to this worker, whether dispatch may choose it or not; `None` if there is no such worker.
    fn give_directly(&mut self, id: WorkerId, unplaced: &Unplaced<S::Connection>) -> Option<Given> {
        let worker = self.workers.get_mut(id)?;
        // Before the call, as the worker may take it at once.
        worker.given = worker.given.wrapping_add(1);
        let given = worker.queue.give(std::slice::from_ref(unplaced)).unwrap_or(Given::Full);
        match (given, unplaced.origin.stream) {
            (Given::Done, Some(Handover { giver: Some(giver), is_refused: false, .. }))
                if !broken!(self, HandoverUncounted) =>
            {
                self.streams.note_given(giver, id);
            }
            (Given::Done, _) => {}
            _ => worker.given = worker.given.wrapping_sub(1),
        }
        if given == Given::Done && !broken!(self, DirectedNotWatched) {
            self.check_soon();
        }
        Some(given)
    }

    /// Sends streams back to their givers if no worker has had room for what comes back for [`WITHOUT_ROOM`]: there they are served.
    pub(super) fn send_waiting_home(&mut self, poll: &S::Poll) {
        let waits = self.has_returns() || self.parked.iter().any(|c| has_giver(&c.origin));
        if !waits || self.is_closed || self.will_have_room_for_returns() {
            self.streams.without_room = Time::NEVER;
            return;
        }
        self.streams.without_room = self.streams.without_room.min(self.now);
        self.check_soon();
        if self.now < self.streams.without_room + WITHOUT_ROOM {
            return;
        }
        loop {
            for unplaced in std::mem::take(&mut self.parked) {
                match has_giver(&unplaced.origin) {
                    true => self.send_home(unplaced),
                    false => self.parked.push_back(unplaced),
                }
            }
            let handed_back = self.returns.iter().position(|r| matches!(r, Return::HandedBack(_)));
            let can_park = self.parked.len() + handoff::MOST <= MOST_PARKED;
            let Some(at) = handed_back.filter(|_| can_park && self.has_returns()) else { return };
            self.returns.swap(0, at);
            if let Some(connection) = self.next_return(&mut false, poll) {
                self.parked.push_back(connection);
            }
        }
    }

    /// A stop has closed the listeners: what is under way goes back to its giver, or is reset.
    pub(super) fn send_home(&mut self, mut unplaced: Unplaced<S::Connection>) {
        if broken!(self, StopClosesStreams) {
            return self.system.close(unplaced.connection);
        }
        if let Some(stream) = &mut unplaced.origin.stream {
            stream.is_refused = true;
        }
        self.direct(unplaced);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: WorkerId = WorkerId(1);
    const B: WorkerId = WorkerId(2);
    const C: WorkerId = WorkerId(3);

    fn streams(given: &[(WorkerId, WorkerId)]) -> Streams<()> {
        let mut streams = Streams::default();
        given.iter().for_each(|(giver, taker)| streams.note_given(*giver, *taker));
        streams
    }

    #[test]
    fn a_stream_is_settled_once_whatever_its_taker_says() {
        let mut streams = streams(&[(A, B), (A, B), (A, C)]);
        streams.took_over(A, B, 1);
        streams.took_over(A, B, 100);
        streams.took_over(A, B, 1);
        streams.took_over(C, B, 1);
        assert_eq!(streams.settled, [(A, 2)]);
        assert_eq!(streams.transits, [Transit { giver: A, taker: C, count: 1 }]);
    }

    #[test]
    fn what_a_taker_that_ends_has_taken_is_settled_and_what_is_left_in_its_queue_is_not() {
        let mut streams = streams(&[(A, B), (A, B), (C, B), (A, C)]);
        let mut origin =
            Origin::stream(Default::default(), Handover { giver: Some(A), ..Handover::default() });
        streams.comes_from(B, Way::ToWorker, &mut origin);
        streams.end_taker(B);
        assert_eq!(streams.settled, [(A, 1), (C, 1)]);
        assert_eq!(streams.transits, [Transit { giver: A, taker: C, count: 1 }]);
    }

    #[test]
    fn what_goes_back_or_has_no_giver_counts_for_no_taker() {
        let mut streams = streams(&[(A, A), (B, A)]);
        let mut home = Origin::stream(
            Default::default(),
            Handover { giver: Some(A), is_refused: true, ..Handover::default() },
        );
        streams.comes_from(A, Way::ToWorker, &mut home);
        let mut orphan = Origin::stream(Default::default(), Handover::default());
        streams.comes_from(A, Way::ToWorker, &mut orphan);
        assert_eq!(orphan.stream, Some(Handover::default()));
        assert_eq!(streams.transits.len(), 2);
    }

    #[test]
    fn the_giver_of_a_stream_is_the_worker_whose_queue_it_comes_from() {
        let mut streams = streams(&[]);
        let mut origin = Origin::stream(Default::default(), Handover::default());
        streams.comes_from(B, Way::ToMaster, &mut origin);
        assert_eq!(origin.stream, Some(Handover { giver: Some(B), taker: None, is_refused: false }));
        let mut idle = Origin::idle(Default::default());
        streams.comes_from(B, Way::ToMaster, &mut idle);
        assert_eq!(idle.stream, None);
    }
}
