//! The other side of a control socket: connects, asks, reads what comes, and waits no longer than it is told to.

use super::protocol::{self, Hello, MAX_REPLY, Refusal, Reply, Request, VERSION, write_line};
use crate::sys::{peer, socket};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

/// How long a process that was told to end and has closed its control socket is given to disappear.
const LAST_STEPS: Duration = Duration::from_secs(2);
/// Between two attempts to connect to a master that has no room.
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
    /// Connects to the master behind a socket.
    ///
    /// # Errors
    /// `ConnectionRefused`: nobody is there any more. `TimedOut`: it says nothing. `PermissionDenied`: not to this user.
    /// `Unsupported`: it speaks another version. `InvalidData`: it is no master.
    pub fn connect(path: &Path, patience: Duration) -> io::Result<Self> {
        let end = Instant::now() + patience;
        loop {
            match Self::try_connect(path, end) {
                // Its backlog, or its table of clients, is full.
                Err(e) if e.kind() == io::ErrorKind::WouldBlock && Instant::now() + PAUSE < end => {
                    std::thread::sleep(PAUSE);
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    return Err(io::Error::new(io::ErrorKind::TimedOut, "too many speak to it"));
                }
                done => return done,
            }
        }
    }

    fn try_connect(path: &Path, end: Instant) -> io::Result<Self> {
        let socket = socket::connect_unix(path)?;
        let pid = peer::peer_of(socket.as_fd())?.pid;
        let nobody = Hello { prefork: String::new(), protocol: 0, name: String::new(), pid };
        let mut client = Self { socket, inbox: Vec::new(), hello: nobody, pid };
        match client.next_until(Some(end))? {
            Reply::Hello(hello) if hello.protocol == VERSION => {
                client.hello = hello;
                Ok(client)
            }
            Reply::Hello(hello) => Err(io::Error::new(
                io::ErrorKind::Unsupported,
                format!(
                    "it speaks protocol {}, this prefork {VERSION}: use prefork {}",
                    hello.protocol, hello.prefork
                ),
            )),
            Reply::Error(refusal) => Err(refused(&refusal)),
            _ => Err(io::ErrorKind::InvalidData.into()),
        }
    }

    /// Who the master is.
    pub fn hello(&self) -> &Hello {
        &self.hello
    }

    /// Asks.
    ///
    /// # Errors
    /// What send(2) says.
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

    /// What the master says next; waits for it no longer than `patience` (`None`: as long as it takes).
    ///
    /// # Errors
    /// `TimedOut`; `UnexpectedEof`: the master is gone; `InvalidData`: it is no reply.
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

    /// After [`Reply::Stopped`]: waits until the master's process is gone, or its socket where the process has other things to do.
    pub fn wait_gone(mut self) {
        let watch = peer::watch_stranger(self.pid);
        while self.next(Some(LAST_STEPS)).is_ok() {}
        drop(watch.and_then(|watch| socket::wait_ready(watch.as_fd(), false, Some(LAST_STEPS))));
    }
}

/// Whether a master's process ends within a time, or has ended: one whose connection has closed may also have given way to
/// another program (SIGUSR2), which goes on.
pub fn ends_within(pid: i32, patience: Duration) -> bool {
    let ended = |watch: OwnedFd| socket::wait_ready(watch.as_fd(), false, Some(patience)).unwrap_or(false);
    // There is nothing to watch where it was collected already.
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
