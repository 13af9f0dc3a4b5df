//! The lines that prefork itself logs: which at which level, what stands before them, and who gets them.
#![allow(clippy::unwrap_used)]

mod util;

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use util::host::{Link, example, program, search};
use util::{RELOAD, Server, Start, Style, proc, wait_until};

/// A reload and a crash.
#[track_caller]
fn reloads_and_crashes(server: &mut Server) {
    let before = server.workers();
    server.signal(libc::SIGHUP);
    wait_until("all workers are new", || {
        let now = server.workers();
        now.len() == 2 && now.iter().all(|pid| !before.contains(pid)) && proc::children(server.pid).len() == 2
    });
    let pid = server.worker_in(0);
    proc::signal(pid, libc::SIGKILL);
    server.replaces(pid);
}

#[test]
fn a_level_leaves_out_what_is_less_important() {
    for (level, has_crash, has_reload, has_forks) in
        [("error", true, false, false), ("info", true, true, false), ("debug", true, true, true)]
    {
        let mut server = Start::new(Style::Request).set("log-level", level).start();
        server.may_say("prefork: ");
        reloads_and_crashes(&mut server);
        server.wait_for_line("died: ");
        let lines = |text| server.lines_with(text) > 0;
        assert_eq!(lines("died: "), has_crash, "{level}");
        assert_eq!(lines(RELOAD), has_reload, "{level}");
        for text in ["is forked, of generation 2", "is ready", "drains", "has ended: exit code 0 (reload)"] {
            assert_eq!(lines(text), has_forks, "{level} {text} {:#?}", server.stderr());
        }
        server.stop();
    }
}

#[test]
fn pauses_in_accepting_are_for_debugging() {
    let start = Start::new(Style::Request).workers(1).set("max-conns", "1");
    let mut server = start.set("log-level", "debug").start();
    server.may_say("prefork: ");
    let first = server.client_at_gate();
    let second = server.connect();
    server.wait_for_line("accepting is paused; clients wait in the backlog");
    fs::write(server.dir.file("g"), "").unwrap();
    drop(first);
    server.wait_for_line("accepting is resumed");
    drop(second);
    server.stop();
}

#[test]
fn quiet_prints_nothing_but_warnings_and_errors() {
    let start = Start::new(Style::Request).listen("unix:s");
    let socket = start.dir().path().join("s");
    let mut server = start.switch("-q").launch();
    wait_until("it listens", || std::os::unix::net::UnixStream::connect(&socket).is_ok());
    wait_until("the workers run", || server.workers().len() == 2);
    server.says("died: ");
    reloads_and_crashes(&mut server);
    server.wait_for_line("died: ");
    assert_eq!(server.stdout(), [""; 0]);
    server.signal(libc::SIGTERM);
    server.ends();
}

/// True if a line begins as the setting says: `2026-11-30T20:02:28.123Z info prefork: `.
fn has_time(line: &str) -> bool {
    let shape: String = line.chars().take(24).map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
    let rest = line.get(25..).and_then(|rest| rest.split_once(" prefork: "));
    shape == "0000-00-00T00:00:00.000Z" && rest.is_some_and(|(level, _)| ["info", "error"].contains(&level))
}

#[test]
fn a_time_and_the_level_stand_before_each_line() {
    let words = [env!("CARGO_BIN_EXE_prefork"), "demo", "-w2", "-l127.0.0.1:0", "--log-time=on"];
    let mut server = Start::new(Style::Request).program(words).start();
    reloads_and_crashes(&mut server);
    server.wait_for_line("died: ");
    // In a worker too; its panic is printed without a time.
    server.connect().http_answer_to("/panic").unwrap();
    server.wait_for_line("error prefork: worker ");
    for text in ["prefork: ", "panicked at", "asked to panic", "RUST_BACKTRACE"] {
        server.may_say(text);
    }
    for line in server.stderr().iter().filter(|line| line.contains("prefork: ")) {
        assert!(has_time(line), "{line}");
    }
    server.stop();
    let refused = Start::new(Style::Request).set("log-time", "on").listen("unix:/nowhere/s").refused();
    assert!(has_time(&refused.stderr), "{}", refused.stderr);
}

#[test]
fn the_journal_gets_the_level_of_each_line() {
    for (time, is_journal, begins) in [
        ("auto", true, "<3>prefork: worker "),
        ("auto", false, "prefork: worker "),
        ("off", true, "prefork: worker "),
    ] {
        let start = Start::new(Style::Request).set("log-time", time);
        let path = start.dir().file("log");
        let log = File::create(&path).unwrap();
        let about = log.metadata().unwrap();
        let inode = about.ino() + u64::from(!is_journal);
        let stream = format!("{}:{inode}", about.dev());
        let server = start.env("JOURNAL_STREAM", Some(OsStr::new(&stream))).stderr(log).start();
        let pid = server.worker_in(0);
        proc::signal(pid, libc::SIGKILL);
        server.replaces(pid);
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.starts_with(begins), "{time} {text}");
        server.stop();
    }
}

#[test]
fn a_level_that_is_none_is_refused_with_those_that_are() {
    let refused = Start::new(Style::Request).set("log-level", "loud").refused();
    assert_eq!(refused.code, Some(2));
    assert!(refused.stderr.contains("loud"), "{}", refused.stderr);
}

/// A host with a callback gets the lines of the master and of its worker, and nothing is on standard error.
#[track_caller]
fn has_its_own_log(server: &mut Server, path: &str, lines_of_worker: &str) {
    let says = |what: &str, pid: i32, text: &str| {
        let pid = pid.to_string();
        let is_it = |line: &String| {
            let words: Vec<_> = line.splitn(4, ' ').collect();
            words[0] == pid && words.len() == 4 && words[2] == what && words[3].starts_with(text)
        };
        wait_until(text, || server.stdout().iter().any(is_it));
    };
    says("other", server.pid, "worker 1 is ready");
    let worker = server.workers()[0];
    server.connect().http_answer_to(path).unwrap_or_default();
    says("error", worker, lines_of_worker);
    proc::signal(worker, libc::SIGKILL);
    says("error", server.pid, "worker 1 (slot 0, pid ");
    says("other", server.pid, "worker 2 is ready");
}

#[test]
fn a_host_in_rust_gets_the_lines() {
    let host = example("log_lines");
    let mut server =
        Start::new(Style::Request).workers(1).program([host.as_os_str(), "127.0.0.1:0".as_ref()]).start();
    has_its_own_log(&mut server, "/panic", "worker 1: on_request: ");
    // Its callback panics: the line is not lost.
    server.signal(libc::SIGUSR1);
    server.wait_for_line("prefork: SIGUSR1: there are no log files to reopen");
    server.may_say("panicked at");
    server.may_say("RUST_BACKTRACE");
    server.may_say("asked to");
    server.may_say("a callback that panics");
    server.says("SIGUSR1");
    server.stop();
}

#[test]
fn a_host_in_c_gets_the_lines() {
    let host = program("tests/log_lines.c", "log_lines", Link::Shared);
    let words = ["env".into(), search().into(), host.into_os_string(), "127.0.0.1:0".into()];
    let mut server = Start::new(Style::Request).workers(1).program(words).start();
    has_its_own_log(&mut server, "/", "worker 1: a response ended 2 bytes short");
    server.stop();
}
