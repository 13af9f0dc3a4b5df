//! Upgrade: another binary takes this master's place in the same process, with its listeners, its workers and their channels.
//!
//! First the new binary is tried: started with the same arguments, it checks its settings, reads its handler, and exits.
//! Then this process executes it (execve(2)); what it is to go on with stands in a file in memory, descriptors by their numbers.
//! It adopts all that and reloads, so that workers of the new program follow. Whatever fails before the exec, or in it,
//! leaves everything as it was.

use super::crew::Record;
use super::lifecycle::{Input, Snapshot, SnapshotWorker};
use super::listener::Heirloom;
use super::reclaim::Return;
use super::router::{ChannelState, Router};
use super::{Master, Token};
use crate::error::{Error, ErrorKind, Result};
use crate::event::{Exit, LastExit, Reason, Totals, WorkerInfo};
use crate::handoff::{Giver, Origin, Taker};
use crate::ids::{Page, WorkerId};
use crate::log::log;
use crate::sys::process::{self, Fork, Process};
use crate::sys::{memory, signal, time};
use mio::Interest;
use mio::unix::SourceFd;
use std::ffi::OsString;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

/// The variable that tells a program what it is started for: a trial, or a descriptor with what to go on with.
const VARIABLE: &str = "PREFORK_UPGRADE";
const TRIAL_VALUE: &str = "trial";
/// First word and version of what is handed over. A binary that speaks another version refuses in its trial.
const FORMAT: &str = "prefork-state-2";
const FORMAT_VARIABLE: &str = "PREFORK_UPGRADE_FORMAT";
/// How long a trial may take (milliseconds).
const PATIENCE: u64 = 30_000;

/// How far an upgrade has come.
pub enum Upgrade {
    /// None is under way.
    No,
    /// Asked for; the lifecycle has something else to do first.
    Wanted,
    /// The new binary is being tried.
    Trying {
        /// The trial.
        process: Process,
        /// When it is given up.
        until: u64,
    },
    /// It may take over as soon as the lifecycle is at rest.
    Tried,
}

/// The program this process runs, and how it was called.
pub struct Program {
    path: PathBuf,
    args: Vec<OsString>,
}

impl Program {
    /// As of now: a later binary at the same path is another one.
    ///
    /// # Errors
    /// Where `/proc` does not tell (proc(5)).
    pub fn this() -> io::Result<Self> {
        Ok(Self { path: std::fs::read_link("/proc/self/exe")?, args: std::env::args_os().collect() })
    }
}

/// Whether this program was started only to see whether it could take over.
///
/// # Errors
/// [`ErrorKind::State`]: the master that asks hands over what this version cannot read.
pub fn is_trial() -> Result<bool> {
    if std::env::var_os(VARIABLE).is_none_or(|v| v != TRIAL_VALUE) {
        return Ok(false);
    }
    match std::env::var(FORMAT_VARIABLE) {
        Ok(format) if format == FORMAT => Ok(true),
        other => Err(Error::new(
            ErrorKind::State,
            format!(
                "upgrade: expected a master that hands over {FORMAT}, found {}: stop it and start this one",
                other.unwrap_or_default()
            ),
        )),
    }
}

impl Master {
    /// Somebody has put another binary into this one's place.
    pub(super) fn upgrade(&mut self) {
        match self.upgrade {
            Upgrade::No => self.upgrade = Upgrade::Wanted,
            _ => log!("upgrade: one is under way, so this one is not tried; ask again when that has ended"),
        }
    }

    /// Whether another program is being tried out; it is a child that this master has to collect.
    pub(super) fn is_trying_out(&self) -> bool {
        matches!(self.upgrade, Upgrade::Trying { .. })
    }

    /// Ends a program that is being tried out, and collects it.
    pub(super) fn end_trial(&mut self) {
        if let Upgrade::Trying { process, .. } = std::mem::replace(&mut self.upgrade, Upgrade::No) {
            let _ = process.kill(signal::SIGKILL);
            let _ = process.wait();
        }
    }

    /// Carries an upgrade on as far as it can go now; a stop ends it.
    pub(super) fn go_on_upgrading(&mut self) {
        let stops = self.lifecycle.is_stopping();
        match &self.upgrade {
            Upgrade::No => {}
            Upgrade::Wanted | Upgrade::Tried if stops => self.upgrade = Upgrade::No,
            Upgrade::Wanted => self.try_out(),
            Upgrade::Trying { process, until } => {
                let late = *until <= self.now;
                if late || stops {
                    let _ = process.kill(signal::SIGKILL);
                }
                match process.reap() {
                    Ok(None) => {}
                    Ok(Some(_)) if stops => self.upgrade = Upgrade::No,
                    Ok(Some(Exit::Code(0))) => self.upgrade = Upgrade::Tried,
                    Ok(Some(exit)) => {
                        let why =
                            if late { "it took too long".into() } else { format!("it ended by {exit}") };
                        self.give_up(&format!("the trial of {} failed: {why}", self.program.path.display()));
                    }
                    Err(e) => self.give_up(&format!("wait for the trial: {e}")),
                }
                if matches!(self.upgrade, Upgrade::Tried) {
                    self.go_on_upgrading();
                }
            }
            Upgrade::Tried if self.lifecycle.is_at_rest() => {
                // Only comes back where it failed.
                let e = self.replace();
                self.give_up(&format!("execute {}: {e}", self.program.path.display()));
            }
            Upgrade::Tried => {}
        }
    }

    fn give_up(&mut self, why: &str) {
        self.upgrade = Upgrade::No;
        log!("upgrade: {why}; this master goes on");
    }

    fn try_out(&mut self) {
        let until = self.now + PATIENCE;
        self.arm(until);
        match process::fork() {
            Ok(Fork::Child) => {
                process::set_environment(VARIABLE, TRIAL_VALUE);
                process::set_environment(FORMAT_VARIABLE, FORMAT);
                let e = process::execute(&self.program.path, &self.program.args);
                log!("upgrade: execute {}: {e}", self.program.path.display());
                process::exit(1)
            }
            Ok(Fork::Parent(process)) => {
                let fd = process.as_fd().as_raw_fd();
                if let Err(e) =
                    self.poll.registry().register(&mut SourceFd(&fd), Token::Trial.into(), Interest::READABLE)
                {
                    log!("upgrade: watch the trial: {e}");
                }
                self.upgrade = Upgrade::Trying { process, until };
            }
            Err(e) => self.give_up(&format!("start the trial: {e}")),
        }
    }

    /// Executes the new binary in this process.
    fn replace(&mut self) -> io::Error {
        match self.hand_over() {
            Ok(state) => {
                process::set_environment(VARIABLE, &state.as_raw_fd().to_string());
                let router = self.messages.router();
                let inherited = self.descriptors(state.as_fd(), &router);
                inherited.iter().for_each(|fd| process::keep_over_exec(*fd, true));
                let e = process::execute(&self.program.path, &self.program.args);
                inherited.iter().for_each(|fd| process::keep_over_exec(*fd, false));
                process::remove_environment(VARIABLE);
                e
            }
            Err(e) => e,
        }
    }

    /// Everything the next program goes on with.
    fn descriptors<'a>(&'a self, state: BorrowedFd<'a>, router: &'a Router) -> Vec<BorrowedFd<'a>> {
        let mut all = vec![state, self.wake.as_fd(), self.board.as_fd()];
        all.extend(self.listeners.iter().flat_map(|l| l.descriptors()));
        all.extend(self.source.images().into_iter().map(|(_, fd)| fd));
        all.extend(self.in_hand.iter().map(|c| c.fd.as_fd()));
        for r in self.crew.iter() {
            all.extend([r.process.as_fd(), r.giver.as_fd(), r.queue.as_fd()]);
            all.extend(router.channel(WorkerId(r.id)));
        }
        all.extend(self.stderr.saved().map(|(_, pipe, _)| pipe));
        for source in &self.returns {
            match source {
                Return::Orphan { queue, .. } => all.push(queue.as_fd()),
                Return::Left(giver) => all.push(giver.as_fd()),
                Return::Living { .. } => {}
            }
        }
        all
    }

    /// Writes down, a line each, what the next program goes on with; behind an empty line, what is under way on the message
    /// channels, in the order of the workers.
    fn hand_over(&self) -> io::Result<File> {
        let raw = |fd: BorrowedFd<'_>| fd.as_raw_fd();
        let (mut text, mut mail) = (String::new(), Vec::new());
        let router = self.messages.router();
        let snapshot = self.lifecycle.snapshot();
        let _ = writeln!(
            text,
            "{FORMAT} {} {} {} {}",
            snapshot.generation, snapshot.last_generation, snapshot.last_id, snapshot.slots
        );
        let _ = writeln!(text, "shared {} {}", raw(self.wake.as_fd()), raw(self.board.as_fd()));
        let t = self.crew.totals_of_former();
        let counts = [t.taken, t.requests, t.errors, t.bytes_in, t.bytes_out].map(|n| n.to_string());
        let _ = writeln!(text, "since {} {}", self.born, counts.join(" "));
        for l in &self.listeners {
            let fds: Vec<_> = l.descriptors().map(|fd| raw(fd).to_string()).collect();
            let of = if l.is_per_slot() { "slots" } else { "all" };
            let _ = writeln!(text, "listener {} {of} {}", l.ownership(), fds.join(","));
        }
        for (generation, fd) in self.source.images() {
            let _ = writeln!(text, "image {generation} {}", raw(fd));
        }
        if let Some(c) = &self.in_hand {
            let _ = writeln!(
                text,
                "hand {} {} {}",
                raw(c.fd.as_fd()),
                c.origin.listener,
                u8::from(c.origin.used)
            );
        }
        for w in &snapshot.workers {
            let Some(seat) = self.crew.seat_of(w.id) else { continue };
            let Some(r) = self.crew.iter().find(|r| r.id == w.id) else { continue };
            let Some(channel) = router.channel(WorkerId(w.id)) else { continue };
            let fds = [r.process.as_fd(), r.giver.as_fd(), r.queue.as_fd(), channel].map(raw);
            let under_way = pack(&router.save(WorkerId(w.id)).unwrap_or_default());
            let _ = writeln!(
                text,
                "worker {} {} {} {} {} {} {} {} {} {} {} {} {} {} {} {} {}",
                w.id,
                w.slot,
                w.generation,
                w.since,
                u8::from(w.draining),
                seat,
                r.process.pid(),
                fds[0],
                fds[1],
                fds[2],
                fds[3],
                r.given,
                r.limit,
                r.kind.map_or(0, |k| k as u8),
                r.max_requests,
                u8::from(r.stuck),
                under_way.len(),
            );
            mail.extend(under_way);
        }
        for (slot, LastExit { worker: w, exit, reason }) in &self.report.last_exits {
            let (how, number) = match *exit {
                Exit::Code(code) => ("code", code),
                Exit::Signal { number, core: false } => ("signal", number),
                Exit::Signal { number, core: true } => ("core", number),
                Exit::Unknown => ("unknown", 0),
            };
            let _ =
                writeln!(text, "ended {slot} {} {} {} {how} {number} {reason}", w.id, w.generation, w.pid);
        }
        for (slot, variables) in &self.environments {
            for (name, value) in variables {
                let (name, value) = (hex(name.as_bytes()), hex(value.as_bytes()));
                let _ = writeln!(text, "variable {slot} {name} {value}");
            }
        }
        for (worker, pipe, begun) in self.stderr.saved() {
            let _ = writeln!(text, "words {worker} {} {}", raw(pipe), hex(begun));
        }
        for source in &self.returns {
            let _ = match source {
                Return::Orphan { queue, id } => writeln!(text, "orphan {} {id}", raw(queue.as_fd())),
                Return::Left(giver) => writeln!(text, "left {}", raw(giver.as_fd())),
                Return::Living { .. } => Ok(()),
            };
        }
        let mut file = File::from(memory::memory_file(c"prefork-state")?);
        file.write_all(text.as_bytes())?;
        file.write_all(b"\n")?;
        file.write_all(&mail)?;
        file.rewind()?;
        Ok(file)
    }
}

/// What a former program in this process hands over.
pub struct Inheritance {
    /// Of the lifecycle.
    pub snapshot: Snapshot,
    /// When the first program in this process began to serve (monotonic, milliseconds).
    pub born: u64,
    /// What workers that are no more have counted.
    pub totals: Totals,
    /// Wakes the master.
    pub wake: OwnedFd,
    /// The scoreboard's memory.
    pub board: OwnedFd,
    /// In their order.
    pub listeners: Vec<Heirloom>,
    /// Handlers, by generation.
    pub images: Vec<(u32, OwnedFd)>,
    /// The connection in hand.
    pub in_hand: Option<(OwnedFd, Origin)>,
    /// Workers by seat; their pages are still to be filled in.
    pub workers: Vec<(usize, Heir)>,
    /// Queues that connections come back from.
    pub returns: Vec<Return>,
    /// Workers whose standard error is still read, from where, and the line that has begun.
    pub words: Vec<(u32, OwnedFd, Vec<u8>)>,
    /// Slots with variables of their own: slot, name, value.
    pub variables: Vec<(usize, String, String)>,
    /// How the last worker of each slot ended.
    pub last_exits: Vec<LastExit>,
}

/// A worker as it is handed over.
pub struct Heir {
    /// What is known of it.
    pub worker: SnapshotWorker,
    /// The process.
    pub process: Process,
    /// Its channels.
    pub giver: Giver,
    /// The master's copy of its end.
    pub queue: Taker,
    /// Messages, and what is under way there.
    pub channel: (OwnedFd, Vec<u8>),
    /// Counts and limits: given, limit, kind, max-requests, stuck.
    pub numbers: [u64; 5],
}

impl Heir {
    /// The record of it in this program, and its message channel.
    pub fn record(self, page: crate::scoreboard::WorkerPage) -> (Record, (OwnedFd, Vec<u8>)) {
        let [given, limit, kind, max_requests, stuck] = self.numbers;
        let now = SystemTime::now();
        let age = Duration::from_millis(time::monotonic_ms().saturating_sub(self.worker.since));
        let started = now.checked_sub(age).unwrap_or(now);
        let record = Record {
            id: self.worker.id,
            slot: self.worker.slot,
            generation: self.worker.generation,
            started,
            process: self.process,
            giver: self.giver,
            queue: self.queue,
            page,
            failure: None,
            kind: crate::Kind::from_number(kind as u8),
            given,
            limit: limit as u32,
            admitted: false,
            stuck: stuck != 0,
            asked: 0,
            last_progress: 0,
            lay: false,
            max_requests,
            watched: false,
            busy_told: 0,
        };
        (record, self.channel)
    }
}

/// What a former program in this process hands over, if one does.
///
/// # Errors
/// [`ErrorKind::State`]: something stands there that this version cannot read.
pub fn inheritance() -> Result<Option<Inheritance>> {
    let Some(number) = std::env::var(VARIABLE).ok().and_then(|v| v.parse::<u32>().ok()) else {
        return Ok(None);
    };
    process::remove_environment(VARIABLE);
    let mut all = Vec::new();
    let read = process::adopt_descriptor(number).and_then(|fd| File::from(fd).read_to_end(&mut all));
    read.map_err(|e| Error::io(ErrorKind::State, "upgrade: read what is handed over", e))?;
    let end = all.windows(2).position(|w| w == b"\n\n").map_or(all.len(), |at| at + 1);
    let text = String::from_utf8_lossy(&all[..end]);
    let parsed = parse(&text, all.get(end + 1..).unwrap_or_default());
    parsed
        .map(Some)
        .ok_or_else(|| Error::new(ErrorKind::State, format!("upgrade: expected {FORMAT}, found: {text}")))
}

fn parse(text: &str, mut mail: &[u8]) -> Option<Inheritance> {
    let mut lines = text.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    let [FORMAT, generation, last_generation, last_id, slots] = *lines.next()?.as_slice() else {
        return None;
    };
    let mut heritage = Inheritance {
        snapshot: Snapshot {
            generation: generation.parse().ok()?,
            last_generation: last_generation.parse().ok()?,
            last_id: last_id.parse().ok()?,
            slots: slots.parse().ok()?,
            workers: Vec::new(),
        },
        wake: OwnedFd::from(File::open("/dev/null").ok()?),
        board: OwnedFd::from(File::open("/dev/null").ok()?),
        born: 0,
        totals: Totals::default(),
        listeners: Vec::new(),
        images: Vec::new(),
        in_hand: None,
        workers: Vec::new(),
        returns: Vec::new(),
        words: Vec::new(),
        variables: Vec::new(),
        last_exits: Vec::new(),
    };
    for line in lines {
        match *line.as_slice() {
            ["shared", wake, board] => (heritage.wake, heritage.board) = (adopt(wake)?, adopt(board)?),
            ["since", born, taken, requests, errors, bytes_in, bytes_out] => {
                let [taken, requests, errors, bytes_in, bytes_out] =
                    [taken, requests, errors, bytes_in, bytes_out].map(|n| n.parse().ok());
                heritage.born = born.parse().ok()?;
                heritage.totals = Totals {
                    taken: taken?,
                    requests: requests?,
                    errors: errors?,
                    bytes_in: bytes_in?,
                    bytes_out: bytes_out?,
                };
            }
            ["listener", ownership, of, fds] => heritage.listeners.push(Heirloom {
                fds: fds.split(',').map(adopt).collect::<Option<_>>()?,
                per_slot: of == "slots",
                ownership: ownership.to_owned(),
            }),
            ["image", generation, fd] => heritage.images.push((generation.parse().ok()?, adopt(fd)?)),
            ["hand", fd, listener, used] => {
                let origin = Origin { listener: listener.parse().ok()?, used: used == "1" };
                heritage.in_hand = Some((adopt(fd)?, origin));
            }
            ["worker", ref words @ ..] => {
                let (seat, heir) = parse_worker(words, &mut mail)?;
                heritage.snapshot.workers.push(heir.worker);
                heritage.workers.push((seat, heir));
            }
            ["orphan", fd, id] => {
                heritage
                    .returns
                    .push(Return::Orphan { queue: Taker::from(adopt(fd)?), id: id.parse().ok()? });
            }
            ["words", worker, fd, begun] => {
                heritage.words.push((worker.parse().ok()?, adopt(fd)?, unhex(begun)?));
            }
            ["variable", slot, name, value] => {
                let text = |hex| String::from_utf8(unhex(hex)?).ok();
                heritage.variables.push((slot.parse().ok()?, text(name)?, text(value)?));
            }
            ["ended", slot, id, generation, pid, how, number, ref reason @ ..] => {
                let worker = WorkerInfo {
                    id: id.parse().ok()?,
                    slot: slot.parse().ok()?,
                    generation: generation.parse().ok()?,
                    pid: pid.parse().ok()?,
                };
                let reason = reason.join(" ");
                heritage.last_exits.push(LastExit {
                    worker,
                    exit: parse_exit(how, number.parse().ok()?)?,
                    reason: [Reason::Crash].into_iter().find(|r| r.to_string() == reason)?,
                });
            }
            ["left", fd] => heritage.returns.push(Return::Left(Giver::from(adopt(fd)?))),
            _ => return None,
        }
    }
    Some(heritage)
}

fn parse_worker(words: &[&str], mail: &mut &[u8]) -> Option<(usize, Heir)> {
    let [id, slot, generation, since, draining, seat, pid, fds @ .., under_way] = words else { return None };
    let (under_way, rest) = mail.split_at_checked(under_way.parse().ok()?)?;
    *mail = rest;
    let [process, giver, queue, channel, numbers @ ..] = fds else { return None };
    let worker = SnapshotWorker {
        id: id.parse().ok()?,
        slot: slot.parse().ok()?,
        generation: generation.parse().ok()?,
        since: since.parse().ok()?,
        draining: *draining == "1",
    };
    let numbers: Vec<u64> = numbers.iter().map(|n| n.parse().ok()).collect::<Option<_>>()?;
    let heir = Heir {
        worker,
        process: Process::adopt(pid.parse().ok()?, adopt(process)?),
        giver: Giver::from(adopt(giver)?),
        queue: Taker::from(adopt(queue)?),
        channel: (adopt(channel)?, under_way.to_vec()),
        numbers: numbers.try_into().ok()?,
    };
    Some((seat.parse().ok()?, heir))
}

fn parse_exit(how: &str, number: i32) -> Option<Exit> {
    match how {
        "code" => Some(Exit::Code(number)),
        "signal" | "core" => Some(Exit::Signal { number, core: how == "core" }),
        "unknown" => Some(Exit::Unknown),
        _ => None,
    }
}

fn adopt(number: &str) -> Option<OwnedFd> {
    process::adopt_descriptor(number.parse().ok()?).ok()
}

/// The state of a message channel, as bytes.
fn pack(state: &ChannelState) -> Vec<u8> {
    let mut all = vec![u8::from(state.overflowing)];
    let awaiting = state.awaiting_reply.iter().flat_map(|(id, n)| [*id, *n]).collect();
    for numbers in [awaiting, state.notified.clone()] {
        all.extend((numbers.len() as u32).to_le_bytes());
        all.extend(numbers.into_iter().flat_map(u32::to_le_bytes));
    }
    all.extend((state.unread.len() as u32).to_le_bytes());
    all.extend(&state.unread);
    all.extend(&state.unsent);
    all
}

fn unpack(bytes: &[u8]) -> Option<ChannelState> {
    let (overflowing, rest) = bytes.split_first()?;
    let (awaiting, rest) = split_numbers(rest)?;
    let (notified, rest) = split_numbers(rest)?;
    let (len, rest) = rest.split_first_chunk()?;
    let (unread, unsent) = rest.split_at_checked(u32::from_le_bytes(*len) as usize)?;
    Some(ChannelState {
        overflowing: *overflowing == 1,
        notified,
        awaiting_reply: awaiting.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect(),
        unread: unread.to_vec(),
        unsent: unsent.to_vec(),
    })
}

/// The numbers at the start of these bytes, and the rest.
fn split_numbers(bytes: &[u8]) -> Option<(Vec<u32>, &[u8])> {
    let (count, rest) = bytes.split_first_chunk()?;
    let (numbers, rest) = rest.split_at_checked(u32::from_le_bytes(*count) as usize * 4)?;
    let number = |bytes: &[u8]| bytes.try_into().map_or(0, u32::from_le_bytes);
    Some((numbers.chunks_exact(4).map(number).collect(), rest))
}

fn hex(bytes: &[u8]) -> String {
    let mut text = String::from("x");
    for b in bytes {
        let _ = write!(text, "{b:02x}");
    }
    text
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits = text.strip_prefix('x')?;
    (0..digits.len() / 2).map(|i| u8::from_str_radix(digits.get(2 * i..2 * i + 2)?, 16).ok()).collect()
}

impl Master {
    /// Goes on with what a former program in this process has handed over.
    pub(super) fn inherit(&mut self, heritage: Inheritance) -> io::Result<()> {
        let Inheritance {
            snapshot,
            workers,
            in_hand,
            returns,
            wake,
            board,
            variables,
            words,
            last_exits,
            born,
            totals,
            ..
        } = heritage;
        self.born = born;
        self.crew.go_on_from(totals);
        // What stands in for the two that went into the master already must not be left to the workers that start next.
        drop((wake, board));
        for (seat, heir) in workers {
            let (record, (channel, under_way)) = heir.record(self.board.page(Page::at(seat)));
            self.watch(seat, &record)?;
            let state = unpack(&under_way);
            let state =
                state.ok_or_else(|| io::Error::other(format!("worker {}: its messages", record.id)))?;
            let (id, page) = (WorkerId(record.id), Page::at(seat));
            self.messages.router().restore(id, page, channel, self.config.max_message, state);
            self.crew.sit(seat, record);
        }
        for (worker, pipe, begun) in words {
            let Some(seat) = self.crew.seat_of(worker) else { continue };
            self.stderr.restore(WorkerId(worker), Page::at(seat), pipe, begun, &self.poll);
        }
        for worker in &snapshot.workers {
            // One that stays may have been told to shed.
            if worker.draining || self.config.rebalance {
                self.watch_for_returns(worker.id);
            }
            if !worker.draining {
                self.crew.admit(worker.id);
            }
        }
        self.in_hand = in_hand.map(|(fd, origin)| {
            let client = self.client_of(fd.as_fd());
            super::accept::InHand { fd, origin, client, shed_by: None }
        });
        self.returns.extend(returns);
        for (slot, name, value) in variables {
            self.environments.entry(slot).or_default().push((name, value));
        }
        self.report.last_exits.extend(last_exits.into_iter().map(|last| (last.worker.slot as usize, last)));
        self.report.is_started = true;
        self.kind = self.crew.iter().find_map(|r| r.kind).unwrap_or(self.kind);
        self.tick_soon();
        log!("upgrade: version {} has taken over", env!("CARGO_PKG_VERSION"));
        self.feed(Input::Reload);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_ours_is_refused() {
        for text in
            ["", "prefork-state-0 1 1 1 1\n", "prefork-state-2 1 1 1\n", "prefork-state-2 1 1 1 1\nodd\n"]
        {
            assert!(parse(text, b"").is_none(), "{text}");
        }
        assert!(parse("prefork-state-2 3 4 9 2\n", b"").is_some_and(|h| h.snapshot.last_id == 9));
        let variable = parse("prefork-state-2 3 4 9 2\nvariable 1 x41 x20\n", b"").unwrap().variables;
        assert_eq!(variable, [(1, "A".into(), " ".into())]);
        let line = "prefork-state-2 3 4 9 2\nended 1 7 2 99 core 11 drain timeout\n";
        let worker = WorkerInfo { id: 7, slot: 1, generation: 2, pid: 99 };
        let exit = Exit::Signal { number: 11, core: true };
        let expected = LastExit { worker, exit, reason: Reason::DrainTimeout };
        assert_eq!(parse(line, b"").unwrap().last_exits, [expected]);
    }
}
