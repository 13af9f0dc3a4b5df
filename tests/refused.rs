//! System calls that fail temporarily, by fault injection with strace(1).
#![allow(clippy::unwrap_used)]

mod util;

use std::process::{Child, Command, Stdio};
use util::{Start, Style, proc, wait_until};

/// This many requests of four clients make at least `CALLS` calls of each kind: one wait may be for all four.
const ANSWERS: u64 = 200;
const CALLS: u32 = 45;

/// A strace(1) that makes system calls of a process fail, until dropped.
struct Refusing(Child);

impl Refusing {
    /// Makes each `every`-th call of `call` fail with `error`, up to the call numbered `last`. Until then it must run: if strace
    /// detaches in the middle of such a call, the call fails with ENOSYS.
    fn start(pid: i32, call: &str, error: &str, every: u32, last: u32) -> Self {
        let fault = format!("inject={call}:error={error}:when={every}..{last}+{every}");
        let mut strace = Command::new("strace");
        strace.args(["-qq", "-o", "/dev/null", "-e", &fault, "-p", &pid.to_string()]);
        let child = strace.stderr(Stdio::null()).spawn().unwrap();
        wait_until("it is traced", || proc::status(pid, "TracerPid") != "0");
        Self(child)
    }

    fn stop(mut self, pid: i32) {
        proc::signal(self.0.id() as i32, libc::SIGINT);
        self.0.wait().unwrap();
        wait_until("it is no longer traced", || proc::status(pid, "TracerPid") == "0");
    }
}

impl Drop for Refusing {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn temporary_errors_in_the_master_lose_nothing() {
    for (call, error) in [
        ("accept4", "ENFILE"),
        ("accept4", "ENOBUFS"),
        ("accept4", "ENOMEM"),
        ("accept4", "ECONNABORTED"),
        ("accept4", "EPROTO"),
        ("accept4", "EINTR"),
        ("sendmsg", "EAGAIN"),
        ("sendmsg", "ENOBUFS"),
        ("sendmsg", "ETOOMANYREFS"),
        ("sendmsg", "EINTR"),
        ("epoll_wait", "EINTR"),
    ] {
        let mut server = Start::new(Style::Request).start();
        server.may_say("clients wait in the backlog meanwhile");
        let pids = server.workers();
        let load = server.load(4, "pid");
        load.go_on_for(4);
        let refusing = Refusing::start(server.pid, call, error, 4, CALLS);
        load.go_on_for(ANSWERS);
        refusing.stop(server.pid);
        load.go_on_for(20);
        let tally = load.stop();
        assert!(tally.faults.is_empty(), "{call} {error}: {tally:?}");
        assert_eq!(server.workers(), pids);
        server.stop();
    }
}

#[test]
fn temporary_errors_in_a_worker_lose_nothing() {
    for (call, error) in
        [("recvmsg", "EINTR"), ("recvfrom", "EINTR"), ("sendto", "EINTR"), ("epoll_wait", "EINTR")]
    {
        let server = Start::new(Style::Request).workers(1).start();
        let pid = server.workers()[0];
        let load = server.load(4, "pid");
        load.go_on_for(4);
        let refusing = Refusing::start(pid, call, error, 3, CALLS);
        load.go_on_for(ANSWERS);
        refusing.stop(pid);
        load.go_on_for(20);
        let tally = load.stop();
        assert!(tally.faults.is_empty(), "{call} {error}: {tally:?}");
        assert_eq!(server.workers(), [pid]);
        server.stop();
    }
}

#[test]
fn forks_and_channels_that_fail_during_a_reload_lose_nothing() {
    for (call, error) in
        [("clone", "EAGAIN"), ("socketpair", "EMFILE"), ("memfd_create", "ENOMEM"), ("pidfd_open", "EMFILE")]
    {
        let mut server = Start::new(Style::Request).workers(3).start();
        server.may_say(util::RELOAD);
        server.may_say("start worker in slot");
        server.may_say("before it was ready");
        server.may_say("SIGKILL");
        let load = server.load(4, "pid");
        load.go_on_for(4);
        let refusing = Refusing::start(server.pid, call, error, 3, 6);
        for _ in 0..3 {
            let ends = || server.lines_with("is complete") + server.lines_with("is rolled back");
            let before = ends();
            server.signal(libc::SIGHUP);
            wait_until("the reload ends, one way or the other", || ends() > before);
        }
        refusing.stop(server.pid);
        server.reload();
        load.go_on_for(20);
        let tally = load.stop();
        assert!(tally.faults.is_empty(), "{call} {error}: {tally:?}");
        server.stop();
    }
}
