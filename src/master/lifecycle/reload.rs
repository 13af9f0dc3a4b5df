//! A reload: a canary, then the others, then commit; or back to the generation before.

use super::{
    Action, Back, Event, Lifecycle, NEVER, Phase, Reason, Reload, ReloadFailure, ReloadStage, ReloadState,
    Slot, Worker,
};

/// How long a verdict waits at the most for the exit status of the worker it is about, once that was sent SIGKILL (milliseconds).
pub(super) const VERDICT_WAITS: u64 = 1000;

impl Lifecycle {
    /// Whether this generation is the new one of a reload that may still fail.
    pub(super) fn is_on_trial(&self, generation: u32) -> bool {
        self.reload.as_ref().is_some_and(|r| r.generation == generation && r.back.is_none())
    }

    /// A reload begins when no other is under way and no generation before this one has workers left.
    pub(super) fn begin_reload(&mut self, out: &mut Vec<Action>) {
        if !self.reload_wanted || self.keeps_a_reload_waiting() {
            return;
        }
        self.reload_wanted = false;
        self.last_generation += 1;
        let generation = self.last_generation;
        self.reload = Some(Reload { generation, stage: ReloadStage::Preparing, back: None });
        out.push(tell(ReloadState::Started, generation, None));
        out.push(Action::Prepare(generation));
    }

    /// Whether a reload that is asked for now cannot begin at once.
    pub fn keeps_a_reload_waiting(&self) -> bool {
        let busy = self.booting || self.reload.is_some() || self.recycling.is_some();
        busy || self.workers.iter().any(|w| w.generation != self.generation)
    }

    /// The handler's file was read, or could not be.
    pub(super) fn prepared(&mut self, result: Result<(), String>, out: &mut Vec<Action>) {
        let Some(reload) = self.reload.as_mut().filter(|r| r.stage == ReloadStage::Preparing) else { return };
        match result {
            Ok(()) => reload.stage = ReloadStage::Canary,
            Err(why) => self.end_reload(&why, out),
        }
    }

    /// Ends a reload that will not be: for the reason it failed for before, or else for this one.
    pub(super) fn end_reload(&mut self, why: &str, out: &mut Vec<Action>) {
        if let Some(Reload { generation, stage, back }) = self.reload.take() {
            let other = || ReloadFailure {
                stage,
                reason: why.to_owned(),
                worker: None,
                exit: None,
                stderr: Vec::new(),
            };
            let failure = back.map_or_else(other, |back| back.failure);
            out.push(Action::Revert);
            out.push(tell(ReloadState::RolledBack, generation, Some(failure)));
        }
    }

    /// A new worker has failed: what is new goes, and the old generation fills what it leaves.
    pub(super) fn roll_back(&mut self, worker: u32, slot: usize, why: &str, out: &mut Vec<Action>) {
        let since = self.now;
        let Some(reload) = &mut self.reload else { return };
        let failure = ReloadFailure {
            stage: reload.stage,
            reason: format!("worker {worker} (slot {slot}): {why}"),
            worker: Some(worker),
            exit: None,
            stderr: Vec::new(),
        };
        reload.back = Some(Back { failure, since });
        let new = reload.generation;
        for i in 0..self.slots.len() {
            let fails = |id: &u32| {
                self.workers.iter().any(|w| w.id == *id && w.generation == new && w.phase != Phase::Ready)
            };
            let successor = self.slots[i].successor.filter(&fails);
            let current = self.slots[i].current.filter(&fails);
            if let Some(id) = successor {
                self.slots[i].successor = None;
                self.kill(id, Reason::Reload, out);
            }
            if let Some(id) = current {
                self.slots[i].current = None;
                self.slots[i].start_at = self.now;
                self.kill(id, Reason::Reload, out);
            }
        }
    }

    /// When a reload that is being rolled back may be told of: how the worker that failed has ended is a part of that, and where
    /// it was just killed it is about to be known.
    pub(super) fn verdict_due(&self) -> u64 {
        let Some(Back { failure, since }) = self.reload.as_ref().and_then(|r| r.back.as_ref()) else {
            return NEVER;
        };
        let dying = |w: &Worker| Some(w.id) == failure.worker && w.phase == Phase::Killed;
        if self.workers.iter().any(dying) { since + VERDICT_WAITS } else { self.now }
    }

    /// Carries a reload on: new workers beside the old ones, a few at a time; or, rolling back, the other way round.
    pub(super) fn roll(&mut self, out: &mut Vec<Action>) {
        let Some(&Reload { generation: new, stage, ref back }) = self.reload.as_ref() else { return };
        let goes_back = back.is_some();
        let (to, at_once) = match stage {
            _ if goes_back => (self.generation, self.rules.surge.max(1)),
            ReloadStage::Preparing => return,
            ReloadStage::Canary => (new, 1),
            ReloadStage::Rolling => (new, self.rules.surge.max(1)),
        };
        // One that was killed for not being ready still counts: it is about to end the reload.
        let starts = |w: &&Worker| w.generation == to && w.phase == Phase::Starting;
        let given_up = |w: &&Worker| w.generation == to && w.leaving == Some(Reason::BootFailure);
        let mut starting = self.workers.iter().filter(|w| starts(w) || given_up(w)).count();
        let mut left = false;
        for i in 0..self.slots.len() {
            let Slot { current, successor, .. } = self.slots[i];
            let current = self.workers.iter().find(|w| Some(w.id) == current);
            let done = match current {
                Some(w) if goes_back => w.generation == to,
                Some(w) => w.generation == to && w.phase == Phase::Ready,
                // Rolling back, an empty slot is filled with the old generation in its own time.
                None => goes_back,
            };
            left |= !done || successor.is_some();
            let moves = current.is_none_or(|w| w.generation != to);
            if !done && moves && successor.is_none() && starting < at_once {
                starting += 1;
                let occupied = current.is_some();
                let id = self.spawn(i, to, out);
                let slot = &mut self.slots[i];
                *(if occupied { &mut slot.successor } else { &mut slot.current }) = Some(id);
            }
        }
        if left {
            return;
        }
        if goes_back {
            if self.verdict_due() <= self.now {
                self.end_reload("", out);
            }
            return;
        }
        self.reload = None;
        self.generation = new;
        out.push(Action::Commit);
        out.push(tell(ReloadState::Committed, new, None));
    }
}

fn tell(state: ReloadState, generation: u32, failure: Option<ReloadFailure>) -> Action {
    Action::Tell(Event::Reload { state, generation, failure })
}
