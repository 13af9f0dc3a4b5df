//! Bodies of a response from any [`Read`], and by any user of a [`Write`].

use super::handle::{Later, Resume};
use super::response::{Refused, Response};
use std::error::Error;
use std::fmt;
use std::io::{self, ErrorKind, Read, Write};

/// The most bytes of a part that is read, and that a [`Writer`] gathers.
const PART: usize = 64 * 1024;

impl Response {
    /// Sends a body that is read from `source` whenever the client has room: a file that is no regular one, the output of a program, a
    /// decompressor. At most 64 KiB wait here, and they are read in the worker's first thread: a source that waits keeps the worker's
    /// other connections waiting. If its read returns `WouldBlock`, it is read again after [`Resume::resume`].
    ///
    /// With `length` that is the `Content-Length`, and so many bytes are read. Without, the body is chunked, and ends with the source. If
    /// the source fails, or ends before `length`, the connection is cut, so that the client does not take the body for complete, and the
    /// reason is logged with its causes. `source` is dropped when the response is over, also if the client has gone, and is not read if
    /// the response has no body: to HEAD, and with status 204, 205 and 304.
    ///
    /// ```
    /// # use prefork::{Request, Response};
    /// # use std::error::Error;
    /// # fn handler(_req: &Request<'_>, res: &mut Response) -> Result<(), Box<dyn Error>> {
    /// let mut tar = std::process::Command::new("tar").args(["cz", "/srv/data"]).stdout(std::process::Stdio::piped()).spawn()?;
    /// res.header("Content-Type", "application/gzip")?;
    /// if let Some(archive) = tar.stdout.take() {
    ///     res.body_from(archive, None)?;
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`Response::stream`].
    pub fn body_from(&mut self, source: impl Read + 'static, length: Option<u64>) -> Result<Resume, Refused> {
        self.may_stream()?;
        if let Some(length) = length {
            self.header("Content-Length", length.to_string())?;
        }
        self.later().stream(parts(source, length))
    }

    /// A [`Write`] of this response's body, for `write!`, serializers, and whatever else writes to one; each writer continues where the
    /// last one has ended. It gathers up to 64 KiB before these are a part of the body as by [`Response::write`]; when it is dropped, the
    /// rest. Its `flush` sends what has been written. Its errors have a [`Refused`] inside; what is refused when it is dropped makes the
    /// response incomplete, as with [`Response::write`].
    ///
    /// ```
    /// # use prefork::{Request, Response};
    /// # use std::io::Write;
    /// # fn handler(_req: &Request<'_>, res: &mut Response) -> std::io::Result<()> {
    /// let mut out = res.writer();
    /// for n in 0..1000 {
    ///     writeln!(out, "line {n}")?;
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn writer(&mut self) -> Writer<'_> {
        Writer { response: self, part: Vec::new() }
    }

    /// Writes what is formatted, as [`Response::write`] does; so `write!(res, "{n} items\n")?` works.
    ///
    /// # Errors
    /// As [`Response::write`].
    pub fn write_fmt(&mut self, args: fmt::Arguments<'_>) -> Result<(), Refused> {
        match args.as_str() {
            Some(text) => self.write(text.as_bytes()),
            None => self.write(args.to_string().as_bytes()),
        }
    }
}

impl Later {
    /// As [`Response::body_from`]. If it is refused, the response is dropped as it is.
    ///
    /// # Errors
    /// As [`Response::stream`], and those of [`Response::header`].
    pub fn body_from(mut self, source: impl Read + 'static, length: Option<u64>) -> Result<Resume, Refused> {
        if let Some(length) = length {
            self.header("Content-Length", length.to_string())?;
        }
        self.stream(parts(source, length))
    }
}

/// Returns the closure that writes the parts that it reads.
fn parts(
    mut source: impl Read,
    length: Option<u64>,
) -> impl FnMut(&mut Response) -> Result<bool, Box<dyn Error>> {
    let (mut part, mut left) = (Vec::new(), length);
    move |res| {
        if part.is_empty() {
            let most = u64::try_from(PART.min(res.pending()).max(1)).unwrap_or(u64::MAX);
            match (&mut source).take(left.unwrap_or(u64::MAX).min(most)).read_once(&mut part) {
                Ok(0) => return end(left),
                Ok(n) => left = left.map(|left| left.saturating_sub(n as u64)),
                Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(true),
                Err(e) => return Err(e.into()),
            }
        }
        match res.write(&part) {
            Ok(()) => part.clear(),
            // It is called again when there is room.
            Err(Refused::Full) => return Ok(true),
            Err(e) => return Err(e.into()),
        }
        Ok(left != Some(0))
    }
}

/// The source has ended.
fn end(left: Option<u64>) -> Result<bool, Box<dyn Error>> {
    match left {
        None | Some(0) => Ok(false),
        Some(left) => Err(format!("the source of a body ended {left} bytes short of its length").into()),
    }
}

/// One read of as much as there may be.
trait ReadOnce {
    fn read_once(&mut self, into: &mut Vec<u8>) -> io::Result<usize>;
}

impl<R: Read> ReadOnce for io::Take<R> {
    /// Reads into an empty buffer, which is empty after an error too.
    fn read_once(&mut self, into: &mut Vec<u8>) -> io::Result<usize> {
        into.resize(usize::try_from(self.limit()).unwrap_or(PART), 0);
        let read = loop {
            match self.read(into) {
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                done => break done,
            }
        };
        into.truncate(*read.as_ref().unwrap_or(&0));
        read
    }
}

/// The body of a response as a [`Write`] ([`Response::writer`]).
pub struct Writer<'a> {
    response: &'a mut Response,
    part: Vec<u8>,
}

impl Writer<'_> {
    /// Makes what has been gathered a part of the body.
    fn put(&mut self) -> io::Result<()> {
        if self.part.is_empty() {
            return Ok(());
        }
        let written = self.response.write(&self.part);
        self.part.clear();
        Ok(written?)
    }
}

impl Write for Writer<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // What is too late or too long is told by the call that is, if it can be.
        self.response.may_add(self.part.len() + bytes.len())?;
        let most = PART.min(self.response.pending());
        if self.part.len() + bytes.len() > most {
            self.put()?;
        }
        if bytes.len() >= most {
            self.response.write(bytes)?;
        } else {
            self.part.extend_from_slice(bytes);
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.put()?;
        Ok(self.response.flush()?)
    }
}

impl Drop for Writer<'_> {
    fn drop(&mut self) {
        // The response knows that it is incomplete.
        let _ = self.put();
    }
}

impl fmt::Debug for Writer<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Writer").field("gathered", &self.part.len()).finish_non_exhaustive()
    }
}

impl From<Refused> for io::Error {
    /// The kind is `BrokenPipe` of [`Refused::Gone`], `OutOfMemory` of [`Refused::Full`], `FileTooLarge` of [`Refused::Length`], and `Other`
    /// of the rest.
    fn from(refused: Refused) -> Self {
        let kind = match refused {
            Refused::Gone => ErrorKind::BrokenPipe,
            Refused::Full => ErrorKind::OutOfMemory,
            Refused::Length => ErrorKind::FileTooLarge,
            _ => ErrorKind::Other,
        };
        Self::new(kind, refused)
    }
}
