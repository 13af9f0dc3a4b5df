//! A client that reads as much at a time as it is told, and keeps it.

use super::client::Address;
use socket2::{Domain, SockAddr, Socket, Type};
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::time::Duration;

/// Longer than any wait that is due.
const PATIENCE: Duration = Duration::from_secs(20);

/// A connection whose reads and writes end after [`PATIENCE`], with a receive buffer of this size.
pub fn connect(address: &Address, buffer: Option<usize>) -> io::Result<Socket> {
    let (domain, address) = match address {
        Address::Tcp(a) => (Domain::for_address(*a), SockAddr::from(*a)),
        Address::Unix(path) => (Domain::UNIX, SockAddr::unix(path)?),
        Address::Udp(_) => panic!("no connections there"),
    };
    let socket = Socket::new(domain, Type::STREAM, None)?;
    if let Some(size) = buffer {
        socket.set_recv_buffer_size(size)?;
    }
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.set_write_timeout(Some(PATIENCE))?;
    socket.connect(&address)?;
    Ok(socket)
}

pub struct Reader {
    socket: Socket,
    pub read: Vec<u8>,
}

impl Reader {
    pub fn connect(address: &Address) -> Self {
        Self::connect_with(address, None)
    }

    /// With a receive buffer of this size.
    pub fn connect_with(address: &Address, buffer: Option<usize>) -> Self {
        Self { socket: connect(address, buffer).unwrap(), read: Vec::new() }
    }

    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.socket.write_all(bytes)
    }

    /// Reads once; false at the end.
    pub fn step(&mut self, size: usize) -> io::Result<bool> {
        let at = self.read.len();
        self.read.resize(at + size, 0);
        let n = self.socket.read(&mut self.read[at..]);
        self.read.truncate(at + n.as_ref().copied().unwrap_or(0));
        n.map(|n| n > 0)
    }

    /// The rest up to the end of the connection, which must not be a reset.
    pub fn rest(&mut self) -> io::Result<()> {
        while self.step(1 << 16)? {}
        Ok(())
    }

    pub fn half_close(&self) {
        let _ = self.socket.shutdown(Shutdown::Write);
    }
}
