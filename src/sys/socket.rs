//! Sockets: making listeners, accepting, and reading and writing one connection.
//!
//! Reads and writes never block and never raise `SIGPIPE`, whatever the descriptor's own flags say: `O_NONBLOCK`
//! belongs to the open file and travels with it from process to process, `MSG_DONTWAIT` belongs to the call.

use super::{as_uninit, check, retry, test_thread};
use socket2::{Domain, SockAddr, SockFilter, SockRef, Socket, Type};
use std::ffi::{OsStr, OsString, c_int};
use std::fmt;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::net::{IpAddr, Shutdown, SocketAddr};
use std::num::NonZero;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::ptr::null_mut;
use std::time::{Duration, Instant};

/// The address of one end of a socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// An IPv4 or IPv6 address with its port.
    Inet(SocketAddr),
    /// A Unix socket, with its path; `@` and its name if it has no file (unix(7), abstract); empty if it has no name.
    Unix(std::path::PathBuf),
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Inet(a) => a.fmt(f),
            Self::Unix(path) => {
                f.write_str("unix:")?;
                fmt_path(path, f)
            }
        }
    }
}

/// Control characters, which a client's path may have too, would break a line of a log: they, backslashes, and what is not UTF-8
/// are written as `\xNN`.
fn fmt_path(path: &Path, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    for chunk in path.as_os_str().as_bytes().utf8_chunks() {
        for text in chunk.valid().split_inclusive(is_escaped) {
            let plain = text.trim_end_matches(is_escaped);
            f.write_str(plain)?;
            fmt_bytes(&text.as_bytes()[plain.len()..], f)?;
        }
        fmt_bytes(chunk.invalid(), f)?;
    }
    Ok(())
}

fn is_escaped(c: char) -> bool {
    c.is_control() || c == '\\'
}

fn fmt_bytes(bytes: &[u8], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    bytes.iter().try_for_each(|byte| write!(f, "\\x{byte:02x}"))
}

fn address_of(sock: &SockAddr) -> Address {
    match sock.as_socket() {
        Some(inet) => Address::Inet(inet),
        None => Address::Unix(match (sock.as_pathname(), sock.as_abstract_namespace()) {
            (Some(path), _) => path.to_path_buf(),
            (None, Some(name)) => OsString::from_vec([b"@", name].concat()).into(),
            (None, None) => PathBuf::new(),
        }),
    }
}

/// The kernel's form of a Unix socket's address: one that begins with `@` has no file.
fn unix_address(path: &Path) -> io::Result<SockAddr> {
    match path.as_os_str().as_bytes().strip_prefix(b"@") {
        Some(name) => SockAddr::unix(OsStr::from_bytes(&[b"\0", name].concat())),
        None => SockAddr::unix(path),
    }
}

/// The local address of a socket (getsockname(2)).
pub fn local_address(fd: BorrowedFd<'_>) -> io::Result<Address> {
    SockRef::from(&fd).local_addr().map(|a| address_of(&a))
}

/// The address of the other end of a socket (getpeername(2)). An IPv4 client of an IPv6 socket has its IPv4 address.
pub fn peer_address(fd: BorrowedFd<'_>) -> io::Result<Address> {
    SockRef::from(&fd).peer_addr().map(|a| match address_of(&a) {
        Address::Inet(inet) => Address::Inet(canonical(inet)),
        Address::Unix(path) if test_thread::is_here() => address_in_test(path),
        unix => unix,
    })
}

/// The text of an address as the kernel writes it to memory (sockaddr(3type)): `127.0.0.1:80`, `[::1]:80` or `unix`; `None` if it is of another
/// kind, or incomplete.
pub fn describe_address(bytes: &[u8]) -> Option<String> {
    let port = || Some(u16::from_be_bytes(bytes.get(2..4)?.try_into().ok()?));
    let family = u16::from_ne_bytes(bytes.get(..2)?.try_into().ok()?);
    match libc::c_int::from(family) {
        libc::AF_UNIX => Some("unix".into()),
        libc::AF_INET => {
            let ip = <[u8; 4]>::try_from(bytes.get(4..8)?).ok()?;
            Some(SocketAddr::from((ip, port()?)).to_string())
        }
        libc::AF_INET6 => {
            let ip = <[u8; 16]>::try_from(bytes.get(8..24)?).ok()?;
            Some(canonical(SocketAddr::from((ip, port()?))).to_string())
        }
        _ => None,
    }
}

/// The name of the socket of a client in a test, in front of its address.
const TEST: &str = "@prefork-test/";

/// Has [`peer_address`] return an address at the other end of a pair, in a thread of tests.
///
/// # Errors
/// Those of bind(2).
pub fn name_in_test(fd: BorrowedFd<'_>, address: SocketAddr, number: u64) -> io::Result<()> {
    let name = format!("{TEST}{address}/{}/{number}", std::process::id());
    SockRef::from(&fd).bind(&unix_address(Path::new(&name))?)
}

fn address_in_test(path: PathBuf) -> Address {
    let name = path.to_str().and_then(|name| name.strip_prefix(TEST)?.split('/').next());
    name.and_then(|address| address.parse().ok()).map_or(Address::Unix(path), Address::Inet)
}

/// The IPv4 address of one that is mapped into IPv6 (RFC 4291 section 2.5.5.2); any other as it is, with its scope.
pub(super) fn canonical(addr: SocketAddr) -> SocketAddr {
    match addr.ip().to_canonical() {
        ip if ip == addr.ip() => addr,
        ip => SocketAddr::new(ip, addr.port()),
    }
}

/// The IP address of the other end, as [`accept_with_ip`] returns it; `None` if it has none.
pub fn peer_ip(fd: BorrowedFd<'_>) -> Option<IpAddr> {
    ip_of(&SockRef::from(&fd).peer_addr().ok()?)
}

/// Creates a socket for connections, to be bound to an IPv4 or IPv6 address; `[::]` takes both. With `again` the address may be
/// bound several times, by sockets of this user that all have the option (`SO_REUSEPORT`).
pub fn new_stream(addr: SocketAddr, again: bool) -> io::Result<OwnedFd> {
    new_inet(addr, Type::STREAM, again)
}

pub(super) fn new_inet(addr: SocketAddr, kind: Type, again: bool) -> io::Result<OwnedFd> {
    let s = Socket::new(Domain::for_address(addr), kind, None)?;
    // For UDP it would allow others to bind the same address and take its datagrams.
    s.set_reuse_address(kind == Type::STREAM)?;
    s.set_reuse_port(again)?;
    if addr.is_ipv6() {
        // `[::]` takes IPv4 too, whatever the system's default is.
        s.set_only_v6(!addr.ip().is_unspecified())?;
    }
    Ok(s.into())
}

/// Binds a socket (bind(2)). Port 0 asks the kernel for a free one.
pub fn bind(fd: BorrowedFd<'_>, addr: SocketAddr) -> io::Result<()> {
    SockRef::from(&fd).bind(&addr.into())
}

/// Has a socket for IPv6 that is not bound yet take IPv4 clients too, or not (ipv6(7), `IPV6_V6ONLY`).
pub fn set_only_v6(fd: BorrowedFd<'_>, only: bool) -> io::Result<()> {
    SockRef::from(&fd).set_only_v6(only)
}

/// A Unix datagram socket with this name or path, which never waits.
pub fn bind_datagrams(path: &Path) -> io::Result<OwnedFd> {
    let s = Socket::new(Domain::UNIX, Type::DGRAM, None)?;
    s.set_nonblocking(true)?;
    s.bind(&unix_address(path)?)?;
    Ok(s.into())
}

/// Makes a bound socket a listener (listen(2)).
pub fn listen(fd: BorrowedFd<'_>, backlog: i32) -> io::Result<()> {
    SockRef::from(&fd).listen(backlog)
}

/// Binds and listens on a Unix socket path that must not exist yet, created with exactly the permission bits `mode`. One that begins
/// with `@` has no file and no permissions.
pub fn listen_unix(path: &Path, mode: u32, backlog: i32) -> io::Result<OwnedFd> {
    let s = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    let addr = unix_address(path)?;
    // bind(2) creates the file with 0777 & ~umask; a chmod afterwards would leave it too open for a moment.
    // SAFETY: umask cannot fail and touches no memory of ours.
    let before = unsafe { libc::umask(!mode & 0o777) };
    let bound = s.bind(&addr);
    // SAFETY: as above.
    unsafe { libc::umask(before) };
    bound?;
    s.listen(backlog)?;
    Ok(s.into())
}

/// True if a process listens on a Unix socket path; false if the connection is refused or there is no file.
pub fn unix_answers(path: &Path) -> io::Result<bool> {
    match connect_unix(path) {
        Ok(_) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(true),
        Err(e) if matches!(e.kind(), io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound) => Ok(false),
        Err(e) => Err(e),
    }
}

/// Connects to a Unix socket path without waiting: `WouldBlock` if its backlog is full. The connection itself is blocking.
pub fn connect_unix(path: &Path) -> io::Result<OwnedFd> {
    let s = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    s.set_nonblocking(true)?;
    s.connect(&unix_address(path)?)?;
    s.set_nonblocking(false)?;
    Ok(s.into())
}

/// A socket that this process has inherited.
pub enum Sort {
    /// Connections can be accepted (`SO_ACCEPTCONN`, socket(7)).
    Listener,
    /// Datagrams come from anybody, to this address.
    Datagram(SocketAddr),
    /// Another one, in words.
    Other(&'static str),
}

/// Finds out what an inherited socket is for.
///
/// # Errors
/// `ENOTSOCK`.
pub fn sort_of(fd: BorrowedFd<'_>) -> io::Result<Sort> {
    let s = SockRef::from(&fd);
    let (kind, local, is_connected) = (s.r#type()?, s.local_addr()?, s.peer_addr().is_ok());
    Ok(match (kind, local.as_socket()) {
        (Type::STREAM, _) if s.is_listener()? => Sort::Listener,
        (Type::STREAM, _) if is_connected => Sort::Other("a connection"),
        (Type::STREAM, _) => Sort::Other("a socket that does not listen"),
        (Type::DGRAM, Some(_)) if is_connected => Sort::Other("a connected UDP socket"),
        (Type::DGRAM, Some(addr)) if addr.port() == 0 => Sort::Other("a UDP socket without an address"),
        (Type::DGRAM, Some(addr)) => Sort::Datagram(addr),
        (Type::DGRAM, None) => Sort::Other("a Unix datagram socket"),
        _ => Sort::Other("a socket of another type"),
    })
}

/// Sets `TCP_NODELAY` (tcp(7)), which accepted connections inherit from their listener.
pub fn set_nodelay(fd: BorrowedFd<'_>, on: bool) -> io::Result<()> {
    SockRef::from(&fd).set_tcp_nodelay(on)
}

/// Sets `TCP_DEFER_ACCEPT` (tcp(7)): a connection can be accepted when its first bytes are there, or after the time given.
pub fn set_defer_accept(fd: BorrowedFd<'_>, wait: Duration) -> io::Result<()> {
    // Rounded up: a part of a second would be no wait at all.
    let seconds = c_int::try_from(wait.as_millis().div_ceil(1000)).unwrap_or(c_int::MAX);
    set_option(fd, libc::IPPROTO_TCP, libc::TCP_DEFER_ACCEPT, seconds)
}

/// Makes the kernel drop the packets with which clients ask a TCP listener for a connection (socket(7), `SO_ATTACH_FILTER`): those
/// that have begun can still be accepted, none is added, and clients that try get no answer until the listener is closed.
pub fn stop_intake(fd: BorrowedFd<'_>) -> io::Result<()> {
    // The packet begins with the TCP header (RFC 9293 section 3.1).
    const FLAGS: u32 = 13;
    const SYN: u32 = 2;
    let step = |code: u32, value, skip| SockFilter::new(code as u16, skip, 0, value);
    SockRef::from(&fd).attach_filter(&[
        step(libc::BPF_LD | libc::BPF_B | libc::BPF_ABS, FLAGS, 0),
        step(libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K, SYN, 1),
        // The number of bytes to keep of the packet.
        step(libc::BPF_RET | libc::BPF_K, u32::MAX, 0),
        step(libc::BPF_RET | libc::BPF_K, 0, 0),
    ])
}

/// Makes a descriptor blocking or not (fcntl(2), `O_NONBLOCK`), for every process that shares the open file.
pub fn set_nonblocking(fd: BorrowedFd<'_>, on: bool) -> io::Result<()> {
    SockRef::from(&fd).set_nonblocking(on)
}

pub(super) fn set_option(fd: BorrowedFd<'_>, level: i32, name: i32, value: c_int) -> io::Result<()> {
    let len = size_of::<c_int>() as libc::socklen_t;
    // SAFETY: `value` is a c_int that lives through the call and `len` is its size.
    let ret = unsafe { libc::setsockopt(fd.as_raw_fd(), level, name, (&raw const value).cast(), len) };
    check(ret).map(drop)
}

/// Takes one connection from the backlog (accept4(2)). The descriptor is `CLOEXEC`, and blocking: a handler in blocking style uses
/// it as it is.
pub fn accept(listener: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    // Not by socket2, which asks for the client's address too.
    let fd = retry(|| {
        // SAFETY: null is allowed for the address and its length.
        check(unsafe { libc::accept4(listener.as_raw_fd(), null_mut(), null_mut(), libc::SOCK_CLOEXEC) })
    })?;
    // SAFETY: a new descriptor, without another owner.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// The connections that wait at a TCP listener (tcp(7), `TCP_INFO`); `None` if the kernel does not say.
pub fn waiting(listener: BorrowedFd<'_>) -> Option<usize> {
    // The beginning of struct tcp_info, up to tcpi_unacked: of a listener the connections that accept(2) would return.
    let mut info = [0u32; 7];
    let mut len = size_of_val(&info) as libc::socklen_t;
    // SAFETY: the call writes at most `len` bytes to `info`, and `len`; both live through it.
    let ret = unsafe {
        let info = (&raw mut info).cast();
        libc::getsockopt(listener.as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_INFO, info, &raw mut len)
    };
    let is_whole = len as usize == size_of_val(&info);
    check(ret).ok().filter(|_| is_whole).map(|_| info[6] as usize)
}

/// As [`accept`], with the client's IP address, which the same call returns; `None` for a client of a Unix socket. An IPv4 address
/// that came through an IPv6 socket is returned as IPv4.
pub fn accept_with_ip(listener: BorrowedFd<'_>) -> io::Result<(OwnedFd, Option<IpAddr>)> {
    let (socket, client) = retry(|| SockRef::from(&listener).accept())?;
    Ok((socket.into(), ip_of(&client)))
}

fn ip_of(addr: &SockAddr) -> Option<IpAddr> {
    addr.as_socket().map(|addr| addr.ip().to_canonical())
}

/// Reads into `buf` without waiting (recv(2) with `MSG_DONTWAIT`): 0 at end of file, `WouldBlock` if there is nothing to read.
pub fn recv(fd: BorrowedFd<'_>, buf: &mut [u8]) -> io::Result<usize> {
    recv_uninit(fd, as_uninit(buf))
}

/// The bytes in a socket's receive queue: of a Unix socket of packets, those of all packets (`FIONREAD`, unix(7)).
pub fn unread(fd: BorrowedFd<'_>) -> io::Result<usize> {
    let mut bytes: c_int = 0;
    // SAFETY: the call writes one int, to a place that lives through it.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::FIONREAD, &raw mut bytes) })?;
    Ok(usize::try_from(bytes).unwrap_or(0))
}

/// As [`recv`], appending to `buf` up to its spare capacity.
pub fn recv_append(fd: BorrowedFd<'_>, buf: &mut Vec<u8>) -> io::Result<usize> {
    recv_append_up_to(fd, buf, usize::MAX)
}

/// As [`recv_append`], up to `limit` bytes.
pub fn recv_append_up_to(fd: BorrowedFd<'_>, buf: &mut Vec<u8>, limit: usize) -> io::Result<usize> {
    let spare = buf.spare_capacity_mut();
    let len = spare.len().min(limit);
    let n = recv_uninit(fd, &mut spare[..len])?;
    // SAFETY: recv initialised exactly `n` bytes behind the length, within the capacity.
    unsafe { buf.set_len(buf.len() + n) };
    Ok(n)
}

/// True if bytes have arrived that were not read (recv(2) with `MSG_PEEK`).
pub fn has_unread(fd: BorrowedFd<'_>) -> bool {
    let mut byte = [MaybeUninit::uninit()];
    let flags = libc::MSG_DONTWAIT | libc::MSG_PEEK;
    matches!(retry(|| SockRef::from(&fd).recv_with_flags(&mut byte, flags)), Ok(1..))
}

fn recv_uninit(fd: BorrowedFd<'_>, buf: &mut [MaybeUninit<u8>]) -> io::Result<usize> {
    retry(|| SockRef::from(&fd).recv_with_flags(buf, libc::MSG_DONTWAIT))
}

const SEND: c_int = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
const SEND_MORE: c_int = SEND | libc::MSG_MORE;

/// Writes as much of `bytes` as the socket takes (send(2) with `MSG_DONTWAIT | MSG_NOSIGNAL`).
pub fn send(fd: BorrowedFd<'_>, bytes: &[u8]) -> io::Result<usize> {
    retry(|| SockRef::from(&fd).send_with_flags(bytes, SEND))
}

/// As [`send`], if more follows at once and may share a segment (`MSG_MORE`): the head before a file, the end of the connection
/// after the last response.
pub fn send_more(fd: BorrowedFd<'_>, bytes: &[u8]) -> io::Result<usize> {
    retry(|| SockRef::from(&fd).send_with_flags(bytes, SEND_MORE))
}

/// As [`send`], or [`send_more`], gathering up to 1024 slices (`IOV_MAX`) in one call (sendmsg(2)).
pub fn send_slices(fd: BorrowedFd<'_>, slices: &[IoSlice<'_>], more: bool) -> io::Result<usize> {
    let flags = if more { SEND_MORE } else { SEND };
    retry(|| SockRef::from(&fd).send_vectored_with_flags(slices, flags))
}

/// Sends up to `len` bytes of `file` from `offset` (sendfile(2)) without moving the file's own position. Returns 0 if the file ends
/// before.
/// The socket must be non-blocking ([`set_nonblocking`]) and `SIGPIPE` ignored: sendfile has no flags.
pub fn send_file(fd: BorrowedFd<'_>, file: BorrowedFd<'_>, offset: u64, len: u64) -> io::Result<usize> {
    let offset = usize::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput)?;
    let Some(len) = NonZero::new(usize::try_from(len).unwrap_or(usize::MAX)) else { return Ok(0) };
    retry(|| SockRef::from(&fd).sendfile(&file, offset, Some(len)))
}

/// True if [`send_file`] can read a file through this descriptor, that is if it was opened for reading (fcntl(2), `F_GETFL`).
pub fn can_send_file(file: BorrowedFd<'_>) -> bool {
    // SAFETY: takes no pointers.
    let flags = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GETFL) };
    flags >= 0 && flags & libc::O_PATH == 0 && flags & libc::O_ACCMODE != libc::O_WRONLY
}

/// The requests of ioctl(2) for the bytes of a TCP connection that are not on the wire yet, and for those written to a Unix socket that
/// its peer has not read (`linux/sockios.h`).
const SIOCOUTQNSD: libc::Ioctl = 0x894b;
const SIOCOUTQ: libc::Ioctl = libc::TIOCOUTQ;

/// The number of bytes written to a connection that the kernel holds because its peer has no room for them: they become fewer as it
/// reads. 0 if it is not known.
pub fn unsent(fd: BorrowedFd<'_>) -> u32 {
    let ask = |request| {
        let mut bytes: c_int = 0;
        // SAFETY: each of the two requests writes one c_int, which lives through the call.
        let ret = unsafe { libc::ioctl(fd.as_raw_fd(), request, &raw mut bytes) };
        check(ret).map(|_| bytes.unsigned_abs())
    };
    ask(SIOCOUTQNSD).or_else(|_| ask(SIOCOUTQ)).unwrap_or(0)
}

/// Makes close(2) reset the connection instead of ending it in order (socket(7), `SO_LINGER` of 0). If the end of the connection is
/// the end of the message, only a reset tells the client that the message is incomplete.
pub fn reset_on_close(fd: BorrowedFd<'_>) -> io::Result<()> {
    SockRef::from(&fd).set_linger(Some(Duration::ZERO))
}

/// Ends the sending side (shutdown(2), `SHUT_WR`): the peer reads the rest, then end of file.
pub fn shutdown_write(fd: BorrowedFd<'_>) -> io::Result<()> {
    SockRef::from(&fd).shutdown(Shutdown::Write)
}

/// Has a listener refuse clients, in every process that has it (shutdown(2)). The kernel resets those in its backlog.
pub fn refuse_clients(fd: BorrowedFd<'_>) -> io::Result<()> {
    SockRef::from(&fd).shutdown(Shutdown::Both)
}

/// True if a write of a line would neither wait nor raise SIGPIPE: there is room, and the reader has not closed its end (poll(2)).
pub fn takes_a_line(fd: BorrowedFd<'_>) -> bool {
    retry(|| poll(fd, libc::POLLOUT, 0)).is_ok_and(|found| found == libc::POLLOUT)
}

/// True if the peer of a connection has ended its side (poll(2), `POLLRDHUP`), also if bytes that came before are unread.
pub fn has_ended(fd: BorrowedFd<'_>) -> bool {
    retry(|| poll(fd, libc::POLLRDHUP, 0)).map_or(true, |found| found != 0)
}

/// True if a connection is over in both directions: it was reset, or, on a Unix socket, its peer has closed it (poll(2)).
pub fn is_broken(fd: BorrowedFd<'_>) -> bool {
    retry(|| poll(fd, 0, 0)).map_or(true, |found| found != 0)
}

/// Waits until a descriptor is readable (or writable), its peer has closed, or `timeout` is over (poll(2)); `None` waits forever.
/// Returns false if the time is over.
pub fn wait_ready(fd: BorrowedFd<'_>, write: bool, timeout: Option<Duration>) -> io::Result<bool> {
    let deadline = timeout.map(|t| Instant::now() + t);
    let events = if write { libc::POLLOUT } else { libc::POLLIN };
    retry(|| {
        let ms = deadline.map_or(-1, |deadline| {
            let left = deadline.saturating_duration_since(Instant::now());
            // Rounded up, so as not to spin through the last millisecond.
            c_int::try_from(left.as_micros().div_ceil(1000)).unwrap_or(c_int::MAX)
        });
        poll(fd, events, ms)
    })
    .map(|found| found != 0)
}

/// Waits up to `ms` milliseconds, and returns the events found.
fn poll(fd: BorrowedFd<'_>, events: libc::c_short, ms: c_int) -> io::Result<libc::c_short> {
    let mut entry = libc::pollfd { fd: fd.as_raw_fd(), events, revents: 0 };
    // SAFETY: one valid pollfd that lives through the call.
    check(unsafe { libc::poll(&raw mut entry, 1, ms) })?;
    Ok(entry.revents)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::OsStr;

    #[test]
    fn a_path_is_one_line_of_text_whatever_its_bytes_are() {
        let text = |path: &[u8]| Address::Unix(Path::new(OsStr::from_bytes(path)).to_owned()).to_string();
        assert_eq!(text(b"/run/x y.sock"), "unix:/run/x y.sock");
        assert_eq!(text("/\u{e9}".as_bytes()), "unix:/\u{e9}");
        assert_eq!(text(b"/a\n\r\x1b[1mb\\\xff/\xc2\x85"), r"unix:/a\x0a\x0d\x1b[1mb\x5c\xff/\xc2\x85");
        assert_eq!(text(b""), "unix:");
    }
}
