//! Copies of a worker or a master that user code forks, and the sockets that no copy of a worker is to keep: those at which it takes
//! connections and datagrams from the kernel itself.
//!
//! fork(2) in user code gives the child every descriptor of the worker. A copy that lives on would hold the server's addresses after
//! a stop, and one that returned from its callback would serve clients as a second worker. So the copy lets go of those sockets
//! at once (pthread_atfork(3)), and knows that it is one.

use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::ptr;
use std::sync::Once;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32};

/// Sockets that other processes may have too, and the descriptor that takes their place.
struct Shared {
    sockets: Vec<RawFd>,
    substitute: RawFd,
    /// The one before: none is freed, and a tool that looks for leaks is to find all of them.
    _before: *mut Shared,
}

static LAST: AtomicPtr<Shared> = AtomicPtr::new(ptr::null_mut());
static SHARED: AtomicPtr<Shared> = AtomicPtr::new(ptr::null_mut());
static RELEASED: AtomicBool = AtomicBool::new(false);
static IS_COPY: AtomicBool = AtomicBool::new(false);
/// True from [`watch`] to [`unwatch`].
static IS_WATCHING: AtomicBool = AtomicBool::new(false);
static DEPTH: AtomicU32 = AtomicU32::new(0);

/// From now on, a process that this one forks is a copy (see [`is_copy`]) and has none of `sockets`. `substitute` is open as long as
/// this process lives, and is no socket.
pub fn watch<'a>(sockets: impl Iterator<Item = BorrowedFd<'a>>, substitute: BorrowedFd<'_>) {
    let sockets = sockets.map(|fd| fd.as_raw_fd()).collect();
    // Leaked: a signal may come while it is read.
    let substitute = substitute.as_raw_fd();
    let shared = Box::into_raw(Box::new(Shared { sockets, substitute, _before: LAST.load(Relaxed) }));
    LAST.store(shared, Relaxed);
    SHARED.store(shared, Relaxed);
    IS_WATCHING.store(true, Relaxed);
    // SAFETY: `forked` does only what may be done in the child of a process with threads (pthread_atfork(3)).
    unsafe { libc::pthread_atfork(None, None, Some(forked)) };
}

/// From now on, this process forks no copies: it is a worker no longer.
pub fn unwatch() {
    forget();
    IS_WATCHING.store(false, Relaxed);
}

extern "C" fn forked() {
    if !IS_WATCHING.load(Relaxed) {
        return;
    }
    IS_COPY.store(true, Relaxed);
    release();
}

/// From now on, [`depth`] counts.
pub fn count() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // SAFETY: `counted` does only what may be done in the child of a process with threads (pthread_atfork(3)).
        unsafe { libc::pthread_atfork(None, None, Some(counted)) };
    });
}

extern "C" fn counted() {
    DEPTH.fetch_add(1, Relaxed);
}

/// The number of forks from the process that called [`count`] first to this one. It costs no system call, as a comparison of process
/// ids does.
pub fn depth() -> u32 {
    DEPTH.load(Relaxed)
}

/// True in a process that a worker's handler has forked.
pub fn is_copy() -> bool {
    IS_COPY.load(Relaxed)
}

/// The sockets are about to be closed, and their numbers to be used for others.
pub fn forget() {
    SHARED.store(ptr::null_mut(), Relaxed);
}

/// True after [`release`]: the numbers of the sockets stand for the substitute.
pub fn has_released() -> bool {
    RELEASED.load(Relaxed)
}

/// Replaces the sockets by the substitute, so that their addresses are free as far as this process is concerned. Their numbers stay
/// taken: the owner of such a number closes the substitute. May be called in a signal handler (signal-safety(7)).
pub fn release() {
    // SAFETY: NULL, or what `watch` has leaked.
    let Some(shared) = (unsafe { SHARED.swap(ptr::null_mut(), Relaxed).as_ref() }) else { return };
    RELEASED.store(true, Relaxed);
    for &socket in &shared.sockets {
        // SAFETY: takes no pointers; both are open, or it fails.
        unsafe { libc::dup3(shared.substitute, socket, libc::O_CLOEXEC) };
    }
}
