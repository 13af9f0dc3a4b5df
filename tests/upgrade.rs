//! USR2: another binary takes the master's place, in the same process, and no client notices.
#![allow(clippy::unwrap_used)]

mod util;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};
use util::dir::Dir;
use util::host::{self, Link};
use util::{Server, Start, Style, proc, wait_until};

/// A copy of the program that can be replaced.
fn program(dir: &Dir) -> PathBuf {
    let path = dir.file("prefork");
    copy(Path::new(env!("CARGO_BIN_EXE_prefork")), &path);
    path
}

/// Another process writes the file: one that this process has open for writing while another test starts a program is open
/// there too, and cannot be executed (ETXTBSY).
fn copy(from: &Path, to: &Path) {
    assert!(Command::new("cp").args([from, to]).status().unwrap().success());
}

/// Puts another program in its place, as an installation does: whole, by rename.
fn replace(path: &Path, with: &Path) {
    let new = path.with_extension("new");
    copy(with, &new);
    fs::rename(new, path).unwrap();
}

fn script(dir: &Dir, text: &str) -> PathBuf {
    let path = dir.file("script");
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

fn start(dir: &Arc<Dir>, path: &Path, listen: &str) -> Server {
    let handler = Style::Request.handler();
    Start::new(Style::Request)
        .within(dir)
        .program([
            path.to_str().unwrap(),
            "--workers",
            "2",
            "--listen",
            listen,
            handler.to_str().unwrap(),
            dir.path().to_str().unwrap(),
        ])
        .start()
}

fn expects_takeover(server: &mut Server) {
    server.says("upgrade: version");
    server.says("reload to generation");
}

/// The number of requests in `prefork show`.
fn requests(server: &Server) -> u64 {
    let mut show = std::process::Command::new(env!("CARGO_BIN_EXE_prefork"));
    let ran =
        show.args(["show", "--json"]).env("PREFORK_RUNTIME_DIR", server.dir.runtime()).output().unwrap();
    let text = String::from_utf8_lossy(&ran.stdout);
    assert!(ran.status.success(), "{text} {}", String::from_utf8_lossy(&ran.stderr));
    let number = text.split_once("\"requests\":").unwrap().1;
    number.split(|c: char| !c.is_ascii_digit()).next().unwrap().parse().unwrap()
}

fn clean(dir: &Dir) {
    ["prefork", "script"].iter().for_each(|name| drop(fs::remove_file(dir.file(name))));
}

#[test]
fn a_new_program_takes_over_with_every_connection_and_new_workers_follow() {
    let dir = Arc::new(Dir::new());
    let path = program(&dir);
    let mut server = start(&dir, &path, "127.0.0.1:0");
    expects_takeover(&mut server);
    let load = server.load(4, "pid");
    let mut idle: Vec<_> = (0..20).map(|_| server.connect()).collect();
    for client in &mut idle {
        client.ask("pid").unwrap();
    }
    let mut counted = 0;
    for generation in 2..5 {
        load.go_on_for(50);
        let before = server.workers();
        replace(&path, Path::new(env!("CARGO_BIN_EXE_prefork")));
        server.signal(libc::SIGUSR2);
        server.wait_for_line(&format!("reload to generation {generation} is complete"));
        wait_until("the old workers are gone", || server.workers().iter().all(|pid| !before.contains(pid)));
        assert_eq!(fs::read_link(format!("/proc/{}/exe", server.pid)).unwrap(), path);
        // Counts continue, and `show` during the upgrade is answered.
        let requests = requests(&server);
        assert!(requests >= counted + 50, "{requests} after {counted}");
        counted = requests;
    }
    // Not one of them was closed.
    for client in &mut idle {
        client.ask("pid").unwrap();
    }
    let tally = load.stop();
    assert_eq!(tally.failed(), 0, "{tally:?}");
    drop(idle);
    clean(&dir);
    server.stop();
}

#[test]
fn a_program_that_cannot_take_over_leaves_everything_as_it_was() {
    let dir = Arc::new(Dir::new());
    let path = program(&dir);
    let mut server = start(&dir, &path, "127.0.0.1:0");
    let before = server.workers();
    for (text, why) in [
        ("#!/bin/sh\nexit 3\n", "it ended by exit code 3"),
        ("#!/bin/sh\nkill -SEGV $$\n", "it ended by SIGSEGV"),
        ("no program at all", "execute it: Exec format error"),
    ] {
        server.says("upgrade:");
        replace(&path, &script(&dir, text));
        server.signal(libc::SIGUSR2);
        server.wait_for_line(why);
        assert_eq!(server.ask("slot").map(|_| ()), Ok(()));
    }
    dir.remove("prefork");
    server.signal(libc::SIGUSR2);
    wait_until("the last trial failed too", || {
        server.stderr().iter().filter(|l| l.contains("this master continues")).count() == 4
    });
    assert_eq!(server.workers(), before);
    clean(&dir);
    server.stop();
}

#[test]
fn a_program_that_does_not_say_that_it_can_serve_is_refused_whatever_its_exit_code() {
    let dir = Arc::new(Dir::new());
    let path = program(&dir);
    let mut server = start(&dir, &path, "127.0.0.1:0");
    let before = server.workers();
    let real = env!("CARGO_BIN_EXE_prefork");
    server.says("upgrade:");
    server.may_say("already running");
    for (text, why) in [
        ("#!/bin/sh\nexit 0\n".to_owned(), "without a word that it can serve"),
        ("#!/bin/sh\necho usage: prefork\n".into(), "without a word that it can serve"),
        ("#!/bin/sh\necho already running >&2; exit 0\n".into(), "without a word that it can serve"),
        (format!("#!/bin/sh\n{real} --version\n"), "without a word that it can serve"),
        // It can serve, but would not be the process that is the workers' parent.
        (
            format!("#!/bin/sh\n{real} \"$@\"\nexit 0\n"),
            "a child of it can serve, and not the process itself",
        ),
        (format!("#!/bin/sh\n{real} \"$@\"\nexit 3\n"), "it ended by exit code 3"),
    ] {
        let refusals = server.lines_with("this master continues");
        replace(&path, &script(&dir, &text));
        server.signal(libc::SIGUSR2);
        wait_until("it is refused", || server.lines_with("this master continues") > refusals);
        let said = server.stderr().into_iter().rfind(|l| l.contains("this master continues")).unwrap();
        assert!(said.contains(why), "{text}: {said}");
        assert_eq!(server.ask("slot").map(|_| ()), Ok(()));
    }
    assert_eq!(server.workers(), before);
    clean(&dir);
    server.stop();
}

#[test]
fn a_program_that_cannot_serve_says_why() {
    let dir = Arc::new(Dir::new());
    let path = program(&dir);
    let module = dir.file("module.so");
    copy(&Style::Request.handler(), &module);
    let mut server = Start::new(Style::Request)
        .within(&dir)
        .program([
            path.to_str().unwrap(),
            "--workers",
            "2",
            "--listen",
            "127.0.0.1:0",
            module.to_str().unwrap(),
            dir.path().to_str().unwrap(),
        ])
        .start();
    server.says("upgrade:");
    fs::write(&module, "no module").unwrap();
    server.signal(libc::SIGUSR2);
    server.wait_for_line("failed: load ");
    fs::remove_file(module).unwrap();
    clean(&dir);
    server.stop();
}

#[test]
fn a_wrapper_that_ends_in_an_exec_takes_over() {
    let dir = Arc::new(Dir::new());
    let path = program(&dir);
    let mut server = start(&dir, &path, "127.0.0.1:0");
    expects_takeover(&mut server);
    let text = format!("#!/bin/sh\nexec {} \"$@\"\n", env!("CARGO_BIN_EXE_prefork"));
    replace(&path, &script(&dir, &text));
    server.signal(libc::SIGUSR2);
    server.wait_for_line("reload to generation 2 is complete");
    clean(&dir);
    server.stop();
}

/// Hosts with a file of their own, which they remove when the run has ended; by `run` and by `start`.
fn hosts() -> impl Iterator<Item = (PathBuf, &'static str)> {
    let hosts = [host::program("tests/pidfile.c", "pidfile", Link::Shared), host::example("pidfile")];
    hosts.into_iter().flat_map(|host| ["run", "start"].map(|how| (host.clone(), how)))
}

#[test]
fn a_trial_runs_nothing_of_a_host_after_the_start() {
    for (host, how) in hosts() {
        let dir = Arc::new(Dir::new());
        let name = host.to_str().unwrap();
        let mut server = Start::new(Style::Request)
            .within(&dir)
            .through(&["env", &host::search()])
            .program([name, how, dir.path().to_str().unwrap(), "127.0.0.1:0"])
            .start();
        server.says("upgrade: ");
        server.says("reload to generation");
        let pid = dir.file("pid");
        for fault in ["guarded", "threads", "missing", "wrong", "none"] {
            let refusals = server.lines_with("this master continues");
            // Only in C can the handler be missing.
            if fault == "none" && host.ends_with("examples/pidfile") {
                continue;
            }
            dir.make(fault);
            server.signal(libc::SIGUSR2);
            let refused = |server: &Server| server.lines_with("this master continues") > refusals;
            wait_until(fault, || refused(&server) || !pid.exists() || server.lines_with("complete") > 0);
            assert!(pid.exists() && refused(&server), "{name} {how} {fault}: {:#?}", server.stderr());
            dir.remove(fault);
        }
        server.signal(libc::SIGUSR2);
        server.wait_for_line("reload to generation 2 is complete");
        assert!(pid.exists());
        let ran_on =
            |server: &Server| server.stdout().iter().any(|l| l == "after" || l.starts_with("refused"));
        assert!(!ran_on(&server), "{:?}", server.stdout());
        server.stop();
    }
}

#[test]
fn a_stop_ends_a_trial_and_leaves_nothing_of_it() {
    let dir = Arc::new(Dir::new());
    let path = program(&dir);
    let server = start(&dir, &path, "127.0.0.1:0");
    replace(&path, &script(&dir, "#!/bin/sh\nexec sleep 1000\n"));
    server.signal(libc::SIGUSR2);
    let sleeps =
        |pid: i32| fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name == "sleep\n");
    wait_until("it is tried", || proc::children(server.pid).into_iter().any(sleeps));
    let begun = Instant::now();
    server.signal(libc::SIGTERM);
    clean(&dir);
    server.ends();
    assert!(begun.elapsed() < Duration::from_secs(10));
}

#[test]
fn a_unix_socket_survives_and_is_removed_at_the_end() {
    let dir = Arc::new(Dir::new());
    let path = program(&dir);
    let socket = dir.file("socket");
    let mut server = start(&dir, &path, &format!("unix:{}", socket.display()));
    expects_takeover(&mut server);
    server.signal(libc::SIGUSR2);
    server.wait_for_line("reload to generation 2 is complete");
    assert!(socket.exists());
    server.ask("pid").unwrap();
    clean(&dir);
    server.stop(); // finds the socket if it was left
}

#[test]
fn an_upgrade_during_a_reload_waits_for_it() {
    let dir = Arc::new(Dir::new());
    let path = program(&dir);
    let mut server = start(&dir, &path, "127.0.0.1:0");
    expects_takeover(&mut server);
    server.signal(libc::SIGHUP);
    server.signal(libc::SIGUSR2);
    server.wait_for_line("upgrade: version");
    server.wait_for_line("reload to generation 3 is complete");
    proc::signal(server.pid, 0);
    clean(&dir);
    server.stop();
}
