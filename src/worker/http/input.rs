//! What a client sent and no handler has seen yet, and how far it has been read.

use super::chunked::{Chunked, Piece};
use super::fault::Fault;
use super::head::Length;
use super::pool::{self, Pooled};
use super::scan::Scan;
use crate::config::Limits;
use crate::sys::socket;
use std::io;
use std::os::fd::BorrowedFd;

/// What a worker reads at once where it may.
pub(super) const READ: usize = 64 * 1024;
const SMALL_READ: usize = 4 * 1024;

/// Bytes of one connection from the start of a request on: the worker's own buffer while requests come in whole, a pooled
/// one while one is partial.
#[derive(Default)]
pub(super) struct Input {
    pub buf: Vec<u8>,
    /// Where the current request starts.
    pub start: usize,
    /// How far its head has been looked at, while it is not complete.
    pub scan: Scan,
    /// What is due of its body, once the head is complete.
    pub due: Option<Due>,
}

/// A request whose head is complete, and how far its body is.
#[derive(Clone, Copy)]
pub(super) struct Due {
    pub head_len: usize,
    pub body: Body,
    /// Whether the client waits for a 100 before it sends the body.
    pub continues: bool,
}

/// How far a body is.
#[derive(Clone, Copy)]
pub(super) enum Body {
    Sized(usize),
    Chunked(Chunked),
}

impl Body {
    /// A body of that length is to come.
    pub fn new(length: Length, limits: &Limits) -> Result<Self, Fault> {
        match length {
            Length::Sized(n) if n > limits.body => Err(Fault::new(413, "the body is too large")),
            Length::Sized(n) => {
                usize::try_from(n).map(Self::Sized).map_err(|_| Fault::new(413, "the body is too large"))
            }
            Length::Chunked => Ok(Self::Chunked(Chunked::new(limits.head))),
        }
    }

    /// Looks at `bytes`, which start where the body starts, and decodes in place.
    pub fn advance(&mut self, bytes: &mut [u8], limits: &Limits) -> Result<Piece, Fault> {
        match self {
            Self::Sized(n) if *n <= bytes.len() => Ok(Piece::End { len: *n, used: *n }),
            Self::Sized(_) => Ok(Piece::More(bytes.len())),
            Self::Chunked(chunked) => chunked.decode(bytes, limits.body),
        }
    }
}

/// What a read brought.
pub(super) enum Fill {
    /// So many bytes; and whether they filled the room, so that more may be there.
    Bytes(usize, bool),
    /// Nothing is there.
    Empty,
    /// The client has ended its side.
    End,
}

impl Input {
    /// The worker's own buffer.
    pub fn scratch() -> Box<Self> {
        Box::new(Self { buf: Vec::with_capacity(READ), ..Self::default() })
    }

    /// The bytes from the current request on.
    pub fn rest(&self) -> &[u8] {
        &self.buf[self.start..]
    }

    /// Whether nothing is partial.
    pub fn is_empty(&self) -> bool {
        self.start == self.buf.len()
    }

    /// The current request took `len` bytes; the next one starts behind them.
    pub fn consume(&mut self, len: usize) {
        self.start += len;
        self.scan = Scan::default();
        self.due = None;
    }

    /// Forgets everything, and keeps the buffer.
    pub fn clear(&mut self) {
        self.buf.clear();
        self.start = 0;
        self.scan = Scan::default();
        self.due = None;
    }

    /// Takes over what `other` holds from its current request on.
    pub fn copy_rest(&mut self, other: &Self) {
        self.buf.extend_from_slice(other.rest());
        self.start = 0;
        self.scan = other.scan;
        self.due = other.due;
    }

    /// Moves the current request to the front.
    pub fn compact(&mut self) {
        if self.start > 0 {
            self.buf.drain(..self.start);
            self.start = 0;
        }
    }

    /// Reads what is there behind what is here. The room made for it follows what the client has sent, not what it promised.
    pub fn fill(&mut self, fd: BorrowedFd<'_>) -> io::Result<Fill> {
        self.compact();
        self.buf.reserve(self.room());
        let room = self.buf.capacity() - self.buf.len();
        match socket::recv_append(fd, &mut self.buf) {
            Ok(0) => Ok(Fill::End),
            Ok(n) => Ok(Fill::Bytes(n, n == room)),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(Fill::Empty),
            Err(e) => Err(e),
        }
    }

    fn room(&self) -> usize {
        match self.due {
            Some(Due { head_len, body: Body::Sized(n), .. }) => {
                (head_len + n).saturating_sub(self.buf.len()).clamp(1, self.buf.len().clamp(SMALL_READ, READ))
            }
            Some(_) => self.buf.len().clamp(SMALL_READ, READ),
            None => SMALL_READ,
        }
    }
}

impl Pooled for Input {
    fn reset(&mut self) -> usize {
        self.clear();
        pool::reset(&mut self.buf);
        self.weight()
    }

    fn weight(&self) -> usize {
        self.buf.capacity()
    }
}
