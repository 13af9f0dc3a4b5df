//! The handoff channel: connections from the master to a worker, and back those that are idle or are to go to another worker.
//!
//! A message has up to [`MOST`] descriptors. A stream that goes from one worker to another has two: the connection, and a memory file
//! in which its worker has written down what the next one needs (`worker/handover.rs`). The master does not look into it.
//!
//! A `SOCK_SEQPACKET` pair per worker. Connections that a worker has not taken yet lie in the receive queue of its end, which
//! lives as long as any copy of that end: the master keeps one, and *reclaims* with it the connections that a dead or stuck
//! worker does not take. Each message has exactly one reader, so no connection is served twice. What a worker has taken with a
//! message nobody else can have any more, so a message has few.

use crate::ids::{ListenerId, WorkerId};
use crate::sys::{errno, fdpass, socket};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// The most descriptors of a message. Two descriptors in a message save most of what any number saves; a crash, or a call that takes
/// long, harms those that came with its own connection.
pub const MOST: usize = fdpass::MOST;

/// A connection on its way from one process to another.
#[derive(Debug)]
pub struct Passed {
    /// The connection.
    pub fd: OwnedFd,
    /// The memory file with the state of a stream ([`Origin::stream`]).
    pub state: Option<OwnedFd>,
}

impl From<OwnedFd> for Passed {
    fn from(fd: OwnedFd) -> Self {
        Self { fd, state: None }
    }
}

/// The origin of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "control", derive(serde::Serialize, serde::Deserialize))]
pub struct Origin {
    /// The listener it came through.
    pub listener: ListenerId,
    /// True if another worker has served it before, and handed it back.
    pub used: bool,
    /// Set if it is a stream that goes with its state from one worker to another.
    #[cfg_attr(feature = "control", serde(default))]
    pub stream: Option<Handover>,
}

/// The two workers of a stream that is handed over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "control", derive(serde::Serialize, serde::Deserialize))]
pub struct Handover {
    /// The one that has given it away; `None` until the master has it, and if that worker has ended.
    pub giver: Option<WorkerId>,
    /// The one that is to get it; `None` if any may.
    pub taker: Option<WorkerId>,
    /// True if the worker that got it has refused it: it goes back to the giver.
    pub is_refused: bool,
}

impl Origin {
    /// The origin of a new connection.
    pub fn listener(listener: ListenerId) -> Self {
        Self { listener, used: false, stream: None }
    }

    /// The origin of an idle connection that a worker hands back.
    pub fn idle(listener: ListenerId) -> Self {
        Self { listener, used: true, stream: None }
    }

    /// The origin of a stream that a worker gives away.
    pub fn stream(listener: ListenerId, stream: Handover) -> Self {
        Self { listener, used: true, stream: Some(stream) }
    }

    /// The descriptors of the connection in a message.
    pub fn descriptors(&self) -> usize {
        if self.stream.is_some() { 2 } else { 1 }
    }
}

/// Returns how many of these connections fit into a message, from the first one on.
pub fn fitting(origins: impl Iterator<Item = Origin>) -> usize {
    let used = origins.scan(0, |used, origin| {
        *used += origin.descriptors();
        Some(*used)
    });
    used.take_while(|used| *used <= MOST).count()
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
pub enum Taken<C = Passed> {
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
pub struct Message<C = Passed> {
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

/// The first byte of a probe, which has no other; of the bytes of each connection; of those of each stream with its state.
const PROBE: u8 = b'P';
const CONNECTION: u8 = b'C';
const STREAM: u8 = b'S';
/// Bits of the second byte of a connection.
const USED: u8 = 1;
const REFUSED: u8 = 2;
/// Bytes of each connection of a message.
const HEADER: usize = 12;

/// Creates a channel: the master's end and the worker's.
pub fn channel() -> io::Result<(HandoffEnd, HandoffEnd)> {
    let (master, worker) = fdpass::packet_pair()?;
    Ok((HandoffEnd(master), HandoffEnd(worker)))
}

impl HandoffEnd {
    /// Puts duplicates of connections, and of the files with the states of streams, into the other end's queue as one message, without
    /// waiting. They must be [`fitting`].
    ///
    /// # Errors
    /// Those of sendmsg(2) that are neither [`Given::Full`] nor [`Given::Gone`].
    pub fn give<'a>(
        &self,
        connections: impl Iterator<Item = (BorrowedFd<'a>, Option<BorrowedFd<'a>>, Origin)> + Clone,
    ) -> io::Result<Given> {
        let mut headers = [[0; HEADER]; MOST];
        let count = (headers.iter_mut().zip(connections.clone()))
            .map(|(header, (_, _, origin))| *header = header_of(origin))
            .count();
        let fds = connections.flat_map(|(fd, state, _)| std::iter::once(fd).chain(state));
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
        let came = got.fds.iter().flatten().count();
        if got.len == 0 {
            return Ok(Taken::End);
        }
        if headers.as_flattened()[0] == PROBE && came == 0 {
            return Ok(Taken::Probe);
        }
        let count = got.len / HEADER;
        let mut origins = [const { None }; MOST];
        for (place, header) in origins.iter_mut().zip(&headers[..count]) {
            *place = origin_of(*header);
        }
        let sent: usize = origins.iter().flatten().map(Origin::descriptors).sum();
        let is_whole = got.len % HEADER == 0
            && origins.iter().flatten().count() == count
            && (sent == came || got.lost && sent > came);
        if !is_whole {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let mut fds = got.fds.into_iter().flatten();
        let connections = origins.into_iter().flatten().filter_map(|origin| {
            let fd = fds.next()?;
            let state = if origin.stream.is_some() { Some(fds.next()?) } else { None };
            Some((Passed { fd, state }, origin))
        });
        let mut message = Message::new(connections, 0);
        // The last ones: a process that lacks descriptors gets as many as it has.
        message.lost = count - message.connections.iter().flatten().count();
        Ok(Taken::Connections(message))
    }

    /// Asks the worker for a sign of life. Returns true if the probe is in its queue; a full queue is no error, because its
    /// messages wake the worker as well.
    pub fn probe(&self) -> bool {
        socket::send(self.as_fd(), &[PROBE]).is_ok()
    }

    /// The connections that lie in the queue of this end. There must be fewer probes than a connection has bytes here.
    ///
    /// # Errors
    /// Those of ioctl(2).
    pub fn waiting(&self) -> io::Result<u64> {
        // The kernel adds up the bytes of all messages.
        Ok((socket::unread(self.as_fd())? / HEADER) as u64)
    }
}

fn header_of(origin: Origin) -> [u8; HEADER] {
    let Origin { listener, used, stream } = origin;
    let mut header = [0; HEADER];
    header[0] = if stream.is_some() { STREAM } else { CONNECTION };
    header[1] = if used { USED } else { 0 };
    header[2..4].copy_from_slice(&listener.0.to_le_bytes());
    if let Some(Handover { giver, taker, is_refused }) = stream {
        header[1] |= if is_refused { REFUSED } else { 0 };
        // No worker has the number 0.
        let number = |id: Option<WorkerId>| id.map_or(0, |id| id.0).to_le_bytes();
        header[4..8].copy_from_slice(&number(giver));
        header[8..].copy_from_slice(&number(taker));
    }
    header
}

/// `None` if it is no header of a connection.
fn origin_of(header: [u8; HEADER]) -> Option<Origin> {
    let [kind, bits, low, high, numbers @ ..] = header;
    let number =
        |at: usize| u32::from_le_bytes([numbers[at], numbers[at + 1], numbers[at + 2], numbers[at + 3]]);
    let worker = |at| Some(number(at)).filter(|id| *id > 0).map(WorkerId);
    let stream = match kind {
        CONNECTION => None,
        STREAM => Some(Handover { giver: worker(0), taker: worker(4), is_refused: bits & REFUSED != 0 }),
        _ => return None,
    };
    Some(Origin { listener: ListenerId(u16::from_le_bytes([low, high])), used: bits & USED != 0, stream })
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
        end.give(connections.iter().map(|(c, origin)| (c.as_fd(), None, *origin))).unwrap()
    }

    fn take(end: &HandoffEnd) -> Vec<(UnixStream, Origin)> {
        let Taken::Connections(message) = end.take().unwrap() else { panic!("no connections") };
        assert_eq!(message.lost, 0);
        message.into_iter().map(|(passed, origin)| (passed.fd.into(), origin)).collect()
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
        let handed_back = Origin::idle(ListenerId(3));
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
        let connection = *b"C00000000000";
        for (bytes, fds) in [
            (&b"C"[..], 1),
            (&connection[..], 2),
            ([connection, connection].as_flattened(), 1),
            (&b"C000000000000"[..], 1),
            (&b"S00000000000"[..], 1),
            (&b"S00000000000"[..], 3),
            ([*b"S00000000000"; 3].as_flattened(), 4),
            (b"P", 1),
            (b"x", 0),
            (b"x00000000000", 1),
        ] {
            let taken = send(bytes, fds);
            assert!(taken.is_err(), "{bytes:?} with {fds}: {taken:?}");
        }
    }

    #[test]
    fn a_stream_goes_with_its_state_and_its_two_workers() {
        let (master, worker) = channel().unwrap();
        let workers = [None, Some(WorkerId(7)), Some(WorkerId(u32::MAX))];
        for (giver, taker, is_refused) in
            [(workers[0], workers[0], false), (workers[1], workers[0], true), (workers[1], workers[2], false)]
        {
            let (near, mut far) = UnixStream::pair().unwrap();
            let (state, mut written) = UnixStream::pair().unwrap();
            let origin = Origin::stream(ListenerId(9), Handover { giver, taker, is_refused });
            let idle = Origin::idle(ListenerId(1));
            let all = [
                (near.as_fd(), None, idle),
                (near.as_fd(), Some(state.as_fd()), origin),
                (near.as_fd(), None, idle),
            ];
            assert_eq!(worker.give(all.into_iter()).unwrap(), Given::Done);
            assert_eq!(master.waiting().unwrap(), 3);
            let Taken::Connections(message) = master.take().unwrap() else { panic!("no connections") };
            let mut taken = message.into_iter();
            assert_eq!(taken.next().unwrap().1, idle);
            let (passed, found) = taken.next().unwrap();
            assert_eq!(found, origin);
            UnixStream::from(passed.fd).write_all(b"c").unwrap();
            UnixStream::from(passed.state.unwrap()).write_all(b"s").unwrap();
            assert!(taken.next().unwrap().0.state.is_none() && taken.next().is_none());
            for (end, expected) in [(&mut far, b"c"), (&mut written, b"s")] {
                let mut byte = [0];
                end.read_exact(&mut byte).unwrap();
                assert_eq!(&byte, expected);
            }
        }
    }

    #[test]
    fn as_many_connections_fit_as_there_are_descriptors() {
        let (one, two) = (origin(0), Origin::stream(ListenerId(0), Handover::default()));
        for (origins, expected) in [
            (vec![one; 7], 4),
            (vec![two; 7], 2),
            (vec![one, two, two], 2),
            (vec![two, one, one, one], 3),
            (vec![two], 1),
            (vec![], 0),
        ] {
            assert_eq!(fitting(origins.into_iter()), expected);
        }
    }
}
