//! The outgoing direction of a channel. Frames are sent at once if the socket takes them, else kept in order, up to a bound.
//! Runs in the master and in workers.

use super::{Envelope, HEAD, Notice, Undelivered, encode_head, encode_notice};
use crate::sys::{errno, socket};
use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::os::fd::BorrowedFd;
use std::rc::Rc;
use std::time::Duration;

/// Short frames are collected in pieces of at most this many bytes.
const PACK: usize = 64 * 1024;
/// The capacity of an outbox, in messages of the greatest size.
const MESSAGES: usize = 4;
/// The most slices that one call sends.
const SLICES: usize = 16;
/// A frame of at most this many bytes is sent as one slice: copying them costs less than a second slice.
const SMALL: usize = 512;

/// The outgoing direction of a channel.
#[derive(Debug)]
pub struct Outbox {
    pieces: VecDeque<Piece>,
    /// Bytes of the first piece that have been sent.
    sent: usize,
    /// Bytes of all pieces that have not been sent.
    unsent: usize,
    max: usize,
}

/// Says whether the outbox's capacity applies to a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Room {
    /// The frame is refused if the outbox is full.
    Needed,
    /// The frame is kept even if the outbox is full.
    Ignored,
}

#[derive(Debug)]
enum Piece {
    /// Frames, or the rest of one, copied.
    Packed(Vec<u8>),
    /// The content of a message, in the buffer it was read into.
    Shared(Rc<Vec<u8>>),
}

impl Outbox {
    /// An outbox for messages of at most `max` bytes, which begins with the [`Outbox::unsent`] bytes of another.
    pub fn new(max: usize, unsent: &[u8]) -> Self {
        let mut outbox = Self { pieces: VecDeque::new(), sent: 0, unsent: 0, max };
        outbox.keep(unsent, &[]);
        outbox
    }

    /// The bytes not yet sent, in order.
    pub fn unsent(&self) -> Vec<u8> {
        let all = self.pieces.iter().flat_map(Piece::bytes);
        all.skip(self.sent).copied().collect()
    }

    /// True if nothing is left to send.
    pub fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// The number of bytes not yet sent.
    pub fn waiting(&self) -> usize {
        self.unsent
    }

    /// The most bytes kept if room is needed: four messages of the greatest size, and 64 KiB.
    pub fn capacity(&self) -> usize {
        MESSAGES * self.max + PACK
    }

    /// True if there is room for a message with `len` bytes of content.
    pub fn has_room(&self, len: usize) -> bool {
        self.unsent + HEAD + len <= self.capacity()
    }

    /// Sends a notice, even if the outbox is full.
    ///
    /// # Errors
    /// [`Undelivered::Gone`] if the other end is closed.
    pub fn notify(&mut self, to: BorrowedFd<'_>, notice: &Notice) -> Result<(), Undelivered> {
        self.send_or_keep(to, &encode_notice(notice), &[])
    }

    /// Sends a message, and copies what the socket does not take.
    ///
    /// # Errors
    /// [`Undelivered::TooLarge`], [`Undelivered::Full`], [`Undelivered::Gone`]; then nothing was sent.
    pub fn send(
        &mut self,
        to: BorrowedFd<'_>,
        envelope: &Envelope,
        bytes: &[u8],
        room: Room,
    ) -> Result<(), Undelivered> {
        self.check(bytes.len(), room)?;
        self.send_or_keep(to, encode_head(envelope, bytes.len()).as_flattened(), bytes)
    }

    /// Says whether [`Outbox::send`] would take a message with `len` bytes of content.
    ///
    /// # Errors
    /// [`Undelivered::TooLarge`], [`Undelivered::Full`].
    pub fn check(&self, len: usize, room: Room) -> Result<(), Undelivered> {
        match room {
            _ if len > self.max => Err(Undelivered::TooLarge),
            Room::Needed if !self.has_room(len) => Err(Undelivered::Full),
            _ => Ok(()),
        }
    }

    /// Adds a message without copying its content, even if the outbox is full. [`Outbox::flush`] sends it.
    pub fn add_shared(&mut self, envelope: &Envelope, bytes: Rc<Vec<u8>>) {
        self.keep(encode_head(envelope, bytes.len()).as_flattened(), &[]);
        self.unsent += bytes.len();
        self.pieces.push_back(Piece::Shared(bytes));
    }

    /// Sends as much as the socket takes by one call, at most `limit` bytes; returns the number of bytes.
    ///
    /// # Errors
    /// Those of send(2); the other end is closed then.
    pub fn flush(&mut self, to: BorrowedFd<'_>, limit: usize) -> io::Result<usize> {
        let mut slices = [IoSlice::new(&[]); SLICES];
        let (mut skip, mut left) = (self.sent, limit);
        for (slice, piece) in slices.iter_mut().zip(&self.pieces) {
            // Only the first piece can have been sent in part.
            let rest = &piece.bytes()[std::mem::take(&mut skip)..];
            let rest = &rest[..rest.len().min(left)];
            *slice = IoSlice::new(rest);
            left -= rest.len();
        }
        let n = taken(socket::send_slices(to, &slices, false))?;
        self.unsent -= n;
        self.sent += n;
        while let Some(len) = self.pieces.front().map(|p| p.bytes().len()).filter(|len| *len <= self.sent) {
            self.sent -= len;
            self.pieces.pop_front();
        }
        Ok(n)
    }

    /// Sends everything; gives up when the socket takes nothing for `patience`.
    ///
    /// # Errors
    /// `TimedOut`; those of send(2).
    pub fn flush_all(&mut self, to: BorrowedFd<'_>, patience: Duration) -> io::Result<()> {
        while !self.is_empty() {
            self.flush(to, usize::MAX)?;
            if !self.is_empty() && !socket::wait_ready(to, true, Some(patience))? {
                return Err(io::ErrorKind::TimedOut.into());
            }
        }
        Ok(())
    }

    /// Drops everything.
    pub fn clear(&mut self) {
        self.pieces.clear();
        (self.sent, self.unsent) = (0, 0);
    }

    /// Sends what the socket takes now, unless other frames have to go first, and keeps a copy of the rest.
    fn send_or_keep(&mut self, to: BorrowedFd<'_>, head: &[u8], bytes: &[u8]) -> Result<(), Undelivered> {
        let mut sent = 0;
        if self.pieces.is_empty() {
            let mut small = [0; SMALL];
            let result = match small.get_mut(..head.len() + bytes.len()) {
                Some(frame) => {
                    let (first, second) = frame.split_at_mut(head.len());
                    first.copy_from_slice(head);
                    second.copy_from_slice(bytes);
                    socket::send(to, frame)
                }
                None => socket::send_slices(to, &[IoSlice::new(head), IoSlice::new(bytes)], false),
            };
            sent = taken(result).map_err(|_| Undelivered::Gone)?;
        }
        self.keep(&head[sent.min(head.len())..], &bytes[sent.saturating_sub(head.len())..]);
        Ok(())
    }

    /// Keeps a copy of these bytes.
    fn keep(&mut self, head: &[u8], bytes: &[u8]) {
        let len = head.len() + bytes.len();
        self.unsent += len;
        match self.pieces.back_mut() {
            _ if len == 0 => {}
            Some(Piece::Packed(last)) if last.len() + len <= PACK => {
                last.extend_from_slice(head);
                last.extend_from_slice(bytes);
            }
            _ => self.pieces.push_back(Piece::Packed([head, bytes].concat())),
        }
    }
}

impl Piece {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::Packed(bytes) => bytes,
            Self::Shared(bytes) => bytes,
        }
    }
}

/// The number of bytes that a socket took: 0 if it is full (`EAGAIN`), or if the kernel has no memory for more now.
fn taken(result: io::Result<usize>) -> io::Result<usize> {
    match result {
        Err(e) if matches!(e.raw_os_error(), Some(errno::EAGAIN | errno::ENOBUFS | errno::ENOMEM)) => Ok(0),
        other => other,
    }
}
