//! The answers of `tests/answers.c`, each byte of which is known: checked as they arrive.

use std::collections::VecDeque;
use std::sync::LazyLock;

/// The most bytes that the handler answers with.
pub const LARGEST: usize = 8 << 20;

static BYTES: LazyLock<Vec<u8>> = LazyLock::new(|| (0..LARGEST + 251).map(|i| (i % 251) as u8).collect());

/// The bytes of an answer.
pub fn bytes(salt: usize, size: usize) -> &'static [u8] {
    &BYTES[salt..salt + size]
}

/// The form of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// A response with status 200.
    Response,
    /// A response with status 101.
    Switch,
    /// The bytes alone. There is at least one.
    Plain,
    /// A refusal, with which the connection ends.
    Refusal,
}

/// An answer that is due.
#[derive(Clone, Copy, Debug)]
pub struct Answer {
    pub form: Form,
    pub size: usize,
    pub salt: usize,
}

/// The part of an answer that is expected next.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    /// Its first byte.
    Start,
    /// The rest of its head.
    Head,
    /// A number of bytes; behind them it is complete.
    Body(usize),
    /// Its last bytes, and then the end of the connection.
    UntilEnd,
    /// The size of a chunk, with its line end.
    ChunkSize,
    /// A number of bytes of a chunk, if it is not the last one.
    Chunk(usize),
    /// The line end behind a chunk; behind the last one the answer is complete.
    ChunkEnd(bool),
    /// Whatever follows the head of a refusal.
    Refusal,
}

/// How far the answers have come when their connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reached {
    /// All of them are complete.
    All,
    /// The next one has not begun.
    Border,
    /// One is not complete.
    Middle,
    /// One is not complete, and is not known to be so if the connection ends without a reset.
    LooksComplete,
    /// The server has refused, with this status.
    Refused(u16),
}

/// Checks the answers of one connection.
pub struct Checker {
    due: VecDeque<Answer>,
    part: Part,
    /// A head or a line that is not complete.
    line: Vec<u8>,
    /// The bytes of the current answer so far, without its framing.
    at: usize,
    /// The number of complete answers.
    pub complete: usize,
    refused: Option<u16>,
}

impl Checker {
    pub fn new(due: impl IntoIterator<Item = Answer>) -> Self {
        let due = due.into_iter().collect();
        Self { due, part: Part::Start, line: Vec::new(), at: 0, complete: 0, refused: None }
    }

    /// Takes the bytes that have arrived; returns what is wrong with them.
    pub fn feed(&mut self, mut bytes: &[u8]) -> Result<(), String> {
        while !bytes.is_empty() {
            let used = self.step(bytes).map_err(|wrong| format!("answer {}: {wrong}", self.complete))?;
            bytes = &bytes[used..];
        }
        Ok(())
    }

    /// Takes some of `bytes`, and returns how many.
    fn step(&mut self, bytes: &[u8]) -> Result<usize, String> {
        let Some(answer) = self.due.front().copied() else {
            return Err(format!("bytes behind the last one: {:?}", String::from_utf8_lossy(bytes)));
        };
        match self.part {
            Part::Start if answer.form == Form::Plain => self.part = Part::Body(answer.size),
            Part::Start => self.part = Part::Head,
            Part::Head => {
                return self.take_line(bytes, b"\r\n\r\n", |checker, head| checker.head(answer, head));
            }
            Part::Body(left) => {
                let n = self.compare(answer, bytes, left)?;
                self.part = Part::Body(left - n);
                if left == n {
                    self.finish();
                }
                return Ok(n);
            }
            Part::UntilEnd => return self.compare(answer, bytes, bytes.len()),
            Part::ChunkSize => return self.take_line(bytes, b"\r\n", Self::chunk),
            Part::Chunk(0) => self.part = Part::ChunkEnd(false),
            Part::Chunk(left) => {
                let n = self.compare(answer, bytes, left)?;
                self.part = Part::Chunk(left - n);
                return Ok(n);
            }
            Part::ChunkEnd(is_last) => {
                return self.take_line(bytes, b"\r\n", |checker, line| match line {
                    b"\r\n" if is_last => checker.finished(answer),
                    b"\r\n" => {
                        checker.part = Part::ChunkSize;
                        Ok(())
                    }
                    _ => Err(format!("behind a chunk: {:?}", String::from_utf8_lossy(line))),
                });
            }
            Part::Refusal => return Ok(bytes.len()),
        }
        Ok(0)
    }

    /// Gathers bytes up to a mark, and hands them with the mark to `then`.
    fn take_line(
        &mut self,
        bytes: &[u8],
        mark: &[u8],
        then: impl FnOnce(&mut Self, &[u8]) -> Result<(), String>,
    ) -> Result<usize, String> {
        for (i, byte) in bytes.iter().enumerate() {
            self.line.push(*byte);
            if self.line.ends_with(mark) {
                let line = std::mem::take(&mut self.line);
                then(self, &line)?;
                return Ok(i + 1);
            }
        }
        Ok(bytes.len())
    }

    /// Compares with the bytes of the answer, up to `most`.
    fn compare(&mut self, answer: Answer, given: &[u8], most: usize) -> Result<usize, String> {
        let n = given.len().min(most);
        let rest = &bytes(answer.salt, answer.size)[self.at..];
        if rest.len() < n {
            return Err(format!("more than its {} bytes", answer.size));
        }
        if given[..n] != rest[..n] {
            let wrong = (0..n).find(|i| given[*i] != rest[*i]).map_or(0, |i| self.at + i);
            return Err(format!("byte {wrong} of {} is wrong", answer.size));
        }
        self.at += n;
        Ok(n)
    }

    fn head(&mut self, answer: Answer, head: &[u8]) -> Result<(), String> {
        let head = String::from_utf8_lossy(head).to_lowercase();
        let status = head.strip_prefix("http/1.1 ").and_then(|rest| rest.get(..3)?.parse().ok());
        match (status, answer.form) {
            (Some(200), Form::Response) => {}
            (Some(101), Form::Switch) => {
                self.finish();
                return Ok(());
            }
            (Some(status), _) if status >= 400 => {
                (self.refused, self.part) = (Some(status), Part::Refusal);
                return Ok(());
            }
            _ => return Err(format!("the head {head:?}")),
        }
        match head.lines().find_map(|l| l.strip_prefix("content-length: ")) {
            Some(length) if length.parse() == Ok(answer.size) => self.part = Part::Body(answer.size),
            Some(length) => return Err(format!("{length} bytes, not {}", answer.size)),
            None if head.contains("\r\ntransfer-encoding: chunked\r\n") => self.part = Part::ChunkSize,
            // A stream to an HTTP/1.0 client.
            None => self.part = Part::UntilEnd,
        }
        if self.part == Part::Body(0) {
            self.finish();
        }
        Ok(())
    }

    fn chunk(&mut self, line: &[u8]) -> Result<(), String> {
        let text = String::from_utf8_lossy(line);
        let size =
            usize::from_str_radix(text.trim_end(), 16).map_err(|e| format!("chunk size {text:?}: {e}"))?;
        self.part = if size == 0 { Part::ChunkEnd(true) } else { Part::Chunk(size) };
        Ok(())
    }

    /// The last chunk is there.
    fn finished(&mut self, answer: Answer) -> Result<(), String> {
        if self.at != answer.size {
            return Err(format!("ends after {} of {} bytes", self.at, answer.size));
        }
        self.finish();
        Ok(())
    }

    fn finish(&mut self) {
        self.due.pop_front();
        (self.part, self.at) = (Part::Start, 0);
        self.complete += 1;
    }

    /// The connection has ended.
    pub fn end(&mut self) -> Reached {
        let size = self.due.front().map_or(0, |answer| answer.size);
        if self.part == Part::UntilEnd && self.at == size {
            self.finish();
        }
        match (self.refused, self.part) {
            (Some(status), _) => Reached::Refused(status),
            (None, _) if self.due.is_empty() => Reached::All,
            (None, Part::Start) => Reached::Border,
            (None, Part::UntilEnd) => Reached::LooksComplete,
            (None, _) => Reached::Middle,
        }
    }

    /// True if all answers are complete; one that ends with the connection is not before.
    pub fn is_done(&self) -> bool {
        self.due.is_empty()
    }

    /// The number of bytes of the answer that is being received, for messages.
    pub fn place(&self) -> String {
        match self.due.front() {
            Some(answer) => format!("{} of {} bytes of answer {}", self.at, answer.size, self.complete),
            None => format!("{} answers", self.complete),
        }
    }
}
