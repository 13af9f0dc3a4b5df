//! A connection whose bytes a handler reads and writes itself: in blocking style, or as a stream.

use super::engine::{Deadline, Next};
use crate::config::Config;
use crate::event::Kind;
use crate::ids::ListenerId;
use crate::scoreboard::{Word, WorkerPage};
use crate::sys::socket;
use mio::Token;
use std::any::Any;
use std::cell::{Cell, OnceCell, RefCell};
use std::ffi::c_void;
use std::fmt::Write as _;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::time::Duration;

/// A stream's output beyond this is sent before the handler returns.
const FLUSH_AT: usize = 64 * 1024;
/// Buffers that grew beyond this are not kept for the next connection.
const KEEP: usize = 256 * 1024;
/// The most free buffers of streams that are kept, inputs and outputs each.
const KEPT: usize = 128;
/// The least room for one read of a stream.
const READ_SIZE: usize = 16 * 1024;

/// The streams of a worker that were written to or closed and not served since, in whatever callback that was.
pub(crate) type Touched = Rc<RefCell<Vec<Token>>>;

/// Returns how much output may wait at most while a stream is read: half of what may wait in all. The rest is for the answer to
/// what was read last.
fn mark(unsent: usize) -> usize {
    unsent / 2
}

/// A connection whose bytes a handler reads and writes itself.
///
/// In blocking style ([`crate::Handler::on_connection`]) `read` and `write` wait, up to their deadlines. As a stream
/// ([`crate::Handler::on_data`]) they never wait: `read` returns what has arrived, `write` keeps what the client does not take
/// yet. The descriptor ([`AsFd`]) is a blocking socket unless the handler changes that.
pub struct Conn {
    /// `None` while this value has no connection; no handler sees it then.
    fd: Option<OwnedFd>,
    page: WorkerPage,
    style: Style,
    id: u64,
    listener: ListenerId,
    has_read: bool,
    input: Vec<u8>,
    consumed: usize,
    output: Vec<u8>,
    sent: usize,
    at_end: bool,
    closing: bool,
    broken: bool,
    /// The last error of a call that is the client's fault.
    fault: Option<String>,
    /// Nothing is read until there is room for output; the poll does not report again what arrives meanwhile.
    paused: bool,
    /// The handler is to be called again when there is room, because it may have left input for want of it.
    is_owed: bool,
    /// The size of a write that was refused for want of room; 0 if none was.
    refused: usize,
    /// The connection's token, under which writes and the close are reported to `touched`; `None` before it has one.
    token: Option<Token>,
    touched: Touched,
    /// True if it is among `touched`.
    is_touched: bool,
    /// The client has taken bytes since the last [`Conn::wait`].
    progress: bool,
    peer: OnceCell<String>,
    /// The buffer of a former connection's address, for the next one.
    peer_buffer: Cell<String>,
    user: Option<Box<dyn Any>>,
    user_pointer: *mut c_void,
}

/// The way a connection reads and writes, with the settings for it.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Style {
    /// Waits, each time up to a limit; `None` is forever.
    Blocking { first: Option<Duration>, read: Option<Duration>, write: Option<Duration> },
    /// Never waits; keeps at most these numbers of bytes.
    Stream { unread: usize, unsent: usize },
}

impl Style {
    pub(crate) fn of(kind: Kind, config: &Config) -> Self {
        let (t, limits) = (&config.timeouts, &config.limits);
        if kind == Kind::Blocking {
            let some = |d: Duration| (!d.is_zero()).then_some(d);
            return Self::Blocking { first: some(t.header), read: some(t.body), write: some(t.write) };
        }
        let unread = usize::try_from(limits.body).unwrap_or(usize::MAX);
        Self::Stream { unread, unsent: limits.pending }
    }
}

impl Conn {
    /// A value without a connection.
    pub(crate) fn new(style: Style, page: WorkerPage, touched: Touched) -> Self {
        Self {
            fd: None,
            page,
            style,
            id: 0,
            listener: ListenerId(0),
            has_read: false,
            input: Vec::new(),
            consumed: 0,
            output: Vec::new(),
            sent: 0,
            at_end: false,
            closing: false,
            broken: false,
            fault: None,
            paused: false,
            is_owed: false,
            refused: 0,
            token: None,
            touched,
            is_touched: false,
            progress: false,
            peer: OnceCell::new(),
            peer_buffer: Cell::default(),
            user: None,
            user_pointer: std::ptr::null_mut(),
        }
    }

    /// Makes this the value of a connection.
    pub(crate) fn begin(&mut self, fd: OwnedFd, id: u64, listener: ListenerId) {
        (self.fd, self.id, self.listener) = (Some(fd), id, listener);
    }

    /// Gives up the connection and keeps nothing of it except the buffers.
    pub(crate) fn end(&mut self) -> Option<OwnedFd> {
        let fd = self.fd.take();
        let [input, output] = self.buffers().map(|buffer| {
            buffer.clear();
            buffer.shrink_to(KEEP);
            std::mem::take(buffer)
        });
        let mut address = self.peer.take().unwrap_or_else(|| self.peer_buffer.take());
        address.clear();
        let peer_buffer = Cell::new(address);
        let new = Self::new(self.style, self.page, Rc::clone(&self.touched));
        *self = Self { input, output, peer_buffer, ..new };
        fd
    }

    fn buffers(&mut self) -> [&mut Vec<u8>; 2] {
        [&mut self.input, &mut self.output]
    }

    /// Reads up to `buf.len()` bytes; 0 at end of file.
    ///
    /// # Errors
    /// `WouldBlock`: as a stream, nothing more has arrived. `TimedOut`: in blocking style, nothing arrived within
    /// [`crate::config::Timeouts::body`] (the first read: [`crate::config::Timeouts::header`]). Those of recv(2).
    pub fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let read = self.read_some(buf);
        self.noted(read)
    }

    fn read_some(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self.style {
            Style::Blocking { first, read, .. } => {
                let timeout = if self.has_read { read } else { first };
                let n = self.waiting(false, timeout, |fd| socket::recv(fd, buf))?;
                self.has_read = true;
                self.at_end |= n == 0 && !buf.is_empty();
                self.page.add(Word::BytesIn, n as u64);
                Ok(n)
            }
            Style::Stream { .. } => {
                let n = buf.len().min(self.data().len());
                if n == 0 && !self.at_end && !buf.is_empty() {
                    return Err(io::ErrorKind::WouldBlock.into());
                }
                buf[..n].copy_from_slice(&self.data()[..n]);
                self.consume(n);
                Ok(n)
            }
        }
    }

    /// Writes all of `bytes`.
    ///
    /// # Errors
    /// `TimedOut`: in blocking style, the client took nothing within [`crate::config::Timeouts::write`]; the connection is reset when the
    /// handler returns.
    /// `OutOfMemory`: as a stream, more than [`crate::config::Limits::pending`] bytes would wait for a slow client; none of
    /// `bytes` was taken. Leave unconsumed what is not answered yet: [`crate::Handler::on_data`] is called again when there is
    /// room. Those of send(2).
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let written = self.write_all(bytes);
        self.noted(written)
    }

    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self.style {
            Style::Blocking { write, .. } => {
                let mut rest = bytes;
                while !rest.is_empty() {
                    let sent = self.waiting(true, write, |fd| socket::send(fd, rest));
                    let n = sent.inspect_err(|_| self.broken = true)?;
                    self.page.add(Word::BytesOut, n as u64);
                    rest = &rest[n..];
                }
                Ok(())
            }
            Style::Stream { .. } if self.broken || self.closing => Err(io::ErrorKind::BrokenPipe.into()),
            Style::Stream { unsent, .. } => {
                self.touch();
                if self.waiting_output() + bytes.len() > unsent {
                    self.flush()?;
                }
                if self.waiting_output() + bytes.len() > unsent {
                    // More than can ever wait is not worth waiting for.
                    self.refused = if bytes.len() > unsent { 0 } else { bytes.len() };
                    return Err(io::ErrorKind::OutOfMemory.into());
                }
                self.output.extend_from_slice(bytes);
                if self.waiting_output() >= FLUSH_AT { self.flush() } else { Ok(()) }
            }
        }
    }

    /// Calls `f` until it does not return `WouldBlock`, and waits in between.
    fn waiting(
        &self,
        write: bool,
        timeout: Option<Duration>,
        mut f: impl FnMut(BorrowedFd<'_>) -> io::Result<usize>,
    ) -> io::Result<usize> {
        loop {
            match f(self.as_fd()) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => self.wait_ready(write, timeout)?,
                done => return done,
            }
        }
    }

    /// Waits until the client has sent bytes, or has taken so many that there is room. The time starts again whenever it has taken any.
    fn wait_ready(&self, write: bool, timeout: Option<Duration>) -> io::Result<()> {
        let mut unsent = if write { socket::unsent(self.as_fd()) } else { 0 };
        while !socket::wait_ready(self.as_fd(), write, timeout)? {
            let before = unsent;
            unsent = if write { socket::unsent(self.as_fd()) } else { 0 };
            if unsent >= before {
                return Err(io::ErrorKind::TimedOut.into());
            }
        }
        Ok(())
    }

    /// As a stream: the bytes that have arrived and were not consumed yet, at most [`crate::config::Limits::body`]. They stay
    /// until [`Conn::consume`]. Empty in blocking style.
    pub fn data(&self) -> &[u8] {
        &self.input[self.consumed..]
    }

    /// As a stream: drops the first `n` bytes of [`Conn::data`], or all if there are fewer.
    pub fn consume(&mut self, n: usize) {
        self.consumed = self.consumed.saturating_add(n).min(self.input.len());
    }

    /// As a stream: true if the client has ended its side; no bytes follow those of [`Conn::data`].
    pub fn at_end(&self) -> bool {
        self.at_end
    }

    /// Closes the connection: as a stream, when everything written has been sent; in blocking style, when the handler returns,
    /// as happens in any case.
    pub fn close(&mut self) {
        self.closing = true;
        self.touch();
    }

    /// A number that no other connection of this worker has had, from 1.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// The index of the listener this connection came through, from 0, in the order of the settings.
    pub fn listener(&self) -> u16 {
        self.listener.0
    }

    /// The client's address, as [`crate::Request::peer`] gives it. The first call asks the kernel (getpeername(2)).
    pub fn peer(&self) -> &str {
        self.peer.get_or_init(|| {
            let mut text = self.peer_buffer.take();
            if let Ok(address) = socket::peer_address(self.as_fd()) {
                // Writing to a string does not fail.
                let _ = write!(text, "{address}");
            }
            text
        })
    }

    /// The client, for the log. After a reset the kernel may not know its address any more.
    pub(crate) fn client(&self) -> String {
        format!("client {}", self.peer())
    }

    /// True if a reason of the handler's to fail is the client's fault, which a call has told it: the client was silent, took nothing,
    /// or has gone. That is no failure of the handler.
    pub(crate) fn has_told(&self, reason: &str) -> bool {
        self.fault.as_deref().is_some_and(|fault| reason.ends_with(fault))
    }

    fn noted<T>(&mut self, result: io::Result<T>) -> io::Result<T> {
        use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, NotConnected, TimedOut};
        let is_clients = |e: &io::Error| {
            matches!(e.kind(), TimedOut | BrokenPipe | ConnectionReset | ConnectionAborted | NotConnected)
        };
        result.inspect_err(|e| {
            if is_clients(e) && !self.closing {
                self.fault = Some(e.to_string());
            }
        })
    }

    /// A value of the handler's own for this connection, dropped after [`crate::Handler::on_close`].
    pub fn user(&mut self) -> &mut Option<Box<dyn Any>> {
        &mut self.user
    }

    /// A C handler's value for this connection; never dereferenced here.
    pub(crate) fn user_pointer(&mut self) -> &mut *mut c_void {
        &mut self.user_pointer
    }

    /// Stream: the token under which the loop knows it.
    pub(crate) fn set_token(&mut self, token: Token) {
        self.token = Some(token);
    }

    /// Has the loop serve this stream before it sleeps, whichever connection the handler was called for.
    fn touch(&mut self) {
        if let Some(token) = self.token.filter(|_| !std::mem::replace(&mut self.is_touched, true)) {
            self.touched.borrow_mut().push(token);
        }
    }

    /// Stream: true if it was written to or closed and not served since.
    pub(crate) fn is_touched(&self) -> bool {
        self.is_touched
    }

    /// Stream: adds bytes that were read already.
    pub(crate) fn preload(&mut self, bytes: &[u8]) {
        self.input.extend_from_slice(bytes);
    }

    fn drop_consumed(&mut self) {
        self.input.drain(..self.consumed);
        self.consumed = 0;
    }

    /// Stream: reads what has arrived. `None` if nothing new has; otherwise true if the socket may hold more.
    pub(crate) fn fill(&mut self) -> io::Result<Option<bool>> {
        self.drop_consumed();
        let Style::Stream { unread, unsent } = self.style else { return Ok(None) };
        if self.input.len() >= unread {
            return Err(io::ErrorKind::OutOfMemory.into());
        }
        self.input.reserve(READ_SIZE);
        // What is read at once can be sent back at once.
        let room = (self.input.capacity() - self.input.len()).min(mark(unsent).max(1));
        let fd = self.fd.as_ref().ok_or(io::ErrorKind::NotConnected)?;
        match socket::recv_append_up_to(fd.as_fd(), &mut self.input, room) {
            Ok(0) => {
                self.at_end = true;
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
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        while self.has_output() {
            match socket::send(self.as_fd(), &self.output[self.sent..]) {
                Ok(n) => {
                    self.sent += n;
                    self.progress = true;
                    self.page.add(Word::BytesOut, n as u64);
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    if self.sent >= FLUSH_AT && self.sent > self.output.len() / 2 {
                        self.output.drain(..self.sent);
                        self.sent = 0;
                    }
                    return Ok(());
                }
                Err(e) => {
                    self.broken = true;
                    return Err(e);
                }
            }
        }
        self.output.clear();
        self.sent = 0;
        Ok(())
    }

    /// Stream: true if bytes wait for the client to take them.
    pub(crate) fn has_output(&self) -> bool {
        self.sent < self.output.len()
    }

    fn waiting_output(&self) -> usize {
        self.output.len() - self.sent
    }

    /// Stream: true if so little output waits that more input may be read, and a write that was refused would be taken.
    pub(crate) fn has_room(&self) -> bool {
        let Style::Stream { unsent, .. } = self.style else { return true };
        let waiting = self.waiting_output();
        waiting <= mark(unsent) && waiting.saturating_add(self.refused) <= unsent
    }

    /// Stream: reads nothing more until there is room.
    pub(crate) fn pause(&mut self) {
        self.paused = true;
    }

    /// Stream: true if it has room again and something waits for that.
    pub(crate) fn can_resume(&self) -> bool {
        !self.closing && (self.paused || self.is_owed()) && self.has_room()
    }

    /// Stream: true if the handler is to be called when there is room, whether anything has arrived or not: it has left input. At
    /// the end of the client's side nothing else would have it finish its answer.
    fn is_owed(&self) -> bool {
        let left_input = self.is_owed && !self.data().is_empty();
        self.refused > 0 && (self.at_end || !self.data().is_empty()) || left_input
    }

    /// Stream: the handler is about to be called. Returns true if it was owed this call.
    pub(crate) fn begin_call(&mut self) -> bool {
        let was_owed = self.is_owed();
        (self.paused, self.is_owed, self.refused) = (false, false, 0);
        was_owed
    }

    /// Stream: the handler has returned.
    pub(crate) fn end_call(&mut self) {
        self.is_owed = !self.has_room();
    }

    /// Stream: true if the handler has closed it.
    pub(crate) fn is_closing(&self) -> bool {
        self.closing
    }

    /// Stream: notes if the client has ended its side.
    pub(crate) fn set_end(&mut self, at_end: bool) {
        self.at_end = at_end;
    }

    /// Stream: true if nothing more is to be read, written or sent.
    pub(crate) fn is_done(&self) -> bool {
        !self.has_output() && (self.closing || self.at_end && !self.is_owed())
    }

    /// Closes it now that everything is sent: at once if the client has ended its side, else in stages. If something could not be sent,
    /// the client learns of it by a reset.
    pub(crate) fn close_in_stages(&self) -> Next {
        if self.broken {
            let _ = socket::reset_on_close(self.as_fd());
            return Next::Close;
        }
        if !self.at_end && socket::shutdown_write(self.as_fd()).is_ok() { Next::Linger } else { Next::Close }
    }

    /// Stream: waits for the client, under the deadline that applies.
    pub(crate) fn wait(&mut self) -> Next {
        self.is_touched = false;
        let write = self.has_output();
        let deadline = if write { Deadline::Write } else { Deadline::Quiet };
        Next::Wait { write, progress: std::mem::take(&mut self.progress), deadline }
    }

    /// Stream: returns the buffers that are empty to the pool.
    pub(crate) fn release_buffers(&mut self, pool: &mut Buffers) {
        self.drop_consumed();
        for (buffer, kept) in self.buffers().into_iter().zip(&mut pool.0) {
            if buffer.is_empty() && (1..=KEEP).contains(&buffer.capacity()) && kept.len() < KEPT {
                kept.push(std::mem::take(buffer));
            }
        }
    }

    /// Stream: takes the buffers that it lacks from the pool.
    pub(crate) fn borrow_buffers(&mut self, pool: &mut Buffers) {
        for (buffer, kept) in self.buffers().into_iter().zip(&mut pool.0) {
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

impl AsFd for Conn {
    #[expect(
        clippy::expect_used,
        reason = "a Conn without a descriptor lies in a pool, where no handler sees it"
    )]
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_ref().expect("a connection in use has a descriptor").as_fd()
    }
}
