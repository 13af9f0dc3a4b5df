//! What a handler has its worker's loop wait for, besides connections and messages: the calls of the user's code.

use super::call::Context;
use super::failure::report_panic;
use super::this_worker::{OnReady, OnTimer, OnWake, Worker};
use super::timers::Stopped;
use super::waker::Queue;
use super::watches::{Call, Next};
use crate::message::Undelivered;
use crate::role::{Role, role};
use crate::sys::poll::Interest;
use crate::sys::time::Time;
use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::time::Duration;

/// Timers that are called in one turn before connections have theirs.
const TIMERS: u32 = 64;
/// Functions of other threads that are run in one turn before connections have theirs.
const FUNCTIONS: u32 = 64;

/// A timer of [`Worker::after`] or [`Worker::every`]. No other timer of this worker has the same number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timer(pub(crate) u64);

/// Timers: calls at a time, by the monotonic clock. They cost no descriptor, and any number may wait. In blocking style they are
/// called between two connections.
///
/// A worker that drains goes on calling them, but does not wait for them: when it has finished its last connection, those that are
/// left are dropped, before [`crate::Handler::stop`]. A panic costs the one call; a repeated timer goes on.
impl Worker {
    /// Has a function called once, after this time, rounded up to milliseconds; after zero: in the next turn of the worker's loop.
    ///
    /// `None`, and `f` is dropped, in another thread than the first, in another process, and in [`crate::Handler::stop`]. A timer that
    /// is started in [`crate::Handler::start`] is called when the worker serves.
    pub fn after(&self, wait: Duration, f: impl FnOnce(&Self) + 'static) -> Option<Timer> {
        self.start_timer(wait, None, OnTimer::Once(Box::new(f)))
    }

    /// Has a function called each time this long, rounded up to milliseconds, has passed, first after one such time, until
    /// [`Worker::stop_timer`]. A call that comes late does not delay the next one; times that have passed meanwhile are skipped.
    ///
    /// `None` as for [`Worker::after`].
    pub fn every(&self, period: Duration, f: impl FnMut(&Self) + 'static) -> Option<Timer> {
        let ms = period.as_nanos().div_ceil(1_000_000).max(1);
        let period = Duration::from_millis(u64::try_from(ms).unwrap_or(u64::MAX));
        self.start_timer(period, Some(period), OnTimer::Each(Box::new(f)))
    }

    pub(crate) fn start_timer(
        &self,
        wait: Duration,
        every: Option<Duration>,
        call: OnTimer,
    ) -> Option<Timer> {
        if !self.is_here() {
            return None;
        }
        let due = if wait.is_zero() { Time::now() } else { Time::after(wait) };
        self.info.own.timers.borrow_mut().start(due, every, call).map(Timer)
    }

    /// Stops a timer and drops its function; false if it has been called for the last time, or was stopped. It may be the timer that is
    /// being called, or one that is due.
    pub fn stop_timer(&self, timer: Timer) -> bool {
        if !self.is_here() {
            return false;
        }
        let stopped = self.info.own.timers.borrow_mut().stop(timer.0);
        match stopped {
            // Dropped here, where it may use the timers.
            Some(Stopped::Waiting(call)) => drop(call),
            Some(Stopped::Running) => {}
            None => return false,
        }
        true
    }
}

/// What a watched descriptor is ready for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Ready {
    /// A read will not wait: there is something to read, the end, or an error.
    pub read: bool,
    /// A write will not wait: there is room, or an error.
    pub write: bool,
}

/// Descriptors of your own in the worker's loop: sockets of a client library, pipes, timerfd, inotify; not regular files, which are
/// always ready. In blocking style they are looked at between two connections.
///
/// A worker that drains goes on with them, but does not wait for them: when it has finished its last connection, the watches are
/// dropped, before [`crate::Handler::stop`].
impl Worker {
    /// Has a function called whenever a descriptor is ready, as long as it is (level-triggered). If it is watched already, this changes
    /// what it is watched for and what is called. A hang-up or an error of the descriptor is reported as all that was asked for.
    ///
    /// The descriptor stays yours, and should be non-blocking. You may close it at any time: then it is not called any more,
    /// whatever the number stands for afterwards, and also if a duplicate is left. A panic ends the watch.
    ///
    /// # Errors
    /// `EBADF` if it is not open, `EPERM` if it is a regular file or a directory, `InvalidInput` if nothing is asked for, and others of
    /// epoll_ctl(2). [`io::ErrorKind::Other`] in another thread than the first, in another process, and in
    /// [`crate::Handler::stop`].
    pub fn watch(
        &self,
        fd: &impl AsRawFd,
        interest: Interest,
        mut f: impl FnMut(&Self, RawFd, Ready) + 'static,
    ) -> io::Result<()> {
        let call = move |worker: &Self, fd, Interest { read, write }| f(worker, fd, Ready { read, write });
        self.start_watch(fd.as_raw_fd(), interest, Box::new(call))
    }

    pub(crate) fn start_watch(&self, fd: RawFd, interest: Interest, call: OnReady) -> io::Result<()> {
        if !self.is_here() || self.info.own.watches.borrow().is_over() {
            return Err(io::Error::other("not possible here or now"));
        }
        if interest == Interest::NONE {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let before = self.info.own.watches.borrow_mut().add(fd, interest, call)?;
        // Dropped here, where it may use the watches.
        drop(before);
        Ok(())
    }

    /// Stops watching a descriptor, which may be closed already; it may be the one that is being called. False if it was not watched,
    /// or has been found closed.
    pub fn unwatch(&self, fd: &impl AsRawFd) -> bool {
        if !self.is_here() {
            return false;
        }
        let removed = self.info.own.watches.borrow_mut().remove(fd.as_raw_fd());
        removed.is_some()
    }
}

/// Wakes a worker from any thread of it ([`Worker::waker`]). A clone wakes the same worker.
#[derive(Clone)]
pub struct Waker(Arc<Queue<OnWake>>);

impl fmt::Debug for Waker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Waker").finish_non_exhaustive()
    }
}

impl Waker {
    /// Has a function run in the worker's first thread, between other callbacks; in blocking style between two connections. Never waits.
    /// Functions run in the order in which they came; one that is queued while another runs comes in a later turn of the worker's
    /// loop. What is queued when the worker has finished its last connection is run before [`crate::Handler::stop`]. A panic costs that
    /// function. May be called in any thread, and in a callback, but not in a signal handler.
    ///
    /// # Errors
    /// [`Undelivered::Gone`] after the worker has finished its last connection; [`Undelivered::Impossible`] in another process. `f`
    /// is dropped then.
    pub fn wake(&self, f: impl FnOnce(&Worker) + Send + 'static) -> Result<(), Undelivered> {
        // First: in a process that the handler has forked a thread that it lacks may hold the lock.
        if !matches!(role(), Role::Worker { .. }) && !self.0.is_of_test {
            return Err(Undelivered::Impossible);
        }
        self.0.push(Box::new(f)).map_err(|_| Undelivered::Gone)
    }
}

impl Worker {
    /// The handle with which threads of this worker have functions run in its first thread.
    pub fn waker(&self) -> Waker {
        Waker(Arc::clone(&self.info.own.woken))
    }
}

/// Runs what other threads have queued, as much as one turn allows; the rest stays in `waiting`.
pub fn run_woken(worker: &Worker, waiting: &mut VecDeque<OnWake>, cx: &mut Context<'_>) {
    worker.info.own.woken.take(waiting);
    for _ in 0..FUNCTIONS {
        let Some(function) = waiting.pop_front() else { return };
        report_panic("wake", cx.call("wake", |_| function(worker)));
    }
}

/// Calls what is called of watched descriptors that are ready, as many as one turn allows.
pub fn call_watches(worker: &Worker, poll: &mio::Poll, token: mio::Token, cx: &mut Context<'_>) {
    let watches = &worker.info.own.watches;
    watches.borrow_mut().look(poll, token);
    loop {
        let next = watches.borrow_mut().next();
        let discarded = match next {
            Some(Next::Call(Call { serial, fd, ready, mut call })) => {
                let returned = cx.call("watch", |_| call(worker, fd, ready));
                if returned.is_none() {
                    // It would be called again at once.
                    watches.borrow_mut().drop_running(serial);
                }
                report_panic("watch", returned);
                watches.borrow_mut().put_back(serial, call)
            }
            Some(Next::Closed(call)) => call,
            None => return,
        };
        if discarded.is_some() {
            discard("watch", discarded, cx);
        }
    }
}

/// Calls the timers that are due, as many as one turn allows, of those with a number up to `last`.
pub fn call_timers(worker: &Worker, last: u64, cx: &mut Context<'_>) {
    let begun = Time::now();
    for _ in 0..TIMERS {
        let due = worker.info.own.timers.borrow_mut().take_due(begun, Time::now(), last);
        let Some((id, call)) = due else { return };
        match call {
            OnTimer::Once(call) => report_panic("timer", cx.call("timer", |_| call(worker))),
            OnTimer::Each(mut call) => {
                report_panic("timer", cx.call("timer", |_| call(worker)));
                let stopped = worker.info.own.timers.borrow_mut().put_back(id, OnTimer::Each(call));
                if stopped.is_some() {
                    discard("timer", stopped, cx);
                }
            }
        }
    }
}

/// Runs what other threads have queued so far, and drops the rest of what would have been called; no more can be added.
pub fn end(worker: &Worker, mut waiting: VecDeque<OnWake>, cx: &mut Context<'_>) {
    worker.info.own.woken.close();
    loop {
        run_woken(worker, &mut waiting, cx);
        if waiting.is_empty() {
            break;
        }
    }
    let timers = worker.info.own.timers.borrow_mut().end();
    if !timers.is_empty() {
        discard("timer", timers, cx);
    }
    let watches = worker.info.own.watches.borrow_mut().end();
    if !watches.is_empty() {
        discard("watch", watches, cx);
    }
}

/// Drops functions of the user's, which may own what runs code when it is dropped.
fn discard<T>(callback: &str, functions: T, cx: &mut Context<'_>) {
    report_panic(callback, cx.call(callback, |_| drop(functions)));
}
