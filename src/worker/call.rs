//! Calls of the user's code: shown on the scoreboard, watched for their time, and kept from unwinding into the loop.

use super::handler::Handler;
use super::this_worker::EXIT_FAILED;
use crate::config::Config;
use crate::log::log;
use crate::scoreboard::{Word, WorkerPage};
use crate::sys::time::Time;
use crate::sys::{crash, forks, overdue, parent, process, test_thread};
use crate::unwind::named;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// The worker as an engine sees it during a call.
pub struct Context<'a> {
    /// The user's code.
    pub handler: &'a mut dyn Handler,
    /// The settings.
    pub config: &'a Config,
    /// The worker's counters.
    pub page: WorkerPage,
    /// The time: at most some milliseconds older than the last callback's return.
    pub now: &'a mut Time,
    /// True if the worker drains and has to close its connections itself.
    pub draining: bool,
}

impl Context<'_> {
    /// Runs the callback of this name, and shows it on the scoreboard meanwhile. `None` if it panicked; the panic hook has printed the
    /// panic. Does not return in a process that the callback has forked.
    pub fn call<T>(&mut self, name: &str, f: impl FnOnce(&mut dyn Handler) -> T) -> Option<T> {
        if !self.config.timeout.is_zero() {
            // The limit is for this call alone.
            *self.now = Time::now();
            overdue::begin();
        }
        self.page.set(Word::BusySince, self.now.as_millis().max(1));
        self.page.show_callback(name);
        let base = 0;
        crash::begin_call(&base);
        parent::begin_call();
        // The handler serves on after a panic, as users of a server expect; unfinished changes to its state are its own affair.
        let result = catch_unwind(AssertUnwindSafe(|| named(name, || f(self.handler))));
        let result = result.map_err(test_thread::keep_panic).ok();
        end_copy(name);
        parent::end_call();
        crash::end_call();
        self.page.hide_callback();
        self.page.set(Word::BusySince, 0);
        // Deadlines must not count the time that the callback took.
        *self.now = Time::last_tick().max(*self.now);
        result
    }
}

/// Runs a callback of the beginning or the end of a worker, and shows it meanwhile. It has no time limit as others have.
pub fn call_apart<T>(page: WorkerPage, name: &str, f: impl FnOnce() -> T) -> T {
    page.show_callback(name);
    let base = 0;
    crash::begin_timed_call(&base);
    let result = named(name, f);
    crash::end_call();
    page.hide_callback();
    result
}

/// Ends a process that a callback has forked and that returns from it: it would serve clients as a second worker.
pub fn end_copy(callback: &str) {
    if forks::is_copy() {
        end_this_copy(callback);
    }
}

/// Ends this process, which a callback has forked and which has returned from it.
#[cold]
pub fn end_this_copy(callback: &str) -> ! {
    let pid = process::own_pid();
    log!(
        Error,
        "{callback}: process {pid}, which it has forked, returned from it and ends here; a child must call _exit"
    );
    process::exit(EXIT_FAILED)
}
