//! Bodies of parts, `multipart/form-data` (RFC 7578, with the syntax of RFC 2046 section 5.1): whole ones, and ones that come in
//! pieces. One scanner reads both.

use super::parameters::{essence, parameter};
use super::token::trim;
use std::borrow::Cow;
use std::fmt;

/// The most bytes of the head of a part.
const MAX_HEAD: usize = 16 * 1024;
/// The most spaces and tabs behind a boundary (RFC 2046: transport padding).
const MAX_PADDING: usize = 64;
/// The longest boundary (RFC 2046 section 5.1.1).
const MAX_BOUNDARY: usize = 70;

/// A body is not of parts, or breaks the rules for them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Malformed {
    /// The content type of the request is not `multipart/form-data` with a boundary.
    Type,
    /// A part has no name, or its head is no head or longer than 16 KiB.
    Head,
    /// The body ends before its last part does.
    End,
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Type => "the content type is not multipart/form-data with a boundary",
            Self::Head => "the head of a part is malformed",
            Self::End => "the body ends within a part",
        })
    }
}

impl std::error::Error for Malformed {}

/// A part of a form: a field, or a file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Part<'a> {
    /// The name of the field.
    pub name: Cow<'a, [u8]>,
    /// The name of the file, as the client gave it: not to be used as a path, and with `%22` for a quote from browsers. `None` if the part
    /// is no file.
    pub filename: Option<Cow<'a, [u8]>>,
    /// The content type; `None` if the client gave none, which means text.
    pub content_type: Option<&'a [u8]>,
    /// The bytes; empty in [`PartEvent::Begin`].
    pub data: &'a [u8],
    head: &'a [u8],
}

impl<'a> Part<'a> {
    fn new(head: &'a [u8]) -> Result<Self, Malformed> {
        // A NUL or a bare CR or LF could be the end of a field for another reader.
        let is_control = |line: &[u8]| line.iter().any(|b| *b == 0 || *b == b'\r' || *b == b'\n');
        if lines(head).any(|line| is_control(line) || !line.is_empty() && field(line).is_none()) {
            return Err(Malformed::Head);
        }
        let disposition = value(head, b"content-disposition").ok_or(Malformed::Head)?;
        if !essence(disposition).eq_ignore_ascii_case(b"form-data") {
            return Err(Malformed::Head);
        }
        let name = parameter(disposition, b"name").ok_or(Malformed::Head)?;
        let filename = parameter(disposition, b"filename");
        Ok(Self { name, filename, content_type: value(head, b"content-type"), data: b"", head })
    }

    /// The value of the first header field of this part with a name, compared without case.
    pub fn header(&self, name: &str) -> Option<&'a [u8]> {
        value(self.head, name.as_bytes())
    }
}

fn lines(head: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = Some(head);
    std::iter::from_fn(move || {
        let all = rest?;
        let end = all.windows(2).position(|at| at == b"\r\n");
        rest = end.map(|end| &all[end + 2..]);
        Some(end.map_or(all, |end| &all[..end]))
    })
}

fn field(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let colon = line.iter().position(|b| *b == b':')?;
    Some((&line[..colon], trim(&line[colon + 1..])))
}

fn value<'a>(head: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    lines(head).filter_map(field).find(|(own, _)| own.eq_ignore_ascii_case(name)).map(|(_, value)| value)
}

/// What comes next in a body of parts.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PartEvent<'a> {
    /// A part begins.
    Begin(Part<'a>),
    /// Bytes of the part that began last; never empty.
    Data(&'a [u8]),
    /// That part is complete.
    End,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// At the first byte, where a boundary has no CRLF in front.
    Start,
    /// In front of the first boundary.
    Preamble,
    /// In the head of a part.
    Head,
    /// In the bytes of a part.
    Data,
    /// Behind the last part. What follows is not looked at.
    Done,
}

/// Finds the parts in bytes.
#[derive(Clone, Debug)]
struct Scanner {
    /// CR, LF, two hyphens and the boundary.
    delimiter: Vec<u8>,
    state: State,
}

/// What follows the characters of a delimiter.
enum After {
    /// The head of a part, behind this many bytes.
    Part(usize),
    /// The end of the last part.
    Last,
    /// Other bytes: it is none.
    Other,
    /// More has to come.
    Unknown,
}

/// A delimiter, or bytes that may become one.
enum Found {
    /// It begins at the first number; the head of a part at the second.
    Part(usize, usize),
    /// It begins there, and is that behind the last part.
    Last(usize),
    /// None ends before this number; more has to come for what follows.
    Unknown(usize),
}

impl Scanner {
    fn new(content_type: Option<&[u8]>) -> Result<Self, Malformed> {
        let value = content_type.unwrap_or_default();
        let boundary = parameter(value, b"boundary").unwrap_or_default();
        let is_form = essence(value).eq_ignore_ascii_case(b"multipart/form-data");
        if !is_form || boundary.is_empty() || boundary.len() > MAX_BOUNDARY {
            return Err(Malformed::Type);
        }
        Ok(Self { delimiter: [b"\r\n--", &*boundary].concat(), state: State::Start })
    }

    /// The next event in `bytes` from `at` on, which is moved behind what was used. `None`: more bytes are needed behind those left.
    fn next<'a>(&mut self, bytes: &'a [u8], at: &mut usize) -> Result<Option<PartEvent<'a>>, Malformed> {
        loop {
            let rest = bytes.get(*at..).unwrap_or_default();
            match self.state {
                State::Start => {
                    let first = &self.delimiter[2..];
                    let after = match rest.strip_prefix(first) {
                        Some(tail) => after(tail),
                        None if first.starts_with(rest) => After::Unknown,
                        None => After::Other,
                    };
                    (*at, self.state) = match after {
                        After::Unknown => return Ok(None),
                        After::Part(n) => (*at + first.len() + n, State::Head),
                        After::Last => (bytes.len(), State::Done),
                        After::Other => (*at, State::Preamble),
                    };
                }
                State::Preamble => match self.find(rest) {
                    Found::Part(_, head) => (*at, self.state) = (*at + head, State::Head),
                    Found::Last(_) => self.state = State::Done,
                    Found::Unknown(before) => {
                        *at += before;
                        return Ok(None);
                    }
                },
                State::Head => {
                    let window = &rest[..rest.len().min(MAX_HEAD)];
                    let Some(end) = window.windows(4).position(|at| at == b"\r\n\r\n") else {
                        return if rest.len() < MAX_HEAD { Ok(None) } else { Err(Malformed::Head) };
                    };
                    (*at, self.state) = (*at + end + 4, State::Data);
                    return Part::new(&rest[..end]).map(|part| Some(PartEvent::Begin(part)));
                }
                State::Data => {
                    let (before, next) = match self.find(rest) {
                        Found::Part(start, head) => (start, Some((head, State::Head))),
                        Found::Last(start) => (start, Some((rest.len(), State::Done))),
                        Found::Unknown(before) => (before, None),
                    };
                    if before > 0 {
                        *at += before;
                        return Ok(Some(PartEvent::Data(&rest[..before])));
                    }
                    let Some((used, state)) = next else { return Ok(None) };
                    (*at, self.state) = (*at + used, state);
                    return Ok(Some(PartEvent::End));
                }
                State::Done => {
                    *at = bytes.len();
                    return Ok(None);
                }
            }
        }
    }

    fn find(&self, bytes: &[u8]) -> Found {
        let mut from = 0;
        while let Some(cr) = bytes[from..].iter().position(|b| *b == b'\r') {
            let start = from + cr;
            let candidate = &bytes[start..];
            from = start + 1;
            let Some(tail) = candidate.strip_prefix(&*self.delimiter) else {
                if self.delimiter.starts_with(candidate) {
                    return Found::Unknown(start);
                }
                continue;
            };
            match after(tail) {
                After::Part(n) => return Found::Part(start, start + self.delimiter.len() + n),
                After::Last => return Found::Last(start),
                After::Unknown => return Found::Unknown(start),
                // A line that only begins like a boundary, perhaps of a longer one.
                After::Other => {}
            }
        }
        Found::Unknown(bytes.len())
    }
}

/// Looks at what follows the characters of a delimiter: the rest of its line (RFC 2046 section 5.1.1).
fn after(tail: &[u8]) -> After {
    if tail.starts_with(b"--") {
        return After::Last;
    }
    let padding = tail.iter().take_while(|b| matches!(b, b' ' | b'\t')).count();
    match &tail[padding..] {
        _ if padding > MAX_PADDING => After::Other,
        [b'\r', b'\n', ..] => After::Part(padding + 2),
        [] | [b'\r'] => After::Unknown,
        [b'-'] if padding == 0 => After::Unknown,
        _ => After::Other,
    }
}

/// The parts of a whole body.
pub(super) fn parts<'a>(content_type: Option<&[u8]>, body: &'a [u8]) -> Result<Vec<Part<'a>>, Malformed> {
    let mut scanner = Scanner::new(content_type)?;
    let mut parts: Vec<Part<'a>> = Vec::new();
    let (mut at, mut start) = (0, 0);
    while let Some(event) = scanner.next(body, &mut at)? {
        match event {
            PartEvent::Begin(part) => {
                parts.push(part);
                start = at;
            }
            // All bytes of a part lie one behind the other.
            PartEvent::Data(_) => {
                if let Some(part) = parts.last_mut() {
                    part.data = &body[start..at];
                }
            }
            PartEvent::End => {}
        }
    }
    if scanner.state == State::Done { Ok(parts) } else { Err(Malformed::End) }
}

/// Reads a form (`multipart/form-data`) that comes in pieces, for [`crate::Handler::on_body`]: [`Multipart::feed`] each piece, then take
/// [`Multipart::next`] until there is none. It keeps at most 16 KiB that are not decided yet.
///
/// ```
/// # fn body(form: &mut prefork::Multipart, piece: &[u8], last: bool) -> Result<(), prefork::Malformed> {
/// form.feed(piece);
/// while let Some(event) = form.next()? {
///     match event {
///         prefork::PartEvent::Begin(part) => println!("{}", String::from_utf8_lossy(&part.name)),
///         prefork::PartEvent::Data(bytes) => println!("{} bytes", bytes.len()),
///         _ => {}
///     }
/// }
/// if last { form.finish() } else { Ok(()) }
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Multipart {
    scanner: Scanner,
    buffer: Vec<u8>,
    used: usize,
}

impl Multipart {
    /// A reader for a body of this content type; [`crate::Request::multipart`] makes that of a request.
    ///
    /// # Errors
    /// [`Malformed::Type`].
    pub fn new(content_type: &[u8]) -> Result<Self, Malformed> {
        Ok(Self { scanner: Scanner::new(Some(content_type))?, buffer: Vec::new(), used: 0 })
    }

    /// Adds the next piece of the body.
    pub fn feed(&mut self, piece: &[u8]) {
        if self.scanner.state == State::Done {
            return;
        }
        self.buffer.drain(..self.used);
        self.used = 0;
        self.buffer.extend_from_slice(piece);
    }

    /// The next event; `None` if the next piece is needed, or the last part has ended.
    ///
    /// # Errors
    /// [`Malformed::Head`]. Each further call then returns an error, too.
    #[allow(clippy::should_implement_trait, reason = "it lends what it returns")]
    pub fn next(&mut self) -> Result<Option<PartEvent<'_>>, Malformed> {
        let Self { scanner, buffer, used } = self;
        let before = *used;
        let event = scanner.next(buffer, used);
        if event.is_err() {
            // The same head is found again.
            (scanner.state, *used) = (State::Head, before);
        }
        event
    }

    /// Checks at the end of the body that its last part is complete.
    ///
    /// # Errors
    /// [`Malformed::End`].
    pub fn finish(&self) -> Result<(), Malformed> {
        if self.scanner.state == State::Done { Ok(()) } else { Err(Malformed::End) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TYPE: &[u8] = b"multipart/form-data; boundary=XX";

    /// Names, names of files, and bytes.
    type Shown = Vec<(String, Option<String>, String)>;

    fn text(bytes: &[u8]) -> String {
        bytes.escape_ascii().to_string()
    }

    fn whole(body: &[u8]) -> Result<Shown, Malformed> {
        let all = parts(Some(TYPE), body)?;
        Ok(all.iter().map(|p| (text(&p.name), p.filename.as_deref().map(text), text(p.data))).collect())
    }

    /// The same from pieces that end at these places.
    fn pieces(body: &[u8], ends: &[usize]) -> Result<Shown, Malformed> {
        let mut form = Multipart::new(TYPE)?;
        let mut shown = Shown::new();
        let mut data = Vec::new();
        let mut start = 0;
        for end in ends.iter().copied().chain([body.len()]) {
            form.feed(&body[start..end]);
            start = end;
            while let Some(event) = form.next()? {
                match event {
                    PartEvent::Begin(part) => {
                        assert!(data.is_empty() && part.data.is_empty());
                        shown.push((text(&part.name), part.filename.as_deref().map(text), String::new()));
                    }
                    PartEvent::Data(bytes) => {
                        assert!(!bytes.is_empty());
                        data.extend_from_slice(bytes);
                    }
                    PartEvent::End => shown.last_mut().unwrap().2 = text(&std::mem::take(&mut data)),
                }
            }
            assert!(form.buffer.len() - form.used <= MAX_HEAD + MAX_PADDING + 80);
        }
        form.finish().map(|()| shown)
    }

    fn part(fields: &str, data: &str) -> String {
        format!("--XX\r\nContent-Disposition: form-data; {fields}\r\n\r\n{data}\r\n")
    }

    #[test]
    fn forms_as_clients_send_them_are_read() {
        let body = part("name=\"a\"", "1")
            + &part(
                "name=\"f\"; filename=\"x y.txt\"\r\nContent-Type: text/plain",
                "line\r\n--X\r\n--XXX\r\n",
            )
            + &part("name=a", "")
            + "--XX--\r\n";
        let expected =
            [("a", None, "1"), ("f", Some("x y.txt"), r"line\r\n--X\r\n--XXX\r\n"), ("a", None, "")];
        let expected: Shown =
            expected.iter().map(|(n, f, d)| ((*n).into(), f.map(Into::into), (*d).into())).collect();
        for body in [
            body.clone(),
            format!("preamble\r\n{body}epilogue --XX"),
            format!("\r\n{}", body.replace("--XX\r\n", "--XX \t\r\n")),
        ] {
            assert_eq!(whole(body.as_bytes()), Ok(expected.clone()), "{body}");
            for end in 0..body.len() {
                assert_eq!(pieces(body.as_bytes(), &[end]), Ok(expected.clone()), "{end}: {body}");
            }
        }
        let all = parts(Some(TYPE), body.as_bytes()).unwrap();
        assert_eq!((all[1].content_type, all[0].content_type), (Some(&b"text/plain"[..]), None));
        assert_eq!(all[1].header("CONTENT-type"), Some(&b"text/plain"[..]));
        assert_eq!(whole(b"--XX--").map(|parts| parts.len()), Ok(0));
    }

    #[test]
    fn what_is_no_form_is_refused() {
        for (body, why) in [
            ("", Malformed::End),
            ("text", Malformed::End),
            ("--XX", Malformed::End),
            ("--XX\r\nContent-Disposition: form-data; name=a\r\n\r\nrest\r\n--XX-", Malformed::End),
            ("--XX\r\nContent-Disposition: form-data; name=a\r\n\r\n--XX--", Malformed::End),
            ("--XX\r\nContent-Disposition: form-data\r\n\r\n\r\n--XX--", Malformed::Head),
            ("--XX\r\nContent-Disposition: attachment; name=a\r\n\r\n\r\n--XX--", Malformed::Head),
            ("--XX\r\nContent-Type: text/plain\r\n\r\n\r\n--XX--", Malformed::Head),
            ("--XX\r\n\r\n\r\n\r\n--XX--", Malformed::Head),
            ("--XX\r\nno field\r\n\r\n\r\n--XX--", Malformed::Head),
            ("--XX\r\nContent-Disposition: form-data; name=\"a\nb\"\r\n\r\n\r\n--XX--", Malformed::Head),
        ] {
            assert_eq!(whole(body.as_bytes()), Err(why), "{body}");
            assert_eq!(pieces(body.as_bytes(), &[body.len() / 2]), Err(why), "{body}");
        }
        let long = format!("--XX\r\nContent-Disposition: form-data; name=a\r\nX: {}", "x".repeat(MAX_HEAD));
        assert_eq!(whole(long.as_bytes()), Err(Malformed::Head));
        for of in ["", "text/plain", "multipart/form-data", "multipart/mixed; boundary=XX"] {
            assert_eq!(parts(Some(of.as_bytes()), b"").unwrap_err(), Malformed::Type, "{of}");
        }
        let long = format!("multipart/form-data; boundary={}", "x".repeat(71));
        assert_eq!(parts(Some(long.as_bytes()), b"").unwrap_err(), Malformed::Type);
    }

    #[test]
    fn after_an_error_there_is_nothing_more() {
        let mut form = Multipart::new(TYPE).unwrap();
        form.feed(b"--XX\r\nX: y\r\n\r\ndata\r\n--XX--");
        for _ in 0..3 {
            assert_eq!(form.next(), Err(Malformed::Head));
        }
        assert_eq!(form.finish(), Err(Malformed::End));
    }

    /// Bytes that are likely to be parts of a form.
    fn bytes() -> impl Strategy<Value = Vec<u8>> {
        let word = prop_oneof![
            Just("\r\n--XX\r\n"),
            Just("\r\n--XX--"),
            Just("--XX"),
            Just("\r"),
            Just("\n"),
            Just("-"),
            Just("x"),
            Just("\r\n\r\n"),
            Just("Content-Disposition: form-data; name=a"),
            Just("\r\n--X"),
            Just(" "),
        ];
        proptest::collection::vec(word, 0..30).prop_map(|words| words.concat().into_bytes())
    }

    proptest! {
        #[test]
        fn pieces_are_read_as_the_whole(body in bytes(), cuts: Vec<proptest::sample::Index>) {
            let mut ends: Vec<_> = cuts.iter().map(|cut| cut.index(body.len() + 1)).collect();
            ends.sort_unstable();
            prop_assert_eq!(pieces(&body, &ends), whole(&body));
        }

        #[test]
        fn what_is_written_is_read(files in proptest::collection::vec(("[a-z\"\\\\é ]{0,8}", bytes()), 0..6)) {
            let mut body = Vec::new();
            let mut expected = Shown::new();
            for (name, data) in &files {
                // Without the boundary, as a client makes sure.
                let data = text(data).replace("XX", "X").into_bytes();
                let escaped = name.replace('\\', "\\\\").replace('"', "\\\"");
                body.extend(format!("--XX\r\nContent-Disposition: form-data; name=\"{escaped}\"\r\n\r\n").bytes());
                body.extend_from_slice(&data);
                body.extend_from_slice(b"\r\n");
                expected.push((text(name.as_bytes()), None, text(&data)));
            }
            body.extend_from_slice(b"--XX--");
            prop_assert_eq!(whole(&body), Ok(expected));
        }

        #[test]
        fn any_bytes_are_read(body: Vec<u8>, of: Vec<u8>) {
            let _ = (whole(&body), parts(Some(&of), &body));
        }
    }
}
