//! Responses that are finished after the handler has returned.

use super::*;
use crate::worker::http::tests::responses::without_date;
use proptest::prelude::*;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;

const GET: &str = "GET /a HTTP/1.1\r\nHost: a\r\n\r\n";

/// The responses that a handler has kept, in order.
type Kept = Rc<RefCell<VecDeque<Later>>>;

/// An engine whose handler keeps the responses to `/a`, after it has written their query, and answers others at once.
fn keeps() -> (Bench, Kept) {
    let kept = Kept::default();
    let handler = {
        let kept = Rc::clone(&kept);
        move |req: &Request<'_>, res: &mut Response| {
            if req.path() == "/a" {
                if let Some(part) = req.query() {
                    res.write(part.as_bytes()).unwrap();
                }
                kept.borrow_mut().push_back(res.later());
                assert_eq!(res.body("x"), Err(Refused::Late));
            } else {
                res.body("at once").unwrap();
            }
        }
    };
    (Bench::with(Config::default(), http(handler)), kept)
}

fn take(kept: &Kept) -> Later {
    kept.borrow_mut().pop_front().unwrap()
}

fn wire(b: &mut Bench) -> String {
    b.serve_touched();
    without_date(&b.text())
}

#[test]
fn a_response_is_finished_later() {
    let (mut b, kept) = keeps();
    b.send(GET.as_bytes());
    assert_eq!(b.deadline, Some(Deadline::Response));
    assert_eq!((wire(&mut b), b.page.get(Word::Requests)), (String::new(), 0));
    let mut later = take(&kept);
    later.status(201).unwrap();
    later.header("X-A", "b").unwrap();
    later.body("done").unwrap();
    later.end().unwrap();
    assert_eq!(wire(&mut b), "HTTP/1.1 201 Created\r\nContent-Length: 4\r\nX-A: b\r\n\r\ndone");
    assert_eq!((b.page.get(Word::Requests), b.page.get(Word::Errors)), (1, 0));
    assert!(b.conn.is_idle());
    assert_eq!(b.deadline, Some(Deadline::Idle));
}

#[test]
fn pipelined_requests_wait_and_keep_their_order() {
    let (mut b, kept) = keeps();
    b.send(
        format!("{GET}GET /now HTTP/1.1\r\nHost: a\r\n\r\n{GET}GET /now HTTP/1.1\r\nHost: a\r\n\r\n")
            .as_bytes(),
    );
    assert_eq!(kept.borrow().len(), 1);
    assert_eq!(wire(&mut b), "");
    for _ in 0..2 {
        let mut later = take(&kept);
        later.body("later").unwrap();
        later.end().unwrap();
        let expected = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nlaterHTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\nat once";
        assert_eq!(wire(&mut b), expected);
    }
    assert!(b.conn.is_idle());
}

#[test]
fn earlier_responses_do_not_wait_for_a_later_one() {
    let (mut b, kept) = keeps();
    b.send(format!("GET /now HTTP/1.1\r\nHost: a\r\n\r\n{GET}").as_bytes());
    assert_eq!(wire(&mut b), "HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\nat once");
    take(&kept).end().unwrap();
    assert_eq!(wire(&mut b), "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
}

#[test]
fn parts_are_sent_when_the_turn_ends_or_at_once_if_flushed() {
    let (mut b, kept) = keeps();
    b.send(b"GET /a?first HTTP/1.1\r\nHost: a\r\n\r\n");
    let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    assert_eq!(wire(&mut b), format!("{head}5\r\nfirst\r\n"));
    let mut later = take(&kept);
    later.write(b"second").unwrap();
    assert_eq!(b.text(), "");
    later.write(b"third").unwrap();
    assert_eq!(wire(&mut b), "6\r\nsecond\r\n5\r\nthird\r\n");
    later.write(b"fourth").unwrap();
    later.flush().unwrap();
    assert_eq!(b.text(), "6\r\nfourth\r\n");
    assert_eq!(later.body("x"), Err(Refused::Late));
    later.end().unwrap();
    assert_eq!(wire(&mut b), "0\r\n\r\n");
    assert!(b.conn.is_idle());
    assert_eq!(b.page.get(Word::Requests), 1);
}

#[test]
fn a_flush_sends_the_head() {
    let (mut b, kept) = keeps();
    b.send(GET.as_bytes());
    let mut later = take(&kept);
    later.flush().unwrap();
    assert_eq!(without_date(&b.text()), "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
    later.end().unwrap();
    assert_eq!(wire(&mut b), "0\r\n\r\n");
    let (mut b, kept) = keeps();
    b.send(GET.as_bytes());
    let mut later = take(&kept);
    later.body("whole").unwrap();
    assert_eq!(later.flush(), Err(Refused::Late));
    later.end().unwrap();
    assert!(wire(&mut b).ends_with("\r\n\r\nwhole"));
}

#[test]
fn a_body_and_a_head_that_were_set_before_go_along() {
    let kept = Kept::default();
    let keep = Rc::clone(&kept);
    let mut b = Bench::with(
        Config::default(),
        http(move |_: &Request<'_>, res: &mut Response| {
            res.status(404).unwrap();
            res.header("X-A", "b").unwrap();
            res.body_owned(Box::new(vec![b'x'; 3_000_000])).unwrap();
            res.close();
            keep.borrow_mut().push_back(res.later());
        }),
    );
    b.send(GET.as_bytes());
    assert_eq!(b.text(), "");
    take(&kept).end().unwrap();
    b.serve_touched();
    let (bytes, ended) = b.receive();
    let head = b"HTTP/1.1 404 Not Found\r\n";
    assert!(bytes.starts_with(head) && ended);
    assert!(String::from_utf8_lossy(&bytes[..200]).contains("Connection: close\r\nX-A: b\r\n"));
    assert_eq!(bytes.iter().filter(|byte| **byte == b'x').count(), 3_000_000);
}

#[test]
fn a_response_that_is_dropped_or_failed_is_a_500_and_costs_nothing_else() {
    for drops in [true, false] {
        let (mut b, kept) = keeps();
        b.send(format!("{GET}GET /now HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes());
        let later = take(&kept);
        if drops {
            drop(later)
        } else {
            later.fail()
        }
        b.serve_touched();
        let text = b.text();
        assert_eq!(statuses(&text), ["500", "200"], "{text}");
        assert_eq!((b.page.get(Word::Requests), b.page.get(Word::Errors)), (2, 1));
        // What was written cannot be taken back.
        let (mut b, kept) = keeps();
        b.send(b"GET /a?part HTTP/1.1\r\nHost: a\r\n\r\n");
        let later = take(&kept);
        if drops {
            drop(later)
        } else {
            later.fail()
        }
        b.serve_touched();
        let (bytes, ended) = b.receive();
        assert!(bytes.ends_with(b"\r\n\r\n4\r\npart\r\n") && ended);
        assert_eq!((b.page.get(Word::Requests), b.page.get(Word::Errors)), (1, 1));
    }
}

fn late(b: &mut Bench) {
    b.call_later(HttpEngine::on_deadline_later);
}

#[test]
fn a_response_that_takes_too_long_is_a_504_and_its_handle_stays() {
    let (mut b, kept) = keeps();
    b.send(GET.as_bytes());
    let told = Rc::new(Cell::new(0));
    let mut later = take(&kept);
    let tell = Rc::clone(&told);
    later.exchange().unwrap().set_on_gone(Box::new(move || tell.set(tell.get() + 1))).unwrap();
    late(&mut b);
    assert_eq!(statuses(&b.text()), ["504"]);
    assert_eq!(told.get(), 1);
    assert!(b.conn.is_idle() && later.is_gone());
    assert_eq!(later.write(b"x"), Err(Refused::Gone));
    assert_eq!(later.body("x"), Err(Refused::Gone));
    assert_eq!(later.end(), Err(Refused::Gone));
    assert_eq!((b.page.get(Word::Requests), b.page.get(Word::Errors)), (1, 1));
    b.send(b"GET /now HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(statuses(&b.text()), ["200"]);
    assert_eq!(told.get(), 1);
    // In the middle of a body there is only the end.
    let (mut b, kept) = keeps();
    b.send(b"GET /a?part HTTP/1.1\r\nHost: a\r\n\r\n");
    b.text();
    late(&mut b);
    assert_eq!(b.receive(), (vec![], true));
    assert_eq!(take(&kept).end(), Err(Refused::Gone));
}

#[test]
fn a_client_that_leaves_is_told_and_gets_what_it_has_asked_for() {
    let (mut b, kept) = keeps();
    b.send(GET.as_bytes());
    let told = Rc::new(Cell::new(0));
    let tell = Rc::clone(&told);
    let mut later = take(&kept);
    later.exchange().unwrap().set_on_gone(Box::new(move || tell.set(tell.get() + 1))).unwrap();
    b.serve_touched();
    assert_eq!(told.get(), 0);
    b.end();
    assert_eq!(told.get(), 1);
    b.end();
    assert_eq!(told.get(), 1);
    later.body("still").unwrap();
    later.end().unwrap();
    b.serve_touched();
    let (bytes, ended) = b.receive();
    assert!(bytes.ends_with(b"\r\n\r\nstill") && ended);
    // One that has gone entirely gets nothing.
    let (mut b, kept) = keeps();
    b.send(GET.as_bytes());
    let mut later = take(&kept);
    let (told, dropped) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(false)));
    let (tell, guard) = (Rc::clone(&told), SetOnDrop(Rc::clone(&dropped)));
    let on_gone = move || {
        let _guard = guard;
        tell.set(tell.get() + 1);
    };
    later.exchange().unwrap().set_on_gone(Box::new(on_gone)).unwrap();
    b.client = UnixStream::pair().unwrap().0;
    b.readable(true);
    assert!(b.answering.is_none() && dropped.get());
    assert_eq!(told.get(), 1);
    assert_eq!(later.write(b"x"), Err(Refused::Gone));
    assert_eq!(later.end(), Err(Refused::Gone));
    assert_eq!((b.page.get(Word::Requests), b.page.get(Word::Errors)), (1, 0));
}

struct SetOnDrop(Rc<Cell<bool>>);

impl Drop for SetOnDrop {
    fn drop(&mut self) {
        assert!(!self.0.replace(true));
    }
}

#[test]
fn a_client_that_is_told_to_have_gone_is_not_told_after_the_end() {
    let (mut b, kept) = keeps();
    b.send(GET.as_bytes());
    let later = take(&kept);
    let dropped = Rc::new(Cell::new(false));
    let guard = SetOnDrop(Rc::clone(&dropped));
    let on_gone = move || {
        let _guard = guard;
        panic!("called");
    };
    later.exchange().unwrap().set_on_gone(Box::new(on_gone)).unwrap();
    later.end().unwrap();
    b.end();
    assert!(dropped.get());
    assert_eq!(statuses(&b.text()), ["200"]);
}

#[test]
fn a_handler_that_keeps_its_response_and_panics_or_fails_gives_a_500() {
    for panics in [true, false] {
        let kept = Kept::default();
        let keep = Rc::clone(&kept);
        let mut b = Bench::with(
            Config::default(),
            http(move |_: &Request<'_>, res: &mut Response| {
                keep.borrow_mut().push_back(res.later());
                assert!(!panics, "as asked");
                Err("as asked")
            }),
        );
        b.send(format!("{GET}{GET}").as_bytes());
        let (bytes, ended) = b.receive();
        let text = String::from_utf8(bytes).unwrap();
        // After a panic the connection ends.
        assert_eq!((statuses(&text), ended), (vec!["500"; if panics { 1 } else { 2 }], panics));
        assert_eq!(take(&kept).end(), Err(Refused::Gone));
    }
}

#[test]
fn heads_old_clients_and_statuses_without_content_have_none() {
    for (request, expected) in [
        ("HEAD /a?part HTTP/1.1\r\nHost: a\r\n\r\n", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"),
        ("GET /a?part HTTP/1.0\r\n\r\n", "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\npartmore"),
    ] {
        let (mut b, kept) = keeps();
        b.send(request.as_bytes());
        let mut later = take(&kept);
        later.write(b"more").unwrap();
        later.end().unwrap();
        assert_eq!(wire(&mut b), expected);
    }
}

#[test]
fn an_upgrade_can_be_decided_later() {
    let (mut b, kept) = keeps();
    b.send(b"GET /a HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\nearly");
    let mut later = take(&kept);
    assert_eq!(later.upgrade("other"), Err(Refused::Upgrade));
    later.upgrade("echo").unwrap();
    later.end().unwrap();
    b.serve_touched();
    assert!(b.text().starts_with("HTTP/1.1 101 "));
    assert_eq!(b.upgraded.as_deref(), Some(&b"early"[..]));
}

/// A handler that streams `total` bytes in parts of `part`.
fn streams(total: usize, part: usize, pending: usize) -> Bench {
    let mut config = Config::default();
    config.limits.pending = pending;
    let handler = move |_: &Request<'_>, res: &mut Response| {
        let mut at = 0;
        res.stream(move |res| {
            let n = part.min(total - at);
            match res.write(&bytes(at, n)) {
                Err(Refused::Full) => return Ok(true),
                written => written?,
            }
            at += n;
            Ok(at < total)
        })
        .map(drop)
    };
    Bench::with(config, http(handler))
}

fn bytes(at: usize, n: usize) -> Vec<u8> {
    (at..at + n).map(|i| (i % 251) as u8).collect()
}

/// The content of a chunked body that is complete, and what follows it.
fn unchunk(mut text: &[u8]) -> (Vec<u8>, &[u8]) {
    let mut content = Vec::new();
    loop {
        let end = text.windows(2).position(|w| w == b"\r\n").expect("a chunk");
        let size = usize::from_str_radix(str::from_utf8(&text[..end]).unwrap(), 16).unwrap();
        content.extend_from_slice(&text[end + 2..end + 2 + size]);
        assert_eq!(&text[end + 2 + size..end + 4 + size], b"\r\n");
        text = &text[end + 4 + size..];
        if size == 0 {
            return (content, text);
        }
    }
}

#[test]
fn a_body_of_any_size_arrives_whole_in_little_memory() {
    for (part, pending) in [(1000, 1 << 20), (50_000, 1 << 20), (50_000, 60_000), (1 << 20, 1 << 20)] {
        let total = 10_000_000;
        let mut b = streams(total, part, pending);
        b.send(format!("{GET}{GET}").as_bytes());
        assert_eq!(b.deadline, Some(Deadline::Write));
        let (received, ended) = b.receive();
        assert!(!ended);
        let mut rest = &received[..];
        for _ in 0..2 {
            let body = rest.windows(4).position(|w| w == b"\r\n\r\n").unwrap() + 4;
            let (content, behind) = unchunk(&rest[body..]);
            assert!(content == bytes(0, total), "{part} {pending}");
            rest = behind;
        }
        assert!(rest.is_empty());
        assert!(b.conn.is_idle());
        assert_eq!((b.page.get(Word::Requests), b.page.get(Word::Errors)), (2, 0));
    }
}

#[test]
fn a_producer_is_called_only_while_little_waits() {
    let mut b = streams(usize::MAX / 2, 10_000, 1 << 20);
    b.send(GET.as_bytes());
    let waits = b.answering.as_ref().unwrap().unsent();
    assert!((1..200_000).contains(&waits), "{waits}");
    let before = b.page.get(Word::BytesOut);
    b.serve_later();
    assert_eq!((b.answering.as_ref().unwrap().unsent(), b.page.get(Word::BytesOut)), (waits, before));
}

#[test]
fn a_producer_is_dropped_once_however_it_ends() {
    for (end, expected) in
        [("end", 0), ("break", 1), ("panic", 1), ("head", 0), ("gone", 0), ("late", 1), ("fail", 1)]
    {
        let dropped = Rc::new(Cell::new(false));
        let calls = Rc::new(Cell::new(0));
        let (flag, count) = (Rc::clone(&dropped), Rc::clone(&calls));
        let handler = move |_: &Request<'_>, res: &mut Response| {
            let (guard, count) = (SetOnDrop(Rc::clone(&flag)), Rc::clone(&count));
            res.stream(move |res| {
                let _guard = &guard;
                count.set(count.get() + 1);
                match end {
                    "break" => return Err("as asked".into()),
                    "panic" => panic!("as asked"),
                    "fail" => res.fail(),
                    "gone" | "late" => return Ok(true),
                    _ => res.write(b"part")?,
                }
                Ok(end == "fail")
            })
            .unwrap();
        };
        let mut b = Bench::with(Config::default(), http(handler));
        let get = if end == "head" { GET.replace("GET", "HEAD") } else { GET.to_owned() };
        b.send(get.as_bytes());
        match end {
            "gone" => {
                assert!(!dropped.get());
                b.client = UnixStream::pair().unwrap().0;
                b.readable(true);
            }
            "late" => {
                assert_eq!(b.deadline, Some(Deadline::Response));
                late(&mut b);
            }
            _ => {}
        }
        assert!(dropped.get(), "{end}");
        assert_eq!(calls.get(), if end == "head" { 0 } else { 1 }, "{end}");
        assert_eq!((b.page.get(Word::Requests), b.page.get(Word::Errors)), (1, expected), "{end}");
        let (received, ended) = b.receive();
        if end != "gone" {
            let is_whole = ["end", "head"].contains(&end);
            assert_eq!(ended, !is_whole, "{end}");
            assert_eq!(received.ends_with(b"0\r\n\r\n"), end == "end");
        }
    }
}

#[test]
fn a_producer_that_writes_nothing_waits_until_it_is_resumed() {
    let (resume, calls) = (Rc::new(RefCell::new(None)), Rc::new(Cell::new(0)));
    let (keep, count) = (Rc::clone(&resume), Rc::clone(&calls));
    let mut b = Bench::with(
        Config::default(),
        http(move |_: &Request<'_>, res: &mut Response| {
            let count = Rc::clone(&count);
            let more = move |res: &mut Response| {
                count.set(count.get() + 1);
                match count.get() {
                    2 => res.write(b"part")?,
                    4 => return Ok(false),
                    _ => {}
                }
                Ok(true)
            };
            keep.replace(Some(res.stream(more).unwrap()));
        }),
    );
    b.send(GET.as_bytes());
    assert_eq!((calls.get(), b.deadline), (1, Some(Deadline::Response)));
    b.serve_later();
    assert_eq!(calls.get(), 1);
    let resume = resume.borrow_mut().take().unwrap();
    resume.resume();
    // The second time it writes, the third time it does not.
    let text = wire(&mut b);
    assert!(text.ends_with("4\r\npart\r\n"));
    assert_eq!(calls.get(), 3);
    resume.resume();
    assert_eq!(wire(&mut b), "0\r\n\r\n");
    assert!(resume.is_over() && b.conn.is_idle());
    resume.resume();
    b.serve_touched();
    assert_eq!(calls.get(), 4);
}

#[test]
fn a_write_over_the_limit_is_refused_and_does_no_harm() {
    let (mut b, kept) = keeps();
    b.engine = HttpEngine::new(&Config::default(), true, false);
    b.send(GET.as_bytes());
    let mut later = take(&kept);
    // More than the socket takes and may wait.
    let (mut taken, part) = (0, vec![b'p'; 1 << 20]);
    while later.write(&part) == Ok(()) {
        taken += part.len();
    }
    assert_eq!(later.write(&part), Err(Refused::Full));
    assert!((16 << 20..18 << 20).contains(&taken), "{taken}");
    later.end().unwrap();
    b.serve_touched();
    let (received, _) = b.receive();
    let body = received.windows(4).position(|w| w == b"\r\n\r\n").unwrap() + 4;
    let (content, rest) = unchunk(&received[body..]);
    assert_eq!((content.len(), rest.len()), (taken, 0));
}

/// A step of a handler or a client.
#[derive(Clone, Debug)]
enum Step {
    Request(bool),
    Write(usize),
    Flush,
    End,
    Read(usize),
    Turn,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        any::<bool>().prop_map(Step::Request),
        (0usize..300_000).prop_map(Step::Write),
        (0usize..300).prop_map(Step::Write),
        Just(Step::Flush),
        Just(Step::End),
        (1usize..400_000).prop_map(Step::Read),
        Just(Step::Turn),
    ]
}

proptest! {
    /// Against a list of the parts that were taken.
    #[test]
    fn each_byte_arrives_in_order(steps in proptest::collection::vec(step(), 1..100)) {
        let (mut b, kept) = keeps();
        // The answers that the client is to get: the body, or `None` if it is the one that is given at once.
        let mut expected: Vec<Option<Vec<u8>>> = Vec::new();
        let (mut received, mut current, mut at) = (Vec::new(), None::<Later>, 0);
        let finish = Step::End;
        for step in steps.iter().chain(std::iter::repeat_n(&finish, 200)) {
            if current.is_none() {
                current = kept.borrow_mut().pop_front();
            }
            match step {
                Step::Request(later) => {
                    expected.push(later.then(Vec::new));
                    let path = if *later { "a" } else { "b" };
                    b.send(format!("GET /{path} HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes());
                }
                Step::Write(n) => if let Some(later) = &mut current
                    && later.write(&bytes(at, *n)) == Ok(())
                {
                    // It is that of the first one that is outstanding.
                    let index = b.page.get(Word::Requests) as usize;
                    expected[index].as_mut().unwrap().extend_from_slice(&bytes(at, *n));
                    at += n;
                },
                Step::Flush => if let Some(later) = &mut current {
                    later.flush().unwrap();
                },
                Step::End => {
                    if let Some(later) = current.take() {
                        later.end().unwrap();
                    }
                    b.serve_touched();
                    received.append(&mut b.receive().0);
                }
                Step::Read(n) => {
                    let mut part = vec![0; *n];
                    if let Ok(n) = b.client.read(&mut part) {
                        received.extend_from_slice(&part[..n]);
                    }
                    if b.answering.is_some() {
                        b.serve_later();
                    } else {
                        b.call(|engine, fd, conn, cx| engine.on_writable(fd, 3, conn, cx));
                    }
                }
                Step::Turn => b.serve_touched(),
            }
        }
        let mut rest = &received[..];
        for body in &expected {
            let end = rest.windows(4).position(|w| w == b"\r\n\r\n").expect("a head") + 4;
            let (head, behind) = rest.split_at(end);
            let head = without_date(str::from_utf8(head).unwrap());
            rest = match body {
                None => {
                    prop_assert_eq!(head, "HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n");
                    prop_assert!(behind.starts_with(b"at once"));
                    &behind[7..]
                }
                Some(body) if head.contains("chunked") => {
                    let (content, behind) = unchunk(behind);
                    prop_assert!(content == *body);
                    behind
                }
                Some(body) => {
                    prop_assert!(body.is_empty());
                    prop_assert_eq!(head, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
                    behind
                }
            };
        }
        prop_assert!(rest.is_empty());
        prop_assert_eq!(b.page.get(Word::Requests), expected.len() as u64);
        prop_assert_eq!(b.page.get(Word::Errors), 0);
    }
}

#[test]
fn a_length_that_was_given_holds_for_what_is_kept_and_for_producers() {
    let (mut b, kept) = keeps();
    b.send(GET.repeat(3).as_bytes());
    let mut later = take(&kept);
    later.header("Content-Length", "5").unwrap();
    later.write(b"he").unwrap();
    let head = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n";
    assert_eq!(wire(&mut b), format!("{head}he"));
    assert_eq!(later.write(b"llo!"), Err(Refused::Length));
    later.write(b"llo").unwrap();
    later.end().unwrap();
    assert_eq!(wire(&mut b), "llo");
    let mut later = take(&kept);
    later.header("Content-Length", "5").unwrap();
    later.body("whole").unwrap();
    later.end().unwrap();
    assert_eq!(wire(&mut b), format!("{head}whole"));
    assert_eq!((b.page.get(Word::Requests), b.page.get(Word::Errors)), (2, 0));
    let mut later = take(&kept);
    later.header("Content-Length", "5").unwrap();
    let mut parts = ["he", "llo!", "l"].into_iter();
    let resume = later
        .stream(move |res| {
            let Some(part) = parts.next() else { return Ok(false) };
            assert_eq!(res.write(part.as_bytes()).is_err(), part.len() == 4);
            Ok(true)
        })
        .unwrap();
    assert_eq!(wire(&mut b), format!("{head}he"));
    // A part that never fits is no reason to be called again.
    assert_eq!(b.deadline, Some(Deadline::Response));
    resume.resume();
    assert_eq!(wire(&mut b), "l");
    assert_eq!(b.deadline, Some(Deadline::Linger));
    assert_eq!((b.page.get(Word::Requests), b.page.get(Word::Errors)), (3, 1));
}
