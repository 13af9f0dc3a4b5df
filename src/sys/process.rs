//! Processes: fork, watch by pidfd, signal, reap, leave.

use super::{check, retry, signal};
use std::ffi::{CString, OsStr, OsString};
use std::io::{self, Write};
use std::mem;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// A child process, held by a pidfd: no other process can ever be meant by it.
#[derive(Debug)]
pub struct Process {
    pid: i32,
    fd: OwnedFd,
}

/// The end of a process. In JSON: `{"code":0}`, `{"signal":"SIGSEGV","core":true}`, or `{}` if it is unknown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(
    feature = "control",
    derive(serde::Serialize, serde::Deserialize),
    serde(into = "ExitJson", from = "ExitJson")
)]
pub enum Exit {
    /// It exited with this code.
    Code(i32),
    /// A signal ended it.
    Signal {
        /// The signal's number.
        number: i32,
        /// Whether a core was dumped.
        core: bool,
    },
    /// It is gone, and another part of this process has collected its status.
    Unknown,
}

#[cfg(feature = "control")]
#[derive(Default, serde::Serialize, serde::Deserialize)]
#[serde(default)]
struct ExitJson {
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    signal: Option<String>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    core: bool,
}

#[cfg(feature = "control")]
impl From<Exit> for ExitJson {
    fn from(exit: Exit) -> Self {
        match exit {
            Exit::Code(code) => Self { code: Some(code), ..Self::default() },
            Exit::Signal { number, core } => Self { signal: Some(signal::name(number)), core, code: None },
            Exit::Unknown => Self::default(),
        }
    }
}

#[cfg(feature = "control")]
impl From<ExitJson> for Exit {
    fn from(ExitJson { code, signal, core }: ExitJson) -> Self {
        match (code, signal.and_then(|name| signal::number(&name))) {
            (Some(code), _) => Self::Code(code),
            (None, Some(number)) => Self::Signal { number, core },
            (None, None) => Self::Unknown,
        }
    }
}

impl std::fmt::Display for Exit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exit code {code}"),
            Self::Unknown => f.write_str("unknown causes"),
            Self::Signal { number, core } => {
                f.write_str(&signal::name(*number))?;
                if *core { f.write_str(", core dumped") } else { Ok(()) }
            }
        }
    }
}

/// Which side of a fork this is.
pub enum Fork {
    /// The new process: default signal dispositions, empty mask.
    Child,
    /// The process that called, with its child.
    Parent(Process),
}

/// Forks (fork(2)). What C and Rust hold back of standard output is written first, so that it is not written twice.
///
/// Only for a process with one thread ([`thread_count`]); of another, the child might only exec.
pub fn fork() -> io::Result<Fork> {
    flush_output();
    let mask = signal::block_all()?;
    // SAFETY: this process has one thread, so the child is a full copy that may run anything.
    let forked = check(unsafe { libc::fork() });
    match forked {
        Ok(0) => {
            signal::start_afresh();
            Ok(Fork::Child)
        }
        Ok(pid) => {
            signal::restore(&mask);
            watch(pid).map(|fd| Fork::Parent(Process { pid, fd }))
        }
        Err(e) => {
            signal::restore(&mask);
            Err(e)
        }
    }
}

/// Opens a pidfd (pidfd_open(2)) for a child just forked; it cannot have been reaped yet, so the pid is still its own. A child
/// that cannot be watched is ended at once: nobody would ever reap it.
fn watch(pid: i32) -> io::Result<OwnedFd> {
    // SAFETY: takes no pointers.
    let ret = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    if ret >= 0 {
        // SAFETY: a new descriptor that nobody else knows of; pidfds are CLOEXEC from birth.
        return Ok(unsafe { OwnedFd::from_raw_fd(ret as libc::c_int) });
    }
    let error = io::Error::last_os_error();
    // SAFETY: `pid` is our own child, not reaped yet.
    unsafe { libc::kill(pid, libc::SIGKILL) };
    let _ = retry(|| {
        // SAFETY: waits for our own child; the status is not wanted.
        check(unsafe { libc::waitpid(pid, std::ptr::null_mut(), 0) })
    });
    Err(error)
}

impl Process {
    /// A child that a former program in this process has started.
    pub fn adopt(pid: i32, fd: OwnedFd) -> Self {
        Self { pid, fd }
    }

    /// The process id.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Sends a signal (pidfd_send_signal(2)). A process that has ended is no error.
    pub fn kill(&self, signal: i32) -> io::Result<()> {
        // SAFETY: a null siginfo is allowed.
        let ret = unsafe {
            libc::syscall(
                libc::SYS_pidfd_send_signal,
                self.fd.as_raw_fd(),
                signal,
                std::ptr::null::<libc::siginfo_t>(),
                0,
            )
        };
        match check(ret as libc::c_int) {
            Err(e) if e.raw_os_error() != Some(libc::ESRCH) => Err(e),
            _ => Ok(()),
        }
    }

    /// Collects the status if the process has ended (waitid(2), this process only); `None` while it runs.
    pub fn reap(&self) -> io::Result<Option<Exit>> {
        // SAFETY: siginfo_t is plain data for which all zero bytes are a valid value.
        let mut info: libc::siginfo_t = unsafe { mem::zeroed() };
        let waited = retry(|| {
            // SAFETY: `info` is writable; the pidfd is open.
            check(unsafe {
                libc::waitid(
                    libc::P_PIDFD,
                    self.fd.as_raw_fd() as libc::id_t,
                    &raw mut info,
                    libc::WEXITED | libc::WNOHANG,
                )
            })
        });
        match waited {
            Err(e) if e.raw_os_error() == Some(libc::ECHILD) => return Ok(Some(Exit::Unknown)),
            other => other?,
        };
        // SAFETY: waitid filled in the fields of SIGCHLD, or left zeros.
        if unsafe { info.si_pid() } == 0 {
            return Ok(None);
        }
        // SAFETY: as above.
        let status = unsafe { info.si_status() };
        Ok(Some(match info.si_code {
            libc::CLD_EXITED => Exit::Code(status),
            code => Exit::Signal { number: status, core: code == libc::CLD_DUMPED },
        }))
    }
}

impl Process {
    /// Waits until the process has ended, and collects it.
    pub fn wait(&self) -> io::Result<()> {
        super::socket::wait_ready(self.fd.as_fd(), false, None)?;
        self.reap().map(drop)
    }
}

impl AsFd for Process {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Leaves a forked worker: writes what C and Rust hold back of standard output, runs no exit handlers of the master (_exit(2)).
pub fn exit(code: i32) -> ! {
    flush_output();
    // SAFETY: ends the process; nothing of it runs afterwards.
    unsafe { libc::_exit(code) }
}

fn flush_output() {
    let _ = io::stdout().flush();
    // SAFETY: null flushes all of C's output streams.
    unsafe { libc::fflush(std::ptr::null_mut()) };
}

/// Executes another program in this process (execv(2)), with the environment and the signal mask as they are. Comes back only
/// where that fails.
pub fn execute(path: &Path, args: &[OsString]) -> io::Error {
    let text = |s: &OsStr| CString::new(s.as_bytes());
    let strings: Result<Vec<_>, _> = args.iter().map(|a| text(a)).collect();
    let (Ok(path), Ok(strings)) = (text(path.as_os_str()), strings) else {
        return io::ErrorKind::InvalidInput.into();
    };
    let mut pointers: Vec<_> = strings.iter().map(|s| s.as_ptr()).collect();
    pointers.push(std::ptr::null());
    flush_output();
    // SAFETY: a path and an array of strings that ends with NULL, all of which live through the call.
    unsafe { libc::execv(path.as_ptr(), pointers.as_ptr()) };
    io::Error::last_os_error()
}

/// Whether a descriptor stays open over [`execute`].
pub fn keep_over_exec(fd: BorrowedFd<'_>, keep: bool) {
    let flags = if keep { 0 } else { libc::FD_CLOEXEC };
    // SAFETY: takes no pointers; cannot fail for an open descriptor.
    unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETFD, flags) };
}

/// Takes a variable out of this process's environment. Only for a process with one thread ([`thread_count`]).
pub fn remove_environment(name: &str) {
    // SAFETY: no other thread reads or writes the environment meanwhile: there is none.
    unsafe { std::env::remove_var(name) };
}

/// The number of threads of this process (`/proc/self/task`, proc(5)).
pub fn thread_count() -> io::Result<usize> {
    Ok(std::fs::read_dir("/proc/self/task")?.count())
}

/// This process's id.
pub fn own_pid() -> i32 {
    // SAFETY: cannot fail, takes no pointers.
    unsafe { libc::getpid() }
}

/// Bytes of memory a process has in RAM (proc(5), `statm`); `None` where it is no more.
pub fn resident_bytes(pid: i32) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/statm")).ok()?;
    let pages: u64 = text.split(' ').nth(1)?.parse().ok()?;
    Some(pages * super::memory::PAGE as u64)
}

/// Sets a variable of this process's environment, for what it executes and what its handlers ask for. Only for a process with
/// one thread ([`thread_count`]).
pub fn set_environment(name: &str, value: &str) {
    // SAFETY: no other thread reads or writes the environment meanwhile: there is none.
    unsafe { std::env::set_var(name, value) };
}

/// How many CPUs this process may use: its affinity and its cgroup's quota, at least 1.
pub fn usable_cpus() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

/// The soft limit on open descriptors (`RLIMIT_NOFILE`, getrlimit(2)): every number is below it.
pub fn descriptor_limit() -> io::Result<u64> {
    read_limit().map(|l| l.rlim_cur)
}

/// Raises the soft limit on open descriptors to `want`, as far as the hard limit lets it, and returns what holds now.
pub fn raise_descriptor_limit(want: u64) -> io::Result<u64> {
    let mut limit = read_limit()?;
    let target = want.min(limit.rlim_max);
    if target > limit.rlim_cur {
        limit.rlim_cur = target;
        // SAFETY: `limit` is valid through the call.
        check(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) })?;
    }
    Ok(limit.rlim_cur)
}

fn read_limit() -> io::Result<libc::rlimit> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is writable.
    check(unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) })?;
    Ok(limit)
}

/// Has the kernel end this process rather than the one that forked it where memory runs out (`oom_score_adj`, proc(5)): it counts
/// as if it had so many thousandths of all memory more. Everybody may make himself likelier to be chosen.
pub fn offer_memory(thousandths: i32) -> io::Result<()> {
    let file = "/proc/self/oom_score_adj";
    let text = std::fs::read_to_string(file)?;
    let now: i32 = text.trim().parse().map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
    std::fs::write(file, now.saturating_add(thousandths).min(1000).to_string())
}

/// Sets this thread's name as `ps -o comm` shows it, cut to 15 bytes (prctl(2), `PR_SET_NAME`).
pub fn set_name(name: &str) {
    let mut text = [0u8; 16];
    let len = name.len().min(15);
    text[..len].copy_from_slice(&name.as_bytes()[..len]);
    // SAFETY: `text` is a NUL-terminated string of at most 16 bytes.
    unsafe { libc::prctl(libc::PR_SET_NAME, text.as_ptr()) };
}

/// Takes over a descriptor that whoever started this process left open for it, and sets `CLOEXEC` on it.
///
/// # Errors
/// `EBADF` where it is not open.
pub fn adopt_descriptor(number: u32) -> io::Result<OwnedFd> {
    let raw = libc::c_int::try_from(number).map_err(|_| io::Error::from_raw_os_error(libc::EBADF))?;
    // SAFETY: takes no pointers; fails where the descriptor is not open.
    check(unsafe { libc::fcntl(raw, libc::F_SETFD, libc::FD_CLOEXEC) })?;
    // SAFETY: the descriptor is open; that it is ours to own is what inheriting it by number means.
    Ok(unsafe { OwnedFd::from_raw_fd(raw) })
}
