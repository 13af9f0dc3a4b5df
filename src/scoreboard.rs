//! The scoreboard: one page of shared counters per worker process, and two for all.
//!
//! A worker writes its own page, the master reads them all; everything is an atomic word. The master takes what
//! it reads as numbers to compare and show, never as an index or a pointer: a worker that writes garbage harms its own
//! place in the order of dispatch and nothing else. What the master must be able to trust it counts itself.

use crate::ids::Page;
use crate::sys::memory::{self, SharedPage};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::sync::atomic::{AtomicU64, fence};
use std::sync::{Mutex, PoisonError};

/// All pages: the master's view.
pub struct Scoreboard {
    pages: &'static [SharedPage],
    /// What is mapped, for a program that takes this one's place; a worker lets go of it.
    file: Option<OwnedFd>,
}

/// The pages that are about all workers: one that they write too, and one that is the master's alone to write.
#[derive(Clone, Copy)]
pub struct Common {
    shared: &'static SharedPage,
    masters: &'static SharedPage,
}

/// One worker's page.
#[derive(Clone, Copy, Debug)]
pub struct WorkerPage(&'static SharedPage);

/// Words of a [`WorkerPage`]. All but [`Word::BusySince`] count up for as long as the page is used.
#[derive(Clone, Copy)]
#[repr(usize)]
pub enum Word {
    /// Connections read from the handoff channel, or accepted by the worker itself.
    Taken,
    /// Probes read from the handoff channel: signs of life the master asked for.
    Probed,
    /// Connections that are no longer this worker's: closed or handed back.
    Finished,
    /// Requests answered; in blocking style, connections served.
    Requests,
    /// Requests refused or failed: 4xx and 5xx that prefork itself gave, panics, deadlines.
    Errors,
    /// Bytes read from clients.
    BytesIn,
    /// Bytes written to clients.
    BytesOut,
    /// Since when (monotonic, milliseconds) the handler has been running; 0 while it is not.
    BusySince,
    /// Those of [`Word::Taken`] that the worker accepted itself: the master knows of them from here only.
    Accepted,
}

/// Pages before those of workers: the two of [`Common`].
const COMMON_PAGES: usize = 2;

/// The word of the shared page.
const WAITING: usize = 0;
/// The word of the master's page.
const INTAKE: usize = 0;

/// Words at `INTAKE`; 0 before the first workers are all ready.
const ALLOWED: u64 = 1;
const FINAL: u64 = 2;

/// Mappings stay for the rest of the process's life: of a master that is no more, without its memory, for the next one.
static LEFT: Mutex<Vec<&'static [SharedPage]>> = Mutex::new(Vec::new());

impl Scoreboard {
    /// Maps a scoreboard with `pages` pages for workers; pages take memory when they are used.
    pub fn new(workers: usize) -> io::Result<Self> {
        Self::resume(memory::page_file(c"prefork-scoreboard", workers + COMMON_PAGES)?, workers)
    }

    /// Maps the scoreboard of the program that was in this process before. Where a former master of this program has left a
    /// mapping of that size, it takes its place.
    pub fn resume(file: OwnedFd, workers: usize) -> io::Result<Self> {
        let mut left = LEFT.lock().unwrap_or_else(PoisonError::into_inner);
        let at = left.iter().position(|pages| pages.len() == workers + COMMON_PAGES);
        let pages = match at.map(|at| left.swap_remove(at)) {
            Some(pages) => memory::map_over(pages, Some(file.as_fd())).map(|()| pages)?,
            None => memory::map_pages(file.as_fd(), workers + COMMON_PAGES)?,
        };
        Ok(Self { pages, file: Some(file) })
    }

    /// Nobody writes or reads it any more: gives its memory back.
    pub fn leave(&self) {
        if memory::map_over(self.pages, None).is_ok() {
            LEFT.lock().unwrap_or_else(PoisonError::into_inner).push(self.pages);
        }
    }

    /// What is about all workers.
    pub fn common(&self) -> Common {
        Common { shared: &self.pages[0], masters: &self.pages[1] }
    }

    /// WorkerPage `index`.
    pub fn page(&self, page: Page) -> WorkerPage {
        WorkerPage(&self.pages[page.index() + COMMON_PAGES])
    }

    /// Worker: keeps the shared page and its own, and makes the others read-only in this process.
    pub fn keep_only(&mut self, page: Page) -> io::Result<()> {
        self.file = None;
        memory::protect(&self.pages[1..page.index() + COMMON_PAGES])?;
        memory::protect(&self.pages[page.index() + COMMON_PAGES + 1..])
    }
}

impl AsFd for Scoreboard {
    #[expect(clippy::expect_used, reason = "only a worker has let go of it, and a worker hands nothing over")]
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_ref().expect("the master has the scoreboard's file").as_fd()
    }
}

impl Common {
    /// Master: says that it waits for room. Must be followed by another look for room before the master sleeps.
    pub fn start_waiting(self) {
        self.shared[WAITING].store(1, SeqCst);
        fence(SeqCst);
    }

    /// Master: says that it no longer waits.
    pub fn stop_waiting(self) {
        self.shared[WAITING].store(0, Relaxed);
    }

    /// Master: workers may accept and read datagrams, where that is theirs to do. They look when something wakes them.
    pub fn allow_intake(self) {
        self.masters[INTAKE].store(ALLOWED, Relaxed);
    }

    /// Master: no worker comes after those there are; whoever drains from now on takes all that waits at its doors first.
    pub fn start_final_intake(self) {
        self.masters[INTAKE].store(FINAL, SeqCst);
    }

    /// Worker: whether it may accept and read datagrams.
    pub fn may_take_in(self) -> bool {
        self.masters[INTAKE].load(Relaxed) != 0
    }

    /// Worker: whether no other comes after it.
    pub fn is_final_intake(self) -> bool {
        self.masters[INTAKE].load(SeqCst) == FINAL
    }

    /// Worker, after it made room: whether it is the one to wake the master.
    ///
    /// The fence pairs with the one in `start_waiting`: either the master's second look sees the room, or this sees the wait.
    pub fn claim_wake(self) -> bool {
        fence(SeqCst);
        self.shared[WAITING].load(Relaxed) != 0 && self.shared[WAITING].swap(0, SeqCst) != 0
    }
}

impl WorkerPage {
    fn word(self, word: Word) -> &'static AtomicU64 {
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

    /// Since when the handler has been running, for who looks from within a signal.
    pub fn busy_since(self) -> &'static AtomicU64 {
        self.word(Word::BusySince)
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
