//! Sockets: making listeners, accepting, and reading and writing one connection.
//!
//! Reads and writes never block and never raise `SIGPIPE`, whatever the descriptor's own flags say: `O_NONBLOCK`
//! belongs to the open file and travels with it from process to process, `MSG_DONTWAIT` belongs to the call.

use super::{check, check_len, retry};
use std::io::{self, IoSlice};
use std::mem;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

/// The address of one end of a socket, as far as a handler cares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// An IPv4 or IPv6 address with its port.
    Inet(SocketAddr),
    /// A Unix socket, with its path; empty when the socket has no name.
    Unix(std::path::PathBuf),
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Inet(a) => a.fmt(f),
            Self::Unix(p) => write!(f, "unix:{}", p.display()),
        }
    }
}

fn address_of(sock: &socket2::SockAddr) -> Address {
    match sock.as_socket() {
        Some(inet) => Address::Inet(inet),
        None => Address::Unix(sock.as_pathname().map(Path::to_path_buf).unwrap_or_default()),
    }
}

/// The local address of a socket (getsockname(2)).
pub fn local_address(fd: BorrowedFd<'_>) -> io::Result<Address> {
    socket2::SockRef::from(&fd).local_addr().map(|a| address_of(&a))
}

/// The address of whoever is at the other end (getpeername(2)).
pub fn peer_address(fd: BorrowedFd<'_>) -> io::Result<Address> {
    socket2::SockRef::from(&fd).peer_addr().map(|a| address_of(&a))
}

/// The IP address of whoever is at the other end, as [`accept_with_ip`] gives it; `None` where it has none.
pub fn peer_ip(fd: BorrowedFd<'_>) -> Option<IpAddr> {
    let peer = socket2::SockRef::from(&fd).peer_addr().ok()?;
    peer.as_socket().map(|addr| addr.ip().to_canonical())
}

/// A socket for connections, to be bound to an IPv4 or IPv6 address; `[::]` takes both. With `again` the address may be bound
/// several times, by sockets of this user that all say so (`SO_REUSEPORT`).
pub fn new_stream(addr: SocketAddr, again: bool) -> io::Result<OwnedFd> {
    new_inet(addr, socket2::Type::STREAM, again)
}

pub(super) fn new_inet(addr: SocketAddr, kind: socket2::Type, again: bool) -> io::Result<OwnedFd> {
    let s = socket2::Socket::new(socket2::Domain::for_address(addr), kind, None)?;
    // For UDP it would let others bind the same address and take its datagrams.
    s.set_reuse_address(kind == socket2::Type::STREAM)?;
    s.set_reuse_port(again)?;
    if addr.is_ipv6() {
        // `[::]` takes IPv4 too, whatever the system's default for that is.
        s.set_only_v6(!addr.ip().is_unspecified())?;
    }
    Ok(s.into())
}

/// Binds a socket (bind(2)). Port 0 asks the kernel for a free one.
pub fn bind(fd: BorrowedFd<'_>, addr: SocketAddr) -> io::Result<()> {
    socket2::SockRef::from(&fd).bind(&addr.into())
}

/// Has a bound socket take connections (listen(2)).
pub fn listen(fd: BorrowedFd<'_>, backlog: i32) -> io::Result<()> {
    socket2::SockRef::from(&fd).listen(backlog)
}

/// Binds and listens on a Unix socket path that must not exist yet, created with exactly the permission bits `mode`.
pub fn listen_unix(path: &Path, mode: u32, backlog: i32) -> io::Result<OwnedFd> {
    use socket2::{Domain, SockAddr, Socket, Type};
    let s = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    let addr = SockAddr::unix(path)?;
    // bind(2) creates the file with 0777 & ~umask; the file must never be more open than asked, not even for a moment.
    // SAFETY: umask cannot fail and touches no memory of ours.
    let before = unsafe { libc::umask(!mode & 0o777) };
    let bound = s.bind(&addr);
    // SAFETY: as above; puts the former mask back.
    unsafe { libc::umask(before) };
    bound?;
    s.listen(backlog)?;
    Ok(s.into())
}

/// Whether somebody accepts connections on a Unix socket path: `false` where the connection is refused or no file is there.
pub fn unix_answers(path: &Path) -> io::Result<bool> {
    match connect_unix(path) {
        Ok(_) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(true),
        Err(e) if matches!(e.kind(), io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound) => Ok(false),
        Err(e) => Err(e),
    }
}

/// Connects to a Unix socket path without waiting: `WouldBlock` where its backlog is full. The connection itself is blocking.
pub fn connect_unix(path: &Path) -> io::Result<OwnedFd> {
    use socket2::{Domain, SockAddr, Socket, Type};
    let s = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    s.set_nonblocking(true)?;
    s.connect(&SockAddr::unix(path)?)?;
    s.set_nonblocking(false)?;
    Ok(s.into())
}

/// Whether a descriptor is a listening stream socket (`SO_ACCEPTCONN`, socket(7)).
pub fn is_listener(fd: BorrowedFd<'_>) -> bool {
    let s = socket2::SockRef::from(&fd);
    s.is_listener().unwrap_or(false) && s.r#type().is_ok_and(|t| t == socket2::Type::STREAM)
}

/// Sets `TCP_NODELAY` (tcp(7)); on a listener, what it accepts inherits it.
pub fn set_nodelay(fd: BorrowedFd<'_>, on: bool) -> io::Result<()> {
    socket2::SockRef::from(&fd).set_tcp_nodelay(on)
}

/// Sets `TCP_DEFER_ACCEPT` (tcp(7)): the kernel hands a connection out when its first bytes are there, or after the time given.
pub fn set_defer_accept(fd: BorrowedFd<'_>, wait: Duration) -> io::Result<()> {
    // Rounded up: a part of a second would be no wait at all.
    let seconds = libc::c_int::try_from(wait.as_millis().div_ceil(1000)).unwrap_or(libc::c_int::MAX);
    set_option(fd, libc::IPPROTO_TCP, libc::TCP_DEFER_ACCEPT, seconds)
}

/// Has the kernel drop every packet that comes for a TCP listener (socket(7), `SO_ATTACH_FILTER`): what is in its backlog can
/// still be accepted, nothing is added, and clients that try get no answer until the listener is closed.
pub fn stop_intake(fd: BorrowedFd<'_>) -> io::Result<()> {
    /// "Return 0 bytes of the packet": drop it.
    const DROP: libc::sock_filter =
        libc::sock_filter { code: (libc::BPF_RET | libc::BPF_K) as u16, jt: 0, jf: 0, k: 0 };
    let mut program = [DROP];
    let filter = libc::sock_fprog { len: 1, filter: program.as_mut_ptr() };
    let len = size_of_val(&filter) as libc::socklen_t;
    // SAFETY: `filter` points to one instruction; both live through the call, which copies them.
    let ret = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_FILTER,
            (&raw const filter).cast(),
            len,
        )
    };
    check(ret).map(drop)
}

/// Makes a descriptor blocking or not (ioctl(2), `FIONBIO`), for every process that shares the open file.
pub fn set_nonblocking(fd: BorrowedFd<'_>, on: bool) -> io::Result<()> {
    socket2::SockRef::from(&fd).set_nonblocking(on)
}

pub(super) fn set_option(fd: BorrowedFd<'_>, level: i32, name: i32, value: libc::c_int) -> io::Result<()> {
    let len = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: `value` is a c_int that lives through the call and `len` is its size.
    let ret = unsafe { libc::setsockopt(fd.as_raw_fd(), level, name, (&raw const value).cast(), len) };
    check(ret).map(drop)
}

/// Takes one connection off the backlog (accept4(2)): `CLOEXEC`, and blocking, so that a handler in blocking style
/// may use the descriptor as it is.
pub fn accept(listener: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    accept_into(listener, std::ptr::null_mut(), std::ptr::null_mut())
}

/// As [`accept`], with the client's IP address, which the same call gives; `None` for a Unix socket's. An IPv4 address that came
/// through an IPv6 socket is given as what it is.
pub fn accept_with_ip(listener: BorrowedFd<'_>) -> io::Result<(OwnedFd, Option<IpAddr>)> {
    // SAFETY: sockaddr_storage is plain data for which all zero bytes are a valid value.
    let mut name: libc::sockaddr_storage = unsafe { mem::zeroed() };
    let mut len = size_of_val(&name) as libc::socklen_t;
    let fd = accept_into(listener, &raw mut name, &raw mut len)?;
    Ok((fd, inet_of(&name).map(|addr| addr.ip().to_canonical())))
}

/// `name` and `len` are both null, or a whole sockaddr_storage and its size.
fn accept_into(
    listener: BorrowedFd<'_>,
    name: *mut libc::sockaddr_storage,
    len: *mut libc::socklen_t,
) -> io::Result<OwnedFd> {
    retry(|| {
        // SAFETY: both callers give null, which is allowed, or room for any address with its size.
        let ret = unsafe { libc::accept4(listener.as_raw_fd(), name.cast(), len, libc::SOCK_CLOEXEC) };
        // SAFETY: accept4 returned a new descriptor that nobody else knows of.
        check(ret).map(|fd| unsafe { OwnedFd::from_raw_fd(fd) })
    })
}

/// The IPv4 or IPv6 address in a socket address of the kernel's; `None` where it is of another family.
pub(super) fn inet_of(name: &libc::sockaddr_storage) -> Option<SocketAddr> {
    let at: *const libc::sockaddr_storage = name;
    match i32::from(name.ss_family) {
        libc::AF_INET => {
            // SAFETY: the family says that the storage holds a sockaddr_in, for which it is large enough and aligned.
            let v4 = unsafe { at.cast::<libc::sockaddr_in>().read() };
            let ip = Ipv4Addr::from(u32::from_be(v4.sin_addr.s_addr));
            Some(SocketAddrV4::new(ip, u16::from_be(v4.sin_port)).into())
        }
        libc::AF_INET6 => {
            // SAFETY: as above, with a sockaddr_in6.
            let v6 = unsafe { at.cast::<libc::sockaddr_in6>().read() };
            let (ip, port) = (Ipv6Addr::from(v6.sin6_addr.s6_addr), u16::from_be(v6.sin6_port));
            Some(SocketAddrV6::new(ip, port, v6.sin6_flowinfo, v6.sin6_scope_id).into())
        }
        _ => None,
    }
}

/// Reads what is there into `buf` (recv(2) with `MSG_DONTWAIT`): 0 at end of file, `WouldBlock` where nothing is there.
pub fn recv(fd: BorrowedFd<'_>, buf: &mut [u8]) -> io::Result<usize> {
    retry(|| {
        // SAFETY: `buf` is writable for `buf.len()` bytes through the call.
        check_len(unsafe {
            libc::recv(fd.as_raw_fd(), buf.as_mut_ptr().cast(), buf.len(), libc::MSG_DONTWAIT)
        })
    })
}

/// As [`recv`], appending to `buf` at most as many bytes as it has spare capacity for.
pub fn recv_append(fd: BorrowedFd<'_>, buf: &mut Vec<u8>) -> io::Result<usize> {
    recv_append_up_to(fd, buf, usize::MAX)
}

/// As [`recv_append`], at most `limit` bytes.
pub fn recv_append_up_to(fd: BorrowedFd<'_>, buf: &mut Vec<u8>, limit: usize) -> io::Result<usize> {
    let n = retry(|| {
        let spare = buf.spare_capacity_mut();
        let len = spare.len().min(limit);
        // SAFETY: `spare` is writable for its length, which `len` does not exceed; recv only writes to it.
        check_len(unsafe { libc::recv(fd.as_raw_fd(), spare.as_mut_ptr().cast(), len, libc::MSG_DONTWAIT) })
    })?;
    // SAFETY: recv initialised exactly `n` bytes behind the length, within the capacity.
    unsafe { buf.set_len(buf.len() + n) };
    Ok(n)
}

/// Writes as much of `bytes` as the socket takes (send(2) with `MSG_DONTWAIT | MSG_NOSIGNAL`).
pub fn send(fd: BorrowedFd<'_>, bytes: &[u8]) -> io::Result<usize> {
    retry(|| {
        // SAFETY: `bytes` is readable for its length through the call.
        check_len(unsafe {
            libc::send(
                fd.as_raw_fd(),
                bytes.as_ptr().cast(),
                bytes.len(),
                libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL,
            )
        })
    })
}

/// As [`send`], where more follows at once and may share a segment (`MSG_MORE`): the head before a file, the end of the
/// connection after the last response.
pub fn send_more(fd: BorrowedFd<'_>, bytes: &[u8]) -> io::Result<usize> {
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL | libc::MSG_MORE;
    // SAFETY: `bytes` is readable for its length through the call.
    retry(|| check_len(unsafe { libc::send(fd.as_raw_fd(), bytes.as_ptr().cast(), bytes.len(), flags) }))
}

/// As [`send`], or [`send_more`], gathering several slices in one call (sendmsg(2)). At most 1024 slices (`IOV_MAX`).
pub fn send_slices(fd: BorrowedFd<'_>, slices: &[IoSlice<'_>], more: bool) -> io::Result<usize> {
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL | if more { libc::MSG_MORE } else { 0 };
    // SAFETY: msghdr is plain data for which all zero bytes are a valid value.
    let mut msg: libc::msghdr = unsafe { mem::zeroed() };
    // IoSlice is guaranteed to have the layout of iovec; sendmsg does not write through it.
    msg.msg_iov = slices.as_ptr().cast_mut().cast();
    msg.msg_iovlen = slices.len() as _;
    retry(|| {
        // SAFETY: `msg` points to `slices.len()` valid iovecs that live through the call.
        check_len(unsafe { libc::sendmsg(fd.as_raw_fd(), &raw const msg, flags) })
    })
}

/// Sends up to `len` bytes of `file` from `offset` (sendfile(2)) without moving the file's own position.
/// The socket must be non-blocking ([`set_nonblocking`]): sendfile has no flag of its own. 0 where the file ends early.
/// `SIGPIPE` must be ignored, for the same reason.
pub fn send_file(fd: BorrowedFd<'_>, file: BorrowedFd<'_>, offset: u64, len: u64) -> io::Result<usize> {
    let count = usize::try_from(len).unwrap_or(usize::MAX).min(0x7fff_f000);
    let start = libc::off_t::try_from(offset).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    retry(|| {
        let mut at = start;
        // SAFETY: `at` is a valid off_t through the call.
        check_len(unsafe { libc::sendfile(fd.as_raw_fd(), file.as_raw_fd(), &raw mut at, count) })
    })
}

/// Has close(2) reset the connection instead of ending it in order (socket(7), `SO_LINGER` of 0): the only way to tell a client
/// that what it got was not all, where the end of the connection is the end of the message.
pub fn reset_on_close(fd: BorrowedFd<'_>) -> io::Result<()> {
    socket2::SockRef::from(&fd).set_linger(Some(Duration::ZERO))
}

/// Ends the sending side (shutdown(2), `SHUT_WR`): the peer reads the rest, then end of file.
pub fn shutdown_write(fd: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: takes no pointers.
    check(unsafe { libc::shutdown(fd.as_raw_fd(), libc::SHUT_WR) }).map(drop)
}

/// Whether a write of a line would neither wait nor raise SIGPIPE: there is room, and somebody to read it (poll(2)).
pub fn takes_a_line(fd: BorrowedFd<'_>) -> bool {
    let mut entry = libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLOUT, revents: 0 };
    // SAFETY: one valid pollfd that lives through the call.
    let found = retry(|| check(unsafe { libc::poll(&raw mut entry, 1, 0) }));
    found.is_ok_and(|n| n > 0) && entry.revents == libc::POLLOUT
}

/// Waits until a descriptor is readable (or writable), its peer is gone, or `timeout` is over (poll(2)); `None` waits for ever.
/// `false` when the time is over.
pub fn wait_ready(fd: BorrowedFd<'_>, write: bool, timeout: Option<Duration>) -> io::Result<bool> {
    let deadline = timeout.map(|t| std::time::Instant::now() + t);
    let mut entry = libc::pollfd {
        fd: fd.as_raw_fd(),
        events: if write { libc::POLLOUT } else { libc::POLLIN },
        revents: 0,
    };
    loop {
        let ms = match deadline {
            None => -1,
            // Rounded up, so as not to spin through the last millisecond.
            Some(d) => {
                let left = d.saturating_duration_since(std::time::Instant::now());
                i32::try_from(left.as_micros().div_ceil(1000)).unwrap_or(i32::MAX)
            }
        };
        // SAFETY: one valid pollfd that lives through the call.
        match check(unsafe { libc::poll(&raw mut entry, 1, ms) }) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            other => return other.map(|n| n > 0),
        }
    }
}
