//! The handoff channel: one message, one connection, from the master to a worker, and idle ones back.
//!
//! A `SOCK_SEQPACKET` pair per worker. What a worker has not taken yet lies in the receive queue of its end, and that queue
//! lives as long as any copy of the end does: the master keeps one, and *reclaims* with it what a dead or stuck worker will
//! not take. Each message is taken by exactly one reader, so no connection is served twice.

use crate::sys::{errno, fdpass, socket};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Where a connection comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "control", derive(serde::Serialize, serde::Deserialize))]
pub struct Origin {
    /// The index of the listener it came through.
    pub listener: u16,
    /// Whether another worker has served it before, and handed it back idle.
    pub used: bool,
}

impl Origin {
    /// A new connection.
    pub fn listener(listener: u16) -> Self {
        Self { listener, used: false }
    }
}

/// The master's end.
#[derive(Debug)]
pub struct Giver(OwnedFd);

/// The worker's end; the master has a copy for reclaiming.
#[derive(Debug)]
pub struct Taker(OwnedFd);

/// What became of a connection that was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Given {
    /// It is in the worker's queue; the giver's copy can be closed.
    Done,
    /// The queue is full, or too many descriptors are under way; it is still the giver's alone.
    Full,
    /// The worker's end is closed everywhere; it is still the giver's alone.
    Gone,
}

/// What lay in the queue.
#[derive(Debug)]
pub enum Taken<C = OwnedFd> {
    /// A connection, and where it comes from.
    Connection(C, Origin),
    /// Nothing to serve: the master asks for a sign of life.
    Probe,
    /// A connection came, but this process had no descriptor free for it: it is lost.
    Lost,
    /// Nothing there.
    Nothing,
    /// The master is gone, and the queue is empty.
    End,
}

/// First byte of each message: what it is.
const CONNECTION: u8 = b'C';
const PROBE: u8 = b'P';
const HEADER: usize = 4;

/// A new channel.
pub fn channel() -> io::Result<(Giver, Taker)> {
    let (giver, taker) = fdpass::packet_pair()?;
    Ok((Giver(giver), Taker(taker)))
}

impl Giver {
    /// Puts a duplicate of `connection` into the worker's queue, without waiting.
    ///
    /// # Errors
    /// What sendmsg(2) says beyond [`Given::Full`] and [`Given::Gone`].
    pub fn give(&self, connection: BorrowedFd<'_>, origin: Origin) -> io::Result<Given> {
        send(self.0.as_fd(), connection, origin)
    }

    /// Takes the oldest connection that the worker has handed back, without waiting.
    ///
    /// # Errors
    /// As [`Taker::take`].
    pub fn take_back(&self) -> io::Result<Taken> {
        receive(self.0.as_fd())
    }

    /// Asks the worker for a sign of life. Returns whether the question is in its queue; a full queue is no error, since what
    /// fills it wakes the worker as well.
    pub fn probe(&self) -> bool {
        socket::send(self.0.as_fd(), &[PROBE, 0, 0, 0]).is_ok()
    }
}

impl From<OwnedFd> for Giver {
    fn from(fd: OwnedFd) -> Self {
        Self(fd)
    }
}

impl From<OwnedFd> for Taker {
    fn from(fd: OwnedFd) -> Self {
        Self(fd)
    }
}

impl AsFd for Giver {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Taker {
    /// Takes the oldest message, without waiting.
    ///
    /// # Errors
    /// What recvmsg(2) says; a message that is none of ours is `InvalidData`.
    pub fn take(&self) -> io::Result<Taken> {
        receive(self.0.as_fd())
    }

    /// Puts a duplicate of an idle connection into the master's queue, without waiting.
    ///
    /// # Errors
    /// As [`Giver::give`].
    pub fn hand_back(&self, connection: BorrowedFd<'_>, listener: u16) -> io::Result<Given> {
        send(self.0.as_fd(), connection, Origin { listener, used: true })
    }
}

impl AsFd for Taker {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn send(socket: BorrowedFd<'_>, connection: BorrowedFd<'_>, origin: Origin) -> io::Result<Given> {
    let [low, high] = origin.listener.to_le_bytes();
    match fdpass::send(socket, &[CONNECTION, origin.used.into(), low, high], connection) {
        Ok(()) => Ok(Given::Done),
        Err(e) => match e.raw_os_error() {
            Some(errno::EAGAIN | errno::ENOBUFS | errno::ENOMEM | errno::ETOOMANYREFS) => Ok(Given::Full),
            Some(errno::EPIPE | errno::ECONNRESET) => Ok(Given::Gone),
            _ => Err(e),
        },
    }
}

fn receive(socket: BorrowedFd<'_>) -> io::Result<Taken> {
    let mut header = [0; HEADER];
    let got = match fdpass::recv(socket, &mut header) {
        Ok(got) => got,
        Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(Taken::Nothing),
        Err(e) if e.kind() == io::ErrorKind::ConnectionReset => return Ok(Taken::End),
        Err(e) => return Err(e),
    };
    match (header, got.fd) {
        _ if got.len == 0 => Ok(Taken::End),
        _ if got.lost => Ok(Taken::Lost),
        ([CONNECTION, used, low, high], Some(fd)) if got.len == HEADER => {
            let listener = u16::from_le_bytes([low, high]);
            Ok(Taken::Connection(fd, Origin { listener, used: used != 0 }))
        }
        ([PROBE, ..], None) => Ok(Taken::Probe),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    fn connection() -> (UnixStream, UnixStream) {
        UnixStream::pair().unwrap()
    }

    #[test]
    fn a_connection_arrives_with_its_listener() {
        let (giver, taker) = channel().unwrap();
        let (near, mut far) = connection();
        assert_eq!(giver.give(near.as_fd(), Origin::listener(513)).unwrap(), Given::Done);
        drop(near);
        let Taken::Connection(fd, origin) = taker.take().unwrap() else { panic!("no connection") };
        assert_eq!(origin, Origin { listener: 513, used: false });
        UnixStream::from(fd).write_all(b"hello").unwrap();
        let mut text = String::new();
        far.read_to_string(&mut text).unwrap();
        assert_eq!(text, "hello");
    }

    #[test]
    fn an_empty_queue_has_nothing_and_then_ends() {
        let (giver, taker) = channel().unwrap();
        assert!(matches!(taker.take().unwrap(), Taken::Nothing));
        giver.probe();
        assert!(matches!(taker.take().unwrap(), Taken::Probe));
        drop(giver);
        assert!(matches!(taker.take().unwrap(), Taken::End));
    }

    #[test]
    fn what_was_not_taken_outlives_giver_and_worker() {
        let (giver, taker) = channel().unwrap();
        let kept = Taker(taker.0.try_clone().unwrap());
        let (near, _far) = connection();
        giver.give(near.as_fd(), Origin::listener(0)).unwrap();
        drop((taker, giver));
        assert!(matches!(kept.take().unwrap(), Taken::Connection(..)));
        assert!(matches!(kept.take().unwrap(), Taken::End));
    }

    #[test]
    fn a_full_queue_and_a_closed_end_are_told_apart() {
        let (giver, taker) = channel().unwrap();
        let (near, _far) = connection();
        let mut given = 0;
        while giver.give(near.as_fd(), Origin::listener(0)).unwrap() == Given::Done {
            given += 1;
        }
        assert!(given > 100, "{given}");
        drop(taker);
        assert_eq!(giver.give(near.as_fd(), Origin::listener(0)).unwrap(), Given::Gone);
    }

    #[test]
    fn an_idle_connection_goes_back_and_outlives_its_worker() {
        let (giver, taker) = channel().unwrap();
        let (near, _far) = connection();
        assert_eq!(taker.hand_back(near.as_fd(), 3).unwrap(), Given::Done);
        drop((taker, near));
        let Taken::Connection(_, origin) = giver.take_back().unwrap() else { panic!("no connection") };
        assert_eq!(origin, Origin { listener: 3, used: true });
        assert!(matches!(giver.take_back().unwrap(), Taken::End));
    }
}
