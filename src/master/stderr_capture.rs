//! Captures the standard error of workers until they have proved themselves, so that a failure is reported with their last lines.
//!
//! A worker is born with a pipe in place of its standard error. The master reads it, keeps the last lines, and copies whole lines to
//! its own standard error if that takes them at once; otherwise it drops and counts them, so that neither waits for a slow reader.
//! Once the worker can serve and its generation is committed, it restores its own standard error, and its lines do not pass through
//! the master any more. A child that it has started may keep the pipe open: the pipe is read until it or the worker ends.

use super::Token;
use crate::config::LogLevel;
use crate::ids::{Page, WorkerId};
use crate::log;
use crate::log::counted;
use crate::sys::{poll, stderr};
use mio::Poll;
use std::collections::{BTreeMap, VecDeque};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// The most lines that are kept of a worker ...
const LINES: usize = 20;
/// ... and the most bytes of them.
const BYTES: usize = 4096;
/// A line of this length continues in the next one (bytes). The largest escape and the line end fit into a [`BATCH`] with it.
const LONGEST: usize = 4000;
/// The most bytes of one write(2), so that a pipe takes it whole or not at all (pipe(7), PIPE_BUF).
const BATCH: usize = 4096;
/// The most bytes of one read(2), and of one worker in a turn of the master's loop.
const READ: usize = 4096;
/// The most bytes that are read of a worker before it restores its standard error, so that its next lines do not overtake
/// these: the capacity of a pipe.
const PIPE: usize = 64 * 1024;
/// The most bytes that are read of a worker that has ended: the greatest capacity of a pipe. Its children may write forever.
const REST: usize = 1024 * 1024;

/// All captured pipes.
pub struct StderrCapture {
    pipes: BTreeMap<Page, Pipe>,
    copier: Copier,
}

/// Writes lines to the master's standard error.
struct Copier {
    /// Writes lines; `false` if it drops them.
    write: fn(&str) -> bool,
    /// Lines that were dropped and not reported yet.
    dropped: usize,
}

struct Pipe {
    worker: WorkerId,
    source: OwnedFd,
    lines: Lines,
}

/// The lines of one worker.
struct Lines {
    /// A line that has not ended yet.
    begun: Vec<u8>,
    /// The last lines; `None` once the worker has proved itself: from then on the pipe has only part of what it writes.
    kept: Option<VecDeque<String>>,
}

impl StderrCapture {
    /// No pipes yet.
    pub fn new() -> Self {
        let copier = Copier { write: log::copy, dropped: 0 };
        Self { pipes: BTreeMap::new(), copier }
    }

    /// The number of workers whose standard error is read.
    pub fn open_pipes(&self) -> usize {
        self.pipes.len()
    }

    /// Opens a pipe for a worker that is about to be forked, and returns its end. `None` if the worker has to use the
    /// master's standard error, for instance because descriptors have run out.
    pub fn open(&mut self, worker: WorkerId, page: Page, poll: &Poll) -> Option<OwnedFd> {
        // The fork needs one more descriptor, and matters more than the pipe: hold it while the pipe is made.
        let pidfd = std::fs::File::open("/dev/null").ok()?;
        let (source, end) = stderr::pipe().ok()?;
        drop(pidfd);
        let lines = Lines { begun: Vec::new(), kept: Some(VecDeque::new()) };
        self.watch(page, Pipe { worker, source, lines }, poll).then_some(end)
    }

    /// Continues with a pipe that a former program in this process has saved ([`StderrCapture::saved`]).
    pub fn restore(&mut self, worker: WorkerId, page: Page, source: OwnedFd, begun: Vec<u8>, poll: &Poll) {
        self.watch(page, Pipe { worker, source, lines: Lines { begun, kept: None } }, poll);
    }

    fn watch(&mut self, page: Page, pipe: Pipe, poll: &Poll) -> bool {
        let watched = poll::watch_level(poll, pipe.source.as_fd(), Token::Stderr(page).into()).is_ok();
        if watched {
            self.pipes.insert(page, pipe);
        }
        watched
    }

    /// For the program that replaces this one: the worker, its pipe, and the line that has not ended, of each pipe.
    pub fn saved(&self) -> impl Iterator<Item = (WorkerId, BorrowedFd<'_>, &[u8])> {
        self.pipes.values().map(|p| (p.worker, p.source.as_fd(), p.lines.begun.as_slice()))
    }

    /// Reads from the pipe of a page, which the poll has reported. Returns true if that has closed a descriptor.
    pub fn read(&mut self, page: Page, poll: &Poll) -> bool {
        let Some(pipe) = self.pipes.get_mut(&page) else { return false };
        if !pipe.read(READ, &mut self.copier) {
            return false;
        }
        // Its end would be reported forever. The last lines are wanted until the worker is proved or reaped.
        pipe.close(&mut self.copier, poll);
        pipe.lines.kept.is_none() && self.pipes.remove(&page).is_some()
    }

    /// Stops keeping the lines of workers that have proved themselves, and returns these: each is to restore its standard
    /// error.
    pub fn release(&mut self, poll: &Poll, is_proved: impl Fn(WorkerId) -> bool) -> Vec<WorkerId> {
        let mut released = Vec::new();
        self.pipes.retain(|_, pipe| {
            if pipe.lines.kept.is_none() || !is_proved(pipe.worker) {
                return true;
            }
            pipe.lines.kept = None;
            released.push(pipe.worker);
            // Before the worker restores it, so that the lines it writes itself come after these.
            let is_over = pipe.read(PIPE, &mut self.copier);
            if is_over {
                pipe.close(&mut self.copier, poll);
            }
            !is_over
        });
        released
    }

    /// Reads the rest of a worker that has ended, or was not forked after all, closes the pipe, and returns the last lines.
    pub fn finish(&mut self, page: Page, poll: &Poll) -> Vec<String> {
        self.copier.report_dropped();
        let Some(mut pipe) = self.pipes.remove(&page) else { return Vec::new() };
        pipe.read(REST, &mut self.copier);
        pipe.close(&mut self.copier, poll);
        pipe.lines.kept.unwrap_or_default().into()
    }

    /// The last lines so far of a worker that still runs.
    pub fn last_lines(&mut self, worker: WorkerId) -> Vec<String> {
        let Some(pipe) = self.pipes.values_mut().find(|p| p.worker == worker) else { return Vec::new() };
        pipe.read(PIPE, &mut self.copier);
        pipe.lines.kept.iter().flatten().cloned().collect()
    }

    /// Closes all pipes, in a worker.
    pub fn clear(&mut self) {
        self.pipes.clear();
    }
}

impl Pipe {
    /// Reads what is there, at most `limit` bytes. Returns true if the pipe has ended.
    fn read(&mut self, limit: usize, copier: &mut Copier) -> bool {
        let mut bytes = [0; READ];
        for _ in 0..limit / READ {
            match stderr::read(self.source.as_fd(), &mut bytes) {
                Ok(0) => return true,
                Ok(n) => {
                    self.lines.take(&bytes[..n], copier);
                    if n < READ {
                        return false;
                    }
                }
                Err(e) => return e.kind() != std::io::ErrorKind::WouldBlock,
            }
        }
        false
    }

    /// Has the poll report it no more, and ends its last line.
    fn close(&mut self, copier: &mut Copier, poll: &Poll) {
        let _ = poll::unwatch(poll, self.source.as_fd());
        self.lines.end(copier);
    }
}

impl Lines {
    /// Copies and keeps the lines that end in these bytes.
    fn take(&mut self, bytes: &[u8], copier: &mut Copier) {
        self.begun.extend_from_slice(bytes);
        match self.begun.iter().rposition(|b| *b == b'\n') {
            Some(last) => {
                let rest = self.begun.split_off(last + 1);
                self.end(copier);
                self.begun = rest;
            }
            // A line without end is cut, or it would take more and more memory.
            None if self.begun.len() >= LONGEST => self.end(copier),
            None => {}
        }
    }

    /// Copies and keeps all bytes, as lines.
    fn end(&mut self, copier: &mut Copier) {
        let text = escape(&std::mem::take(&mut self.begun));
        copier.copy(&text);
        for line in text.lines() {
            let Some(kept) = &mut self.kept else { return };
            kept.push_back(line.to_owned());
            while kept.len() > LINES || kept.iter().map(|l| l.len() + 1).sum::<usize>() > BYTES {
                kept.pop_front();
            }
        }
    }
}

impl Copier {
    /// Writes lines if standard error takes them at once, else drops them.
    fn copy(&mut self, mut lines: &str) {
        while !lines.is_empty() {
            let fits = &lines.as_bytes()[..lines.len().min(BATCH)];
            let end = fits.iter().rposition(|b| *b == b'\n').map_or(lines.len(), |last| last + 1);
            let (batch, rest) = lines.split_at(end);
            self.report_dropped();
            // Nothing is written between dropped lines and the report of them.
            if self.dropped > 0 || !(self.write)(batch) {
                self.dropped += batch.lines().count();
            }
            lines = rest;
        }
    }

    /// Reports the number of lines that were dropped, if standard error takes that.
    fn report_dropped(&mut self) {
        let n = self.dropped;
        if n > 0
            && (self.write)(&log::formatted(
                LogLevel::Warn,
                &format!(
                    "{} of starting workers dropped: standard error was not read in time",
                    counted(n as u64, "line")
                ),
            ))
        {
            self.dropped = 0;
        }
    }
}

/// Returns bytes as lines of text, each with its end, with what a terminal or a reader of lines would interpret escaped. A line that
/// is too long continues in the next one.
fn escape(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() + 1);
    let mut start = 0;
    for c in String::from_utf8_lossy(bytes).chars() {
        if c == '\n' || text.len() - start >= LONGEST {
            text.push('\n');
            start = text.len();
        }
        match c {
            '\n' => {}
            '\t' => text.push(c),
            c if c.is_control() => text.extend(c.escape_default()),
            c => text.push(c),
        }
    }
    if text.len() > start {
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const TAKES_ALL: Copier = Copier { write: |_| true, dropped: 0 };

    fn lines() -> Lines {
        Lines { begun: Vec::new(), kept: Some(VecDeque::new()) }
    }

    impl Lines {
        fn add(&mut self, bytes: &[u8]) {
            self.take(bytes, &mut { TAKES_ALL });
        }

        fn kept(&self) -> Vec<&str> {
            self.kept.iter().flatten().map(String::as_str).collect()
        }
    }

    #[test]
    fn lines_are_put_together_however_they_are_cut() {
        let text = "one\n\ntwo \u{e9}\nthree";
        for step in 1..text.len() {
            let mut lines = lines();
            text.as_bytes().chunks(step).for_each(|bytes| lines.add(bytes));
            assert_eq!(lines.kept(), ["one", "", "two \u{e9}"]);
            lines.end(&mut { TAKES_ALL });
            assert_eq!(lines.kept(), ["one", "", "two \u{e9}", "three"]);
        }
    }

    #[test]
    fn the_last_twenty_lines_are_kept_and_four_kibibytes() {
        let mut lines = lines();
        (0..100).for_each(|n| lines.add(format!("{n}\n").as_bytes()));
        assert_eq!(lines.kept(), (80..100).map(|n| n.to_string()).collect::<Vec<_>>());
        (0..4).for_each(|n| lines.add(format!("{n}{}\n", "x".repeat(1500)).as_bytes()));
        assert_eq!(lines.kept().iter().map(|l| &l[..1]).collect::<String>(), "23");
    }

    #[test]
    fn a_line_without_end_is_cut_and_takes_no_more_memory() {
        let mut endless = lines();
        (0..1000).for_each(|_| endless.add(&[b'x'; READ]));
        assert!(endless.begun.capacity() <= 2 * (LONGEST + READ));
        assert!(endless.kept().iter().all(|l| !l.is_empty() && l.len() <= LONGEST));
        // An end that comes exactly there makes no empty line.
        let mut lines = lines();
        lines.add(&[&[b'y'; LONGEST][..], b"\nz\n"].concat());
        assert_eq!(lines.kept().last(), Some(&"z"));
        assert!(!lines.kept().contains(&""));
    }

    #[test]
    fn what_is_no_text_is_escaped_and_fits() {
        assert_eq!(escape(b"\x1b[31m\tred\r\x00\xff\xc2\x9b"), "\\u{1b}[31m\tred\\r\\u{0}\u{fffd}\\u{9b}\n");
        let text = escape(&[0x1b; 3 * LONGEST]);
        assert!(text.lines().all(|l| !l.is_empty() && l.len() < BATCH));
        assert_eq!(text.matches("\\u{1b}").count(), 3 * LONGEST);
    }

    #[test]
    fn each_line_is_copied_whole_or_counted() {
        let mut copier = Copier { write: |text| text.ends_with('\n') && text.len() <= BATCH, dropped: 0 };
        let mut speaker = lines();
        (0..1000).for_each(|n| speaker.take(format!("{n}{}\n", "x".repeat(n)).as_bytes(), &mut copier));
        assert_eq!(copier.dropped, 0);
        copier.write = |_| false;
        speaker.take(&b"line\n".repeat(3000), &mut copier);
        assert_eq!((copier.dropped, speaker.kept().len()), (3000, LINES));
        copier.write = |_| true;
        speaker.take(b"line\n", &mut copier);
        assert_eq!(copier.dropped, 0);
    }
}
