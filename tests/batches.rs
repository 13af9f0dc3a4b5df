//! Connections that come together go to workers several in a message: no fault loses one unsaid, or has one served twice.
#![allow(clippy::unwrap_used)]

mod util;

use std::time::Duration;
use util::{Client, Fault, Server, Start, Style, handler, proc, wait_until};

/// Clients whose requests all wait when the master looks. With the first commands come first.
fn together(server: &Server, commands: &[&str]) -> Vec<Client> {
    proc::freeze(server.pid);
    let clients = commands.iter().map(|command| {
        let mut client = server.connect();
        client.send_command(command).unwrap();
        client
    });
    let clients = clients.collect();
    proc::signal(server.pid, libc::SIGCONT);
    clients
}

fn answers(clients: &mut [Client]) -> Vec<Result<String, Fault>> {
    clients.iter_mut().map(Client::answer).collect()
}

/// The connections that the log says are lost.
fn said_lost(server: &Server) -> usize {
    let number = |line: &String| {
        let (before, _) = line.split_once(" in progress lost").or_else(|| line.split_once(" lost"))?;
        before.split_whitespace().rev().nth(1)?.parse::<usize>().ok()
    };
    server.stderr().iter().filter_map(number).sum()
}

#[test]
fn each_worker_gets_its_turn() {
    for style in [Style::Request, Style::Data] {
        let server = Start::new(style).workers(3).start();
        for _ in 0..5 {
            let mut clients = together(&server, &["slot"; 60]);
            let mut slots: Vec<_> = answers(&mut clients).into_iter().map(Result::unwrap).collect();
            slots.sort();
            for slot in ["0", "1", "2"] {
                assert_eq!(slots.iter().filter(|s| *s == slot).count(), 20, "{style:?}");
            }
        }
        server.stop();
    }
}

#[test]
fn source_hash_sends_a_client_always_to_the_same_worker() {
    let server = Start::new(Style::Request).workers(3).set("dispatch", "source-hash").start();
    let slot = server.ask("slot").unwrap();
    let mut clients = together(&server, &["slot"; 40]);
    for answer in answers(&mut clients) {
        assert_eq!(answer.as_ref(), Ok(&slot));
    }
    drop(clients);
    server.stop();
}

#[test]
fn no_worker_gets_more_than_it_has_room_for() {
    let server = Start::new(Style::Request).workers(2).set("max-conns", "3").start();
    let mut clients = together(&server, &["gate g"; 10]);
    let dir = &server.dir;
    wait_until("both are in a call", || dir.at_gate("g") == 2);
    dir.make("g");
    for answer in answers(&mut clients) {
        assert_eq!(answer, Ok("gate".into()));
    }
    drop(clients);
    server.stop();
}

#[test]
fn a_killed_worker_takes_nothing_with_it_that_it_had_not_taken() {
    for style in [Style::Request, Style::Data] {
        let mut server = Start::new(style).start();
        server.says("died: SIGKILL; 0 connections in progress lost");
        let killed = server.worker_in(0);
        proc::freeze(killed);
        let mut clients = together(&server, &["count hits"; 24]);
        wait_until("the other one serves", || server.dir.count("hits") > 0);
        proc::signal(killed, libc::SIGKILL);
        for answer in answers(&mut clients) {
            assert_eq!(answer, Ok("count".into()), "{style:?}");
        }
        assert_eq!(server.dir.count("hits"), 24, "{style:?}");
        drop(clients);
        server.replaces(killed);
        server.stop();
    }
}

#[test]
fn what_a_stuck_worker_has_not_taken_is_served_by_others_once() {
    for style in [Style::Request, Style::Data] {
        let server = Start::new(style).start();
        let stuck = server.worker_in(0);
        proc::freeze(stuck);
        let mut clients = together(&server, &["count hits"; 24]);
        for answer in answers(&mut clients) {
            assert_eq!(answer, Ok("count".into()), "{style:?}");
        }
        proc::signal(stuck, libc::SIGCONT);
        wait_until("it serves again", || server.ask("pid") == Ok(stuck.to_string()));
        assert_eq!(server.dir.count("hits"), 24, "{style:?}");
        drop(clients);
        server.stop();
    }
}

#[test]
fn full_queues_lose_nothing_and_double_nothing() {
    for style in [Style::Request, Style::Data] {
        let server = Start::new(style).start();
        let workers = server.workers();
        workers.iter().for_each(|&worker| proc::freeze(worker));
        // More than two queues take.
        let mut clients = together(&server, &["count hits"; 300]);
        std::thread::sleep(Duration::from_millis(300));
        workers.iter().for_each(|&worker| proc::signal(worker, libc::SIGCONT));
        for answer in answers(&mut clients) {
            assert_eq!(answer, Ok("count".into()), "{style:?}");
        }
        assert_eq!(server.dir.count("hits"), 300, "{style:?}");
        drop(clients);
        server.stop();
    }
}

/// One of 12 requests that come together ends its worker, which has answered one by then; returns how many clients have no answer.
fn crash(server: &mut Server) -> usize {
    let mut commands = ["count hits"; 12];
    // The one before it comes alone.
    commands[1] = "segv";
    let (said, hits) = (said_lost(server), server.dir.count("hits") as usize);
    let mut clients = together(server, &commands);
    let failed = answers(&mut clients).iter().filter(|answer| answer.is_err()).count();
    assert_eq!(server.dir.count("hits") as usize, hits + 12 - failed);
    // With the connection that stayed open after its answer.
    wait_until("the log tells all", || said_lost(server) == said + failed + 1);
    failed
}

#[test]
fn a_crash_tells_how_many_it_takes_with_it_and_for_a_while_takes_no_others() {
    for style in [Style::Request, Style::Data] {
        let starts = (0..30).map(|_| {
            let mut server = Start::new(style).workers(1).start();
            server.says("died: SIGSEGV");
            let failed = crash(&mut server);
            (server, failed)
        });
        // Those that come within a millisecond of another one come in one message.
        let mut with_several = starts.filter_map(|(server, failed)| {
            if failed == 1 {
                server.stop();
                return None;
            }
            Some((server, failed))
        });
        let (mut server, failed) = with_several.next().unwrap();
        assert!(failed <= 4, "{style:?}: {failed}");
        for _ in 0..3 {
            assert_eq!(crash(&mut server), 1, "{style:?}");
        }
        server.stop();
    }
}

/// `/eat` opens files until there is no descriptor any more; `/spit` closes them.
const EATER: &str = r#"
    #include <prefork.h>
    #include <fcntl.h>
    #include <string.h>
    #include <unistd.h>
    static int eaten[256], count;
    static void on_request(prefork_request *req, prefork_response *res, void *state)
    {
        prefork_slice path = prefork_request_path(req);
        int fd;
        (void)state;
        if (path.len == 4 && !memcmp(path.data, "/eat", 4)) {
            while ((fd = open("/dev/null", O_RDONLY)) >= 0)
                eaten[count++] = fd;
            /* For all but one of those to come. */
            close(eaten[--count]);
        } else if (path.len == 5 && !memcmp(path.data, "/spit", 5)) {
            while (count > 0)
                close(eaten[--count]);
        }
        prefork_response_body(res, "0", 1);
    }
    PREFORK_MODULE(.on_request = on_request)
"#;

/// The connections in flight of all workers.
fn in_flight(server: &Server) -> u64 {
    let mut show = std::process::Command::new(env!("CARGO_BIN_EXE_prefork"));
    let out =
        show.args(["show", "--json"]).env("PREFORK_RUNTIME_DIR", server.dir.runtime()).output().unwrap();
    let status: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
    status["workers"].as_array().unwrap().iter().map(|w| w["in_flight"].as_u64().unwrap()).sum()
}

#[test]
fn connections_for_which_a_worker_has_no_descriptor_are_told() {
    let module = handler::compile(EATER, &[]);
    let loses_some = || {
        let start = Start::new(Style::Request).module(module.clone());
        let mut server = start.through(&["prlimit", "--nofile=256:256"]).start();
        server.may_say("no free descriptor, ");
        let mut eater = server.connect();
        assert!(eater.ask("eat").is_ok());
        // Its connection would be closed for others if it were idle.
        eater.send(b"GET /spit HTTP/1.1\r\n").unwrap();
        server.has_read();
        // The first comes alone, to the other worker. One of each message has the descriptor that is left, or they go to that one.
        let mut clients = together(&server, &["slot"; 9]);
        let lost = answers(&mut clients).iter().filter(|answer| answer.is_err()).count();
        wait_until("the log tells it", || said_lost(&server) >= lost);
        assert_eq!(said_lost(&server), lost, "{:?}", server.stderr());
        eater.send(b"Host: t\r\n\r\n").unwrap();
        assert!(eater.answer().is_ok());
        drop((eater, clients));
        for _ in 0..10 {
            assert!(server.ask("slot").is_ok());
        }
        wait_until("none counts as in flight", || in_flight(&server) == 0);
        server.stop();
        lost > 0
    };
    assert!((0..30).any(|_| loses_some()));
}

#[test]
fn a_master_with_few_descriptors_takes_back_what_it_has_given() {
    let mut server = Start::new(Style::Request).start();
    server.may_say("accept: Too many open files");
    server.says("died: SIGKILL; 0 connections in progress lost");
    let killed = server.worker_in(0);
    proc::freeze(killed);
    let mut clients = together(&server, &["count hits"; 24]);
    wait_until("the other one serves", || server.dir.count("hits") > 0);
    let open = proc::descriptors(server.pid);
    let free = (0..).find(|n| open.iter().all(|(number, _)| number != n)).unwrap();
    proc::limit(server.pid, "nofile", free);
    proc::signal(killed, libc::SIGKILL);
    for answer in answers(&mut clients) {
        assert_eq!(answer, Ok("count".into()));
    }
    proc::limit(server.pid, "nofile", 1024);
    server.replaces(killed);
    assert_eq!(server.dir.count("hits"), 24);
    drop(clients);
    server.stop();
}
