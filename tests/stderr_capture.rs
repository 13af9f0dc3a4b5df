//! The last lines of a worker that fails are reported with the failure, and no amount of output delays a worker or the
//! master.
#![cfg(feature = "control")]
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod util;

use serde_json::{Value, json};
use std::io::{BufRead, BufReader, ErrorKind, PipeReader, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::process::{Command, Output, Stdio};
use util::{RELOAD, Server, Start, Style, handler, proc, wait_until};

const TOP: &str = "#define _GNU_SOURCE\n#include <prefork.h>\n#include <assert.h>\n#include <fcntl.h>\n#include <signal.h>\n#include <stdio.h>\n\
    #include <stdlib.h>\n#include <string.h>\n#include <unistd.h>\n\
    static void on_request(prefork_request *q, prefork_response *r, void *s) {\n\
    (void)q; (void)s; fprintf(stderr, \"asked\\n\"); while (access(\"hold\", F_OK) == 0) usleep(1000); prefork_response_body(r, \"new\", 3); }\n";

/// A module whose workers run this code when they start.
fn module(start: &str) -> std::path::PathBuf {
    let code = format!(
        "{TOP}static int worker_start(prefork_worker *w, void **s) {{ (void)w; (void)s; {start}\nreturn 0; }}\n\
         PREFORK_MODULE(.on_request = on_request, .worker_start = worker_start)\n"
    );
    handler::compile(&code, &[])
}

const THREE_LINES: &str =
    r#"fprintf(stderr, "first\nsecond \"quoted\" \033[31m\n"); write(2, "third", 5); _exit(3);"#;

fn two() -> Start {
    Start::new(Style::Request).own_module()
}

fn started(start: Start) -> Server {
    let mut server = start.start();
    server.may_say("control: ");
    server.may_say(RELOAD);
    server.may_say("before it was ready");
    server
}

fn verb(server: &Server, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_prefork"));
    command.args(args).env("PREFORK_RUNTIME_DIR", server.dir.runtime()).stdin(Stdio::null());
    command
}

/// The verdict of a reload to the installed module, as JSON and as text.
#[track_caller]
fn verdicts(server: &Server) -> (Value, String) {
    let run = |args: &[&str]| -> Output { verb(server, args).output().unwrap() };
    let out = run(&["reload", "--json"]);
    assert_eq!(out.status.code(), Some(4), "{out:?}");
    let json = serde_json::from_slice(&out.stdout).unwrap();
    let out = run(&["reload"]);
    assert_eq!((out.status.code(), out.stdout.len()), (Some(4), 0), "{out:?}");
    (json, String::from_utf8(out.stderr).unwrap())
}

#[test]
fn the_verdict_has_stage_reason_exit_status_and_the_last_lines() {
    let mut server = started(two());
    for line in ["first", r#"second "quoted" \u{1b}[31m"#, "third"] {
        server.says(line);
    }
    let pids = server.workers();
    server.install(&module(THREE_LINES));
    let mut listens = verb(&server, &["events", "--json"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut reads = verb(&server, &["events"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut events = BufReader::new(listens.stdout.take().unwrap()).lines();
    let mut lines = BufReader::new(reads.stdout.take().unwrap()).lines();
    // Both follow now.
    assert!(
        events.next().unwrap().unwrap().contains("setup") && lines.next().unwrap().unwrap().contains("setup")
    );

    let stderr = json!(["first", r#"second "quoted" \u{1b}[31m"#, "third"]);
    let (verdict, text) = verdicts(&server);
    assert_eq!((&verdict["outcome"], &verdict["stage"]), (&json!("rolled-back"), &json!("canary")));
    assert_eq!((&verdict["exit"], &verdict["stderr"]), (&json!({"code": 3}), &stderr));
    assert_eq!(
        (&verdict["worker"], &verdict["reason"]),
        (&json!(3), &json!("worker 3 (slot 0): exit code 3"))
    );
    let said: Vec<&str> = text.lines().collect();
    assert!(said[0].ends_with("at the first new worker: worker 4 (slot 0): exit code 3"), "{text}");
    assert_eq!(said[1..], ["    first", r#"    second "quoted" \u{1b}[31m"#, "    third"], "{text}");

    let mut wait_for = |what: &str, state: Option<&str>| loop {
        let event: Value = serde_json::from_str(&events.next().unwrap().unwrap()).unwrap();
        if event["event"] == what && state.is_none_or(|s| event["state"] == s) {
            return event;
        }
    };
    let exit = wait_for("exit", None);
    assert_eq!((&exit["reason"], &exit["stderr"]), (&json!("boot failure"), &stderr));
    let back = wait_for("reload", Some("rolled-back"));
    for part in ["stage", "reason", "worker", "exit", "stderr"] {
        assert_eq!(back[part], verdict[part], "{part}");
    }
    let told: Vec<String> =
        lines.map(Result::unwrap).skip_while(|l| !l.contains("rolled back")).take(4).collect();
    assert!(
        told[0].ends_with("rolled back at the first new worker: worker 3 (slot 0): exit code 3"),
        "{told:?}"
    );
    assert_eq!(told[1..], said[1..]);
    for child in [&mut listens, &mut reads] {
        child.kill().unwrap();
        child.wait().unwrap();
    }

    // In the log the lines come before the report of the failure.
    let log = server.stderr();
    let at = |text: &str| log.iter().position(|l| l.contains(text)).expect(text);
    assert!(
        at("first") < at("second") && at("second") < at("third") && at("third") < at("died before"),
        "{log:#?}"
    );
    assert!(
        log[at("rolled back")].contains("at the first new worker: worker 3 (slot 0): exit code 3"),
        "{log:#?}"
    );
    assert_eq!(server.workers(), pids);
    server.stop();
}

#[test]
fn an_assertion_a_refusal_and_a_hang_are_reported_with_their_own_lines() {
    let mut server = started(two().set("boot-timeout", "2s"));
    server.may_say("it is so");
    server.may_say("cannot");
    server.may_say("waiting");
    for (code, reason, exit, line) in [
        (r#"assert(!"it is so");"#, "SIGABRT", json!("SIGABRT"), r#"Assertion `!"it is so"' failed."#),
        (r#"fprintf(stderr, "cannot\n"); return 1;"#, "worker_start returned 1", json!(70), "cannot"),
        (
            r#"fprintf(stderr, "waiting"); pause();"#,
            "not ready within the boot-timeout of 2000 ms",
            json!("SIGKILL"),
            "waiting",
        ),
    ] {
        server.install(&module(code));
        let (verdict, text) = verdicts(&server);
        assert!(verdict["reason"].as_str().unwrap().contains(reason), "{verdict}");
        let how = verdict["exit"].get("signal").unwrap_or(&verdict["exit"]["code"]);
        assert_eq!((&verdict["stage"], how), (&json!("canary"), &exit), "{verdict}");
        let lines = verdict["stderr"].as_array().unwrap();
        assert!(lines.len() == 1 && lines[0].as_str().unwrap().contains(line), "{verdict}");
        assert!(text.lines().nth(1).is_some_and(|l| l.contains(line)), "{text}");
    }
    server.stop();
}

#[test]
fn a_worker_that_fails_after_the_canary_is_reported_with_its_own_lines() {
    let mut server = started(two().workers(3));
    server.may_say("slot ");
    let code = r#"fprintf(stderr, "slot %u starts\n", prefork_worker_slot(w)); if (prefork_worker_slot(w) == 1) _exit(9);"#;
    server.install(&module(code));
    let (verdict, _) = verdicts(&server);
    assert_eq!((&verdict["stage"], &verdict["exit"]), (&json!("rolling"), &json!({"code": 9})));
    assert_eq!(verdict["stderr"], json!(["slot 1 starts"]));
    server.rests();
    server.stop();
}

#[test]
fn a_restart_that_fails_has_its_lines_in_the_exit_event() {
    let mut server = started(Start::new(Style::Request));
    server.says("died: SIGKILL");
    let mut listens = verb(&server, &["events", "--json"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut events = BufReader::new(listens.stdout.take().unwrap()).lines();
    assert!(events.next().unwrap().unwrap().contains("setup"));
    server.dir.make("speak");
    server.says("out of luck");
    proc::signal(server.worker_in(1), libc::SIGKILL);
    let failed = loop {
        let event: Value = serde_json::from_str(&events.next().unwrap().unwrap()).unwrap();
        if event["event"] == "exit" && event["reason"] == "boot failure" {
            break event;
        }
    };
    assert_eq!((&failed["stderr"], &failed["exit"]), (&json!(["out of luck"]), &json!({"code": 70})));
    server.dir.remove("speak");
    wait_until("it heals", || server.workers().len() == 2);
    listens.kill().unwrap();
    listens.wait().unwrap();
    server.stop();
}

#[test]
fn a_start_that_fails_has_printed_the_lines_before_the_error() {
    for n in [1, 4] {
        let refused = two().module(module(THREE_LINES)).workers(n).refused();
        let lines: Vec<&str> = refused.stderr.lines().collect();
        let at = |text: &str| lines.iter().position(|l| l.contains(text)).expect(text);
        assert_eq!(refused.code, Some(1));
        assert!(at("first") < at("second") && at("second") < at("third"), "{lines:#?}");
        assert!(lines.last().unwrap().contains("exit code 3"), "{lines:#?}");
    }
}

/// A mebibyte in numbered lines.
const MUCH: &str = r#"for (int i = 0; i < 16384; i++) fprintf(stderr, "line %05d %051d\n", i, 0);"#;

/// The number of lines that were reported as dropped, and the numbers of those that were copied.
fn dropped_and_copied<'a>(log: impl Iterator<Item = &'a String> + Clone) -> (usize, Vec<usize>) {
    let dropped =
        log.clone().filter_map(|l| l.strip_prefix("prefork: ")?.split_once(" lines of starting workers"));
    let dropped = dropped.map(|(n, _)| n.parse::<usize>().unwrap()).sum();
    let number = |l: &String| {
        let n = l.strip_prefix("line ")?.split_once(' ')?.0.parse().ok()?;
        assert_eq!(*l, format!("line {n:05} {:051}", 0));
        Some(n)
    };
    (dropped, log.filter_map(number).collect())
}

#[test]
fn a_worker_that_writes_a_mebibyte_is_copied_in_order_and_then_writes_itself() {
    let mut server = started(two().workers(1));
    server.may_say("line ");
    server.may_say("asked");
    // The reader here may be late on a machine with much to do.
    server.may_say("lines of starting workers");
    let kinds = proc::kinds(server.pid);
    server.install(&module(MUCH));
    let out = verb(&server, &["reload"]).output().unwrap();
    assert_eq!(out.status.code(), Some(0), "{out:?}; it said {:#?}", server.stderr().last());
    assert_eq!(server.ask("x"), Ok("new".into()));
    server.wait_for_line("asked");
    let log = server.stderr();
    let (_, copied) = dropped_and_copied(log.iter());
    assert!(copied.is_sorted() && copied.len() > 1000, "{}", copied.len());
    wait_until("nothing of it stays with the master", || proc::kinds(server.pid) == kinds);
    // Its lines do not pass through the master now, so a stopped master does not delay it.
    proc::freeze(server.pid);
    let pid = server.workers()[0];
    let own = std::fs::read_link(format!("/proc/{pid}/fd/2")).unwrap();
    assert_eq!(own, std::fs::read_link(format!("/proc/{}/fd/2", server.pid)).unwrap());
    proc::signal(server.pid, libc::SIGCONT);
    server.stop();
}

#[test]
fn a_child_that_keeps_the_pipe_open_delays_neither_the_outcome_nor_the_worker() {
    const CHILD: &str = r#"int p[2]; char c; if (pipe(p)) abort();
        if (fork() == 0) { fprintf(stderr, "child here\n"); close(p[0]); close(p[1]); sleep(600); _exit(0); }
        close(p[1]); if (read(p[0], &c, 1)) abort(); close(p[0]); fprintf(stderr, "parent\n");"#;
    let mut server = started(two().workers(1));
    server.may_say("child here");
    server.may_say("parent");
    server.may_say("asked");
    server.install(&module(&format!("{CHILD}_exit(3);")));
    let (verdict, _) = verdicts(&server);
    assert_eq!(
        (&verdict["stderr"], &verdict["exit"]),
        (&json!(["child here", "parent"]), &json!({"code": 3}))
    );
    wait_until("both are in the log", || server.lines_with("is rolled back") == 2);
    // A worker that serves, and whose child stays.
    server.install(&module(CHILD));
    server.reload();
    assert_eq!(server.ask("x"), Ok("new".into()));
    assert_eq!(proc::pipes(server.pid).len(), 1, "it is read as long as the worker lives");
    server.install(&Style::Request.handler());
    server.reload();
    wait_until("it is closed with the worker", || proc::pipes(server.pid).is_empty());
    let children = || -> Vec<i32> {
        let known = |pid: &i32| *pid == server.pid || server.workers().contains(pid);
        proc::group(server.pid).into_iter().filter(|pid| !known(pid)).collect()
    };
    children().into_iter().for_each(|pid| proc::signal(pid, libc::SIGKILL));
    wait_until("the children are gone", || children().is_empty());
    server.stop();
}

#[test]
fn a_file_that_the_handler_makes_its_standard_error_stays() {
    let mut server = started(two().workers(1));
    let log = server.dir.file("own.log");
    let path = log.to_str().unwrap();
    let code =
        format!(r#"int f = open("{path}", O_CREAT | O_APPEND | O_WRONLY, 0600); dup2(f, 2); close(f);"#);
    server.install(&module(&code));
    server.reload();
    assert_eq!(server.ask("x"), Ok("new".into()));
    wait_until("its line is in its file", || std::fs::read_to_string(&log).is_ok_and(|t| t == "asked\n"));
    server.stop();
}

/// A full pipe that is not read, and the number of bytes in it.
#[allow(unsafe_code)]
fn full_pipe() -> (PipeReader, OwnedFd, usize) {
    let (reader, mut writer) = std::io::pipe().unwrap();
    let fd = writer.as_raw_fd();
    // SAFETY: takes no pointers; the descriptor is open.
    let flags = unsafe { libc::fcntl(fd, libc::F_GETFL) };
    // SAFETY: as above.
    unsafe { libc::fcntl(fd, libc::F_SETFL, flags | libc::O_NONBLOCK) };
    let mut size = 0;
    loop {
        match writer.write(&[b'x'; 4096]) {
            Ok(n) => size += n,
            Err(e) if e.kind() == ErrorKind::WouldBlock => break,
            Err(e) => panic!("{e}"),
        }
    }
    // SAFETY: as above.
    unsafe { libc::fcntl(fd, libc::F_SETFL, flags) };
    (reader, writer.into(), size)
}

#[test]
fn starts_and_reloads_continue_if_the_masters_standard_error_is_not_read() {
    let (_reader, writer, _) = full_pipe();
    let server = two().stderr(writer).start();
    server.install(&module(&format!("{MUCH}{THREE_LINES}")));
    let (verdict, text) = verdicts(&server);
    let lines = verdict["stderr"].as_array().unwrap();
    assert_eq!((lines.len(), &lines[19], &verdict["exit"]), (20, &json!("third"), &json!({"code": 3})));
    assert_eq!(text.lines().count(), 21);
    // A worker that writes as much and then serves.
    server.install(&module(&format!("{MUCH} signal(SIGALRM, _exit);")));
    let out = verb(&server, &["reload"]).output().unwrap();
    assert_eq!(out.status.code(), Some(0), "{out:?}");
    server.stop();
}

#[test]
fn dropped_lines_are_counted() {
    let (mut reader, writer, size) = full_pipe();
    let server = two().workers(1).stderr(writer).start();
    let (written, go) = (server.dir.file("written"), r#"while (access("go", F_OK)) usleep(1000);"#);
    server.install(&module(&format!("{MUCH} fclose(fopen(\"written\", \"w\")); {go} {MUCH}")));
    let mut reload = verb(&server, &["reload"]).stdout(Stdio::null()).spawn().unwrap();
    wait_until("the worker does not wait for a reader", || written.exists());
    // Now there is one.
    reader.read_exact(&mut vec![0; size]).unwrap();
    let all = std::thread::spawn(move || {
        let lines = BufReader::new(reader).split(b'\n').map_while(Result::ok);
        lines.map(|l| String::from_utf8_lossy(&l).into_owned()).collect::<Vec<_>>()
    });
    server.dir.make("go");
    assert!(reload.wait().unwrap().success());
    server.stop();
    let mut all = all.join().unwrap();
    // The bytes that filled the pipe, and the first line after them.
    all[0] = all[0].trim_start_matches('x').to_owned();
    let (dropped, copied) = dropped_and_copied(all.iter());
    assert!(dropped > 0, "{all:#?}");
    assert_eq!(dropped + copied.len(), 2 * 16384);
}

#[test]
fn a_hundred_reloads_leak_nothing_in_the_master() {
    let mut server = started(two());
    server.may_say("starts");
    let (good, bad) =
        (module("fprintf(stderr, \"starts\\n\");"), module("fprintf(stderr, \"starts\\n\"); _exit(3);"));
    for n in 0..50 {
        server.install(&good);
        server.reload();
        server.install(&bad);
        assert!(server.reload_fails().contains("exit code 3"), "{n}");
    }
    // Descriptors are compared at the stop.
    server.rests();
    server.stop();
}

#[test]
fn without_a_free_descriptor_a_worker_starts_without_a_pipe() {
    let mut server = started(two().workers(1));
    server.may_say("Too many open files");
    server.may_say("starts");
    server.may_say("asked");
    server.install(&module("fprintf(stderr, \"starts\\n\");"));
    // Enough to read the new file, in addition to the reserve for a start.
    let own = proc::descriptors(server.pid).len() as u32;
    proc::limit(server.pid, "nofile", own + 2);
    server.reload();
    assert_eq!(server.ask("x"), Ok("new".into()));
    proc::limit(server.pid, "nofile", 1024);
    server.reload();
    server.stop();
}

#[test]
fn a_pipe_that_is_still_open_is_read_on_after_an_upgrade() {
    const CHILD: &str = r#"unsigned g = prefork_worker_generation(w); if (fork() == 0) {
        while (access("tell", F_OK)) usleep(1000); fprintf(stderr, "heard %u\n", g); _exit(0); }"#;
    let mut server = started(two().workers(1));
    server.may_say("heard ");
    server.says("asked");
    server.says("upgrade: version");
    server.install(&module(CHILD));
    server.reload();
    server.dir.make("hold");
    let mut client = server.connect();
    client.send_command("x").unwrap();
    server.wait_for_line("asked");
    server.signal(libc::SIGUSR2);
    server.wait_for_line("generation 3 begins");
    // The old worker lives as long as its request.
    server.dir.make("tell");
    server.wait_for_line("heard 2");
    server.dir.remove("hold");
    assert_eq!(client.answer(), Ok("new".into()));
    drop(client);
    server.wait_for_line("generation 3 is complete");
    wait_until("it is closed with the worker", || proc::pipes(server.pid).is_empty());
    server.stop();
}

#[test]
fn the_masters_death_does_not_harm_a_worker_that_writes() {
    let server = started(two().workers(1));
    let (written, survived) = (server.dir.file("written"), server.dir.file("survived"));
    server.install(&module(&format!(
        r#"fprintf(stderr, "line\n"); fclose(fopen("written", "w")); while (access("go", F_OK)) usleep(1000);
        {MUCH} fclose(fopen("survived", "w"));"#
    )));
    let mut server = server;
    server.may_say("line");
    server.may_say("tell the master");
    server.signal(libc::SIGHUP);
    wait_until("it starts", || written.exists());
    server.signal(libc::SIGKILL);
    server.dir.make("go");
    wait_until("it went on", || survived.exists());
    server.dies_out();
}
