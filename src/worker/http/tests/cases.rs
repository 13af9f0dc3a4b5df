//! Legal, doubtful and malformed requests: the statuses each gets, and the fate of the connection.

use super::*;

#[derive(Debug, PartialEq, Eq, Clone, Copy)]
enum End {
    /// Another request is answered.
    Stays,
    /// The client reads end of file.
    Closes,
    /// More bytes are needed.
    Waits,
}
use End::*;

/// Pieces sent one by one, the statuses of the responses, and the fate of the connection.
type Case = (&'static [&'static str], &'static str, End);

fn check(cases: &[Case]) {
    for (pieces, wanted, end) in cases {
        let mut b = Bench::new();
        for piece in *pieces {
            // One character, one byte.
            let bytes: Vec<u8> = piece.chars().map(|c| u8::try_from(c).unwrap()).collect();
            b.send(&bytes);
        }
        let (bytes, closed) = b.receive();
        let text = String::from_utf8_lossy(&bytes);
        assert_eq!(statuses(&text).join(" "), *wanted, "{pieces:?}: {text}");
        let is = if closed {
            Closes
        } else if b.conn.is_idle() {
            Stays
        } else {
            Waits
        };
        assert_eq!(is, *end, "{pieces:?}: {text}");
        if closed {
            assert!(wanted.is_empty() || text.contains("Connection: close\r\n"), "{pieces:?}: {text}");
        }
        if is == Stays {
            b.send(b"GET /hello HTTP/1.1\r\nHost: next\r\n\r\n");
            assert!(b.text().ends_with("\r\n\r\nhello\n"), "{pieces:?}: out of step");
        }
    }
}

#[test]
fn lengths() {
    check(&[
        (&["POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc"], "200", Stays),
        (&["POST /echo HTTP/1.1\r\nHost: a\r\n\r\n"], "200", Stays),
        (&["GET /hello HTTP/1.1\r\nHost: a\r\ncontent-length:3\r\n\r\nabc"], "200", Stays),
        (&["PUT /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nabc"], "", Waits),
        (&["PUT /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\na", "bc", "dGET"], "200", Waits),
        (&["PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab"], "400", Closes),
        (&["PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\na"], "400", Closes),
        (&["PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 2, 2\r\n\r\nab"], "400", Closes),
        (&["PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: -2\r\n\r\nab"], "400", Closes),
        (&["PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 2 2\r\n\r\nab"], "400", Closes),
        (&["PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 18446744073709551618\r\n\r\nab"], "413", Closes),
        (&["PUT / HTTP/1.1\r\nHost: a\r\nContent-Length:\r\n\r\nab"], "400", Closes),
    ]);
}

#[test]
fn transfer_codings() {
    check(&[
        (
            &["POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n"],
            "200",
            Stays,
        ),
        (
            &["POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: deflate, chunked\r\n\r\n0\r\n\r\n"],
            "501",
            Closes,
        ),
        (
            &["POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, deflate\r\n\r\n0\r\n\r\n"],
            "400",
            Closes,
        ),
        (&["POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: identity\r\n\r\nab"], "400", Closes),
        (
            &["POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \u{b}chunked\r\n\r\n0\r\n\r\n"],
            "400",
            Closes,
        ),
        (&["POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n"], "400", Closes),
        (&["POST /echo HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"], "400", Closes),
        (
            &[
                "POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
            ],
            "400",
            Closes,
        ),
        (
            &[
                "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            ],
            "400",
            Closes,
        ),
        (
            &["HEAD /hello HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n"],
            "200",
            Stays,
        ),
    ]);
}

#[test]
fn chunks() {
    macro_rules! chunked {
        ($body:literal) => {
            concat!("PUT /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n", $body)
        };
    }
    check(&[
        (&[chunked!("1\r\na\r\n2\r"), "\nbc\r\n0", "\r\nX: y\r\n\r\n"], "200", Stays),
        (&[chunked!("1;a=b;c=\"d;\";e\r\na\r\n00\r\n\r\n")], "200", Stays),
        (&[chunked!("1\na\r\n0\r\n\r\n")], "400", Closes),
        (&[chunked!("1\r\na\n0\r\n\r\n")], "400", Closes),
        (&[chunked!("1\r\nab\r\n0\r\n\r\n")], "400", Closes),
        (&[chunked!("1;\r\na\r\n0\r\n\r\n")], "400", Closes),
        (&[chunked!("1;a\u{1}\r\na\r\n0\r\n\r\n")], "400", Closes),
        (&[chunked!("0x1\r\na\r\n0\r\n\r\n")], "400", Closes),
        (&[chunked!("00000000000000001\r\na\r\n0\r\n\r\n")], "400", Closes),
        (&[chunked!("fffffffffffffffe\r\na")], "413", Closes),
        (&[chunked!("1\r\na\r\nffffffffffffffff\r\n")], "413", Closes),
        (&[chunked!("1\r\na\r\n")], "", Waits),
        (&[chunked!("0\r\nnot a field\r\n\r\n")], "400", Closes),
        (&[chunked!("0\r\nGET / HTTP/1.1\r\n\r\n")], "400", Closes),
    ]);
}

#[test]
fn lines_folds_and_control_bytes() {
    check(&[
        (&["\r\n\r\nGET /hello HTTP/1.1\r\nHost: a\r\n\r\n"], "200", Stays),
        (&["GET /hello HTTP/1.1\r\nHost: a\r\n\r\n\r\n"], "200", Stays),
        (&["\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n"], "400", Closes),
        (&["\r\n\r\n\r\n\r\n", "\r\n\r\n\r\n\r\n\r\n"], "400", Closes),
        (&["\nGET /hello HTTP/1.1\r\nHost: a\r\n\r\n"], "400", Closes),
        (&[" GET /hello HTTP/1.1\r\nHost: a\r\n\r\n"], "400", Closes),
        (&["GET /hello HTTP/1.1\n"], "400", Closes),
        (&["GET /hello HTTP/1.1\r\nHost: a\n"], "400", Closes),
        (&["GET /hello HTTP/1.1\r\nHost: a\r\n\n"], "400", Closes),
        (&["GET /hello HTTP/1.1\r\nHost: a\r\nX: b\rY: c\r\n\r\n"], "400", Closes),
        (&["GET /hello HTTP/1.1\r\n\rHost: a\r\n\r\n"], "400", Closes),
        (&["GET /hello HTTP/1.1\r\nHost: a\r\nX: b\r\n\tc\r\n\r\n"], "400", Closes),
        (&["GET /hello HTTP/1.1\r\n X: b\r\nHost: a\r\n\r\n"], "400", Closes),
        (&["GET /hello HTTP/1.1\r\nHost: a\r\nX: \0\r\n\r\n"], "400", Closes),
        (&["GET /hello HTTP/1.1\r\nHost: a\r\nX: \u{7f}"], "400", Closes),
        (&["\u{16}\u{3}\u{1}\u{2}\0\u{1}"], "400", Closes),
        (&["GET /hello HTTP/1.1\r\nHost: a\r\nX: \u{e9}\u{ff}\r\n\r\n"], "200", Stays),
    ]);
}

#[test]
fn fields() {
    check(&[
        (&["GET /inspect HTTP/1.1\r\nHOST:a\r\nx-test:\t b c \t\r\n\r\n"], "200", Stays),
        (&["GET /inspect HTTP/1.1\r\nX-TEST:\r\nhost: a\r\n\r\n"], "200", Stays),
        (&["GET /hello HTTP/1.1\r\nHost: a\r\nX : b\r\n\r\n"], "400", Closes),
        (&["GET /hello HTTP/1.1\r\nHost: a\r\n: b\r\n\r\n"], "400", Closes),
        (&["GET /hello HTTP/1.1\r\nHost: a\r\nX\r\n\r\n"], "400", Closes),
        (&["GET /hello HTTP/1.1\r\nHost: a\r\nX(Y): b\r\n\r\n"], "400", Closes),
        (&["GET /hello HTTP/1.1\r\nHost: a\r\nX\u{e9}: b\r\n\r\n"], "400", Closes),
    ]);
}

#[test]
fn hosts_and_targets() {
    check(&[
        (&["GET /hello HTTP/1.1\r\n\r\n"], "400", Closes),
        (&["GET /hello HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n"], "400", Closes),
        (&["GET /hello HTTP/1.1\r\nHost: a/b\r\n\r\n"], "400", Closes),
        (&["GET /hello HTTP/1.1\r\nHost: [::1]:8080\r\n\r\n"], "200", Stays),
        (&["GET http://b:81/inspect?x HTTP/1.1\r\nHost: a\r\n\r\n"], "200", Stays),
        (&["GET http://b/hello HTTP/1.1\r\n\r\n"], "400", Closes),
        (&["GET http:///hello HTTP/1.1\r\nHost: a\r\n\r\n"], "400", Closes),
        (&["GET gopher://a/ HTTP/1.1\r\nHost: a\r\n\r\n"], "400", Closes),
        (&["OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n"], "200", Stays),
        (&["GET * HTTP/1.1\r\nHost: a\r\n\r\n"], "400", Closes),
        (&["CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n"], "501", Closes),
        (&["GET hello HTTP/1.1\r\nHost: a\r\n\r\n"], "400", Closes),
        (&["GET /hello#x HTTP/1.1\r\nHost: a\r\n\r\n"], "400", Closes),
        (&["GET /h\u{e9} HTTP/1.1\r\nHost: a\r\n\r\n"], "400", Closes),
        (&["GET  /hello HTTP/1.1\r\nHost: a\r\n\r\n"], "400", Closes),
        (&["GET /hel lo HTTP/1.1\r\nHost: a\r\n\r\n"], "400", Closes),
    ]);
}

#[test]
fn methods_and_versions() {
    check(&[
        (&["get /inspect HTTP/1.1\r\nHost: a\r\n\r\n"], "200", Stays),
        (&["MKCOL-2! /hello HTTP/1.1\r\nHost: a\r\n\r\n"], "200", Stays),
        (&["G{T /hello HTTP/1.1\r\nHost: a\r\n\r\n"], "400", Closes),
        (&["/hello HTTP/1.1\r\nHost: a\r\n\r\n"], "400", Closes),
        (&["GET /hello HTTP/1.0\r\n\r\n"], "200", Closes),
        (&["GET /hello HTTP/2.0\r\nHost: a\r\n\r\n"], "505", Closes),
        (&["GET /hello HTTP/1.2\r\nHost: a\r\n\r\n"], "505", Closes),
        (&["GET /hello HTTP/1.11\r\nHost: a\r\n\r\n"], "400", Closes),
        (&["GET /hello HTTPS/1.1\r\nHost: a\r\n\r\n"], "400", Closes),
        (&["GET /hello\r\n"], "400", Closes),
        (&["PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"], "505", Closes),
    ]);
}

#[test]
fn limits() {
    let answer = |request: String| {
        let mut b = Bench::new();
        b.send(request.as_bytes());
        let (bytes, closed) = b.receive();
        (statuses(&String::from_utf8_lossy(&bytes)).join(" "), closed)
    };
    let long = |n| "x".repeat(n);
    assert_eq!(answer(format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", long(8000))), ("200".into(), false));
    assert_eq!(answer(format!("GET /{}", long(8192))), ("414".into(), true));
    assert_eq!(answer(long(8193)), ("501".into(), true));
    assert_eq!(
        answer(format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", long(30_000))),
        ("200".into(), false)
    );
    assert_eq!(answer(format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}", long(33_000))), ("431".into(), true));
    assert_eq!(
        answer(format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: y\r\n".repeat(99))),
        ("200".into(), false)
    );
    assert_eq!(
        answer(format!("GET / HTTP/1.1\r\nHost: a\r\n{}", "X: y\r\n".repeat(100))),
        ("431".into(), true)
    );
    let put = "PUT / HTTP/1.1\r\nHost: a\r\n";
    assert_eq!(answer(format!("{put}Content-Length: 8388609\r\n\r\n")), ("413".into(), true));
    assert_eq!(answer(format!("{put}Content-Length: 8388608\r\n\r\n")), (String::new(), false));
    let chunked = format!("{put}Transfer-Encoding: chunked\r\n\r\n");
    assert_eq!(answer(format!("{chunked}800001\r\n")), ("413".into(), true));
    assert_eq!(answer(format!("{chunked}1;{}", long(33_000))), ("400".into(), true));
    assert_eq!(answer(format!("{chunked}0\r\nX: {}", long(33_000))), ("431".into(), true));
}

#[test]
fn pipelines() {
    check(&[
        (
            &[
                "GET /hello HTTP/1.1\r\nHost: a\r\n\r\nHEAD /hello HTTP/1.1\r\nHost: a\r\n\r\nGET /204 HTTP/1.1\r\nHost: a\r\n\r\n",
            ],
            "200 200 204",
            Stays,
        ),
        (
            &[
                "PUT /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nabGET /hello HTTP/1.1\r\nHost: a\r\n\r\nGE",
                "T /304 HTTP/1.1\r\nHost: a\r\n\r\n",
            ],
            "200 200 304",
            Stays,
        ),
        (
            &[
                "GET /hello HTTP/1.1\r\nHost: a\r\n\r\nGET /hello HTTP/1.1\r\n\r\nGET /hello HTTP/1.1\r\nHost: a\r\n\r\n",
            ],
            "200 400",
            Closes,
        ),
        (&["GET /hello HTTP/1.0\r\n\r\nGET /hello HTTP/1.1\r\nHost: a\r\n\r\n"], "200", Closes),
        (
            &[
                "GET /hello HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\nGET /hello HTTP/1.1\r\nHost: a\r\n\r\n",
            ],
            "200",
            Closes,
        ),
        (
            &[
                "POST /hello HTTP/1.1\r\nHost: a\r\nContent-Length: 35\r\n\r\nGET /204 HTTP/1.1\r\nHost: hidden\r\n\r\n",
            ],
            "200",
            Stays,
        ),
    ]);
}

#[test]
fn connection_options() {
    check(&[
        (&["GET /hello HTTP/1.1\r\nHost: a\r\nConnection: Keep-Alive\r\n\r\n"], "200", Stays),
        (&["GET /hello HTTP/1.1\r\nHost: a\r\nConnection: x, close\r\n\r\n"], "200", Closes),
        (
            &["GET /hello HTTP/1.1\r\nHost: a\r\nConnection: close\r\nConnection: keep-alive\r\n\r\n"],
            "200",
            Closes,
        ),
        (&["GET /hello HTTP/1.1\r\nHost: a\r\nConnection: closed\r\n\r\n"], "200", Stays),
        (&["GET /hello HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"], "200", Stays),
        (&["GET /close HTTP/1.1\r\nHost: a\r\n\r\n"], "200", Closes),
    ]);
}

#[test]
fn expectations() {
    check(&[
        (
            &["PUT /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nExpect: 100-Continue\r\n\r\n", "ab"],
            "100 200",
            Stays,
        ),
        (
            &[
                "PUT /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nExpect: 100-continue\r\n\r\n",
                "1\r\na\r\n",
                "0\r\n\r\n",
            ],
            "100 200",
            Stays,
        ),
        (
            &["PUT /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\na", "b"],
            "200",
            Stays,
        ),
        (
            &["PUT /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\nab"],
            "200",
            Stays,
        ),
        (
            &["PUT /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nExpect: 100-continue\r\n\r\n"],
            "200",
            Stays,
        ),
        (
            &["PUT /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 9999999999\r\nExpect: 100-continue\r\n\r\n"],
            "413",
            Closes,
        ),
        (&["PUT /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nExpect: a miracle\r\n\r\n"], "417", Closes),
        (&["PUT /echo HTTP/1.0\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n", "ab"], "200", Closes),
    ]);
}

#[test]
fn upgrades_the_handler_does_not_accept_are_ignored() {
    check(&[
        (&["GET /hello HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n"], "200", Stays),
        (&["GET /hello HTTP/1.1\r\nHost: a\r\nUpgrade: echo\r\n\r\n"], "200", Stays),
        (
            &[
                "PUT /echo HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: x\r\nContent-Length: 1\r\n\r\naGET /hello HTTP/1.1\r\nHost: a\r\n\r\n",
            ],
            "200 200",
            Stays,
        ),
    ]);
}
