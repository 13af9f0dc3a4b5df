//! `--scheduling`: the scheduling policy of master and workers.
#![allow(clippy::unwrap_used)]

mod util;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, id};
use std::sync::Arc;
use util::dir::Dir;
use util::handler::host;
use util::{Server, Start, Style, proc, wait_until};

const PREFORK: &str = env!("CARGO_BIN_EXE_prefork");

#[track_caller]
fn all_have(policy: i32, server: &Server) {
    let workers = server.workers();
    assert!(!workers.is_empty());
    for pid in workers.into_iter().chain([server.pid]) {
        assert_eq!(proc::policy(pid), policy, "process {pid} of master {}", server.pid);
    }
}

#[test]
fn by_default_the_policy_is_the_one_that_was_found() {
    let server = Start::new(Style::Request).start();
    all_have(proc::policy(id().cast_signed()), &server);
    server.stop();
    let server = Start::new(Style::Request).through(&["chrt", "-b", "0"]).start();
    all_have(libc::SCHED_BATCH, &server);
    server.stop();
}

#[test]
fn batch_is_the_policy_of_the_master_and_of_every_worker_it_ever_starts() {
    for style in [Style::Request, Style::Connection] {
        let mut server = Start::new(style).set("scheduling", "batch").start();
        all_have(libc::SCHED_BATCH, &server);
        server.reload();
        server.rests();
        all_have(libc::SCHED_BATCH, &server);
        server.signal(libc::SIGTTIN);
        server.scaled_to(3);
        wait_until("a third worker", || server.workers().len() == 3);
        all_have(libc::SCHED_BATCH, &server);
        let killed = server.workers()[0];
        server.says(&format!("pid {killed}) died"));
        proc::signal(killed, libc::SIGKILL);
        server.replaces(killed);
        all_have(libc::SCHED_BATCH, &server);
        server.stop();
    }
}

#[test]
fn batch_replaces_no_policy_that_was_chosen_for_the_server() {
    let server = Start::new(Style::Request).set("scheduling", "batch").through(&["chrt", "-i", "0"]).start();
    all_have(libc::SCHED_IDLE, &server);
    server.stop();
}

/// Puts a program in its place by another process: what this one has open for writing while another test forks cannot be executed.
fn install(program: &Path, path: &Path) {
    let new = path.with_extension("new");
    assert!(Command::new("cp").args([program, &new]).status().unwrap().success());
    fs::rename(new, path).unwrap();
}

/// As if its options had been changed meanwhile: the same program, without `--scheduling batch`.
fn with_the_normal_policy(dir: &Dir) -> PathBuf {
    let path = dir.file("changed");
    let change = "for word; do shift; test \"$word\" != batch || word=normal; set -- \"$@\" \"$word\"; done";
    fs::write(&path, format!("#!/bin/sh\n{change}\nexec {PREFORK} \"$@\"\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

#[test]
fn an_upgrade_keeps_the_policy_or_ends_it_if_the_next_program_does_not_want_it() {
    let dir = Arc::new(Dir::new());
    let (path, handler) = (dir.file("prefork"), Style::Request.handler());
    let changed = with_the_normal_policy(&dir);
    for (next, expected) in [(Path::new(PREFORK), libc::SCHED_BATCH), (&changed, libc::SCHED_OTHER)] {
        install(Path::new(PREFORK), &path);
        let words = ["--workers", "2", "--listen", "127.0.0.1:0", "--scheduling", "batch"];
        let paths = [handler.to_str().unwrap(), dir.path().to_str().unwrap()];
        let program = [path.to_str().unwrap()].into_iter().chain(words).chain(paths);
        let mut server = Start::new(Style::Request).within(&dir).program(program).start();
        all_have(libc::SCHED_BATCH, &server);
        server.says("upgrade: version");
        server.says("reload to generation");
        install(next, &path);
        let before = server.workers();
        server.signal(libc::SIGUSR2);
        server.wait_for_line("reload to generation 2 is complete");
        wait_until("the old workers are gone", || server.workers().iter().all(|pid| !before.contains(pid)));
        all_have(expected, &server);
        server.stop();
    }
    [path, changed].iter().for_each(|file| fs::remove_file(file).unwrap());
}

/// Prints its policy while the server runs, and after its end.
const HOST: &str = r#"
    #define _GNU_SOURCE
    #include <prefork.h>
    #include <sched.h>
    #include <stdio.h>

    static void on_request(prefork_request *req, prefork_response *res, void *state)
    {
        (void)req, (void)res, (void)state;
    }

    static void started(const prefork_started *started, void *server)
    {
        (void)started;
        printf("%d\n", sched_getscheduler(0));
        prefork_server_stop(server);
    }

    int main(void)
    {
        prefork_server *server = prefork_server_new();
        int status;
        prefork_server_on_request(server, on_request, NULL);
        if (prefork_server_set(server, "scheduling", "some") == PREFORK_OK)
            return 1;
        if (prefork_server_set(server, "scheduling", "batch") != PREFORK_OK)
            return 2;
        prefork_server_listen(server, "127.0.0.1:0");
        prefork_server_workers(server, 1);
        prefork_server_on_start(server, started, server);
        status = prefork_server_run(server);
        prefork_server_free(server);
        printf("%d\n", sched_getscheduler(0));
        return status;
    }
"#;

#[test]
fn a_host_has_its_own_policy_again_when_its_server_has_ended() {
    let out = Command::new(host(HOST)).output().unwrap();
    let errors = String::from_utf8_lossy(&out.stderr);
    assert_eq!((out.status.code(), &*String::from_utf8_lossy(&out.stdout)), (Some(0), "3\n0\n"), "{errors}");
}
