//! Successors: at once after a crash, and never if the configuration is wrong; the port stays open throughout.
#![allow(clippy::unwrap_used)]

mod util;

use std::time::{Duration, Instant};
use util::{Load, Start, Style, comes_true, handler, proc, wait_until};

#[test]
fn a_successor_serves_soon_after_a_crash() {
    let mut server = Start::new(Style::Connection).workers(8).start();
    server.says("died: SIGABRT");
    // The best of a few: the machine may be busy. Every slot has one successor at once.
    let fastest = (0..8).map(|slot| {
        let victim = server.worker_in(slot);
        let start = Instant::now();
        proc::signal(victim, libc::SIGABRT);
        let slot = slot.to_string();
        while server.workers().contains(&victim) || server.ask("slot").as_ref() != Ok(&slot) {}
        start.elapsed()
    });
    let fastest = fastest.min().unwrap();
    assert!(fastest < Duration::from_millis(25), "{fastest:?}");
    server.stop();
}

#[test]
fn a_worker_with_a_wrong_configuration_is_not_restarted_until_a_reload() {
    let mut server = Start::new(Style::Request).own_module().workers(3).start();
    server.says("died: SIGKILL");
    server.says("died before it was ready: exit code 78");
    let kept = Load::keep(server.address(), server.style, 2, "version");
    server.dir.make("misconfigured.1");
    let (well, poor) = ([server.worker_in(0), server.worker_in(2)], server.worker_in(1));
    server.may_say("exit code 78");
    // Its idle connections end with it: those of the load must be in other workers.
    let tally = kept.stop();
    assert!(tally.faults.is_empty(), "{tally:?}");
    proc::signal(poor, libc::SIGKILL);
    server.wait_for_line("exit code 78");
    assert!(!comes_true(Duration::from_millis(1500), || server.lines_with("exit code 78") > 1));
    assert_eq!(server.workers(), well);
    assert!((0..20).all(|_| server.ask("version") == Ok("v1".into())));
    // `prefork scale` does not wait for it.
    for n in ["4", "3"] {
        let mut scale = std::process::Command::new(env!("CARGO_BIN_EXE_prefork"));
        let ran = scale.args(["scale", n]).env("PREFORK_RUNTIME_DIR", server.dir.runtime()).output().unwrap();
        let said = String::from_utf8_lossy(&ran.stderr);
        assert!(ran.status.code() == Some(1) && said.contains("slot 1 stays empty"), "{said}");
    }
    server.may_say("control: scale");
    wait_until("the one more is gone", || server.workers() == well);
    // A reload with the same error changes nothing.
    let why = server.reload_fails();
    assert!(why.contains("exit code 78"), "{why}");
    wait_until("no new worker is left", || server.slots() == [0, 2]);
    assert!((0..20).all(|_| server.ask("version") == Ok("v1".into())));
    server.dir.remove("misconfigured.1");
    server.install(&Style::Request.version("v2"));
    server.reload();
    assert!((0..20).all(|_| server.ask("version") == Ok("v2".into())));
    server.stop();
}

#[test]
fn the_port_stays_open_while_no_worker_can_start() {
    let mut server = Start::new(Style::Request).start();
    server.says("died: SIGKILL");
    server.says("died before it was ready: exit code 78");
    server.dir.make("misconfigured");
    server.workers().into_iter().for_each(|pid| proc::signal(pid, libc::SIGKILL));
    server.says("all slots are empty");
    wait_until("both are given up", || server.lines_with("before it was ready: exit code 78") == 2);
    assert_eq!(server.workers(), []);
    let mut clients: Vec<_> = (0..20).map(|_| server.connect()).collect();
    clients.iter_mut().for_each(|c| c.send_command("count hits").unwrap());
    let before = proc::cpu(server.pid);
    comes_true(Duration::from_millis(500), || false);
    assert!(proc::cpu(server.pid) - before < Duration::from_millis(25), "it waits, and does not spin");
    server.dir.remove("misconfigured");
    server.reload();
    for client in &mut clients {
        assert_eq!(client.answer(), Ok("count".into()));
    }
    assert_eq!(server.dir.count("hits"), 20);
    drop(clients);
    server.stop();
}

#[test]
fn a_server_without_a_worker_stops() {
    let mut server = Start::new(Style::Request).start();
    server.says("died: SIGKILL");
    server.says("exit code 78");
    server.dir.make("misconfigured");
    server.workers().into_iter().for_each(|pid| proc::signal(pid, libc::SIGKILL));
    server.says("all slots are empty");
    wait_until("both are given up", || server.lines_with("before it was ready: exit code 78") == 2);
    server.signal(libc::SIGTERM);
    server.ends();
}

#[test]
fn a_slot_whose_workers_die_repeatedly_does_not_affect_the_others() {
    let mut server = Start::new(Style::Request).workers(3).start();
    server.says("died: SIGKILL");
    server.says("SIGALRM");
    server.dir.make("brief.0");
    let others = [server.worker_in(1), server.worker_in(2)];
    proc::signal(server.worker_in(0), libc::SIGKILL);
    wait_until("it has died a few times", || server.lines_with("SIGALRM") >= 3);
    let (before, start) = (server.lines_with("SIGALRM"), Instant::now());
    let load = Load::start(server.address(), server.style, 2, "slot");
    comes_true(Duration::from_secs(2), || false);
    let deaths = server.lines_with("SIGALRM") - before;
    assert!(deaths <= 8, "{deaths} deaths in {:?}", start.elapsed());
    assert!(others.iter().all(|pid| server.workers().contains(pid)));
    let tally = load.stop();
    let served = |slot: &str| tally.answers.get(slot).copied().unwrap_or(0);
    assert!(served("1") > 100 && served("2") > 100, "{tally:?}");
    assert!(tally.failed() <= deaths as u64 * 2, "{tally:?}");
    server.dir.remove("brief.0");
    wait_until("a healthy one serves", || {
        server.workers().len() == 3
            && comes_true(Duration::from_millis(1), || server.ask("slot") == Ok("0".into()))
    });
    server.stop();
}

#[test]
fn a_worker_that_runs_out_of_memory_affects_no_other() {
    let mut server = Start::new(Style::Request).start();
    server.says("died: SIGABRT");
    let pids = server.workers();
    let mut client = server.connect();
    let pid: i32 = client.ask("pid").unwrap().parse().unwrap();
    proc::limit(pid, "as", 512 << 20);
    let load = server.load(2, "pid");
    // The handler aborts if it gets no memory.
    assert!(client.ask("alloc 1024").is_err());
    server.replaces(pid);
    let tally = load.stop();
    assert!(tally.failed() <= 2, "{tally:?}");
    assert!(server.workers().iter().any(|p| pids.contains(p)));
    server.stop();
}

#[test]
fn a_first_worker_that_is_never_ready_ends_the_start() {
    let start = Start::new(Style::Request).set("boot-timeout", "300ms");
    start.dir().make("wait.1");
    let refused = start.refused();
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(refused.stderr.contains("not ready within the boot-timeout of 300 ms"), "{refused:?}");
}

#[test]
fn a_successor_that_is_never_ready_is_killed_and_retried() {
    let mut server = Start::new(Style::Request).set("boot-timeout", "300ms").start();
    server.says("died: SIGKILL");
    server.says("died before it was ready: SIGKILL");
    server.dir.make("wait.0");
    proc::signal(server.worker_in(0), libc::SIGKILL);
    wait_until("it is tried again", || server.lines_with("died before it was ready") >= 2);
    assert!((0..20).all(|_| server.ask("slot") == Ok("1".into())));
    server.dir.remove("wait.0");
    wait_until("it heals", || server.ask("slot") == Ok("0".into()));
    server.stop();
}

#[test]
fn a_server_whose_workers_all_have_a_wrong_configuration_ends_with_their_exit_code() {
    let mut server = Start::new(Style::Request).start();
    server.says("died: SIGKILL");
    server.says("died before it was ready: exit code 78");
    server.says("all slots are empty: each worker has ended with exit code 78");
    server.says("all workers have ended with exit code 78: the configuration is wrong");
    server.dir.make("misconfigured");
    let workers = server.workers();
    proc::signal(workers[0], libc::SIGKILL);
    server.wait_for_line("exit code 78");
    // One still serves, for as long as it lives.
    assert!(!comes_true(Duration::from_millis(500), || server.lines_with("all slots are empty") > 0));
    assert_eq!(server.ask("version"), Ok("v1".into()));
    proc::signal(workers[1], libc::SIGKILL);
    server.wait_for_line("all slots are empty");
    // A reload that fails too buys no time for ever.
    let why = server.reload_fails();
    assert!(why.contains("exit code 78"), "{why}");
    server.ends_with(78);
}

#[test]
fn a_host_whose_workers_all_have_a_wrong_configuration_is_told_so() {
    let host = handler::host(
        "#include <prefork.h>\n#include <unistd.h>\n\
         static int begin(prefork_worker *w, void **s)\n\
         { (void)w; (void)s; if (access(\"wrong\", F_OK) == 0) _exit(78); return 0; }\n\
         static void answer(prefork_request *q, prefork_response *r, void *s)\n\
         { (void)q; (void)s; prefork_response_body_static(r, \"x\", 1); }\n\
         static void started(const prefork_started *s, void *state)\n\
         { (void)state; printf(\"listening on %s\\n\", s->addresses[0]); fflush(stdout); }\n\
         int main(void)\n{\n\
         struct prefork_module module = prefork_module_init();\n\
         prefork_server *server = prefork_server_new();\n\
         int status;\n\
         module.worker_start = begin;\n\
         module.on_request = answer;\n\
         prefork_server_module(server, &module, NULL);\n\
         prefork_server_on_start(server, started, NULL);\n\
         prefork_server_listen(server, \"127.0.0.1:0\");\n\
         prefork_server_workers(server, 2);\n\
         status = prefork_server_run(server);\n\
         fprintf(stderr, \"%s\\n\", prefork_server_error(server));\n\
         prefork_server_free(server);\n\
         return status == PREFORK_MISCONFIGURED ? 78 : 1;\n}\n",
    );
    let mut server = Start::new(Style::Request).program([&host]).start();
    server.says("died: SIGKILL");
    server.says("died before it was ready: exit code 78");
    server.says("all slots are empty: each worker has ended with exit code 78");
    server.says("all workers have ended with exit code 78: the configuration is wrong");
    server.dir.make("wrong");
    server.workers().into_iter().for_each(|pid| proc::signal(pid, libc::SIGKILL));
    wait_until("it has ended", || server.has_exited());
    server.ends_with(78);
}

#[test]
fn a_wrong_configuration_of_the_first_workers_is_the_exit_code_of_the_program() {
    let start = Start::new(Style::Request);
    ["misconfigured.0", "misconfigured.1"].iter().for_each(|name| start.dir().make(name));
    let refused = start.refused();
    assert_eq!(refused.code, Some(78), "{refused:?}");
    assert!(refused.stderr.contains("exit code 78"), "{refused:?}");
}
