//! The master: owns the listeners, hands connections to workers, and watches over them. One thread, one poll, no user code.
//!
//! Each turn takes signals first, then deaths, then messages, then what is due, then connections.

mod accept;
mod commands;
mod connect;
#[cfg(feature = "control")]
mod control;
#[cfg(not(feature = "control"))]
#[path = "control_stub.rs"]
mod control;
mod crew;
mod dispatch;
mod doors;
mod fd_reserve;
pub mod lifecycle;
mod listener;
mod owner;
mod rebalance;
mod reclaim;
mod report;
mod restart;
pub mod router;
mod spawn;
mod stderr_capture;
mod supervise;
mod token;
mod upgrade;

use crate::config::{Config, name_after};
use crate::error::{Error, ErrorKind, Result};
use crate::event::{Event, Started, Stopped};
use crate::ids::ListenerId;
use crate::log::log;
use crate::message::{Envelope, OnReply, Undelivered};
use crate::role::{self, Role};
use crate::scoreboard::Scoreboard;
use crate::server::{Server, Source};
use crate::sys::signal::{self, Signals};
use crate::sys::time::Time;
use crate::sys::{kernel, memory, poll, process, time};
use lifecycle::{Action, Input, Lifecycle, NEVER, Rules};
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll};
use router::Messages;
use std::collections::{BTreeMap, VecDeque};
use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;
use token::{Token, tokens};

/// The signals the master reads; every other keeps the disposition it had.
const WATCHED: [i32; 8] = [
    signal::SIGTERM,
    signal::SIGINT,
    signal::SIGQUIT,
    signal::SIGHUP,
    signal::SIGUSR1,
    signal::SIGUSR2,
    signal::SIGTTIN,
    signal::SIGTTOU,
];
/// Since then there is all that is used here: pidfd_open(2) and waitid(2) on it, EPOLLEXCLUSIVE.
const NEEDED_KERNEL: (u32, u32) = (5, 10);
/// Events read in one turn.
const EVENTS: usize = 256;
/// How often the sizes of workers are looked at (milliseconds).
const MEMORY_TICK: u64 = 1000;

/// What the master has to tell its host.
pub enum News {
    /// Every worker is ready for the first time.
    Started(Started),
    /// Something happened.
    Event(Event),
    /// A worker has written to the host.
    Message(Envelope, Vec<u8>),
    /// A request of the host's has come to its end.
    Reply(OnReply, std::result::Result<Vec<u8>, Undelivered>),
}

/// The state of a running master.
pub struct Master {
    /// The process that is this master. A fork of it has a copy, and may become a master of its own.
    home: i32,
    config: Config,
    source: Box<dyn Source>,
    /// What it is called by who asks after it.
    name: String,
    args: Vec<CString>,
    /// All message channels.
    messages: Messages,
    report: report::Report,
    /// Variables for the workers of a slot.
    environments: BTreeMap<usize, Vec<(String, String)>>,
    poll: Poll,
    /// `None` while a step is under way.
    events: Option<Events>,
    /// Where they are the master's.
    signals: Option<Signals>,
    /// Workers write it to say that there is room.
    wake: OwnedFd,
    board: Scoreboard,
    fd_reserve: fd_reserve::FdReserve,
    stderr: stderr_capture::StderrCapture,

    lifecycle: Lifecycle,
    actions: Vec<Action>,
    failed: Option<Error>,
    program: upgrade::Program,
    upgrade: upgrade::Upgrade,

    listeners: Vec<listener::Listener>,
    crew: crew::Crew,
    /// Where round robin stands.
    cursor: usize,
    /// The one connection that was accepted when no queue would take it.
    in_hand: Option<accept::InHand>,
    control: control::ControlServer,
    returns: VecDeque<reclaim::Return>,
    /// How many more times the workers' shares are looked at after a scale-up.
    share_looks: u32,

    /// The monotonic clock (milliseconds), read once a turn.
    now: u64,
    /// When this master was made.
    born: u64,
    /// When something is due next.
    timer_at: u64,
    tick_at: Option<u64>,
    memory_at: u64,
    /// Not to accept before this time.
    accept_at: u64,
    /// Until when a shortage of descriptors or memory counts as one.
    shortage: Option<u64>,
    /// A turn was cut short: the next one must not sleep.
    more_to_do: bool,

    /// A stop wants the backlogs empty.
    emptying: bool,
    /// By listener: its backlog was found empty while stopping.
    emptied: u64,
    kind: crate::Kind,
}

impl Master {
    /// Binds the addresses and reads the handler; the first step starts the workers.
    ///
    /// # Errors
    /// As [`Server::run`].
    pub fn new(server: Server) -> Result<Self> {
        let system = |what: &'static str| move |e: io::Error| Error::io(ErrorKind::System, what, e);
        let Server { config, mut source, args, messages, .. } = server;
        check_kernel()?;
        check_process()?;
        let stderr = stderr_capture::StderrCapture::new();
        let mut heritage = upgrade::inheritance()?;
        match &mut heritage {
            None => source.prepare(FIRST_GENERATION)?,
            Some(h) => source.adopt_images(std::mem::take(&mut h.images)),
        }
        let workers = if config.workers == 0 { process::usable_cpus() } else { config.workers };
        let poll = Poll::new().map_err(system("epoll_create"))?;
        let signals = match config.signals {
            Some(true) => Some(Signals::take(&WATCHED).map_err(system("signalfd"))?),
            Some(false) | None => None,
        };
        let program = upgrade::Program::this().map_err(system("read /proc/self/exe"))?;
        let token = |i| Token::Listener(ListenerId::at(i)).into();
        let now = time::monotonic_ms();
        let (wake, board, listeners, lifecycle) = match &mut heritage {
            None => (
                memory::wake_counter().map_err(system("eventfd"))?,
                Scoreboard::new(crew::SEATS).map_err(system("map the scoreboard"))?,
                listener::open_all(&config, workers, token)?,
                Lifecycle::new(rules(&config), workers, time::monotonic_ns()),
            ),
            Some(h) => {
                let nothing = || memory::wake_counter().map_err(system("eventfd"));
                let board = std::mem::replace(&mut h.board, nothing()?);
                (
                    std::mem::replace(&mut h.wake, nothing()?),
                    Scoreboard::resume(board, crew::SEATS).map_err(system("map the scoreboard"))?,
                    listener::resume_all(&config, std::mem::take(&mut h.listeners), token)?,
                    Lifecycle::resume(rules(&config), &h.snapshot, now, time::monotonic_ns()),
                )
            }
        };
        let registry = poll.registry();
        let signal = signals.as_ref().map(|s| (s.as_fd(), Token::Signals));
        for (fd, token) in signal.into_iter().chain([(wake.as_fd(), Token::Wake)]) {
            registry
                .register(&mut SourceFd(&fd.as_raw_fd()), token.into(), Interest::READABLE)
                .map_err(system("epoll_ctl"))?;
        }
        let name =
            Some(config.name.clone()).filter(|n| !n.is_empty()).unwrap_or_else(|| name_after(source.name()));
        let control = control::ControlServer::open(&config, &name, &poll);
        role::set(Role::Master);
        let mut master = Self {
            home: process::own_pid(),
            events: Some(Events::with_capacity(EVENTS)),
            lifecycle,
            program,
            upgrade: upgrade::Upgrade::No,
            actions: Vec::new(),
            failed: None,
            crew: crew::Crew::new(),
            cursor: 0,
            in_hand: None,
            control,
            name,
            returns: VecDeque::with_capacity(workers),
            share_looks: 0,
            now,
            born: now,
            timer_at: 0,
            tick_at: None,
            memory_at: if config.max_memory > 0 { now + MEMORY_TICK } else { NEVER },
            accept_at: 0,
            shortage: None,
            more_to_do: false,
            emptying: false,
            emptied: 0,
            kind: crate::Kind::Request,
            fd_reserve: fd_reserve::FdReserve::new(),
            stderr,
            config,
            source,
            args,
            messages,
            report: report::Report::default(),
            environments: BTreeMap::new(),
            poll,
            signals,
            wake,
            board,
            listeners,
        };
        master.messages.open();
        if let Some(heritage) = heritage {
            master.inherit(heritage).map_err(system("upgrade: go on with the workers"))?;
        }
        Ok(master)
    }

    /// Whether this process is this master, and not a copy of it.
    pub fn is_here(&self) -> bool {
        role::role() == Role::Master && process::own_pid() == self.home
    }

    /// Whether this program was only started to see whether it could take a master's place.
    ///
    /// # Errors
    /// [`ErrorKind::State`]: it could not.
    pub fn is_trial() -> Result<bool> {
        upgrade::is_trial()
    }

    /// One turn of the loop, which waits for something to do for `patience` at the most; `None` waits as long as it takes.
    /// Returns how the run ended, once it has.
    ///
    /// # Errors
    /// As [`Server::run`]; every worker that was started is ended then.
    pub fn step(&mut self, patience: Option<Duration>) -> Result<Option<Stopped>> {
        let Some(mut events) = self.events.take() else { return Ok(None) };
        self.report_setup();
        let result = self.turn(&mut events, patience);
        if result.is_err() {
            self.kill_all();
            self.messages.close();
            self.wait_for_all(&mut events);
        }
        self.events = Some(events);
        result?;
        let over = self.lifecycle.has_stopped() && !self.is_trying_out();
        let stopped = over.then(|| Stopped { killed: self.lifecycle.killed() });
        if let Some(stopped) = stopped {
            self.publish(Event::Stopped { killed: stopped.killed });
            self.control.close(self.lifecycle.killed(), Time::from_millis(self.now));
        }
        Ok(stopped)
    }

    /// From now on events are kept for [`Master::next_news`].
    pub fn listen(&mut self) {
        self.report.wants_events = true;
    }

    /// What is to be told next.
    pub fn next_news(&mut self) -> Option<News> {
        self.report.next()
    }

    /// How long the next step may be put off where [`Master::descriptor`] is not readable; `None`: as long as that.
    pub fn patience(&self) -> Option<Duration> {
        match self.timer_at.min(self.lifecycle.due()).min(self.owners_due()) {
            // What is watched of the message channels is set at the beginning of a turn.
            _ if self.more_to_do || self.messages.router().has_stale_interests() => Some(Duration::ZERO),
            NEVER => None,
            at => Some(Duration::from_millis(at.saturating_sub(time::monotonic_ms()))),
        }
    }

    /// Readable when there is something to do.
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        poll::descriptor(&self.poll)
    }

    /// One turn of the loop.
    fn turn(&mut self, events: &mut Events, patience: Option<Duration>) -> Result<()> {
        self.wait(events, patience)?;
        let mut acceptable = 0u64;
        for token in tokens(events) {
            match token {
                Token::Signals => self.take_signals(),
                Token::Listener(listener) => acceptable |= 1 << listener.index(),
                _ => {}
            }
        }
        // In this order: a death is known before what the worker said is acted on, and both before anything is accepted.
        for token in tokens(events) {
            if let Token::Exit(page) = token {
                self.reap(page.index());
            }
        }
        for token in tokens(events) {
            if let Token::Messages(page) = token {
                self.mark_channel(page.index());
            }
        }
        self.carry_messages(acceptable != 0);
        self.read_stderr(events);
        for token in tokens(events) {
            if let Token::Returns(page) = token {
                self.handed_back(page.index());
            }
        }
        self.serve_control(events);
        if self.now >= self.timer_at {
            self.run_timers();
        }
        self.mind_doors();
        while acceptable != 0 {
            let index = acceptable.trailing_zeros() as usize;
            acceptable &= acceptable - 1;
            if self.listeners.get(index).is_some_and(listener::Listener::is_watched) {
                self.accept_from(index);
            }
        }
        self.serve_waiting();
        self.look_whether_empty();
        self.go_on_upgrading();
        self.failed.take().map_or(Ok(()), Err)
    }

    fn wait(&mut self, events: &mut Events, patience: Option<Duration>) -> Result<()> {
        self.messages.router().update_poll(&self.poll);
        self.timer_at = self.timer_at.min(self.lifecycle.due());
        let sleep = match self.timer_at.min(self.owners_due()) {
            _ if self.more_to_do => Some(Duration::ZERO),
            NEVER => patience,
            at => {
                let due = Duration::from_millis(at.saturating_sub(self.now));
                Some(patience.map_or(due, |p| p.min(due)))
            }
        };
        match self.poll.poll(events, sleep) {
            Err(e) if e.kind() != io::ErrorKind::Interrupted => {
                return Err(Error::io(ErrorKind::System, "epoll_wait", e));
            }
            Err(_) => events.clear(),
            Ok(()) => {}
        }
        self.now = time::monotonic_ms();
        Ok(())
    }

    fn take_signals(&mut self) {
        while let Some(signals) = &self.signals {
            match signals.next() {
                // Scripts that rotate logs send it by habit, and its default would end this process.
                Ok(Some(signal::SIGUSR1)) => log!("SIGUSR1: there are no log files to reopen; nothing done"),
                Ok(Some(signal::SIGUSR2)) => self.upgrade(),
                Ok(Some(signal::SIGHUP)) => self.feed(Input::Reload),
                Ok(Some(signal::SIGTTIN)) => self.feed(Input::Scale(self.lifecycle.slots().len() + 1)),
                Ok(Some(signal::SIGTTOU)) => {
                    self.feed(Input::Scale(self.lifecycle.slots().len().saturating_sub(1)))
                }
                Ok(Some(_)) => self.feed(Input::Stop),
                Ok(None) => return,
                Err(e) => return log!("read signals: {e}"),
            }
        }
    }

    /// Has the loop wake at a time, at the latest.
    fn arm(&mut self, at: u64) {
        self.timer_at = self.timer_at.min(at);
    }

    /// Does what is due, and finds out when something is due next.
    fn run_timers(&mut self) {
        self.timer_at = NEVER;
        if self.tick_at.is_some_and(|at| at <= self.now) {
            self.tick_at = None;
            self.look_for_stuck();
            self.look_at_work();
            self.look_at_shares();
        }
        if self.memory_at <= self.now {
            self.memory_at = self.now + MEMORY_TICK;
            self.look_at_memory();
        }
        self.look_at_shortage();
        if self.lifecycle.due() <= self.now {
            self.look_at_work();
            self.feed(Input::Tick);
        }
        if self.watches_work() {
            self.tick_soon();
        }
        let rest_ends = if self.accept_at > self.now { self.accept_at } else { NEVER };
        let shortage = self.shortage.unwrap_or(NEVER);
        let next = [self.tick_at.unwrap_or(NEVER), self.memory_at, rest_ends, shortage];
        next.into_iter().for_each(|at| self.arm(at));
    }

    /// Whether somebody must look at the workers even if nothing is given to them.
    fn watches_work(&self) -> bool {
        let (times, counts) = (!self.config.timeout.is_zero(), self.config.max_requests > 0);
        let busy = || self.crew.iter().any(|w| w.busy_told > 0 || w.in_flight() > 0);
        // What workers take from the kernel themselves wakes nobody here.
        let unseen = || self.listeners.iter().any(|l| l.is_for_workers(self.config.accept));
        (times || counts) && (busy() || unseen())
    }

    /// After a failed start: collects every worker that was started.
    fn wait_for_all(&mut self, events: &mut Events) {
        loop {
            // Before the first wait: the turn that failed may have seen more deaths than the one it failed at.
            for seat in self.crew.seats() {
                if self.crew.at(seat).is_some_and(|w| !matches!(w.process.reap(), Ok(None))) {
                    self.finish_stderr(seat);
                    self.crew.leave(seat);
                }
            }
            self.read_stderr(events);
            if self.crew.seats().is_empty() || self.wait(events, None).is_err() {
                return;
            }
        }
    }

    fn kill_all(&mut self) {
        for worker in self.crew.iter() {
            let _ = worker.process.kill(signal::SIGKILL);
        }
    }
}

impl Drop for Master {
    fn drop(&mut self) {
        self.messages.close();
        if !self.is_here() {
            // A copy in a process that the host forked: workers and files are the master's.
            self.control.disown();
            return self.listeners.iter_mut().for_each(listener::Listener::disown);
        }
        // Nobody would reap them.
        self.kill_all();
        self.crew.iter().for_each(|worker| drop(worker.process.wait()));
        self.end_trial();
        self.crew.seats().for_each(|seat| drop(self.finish_stderr(seat)));
        self.board.leave();
        role::set(Role::None);
    }
}

/// The generation of the first workers.
const FIRST_GENERATION: u32 = 1;

fn rules(config: &Config) -> Rules {
    let ms = |d: Duration| d.as_millis() as u64;
    Rules {
        boot_timeout: ms(config.boot_timeout),
        drain_timeout: ms(config.drain_timeout),
        hang_timeout: ms(config.timeout),
        max_age: ms(config.max_age),
        surge: config.surge,
    }
}

/// A process can become a master that has one thread and is neither a master yet nor a worker.
fn check_process() -> Result<()> {
    let refused = |text: String| Err(Error::new(ErrorKind::State, text));
    match role::role() {
        Role::None => {}
        Role::Master => return refused("run: a server runs in this process already".into()),
        Role::Worker { id, .. } => return refused(format!("run: this process is worker {id}")),
    }
    let threads =
        process::thread_count().map_err(|e| Error::io(ErrorKind::System, "read /proc/self/task", e))?;
    if threads == 1 {
        return Ok(());
    }
    refused(format!(
        "this process has {threads} threads, expected 1: a fork copies only the calling thread; \
         call run before any thread is started"
    ))
}

fn check_kernel() -> Result<()> {
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
