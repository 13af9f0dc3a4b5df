//! The response a handler builds; `encode.rs` turns it into bytes.

use super::date::Date;
use super::encode;
use super::exchange::{Exchange, RequestTraits, Unreachable};
use super::framing::Framing;
use super::head::Head;
use super::output::{Body, Output, Sent};
use super::token;
use crate::sys::lend::Lent;
use crate::sys::socket;
use crate::sys::time::Time;
use crate::worker::user::User;
use std::any::Any;
use std::fmt;
use std::fs::{File, Metadata};
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;

/// Streamed bytes are sent when they reach this size.
const GATHER: usize = 64 * 1024;
/// The most bytes that the handler's fields of a response have.
const MAX_FIELDS: usize = 64 * 1024;
/// Fields that frame the message or control the connection.
const FRAMING: [&str; 5] = ["transfer-encoding", "connection", "keep-alive", "proxy-connection", "trailer"];

/// The reason a response call was refused. The response is as it was before the call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Refused {
    /// A status code outside 200 to 599.
    Status,
    /// A field name that is not a token, or a value with CR, LF, NUL or another control byte (RFC 9110 section 5.5).
    Field,
    /// A field that frames the message (Transfer-Encoding, Connection, ...), which prefork writes itself.
    Framing,
    /// The body would be longer than the Content-Length that the handler has set.
    Length,
    /// The head is written already, or a body was set already.
    Late,
    /// Too much waits for a slow client ([`crate::config::Limits::pending`]), or the head would be over 64 KiB.
    Full,
    /// The client is gone, or the time of a response that was kept is over.
    Gone,
    /// The request did not ask for an upgrade to that protocol (RFC 9110 section 7.8).
    Upgrade,
    /// The handler serves no streams ([`crate::Handler::takes_streams`]), which an upgraded connection is.
    NoStreams,
    /// Not a regular file, or one that ends before the range does, or a descriptor that cannot be read.
    File,
    /// Not possible here: in a copy of the worker that the handler has forked, or for a handler or a callback that the call is not for.
    State,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Status => "a status must be 200 to 599",
            Self::Field => "a field name must be a token, its value free of control bytes",
            Self::Framing => "fields that frame the message are written by prefork alone",
            Self::Length => "the body would be longer than its Content-Length",
            Self::Late => "the response has begun already",
            Self::Full => "too much of the response waits for a slow client",
            Self::Gone => "the client is gone",
            Self::Upgrade => "the request did not ask for this upgrade",
            Self::NoStreams => "the handler serves no streams",
            Self::File => "not a regular file that can be read and holds the range",
            Self::State => "not possible here",
        })
    }
}

impl std::error::Error for Refused {}

impl From<Unreachable> for Refused {
    fn from(reason: Unreachable) -> Self {
        match reason {
            Unreachable::Gone => Self::Gone,
            Unreachable::Copy => Self::State,
        }
    }
}

/// A status code: a number, or with the feature `http` a `StatusCode` of that crate.
pub trait ToStatus {
    /// The number.
    fn to_status(self) -> u16;
}

impl ToStatus for u16 {
    fn to_status(self) -> u16 {
        self
    }
}

/// The response to one request. Without any call it is an empty 200.
///
/// prefork writes Date, Content-Length or Transfer-Encoding, and Connection; the rest of the head is the handler's. A body
/// set for HEAD, or with status 204, 205 or 304, is not sent.
pub struct Response {
    pub(super) status: u16,
    /// The handler's field lines.
    pub(super) fields: Vec<u8>,
    /// A Date is among them.
    pub(super) has_date: bool,
    /// An Upgrade is among them.
    pub(super) has_upgrade: bool,
    /// The length that the handler has given to a body that is written in parts, or is not sent.
    pub(super) length: Option<u64>,
    /// The bytes of [`Framing::Declared`] that have not been written.
    pub(super) left: u64,
    pub(super) stage: Stage,
    /// The connection ends after this response.
    pub(super) close: bool,
    pub(super) request: RequestTraits,
    /// The values of the request's Upgrade fields, with a comma after each.
    pub(super) offered_protocols: Vec<u8>,
    /// The protocol the connection changes to.
    pub(super) protocol: Vec<u8>,
    /// What the handler leaves for the stream that the connection becomes.
    pub(super) user: Option<Box<User>>,
    pub(super) out: Output,
    /// The offset in `out` where this response starts.
    start: usize,
    /// A part of this response may have been sent.
    pub(super) partly_sent: bool,
    /// A part of a streamed body was refused, and no other response was set since.
    pub(super) incomplete: bool,
    /// The body ends with the connection.
    pub(super) until_close: bool,
    pub(super) client_gone: bool,
    pub(super) date: Date,
    pub(super) lent: Rc<Lent>,
    /// Shared with the connection, if the response is kept.
    pub(super) exchange: Option<Rc<Exchange<Self>>>,
    /// A producer owns it.
    is_given: bool,
    pending: usize,
    takes_streams: bool,
}

impl fmt::Debug for Response {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("Response");
        shown.field("status", &self.status).field("stage", &self.stage).finish_non_exhaustive()
    }
}

/// The stages of a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// Everything can still be set.
    Open,
    /// The head is written, parts of the body follow.
    Stream(Framing),
    /// The connection changes its protocol.
    Upgrade,
    /// The handler failed.
    Failed,
    /// The handler keeps the response: it has another value.
    Kept,
}

impl Response {
    pub(super) fn new(pending: usize, takes_streams: bool) -> Self {
        Self {
            status: 200,
            fields: Vec::new(),
            has_date: false,
            has_upgrade: false,
            length: None,
            left: 0,
            stage: Stage::Open,
            close: false,
            request: RequestTraits::default(),
            offered_protocols: Vec::new(),
            protocol: Vec::new(),
            user: None,
            out: Output::default(),
            start: 0,
            partly_sent: false,
            incomplete: false,
            until_close: false,
            client_gone: false,
            date: Date::new(),
            lent: Rc::new(Lent::new()),
            exchange: None,
            is_given: false,
            pending,
            takes_streams,
        }
    }

    /// Starts the response to another request, after those that wait to be sent.
    pub(super) fn begin(&mut self, request: RequestTraits, close: bool) {
        self.status = 200;
        self.clear_fields();
        self.stage = Stage::Open;
        self.close = close;
        self.request = request;
        self.offered_protocols.clear();
        self.start = self.out.bytes.len();
        (self.partly_sent, self.incomplete) = (false, false);
        (self.until_close, self.client_gone) = (false, false);
    }

    pub(super) fn clear_fields(&mut self) {
        self.fields.clear();
        (self.has_date, self.has_upgrade, self.length) = (false, false, None);
    }

    /// Sets the status code, 200 to 599 (default 200).
    ///
    /// # Errors
    /// [`Refused::Status`], [`Refused::Late`].
    pub fn status(&mut self, code: impl ToStatus) -> Result<(), Refused> {
        let code = code.to_status();
        self.open()?;
        if !(200..=599).contains(&code) {
            return Err(Refused::Status);
        }
        self.status = code;
        // If the first part of a body was refused, this is another response.
        self.incomplete = false;
        Ok(())
    }

    /// Adds a header field; the bytes are copied. A `Date` replaces the one that prefork would write, or the one set before.
    /// `Upgrade` says which protocols the server offers, as it must with status 426 (RFC 9110 section 7.8); prefork adds
    /// `Connection: upgrade`. `Content-Length` is the length of a body that is written in parts ([`Response::write`],
    /// [`Response::stream`]), which is then not chunked, or of one that is not sent, to HEAD and with status 304. A part that would
    /// make the body longer is refused ([`Refused::Length`]); if it is shorter at its end, the connection is cut. A second one
    /// replaces the first; a body that is set whole has its own length; statuses 204 and 205 have none. `Transfer-Encoding`,
    /// `Trailer`, `Connection`, `Keep-Alive` and `Proxy-Connection` are refused.
    ///
    /// # Errors
    /// [`Refused::Field`], [`Refused::Framing`], [`Refused::Late`], [`Refused::Full`].
    pub fn header(&mut self, name: impl AsRef<str>, value: impl AsRef<[u8]>) -> Result<(), Refused> {
        self.put_header(name.as_ref(), value.as_ref())
    }

    fn put_header(&mut self, name: &str, value: &[u8]) -> Result<(), Refused> {
        if !matches!(self.stage, Stage::Open | Stage::Upgrade) {
            return Err(Refused::Late);
        }
        self.check()?;
        if !token::is_token(name.as_bytes()) || !token::is_field_value(value) {
            return Err(Refused::Field);
        }
        if name.eq_ignore_ascii_case("content-length") {
            return self.content_length(value);
        }
        let (is_date, is_upgrade) = (name.eq_ignore_ascii_case("date"), name.eq_ignore_ascii_case("upgrade"));
        if FRAMING.iter().any(|f| name.eq_ignore_ascii_case(f)) || is_upgrade && self.stage == Stage::Upgrade
        {
            return Err(Refused::Framing);
        }
        if is_upgrade && !token::is_protocol_list(value) {
            return Err(Refused::Field);
        }
        if self.fields.len() + name.len() + value.len() + 4 > MAX_FIELDS {
            return Err(Refused::Full);
        }
        if is_date && self.has_date {
            encode::remove_field(&mut self.fields, b"date");
        }
        self.has_date |= is_date;
        self.has_upgrade |= is_upgrade;
        encode::put_field(&mut self.fields, name.as_bytes(), value);
        Ok(())
    }

    fn content_length(&mut self, value: &[u8]) -> Result<(), Refused> {
        if self.stage == Stage::Upgrade {
            return Err(Refused::Framing);
        }
        let digits = str::from_utf8(value).ok().filter(|text| text.bytes().all(|b| b.is_ascii_digit()));
        self.length = Some(digits.and_then(|text| text.parse().ok()).ok_or(Refused::Field)?);
        Ok(())
    }

    /// The status code.
    pub fn status_code(&self) -> u16 {
        self.status
    }

    /// The names and values of the header fields that have been set, in their order; without those that prefork writes itself, of which
    /// `Content-Length` is one.
    pub fn headers(&self) -> impl Iterator<Item = (&str, &[u8])> {
        let lines = self.fields.split_inclusive(|b| *b == b'\n');
        lines.filter_map(|line| {
            let at = line.iter().position(|b| *b == b':')?;
            // As `encode::put_field` writes them.
            let value = line.get(at + 2..)?.strip_suffix(b"\r\n")?;
            Some((str::from_utf8(&line[..at]).ok()?, value))
        })
    }

    /// The value of the first of them with this name, compared without case.
    pub fn header_value(&self, name: &str) -> Option<&[u8]> {
        self.headers().find(|(other, _)| other.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    /// Sets the body; the bytes are copied. A second call replaces the first.
    ///
    /// # Errors
    /// [`Refused::Late`] after [`Response::write`].
    pub fn body(&mut self, bytes: impl AsRef<[u8]>) -> Result<(), Refused> {
        let bytes = bytes.as_ref();
        self.set_body(Body::Copied, bytes.len() as u64)?;
        self.out.copied.extend_from_slice(bytes);
        Ok(())
    }

    /// Sets the body without copying: bytes that live forever.
    ///
    /// # Errors
    /// As [`Response::body`].
    pub fn body_static(&mut self, bytes: &'static [u8]) -> Result<(), Refused> {
        self.set_body(Body::Static(bytes), bytes.len() as u64)
    }

    /// Sets the body without copying: bytes that the response owns and drops when they are sent or the client is gone.
    ///
    /// # Errors
    /// As [`Response::body`].
    pub fn body_owned(&mut self, bytes: Box<dyn AsRef<[u8]>>) -> Result<(), Refused> {
        let len = (*bytes).as_ref().len() as u64;
        self.set_body(Body::Owned(bytes), len)
    }

    /// Sets the body to `len` bytes of a regular file from `offset` (sendfile(2)); takes the descriptor. If the file gets shorter
    /// meanwhile, the connection is cut.
    ///
    /// # Errors
    /// As [`Response::body`]; [`Refused::File`].
    pub fn file(&mut self, file: impl Into<OwnedFd>, offset: u64, len: u64) -> Result<(), Refused> {
        let file = File::from(file.into());
        let holds = |m: Metadata| m.is_file() && offset.checked_add(len).is_some_and(|end| end <= m.len());
        if !file.metadata().is_ok_and(holds) || !socket::can_send_file(file.as_fd()) {
            return Err(Refused::File);
        }
        self.set_body(Body::File(file.into(), offset), len)
    }

    fn set_body(&mut self, body: Body, len: u64) -> Result<(), Refused> {
        self.open()?;
        self.out.drop_body();
        self.out.body = body;
        self.out.body_len = len;
        self.incomplete = false;
        Ok(())
    }

    /// Drops a body that was set.
    pub(super) fn unset_body(&mut self) -> Result<(), Refused> {
        self.set_body(Body::None, 0)
    }

    fn open(&self) -> Result<(), Refused> {
        if self.stage == Stage::Open { self.check() } else { Err(Refused::Late) }
    }

    /// Refuses calls that come when a response that was kept is over.
    #[inline]
    pub(crate) fn check(&self) -> Result<(), Refused> {
        if self.exchange.is_some() { self.check_kept() } else { Ok(()) }
    }

    #[cold]
    #[inline(never)]
    fn check_kept(&self) -> Result<(), Refused> {
        match &self.exchange {
            None => Ok(()),
            Some(_) if self.stage == Stage::Kept => Err(Refused::Late),
            Some(exchange) => Ok(exchange.check()?),
        }
    }

    /// Streams a part of the body: chunked for HTTP/1.1, ended by the close of the connection for HTTP/1.0, or of the length that was
    /// given as `Content-Length` ([`Response::header`]). Parts are gathered, and sent when they reach 64 KiB or the handler returns.
    ///
    /// # Errors
    /// [`Refused::Late`] after a body was set; [`Refused::Length`], of which none is taken; [`Refused::Gone`]; [`Refused::Full`], after which the response is incomplete: the
    /// connection is cut behind the parts before. If there was none, it becomes a 500, unless the handler sets another status or body.
    /// A response that is kept is not harmed ([`Later`](crate::Later)). For a body of any size there is [`Response::stream`].
    pub fn write(&mut self, part: &[u8]) -> Result<(), Refused> {
        if self.exchange.is_some() {
            return self.write_later(part);
        }
        self.write_part(part)
    }

    /// As [`Response::write`], of a response that is kept. Refused parts do no harm here.
    #[cold]
    #[inline(never)]
    fn write_later(&mut self, part: &[u8]) -> Result<(), Refused> {
        let incomplete = self.incomplete;
        let written = self.shared(|res| res.write_part(part));
        if let Some(exchange) = &self.exchange {
            match written {
                Ok(()) => {
                    exchange.note_written(part.len());
                    if let Stage::Stream(Framing::Declared(_)) = self.stage {
                        exchange.note_begun(Framing::Declared(self.left));
                    }
                }
                Err(Refused::Full) => {
                    self.incomplete = incomplete;
                    exchange.note_refused(part.len());
                }
                Err(_) => {}
            }
        }
        written
    }

    /// Sends now what has been written: in any case the head, after which it is too late to set a whole body. Does not wait; what the
    /// client does not take is kept.
    ///
    /// # Errors
    /// [`Refused::Late`] after a body was set; [`Refused::Gone`].
    pub fn flush(&mut self) -> Result<(), Refused> {
        self.shared(|res| {
            res.begin_stream()?;
            if res.client_gone {
                return Err(Refused::Gone);
            }
            res.send_gathered()
        })
    }

    /// Writes the head of a body in parts, if it has not been written.
    pub(crate) fn begin_parts(&mut self) -> Result<(), Refused> {
        self.shared(|res| res.begin_stream().map(drop))
    }

    fn begin_stream(&mut self) -> Result<Framing, Refused> {
        self.may_write()?;
        match self.stage {
            Stage::Stream(framing) => Ok(framing),
            _ => Ok(self.start_stream()),
        }
    }

    /// Runs `f`, which writes parts, with the output that this has, or shares with its connection.
    fn shared<T>(&mut self, f: impl FnOnce(&mut Self) -> Result<T, Refused>) -> Result<T, Refused> {
        self.check()?;
        let Some(exchange) = self.exchange.clone() else { return f(self) };
        // A whole body would not be seen in the other output.
        self.may_write()?;
        exchange.swap(&mut self.out);
        let result = f(self);
        exchange.swap(&mut self.out);
        if self.client_gone {
            exchange.note_broken();
        }
        exchange.touch();
        result
    }

    /// Refuses parts of a body if it is too late for them.
    #[inline]
    pub(super) fn may_write(&self) -> Result<(), Refused> {
        let is_open = self.stage == Stage::Open && matches!(self.out.body, Body::None);
        if is_open || matches!(self.stage, Stage::Stream(_)) { self.check() } else { Err(Refused::Late) }
    }

    /// True if parts of a body are sent.
    pub(super) fn takes_parts(&self) -> bool {
        let has_parts = matches!(
            self.stage,
            Stage::Stream(Framing::Chunked | Framing::UntilClose | Framing::Declared(_))
        );
        !self.request.is_head && has_parts
    }

    #[inline]
    fn write_part(&mut self, part: &[u8]) -> Result<(), Refused> {
        if !matches!(self.stage, Stage::Stream(_)) {
            self.may_write()?;
        }
        if self.length.is_some() {
            self.check_length(part.len())?;
        }
        self.make_room(part.len())?;
        let framing = match self.stage {
            Stage::Stream(framing) => framing,
            _ => self.start_stream(),
        };
        if !self.request.is_head {
            framing.put(&mut self.out.bytes, part);
            self.left = self.left.saturating_sub(part.len() as u64);
        }
        if self.out.waiting() >= GATHER {
            self.send_gathered()?;
        }
        Ok(())
    }

    /// Refuses `len` more bytes of a body in parts if it is too late for them, or if they are more than the length that the handler has
    /// given.
    pub(super) fn may_add(&self, len: usize) -> Result<(), Refused> {
        self.may_write()?;
        if self.length.is_some() { self.check_length(len) } else { Ok(()) }
    }

    /// Refuses a part that does not fit into the length that the handler has given.
    #[cold]
    #[inline(never)]
    fn check_length(&self, len: usize) -> Result<(), Refused> {
        let left = match self.stage {
            Stage::Stream(Framing::Declared(_)) => self.left,
            Stage::Stream(_) => return Ok(()),
            _ => match self.framing_of_stream() {
                Framing::Declared(all) => all,
                _ => return Ok(()),
            },
        };
        if self.request.is_head || len as u64 <= left { Ok(()) } else { Err(Refused::Length) }
    }

    /// The number of bytes that the body lacks of the length that the handler has given.
    pub(super) fn lacks(&self) -> u64 {
        match self.stage {
            Stage::Stream(Framing::Declared(_)) if !self.request.is_head => self.left,
            // Not even a part of it was written.
            Stage::Open if matches!(self.out.body, Body::None) && !self.request.is_head => {
                match self.framing_of_stream() {
                    Framing::Declared(all) => all,
                    _ => 0,
                }
            }
            _ => 0,
        }
    }

    fn framing_of_stream(&self) -> Framing {
        Framing::of_stream(self.status, self.request.minor, self.length)
    }

    fn start_stream(&mut self) -> Framing {
        let framing = self.framing_of_stream();
        if let Framing::Declared(all) = framing {
            self.left = all;
        }
        self.stage = Stage::Stream(framing);
        self.until_close = framing == Framing::UntilClose;
        self.close |= self.until_close;
        if let Some(exchange) = &self.exchange {
            exchange.note_begun(framing);
            // The loop may send it at any time.
            self.partly_sent = true;
        }
        // The handler may have taken long until now.
        self.put_head(framing, Time::last_tick());
        framing
    }

    fn make_room(&mut self, len: usize) -> Result<(), Refused> {
        if self.client_gone {
            return Err(Refused::Gone);
        }
        let fits = |res: &Self| res.out.waiting().saturating_add(len) <= res.pending;
        if fits(self) {
            return Ok(());
        }
        self.send_gathered()?;
        if fits(self) {
            return Ok(());
        }
        // Without this part the body must not look complete, whatever the handler does next.
        self.incomplete = true;
        Err(Refused::Full)
    }

    fn send_gathered(&mut self) -> Result<(), Refused> {
        let Self { out, lent, exchange, .. } = self;
        let sent = match exchange {
            None => lent.with(|fd| out.flush(fd)),
            Some(exchange) if exchange.is_arriving() => Some(Ok(Sent::Blocked)),
            Some(exchange) => exchange.with_fd(|fd| out.flush(fd)),
        };
        match self.stage {
            // Only earlier responses were sent.
            Stage::Open => self.start = self.out.bytes.len(),
            _ => self.partly_sent = true,
        }
        if !matches!(sent, Some(Ok(_))) {
            self.client_gone = true;
            return Err(Refused::Gone);
        }
        Ok(())
    }

    /// Closes the connection after this response, which says so (`Connection: close`) unless its head is written already.
    pub fn close(&mut self) {
        self.close = true;
        if let Some(exchange) = &self.exchange {
            exchange.note_closes();
        }
    }

    /// Responds with 101 and makes this connection a stream of bytes, for which [`crate::Handler::on_open`] and
    /// [`crate::Handler::on_data`] are called from now on (RFC 9110 section 7.8). Fields can be added before and after.
    ///
    /// # Errors
    /// [`Refused::Upgrade`] if the request's Upgrade field does not name `protocol`; [`Refused::NoStreams`]; [`Refused::Late`].
    pub fn upgrade(&mut self, protocol: &str) -> Result<(), Refused> {
        self.open()?;
        if !matches!(self.out.body, Body::None) {
            return Err(Refused::Late);
        }
        if !self.takes_streams {
            return Err(Refused::NoStreams);
        }
        let wanted = protocol.as_bytes();
        if wanted.is_empty() || !token::list(&self.offered_protocols).any(|p| p.eq_ignore_ascii_case(wanted))
        {
            return Err(Refused::Upgrade);
        }
        if std::mem::take(&mut self.has_upgrade) {
            // A response that upgrades names that protocol alone.
            encode::remove_field(&mut self.fields, b"upgrade");
        }
        wanted.clone_into(&mut self.protocol);
        self.stage = Stage::Upgrade;
        (self.incomplete, self.length) = (false, None);
        Ok(())
    }

    /// Gives the stream that this connection becomes its first [`crate::Conn::user`], for instance what the request was about; call it after
    /// [`Response::upgrade`]. It is dropped if the response fails, or if the client goes before the stream begins.
    ///
    /// # Errors
    /// [`Refused::Upgrade`] if the response is none to an upgrade.
    pub fn set_user(&mut self, user: impl Any) -> Result<(), Refused> {
        self.user_of_stream()?.value = Some(Box::new(user));
        Ok(())
    }

    /// The values of that stream.
    pub(crate) fn user_of_stream(&mut self) -> Result<&mut User, Refused> {
        if self.stage != Stage::Upgrade {
            return Err(Refused::Upgrade);
        }
        Ok(self.user.get_or_insert_default())
    }

    /// The protocols that the request has named.
    pub(super) fn offer(&mut self, head: &Head<'_>) {
        for protocols in head.fields.named(b"upgrade") {
            self.offered_protocols.extend_from_slice(protocols);
            self.offered_protocols.push(b',');
        }
    }

    /// True if something of it may have been sent, or it is kept.
    pub(super) fn has_begun(&self) -> bool {
        // Also of one that has failed since.
        self.partly_sent || matches!(self.stage, Stage::Stream(_) | Stage::Kept)
    }

    /// Drops what was set of a response that is not to be sent.
    pub(super) fn forget(&mut self) {
        drop(self.out.take_body());
        self.user = None;
    }

    /// True if this was kept, and its owner is the handler and no producer.
    pub(crate) fn is_own(&self) -> bool {
        self.exchange.is_some() && self.stage != Stage::Kept && !self.is_given
    }

    /// Its owner is a producer from now on.
    pub(crate) fn give_away(&mut self) {
        self.is_given = true;
    }

    /// True if the handler keeps the response: what it does with this value has no effect.
    pub(crate) fn is_kept(&self) -> bool {
        self.stage == Stage::Kept
    }

    /// True if the connection becomes a stream.
    pub(crate) fn is_upgrade(&self) -> bool {
        self.stage == Stage::Upgrade
    }

    pub(super) fn pending(&self) -> usize {
        self.pending
    }

    pub(crate) fn set_takes_streams(&mut self, takes_streams: bool) {
        self.takes_streams = takes_streams;
    }

    pub(super) fn takes_streams(&self) -> bool {
        self.takes_streams
    }

    /// Moves what was set so far to a new response. The buffers for the next one stay.
    pub(super) fn move_to(&mut self, kept: &mut Self) {
        let Self { status, has_date, has_upgrade, length, left, stage, close, request, .. } = *self;
        (kept.status, kept.has_date, kept.has_upgrade) = (status, has_date, has_upgrade);
        (kept.length, kept.left) = (length, left);
        (kept.stage, kept.close, kept.request) = (stage, close, request);
        (kept.partly_sent, kept.incomplete) = (self.partly_sent, self.incomplete);
        (kept.until_close, kept.client_gone) = (self.until_close, std::mem::take(&mut self.client_gone));
        kept.fields.clone_from(&self.fields);
        kept.offered_protocols.clone_from(&self.offered_protocols);
        kept.protocol.clone_from(&self.protocol);
        kept.user = self.user.take();
        kept.out.bytes.extend_from_slice(self.out.unsent());
        kept.out.put_body(self.out.take_body());
        self.out.clear();
    }

    /// True if a reason of the handler's to fail is that the client has gone, as a call has told it: no failure of the handler.
    pub(crate) fn has_told(&self, reason: &str) -> bool {
        self.client_gone && reason.ends_with(&Refused::Gone.to_string())
    }

    /// True if the handler has failed, or has left a body incomplete, although its client was there.
    pub(super) fn has_failed(&self) -> bool {
        let is_short = self.length.is_some() && self.lacks() > 0;
        !self.client_gone && (self.incomplete || is_short || matches!(self.stage, Stage::Failed))
    }

    /// Makes the response a plain 500 if nothing has been sent yet; otherwise cuts the connection after what was sent.
    pub(crate) fn fail(&mut self) {
        if let Some(exchange) = &self.exchange {
            if self.stage == Stage::Kept {
                return exchange.fail(false);
            }
            exchange.touch();
        }
        if !self.partly_sent {
            self.out.bytes.truncate(self.start);
        }
        self.out.drop_body();
        self.user = None;
        self.stage = Stage::Failed;
    }
}
