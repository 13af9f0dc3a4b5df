//! The program as process 1 of a container, or as a subreaper: it gets processes whose own parent has ended, and reaps them.
#![allow(clippy::unwrap_used)]

mod util;

use std::fs;
use std::path::Path;
use std::time::Duration;
use util::{Start, Style, comes_true, handler, proc, wait_until};

/// Becomes a subreaper, and executes its arguments.
const SUBREAPER: &str = r#"
#include <sys/prctl.h>
#include <unistd.h>
int main(int argc, char **argv)
{
    return argc > 1 && !prctl(PR_SET_CHILD_SUBREAPER, 1) ? execvp(argv[1], argv + 1) : 1;
}
"#;

/// A handler that leaves an orphan for each request, which ends at once, or with the file `end`.
fn module(path: &Path) -> std::path::PathBuf {
    let source = r#"
#include <prefork.h>
#include <stdlib.h>
#include <unistd.h>
#include <sys/wait.h>
static void answer(prefork_request *req, prefork_response *res, void *state)
{
    int pid = fork();
    (void)req;
    (void)state;
    if (pid == 0) {
        if (fork() == 0)
            while (access("END", F_OK))
                usleep(1000);
        _exit(0);
    }
    waitpid(pid, NULL, 0);
    prefork_response_body(res, "orphan", 6);
}
PREFORK_MODULE(.on_request = answer);
"#;
    handler::compile(&source.replace("END", path.to_str().unwrap()), &[])
}

#[test]
fn orphans_are_reaped_and_workers_still_have_their_exits() {
    let subreaper = handler::host(SUBREAPER);
    let start = Start::new(Style::Request).through(&[subreaper.to_str().unwrap()]);
    let end = start.dir().file("end");
    let mut server = start.module(module(&end)).start();
    server.says("died: SIGKILL");
    for _ in 0..5 {
        server.ask("orphan").unwrap();
    }
    let master = server.pid;
    let all = || proc::children(master).len();
    wait_until("the master has the orphans", || all() == 7);
    let victim = server.workers().into_iter().find(|&pid| comm(pid).starts_with("prefork/0")).unwrap();
    proc::signal(victim, libc::SIGKILL);
    server.dir.make("end");
    wait_until("no zombie is left", || all() == 2);
    // Also while nothing else happens.
    assert!(!comes_true(Duration::from_millis(100), || all() != 2));
    server.reload();
    // The trial of an upgrade is a child too, and the program that takes over has the same duty.
    server.says("upgrade: version");
    server.signal(libc::SIGUSR2);
    server.wait_for_line("generation 3 is complete");
    server.ask("orphan").unwrap();
    wait_until("no zombie is left", || all() == 2);
    server.stop();
}

fn comm(pid: i32) -> String {
    fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default()
}

#[test]
fn process_1_of_a_namespace_reaps_too() {
    let start = Start::new(Style::Request);
    let end = start.dir().file("end");
    let unshare = ["unshare", "--user", "--map-root-user", "--pid", "--fork", "--kill-child=TERM"];
    start.dir().make("end");
    let mut server = start.module(module(&end)).through(&unshare).launch();
    server.comes_up();
    let master = proc::children(server.pid)[0];
    for _ in 0..20 {
        server.ask("orphan").unwrap();
    }
    wait_until("no zombie is left", || proc::children(master).len() == 2);
    proc::signal(master, libc::SIGTERM);
    server.ends();
}
