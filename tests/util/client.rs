//! A client that distinguishes faults: refused, reset, closed early and timed out are different bugs.

use super::handler::Style;
use socket2::SockRef;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{self, UnixStream};
use std::path::PathBuf;
use std::time::Duration;

/// The time a client waits for an answer by default.
const TIMEOUT: Duration = Duration::from_secs(15);

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    Tcp(SocketAddr),
    Unix(PathBuf),
    Udp(SocketAddr),
}

/// The fault of a request without a correct answer.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    Refused,
    Reset,
    /// The server closed before the answer was complete.
    Closed,
    TimedOut,
    Other(String),
}

impl From<io::Error> for Fault {
    fn from(e: io::Error) -> Self {
        match e.kind() {
            io::ErrorKind::ConnectionRefused => Self::Refused,
            io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => Self::Reset,
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => Self::TimedOut,
            io::ErrorKind::UnexpectedEof => Self::Closed,
            _ => Self::Other(e.to_string()),
        }
    }
}

enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// One connection that speaks to `tests/handler.c`.
pub struct Client {
    socket: Socket,
    style: Style,
    read: Vec<u8>,
}

/// An HTTP answer.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: String,
}

impl Client {
    pub fn connect(address: &Address, style: Style) -> Result<Self, Fault> {
        let socket = match address {
            Address::Tcp(a) => {
                let socket = TcpStream::connect_timeout(a, TIMEOUT)?;
                // No process listens: the kernel has chosen the same port for this end, which has connected to itself.
                if socket.local_addr()? == *a {
                    return Err(Fault::Refused);
                }
                Socket::Tcp(socket)
            }
            Address::Unix(path) => Socket::Unix(match path.to_str().and_then(|p| p.strip_prefix('@')) {
                Some(name) => UnixStream::connect_addr(&net::SocketAddr::from_abstract_name(name)?)?,
                None => UnixStream::connect(path)?,
            }),
            Address::Udp(_) => panic!("no connections there"),
        };
        Ok(Self::with(socket, style))
    }

    /// As [`Client::connect`], from the address `source`.
    pub fn connect_from(source: IpAddr, address: SocketAddr, style: Style) -> Result<Self, Fault> {
        let socket =
            socket2::Socket::new(socket2::Domain::for_address(address), socket2::Type::STREAM, None)?;
        socket.bind(&SocketAddr::new(source, 0).into())?;
        socket.connect_timeout(&address.into(), TIMEOUT)?;
        Ok(Self::with(Socket::Tcp(socket.into()), style))
    }

    fn with(socket: Socket, style: Style) -> Self {
        let client = Self { socket, style, read: Vec::new() };
        client.patience(TIMEOUT);
        client
    }

    /// The address of this end.
    pub fn local(&self) -> SocketAddr {
        SockRef::from(&self.socket).local_addr().unwrap().as_socket().unwrap()
    }

    /// Sets the timeout of reads and writes.
    pub fn patience(&self, timeout: Duration) {
        let socket = SockRef::from(&self.socket);
        socket.set_read_timeout(Some(timeout)).unwrap();
        socket.set_write_timeout(Some(timeout)).unwrap();
    }

    /// Sends a command and waits for its answer. The connection stays open.
    pub fn ask(&mut self, command: &str) -> Result<String, Fault> {
        self.send_command(command)?;
        self.answer()
    }

    /// As [`Client::ask`], as the last command: the server must close afterwards.
    pub fn ask_last(mut self, command: &str) -> Result<String, Fault> {
        match self.style {
            Style::Request => {
                let path = command.replace(' ', "/");
                self.send(
                    format!("GET /{path} HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n").as_bytes(),
                )?;
            }
            Style::Connection | Style::Data | Style::Datagram => self.send_command(command)?,
        }
        let answer = self.answer()?;
        if self.style != Style::Request {
            self.end()?;
        }
        match self.rest()?.as_slice() {
            [] => Ok(answer),
            more => Err(Fault::Other(format!("behind the answer: {}", String::from_utf8_lossy(more)))),
        }
    }

    /// Sends a command and does not wait.
    pub fn send_command(&mut self, command: &str) -> Result<(), Fault> {
        match self.style {
            Style::Request => {
                let path = command.replace(' ', "/");
                self.send(format!("GET /{path} HTTP/1.1\r\nHost: t\r\n\r\n").as_bytes())
            }
            Style::Connection | Style::Data | Style::Datagram => self.send(format!("{command}\n").as_bytes()),
        }
    }

    /// Waits for the answer to a command that was sent.
    pub fn answer(&mut self) -> Result<String, Fault> {
        match self.style {
            Style::Request => match self.http_answer()? {
                Answer { status: 200, body, .. } => Ok(body),
                other => Err(Fault::Other(format!("{other:?}"))),
            },
            Style::Connection | Style::Data | Style::Datagram => {
                let mut line = self.take_until(b"\n")?;
                line.pop();
                Ok(line)
            }
        }
    }

    /// Waits for an HTTP answer of any status.
    pub fn http_answer(&mut self) -> Result<Answer, Fault> {
        let head = self.take_until(b"\r\n\r\n")?;
        let bad = || Fault::Other(format!("not understood: {head}"));
        let status = head.split(' ').nth(1).and_then(|s| s.parse().ok()).ok_or_else(bad)?;
        let lower = head.to_ascii_lowercase();
        let body = match lower.lines().find_map(|l| l.strip_prefix("content-length:")) {
            Some(length) => self.take(length.trim().parse().map_err(|_| bad())?)?,
            None if lower.contains("\r\ntransfer-encoding: chunked\r\n") => self.chunks()?,
            None => return Err(bad()),
        };
        Ok(Answer { status, head, body })
    }

    /// Sends a request for a path and returns the length of the answer's body.
    pub fn http_answer_to(&mut self, path: &str) -> Result<usize, Fault> {
        self.send(format!("GET {path} HTTP/1.1\r\nHost: t\r\n\r\n").as_bytes())?;
        self.http_answer().map(|answer| answer.body.len())
    }

    fn chunks(&mut self) -> Result<String, Fault> {
        let mut body = String::new();
        loop {
            let line = self.take_until(b"\r\n")?;
            let size = usize::from_str_radix(line.trim_end(), 16).map_err(|e| Fault::Other(e.to_string()))?;
            body.push_str(&self.take(size)?);
            if self.take(2)? != "\r\n" {
                return Err(Fault::Other("no line end behind a chunk".into()));
            }
            if size == 0 {
                return Ok(body);
            }
        }
    }

    fn take(&mut self, length: usize) -> Result<String, Fault> {
        while self.read.len() < length {
            self.receive()?;
        }
        let taken: Vec<u8> = self.read.drain(..length).collect();
        Ok(String::from_utf8_lossy(&taken).into_owned())
    }

    pub fn send(&mut self, bytes: &[u8]) -> Result<(), Fault> {
        match &mut self.socket {
            Socket::Tcp(s) => s.write_all(bytes)?,
            Socket::Unix(s) => s.write_all(bytes)?,
        }
        Ok(())
    }

    /// Waits until something of the server has arrived, and leaves it there.
    pub fn wait_for_bytes(&self) -> Result<(), Fault> {
        let mut byte = [std::mem::MaybeUninit::uninit()];
        SockRef::from(&self.socket).peek(&mut byte)?;
        Ok(())
    }

    /// True if something of the server has arrived and was not read.
    pub fn has_bytes(&self) -> bool {
        let mut byte = [std::mem::MaybeUninit::uninit()];
        let flags = libc::MSG_PEEK | libc::MSG_DONTWAIT;
        SockRef::from(&self.socket).recv_with_flags(&mut byte, flags).is_ok()
    }

    /// Reads what has arrived, and keeps it.
    pub fn gather(&mut self) {
        self.receive().unwrap();
    }

    /// Everything up to the server's end of file.
    pub fn rest(&mut self) -> Result<Vec<u8>, Fault> {
        loop {
            match self.receive() {
                Ok(()) => {}
                Err(Fault::Closed) => return Ok(std::mem::take(&mut self.read)),
                Err(e) => return Err(e),
            }
        }
    }

    /// Reads up to this number of bytes, or to the server's end of file, and returns how many there were.
    pub fn rest_up_to(&mut self, most: usize) -> Result<usize, Fault> {
        while self.read.len() < most {
            match self.receive() {
                Err(Fault::Closed) => break,
                done => done?,
            }
        }
        Ok(std::mem::take(&mut self.read).len())
    }

    /// Reads once; 0 at the server's end of file.
    pub fn read_some(&mut self, into: &mut [u8]) -> Result<usize, Fault> {
        assert!(self.read.is_empty());
        Ok(match &mut self.socket {
            Socket::Tcp(s) => s.read(into)?,
            Socket::Unix(s) => s.read(into)?,
        })
    }

    /// A second owner of the same connection.
    pub fn half(&self) -> Self {
        let socket = match &self.socket {
            Socket::Tcp(s) => Socket::Tcp(s.try_clone().unwrap()),
            Socket::Unix(s) => Socket::Unix(s.try_clone().unwrap()),
        };
        Self { socket, style: self.style, read: Vec::new() }
    }

    /// False if the server has closed the connection and nothing is left to read.
    pub fn is_open(&self) -> bool {
        let mut byte = [std::mem::MaybeUninit::uninit()];
        let flags = libc::MSG_PEEK | libc::MSG_DONTWAIT;
        match SockRef::from(&self.socket).recv_with_flags(&mut byte, flags) {
            Ok(n) => n > 0,
            Err(e) => e.kind() == io::ErrorKind::WouldBlock,
        }
    }

    /// Ends the sending side.
    pub fn end(&self) -> Result<(), Fault> {
        SockRef::from(&self.socket).shutdown(Shutdown::Write)?;
        Ok(())
    }

    /// Closes with a reset instead of end of file.
    pub fn reset(self) {
        SockRef::from(&self.socket).set_linger(Some(Duration::ZERO)).unwrap();
    }

    fn receive(&mut self) -> Result<(), Fault> {
        let mut buf = [0; 16 * 1024];
        // A child of the test process that ends while another is spawned interrupts a read with a timeout (signal(7)).
        let n = loop {
            let read = match &mut self.socket {
                Socket::Tcp(s) => s.read(&mut buf),
                Socket::Unix(s) => s.read(&mut buf),
            };
            match read {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                done => break done?,
            }
        };
        self.read.extend_from_slice(&buf[..n]);
        if n == 0 { Err(Fault::Closed) } else { Ok(()) }
    }

    fn take_until(&mut self, mark: &[u8]) -> Result<String, Fault> {
        loop {
            if let Some(at) = self.read.windows(mark.len()).position(|w| w == mark) {
                let taken: Vec<u8> = self.read.drain(..at + mark.len()).collect();
                return Ok(String::from_utf8_lossy(&taken).into_owned());
            }
            self.receive()?;
        }
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(s) => s.as_fd(),
            Self::Unix(s) => s.as_fd(),
        }
    }
}
