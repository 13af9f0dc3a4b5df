//! The fuzz target `frames`: however the bytes are cut into pieces, they must make the same frames.

#![allow(clippy::unwrap_used, reason = "a test")]

use super::{Budget, Envelope, Notice, Received, channel, encode_message, encode_notice};
use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

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

/// Returns the frames in `bytes`, sent in pieces of `step`, and true if bytes that are no frame end them.
pub fn read(bytes: &[u8], step: usize) -> (Vec<Frame>, bool) {
    let (sender, mut receiver) = channel(MAX).unwrap();
    let mut sender = UnixStream::from(sender.socket);
    let mut frames = Vec::new();
    for mut piece in bytes.chunks(step) {
        while !piece.is_empty() {
            // The socket may take a part only.
            piece = &piece[sender.write(piece).unwrap()..];
            let mut budget = Budget::new(usize::MAX, usize::MAX);
            loop {
                match receiver.inbox.receive(receiver.socket.as_fd(), &mut budget) {
                    Ok(Received::Notice(notice)) => frames.push(Frame::Notice(notice)),
                    Ok(Received::Message(envelope, bytes)) => {
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
