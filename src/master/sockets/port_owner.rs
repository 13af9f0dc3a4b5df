//! What `/proc` tells about a port (proc(5)): the process that has it, for the error if an address is in use, and whether clients are
//! about to connect.

#[cfg(feature = "control")]
use crate::sys::{peer, socket};
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
#[cfg(feature = "control")]
use std::os::fd::AsFd;
use std::path::Path;

/// TCP_LISTEN, and the state of every UDP socket.
const OPEN: [&str; 2] = ["0A", "07"];
/// TCP_SYN_RECV.
const BEGUN: [&str; 1] = ["03"];

/// Returns pid and name of a process that listens on a TCP port, or has one of UDP; `None` if this user may not see it.
pub fn of_port(datagrams: bool, port: u16) -> Option<(u32, String)> {
    let inodes: Vec<String> = inodes(if datagrams { "udp" } else { "tcp" }, port, &OPEN).collect();
    fs::read_dir("/proc").ok()?.flatten().find_map(|entry| {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        holds_socket(&entry.path(), &inodes).then(|| named(pid))
    })
}

/// Returns pid and name of the process that listens on a Unix socket.
#[cfg(feature = "control")]
pub fn of_path(path: &Path) -> Option<(u32, String)> {
    let listener = socket::connect_unix(path).and_then(|socket| peer::peer_of(socket.as_fd()));
    // 0 is a process in another pid namespace.
    listener.ok().and_then(|peer| u32::try_from(peer.pid).ok()).filter(|pid| *pid != 0).map(named)
}

/// Without the feature `control` nothing asks for the other end of a socket.
#[cfg(not(feature = "control"))]
pub fn of_path(_: &Path) -> Option<(u32, String)> {
    None
}

/// True if clients of a TCP port have begun a handshake that has not ended, or that the kernel ignores until data comes.
pub fn has_handshakes(port: u16) -> bool {
    inodes("tcp", port, &BEGUN).next().is_some()
}

fn named(pid: u32) -> (u32, String) {
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    (pid, name.trim().to_owned())
}

/// The inodes of the sockets that are at a port and in one of these states, by the tables of `/proc/net`.
fn inodes(protocol: &str, port: u16, states: &'static [&str]) -> impl Iterator<Item = String> {
    let tables = ["", "6"].map(|version| File::open(format!("/proc/net/{protocol}{version}")));
    // Line by line: there may be many thousands.
    let lines =
        tables.into_iter().flatten().flat_map(|table| BufReader::new(table).lines().map_while(Result::ok));
    lines.filter_map(move |line| inode(&line, port, states))
}

/// Returns the inode of the socket in a line of a table of `/proc/net`, if it is at `port` and in one of these states.
fn inode(line: &str, port: u16, states: &[&str]) -> Option<String> {
    let mut columns = line.split_ascii_whitespace();
    let (local, state, inode) = (columns.nth(1)?, columns.nth(1)?, columns.nth(5)?);
    let (_, local_port) = local.rsplit_once(':')?;
    let is_meant = states.contains(&state) && u16::from_str_radix(local_port, 16) == Ok(port);
    is_meant.then(|| format!("socket:[{inode}]"))
}

fn holds_socket(process: &Path, inodes: &[String]) -> bool {
    let Ok(fds) = fs::read_dir(process.join("fd")) else { return false };
    fds.flatten()
        .filter_map(|fd| fs::read_link(fd.path()).ok())
        .any(|target| target.to_str().is_some_and(|t| inodes.iter().any(|i| i == t)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_this_process() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let (pid, _) = of_port(false, listener.local_addr().unwrap().port()).unwrap();
        assert_eq!(pid, std::process::id());
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let (pid, _) = of_port(true, socket.local_addr().unwrap().port()).unwrap();
        assert_eq!(pid, std::process::id());
    }

    #[test]
    fn only_sockets_of_that_port_and_state_count() {
        let table = "  sl  local_address rem_address   st ...\n\
            0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000 0 0 4711 1\n\
            1: 0100007F:1F90 0100007F:9C40 01 00000000:00000000 00:00000000 00000000 0 0 4712 1\n\
            2: 0100007F:1F91 00000000:0000 0A 00000000:00000000 00:00000000 00000000 0 0 4713 1\n";
        let found: Vec<_> = table.lines().filter_map(|line| inode(line, 8080, &OPEN)).collect();
        assert_eq!(found, ["socket:[4711]"]);
    }
}
