//! Streams that go from worker to worker with their state: at a reload and wherever a worker drains, and on purpose.
#![allow(clippy::unwrap_used)]

mod util;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use util::handler::{Mode, compile};
use util::random::Random;
use util::streams::{Seen, Streams};
use util::{Client, RELOAD, Server, Start, Style, proc, wait_until};

fn module(flags: &[&str]) -> PathBuf {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/handover.c");
    compile(&fs::read_to_string(source).unwrap(), flags)
}

fn start(workers: usize) -> Start {
    Start::new(Style::Data).workers(workers).module(module(&[]))
}

fn ask(client: &mut Client, command: &str) -> String {
    client.ask(command).unwrap()
}

/// What a stream says of its worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Who {
    worker: u32,
    pid: i32,
    generation: u32,
    version: u32,
    moves: u32,
    closed: u32,
}

fn who(client: &mut Client) -> Who {
    let line = ask(client, "who");
    let n: Vec<u32> = line.split(' ').map(|word| word.parse().unwrap()).collect();
    let [worker, pid, generation, version, moves, closed] = n[..] else { panic!("{line}") };
    Who { worker, pid: pid.cast_signed(), generation, version, moves, closed }
}

/// Waits until its worker is of this generation.
fn moved(client: &mut Client, generation: u32) -> Who {
    let mut found = who(client);
    wait_until("the stream is with a new worker", || {
        found = who(client);
        found.generation == generation
    });
    found
}

#[test]
fn a_stream_goes_on_in_the_new_worker_with_its_state() {
    let mut server = start(2).start();
    let mut clients: Vec<_> = (0..10).map(|_| server.connect()).collect();
    for client in &mut clients {
        assert_eq!(ask(client, "count a"), "a 1");
        assert_eq!(ask(client, "state 1000"), "ok");
        assert_eq!(who(client).moves, 0);
    }
    for generation in 2..5 {
        server.reload();
        for client in &mut clients {
            let found = moved(client, generation);
            assert_eq!((found.moves, found.version, found.closed), (generation - 1, 1, 0));
        }
    }
    drop(clients);
    server.rests();
    server.stop();
}

#[test]
fn a_line_of_which_a_part_was_read_is_read_on() {
    let mut server = start(1).start();
    let mut client = server.connect();
    assert_eq!(who(&mut client).generation, 1);
    client.send(b"count first\ncount sec").unwrap();
    assert_eq!(client.answer().unwrap(), "first 2");
    let before = server.workers()[0];
    server.reload();
    wait_until("the old worker has gone", || server.has_replaced(before));
    client.send(b"ond\ncount thi").unwrap();
    assert_eq!(client.answer().unwrap(), "second 3");
    server.reload();
    client.send(b"rd\n").unwrap();
    assert_eq!(client.answer().unwrap(), "third 4");
    moved(&mut client, 3);
    drop(client);
    server.stop();
}

#[test]
fn what_was_written_and_not_sent_follows_in_order() {
    let mut server = start(1).start();
    let mut client = server.connect();
    let size = 9_000_000;
    client.send_command(&format!("flood {size}")).unwrap();
    client.wait_for_bytes().unwrap();
    for _ in 0..2 {
        let before = server.workers()[0];
        server.reload();
        wait_until("the old worker has gone", || server.has_replaced(before));
    }
    for at in (0..size).step_by(64) {
        assert_eq!(client.answer().unwrap(), format!("{at:063}"));
    }
    assert_eq!(client.answer().unwrap(), "done");
    assert_eq!(who(&mut client).generation, 3);
    drop(client);
    server.stop();
}

#[test]
fn one_that_is_not_given_away_stays_and_is_served() {
    let mut server = start(2).start();
    let (mut one, mut other) = (server.connect(), server.connect());
    assert_eq!(ask(&mut one, "stay"), "ok");
    assert_eq!(ask(&mut other, "count a"), "a 1");
    server.reload();
    assert_eq!(moved(&mut other, 2).moves, 1);
    for n in 2..50 {
        assert_eq!(ask(&mut one, "count a"), format!("a {n}"));
    }
    assert_eq!(who(&mut one).generation, 1);
    drop((one, other));
    server.rests();
    server.stop();
}

#[test]
fn without_a_version_none_is_given_away() {
    let mut server = Start::new(Style::Data).workers(1).module(module(&["-DNO_STATE"])).start();
    let mut client = server.connect();
    assert_eq!(who(&mut client).generation, 1);
    server.reload();
    assert_eq!(who(&mut client).generation, 1);
    drop(client);
    server.rests();
    server.stop();
}

#[test]
fn one_that_is_refused_goes_back_to_its_worker_and_stays_there() {
    for command in ["refuse others", "slow"] {
        let mut server = start(1).start();
        server.may_say("on_takeover");
        let (mut one, mut other) = (server.connect(), server.connect());
        assert_eq!(ask(&mut one, command), "ok");
        one.send(b"count a\ncou").unwrap();
        assert_eq!(one.answer().unwrap(), "a 2");
        assert_eq!(ask(&mut other, "count b"), "b 1");
        server.reload();
        server.wait_for_line("on_takeover");
        one.send(b"nt a\n").unwrap();
        assert_eq!(one.answer().unwrap(), "a 3", "nothing of what was written in the call that refused it");
        assert_eq!((who(&mut one).generation, who(&mut one).moves), (1, 1));
        assert_eq!(moved(&mut other, 2).moves, 1);
        drop((one, other));
        server.rests();
        server.stop();
    }
}

#[test]
fn one_that_all_refuse_is_reset() {
    let mut server = start(1).start();
    server.may_say("on_takeover");
    let (mut one, mut other) = (server.connect(), server.connect());
    assert_eq!(ask(&mut one, "refuse all"), "ok");
    assert_eq!(ask(&mut other, "count a"), "a 1");
    server.reload();
    assert!(one.rest().is_err());
    moved(&mut other, 2);
    drop(other);
    server.rests();
    server.stop();
}

#[test]
fn too_much_state_is_told_and_the_stream_stays() {
    for (command, settings) in [("state 70000", ""), ("more 65537", ""), ("state 2000", "1000")] {
        let mut start = start(1);
        if !settings.is_empty() {
            start = start.set("max-state", settings);
        }
        let mut server = start.start();
        server.may_say("on_handover");
        let mut client = server.connect();
        assert_eq!(ask(&mut client, command), "ok");
        server.reload();
        server.wait_for_line("max-state is");
        assert_eq!(ask(&mut client, "count a"), "a 2");
        assert_eq!(who(&mut client).generation, 1);
        drop(client);
        server.rests();
        server.stop();
    }
    let mut server = start(1).set("max-state", "1m").start();
    let mut client = server.connect();
    assert_eq!(ask(&mut client, "state 1000000"), "ok");
    server.reload();
    assert_eq!(moved(&mut client, 2).moves, 1);
    drop(client);
    server.stop();
}

#[test]
fn one_with_too_many_topics_stays() {
    let mut server = start(1).set("max-body", "1k").set("max-pending", "64k").start();
    server.may_say("on_handover");
    let mut client = server.connect();
    assert_eq!(ask(&mut client, "topics 6000"), "ok");
    server.reload();
    server.wait_for_line("too many topics");
    assert_eq!(ask(&mut client, "count a"), "a 2");
    assert_eq!(who(&mut client).generation, 1);
    drop(client);
    server.rests();
    server.stop();
}

#[test]
fn one_that_is_closed_as_it_is_given_away_ends_in_its_new_worker() {
    let mut server = start(1).start();
    let (mut one, mut other) = (server.connect(), server.connect());
    assert_eq!(ask(&mut one, "close"), "ok");
    assert_eq!(ask(&mut other, "count a"), "a 1");
    server.reload();
    assert_eq!(one.rest().unwrap(), b"bye\n");
    let mut found = moved(&mut other, 2);
    wait_until("on_close was called", || {
        found = who(&mut other);
        found.closed == 1
    });
    drop((one, other));
    server.rests();
    server.stop();
}

#[test]
fn those_that_no_worker_has_room_for_are_served_by_their_own_until_the_deadline() {
    let mut server = start(2).set("max-conns", "3").set("drain-timeout", "4s").start();
    let mut clients: Vec<_> = (0..6).map(|_| server.connect()).collect();
    for client in &mut clients {
        who(client);
    }
    server.may_say("at its deadline");
    server.signal(libc::SIGTTOU);
    server.scaled_to(1);
    for client in &mut clients {
        assert_eq!(ask(client, "count a"), "a 2");
    }
    let open = |clients: &[Client]| clients.iter().filter(|client| client.is_open()).count();
    wait_until("those of the worker that leaves are closed", || open(&clients) == 3);
    wait_until("it has gone", || server.workers().len() == 1);
    drop(clients);
    server.stop();
}

#[test]
fn any_number_goes_to_one_worker() {
    let server = start(2).start();
    let mut clients: Vec<_> = (0..600).map(|_| server.connect()).collect();
    let goal = who(&mut clients[0]).worker;
    let mut others: Vec<_> =
        clients.iter_mut().filter_map(|c| (who(c).worker != goal).then_some(c)).collect();
    for client in &mut others {
        client.send_command(&format!("move {goal}")).unwrap();
    }
    for client in &mut others {
        assert_eq!(client.answer().unwrap(), "ok");
        wait_until("it has moved", || who(client).moves > 0);
        assert_eq!(who(client).worker, goal);
    }
    drop(clients);
    server.rests();
    server.stop();
}

#[test]
fn a_handler_transfers_a_stream_to_the_worker_it_names() {
    let mut server = start(3).start();
    let mut clients: Vec<_> = (0..3).map(|_| server.connect()).collect();
    let workers: Vec<_> = clients.iter_mut().map(|client| who(client).worker).collect();
    let goal = workers[2];
    assert_eq!(ask(&mut clients[2], &format!("move {goal}")), "-2", "to its own worker");
    for client in &mut clients[..2] {
        client.send_command(&format!("move {goal}")).unwrap();
        client.send(b"count next\n").unwrap();
        assert_eq!(client.answer().unwrap(), "ok");
        assert!(client.answer().unwrap().starts_with("next "));
        wait_until("it is there", || who(client).worker == goal);
        assert_eq!(who(client).moves, 1);
    }
    // To none, and to one that refuses it.
    assert_eq!(ask(&mut clients[0], "move 4000000000"), "ok");
    wait_until("it has come back", || who(&mut clients[0]).moves == 2);
    assert_eq!(who(&mut clients[0]).worker, goal);
    server.may_say("on_takeover");
    assert_eq!(ask(&mut clients[0], "refuse others"), "ok");
    assert_eq!(ask(&mut clients[0], &format!("move {}", workers[0])), "ok");
    wait_until("it has come back", || who(&mut clients[0]).moves == 3);
    assert_eq!(who(&mut clients[0]).worker, goal);
    drop(clients);
    server.rests();
    server.stop();
}

#[test]
fn one_that_has_stayed_goes_later_with_what_it_has_not_consumed() {
    let mut server = start(2).start();
    let mut client = server.connect();
    assert_eq!(ask(&mut client, "stay"), "ok");
    server.reload();
    assert_eq!(who(&mut client).generation, 1);
    // Nothing comes behind this: what is left of it is enough for the new worker to be called.
    client.send(b"stay\ngo\ncount a\ncount b\n").unwrap();
    for expected in ["ok", "ok", "a 5", "b 6"] {
        assert_eq!(client.answer().unwrap(), expected);
    }
    assert_eq!(who(&mut client).generation, 2);
    // And in a worker that does not drain.
    client.send(b"go\ncount c\n").unwrap();
    assert_eq!((client.answer().unwrap(), client.answer().unwrap()), ("ok".into(), "c 9".into()));
    drop(client);
    server.rests();
    server.stop();
}

#[test]
fn its_topics_and_settings_go_with_it() {
    let mut server = start(2).set("drain-timeout", "1s").start();
    let (mut one, mut other) = (server.connect(), server.connect());
    assert_eq!(ask(&mut one, "join news"), "0");
    assert_eq!(ask(&mut one, "half"), "ok");
    assert_eq!(ask(&mut other, "join more"), "0");
    assert_eq!(ask(&mut other, "hold"), "ok");
    one.send(b"count end\n").unwrap();
    one.end().unwrap();
    assert_eq!(one.answer().unwrap(), "end 3");
    server.reload();
    server.rests();
    let mut speaker = server.connect();
    assert_eq!(who(&mut speaker).generation, 2);
    assert_eq!(ask(&mut speaker, "tell news one"), "0");
    assert_eq!(one.answer().unwrap(), "one");
    other.send_command("count unread").unwrap();
    assert_eq!(ask(&mut speaker, "tell more two"), "0");
    assert_eq!(other.answer().unwrap(), "two", "and not what it has not read");
    drop((one, other, speaker));
    // Of one that is half open nobody learns that its client has gone, and one is not read.
    server.may_say("has ended at its deadline");
    server.signal(libc::SIGTERM);
    server.ends_with(6);
}

#[test]
fn a_worker_that_dies_in_a_takeover_loses_that_stream_alone() {
    let mut server = start(2).start();
    let mut clients: Vec<_> = (0..20).map(|_| server.connect()).collect();
    clients.iter_mut().for_each(|client| assert_eq!(ask(client, "count a"), "a 1"));
    let mut crashing = server.connect();
    assert_eq!(ask(&mut crashing, "crash"), "ok");
    let to = who(&mut clients[0]).worker;
    if who(&mut crashing).worker == to {
        crashing = server.connect();
        assert_eq!(ask(&mut crashing, "crash"), "ok");
        assert_ne!(who(&mut crashing).worker, to);
    }
    let pid = who(&mut clients[0]).pid;
    server.may_say("died");
    server.may_say("abort");
    assert_eq!(ask(&mut crashing, &format!("move {to}")), "ok");
    // By a reset or not, as the kernel closes it.
    let _ = crashing.rest();
    server.replaces(pid);
    let (mut lost, mut left) = (0, 0);
    for client in &mut clients {
        match client.ask("count b") {
            Ok(answer) => {
                assert_eq!(answer, "b 2");
                left += 1;
            }
            Err(_) => lost += 1,
        }
    }
    assert!(left >= 10 && lost <= 10, "{left} left, {lost} lost");
    drop(clients);
    server.stop();
}

/// Waits until every stream has been answered `times` times more, on average.
fn goes_on(streams: &Streams, count: u64, times: u64) {
    let before = streams.answers();
    wait_until("the streams go on", || streams.answers() >= before + count * times);
}

fn is_right(seen: &Seen, most_ended: u64) {
    assert!(
        seen.wrong.is_empty(),
        "{} wrong: {:#?}",
        seen.wrong.len(),
        &seen.wrong[..seen.wrong.len().min(9)]
    );
    assert!(seen.ended <= most_ended, "{} ended", seen.ended);
}

#[test]
fn counting_streams_go_on_through_reloads_and_scalings() {
    let mut server = start(4).start();
    let count = 500;
    let streams = Streams::start(server.tcp(), count, 5, Duration::from_millis(20));
    goes_on(&streams, count as u64, 2);
    for round in 0..6 {
        server.reload();
        goes_on(&streams, count as u64, 1);
        let (signal, workers) = if round % 2 == 0 { (libc::SIGTTOU, 3) } else { (libc::SIGTTIN, 4) };
        server.signal(signal);
        server.scaled_to(workers);
        goes_on(&streams, count as u64, 1);
    }
    let seen = streams.stop();
    println!("{} answers, {} ended, longest {:?}", seen.answers, seen.ended, seen.longest);
    is_right(&seen, 0);
    server.rests();
    server.stop();
}

/// What is done to the server while the streams count. Half of it are reloads.
fn disturb(server: &mut Server, workers: &mut usize, what: u64, random: &mut Random) {
    match what {
        1 => {
            let old = fs::read(server.module()).unwrap();
            server.install_bytes(b"no module");
            server.reload_fails();
            server.install_bytes(&old);
        }
        2 | 3 => {
            let (signal, now) = if *workers > 3 { (libc::SIGTTOU, 3) } else { (libc::SIGTTIN, 4) };
            *workers = now;
            server.signal(signal);
            server.scaled_to(now);
            wait_until("the workers are those", || server.workers().len() == now);
        }
        4 => {
            // Replaced by prefork itself: it leaves of its own accord.
            let pid = random.one_of(&server.workers());
            proc::signal(pid, libc::SIGTERM);
            server.replaces(pid);
        }
        5 => {
            let pid = random.one_of(&server.workers());
            server.may_say(&format!("pid {pid}) died"));
            proc::signal(pid, libc::SIGKILL);
            server.replaces(pid);
        }
        _ => server.reload(),
    }
}

/// The connections that are lost by the log.
fn lost(server: &Server) -> u64 {
    let number = |line: &str| {
        let words: Vec<&str> = line.split(&[' ', ',']).collect();
        let at = words.iter().position(|word| *word == "lost").filter(|at| *at > 3);
        at.and_then(|at| words[..at].iter().rev().find_map(|word| word.parse().ok())).unwrap_or(0)
    };
    server.stderr().iter().map(|line| number(line)).sum()
}

fn count_through(count: usize, rounds: u64, ahead: u64, pause: Duration) {
    let seed =
        std::env::var("PREFORK_SEED").map_or_else(|_| std::process::id().into(), |s| s.parse().unwrap());
    println!("PREFORK_SEED={seed}");
    let mut random = Random::new(seed);
    let mut server = start(4).own_module().start();
    for line in ["left", "leaves", "died", "respawn"] {
        server.may_say(line);
    }
    let streams = Streams::start(server.tcp(), count, ahead, pause);
    goes_on(&streams, count as u64, 2);
    let mut workers = 4;
    for _ in 0..rounds {
        let what = 1 + random.below(10);
        let begun = Instant::now();
        disturb(&mut server, &mut workers, what, &mut random);
        println!("{what} took {:?}", begun.elapsed());
        goes_on(&streams, count as u64, 1);
    }
    let seen = streams.stop();
    let lost = lost(&server);
    println!("{} answers, {} ended, {lost} lost, longest {:?}", seen.answers, seen.ended, seen.longest);
    is_right(&seen, lost);
    server.rests();
    server.stop();
}

#[test]
fn counting_streams_go_on_through_whatever_happens() {
    count_through(300, 12, 5, Duration::from_millis(20));
}

#[test]
#[ignore = "takes minutes; make soak"]
fn ten_thousand_counting_streams_go_on_through_whatever_happens() {
    count_through(10_000, 50, 3, Duration::from_millis(500));
}

fn spread(clients: &mut [Client]) -> Vec<usize> {
    let workers: Vec<_> = clients.iter_mut().map(|client| who(client).worker).collect();
    let mut counts: BTreeMap<u32, usize> = BTreeMap::new();
    workers.iter().for_each(|worker| *counts.entry(*worker).or_default() += 1);
    counts.into_values().collect()
}

#[test]
fn they_spread_to_workers_that_a_scale_up_adds_if_that_is_set() {
    let mut server = start(2).set("rebalance", "on").start();
    let mut clients: Vec<_> = (0..12).map(|_| server.connect()).collect();
    assert_eq!(spread(&mut clients), [6, 6]);
    assert_eq!(ask(&mut clients[0], "stay"), "ok");
    server.signal(libc::SIGTTIN);
    server.scaled_to(3);
    wait_until("the streams are spread", || spread(&mut clients) == [4, 4, 4]);
    assert_eq!(who(&mut clients[0]).moves, 0);
    let moves: u32 = clients.iter_mut().map(|client| who(client).moves).sum();
    assert_eq!(moves, 4, "no more than that");
    drop(clients);
    server.stop();
}

#[test]
fn a_program_that_takes_over_has_them_go_on() {
    for mode in Mode::ALL {
        let mut server = start(2).accept(mode).start();
        server.says("upgrade: version");
        server.may_say(RELOAD);
        let mut clients: Vec<_> = (0..10).map(|_| server.connect()).collect();
        clients.iter_mut().for_each(|client| assert_eq!(ask(client, "state 500"), "ok"));
        server.signal(libc::SIGUSR2);
        for client in &mut clients {
            assert_eq!(moved(client, 2).moves, 1, "{mode:?}");
        }
        drop(clients);
        server.rests();
        server.stop();
    }
}

#[test]
fn they_go_back_to_the_old_generation_when_a_reload_is_rolled_back() {
    let mut server = start(3).own_module().start();
    let mut clients: Vec<_> = (0..30).map(|_| server.connect()).collect();
    clients.iter_mut().for_each(|client| assert_eq!(ask(client, "count a"), "a 1"));
    // The first worker of it starts, the second one does not.
    server.install(&module(&["-DVERSION=2", "-DONE_STARTS"]));
    server.may_say("worker_start");
    server.may_say("did not become ready");
    let why = server.reload_fails();
    assert!(why.contains("worker_start returned 1"), "{why}");
    for (n, client) in clients.iter_mut().enumerate() {
        let found = moved(client, 1);
        assert_eq!(ask(client, "count a").split(' ').next(), Some("a"), "{n}: {found:?}");
        assert!(found.version <= 2 && found.moves <= 3, "{found:?}");
    }
    assert!(clients.iter_mut().any(|client| who(client).version == 2), "some were with the new generation");
    drop(clients);
    server.rests();
    server.stop();
}

#[test]
fn a_stop_ends_while_streams_are_on_their_way() {
    for wait in [0, 1, 5, 20] {
        let mut server = start(2).set("drain-timeout", "500ms").start();
        server.may_say(RELOAD);
        let mut clients: Vec<_> = (0..200).map(|_| server.connect()).collect();
        clients.iter_mut().for_each(|client| assert_eq!(ask(client, "state 5000"), "ok"));
        server.signal(libc::SIGHUP);
        std::thread::sleep(Duration::from_millis(wait));
        server.signal(libc::SIGTERM);
        for client in &mut clients {
            client.ask("count a").ok();
        }
        drop(clients);
        server.may_say("");
        server.ends();
    }
}
