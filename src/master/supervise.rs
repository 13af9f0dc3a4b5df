//! Feeds the lifecycle with inputs and executes its actions.

use super::lifecycle::{Action, Input};
use super::pool::Findings;
use super::report::Announced;
use super::{Master, News, descriptors};
use crate::error::{Error, ErrorKind};
use crate::ids::{Generation, WorkerId};
use crate::log::{counted, log};
use crate::message::{Notice, Undelivered};
use crate::sys::signal::SIGKILL;
use std::collections::VecDeque;
use std::time::Duration;

/// The time to finish of a worker that is to end at once.
const END_AT_ONCE: Duration = Duration::from_millis(1);

impl Master {
    /// Feeds the lifecycle with an input, executes its actions, and continues with the inputs that follow from them.
    pub(super) fn feed(&mut self, input: Input) {
        let (mut next, mut follow_ups) = (Some(input), VecDeque::new());
        while let Some(input) = next {
            let mut actions = Vec::new();
            self.lifecycle.step(self.clock.now, input, &mut actions);
            follow_ups.extend(actions.into_iter().filter_map(|action| self.execute(action)));
            next = follow_ups.pop_front();
        }
        self.release_stderr();
        let slots = self.lifecycle.slots();
        self.births.environments.retain(|slot, _| slot.index() < slots);
        self.report.last_exits.retain(|slot, _| slot.index() < slots);
    }

    /// Has the host told of a reload, and asked, before anything of it is read or forked ([`Master::begin_announced`]).
    fn announce_reload(&mut self, generation: Generation) {
        self.report.announced = Some(Announced { generation, refusal: None });
        self.report.news.push_back(News::Reload(generation));
    }

    /// The host refuses the reload that it was just told of, for this reason.
    pub fn refuse_reload(&mut self, why: String) {
        if let Some(announced) = &mut self.report.announced {
            announced.refusal = Some(why);
        }
    }

    /// Goes on with the reload of which the host was told, once all news have been. Forks, in general. False if there is none.
    pub fn begin_announced(&mut self) -> bool {
        let Some(Announced { generation, refusal }) = self.report.announced.take() else { return false };
        // The host may have taken any time, and may have begun a stop.
        self.read_clock();
        if self.lifecycle.is_preparing(generation) {
            let read = |()| self.source.prepare(generation).map_err(|e| e.to_string());
            let result =
                refusal.map_or(Ok(()), |why| Err(format!("refused by the host: {why}"))).and_then(read);
            self.feed(Input::Prepared(result));
        }
        true
    }

    /// Executes one action; returns the input that follows from it, if one does.
    fn execute(&mut self, action: Action) -> Option<Input> {
        match action {
            Action::Spawn { id, slot, generation } => {
                let failed = self.spawn(id, slot, generation).err()?;
                let why = format!("start worker in slot {slot}: {}", descriptors::explain(&failed));
                return Some(Input::SpawnFailed(id, why));
            }
            Action::Admit(id) => {
                self.pool.admit(id, &self.poll);
                if !self.lifecycle.is_booting() {
                    self.allow_intake(id);
                }
            }
            Action::Withdraw(id) => self.pool.withdraw(id),
            Action::Drain(id, patience) => self.drain(id, patience),
            Action::End(id) => self.order_drain(id, true, END_AT_ONCE),
            Action::KeepIdle(id) => {
                // One that has ended is about to be reaped.
                let _ = self.notify_drain(id, false, Duration::ZERO);
            }
            Action::Rebalance(_) => self.pool.rebalance(),
            Action::Signal(id, signal) => self.signal(id, signal),
            Action::Prepare(generation) => self.announce_reload(generation),
            Action::Commit | Action::Revert => {
                self.source.keep_only(self.lifecycle.generation());
                self.free_unused();
            }
            Action::EmptyBacklogs => self.pool.empty_backlogs(&self.poll),
            Action::CloseListeners => {
                // Workers that drain serve what is in their own queues.
                let unanswered = self.pool.close();
                if unanswered > 0 {
                    let (connections, are) =
                        (counted(unanswered, "connection"), if unanswered == 1 { "is" } else { "are" });
                    log!(Warn, "stop: {connections} that no worker had room for {are} closed unanswered");
                }
            }
            Action::Tell(event) => self.report(event),
            Action::TellExit { worker, ended, reason, restart } => {
                self.report_exit(worker, ended, reason, restart);
                self.free_unused();
            }
            Action::Fail { why, is_wrong_config } => {
                self.log_crashes();
                let name = self.handler();
                let text = if why.contains(&name) { why } else { format!("{name}: {why}") };
                let kind = if is_wrong_config { ErrorKind::Misconfigured } else { ErrorKind::Handler };
                self.failed.get_or_insert(Error::new(kind, text));
            }
        }
        None
    }

    /// Frees the handler's files of generations that are over.
    fn free_unused(&mut self) {
        let workers = self.lifecycle.workers();
        self.source.free_unused(&|generation| workers.iter().any(|worker| worker.generation == generation));
    }

    /// Allows a worker to take connections and datagrams from its own sockets. Not before this master knows that it is ready: one
    /// that is not is killed if it is no longer wanted, and nothing may be lost with it.
    pub(super) fn allow_intake(&self, id: WorkerId) {
        if self.source.protocol().is_none() && self.pool.has_listeners_for_workers() {
            // One that has ended is about to be reaped.
            let _ = self.messages.router().notify(id, &Notice::TakeIn);
        }
    }

    /// Sends a signal to a worker.
    pub(super) fn signal(&self, id: WorkerId, signal: i32) {
        if let Some(worker) = self.pool.workers.get(id)
            && let Err(e) = worker.link.kill(signal)
        {
            log!(Warn, "signal worker {id}: {e}");
        }
    }

    /// Orders a worker to drain. Unless the server stops, it hands back idle connections for the workers that stay.
    fn drain(&mut self, id: WorkerId, patience: Duration) {
        let hand_back = !self.lifecycle.is_stopping();
        if let Some(worker) = self.pool.workers.get_mut(id) {
            worker.begin_drain(self.clock.now);
        }
        // Before the worker reads the notice: if its slot was scaled away, it takes all that waits at its own socket.
        self.divide_sockets();
        self.order_drain(id, hand_back, patience);
    }

    /// Orders a worker to drain, and kills one that cannot be told.
    fn order_drain(&mut self, id: WorkerId, hand_back: bool, patience: Duration) {
        if self.source.protocol().is_some() {
            return self.drain_program(id, patience == END_AT_ONCE);
        }
        match self.notify_drain(id, hand_back, patience) {
            // One that has ended already is about to be reaped.
            Ok(()) | Err(Undelivered::Gone) => {}
            Err(e) => {
                log!(Warn, "tell worker {id} to drain: {e}; killing it");
                self.signal(id, SIGKILL);
            }
        }
    }

    fn notify_drain(
        &self,
        id: WorkerId,
        hand_back: bool,
        patience: Duration,
    ) -> std::result::Result<(), Undelivered> {
        // In whole milliseconds, rounded up: a time is not no limit.
        let patience = u32::try_from(patience.as_micros().div_ceil(1000)).unwrap_or(u32::MAX);
        self.messages.router().notify(id, &Notice::Drain { hand_back, patience })
    }

    /// Divides the listeners' sockets between the master and the admitted workers, if workers accept.
    pub(super) fn divide_sockets(&mut self) {
        self.pool.divide_sockets(&self.poll, self.lifecycle.slots(), self.lifecycle.is_stopping());
    }

    /// Acts on the findings of a check of the workers.
    pub(super) fn act_on_findings(&mut self, findings: Findings) {
        findings.inputs.into_iter().for_each(|input| self.feed(input));
        for (id, keep) in findings.sheds {
            // If it cannot be sent, the next check repeats it; a worker that has ended has nothing to shed.
            let _ = self.messages.router().notify(id, &Notice::Shed { keep });
        }
    }

    /// Has workers that have proved themselves restore their standard error.
    fn release_stderr(&mut self) {
        // A program cannot restore it: all its lines come through here.
        let is_program = self.source.protocol().is_some();
        for id in self.stderr.release(&self.poll, |id| !is_program && self.lifecycle.is_proved(id)) {
            // If it has ended, it is about to be reaped.
            let _ = self.messages.router().notify(id, &Notice::RestoreStderr);
        }
    }
}
