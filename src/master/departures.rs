//! What becomes of the connections of workers that leave: the verdict of a reload waits until the old workers have handed back what
//! they can, and the last worker of a generation is told.

use super::Master;
use super::kernel::Kernel;
use super::lifecycle::Ended;
use super::pool::WorkerEntry;
use crate::event::{Connections, Departed, Event, Exit, Kind, Reason};
use crate::ids::{Generation, WorkerId};
use crate::log::log;
use crate::scoreboard::Word;
use crate::sys::time::Time;
use std::collections::BTreeMap;
use std::time::Duration;

/// The longest time that a verdict waits for workers to hand back what they can: a turn of each, unless its handler takes long, or its
/// connections are tens of thousands.
const VERDICT_WAITS: Duration = Duration::from_secs(2);
/// The interval at which such a verdict looks again.
const LOOK: Duration = Duration::from_millis(20);
/// A call of a handler that takes this long is not waited for.
const LONG_CALL: Duration = Duration::from_millis(100);

/// The workers that leave.
#[derive(Default)]
pub struct Departures {
    /// By worker that was reaped, until its end is reported.
    reaped: BTreeMap<WorkerId, Departed>,
    /// By generation: the sums of those that have ended, since its reload began.
    sums: BTreeMap<Generation, Departed>,
    /// The generation that serves when a reload begins, and when that was.
    before: Option<(Generation, Time)>,
    /// The verdict of a reload, which waits since then, and what follows it.
    waiting: Option<(Event, Time)>,
    follow: Vec<Event>,
}

impl Departures {
    /// Notes what has become of the connections of a worker that was reaped.
    pub fn note(&mut self, id: WorkerId, departed: Departed) {
        self.reaped.insert(id, departed);
    }

    /// The time at which a verdict looks again.
    pub fn due(&self, now: Time) -> Time {
        self.waiting.as_ref().map_or(Time::NEVER, |(_, since)| (*since + VERDICT_WAITS).min(now + LOOK))
    }
}

impl Master {
    /// Notes that a reload begins.
    pub(super) fn begin_departures(&mut self) {
        let serving = self.lifecycle.generation();
        // What its workers have done before is not the reload's.
        self.report.departures.sums.remove(&serving);
        self.report.departures.before = Some((serving, self.clock.now));
    }

    /// Publishes the verdict of a reload as soon as the workers that it replaced have handed back what they can.
    pub(super) fn publish_verdict(&mut self, verdict: Event) {
        self.tell_verdict();
        self.report.departures.waiting = Some((verdict, self.clock.now));
        self.look_at_verdict();
    }

    /// Tells a verdict that has waited long enough.
    pub(super) fn look_at_verdict(&mut self) {
        let Some((_, since)) = &self.report.departures.waiting else { return };
        let is_over = self.clock.now >= *since + VERDICT_WAITS;
        if is_over || self.leaving().all(|w| w.drain.is_none_or(|drain| drain.settled) || self.is_occupied(w))
        {
            self.tell_verdict();
        }
    }

    /// Publishes the end of a worker, which follows a verdict that waits if the worker was wanted to end.
    pub(super) fn publish_exit(&mut self, exit: Event) {
        if self.report.departures.waiting.is_some() && matches!(exit, Event::Exit { intended: true, .. }) {
            return self.report.departures.follow.push(exit);
        }
        self.tell_verdict();
        self.publish(exit);
    }

    /// Tells a verdict that waits, and what follows it.
    pub(super) fn tell_verdict(&mut self) {
        let departures = &mut self.report.departures;
        let Some((mut verdict, _)) = departures.waiting.take() else { return };
        let follow = std::mem::take(&mut departures.follow);
        if let Event::Reload { connections, .. } = &mut verdict {
            *connections = Some(Box::new(self.connections()));
        }
        self.tell(verdict);
        follow.into_iter().for_each(|event| self.publish(event));
        self.tell_gone();
    }

    /// Returns what has become of the connections of a worker that has ended, for its event.
    pub(super) fn departed(&mut self, ended: &Ended, reason: Reason) -> Option<Departed> {
        let mut departed = self.report.departures.reaped.remove(&ended.id)?;
        // One that ends by itself and has connections was told to.
        let is_cut = reason == Reason::DrainTimeout || reason.is_intended() && ended.exit == Exit::Code(0);
        let rest = if is_cut { &mut departed.cut } else { &mut departed.lost };
        *rest = rest.saturating_add(ended.lost);
        Some(departed)
    }

    /// Adds what has become of a worker's connections to the sum of its generation.
    pub(super) fn add_departed(&mut self, generation: Generation, departed: Departed) {
        self.report.departures.sums.entry(generation).or_default().add(departed);
    }

    /// Tells generations that were replaced and of which no worker is left.
    pub(super) fn tell_gone(&mut self) {
        if self.report.departures.waiting.is_some() {
            return;
        }
        let life = &self.lifecycle;
        let is_gone = |generation: &Generation| {
            let is_old = *generation != life.generation() && *generation != life.destination();
            is_old && life.workers().iter().all(|w| w.generation != *generation)
        };
        let gone: Vec<_> = self.report.departures.sums.keys().copied().filter(is_gone).collect();
        for generation in gone {
            let Some(connections) = self.report.departures.sums.remove(&generation) else { continue };
            if connections.ended > 0 || connections.cut > 0 || connections.lost > 0 {
                log!(Info, "generation {generation} has gone: {connections}");
            }
            self.publish(Event::Gone { generation: generation.0, connections });
        }
        self.control.answer_gone(&self.lifecycle, self.clock.now);
    }

    /// The workers of generations that do not serve any more.
    fn leaving(&self) -> impl Iterator<Item = &WorkerEntry<Kernel>> {
        let serving = self.lifecycle.generation();
        self.pool.workers.iter().filter(move |w| w.generation != serving)
    }

    /// True if a worker cannot say soon what stays with it: it is in a long call of its handler.
    fn is_occupied(&self, worker: &WorkerEntry<Kernel>) -> bool {
        let since = worker.link.page.get(Word::BusySince);
        let is_in_call = since > 0 && self.clock.now - Time::from_millis(since) > LONG_CALL;
        is_in_call || worker.kind == Some(Kind::Blocking)
    }

    /// What the reload that has ended has done with connections.
    fn connections(&self) -> Connections {
        let departures = &self.report.departures;
        let (serving, began) = departures.before.unwrap_or_default();
        // Rolled back, it is the new generation that leaves.
        let is_replaced = |generation: Generation| match serving == self.lifecycle.generation() {
            true => generation > serving,
            false => generation == serving,
        };
        let ended = departures.sums.iter().filter(|(generation, _)| is_replaced(**generation));
        let mut sum = Departed::default();
        ended.for_each(|(_, departed)| sum.add(*departed));
        let still = self.leaving().filter(|w| w.drain.is_some_and(|drain| drain.since >= began));
        still.filter_map(WorkerEntry::departed).for_each(|departed| sum.add(departed));
        let mut connections =
            Connections { moved: sum.moved, handed_over: sum.handed_over, ..Connections::default() };
        for worker in self.leaving() {
            let within = self.lifecycle.find(worker.id).and_then(|w| w.finishes_by());
            let (requests, kept_responses, streams) = worker.kinds();
            let within = within.map(|at| at - self.clock.now);
            connections.staying.add(requests, kept_responses, streams, within);
        }
        connections
    }
}
