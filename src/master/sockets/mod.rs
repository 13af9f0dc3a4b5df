//! Listeners: addresses that are bound here or inherited, with their sockets, watched by the poll, paused and resumed.

mod port_owner;
mod set;

use crate::config::{Accept, Config, ListenAddr};
use crate::error::{Error, ErrorKind, Result};
use crate::event::{Bound, Family};
use crate::log::log;
use crate::sys::socket::Address;
use crate::sys::{datagram, errno, process, socket};
use crate::worker::own_sockets::OwnSocket;
pub use set::Owner;
use set::SocketSet;
use std::fmt;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

/// An address, and the sockets behind it.
pub struct Listener {
    sockets: SocketSet,
    token: mio::Token,
    address: Address,
    /// The address as it was given, with the port really bound.
    bound: ListenAddr,
    /// Connections that are still to be accepted in a stop; `None` if there are no more than the backlog has.
    left: Option<u32>,
    /// The file of a Unix socket that was made here, to be removed at the end: path, device, inode.
    made: Option<(PathBuf, u64, u64)>,
}

/// Opens all listeners of a configuration, in order, for so many workers.
///
/// # Errors
/// [`ErrorKind::Listen`], naming the address, the cause, and for an address in use the process that uses it.
pub fn open_all(
    config: &Config,
    workers: usize,
    token: impl Fn(usize) -> mio::Token,
) -> Result<Vec<Listener>> {
    let passed = passed_by_systemd();
    let addresses = match (config.listen.as_slice(), passed) {
        ([], 0) => vec![ListenAddr::Tcp(([127, 0, 0, 1], 8080).into())],
        ([], n) => (3..3 + n).map(ListenAddr::Fd).collect(),
        (given, _) => given.to_vec(),
    };
    addresses.iter().enumerate().map(|(i, addr)| Listener::open(addr, config, workers, token(i))).collect()
}

/// How many listeners stand ready from descriptor 3 on (sd_listen_fds(3)).
fn passed_by_systemd() -> u32 {
    let number = |name| std::env::var(name).ok().and_then(|v| v.parse::<u32>().ok());
    match (number("LISTEN_PID"), number("LISTEN_FDS")) {
        (Some(pid), Some(n)) if i64::from(pid) == i64::from(process::own_pid()) => n.min(64),
        _ => 0,
    }
}

/// A listener as one program in this process hands it over to the next; `F` is a descriptor.
#[derive(Debug)]
#[cfg_attr(feature = "control", derive(serde::Serialize, serde::Deserialize))]
pub struct SavedListener<F> {
    /// Its sockets.
    pub sockets: Vec<F>,
    /// True if each slot has its own.
    per_slot: bool,
    kind: SavedKind,
}

#[derive(Debug)]
#[cfg_attr(feature = "control", derive(serde::Serialize, serde::Deserialize))]
enum SavedKind {
    Tcp,
    Udp,
    /// With device and inode of the file that is to be removed at the end, if it was made here.
    Unix(Option<(u64, u64)>),
    Inherited,
}

/// Continues with the listeners of a former program in this process.
///
/// # Errors
/// [`ErrorKind::Listen`].
pub fn resume_all(
    config: &Config,
    saved: Vec<SavedListener<OwnedFd>>,
    token: impl Fn(usize) -> mio::Token,
) -> Result<Vec<Listener>> {
    saved.into_iter().enumerate().map(|(i, saved)| Listener::resumed(saved, config, token(i))).collect()
}

impl<F> SavedListener<F> {
    /// The same with other descriptors.
    ///
    /// # Errors
    /// As `adopt`.
    pub fn try_map<G, E>(
        self,
        adopt: impl FnMut(F) -> std::result::Result<G, E>,
    ) -> std::result::Result<SavedListener<G>, E> {
        let sockets = self.sockets.into_iter().map(adopt).collect::<std::result::Result<_, E>>()?;
        Ok(SavedListener { sockets, per_slot: self.per_slot, kind: self.kind })
    }
}

impl Listener {
    fn resumed(saved: SavedListener<OwnedFd>, config: &Config, token: mio::Token) -> Result<Self> {
        let address = match saved.sockets.first() {
            Some(fd) => socket::local_address(fd.as_fd()),
            None => Err(io::ErrorKind::InvalidData.into()),
        };
        let address = address.map_err(|e| Error::io(ErrorKind::Listen, "upgrade: getsockname", e))?;
        let (bound, made) = match (saved.kind, &address) {
            (SavedKind::Tcp, Address::Inet(inet)) => (ListenAddr::Tcp(*inet), None),
            (SavedKind::Udp, Address::Inet(inet)) => (ListenAddr::Udp(*inet), None),
            (SavedKind::Unix(file), Address::Unix(path)) => {
                (ListenAddr::Unix(path.clone()), file.map(|(dev, ino)| (path.clone(), dev, ino)))
            }
            _ => (ListenAddr::Fd(0), None),
        };
        let sockets = SocketSet::resumed(saved.sockets, saved.per_slot);
        Ok(Self { sockets, token, address, bound, left: Some(config.backlog), made })
    }

    /// Returns what the next program in this process continues with; `keep` keeps a descriptor for it.
    pub fn save<'a, F>(&'a self, keep: impl FnMut(BorrowedFd<'a>) -> F) -> SavedListener<F> {
        let kind = match (&self.bound, &self.made) {
            (ListenAddr::Tcp(_), _) => SavedKind::Tcp,
            (ListenAddr::Udp(_), _) => SavedKind::Udp,
            (ListenAddr::Unix(_), made) => SavedKind::Unix(made.as_ref().map(|(_, dev, ino)| (*dev, *ino))),
            (ListenAddr::Fd(_), _) => SavedKind::Inherited,
        };
        let sockets = self.sockets.descriptors().map(keep).collect();
        SavedListener { sockets, per_slot: self.sockets.are_per_slot(), kind }
    }

    fn open(addr: &ListenAddr, config: &Config, workers: usize, token: mio::Token) -> Result<Self> {
        let (fd, made) = match addr {
            ListenAddr::Tcp(inet) | ListenAddr::Udp(inet) => {
                let datagrams = matches!(addr, ListenAddr::Udp(_));
                (bind_inet(*inet, datagrams).map_err(|e| bind_error(addr, e))?, None)
            }
            ListenAddr::Unix(path) => {
                remove_stale(path).map_err(|e| bind_error(addr, e))?;
                let fd = socket::listen_unix(path, config.unix_mode, backlog(config))
                    .map_err(|e| bind_error(addr, e))?;
                (fd, identity(path).map(|(dev, ino)| (path.clone(), dev, ino)))
            }
            ListenAddr::Fd(n) => (inherit(*n)?, None),
        };
        let address = socket::local_address(fd.as_fd())
            .map_err(|e| Error::io(ErrorKind::Listen, format!("listen {addr}: getsockname"), e))?;
        let bound = match (addr, &address) {
            (ListenAddr::Tcp(_), Address::Inet(inet)) => ListenAddr::Tcp(*inet),
            (ListenAddr::Udp(_), Address::Inet(inet)) => ListenAddr::Udp(*inet),
            _ => addr.clone(),
        };
        let left = Some(config.backlog);
        let mut listener = Self { sockets: SocketSet::per_slot(), token, address, bound, left, made };
        if config.accept == Accept::ReusePort && listener.inet().is_some() {
            // That socket has shown that nobody else is there: the next ones would not, they can be bound beside others.
            drop(fd);
            listener.add_sockets(workers, config, true)?;
        } else {
            listener.prepare(fd.as_fd(), config)?;
            listener.sockets = SocketSet::one(fd);
        }
        Ok(listener)
    }

    /// With a socket per slot: makes those that are missing for so many slots. One for datagrams is bound by [`Listener::settle`], when
    /// there is somebody to read them, unless `at_once` is set.
    ///
    /// # Errors
    /// As [`open_all`].
    pub fn add_sockets(&mut self, slots: usize, config: &Config, at_once: bool) -> Result<()> {
        let Some(inet) = self.inet().filter(|_| self.sockets.are_per_slot()) else { return Ok(()) };
        while self.sockets.len() < slots {
            let fd = new_inet(inet, self.takes_datagrams(), true).map_err(|e| bind_error(&self.bound, e))?;
            let bound = at_once || !self.takes_datagrams();
            if bound {
                socket::bind(fd.as_fd(), inet).map_err(|e| bind_error(&self.bound, e))?;
            }
            self.prepare(fd.as_fd(), config)?;
            self.sockets.add(fd, bound);
        }
        Ok(())
    }

    /// With a socket per slot for datagrams: has the kernel put some into those that are new and now attended, and no more into
    /// those of slots that are no more; whoever has one of these reads the rest. (One for connections cannot be given up
    /// without a client in it, so the master goes on accepting there.)
    pub fn settle(&mut self, slots: usize, is_admitted: impl Fn(usize) -> bool) {
        let Some(inet) = self.inet().filter(|_| self.takes_datagrams() && self.sockets.are_per_slot()) else {
            return;
        };
        if let Err(e) = self.sockets.bind(inet, is_admitted) {
            log!("{}", bind_error(&self.bound, e));
        }
        for fd in self.sockets.split_off(slots) {
            if let Err(e) = datagram::retire(fd.as_fd()) {
                log!("retire {}: {e}", self.bound);
            }
        }
    }

    /// Sets the options that a socket needs, and has it listen if it does not yet.
    fn prepare(&self, fd: BorrowedFd<'_>, config: &Config) -> Result<()> {
        let option =
            |what: &str, e| Error::io(ErrorKind::Listen, format!("listen {}: {what}", self.bound), e);
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
            // Two may be bound to one port until one of them listens.
            socket::listen(fd, backlog(config)).map_err(|e| bind_error(&self.bound, e))?;
        }
        Ok(())
    }

    /// The address, if it was bound here and could be bound again.
    fn inet(&self) -> Option<SocketAddr> {
        match self.bound {
            ListenAddr::Tcp(inet) | ListenAddr::Udp(inet) => Some(inet),
            ListenAddr::Unix(_) | ListenAddr::Fd(_) => None,
        }
    }

    /// True if it is UDP: workers read from it, even if the master accepts connections.
    pub fn takes_datagrams(&self) -> bool {
        matches!(self.bound, ListenAddr::Udp(_))
    }

    /// Sets at which sockets the master accepts; see [`SocketSet::claim`].
    pub fn claim(&mut self, poll: &mio::Poll, ours: impl Fn(Owner) -> bool) {
        if let Err(e) = self.sockets.claim(poll, ours) {
            log!("pause listener {self}: {e}");
        }
    }

    /// Takes a connection off a backlog; see [`SocketSet::accept`].
    pub fn accept_with<T>(&mut self, accept: impl Fn(BorrowedFd<'_>) -> io::Result<T>) -> io::Result<T> {
        self.sockets.accept(accept)
    }

    /// True if the master accepts here and the poll reports it.
    pub fn is_watched(&self) -> bool {
        self.sockets.are_watched()
    }

    /// True if the master accepts here and the poll does not report it.
    pub fn is_paused(&self) -> bool {
        self.sockets.are_ours() && !self.sockets.are_watched()
    }

    /// Has the poll report this listener as long as a connection waits in its backlog.
    pub fn resume(&mut self, poll: &mio::Poll) -> io::Result<()> {
        self.sockets.watch(poll, self.token)
    }

    /// The address, as events tell it.
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

    /// Leaves clients to the backlog until [`Listener::resume`].
    pub fn pause(&mut self, poll: &mio::Poll) -> io::Result<()> {
        self.sockets.unwatch(poll)
    }

    /// For a stop: as far as the kernel lets us, nothing is added to what waits here any more. An inherited socket is somebody
    /// else's too, and a Unix socket has no such switch: of those so many are taken as the backlog can hold, and no more.
    pub fn stop_intake(&mut self) {
        if self.inet().is_some() && self.sockets.descriptors().all(|fd| socket::stop_intake(fd).is_ok()) {
            self.left = None;
        }
    }

    /// Counts a connection that was accepted in a stop; false if there can be no more.
    pub fn expects_more(&mut self) -> bool {
        match &mut self.left {
            Some(left) => {
                *left = left.saturating_sub(1);
                *left > 0
            }
            None => true,
        }
    }

    /// True if workers take what comes here from the kernel themselves.
    pub fn is_for_workers(&self, accept: Accept) -> bool {
        accept != Accept::Master || self.takes_datagrams()
    }

    /// In a process that is not the master: forgets that the file is this one's to remove.
    pub fn disown(&mut self) {
        self.made = None;
    }

    /// In a worker: its own socket here, if it has one.
    pub fn into_socket_of(mut self, slot: usize, listener: u16, accept: Accept) -> Option<OwnSocket> {
        self.made = None;
        let (for_workers, datagrams) = (self.is_for_workers(accept), self.takes_datagrams());
        let sockets = std::mem::replace(&mut self.sockets, SocketSet::per_slot());
        let alone = sockets.are_per_slot();
        let fd = sockets.into_socket_of(slot).filter(|_| for_workers)?;
        Some(OwnSocket { fd, listener, alone, datagrams })
    }
}

/// The address really bound.
impl fmt::Display for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.bound {
            // What an inherited socket is bound to tells more than its number.
            ListenAddr::Fd(_) => self.address.fmt(f),
            bound => bound.fmt(f),
        }
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

fn backlog(config: &Config) -> i32 {
    i32::try_from(config.backlog).unwrap_or(i32::MAX)
}

fn new_inet(addr: SocketAddr, datagrams: bool, again: bool) -> io::Result<OwnedFd> {
    if datagrams { datagram::new(addr, again) } else { socket::new_stream(addr, again) }
}

/// Binds an address. `[::]` on a machine without IPv6 is all addresses of IPv4.
fn bind_inet(addr: SocketAddr, datagrams: bool) -> io::Result<OwnedFd> {
    let bind = |addr| {
        let fd = new_inet(addr, datagrams, false)?;
        socket::bind(fd.as_fd(), addr).map(|()| fd)
    };
    match bind(addr) {
        Err(e) if e.raw_os_error() == Some(errno::EAFNOSUPPORT) && addr.ip().is_unspecified() => {
            bind((Ipv4Addr::UNSPECIFIED, addr.port()).into())
        }
        done => done,
    }
}

/// Removes a socket file that nobody answers on. Anything else at that path stays, and binding will say so.
fn remove_stale(path: &Path) -> io::Result<()> {
    let Ok(about) = std::fs::symlink_metadata(path) else { return Ok(()) };
    if !about.file_type().is_socket() {
        return Err(io::Error::other("expected no file or a socket nobody answers on, found another file"));
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
            ListenAddr::Tcp(inet) => port_owner::of_port("tcp", inet.port()),
            ListenAddr::Udp(inet) => port_owner::of_port("udp", inet.port()),
            ListenAddr::Unix(_) | ListenAddr::Fd(_) => None,
        };
        if let Some((pid, name)) = owner {
            what = format!("bind {addr}: in use by process {pid} ({name})");
        }
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

    fn fit(listener: &mut Listener, slots: usize) {
        listener.add_sockets(slots, &Config::default(), false).unwrap();
        listener.settle(slots, |_| true);
    }

    fn inet(listener: &Listener) -> SocketAddr {
        listener.inet().unwrap()
    }

    #[test]
    fn addresses_bound_here_have_a_socket_per_slot_where_asked_and_others_one() {
        assert_eq!(open("127.0.0.1:0", Accept::ReusePort, 3).sockets.len(), 3);
        assert_eq!(open("udp:127.0.0.1:0", Accept::ReusePort, 3).sockets.len(), 3);
        assert_eq!(open("127.0.0.1:0", Accept::Shared, 3).sockets.len(), 1);
        let path = std::env::temp_dir().join(format!("prefork-listener-{}", std::process::id()));
        let mut unix = open(&format!("unix:{}", path.display()), Accept::ReusePort, 3);
        fit(&mut unix, 5);
        assert_eq!(unix.sockets.len(), 1);
    }

    #[test]
    fn clients_of_a_slot_that_is_no_more_are_the_masters() {
        let poll = mio::Poll::new().unwrap();
        let mut listener = open("127.0.0.1:0", Accept::ReusePort, 4);
        fit(&mut listener, 1);
        listener.claim(&poll, |whose| whose != Owner::Slot(0));
        let clients: Vec<_> = (0..80).map(|_| TcpStream::connect(inet(&listener)).unwrap()).collect();
        let accepted = std::iter::from_fn(|| listener.accept_with(socket::accept).ok()).count();
        assert!((30..80).contains(&accepted), "{accepted}");
        listener.claim(&poll, |_| true);
        let rest = std::iter::from_fn(|| listener.accept_with(socket::accept).ok()).count();
        assert_eq!(accepted + rest, clients.len());
    }

    #[test]
    fn a_listener_is_paused_until_all_that_the_master_accepts_at_is_watched() {
        let poll = mio::Poll::new().unwrap();
        let mut listener = open("127.0.0.1:0", Accept::ReusePort, 2);
        assert!(!listener.is_paused() && !listener.is_watched());
        listener.claim(&poll, |whose| whose == Owner::Slot(1));
        assert!(listener.is_paused());
        listener.resume(&poll).unwrap();
        assert!(listener.is_watched());
        listener.claim(&poll, |_| true);
        assert!(listener.is_paused() && !listener.is_watched());
        listener.claim(&poll, |_| false);
        assert!(!listener.is_paused() && !listener.is_watched());
    }

    #[test]
    fn datagrams_go_to_the_slots_there_are() {
        let mut listener = open("udp:127.0.0.1:0", Accept::ReusePort, 4);
        let worker = listener.sockets.split_off(3).next().unwrap();
        listener.sockets.add(worker.try_clone().unwrap(), true);
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
        fit(&mut listener, 1);
        send(&listener);
        let (kept, left) = (read(&worker), listener.sockets.split_off(0).next().unwrap());
        assert!((1..40).contains(&kept), "{kept}");
        assert!((40..80).contains(&read(&left)));
    }
}
