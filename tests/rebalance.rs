//! `--rebalance`: after a scale-up idle connections move to the new workers, and no client notices.
#![allow(clippy::unwrap_used)]

mod util;

use std::collections::BTreeMap;
use std::time::Duration;
use util::random::Random;
use util::{Client, Fault, Load, Mode, PATIENCE, RELOAD, Server, Start, Style, comes_true, proc, wait_until};

/// Much longer than it takes to move connections.
const STEADY: Duration = Duration::from_millis(400);
const DIED: &str = "died: SIGKILL";

fn rebalancing(style: Style) -> Start {
    Start::new(style).set("rebalance", "on")
}

/// Clients on connections that have served once, and are idle.
fn idle(server: &Server, n: usize) -> Vec<Client> {
    let mut clients: Vec<_> = (0..n).map(|_| server.connect()).collect();
    clients.iter_mut().for_each(|c| drop(c.ask("pid").unwrap()));
    clients
}

/// The number of clients that each slot serves. Each must be answered on the connection it has.
fn shares(clients: &mut [Client]) -> Vec<usize> {
    let mut shares = BTreeMap::new();
    for client in clients {
        *shares.entry(client.ask("slot").unwrap()).or_default() += 1;
    }
    shares.into_values().collect()
}

fn scale_up(server: &mut Server, to: usize) {
    for n in server.slots().len() + 1..=to {
        server.signal(libc::SIGTTIN);
        wait_until("one more worker", || server.slots().len() == n);
    }
    server.scaled_to(to);
}

#[test]
fn each_worker_has_its_share_after_a_scale_up_and_no_client_reconnects() {
    let mut server = rebalancing(Style::Request).start();
    let mut clients = idle(&server, 40);
    scale_up(&mut server, 4);
    wait_until("a quarter each", || shares(&mut clients) == [10, 10, 10, 10]);
    drop(clients);
    server.stop();
}

#[test]
fn shares_are_equal_with_every_policy_and_in_every_mode() {
    for dispatch in ["round-robin", "least-connections"] {
        for mode in Mode::ALL {
            let mut server = rebalancing(Style::Request).set("dispatch", dispatch).accept(mode).start();
            let mut clients = idle(&server, 30);
            scale_up(&mut server, 3);
            wait_until("a third each", || shares(&mut clients) == [10, 10, 10]);
            drop(clients);
            if mode == Mode::ReusePort {
                // It has one socket more.
                server.signal(libc::SIGTERM);
                server.ends();
            } else {
                server.stop();
            }
        }
    }
}

#[test]
fn rebalancing_is_off_by_default() {
    let mut server = Start::new(Style::Request).start();
    let mut clients = idle(&server, 20);
    let before = shares(&mut clients);
    scale_up(&mut server, 4);
    wait_until("the new ones serve", || server.ask("slot") == Ok("3".into()));
    assert!(!comes_true(STEADY, || shares(&mut clients) != before));
    drop(clients);
    server.stop();
}

#[test]
fn thousands_of_connections_move_while_others_are_busy() {
    const MANY: usize = 2000;
    proc::limit(std::process::id() as i32, "nofile", 2 * MANY as u32);
    let mut server = rebalancing(Style::Request).start();
    let mut clients = idle(&server, MANY);
    let busy = Load::keep(server.address(), server.style, 4, "pid");
    scale_up(&mut server, 4);
    // The busy ones are counted too.
    let even = |n: &usize| n.abs_diff(MANY / 4) <= 4;
    wait_until("a quarter each", || shares(&mut clients).iter().filter(|n| even(n)).count() == 4);
    let tally = busy.stop();
    assert!(tally.faults.is_empty(), "{tally:?}");
    drop(clients);
    server.stop();
}

#[test]
fn scaling_up_and_down_under_load_breaks_no_connection() {
    let mut server = rebalancing(Style::Request).start();
    let kept = Load::keep(server.address(), server.style, 8, "sleep 1");
    let load = server.load(2, "pid");
    for _ in 0..4 {
        scale_up(&mut server, 4);
        kept.go_on_for(200);
        for n in [3, 2] {
            server.signal(libc::SIGTTOU);
            server.scaled_to(n);
            wait_until("one fewer", || server.slots().len() == n);
        }
        kept.go_on_for(50);
    }
    for tally in [kept, load].map(Load::stop) {
        assert!(tally.faults.is_empty(), "{tally:?}");
    }
    server.stop();
}

#[test]
fn pipelined_requests_are_all_answered_once_while_their_connection_moves() {
    const DEPTH: usize = 25;
    let mut server = rebalancing(Style::Request).start();
    let mut clients = idle(&server, 12);
    let batch = "GET /count/hits HTTP/1.1\r\nHost: t\r\n\r\n".repeat(DEPTH);
    let mut rounds = 0;
    server.signal(libc::SIGTTIN);
    server.scaled_to(3);
    wait_until("a third each", || {
        let cut = (rounds * 131) % batch.len();
        clients.iter_mut().for_each(|c| c.send(&batch.as_bytes()[..cut]).unwrap());
        clients.iter_mut().for_each(|c| c.send(&batch.as_bytes()[cut..]).unwrap());
        for client in &mut clients {
            (0..DEPTH).for_each(|_| assert_eq!(client.answer(), Ok("count".into()), "round {rounds}"));
        }
        rounds += 1;
        shares(&mut clients) == [4, 4, 4]
    });
    assert_eq!(server.dir.count("hits"), (rounds * DEPTH * clients.len()) as u64);
    drop(clients);
    server.stop();
}

#[test]
fn requests_in_progress_stay_in_their_worker() {
    let mut server = rebalancing(Style::Request).start();
    let mut clients = idle(&server, 10);
    let old: Vec<_> = clients.iter_mut().map(|c| c.ask("pid").unwrap()).collect();
    clients[0].send(b"GET /pid HT").unwrap();
    // Read by its worker before that begins to shed: a later request to the same worker is answered.
    while server.ask("pid").as_ref() != Ok(&old[0]) {}
    scale_up(&mut server, 5);
    wait_until("two each", || {
        shares(&mut clients[1..]).iter().sum::<usize>() == 9 && shares(&mut clients[1..]).len() == 5
    });
    clients[0].send(b"TP/1.1\r\nHost: t\r\n\r\n").unwrap();
    assert_eq!(clients[0].answer().as_ref(), Ok(&old[0]));
    drop(clients);
    server.stop();
}

#[test]
fn connections_that_cannot_be_handed_back_stay() {
    for style in [Style::Data, Style::Connection] {
        let mut server = rebalancing(style).start();
        let mut clients: Vec<_> = (0..2).map(|_| server.connect()).collect();
        let old: Vec<_> = clients.iter_mut().map(|c| c.ask("pid").unwrap()).collect();
        scale_up(&mut server, 4);
        let mut more: Vec<_> = (0..2).map(|_| server.connect()).collect();
        assert!(more.iter_mut().all(|c| c.ask("slot").is_ok()));
        let same = |c: &mut Vec<Client>| c.iter_mut().map(|c| c.ask("pid").unwrap()).eq(old.iter().cloned());
        assert!(!comes_true(STEADY, || !same(&mut clients)), "{style:?}");
        drop((clients, more));
        server.stop();
    }
}

#[test]
fn a_successor_of_a_worker_that_died_gets_no_share() {
    let mut server = rebalancing(Style::Request).start();
    server.says("died: SIGKILL");
    let mut clients = idle(&server, 20);
    let victim = server.worker_in(1);
    let stay = clients.iter_mut().filter_map(|c| c.ask("slot").ok()).filter(|slot| slot == "0").count();
    proc::signal(victim, libc::SIGKILL);
    server.replaces(victim);
    wait_until("the successor serves", || server.ask("slot") == Ok("1".into()));
    let mut left: Vec<_> = clients.drain(..).filter_map(|mut c| c.ask("pid").is_ok().then_some(c)).collect();
    assert_eq!(left.len(), stay);
    assert!(!comes_true(STEADY, || shares(&mut left) != [stay]));
    drop(left);
    server.stop();
}

#[test]
fn in_a_reload_no_connection_returns_to_old_code_and_afterwards_each_worker_has_its_share() {
    let mut server = rebalancing(Style::Request).start();
    server.may_say(RELOAD);
    let mut clients = idle(&server, 24);
    for round in 0..3 {
        let mut last = vec![0; clients.len()];
        server.signal(libc::SIGTTIN);
        server.signal(libc::SIGHUP);
        server.scaled_to(3 + round);
        let mut look = || {
            for (client, last) in clients.iter_mut().zip(&mut last) {
                let generation: u32 = client.ask("generation").unwrap().parse().unwrap();
                assert!(generation >= *last, "{generation} after {last}");
                *last = generation;
            }
        };
        wait_until("the reload is complete", || {
            look();
            server.lines_with("is complete") > round
        });
        server.rests();
        let most = clients.len().div_ceil(3 + round);
        wait_until("all have their share", || shares(&mut clients).iter().all(|n| *n <= most));
    }
    drop(clients);
    server.stop();
}

/// Sends a request from every client, and waits until all but those of the stopped worker are answered; then it continues, and the
/// rest are answered.
fn all_are_answered_although_it_is_stopped(mut clients: Vec<Client>, pid: i32) {
    clients.iter_mut().for_each(|c| c.send_command("pid").unwrap());
    let held = connections(pid);
    let mut waiting: Vec<_> = clients.iter_mut().collect();
    wait_until("only its own wait", || {
        waiting.retain_mut(|c| {
            c.patience(Duration::from_millis(1));
            match c.answer() {
                Err(Fault::TimedOut) => true,
                answer => answer.is_err_and(|fault| panic!("{fault:?}")),
            }
        });
        waiting.len() <= held
    });
    proc::signal(pid, libc::SIGCONT);
    for client in waiting {
        client.patience(PATIENCE);
        assert!(client.answer().is_ok());
    }
}

/// The connections a worker has open, and its channels.
fn connections(pid: i32) -> usize {
    proc::descriptors(pid).into_iter().filter(|(_, kind)| kind == "socket").count()
}

#[test]
fn a_stopped_new_worker_delays_only_its_own_connections() {
    let mut random = Random::new(7);
    for _ in 0..4 {
        let mut server = rebalancing(Style::Request).start();
        let clients = idle(&server, 300);
        server.signal(libc::SIGTTIN);
        server.scaled_to(3);
        wait_until("it serves", || server.ask("slot") == Ok("2".into()));
        // Before the others begin to shed, or while they do.
        comes_true(Duration::from_millis(random.below(120)), || false);
        let new = server.worker_in(2);
        proc::freeze(new);
        all_are_answered_although_it_is_stopped(clients, new);
        server.stop();
    }
}

#[test]
fn a_worker_stopped_while_it_sheds_loses_nothing() {
    let mut random = Random::new(8);
    for _ in 0..4 {
        let mut server = rebalancing(Style::Request).start();
        let clients = idle(&server, 600);
        server.signal(libc::SIGTTIN);
        server.scaled_to(3);
        wait_until("the new one serves", || server.ask("slot") == Ok("2".into()));
        comes_true(Duration::from_millis(random.below(120)), || false);
        let old = server.worker_in(0);
        proc::freeze(old);
        all_are_answered_although_it_is_stopped(clients, old);
        server.stop();
    }
}

#[test]
fn a_worker_that_dies_while_it_sheds_loses_only_what_it_still_had() {
    let mut random = Random::new(9);
    for _ in 0..6 {
        let mut server = rebalancing(Style::Request).start();
        server.says(DIED);
        let mut clients = idle(&server, 600);
        server.signal(libc::SIGTTIN);
        server.scaled_to(3);
        wait_until("the new one serves", || server.ask("slot") == Ok("2".into()));
        comes_true(Duration::from_millis(random.below(120)), || false);
        let old = server.worker_in(0);
        proc::signal(old, libc::SIGKILL);
        server.replaces(old);
        let gone = clients.iter_mut().filter_map(|c| c.ask("pid").err()).count();
        server.wait_for_line(DIED);
        let line = server.stderr().into_iter().find(|l| l.contains(DIED)).unwrap();
        let (_, count) = line.split_once("SIGKILL; ").unwrap();
        let told: usize = count.split(' ').next().unwrap().parse().unwrap();
        // It may have died after handing one back and before counting that.
        assert!(gone <= told && told <= gone + 1, "{gone} are gone: {line}");
        drop(clients);
        server.stop();
    }
}

#[test]
fn a_master_that_is_replaced_while_connections_move_loses_none() {
    let mut random = Random::new(10);
    for _ in 0..4 {
        let mut server = rebalancing(Style::Request).start();
        server.says("upgrade: version");
        server.says(RELOAD);
        let mut clients = idle(&server, 200);
        server.signal(libc::SIGTTIN);
        server.scaled_to(3);
        wait_until("the new one serves", || server.ask("slot") == Ok("2".into()));
        comes_true(Duration::from_millis(random.below(120)), || false);
        server.signal(libc::SIGUSR2);
        wait_until("another program has taken over, and reloaded", || {
            clients.iter_mut().for_each(|c| assert!(c.ask("pid").is_ok()));
            server.lines_with("is complete") == 1
        });
        server.rests();
        clients.iter_mut().for_each(|c| assert_eq!(c.ask("generation"), Ok("2".into())));
        drop(clients);
        server.stop();
    }
}
