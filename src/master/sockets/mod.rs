//! Listeners: addresses that are bound here or inherited, with one socket for all workers or one per slot.

mod backlog;
mod deferral;
mod port_owner;
mod unix_file;

use super::pool::Backlog;
use crate::config::{Accept, Config, Listen, ListenAddr, MAX_LISTENERS};
use crate::error::{Error, ErrorKind, Result};
use crate::event::{Bound, Family};
use crate::ids::{ListenerId, Slot};
use crate::log::{counted, log};
use crate::master::kept::KeptFd;
use crate::sys::socket::{Address, Sort};
use crate::sys::{datagram, errno, process, socket};
use crate::worker::Served;
use crate::worker::own_sockets::OwnSocket;
use backlog::Socket;
use deferral::Deferral;
use std::ffi::{CString, OsString};
use std::fmt::{self, Display};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

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
    /// The name by which handlers know it; empty if it has none.
    pub name: String,
    /// Connections that are still to be accepted in a stop; `None` if there are no more than the backlog has.
    left: Option<u32>,
    deferral: Deferral,
    /// True if workers that are programs accept here, and nobody else.
    pub left_to_workers: bool,
}

/// The kind of a listener.
#[derive(Clone, Copy, Debug)]
#[cfg_attr(feature = "control", derive(serde::Serialize, serde::Deserialize))]
enum Kind {
    Tcp,
    Udp,
    /// With the file that is to be removed at the end, if one was made here.
    Unix(Option<unix_file::Identity>),
    Inherited,
    InheritedUdp,
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
    let passed = passed_by_systemd()?;
    let all = match (config.listen.as_slice(), passed.as_slice()) {
        ([], []) => vec![ListenAddr::Tcp(([127, 0, 0, 1], 8080).into()).into()],
        ([], passed) => passed.to_vec(),
        (given, passed) => {
            let is_given = |fd: &&ListenAddr| given.iter().any(|listen| listen.address == **fd);
            let addresses = passed.iter().map(|listen| &listen.address);
            warn_of_unused(&addresses.filter(|fd| !is_given(fd)).collect::<Vec<_>>());
            given.to_vec()
        }
    };
    all.iter().enumerate().map(|(i, listen)| Listener::open(listen, config, workers, token(i))).collect()
}

/// The sockets that systemd has passed, from descriptor 3 on, with their names (sd_listen_fds(3)).
fn passed_by_systemd() -> Result<Vec<Listen>> {
    let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
    // What systemd calls a socket that its unit has not named.
    let mut names = names.split(':').map(|name| if name == "unknown" { "" } else { name });
    let listen = |fd| Listen { name: names.next().unwrap_or_default().into(), address: ListenAddr::Fd(fd) };
    Ok((3..3 + count_of_passed()?).map(listen).collect())
}

fn count_of_passed() -> Result<u32> {
    let number = |name| std::env::var(name).ok().and_then(|v| v.parse::<u32>().ok());
    match (number("LISTEN_PID"), number("LISTEN_FDS")) {
        (Some(pid), Some(n)) if i64::from(pid) == i64::from(process::own_pid()) => {
            if n as usize > MAX_LISTENERS {
                let text =
                    format!("LISTEN_FDS: {n} sockets are passed; at most {MAX_LISTENERS} can be served");
                return Err(Error::new(ErrorKind::Listen, text));
            }
            Ok(n)
        }
        _ => Ok(0),
    }
}

fn warn_of_unused(passed: &[&ListenAddr]) {
    let options: Vec<_> = passed.iter().map(|fd| format!("--listen {fd}")).collect();
    let (are, them) = if passed.len() == 1 { ("is", "it") } else { ("are", "them") };
    if !passed.is_empty() {
        let sockets = counted(passed.len() as u64, "socket");
        let options = options.join(" ");
        log!(
            Warn,
            "LISTEN_FDS: {sockets} {are} not used, since addresses are given; to use {them}, add `{options}`"
        );
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
    /// The path of a Unix socket that was bound here, under another name first.
    #[cfg_attr(feature = "control", serde(default))]
    path: Option<OsString>,
    #[cfg_attr(feature = "control", serde(default))]
    name: String,
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
    let resume = |(i, saved)| Listener::resume(saved, config, token(i));
    let mut listeners = saved.into_iter().enumerate().map(resume).collect::<Result<Vec<_>>>()?;
    let addresses: Vec<_> = listeners.iter().map(Listener::as_option).collect();
    for (i, listener) in listeners.iter_mut().enumerate() {
        if let Some(name) = name_after(&config.listen, &addresses, i) {
            name.clone_into(&mut listener.name);
        }
    }
    Ok(listeners)
}

/// The name that a new program's options give to the listener at this index of `bound`. The addresses stay, whatever the options are;
/// their names and their order may be others. `None` if they say nothing of it.
fn name_after<'a>(options: &'a [Listen], bound: &[ListenAddr], i: usize) -> Option<&'a str> {
    let same = options.iter().find(|listen| listen.address == bound[i]);
    // Port 0, descriptors, and addresses that were changed are known by their place.
    let at_its_place = || {
        let listen = options.get(i).filter(|_| options.len() == bound.len())?;
        Some(listen).filter(|listen| !bound.contains(&listen.address))
    };
    same.or_else(at_its_place).map(|listen| listen.name.as_str())
}

impl Listener {
    /// The address as it would be given as an option.
    fn as_option(&self) -> ListenAddr {
        match (&self.address, &self.kind) {
            (Address::Inet(inet), Kind::Udp | Kind::InheritedUdp) => ListenAddr::Udp(*inet),
            (Address::Inet(inet), _) => ListenAddr::Tcp(*inet),
            (Address::Unix(path), _) => ListenAddr::Unix(path.clone()),
        }
    }

    /// The address, with the port really bound.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// True if it was given by a setting as this address.
    pub fn is_given_as(&self, address: &ListenAddr, config: &Config) -> bool {
        match address {
            ListenAddr::Fd(_) => {
                let mut inherited = config.listen.iter().filter(|listen| listen.address == *address);
                matches!(self.kind, Kind::Inherited) && inherited.next().is_some()
            }
            address => self.as_option() == *address,
        }
    }

    /// The socket for the worker of a slot that accepts itself.
    pub fn socket_for(&self, slot: Slot) -> Option<BorrowedFd<'_>> {
        let index = slot.index().checked_rem(self.sockets.len())?;
        Some(self.sockets[index].fd.as_fd())
    }

    /// Opens a listener that a worker asks for.
    ///
    /// # Errors
    /// As [`open_all`].
    pub fn open_asked(
        address: &ListenAddr,
        v6_only: bool,
        config: &Config,
        token: mio::Token,
    ) -> Result<Self> {
        let listen = Listen::from(address.clone());
        match address {
            ListenAddr::Tcp(inet) if v6_only && inet.is_ipv6() => {
                let bind = || {
                    let fd = socket::new_stream(*inet, false)?;
                    socket::set_only_v6(fd.as_fd(), true)?;
                    socket::bind(fd.as_fd(), *inet).map(|()| fd)
                };
                let owner = || port_owner::of_port(false, inet.port());
                let fd = bind().map_err(|e| bind_error(address, owner, e))?;
                Self::with_socket(&listen, fd, Kind::Tcp, config, 1, token)
            }
            _ => Self::open(&listen, config, 1, token),
        }
    }

    fn resume(saved: SavedListener, config: &Config, token: mio::Token) -> Result<Self> {
        let sockets = saved.sockets.into_iter().map(KeptFd::adopt).collect::<Result<Vec<_>>>()?;
        let address = match (saved.path, sockets.first()) {
            (Some(path), Some(_)) => Ok(Address::Unix(path.into())),
            (None, Some(fd)) => socket::local_address(fd.as_fd()),
            (_, None) => Err(io::ErrorKind::InvalidData.into()),
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
            name: saved.name,
            left: Some(config.backlog),
            deferral: Deferral::default(),
            left_to_workers: false,
        })
    }

    /// Returns what the next program in this process continues with; `keep` keeps a descriptor for it.
    pub fn save<'a>(&'a self, keep: impl FnMut(BorrowedFd<'a>) -> KeptFd) -> SavedListener {
        let sockets = self.sockets.iter().map(|socket| socket.fd.as_fd()).map(keep).collect();
        let path = match (self.kind, &self.address) {
            (Kind::Unix(_), Address::Unix(path)) => Some(path.clone().into()),
            _ => None,
        };
        SavedListener { sockets, per_slot: self.per_slot, kind: self.kind, path, name: self.name.clone() }
    }

    fn open(listen: &Listen, config: &Config, workers: usize, token: mio::Token) -> Result<Self> {
        let addr = &listen.address;
        let (fd, kind) = match addr {
            ListenAddr::Tcp(inet) => (bind_inet(addr, *inet, false)?, Kind::Tcp),
            ListenAddr::Udp(inet) => (bind_inet(addr, *inet, true)?, Kind::Udp),
            ListenAddr::Unix(path) => {
                let backlog = backlog(config);
                let made = if addr.is_abstract() {
                    socket::listen_unix(path, 0, backlog).map(|fd| (fd, None))
                } else {
                    unix_file::listen(path, config.unix_mode, backlog).map(|(fd, made)| (fd, Some(made)))
                };
                let (fd, made) = made.map_err(|e| bind_error(addr, || port_owner::of_path(path), e))?;
                (fd, Kind::Unix(made))
            }
            ListenAddr::Fd(n) => inherit(*n)?,
        };
        Self::with_socket(listen, fd, kind, config, workers, token)
    }

    fn with_socket(
        listen: &Listen,
        fd: OwnedFd,
        kind: Kind,
        config: &Config,
        workers: usize,
        token: mio::Token,
    ) -> Result<Self> {
        let Listen { name, address: addr } = listen;
        let address = match addr {
            // The file was bound under another name.
            ListenAddr::Unix(path) => Address::Unix(path.clone()),
            _ => socket::local_address(fd.as_fd())
                .map_err(|e| Error::io(ErrorKind::Listen, format!("listen {addr}: getsockname"), e))?,
        };
        let (sockets, left, deferral) = (Vec::new(), Some(config.backlog), Deferral::default());
        let name = name.clone();
        let mut listener = Self {
            sockets,
            per_slot: false,
            turn: 0,
            token,
            address,
            kind,
            name,
            left,
            deferral,
            left_to_workers: false,
        };
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
            if let Some(wait) = self.deferral(config).filter(|wait| !wait.is_zero()) {
                socket::set_defer_accept(fd, wait).map_err(|e| option("TCP_DEFER_ACCEPT", e))?;
            }
        }
        if self.inet().is_some() {
            // Two sockets may be bound to one port until one of them listens, so this too may find the address in use.
            socket::listen(fd, backlog(config)).map_err(|e| self.bind_error(e))?;
        }
        Ok(())
    }

    /// The number of its sockets, if each slot has its own.
    pub fn sockets_of_slots(&self) -> Option<usize> {
        self.per_slot.then_some(self.sockets.len())
    }

    /// The address, if it was bound here and could be bound again.
    fn inet(&self) -> Option<SocketAddr> {
        match (self.kind, &self.address) {
            (Kind::Tcp | Kind::Udp, Address::Inet(inet)) => Some(*inet),
            _ => None,
        }
    }

    fn bind_error(&self, cause: io::Error) -> Error {
        let owner = || port_owner::of_port(self.takes_datagrams(), self.inet()?.port());
        bind_error(self, owner, cause)
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

    /// The listener as workers know it.
    pub fn served(&self) -> Served {
        Served {
            name: CString::new(self.name.as_str()).unwrap_or_default(),
            address: self.to_string(),
            takes_datagrams: self.takes_datagrams(),
        }
    }

    /// In a server that is one process: takes out the socket for its only worker.
    pub fn take_socket(&mut self, listener: ListenerId) -> Option<OwnSocket> {
        let fd = self.sockets.pop()?.fd;
        Some(OwnSocket { fd, listener, alone: true, datagrams: self.takes_datagrams(), watched: None })
    }

    /// In a worker: returns its own socket, if it has one; the others are closed.
    pub fn into_socket_of(mut self, slot: Slot, listener: ListenerId, accept: Accept) -> Option<OwnSocket> {
        self.disown();
        let index = slot.index().checked_rem(self.sockets.len()).filter(|_| self.is_for_workers(accept))?;
        let fd = self.sockets.swap_remove(index).fd;
        let (alone, datagrams) = (self.per_slot, self.takes_datagrams());
        Some(OwnSocket { fd, listener, alone, datagrams, watched: None })
    }
}

impl Display for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.takes_datagrams() { write!(f, "udp:{}", self.address) } else { self.address.fmt(f) }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let (Kind::Unix(Some(made)), Address::Unix(path)) = (self.kind, &self.address) {
            unix_file::remove(path, made);
        }
    }
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
    bound.map_err(|e| bind_error(addr, || port_owner::of_port(datagrams, inet.port()), e))
}

fn inherit(number: u32) -> Result<(OwnedFd, Kind)> {
    let what = format!("listen fd:{number}");
    let fd = process::adopt_descriptor(number)
        .map_err(|e| Error::io(ErrorKind::Listen, format!("{what}: expected an open listening socket"), e))?;
    let why = match socket::sort_of(fd.as_fd()) {
        Ok(Sort::Listener) => return Ok((fd, Kind::Inherited)),
        Ok(Sort::Datagram(addr)) => match datagram::prepare(fd.as_fd(), addr) {
            Ok(()) => return Ok((fd, Kind::InheritedUdp)),
            Err(e) => e.to_string(),
        },
        Ok(Sort::Other(sort)) => format!("{sort}, not a listening stream socket or a bound UDP socket"),
        Err(_) => "not a listening socket".into(),
    };
    // It belongs to other code of this process and stays open for it.
    std::mem::forget(fd);
    Err(Error::new(ErrorKind::Listen, format!("{what}: {why}")))
}

/// The error of an address that cannot be bound; `owner` finds the process that has it.
fn bind_error(addr: &impl Display, owner: impl FnOnce() -> Option<(u32, String)>, cause: io::Error) -> Error {
    let mut what = format!("bind {addr}");
    if cause.raw_os_error() == Some(errno::EADDRINUSE)
        && let Some((pid, name)) = owner()
    {
        what = match i64::from(pid) == i64::from(process::own_pid()) {
            true => format!("{what}: in use by this process itself"),
            false => format!("{what}: in use by process {pid} ({name})"),
        };
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
    fn names_follow_their_addresses_whatever_the_order_of_the_new_options() {
        let names = |options: &[&str], bound: &[&str]| {
            let options: Vec<Listen> = options.iter().map(|text| text.parse().unwrap()).collect();
            let bound: Vec<ListenAddr> = bound.iter().map(|text| text.parse().unwrap()).collect();
            let name = |i| name_after(&options, &bound, i).unwrap_or("as before").to_owned();
            (0..bound.len()).map(name).collect::<Vec<_>>()
        };
        let bound = ["127.0.0.1:80", "127.0.0.1:81", "udp:127.0.0.1:80", "unix:/a"];
        let options = ["b=127.0.0.1:81", "d=unix:/a", "a=127.0.0.1:80", "c=udp:127.0.0.1:80"];
        assert_eq!(names(&options, &bound), ["a", "b", "c", "d"]);
        assert_eq!(names(&options[1..3], &bound), ["a", "as before", "as before", "d"]);
        // Free ports, and one that was changed.
        assert_eq!(names(&["a=127.0.0.1:0", "b=127.0.0.1:82"], &bound[..2]), ["a", "b"]);
        // What takes the place of an address is not named after it.
        assert_eq!(names(&["b=127.0.0.1:81", "x=127.0.0.1:90"], &bound[..2]), ["as before", "b"]);
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
