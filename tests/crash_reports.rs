//! What is told of a worker that dies in a call of its handler: in the log, in `prefork show`, in events; and that telling it changes nothing
//! of how the worker ends.
#![allow(clippy::unwrap_used)]

mod util;

use serde_json::Value;
use std::net::UdpSocket;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use util::handler::{compile, host};
use util::host::example;
use util::{Server, Start, Style, wait_until};

const SOURCE: &str = include_str!("crash_reports.c");

fn start_with(style: Style, flags: &[&str]) -> Start {
    Start::new(style).workers(1).module(compile(SOURCE, flags))
}

fn start() -> Server {
    start_with(Style::Request, &[]).start()
}

/// Sends a command whose call kills the worker, waits for its successor, and returns the lines about the death.
#[track_caller]
fn crash(server: &mut Server, command: &str) -> Vec<String> {
    server.may_say("died");
    let before = server.stderr().len();
    let worker = server.workers()[0];
    let _ = server.ask(command);
    server.replaces(worker);
    wait_until("the line about it", || {
        server.stderr()[before..].iter().any(|line| line.contains(" was in "))
    });
    // Its lines are written one after the other: this one comes behind all of them.
    server.may_say(MARK);
    let marks = server.lines_with(MARK);
    server.signal(libc::SIGUSR1);
    wait_until("the mark", || server.lines_with(MARK) > marks);
    server.ask("x").unwrap();
    let mut lines = server.stderr().split_off(before);
    lines.retain(|line| !line.contains(MARK));
    lines
}

const MARK: &str = "SIGUSR1: there are no log files";

/// The line about the call.
fn call(lines: &[String]) -> &str {
    lines.iter().find(|line| line.contains(" was in ")).unwrap()
}

#[track_caller]
fn has_frame(lines: &[String], name: &str) {
    assert!(
        lines.iter().any(|line| line.contains(": #") && line.contains(&format!(" {name}+0x"))),
        "{lines:#?}"
    );
}

fn show(server: &Server, args: &[&str]) -> String {
    let mut show = Command::new(env!("CARGO_BIN_EXE_prefork"));
    show.arg("show").args(args).env("PREFORK_RUNTIME_DIR", server.dir.runtime()).stdin(Stdio::null());
    let out = show.output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap()
}

#[test]
fn a_fault_in_on_request_is_told_in_the_log_in_show_and_in_json() {
    let mut server = start();
    let mut events = Command::new(env!("CARGO_BIN_EXE_prefork"));
    events.args(["events", "--json"]).env("PREFORK_RUNTIME_DIR", server.dir.runtime()).stdin(Stdio::null());
    let mut events = events.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(events.stdout.take().unwrap()));
    lines.next().unwrap().unwrap();
    let said = crash(&mut server, "segv?secret=1");
    assert!(said[0].contains("died: SIGSEGV"), "{said:#?}");
    let line = call(&said);
    assert!(line.contains("worker 1 was in on_request, for "), "{line}");
    assert!(line.contains(" ms: GET /segv?secret=1, client 127.0.0.1:"), "{line}");
    assert!(line.contains("; fault at address 0x0"), "{line}");
    has_frame(&said, "planted_segv");
    has_frame(&said, "crash");
    has_frame(&said, "on_request");
    assert!(said.iter().any(|line| line.contains(&format!(".{}.1.so+0x", server.pid))), "{said:#?}");
    // Not what called it.
    assert!(said.iter().all(|line| !line.contains(": #") || !line.contains("7prefork")), "{said:#?}");
    let text = show(&server, &[]);
    assert!(text.contains("worker 1, which slot 0 had before, ended by SIGSEGV"), "{text}");
    assert!(text.contains("it was in on_request") && text.contains("  #0 planted_segv+0x"), "{text}");
    let check = |crash: &Value| {
        assert_eq!(crash["callback"], "on_request", "{crash}");
        assert_eq!(crash["request"], "GET /segv?secret=1", "{crash}");
        assert_eq!(crash["address"], 0, "{crash}");
        assert!(crash["lasted_ms"].as_u64().unwrap() < 60_000, "{crash}");
        assert!(crash["peer"].as_str().unwrap().starts_with("127.0.0.1:"), "{crash}");
        assert!(crash["backtrace"][0].as_str().unwrap().starts_with("planted_segv+0x"), "{crash}");
    };
    let status: Value = serde_json::from_str(&show(&server, &["--json"])).unwrap();
    check(&status["workers"][0]["last_exit"]["crash"]);
    let exit = lines.map(|line| serde_json::from_str::<Value>(&line.unwrap()).unwrap());
    let exit = exit.into_iter().find(|event| event["event"] == "exit").unwrap();
    check(&exit["crash"]);
    assert_eq!(exit["exit"]["signal"], "SIGSEGV");
    events.kill().unwrap();
    events.wait().unwrap();
    server.stop();
}

#[test]
fn each_way_to_die_keeps_its_signal_and_names_what_it_was_in() {
    let mut server = start();
    for (command, exit, name) in [
        ("abort", "died: SIGABRT", Some("planted_abort")),
        ("overflow", "died: SIGSEGV", Some("planted_overflow")),
        ("nowhere", "died: SIGSEGV", Some("crash")),
        // What the kernel does leaves no time to tell more than the callback.
        ("kill", "died: SIGKILL", None),
        ("exit", "died: exit code 3", None),
    ] {
        let said = crash(&mut server, command);
        assert!(said.iter().any(|line| line.contains(exit)), "{command}: {said:#?}");
        match name {
            Some(name) => {
                has_frame(&said, name);
                assert!(call(&said).contains(&format!("GET /{command}, client ")), "{said:#?}");
            }
            None => assert!(call(&said).contains("in on_request"), "{said:#?}"),
        }
    }
    server.stop();
}

#[test]
fn a_fault_within_malloc_does_not_keep_the_worker() {
    let mut server = start();
    let begin = Instant::now();
    let said = crash(&mut server, "malloc");
    assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
    assert!(said.iter().any(|l| l.contains("died: SIGABRT") || l.contains("died: SIGSEGV")), "{said:#?}");
    assert!(call(&said).contains("GET /malloc, client "), "{said:#?}");
    has_frame(&said, "planted_in_malloc");
    server.may_say("malloc");
    server.may_say("free");
    server.may_say("corrupt");
    server.stop();
}

#[test]
fn a_handler_of_the_module_s_own_stays_and_so_does_the_default_that_it_sets() {
    let mut server = start();
    server.says("own handler");
    let said = crash(&mut server, "own");
    assert!(said.iter().any(|line| line.contains("died: exit code 11")), "{said:#?}");
    assert!(
        call(&said).contains("in on_request") && !said.iter().any(|line| line.contains(": #")),
        "{said:#?}"
    );
    let said = crash(&mut server, "default");
    assert!(said.iter().any(|line| line.contains("died: SIGSEGV")), "{said:#?}");
    assert!(!said.iter().any(|line| line.contains(": #")), "{said:#?}");
    server.stop();
}

#[test]
fn a_child_of_a_handler_that_crashes_says_nothing_about_the_worker() {
    let mut server = start();
    assert_eq!(server.ask("child").unwrap(), "ok");
    let said = crash(&mut server, "kill");
    assert!(!said.iter().any(|line| line.contains(": #") || line.contains("fault at")), "{said:#?}");
    assert!(!call(&said).contains("child"), "{said:#?}");
    server.stop();
}

#[test]
fn a_crash_in_a_timer_and_one_in_worker_start_are_told_as_such() {
    let mut server = start();
    let said = crash(&mut server, "timer");
    assert!(call(&said).contains("was in timer, for ") && !call(&said).contains("GET"), "{said:#?}");
    has_frame(&said, "planted_segv");
    has_frame(&said, "on_timer");
    server.stop();

    let refused = start_with(Style::Request, &[]).env("START", Some("1".as_ref())).refused();
    let text = refused.stderr;
    assert!(text.contains("SIGSEGV") && text.contains("was in worker_start"), "{text}");
    assert!(text.contains("#0 planted_segv+0x"), "{text}");
}

#[test]
fn a_crash_in_a_stream_has_its_client_and_one_in_on_datagram_its_sender() {
    let mut server = start_with(Style::Data, &["-DSTREAM"]).start();
    let said = {
        server.may_say("died");
        let worker = server.workers()[0];
        let _ = server.ask("segv");
        server.replaces(worker);
        server.wait_for_line("#0 planted_segv+0x");
        server.stderr()
    };
    assert!(call(&said).contains("was in on_data, for "), "{said:#?}");
    assert!(call(&said).contains(" ms: client 127.0.0.1:"), "{said:#?}");
    server.stop();

    let mut server = start_with(Style::Request, &[]).listen("127.0.0.1:0").listen("udp:127.0.0.1:0").start();
    server.may_say("died");
    let util::client::Address::Udp(address) = server.addresses[1] else { panic!() };
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    let worker = server.workers()[0];
    client.send_to(b"segv", address).unwrap();
    server.replaces(worker);
    server.wait_for_line("#0 planted_segv+0x");
    let said = server.stderr();
    let sender = client.local_addr().unwrap();
    assert!(call(&said).contains("was in on_datagram, for "), "{said:#?}");
    assert!(call(&said).contains(&format!("client {sender}")), "{said:#?}");
    server.stop();
}

#[test]
fn a_worker_that_is_aborted_for_its_time_says_where_it_hung() {
    let mut server = start_with(Style::Request, &[]).set("timeout", "300ms").start();
    server.may_say("hangs");
    let said = crash(&mut server, "loop");
    assert!(said.iter().any(|line| line.contains("died: SIGABRT")), "{said:#?}");
    has_frame(&said, "planted_loop");
    let lasted =
        call(&said).split(", for ").nth(1).unwrap().split(' ').next().unwrap().parse::<u64>().unwrap();
    assert!((1200..60_000).contains(&lasted), "{said:#?}");
    server.stop();
}

#[test]
fn a_signal_from_elsewhere_while_no_call_runs_says_nothing() {
    let mut server = start();
    server.says("died: SIGSEGV");
    let worker = server.workers()[0];
    server.ask("x").unwrap();
    util::proc::signal(worker, libc::SIGSEGV);
    server.replaces(worker);
    assert!(!server.stderr().iter().any(|line| line.contains(" was in ") || line.contains(": #")));
    server.stop();
}

#[test]
fn a_long_target_is_cut_and_what_is_no_text_is_escaped() {
    let mut server = start();
    let said = crash(&mut server, &format!("segv{}", "x".repeat(1000)));
    let line = call(&said);
    assert!(line.contains(&"x".repeat(190)) && !line.contains(&"x".repeat(201)), "{line}");
    assert!(line.len() < 400, "{line}");
    server.stop();
}

#[test]
fn a_core_is_that_of_the_fault() {
    // Cores go to the working directory of the worker, if the machine says nothing else.
    let pattern = std::fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap();
    if pattern.trim() != "core" {
        return eprintln!("not tested: cores go to {pattern}");
    }
    let mut server = start_with(Style::Request, &[]).through(&["prlimit", "--core=unlimited"]).start();
    server.dir.file("core");
    let worker = server.workers()[0];
    for name in [format!("core.{worker}"), "core".into()] {
        server.dir.file(&name);
    }
    let said = crash(&mut server, "segv");
    assert!(said.iter().any(|line| line.contains("SIGSEGV, core dumped")), "{said:#?}");
    let core = [format!("core.{worker}"), "core".into()].into_iter().map(|name| server.dir.path().join(name));
    let core = core.into_iter().find(|path| path.exists()).unwrap();
    let mut gdb = Command::new("gdb");
    gdb.args([
        "-nx",
        "-batch",
        "-iex",
        "set debuginfod enabled off",
        "-ex",
        "bt",
        "-ex",
        "p $_siginfo._sifields",
    ]);
    let out = gdb.arg(env!("CARGO_BIN_EXE_prefork")).arg(core).output().unwrap();
    let text = String::from_utf8_lossy(&out.stdout);
    assert!(text.contains("#0  ") && text.contains("planted_segv"), "{text}");
    let first = text.lines().find(|line| line.starts_with("#0 ")).unwrap();
    assert!(first.contains("planted_segv"), "{text}");
    assert!(!text.contains("signal handler called"), "{text}");
    server.stop();
}

#[test]
fn a_host_in_c_and_one_in_rust_are_told_by_their_events() {
    let mut server =
        Start::new(Style::Request).workers(1).program([host(&format!("#define HOST\n{SOURCE}"))]).start();
    crash(&mut server, "segv");
    let line = "exit: 11 on_request GET /segv 1 planted_segv";
    wait_until("the event", || server.stdout().iter().any(|l| l == line));
    wait_until("its peer", || server.stdout().iter().any(|l| l.starts_with("peer: 127.0.0.1:")));
    server.stop();

    let mut server = Start::new(Style::Request).workers(1).program([example("crash_reports")]).start();
    let said = crash(&mut server, "abort");
    assert!(said.iter().any(|line| line.contains("planted_abort")), "{said:#?}");
    let line = r#"exit: SIGABRT on_request Some("GET /abort") true true"#;
    wait_until("the event", || {
        server.stdout().iter().any(|l| l == line || l.starts_with("exit: SIGABRT, core dumped"))
    });
    server.stop();
}
