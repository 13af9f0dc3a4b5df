//! Handlers that decide after the head: whole bodies, bodies in pieces, refusals.

use super::responses::without_date;
use super::splits::{pieces, places, request};
use super::*;
use crate::event::Kind;
use crate::worker::http::Take;
use crate::worker::http::pieces::resume;
use proptest::prelude::*;
use std::cell::RefCell;

/// What happened to a handler, in order.
type Events = Rc<RefCell<Vec<String>>>;

/// A handler that decides by the path, or as it is told; it collects pieces, and answers as [`fixture`].
#[derive(Clone, Default)]
struct Uploads {
    take: Option<Take>,
    events: Events,
}

/// A request's value; its drop is an event.
struct Collected(Vec<u8>, Events);

impl Drop for Collected {
    fn drop(&mut self) {
        self.1.borrow_mut().push("released".into());
    }
}

impl Uploads {
    fn note(&self, event: impl Into<String>) {
        self.events.borrow_mut().push(event.into());
    }

    fn bench(&self) -> Bench {
        Bench::with(Config::default(), self.clone())
    }

    fn take_events(&self) -> String {
        std::mem::take(&mut *self.events.borrow_mut()).join(" ")
    }
}

impl Handler for Uploads {
    fn kind(&self) -> Kind {
        Kind::Request
    }

    fn takes_heads(&self) -> bool {
        true
    }

    fn on_head(&mut self, req: &Request<'_>, res: &mut Response) -> Take {
        self.note(format!("head:{}:{:?}", req.path(), req.length()));
        req.set_user(Collected(Vec::new(), Rc::clone(&self.events))).unwrap();
        assert!(req.body().is_empty());
        match req.path() {
            "/refuse" => {
                res.status(401).unwrap();
                res.body("no").unwrap();
                return Take::Refuse;
            }
            "/written" => {
                res.write(b"at once").unwrap();
                return Take::Pieces;
            }
            "/sent-and-failed" => {
                res.write(b"at once").unwrap();
                res.flush().unwrap();
                res.fail();
            }
            "/pause-head" => req.pause().unwrap(),
            "/panic-head" => panic!("as asked"),
            _ => {}
        }
        // Nobody gets this.
        if req.path() != "/sent-and-failed" {
            res.status(500).unwrap();
            res.header("X-Lost", "1").unwrap();
            res.body("lost").unwrap();
        }
        self.take.unwrap_or(Take::Pieces)
    }

    fn on_body(&mut self, req: &Request<'_>, piece: &[u8], last: bool) {
        self.note(format!("body:{}{}", piece.escape_ascii(), if last { ":last" } else { "" }));
        assert_eq!(req.header("host"), Some(&b"a"[..]));
        req.user::<Collected>().unwrap().0.extend_from_slice(piece);
        match req.path() {
            "/pause" => assert_eq!(req.pause().is_err(), last),
            "/stop" => assert_eq!(req.stop().is_err(), last),
            "/panic-body" => panic!("as asked"),
            _ => {}
        }
        if req.path().starts_with("/pause") {
            self.note(format!("id:{}", req.id()));
        }
    }

    fn on_request(&mut self, req: &Request<'_>, res: &mut Response) {
        self.note(format!("request:{}", req.path()));
        assert_eq!(req.pause(), Err(Refused::Late));
        let collected = std::mem::take(&mut req.user::<Collected>().unwrap().0);
        let body = [&collected, req.body()].concat();
        match req.path() {
            "/stop" => {
                res.status(413).unwrap();
                res.body(body).unwrap();
            }
            "/echo" => res.body(body).unwrap(),
            // An error that the handler returns is one of the closure's.
            "/fail" => res.fail(),
            _ => fixture(req, res).unwrap(),
        }
    }
}

/// The answers to what a client sends in these pieces, without any 100, and the number of requests.
fn talk<'a>(mut b: Bench, pieces: impl Iterator<Item = &'a [u8]>) -> (String, bool, u64, u64) {
    let (mut got, mut closed) = (Vec::new(), false);
    for piece in pieces.filter(|p| !p.is_empty()) {
        b.send(piece);
        let (bytes, end) = b.receive();
        got.extend_from_slice(&bytes);
        closed |= end;
    }
    b.end();
    got.extend_from_slice(&b.receive().0);
    let text = String::from_utf8_lossy(&got).replace("HTTP/1.1 100 Continue\r\n\r\n", "");
    (without_date(&text), closed, b.page.get(Word::Requests), b.page.get(Word::Errors))
}

fn post(path: &str, rest: &str) -> String {
    format!("POST {path} HTTP/1.1\r\nHost: a\r\n{rest}")
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn whole_or_in_pieces_the_answers_are_the_same(
        requests in proptest::collection::vec(request(), 1..5),
        cuts in proptest::collection::vec(0.0..1.0f64, 0..12),
    ) {
        let bytes = requests.concat().into_bytes();
        let cuts = places(&cuts, bytes.len());
        let plain = talk(Bench::new(), std::iter::once(&bytes[..]));
        for take in [Take::Whole, Take::Pieces] {
            let handler = Uploads { take: Some(take), ..Uploads::default() };
            for ways in 0..3 {
                let b = handler.bench();
                let got = match ways {
                    0 => talk(b, std::iter::once(&bytes[..])),
                    1 => talk(b, pieces(&bytes, &cuts)),
                    _ => talk(b, bytes.chunks(1)),
                };
                prop_assert_eq!(&got, &plain, "{:?}", take);
                let events = handler.take_events();
                // Each head once, each value released once, each answer to a head.
                let count = |what| events.matches(what).count();
                prop_assert_eq!(count("head:"), count("released"));
                prop_assert!(count("request:") <= count("head:"));
            }
        }
    }

    #[test]
    fn pieces_are_the_body_whatever_its_chunks_and_the_reads(
        chunks in proptest::collection::vec(proptest::collection::vec(1u8..255, 1..300), 0..8),
        sized in any::<bool>(),
        cuts in proptest::collection::vec(0.0..1.0f64, 0..12),
    ) {
        let body = chunks.concat();
        let mut bytes = if sized {
            post("/echo", &format!("Content-Length: {}\r\n\r\n", body.len())).into_bytes()
        } else {
            post("/echo", "Transfer-Encoding: chunked\r\n\r\n").into_bytes()
        };
        if sized {
            bytes.extend_from_slice(&body);
        } else {
            for chunk in &chunks {
                bytes.extend_from_slice(format!("{:x};a=b\r\n", chunk.len()).as_bytes());
                bytes.extend_from_slice(chunk);
                bytes.extend_from_slice(b"\r\n");
            }
            bytes.extend_from_slice(b"0\r\nT: r\r\n\r\n");
        }
        bytes.extend_from_slice(post("/hello", "\r\n").as_bytes());
        let mut cuts: Vec<usize> = cuts.into_iter().map(|c| (c * bytes.len() as f64) as usize).collect();
        cuts.sort_unstable();
        let handler = Uploads::default();
        let mut b = handler.bench();
        let mut got = Vec::new();
        for piece in pieces(&bytes, &cuts).filter(|p| !p.is_empty()) {
            b.send(piece);
            got.extend_from_slice(&b.receive().0);
        }
        prop_assert!(got.windows(body.len().max(1)).any(|w| w == body) || body.is_empty());
        let events = handler.take_events();
        prop_assert_eq!(events.matches(":last").count(), 2);
        prop_assert_eq!(events.matches("released").count(), 2);
        prop_assert_eq!(b.page.get(Word::Requests), 2);
        prop_assert!(b.conn.is_idle());
    }
}

#[test]
fn the_order_of_the_calls() {
    let handler = Uploads::default();
    let mut b = handler.bench();
    b.send(post("/echo", "Content-Length: 6\r\n\r\nab").as_bytes());
    b.send(b"cd");
    assert_eq!(b.deadline, Some(Deadline::Body));
    b.send(format!("ef{}", post("/hello", "\r\n")).as_bytes());
    assert_eq!(
        handler.take_events(),
        "head:/echo:Some(6) body:ab body:cd body:ef:last request:/echo released \
         head:/hello:Some(0) body::last request:/hello released"
    );
    assert!(b.text().ends_with("abcdefHTTP/1.1 200 OK\r\nDate: ") || b.conn.is_idle());
    b.send(post("/echo", "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n").as_bytes());
    b.send(b"0\r\n");
    b.send(b"\r\n");
    assert_eq!(handler.take_events(), "head:/echo:None body:abc body::last request:/echo released");
}

#[test]
fn a_refused_request_without_a_body_keeps_its_connection_and_another_ends_it_without_a_100() {
    let handler = Uploads::default();
    let mut b = handler.bench();
    b.send(format!("{}{}", post("/refuse", "\r\n"), post("/hello", "\r\n")).as_bytes());
    assert_eq!(statuses(&b.text()), ["401", "200"]);
    handler.take_events();
    for rest in [
        "Content-Length: 5\r\nExpect: 100-continue\r\n\r\n",
        "Transfer-Encoding: chunked\r\nExpect: 100-continue\r\n\r\n",
        "Content-Length: 60\r\n\r\nPOST /hello HTTP/1.1\r\nHost: a\r\n\r\n",
        "Content-Length: 5\r\n\r\nhello",
    ] {
        let mut b = handler.bench();
        b.send(post("/refuse", rest).as_bytes());
        let text = b.text();
        assert_eq!(statuses(&text), ["401"], "{rest}");
        assert!(text.contains("Connection: close\r\n"), "{rest}");
        assert_eq!(b.deadline, Some(Deadline::Linger), "{rest}");
        b.send(post("/hello", "\r\n").as_bytes());
        assert_eq!(b.text(), "");
        assert!(handler.take_events().starts_with("head:/refuse:"));
        assert_eq!((b.page.get(Word::Requests), b.page.get(Word::Errors)), (1, 0));
    }
}

#[test]
fn a_response_that_was_begun_with_the_head_is_the_answer() {
    let handler = Uploads::default();
    let mut b = handler.bench();
    b.send(post("/written", "Content-Length: 5\r\n\r\n").as_bytes());
    assert!(b.text().contains("at once"));
    assert_eq!(handler.take_events(), "head:/written:Some(5) released");
    assert_eq!(b.deadline, Some(Deadline::Linger));
}

#[test]
fn a_response_that_has_failed_with_the_head_is_cut_and_followed_by_none() {
    for (take, rest) in [(Take::Pieces, "Content-Length: 5\r\n\r\nhello"), (Take::Whole, "\r\n")] {
        let handler = Uploads { take: Some(take), ..Uploads::default() };
        let mut b = handler.bench();
        b.send(post("/sent-and-failed", rest).as_bytes());
        assert_eq!(statuses(&b.text()), ["200"]);
        assert!(handler.take_events().ends_with(" released"));
        assert_eq!((b.page.get(Word::Requests), b.page.get(Word::Errors)), (1, 1));
        b.send(post("/hello", "\r\n").as_bytes());
        assert_eq!(b.text(), "");
    }
}

#[test]
fn a_client_is_told_to_go_on_once_and_not_before_the_handler_wants_the_body() {
    let handler = Uploads::default();
    let mut b = handler.bench();
    b.send(post("/echo", "Content-Length: 4\r\nExpect: 100-continue\r\n\r\n").as_bytes());
    assert_eq!(b.text(), "HTTP/1.1 100 Continue\r\n\r\n");
    b.send(b"ab");
    assert_eq!(b.text(), "");
    b.send(b"cd");
    assert_eq!(statuses(&b.text()), ["200"]);
    handler.take_events();

    b.send(post("/pause-head", "Content-Length: 4\r\nExpect: 100-continue\r\n\r\n").as_bytes());
    assert_eq!((b.text().as_str(), b.deadline), ("", None));
    b.resume_paused();
    assert_eq!(b.text(), "HTTP/1.1 100 Continue\r\n\r\n");
    b.send(b"abcd");
    assert_eq!(statuses(&b.text()), ["200"]);
}

#[test]
fn a_paused_body_waits_without_a_deadline() {
    let handler = Uploads::default();
    let mut b = handler.bench();
    b.send(post("/pause", "Content-Length: 9\r\n\r\nabc").as_bytes());
    let events = handler.take_events();
    assert!(events.starts_with("head:/pause:Some(9) body:abc id:"), "{events}");
    let id: u64 = events.rsplit(':').next().unwrap().parse().unwrap();
    assert_eq!(b.deadline, None);
    b.send(b"def");
    assert_eq!(handler.take_events(), "");
    assert!(resume(id));
    assert!(resume(id));
    assert_eq!(b.touched.borrow().len(), 1);
    b.readable(false);
    assert!(handler.take_events().starts_with("body:def id:"));
    b.send(b"ghi");
    assert!(resume(id));
    b.readable(false);
    assert_eq!(handler.take_events(), format!("body:ghi:last id:{id} request:/pause released"));
    assert!(!resume(id));
    assert_eq!(statuses(&b.text()), ["200"]);
}

#[test]
fn a_client_that_is_reset_while_its_body_is_paused_is_let_go() {
    let handler = Uploads::default();
    let mut b = handler.bench();
    b.send(post("/pause", "Content-Length: 9\r\n\r\nabc").as_bytes());
    handler.take_events();
    let id = 1;
    drop(std::mem::replace(&mut b.client, UnixStream::pair().unwrap().0));
    b.readable(true);
    assert!(b.server.is_none());
    assert_eq!(handler.take_events(), "released");
    assert!(!resume(id));
    assert_eq!((b.page.get(Word::Requests), b.page.get(Word::Errors)), (0, 1));
}

#[test]
fn a_handler_that_wants_no_more_answers_at_once() {
    for rest in ["Content-Length: 9\r\n\r\nabc", "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n5\r\nx"] {
        let handler = Uploads::default();
        let mut b = handler.bench();
        b.send(post("/stop", rest).as_bytes());
        let text = b.text();
        assert_eq!(statuses(&text), ["413"]);
        assert!(text.contains("Connection: close\r\n"));
        assert_eq!(b.deadline, Some(Deadline::Linger));
        assert!(handler.take_events().ends_with("request:/stop released"));
    }
}

#[test]
fn what_is_broken_off_is_released_and_counted_once() {
    // The client ends.
    let handler = Uploads::default();
    let mut b = handler.bench();
    b.send(post("/echo", "Content-Length: 9\r\n\r\nabc").as_bytes());
    b.end();
    assert_eq!(statuses(&b.text()), ["400"]);
    assert!(handler.take_events().ends_with("body:abc released"));
    assert_eq!((b.page.get(Word::Requests), b.page.get(Word::Errors)), (0, 1));
    // The rest is malformed.
    let mut b = handler.bench();
    b.send(post("/echo", "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n").as_bytes());
    b.send(b"x");
    assert_eq!(statuses(&b.text()), ["400"]);
    assert!(handler.take_events().ends_with("body:abc released"));
    assert_eq!((b.page.get(Word::Requests), b.page.get(Word::Errors)), (0, 1));
    // It takes too long.
    let mut b = handler.bench();
    b.send(post("/echo", "Content-Length: 9\r\n\r\nabc").as_bytes());
    b.call(|engine, fd, conn, cx| engine.on_deadline(fd, conn, cx));
    assert_eq!(statuses(&b.text()), ["408"]);
    assert!(handler.take_events().ends_with("body:abc released"));
    assert_eq!((b.page.get(Word::Requests), b.page.get(Word::Errors)), (0, 1));
    // The worker drops it.
    let mut b = handler.bench();
    b.send(post("/echo", "Content-Length: 9\r\n\r\nabc").as_bytes());
    b.call(|_, _, _, _| Next::Close);
    assert!(handler.take_events().ends_with("body:abc released"));
    assert_eq!((b.page.get(Word::Requests), b.page.get(Word::Errors)), (0, 1));
}

#[test]
fn panics_cost_their_request_and_release_its_value() {
    for path in ["/panic-head", "/panic-body", "/panic"] {
        let handler = Uploads::default();
        let mut b = handler.bench();
        b.send(post(path, "Content-Length: 9\r\n\r\nabc").as_bytes());
        b.send(b"defghi");
        assert_eq!(statuses(&b.text()), ["500"], "{path}");
        assert!(handler.take_events().ends_with("released"), "{path}");
        assert_eq!((b.page.get(Word::Requests), b.page.get(Word::Errors)), (1, 1), "{path}");
    }
}

#[test]
fn the_limit_of_bodies_is_for_whole_ones() {
    let with = |take, body: &str| {
        let handler = Uploads { take: Some(take), ..Uploads::default() };
        let mut config = Config::default();
        config.limits.body = 4;
        let mut b = Bench::with(config, handler.clone());
        b.send(post("/echo", body).as_bytes());
        let text = b.text();
        assert!(handler.take_events().ends_with("released"));
        statuses(&text).concat()
    };
    for body in
        ["Content-Length: 5\r\n\r\nhello", "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"]
    {
        assert_eq!(with(Take::Whole, body), "413");
        assert_eq!(with(Take::Pieces, body), "200");
    }
}

#[test]
fn memory_is_bounded_whatever_the_size_of_the_body() {
    let handler = http_drops();
    let mut b = Bench::with(Config::default(), handler);
    b.send(post("/x", "Content-Length: 100000000\r\n\r\n").as_bytes());
    let block = vec![b'x'; 200_000];
    let mut most = 0;
    for _ in 0..50 {
        let _ = b.client.write(&block);
        b.readable(false);
        most = most.max(b.conn.input.as_ref().unwrap().buf.capacity());
    }
    assert!(most <= 64 * 1024 + 8 * 1024, "{most}");
}

/// A handler that takes pieces and does nothing with them.
fn http_drops() -> impl Handler {
    struct Drops;
    impl Handler for Drops {
        fn kind(&self) -> Kind {
            Kind::Request
        }
        fn takes_heads(&self) -> bool {
            true
        }
        fn on_head(&mut self, _: &Request<'_>, _: &mut Response) -> Take {
            Take::Pieces
        }
    }
    Drops
}
