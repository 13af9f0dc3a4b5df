//! Upgrade: another program takes this master's place in the same process, with its listeners, its workers and their channels.
//!
//! First the new program is tried ([`trial`]): started with the same arguments, it checks its settings, reads its handler, says that it
//! can serve, and exits. Then this process executes it (execve(2)); what it continues with is in a memory file ([`state`]). It adopts
//! all that and reloads, so that workers of the new program follow. A failure before the exec, or of the exec, leaves everything as it
//! was.

mod state;
mod trial;

use super::kept::{Kept, KeptFd};
use super::kernel::{HandoffQueue, WorkerLink, WorkerQueue};
use super::lifecycle::{Input, Snapshot};
use super::pool::{Return, WorkerEntry};
use super::router::Router;
use super::{Master, Token};
use crate::code;
use crate::error::{Error, ErrorKind, Result};
use crate::event::{CodeFile, Event, Kind};
use crate::handoff::{HandoffEnd, Passed};
use crate::log::log;
use crate::sys::process::{self, Process};
use crate::sys::time::Time;
use mio::Interest;
use mio::unix::SourceFd;
use state::{FORMAT, SavedReturn, SavedState, SavedWorker};
use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::path::{Path, PathBuf};
use std::time::SystemTime;
use trial::Trial;
pub use trial::{end_trial, is_trial};

/// The variable by which a program knows why it was started: `trial`, or the number of the memory file with the state.
const VARIABLE: &str = "PREFORK_UPGRADE";

/// The program that this process runs, and an upgrade of it, from the request to the exec.
pub struct Upgrade {
    /// As it was given: its symbolic links are followed anew.
    path: PathBuf,
    args: Vec<OsString>,
    /// The working directory as the shell shows it, which is entered anew.
    directory: Option<PathBuf>,
    /// The file that this process runs.
    code: Option<CodeFile>,
    stage: Stage,
}

enum Stage {
    /// None is under way.
    None,
    /// Requested; the trial has not started.
    Requested,
    /// The new program is being tried.
    Trial(Trial),
    /// The new program may take over as soon as the lifecycle is at rest.
    Passed,
}

/// Returns what a former program in this process has handed over, if there was one.
///
/// # Errors
/// [`ErrorKind::State`] if this version cannot read it.
pub fn take_saved() -> Result<Option<SavedState>> {
    let Some(number) = std::env::var(VARIABLE).ok().and_then(|v| v.parse::<u32>().ok()) else {
        return Ok(None);
    };
    process::remove_environment(VARIABLE);
    let file = process::adopt_descriptor(number)
        .map_err(|e| Error::io(ErrorKind::State, "upgrade: read what is handed over", e))?;
    SavedState::read(File::from(file)).map(Some)
}

impl Upgrade {
    /// No upgrade yet. The program is the one of now: a later file at the same path is another one.
    ///
    /// # Errors
    /// If `/proc` has no link to it (proc(5)).
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            path: code::own_program()?,
            args: std::env::args_os().collect(),
            directory: code::logical_directory(),
            code: CodeFile::own().ok(),
            stage: Stage::None,
        })
    }

    /// The program's path, as it was given.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The file that this process runs, compared with the one at its path now.
    pub fn program(&self) -> Option<CodeFile> {
        self.code.clone().map(|code| code.compared(&self.path))
    }

    /// Executes the file now at the program's path in this process, in the directory that its path leads to now; returns why it could
    /// not.
    fn execute(&self) -> io::Error {
        // One that is gone is no reason to refuse: the program may not need it.
        let _ = self.directory.as_ref().map(std::env::set_current_dir);
        process::execute(&self.path, &self.args)
    }

    /// Requests an upgrade.
    ///
    /// # Errors
    /// [`ErrorKind::State`]: one is under way, or this program cannot upgrade.
    pub fn request(&mut self) -> Result<()> {
        let refused = |why| Err(Error::new(ErrorKind::State, why));
        match self.stage {
            _ if !state::IS_SUPPORTED => refused(
                "upgrade: this program was built without the feature `control` of prefork, which upgrades need; it continues",
            ),
            Stage::None => {
                self.stage = Stage::Requested;
                Ok(())
            }
            _ => {
                refused("upgrade: one is under way, so this one is not tried; ask again when that has ended")
            }
        }
    }

    /// The process of a trial.
    pub fn trial_pid(&self) -> Option<i32> {
        if let Stage::Trial(trial) = &self.stage { Some(trial.pid()) } else { None }
    }

    /// True if a program is being tried; it is a child that this master has to reap.
    pub fn has_trial(&self) -> bool {
        matches!(self.stage, Stage::Trial(_))
    }

    /// Kills a program that is being tried, and reaps it.
    pub fn end_trial(&mut self) {
        if let Stage::Trial(mut trial) = std::mem::replace(&mut self.stage, Stage::None) {
            trial.kill();
            trial.wait();
        }
    }

    /// The time at which a trial takes too long.
    pub fn due(&self) -> Time {
        if let Stage::Trial(trial) = &self.stage { trial.until } else { Time::NEVER }
    }

    /// Reaps the trial if it has ended, and kills it if it takes too long or the server stops. Returns why it has failed, if it has.
    fn check_trial(&mut self, now: Time, is_stopping: bool) -> Option<String> {
        let Stage::Trial(trial) = &mut self.stage else { return None };
        if trial.until <= now || is_stopping {
            trial.kill();
        }
        match trial.end()? {
            _ if is_stopping => self.stage = Stage::None,
            Ok(()) => self.stage = Stage::Passed,
            Err(why) => return Some(format!("the trial of {} failed: {why}", self.path.display())),
        }
        None
    }
}

impl Master {
    /// Advances an upgrade as far as possible now; a stop ends it.
    pub(super) fn advance_upgrade(&mut self) {
        let is_stopping = self.lifecycle.is_stopping();
        if let Some(why) = self.upgrade.check_trial(self.clock.now, is_stopping) {
            self.give_up_upgrade(&why);
        }
        match self.upgrade.stage {
            Stage::Requested | Stage::Passed if is_stopping => self.upgrade.stage = Stage::None,
            Stage::Requested => {
                self.scheduling.end_own();
                self.start_trial();
            }
            Stage::Passed if self.lifecycle.is_at_rest() => {
                self.scheduling.end_own();
                self.tell_verdict();
                // Returns only if it has failed.
                let e = self.execute_program();
                self.give_up_upgrade(&format!("execute {}: {e}", self.upgrade.path.display()));
            }
            Stage::None | Stage::Trial(_) | Stage::Passed => {}
        }
    }

    fn give_up_upgrade(&mut self, why: &str) {
        self.upgrade.stage = Stage::None;
        self.report(Event::Error { text: format!("upgrade: {why}; this master continues") });
        self.control.upgrade_failed(why, &self.lifecycle, self.clock.now);
    }

    fn start_trial(&mut self) {
        match Trial::start(|| self.upgrade.execute(), self.clock.now) {
            Ok(trial) => {
                let fd = trial.descriptor().as_raw_fd();
                let token = Token::Trial.into();
                if let Err(e) = self.poll.registry().register(&mut SourceFd(&fd), token, Interest::READABLE) {
                    log!(Warn, "upgrade: watch the trial: {e}");
                }
                self.upgrade.stage = Stage::Trial(trial);
            }
            Err(e) => self.give_up_upgrade(&format!("start the trial: {e}")),
        }
    }

    /// Executes the new program in this process; returns why it could not.
    fn execute_program(&self) -> io::Error {
        let router = self.messages.router();
        let mut kept = Kept::default();
        let file = match self.save(&router, &mut kept).and_then(|state| state.write()) {
            Ok(file) => file,
            Err(e) => return e,
        };
        process::set_environment(VARIABLE, &kept.keep(file.as_fd()).0.to_string());
        kept.over_exec(true);
        let directory = File::open(".");
        let e = self.upgrade.execute();
        if let Ok(directory) = directory {
            let _ = std::env::set_current_dir(format!("/proc/self/fd/{}", directory.as_raw_fd()));
        }
        kept.over_exec(false);
        process::remove_environment(VARIABLE);
        e
    }

    /// Returns what the next program continues with, and keeps its descriptors.
    fn save<'a>(&'a self, router: &'a Router, kept: &mut Kept<'a>) -> io::Result<SavedState> {
        let pool = &self.pool;
        let mut workers = Vec::new();
        for worker in pool.workers.iter() {
            let missing = || io::Error::other(format!("worker {} has no page or channel", worker.id));
            workers.push(SavedWorker {
                id: worker.id,
                page: pool.workers.page_of(worker.id).ok_or_else(missing)?,
                pid: worker.link.process.pid(),
                process: kept.keep(worker.link.process.as_fd()),
                master_end: kept.keep(handoff(&worker.queue)?.master.as_fd()),
                queue: kept.keep(handoff(&worker.queue)?.worker.as_fd()),
                channel: kept.keep(router.channel(worker.id).ok_or_else(missing)?),
                messages: router.save(worker.id).ok_or_else(missing)?,
                given: worker.given,
                limit: worker.limit,
                kind: worker.kind.map_or(0, |kind| kind as u8),
                takes_requests: worker.takes_requests,
                max_requests: worker.max_requests,
                stuck: worker.stuck,
            });
        }
        let mut returns = Vec::new();
        for source in &pool.returns {
            match source {
                Return::Unclaimed(id) => returns.push(SavedReturn::Unclaimed(*id)),
                Return::OfDeadWorker(id, ends) => {
                    let ends = handoff(ends)?;
                    let (master_end, queue) =
                        (kept.keep(ends.master.as_fd()), kept.keep(ends.worker.as_fd()));
                    returns.push(SavedReturn::OfDeadWorker(*id, master_end, queue));
                }
                Return::HandedBack(_) => {}
            }
        }
        let images = self.source.images();
        Ok(SavedState {
            format: FORMAT.into(),
            born: self.clock.born,
            lifecycle: self.lifecycle.snapshot(),
            totals: pool.workers.former,
            wake: kept.keep(self.births.wake.as_fd()),
            board: kept.keep(self.births.board.as_fd()),
            listeners: pool.listeners.iter().map(|l| l.save(|fd| kept.keep(fd))).collect(),
            images: images.into_iter().map(|(generation, fd)| (generation, kept.keep(fd))).collect(),
            parked: (pool.parked.iter().chain(&pool.streams.directed))
                .map(|unplaced| {
                    let Passed { fd, state } = &unplaced.connection;
                    (
                        kept.keep(fd.as_fd()),
                        state.as_ref().map(|state| kept.keep(state.as_fd())),
                        unplaced.origin,
                    )
                })
                .collect(),
            transits: pool.streams.transits.clone(),
            workers,
            returns,
            stderr: (self.stderr.saved())
                .map(|(worker, pipe, begun)| (worker, kept.keep(pipe), begun.to_vec()))
                .collect(),
            environments: self.births.environments.clone(),
            last_exits: self.report.last_exits.clone(),
            has_batch_policy: self.scheduling.is_batch(),
            serving: self.source.serving(),
            clients: self.control.save(kept),
        })
    }

    /// Continues with what a former program in this process has handed over.
    pub(super) fn adopt(&mut self, saved: SavedState) -> Result<()> {
        self.clock.born = saved.born;
        self.pool.workers.former = saved.totals;
        for worker in saved.workers {
            self.adopt_worker(worker, &saved.lifecycle)?;
        }
        for (worker, pipe, begun) in saved.stderr {
            if let Some(page) = self.pool.workers.page_of(worker) {
                self.stderr.restore(worker, page, pipe.adopt()?, begun, &self.poll);
            }
        }
        for worker in &saved.lifecycle.workers {
            self.pool.watch_returns(worker.id, &self.poll);
            if worker.draining
                && let Some(entry) = self.pool.workers.get_mut(worker.id)
            {
                entry.begin_drain(self.clock.now);
                // It has told the former program.
                entry.drain.iter_mut().for_each(|drain| drain.settled = true);
            }
            if !worker.draining {
                self.pool.workers.admit(worker.id);
            }
        }
        for (fd, state, origin) in saved.parked {
            let passed = Passed { fd: fd.adopt()?, state: state.map(KeptFd::adopt).transpose()? };
            self.pool.park(passed, origin);
        }
        self.pool.streams.transits = saved.transits;
        for source in saved.returns {
            self.pool.add_return(match source {
                SavedReturn::Unclaimed(id) => Return::Unclaimed(id),
                SavedReturn::OfDeadWorker(id, master_end, queue) => {
                    Return::OfDeadWorker(id, handoff_queue(master_end, queue)?)
                }
            });
        }
        self.births.environments = saved.environments;
        self.report.last_exits = saved.last_exits;
        self.report.is_started = true;
        self.report.kind = self.pool.workers.iter().find_map(|w| w.kind).unwrap_or_default();
        log!(Info, "upgrade: version {} has taken over", env!("CARGO_PKG_VERSION"));
        self.source.adopt_serving(saved.serving);
        let setup = self.setup_event();
        self.control.adopt(saved.clients, &setup, &self.poll, self.clock.now)?;
        self.feed(Input::Reload);
        Ok(())
    }

    fn adopt_worker(&mut self, saved: SavedWorker, lifecycle: &Snapshot) -> Result<()> {
        let missing =
            || Error::new(ErrorKind::State, format!("upgrade: worker {} is not in the lifecycle", saved.id));
        let known = lifecycle.workers.iter().find(|w| w.id == saved.id).ok_or_else(missing)?;
        let link = WorkerLink {
            process: Process::adopt(saved.pid, saved.process.adopt()?),
            page: self.births.board.page(saved.page),
            leads_group: false,
        };
        let queue = handoff_queue(saved.master_end, saved.queue)?;
        let now = SystemTime::now();
        let entry = WorkerEntry {
            started: now.checked_sub(self.clock.now - known.since).unwrap_or(now),
            kind: Kind::from_number(saved.kind),
            takes_requests: saved.takes_requests,
            given: saved.given,
            limit: saved.limit,
            stuck: saved.stuck,
            ..WorkerEntry::new(saved.id, known.slot, known.generation, link, queue, saved.max_requests)
        };
        self.watch_exit(saved.page, &entry.link)
            .map_err(|e| Error::io(ErrorKind::System, format!("upgrade: watch worker {}", saved.id), e))?;
        let (channel, max) = (saved.channel.adopt()?, self.config.max_message);
        self.messages.router().restore(saved.id, saved.page, channel, max, saved.messages);
        self.pool.workers.add(saved.page, entry);
        Ok(())
    }
}

/// The handoff channel of a worker; a server whose workers are programs is not upgraded.
fn handoff(queue: &WorkerQueue) -> io::Result<&HandoffQueue> {
    match queue {
        WorkerQueue::Handoff(queue) => Ok(queue),
        _ => Err(io::Error::other("a worker is a program")),
    }
}

fn handoff_queue(master: KeptFd, worker: KeptFd) -> Result<WorkerQueue> {
    let (master, worker) = (HandoffEnd(master.adopt()?), HandoffEnd(worker.adopt()?));
    Ok(WorkerQueue::Handoff(HandoffQueue { master, worker }))
}
