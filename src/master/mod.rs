//! The master: owns the listeners, hands connections to workers, and supervises them. One thread, one poll, no user code.
//!
//! It connects owners that know nothing of each other: the lifecycle decides about workers, the pool about connections, the router
//! carries messages. Each turn of its loop handles signals first, then deaths, then messages, then what is due, then connections.

mod commands;
#[cfg(feature = "control")]
mod control;
#[cfg(not(feature = "control"))]
#[path = "control_stub.rs"]
mod control;
mod crashes;
mod departures;
mod descriptors;
mod fd_reserve;
mod kept;
mod kernel;
pub mod lifecycle;
mod messages;
pub mod one_process;
mod orphans;
mod pool;
mod programs;
mod report;
mod restart;
pub mod router;
mod scheduling;
mod sockets;
mod spawn;
mod start;
mod stderr_capture;
mod supervise;
mod token;
mod upgrade;

use crate::config::Config;
use crate::error::{Error, ErrorKind, Result};
use crate::event::{Event, Started, Stopped};
use crate::ids::{Generation, Slot};
use crate::log::log;
use crate::message::{Envelope, OnReply, Undelivered};
use crate::role::{self, Role};
use crate::scoreboard::Scoreboard;
use crate::sys::signal::{self, Signals};
use crate::sys::time::Time;
use crate::sys::{poll, process};
use crate::worker::source::{BUILT_IN, Source};
use kernel::Kernel;
use lifecycle::{Input, Lifecycle};
use mio::{Events, Poll};
use pool::Pool;
use router::Messages;
pub use start::check_host;
use std::collections::BTreeMap;
use std::ffi::CString;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::Duration;
use token::{Token, tokens};
pub use upgrade::{end_trial, is_trial};

/// News for the host.
pub enum News {
    /// Every worker is ready for the first time.
    Started(Started),
    Event(Event),
    /// A reload to this generation is about to begin, unless the host refuses it ([`Master::refuse_reload`]).
    Reload(Generation),
    /// A message of a worker to the host.
    Message(Envelope, Vec<u8>),
    /// A request of the host is over: its callback, and the result to call it with.
    Reply(OnReply, std::result::Result<Vec<u8>, Undelivered>),
}

/// A running master.
pub struct Master {
    /// The process of this master. A fork of it has a copy of this, and may become a master of its own.
    home: i32,
    /// The name shown by `prefork ls`.
    name: String,
    config: Config,
    source: Box<dyn Source>,
    poll: Poll,
    /// `None` during a step.
    events: Option<Events>,
    /// `None` if children that the master has not started are none of its business. Before `signals`, so that the mask is restored in
    /// the reverse order.
    orphans: Option<orphans::Orphans>,
    /// `None` if the host reads signals itself.
    signals: Option<Signals>,
    /// The scheduling policy; that of `--scheduling batch` is inherited by workers.
    scheduling: scheduling::Policy,
    clock: Clock,
    lifecycle: Lifecycle,
    /// Why the first workers could not start.
    failed: Option<Error>,
    pool: Pool<Kernel>,
    births: Births,
    stderr: stderr_capture::StderrCapture,
    messages: Messages,
    control: control::ControlServer,
    report: report::Report,
    upgrade: upgrade::Upgrade,
    programs: programs::Programs,
}

/// The master's part of new workers.
struct Births {
    /// The handler's arguments.
    args: Vec<CString>,
    /// By slot: variables for its workers.
    environments: BTreeMap<Slot, Vec<(String, String)>>,
    board: Scoreboard,
    /// The eventfd that workers write to when they have room again.
    wake: OwnedFd,
}

/// The master's time.
struct Clock {
    /// The monotonic clock as it was last read.
    now: Time,
    /// When the first program in this process became the master.
    born: Time,
}

impl Master {
    /// True if this process is this master, and not a copy of it.
    pub fn is_here(&self) -> bool {
        role::role() == Role::Master && process::own_pid() == self.home
    }

    /// Runs one turn of the loop, which waits for events for at most `patience`; `None` is forever. Returns the end of the run once
    /// it has ended.
    ///
    /// # Errors
    /// As [`crate::Server::run`]; every worker that was started has ended then.
    pub fn step(&mut self, patience: Option<Duration>) -> Result<Option<Stopped>> {
        let Some(mut events) = self.events.take() else { return Ok(None) };
        self.report_setup();
        let result = self.turn(&mut events, patience);
        if result.is_err() {
            self.messages.close();
            self.end_workers();
            self.report.announced = None;
        }
        self.events = Some(events);
        result?;
        if !self.lifecycle.has_stopped() || self.upgrade.has_trial() {
            return Ok(None);
        }
        self.tell_verdict();
        let stopped = Stopped { killed: self.lifecycle.killed(), cut: self.lifecycle.cut() };
        self.publish(Event::Stopped { killed: stopped.killed, cut: stopped.cut });
        self.control.close(stopped, self.clock.now);
        Ok(Some(stopped))
    }

    /// The file of the handler: that of the module, or the program.
    fn handler(&self) -> String {
        match self.source.name() {
            BUILT_IN => self.upgrade.path().to_string_lossy().into_owned(),
            module => module.to_owned(),
        }
    }

    /// Has [`Master::next_news`] return events too, from now on.
    pub fn keep_events(&mut self) {
        self.report.wants_events = true;
    }

    /// Takes the oldest news for the host.
    pub fn next_news(&mut self) -> Option<News> {
        self.report.news.pop_front()
    }

    /// Returns how long the next step may be delayed while [`Master::descriptor`] is not readable; `None` is forever.
    pub fn timeout(&self) -> Option<Duration> {
        match self.due() {
            // Only the start of a turn has the poll watch message channels for what is wanted now.
            _ if self.pool.has_more || self.report.announced.is_some() => Some(Duration::ZERO),
            _ if self.messages.router().has_stale_interests() => Some(Duration::ZERO),
            Time::NEVER => None,
            at => Some(at - Time::now()),
        }
    }

    /// The descriptor that is readable when a step is needed.
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        poll::descriptor(&self.poll)
    }

    fn turn(&mut self, events: &mut Events, patience: Option<Duration>) -> Result<()> {
        self.wait(events, patience)?;
        for token in tokens(events) {
            match token {
                Token::Signals => self.read_signals(),
                Token::Orphans => self.note_orphans(),
                _ => {}
            }
        }
        // A death is known before the worker's last messages are acted on, and both before anything is accepted.
        for token in tokens(events) {
            if let Token::Exit(page) = token {
                self.reap(page);
            }
        }
        for token in tokens(events) {
            if let Token::Messages(page) = token {
                self.mark_channel(page);
            }
        }
        let connections_wait = tokens(events).any(|token| matches!(token, Token::Listener(_)));
        self.carry_messages(connections_wait);
        for token in tokens(events) {
            match token {
                Token::Stderr(page) => self.read_stderr(page),
                Token::Returns(page) => self.pool.mark_returns(page, &self.poll),
                Token::Program(page) => self.read_program(page),
                _ => {}
            }
        }
        self.look_at_verdict();
        self.serve_control(events);
        self.run_timers();
        self.divide_sockets();
        for token in tokens(events) {
            if let Token::Listener(listener) = token {
                self.pool.accept_from(listener, &self.poll);
            }
        }
        self.pool.serve_waiting(&self.lifecycle, &self.poll);
        self.tell_settled();
        if self.pool.has_emptied_backlogs() {
            self.feed(Input::Emptied);
        }
        self.advance_upgrade();
        self.reap_orphans();
        self.failed.take().map_or(Ok(()), Err)
    }

    /// Waits for an event or until something is due, at most for `patience`.
    fn wait(&mut self, events: &mut Events, patience: Option<Duration>) -> Result<()> {
        self.messages.router().update_poll(&self.poll);
        let sleep = match self.due() {
            _ if self.pool.has_more || self.report.announced.is_some() => Some(Duration::ZERO),
            Time::NEVER => patience,
            at => Some(patience.map_or(at - self.clock.now, |patience| patience.min(at - self.clock.now))),
        };
        match self.poll.poll(events, sleep) {
            Err(e) if e.kind() != io::ErrorKind::Interrupted => {
                return Err(Error::io(ErrorKind::System, "epoll_wait", e));
            }
            Err(_) => events.clear(),
            Ok(()) => {}
        }
        self.read_clock();
        self.scheduling.note_turn(self.clock.now, self.pool.accepted);
        Ok(())
    }

    /// Reads the clock: once a turn, and before a command of the host, to which the last turn may be long ago.
    pub fn read_clock(&mut self) {
        self.clock.now = Time::now();
        self.pool.begin_turn(self.clock.now);
    }

    /// The time at which a turn is needed even if the poll reports nothing.
    fn due(&self) -> Time {
        let others = self.messages.router().due().min(self.control.due()).min(self.upgrade.due());
        let others = others.min(self.programs.due());
        let verdict = self.report.departures.due(self.clock.now);
        self.lifecycle.due().min(self.pool.due()).min(others).min(verdict)
    }

    fn read_signals(&mut self) {
        while let Some(signals) = &self.signals {
            let (number, is_sent) = match signals.next() {
                Ok(Some(signal)) => signal,
                Ok(None) => return,
                Err(e) => return log!(Error, "read signals: {e}"),
            };
            match number {
                // Scripts that rotate logs send it to any server, and its default action would end this process.
                signal::SIGUSR1 => log!(Info, "SIGUSR1: there are no log files to reopen; nothing done"),
                signal::SIGUSR2 => {
                    if let Err(e) = self.request_upgrade() {
                        log!(Warn, "{e}");
                    }
                }
                signal::SIGHUP => {
                    self.control.restore(&self.poll, self.clock.now);
                    self.feed(Input::Reload);
                }
                // The kernel sends these two to a background job that uses its terminal (termios(3)).
                signal::SIGTTIN | signal::SIGTTOU if !is_sent => {}
                signal::SIGTTIN => self.scale_on_signal("SIGTTIN", self.lifecycle.slots() + 1),
                signal::SIGTTOU => self.scale_on_signal("SIGTTOU", self.lifecycle.slots().max(2) - 1),
                _ => self.feed(Input::Interrupt),
            }
        }
    }

    fn scale_on_signal(&mut self, signal: &str, workers: usize) {
        if !self.lifecycle.is_stopping()
            && let Err(e) = self.scale(workers)
        {
            log!(Warn, "{signal}: {e}; nothing done");
        }
    }

    /// Does all that is due.
    fn run_timers(&mut self) {
        if self.pool.due() <= self.clock.now {
            let findings = self.pool.run_timers(&self.lifecycle, &self.poll);
            self.act_on_findings(findings);
        }
        if self.programs.due() <= self.clock.now {
            self.run_program_timers();
        }
        if self.lifecycle.due() <= self.clock.now {
            // Before the tick, so that no worker is blamed for a call that has returned meanwhile.
            let mut inputs = Vec::new();
            self.pool.report_calls(&mut inputs);
            inputs.push(Input::Tick);
            inputs.into_iter().for_each(|input| self.feed(input));
        }
    }
}

impl Drop for Master {
    fn drop(&mut self) {
        self.messages.close();
        if !self.is_here() {
            // A copy in a process that the host forked: workers and files are the master's.
            self.control.disown();
            return self.pool.listeners.iter_mut().for_each(sockets::Listener::disown);
        }
        self.end_workers();
        self.upgrade.end_trial();
        self.births.board.release();
        role::set(Role::None);
    }
}
