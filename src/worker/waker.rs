//! The queue of functions that threads of a worker's handler have run in its first thread. Used by any thread.

use mio::{Poll, Token};
use std::collections::VecDeque;
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Functions, in the order in which they came.
pub struct Queue<C>(Mutex<Inner<C>>);

struct Inner<C> {
    functions: Vec<C>,
    state: State,
}

enum State {
    /// The loop has not begun.
    Starting,
    /// This wakes it.
    Serving(mio::Waker),
    /// The loop has ended.
    Over,
}

impl<C> Default for Queue<C> {
    fn default() -> Self {
        Self(Mutex::new(Inner { functions: Vec::new(), state: State::Starting }))
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
            let _ = waker.wake();
        }
        Ok(())
    }

    /// Has `poll` report `token` whenever the queue is no longer empty.
    ///
    /// # Errors
    /// Those of eventfd(2) and epoll_ctl(2).
    pub fn open(&self, poll: &Poll, token: Token) -> io::Result<()> {
        self.lock().state = State::Serving(mio::Waker::new(poll.registry(), token)?);
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
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
