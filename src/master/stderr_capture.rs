//! Captures the standard error of workers until they have proved themselves, so that their last lines are known if they
//! fail.
//!
//! A worker is born with a pipe in place of its standard error. The master reads it, keeps the last lines, and copies whole
//! lines to its own standard error if that takes them at once; otherwise it drops and counts them, so that neither the
//! master nor a worker waits for a slow reader. Once the worker can serve and its generation is committed, it restores its
//! own standard error, and its lines do not pass through the master any more. A child that it has started may keep the pipe
//! open: it is read until it ends or the worker does.

use super::Token;
use crate::ids::{Page, WorkerId};
use crate::log;
use crate::sys::{poll, stderr};
use mio::Poll;
use std::collections::VecDeque;
use std::fmt::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// The most lines that are kept of a worker ...
const LINES: usize = 20;
/// ... and the most bytes of them.
const BYTES: usize = 4096;
/// A longer line continues in the next one (bytes). With its line end it fits into a pipe in one piece (pipe(7), PIPE_BUF).
const LONGEST: usize = 4000;
/// The most bytes of one write(2), for the same reason.
const BATCH: usize = 4096;
/// The most bytes of one read(2), and of one worker in a turn of the master's loop.
const READ: usize = 4096;
/// The most bytes that are read of a worker before it restores its standard error, so that its next lines do not overtake
/// these: the capacity of a pipe.
const PIPE: usize = 64 * 1024;
/// The most bytes that are read of a worker that has ended: the greatest capacity a pipe can be given. Its children may
/// write forever.
const REST: usize = 1024 * 1024;

/// All captured pipes.
pub struct StderrCapture {
    /// False if the master has no standard error to copy to.
    is_possible: bool,
    pipes: Vec<Pipe>,
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
    page: Page,
    /// `None` after its end, which comes before the worker's exit status is known.
    source: Option<OwnedFd>,
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
    /// No pipes yet. To be called before any file is opened: a file that gets number 2 is not standard error.
    pub fn new() -> Self {
        let copier = Copier { write: log::copy, dropped: 0 };
        Self { is_possible: stderr::is_open(), pipes: Vec::new(), copier }
    }

    /// Opens a pipe for a worker that is about to be forked, and returns its end. `None` if the worker has to use the
    /// master's standard error, for instance because descriptors have run out.
    pub fn open(&mut self, worker: WorkerId, page: Page, poll: &Poll) -> Option<OwnedFd> {
        if !self.is_possible {
            return None;
        }
        // The fork needs one more descriptor, and matters more than the pipe: hold it while the pipe is made.
        let pidfd = std::fs::File::open("/dev/null").ok()?;
        let (source, end) = stderr::pipe().ok()?;
        drop(pidfd);
        let lines = Lines { begun: Vec::new(), kept: Some(VecDeque::new()) };
        self.watch(worker, page, source, lines, poll).then_some(end)
    }

    /// Continues with a pipe that a former program in this process has saved ([`StderrCapture::saved`]).
    pub fn restore(&mut self, worker: WorkerId, page: Page, source: OwnedFd, begun: Vec<u8>, poll: &Poll) {
        self.watch(worker, page, source, Lines { begun, kept: None }, poll);
    }

    /// For the program that replaces this one: the worker, its pipe, and the line that has not ended, of each pipe.
    pub fn saved(&self) -> impl Iterator<Item = (WorkerId, BorrowedFd<'_>, &[u8])> {
        self.pipes
            .iter()
            .filter_map(|p| Some((p.worker, p.source.as_ref()?.as_fd(), p.lines.begun.as_slice())))
    }

    /// Reads from the pipe of a page, which the poll has reported. Returns true if the pipe has ended and its descriptor is
    /// closed.
    pub fn read(&mut self, page: Page, poll: &Poll) -> bool {
        let Some(at) = self.pipes.iter().position(|p| p.page == page) else { return false };
        let pipe = &mut self.pipes[at];
        let is_over = pipe.read(READ, &mut self.copier);
        if is_over {
            pipe.close(&mut self.copier, poll);
            // The last lines are wanted until the worker has proved itself, or its exit status is known.
            if pipe.lines.kept.is_none() {
                self.pipes.swap_remove(at);
            }
        }
        is_over
    }

    /// Stops keeping the lines of workers that have proved themselves, and returns these: each is to restore its standard
    /// error.
    pub fn release(&mut self, is_proved: impl Fn(WorkerId) -> bool) -> Vec<WorkerId> {
        let mut released = Vec::new();
        for pipe in self.pipes.iter_mut().filter(|p| p.lines.kept.is_some() && is_proved(p.worker)) {
            // Before it is told to, so that the lines it writes itself come after these.
            pipe.read(PIPE, &mut self.copier);
            pipe.lines.kept = None;
            released.push(pipe.worker);
        }
        self.pipes.retain(|p| p.source.is_some() || p.lines.kept.is_some());
        released
    }

    /// Reads the rest of a worker that has ended, or was not forked after all, closes the pipe, and returns the last lines.
    pub fn finish(&mut self, page: Page, poll: &Poll) -> Vec<String> {
        self.copier.report_dropped();
        let Some(at) = self.pipes.iter().position(|p| p.page == page) else { return Vec::new() };
        let mut pipe = self.pipes.swap_remove(at);
        pipe.read(REST, &mut self.copier);
        pipe.close(&mut self.copier, poll);
        pipe.lines.kept.map_or_else(Vec::new, Vec::from)
    }

    /// The last lines so far of a worker that still runs.
    pub fn last_lines(&mut self, worker: WorkerId) -> Vec<String> {
        let Some(pipe) = self.pipes.iter_mut().find(|p| p.worker == worker) else { return Vec::new() };
        pipe.read(PIPE, &mut self.copier);
        pipe.lines.kept.iter().flatten().cloned().collect()
    }

    /// Closes all pipes, in a worker.
    pub fn clear(&mut self) {
        self.pipes.clear();
    }

    fn watch(&mut self, worker: WorkerId, page: Page, source: OwnedFd, lines: Lines, poll: &Poll) -> bool {
        let watched = poll::watch_level(poll, source.as_fd(), Token::Stderr(page).into()).is_ok();
        if watched {
            self.pipes.push(Pipe { worker, page, source: Some(source), lines });
        }
        watched
    }
}

impl Pipe {
    /// Reads what is there, at most `limit` bytes. Returns true if the pipe has ended.
    fn read(&mut self, limit: usize, copier: &mut Copier) -> bool {
        let mut bytes = [0; READ];
        let Some(source) = &self.source else { return false };
        for _ in 0..limit / READ {
            match stderr::read(source.as_fd(), &mut bytes) {
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

    fn close(&mut self, copier: &mut Copier, poll: &Poll) {
        if let Some(source) = self.source.take() {
            let _ = poll::unwatch(poll, source.as_fd());
        }
        self.lines.end(copier);
    }
}

impl Lines {
    /// Copies and keeps the lines that end in these bytes.
    fn take(&mut self, bytes: &[u8], copier: &mut Copier) {
        let mut batch = Batch::default();
        for line in bytes.split_inclusive(|b| *b == b'\n') {
            let mut rest = line.strip_suffix(b"\n").unwrap_or(line);
            while !rest.is_empty() {
                if self.begun.len() == LONGEST {
                    self.end_line(&mut batch, copier);
                }
                let (now, later) = rest.split_at(rest.len().min(LONGEST - self.begun.len()));
                self.begun.extend_from_slice(now);
                rest = later;
            }
            if line.ends_with(b"\n") {
                self.end_line(&mut batch, copier);
            }
        }
        copier.copy(&mut batch);
    }

    /// Ends a line that has no line end, after the last byte.
    fn end(&mut self, copier: &mut Copier) {
        if !self.begun.is_empty() {
            let mut batch = Batch::default();
            self.end_line(&mut batch, copier);
            copier.copy(&mut batch);
        }
    }

    fn end_line(&mut self, batch: &mut Batch, copier: &mut Copier) {
        let text = escape(&self.begun);
        self.begun.clear();
        let mut rest = text.as_str();
        // Escaping may have made it longer than a line may be.
        loop {
            let end = (0..=LONGEST.min(rest.len())).rev().find(|&i| rest.is_char_boundary(i)).unwrap_or(0);
            let (line, later) = rest.split_at(end);
            if batch.text.len() + line.len() >= BATCH {
                copier.copy(batch);
            }
            batch.text.push_str(line);
            batch.text.push('\n');
            batch.lines += 1;
            self.keep(line);
            rest = later;
            if rest.is_empty() {
                return;
            }
        }
    }

    fn keep(&mut self, line: &str) {
        let Some(kept) = &mut self.kept else { return };
        kept.push_back(line.to_owned());
        while kept.len() > LINES || kept.iter().map(|l| l.len() + 1).sum::<usize>() > BYTES {
            kept.pop_front();
        }
    }
}

/// Lines for one write(2).
#[derive(Default)]
struct Batch {
    text: String,
    lines: usize,
}

impl Copier {
    /// Writes a batch if standard error takes it at once, else drops it. Leaves the batch empty.
    fn copy(&mut self, batch: &mut Batch) {
        if batch.lines > 0 {
            self.report_dropped();
            // Nothing is written between dropped lines and the report of them.
            if self.dropped > 0 || !(self.write)(&batch.text) {
                self.dropped += batch.lines;
            }
            *batch = Batch::default();
        }
    }

    /// Says how many lines were dropped, if standard error takes that.
    fn report_dropped(&mut self) {
        let n = self.dropped;
        if n > 0
            && (self.write)(&format!(
                "prefork: {n} lines of starting workers were dropped: standard error was not read in time\n"
            ))
        {
            self.dropped = 0;
        }
    }
}

/// Returns a line as text, with what a terminal or a reader of lines would interpret escaped.
fn escape(line: &[u8]) -> String {
    let mut text = String::with_capacity(line.len());
    for chunk in line.utf8_chunks() {
        for c in chunk.valid().chars() {
            if c.is_control() && c != '\t' { text.extend(c.escape_default()) } else { text.push(c) }
        }
        for byte in chunk.invalid() {
            let _ = write!(text, "\\x{byte:02x}");
        }
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
        assert!(endless.begun.capacity() <= 2 * LONGEST);
        assert!(endless.kept().iter().all(|l| l.len() == LONGEST));
        // An end that comes exactly there makes no empty line.
        let mut lines = lines();
        lines.add(&[b'y'; LONGEST]);
        lines.add(b"\nz\n");
        assert_eq!(lines.kept().last(), Some(&"z"));
        assert!(!lines.kept().contains(&""));
    }

    #[test]
    fn what_is_no_text_is_escaped_and_nothing_is_lost() {
        assert_eq!(escape(b"\x1b[31m\tred\r\x00\xff\xc2\x9b"), "\\u{1b}[31m\tred\\r\\u{0}\\xff\\u{9b}");
        let mut lines = lines();
        lines.add(&[0xff; LONGEST]);
        lines.add(b"\n");
        assert!(lines.kept().iter().all(|l| !l.is_empty() && l.len() <= LONGEST));
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
