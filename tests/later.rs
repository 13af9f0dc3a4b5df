//! Responses that a handler finishes after its callback has returned: from callbacks of other connections, messages and drains, and
//! what becomes of them when somebody leaves.
#![allow(clippy::unwrap_used)]

mod util;

use std::time::{Duration, Instant};
use util::handler::Mode;
use util::later::{FULL, GONE, LATE, UNKNOWN, ask, get, is_kept, keep, start, tell};
use util::random::Random;
use util::{Client, Fault, comes_true, proc, wait_until};

/// The exit code of a stop that had to cut connections.
const CUT: i32 = 6;

fn events(by: &mut Client) -> String {
    ask(by, "/gone")
}

#[test]
fn a_response_is_finished_by_another_connections_callback() {
    let server = start(1).start();
    let mut by = server.connect();
    let mut client = keep(&server, &mut by, "a");
    assert!(!comes_true(Duration::from_millis(100), || client.has_bytes()));
    for what in ["status/201", "field/yes", "body/hello", "end"] {
        assert_eq!(tell(&mut by, "a", what), 0, "{what}");
    }
    let answer = client.http_answer().unwrap();
    assert_eq!((answer.status, answer.body.as_str()), (201, "hello"));
    assert!(answer.head.contains("X-Field: yes\r\n"));
    // Afterwards the connection is one like others.
    assert_eq!(client.ask("refused"), Ok("1".into()));

    let mut client = keep(&server, &mut by, "b");
    assert_eq!(tell(&mut by, "b", "file/"), 0);
    assert_eq!(tell(&mut by, "b", "write/x"), LATE);
    assert_eq!(tell(&mut by, "b", "flush"), LATE);
    assert_eq!(tell(&mut by, "b", "end"), 0);
    assert!(client.http_answer().unwrap().head.contains("Content-Length: 100000\r\n"));

    let mut client = keep(&server, &mut by, "c");
    assert_eq!(tell(&mut by, "c", "fail"), 0);
    assert_eq!(tell(&mut by, "c", "end"), 0);
    assert_eq!(client.http_answer().unwrap().status, 500);
    assert_eq!(client.ask("refused"), Ok("1".into()));

    let mut client = keep(&server, &mut by, "d");
    for part in ["one ", "two ", "three"] {
        assert_eq!(tell(&mut by, "d", &format!("write/{}", part.trim())), 0);
        client.wait_for_bytes().unwrap_or_else(|e| panic!("{part}: {e:?}"));
        client.gather();
    }
    assert_eq!(tell(&mut by, "d", "body/x"), LATE);
    assert_eq!(tell(&mut by, "d", "end"), 0);
    assert_eq!(client.http_answer().unwrap().body, "onetwothree");

    let mut client = keep(&server, &mut by, "e");
    for what in ["write/part", "fail", "end"] {
        assert_eq!(tell(&mut by, "e", what), 0);
    }
    let rest = String::from_utf8(client.rest().unwrap()).unwrap();
    assert!(rest.ends_with("\r\n\r\n4\r\npart\r\n"), "{rest}");

    let mut client = keep(&server, &mut by, "f");
    assert_eq!(tell(&mut by, "f", "close"), 0);
    assert_eq!(tell(&mut by, "f", "finish/last"), 0);
    assert!(client.http_answer().unwrap().head.contains("Connection: close\r\n"));
    assert_eq!(client.rest(), Ok(vec![]));
    server.stop();
}

#[test]
fn a_response_may_be_kept_and_finished_in_the_same_callback() {
    let server = start(1).start();
    let mut client = server.connect();
    for (what, status, body) in [
        ("body/at-once", 200, "at-once"),
        ("write/at-once", 200, "at-once"),
        ("end", 200, ""),
        ("fail", 500, "500"),
    ] {
        get(&mut client, &format!("/same/{what}"));
        let answer = client.http_answer().unwrap();
        assert_eq!(answer.status, status, "{what}");
        assert!(answer.body.starts_with(body), "{what}");
        assert_eq!(answer.head.contains("X-Before: yes"), status == 200);
    }
    // Thousands at once do not begin within one another.
    let n = 20_000;
    let mut half = client.half();
    std::thread::scope(|scope| {
        let requests = "GET /same/body/x HTTP/1.1\r\nHost: t\r\n\r\n".repeat(n);
        scope.spawn(move || half.send(requests.as_bytes()).unwrap());
        (0..n).for_each(|_| assert_eq!(client.http_answer().unwrap().body, "x"));
    });
    server.stop();
}

#[test]
fn responses_are_finished_by_messages_whoever_accepts() {
    for mode in Mode::ALL {
        let server = start(2).accept(mode).start();
        let mut client = server.connect();
        get(&mut client, "/keep/a");
        // Somebody in the other worker.
        let mut others = Vec::new();
        wait_until("the other worker says so", || {
            let mut other = server.connect();
            get(&mut other, "/say/a");
            assert_eq!(other.http_answer().unwrap().body, "0");
            others.push(other);
            comes_true(Duration::from_millis(20), || client.has_bytes())
        });
        let slot: u32 = client.http_answer().unwrap().body.parse().unwrap();
        assert!(slot < 2, "{mode:?}");
        server.stop();
    }
}

#[test]
fn pipelined_requests_wait_for_a_response_that_is_kept() {
    let server = start(1).start();
    let mut by = server.connect();
    let mut client = server.connect();
    client
        .send(b"GET /refused HTTP/1.1\r\nHost: t\r\n\r\nGET /keep/a HTTP/1.1\r\nHost: t\r\n\r\nGET /refused HTTP/1.1\r\nHost: t\r\n\r\nGET /keep/b HTTP/1.0\r\n\r\n")
        .unwrap();
    // What comes before it does not wait for it.
    assert_eq!(client.http_answer().unwrap().body, "1");
    is_kept(&mut by, "a");
    assert_eq!(tell(&mut by, "b", "end"), UNKNOWN);
    assert_eq!(tell(&mut by, "a", "finish/first"), 0);
    assert_eq!(client.http_answer().unwrap().body, "first");
    assert_eq!(client.http_answer().unwrap().body, "1");
    wait_until("the next one is kept", || tell(&mut by, "b", "write/until") == 0);
    assert_eq!(tell(&mut by, "b", "finish/x"), 0);
    let rest = String::from_utf8(client.rest().unwrap()).unwrap();
    assert!(rest.contains("Connection: close\r\n\r\nuntil") && !rest.contains("chunked"), "{rest}");
    // Not read beyond a bound, and not lost.
    let mut client = keep(&server, &mut by, "c");
    let request = b"GET /refused HTTP/1.1\r\nHost: t\r\nX: yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy\r\n\r\n";
    let n = 100_000;
    std::thread::scope(|scope| {
        let mut half = client.half();
        half.patience(Duration::from_secs(60));
        scope.spawn(move || half.send(&request.repeat(n)).unwrap());
        std::thread::sleep(Duration::from_millis(300));
        let size = proc::status(server.workers()[0], "VmRSS");
        let size: u64 = size.trim_end_matches(" kB").trim().parse().unwrap();
        assert!(size < 40_000, "{size} kB");
        assert_eq!(tell(&mut by, "c", "finish/x"), 0);
        assert_eq!(client.http_answer().unwrap().body, "x");
        (0..n).for_each(|_| assert_eq!(client.http_answer().unwrap().body, "1"));
    });
    server.stop();
}

#[test]
fn a_head_request_gets_the_head_alone() {
    let server = start(1).start();
    let mut by = server.connect();
    for (what, field) in
        [("body/hello", "Content-Length: 5\r\n"), ("write/hello", "Transfer-Encoding: chunked\r\n")]
    {
        let mut client = server.connect();
        client.send(b"HEAD /keep/h HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n").unwrap();
        is_kept(&mut by, "h");
        assert_eq!(tell(&mut by, "h", what), 0);
        assert_eq!(tell(&mut by, "h", "end"), 0);
        let rest = String::from_utf8(client.rest().unwrap()).unwrap();
        assert!(rest.contains(field) && rest.ends_with("\r\n\r\n"), "{rest}");
    }
    server.stop();
}

#[test]
fn an_upgrade_is_decided_later() {
    let server = start(1).start();
    let mut by = server.connect();
    let mut client = server.connect();
    client
        .send(b"GET /keep/u HTTP/1.1\r\nHost: t\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\nearly")
        .unwrap();
    is_kept(&mut by, "u");
    assert_eq!(tell(&mut by, "u", "upgrade"), 0);
    assert_eq!(tell(&mut by, "u", "end"), 0);
    client.send(b" and late").unwrap();
    client.end().unwrap();
    let rest = String::from_utf8(client.rest().unwrap()).unwrap();
    assert!(rest.starts_with("HTTP/1.1 101 ") && rest.ends_with("\r\n\r\nearly and late"), "{rest}");
    server.stop();
}

#[test]
fn a_response_that_is_forgotten_is_a_504_and_no_other_is_harmed() {
    let mut server = start(1).set("response-timeout", "700ms").set("timeout", "200ms").start();
    server.says("gone a");
    server.says("gone b");
    let mut by = server.connect();
    let begun = Instant::now();
    let mut client = keep(&server, &mut by, "a");
    client.send(b"GET /refused HTTP/1.1\r\nHost: t\r\n\r\n").unwrap();
    let mut other = keep(&server, &mut by, "b");
    assert_eq!(tell(&mut by, "b", "write/part"), 0);
    assert_eq!(client.http_answer().unwrap().status, 504);
    assert!(begun.elapsed() > Duration::from_millis(600));
    assert_eq!(client.http_answer().unwrap().body, "1");
    // What was written in part cannot be made another response.
    let rest = String::from_utf8(other.rest().unwrap()).unwrap();
    assert!(rest.ends_with("4\r\npart\r\n"), "{rest}");
    assert_eq!(events(&mut by), "gone a\ngone b\n");
    // The handles stay until they are ended.
    assert_eq!(tell(&mut by, "a", "body/x"), GONE);
    assert_eq!(tell(&mut by, "a", "end"), GONE);
    assert_eq!(tell(&mut by, "b", "write/x"), GONE);
    assert_eq!(tell(&mut by, "b", "end"), GONE);
    // In HTTP/1.0 an end in order would look like that of the body.
    let mut old = server.connect();
    old.send(b"GET /keep/c HTTP/1.0\r\n\r\n").unwrap();
    is_kept(&mut by, "c");
    assert_eq!(tell(&mut by, "c", "write/part"), 0);
    assert_eq!(old.rest(), Err(Fault::Reset));
    assert_eq!(tell(&mut by, "c", "end"), GONE);
    server.says("gone c");
    server.stop();
}

#[test]
fn a_handler_that_writes_in_time_may_take_any_time() {
    let server = start(1).set("response-timeout", "1s").start();
    let mut by = server.connect();
    let mut client = keep(&server, &mut by, "a");
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_millis(2500) {
        assert_eq!(tell(&mut by, "a", "write/p"), 0);
        std::thread::sleep(Duration::from_millis(100));
    }
    assert_eq!(tell(&mut by, "a", "end"), 0);
    let body = client.http_answer().unwrap().body;
    assert!(body.len() > 5 && body.bytes().all(|b| b == b'p'));
    server.stop();
}

#[test]
fn a_client_that_leaves_is_told_once() {
    let server = start(1).start();
    let mut by = server.connect();
    // It has ended its side, and gets what it has asked for.
    let mut half = keep(&server, &mut by, "half");
    half.end().unwrap();
    wait_until("the handler is told", || events(&mut by) == "gone half\n");
    assert_eq!(tell(&mut by, "half", "finish/still"), 0);
    let rest = String::from_utf8(half.rest().unwrap()).unwrap();
    assert!(rest.ends_with("\r\n\r\nstill"), "{rest}");
    keep(&server, &mut by, "reset").reset();
    wait_until("the handler is told", || events(&mut by) == "gone half\ngone reset\n");
    assert_eq!(tell(&mut by, "reset", "write/x"), GONE);
    assert_eq!(tell(&mut by, "reset", "end"), GONE);
    // That of a client which has closed is seen when something is sent to it.
    drop(keep(&server, &mut by, "closed"));
    wait_until("the handler is told", || events(&mut by).ends_with("gone closed\n"));
    assert_eq!(tell(&mut by, "closed", "write/x"), 0);
    wait_until("it is known to be closed", || tell(&mut by, "closed", "write/x") == GONE);
    assert_eq!(tell(&mut by, "closed", "end"), GONE);
    // Also if it has sent more.
    let mut more = keep(&server, &mut by, "more");
    get(&mut more, "/refused");
    more.end().unwrap();
    wait_until("the handler is told", || events(&mut by).ends_with("gone more\n"));
    assert_eq!(tell(&mut by, "more", "finish/x"), 0);
    assert_eq!(more.http_answer().unwrap().body, "x");
    assert_eq!(more.http_answer().unwrap().body, "1");
    assert_eq!(more.rest(), Ok(vec![]));
    assert_eq!(events(&mut by).lines().count(), 4);
    let mut server = server;
    server.may_say("gone ");
    server.stop();
}

#[test]
fn a_client_that_sends_much_at_once_has_not_left() {
    let server = start(1).start();
    let mut by = server.connect();
    let mut client = server.connect();
    // More than one turn answers.
    let requests = "GET /refused HTTP/1.1\r\nHost: t\r\n\r\n".repeat(100);
    client.send(format!("{requests}GET /keep/a HTTP/1.1\r\nHost: t\r\n\r\n").as_bytes()).unwrap();
    (0..100).for_each(|_| assert_eq!(client.http_answer().unwrap().body, "1"));
    is_kept(&mut by, "a");
    assert_eq!(events(&mut by), "");
    assert_eq!(tell(&mut by, "a", "finish/x"), 0);
    assert_eq!(client.http_answer().unwrap().body, "x");
    client
        .send(b"GET /same/body/x HTTP/1.1\r\nHost: t\r\n\r\nGET /keep/b HTTP/1.1\r\nHost: t\r\n\r\n")
        .unwrap();
    assert_eq!(client.http_answer().unwrap().body, "x");
    is_kept(&mut by, "b");
    assert_eq!(events(&mut by), "");
    assert_eq!(tell(&mut by, "b", "finish/x"), 0);
    // One that has ended its side before its request is answered is told to have left.
    let mut client = server.connect();
    client.send(format!("{requests}GET /keep/c HTTP/1.1\r\nHost: t\r\n\r\n").as_bytes()).unwrap();
    client.end().unwrap();
    is_kept(&mut by, "c");
    wait_until("the handler is told", || events(&mut by) == "gone c\n");
    assert_eq!(tell(&mut by, "c", "finish/x"), 0);
    let mut server = server;
    server.says("gone c");
    server.stop();
}

#[test]
fn a_client_that_takes_nothing_is_reset_and_told() {
    let mut server = start(1).set("write-timeout", "500ms").set("response-timeout", "100ms").start();
    server.says("gone a");
    let mut by = server.connect();
    let mut client = keep(&server, &mut by, "a");
    assert_eq!(tell(&mut by, "a", "much/10000000"), 0);
    wait_until("the handler is told", || events(&mut by) == "gone a\n");
    assert_eq!(tell(&mut by, "a", "write/x"), GONE);
    assert_eq!(tell(&mut by, "a", "end"), GONE);
    assert_eq!(client.rest(), Err(Fault::Reset));
    server.stop();
}

#[test]
fn a_copy_of_the_worker_can_do_nothing_with_what_is_kept() {
    let server = start(1).start();
    let mut client = server.connect();
    get(&mut client, "/fork");
    assert_eq!(client.http_answer().unwrap().body, "refused");
    assert_eq!(client.ask("refused"), Ok("1".into()));
    server.stop();
}

#[test]
fn many_responses_are_kept_at_once() {
    let server = start(1).start();
    let mut by = server.connect();
    let mut random = Random::new(1);
    let mut clients: Vec<_> = (0..400)
        .map(|i| {
            let mut client = server.connect();
            get(&mut client, &format!("/keep/n{i}"));
            (i, client)
        })
        .collect();
    (0..400).for_each(|i| is_kept(&mut by, &format!("n{i}")));
    while !clients.is_empty() {
        let (i, mut client) = clients.swap_remove(random.below(clients.len() as u64) as usize);
        assert_eq!(tell(&mut by, &format!("n{i}"), &format!("finish/answer-{i}")), 0);
        assert_eq!(client.http_answer().unwrap().body, format!("answer-{i}"));
    }
    server.stop();
}

#[test]
fn a_connection_whose_response_is_kept_takes_a_place_and_is_not_closed_for_another() {
    for mode in Mode::ALL {
        let mut server = start(1)
            .accept(mode)
            .set("max-conns", "1")
            .set("response-timeout", "500ms")
            .set("idle-timeout", "100ms")
            .start();
        server.says("gone a");
        let mut first = server.connect();
        let begun = Instant::now();
        get(&mut first, "/keep/a");
        server.has_read();
        let mut second = server.connect();
        get(&mut second, "/refused");
        assert_eq!(second.http_answer().unwrap().body, "1");
        assert!(begun.elapsed() >= Duration::from_millis(450), "{mode:?}");
        assert_eq!(first.http_answer().unwrap().status, 504);
        server.stop();
    }
}

#[test]
fn a_stop_waits_for_responses_that_are_kept() {
    let server = start(2).start();
    let mut drained = server.connect();
    get(&mut drained, "/keep/drained");
    let mut client = server.connect();
    get(&mut client, "/keep/a");
    // Two in the same worker as the second, one of which is in the middle of a request.
    let mut by = loop {
        let mut by = server.connect();
        if tell(&mut by, "a", "status/202") == 0 {
            break by;
        }
    };
    by.send(b"GET /tell/a/finish/at-last HT").unwrap();
    server.has_read();
    server.signal(libc::SIGTERM);
    assert_eq!(drained.http_answer().unwrap().body, "drained");
    wait_until("new clients are refused", || server.refuses());
    assert!(!comes_true(Duration::from_millis(700), || client.has_bytes()));
    by.send(b"TP/1.1\r\nHost: t\r\n\r\n").unwrap();
    assert_eq!(by.http_answer().unwrap().body, "0");
    let answer = client.http_answer().unwrap();
    assert_eq!((answer.status, answer.body.as_str()), (202, "at-last"));
    assert!(answer.head.contains("Connection: close\r\n"));
    server.ends();
}

#[test]
fn a_stop_ends_at_its_deadline_whatever_is_kept() {
    let mut server = start(1).set("drain-timeout", "500ms").start();
    server.says("has ended at its deadline, and 1 connection with it");
    server.says("gone a");
    let mut by = server.connect();
    let mut client = keep(&server, &mut by, "a");
    server.signal(libc::SIGTERM);
    assert!(matches!(client.http_answer(), Err(Fault::Closed | Fault::Reset)));
    server.ends_with(CUT);
}

#[test]
fn a_reload_leaves_what_is_kept_to_the_old_worker() {
    let mut server = start(1).own_module().start();
    let old = server.workers()[0];
    server.says("reload to generation");
    let mut by = server.connect();
    let mut client = keep(&server, &mut by, "a");
    server.signal(libc::SIGHUP);
    wait_until("there is a new worker", || {
        server.workers().iter().any(|pid| *pid != old) && server.workers().len() == 2
    });
    wait_until("the new one answers", || {
        by = server.connect();
        get(&mut by, "/pid");
        by.http_answer().unwrap().body != old.to_string()
    });
    assert_eq!(tell(&mut by, "a", "end"), UNKNOWN);
    assert!(!client.has_bytes());
    get(&mut by, "/say/a");
    assert_eq!(by.http_answer().unwrap().body, "0");
    assert_eq!(client.http_answer().unwrap().body, "0");
    server.rests();
    server.stop();
}

#[test]
fn a_killed_worker_takes_what_it_keeps_with_it_and_nothing_else() {
    let mut server = start(2).start();
    server.says("died: SIGKILL; 10 connections in progress lost");
    server.may_say("lost");
    let mut clients: Vec<_> = (0..20)
        .map(|i| {
            let mut client = server.connect();
            get(&mut client, "/pid");
            let pid: i32 = client.http_answer().unwrap().body.parse().unwrap();
            get(&mut client, &format!("/keep/k{i}"));
            (i, pid, client)
        })
        .collect();
    server.has_read();
    let victim = clients[0].1;
    proc::signal(victim, libc::SIGKILL);
    server.replaces(victim);
    clients.retain_mut(|(_, pid, client)| {
        if *pid == victim {
            assert!(matches!(client.http_answer(), Err(Fault::Closed | Fault::Reset)));
        }
        *pid != victim
    });
    assert_eq!(clients.len(), 10);
    for (i, pid, mut client) in clients {
        let name = format!("k{i}");
        wait_until("its worker is found", || tell(&mut server.connect(), &name, "finish/saved") == 0);
        assert_eq!(client.http_answer().unwrap().body, "saved", "{pid}");
    }
    server.stop();
}

#[test]
fn workers_of_a_killed_master_end_what_they_keep_in_time() {
    let mut server = start(1).set("drain-timeout", "500ms").start();
    server.may_say("gone a");
    let mut by = server.connect();
    let mut client = keep(&server, &mut by, "a");
    proc::signal(server.pid, libc::SIGKILL);
    assert!(matches!(client.http_answer(), Err(Fault::Closed | Fault::Reset)));
    server.dies_out();
}

#[test]
fn over_a_unix_socket_it_is_the_same() {
    let start = start(1);
    let path = start.dir().file("s");
    let server = start.listen(format!("unix:{}", path.display())).start();
    let mut by = server.connect();
    let mut client = server.connect();
    get(&mut client, "/keep/a");
    is_kept(&mut by, "a");
    assert_eq!(tell(&mut by, "a", "finish/x"), 0);
    assert_eq!(client.http_answer().unwrap().body, "x");
    get(&mut client, "/keep/b");
    is_kept(&mut by, "b");
    drop(client);
    wait_until("the handler is told", || events(&mut by) == "gone b\n");
    assert_eq!(tell(&mut by, "b", "end"), GONE);
    let mut server = server;
    server.says("gone b");
    server.stop();
}

#[test]
fn what_has_no_room_is_refused_and_does_no_harm() {
    let server = start(1).set("max-pending", "1M").start();
    let mut by = server.connect();
    let mut client = keep(&server, &mut by, "a");
    let (mut taken, part) = (0, 500_000);
    let refused = loop {
        match tell(&mut by, "a", &format!("much/{part}")) {
            0 => taken += part,
            other => break other,
        }
    };
    assert_eq!(refused, FULL);
    assert_eq!(tell(&mut by, "a", "end"), 0);
    assert_eq!(client.http_answer().unwrap().body.len(), taken);
    server.stop();
}
