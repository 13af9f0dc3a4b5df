//! The scan of a head that is not complete when it is first seen, or not sound: the ends of its lines, which must be CRLF, and its
//! limits (RFC 9112 sections 2.2 and 3).
//!
//! httparse accepts a bare LF and starts from the beginning at every call. This scan remembers its place, so that a client which
//! sends byte by byte costs no more than one that does not, and a fault is answered when it arrives. However the bytes are split
//! into reads, the first fault of the stream is the one reported. A head that arrives whole is parsed without it
//! ([`super::quick`]).

use super::fault::Fault;
use super::head;
use crate::config::Limits;

/// The progress of the scan. Offsets count from the start of the request.
#[derive(Clone, Copy, Default)]
pub(super) struct Scan {
    /// Everything before has been scanned.
    at: usize,
    /// The start of the line that has not ended yet.
    line: usize,
    /// The number of lines that have ended.
    lines: usize,
    /// Lines before have been parsed one by one because the head was not complete.
    parsed: usize,
}

impl Scan {
    /// True if nothing has been scanned.
    pub fn is_new(&self) -> bool {
        self.at == 0
    }

    /// Continues in `bytes`, which start with the request line; returns the length of the head once it is complete.
    pub fn run(&mut self, bytes: &[u8], limits: &Limits) -> Result<Option<usize>, Fault> {
        match self.find_end(bytes, limits) {
            Ok(Some(len)) => Ok(Some(len)),
            unfinished => {
                // A malformed line is the first fault, even if the scan has found one in a later line.
                self.parse_lines(bytes)?;
                unfinished
            }
        }
    }

    fn find_end(&mut self, bytes: &[u8], limits: &Limits) -> Result<Option<usize>, Fault> {
        loop {
            let control = find_control(&bytes[self.at..]).map(|i| self.at + i);
            self.check_size(bytes, control.unwrap_or(bytes.len()), limits)?;
            let Some(i) = control else {
                self.at = bytes.len();
                return Ok(None);
            };
            self.at = i;
            match (bytes[i], bytes.get(i + 1)) {
                (b'\t', _) => self.at = i + 1,
                (b'\r', None) => return Ok(None),
                (b'\r', Some(b'\n')) if i == self.line && self.lines > 0 => return Ok(Some(i + 2)),
                (b'\r', Some(b'\n')) if self.lines > limits.headers => {
                    return Err(Fault::new(431, "too many header fields"));
                }
                (b'\r', Some(b'\n')) => {
                    self.lines += 1;
                    (self.line, self.at) = (i + 2, i + 2);
                }
                (b'\r', _) => return Err(Fault::bad("a CR that ends no line")),
                (b'\n', _) => return Err(Fault::bad("a line that ends in LF without CR")),
                _ => return Err(Fault::bad("a control byte in the head")),
            }
        }
    }

    fn check_size(&self, bytes: &[u8], len: usize, limits: &Limits) -> Result<(), Fault> {
        if self.lines > 0 {
            return if len > limits.head { Err(Fault::new(431, "the head is too long")) } else { Ok(()) };
        }
        if len <= limits.line {
            Ok(())
        } else if bytes[..limits.line].contains(&b' ') {
            Err(Fault::new(414, "the request line is too long"))
        } else {
            // RFC 9112 section 3: the status for a method longer than any the server knows.
            Err(Fault::new(501, "the method is too long"))
        }
    }

    /// Parses each line that has ended, once.
    fn parse_lines(&mut self, bytes: &[u8]) -> Result<(), Fault> {
        while self.parsed < self.line {
            let rest = &bytes[self.parsed..self.line];
            let len = rest.iter().position(|b| *b == b'\n').map_or(rest.len(), |i| i + 1);
            head::check_line(&rest[..len], self.parsed == 0)?;
            self.parsed += len;
        }
        Ok(())
    }
}

/// The index of the first control byte: below 0x20, or DEL. Tests eight bytes at a time.
fn find_control(bytes: &[u8]) -> Option<usize> {
    const ONES: u64 = u64::from_ne_bytes([0x01; 8]);
    const HIGH: u64 = u64::from_ne_bytes([0x80; 8]);
    let (words, tail) = bytes.as_chunks::<8>();
    for (i, word) in words.iter().enumerate() {
        let word = u64::from_le_bytes(*word);
        let del = word ^ (ONES * 0x7f);
        // A borrow marks a byte wrongly only after one that is marked rightly, so the first mark is right.
        let low = word.wrapping_sub(ONES * 0x20) & !word;
        let marks = (low | (del.wrapping_sub(ONES) & !del)) & HIGH;
        if marks != 0 {
            return Some(i * 8 + marks.trailing_zeros() as usize / 8);
        }
    }
    let i = tail.iter().position(u8::is_ascii_control)?;
    Some(words.len() * 8 + i)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use proptest::prelude::*;

    fn scan(bytes: &[u8]) -> Result<Option<usize>, Fault> {
        Scan::default().run(bytes, &Config::default().limits)
    }

    #[test]
    fn the_head_ends_at_the_empty_line() {
        let head = b"GET / HTTP/1.1\r\nHost: a\r\nX:\tb\r\n\r\nGET";
        assert_eq!(scan(head), Ok(Some(head.len() - 3)));
        assert_eq!(scan(b"GET / HTTP/1.1\r\nHost: a\r\n\r"), Ok(None));
    }

    #[test]
    fn faults_are_seen_before_the_head_is_complete() {
        for bad in [
            "GET / HTTP/1.1\n",
            "GET / HTTP/1.1\r\nHost: a\n",
            "GET /\rx",
            "\x16\x03\x01",
            "GET / HTTP/1.1\r\n\0",
            "EHLO there\r\n",
            "GET / HTTP/1.1\r\nno colon\r\n",
            "GET / HTTP/1.1\r\n fold: x\r\n",
        ] {
            assert_eq!(scan(bad.as_bytes()).unwrap_err().status, 400, "{bad:?}");
        }
        assert_eq!(scan(b"GET / HTTP/2.0\r\n").unwrap_err().status, 505);
    }

    #[test]
    fn limits_have_their_own_answers() {
        let long = "x".repeat(9000);
        assert_eq!(scan(format!("GET /{long}").as_bytes()).unwrap_err().status, 414);
        assert_eq!(scan(long.as_bytes()).unwrap_err().status, 501);
        let big = format!("GET / HTTP/1.1\r\nX: {}", long.repeat(4));
        assert_eq!(scan(big.as_bytes()).unwrap_err().status, 431);
        let many = format!("GET / HTTP/1.1\r\n{}", "X: y\r\n".repeat(101));
        assert_eq!(scan(many.as_bytes()).unwrap_err().status, 431);
        let enough = format!("GET / HTTP/1.1\r\n{}\r\n", "X: y\r\n".repeat(100));
        assert_eq!(scan(enough.as_bytes()), Ok(Some(enough.len())));
    }

    proptest! {
        #[test]
        fn control_bytes_are_found_where_a_plain_loop_finds_them(
            bytes in proptest::collection::vec(prop_oneof![8 => 0x20u8..0x7f, 2 => 0x7eu8.., 1 => 0u8..0x21], 0..80),
        ) {
            prop_assert_eq!(find_control(&bytes), bytes.iter().position(|b| *b < 0x20 || *b == 0x7f));
        }

        #[test]
        fn any_split_finds_the_same(
            pieces in proptest::collection::vec(
                prop::sample::select(vec![
                    "GET / HTTP/1.1\r\n", "\r\n", "\r", "\n", "Host: a\r\n", "X:\ty\r\n", "bad\r\n", "\0", "a", " ", "HTTP/3.0\r\n",
                ]), 0..10),
            cuts in proptest::collection::vec(0usize..100, 0..8),
        ) {
            let bytes = pieces.concat().into_bytes();
            prop_assume!(!bytes.starts_with(b"\r\n"));
            let limits = Config::default().limits;
            let mut cuts: Vec<usize> = cuts.into_iter().filter(|c| *c < bytes.len()).collect();
            cuts.sort_unstable();
            let read = |cuts: Vec<usize>| {
                let mut scan = Scan::default();
                for end in cuts.into_iter().chain([bytes.len()]) {
                    if let Some(len) = scan.run(&bytes[..end], &limits)? {
                        return head::Head::parse(&bytes[..len], &mut head::table()).map(|_| Some(len));
                    }
                }
                Ok(None)
            };
            prop_assert_eq!(read(cuts), read(vec![]));
        }
    }
}
