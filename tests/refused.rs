//! System calls that fail temporarily, by fault injection with strace(1).
#![allow(clippy::unwrap_used)]

mod util;

use std::net::{SocketAddr, UdpSocket};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use util::client::Address;
use util::{Mode, PATIENCE, Server, Start, Style, comes_true, proc, wait_until};

/// This many requests of four clients make at least `CALLS` calls of each kind: one wait may be for all four.
const ANSWERS: u64 = 200;
const CALLS: u32 = 45;
/// More CPU time than processes take that rest, and much less than one that does not: strace slows it to a quarter of a CPU.
const RESTING: Duration = Duration::from_millis(50);

/// A strace(1) that makes system calls of a process fail or take long, until dropped.
struct Refusing(Child);

impl Refusing {
    /// Makes each `every`-th call of `call` fail with `error`, up to the call numbered `last`. Until then it must run: if strace
    /// detaches in the middle of such a call, the call fails with ENOSYS.
    fn start(pid: i32, call: &str, error: &str, every: u32, last: u32) -> Self {
        Self::with(pid, &format!("inject={call}:error={error}:when={every}..{last}+{every}"))
    }

    fn with(pid: i32, fault: &str) -> Self {
        Self::run(pid, ["-e".into(), fault.into()])
    }

    fn run(pid: i32, options: impl IntoIterator<Item = String>) -> Self {
        let mut strace = Command::new("strace");
        strace.args(["-qq", "-o", "/dev/null", "-p", &pid.to_string()]).args(options);
        let child = strace.stderr(Stdio::null()).spawn().unwrap();
        wait_until("it is traced", || proc::status(pid, "TracerPid") != "0");
        Self(child)
    }

    /// As [`Refusing::always`], for calls on these sockets alone, given by their inodes.
    fn on(sockets: &[String], pid: i32, call: &str, error: &str) -> Self {
        let names = sockets.iter().flat_map(|inode| ["-P".into(), format!("socket:[{inode}]")]);
        Self::run(pid, names.chain(["-e".into(), format!("inject={call}:error={error}")]))
    }

    /// Makes each call of `call` fail with `error`.
    fn always(pid: i32, call: &str, error: &str) -> Self {
        Self::with(pid, &format!("inject={call}:error={error}"))
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

#[test]
fn a_server_that_may_not_accept_rests_says_so_once_and_stops() {
    for mode in Mode::ALL {
        for error in ["EPERM", "EACCES", "ECONNABORTED"] {
            let mut server = Start::new(Style::Request).accept(mode).start();
            server.says("accept: ");
            let pids: Vec<_> = server.workers().into_iter().chain([server.pid]).collect();
            let refusing: Vec<_> = pids.iter().map(|&pid| Refusing::always(pid, "accept4", error)).collect();
            let _waiting: Vec<_> = (0..8).map(|_| server.connect()).collect();
            server.wait_for_line("accept: ");
            let cpu = || pids.iter().map(|&pid| proc::cpu(pid)).sum::<Duration>();
            let before = cpu();
            comes_true(Duration::from_millis(700), || false);
            let used = cpu() - before;
            assert!(used < RESTING, "{mode:?} {error}: {used:?}");
            assert!(server.lines_with("accept: ") <= pids.len(), "{mode:?} {error}: {:#?}", server.stderr());
            server.may_say("closed unanswered");
            let start = Instant::now();
            server.signal(libc::SIGTERM);
            server.ends();
            assert!(start.elapsed() < Duration::from_secs(5), "{mode:?} {error}: {:?}", start.elapsed());
            drop(refusing);
        }
    }
}

/// A stop shuts the sockets, which wakes all workers that accept themselves.
#[test]
fn a_stop_waits_for_no_worker_that_finds_nothing_to_accept() {
    for mode in [Mode::Shared, Mode::ReusePort] {
        for style in Style::ALL {
            let server = Start::new(style).accept(mode).start();
            let slow = |pid| Refusing::with(pid, "inject=accept4:delay_exit=200000");
            let slow: Vec<_> = server.workers().into_iter().map(slow).collect();
            assert!(server.ask("pid").is_ok());
            let begun = Instant::now();
            server.signal(libc::SIGTERM);
            server.ends();
            assert!(begun.elapsed() < Duration::from_secs(3), "{mode:?} {style:?}: {:?}", begun.elapsed());
            drop(slow);
        }
    }
}

/// A server that will not be allowed to read datagrams, its address, and the inodes of its sockets.
fn start_of_datagrams(mode: Mode) -> (Server, SocketAddr, Vec<String>) {
    let mut server = Start::new(Style::Datagram).accept(mode).listen("udp:127.0.0.1:0").start();
    server.says("read datagrams: ");
    let Address::Udp(address) = *server.address() else { panic!("{:?}", server.address()) };
    let sockets = datagram_sockets(address.port());
    (server, address, sockets)
}

/// The inodes of the sockets for datagrams at a port.
fn datagram_sockets(port: u16) -> Vec<String> {
    let table = std::fs::read_to_string("/proc/net/udp").unwrap();
    let end = format!(":{port:04X}");
    let rows = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    rows.filter(|row| row[1].ends_with(&end)).map(|row| row[9].to_owned()).collect()
}

#[test]
fn a_worker_that_may_not_read_datagrams_rests_says_so_once_and_goes_on_when_it_may() {
    for mode in [Mode::Master, Mode::ReusePort] {
        let (server, address, sockets) = start_of_datagrams(mode);
        assert_eq!(sockets.len(), if mode == Mode::ReusePort { 2 } else { 1 });
        let pids = server.workers();
        let refuse = |&pid: &i32| Refusing::on(&sockets, pid, "recvmsg", "EPERM");
        let refusing: Vec<_> = pids.iter().map(refuse).collect();
        let clients: Vec<_> = (0..8).map(|_| UdpSocket::bind("127.0.0.1:0").unwrap()).collect();
        for client in &clients {
            client.set_read_timeout(Some(PATIENCE)).unwrap();
            client.send_to(b"pid", address).unwrap();
        }
        server.wait_for_line("read datagrams: ");
        let cpu = || pids.iter().map(|&pid| proc::cpu(pid)).sum::<Duration>();
        let before = cpu();
        comes_true(Duration::from_millis(700), || false);
        let used = cpu() - before;
        assert!(used < RESTING, "{mode:?}: {used:?}");
        assert!(server.lines_with("read datagrams: ") <= pids.len(), "{mode:?}: {:#?}", server.stderr());
        refusing.into_iter().zip(&pids).for_each(|(refusing, &pid)| refusing.stop(pid));
        for client in &clients {
            client.recv(&mut [0; 100]).unwrap();
        }
        server.stop();
    }
}

#[test]
fn a_server_that_may_not_read_datagrams_stops() {
    for mode in [Mode::Master, Mode::ReusePort] {
        let (server, address, sockets) = start_of_datagrams(mode);
        let refuse = |pid: i32| Refusing::on(&sockets, pid, "recvmsg", "EACCES");
        let refusing: Vec<_> = server.workers().into_iter().map(refuse).collect();
        for _ in 0..8 {
            UdpSocket::bind("127.0.0.1:0").unwrap().send_to(b"pid", address).unwrap();
        }
        server.wait_for_line("read datagrams: ");
        let begun = Instant::now();
        server.signal(libc::SIGTERM);
        server.ends();
        assert!(begun.elapsed() < Duration::from_secs(5), "{mode:?}: {:?}", begun.elapsed());
        drop(refusing);
    }
}

#[test]
fn a_master_that_may_not_wait_for_its_workers_replaces_and_stops() {
    for error in ["EPERM", "EINVAL"] {
        let mut server = Start::new(Style::Request).start();
        server.says("wait for worker");
        server.may_say("died: unknown causes");
        let _refusing = Refusing::always(server.pid, "waitid", error);
        let victim = server.worker_in(0);
        proc::signal(victim, libc::SIGKILL);
        server.replaces(victim);
        assert!(server.ask("pid").is_ok());
        server.signal(libc::SIGTERM);
        server.ends();
    }
}
