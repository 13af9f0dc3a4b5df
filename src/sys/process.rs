//! Processes: fork, watch by pidfd, signal, reap, exit, execute; and the settings of this one.

use super::{check, memory, retry, signal};
use std::ffi::{CString, OsString};
use std::io::{self, Write};
use std::mem;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicI32, AtomicPtr};
use std::time::Duration;

/// A child process, held by a pidfd, which never refers to another process.
#[derive(Debug)]
pub struct Process {
    pid: i32,
    fd: OwnedFd,
}

/// The end of a process. In JSON: `{"code":0}`, `{"signal":"SIGSEGV","core":true}`, or `{}` if it is unknown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(
    feature = "control",
    derive(serde::Serialize, serde::Deserialize),
    serde(into = "ExitJson", from = "ExitJson")
)]
#[non_exhaustive]
pub enum Exit {
    /// It exited with this code.
    Code(i32),
    /// A signal ended it.
    Signal {
        /// The signal's number.
        number: i32,
        /// True if a core was dumped.
        core: bool,
    },
    /// It has ended, and another part of this process has collected its status.
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

/// The side of a fork.
pub enum Fork {
    /// The new process: default signal dispositions, empty mask.
    Child,
    /// The calling process, with its child.
    Parent(Process),
}

/// Forks (fork(2)). What C and Rust have buffered for standard output is written first, so that it is not written twice.
///
/// Only for a process with one thread ([`thread_count`]); in a child of another, only exec would be allowed.
pub fn fork() -> io::Result<Fork> {
    flush_output();
    // A signal that came between fork and `start_afresh` would run the master's handler in the child.
    let mask = signal::block_all()?;
    // SAFETY: this process has one thread, so the child is a full copy that may run anything.
    let forked = check(unsafe { libc::fork() });
    if let Ok(0) = forked {
        signal::start_afresh();
        return Ok(Fork::Child);
    }
    signal::restore(&mask);
    hold(forked?).map(Fork::Parent)
}

/// Forks a child that runs `child`, which ends in an exec or an exit and does only what a signal handler may (signal-safety(7)): this
/// process may have threads. The child has all signals blocked. It is put into a process group of its own.
pub(super) fn fork_to_exec(child: impl FnOnce()) -> io::Result<Process> {
    let mask = signal::block_all()?;
    // SAFETY: the child does only what a signal handler may, as the caller has promised.
    let forked = check(unsafe { libc::fork() });
    if let Ok(0) = forked {
        child();
        // SAFETY: ends the process.
        unsafe { libc::_exit(127) };
    }
    signal::restore(&mask);
    let pid = forked?;
    // The child does so too: whichever comes first, so that a signal to the group always finds it. Fails after the exec.
    // SAFETY: takes no pointers.
    unsafe { libc::setpgid(pid, pid) };
    hold(pid)
}

/// Opens the pidfd of a child that has just been forked.
fn hold(pid: i32) -> io::Result<Process> {
    // It has not been reaped yet, so the pid is still its own.
    match watch(pid) {
        Ok(fd) => Ok(Process { pid, fd }),
        Err(e) => {
            // Without a pidfd, it would never be reaped.
            // SAFETY: `pid` is our own child, not reaped yet.
            unsafe { libc::kill(pid, libc::SIGKILL) };
            // SAFETY: as above; the status is not wanted.
            let _ = retry(|| check(unsafe { libc::waitpid(pid, std::ptr::null_mut(), 0) }));
            Err(e)
        }
    }
}

/// Opens a descriptor for a process, readable once that has ended (pidfd_open(2)).
pub fn watch(pid: i32) -> io::Result<OwnedFd> {
    // SAFETY: takes no pointers.
    let opened = check(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) } as libc::c_int);
    let fd = opened.map_err(|e| match e.raw_os_error() {
        Some(libc::ENOSYS) => io::Error::new(
            e.kind(),
            "pidfd_open: not implemented; Linux 5.3 or newer has it, unless a seccomp filter or a tool such as \
             valgrind refuses it (--one-process does without)",
        ),
        Some(libc::EPERM | libc::EACCES) => io::Error::new(
            e.kind(),
            format!("pidfd_open: {e}: a seccomp filter, such as a container's, must allow it"),
        ),
        _ => e,
    })?;
    // SAFETY: a new descriptor, without another owner; a pidfd is CLOEXEC from birth.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

impl Process {
    /// A child that was forked by the program this process executed before.
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

    /// Kills all processes of the group that this process leads (kill(2)). Not after it was reaped.
    pub fn kill_group(&self) {
        // SAFETY: takes no pointers; the process was not reaped, so the number of its group is its own.
        unsafe { libc::kill(-self.pid, libc::SIGKILL) };
    }

    /// Collects the status if the process has ended (waitid(2), this process only); `None` while it runs.
    ///
    /// # Errors
    /// It has ended, and its status cannot be collected.
    pub fn reap(&self) -> io::Result<Option<Exit>> {
        let fd = self.fd.as_raw_fd() as libc::id_t;
        // SAFETY: siginfo_t is plain data for which all zero bytes are a valid value.
        let mut info: libc::siginfo_t = unsafe { mem::zeroed() };
        let waited = retry(|| {
            // SAFETY: `info` is writable; the pidfd is open.
            check(unsafe { libc::waitid(libc::P_PIDFD, fd, &raw mut info, libc::WEXITED | libc::WNOHANG) })
        });
        match waited {
            Err(e) if e.raw_os_error() == Some(libc::ECHILD) => return Ok(Some(Exit::Unknown)),
            // Its pidfd tells at least if it has ended.
            Err(_) if !super::socket::wait_ready(self.fd.as_fd(), false, Some(Duration::ZERO))? => {
                return Ok(None);
            }
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

    /// Waits until the process has ended, and reaps it.
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

/// True if the kernel makes this process the parent of descendants whose own parent has ended: as process 1 of its pid namespace,
/// or as a subreaper (prctl(2), `PR_GET_CHILD_SUBREAPER`).
pub fn adopts_orphans() -> bool {
    let mut is_subreaper: libc::c_int = 0;
    // SAFETY: the pointer is to a writable int.
    let asked = check(unsafe { libc::prctl(libc::PR_GET_CHILD_SUBREAPER, &raw mut is_subreaper) });
    own_pid() == 1 || asked.is_ok() && is_subreaper != 0
}

/// Returns a child that has ended, and leaves its status (waitid(2), `WNOWAIT`); the same one until that is collected.
pub fn ended_child() -> io::Result<Option<i32>> {
    wait_for(libc::P_ALL, 0, libc::WNOWAIT)
}

/// Collects the status of a child that has ended, and drops it.
pub fn discard_child(pid: i32) -> io::Result<()> {
    wait_for(libc::P_PID, pid.cast_unsigned(), 0).map(drop)
}

fn wait_for(kind: libc::idtype_t, id: libc::id_t, flags: libc::c_int) -> io::Result<Option<i32>> {
    // SAFETY: siginfo_t is plain data for which all zero bytes are a valid value.
    let mut info: libc::siginfo_t = unsafe { mem::zeroed() };
    let flags = libc::WEXITED | libc::WNOHANG | flags;
    // SAFETY: `info` is writable.
    retry(|| check(unsafe { libc::waitid(kind, id, &raw mut info, flags) }))?;
    // SAFETY: waitid filled in the fields of SIGCHLD, or left zeros.
    let pid = unsafe { info.si_pid() };
    Ok((pid != 0).then_some(pid))
}

/// Ends a forked worker: writes what C and Rust have buffered for standard output, and runs no exit handlers of the master
/// (_exit(2)).
pub fn exit(code: i32) -> ! {
    flush_output();
    // SAFETY: ends the process.
    unsafe { libc::_exit(code) }
}

fn flush_output() {
    let _ = io::stdout().flush();
    // SAFETY: null flushes all of C's output streams.
    unsafe { libc::fflush(std::ptr::null_mut()) };
}

/// Executes another program in this process (execv(2)), with the environment and the signal mask as they are. Returns only if
/// that fails.
pub fn execute(path: &Path, args: &[OsString]) -> io::Error {
    let strings: Result<Vec<_>, _> = args.iter().map(|arg| CString::new(arg.as_bytes())).collect();
    let (Ok(path), Ok(strings)) = (CString::new(path.as_os_str().as_bytes()), strings) else {
        return io::ErrorKind::InvalidInput.into();
    };
    let mut pointers: Vec<_> = strings.iter().map(|s| s.as_ptr()).collect();
    pointers.push(std::ptr::null());
    flush_output();
    // SAFETY: a path and an array of strings that ends with NULL, all of which live through the call.
    unsafe { libc::execv(path.as_ptr(), pointers.as_ptr()) };
    io::Error::last_os_error()
}

/// Sets whether a descriptor stays open over [`execute`].
pub fn keep_over_exec(fd: BorrowedFd<'_>, keep: bool) {
    let flags = if keep { 0 } else { libc::FD_CLOEXEC };
    // SAFETY: takes no pointers; cannot fail for an open descriptor.
    unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETFD, flags) };
}

/// Removes a variable from this process's environment. Only for a process with one thread ([`thread_count`]).
pub fn remove_environment(name: &str) {
    // SAFETY: there is no other thread that could read or write the environment meanwhile.
    unsafe { std::env::remove_var(name) };
}

/// The number of threads of this process (`/proc/self/task`, proc(5)).
pub fn thread_count() -> io::Result<usize> {
    Ok(std::fs::read_dir("/proc/self/task")?.count())
}

/// Where [`own_pid`] keeps its result; NULL before [`keep_own_pid`].
static OWN_PID: AtomicPtr<AtomicI32> = AtomicPtr::new(ptr::null_mut());

/// This process's id.
pub fn own_pid() -> i32 {
    // SAFETY: NULL, or a page that is never unmapped.
    let Some(kept) = (unsafe { OWN_PID.load(Relaxed).as_ref() }) else { return getpid() };
    if kept.load(Relaxed) == 0 {
        kept.store(getpid(), Relaxed);
    }
    kept.load(Relaxed)
}

/// From now on, [`own_pid`] makes no system call, except once in each process that is forked from this one, however that is done:
/// the kernel clears the page that has the number.
pub fn keep_own_pid() {
    if OWN_PID.load(Relaxed).is_null()
        && let Ok(page) = memory::map_cleared_on_fork()
    {
        OWN_PID.store(page.cast(), Relaxed);
    }
}

fn getpid() -> i32 {
    std::process::id().cast_signed()
}

/// Bytes of memory that a process has in RAM (proc(5), `statm`); `None` if it has ended.
pub fn resident_bytes(pid: i32) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/statm")).ok()?;
    let pages: u64 = text.split(' ').nth(1)?.parse().ok()?;
    Some(pages * super::memory::PAGE as u64)
}

/// Bytes of memory in RAM that no other process has (proc(5), `smaps_rollup`): what would be free if the process ended. Pages that
/// a fork has left shared are not among them, nor is a program's code. `None` if it has ended, or may not be looked at.
pub fn private_bytes(pid: i32) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
    let private = text.lines().filter_map(|line| line.strip_prefix("Private_")?.split_once(':'));
    private
        .map(|(_, size)| size.trim().strip_suffix(" kB")?.parse::<u64>().ok())
        .sum::<Option<u64>>()
        .map(|kb| kb * 1024)
}

/// Sets a variable of this process's environment. Only for a process with one thread ([`thread_count`]).
pub fn set_environment(name: &str, value: &str) {
    // SAFETY: as in `remove_environment`.
    unsafe { std::env::set_var(name, value) };
}

/// The number of CPUs this process may use, by its affinity and its cgroup's quota; at least 1.
pub fn usable_cpus() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

/// The number of open descriptors of this process (`/proc/self/fd`, proc(5)).
pub fn open_descriptors() -> io::Result<usize> {
    // One of them is that of the directory.
    Ok(std::fs::read_dir("/proc/self/fd")?.count().saturating_sub(1))
}

/// Closes descriptors, those whose numbers are a run by one call (close_range(2)).
pub fn close_all(mut fds: impl Iterator<Item = OwnedFd>) {
    let mut numbers = [0; 16];
    loop {
        let count = numbers.iter_mut().zip(&mut fds).map(|(number, fd)| *number = fd.into_raw_fd()).count();
        close_numbers(&numbers[..count]);
        if count < numbers.len() {
            return;
        }
    }
}

/// Closes different descriptors, which nobody else owns.
fn close_numbers(numbers: &[libc::c_int]) {
    let (first, last) =
        (numbers.iter().min().copied().unwrap_or(0), numbers.iter().max().copied().unwrap_or(0));
    let is_run = numbers.len() > 1 && last.abs_diff(first) as usize == numbers.len() - 1;
    // Kernels before 5.9 do not have the call.
    // SAFETY: takes no pointers; all numbers of the range are among those that are to be closed.
    if is_run && unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) } == 0 {
        return;
    }
    for number in numbers {
        // SAFETY: takes no pointers; nobody else owns the descriptor.
        unsafe { libc::close(*number) };
    }
}

/// The soft limit on open descriptors (`RLIMIT_NOFILE`, getrlimit(2)): every number is below it.
pub fn descriptor_limit() -> io::Result<u64> {
    raise_descriptor_limit(0)
}

/// Raises the soft limit on open descriptors to `want`, or to the hard limit if that is lower, and returns the limit that is now in
/// force.
pub fn raise_descriptor_limit(want: u64) -> io::Result<u64> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is writable.
    check(unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) })?;
    let want = want.min(limit.rlim_max);
    if want > limit.rlim_cur {
        limit.rlim_cur = want;
        // SAFETY: `limit` is valid through the call.
        check(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) })?;
    }
    Ok(limit.rlim_cur)
}

/// Makes the kernel end this process rather than the one that forked it if memory runs out (`oom_score_adj`, proc(5)): it counts as
/// if it used that many thousandths of all memory more. This needs no privilege.
pub fn offer_memory(thousandths: i32) -> io::Result<()> {
    let file = "/proc/self/oom_score_adj";
    let text = std::fs::read_to_string(file)?;
    let now: i32 = text.trim().parse().map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
    std::fs::write(file, now.saturating_add(thousandths).min(1000).to_string())
}

/// The effective user of this process (geteuid(2)).
pub fn own_user() -> u32 {
    // SAFETY: cannot fail, takes no pointers.
    unsafe { libc::geteuid() }
}

/// Sets the name of this process as `ps -o comm` shows it, cut to 15 bytes (proc(5), `comm`).
pub fn set_name(name: &str) {
    let _ = std::fs::write("/proc/self/comm", name);
}

/// Takes over a descriptor that was left open for this process by the one that started it, and sets `CLOEXEC` on it.
///
/// # Errors
/// `EBADF` if it is not open.
pub fn adopt_descriptor(number: u32) -> io::Result<OwnedFd> {
    let raw = libc::c_int::try_from(number).map_err(|_| io::Error::from_raw_os_error(libc::EBADF))?;
    // SAFETY: takes no pointers; fails if the descriptor is not open.
    check(unsafe { libc::fcntl(raw, libc::F_SETFD, libc::FD_CLOEXEC) })?;
    // SAFETY: the descriptor is open; to inherit it by number means to own it.
    Ok(unsafe { OwnedFd::from_raw_fd(raw) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::socket;
    use std::io::Read;
    use std::os::unix::net::UnixStream;

    #[test]
    fn of_numbers_that_are_no_run_only_those_are_closed() {
        // More than one call takes. Between each two of them is the number of one that stays.
        let pairs = (0..20).map(|_| UnixStream::pair().unwrap());
        let (mut closed, kept): (Vec<OwnedFd>, Vec<_>) = pairs.map(|(a, b)| (OwnedFd::from(a), b)).unzip();
        closed.reverse();
        close_all(closed.into_iter());
        for mut end in kept {
            assert_eq!(end.read(&mut [0]).unwrap(), 0, "its other end is closed, and it is not");
        }
    }

    #[test]
    fn the_end_of_a_process_that_is_no_child_is_reported() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let process = watch(child.id() as i32).unwrap();
        assert!(!socket::wait_ready(process.as_fd(), false, Some(Duration::ZERO)).unwrap());
        child.kill().unwrap();
        assert!(socket::wait_ready(process.as_fd(), false, Some(Duration::from_secs(10))).unwrap());
        child.wait().unwrap();
        assert!(watch(-1).is_err());
    }
}
