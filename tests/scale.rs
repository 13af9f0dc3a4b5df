//! More workers and fewer, while clients are served.
#![allow(clippy::unwrap_used)]

mod util;

use std::net::UdpSocket;
use std::time::Duration;
use util::client::Address;
use util::{Load, Mode, PATIENCE, Server, Start, Style, comes_true, proc, wait_until};

#[track_caller]
fn has(server: &mut Server, n: u32) {
    server.scaled_to(n as usize);
    let all: Vec<u32> = (0..n).collect();
    wait_until(&format!("{n} workers"), || server.slots() == all);
}

#[test]
fn the_highest_slots_are_added_last_and_removed_first() {
    let mut server = Start::new(Style::Request).start();
    let first = server.workers();
    for n in 3..=6 {
        server.signal(libc::SIGTTIN);
        has(&mut server, n);
    }
    let mut served: Vec<_> = (0..24).map(|_| server.ask("slot").unwrap()).collect();
    wait_until("every slot serves", || {
        served.push(server.ask("slot").unwrap());
        (0..6).all(|slot: u32| served.contains(&slot.to_string()))
    });
    for n in (2..=5).rev() {
        server.signal(libc::SIGTTOU);
        has(&mut server, n);
    }
    assert_eq!(server.workers(), first);
    server.stop();
}

#[test]
fn the_last_worker_stays() {
    let mut server = Start::new(Style::Request).start();
    let first = server.worker_in(0);
    for _ in 0..5 {
        server.signal(libc::SIGTTOU);
        // One signal that is pending swallows the next of its kind (signal(7)).
        wait_until("it is read", || proc::status(server.pid, "ShdPnd") == "0000000000000000");
    }
    has(&mut server, 1);
    assert!(!comes_true(Duration::from_millis(100), || server.workers() != [first]));
    assert_eq!(server.ask("slot"), Ok("0".into()));
    server.signal(libc::SIGTTIN);
    has(&mut server, 2);
    server.stop();
}

#[test]
fn scaling_under_load_loses_nothing() {
    for style in Style::ALL {
        let mut server = Start::new(style).start();
        let load = server.load(6, "sleep 1");
        let kept = (style == Style::Request).then(|| Load::keep(server.address(), style, 4, "pid"));
        for _ in 0..4 {
            for n in [3, 4] {
                load.go_on_for(10);
                server.signal(libc::SIGTTIN);
                has(&mut server, n);
            }
            for n in [3, 2] {
                load.go_on_for(10);
                server.signal(libc::SIGTTOU);
                has(&mut server, n);
            }
        }
        for tally in [Some(load), kept].into_iter().flatten().map(Load::stop) {
            assert!(tally.faults.is_empty(), "{style:?}: {tally:?}");
        }
        server.stop();
    }
}

#[test]
fn a_surplus_worker_finishes_its_requests_and_its_slot_can_be_filled_meanwhile() {
    for style in Style::ALL {
        let mut server = Start::new(style).start();
        let mut client = server.connect();
        while client.ask("slot") != Ok("1".into()) {
            client = server.connect();
        }
        client.send_command("gate g").unwrap();
        wait_until("the handler runs", || server.dir.at_gate("g") == 1);
        let old = server.worker_in(1);
        server.signal(libc::SIGTTOU);
        for _ in 0..4 {
            assert_eq!(server.ask("slot"), Ok("0".into()), "{style:?}");
        }
        server.signal(libc::SIGTTIN);
        wait_until("another serves in its slot", || server.ask("slot") == Ok("1".into()));
        assert_eq!(server.slots(), [0, 1, 1], "{style:?}");
        server.dir.make("g");
        assert_eq!(client.answer(), Ok("gate".into()), "{style:?}");
        drop(client);
        has(&mut server, 2);
        assert!(!server.workers().contains(&old));
        server.stop();
    }
}

#[test]
fn scaling_down_during_a_reload_does_not_prevent_its_completion() {
    for signal in [libc::SIGTTOU, libc::SIGTTIN] {
        let mut server = Start::new(Style::Request).workers(3).start();
        server.may_say("reload to generation");
        // Its slot is removed, or another added, while a new worker starts in the last.
        server.dir.make("wait.2");
        server.signal(libc::SIGHUP);
        wait_until("the last slot is at it", || server.slots() == [0, 1, 2, 2]);
        server.signal(signal);
        if signal == libc::SIGTTIN {
            server.dir.remove("wait.2");
        }
        server.wait_for_line("is complete");
        has(&mut server, if signal == libc::SIGTTIN { 4 } else { 2 });
        assert!((0..8).all(|_| server.ask("generation") == Ok("2".into())));
        server.stop();
    }
}

/// A worker that is ready, and that its master does not know to be ready, is killed if it is no longer wanted: nothing must be lost
/// with it.
#[test]
fn a_worker_takes_nothing_before_its_master_knows_that_it_is_ready() {
    for (style, mode) in [
        (Style::Request, Mode::Master),
        (Style::Request, Mode::Shared),
        (Style::Data, Mode::Shared),
        (Style::Connection, Mode::Shared),
        (Style::Request, Mode::ReusePort),
        (Style::Datagram, Mode::Master),
        (Style::Datagram, Mode::ReusePort),
    ] {
        let listen = if style == Style::Datagram { "udp:127.0.0.1:0" } else { "127.0.0.1:0" };
        let server = Start::new(style).accept(mode).workers(1).listen(listen).start();
        let first = server.worker_in(0);
        server.dir.make("wait.1");
        server.signal(libc::SIGTTIN);
        server.worker_in(1);
        [server.pid, first].into_iter().for_each(proc::freeze);
        server.dir.remove("wait.1");
        // As many as it takes for the second to get some, wherever the kernel puts them.
        let (mut clients, socket) = (Vec::new(), UdpSocket::bind("127.0.0.1:0").unwrap());
        match server.address() {
            Address::Udp(address) => {
                (0..8).for_each(|_| assert_eq!(socket.send_to(b"gate g", address).unwrap(), 6));
            }
            _ => clients.extend((0..8).map(|_| server.connect())),
        }
        clients.iter_mut().for_each(|client| client.send_command("gate g").unwrap());
        let taken = || server.dir.at_gate("g") > 0;
        assert!(!comes_true(Duration::from_millis(300), taken), "{style:?} {mode:?}");
        server.signal(libc::SIGTERM);
        server.dir.make("g");
        [server.pid, first].into_iter().for_each(|pid| proc::signal(pid, libc::SIGCONT));
        clients.iter().for_each(|client| client.end().unwrap());
        if clients.is_empty() {
            socket.set_read_timeout(Some(PATIENCE)).unwrap();
            (0..8).for_each(|_| assert!(socket.recv(&mut [0; 9]).is_ok(), "{mode:?}"));
        }
        for client in &mut clients {
            assert_eq!(client.answer(), Ok("gate".into()), "{style:?} {mode:?}");
        }
        drop(clients);
        server.ends();
    }
}
