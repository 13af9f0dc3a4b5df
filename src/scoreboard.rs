//! The scoreboard: shared memory with one page of counters for each worker, and two pages about all workers.
//!
//! A worker writes its own page, the master reads them all; every word is an atomic. The master compares and shows what it
//! reads, and never uses it as an index or a pointer: a worker that writes nonsense can only get itself fewer or more
//! connections, or recycled or killed as hanging. What the master must be able to trust it counts itself.

use crate::ids::Page;
use crate::sys::crash::{self, Area};
use crate::sys::memory::{self, SharedPage};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::sync::atomic::{AtomicU64, fence};
use std::sync::{Mutex, PoisonError};

/// All pages, as the master sees them.
pub struct Scoreboard {
    pages: &'static [SharedPage],
    /// The mapped file, which an upgrade passes to the next program; `None` in a worker.
    file: Option<OwnedFd>,
}

/// The pages about all workers.
#[derive(Clone, Copy)]
pub struct Common {
    /// Written by the master and by workers.
    shared: &'static SharedPage,
    /// Written by the master alone.
    masters: &'static SharedPage,
}

/// One worker's page.
#[derive(Clone, Copy, Debug)]
pub struct WorkerPage(&'static SharedPage);

/// Words of a [`WorkerPage`]. All count up as long as the page has the same worker, except [`Word::BusySince`], [`Word::Idle`],
/// [`Word::Streams`], [`Word::Later`] and those of the callback.
#[derive(Clone, Copy)]
#[repr(usize)]
pub enum Word {
    /// Connections read from the handoff channel, or accepted by the worker itself.
    Taken,
    /// Probes read from the handoff channel.
    Probed,
    /// Connections that were closed or handed back.
    Finished,
    /// Requests answered; in blocking style, connections served.
    Requests,
    /// Requests that prefork refused, or whose handler failed: an error or a panic, a deadline, a body that was cut.
    Errors,
    /// Bytes read from clients.
    BytesIn,
    /// Bytes written to clients.
    BytesOut,
    /// The time (monotonic, milliseconds) at which the running call of the handler began; 0 if none is running.
    BusySince,
    /// The part of [`Word::Taken`] that the worker accepted itself, which the master learns only from here.
    Accepted,
    /// The connections, of those it has taken and not finished, that it would close to make room: HTTP, between two requests.
    Idle,
    /// Publications that a subscriber did not get, as it was too slow.
    Skipped,
    /// Streams that were given away with their state, whatever has become of them.
    HandedOver,
    /// The part of [`Word::HandedOver`] that has come back, as no other worker would take it.
    TakenBack,
    /// The connections, of those it has taken and not finished, that are streams.
    Streams,
    /// Those of which the handler has kept the response.
    Later,
    /// The part of [`Word::Finished`] that was handed back idle, and goes on elsewhere.
    Moved,
    /// The part of [`Word::Finished`] that was ended because the time to finish was over.
    Cut,
    /// The name of the callback that runs, its first eight bytes; 0 if none runs.
    Callback,
    /// The next eight bytes of it.
    CallbackRest,
}

/// The first word of what a worker writes when it crashes ([`crate::sys::crash`]).
const CRASH: usize = 64;
const _: () = assert!(CRASH + crash::WORDS <= memory::PAGE_WORDS);

/// The pages of [`Common`] come before those of workers.
const COMMON_PAGES: usize = 2;

/// The word of the shared page.
const WAITING: usize = 0;
/// The word of the master's page: not 0 if no workers follow the present ones.
const IS_FINAL: usize = 0;

/// Mappings that former masters in this process have released, for the next one.
static RELEASED: Mutex<Vec<&'static [SharedPage]>> = Mutex::new(Vec::new());

impl Scoreboard {
    /// Maps a scoreboard for this number of workers. A page takes memory when it is first used.
    pub fn new(workers: usize) -> io::Result<Self> {
        Self::resume(memory::page_file(c"prefork-scoreboard", workers + COMMON_PAGES)?, workers)
    }

    /// Maps the file of an existing scoreboard, at the place of a released mapping of that size if there is one.
    pub fn resume(file: OwnedFd, workers: usize) -> io::Result<Self> {
        let mut released = RELEASED.lock().unwrap_or_else(PoisonError::into_inner);
        let at = released.iter().position(|pages| pages.len() == workers + COMMON_PAGES);
        let pages = match at.map(|at| released.swap_remove(at)) {
            Some(pages) => memory::map_over(pages, Some(file.as_fd())).map(|()| pages)?,
            None => memory::map_pages(file.as_fd(), workers + COMMON_PAGES)?,
        };
        Ok(Self { pages, file: Some(file) })
    }

    /// Gives the memory back when neither master nor workers use it any more. The addresses stay mapped, since references to
    /// the pages are `'static`.
    pub fn release(&self) {
        if memory::map_over(self.pages, None).is_ok() {
            RELEASED.lock().unwrap_or_else(PoisonError::into_inner).push(self.pages);
        }
    }

    /// The pages about all workers.
    pub fn common(&self) -> Common {
        Common { shared: &self.pages[0], masters: &self.pages[1] }
    }

    /// A worker's page.
    pub fn page(&self, page: Page) -> WorkerPage {
        WorkerPage(&self.pages[page.index() + COMMON_PAGES])
    }

    /// Worker: makes all pages read-only in this process, except the shared one and its own.
    pub fn keep_only(&mut self, page: Page) -> io::Result<()> {
        self.file = None;
        memory::protect(&self.pages[1..page.index() + COMMON_PAGES])?;
        memory::protect(&self.pages[page.index() + COMMON_PAGES + 1..])
    }
}

impl AsFd for Scoreboard {
    #[expect(clippy::expect_used, reason = "only workers have closed it, and only the master is upgraded")]
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_ref().expect("the master has the scoreboard's file").as_fd()
    }
}

impl Common {
    /// Master: announces that it waits for room. It must check once more for room before it sleeps.
    pub fn start_waiting(self) {
        self.shared[WAITING].store(1, SeqCst);
        fence(SeqCst);
    }

    /// Master: no longer waits.
    pub fn stop_waiting(self) {
        self.shared[WAITING].store(0, Relaxed);
    }

    /// Master: no worker follows the present ones; those that drain first take all that waits at their own sockets.
    pub fn start_final_intake(self) {
        self.masters[IS_FINAL].store(1, SeqCst);
    }

    /// Worker: true if no other follows it.
    pub fn is_final_intake(self) -> bool {
        self.masters[IS_FINAL].load(SeqCst) != 0
    }

    /// Worker, after it made room: true if it has to wake the master.
    ///
    /// The fence pairs with the one in `start_waiting`: either the master's second check sees the room, or this load sees the
    /// wait.
    pub fn claim_wake(self) -> bool {
        fence(SeqCst);
        self.shared[WAITING].load(Relaxed) != 0 && self.shared[WAITING].swap(0, SeqCst) != 0
    }
}

impl Common {
    /// The pages: the one that all write, and the master's.
    pub fn pages(self) -> [&'static SharedPage; 2] {
        [self.shared, self.masters]
    }

    /// Of [`Common::pages`].
    pub fn at([shared, masters]: [&'static SharedPage; 2]) -> Self {
        Self { shared, masters }
    }
}

impl WorkerPage {
    /// The page itself.
    pub fn page(self) -> &'static SharedPage {
        self.0
    }

    /// The worker's page at this place.
    pub fn at(page: &'static SharedPage) -> Self {
        Self(page)
    }

    /// The word itself.
    pub fn word(self, word: Word) -> &'static AtomicU64 {
        &self.0[word as usize]
    }

    /// Reads a word.
    pub fn get(self, word: Word) -> u64 {
        self.word(word).load(Relaxed)
    }

    /// Writes a word.
    pub fn set(self, word: Word, value: u64) {
        self.word(word).store(value, Relaxed);
    }

    /// Adds to a word. Only the page's worker does, so a load and a store are enough.
    pub fn add(self, word: Word, n: u64) {
        self.set(word, self.get(word).wrapping_add(n));
    }

    /// Takes one from a word. Only the page's worker does.
    pub fn take_one(self, word: Word) {
        self.set(word, self.get(word).wrapping_sub(1));
    }

    /// Shows which callback runs.
    #[inline(always)]
    pub fn show_callback(self, name: &str) {
        let mut bytes = [0; 16];
        let len = name.len().min(bytes.len());
        bytes[..len].copy_from_slice(&name.as_bytes()[..len]);
        let [first, rest] =
            [&bytes[..8], &bytes[8..]].map(|half| half.try_into().map_or(0, u64::from_ne_bytes));
        self.set(Word::CallbackRest, rest);
        self.set(Word::Callback, first);
    }

    /// No callback runs.
    #[inline(always)]
    pub fn hide_callback(self) {
        self.set(Word::Callback, 0);
    }

    /// The name of the callback that runs, in its first 16 bytes, padded with NULs; as the worker shows it.
    pub fn callback(self) -> [u8; 16] {
        let first = self.get(Word::Callback);
        let words = [first, if first == 0 { 0 } else { self.get(Word::CallbackRest) }];
        let mut bytes = [0; 16];
        words.iter().flat_map(|word| word.to_ne_bytes()).zip(&mut bytes).for_each(|(byte, to)| *to = byte);
        bytes
    }

    /// What the worker writes when it crashes.
    pub fn crash_area(self) -> Area {
        &self.0[CRASH..]
    }

    /// Clears the page for its next worker.
    pub fn clear(self) {
        self.0.iter().for_each(|w| w.store(0, Relaxed));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_wake_is_claimed_per_wait() {
        let board = Scoreboard::new(1).unwrap();
        let common = board.common();
        assert!(!common.claim_wake());
        common.start_waiting();
        assert!(common.claim_wake());
        assert!(!common.claim_wake());
    }

    #[test]
    fn pages_are_apart_and_start_at_zero() {
        let board = Scoreboard::new(3).unwrap();
        board.page(Page(1)).add(Word::Taken, 2);
        assert_eq!(board.page(Page(0)).get(Word::Taken), 0);
        assert_eq!(board.page(Page(1)).get(Word::Taken), 2);
        assert_eq!(board.page(Page(2)).get(Word::Taken), 0);
        board.page(Page(1)).clear();
        assert_eq!(board.page(Page(1)).get(Word::Taken), 0);
    }
}
