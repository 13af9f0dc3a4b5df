//! A client of the control socket: connects, sends requests, reads replies. No call takes longer than its caller allows.

use super::protocol::{self, Hello, MAX_REPLY, Refusal, RefusalKind, Reply, Request, VERSION};
use crate::sys::{peer, process, socket};
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

/// The longest time for a stopped process to end after it has closed its control socket.
const LAST_STEPS: Duration = Duration::from_secs(2);
/// The pause between two attempts to connect to a master that has no room.
const PAUSE: Duration = Duration::from_millis(20);

/// A connection to a master.
#[derive(Debug)]
pub struct Client {
    lines: Lines,
    hello: Hello,
    pid: i32,
}

/// A socket and what was received from it beyond the last line.
#[derive(Debug)]
struct Lines {
    socket: OwnedFd,
    received: Vec<u8>,
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
                Err(e) if e.kind() == ErrorKind::WouldBlock => {
                    if Instant::now() + PAUSE >= end {
                        return Err(io::Error::new(ErrorKind::TimedOut, "it has too many clients"));
                    }
                    std::thread::sleep(PAUSE);
                }
                done => return done,
            }
        }
    }

    fn try_connect(path: &Path, end: Instant) -> io::Result<Self> {
        let socket = socket::connect_unix(path)?;
        let pid = peer::peer_of(socket.as_fd())?.pid;
        let mut lines = Lines { socket, received: Vec::new() };
        match lines.next(Some(end))? {
            Reply::Hello(hello) if hello.protocol == VERSION => Ok(Self { lines, hello, pid }),
            Reply::Hello(Hello { protocol, prefork, .. }) => {
                let text =
                    format!("it uses protocol {protocol}, this prefork {VERSION}: use prefork {prefork}");
                Err(io::Error::new(ErrorKind::Unsupported, text))
            }
            Reply::Error(refusal) => Err(refused(refusal)),
            _ => Err(ErrorKind::InvalidData.into()),
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
        protocol::write_line(request, &mut line)?;
        let socket = self.lines.socket.as_fd();
        let mut rest = line.as_slice();
        while !rest.is_empty() {
            socket::wait_ready(socket, true, None)?;
            rest = &rest[socket::send(socket, rest)?..];
        }
        Ok(())
    }

    /// Returns the next reply; waits for it at most `patience`, or forever if that is `None`.
    ///
    /// # Errors
    /// `TimedOut`; `UnexpectedEof`: the master has closed the connection; `InvalidData`: the line is no reply.
    pub fn next(&mut self, patience: Option<Duration>) -> io::Result<Reply> {
        self.lines.next(patience.map(|p| Instant::now() + p))
    }

    /// After [`Reply::Stopped`]: waits until the master's process has ended, or at most two seconds if a host program
    /// continues.
    pub fn wait_gone(mut self) {
        while self.next(Some(LAST_STEPS)).is_ok() {}
        ends_within(self.pid, LAST_STEPS);
    }
}

impl Lines {
    fn next(&mut self, end: Option<Instant>) -> io::Result<Reply> {
        let mut searched = 0;
        loop {
            if let Some(at) = self.received[searched..].iter().position(|&b| b == b'\n') {
                let line: Vec<u8> = self.received.drain(..=searched + at).collect();
                return serde_json::from_slice(&line).map_err(|e| io::Error::new(ErrorKind::InvalidData, e));
            }
            searched = self.received.len();
            if searched > MAX_REPLY {
                return Err(ErrorKind::InvalidData.into());
            }
            let left = end.map(|end| end.saturating_duration_since(Instant::now()));
            if !socket::wait_ready(self.socket.as_fd(), false, left)? {
                return Err(ErrorKind::TimedOut.into());
            }
            self.received.reserve(16 * 1024);
            match socket::recv_append(self.socket.as_fd(), &mut self.received) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                // The master closed before it had read all requests.
                Err(e) if e.kind() == ErrorKind::ConnectionReset => {
                    return Err(ErrorKind::UnexpectedEof.into());
                }
                Err(e) if e.kind() != ErrorKind::WouldBlock => return Err(e),
                _ => {}
            }
        }
    }
}

/// True if a master's process has ended or does so within this time. A master that has closed the connection may also have
/// been replaced by another program (SIGUSR2), in the same process.
pub fn ends_within(pid: i32, patience: Duration) -> bool {
    let exists = || peer::exists(pid);
    match process::watch(pid) {
        Ok(watch) => socket::wait_ready(watch.as_fd(), false, Some(patience)).unwrap_or(false),
        // A seccomp filter may refuse the call.
        Err(_) if exists() => {
            let end = Instant::now() + patience;
            while Instant::now() < end && exists() {
                std::thread::sleep(PAUSE);
            }
            !exists()
        }
        // There is no pidfd for a process that has been reaped.
        Err(_) => true,
    }
}

fn refused(refusal: Refusal) -> io::Error {
    let kind = match refusal.kind {
        RefusalKind::Denied => ErrorKind::PermissionDenied,
        RefusalKind::Busy => ErrorKind::WouldBlock,
        _ => ErrorKind::Other,
    };
    io::Error::new(kind, refusal.text)
}
