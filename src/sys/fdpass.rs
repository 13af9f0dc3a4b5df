//! Passing descriptors with a message over a Unix socket (unix(7), cmsg(3)).

use super::control_message::ControlMessage;
use super::{check_len, retry};
use libc::{MSG_CMSG_CLOEXEC, MSG_CTRUNC, MSG_DONTWAIT, MSG_NOSIGNAL, SCM_RIGHTS, SOL_SOCKET};
use socket2::{Domain, MsgHdr, SockRef, Socket, Type};
use std::io::{self, IoSlice};
use std::mem;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// The most descriptors of a message.
pub const MOST: usize = 4;

type Descriptors = ControlMessage<MOST>;

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

/// Sends `bytes` with duplicates of up to [`MOST`] descriptors as one message, without waiting. The caller's own copies stay open.
///
/// # Errors
/// `EAGAIN`, `ENOBUFS`, `ETOOMANYREFS`: the receiver has too much unread; `EPIPE`, `ECONNRESET`: it has closed its end.
pub fn send<'a>(
    socket: BorrowedFd<'_>,
    bytes: &[u8],
    fds: impl Iterator<Item = BorrowedFd<'a>>,
) -> io::Result<()> {
    let control = Descriptors::new(SOL_SOCKET, SCM_RIGHTS, fds.map(|fd| fd.as_raw_fd()));
    let bytes = [IoSlice::new(bytes)];
    let msg = MsgHdr::new().with_buffers(&bytes).with_control(control.as_bytes());
    retry(|| SockRef::from(&socket).sendmsg(&msg, MSG_DONTWAIT | MSG_NOSIGNAL)).map(drop)
}

/// A message that [`recv`] has received.
pub struct Received {
    /// Bytes written to the buffer; 0 at end of file.
    pub len: usize,
    /// The descriptors that came with it, in order, the empty places last.
    pub fds: [Option<OwnedFd>; MOST],
    /// True if descriptors were lost, the last ones, because this process has too many open (`MSG_CTRUNC`).
    pub lost: bool,
}

/// Receives one message without waiting; its descriptors are `CLOEXEC`.
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
    let mut fds = [const { None }; MOST];
    for (place, raw) in fds.iter_mut().zip(control.data_of(SOL_SOCKET, SCM_RIGHTS)) {
        // SAFETY: the kernel made this descriptor for us, and it has no other owner.
        *place = Some(unsafe { OwnedFd::from_raw_fd(*raw) });
    }
    Ok(Received { len, fds, lost: msg.msg_flags & MSG_CTRUNC != 0 })
}
