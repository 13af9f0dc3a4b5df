//! The process that has a port, as far as `/proc` tells (proc(5)): for the error if an address is in use.

#[cfg(feature = "control")]
use crate::sys::{peer, socket};
use std::fs;
#[cfg(feature = "control")]
use std::os::fd::AsFd;
use std::path::Path;

/// Returns pid and name of a process that listens on a TCP port, or has one of UDP; `None` if this user may not see it.
pub fn of_port(datagrams: bool, port: u16) -> Option<(u32, String)> {
    let protocol = if datagrams { "udp" } else { "tcp" };
    let inodes: Vec<String> = ["", "6"]
        .iter()
        .filter_map(|version| fs::read_to_string(format!("/proc/net/{protocol}{version}")).ok())
        .flat_map(|text| open_inodes(&text, port))
        .collect();
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

fn named(pid: u32) -> (u32, String) {
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    (pid, name.trim().to_owned())
}

/// Returns the inodes of the sockets in a table of `/proc/net` that receive at `port`.
fn open_inodes(table: &str, port: u16) -> Vec<String> {
    // TCP_LISTEN, and the state of every UDP socket.
    const STATES: [&str; 2] = ["0A", "07"];
    let suffix = format!(":{port:04X}");
    let row = |line: &str| {
        let columns: Vec<&str> = line.split_ascii_whitespace().collect();
        match columns.as_slice() {
            [_, local, _, state, _, _, _, _, _, inode, ..]
                if STATES.contains(state) && local.ends_with(&suffix) =>
            {
                Some(format!("socket:[{inode}]"))
            }
            _ => None,
        }
    };
    table.lines().filter_map(row).collect()
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
    fn only_listening_sockets_of_that_port_count() {
        let table = "  sl  local_address rem_address   st ...\n\
            0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000 0 0 4711 1\n\
            1: 0100007F:1F90 0100007F:9C40 01 00000000:00000000 00:00000000 00000000 0 0 4712 1\n\
            2: 0100007F:1F91 00000000:0000 0A 00000000:00000000 00:00000000 00000000 0 0 4713 1\n";
        assert_eq!(open_inodes(table, 8080), ["socket:[4711]"]);
    }
}
