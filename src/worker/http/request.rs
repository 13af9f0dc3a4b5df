//! A complete request, as a handler sees it. Everything it gives is borrowed until the handler returns.

use super::head::Head;
use crate::sys::socket;
use std::cell::OnceCell;
use std::fmt::{self, Write};
use std::os::fd::BorrowedFd;

/// A complete HTTP request. What it gives is borrowed from the worker's buffers until the handler returns.
pub struct Request<'a> {
    head: &'a Head<'a>,
    body: &'a [u8],
    fd: BorrowedFd<'a>,
    listener: u16,
    peer: OnceCell<PeerText>,
}

impl<'a> Request<'a> {
    pub(super) fn new(head: &'a Head<'a>, body: &'a [u8], fd: BorrowedFd<'a>, listener: u16) -> Self {
        Self { head, body, fd, listener, peer: OnceCell::new() }
    }

    /// The method, as sent: `GET`. Case matters (RFC 9110 section 9.1).
    pub fn method(&self) -> &'a str {
        self.head.method
    }

    /// The request target, as sent (RFC 9112 section 3.2).
    pub fn target(&self) -> &'a str {
        self.head.target
    }

    /// The path of the target, without the query, not decoded; `*` for `OPTIONS *`. (CONNECT, which has none, is refused
    /// before a handler sees it.)
    pub fn path(&self) -> &'a str {
        self.head.path
    }

    /// The query of the target, without the `?`; `None` where there is no `?`.
    pub fn query(&self) -> Option<&'a str> {
        self.head.query
    }

    /// The authority the request is for: that of an absolute-form target, else the Host field's value; empty where an HTTP/1.0
    /// request has neither (RFC 9112 section 3.3).
    pub fn host(&self) -> &'a str {
        self.head.host
    }

    /// The minor version: 1 for HTTP/1.1, 0 for HTTP/1.0.
    pub fn minor_version(&self) -> u8 {
        self.head.minor
    }

    /// The value of the first field of that name, compared without case; white space around it is stripped.
    pub fn header(&self, name: &str) -> Option<&'a [u8]> {
        self.head.field(name)
    }

    /// The number of header fields.
    pub fn header_count(&self) -> usize {
        self.head.fields.len()
    }

    /// Name and value of a header field, in the order sent; `None` from [`Request::header_count`] on.
    pub fn header_at(&self, index: usize) -> Option<(&'a str, &'a [u8])> {
        self.head.fields.get(index).map(|field| (field.name, field.value))
    }

    /// The body, decoded; empty where there is none.
    pub fn body(&self) -> &'a [u8] {
        self.body
    }

    /// The client's address: `192.0.2.1:4711`, `[2001:db8::1]:4711`, `unix:`; empty where the kernel no longer knows it.
    /// Asked from the kernel at the first call (getpeername(2)).
    pub fn peer(&self) -> &str {
        self.peer.get_or_init(|| PeerText::ask(self.fd)).text()
    }

    /// The index, from 0, of the listener the connection came through, in the order they were given.
    pub fn listener(&self) -> u16 {
        self.listener
    }
}

/// An address as text, without an allocation: the longest is `unix:` and a path of 107 bytes.
struct PeerText {
    len: usize,
    bytes: [u8; 112],
}

impl PeerText {
    fn ask(fd: BorrowedFd<'_>) -> Self {
        let mut text = Self { len: 0, bytes: [0; 112] };
        if let Ok(address) = socket::peer_address(fd) {
            // What does not fit, which is no address the kernel gives, is cut off.
            let _ = write!(text, "{address}");
        }
        text
    }

    fn text(&self) -> &str {
        str::from_utf8(&self.bytes[..self.len]).unwrap_or_default()
    }
}

impl Write for PeerText {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = self.bytes.get_mut(self.len..self.len + text.len()).ok_or(fmt::Error)?;
        room.copy_from_slice(text.as_bytes());
        self.len += text.len();
        Ok(())
    }
}
