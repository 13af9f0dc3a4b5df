//! Datagrams: read one, `on_datagram`, the next. What is not read yet lies in the master's socket, for whoever comes.

use super::Worker;
use super::engine::Context;
use super::own_sockets::OwnSocket;
use crate::scoreboard::{Word, WorkerPage};
use crate::sys::datagram::{self, LARGEST, Origin, sockaddr};
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd};

/// A datagram that has come, with the way back to its sender.
pub struct Datagram<'a> {
    worker: &'a Worker,
    socket: BorrowedFd<'a>,
    origin: &'a Origin,
    data: &'a [u8],
    listener: u16,
    page: WorkerPage,
}

impl Datagram<'_> {
    /// Its bytes; there may be none.
    pub fn data(&self) -> &[u8] {
        self.data
    }

    /// The sender. Anybody can write anything there: an answer much longer than the question makes this server a weapon.
    pub fn peer(&self) -> SocketAddr {
        self.origin.peer().unwrap_or((IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0).into())
    }

    /// The index, from 0, of the address it came to, in the order they were given.
    pub fn listener(&self) -> u16 {
        self.listener
    }

    /// The worker this is.
    pub fn worker(&self) -> &Worker {
        self.worker
    }

    /// Sends a datagram back, from the address this one was sent to. May be called more than once, or not at all.
    ///
    /// # Errors
    /// `WouldBlock` where too much waits to be sent already; what sendmsg(2) says, for instance of one that is too large.
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

/// Reads datagrams for a worker, one at a time: a worker that dies costs the one it was at. Reading several by one call
/// (recvmmsg(2)) would cost them all.
pub struct DatagramEngine {
    buffer: Vec<u8>,
    origin: Origin,
}

impl DatagramEngine {
    /// Takes memory with the first datagram.
    pub fn new() -> Self {
        Self { buffer: Vec::new(), origin: Origin::new() }
    }

    /// Serves what has come to a socket, up to `most` datagrams. A read that fails ends the turn: what is there is reported again.
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
            let done = cx.call(|handler| handler.on_datagram(&datagram));
            cx.page.add(if done.is_some() { Word::Requests } else { Word::Errors }, 1);
        }
    }
}
