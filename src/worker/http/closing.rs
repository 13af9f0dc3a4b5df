//! The end of a connection, or of its life as an HTTP connection, once everything is sent (RFC 9112 section 9.6).

use super::conn::Phase;
use super::{HttpEngine, Link, READS};
use crate::sys::socket;
use crate::worker::engine::Next;
use std::io;
use std::time::Duration;

/// The time in which what a client sends is read and dropped, before the connection is closed even if that resets it and destroys
/// the last response. Also ends when the client pauses (`deadlines.rs`).
pub(in crate::worker) const LINGER: Duration = Duration::from_secs(30);
/// The most bytes of a connection that the kernel puts on the wire without waiting for the client (RFC 6928): a later reset
/// cannot take them back.
const AT_ONCE: u32 = 14_600;

impl HttpEngine {
    /// Continues a connection that is no longer open and has nothing left to send.
    pub(super) fn finish(&mut self, link: &mut Link<'_, '_>) -> Next {
        match link.conn.phase {
            Phase::Open => link.conn.wait(),
            Phase::Cut => Next::Close,
            // Nothing follows the client's end.
            Phase::Closing if link.conn.client_ended && !link.conn.has_more => Next::Close,
            phase @ (Phase::Closing | Phase::ClosingSlowly) => {
                // Sends the response before anything that arrives from now on can make the close a reset.
                if socket::shutdown_write(link.fd).is_err() {
                    return Next::Close;
                }
                link.conn.phase = Phase::Lingering;
                link.conn.has_more = true;
                let may_close = phase == Phase::Closing && link.conn.sent <= AT_ONCE;
                if may_close && !matches!(self.drop_unread(link), Ok(Some(1..))) {
                    return Next::Close;
                }
                link.conn.since = *link.cx.now;
                self.linger(link)
            }
            Phase::Lingering => self.linger(link),
            Phase::Upgrading => {
                let (read, user) =
                    link.conn.input.as_mut().map(|i| (i.rest().to_vec(), i.user.take())).unwrap_or_default();
                Next::Upgrade { read, user }
            }
        }
    }

    fn linger(&mut self, link: &mut Link<'_, '_>) -> Next {
        if *link.cx.now - link.conn.since >= LINGER {
            return Next::Close;
        }
        for _ in 0..READS {
            if !link.conn.has_more {
                return link.conn.wait();
            }
            let Ok(Some(_)) = self.drop_unread(link) else { return Next::Close };
        }
        Next::Again
    }

    /// Reads once, as [`Link::receive`], and drops what it has read.
    fn drop_unread(&mut self, link: &mut Link<'_, '_>) -> io::Result<Option<usize>> {
        let mut scratch = self.take_scratch();
        let received = link.receive(&mut scratch);
        self.return_scratch(scratch);
        received
    }
}
