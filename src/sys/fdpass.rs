//! Passing one descriptor with one message over a Unix socket (unix(7), cmsg(3)).

use super::{check, check_len, retry};
use std::io;
use std::mem;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// A connected pair of `SOCK_SEQPACKET` sockets: reliable, in order, message by message, end of file when the other end is gone.
pub fn packet_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    pair(libc::SOCK_SEQPACKET)
}

/// A connected pair of `SOCK_STREAM` sockets.
pub fn stream_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    pair(libc::SOCK_STREAM)
}

fn pair(kind: libc::c_int) -> io::Result<(OwnedFd, OwnedFd)> {
    let mut fds = [0; 2];
    // SAFETY: `fds` has room for the two descriptors the call writes.
    check(unsafe { libc::socketpair(libc::AF_UNIX, kind | libc::SOCK_CLOEXEC, 0, fds.as_mut_ptr()) })?;
    // SAFETY: a new descriptor that nobody else knows of.
    let first = unsafe { OwnedFd::from_raw_fd(fds[0]) };
    // SAFETY: as above.
    let second = unsafe { OwnedFd::from_raw_fd(fds[1]) };
    Ok((first, second))
}

/// Room for the control message of one descriptor, aligned as cmsghdr asks for. `CMSG_SPACE` rounds up to eight bytes, so a
/// second descriptor fits into it too; [`recv`] closes what it did not ask for.
#[repr(C, align(8))]
struct Control([u8; CONTROL_LEN]);
// SAFETY: CMSG_SPACE only computes.
const CONTROL_LEN: usize = unsafe { libc::CMSG_SPACE(FD_LEN) } as usize;
const FD_LEN: u32 = size_of::<libc::c_int>() as u32;

/// Sends `bytes` with a duplicate of `fd` as one message, without waiting. The caller's own copy stays open.
///
/// # Errors
/// `EAGAIN`, `ENOBUFS`, `ETOOMANYREFS`: the receiver has too much unread; `EPIPE`, `ECONNRESET`: it is gone.
pub fn send(socket: BorrowedFd<'_>, bytes: &[u8], fd: BorrowedFd<'_>) -> io::Result<()> {
    let mut control = Control([0; CONTROL_LEN]);
    let mut iov = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    let msg = message(&mut iov, &mut control);
    // SAFETY: the control buffer is aligned and has room for one header.
    let head = unsafe { libc::CMSG_FIRSTHDR(&raw const msg) };
    let filled = libc::cmsghdr {
        // SAFETY: CMSG_LEN only computes.
        cmsg_len: unsafe { libc::CMSG_LEN(FD_LEN) } as _,
        cmsg_level: libc::SOL_SOCKET,
        cmsg_type: libc::SCM_RIGHTS,
    };
    // SAFETY: `head` points to the first header's place in the control buffer.
    unsafe { head.write(filled) };
    // SAFETY: `head` is a header within the control buffer.
    let data = unsafe { libc::CMSG_DATA(head) }.cast::<libc::c_int>();
    // SAFETY: the buffer has room for one descriptor behind the header; its alignment is that of a header.
    unsafe { data.write_unaligned(fd.as_raw_fd()) };
    retry(|| {
        // SAFETY: `msg` points to buffers that live through the call.
        check_len(unsafe {
            libc::sendmsg(socket.as_raw_fd(), &raw const msg, libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL)
        })
    })
    .map(drop)
}

/// One message as [`recv`] found it.
pub struct Received {
    /// Bytes written to the buffer; 0 at end of file.
    pub len: usize,
    /// The descriptor that came with it.
    pub fd: Option<OwnedFd>,
    /// Whether a descriptor came that this process had no room for: it is lost (`MSG_CTRUNC`).
    pub lost: bool,
}

/// Takes one message without waiting; its descriptor is `CLOEXEC`. Of several descriptors the first is kept, the others closed.
pub fn recv(socket: BorrowedFd<'_>, buf: &mut [u8]) -> io::Result<Received> {
    let mut control = Control([0; CONTROL_LEN]);
    let mut iov = libc::iovec { iov_base: buf.as_mut_ptr().cast(), iov_len: buf.len() };
    let mut msg = message(&mut iov, &mut control);
    let len = retry(|| {
        // SAFETY: `msg` points to buffers that live through the call and may be written to.
        check_len(unsafe {
            libc::recvmsg(socket.as_raw_fd(), &raw mut msg, libc::MSG_DONTWAIT | libc::MSG_CMSG_CLOEXEC)
        })
    })?;
    let fd = first_descriptor(&msg);
    Ok(Received { len, lost: fd.is_none() && msg.msg_flags & libc::MSG_CTRUNC != 0, fd })
}

fn message(iov: &mut libc::iovec, control: &mut Control) -> libc::msghdr {
    // SAFETY: msghdr is plain data for which all zero bytes are a valid value.
    let mut msg: libc::msghdr = unsafe { mem::zeroed() };
    msg.msg_iov = iov;
    msg.msg_iovlen = 1;
    msg.msg_control = control.0.as_mut_ptr().cast();
    msg.msg_controllen = CONTROL_LEN as _;
    msg
}

/// Owns every descriptor in a received message, so that what is not returned is closed.
fn first_descriptor(msg: &libc::msghdr) -> Option<OwnedFd> {
    let mut first = None;
    // SAFETY: the kernel filled in the control buffer that `msg` points to.
    let mut head = unsafe { libc::CMSG_FIRSTHDR(msg) };
    while !head.is_null() {
        // SAFETY: `head` is a header within the control buffer; it was just checked not to be null.
        let cmsg = unsafe { head.read() };
        if cmsg.cmsg_level == libc::SOL_SOCKET && cmsg.cmsg_type == libc::SCM_RIGHTS {
            // SAFETY: CMSG_LEN only computes.
            let bytes = cmsg.cmsg_len as usize - unsafe { libc::CMSG_LEN(0) } as usize;
            // SAFETY: `head` is a header within the control buffer.
            let data = unsafe { libc::CMSG_DATA(head) }.cast::<libc::c_int>();
            for i in 0..bytes / FD_LEN as usize {
                // SAFETY: the kernel says that this many descriptors stand there.
                let at = unsafe { data.add(i) };
                // SAFETY: within the control buffer, as above.
                let raw = unsafe { at.read_unaligned() };
                // SAFETY: the kernel made this descriptor for us; nobody else knows of it.
                let fd = unsafe { OwnedFd::from_raw_fd(raw) };
                first.get_or_insert(fd);
            }
        }
        // SAFETY: `head` is a header within the control buffer of `msg`.
        head = unsafe { libc::CMSG_NXTHDR(msg, head) };
    }
    first
}
