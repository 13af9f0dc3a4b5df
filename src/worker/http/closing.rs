//! How a connection ends, or changes its protocol, once everything is sent (RFC 9112 section 9.6).

use super::conn::{Phase, wait};
use super::input::Fill;
use super::{HttpEngine, Link, READS};
use crate::scoreboard::Word;
use crate::sys::socket;
use crate::worker::engine::{Context, Next};

/// What is read and dropped, so that the last response is not lost to a reset, before the connection is given up.
pub(super) const LINGER: usize = 16 * 1024 * 1024;

impl HttpEngine {
    /// Everything is sent, and no further request is read.
    pub(super) fn leave(&mut self, link: &mut Link<'_>, cx: &mut Context<'_>) -> Next {
        match link.conn.phase {
            Phase::Open => wait(link.conn),
            Phase::Closing => Next::Close,
            Phase::Staged => {
                if socket::shutdown_write(link.fd).is_err() {
                    return Next::Close;
                }
                link.conn.phase = Phase::Lingering;
                link.conn.more = true;
                self.linger(link, cx)
            }
            Phase::Lingering => self.linger(link, cx),
            Phase::Upgrading => {
                let input = link.conn.input.take();
                let early = input.as_ref().map_or_else(Vec::new, |input| input.rest().to_vec());
                if let Some(input) = input {
                    self.inputs.put(input);
                }
                Next::Upgrade(early)
            }
        }
    }

    fn linger(&mut self, link: &mut Link<'_>, cx: &mut Context<'_>) -> Next {
        let Some(scratch) = &mut self.scratch else { return Next::Close };
        for _ in 0..READS {
            if !link.conn.more {
                return wait(link.conn);
            }
            scratch.clear();
            match scratch.fill(link.fd) {
                Ok(Fill::Bytes(n, full)) => {
                    cx.page.add(Word::BytesIn, n as u64);
                    link.conn.dropped = link.conn.dropped.saturating_add(n as u32);
                    link.conn.more = full || link.conn.ended;
                }
                Ok(Fill::Empty) => link.conn.more = false,
                Ok(Fill::End) | Err(_) => return Next::Close,
            }
            if link.conn.dropped as usize > LINGER {
                return Next::Close;
            }
        }
        Next::Again
    }
}
