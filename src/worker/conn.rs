//! One connection as a handler sees it that reads and writes bytes itself: in blocking style, or as a stream.

use crate::sys::socket;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// A connection whose bytes a handler reads and writes itself.
///
/// In blocking style ([`crate::Handler::on_connection`]) `read` and `write` wait, up to their deadlines. As a stream
/// ([`crate::Handler::on_data`]) they never wait: `read` gives what has arrived, `write` keeps what the client does not take yet.
pub struct Conn {
    fd: OwnedFd,
}

impl Conn {
    /// Reads up to `buf.len()` bytes; 0 at end of file.
    ///
    /// # Errors
    /// `WouldBlock`: as a stream, nothing more has arrived. `TimedOut`: in blocking style, nothing came within
    /// [`crate::config::Timeouts::body`] (the first read: [`crate::config::Timeouts::header`]). Otherwise what recv(2) says.
    pub fn read(&mut self, _buf: &mut [u8]) -> io::Result<usize> {
        todo!()
    }

    /// Writes all of `bytes`.
    ///
    /// # Errors
    /// `TimedOut`: in blocking style, the client took nothing within [`crate::config::Timeouts::write`].
    /// `OutOfMemory`: as a stream, more than [`crate::config::Limits::pending`] bytes wait already. Otherwise what send(2) says.
    pub fn write(&mut self, _bytes: &[u8]) -> io::Result<()> {
        todo!()
    }

    /// As a stream: the bytes that have arrived and were not consumed yet; they stay until [`Conn::consume`]. Empty in
    /// blocking style.
    pub fn data(&self) -> &[u8] {
        todo!()
    }

    /// As a stream: drops the first `n` bytes of [`Conn::data`] (all where there are fewer).
    pub fn consume(&mut self, _n: usize) {
        todo!()
    }

    /// As a stream: whether the client has ended its side and all of its bytes have been read.
    pub fn at_end(&self) -> bool {
        todo!()
    }

    /// As a stream: closes when what was written has been sent. In blocking style the connection closes when the handler returns.
    pub fn close(&mut self) {
        todo!()
    }

    /// A number that no other connection of this worker has had.
    pub fn id(&self) -> u64 {
        todo!()
    }

    /// The index, from 0, of the listener this connection came through, in the order they were given.
    pub fn listener(&self) -> u16 {
        todo!()
    }

    /// The client's address: `192.0.2.1:4711`, `[2001:db8::1]:4711`, `unix:`; empty where the kernel no longer knows it.
    pub fn peer(&self) -> &str {
        todo!()
    }

    /// A value of the handler's own for this connection.
    pub fn user(&mut self) -> &mut Option<Box<dyn std::any::Any>> {
        todo!()
    }
}

impl AsFd for Conn {
    fn as_fd(&self) -> BorrowedFd<'_> {
        let _ = socket::peer_address;
        self.fd.as_fd()
    }
}
