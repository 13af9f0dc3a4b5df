//! The queue of functions that threads of a worker's handler have run in its first thread. Used by any thread.

use crate::sys::memory;
use mio::unix::SourceFd;
use mio::{Interest, Poll, Token};
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Functions, in the order in which they came.
pub struct Queue<C> {
    inner: Mutex<Inner<C>>,
    /// The worker is one of [`crate::testing`]: its threads have no role by which they know that this is its process.
    pub is_of_test: bool,
}

struct Inner<C> {
    functions: Vec<C>,
    state: State,
}

enum State {
    /// The loop has not begun.
    Starting,
    /// This wakes it. None of mio's, of which a poll can have one only: those of tests are used again.
    Serving(OwnedFd),
    /// The loop has ended.
    Over,
}

impl<C> Default for Queue<C> {
    fn default() -> Self {
        let inner = Mutex::new(Inner { functions: Vec::new(), state: State::Starting });
        Self { inner, is_of_test: false }
    }
}

impl<C> Queue<C> {
    /// Adds a function, and wakes the loop. Gives it back if the loop has ended.
    pub fn push(&self, function: C) -> Result<(), C> {
        let mut inner = self.lock();
        if matches!(inner.state, State::Over) {
            return Err(function);
        }
        inner.functions.push(function);
        // The first of several is enough. With the lock held, since the end of the loop closes what wakes it.
        if inner.functions.len() == 1
            && let State::Serving(waker) = &inner.state
        {
            // Fails only if its counter is full, and then the loop is woken anyway.
            let _ = memory::wake(waker.as_fd());
        }
        Ok(())
    }

    /// Has `poll` report `token` whenever the queue is no longer empty.
    ///
    /// # Errors
    /// Those of eventfd(2) and epoll_ctl(2).
    pub fn open(&self, poll: &Poll, token: Token) -> io::Result<()> {
        let waker = memory::wake_counter()?;
        poll.registry().register(&mut SourceFd(&waker.as_raw_fd()), token, Interest::READABLE)?;
        self.lock().state = State::Serving(waker);
        Ok(())
    }

    /// Moves what is queued behind what is there.
    pub fn take(&self, into: &mut VecDeque<C>) {
        into.extend(self.lock().functions.drain(..));
    }

    /// Takes no more.
    pub fn close(&self) {
        self.lock().state = State::Over;
    }

    fn lock(&self) -> MutexGuard<'_, Inner<C>> {
        // Nothing here panics half-way.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
