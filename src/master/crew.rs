//! The crew: what the master holds of each running worker, by seat; and which of them dispatch gives connections to, by slot.
//!
//! A worker has a seat (its page of the scoreboard) from its fork until it is reaped. A slot has at most one worker that is
//! let in; its predecessor may still be finishing in another seat.

use crate::Kind;
use crate::config::MAX_WORKERS;
use crate::event::Totals;
use crate::handoff::{Giver, Taker};
use crate::scoreboard::{Word, WorkerPage};
use crate::sys::process::Process;
use std::time::SystemTime;

/// Connections a worker may leave lying in its queue: enough to keep it going, few enough that one that stands still holds up
/// few, and that all queues together stay below what the kernel lets an ordinary user have under way (`ETOOMANYREFS`).
pub const MAX_QUEUED: u64 = 64;
/// Seats: every worker, a successor for each, and as many again that finish what they have.
pub const SEATS: usize = 3 * MAX_WORKERS;

/// What the master holds of a running worker.
pub struct Record {
    /// A number no other worker has had.
    pub id: u32,
    /// Its slot.
    pub slot: usize,
    /// Its generation.
    pub generation: u32,
    /// When it was forked, by the wall clock.
    pub started: SystemTime,
    /// Signals go here, the status comes from here.
    pub process: Process,
    /// Where connections go to it, and where those it hands back come from.
    pub giver: Giver,
    /// The master's copy of where it takes them, to reclaim what it does not take.
    pub queue: Taker,
    /// Its counters.
    pub page: WorkerPage,
    /// Why it said it cannot serve.
    pub failure: Option<String>,
    /// How its handler takes connections; `None` until it is ready.
    pub kind: Option<Kind>,
    /// Connections given to it and not reclaimed.
    pub given: u64,
    /// Connections it may have in flight.
    pub limit: u32,
    /// Dispatch may choose it.
    pub admitted: bool,
    /// It had connections waiting and took none for a whole tick: it gets no more until it takes the probe sent to it.
    pub stuck: bool,
    /// Probes it has taken when it has taken the last one.
    pub asked: u64,
    /// What [`Record::progress`] was at the last tick.
    pub last_progress: u64,
    /// Whether something lay in its queue at that look.
    pub lay: bool,
    /// Requests after which it is replaced; 0 is never.
    pub max_requests: u64,
    /// The poll reports what it hands back.
    pub watched: bool,
    /// The last time in its handler that the lifecycle was told of.
    pub busy_told: u64,
}

impl Record {
    /// The connections in flight of a worker that has room for one more; `None` where it has none.
    ///
    /// The count is what was given less what the worker says it finished. A worker that says nonsense gets too many or too few.
    pub fn load(&self) -> Option<u32> {
        let in_flight = self.in_flight();
        let has_room = self.takes() && in_flight < self.limit && self.queued() < MAX_QUEUED;
        has_room.then_some(in_flight)
    }

    /// Whether it is let in and not known to be stuck.
    pub fn takes(&self) -> bool {
        self.admitted && !(self.stuck && self.progress() == self.last_progress)
    }

    /// Whether it may be given more as soon as it has taken what lies in its queue.
    pub fn will_have_room(&self) -> bool {
        self.takes() && self.in_flight() < self.limit
    }

    /// It did not take what it was given, or could not: it gets no more until it is seen taking something.
    pub fn is_stuck(&mut self) {
        self.stuck = true;
        self.last_progress = self.progress();
    }

    /// Asks it for a sign of life, where no such question lies in its queue.
    pub fn probe(&mut self) {
        let answered = self.page.get(Word::Probed);
        if self.asked <= answered && self.giver.probe() {
            self.asked = answered.wrapping_add(1);
        }
    }

    /// Connections given to it, or accepted by it, and not finished yet.
    pub fn in_flight(&self) -> u32 {
        let n = self.had().wrapping_sub(self.page.get(Word::Finished));
        // A negative count is nonsense from the worker's page; it must not look like four thousand million connections.
        if n > u64::from(u32::MAX) { 0 } else { n as u32 }
    }

    /// Connections given and not taken yet.
    pub fn queued(&self) -> u64 {
        let n = self.had().wrapping_sub(self.page.get(Word::Taken));
        if n > u64::from(u32::MAX) { 0 } else { n }
    }

    fn had(&self) -> u64 {
        self.given.wrapping_add(self.page.get(Word::Accepted))
    }

    /// A number that changes whenever the worker looks at its queue and finds something.
    pub fn progress(&self) -> u64 {
        self.page.get(Word::Taken).wrapping_add(self.page.get(Word::Probed))
    }
}

/// All running workers.
pub struct Crew {
    seats: Vec<Option<Record>>,
    /// By slot: the seat of the worker that is let in.
    doors: Vec<Option<usize>>,
    /// What former workers have counted.
    totals: Totals,
    /// Seats below this one have been used.
    used: usize,
}

impl Crew {
    /// Nobody yet.
    pub fn new() -> Self {
        let mut seats = Vec::new();
        seats.resize_with(SEATS, || None);
        Self { seats, doors: Vec::new(), totals: Totals::default(), used: 0 }
    }

    /// A free seat; `None` where there is none.
    pub fn free_seat(&self) -> Option<usize> {
        self.seats.iter().position(Option::is_none)
    }

    /// Gives a seat to a worker.
    pub fn sit(&mut self, seat: usize, record: Record) {
        self.used = self.used.max(seat + 1);
        self.seats[seat] = Some(record);
    }

    /// What former workers have counted, for the next program in this process.
    pub fn totals_of_former(&self) -> Totals {
        self.totals
    }

    /// Goes on from what was counted before.
    pub fn go_on_from(&mut self, totals: Totals) {
        self.totals = totals;
    }

    /// Takes a worker that was reaped out of its seat, and adds what it counted to the totals.
    pub fn leave(&mut self, seat: usize) -> Option<Record> {
        let record = self.seats.get_mut(seat)?.take()?;
        self.shut(record.slot, seat);
        add(&mut self.totals, record.page);
        while self.used > 0 && self.seats[self.used - 1].is_none() {
            self.used -= 1;
        }
        Some(record)
    }

    /// The worker in a seat.
    pub fn at(&mut self, seat: usize) -> Option<&mut Record> {
        self.seats.get_mut(seat)?.as_mut()
    }

    /// The seat of a worker.
    pub fn seat_of(&self, id: u32) -> Option<usize> {
        self.seats[..self.used].iter().position(|r| r.as_ref().is_some_and(|r| r.id == id))
    }

    /// A worker by its number.
    pub fn find(&mut self, id: u32) -> Option<&mut Record> {
        self.iter_mut().find(|r| r.id == id)
    }

    /// All workers.
    pub fn iter(&self) -> impl Iterator<Item = &Record> {
        self.seats[..self.used].iter().flatten()
    }

    /// All workers.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Record> {
        self.seats[..self.used].iter_mut().flatten()
    }

    /// Seats that may be taken.
    pub fn seats(&self) -> std::ops::Range<usize> {
        0..self.used
    }

    /// Lets a worker in, as the one of its slot.
    pub fn admit(&mut self, id: u32) {
        let Some(seat) = self.seat_of(id) else { return };
        let Some(record) = &mut self.seats[seat] else { return };
        record.admitted = true;
        // One that hung was found stuck before, and has now shown that it is back.
        record.stuck = false;
        let slot = record.slot;
        if self.doors.len() <= slot {
            self.doors.resize(slot + 1, None);
        }
        self.doors[slot] = Some(seat);
    }

    /// Gives a worker no more.
    pub fn withdraw(&mut self, id: u32) {
        let Some(seat) = self.seat_of(id) else { return };
        let Some(record) = &mut self.seats[seat] else { return };
        record.admitted = false;
        let slot = record.slot;
        self.shut(slot, seat);
    }

    fn shut(&mut self, slot: usize, seat: usize) {
        if let Some(door) = self.doors.get_mut(slot).filter(|door| **door == Some(seat)) {
            *door = None;
        }
    }

    /// Slots that dispatch looks at.
    pub fn slots(&self) -> usize {
        self.doors.len()
    }

    /// What the worker that is let in at a slot has in flight; `None` where nobody there has room.
    pub fn load(&self, slot: usize) -> Option<u32> {
        self.record_behind(slot)?.load()
    }

    /// Whether a worker is let in at a slot.
    pub fn is_attended(&self, slot: usize) -> bool {
        self.doors.get(slot).is_some_and(Option::is_some)
    }

    /// The worker that is let in at a slot, to be looked at.
    pub fn record_behind(&self, slot: usize) -> Option<&Record> {
        let seat = (*self.doors.get(slot)?)?;
        self.seats[seat].as_ref()
    }

    /// The worker that is let in at a slot.
    pub fn behind(&mut self, slot: usize) -> Option<&mut Record> {
        let seat = (*self.doors.get(slot)?)?;
        self.at(seat)
    }

    /// What all workers have counted, those that are no more included.
    pub fn totals(&self) -> Totals {
        let mut totals = self.totals;
        self.iter().for_each(|r| add(&mut totals, r.page));
        totals
    }

    /// In a child: lets go of everything.
    pub fn clear(&mut self) {
        self.seats.clear();
        self.used = 0;
    }
}

fn add(totals: &mut Totals, page: WorkerPage) {
    let sum = |a: &mut u64, word| *a = a.wrapping_add(page.get(word));
    sum(&mut totals.taken, Word::Taken);
    sum(&mut totals.requests, Word::Requests);
    sum(&mut totals.errors, Word::Errors);
    sum(&mut totals.bytes_in, Word::BytesIn);
    sum(&mut totals.bytes_out, Word::BytesOut);
}
