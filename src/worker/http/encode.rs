//! Responses as bytes: status line, fields, framing (RFC 9112 sections 4, 6 and 7). The hot path: numbers are written without
//! `std::fmt`.

use super::exchange::RequestTraits;
use super::fault::{Fault, reason};
use super::framing::Framing;
use super::output::Body;
use super::output::Output;
use super::response::{Response, Stage};
use crate::log::{counted, log};
use crate::sys::time::Time;

/// The largest body that is copied after its head, so that responses to pipelined requests are sent together.
const COPY: u64 = 4 * 1024;

/// The fate of the connection after a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum After {
    /// Another request may come.
    Stay,
    /// It ends, as the client has asked.
    Close,
    /// It ends, and the client may still be sending.
    CloseFirst,
    /// It ends in the middle of the response.
    Cut,
    /// It changes its protocol.
    Upgrade,
    /// It waits for the handler, which keeps the response.
    Later,
}

impl Response {
    /// Writes the rest of the response into the output. Inlined where each request passes.
    /// `now` is the present time.
    #[inline(always)]
    pub(super) fn finish(&mut self, now: Time) -> After {
        match self.stage {
            // Not even the head was written, and a head alone would look complete.
            Stage::Open if self.incomplete => self.put_fault(Fault::new(500, "the handler failed"), now),
            Stage::Open | Stage::Stream(_) if self.length.is_some() && self.is_short() => {
                if self.stage != Stage::Open {
                    return After::Cut;
                }
                self.put_fault(Fault::new(500, "the handler failed"), now);
            }
            Stage::Open => self.put_whole(now),
            Stage::Stream(_) if self.incomplete => return After::Cut,
            Stage::Stream(framing) => {
                if framing == Framing::Chunked && !self.request.is_head {
                    self.out.bytes.extend_from_slice(b"0\r\n\r\n");
                }
            }
            Stage::Failed if self.partly_sent => return After::Cut,
            Stage::Failed => self.put_fault(Fault::new(500, "the handler failed"), now),
            Stage::Upgrade => {
                self.status = 101;
                self.put_head(Framing::Nothing, now);
                return After::Upgrade;
            }
            Stage::Kept => return After::Later,
        }
        self.after()
    }

    /// True if the body is shorter than the handler has said, which is logged.
    #[cold]
    #[inline(never)]
    fn is_short(&self) -> bool {
        let lacks = self.lacks();
        if lacks > 0 && !self.client_gone {
            let bytes = counted(lacks, "byte");
            log!(Error, "a response ended {bytes} short of the Content-Length that its handler had set");
        }
        lacks > 0
    }

    fn after(&self) -> After {
        match (self.request.keep_alive, self.close) {
            (false, _) => After::Close,
            (true, true) => After::CloseFirst,
            (true, false) => After::Stay,
        }
    }

    /// As [`Response::finish`], with a response of prefork's own in place of the handler's, of which nothing has been written.
    pub(super) fn finish_with(&mut self, fault: Fault, now: Time) -> After {
        self.put_fault(fault, now);
        self.after()
    }

    /// Writes the response to a refused request, after which the connection closes.
    pub(super) fn refuse(&mut self, fault: Fault, is_head: bool, now: Time) {
        self.begin(RequestTraits { is_head, minor: 1, keep_alive: false }, true);
        self.put_fault(fault, now);
    }

    fn put_fault(&mut self, fault: Fault, now: Time) {
        self.status = fault.status;
        self.clear_fields();
        put_field(&mut self.fields, b"Content-Type", b"text/plain");
        self.out.drop_body();
        let body = &mut self.out.copied;
        put_number(body, fault.status.into());
        for part in [" ", reason(fault.status), ": ", fault.text, "\n"] {
            body.extend_from_slice(part.as_bytes());
        }
        self.out.body_len = body.len() as u64;
        self.out.body = Body::Copied;
        self.put_whole(now);
    }

    fn put_whole(&mut self, now: Time) {
        let without_body = Framing::of_status(self.status);
        self.put_head(without_body.unwrap_or(Framing::Length(self.out.body_len)), now);
        let Output { bytes, body, copied, body_len, .. } = &mut self.out;
        if self.request.is_head || *body_len == 0 || without_body.is_some() {
            self.out.drop_body();
        } else if *body_len <= COPY
            // An owner whose length has changed since it was set is left to the sender, which notices.
            && let Some(small) = body.bytes(copied).filter(|b| b.len() as u64 == *body_len)
        {
            bytes.extend_from_slice(small);
            self.out.drop_body();
        }
    }

    pub(super) fn put_head(&mut self, framing: Framing, now: Time) {
        let framing = match self.length {
            Some(n) if self.says_length() => Framing::Length(n),
            _ => framing,
        };
        let out = &mut self.out.bytes;
        if self.status == 200 && !self.has_date {
            out.extend_from_slice(self.date.after_ok(now));
        } else {
            put_status(out, self.status);
            if !self.has_date {
                out.extend_from_slice(self.date.line(now));
            }
        }
        match framing {
            Framing::Length(n) | Framing::Declared(n) => {
                out.extend_from_slice(b"Content-Length: ");
                put_number(out, n);
                out.extend_from_slice(b"\r\n");
            }
            Framing::Chunked => out.extend_from_slice(b"Transfer-Encoding: chunked\r\n"),
            Framing::Nothing | Framing::UntilClose => {}
        }
        let upgrades = self.stage == Stage::Upgrade;
        let ends = !upgrades && (self.close || !self.request.keep_alive);
        let is_old = !upgrades && self.request.minor == 0;
        // Nothing is appended if there is nothing: even that would be a call.
        match (ends, is_old, upgrades || self.has_upgrade) {
            (true, _, false) => out.extend_from_slice(b"Connection: close\r\n"),
            (true, _, true) => out.extend_from_slice(b"Connection: close, upgrade\r\n"),
            (false, true, false) => out.extend_from_slice(b"Connection: keep-alive\r\n"),
            (false, true, true) => out.extend_from_slice(b"Connection: keep-alive, upgrade\r\n"),
            (false, false, false) => {}
            (false, false, true) => out.extend_from_slice(b"Connection: upgrade\r\n"),
        }
        if upgrades {
            // RFC 9110 section 15.2.2.
            put_field(out, b"Upgrade", &self.protocol);
        }
        if !self.fields.is_empty() {
            out.extend_from_slice(&self.fields);
        }
        out.extend_from_slice(b"\r\n");
    }

    /// True if the length of a body that is not sent may be given (RFC 9110 section 8.6).
    fn says_length(&self) -> bool {
        self.status == 304 || self.request.is_head && Framing::of_status(self.status).is_none()
    }
}

fn put_status(to: &mut Vec<u8>, status: u16) {
    to.extend_from_slice(b"HTTP/1.1 ");
    put_number(to, status.into());
    // The space is required even before an empty reason phrase (RFC 9112 section 4).
    to.push(b' ');
    to.extend_from_slice(reason(status).as_bytes());
    to.extend_from_slice(b"\r\n");
}

/// True if there is a field line with this name.
pub(super) fn has_field(fields: &[u8], name: &[u8]) -> bool {
    let mut lines = fields.split(|b| *b == b'\n');
    lines.any(|line| line.split(|b| *b == b':').next().is_some_and(|n| n.eq_ignore_ascii_case(name)))
}

/// Removes the field lines with this name.
pub(super) fn remove_field(from: &mut Vec<u8>, name: &[u8]) {
    let mut at = 0;
    while let Some(line) = from[at..].split_inclusive(|b| *b == b'\n').next() {
        let end = at + line.len();
        let is_it = line.split(|b| *b == b':').next().is_some_and(|n| n.eq_ignore_ascii_case(name));
        if is_it {
            from.drain(at..end);
        } else {
            at = end;
        }
    }
}

/// Appends a field line.
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
            return to.extend_from_slice(&digits[at..]);
        }
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
        for n in [0, 1, 9, 10, 15, 16, 255, 256, 4095, 65_536, u64::MAX] {
            assert_eq!(text(|b| put_number(b, n)), n.to_string());
        }
    }

    #[test]
    fn a_status_without_a_name_keeps_its_space() {
        assert_eq!(text(|b| put_status(b, 200)), "HTTP/1.1 200 OK\r\n");
        assert_eq!(text(|b| put_status(b, 404)), "HTTP/1.1 404 Not Found\r\n");
        assert_eq!(text(|b| put_status(b, 599)), "HTTP/1.1 599 \r\n");
    }
}
