//! Idle connections make room: if workers are full, a new client gets the place of the connection that has been idle longest, and
//! nothing is taken from one that is in progress.
#![allow(clippy::unwrap_used)]

mod util;

use socket2::{Domain, Socket, Type};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;
use util::load::at_once;
use util::{Client, Dir, Fault, Load, Mode, Server, Start, Style, comes_true, handler, proc, wait_until};

/// Much longer than it takes to make room, and much shorter than the idle-timeout.
const SOON: Duration = Duration::from_secs(30);
/// Longer than a worker waits before it takes what others could have taken.
const STEADY: Duration = Duration::from_millis(400);

fn full_at(max_conns: u32, mode: Mode) -> Start {
    Start::new(Style::Request).accept(mode).set("max-conns", &max_conns.to_string())
}

/// A client on a connection of its own that has been answered, and is idle.
#[track_caller]
fn idle(server: &Server) -> Client {
    let mut client = server.connect();
    client.patience(SOON);
    assert!(client.ask("slot").is_ok(), "a new client is not answered");
    client
}

#[track_caller]
fn several(server: &Server, n: usize) -> Vec<Client> {
    (0..n).map(|_| idle(server)).collect()
}

/// Which clients have their connection yet.
fn open(clients: &[&Client]) -> Vec<bool> {
    clients.iter().map(|c| c.is_open()).collect()
}

/// A client whose command is sent and not answered for a while.
#[track_caller]
fn waits(server: &Server) -> Client {
    let mut client = server.connect();
    client.send_command("slot").unwrap();
    client.patience(STEADY);
    assert_eq!(client.answer(), Err(Fault::TimedOut));
    client.patience(SOON);
    client
}

#[test]
fn a_new_client_gets_the_place_of_the_connection_that_has_been_idle_longest() {
    for mode in Mode::ALL {
        let server = full_at(3, mode).workers(1).start();
        let (mut a, b, c) = (idle(&server), idle(&server), idle(&server));
        assert!(a.ask("slot").is_ok());
        let d = idle(&server);
        assert_eq!(open(&[&a, &b, &c, &d]), [true, false, true, true], "{mode:?}");
        let mut e = idle(&server);
        assert_eq!(open(&[&a, &c, &d, &e]), [true, false, true, true], "{mode:?}");
        for client in [&mut a, &mut e] {
            assert!(client.ask("slot").is_ok(), "{mode:?}");
        }
        drop((a, b, c, d, e));
        server.stop();
    }
}

#[test]
fn so_do_clients_of_unix_sockets() {
    for mode in Mode::ALL {
        let dir = Arc::new(Dir::new());
        let listen = format!("unix:{}", dir.path().join("socket").display());
        let server = full_at(2, mode).workers(1).within(&dir).listen(listen).start();
        let (a, mut b, mut c) = (idle(&server), idle(&server), idle(&server));
        assert_eq!(open(&[&a, &b, &c]), [false, true, true], "{mode:?}");
        assert!(b.ask("slot").is_ok() && c.ask("slot").is_ok());
        drop((a, b, c));
        server.stop();
    }
}

#[test]
fn if_all_workers_are_full_each_new_client_costs_one_idle_connection() {
    const EACH: u32 = 4;
    for mode in Mode::ALL {
        let server = full_at(EACH, mode).workers(2).start();
        let mut clients = several(&server, 40);
        let left = clients.iter().filter(|c| c.is_open()).count();
        // With a backlog for each worker the kernel may give one of them few clients.
        let most = 2 * EACH as usize;
        assert!(left == most || mode == Mode::ReusePort && left < most, "{mode:?}: {left}");
        clients.retain(|c| c.is_open());
        clients.iter_mut().for_each(|c| assert!(c.ask("slot").is_ok(), "{mode:?}"));
        drop(clients);
        server.stop();
    }
}

#[test]
fn no_idle_connection_is_closed_while_another_worker_has_room() {
    for mode in [Mode::Master, Mode::Shared] {
        let server = full_at(2, mode).workers(2).start();
        let mut clients = several(&server, 4);
        for round in 0..40 {
            // The place that is free is at one worker or at the other.
            drop(clients.remove((round * 7) % 4));
            wait_until("the server knows", || server.connections() == 3);
            clients.push(idle(&server));
            assert!(clients.iter().all(Client::is_open), "{mode:?}, round {round}");
        }
        drop(clients);
        server.stop();
    }
}

#[test]
fn with_source_hash_a_client_keeps_its_worker_and_gets_the_place_there() {
    let server = full_at(2, Mode::Master).workers(3).set("dispatch", "source-hash").start();
    let mut clients = several(&server, 2);
    let slot = clients[0].ask("slot").unwrap();
    for _ in 0..6 {
        let mut client = server.connect();
        client.patience(SOON);
        assert_eq!(client.ask("slot").as_ref(), Ok(&slot));
        clients.push(client);
    }
    assert_eq!(clients.iter().filter(|c| c.is_open()).count(), 2);
    drop(clients);
    server.stop();
}

#[test]
fn with_least_connections_the_worker_with_most_idle_ones_makes_room() {
    let server = full_at(3, Mode::Master)
        .workers(2)
        .set("dispatch", "least-connections")
        .set("header-timeout", "1m")
        .start();
    let mut clients = several(&server, 6);
    // Two of one worker have begun their next request.
    let mut busy: Vec<Client> = Vec::new();
    while busy.len() < 2 {
        let mut client = clients.remove(0);
        match client.ask("slot").unwrap().as_str() {
            "0" => {
                client.send(b"GET /slot HTTP/1.1\r\nHo").unwrap();
                busy.push(client);
            }
            _ => clients.push(client),
        }
    }
    server.has_read();
    let slots: Vec<_> = (0..6)
        .map(|_| {
            let mut client = server.connect();
            client.patience(SOON);
            let slot = client.ask("slot").unwrap();
            clients.push(client);
            slot
        })
        .collect();
    assert_eq!(slots, ["1"; 6]);
    for client in &mut busy {
        client.send(b"st: t\r\n\r\n").unwrap();
        assert_eq!(client.answer(), Ok("0".into()));
    }
    drop((clients, busy));
    server.stop();
}

#[test]
fn a_request_that_has_half_arrived_keeps_its_connection() {
    let head = "GET /slot HTTP/1.1\r\nHost: t\r\nContent-Length: 8\r\n\r\n";
    let request = format!("{head}12345678");
    for mode in Mode::ALL {
        let server =
            full_at(2, mode).workers(1).set("header-timeout", "1m").set("body-timeout", "1m").start();
        for cut in [1, 20, head.len() - 1, head.len(), head.len() + 4] {
            let (mut half, other) = (idle(&server), idle(&server));
            half.send(&request.as_bytes()[..cut]).unwrap();
            // Once it is read it is no reason any more to leave this one alone.
            server.has_read();
            let (c, d) = (idle(&server), idle(&server));
            assert_eq!(open(&[&half, &other, &c, &d]), [true, false, false, true], "{mode:?} {cut}");
            half.send(&request.as_bytes()[cut..]).unwrap();
            assert_eq!(half.answer(), Ok("0".into()), "{mode:?} {cut}");
            assert!(half.ask("slot").is_ok());
        }
        server.stop();
    }
}

#[test]
fn a_request_that_arrives_just_before_is_served_and_keeps_its_connection() {
    for mode in Mode::ALL {
        let server = full_at(2, mode).workers(1).start();
        let (mut a, b) = (idle(&server), idle(&server));
        let worker = server.workers()[0];
        proc::freeze(worker);
        // Both are there when the worker looks; the new one may be seen first.
        let mut c = server.connect();
        c.patience(SOON);
        c.send_command("slot").unwrap();
        a.send_command("slot").unwrap();
        proc::signal(worker, libc::SIGCONT);
        assert_eq!(a.answer(), Ok("0".into()), "{mode:?}");
        assert_eq!(c.answer(), Ok("0".into()), "{mode:?}");
        assert_eq!(open(&[&a, &b, &c]), [true, false, true], "{mode:?}");
        drop((a, b, c));
        server.stop();
    }
}

#[test]
fn a_client_waits_for_a_request_in_progress_and_gets_the_first_place_that_becomes_idle() {
    for mode in Mode::ALL {
        // Nothing else wakes the master.
        let start = full_at(2, mode).workers(1).set("control", "off").set("header-timeout", "1m");
        let server = start.start();
        let mut half = several(&server, 2);
        half.iter_mut().for_each(|c| c.send(b"GET /slot HTTP/1.1\r\n").unwrap());
        server.has_read();
        let mut waits = waits(&server);
        half[1].send(b"Host: t\r\n\r\n").unwrap();
        assert_eq!(half[1].answer(), Ok("0".into()), "{mode:?}");
        assert_eq!(waits.answer(), Ok("0".into()), "{mode:?}");
        wait_until("its place is taken", || !half[1].is_open());
        half[0].send(b"Host: t\r\n\r\n").unwrap();
        assert_eq!(half[0].answer(), Ok("0".into()), "{mode:?}");
        drop((half, waits));
        server.stop();
    }
}

#[test]
fn a_handler_that_takes_long_gives_its_whole_answer() {
    for mode in Mode::ALL {
        let server = full_at(2, mode).workers(1).start();
        let other = idle(&server);
        let mut slow = idle(&server);
        slow.send_command("gate g").unwrap();
        wait_until("the handler runs", || server.dir.at_gate("g") == 1);
        let mut waits = waits(&server);
        server.dir.make("g");
        assert_eq!(slow.answer(), Ok("gate".into()), "{mode:?}");
        assert_eq!(waits.answer(), Ok("0".into()), "{mode:?}");
        assert_eq!(open(&[&slow, &other, &waits]), [true, false, true], "{mode:?}");
        drop((slow, other, waits));
        server.stop();
    }
}

/// Answers with as many bytes as the path says; `/up` becomes a stream that echoes.
const SIZES: &str = r#"
    #include <prefork.h>
    #include <stdio.h>
    #include <string.h>
    static char bytes[16 << 20];
    static int start(prefork_worker *worker, void **state)
    {
        (void)worker, (void)state;
        memset(bytes, 'x', sizeof bytes);
        return 0;
    }
    static void on_request(prefork_request *req, prefork_response *res, void *state)
    {
        prefork_slice path = prefork_request_path(req);
        unsigned long size = 0;
        char text[64];
        (void)state;
        snprintf(text, sizeof text, "%.*s", (int)path.len, path.data);
        if (!strcmp(text, "/up"))
            prefork_response_upgrade(res, "echo");
        else if (sscanf(text, "/%lu", &size) == 1)
            prefork_response_body_static(res, bytes, size);
        else
            prefork_response_body(res, "0", 1);
    }
    static void on_data(prefork_conn *conn, void *state)
    {
        prefork_slice in = prefork_conn_data(conn);
        (void)state;
        prefork_conn_write(conn, in.data, in.len);
        prefork_conn_consume(conn, in.len);
        if (prefork_conn_at_end(conn))
            prefork_conn_close(conn);
    }
    PREFORK_MODULE(.worker_start = start, .on_request = on_request, .on_data = on_data)
"#;

/// A client whose kernel takes little until it reads.
fn slow_reader(server: &Server) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    socket.connect(&server.tcp().into()).unwrap();
    let socket = TcpStream::from(socket);
    socket.set_read_timeout(Some(SOON)).unwrap();
    socket
}

#[track_caller]
fn read_head(client: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        client.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    String::from_utf8(head).unwrap()
}

/// Reads an answer with a body of this size, and checks each byte of that.
#[track_caller]
fn read_answer(client: &mut TcpStream, size: usize) {
    let head = read_head(client);
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    let mut body = vec![0; size];
    client.read_exact(&mut body).unwrap();
    assert!(body.iter().all(|b| *b == b'x'));
}

#[test]
fn an_answer_arrives_whole_however_slowly_it_is_read() {
    // The second one is all with the kernel soon, which has no reader for it.
    for size in [16 << 20, 300_000] {
        for mode in Mode::ALL {
            let start = full_at(1, mode).workers(1).set("max-pending", "32M");
            let server = start.module(handler::compile(SIZES, &[])).start();
            let mut slow = slow_reader(&server);
            let request = format!("GET /{size} HTTP/1.1\r\nHost: t\r\n\r\n");
            slow.write_all(request.as_bytes()).unwrap();
            let mut waits = waits(&server);
            // A reset that follows this would destroy what is on its way.
            slow.write_all(request.as_bytes()).unwrap();
            read_answer(&mut slow, size);
            read_answer(&mut slow, size);
            assert_eq!(waits.answer(), Ok("0".into()), "{mode:?} {size}");
            drop((slow, waits));
            server.stop();
        }
    }
}

#[test]
fn streams_are_not_closed_for_it() {
    for mode in Mode::ALL {
        let start = full_at(3, mode).workers(1);
        let server = start.module(handler::compile(SIZES, &[])).start();
        let mut stream = TcpStream::connect(server.tcp()).unwrap();
        stream.set_read_timeout(Some(SOON)).unwrap();
        let request = "GET /up HTTP/1.1\r\nHost: t\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n";
        stream.write_all(request.as_bytes()).unwrap();
        let head = read_head(&mut stream);
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        let clients = several(&server, 6);
        assert_eq!(clients.iter().filter(|c| c.is_open()).count(), 2, "{mode:?}");
        let mut echo = [0; 5];
        stream.write_all(b"hello").unwrap();
        stream.read_exact(&mut echo).unwrap();
        assert_eq!(&echo, b"hello", "{mode:?}");
        drop((clients, stream));
        server.stop();
    }
}

#[test]
fn a_burst_larger_than_what_is_idle_is_answered() {
    for mode in Mode::ALL {
        let server = full_at(4, mode).workers(2).set("header-timeout", "1m").start();
        let old = several(&server, 8);
        let mut half = server.connect();
        half.patience(SOON);
        half.send(b"GET /slot HTTP/1.1\r\n").unwrap();
        let burst = at_once(60, |_| {
            let mut client = server.connect();
            client.patience(SOON);
            let answer = client.ask("slot");
            (client, answer)
        });
        for (_, answer) in &burst {
            assert!(answer.is_ok(), "{mode:?}: {answer:?}");
        }
        half.send(b"Host: t\r\n\r\n").unwrap();
        assert!(half.answer().is_ok(), "{mode:?}");
        drop((old, burst, half));
        server.stop();
    }
}

#[test]
fn new_clients_are_answered_beside_some_that_are_busy_all_the_time() {
    for mode in Mode::ALL {
        let server = full_at(8, mode).workers(2).start();
        let old = several(&server, 16);
        let busy = Load::keep(server.address(), server.style, 3, "slot");
        busy.go_on_for(300);
        let new = server.load(3, "slot");
        new.go_on_for(600);
        let tally = new.stop();
        assert!(tally.faults.is_empty(), "{mode:?}: {tally:?}");
        busy.stop();
        drop(old);
        server.stop();
    }
}

#[test]
fn a_worker_whose_descriptors_are_limited_makes_room_too() {
    for mode in Mode::ALL {
        let start = Start::new(Style::Request).workers(1).accept(mode);
        let server = start.through(&["prlimit", "--nofile=80:80"]).start();
        let clients = several(&server, 60);
        let left = clients.iter().filter(|c| c.is_open()).count();
        assert!((10..20).contains(&left), "{mode:?}: {left}");
        drop(clients);
        server.stop();
    }
}

#[test]
fn a_worker_whose_descriptors_run_out_makes_room_too() {
    for mode in Mode::ALL {
        let server = Start::new(Style::Request).workers(1).accept(mode).start();
        let worker = server.workers()[0];
        let mut clients = Vec::new();
        for limit in [64, 48] {
            proc::limit(worker, "nofile", limit);
            // It is read so often. Some connections have numbers beyond it then.
            comes_true(Duration::from_millis(150), || false);
            clients.extend(several(&server, 100));
            assert!(proc::descriptors(worker).len() < limit as usize, "{mode:?}");
            let left = clients.iter().filter(|c| c.is_open()).count();
            assert!(left >= 5, "{mode:?}: {left}");
            clients.retain(Client::is_open);
            clients.iter_mut().for_each(|c| assert!(c.ask("slot").is_ok(), "{mode:?}"));
        }
        drop(clients);
        server.stop();
    }
}

#[test]
fn reloads_move_idle_connections_while_new_clients_come() {
    for mode in Mode::ALL {
        let mut server = full_at(6, mode).workers(2).start();
        server.may_say(util::RELOAD);
        let mut clients = several(&server, 12);
        let new = server.load(2, "slot");
        for _ in 0..4 {
            new.go_on_for(50);
            server.reload();
            for client in &mut clients {
                // It may have been closed for a new one, but not in an answer.
                if !matches!(client.ask("slot"), Ok(_) | Err(Fault::Closed | Fault::Reset)) {
                    panic!("{mode:?}");
                }
            }
            clients.retain(Client::is_open);
            clients.extend(several(&server, 12 - clients.len()));
        }
        let tally = new.stop();
        assert!(tally.faults.is_empty(), "{mode:?}: {tally:?}");
        drop(clients);
        server.stop();
    }
}

#[test]
fn fewer_workers_close_what_has_been_idle_longest() {
    let mut server = full_at(4, Mode::Master).workers(2).start();
    let mut clients = several(&server, 8);
    server.signal(libc::SIGTTOU);
    server.scaled_to(1);
    wait_until("one worker is left", || server.slots() == [0]);
    wait_until("it has what it may have", || clients.iter().filter(|c| c.is_open()).count() == 4);
    clients.retain(Client::is_open);
    clients.iter_mut().for_each(|c| assert_eq!(c.ask("slot"), Ok("0".into())));
    drop(clients);
    server.stop();
}

#[test]
fn a_stop_answers_clients_for_whom_idle_connections_make_room() {
    for mode in Mode::ALL {
        let server = full_at(2, mode).workers(1).start();
        let old = several(&server, 2);
        let worker = server.workers()[0];
        proc::freeze(worker);
        let mut clients: Vec<_> = (0..3).map(|_| server.connect()).collect();
        clients.iter_mut().for_each(|c| c.send_command("slot").unwrap());
        server.signal(libc::SIGTERM);
        proc::signal(worker, libc::SIGCONT);
        for client in &mut clients {
            client.patience(SOON);
            assert_eq!(client.answer(), Ok("0".into()), "{mode:?}");
        }
        drop((old, clients));
        server.ends();
    }
}

#[test]
fn an_idle_server_that_is_full_sleeps() {
    for mode in Mode::ALL {
        let server = full_at(2, mode).workers(2).start();
        let clients = several(&server, 8);
        comes_true(Duration::from_millis(300), || false);
        let before: Vec<_> =
            server.workers().iter().map(|&pid| proc::status(pid, "voluntary_ctxt_switches")).collect();
        comes_true(Duration::from_secs(1), || false);
        let after: Vec<_> =
            server.workers().iter().map(|&pid| proc::status(pid, "voluntary_ctxt_switches")).collect();
        assert_eq!(before, after, "{mode:?}");
        drop(clients);
        server.stop();
    }
}
