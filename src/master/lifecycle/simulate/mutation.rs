//! Deliberate faults: each must be caught, or the simulator is worth nothing. They tamper with the machine between its steps, or
//! with what goes in and comes out, so that the rules themselves hold no trace of them.

use super::super::{
    Action, Event, Input, Lifecycle, NEVER, Phase, Reason, Reload, ReloadStage, ReloadState, Rules, Slot,
};
use crate::sys::overdue;
use crate::sys::signal::{SIGABRT, SIGKILL};

/// The faults, by the rule that is broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutation {
    /// A dead worker's successor starts at once, always.
    NoBackoff,
    /// Back-off alone, no budget in a window.
    NoBudget,
    /// A successor takes its slot when it is forked.
    PromotedBeforeReady,
    /// A worker drains while dispatch still gives to it.
    WithdrawForgotten,
    /// A reload begins with as many as it likes.
    TwoCanaries,
    /// A reload is committed when the canary is ready.
    CommittedEarly,
    /// A roll-back leaves one new worker where it is.
    RollbackForgetsSlot,
    /// A worker may start for ever.
    BootDeadlineIgnored,
    /// A worker may drain for ever.
    DrainDeadlineIgnored,
    /// A handler may hang for ever.
    HangIgnored,
    /// SIGABRT is all that is done against one that hangs.
    AbortIsAll,
    /// A handler that hangs is not told.
    WarningForgotten,
    /// It is told, and has no time.
    AbortedAtOnce,
    /// A reload does not wait for the generation before the last.
    ThreeGenerations,
    /// Worn workers are replaced all at once.
    RecycledTogether,
    /// The number of a dead worker is given again.
    IdReused,
    /// A stop leaves those that are still starting.
    StopForgetsStarting,
    /// A master that stood still kills for it.
    LatenessNotForgiven,
    /// A step is due without end.
    DueForEver,
    /// A worker that hung and came back is not let in again.
    NotLetInAgain,
    /// What a dead worker had not taken is dropped.
    QueueOfTheDeadForgotten,
    /// A paused listener stays so.
    NeverResumed,
    /// The workers are not told that the master waits for room.
    WaitingWordForgotten,
    /// A slot that a scale-up made gets no share.
    RebalanceForgotten,
    /// Every new worker gets a share, also one whose slot is not new.
    RebalancedAlways,
    /// What a worker sheds may go back to it.
    ShedToItself,
    /// The master looks at its workers half as often.
    LooksSeldom,
    /// A verdict does not wait for how the worker ended that it is about.
    VerdictTooEarly,
    /// What a worker said last is told of another, or of none.
    WordsForgotten,
    /// A worker of a generation on trial counts as proved.
    ProvedTooEarly,
    /// Whoever was sent a signal, whatever it was, is said to have been killed.
    SignalsAreMeantToEnd,
}

pub const MUTATIONS: [Mutation; 31] = [
    Mutation::NoBackoff,
    Mutation::NoBudget,
    Mutation::PromotedBeforeReady,
    Mutation::WithdrawForgotten,
    Mutation::TwoCanaries,
    Mutation::CommittedEarly,
    Mutation::RollbackForgetsSlot,
    Mutation::BootDeadlineIgnored,
    Mutation::DrainDeadlineIgnored,
    Mutation::HangIgnored,
    Mutation::AbortIsAll,
    Mutation::WarningForgotten,
    Mutation::AbortedAtOnce,
    Mutation::ThreeGenerations,
    Mutation::RecycledTogether,
    Mutation::IdReused,
    Mutation::StopForgetsStarting,
    Mutation::LatenessNotForgiven,
    Mutation::DueForEver,
    Mutation::NotLetInAgain,
    Mutation::QueueOfTheDeadForgotten,
    Mutation::NeverResumed,
    Mutation::WaitingWordForgotten,
    Mutation::RebalanceForgotten,
    Mutation::RebalancedAlways,
    Mutation::ShedToItself,
    Mutation::LooksSeldom,
    Mutation::VerdictTooEarly,
    Mutation::WordsForgotten,
    Mutation::ProvedTooEarly,
    Mutation::SignalsAreMeantToEnd,
];

/// The machine, with a fault or none.
pub struct Machine {
    pub life: Lifecycle,
    mutation: Option<Mutation>,
    now: u64,
    aborted: Vec<u32>,
}

impl Machine {
    pub fn new(rules: Rules, slots: usize, seed: u64, mutation: Option<Mutation>) -> Self {
        let mut rules = rules;
        match mutation {
            Some(Mutation::BootDeadlineIgnored) => rules.boot_timeout = 0,
            Some(Mutation::DrainDeadlineIgnored) => rules.drain_timeout = 0,
            Some(Mutation::HangIgnored) => rules.hang_timeout = 0,
            _ => {}
        }
        Self { life: Lifecycle::new(rules, slots, seed), mutation, now: 0, aborted: Vec::new() }
    }

    pub fn is(&self, mutation: Mutation) -> bool {
        self.mutation == Some(mutation)
    }

    pub fn due(&self) -> u64 {
        if self.is(Mutation::DueForEver) && self.life.has_successor() { self.now } else { self.life.due() }
    }

    pub fn step(&mut self, now: u64, input: Input, out: &mut Vec<Action>) {
        self.now = now;
        let Some(mutation) = self.mutation else { return self.life.step(now, input, out) };
        self.life.tamper_before(mutation, now, &input, out);
        self.life.step(now, input, out);
        self.life.tamper_after(mutation, now, out);
        self.falsify(mutation, out);
    }

    /// As [`Lifecycle::is_proved`].
    pub fn is_proved(&self, id: u32) -> bool {
        let ready = |w: &&super::super::Worker| w.id == id && w.phase == Phase::Ready;
        self.life.is_proved(id)
            || self.is(Mutation::ProvedTooEarly) && self.life.workers().iter().any(|w| ready(&w))
    }

    fn falsify(&mut self, mutation: Mutation, out: &mut Vec<Action>) {
        match mutation {
            Mutation::WithdrawForgotten => {
                let drains: Vec<Action> =
                    out.iter().filter(|a| matches!(a, Action::Drain(_))).cloned().collect();
                out.retain(|a| !matches!(a, Action::Withdraw(id) if drains.contains(&Action::Drain(*id))));
            }
            Mutation::AbortIsAll => {
                let aborts = |a: &Action| {
                    if let Action::Signal(id, s) = a { (*s == SIGABRT).then_some(*id) } else { None }
                };
                self.aborted.extend(out.iter().filter_map(aborts));
                out.retain(|a| !matches!(a, Action::Signal(id, SIGKILL) if self.aborted.contains(id)));
            }
            Mutation::WarningForgotten => {
                out.retain(|a| !matches!(a, Action::Signal(_, overdue::SIGNAL)));
            }
            Mutation::AbortedAtOnce => {
                let hangs = |a: &Action| {
                    if let Action::Tell(Event::Hang { worker }) = a {
                        Some(Action::Signal(worker.id, SIGABRT))
                    } else {
                        None
                    }
                };
                let aborts: Vec<Action> = out.iter().filter_map(hangs).collect();
                out.extend(aborts);
            }
            Mutation::RebalanceForgotten => out.retain(|a| !matches!(a, Action::Rebalance(_))),
            Mutation::RebalancedAlways => {
                let ready = |a: &Action| {
                    if let Action::Tell(Event::Ready { worker }) = a {
                        Some(Action::Rebalance(worker.id))
                    } else {
                        None
                    }
                };
                out.retain(|a| !matches!(a, Action::Rebalance(_)));
                let shares: Vec<Action> = out.iter().filter_map(ready).collect();
                out.extend(shares);
            }
            Mutation::NotLetInAgain => {
                let begins: Vec<u32> = out
                    .iter()
                    .filter_map(|a| {
                        if let Action::Tell(Event::Ready { worker }) = a { Some(worker.id) } else { None }
                    })
                    .collect();
                out.retain(|a| !matches!(a, Action::Admit(id) if !begins.contains(id)));
            }
            Mutation::WordsForgotten => out.iter_mut().for_each(|a| {
                if let Action::Tell(Event::Reload { failure: Some(failure), .. }) = a {
                    failure.stderr.clear();
                }
            }),
            _ => {}
        }
    }
}

impl Lifecycle {
    fn has_successor(&self) -> bool {
        self.slots.iter().any(|s| s.successor.is_some())
    }

    fn tamper_before(&mut self, mutation: Mutation, now: u64, input: &Input, out: &mut Vec<Action>) {
        match mutation {
            Mutation::RecycledTogether => self.recycling = None,
            Mutation::SignalsAreMeantToEnd => {
                if let Input::Signalled(id, _) = input
                    && let Some(w) = self.find(*id)
                {
                    w.leaving.get_or_insert(Reason::Killed);
                }
            }
            Mutation::LatenessNotForgiven if now > self.due => self.due = NEVER,
            Mutation::StopForgetsStarting if matches!(input, Input::Stop) => {
                self.workers.iter_mut().filter(|w| w.phase == Phase::Starting).for_each(|w| {
                    w.phase = Phase::Killed;
                    w.deadline = NEVER;
                });
            }
            Mutation::ThreeGenerations if self.reload.is_none() => {
                let generation = self.generation;
                self.workers.iter_mut().for_each(|w| w.generation = generation);
            }
            Mutation::VerdictTooEarly => {
                self.reload.iter_mut().filter_map(|r| r.back.as_mut()).for_each(|b| b.since = 0);
            }
            Mutation::RollbackForgetsSlot if self.goes_back() => {
                let (old, Some(current)) = (self.generation, self.slots[0].current) else { return };
                self.workers.iter_mut().filter(|w| w.id == current).for_each(|w| w.generation = old);
            }
            Mutation::CommittedEarly if self.stage() == Some(ReloadStage::Rolling) => {
                let Some(Reload { generation, .. }) = self.reload.take() else { return };
                self.generation = generation;
                out.extend([
                    Action::Commit,
                    Action::Tell(Event::Reload { state: ReloadState::Committed, generation, failure: None }),
                ]);
            }
            _ => {}
        }
    }

    fn tamper_after(&mut self, mutation: Mutation, now: u64, out: &mut Vec<Action>) {
        match mutation {
            Mutation::NoBackoff => {
                let empty =
                    |s: &&mut Slot| s.current.is_none() && s.successor.is_none() && s.start_at < NEVER;
                self.slots.iter_mut().filter(empty).for_each(|s| s.start_at = now);
                self.due = self.next_due();
            }
            Mutation::NoBudget => self.slots.iter_mut().for_each(|s| s.restart.forget_starts()),
            Mutation::PromotedBeforeReady => {
                let successors: Vec<u32> = self.slots.iter().filter_map(|s| s.successor).collect();
                successors.into_iter().for_each(|id| self.is_ready(id, out));
            }
            Mutation::TwoCanaries if self.stage() == Some(ReloadStage::Canary) => {
                self.rules.surge = self.rules.surge.max(2);
                self.reload.iter_mut().for_each(|r| r.stage = ReloadStage::Rolling);
                self.roll(out);
            }
            Mutation::IdReused => self.last_id = self.workers.iter().map(|w| w.id).max().unwrap_or(0),
            _ => {}
        }
    }

    /// How far the reload has come that is under way and has not failed.
    fn stage(&self) -> Option<ReloadStage> {
        self.reload.as_ref().filter(|r| r.back.is_none()).map(|r| r.stage)
    }

    fn goes_back(&self) -> bool {
        self.reload.as_ref().is_some_and(|r| r.back.is_some())
    }
}
