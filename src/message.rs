//! The message channel between the master and one worker, beside the handoff channel so that no connection ever waits behind a
//! message: verbs, which the two say to each other, and letters, the messages of user code.
//!
//! A stream socket pair per worker, non-blocking both ways. A frame is a 4-byte length, a 1-byte tag, three zero bytes, then that
//! many bytes; a letter's begin with its label. All numbers are little-endian. Both processes run the same program, so there is
//! no version; what is no frame is a fault of the worker's, which pays for it.

mod inbox;
mod outbox;
mod requests;

pub use inbox::{Budget, Inbox, Received};
pub use outbox::{Outbox, Room};
pub use requests::Requests;

use crate::sys::{fdpass, socket};
use std::borrow::Cow;
use std::fmt;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::Duration;

/// The address of the master in a message.
pub const MASTER: u32 = 0;
/// The address of all workers but the one that sends.
pub const ALL: u32 = u32::MAX;

/// What the master and a worker say to each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verb {
    /// Worker: it runs.
    Online,
    /// Worker: it can serve, in the style of this number ([`crate::Kind`]), at most so many connections at a time.
    Ready {
        /// The style's number.
        kind: u8,
        /// Connections it may have in flight.
        limit: u32,
    },
    /// Worker: it cannot serve, and why; it exits next.
    Failed(String),
    /// Worker: it leaves on its own account and waits to be drained.
    Leaving,
    /// Master: finish what you have, take nothing new, exit.
    Drain {
        /// Idle connections go back to the master, for workers that stay; what lies in the handoff queue too. Otherwise all of it
        /// is served here first.
        hand_back: bool,
    },
    /// Master: hand idle connections back until no more than so many are left.
    Shed {
        /// Connections to keep.
        keep: u32,
    },
    /// Master: you have proved yourself; your standard error is your own from now on.
    Proved,
    /// Master: the worker of this id has ended; what was asked of it stays unanswered.
    Gone(u32),
    /// Master: a letter to the worker of this id was dropped, its queue has been full for too long.
    Shut(u32),
    /// Master: that queue has room again.
    Open(u32),
}

impl Verb {
    /// Whether it is for workers to say.
    pub fn is_a_workers(&self) -> bool {
        matches!(self, Self::Online | Self::Ready { .. } | Self::Failed(_) | Self::Leaving)
    }
}

/// What a letter is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Purpose {
    /// To be read.
    Message = b'M',
    /// To be answered.
    Request = b'Q',
    /// The answer to a request.
    Reply = b'A',
    /// Why there is no answer: one byte, the number of an [`Undelivered`].
    Failure = b'X',
}

/// What stands on a letter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Label {
    /// What it is for.
    pub purpose: Purpose,
    /// The worker that wrote it, or [`MASTER`].
    pub from: u32,
    /// The worker it is for, [`MASTER`] or [`ALL`].
    pub to: u32,
    /// The user's type of a message or request.
    pub kind: u32,
    /// The number of a request among those of its sender; a reply has that of its request. 0 for a message.
    pub request: u64,
}

/// A message of user code on its way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Letter<'a> {
    /// Who writes to whom about what.
    pub label: Label,
    /// What is said.
    pub bytes: Cow<'a, [u8]>,
}

/// Why a message was not taken, or a request not answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
#[repr(u8)]
pub enum Undelivered {
    /// It is longer than [`crate::Config::max_message`]. Nothing was sent.
    TooLarge = 1,
    /// Too much waits for the receiver already. Nothing was sent.
    Full = 2,
    /// No worker has this id, or it has ended.
    Gone = 3,
    /// No reply came before the deadline.
    TimedOut = 4,
    /// The receiver has no use for requests, or returned without a reply.
    Unanswered = 5,
    /// Not possible here or now: there is no request to reply to, a request to all, the server does not run, or this process is
    /// not its master.
    Impossible = 6,
}

impl Undelivered {
    const ALL: [Self; 6] =
        [Self::TooLarge, Self::Full, Self::Gone, Self::TimedOut, Self::Unanswered, Self::Impossible];

    /// What a [`Purpose::Failure`] says; anything that is none of these numbers says that there is no answer.
    pub(crate) fn read(bytes: &[u8]) -> Self {
        let known = |reason: &Self| bytes == [*reason as u8];
        Self::ALL.into_iter().find(known).unwrap_or(Self::Unanswered)
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
    /// The socket, for both ways.
    pub socket: OwnedFd,
    /// What comes.
    pub inbox: Inbox,
    /// What goes.
    pub outbox: Outbox,
}

/// Length, tag, zeros.
const HEADER: usize = 8;
/// From, to, kind, request.
const LABEL: usize = 20;
/// What stands in front of a letter's bytes.
const LETTER: usize = HEADER + LABEL;
/// The longest verb: a reason for a failure.
const MAX_VERB: usize = 16 * 1024;

/// A new channel for messages of at most `max_message` bytes: the master's end and the worker's.
pub fn channel(max_message: usize) -> io::Result<(Channel, Channel)> {
    let (master, worker) = fdpass::stream_pair()?;
    Ok((Channel::new(master, max_message), Channel::new(worker, max_message)))
}

impl Channel {
    /// One end, of a socket.
    pub fn new(socket: OwnedFd, max_message: usize) -> Self {
        Self { socket, inbox: Inbox::new(max_message), outbox: Outbox::new(max_message) }
    }
}

/// The frame of a letter.
pub fn encode_letter(label: &Label, bytes: &[u8]) -> Vec<u8> {
    [&encode_label(label, bytes.len()), bytes].concat()
}

/// Sends what is left in an outbox, waiting at most so long between two steps.
///
/// # Errors
/// `TimedOut` where there was no room for all of it; what send(2) says.
pub fn finish(outbox: &mut Outbox, to: BorrowedFd<'_>, patience: Duration) -> io::Result<()> {
    while !outbox.is_empty() {
        outbox.flush(to, usize::MAX)?;
        if !outbox.is_empty() && !socket::wait_ready(to, true, Some(patience))? {
            return Err(io::ErrorKind::TimedOut.into());
        }
    }
    Ok(())
}

/// When a request sent now has waited long enough (monotonic milliseconds). A time of zero is for ever.
pub fn deadline(now: u64, time: Duration) -> u64 {
    match u64::try_from(time.as_millis()) {
        Ok(0) if time.is_zero() => u64::MAX,
        Ok(ms) => now.saturating_add(ms),
        Err(_) => u64::MAX,
    }
}

fn header(len: usize, tag: u8) -> [u8; HEADER] {
    let [a, b, c, d] = (len as u32).to_le_bytes();
    [a, b, c, d, tag, 0, 0, 0]
}

/// The frame of a verb.
fn encode_verb(verb: &Verb) -> Vec<u8> {
    let mut body = Vec::new();
    let tag = match verb {
        Verb::Ready { kind, limit } => {
            body.push(*kind);
            body.extend(limit.to_le_bytes());
            b'R'
        }
        Verb::Failed(text) => {
            body.extend(text.bytes().take(MAX_VERB));
            b'F'
        }
        Verb::Online => b'U',
        Verb::Proved => b'P',
        Verb::Leaving => b'L',
        Verb::Drain { hand_back } => {
            body.push(u8::from(*hand_back));
            b'D'
        }
        Verb::Shed { keep } => number(&mut body, *keep, b'K'),
        Verb::Gone(id) => number(&mut body, *id, b'G'),
        Verb::Shut(id) => number(&mut body, *id, b'S'),
        Verb::Open(id) => number(&mut body, *id, b'O'),
    };
    [&header(body.len(), tag), body.as_slice()].concat()
}

fn number(body: &mut Vec<u8>, number: u32, tag: u8) -> u8 {
    body.extend(number.to_le_bytes());
    tag
}

/// A verb from its tag and what follows the header.
fn decode_verb(tag: u8, body: &[u8]) -> Option<Verb> {
    Some(match (tag, body) {
        (b'R', &[kind, a, b, c, d]) => Verb::Ready { kind, limit: u32::from_le_bytes([a, b, c, d]) },
        (b'F', text) => Verb::Failed(String::from_utf8_lossy(text).into_owned()),
        (b'U', []) => Verb::Online,
        (b'P', []) => Verb::Proved,
        (b'L', []) => Verb::Leaving,
        (b'D', &[hand_back @ (0 | 1)]) => Verb::Drain { hand_back: hand_back == 1 },
        (b'K', &[a, b, c, d]) => Verb::Shed { keep: u32::from_le_bytes([a, b, c, d]) },
        (b'G', &[a, b, c, d]) => Verb::Gone(u32::from_le_bytes([a, b, c, d])),
        (b'S', &[a, b, c, d]) => Verb::Shut(u32::from_le_bytes([a, b, c, d])),
        (b'O', &[a, b, c, d]) => Verb::Open(u32::from_le_bytes([a, b, c, d])),
        _ => return None,
    })
}

/// Whether a verb may have a tag and a length, so that no more than a verb is waited for.
fn verb_fits(tag: u8, len: usize) -> bool {
    match tag {
        b'R' => len == 5,
        b'F' => len <= MAX_VERB,
        b'U' | b'L' | b'P' => len == 0,
        b'D' => len == 1,
        b'K' | b'G' | b'S' | b'O' => len == 4,
        _ => false,
    }
}

/// What stands in front of a letter's bytes.
fn encode_label(label: &Label, len: usize) -> [u8; LETTER] {
    let mut head = [0; LETTER];
    let parts: [&[u8]; 5] = [
        &header(LABEL + len, label.purpose as u8),
        &label.from.to_le_bytes(),
        &label.to.to_le_bytes(),
        &label.kind.to_le_bytes(),
        &label.request.to_le_bytes(),
    ];
    let mut at = 0;
    for part in parts {
        head[at..at + part.len()].copy_from_slice(part);
        at += part.len();
    }
    head
}

/// A label from its tag and what follows the header.
fn decode_label(tag: u8, body: &[u8; LABEL]) -> Option<Label> {
    let [f0, f1, f2, f3, t0, t1, t2, t3, k0, k1, k2, k3, request @ ..] = *body;
    Some(Label {
        purpose: purpose(tag)?,
        from: u32::from_le_bytes([f0, f1, f2, f3]),
        to: u32::from_le_bytes([t0, t1, t2, t3]),
        kind: u32::from_le_bytes([k0, k1, k2, k3]),
        request: u64::from_le_bytes(request),
    })
}

fn purpose(tag: u8) -> Option<Purpose> {
    [Purpose::Message, Purpose::Request, Purpose::Reply, Purpose::Failure]
        .into_iter()
        .find(|p| *p as u8 == tag)
}

#[cfg(any(fuzzing, test))]
pub mod fuzzing;
#[cfg(test)]
mod tests;
