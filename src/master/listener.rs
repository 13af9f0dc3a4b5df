//! Listeners: bound here or inherited, watched by the poll, paused and resumed.

use crate::config::{Config, ListenAddr};
use crate::error::{Error, ErrorKind, Result};
use crate::sys::{errno, poll, process, socket};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

/// A listening socket of the master.
pub struct Listener {
    fd: OwnedFd,
    token: mio::Token,
    watched: bool,
    /// The address really bound.
    pub address: socket::Address,
    /// Connections that are still to be taken in a stop; `None` where there will be no more than the backlog has.
    left: Option<u32>,
    /// Made here, and so nobody else's.
    ours: bool,
    /// The file of a Unix socket that was made here, to be removed at the end: path, device, inode.
    made: Option<(PathBuf, u64, u64)>,
}

/// Opens all listeners of a configuration, in order. `None` in the list stands for what systemd passed.
///
/// # Errors
/// [`ErrorKind::Listen`], naming the address, the cause, and for an address in use the process that uses it.
pub fn open_all(config: &Config, token: impl Fn(usize) -> mio::Token) -> Result<Vec<Listener>> {
    let passed = passed_by_systemd();
    let addresses = match (config.listen.as_slice(), passed) {
        ([], 0) => vec![ListenAddr::Tcp(([127, 0, 0, 1], 8080).into())],
        ([], n) => (3..3 + n).map(ListenAddr::Fd).collect(),
        (given, _) => given.to_vec(),
    };
    addresses.iter().enumerate().map(|(i, addr)| Listener::open(addr, config, token(i))).collect()
}

/// How many listeners stand ready from descriptor 3 on (sd_listen_fds(3)).
fn passed_by_systemd() -> u32 {
    let number = |name| std::env::var(name).ok().and_then(|v| v.parse::<u32>().ok());
    match (number("LISTEN_PID"), number("LISTEN_FDS")) {
        (Some(pid), Some(n)) if i64::from(pid) == i64::from(process::own_pid()) => n.min(64),
        _ => 0,
    }
}

/// Goes on with the listeners of a former program in this process.
///
/// # Errors
/// [`ErrorKind::Listen`].
pub fn resume_all(
    config: &Config,
    heritage: Vec<(OwnedFd, String)>,
    token: impl Fn(usize) -> mio::Token,
) -> Result<Vec<Listener>> {
    let resume = |(i, (fd, ownership)): (usize, (OwnedFd, String))| {
        let address = socket::local_address(fd.as_fd())
            .map_err(|e| Error::io(ErrorKind::Listen, "upgrade: getsockname", e))?;
        // As `ownership` wrote it: whether it is ours; device and inode of the file, where there is one.
        let words: Vec<_> = ownership.split(':').collect();
        let made = match (words.as_slice(), &address) {
            ([_, dev, ino], socket::Address::Unix(path)) => {
                dev.parse().ok().zip(ino.parse().ok()).map(|(dev, ino)| (path.clone(), dev, ino))
            }
            _ => None,
        };
        let (ours, left) = (words.first() == Some(&"1"), Some(config.backlog));
        Ok(Listener { fd, token: token(i), watched: false, address, left, ours, made })
    };
    heritage.into_iter().enumerate().map(resume).collect()
}

impl Listener {
    /// For the next program in this process: whose the socket and its file are.
    pub fn ownership(&self) -> String {
        let ours = u8::from(self.ours);
        match &self.made {
            Some((_, dev, ino)) => format!("{ours}:{dev}:{ino}"),
            None => ours.to_string(),
        }
    }

    fn open(addr: &ListenAddr, config: &Config, token: mio::Token) -> Result<Self> {
        let backlog = i32::try_from(config.backlog).unwrap_or(i32::MAX);
        let (fd, made) = match addr {
            ListenAddr::Tcp(inet) => (listen_inet(*inet, backlog).map_err(|e| bind_error(addr, e))?, None),
            ListenAddr::Unix(path) => {
                remove_stale(path).map_err(|e| bind_error(addr, e))?;
                let fd =
                    socket::listen_unix(path, config.unix_mode, backlog).map_err(|e| bind_error(addr, e))?;
                (fd, identity(path).map(|(dev, ino)| (path.clone(), dev, ino)))
            }
            ListenAddr::Fd(n) => (inherit(*n)?, None),
        };
        let address = socket::local_address(fd.as_fd())
            .map_err(|e| Error::io(ErrorKind::Listen, format!("listen {addr}: getsockname"), e))?;
        if matches!(address, socket::Address::Inet(_)) {
            let option = |what: &str, e| Error::io(ErrorKind::Listen, format!("listen {addr}: {what}"), e);
            socket::set_nodelay(fd.as_fd(), config.nodelay).map_err(|e| option("TCP_NODELAY", e))?;
            if !config.defer_accept.is_zero() {
                socket::set_defer_accept(fd.as_fd(), config.defer_accept)
                    .map_err(|e| option("TCP_DEFER_ACCEPT", e))?;
            }
        }
        // The flag belongs to the open file: accept4 must not wait when a client left the backlog before it was accepted.
        socket::set_nonblocking(fd.as_fd(), true)
            .map_err(|e| Error::io(ErrorKind::Listen, format!("listen {addr}: O_NONBLOCK"), e))?;
        let ours = !matches!(addr, ListenAddr::Fd(_));
        Ok(Self { fd, token, watched: false, address, left: Some(config.backlog), ours, made })
    }

    /// Whether the poll reports this listener.
    pub fn is_watched(&self) -> bool {
        self.watched
    }

    /// Has the poll report this listener as long as a connection waits in its backlog.
    pub fn resume(&mut self, poll: &mio::Poll) -> io::Result<()> {
        if !self.watched {
            poll::watch_level(poll, self.fd.as_fd(), self.token)?;
            self.watched = true;
        }
        Ok(())
    }

    /// Leaves clients to the backlog until [`Listener::resume`].
    pub fn pause(&mut self, poll: &mio::Poll) -> io::Result<()> {
        if self.watched {
            self.watched = false;
            poll::unwatch(poll, self.fd.as_fd())?;
        }
        Ok(())
    }

    /// For a stop: as far as the kernel lets us, nothing is added to the backlog any more. An inherited socket is somebody
    /// else's too, and a Unix socket has no such switch: of those so many are taken as the backlog can hold, and no more.
    pub fn stop_intake(&mut self) {
        let is_tcp = matches!(self.address, socket::Address::Inet(_));
        if self.ours && is_tcp && socket::stop_intake(self.fd.as_fd()).is_ok() {
            self.left = None;
        }
    }

    /// In a stop, after one was taken: whether there may be more to take.
    pub fn one_less(&mut self) -> bool {
        match &mut self.left {
            Some(left) => {
                *left = left.saturating_sub(1);
                *left > 0
            }
            None => true,
        }
    }

    /// In a worker: forgets that the file is this process's to remove.
    pub fn disown(&mut self) {
        self.made = None;
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Some((path, dev, ino)) = &self.made
            && identity(path) == Some((*dev, *ino))
        {
            let _ = std::fs::remove_file(path);
        }
    }
}

fn identity(path: &Path) -> Option<(u64, u64)> {
    std::fs::symlink_metadata(path).ok().map(|m| (m.dev(), m.ino()))
}

/// All addresses means all that this machine has: where it has no IPv6, those of IPv4.
fn listen_inet(addr: SocketAddr, backlog: i32) -> io::Result<OwnedFd> {
    match socket::listen_inet(addr, backlog) {
        Err(e) if e.raw_os_error() == Some(errno::EAFNOSUPPORT) && addr.ip().is_unspecified() => {
            socket::listen_inet((Ipv4Addr::UNSPECIFIED, addr.port()).into(), backlog)
        }
        done => done,
    }
}

/// Removes a socket file that nobody answers on. Anything else at that path stays, and binding will say so.
fn remove_stale(path: &Path) -> io::Result<()> {
    let is_socket = std::fs::symlink_metadata(path).is_ok_and(|m| m.file_type().is_socket());
    if is_socket && !socket::unix_answers(path)? {
        std::fs::remove_file(path)?;
    }
    Ok(())
}

fn inherit(number: u32) -> Result<OwnedFd> {
    let what = format!("listen fd:{number}");
    let fd = process::adopt_descriptor(number)
        .map_err(|e| Error::io(ErrorKind::Listen, format!("{what}: expected an open listening socket"), e))?;
    if socket::is_listener(fd.as_fd()) {
        return Ok(fd);
    }
    // Not ours after all: it stays open for whoever it belongs to.
    std::mem::forget(fd);
    Err(Error::new(
        ErrorKind::Listen,
        format!("{what}: expected a listening stream socket, found another descriptor"),
    ))
}

fn bind_error(addr: &ListenAddr, cause: io::Error) -> Error {
    let mut what = format!("bind {addr}");
    if cause.raw_os_error() == Some(errno::EADDRINUSE) {
        let owner = match addr {
            ListenAddr::Tcp(inet) => super::owner::of_tcp_port(inet.port()),
            _ => None,
        };
        if let Some((pid, name)) = owner {
            what = format!("bind {addr}: in use by process {pid} ({name})");
        }
    }
    Error::io(ErrorKind::Listen, what, cause)
}
