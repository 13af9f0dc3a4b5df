//! Why a reload failed, put together from what is told while it goes on.

use crate::control::protocol::{Exit, Outcome, Stage, Verdict};
use crate::server::Event;

/// What is known of the reload under way.
#[derive(Debug, Default)]
pub struct Witness {
    generation: u32,
    stage: Option<Stage>,
    failed: Option<(u32, Exit)>,
}

impl Witness {
    /// Takes note of an event; returns the verdict where it ends a reload.
    pub fn hear(&mut self, event: &Event) -> Option<Verdict> {
        match event {
            Event::ReloadStarted(generation) => {
                *self = Self { generation: *generation, stage: Some(Stage::Preparing), failed: None };
            }
            Event::Fork(w) if w.generation == self.generation => self.reached(Stage::Canary),
            Event::Ready(w) if w.generation == self.generation => self.reached(Stage::Rolling),
            Event::Exit { worker, exit, reason }
                if worker.generation == self.generation && !reason.is_intended() && self.failed.is_none() =>
            {
                self.failed = Some((worker.id, (*exit).into()));
            }
            Event::ReloadCommitted(generation) => {
                *self = Self::default();
                return Some(Verdict {
                    outcome: Outcome::Committed,
                    generation: *generation,
                    stage: None,
                    reason: None,
                    worker: None,
                    exit: None,
                });
            }
            Event::ReloadRolledBack(generation, why) => {
                let Self { stage, failed, .. } = std::mem::take(self);
                let (worker, exit) = failed.unzip();
                return Some(Verdict {
                    outcome: Outcome::RolledBack,
                    generation: *generation,
                    stage,
                    reason: Some(why.clone()),
                    worker,
                    exit,
                });
            }
            _ => {}
        }
        None
    }

    /// Stages are not gone back to, and once a worker has failed the reload has come as far as it gets.
    fn reached(&mut self, stage: Stage) {
        if self.failed.is_none() && self.stage < Some(stage) {
            self.stage = Some(stage);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::{Exit as Ended, Reason, WorkerInfo};

    fn worker(id: u32, generation: u32) -> WorkerInfo {
        WorkerInfo { id, slot: 0, generation, pid: 1 }
    }

    fn died(id: u32, generation: u32, reason: Reason) -> Event {
        Event::Exit { worker: worker(id, generation), exit: Ended::Code(1), reason }
    }

    #[track_caller]
    fn verdict(events: &[Event]) -> Verdict {
        let mut witness = Witness::default();
        let (last, before) = events.split_last().unwrap();
        for event in before {
            assert_eq!(witness.hear(event), None);
        }
        witness.hear(last).unwrap()
    }

    #[test]
    fn the_stage_is_how_far_it_came_before_the_first_failure() {
        let back = || Event::ReloadRolledBack(2, "why".into());
        let v = verdict(&[Event::ReloadStarted(2), back()]);
        assert_eq!((v.stage, v.worker), (Some(Stage::Preparing), None));

        let canary = [Event::ReloadStarted(2), Event::Fork(worker(3, 2))];
        let v = verdict(&[&canary[..], &[died(3, 2, Reason::BootFailure), back()]].concat());
        assert_eq!((v.outcome, v.stage, v.worker), (Outcome::RolledBack, Some(Stage::Canary), Some(3)));
        assert_eq!((v.reason.as_deref(), v.exit.unwrap().code), (Some("why"), Some(1)));

        let rolling = [Event::Ready(worker(3, 2)), Event::Fork(worker(4, 2))];
        let after = [died(4, 2, Reason::BootFailure), died(3, 2, Reason::Crash), back()];
        let v = verdict(&[&canary[..], &rolling, &after].concat());
        assert_eq!((v.stage, v.worker), (Some(Stage::Rolling), Some(4)));
    }

    #[test]
    fn what_happens_to_the_old_generation_is_no_failure_of_the_new_one() {
        let v = verdict(&[
            Event::ReloadStarted(2),
            died(1, 1, Reason::Crash),
            Event::Fork(worker(3, 1)),
            Event::Ready(worker(3, 1)),
            Event::ReloadRolledBack(2, "cannot open".into()),
        ]);
        assert_eq!((v.stage, v.worker), (Some(Stage::Preparing), None));
    }

    #[test]
    fn a_commit_needs_no_reason_and_leaves_nothing_for_the_next_reload() {
        let mut witness = Witness::default();
        witness.hear(&Event::ReloadStarted(2));
        witness.hear(&died(3, 2, Reason::Crash));
        let v = witness.hear(&Event::ReloadCommitted(2)).unwrap();
        assert_eq!((v.outcome, v.stage, v.exit), (Outcome::Committed, None, None));
        witness.hear(&Event::ReloadStarted(3));
        let v = witness.hear(&Event::ReloadRolledBack(3, "x".into())).unwrap();
        assert_eq!((v.stage, v.exit), (Some(Stage::Preparing), None));
    }
}
