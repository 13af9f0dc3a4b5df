//! Workers killed at any moment: only connections they had taken are lost, and no client gets the response of another.
#![allow(clippy::unwrap_used)]

mod util;

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use util::load::Tally;
use util::random::Random;
use util::{Client, Fault, Load, RELOAD, Start, Style, proc, wait_until};

const KILLS: u64 = 200;
const CLIENTS: u64 = 8;

/// Clients that each request a text of their own, a new one each time, and check every byte of the response.
fn marked_load(server: &util::Server) -> Load {
    static NEXT: AtomicU64 = AtomicU64::new(100_000);
    Load::run(CLIENTS as usize, |_, stop, done| {
        let (address, style) = (server.address().clone(), server.style);
        move || {
            let mut tally = Tally::default();
            while !stop.load(Ordering::Relaxed) {
                let mark = format!("<{}>", NEXT.fetch_add(1, Ordering::Relaxed));
                let answer =
                    Client::connect(&address, style).and_then(|c| c.ask_last(&format!("repeat {mark}")));
                tally.add(answer.map(|body| {
                    assert!(
                        !body.is_empty() && body == mark.repeat(body.len() / mark.len()),
                        "{mark}: {body}"
                    );
                    "whole".to_owned()
                }));
                done.fetch_add(1, Ordering::Relaxed);
            }
            tally
        }
    })
}

/// The number of connections lost by deaths, from the log.
fn reported_lost(server: &util::Server) -> u64 {
    let lost = |line: &String| {
        let (before, _) = line.split_once(" in progress lost")?;
        before.rsplit(' ').nth(1)?.parse::<u64>().ok()
    };
    server.stderr().iter().filter_map(lost).sum()
}

#[test]
fn two_hundred_kills_at_random_moments_mix_up_nothing_and_lose_only_what_was_in_progress() {
    let seed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as u64;
    println!("seed {seed}");
    for style in [Style::Request, Style::Connection] {
        let mut random = Random::new(seed);
        let mut server = Start::new(style).workers(4).start();
        server.says("died: SIGKILL");
        server.may_say("before it was ready: SIGKILL");
        server.may_say("to drain: Broken pipe");
        server.may_say(RELOAD);
        let load = marked_load(&server);
        let mut kills = 0;
        while kills < KILLS / 2 {
            std::thread::sleep(Duration::from_micros(random.below(20_000)));
            let workers = server.workers();
            if workers.len() < 3 {
                // After that many deaths successors are delayed; a reload fills the slots.
                server.signal(libc::SIGHUP);
                wait_until("some are back", || server.workers().len() >= 3);
                continue;
            }
            proc::signal_if_there(workers[random.below(workers.len() as u64) as usize], libc::SIGKILL);
            kills += 1;
        }
        let done = load.done();
        wait_until("the load continues", || load.done() > done + 20);
        let tally = load.stop();
        let cut = |f: &Fault| matches!(f, Fault::Reset | Fault::Closed);
        assert!(tally.faults.keys().all(cut), "{style:?}, seed {seed}: {tally:?}");
        let lost = reported_lost(&server);
        assert!(tally.failed() <= lost, "{style:?}, seed {seed}: {lost} reported, {tally:?}");
        let each = if style == Style::Connection { 1 } else { CLIENTS };
        assert!(lost <= KILLS / 2 * each, "{style:?}, seed {seed}: {lost} reported");
        println!("{style:?}: {} answered, {} failed, {lost} reported lost", tally.answered(), tally.failed());
        server.signal(libc::SIGTERM);
        server.may_say("SIGKILL");
        server.ends();
    }
}
