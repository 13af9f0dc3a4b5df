//! One connection as a handler sees it that reads and writes bytes itself: in blocking style, or as a stream.

use super::engine::Deadline;
use crate::config::Config;
use crate::scoreboard::{Word, WorkerPage};
use crate::sys::socket;
use std::any::Any;
use std::cell::{Cell, OnceCell};
use std::ffi::c_void;
use std::fmt::Write as _;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

/// A stream's output beyond this is sent before the handler returns.
const FLUSH_AT: usize = 64 * 1024;
/// Buffers that grew beyond this are not kept for the next connection.
const KEEP: usize = 256 * 1024;
/// What a stream reads at once, at least.
const READ_SIZE: usize = 16 * 1024;
/// What a blocking handler left unread is dropped up to this ...
const DROPPED: usize = 1024 * 1024;
/// ... so much at a time: mostly there is nothing, and the room for it has to be cleared.
const SCRAP: usize = 4096;

/// A connection whose bytes a handler reads and writes itself.
///
/// In blocking style ([`crate::Handler::on_connection`]) `read` and `write` wait, up to their deadlines. As a stream
/// ([`crate::Handler::on_data`]) they never wait: `read` gives what has arrived, `write` keeps what the client does not take
/// yet. The descriptor ([`AsFd`]) is a blocking socket unless the handler changes that.
pub struct Conn {
    /// `None` only while this value waits to be used for the next connection; no handler sees it then.
    fd: Option<OwnedFd>,
    page: WorkerPage,
    style: Style,
    id: u64,
    listener: u16,
    fresh: bool,
    input: Vec<u8>,
    consumed: usize,
    output: Vec<u8>,
    sent: usize,
    at_end: bool,
    closing: bool,
    broken: bool,
    /// Bytes were sent since [`Conn::take_progress`].
    progress: bool,
    peer: OnceCell<String>,
    /// The room of an address that was asked for before, for the next one.
    spare: Cell<String>,
    user: Option<Box<dyn Any>>,
    user_pointer: *mut c_void,
}

/// How a connection reads and writes, with the settings it needs for that.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Style {
    /// Waits, each time at most so long; `None` is for ever.
    Blocking { first: Option<Duration>, read: Option<Duration>, write: Option<Duration> },
    /// Never waits; keeps at most so much.
    Stream { unread: usize, unsent: usize },
}

impl Style {
    pub(crate) fn blocking(config: &Config) -> Self {
        let some = |d: Duration| (!d.is_zero()).then_some(d);
        let t = &config.timeouts;
        Self::Blocking { first: some(t.header), read: some(t.body), write: some(t.write) }
    }

    pub(crate) fn stream(config: &Config) -> Self {
        let unread = usize::try_from(config.limits.body).unwrap_or(usize::MAX);
        Self::Stream { unread, unsent: config.limits.pending }
    }
}

impl Conn {
    pub(crate) fn new(fd: OwnedFd, id: u64, listener: u16, style: Style, page: WorkerPage) -> Self {
        Self {
            fd: Some(fd),
            page,
            style,
            id,
            listener,
            fresh: true,
            input: Vec::new(),
            consumed: 0,
            output: Vec::new(),
            sent: 0,
            at_end: false,
            closing: false,
            broken: false,
            progress: false,
            peer: OnceCell::new(),
            spare: Cell::default(),
            user: None,
            user_pointer: std::ptr::null_mut(),
        }
    }

    /// Makes a value that was [closed](Conn::end) stand for another connection; its buffers serve again.
    pub(crate) fn renew(&mut self, fd: OwnedFd, id: u64, listener: u16) {
        self.fd = Some(fd);
        self.id = id;
        self.listener = listener;
    }

    /// Closes the descriptor and forgets everything but the buffers.
    pub(crate) fn end(&mut self) {
        self.progress = false;
        self.fd = None;
        for buffer in [&mut self.input, &mut self.output] {
            buffer.clear();
            buffer.shrink_to(KEEP);
        }
        (self.consumed, self.sent) = (0, 0);
        (self.fresh, self.at_end, self.closing, self.broken) = (true, false, false, false);
        if let Some(mut text) = self.peer.take() {
            text.clear();
            self.spare.set(text);
        }
        self.user = None;
        self.user_pointer = std::ptr::null_mut();
    }

    /// Reads up to `buf.len()` bytes; 0 at end of file.
    ///
    /// # Errors
    /// `WouldBlock`: as a stream, nothing more has arrived. `TimedOut`: in blocking style, nothing came within
    /// [`crate::config::Timeouts::body`] (the first read: [`crate::config::Timeouts::header`]). Otherwise what recv(2) says.
    pub fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self.style {
            Style::Blocking { first, read, .. } => {
                let timeout = if self.fresh { first } else { read };
                let n = self.waiting(false, timeout, |fd| socket::recv(fd, buf))?;
                self.fresh = false;
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
    /// `TimedOut`: in blocking style, the client took nothing within [`crate::config::Timeouts::write`].
    /// `OutOfMemory`: as a stream, more than [`crate::config::Limits::pending`] bytes would wait for a slow client; nothing of
    /// `bytes` was taken. Otherwise what send(2) says.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self.style {
            Style::Blocking { write, .. } => self.write_waiting(bytes, write),
            Style::Stream { unsent, .. } => self.write_later(bytes, unsent),
        }
    }

    fn write_waiting(&mut self, bytes: &[u8], timeout: Option<Duration>) -> io::Result<()> {
        let mut rest = bytes;
        while !rest.is_empty() {
            let n = self.waiting(true, timeout, |fd| socket::send(fd, rest))?;
            self.page.add(Word::BytesOut, n as u64);
            rest = &rest[n..];
        }
        Ok(())
    }

    fn write_later(&mut self, bytes: &[u8], limit: usize) -> io::Result<()> {
        if self.broken || self.closing {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        if self.output.len() - self.sent + bytes.len() > limit {
            return Err(io::ErrorKind::OutOfMemory.into());
        }
        self.output.extend_from_slice(bytes);
        if self.output.len() - self.sent >= FLUSH_AT { self.flush() } else { Ok(()) }
    }

    /// Calls `f` until it does not say `WouldBlock`, waiting in between.
    fn waiting(
        &self,
        write: bool,
        timeout: Option<Duration>,
        mut f: impl FnMut(BorrowedFd<'_>) -> io::Result<usize>,
    ) -> io::Result<usize> {
        loop {
            match f(self.as_fd()) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    if !socket::wait_ready(self.as_fd(), write, timeout)? {
                        return Err(io::ErrorKind::TimedOut.into());
                    }
                }
                done => return done,
            }
        }
    }

    /// As a stream: the bytes that have arrived and were not consumed yet; they stay until [`Conn::consume`], at most
    /// [`crate::config::Limits::body`] of them. Empty in blocking style.
    pub fn data(&self) -> &[u8] {
        &self.input[self.consumed..]
    }

    /// As a stream: drops the first `n` bytes of [`Conn::data`] (all where there are fewer).
    pub fn consume(&mut self, n: usize) {
        self.consumed = self.consumed.saturating_add(n).min(self.input.len());
    }

    /// As a stream: whether the client has ended its side; what [`Conn::data`] has is the last.
    pub fn at_end(&self) -> bool {
        self.at_end
    }

    /// Closes: as a stream, when what was written has been sent; in blocking style, when the handler returns, as it does anyway.
    pub fn close(&mut self) {
        self.closing = true;
    }

    /// A number that no other connection of this worker has had, from 1.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// The index, from 0, of the listener this connection came through, in the order they were given.
    pub fn listener(&self) -> u16 {
        self.listener
    }

    /// The client's address: `192.0.2.1:4711`, `[2001:db8::1]:4711`, `unix:`; empty where the kernel no longer knows it.
    /// Asked from the kernel at the first call (getpeername(2)).
    pub fn peer(&self) -> &str {
        self.peer.get_or_init(|| {
            let mut text = self.spare.take();
            if let Ok(address) = socket::peer_address(self.as_fd()) {
                // Writing to a string does not fail.
                let _ = write!(text, "{address}");
            }
            text
        })
    }

    /// A value of the handler's own for this connection, dropped after [`crate::Handler::on_close`].
    pub fn user(&mut self) -> &mut Option<Box<dyn Any>> {
        &mut self.user
    }

    /// A C handler's value for this connection. Nothing here looks behind it.
    pub(crate) fn user_pointer(&mut self) -> &mut *mut c_void {
        &mut self.user_pointer
    }

    /// Blocking: drops what has come and was not read. Left unread, it would make the kernel reset the connection, which can
    /// destroy the answer on its way (RFC 9112 section 9.6).
    pub(crate) fn drop_unread(&mut self) {
        let Some(fd) = self.fd.as_ref().filter(|_| !self.at_end) else { return };
        let mut scrap = [0; SCRAP];
        let mut dropped = 0;
        while dropped < DROPPED {
            match socket::recv(fd.as_fd(), &mut scrap) {
                Ok(0) | Err(_) => return,
                Ok(n) => dropped += n,
            }
        }
    }

    /// Stream: puts bytes in front that were read already.
    pub(crate) fn preload(&mut self, bytes: &[u8]) {
        self.input.extend_from_slice(bytes);
    }

    fn drop_consumed(&mut self) {
        self.input.drain(..self.consumed);
        self.consumed = 0;
    }

    /// Stream: reads what has arrived. `false` where nothing new came.
    pub(crate) fn fill(&mut self, drained: &mut bool) -> io::Result<bool> {
        self.drop_consumed();
        let Style::Stream { unread, .. } = self.style else { return Ok(false) };
        if self.input.len() >= unread {
            return Err(io::ErrorKind::OutOfMemory.into());
        }
        self.input.reserve(READ_SIZE);
        let room = self.input.capacity() - self.input.len();
        let fd = self.fd.as_ref().ok_or(io::ErrorKind::NotConnected)?;
        match socket::recv_append(fd.as_fd(), &mut self.input) {
            Ok(0) => {
                *drained = true;
                let news = !self.at_end;
                self.at_end = true;
                Ok(news)
            }
            Ok(n) => {
                *drained = n < room;
                self.page.add(Word::BytesIn, n as u64);
                Ok(true)
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                *drained = true;
                Ok(false)
            }
            Err(e) => Err(e),
        }
    }

    /// Stream: true if the client has taken bytes since this was asked for the last time.
    pub(crate) fn take_progress(&mut self) -> bool {
        std::mem::take(&mut self.progress)
    }

    /// Stream: sends as much of what was written as the client takes.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        while self.sent < self.output.len() {
            let fd = self.fd.as_ref().ok_or(io::ErrorKind::NotConnected)?;
            match socket::send(fd.as_fd(), &self.output[self.sent..]) {
                Ok(n) => {
                    self.sent += n;
                    self.progress = true;
                    self.page.add(Word::BytesOut, n as u64);
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    if self.sent >= FLUSH_AT {
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

    /// Stream: whether bytes wait for the client to take them.
    pub(crate) fn has_output(&self) -> bool {
        self.sent < self.output.len()
    }

    /// Stream: whether nothing more is to be read.
    pub(crate) fn is_closing(&self) -> bool {
        self.closing || self.at_end
    }

    /// Stream: which deadline the connection is under.
    pub(crate) fn deadline(&self) -> Deadline {
        if self.has_output() { Deadline::Write } else { Deadline::Idle }
    }

    /// Stream: an idle connection needs no buffers.
    pub(crate) fn release_buffers(&mut self, pool: &mut Buffers) {
        self.drop_consumed();
        for (buffer, kept) in [(&mut self.input, &mut pool.inputs), (&mut self.output, &mut pool.outputs)] {
            if buffer.is_empty() && (1..=KEEP).contains(&buffer.capacity()) && kept.len() < Buffers::MOST {
                kept.push(std::mem::take(buffer));
            }
        }
    }

    /// Stream: takes buffers where it has none.
    pub(crate) fn borrow_buffers(&mut self, pool: &mut Buffers) {
        for (buffer, kept) in [(&mut self.input, &mut pool.inputs), (&mut self.output, &mut pool.outputs)] {
            if buffer.capacity() == 0 {
                *buffer = kept.pop().unwrap_or_default();
            }
        }
    }
}

/// Buffers for stream connections that have bytes. Each sort for itself: what is read needs more room than most answers, and
/// a buffer that came back as the other sort would grow again.
pub(crate) struct Buffers {
    inputs: Vec<Vec<u8>>,
    outputs: Vec<Vec<u8>>,
}

impl Buffers {
    /// The most that are kept of each sort.
    const MOST: usize = 128;

    /// Nothing kept yet.
    pub(crate) fn new() -> Self {
        Self { inputs: Vec::with_capacity(Self::MOST), outputs: Vec::with_capacity(Self::MOST) }
    }
}

impl AsFd for Conn {
    #[expect(
        clippy::expect_used,
        reason = "a Conn without a descriptor lies in a pool, where no handler sees it"
    )]
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_ref().expect("a connection in use has a descriptor").as_fd()
    }
}
