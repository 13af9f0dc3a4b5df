//! `--scheduling`: the scheduling policy of master and workers.
#![allow(clippy::unwrap_used)]

mod util;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, id};
use std::sync::Arc;
use std::thread::{available_parallelism, sleep};
use std::time::Duration;
use util::dir::Dir;
use util::handler::host;
use util::wrk::Wrk;
use util::{Server, Start, Style, comes_true, proc, wait_until};

const PREFORK: &str = env!("CARGO_BIN_EXE_prefork");

#[track_caller]
fn all_have(policy: i32, server: &Server) {
    let workers = server.workers();
    assert!(!workers.is_empty());
    for pid in workers.into_iter().chain([server.pid]) {
        assert_eq!(proc::policy(pid), policy, "process {pid} of master {}", server.pid);
    }
}

/// Clients that open one connection after the other.
fn new_connections(server: &Server) -> Wrk {
    Wrk::start(server, 4, "", Some("Connection: close"))
}

/// Programs that never sleep, more than the CPUs can serve.
struct Hogs(Vec<Child>);

impl Hogs {
    fn start() -> Self {
        let hog = |_| Command::new("sh").args(["-c", "while :; do :; done"]).spawn().unwrap();
        Self((0..2 * available_parallelism().unwrap().get()).map(hog).collect())
    }
}

impl Drop for Hogs {
    fn drop(&mut self) {
        for hog in &mut self.0 {
            let _ = hog.kill();
            let _ = hog.wait();
        }
    }
}

fn is_batch(server: &Server) -> bool {
    proc::policy(server.pid) == libc::SCHED_BATCH
}

/// Waits until a loaded master has `SCHED_BATCH`; false if it does not get it beside other programs that keep the CPUs busy, with which it
/// must not.
fn becomes_batch(server: &Server) -> bool {
    comes_true(Duration::from_secs(60), || is_batch(server)) || {
        let others = time_of_others(server);
        sleep(Duration::from_secs(1));
        let others = time_of_others(server) - others;
        assert!(
            others > 40,
            "the master's policy is the normal one, and other programs used {others} % of a CPU"
        );
        eprintln!("not tested: other programs use {others} % of a CPU");
        false
    }
}

/// The CPU time of all processes, without those of a server, this test and its children, in hundredths of a second.
fn time_of_others(server: &Server) -> u64 {
    let all = fs::read_to_string("/proc/stat").unwrap();
    let all: u64 = all.split_whitespace().skip(1).take(3).map(|n| n.parse::<u64>().unwrap()).sum();
    let test = id().cast_signed();
    let own = server.workers().into_iter().chain([test]).chain(proc::children(test));
    // Hundredths of a second are what /proc/stat counts on every machine.
    all.saturating_sub(own.map(|pid| proc::cpu(pid).as_millis() as u64 / 10).sum())
}

#[test]
fn by_default_the_policy_is_the_one_that_was_found() {
    for policy in ["auto", "normal"] {
        let server = Start::new(Style::Request).set("scheduling", policy).start();
        all_have(proc::policy(id().cast_signed()), &server);
        server.stop();
    }
    let server = Start::new(Style::Request).through(&["chrt", "-b", "0"]).start();
    all_have(libc::SCHED_BATCH, &server);
    server.stop();
}

#[test]
fn a_master_with_many_new_connections_has_batch_alone_and_only_while_it_has_the_cpus() {
    let mut server = Start::new(Style::Request).start();
    let load = new_connections(&server);
    if becomes_batch(&server) {
        let workers_are_normal =
            |server: &Server| server.workers().iter().all(|pid| proc::policy(*pid) == libc::SCHED_OTHER);
        assert!(workers_are_normal(&server));
        server.signal(libc::SIGTTIN);
        server.scaled_to(3);
        // The child has its master's policy until it has become a worker.
        wait_until("a third worker with the normal policy", || {
            server.workers().len() == 3 && workers_are_normal(&server)
        });
        for _ in 0..2 {
            let hogs = Hogs::start();
            wait_until("the normal policy beside other programs", || !is_batch(&server));
            drop(hogs);
            if !becomes_batch(&server) {
                break;
            }
        }
    }
    load.stop_without_errors();
    wait_until("the normal policy without new connections", || {
        sleep(Duration::from_millis(100));
        server.ask("pid").unwrap();
        !is_batch(&server)
    });
    all_have(libc::SCHED_OTHER, &server);
    server.stop();
}

#[test]
fn auto_leaves_a_policy_that_was_chosen_for_the_server() {
    for (option, policy) in [("-i", libc::SCHED_IDLE), ("-b", libc::SCHED_BATCH)] {
        let server = Start::new(Style::Request).through(&["chrt", option, "0"]).start();
        let load = new_connections(&server);
        assert!(!comes_true(Duration::from_secs(2), || proc::policy(server.pid) != policy));
        load.stop_without_errors();
        sleep(Duration::from_millis(300));
        server.ask("pid").unwrap();
        all_have(policy, &server);
        server.stop();
    }
}

#[test]
fn auto_leaves_a_policy_that_is_chosen_for_a_running_master() {
    let server = Start::new(Style::Request).start();
    let load = new_connections(&server);
    if becomes_batch(&server) {
        let chosen = Command::new("chrt").args(["-i", "-p", "0", &server.pid.to_string()]).status().unwrap();
        assert!(chosen.success());
        load.stop_without_errors();
        for _ in 0..4 {
            sleep(Duration::from_millis(250));
            server.ask("pid").unwrap();
            assert_eq!(proc::policy(server.pid), libc::SCHED_IDLE);
        }
    }
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

/// As if its options had been changed meanwhile: the same program, with another `--scheduling`.
fn with_another_policy(dir: &Dir, from: &str, to: &str) -> PathBuf {
    let path = dir.file(&format!("{from}-{to}"));
    let change =
        format!("for word; do shift; test \"$word\" != {from} || word={to}; set -- \"$@\" \"$word\"; done");
    fs::write(&path, format!("#!/bin/sh\n{change}\nexec {PREFORK} \"$@\"\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

#[test]
fn an_upgrade_keeps_the_policy_or_ends_it_if_the_next_program_does_not_want_it() {
    let dir = Arc::new(Dir::new());
    let (path, handler) = (dir.file("prefork"), Style::Request.handler());
    let same = PathBuf::from(PREFORK);
    let (to_normal, to_auto) =
        (with_another_policy(&dir, "batch", "normal"), with_another_policy(&dir, "batch", "auto"));
    let (from_auto, to_batch) =
        (with_another_policy(&dir, "auto", "normal"), with_another_policy(&dir, "auto", "batch"));
    for (policy, next, expected) in [
        ("batch", &same, libc::SCHED_BATCH),
        ("batch", &to_normal, libc::SCHED_OTHER),
        ("batch", &to_auto, libc::SCHED_OTHER),
        ("auto", &from_auto, libc::SCHED_OTHER),
        ("auto", &to_batch, libc::SCHED_BATCH),
    ] {
        install(Path::new(PREFORK), &path);
        let words = ["--workers", "2", "--listen", "127.0.0.1:0", "--scheduling", policy];
        let paths = [handler.to_str().unwrap(), dir.path().to_str().unwrap()];
        let program = [path.to_str().unwrap()].into_iter().chain(words).chain(paths);
        let mut server = Start::new(Style::Request).within(&dir).program(program).start();
        let load = (policy == "auto").then(|| new_connections(&server));
        match load {
            Some(_) => drop(becomes_batch(&server)),
            None => all_have(libc::SCHED_BATCH, &server),
        }
        server.says("upgrade: version");
        server.says("reload to generation");
        install(next, &path);
        let before = server.workers();
        server.signal(libc::SIGUSR2);
        server.wait_for_line("reload to generation 2 is complete");
        wait_until("the old workers are gone", || server.workers().iter().all(|pid| !before.contains(pid)));
        drop(load);
        all_have(expected, &server);
        server.stop();
    }
    [path, to_normal, to_auto, from_auto, to_batch].iter().for_each(|file| fs::remove_file(file).unwrap());
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

/// Ends with its policy as its exit code.
const LOADED_HOST: &str = r#"
    #define _GNU_SOURCE
    #include <prefork.h>
    #include <sched.h>
    #include <stdio.h>

    static void on_request(prefork_request *req, prefork_response *res, void *state)
    {
        (void)req, (void)res, (void)state;
    }

    static void started(const prefork_started *started, void *state)
    {
        (void)state;
        printf("listening on http://%s\n", started->addresses[0]);
        fflush(stdout);
    }

    int main(void)
    {
        prefork_server *server = prefork_server_new();
        int status;
        prefork_server_on_request(server, on_request, NULL);
        prefork_server_listen(server, "127.0.0.1:0");
        prefork_server_workers(server, 2);
        prefork_server_on_start(server, started, NULL);
        status = prefork_server_run(server);
        prefork_server_free(server);
        return status == PREFORK_OK ? sched_getscheduler(0) : 100;
    }
"#;

#[test]
fn a_host_has_its_own_policy_again_even_if_its_server_ends_under_load() {
    let server = Start::new(Style::Request).program([host(LOADED_HOST)]).start();
    let load = new_connections(&server);
    becomes_batch(&server);
    server.signal(libc::SIGTERM);
    server.ends_with(libc::SCHED_OTHER);
    drop(load);
}
