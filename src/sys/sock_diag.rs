//! What the kernel tells about connections that are no sockets yet (sock_diag(7)).

use socket2::{Domain, Protocol, Socket, Type};
use std::io::{self, Read, Write};

const NETLINK_SOCK_DIAG: i32 = 4;
const SOCK_DIAG_BY_FAMILY: u16 = 20;
/// The bit of a state in a request is that of its number.
const TCP_SYN_RECV: u32 = 3;

/// True if a client of a TCP port has begun a handshake that has not ended, or that the kernel ignores until data comes.
///
/// # Errors
/// Those of netlink(7); `Unsupported` if this kernel does not tell.
pub fn has_handshakes(port: u16) -> io::Result<bool> {
    for family in [libc::AF_INET, libc::AF_INET6] {
        if has_handshakes_of(family as u8, port)? {
            return Ok(true);
        }
    }
    Ok(false)
}

fn has_handshakes_of(family: u8, port: u16) -> io::Result<bool> {
    let mut socket =
        Socket::new(Domain::from(libc::AF_NETLINK), Type::RAW, Some(Protocol::from(NETLINK_SOCK_DIAG)))?;
    // No answer takes longer than the walk through the kernel's table.
    socket.set_nonblocking(true)?;
    socket.write_all(&request(family, port))?;
    let mut answer = [0; 512];
    let len = socket.read(&mut answer)?;
    // The first message is the first connection, the end, or an error; its length comes first, then its type.
    match answer[..len] {
        [_, _, _, _, a, b, ..] if u16::from_ne_bytes([a, b]) == SOCK_DIAG_BY_FAMILY => Ok(true),
        [_, _, _, _, a, b, ..] if i32::from(u16::from_ne_bytes([a, b])) == libc::NLMSG_DONE => Ok(false),
        _ => Err(io::ErrorKind::Unsupported.into()),
    }
}

/// Asks for all connections of a family at a port that are in a handshake: `struct nlmsghdr` (netlink(7)), then `struct
/// inet_diag_req_v2`.
fn request(family: u8, port: u16) -> Vec<u8> {
    const LEN: usize = 72;
    let flags = (libc::NLM_F_REQUEST | libc::NLM_F_DUMP) as u16;
    let mut bytes = Vec::with_capacity(LEN);
    bytes.extend((LEN as u32).to_ne_bytes());
    bytes.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    // Sequence number and sender: the kernel fills in the sender.
    bytes.extend([0; 8]);
    bytes.extend([family, libc::IPPROTO_TCP as u8, 0, 0]);
    bytes.extend((1u32 << TCP_SYN_RECV).to_ne_bytes());
    bytes.extend(port.to_be_bytes());
    // The other port, both addresses, interface and cookie: any.
    bytes.resize(LEN, 0);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::socket;
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsFd;
    use std::time::Duration;

    #[test]
    fn a_connection_that_is_held_is_found_and_others_are_not() {
        for address in ["127.0.0.1:0", "[::]:0"] {
            let Ok(listener) = TcpListener::bind(address) else { continue };
            let port = listener.local_addr().unwrap().port();
            let _there = TcpStream::connect(("127.0.0.1", port)).unwrap();
            assert!(!has_handshakes(port).unwrap());
            socket::set_defer_accept(listener.as_fd(), Duration::from_secs(60)).unwrap();
            let held = TcpStream::connect(("127.0.0.1", port)).unwrap();
            assert!(has_handshakes(port).unwrap());
            assert!(!has_handshakes(held.local_addr().unwrap().port()).unwrap());
        }
    }
}
