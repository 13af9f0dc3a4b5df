//! Executes lifecycle actions; logs and publishes events.

use super::lifecycle::{Action, Happening, Input, Reason};
use super::listener::Listener;
use super::spawn::Departed;
use super::{Master, News};
use crate::error::{Error, ErrorKind};
use crate::ids::WorkerId;
use crate::log::log;
use crate::message::{Notice, Undelivered};
use crate::server::{Bound, Event, LastExit, Started, WorkerInfo};
use crate::sys::process::Exit;
use crate::sys::signal::SIGKILL;
use crate::sys::time::Time;
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
        self.last_exits.retain(|slot, _| *slot < slots);
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
            Action::Tell(happening) => self.tell(happening),
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

    fn tell(&mut self, happening: Happening) {
        let departed =
            self.departed.take_if(|d| matches!(happening, Happening::Exit { id, .. } if id == d.id));
        self.log(&happening, departed.as_ref());
        let ready = if let Happening::Ready(id) = happening { Some(id) } else { None };
        if let Some(event) = self.event_of(happening, departed.as_ref()) {
            self.publish(event);
        }
        if let Some(id) = ready {
            self.tell_listening(id);
            self.look_whether_started();
        }
    }

    pub(super) fn tell_online(&mut self, id: u32) {
        if let Some(worker) = self.info(id) {
            self.publish(Event::Online(worker));
        }
    }

    /// Messages are many: nobody is looked up where nobody wants to know.
    pub(super) fn tell_message(&mut self, id: u32, kind: u32, size: usize) {
        if !self.listens && !self.control.has_followers() {
            return;
        }
        if let Some(worker) = self.info(id) {
            self.publish(Event::Message { worker, kind, size });
        }
    }

    fn tell_listening(&mut self, id: u32) {
        let Some(worker) = self.info(id) else { return };
        let addresses: Vec<Bound> = self.listeners.iter().map(super::listener::Listener::bound).collect();
        for address in addresses {
            self.publish(Event::Listening(worker, address));
        }
    }

    /// Keeps what happened until the turn is over, where somebody wants to know.
    pub(super) fn publish(&mut self, event: Event) {
        self.control.publish(&event, &self.lifecycle, Time::from_millis(self.now));
        if self.listens {
            self.news.push_back(News::Event(event));
        }
    }

    fn info(&mut self, id: u32) -> Option<WorkerInfo> {
        self.crew.find(id).map(|w| WorkerInfo {
            id,
            slot: w.slot as u32,
            generation: w.generation,
            pid: w.process.pid(),
        })
    }

    fn look_whether_started(&mut self) {
        let started = Started {
            addresses: self.listeners.iter().map(ToString::to_string).collect(),
            workers: self.lifecycle.slots().len(),
            kind: self.kind,
        };
        if self.lifecycle.is_booting() || std::mem::replace(&mut self.started, true) {
            return;
        }
        self.open_doors();
        self.news.push_back(News::Started(started));
    }

    /// One line for what somebody should know who looks after the machine.
    fn log(&self, happening: &Happening, departed: Option<&Departed>) {
        match happening {
            Happening::Exit { id, exit, reason, last, restart } => {
                let Some(Departed { slot, pid, was_ready, queued, lost, .. }) = departed else { return };
                let why = last.said.clone().unwrap_or_else(|| exit.to_string());
                let when = if *was_ready { "" } else { " before it was ready" };
                match reason {
                    Reason::Crash | Reason::BootFailure | Reason::Hang | Reason::Killed => {
                        let next = match restart {
                            Some(0) => "its successor starts at once".to_owned(),
                            Some(ms) => format!("its successor starts in {ms} ms"),
                            None => "no successor is due".to_owned(),
                        };
                        log!(
                            "worker {id} (slot {slot}, pid {pid}) died{when}: {why}; {lost} connections in progress lost, \
                             {queued} kept; {next}"
                        );
                    }
                    Reason::DrainTimeout => log!(
                        "worker {id} (slot {slot}, pid {pid}) had not finished within the drain-timeout and was killed; \
                         {lost} connections lost"
                    ),
                    _ if *exit != Exit::Code(0)
                        && *was_ready
                        && (*reason != Reason::Stop || lost + queued > 0) =>
                    {
                        log!(
                            "worker {id} (slot {slot}, pid {pid}) died while draining: {why}; {} connections lost",
                            lost + queued
                        );
                    }
                    _ => {}
                }
            }
            Happening::Hang(id) => {
                log!("worker {id} hangs in its handler; what waited for it goes to others")
            }
            Happening::ReloadStarted(g) => log!("reload to generation {g} begins"),
            Happening::ReloadCommitted(g) => log!("reload to generation {g} is complete"),
            Happening::ReloadRolledBack(g, failure) => {
                log!("reload to generation {g} is rolled back {failure}")
            }
            Happening::Error(text) => log!("{text}"),
            Happening::Fork(_) | Happening::Ready(_) | Happening::Disconnect(_) => {}
        }
    }

    fn event_of(&mut self, happening: Happening, departed: Option<&Departed>) -> Option<Event> {
        Some(match happening {
            Happening::Fork(id) => Event::Fork(self.info(id)?),
            Happening::Ready(id) => Event::Ready(self.info(id)?),
            Happening::Disconnect(id) => Event::Disconnect(self.info(id)?),
            Happening::Hang(id) => Event::Hang(self.info(id)?),
            Happening::Exit { id, exit, reason, last, .. } => {
                let d = departed?;
                let worker = WorkerInfo { id, slot: d.slot as u32, generation: d.generation, pid: d.pid };
                self.last_exits.insert(d.slot, LastExit { worker, exit, reason });
                Event::Exit { worker, exit, reason, stderr: last.stderr }
            }
            Happening::Error(text) => Event::Error(text),
            Happening::ReloadStarted(generation) => Event::ReloadStarted(generation),
            Happening::ReloadCommitted(generation) => Event::ReloadCommitted(generation),
            Happening::ReloadRolledBack(generation, mut failure) => {
                if let (Some(id), true) = (failure.worker, failure.exit.is_none()) {
                    failure.stderr = self.stderr.last_lines(WorkerId(id));
                }
                Event::ReloadRolledBack(generation, failure)
            }
        })
    }
}
