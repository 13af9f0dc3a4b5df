//! Which worker gets a connection.
#![allow(clippy::unwrap_used)]

mod util;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use util::{Client, Server, Start, Style, proc, wait_until};

#[test]
fn round_robin_is_exact() {
    for style in Style::ALL {
        let server = Start::new(style).workers(3).start();
        let slots: Vec<String> = (0..99).map(|_| server.ask("slot").unwrap()).collect();
        if style != Style::Connection {
            let expected: Vec<String> = (0..99).map(|i| (i % 3).to_string()).collect();
            assert_eq!(slots, expected, "{style:?}");
        }
        server.stop();
    }
}

#[test]
fn round_robin_is_exact_under_many_clients() {
    let server = Start::new(Style::Request).workers(3).start();
    let tally = server.ask_at_once(90, "slot");
    assert_eq!(tally.answers.values().collect::<Vec<_>>(), [&30; 3], "{tally:?}");
    server.stop();
}

/// The slot a new connection goes to; the connection stays open.
fn open(server: &Server) -> (u32, Client) {
    let mut client = server.connect();
    (client.ask("slot").unwrap().parse().unwrap(), client)
}

#[test]
fn least_connections_picks_the_worker_with_the_fewest_and_rotates_among_equals() {
    for style in [Style::Request, Style::Data] {
        let server = Start::new(style).workers(3).set("dispatch", "least-connections").start();
        let mut held: Vec<_> = (0..6).map(|_| open(&server)).collect();
        assert_eq!(held.iter().map(|h| h.0).collect::<Vec<_>>(), [0, 1, 2, 0, 1, 2]);
        for slot in [1, 0, 2, 2, 1] {
            drop(held.remove(held.iter().position(|h| h.0 == slot).unwrap()));
            // The worker answers this after it has seen the end of the other.
            held.iter_mut().find(|h| h.0 == slot).unwrap().1.ask("slot").unwrap();
            held.push(open(&server));
            assert_eq!(held.last().unwrap().0, slot, "{style:?}: the one that has one less");
        }
        drop(held);
        server.stop();
    }
}

#[test]
fn a_worker_gets_no_more_than_max_conns() {
    let server = Start::new(Style::Data).workers(2).set("max-conns", "3").start();
    let mut held: Vec<_> = (0..6).map(|_| open(&server)).collect();
    // The seventh waits in the backlog until one of the six is over.
    let mut waits = server.connect();
    waits.send_command("slot").unwrap();
    waits.patience(std::time::Duration::from_millis(200));
    assert_eq!(waits.answer(), Err(util::Fault::TimedOut));
    let (slot, client) = held.remove(4);
    drop(client);
    waits.patience(util::PATIENCE);
    assert_eq!(waits.answer(), Ok(slot.to_string()));
    drop((waits, held));
    server.stop();
}

/// The slot that a client at 127.0.0.`n` comes to.
fn slot_of(server: &Server, n: u8) -> u32 {
    let address = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), server.port());
    let source = IpAddr::from([127, 0, 0, n]);
    Client::connect_from(source, address, server.style).unwrap().ask_last("slot").unwrap().parse().unwrap()
}

#[test]
fn with_source_hash_a_client_keeps_its_worker() {
    for (style, listen) in
        [(Style::Request, "127.0.0.1:0"), (Style::Data, "0.0.0.0:0"), (Style::Request, ":0")]
    {
        let server = Start::new(style).workers(4).listen(listen).set("dispatch", "source-hash").start();
        let first: Vec<u32> = (1..40).map(|n| slot_of(&server, n)).collect();
        let again: Vec<u32> = (1..40).map(|n| slot_of(&server, n)).collect();
        assert_eq!(first, again, "{style:?}");
        assert!((0..4).all(|slot| first.contains(&slot)), "{first:?}");
        server.stop();
    }
}

#[test]
fn with_source_hash_only_clients_of_a_missing_worker_move_and_later_return() {
    let mut server = Start::new(Style::Request).workers(4).set("dispatch", "source-hash").start();
    let before: Vec<u32> = (1..40).map(|n| slot_of(&server, n)).collect();
    proc::freeze(server.worker_in(2));
    let during: Vec<u32> = (1..40).map(|n| slot_of(&server, n)).collect();
    for (before, during) in before.iter().zip(&during) {
        assert!(*during != 2 && (before == during || *before == 2), "{before} {during}");
    }
    server.says("died: SIGKILL");
    proc::signal(server.worker_in(2), libc::SIGKILL);
    wait_until("its clients come back", || {
        (1..40).all(|n| slot_of(&server, n) == before[usize::from(n) - 1])
    });
    server.stop();
}

#[test]
fn with_source_hash_the_next_worker_serves_clients_of_a_full_one() {
    let server =
        Start::new(Style::Data).workers(3).set("dispatch", "source-hash").set("max-conns", "2").start();
    let held: Vec<_> = (0..6).map(|_| open(&server)).collect();
    let slots: Vec<u32> = held.iter().map(|h| h.0).collect();
    assert!(slots[0] == slots[1] && slots[2] == slots[3] && slots[4] == slots[5], "{slots:?}");
    assert!(slots[0] != slots[2] && slots[2] != slots[4] && slots[0] != slots[4], "{slots:?}");
    drop(held);
    server.stop();
}

#[test]
fn with_source_hash_clients_of_a_unix_socket_are_served_round_robin() {
    let dir = std::sync::Arc::new(util::Dir::new());
    let listen = format!("unix:{}", dir.path().join("socket").display());
    let server =
        Start::new(Style::Data).workers(3).within(&dir).listen(listen).set("dispatch", "source-hash").start();
    let slots: Vec<String> = (0..9).map(|_| server.ask("slot").unwrap()).collect();
    assert_eq!(slots, ["0", "1", "2", "0", "1", "2", "0", "1", "2"]);
    server.stop();
}
