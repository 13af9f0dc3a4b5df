//! The commands and queries of the host and of clients of the control socket.

use super::Master;
use super::lifecycle::{Input, Phase};
use crate::config::MAX_WORKERS;
use crate::error::{Error, ErrorKind, Result};
use crate::event::{Event, LastExit, ServerState, Status, WorkerInfo, WorkerState, WorkerStatus};
use crate::ids::{Slot, WorkerId};
use crate::scoreboard::Word;
use crate::sys::process;
use mio::Events;
use std::time::Duration;

/// A command of a client of the control socket.
pub enum Command {
    /// Return [`Answer::Status`].
    Status,
    /// Return [`Answer::Setup`], with which a stream of events begins.
    Follow,
    /// Replace all workers.
    Reload,
    /// Run this many workers.
    Scale(usize),
    /// Have a worker finish and leave.
    Drain(WorkerId),
    /// Stop the server; `now`: at once.
    Stop { now: bool },
}

/// The answer to a [`Command`]. An accepted one has its outcome in a later event.
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
            Command::Scale(workers) => self.scale(workers),
            Command::Drain(id) => self.drain_worker(id.0, None),
            Command::Stop { now } => {
                // A second stop means at once, so it is not repeated unless that is asked for.
                if now || !self.lifecycle.is_stopping() {
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

    /// Asks for a reload; one that is under way is ended first.
    ///
    /// # Errors
    /// [`ErrorKind::State`]: all stop.
    pub fn reload(&mut self) -> Result<()> {
        self.goes_on()?;
        self.feed(Input::Reload);
        Ok(())
    }

    /// Asks for so many workers.
    ///
    /// # Errors
    /// [`ErrorKind::Config`]: there cannot be so many. [`ErrorKind::State`]: the first workers are not all ready yet, or all stop.
    pub fn scale(&mut self, workers: usize) -> Result<()> {
        self.goes_on()?;
        if self.lifecycle.is_booting() {
            return Err(Error::new(ErrorKind::State, "scale: the first workers are not all ready yet"));
        }
        if !(1..=MAX_WORKERS).contains(&workers) {
            let text = format!("scale to {workers} workers: expected 1 to {MAX_WORKERS}");
            return Err(Error::new(ErrorKind::Config, text));
        }
        self.feed(Input::Scale(workers));
        Ok(())
    }

    /// Asks for one more worker, whose slot has these variables, and returns the slot.
    ///
    /// # Errors
    /// As [`Master::scale`]; [`ErrorKind::Config`] also: this can be no variable.
    pub fn fork_worker(&mut self, environment: &[(&str, &str)]) -> Result<usize> {
        let impossible = |(name, value): &&(&str, &str)| {
            name.is_empty() || name.contains(['=', '\0']) || value.contains('\0')
        };
        if let Some((name, value)) = environment.iter().find(impossible) {
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

    fn goes_on(&self) -> Result<()> {
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
    /// [`ErrorKind::Gone`]: there is no such worker. [`ErrorKind::System`]: the kernel refuses, for instance a number that is no
    /// signal's.
    pub fn signal_worker(&mut self, id: u32, signal: i32) -> Result<()> {
        self.known(id)?;
        let Some(worker) = self.pool.workers.get(WorkerId(id)) else { return Ok(()) };
        let sent = worker.link.process.kill(signal);
        sent.map_err(|e| Error::io(ErrorKind::System, format!("signal {signal} to worker {id}"), e))?;
        // Signal 0 asks only whether the process is there.
        if signal != 0 {
            self.feed(Input::Signalled(WorkerId(id), signal));
        }
        Ok(())
    }

    fn known(&self, id: u32) -> Result<()> {
        match self.pool.workers.get(WorkerId(id)) {
            Some(_) => Ok(()),
            None => Err(Error::new(ErrorKind::Gone, format!("worker {id}: no such worker"))),
        }
    }

    /// The status of the server now.
    pub fn status(&self) -> Status {
        let lifecycle = &self.lifecycle;
        let mut workers: Vec<_> = lifecycle.workers().iter().filter_map(|w| self.worker_status(w)).collect();
        workers.sort_by_key(|w| (w.worker.slot, w.worker.id));
        let total = lifecycle.slots();
        // A worker of a slot that a scale-down has taken away is draining, and does not count.
        let ready = lifecycle.workers().iter().filter(|w| w.phase == Phase::Ready).count().min(total);
        Status {
            name: self.name.clone(),
            pid: process::own_pid(),
            version: env!("CARGO_PKG_VERSION").into(),
            handler: self.source.name().to_owned(),
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
        self.lifecycle.workers().iter().find(|w| w.id.0 == id).and_then(|w| self.worker_status(w))
    }

    /// How the last worker of a slot ended.
    pub fn last_exit(&self, slot: usize) -> Option<LastExit> {
        self.report.last_exits.get(&Slot::at(slot)).copied()
    }

    fn worker_status(&self, w: &super::lifecycle::Worker) -> Option<WorkerStatus> {
        let entry = self.pool.workers.get(w.id)?;
        Some(WorkerStatus {
            worker: WorkerInfo {
                id: w.id.0,
                slot: w.slot.0,
                generation: w.generation.0,
                pid: entry.link.process.pid(),
            },
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
            queued: entry.queued(),
            requests: entry.link.page.get(Word::Requests),
            errors: entry.link.page.get(Word::Errors),
            bytes_in: entry.link.page.get(Word::BytesIn),
            bytes_out: entry.link.page.get(Word::BytesOut),
            rss: None,
            last_exit: self.last_exit(w.slot.index()),
        })
    }
}
