//! A complete head: request line and fields are parsed by httparse, then checked by the rules it leaves to us (RFC 9112 sections
//! 3, 6 and 9.3, RFC 9110 sections 7.2, 7.8, 8.6 and 10.1.1).
//!
//! Whatever two readers could understand in two ways is refused.

use super::fault::Fault;
use super::target::{self, Target};
use super::token;
use httparse::{Error, Header, Status};
use std::mem::MaybeUninit;

/// The most header fields a request may have, whatever the settings say.
const MAX_FIELDS: usize = 1000;

/// Room for httparse's table of fields; on the stack, and not initialised.
pub(super) type Table<'b> = [MaybeUninit<Header<'b>>; MAX_FIELDS];

/// A table for every head.
pub(super) const fn table<'b>() -> Table<'b> {
    [const { MaybeUninit::uninit() }; MAX_FIELDS]
}

/// The length of a body (RFC 9112 section 6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Length {
    /// A number of bytes; 0 if there is neither Content-Length nor Transfer-Encoding.
    Sized(u64),
    /// Marked by the chunks.
    Chunked,
}

/// The request line. Its parts are ASCII.
pub(super) struct RequestLine<'b> {
    pub method: &'b [u8],
    pub target: Target<'b>,
    pub minor: u8,
}

/// The place of a field in a head of at most 64 KiB.
#[derive(Clone, Copy)]
pub(super) struct Place {
    pub name: u16,
    pub name_end: u16,
    pub value: u16,
    pub value_end: u16,
}

impl Place {
    /// Name and value of the field.
    fn of(self, head: &[u8]) -> Option<(&[u8], &[u8])> {
        let part = |start, end| head.get(usize::from(start)..usize::from(end));
        part(self.name, self.name_end).zip(part(self.value, self.value_end))
    }
}

/// The fields, in the order sent.
#[derive(Clone, Copy)]
pub(super) enum Fields<'b> {
    /// As httparse has found them.
    Parsed(&'b [Header<'b>]),
    /// The head, and the places in it that [`super::quick`] has found.
    Places(&'b [u8], &'b [Place]),
}

impl<'b> Fields<'b> {
    pub fn len(self) -> usize {
        match self {
            Self::Parsed(fields) => fields.len(),
            Self::Places(_, places) => places.len(),
        }
    }

    /// Name, a token, and value of a field.
    pub fn get(self, index: usize) -> Option<(&'b [u8], &'b [u8])> {
        match self {
            Self::Parsed(fields) => fields.get(index).map(|field| (field.name.as_bytes(), field.value)),
            Self::Places(head, places) => places.get(index)?.of(head),
        }
    }

    /// The values of the fields with this name.
    pub fn named(self, name: &[u8]) -> impl Iterator<Item = &'b [u8]> {
        (0..self.len())
            .filter_map(move |index| self.get(index))
            .filter(|(other, _)| other.eq_ignore_ascii_case(name))
            .map(|(_, value)| value)
    }
}

/// A request's head, borrowed from the bytes it was read from.
pub(super) struct Head<'b> {
    /// Its bytes, with those of the empty line at its end.
    pub len: usize,
    pub line: RequestLine<'b>,
    /// The effective host (RFC 9112 section 3.3); ASCII.
    pub host: &'b [u8],
    pub fields: Fields<'b>,
    pub length: Length,
    /// The client can use the connection for another request.
    pub keep_alive: bool,
    /// The client waits for a 100 before it sends the body.
    pub expects_continue: bool,
    /// The Upgrade field counts, as Connection names it.
    pub upgrade: bool,
}

impl<'b> Head<'b> {
    /// Parses a head that [`super::scan::Scan`] has found complete.
    pub fn parse(bytes: &'b [u8], table: &'b mut [MaybeUninit<Header<'b>>]) -> Result<Self, Fault> {
        let mut request = httparse::Request::new(&mut []);
        match request.parse_with_uninit_headers(bytes, table) {
            Ok(Status::Complete(len)) => Self::check(request, len),
            Ok(Status::Partial) => Err(Fault::bad("the head does not end where its lines do")),
            Err(e) => Err(fault_of(e, bytes)),
        }
    }

    /// Checks what httparse leaves to us.
    fn check(request: httparse::Request<'b, 'b>, len: usize) -> Result<Self, Fault> {
        let (Some(method), Some(raw), Some(minor)) = (request.method, request.path, request.version) else {
            return Err(Fault::bad("no request line"));
        };
        let line = RequestLine { method: method.as_bytes(), target: target::parse(method, raw)?, minor };
        let fields: &'b [Header<'b>] = request.headers;
        let mut rules = Rules::default();
        for field in fields {
            rules.add(field.name.as_bytes(), field.value)?;
        }
        Self::new(len, line, Fields::Parsed(fields), &rules)
    }

    /// A head of these parts, if the rules allow it.
    #[inline(always)]
    pub fn new(
        len: usize,
        line: RequestLine<'b>,
        fields: Fields<'b>,
        rules: &Rules<'b>,
    ) -> Result<Self, Fault> {
        let minor = line.minor;
        let host = rules.host(minor)?;
        let length = rules.length(minor)?;
        if rules.expects_other && minor > 0 {
            return Err(Fault::new(417, "100-continue is the only expectation supported"));
        }
        Ok(Self {
            len,
            host: line.target.authority.unwrap_or(host),
            line,
            fields,
            length,
            keep_alive: !rules.close && (minor == 1 || rules.keep_alive),
            expects_continue: rules.expects_continue && minor > 0,
            upgrade: rules.upgrade && minor == 1,
        })
    }
}

/// Parses one line, with its CRLF, of a head that is not complete, or of a trailer section.
pub(super) fn check_line(line: &[u8], is_request_line: bool) -> Result<(), Fault> {
    let parsed = if is_request_line {
        httparse::Request::new(&mut []).parse(line).map(drop)
    } else {
        httparse::parse_headers(line, &mut [httparse::EMPTY_HEADER]).map(drop)
    };
    parsed.map_err(|e| fault_of(e, line))
}

fn fault_of(error: Error, head: &[u8]) -> Fault {
    match error {
        Error::Version if names_http_version(head) => {
            Fault::new(505, "only versions 1.1 and 1.0 are supported")
        }
        Error::Version => Fault::bad("the request line does not end in an HTTP version"),
        Error::HeaderName => Fault::bad("a header line that does not start with a field name and a colon"),
        Error::HeaderValue => Fault::bad("a byte that a field value may not have"),
        Error::TooManyHeaders => Fault::new(431, "too many header fields"),
        Error::Token => Fault::bad("the request line is not a method, a target and a version"),
        Error::NewLine | Error::Status => Fault::bad("a line that does not end in CRLF"),
    }
}

/// True if the request line has three parts, the last of them `HTTP/`, a digit, a point and a digit.
fn names_http_version(head: &[u8]) -> bool {
    let line = head.split(|b| *b == b'\r').next().unwrap_or_default();
    let mut parts = line.split(|b| *b == b' ').skip(2);
    let (Some(version), None) = (parts.next(), parts.next()) else { return false };
    matches!(version, [b'H', b'T', b'T', b'P', b'/', major, b'.', minor] if major.is_ascii_digit() && minor.is_ascii_digit())
}

/// The fields that frame the message or control the connection, gathered over all lines.
#[derive(Default)]
pub(super) struct Rules<'b> {
    host: Option<&'b [u8]>,
    /// The host is known to be valid.
    host_is_plain: bool,
    length: Option<&'b [u8]>,
    coding: Option<&'b [u8]>,
    close: bool,
    keep_alive: bool,
    upgrade: bool,
    expects_continue: bool,
    expects_other: bool,
}

impl<'b> Rules<'b> {
    /// Adds a Host field; `is_plain` if it is known to have letters, digits, `-` and `.` alone.
    #[inline]
    pub fn add_host(&mut self, value: &'b [u8], is_plain: bool) -> Result<(), Fault> {
        self.host_is_plain = is_plain;
        set_once(&mut self.host, value, "more than one Host field")
    }

    /// Adds the options of a Connection field.
    fn add_options(&mut self, value: &[u8]) {
        for option in token::list(value) {
            self.close |= token::is(option, b"close");
            self.keep_alive |= token::is(option, b"keep-alive");
            self.upgrade |= token::is(option, b"upgrade");
        }
    }

    /// Adds a field.
    #[inline]
    pub fn add(&mut self, name: &[u8], value: &'b [u8]) -> Result<(), Fault> {
        let is = |known| token::is(name, known);
        // The length of a name tells most fields apart at once.
        match name.len() {
            4 if is(b"Host") => self.add_host(value, false),
            6 if is(b"Expect") => {
                for expectation in token::list(value).filter(|e| !e.is_empty()) {
                    let known = token::is(expectation, b"100-continue");
                    self.expects_continue |= known;
                    self.expects_other |= !known;
                }
                Ok(())
            }
            10 if is(b"Connection") => {
                // Most have one option. To look for commas takes 70 instructions.
                match value {
                    b"close" => self.close = true,
                    b"keep-alive" => self.keep_alive = true,
                    _ => self.add_options(value),
                }
                Ok(())
            }
            14 if is(b"Content-Length") => {
                set_once(&mut self.length, value, "more than one Content-Length field")
            }
            17 if is(b"Transfer-Encoding") => {
                set_once(&mut self.coding, value, "more than one Transfer-Encoding field")
            }
            _ => Ok(()),
        }
    }

    /// The Host field, which must be valid even if the target names another host (RFC 9112 section 3.2).
    fn host(&self, minor: u8) -> Result<&'b [u8], Fault> {
        match self.host {
            Some(value) if self.host_is_plain || value.is_empty() || target::is_authority(value) => Ok(value),
            Some(_) => Err(Fault::bad("the Host field is not a host with an optional port")),
            None if minor == 0 => Ok(b""),
            None => Err(Fault::bad("no Host field")),
        }
    }

    /// RFC 9112 sections 6.1 to 6.3.
    #[inline]
    fn length(&self, minor: u8) -> Result<Length, Fault> {
        match (self.coding, self.length) {
            (None, None) => Ok(Length::Sized(0)),
            (None, Some(digits)) => parse_length(digits).map(Length::Sized),
            (Some(_), Some(_)) => Err(Fault::bad("both Transfer-Encoding and Content-Length")),
            (Some(_), None) if minor == 0 => Err(Fault::bad("Transfer-Encoding in HTTP/1.0")),
            (Some(coding), None) if coding.eq_ignore_ascii_case(b"chunked") => Ok(Length::Chunked),
            (Some(coding), None) => Err(fault_of_coding(coding)),
        }
    }
}

fn set_once<'b>(field: &mut Option<&'b [u8]>, value: &'b [u8], fault: &'static str) -> Result<(), Fault> {
    if field.replace(value).is_some() { Err(Fault::bad(fault)) } else { Ok(()) }
}

/// Digits and nothing else. A number over 64 bits is over every limit, and becomes the largest.
fn parse_length(digits: &[u8]) -> Result<u64, Fault> {
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return Err(Fault::bad("Content-Length is not a number"));
    }
    Ok(digits.iter().fold(0, |n: u64, d| n.saturating_mul(10).saturating_add(u64::from(d - b'0'))))
}

/// 501 if codings other than `chunked` come before it, as another server may know them; 400 if the length is unknown.
fn fault_of_coding(coding: &[u8]) -> Fault {
    let is_chunked = |c: &[u8]| c.eq_ignore_ascii_case(b"chunked");
    let before = token::list(coding).count() - 1;
    let mut codings = token::list(coding);
    if codings.by_ref().take(before).all(|c| token::is_token(c) && !is_chunked(c))
        && codings.next().is_some_and(is_chunked)
    {
        Fault::new(501, "chunked is the only transfer coding supported")
    } else {
        Fault::bad("Transfer-Encoding is not chunked")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn length_of(version: &str, fields: &str) -> Result<Length, u16> {
        let head = format!("POST / HTTP/{version}\r\nHost: a\r\n{fields}\r\n");
        Head::parse(head.as_bytes(), &mut table()).map(|h| h.length).map_err(|f| f.status)
    }

    #[test]
    fn lengths_are_digits_once() {
        assert_eq!(length_of("1.1", ""), Ok(Length::Sized(0)));
        assert_eq!(length_of("1.1", "content-length:\t007 \r\n"), Ok(Length::Sized(7)));
        assert_eq!(
            length_of("1.1", "Content-Length: 99999999999999999999999\r\n"),
            Ok(Length::Sized(u64::MAX))
        );
        for bad in ["", "+1", "-1", "1,1", "1 1", "0x1", "1.0", "1_0", "\u{661}"] {
            assert_eq!(length_of("1.1", &format!("Content-Length: {bad}\r\n")), Err(400), "{bad:?}");
        }
        assert_eq!(length_of("1.1", "Content-Length: 1\r\nContent-Length: 1\r\n"), Err(400));
    }

    #[test]
    fn chunked_is_the_only_coding() {
        assert_eq!(length_of("1.1", "Transfer-Encoding: Chunked\r\n"), Ok(Length::Chunked));
        for (coding, status) in [
            ("gzip, chunked", 501),
            ("chunked, chunked", 400),
            ("chunked, gzip", 400),
            ("chunked,", 400),
            ("", 400),
            ("xchunked", 400),
            ("chunked;q=1", 400),
            ("a b, chunked", 400),
        ] {
            assert_eq!(
                length_of("1.1", &format!("Transfer-Encoding: {coding}\r\n")),
                Err(status),
                "{coding:?}"
            );
        }
        assert_eq!(length_of("1.0", "Transfer-Encoding: chunked\r\n"), Err(400));
        assert_eq!(length_of("1.1", "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n"), Err(400));
        assert_eq!(
            length_of("1.1", "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n"),
            Err(400)
        );
    }

    fn status_of(head: &str) -> Result<String, u16> {
        let host = |h: Head<'_>| str::from_utf8(h.host).unwrap().to_owned();
        Head::parse(head.as_bytes(), &mut table()).map(host).map_err(|f| f.status)
    }

    #[test]
    fn the_host_is_one_and_the_target_rules_it() {
        assert_eq!(status_of("GET / HTTP/1.1\r\nHost: a:80\r\n\r\n"), Ok("a:80".into()));
        assert_eq!(status_of("GET http://b/ HTTP/1.1\r\nHost: a\r\n\r\n"), Ok("b".into()));
        assert_eq!(status_of("GET / HTTP/1.0\r\n\r\n"), Ok(String::new()));
        assert_eq!(status_of("GET / HTTP/1.1\r\n\r\n"), Err(400));
        assert_eq!(status_of("GET / HTTP/1.1\r\nHost: a\r\nhost: a\r\n\r\n"), Err(400));
        assert_eq!(status_of("GET / HTTP/1.0\r\nHost: a b\r\n\r\n"), Err(400));
    }

    #[test]
    fn versions_are_one_point_one_or_nought() {
        let with = |version: &str| status_of(&format!("GET / {version}\r\nHost: a\r\n\r\n"));
        assert_eq!(with("HTTP/1.1"), Ok("a".into()));
        for other in ["HTTP/0.9", "HTTP/1.2", "HTTP/2.0"] {
            assert_eq!(with(other), Err(505), "{other}");
        }
        for bad in [
            "HTTP/1.10",
            "HTTP/11",
            "http/1.1",
            "HTTP /1.1",
            "HTTP/1.1 ",
            "HTTP/1.",
            "",
            "HTTP/+1.1",
            " HTTP/1.1",
        ] {
            assert_eq!(with(bad), Err(400), "{bad:?}");
        }
    }

    #[test]
    fn connection_options_count_on_every_line() {
        let keeps = |version: &str, fields: &str| {
            let head = format!("GET / HTTP/{version}\r\nHost: a\r\n{fields}\r\n");
            Head::parse(head.as_bytes(), &mut table()).map(|h| h.keep_alive).unwrap()
        };
        assert!(keeps("1.1", ""));
        assert!(keeps("1.1", "Connection: x-close\r\n"));
        assert!(!keeps("1.1", "Connection: keep-alive\r\nConnection: a ,CLOSE\r\n"));
        assert!(!keeps("1.0", ""));
        assert!(keeps("1.0", "Connection: Keep-Alive\r\n"));
        assert!(!keeps("1.0", "Connection: keep-alive, close\r\n"));
    }

    #[test]
    fn expectations_other_than_100_continue_fail() {
        let expects = |version: &str, fields: &str| {
            let head = format!("PUT / HTTP/{version}\r\nHost: a\r\n{fields}\r\n");
            Head::parse(head.as_bytes(), &mut table()).map(|h| h.expects_continue).map_err(|f| f.status)
        };
        assert_eq!(expects("1.1", "Expect: 100-Continue\r\n"), Ok(true));
        assert_eq!(expects("1.1", "Expect:\r\n"), Ok(false));
        assert_eq!(expects("1.1", "Expect: more\r\n"), Err(417));
        assert_eq!(expects("1.0", "Expect: 100-continue\r\n"), Ok(false));
    }
}
