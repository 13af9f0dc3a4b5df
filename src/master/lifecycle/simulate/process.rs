//! A model of a worker: when it becomes ready, what it does with connections, how it ends.

use super::NEVER;
use super::handover::{Moves, Style};
use super::model::{Counters, Messages};
use super::random::Random;
use super::tracks::Tracks;
use crate::event::Exit;
use crate::handoff::Origin;
use crate::ids::{Generation, ListenerId, WorkerId};
use std::collections::VecDeque;
use std::rc::Rc;

/// An entry of a handoff queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Item {
    /// A connection, by its number, the first of a message.
    Connection(u32, Origin),
    /// Another one of the same message.
    Another(u32, Origin),
    /// A probe of the master.
    Probe,
}

impl Item {
    /// An idle connection that a worker hands back.
    pub fn idle(connection: u32) -> Self {
        Self::Connection(connection, Origin::idle(ListenerId(0)))
    }

    /// The number of the connection, if it is one.
    pub fn connection(self) -> Option<u32> {
        match self {
            Self::Connection(connection, _) | Self::Another(connection, _) => Some(connection),
            Self::Probe => None,
        }
    }

    /// Its origin, if it is a connection.
    pub fn origin(self) -> Option<Origin> {
        match self {
            Self::Connection(_, origin) | Self::Another(_, origin) => Some(origin),
            Self::Probe => None,
        }
    }
}

/// Takes the rest of a message, of which the first connection was taken, out of a queue.
pub fn take_rest(queue: &mut VecDeque<Item>) -> Vec<(u32, Origin)> {
    std::iter::from_fn(|| queue.pop_front_if(|item| matches!(item, Item::Another(..))))
        .filter_map(|item| Some((item.connection()?, item.origin()?)))
        .collect()
}

/// Entries a handoff queue takes.
pub const QUEUE_ROOM: usize = 6;
/// Connections that wait to be taken back before the worker has to try again.
const BACK_ROOM: usize = 3;
/// The longest that a worker which is well takes for anything (milliseconds).
pub const LONGEST: u64 = 3000;
/// The longest time from its deadline until a worker that is well has ended (milliseconds).
pub const LAST_MOMENT: u64 = 500;
/// The longest that SIGKILL takes (milliseconds).
pub const KILL_TAKES: u64 = 400;

/// The behaviour of the workers of a generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Temper {
    Good,
    SlowToStart,
    DiesAtStart,
    NeverReady,
    WrongConfiguration,
    LeavesAtStart,
    DiesSoon,
    LeavesSoon,
    Flaky,
    Hangs,
    Stays,
}

pub const TEMPERS: [Temper; 11] = [
    Temper::Good,
    Temper::SlowToStart,
    Temper::DiesAtStart,
    Temper::NeverReady,
    Temper::WrongConfiguration,
    Temper::LeavesAtStart,
    Temper::DiesSoon,
    Temper::LeavesSoon,
    Temper::Flaky,
    Temper::Hangs,
    Temper::Stays,
];

/// The things that a worker may do forever: those that have a timeout.
#[derive(Clone, Copy, Debug)]
pub struct Endless {
    pub boot: bool,
    pub drain: bool,
    pub call: bool,
}

/// A notice of a worker to the master.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notice {
    Ready,
    Leaving,
    TookOver { giver: WorkerId, count: u32 },
}

/// One call of a handler.
#[derive(Clone, Copy, Debug)]
pub struct Call {
    /// The stamp on the page.
    pub since: u64,
    /// When it returns.
    pub until: u64,
    /// The time that the worker stood still meanwhile.
    pub still: u64,
}

/// A connection that a worker has.
#[derive(Clone, Copy, Debug)]
pub struct Held {
    pub connection: u32,
    pub idle_from: u64,
    pub until: u64,
    pub is_stream: bool,
    /// The handler is asked no more to give it away.
    pub stays: bool,
    /// When the handler gives it away on purpose.
    pub goes_at: u64,
}

/// A point in time, and the time that the master had stood still until then.
#[derive(Clone, Copy, Debug)]
pub struct Mark {
    pub at: u64,
    pub stood: u64,
    /// The time that the worker itself had.
    pub still: u64,
}

/// The checks' memory of a worker.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// The master has read that it is ready.
    pub ready: bool,
    /// When it was ordered to drain, and its time for that.
    pub drain: Option<(Mark, u64)>,
    /// When it was warned that its call takes too long.
    pub warned: Option<Mark>,
    pub aborted: Option<Mark>,
    pub killed: Option<Mark>,
    /// When it was ordered to end what it has.
    pub ended: Option<Mark>,
    /// True if the stop had begun by then.
    pub killed_in_stop: bool,
    /// A command asked for its end, or it left by itself.
    pub asked: bool,
    /// The time that the command gave it.
    pub patience: Option<u64>,
    pub hangs: bool,
    /// The machine knows of its call since then.
    pub busy: Option<Mark>,
    pub worn: bool,
    /// Its replacement was begun because it is worn.
    pub recycling: bool,
    /// When that was tried last.
    pub tried_at: Option<u64>,
    pub last_call: Option<(Call, u64)>,
    /// Signals sent to it through the master.
    pub sent: Vec<i32>,
    /// Well and left out since then.
    pub shut: Option<Mark>,
    /// Something lies in its queue since then, and its progress was that.
    pub lying: Option<(u64, u64)>,
    /// It could take back a stream, its progress being that, since then.
    pub home: Option<(u64, u64)>,
}

/// A worker.
#[derive(Debug)]
pub struct Process {
    pub id: WorkerId,
    pub slot: usize,
    pub generation: Generation,
    pub born: Mark,
    /// Its exit status; it is a zombie then.
    pub ended: Option<Exit>,
    pub outbox: VecDeque<Notice>,
    pub call: Option<Call>,
    pub queue: Messages,
    pub back: Messages,
    pub counters: Rc<Counters>,
    /// Connections it may have in flight.
    pub limit: u32,
    pub seen: Seen,
    pub worn_at: u64,
    /// Ordered to drain; true if it is to hand back.
    pub draining: Option<bool>,
    /// The number of connections down to which it is to hand back idle ones.
    pub sheds_to: Option<u64>,
    /// The time it was stopped together with the master, as far as that can be seen.
    pub still: u64,
    ready_at: u64,
    said_ready: bool,
    leaves_at: u64,
    pub(super) dies: (u64, Exit),
    killed_at: u64,
    frozen_until: u64,
    pub(super) looks_at: u64,
    lingers: u64,
    gone_at: u64,
    ends_at: u64,
    /// The end of the time in which clients take what was written.
    last_moment: Option<u64>,
    /// Connections that it has ended at its deadline.
    pub cut: u64,
    dies_of_abort: bool,
    pub(super) blocking: bool,
    hangs: bool,
    endless: Endless,
    pub(super) holds: Vec<Held>,
    /// Connections that came in one message with the last one that it has begun, and wait for their turn.
    pub(super) rest: VecDeque<(u32, Origin)>,
    /// Streams between it and another worker.
    pub moves: Moves,
}

/// The result of a run of a worker.
#[derive(Default)]
pub struct Ran {
    /// Connections answered.
    pub finished: u32,
    /// Connections that ended with it.
    pub lost: u32,
    /// It made room.
    pub made_room: bool,
    /// It can make room.
    pub became_idle: bool,
    /// Connections closed to make room for others.
    pub displaced: u32,
    /// Connections that it has ended at its deadline.
    pub cut: u32,
    /// Streams that it has reset, because no worker takes them over.
    pub refused: u32,
    /// Streams given away.
    pub given_away: u32,
    /// It has ended because all is done.
    pub is_done: bool,
}

impl Process {
    pub fn new(
        id: WorkerId,
        slot: usize,
        generation: Generation,
        born: Mark,
        temper: Temper,
        (endless, style, tracks): (Endless, Style, &Rc<Tracks>),
        r: &mut Random,
    ) -> Self {
        let now = born.at;
        let quick = now + r.between(0, 60);
        let mut p = Self {
            id,
            slot,
            generation,
            born,
            ended: None,
            outbox: VecDeque::new(),
            call: None,
            queue: Messages::default(),
            back: Messages::default(),
            counters: Rc::default(),
            limit: 0,
            seen: Seen::default(),
            worn_at: NEVER,
            draining: None,
            sheds_to: None,
            still: 0,
            ready_at: quick,
            said_ready: false,
            leaves_at: NEVER,
            dies: (NEVER, Exit::Code(0)),
            killed_at: NEVER,
            frozen_until: 0,
            looks_at: NEVER,
            lingers: r.between(0, 40),
            gone_at: NEVER,
            ends_at: NEVER,
            last_moment: None,
            cut: 0,
            dies_of_abort: r.chance(50),
            blocking: r.chance(30),
            hangs: false,
            endless,
            holds: Vec::new(),
            rest: VecDeque::new(),
            moves: Moves::new(style.vary(r), Rc::clone(tracks)),
        };
        p.limit = if p.blocking { 1 } else { r.between(2, 8) as u32 };
        p.take_temper(temper, quick, r);
        p
    }

    fn take_temper(&mut self, temper: Temper, quick: u64, r: &mut Random) {
        let exit = r.one_of(&[Exit::Code(1), Exit::Code(0), Exit::Signal { number: 11, core: false }]);
        let soon = quick + r.between(0, 300);
        match temper {
            Temper::Good => {}
            Temper::SlowToStart => self.ready_at = quick + r.between(0, LONGEST),
            Temper::DiesAtStart => (self.ready_at, self.dies) = (NEVER, (quick, exit)),
            Temper::NeverReady => {
                self.ready_at = if self.endless.boot { NEVER } else { quick + LONGEST };
            }
            Temper::WrongConfiguration => (self.ready_at, self.dies) = (NEVER, (quick, Exit::Code(78))),
            Temper::LeavesAtStart => (self.ready_at, self.leaves_at) = (quick + LONGEST, quick),
            Temper::DiesSoon => self.dies = (soon, exit),
            Temper::LeavesSoon => self.leaves_at = soon,
            Temper::Flaky => {
                let life = if r.chance(70) { r.between(0, 200) } else { r.between(4_500, 5_900) };
                self.ready_at = if r.chance(70) { NEVER } else { quick };
                self.dies = (quick + life, exit);
            }
            Temper::Hangs => self.hangs = true,
            // Without a drain-timeout any time is right, and a schedule has an end.
            Temper::Stays if self.endless.drain => self.lingers = NEVER,
            Temper::Stays => self.lingers = r.between(LONGEST, 8 * LONGEST),
        }
    }

    pub fn progress(&self) -> u64 {
        self.counters.taken.get() + self.counters.probed.get()
    }

    /// One that serves one connection at a time has none that is idle.
    pub fn can_shed(&self) -> bool {
        !self.blocking
    }

    pub fn held(&self) -> impl Iterator<Item = u32> + '_ {
        self.holds.iter().map(|h| h.connection).chain(self.rest.iter().map(|(connection, _)| *connection))
    }

    /// Connections that nobody else can take any more, although it has not begun them.
    pub fn waiting(&self) -> u64 {
        self.rest.len() as u64
    }

    /// For the reader of a violation.
    pub fn line(&self) -> String {
        let Self { id, slot, generation, seen: s, counters: c, .. } = self;
        format!(
            "worker {id}, slot {slot}, generation {generation}: ready {} drain {:?} killed {:?} ended {:?}; taken {} finished {} \
             idle {} limit {}; holds {}, call {:?}, queue {:?}, back {:?}, {:?}",
            s.ready,
            s.drain.map(|(mark, patience)| (mark.at, patience)),
            s.killed.map(|mark| mark.at),
            self.ended,
            c.taken.get(),
            c.finished.get(),
            c.idle.get(),
            self.limit,
            self.holds.len(),
            self.call,
            self.queue.borrow(),
            self.back.borrow(),
            self.moves,
        )
    }

    /// True if it takes what is queued.
    pub fn takes(&self, now: u64) -> bool {
        let occupied = if self.blocking { !self.holds.is_empty() } else { !self.has_place(now) };
        self.frozen_until <= now && self.call.is_none() && !occupied
    }

    /// True if it drains and runs.
    pub fn takes_back(&self, now: u64) -> bool {
        self.frozen_until <= now && self.call.is_none() && self.killed_at == NEVER && self.said_ready
    }

    /// True if it has or can make room for one more connection.
    fn has_place(&self, now: u64) -> bool {
        !self.is_full() || self.longest_idle(now).is_some()
    }

    /// True if it has as many connections as it may have.
    pub fn is_full(&self) -> bool {
        self.holds.len() >= self.limit as usize
    }

    fn idle(&self, now: u64) -> impl Iterator<Item = usize> + '_ {
        (0..self.holds.len()).filter(move |&at| !self.blocking && self.holds[at].idle_from <= now)
    }

    fn longest_idle(&self, now: u64) -> Option<usize> {
        self.idle(now).min_by_key(|&at| self.holds[at].idle_from)
    }

    /// Something came into its queue.
    pub fn nudge(&mut self, now: u64, r: &mut Random) {
        if self.looks_at == NEVER {
            self.looks_at = now + r.between(0, 5);
        }
    }

    pub fn shed(&mut self, now: u64, keep: u64) {
        self.sheds_to = Some(keep);
        self.looks_at = self.looks_at.min(now);
    }

    pub fn drain(&mut self, now: u64, hands_back: bool, patience: u64) {
        self.sheds_to = None;
        if patience > 0 {
            self.end_at(now + patience);
        }
        self.draining.get_or_insert(hands_back);
        self.gone_at = now.saturating_add(self.lingers);
        self.looks_at = self.looks_at.min(now);
    }

    /// True if its handler reads from a client in blocking style, and knows of nothing else.
    fn waits_for_client(&self) -> bool {
        self.blocking && !self.holds.is_empty()
    }

    /// It drains, and is to keep what it has not handed back.
    pub fn keep(&mut self, now: u64) {
        self.draining = Some(false);
        self.looks_at = self.looks_at.min(now);
    }

    /// The master tells that so many of its streams will not come back.
    pub fn settle(&mut self, count: u32, now: u64, r: &mut Random) {
        self.moves.settled += count;
        self.nudge(now, r);
    }

    /// It is to end what it has at this time.
    pub fn end_at(&mut self, at: u64) {
        self.ends_at = self.ends_at.min(at);
    }

    pub fn kill(&mut self, now: u64, r: &mut Random) {
        let takes = if r.chance(80) { r.between(0, 5) } else { r.between(0, KILL_TAKES) };
        self.killed_at = self.killed_at.min(now + takes);
    }

    /// Its handler is warned, if its call does take too long, and may return.
    pub fn warn(&mut self, now: u64, timeout: u64, r: &mut Random) {
        let heeds = r.chance(40);
        if let Some(call) = self.call.as_mut().filter(|call| heeds && now >= call.since + timeout) {
            call.until = call.until.min(now + r.between(0, 1500));
        }
    }

    pub fn abort(&mut self, now: u64) {
        if self.dies_of_abort {
            self.dies = (now, Exit::Signal { number: 6, core: true });
        }
    }

    /// A signal from outside that it dies of.
    pub fn strike(&mut self, at: u64, number: i32) {
        if at <= self.dies.0 {
            self.dies = (at, Exit::Signal { number, core: false });
        }
    }

    /// A signal that asks it to leave.
    pub fn leave(&mut self, at: u64) {
        self.leaves_at = self.leaves_at.min(at);
    }

    pub fn freeze(&mut self, until: u64) {
        self.frozen_until = self.frozen_until.max(until);
    }

    /// From now on it takes everything as a good worker does.
    pub fn calm_down(&mut self, now: u64) {
        self.hangs = false;
        if self.frozen_until > now {
            self.frozen_until = now;
        }
    }

    /// It stood still for so long, with everything else.
    pub fn shift(&mut self, by: u64, seen: bool) {
        let times = [
            &mut self.ready_at,
            &mut self.leaves_at,
            &mut self.dies.0,
            &mut self.killed_at,
            &mut self.looks_at,
            &mut self.gone_at,
            &mut self.worn_at,
            &mut self.ends_at,
        ];
        for t in times {
            *t = t.saturating_add(by);
        }
        if self.frozen_until > 0 {
            self.frozen_until += by;
        }
        if let Some(call) = &mut self.call {
            call.until = call.until.saturating_add(by);
            call.still += if seen { by } else { 0 };
        }
        for held in &mut self.holds {
            held.idle_from = held.idle_from.saturating_add(by);
            held.until = held.until.saturating_add(by);
            held.goes_at = held.goes_at.saturating_add(by);
        }
        self.still += if seen { by } else { 0 };
    }

    /// When it does something next.
    pub fn next(&self, now: u64) -> u64 {
        if self.ended.is_some() {
            return NEVER;
        }
        if self.frozen_until > now {
            return self.frozen_until.min(self.killed_at).max(now + 1);
        }
        let acts = match self.call {
            Some(call) => call.until.min(self.dies.0),
            None => {
                let next = |h: &Held| {
                    let until = h.until.min(h.goes_at);
                    if h.idle_from > now { h.idle_from.min(until) } else { until }
                };
                let held = self.holds.iter().map(next).min().unwrap_or(NEVER);
                let ready_at = if self.said_ready { NEVER } else { self.ready_at };
                let gone_at = if self.gone_at > now { self.gone_at } else { NEVER };
                let looks_at = if self.said_ready { self.looks_at } else { NEVER };
                [ready_at, self.leaves_at, self.dies.0, looks_at, held, gone_at, self.ends_at]
                    .into_iter()
                    .min()
                    .unwrap_or(NEVER)
            }
        };
        acts.min(self.killed_at).max(now + 1)
    }

    /// Does what is due.
    pub fn run(&mut self, now: u64, r: &mut Random) -> Ran {
        let mut ran = Ran::default();
        if self.ended.is_some() {
            return ran;
        }
        if self.killed_at <= now {
            self.end(Exit::Signal { number: 9, core: false }, &mut ran);
        } else if self.frozen_until > now {
            // Only SIGKILL reaches it.
        } else if self.dies.0 <= now {
            self.end(self.dies.1, &mut ran);
        } else {
            self.act(now, r, &mut ran);
        }
        ran
    }

    fn end(&mut self, exit: Exit, ran: &mut Ran) {
        self.ended = Some(exit);
        ran.lost += (self.held().count() + self.leaving().count()) as u32;
        self.lose_streams();
        self.holds.clear();
        self.rest.clear();
    }

    fn act(&mut self, now: u64, r: &mut Random, ran: &mut Ran) {
        if let Some(call) = self.call {
            if call.until > now {
                return;
            }
            self.seen.last_call = Some((call, now));
            self.call = None;
            self.counters.busy_since.set(0);
        }
        if !self.said_ready && self.ready_at <= now && self.draining.is_none() {
            self.said_ready = true;
            self.outbox.push_back(Notice::Ready);
            self.looks_at = now;
        }
        if self.leaves_at <= now {
            self.leaves_at = NEVER;
            self.outbox.push_back(Notice::Leaving);
        }
        self.finish(now, ran);
        self.hand_back(now, ran);
        self.look(now, r, ran);
        if self.dies.0 <= now {
            // It takes over a stream, and dies of it.
            return self.end(self.dies.1, ran);
        }
        if self.call.is_none() && self.said_ready {
            self.move_streams(now, r, ran);
        }
        self.publish_idle(now, ran);
        let empty = self.held().next().is_none() && (self.is_closed() || self.queue.borrow().is_empty());
        let empty = empty && self.moves.are_settled();
        if self.draining.is_some() && empty && self.call.is_none() && self.gone_at <= now {
            ran.is_done = true;
            self.end(Exit::Code(0), ran);
        } else if self.ends_at <= now && self.call.is_none() && !self.waits_for_client() {
            // Clients take what was written for a moment.
            let moment = *self.last_moment.get_or_insert_with(|| now + r.between(0, LAST_MOMENT));
            if moment > now {
                self.ends_at = moment;
                return;
            }
            self.end(Exit::Code(0), ran);
            ran.cut = std::mem::take(&mut ran.lost);
            self.cut = ran.cut.into();
        }
    }

    fn finish(&mut self, now: u64, ran: &mut Ran) {
        let before = self.holds.len();
        self.holds.retain(|h| h.until > now);
        let n = before - self.holds.len();
        self.counters.unseen.set(self.counters.unseen.get() + n as u64);
        ran.finished += n as u32;
        ran.made_room |= n > 0;
        // A blocking worker has waited for this one.
        if n > 0 && self.looks_at == NEVER {
            self.looks_at = now;
        }
    }

    /// Publishes how many connections are idle. If it is full, that makes room.
    fn publish_idle(&mut self, now: u64, ran: &mut Ran) {
        let idle = self.idle(now).count() as u64;
        if self.counters.idle.replace(idle) < idle && self.is_full() {
            ran.became_idle = true;
            self.looks_at = self.looks_at.min(now + 1);
        }
    }

    fn hand_back(&mut self, now: u64, ran: &mut Ran) {
        while self.draining == Some(true) || self.sheds_to.is_some_and(|keep| self.holds.len() as u64 > keep)
        {
            let Some(at) = self.holds.iter().position(|h| h.idle_from <= now) else { break };
            if self.back.borrow().len() >= BACK_ROOM {
                self.looks_at = self.looks_at.min(now + 5);
                return;
            }
            let held = self.holds.swap_remove(at);
            self.back.borrow_mut().push_back(Item::idle(held.connection));
            self.counters.unseen.set(self.counters.unseen.get() + 1);
            ran.made_room = true;
        }
        self.sheds_to = None;
    }

    fn look(&mut self, now: u64, r: &mut Random, ran: &mut Ran) {
        if self.looks_at > now || !self.said_ready {
            return;
        }
        self.looks_at = NEVER;
        for _ in 0..4 {
            if self.call.is_some() {
                break;
            }
            // Those that came in one message are begun one after the other, whatever else there is to do.
            if let Some((connection, origin)) = self.rest.pop_front() {
                self.take(connection, origin, now, r, ran);
                continue;
            }
            if self.is_closed() {
                self.looks_at = if self.holds.is_empty() { NEVER } else { now + 10 };
                return;
            }
            if self.blocking && !self.holds.is_empty() {
                break;
            }
            // One that drains takes what it was given in any case.
            if !self.has_place(now) && self.draining.is_none() && self.moves.unsettled == 0 {
                return;
            }
            let item = self.queue.borrow_mut().pop_front();
            match item {
                Some(Item::Connection(connection, origin)) => {
                    self.take(connection, origin, now, r, ran);
                    self.rest.extend(take_rest(&mut self.queue.borrow_mut()));
                }
                Some(Item::Another(..)) => unreachable!("a message is taken whole"),
                Some(Item::Probe) => {
                    self.counters.probed.set(self.counters.probed.get() + 1);
                    ran.made_room = true;
                }
                None => return,
            }
        }
        let waits = self.blocking && !self.holds.is_empty();
        self.looks_at = if waits { NEVER } else { now + r.between(1, 5) };
    }

    fn take(&mut self, connection: u32, origin: Origin, now: u64, r: &mut Random, ran: &mut Ran) {
        self.counters.taken.set(self.counters.taken.get() + 1);
        ran.made_room = true;
        if let Some(at) = self.longest_idle(now).filter(|_| self.is_full()) {
            self.holds.swap_remove(at);
            self.publish_idle(now, ran);
            self.counters.unseen.set(self.counters.unseen.get() + 1);
            ran.finished += 1;
            ran.displaced += 1;
        }
        if origin.stream.is_some() {
            self.take_over(connection, origin, now, r, ran);
        } else if !self.blocking && !origin.used && r.chance(self.moves.style.begins) {
            self.begin_stream(connection, now, r);
        } else {
            self.serve(connection, now, r);
        }
        if r.chance(if self.hangs { 40 } else { 5 }) {
            self.begin_call(now, r);
        }
    }

    fn serve(&mut self, connection: u32, now: u64, r: &mut Random) {
        let works = match r.below(20) {
            0..12 => r.between(0, 20),
            12..19 => r.between(20, 300),
            _ => r.between(300, LONGEST),
        };
        let idles = if r.chance(40) { r.between(0, LONGEST) } else { 0 };
        let idle_from = if idles > 0 { now + works } else { NEVER };
        let until = now + works + idles;
        let held = Held { connection, idle_from, until, is_stream: false, stays: true, goes_at: NEVER };
        self.holds.push(held);
    }

    fn begin_call(&mut self, now: u64, r: &mut Random) {
        let lasts = match r.below(10) {
            0..5 => r.between(1, 300),
            5..9 => r.between(300, LONGEST),
            _ if self.endless.call => NEVER,
            _ => LONGEST,
        };
        let lasts = if self.hangs { lasts } else { lasts.min(r.between(1, 400)) };
        // Stamps are never 0, which stands for no call.
        self.counters.busy_since.set(now.max(1));
        self.call = Some(Call { since: now.max(1), until: now.saturating_add(lasts), still: 0 });
    }
}
