//! The message channel between the master and one worker. It is separate from the handoff channel, so that no connection
//! waits behind a message. It carries *notices*, which the two processes send to each other, and *messages* of user code.
//!
//! One stream socket pair per worker, non-blocking in both directions. A frame is a 4-byte length, a 1-byte tag, three zero
//! bytes, then that many bytes; those of a message begin with its envelope. All numbers are little-endian. Both processes
//! run the same program, so there is no version. Bytes that are no frame are the worker's fault, and cost it its life.

mod inbox;
mod outbox;
mod requests;

pub use inbox::{Budget, Inbox, Received};
pub use outbox::{Outbox, Room};
pub use requests::{OnReply, Requests};

use crate::ids::WorkerId;
use crate::sys::fdpass;
use std::fmt;
use std::io;
use std::os::fd::OwnedFd;

/// The address of the master in a message.
pub const MASTER: u32 = 0;
/// The address of all workers except the sender.
pub const ALL: u32 = u32::MAX;

/// The sender or the receiver of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Address {
    /// The host program.
    Master,
    /// One worker.
    Worker(WorkerId),
    /// All workers except the sender; never a sender itself.
    All,
}

impl From<u32> for Address {
    fn from(number: u32) -> Self {
        match number {
            MASTER => Self::Master,
            ALL => Self::All,
            id => Self::Worker(WorkerId(id)),
        }
    }
}

impl From<Address> for u32 {
    fn from(address: Address) -> Self {
        match address {
            Address::Master => MASTER,
            Address::Worker(WorkerId(id)) => id,
            Address::All => ALL,
        }
    }
}

/// A notice from the master to a worker, or from a worker to the master.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// Worker: it runs.
    Online,
    /// Worker: it can serve.
    Ready {
        /// The number of its handler's style ([`crate::Kind`]).
        kind: u8,
        /// The most connections it may have in flight.
        limit: u32,
    },
    /// Worker: it cannot serve, for this reason, and exits next.
    Failed(String),
    /// Worker: it wants to exit of its own accord and waits to be drained.
    Leaving,
    /// Master: finish what you have, take nothing new, exit.
    Drain {
        /// True if idle connections, and those still in the handoff queue, go back to the master for workers that stay;
        /// false if this worker serves them all first.
        hand_back: bool,
    },
    /// Master: hand back idle connections until at most this many are left.
    Shed {
        /// Connections to keep.
        keep: u32,
    },
    /// Master: restore your own standard error; you have proved yourself.
    RestoreStderr,
    /// Master: this worker has ended; requests to it stay unanswered.
    Gone(WorkerId),
    /// Master: a message to this worker was dropped because its queue has been full for too long.
    Overflowing(WorkerId),
    /// Master: the queue of this worker has room again.
    HasRoom(WorkerId),
}

impl Notice {
    /// True if workers may send it.
    pub fn is_from_worker(&self) -> bool {
        matches!(self, Self::Online | Self::Ready { .. } | Self::Failed(_) | Self::Leaving)
    }
}

/// The purpose of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Purpose {
    /// To be read.
    Message = b'M',
    /// To be answered.
    Request = b'Q',
    /// The answer to a request.
    Reply = b'A',
    /// The reason why there is no answer: one byte, the number of an [`Undelivered`].
    Failure = b'X',
}

/// The head of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Envelope {
    /// The purpose of the message.
    pub purpose: Purpose,
    /// The sender.
    pub from: Address,
    /// The receiver.
    pub to: Address,
    /// The user's type of a message or request.
    pub kind: u32,
    /// The number of a request, unique for its sender; a reply has that of its request. 0 for a message.
    pub request: u64,
}

impl Envelope {
    /// The envelope of the answer to this request.
    pub fn answer(&self, purpose: Purpose) -> Self {
        Self { purpose, from: self.to, to: self.from, kind: 0, request: self.request }
    }
}

/// A message, given to [`crate::Handler::on_message`] and to the callback of [`crate::Server::on_message`].
#[derive(Clone, Copy, Debug)]
pub struct Message<'a> {
    envelope: Envelope,
    bytes: &'a [u8],
}

impl<'a> Message<'a> {
    pub(crate) fn new(envelope: Envelope, bytes: &'a [u8]) -> Self {
        Self { envelope, bytes }
    }

    /// The id of the worker that sent it, or [`crate::MASTER`].
    pub fn from(&self) -> u32 {
        self.envelope.from.into()
    }

    /// The type that the sender gave it.
    pub fn kind(&self) -> u32 {
        self.envelope.kind
    }

    /// The content.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// True if the sender waits for a reply ([`crate::Worker::reply`], [`crate::Messages::reply`]).
    pub fn is_request(&self) -> bool {
        self.envelope.purpose == Purpose::Request
    }
}

/// The reason why a message was not sent, or a request not answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
#[repr(u8)]
pub enum Undelivered {
    /// The message is longer than [`crate::Config::max_message`]. Nothing was sent.
    TooLarge = 1,
    /// Too much waits for the receiver already. Nothing was sent.
    Full = 2,
    /// No worker has this id, or it has ended.
    Gone = 3,
    /// No reply came before the deadline.
    TimedOut = 4,
    /// The receiver does not handle requests, or returned without a reply.
    Unanswered = 5,
    /// Not possible here or now: there is no request to reply to, a request cannot go to all workers, the server does not
    /// run, or this process is not its master.
    Impossible = 6,
}

impl Undelivered {
    const ALL: [Self; 6] =
        [Self::TooLarge, Self::Full, Self::Gone, Self::TimedOut, Self::Unanswered, Self::Impossible];

    /// The reason in a [`Purpose::Failure`]; [`Undelivered::Unanswered`] for bytes that are none of these numbers.
    pub(crate) fn from_bytes(bytes: &[u8]) -> Self {
        Self::ALL.into_iter().find(|reason| bytes == [*reason as u8]).unwrap_or(Self::Unanswered)
    }
}

impl fmt::Display for Undelivered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TooLarge => "the message is longer than max-message",
            Self::Full => "too much waits for the receiver already",
            Self::Gone => "the receiver does not exist or has ended",
            Self::TimedOut => "no reply before the deadline",
            Self::Unanswered => "the receiver did not reply",
            Self::Impossible => "not possible here or now",
        })
    }
}

impl std::error::Error for Undelivered {}

/// One end of a channel.
#[derive(Debug)]
pub struct Channel {
    /// The socket, for both directions.
    pub socket: OwnedFd,
    /// The incoming direction.
    pub inbox: Inbox,
    /// The outgoing direction.
    pub outbox: Outbox,
}

/// Bytes of a frame's header: length, tag, zeros.
const HEADER: usize = 8;
/// Bytes of an envelope: from, to, kind, request. The purpose is the frame's tag.
const ENVELOPE: usize = 20;
/// Bytes in front of a message's content.
const HEAD: usize = HEADER + ENVELOPE;
/// The most bytes of a notice: the reason for a failure.
const MAX_NOTICE: usize = 16 * 1024;

/// Creates a channel for messages of at most `max_message` bytes: the master's end and the worker's.
pub fn channel(max_message: usize) -> io::Result<(Channel, Channel)> {
    let (master, worker) = fdpass::stream_pair()?;
    Ok((Channel::new(master, max_message), Channel::new(worker, max_message)))
}

impl Channel {
    /// One end, over this socket.
    pub fn new(socket: OwnedFd, max_message: usize) -> Self {
        Self { socket, inbox: Inbox::new(max_message), outbox: Outbox::new(max_message) }
    }
}

/// Returns the frame of a message.
pub fn encode_message(envelope: &Envelope, bytes: &[u8]) -> Vec<u8> {
    [&encode_head(envelope, bytes.len()), bytes].concat()
}

fn header(len: usize, tag: u8) -> [u8; HEADER] {
    let [a, b, c, d] = (len as u32).to_le_bytes();
    [a, b, c, d, tag, 0, 0, 0]
}

/// Returns the frame of a notice.
fn encode_notice(notice: &Notice) -> Vec<u8> {
    let number = |n: u32| n.to_le_bytes().to_vec();
    let (tag, body) = match notice {
        Notice::Ready { kind, limit } => (b'R', [&[*kind][..], &limit.to_le_bytes()].concat()),
        Notice::Failed(text) => (b'F', text.bytes().take(MAX_NOTICE).collect()),
        Notice::Online => (b'U', Vec::new()),
        Notice::RestoreStderr => (b'P', Vec::new()),
        Notice::Leaving => (b'L', Vec::new()),
        Notice::Drain { hand_back } => (b'D', vec![u8::from(*hand_back)]),
        Notice::Shed { keep } => (b'K', number(*keep)),
        Notice::Gone(id) => (b'G', number(id.0)),
        Notice::Overflowing(id) => (b'S', number(id.0)),
        Notice::HasRoom(id) => (b'O', number(id.0)),
    };
    [&header(body.len(), tag), body.as_slice()].concat()
}

/// Reads a notice from its tag and the bytes after the header.
fn decode_notice(tag: u8, body: &[u8]) -> Option<Notice> {
    let id = |bytes: &[u8; 4]| WorkerId(u32::from_le_bytes(*bytes));
    Some(match (tag, body) {
        (b'R', &[kind, a, b, c, d]) => Notice::Ready { kind, limit: u32::from_le_bytes([a, b, c, d]) },
        (b'F', text) => Notice::Failed(String::from_utf8_lossy(text).into_owned()),
        (b'U', []) => Notice::Online,
        (b'P', []) => Notice::RestoreStderr,
        (b'L', []) => Notice::Leaving,
        (b'D', &[hand_back @ (0 | 1)]) => Notice::Drain { hand_back: hand_back == 1 },
        (b'K', &[a, b, c, d]) => Notice::Shed { keep: u32::from_le_bytes([a, b, c, d]) },
        (b'G', bytes) => Notice::Gone(id(bytes.try_into().ok()?)),
        (b'S', bytes) => Notice::Overflowing(id(bytes.try_into().ok()?)),
        (b'O', bytes) => Notice::HasRoom(id(bytes.try_into().ok()?)),
        _ => return None,
    })
}

/// True if a notice with this tag may have this length, so that the reader never waits for more than a notice.
fn notice_fits(tag: u8, len: usize) -> bool {
    match tag {
        b'R' => len == 5,
        b'F' => len <= MAX_NOTICE,
        b'U' | b'L' | b'P' => len == 0,
        b'D' => len == 1,
        b'K' | b'G' | b'S' | b'O' => len == 4,
        _ => false,
    }
}

/// Returns the header and the envelope of a message with `len` bytes of content.
fn encode_head(envelope: &Envelope, len: usize) -> [u8; HEAD] {
    let mut head = [0; HEAD];
    let parts: [&[u8]; 5] = [
        &header(ENVELOPE + len, envelope.purpose as u8),
        &u32::from(envelope.from).to_le_bytes(),
        &u32::from(envelope.to).to_le_bytes(),
        &envelope.kind.to_le_bytes(),
        &envelope.request.to_le_bytes(),
    ];
    let mut at = 0;
    for part in parts {
        head[at..at + part.len()].copy_from_slice(part);
        at += part.len();
    }
    head
}

/// Reads an envelope from the frame's tag and the bytes after its header.
fn decode_envelope(tag: u8, body: &[u8; ENVELOPE]) -> Option<Envelope> {
    let [f0, f1, f2, f3, t0, t1, t2, t3, k0, k1, k2, k3, request @ ..] = *body;
    Some(Envelope {
        purpose: purpose(tag)?,
        from: u32::from_le_bytes([f0, f1, f2, f3]).into(),
        to: u32::from_le_bytes([t0, t1, t2, t3]).into(),
        kind: u32::from_le_bytes([k0, k1, k2, k3]),
        request: u64::from_le_bytes(request),
    })
}

/// The purpose of messages with this tag; `None` for a notice's.
fn purpose(tag: u8) -> Option<Purpose> {
    [Purpose::Message, Purpose::Request, Purpose::Reply, Purpose::Failure]
        .into_iter()
        .find(|p| *p as u8 == tag)
}

#[cfg(any(fuzzing, test))]
pub mod fuzzing;
#[cfg(test)]
mod tests;
