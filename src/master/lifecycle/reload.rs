//! A reload: a canary, then the others, then commit; or back to the generation before.

use super::{
    Action, Event, Lifecycle, Phase, Reason, Reload, ReloadFailure, ReloadStage, ReloadState, Worker,
};
use crate::ids::{Generation, Slot, WorkerId};
use crate::sys::time::Time;
use std::time::Duration;

/// The longest wait of a verdict for the exit status of the worker it is about, once that was sent SIGKILL.
pub(super) const VERDICT_WAITS: Duration = Duration::from_secs(1);

impl Lifecycle {
    /// True if this generation is the new one of a reload that may still fail.
    pub(super) fn is_on_trial(&self, generation: Generation) -> bool {
        self.reload.as_ref().is_some_and(|r| r.generation == generation && r.failure.is_none())
    }

    /// Why the reload is being rolled back, if it is.
    pub(super) fn failure_mut(&mut self) -> Option<&mut ReloadFailure> {
        self.reload.as_mut()?.failure.as_mut()
    }

    /// Begins a reload that is wanted, if no other is under way. Workers of former generations may still drain: a bad deployment can be
    /// put back however long they take.
    pub(super) fn begin_reload(&mut self, out: &mut Vec<Action>) {
        if !self.reload_wanted || self.must_reload_wait() {
            return;
        }
        self.reload_wanted = false;
        self.last_generation = self.last_generation.next();
        let generation = self.last_generation;
        let stage = ReloadStage::Preparing;
        self.reload = Some(Reload { generation, stage, failure: None, failed_at: Time::NEVER });
        out.push(tell(ReloadState::Started, generation, None));
        out.push(Action::Prepare(generation));
    }

    /// True if a reload cannot begin now.
    pub fn must_reload_wait(&self) -> bool {
        self.booting || self.reload.is_some() || self.recycling.is_some()
    }

    /// True if this generation's reload waits for its handler.
    pub fn is_preparing(&self, generation: Generation) -> bool {
        self.reload.as_ref().is_some_and(|r| r.generation == generation && r.stage == ReloadStage::Preparing)
    }

    /// The handler's file was read, or could not be, or the host has refused the reload.
    pub(super) fn prepared(&mut self, result: Result<(), String>, out: &mut Vec<Action>) {
        let Some(reload) = self.reload.as_mut().filter(|r| r.stage == ReloadStage::Preparing) else { return };
        match result {
            Ok(()) => reload.stage = ReloadStage::Canary,
            Err(why) => self.end_reload(&why, out),
        }
    }

    /// Ends a reload without commit: because of its failure, or else for this reason.
    pub(super) fn end_reload(&mut self, why: &str, out: &mut Vec<Action>) {
        if let Some(Reload { generation, stage, failure, .. }) = self.reload.take() {
            let failure = failure.unwrap_or_else(|| failed(stage, why.to_owned(), None));
            out.push(Action::Revert);
            out.push(tell(ReloadState::RolledBack, generation, Some(failure)));
        }
    }

    /// A new worker has failed: ends new workers that are not ready, and the old generation fills their places.
    pub(super) fn roll_back(&mut self, worker: WorkerId, slot: Slot, why: &str, out: &mut Vec<Action>) {
        let Some(reload) = &mut self.reload else { return };
        let reason = format!("worker {worker} (slot {slot}): {why}");
        reload.failure = Some(failed(reload.stage, reason, Some(worker.0)));
        reload.failed_at = self.now;
        let new = reload.generation;
        for i in 0..self.places.len() {
            let fails = |id: &WorkerId| {
                self.find(*id).is_some_and(|w| w.generation == new && w.phase != Phase::Ready)
            };
            let place = &self.places[i];
            let (successor, current) = (place.successor.filter(fails), place.current.filter(fails));
            let place = &mut self.places[i];
            if successor.is_some() {
                place.successor = None;
            }
            if current.is_some() {
                (place.current, place.start_at) = (None, self.now);
            }
            for id in [successor, current].into_iter().flatten() {
                self.kill(id, Reason::Reload, out);
            }
        }
    }

    /// When the failure of a reload may be reported. The exit status of the worker that failed is a part of it, and is about to be
    /// known if that worker was just killed.
    pub(super) fn verdict_due(&self) -> Time {
        let Some(Reload { failure: Some(failure), failed_at, .. }) = &self.reload else { return Time::NEVER };
        let dying = |w: &Worker| Some(w.id.0) == failure.worker && w.phase == Phase::Killed;
        if self.workers.iter().any(dying) { *failed_at + VERDICT_WAITS } else { self.now }
    }

    /// Advances a reload: starts new workers next to the old ones, a few at a time; or, rolling back, the other way round.
    pub(super) fn roll(&mut self, out: &mut Vec<Action>) {
        let Some(&Reload { generation: new, stage, ref failure, .. }) = self.reload.as_ref() else { return };
        let goes_back = failure.is_some();
        let to = if goes_back { self.generation } else { new };
        let at_once = match stage {
            ReloadStage::Canary if !goes_back => 1,
            ReloadStage::Trial | ReloadStage::Preparing => return,
            ReloadStage::Canary | ReloadStage::Rolling => self.rules.surge.max(1),
        };
        // One that was killed because it was not ready in time still counts: it is about to end the reload.
        let starts = |w: &&Worker| {
            w.generation == to && (w.phase == Phase::Starting || w.leaving == Some(Reason::BootFailure))
        };
        let mut starting = self.workers.iter().filter(starts).count();
        let mut is_over = true;
        for i in 0..self.places.len() {
            let place = &self.places[i];
            let current = place.current.and_then(|id| self.find(id));
            let is_old = current.is_some_and(|w| w.generation != to);
            let done = match current {
                Some(w) => !is_old && (goes_back || w.phase == Phase::Ready),
                // Rolling back, an empty slot is filled with the old generation in its own time.
                None => goes_back,
            };
            is_over &= done && place.successor.is_none();
            if !done && (is_old || current.is_none()) && place.successor.is_none() && starting < at_once {
                if !self.has_room(at_once - starting, out) {
                    return;
                }
                starting += 1;
                let id = Some(self.spawn(Slot::at(i), to, out));
                let place = &mut self.places[i];
                if is_old { place.successor = id } else { place.current = id }
            }
        }
        if !is_over {
            return;
        }
        if !goes_back {
            self.reload = None;
            self.generation = new;
            out.push(Action::Commit);
            out.push(tell(ReloadState::Committed, new, None));
        } else if self.verdict_due() <= self.now {
            self.end_reload("", out);
        }
    }
}

fn failed(stage: ReloadStage, reason: String, worker: Option<u32>) -> ReloadFailure {
    ReloadFailure { stage, reason, worker, exit: None, stderr: Vec::new() }
}

fn tell(state: ReloadState, generation: Generation, failure: Option<ReloadFailure>) -> Action {
    Action::Tell(Event::Reload { state, generation: generation.0, failure, code: None, connections: None })
}
