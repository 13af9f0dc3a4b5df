//! A connection as a [`Read`], a [`Write`] and a [`BufRead`], and the deadlines of its calls in blocking style.

use super::{Conn, Style, wait_ready};
use crate::scoreboard::Word;
use crate::sys::socket;
use std::cell::Ref;
use std::fmt;
use std::io::{self, BufRead, Read, Write};
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

/// The most bytes that a [`Reader`] reads at once.
const READ_SIZE: usize = 16 * 1024;

/// The times that a handler has given to the calls of its connection, in place of those of the settings.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Times {
    /// For a read; zero is forever.
    read: Option<Duration>,
    /// For a write, without progress; zero is forever.
    write: Option<Duration>,
    /// When all is to be over.
    deadline: Option<Instant>,
}

impl Conn {
    /// In blocking style: the longest time that a read waits, in place of [`crate::config::Timeouts::header`] and
    /// [`crate::config::Timeouts::body`]; for this connection, from the next call on. Zero is forever; `None` is as the settings say.
    ///
    /// # Errors
    /// `Unsupported`: it is a stream, whose calls never wait.
    pub fn set_read_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        self.set_times(|times| times.read = timeout)
    }

    /// In blocking style: the longest time that a write waits without the client taking a byte, in place of
    /// [`crate::config::Timeouts::write`]; for this connection, from the next call on. Zero is forever; `None` is as the settings say.
    ///
    /// # Errors
    /// As [`Conn::set_read_timeout`].
    pub fn set_write_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        self.set_times(|times| times.write = timeout)
    }

    /// In blocking style: the time at which every read and write fails with `TimedOut`, also one that has begun before; whatever the
    /// other times are, and however steadily a client sends a byte now and then. `None`, as at first, is never. Bytes that
    /// [`Conn::reader`] has already are read after it too.
    ///
    /// ```
    /// # fn f(conn: &prefork::Conn) -> std::io::Result<()> {
    /// use std::io::BufRead;
    /// use std::time::{Duration, Instant};
    ///
    /// // The whole greeting, not each of its bytes.
    /// conn.set_deadline(Some(Instant::now() + Duration::from_secs(5)))?;
    /// let mut greeting = String::new();
    /// conn.reader().read_line(&mut greeting)?;
    /// conn.set_deadline(None)
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`Conn::set_read_timeout`].
    pub fn set_deadline(&self, deadline: Option<Instant>) -> io::Result<()> {
        self.set_times(|times| times.deadline = deadline)
    }

    fn set_times(&self, set: impl FnOnce(&mut Times)) -> io::Result<()> {
        if !self.is_blocking() {
            return Err(io::ErrorKind::Unsupported.into());
        }
        let mut times = self.times.get();
        set(&mut times);
        self.times.set(times);
        Ok(())
    }

    /// Blocking: receives bytes; waits for them.
    pub(super) fn receive(
        &self,
        (first, others): (Option<Duration>, Option<Duration>),
        f: impl FnMut(BorrowedFd<'_>) -> io::Result<usize>,
    ) -> io::Result<usize> {
        let usual = if self.has_read.get() { others } else { first };
        let n = self.waiting(false, own_or(self.times.get().read, usual), f)?;
        self.has_read.set(true);
        self.page.add(Word::BytesIn, n as u64);
        Ok(n)
    }

    /// Blocking: sends some of the bytes; waits until the client takes one.
    pub(super) fn send_some(&self, bytes: &[u8], usual: Option<Duration>) -> io::Result<usize> {
        let timeout = own_or(self.times.get().write, usual);
        let sent = self.waiting(true, timeout, |fd| socket::send(fd, bytes));
        let n = sent.inspect_err(|_| self.broken.set(true))?;
        self.page.add(Word::BytesOut, n as u64);
        Ok(n)
    }

    /// Calls `f` until it does not return `WouldBlock`, and waits in between.
    fn waiting(
        &self,
        write: bool,
        timeout: Option<Duration>,
        mut f: impl FnMut(BorrowedFd<'_>) -> io::Result<usize>,
    ) -> io::Result<usize> {
        let deadline = self.times.get().deadline;
        loop {
            if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                return Err(io::ErrorKind::TimedOut.into());
            }
            match self.call(&mut f) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    self.call(|fd| wait_ready(fd, write, timeout, deadline))?;
                }
                done => return done,
            }
        }
    }

    /// Writes what is formatted, as [`Conn::write`] does; so `write!(conn, "{n} messages\r\n")?` works with a `&Conn`.
    ///
    /// # Errors
    /// As [`Conn::write`].
    pub fn write_fmt(&self, args: fmt::Arguments<'_>) -> io::Result<()> {
        match args.as_str() {
            Some(text) => self.write(text.as_bytes()),
            None => self.write(args.to_string().as_bytes()),
        }
    }

    /// A [`BufRead`] of this connection: lines, `read_until`, [`io::copy`], parsers. What it has read ahead and its user has not consumed
    /// stays with the connection: the next reader and [`Conn::read`] begin with it, so readers can be made and dropped at will.
    ///
    /// ```no_run
    /// # fn main() -> prefork::Result<()> {
    /// use std::io::{BufRead, Read};
    ///
    /// prefork::Server::blocking(|conn| {
    ///     let mut line = String::new();
    ///     while conn.reader().read_line(&mut line)? > 0 {
    ///         let size: u64 = line.trim().parse()?;
    ///         std::io::copy(&mut conn.reader().take(size), &mut &*conn)?;
    ///         line.clear();
    ///     }
    ///     Ok::<_, Box<dyn std::error::Error>>(())
    /// })
    /// .run()
    /// # .map(drop)
    /// # }
    /// ```
    ///
    /// As a stream it gives the bytes of [`Conn::data`], and then `WouldBlock`; a call that wants more, such as `read_line`, has consumed
    /// what it returns in its buffer by then.
    pub fn reader(&self) -> Reader<'_> {
        Reader { conn: self, data: None }
    }

    /// Reads ahead, up to [`READ_SIZE`] bytes; does nothing if some are left.
    fn read_ahead(&self) -> io::Result<()> {
        let Style::Blocking { first, read, .. } = self.style else {
            let is_blocked = self.data().is_empty() && !self.at_end();
            return if is_blocked { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(()) };
        };
        if !self.data().is_empty() {
            return Ok(());
        }
        let in_use = |_| io::Error::other("another reader's bytes have not been consumed");
        let mut input = self.input.try_borrow_mut().map_err(in_use)?;
        input.clear();
        self.consumed.set(0);
        input.reserve(READ_SIZE);
        let n = self.receive((first, read), |fd| socket::recv_append_up_to(fd, &mut input, READ_SIZE))?;
        self.at_end.set(self.at_end.get() || n == 0);
        Ok(())
    }
}

/// What the handler has set; zero of it is forever. Otherwise what is usual.
fn own_or(own: Option<Duration>, usual: Option<Duration>) -> Option<Duration> {
    own.map_or(usual, |own| (!own.is_zero()).then_some(own))
}

/// As [`Conn::read`]; never `Interrupted`.
impl Read for &Conn {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        Conn::read(self, buf)
    }
}

/// In blocking style `write` waits until the client takes a byte, and returns how many it has taken; `write_all` is [`Conn::write`].
///
/// As a stream neither waits: `write` takes as many bytes as there is room for ([`Conn::room`]), and returns `WouldBlock` if that is none;
/// `write_all` takes all or none, as [`Conn::write`]. After either refusal [`crate::Handler::on_writable`] is called when there is room.
impl Write for &Conn {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = match self.style {
            Style::Blocking { .. } if bytes.is_empty() => Ok(0),
            Style::Blocking { write, .. } => self.send_some(bytes, write),
            Style::Stream { .. } => self.put_some(bytes),
        };
        self.noted(written)
    }

    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        Conn::write(self, bytes)
    }

    /// As a stream: sends what the client takes now.
    fn flush(&mut self) -> io::Result<()> {
        let flushed = if self.is_blocking() { Ok(()) } else { Conn::flush(self) };
        self.noted(flushed)
    }
}

/// Reads a connection ahead ([`Conn::reader`]).
pub struct Reader<'a> {
    conn: &'a Conn,
    /// What [`BufRead::fill_buf`] has lent.
    data: Option<Ref<'a, [u8]>>,
}

impl Read for Reader<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.data = None;
        // A large read has no use for a copy.
        if buf.len() >= READ_SIZE {
            return self.conn.read(buf);
        }
        let mut data = self.fill_buf()?;
        let n = data.read(buf)?;
        self.consume(n);
        Ok(n)
    }
}

impl BufRead for Reader<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.data = None;
        let read = self.conn.read_ahead();
        self.conn.noted(read)?;
        let data = self.conn.data();
        Ok(if data.is_empty() { &[] } else { self.data.insert(data) })
    }

    fn consume(&mut self, n: usize) {
        self.data = None;
        self.conn.consume(n);
    }
}

impl fmt::Debug for Reader<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reader").field("conn", &self.conn.id()).finish_non_exhaustive()
    }
}
