//! A server that has printed "listening" is complete, and its workers are as clean as a new process.
#![allow(clippy::unwrap_used)]

mod util;

use util::{Start, Style, proc, wait_until};

#[test]
fn all_workers_are_ready_when_the_banner_is_printed() {
    let server = Start::new(Style::Request).workers(8).start();
    assert_eq!(server.workers().len(), 8);
    server.stop();
}

#[test]
fn every_style_answers_and_a_connection_stays_with_its_worker() {
    for style in Style::ALL {
        let server = Start::new(style).start();
        assert_eq!(server.ask("listener"), Ok("0".into()), "{style:?}");
        let mut client = server.connect();
        let pid = client.ask("pid").unwrap();
        for _ in 0..3 {
            assert_eq!(client.ask("pid").as_ref(), Ok(&pid), "{style:?}");
        }
        drop(client);
        server.stop();
    }
}

#[test]
fn a_worker_has_an_empty_mask_and_default_dispositions_except_for_signals_to_groups() {
    // Signals ignored by the process that started the server are not ignored in handlers.
    let server =
        Start::new(Style::Request).through(&["sh", "-c", "trap '' HUP USR1 USR2; exec \"$@\"", "sh"]);
    let server = server.start();
    let bits = |signals: &[i32]| signals.iter().map(|s| 1u64 << (s - 1)).sum::<u64>();
    // 32 and 33 belong to libc, which does not allow a change.
    let of_libc = bits(&[32, 33]);
    let ignored = bits(&[libc::SIGPIPE, libc::SIGXFSZ, libc::SIGTTIN, libc::SIGTTOU]);
    // SIGURG tells of the master's death.
    let caught = [libc::SIGHUP, libc::SIGINT, libc::SIGQUIT, libc::SIGTERM, libc::SIGUSR1, libc::SIGUSR2];
    // Those of faults: what the worker was doing is written down, then it dies of them.
    let faults =
        [libc::SIGILL, libc::SIGTRAP, libc::SIGABRT, libc::SIGBUS, libc::SIGFPE, libc::SIGSEGV, libc::SIGSYS];
    let caught = bits(&caught) | bits(&[libc::SIGURG]) | bits(&faults);
    for pid in server.workers() {
        let mask = |field| u64::from_str_radix(&proc::status(pid, field), 16).unwrap();
        assert_eq!((mask("SigBlk"), mask("SigCgt"), mask("SigIgn") & !of_libc), (0, caught, ignored));
    }
    server.stop();
}

#[test]
fn the_kernel_ends_workers_before_their_master_if_memory_runs_out() {
    let mut server = Start::new(Style::Request).start();
    server.says("died: SIGKILL");
    let score = |pid: i32| -> i32 {
        std::fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).unwrap().trim().parse().unwrap()
    };
    let master = score(server.pid);
    let first = server.workers();
    proc::signal(first[0], libc::SIGKILL);
    server.replaces(first[0]);
    assert!(server.ask_at_once(8, "pid").answered() == 8);
    let due = (master + 100).min(1000);
    wait_until("workers and successors", || server.workers().iter().all(|&pid| score(pid) == due));
    assert_eq!(score(server.pid), master);
    server.stop();
}

/// The open descriptors of a worker without a connection, except its handler's file and those that this test's own process has
/// inherited and passed on.
fn idle_descriptors(pid: i32) -> Vec<String> {
    let target = |pid: i32, n: u32| std::fs::read_link(format!("/proc/{pid}/fd/{n}")).ok();
    // The same file, not just one of the same kind, under the same number.
    let own = std::process::id() as i32;
    let passed_on = |n: u32| n > 2 && target(pid, n).is_some() && target(pid, n) == target(own, n);
    let mut found = proc::descriptors(pid);
    found.retain(|(n, kind)| kind != proc::COPY_OF_MODULE && !passed_on(*n));
    let mut kinds: Vec<_> = found.into_iter().map(|(_, kind)| kind).collect();
    kinds.sort();
    kinds
}

#[test]
fn a_worker_and_its_successor_have_only_their_own_descriptors_open() {
    let expected = [
        "/dev/null",              // stdin
        "anon_inode:[eventfd]",   // to wake the master
        "anon_inode:[eventfd]",   // to be asked to leave
        "anon_inode:[eventfd]",   // to be woken by threads of its handler
        "anon_inode:[eventpoll]", // its poll
        "pipe",                   // stdout
        "pipe",                   // stderr
        "socket",                 // the handoff channel
        "socket",                 // the message channel
    ];
    let mut server = Start::new(Style::Request).workers(3).start();
    server.says("died: SIGKILL");
    for pid in server.workers() {
        wait_until("it has let go of all else", || idle_descriptors(pid) == expected);
    }
    // The successor is forked while others hold connections.
    let mut clients: Vec<_> = (0..3).map(|_| server.connect()).collect();
    let pids: Vec<i32> = clients.iter_mut().map(|c| c.ask("pid").unwrap().parse().unwrap()).collect();
    proc::signal(pids[0], libc::SIGKILL);
    server.replaces(pids[0]);
    let successor = *server.workers().last().unwrap();
    wait_until("the successor has let go of all else", || idle_descriptors(successor) == expected);
    // A copy elsewhere would hold the end of file back.
    let last = clients.pop().unwrap();
    assert!(last.ask_last("pid").is_ok());
    drop(clients);
    server.stop();
}

#[test]
fn a_system_call_that_the_machine_refuses_is_named_with_the_likely_cause() {
    let trace = |fault: &'static str| vec!["strace", "-qq", "-o", "/dev/null", "-e", fault];
    for (through, expected) in [
        (
            vec!["unshare", "-m", "sh", "-c", "mount -t tmpfs none /proc && exec \"$@\"", "sh"],
            "read /proc/self/task (is /proc mounted?): No such file or directory",
        ),
        (trace("inject=pidfd_open:error=EPERM"), "pidfd_open: Operation not permitted"),
        (trace("inject=pidfd_open:error=ENOSYS"), "pidfd_open: not implemented; Linux 5.3 or newer"),
    ] {
        let refused = Start::new(Style::Request).through(&through).refused();
        assert_eq!((refused.code, refused.stderr.lines().count()), (Some(1), 1), "{refused:?}");
        assert!(refused.stderr.contains(expected), "{refused:?}");
        let is_call = expected.starts_with("pidfd");
        assert_eq!(refused.stderr.contains("seccomp"), is_call, "{refused:?}");
    }
}

#[test]
fn an_option_behind_the_handler_is_told_as_its_argument() {
    let start = |args: &[&str]| {
        let start = Start::new(Style::Request);
        let mut words: Vec<std::ffi::OsString> = vec![env!("CARGO_BIN_EXE_prefork").into()];
        words.extend(["--workers", "2", "--listen", "127.0.0.1:0"].map(Into::into));
        words.extend([Style::Request.handler().into(), start.dir().path().into()]);
        words.extend(args.iter().map(Into::into));
        start.program(words).start()
    };
    for (args, told) in [
        (&["-w", "3"][..], "-w"),
        (&["-w3", "x"], "-w3"),
        (&["--listen=:80"], "--listen=:80"),
        (&["--workers", "3", "-l", ":80"], "--workers -l"),
    ] {
        let server = start(args);
        let file = Style::Request.handler();
        let note = format!("{told}: for {}, behind", file.file_name().unwrap().to_str().unwrap());
        let lines = || server.stdout();
        wait_until("the banner is complete", || lines().iter().any(|l| l.starts_with("try: ")));
        assert!(lines().iter().any(|l| l.contains(&note)), "{:?}", lines());
        server.stop();
    }
    for args in [&["--colour", "blue"][..], &["-", "--", "-w", "3"], &["3"]] {
        let server = start(args);
        wait_until("the banner is complete", || server.stdout().iter().any(|l| l.starts_with("try: ")));
        assert_eq!(server.stdout().len(), 3, "{:?}", server.stdout());
        server.stop();
    }
}
