//! The responses of handlers as bytes.

use super::*;

fn answer(path: &str) -> (Bench, String, bool) {
    let mut b = Bench::new();
    b.send(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes());
    let (bytes, closed) = b.receive();
    (b, String::from_utf8(bytes).unwrap(), closed)
}

/// Head and body of the one response in `text`.
fn split(text: &str) -> (&str, &str) {
    text.split_once("\r\n\r\n").unwrap()
}

/// Answers one GET with a handler of its own; the bytes without the Date line.
fn wire(request: &str, handler: impl FnMut(&Request<'_>, &mut Response) + 'static) -> String {
    let mut b = Bench::with(Config::default(), http(handler));
    b.send(request.as_bytes());
    without_date(&b.text())
}

pub(super) fn without_date(text: &str) -> String {
    text.split_inclusive("\r\n").filter(|line| !line.starts_with("Date: ")).collect()
}

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
const HEAD: &str = "HEAD / HTTP/1.1\r\nHost: a\r\n\r\n";

#[test]
fn a_request_is_answered_and_the_connection_keeps_no_buffer() {
    let (b, text, closed) = answer("/hello");
    assert!(text.starts_with("HTTP/1.1 200 OK\r\nDate: "), "{text}");
    assert!(text.ends_with("GMT\r\nContent-Length: 6\r\n\r\nhello\n"), "{text}");
    assert!(!closed && b.conn.is_idle());
    assert_eq!(b.deadline, Some(Deadline::Idle));
    assert_eq!(b.page.get(Word::Requests), 1);
    assert_eq!(b.page.get(Word::BytesIn), 32);
    assert_eq!(b.page.get(Word::BytesOut), text.len() as u64);
}

#[test]
fn a_connection_between_requests_is_small() {
    assert!(size_of::<HttpConn>() <= 64, "{}", size_of::<HttpConn>());
}

#[test]
fn the_handler_sees_the_request() {
    let (_, text, _) = answer("http://b:1/inspect?q=1");
    assert!(text.ends_with("method=GET\ntarget=http://b:1/inspect?q=1\nhost=b:1\nx-test=[]\n"), "{text}");
    let (_, text, _) = answer("/peer");
    assert_eq!(split(&text).1, "unix: by 3");
}

#[test]
fn fields_are_checked_and_dates_replaced() {
    let text = wire(GET, |_, res| {
        assert_eq!(res.status(199), Err(Refused::Status));
        assert_eq!(res.status(600), Err(Refused::Status));
        res.status(404).unwrap();
        res.header("X-A", "b").unwrap();
        res.header("Date", "never").unwrap();
        for (name, value) in
            [("", "a"), ("a b", "a"), ("a:", "a"), ("a", "b\r\nc: d"), ("a", "\0"), ("a", "\n")]
        {
            assert_eq!(res.header(name, value), Err(Refused::Field), "{name:?}: {value:?}");
        }
        for name in ["Transfer-Encoding", "CONNECTION", "Keep-Alive", "Trailer"] {
            assert_eq!(res.header(name, "1"), Err(Refused::Framing));
        }
        assert_eq!(res.header("X", [b'x'; 65_536]), Err(Refused::Full));
        res.body("first").unwrap();
        res.body("second").unwrap();
        assert_eq!(res.write(b"third"), Err(Refused::Late));
    });
    assert_eq!(
        text,
        "HTTP/1.1 404 Not Found\r\nContent-Length: 6\r\nX-A: b\r\nDate: never\r\n\r\nsecond"
            .replace("Date: never\r\n", "")
    );
}

#[test]
fn statuses_without_content_have_none() {
    for (status, head) in [
        (204, "HTTP/1.1 204 No Content\r\n\r\n"),
        (304, "HTTP/1.1 304 Not Modified\r\n\r\n"),
        (205, "HTTP/1.1 205 Reset Content\r\nContent-Length: 0\r\n\r\n"),
    ] {
        let body = move |_: &Request<'_>, res: &mut Response| {
            res.status(status).unwrap();
            res.body("not sent").unwrap();
        };
        assert_eq!(wire(GET, body), head);
        let stream = move |_: &Request<'_>, res: &mut Response| {
            res.status(status).unwrap();
            res.write(b"not sent").unwrap();
        };
        assert_eq!(wire(GET, stream), head);
    }
}

#[test]
fn head_says_what_get_would_and_sends_nothing() {
    let body = |_: &Request<'_>, res: &mut Response| res.body([b'x'; 10_000]).unwrap();
    assert_eq!(wire(HEAD, body), "HTTP/1.1 200 OK\r\nContent-Length: 10000\r\n\r\n");
    let stream = |_: &Request<'_>, res: &mut Response| res.write(b"part").unwrap();
    assert_eq!(wire(HEAD, stream), "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
    let mut b = Bench::new();
    b.send(b"HEAD /hello HTTP/1.1\r\n\r\n");
    assert!(b.text().ends_with("\r\n\r\n"));
}

#[test]
fn the_last_date_is_the_only_one() {
    let mut b = Bench::with(
        Config::default(),
        http(|_: &Request<'_>, res: &mut Response| {
            for (name, value) in
                [("X-Date", "a"), ("Date", "first"), ("X-B", "b"), ("DATE", "second"), ("date", "third")]
            {
                res.header(name, value).unwrap();
            }
        }),
    );
    b.send(GET.as_bytes());
    assert_eq!(
        b.text(),
        "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nX-Date: a\r\nX-B: b\r\ndate: third\r\n\r\n"
    );
}

#[test]
fn the_length_of_a_body_that_is_not_sent_can_be_given() {
    let give = |_: &Request<'_>, res: &mut Response| {
        assert_eq!(res.header("Content-Length", "-1"), Err(Refused::Field));
        res.header("Content-Length", "1").unwrap();
        res.header("content-length", "1234567").unwrap();
    };
    assert_eq!(wire(HEAD, give), "HTTP/1.1 200 OK\r\nContent-Length: 1234567\r\n\r\n");
    let stream = move |req: &Request<'_>, res: &mut Response| {
        give(req, res);
        res.write(b"part").unwrap();
    };
    assert_eq!(wire(HEAD, stream), "HTTP/1.1 200 OK\r\nContent-Length: 1234567\r\n\r\n");
    let not_modified = |_: &Request<'_>, res: &mut Response| {
        res.status(304).unwrap();
        res.header("Content-Length", "8").unwrap();
        res.body("not sent").unwrap();
    };
    for request in [GET, HEAD] {
        assert_eq!(wire(request, not_modified), "HTTP/1.1 304 Not Modified\r\nContent-Length: 8\r\n\r\n");
    }
    // Not what was given for a response that has become another.
    let changed = move |req: &Request<'_>, res: &mut Response| {
        not_modified(req, res);
        res.status(200).unwrap();
        res.header("Content-Length", "9").unwrap();
    };
    assert_eq!(wire(GET, changed), "HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nnot sent");
    let failed = move |req: &Request<'_>, res: &mut Response| {
        give(req, res);
        res.fail();
    };
    assert!(!wire(HEAD, failed).contains("1234567"));
    let none = move |req: &Request<'_>, res: &mut Response| {
        give(req, res);
        res.status(204).unwrap();
    };
    assert_eq!(wire(HEAD, none), "HTTP/1.1 204 No Content\r\n\r\n");
}

#[test]
fn any_response_can_offer_an_upgrade() {
    let offer = |_: &Request<'_>, res: &mut Response| {
        res.status(426).unwrap();
        assert_eq!(res.header("Upgrade", "web socket"), Err(Refused::Field));
        res.header("Upgrade", "websocket").unwrap();
        res.header("upgrade", "HTTP/3, x/1").unwrap();
    };
    let fields = "Upgrade: websocket\r\nupgrade: HTTP/3, x/1\r\n\r\n";
    let head = "HTTP/1.1 426 Upgrade Required\r\nContent-Length: 0\r\nConnection: ";
    assert_eq!(wire(GET, offer), format!("{head}upgrade\r\n{fields}"));
    let close = "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    assert_eq!(wire(close, offer), format!("{head}close, upgrade\r\n{fields}"));
    let old = "GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n";
    assert_eq!(wire(old, offer), format!("{head}keep-alive, upgrade\r\n{fields}"));
    let both = |_: &Request<'_>, res: &mut Response| {
        res.header("Upgrade", "other").unwrap();
        res.header("X-A", "b").unwrap();
        res.upgrade("echo").unwrap();
        assert_eq!(res.header("Upgrade", "other"), Err(Refused::Framing));
    };
    let ask = "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n";
    assert_eq!(
        wire(ask, both),
        "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: echo\r\nX-A: b\r\n\r\n"
    );
}

#[test]
fn streams_are_chunked_or_end_with_the_connection() {
    let (b, text, closed) = answer("/stream");
    assert_eq!(split(&text).1, "4\r\none \r\n4\r\ntwo \r\n6\r\nthree\n\r\n0\r\n\r\n");
    assert!(!closed && b.conn.is_idle());
    let mut b = Bench::new();
    b.send(b"GET /stream HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    let (bytes, closed) = b.receive();
    let text = String::from_utf8(bytes).unwrap();
    assert!(text.contains("Connection: close\r\n") && !text.contains("Transfer-Encoding"), "{text}");
    assert_eq!(split(&text).1, "one two three\n");
    assert!(closed);
}

#[test]
fn http_1_0_is_told_that_the_connection_stays() {
    let mut b = Bench::new();
    b.send(b"GET /hello HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    assert!(b.text().contains("\r\nConnection: keep-alive\r\n"));
}

#[test]
fn a_slow_reader_gets_all_of_a_large_body() {
    let (b, text, closed) = answer("/big");
    assert_eq!(split(&text).1.len(), 3_000_000);
    assert!(!closed && b.conn.is_idle());
    let (_, text, _) = answer("/flood");
    assert_eq!(split(&text).1.matches('y').count(), 3_200_000);
    assert!(text.ends_with("\r\n0\r\n\r\n"));
}

#[test]
fn a_large_body_goes_before_the_next_response() {
    let mut b = Bench::new();
    b.send(b"GET /big HTTP/1.1\r\nHost: a\r\n\r\nGET /hello HTTP/1.1\r\nHost: a\r\n\r\nGET /file HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(b.deadline, Some(Deadline::Write));
    let text = b.text();
    assert_eq!(statuses(&text), ["200", "200", "200"]);
    assert_eq!(text.matches('x').count(), 3_000_000);
    assert!(b.conn.is_idle());
}

#[test]
fn files_are_sent_from_an_offset() {
    let manifest = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"));
    let (b, text, closed) = answer("/file?100");
    assert_eq!(split(&text).1, &manifest[2..102]);
    assert!(!closed && b.conn.is_idle());
    let (_, text, closed) = answer("/file?0");
    assert_eq!(split(&text).1, "");
    assert!(!closed);
}

#[test]
fn a_range_outside_the_file_is_refused() {
    let manifest = || std::fs::File::open(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml")).unwrap();
    let folder = || std::fs::File::open(env!("CARGO_MANIFEST_DIR")).unwrap();
    let text = wire(GET, move |_, res| {
        let size = manifest().metadata().unwrap().len();
        assert_eq!(res.file(manifest(), 0, size + 1), Err(Refused::File));
        assert_eq!(res.file(manifest(), 1, u64::MAX), Err(Refused::File));
        assert_eq!(res.file(folder(), 0, 0), Err(Refused::File));
        assert_eq!(res.file(std::io::pipe().unwrap().0, 0, 1), Err(Refused::File));
        let path = std::env::temp_dir().join(format!("prefork-write-only-{}", std::process::id()));
        std::fs::write(&path, "hello").unwrap();
        let write_only = std::fs::OpenOptions::new().append(true).open(&path).unwrap();
        assert_eq!(res.file(write_only, 0, 5), Err(Refused::File));
        std::fs::remove_file(path).unwrap();
        res.file(manifest(), size, 0).unwrap();
    });
    assert_eq!(text, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
}

#[test]
fn a_file_that_gets_shorter_cuts_the_connection() {
    let path = std::env::temp_dir().join(format!("prefork-shorter-{}", std::process::id()));
    let mut b = Bench::with(
        Config::default(),
        http(move |_, res| {
            std::fs::write(&path, [b'x'; 100]).unwrap();
            let file = std::fs::OpenOptions::new().read(true).write(true).open(&path).unwrap();
            std::fs::remove_file(&path).unwrap();
            res.file(file.try_clone().unwrap(), 0, 100).unwrap();
            file.set_len(10).unwrap();
        }),
    );
    b.send(GET.as_bytes());
    let (bytes, closed) = b.receive();
    let text = String::from_utf8(bytes).unwrap();
    assert!(text.contains("Content-Length: 100\r\n") && text.ends_with("\r\n\r\nxxxxxxxxxx"), "{text}");
    assert!(closed);
    assert_eq!(b.page.get(Word::Errors), 1);
}

#[test]
fn a_panic_is_a_500_and_closes() {
    let (b, text, closed) = answer("/panic");
    assert_eq!(statuses(&text), ["500"]);
    assert!(closed && text.contains("Connection: close\r\n"), "{text}");
    assert_eq!(b.page.get(Word::Errors), 1);
    let (_, text, closed) = answer("/late-panic");
    assert!(text.starts_with("HTTP/1.1 200 OK") && !text.ends_with("0\r\n\r\n"));
    assert!(closed);
}

#[test]
fn a_failure_is_a_500_and_the_connection_lives() {
    let (b, text, closed) = answer("/fail");
    assert_eq!(statuses(&text), ["500"]);
    assert!(!closed);
    assert_eq!(b.page.get(Word::Errors), 1);
    let text = wire(GET, |_, res| {
        res.header("X-Secret", "half done").unwrap();
        res.write(b"part").unwrap();
        res.fail();
        assert_eq!(res.body("x"), Err(Refused::Late));
    });
    assert_eq!(statuses(&text), ["500"]);
    assert!(!text.contains("part") && !text.contains("X-Secret"), "{text}");
}

#[test]
fn output_for_a_slow_client_is_bounded() {
    let mut config = Config::default();
    config.limits.pending = 1_000_000;
    let mut b = Bench::with(
        config,
        http(|_: &Request<'_>, res: &mut Response| {
            let full = (0..1000).find_map(|_| res.write(&[b'z'; 10_000]).err());
            assert_eq!(full, Some(Refused::Full));
        }),
    );
    b.send(GET.as_bytes());
    let text = b.text();
    // A body that lacks a part must not look complete.
    assert!(!text.ends_with("0\r\n\r\n"));
    assert_eq!(b.page.get(Word::Errors), 1);
}

#[test]
fn a_client_that_is_gone_is_noticed() {
    let mut b = Bench::with(
        Config::default(),
        http(|_: &Request<'_>, res: &mut Response| {
            let gone = (0..1000).find_map(|_| res.write(&[b'z'; 10_000]).err());
            assert_eq!(gone, Some(Refused::Gone));
        }),
    );
    b.client.write_all(GET.as_bytes()).unwrap();
    b.client = UnixStream::pair().unwrap().0;
    b.readable(true);
    assert!(b.server.is_none());
    assert_eq!(b.page.get(Word::Errors), 0);
}

#[test]
fn an_upgrade_hands_over_what_was_read_already() {
    let mut b = Bench::new();
    b.send(b"GET /upgrade HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, Upgrade\r\nUpgrade: x/1, Echo\r\n\r\nearly");
    let text = without_date(&b.text());
    assert_eq!(text, "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n");
    assert_eq!(b.upgraded.as_deref(), Some(&b"early"[..]));
}

#[test]
fn an_upgrade_by_a_handler_without_streams_is_refused() {
    let mut b = Bench::new();
    b.engine = HttpEngine::new(&b.config, http(fixture).takes_streams(), false);
    b.send(b"GET /upgrade HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n");
    assert_eq!(statuses(&b.text()), ["500"]);
    assert_eq!(b.upgraded, None);
}

#[test]
fn an_upgrade_the_client_did_not_ask_for_is_refused() {
    for fields in
        ["", "Upgrade: echo\r\n", "Connection: upgrade\r\n", "Connection: upgrade\r\nUpgrade: other\r\n"]
    {
        let mut b = Bench::new();
        b.send(format!("GET /upgrade HTTP/1.1\r\nHost: a\r\n{fields}\r\n").as_bytes());
        assert_eq!(statuses(&b.text()), ["500"], "{fields}");
        assert_eq!(b.upgraded, None);
    }
}

/// The answer to this request by a handler that sets this Content-Length first; the bytes, whether the connection is closed, and the
/// number of failures.
fn sized(request: &str, length: &str, handler: fn(&mut Response)) -> (String, bool, u64) {
    let length = length.to_owned();
    let handler = move |_: &Request<'_>, res: &mut Response| {
        res.header("Content-Length", &length).unwrap();
        handler(res);
    };
    let mut b = Bench::with(Config::default(), http(handler));
    b.send(request.as_bytes());
    let (bytes, closed) = b.receive();
    (without_date(str::from_utf8(&bytes).unwrap()), closed, b.page.get(Word::Errors))
}

#[test]
fn parts_of_a_body_whose_length_is_given_are_not_chunked() {
    let parts = |res: &mut Response| {
        res.write(b"he").unwrap();
        res.write(b"").unwrap();
        assert_eq!(res.write(b"llo!"), Err(Refused::Length));
        res.flush().unwrap();
        assert_eq!(res.header("Content-Length", "6"), Err(Refused::Late));
        res.write(b"llo").unwrap();
        assert_eq!(res.write(b"!"), Err(Refused::Length));
    };
    let stays = ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello".into(), false, 0);
    assert_eq!(sized(GET, "5", parts), stays);
    // Not until the close.
    let (text, closed, errors) = sized("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", "5", parts);
    assert_eq!((closed, errors), (false, 0));
    assert!(
        text.contains("Content-Length: 5\r\nConnection: keep-alive\r\n") && text.ends_with("\r\n\r\nhello")
    );
    let first = |res: &mut Response| assert_eq!(res.write(b"hello!"), Err(Refused::Length));
    assert!(sized(GET, "5", first).0.starts_with("HTTP/1.1 500 "));
    let second = |res: &mut Response| {
        res.header("content-length", "2").unwrap();
        res.write(b"ab").unwrap();
    };
    assert_eq!(sized(GET, "5", second).0, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nab");
    let none = |res: &mut Response| res.flush().unwrap();
    assert_eq!(sized(GET, "0", none), ("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n".into(), false, 0));
}

#[test]
fn a_body_that_is_shorter_than_the_length_given_is_cut() {
    let short = |res: &mut Response| res.write(b"hell").unwrap();
    assert_eq!(sized(GET, "5", short), ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhell".into(), true, 1));
    let flushed = |res: &mut Response| res.flush().unwrap();
    assert_eq!(sized(GET, "5", flushed), ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n".into(), true, 1));
    // Nothing was sent that would have to be cut.
    let (text, closed, errors) = sized(GET, "5", |_| {});
    assert!(text.starts_with("HTTP/1.1 500 ") && !text.contains("Length: 5\r\n"), "{text}");
    assert_eq!((closed, errors), (false, 1));
    let failed = |res: &mut Response| {
        res.write(b"hello").unwrap();
        res.fail();
    };
    assert!(sized(GET, "5", failed).0.starts_with("HTTP/1.1 500 "));
}

#[test]
fn the_length_of_a_body_that_is_not_sent_may_be_given_however_it_is_made() {
    let parts = |res: &mut Response| res.write(b"hel").unwrap();
    let whole = |res: &mut Response| res.body("hel").unwrap();
    for handler in [parts, whole, |_: &mut Response| {}] {
        let expected = ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n".into(), false, 0);
        assert_eq!(sized(HEAD, "5", handler), expected);
    }
    let not_modified = |res: &mut Response| {
        res.status(304).unwrap();
        res.write(b"hello!").unwrap();
    };
    let expected = ("HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n".into(), false, 0);
    assert_eq!(sized(GET, "5", not_modified), expected);
    let none = |res: &mut Response| res.status(204).unwrap();
    assert_eq!(sized(GET, "5", none), ("HTTP/1.1 204 No Content\r\n\r\n".into(), false, 0));
    let reset = |res: &mut Response| {
        res.status(205).unwrap();
        res.write(b"x").unwrap();
    };
    let expected = ("HTTP/1.1 205 Reset Content\r\nContent-Length: 0\r\n\r\n".into(), false, 0);
    assert_eq!(sized(GET, "5", reset), expected);
    // A whole body has its own.
    let expected = ("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nhel".into(), false, 0);
    assert_eq!(sized(GET, "5", whole), expected);
    for wrong in ["", "x", "-1", "+1", "1 2", "1,1", "18446744073709551616"] {
        wire(GET, move |_, res| {
            assert_eq!(res.header("Content-Length", wrong), Err(Refused::Field), "{wrong:?}")
        });
    }
    let upgrade = "HEAD / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n";
    let upgraded = |res: &mut Response| {
        res.upgrade("echo").unwrap();
        assert_eq!(res.header("Content-Length", "5"), Err(Refused::Framing));
    };
    let (text, ..) = sized(upgrade, "5", upgraded);
    assert!(text.starts_with("HTTP/1.1 101 ") && !text.contains("Content-Length"), "{text}");
}
