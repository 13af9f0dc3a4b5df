//! The socket by which a program says that it is ready (sd_notify(3)).

use crate::ids::WorkerId;
use crate::sys::{process, socket};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// The bytes of one notification that are read; systemd takes no more.
const MOST: usize = 4096;
/// Notifications that are read in a turn.
const IN_A_TURN: usize = 16;

/// A socket of the master for the notifications of one worker.
pub struct NotifySocket {
    fd: OwnedFd,
    name: String,
}

/// What a program has said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Said {
    /// It can serve.
    pub ready: bool,
    /// It is about to end.
    pub stopping: bool,
}

impl NotifySocket {
    /// Opens an abstract socket (unix(7)), which needs no directory.
    pub fn open(worker: WorkerId) -> io::Result<Self> {
        let name = format!("@prefork-notify-{}-{worker}", process::own_pid());
        Ok(Self { fd: socket::bind_datagrams(name.as_ref())?, name })
    }

    /// Its name, as in `NOTIFY_SOCKET`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Reads what has come.
    pub fn read(&self) -> Said {
        let (mut said, mut bytes) = (Said::default(), [0; MOST]);
        for _ in 0..IN_A_TURN {
            let Ok(len) = socket::recv(self.fd.as_fd(), &mut bytes) else { break };
            said.add(&bytes[..len]);
        }
        said
    }
}

impl Said {
    fn add(&mut self, bytes: &[u8]) {
        for line in bytes.split(|byte| *byte == b'\n') {
            self.ready |= line == b"READY=1";
            self.stopping |= line == b"STOPPING=1";
        }
    }
}

impl AsFd for NotifySocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::net::{SocketAddr, UnixDatagram};

    #[test]
    fn notifications_are_read_line_by_line() {
        let socket = NotifySocket::open(WorkerId(7)).unwrap();
        assert_eq!(socket.read(), Said::default());
        let client = UnixDatagram::unbound().unwrap();
        let address = SocketAddr::from_abstract_name(socket.name().trim_start_matches('@')).unwrap();
        let send = |text: &str| client.send_to_addr(text.as_bytes(), &address).unwrap();
        send("STATUS=READY=1\n");
        assert_eq!(socket.read(), Said::default());
        send("STATUS=x\nREADY=1");
        send("STOPPING=1\n");
        assert_eq!(socket.read(), Said { ready: true, stopping: true });
    }
}
