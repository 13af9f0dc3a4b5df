//! A client of the control socket: connects, sends requests, reads replies, and never waits longer than its caller says.

use super::protocol::{self, Hello, MAX_REPLY, Refusal, Reply, Request, VERSION, write_line};
use crate::sys::{peer, socket};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

/// The time that a stopped process has to disappear after it has closed its control socket.
const LAST_STEPS: Duration = Duration::from_secs(2);
/// The pause between two attempts to connect to a master that has no room.
const PAUSE: Duration = Duration::from_millis(20);

/// A connection to a master.
#[derive(Debug)]
pub struct Client {
    socket: OwnedFd,
    inbox: Vec<u8>,
    hello: Hello,
    pid: i32,
}

impl Client {
    /// Connects to the master with this socket.
    ///
    /// # Errors
    /// `ConnectionRefused`: the master has ended. `TimedOut`: it does not answer. `PermissionDenied`: it does not admit this
    /// user. `Unsupported`: it uses another version of the protocol. `InvalidData`: it is no master.
    pub fn connect(path: &Path, patience: Duration) -> io::Result<Self> {
        let end = Instant::now() + patience;
        loop {
            match Self::try_connect(path, end) {
                // Its backlog or its table of clients is full.
                Err(e) if e.kind() == io::ErrorKind::WouldBlock && Instant::now() + PAUSE < end => {
                    std::thread::sleep(PAUSE);
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    return Err(io::Error::new(io::ErrorKind::TimedOut, "it has too many clients"));
                }
                done => return done,
            }
        }
    }

    fn try_connect(path: &Path, end: Instant) -> io::Result<Self> {
        let socket = socket::connect_unix(path)?;
        let pid = peer::peer_of(socket.as_fd())?.pid;
        let unknown = Hello { prefork: String::new(), protocol: 0, name: String::new(), pid };
        let mut client = Self { socket, inbox: Vec::new(), hello: unknown, pid };
        match client.next_until(Some(end))? {
            Reply::Hello(hello) if hello.protocol == VERSION => {
                client.hello = hello;
                Ok(client)
            }
            Reply::Hello(hello) => Err(io::Error::new(
                io::ErrorKind::Unsupported,
                format!(
                    "it uses protocol {}, this prefork {VERSION}: use prefork {}",
                    hello.protocol, hello.prefork
                ),
            )),
            Reply::Error(refusal) => Err(refused(&refusal)),
            _ => Err(io::ErrorKind::InvalidData.into()),
        }
    }

    /// The master's introduction.
    pub fn hello(&self) -> &Hello {
        &self.hello
    }

    /// Sends a request.
    ///
    /// # Errors
    /// Those of send(2).
    pub fn send(&mut self, request: &Request) -> io::Result<()> {
        let mut line = Vec::new();
        write_line(request, &mut line)?;
        let mut rest = line.as_slice();
        while !rest.is_empty() {
            socket::wait_ready(self.socket.as_fd(), true, None)?;
            rest = &rest[socket::send(self.socket.as_fd(), rest)?..];
        }
        Ok(())
    }

    /// Returns the next reply; waits for it at most `patience`, or forever if that is `None`.
    ///
    /// # Errors
    /// `TimedOut`; `UnexpectedEof`: the master has closed the connection; `InvalidData`: the line is no reply.
    pub fn next(&mut self, patience: Option<Duration>) -> io::Result<Reply> {
        self.next_until(patience.map(|p| Instant::now() + p))
    }

    fn next_until(&mut self, end: Option<Instant>) -> io::Result<Reply> {
        let mut searched = 0;
        loop {
            if let Some(at) = self.inbox[searched..].iter().position(|&b| b == b'\n') {
                let line: Vec<u8> = self.inbox.drain(..=searched + at).collect();
                return serde_json::from_slice(&line)
                    .map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e));
            }
            searched = self.inbox.len();
            if searched > MAX_REPLY {
                return Err(io::ErrorKind::InvalidData.into());
            }
            let left = end.map(|end| end.saturating_duration_since(Instant::now()));
            if !socket::wait_ready(self.socket.as_fd(), false, left)? {
                return Err(io::ErrorKind::TimedOut.into());
            }
            self.inbox.reserve(16 * 1024);
            match socket::recv_append(self.socket.as_fd(), &mut self.inbox) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Err(e) if e.kind() == io::ErrorKind::ConnectionReset => {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                Ok(_) => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                Err(e) => return Err(e),
            }
        }
    }

    /// After [`Reply::Stopped`]: waits until the master's process has ended, or at most two seconds if a host program
    /// continues.
    pub fn wait_gone(mut self) {
        let watch = peer::watch_stranger(self.pid);
        while self.next(Some(LAST_STEPS)).is_ok() {}
        drop(watch.and_then(|watch| socket::wait_ready(watch.as_fd(), false, Some(LAST_STEPS))));
    }
}

/// True if a master's process has ended or does so within this time. A master that has closed the connection may also have
/// been replaced by another program (SIGUSR2), in the same process.
pub fn ends_within(pid: i32, patience: Duration) -> bool {
    let ended = |watch: OwnedFd| socket::wait_ready(watch.as_fd(), false, Some(patience)).unwrap_or(false);
    // There is no pidfd for a process that has been reaped.
    peer::watch_stranger(pid).map_or(true, ended)
}

fn refused(refusal: &Refusal) -> io::Error {
    let kind = match refusal.kind {
        protocol::RefusalKind::Denied => io::ErrorKind::PermissionDenied,
        protocol::RefusalKind::Busy => io::ErrorKind::WouldBlock,
        _ => io::ErrorKind::Other,
    };
    io::Error::new(kind, refusal.text.clone())
}
