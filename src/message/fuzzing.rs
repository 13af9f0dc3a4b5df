//! What the fuzz target `frames` runs: bytes that come in one piece, byte by byte, and in between must make the same frames.

use super::{Inbox, Label, Received, Verb, encode_letter, encode_verb};

/// A frame, owned.
#[derive(Debug, PartialEq, Eq)]
pub enum Frame {
    Verb(Verb),
    Letter(Label, Vec<u8>),
}

impl Frame {
    /// The frame as it is on the channel.
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::Verb(verb) => encode_verb(verb),
            Self::Letter(label, bytes) => encode_letter(label, bytes),
        }
    }
}

/// The longest letter in these tests.
pub const MAX: usize = 70_000;

/// Reads `bytes` as another process's.
///
/// # Panics
/// Where frames depend on how the bytes come, or what was read is not what was written.
pub fn frames(bytes: &[u8]) {
    let (whole, fault) = read(bytes, bytes.len().max(1));
    for step in [1, 7, 61] {
        assert_eq!(read(bytes, step), (whole.iter().map(Frame::copy).collect(), fault));
    }
    // Text that is not UTF-8 is repaired, so that only its meaning comes back.
    for frame in whole.iter().filter(|f| !matches!(f, Frame::Verb(Verb::Failed(_)))) {
        let again = frame.encode();
        assert!(bytes.windows(again.len()).any(|w| w == again));
    }
}

/// The frames in `bytes`, which come in pieces of `step`, and whether they end in something else.
pub fn read(bytes: &[u8], step: usize) -> (Vec<Frame>, bool) {
    let (mut inbox, mut frames) = (Inbox::new(MAX), Vec::new());
    for mut piece in bytes.chunks(step) {
        while !piece.is_empty() {
            piece = &piece[inbox.feed(piece)..];
            loop {
                match inbox.next() {
                    Ok(Some(Received::Verb(verb))) => frames.push(Frame::Verb(verb)),
                    Ok(Some(Received::Letter(l))) => {
                        frames.push(Frame::Letter(l.label, l.bytes.into_owned()));
                    }
                    Ok(_) => break,
                    Err(_) => return (frames, true),
                }
            }
        }
    }
    (frames, false)
}

impl Frame {
    fn copy(&self) -> Self {
        match self {
            Self::Verb(verb) => Self::Verb(verb.clone()),
            Self::Letter(label, bytes) => Self::Letter(*label, bytes.clone()),
        }
    }
}
