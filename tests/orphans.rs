//! Workers whose master is no more, and processes that handlers have forked: neither keeps an address, and workers end in time,
//! whatever code they are in.
#![allow(clippy::unwrap_used)]

mod util;

use std::fs;
use std::net::UdpSocket;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::time::{Duration, Instant};
use util::client::Address;
use util::{Mode, Server, Start, Style, comes_true, proc, wait_until};

/// More than any of these servers needs to end, and far less than a call of theirs lasts.
const SOON: Duration = Duration::from_secs(5);
/// Calls that do not return: in the handler's own code, and in a system call that starts anew after each signal.
const ENDLESS: [&str; 2] = ["loop", "sleep 60000"];

/// Has every worker in a call, whoever accepts. Clients that no worker takes wait.
#[track_caller]
fn keep_busy(server: &Server, call: &str) -> Vec<util::Client> {
    let mut clients = Vec::new();
    wait_until("both workers are in the call", || {
        let mut client = server.connect();
        client.send_command(&format!("busy {call}")).unwrap();
        clients.push(client);
        comes_true(Duration::from_millis(100), || server.dir.count("busy.here") >= 2)
    });
    clients
}

fn start(style: Style, mode: Mode) -> Start {
    Start::new(style).accept(mode).set("drain-timeout", "700ms")
}

/// Starts another server at the same address.
#[track_caller]
fn follows(server: &Server, style: Style, mode: Mode) -> Server {
    let address = match server.address() {
        Address::Tcp(a) => a.to_string(),
        Address::Unix(path) => format!("unix:{}", path.display()),
        Address::Udp(a) => format!("udp:{a}"),
    };
    start(style, mode).listen(address).start()
}

#[test]
fn a_killed_master_leaves_its_port_free_and_no_worker_whatever_they_do() {
    for mode in Mode::ALL {
        for style in Style::ALL {
            for call in ENDLESS {
                let case = format!("{} {style:?} {call}", mode.name());
                let server = start(style, mode).start();
                let clients = keep_busy(&server, call);
                let killed = Instant::now();
                server.signal(libc::SIGKILL);
                assert!(
                    comes_true(Duration::from_millis(600), || server.refuses()),
                    "{case}: new clients wait"
                );
                let next = follows(&server, style, mode);
                assert!(next.ask("pid").is_ok(), "{case}");
                assert!(comes_true(SOON, || proc::group(server.pid).is_empty()), "{case}: they live on");
                assert!(
                    killed.elapsed() > Duration::from_millis(600),
                    "{case}: not before the drain-timeout"
                );
                drop(clients);
                server.dies_out();
                next.stop();
            }
        }
    }
}

// The kernel forgets whom to tell of the master's death when a process changes its user (prctl(2)).
#[test]
fn so_it_does_if_they_have_become_another_user() {
    if fs::metadata("/proc/self").unwrap().uid() != 0 {
        eprintln!("not checked: only root can become another user");
        return;
    }
    for mode in Mode::ALL {
        for style in Style::ALL {
            let case = format!("{} {style:?}", mode.name());
            let start = start(style, mode);
            fs::set_permissions(start.dir().path(), fs::Permissions::from_mode(0o777)).unwrap();
            start.dir().make("unprivileged");
            let server = start.start();
            assert!(
                server.workers().iter().all(|&pid| proc::status(pid, "Uid").starts_with("65534")),
                "{case}"
            );
            let clients = keep_busy(&server, "sleep 60000");
            server.signal(libc::SIGKILL);
            assert!(comes_true(Duration::from_millis(600), || server.refuses()), "{case}: new clients wait");
            assert!(comes_true(SOON, || proc::group(server.pid).is_empty()), "{case}: they live on");
            drop(clients);
            server.dies_out();
        }
    }
}

#[test]
fn a_silent_client_keeps_no_worker_of_a_killed_master() {
    for mode in Mode::ALL {
        let server = start(Style::Connection, mode).start();
        let clients: Vec<_> = (0..8).map(|_| server.connect()).collect();
        let taken = || server.workers().iter().all(|&pid| proc::state(pid) == Some('S'));
        wait_until("they wait for the clients", taken);
        server.signal(libc::SIGKILL);
        wait_until("the port is free", || server.refuses());
        assert!(comes_true(SOON, || proc::group(server.pid).is_empty()), "{}", mode.name());
        drop(clients);
        server.dies_out();
    }
}

#[test]
fn a_master_that_is_killed_while_it_stops_leaves_nothing_either() {
    for mode in Mode::ALL {
        for call in ENDLESS {
            let server = start(Style::Request, mode).start();
            let clients = keep_busy(&server, call);
            server.signal(libc::SIGTERM);
            wait_until("the port is free", || server.refuses());
            server.signal(libc::SIGKILL);
            assert!(comes_true(SOON, || proc::group(server.pid).is_empty()), "{} {call}", mode.name());
            drop(clients);
            server.dies_out();
        }
    }
}

#[test]
fn new_clients_are_refused_while_calls_drain() {
    for mode in Mode::ALL {
        for unix in [false, true] {
            let case = format!("{} unix={unix}", mode.name());
            let mut start = Start::new(Style::Request).accept(mode);
            if unix {
                let path = start.dir().file("s");
                start = start.listen(format!("unix:{}", path.display()));
            }
            let server = start.start();
            let clients: Vec<_> = (0..2)
                .map(|n| {
                    let mut client = server.connect();
                    client.send_command(&format!("gate g{n}")).unwrap();
                    wait_until("it is in the call", || server.dir.at_gate(&format!("g{n}")) == 1);
                    client
                })
                .take(if mode == Mode::ReusePort { 1 } else { 2 })
                .collect();
            server.signal(libc::SIGTERM);
            let refused = || util::Client::connect(server.address(), Style::Request).is_err();
            assert!(comes_true(Duration::from_secs(3), refused), "{case}: new clients wait");
            ["g0", "g1"].iter().for_each(|gate| server.dir.make(gate));
            for mut client in clients {
                assert_eq!(client.answer(), Ok("gate".into()), "{case}");
            }
            server.ends();
        }
    }
}

#[test]
fn a_killed_master_leaves_its_address_of_datagrams_free() {
    for mode in [Mode::Master, Mode::ReusePort] {
        for call in ENDLESS {
            let case = format!("{} {call}", mode.name());
            let server = start(Style::Datagram, mode).workers(1).listen("udp:127.0.0.1:0").start();
            let Address::Udp(address) = *server.address() else { panic!("{:?}", server.address()) };
            let client = UdpSocket::bind("127.0.0.1:0").unwrap();
            client.send_to(format!("busy {call}").as_bytes(), address).unwrap();
            wait_until("it is in the call", || server.dir.count("busy.here") == 1);
            server.signal(libc::SIGKILL);
            let free = || UdpSocket::bind(address).is_ok();
            assert!(comes_true(Duration::from_millis(600), free), "{case}: the address is still taken");
            assert!(comes_true(SOON, || proc::group(server.pid).is_empty()), "{case}: it lives on");
            server.dies_out();
        }
    }
}

#[test]
fn a_child_that_a_handler_has_forked_keeps_no_address() {
    for mode in Mode::ALL {
        for style in Style::ALL {
            for signal in [libc::SIGTERM, libc::SIGKILL] {
                let case = format!("{} {style:?} signal {signal}", mode.name());
                let mut server = start(style, mode).start();
                let child: i32 = server.connect().ask("child").unwrap().parse().unwrap();
                server.signal(signal);
                wait_until("the master is gone", || server.has_exited());
                wait_until("its workers are gone", || {
                    proc::group(server.pid).iter().all(|&pid| pid == child)
                });
                wait_until(&format!("the port is free: {case}"), || server.refuses());
                let next = follows(&server, style, mode);
                assert!(next.ask("pid").is_ok(), "{case}");
                proc::signal(child, libc::SIGKILL);
                wait_until("the child is gone", || proc::group(server.pid).is_empty());
                if signal == libc::SIGKILL {
                    server.dies_out()
                } else {
                    server.ends()
                }
                next.stop();
            }
        }
    }
}

#[test]
fn a_child_that_a_handler_has_forked_keeps_no_address_of_datagrams() {
    let mut server = start(Style::Datagram, Mode::Master).workers(1).listen("udp:127.0.0.1:0").start();
    let Address::Udp(address) = *server.address() else { panic!("{:?}", server.address()) };
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    client.set_read_timeout(Some(util::PATIENCE)).unwrap();
    client.send_to(b"child", address).unwrap();
    let mut answer = [0; 100];
    let n = client.recv(&mut answer).unwrap();
    let text = String::from_utf8_lossy(&answer[..n]).into_owned();
    let child: i32 = text.split(' ').next().unwrap().parse().unwrap();
    server.signal(libc::SIGTERM);
    wait_until("the server is gone", || server.has_exited());
    wait_until("the address is free", || UdpSocket::bind(address).is_ok());
    proc::signal(child, libc::SIGKILL);
    wait_until("the child is gone", || proc::group(server.pid).is_empty());
    server.ends();
}
