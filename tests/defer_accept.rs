//! `--defer-accept`: the kernel holds connections until their first bytes come, if the handler takes requests.
#![allow(clippy::unwrap_used)]

mod util;

use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};
use util::handler::Mode;
use util::{Load, RELOAD, Server, Start, Style, wait_until};

const REQUEST: &[u8] = b"GET /pid HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n";
/// Moves the listening socket from descriptor 0 to 3, where it is expected.
const PASS_ON: [&str; 4] = ["sh", "-c", "exec \"$@\" 3<&0 </dev/null", "sh"];

/// The state of the server's side of a connection in the kernel's table (proc(5), `/proc/net/tcp`).
#[derive(Debug, PartialEq, Eq)]
enum State {
    /// Established: it is in the backlog, or accepted.
    There,
    /// Only the handshake is known.
    Held,
    Gone,
}

fn state_of(client: &TcpStream) -> State {
    let column = |address: SocketAddr| {
        let SocketAddr::V4(a) = address else { panic!("{address}") };
        format!("{:08X}:{:04X}", u32::from(*a.ip()).swap_bytes(), a.port())
    };
    let (near, far) = (column(client.peer_addr().unwrap()), column(client.local_addr().unwrap()));
    let (table, row) = (fs::read_to_string("/proc/net/tcp").unwrap(), format!(" {near} {far} "));
    // In one search: other tests may have left many thousands of lines, and a second is not long.
    match table.find(&row).map(|at| &table[at + row.len()..][..2]) {
        Some("01") => State::There,
        Some("03") => State::Held,
        None => State::Gone,
        other => panic!("{other:?}"),
    }
}

/// A client that says nothing.
fn silent(server: &Server) -> TcpStream {
    let client = TcpStream::connect(server.tcp()).unwrap();
    client.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    client
}

#[track_caller]
fn holds(server: &Server) {
    held(server);
}

/// A client that the kernel holds. On a busy machine its second may be over before one looks.
#[track_caller]
fn held(server: &Server) -> TcpStream {
    let mut client = silent(server);
    wait_until("the kernel holds a connection", || {
        let holds = state_of(&client) == State::Held;
        if !holds {
            client = silent(server);
        }
        holds
    });
    client
}

#[track_caller]
fn does_not_hold(server: &Server) {
    assert_eq!(state_of(&silent(server)), State::There);
}

fn answer(mut client: TcpStream) -> String {
    client.write_all(REQUEST).unwrap();
    let mut text = String::new();
    client.read_to_string(&mut text).unwrap();
    text
}

#[test]
fn a_silent_connection_to_a_handler_of_requests_is_held_for_a_second() {
    for mode in Mode::ALL {
        let server = Start::new(Style::Request).accept(mode).set("header-timeout", "60s").start();
        let clients: Vec<_> = (0..6).map(|_| held(&server)).collect();
        assert!(answer(silent(&server)).starts_with("HTTP/1.1 200"));
        for client in clients {
            wait_until("it is accepted", || state_of(&client) == State::There);
            assert!(answer(client).starts_with("HTTP/1.1 200"));
        }
        server.stop();
    }
}

#[test]
fn a_client_that_speaks_late_is_answered_at_once() {
    let server = Start::new(Style::Request).set("defer-accept", "60s").start();
    let client = silent(&server);
    std::thread::sleep(Duration::from_millis(1500));
    assert_eq!(state_of(&client), State::Held);
    assert!(answer(client).starts_with("HTTP/1.1 200"));
    server.stop();
}

#[test]
fn other_handlers_and_those_who_say_off_get_connections_at_once() {
    for style in [Style::Connection, Style::Data] {
        let server = Start::new(style).start();
        does_not_hold(&server);
        server.stop();
        let server = Start::new(style).set("defer-accept", "1s").start();
        holds(&server);
        server.stop();
    }
    for off in ["off", "0"] {
        let server = Start::new(Style::Request).set("defer-accept", off).start();
        does_not_hold(&server);
        server.stop();
    }
}

#[allow(unsafe_code)]
fn defer(listener: &TcpListener) {
    let seconds: libc::c_int = 1;
    let (level, name, len) = (libc::IPPROTO_TCP, libc::TCP_DEFER_ACCEPT, size_of_val(&seconds) as u32);
    // SAFETY: `seconds` lives through the call, and `len` is its size.
    let ret =
        unsafe { libc::setsockopt(listener.as_raw_fd(), level, name, (&raw const seconds).cast(), len) };
    assert_eq!(ret, 0);
}

#[test]
fn an_inherited_socket_stays_as_it_was_found() {
    for deferred in [false, true] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        if deferred {
            defer(&listener);
        }
        let start = Start::new(Style::Request).listen("fd:3").through(&PASS_ON);
        let server = start.stdin(listener.try_clone().unwrap()).start();
        if deferred {
            holds(&server)
        } else {
            does_not_hold(&server)
        }
        server.stop();
    }
}

#[test]
fn sockets_of_slots_that_a_scale_up_adds_hold_connections_too() {
    let mut server = Start::new(Style::Request).workers(1).accept(Mode::ReusePort).start();
    for workers in 2..=4 {
        server.signal(libc::SIGTTIN);
        server.scaled_to(workers);
        server.rests();
    }
    (0..40).for_each(|_| holds(&server));
    // Not as at the start: it keeps the sockets of slots.
    server.signal(libc::SIGTERM);
    server.ends();
}

#[test]
fn a_reload_to_another_style_changes_it_and_its_roll_back_too() {
    let mut server = Start::new(Style::Request).own_module().start();
    server.may_say(RELOAD);
    holds(&server);
    server.install(&Style::Data.handler());
    server.reload();
    does_not_hold(&server);
    server.install_bytes(b"broken");
    server.reload_fails();
    does_not_hold(&server);
    server.install(&Style::Request.handler());
    server.reload();
    wait_until("the old workers have left", || server.workers().len() == 2);
    server.rests();
    holds(&server);
    server.stop();
}

#[test]
fn an_upgrade_keeps_it() {
    let mut server = Start::new(Style::Request).start();
    server.may_say("upgrade: ");
    server.may_say(RELOAD);
    let held = silent(&server);
    server.signal(libc::SIGUSR2);
    server.wait_for_line("has taken over");
    server.rests();
    holds(&server);
    assert!(answer(held).starts_with("HTTP/1.1 200"));
    server.stop();
}

#[test]
fn clients_that_are_held_when_a_stop_begins_are_answered() {
    for mode in Mode::ALL {
        let server = Start::new(Style::Request).accept(mode).start();
        let clients: Vec<_> = (0..20).map(|_| silent(&server)).collect();
        server.signal(libc::SIGTERM);
        std::thread::sleep(Duration::from_millis(100));
        for client in clients {
            assert!(answer(client).starts_with("HTTP/1.1 200"), "{mode:?}");
        }
        server.ends();
    }
}

#[test]
fn a_stop_does_not_wait_for_more_than_what_is_held() {
    let server = Start::new(Style::Request).start();
    let start = Instant::now();
    server.stop();
    let idle = start.elapsed();
    let server = Start::new(Style::Request).set("header-timeout", "1s").start();
    let clients: Vec<_> = (0..20).map(|_| silent(&server)).collect();
    server.stop();
    assert!(idle < Duration::from_secs(1), "{idle:?}");
    // Accepted, and then too late.
    for mut client in clients {
        let mut text = String::new();
        client.read_to_string(&mut text).unwrap();
        assert!(text.is_empty() || text.starts_with("HTTP/1.1 408"), "{text}");
    }
}

#[test]
fn clients_that_connect_and_leave_cost_nothing_and_do_no_harm() {
    let server = Start::new(Style::Request).start();
    for n in 0..200 {
        let client = silent(&server);
        match n % 3 {
            0 => drop(client),
            1 => client.shutdown(Shutdown::Write).unwrap(),
            _ => socket2::SockRef::from(&client).set_linger(Some(Duration::ZERO)).unwrap(),
        }
    }
    let load = Load::start(server.address(), server.style, 2, "pid");
    load.go_on_for(100);
    assert_eq!(load.stop().failed(), 0);
    server.stop();
}
