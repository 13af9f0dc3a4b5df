//! UDP: a datagram comes, and an answer goes back the way it came (udp(7), ip(7), ipv6(7)).
//!
//! A socket bound to all addresses has to be told which of them an answer is from: the one that was asked. The kernel says it
//! with each datagram, and takes it back with the answer.

use super::socket::{bind_inet, inet_of, set_option};
use super::{check_len, retry};
use std::io;
use std::mem;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

/// Any socket address, as C has it.
pub use libc::sockaddr;

/// No datagram is larger.
pub const LARGEST: usize = 65_535;

/// Where a datagram came from, and which of this machine's addresses it came to.
pub struct Origin {
    name: libc::sockaddr_storage,
    name_len: libc::socklen_t,
    control: Control,
    control_len: usize,
}

/// Room for the control message that says to which address a datagram came, aligned as cmsghdr asks for.
#[repr(C, align(8))]
struct Control([u8; CONTROL_LEN]);
// SAFETY: CMSG_SPACE only computes.
const CONTROL_LEN: usize = unsafe { libc::CMSG_SPACE(size_of::<libc::in6_pktinfo>() as u32) } as usize;

/// Binds a socket for datagrams to an IPv4 or IPv6 address; `[::]` takes both. Port 0 asks the kernel for a free one. With `again`
/// the address may be bound several times (`SO_REUSEPORT`).
pub fn bind(addr: SocketAddr, again: bool) -> io::Result<OwnedFd> {
    let fd = bind_inet(addr, socket2::Type::DGRAM, again)?;
    if addr.ip().is_unspecified() {
        let (level, name) = match addr {
            SocketAddr::V4(_) => (libc::IPPROTO_IP, libc::IP_PKTINFO),
            SocketAddr::V6(_) => (libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO),
        };
        set_option(fd.as_fd(), level, name, 1)?;
    }
    Ok(fd)
}

/// Has the kernel put no more datagrams into a socket's queue; what is there can be read, and answered. Of several sockets bound to
/// the address the others get what comes. (A socket that is connected to somebody takes nobody else's; this one is, to itself.)
pub fn retire(fd: BorrowedFd<'_>) -> io::Result<()> {
    let socket = socket2::SockRef::from(&fd);
    socket.connect(&socket.local_addr()?)
}

/// Whether a socket was [retired](retire).
pub fn is_retired(fd: BorrowedFd<'_>) -> bool {
    socket2::SockRef::from(&fd).peer_addr().is_ok()
}

/// Reads one datagram into `buf`, without waiting, and where it is from into `origin`. What does not fit is cut off.
pub fn recv(fd: BorrowedFd<'_>, buf: &mut [u8], origin: &mut Origin) -> io::Result<usize> {
    let mut iov = libc::iovec { iov_base: buf.as_mut_ptr().cast(), iov_len: buf.len() };
    let mut msg = origin.message(&mut iov);
    let len = retry(|| {
        (msg.msg_namelen, msg.msg_controllen) =
            (size_of::<libc::sockaddr_storage>() as libc::socklen_t, CONTROL_LEN as _);
        // SAFETY: `msg` points to buffers that live through the call and may be written to.
        check_len(unsafe { libc::recvmsg(fd.as_raw_fd(), &raw mut msg, libc::MSG_DONTWAIT) })
    })?;
    any_interface(&msg);
    (origin.name_len, origin.control_len) = (msg.msg_namelen, msg.msg_controllen as _);
    Ok(len)
}

/// Sends one datagram to where another came from, from the address that one came to, without waiting.
pub fn reply(fd: BorrowedFd<'_>, bytes: &[u8], origin: &Origin) -> io::Result<()> {
    let mut iov = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    let mut control = Control(origin.control.0);
    // SAFETY: msghdr is plain data for which all zero bytes are a valid value.
    let mut msg: libc::msghdr = unsafe { mem::zeroed() };
    msg.msg_name = (&raw const origin.name).cast_mut().cast();
    msg.msg_namelen = origin.name_len;
    (msg.msg_iov, msg.msg_iovlen) = (&raw mut iov, 1);
    (msg.msg_control, msg.msg_controllen) = (control.0.as_mut_ptr().cast(), origin.control_len as _);
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    // SAFETY: `msg` points to buffers that live through the call; sendmsg only reads them.
    retry(|| check_len(unsafe { libc::sendmsg(fd.as_raw_fd(), &raw const msg, flags) })).map(drop)
}

impl Origin {
    /// Of no datagram yet.
    pub fn new() -> Self {
        Self {
            // SAFETY: sockaddr_storage is plain data for which all zero bytes are a valid value.
            name: unsafe { mem::zeroed() },
            name_len: 0,
            control: Control([0; CONTROL_LEN]),
            control_len: 0,
        }
    }

    /// The sender; `None` before there is one.
    pub fn peer(&self) -> Option<SocketAddr> {
        let peer = inet_of(&self.name)?;
        // What came from IPv4 through a socket for both is told as what it is.
        Some(match peer.ip().to_canonical() {
            ip if ip == peer.ip() => peer,
            ip => SocketAddr::new(ip, peer.port()),
        })
    }

    /// The sender as the kernel told it, for C.
    pub fn as_sockaddr(&self) -> *const sockaddr {
        (&raw const self.name).cast()
    }

    fn message(&mut self, iov: &mut libc::iovec) -> libc::msghdr {
        // SAFETY: msghdr is plain data for which all zero bytes are a valid value.
        let mut msg: libc::msghdr = unsafe { mem::zeroed() };
        msg.msg_name = (&raw mut self.name).cast();
        (msg.msg_iov, msg.msg_iovlen) = (iov, 1);
        msg.msg_control = self.control.0.as_mut_ptr().cast();
        msg
    }
}

/// Takes the interface out of what the kernel said: the answer's address stays as it was asked, its way is the routing table's.
fn any_interface(msg: &libc::msghdr) {
    // SAFETY: the kernel filled in the control buffer that `msg` points to.
    let head = unsafe { libc::CMSG_FIRSTHDR(msg) };
    if head.is_null() {
        return;
    }
    // SAFETY: `head` is a header within the control buffer; it was just checked not to be null.
    let cmsg = unsafe { head.read() };
    // SAFETY: as above.
    let data = unsafe { libc::CMSG_DATA(head) };
    let at = match (cmsg.cmsg_level, cmsg.cmsg_type) {
        (libc::IPPROTO_IP, libc::IP_PKTINFO) => mem::offset_of!(libc::in_pktinfo, ipi_ifindex),
        (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => mem::offset_of!(libc::in6_pktinfo, ipi6_ifindex),
        _ => return,
    };
    // SAFETY: a message of this type holds a struct with this member.
    let index = unsafe { data.add(at) };
    // SAFETY: four bytes of that struct, which nobody else uses now; whatever the alignment.
    unsafe { index.cast::<u32>().write_unaligned(0) };
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{IpAddr, Ipv4Addr, UdpSocket};
    use std::time::Duration;

    fn port(fd: &OwnedFd) -> u16 {
        UdpSocket::from(fd.try_clone().unwrap()).local_addr().unwrap().port()
    }

    fn client() -> UdpSocket {
        let s = UdpSocket::bind("127.0.0.1:0").unwrap();
        s.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        s
    }

    #[test]
    fn an_answer_comes_from_the_address_that_was_asked() {
        for (all, asked) in [
            ("0.0.0.0:0", "127.0.0.1"),
            ("0.0.0.0:0", "127.0.0.9"),
            ("[::]:0", "127.0.0.9"),
            ("127.0.0.9:0", "127.0.0.9"),
        ] {
            let socket = bind(all.parse().unwrap(), false).unwrap();
            let client = client();
            // Connected, it takes nothing from elsewhere.
            client.connect((asked, port(&socket))).unwrap();
            client.send(b"question").unwrap();
            let (mut buf, mut origin) = ([0; 64], Origin::new());
            assert_eq!(recv(socket.as_fd(), &mut buf, &mut origin).unwrap(), 8);
            assert_eq!(&buf[..8], b"question");
            assert_eq!(origin.peer(), Some(client.local_addr().unwrap()), "{all}");
            reply(socket.as_fd(), b"answer", &origin).unwrap();
            assert_eq!(client.recv(&mut buf).unwrap(), 6, "{all} {asked}");
        }
    }

    #[test]
    fn ipv6_too() {
        for all in ["[::]:0", "[::1]:0"] {
            let socket = bind(all.parse().unwrap(), false).unwrap();
            let client = UdpSocket::bind("[::1]:0").unwrap();
            client.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
            client.connect(("::1", port(&socket))).unwrap();
            client.send(b"question").unwrap();
            let (mut buf, mut origin) = ([0; 64], Origin::new());
            recv(socket.as_fd(), &mut buf, &mut origin).unwrap();
            assert_eq!(origin.peer(), Some(client.local_addr().unwrap()));
            reply(socket.as_fd(), b"", &origin).unwrap();
            assert_eq!(client.recv(&mut buf).unwrap(), 0, "an empty datagram is one too");
        }
    }

    #[test]
    fn nothing_there_is_no_wait() {
        let socket = bind("127.0.0.1:0".parse().unwrap(), false).unwrap();
        let mut origin = Origin::new();
        let e = recv(socket.as_fd(), &mut [0; 8], &mut origin).unwrap_err();
        assert_eq!(e.kind(), io::ErrorKind::WouldBlock);
        assert_eq!(origin.peer(), None);
    }

    #[test]
    fn an_address_is_bound_twice_only_where_both_say_so() {
        let once = bind("127.0.0.1:0".parse().unwrap(), false).unwrap();
        let addr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port(&once));
        assert_eq!(bind(addr, false).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        assert_eq!(bind(addr, true).unwrap_err().kind(), io::ErrorKind::AddrInUse);
    }

    /// Reads and answers all that is there.
    fn drain(fd: &OwnedFd) -> usize {
        let (mut buf, mut origin) = ([0; 64], Origin::new());
        let answer = || {
            recv(fd.as_fd(), &mut buf, &mut origin).ok()?;
            reply(fd.as_fd(), b"y", &origin).ok()
        };
        std::iter::from_fn(answer).count()
    }

    #[test]
    fn a_retired_socket_keeps_what_it_has_and_gets_no_more() {
        for local in ["127.0.0.1:0", "0.0.0.0:0", "[::]:0"] {
            let first = bind(local.parse().unwrap(), true).unwrap();
            let port = port(&first);
            let mut addr: SocketAddr = local.parse().unwrap();
            addr.set_port(port);
            let second = bind(addr, true).unwrap();
            let clients: Vec<_> = (0..40).map(|_| client()).collect();
            let all =
                || clients.iter().for_each(|c| assert_eq!(c.send_to(b"x", ("127.0.0.1", port)).unwrap(), 1));
            all();
            assert!(!is_retired(first.as_fd()));
            retire(first.as_fd()).unwrap();
            assert!(is_retired(first.as_fd()));
            all();
            let (kept, others) = (drain(&first), drain(&second));
            assert!(kept > 5 && kept < 35 && kept + others == 80, "{local}: {kept} {others}");
            all();
            assert_eq!((drain(&first), drain(&second)), (0, 40), "{local}");
            for client in clients {
                (0..3).for_each(|_| assert_eq!(client.recv(&mut [0; 8]).unwrap(), 1, "{local}"));
            }
        }
    }
}
