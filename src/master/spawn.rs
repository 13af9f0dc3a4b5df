//! Spawning a worker and collecting it: channels, fork, pidfd, registration; death, and what follows from it.

use super::slot::{Phase, Record};
use super::{Master, exit_token};
use crate::error::{Error, ErrorKind, Result};
use crate::handoff;
use crate::log::log;
use crate::message;
use crate::sys::process::{self, Exit, Fork};
use crate::sys::signal;
use crate::worker::mailbox::Mailbox;
use crate::worker::{self, Birth, Worker};
use mio::Interest;
use mio::unix::SourceFd;
use std::io;
use std::os::fd::{AsFd, AsRawFd};

impl Master {
    /// Starts a worker in every empty slot whose time has come.
    pub(super) fn spawn_missing_workers(&mut self) -> Result<()> {
        if self.stopping.is_some() {
            return Ok(());
        }
        for slot in 0..self.slots.len() {
            let due = self.slots[slot].worker.is_none()
                && self.slots[slot].start_at.is_some_and(|at| at <= self.now);
            if !due {
                continue;
            }
            self.slots[slot].start_at = None;
            if let Err(e) = self.spawn(slot) {
                if self.booting {
                    return Err(Error::io(ErrorKind::System, format!("start worker in slot {slot}"), e));
                }
                let delay = self.backoff(slot, 0);
                log!(
                    "start worker in slot {slot}: {e}; tried again in {delay} ms, {} others serve",
                    self.ready()
                );
            }
        }
        Ok(())
    }

    fn spawn(&mut self, slot: usize) -> io::Result<()> {
        self.spare.release();
        let result = self.spawn_with(slot);
        self.spare.refill();
        result
    }

    fn spawn_with(&mut self, slot: usize) -> io::Result<()> {
        let (giver, queue) = handoff::channel()?;
        let (channel, theirs) = message::channel(self.config.max_message)?;
        let seat = self.slots[slot].seat;
        seat.clear();
        let id = self.next_id;
        self.next_id = id.wrapping_add(1);
        let process = match process::fork()? {
            Fork::Parent(process) => process,
            Fork::Child => {
                drop((giver, channel));
                self.become_worker(slot, id, queue, theirs)
            }
        };
        let watched = self.poll.registry().register(
            &mut SourceFd(&process.as_fd().as_raw_fd()),
            exit_token(slot),
            Interest::READABLE,
        );
        if let Err(e) = watched {
            let _ = process.kill(signal::SIGKILL);
            return Err(e);
        }
        self.post.borrow().join(id, channel);
        self.slots[slot].worker = Some(Record {
            id,
            process,
            giver,
            queue,
            phase: Phase::Starting,
            since: self.now,
            failure: None,
            given: 0,
            limit: 0,
            stuck: false,
            last_progress: 0,
        });
        self.arm(self.now.saturating_add(self.config.boot_timeout.as_millis() as u64));
        Ok(())
    }

    /// In the child: lets go of all that is the master's, so that siblings and clients see ends of file when they should, and
    /// goes to work. What user code opened before the fork stays open: it may be the handler's.
    fn become_worker(&mut self, slot: usize, id: u32, queue: handoff::Taker, channel: message::Channel) -> ! {
        self.listeners.iter_mut().for_each(super::listener::Listener::disown);
        self.listeners.clear();
        let seat = self.slots[slot].seat;
        self.slots.clear();
        self.orphans.clear();
        self.in_hand = None;
        self.spare.release();
        if let Some(signals) = self.signals.take() {
            signals.abandon();
        }
        self.post.close();
        let message::Channel { socket, inbox, outbox } = channel;
        let mailbox = Mailbox::new(id, socket, outbox);
        let worker = Worker::new(id, slot as u32, self.generation, &self.args, mailbox);
        if let Err(e) = self.board.keep_only(slot) {
            log!("worker {id}: protect the scoreboard: {e}");
        }
        // The new poll replaces the master's, which is thereby closed here.
        match mio::Poll::new() {
            Ok(poll) => self.poll = poll,
            Err(e) => worker::fail(&worker, format!("epoll_create: {e}")),
        }
        worker::run(
            &mut *self.source,
            &self.config,
            Birth {
                worker: Box::new(worker),
                queue,
                inbox,
                seat,
                common: self.board.common(),
                wake: self.wake.as_fd(),
            },
            &mut self.poll,
        )
    }

    /// Collects the worker of a slot if it has ended, and puts what it had not taken up for the others.
    ///
    /// # Errors
    /// While the first workers start: why they cannot.
    pub(super) fn reap(&mut self, slot: usize) -> Result<()> {
        let Some(worker) = &self.slots[slot].worker else { return Ok(()) };
        let exit = match worker.process.reap() {
            Ok(Some(exit)) => exit,
            Ok(None) => return Ok(()),
            Err(e) => {
                log!("wait for worker {}: {e}", worker.id);
                return Ok(());
            }
        };
        let id = worker.id;
        self.close_channel(id);
        let Some(worker) = self.slots[slot].worker.take() else { return Ok(()) };
        self.buried(slot, worker, exit)
    }

    fn buried(&mut self, slot: usize, worker: Record, exit: Exit) -> Result<()> {
        let seat = self.slots[slot].seat;
        let queued = worker.queued(seat);
        let lost = u64::from(worker.in_flight(seat)).saturating_sub(queued);
        let lived = self.now.saturating_sub(worker.since);
        let pid = worker.process.pid();
        self.orphan(worker.queue, slot, worker.id);
        if worker.phase == Phase::Draining && exit == Exit::Code(0) {
            return Ok(());
        }
        let why = worker.failure.unwrap_or_else(|| exit.to_string());
        if self.stopping.is_some() {
            if worker.phase == Phase::Draining {
                log!(
                    "worker {} (slot {slot}, pid {pid}) died while draining: {why}; {lost} connections lost",
                    worker.id
                );
            }
            return Ok(());
        }
        if self.booting {
            return Err(Error::new(
                ErrorKind::Handler,
                if why.contains(self.source.name()) { why } else { format!("{}: {why}", self.source.name()) },
            ));
        }
        let delay = self.backoff(slot, lived);
        let after = if delay == 0 { "at once".to_owned() } else { format!("in {delay} ms") };
        let when = if worker.phase == Phase::Starting { " before it was ready" } else { "" };
        log!(
            "worker {} (slot {slot}, pid {pid}) died{when}: {why}; {lost} connections in progress lost, {queued} kept; \
             its successor starts {after}",
            worker.id
        );
        Ok(())
    }

    /// Sets when the next worker of a slot starts and returns the delay.
    fn backoff(&mut self, slot: usize, lived: u64) -> u64 {
        let random = crate::sys::time::monotonic_ns().wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 17;
        let delay = self.slots[slot].backoff.died(lived, random);
        self.slots[slot].start_at = Some(self.now + delay);
        self.arm(self.now + delay);
        delay
    }

    /// Kills workers that are not ready in time.
    pub(super) fn kill_late_starters(&mut self) {
        let limit = self.config.boot_timeout.as_millis() as u64;
        for slot in &mut self.slots {
            let Some(worker) = slot.worker.as_mut().filter(|w| w.phase == Phase::Starting) else { continue };
            if limit > 0 && self.now >= worker.since + limit {
                worker.failure = Some(format!("not ready within {limit} ms (boot-timeout)"));
                worker.phase = Phase::Killed;
                let _ = worker.process.kill(signal::SIGKILL);
            }
        }
    }

    /// The number of workers that serve.
    pub(super) fn ready(&self) -> usize {
        self.slots.iter().filter(|s| s.is(Phase::Ready)).count()
    }
}
