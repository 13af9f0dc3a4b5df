//! Commands and queries, of the host and of clients of the control socket.

use super::Master;
use super::kernel::Kernel;
use super::lifecycle::{Input, Phase};
use super::pool::WorkerEntry;
use crate::config::MAX_WORKERS;
use crate::error::{Error, ErrorKind, Result};
use crate::event::{Event, LastExit, ServerState, Status, WorkerState, WorkerStatus};
use crate::ids::{Slot, WorkerId};
use crate::scoreboard::Word;
use crate::sys::process;
use mio::Events;
use std::time::Duration;

/// A command of a client of the control socket.
pub enum Command {
    Status,
    /// Return [`Answer::Setup`], with which a stream of events begins.
    Follow,
    Reload,
    /// Replace the program, then all workers.
    Upgrade,
    /// Run this many workers.
    Scale(usize),
    Drain(WorkerId),
    /// Stop the server; at once if `now`, which is what a second stop does.
    Stop {
        now: bool,
    },
}

/// The answer to a [`Command`]. The outcome of an accepted one is told by a later event.
pub enum Answer {
    Accepted,
    Refused(String),
    Status(Box<Status>),
    Setup(Event),
}

impl Master {
    /// Executes the commands of clients of the control socket.
    pub(super) fn serve_control(&mut self, events: &Events) {
        let now = self.clock.now;
        self.control.serve(events, &self.poll, now);
        while let Some((client, command)) = self.control.next_command(&self.lifecycle, &self.poll, now) {
            let answer = self.execute_command(command);
            self.control.answer(client, answer, &self.lifecycle, now);
        }
    }

    fn execute_command(&mut self, command: Command) -> Answer {
        let done = match command {
            Command::Status => return Answer::Status(Box::new(self.status())),
            Command::Follow => return Answer::Setup(self.setup_event()),
            Command::Reload => self.reload(),
            Command::Upgrade => self.upgrade(),
            Command::Scale(workers) => self.scale(workers),
            Command::Drain(id) => self.drain_worker(id.0, None),
            Command::Stop { now } => {
                if !self.lifecycle.is_stopping() {
                    self.stop();
                }
                if now {
                    self.stop();
                }
                Ok(())
            }
        };
        done.map_or_else(|e| Answer::Refused(e.to_string()), |()| Answer::Accepted)
    }

    /// Asks for a reload, which begins when the one under way has ended.
    ///
    /// # Errors
    /// [`ErrorKind::State`]: the server stops.
    pub fn reload(&mut self) -> Result<()> {
        self.refuse_if_stopping()?;
        self.feed(Input::Reload);
        Ok(())
    }

    /// Asks for an upgrade.
    ///
    /// # Errors
    /// [`ErrorKind::State`]: the server stops, an upgrade is under way, or this program cannot upgrade.
    pub fn upgrade(&mut self) -> Result<()> {
        self.refuse_if_stopping()?;
        self.request_upgrade()
    }

    /// Asks for this number of workers.
    ///
    /// # Errors
    /// [`ErrorKind::Config`]: the number is out of range. [`ErrorKind::State`]: the first workers are not all ready yet, or the
    /// server stops. [`ErrorKind::System`]: the hard limit on open descriptors is too low for them.
    pub fn scale(&mut self, workers: usize) -> Result<()> {
        self.refuse_if_stopping()?;
        if self.lifecycle.is_booting() {
            return Err(Error::new(ErrorKind::State, "scale: the first workers are not all ready yet"));
        }
        if !(1..=MAX_WORKERS).contains(&workers) {
            let text = format!("scale to {workers} workers: expected 1 to {MAX_WORKERS}");
            return Err(Error::new(ErrorKind::Config, text));
        }
        if workers > self.lifecycle.slots() {
            self.provide_descriptors(workers)?;
        }
        self.feed(Input::Scale(workers));
        Ok(())
    }

    /// Asks for one more worker, whose slot has these variables, and returns the slot.
    ///
    /// # Errors
    /// As [`Master::scale`]; [`ErrorKind::Config`] also if a variable is malformed.
    pub fn fork_worker(&mut self, environment: &[(&str, &str)]) -> Result<usize> {
        let malformed = |(name, value): &&(&str, &str)| {
            name.is_empty() || name.contains(['=', '\0']) || value.contains('\0')
        };
        if let Some((name, value)) = environment.iter().find(malformed) {
            let text = format!(
                "fork: {name:?} = {value:?}: expected a name without `=` and NUL, a value without NUL"
            );
            return Err(Error::new(ErrorKind::Config, text));
        }
        let slot = self.lifecycle.slots();
        let owned = environment.iter().map(|&(name, value)| (name.to_owned(), value.to_owned()));
        self.births.environments.insert(Slot::at(slot), owned.collect());
        let done = self.scale(slot + 1);
        if done.is_err() {
            self.births.environments.remove(&Slot::at(slot));
        }
        done.map(|()| slot)
    }

    fn refuse_if_stopping(&self) -> Result<()> {
        if self.lifecycle.is_stopping() {
            return Err(Error::new(ErrorKind::State, "all workers are being stopped"));
        }
        Ok(())
    }

    /// Asks for an orderly stop; a second time, for an immediate one.
    pub fn stop(&mut self) {
        self.feed(Input::Stop);
    }

    /// Has a worker finish what it has and leave; another takes its place.
    ///
    /// # Errors
    /// [`ErrorKind::Gone`]: there is no such worker.
    pub fn drain_worker(&mut self, id: u32, patience: Option<Duration>) -> Result<()> {
        self.known(id)?;
        let patience = patience.unwrap_or(self.config.drain_timeout);
        self.feed(Input::Drain(WorkerId(id), patience));
        Ok(())
    }

    /// Sends a signal to a worker.
    ///
    /// # Errors
    /// [`ErrorKind::Gone`]: there is no such worker. [`ErrorKind::System`]: the kernel refuses, for instance an unknown signal.
    pub fn signal_worker(&mut self, id: u32, signal: i32) -> Result<()> {
        let sent = self.known(id)?.link.process.kill(signal);
        sent.map_err(|e| Error::io(ErrorKind::System, format!("signal {signal} to worker {id}"), e))?;
        // Signal 0 is only a check that the process exists.
        if signal != 0 {
            self.feed(Input::Signalled(WorkerId(id), signal));
        }
        Ok(())
    }

    fn known(&self, id: u32) -> Result<&WorkerEntry<Kernel>> {
        let missing = || Error::new(ErrorKind::Gone, format!("worker {id}: no such worker"));
        self.pool.workers.get(WorkerId(id)).ok_or_else(missing)
    }

    /// The status of the server now.
    pub fn status(&self) -> Status {
        let lifecycle = &self.lifecycle;
        let mut workers: Vec<_> = lifecycle.workers().iter().filter_map(|w| self.worker_status(w)).collect();
        workers.sort_by_key(|w| (w.worker.slot, w.worker.id));
        let total = lifecycle.slots();
        let ready = lifecycle.workers().iter().filter(|w| w.phase == Phase::Ready).count().min(total);
        Status {
            name: self.name.clone(),
            pid: process::own_pid(),
            version: env!("CARGO_PKG_VERSION").into(),
            handler: self.handler(),
            program: self.upgrade.program(),
            module: self.source.serving(),
            state: match () {
                () if lifecycle.is_stopping() => ServerState::Stopping,
                () if lifecycle.is_booting() => ServerState::Starting,
                () if lifecycle.is_reloading() => ServerState::Reloading,
                () if ready < total => ServerState::Degraded,
                () => ServerState::Serving,
            },
            generation: lifecycle.generation().0,
            addresses: self.addresses(),
            ready,
            total,
            uptime: self.clock.now - self.clock.born,
            totals: self.pool.workers.totals(),
            memory: None,
            workers,
        }
    }

    /// The addresses bound.
    pub(super) fn addresses(&self) -> Vec<String> {
        self.pool.listeners.iter().map(ToString::to_string).collect()
    }

    /// A worker, until it is reaped.
    pub fn worker(&self, id: u32) -> Option<WorkerStatus> {
        self.lifecycle.find(WorkerId(id)).and_then(|w| self.worker_status(w))
    }

    /// The end of the last worker of a slot that has ended.
    pub fn last_exit(&self, slot: usize) -> Option<LastExit> {
        self.report.last_exits.get(&Slot::at(slot)).cloned()
    }

    fn worker_status(&self, w: &super::lifecycle::Worker) -> Option<WorkerStatus> {
        let entry = self.pool.workers.get(w.id)?;
        let count = |word| entry.link.page.get(word);
        let (_, kept_responses, streams) = entry.kinds();
        Some(WorkerStatus {
            worker: entry.info(),
            state: match w.phase {
                Phase::Starting => WorkerState::Starting,
                Phase::Ready if entry.stuck => WorkerState::Stuck,
                Phase::Ready => WorkerState::Ready,
                Phase::Draining => WorkerState::Draining,
                Phase::Killed => WorkerState::Killed,
            },
            started: entry.started,
            age: self.clock.now - w.since,
            in_flight: entry.in_flight(),
            idle: entry.idle(),
            queued: entry.queued(),
            requests: count(Word::Requests),
            errors: count(Word::Errors),
            bytes_in: count(Word::BytesIn),
            bytes_out: count(Word::BytesOut),
            skipped: count(Word::Skipped),
            streams: u32::try_from(streams).unwrap_or(u32::MAX),
            kept_responses: u32::try_from(kept_responses).unwrap_or(u32::MAX),
            within: w.finishes_by().map(|at| at - self.clock.now),
            rss: None,
            last_exit: self.last_exit(w.slot.index()),
        })
    }
}
