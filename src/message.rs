//! The message channel between the master and one worker. It is separate from the handoff channel, so that no connection
//! waits behind a message. It carries *notices*, which the two processes send to each other, and *messages* of user code.
//!
//! One stream socket pair per worker, non-blocking in both directions. A frame is its length and its tag, then that many
//! bytes: a message's envelope and content, or a notice's two numbers or text. A number has 32 bits, little-endian. A worker
//! that sends anything but frames is killed. Workers outlive an upgrade of the master, so a change of the frames is a change of
//! the saved state's version too (`master/upgrade/state.rs`).

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

/// The number of the master in a message, for C and on the channel.
pub(crate) const MASTER_NUMBER: u32 = 0;
/// The number of all workers except the sender.
pub(crate) const ALL_NUMBER: u32 = u32::MAX;
/// The master: [`To::Master`].
pub const MASTER: To = To::Master;
/// All workers except the sender: [`To::All`].
pub const ALL: To = To::All;

/// The receiver of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum To {
    /// The host program, in the master ([`crate::Server::on_message`]).
    Master,
    /// The worker with this id.
    Worker(u32),
    /// All workers except the sender; not the master.
    All,
}

/// The sender of a message. As a [`To`] it is whom to answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Sender {
    /// The host program, in the master.
    Master,
    /// The worker with this id.
    Worker(u32),
}

impl From<Sender> for To {
    fn from(sender: Sender) -> Self {
        match sender {
            Sender::Master => Self::Master,
            Sender::Worker(id) => Self::Worker(id),
        }
    }
}

/// `the master`, or `worker 3`
impl fmt::Display for Sender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Master => f.pad("the master"),
            Self::Worker(id) => f.pad(&format!("worker {id}")),
        }
    }
}

/// The type of a message, of the program's choice: `const VISIT: MessageKind = MessageKind(1);`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "control", derive(serde::Serialize, serde::Deserialize), serde(transparent))]
pub struct MessageKind(pub u32);

impl fmt::Display for MessageKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The sender or the receiver of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
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
            MASTER_NUMBER => Self::Master,
            ALL_NUMBER => Self::All,
            id => Self::Worker(WorkerId(id)),
        }
    }
}

impl From<Address> for u32 {
    fn from(address: Address) -> Self {
        match address {
            Address::Master => MASTER_NUMBER,
            Address::Worker(WorkerId(id)) => id,
            Address::All => ALL_NUMBER,
        }
    }
}

impl From<To> for Address {
    fn from(to: To) -> Self {
        match to {
            To::Master => Self::Master,
            To::All => Self::All,
            // Those two numbers are no worker's.
            To::Worker(id) => Self::Worker(WorkerId(id)),
        }
    }
}

impl From<Address> for To {
    fn from(address: Address) -> Self {
        match address {
            Address::Master => Self::Master,
            Address::All => Self::All,
            Address::Worker(WorkerId(id)) => Self::Worker(id),
        }
    }
}

/// A notice from the master to a worker, or from a worker to the master.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// Worker: it has begun to run.
    Online,
    /// Worker: its handler does not take connections in the same way at all listeners. Followed by [`Notice::Ready`].
    Serves {
        /// A bit for each listener at which it takes requests.
        takes_requests: u64,
    },
    /// Worker: it can serve.
    Ready {
        /// The number of its handler's style ([`crate::Kind`]).
        kind: u8,
        /// The most connections it may have in flight.
        limit: u32,
    },
    /// Worker: it cannot serve, for this reason, and will exit.
    Failed(String),
    /// Worker: it wants to exit of its own accord and waits to be drained.
    Leaving,
    /// Worker: it serves streams that another one has given away.
    TookOver {
        /// The worker that has given them away.
        giver: WorkerId,
        /// How many, since it last said so.
        count: u32,
    },
    /// Master: this many streams that you have given away are with another worker, or lost with it, and will not come back.
    Settled(u32),
    /// Worker: it was told to drain, and has given back what it could; what it has now stays with it.
    GaveBack,
    /// Master: you are known to be ready; take from your own sockets from now on.
    TakeIn,
    /// Master: finish what you have, take nothing new, exit. A second one changes what becomes of idle connections, and may leave
    /// less time.
    Drain {
        /// True if idle connections, and those still in the handoff queue, go back to the master for workers that stay;
        /// false if this worker serves them all first.
        hand_back: bool,
        /// The time (milliseconds from now) after which the worker ends what it still has; 0 is no limit.
        patience: u32,
    },
    /// Master: hand back idle connections until at most this many are left.
    Shed {
        /// Connections to keep.
        keep: u32,
    },
    /// Master: restore your own standard error; your start is complete.
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
        matches!(
            self,
            Self::Online
                | Self::Serves { .. }
                | Self::Ready { .. }
                | Self::Failed(_)
                | Self::Leaving
                | Self::TookOver { .. }
                | Self::GaveBack
        )
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
    /// For the subscribers of a topic: its name, of as many bytes as [`Envelope::kind`] says, and what was published.
    Publication = b'B',
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
    /// The user's type of a message or request; the length of a topic's name.
    pub kind: u32,
    /// The number of a request, unique for its sender; a reply has that of its request. The number of a publication, which counts its
    /// sender's. 0 for a message.
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

    /// The sender.
    pub fn from(&self) -> Sender {
        match self.envelope.from {
            Address::Worker(WorkerId(id)) => Sender::Worker(id),
            // A message comes from one process.
            Address::Master | Address::All => Sender::Master,
        }
    }

    /// The number of the sender in C.
    pub(crate) fn sender_number(&self) -> u32 {
        self.envelope.from.into()
    }

    /// The type that the sender gave it.
    pub fn kind(&self) -> MessageKind {
        MessageKind(self.envelope.kind)
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
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
#[repr(u8)]
pub enum Undelivered {
    /// The message is longer than [`crate::Config::max_message`]. Nothing was sent.
    TooLarge = 1,
    /// The receiver's queue is full. Nothing was sent.
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

/// Bytes of a frame's header: length, tag.
const HEADER: usize = 8;
/// Bytes of an envelope: from, to, kind, request. The purpose is the frame's tag.
const ENVELOPE: usize = 20;
/// Bytes in front of a message's content.
const HEAD: usize = HEADER + ENVELOPE;
/// The tag of [`Notice::Failed`], whose body is text.
const FAILED: u8 = b'F';
/// Bytes in the body of any other notice: two numbers.
const NOTICE: usize = 8;
/// The most bytes of a notice: the reason for a failure.
const MAX_NOTICE: usize = 16 * 1024;

/// Creates a channel for messages of at most `max_message` bytes: the master's end and the worker's.
pub fn channel(max_message: usize) -> io::Result<(Channel, Channel)> {
    let (master, worker) = fdpass::stream_pair()?;
    let end = |socket| {
        let (inbox, outbox) = (Inbox::new(max_message, Vec::new()), Outbox::new(max_message, &[]));
        Channel { socket, inbox, outbox }
    };
    Ok((end(master), end(worker)))
}

/// Returns the frame of a message.
pub fn encode_message(envelope: &Envelope, bytes: &[u8]) -> Vec<u8> {
    [encode_head(envelope, bytes.len()).as_flattened(), bytes].concat()
}

/// Returns the header and the envelope of a message with `len` bytes of content.
fn encode_head(envelope: &Envelope, len: usize) -> [[u8; 4]; HEAD / 4] {
    let (low, high) = (envelope.request as u32, (envelope.request >> 32) as u32);
    let (from, to) = (envelope.from.into(), envelope.to.into());
    let length = (ENVELOPE + len) as u32;
    [length, envelope.purpose as u32, from, to, envelope.kind, low, high].map(u32::to_le_bytes)
}

/// Reads an envelope from the frame's tag and the bytes after its header.
fn decode_envelope(tag: u8, body: &[u8; ENVELOPE]) -> Option<Envelope> {
    let [from, to, kind, low, high] = decode(body)?;
    let request = u64::from(high) << 32 | u64::from(low);
    Some(Envelope { purpose: purpose(tag)?, from: from.into(), to: to.into(), kind, request })
}

/// The purpose of messages with this tag; `None` for a notice's.
fn purpose(tag: u8) -> Option<Purpose> {
    let all = [Purpose::Message, Purpose::Request, Purpose::Reply, Purpose::Failure, Purpose::Publication];
    all.into_iter().find(|p| *p as u8 == tag)
}

/// Returns the frame of a notice.
fn encode_notice(notice: &Notice) -> Vec<u8> {
    let (tag, a, b) = match notice {
        Notice::Failed(text) => {
            let text = &text.as_bytes()[..text.len().min(MAX_NOTICE)];
            let header = [text.len() as u32, FAILED.into()].map(u32::to_le_bytes);
            return [header.as_flattened(), text].concat();
        }
        Notice::Online => (b'U', 0, 0),
        Notice::Serves { takes_requests } => (b'V', *takes_requests as u32, (*takes_requests >> 32) as u32),
        Notice::Ready { kind, limit } => (b'R', (*kind).into(), *limit),
        Notice::Leaving => (b'L', 0, 0),
        Notice::TookOver { giver, count } => (b'H', giver.0, *count),
        Notice::Settled(count) => (b'E', *count, 0),
        Notice::GaveBack => (b'Y', 0, 0),
        Notice::TakeIn => (b'T', 0, 0),
        Notice::Drain { hand_back, patience } => (b'D', (*hand_back).into(), *patience),
        Notice::Shed { keep } => (b'K', *keep, 0),
        Notice::RestoreStderr => (b'P', 0, 0),
        Notice::Gone(id) => (b'G', id.0, 0),
        Notice::Overflowing(id) => (b'S', id.0, 0),
        Notice::HasRoom(id) => (b'O', id.0, 0),
    };
    [NOTICE as u32, tag.into(), a, b].map(u32::to_le_bytes).concat()
}

/// Reads a notice from its tag and the bytes after the header.
fn decode_notice(tag: u8, body: &[u8]) -> Option<Notice> {
    if tag == FAILED {
        return Some(Notice::Failed(String::from_utf8_lossy(body).into_owned()));
    }
    let [a, b] = decode(body)?;
    Some(match (tag, a, b) {
        (b'U', 0, 0) => Notice::Online,
        (b'V', low, high) => Notice::Serves { takes_requests: u64::from(high) << 32 | u64::from(low) },
        (b'R', kind, limit) => Notice::Ready { kind: kind.try_into().ok()?, limit },
        (b'L', 0, 0) => Notice::Leaving,
        (b'H', giver, count) => Notice::TookOver { giver: WorkerId(giver), count },
        (b'E', count, 0) => Notice::Settled(count),
        (b'Y', 0, 0) => Notice::GaveBack,
        (b'T', 0, 0) => Notice::TakeIn,
        (b'D', 0 | 1, patience) => Notice::Drain { hand_back: a == 1, patience },
        (b'K', keep, 0) => Notice::Shed { keep },
        (b'P', 0, 0) => Notice::RestoreStderr,
        (b'G', id, 0) => Notice::Gone(WorkerId(id)),
        (b'S', id, 0) => Notice::Overflowing(WorkerId(id)),
        (b'O', id, 0) => Notice::HasRoom(WorkerId(id)),
        _ => return None,
    })
}

/// Reads `N` numbers; `None` if the bytes are more or fewer.
fn decode<const N: usize>(bytes: &[u8]) -> Option<[u32; N]> {
    let words: &[[u8; 4]; N] = bytes.as_chunks().0.try_into().ok()?;
    (bytes.len() == 4 * N).then(|| words.map(u32::from_le_bytes))
}

#[cfg(any(fuzzing, test))]
pub mod fuzzing;
#[cfg(test)]
mod tests;
