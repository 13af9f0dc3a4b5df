//! Listeners: addresses that are bound here or inherited, with one socket for all workers or one per slot.

mod backlog;
mod port_owner;

use super::pool::Backlog;
use crate::config::{Accept, Config, ListenAddr};
use crate::error::{Error, ErrorKind, Result};
use crate::event::{Bound, Family};
use crate::ids::{ListenerId, Slot};
use crate::master::kept::KeptFd;
use crate::sys::socket::Address;
use crate::sys::{datagram, errno, process, socket};
use crate::worker::own_sockets::OwnSocket;
use backlog::Socket;
use std::fmt::{self, Display};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

/// An address, and the sockets bound to it.
pub struct Listener {
    sockets: Vec<Socket>,
    /// True if each slot has its own socket.
    per_slot: bool,
    /// The index of the socket at which the last connection was accepted.
    turn: usize,
    token: mio::Token,
    /// The address, with the port really bound.
    address: Address,
    kind: Kind,
    /// Connections that are still to be accepted in a stop; `None` if there are no more than the backlog has.
    left: Option<u32>,
}

/// The kind of a listener.
#[derive(Clone, Copy, Debug)]
#[cfg_attr(feature = "control", derive(serde::Serialize, serde::Deserialize))]
enum Kind {
    Tcp,
    Udp,
    /// With device and inode of the file that is to be removed at the end, if it was made here.
    Unix(Option<(u64, u64)>),
    Inherited,
}

/// Opens all listeners of a configuration, in order, for this many workers.
///
/// # Errors
/// [`ErrorKind::Listen`], naming the address, the cause, and for an address in use the process that uses it.
pub fn open_all(
    config: &Config,
    workers: usize,
    token: impl Fn(usize) -> mio::Token,
) -> Result<Vec<Listener>> {
    let addresses = match (config.listen.as_slice(), passed_by_systemd()) {
        ([], 0) => vec![ListenAddr::Tcp(([127, 0, 0, 1], 8080).into())],
        ([], n) => (3..3 + n).map(ListenAddr::Fd).collect(),
        (given, _) => given.to_vec(),
    };
    addresses.iter().enumerate().map(|(i, addr)| Listener::open(addr, config, workers, token(i))).collect()
}

/// The number of listeners that systemd has passed, from descriptor 3 on (sd_listen_fds(3)).
fn passed_by_systemd() -> u32 {
    let number = |name| std::env::var(name).ok().and_then(|v| v.parse::<u32>().ok());
    match (number("LISTEN_PID"), number("LISTEN_FDS")) {
        (Some(pid), Some(n)) if i64::from(pid) == i64::from(process::own_pid()) => n.min(64),
        _ => 0,
    }
}

/// A listener as one program in this process hands it over to the next.
#[derive(Debug)]
#[cfg_attr(feature = "control", derive(serde::Serialize, serde::Deserialize))]
pub struct SavedListener {
    sockets: Vec<KeptFd>,
    /// True if each slot has its own.
    per_slot: bool,
    kind: Kind,
}

/// Continues with the listeners of a former program in this process.
///
/// # Errors
/// [`ErrorKind::Listen`]; [`ErrorKind::State`] if a descriptor is not open.
pub fn resume_all(
    config: &Config,
    saved: Vec<SavedListener>,
    token: impl Fn(usize) -> mio::Token,
) -> Result<Vec<Listener>> {
    saved.into_iter().enumerate().map(|(i, saved)| Listener::resume(saved, config, token(i))).collect()
}

impl Listener {
    fn resume(saved: SavedListener, config: &Config, token: mio::Token) -> Result<Self> {
        let sockets = saved.sockets.into_iter().map(KeptFd::adopt).collect::<Result<Vec<_>>>()?;
        let address = match sockets.first() {
            Some(fd) => socket::local_address(fd.as_fd()),
            None => Err(io::ErrorKind::InvalidData.into()),
        };
        let address = address.map_err(|e| Error::io(ErrorKind::Listen, "upgrade: getsockname", e))?;
        let socket = |fd: OwnedFd| {
            let unbound = matches!(socket::local_address(fd.as_fd()), Ok(Address::Inet(a)) if a.port() == 0);
            Socket::new(fd, !unbound)
        };
        Ok(Self {
            sockets: sockets.into_iter().map(socket).collect(),
            per_slot: saved.per_slot,
            turn: 0,
            token,
            address,
            kind: saved.kind,
            left: Some(config.backlog),
        })
    }

    /// Returns what the next program in this process continues with; `keep` keeps a descriptor for it.
    pub fn save<'a>(&'a self, keep: impl FnMut(BorrowedFd<'a>) -> KeptFd) -> SavedListener {
        let sockets = self.sockets.iter().map(|socket| socket.fd.as_fd()).map(keep).collect();
        SavedListener { sockets, per_slot: self.per_slot, kind: self.kind }
    }

    fn open(addr: &ListenAddr, config: &Config, workers: usize, token: mio::Token) -> Result<Self> {
        let (fd, kind) = match addr {
            ListenAddr::Tcp(inet) => (bind_inet(addr, *inet, false)?, Kind::Tcp),
            ListenAddr::Udp(inet) => (bind_inet(addr, *inet, true)?, Kind::Udp),
            ListenAddr::Unix(path) => {
                let fd = remove_stale(path)
                    .and_then(|()| socket::listen_unix(path, config.unix_mode, backlog(config)))
                    .map_err(|e| bind_error(addr, None, e))?;
                (fd, Kind::Unix(identity(path)))
            }
            ListenAddr::Fd(n) => (inherit(*n)?, Kind::Inherited),
        };
        let address = socket::local_address(fd.as_fd())
            .map_err(|e| Error::io(ErrorKind::Listen, format!("listen {addr}: getsockname"), e))?;
        let (sockets, left) = (Vec::new(), Some(config.backlog));
        let mut listener = Self { sockets, per_slot: false, turn: 0, token, address, kind, left };
        listener.per_slot = config.accept == Accept::ReusePort && listener.inet().is_some();
        if listener.per_slot {
            // Bound without SO_REUSEPORT, it has shown that the address is free. The next ones could not: they could be bound
            // next to another server's.
            drop(fd);
            listener.add_sockets(workers, config, true)?;
        } else {
            listener.prepare(fd.as_fd(), config)?;
            listener.sockets.push(Socket::new(fd, true));
        }
        Ok(listener)
    }

    /// If each slot has its own socket: makes those that are missing for this many slots. One for datagrams gets its address when
    /// its slot has an admitted worker to read them, unless `at_once` is set.
    ///
    /// # Errors
    /// As [`open_all`].
    pub fn add_sockets(&mut self, slots: usize, config: &Config, at_once: bool) -> Result<()> {
        let Some(inet) = self.inet().filter(|_| self.per_slot) else { return Ok(()) };
        while self.sockets.len() < slots {
            let bound = at_once || !self.takes_datagrams();
            let fd = new_inet(inet, self.takes_datagrams(), true)
                .and_then(|fd| if bound { socket::bind(fd.as_fd(), inet).map(|()| fd) } else { Ok(fd) })
                .map_err(|e| self.bind_error(e))?;
            self.prepare(fd.as_fd(), config)?;
            self.sockets.push(Socket::new(fd, bound));
        }
        Ok(())
    }

    /// Sets the options that a socket needs, and has it listen if it does not yet.
    fn prepare(&self, fd: BorrowedFd<'_>, config: &Config) -> Result<()> {
        let option = |what: &str, e| Error::io(ErrorKind::Listen, format!("listen {self}: {what}"), e);
        // The flag belongs to the open file: accept4 must not wait when a client left the backlog before it was accepted.
        socket::set_nonblocking(fd, true).map_err(|e| option("O_NONBLOCK", e))?;
        if self.takes_datagrams() {
            return Ok(());
        }
        if matches!(self.address, Address::Inet(_)) {
            socket::set_nodelay(fd, config.nodelay).map_err(|e| option("TCP_NODELAY", e))?;
            if !config.defer_accept.is_zero() {
                socket::set_defer_accept(fd, config.defer_accept)
                    .map_err(|e| option("TCP_DEFER_ACCEPT", e))?;
            }
        }
        if self.inet().is_some() {
            // Two sockets may be bound to one port until one of them listens, so this too may find the address in use.
            socket::listen(fd, backlog(config)).map_err(|e| self.bind_error(e))?;
        }
        Ok(())
    }

    /// The address, if it was bound here and could be bound again.
    fn inet(&self) -> Option<SocketAddr> {
        match (self.kind, &self.address) {
            (Kind::Tcp | Kind::Udp, Address::Inet(inet)) => Some(*inet),
            _ => None,
        }
    }

    fn bind_error(&self, cause: io::Error) -> Error {
        bind_error(self, self.inet().map(|inet| (inet.port(), self.takes_datagrams())), cause)
    }

    /// The address, as events show it.
    pub fn bound(&self) -> Bound {
        let (host, port, family) = match (&self.address, self.takes_datagrams()) {
            (Address::Unix(path), _) => (path.display().to_string(), None, Family::Unix),
            (Address::Inet(a), datagrams) => {
                let family = match (a.is_ipv4(), datagrams) {
                    (true, false) => Family::V4,
                    (false, false) => Family::V6,
                    (true, true) => Family::Udp4,
                    (false, true) => Family::Udp6,
                };
                (a.ip().to_string(), Some(a.port()), family)
            }
        };
        Bound { text: self.to_string(), host, port, family }
    }

    /// In a process that is not the master: leaves the file of a Unix socket to the master.
    pub fn disown(&mut self) {
        if let Kind::Unix(file) = &mut self.kind {
            *file = None;
        }
    }

    /// In a worker: returns its own socket, if it has one; the others are closed.
    pub fn into_socket_of(mut self, slot: Slot, listener: ListenerId, accept: Accept) -> Option<OwnSocket> {
        self.disown();
        let index = slot.index().checked_rem(self.sockets.len()).filter(|_| self.is_for_workers(accept))?;
        let fd = self.sockets.swap_remove(index).fd;
        let (alone, datagrams) = (self.per_slot, self.takes_datagrams());
        Some(OwnSocket { fd, listener, alone, datagrams, watched: false })
    }
}

impl Display for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.takes_datagrams() { write!(f, "udp:{}", self.address) } else { self.address.fmt(f) }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let (Kind::Unix(Some(made)), Address::Unix(path)) = (self.kind, &self.address)
            && identity(path) == Some(made)
        {
            let _ = std::fs::remove_file(path);
        }
    }
}

/// Device and inode of a file.
fn identity(path: &Path) -> Option<(u64, u64)> {
    std::fs::symlink_metadata(path).ok().map(|m| (m.dev(), m.ino()))
}

fn backlog(config: &Config) -> i32 {
    i32::try_from(config.backlog).unwrap_or(i32::MAX)
}

fn new_inet(addr: SocketAddr, datagrams: bool, again: bool) -> io::Result<OwnedFd> {
    if datagrams { datagram::new(addr, again) } else { socket::new_stream(addr, again) }
}

/// Binds an address. `[::]` on a machine without IPv6 is all addresses of IPv4.
fn bind_inet(addr: &ListenAddr, inet: SocketAddr, datagrams: bool) -> Result<OwnedFd> {
    let bind = |inet| {
        let fd = new_inet(inet, datagrams, false)?;
        socket::bind(fd.as_fd(), inet).map(|()| fd)
    };
    let bound = match bind(inet) {
        Err(e) if e.raw_os_error() == Some(errno::EAFNOSUPPORT) && inet.ip().is_unspecified() => {
            bind((Ipv4Addr::UNSPECIFIED, inet.port()).into())
        }
        done => done,
    };
    bound.map_err(|e| bind_error(addr, Some((inet.port(), datagrams)), e))
}

/// Removes a socket file at which no process answers. Any other file stays, and is refused.
fn remove_stale(path: &Path) -> io::Result<()> {
    let Ok(about) = std::fs::symlink_metadata(path) else { return Ok(()) };
    if !about.file_type().is_socket() {
        return Err(io::Error::other("a file that is not a socket is there"));
    }
    if !socket::unix_answers(path)? {
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
    // It belongs to other code of this process and stays open for it.
    std::mem::forget(fd);
    Err(Error::new(ErrorKind::Listen, format!("{what}: not a listening stream socket")))
}

/// The error of an address that cannot be bound; `port` is that of an IP address, and true for datagrams.
fn bind_error(addr: &impl Display, port: Option<(u16, bool)>, cause: io::Error) -> Error {
    let mut what = format!("bind {addr}");
    if cause.raw_os_error() == Some(errno::EADDRINUSE)
        && let Some((port, datagrams)) = port
        && let Some((pid, name)) = port_owner::of_port(if datagrams { "udp" } else { "tcp" }, port)
    {
        what = format!("{what}: in use by process {pid} ({name})");
    }
    Error::io(ErrorKind::Listen, what, cause)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpStream, UdpSocket};

    fn open(listen: &str, accept: Accept, workers: usize) -> Listener {
        let config = Config { accept, ..Config::default() };
        Listener::open(&listen.parse().unwrap(), &config, workers, mio::Token(0)).unwrap()
    }

    fn inet(listener: &Listener) -> SocketAddr {
        listener.inet().unwrap()
    }

    #[test]
    fn addresses_bound_here_have_a_socket_per_slot_if_wanted_and_others_one() {
        assert_eq!(open("127.0.0.1:0", Accept::ReusePort, 3).sockets.len(), 3);
        assert_eq!(open("udp:127.0.0.1:0", Accept::ReusePort, 3).sockets.len(), 3);
        assert_eq!(open("127.0.0.1:0", Accept::Shared, 3).sockets.len(), 1);
        let path = std::env::temp_dir().join(format!("prefork-listener-{}", std::process::id()));
        let mut unix = open(&format!("unix:{}", path.display()), Accept::ReusePort, 3);
        unix.add_sockets(5, &Config::default(), false).unwrap();
        assert_eq!(unix.sockets.len(), 1);
    }

    #[test]
    fn clients_of_a_slot_that_is_no_more_are_the_masters() {
        let poll = mio::Poll::new().unwrap();
        let mut listener = open("127.0.0.1:0", Accept::ReusePort, 4);
        listener.divide(&poll, 1, false, |slot| slot == 0);
        let clients: Vec<_> = (0..80).map(|_| TcpStream::connect(inet(&listener)).unwrap()).collect();
        let accepted = std::iter::from_fn(|| listener.accept(false).ok()).count();
        assert!((30..80).contains(&accepted), "{accepted}");
        listener.divide(&poll, 2, true, |_| false);
        let rest = std::iter::from_fn(|| listener.accept(false).ok()).count();
        assert_eq!(accepted + rest, clients.len());
    }

    #[test]
    fn a_listener_is_paused_until_all_that_the_master_accepts_at_is_watched() {
        let poll = mio::Poll::new().unwrap();
        let mut listener = open("127.0.0.1:0", Accept::ReusePort, 2);
        assert!(!listener.is_paused() && !listener.is_watched());
        listener.divide(&poll, 2, false, |slot| slot == 0);
        assert!(listener.is_paused());
        listener.resume(&poll).unwrap();
        assert!(listener.is_watched());
        listener.divide(&poll, 2, true, |_| false);
        assert!(listener.is_paused() && !listener.is_watched());
        listener.divide(&poll, 2, false, |_| true);
        assert!(!listener.is_paused() && !listener.is_watched());
    }

    #[test]
    fn datagrams_go_to_the_slots_there_are() {
        let poll = mio::Poll::new().unwrap();
        let mut listener = open("udp:127.0.0.1:0", Accept::ReusePort, 4);
        let worker = listener.sockets[3].fd.try_clone().unwrap();
        let send = |listener: &Listener| {
            for _ in 0..40 {
                UdpSocket::bind("127.0.0.1:0").unwrap().send_to(b"x", inet(listener)).unwrap();
            }
        };
        let read = |fd: &OwnedFd| {
            let mut origin = datagram::Origin::new();
            std::iter::from_fn(|| datagram::recv(fd.as_fd(), &mut [0; 8], &mut origin).ok()).count()
        };
        send(&listener);
        listener.divide(&poll, 1, false, |_| true);
        send(&listener);
        let (kept, left) = (read(&worker), listener.sockets.remove(0).fd);
        assert!((1..40).contains(&kept), "{kept}");
        assert!((40..80).contains(&read(&left)));
    }
}
