//! Messages between real processes: sizes, queues, deadlines, deaths, garbage; and connections meanwhile.
#![allow(clippy::unwrap_used)]

mod util;

use serde_json::Value;
use std::ffi::OsString;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use util::{Dir, Server, Start, Style, comes_true, handler, proc, wait_until};

const TOO_LARGE: &str = "-17";
const FULL: &str = "-12";
const GONE: i32 = -13;
const NULL: i32 = -1;
const STATE: i32 = -4;
const TIMEOUT: i32 = -16;
const UNANSWERED: i32 = -18;

/// The language of the tested program. Both programs take the same commands and log the same lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Language {
    /// `tests/messages.c`.
    C,
    /// `tests/hosts/messages.rs`.
    Rust,
}
use Language::{C, Rust};

fn start(style: Style, workers: usize, settings: &[&str]) -> Server {
    start_in(C, style, workers, settings)
}

fn start_in(language: Language, style: Style, workers: usize, settings: &[&str]) -> Server {
    let program = match language {
        C => {
            let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/messages.c");
            handler::host(&fs::read_to_string(source).unwrap())
        }
        Rust => util::host::example("messages"),
    };
    let dir = Arc::new(Dir::new());
    dir.file("log");
    let name = if style == Style::Request { "request" } else { "connection" };
    let (n, path) = (workers.to_string(), dir.path().as_os_str().to_owned());
    let words: [OsString; 4] = [program.into(), name.into(), path, n.into()];
    let settings = settings.iter().map(OsString::from);
    Start::new(style).workers(workers).within(&dir).program(words.into_iter().chain(settings)).start()
}

fn log(server: &Server) -> Vec<String> {
    let text = fs::read_to_string(server.dir.path().join("log")).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

fn count(server: &Server, line: &str) -> usize {
    log(server).iter().filter(|l| *l == line).count()
}

#[track_caller]
fn wait_for(server: &Server, line: &str) {
    if !comes_true(util::PATIENCE, || count(server, line) > 0) {
        panic!("waited for {line:?}; the log: {:#?}", log(server));
    }
}

/// Sends a command to the worker with this id, over a connection that it serves.
#[track_caller]
fn at(server: &Server, id: u32, command: &str) -> String {
    for _ in 0..1000 {
        let mut client = server.connect();
        if client.ask("id").unwrap() == id.to_string() {
            return client.ask(command).unwrap();
        }
    }
    panic!("no worker {id}");
}

#[test]
fn messages_of_any_size_up_to_the_cap_arrive_unchanged() {
    for language in [C, Rust] {
        let server = start_in(language, Style::Request, 2, &[]);
        let cap = 16 * 1024 * 1024;
        for size in [0, 1, 63, 16 * 1024, 16 * 1024 + 1, 65_536, 1 << 20, cap] {
            assert_eq!(at(&server, 1, &format!("send 2 50 {size}")), "1 taken, 0");
            wait_for(&server, &format!("worker 2 got 50 from 1: {size} bytes, good"));
            assert_eq!(at(&server, 2, &format!("send 0 50 {size}")), "1 taken, 0");
            wait_for(&server, &format!("master got 50 from 2: {size} bytes, good"));
            at(&server, 1, &format!("master send 1 51 {size}"));
            wait_for(&server, &format!("worker 1 got 51 from 0: {size} bytes, good"));
        }
        let over = cap + 1;
        assert_eq!(at(&server, 1, &format!("send 2 50 {over}")), format!("0 taken, {TOO_LARGE}"));
        at(&server, 1, &format!("master send 2 50 {over}"));
        wait_for(&server, &format!("master send 2 50 {over}: 0 taken, {TOO_LARGE}"));
        assert_eq!(log(&server).iter().filter(|l| l.contains(&over.to_string())).count(), 1);
        server.stop();
    }
}

#[test]
fn the_cap_is_a_setting() {
    for language in [C, Rust] {
        let server = start_in(language, Style::Request, 2, &["max-message", "2K"]);
        assert_eq!(at(&server, 1, "send 2 50 2048"), "1 taken, 0");
        assert_eq!(at(&server, 1, "send 2 50 2049"), format!("0 taken, {TOO_LARGE}"));
        wait_for(&server, "worker 2 got 50 from 1: 2048 bytes, good");
        server.stop();
    }
}

#[test]
fn a_broadcast_reaches_all_workers_except_the_sender() {
    for language in [C, Rust] {
        let server = start_in(language, Style::Request, 4, &[]);
        let all = u32::MAX;
        for (n, size) in [10, 100_000].into_iter().enumerate() {
            assert_eq!(at(&server, 2, &format!("send {all} 6{n} {size}")), "1 taken, 0");
            for id in [1, 3, 4] {
                wait_for(&server, &format!("worker {id} got 6{n} from 2: {size} bytes, good"));
            }
            at(&server, 2, &format!("master send {all} 7{n} {size}"));
            for id in 1..=4 {
                wait_for(&server, &format!("worker {id} got 7{n} from 0: {size} bytes, good"));
            }
        }
        let of_2 = |l: &&String| l.contains("from 2");
        assert_eq!(log(&server).iter().filter(of_2).count(), 6, "{:#?}", log(&server));
        server.stop();
    }
}

#[test]
fn requests_are_answered_in_every_direction() {
    for language in [C, Rust] {
        let server = start_in(language, Style::Request, 2, &[]);
        for size in [0, 64, 1 << 20] {
            let good = |who: &str| format!("{who} answer to 1: 0, {size} bytes, good");
            let before = ["worker 1", "master"].map(|who| count(&server, &good(who)));
            assert_eq!(at(&server, 1, &format!("ask 2 1 {size} 10000")), "0");
            wait_until("a worker's answer", || count(&server, &good("worker 1")) == before[0] + 1);
            assert_eq!(at(&server, 1, &format!("ask 0 1 {size} 0")), "0");
            wait_until("the master's answer", || count(&server, &good("worker 1")) == before[0] + 2);
            at(&server, 1, &format!("master ask 2 1 {size} 10000"));
            wait_until("an answer to the master", || count(&server, &good("master")) == before[1] + 1);
        }
        // To itself, through the master.
        assert_eq!(at(&server, 2, "ask 2 1 5 10000"), "0");
        wait_for(&server, "worker 2 answer to 1: 0, 5 bytes, good");
        server.stop();
    }
}

#[test]
fn a_request_without_a_reply_ends_with_the_reason() {
    for language in [C, Rust] {
        let server = start_in(language, Style::Request, 2, &[]);
        let all = u32::MAX;
        for (asker, from) in [("master ", "master"), ("", "worker 1")] {
            at(&server, 1, &format!("{asker}ask 2 2 5 10000"));
            wait_for(&server, &format!("{from} answer to 2: {UNANSWERED}, 0 bytes, good"));
            at(&server, 1, &format!("{asker}ask 2 4 5 50"));
            wait_for(&server, &format!("{from} answer to 4: {TIMEOUT}, 0 bytes, good"));
            let refused = at(&server, 1, &format!("{asker}ask {all} 8 5 0"));
            assert!(!asker.is_empty() || refused == STATE.to_string());
            at(&server, 1, &format!("{asker}ask 77 9 5 10000"));
        }
        wait_for(&server, &format!("master ask {all} 8 5 0: {STATE}"));
        wait_for(&server, &format!("master ask 77 9 5 10000: {GONE}"));
        wait_for(&server, &format!("worker 1 answer to 9: {GONE}, 0 bytes, good"));
        // The late reply is dropped.
        std::thread::sleep(Duration::from_millis(400));
        assert_eq!(log(&server).iter().filter(|l| l.contains("answer to 4")).count(), 2);
        assert_eq!(at(&server, 1, "reply"), STATE.to_string());
        at(&server, 1, "ask 2 5 5 10000");
        wait_for(&server, "worker 1 answer to 5: 0, 5 bytes, good");
        wait_for(&server, &format!("worker 2 second reply: {STATE}"));
        server.stop();
    }
}

#[test]
fn a_request_to_a_worker_that_dies_ends_with_the_reason() {
    for language in [C, Rust] {
        let mut server = start_in(language, Style::Request, 2, &[]);
        server.says("died: SIGABRT");
        at(&server, 1, "ask 2 3 5 0");
        wait_for(&server, &format!("worker 1 answer to 3: {GONE}, 0 bytes, good"));
        wait_until("a successor", || server.workers().len() == 2 && proc::children(server.pid).len() == 2);
        at(&server, 1, "master ask 3 3 5 0");
        wait_for(&server, &format!("master answer to 3: {GONE}, 0 bytes, good"));
        server.stop();
    }
}

#[test]
fn messages_reach_a_successor_under_its_new_id_only() {
    let mut server = start(Style::Request, 2, &[]);
    server.says("died: SIGKILL");
    proc::signal(server.worker_in(1), libc::SIGKILL);
    wait_until("a successor", || server.ask_at_once(8, "id").answers.contains_key("3"));
    assert_eq!(at(&server, 1, "send 2 50 5"), "1 taken, 0", "lost");
    assert_eq!(at(&server, 1, "send 3 51 5"), "1 taken, 0");
    wait_for(&server, "worker 3 got 51 from 1: 5 bytes, good");
    assert_eq!(log(&server).len(), 1);
    server.stop();
}

/// Worker 1 sends to worker 2, which sleeps, until there is no room: in the master's queue for the sleeper, in the sockets,
/// and in the sender's own queue. Returns the number of accepted messages.
#[track_caller]
fn fill(server: &Server) -> usize {
    let (mut taken, mut refused) = (0, 0);
    wait_until("the sender is refused again and again", || {
        std::thread::sleep(Duration::from_millis(5));
        let answer = at(server, 1, "send 2 50 60000 100");
        assert!(answer.ends_with(FULL), "{answer}");
        let n: usize = answer.split(' ').next().unwrap().parse().unwrap();
        taken += n;
        refused = if n == 0 { refused + 1 } else { 0 };
        refused == 5
    });
    taken
}

#[test]
fn a_full_queue_is_an_error_to_the_sender_while_dispatch_continues() {
    for language in [C, Rust] {
        let server = start_in(language, Style::Request, 2, &["max-message", "64K"]);
        let sleeper = server.worker_in(1);
        proc::freeze(sleeper);
        let taken = fill(&server);
        assert!(taken < 40, "{taken} of 60 kB are kept for one who sleeps");
        let begun = Instant::now();
        for _ in 0..20 {
            assert_eq!(server.ask("id"), Ok("1".into()));
        }
        assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
        proc::signal(sleeper, libc::SIGCONT);
        let line = "worker 2 got 50 from 1: 60000 bytes, good";
        wait_until("what was taken arrives", || count(&server, line) == taken);
        server.stop();
    }
}

#[test]
fn a_worker_that_sleeps_delays_no_other() {
    let mut server = start(Style::Request, 3, &["max-message", "64K"]);
    server.says("worker 2 has taken no message for 3 s");
    let sleeper = server.worker_in(1);
    proc::freeze(sleeper);
    fill(&server);
    // After the messages for the sleeper, until its queue overflows.
    assert_eq!(at(&server, 1, "ask 3 1 10 20000"), "0");
    wait_for(&server, "worker 1 answer to 1: 0, 10 bytes, good");
    assert_eq!(at(&server, 1, "send 2 51 60000"), format!("0 taken, {FULL}"));
    at(&server, 1, "ask 2 1 60000 20000");
    at(&server, 1, "master send 2 52 60000 100");
    wait_until("the master is refused", || {
        log(&server).iter().any(|l| l.starts_with("master send 2 52 60000 100: ") && l.ends_with(FULL))
    });
    proc::signal(sleeper, libc::SIGCONT);
    wait_until("it is written to again", || at(&server, 1, "send 2 53 60000") == "1 taken, 0");
    wait_for(&server, "worker 2 got 53 from 1: 60000 bytes, good");
    server.stop();
}

#[test]
fn the_master_is_refused_if_a_worker_does_not_read() {
    for language in [C, Rust] {
        let server = start_in(language, Style::Request, 2, &["max-message", "64K"]);
        let sleeper = server.worker_in(1);
        proc::freeze(sleeper);
        at(&server, 1, "master send 2 50 60000 100");
        let line = || log(&server).into_iter().find(|l| l.starts_with("master send 2 50"));
        wait_until("the master is refused", || line().is_some());
        assert!(line().unwrap().ends_with(FULL), "{:?}", line());
        let all = u32::MAX;
        at(&server, 1, &format!("master send {all} 51 60000"));
        wait_for(&server, &format!("master send {all} 51 60000: 0 taken, {FULL}"));
        wait_for(&server, "worker 1 got 51 from 0: 60000 bytes, good");
        proc::signal(sleeper, libc::SIGCONT);
        server.stop();
    }
}

#[test]
fn garbage_on_the_channel_ends_that_worker_and_no_other() {
    for language in [C, Rust] {
        for what in ["text", "huge", "forged"] {
            let mut server = start_in(language, Style::Request, 2, &[]);
            server.says("died: unreadable message");
            // It was written to the handoff channel as well.
            server.may_say("reclaim: invalid data");
            let master = server.pid;
            let mut client = server.connect();
            let pid: i32 = client.ask("pid").unwrap().parse().unwrap();
            let mut other = server.connect();
            while other.ask("pid").unwrap() == pid.to_string() {
                other = server.connect();
            }
            client.send_command(&format!("garbage {what}")).unwrap();
            wait_until("it is killed and replaced", || {
                !server.workers().contains(&pid) && server.workers().len() == 2
            });
            assert_eq!((server.pid, other.ask("id").is_ok()), (master, true), "{what}");
            drop((client, other));
            server.stop();
        }
    }
}

#[test]
fn a_worker_that_closes_its_channel_is_replaced() {
    let mut server = start(Style::Request, 2, &[]);
    server.may_say("");
    let pid: i32 = at(&server, 1, "pid").parse().unwrap();
    let mut client = server.connect();
    while client.ask("id").unwrap() != "1" {
        client = server.connect();
    }
    client.send_command("garbage close").unwrap();
    wait_until("it is replaced", || !server.workers().contains(&pid) && server.workers().len() == 2);
    server.stop();
}

#[test]
fn messages_wait_for_a_blocking_handler_to_return() {
    for language in [C, Rust] {
        let server = start_in(language, Style::Connection, 2, &[]);
        let mut busy = server.connect();
        let id = busy.ask("id").unwrap();
        let other = if id == "1" { "2" } else { "1" };
        busy.send_command("gate busy").unwrap();
        wait_for(&server, &format!("worker {id} at busy"));
        server.dir.file("busy");
        for n in 0..3 {
            assert_eq!(server.ask(&format!("send {id} 5{n} 70000")), Ok("1 taken, 0".into()));
        }
        assert_eq!(server.ask(&format!("ask {id} 1 5 100")), Ok("0".into()));
        wait_for(&server, &format!("worker {other} answer to 1: {TIMEOUT}, 0 bytes, good"));
        assert_eq!(log(&server).len(), 2, "{:#?}", log(&server));
        server.dir.make("busy");
        assert_eq!(busy.answer(), Ok("gate".into()));
        drop(busy);
        wait_for(&server, &format!("worker {id} got 1 from {other}: 5 bytes, good"));
        let got: Vec<_> = log(&server).into_iter().filter(|l| l.contains(" got 5")).collect();
        let expected: Vec<_> =
            (0..3).map(|n| format!("worker {id} got 5{n} from {other}: 70000 bytes, good")).collect();
        assert_eq!(got, expected);
        server.stop();
    }
}

#[test]
fn a_blocking_worker_sends_queued_messages_when_it_is_idle_again() {
    let server = start(Style::Connection, 2, &[]);
    for _ in 0..3 {
        assert_eq!(server.ask(&format!("send {} 50 3000000", u32::MAX)), Ok("1 taken, 0".into()));
    }
    wait_until("all have come", || {
        log(&server).iter().filter(|l| l.ends_with("3000000 bytes, good")).count() == 3
    });
    server.stop();
}

#[test]
fn the_last_messages_of_a_worker_arrive() {
    for language in [C, Rust] {
        let mut server = start_in(language, Style::Request, 2, &[]);
        server.may_say("died");
        // A large one first: the rest that the socket does not take is sent before the worker exits.
        for id in [1, 2] {
            at(&server, id, "send 0 52 9000000");
        }
        let dir = server.dir.clone();
        server.stop();
        let log = fs::read_to_string(dir.path().join("log")).unwrap();
        for id in [1, 2] {
            assert!(log.contains(&format!("master got 52 from {id}: 9000000 bytes, good")), "{log}");
            assert!(
                log.contains(&format!("master got 50 from {id}: 0 bytes")),
                "on_drain has sent it: {log}"
            );
        }
    }
}

#[test]
fn a_worker_cannot_send_as_the_master() {
    for language in [C, Rust] {
        let server = start_in(language, Style::Request, 2, &[]);
        assert_eq!(server.ask("foreign"), Ok(STATE.to_string()));
        server.stop();
    }
}

#[test]
fn a_message_callback_in_the_master_may_call_every_function() {
    let mut server = start(Style::Request, 2, &[]);
    server.says("reload to generation 2");
    let before = server.workers();
    assert_eq!(server.ask("scale 3"), Ok(STATE.to_string()), "in a worker");
    assert_eq!(server.ask("master reload"), Ok("0".into()));
    wait_for(&server, "master reload: 0");
    wait_until("others serve", || {
        server.workers().len() == 2 && server.workers().iter().all(|w| !before.contains(w))
    });
    assert_eq!(server.ask("master scale 3"), Ok("0".into()));
    wait_for(&server, "master scale 3: 0");
    wait_until("three serve", || server.workers().len() == 3);
    assert_eq!(server.ask("master stop"), Ok("0".into()));
    server.ends();
}

#[test]
fn a_forked_copy_of_a_worker_or_of_the_master_is_neither() {
    let server = start(Style::Request, 2, &[]);
    assert_eq!(server.ask("forked"), Ok(format!("{STATE} {STATE}")));
    assert_eq!(server.ask("master forked"), Ok("0".into()));
    wait_for(&server, &format!("master forked: {NULL} {STATE}"));
    assert_eq!(log(&server).len(), 1);
    server.stop();
}

#[test]
fn a_flood_of_large_messages_does_not_delay_connections() {
    let server = start(Style::Request, 3, &["max-message", "1M"]);
    let id = at(&server, 1, "id");
    let mut moved = 0;
    let mut worst = Duration::ZERO;
    while moved < 200 {
        let answer = at(&server, 1, "send 2 2 1048576 20");
        moved += answer.split(' ').next().unwrap().parse::<u32>().unwrap();
        for _ in 0..5 {
            let begun = Instant::now();
            server.ask("id").unwrap();
            worst = worst.max(begun.elapsed());
        }
    }
    assert!(worst < Duration::from_millis(500), "{id}: {worst:?}");
    let line = "worker 2 got 2 from 1: 1048576 bytes, good";
    wait_until("all have come", || count(&server, line) == moved as usize);
    server.stop();
}

#[test]
fn messages_in_flight_survive_an_upgrade() {
    let mut server = start(Style::Request, 3, &["max-message", "64K"]);
    server.says("upgrade: version");
    server.says("reload to generation 2");
    let sleeper = server.worker_in(1);
    proc::freeze(sleeper);
    // Some wait in its channel, the others in the master.
    assert_eq!(at(&server, 1, "send 2 50 60000 3"), "3 taken, 0");
    assert_eq!(at(&server, 1, "send 2 50 60000 3"), "3 taken, 0");
    at(&server, 3, "ask 2 1 10 0");
    server.signal(libc::SIGUSR2);
    server.wait_for_line("upgrade: version");
    proc::signal(sleeper, libc::SIGCONT);
    let line = "worker 2 got 50 from 1: 60000 bytes, good";
    wait_until("what was taken arrives", || count(&server, line) == 6);
    // Unless it has exited before, since the new generation replaces it.
    let ends = ["0, 10", &format!("{GONE}, 0")].map(|end| format!("worker 3 answer to 1: {end} bytes, good"));
    wait_until("the answer", || ends.iter().any(|line| count(&server, line) == 1));
    wait_until("the new generation serves", || server.ask("id").is_ok_and(|id| id == "6"));
    server.stop();
}

/// A follower on the control socket gets events for messages to the master, and misses no other event, however many they are.
#[test]
fn events_report_messages() {
    const MANY: usize = 20_000;
    for language in [C, Rust] {
        let mut server = start_in(language, Style::Request, 2, &[]);
        server.says("died: SIGKILL");
        let mut follower = UnixStream::connect(&server.control_files()[0]).unwrap();
        follower.set_read_timeout(Some(util::PATIENCE)).unwrap();
        follower.write_all(b"{\"verb\":\"events\"}\n").unwrap();
        let lines = BufReader::new(follower).lines().map(Result::unwrap);
        let mut events = lines.map(|line| serde_json::from_str::<Value>(&line).unwrap());
        events.find(|event| event["event"] == "setup").unwrap();
        at(&server, 2, "send 0 50 77");
        let event = events.find(|event| event["event"] == "message").unwrap();
        assert_eq!((&event["worker"]["id"], &event["worker"]["slot"]), (&2.into(), &1.into()), "{event}");
        assert_eq!((&event["type"], &event["size"]), (&50.into(), &77.into()), "{event}");
        assert!(event.get("left_out").is_none());

        // It does not read while many are sent.
        assert_eq!(at(&server, 1, &format!("send 0 51 9 {MANY}")), format!("{MANY} taken, 0"));
        let line = "master got 51 from 1: 9 bytes, good";
        wait_until("all have come", || count(&server, line) == MANY);
        proc::signal(server.worker_in(1), libc::SIGKILL);
        wait_until("a successor", || server.ask_at_once(8, "id").answers.contains_key("3"));
        let told = events.by_ref().take_while(|event| event["event"] != "exit").count();
        events.find(|event| event["event"] == "ready").unwrap();
        at(&server, 1, "send 0 52 5");
        let last = events.find(|event| event["event"] == "message").unwrap();
        let left_out = last["left_out"].as_u64().unwrap() as usize;
        assert_eq!((&last["type"], told + left_out), (&52.into(), MANY), "{told} were told");
        drop(events);
        server.stop();
    }
}
