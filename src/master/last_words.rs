//! What workers write to standard error until they have proved themselves: it comes through the master, so that their last
//! lines are known when they fail.
//!
//! A worker is born with a pipe in the place of its standard error. The master copies whole lines to its own, a bounded share
//! each turn, and keeps the last of them. Once the worker can serve and its generation is committed, it is told to put its own
//! standard error back; from then on its lines do not come by here. What it has started meanwhile may keep the pipe open: it
//! is read until its end, or the worker's.

use super::lifecycle::NEVER;
use super::{Master, seats_of, words_token};
use crate::ids::WorkerId;
use crate::log;
use crate::message::Notice;
use crate::sys::{poll, stderr};
use mio::{Events, Poll};
use std::collections::VecDeque;
use std::fmt::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Lines that are kept of a worker ...
const LINES: usize = 20;
/// ... and their bytes.
const BYTES: usize = 4096;
/// A line that is longer goes on in the next one (bytes). With its line end it fits into a pipe whole (pipe(7), PIPE_BUF).
const LONGEST: usize = 4000;
/// What is written at one time.
const BATCH: usize = 4096;
/// What is read at one time.
const READ: usize = 2048;
/// What is read of all workers in a turn, and of one at least and at most.
const SHARE: (usize, usize, usize) = (64 * 1024, READ, 16 * 1024);
/// What is read of one that is told to go its own way, so that its next lines do not overtake the last: what a pipe holds.
const REST: usize = 64 * 1024;
/// What is read at the most of one that has ended: what a pipe can be made to hold. Its children may write on and on.
const END: usize = 1024 * 1024;
/// How long workers are kept waiting for whoever reads the master's own standard error, before their lines are dropped; and how
/// often that is looked at (milliseconds).
const PATIENCE: u64 = 1000;
const LOOK: u64 = 10;

/// All pipes.
pub struct Words {
    /// There is a standard error to copy to.
    possible: bool,
    pipes: Vec<Pipe>,
    /// Since when our own standard error takes nothing.
    stuck_since: Option<u64>,
    /// No pipe is read until then.
    rest_until: Option<u64>,
}

struct Pipe {
    worker: u32,
    seat: usize,
    /// `None` after its end: that comes before it is known how the worker ended.
    from: Option<OwnedFd>,
    watched: bool,
    lines: Lines,
}

/// What is under way of one worker's.
struct Lines {
    worker: u32,
    /// Writes lines; `false` where it drops them.
    copy: fn(&str) -> bool,
    /// A line without its end yet.
    begun: Vec<u8>,
    /// What is to be written next, and how many lines that is.
    out: (String, u64),
    dropped: u64,
    /// `None` once the worker has proved itself: then what comes is not all there is.
    kept: Option<VecDeque<String>>,
}

impl Words {
    /// None yet. To be called before anything is opened.
    pub fn new() -> Self {
        Self { possible: stderr::is_open(), pipes: Vec::new(), stuck_since: None, rest_until: None }
    }

    /// In a worker: lets go of what others write.
    pub fn clear(&mut self) {
        self.pipes.clear();
    }

    /// For the next program in this process: worker, pipe, and the line that has begun.
    pub fn hand_over(&self) -> impl Iterator<Item = (u32, BorrowedFd<'_>, &[u8])> {
        self.pipes.iter().filter_map(|p| Some((p.worker, p.from.as_ref()?.as_fd(), p.lines.begun.as_slice())))
    }

    fn find(&mut self, seat: usize) -> Option<&mut Pipe> {
        self.pipes.iter_mut().find(|p| p.seat == seat)
    }
}

impl Master {
    /// A pipe for a worker that is about to be forked: what it is to write to. `None`: it has to do with the master's own standard
    /// error, as where descriptors have run out.
    pub(super) fn listen_to(&mut self, worker: u32, seat: usize) -> Option<OwnedFd> {
        if !self.words.possible {
            return None;
        }
        // The fork takes one more, which a worker can do without even less.
        let pidfd = std::fs::File::open("/dev/null").ok()?;
        let (from, to) = stderr::pipe().ok()?;
        drop(pidfd);
        poll::watch_level(&self.poll, from.as_fd(), words_token(seat)).ok()?;
        let lines = Lines::new(worker, Vec::new(), Some(VecDeque::new()));
        self.words.pipes.push(Pipe { worker, seat, from: Some(from), watched: true, lines });
        Some(to)
    }

    /// Goes on with a pipe that a former program in this process has handed over.
    pub(super) fn go_on_listening(&mut self, worker: u32, from: OwnedFd, begun: Vec<u8>) {
        let Some(seat) = self.crew.seat_of(worker) else { return };
        if poll::watch_level(&self.poll, from.as_fd(), words_token(seat)).is_ok() {
            let lines = Lines::new(worker, begun, None);
            self.words.pipes.push(Pipe { worker, seat, from: Some(from), watched: true, lines });
        }
    }

    /// Copies what the poll has found.
    pub(super) fn hear_words(&mut self, events: &Events) {
        let (all, least, most) = SHARE;
        let speakers = seats_of(events, words_token(0)).count();
        let share = (all / speakers.max(1)).clamp(least, most);
        seats_of(events, words_token(0)).for_each(|seat| self.hear_some(seat, share));
    }

    /// Copies at most so many bytes of one worker's, as long as there is room for them.
    fn hear_some(&mut self, seat: usize, share: usize) {
        for _ in 0..share.div_ceil(READ) {
            if !self.has_room_for_words() {
                return;
            }
            let Some(pipe) = self.words.find(seat) else { return };
            match pipe.hear() {
                Heard::More => {}
                Heard::Nothing => return,
                Heard::End => return self.close_pipe(seat),
            }
        }
    }

    /// Whether our own standard error takes a line, or has not for so long that lines are dropped. Otherwise no pipe is read for
    /// a moment: a reader that is a little slow is to miss nothing.
    fn has_room_for_words(&mut self) -> bool {
        if log::is_read() {
            self.words.stuck_since = None;
            return true;
        }
        let until = self.now + LOOK;
        if self.now >= *self.words.stuck_since.get_or_insert(self.now) + PATIENCE {
            return true;
        }
        self.words.pipes.iter_mut().for_each(|pipe| pipe.unwatch(&self.poll));
        self.words.rest_until = Some(until);
        self.arm(until);
        false
    }

    /// Reads on where the rest is over; when it will be.
    pub(super) fn words_timers(&mut self) -> u64 {
        let Some(until) = self.words.rest_until else { return NEVER };
        if until > self.now {
            return until;
        }
        self.words.rest_until = None;
        for pipe in self.words.pipes.iter_mut().filter(|p| !p.watched) {
            let Some(from) = &pipe.from else { continue };
            pipe.watched = poll::watch_level(&self.poll, from.as_fd(), words_token(pipe.seat)).is_ok();
        }
        self.release_the_proved();
        self.words.rest_until.unwrap_or(NEVER)
    }

    /// Workers that have proved themselves are told so.
    pub(super) fn release_the_proved(&mut self) {
        let proved = |p: &&Pipe| p.lines.kept.is_some() && self.life.is_proved(p.worker);
        let proved: Vec<_> = self.words.pipes.iter().filter(proved).map(|p| (p.seat, p.worker)).collect();
        for (seat, worker) in proved {
            self.hear_some(seat, REST);
            if self.words.rest_until.is_some() {
                // What it says next is not to overtake what there is no room for yet.
                return;
            }
            // Where it cannot be told it is about to be reaped.
            let _ = self.messages.router().notify(WorkerId(worker), &Notice::RestoreStderr);
            if let Some(pipe) = self.words.find(seat) {
                pipe.lines.kept = None;
            }
            self.words.pipes.retain(|p| p.from.is_some() || p.lines.kept.is_some());
        }
    }

    /// The worker of a seat has ended: copies the rest of what it wrote, and returns its last lines.
    pub(super) fn last_words(&mut self, seat: usize) -> Vec<String> {
        for _ in 0..END / READ {
            match self.words.find(seat).map(Pipe::hear) {
                Some(Heard::More) => {}
                _ => break,
            }
        }
        self.stop_listening(seat)
    }

    /// The last lines so far of a worker that still runs.
    pub(super) fn words_so_far(&mut self, worker: u32) -> Vec<String> {
        let Some(seat) = self.words.pipes.iter().find(|p| p.worker == worker).map(|p| p.seat) else {
            return Vec::new();
        };
        self.hear_some(seat, REST);
        let kept = self.words.find(seat).and_then(|p| p.lines.kept.as_ref());
        kept.map_or_else(Vec::new, |kept| kept.iter().cloned().collect())
    }

    /// Closes a pipe, and returns what was kept.
    pub(super) fn stop_listening(&mut self, seat: usize) -> Vec<String> {
        let Some(at) = self.words.pipes.iter().position(|p| p.seat == seat) else { return Vec::new() };
        let mut pipe = self.words.pipes.swap_remove(at);
        pipe.unwatch(&self.poll);
        pipe.lines.end();
        if pipe.from.take().is_some() {
            self.has_let_go();
        }
        pipe.lines.kept.map_or_else(Vec::new, Vec::from)
    }

    /// A pipe has come to its end. What was kept is wanted until the worker has proved itself, or ended.
    fn close_pipe(&mut self, seat: usize) {
        let Some(pipe) = self.words.find(seat) else { return };
        if pipe.lines.kept.is_none() {
            self.stop_listening(seat);
            return;
        }
        pipe.lines.end();
        pipe.unwatch(&self.poll);
        pipe.from = None;
        self.has_let_go();
    }

    /// A descriptor is closed: it may be one that the reserve lacks, or a better one.
    fn has_let_go(&mut self) {
        self.spare.sink();
        if self.shortage.is_none() {
            self.spare.refill();
        }
    }
}

/// What a look into a pipe came to.
enum Heard {
    More,
    Nothing,
    End,
}

impl Pipe {
    fn unwatch(&mut self, poll: &Poll) {
        if let (Some(from), true) = (&self.from, self.watched) {
            self.watched = poll::unwatch(poll, from.as_fd()).is_err();
        }
    }

    fn hear(&mut self) -> Heard {
        let mut bytes = [0; READ];
        let Some(from) = &self.from else { return Heard::Nothing };
        match stderr::read(from.as_fd(), &mut bytes) {
            Ok(0) => Heard::End,
            Ok(n) => {
                self.lines.take(&bytes[..n]);
                if n == READ { Heard::More } else { Heard::Nothing }
            }
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => Heard::Nothing,
            Err(_) => Heard::End,
        }
    }
}

impl Lines {
    fn new(worker: u32, begun: Vec<u8>, kept: Option<VecDeque<String>>) -> Self {
        Self { worker, copy: log::copy, begun, out: (String::new(), 0), dropped: 0, kept }
    }

    /// Copies the lines that end in these bytes.
    fn take(&mut self, bytes: &[u8]) {
        for line in bytes.split_inclusive(|b| *b == b'\n') {
            let mut rest = line.strip_suffix(b"\n").unwrap_or(line);
            while !rest.is_empty() {
                if self.begun.len() == LONGEST {
                    self.end_line();
                }
                let (now, later) = rest.split_at(rest.len().min(LONGEST - self.begun.len()));
                self.begun.extend_from_slice(now);
                rest = later;
            }
            if line.ends_with(b"\n") {
                self.end_line();
            }
        }
        self.write();
    }

    fn end_line(&mut self) {
        let text = clean(&self.begun);
        self.begun.clear();
        let mut rest = text.as_str();
        loop {
            let end = (0..=LONGEST.min(rest.len())).rev().find(|&i| rest.is_char_boundary(i)).unwrap_or(0);
            let (line, later) = rest.split_at(end);
            self.put(line);
            rest = later;
            if rest.is_empty() {
                return;
            }
        }
    }

    fn put(&mut self, line: &str) {
        if self.out.0.len() + line.len() >= BATCH {
            self.write();
        }
        self.out.0.push_str(line);
        self.out.0.push('\n');
        self.out.1 += 1;
        let Some(kept) = &mut self.kept else { return };
        kept.push_back(line.to_owned());
        while kept.len() > LINES || kept.iter().map(|l| l.len() + 1).sum::<usize>() > BYTES {
            kept.pop_front();
        }
    }

    /// Writes what there is to be written, or counts it as dropped.
    fn write(&mut self) {
        let (text, lines) = &mut self.out;
        if *lines == 0 {
            return;
        }
        if self.dropped > 0 && (self.copy)(&Self::loss(self.worker, self.dropped)) {
            self.dropped = 0;
        }
        if self.dropped > 0 || !(self.copy)(text) {
            self.dropped += *lines;
        }
        text.clear();
        *lines = 0;
    }

    fn loss(worker: u32, lines: u64) -> String {
        format!("prefork: worker {worker}: {lines} lines it wrote while it started are missing here\n")
    }

    /// Nothing more will come.
    fn end(&mut self) {
        if !self.begun.is_empty() {
            self.end_line();
        }
        self.write();
        if self.dropped > 0 {
            (self.copy)(&Self::loss(self.worker, self.dropped));
        }
    }
}

/// A line with what a terminal, or a reader of lines, would take for something else escaped.
fn clean(line: &[u8]) -> String {
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

    fn keeping() -> Lines {
        Lines { copy: |_| true, ..Lines::new(1, Vec::new(), Some(VecDeque::new())) }
    }

    fn kept(lines: &Lines) -> Vec<&str> {
        lines.kept.iter().flatten().map(String::as_str).collect()
    }

    #[test]
    fn lines_are_put_together_however_they_are_cut() {
        let text = "one\n\ntwo \u{e9}\nthree";
        for step in 1..text.len() {
            let mut lines = keeping();
            text.as_bytes().chunks(step).for_each(|bytes| lines.take(bytes));
            assert_eq!(kept(&lines), ["one", "", "two \u{e9}"]);
            lines.end();
            assert_eq!(kept(&lines), ["one", "", "two \u{e9}", "three"]);
        }
    }

    #[test]
    fn the_last_twenty_lines_are_kept_and_four_kibibytes() {
        let mut lines = keeping();
        (0..100).for_each(|n| lines.take(format!("{n}\n").as_bytes()));
        assert_eq!(kept(&lines), (80..100).map(|n| n.to_string()).collect::<Vec<_>>());
        (0..4).for_each(|n| lines.take(format!("{n}{}\n", "x".repeat(1500)).as_bytes()));
        assert_eq!(kept(&lines).iter().map(|l| &l[..1]).collect::<String>(), "23");
    }

    #[test]
    fn a_line_without_end_is_cut_and_takes_no_more_memory() {
        let mut lines = keeping();
        (0..1000).for_each(|_| lines.take(&[b'x'; READ]));
        assert!(lines.begun.capacity() <= 2 * LONGEST && lines.out.0.capacity() <= 2 * BATCH);
        assert!(kept(&lines).iter().all(|l| l.len() == LONGEST));
        // An end that comes exactly there makes no empty line.
        let mut lines = keeping();
        lines.take(&[b'y'; LONGEST]);
        lines.take(b"\nz\n");
        assert_eq!(kept(&lines).last(), Some(&"z"));
        assert!(!kept(&lines).contains(&""));
    }

    #[test]
    fn what_is_no_text_is_escaped_and_nothing_is_lost() {
        assert_eq!(clean(b"\x1b[31m\tred\r\x00\xff\xc2\x9b"), "\\u{1b}[31m\tred\\r\\u{0}\\xff\\u{9b}");
        let mut lines = keeping();
        lines.take(&[0xff; LONGEST]);
        lines.take(b"\n");
        assert!(kept(&lines).iter().all(|l| !l.is_empty() && l.len() <= LONGEST));
    }
}
