//! Handlers in blocking style: one connection per worker, and none waits for another while a worker is idle.
#![allow(clippy::unwrap_used)]

mod util;

use std::time::Duration;
use util::load::at_once;
use util::{Client, Fault, PATIENCE, Server, Start, Style, wait_until};

fn at_gate(server: &Server, gate: &str) -> Client {
    let mut client = server.connect();
    client.send_command(&format!("gate {gate}")).unwrap();
    wait_until("the handler runs", || server.dir.at_gate(gate) == 1);
    client
}

#[test]
fn no_client_waits_for_a_busy_worker_while_another_is_idle() {
    let server = Start::new(Style::Connection).workers(3).start();
    let mut busy = vec![at_gate(&server, "a"), at_gate(&server, "b")];
    let idle = server.ask("pid").unwrap();
    for _ in 0..30 {
        assert_eq!(server.ask("pid").as_ref(), Ok(&idle));
    }
    assert_eq!(server.ask_at_once(30, "pid").answers.into_iter().collect::<Vec<_>>(), [(idle, 30)]);
    for gate in ["a", "b"] {
        server.dir.make(gate);
    }
    for client in &mut busy {
        assert_eq!(client.answer(), Ok("gate".into()));
    }
    drop(busy);
    server.stop();
}

#[test]
fn clients_wait_while_all_workers_are_busy_and_are_all_answered() {
    let server = Start::new(Style::Connection).workers(2).start();
    let busy = vec![at_gate(&server, "a"), at_gate(&server, "b")];
    let results = at_once(50, |i| {
        let mut client = server.connect();
        client.send_command("count hits").unwrap();
        if i == 0 {
            client.patience(Duration::from_millis(300));
            assert_eq!(client.answer(), Err(Fault::TimedOut), "no worker has room for it");
            assert_eq!(server.dir.count("hits"), 0);
            client.patience(PATIENCE);
            ["a", "b"].iter().for_each(|gate| server.dir.make(gate));
            busy.iter().for_each(|b| b.end().unwrap());
        }
        client.answer()
    });
    assert_eq!(results, vec![Ok("count".to_owned()); 50]);
    assert_eq!(server.dir.count("hits"), 50);
    drop(busy);
    server.stop();
}

#[test]
fn a_silent_client_occupies_its_worker_until_the_deadline_only() {
    let server =
        Start::new(Style::Connection).set("header-timeout", "300ms").set("body-timeout", "300ms").start();
    let mut silent: Vec<_> = (0..2).map(|_| server.connect()).collect();
    assert!(server.ask("pid").is_ok(), "they were closed");
    for client in &mut silent {
        assert_eq!(client.rest(), Ok(vec![]));
    }
    // Later silence has its own deadline.
    let mut client = server.connect();
    assert!(client.ask("pid").is_ok());
    assert_eq!(client.rest(), Ok(vec![]));
    drop((silent, client));
    server.stop();
}

#[test]
fn a_client_that_gives_up_in_the_backlog_costs_nothing() {
    let server = Start::new(Style::Connection).workers(1).start();
    let mut busy = at_gate(&server, "g");
    for i in 0..50 {
        let mut client = server.connect();
        client.send_command("pid").unwrap();
        if i % 2 == 0 { client.reset() } else { drop(client) }
    }
    let mut last = server.connect();
    last.send_command("pid").unwrap();
    server.dir.make("g");
    assert_eq!(busy.answer(), Ok("gate".into()));
    drop(busy);
    assert!(last.answer().is_ok());
    drop(last);
    server.stop();
}

#[test]
fn a_client_gets_its_answer_even_if_the_handler_leaves_input_unread() {
    let server = Start::new(Style::Connection).workers(1).start();
    for i in 0..20 {
        let gate = format!("g{i}");
        let mut client = server.connect();
        client.send(format!("gate {gate}\n{}", "x".repeat(100_000)).as_bytes()).unwrap();
        wait_until("the handler runs", || server.dir.at_gate(&gate) == 1);
        client.end().unwrap();
        server.dir.make(&gate);
        assert_eq!(client.rest(), Ok(b"gate\n".to_vec()));
    }
    server.stop();
}
