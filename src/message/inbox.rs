//! The incoming direction of a channel: bytes in any pieces become frames. Runs in the master and in workers.
//!
//! Short frames are read many at a time into one buffer and borrowed from there. A long message is read into a buffer of its
//! own, which the caller gets. At most one part of a short frame is moved per buffer, so the cost is proportional to the
//! bytes.

use super::{
    ENVELOPE, Envelope, HEAD, HEADER, MAX_NOTICE, Notice, decode_envelope, decode_notice, encode_head,
    notice_fits, purpose,
};
use crate::sys::socket;
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

/// The work that one channel may cause before others have their turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// Bytes to read.
    pub bytes: usize,
    /// Frames to return.
    pub frames: usize,
    /// The last read got less than it asked for, so the socket is empty: the poll reports when there is more.
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

    /// Subtracts what was spent of a part of it.
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
    /// There is no whole frame, and nothing to read.
    Nothing,
    /// The budget is spent; there may be more at once.
    BudgetSpent,
    /// The other end is closed.
    Closed,
}

/// The next frame, if all of it is there.
enum Next {
    Incomplete,
    Long,
    /// In the buffer: its tag, and the number of bytes after its header.
    Short(u8, usize),
}

impl Inbox {
    /// An empty one, for messages of at most `max` bytes.
    pub fn new(max: usize) -> Self {
        Self { max, ..Self::default() }
    }

    /// One that continues with these bytes, which another one had not returned ([`Inbox::unread`]).
    pub fn resume(max: usize, unread: Vec<u8>) -> Self {
        Self { max, bytes: unread, ..Self::default() }
    }

    /// The bytes that were read from the socket and are not returned yet, as they came.
    pub fn unread(&self) -> Vec<u8> {
        let mut all = Vec::new();
        if let Some(long) = &self.long {
            all.extend(encode_head(&long.envelope, long.len));
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
                Next::Incomplete => {}
                _ if budget.frames == 0 => return Ok(Received::BudgetSpent),
                next => {
                    budget.frames -= 1;
                    return self.take(next);
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
                    budget.bytes -= n;
                    budget.drained = n < room;
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(Received::Nothing),
                // The other process ended with bytes of ours unread.
                Err(e) if e.kind() == io::ErrorKind::ConnectionReset => return Ok(Received::Closed),
                Err(e) => return Err(e),
            }
        }
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

    /// Takes bytes from a test instead of a socket; returns the number taken, less than all if frames have to be taken
    /// first.
    #[cfg(any(fuzzing, test))]
    pub fn feed(&mut self, bytes: &[u8]) -> usize {
        let (into, room) = self.read_target();
        let n = room.min(bytes.len());
        into.extend_from_slice(&bytes[..n]);
        n
    }

    /// As [`Inbox::receive`], of the bytes that were fed.
    #[cfg(any(fuzzing, test))]
    pub fn next(&mut self) -> io::Result<Option<Received<'_>>> {
        match self.find()? {
            Next::Incomplete => Ok(None),
            next => self.take(next).map(Some),
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

    fn find(&mut self) -> io::Result<Next> {
        if self.long.is_none() {
            let rest = &self.bytes[self.taken..];
            let Some((head, rest)) = rest.split_first_chunk::<HEADER>() else { return Ok(Next::Incomplete) };
            let (tag, len) = self.check(*head)?;
            if purpose(tag).is_none() || len <= ENVELOPE + LONG {
                return Ok(if rest.len() < len { Next::Incomplete } else { Next::Short(tag, len) });
            }
            let Some(envelope) = rest.first_chunk::<ENVELOPE>() else { return Ok(Next::Incomplete) };
            let envelope = decode_envelope(tag, envelope).ok_or_else(invalid)?;
            self.begin_long(envelope, len - ENVELOPE);
        }
        let is_whole = self.long.as_ref().is_some_and(|l| l.bytes.len() == l.len);
        Ok(if is_whole { Next::Long } else { Next::Incomplete })
    }

    /// Checks a header as soon as it is there, before memory is set aside for its frame; returns its tag and length.
    fn check(&self, head: [u8; HEADER]) -> io::Result<(u8, usize)> {
        let [l0, l1, l2, l3, tag, 0, 0, 0] = head else { return Err(invalid()) };
        let len = u32::from_le_bytes([l0, l1, l2, l3]) as usize;
        let fits = match purpose(tag) {
            Some(_) => (ENVELOPE..=ENVELOPE + self.max).contains(&len),
            None => notice_fits(tag, len),
        };
        if fits { Ok((tag, len)) } else { Err(invalid()) }
    }

    /// Makes a buffer for a long message, with the part of it that was read already.
    fn begin_long(&mut self, envelope: Envelope, len: usize) {
        let start = self.taken + HEAD;
        let end = self.bytes.len().min(start + len);
        let mut bytes = Vec::with_capacity(len);
        bytes.extend_from_slice(&self.bytes[start..end]);
        self.taken = end;
        self.long = Some(Long { envelope, bytes, len });
    }

    fn take(&mut self, next: Next) -> io::Result<Received<'_>> {
        let (tag, len) = match (next, self.long.take()) {
            (Next::Short(tag, len), _) => (tag, len),
            (_, Some(Long { envelope, bytes, .. })) => {
                return Ok(Received::Message(envelope, Cow::Owned(bytes)));
            }
            (_, None) => return Ok(Received::Nothing),
        };
        let start = self.taken + HEADER;
        self.taken = start + len;
        let body = &self.bytes[start..self.taken];
        let message = body.split_first_chunk::<ENVELOPE>().and_then(|(envelope, bytes)| {
            Some(Received::Message(decode_envelope(tag, envelope)?, Cow::Borrowed(bytes)))
        });
        match message {
            Some(message) => Ok(message),
            None => decode_notice(tag, body).map(Received::Notice).ok_or_else(invalid),
        }
    }
}

fn invalid() -> io::Error {
    io::ErrorKind::InvalidData.into()
}
