//! The deadline of a worker that drains: what it still has ends, in order. Streams are closed as if their handler had done it, and have
//! `on_close` called; what was written is sent as far as clients take it in a moment; then the worker exits.

use super::{Cause, EventLoop};
use crate::scoreboard::Word;
use crate::sys::socket;
use crate::worker::table::Protocol;
use std::time::Duration;

/// The time from the deadline in which clients can take what was written: less than the master waits before it kills.
pub(super) const LAST_MOMENT: Duration = Duration::from_millis(500);

/// What becomes of a connection at the deadline.
enum Rest {
    /// It is closed.
    Close { is_cut: bool },
    /// A stream: its handler gets `on_close`, once everything is sent.
    CloseStream,
    /// It has until the last moment.
    Stay,
}

impl EventLoop<'_> {
    /// Begins the end if the deadline has come.
    pub(super) fn begin_end_if_due(&mut self) {
        let Some(until) = self.channel.orders.drain.filter(|until| self.drain_begun && *until <= self.now)
        else {
            return;
        };
        if self.moves.have_more() && self.now < until + LAST_MOMENT / 2 {
            // Those that can go to other workers do.
            return;
        }
        if !std::mem::replace(&mut self.is_ending, true) {
            for index in self.table.indexes() {
                self.begin_end(index);
            }
        }
    }

    /// The deadline has come for a connection.
    pub(super) fn begin_end(&mut self, index: u32) {
        let rest = match &self.table.row(index).protocol {
            Protocol::Free | Protocol::Lingering(..) => Rest::Stay,
            Protocol::Stream(conn) => {
                conn.close_for_end();
                Rest::CloseStream
            }
            Protocol::Later(answering) => {
                if answering.would_look_complete() {
                    self.reset_on_close(index);
                }
                Rest::Close { is_cut: true }
            }
            Protocol::Http(_, conn) if conn.is_answered() => Rest::Stay,
            Protocol::Http(_, conn) => Rest::Close { is_cut: !conn.is_idle() },
        };
        match rest {
            Rest::Stay => {}
            Rest::Close { is_cut } => self.cut(index, is_cut),
            Rest::CloseStream => {
                self.count_cut();
                self.run(index, Cause::Writable);
            }
        }
    }

    /// Ends what is left at the last moment, or when the loop has failed.
    pub(super) fn end_rest(&mut self) {
        self.lose_leaving();
        for index in self.table.indexes() {
            let is_cut = match &self.table.row(index).protocol {
                Protocol::Free => continue,
                Protocol::Lingering(..) => false,
                Protocol::Stream(conn) => conn.close_for_end(),
                Protocol::Later(_) => true,
                Protocol::Http(_, conn) => {
                    let (is_unsent, is_last) = (conn.has_unsent(), conn.is_last());
                    if is_unsent && is_last {
                        // Its length may be known by this end alone.
                        self.reset_on_close(index);
                    }
                    is_unsent
                }
            };
            self.cut(index, is_cut);
        }
    }

    fn cut(&mut self, index: u32, is_cut: bool) {
        if is_cut {
            self.count_cut();
        }
        self.close(index);
    }

    pub(super) fn count_cut(&self) {
        self.worker.info.page.add(Word::Cut, 1);
    }

    fn reset_on_close(&mut self, index: u32) {
        self.table.row(index).protocol.with_fd(|fd| drop(socket::reset_on_close(fd)));
    }
}
