//! Passing one descriptor with one message over a Unix socket (unix(7), cmsg(3)).

use super::control_message::ControlMessage;
use super::{check_len, retry};
use libc::{MSG_CMSG_CLOEXEC, MSG_CTRUNC, MSG_DONTWAIT, MSG_NOSIGNAL, SCM_RIGHTS, SOL_SOCKET};
use socket2::{Domain, MsgHdr, SockRef, Socket, Type};
use std::io::{self, IoSlice};
use std::mem;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// The control message of one descriptor. Padded to eight bytes, it has room for a second one, which [`recv`] closes.
type Descriptors = ControlMessage<2>;

/// Creates a connected pair of `SOCK_SEQPACKET` sockets: reliable, in order, message by message, end of file when the other end
/// is closed.
pub fn packet_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    pair(Type::SEQPACKET)
}

/// Creates a connected pair of `SOCK_STREAM` sockets.
pub fn stream_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    pair(Type::STREAM)
}

fn pair(kind: Type) -> io::Result<(OwnedFd, OwnedFd)> {
    Socket::pair(Domain::UNIX, kind, None).map(|(a, b)| (a.into(), b.into()))
}

/// Sends `bytes` with a duplicate of `fd` as one message, without waiting. The caller's own copy stays open.
///
/// # Errors
/// `EAGAIN`, `ENOBUFS`, `ETOOMANYREFS`: the receiver has too much unread; `EPIPE`, `ECONNRESET`: it has closed its end.
pub fn send(socket: BorrowedFd<'_>, bytes: &[u8], fd: BorrowedFd<'_>) -> io::Result<()> {
    let control = Descriptors::new(SOL_SOCKET, SCM_RIGHTS, fd.as_raw_fd());
    let bytes = [IoSlice::new(bytes)];
    let msg = MsgHdr::new().with_buffers(&bytes).with_control(control.as_bytes());
    retry(|| SockRef::from(&socket).sendmsg(&msg, MSG_DONTWAIT | MSG_NOSIGNAL)).map(drop)
}

/// A message that [`recv`] has received.
pub struct Received {
    /// Bytes written to the buffer; 0 at end of file.
    pub len: usize,
    /// The descriptor that came with it.
    pub fd: Option<OwnedFd>,
    /// True if a descriptor was lost because this process has too many open (`MSG_CTRUNC`).
    pub lost: bool,
}

/// Receives one message without waiting; its descriptor is `CLOEXEC`. The first of several descriptors is kept, the others are
/// closed.
pub fn recv(socket: BorrowedFd<'_>, buf: &mut [u8]) -> io::Result<Received> {
    let mut control = Descriptors::EMPTY;
    let mut iov = libc::iovec { iov_base: buf.as_mut_ptr().cast(), iov_len: buf.len() };
    // SAFETY: msghdr is plain data for which all zero bytes are a valid value.
    let mut msg: libc::msghdr = unsafe { mem::zeroed() };
    (msg.msg_iov, msg.msg_iovlen) = (&raw mut iov, 1);
    (msg.msg_control, msg.msg_controllen) = ((&raw mut control).cast(), Descriptors::SIZE as _);
    let len = retry(|| {
        // SAFETY: `msg` points to buffers that live through the call and may be written to.
        let ret = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut msg, MSG_DONTWAIT | MSG_CMSG_CLOEXEC) };
        check_len(ret)
    })?;
    let mut fd = None;
    for raw in control.data_of(SOL_SOCKET, SCM_RIGHTS) {
        // SAFETY: the kernel made this descriptor for us. Each gets an owner, so that those not returned are closed.
        let owned = unsafe { OwnedFd::from_raw_fd(*raw) };
        fd.get_or_insert(owned);
    }
    Ok(Received { len, lost: fd.is_none() && msg.msg_flags & MSG_CTRUNC != 0, fd })
}
