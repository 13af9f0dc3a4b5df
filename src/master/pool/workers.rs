//! The running workers, by page, and the admitted one of each slot.
//!
//! A worker has a page from its fork until it is reaped. A slot has at most one admitted worker, to which dispatch gives
//! connections; its predecessor may still be draining on another page.

use super::{Link, Queue, System};
use crate::config::MAX_WORKERS;
use crate::event::{Departed, Kind, Totals};
use crate::ids::{Generation, ListenerId, Page, Slot, WorkerId};
use crate::scoreboard::Word;
use crate::sys::time::Time;
use std::time::SystemTime;

/// The number of pages: for every worker, a successor of each, and as many again that drain.
pub const PAGES: usize = 3 * MAX_WORKERS;

/// A running worker.
pub struct WorkerEntry<S: System> {
    /// Its number.
    pub id: WorkerId,
    /// Its slot.
    pub slot: Slot,
    /// Its generation.
    pub generation: Generation,
    /// When it was forked, by the wall clock.
    pub started: SystemTime,
    /// The link to it.
    pub link: S::Link,
    /// Its queues.
    pub queue: S::Queue,
    /// Why it cannot serve, in its own words.
    pub failure: Option<String>,
    /// How its handler takes connections; `None` until it is ready.
    pub kind: Option<Kind>,
    /// A bit for each listener at which it takes requests; set before `kind`, if these are not all or none.
    pub takes_requests: Option<u64>,
    /// A bit for each listener whose connections it takes; all, unless it is a program that says so itself.
    pub serves: u64,
    /// Connections given to it and not reclaimed.
    pub given: u64,
    /// Connections it may have in flight.
    pub limit: u32,
    /// True if dispatch may choose it.
    pub admitted: bool,
    /// True if it took nothing of what was queued for it between two checks: it gets no more until it takes something.
    pub stuck: bool,
    /// The number of its last probe: the value of [`Word::Probed`] once it has taken that.
    pub last_probe: u64,
    /// The value of [`WorkerEntry::progress`] at the last check.
    pub last_progress: u64,
    /// True if connections were queued at the last check.
    pub was_queued: bool,
    /// Requests after which it is replaced; 0 is never.
    pub max_requests: u64,
    /// True if its memory was beyond the limit before it served anything; `None` until it was first looked at.
    pub born_large: Option<bool>,
    /// True if the poll reports what it hands back.
    pub watched: bool,
    /// The start of its call (milliseconds) that was last reported to the lifecycle.
    pub busy_reported: u64,
    /// What it had finished when it was told to; `None` until then.
    pub drain: Option<Finished>,
}

/// What a worker that leaves had finished when it was told to.
#[derive(Clone, Copy, Debug)]
pub struct Finished {
    /// When it was told.
    pub since: Time,
    /// True if it has given back what it could.
    pub settled: bool,
    /// Its [`PARTS`] then.
    before: [u64; 5],
}

/// The words that say what has become of the connections of a worker.
const PARTS: [Word; 5] = [Word::Finished, Word::Moved, Word::HandedOver, Word::TakenBack, Word::Cut];

impl<S: System> WorkerEntry<S> {
    /// How its handler takes connections of a listener; `None` until it is ready.
    pub fn kind_at(&self, listener: usize) -> Option<Kind> {
        let kind = self.kind?;
        Some(match self.takes_requests.map(|bits| bits >> listener & 1) {
            None => kind,
            Some(1) => Kind::Request,
            // Those of blocking style serve all listeners.
            Some(_) => Kind::Stream,
        })
    }

    /// A worker that was just forked.
    pub fn new(
        id: WorkerId,
        slot: Slot,
        generation: Generation,
        link: S::Link,
        queue: S::Queue,
        max_requests: u64,
    ) -> Self {
        Self {
            id,
            slot,
            generation,
            started: SystemTime::now(),
            link,
            queue,
            failure: None,
            kind: None,
            takes_requests: None,
            serves: u64::MAX,
            given: 0,
            limit: 0,
            admitted: false,
            stuck: false,
            last_probe: 0,
            last_progress: 0,
            was_queued: false,
            max_requests,
            born_large: None,
            watched: false,
            busy_reported: 0,
            drain: None,
        }
    }

    /// The connections in flight of a worker that has room for one more; `None` if it has none.
    pub fn load(&self, max_queued: u64) -> Option<u32> {
        self.load_without(0, max_queued)
    }

    /// As [`WorkerEntry::load`], of a worker that can make room: idle connections, which it closes for others, are not counted.
    pub fn load_without_idle(&self, max_queued: u64) -> Option<u32> {
        self.load_without(self.idle(), max_queued)
    }

    fn load_without(&self, idle: u32, max_queued: u64) -> Option<u32> {
        let in_flight = self.in_flight();
        let has_room = in_flight < self.limit.saturating_add(idle);
        (has_room && self.is_eligible() && self.queued() < max_queued).then(|| in_flight.saturating_sub(idle))
    }

    /// Connections between two requests, which it closes if there is no other room.
    pub fn idle(&self) -> u32 {
        // Whatever it has written: no more than it can have.
        u32::try_from(self.link.count(Word::Idle)).map_or(self.limit, |idle| idle.min(self.limit))
    }

    /// True if it takes connections of this listener.
    pub fn serves(&self, listener: ListenerId) -> bool {
        self.serves & 1u64.checked_shl(listener.0.into()).unwrap_or(0) != 0
    }

    /// True if it is admitted and not known to be stuck.
    pub fn is_eligible(&self) -> bool {
        self.admitted && !(self.stuck && self.progress() == self.last_progress)
    }

    /// True if it has room as soon as it has taken what is queued for it.
    pub fn will_have_room(&self) -> bool {
        self.is_eligible() && self.in_flight() < self.limit
    }

    /// Marks a worker that did not take what it was given, or could not: it gets no more until it makes progress.
    pub fn mark_stuck(&mut self) {
        self.stuck = true;
        self.last_progress = self.progress();
    }

    /// Sends it a probe, unless one is queued already.
    pub fn probe(&mut self) {
        let answered = self.link.count(Word::Probed);
        if self.last_probe <= answered && self.queue.probe() {
            self.last_probe = answered.wrapping_add(1);
        }
    }

    /// Connections given to it, or accepted by it, and not finished yet.
    pub fn in_flight(&self) -> u32 {
        self.not_yet(Word::Finished)
    }

    /// Connections given to it and not taken yet.
    pub fn queued(&self) -> u64 {
        self.not_yet(Word::Taken).into()
    }

    /// Notes that it is told to finish.
    pub fn begin_drain(&mut self, now: Time) {
        let before = PARTS.map(|word| self.link.count(word));
        self.drain.get_or_insert(Finished { since: now, settled: false, before });
    }

    /// What has become of its connections since it was told to finish; `None` if it was not.
    pub fn departed(&self) -> Option<Departed> {
        let before = self.drain?.before;
        let mut since = PARTS.map(|word| self.link.count(word));
        // Whatever it has written: not so many that a sum has no meaning.
        let most = u64::from(u32::MAX);
        since.iter_mut().zip(before).for_each(|(now, before)| *now = now.wrapping_sub(before).min(most));
        let [finished, moved, given_away, taken_back, cut] = since;
        let elsewhere = moved.saturating_add(given_away).saturating_add(cut);
        Some(Departed {
            moved,
            handed_over: given_away.saturating_sub(taken_back),
            ended: finished.saturating_sub(elsewhere),
            cut,
            lost: 0,
        })
    }

    /// The connections it has taken and not finished: requests, kept responses, streams.
    pub fn kinds(&self) -> (u64, u64, u64) {
        let taken = u64::from(self.in_flight()).saturating_sub(self.queued());
        // Whatever it has written: no more than it can have.
        let streams = self.link.count(Word::Streams).min(taken);
        let later = self.link.count(Word::Later).min(taken - streams);
        (taken - streams - later, later, streams)
    }

    /// A number that changes whenever the worker finds something in its queue.
    pub fn progress(&self) -> u64 {
        self.link.count(Word::Taken).wrapping_add(self.link.count(Word::Probed))
    }

    /// Connections that the worker has had and not counted in `done`.
    fn not_yet(&self, done: Word) -> u32 {
        let had = self.given.wrapping_add(self.link.count(Word::Accepted));
        // A worker may write nonsense to its page. A negative count must not look like four thousand million connections.
        u32::try_from(had.wrapping_sub(self.link.count(done))).unwrap_or(0)
    }

    fn add_to(&self, totals: &mut Totals) {
        let sum = |a: &mut u64, word| *a = a.wrapping_add(self.link.count(word));
        sum(&mut totals.taken, Word::Taken);
        sum(&mut totals.requests, Word::Requests);
        sum(&mut totals.errors, Word::Errors);
        sum(&mut totals.bytes_in, Word::BytesIn);
        sum(&mut totals.bytes_out, Word::BytesOut);
    }
}

/// All running workers.
pub struct Workers<S: System> {
    /// By page, up to the last one that is used.
    pages: Vec<Option<WorkerEntry<S>>>,
    /// By slot: the page of the admitted worker.
    admitted: Vec<Option<Page>>,
    /// The totals of workers that have ended.
    pub former: Totals,
}

impl<S: System> Workers<S> {
    /// No workers.
    pub fn new() -> Self {
        Self { pages: Vec::new(), admitted: Vec::new(), former: Totals::default() }
    }

    /// A free page; `None` if there is none.
    pub fn free_page(&self) -> Option<Page> {
        let free = self.pages.iter().position(Option::is_none).unwrap_or(self.pages.len());
        (free < PAGES).then(|| Page::at(free))
    }

    /// Adds a worker that was forked.
    pub fn add(&mut self, page: Page, entry: WorkerEntry<S>) {
        if self.pages.len() <= page.index() {
            self.pages.resize_with(page.index() + 1, || None);
        }
        self.pages[page.index()] = Some(entry);
    }

    /// Takes out a worker that was reaped, and adds its counters to the totals.
    pub fn remove(&mut self, page: Page) -> Option<WorkerEntry<S>> {
        let entry = self.pages.get_mut(page.index())?.take()?;
        self.clear_admitted(entry.slot, page);
        entry.add_to(&mut self.former);
        while self.pages.pop_if(|last| last.is_none()).is_some() {}
        Some(entry)
    }

    /// The worker of a page.
    pub fn at(&mut self, page: Page) -> Option<&mut WorkerEntry<S>> {
        self.pages.get_mut(page.index())?.as_mut()
    }

    /// The page of a worker.
    pub fn page_of(&self, id: WorkerId) -> Option<Page> {
        self.pages.iter().position(|w| w.as_ref().is_some_and(|w| w.id == id)).map(Page::at)
    }

    /// A worker by its number.
    pub fn get(&self, id: WorkerId) -> Option<&WorkerEntry<S>> {
        self.iter().find(|w| w.id == id)
    }

    /// A worker by its number.
    pub fn get_mut(&mut self, id: WorkerId) -> Option<&mut WorkerEntry<S>> {
        self.iter_mut().find(|w| w.id == id)
    }

    /// All workers.
    pub fn iter(&self) -> impl Iterator<Item = &WorkerEntry<S>> {
        self.pages.iter().flatten()
    }

    /// All workers.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut WorkerEntry<S>> {
        self.pages.iter_mut().flatten()
    }

    /// The pages that may have a worker.
    pub fn pages(&self) -> impl Iterator<Item = Page> + use<S> {
        (0..self.pages.len()).map(Page::at)
    }

    /// Admits a worker, as the one of its slot.
    pub fn admit(&mut self, id: WorkerId) {
        let Some(page) = self.page_of(id) else { return };
        let Some(entry) = self.at(page) else { return };
        entry.admitted = true;
        // A worker whose handler has hung is readmitted when its call has ended.
        entry.stuck = false;
        let slot = entry.slot.index();
        if self.admitted.len() <= slot {
            self.admitted.resize(slot + 1, None);
        }
        self.admitted[slot] = Some(page);
    }

    /// Takes a worker out of dispatch.
    pub fn withdraw(&mut self, id: WorkerId) {
        let Some(page) = self.page_of(id) else { return };
        let Some(entry) = self.at(page) else { return };
        entry.admitted = false;
        let slot = entry.slot;
        self.clear_admitted(slot, page);
    }

    fn clear_admitted(&mut self, slot: Slot, page: Page) {
        // The slot may have another worker by now.
        if let Some(admitted) = self.admitted.get_mut(slot.index()).filter(|a| **a == Some(page)) {
            *admitted = None;
        }
    }

    /// The number of slots among which dispatch chooses.
    pub fn slots(&self) -> usize {
        self.admitted.len()
    }

    /// The admitted worker of a slot.
    pub fn admitted(&self, slot: usize) -> Option<&WorkerEntry<S>> {
        let page = (*self.admitted.get(slot)?)?;
        self.pages.get(page.index())?.as_ref()
    }

    /// The admitted worker of a slot.
    pub fn admitted_mut(&mut self, slot: usize) -> Option<&mut WorkerEntry<S>> {
        let page = (*self.admitted.get(slot)?)?;
        self.at(page)
    }

    /// In a worker: drops the links to all workers.
    pub fn clear(&mut self) {
        self.pages.clear();
    }

    /// The totals of all workers, of those that have ended too.
    pub fn totals(&self) -> Totals {
        let mut totals = self.former;
        self.iter().for_each(|worker| worker.add_to(&mut totals));
        totals
    }
}
