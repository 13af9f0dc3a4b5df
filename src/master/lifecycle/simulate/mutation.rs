//! Deliberate faults, each of which must be caught. Those of the lifecycle tamper with its state between steps, or with its inputs and
//! actions, so that its code has no trace of them; the pool has a list of its own ([`Fault`]).

use super::super::{Action, Event, Input, Lifecycle, Phase, Place, Reason, Reload, ReloadStage, ReloadState};
use super::Times;
use crate::ids::WorkerId;
use crate::master::pool::Fault;
use crate::sys::overdue;
use crate::sys::signal::{SIGABRT, SIGKILL};
use crate::sys::time::Time;
use std::time::Duration;

/// A fault: the rule that is broken.
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
    /// A reload begins with several canaries.
    TwoCanaries,
    /// A reload is committed when the canary is ready.
    CommittedEarly,
    /// A roll-back leaves one new worker where it is.
    RollbackForgetsSlot,
    /// A worker may start forever.
    BootDeadlineIgnored,
    /// A worker may drain forever.
    DrainDeadlineIgnored,
    /// A handler may hang forever.
    HangIgnored,
    /// SIGABRT is all that is done against one that hangs.
    AbortIsAll,
    /// A handler that hangs is not warned.
    WarningForgotten,
    /// It is warned, and has no time.
    AbortedAtOnce,
    /// A reload waits until the last one's old workers have ended.
    ReloadWaitsForOld,
    /// A reload does not wait for the successor of a worker that is recycled.
    ReloadWhileRecycling,
    /// Any number of generations may drain.
    DrainingUnbounded,
    /// One generation more than may drain does.
    DrainingOffByOne,
    /// Of those that drain the newest ends.
    NewestEnds,
    /// Generations are counted while a reload may still fail.
    EndedOnTrial,
    /// Workers are started for which there is no room.
    RoomIgnored,
    /// A worker that does not end when it is told to is left alone.
    EndIsAll,
    /// One that is told to end has no time for it.
    KilledAtOnce,
    /// A worker is killed at the deadline that it was told.
    NoGrace,
    /// A worker that drains is not told its deadline.
    PatienceForgotten,
    /// A worker that drains is told of more time than it has.
    PatienceTooLong,
    /// Workers of a reload are forked before the host has been asked.
    ForkedUnannounced,
    /// What workers have cut in a stop is not counted.
    CutForgotten,
    /// Worn workers are replaced all at once.
    RecycledTogether,
    /// The number of a dead worker is used again.
    IdReused,
    /// A stop leaves those that are still starting.
    StopForgetsStarting,
    /// A master that stood still kills for it.
    LatenessNotForgiven,
    /// A step is due without end.
    DueForEver,
    /// A worker whose call has returned after all is not admitted again.
    NotReadmitted,
    /// A paused listener stays so.
    NeverResumed,
    /// A listener is watched even if no worker has room.
    NeverPaused,
    /// A fault of the pool.
    Pool(Fault),
    /// The master does not announce that it waits for room.
    WaitingForgotten,
    /// A full worker of which a connection has become idle does not wake the master that waits.
    IdleWakesNobody,
    /// A slot that a scale-up made gets no share.
    RebalanceForgotten,
    /// Every new worker gets a share, also one whose slot is not new.
    RebalancedAlways,
    /// The report of a failed reload does not wait for the exit status of the worker.
    VerdictTooEarly,
    /// The last lines of a worker are not reported.
    StderrForgotten,
    /// A worker of a generation on trial counts as proved.
    ProvedTooEarly,
    /// Any signal that was sent to a worker counts as the cause of its end.
    AllSignalsKill,
    /// A signal that comes twice within a second counts as a second one.
    InterruptedTwice,
    /// A stop leaves workers that drain already to hand back what nobody gets.
    IdleHandedBack,
    /// A worker that drains does not wait for the streams that may come back to it.
    GiverDoesNotWait,
    /// It waits, and leaves to the master what comes back.
    GiverClosesItsQueue,
    /// A worker does not tell that it has taken over a stream.
    TakeoverUntold,
    /// A worker resets what it refuses.
    RefusedIsLost,
    /// A worker does not heed that streams will not come back.
    SettledIgnored,
    /// A stream that has come back is given away again.
    AskedAgain,
}

pub const MUTATIONS: [Mutation; 85] = [
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
    Mutation::ReloadWaitsForOld,
    Mutation::ReloadWhileRecycling,
    Mutation::DrainingUnbounded,
    Mutation::DrainingOffByOne,
    Mutation::NewestEnds,
    Mutation::EndedOnTrial,
    Mutation::RoomIgnored,
    Mutation::EndIsAll,
    Mutation::KilledAtOnce,
    Mutation::NoGrace,
    Mutation::PatienceForgotten,
    Mutation::PatienceTooLong,
    Mutation::CutForgotten,
    Mutation::ForkedUnannounced,
    Mutation::RecycledTogether,
    Mutation::IdReused,
    Mutation::StopForgetsStarting,
    Mutation::LatenessNotForgiven,
    Mutation::DueForEver,
    Mutation::NotReadmitted,
    Mutation::NeverResumed,
    Mutation::NeverPaused,
    Mutation::WaitingForgotten,
    Mutation::IdleWakesNobody,
    Mutation::RebalanceForgotten,
    Mutation::RebalancedAlways,
    Mutation::VerdictTooEarly,
    Mutation::StderrForgotten,
    Mutation::ProvedTooEarly,
    Mutation::AllSignalsKill,
    Mutation::InterruptedTwice,
    Mutation::IdleHandedBack,
    Mutation::GiverDoesNotWait,
    Mutation::GiverClosesItsQueue,
    Mutation::TakeoverUntold,
    Mutation::RefusedIsLost,
    Mutation::SettledIgnored,
    Mutation::AskedAgain,
    Mutation::Pool(Fault::ShedToItself),
    Mutation::Pool(Fault::QueueOfTheDeadForgotten),
    Mutation::Pool(Fault::ReclaimedStillCounts),
    Mutation::Pool(Fault::ProbeStillCounts),
    Mutation::Pool(Fault::StuckNotReclaimed),
    Mutation::Pool(Fault::StuckForever),
    Mutation::Pool(Fault::ParkedForgotten),
    Mutation::Pool(Fault::RestOfMessageForgotten),
    Mutation::Pool(Fault::RefusedMessageCounts),
    Mutation::Pool(Fault::NoSecondLook),
    Mutation::Pool(Fault::ReturnsNotRewatched),
    Mutation::Pool(Fault::ChecksSeldom),
    Mutation::Pool(Fault::IdleKept),
    Mutation::Pool(Fault::IdleFirst),
    Mutation::Pool(Fault::ReturnedInTurn),
    Mutation::Pool(Fault::ReturnedToAnyGeneration),
    Mutation::Pool(Fault::RefusedToAnyone),
    Mutation::Pool(Fault::HandoverUncounted),
    Mutation::Pool(Fault::TakeoverUnsettled),
    Mutation::Pool(Fault::DeadTakerUnsettled),
    Mutation::Pool(Fault::DeadTakerSettledEarly),
    Mutation::Pool(Fault::ReturnedStillUnderWay),
    Mutation::Pool(Fault::UntakenBecomesOwn),
    Mutation::Pool(Fault::GiverForgotten),
    Mutation::Pool(Fault::DirectedForgotten),
    Mutation::Pool(Fault::DirectedUnchecked),
    Mutation::Pool(Fault::DirectedNotWatched),
    Mutation::Pool(Fault::GoalIgnored),
    Mutation::Pool(Fault::GoalMissedToAnyone),
    Mutation::Pool(Fault::RefusedReset),
    Mutation::Pool(Fault::OfferedWithoutEnd),
    Mutation::Pool(Fault::LossUncounted),
    Mutation::Pool(Fault::StopClosesStreams),
    Mutation::Pool(Fault::RefusedWaitsForRoom),
];

impl Mutation {
    /// A schedule that was seen to catch this one, which few do.
    pub fn known_schedule(self) -> Option<u64> {
        match self {
            Self::Pool(Fault::LossUncounted) => Some(1047),
            Self::Pool(Fault::DirectedNotWatched) => Some(214),
            _ => None,
        }
    }
}

/// The machine, with a fault or none.
pub struct Machine {
    pub life: Lifecycle,
    mutation: Option<Mutation>,
    now: u64,
    aborted: Vec<WorkerId>,
    /// A reload that is wanted and kept back.
    kept_back: bool,
}

impl Machine {
    pub fn new(rules: Times, slots: usize, mutation: Option<Mutation>) -> Self {
        let mut rules = rules;
        match mutation {
            Some(Mutation::BootDeadlineIgnored) => rules.boot_timeout = 0,
            Some(Mutation::DrainDeadlineIgnored) => rules.drain_timeout = 0,
            Some(Mutation::HangIgnored) => rules.hang_timeout = 0,
            Some(Mutation::DrainingUnbounded) => rules.max_draining = usize::MAX,
            Some(Mutation::DrainingOffByOne) => rules.max_draining += 1,
            Some(Mutation::RoomIgnored) => rules.room = usize::MAX,
            _ => {}
        }
        Self {
            life: Lifecycle::new(rules.rules(), slots),
            mutation,
            now: 0,
            aborted: Vec::new(),
            kept_back: false,
        }
    }

    /// The fault, if there is one.
    pub fn mutation(&self) -> Option<Mutation> {
        self.mutation
    }

    /// The fault of the pool, if it is one.
    pub fn fault(&self) -> Option<Fault> {
        if let Some(Mutation::Pool(fault)) = self.mutation { Some(fault) } else { None }
    }

    pub fn is(&self, mutation: Mutation) -> bool {
        self.mutation == Some(mutation)
    }

    pub fn due(&self) -> u64 {
        if self.is(Mutation::DueForEver) && self.life.has_successor() {
            self.now
        } else {
            self.life.due().as_millis()
        }
    }

    pub fn step(&mut self, ms: u64, input: Input, out: &mut Vec<Action>) {
        self.now = ms;
        let now = Time::from_millis(ms);
        let Some(mutation) = self.mutation else { return self.life.step(now, input, out) };
        let input = if mutation == Mutation::ReloadWaitsForOld { self.keep_back(input) } else { input };
        self.life.tamper_before(mutation, now, &input, out);
        self.life.step(now, input, out);
        self.life.tamper_after(mutation, now, out);
        self.falsify(mutation, out);
    }

    /// Keeps a reload back while workers of another generation are there.
    fn keep_back(&mut self, input: Input) -> Input {
        let generation = self.life.generation;
        if self.life.reload.is_some() || self.life.workers.iter().all(|w| w.generation == generation) {
            self.life.reload_wanted |= std::mem::take(&mut self.kept_back);
            return input;
        }
        self.kept_back |= std::mem::take(&mut self.life.reload_wanted) || matches!(input, Input::Reload);
        if matches!(input, Input::Reload) { Input::Tick } else { input }
    }

    /// As [`Lifecycle::is_proved`].
    pub fn is_proved(&self, id: WorkerId) -> bool {
        let ready = |w: &&super::super::Worker| w.id == id && w.phase == Phase::Ready;
        self.life.is_proved(id)
            || self.is(Mutation::ProvedTooEarly) && self.life.workers().iter().any(|w| ready(&w))
    }

    fn falsify(&mut self, mutation: Mutation, out: &mut Vec<Action>) {
        match mutation {
            Mutation::WithdrawForgotten => {
                let drains = |a: &Action| if let Action::Drain(id, _) = a { Some(*id) } else { None };
                let drains: Vec<WorkerId> = out.iter().filter_map(drains).collect();
                out.retain(|a| !matches!(a, Action::Withdraw(id) if drains.contains(id)));
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
                        Some(Action::Signal(WorkerId(worker.id), SIGABRT))
                    } else {
                        None
                    }
                };
                let aborts: Vec<Action> = out.iter().filter_map(hangs).collect();
                out.extend(aborts);
            }
            Mutation::PatienceForgotten | Mutation::PatienceTooLong => out.iter_mut().for_each(|a| {
                if let Action::Drain(_, patience) = a {
                    let more = if mutation == Mutation::PatienceForgotten { 0 } else { 2 };
                    *patience *= more;
                }
            }),
            Mutation::IdleHandedBack => out.retain(|a| !matches!(a, Action::KeepIdle(_))),
            Mutation::RebalanceForgotten => out.retain(|a| !matches!(a, Action::Rebalance(_))),
            Mutation::RebalancedAlways => {
                let ready = |a: &Action| {
                    if let Action::Tell(Event::Ready { worker }) = a {
                        Some(Action::Rebalance(WorkerId(worker.id)))
                    } else {
                        None
                    }
                };
                out.retain(|a| !matches!(a, Action::Rebalance(_)));
                let shares: Vec<Action> = out.iter().filter_map(ready).collect();
                out.extend(shares);
            }
            Mutation::NotReadmitted => {
                let begins: Vec<WorkerId> = out
                    .iter()
                    .filter_map(|a| {
                        if let Action::Tell(Event::Ready { worker }) = a {
                            Some(WorkerId(worker.id))
                        } else {
                            None
                        }
                    })
                    .collect();
                out.retain(|a| !matches!(a, Action::Admit(id) if !begins.contains(id)));
            }
            Mutation::StderrForgotten => out.iter_mut().for_each(|a| {
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
        self.places.iter().any(|p| p.successor.is_some())
    }

    fn tamper_before(&mut self, mutation: Mutation, now: Time, input: &Input, out: &mut Vec<Action>) {
        match mutation {
            Mutation::InterruptedTwice => self.stop_began = Time::default(),
            Mutation::RecycledTogether => (self.recycling, self.recycled) = (None, None),
            Mutation::AllSignalsKill => {
                if let Input::Signalled(id, _) = input
                    && let Some(w) = self.find_mut(*id)
                {
                    w.leaving.get_or_insert(Reason::Killed);
                }
            }
            Mutation::LatenessNotForgiven if now > self.due => self.due = Time::NEVER,
            Mutation::StopForgetsStarting if matches!(input, Input::Stop | Input::Interrupt) => {
                self.workers.iter_mut().filter(|w| w.phase == Phase::Starting).for_each(|w| {
                    w.phase = Phase::Killed;
                    w.deadline = Time::NEVER;
                });
            }
            Mutation::ReloadWhileRecycling if self.reload_wanted => self.recycling = None,
            Mutation::EndedOnTrial => {
                let reload = self.reload.take();
                self.bound_generations(out);
                self.reload = reload;
            }
            Mutation::NewestEnds => {
                // As if the youngest had drained longest.
                let turned =
                    |id: WorkerId| Time::from_millis(1 << 40).earlier_by(Duration::from_millis(id.0.into()));
                let drains = |w: &&mut super::super::Worker| w.drains_since != Time::NEVER;
                self.workers.iter_mut().filter(drains).for_each(|w| w.drains_since = turned(w.id));
            }
            Mutation::EndIsAll => {
                let ending = |w: &&mut super::super::Worker| w.is_ending && w.phase == Phase::Draining;
                self.workers.iter_mut().filter(ending).for_each(|w| w.deadline = Time::NEVER);
            }
            Mutation::KilledAtOnce => {
                let ending = |w: &&mut super::super::Worker| w.is_ending && w.phase == Phase::Draining;
                self.workers.iter_mut().filter(ending).for_each(|w| w.deadline = now);
            }
            Mutation::VerdictTooEarly => {
                self.reload.iter_mut().for_each(|r| r.failed_at = Time::default());
            }
            Mutation::RollbackForgetsSlot if self.goes_back() => {
                let (old, Some(current)) = (self.generation, self.places[0].current) else { return };
                self.workers.iter_mut().filter(|w| w.id == current).for_each(|w| w.generation = old);
            }
            Mutation::CommittedEarly if self.stage() == Some(ReloadStage::Rolling) => {
                let Some(Reload { generation, .. }) = self.reload.take() else { return };
                self.generation = generation;
                out.extend([
                    Action::Commit,
                    Action::Tell(Event::Reload {
                        state: ReloadState::Committed,
                        generation: generation.0,
                        failure: None,
                        code: None,
                        connections: None,
                    }),
                ]);
            }
            _ => {}
        }
    }

    fn tamper_after(&mut self, mutation: Mutation, now: Time, out: &mut Vec<Action>) {
        match mutation {
            Mutation::NoBackoff => {
                let empty =
                    |p: &&mut Place| p.current.is_none() && p.successor.is_none() && p.start_at < Time::NEVER;
                self.places.iter_mut().filter(empty).for_each(|s| s.start_at = now);
                self.due = self.next_due();
            }
            Mutation::NoBudget => self.places.iter_mut().for_each(|p| p.restart.forget_starts()),
            Mutation::PromotedBeforeReady => {
                let successors: Vec<WorkerId> = self.places.iter().filter_map(|s| s.successor).collect();
                successors.into_iter().for_each(|id| self.became_ready(id, out));
            }
            Mutation::TwoCanaries if self.stage() == Some(ReloadStage::Canary) => {
                self.rules.surge = self.rules.surge.max(2);
                self.reload.iter_mut().for_each(|r| r.stage = ReloadStage::Rolling);
                self.roll(out);
            }
            Mutation::NoGrace => {
                let grace = super::super::draining::END_GRACE;
                let begins =
                    |w: &&mut super::super::Worker| w.drains_since == now && w.deadline != Time::NEVER;
                self.workers.iter_mut().filter(begins).for_each(|w| {
                    w.deadline = w.deadline.earlier_by(grace);
                    w.drains_since = now.earlier_by(Duration::from_millis(1));
                });
            }
            Mutation::CutForgotten => self.cut = 0,
            Mutation::ForkedUnannounced if self.stage() == Some(ReloadStage::Preparing) => {
                self.reload.iter_mut().for_each(|r| r.stage = ReloadStage::Canary);
                self.roll(out);
            }
            Mutation::IdReused => self.last_id = self.workers.iter().map(|w| w.id).max().unwrap_or_default(),
            _ => {}
        }
    }

    /// The stage of a reload that has not failed.
    fn stage(&self) -> Option<ReloadStage> {
        self.reload.as_ref().filter(|r| r.failure.is_none()).map(|r| r.stage)
    }

    fn goes_back(&self) -> bool {
        self.reload.as_ref().is_some_and(|r| r.failure.is_some())
    }
}
