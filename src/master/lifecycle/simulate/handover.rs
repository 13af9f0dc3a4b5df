//! The part of a worker of the model that gives streams away and takes them over (`worker/event_loop/handover.rs`).

use super::NEVER;
use super::model::Messages;
use super::mutation::Mutation;
use super::process::{Held, Item, LONGEST, Notice, Process, Ran};
use super::random::Random;
use super::tracks::Tracks;
use crate::event::Exit;
use crate::handoff::{self, Handover, Origin};
use crate::ids::{ListenerId, WorkerId};
use std::collections::VecDeque;
use std::rc::Rc;

/// Messages that wait to be taken back before the worker has to try again.
const BACK_ROOM: usize = 3;
/// Streams whose handler is asked in one turn.
const ASKED: usize = 3;
/// The time after which giving is tried again if the channel was full (milliseconds).
const AGAIN: u64 = 5;

/// How the handler of a worker treats streams, in percent.
#[derive(Clone, Copy, Debug, Default)]
pub struct Style {
    /// New connections that become streams.
    pub begins: u64,
    /// Streams that stay when the worker drains.
    pub keeps: u64,
    /// Streams of others that it refuses.
    pub refuses: u64,
    /// Streams that go to another worker on purpose.
    pub transfers: u64,
    /// Takeovers in which it dies.
    pub dies: u64,
}

impl Style {
    pub fn some(r: &mut Random) -> Self {
        if r.chance(40) {
            return Self::default();
        }
        Self {
            begins: r.between(10, 90),
            keeps: r.one_of(&[0, 0, 20, 100]),
            refuses: r.one_of(&[0, 0, 30, 90]),
            transfers: r.one_of(&[0, 20, 60]),
            dies: r.one_of(&[0, 0, 5]),
        }
    }

    /// That of one worker: those of a generation may differ.
    pub fn vary(self, r: &mut Random) -> Self {
        match r.below(6) {
            0 => Self { refuses: 100, ..self },
            1 => Self { refuses: 0, keeps: 0, ..self },
            _ => self,
        }
    }
}

/// The streams of a worker that are between it and another.
#[derive(Debug)]
pub struct Moves {
    pub style: Style,
    /// What is known of all streams.
    pub tracks: Rc<Tracks>,
    /// Given away, and not taken by the channel yet.
    pub leaving: VecDeque<(u32, Origin)>,
    /// The number of those that the channel has taken and that may come back.
    pub unsettled: u32,
    /// The master has told that so many of these will not.
    pub settled: u32,
    /// By giver: those that were taken over, and of which the master does not know yet.
    pub taken: Vec<(WorkerId, u32)>,
    /// Those that have come back, which need no place.
    pub came_back: usize,
    asks: bool,
    has_begun: bool,
    again_at: u64,
}

impl Moves {
    pub fn new(style: Style, tracks: Rc<Tracks>) -> Self {
        Self {
            style,
            tracks,
            leaving: VecDeque::new(),
            unsettled: 0,
            settled: 0,
            taken: Vec::new(),
            came_back: 0,
            asks: false,
            has_begun: false,
            again_at: 0,
        }
    }

    /// True if nothing can come back any more.
    pub fn are_settled(&self) -> bool {
        self.leaving.is_empty() && (self.unsettled == 0 || self.is(Mutation::GiverDoesNotWait))
    }

    fn is(&self, mutation: Mutation) -> bool {
        self.tracks.mutation == Some(mutation)
    }
}

/// Puts connections into a queue as one message.
pub fn put_message(queue: &Messages, connections: impl Iterator<Item = (u32, Origin)>) {
    let item =
        |(at, (c, origin))| if at == 0 { Item::Connection(c, origin) } else { Item::Another(c, origin) };
    queue.borrow_mut().extend(connections.enumerate().map(item));
}

impl Process {
    /// True if it leaves the rest of its queue to the master.
    pub(super) fn is_closed(&self) -> bool {
        let settled = self.moves.are_settled() || self.moves.is(Mutation::GiverClosesItsQueue);
        self.draining == Some(true) && settled
    }

    /// The streams that this worker has given away, and that it still has itself.
    pub fn leaving(&self) -> impl Iterator<Item = u32> + '_ {
        self.moves.leaving.iter().map(|(connection, _)| *connection)
    }

    /// A new connection turns out to be a stream.
    pub(super) fn begin_stream(&mut self, connection: u32, now: u64, r: &mut Random) {
        let until = now + r.between(0, 3 * LONGEST);
        self.moves.tracks.begin(connection, until);
        self.hold_stream(connection, until, false, now, r);
    }

    fn hold_stream(&mut self, connection: u32, until: u64, stays: bool, now: u64, r: &mut Random) {
        let goes = r.chance(self.moves.style.transfers);
        let goes_at = if goes { now + r.between(1, LONGEST) } else { NEVER };
        self.holds.push(Held { connection, idle_from: NEVER, until, is_stream: true, stays, goes_at });
    }

    /// A stream has come from another worker, or has come back.
    pub(super) fn take_over(
        &mut self,
        connection: u32,
        origin: Origin,
        now: u64,
        r: &mut Random,
        ran: &mut Ran,
    ) {
        let Some(stream) = origin.stream else { return };
        if stream.is_refused {
            self.moves.came_back += 1;
            self.moves.unsettled = self.moves.unsettled.saturating_sub(1);
        }
        let is_last = stream.is_refused || stream.giver.is_none();
        if !self.arrive(connection, is_last, now, r, ran) {
            let refused = Handover { is_refused: true, ..stream };
            self.moves.leaving.push_back((connection, Origin::stream(origin.listener, refused)));
            return;
        }
        let Some(giver) = stream.giver.filter(|_| !stream.is_refused) else { return };
        if r.chance(self.moves.style.dies) {
            self.dies = (now, Exit::Signal { number: 11, core: false });
        }
        if self.moves.is(Mutation::TakeoverUntold) {
            return;
        }
        match self.moves.taken.iter_mut().find(|(id, _)| *id == giver) {
            Some((_, count)) => *count += 1,
            None => self.moves.taken.push((giver, 1)),
        }
    }

    /// False if the stream is refused, and another worker may have it.
    fn arrive(&mut self, connection: u32, is_last: bool, now: u64, r: &mut Random, ran: &mut Ran) -> bool {
        let refuses = if self.moves.tracks.is_of(connection, self.id) { 5 } else { self.moves.style.refuses };
        if !self.blocking && !r.chance(refuses) {
            let home = self.moves.tracks.is_of(connection, self.id) && is_last;
            let until = self.moves.tracks.taken(connection);
            let stays = is_last && self.draining.is_some() && !self.moves.is(Mutation::AskedAgain);
            self.hold_stream(connection, until, stays, now, r);
            if home && self.draining.is_some() {
                self.moves.tracks.came_home(connection);
            }
            return true;
        }
        if is_last || self.moves.is(Mutation::RefusedIsLost) {
            self.moves.tracks.lost(connection, self.id);
            self.counters.unseen.set(self.counters.unseen.get() + 1);
            ran.made_room = true;
            ran.refused += 1;
            return true;
        }
        self.moves.tracks.refused(connection, self.id);
        false
    }

    /// Has the streams of a worker that drains go to others; tells the master of those that have come.
    pub(super) fn move_streams(&mut self, now: u64, r: &mut Random, ran: &mut Ran) {
        let settled = std::mem::take(&mut self.moves.settled);
        if !self.moves.is(Mutation::SettledIgnored) {
            self.moves.unsettled = self.moves.unsettled.saturating_sub(settled);
        }
        if self.draining == Some(true) && !std::mem::replace(&mut self.moves.has_begun, true) {
            self.moves.asks = true;
        }
        self.transfer(now, r);
        if self.draining == Some(false) {
            self.keep_streams(now, r, ran);
        }
        for (giver, count) in std::mem::take(&mut self.moves.taken) {
            self.outbox.push_back(Notice::TookOver { giver, count });
        }
        if self.send_leaving(now, ran) {
            self.ask_streams(now, r, ran);
        }
        let takes = self.draining.is_some() || ran.given_away > 0 || ran.refused > 0;
        if self.moves.asks || takes && !self.is_closed() && !self.queue.borrow().is_empty() {
            self.looks_at = self.looks_at.min(now + 1);
        }
    }

    /// Streams that the handler gives away on purpose.
    fn transfer(&mut self, now: u64, r: &mut Random) {
        while let Some(at) = self.holds.iter().position(|h| h.goes_at <= now) {
            self.holds[at].goes_at = NEVER;
            let near = u64::from(self.id.0.saturating_sub(3).max(1));
            let goal = (!r.chance(20)).then(|| WorkerId(r.between(near, near + 6) as u32));
            self.give_away(at, goal, false);
        }
    }

    fn ask_streams(&mut self, now: u64, r: &mut Random, ran: &mut Ran) {
        if !std::mem::take(&mut self.moves.asks) {
            return;
        }
        for _ in 0..ASKED {
            let Some(at) = self.holds.iter().position(|h| h.is_stream && !h.stays) else { break };
            self.holds[at].stays = true;
            self.moves.asks = true;
            if !r.chance(self.moves.style.keeps) {
                self.give_away(at, None, true);
            }
        }
        self.send_leaving(now, ran);
    }

    fn give_away(&mut self, at: usize, taker: Option<WorkerId>, because_it_drains: bool) {
        let Held { connection, .. } = self.holds.swap_remove(at);
        self.moves.tracks.given_away(connection, self.id, taker, because_it_drains);
        let stream = Handover { taker, ..Handover::default() };
        self.moves.leaving.push_back((connection, Origin::stream(ListenerId(0), stream)));
    }

    /// Gives the master what leaves. False if the channel is full.
    fn send_leaving(&mut self, now: u64, ran: &mut Ran) -> bool {
        while !self.moves.leaving.is_empty() {
            if self.moves.again_at > now || self.back.borrow().len() >= BACK_ROOM {
                self.moves.again_at = self.moves.again_at.max(now + 1).min(now + AGAIN);
                self.looks_at = self.looks_at.min(self.moves.again_at);
                return false;
            }
            let count = handoff::fitting(self.moves.leaving.iter().map(|(_, origin)| *origin));
            let message: Vec<_> = self.moves.leaving.drain(..count).collect();
            let given = message.iter().filter(|(_, o)| !o.stream.is_some_and(|s| s.is_refused)).count();
            self.moves.unsettled += given as u32;
            self.counters.unseen.set(self.counters.unseen.get() + message.len() as u64);
            ran.made_room = true;
            ran.given_away += given as u32;
            put_message(&self.back, message.into_iter());
        }
        true
    }

    /// No worker is left to get what leaves: it stays.
    fn keep_streams(&mut self, now: u64, r: &mut Random, ran: &mut Ran) {
        self.moves.asks = false;
        for (connection, origin) in std::mem::take(&mut self.moves.leaving) {
            if origin.stream.is_some_and(|stream| stream.is_refused) {
                self.moves.leaving.push_back((connection, origin));
            } else {
                self.arrive(connection, true, now, r, ran);
            }
        }
    }

    /// It dies: notes the streams of others that it had, and of which the master does not know.
    pub(super) fn lose_streams(&mut self) {
        let others = |(_, origin): &(u32, Origin)| origin.stream?.giver;
        let came =
            self.rest.iter().filter(|(_, o)| o.stream.is_some_and(|s| !s.is_refused)).filter_map(others);
        let refused = self.moves.leaving.iter().filter_map(others);
        let taken = self.moves.taken.iter().flat_map(|&(giver, count)| (0..count).map(move |_| giver));
        for giver in came.chain(refused).chain(taken) {
            self.moves.tracks.died(giver, self.id);
        }
        self.moves.leaving.clear();
        self.moves.taken.clear();
    }
}
