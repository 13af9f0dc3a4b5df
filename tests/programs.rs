//! Programs in any language as workers: they inherit the listening sockets (`--protocol listen-fds`).
#![allow(clippy::unwrap_used)]

mod util;

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};
use util::client::Address;
use util::{Client, Start, Style, proc, wait_until};

/// The start of a server of a program with a script of `tests/programs`, copied into the test's directory.
fn program(script: &str, workers: usize, options: &[&str], words: &[&str]) -> Start {
    let start = Start::new(Style::Request).workers(workers);
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/programs").join(script);
    fs::copy(from, start.dir().file(script)).unwrap();
    start.dir().file("__pycache__");
    let mut all: Vec<OsString> = vec![env!("CARGO_BIN_EXE_prefork").into()];
    all.extend(["--workers".into(), workers.to_string().into()]);
    if !options.contains(&"--listen") {
        all.extend(["--listen".into(), "127.0.0.1:0".into()]);
    }
    all.extend(options.iter().map(OsString::from));
    all.push("--".into());
    all.extend(words.iter().map(OsString::from));
    start.program(all).of_programs()
}

fn serve(workers: usize, options: &[&str], mode: &str) -> Start {
    program("serve.py", workers, options, &["python3", "serve.py", mode])
}

const SOON: [&str; 2] = ["--ready-after", "500ms"];

#[test]
fn a_program_inherits_the_listeners_with_their_names_and_nothing_else() {
    let options = ["--listen", "127.0.0.1:0", "--listen", "api=127.0.0.1:0", "--env", "PLACE={100+id}"];
    let server = serve(2, &[&options[..], &SOON].concat(), "").start();
    let ask = |address: &Address, command: &str| {
        Client::connect(address, Style::Request).unwrap().ask_last(command).unwrap()
    };
    assert_eq!(server.ask("names").unwrap(), "unknown api");
    assert_eq!(ask(&server.addresses[0], "listener"), "unknown");
    assert_eq!(ask(&server.addresses[1], "listener"), "api");
    let place: u32 = server.ask("env PLACE").unwrap().parse().unwrap();
    assert!((101..=102).contains(&place), "{place}");
    // The standard ones, both listeners, the connection, and that of the directory; twice for what Python's selectors open.
    let descriptors = server.ask("descriptors").unwrap();
    let highest = descriptors.split(' ').map(|n| n.parse::<u32>().unwrap()).max().unwrap();
    assert!(highest < 12, "{descriptors}");
    let pid = server.workers()[0];
    let groups: BTreeSet<_> = (0..20).map(|_| server.ask("group").unwrap()).collect();
    assert!(
        groups.iter().all(|group| server.workers().contains(&group.parse().unwrap())),
        "{groups:?} {pid}"
    );
    server.stop();
}

#[test]
fn a_program_that_says_that_it_is_ready_is_waited_for() {
    let started = Instant::now();
    let mut server = serve(2, &["--ready-after", "0"], "notify").start();
    assert!(started.elapsed() > Duration::from_millis(300));
    server.reload();
    server.stop();
    let refused = serve(1, &["--ready-after", "0", "--boot-timeout", "1s"], "").refused();
    assert!(refused.stderr.contains("not ready within the boot-timeout"), "{}", refused.stderr);
}

#[test]
fn reloads_and_a_stop_under_load_cost_no_client() {
    let mut server = serve(2, &["--ready-after", "0"], "notify").start();
    let load = server.load(4, "pid");
    for _ in 0..2 {
        load.go_on_for(50);
        server.reload();
    }
    load.go_on_for(50);
    let tally = load.stop();
    assert!(tally.faults.is_empty(), "{tally:?}");
    // A request in progress is finished at a stop.
    let mut client = server.connect();
    client.send_command("sleep 500").unwrap();
    wait_until("the request is read", || server.connections() == 1);
    std::thread::sleep(Duration::from_millis(100));
    server.signal(libc::SIGTERM);
    assert_eq!(client.answer().unwrap(), "done");
    drop(client);
    server.ends();
}

#[test]
fn a_program_without_a_handler_ends_by_the_signal_and_that_is_no_fault() {
    let mut server = serve(1, &SOON, "abrupt").start();
    server.reload();
    server.stop();
}

#[test]
fn what_a_worker_has_started_ends_with_it() {
    let mut server = serve(1, &SOON, "child").start();
    let file = server.dir.file("child");
    let child_is_there = || fs::read_to_string(&file).ok()?.parse::<i32>().ok();
    wait_until("the child", || child_is_there().is_some());
    let child = child_is_there().unwrap();
    assert!(proc::state(child).is_some());
    let pid = server.workers()[0];
    server.says("died: SIGKILL");
    proc::signal(pid, libc::SIGKILL);
    server.replaces(pid);
    wait_until("the child is gone", || matches!(proc::state(child), None | Some('Z')));
    wait_until("the next child", || child_is_there().is_some_and(|next| next != child));
    server.stop();
}

#[test]
fn a_program_that_exits_at_once_is_told() {
    let refused = program("serve.py", 1, &[], &["sh", "-c", "echo nothing to do >&2; exit 7"]).refused();
    assert_eq!(refused.code, Some(1));
    assert!(
        refused.stderr.contains("nothing to do") && refused.stderr.contains("exit code 7"),
        "{}",
        refused.stderr
    );
    let refused = program("serve.py", 1, &[], &["./serve.py"]).refused();
    assert!(refused.stderr.contains("start ./serve.py: Permission denied"), "{}", refused.stderr);
}

#[test]
fn uvicorn_serves_and_reloads() {
    let words = ["uvicorn", "--fd", "3", "--log-level", "warning", "asgi:app"];
    let mut server = program("asgi.py", 2, &["--ready-after", "2"], &words).start();
    let load = server.load(4, "pid");
    server.reload();
    load.go_on_for(100);
    let tally = load.stop();
    // One that uvicorn has accepted, and whose request it has not read when it is told to end, is closed by it.
    assert!(tally.faults.values().sum::<u64>() <= 4, "{tally:?}");
    server.stop();
}

#[test]
fn gunicorn_serves_and_reloads() {
    let words = ["gunicorn", "--log-level", "error", "asgi:wsgi"];
    let mut server = program("asgi.py", 1, &["--ready-after", "2"], &words).start();
    server.ask("x").unwrap();
    server.reload();
    server.ask("x").unwrap();
    server.stop();
}
