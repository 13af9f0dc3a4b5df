//! `prefork upgrade`, and what clients of the control socket see of an upgrade.
#![allow(clippy::unwrap_used)]

mod util;

use serde_json::Value;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use util::dir::Dir;
use util::host::{self, Link};
use util::{Server, Start, Style, proc, wait_until};

/// The output and the exit code of a verb.
#[derive(Debug)]
struct Ran {
    code: i32,
    out: String,
    err: String,
}

fn start_verb(dir: &Dir, args: &[&str]) -> Child {
    // One that is never answered must not hold up the test.
    let mut command = Command::new("timeout");
    command
        .args(["60", env!("CARGO_BIN_EXE_prefork")])
        .args(args)
        .env("PREFORK_RUNTIME_DIR", dir.runtime())
        .stdin(Stdio::null());
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

fn end_of(child: Child) -> Ran {
    let out = child.wait_with_output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Ran { code: out.status.code().unwrap(), out: text(out.stdout), err: text(out.stderr) }
}

fn verb(dir: &Dir, args: &[&str]) -> Ran {
    end_of(start_verb(dir, args))
}

fn json(ran: &Ran) -> Value {
    serde_json::from_str(&ran.out).unwrap()
}

/// Another process writes the file, so that none of this one has it open for writing when it is executed (ETXTBSY); then it takes
/// the other's place by rename.
fn install(from: &Path, to: &Path) {
    let new = to.with_extension("new");
    assert!(Command::new("cp").args([from, &new]).status().unwrap().success());
    fs::rename(new, to).unwrap();
}

fn install_script(dir: &Dir, text: &str, to: &Path) {
    let script = dir.file("script");
    fs::write(&script, text).unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    install(&script, to);
}

/// A server whose program is a file of its own.
fn start() -> (Arc<Dir>, PathBuf, Server) {
    let dir = Arc::new(Dir::new());
    let path = dir.file("prefork");
    install(env!("CARGO_BIN_EXE_prefork").as_ref(), &path);
    let handler = Style::Request.handler();
    let mut server = Start::new(Style::Request)
        .within(&dir)
        .program([
            path.to_str().unwrap(),
            "--workers",
            "2",
            "--listen",
            "127.0.0.1:0",
            handler.to_str().unwrap(),
            dir.path().to_str().unwrap(),
        ])
        .start();
    for line in ["control: ", "upgrade: ", "reload to generation", "died before it was ready"] {
        server.may_say(line);
    }
    (dir, path, server)
}

#[test]
fn upgrade_waits_for_the_new_program_and_prints_its_verdict() {
    let (dir, _, server) = start();
    let load = server.load(2, "pid");
    let before = server.workers();
    let ran = verb(&dir, &["upgrade"]);
    assert_eq!((ran.code, ran.err.as_str()), (0, ""), "{ran:?}");
    assert!(ran.out.contains("the new program has taken over; generation 2 serves"), "{ran:?}");
    wait_until("the workers are new", || server.workers().iter().all(|pid| !before.contains(pid)));
    let ran = verb(&dir, &["upgrade", "--json"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    let verdict = json(&ran);
    assert_eq!((&verdict["outcome"], &verdict["generation"]), (&"committed".into(), &3.into()));
    assert_eq!(verdict["pid"].as_i64(), Some(server.pid.into()));
    load.go_on_for(50);
    let tally = load.stop();
    assert_eq!(tally.failed(), 0, "{tally:?}");
    server.stop();
}

#[test]
fn an_upgrade_that_fails_in_its_trial_has_exit_code_4_and_the_reason() {
    let (dir, path, server) = start();
    let before = server.workers();
    for (text, why) in [
        ("#!/bin/sh\nexit 0\n", "without a word that it can serve"),
        ("#!/bin/sh\nexit 3\n", "it ended by exit code 3"),
        ("no program", "Exec format error"),
    ] {
        install_script(&dir, text, &path);
        let ran = verb(&dir, &["upgrade"]);
        assert_eq!(ran.code, 4, "{ran:?}");
        assert!(
            ran.err.contains("nothing has changed: the upgrade failed while the new program was tried: ")
        );
        assert!(ran.err.contains(why) && ran.err.lines().count() == 1, "{ran:?}");
        let ran = verb(&dir, &["upgrade", "--json"]);
        assert_eq!(ran.code, 4, "{ran:?}");
        let verdict = json(&ran);
        assert_eq!((&verdict["outcome"], &verdict["stage"]), (&"rolled-back".into(), &"trial".into()));
        assert!(verdict["reason"].as_str().unwrap().contains(why), "{verdict}");
        assert_eq!(verdict["generation"], 1);
    }
    assert_eq!(server.workers(), before);
    server.stop();
}

#[test]
fn a_new_program_whose_workers_fail_has_exit_code_4_and_the_old_workers_serve() {
    let (dir, _, server) = start();
    let before = server.workers();
    dir.make("die");
    let ran = verb(&dir, &["upgrade"]);
    assert_eq!(ran.code, 4, "{ran:?}");
    let expected = "the new program has taken over, but its reload to generation 2 was rolled back at the first new worker";
    assert!(ran.err.contains(expected) && ran.err.contains("SIGABRT"), "{ran:?}");
    dir.remove("die");
    assert_eq!(server.workers(), before);
    server.ask("pid").unwrap();
    // The file is that of the workers that serve, though this program has read it too.
    let module = &json(&verb(&dir, &["show", "--json"]))["module"];
    assert_eq!(module["path"], fs::canonicalize(Style::Request.handler()).unwrap().to_str().unwrap());
    server.stop();
}

#[test]
fn one_upgrade_at_a_time_and_a_stop_ends_it() {
    let (dir, path, server) = start();
    install_script(&dir, "#!/bin/sh\nexec sleep 1000\n", &path);
    let first = start_verb(&dir, &["upgrade"]);
    let sleeps =
        |pid: i32| fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name == "sleep\n");
    wait_until("it is tried", || proc::children(server.pid).into_iter().any(sleeps));
    let second = verb(&dir, &["upgrade"]);
    assert!(second.code == 1 && second.err.contains("one is under way"), "{second:?}");
    let late = verb(&dir, &["upgrade", "--timeout", "10ms"]);
    assert!(late.code == 1, "{late:?}");
    let stop = verb(&dir, &["stop"]);
    assert_eq!(stop.code, 0, "{stop:?}");
    let first = end_of(first);
    assert!(first.code == 1 && first.err.contains("stopping"), "{first:?}");
    server.ends();
}

#[test]
fn an_upgrade_that_is_not_waited_for_continues() {
    let (dir, path, server) = start();
    let (gate, real) = (dir.file("gate"), env!("CARGO_BIN_EXE_prefork"));
    let text =
        format!("#!/bin/sh\nwhile [ ! -e {} ]; do sleep 0.01; done\nexec {real} \"$@\"\n", gate.display());
    install_script(&dir, &text, &path);
    let late = verb(&dir, &["upgrade", "--timeout", "100ms"]);
    assert!(late.code == 5 && late.err.contains("not done within the timeout; it continues"), "{late:?}");
    assert_eq!(server.lines_with("upgrade: version"), 0);
    dir.make("gate");
    server.wait_for_line("reload to generation 2 is complete");
    let ran = verb(&dir, &["upgrade", "--no-wait"]);
    assert!(ran.code == 0 && ran.out.contains("accepted"), "{ran:?}");
    server.wait_for_line("reload to generation 3 is complete");
    let nobody = verb(&dir, &["upgrade", "nobody"]);
    assert!(nobody.code == 3 && nobody.err.contains("nobody: no such server"), "{nobody:?}");
    server.stop();
}

#[test]
fn a_connection_to_the_control_socket_outlives_an_upgrade() {
    let (dir, _, server) = start();
    let mut client = UnixStream::connect(server.control_files().pop().unwrap()).unwrap();
    let mut replies = BufReader::new(client.try_clone().unwrap());
    let mut reply = || {
        let mut line = String::new();
        replies.read_line(&mut line).unwrap();
        serde_json::from_str::<Value>(&line).unwrap()
    };
    assert_eq!(reply()["reply"], "hello");
    // The beginning of a request that the new program reads to its end.
    client.write_all(b"{\"verb\":").unwrap();
    assert_eq!(verb(&dir, &["upgrade"]).code, 0);
    client.write_all(b"\"status\"}\n").unwrap();
    let status = reply();
    assert_eq!((&status["reply"], &status["generation"]), (&"status".into(), &2.into()), "{status}");
    // The one that asks sees it all on one connection.
    client.write_all(b"{\"verb\":\"upgrade\"}\n{\"verb\":\"status\"}\n").unwrap();
    assert_eq!(reply()["reply"], "accepted");
    let verdict = reply();
    assert_eq!((&verdict["reply"], &verdict["outcome"]), (&"reload".into(), &"committed".into()));
    assert_eq!(reply()["generation"], 3);
    drop(client);
    server.stop();
}

#[test]
fn events_go_on_over_an_upgrade_and_end_with_stopped() {
    let (dir, _, server) = start();
    let mut child = start_verb(&dir, &["events", "--json"]);
    let mut events = BufReader::new(child.stdout.take().unwrap());
    let mut wait_for = |event: &str, state: &str| {
        let mut seen = Vec::new();
        loop {
            let mut line = String::new();
            events.read_line(&mut line).unwrap();
            assert!(!line.is_empty(), "{event} {state} did not come: {seen:#?}");
            let found: Value = serde_json::from_str(&line).unwrap();
            if found["event"] == event && (state.is_empty() || found["state"] == state) {
                return found;
            }
            seen.push(found);
        }
    };
    assert_eq!(wait_for("setup", "")["generation"], 1);
    let text = start_verb(&dir, &["events"]);
    for generation in [2, 3] {
        assert_eq!(verb(&dir, &["upgrade"]).code, 0);
        assert_eq!(wait_for("setup", "")["workers"], 2);
        assert_eq!(wait_for("reload", "started")["generation"], generation);
        assert_eq!(wait_for("reload", "committed")["generation"], generation);
    }
    server.signal(libc::SIGTERM);
    assert_eq!(wait_for("stopped", "")["killed"], 0);
    assert_eq!(child.wait().unwrap().code(), Some(0));
    let text = end_of(text);
    assert_eq!((text.code, text.err.as_str()), (0, ""), "{text:?}");
    let last = text.out.lines().last().unwrap();
    assert!(last.contains("stopped") && last.contains("every worker has ended"), "{text:?}");
    server.ends();
}

#[test]
fn events_of_a_killed_master_end_with_a_word_and_exit_code_1() {
    let (dir, _, server) = start();
    let mut child = start_verb(&dir, &["events"]);
    let mut first = [0; 1];
    std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut first).unwrap();
    server.signal(libc::SIGKILL);
    let ran = end_of(child);
    assert!(ran.code == 1 && ran.err.contains("has ended without a stop: it was killed"), "{ran:?}");
    server.dies_out();
}

/// A host in C or Rust, as a file in the directory that can be replaced.
fn start_host(host: &Path) -> (Arc<Dir>, PathBuf, Server) {
    let dir = Arc::new(Dir::new());
    let path = dir.file("host");
    install(host, &path);
    let mut server = Start::new(Style::Request)
        .within(&dir)
        .through(&["env", &host::search()])
        .program([path.to_str().unwrap(), "run", dir.path().to_str().unwrap(), "127.0.0.1:0"])
        .start();
    dir.file("pid");
    for line in ["control: ", "upgrade: ", "reload to generation"] {
        server.may_say(line);
    }
    (dir, path, server)
}

#[test]
fn a_reload_of_an_embedded_program_says_that_its_file_has_changed_and_an_upgrade_takes_it() {
    for host in [host::program("tests/pidfile.c", "pidfile-changed", Link::Shared), host::example("pidfile")]
    {
        let (dir, path, server) = start_host(&host);
        let ran = verb(&dir, &["reload"]);
        assert!(ran.code == 0 && ran.out.ends_with("generation 2 serves\n"), "{ran:?}");
        install(&host, &path);
        let ran = verb(&dir, &["reload"]);
        assert_eq!(ran.code, 0, "{ran:?}");
        let expected =
            format!("{} has changed since it was started; `prefork upgrade` takes it", path.display());
        assert!(ran.out.contains("generation 3 serves") && ran.out.contains(&expected), "{ran:?}");
        assert!(server.lines_with(&expected) > 0, "{:#?}", server.stderr());
        let verdict = json(&verb(&dir, &["reload", "--json"]));
        assert_eq!((&verdict["outcome"], &verdict["code"]["changed"]), (&"committed".into(), &true.into()));
        let status = json(&verb(&dir, &["show", "--json"]));
        assert_eq!(status["program"]["changed"], true, "{status}");
        assert_eq!(verb(&dir, &["upgrade"]).code, 0);
        let status = json(&verb(&dir, &["show", "--json"]));
        assert_eq!(status["program"]["changed"], false, "{status}");
        let ran = verb(&dir, &["reload"]);
        assert!(ran.code == 0 && !ran.out.contains("changed"), "{ran:?}");
        server.stop();
    }
}
