//! A request, as a handler sees it.

use super::head::{Head, Length};
use super::lookups::Decoded;
use super::upload::Upload;
use crate::sys::{crash, socket};
use std::cell::OnceCell;
use std::fmt;
use std::io::Write;
use std::os::fd::BorrowedFd;
use std::rc::Rc;

/// The most characters of a method and of a target in the log.
const LOGGED_METHOD: usize = 20;
const LOGGED_TARGET: usize = 200;
/// The room for a client's address; the longest is `unix:` and a path of 108 bytes, each as `\xNN`.
const PEER_TEXT: usize = 440;

/// An HTTP request: complete in [`crate::Handler::on_request`], its head in [`crate::Handler::on_head`] and
/// [`crate::Handler::on_body`]. Everything in it is borrowed from the worker's buffers until the handler returns.
pub struct Request<'a> {
    head: &'a Head<'a>,
    body: &'a [u8],
    fd: BorrowedFd<'a>,
    listener: u16,
    /// Only if the handler decides after the head.
    upload: Option<&'a Rc<Upload>>,
    peer: OnceCell<([u8; PEER_TEXT], usize)>,
    pub(super) decoded: OnceCell<Box<Decoded<'a>>>,
}

impl<'a> Request<'a> {
    pub(super) fn new(head: &'a Head<'a>, body: &'a [u8], fd: BorrowedFd<'a>, listener: u16) -> Self {
        Self { head, body, fd, listener, upload: None, peer: OnceCell::new(), decoded: OnceCell::new() }
    }

    /// A request of a handler that decides after the head.
    pub(super) fn asked(
        head: &'a Head<'a>,
        body: &'a [u8],
        fd: BorrowedFd<'a>,
        listener: u16,
        upload: &'a Rc<Upload>,
    ) -> Self {
        Self { upload: Some(upload), ..Self::new(head, body, fd, listener) }
    }

    /// Notes that the next call is for this request, in case it crashes.
    #[inline(always)]
    pub(super) fn note(&self) {
        crash::note_request(self.fd, self.head.line.method, self.head.line.target.raw);
    }

    pub(super) fn upload(&self) -> Option<&Rc<Upload>> {
        self.upload
    }

    /// The length of the body; `None` if it is chunked.
    pub(super) fn declared(&self) -> Option<u64> {
        match self.head.length {
            Length::Sized(n) => Some(n),
            Length::Chunked => None,
        }
    }

    /// The method, as sent: `GET`. Case matters (RFC 9110 section 9.1).
    pub fn method(&self) -> &'a str {
        text(self.head.line.method)
    }

    /// The request target, as sent (RFC 9112 section 3.2).
    pub fn target(&self) -> &'a str {
        text(self.head.line.target.raw)
    }

    /// The path of the target, without the query, not decoded; `*` for `OPTIONS *`. CONNECT, whose target has none, is
    /// refused before a handler sees it.
    pub fn path(&self) -> &'a str {
        text(self.head.line.target.path)
    }

    /// The query of the target, without the `?`; `None` if there is no `?`.
    pub fn query(&self) -> Option<&'a str> {
        self.head.line.target.query.map(text)
    }

    /// The authority the request is for: that of an absolute-form target, else the value of the Host field; empty if an
    /// HTTP/1.0 request has neither (RFC 9112 section 3.3).
    pub fn host(&self) -> &'a str {
        text(self.head.host)
    }

    /// The minor version: 1 for HTTP/1.1, 0 for HTTP/1.0.
    pub fn minor_version(&self) -> u8 {
        self.head.line.minor
    }

    /// The value of the first field with this name, compared without case, without the white space around it.
    pub fn header(&self, name: impl AsRef<str>) -> Option<&'a [u8]> {
        self.head.fields.named(name.as_ref().as_bytes()).next()
    }

    /// As [`Request::header`], as text; `None` also if it is not UTF-8.
    pub fn header_str(&self, name: impl AsRef<str>) -> Option<&'a str> {
        self.header(name).and_then(|value| str::from_utf8(value).ok())
    }

    /// The values of all fields with this name, compared without case, in the order sent. Several such fields mean the same as one with
    /// their values, a comma between them (RFC 9110 section 5.3).
    pub fn header_all(&self, name: &str) -> impl Iterator<Item = &'a [u8]> {
        self.head.fields.named(name.as_bytes())
    }

    /// The names, as sent, and values of all header fields, in the order sent.
    ///
    /// ```
    /// # fn f(req: &prefork::Request<'_>) {
    /// for (name, value) in req.headers() {
    ///     println!("{name}: {}", value.escape_ascii());
    /// }
    /// # }
    /// ```
    pub fn headers(&self) -> impl Iterator<Item = (&'a str, &'a [u8])> {
        (0..self.header_count()).filter_map(|index| self.header_at(index))
    }

    /// The number of header fields.
    pub fn header_count(&self) -> usize {
        self.head.fields.len()
    }

    /// Name and value of a header field, in the order sent; `None` if `index` is not below
    /// [`Request::header_count`].
    pub fn header_at(&self, index: usize) -> Option<(&'a str, &'a [u8])> {
        self.head.fields.get(index).map(|(name, value)| (text(name), value))
    }

    /// The body, decoded; empty if there is none, or if it was taken in pieces.
    pub fn body(&self) -> &'a [u8] {
        self.body
    }

    /// The client's address: `192.0.2.1:4711`, `[2001:db8::1]:4711`, `unix:`, or `unix:/path` if the client has bound its
    /// socket. The first call asks the kernel (getpeername(2)); empty if the client is gone by then. Control characters and backslashes of a path, and bytes that are not UTF-8,
    /// are given as `\xNN`.
    pub fn peer(&self) -> &str {
        let (text, len) = self.peer.get_or_init(|| peer_text(self.fd));
        str::from_utf8(&text[..*len]).unwrap_or_default()
    }

    /// The method and the target, shortened and escaped, and the client, for the log.
    pub(crate) fn brief(&self) -> String {
        let (method, target) = (shorten(self.method(), LOGGED_METHOD), shorten(self.target(), LOGGED_TARGET));
        match self.peer() {
            "" => format!("{method} {target}"),
            peer => format!("{method} {target} from {peer}"),
        }
    }

    /// The index of the listener the connection came through, from 0, in the order of the settings.
    pub fn listener(&self) -> u16 {
        self.listener
    }
}

impl fmt::Debug for Request<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (method, target) = (self.method(), self.target());
        let mut shown = f.debug_struct("Request");
        shown.field("method", &method).field("target", &target).field("body", &self.body.len());
        shown.finish_non_exhaustive()
    }
}

/// A part of the head that has been found to be ASCII. Only the parts that a handler asks for are looked at again.
fn text(ascii: &[u8]) -> &str {
    str::from_utf8(ascii).unwrap_or_default()
}

fn shorten(text: &str, most: usize) -> String {
    match text.char_indices().nth(most) {
        None => text.escape_debug().to_string(),
        Some((end, _)) => format!("{}...", text[..end].escape_debug()),
    }
}

/// The client's address as text, without an allocation, and its length.
fn peer_text(fd: BorrowedFd<'_>) -> ([u8; PEER_TEXT], usize) {
    let mut text = [0; PEER_TEXT];
    let mut free = &mut text[..];
    if let Ok(address) = socket::peer_address(fd) {
        // Writing fails only for an address that is too long, which the kernel does not give.
        let _ = write!(free, "{address}");
    }
    let len = PEER_TEXT - free.len();
    (text, len)
}
