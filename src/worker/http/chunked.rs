//! Decoding of the chunked coding in place, as the bytes arrive (RFC 9112 section 7.1).
//!
//! Only CRLF ends a line, a size has 1 to 16 digits, extensions and trailers follow the grammar and share a budget; both are
//! dropped. The result does not depend on how the bytes are split into reads.

use super::fault::Fault;
use super::head;
use super::token::{is_field_value, is_tchar, trim_start};

const CRLF: &[u8] = b"\r\n";

/// The decoder's state between two reads.
#[derive(Clone, Copy, Debug)]
pub(super) struct Chunked {
    part: Part,
    /// The number of decoded bytes, which are at the front of the buffer.
    decoded: usize,
    /// Bytes after them that hold no end of a line.
    searched: usize,
    /// Bytes that extensions and trailers may still have.
    budget: usize,
}

/// The part of the body that comes next.
#[derive(Clone, Copy, Debug)]
enum Part {
    Size,
    /// The rest of the line with a chunk's size.
    Extensions(u64),
    /// So many bytes of a chunk's data.
    Data(u64),
    DataEnd,
    Trailer,
}

/// The outcome of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Piece {
    /// More bytes are needed; so many at the front of the buffer are kept, the rest is used up.
    More(usize),
    /// The body is complete: its length, from the front, and the number of bytes it took.
    End { len: usize, used: usize },
}

impl Chunked {
    /// `budget`: bytes that all extensions and trailers together may have.
    pub fn new(budget: usize) -> Self {
        Self { part: Part::Size, decoded: 0, searched: 0, budget }
    }

    /// The number of decoded bytes, which the caller takes from the front of what the last call has kept.
    pub fn take_decoded(&mut self) -> usize {
        std::mem::take(&mut self.decoded)
    }

    /// Decodes `bytes`: those that the last call kept, followed by new ones. `limit` is the length of the longest body allowed.
    pub fn decode(&mut self, bytes: &mut [u8], limit: u64) -> Result<Piece, Fault> {
        let mut at = self.decoded;
        while at < bytes.len() {
            let rest = &bytes[at..];
            match self.part {
                Part::Size => {
                    let limit = limit.saturating_sub(self.decoded as u64);
                    let Some((size, digits)) = parse_size(rest, limit)? else { break };
                    at += digits;
                    self.part = Part::Extensions(size);
                }
                Part::Extensions(size) => {
                    let Some(line) = self.line(rest, Fault::bad("chunk extensions are too long"))? else {
                        break;
                    };
                    if !are_extensions(line) {
                        return Err(Fault::bad("a malformed chunk extension"));
                    }
                    at += line.len() + CRLF.len();
                    self.part = if size == 0 { Part::Trailer } else { Part::Data(size) };
                }
                Part::Data(left) => {
                    let n = usize::try_from(left).map_or(rest.len(), |left| left.min(rest.len()));
                    if at != self.decoded {
                        bytes.copy_within(at..at + n, self.decoded);
                    }
                    at += n;
                    self.decoded += n;
                    let left = left - n as u64;
                    self.part = if left == 0 { Part::DataEnd } else { Part::Data(left) };
                }
                Part::DataEnd if rest.starts_with(CRLF) => {
                    at += CRLF.len();
                    self.part = Part::Size;
                }
                Part::DataEnd if rest == b"\r" => break,
                Part::DataEnd => return Err(Fault::bad("chunk data longer than announced")),
                Part::Trailer => {
                    let too_long = Fault::new(431, "the trailer section is too long");
                    let Some(line) = self.line(rest, too_long)? else { break };
                    let len = line.len() + CRLF.len();
                    at += len;
                    if line.is_empty() {
                        return Ok(Piece::End { len: self.decoded, used: at });
                    }
                    head::check_line(&rest[..len], false)
                        .map_err(|_| Fault::bad("a malformed trailer field"))?;
                }
            }
        }
        // The start of a size or a line is kept until the rest of it has arrived.
        bytes.copy_within(at.., self.decoded);
        Ok(Piece::More(self.decoded + bytes.len() - at))
    }

    /// The line at the start of `rest`, without its CRLF, paid from the budget; `None` if its end has not arrived.
    fn line<'b>(&mut self, rest: &'b [u8], too_long: Fault) -> Result<Option<&'b [u8]>, Fault> {
        let end = rest[self.searched..].iter().position(|b| matches!(b, b'\r' | b'\n'));
        self.searched = end.map_or(rest.len(), |i| self.searched + i);
        let (line, end) = rest.split_at(self.searched);
        let budget = self.budget.checked_sub(line.len()).ok_or(too_long)?;
        match end {
            [] | [b'\r'] => Ok(None),
            [b'\r', b'\n', ..] => {
                (self.searched, self.budget) = (0, budget);
                Ok(Some(line))
            }
            _ => Err(Fault::bad("a line that does not end in CRLF")),
        }
    }
}

/// A chunk's size, at most `limit`, and its number of digits; `None` if more may follow.
fn parse_size(bytes: &[u8], limit: u64) -> Result<Option<(u64, usize)>, Fault> {
    let (digits, rest) = split_while(bytes, |b| b.is_ascii_hexdigit());
    let digit = |b: u8| u64::from((b as char).to_digit(16).unwrap_or_default());
    let size = digits.iter().fold(0, |n, b| n << 4 | digit(*b));
    match (digits.len(), rest.first()) {
        (0..=16, None) => Ok(None),
        // Refused before its data come.
        (1..=16, Some(_)) if size > limit => Err(Fault::new(413, "the body is too large")),
        (1..=16, Some(b'\r' | b';' | b' ' | b'\t')) => Ok(Some((size, digits.len()))),
        _ => Err(Fault::bad("a chunk size that is not 1 to 16 hexadecimal digits")),
    }
}

/// True for `*( BWS ";" BWS name [ BWS "=" BWS value ] )` (RFC 9112 section 7.1.1).
fn are_extensions(mut rest: &[u8]) -> bool {
    while !rest.is_empty() {
        let Some(name) = trim_start(rest).strip_prefix(b";") else { return false };
        let (name, after) = split_while(trim_start(name), is_tchar);
        if name.is_empty() {
            return false;
        }
        rest = after;
        let Some(value) = trim_start(after).strip_prefix(b"=") else { continue };
        let value = trim_start(value);
        let len = match value {
            [b'"', ..] => quoted_len(value),
            _ => split_while(value, is_tchar).0.len(),
        };
        if len == 0 {
            return false;
        }
        rest = &value[len..];
    }
    true
}

/// The length of the quoted string at the start of `value` (RFC 9110 section 5.6.4); 0 if it is malformed.
fn quoted_len(value: &[u8]) -> usize {
    let mut at = 1;
    while let Some(byte) = value.get(at) {
        at += match byte {
            b'"' if is_field_value(&value[..at]) => return at + 1,
            b'\\' => 2,
            _ => 1,
        };
    }
    0
}

/// Splits `bytes` before the first byte that `is_inside` is false for.
fn split_while(bytes: &[u8], is_inside: impl Fn(u8) -> bool) -> (&[u8], &[u8]) {
    bytes.split_at(bytes.iter().position(|b| !is_inside(*b)).unwrap_or(bytes.len()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LIMIT: u64 = 1000;

    /// The body and the bytes used, or the status of the refusal; `None` if more is needed.
    type Verdict = Result<Option<(Vec<u8>, usize)>, u16>;

    fn decode_split(input: &[u8], cuts: &[usize]) -> Verdict {
        let mut chunked = Chunked::new(100);
        let mut buf = Vec::new();
        let mut from = 0;
        for end in cuts.iter().copied().chain([input.len()]) {
            let taken = from;
            let before = buf.len();
            buf.extend_from_slice(&input[from..end]);
            from = end;
            match chunked.decode(&mut buf, LIMIT).map_err(|f| f.status)? {
                Piece::More(len) => buf.truncate(len),
                Piece::End { len, used } => return Ok(Some((buf[..len].to_vec(), taken + used - before))),
            }
        }
        Ok(None)
    }

    fn decode(input: &str) -> Verdict {
        decode_split(input.as_bytes(), &[])
    }

    #[test]
    fn chunks_are_joined_and_the_rest_left_alone() {
        assert_eq!(decode("5\r\nhello\r\n0\r\n\r\nGET"), Ok(Some((b"hello".to_vec(), 15))));
        assert_eq!(
            decode("1\r\na\r\n0A\r\n0123456789\r\n000\r\n\r\n"),
            Ok(Some((b"a0123456789".to_vec(), 29)))
        );
        assert_eq!(decode("0\r\nA: b\r\nC:\r\n\r\n"), Ok(Some((vec![], 15))));
    }

    #[test]
    fn extensions_follow_the_grammar() {
        for good in [";a", ";a=b", ";a=\"b;\\\"\r\"", " ;\ta = b ; c", ";a=\"\"", ";a;b=c;d"] {
            let good = good.replace('\r', "");
            assert!(matches!(decode(&format!("1{good}\r\nx\r\n0{good}\r\n\r\n")), Ok(Some(_))), "{good:?}");
        }
        for bad in [
            ";",
            ";;a",
            ";a=",
            ";a=\"",
            " ",
            "\t",
            ";a ",
            ";a=b ",
            ";=b",
            ";a\0",
            ";a\n",
            ";a\rb",
            ";a=\"b\"c",
            ",a",
            ";a=b=c",
        ] {
            assert_eq!(decode(&format!("1{bad}\r\nx\r\n0\r\n\r\n")), Err(400), "{bad:?}");
        }
        let long = format!(";{}", "a".repeat(60));
        assert_eq!(decode(&format!("1{long}\r\nx\r\n1{long}\r\n")), Err(400));
    }

    #[test]
    fn sizes_are_sixteen_digits_at_most_and_under_the_limit() {
        assert_eq!(decode("3e9\r\n"), Err(413));
        assert_eq!(decode("3e8\r\n"), Ok(None));
        assert_eq!(decode("FFFFFFFFFFFFFFFF\r\n"), Err(413));
        assert_eq!(decode("1\r\nx\r\nFFFFFFFFFFFFFFFF\r\n"), Err(413));
        for bad in
            ["10000000000000000", "", "-1", "+1", "0x1", "1_0", "g", "\r\n", "1.0", "\u{661}", "1\n", "1\r0"]
        {
            assert_eq!(decode(&format!("{bad}\r\nx\r\n")), Err(400), "{bad:?}");
        }
    }

    #[test]
    fn trailers_are_checked_and_dropped() {
        for bad in ["A b: c", "no colon", " A: b", ": c", "A: b\0", "A: b\n"] {
            assert_eq!(decode(&format!("0\r\n{bad}\r\n\r\n")), Err(400), "{bad:?}");
        }
        assert_eq!(decode(&format!("0\r\nA: {}", "b".repeat(200))), Err(431));
        assert_eq!(decode("0\r\n\n"), Err(400));
    }

    /// A plain reader of the whole input: sizes by `from_str_radix`, no extensions and no trailers.
    fn oracle(input: &[u8]) -> Verdict {
        let (mut body, mut at) = (Vec::new(), 0);
        loop {
            let line = input[at..].iter().take_while(|b| b.is_ascii_hexdigit()).count();
            if line > 16 {
                return Err(400);
            }
            let text = str::from_utf8(&input[at..at + line]).unwrap();
            let rest = &input[at + line..];
            if rest.is_empty() {
                return Ok(None);
            }
            let Ok(size) = u64::from_str_radix(text, 16) else { return Err(400) };
            if size > LIMIT - body.len() as u64 {
                return Err(413);
            }
            let mark = match due(rest, b"\r\n")? {
                true => at + line + 2,
                false => return Ok(None),
            };
            if size == 0 {
                return Ok(due(&input[mark..], b"\r\n")?.then_some((body, mark + 2)));
            }
            let end = mark + size as usize;
            if end > input.len() {
                return Ok(None);
            }
            body.extend_from_slice(&input[mark..end]);
            if !due(&input[end..], b"\r\n")? {
                return Ok(None);
            }
            at = end + 2;
        }
    }

    /// True if `rest` starts with `wanted`; false if more bytes can still make it so.
    fn due(rest: &[u8], wanted: &[u8]) -> Result<bool, u16> {
        if rest.starts_with(wanted) {
            return Ok(true);
        }
        if wanted.starts_with(rest) { Ok(false) } else { Err(400) }
    }

    proptest! {
        #[test]
        fn any_split_agrees_with_a_plain_reader(
            pieces in proptest::collection::vec(prop::sample::select(vec![
                "5\r\nhello\r\n", "0\r\n", "\r\n", "1\r\nx\r\n", "00000000000000001\r\n", "3E8\r\n", "3e9\r\n", "A\r\n", "0123456789",
                "\r", "\n", "x", "0\r\n\r\n", "c\r\nhello world!\r\n",
            ]), 0..8),
            cuts in proptest::collection::vec(0usize..60, 0..10),
        ) {
            let input = pieces.concat().into_bytes();
            let mut cuts: Vec<usize> = cuts.into_iter().filter(|c| *c <= input.len()).collect();
            cuts.sort_unstable();
            let whole = decode_split(&input, &[]);
            prop_assert_eq!(&whole, &decode_split(&input, &cuts));
            // The plain reader knows no trailers.
            if !input.windows(4).any(|w| w.starts_with(b"0\r\n") && w[3] != b'\r') {
                prop_assert_eq!(whole, oracle(&input));
            }
        }

        #[test]
        fn what_is_encoded_comes_out(
            chunks in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..50), 0..6),
            cuts in proptest::collection::vec(0usize..400, 0..10),
        ) {
            let mut wire = Vec::new();
            for chunk in &chunks {
                wire.extend_from_slice(format!("{:X}\r\n", chunk.len()).as_bytes());
                wire.extend_from_slice(chunk);
                wire.extend_from_slice(b"\r\n");
            }
            wire.extend_from_slice(b"0\r\n\r\n");
            let len = wire.len();
            wire.extend_from_slice(b"rest");
            let mut cuts: Vec<usize> = cuts.into_iter().filter(|c| *c <= wire.len()).collect();
            cuts.sort_unstable();
            prop_assert_eq!(decode_split(&wire, &cuts), Ok(Some((chunks.concat(), len))));
        }
    }
}
