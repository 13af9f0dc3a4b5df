//! Signals: read as data in the master (signalfd(2)), reset in a forked worker.

use super::{check, check_len, retry};
use std::io;
use std::mem;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicI32, AtomicPtr, Ordering};

pub use libc::{
    SIGABRT, SIGCHLD, SIGHUP, SIGINT, SIGKILL, SIGQUIT, SIGTERM, SIGTTIN, SIGTTOU, SIGURG, SIGUSR1, SIGUSR2,
};

/// The signals of failed writes: to a pipe without a reader, beyond the limit on the size of files.
const OF_WRITES: [i32; 2] = [libc::SIGPIPE, libc::SIGXFSZ];

/// Signals of this thread that are blocked, and read from a descriptor instead. Dropping it restores the former mask.
pub struct Signals {
    fd: OwnedFd,
    before: Option<libc::sigset_t>,
    /// The former action of SIGCHLD, if with it the kernel would not have kept the status of children.
    on_child: Option<libc::sigaction>,
}

impl Signals {
    /// Blocks the given signals, and those of failed writes, in the calling thread, and opens a descriptor for the former.
    pub fn take(signals: &[i32]) -> io::Result<Self> {
        let wanted = set_of(signals);
        let blocked = set_of(&[signals, &OF_WRITES].concat());
        let before = change_mask(libc::SIG_BLOCK, &blocked)?;
        // SAFETY: `wanted` is an initialised set; -1 asks for a new descriptor.
        let fd =
            check(unsafe { libc::signalfd(-1, &raw const wanted, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) })?;
        // SAFETY: a new descriptor, without another owner.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Self { fd, before: Some(before), on_child: keep_statuses()? })
    }

    /// In a forked child, whose mask is already its own: closes the descriptor and does not restore the mask.
    pub fn abandon(mut self) {
        self.before = None;
    }

    /// Takes the next pending signal, if any: its number, and whether a process has sent it (and not the kernel; sigaction(2),
    /// `si_code`).
    pub fn next(&self) -> io::Result<Option<(i32, bool)>> {
        // SAFETY: signalfd_siginfo is plain data for which all zero bytes are a valid value.
        let mut info: libc::signalfd_siginfo = unsafe { mem::zeroed() };
        let want = size_of_val(&info);
        let got = retry(|| {
            // SAFETY: `info` is writable for `want` bytes.
            check_len(unsafe { libc::read(self.fd.as_raw_fd(), (&raw mut info).cast(), want) })
        });
        match got {
            Ok(n) if n == want => Ok(i32::try_from(info.ssi_signo).ok().map(|n| (n, info.ssi_code <= 0))),
            Ok(_) => Ok(None),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(e) => Err(e),
        }
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        let Some(before) = &self.before else { return };
        if let Some(action) = &self.on_child {
            // SAFETY: the kernel returned `action` for this signal.
            unsafe { libc::sigaction(libc::SIGCHLD, action, std::ptr::null_mut()) };
        }
        OF_WRITES.into_iter().for_each(|signal| forget_pending(signal, before));
        let _ = change_mask(libc::SIG_SETMASK, before);
    }
}

/// Makes the kernel keep the status of children: it does not if SIGCHLD is ignored, or its handler asks for no zombies
/// (sigaction(2)). Then SIGCHLD is set to its default, and the former action returned. Another handler of the program stays.
fn keep_statuses() -> io::Result<Option<libc::sigaction>> {
    // SAFETY: sigaction is plain data for which all zero bytes are a valid value.
    let mut action: libc::sigaction = unsafe { mem::zeroed() };
    // SAFETY: `action` is writable; a null new action changes nothing.
    check(unsafe { libc::sigaction(libc::SIGCHLD, std::ptr::null(), &raw mut action) })?;
    if action.sa_sigaction != libc::SIG_IGN && action.sa_flags & libc::SA_NOCLDWAIT == 0 {
        return Ok(None);
    }
    // SAFETY: sets a disposition that runs no code.
    unsafe { libc::signal(libc::SIGCHLD, libc::SIG_DFL) };
    Ok(Some(action))
}

/// Discards a signal that came while it was blocked, unless it was blocked before too: unblocked, it would end the process.
fn forget_pending(signal: i32, before: &libc::sigset_t) {
    let (set, at_once) = (set_of(&[signal]), libc::timespec { tv_sec: 0, tv_nsec: 0 });
    // SAFETY: `before` is an initialised set.
    let was_blocked = unsafe { libc::sigismember(before, signal) } == 1;
    // SAFETY: the set and the time are valid through the call; no siginfo is asked for.
    let take = || unsafe { libc::sigtimedwait(&raw const set, std::ptr::null_mut(), &raw const at_once) };
    while !was_blocked && take() > 0 {}
}

/// Blocks every signal in the calling thread and returns the former mask.
pub(super) fn block_all() -> io::Result<libc::sigset_t> {
    let mut all = set_of(&[]);
    // SAFETY: `all` is an initialised set.
    unsafe { libc::sigfillset(&raw mut all) };
    change_mask(libc::SIG_SETMASK, &all)
}

/// Restores a mask that [`block_all`] returned.
pub(super) fn restore(mask: &libc::sigset_t) {
    let _ = change_mask(libc::SIG_SETMASK, mask);
}

/// In a forked child, with all signals still blocked: sets all dispositions to their defaults, except those of [`TO_GROUPS`] and
/// [`IGNORED`], then empties the mask.
pub(super) fn start_afresh() {
    for signal in 1..=libc::SIGRTMAX() {
        if TO_GROUPS.contains(&signal) {
            set_handler(signal, nothing, libc::SA_RESTART);
            continue;
        }
        let action = if IGNORED.contains(&signal) { libc::SIG_IGN } else { libc::SIG_DFL };
        // SAFETY: sets a disposition that runs no code. Fails for SIGKILL, SIGSTOP and libc's own signals, as it should.
        unsafe { libc::signal(signal, action) };
    }
    let _ = change_mask(libc::SIG_SETMASK, &set_of(&[]));
}

/// In a forked child that is about to execute another program, with all signals still blocked: sets all dispositions to their defaults,
/// then empties the mask.
pub(super) fn reset_all() {
    for signal in 1..=libc::SIGRTMAX() {
        // SAFETY: sets a disposition that runs no code. Fails for SIGKILL, SIGSTOP and libc's own signals, as it should.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
    let _ = change_mask(libc::SIG_SETMASK, &set_of(&[]));
}

/// A function for the kernel to call.
type Function = extern "C" fn(libc::c_int);

/// Signals that a terminal or a supervisor sends to a whole process group. In a worker they have a handler that does nothing: the
/// master gets them too and acts on the workers. If they were ignored, they would stay so over an exec(2); at their default they
/// would end the requests in progress. System calls are restarted.
const TO_GROUPS: [i32; 6] = [SIGINT, SIGQUIT, SIGTERM, SIGHUP, SIGUSR1, SIGUSR2];

/// Signals that workers ignore. After a failed write (to a client that has closed, to a full log) its error is enough. SIGTTIN and
/// SIGTTOU would stop the worker; with a handler, a read of the terminal would be retried forever.
const IGNORED: [i32; 4] = [libc::SIGPIPE, libc::SIGXFSZ, SIGTTIN, SIGTTOU];

extern "C" fn nothing(_: libc::c_int) {}

/// The counter of [`count`].
static COUNTER: AtomicI32 = AtomicI32::new(-1);

/// In a worker: a signal adds one to a counter (eventfd(2)) that the worker's poll reports.
pub fn count(signal: i32, counter: &OwnedFd) {
    extern "C" fn add(_: libc::c_int) {
        let one = 1u64.to_ne_bytes();
        keep_errno(|| {
            // SAFETY: write(2) may be called in a signal handler (signal-safety(7)); the bytes live through the call.
            unsafe { libc::write(COUNTER.load(Ordering::Relaxed), one.as_ptr().cast(), one.len()) };
        });
    }
    COUNTER.store(counter.as_raw_fd(), Ordering::Relaxed);
    set_handler(signal, add, libc::SA_RESTART);
}

/// The function of [`interrupt`].
static INTERRUPTS: AtomicPtr<()> = AtomicPtr::new(std::ptr::null_mut());

/// Makes a signal call `f` and end a system call that the process waits in with `EINTR`. For one signal only.
///
/// # Safety
/// `f` does only what a signal handler may (signal-safety(7)), and does not panic.
pub(super) unsafe fn interrupt(signal: i32, f: fn()) {
    extern "C" fn call(_: libc::c_int) {
        let f = INTERRUPTS.load(Ordering::Relaxed);
        // SAFETY: stored before the handler was set; function and data pointers have the same size on Linux.
        let f = unsafe { mem::transmute::<*mut (), fn()>(f) };
        keep_errno(f);
    }
    INTERRUPTS.store(f as *mut (), Ordering::Relaxed);
    set_handler(signal, call, 0);
}

/// Calls `f` in a signal handler, and restores `errno`: the interrupted code may be about to read it.
fn keep_errno(f: impl FnOnce()) {
    // SAFETY: the calling thread's own `errno`.
    let errno = unsafe { libc::__errno_location() };
    // SAFETY: points to a c_int of this thread.
    let before = unsafe { errno.read() };
    f();
    // SAFETY: as above.
    unsafe { errno.write(before) };
}

/// The function of [`call_on`].
static CALLED: AtomicPtr<()> = AtomicPtr::new(std::ptr::null_mut());

/// Dispositions of signals as they were, and the mask of the thread. Dropping it restores them.
pub struct Former {
    actions: Vec<(i32, libc::sigaction)>,
    mask: Option<libc::sigset_t>,
}

impl Former {
    /// Those of these signals, as they are now.
    fn of(signals: &[i32]) -> Self {
        let action = |signal: &i32| {
            // SAFETY: sigaction is plain data for which all zero bytes are a valid value.
            let mut action: libc::sigaction = unsafe { mem::zeroed() };
            // SAFETY: `action` is writable; a null new action changes nothing.
            unsafe { libc::sigaction(*signal, std::ptr::null(), &raw mut action) };
            (*signal, action)
        };
        Self { actions: signals.iter().map(action).collect(), mask: None }
    }
}

impl Drop for Former {
    fn drop(&mut self) {
        if let Some(mask) = &self.mask {
            restore(mask);
        }
        for (signal, action) in &self.actions {
            // SAFETY: the kernel returned `action` for this signal.
            unsafe { libc::sigaction(*signal, action, std::ptr::null_mut()) };
        }
    }
}

/// Makes signals call `f` with their number, also if this thread has blocked them; system calls are restarted. Those of failed writes are ignored.
///
/// # Safety
/// `f` does only what a signal handler may (signal-safety(7)), and does not panic.
pub(super) unsafe fn call_on(signals: &[i32], f: fn(i32)) -> Former {
    extern "C" fn call(signal: libc::c_int) {
        let f = CALLED.load(Ordering::Relaxed);
        // SAFETY: stored before the handler was set; function and data pointers have the same size on Linux.
        let f = unsafe { mem::transmute::<*mut (), fn(i32)>(f) };
        keep_errno(|| f(signal));
    }
    let mut former = Former::of(&[signals, &OF_WRITES].concat());
    CALLED.store(f as *mut (), Ordering::Relaxed);
    for &signal in signals {
        set_handler(signal, call, libc::SA_RESTART);
    }
    for signal in OF_WRITES {
        // SAFETY: sets a disposition that runs no code.
        unsafe { libc::signal(signal, libc::SIG_IGN) };
    }
    former.mask = change_mask(libc::SIG_UNBLOCK, &set_of(signals)).ok();
    former
}

fn set_handler(signal: i32, handler: Function, flags: libc::c_int) {
    // SAFETY: sigaction is plain data for which all zero bytes are a valid value.
    let mut action: libc::sigaction = unsafe { mem::zeroed() };
    action.sa_sigaction = handler as *const () as libc::sighandler_t;
    action.sa_flags = flags;
    // SAFETY: `action` is valid through the call, and its handler does only what a handler may.
    unsafe { libc::sigaction(signal, &raw const action, std::ptr::null_mut()) };
}

/// The names of the signals that a process may end by, and of those that are sent to workers.
const NAMES: [(i32, &str); 18] = [
    (SIGHUP, "SIGHUP"),
    (SIGINT, "SIGINT"),
    (SIGQUIT, "SIGQUIT"),
    (libc::SIGILL, "SIGILL"),
    (libc::SIGTRAP, "SIGTRAP"),
    (SIGABRT, "SIGABRT"),
    (libc::SIGBUS, "SIGBUS"),
    (libc::SIGFPE, "SIGFPE"),
    (SIGKILL, "SIGKILL"),
    (SIGUSR1, "SIGUSR1"),
    (libc::SIGSEGV, "SIGSEGV"),
    (SIGUSR2, "SIGUSR2"),
    (libc::SIGPIPE, "SIGPIPE"),
    (libc::SIGALRM, "SIGALRM"),
    (SIGTERM, "SIGTERM"),
    (SIGURG, "SIGURG"),
    (libc::SIGXCPU, "SIGXCPU"),
    (libc::SIGSYS, "SIGSYS"),
];

/// The name of a signal: `SIGSEGV`, or `signal 40` for one that has no name here.
pub fn name(signal: i32) -> String {
    let known = NAMES.iter().find(|(number, _)| *number == signal);
    known.map_or_else(|| format!("signal {signal}"), |(_, name)| (*name).into())
}

/// The signal of a name that [`name`] gives.
pub fn number(text: &str) -> Option<i32> {
    (1..=libc::SIGRTMAX()).find(|&signal| name(signal) == text)
}

fn set_of(signals: &[i32]) -> libc::sigset_t {
    // SAFETY: sigset_t is plain data; sigemptyset makes it a valid set.
    let mut set: libc::sigset_t = unsafe { mem::zeroed() };
    // SAFETY: `set` is writable.
    unsafe { libc::sigemptyset(&raw mut set) };
    for &signal in signals {
        // SAFETY: `set` is an initialised set.
        unsafe { libc::sigaddset(&raw mut set, signal) };
    }
    set
}

fn change_mask(how: libc::c_int, set: &libc::sigset_t) -> io::Result<libc::sigset_t> {
    let mut before = set_of(&[]);
    // SAFETY: both sets are valid through the call.
    match unsafe { libc::pthread_sigmask(how, set, &raw mut before) } {
        0 => Ok(before),
        code => Err(io::Error::from_raw_os_error(code)),
    }
}
