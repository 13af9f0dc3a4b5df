//! What a host, or whoever speaks on the control socket, can ask of a running master, and what it can see.

use super::Master;
use super::lifecycle::{Input, Phase};
use crate::config::MAX_WORKERS;
use crate::error::{Error, ErrorKind, Result};
use crate::event::{LastExit, ServerState, Status, WorkerInfo, WorkerState, WorkerStatus};
use crate::scoreboard::Word;
use crate::sys::process;
use std::time::Duration;

impl Master {
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
        let slot = self.lifecycle.slots().len();
        let owned = environment.iter().map(|&(name, value)| (name.to_owned(), value.to_owned()));
        self.environments.insert(slot, owned.collect());
        let done = self.scale(slot + 1);
        if done.is_err() {
            self.environments.remove(&slot);
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
    /// [`ErrorKind::State`]: there is no such worker.
    pub fn drain_worker(&mut self, id: u32, patience: Option<Duration>) -> Result<()> {
        self.known(id)?;
        let patience = patience.unwrap_or(self.config.drain_timeout).as_millis() as u64;
        self.feed(Input::Drain(id, patience));
        Ok(())
    }

    /// Sends a signal to a worker.
    ///
    /// # Errors
    /// [`ErrorKind::State`]: there is no such worker. [`ErrorKind::System`]: the kernel refuses, for instance a number that is no
    /// signal's.
    pub fn signal_worker(&mut self, id: u32, signal: i32) -> Result<()> {
        self.known(id)?;
        let Some(worker) = self.crew.find(id) else { return Ok(()) };
        let sent = worker.process.kill(signal);
        sent.map_err(|e| Error::io(ErrorKind::System, format!("signal {signal} to worker {id}"), e))?;
        // Signal 0 asks only whether the process is there.
        if signal != 0 {
            self.feed(Input::Signalled(id, signal));
        }
        Ok(())
    }

    fn known(&self, id: u32) -> Result<()> {
        match self.crew.seat_of(id) {
            Some(_) => Ok(()),
            None => Err(Error::new(ErrorKind::State, format!("worker {id}: no such worker"))),
        }
    }

    /// The status of the server now.
    pub fn status(&self) -> Status {
        let lifecycle = &self.lifecycle;
        let mut workers: Vec<_> = lifecycle.workers().iter().filter_map(|w| self.worker_status(w)).collect();
        workers.sort_by_key(|w| (w.worker.slot, w.worker.id));
        let total = lifecycle.slots().len();
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
            generation: lifecycle.generation(),
            addresses: self.addresses(),
            ready,
            total,
            uptime: Duration::from_millis(self.now.saturating_sub(self.born)),
            totals: self.crew.totals(),
            memory: None,
            workers,
        }
    }

    /// The addresses bound.
    pub(super) fn addresses(&self) -> Vec<String> {
        self.listeners.iter().map(ToString::to_string).collect()
    }

    /// A worker, until it is reaped.
    pub fn worker(&self, id: u32) -> Option<WorkerStatus> {
        self.lifecycle.workers().iter().find(|w| w.id == id).and_then(|w| self.worker_status(w))
    }

    /// How the last worker of a slot ended.
    pub fn last_exit(&self, slot: usize) -> Option<LastExit> {
        self.report.last_exits.get(&slot).copied()
    }

    fn worker_status(&self, w: &super::lifecycle::Worker) -> Option<WorkerStatus> {
        let record = self.crew.iter().find(|r| r.id == w.id)?;
        Some(WorkerStatus {
            worker: WorkerInfo {
                id: w.id,
                slot: w.slot as u32,
                generation: w.generation,
                pid: record.process.pid(),
            },
            state: match w.phase {
                Phase::Starting => WorkerState::Starting,
                Phase::Ready if record.stuck => WorkerState::Stuck,
                Phase::Ready => WorkerState::Ready,
                Phase::Draining => WorkerState::Draining,
                Phase::Killed => WorkerState::Killed,
            },
            started: record.started,
            age: Duration::from_millis(self.now.saturating_sub(w.since)),
            in_flight: record.in_flight(),
            queued: record.queued(),
            requests: record.page.get(Word::Requests),
            errors: record.page.get(Word::Errors),
            bytes_in: record.page.get(Word::BytesIn),
            bytes_out: record.page.get(Word::BytesOut),
            rss: None,
            last_exit: self.last_exit(w.slot),
        })
    }
}
