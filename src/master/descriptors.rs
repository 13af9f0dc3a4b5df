//! The limit on open descriptors (`RLIMIT_NOFILE`): the soft limit is raised to what the workers need, and workers for which
//! the hard limit does not suffice are refused.

use super::Master;
use super::fd_reserve;
use super::pool::PAGES;
use super::sockets::Listener;
use crate::config::{Accept, Config};
use crate::error::{Error, ErrorKind, Result};
use crate::sys::{errno, process};
use std::io;

/// The descriptors of a worker in the master: its pidfd, its message channel, both ends of its handoff channel.
const PER_WORKER: usize = 4;
/// The pipe of a worker's standard error, until it has proved itself.
const UNPROVED: usize = 1;
/// Descriptors for everything else that the master opens later: clients of the control socket, an accepted connection, files.
const SPARE: usize = 16;
/// The descriptors of a master before its first worker starts: poll, signals, scoreboard, wake, control socket, reserves, code.
const OF_THE_MASTER: usize = 24;

/// What a number of workers needs.
struct Need {
    /// Descriptors that are open whatever the number of workers.
    base: usize,
    /// Descriptors of each slot: its own sockets.
    per_slot: usize,
    /// Former generations that may drain.
    max_draining: usize,
}

impl Need {
    /// The descriptors with which this many workers can run and be reloaded: all of one generation drain, and all of the next
    /// one have started.
    fn of(&self, workers: usize) -> usize {
        self.base + SPARE + fd_reserve::SIZE + workers * (self.per_slot + 2 * PER_WORKER + UNPROVED)
    }

    /// Raises the soft limit for this many workers, and for those that may drain beside them as far as the hard limit allows. Returns
    /// how many workers there may be at one time. Refuses them if the hard limit is too low.
    fn provide(&self, what: &str, workers: usize) -> Result<usize> {
        let need = self.of(workers);
        let wanted = need + self.max_draining.saturating_mul(workers * PER_WORKER);
        // If the limit cannot be read or set, the calls that fail for it will say so.
        let Ok(limit) = process::raise_descriptor_limit(wanted as u64) else { return Ok(PAGES) };
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        if need <= limit {
            return Ok((2 * workers + (limit - need) / PER_WORKER).min(PAGES));
        }
        let fit = limit.saturating_sub(self.of(0)) / (self.of(1) - self.of(0));
        let instead = if fit == 0 { String::new() } else { format!(", or run at most {fit} workers") };
        Err(Error::new(
            ErrorKind::System,
            format!(
                "{what}{workers} workers need {need} open descriptors, but the hard limit is {limit}: raise it \
                 (ulimit -n){instead}"
            ),
        ))
    }
}

/// Before anything is bound: raises the soft limit for the first workers; returns how many there may be at one time.
///
/// # Errors
/// [`ErrorKind::System`]: the hard limit is too low.
pub fn provide_for_start(config: &Config, workers: usize) -> Result<usize> {
    let Ok(open) = process::open_descriptors() else { return Ok(PAGES) };
    let listeners = config.listen.len().max(1);
    let per_slot = if config.accept == Accept::ReusePort { listeners } else { 0 };
    let (base, max_draining) = (open + OF_THE_MASTER + listeners, config.max_draining);
    Need { base, per_slot, max_draining }.provide("", workers)
}

/// The cause of a failed start of a worker, for a human.
pub fn explain(cause: &io::Error) -> String {
    match (cause.raw_os_error(), process::descriptor_limit()) {
        (Some(errno::EMFILE), Ok(limit)) => format!("{cause}: the limit is {limit} (ulimit -n)"),
        _ => cause.to_string(),
    }
}

impl Master {
    /// Raises the soft limit for this number of workers, and tells the lifecycle how many there may be at one time.
    ///
    /// # Errors
    /// [`ErrorKind::System`]: the hard limit is too low.
    pub(super) fn provide_descriptors(&mut self, workers: usize) -> Result<()> {
        // To count them takes one.
        self.pool.system.reserve.release();
        let open = process::open_descriptors();
        if !self.pool.has_shortage() {
            self.pool.system.reserve.refill();
        }
        let Ok(open) = open else { return Ok(()) };
        let of_slots: Vec<_> = self.pool.listeners.iter().filter_map(Listener::sockets_of_slots).collect();
        let of_workers = self.pool.workers.iter().count() * PER_WORKER + self.stderr.open_pipes();
        let base = open.saturating_sub(of_workers + of_slots.iter().sum::<usize>());
        let (per_slot, max_draining) = (of_slots.len(), self.config.max_draining);
        let room = Need { base, per_slot, max_draining }.provide("scale: ", workers)?;
        self.lifecycle.set_room(room);
        Ok(())
    }
}
