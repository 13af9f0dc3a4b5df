//! A worker whose loop the caller turns, for [`crate::testing`]: as other workers, but in a thread that has others too, with a master
//! that is its caller. Nothing of the process is changed for it: no signal, no limit, no environment.

use super::event_loop::EventLoop;
use super::failure::{StartFailure, report_panic};
use super::handler::Handler;
use super::{Worker, WorkerSetup, panic_text, routes};
use crate::config::Config;
use crate::event::{Kind, WorkerState};
use crate::role::{self, Role};
use crate::scoreboard::Word;
use crate::sys::test_thread::{self, Stay};
use crate::sys::time::Time;
use crate::unwind::named;
use mio::{Events, Poll};
use std::io;
use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Polls that are not in use; that many have been in use at a time.
static POLLS: Mutex<Vec<&'static mut Poll>> = Mutex::new(Vec::new());
/// The settings of all such workers. They live as long as the process, as a worker does; a tool that looks for leaks finds them here.
static CONFIGS: Mutex<Vec<&'static Config>> = Mutex::new(Vec::new());

/// The worker.
pub struct Stepped {
    worker: &'static Worker,
    /// `None` when it has ended.
    events: Option<EventLoop<'static>>,
    room: Events,
    kinds: Vec<Kind>,
    /// The first listener whose datagrams it takes.
    takes_datagrams: Option<usize>,
    /// Takes the place of the channel's at the end.
    no_socket: Rc<OwnedFd>,
    _stay: Stay,
}

/// Keeps settings as long as the process lives.
pub fn keep_config(config: Config) -> &'static Config {
    let config: &'static Config = Box::leak(Box::new(config));
    CONFIGS.lock().unwrap_or_else(PoisonError::into_inner).push(config);
    config
}

/// The worker is the one that runs in this thread, as long as this lives.
struct Entered {
    worker: Option<&'static Worker>,
    role: Option<Role>,
}

impl Entered {
    fn new(worker: &'static Worker) -> Self {
        let (id, slot, generation) = (worker.id(), worker.slot(), worker.generation());
        let role = role::set_here(Some(Role::Worker { id, slot, generation }));
        Self { worker: Worker::replace_current(Some(worker)), role }
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        role::set_here(self.role);
        Worker::replace_current(self.worker);
    }
}

impl Stepped {
    /// Makes the handler and starts it. If `is_lenient` is set, it need not serve all listeners.
    ///
    /// # Errors
    /// The reason why it cannot serve.
    pub fn start(
        open: impl FnOnce(&Worker) -> Result<Box<dyn Handler>, StartFailure>,
        config: &'static Config,
        setup: WorkerSetup<'static>,
        is_lenient: bool,
        stay: Stay,
    ) -> Result<Self, StartFailure> {
        let worker = setup.worker;
        let entered = Entered::new(worker);
        let start = |worker| -> Result<Box<dyn Handler>, StartFailure> {
            let mut handler = named("load", || open(worker))?;
            named("worker_start", || handler.start(worker))?;
            Ok(handler)
        };
        let started = catch_unwind(AssertUnwindSafe(|| start(worker)));
        let started = started.unwrap_or_else(|panic| {
            let text = format!("panic: {}", panic_text(&*panic));
            test_thread::keep_panic(panic);
            Err(text.into())
        });
        let joined = started.and_then(|handler| match is_lenient {
            true => Ok(routes::join_leniently(handler, worker)?),
            false => Ok(routes::join(handler, worker)?),
        });
        routes::forget();
        let handler = joined?;
        let no_socket = test_thread::no_socket().map_err(|e| format!("socketpair: {e}"))?;
        let kinds = (0..worker.info.listeners.len() as u16).map(|at| handler.kind_at(at)).collect();
        let takes =
            |at: &usize| worker.info.listeners[*at].takes_datagrams && handler.takes_datagrams_at(*at as u16);
        let takes_datagrams = (0..worker.info.listeners.len()).find(takes);
        let poll = POLLS.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let poll = match poll {
            Some(poll) => poll,
            None => Box::leak(Box::new(Poll::new().map_err(|e| format!("epoll_create: {e}"))?)),
        };
        let mut events = EventLoop::new(handler, config, config.max_conns, setup, poll);
        events.take_in();
        worker.state.set(WorkerState::Ready);
        drop(entered);
        Ok(Self {
            worker,
            events: Some(events),
            room: EventLoop::events(),
            kinds,
            takes_datagrams,
            no_socket,
            _stay: stay,
        })
    }

    /// The worker.
    pub fn worker(&self) -> &'static Worker {
        self.worker
    }

    /// The style at a listener.
    pub fn kind_at(&self, listener: usize) -> Option<Kind> {
        self.kinds.get(listener).copied()
    }

    /// The first listener whose datagrams it takes.
    pub fn takes_datagrams(&self) -> Option<usize> {
        self.takes_datagrams
    }

    /// One turn of its loop, which waits for at most `longest`. Returns when there will be something to do at the latest if nothing comes;
    /// a time that has come if something was done; never if it has ended.
    ///
    /// # Errors
    /// Those of the poll.
    pub fn turn(&mut self, longest: Duration) -> io::Result<Time> {
        let Some(events) = &mut self.events else { return Ok(Time::NEVER) };
        if !events.is_done() {
            let _entered = Entered::new(self.worker);
            let due = events.turn(&mut self.room, Some(longest))?;
            if !events.is_done() {
                return Ok(due);
            }
        }
        self.end();
        Ok(Time::default())
    }

    /// Runs a function as a callback of the worker's would.
    pub fn call<T>(&self, f: impl FnOnce(&Worker) -> T) -> T {
        let _entered = Entered::new(self.worker);
        f(self.worker)
    }

    /// The connections that were cut.
    pub fn cut(&self) -> u64 {
        self.worker.info.page.get(Word::Cut)
    }

    /// True when the worker has ended, and its handler is gone.
    pub fn has_ended(&self) -> bool {
        self.events.is_none()
    }

    /// True if something may come from outside: a thread of the handler's has a [`crate::Waker`], or a descriptor is watched.
    pub fn may_be_woken(&self) -> bool {
        // The worker itself has one.
        !self.has_ended()
            && (Arc::strong_count(&self.worker.info.own.woken) > 1
                || !self.worker.info.own.watches.borrow().is_empty())
    }

    /// Ends what the worker still has, has the handler stop, and drops it.
    pub fn end(&mut self) {
        let Some(mut events) = self.events.take() else { return };
        let worker = self.worker;
        let _entered = Entered::new(worker);
        events.end_at_once();
        let (mut handler, poll) = events.end();
        // Lives as long as the process, as all of the worker.
        worker.messages().replace_socket(Rc::clone(&self.no_socket));
        POLLS.lock().unwrap_or_else(PoisonError::into_inner).push(poll);
        for (callback, ended) in [
            ("worker_stop", catch_unwind(AssertUnwindSafe(|| named("worker_stop", || handler.stop(worker))))),
            ("drop", catch_unwind(AssertUnwindSafe(|| named("drop", || drop(handler))))),
        ] {
            report_panic(callback, ended.map_err(test_thread::keep_panic).ok());
        }
    }
}

impl Drop for Stepped {
    fn drop(&mut self) {
        self.end();
    }
}
