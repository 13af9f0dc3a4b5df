//! The life of a connection: deadlines, drains, half-closed and lingering clients.

use super::*;
use crate::worker::http::closing::LINGER;
use std::io::ErrorKind;

const GET: &[u8] = b"GET /hello HTTP/1.1\r\nHost: a\r\n\r\n";

fn late(b: &mut Bench) {
    b.call(|engine, fd, conn, cx| engine.on_deadline(fd, conn, cx));
}

#[test]
fn a_silent_connection_ends_without_a_word() {
    let mut b = Bench::new();
    b.readable(false);
    assert_eq!(b.deadline, Some(Deadline::Header));
    assert!(b.conn.is_idle());
    late(&mut b);
    assert_eq!(b.receive(), (vec![], true));
}

#[test]
fn an_unfinished_request_gets_a_408() {
    for (request, deadline) in [
        (&b"GET / HT"[..], Deadline::Header),
        (b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\na", Deadline::Body),
        (b"PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\na", Deadline::Body),
    ] {
        let mut b = Bench::new();
        b.send(request);
        assert_eq!(b.deadline, Some(deadline));
        late(&mut b);
        let (bytes, closed) = b.receive();
        assert!(bytes.starts_with(b"HTTP/1.1 408 ") && closed);
        assert_eq!(b.deadline, Some(Deadline::Linger));
        late(&mut b);
        assert!(b.server.is_none());
    }
}

#[test]
fn a_deadline_of_an_earlier_head_is_not_that_of_the_next() {
    let mut b = Bench::new();
    b.send(b"GET /hello HT");
    b.now += 9_000;
    b.send(b"TP/1.1\r\nHost: a\r\n\r\nGET /hello HT");
    b.now += 1_000;
    late(&mut b);
    assert_eq!(b.deadline, Some(Deadline::Header));
    b.now += 9_000;
    late(&mut b);
    assert_eq!(statuses(&b.text()), ["200", "408"]);
}

#[test]
fn a_client_that_reads_nothing_is_given_up() {
    let mut b = Bench::new();
    b.send(b"GET /big HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(b.deadline, Some(Deadline::Write));
    assert!(!b.conn.is_idle());
    late(&mut b);
    assert!(b.server.is_none());
}

#[test]
fn a_draining_worker_announces_the_end() {
    let mut b = Bench::new();
    b.send(b"PUT /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\na");
    b.draining = true;
    assert_eq!(b.deadline, Some(Deadline::Body));
    b.send(b"b");
    let (bytes, closed) = b.receive();
    assert!(String::from_utf8_lossy(&bytes).contains("Connection: close\r\n") && closed);
}

#[test]
fn a_client_that_ended_its_side_gets_its_answers() {
    let mut b = Bench::new();
    b.client.write_all(&GET.repeat(3)).unwrap();
    b.end();
    let (bytes, closed) = b.receive();
    assert_eq!(statuses(&String::from_utf8_lossy(&bytes)).len(), 3);
    assert!(closed && b.server.is_none());
    let mut b = Bench::new();
    b.send(b"GET / HTTP/1.1\r\n");
    b.end();
    assert_eq!(statuses(&b.text()), ["400"]);
    assert!(b.server.is_none());
    let mut b = Bench::new();
    b.end();
    assert_eq!(b.receive(), (vec![], true));
}

#[test]
fn a_refused_client_may_continue_to_send_for_a_while() {
    let mut b = Bench::new();
    b.send(b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999\r\n\r\n");
    for _ in 0..100 {
        assert!(b.client.write_all(&[b'x'; 10_000]).is_ok());
        b.readable(false);
    }
    assert_eq!(b.deadline, Some(Deadline::Linger));
    let (bytes, closed) = b.receive();
    assert!(bytes.starts_with(b"HTTP/1.1 413 ") && closed);
    b.end();
    assert!(b.server.is_none());
    // The next connection sees nothing of the dropped bytes.
    let (server, client) = UnixStream::pair().unwrap();
    client.set_nonblocking(true).unwrap();
    (b.server, b.client, b.conn) = (Some(server), client, HttpConn::default());
    b.send(GET);
    assert_eq!(statuses(&b.text()), ["200"]);
}

#[test]
fn a_refused_client_that_does_not_stop_sending_is_given_up_after_a_time_however_much_it_sends() {
    let mut b = Bench::new();
    b.now = crate::sys::time::Time::now().as_millis();
    let give_up = b.now + LINGER.as_millis() as u64;
    b.send(b"?\n");
    let mut sent = 0;
    while sent < 100 << 20 {
        match b.client.write(&[b'x'; 65_536]) {
            Ok(n) => sent += n,
            Err(e) => assert_eq!(e.kind(), ErrorKind::WouldBlock),
        }
        b.readable(false);
    }
    assert_eq!(b.deadline, Some(Deadline::Linger));
    b.now = give_up - 1000;
    b.send(b"x");
    assert!(b.server.is_some());
    b.now = give_up + 1000;
    b.send(b"x");
    assert!(b.server.is_none());
}

#[test]
fn a_connection_that_the_client_ends_lingers_only_if_more_has_come() {
    let close: &[u8] = b"GET /hello HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    let mut b = Bench::new();
    b.send(close);
    assert!(b.server.is_none());
    let mut b = Bench::new();
    b.send(&[close, b"\r\n"].concat());
    assert_eq!(b.deadline, Some(Deadline::Linger));
    let (bytes, ended) = b.receive();
    assert!(bytes.ends_with(b"hello\n") && ended);
    b.end();
    assert!(b.server.is_none());
    // What comes after a large response could still reset it.
    let mut b = Bench::new();
    b.send(b"GET /big HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    assert_eq!(b.receive().0.iter().filter(|byte| **byte == b'x').count(), 3_000_000);
    assert_eq!(b.deadline, Some(Deadline::Linger));
    // Also if the handler has sent all of it.
    let write_all = |_: &Request<'_>, res: &mut Response| res.write(&[b'x'; 100_000]).unwrap();
    let mut b = Bench::with(Config::default(), http(write_all));
    b.send(b"GET / HTTP/1.0\r\n\r\n");
    assert_eq!(b.receive().0.iter().filter(|byte| **byte == b'x').count(), 100_000);
    assert_eq!(b.deadline, Some(Deadline::Linger));
}

#[test]
fn a_pipelining_client_yields_to_others() {
    let mut b = Bench::new();
    b.client.write_all(&GET.repeat(REQUESTS * 2 + 1)).unwrap();
    let mut turns = 0;
    let mut idle = false;
    while !idle {
        let Some(server) = &b.server else { panic!() };
        let mut cx = Context {
            handler: &mut *b.handler,
            config: &b.config,
            page: b.page,
            now: &mut Time::from_millis(b.now),
            draining: false,
        };
        turns += 1;
        let before = b.page.get(Word::Requests);
        idle = !matches!(b.engine.on_readable(server.as_fd(), 0, &mut b.conn, false, &mut cx), Next::Again);
        assert!(b.page.get(Word::Requests) - before <= REQUESTS as u64);
    }
    assert_eq!(turns, 3);
    assert_eq!(statuses(&b.text()).len(), REQUESTS * 2 + 1);
}

#[test]
fn a_large_body_arrives_whole() {
    let mut b = Bench::new();
    let body = vec![b'b'; 1 << 20];
    b.send(format!("PUT /echo HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", body.len()).as_bytes());
    for part in body.chunks(50_000) {
        b.send(part);
    }
    b.send(GET);
    let text = b.text();
    assert_eq!(statuses(&text), ["200", "200"]);
    assert_eq!(text.matches('b').count(), body.len());
    assert!(b.conn.is_idle());
}

#[test]
fn what_is_refused_is_counted_once() {
    for request in [
        &b"nonsense\r\n\r\n"[..],
        b"GET / HTTP/1.1\r\n\r\n",
        b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\n\r\n",
    ] {
        let mut b = Bench::new();
        b.send(request);
        assert!(b.receive().1);
        assert_eq!((b.page.get(Word::Requests), b.page.get(Word::Errors)), (0, 1));
    }
    let mut b = Bench::new();
    b.send(b"GET / HT");
    late(&mut b);
    assert_eq!((b.page.get(Word::Requests), b.page.get(Word::Errors)), (0, 1));
    let mut b = Bench::new();
    b.client.write_all(b"GET / HT").unwrap();
    b.client.shutdown(std::net::Shutdown::Write).unwrap();
    b.readable(true);
    assert_eq!((b.page.get(Word::Requests), b.page.get(Word::Errors)), (0, 1));
}

#[test]
fn a_response_that_has_failed_and_is_not_read_is_counted_once() {
    for fails in [false, true] {
        let mut b = Bench::with(
            Config::default(),
            http(move |_: &Request<'_>, res: &mut Response| {
                let bytes = vec![b'z'; 4 << 20];
                res.write(&bytes).unwrap();
                if fails {
                    res.fail();
                }
            }),
        );
        b.client.write_all(GET).unwrap();
        b.readable(false);
        assert_eq!(b.deadline, Some(Deadline::Write));
        late(&mut b);
        assert_eq!((b.page.get(Word::Requests), b.page.get(Word::Errors)), (1, 1), "{fails}");
    }
}
