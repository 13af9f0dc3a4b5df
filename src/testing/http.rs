//! Requests that a test makes, and responses as a client reads them.

use super::client::TestClient;
use super::{Target, connect, must};
use std::fmt;
use std::net::SocketAddr;

/// A request to be sent to a [`crate::testing::TestWorker`], on a connection of its own, or on that of a [`TestClient`].
#[must_use = "send() sends it"]
pub struct TestRequest {
    target: Target,
    line: String,
    is_head: bool,
    headers: Vec<(String, Vec<u8>)>,
    body: Option<Body>,
    listener: Option<String>,
    peer: Option<SocketAddr>,
}

enum Body {
    Whole(Vec<u8>),
    Chunks(Vec<Vec<u8>>),
}

impl TestRequest {
    pub(super) fn new(target: Target, method: &str, uri: &str) -> Self {
        Self {
            target,
            line: format!("{method} {uri} HTTP/1.1\r\n"),
            is_head: method == "HEAD",
            headers: Vec::new(),
            body: None,
            listener: None,
            peer: None,
        }
    }

    /// Adds a field. `Host: localhost` and the length of the body need not be given.
    pub fn header(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        self.headers.push((name.to_owned(), value.as_ref().to_vec()));
        self
    }

    /// Sets the body, which is sent with its length.
    pub fn body(mut self, bytes: impl AsRef<[u8]>) -> Self {
        self.body = Some(Body::Whole(bytes.as_ref().to_vec()));
        self
    }

    /// Sets the body, which is sent in these chunks (`Transfer-Encoding: chunked`).
    pub fn chunks<T: AsRef<[u8]>>(mut self, chunks: impl IntoIterator<Item = T>) -> Self {
        // One without bytes would end the body.
        let chunks =
            chunks.into_iter().map(|chunk| chunk.as_ref().to_vec()).filter(|chunk| !chunk.is_empty());
        self.body = Some(Body::Chunks(chunks.collect()));
        self
    }

    /// Sends it to the listener of this name ([`crate::Worker::serve`]). Of no effect on a connection that exists.
    pub fn listener(mut self, name: &str) -> Self {
        self.listener = Some(name.to_owned());
        self
    }

    /// Sends it from this address ([`crate::Request::peer`]). Of no effect on a connection that exists.
    ///
    /// # Panics
    /// If it is no IP address with a port.
    #[track_caller]
    pub fn peer(mut self, address: &str) -> Self {
        self.peer = Some(super::address(address));
        self
    }

    /// Sends it, and returns the response when it is complete. If the handler has threads or watches descriptors, that may take real
    /// time.
    ///
    /// # Panics
    /// If no response comes; and with the panic of a callback, unless [`crate::testing::TestOptions::catch_panics`] is set.
    #[track_caller]
    pub fn send(self) -> TestResponse {
        let line = self.line.trim_end().to_owned();
        match self.try_send() {
            Ok(response) => response,
            Err(e) => panic!("{line}: {e}"),
        }
    }

    /// As [`TestRequest::send`].
    ///
    /// # Errors
    /// Why no response comes.
    #[track_caller]
    pub fn try_send(self) -> Result<TestResponse, String> {
        self.try_start()?.try_response()
    }

    /// Sends it, and returns the client without waiting for the response ([`TestClient::response`], [`TestClient::partial_response`]).
    #[track_caller]
    pub fn start(self) -> TestClient {
        must(self.try_start())
    }

    #[track_caller]
    pub(crate) fn try_start(self) -> Result<TestClient, String> {
        let bytes = self.bytes();
        let client = match &self.target {
            Target::Client(client) => client.clone(),
            Target::Worker(worker) => connect(worker, self.listener.as_deref(), self.peer, true)?,
        };
        client.add_request(self.is_head);
        client.send(bytes);
        Ok(client)
    }

    fn bytes(&self) -> Vec<u8> {
        let mut out = self.line.clone().into_bytes();
        let has = |name: &str| self.headers.iter().any(|(other, _)| other.eq_ignore_ascii_case(name));
        let mut add =
            |name: &str, value: &[u8]| out.extend([name.as_bytes(), b": ", value, b"\r\n"].concat());
        if !has("host") {
            add("Host", b"localhost");
        }
        for (name, value) in &self.headers {
            add(name, value);
        }
        match &self.body {
            Some(Body::Whole(bytes)) if !has("content-length") => {
                add("Content-Length", bytes.len().to_string().as_bytes());
            }
            Some(Body::Chunks(_)) if !has("transfer-encoding") => add("Transfer-Encoding", b"chunked"),
            _ => {}
        }
        out.extend(b"\r\n");
        match &self.body {
            Some(Body::Whole(bytes)) => out.extend(bytes),
            Some(Body::Chunks(chunks)) => {
                for chunk in chunks {
                    out.extend([format!("{:x}\r\n", chunk.len()).as_bytes(), chunk, b"\r\n"].concat());
                }
                out.extend(b"0\r\n\r\n");
            }
            None => {}
        }
        out
    }
}

impl fmt::Debug for TestRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("TestRequest").field(&self.line.trim_end()).finish()
    }
}

/// A response, as the client has read it: of chunks, the body that they carry.
pub struct TestResponse {
    status: u16,
    reason: String,
    headers: Vec<(String, Vec<u8>)>,
    body: Vec<u8>,
    interim: Vec<u16>,
    is_complete: bool,
    /// The bytes that it consists of.
    len: usize,
    client: Option<TestClient>,
    is_open: bool,
}

impl TestResponse {
    /// The status code.
    pub fn status(&self) -> u16 {
        self.status
    }

    /// The reason phrase.
    pub fn reason(&self) -> &str {
        &self.reason
    }

    /// The value of the first field of this name, if that is UTF-8.
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(other, _)| other.eq_ignore_ascii_case(name));
        found.and_then(|(_, value)| str::from_utf8(value).ok())
    }

    /// All fields, in order.
    pub fn headers(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.headers.iter().map(|(name, value)| (&**name, &**value))
    }

    /// The body.
    pub fn body(&self) -> &[u8] {
        &self.body
    }

    /// The body as text.
    ///
    /// # Panics
    /// If it is not UTF-8.
    #[track_caller]
    pub fn text(&self) -> &str {
        match str::from_utf8(&self.body) {
            Ok(text) => text,
            Err(e) => panic!("the body is no text: {e}"),
        }
    }

    /// The codes of the interim responses in front of it, such as 100.
    pub fn interim(&self) -> &[u16] {
        &self.interim
    }

    /// False if more of it may come ([`TestClient::partial_response`]).
    pub fn is_complete(&self) -> bool {
        self.is_complete
    }

    /// True if the connection can take another request; or, after an upgrade, is a stream.
    pub fn keeps_connection(&self) -> bool {
        self.is_open
    }

    /// True if the connection is a stream now (101).
    pub fn is_upgrade(&self) -> bool {
        self.status == 101
    }

    /// The connection: for another request, or for the stream that follows an upgrade.
    pub fn client(&self) -> Option<&TestClient> {
        self.client.as_ref()
    }

    /// As [`TestResponse::client`].
    ///
    /// # Panics
    /// Never for a response of this module.
    #[track_caller]
    pub fn into_client(self) -> TestClient {
        match self.client {
            Some(client) => client,
            None => panic!("the response has no connection"),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn with_client(mut self, client: TestClient, is_open: bool) -> Self {
        (self.client, self.is_open) = (Some(client), is_open);
        self
    }
}

impl fmt::Debug for TestResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.status, self.reason)?;
        for (name, value) in &self.headers {
            write!(f, "\n{name}: {}", value.escape_ascii())?;
        }
        write!(f, "\n\n{}", self.body.escape_ascii())
    }
}

/// Reads a response from the front of what has come. `None` if its head is not complete.
///
/// # Errors
/// Why this is no response.
pub fn parse(bytes: &[u8], is_head: bool, has_ended: bool) -> Result<Option<TestResponse>, String> {
    let (mut at, mut interim) = (0, Vec::new());
    loop {
        let Some(end) = find(&bytes[at..], b"\r\n\r\n") else { return Ok(None) };
        let (status, reason, headers) = parse_head(&bytes[at..at + end])?;
        at += end + 4;
        if (100..200).contains(&status) && status != 101 {
            interim.push(status);
            continue;
        }
        let value = |name: &str| {
            headers.iter().find(|(other, _)| other.eq_ignore_ascii_case(name)).map(|(_, value)| &value[..])
        };
        let rest = &bytes[at..];
        let (body, used, is_complete) = if is_head || matches!(status, 101 | 204 | 304) {
            (Vec::new(), 0, true)
        } else if value("transfer-encoding").is_some_and(|v| v.eq_ignore_ascii_case(b"chunked")) {
            parse_chunks(rest)?
        } else if let Some(length) = value("content-length") {
            let length = str::from_utf8(length).ok().and_then(|text| text.parse().ok());
            let length: usize = length.ok_or("a response whose Content-Length is no number")?;
            let len = rest.len().min(length);
            (rest[..len].to_vec(), len, len == length)
        } else {
            (rest.to_vec(), rest.len(), has_ended)
        };
        let len = at + used;
        return Ok(Some(TestResponse {
            status,
            reason,
            headers,
            body,
            interim,
            is_complete,
            len,
            client: None,
            is_open: false,
        }));
    }
}

type Head = (u16, String, Vec<(String, Vec<u8>)>);

fn parse_head(head: &[u8]) -> Result<Head, String> {
    let fault = || format!("this is no response of HTTP: \"{}\"", head[..head.len().min(80)].escape_ascii());
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let mut lines = head.split(|b| *b == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    let line = text(lines.next().unwrap_or_default());
    let rest = line.strip_prefix("HTTP/1.").and_then(|rest| rest.split_once(' ')).ok_or_else(fault)?.1;
    let (code, reason) = rest.split_once(' ').unwrap_or((rest, ""));
    let status = code.parse().map_err(|_| fault())?;
    let mut headers = Vec::new();
    for line in lines {
        let colon = line.iter().position(|b| *b == b':').ok_or_else(fault)?;
        headers.push((text(&line[..colon]), line[colon + 1..].trim_ascii().to_vec()));
    }
    Ok((status, reason.to_owned(), headers))
}

/// Returns the body, the bytes that carry it, and whether it is complete.
fn parse_chunks(bytes: &[u8]) -> Result<(Vec<u8>, usize, bool), String> {
    let (mut body, mut at) = (Vec::new(), 0);
    loop {
        let Some(end) = find(&bytes[at..], b"\r\n") else { return Ok((body, at, false)) };
        let size = str::from_utf8(&bytes[at..at + end]).ok();
        let size = size.and_then(|line| usize::from_str_radix(line.split(';').next()?.trim(), 16).ok());
        let size = size.ok_or("a chunk of the response has no size")?;
        let data = at + end + 2;
        if size == 0 {
            // Trailers, up to an empty line.
            let mut line = data;
            loop {
                let Some(end) = find(&bytes[line..], b"\r\n") else { return Ok((body, at, false)) };
                line += end + 2;
                if end == 0 {
                    return Ok((body, line, true));
                }
            }
        }
        let have = bytes.len().saturating_sub(data).min(size);
        body.extend(&bytes[data..data + have]);
        if bytes.len() < data + size + 2 {
            return Ok((body, at, false));
        }
        at = data + size + 2;
    }
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}
