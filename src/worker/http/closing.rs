//! The end of a connection, or of its life as an HTTP connection, once everything is sent (RFC 9112 section 9.6).

use super::conn::Phase;
use super::input::Input;
use super::{HttpEngine, Link, READS};
use crate::sys::socket;
use crate::worker::engine::Next;

/// The bytes read and dropped at most before the connection is closed, even if that resets it and destroys the last response.
pub(super) const LINGER: usize = 16 * 1024 * 1024;

impl HttpEngine {
    /// Continues a connection that is no longer open and has nothing left to send.
    pub(super) fn finish(&mut self, link: &mut Link<'_, '_>) -> Next {
        match link.conn.phase {
            Phase::Open => link.conn.wait(),
            Phase::Closing => Next::Close,
            Phase::ClosingSlowly => {
                if socket::shutdown_write(link.fd).is_err() {
                    return Next::Close;
                }
                link.conn.phase = Phase::Lingering;
                link.conn.has_more = true;
                self.linger(link)
            }
            Phase::Lingering => self.linger(link),
            Phase::Upgrading => {
                Next::Upgrade(link.conn.input.as_ref().map_or_else(Vec::new, |input| input.rest().to_vec()))
            }
        }
    }

    fn linger(&mut self, link: &mut Link<'_, '_>) -> Next {
        let mut scratch = Input::new(std::mem::take(&mut self.scratch));
        let mut reads = 0;
        let next = loop {
            if !link.conn.has_more {
                break link.conn.wait();
            }
            if reads == READS {
                break Next::Again;
            }
            reads += 1;
            scratch.clear();
            let Ok(Some(n)) = link.receive(&mut scratch) else { break Next::Close };
            link.conn.dropped += n as u32;
            if link.conn.dropped as usize > LINGER {
                break Next::Close;
            }
        };
        self.scratch = scratch.buf;
        next
    }
}
