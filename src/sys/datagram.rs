//! UDP sockets: a datagram is received, and answered from the address it was sent to (udp(7), ip(7), ipv6(7)).
//!
//! A socket bound to all addresses has to be told which of them an answer is from: the one the client sent to. The kernel reports it
//! with each datagram, as a control message that is sent back with the answer.

use super::control_message::ControlMessage;
use super::socket::{new_inet, set_option};
use super::{as_uninit, retry, socket, test_thread};
use socket2::{MaybeUninitSlice, MsgHdr, MsgHdrMut, SockAddr, SockAddrStorage, SockRef};
use std::io::{self, IoSlice};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Any socket address, as C has it.
pub use libc::sockaddr;

/// The length of the longest datagram, in bytes.
pub const LARGEST: usize = 65_535;

/// The most bytes that a datagram of IPv4 carries.
const MOST_OF_UDP: usize = 65_507;
/// Bytes of the address in front of a datagram in a test.
const IN_TEST: usize = 18;

/// The sender of a datagram, and the address of this machine that it was sent to.
pub struct Origin {
    sender: SockAddr,
    /// An in_pktinfo or in6_pktinfo; no message if the kernel is to choose.
    local: ControlMessage<6>,
}

/// Creates a socket for datagrams, to be bound to an IPv4 or IPv6 address; `[::]` takes both. With `again` the address may be
/// bound several times (`SO_REUSEPORT`).
pub fn new(addr: SocketAddr, again: bool) -> io::Result<OwnedFd> {
    let fd = new_inet(addr, socket2::Type::DGRAM, again)?;
    prepare(fd.as_fd(), addr)?;
    Ok(fd)
}

/// Prepares a socket for datagrams that is bound to an address, or is to be.
pub fn prepare(fd: BorrowedFd<'_>, addr: SocketAddr) -> io::Result<()> {
    if addr.ip().is_unspecified() {
        // For IPv4 on `[::]` too: it names an address of this machine, the other the one sent to, which may be a broadcast's.
        set_option(fd, libc::IPPROTO_IP, libc::IP_PKTINFO, 1)?;
        if addr.is_ipv6() {
            set_option(fd, libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO, 1)?;
        }
    }
    Ok(())
}

/// Stops the kernel from adding datagrams to a socket's queue; those in it can still be read and answered. Later datagrams go to
/// the other sockets bound to the address. (A connected socket takes datagrams only from its peer; this one is connected to itself.)
pub fn retire(fd: BorrowedFd<'_>) -> io::Result<()> {
    let socket = SockRef::from(&fd);
    socket.connect(&socket.local_addr()?)
}

/// True if a socket was [retired](retire).
pub fn is_retired(fd: BorrowedFd<'_>) -> bool {
    SockRef::from(&fd).peer_addr().is_ok()
}

/// Reads one datagram into `buf` and its addresses into `origin`, without waiting. Bytes beyond the end of `buf` are lost.
pub fn recv(fd: BorrowedFd<'_>, buf: &mut [u8], origin: &mut Origin) -> io::Result<usize> {
    *origin = Origin::new();
    // At `[::]` an IPv4 datagram comes with an in6_pktinfo, which fills its place, and an in_pktinfo.
    let mut local = [ControlMessage::EMPTY; 2];
    let mut bytes = [MaybeUninitSlice::new(as_uninit(buf))];
    let mut msg = MsgHdrMut::new()
        .with_addr(&mut origin.sender)
        .with_buffers(&mut bytes)
        .with_control(ControlMessage::as_buffer(&mut local));
    let len = retry(|| SockRef::from(&fd).recvmsg(&mut msg, libc::MSG_DONTWAIT))?;
    if test_thread::is_here() {
        return take_in_test(&mut buf[..len], origin);
    }
    origin.sender = canonical(std::mem::replace(&mut origin.sender, Origin::new().sender));
    origin.local = own_address(local);
    Ok(len)
}

/// Sends one datagram to the sender of another, from the address that one was sent to, without waiting.
pub fn reply(fd: BorrowedFd<'_>, bytes: &[u8], origin: &Origin) -> io::Result<()> {
    if test_thread::is_here() {
        return reply_in_test(fd, bytes, origin);
    }
    let bytes = [IoSlice::new(bytes)];
    let msg =
        MsgHdr::new().with_addr(&origin.sender).with_buffers(&bytes).with_control(origin.local.as_bytes());
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    retry(|| SockRef::from(&fd).sendmsg(&msg, flags)).map(drop)
}

/// Sends a datagram at the other end of a pair (`fdpass::packet_pair`), in a thread of tests: the address of the client, then the bytes.
///
/// # Errors
/// Those of send(2); `EMSGSIZE` for more bytes than UDP carries.
pub fn send_in_test(fd: BorrowedFd<'_>, client: SocketAddr, bytes: &[u8]) -> io::Result<()> {
    if bytes.len() > MOST_OF_UDP {
        return Err(io::Error::from_raw_os_error(libc::EMSGSIZE));
    }
    let ip = match client.ip() {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    };
    socket::send(fd, &[&ip.octets()[..], &client.port().to_be_bytes(), bytes].concat()).map(drop)
}

fn reply_in_test(fd: BorrowedFd<'_>, bytes: &[u8], origin: &Origin) -> io::Result<()> {
    send_in_test(fd, origin.peer().ok_or(io::ErrorKind::NotConnected)?, bytes)
}

/// Takes the address from the front of a datagram of [`send_in_test`]. Returns the number of the bytes that follow it.
fn take_in_test(datagram: &mut [u8], origin: &mut Origin) -> io::Result<usize> {
    let (address, bytes) =
        datagram.split_first_chunk::<IN_TEST>().ok_or(io::Error::from(io::ErrorKind::WouldBlock))?;
    let (ip, port) = address.split_first_chunk::<16>().ok_or(io::ErrorKind::InvalidData)?;
    let port = u16::from_be_bytes([port[0], port[1]]);
    origin.sender = SocketAddr::new(IpAddr::from(*ip).to_canonical(), port).into();
    let len = bytes.len();
    datagram.copy_within(IN_TEST.., 0);
    Ok(len)
}

impl Origin {
    /// The origin of no datagram.
    pub fn new() -> Self {
        let storage = SockAddrStorage::zeroed();
        let len = storage.size_of();
        // SAFETY: all of it is initialised; a family of 0 means that there is no address.
        let sender = unsafe { SockAddr::new(storage, len) };
        Self { sender, local: ControlMessage::EMPTY }
    }

    /// The sender, an IPv4 address even if the socket is for both; `None` before a datagram was received.
    pub fn peer(&self) -> Option<SocketAddr> {
        self.sender.as_socket()
    }

    /// [`Origin::peer`] for C.
    pub fn as_sockaddr(&self) -> *const sockaddr {
        self.sender.as_ptr().cast()
    }
}

/// The IPv4 address of a sender that came as a mapped one; a socket for both takes it for the answer too.
fn canonical(sender: SockAddr) -> SockAddr {
    sender.as_socket().map(super::socket::canonical).map_or(sender, Into::into)
}

/// The address from which an answer is sent, of the two that the kernel reports, without the interface: by the routing table, as if
/// the socket were bound to the address. No message if the datagram was sent to an IPv6 group.
fn own_address([first, second]: [ControlMessage<6>; 2]) -> ControlMessage<6> {
    const V4: usize = std::mem::offset_of!(libc::in_pktinfo, ipi_ifindex) / 4;
    const V6: usize = std::mem::offset_of!(libc::in6_pktinfo, ipi6_ifindex) / 4;
    let mut local = if second.is(libc::IPPROTO_IP, libc::IP_PKTINFO) { second } else { first };
    if let Some(index) = local.data_of(libc::IPPROTO_IP, libc::IP_PKTINFO).get_mut(V4) {
        *index = 0;
    }
    let v6 = local.data_of(libc::IPPROTO_IPV6, libc::IPV6_PKTINFO);
    if let Some(index) = v6.get_mut(V6) {
        *index = 0;
    }
    // The first byte of a group's address is 0xff (RFC 4291 section 2.7).
    let is_group = v6.first().is_some_and(|word| word.to_ne_bytes()[0] == 0xff);
    if is_group { ControlMessage::EMPTY } else { local }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{Ipv4Addr, UdpSocket};
    use std::time::Duration;

    fn bind(addr: SocketAddr, again: bool) -> io::Result<OwnedFd> {
        let fd = new(addr, again)?;
        crate::sys::socket::bind(fd.as_fd(), addr)?;
        Ok(fd)
    }

    fn port(fd: &OwnedFd) -> u16 {
        UdpSocket::from(fd.try_clone().unwrap()).local_addr().unwrap().port()
    }

    fn client() -> UdpSocket {
        let s = UdpSocket::bind("127.0.0.1:0").unwrap();
        s.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        s
    }

    #[test]
    fn an_answer_comes_from_the_address_that_the_client_sent_to() {
        for (all, asked) in [
            ("0.0.0.0:0", "127.0.0.1"),
            ("0.0.0.0:0", "127.0.0.9"),
            ("[::]:0", "127.0.0.9"),
            ("127.0.0.9:0", "127.0.0.9"),
        ] {
            let socket = bind(all.parse().unwrap(), false).unwrap();
            let client = client();
            // A connected socket takes datagrams from this address only.
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
    fn an_ipv6_client_gets_an_answer() {
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
            assert_eq!(client.recv(&mut buf).unwrap(), 0, "an empty datagram");
        }
    }

    #[test]
    fn recv_returns_would_block_if_there_is_no_datagram() {
        let socket = bind("127.0.0.1:0".parse().unwrap(), false).unwrap();
        let mut origin = Origin::new();
        let e = recv(socket.as_fd(), &mut [0; 8], &mut origin).unwrap_err();
        assert_eq!(e.kind(), io::ErrorKind::WouldBlock);
        assert_eq!(origin.peer(), None);
    }

    #[test]
    fn an_address_is_bound_twice_only_if_both_sockets_allow_it() {
        let once = bind("127.0.0.1:0".parse().unwrap(), false).unwrap();
        let addr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port(&once));
        assert_eq!(bind(addr, false).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        assert_eq!(bind(addr, true).unwrap_err().kind(), io::ErrorKind::AddrInUse);
    }

    /// Reads and answers all queued datagrams, and returns their number.
    fn drain(fd: &OwnedFd) -> usize {
        let (mut buf, mut origin) = ([0; 64], Origin::new());
        let answer = || {
            recv(fd.as_fd(), &mut buf, &mut origin).ok()?;
            reply(fd.as_fd(), b"y", &origin).ok()
        };
        std::iter::from_fn(answer).count()
    }

    #[test]
    fn a_retired_socket_keeps_its_queue_and_gets_no_more() {
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
