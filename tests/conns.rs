//! Streams that act on each other: found by id, written to and closed in any callback, told when there is room again.
#![allow(clippy::unwrap_used)]

mod util;

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use util::handler::compile;
use util::{Client, Fault, RELOAD, Server, Start, Style, proc, wait_until};

/// The bytes of one write of `stuff`.
const PIECE: usize = 10_000;

fn module(flags: &[&str]) -> std::path::PathBuf {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/conns.c");
    compile(&fs::read_to_string(source).unwrap(), flags)
}

fn start(workers: usize) -> Start {
    Start::new(Style::Data).workers(workers).module(module(&[]))
}

fn ask(client: &mut Client, command: &str) -> String {
    client.ask(command).unwrap()
}

fn id(client: &mut Client) -> u64 {
    ask(client, "id").parse().unwrap()
}

#[test]
fn a_line_to_all_reaches_clients_that_have_sent_nothing_since() {
    let server = start(1).start();
    let mut clients: Vec<_> = (0..20).map(|_| server.connect()).collect();
    clients.iter_mut().for_each(|c| assert_ne!(id(c), 0));
    for round in 0..5 {
        clients[round].send_command(&format!("all round {round}")).unwrap();
        for client in &mut clients {
            assert_eq!(client.answer().unwrap(), format!("round {round}"));
        }
    }
    assert_eq!(ask(&mut clients[0], "count"), "20");
    clients[3].send_command("first hello").unwrap();
    // One of them has got it.
    clients[3].send_command("all end").unwrap();
    let mut hellos = 0;
    for client in &mut clients {
        let mut line = client.answer().unwrap();
        if line == "hello" {
            hellos += 1;
            line = client.answer().unwrap();
        }
        assert_eq!(line, "end");
    }
    assert_eq!(hellos, 1);
    drop(clients);
    server.stop();
}

#[test]
fn an_id_is_never_another_connections() {
    let server = start(1).start();
    let mut client = server.connect();
    let mut last = id(&mut client);
    for _ in 0..100 {
        let mut other = server.connect();
        let (its, mine) = (id(&mut other), last);
        assert!(its > mine, "{its} after {mine}");
        assert_eq!(ask(&mut client, &format!("say {its} hello")), "ok 6");
        assert_eq!(other.answer().unwrap(), "hello");
        drop(other);
        wait_until("it has closed", || ask(&mut client, "last").starts_with(&format!("{its} ")));
        // In its on_close nobody found it either.
        assert_eq!(ask(&mut client, "last"), format!("{its} 0"));
        assert_eq!(ask(&mut client, &format!("say {its} lost")), "none");
        last = its;
    }
    drop(client);
    server.stop();
}

#[test]
fn any_callback_may_close_any_stream() {
    let server = start(1).start();
    let mut client = server.connect();
    let own = id(&mut client);
    for command in ["close", "close twice"] {
        let mut other = server.connect();
        let its = id(&mut other);
        let times = if command == "close" { "" } else { " 2" };
        assert_eq!(ask(&mut client, &format!("say {its} bye")), "ok 4");
        assert_eq!(ask(&mut client, &format!("close {its}{times}")), "ok");
        assert_eq!(other.rest().unwrap(), b"bye\n");
        assert_eq!(ask(&mut client, &format!("say {its} lost")), "none");
    }
    // In one turn: what comes behind the close of the same stream is not answered, that of others is.
    let mut other = server.connect();
    let its = id(&mut other);
    other.send_command(&format!("after {own}")).unwrap();
    assert_eq!(client.answer().unwrap(), "-13");
    assert_eq!(other.rest().unwrap(), b"");
    assert_eq!(ask(&mut client, &format!("say {its} lost")), "none");
    // Itself, twice.
    client.send_command(&format!("close {own} 2")).unwrap();
    assert_eq!(client.rest(), Ok(Vec::new()));
    server.stop();
}

#[test]
fn a_message_may_be_for_any_stream() {
    let server = start(2).start();
    let mut clients: Vec<_> = (0..8).map(|_| server.connect()).collect();
    for (i, client) in clients.iter_mut().enumerate() {
        let its = id(client);
        client.send_command(&format!("post {its} hello {i}")).unwrap();
        assert_eq!(client.answer().unwrap(), "0");
        assert_eq!(client.answer().unwrap(), format!("hello {i}"));
    }
    drop(clients);
    server.stop();
}

#[test]
fn what_is_written_and_closed_at_a_drain_arrives() {
    for signal in [libc::SIGHUP, libc::SIGTERM] {
        let mut server = start(2).start();
        let mut clients: Vec<_> = (0..12).map(|_| server.connect()).collect();
        clients.iter_mut().for_each(|c| assert_eq!(ask(c, "log see you later"), "ok"));
        server.may_say(RELOAD);
        server.signal(signal);
        for client in &mut clients {
            assert_eq!(client.rest().unwrap(), b"see you later\n");
        }
        if signal == libc::SIGHUP {
            server.rests();
            server.stop();
        } else {
            server.ends();
        }
    }
}

#[test]
fn a_stream_that_was_full_is_told_when_there_is_room() {
    let server = start(1).set("max-pending", "65536").start();
    let (mut client, mut slow) = (server.connect(), server.connect());
    let its = id(&mut slow);
    const COUNT: usize = 3000;
    assert_eq!(ask(&mut client, &format!("stuff {its} {COUNT}")), "ok");
    // It reads nothing so far, and others are served.
    let pending: usize =
        ask(&mut client, &format!("say {its} x")).strip_prefix("ok ").unwrap().parse().unwrap();
    assert!((1..=65536).contains(&pending), "{pending}");
    let text = ask(&mut client, &format!("room {its}"));
    let (room, waiting) = text.split_once(' ').unwrap();
    assert_eq!(room.parse::<usize>().unwrap() + waiting.parse::<usize>().unwrap(), 65536, "{text}");
    let mut bytes = Vec::new();
    while !bytes.ends_with(b"done\n") {
        let mut part = vec![0; 300_000];
        let n = slow.read_some(&mut part).unwrap();
        bytes.extend_from_slice(&part[..n]);
    }
    let fill = bytes.iter().filter(|b| b.is_ascii_lowercase()).count();
    // "x" and "done" are letters too; "x" is lost if it did not fit.
    assert!((COUNT * PIECE + 4..=COUNT * PIECE + 5).contains(&fill), "{fill}");
    assert_eq!(ask(&mut client, &format!("huge {its}")), "-17");
    assert_eq!(ask(&mut slow, "count"), "2");
    drop((client, slow));
    server.stop();
}

#[test]
fn a_stream_that_takes_nothing_of_what_others_write_is_cut() {
    let server = start(1).set("write-timeout", "1s").start();
    let (mut client, mut slow) = (server.connect(), server.connect());
    let its = id(&mut slow);
    assert_eq!(ask(&mut client, &format!("stuff {its} 3000")), "ok");
    wait_until("it is cut", || ask(&mut client, &format!("say {its} x")) == "none");
    assert!(matches!(slow.rest(), Err(Fault::Reset)));
    drop(client);
    server.stop();
}

#[test]
fn several_writes_of_a_turn_are_one_system_call() {
    let server = start(1).start();
    let (mut client, mut other) = (server.connect(), server.connect());
    let its = id(&mut other);
    let log = server.dir.file("strace");
    let pid = server.workers()[0];
    let mut strace = Command::new("strace")
        .args(["-e", "trace=sendto,sendmsg,write,writev", "-p", &pid.to_string(), "-o"])
        .arg(&log)
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(strace.stderr.take().unwrap()).read_line(&mut line).unwrap();
    assert!(line.contains("attached"), "{line}");
    for _ in 0..50 {
        assert_eq!(ask(&mut client, &format!("three {its} hello")), "ok");
        for _ in 0..3 {
            assert_eq!(other.answer().unwrap(), "hello");
        }
    }
    proc::signal(strace.id() as i32, libc::SIGINT);
    strace.wait().unwrap();
    let log = fs::read_to_string(log).unwrap();
    assert_eq!(log.matches("hello\\nhello\\nhello\\n").count(), 50, "{log}");
    assert_eq!(log.matches("hello").count(), 150, "{log}");
    drop((client, other));
    server.stop();
}

#[test]
fn a_client_that_resets_a_stream_that_is_half_open_has_gone() {
    let server = start(1).start();
    let mut client = server.connect();
    for _ in 0..10 {
        let mut other = server.connect();
        let its = id(&mut other);
        assert_eq!(ask(&mut other, "half"), "0");
        other.end().unwrap();
        assert_eq!(ask(&mut client, &format!("say {its} hello")), "ok 6");
        assert_eq!(other.answer().unwrap(), "hello");
        other.reset();
        // Nothing is written to it that would find out.
        wait_until("it is closed", || ask(&mut client, "count") == "1");
    }
    drop(client);
    server.stop();
}

#[test]
fn streams_that_have_each_other_read_do_not_keep_a_turn_for_themselves() {
    let server = start(1).start();
    let mut client = server.connect();
    assert_eq!(ask(&mut client, "cross"), "ok");
    let is_over = Arc::new(AtomicBool::new(false));
    let senders: Vec<_> = (0..3)
        .map(|_| {
            let mut sender = server.connect();
            let is_over = Arc::clone(&is_over);
            thread::spawn(move || {
                while !is_over.load(Relaxed) {
                    sender.send(&[b'x'; 1 << 20]).unwrap();
                }
            })
        })
        .collect();
    let mut longest = || {
        let answer = ask(&mut client, "longest");
        let (longest, calls) = answer.split_once(' ').unwrap();
        (longest.parse::<u32>().unwrap(), calls.parse::<u32>().unwrap())
    };
    wait_until("much has been read", || longest().1 > 100_000);
    let (longest, calls) = longest();
    is_over.store(true, Relaxed);
    senders.into_iter().for_each(|sender| sender.join().unwrap());
    assert!(longest < 5000, "{longest} of {calls}");
    drop(client);
    server.stop();
}

#[test]
fn a_process_that_a_handler_has_forked_writes_to_no_stream() {
    let server = start(1).start();
    let mut client = server.connect();
    assert_eq!(ask(&mut client, "copy"), "-4 -4 -4 -4 -4 -4");
    assert_eq!(ask(&mut client, "count"), "1");
    drop(client);
    server.stop();
}

/// The values are those of `tests/hosts/conns.rs`.
#[test]
fn the_value_of_a_stream_is_dropped_at_its_end_and_may_panic() {
    let mut server = Start::new(Style::Data)
        .workers(1)
        .program([util::host::example("conns").into_os_string()])
        .env("WORKERS", Some("1".as_ref()))
        .start();
    let (mut client, mut other) = (server.connect(), server.connect());
    assert_eq!(ask(&mut other, "value"), "ok");
    let its = id(&mut other);
    // The value of the connection lives as long as the handler keeps it.
    assert_eq!(ask(&mut client, &format!("keep {its}")), "ok");
    drop(other);
    wait_until("its value is dropped", || ask(&mut client, "dropped") == "1");
    let mut other = server.connect();
    assert_eq!(ask(&mut other, "bomb"), "ok");
    for line in ["panicked", "on purpose", "note: run with"] {
        server.may_say(line);
    }
    drop(other);
    wait_until("its value is dropped", || ask(&mut client, "dropped") == "2");
    drop(client);
    server.stop();
}

#[test]
fn blocking_style_says_what_makes_no_sense_in_it() {
    let server = Start::new(Style::Connection).workers(1).module(module(&["-DON_CONNECTION"])).start();
    let mut client = server.connect();
    assert_eq!(ask(&mut client, "state"), "-4 -4 0 -4 0 -4 -4 0");
    drop(client);
    server.stop();
}

/// A host in Rust: see `tests/hosts/conns.rs`.
#[test]
fn a_rust_handler_does_the_same() {
    let server =
        Start::new(Style::Data).workers(2).program([util::host::example("conns").into_os_string()]).start();
    let clients = |server: &Server| -> Vec<Client> { (0..10).map(|_| server.connect()).collect() };
    let mut clients = clients(&server);
    let slots: Vec<String> = clients.iter_mut().map(|c| ask(c, "slot")).collect();
    let ids: Vec<u64> = clients.iter_mut().map(id).collect();
    for i in 0..clients.len() {
        clients[i].send_command(&format!("all hello {i}")).unwrap();
        for (client, slot) in clients.iter_mut().zip(&slots) {
            if *slot == slots[i] {
                assert_eq!(client.answer().unwrap(), format!("hello {i}"));
            }
        }
    }
    // One that has kept the value of another.
    let (kept, keeper) = (0, (1..10).find(|i| slots[*i] == slots[0]).unwrap());
    assert_eq!(ask(&mut clients[keeper], &format!("keep {}", ids[kept])), "ok");
    assert_eq!(ask(&mut clients[keeper], "kept"), "written");
    assert_eq!(clients[kept].answer().unwrap(), "kept");
    drop(clients.remove(kept));
    let keeper = &mut clients[keeper - 1];
    wait_until("it has gone", || ask(keeper, &format!("find {}", ids[kept])) == "none");
    // Neither it nor its successor gets anything.
    let mut others: Vec<_> = (0..8).map(|_| server.connect()).collect();
    others.iter_mut().for_each(|c| assert_ne!(id(c), 0));
    assert_eq!(ask(keeper, "kept"), "broken pipe");
    for other in &mut others {
        assert_eq!(ask(other, "slot").len(), 1);
    }
    drop((clients, others));
    server.stop();
}
