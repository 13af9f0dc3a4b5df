//! The process that has a port, as far as `/proc` tells (proc(5)): for the error if an address is in use.

use std::fs;
use std::path::Path;

/// Returns pid and name of a process that listens on a port of `tcp`, or has one of `udp`; `None` if this user may not see it.
pub fn of_port(protocol: &str, port: u16) -> Option<(u32, String)> {
    let inodes: Vec<String> = ["", "6"]
        .iter()
        .filter_map(|version| fs::read_to_string(format!("/proc/net/{protocol}{version}")).ok())
        .flat_map(|text| open_inodes(&text, port))
        .collect();
    fs::read_dir("/proc").ok()?.flatten().find_map(|entry| {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        holds_socket(&entry.path(), &inodes).then(|| {
            let name = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
            (pid, name.trim().to_owned())
        })
    })
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
        let (pid, _) = of_port("tcp", listener.local_addr().unwrap().port()).unwrap();
        assert_eq!(pid, std::process::id());
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let (pid, _) = of_port("udp", socket.local_addr().unwrap().port()).unwrap();
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
