//! How a response becomes bytes: status line, fields, framing (RFC 9112 sections 4, 6 and 7). No formatting machinery: this is
//! the hot path.

use super::fault::{Fault, reason};
use super::output::Body;
use super::response::{Asker, Response, Stage};

/// A body of at most that many bytes is copied behind its head, so that responses to pipelined requests go out together.
const COPY: u64 = 4 * 1024;

/// How the end of a body is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    /// There is none, and no length either: 204 and 304.
    Nothing,
    /// There is none, and Content-Length says so: 205.
    Empty,
    Length(u64),
    Chunked,
    UntilClose,
}

/// What becomes of the connection after a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum After {
    /// Another request may come.
    Stay,
    /// The client asked for the end.
    Close,
    /// It ends, and the client may be sending still.
    CloseFirst,
    /// It ends in the midst of the response.
    Cut,
    /// Another protocol is spoken.
    Upgrade,
}

impl Framing {
    /// That of a streamed body.
    pub fn of_stream(status: u16, minor: u8) -> Self {
        match Self::of_status(status) {
            Some(none) => none,
            None if minor == 0 => Self::UntilClose,
            None => Self::Chunked,
        }
    }

    /// Statuses that have no content (RFC 9110 sections 15.3.5, 15.3.6 and 15.4.5).
    fn of_status(status: u16) -> Option<Self> {
        match status {
            204 | 304 => Some(Self::Nothing),
            205 => Some(Self::Empty),
            _ => None,
        }
    }

    /// Puts a part of a streamed body. An empty chunk would end it.
    pub fn put(self, to: &mut Vec<u8>, part: &[u8]) {
        match self {
            Self::Chunked if !part.is_empty() => {
                put_hex(to, part.len());
                to.extend_from_slice(b"\r\n");
                to.extend_from_slice(part);
                to.extend_from_slice(b"\r\n");
            }
            Self::UntilClose => to.extend_from_slice(part),
            _ => {}
        }
    }
}

impl Response {
    /// Writes what is not written yet, into the output.
    pub(super) fn finish(&mut self) -> After {
        match self.stage {
            Stage::Open => self.put_whole(),
            Stage::Stream(_) if self.lacks_a_part => return After::Cut,
            Stage::Stream(framing) => {
                if framing == Framing::Chunked && !self.to.head {
                    self.out.bytes.extend_from_slice(b"0\r\n\r\n");
                }
            }
            Stage::Failed if self.torn => return After::Cut,
            Stage::Failed => self.put_failure(),
            Stage::Upgrade => {
                self.put_upgrade();
                return After::Upgrade;
            }
        }
        match (self.to.keep_alive, self.close) {
            (false, _) => After::Close,
            (true, true) => After::CloseFirst,
            (true, false) => After::Stay,
        }
    }

    /// Writes a refusal; the connection closes after it.
    pub(super) fn refuse(&mut self, fault: Fault, head: bool) {
        self.begin(Asker { head, minor: 1, keep_alive: false }, true);
        self.status = fault.status;
        self.put_error(fault.text);
    }

    fn put_failure(&mut self) {
        self.status = 500;
        self.fields.clear();
        self.dated = false;
        self.put_error("the handler failed");
    }

    fn put_error(&mut self, text: &str) {
        put_field(&mut self.fields, b"Content-Type", b"text/plain");
        self.out.drop_body();
        let body = &mut self.out.copied;
        put_number(body, u64::from(self.status));
        for part in [" ", reason(self.status), ": ", text, "\n"] {
            body.extend_from_slice(part.as_bytes());
        }
        self.out.body_len = body.len() as u64;
        self.out.body = Body::Copied;
        self.put_whole();
    }

    fn put_whole(&mut self) {
        let framing = Framing::of_status(self.status).unwrap_or(Framing::Length(self.out.body_len));
        self.put_head(framing);
        if self.to.head || self.out.body_len == 0 || !matches!(framing, Framing::Length(_)) {
            self.out.drop_body();
        } else if self.out.body_len <= COPY {
            self.copy_body();
        }
    }

    fn copy_body(&mut self) {
        let out = &mut self.out;
        let bytes = match &out.body {
            Body::Copied => &out.copied,
            Body::Static(bytes) => *bytes,
            // An owner that says another length now than when it was asked is left to the sender, which notices.
            Body::Owned(owner) if (**owner).as_ref().len() as u64 == out.body_len => (**owner).as_ref(),
            _ => return,
        };
        out.bytes.extend_from_slice(bytes);
        out.drop_body();
    }

    pub(super) fn put_head(&mut self, framing: Framing) {
        let out = &mut self.out.bytes;
        put_status(out, self.status);
        if !self.dated {
            out.extend_from_slice(self.date.line());
        }
        match framing {
            Framing::Length(n) => put_length(out, n),
            Framing::Empty => put_length(out, 0),
            Framing::Chunked => out.extend_from_slice(b"Transfer-Encoding: chunked\r\n"),
            Framing::Nothing | Framing::UntilClose => {}
        }
        if self.close || !self.to.keep_alive {
            out.extend_from_slice(b"Connection: close\r\n");
        } else if self.to.minor == 0 {
            out.extend_from_slice(b"Connection: keep-alive\r\n");
        }
        out.extend_from_slice(&self.fields);
        out.extend_from_slice(b"\r\n");
    }

    /// RFC 9110 section 15.2.2.
    fn put_upgrade(&mut self) {
        let out = &mut self.out.bytes;
        put_status(out, 101);
        if !self.dated {
            out.extend_from_slice(self.date.line());
        }
        out.extend_from_slice(b"Connection: upgrade\r\n");
        put_field(out, b"Upgrade", &self.protocol);
        out.extend_from_slice(&self.fields);
        out.extend_from_slice(b"\r\n");
    }
}

fn put_status(to: &mut Vec<u8>, status: u16) {
    if status == 200 {
        return to.extend_from_slice(b"HTTP/1.1 200 OK\r\n");
    }
    to.extend_from_slice(b"HTTP/1.1 ");
    put_number(to, u64::from(status));
    // The space stands also before an empty reason phrase (RFC 9112 section 4).
    to.push(b' ');
    to.extend_from_slice(reason(status).as_bytes());
    to.extend_from_slice(b"\r\n");
}

fn put_length(to: &mut Vec<u8>, len: u64) {
    to.extend_from_slice(b"Content-Length: ");
    put_number(to, len);
    to.extend_from_slice(b"\r\n");
}

/// Puts a field line.
pub(super) fn put_field(to: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    for part in [name, b": ", value, b"\r\n"] {
        to.extend_from_slice(part);
    }
}

fn put_number(to: &mut Vec<u8>, mut n: u64) {
    let mut digits = [0; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (n % 10) as u8;
        n /= 10;
        if n == 0 {
            break;
        }
    }
    to.extend_from_slice(&digits[at..]);
}

fn put_hex(to: &mut Vec<u8>, n: usize) {
    let digits = (usize::BITS - n.leading_zeros()).div_ceil(4).max(1);
    for i in (0..digits).rev() {
        to.push(b"0123456789abcdef"[n >> (4 * i) & 15]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(put: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut bytes = Vec::new();
        put(&mut bytes);
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn numbers_are_as_formatted() {
        for n in [0, 1, 9, 10, 15, 16, 255, 256, 4095, 65_536, u32::MAX as usize, usize::MAX] {
            assert_eq!(text(|b| put_number(b, n as u64)), n.to_string());
            assert_eq!(text(|b| put_hex(b, n)), format!("{n:x}"));
        }
    }

    #[test]
    fn a_status_without_a_name_keeps_its_space() {
        assert_eq!(text(|b| put_status(b, 200)), "HTTP/1.1 200 OK\r\n");
        assert_eq!(text(|b| put_status(b, 404)), "HTTP/1.1 404 Not Found\r\n");
        assert_eq!(text(|b| put_status(b, 599)), "HTTP/1.1 599 \r\n");
    }
}
