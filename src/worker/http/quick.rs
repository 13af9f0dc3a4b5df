//! The heads of nearly all requests, parsed in one pass: those that are complete, with a path for a target and lines that end in CRLF.
//!
//! Any other head, and each that is not sound, is left to the scan and httparse, which find out what is missing, or which fault comes
//! first. Only a part of the syntax is accepted here; the rules are those of `head.rs` in any case.

use super::head::{Fields, Head, Place, RequestLine, Rules};
use super::target::Target;
use super::token::{is_tchar, trim_end};
use crate::config::Limits;

/// The longest head that is parsed here, so that a place is small.
const LONGEST: usize = u16::MAX as usize;

/// Parses the head at the start of `bytes` if it is complete, of the usual form, and sound.
#[inline]
pub(super) fn parse<'b>(bytes: &'b [u8], limits: &Limits, places: &'b mut Vec<Place>) -> Option<Head<'b>> {
    let bytes = &bytes[..bytes.len().min(LONGEST)];
    let line = request_line(bytes)?;
    let fields = line.method.len() + SPACE + line.target.raw.len() + VERSION.len();
    let mut at = fields;
    let mut rules = Rules::default();
    places.clear();
    while !starts_with(bytes, at, CRLF) {
        // The one name that every request has need not be searched for its end.
        let is_host = starts_with(bytes, at, b"Host:");
        let name_end = if is_host { at + 4 } else { token_end(bytes, at)? };
        if !starts_with(bytes, name_end, b":") || name_end == at || places.len() == limits.headers {
            return None;
        }
        let mut value = name_end + 1;
        while let Some(b' ' | b'\t') = bytes.get(value) {
            value += 1;
        }
        // Nearly every host ends where the line does.
        let plain_end = if is_host { find(bytes, value, not_plain)? } else { value };
        let end = if bytes.get(plain_end) == Some(&b'\r') { plain_end } else { line_end(bytes, plain_end)? };
        if !starts_with(bytes, end, CRLF) {
            return None;
        }
        let value_end = value + trim_end(&bytes[value..end]).len();
        places.push(Place {
            name: at as u16,
            name_end: name_end as u16,
            value: value as u16,
            value_end: value_end as u16,
        });
        let (name, value) = (&bytes[at..name_end], &bytes[value..value_end]);
        if is_host { rules.add_host(value, plain_end == end) } else { rules.add(name, value) }.ok()?;
        at = end + CRLF.len();
    }
    let within = fields - CRLF.len() <= limits.line && at <= limits.head;
    let len = at + CRLF.len();
    if within { Head::new(len, line, Fields::Places(bytes, places), &rules).ok() } else { None }
}

/// The request line at the start of `bytes`.
#[inline]
fn request_line(bytes: &[u8]) -> Option<RequestLine<'_>> {
    let method_end = if bytes.starts_with(b"GET ") { 3 } else { token_end(bytes, 0)? };
    let method = &bytes[..method_end];
    let start = method_end + SPACE;
    if !starts_with(bytes, method_end, b" /") || method.is_empty() || method == b"CONNECT" {
        return None;
    }
    let path_end = find(bytes, start, not_path)?;
    let (mut end, mut query) = (path_end, None);
    if bytes[path_end] == b'?' {
        end = find(bytes, path_end + 1, not_query)?;
        query = Some(&bytes[path_end + 1..end]);
    }
    let target = Target { raw: &bytes[start..end], path: &bytes[start..path_end], query, authority: None };
    let minor = if starts_with(bytes, end, VERSION) {
        1
    } else if starts_with(bytes, end, b" HTTP/1.0\r\n") {
        0
    } else {
        return None;
    };
    Some(RequestLine { method, target, minor })
}

#[inline]
fn starts_with<const N: usize>(bytes: &[u8], at: usize, wanted: &[u8; N]) -> bool {
    bytes.get(at..).is_some_and(|rest| rest.starts_with(wanted))
}

/// The index of the first byte, from `at` on, that is in no token.
#[inline]
fn token_end(bytes: &[u8], at: usize) -> Option<usize> {
    let end = find(bytes, at, not_plain)?;
    Some(end + bytes[end..].iter().take_while(|b| is_tchar(**b)).count())
}

/// The index of the control byte, from `at` on, at which a line ends. HTAB does not end it.
#[inline]
fn line_end(bytes: &[u8], mut at: usize) -> Option<usize> {
    loop {
        let end = find(bytes, at, controls)?;
        if bytes[end] != b'\t' {
            return Some(end);
        }
        at = end + 1;
    }
}

/// The index of the first byte, from `at` on, that `marks` marks.
#[inline]
fn find(bytes: &[u8], mut at: usize, marks: impl Fn(u64) -> u64) -> Option<usize> {
    while let Some(word) = bytes.get(at..)?.first_chunk() {
        let found = marks(u64::from_le_bytes(*word)) & HIGH;
        if found != 0 {
            return Some(at + found.trailing_zeros() as usize / 8);
        }
        at += WORD;
    }
    // The last word begins before `at`.
    let before = at + WORD - bytes.len();
    let found = (marks(u64::from_le_bytes(*bytes.last_chunk()?)) & HIGH).checked_shr(before as u32 * 8)?;
    if found == 0 { None } else { Some(at + found.trailing_zeros() as usize / 8) }
}

// The following test eight bytes at once, in plain arithmetic: vector instructions are faster for long values only, and whether a
// compiler uses them is not to be relied on. The highest bit of each byte says whether it is marked; the other bits mean nothing.

/// Marks the control bytes; what follows the first of them may be marked wrongly.
#[inline]
fn controls(word: u64) -> u64 {
    // A borrow comes from a byte that is marked itself.
    let del = word ^ (EACH * 0x7f);
    (word.wrapping_sub(EACH * 0x20) & !word) | (del.wrapping_sub(EACH) & !del)
}

/// Marks all but most bytes of the names of fields and hosts: letters, digits, `-` and `.`.
#[inline]
fn not_plain(word: u64) -> u64 {
    let lower = word | (EACH * 0x20);
    let is_letter = at_least(b'a', lower) & !at_least(b'z' + 1, lower);
    let is_digit = at_least(b'0', word) & !at_least(b'9' + 1, word);
    let is_sign = at_least(b'-', word) & !at_least(b'.' + 1, word);
    !(is_letter | is_digit | is_sign) | word
}

/// Marks the bytes that no path has: all but visible ASCII, and the start of a query or a fragment.
#[inline]
fn not_path(word: u64) -> u64 {
    !differs(b'?', word) | not_query(word)
}

/// Marks the bytes that no query has.
#[inline]
fn not_query(word: u64) -> u64 {
    !(at_least(b' ' + 1, word) & differs(0x7f, word) & differs(b'#', word)) | word
}

/// Marks the bytes of ASCII that are `least` or more; any others may be marked.
#[inline]
fn at_least(least: u8, word: u64) -> u64 {
    (word & !HIGH) + EACH * u64::from(0x80 - least)
}

/// Marks the bytes of ASCII that are not `byte`; any others may be marked.
#[inline]
fn differs(byte: u8, word: u64) -> u64 {
    ((word & !HIGH) ^ (EACH * u64::from(byte))) + !HIGH
}

const EACH: u64 = u64::from_ne_bytes([1; WORD]);
const HIGH: u64 = EACH * 0x80;
const WORD: usize = 8;
const SPACE: usize = 1;
const CRLF: &[u8; 2] = b"\r\n";
const VERSION: &[u8; 11] = b" HTTP/1.1\r\n";

#[cfg(test)]
mod tests {
    use super::super::fault::Fault;
    use super::super::head;
    use super::super::scan::Scan;
    use super::*;
    use crate::config::Config;
    use proptest::prelude::*;

    /// All that a head says, but for the place of its end.
    #[derive(Debug, PartialEq)]
    struct Said {
        len: usize,
        line: Vec<Vec<u8>>,
        query: Option<Vec<u8>>,
        minor: u8,
        host: Vec<u8>,
        fields: Vec<(Vec<u8>, Vec<u8>)>,
        length: head::Length,
        flags: [bool; 3],
    }

    fn said(head: &Head<'_>) -> Said {
        let Target { raw, path, query, authority } = head.line.target;
        let field = |i| head.fields.get(i).map(|(name, value)| (name.to_vec(), value.to_vec()));
        Said {
            len: head.len,
            line: [head.line.method, raw, path, authority.unwrap_or_default()].map(<[u8]>::to_vec).into(),
            query: query.map(<[u8]>::to_vec),
            minor: head.line.minor,
            host: head.host.to_vec(),
            fields: (0..head.fields.len()).filter_map(field).collect(),
            length: head.length,
            flags: [head.keep_alive, head.expects_continue, head.upgrade],
        }
    }

    fn quickly(bytes: &[u8], limits: &Limits) -> Option<Said> {
        parse(bytes, limits, &mut Vec::new()).map(|head| said(&head))
    }

    /// The head as the scan and httparse find it.
    fn slowly(bytes: &[u8], limits: &Limits) -> Result<Option<Said>, Fault> {
        let Some(len) = Scan::default().run(bytes, limits)? else { return Ok(None) };
        Head::parse(&bytes[..len], &mut head::table()).map(|head| Some(said(&head)))
    }

    /// What is parsed here is what the scan and httparse find.
    #[track_caller]
    fn compare(bytes: &[u8], limits: &Limits) {
        if let Some(head) = quickly(bytes, limits) {
            assert_eq!(slowly(bytes, limits), Ok(Some(head)), "{}", bytes.escape_ascii());
        }
    }

    const HEADS: [&str; 6] = [
        "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /a/b?c=d?e HTTP/1.1\r\nHost: www.example.com:8080\r\nAccept: */*\r\nX_1.y: \tz \r\nEmpty:\r\nConnection: Keep-Alive, close\r\n\r\n",
        "POST /{} HTTP/1.1\r\nhost: [::1]\r\nContent-Length: 5\r\nExpect: 100-continue\r\n!#$%&'*+-.^_`|~: \u{e9}\r\n\r\nhello",
        "PURGE /? HTTP/1.0\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: \r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\nGET / HTTP/1.1",
        "PUT /x HTTP/1.1\r\nHost:a-b_c.d\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n",
    ];

    #[test]
    fn the_usual_heads_are_parsed_here_as_soon_as_they_are_complete() {
        let limits = Config::default().limits;
        for head in HEADS {
            let len = quickly(head.as_bytes(), &limits).unwrap().len;
            assert!(head[..len].ends_with("\r\n\r\n"), "{head:?}");
            for end in 0..head.len() {
                assert_eq!(
                    quickly(&head.as_bytes()[..end], &limits).is_some(),
                    end >= len,
                    "{head:?} to {end}"
                );
                compare(&head.as_bytes()[..end], &limits);
            }
            compare(head.as_bytes(), &limits);
        }
    }

    #[test]
    fn all_others_are_left_to_the_scan() {
        let limits = Config::default().limits;
        let long = format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "x".repeat(70_000));
        for other in [
            "CONNECT / HTTP/1.1\r\nHost: a\r\n\r\n",
            "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET http://a/ HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET /# HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET / HTTP/1.1\nHost: a\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\n\n",
            "GET / HTTP/1.1\r\nHost : a\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\n b: c\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\rb\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\n: b\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n",
            "GET / HTTP/1.1\r\n\r\n",
            "GET / HTTP/1.2\r\nHost: a\r\n\r\n",
            "GET  / HTTP/1.1\r\nHost: a\r\n\r\n",
            " GET / HTTP/1.1\r\nHost: a\r\n\r\n",
            "\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
            &long,
        ] {
            assert!(quickly(other.as_bytes(), &limits).is_none(), "{other:?}");
        }
    }

    proptest! {
        #[test]
        fn a_byte_is_found_where_a_plain_loop_finds_it(
            bytes in proptest::collection::vec(prop_oneof![40 => Just(b'a'), 1 => any::<u8>()], 8..80), from in 0usize..80,
        ) {
            let from = from % (bytes.len() + 1);
            let naive = |ends: fn(u8) -> bool| bytes[from..].iter().position(|b| ends(*b)).map(|i| from + i);
            prop_assert_eq!(line_end(&bytes, from), naive(|b| b != b'\t' && b.is_ascii_control()));
            prop_assert_eq!(find(&bytes, from, not_plain), naive(|b| !b.is_ascii_alphanumeric() && !b"-.".contains(&b)));
            prop_assert_eq!(find(&bytes, from, not_path), naive(|b| !b.is_ascii_graphic() || b"?#".contains(&b)));
            prop_assert_eq!(find(&bytes, from, not_query), naive(|b| !b.is_ascii_graphic() || b == b'#'));
        }

        #[test]
        fn a_head_with_any_fault_is_no_other_head(
            head in prop::sample::select(HEADS.to_vec()),
            faults in proptest::collection::vec((0usize..200, 0usize..3, prop_oneof![
                any::<u8>(), prop::sample::select(b"\r\n\t :,?#/.aH10\x7f\x80".to_vec())]), 1..4),
        ) {
            let mut bytes = head.as_bytes().to_vec();
            for (at, what, byte) in faults {
                let at = at % bytes.len();
                match what {
                    0 => bytes[at] = byte,
                    1 => bytes.insert(at, byte),
                    _ => drop(bytes.remove(at)),
                }
            }
            compare(&bytes, &Config::default().limits);
        }

        #[test]
        fn pieces_in_any_order_are_what_the_scan_takes(
            start in prop::sample::select(vec!["", "", "", "\n", "\r\n"]),
            line in prop::sample::select(vec!["GET / HTTP/1.1\r\n", "GET /a?b HTTP/1.0\r\n", "HEAD /\u{e9} HTTP/1.1\r\n", "X /\r\n"]),
            fields in proptest::collection::vec(prop::sample::select(vec![
                "Host: a\r\n", "Host: a b\r\n", "HOST:a:80 \r\n", "X:\t y \r\n", "X:\r\n", "X: y\r\n", "X: a\n", "X: \r\r\n", "X : y\r\n",
                " folded\r\n", "Content-Length: 7\r\n", "content-length: +7\r\n", "Transfer-Encoding: chunked\r\n", "Expect: 100-continue\r\n",
                "Connection: close\r\n", "Connection:upgrade , x\r\n", "X\u{e9}: y\r\n", "X: \u{e9}\r\n",
            ]), 0..5),
            end in prop::sample::select(vec!["\r\n", "\r\n", "\r\nGET", "\n", "\r"]),
            (line_limit, head_limit, headers) in (13usize..20, 22usize..80, 0usize..5),
        ) {
            let mut limits = Config::default().limits;
            let text = [start, line, &fields.concat(), end].concat();
            compare(text.as_bytes(), &limits);
            (limits.line, limits.head, limits.headers) = (line_limit, head_limit, headers);
            compare(text.as_bytes(), &limits);
        }
    }
}
