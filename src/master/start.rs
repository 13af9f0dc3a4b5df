//! The start of a master: checks of the process, and what is bound and opened, in which order.

use super::kept::KeptFd;
use super::kernel::Kernel;
use super::lifecycle::{self, Lifecycle};
use super::pool::{PAGES, Pool};
use super::router::Messages;
use super::token::Token;
use super::{
    Births, Clock, Master, control, descriptors, fd_reserve, programs, report, scheduling, sockets,
    stderr_capture, upgrade,
};
use crate::code;
use crate::config::{Config, name_after};
use crate::error::{Error, ErrorKind, Result};
use crate::ids::{Generation, ListenerId};
use crate::role::{self, Role};
use crate::scoreboard::Scoreboard;
use crate::sys::schedule::BatchPolicy;
use crate::sys::signal::{self, Signals};
use crate::sys::time::Time;
use crate::sys::{forks, kernel, memory, process};
use crate::worker::source::BUILT_IN;
use crate::worker::source::Source;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll};
use std::collections::BTreeMap;
use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd};

/// The signals that the master reads; every other keeps the disposition it had.
const SIGNALS: [i32; 8] = [
    signal::SIGTERM,
    signal::SIGINT,
    signal::SIGQUIT,
    signal::SIGHUP,
    signal::SIGUSR1,
    signal::SIGUSR2,
    signal::SIGTTIN,
    signal::SIGTTOU,
];
/// The first kernel with all that is used here: pidfd_open(2) and waitid(2) on it, EPOLLEXCLUSIVE.
const NEEDED_KERNEL: (u32, u32) = (5, 10);
/// Events read in one turn.
const EVENTS: usize = 256;

impl Master {
    /// Binds the addresses and reads the handler; the first step starts the workers.
    ///
    /// # Errors
    /// As [`crate::Server::run`].
    pub fn new(
        config: Config,
        mut source: Box<dyn Source>,
        args: Vec<CString>,
        messages: Messages,
    ) -> Result<Self> {
        let system = |what: &'static str| move |e: io::Error| Error::io(ErrorKind::System, what, e);
        check_host()?;
        let stderr = stderr_capture::StderrCapture::new();
        let mut saved = upgrade::take_saved()?;
        match &saved {
            None => source.prepare(Generation::FIRST)?,
            Some(saved) => {
                let adopt = |&(generation, fd): &(_, KeptFd)| Ok((generation, fd.adopt()?));
                source.adopt_images(saved.images.iter().map(adopt).collect::<Result<_>>()?);
            }
        }
        let workers = if config.workers == 0 { process::usable_cpus() } else { config.workers };
        let room = if saved.is_none() { descriptors::provide_for_start(&config, workers)? } else { PAGES };
        let poll = Poll::new().map_err(system("epoll_create"))?;
        let takes_signals = config.signals == Some(true);
        let signals =
            takes_signals.then(|| Signals::take(&SIGNALS)).transpose().map_err(system("signalfd"))?;
        let former = saved.as_ref().is_some_and(|saved| saved.has_batch_policy).then(BatchPolicy::inherited);
        let upgrade = upgrade::Upgrade::new().map_err(|e| proc_error("exe", e))?;
        let token = |i| Token::Listener(ListenerId::at(i)).into();
        let now = Time::now();
        let scheduling =
            scheduling::Policy::new(config.scheduling, former, now).map_err(system("sched_setscheduler"))?;
        let rules = lifecycle::Rules {
            boot_timeout: config.boot_timeout,
            drain_timeout: config.drain_timeout,
            hang_timeout: config.timeout,
            max_age: config.max_age,
            surge: config.surge,
            max_draining: config.max_draining,
            room,
        };
        let (wake, board, listeners, lifecycle) = match &mut saved {
            None => (
                memory::wake_counter().map_err(system("eventfd"))?,
                Scoreboard::new(PAGES).map_err(system("map the scoreboard"))?,
                Self::open_listeners(&config, source.protocol(), workers, token)?,
                Lifecycle::new(rules, workers),
            ),
            Some(saved) => (
                saved.wake.adopt()?,
                Scoreboard::resume(saved.board.adopt()?, PAGES).map_err(system("map the scoreboard"))?,
                sockets::resume_all(&config, std::mem::take(&mut saved.listeners), token)?,
                Lifecycle::resume(rules, &saved.lifecycle, now),
            ),
        };
        let signal = signals.as_ref().map(|s| (s.as_fd(), Token::Signals));
        for (fd, token) in signal.into_iter().chain([(wake.as_fd(), Token::Wake)]) {
            poll.registry()
                .register(&mut SourceFd(&fd.as_raw_fd()), token.into(), Interest::READABLE)
                .map_err(system("epoll_ctl"))?;
        }
        let name = name_of(&config, source.name());
        let control = control::ControlServer::open(&config, &name, &poll);
        let kernel = Kernel { reserve: fd_reserve::FdReserve::new(fd_reserve::SIZE), common: board.common() };
        role::set(Role::Master);
        forks::count();
        let mut master = Self {
            home: process::own_pid(),
            name,
            events: Some(Events::with_capacity(EVENTS)),
            clock: Clock { now, born: now },
            lifecycle,
            failed: None,
            pool: Pool::new(kernel, listeners, &config, now),
            births: Births { args, environments: BTreeMap::new(), board, wake },
            control,
            report: report::Report::default(),
            upgrade,
            config,
            source,
            poll,
            orphans: None,
            signals,
            scheduling,
            stderr,
            messages,
            programs: programs::Programs::default(),
        };
        master.messages.open();
        if let Some(saved) = saved {
            master.adopt(saved)?;
            // If the limit has become too low for them, a fork that fails will say so.
            let _ = master.provide_descriptors(master.lifecycle.slots());
        }
        Ok(master)
    }
}

/// Checks that this machine and this process can have a master.
///
/// # Errors
/// [`ErrorKind::System`]: the kernel is too old; [`ErrorKind::State`]: the process has several threads, or is a master or worker.
pub fn check_host() -> Result<()> {
    check_kernel()?;
    check_process()
}

/// Returns the name of a server: the one that was set, or that of the handler's file, which for a handler in the program is the
/// program's, as it was started.
fn name_of(config: &Config, handler: &str) -> String {
    match code::own_program() {
        _ if !config.name.is_empty() => config.name.clone(),
        Ok(program) if handler == BUILT_IN => name_after(&program.to_string_lossy()),
        _ => name_after(handler),
    }
}

/// The error of a file in `/proc/self` that cannot be read.
fn proc_error(file: &str, e: io::Error) -> Error {
    let cause = if e.kind() == io::ErrorKind::NotFound { " (is /proc mounted?)" } else { "" };
    Error::io(ErrorKind::System, format!("read /proc/self/{file}{cause}"), e)
}

/// Refuses a process that has several threads, or is a master or a worker already.
fn check_process() -> Result<()> {
    let refused = |text: String| Err(Error::new(ErrorKind::State, text));
    match role::role() {
        Role::None => {}
        Role::Master => return refused("run: a server runs in this process already".into()),
        Role::Worker { id, .. } => return refused(format!("run: this process is worker {id}")),
    }
    let threads = process::thread_count().map_err(|e| proc_error("task", e))?;
    if threads == 1 {
        return Ok(());
    }
    refused(format!(
        "this process has {threads} threads, expected 1: a fork copies only the calling thread; \
         call run before any thread is started"
    ))
}

pub(super) fn check_kernel() -> Result<()> {
    let (major, minor) = kernel::release();
    if (major, minor) >= NEEDED_KERNEL {
        return Ok(());
    }
    let (a, b) = NEEDED_KERNEL;
    Err(Error::new(
        ErrorKind::System,
        format!("expected Linux {a}.{b} or newer, found {major}.{minor}: update the kernel"),
    ))
}
