//! What waits to be sent to one client: bytes, and behind them at most one body that was not copied.

use super::pool::{self, Pooled};
use crate::sys::socket;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// System calls before other connections have their turn, and how much of a file one of them sends.
const STEPS: usize = 8;
const FILE_STEP: u64 = 1024 * 1024;

/// A body that goes out without being copied behind its head.
#[derive(Default)]
pub(super) enum Body {
    #[default]
    None,
    /// In [`Output::copied`].
    Copied,
    Static(&'static [u8]),
    Owned(Box<dyn AsRef<[u8]>>),
    /// From an offset of a file.
    File(OwnedFd, u64),
}

/// What waits for one client: the worker's own while it is being written, a pooled one while a slow client reads.
#[derive(Default)]
pub(super) struct Output {
    /// Heads, and small bodies.
    pub bytes: Vec<u8>,
    /// How many of them have been sent.
    at: usize,
    pub body: Body,
    pub copied: Vec<u8>,
    /// Length of the body as its head says it.
    pub body_len: u64,
    body_at: u64,
    /// Nothing follows but the end of the connection, at once.
    pub last: bool,
    /// Bytes sent since somebody last took this count.
    pub sent: u64,
}

/// How sending ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sent {
    /// Everything is out.
    All,
    /// The client has to read first.
    Blocked,
    /// Others come first; there is more.
    Again,
}

impl Output {
    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.at == self.bytes.len() && matches!(self.body, Body::None)
    }

    /// Bytes that wait, without the body.
    pub fn waiting(&self) -> usize {
        self.bytes.len() - self.at
    }

    /// Forgets what waits.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.at = 0;
        self.last = false;
        self.drop_body();
    }

    /// Forgets the body.
    pub fn drop_body(&mut self) {
        self.body = Body::None;
        self.copied.clear();
        self.body_len = 0;
        self.body_at = 0;
    }

    /// The body's bytes, if it is one that lies in memory.
    pub fn body_bytes(&self) -> Option<&[u8]> {
        match &self.body {
            Body::Copied => Some(&self.copied),
            Body::Static(bytes) => Some(bytes),
            Body::Owned(owner) => Some((**owner).as_ref()),
            Body::None | Body::File(..) => None,
        }
    }

    /// Sends what the client takes. An error means that nothing more can be sent on this connection.
    pub fn flush(&mut self, fd: BorrowedFd<'_>) -> io::Result<Sent> {
        for _ in 0..STEPS {
            if self.is_empty() {
                self.clear();
                return Ok(Sent::All);
            }
            match self.send(fd) {
                Ok(n) => self.advance(n),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(Sent::Blocked),
                Err(e) => return Err(e),
            }
        }
        Ok(Sent::Again)
    }

    /// One system call.
    fn send(&self, fd: BorrowedFd<'_>) -> io::Result<usize> {
        let head = &self.bytes[self.at..];
        if let Some(body) = self.body_bytes() {
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

    /// Where the end follows, it may share a segment with the last bytes.
    fn send_bytes(&self, fd: BorrowedFd<'_>, bytes: &[u8]) -> io::Result<usize> {
        if self.last { socket::send_more(fd, bytes) } else { socket::send(fd, bytes) }
    }

    fn send_file(&self, fd: BorrowedFd<'_>, file: BorrowedFd<'_>, offset: u64) -> io::Result<usize> {
        let len = (self.body_len - self.body_at).min(FILE_STEP);
        match socket::send_file(fd, file, offset.saturating_add(self.body_at), len)? {
            // Less was there than the head promised: only the end of the connection can say so now.
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            n => Ok(n),
        }
    }

    /// What is left of a body, which must not have changed its length since the head was written.
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
        // A stream that is written faster than read must not grow by what has been read.
        if self.at == self.bytes.len() || self.at > self.bytes.len() / 2 && self.at > pool::KEEP / 4 {
            self.bytes.drain(..self.at);
            self.at = 0;
        }
    }
}

impl Pooled for Output {
    fn reset(&mut self) -> usize {
        self.clear();
        pool::reset(&mut self.bytes);
        pool::reset(&mut self.copied);
        self.weight()
    }

    fn weight(&self) -> usize {
        self.bytes.capacity() + self.copied.capacity()
    }
}
