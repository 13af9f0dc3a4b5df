//! Bytes that wait to be sent to one client, followed by at most one body that was not copied.

use super::pool::{self, Pooled};
use crate::sys::socket;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// System calls made before other connections have their turn, and the most of a file that one of them sends.
const STEPS: usize = 8;
const FILE_STEP: u64 = 1024 * 1024;

/// A body that is sent after `Output::bytes` instead of being copied into them.
#[derive(Default)]
pub(super) enum Body {
    #[default]
    None,
    /// The bytes in [`Output::copied`].
    Copied,
    Static(&'static [u8]),
    Owned(Box<dyn AsRef<[u8]>>),
    /// A file, from an offset.
    File(OwnedFd, u64),
}

impl Body {
    /// The bytes of a body in memory; `copied` is [`Output::copied`].
    pub fn bytes<'a>(&'a self, copied: &'a [u8]) -> Option<&'a [u8]> {
        match self {
            Self::Copied => Some(copied),
            Self::Static(bytes) => Some(bytes),
            Self::Owned(owner) => Some((**owner).as_ref()),
            Self::None | Self::File(..) => None,
        }
    }
}

/// The output for one client: the worker's own while responses are written, a pooled one while a slow client reads.
#[derive(Default)]
pub(super) struct Output {
    /// Heads, and small bodies.
    pub bytes: Vec<u8>,
    /// The number of them that have been sent.
    at: usize,
    pub body: Body,
    pub copied: Vec<u8>,
    /// The length of the body in its head.
    pub body_len: u64,
    body_at: u64,
    /// The connection ends as soon as this is sent.
    pub last: bool,
    /// Bytes sent; the caller takes the count.
    pub sent: u64,
}

/// The outcome of sending.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sent {
    /// Everything was sent.
    All,
    /// The socket takes no more bytes for now.
    Blocked,
    /// There is more to send, after other connections have had their turn.
    Again,
}

impl Output {
    pub fn is_empty(&self) -> bool {
        self.at == self.bytes.len() && matches!(self.body, Body::None)
    }

    /// The number of bytes that wait, without the body.
    pub fn waiting(&self) -> usize {
        self.bytes.len() - self.at
    }

    /// Drops everything that waits.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.at = 0;
        self.last = false;
        self.drop_body();
    }

    /// The bytes that wait, without the body.
    pub fn unsent(&self) -> &[u8] {
        &self.bytes[self.at..]
    }

    /// Takes out the body, as an output of its own.
    pub fn take_body(&mut self) -> Self {
        let taken = Self {
            body: std::mem::take(&mut self.body),
            copied: std::mem::take(&mut self.copied),
            body_len: self.body_len,
            body_at: self.body_at,
            ..Self::default()
        };
        self.drop_body();
        taken
    }

    /// Puts in a body that was taken out.
    pub fn put_body(&mut self, from: Self) {
        (self.body, self.copied) = (from.body, from.copied);
        (self.body_len, self.body_at) = (from.body_len, from.body_at);
    }

    pub fn drop_body(&mut self) {
        self.body = Body::None;
        self.copied.clear();
        self.body_len = 0;
        self.body_at = 0;
    }

    /// Sends as much as the client takes. After an error, nothing more can be sent on this connection.
    #[inline]
    pub fn flush(&mut self, fd: BorrowedFd<'_>) -> io::Result<Sent> {
        // Nearly always one call sends all, without what the steps below keep for another one.
        if matches!(self.body, Body::None) && !self.is_empty() {
            match self.send_bytes(fd, &self.bytes[self.at..]) {
                Ok(n) if n == self.waiting() => {
                    self.sent += n as u64;
                    self.clear();
                    return Ok(Sent::All);
                }
                Ok(n) => self.advance(n),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(Sent::Blocked),
                Err(e) => return Err(e),
            }
        }
        self.flush_in_steps(fd)
    }

    #[inline(never)]
    fn flush_in_steps(&mut self, fd: BorrowedFd<'_>) -> io::Result<Sent> {
        for _ in 0..STEPS {
            if self.is_empty() {
                self.clear();
                return Ok(Sent::All);
            }
            let sent = match self.body {
                Body::None => self.send_bytes(fd, &self.bytes[self.at..]),
                _ => self.send_with_body(fd),
            };
            match sent {
                Ok(n) => self.advance(n),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(Sent::Blocked),
                Err(e) => return Err(e),
            }
        }
        Ok(Sent::Again)
    }

    /// One system call. Not inlined: the loads it needs would be made for responses without such a body, too.
    #[inline(never)]
    fn send_with_body(&self, fd: BorrowedFd<'_>) -> io::Result<usize> {
        let head = &self.bytes[self.at..];
        if let Some(body) = self.body.bytes(&self.copied) {
            let body = self.left_of(body)?;
            return match head {
                [] => self.send_bytes(fd, body),
                _ => socket::send_slices(fd, &[IoSlice::new(head), IoSlice::new(body)], self.last),
            };
        }
        match &self.body {
            Body::File(file, offset) if head.is_empty() => self.send_file(fd, file.as_fd(), *offset),
            Body::File(..) => socket::send_more(fd, head),
            _ => self.send_bytes(fd, head),
        }
    }

    /// The end of the connection may share a segment with the last bytes.
    #[inline]
    fn send_bytes(&self, fd: BorrowedFd<'_>, bytes: &[u8]) -> io::Result<usize> {
        if self.last { socket::send_more(fd, bytes) } else { socket::send(fd, bytes) }
    }

    fn send_file(&self, fd: BorrowedFd<'_>, file: BorrowedFd<'_>, offset: u64) -> io::Result<usize> {
        let len = (self.body_len - self.body_at).min(FILE_STEP);
        match socket::send_file(fd, file, offset.saturating_add(self.body_at), len)? {
            // The file is shorter than the head promised: only the end of the connection can say so now.
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            n => Ok(n),
        }
    }

    /// The unsent rest of a body, whose length must not have changed since the head was written.
    fn left_of<'a>(&self, body: &'a [u8]) -> io::Result<&'a [u8]> {
        let range = usize::try_from(self.body_at).ok().zip(usize::try_from(self.body_len).ok());
        range.and_then(|(from, to)| body.get(from..to)).ok_or(io::ErrorKind::UnexpectedEof.into())
    }

    fn advance(&mut self, n: usize) {
        self.sent += n as u64;
        let of_bytes = n.min(self.waiting());
        self.at += of_bytes;
        self.body_at += (n - of_bytes) as u64;
        if self.body_at == self.body_len {
            self.body = Body::None;
        }
        // A stream that is written faster than read must not keep what has been sent.
        if self.at == self.bytes.len() {
            self.bytes.clear();
            self.at = 0;
        } else if self.at > self.bytes.len() / 2 && self.at > pool::KEEP / 4 {
            self.bytes.drain(..self.at);
            self.at = 0;
        }
    }
}

impl Pooled for Output {
    fn reset(&mut self) {
        self.clear();
        pool::reset(&mut self.bytes);
        pool::reset(&mut self.copied);
    }

    fn weight(&self) -> usize {
        self.bytes.capacity() + self.copied.capacity()
    }
}
