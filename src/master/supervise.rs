//! Executes the actions of the lifecycle, and feeds it with what follows.

use super::Master;
use super::lifecycle::{Action, Input};
use super::pool::Findings;
use crate::error::{Error, ErrorKind};
use crate::ids::WorkerId;
use crate::log::log;
use crate::message::{Notice, Undelivered};
use crate::sys::signal::SIGKILL;
use std::collections::VecDeque;

impl Master {
    /// Tells the lifecycle what happened, executes what it orders, and continues with what follows from that.
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

    /// Executes one action; returns what follows from it at once.
    fn execute(&mut self, action: Action) -> Option<Input> {
        match action {
            Action::Spawn { id, slot, generation } => {
                let failed = self.spawn(id, slot, generation).err()?;
                return Some(Input::SpawnFailed(id, format!("start worker in slot {slot}: {failed}")));
            }
            Action::Admit(id) => self.pool.workers.admit(id),
            Action::Withdraw(id) => self.pool.withdraw(id),
            Action::Drain(id) => self.drain(id),
            Action::Rebalance(_) => self.pool.rebalance(),
            Action::Signal(id, signal) => {
                if let Some(worker) = self.pool.workers.get(id)
                    && let Err(e) = worker.link.process.kill(signal)
                {
                    log!("signal worker {id}: {e}");
                }
            }
            Action::Prepare(generation) => {
                return Some(Input::Prepared(self.source.prepare(generation).map_err(|e| e.to_string())));
            }
            Action::Commit | Action::Revert => self.source.keep_only(self.lifecycle.generation()),
            Action::EmptyBacklogs => self.pool.empty_backlogs(&self.poll),
            Action::CloseListeners => {
                // Workers that drain serve what is in their own queues.
                let unanswered = self.pool.close();
                if unanswered > 0 {
                    log!("stop: {unanswered} connections that no worker had room for are closed unanswered");
                }
            }
            Action::Tell(event) => self.report(event),
            Action::TellExit { worker, ended, reason, restart } => {
                self.report_exit(worker, ended, reason, restart);
            }
            Action::Fail(why) => {
                let name = self.source.name();
                let text = if why.contains(name) { why } else { format!("{name}: {why}") };
                self.failed.get_or_insert(Error::new(ErrorKind::Handler, text));
            }
        }
        None
    }

    /// Tells a worker to finish. Its idle connections go to the workers that stay, if any do.
    fn drain(&mut self, id: WorkerId) {
        let hand_back = !self.lifecycle.is_stopping();
        if hand_back {
            self.pool.watch_returns(id, &self.poll);
        }
        // Before the worker reads the notice: it reads its own socket to the end if the slot is no more.
        self.divide_sockets();
        let told = self.messages.router().notify(id, &Notice::Drain { hand_back });
        let Some(worker) = self.pool.workers.get(id) else { return };
        match told {
            // One that has ended already is about to be reaped.
            Ok(()) | Err(Undelivered::Gone) => {}
            Err(e) => {
                log!("tell worker {id} to drain: {e}; killing it");
                let _ = worker.link.process.kill(SIGKILL);
            }
        }
    }

    /// Divides the listeners' sockets between the master and the admitted workers, if workers accept.
    pub(super) fn divide_sockets(&mut self) {
        self.pool.divide_sockets(&self.poll, self.lifecycle.slots(), self.lifecycle.is_stopping());
    }

    /// Acts on what a check of the workers has found.
    pub(super) fn act_on_findings(&mut self, findings: Findings) {
        findings.inputs.into_iter().for_each(|input| self.feed(input));
        for (id, keep) in findings.sheds {
            // An order that cannot be sent is repeated at the next check, and a worker that has ended has nothing to shed.
            let _ = self.messages.router().notify(id, &Notice::Shed { keep });
        }
    }

    /// Has workers that have proved themselves restore their standard error.
    fn release_stderr(&mut self) {
        for id in self.stderr.release(|id| self.lifecycle.is_proved(id)) {
            // If it has ended, it is about to be reaped.
            let _ = self.messages.router().notify(id, &Notice::RestoreStderr);
        }
    }
}
