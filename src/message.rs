//! The message channel: frames both ways between the master and one worker, beside the handoff channel so that no connection
//! ever waits behind a message.
//!
//! A stream socket pair per worker. A frame is a 4-byte length, a 1-byte verb, three zero bytes, then that many bytes.

use crate::sys::{fdpass, socket};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

/// What a frame says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
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
}

/// One end of a channel.
#[derive(Debug)]
pub struct Channel {
    socket: OwnedFd,
    inbox: Vec<u8>,
}

/// What [`Channel::receive`] found.
#[derive(Debug, PartialEq, Eq)]
pub enum Received {
    /// A whole frame.
    Message(Message),
    /// No whole frame yet.
    Nothing,
    /// The other end is gone.
    End,
}

const HEADER: usize = 8;
/// The longest frame: a reason for a failure.
const MAX_LEN: usize = 64 * 1024;

/// A new channel: the master's end and the worker's.
pub fn channel() -> io::Result<(Channel, Channel)> {
    let (master, worker) = fdpass::stream_pair()?;
    Ok((Channel::new(master), Channel::new(worker)))
}

impl Channel {
    fn new(socket: OwnedFd) -> Self {
        Self { socket, inbox: Vec::new() }
    }

    /// A channel that a former program in this process had, with what it had read and not understood yet.
    pub fn resume(socket: OwnedFd, inbox: Vec<u8>) -> Self {
        Self { socket, inbox }
    }

    /// What was read and is not a whole frame yet.
    pub fn unread(&self) -> &[u8] {
        &self.inbox
    }

    /// Sends a message: without waiting where `patience` is `None`, else waiting so long for room.
    ///
    /// # Errors
    /// `WouldBlock` or `TimedOut` where there is no room; what send(2) says. After an error in the middle of a frame the
    /// channel is of no more use.
    pub fn send(&self, message: &Message, patience: Option<Duration>) -> io::Result<()> {
        let frame = encode(message);
        let mut rest = frame.as_slice();
        while !rest.is_empty() {
            match socket::send(self.socket.as_fd(), rest) {
                Ok(n) => rest = &rest[n..],
                Err(e) if e.kind() == io::ErrorKind::WouldBlock && patience.is_some() => {
                    if !socket::wait_ready(self.socket.as_fd(), true, patience)? {
                        return Err(io::ErrorKind::TimedOut.into());
                    }
                }
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    /// The next message, without waiting. Call it until it has nothing more.
    ///
    /// # Errors
    /// `InvalidData` where the bytes are no frame; what recv(2) says.
    pub fn receive(&mut self) -> io::Result<Received> {
        loop {
            if let Some((message, used)) = decode(&self.inbox)? {
                self.inbox.drain(..used);
                return Ok(Received::Message(message));
            }
            self.inbox.reserve(4096);
            match socket::recv_append(self.socket.as_fd(), &mut self.inbox) {
                Ok(0) => return Ok(Received::End),
                Ok(_) => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(Received::Nothing),
                Err(e) if e.kind() == io::ErrorKind::ConnectionReset => return Ok(Received::End),
                Err(e) => return Err(e),
            }
        }
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn encode(message: &Message) -> Vec<u8> {
    let mut frame = vec![0; HEADER];
    frame[4] = match message {
        Message::Ready { kind, limit } => {
            frame.push(*kind);
            frame.extend(limit.to_le_bytes());
            b'R'
        }
        Message::Failed(text) => {
            frame.extend(text.bytes().take(MAX_LEN));
            b'F'
        }
        Message::Online => b'O',
        Message::Leaving => b'L',
        Message::Drain { hand_back } => {
            frame.push((*hand_back).into());
            b'D'
        }
    };
    let len = (frame.len() - HEADER) as u32;
    frame[..4].copy_from_slice(&len.to_le_bytes());
    frame
}

/// The first frame of `bytes` and its length, where it is all there.
fn decode(bytes: &[u8]) -> io::Result<Option<(Message, usize)>> {
    let invalid = || io::Error::from(io::ErrorKind::InvalidData);
    let Some((head, rest)) = bytes.split_first_chunk::<HEADER>() else { return Ok(None) };
    let [l0, l1, l2, l3, verb, 0, 0, 0] = *head else { return Err(invalid()) };
    let len = u32::from_le_bytes([l0, l1, l2, l3]) as usize;
    if len > MAX_LEN {
        return Err(invalid());
    }
    let Some(body) = rest.get(..len) else { return Ok(None) };
    let message = match (verb, body) {
        (b'R', &[kind, a, b, c, d]) => Message::Ready { kind, limit: u32::from_le_bytes([a, b, c, d]) },
        (b'F', text) => Message::Failed(String::from_utf8_lossy(text).into_owned()),
        (b'O', []) => Message::Online,
        (b'L', []) => Message::Leaving,
        (b'D', &[hand_back]) => Message::Drain { hand_back: hand_back != 0 },
        _ => return Err(invalid()),
    };
    Ok(Some((message, HEADER + len)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_arrive_as_sent_and_in_order() {
        let (master, mut worker) = channel().unwrap();
        let sent = [
            Message::Ready { kind: 2, limit: 70_000 },
            Message::Failed("no such file: handler.so".into()),
            Message::Leaving,
            Message::Drain { hand_back: true },
        ];
        for m in &sent {
            master.send(m, None).unwrap();
        }
        for m in sent {
            assert_eq!(worker.receive().unwrap(), Received::Message(m));
        }
        assert_eq!(worker.receive().unwrap(), Received::Nothing);
        drop(master);
        assert_eq!(worker.receive().unwrap(), Received::End);
    }

    #[test]
    fn frames_may_be_cut_anywhere() {
        let frame = encode(&Message::Failed("why".into()));
        for cut in 0..frame.len() {
            assert_eq!(decode(&frame[..cut]).unwrap(), None);
        }
        assert_eq!(decode(&frame).unwrap(), Some((Message::Failed("why".into()), frame.len())));
    }

    #[test]
    fn garbage_is_an_error_and_not_a_wait() {
        for bad in
            [&b"GET / HTTP/1.1\r\n"[..], &[255, 255, 255, 255, b'F', 0, 0, 0], &[0, 0, 0, 0, b'R', 0, 0, 0]]
        {
            assert_eq!(decode(bad).unwrap_err().kind(), io::ErrorKind::InvalidData);
        }
    }

    #[test]
    fn a_reason_is_cut_to_what_a_frame_may_hold() {
        let long = "é".repeat(MAX_LEN);
        let (Message::Failed(text), _) = decode(&encode(&Message::Failed(long))).unwrap().unwrap() else {
            panic!()
        };
        assert_eq!(text.len(), MAX_LEN);
    }
}
