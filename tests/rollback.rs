//! A reload that fails changes nothing: the same workers continue, and the log has the reason.
#![allow(clippy::unwrap_used)]

mod util;

use std::fs;
use std::path::PathBuf;
use std::time::Duration;
use util::{Load, RELOAD, Server, Start, Style, comes_true, handler, proc, wait_until};

/// A server of two whose module can be replaced, under both kinds of load.
struct Loaded {
    server: Server,
    kept: Load,
    fresh: Load,
}

impl Loaded {
    fn start(start: Start) -> Self {
        let server = start.start();
        let kept = Load::keep(server.address(), server.style, 4, "version");
        let fresh = server.load(2, "version");
        fresh.go_on_for(10);
        Self { server, kept, fresh }
    }

    /// No client has seen an error, and the old code still answers.
    #[track_caller]
    fn ends_unharmed(self) -> Server {
        self.kept.go_on_for(10);
        self.fresh.go_on_for(10);
        for tally in [self.kept.stop(), self.fresh.stop()] {
            assert!(tally.faults.is_empty(), "{tally:?}; it said {:#?}", self.server.stderr());
            assert_eq!(tally.answers.keys().collect::<Vec<_>>(), ["v1"]);
        }
        self.server
    }
}

fn two() -> Start {
    Start::new(Style::Request).own_module()
}

const HANDLER: &str = "#include <prefork.h>\n#include <stdlib.h>\n#include <unistd.h>\n\
    static void on_request(prefork_request *q, prefork_response *r, void *s) { (void)q; (void)r; (void)s; }\n";

/// Files that are missing or do not load, and the error for each.
fn broken_files() -> Vec<(&'static str, Option<Vec<u8>>, &'static str)> {
    let whole = fs::read(Style::Request.handler()).unwrap();
    let mut of_another_machine = whole.clone();
    // e_machine: AArch64, or on such a one x86-64 (elf(5)).
    of_another_machine[18] = if whole[18] == 183 { 62 } else { 183 };
    let compiled = |code: &str| Some(fs::read(handler::compile(&format!("{HANDLER}{code}"), &[])).unwrap());
    vec![
        ("missing", None, "No such file"),
        ("text", Some(b"int main;\n".to_vec()), "not a shared object"),
        ("empty", Some(vec![]), "truncated"),
        ("cut", Some(whole[..whole.len() / 2].to_vec()), "truncated"),
        ("wrong machine", Some(of_another_machine), "machine"),
        ("no symbol", compiled("int other = 1;"), "found no symbol of that name"),
        (
            "wrong ABI",
            compiled(
                "#undef PREFORK_ABI_MAJOR\n#define PREFORK_ABI_MAJOR 7\nPREFORK_MODULE(.on_request = on_request)",
            ),
            "found ABI 7.",
        ),
        (
            "constructor crashes",
            compiled(
                "__attribute__((constructor)) static void f(void) { abort(); }\nPREFORK_MODULE(.on_request = on_request)",
            ),
            "SIGABRT",
        ),
        (
            "constructor hangs",
            compiled(
                "__attribute__((constructor)) static void f(void) { for (;;) pause(); }\nPREFORK_MODULE(.on_request = on_request)",
            ),
            "not ready within the boot-timeout",
        ),
    ]
}

#[test]
fn a_file_that_does_not_load_is_refused_with_the_reason() {
    let mut loaded = Loaded::start(two().set("boot-timeout", "1500ms"));
    loaded.server.may_say("before it was ready");
    let pids = loaded.server.workers();
    for (what, contents, expected) in broken_files() {
        match contents {
            Some(bytes) => loaded.server.install_bytes(&bytes),
            None => fs::remove_file(loaded.server.module()).unwrap(),
        }
        let why = loaded.server.reload_fails();
        assert!(why.contains(expected), "{what}: {why}");
        wait_until("no new worker is left", || loaded.server.workers() == pids);
    }
    let mut server = loaded.ends_unharmed();
    // A good file is loaded after all of that.
    server.install(&Style::Request.version("v2"));
    server.reload();
    assert_eq!(server.ask("version"), Ok("v2".into()));
    server.stop();
}

#[test]
fn a_worker_that_does_not_start_is_refused_with_the_reason() {
    for (file, expected) in [
        ("refuse", "worker_start returned 1"),
        ("die", "SIGABRT"),
        ("misconfigured", "exit code 78"),
        ("wait", "not ready within the boot-timeout of 1000 ms"),
    ] {
        let mut loaded = Loaded::start(two().set("boot-timeout", "1s"));
        loaded.server.may_say("before it was ready");
        let pids = loaded.server.workers();
        loaded.server.dir.make(file);
        let why = loaded.server.reload_fails();
        assert!(why.contains(expected), "{file}: {why}");
        wait_until("no new worker is left", || loaded.server.workers() == pids);
        loaded.server.dir.remove(file);
        let mut server = loaded.ends_unharmed();
        server.reload();
        server.stop();
    }
}

#[test]
fn a_worker_that_is_never_ready_fails_the_reload_at_the_boot_timeout() {
    let mut server = two().set("boot-timeout", "300ms").start();
    server.may_say("before it was ready");
    server.dir.make("wait");
    let start = std::time::Instant::now();
    server.reload_fails();
    let took = start.elapsed();
    assert!(took > Duration::from_millis(290) && took < Duration::from_secs(5), "{took:?}");
    server.stop();
}

#[test]
fn a_worker_that_dies_while_the_reload_rolls_restores_the_old_code_in_every_slot() {
    for (file, expected) in
        [("refuse.2", "worker_start returned 1"), ("die.2", "SIGABRT"), ("wait.2", "not ready within")]
    {
        let mut server = Start::new(Style::Request).own_module().workers(4).set("boot-timeout", "1s").start();
        server.may_say("before it was ready");
        let kept = Load::keep(server.address(), server.style, 4, "pid");
        let fresh = server.load(2, "pid");
        fresh.go_on_for(10);
        server.install(&Style::Request.version("v2"));
        server.dir.make(file);
        let why = server.reload_fails();
        assert!(why.contains("slot 2") && why.contains(expected), "{why}");
        server.dir.remove(file);
        server.rests();
        for slot in 0..4 {
            // Each of the four, since they take turns.
            let mut clients: Vec<_> = (0..4).map(|_| server.connect()).collect();
            assert!(clients.iter_mut().all(|c| c.ask("version") == Ok("v1".into())), "{slot}");
        }
        kept.go_on_for(10);
        fresh.go_on_for(10);
        for tally in [kept.stop(), fresh.stop()] {
            assert!(tally.faults.is_empty(), "{file}: {tally:?}; it said {:#?}", server.stderr());
        }
        server.reload();
        assert_eq!(server.ask("version"), Ok("v2".into()));
        server.stop();
    }
}

#[test]
fn new_workers_that_die_as_soon_as_they_are_ready_restore_the_old_code() {
    let mut server = two().workers(8).start();
    server.may_say("died: SIGALRM");
    server.may_say("SIGALRM");
    server.install(&Style::Request.version("v2"));
    // The first is ready, and dead before the last can be: that one does not start.
    server.dir.make("brief.0");
    server.dir.make("wait.1");
    let why = server.reload_fails();
    assert!(why.contains("SIGALRM"), "{why}");
    server.dir.remove("brief.0");
    server.dir.remove("wait.1");
    server.rests();
    for _ in 0..16 {
        assert_eq!(server.ask("version"), Ok("v1".into()));
    }
    server.stop();
}

#[test]
fn a_canary_that_is_killed_ends_the_reload_without_harm() {
    let mut loaded = Loaded::start(two());
    loaded.server.may_say("died before it was ready: SIGKILL");
    loaded.server.may_say(RELOAD);
    let pids = loaded.server.workers();
    loaded.server.dir.make("wait");
    loaded.server.signal(libc::SIGHUP);
    wait_until("the canary starts", || loaded.server.workers().len() == 3);
    proc::signal(*loaded.server.workers().last().unwrap(), libc::SIGKILL);
    loaded.server.wait_for_line("rolled back");
    wait_until("it is gone", || loaded.server.workers() == pids);
    loaded.server.dir.remove("wait");
    loaded.ends_unharmed().stop();
}

#[test]
fn an_old_worker_that_dies_while_the_canary_starts_is_replaced_by_another_old_one() {
    for slot in 0..2 {
        let mut server = two().start();
        server.may_say(RELOAD);
        server.says("died: SIGKILL");
        server.install(&Style::Request.version("v2"));
        let old = server.worker_in(slot);
        server.dir.make("wait");
        server.signal(libc::SIGHUP);
        wait_until("the canary starts", || server.workers().len() == 3);
        proc::signal(old, libc::SIGKILL);
        server.wait_for_line("died: SIGKILL");
        assert_eq!(server.ask("version"), Ok("v1".into()));
        server.dir.remove("wait");
        server.wait_for_line("is complete");
        assert!((0..4).all(|_| server.ask("version") == Ok("v2".into())), "slot {slot}");
        server.stop();
    }
}

#[test]
fn a_worker_killed_while_the_reload_rolls_does_not_prevent_its_completion() {
    let mut server = two().workers(4).start();
    server.may_say(RELOAD);
    server.may_say("SIGKILL");
    server.may_say("to drain: Broken pipe");
    for n in 0..20usize {
        let ends = || server.lines_with("is complete") + server.lines_with("rolled back");
        let before = ends();
        server.signal(libc::SIGHUP);
        std::thread::sleep(Duration::from_millis((n % 10) as u64));
        let pids = server.workers();
        proc::signal_if_there(pids[(n * 7) % pids.len()], libc::SIGKILL);
        wait_until("the reload ends, one way or the other", || ends() > before);
    }
    server.rests();
    server.stop();
}

#[test]
fn a_fork_that_fails_during_a_reload_rolls_it_back_and_loses_nothing() {
    let mut loaded = Loaded::start(Start::new(Style::Request).by_ordinary_user());
    loaded.server.may_say("start worker in slot");
    loaded.server.may_say("Resource temporarily unavailable");
    let pids = loaded.server.workers();
    proc::limit(loaded.server.pid, "nproc", 1);
    let why = loaded.server.reload_fails();
    assert!(why.contains("Resource temporarily unavailable"), "{why}");
    assert_eq!(loaded.server.workers(), pids);
    // Now after the first new one: the old one is restored as soon as it can be forked.
    proc::limit(loaded.server.pid, "nproc", 10_000);
    loaded.server.dir.make("wait.1");
    loaded.server.dir.make("wait.0");
    loaded.server.signal(libc::SIGHUP);
    wait_until("the canary starts", || loaded.server.workers().len() == 3);
    proc::limit(loaded.server.pid, "nproc", 1);
    let failed = loaded.server.lines_with("rolled back");
    loaded.server.dir.remove("wait.0");
    loaded.server.wait_for_line("generation 3 begins");
    assert!(!comes_true(Duration::from_millis(500), || loaded.server.lines_with("is complete") > 0));
    proc::limit(loaded.server.pid, "nproc", 10_000);
    loaded.server.dir.remove("wait.1");
    wait_until("the reload is rolled back", || loaded.server.lines_with("rolled back") > failed);
    loaded.server.rests();
    let mut server = loaded.ends_unharmed();
    server.reload();
    server.stop();
}

#[test]
fn a_master_without_a_free_descriptor_reloads_or_rolls_back() {
    let mut loaded = Loaded::start(two());
    loaded.server.may_say(RELOAD);
    loaded.server.may_say("Too many open files");
    loaded.server.may_say("before it was ready");
    let own = proc::descriptors(loaded.server.pid).len() as u32;
    // From none at all to enough.
    for spare in 0..8 {
        proc::limit(loaded.server.pid, "nofile", own + spare);
        let ends = || loaded.server.lines_with("is complete") + loaded.server.lines_with("is rolled back");
        let before = ends();
        loaded.server.signal(libc::SIGHUP);
        wait_until("the reload ends", || ends() > before);
        proc::limit(loaded.server.pid, "nofile", 1024);
        loaded.server.rests();
    }
    let mut server = loaded.ends_unharmed();
    server.reload();
    server.stop();
}

#[test]
fn a_broken_file_is_not_loaded_by_successors_of_the_old_generation() {
    let mut server = two().start();
    server.may_say("died: SIGKILL");
    let broken: PathBuf = handler::compile(&format!("{HANDLER}int other = 2;"), &[]);
    server.install(&broken);
    server.may_say("before it was ready");
    server.reload_fails();
    for pid in server.workers() {
        proc::signal(pid, libc::SIGKILL);
        server.replaces(pid);
    }
    assert_eq!(server.ask("version"), Ok("v1".into()));
    server.stop();
}
