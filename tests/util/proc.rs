//! Processes as `/proc` and signals show them (proc(5)).

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::process::Command;
use std::time::Duration;

/// Sends a signal. A process that has ended already is a failure of the test.
#[allow(unsafe_code)]
#[track_caller]
pub fn signal(pid: i32, number: i32) {
    // SAFETY: takes no pointers. The pid is a child's or grandchild's that the test has seen alive.
    let ret = unsafe { libc::kill(pid, number) };
    assert_eq!(ret, 0, "signal {number} to {pid}: {}", std::io::Error::last_os_error());
}

/// Sends a signal to a process that may have ended already.
#[allow(unsafe_code)]
pub fn signal_if_there(pid: i32, number: i32) {
    // SAFETY: takes no pointers. The pid is one that the test has just seen; numbers come round much later.
    unsafe { libc::kill(pid, number) };
}

/// Stops a process and waits until it has stopped.
#[track_caller]
pub fn freeze(pid: i32) {
    signal(pid, libc::SIGSTOP);
    super::wait_until("the process has stopped", || state(pid) == Some('T'));
}

/// Sets a soft limit of a running process (prlimit(1)), as `nofile`.
#[track_caller]
pub fn limit(pid: i32, what: &str, value: u32) {
    // Only its own user may do this everywhere.
    let (owner, own) = (fs::metadata(format!("/proc/{pid}")).unwrap(), fs::metadata("/proc/self").unwrap());
    let mut command = if owner.uid() == own.uid() {
        Command::new("prlimit")
    } else {
        let mut command = Command::new("setpriv");
        command.args([format!("--reuid={}", owner.uid()), format!("--regid={}", owner.gid())]);
        command.args(["--clear-groups", "prlimit"]);
        command
    };
    let limit = format!("--{what}={value}:");
    let out = command.args(["--pid", &pid.to_string(), &limit]).output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
}

/// The children of a process, dead ones included, oldest first.
pub fn children(pid: i32) -> Vec<i32> {
    let text = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    text.split_whitespace().map(|p| p.parse().unwrap()).collect()
}

/// The open descriptors of a process: `socket`, `pipe`, `anon_inode:[eventpoll]`, `/dev/null`.
pub fn descriptors(pid: i32) -> Vec<(u32, String)> {
    let Ok(entries) = fs::read_dir(format!("/proc/{pid}/fd")) else { return Vec::new() };
    let mut found: Vec<_> = entries
        .flatten()
        .filter_map(|entry| {
            let target = fs::read_link(entry.path()).ok()?.to_string_lossy().into_owned();
            let kind = match target.split_once(':') {
                Some((kind @ ("socket" | "pipe"), _)) => kind.to_owned(),
                _ if is_copy_of_module(&target) => COPY_OF_MODULE.to_owned(),
                _ => target,
            };
            Some((entry.file_name().to_str()?.parse().ok()?, kind))
        })
        .collect();
    found.sort();
    found
}

/// The kind of a master's private copy of its module.
pub const COPY_OF_MODULE: &str = "copy of the module";

/// True for `NAME.PID.GENERATION.so`.
pub fn is_copy_of_module(path: &str) -> bool {
    let Some(stem) = path.trim_end_matches(" (deleted)").strip_suffix(".so") else { return false };
    let numbers = stem.rsplit('.').take_while(|part| part.parse::<u32>().is_ok());
    numbers.count() >= 2
}

/// The open pipes of a process, except its standard streams and those inherited through this process.
pub fn pipes(pid: i32) -> Vec<String> {
    let targets = |pid: &str| -> Vec<(u32, String)> {
        let entries = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        let target = |e: &fs::DirEntry| Some(fs::read_link(e.path()).ok()?.to_str()?.to_owned());
        entries.filter_map(|e| Some((e.file_name().to_str()?.parse().ok()?, target(&e)?))).collect()
    };
    let own = targets("self");
    let passed_on = |target: &String| own.iter().any(|(_, t)| t == target);
    let found = targets(&pid.to_string()).into_iter();
    found.filter(|(n, t)| *n > 2 && t.starts_with("pipe:") && !passed_on(t)).map(|(_, t)| t).collect()
}

/// The kinds of the open descriptors of a process, without their numbers.
pub fn kinds(pid: i32) -> Vec<String> {
    let mut kinds: Vec<_> = descriptors(pid).into_iter().map(|(_, kind)| kind).collect();
    kinds.sort();
    kinds
}

/// The shared memory mappings of a process, by name.
pub fn shared_memory(pid: i32) -> Vec<String> {
    let text = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap_or_default();
    let is_shared = |line: &&str| line.split_whitespace().nth(1).is_some_and(|mode| mode.ends_with('s'));
    let name = |line: &str| line.split_whitespace().skip(5).collect::<Vec<_>>().join(" ");
    let mut names: Vec<_> = text.lines().filter(is_shared).map(name).collect();
    names.sort();
    // One mapping is as many lines as its protection has parts.
    names.dedup();
    names
}

/// The fields of `/proc/PID/stat` behind the name: state, parent, group, ...
fn stat(pid: i32) -> Option<Vec<String>> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    Some(text.rsplit_once(')')?.1.split_whitespace().map(str::to_owned).collect())
}

/// `R`, `S`, `T` (stopped), `Z` (zombie) ...; `None` if there is no such process.
pub fn state(pid: i32) -> Option<char> {
    stat(pid)?[0].chars().next()
}

/// The scheduling policy: `SCHED_OTHER`, `SCHED_BATCH` ...
pub fn policy(pid: i32) -> i32 {
    stat(pid).unwrap()[38].parse().unwrap()
}

/// The processes of a group that have not ended.
pub fn group(leader: i32) -> Vec<i32> {
    let pids = fs::read_dir("/proc").unwrap().flatten().filter_map(|e| e.file_name().to_str()?.parse().ok());
    let mut members: Vec<i32> = pids
        .filter(|&pid| stat(pid).is_some_and(|s| s[2] == leader.to_string() && s[0] != "Z" && s[0] != "X"))
        .collect();
    members.sort_unstable();
    members
}

/// A field of `/proc/PID/status`.
pub fn status(pid: i32, field: &str) -> String {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = text.lines().find_map(|l| l.strip_prefix(field)?.strip_prefix(':'));
    line.unwrap_or_else(|| panic!("no {field} in {text}")).trim().to_owned()
}

/// The CPU time a process has taken.
pub fn cpu(pid: i32) -> Duration {
    let text = fs::read_to_string(format!("/proc/{pid}/schedstat")).unwrap();
    Duration::from_nanos(text.split_whitespace().next().unwrap().parse().unwrap())
}

/// The kernel's table of TCP over IPv4.
pub fn tcp_sockets() -> String {
    fs::read_to_string("/proc/net/tcp").unwrap()
}
