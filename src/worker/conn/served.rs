//! A stream as the worker's loop and its engine have it: reading, sending, waiting, closing, and the buffers that streams share.

use super::{Conn, EndReason, FLUSH_AT, KEEP, Output, Slow, Style, mark};
use crate::ids::WorkerId;
use crate::scoreboard::Word;
use crate::sys::socket;
use crate::worker::engine::{Deadline, Next};
use crate::worker::handover::{Occasion, StreamState};
use mio::Token;
use std::io;

/// The most free buffers of streams that are kept, inputs and outputs each.
const KEPT: usize = 128;
/// The least room for one read of a stream.
const READ_SIZE: usize = 16 * 1024;

impl Conn {
    /// Stream: the token under which the loop knows it.
    pub(crate) fn set_token(&self, token: Token) {
        self.token.set(Some(token));
    }

    /// Stream: true if it was written to or closed and not served since.
    pub(crate) fn is_touched(&self) -> bool {
        self.is_touched.get()
    }

    /// Stream: adds bytes that were read already.
    pub(crate) fn preload(&self, bytes: &[u8]) {
        self.input.borrow_mut().extend_from_slice(bytes);
    }

    fn drop_consumed(&self) {
        self.input.borrow_mut().drain(..self.consumed.take());
    }

    /// Stream: reads what has arrived. `None` if nothing new has; otherwise true if the socket may hold more.
    pub(crate) fn fill(&self) -> io::Result<Option<bool>> {
        self.drop_consumed();
        let Style::Stream { unread, unsent } = self.style else { return Ok(None) };
        let mut input = self.input.borrow_mut();
        if input.len() >= unread {
            return Err(io::ErrorKind::OutOfMemory.into());
        }
        input.reserve(READ_SIZE);
        // What is read at once can be sent back at once.
        let room = (input.capacity() - input.len()).min(mark(unsent).max(1));
        match self.call(|fd| socket::recv_append_up_to(fd, &mut input, room)) {
            Ok(0) => {
                self.at_end.set(true);
                Ok(Some(false))
            }
            Ok(n) => {
                self.page.add(Word::BytesIn, n as u64);
                Ok(Some(n == room))
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Stream: sends as much of what was written as the client takes.
    pub(crate) fn flush(&self) -> io::Result<()> {
        if self.is_arriving.get() {
            return Ok(());
        }
        let mut output = self.output.borrow_mut();
        let Output { bytes, sent } = &mut *output;
        while *sent < bytes.len() {
            match self.call(|fd| socket::send(fd, &bytes[*sent..])) {
                Ok(n) => {
                    *sent += n;
                    self.progress.set(true);
                    self.page.add(Word::BytesOut, n as u64);
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    if *sent >= FLUSH_AT && *sent > bytes.len() / 2 {
                        bytes.drain(..*sent);
                        *sent = 0;
                    }
                    return Ok(());
                }
                Err(e) => {
                    self.broken.set(true);
                    self.note_failure(&e);
                    return Err(e);
                }
            }
        }
        bytes.clear();
        *sent = 0;
        Ok(())
    }

    /// Stream: notes that it ends because a call has failed, which may be the client's doing.
    pub(crate) fn note_failure(&self, e: &io::Error) {
        use io::ErrorKind::{BrokenPipe, ConnectionReset, TimedOut};
        let by_client = matches!(e.kind(), BrokenPipe | ConnectionReset | TimedOut);
        self.note_end(if by_client { EndReason::Client } else { EndReason::Error });
    }

    /// Stream: the worker ends, and closes it once everything is sent. False if that was said before.
    pub(crate) fn close_for_end(&self) -> bool {
        self.closing.set(true);
        self.end_reason.replace(Some(EndReason::Worker)) != Some(EndReason::Worker)
    }

    /// Stream: true if bytes wait for the client to take them.
    pub(crate) fn has_output(&self) -> bool {
        self.pending() > 0
    }

    /// Stream: true if so little output waits that more input may be read, and a write that was refused would be taken.
    pub(crate) fn has_room(&self) -> bool {
        let Style::Stream { unsent, .. } = self.style else { return true };
        let waiting = self.pending();
        waiting <= mark(unsent) && waiting.saturating_add(self.refused.get()) <= unsent
    }

    /// Stream: reads nothing more until there is room.
    pub(crate) fn pause(&self) {
        self.paused.set(true);
    }

    /// Stream: true if it has room again and something waits for that.
    pub(crate) fn can_resume(&self) -> bool {
        !self.closing.get()
            && (self.paused.get() && !self.is_held.get() || self.is_owed() || self.wants_room.get())
            && self.has_room()
    }

    /// Stream: true if the handler is to be called when there is room, whether anything has arrived or not: it has left input. At
    /// the end of the client's side nothing else would have it finish its answer.
    fn is_owed(&self) -> bool {
        let has_data = self.consumed.get() < self.input.borrow().len();
        self.refused.get() > 0 && (self.at_end() || has_data) || self.is_owed.get() && has_data
    }

    /// Stream: true once for each refused write that would be taken now.
    pub(crate) fn takes_room(&self) -> bool {
        self.wants_room.get() && self.has_room() && self.wants_room.replace(false)
    }

    /// Stream: the handler is about to be called. Returns true if it was owed this call.
    pub(crate) fn begin_call(&self) -> bool {
        let was_owed = self.is_owed();
        self.paused.set(false);
        self.is_owed.set(false);
        self.refused.set(0);
        was_owed
    }

    /// Stream: the handler has returned.
    pub(crate) fn end_call(&self) {
        self.is_owed.set(!self.has_room());
    }

    /// Stream: true if the client of a stream that stays half open has gone since. A read does not tell: after the end it returns 0.
    pub(crate) fn is_gone(&self) -> bool {
        self.is_half_open.get() && self.with_fd(socket::is_broken).unwrap_or(true)
    }

    /// Stream: true if the handler has closed it.
    pub(crate) fn is_closing(&self) -> bool {
        self.closing.get()
    }

    /// Stream: notes if the client has ended its side.
    pub(crate) fn set_end(&self, at_end: bool) {
        self.at_end.set(at_end);
    }

    /// Stream: true if nothing more is to be read, written or sent.
    pub(crate) fn is_done(&self) -> bool {
        let ends = || self.at_end() && !self.is_half_open.get() && !self.is_owed();
        !self.has_output() && (self.closing.get() || ends())
    }

    /// Closes it now that everything is sent: at once if the client has ended its side, else in stages. If something could not be sent,
    /// the client learns of it by a reset.
    pub(crate) fn close_in_stages(&self) -> Next {
        if self.broken.get() {
            let _ = self.call(socket::reset_on_close);
            return Next::Close;
        }
        if !self.at_end() && self.call(socket::shutdown_write).is_ok() { Next::Linger } else { Next::Close }
    }

    /// Stream: waits for the client, under the deadline that applies.
    pub(crate) fn wait(&self) -> Next {
        self.is_touched.set(false);
        let write = self.has_output();
        let deadline = if write { Deadline::Write } else { Deadline::Quiet };
        Next::Wait { write, progress: self.progress.take(), deadline }
    }

    /// Stream: true if the handler is to be asked on this occasion whether it goes to another worker.
    pub(crate) fn may_go(&self, occasion: Occasion) -> bool {
        self.asked.get() < occasion && !self.closing.get() && !self.broken.get()
    }

    /// Stream: the handler was asked; or it has come back, and stays.
    pub(crate) fn set_asked(&self, occasion: Occasion) {
        self.asked.set(occasion);
    }

    /// Stream: true if the handler transfers it.
    pub(crate) fn has_goal(&self) -> bool {
        self.goes_to.get().is_some()
    }

    /// Stream: the worker to which the handler transfers it, once; `None` is any.
    pub(crate) fn take_goal(&self) -> Option<WorkerId> {
        self.goes_to.take().filter(|id| id.0 > 0)
    }

    /// Stream: the handler is to be called with what it has left, even if nothing more arrives.
    pub(crate) fn set_owed(&self) {
        self.is_owed.set(true);
    }

    /// Stream: sets whether the handler is about to take it over, and nothing is sent.
    pub(crate) fn set_arriving(&self, is_arriving: bool) {
        self.is_arriving.set(is_arriving);
    }

    /// Stream: what the worker to which it goes needs to know beside what `state` has.
    pub(crate) fn write_down(&self, state: StreamState) -> StreamState {
        self.drop_consumed();
        let Output { bytes, sent } = &*self.output.borrow();
        StreamState {
            is_owed: self.is_owed(),
            unread: self.input.borrow().clone(),
            unsent: bytes[*sent..].to_vec(),
            refused: self.refused.get() as u64,
            at_end: self.at_end(),
            is_half_open: self.is_half_open.get(),
            is_held: self.is_held.get(),
            wants_room: self.wants_room.get(),
            is_reset_if_slow: self.slow.get() == Slow::Close,
            is_closing: self.closing.get(),
            is_broken: self.broken.get(),
            ..state
        }
    }

    /// Stream: goes on with what another worker has written down.
    pub(crate) fn restore(&self, state: &StreamState) {
        self.input.borrow_mut().extend_from_slice(&state.unread);
        self.output.borrow_mut().bytes.extend_from_slice(&state.unsent);
        self.is_owed.set(state.is_owed);
        self.refused.set(usize::try_from(state.refused).unwrap_or(usize::MAX));
        self.at_end.set(state.at_end);
        self.is_half_open.set(state.is_half_open);
        self.is_held.set(state.is_held);
        self.wants_room.set(state.wants_room);
        self.slow.set(if state.is_reset_if_slow { Slow::Close } else { Slow::Skip });
    }

    /// Stream: it was closed, or has broken, when its last worker had asked its handler.
    pub(crate) fn restore_end(&self, state: &StreamState) {
        if state.is_closing {
            self.close();
        }
        if state.is_broken {
            self.broken.set(true);
            self.closing.set(true);
            self.note_end(EndReason::Error);
        }
    }

    /// Stream: returns the buffers that are empty to the pool.
    pub(crate) fn release_buffers(&self, pool: &mut Buffers) {
        self.drop_consumed();
        let (mut input, mut output) = (self.input.borrow_mut(), self.output.borrow_mut());
        for (buffer, kept) in [&mut *input, &mut output.bytes].into_iter().zip(&mut pool.0) {
            if buffer.is_empty() && (1..=KEEP).contains(&buffer.capacity()) && kept.len() < KEPT {
                kept.push(std::mem::take(buffer));
            }
        }
    }

    /// Stream: takes the buffers that it lacks from the pool.
    pub(crate) fn borrow_buffers(&self, pool: &mut Buffers) {
        let (mut input, mut output) = (self.input.borrow_mut(), self.output.borrow_mut());
        for (buffer, kept) in [&mut *input, &mut output.bytes].into_iter().zip(&mut pool.0) {
            if buffer.capacity() == 0 {
                *buffer = kept.pop().unwrap_or_default();
            }
        }
    }
}

/// The pool of buffers for streams; idle streams own none. Inputs and outputs apart, because inputs need more room than most
/// outputs, and a buffer that changed between the two would grow again.
#[derive(Default)]
pub(crate) struct Buffers([Vec<Vec<u8>>; 2]);
