//! Topics: what is published reaches all subscribers of all workers, whole, in order, once; and slow ones harm no others.
#![allow(clippy::unwrap_used)]

mod util;

use std::fs;
use std::path::Path;
use std::process::Command;
use util::handler::compile;
use util::{Client, Fault, Mode, RELOAD, Server, Start, Style, proc, wait_until};

/// The bytes of one publication of `flood`.
const PIECE: usize = 10_000;

fn start(workers: usize) -> Start {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/conns.c");
    Start::new(Style::Data).workers(workers).module(compile(&fs::read_to_string(source).unwrap(), &[]))
}

fn ask(client: &mut Client, command: &str) -> String {
    client.ask(command).unwrap()
}

#[track_caller]
fn ok(client: &mut Client, command: &str) {
    assert_eq!(ask(client, command), "0", "{command}");
}

/// Clients of all workers, by worker; each answers questions.
fn clients(server: &Server, per_worker: usize, workers: usize) -> Vec<Vec<Client>> {
    let mut by_slot: Vec<Vec<Client>> = (0..workers).map(|_| Vec::new()).collect();
    wait_until("clients of all workers", || {
        let mut client = server.connect();
        let slot: usize = ask(&mut client, "slot").parse().unwrap();
        if by_slot[slot].len() < per_worker {
            by_slot[slot].push(client);
        }
        by_slot.iter().all(|clients| clients.len() == per_worker)
    });
    by_slot
}

#[test]
fn a_stream_can_leave_all_topics_at_once() {
    let server = start(1).start();
    let mut client = server.connect();
    ok(&mut client, "join a");
    ok(&mut client, "join b");
    ok(&mut client, "leave-all -");
    ok(&mut client, "leave-all -");
    ok(&mut client, "tell a x");
    ok(&mut client, "tell b x");
    assert_eq!(ask(&mut client, "leave a"), "-13");
    ok(&mut client, "join a");
    client.send_command("tell a y").unwrap();
    assert_eq!([client.answer().unwrap(), client.answer().unwrap()], ["y", "0"]);
    drop(client);
    server.stop();
}

#[test]
fn what_is_published_reaches_every_subscriber_of_every_worker_once() {
    for mode in Mode::ALL {
        let server = start(3).accept(mode).start();
        let mut clients: Vec<Client> = clients(&server, 4, 3).into_iter().flatten().collect();
        for client in &mut clients {
            ok(client, "join news");
            ok(client, "join news");
        }
        clients.iter_mut().step_by(2).for_each(|c| ok(c, "join other"));
        for from in 0..clients.len() {
            clients[from].send_command(&format!("tell news n{from}")).unwrap();
            clients[from].send_command(&format!("tell other o{from}")).unwrap();
            clients[from].send_command(&format!("tell nobody x{from}")).unwrap();
            for (i, client) in clients.iter_mut().enumerate() {
                let mut expected = vec![format!("n{from}")];
                if i % 2 == 0 {
                    expected.push(format!("o{from}"));
                }
                if i == from {
                    // The answers follow what the same call has written.
                    expected.insert(1, "0".into());
                    expected.extend(["0".into(), "0".into()]);
                }
                let got: Vec<_> = expected.iter().map(|_| client.answer().unwrap()).collect();
                assert_eq!(got, expected, "{mode:?}: {i} of {from}");
            }
        }
        drop(clients);
        server.stop();
    }
}

#[test]
fn others_alone_can_be_told_and_one_may_leave() {
    let server = start(2).start();
    let mut clients = clients(&server, 2, 2);
    clients.iter_mut().flatten().for_each(|c| ok(c, "join news"));
    ok(&mut clients[0][0], "else news hello");
    clients[1].iter_mut().for_each(|c| assert_eq!(c.answer().unwrap(), "hello"));
    ok(&mut clients[1][0], "leave news");
    assert_eq!(ask(&mut clients[1][0], "leave news"), "-13");
    clients[0][0].send_command("tell news again").unwrap();
    assert_eq!(clients[0][0].answer().unwrap(), "again");
    assert_eq!(clients[0][0].answer().unwrap(), "0");
    assert_eq!(clients[0][1].answer().unwrap(), "again");
    assert_eq!(clients[1][1].answer().unwrap(), "again");
    // Nothing else has come to any of them: the next line is the answer.
    clients.iter_mut().flatten().for_each(|c| assert!(ask(c, "slot").parse::<u32>().is_ok()));
    drop(clients);
    server.stop();
}

#[test]
fn names_and_sizes_have_limits_and_nothing_is_lost_by_asking() {
    let server = start(2).set("max-message", "65536").start();
    let mut client = server.connect();
    for (size, status) in [(0, "-2"), (1, "0"), (255, "0"), (256, "-2"), (900, "-2")] {
        assert_eq!(ask(&mut client, &format!("name {size}")), status, "{size}");
    }
    for (size, status) in [(65536 - 4, "0"), (65536 - 3, "-17"), (1 << 20, "-17"), (0, "0")] {
        assert_eq!(ask(&mut client, &format!("large news {size}")), status, "{size}");
    }
    assert_eq!(ask(&mut client, "slow 7"), "-2");
    drop(client);
    server.stop();
}

#[test]
fn what_no_stream_ever_has_room_for_is_refused() {
    let server = start(2).set("max-pending", "65536").start();
    let mut client = server.connect();
    assert_eq!(ask(&mut client, "large news 65536"), "0");
    assert_eq!(ask(&mut client, "large news 65537"), "-17");
    drop(client);
    server.stop();
}

#[test]
fn a_subscriber_that_has_gone_is_forgotten_and_its_end_may_be_published() {
    let server = start(2).start();
    let mut clients = clients(&server, 2, 2);
    for client in clients.iter_mut().flatten() {
        ok(client, "join news");
        ok(client, "at-close news");
    }
    drop(clients[0].remove(0));
    for client in clients.iter_mut().flatten() {
        assert_eq!(client.answer().unwrap(), "closed");
    }
    // A reset is an end too.
    clients[1].remove(0).reset();
    for client in clients.iter_mut().flatten() {
        assert_eq!(client.answer().unwrap(), "closed");
    }
    drop(clients);
    server.stop();
}

/// `prefork show --json`, the sum of a number of all workers.
fn sum(server: &Server, field: &str) -> u64 {
    let out = Command::new(env!("CARGO_BIN_EXE_prefork"))
        .args(["show", "--json"])
        .env("PREFORK_RUNTIME_DIR", server.dir.runtime())
        .output()
        .unwrap();
    assert!(out.status.success(), "{out:?}");
    let text = String::from_utf8(out.stdout).unwrap();
    let name = format!("\"{field}\":");
    let values = text.split(&name).skip(1).map(|rest| {
        rest.trim_start().split(|c: char| !c.is_ascii_digit()).next().unwrap().parse::<u64>().unwrap()
    });
    values.sum()
}

#[test]
fn a_slow_subscriber_misses_whole_publications_and_delays_nobody() {
    const COUNT: usize = 3000;
    let server = start(2).set("max-pending", "65536").start();
    let mut clients = clients(&server, 2, 2);
    clients.iter_mut().flatten().for_each(|c| ok(c, "join news"));
    let mut slow = clients[1].remove(0);
    let publisher = &mut clients[0][0];
    ok(publisher, "leave news");
    let mut readers: Vec<Client> = vec![clients[0].remove(1), clients[1].remove(0)];
    let published = std::thread::scope(|scope| {
        let readers: Vec<_> = readers
            .iter_mut()
            .map(|reader| scope.spawn(|| assert_eq!(reader.rest_up_to(COUNT * PIECE), Ok(COUNT * PIECE))))
            .collect();
        let mut published = 0;
        while published < COUNT {
            // As long as they keep up.
            match ask(&mut clients[0][0], "flood news 4").as_str() {
                "0" => published += 4,
                status => panic!("{status}"),
            }
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
        readers.into_iter().for_each(|reader| reader.join().unwrap());
        published
    });
    wait_until("some are skipped", || sum(&server, "skipped") > 0);
    let skipped = sum(&server, "skipped") as usize;
    assert!(skipped < published, "{skipped} of {published}");
    // What it got is whole, and it is still served.
    slow.send_command("slot").unwrap();
    let whole = (published - skipped) * PIECE + "1\n".len();
    assert_eq!(slow.rest_up_to(whole), Ok(whole));
    drop((clients, slow, readers));
    server.stop();
}

#[test]
fn a_slow_subscriber_is_reset_if_it_said_so() {
    let server = start(2).set("max-pending", "65536").start();
    let mut clients = clients(&server, 2, 2);
    for client in clients.iter_mut().flatten() {
        ok(client, "join news");
        ok(client, "at-close end");
    }
    let mut slow = clients[1].remove(0);
    ok(&mut slow, "slow 1");
    ok(&mut clients[1][0], "leave news");
    ok(&mut clients[1][0], "join end");
    ok(&mut clients[0][0], "leave news");
    ok(&mut clients[0][1], "leave news");
    wait_until("it is reset", || {
        ok(&mut clients[0][0], "flood news 50");
        sum(&server, "skipped") > 0
    });
    assert_eq!(slow.rest(), Err(Fault::Reset));
    assert_eq!(clients[1][0].answer().unwrap(), "closed");
    drop(clients);
    server.stop();
}

#[test]
fn kills_and_reloads_cost_only_the_subscribers_of_those_workers() {
    let mut server = start(3).start();
    let mut before = clients(&server, 2, 3);
    before.iter_mut().flatten().for_each(|c| ok(c, "join news"));
    let killed = server.worker_in(1);
    server.says(&format!("pid {killed}) died"));
    proc::signal(killed, libc::SIGKILL);
    server.replaces(killed);
    for client in before.remove(1) {
        assert!(!client.is_open());
    }
    let mut clients: Vec<Client> = before.into_iter().flatten().collect();
    let mut new = server.connect();
    ok(&mut new, "join news");
    clients.push(new);
    clients[0].send_command("tell news still here").unwrap();
    for client in &mut clients {
        assert_eq!(client.answer().unwrap(), "still here");
    }
    assert_eq!(clients[0].answer().unwrap(), "0");
    // While old workers drain, theirs and those of the new ones are one audience.
    server.may_say(RELOAD);
    server.signal(libc::SIGHUP);
    wait_until("the reload is complete", || server.lines_with("is complete") > 0);
    let mut new = server.connect();
    ok(&mut new, "join news");
    new.send_command("tell news from the new").unwrap();
    for client in &mut clients {
        assert_eq!(client.answer().unwrap(), "from the new");
    }
    clients[0].send_command("tell news from the old").unwrap();
    assert_eq!(new.answer().unwrap(), "from the new");
    assert_eq!(new.answer().unwrap(), "0");
    assert_eq!(new.answer().unwrap(), "from the old");
    drop((clients, new));
    server.stop();
}
