//! A connection whose bytes a handler reads and writes itself: in blocking style, or as a stream.

mod read_write;
mod served;

pub use read_write::Reader;
pub(crate) use served::Buffers;

use super::handover::Occasion;
use super::touched::Touched;
use super::user::User;
use crate::config::Config;
use crate::event::Kind;
use crate::ids::{ListenerId, WorkerId};
use crate::scoreboard::WorkerPage;
use crate::sys::{forks, socket};
use mio::Token;
use read_write::Times;
use std::any::Any;
use std::cell::{Cell, OnceCell, Ref, RefCell, RefMut};
use std::ffi::c_void;
use std::fmt::{self, Write as _};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::time::{Duration, Instant};

/// A stream's output beyond this is sent before the handler returns.
const FLUSH_AT: usize = 64 * 1024;
/// Buffers that grew beyond this are not kept for the next connection.
const KEEP: usize = 256 * 1024;

/// Returns how much output may wait at most while a stream is read: half of what may wait in all. The rest is for the answer to
/// what was read last.
fn mark(unsent: usize) -> usize {
    unsent / 2
}

impl fmt::Debug for Conn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ended = self.fd.try_borrow().is_ok_and(|fd| fd.is_none());
        f.debug_struct("Conn").field("id", &self.id.get()).field("ended", &ended).finish_non_exhaustive()
    }
}

/// A connection whose bytes a handler reads and writes itself.
///
/// In blocking style ([`crate::Handler::on_connection`]) `read` and `write` wait, up to their deadlines. As a stream
/// ([`crate::Handler::on_data`]) they never wait: `read` returns what has arrived, `write` keeps what the client does not take
/// yet. A stream can be read, written and closed in any callback of its worker: keep its [`Conn::id`], and find it with
/// [`crate::Worker::conn`].
pub struct Conn {
    /// `None` while this value has no connection: before it begins, and after it has ended.
    fd: RefCell<Option<OwnedFd>>,
    page: WorkerPage,
    style: Style,
    id: Cell<u64>,
    listener: Cell<ListenerId>,
    has_read: Cell<bool>,
    times: Cell<Times>,
    /// Changed by the worker's loop only, and never while a callback runs.
    input: RefCell<Vec<u8>>,
    consumed: Cell<usize>,
    output: RefCell<Output>,
    at_end: Cell<bool>,
    /// The end of the client's side does not close it.
    is_half_open: Cell<bool>,
    /// The handler wants nothing more to be read.
    is_held: Cell<bool>,
    /// Another worker has written to it and this one's handler has not taken it over yet: nothing is sent.
    is_arriving: Cell<bool>,
    /// The last occasion on which the handler was asked whether it goes to another worker.
    asked: Cell<Occasion>,
    /// The worker to which the handler transfers it.
    goes_to: Cell<Option<WorkerId>>,
    closing: Cell<bool>,
    /// Its end was told to the handler, or is about to be.
    is_over: Cell<bool>,
    end_reason: Cell<Option<EndReason>>,
    broken: Cell<bool>,
    /// The last error of a call that is the client's fault.
    fault: RefCell<Option<String>>,
    /// Nothing is read until there is room for output; the poll does not report again what arrives meanwhile.
    paused: Cell<bool>,
    /// The handler is to be called again when there is room, because it may have left input for want of it.
    is_owed: Cell<bool>,
    /// The size of a write that was refused for want of room; 0 if none was.
    refused: Cell<usize>,
    /// A write was refused, and the handler is to be told when there is room.
    wants_room: Cell<bool>,
    /// What becomes of it if it has no room for what is published.
    slow: Cell<Slow>,
    /// The connection's token, under which writes and the close are reported to `touched`; `None` before it has one.
    token: Cell<Option<Token>>,
    touched: Touched,
    /// True if it is among `touched`.
    is_touched: Cell<bool>,
    /// The client has taken bytes since the last [`Conn::wait`].
    progress: Cell<bool>,
    peer: OnceCell<String>,
    /// The buffer of a former connection's address, for the next one.
    peer_buffer: Cell<String>,
    user: RefCell<Option<Box<dyn Any>>>,
    user_pointer: Cell<*mut c_void>,
}

/// What becomes of a stream whose client reads too slowly for what is published to its topics ([`Conn::set_slow`]).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Slow {
    /// It does not get what it has no room for.
    #[default]
    Skip,
    /// It is reset.
    Close,
}

/// Why a stream has ended, or is about to ([`Conn::end_reason`]). The numbers are those of `enum prefork_end` in C.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
#[repr(u32)]
pub enum EndReason {
    /// The client has ended its side, has gone or reset the connection.
    Client = 1,
    /// The handler has closed it.
    Handler = 2,
    /// Reading or writing has failed, a callback has panicked, or the client has passed a limit: it has sent more than may be unread
    /// ([`crate::config::Limits::body`]), or was too slow for what is published ([`Slow::Close`]).
    Error = 3,
    /// The client was silent or took nothing for too long ([`crate::config::Timeouts`]).
    Timeout = 4,
    /// The worker ends: its time to finish ([`crate::Config::drain_timeout`]) is over, or too many generations drain
    /// ([`crate::Config::max_draining`]).
    Worker = 5,
}

/// What was written and the client has not taken.
#[derive(Default)]
struct Output {
    bytes: Vec<u8>,
    /// The number of them that were sent.
    sent: usize,
}

impl Output {
    fn waiting(&self) -> usize {
        self.bytes.len() - self.sent
    }
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
            fd: RefCell::default(),
            page,
            style,
            id: Cell::new(0),
            listener: Cell::new(ListenerId(0)),
            has_read: Cell::new(false),
            times: Cell::default(),
            input: RefCell::default(),
            consumed: Cell::new(0),
            output: RefCell::default(),
            at_end: Cell::new(false),
            is_half_open: Cell::new(false),
            is_held: Cell::new(false),
            is_arriving: Cell::new(false),
            asked: Cell::new(Occasion::None),
            goes_to: Cell::new(None),
            closing: Cell::new(false),
            is_over: Cell::new(false),
            end_reason: Cell::new(None),
            broken: Cell::new(false),
            fault: RefCell::default(),
            paused: Cell::new(false),
            is_owed: Cell::new(false),
            refused: Cell::new(0),
            wants_room: Cell::new(false),
            slow: Cell::new(Slow::Skip),
            token: Cell::new(None),
            touched,
            is_touched: Cell::new(false),
            progress: Cell::new(false),
            peer: OnceCell::new(),
            peer_buffer: Cell::default(),
            user: RefCell::default(),
            user_pointer: Cell::new(std::ptr::null_mut()),
        }
    }

    /// Makes this the value of a connection. What a former one had was given up by [`Conn::end`].
    pub(crate) fn begin(&self, fd: OwnedFd, id: u64, listener: ListenerId) {
        self.fd.replace(Some(fd));
        self.id.set(id);
        self.listener.set(listener);
    }

    /// The connection is over for its handler: nothing can be written any more.
    pub(crate) fn set_over(&self) {
        self.closing.set(true);
        self.is_over.set(true);
        self.token.set(None);
    }

    /// True if it is over for its handler.
    pub(crate) fn is_over(&self) -> bool {
        self.is_over.get()
    }

    /// Gives up the connection, and what it has read and not sent.
    pub(crate) fn end(&self) -> Option<OwnedFd> {
        let fd = self.fd.take();
        let Output { bytes, sent } = &mut *self.output.borrow_mut();
        for buffer in [bytes, &mut *self.input.borrow_mut()] {
            buffer.clear();
            buffer.shrink_to(KEEP);
        }
        *sent = 0;
        self.consumed.set(0);
        fd
    }

    /// Makes this a value without a connection, for the next one. Only the buffers stay.
    pub(crate) fn clear(&mut self) {
        let mut address = self.peer.take().unwrap_or_else(|| self.peer_buffer.take());
        address.clear();
        let (input, output, peer_buffer) = (self.input.take(), self.output.take(), Cell::new(address));
        let new = Self::new(self.style, self.page, Rc::clone(&self.touched));
        *self = Self { input: RefCell::new(input), output: RefCell::new(output), peer_buffer, ..new };
    }

    /// Runs `f` with the connection's socket, for socket options and the like; `None` after the connection has ended. In blocking
    /// style it is a blocking socket unless the handler changes that. A stream's socket must not be read or written.
    pub fn with_fd<T>(&self, f: impl FnOnce(BorrowedFd<'_>) -> T) -> Option<T> {
        self.fd.borrow().as_ref().map(|fd| f(fd.as_fd()))
    }

    /// As [`Conn::with_fd`], for a system call.
    pub(crate) fn call<T>(&self, f: impl FnOnce(BorrowedFd<'_>) -> io::Result<T>) -> io::Result<T> {
        self.with_fd(f).unwrap_or_else(|| Err(io::ErrorKind::BrokenPipe.into()))
    }

    /// Reads up to `buf.len()` bytes; 0 at end of file.
    ///
    /// `&Conn` is a [`std::io::Read`] and a [`std::io::Write`], so that whatever takes these takes a connection; [`Conn::reader`] is a
    /// [`std::io::BufRead`].
    ///
    /// # Errors
    /// `WouldBlock`: as a stream, nothing more has arrived. `TimedOut`: in blocking style, nothing arrived within
    /// [`crate::config::Timeouts::body`] (the first read: [`crate::config::Timeouts::header`]), or [`Conn::set_read_timeout`] and
    /// [`Conn::set_deadline`]. Those of recv(2).
    pub fn read(&self, buf: &mut [u8]) -> io::Result<usize> {
        let read = self.read_some(buf);
        self.noted(read)
    }

    fn read_some(&self, buf: &mut [u8]) -> io::Result<usize> {
        match self.style {
            Style::Blocking { first, read, .. } => {
                if !self.data().is_empty() {
                    return Ok(self.take_read(buf));
                }
                let n = self.receive((first, read), |fd| socket::recv(fd, buf))?;
                self.at_end.set(self.at_end.get() || n == 0 && !buf.is_empty());
                Ok(n)
            }
            Style::Stream { .. } => {
                let n = self.take_read(buf);
                if n == 0 && !self.at_end() && !buf.is_empty() {
                    return Err(io::ErrorKind::WouldBlock.into());
                }
                Ok(n)
            }
        }
    }

    /// Takes bytes that have been read already.
    fn take_read(&self, buf: &mut [u8]) -> usize {
        let data = self.data();
        let n = buf.len().min(data.len());
        buf[..n].copy_from_slice(&data[..n]);
        self.consume(n);
        n
    }

    /// Writes all of `bytes`. As a stream it can be called in any callback of the worker; what the callbacks of a turn of its loop
    /// write leaves at the end of the turn.
    ///
    /// # Errors
    /// `TimedOut`: in blocking style, the client took nothing within [`crate::config::Timeouts::write`] or [`Conn::set_write_timeout`], or
    /// [`Conn::set_deadline`] has come; the connection is reset when the handler returns.
    /// `OutOfMemory`: as a stream, more than [`crate::config::Limits::pending`] bytes would wait for a slow client; none of
    /// `bytes` was taken. [`crate::Handler::on_writable`] is called when there is room; leave unconsumed what is not answered
    /// yet, then [`crate::Handler::on_data`] is called again too. `FileTooLarge`: as a stream, `bytes` are more than ever may wait, so
    /// that they are never taken. `BrokenPipe`: closed, or ended. `Unsupported`: as a stream, in a process that the handler has forked.
    /// Those of send(2).
    pub fn write(&self, bytes: &[u8]) -> io::Result<()> {
        let written = self.write_all(bytes);
        self.noted(written)
    }

    fn write_all(&self, bytes: &[u8]) -> io::Result<()> {
        match self.style {
            Style::Blocking { write, .. } => {
                let mut rest = bytes;
                while !rest.is_empty() {
                    rest = &rest[self.send_some(rest, write)?..];
                }
                Ok(())
            }
            Style::Stream { unsent, .. } => {
                self.may_put()?;
                if bytes.len() > unsent {
                    // There is nothing to wait for.
                    return Err(io::ErrorKind::FileTooLarge.into());
                }
                if !self.put(bytes, unsent)? {
                    self.refused.set(bytes.len());
                    self.wants_room.set(true);
                    return Err(io::ErrorKind::OutOfMemory.into());
                }
                self.flush_much()
            }
        }
    }

    /// Stream: refuses what can never be sent.
    fn may_put(&self) -> io::Result<()> {
        // A copy has the client's descriptor, and must not write between what the worker writes.
        if forks::is_copy() {
            return Err(io::ErrorKind::Unsupported.into());
        }
        if self.broken.get() || self.closing.get() { Err(io::ErrorKind::BrokenPipe.into()) } else { Ok(()) }
    }

    fn flush_much(&self) -> io::Result<()> {
        if self.pending() >= FLUSH_AT { self.flush() } else { Ok(()) }
    }

    /// Stream: puts as many bytes behind those that wait as there is room for, and returns their number.
    fn put_some(&self, bytes: &[u8]) -> io::Result<usize> {
        self.may_put()?;
        let Style::Stream { unsent, .. } = self.style else { return Ok(0) };
        if self.pending() + bytes.len() > unsent {
            self.flush()?;
        }
        let n = bytes.len().min(self.room());
        if n == 0 && !bytes.is_empty() {
            self.refused.set(1);
            self.wants_room.set(true);
            return Err(io::ErrorKind::WouldBlock.into());
        }
        self.put(&bytes[..n], unsent)?;
        self.flush_much()?;
        Ok(n)
    }

    /// Puts bytes behind those that wait, of which there may be `unsent`; false, and takes none, if there is no room for all.
    fn put(&self, bytes: &[u8], unsent: usize) -> io::Result<bool> {
        self.touch();
        if self.pending() + bytes.len() > unsent {
            self.flush()?;
        }
        let has_room = self.pending() + bytes.len() <= unsent;
        if has_room {
            self.output.borrow_mut().bytes.extend_from_slice(bytes);
        }
        Ok(has_room)
    }

    /// Stream: writes what was published, if there is room for it. False if there is none; then it does what [`Conn::set_slow`] says.
    pub(crate) fn offer(&self, bytes: &[u8]) -> bool {
        let Style::Stream { unsent, .. } = self.style else { return false };
        if self.broken.get() || self.closing.get() {
            // It is about to end, not slow.
            return true;
        }
        // After an error it is about to end.
        if self.put(bytes, unsent).unwrap_or(true) {
            return true;
        }
        if self.slow.get() == Slow::Close {
            // Reset, as it cannot be told otherwise that this is not all.
            self.broken.set(true);
            self.closing.set(true);
            self.note_end(EndReason::Error);
            *self.output.borrow_mut() = Output::default();
        }
        false
    }

    /// As a stream: the bytes that have arrived and were not consumed yet, at most [`crate::config::Limits::body`]. They stay
    /// until [`Conn::consume`]. In blocking style: those that [`Conn::reader`] has read ahead. Do not keep the result beyond the callback.
    pub fn data(&self) -> Ref<'_, [u8]> {
        Ref::map(self.input.borrow(), |input| &input[self.consumed.get()..])
    }

    /// Drops the first `n` bytes of [`Conn::data`], or all if there are fewer.
    pub fn consume(&self, n: usize) {
        self.consumed.set(self.consumed.get().saturating_add(n).min(self.input.borrow().len()));
    }

    /// As a stream: the number of bytes that were written and that the kernel has not taken, up to
    /// [`crate::config::Limits::pending`]. 0 in blocking style.
    pub fn pending(&self) -> usize {
        self.output.borrow().waiting()
    }

    /// As a stream: the number of bytes that [`Conn::write`] would take now. 0 in blocking style, which waits, and if nothing can be
    /// written any more.
    pub fn room(&self) -> usize {
        match self.style {
            Style::Stream { unsent, .. } if !self.broken.get() && !self.closing.get() => {
                unsent.saturating_sub(self.pending())
            }
            _ => 0,
        }
    }

    /// As a stream: says whether prefork reads what the client sends. Until it reads again, the client's bytes wait with the client, and its
    /// end is not seen; for handlers that cannot take more yet, such as a proxy's. What was read before stays in [`Conn::data`], and
    /// [`crate::Handler::on_data`] is called when there is more.
    pub fn set_reading(&self, is_reading: bool) {
        self.is_held.set(!is_reading);
        if is_reading {
            // The poll does not report again what has arrived meanwhile.
            self.paused.set(true);
            self.touch();
        }
    }

    /// Stream: true if the handler wants nothing more to be read.
    pub(crate) fn is_held(&self) -> bool {
        self.is_held.get()
    }

    /// As a stream: says whether it stays open when the client has ended its side ([`Conn::at_end`]) and all that was written is sent,
    /// until [`Conn::close`] or a deadline; for handlers whose answer comes later, such as a proxy's. By default it closes then.
    pub fn set_half_open(&self, is_half_open: bool) {
        self.is_half_open.set(is_half_open);
        self.touch();
    }

    /// As a stream: has another worker go on with it, for instance one that has all others of a room. 0 is the worker that prefork
    /// chooses, as when this one drains: for a stream that has stayed then, and can go now. At the end of the turn
    /// [`crate::Handler::on_handover`] is called for it; if that returns `None` it stays, and if there is no such worker, or it refuses
    /// the stream or has no room, it comes back by [`crate::Handler::on_takeover`].
    pub fn transfer(&self, worker: u32) {
        if !self.is_blocking() {
            self.goes_to.set(Some(WorkerId(worker)));
            self.touch();
        }
    }

    /// As a stream: true if the client has ended its side; no bytes follow those of [`Conn::data`]. Unless [`Conn::set_half_open`] was
    /// called, it closes when all that was written is sent.
    pub fn at_end(&self) -> bool {
        self.at_end.get()
    }

    /// Closes the connection: as a stream, when everything written has been sent, whichever callback this is called in; in blocking
    /// style, when the handler returns, as happens in any case.
    pub fn close(&self) {
        self.closing.set(true);
        self.note_end(EndReason::Handler);
        self.touch();
    }

    /// As a stream: why it has ended, for [`crate::Handler::on_close`], or is about to; `None` as long as nothing ends it, and in blocking
    /// style.
    pub fn end_reason(&self) -> Option<EndReason> {
        self.end_reason.get()
    }

    /// Stream: notes why it ends, unless it ends already for another reason.
    pub(crate) fn note_end(&self, reason: EndReason) {
        if self.end_reason.get().is_none() && !self.is_blocking() {
            self.end_reason.set(Some(reason));
        }
    }

    /// Stream: this is why it ends, whatever had begun to end it.
    pub(crate) fn set_end_reason(&self, reason: EndReason) {
        self.end_reason.set(Some(reason));
    }

    /// As a stream: what becomes of it if what is published to its topics ([`crate::Worker::publish`]) comes faster than its client reads,
    /// that is if more than [`crate::config::Limits::pending`] bytes would wait.
    pub fn set_slow(&self, slow: Slow) {
        self.slow.set(slow);
    }

    /// A number that no other connection of this worker has had, from 1.
    pub fn id(&self) -> u64 {
        self.id.get()
    }

    /// The index of the listener this connection came through, from 0, in the order of the settings.
    pub fn listener(&self) -> u16 {
        self.listener.get().0
    }

    /// The client's address, as [`crate::Request::peer`] gives it. The first call asks the kernel (getpeername(2)).
    pub fn peer(&self) -> &str {
        self.peer.get_or_init(|| {
            let mut text = self.peer_buffer.take();
            if let Ok(address) = self.call(socket::peer_address) {
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
        self.fault.borrow().as_deref().is_some_and(|fault| reason.ends_with(fault))
    }

    fn noted<T>(&self, result: io::Result<T>) -> io::Result<T> {
        use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, NotConnected, TimedOut};
        let is_clients = |e: &io::Error| {
            matches!(e.kind(), TimedOut | BrokenPipe | ConnectionReset | ConnectionAborted | NotConnected)
        };
        result.inspect_err(|e| {
            if is_clients(e) && !self.closing.get() {
                self.fault.replace(Some(e.to_string()));
            }
        })
    }

    /// A value of the handler's own for this connection, dropped after [`crate::Handler::on_close`].
    ///
    /// # Panics
    /// If a former result is still there.
    pub fn user(&self) -> RefMut<'_, Option<Box<dyn Any>>> {
        self.user.borrow_mut()
    }

    /// Takes the handler's own value.
    pub(crate) fn take_user(&self) -> Option<Box<dyn Any>> {
        self.user.take()
    }

    /// Stream: takes the values that the handler has given to the request before it.
    pub(crate) fn inherit(&self, mut user: User) {
        self.user.replace(user.value.take());
        self.user_pointer.set(user.pointer);
    }

    /// A C handler's value for this connection; never dereferenced here.
    pub(crate) fn user_pointer(&self) -> &Cell<*mut c_void> {
        &self.user_pointer
    }

    /// True in blocking style, in which the handler has the connection to itself until it returns.
    pub(crate) fn is_blocking(&self) -> bool {
        matches!(self.style, Style::Blocking { .. })
    }

    /// Has the loop serve this stream before it sleeps, whichever connection the handler was called for.
    fn touch(&self) {
        if let Some(token) = self.token.get().filter(|_| !self.is_touched.replace(true)) {
            self.touched.borrow_mut().push(token);
        }
    }
}

/// Waits until the client has sent bytes, or has taken so many that there is room. The time starts again whenever it has taken any.
/// At the deadline it is over in any case.
fn wait_ready(
    fd: BorrowedFd<'_>,
    write: bool,
    timeout: Option<Duration>,
    deadline: Option<Instant>,
) -> io::Result<()> {
    let mut unsent = if write { socket::unsent(fd) } else { 0 };
    let left = || deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
    let span = || timeout.into_iter().chain(left()).min();
    while !socket::wait_ready(fd, write, span())? {
        let before = unsent;
        unsent = if write { socket::unsent(fd) } else { 0 };
        if unsent >= before || left().is_some_and(|left| left.is_zero()) {
            return Err(io::ErrorKind::TimedOut.into());
        }
    }
    Ok(())
}
