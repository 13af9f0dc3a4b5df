//! Idle connections move: a worker that leaves hands them back, and another one serves them.
#![allow(clippy::unwrap_used)]

mod util;

use std::collections::BTreeMap;
use util::{Client, Load, RELOAD, Server, Start, Style, proc, wait_until};

/// Descriptors of this process: enough for all tests at the same time.
const OPEN: u32 = 12_000;

/// Clients on connections that have served once, and are idle.
fn idle(server: &Server, n: usize) -> Vec<Client> {
    let mut clients: Vec<_> = (0..n).map(|_| server.connect()).collect();
    clients.iter_mut().for_each(|c| drop(c.ask("pid").unwrap()));
    clients
}

fn pid_of(client: &mut Client) -> i32 {
    client.ask("pid").unwrap().parse().unwrap()
}

#[test]
fn idle_connections_survive_a_reload() {
    let mut server = Start::new(Style::Request).start();
    let old = server.workers();
    let mut clients = idle(&server, 40);
    for _ in 0..3 {
        server.reload();
        server.rests();
        for client in &mut clients {
            assert!(server.workers().contains(&pid_of(client)));
        }
    }
    assert!(clients.iter_mut().all(|c| !old.contains(&pid_of(c))));
    drop(clients);
    server.stop();
}

/// The number of clients that each slot serves, by slot. Each must be answered on the connection it has.
fn shares(clients: &mut [Client]) -> Vec<usize> {
    let mut shares = BTreeMap::<String, usize>::new();
    for client in clients {
        *shares.entry(client.ask("slot").unwrap()).or_default() += 1;
    }
    shares.into_values().collect()
}

#[test]
fn shares_stay_even_over_reloads() {
    for dispatch in ["round-robin", "least-connections"] {
        let mut server = Start::new(Style::Request).workers(4).set("dispatch", dispatch).start();
        let mut clients = idle(&server, 64);
        assert_eq!(shares(&mut clients), [16; 4]);
        for _ in 0..4 {
            server.reload();
            server.rests();
            let now = shares(&mut clients);
            assert!(now.len() == 4 && now.iter().all(|n| n.abs_diff(16) <= 1), "{dispatch}: {now:?}");
        }
        drop(clients);
        server.stop();
    }
}

#[test]
fn shares_of_thousands_stay_even_over_reloads_though_they_come_back_faster_than_they_are_taken() {
    const MANY: usize = 2000;
    proc::limit(std::process::id() as i32, "nofile", OPEN);
    let mut server = Start::new(Style::Request).workers(4).start();
    let mut clients = idle(&server, MANY);
    for _ in 0..4 {
        server.reload();
        server.rests();
        assert_eq!(shares(&mut clients), [MANY / 4; 4]);
    }
    drop(clients);
    server.stop();
}

#[test]
fn connections_without_a_request_yet_survive_a_reload() {
    let mut server = Start::new(Style::Request).start();
    let mut clients: Vec<_> = (0..10).map(|_| server.connect()).collect();
    server.ask("pid").unwrap();
    server.reload();
    server.rests();
    assert!(clients.iter_mut().all(|c| c.ask("generation") == Ok("2".into())));
    drop(clients);
    server.stop();
}

#[test]
fn idle_connections_survive_scaling_down() {
    let mut server = Start::new(Style::Request).workers(3).start();
    let mut clients = idle(&server, 30);
    server.signal(libc::SIGTTOU);
    server.scaled_to(2);
    wait_until("a worker leaves", || proc::children(server.pid).len() == 2);
    let left = server.workers();
    assert!(clients.iter_mut().all(|c| left.contains(&pid_of(c))));
    drop(clients);
    server.stop();
}

#[test]
fn idle_connections_survive_recycling() {
    let server = Start::new(Style::Request).set("max-requests", "100").start();
    let mut clients = idle(&server, 20);
    let first = server.workers();
    let load = server.load(2, "pid");
    wait_until("both are replaced", || server.workers().iter().all(|pid| !first.contains(pid)));
    assert!(clients.iter_mut().all(|c| c.ask("pid").is_ok()));
    let tally = load.stop();
    assert!(tally.faults.is_empty(), "{tally:?}");
    drop(clients);
    server.stop();
}

#[test]
fn a_worker_that_gets_sigterm_hands_its_connections_back() {
    let server = Start::new(Style::Request).start();
    let mut clients = idle(&server, 20);
    for slot in [0, 1] {
        let pid = server.worker_in(slot);
        proc::signal(pid, libc::SIGTERM);
        server.replaces(pid);
        assert!(clients.iter_mut().all(|c| pid_of(c) != pid));
    }
    drop(clients);
    server.stop();
}

#[test]
fn workers_that_get_sigterm_under_load_lose_nothing() {
    for style in Style::ALL {
        let server = Start::new(style).start();
        let load = server.load(6, "sleep 1");
        for n in 0..6 {
            load.go_on_for(20);
            let pid = server.worker_in(n % 2);
            proc::signal(pid, libc::SIGTERM);
            server.replaces(pid);
        }
        let tally = load.stop();
        assert!(tally.faults.is_empty(), "{style:?}: {tally:?}");
        server.stop();
    }
}

#[test]
fn a_request_in_progress_is_finished_by_its_worker_and_its_connection_survives() {
    let mut server = Start::new(Style::Request).start();
    let mut client = server.connect();
    let old = pid_of(&mut client);
    client.send_command("gate g").unwrap();
    wait_until("the handler runs", || server.dir.at_gate("g") == 1);
    server.reload();
    assert!(server.workers().contains(&old), "it finishes what it has");
    server.dir.make("g");
    assert_eq!(client.answer(), Ok("gate".into()));
    // A request at once may still reach the old one.
    server.rests();
    assert_ne!(pid_of(&mut client), old);
    assert_eq!(client.ask("generation"), Ok("2".into()));
    assert_eq!(server.dir.at_gate("g"), 1);
    drop(client);
    server.stop();
}

#[test]
fn half_a_request_is_finished_by_its_worker() {
    let mut server = Start::new(Style::Request).start();
    let mut client = server.connect();
    let old = client.ask("pid").unwrap();
    client.send(b"GET /pid HT").unwrap();
    // Read by the worker before the reload reaches it: a later request to the same worker is answered.
    while server.ask("pid").unwrap() != old {}
    server.reload();
    client.send(b"TP/1.1\r\nHost: t\r\n\r\n").unwrap();
    assert_eq!(client.answer(), Ok(old));
    server.rests();
    assert_eq!(client.ask("generation"), Ok("2".into()));
    drop(client);
    server.stop();
}

#[test]
fn pipelined_requests_are_all_answered_once_while_their_connection_moves() {
    const ROUNDS: usize = 30;
    const DEPTH: usize = 25;
    let mut server = Start::new(Style::Request).start();
    server.may_say(RELOAD);
    let mut clients: Vec<_> = (0..8).map(|_| server.connect()).collect();
    let batch = "GET /count/hits HTTP/1.1\r\nHost: t\r\n\r\n".repeat(DEPTH);
    for round in 0..ROUNDS {
        // In pieces that end anywhere, with a reload in between.
        let cut = (round * 131) % batch.len();
        clients.iter_mut().for_each(|c| c.send(&batch.as_bytes()[..cut]).unwrap());
        server.signal(libc::SIGHUP);
        clients.iter_mut().for_each(|c| c.send(&batch.as_bytes()[cut..]).unwrap());
        for client in &mut clients {
            for _ in 0..DEPTH {
                assert_eq!(client.answer(), Ok("count".into()), "round {round}");
            }
        }
    }
    assert_eq!(server.dir.count("hits"), (ROUNDS * DEPTH * clients.len()) as u64);
    drop(clients);
    server.rests();
    server.stop();
}

#[test]
fn two_thousand_idle_connections_move() {
    const MANY: usize = 2000;
    proc::limit(std::process::id() as i32, "nofile", OPEN);
    let mut server = Start::new(Style::Request).start();
    let mut clients = idle(&server, MANY);
    let busy = Load::keep(server.address(), server.style, 2, "pid");
    for generation in 2..4 {
        server.reload();
        wait_until("the old ones have left", || server.workers().len() == 2);
        for client in &mut clients {
            assert_eq!(client.ask("generation"), Ok(generation.to_string()));
        }
    }
    let tally = busy.stop();
    assert!(tally.faults.is_empty(), "{tally:?}");
    drop(clients);
    server.stop();
}

#[test]
fn idle_connections_that_no_worker_has_room_for_do_not_keep_a_stop_waiting() {
    // More than the queue to the master holds.
    const EACH: usize = 1600;
    proc::limit(std::process::id() as i32, "nofile", OPEN);
    let server = Start::new(Style::Request).set("max-conns", &EACH.to_string());
    // Half of it passes before the listeners are closed: without room the master does not see whether clients wait there.
    let mut server = server.set("drain-timeout", "8s").start();
    let mut clients: Vec<_> = (0..2 * EACH).map(|_| server.connect()).collect();
    let stays = server.worker_in(0);
    let (mut busy, mut idle): (Vec<_>, Vec<_>) =
        clients.drain(..).map(|mut c| (pid_of(&mut c), c)).partition(|&(pid, _)| pid == stays);
    busy.iter_mut().for_each(|(_, c)| c.send(b"GET /pid HT").unwrap());
    assert_eq!((busy.len(), idle.len()), (EACH, EACH));
    server.signal(libc::SIGTTOU);
    server.scaled_to(1);
    server.signal(libc::SIGTERM);
    for (_, client) in &mut idle {
        assert_eq!(client.rest(), Ok(Vec::new()));
    }
    wait_until("the worker has ended", || proc::children(server.pid).len() == 1);
    for (pid, client) in &mut busy {
        client.send(b"TP/1.1\r\nHost: t\r\n\r\n").unwrap();
        assert_eq!(client.answer(), Ok(pid.to_string()));
    }
    drop((busy, idle));
    server.ends();
}

#[test]
fn connections_whose_client_has_closed_do_no_harm_when_they_move() {
    let mut server = Start::new(Style::Request).start();
    for _ in 0..5 {
        for (n, client) in idle(&server, 60).into_iter().enumerate() {
            if n == 30 {
                server.signal(libc::SIGHUP);
            }
            if n % 2 == 0 { client.reset() } else { drop(client) }
        }
        server.reload();
    }
    server.rests();
    server.stop();
}

#[test]
fn a_stream_stays_with_its_worker_until_it_ends() {
    let mut server = Start::new(Style::Data).start();
    let mut client = server.connect();
    let old = client.ask("pid").unwrap();
    server.reload();
    for _ in 0..3 {
        assert_eq!(client.ask("pid").as_ref(), Ok(&old));
    }
    wait_until("only its worker is left of the old", || server.workers().len() == 3);
    client.end().unwrap();
    assert_eq!(client.rest(), Ok(vec![]));
    server.stop();
}

#[test]
fn a_stream_that_does_not_end_is_cut_at_the_drain_timeout_and_reported() {
    let mut server = Start::new(Style::Data).set("drain-timeout", "300ms").start();
    server.says("has ended at its deadline, and 1 connection with it");
    let mut client = server.connect();
    client.ask("pid").unwrap();
    server.reload();
    assert_eq!(client.rest(), Ok(vec![]));
    server.stop();
}
