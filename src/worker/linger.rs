//! The end of a connection whose client may still send: the sending side is shut down, and what arrives is read and dropped until
//! the client closes too, or its time is up. Bytes left unread would make the kernel reset the connection, and bytes that arrive
//! after close(2) have it do so too; a reset destroys what is on its way to the client (RFC 9112 section 9.6).

use super::call::Context;
use super::engine::{Deadline, Next};
use super::http::closing::LINGER;
use crate::scoreboard::Word;
use crate::sys::socket;
use crate::sys::time::Time;
use std::os::fd::BorrowedFd;

/// Reads of one connection in one turn.
const READS: usize = 16;
/// Bytes of one read: few, since there is rarely anything and the room has to be cleared.
const SCRAP: usize = 4096;

/// Reads and drops what has arrived at a connection that has lingered since a time.
pub fn linger(fd: BorrowedFd<'_>, since: Time, cx: &Context<'_>) -> Next {
    if *cx.now - since >= LINGER { Next::Close } else { drop_input(fd, cx) }
}

/// Reads and drops what has arrived.
pub fn drop_input(fd: BorrowedFd<'_>, cx: &Context<'_>) -> Next {
    let mut scrap = [0; SCRAP];
    for _ in 0..READS {
        match socket::recv(fd, &mut scrap) {
            Ok(n) if n > 0 => cx.page.add(Word::BytesIn, n as u64),
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {
                return Next::Wait { write: false, progress: false, deadline: Deadline::Linger };
            }
            _ => return Next::Close,
        }
    }
    Next::Again
}
