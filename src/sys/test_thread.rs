//! A thread that runs workers of [`crate::testing`], and what it has instead of the process's own: a clock that stands still until it is
//! advanced, the panics of callbacks, the lines of the log. In other threads, and without tests, it costs a load of a word that never changes.

use super::fdpass;
use super::time::Time;
use std::any::Any;
use std::cell::{Cell, RefCell};
use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;

/// Nanoseconds in a millisecond.
const NS: u64 = 1_000_000;

/// A panic that was caught.
pub type Panic = Box<dyn Any + Send>;

/// True if a thread of this process has had such workers.
static IS_USED: AtomicBool = AtomicBool::new(false);

thread_local! {
    /// The workers of this thread.
    static WORKERS: Cell<u32> = const { Cell::new(0) };
    /// Nanoseconds of the monotonic clock.
    static CLOCK: Cell<u64> = const { Cell::new(0) };
    static NO_SOCKET: RefCell<Option<Rc<OwnedFd>>> = const { RefCell::new(None) };
    static PANICS: RefCell<Vec<Panic>> = const { RefCell::new(Vec::new()) };
    static LINES: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

/// This thread has one more worker, as long as this lives. With the first one its clock stops.
pub struct Stay(());

impl Stay {
    /// One more worker.
    pub fn new() -> Self {
        if WORKERS.get() == 0 {
            // Whole milliseconds, as those of timers.
            CLOCK.set(Time::now().as_millis() * NS);
        }
        WORKERS.set(WORKERS.get() + 1);
        IS_USED.store(true, Relaxed);
        Self(())
    }
}

impl Drop for Stay {
    fn drop(&mut self) {
        WORKERS.set(WORKERS.get() - 1);
        if WORKERS.get() == 0 {
            PANICS.take();
            LINES.take();
        }
    }
}

/// True if a thread of this process has had workers of tests.
#[inline]
pub fn is_used() -> bool {
    IS_USED.load(Relaxed)
}

/// True in a thread with workers of tests.
pub fn is_here() -> bool {
    is_used() && WORKERS.get() > 0
}

/// The clock of this thread (nanoseconds), if it stands still.
#[inline]
pub fn clock() -> Option<u64> {
    if is_used() { clock_here() } else { None }
}

#[cold]
fn clock_here() -> Option<u64> {
    (WORKERS.get() > 0).then(|| CLOCK.get())
}

/// Sets the clock of this thread, unless it is later already.
pub fn advance_to(time: Time) {
    CLOCK.set(CLOCK.get().max(time.as_millis().saturating_mul(NS)));
}

/// A socket whose other end is closed; one for all workers of this thread.
///
/// # Errors
/// Those of socketpair(2).
pub fn no_socket() -> io::Result<Rc<OwnedFd>> {
    if let Some(socket) = NO_SOCKET.with_borrow(Clone::clone) {
        return Ok(socket);
    }
    let socket = Rc::new(fdpass::stream_pair()?.0);
    NO_SOCKET.set(Some(Rc::clone(&socket)));
    Ok(socket)
}

/// Keeps the panic of a callback for the test, if there is one in this thread.
#[cold]
pub fn keep_panic(panic: Panic) {
    if is_here() {
        PANICS.with_borrow_mut(|panics| panics.push(panic));
    }
}

/// Takes the panics of callbacks since the last time.
pub fn take_panics() -> Vec<Panic> {
    PANICS.take()
}

/// Keeps a line of the log for the test and shows it as the output of that. False, and does nothing, in any other thread.
pub fn keep_line(line: &str) -> bool {
    if !is_here() {
        return false;
    }
    eprint!("{line}");
    LINES.with_borrow_mut(|lines| lines.push(line.trim_end().to_owned()));
    true
}

/// Takes the lines of the log since the last time.
pub fn take_lines() -> Vec<String> {
    LINES.take()
}
