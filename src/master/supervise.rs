//! Executes the actions of the lifecycle.

use super::Master;
use super::lifecycle::{Action, Input};
use super::listener::Listener;
use crate::error::{Error, ErrorKind};
use crate::ids::WorkerId;
use crate::log::log;
use crate::message::{Notice, Undelivered};
use crate::sys::signal::SIGKILL;
use std::collections::VecDeque;

impl Master {
    /// Tells the lifecycle what happened, executes what it orders, and goes on with what follows from that.
    pub(super) fn feed(&mut self, input: Input) {
        let mut next = Some(input);
        let mut follow_ups = VecDeque::new();
        while let Some(input) = next {
            let mut actions = std::mem::take(&mut self.actions);
            self.lifecycle.step(self.now, input, &mut actions);
            follow_ups.extend(actions.drain(..).filter_map(|action| self.execute(action)));
            self.actions = actions;
            next = follow_ups.pop_front();
        }
        self.release_stderr();
        let slots = self.lifecycle.slots().len();
        self.environments.retain(|slot, _| *slot < slots);
        self.report.last_exits.retain(|slot, _| *slot < slots);
    }

    /// Executes one action; returns what follows from it at once.
    fn execute(&mut self, action: Action) -> Option<Input> {
        match action {
            Action::Spawn { id, slot, generation } => {
                let result = self.spawn(id, slot, generation);
                return result
                    .err()
                    .map(|e| Input::SpawnFailed(id, format!("start worker in slot {slot}: {e}")));
            }
            Action::Admit(id) => self.crew.admit(id),
            Action::Withdraw(id) => {
                self.crew.withdraw(id);
                self.orphan(id);
            }
            Action::Drain(id) => self.drain(id),
            Action::Rebalance(_) => self.rebalance(),
            Action::Signal(id, signal) => {
                if let Some(worker) = self.crew.find(id)
                    && let Err(e) = worker.process.kill(signal)
                {
                    log!("signal worker {id}: {e}");
                }
            }
            Action::Prepare(generation) => {
                return Some(Input::Prepared(self.source.prepare(generation).map_err(|e| e.to_string())));
            }
            Action::Commit | Action::Revert => self.source.keep_only(self.lifecycle.generation()),
            Action::EmptyBacklogs => {
                self.emptying = true;
                self.board.common().start_final_intake();
                for index in 0..self.listeners.len() {
                    self.pause(index);
                    self.listeners[index].stop_intake();
                    // Datagrams that wait in a socket are for the workers to read.
                    self.emptied |= u64::from(self.listeners[index].takes_datagrams()) << index;
                }
            }
            Action::CloseListeners => self.close_listeners(),
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

    /// Tells a worker to finish. What is idle with it goes to those that stay, if any do.
    fn drain(&mut self, id: u32) {
        let hand_back = !self.lifecycle.is_stopping();
        if hand_back {
            self.watch_for_returns(id);
        }
        // Before it hears of it: it reads its door to the end where the slot is no more.
        self.mind_doors();
        let told = self.messages.router().notify(WorkerId(id), &Notice::Drain { hand_back });
        let Some(worker) = self.crew.find(id) else { return };
        match told {
            // One that has ended already is about to be reaped.
            Ok(()) | Err(Undelivered::Gone) => {}
            Err(e) => {
                log!("tell worker {id} to drain: {e}; killing it");
                let _ = worker.process.kill(SIGKILL);
            }
        }
    }

    fn close_listeners(&mut self) {
        self.listeners.clear();
        // Draining workers serve what lies in their own queues.
        let unanswered = u64::from(self.in_hand.take().is_some()) + self.abandon_returns();
        if unanswered > 0 {
            log!("stop: {unanswered} connections that no worker had room for are closed unanswered");
        }
    }

    /// Whether a stop has nothing more to accept.
    pub(super) fn look_whether_empty(&mut self) {
        if !self.emptying {
            return;
        }
        let empty = (0..self.listeners.len()).all(|index| self.emptied & (1 << index) != 0);
        if empty {
            // Whoever comes from now on is refused at once, however long those that came take.
            self.listeners.retain(Listener::takes_datagrams);
            self.emptied = u64::MAX;
        }
        // What lies in a queue is taken by its worker; or the next look finds that it is not, and others get it.
        let taken = self.crew.iter().all(|w| !w.admitted || w.queued() == 0);
        if empty && taken && self.in_hand.is_none() && self.returns.is_empty() {
            self.emptying = false;
            self.feed(Input::Emptied);
        }
    }
}
