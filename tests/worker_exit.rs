//! What runs at the end of a worker that has finished, by `--worker-exit`.
#![allow(clippy::unwrap_used)]

mod util;

use std::process::{Command, Output};
use std::time::{Duration, Instant};
use util::handler::{compile, host_with};
use util::host::example;
use util::{Dir, Server, Start, Style, wait_until};

const SOURCE: &str = include_str!("worker_exit.c");

fn module(how: &str) -> Start {
    Start::new(Style::Request).workers(1).module(compile(SOURCE, &[])).set("worker-exit", how)
}

/// Serves a request, stops, and returns what was said at the end.
fn end(mut server: Server) -> Vec<String> {
    assert_eq!(server.ask("x").unwrap(), "ok");
    server.may_say("");
    server.signal(libc::SIGTERM);
    wait_until("the end", || server.has_exited());
    wait_until("what was buffered", || server.stdout().iter().any(|line| line.contains("buffered")));
    let said = server.stderr();
    server.ends();
    said
}

#[test]
fn quick_runs_worker_stop_and_writes_what_was_buffered_and_no_more() {
    assert_eq!(end(module("quick").start()), ["worker_stop"]);
    let by_default = Start::new(Style::Request).workers(1).module(compile(SOURCE, &[])).start();
    assert_eq!(end(by_default), ["worker_stop"]);
}

#[test]
fn full_runs_exit_handlers_and_destructors_of_a_module() {
    assert_eq!(end(module("full").start()), ["worker_stop", "exit handler", "destructor"]);
}

#[test]
fn full_runs_them_in_a_worker_that_leaves_by_itself() {
    let mut server = module("full").start();
    server.may_say("");
    assert_eq!(server.ask("leave").unwrap(), "ok");
    server.wait_for_line("destructor");
    assert_eq!(server.stderr(), ["worker_stop", "exit handler", "destructor"]);
    server.stop();
}

fn host(how: &str) -> Vec<String> {
    let program = host_with(SOURCE, &["-DHOST"]);
    end(Start::new(Style::Request)
        .workers(1)
        .program([program])
        .env("WORKER_EXIT", Some(how.as_ref()))
        .start())
}

#[test]
fn what_a_program_in_c_has_set_up_before_the_fork_runs_in_its_workers_too_if_it_is_full() {
    let at_last = ["exit handler of the host, in the host", "destructor of the host"];
    let quick = [&["worker_stop"][..], &at_last].concat();
    assert_eq!(host("quick"), quick);
    let worker = ["worker_stop", "exit handler", "exit handler of the host, in a worker", "destructor"];
    assert_eq!(host("full"), [&worker[..], &at_last].concat());
}

#[test]
fn a_program_in_rust_has_its_handler_dropped_and_exit_handlers_run_if_it_is_full() {
    let run = |how: &str| {
        let start = Start::new(Style::Request).workers(1).program([example("worker_exit")]);
        end(start.env("WORKER_EXIT", Some(how.as_ref())).start())
    };
    assert_eq!(run("quick"), ["worker_stop"]);
    assert_eq!(run("full"), ["worker_stop", "drop", "exit handler"]);
}

#[test]
fn an_exit_handler_that_hangs_is_ended_at_the_drain_timeout() {
    let mut server = module("full").set("drain-timeout", "300ms").env("HANG", Some("1".as_ref())).start();
    for line in ["worker_stop", "exit handler", "had not ended at its deadline and was killed"] {
        server.says(line);
    }
    assert_eq!(server.ask("x").unwrap(), "ok");
    let begin = Instant::now();
    server.signal(libc::SIGTERM);
    server.ends_with(5);
    assert!(begin.elapsed() < Duration::from_secs(10));
}

#[test]
fn another_word_is_refused() {
    let refused = module("fast").refused();
    assert!(refused.stderr.contains("quick") && refused.stderr.contains("full"), "{}", refused.stderr);
}

/// The compiler's library for AddressSanitizer, which must be loaded first since `prefork` is built without it.
fn sanitizer() -> String {
    let Output { stdout, .. } = Command::new("cc").arg("-print-file-name=libasan.so").output().unwrap();
    String::from_utf8(stdout).unwrap().trim().to_owned()
}

#[test]
fn leaks_of_an_ordinary_worker_are_reported_if_it_is_full() {
    let sanitized = |how: &str, path: &str| {
        let flags = ["-fsanitize=address", "-fno-omit-frame-pointer"];
        let mut server = Start::new(Style::Request)
            .workers(1)
            .module(compile(SOURCE, &flags))
            .set("worker-exit", how)
            .env("LD_PRELOAD", Some(sanitizer().as_ref()))
            .start();
        server.may_say("");
        assert_eq!(server.ask(path).unwrap(), "ok");
        server.signal(libc::SIGTERM);
        wait_until("the end", || server.has_exited());
        let said = server.stderr().join("\n");
        server.ends();
        said
    };
    let said = sanitized("full", "leak");
    assert!(said.contains("Direct leak of 4321 byte") && said.contains("on_request"), "{said}");
    let said = sanitized("full", "x");
    assert!(!said.contains("Sanitizer"), "{said}");
    let said = sanitized("quick", "leak");
    assert!(!said.contains("Sanitizer"), "{said}");
}

#[test]
fn coverage_of_an_ordinary_worker_is_written_if_it_is_full() {
    for (how, is_written) in [("full", true), ("quick", false)] {
        let start = Start::new(Style::Request).workers(1).set("worker-exit", how);
        let dir = Dir::new();
        let at = dir.file("coverage");
        let server =
            start.module(compile(SOURCE, &["--coverage"])).env("GCOV_PREFIX", Some(at.as_ref())).start();
        end(server);
        let found = Command::new("find").arg(&at).args(["-name", "*.gcda"]).output().unwrap();
        assert_eq!(!found.stdout.is_empty(), is_written, "{how}");
    }
}
