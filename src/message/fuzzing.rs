//! The fuzz target `frames`: however the bytes are cut into pieces, they must make the same frames.

use super::{Envelope, Inbox, Notice, Received, encode_message, encode_notice};

/// A frame, owned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    Notice(Notice),
    Message(Envelope, Vec<u8>),
}

impl Frame {
    /// The frame as it is on the channel.
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::Notice(notice) => encode_notice(notice),
            Self::Message(envelope, bytes) => encode_message(envelope, bytes),
        }
    }
}

/// The most bytes of a message in these tests.
pub const MAX: usize = 70_000;

/// Reads `bytes` as if another process had sent them.
///
/// # Panics
/// If the frames depend on how the bytes are cut, or are not the ones that were written.
pub fn frames(bytes: &[u8]) {
    let (whole, fault) = read(bytes, bytes.len().max(1));
    for step in [1, 7, 61] {
        assert_eq!(read(bytes, step), (whole.clone(), fault));
    }
    // A reason that is not UTF-8 is repaired when it is read, so its bytes differ.
    for frame in whole.iter().filter(|f| !matches!(f, Frame::Notice(Notice::Failed(_)))) {
        let again = frame.encode();
        assert!(bytes.windows(again.len()).any(|w| w == again));
    }
}

/// Returns the frames in `bytes`, cut into pieces of `step`, and true if bytes that are no frame end them.
pub fn read(bytes: &[u8], step: usize) -> (Vec<Frame>, bool) {
    let (mut inbox, mut frames) = (Inbox::new(MAX), Vec::new());
    for mut piece in bytes.chunks(step) {
        while !piece.is_empty() {
            piece = &piece[inbox.feed(piece)..];
            loop {
                match inbox.next() {
                    Ok(Some(Received::Notice(notice))) => frames.push(Frame::Notice(notice)),
                    Ok(Some(Received::Message(envelope, bytes))) => {
                        frames.push(Frame::Message(envelope, bytes.into_owned()));
                    }
                    Ok(_) => break,
                    Err(_) => return (frames, true),
                }
            }
        }
    }
    (frames, false)
}
