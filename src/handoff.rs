//! The handoff channel: connections from the master to a worker, up to [`MOST`] per message, and idle ones back, one per message.
//!
//! A `SOCK_SEQPACKET` pair per worker. Connections that a worker has not taken yet lie in the receive queue of its end, which
//! lives as long as any copy of that end: the master keeps one, and *reclaims* with it the connections that a dead or stuck
//! worker does not take. Each message has exactly one reader, so no connection is served twice. What a worker has taken with a
//! message nobody else can have any more, so a message has few.

use crate::ids::ListenerId;
use crate::sys::{errno, fdpass, socket};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// The most connections of a message. Two descriptors in a message save most of what any number saves; a crash, or a call that takes
/// long, harms those that came with its own connection.
pub const MOST: usize = fdpass::MOST;

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

/// The result of giving connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Given {
    /// All are in the other end's queue; the caller's copies can be closed.
    Done,
    /// The queue is full, or too many descriptors are in flight; the connections are still the caller's alone.
    Full,
    /// Every copy of the other end is closed; the connections are still the caller's alone.
    Gone,
}

/// The result of taking the oldest message.
#[derive(Debug)]
pub enum Taken<C = OwnedFd> {
    /// Connections.
    Connections(Message<C>),
    /// A probe: the master asks for a sign of life.
    Probe,
    /// The queue is empty.
    Nothing,
    /// The queue is empty, and every copy of the other end is closed.
    End,
}

/// The connections of a message.
#[derive(Debug)]
pub struct Message<C = OwnedFd> {
    connections: [Option<(C, Origin)>; MOST],
    /// The number of those that are lost, because this process had no free descriptor for them.
    pub lost: usize,
}

impl<C> Message<C> {
    /// A message with these connections, of which the first [`MOST`] are taken.
    pub fn new(connections: impl Iterator<Item = (C, Origin)>, lost: usize) -> Self {
        let mut message = Self { connections: [const { None }; MOST], lost };
        message.connections.iter_mut().zip(connections).for_each(|(place, c)| *place = Some(c));
        message
    }
}

impl<C> IntoIterator for Message<C> {
    type Item = (C, Origin);
    type IntoIter = std::iter::Flatten<std::array::IntoIter<Option<(C, Origin)>, MOST>>;

    fn into_iter(self) -> Self::IntoIter {
        self.connections.into_iter().flatten()
    }
}

/// The first byte of a probe, which has no other, and of the bytes of each connection.
const CONNECTION: u8 = b'C';
const PROBE: u8 = b'P';
/// Bytes of each connection of a message.
const HEADER: usize = 4;

/// Creates a channel: the master's end and the worker's.
pub fn channel() -> io::Result<(HandoffEnd, HandoffEnd)> {
    let (master, worker) = fdpass::packet_pair()?;
    Ok((HandoffEnd(master), HandoffEnd(worker)))
}

impl HandoffEnd {
    /// Puts duplicates of up to [`MOST`] connections into the other end's queue as one message, without waiting.
    ///
    /// # Errors
    /// Those of sendmsg(2) that are neither [`Given::Full`] nor [`Given::Gone`].
    pub fn give<'a>(
        &self,
        connections: impl Iterator<Item = (BorrowedFd<'a>, Origin)> + Clone,
    ) -> io::Result<Given> {
        let mut headers = [[0; HEADER]; MOST];
        let count = (headers.iter_mut().zip(connections.clone()))
            .map(|(header, (_, origin))| *header = header_of(origin))
            .count();
        let fds = connections.map(|(fd, _)| fd);
        let Err(e) = fdpass::send(self.as_fd(), headers[..count].as_flattened(), fds) else {
            return Ok(Given::Done);
        };
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
        let mut headers = [[0; HEADER]; MOST];
        let got = match fdpass::recv(self.as_fd(), headers.as_flattened_mut()) {
            Ok(got) => got,
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(Taken::Nothing),
            // The other end was closed while messages for it were unread.
            Err(e) if e.kind() == io::ErrorKind::ConnectionReset => return Ok(Taken::End),
            Err(e) => return Err(e),
        };
        let (sent, came) = (got.len / HEADER, got.fds.iter().flatten().count());
        let is_whole = got.len % HEADER == 0 && (sent == came || got.lost && sent > came);
        match headers.as_flattened()[0] {
            _ if got.len == 0 => Ok(Taken::End),
            CONNECTION if is_whole => {
                let origins = headers.into_iter().map(origin_of);
                Ok(Taken::Connections(Message::new(got.fds.into_iter().flatten().zip(origins), sent - came)))
            }
            PROBE if came == 0 => Ok(Taken::Probe),
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

fn header_of(origin: Origin) -> [u8; HEADER] {
    let [low, high] = origin.listener.0.to_le_bytes();
    [CONNECTION, origin.used.into(), low, high]
}

fn origin_of([_, used, low, high]: [u8; HEADER]) -> Origin {
    Origin { listener: ListenerId(u16::from_le_bytes([low, high])), used: used != 0 }
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

    fn origin(listener: u16) -> Origin {
        Origin::listener(ListenerId(listener))
    }

    fn give(end: &HandoffEnd, connections: &[(&UnixStream, Origin)]) -> Given {
        end.give(connections.iter().map(|(c, origin)| (c.as_fd(), *origin))).unwrap()
    }

    fn take(end: &HandoffEnd) -> Vec<(UnixStream, Origin)> {
        let Taken::Connections(message) = end.take().unwrap() else { panic!("no connections") };
        assert_eq!(message.lost, 0);
        message.into_iter().map(|(fd, origin)| (fd.into(), origin)).collect()
    }

    #[test]
    fn connections_arrive_in_order_with_their_listeners() {
        let (master, worker) = channel().unwrap();
        for count in 1..=MOST {
            let (near, far): (Vec<_>, Vec<_>) = (0..count).map(|_| UnixStream::pair().unwrap()).unzip();
            let origins = [513, 0, 7, 65535].map(origin);
            let given: Vec<_> = near.iter().zip(origins).collect();
            assert_eq!(give(&master, &given), Given::Done);
            drop(near);
            let taken = take(&worker);
            assert_eq!(taken.len(), count);
            for (i, (mut taken, origin)) in taken.into_iter().enumerate() {
                assert_eq!(origin, origins[i]);
                taken.write_all(&[i as u8]).unwrap();
            }
            for (i, mut far) in far.into_iter().enumerate() {
                let mut bytes = Vec::new();
                far.read_to_end(&mut bytes).unwrap();
                assert_eq!(bytes, [i as u8]);
            }
        }
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
        give(&master, &[(&near, origin(0)), (&near, origin(1))]);
        drop((worker, master));
        assert_eq!(take(&kept).len(), 2);
        assert!(matches!(kept.take().unwrap(), Taken::End));
    }

    #[test]
    fn connections_that_wait_are_counted_and_probes_are_not() {
        let (master, worker) = channel().unwrap();
        let (near, _far) = UnixStream::pair().unwrap();
        assert_eq!(worker.waiting().unwrap(), 0);
        for expected in [1, 3, 6] {
            assert!(master.probe());
            let more = expected - worker.waiting().unwrap() as usize;
            give(&master, &vec![(&near, origin(0)); more]);
            assert_eq!(worker.waiting().unwrap() as usize, expected);
        }
        assert!(matches!(worker.take().unwrap(), Taken::Probe));
        assert_eq!(take(&worker).len(), 1);
        assert_eq!((worker.waiting().unwrap(), master.waiting().unwrap()), (5, 0));
    }

    #[test]
    fn a_full_queue_and_a_closed_end_are_told_apart() {
        let (master, worker) = channel().unwrap();
        let (near, _far) = UnixStream::pair().unwrap();
        let all = [(&near, origin(0)); MOST];
        let mut given = 0;
        while give(&master, &all) == Given::Done {
            given += MOST;
        }
        assert!(given > 100, "{given}");
        assert_eq!(worker.waiting().unwrap() as usize, given, "nothing of a message that was refused");
        drop(worker);
        assert_eq!(give(&master, &all), Given::Gone);
    }

    #[test]
    fn an_idle_connection_is_handed_back_and_outlives_its_worker() {
        let (master, worker) = channel().unwrap();
        let (near, _far) = UnixStream::pair().unwrap();
        let handed_back = Origin { listener: ListenerId(3), used: true };
        assert_eq!(give(&worker, &[(&near, handed_back)]), Given::Done);
        drop((worker, near));
        assert_eq!(take(&master)[0].1, handed_back);
        assert!(matches!(master.take().unwrap(), Taken::End));
    }

    #[test]
    fn what_is_no_message_of_connections_is_an_error() {
        let (master, worker) = channel().unwrap();
        let (near, _far) = UnixStream::pair().unwrap();
        let send = |bytes: &[u8], fds: usize| {
            fdpass::send(worker.as_fd(), bytes, std::iter::repeat_n(near.as_fd(), fds)).unwrap();
            master.take()
        };
        for (bytes, fds) in
            [(&b"C"[..], 1), (b"C000", 2), (b"C000C000", 1), (b"C0000", 1), (b"P", 1), (b"x", 0)]
        {
            let taken = send(bytes, fds);
            assert!(taken.is_err(), "{bytes:?} with {fds}: {taken:?}");
        }
    }
}
