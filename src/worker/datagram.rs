//! Datagrams: read one, call `on_datagram`, read the next. Unread ones stay in the master's socket, for any worker.

use super::Worker;
use super::engine::Context;
use super::own_sockets::OwnSocket;
use crate::ids::ListenerId;
use crate::scoreboard::{Word, WorkerPage};
use crate::sys::datagram::{self, LARGEST, Origin, sockaddr};
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd};

/// A datagram that has arrived. Its sender can be answered.
pub struct Datagram<'a> {
    worker: &'a Worker,
    socket: BorrowedFd<'a>,
    origin: &'a Origin,
    data: &'a [u8],
    listener: ListenerId,
    page: WorkerPage,
}

impl Datagram<'_> {
    /// Its bytes; it may be empty.
    pub fn data(&self) -> &[u8] {
        self.data
    }

    /// The sender's address, which can be forged: a server whose answers are much longer than the questions can be used to
    /// attack others.
    pub fn peer(&self) -> SocketAddr {
        self.origin.peer().unwrap_or((IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0).into())
    }

    /// The index of the listener it arrived at, from 0, in the order of the settings.
    pub fn listener(&self) -> u16 {
        self.listener.0
    }

    /// The worker that reads it.
    pub fn worker(&self) -> &Worker {
        self.worker
    }

    /// Sends a datagram to the sender, from the address this one was sent to. Any number of times.
    ///
    /// # Errors
    /// `WouldBlock` if too much waits to be sent already; those of sendmsg(2), such as for a datagram that is too large.
    pub fn reply(&self, bytes: &[u8]) -> io::Result<()> {
        datagram::reply(self.socket, bytes, self.origin)?;
        self.page.add(Word::BytesOut, bytes.len() as u64);
        Ok(())
    }

    pub(crate) fn peer_sockaddr(&self) -> *const sockaddr {
        self.origin.as_sockaddr()
    }
}

impl fmt::Debug for Datagram<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes from {}", self.data.len(), self.peer())
    }
}

/// Reads datagrams for a worker, one at a time, so that a worker that dies loses one. Reading several with one call
/// (recvmmsg(2)) would lose them all.
pub struct DatagramEngine {
    buffer: Vec<u8>,
    origin: Origin,
}

impl DatagramEngine {
    /// An engine that takes memory with the first datagram.
    pub fn new() -> Self {
        Self { buffer: Vec::new(), origin: Origin::new() }
    }

    /// Serves up to `most` datagrams of a socket. A read that fails ends the turn: the poll reports again what is left.
    pub fn serve(&mut self, socket: &OwnSocket, worker: &Worker, most: u32, cx: &mut Context<'_>) {
        self.buffer.resize(LARGEST, 0);
        for _ in 0..most {
            let Ok(n) = datagram::recv(socket.fd.as_fd(), &mut self.buffer, &mut self.origin) else { return };
            let datagram = Datagram {
                worker,
                socket: socket.fd.as_fd(),
                origin: &self.origin,
                data: &self.buffer[..n],
                listener: socket.listener,
                page: cx.page,
            };
            cx.page.add(Word::BytesIn, n as u64);
            let done = cx.call("on_datagram", |handler| handler.on_datagram(&datagram));
            cx.page.add(if done.is_some() { Word::Requests } else { Word::Errors }, 1);
        }
    }
}
