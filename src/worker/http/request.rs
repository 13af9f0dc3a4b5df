//! A complete request, as a handler sees it. Everything it gives is borrowed until the handler returns.

/// A complete HTTP request. What it gives is borrowed from the worker's buffers until the handler returns.
pub struct Request<'a> {
    buf: &'a [u8],
}

impl<'a> Request<'a> {
    /// The method, as sent: `GET`. Case matters (RFC 9110 section 9.1).
    pub fn method(&self) -> &'a str {
        todo!()
    }

    /// The request target, as sent (RFC 9112 section 3.2).
    pub fn target(&self) -> &'a str {
        todo!()
    }

    /// The path of the target, without the query, not decoded; `*` for `OPTIONS *`; empty for CONNECT.
    pub fn path(&self) -> &'a str {
        todo!()
    }

    /// The query of the target, without the `?`; `None` where there is no `?`.
    pub fn query(&self) -> Option<&'a str> {
        todo!()
    }

    /// The authority the request is for: that of an absolute-form target, else the Host field's value; empty where an HTTP/1.0
    /// request has neither (RFC 9112 section 3.3).
    pub fn host(&self) -> &'a str {
        todo!()
    }

    /// The minor version: 1 for HTTP/1.1, 0 for HTTP/1.0.
    pub fn minor_version(&self) -> u8 {
        todo!()
    }

    /// The value of the first field of that name, compared without case; white space around it is stripped.
    pub fn header(&self, _name: &str) -> Option<&'a [u8]> {
        todo!()
    }

    /// The number of header fields.
    pub fn header_count(&self) -> usize {
        todo!()
    }

    /// Name and value of a header field, in the order sent; `None` from [`Request::header_count`] on.
    pub fn header_at(&self, _index: usize) -> Option<(&'a str, &'a [u8])> {
        todo!()
    }

    /// The body, decoded; empty where there is none.
    pub fn body(&self) -> &'a [u8] {
        self.buf
    }

    /// The client's address: `192.0.2.1:4711`, `[2001:db8::1]:4711`, `unix:`; empty where the kernel no longer knows it.
    /// Asked from the kernel at the first call (getpeername(2)).
    pub fn peer(&self) -> &str {
        todo!()
    }

    /// The index, from 0, of the listener the connection came through, in the order they were given.
    pub fn listener(&self) -> u16 {
        todo!()
    }
}
