//! Reports events: to the log, to the host's callback, and to followers of the control socket.

use super::departures::Departures;
use super::kernel::Kernel;
use super::lifecycle::Ended;
use super::pool::WorkerEntry;
use super::sockets::Listener;
use super::{Master, News};
use crate::event::{Bound, Crash, Event, Exit, Kind, LastExit, Reason, ReloadState, Started, WorkerInfo};
use crate::ids::{Generation, Slot, WorkerId};
use crate::log::{counted, log};
use crate::message::MessageKind;
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

/// The news for the host, and what was reported before.
#[derive(Default)]
pub struct Report {
    /// News for the host, until the turn is over: its callbacks may call the server.
    pub news: VecDeque<News>,
    /// A reload that begins when the host has been told of it.
    pub announced: Option<Announced>,
    /// True if the host has a callback for events.
    pub wants_events: bool,
    /// By slot.
    pub last_exits: BTreeMap<Slot, LastExit>,
    /// What workers were doing that have died, until their ends are reported.
    pub crashes: BTreeMap<WorkerId, Crash>,
    /// How the handler takes connections, as the last worker that became ready has said.
    pub kind: Kind,
    /// Its styles, by listener.
    pub kinds: Vec<Kind>,
    /// True once [`Event::Setup`] was published.
    pub is_set_up: bool,
    /// True once the host was told that all workers are ready.
    pub is_started: bool,
    /// What becomes of the connections of workers that leave.
    pub departures: Departures,
}

/// A reload of which nothing was done yet.
pub struct Announced {
    /// The new generation.
    pub generation: Generation,
    /// Why the host refuses it.
    pub refusal: Option<String>,
}

impl WorkerEntry<Kernel> {
    /// The public identity of the worker.
    pub fn info(&self) -> WorkerInfo {
        let pid = self.link.process.pid();
        WorkerInfo { id: self.id.0, slot: self.slot.0, generation: self.generation.0, pid }
    }
}

impl Master {
    /// Reports an event of the lifecycle, which does not know process ids and standard error.
    pub(super) fn report(&mut self, mut event: Event) {
        if let Some(worker) = event.worker_mut() {
            let Some(entry) = self.pool.workers.get(WorkerId(worker.id)) else { return };
            *worker = entry.info();
        }
        if let Event::Reload { failure: Some(failure), .. } = &mut event
            && let (Some(id), None) = (failure.worker, failure.exit)
        {
            failure.stderr = self.stderr.last_lines(WorkerId(id));
        }
        if let Event::Reload { state: ReloadState::Committed | ReloadState::RolledBack, code, .. } =
            &mut event
        {
            let read = if self.source.is_module() { self.source.last_read() } else { self.upgrade.program() };
            *code = read.map(Box::new);
        }
        match &event {
            Event::Reload { state: ReloadState::Committed | ReloadState::RolledBack, .. } => {
                return self.publish_verdict(event);
            }
            // A verdict comes before whatever follows it, and waits for workers that end and for nothing else.
            _ => self.tell_verdict(),
        }
        if let Event::Reload { .. } = &event {
            self.begin_departures();
        }
        self.tell(event);
    }

    /// Logs an event, if an operator should know of it, and publishes it.
    pub(super) fn tell(&mut self, event: Event) {
        log_event(&event, self.source.is_module());
        let ready = if let Event::Ready { worker } = event { Some(worker) } else { None };
        self.publish(event);
        if let Some(worker) = ready {
            let addresses: Vec<Bound> = self.pool.listeners.iter().map(Listener::bound).collect();
            for address in addresses {
                self.publish(Event::Listening { worker, address });
            }
            self.report_started();
        }
    }

    /// Reports the end of a worker.
    pub(super) fn report_exit(
        &mut self,
        worker: WorkerInfo,
        ended: Ended,
        reason: Reason,
        restart: Option<Duration>,
    ) {
        // A program that has no handler for it ends by the signal that asked it to.
        let as_asked = reason.is_intended() && self.is_stop_signal(ended.exit);
        if !as_asked {
            log_exit(&worker, &ended, reason, restart);
        }
        let crash = self.report.crashes.remove(&ended.id);
        if let Some(crash) = &crash {
            log_crash(ended.id, crash);
        }
        let crash = crash.map(Box::new);
        let departed = self.departed(&ended, reason);
        if let Some(departed) = departed {
            self.add_departed(Generation(worker.generation), departed);
        }
        let (exit, intended, stderr) = (ended.exit, reason.is_intended(), ended.stderr);
        self.report
            .last_exits
            .insert(Slot(worker.slot), LastExit { worker, exit, reason, crash: crash.clone() });
        let connections = departed.map(Box::new);
        self.publish_exit(Event::Exit { worker, exit, reason, intended, stderr, connections, crash });
        self.tell_gone();
    }

    /// Logs what the first worker was doing that has died and with which the start has failed: the ends of these are not reported.
    pub(super) fn log_crashes(&mut self) {
        let crashes = std::mem::take(&mut self.report.crashes);
        if let (None, Some((id, crash))) = (&self.failed, crashes.iter().next()) {
            log_crash(*id, crash);
        }
    }

    /// Sends an event to followers of the control socket and, at the end of the turn, to the host.
    pub(super) fn publish(&mut self, event: Event) {
        self.control.publish(&event, &self.lifecycle, self.clock.now);
        if self.report.wants_events {
            self.report.news.push_back(News::Event(event));
        }
    }

    pub(super) fn report_setup(&mut self) {
        if !std::mem::replace(&mut self.report.is_set_up, true) {
            self.publish(self.setup_event());
        }
    }

    /// The event with which every stream of events begins.
    pub(super) fn setup_event(&self) -> Event {
        Event::Setup {
            name: self.name.clone(),
            generation: self.lifecycle.generation().0,
            workers: self.lifecycle.slots(),
            addresses: self.addresses(),
        }
    }

    pub(super) fn report_online(&mut self, id: WorkerId) {
        if let Some(worker) = self.pool.workers.get(id).map(WorkerEntry::info) {
            self.publish(Event::Online { worker });
        }
    }

    pub(super) fn report_message(&mut self, id: WorkerId, kind: u32, size: usize) {
        // There are many messages: the worker is looked up only if the event has a reader.
        if (self.report.wants_events || self.control.has_followers())
            && let Some(worker) = self.pool.workers.get(id).map(WorkerEntry::info)
        {
            self.publish(Event::Message { worker, kind: MessageKind(kind), size });
        }
    }

    fn report_started(&mut self) {
        if self.lifecycle.is_booting() || std::mem::replace(&mut self.report.is_started, true) {
            return;
        }
        // The last one that became ready is not admitted yet, and follows.
        self.pool.workers.iter().filter(|w| w.admitted).for_each(|w| self.allow_intake(w.id));
        let started = Started {
            addresses: self.addresses(),
            workers: self.lifecycle.slots(),
            kind: self.report.kind,
            kinds: self.report.kinds.clone(),
        };
        self.report.news.push_back(News::Started(started));
    }
}

/// Logs an event if an operator should know of it.
fn log_event(event: &Event, is_module: bool) {
    match event {
        Event::Hang { worker } => {
            log!(Warn, "worker {} hangs in its handler; its queued connections go to others", worker.id);
        }
        Event::Reload { state, generation, failure, code, connections } => {
            let what = match state {
                ReloadState::Started => "begins",
                ReloadState::Committed => "is complete",
                ReloadState::RolledBack => "is rolled back",
            };
            let why = failure.as_ref().map_or_else(String::new, |f| format!(" {f}"));
            let code = match code {
                Some(code) if is_module && *state == ReloadState::Committed => {
                    format!(", from {}", code.path)
                }
                Some(code) if code.changed && !is_module => {
                    format!("; {} has changed since it was started; `prefork upgrade` takes it", code.path)
                }
                _ => String::new(),
            };
            let connections = match connections.as_ref().map(ToString::to_string) {
                Some(text) if !text.is_empty() => format!(": {text}"),
                _ => String::new(),
            };
            let text = format_args!("reload to generation {generation} {what}{why}{code}{connections}");
            match state {
                ReloadState::RolledBack => log!(Error, "{text}"),
                ReloadState::Started | ReloadState::Committed => log!(Info, "{text}"),
            }
        }
        Event::Error { text } => log!(Error, "{text}"),
        Event::Fork { worker: WorkerInfo { id, slot, generation, pid } } => {
            log!(Debug, "worker {id} (slot {slot}, pid {pid}) is forked, of generation {generation}");
        }
        Event::Ready { worker } => log!(Debug, "worker {} is ready", worker.id),
        Event::Disconnect { worker } => log!(Debug, "worker {} drains", worker.id),
        _ => {}
    }
}

fn log_exit(worker: &WorkerInfo, ended: &Ended, reason: Reason, restart: Option<Duration>) {
    let WorkerInfo { id, slot, pid, .. } = worker;
    let Ended { exit, queued, lost, was_ready, cut, .. } = ended;
    let why = ended.failure.clone().unwrap_or_else(|| exit.to_string());
    match reason {
        Reason::Crash | Reason::BootFailure | Reason::Hang | Reason::Killed => {
            let when = if *was_ready { "" } else { " before it was ready" };
            let next = match restart {
                Some(Duration::ZERO) => "its successor starts at once".to_owned(),
                Some(delay) => format!("its successor starts in {} ms", delay.as_millis()),
                None => "no successor is due".to_owned(),
            };
            let lost = counted(*lost, "connection");
            let text = format_args!(
                "worker {id} (slot {slot}, pid {pid}) died{when}: {why}; {lost} in progress lost, {queued} kept; {next}"
            );
            match reason {
                // Somebody has asked for it.
                Reason::Killed => log!(Warn, "{text}"),
                _ => log!(Error, "{text}"),
            }
        }
        Reason::DrainTimeout => log!(
            Warn,
            "worker {id} (slot {slot}, pid {pid}) had not ended at its deadline and was killed; {} lost",
            counted(*lost, "connection")
        ),
        _ if *exit == Exit::Code(0) && *cut > 0 => log!(
            Warn,
            "worker {id} (slot {slot}, pid {pid}) has ended at its deadline, and {} with it",
            counted(*cut, "connection")
        ),
        // At a stop the connections that it had not taken are lost too; without any, its death costs nothing.
        _ if *exit != Exit::Code(0) && *was_ready && (reason != Reason::Stop || lost + queued > 0) => log!(
            Error,
            "worker {id} (slot {slot}, pid {pid}) died while draining: {why}; {} lost",
            counted(lost + queued, "connection")
        ),
        _ => log!(Debug, "worker {id} (slot {slot}, pid {pid}) has ended: {why} ({reason})"),
    }
}

/// Logs what a worker that has died was doing, in lines that can be read one by one.
fn log_crash(id: WorkerId, crash: &Crash) {
    log!(Error, "worker {id} was {crash}");
    for (i, frame) in crash.backtrace.iter().enumerate() {
        log!(Error, "worker {id}: #{i} {frame}");
    }
}
