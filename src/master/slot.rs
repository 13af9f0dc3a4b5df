//! A slot: the place of one worker, what the master holds of it, and what it has in flight.

use super::lifecycle::Backoff;
use crate::handoff::{Giver, Taker};
use crate::scoreboard::{Seat, Word};
use crate::sys::process::Process;

/// Connections a worker may leave lying in its queue: enough to keep it going, few enough that one that stands still holds up
/// few, and that all queues together stay below what the kernel lets an ordinary user have under way (`ETOOMANYREFS`).
pub const MAX_QUEUED: u64 = 64;

/// The place of one worker.
pub struct Slot {
    /// The worker there, from its fork until it is reaped.
    pub worker: Option<Record>,
    /// When to start the next one (monotonic milliseconds); only looked at while there is no worker.
    pub start_at: Option<u64>,
    /// How its workers have died.
    pub backoff: Backoff,
    /// The counters its worker writes.
    pub seat: Seat,
}

/// What the master holds of a running worker.
pub struct Record {
    /// A number no other worker has had.
    pub id: u32,
    /// Signals go here, the status comes from here.
    pub process: Process,
    /// Where connections go to it.
    pub giver: Giver,
    /// The master's copy of where it takes them, to reclaim what it does not take.
    pub queue: Taker,
    /// How far it has come.
    pub phase: Phase,
    /// When it was forked (monotonic milliseconds).
    pub since: u64,
    /// Why it said it cannot serve.
    pub failure: Option<String>,
    /// Connections given to it and not reclaimed.
    pub given: u64,
    /// Connections it may have in flight.
    pub limit: u32,
    /// It had connections waiting and took none for a whole tick: it gets no more until it takes the probe sent to it.
    pub stuck: bool,
    /// What [`Record::progress`] was at the last tick.
    pub last_progress: u64,
}

/// How far a worker has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Forked; it has not said yet that it can serve.
    Starting,
    /// It serves.
    Ready,
    /// Told to finish what it has.
    Draining,
    /// Sent SIGKILL.
    Killed,
}

impl Slot {
    /// An empty slot, to be filled at once.
    pub fn new(seat: Seat) -> Self {
        Self { worker: None, start_at: Some(0), backoff: Backoff::default(), seat }
    }

    /// The connections in flight of a worker that has room for one more; `None` where it has none.
    ///
    /// The count is what was given less what the worker says it finished. A worker that says nonsense gets too many or too few.
    pub fn load(&self) -> Option<u32> {
        let worker = self.worker.as_ref().filter(|w| w.phase == Phase::Ready && !w.stuck)?;
        let in_flight = worker.in_flight(self.seat);
        let queued = worker.queued(self.seat);
        (in_flight < worker.limit && queued < MAX_QUEUED).then_some(in_flight)
    }

    /// Whether its worker is in this phase.
    pub fn is(&self, phase: Phase) -> bool {
        self.worker.as_ref().is_some_and(|w| w.phase == phase)
    }
}

impl Record {
    /// Connections given and not finished yet.
    pub fn in_flight(&self, seat: Seat) -> u32 {
        let n = self.given.wrapping_sub(seat.get(Word::Finished));
        // A negative count is nonsense from the worker's page; it must not look like four thousand million connections.
        if n > u64::from(u32::MAX) { 0 } else { n as u32 }
    }

    /// Connections given and not taken yet.
    pub fn queued(&self, seat: Seat) -> u64 {
        let n = self.given.wrapping_sub(seat.get(Word::Taken));
        if n > u64::from(u32::MAX) { 0 } else { n }
    }

    /// A number that changes whenever the worker looks at its queue and finds something.
    pub fn progress(&self, seat: Seat) -> u64 {
        seat.get(Word::Taken).wrapping_add(seat.get(Word::Probed))
    }
}
