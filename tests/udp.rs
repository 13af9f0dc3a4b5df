//! Datagrams: served by all workers from one socket, or by each from its own; unread ones outlive the worker.
#![allow(clippy::unwrap_used)]

mod util;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use util::client::Address;
use util::handler::compile;
use util::{Client, Mode, Server, Start, Style, proc, wait_until};

/// The modes, as far as they differ for datagrams.
const MODES: [Mode; 2] = [Mode::Master, Mode::ReusePort];

fn start(style: Style, mode: Mode) -> Start {
    let start = Start::new(style).accept(mode).listen("udp:127.0.0.1:0");
    if style == Style::Datagram { start } else { start.listen("127.0.0.1:0") }
}

fn address(server: &Server) -> SocketAddr {
    match server.address() {
        Address::Udp(address) => *address,
        other => panic!("{other:?}"),
    }
}

fn client(server: &Server) -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(util::PATIENCE)).unwrap();
    socket.connect(address(server)).unwrap();
    socket
}

/// Sends one command from one client; returns the answer without the command after it.
fn ask(server: &Server, command: &str) -> String {
    let client = client(server);
    client.send(command.as_bytes()).unwrap();
    answer(&client).unwrap().split(' ').next().unwrap().to_owned()
}

fn answer(client: &UdpSocket) -> io::Result<String> {
    let mut buf = [0; 1024];
    let n = client.recv(&mut buf)?;
    Ok(String::from_utf8_lossy(&buf[..n]).into_owned())
}

/// All answers that a client still gets.
fn answers(client: &UdpSocket, patience: Duration) -> Vec<String> {
    client.set_read_timeout(Some(patience)).unwrap();
    std::iter::from_fn(|| answer(client).ok()).collect()
}

#[test]
fn every_kind_of_handler_answers_datagrams_and_connections() {
    for style in [Style::Datagram, Style::Request, Style::Connection, Style::Data] {
        for mode in Mode::ALL {
            let server = start(style, mode).start();
            let client = client(&server);
            for n in 0..50 {
                client.send(format!("count hits {n}").as_bytes()).unwrap();
                assert_eq!(answer(&client).unwrap(), format!("count count hits {n}"), "{style:?} {mode:?}");
            }
            client.send(b"").unwrap();
            assert!(answer(&client).unwrap().starts_with("no such command"), "an empty one");
            if style != Style::Datagram {
                let stream = Client::connect(&server.addresses[1], style).unwrap();
                assert_eq!(stream.ask_last("listener"), Ok("1".into()), "{style:?} {mode:?}");
            }
            assert_eq!(server.dir.count("hits"), 50);
            server.stop();
        }
    }
}

#[test]
fn datagrams_spread_over_the_workers() {
    for mode in MODES {
        let server = start(Style::Datagram, mode).workers(3).start();
        let mut slots = BTreeMap::new();
        for _ in 0..150 {
            *slots.entry(ask(&server, "slot")).or_insert(0) += 1;
        }
        // Of workers with one socket those that are awake may leave little for the others.
        let fair = if mode == Mode::ReusePort { slots.values().all(|&n| n >= 20) } else { slots.len() > 1 };
        assert!(fair, "{mode:?}: {slots:?}");
        server.stop();
    }
}

#[test]
fn while_one_worker_is_busy_another_reads_from_their_socket() {
    let server = start(Style::Datagram, Mode::Master).start();
    let busy = client(&server);
    busy.send(b"gate g").unwrap();
    wait_until("the handler runs", || server.dir.at_gate("g") == 1);
    for _ in 0..20 {
        ask(&server, "pid");
    }
    server.dir.make("g");
    assert_eq!(answer(&busy).unwrap(), "gate gate g");
    server.stop();
}

#[test]
fn an_answer_comes_from_the_address_that_the_client_sent_to() {
    for listen in ["udp:0.0.0.0:0", "udp::0"] {
        let server = Start::new(Style::Datagram).listen(listen).start();
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        client.set_read_timeout(Some(util::PATIENCE)).unwrap();
        client.connect(("127.0.0.7", address(&server).port())).unwrap();
        client.send(b"slot").unwrap();
        assert!(answer(&client).unwrap().ends_with(" slot"), "{listen}");
        server.stop();
    }
}

#[test]
fn datagrams_that_a_killed_worker_has_not_read_are_answered_by_its_successor() {
    for mode in MODES {
        let mut server = start(Style::Datagram, mode).start();
        server.says("died: SIGKILL");
        server.workers().into_iter().for_each(proc::freeze);
        let clients: Vec<_> = (0..40).map(|_| client(&server)).collect();
        clients.iter().for_each(|c| assert_eq!(c.send(b"count hits").unwrap(), 10));
        server.workers().into_iter().for_each(|pid| proc::signal(pid, libc::SIGKILL));
        for client in &clients {
            assert_eq!(answer(client).unwrap(), "count count hits", "{mode:?}");
        }
        assert_eq!(server.dir.count("hits"), 40, "{mode:?}");
        server.stop();
    }
}

#[test]
fn a_crash_among_many_datagrams_loses_only_the_one_it_happens_on() {
    for mode in MODES {
        let mut server = start(Style::Datagram, mode).workers(1).start();
        server.says("died: SIGABRT");
        let client = client(&server);
        client.send(b"gate g").unwrap();
        wait_until("the handler runs", || server.dir.at_gate("g") == 1);
        for n in 0..60 {
            let text = if n == 30 { "abort".to_owned() } else { format!("count hits {n}") };
            client.send(text.as_bytes()).unwrap();
        }
        server.dir.make("g");
        let got = answers(&client, Duration::from_secs(2));
        assert_eq!(got.len(), 60, "{mode:?}: {got:?}");
        assert_eq!(server.dir.count("hits"), 59, "{mode:?}");
        server.stop();
    }
}

#[test]
fn kills_under_a_stream_of_datagrams_lose_at_most_one_each() {
    const KILLS: usize = 8;
    for mode in MODES {
        let mut server = start(Style::Datagram, mode).start();
        server.says("died: SIGKILL");
        // On a busy machine the next victim in a slot may not be ready yet.
        server.may_say("died before it was ready: SIGKILL");
        let clients: Vec<_> = (0..8).map(|_| client(&server)).collect();
        let mut sent = 0;
        for round in 0..KILLS {
            for n in 0..5 {
                for (i, client) in clients.iter().enumerate() {
                    client.send(format!("count hits {round}.{n}.{i}").as_bytes()).unwrap();
                    sent += 1;
                }
            }
            let victim = server.worker_in((round % 2) as u32);
            proc::signal(victim, libc::SIGKILL);
            wait_until("a successor", || {
                !proc::children(server.pid).contains(&victim) && server.workers().len() == 2
            });
        }
        let mut got = BTreeSet::new();
        for client in &clients {
            for answer in answers(client, Duration::from_millis(100)) {
                assert!(got.insert(answer), "answered once");
            }
        }
        assert!(got.len() + KILLS >= sent, "{mode:?}: {} of {sent} answered", got.len());
        assert!(server.dir.count("hits") as usize >= got.len());
        server.stop();
    }
}

#[test]
fn a_stop_answers_all_waiting_datagrams() {
    for mode in MODES {
        for style in [Style::Datagram, Style::Connection] {
            let server = start(style, mode).workers(1).start();
            let busy = client(&server);
            busy.send(b"gate g").unwrap();
            wait_until("the handler runs", || server.dir.at_gate("g") == 1);
            let clients: Vec<_> = (0..30).map(|_| client(&server)).collect();
            clients.iter().for_each(|c| assert_eq!(c.send(b"count hits").unwrap(), 10));
            server.signal(libc::SIGTERM);
            server.dir.make("g");
            for client in &clients {
                assert_eq!(answer(client).unwrap(), "count count hits", "{style:?} {mode:?}");
            }
            assert_eq!(answer(&busy).unwrap(), "gate gate g");
            assert_eq!(server.dir.count("hits"), 30);
            server.ends();
        }
    }
}

#[test]
fn an_address_that_the_handler_cannot_serve_is_refused() {
    let refused = start(Style::Datagram, Mode::Master).listen("127.0.0.1:0").refused();
    assert_eq!((refused.code, refused.stderr.lines().count()), (Some(1), 1), "{refused:?}");
    assert!(
        refused.stderr.contains("listen 127.0.0.1:") && refused.stderr.contains("on_datagram only"),
        "{refused:?}"
    );

    let hello =
        std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("ffi-examples/hello.c")).unwrap();
    let hello = compile(&hello, &[]);
    let words = [env!("CARGO_BIN_EXE_prefork"), "-w", "2", "-l", "udp:127.0.0.1:0", hello.to_str().unwrap()];
    let refused = Start::new(Style::Request).program(words).refused();
    assert_eq!((refused.code, refused.stderr.lines().count()), (Some(1), 1), "{refused:?}");
    assert!(refused.stderr.contains("listen udp:127.0.0.1:"), "{refused:?}");
    assert!(refused.stderr.contains("the handler has no on_datagram"), "{refused:?}");
}

#[test]
fn an_address_in_use_is_refused_with_the_pid_of_its_owner() {
    for mode in MODES {
        let server = start(Style::Datagram, mode).start();
        let listen = format!("udp:{}", address(&server));
        let refused = Start::new(Style::Datagram).accept(mode).listen(&listen).refused();
        let owner = format!("bind {listen}: in use by process {} (prefork)", server.pid);
        assert!(refused.code == Some(1) && refused.stderr.contains(&owner), "{refused:?}");
        server.stop();
    }
}

#[test]
fn large_datagrams_arrive_whole_and_a_handler_may_answer_none_or_many() {
    let source = r#"
        #include <prefork.h>
        static void on_datagram(prefork_worker *w, const struct sockaddr *peer, const void *data, size_t size, void *state)
        {
            size_t i;
            (void)peer, (void)state;
            for (i = 0; i < (size > 3 ? 1 : size); i++)
                if (prefork_datagram_reply(w, data, size) != PREFORK_OK) __builtin_trap();
            if (prefork_datagram_reply(NULL, data, size) != PREFORK_NULL) __builtin_trap();
            if (prefork_datagram_reply(w, NULL, 1) != PREFORK_NULL) __builtin_trap();
        }
        static int start(prefork_worker *w, void **state)
        {
            (void)state;
            return prefork_datagram_reply(w, "x", 1) != PREFORK_STATE;
        }
        PREFORK_MODULE(.worker_start = start, .on_datagram = on_datagram)"#;
    let handler = compile(source, &[]);
    let words =
        [env!("CARGO_BIN_EXE_prefork"), "-w", "2", "-l", "udp:127.0.0.1:0", handler.to_str().unwrap()];
    let server = Start::new(Style::Datagram).program(words).start();
    let client = client(&server);
    let mut large: Vec<u8> = (0..65_507u32).map(|n| n as u8).collect();
    client.send(&large).unwrap();
    let mut back = vec![0; 65_536];
    assert_eq!(client.recv(&mut back).unwrap(), large.len());
    back.truncate(large.len());
    assert!(back == large);
    large.truncate(3);
    for n in [3, 0, 2, 1] {
        client.send(&large[..n]).unwrap();
        (0..n).for_each(|_| assert_eq!(client.recv(&mut back).unwrap(), n));
    }
    server.stop();
}

/// Sends datagrams from several clients while something is done to the server, and counts what is not answered.
fn unanswered(server: &Server, during: impl Fn(&Server)) -> usize {
    let clients: Vec<_> = (0..16).map(|_| client(server)).collect();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let senders: Vec<_> = clients
            .iter()
            .map(|client| {
                scope.spawn(|| {
                    let mut sent = 0;
                    while !stop.load(Ordering::Relaxed) {
                        // Two at a time: the second lies in the socket while the first is answered.
                        client.send(b"slot").unwrap();
                        client.send(b"slot").unwrap();
                        sent += 2;
                        let _ = answer(client).and_then(|_| answer(client)).map(|_| sent -= 2);
                    }
                    sent
                })
            })
            .collect();
        during(server);
        stop.store(true, Ordering::Relaxed);
        senders.into_iter().map(|s| s.join().unwrap()).sum()
    })
}

#[test]
fn reloads_lose_no_datagram() {
    for mode in MODES {
        let mut server = start(Style::Datagram, mode).start();
        server.says("reload to generation");
        let lost = unanswered(&server, |server| {
            for generation in 2..12 {
                server.signal(libc::SIGHUP);
                server.wait_for_line(&format!("reload to generation {generation} is complete"));
            }
        });
        assert_eq!(lost, 0, "{mode:?}");
        server.stop();
    }
}

#[test]
fn scaling_loses_no_datagram() {
    for mode in MODES {
        let mut server = start(Style::Datagram, mode).start();
        // It became ready before its SIGKILL arrived.
        server.may_say("died while draining: SIGKILL; 0 connections lost");
        let lost = unanswered(&server, |server| {
            for _ in 0..5 {
                for (signal, workers) in
                    [(libc::SIGTTIN, 3), (libc::SIGTTIN, 4), (libc::SIGTTOU, 3), (libc::SIGTTOU, 2)]
                {
                    server.signal(signal);
                    wait_until("the workers are as many", || server.workers().len() == workers);
                }
            }
        });
        assert_eq!(lost, 0, "{mode:?}");
        server.stop();
    }
}

#[test]
fn another_program_takes_over_and_loses_no_datagram() {
    for mode in MODES {
        let mut server = start(Style::Datagram, mode).start();
        server.says("upgrade: version");
        server.says("reload to generation");
        let lost = unanswered(&server, |server| {
            server.signal(libc::SIGUSR2);
            server.wait_for_line("reload to generation 2 is complete");
        });
        assert_eq!(lost, 0, "{mode:?}");
        server.stop();
    }
}
