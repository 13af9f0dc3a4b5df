//! Everything at random, from a printed seed: reloads, deaths, pauses, scaling, new files and load; at the end nothing is left,
//! and clients have lost as many connections as the log says.
//!
//! `SOAK_SECONDS=600 cargo test --test soak -- --ignored --nocapture`, or `make soak`; `SOAK_SEED=` repeats a run.
#![allow(clippy::unwrap_used)]

mod util;

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use util::load::Tally;
use util::random::Random;
use util::{Client, Fault, Load, Server, Start, Style, proc, wait_until};

#[test]
fn a_short_soak() {
    for style in [Style::Request, Style::Connection] {
        soak(style, Duration::from_secs(5));
    }
}

#[test]
#[ignore = "takes ten minutes; make soak"]
fn a_long_soak() {
    let seconds = number("SOAK_SECONDS").unwrap_or(600);
    for style in Style::ALL {
        soak(style, Duration::from_secs(seconds / 3));
    }
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

const FEWEST: usize = 2;
const MOST: usize = 6;

/// The server under test and the state of the run.
struct Soak {
    server: Server,
    random: Random,
    workers: usize,
    /// Stopped workers, and until when.
    still: Vec<(i32, Instant)>,
    done: [u32; 8],
}

fn soak(style: Style, time: Duration) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as u64;
    let seed = number("SOAK_SEED").unwrap_or(now);
    println!("{style:?}: seed {seed}");
    let server = Start::new(style).workers(4).set("drain-timeout", "2s").set("max-requests", "20000");
    let mut server = server.set("surge", "2").own_module().start();
    tolerate(&mut server);
    let fresh = marked(&server, 4, false);
    let kept = (style == Style::Request).then(|| marked(&server, 4, true));
    let mut soak = Soak { server, random: Random::new(seed), workers: 4, still: Vec::new(), done: [0; 8] };
    let start = Instant::now();
    while start.elapsed() < time {
        soak.act();
        std::thread::sleep(Duration::from_millis(soak.random.below(120)));
    }
    let Soak { mut server, workers, still, done, .. } = soak;
    still.iter().for_each(|&(pid, _)| proc::signal_if_there(pid, libc::SIGCONT));
    server.install(&style.version("v9"));
    server.scaled_to(workers);
    // A reload fills slots whose successor is delayed; a reload in progress may still load the previous file.
    wait_until("the last reload is complete", || {
        server.signal(libc::SIGHUP);
        std::thread::sleep(Duration::from_millis(200));
        (0..2 * MOST).all(|_| server.ask("version") == Ok("v9".into()))
    });
    server.rests();
    let done_before = fresh.done();
    wait_until("the load continues", || fresh.done() > done_before + 50);
    let mut tally = fresh.stop();
    kept.into_iter().for_each(|load| tally.merge(load.stop()));
    let lost = reported_lost(&server);
    println!(
        "{style:?}: {} answered, {} failed, {lost} reported lost; reloads, broken files, kills, crashes, pauses, leaves, \
         more, fewer: {done:?}; {} reloads complete, {} rolled back",
        tally.answered(),
        tally.failed(),
        server.lines_with("is complete"),
        server.lines_with("is rolled back"),
    );
    let cut = |f: &Fault| matches!(f, Fault::Reset | Fault::Closed);
    assert!(tally.faults.keys().all(cut), "seed {seed}: {tally:?}");
    assert!(tally.failed() <= lost, "seed {seed}: {lost} reported lost, {tally:?}");
    // Workers all there, no zombie, no descriptor; then no process, no file.
    server.stop();
}

fn tolerate(server: &mut Server) {
    for text in [
        util::RELOAD,
        "died: SIGKILL",
        "died: SIGSEGV",
        "before it was ready",
        "while draining: SIG",
        "had not ended at its deadline",
        "to drain: Broken pipe",
    ] {
        server.may_say(text);
    }
}

impl Soak {
    fn act(&mut self) {
        let now = Instant::now();
        self.still.retain(|&(pid, until)| {
            if until <= now {
                proc::signal_if_there(pid, libc::SIGCONT);
            }
            until > now
        });
        let workers = self.server.workers();
        assert!(workers.len() <= 3 * MOST, "{workers:?}");
        let any = workers.get(self.random.below(workers.len().max(1) as u64) as usize).copied();
        // With most of them dead for a while, clients would wait longer than they do.
        let action = if workers.len() < FEWEST { 0 } else { self.random.below(12) };
        match (action, any) {
            (0..=2, _) => self.reload(),
            (3, _) => self.break_file(),
            (4 | 5, Some(pid)) => self.hit(2, pid, libc::SIGKILL),
            (6, Some(pid)) => self.hit(3, pid, libc::SIGSEGV),
            (7 | 8, Some(pid)) => {
                self.hit(4, pid, libc::SIGSTOP);
                let until = now + Duration::from_millis(self.random.below(500));
                self.still.push((pid, until));
            }
            (9, Some(pid)) => self.hit(5, pid, libc::SIGTERM),
            (10, _) if self.workers < MOST => self.scale(6, libc::SIGTTIN, self.workers + 1),
            (11, _) if self.workers > FEWEST => self.scale(7, libc::SIGTTOU, self.workers - 1),
            _ => {}
        }
    }

    fn reload(&mut self) {
        self.done[0] += 1;
        let version = format!("v{}", self.done[0] % 3);
        self.server.install(&self.server.style.version(&version));
        self.server.signal(libc::SIGHUP);
    }

    fn break_file(&mut self) {
        self.done[1] += 1;
        self.server.install_bytes(b"broken");
        self.server.signal(libc::SIGHUP);
    }

    fn hit(&mut self, what: usize, pid: i32, signal: i32) {
        self.done[what] += 1;
        proc::signal_if_there(pid, signal);
    }

    fn scale(&mut self, what: usize, signal: i32, workers: usize) {
        self.done[what] += 1;
        self.server.signal(signal);
        // One that is pending would swallow the next (signal(7)).
        wait_until("it is read", || proc::status(self.server.pid, "ShdPnd") == "0000000000000000");
        self.workers = workers;
    }
}

/// Clients that check every byte of the responses, on connections they keep as long as they can, or on new ones.
fn marked(server: &Server, clients: usize, keep: bool) -> Load {
    Load::run(clients, |number, stop, done| {
        let (address, style) = (server.address().clone(), server.style);
        move || {
            let (mut tally, mut held) = (Tally::default(), None::<Client>);
            for n in 0u64.. {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                let mark = format!("<{number}.{n}>");
                let command = format!("repeat {mark}");
                let client = held.take().map_or_else(|| Client::connect(&address, style), Ok);
                let answer = client.and_then(|mut client| {
                    if !keep {
                        return client.ask_last(&command);
                    }
                    let answer = client.ask(&command)?;
                    held = Some(client);
                    Ok(answer)
                });
                tally.add(answer.map(|body| {
                    let times = body.len() / mark.len();
                    assert!(times > 0 && body == mark.repeat(times), "{mark}: {body}");
                    "whole".to_owned()
                }));
                done.fetch_add(1, Ordering::Relaxed);
                std::thread::sleep(Duration::from_micros(500));
            }
            tally
        }
    })
}

/// The number of connections lost by deaths, from the log.
fn reported_lost(server: &Server) -> u64 {
    let lost = |line: &String| {
        let (before, _) = line.split_once(" in progress lost").or_else(|| line.split_once(" lost"))?;
        before.rsplit(' ').nth(1)?.parse::<u64>().ok()
    };
    server.stderr().iter().filter_map(lost).sum()
}
