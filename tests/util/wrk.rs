//! wrk(1) as a client, in the network namespace of the server it loads.

use super::{Server, proc, wait_until};
use std::fs;
use std::io::Read;
use std::process::{Child, Command, Stdio};

/// Starts a server in a network namespace of its own, so that the kernel's counters are for it alone. Uses `sh`.
pub const OWN_NETWORK: [&str; 5] = ["unshare", "-n", "sh", "-c", "ip link set lo up && exec \"$@\""];

/// True if this user may create network namespaces.
pub fn can_have_own_network() -> bool {
    let script = "ip link set lo up";
    let out = Command::new("unshare").args(["-n", "sh", "-c", script]).output();
    out.is_ok_and(|o| o.status.success())
}

/// A running wrk.
pub struct Wrk {
    child: Child,
    port: u16,
    master: i32,
}

impl Wrk {
    /// Starts it and waits until its clients are connected, with an optional header field in the requests.
    #[track_caller]
    pub fn start(server: &Server, clients: usize, path: &str, header: Option<&str>) -> Self {
        let net = format!("--net=/proc/{}/ns/net", server.pid);
        let inside = fs::read_link(format!("/proc/{}/ns/net", server.pid)).unwrap()
            == fs::read_link("/proc/self/ns/net").unwrap();
        let mut words = if inside { vec![] } else { vec!["nsenter".to_owned(), net] };
        words.extend(["wrk", "-t1", "-d600s", "--timeout", "15s"].map(str::to_owned));
        words.extend([format!("-c{clients}")]);
        words.extend(header.into_iter().flat_map(|h| ["-H".to_owned(), h.to_owned()]));
        words.push(format!("http://127.0.0.1:{}/{path}", server.port()));
        let mut command = Command::new(&words[0]);
        let child = command.args(&words[1..]).stdout(Stdio::piped()).spawn().expect("start wrk");
        let wrk = Self { child, port: server.port(), master: server.pid };
        if header.is_none() {
            wait_until("wrk's clients are connected", || wrk.connections().len() == clients);
        }
        wrk
    }

    /// The ports of the clients that are connected: others after a reconnect.
    pub fn connections(&self) -> Vec<String> {
        let table = fs::read_to_string(format!("/proc/{}/net/tcp", self.master)).unwrap();
        let server = format!(":{:04X}", self.port);
        const ESTABLISHED: &str = "01";
        let mut clients: Vec<String> = table
            .lines()
            .filter_map(|line| match line.split_ascii_whitespace().collect::<Vec<_>>().as_slice() {
                [_, local, remote, ESTABLISHED, ..] if remote.ends_with(&server) => Some((*local).to_owned()),
                _ => None,
            })
            .collect();
        clients.sort();
        clients
    }

    /// Waits for some hundred more requests.
    #[track_caller]
    pub fn continues(&self) {
        let segments = || tcp_counter(self.master, "InSegs");
        let until = segments() + 2000;
        wait_until("wrk continues", || segments() > until);
    }

    /// Ends it, and returns the number of answered requests. Panics after any error.
    #[track_caller]
    pub fn stop_without_errors(mut self) -> u64 {
        proc::signal(self.child.id() as i32, libc::SIGINT);
        let mut said = String::new();
        self.child.stdout.take().unwrap().read_to_string(&mut said).unwrap();
        self.child.wait().unwrap();
        assert!(!said.contains("Socket errors") && !said.contains("Non-2xx"), "{said}");
        let requests = said.lines().find_map(|l| l.split_once(" requests in ")?.0.trim().parse().ok());
        requests.unwrap_or_else(|| panic!("not understood: {said}"))
    }
}

impl Drop for Wrk {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A counter of the kernel for TCP in the network namespace of a process (/proc/net/snmp).
pub fn tcp_counter(pid: i32, name: &str) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/net/snmp")).unwrap();
    let mut rows = text.lines().filter_map(|l| l.strip_prefix("Tcp: "));
    let (names, values) = (rows.next().unwrap(), rows.next().unwrap());
    let at = names.split(' ').position(|n| n == name).unwrap();
    values.split(' ').nth(at).unwrap().parse().unwrap()
}
