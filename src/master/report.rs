//! Reports what happens: one event becomes a line of the log, the host's callback, and a line for each follower of the control
//! socket.

use super::lifecycle::Ended;
use super::{Master, News};
use crate::event::{Bound, Event, Exit, LastExit, Reason, ReloadState, Started, WorkerInfo};
use crate::ids::WorkerId;
use crate::log::log;
use crate::sys::time::Time;
use std::collections::{BTreeMap, VecDeque};

/// What the host is to be told, and what was reported before.
#[derive(Default)]
pub struct Report {
    /// News for the host, until the turn is over: its callbacks may ask the server for more.
    news: VecDeque<News>,
    /// True if the host has a callback for events.
    pub wants_events: bool,
    /// By slot.
    pub last_exits: BTreeMap<usize, LastExit>,
    /// True once the host was told that the addresses are bound.
    pub is_set_up: bool,
    /// True once the host was told that all workers are ready.
    pub is_started: bool,
}

impl Report {
    /// Keeps news for the host.
    pub fn add(&mut self, news: News) {
        self.news.push_back(news);
    }

    /// Takes the oldest news.
    pub fn next(&mut self) -> Option<News> {
        self.news.pop_front()
    }
}

impl Master {
    /// Reports an event of the lifecycle, which does not know process ids and standard error.
    pub(super) fn report(&mut self, mut event: Event) {
        if let Some(worker) = event.worker_mut() {
            let Some(entry) = self.crew.find(worker.id) else { return };
            worker.pid = entry.process.pid();
        }
        if let Event::Reload { failure: Some(failure), .. } = &mut event
            && let (Some(id), None) = (failure.worker, failure.exit)
        {
            failure.stderr = self.stderr.last_lines(WorkerId(id));
        }
        log_event(&event);
        let ready = if let Event::Ready { worker } = event { Some(worker) } else { None };
        self.publish(event);
        if let Some(worker) = ready {
            self.report_listening(worker);
            self.report_started();
        }
    }

    /// Reports the end of a worker.
    pub(super) fn report_exit(
        &mut self,
        worker: WorkerInfo,
        ended: Ended,
        reason: Reason,
        restart: Option<u64>,
    ) {
        log_exit(&worker, &ended, reason, restart);
        let exit = ended.exit;
        self.report.last_exits.insert(worker.slot as usize, LastExit { worker, exit, reason });
        let intended = reason.is_intended();
        self.publish(Event::Exit { worker, exit, reason, intended, stderr: ended.stderr });
    }

    /// Tells the followers of the control socket and, at the end of the turn, the host.
    pub(super) fn publish(&mut self, event: Event) {
        self.control.publish(&event, &self.lifecycle, Time::from_millis(self.now));
        if self.report.wants_events {
            self.report.add(News::Event(event));
        }
    }

    pub(super) fn report_setup(&mut self) {
        if !std::mem::replace(&mut self.report.is_set_up, true) {
            let setup = self.setup_event();
            self.publish(setup);
        }
    }

    /// The state of the server, as a stream of events begins with it.
    pub(super) fn setup_event(&self) -> Event {
        Event::Setup {
            name: self.name.clone(),
            generation: self.lifecycle.generation(),
            workers: self.lifecycle.slots().len(),
            addresses: self.addresses(),
        }
    }

    pub(super) fn report_online(&mut self, id: u32) {
        if let Some(worker) = self.worker_info(id) {
            self.publish(Event::Online { worker });
        }
    }

    /// Messages are many: the worker is looked up only if somebody wants to know of them.
    pub(super) fn report_message(&mut self, id: u32, kind: u32, size: usize) {
        if !self.report.wants_events && !self.control.has_followers() {
            return;
        }
        if let Some(worker) = self.worker_info(id) {
            self.publish(Event::Message { worker, kind, size });
        }
    }

    fn report_listening(&mut self, worker: WorkerInfo) {
        let addresses: Vec<Bound> = self.listeners.iter().map(super::listener::Listener::bound).collect();
        for address in addresses {
            self.publish(Event::Listening { worker, address });
        }
    }

    fn report_started(&mut self) {
        if self.lifecycle.is_booting() || std::mem::replace(&mut self.report.is_started, true) {
            return;
        }
        let started =
            Started { addresses: self.addresses(), workers: self.lifecycle.slots().len(), kind: self.kind };
        self.open_doors();
        self.report.add(News::Started(started));
    }

    fn worker_info(&mut self, id: u32) -> Option<WorkerInfo> {
        self.crew.find(id).map(|w| WorkerInfo {
            id,
            slot: w.slot as u32,
            generation: w.generation,
            pid: w.process.pid(),
        })
    }
}

/// Writes one line about an event that the operator should know of.
fn log_event(event: &Event) {
    match event {
        Event::Hang { worker } => {
            log!("worker {} hangs in its handler; what waited for it goes to others", worker.id);
        }
        Event::Reload { state, generation, failure } => {
            let what = match state {
                ReloadState::Started => "begins",
                ReloadState::Committed => "is complete",
                ReloadState::RolledBack => "is rolled back",
            };
            let why = failure.as_ref().map_or_else(String::new, |f| format!(" {f}"));
            log!("reload to generation {generation} {what}{why}");
        }
        Event::Error { text } => log!("{text}"),
        _ => {}
    }
}

fn log_exit(worker: &WorkerInfo, ended: &Ended, reason: Reason, restart: Option<u64>) {
    let WorkerInfo { id, slot, pid, .. } = worker;
    let Ended { exit, queued, lost, was_ready, .. } = ended;
    let why = ended.failure.clone().unwrap_or_else(|| exit.to_string());
    match reason {
        Reason::Crash | Reason::BootFailure | Reason::Hang | Reason::Killed => {
            let when = if *was_ready { "" } else { " before it was ready" };
            let next = match restart {
                Some(0) => "its successor starts at once".to_owned(),
                Some(ms) => format!("its successor starts in {ms} ms"),
                None => "no successor is due".to_owned(),
            };
            log!(
                "worker {id} (slot {slot}, pid {pid}) died{when}: {why}; {lost} connections in progress lost, {queued} kept; \
                 {next}"
            );
        }
        Reason::DrainTimeout => log!(
            "worker {id} (slot {slot}, pid {pid}) had not finished within the drain-timeout and was killed; {lost} connections \
             lost"
        ),
        // At a stop the connections that it had not taken are lost too; without any, its death costs nothing.
        _ if *exit != Exit::Code(0) && *was_ready && (reason != Reason::Stop || lost + queued > 0) => log!(
            "worker {id} (slot {slot}, pid {pid}) died while draining: {why}; {} connections lost",
            lost + queued
        ),
        _ => {}
    }
}
