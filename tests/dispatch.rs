//! Which worker gets a connection.
#![allow(clippy::unwrap_used)]

mod util;

use util::{Client, Start, Style};

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
fn open(server: &util::Server) -> (u32, Client) {
    let mut client = server.connect();
    (client.ask("slot").unwrap().parse().unwrap(), client)
}

#[test]
fn least_connections_takes_the_one_with_the_fewest_and_ties_go_in_turn() {
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
