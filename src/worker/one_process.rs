//! The only worker of a server that is one process: as other workers, but with nobody to tell, and it returns at the end.

use super::call::{call_apart, end_copy};
use super::event_loop::EventLoop;
use super::failure::{StartFailure, report_panic};
use super::handed::{Handed, Signals};
use super::source::{Opened, Source};
use super::{Worker, WorkerSetup, hand_over, limit_of, numbers, panic_text, start};
use crate::config::{Config, LogLevel};
use crate::error::{Error, ErrorKind, Result};
use crate::event::{Kind, WorkerState};
use crate::log;
use crate::role::{self, Role};
use crate::scoreboard::Word;
use crate::sys::{ending, forks, parent, process, stderr};
use std::os::fd::AsFd;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Serves in this process until a signal ends it or the handler leaves. `ready` is told the styles of the handler: its own, and that
/// at each listener. Returns the number of connections that were cut at the drain-timeout.
///
/// # Errors
/// [`ErrorKind::Handler`]: the handler cannot serve; [`ErrorKind::System`].
pub fn run(
    source: &mut dyn Source,
    config: &Config,
    setup: WorkerSetup<'_>,
    poll: &mut mio::Poll,
    signals: Signals,
    ready: &mut dyn FnMut(Kind, Vec<Kind>),
) -> Result<u64> {
    let worker = setup.worker;
    worker.set_current();
    let _role = Ended;
    // The loop closes its own, and signals may come after that.
    let counter =
        setup.leave.try_clone().map_err(|e| Error::io(ErrorKind::System, "dup of an eventfd", e))?;
    let speaks = log::is_enabled(LogLevel::Info);
    let _signals = signals.are_taken.then(|| ending::watch(&counter, signals.same, speaks));
    forks::watch(setup.own_sockets.iter().map(|socket| socket.fd.as_fd()), counter.as_fd());
    let (id, slot, generation) = (worker.id(), worker.slot(), worker.generation());
    role::set(Role::Worker { id, slot, generation });
    // A thread, such as that of a sanitizer, may read the environment meanwhile.
    if process::thread_count().is_ok_and(|threads| threads == 1) {
        numbers(worker).iter().for_each(|(name, value)| process::set_environment(name, &value.to_string()));
    }
    parent::begin_call();
    let started = catch_unwind(AssertUnwindSafe(|| start(worker, |worker| source.open_in_place(worker))));
    end_copy("worker_start");
    let with_name = |kind, why: String| {
        let name = source.name();
        Error::new(kind, if why.contains(name) { why } else { format!("{name}: {why}") })
    };
    let refusal = |failure: StartFailure| {
        let kind = if failure.is_misconfigured { ErrorKind::Misconfigured } else { ErrorKind::Handler };
        with_name(kind, failure.reason)
    };
    let handler = match started {
        Ok(Ok(Opened::Handler(handler))) => handler,
        Ok(Ok(Opened::Successor(successor))) => {
            let handed = Handed { alone: Some(signals), ..hand_over(config, setup) };
            return successor.serve_in_place(handed, ready).map_err(|e| match e.kind() {
                ErrorKind::System => e,
                kind => with_name(kind, e.to_string()),
            });
        }
        Ok(Err(failure)) => return Err(refusal(failure)),
        Err(panic) => return Err(refusal(format!("panic: {}", panic_text(&*panic)).into())),
    };
    // The handler may have closed some, and connections come next.
    let _ = stderr::open_missing();
    let kind = handler.kind();
    let limit = limit_of(kind, config);
    worker.state.set(WorkerState::Ready);
    let kinds = (0..worker.info.listeners.len() as u16).map(|at| handler.kind_at(at)).collect();
    ready(kind, kinds);
    parent::end_call();
    let mut events = EventLoop::new(handler, config, limit, setup, poll);
    events.take_in();
    let (mut handler, served) = events.serve();
    forks::forget();
    parent::begin_call();
    let stopped = catch_unwind(AssertUnwindSafe(|| {
        call_apart(worker.info.page, "worker_stop", || handler.stop(worker))
    }));
    report_panic("worker_stop", stopped.ok());
    end_copy("worker_stop");
    let dropped = catch_unwind(AssertUnwindSafe(|| call_apart(worker.info.page, "drop", || drop(handler))));
    report_panic("drop", dropped.ok());
    end_copy("drop");
    served.map_err(|e| Error::io(ErrorKind::System, "epoll_wait", e))?;
    Ok(if signals.are_taken && ending::is_at_once() { 0 } else { worker.info.page.get(Word::Cut) })
}

/// Ends the role of this process when dropped.
struct Ended;

impl Drop for Ended {
    fn drop(&mut self) {
        Worker::unset_current();
        role::set(Role::None);
        forks::unwatch();
    }
}
