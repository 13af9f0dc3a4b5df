//! The handoff channel: connections from the master to a worker, and idle ones back, one per message.
//!
//! A `SOCK_SEQPACKET` pair per worker. Connections that a worker has not taken yet lie in the receive queue of its end, which
//! lives as long as any copy of that end: the master keeps one, and *reclaims* with it the connections that a dead or stuck
//! worker does not take. Each message has exactly one reader, so no connection is served twice.

use crate::ids::ListenerId;
use crate::sys::{errno, fdpass, socket};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// The origin of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "control", derive(serde::Serialize, serde::Deserialize))]
pub struct Origin {
    /// The listener it came through.
    pub listener: ListenerId,
    /// True if another worker has served it before, and handed it back idle.
    pub used: bool,
}

impl Origin {
    /// The origin of a new connection.
    pub fn listener(listener: ListenerId) -> Self {
        Self { listener, used: false }
    }
}

/// One end of a channel. The master has its own end, and a copy of the worker's to reclaim with.
#[derive(Debug)]
pub struct HandoffEnd(pub OwnedFd);

/// The result of giving a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Given {
    /// It is in the other end's queue; the caller's copy can be closed.
    Done,
    /// The queue is full, or too many descriptors are in flight; the connection is still the caller's alone.
    Full,
    /// Every copy of the other end is closed; the connection is still the caller's alone.
    Gone,
}

/// The result of taking the oldest message.
#[derive(Debug)]
pub enum Taken<C = OwnedFd> {
    /// A connection.
    Connection(C, Origin),
    /// A probe: the master asks for a sign of life.
    Probe,
    /// A connection arrived, but this process had no free descriptor for it: it is lost.
    Lost,
    /// The queue is empty.
    Nothing,
    /// The queue is empty, and every copy of the other end is closed.
    End,
}

/// First byte of each message: its type.
const CONNECTION: u8 = b'C';
const PROBE: u8 = b'P';
/// Bytes of a message with a connection; a probe has one.
const HEADER: usize = 4;

/// Creates a channel: the master's end and the worker's.
pub fn channel() -> io::Result<(HandoffEnd, HandoffEnd)> {
    let (master, worker) = fdpass::packet_pair()?;
    Ok((HandoffEnd(master), HandoffEnd(worker)))
}

impl HandoffEnd {
    /// Puts a duplicate of `connection` into the other end's queue, without waiting.
    ///
    /// # Errors
    /// Those of sendmsg(2) that are neither [`Given::Full`] nor [`Given::Gone`].
    pub fn give(&self, connection: BorrowedFd<'_>, origin: Origin) -> io::Result<Given> {
        let [low, high] = origin.listener.0.to_le_bytes();
        let message = [CONNECTION, origin.used.into(), low, high];
        let Err(e) = fdpass::send(self.as_fd(), &message, connection) else { return Ok(Given::Done) };
        match e.raw_os_error() {
            Some(errno::EAGAIN | errno::ENOBUFS | errno::ENOMEM | errno::ETOOMANYREFS) => Ok(Given::Full),
            Some(errno::EPIPE | errno::ECONNRESET) => Ok(Given::Gone),
            _ => Err(e),
        }
    }

    /// Takes the oldest message, without waiting.
    ///
    /// # Errors
    /// Those of recvmsg(2); `InvalidData` for a message that is none of ours.
    pub fn take(&self) -> io::Result<Taken> {
        let mut header = [0; HEADER];
        let got = match fdpass::recv(self.as_fd(), &mut header) {
            Ok(got) => got,
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(Taken::Nothing),
            // The other end was closed while messages for it were unread.
            Err(e) if e.kind() == io::ErrorKind::ConnectionReset => return Ok(Taken::End),
            Err(e) => return Err(e),
        };
        match (header, got.fd) {
            _ if got.len == 0 => Ok(Taken::End),
            _ if got.lost => Ok(Taken::Lost),
            ([CONNECTION, used, low, high], Some(fd)) if got.len == HEADER => {
                let listener = ListenerId(u16::from_le_bytes([low, high]));
                Ok(Taken::Connection(fd, Origin { listener, used: used != 0 }))
            }
            ([PROBE, ..], None) => Ok(Taken::Probe),
            _ => Err(io::ErrorKind::InvalidData.into()),
        }
    }

    /// Asks the worker for a sign of life. Returns true if the probe is in its queue; a full queue is no error, because its
    /// messages wake the worker as well.
    pub fn probe(&self) -> bool {
        socket::send(self.as_fd(), &[PROBE]).is_ok()
    }

    /// The connections that lie in the queue of this end. There must be fewer than four probes.
    ///
    /// # Errors
    /// Those of ioctl(2).
    pub fn waiting(&self) -> io::Result<u64> {
        // The kernel adds up the bytes of all messages.
        Ok((socket::unread(self.as_fd())? / HEADER) as u64)
    }
}

impl AsFd for HandoffEnd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    #[test]
    fn a_connection_arrives_with_its_listener() {
        let (master, worker) = channel().unwrap();
        let (near, mut far) = UnixStream::pair().unwrap();
        assert_eq!(master.give(near.as_fd(), Origin::listener(ListenerId(513))).unwrap(), Given::Done);
        drop(near);
        let Taken::Connection(fd, origin) = worker.take().unwrap() else { panic!("no connection") };
        assert_eq!(origin, Origin { listener: ListenerId(513), used: false });
        UnixStream::from(fd).write_all(b"hello").unwrap();
        let mut text = String::new();
        far.read_to_string(&mut text).unwrap();
        assert_eq!(text, "hello");
    }

    #[test]
    fn an_empty_queue_has_nothing_and_then_ends() {
        let (master, worker) = channel().unwrap();
        assert!(matches!(worker.take().unwrap(), Taken::Nothing));
        master.probe();
        assert!(matches!(worker.take().unwrap(), Taken::Probe));
        drop(master);
        assert!(matches!(worker.take().unwrap(), Taken::End));
    }

    #[test]
    fn a_queue_outlives_master_and_worker() {
        let (master, worker) = channel().unwrap();
        let kept = HandoffEnd(worker.0.try_clone().unwrap());
        let (near, _far) = UnixStream::pair().unwrap();
        master.give(near.as_fd(), Origin::listener(ListenerId(0))).unwrap();
        drop((worker, master));
        assert!(matches!(kept.take().unwrap(), Taken::Connection(..)));
        assert!(matches!(kept.take().unwrap(), Taken::End));
    }

    #[test]
    fn connections_that_wait_are_counted_and_probes_are_not() {
        let (master, worker) = channel().unwrap();
        let (near, _far) = UnixStream::pair().unwrap();
        assert_eq!(worker.waiting().unwrap(), 0);
        for expected in 1..=3 {
            assert!(master.probe());
            master.give(near.as_fd(), Origin::listener(ListenerId(0))).unwrap();
            assert_eq!(worker.waiting().unwrap(), expected);
        }
        assert!(matches!(worker.take().unwrap(), Taken::Probe));
        assert!(matches!(worker.take().unwrap(), Taken::Connection(..)));
        assert_eq!((worker.waiting().unwrap(), master.waiting().unwrap()), (2, 0));
    }

    #[test]
    fn a_full_queue_and_a_closed_end_are_told_apart() {
        let (master, worker) = channel().unwrap();
        let (near, _far) = UnixStream::pair().unwrap();
        let mut given = 0;
        while master.give(near.as_fd(), Origin::listener(ListenerId(0))).unwrap() == Given::Done {
            given += 1;
        }
        assert!(given > 100, "{given}");
        drop(worker);
        assert_eq!(master.give(near.as_fd(), Origin::listener(ListenerId(0))).unwrap(), Given::Gone);
    }

    #[test]
    fn an_idle_connection_is_handed_back_and_outlives_its_worker() {
        let (master, worker) = channel().unwrap();
        let (near, _far) = UnixStream::pair().unwrap();
        let handed_back = Origin { listener: ListenerId(3), used: true };
        assert_eq!(worker.give(near.as_fd(), handed_back).unwrap(), Given::Done);
        drop((worker, near));
        let Taken::Connection(_, origin) = master.take().unwrap() else { panic!("no connection") };
        assert_eq!(origin, handed_back);
        assert!(matches!(master.take().unwrap(), Taken::End));
    }
}
