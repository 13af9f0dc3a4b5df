//! The incoming direction of a channel: bytes in any pieces become frames. Runs in the master and in workers.
//!
//! Short frames are read many at a time into one buffer and borrowed from there. A long message is read into its own buffer,
//! which the caller gets. At most one incomplete short frame is moved per buffer, so the cost is proportional to the bytes.

use super::{
    ENVELOPE, Envelope, FAILED, HEAD, HEADER, MAX_NOTICE, NOTICE, Notice, decode, decode_envelope,
    decode_notice, encode_head, purpose,
};
use crate::sys::socket;
use crate::sys::time::Time;
use std::borrow::Cow;
use std::io;
use std::os::fd::BorrowedFd;

/// Bytes of the buffer for short frames.
const BUFFER: usize = 64 * 1024;
/// A message with more content than this gets a buffer of its own. Low in tests, so that they reach it with few bytes.
const LONG: usize = if cfg!(any(fuzzing, test)) { 64 } else { 16 * 1024 };
/// If less room than this is left at the end of the buffer, its content moves to the front.
const LITTLE: usize = 16 * 1024;
// The rest of a short frame always finds room behind its first part.
const _: () = assert!(BUFFER > 2 * (LITTLE + HEAD) && LITTLE >= LONG && LITTLE >= MAX_NOTICE);

/// The work left to one channel before others have their turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// Bytes to read.
    pub bytes: usize,
    /// Frames to return.
    pub frames: usize,
    /// The last read got less than it asked for, so the socket is empty and the poll will report more.
    drained: bool,
}

impl Budget {
    /// A budget of this many bytes and frames.
    pub const fn new(bytes: usize, frames: usize) -> Self {
        Self { bytes, frames, drained: false }
    }

    /// The smaller of the two, for bytes and for frames.
    pub fn min(self, other: Self) -> Self {
        Self::new(self.bytes.min(other.bytes), self.frames.min(other.frames))
    }

    /// Subtracts what was spent of a share of it: the share before and after.
    pub fn spend(&mut self, before: Self, after: Self) {
        self.bytes -= before.bytes - after.bytes;
        self.frames -= before.frames - after.frames;
    }

    /// True if no bytes or no frames are left.
    pub fn is_spent(&self) -> bool {
        self.bytes == 0 || self.frames == 0
    }
}

/// The incoming direction of a channel.
#[derive(Debug, Default)]
pub struct Inbox {
    max: usize,
    bytes: Vec<u8>,
    /// The length of the part of `bytes` that was returned already.
    taken: usize,
    long: Option<Long>,
    /// The number of bytes that were read from the socket, with those that this began with.
    received: u64,
    /// A time, and the number of bytes that had arrived then ([`Inbox::caught_up`]).
    goal: Option<(Time, u64)>,
}

/// A long message that has come in part.
#[derive(Debug)]
struct Long {
    envelope: Envelope,
    bytes: Vec<u8>,
    len: usize,
}

/// The result of [`Inbox::receive`].
#[derive(Debug, PartialEq, Eq)]
pub enum Received<'a> {
    /// A notice of the other process.
    Notice(Notice),
    /// A message of user code, and its content.
    Message(Envelope, Cow<'a, [u8]>),
    /// No whole frame has come, and there is nothing to read.
    Nothing,
    /// The budget is spent; more may be there already.
    BudgetSpent,
    /// The other end is closed.
    Closed,
}

/// A header: the tag, and the number of bytes after it.
type Header = (u8, usize);

impl Inbox {
    /// An inbox for messages of at most `max` bytes, which begins with the [`Inbox::unread`] bytes of another.
    pub fn new(max: usize, unread: Vec<u8>) -> Self {
        Self { max, received: unread.len() as u64, bytes: unread, ..Self::default() }
    }

    /// The bytes read from the socket and not yet returned as frames.
    pub fn unread(&self) -> Vec<u8> {
        let mut all = Vec::new();
        if let Some(long) = &self.long {
            all.extend(encode_head(&long.envelope, long.len).as_flattened());
            all.extend(&long.bytes);
        }
        all.extend(&self.bytes[self.taken..]);
        all
    }

    /// Returns the next frame, without waiting.
    ///
    /// # Errors
    /// `InvalidData` if the bytes are no frame; those of recv(2).
    pub fn receive(&mut self, from: BorrowedFd<'_>, budget: &mut Budget) -> io::Result<Received<'_>> {
        loop {
            match self.find()? {
                None => {}
                Some(_) if budget.frames == 0 => return Ok(Received::BudgetSpent),
                Some(header) => {
                    budget.frames -= 1;
                    return self.take(header);
                }
            }
            if budget.drained {
                // Saves the recv(2) that would find nothing; what has come since is reported by the poll.
                return Ok(Received::Nothing);
            }
            if budget.bytes == 0 {
                return Ok(Received::BudgetSpent);
            }
            let (into, room) = self.read_target();
            let room = room.min(budget.bytes);
            match socket::recv_append_up_to(from, into, room) {
                Ok(0) => return Ok(Received::Closed),
                Ok(n) => {
                    self.received += n as u64;
                    budget.bytes -= n;
                    budget.drained = n < room;
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(Received::Nothing),
                // The other process ended without reading all we sent.
                Err(e) if e.kind() == io::ErrorKind::ConnectionReset => return Ok(Received::Closed),
                Err(e) => return Err(e),
            }
        }
    }

    /// Returns a time from which no frame is left that had arrived by then: `now` at the latest. `None` if there are such frames;
    /// once they have been received, the next call returns the time of the first.
    ///
    /// Whoever ends a wait at a deadline has to know that: the frame that ends it may lie in the socket, unless the poll was asked, and
    /// all was read, since the deadline.
    pub fn caught_up(&mut self, from: BorrowedFd<'_>, now: Time) -> Option<Time> {
        let arrived = || self.received + socket::unread(from).unwrap_or(0) as u64;
        let (at, end) = self.goal.unwrap_or_else(|| (now, arrived()));
        self.goal = Some((at, end));
        let kept = self.bytes.len() - self.taken + self.long.as_ref().map_or(0, |long| long.bytes.len());
        let returned = self.received - kept as u64;
        // The last bytes may be the first part of a frame whose rest does not come.
        let mut has_part_only = || self.received >= end && !matches!(self.find(), Ok(Some(_)));
        if returned < end && !has_part_only() {
            return None;
        }
        self.goal = None;
        Some(at)
    }

    /// Uses `spare` as the buffer if this inbox has none, so that many idle inboxes share one.
    pub fn borrow_buffer(&mut self, spare: &mut Vec<u8>) {
        if self.bytes.capacity() == 0 {
            self.bytes = std::mem::take(spare);
        }
    }

    /// Gives the buffer to `spare` if it is empty.
    pub fn return_buffer(&mut self, spare: &mut Vec<u8>) {
        if self.taken == self.bytes.len() {
            self.bytes.clear();
            self.taken = 0;
            *spare = std::mem::take(&mut self.bytes);
        }
    }

    /// The buffer for the next bytes, and the most it may take.
    fn read_target(&mut self) -> (&mut Vec<u8>, usize) {
        if let Some(long) = &mut self.long {
            // Not a byte more: what follows the message belongs into the shared buffer.
            let room = long.len - long.bytes.len();
            return (&mut long.bytes, room);
        }
        if self.taken == self.bytes.len() {
            self.bytes.clear();
            self.taken = 0;
        } else if self.bytes.capacity() - self.bytes.len() < LITTLE {
            self.bytes.drain(..self.taken);
            self.taken = 0;
        }
        self.bytes.reserve_exact(BUFFER.saturating_sub(self.bytes.len()));
        let room = self.bytes.capacity() - self.bytes.len();
        (&mut self.bytes, room)
    }

    /// Returns the header of the next frame if all of it has come. The content of a long message is in `long` then.
    fn find(&mut self) -> io::Result<Option<Header>> {
        if self.long.is_none() {
            let rest = &self.bytes[self.taken..];
            let Some((header, rest)) = rest.split_first_chunk() else { return Ok(None) };
            let (tag, len) = self.check(header).ok_or_else(invalid)?;
            if purpose(tag).is_none() || len <= ENVELOPE + LONG {
                return Ok((rest.len() >= len).then_some((tag, len)));
            }
            let Some((envelope, rest)) = rest.split_first_chunk() else { return Ok(None) };
            let envelope = decode_envelope(tag, envelope).ok_or_else(invalid)?;
            let len = len - ENVELOPE;
            let mut bytes = Vec::with_capacity(len);
            bytes.extend_from_slice(&rest[..rest.len().min(len)]);
            self.taken += HEAD + bytes.len();
            self.long = Some(Long { envelope, bytes, len });
        }
        let whole = self.long.as_ref().filter(|long| long.bytes.len() == long.len);
        Ok(whole.map(|long| (long.envelope.purpose as u8, long.len)))
    }

    /// Decodes a header; `None` if no frame may have it. This comes before memory is set aside for the frame.
    fn check(&self, header: &[u8; HEADER]) -> Option<Header> {
        let [len, tag] = decode(header)?;
        let (tag, len) = (u8::try_from(tag).ok()?, len as usize);
        let fits = match purpose(tag) {
            Some(_) => (ENVELOPE..=ENVELOPE + self.max).contains(&len),
            None if tag == FAILED => len <= MAX_NOTICE,
            None => len == NOTICE,
        };
        fits.then_some((tag, len))
    }

    fn take(&mut self, (tag, len): Header) -> io::Result<Received<'_>> {
        if let Some(Long { envelope, bytes, .. }) = self.long.take() {
            return Ok(Received::Message(envelope, Cow::Owned(bytes)));
        }
        let start = self.taken + HEADER;
        self.taken = start + len;
        let body = &self.bytes[start..self.taken];
        let message = body.split_first_chunk().and_then(|(envelope, bytes)| {
            Some(Received::Message(decode_envelope(tag, envelope)?, Cow::Borrowed(bytes)))
        });
        message.or_else(|| decode_notice(tag, body).map(Received::Notice)).ok_or_else(invalid)
    }
}

fn invalid() -> io::Error {
    io::ErrorKind::InvalidData.into()
}
