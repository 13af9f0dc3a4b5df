//! Datagrams: read one, call `on_datagram`, read the next. Unread ones stay in the master's socket, for any worker.

use super::call::Context;
use super::datagram::Datagram;
use super::failure::{PANICKED, report};
use super::own_sockets::OwnSocket;
use super::this_worker::Worker;
use crate::scoreboard::Word;
use crate::sys::crash;
use crate::sys::datagram::{self, LARGEST, Origin};
use std::io;
use std::os::fd::AsFd;

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
    ///
    /// # Errors
    /// That of the read; `WouldBlock` if there are no more.
    pub fn serve(
        &mut self,
        socket: &OwnSocket,
        worker: &Worker,
        most: u32,
        cx: &mut Context<'_>,
    ) -> io::Result<()> {
        self.buffer.resize(LARGEST, 0);
        for _ in 0..most {
            let n = datagram::recv(socket.fd.as_fd(), &mut self.buffer, &mut self.origin)?;
            let datagram = Datagram {
                worker,
                socket: socket.fd.as_fd(),
                origin: &self.origin,
                data: &self.buffer[..n],
                listener: socket.listener,
                page: cx.page,
            };
            cx.page.add(Word::BytesIn, n as u64);
            crash::note_sender(datagram.peer_sockaddr().cast());
            let done = cx.call("on_datagram", |handler| handler.on_datagram(&datagram));
            if done.is_none() {
                report("on_datagram", &datagram.client(), PANICKED);
            }
            cx.page.add(if done.is_some() { Word::Requests } else { Word::Errors }, 1);
        }
        Ok(())
    }
}
