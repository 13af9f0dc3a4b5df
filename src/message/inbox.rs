//! What comes in on a channel: bytes in any pieces become frames. Runs in the master and in workers.
//!
//! Short frames are read many at a time into one buffer and lent from there; a long one gets a buffer of its own that it is read
//! into, and is given away whole. Nothing is shifted but the part of one short frame per buffer, so the cost is that of the bytes.

use super::{
    HEADER, LABEL, LETTER, Label, Letter, MAX_VERB, Verb, decode_label, decode_verb, encode_label, purpose,
    verb_fits,
};
use crate::sys::socket;
use std::borrow::Cow;
use std::io;
use std::os::fd::BorrowedFd;

/// Where short frames are read.
const BUFFER: usize = 64 * 1024;
/// A letter with more bytes than this has a buffer of its own. Tests want to get there with less.
const LONG: usize = if cfg!(any(fuzzing, test)) { 64 } else { 16 * 1024 };
/// With less room than this behind it, what is in the buffer moves to its front.
const LITTLE: usize = 16 * 1024;
// A short frame of which a part is there has room for the rest.
const _: () = assert!(BUFFER > 2 * (LITTLE + LETTER) && LITTLE >= LONG && LITTLE >= MAX_VERB);

/// How much of what comes may be worked on before others have their turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// Bytes to read.
    pub bytes: usize,
    /// Frames to hand out.
    pub frames: usize,
    /// The last read found less than there was room for: the poll will say when there is more.
    drained: bool,
}

impl Budget {
    /// So many bytes and frames.
    pub const fn new(bytes: usize, frames: usize) -> Self {
        Self { bytes, frames, drained: false }
    }

    /// The smaller one in each respect.
    pub fn min(self, other: Self) -> Self {
        Self::new(self.bytes.min(other.bytes), self.frames.min(other.frames))
    }

    /// Takes off what became of a part of it.
    pub fn spend(&mut self, before: Self, after: Self) {
        self.bytes -= before.bytes - after.bytes;
        self.frames -= before.frames - after.frames;
    }

    /// Whether nothing is left in one respect.
    pub fn is_spent(&self) -> bool {
        self.bytes == 0 || self.frames == 0
    }
}

/// The incoming side of a channel.
#[derive(Debug, Default)]
pub struct Inbox {
    max: usize,
    bytes: Vec<u8>,
    /// How much of `bytes` was handed out.
    taken: usize,
    long: Option<Long>,
}

/// A letter that is on its way in.
#[derive(Debug)]
struct Long {
    label: Label,
    bytes: Vec<u8>,
    len: usize,
}

/// What [`Inbox::receive`] found.
#[derive(Debug, PartialEq, Eq)]
pub enum Received<'a> {
    /// What the other process says.
    Verb(Verb),
    /// What user code there says.
    Letter(Letter<'a>),
    /// No whole frame is there, and nothing to read.
    Nothing,
    /// The budget is spent; there may be more at once.
    Later,
    /// The other end is gone.
    End,
}

/// The next frame, when it is all there.
enum Found {
    Not,
    Long,
    /// In the buffer: its tag and how many bytes follow its header.
    Short(u8, usize),
}

impl Inbox {
    /// An empty one, for letters of at most `max` bytes.
    pub fn new(max: usize) -> Self {
        Self { max, ..Self::default() }
    }

    /// One that goes on where another one stood.
    pub fn resume(max: usize, unread: Vec<u8>) -> Self {
        Self { max, bytes: unread, ..Self::default() }
    }

    /// What was read and not handed out, as it came.
    pub fn unread(&self) -> Vec<u8> {
        let mut all = Vec::new();
        if let Some(long) = &self.long {
            all.extend(encode_label(&long.label, long.len));
            all.extend(&long.bytes);
        }
        all.extend(&self.bytes[self.taken..]);
        all
    }

    /// The next frame, without waiting.
    ///
    /// # Errors
    /// `InvalidData` where the bytes are no frame; what recv(2) says.
    pub fn receive(&mut self, from: BorrowedFd<'_>, budget: &mut Budget) -> io::Result<Received<'_>> {
        loop {
            match self.find()? {
                Found::Not => {}
                _ if budget.frames == 0 => return Ok(Received::Later),
                found => {
                    budget.frames -= 1;
                    return self.take(found);
                }
            }
            if budget.drained {
                return Ok(Received::Nothing);
            }
            if budget.bytes == 0 {
                return Ok(Received::Later);
            }
            let (into, room) = self.landing();
            let room = room.min(budget.bytes);
            match socket::recv_append_up_to(from, into, room) {
                Ok(0) => return Ok(Received::End),
                Ok(n) => {
                    budget.bytes -= n;
                    budget.drained = n < room;
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(Received::Nothing),
                Err(e) if e.kind() == io::ErrorKind::ConnectionReset => return Ok(Received::End),
                Err(e) => return Err(e),
            }
        }
    }

    /// Uses `spare` as its buffer where it has none, so that many idle inboxes share one.
    pub fn lend(&mut self, spare: &mut Vec<u8>) {
        if self.bytes.capacity() == 0 {
            self.bytes = std::mem::take(spare);
        }
    }

    /// Gives its buffer to `spare` where it is empty.
    pub fn give_back(&mut self, spare: &mut Vec<u8>) {
        if self.taken == self.bytes.len() {
            self.bytes.clear();
            self.taken = 0;
            *spare = std::mem::take(&mut self.bytes);
        }
    }

    /// Takes bytes from elsewhere than a socket; returns how many, less than all where frames are to be taken first.
    #[cfg(any(fuzzing, test))]
    pub fn feed(&mut self, bytes: &[u8]) -> usize {
        let (into, room) = self.landing();
        let n = room.min(bytes.len());
        into.extend_from_slice(&bytes[..n]);
        n
    }

    /// As [`Inbox::receive`], of what was fed.
    #[cfg(any(fuzzing, test))]
    pub fn next(&mut self) -> io::Result<Option<Received<'_>>> {
        match self.find()? {
            Found::Not => Ok(None),
            found => self.take(found).map(Some),
        }
    }

    /// Where the next bytes go, and how many at most.
    fn landing(&mut self) -> (&mut Vec<u8>, usize) {
        if let Some(long) = &mut self.long {
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

    fn find(&mut self) -> io::Result<Found> {
        if self.long.is_none() {
            let rest = &self.bytes[self.taken..];
            let Some((head, rest)) = rest.split_first_chunk::<HEADER>() else { return Ok(Found::Not) };
            let (tag, len) = self.check(*head)?;
            if purpose(tag).is_none() || len <= LABEL + LONG {
                return Ok(if rest.len() < len { Found::Not } else { Found::Short(tag, len) });
            }
            let Some(label) = rest.first_chunk::<LABEL>() else { return Ok(Found::Not) };
            let label = decode_label(tag, label).ok_or_else(invalid)?;
            self.begin(label, len - LABEL);
        }
        Ok(if self.long.as_ref().is_some_and(|l| l.bytes.len() == l.len) { Found::Long } else { Found::Not })
    }

    /// The tag and the length of a header.
    fn check(&self, head: [u8; HEADER]) -> io::Result<(u8, usize)> {
        let [l0, l1, l2, l3, tag, 0, 0, 0] = head else { return Err(invalid()) };
        let len = u32::from_le_bytes([l0, l1, l2, l3]) as usize;
        let fits = match purpose(tag) {
            Some(_) => (LABEL..=LABEL + self.max).contains(&len),
            None => verb_fits(tag, len),
        };
        if fits { Ok((tag, len)) } else { Err(invalid()) }
    }

    /// A long letter gets its buffer, and what of it was read already.
    fn begin(&mut self, label: Label, len: usize) {
        let start = self.taken + LETTER;
        let end = self.bytes.len().min(start + len);
        let mut bytes = Vec::with_capacity(len);
        bytes.extend_from_slice(&self.bytes[start..end]);
        self.taken = end;
        self.long = Some(Long { label, bytes, len });
    }

    fn take(&mut self, found: Found) -> io::Result<Received<'_>> {
        let (tag, len) = match (found, self.long.take()) {
            (Found::Short(tag, len), _) => (tag, len),
            (_, Some(Long { label, bytes, .. })) => {
                return Ok(Received::Letter(Letter { label, bytes: Cow::Owned(bytes) }));
            }
            (_, None) => return Ok(Received::Nothing),
        };
        let start = self.taken + HEADER;
        self.taken = start + len;
        let body = &self.bytes[start..self.taken];
        let letter = body.split_first_chunk::<LABEL>().and_then(|(label, bytes)| {
            Some(Letter { label: decode_label(tag, label)?, bytes: Cow::Borrowed(bytes) })
        });
        match letter {
            Some(letter) => Ok(Received::Letter(letter)),
            None => decode_verb(tag, body).map(Received::Verb).ok_or_else(invalid),
        }
    }
}

fn invalid() -> io::Error {
    io::ErrorKind::InvalidData.into()
}
