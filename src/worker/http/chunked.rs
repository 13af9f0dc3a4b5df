//! The chunked coding, taken apart in place as the bytes come in (RFC 9112 section 7.1).
//!
//! Only CRLF ends a line, a size has 1 to 16 digits, extensions and trailers keep to the grammar and to a budget; both are
//! dropped. Bytes that come in several pieces give what they give in one.

use super::fault::Fault;
use super::token::{is_field_byte, is_tchar};

/// How far a chunked body has been taken apart.
#[derive(Clone, Copy, Debug)]
pub(super) struct Chunked {
    state: State,
    /// The size read so far; within the data: what is still due of the chunk.
    size: u64,
    digits: u8,
    /// Decoded bytes.
    decoded: usize,
    /// Bytes that extensions and trailers may still take.
    budget: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Size,
    /// White space behind a size or an extension, which only another extension may follow.
    Gap,
    ExtensionStart,
    ExtensionName,
    NameGap,
    ValueStart,
    Value,
    Quoted,
    Escaped,
    QuotedEnd,
    SizeLf,
    Data,
    DataCr,
    DataLf,
    TrailerStart,
    TrailerName,
    TrailerValue,
    TrailerLf,
    EndLf,
    End,
}

/// What a call found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Piece {
    /// The body goes on; what there is of it is that many bytes at the front, and all input was taken.
    More(usize),
    /// The body is complete: its length at the front, and where the input behind it starts.
    End { len: usize, used: usize },
}

impl Chunked {
    /// `budget` is what extensions and trailers may take together, in bytes.
    pub fn new(budget: usize) -> Self {
        Self { state: State::Size, size: 0, digits: 0, decoded: 0, budget }
    }

    /// Goes on with `bytes`: what was decoded before, and right behind it what came in since.
    pub fn decode(&mut self, bytes: &mut [u8], limit: u64) -> Result<Piece, Fault> {
        let mut at = self.decoded;
        while at < bytes.len() {
            if self.state == State::Data {
                at = self.move_data(bytes, at);
                continue;
            }
            self.state = self.step(bytes[at], limit)?;
            at += 1;
            if self.state == State::End {
                return Ok(Piece::End { len: self.decoded, used: at });
            }
        }
        Ok(Piece::More(self.decoded))
    }

    /// Moves what is there of a chunk's data to the decoded bytes before it; gives where the rest of the input starts.
    fn move_data(&mut self, bytes: &mut [u8], at: usize) -> usize {
        let there = bytes.len() - at;
        let n = usize::try_from(self.size).map_or(there, |due| due.min(there));
        if at != self.decoded {
            bytes.copy_within(at..at + n, self.decoded);
        }
        self.decoded += n;
        self.size -= n as u64;
        if self.size == 0 {
            self.state = State::DataCr;
        }
        at + n
    }

    fn step(&mut self, byte: u8, limit: u64) -> Result<State, Fault> {
        match self.state {
            State::Size => return self.step_size(byte, limit),
            State::SizeLf if byte == b'\n' => return Ok(self.start_data()),
            State::DataCr if byte == b'\r' => return Ok(State::DataLf),
            State::DataLf if byte == b'\n' => {
                (self.size, self.digits) = (0, 0);
                return Ok(State::Size);
            }
            State::DataCr | State::DataLf => return Err(Fault::bad("chunk data longer than announced")),
            State::TrailerStart
            | State::TrailerName
            | State::TrailerValue
            | State::TrailerLf
            | State::EndLf => {
                self.spend(Fault::new(431, "the trailer section is too long"))?;
                return step_trailer(self.state, byte).ok_or(Fault::bad("a malformed trailer field"));
            }
            _ => {}
        }
        self.spend(Fault::bad("chunk extensions are too long"))?;
        step_extension(self.state, byte).ok_or(Fault::bad("a malformed chunk extension"))
    }

    fn step_size(&mut self, byte: u8, limit: u64) -> Result<State, Fault> {
        const BAD: Fault = Fault::bad("a chunk size that is not 1 to 16 hexadecimal digits");
        if let Some(digit) = (byte as char).to_digit(16) {
            if self.digits == 16 {
                return Err(BAD);
            }
            self.digits += 1;
            self.size = self.size << 4 | u64::from(digit);
            return Ok(State::Size);
        }
        if self.digits == 0 {
            return Err(BAD);
        }
        // Sure of the size now: one that is over the limit is refused before its data come.
        if self.size > limit.saturating_sub(self.decoded as u64) {
            return Err(Fault::new(413, "the body is too large"));
        }
        match byte {
            b'\r' => Ok(State::SizeLf),
            b';' => Ok(State::ExtensionStart),
            b' ' | b'\t' => Ok(State::Gap),
            _ => Err(BAD),
        }
    }

    fn start_data(&self) -> State {
        if self.size == 0 { State::TrailerStart } else { State::Data }
    }

    fn spend(&mut self, fault: Fault) -> Result<(), Fault> {
        self.budget = self.budget.checked_sub(1).ok_or(fault)?;
        Ok(())
    }
}

/// `*( BWS ";" BWS name [ BWS "=" BWS value ] )`, RFC 9112 section 7.1.1.
fn step_extension(state: State, byte: u8) -> Option<State> {
    let space = matches!(byte, b' ' | b'\t');
    let next = match (state, byte) {
        (State::Gap | State::ExtensionStart | State::NameGap | State::ValueStart, _) if space => state,
        (State::ExtensionStart | State::ExtensionName, _) if is_tchar(byte) => State::ExtensionName,
        (State::ValueStart | State::Value, _) if is_tchar(byte) => State::Value,
        (State::ExtensionName | State::NameGap, b'=') => State::ValueStart,
        (State::ValueStart, b'"') => State::Quoted,
        (State::ExtensionName, _) if space => State::NameGap,
        (State::Value | State::QuotedEnd, _) if space => State::Gap,
        (State::ExtensionName | State::Value | State::QuotedEnd, b'\r') => State::SizeLf,
        (State::Gap | State::ExtensionName | State::NameGap | State::Value | State::QuotedEnd, b';') => {
            State::ExtensionStart
        }
        (State::Quoted, b'"') => State::QuotedEnd,
        (State::Quoted, b'\\') => State::Escaped,
        (State::Quoted | State::Escaped, _) if is_field_byte(byte) => State::Quoted,
        _ => return None,
    };
    Some(next)
}

/// Field lines, then an empty one, RFC 9112 section 7.1.2.
fn step_trailer(state: State, byte: u8) -> Option<State> {
    let next = match (state, byte) {
        (State::TrailerStart, b'\r') => State::EndLf,
        (State::EndLf, b'\n') => State::End,
        (State::TrailerStart | State::TrailerName, _) if is_tchar(byte) => State::TrailerName,
        (State::TrailerName, b':') => State::TrailerValue,
        (State::TrailerValue, b'\r') => State::TrailerLf,
        (State::TrailerValue, _) if is_field_byte(byte) => State::TrailerValue,
        (State::TrailerLf, b'\n') => State::TrailerStart,
        _ => return None,
    };
    Some(next)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LIMIT: u64 = 1000;

    /// The body and the bytes used, or the status of the refusal; `None` where more is due.
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

    /// A plain reader of one string, without states: lines by `find`, sizes by `from_str_radix`. Extensions are left out.
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

    /// Whether `rest` starts with `wanted`; `false` where it could still come to.
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
            // What starts a trailer section is beyond the plain reader.
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
