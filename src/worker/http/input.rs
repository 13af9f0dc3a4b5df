//! Bytes a client has sent that no handler has seen yet, and how far they have been parsed.

use super::chunked::{Chunked, Piece};
use super::fault::Fault;
use super::head::{self, Head, Length, Place};
use super::pool::{self, Pooled};
use super::quick;
use super::scan::Scan;
use super::upload::Upload;
use crate::config::Limits;
use crate::sys::socket;
use crate::worker::user::User;
use std::io;
use std::os::fd::BorrowedFd;
use std::rc::Rc;

/// The size of the worker's own buffer, and the most that the buffer of a partial body grows by in one read.
pub(super) const READ: usize = 64 * 1024;
const SMALL_READ: usize = 4 * 1024;
/// Empty lines allowed before a request (RFC 9112 section 2.2 asks to ignore at least one).
const EMPTY_LINES: u8 = 8;

/// Bytes of one connection from the start of a request: the worker's own buffer while requests arrive complete, a pooled one
/// while one is partial.
#[derive(Default)]
pub(super) struct Input {
    pub buf: Vec<u8>,
    /// The offset of the current request.
    start: usize,
    scan: Scan,
    /// The places of the fields of the current request, while it is answered.
    places: Vec<Place>,
    /// The current request, if its head is complete and its body is not.
    pub partial: Option<Partial>,
    /// What the handler has left for the stream that the connection becomes.
    pub user: Option<Box<User>>,
    /// The current request, if the handler has been called with its head.
    pub upload: Option<Rc<Upload>>,
}

/// A request whose head is complete.
#[derive(Clone, Copy)]
pub(super) struct Partial {
    head_len: usize,
    body: Body,
    /// True if the client waits for a 100 before it sends the body.
    expects_continue: bool,
}

#[derive(Clone, Copy)]
enum Body {
    Sized(usize),
    Chunked(Chunked),
    /// What is left of a body that is given to the handler in pieces, and the room for the next read.
    Pieces(Left, usize),
}

#[derive(Clone, Copy)]
enum Left {
    Sized(u64),
    Chunked(Chunked),
}

impl Left {
    /// Decodes `bytes` in place: the length of the piece at their front, the number of bytes that are kept, piece included, or used up
    /// if it is the last piece, and whether it is.
    fn advance(&mut self, bytes: &mut [u8]) -> Result<(usize, usize, bool), Fault> {
        match self {
            Self::Sized(left) => {
                let n = usize::try_from(*left).map_or(bytes.len(), |left| left.min(bytes.len()));
                *left -= n as u64;
                Ok((n, n, *left == 0))
            }
            Self::Chunked(chunked) => match chunked.decode(bytes, u64::MAX)? {
                Piece::More(kept) => Ok((chunked.take_decoded(), kept, false)),
                Piece::End { len, used } => Ok((len, used, true)),
            },
        }
    }
}

impl Partial {
    /// A body that is taken whole.
    pub fn whole(head: &Head<'_>, limits: &Limits) -> Result<Self, Fault> {
        let body = Body::new(head.length, limits)?;
        Ok(Self { head_len: head.len, body, expects_continue: head.expects_continue })
    }

    /// A body that is given to the handler in pieces, whatever its size.
    pub fn in_pieces(head: &Head<'_>, limits: &Limits) -> Self {
        let left = match head.length {
            Length::Sized(n) => Left::Sized(n),
            Length::Chunked => Left::Chunked(Chunked::new(limits.head)),
        };
        let body = Body::Pieces(left, SMALL_READ);
        Self { head_len: head.len, body, expects_continue: head.expects_continue }
    }
}

impl Body {
    fn new(length: Length, limits: &Limits) -> Result<Self, Fault> {
        match length {
            Length::Chunked => Ok(Self::Chunked(Chunked::new(limits.head))),
            Length::Sized(n) => match usize::try_from(n) {
                Ok(len) if n <= limits.body => Ok(Self::Sized(len)),
                _ => Err(Fault::new(413, "the body is too large")),
            },
        }
    }

    /// Decodes `bytes`, which start where the body starts, in place.
    fn advance(&mut self, bytes: &mut [u8], limits: &Limits) -> Result<Piece, Fault> {
        match self {
            Self::Sized(n) if *n <= bytes.len() => Ok(Piece::End { len: *n, used: *n }),
            Self::Sized(_) => Ok(Piece::More(bytes.len())),
            Self::Chunked(chunked) => chunked.decode(bytes, limits.body),
            // Not reached: see `Input::next_piece`.
            Self::Pieces(..) => Ok(Piece::More(bytes.len())),
        }
    }
}

/// The body, if it needs no decoding and `bytes`, which follow its head, hold all of it.
fn whole_body<'b>(length: Length, bytes: &'b [u8], limits: &Limits) -> Option<&'b [u8]> {
    match length {
        Length::Sized(n) if n <= limits.body => bytes.get(..usize::try_from(n).ok()?),
        _ => None,
    }
}

impl Input {
    /// An empty input with room for `capacity` bytes.
    pub fn new(capacity: usize) -> Self {
        Self { buf: Vec::with_capacity(capacity), ..Self::default() }
    }

    /// The bytes from the current request on.
    pub fn rest(&self) -> &[u8] {
        &self.buf[self.start..]
    }

    pub fn is_empty(&self) -> bool {
        self.start == self.buf.len()
    }

    /// True if the last read may have left bytes in the kernel.
    pub fn is_full(&self) -> bool {
        self.buf.len() == self.buf.capacity()
    }

    /// Parses one request. If it is complete, returns what `answer` makes of its head and body; `None` if more bytes are
    /// needed. `empty_lines` counts those before the request.
    pub fn next_request<T>(
        &mut self,
        empty_lines: &mut u8,
        limits: &Limits,
        answer: impl FnOnce(&Head<'_>, &[u8]) -> T,
    ) -> Result<Option<T>, Fault> {
        if self.partial.is_none() {
            self.skip_empty_lines(empty_lines)?;
        }
        if self.scan.is_new() {
            let rest = &self.buf[self.start..];
            if let Some(head) = quick::parse(rest, limits, &mut self.places)
                && let Some(body) = whole_body(head.length, &rest[head.len..], limits)
            {
                let (answered, len) = (answer(&head, body), head.len + body.len());
                self.consume(len);
                return Ok(Some(answered));
            }
        }
        self.next_scanned(limits, answer)
    }

    /// As [`Input::next_request`], for a request that is not complete, is chunked, or is to be refused.
    #[inline(never)]
    pub fn next_scanned<T>(
        &mut self,
        limits: &Limits,
        answer: impl FnOnce(&Head<'_>, &[u8]) -> T,
    ) -> Result<Option<T>, Fault> {
        let head_len = match &self.partial {
            Some(partial) => partial.head_len,
            None => {
                let Some(len) = self.scan.run(&self.buf[self.start..], limits)? else { return Ok(None) };
                len
            }
        };
        let (head, rest) = self.buf[self.start..].split_at_mut(head_len);
        let continued = self.partial.as_mut().map(|p| p.body.advance(rest, limits)).transpose()?;
        if let Some(Piece::More(len)) = continued {
            self.buf.truncate(self.start + head_len + len);
            return Ok(None);
        }
        // A head whose body was not complete is parsed a second time, which costs less than to keep its fields.
        let mut table = head::table();
        let head = Head::parse(head, &mut table)?;
        let piece = match continued {
            Some(piece) => piece,
            None => {
                let mut body = Body::new(head.length, limits)?;
                let piece = body.advance(rest, limits)?;
                if let Piece::More(_) = piece {
                    let expects_continue = head.expects_continue;
                    self.partial = Some(Partial { head_len, body, expects_continue });
                }
                piece
            }
        };
        match piece {
            Piece::End { len, used } => {
                let answered = answer(&head, &rest[..len]);
                self.consume(head_len + used);
                Ok(Some(answered))
            }
            Piece::More(len) => {
                self.buf.truncate(self.start + head_len + len);
                Ok(None)
            }
        }
    }

    /// The length of the head of the next request, if it is complete.
    pub fn find_head(&mut self, empty_lines: &mut u8, limits: &Limits) -> Result<Option<usize>, Fault> {
        self.skip_empty_lines(empty_lines)?;
        self.scan.run(&self.buf[self.start..], limits)
    }

    /// True if the body of the current request is given to the handler in pieces.
    pub fn is_in_pieces(&self) -> bool {
        matches!(self.partial, Some(Partial { body: Body::Pieces(..), .. }))
    }

    /// True if the handler does not want a piece now.
    pub fn is_paused(&self) -> bool {
        self.upload.as_ref().is_some_and(|upload| upload.is_paused())
    }

    /// Decodes what has arrived of a body in pieces. `give` gets the head, a piece, and whether it is the last; it returns the answer,
    /// if that was made. `None` if more bytes are needed.
    pub fn next_piece<T>(
        &mut self,
        give: impl FnOnce(&Head<'_>, &[u8], bool) -> Option<T>,
    ) -> Result<Option<T>, Fault> {
        let Some(Partial { head_len, body: Body::Pieces(left, _), expects_continue }) = &mut self.partial
        else {
            return Ok(None);
        };
        let head_len = *head_len;
        let (head, rest) = self.buf[self.start..].split_at_mut(head_len);
        *expects_continue &= rest.is_empty();
        let (len, kept, is_last) = left.advance(rest)?;
        if len == 0 && !is_last {
            self.buf.truncate(self.start + head_len + kept);
            return Ok(None);
        }
        // Parsed for each piece, which costs less than to keep its fields.
        let mut table = head::table();
        let head = Head::parse(head, &mut table)?;
        let given = give(&head, &rest[..len], is_last);
        if is_last {
            self.consume(head_len + kept);
        } else {
            let body = self.start + head_len;
            self.buf.truncate(body + kept);
            self.buf.drain(body..body + len);
        }
        Ok(given)
    }

    fn skip_empty_lines(&mut self, count: &mut u8) -> Result<(), Fault> {
        while let [b'\r', b'\n', ..] = self.rest() {
            self.start += 2;
            *count += 1;
            if *count > EMPTY_LINES {
                return Err(Fault::bad("too many empty lines before a request"));
            }
        }
        Ok(())
    }

    /// Goes to the next request, after the `len` bytes of the current one.
    pub fn consume(&mut self, len: usize) {
        self.start += len;
        (self.scan, self.partial) = (Scan::default(), None);
    }

    /// True, once, if the client waits for a 100 and has sent nothing of the body.
    pub fn take_expectation(&mut self) -> bool {
        let have = self.rest().len();
        self.partial.as_mut().is_some_and(|p| std::mem::take(&mut p.expects_continue) && have == p.head_len)
    }

    /// Forgets everything and keeps the buffer.
    pub fn clear(&mut self) {
        self.buf.clear();
        self.consume(0);
        self.start = 0;
    }

    /// Takes over what `other` holds from its current request on; this input must be empty.
    pub fn copy_rest(&mut self, other: &mut Self) {
        self.buf.extend_from_slice(other.rest());
        (self.scan, self.partial) = (other.scan, other.partial);
        self.upload = other.upload.take();
    }

    /// Moves the current request to the front.
    pub fn compact(&mut self) {
        if self.start > 0 {
            self.buf.drain(..self.start);
            self.start = 0;
        }
    }

    /// Reads once (recv(2)): 0 at end of file, `WouldBlock` if no bytes are there. The room made for it depends on what the
    /// client has sent, not on what it has promised.
    pub fn fill(&mut self, fd: BorrowedFd<'_>) -> io::Result<usize> {
        self.compact();
        let len = self.buf.len();
        let step = if self.partial.is_some() { len.clamp(SMALL_READ, READ) } else { SMALL_READ };
        match self.partial {
            Some(Partial { body: Body::Pieces(_, room), .. }) => return self.fill_piece(room, fd),
            // The body nearly fits: doubling the buffer would add room that is never used.
            Some(Partial { head_len, body: Body::Sized(n), .. })
                if head_len + n <= (2 * self.buf.capacity()).max(len + step) =>
            {
                self.buf.reserve_exact((head_len + n).saturating_sub(len).max(1));
            }
            _ => self.buf.reserve(step),
        }
        socket::recv_append(fd, &mut self.buf)
    }

    /// As [`Input::fill`], for a body in pieces. There is more room if the client has filled what there was.
    #[cold]
    #[inline(never)]
    fn fill_piece(&mut self, room: usize, fd: BorrowedFd<'_>) -> io::Result<usize> {
        let len = self.buf.len();
        if self.buf.capacity() - len < room {
            self.buf.reserve_exact(room);
        } else if self.buf.capacity() > len + READ + SMALL_READ {
            // It is an earlier request's.
            self.buf.shrink_to(len + READ);
        }
        let read = socket::recv_append(fd, &mut self.buf)?;
        if self.is_full()
            && let Some(Partial { body: Body::Pieces(_, room), .. }) = &mut self.partial
        {
            *room = (*room * 2).min(READ);
        }
        Ok(read)
    }

    /// Appends bytes as a read would.
    #[cfg(any(fuzzing, test))]
    pub fn append(&mut self, bytes: &[u8]) {
        self.buf.extend_from_slice(bytes);
    }
}

impl Pooled for Input {
    fn reset(&mut self) {
        self.clear();
        (self.user, self.upload) = (None, None);
        pool::reset(&mut self.buf);
    }

    fn weight(&self) -> usize {
        self.buf.capacity() + self.places.capacity() * size_of::<Place>()
    }
}
