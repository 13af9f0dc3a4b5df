//! The limit on open descriptors: raised as far as it goes, refused with numbers beyond that, and never a server that is deaf.
#![allow(clippy::unwrap_used)]

mod util;

use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};
use util::{Mode, Server, Start, Style, comes_true, proc, wait_until};

/// A server with this soft and hard limit.
fn limited(soft: u32, hard: u32, workers: usize) -> Start {
    Start::new(Style::Request).through(&["prlimit", &format!("--nofile={soft}:{hard}")]).workers(workers)
}

fn verb(server: &Server, args: &[&str]) -> Output {
    // A server that is deaf must not hold up the test.
    let mut command = Command::new("timeout");
    command
        .args(["20", env!("CARGO_BIN_EXE_prefork")])
        .args(args)
        .env("PREFORK_RUNTIME_DIR", server.dir.runtime())
        .stdin(Stdio::null());
    command.output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The number behind a word of a text.
#[track_caller]
fn number_after(said: &str, word: &str) -> usize {
    let rest = said.split_once(word).unwrap_or_else(|| panic!("no {word:?} in {said:?}")).1.trim_start();
    rest.split(|c: char| !c.is_ascii_digit()).next().unwrap().parse().unwrap()
}

/// A descriptor of the master that is free, and all above it.
fn lowest_free(pid: i32) -> u32 {
    let open = proc::descriptors(pid);
    (0..).find(|n| open.iter().all(|(number, _)| number != n)).unwrap()
}

#[test]
fn a_soft_limit_keeps_no_worker_from_starting_and_no_reload_from_ending() {
    for mode in Mode::ALL {
        let mut server = limited(64, 4096, 40).accept(mode).start();
        server.may_say("control: ");
        // Requests in progress keep the old workers, so that both generations have descriptors.
        let mut clients: Vec<_> = (0..40).map(|_| server.connect()).collect();
        clients.iter_mut().for_each(|c| c.send_command("gate g").unwrap());
        wait_until("all are in the handler", || {
            server.dir.at_gate("g") >= if mode == Mode::Master { 40 } else { 1 }
        });
        server.reload();
        server.dir.make("g");
        for client in &mut clients {
            assert_eq!(client.answer(), Ok("gate".into()), "{mode:?}");
        }
        drop(clients);
        let done = verb(&server, &["scale", "80"]);
        assert!(done.status.success(), "{mode:?}: {done:?}");
        // Under reuseport the sockets of the new slots stay, which `stop` would count.
        server.signal(libc::SIGTERM);
        server.ends();
    }
}

#[test]
fn workers_beyond_the_hard_limit_are_refused_at_the_start_with_the_number_that_would_do() {
    for mode in Mode::ALL {
        let refused = limited(64, 256, 200).accept(mode).refused();
        assert_eq!(refused.code, Some(1), "{refused:?}");
        assert!(
            refused.stderr.contains("ulimit -n") && refused.stderr.contains("200 workers"),
            "{refused:?}"
        );
        assert_eq!(number_after(&refused.stderr, "hard limit is"), 256, "{refused:?}");
        assert!(number_after(&refused.stderr, "need") > 256, "{refused:?}");
        // And that number is no guess.
        let most = number_after(&refused.stderr, "at most");
        assert!((18..64).contains(&most), "{mode:?}: {most}");
        let mut server = limited(64, 256, most).accept(mode).start();
        server.reload();
        server.stop();
    }
}

#[test]
fn a_scale_beyond_the_hard_limit_is_refused_and_changes_nothing() {
    for mode in Mode::ALL {
        let mut server = limited(64, 128, 4).accept(mode).start();
        server.says("control: scale");
        let before = server.workers();
        for count in ["60", "+56"] {
            let refused = verb(&server, &["scale", count]);
            let said = text(&refused.stderr);
            assert_eq!(refused.status.code(), Some(1), "{said}");
            assert!(said.contains("60 workers") && said.contains("ulimit -n"), "{said}");
            assert_eq!(number_after(&said, "hard limit is"), 128, "{said}");
        }
        assert!(text(&verb(&server, &["ls"]).stdout).contains("4/4"), "{mode:?}");
        assert_eq!(server.workers(), before);
        server.stop();
    }
}

#[test]
fn more_workers_by_signal_than_the_hard_limit_carries_are_refused_with_a_line() {
    let mut server = limited(64, 96, 2).start();
    server.says("ulimit -n");
    let mut sent = 0;
    wait_until("it refuses", || {
        server.signal(libc::SIGTTIN);
        sent += 1;
        comes_true(Duration::from_millis(50), || server.lines_with("ulimit -n") > 0)
    });
    let workers = server.slots().len();
    assert!(workers > 4 && sent >= workers - 1, "{workers} after {sent}");
    server.scaled_to(workers);
    server.stop();
}

#[test]
fn a_master_without_descriptors_answers_the_control_socket_and_says_once_that_slots_are_empty() {
    for mode in [Mode::Master, Mode::Shared] {
        let mut server = Start::new(Style::Request).workers(12).accept(mode).start();
        server.says("died: SIGKILL");
        server.says("ulimit -n");
        server.may_say("control: ");
        server.may_say("accept: Too many open files");
        // An administrator lowers the limit, and half the workers die, some with descriptors beyond it.
        let limit = lowest_free(server.pid) - 3 * 4;
        proc::limit(server.pid, "nofile", limit);
        let victims = &server.workers()[6..];
        victims.iter().for_each(|&pid| proc::signal(pid, libc::SIGKILL));
        server.wait_for_line("ulimit -n");
        let start = Instant::now();
        comes_true(Duration::from_secs(3), || {
            let listed = verb(&server, &["ls"]);
            assert!(listed.status.success(), "{mode:?}: {listed:?}, it said {:#?}", server.stderr());
            false
        });
        let lines = server.lines_with("start worker");
        assert!(
            (1..=4).contains(&lines),
            "{mode:?}: {lines} lines in {:?}: {:#?}",
            start.elapsed(),
            server.stderr()
        );
        assert_eq!(server.lines_with("control: accept"), 0);
        let scaled = verb(&server, &["scale", "14", "--timeout", "5s"]);
        assert_eq!(scaled.status.code(), Some(1), "{scaled:?}");
        assert!(text(&scaled.stderr).contains("ulimit -n"), "{scaled:?}");
        proc::limit(server.pid, "nofile", 1024);
        wait_until("every slot has a worker again", || server.slots().len() == 12);
        server.stop();
    }
}
