//! The scheduling policy of the master's thread.
//!
//! With `--scheduling auto` it is `SCHED_BATCH` while many connections come and no other program keeps the CPUs: the master then lets
//! the process that runs go on when it wakes up, and finds more connections at once. Beside programs that never sleep it would have to
//! wait for the end of their time slices, so it returns to the normal policy if it waits long. Short waits say nothing: the server's own
//! workers cause them. Nothing is measured of a master that accepts little, and it has the normal policy.

use crate::config::Scheduling;
use crate::sys::schedule::{self, BatchPolicy};
use crate::sys::time::Time;
use std::io;
use std::time::Duration;

/// The shortest time that is judged.
const SPAN: Duration = Duration::from_millis(200);
/// The longest time between two turns that workers and clients on the same CPUs cause as a rule. A time slice of a program that never
/// sleeps is longer.
const SHORT: Duration = Duration::from_millis(2);
/// The connections a second from which batches are worth a change.
const BUSY: u64 = 2_000;
/// The spans with few long waits after which the policy becomes `SCHED_BATCH`; doubled each time that it had to be given up soon ...
const FIRST_PROOF: u32 = 3;
/// ... up to this.
const LONGEST_PROOF: u32 = 48;
/// The spans with `SCHED_BATCH` after which that has proved itself.
const SETTLED: u32 = 5;
/// The percentage of a span up to which long waits are few.
const FEW: u32 = 8;
/// The percentage of a span above which long waits end `SCHED_BATCH`.
const MANY: u32 = 12;

/// The policy that this server has set, and how it changes.
pub struct Policy {
    /// `None` if it is the one that was found.
    batch: Option<BatchPolicy>,
    /// `None` if it does not change by itself.
    auto: Option<Auto>,
}

impl Policy {
    /// Sets the policy, or keeps the one that a former program has set; if it is not wanted, that ends.
    pub fn new(wanted: Scheduling, former: Option<BatchPolicy>, now: Time) -> io::Result<Self> {
        let batch = match wanted {
            Scheduling::Batch if former.is_some() => former,
            Scheduling::Batch => BatchPolicy::set()?,
            Scheduling::Auto | Scheduling::Normal => {
                drop(former);
                None
            }
        };
        let is_auto = wanted == Scheduling::Auto && schedule::can_change();
        Ok(Self { batch, auto: is_auto.then(|| Auto::new(now)) })
    }

    /// True if this server has set `SCHED_BATCH`.
    pub fn is_batch(&self) -> bool {
        self.batch.is_some()
    }

    /// Ends a policy that is the master's alone, and is not to be that of a process or program that it starts.
    pub fn end_own(&mut self) {
        if self.auto.is_some() {
            self.batch = None;
        }
    }

    /// Notes the begin of a turn; `accepted` connections were accepted since the start. Judges the time since the last judgement if that
    /// is long enough.
    pub fn note_turn(&mut self, now: Time, accepted: u64) {
        let Some(auto) = &mut self.auto else { return };
        let read = || schedule::time_without_cpu().ok();
        let Some(span) = auto.note_turn(now, accepted, read) else { return };
        let wants_batch = auto.judge.wants_batch(self.batch.is_some(), &span);
        if !wants_batch {
            self.batch = None;
        } else if self.batch.is_none() {
            match BatchPolicy::set() {
                Ok(Some(batch)) => self.batch = Some(batch),
                // Another policy was chosen for this thread meanwhile, or none may be set any more.
                Ok(None) | Err(_) => self.auto = None,
            }
        }
    }
}

/// The master's time since the last judgement.
struct Auto {
    begin: Time,
    last_turn: Time,
    /// The connections that were accepted before.
    accepted: u64,
    /// The sum of the times between two turns that were not short.
    gaps: Duration,
    /// The time without a CPU until `begin`; `None` if it was not read then.
    waited: Option<Duration>,
    judge: Judge,
}

impl Auto {
    fn new(now: Time) -> Self {
        let (gaps, judge) = (Duration::ZERO, Judge::default());
        Self { begin: now, last_turn: now, accepted: 0, gaps, waited: None, judge }
    }

    /// Returns what is to be judged, if it is time for that; `read` returns the time without a CPU until now.
    fn note_turn(
        &mut self,
        now: Time,
        accepted: u64,
        read: impl FnOnce() -> Option<Duration>,
    ) -> Option<Span> {
        // Times are compared, which costs each turn less than differences do.
        if now > self.last_turn + SHORT {
            self.gaps += now - self.last_turn;
        }
        self.last_turn = now;
        if now < self.begin + SPAN {
            return None;
        }
        Some(self.end_span(now, accepted, read))
    }

    #[cold]
    fn end_span(&mut self, now: Time, accepted: u64, read: impl FnOnce() -> Option<Duration>) -> Span {
        let length = now - self.begin;
        let new = accepted.saturating_sub(self.accepted);
        let is_busy = u128::from(new) * 1000 >= u128::from(BUSY) * length.as_millis();
        // Read only if it matters: an idle master makes no calls for this.
        let waited = if is_busy { read() } else { None };
        let without_cpu = waited.zip(self.waited).map(|(waited, before)| waited.saturating_sub(before));
        // Times between two turns are long for want of connections, too, or because a turn was long.
        let long_waits = without_cpu.map(|time| time.min(self.gaps));
        *self = Self {
            begin: now,
            last_turn: now,
            accepted,
            gaps: Duration::ZERO,
            waited,
            judge: std::mem::take(&mut self.judge),
        };
        Span { length, is_busy, long_waits }
    }
}

/// Some time of the master.
struct Span {
    length: Duration,
    /// True if many connections came.
    is_busy: bool,
    /// The part of it in which the master waited long for a CPU; `None` if that is not known.
    long_waits: Option<Duration>,
}

impl Span {
    /// True if long waits were more than a percentage of it.
    fn exceeds(&self, percentage: u32) -> Option<bool> {
        Some(self.long_waits? * 100 > self.length * percentage)
    }
}

/// Decides when `SCHED_BATCH` begins and ends.
struct Judge {
    /// The spans with few long waits since the last change, or the last other span.
    good: u32,
    /// The number of those that it takes to begin.
    proof: u32,
}

impl Default for Judge {
    fn default() -> Self {
        Self { good: 0, proof: FIRST_PROOF }
    }
}

impl Judge {
    /// Returns whether the policy should be `SCHED_BATCH` after a span in which it was, or was not.
    fn wants_batch(&mut self, is_batch: bool, span: &Span) -> bool {
        if !span.is_busy {
            self.good = 0;
            return false;
        }
        if is_batch { self.keeps(span) } else { self.begins(span) }
    }

    fn begins(&mut self, span: &Span) -> bool {
        self.good = if span.exceeds(FEW) == Some(false) { self.good + 1 } else { 0 };
        let begins = self.good >= self.proof;
        if begins {
            self.good = 0;
        }
        begins
    }

    fn keeps(&mut self, span: &Span) -> bool {
        if span.exceeds(MANY) == Some(false) {
            self.good = (self.good + 1).min(SETTLED);
            if self.good == SETTLED {
                self.proof = FIRST_PROOF;
            }
            return true;
        }
        if self.good < SETTLED {
            // With the normal policy the master does not feel those that it would wait for.
            self.proof = (self.proof * 2).min(LONGEST_PROOF);
        }
        self.good = 0;
        false
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const QUIET: u64 = 0;
    const BESIDE_OTHERS: u64 = 60;
    const BETWEEN: u64 = (SPAN.as_millis() as u64 * (FEW + MANY) as u64) / 200;

    fn busy(long_waits: u64) -> Span {
        Span { length: SPAN, is_busy: true, long_waits: Some(Duration::from_millis(long_waits)) }
    }

    /// Has a judge decide about spans of so long waits, one after the other; returns when the policy was `SCHED_BATCH`.
    fn decide(judge: &mut Judge, is_batch: &mut bool, long_waits: &[u64]) -> Vec<bool> {
        let decide = |&ms: &u64| {
            *is_batch = judge.wants_batch(*is_batch, &busy(ms));
            *is_batch
        };
        long_waits.iter().map(decide).collect()
    }

    #[test]
    fn batch_begins_after_three_spans_with_few_long_waits_in_a_row() {
        let (mut judge, mut is_batch) = (Judge::default(), false);
        let spans = [QUIET, QUIET, BETWEEN, QUIET, QUIET, QUIET, QUIET];
        let expected = [false, false, false, false, false, true, true];
        assert_eq!(decide(&mut judge, &mut is_batch, &spans), expected);
    }

    #[test]
    fn batch_ends_at_the_first_span_with_many_long_waits() {
        let (mut judge, mut is_batch) = (Judge::default(), true);
        assert_eq!(decide(&mut judge, &mut is_batch, &[QUIET, BETWEEN, BESIDE_OTHERS]), [true, true, false]);
    }

    #[test]
    fn batch_ends_as_soon_as_few_connections_come_and_does_not_begin() {
        let mut judge = Judge::default();
        let idle = Span { is_busy: false, ..busy(QUIET) };
        assert!(!judge.wants_batch(true, &idle));
        for span in [&busy(QUIET), &busy(QUIET), &idle, &busy(QUIET), &busy(QUIET)] {
            assert!(!judge.wants_batch(false, span));
        }
        assert!(judge.wants_batch(false, &busy(QUIET)));
    }

    #[test]
    fn without_figures_the_policy_is_the_normal_one() {
        let mut judge = Judge::default();
        let unknown = || Span { long_waits: None, ..busy(QUIET) };
        assert!((0..20).all(|_| !judge.wants_batch(false, &unknown())));
        assert!(!judge.wants_batch(true, &unknown()));
    }

    #[test]
    fn programs_that_come_and_go_change_the_policy_within_a_second() {
        let (mut judge, mut is_batch) = (Judge::default(), false);
        let second = usize::try_from(Duration::from_secs(1).as_millis() / SPAN.as_millis()).unwrap();
        for _ in 0..10 {
            assert!(*decide(&mut judge, &mut is_batch, &vec![QUIET; 2 * second])[..second].last().unwrap());
            let with_others = decide(&mut judge, &mut is_batch, &vec![BESIDE_OTHERS; second]);
            assert!(with_others.iter().all(|is_batch| !is_batch));
        }
    }

    /// Some programs are felt only with `SCHED_BATCH`: the normal policy preempts them.
    #[test]
    fn attempts_that_fail_become_rare_until_one_lasts() {
        let (mut judge, mut is_batch) = (Judge::default(), false);
        let mut attempts = Vec::new();
        for at in 0..400 {
            let ms = if is_batch { BESIDE_OTHERS } else { QUIET };
            decide(&mut judge, &mut is_batch, &[ms]);
            attempts.extend(is_batch.then_some(at));
        }
        let pauses: Vec<_> = attempts.windows(2).map(|pair| pair[1] - pair[0] - 1).collect();
        assert_eq!(pauses[..5], [6, 12, 24, 48, 48]);
        while !is_batch {
            decide(&mut judge, &mut is_batch, &[QUIET]);
        }
        decide(&mut judge, &mut is_batch, &[QUIET; SETTLED as usize]);
        let spans = [BESIDE_OTHERS, QUIET, QUIET, QUIET];
        assert_eq!(decide(&mut judge, &mut is_batch, &spans), [false, false, false, true]);
    }

    /// Turns at these milliseconds, each with so many connections; the time without a CPU is `waited` at the end of each span, or is not
    /// to be read.
    fn turns(auto: &mut Auto, at: &[u64], each: u64, waited: Option<u64>) -> Vec<Span> {
        let mut accepted = auto.accepted;
        let turn = |ms: &u64| {
            accepted += each;
            let read = || Some(Duration::from_millis(waited.unwrap()));
            auto.note_turn(Time::from_millis(*ms), accepted, read)
        };
        at.iter().filter_map(turn).collect()
    }

    fn every_ms(from: u64, to: u64) -> Vec<u64> {
        (from..=to).collect()
    }

    #[test]
    fn a_master_that_accepts_little_reads_nothing() {
        let mut auto = Auto::new(Time::default());
        let spans = turns(&mut auto, &[1, 2, 150, 199, 200, 201, 5000, 5001, 5200], 1, None);
        assert_eq!(spans.len(), 3);
        assert!(spans.iter().all(|span| !span.is_busy && span.long_waits.is_none()));
    }

    #[test]
    fn long_waits_are_those_between_turns_as_far_as_the_kernel_says_that_the_master_waited() {
        let mut auto = Auto::new(Time::default());
        // Nothing is known before the first reading.
        assert!(turns(&mut auto, &every_ms(1, 200), 10, Some(500))[0].long_waits.is_none());
        // Short waits.
        assert_eq!(turns(&mut auto, &every_ms(201, 400), 10, Some(580))[0].long_waits, Some(Duration::ZERO));
        // A long one, as the kernel says, and as the clock says.
        let gap = |from: u64| [every_ms(from + 1, from + 100), every_ms(from + 140, from + 200)].concat();
        for (from, waited, long) in [(400_u64, 600, 20), (600, 700, 40)] {
            let spans = turns(&mut auto, &gap(from), 10, Some(waited));
            assert_eq!(spans[0].long_waits, Some(Duration::from_millis(long)), "from {from}");
        }
    }
}
