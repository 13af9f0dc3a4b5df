//! The simulator: the real machine, virtual time, and random schedules of everything that can happen to it.
//!
//! A seed is a schedule: `PREFORK_SEED=... make simulate` runs that one and shows what led to its violation. The lifecycle and the
//! pool are the master's own; the kernel is modelled (`model.rs`), and so are the workers (`process.rs`). `check.rs` has the
//! invariants, `mutation.rs` the faults that must be caught.

mod check;
mod handover;
pub mod model;
mod mutation;
pub mod process;
mod random;
mod tracks;
mod world;

use super::{Input, Rules};
use crate::ids::{Generation, WorkerId};
use crate::sys::signal::{SIGKILL, SIGTERM};
use crate::sys::time::Time;
use check::NOTHING_TO_IT;
use mutation::{MUTATIONS, Machine, Mutation};
use process::{LONGEST, TEMPERS, Temper};
use random::Random;
use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};
use world::{Character, World};

/// Schedules that every run of the tests takes.
const SCHEDULES: u64 = 600;
/// Schedules within which each mutation must be caught.
const UNTIL_CAUGHT: u64 = 4000;
/// The time after which everything has recovered that can: the longest back-off, and the window of the budget.
const RECOVERY: u64 = 75_000;

/// Later than any time, in milliseconds.
const NEVER: u64 = Time::NEVER.as_millis();

/// The rules of the lifecycle, in milliseconds.
#[derive(Clone, Copy, Debug)]
pub struct Times {
    boot_timeout: u64,
    drain_timeout: u64,
    hang_timeout: u64,
    max_age: u64,
    surge: usize,
    max_draining: usize,
    room: usize,
}

impl Times {
    fn rules(self) -> Rules {
        let [boot_timeout, drain_timeout, hang_timeout, max_age] =
            [self.boot_timeout, self.drain_timeout, self.hang_timeout, self.max_age]
                .map(Duration::from_millis);
        let Self { surge, max_draining, room, .. } = self;
        Rules { boot_timeout, drain_timeout, hang_timeout, max_age, surge, max_draining, room }
    }
}

/// The result of a schedule.
struct Outcome {
    violation: Option<String>,
    steps: u64,
    counts: BTreeMap<&'static str, u64>,
    trace: Vec<String>,
}

fn run(seed: u64, mutation: Option<Mutation>, traced: bool) -> Outcome {
    let mut random = Random::new(seed);
    let rules = some_rules(&mut random);
    let slots = random.between(1, 5) as usize;
    let machine = Machine::new(rules, slots, mutation);
    let mut world = World::new(random, rules, slots, machine);
    world.trace = traced.then(Default::default);
    world.note(|| format!("{rules:?}, {slots} slots"));
    play(&mut world);
    let World { violation, steps, mut counts, trace, shared, .. } = world;
    for (what, n) in shared.counts.take() {
        *counts.entry(what).or_default() += n;
    }
    Outcome { violation, steps, counts, trace: trace.into_iter().flatten().collect() }
}

fn some_rules(r: &mut Random) -> Times {
    let or_never = |r: &mut Random, ms: u64| if r.chance(15) { 0 } else { ms };
    let boot = if r.chance(80) { r.between(100, 3000) } else { r.between(5500, 8000) };
    let drain = if r.chance(5) { 1 } else { r.between(100, 4000) };
    let hang = r.between(300, 2000);
    Times {
        boot_timeout: or_never(r, boot),
        drain_timeout: or_never(r, drain),
        hang_timeout: if r.chance(50) { 0 } else { hang },
        max_age: if r.chance(80) { 0 } else { r.between(2000, 10_000) },
        surge: r.between(1, 3) as usize,
        max_draining: r.between(1, 4) as usize,
        // Two for each slot at the least, of which there are up to six.
        room: if r.chance(40) { r.between(12, 16) as usize } else { 1000 },
    }
}

/// A schedule: bad times, a quiet one in which all must recover, a reload that must succeed, a stop.
fn play(world: &mut World) {
    if world.random.chance(4) {
        let temper = world.random.one_of(&TEMPERS);
        world.characters.insert(Generation::FIRST, Character { first: (2, Temper::Good), then: temper });
    }
    if !world.random.chance(10) {
        let until = world.now + world.boot_bound();
        world.run_until(until);
    }
    for _ in 0..world.random.between(3, 40) {
        if world.is_over() {
            break;
        }
        disturb(world);
        let wait = match world.random.below(10) {
            0..2 => 0,
            2..6 => world.random.between(1, 50),
            6..9 => world.random.between(50, 1000),
            _ => world.random.between(1000, 6000),
        };
        let until = world.now + wait;
        world.run_until(until);
    }
    if !world.machine.life.is_stopping() {
        recover(world);
    }
    stop(world);
    world.check_end();
}

fn disturb(world: &mut World) {
    let now = world.now;
    let slots = world.machine.life.slots();
    match world.random.below(100) {
        0..18 => arrive(world),
        18..33 => reload(world),
        33..36 => {
            world.count("reload storm");
            for _ in 0..world.random.between(3, 50) {
                reload(world);
                let until = world.now + world.random.between(0, 20);
                world.run_until(until);
            }
        }
        36..44 => {
            let n = match world.random.below(3) {
                0 => slots + 1,
                1 => slots.saturating_sub(1),
                _ => world.random.between(0, 6) as usize,
            };
            world.ask(Input::Scale(n.min(6)));
        }
        44..52 => {
            let id = any_worker(world);
            let patience = if world.random.chance(20) {
                world.rules.drain_timeout
            } else {
                world.random.between(1, 3000)
            };
            world.ask(Input::Drain(id, Duration::from_millis(patience)));
        }
        52..58 => {
            let id = any_worker(world);
            let signal = world.random.one_of(&[SIGKILL, SIGTERM, SIGTERM, NOTHING_TO_IT]);
            world.ask(Input::Signalled(id, signal));
            let at = now + world.random.between(0, 50);
            let (heeds, leaves) = (world.random.chance(70), world.random.chance(60));
            if let Some(p) = world.find(id).filter(|_| heeds) {
                match signal {
                    NOTHING_TO_IT => {}
                    SIGTERM if leaves => p.leave(at),
                    _ => p.strike(at, signal),
                }
            }
        }
        58..66 => {
            let id = any_worker(world);
            let at = now + world.random.between(0, 200);
            if let Some(p) = world.find(id) {
                p.strike(at, SIGKILL);
            }
            world.count("killed from outside");
        }
        66..71 => {
            let id = any_worker(world);
            let until = now + world.random.between(1, LONGEST);
            if let Some(p) = world.find(id) {
                p.freeze(until);
            }
            world.count("worker stopped for a while");
        }
        71..76 => {
            let by = world.random.between(1, 8000);
            world.count("all suspended");
            world.suspend(by);
        }
        76..79 => {
            let by = world.random.between(1, 3000);
            world.count("master late");
            world.stand_still(by);
        }
        79..84 => {
            world.forks_fail_until = now + world.random.between(1, 2000);
            world.count("forks fail");
        }
        84..87 => {
            world.shared.shortage_until.set(now + world.random.between(1, 1500));
            world.count("descriptors short");
        }
        87..93 => turn_bad(world),
        93..97 => {
            let id = any_worker(world);
            if let Some(p) = world.find(id) {
                p.worn_at = now;
            }
            world.arm(now);
        }
        97 => world.ask(Input::Stop),
        98 => flake(world),
        _ => {
            // Late inputs about a worker that was reaped.
            let id = WorkerId(world.random.between(0, u64::from(world.watch.last_id.0)) as u32);
            let since = Time::from_millis(world.random.between(0, now));
            if world.get(id).is_none() {
                world.ask(Input::Busy(id, since));
                world.ask(Input::Ready(id));
                world.ask(Input::Leaving(id));
                world.ask(Input::Worn(id));
            }
        }
    }
}

fn arrive(world: &mut World) {
    if world.machine.life.is_stopping() {
        return;
    }
    let n = world.random.between(1, 20) as u32;
    let i = world.random.below(world.pool.listeners.len() as u64) as usize;
    if let Some(listener) = world.pool.listeners.get_mut(i) {
        listener.waiting += n;
    }
}

fn reload(world: &mut World) {
    let then = some_temper(world);
    let first = (world.random.between(0, 4) as u32, Temper::Good);
    world.next_character = if world.random.chance(50) {
        Character { first: (0, then), then }
    } else {
        Character { first, then }
    };
    world.prepare_fails = world.random.chance(10);
    world.ask(Input::Reload);
}

fn some_temper(world: &mut World) -> Temper {
    if world.random.chance(40) { Temper::Good } else { world.random.one_of(&TEMPERS) }
}

/// The workers of the generation that serves are not what they were.
fn turn_bad(world: &mut World) {
    let then = world.random.one_of(&TEMPERS);
    let generation = world.machine.life.generation();
    world.characters.insert(generation, Character { first: (0, then), then });
    world.count("generation turns bad");
}

/// Workers die at once, or after a while, for longer than the window of the budget.
fn flake(world: &mut World) {
    let character = Character { first: (0, Temper::Flaky), then: Temper::Flaky };
    let generation = world.machine.life.generation();
    world.characters.insert(generation, character);
    let until = world.now + 4 * RECOVERY;
    world.run_until(until);
    world.count("long bad time");
}

fn any_worker(world: &mut World) -> WorkerId {
    let n = world.processes.len() as u64;
    if n == 0 || world.random.chance(5) {
        return WorkerId(world.random.between(0, 60) as u32);
    }
    let at = world.random.below(n) as usize;
    world.processes[at].id
}

/// No fault begins any more: every slot must serve again, a reload succeed, each client be answered.
fn recover(world: &mut World) {
    world.calm = true;
    world.forks_fail_until = 0;
    world.shared.shortage_until.set(0);
    let now = world.now;
    world.processes.iter_mut().for_each(|p| p.calm_down(now));
    let longest = RECOVERY + 3 * world.boot_bound() + 4 * world.drain_bound(world.rules.drain_timeout);
    world.run_until(now + longest);
    if world.is_over() {
        return;
    }
    all_serve(world, "after the bad times");
    let generation = world.machine.life.generation();
    world.prepare_fails = false;
    world.ask(Input::Reload);
    let until = world.now + longest;
    world.run_until(until);
    if world.is_over() {
        return;
    }
    let reached = world.machine.life.generation() > generation && !world.machine.life.is_reloading();
    world.must(reached, || "a reload to a good generation is not committed".into());
    world.watch.slots.iter_mut().for_each(|s| s.gave_up = false);
    all_serve(world, "after a reload");
    arrive(world);
    let until = world.now + longest;
    world.run_until(until);
    let left: u32 = world.pool.listeners.iter().map(|l| l.waiting).sum();
    let reset = *world.shared.tracks.resets.borrow() as u32;
    let open = world.shared.accepted.get() - world.finished - world.lost - world.unanswered - reset;
    let waits = world.processes.iter().find(|p| p.moves.unsettled > 0).map(|p| p.id);
    world.must(waits.is_none(), || format!("worker {waits:?} waits for streams, and nothing is amiss"));
    world.must(left + open == 0, || format!("{left} clients wait and {open} are open, and nothing is amiss"));
    world.count("recovered");
}

fn all_serve(world: &mut World, when: &str) {
    for slot in 0..world.machine.life.slots() {
        let current = world.machine.life.places()[slot].current;
        let worker = current.and_then(|id| world.pool.workers.get(id));
        let serves = worker.is_some_and(|w| w.admitted && !w.stuck);
        let gave_up = current.is_none() && world.watch.slots[slot].gave_up;
        world.must(serves || gave_up, || format!("slot {slot} does not serve {when}"));
    }
}

fn stop(world: &mut World) {
    let either = |world: &mut World| if world.random.chance(50) { Input::Stop } else { Input::Interrupt };
    if world.random.chance(30) {
        // While streams are between two workers.
        arrive(world);
        reload(world);
        let until = world.now + world.random.between(0, 150);
        world.run_until(until);
    }
    if !world.machine.life.is_stopping() {
        let input = either(world);
        world.ask(input);
    }
    if world.random.chance(15) {
        let at = world.now + world.random.between(0, 100);
        let spread = if world.random.chance(70) { 0 } else { 100 };
        for p in &mut world.processes {
            p.strike(at + world.random.between(0, spread), SIGKILL);
        }
        world.count("all killed in a stop");
    }
    if world.random.chance(30) {
        let until = world.now + world.random.between(0, 2000);
        world.run_until(until);
        let input = either(world);
        world.ask(input);
    }
    let longest = 4 * world.drain_bound(world.rules.drain_timeout) + 30_000;
    let until = world.now + longest;
    world.run_until(until);
    let over = world.is_over();
    world.must(over, || "a stop does not end".into());
}

/// Runs a schedule again and returns what led to its violation.
fn explain(seed: u64, mutation: Option<Mutation>) -> String {
    let outcome = run(seed, mutation, true);
    format!(
        "{}\n{}\nPREFORK_SEED={seed} make simulate",
        outcome.trace.join("\n"),
        outcome.violation.unwrap_or_else(|| "no violation".into())
    )
}

/// Runs schedules until time or number is over; the first violation ends the test.
fn simulate(first: u64, schedules: u64, time: Duration) -> (u64, u64, BTreeMap<&'static str, u64>) {
    let begin = Instant::now();
    let (mut done, mut steps) = (0, 0);
    let mut counts = BTreeMap::new();
    while done < schedules && begin.elapsed() < time {
        let seed = first + done;
        let guard = Unwinding(seed);
        let outcome = run(seed, None, false);
        std::mem::forget(guard);
        if outcome.violation.is_some() {
            panic!("{}", explain(seed, None));
        }
        steps += outcome.steps;
        done += 1;
        for (what, n) in outcome.counts {
            *counts.entry(what).or_default() += n;
        }
    }
    (done, steps, counts)
}

/// Prints the schedule that panicked.
struct Unwinding(u64);

impl Drop for Unwinding {
    fn drop(&mut self) {
        eprintln!("panicked in: PREFORK_SEED={} make simulate", self.0);
    }
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[test]
fn schedules_hold() {
    let (done, _, counts) = simulate(1, SCHEDULES, Duration::from_secs(600));
    assert_eq!(done, SCHEDULES);
    for (what, n) in &counts {
        assert!(*n > 0, "{what} never feed");
    }
}

#[test]
fn each_mutation_is_caught() {
    let (next, missed) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let search = || {
        while let Some(&mutation) = MUTATIONS.get(next.fetch_add(1, Relaxed)) {
            let seeds = || mutation.known_schedule().into_iter().chain(1..=UNTIL_CAUGHT);
            let caught = seeds().find_map(|seed| Some((seed, run(seed, Some(mutation), false).violation?)));
            match caught {
                Some((seed, violation)) => println!("{mutation:?}: schedule {seed}: {violation}"),
                None => missed.lock().unwrap().push(mutation),
            }
        }
    };
    // On two CPUs: it is the longest of all tests.
    thread::scope(|scope| {
        scope.spawn(search);
        search();
    });
    assert!(missed.lock().unwrap().is_empty(), "not caught: {missed:?}");
}

/// `make simulate`.
#[test]
#[ignore = "as long as one likes: PREFORK_SEED, PREFORK_SCHEDULES, PREFORK_SECONDS"]
fn long_run() {
    if let Some(seed) = number("PREFORK_SEED").filter(|_| number("PREFORK_SCHEDULES").is_none()) {
        return println!("{}", explain(seed, None));
    }
    let first = number("PREFORK_SEED").unwrap_or_else(|| crate::sys::time::monotonic_ns() % 1_000_000_000);
    let schedules = number("PREFORK_SCHEDULES").unwrap_or(u64::MAX);
    let seconds = number("PREFORK_SECONDS").unwrap_or(60);
    println!("from seed {first}");
    let (done, steps, counts) = simulate(first, schedules, Duration::from_secs(seconds));
    println!("{done} schedules, {steps} steps");
    counts.iter().for_each(|(what, n)| println!("{n:>12} {what}"));
}
