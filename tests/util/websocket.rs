//! WebSocket by the examples, in C and in Rust; frames and clients for their tests.

use super::handler::compile;
use super::{Server, Start, Style, host};
use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::{fmt, fs};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Language {
    C,
    Rust,
}
use Language::{C, Rust};

/// Starts an example, with settings and variables of the environment.
#[track_caller]
pub fn start(
    language: Language,
    name: &str,
    settings: &[(&str, &str)],
    environment: &[(&str, &str)],
) -> Server {
    let mut start = Start::new(Style::Data).workers(2);
    for (name, value) in environment {
        start = start.env(name, Some(value.as_ref()));
    }
    if let Some((_, workers)) = settings.iter().find(|(name, _)| *name == "workers") {
        start = start.workers(workers.parse().unwrap());
    }
    match language {
        C => {
            let text =
                |file: &str| fs::read_to_string(Path::new(ROOT).join("ffi-examples").join(file)).unwrap();
            // In one text, since compiled handlers are kept under a hash of it.
            let source = text(&format!("{name}.c"));
            assert!(source.contains("#include \"websocket.h\""));
            let source = source.replace("#include \"websocket.h\"", &text("websocket.h"));
            let strict = ["-std=c99", "-Wall", "-Wextra", "-Werror", "-pedantic", "-fsanitize=undefined"];
            let strict = [&strict[..], &["-fno-sanitize-recover"]].concat();
            for (name, value) in settings.iter().filter(|(name, _)| *name != "workers") {
                start = start.set(name, value);
            }
            start.module(compile(&source, &strict)).own_module().start()
        }
        Rust => {
            let mut words: Vec<OsString> = vec![host::example(name).into(), "127.0.0.1:0".into()];
            let workers =
                settings.iter().find(|(name, _)| *name == "workers").map_or("2", |(_, value)| value);
            for (name, value) in settings.iter().chain(&[("workers", workers)]) {
                words.push(format!("{name}={value}").into());
            }
            start.program(words).start()
        }
    }
}

pub fn echo(language: Language) -> Server {
    start(language, "websocket", &[], &[])
}

/// A frame of the server.
#[derive(PartialEq, Eq, Clone)]
pub struct Frame {
    pub kind: u8,
    pub data: Vec<u8>,
}

impl fmt::Debug for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let some = String::from_utf8_lossy(&self.data[..self.data.len().min(40)]);
        write!(f, "{}:{}:{some:?}", self.kind, self.data.len())
    }
}

pub const TEXT: u8 = 1;
pub const BINARY: u8 = 2;
pub const CLOSE: u8 = 8;
pub const PING: u8 = 9;
pub const PONG: u8 = 10;
pub const FIN: u8 = 0x80;

pub fn of(kind: u8, data: impl AsRef<[u8]>) -> Option<Frame> {
    Some(Frame { kind, data: data.as_ref().to_vec() })
}

/// A frame of a client: `first` is the first byte.
pub fn frame(first: u8, data: impl AsRef<[u8]>) -> Vec<u8> {
    let (data, mask) = (data.as_ref(), [0x37, 0xfa, 0x21, 0x3d]);
    let mut bytes = vec![first];
    match data.len() {
        n @ 0..126 => bytes.push(0x80 | n as u8),
        n @ 126..65536 => {
            bytes.push(0x80 | 126);
            bytes.extend((n as u16).to_be_bytes());
        }
        n => {
            bytes.push(0x80 | 127);
            bytes.extend((n as u64).to_be_bytes());
        }
    }
    bytes.extend(mask);
    bytes.extend(data.iter().zip(mask.iter().cycle()).map(|(b, m)| b ^ m));
    bytes
}

pub fn close_with(code: u16, reason: impl AsRef<[u8]>) -> Vec<u8> {
    frame(FIN | CLOSE, [&code.to_be_bytes(), reason.as_ref()].concat())
}

pub const HANDSHAKE: &str = "GET /chat HTTP/1.1\r\nHost: example.org\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\
    Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n\r\n";

/// A client that speaks bytes.
pub struct Peer {
    pub stream: TcpStream,
    pub read: Vec<u8>,
}

impl Peer {
    pub fn connect(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(super::PATIENCE))?;
        stream.set_write_timeout(Some(super::PATIENCE))?;
        Ok(Self { stream, read: Vec::new() })
    }

    /// The head of the response to a request, line by line.
    pub fn head(&mut self) -> io::Result<Vec<String>> {
        loop {
            if let Some(end) = self.read.windows(4).position(|w| w == b"\r\n\r\n") {
                let head: Vec<u8> = self.read.drain(..end + 4).take(end).collect();
                return Ok(String::from_utf8(head).unwrap().split("\r\n").map(str::to_owned).collect());
            }
            if self.fill()? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    pub fn open_at(address: SocketAddr, path: &str) -> io::Result<Self> {
        let mut peer = Self::connect(address)?;
        peer.stream.write_all(HANDSHAKE.replacen("/chat", path, 1).as_bytes())?;
        let head = peer.head()?;
        assert!(head[0].starts_with("HTTP/1.1 101 "), "{head:?}");
        assert!(has(&head, "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), "{head:?}");
        assert!(!head.iter().any(|line| line.starts_with("Sec-WebSocket-Extensions")), "{head:?}");
        Ok(peer)
    }

    #[track_caller]
    pub fn open(server: &Server) -> Self {
        Self::open_at(server.tcp(), "/").unwrap()
    }

    pub fn fill(&mut self) -> io::Result<usize> {
        let mut part = [0; 65536];
        let n = self.stream.read(&mut part)?;
        self.read.extend_from_slice(&part[..n]);
        Ok(n)
    }

    #[track_caller]
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).unwrap();
    }

    /// Sends a text and waits for it.
    #[track_caller]
    pub fn is_served(&mut self, text: &str) {
        self.send(frame(FIN | TEXT, text));
        assert_eq!(self.next(), of(TEXT, text));
    }

    /// The next frame, or `None` at the end of the connection. Anything that a server must not send is a failure.
    pub fn try_next(&mut self) -> io::Result<Option<Frame>> {
        loop {
            let (head, size) = match *self.read.as_slice() {
                [_, n @ 0..=125, ..] => (2, n as usize),
                [_, 126, a, b, ..] => (4, u16::from_be_bytes([a, b]) as usize),
                [_, 127, ref rest @ ..] if rest.len() >= 8 => {
                    (10, u64::from_be_bytes(rest[..8].try_into().unwrap()) as usize)
                }
                [_, 128..=255, ..] => panic!("a masked frame"),
                _ => (2, usize::MAX - 2),
            };
            if self.read.len() >= head + size {
                let first = self.read[0];
                assert!(first & 0xf0 == FIN && matches!(first & 15, 1 | 2 | 8..=10), "a frame {first:#x}");
                assert!((size >= 126) == (head > 2) && (size >= 65536) == (head > 4), "{head}: {size}");
                let data = self.read.drain(..head + size).skip(head).collect();
                return Ok(Some(Frame { kind: first & 15, data }));
            }
            if self.fill()? == 0 {
                assert!(self.read.is_empty(), "a part of a frame: {:?}", self.read);
                return Ok(None);
            }
        }
    }

    #[track_caller]
    pub fn next(&mut self) -> Option<Frame> {
        self.try_next().unwrap()
    }

    /// The server closes with this code and then ends the connection, without a reset.
    #[track_caller]
    pub fn is_closed_with(&mut self, code: u16, what: &dyn fmt::Debug) {
        let last = self.next();
        let found = last.as_ref().map(|last| &last.data[..last.data.len().min(2)]);
        assert_eq!(found, Some(&code.to_be_bytes()[..]), "{what:?}: {last:?}");
        assert_eq!(last.unwrap().kind, CLOSE, "{what:?}");
        // The answer to it, if the connection is still there: the server has closed only its own side.
        let _ = self.stream.write_all(&close_with(code, ""));
        let _ = self.stream.shutdown(Shutdown::Write);
        assert_eq!(self.next(), None, "{what:?}");
    }
}

pub fn has(head: &[String], line: &str) -> bool {
    head.iter().any(|found| found.eq_ignore_ascii_case(line))
}

/// The command for a client that is not ours, which runs for at most three minutes.
pub fn command_of_others(name: &str) -> Command {
    let mut command = Command::new("timeout");
    // Debian's Python, which has Debian's packages, and the folder in which Node does not look for Debian's.
    command.arg("180").arg(if name.ends_with("js") { "node" } else { "/usr/bin/python3" });
    command.env("NODE_PATH", "/usr/share/nodejs").arg(Path::new(ROOT).join("tests").join(name));
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Starts a client that is not ours.
pub fn client_of_others(name: &str, server: &Server, what: &str) -> Child {
    let mut command = command_of_others(name);
    command.args([what, &format!("ws://{}/", server.tcp())]).stdin(Stdio::null()).spawn().unwrap()
}

/// It has ended, and had nothing to object to.
#[track_caller]
pub fn was_content(client: Child) {
    let out = client.wait_with_output().unwrap();
    let (said, errors) = (String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    assert!(out.status.success() && said.trim_end().ends_with("ok"), "{said}{errors}");
}

pub const OTHERS: [&str; 2] = ["websocket.js", "websocket.py"];

/// A client in a room.
pub struct Guest {
    pub peer: Peer,
    pub name: String,
}

impl Guest {
    pub fn join(address: SocketAddr, room: &str) -> io::Result<Option<Self>> {
        let mut peer = Peer::open_at(address, room)?;
        // The first thing that it hears is itself, or a close if the worker leaves.
        let Some(text) = heard(&mut peer)? else { return Ok(None) };
        Ok(Some(Self { peer, name: text.strip_suffix(" joins").unwrap().into() }))
    }
}

/// The next text; `None` after a close, which must be 1001.
pub fn heard(peer: &mut Peer) -> io::Result<Option<String>> {
    loop {
        match peer.try_next()? {
            Some(Frame { kind: TEXT, data }) => {
                let text = String::from_utf8(data);
                return Ok(Some(text.unwrap_or_else(|e| panic!("no text: {e}"))));
            }
            Some(Frame { kind: PING, .. }) => {}
            Some(Frame { kind: CLOSE, data }) => {
                assert_eq!(data, 1001_u16.to_be_bytes());
                let _ = peer.stream.write_all(&close_with(1001, ""));
                let _ = peer.stream.shutdown(Shutdown::Write);
                assert_eq!(peer.try_next()?, None);
                return Ok(None);
            }
            other => panic!("{other:?}"),
        }
    }
}
