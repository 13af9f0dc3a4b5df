//! A datagram that has arrived, as its handler sees it.

use super::this_worker::Worker;
use crate::ids::ListenerId;
use crate::scoreboard::{Word, WorkerPage};
use crate::sys::datagram::{self, Origin, sockaddr};
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::BorrowedFd;

/// A datagram that has arrived. Its sender can be answered.
pub struct Datagram<'a> {
    pub(super) worker: &'a Worker,
    pub(super) socket: BorrowedFd<'a>,
    pub(super) origin: &'a Origin,
    pub(super) data: &'a [u8],
    pub(super) listener: ListenerId,
    pub(super) page: WorkerPage,
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

    /// The sender, for the log.
    pub(crate) fn client(&self) -> String {
        format!("client {}", self.peer())
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
