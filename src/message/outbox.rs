//! What goes out on a channel: sent at once where the socket takes it, else kept in order up to a bound. Never waits.
//! Runs in the master and in workers.

use super::{LETTER, Label, Undelivered, Verb, encode_label, encode_verb};
use crate::sys::{errno, socket};
use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::os::fd::BorrowedFd;
use std::rc::Rc;

/// Short frames are put together in pieces of this size.
const PACK: usize = 64 * 1024;
/// What a full outbox holds: so many messages of the greatest size.
const MESSAGES: usize = 4;
/// Parts sent by one call.
const SLICES: usize = 16;

/// The outgoing side of a channel.
#[derive(Debug)]
pub struct Outbox {
    pieces: VecDeque<Piece>,
    /// How much of the first piece has been sent.
    sent: usize,
    /// Bytes in all pieces that have not been sent.
    unsent: usize,
    max: usize,
}

/// Whether a frame has to fit in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Room {
    /// It is refused where the outbox is full.
    Needed,
    /// It goes in whatever else is there: short frames that somebody relies on.
    Ignored,
}

#[derive(Debug)]
enum Piece {
    /// Frames, or the rest of one, copied.
    Packed(Vec<u8>),
    /// A letter whose bytes lie where they were read.
    Shared([u8; LETTER], Rc<Vec<u8>>),
}

impl Outbox {
    /// An empty one, for letters of at most `max` bytes.
    pub fn new(max: usize) -> Self {
        Self { pieces: VecDeque::new(), sent: 0, unsent: 0, max }
    }

    /// One that goes on where another one stood.
    pub fn resume(max: usize, unsent: &[u8]) -> Self {
        let mut outbox = Self::new(max);
        outbox.keep(unsent, &[]);
        outbox
    }

    /// What was not sent, as it is to go.
    pub fn unsent(&self) -> Vec<u8> {
        let all = self.pieces.iter().flat_map(Piece::parts).flatten();
        all.skip(self.sent).copied().collect()
    }

    /// Whether nothing is left to send.
    pub fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// The bytes that wait.
    pub fn waiting(&self) -> usize {
        self.unsent
    }

    /// The most bytes that may wait: four messages of the greatest size, and 64 KiB.
    pub fn capacity(&self) -> usize {
        MESSAGES * self.max + PACK
    }

    /// Whether there is room for a letter of so many bytes.
    pub fn has_room(&self, len: usize) -> bool {
        self.unsent + LETTER + len <= self.capacity()
    }

    /// Sends a verb; there is always room for one.
    ///
    /// # Errors
    /// [`Undelivered::Gone`] where the other end is.
    pub fn say(&mut self, to: BorrowedFd<'_>, verb: &Verb) -> Result<(), Undelivered> {
        let frame = encode_verb(verb);
        let sent = self.try_now(to, &[IoSlice::new(&frame)])?;
        self.keep(&frame[sent..], &[]);
        Ok(())
    }

    /// Sends a letter, and copies what the socket does not take.
    ///
    /// # Errors
    /// [`Undelivered::TooLarge`], [`Undelivered::Full`], [`Undelivered::Gone`]; then nothing was sent.
    pub fn send(
        &mut self,
        to: BorrowedFd<'_>,
        label: &Label,
        bytes: &[u8],
        room: Room,
    ) -> Result<(), Undelivered> {
        self.check(bytes.len(), room)?;
        let head = encode_label(label, bytes.len());
        let sent = self.try_now(to, &[IoSlice::new(&head), IoSlice::new(bytes)])?;
        self.keep(&head[sent.min(LETTER)..], &bytes[sent.saturating_sub(LETTER)..]);
        Ok(())
    }

    /// As [`Outbox::send`], of bytes that are not copied. It is sent by [`Outbox::flush`], in parts.
    ///
    /// # Errors
    /// As [`Outbox::send`].
    pub fn send_shared(&mut self, label: &Label, bytes: &Rc<Vec<u8>>, room: Room) -> Result<(), Undelivered> {
        self.check(bytes.len(), room)?;
        self.unsent += LETTER + bytes.len();
        self.pieces.push_back(Piece::Shared(encode_label(label, bytes.len()), bytes.clone()));
        Ok(())
    }

    /// Sends of what waits as much as the socket takes by one call, at most `limit` bytes; returns how many.
    ///
    /// # Errors
    /// What send(2) says; the other end is gone then.
    pub fn flush(&mut self, to: BorrowedFd<'_>, limit: usize) -> io::Result<usize> {
        let mut slices = [IoSlice::new(&[]); SLICES];
        let (mut skip, mut left) = (self.sent, limit);
        for (slice, part) in slices.iter_mut().zip(self.pieces.iter().flat_map(Piece::parts)) {
            let start = skip.min(part.len());
            let rest = &part[start..];
            let rest = &rest[..rest.len().min(left)];
            *slice = IoSlice::new(rest);
            skip -= start;
            left -= rest.len();
        }
        let n = taken(socket::send_slices(to, &slices, false))?;
        self.advance(n);
        Ok(n)
    }

    /// Drops what waits, where nobody will read it.
    pub fn clear(&mut self) {
        self.pieces.clear();
        (self.sent, self.unsent) = (0, 0);
    }

    fn check(&self, len: usize, room: Room) -> Result<(), Undelivered> {
        if len > self.max {
            return Err(Undelivered::TooLarge);
        }
        if room == Room::Needed && !self.has_room(len) {
            return Err(Undelivered::Full);
        }
        Ok(())
    }

    /// Sends what it can at once, where nothing is to go before it.
    fn try_now(&self, to: BorrowedFd<'_>, slices: &[IoSlice<'_>]) -> Result<usize, Undelivered> {
        if !self.pieces.is_empty() {
            return Ok(0);
        }
        taken(socket::send_slices(to, slices, false)).map_err(|_| Undelivered::Gone)
    }

    /// Keeps a copy of what was not sent.
    fn keep(&mut self, head: &[u8], bytes: &[u8]) {
        let len = head.len() + bytes.len();
        if len == 0 {
            return;
        }
        self.unsent += len;
        let last = match self.pieces.back_mut() {
            Some(Piece::Packed(last)) if last.len() + len <= PACK => last,
            _ => {
                self.pieces.push_back(Piece::Packed(Vec::with_capacity(len)));
                let Some(Piece::Packed(last)) = self.pieces.back_mut() else { return };
                last
            }
        };
        last.extend_from_slice(head);
        last.extend_from_slice(bytes);
    }

    fn advance(&mut self, n: usize) {
        self.unsent -= n;
        self.sent += n;
        while let Some(len) = self.pieces.front().map(Piece::len).filter(|len| *len <= self.sent) {
            self.sent -= len;
            self.pieces.pop_front();
        }
    }
}

impl Piece {
    fn parts(&self) -> [&[u8]; 2] {
        match self {
            Self::Packed(bytes) => [bytes, &[]],
            Self::Shared(head, bytes) => [head, bytes],
        }
    }

    fn len(&self) -> usize {
        self.parts().iter().map(|p| p.len()).sum()
    }
}

/// What a socket took: nothing where it is full, or the kernel has no memory for it now.
fn taken(result: io::Result<usize>) -> io::Result<usize> {
    match result {
        Err(e) if matches!(e.raw_os_error(), Some(errno::EAGAIN | errno::ENOBUFS | errno::ENOMEM)) => Ok(0),
        other => other,
    }
}
