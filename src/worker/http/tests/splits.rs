//! The same responses, however the client's bytes are split into reads.

use super::responses::without_date;
use super::*;
use proptest::prelude::*;

/// Sends the pieces, then the end of the side. Returns all responses, whether the connection ended before that, and the number
/// of requests.
fn talk<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> (String, bool, u64) {
    let mut b = Bench::new();
    let (mut got, mut closed) = (Vec::new(), false);
    for piece in pieces.filter(|p| !p.is_empty()) {
        b.send(piece);
        let (bytes, end) = b.receive();
        got.extend_from_slice(&bytes);
        closed |= end;
    }
    b.end();
    got.extend_from_slice(&b.receive().0);
    // A 100 depends on how much has arrived.
    let text = String::from_utf8_lossy(&got).replace("HTTP/1.1 100 Continue\r\n\r\n", "");
    (without_date(&text), closed, b.page.get(Word::Requests))
}

pub(super) fn pieces<'a>(bytes: &'a [u8], cuts: &'a [usize]) -> impl Iterator<Item = &'a [u8]> {
    let starts = std::iter::once(0).chain(cuts.iter().copied());
    starts.zip(cuts.iter().copied().chain([bytes.len()])).map(|(from, to)| &bytes[from..to])
}

/// A line of a head, valid or not.
fn line() -> impl Strategy<Value = &'static str> {
    prop_oneof![
        20 => prop::sample::select(vec![
            "X-Test: value\r\n", "Accept: */*\r\n", "Connection: keep-alive\r\n", "Expect: 100-continue\r\n", "X:\r\n",
            "Cookie: a=b; c=d\r\n",
        ]),
        2 => prop::sample::select(vec![
            "Connection: close\r\n", "Host: b\r\n", "Content-Length: 1\r\n", "Transfer-Encoding: chunked\r\n", "Expect: x\r\n",
        ]),
        1 => prop::sample::select(vec![
            "X: a\n", "X\r\n", " fold\r\n", "X : a\r\n", "X: \0\r\n", "\r", "Content-Length: +1\r\n", "Transfer-Encoding: x\r\n",
        ]),
    ]
}

fn request_line() -> impl Strategy<Value = &'static str> {
    prop_oneof![
        20 => prop::sample::select(vec![
            "GET /hello HTTP/1.1\r\n", "POST /echo HTTP/1.1\r\n", "HEAD /stream HTTP/1.1\r\n", "PUT /inspect?a HTTP/1.1\r\n",
            "GET /stream HTTP/1.1\r\n", "OPTIONS * HTTP/1.1\r\n", "\r\nGET /204 HTTP/1.1\r\n", "GET http://c/echo HTTP/1.1\r\n",
        ]),
        1 => prop::sample::select(vec![
            "GET /hello HTTP/1.0\r\n", "GET /hello HTTP/3.1\r\n", "GET /hello\r\n", "GET  / HTTP/1.1\r\n", "\n", "CONNECT a:1 HTTP/1.1\r\n",
            "GET /close HTTP/1.1\r\n", "\u{1}",
        ]),
    ]
}

/// The end of a head, and a body that fits its fields.
fn body() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec![
        "\r\n",
        "\r\n",
        "Content-Length: 11\r\n\r\nhello world",
        "Content-Length: 0\r\n\r\n",
        "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        "Transfer-Encoding: chunked\r\n\r\n5;a=\"b\"\r\nhello\r\n1\r\n \r\n5\r\nworld\r\n0\r\nT: r\r\n\r\n",
        "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\n0\r\n\r\n",
        "Transfer-Encoding: chunked\r\n\r\n5\r\nhel",
        "Content-Length: 50\r\n\r\nhello world",
    ])
}

/// The places of cuts in so many bytes, in order, given as shares of them.
pub(super) fn places(cuts: &[f64], len: usize) -> Vec<usize> {
    let mut places: Vec<usize> = cuts.iter().map(|cut| (cut * len as f64) as usize).collect();
    places.sort_unstable();
    places
}

pub(super) fn request() -> impl Strategy<Value = String> {
    (request_line(), proptest::collection::vec(line(), 0..4), body())
        .prop_map(|(first, lines, body)| format!("{first}Host: a\r\n{}{body}", lines.concat()))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn any_split_gets_the_same_answers(
        requests in proptest::collection::vec(request(), 1..5),
        cuts in proptest::collection::vec(0.0..1.0f64, 0..12),
    ) {
        let bytes = requests.concat().into_bytes();
        let cuts = places(&cuts, bytes.len());
        let whole = talk(std::iter::once(&bytes[..]));
        prop_assert_eq!(&talk(pieces(&bytes, &cuts)), &whole);
        prop_assert_eq!(&talk(bytes.chunks(1)), &whole);
    }

    #[test]
    fn any_bytes_get_the_same_answers(
        bytes in proptest::collection::vec(
            prop_oneof![
                prop::sample::select(b"GET /:\r\n HTTP/1.10;x".to_vec()),
                any::<u8>(),
            ],
            0..200,
        ),
    ) {
        prop_assert_eq!(talk(bytes.chunks(1)), talk(std::iter::once(&bytes[..])));
    }
}

proptest! {
    #[test]
    fn the_fuzz_target_holds_for_requests(requests in proptest::collection::vec(request(), 1..4)) {
        fuzzing::request(requests.concat().as_bytes());
    }
}

#[test]
fn a_long_pipeline_is_answered_in_order_whatever_the_cut() {
    let one = |i: usize| format!("PUT /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n{i:05}");
    let bytes: String = (0..300).map(one).collect();
    let whole = talk(std::iter::once(bytes.as_bytes()));
    assert_eq!(whole.2, 300);
    for size in [7, 64, 1000, 4096] {
        assert_eq!(talk(bytes.as_bytes().chunks(size)), whole, "{size}");
    }
}
