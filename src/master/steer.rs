//! What a host, or whoever speaks on the control socket, can ask of a running master, and what it can see.

use super::Master;
use super::lifecycle::{Input, Phase};
use crate::error::{Error, ErrorKind, Result};
use crate::scoreboard::Word;
use crate::server::{State, Status, WorkerInfo, WorkerStatus};
use std::time::Duration;

impl Master {
    /// Asks for a reload; one that is under way is ended first.
    pub fn reload(&mut self) {
        self.happened(Input::Reload);
    }

    /// Asks for so many workers, at least one.
    pub fn scale(&mut self, workers: usize) {
        self.happened(Input::Scale(workers.min(crate::config::MAX_WORKERS)));
    }

    /// Asks for an orderly stop; a second time, for an immediate one.
    pub fn stop(&mut self) {
        self.happened(Input::Stop);
    }

    /// Has a worker finish what it has and leave; another takes its place.
    ///
    /// # Errors
    /// [`ErrorKind::State`]: there is no such worker.
    pub fn drain_worker(&mut self, id: u32, patience: Option<Duration>) -> Result<()> {
        self.known(id)?;
        let patience = patience.unwrap_or(self.config.drain_timeout).as_millis() as u64;
        self.happened(Input::Drain(id, patience));
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
            self.happened(Input::Signalled(id));
        }
        Ok(())
    }

    fn known(&self, id: u32) -> Result<()> {
        match self.crew.seat_of(id) {
            Some(_) => Ok(()),
            None => Err(Error::new(ErrorKind::State, format!("worker {id}: no such worker"))),
        }
    }

    /// What runs, as of now.
    pub fn status(&self) -> Status {
        Status {
            name: self.name.clone(),
            handler: self.source.name().to_owned(),
            uptime: Duration::from_millis(self.now.saturating_sub(self.born)),
            starting: self.life.is_booting(),
            generation: self.life.generation(),
            addresses: self.listeners.iter().map(ToString::to_string).collect(),
            reloading: self.life.is_reloading(),
            stopping: self.life.is_stopping(),
            slots: self.life.slots().len(),
            totals: self.crew.totals(),
            workers: self.life.workers().iter().filter_map(|w| self.worker_status(w)).collect(),
        }
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
                Phase::Starting => State::Starting,
                Phase::Ready => State::Ready,
                Phase::Draining => State::Draining,
                Phase::Killed => State::Killed,
            },
            age: Duration::from_millis(self.now.saturating_sub(w.since)),
            in_flight: record.in_flight(),
            queued: record.queued(),
            stuck: record.stuck,
            requests: record.page.get(Word::Requests),
            errors: record.page.get(Word::Errors),
            bytes_in: record.page.get(Word::BytesIn),
            bytes_out: record.page.get(Word::BytesOut),
        })
    }
}
