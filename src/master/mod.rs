//! The master: owns the listeners, hands connections to workers, and watches over them. One thread, one poll, no user code.
//!
//! Each turn takes signals first, then deaths, then messages, then what is due, then connections.

mod accept;
mod courier;
mod dispatch;
mod lifecycle;
mod listener;
mod messages;
mod owner;
pub mod post;
mod reclaim;
mod slot;
mod spare;
mod spawn;
mod stop;

use crate::config::{Config, MAX_LISTENERS};
use crate::error::{Error, ErrorKind, Result};
use crate::log::log;
use crate::scoreboard::Scoreboard;
use crate::server::{OnStart, Server, Source, Started, Stopped};
use crate::sys::signal::{self, Signals};
use crate::sys::{kernel, memory, process, time};
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use post::{OnMessage, Post};
use slot::{Phase, Slot};
use std::collections::VecDeque;
use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::Duration;

const SIGNALS: Token = Token(0);
const WAKE: Token = Token(1);
const LISTENER: usize = 2;
const EXIT: usize = LISTENER + MAX_LISTENERS;

fn exit_token(slot: usize) -> Token {
    Token(EXIT + 2 * slot)
}

fn message_token(slot: usize) -> Token {
    Token(EXIT + 2 * slot + 1)
}

/// The signals the master reads; every other keeps the disposition it had.
const WATCHED: [i32; 3] = [signal::SIGTERM, signal::SIGINT, signal::SIGQUIT];
/// Since then there is all that is used here: pidfd_open(2) and waitid(2) on it, close_range(2), EPOLLEXCLUSIVE.
const NEEDED_KERNEL: (u32, u32) = (5, 10);
/// Events read in one turn.
const EVENTS: usize = 256;
/// Later than any deadline.
const NEVER: u64 = u64::MAX;

/// The state of a running master.
pub struct Master {
    config: Config,
    source: Box<dyn Source>,
    args: Vec<CString>,
    on_start: Option<OnStart>,
    on_message: Option<OnMessage>,
    post: Post,
    poll: Poll,
    signals: Option<Signals>,
    /// Workers write it to say that there is room.
    wake: OwnedFd,
    board: Scoreboard,
    spare: spare::Spare,

    listeners: Vec<listener::Listener>,
    slots: Vec<Slot>,
    /// Where round robin stands.
    cursor: usize,
    /// The one connection that was accepted when no queue would take it.
    in_hand: Option<accept::InHand>,
    orphans: VecDeque<reclaim::Orphan>,

    /// The monotonic clock (milliseconds), read once a turn.
    now: u64,
    /// When something is due next.
    timer_at: u64,
    tick_at: Option<u64>,
    /// Not to accept before this time.
    accept_at: u64,
    exhausted_since: Option<u64>,
    /// A turn was cut short: the next one must not sleep.
    more_to_do: bool,

    /// Until every worker has been ready once; a worker that fails before ends the run.
    booting: bool,
    stopping: Option<stop::Stopping>,
    /// By listener: its backlog was found empty while stopping.
    emptied: u64,
    next_id: u32,
    generation: u32,
    kind: crate::Kind,
    killed: u32,
}

/// Runs a server's master in this process until it is told to stop.
///
/// # Errors
/// As [`Server::run`].
pub fn run(server: Server) -> Result<Stopped> {
    let mut master = Master::new(server)?;
    let mut events = Events::with_capacity(EVENTS);
    master.post.open();
    let result = master.serve(&mut events);
    if result.is_err() {
        master.kill_workers(|_| true);
        master.wait_for_all(&mut events);
    }
    master.post.close();
    result
}

impl Master {
    fn new(server: Server) -> Result<Self> {
        let system = |what: &'static str| move |e: io::Error| Error::io(ErrorKind::System, what, e);
        let Server { config, mut source, args, on_start, on_message, post, .. } = server;
        check_kernel()?;
        let threads = process::thread_count().map_err(system("read /proc/self/task"))?;
        if threads != 1 {
            return Err(Error::new(
                ErrorKind::State,
                format!(
                    "this process has {threads} threads, expected 1: a fork copies only the calling thread; \
                     call run before any thread is started"
                ),
            ));
        }
        source.prepare()?;
        let workers = if config.workers == 0 { process::usable_cpus() } else { config.workers };
        let poll = Poll::new().map_err(system("epoll_create"))?;
        let signals = Signals::take(&WATCHED).map_err(system("signalfd"))?;
        let wake = memory::wake_counter().map_err(system("eventfd"))?;
        let board = Scoreboard::new(workers).map_err(system("map the scoreboard"))?;
        let listeners = listener::open_all(&config, |i| Token(LISTENER + i))?;
        let registry = poll.registry();
        for (fd, token) in [(signals.as_fd(), SIGNALS), (wake.as_fd(), WAKE)] {
            registry
                .register(&mut SourceFd(&fd.as_raw_fd()), token, Interest::READABLE)
                .map_err(system("epoll_ctl"))?;
        }
        Ok(Self {
            slots: (0..workers).map(|i| Slot::new(board.seat(i))).collect(),
            cursor: 0,
            in_hand: None,
            orphans: VecDeque::with_capacity(workers),
            now: time::monotonic_ms(),
            timer_at: 0,
            tick_at: None,
            accept_at: 0,
            exhausted_since: None,
            more_to_do: false,
            booting: true,
            stopping: None,
            emptied: 0,
            next_id: 1,
            generation: 1,
            kind: crate::Kind::Request,
            killed: 0,
            spare: spare::Spare::new(),
            config,
            source,
            args,
            on_start,
            on_message,
            post,
            poll,
            signals: Some(signals),
            wake,
            board,
            listeners,
        })
    }

    fn serve(&mut self, events: &mut Events) -> Result<Stopped> {
        while !self.has_stopped() {
            self.turn(events)?;
        }
        Ok(Stopped { killed: self.killed })
    }

    /// One turn of the loop.
    fn turn(&mut self, events: &mut Events) -> Result<()> {
        self.wait(events)?;
        let mut acceptable = 0u64;
        for event in events.iter() {
            match event.token() {
                SIGNALS => self.take_signals(),
                WAKE => {}
                Token(t) if t < EXIT => acceptable |= 1 << (t - LISTENER),
                _ => {}
            }
        }
        for slot in slots_of(events, 0) {
            self.reap(slot)?;
        }
        for slot in slots_of(events, 1) {
            self.mark_channel(slot);
        }
        self.carry_messages(acceptable != 0);
        if self.now >= self.timer_at {
            self.run_timers()?;
        }
        if self.booting {
            self.finish_boot();
        }
        while acceptable != 0 {
            let index = acceptable.trailing_zeros() as usize;
            acceptable &= acceptable - 1;
            if self.listeners.get(index).is_some_and(listener::Listener::is_watched) {
                self.accept_from(index);
            }
        }
        self.serve_waiting();
        self.go_on_stopping();
        Ok(())
    }

    fn wait(&mut self, events: &mut Events) -> Result<()> {
        self.settle_channels();
        let messages = self.post.borrow();
        let more_to_do = self.more_to_do || messages.is_busy();
        let due = messages.due().unwrap_or(NEVER).min(self.timer_at);
        drop(messages);
        let sleep = match due {
            _ if more_to_do => Some(Duration::ZERO),
            NEVER => None,
            at => Some(Duration::from_millis(at.saturating_sub(self.now))),
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
                Ok(Some(_)) => self.stop(),
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
    fn run_timers(&mut self) -> Result<()> {
        self.timer_at = NEVER;
        if self.tick_at.is_some_and(|at| at <= self.now) {
            self.look_for_stuck();
        }
        if self.exhausted_since.is_some() && self.accept_at + 1000 < self.now {
            self.exhausted_since = None;
        }
        self.kill_late_starters();
        self.spawn_missing_workers()?;
        self.arm_for_state();
        Ok(())
    }

    fn arm_for_state(&mut self) {
        let boot = self.config.boot_timeout.as_millis() as u64;
        let due = self.slots.iter().filter_map(|s| match &s.worker {
            Some(w) if w.phase == Phase::Starting && boot > 0 => Some(w.since + boot),
            Some(_) => None,
            None if self.stopping.is_none() => s.start_at,
            None => None,
        });
        let stop = match self.stopping {
            Some(stop::Stopping::Emptying { until } | stop::Stopping::Draining { until }) => Some(until),
            _ => None,
        };
        let rest = self.exhausted_since.map(|_| self.accept_at.max(self.now) + 1001);
        let rest_end = (self.accept_at > self.now).then_some(self.accept_at);
        let next = due.chain(stop).chain(rest).chain(rest_end).chain(self.tick_at).min();
        self.arm(next.unwrap_or(NEVER));
    }

    fn finish_boot(&mut self) {
        if self.stopping.is_some() || self.ready() < self.slots.len() {
            return;
        }
        self.booting = false;
        let started = Started {
            addresses: self.listeners.iter().map(|l| l.address.to_string()).collect(),
            workers: self.slots.len(),
            kind: self.kind,
        };
        if let Some(f) = &mut self.on_start {
            f(&started);
        }
    }

    /// After a failed start: collects every worker that was started.
    fn wait_for_all(&mut self, events: &mut Events) {
        self.stopping = Some(stop::Stopping::Killing);
        loop {
            // Before the first wait: the turn that failed may have seen more deaths than the one it failed at.
            for slot in 0..self.slots.len() {
                let _ = self.reap(slot);
            }
            if self.has_stopped() || self.wait(events).is_err() {
                return;
            }
        }
    }
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

/// The slots whose tokens of one kind (0: exit, 1: message) are among the events.
fn slots_of(events: &Events, kind: usize) -> impl Iterator<Item = usize> + '_ {
    events.iter().filter_map(move |event| {
        let offset = event.token().0.checked_sub(EXIT)?;
        (offset % 2 == kind).then_some(offset / 2)
    })
}
