//! Workers that are programs of their own: how they are started, what they say, how they are told to finish.
//!
//! A Node program has a channel on which the master plays the primary of Node's cluster (`channel.rs`, `wire.rs`). Any other has the
//! listening sockets, and says that it is ready by a datagram (sd_notify(3)), or counts as ready after a time.

pub mod channel;
mod listeners;
mod notify;
mod wire;

use super::kernel::{Kernel, WorkerLink, WorkerQueue};
use super::lifecycle::Input;
use super::pool::{Pool, WorkerEntry};
use super::token::Token;
use super::{Master, sockets};
use crate::config::{Protocol, Ready};
use crate::error::{Error, ErrorKind, Result};
use crate::event::{Exit, Kind};
use crate::ids::{ListenerId, Page, WorkerId};
use crate::log::log;
use crate::sys::exec::{Failure, OWN_PID};
use crate::sys::fdpass;
use crate::sys::poll::{self, Interest};
use crate::sys::signal::{SIGKILL, SIGTERM};
use crate::sys::time::Time;
use crate::worker::source::Numbers;
use channel::{Event, NodeChannel, WINDOW};
use listeners::Asked;
use notify::NotifySocket;
use std::collections::BTreeMap;
use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, SystemTime};

/// The number of the first descriptor that a program gets beyond the standard ones.
const FIRST_DESCRIPTOR: u32 = 3;
/// The rest of a worker that did not accept a connection, doubled each time ...
const FIRST_REST: Duration = Duration::from_millis(10);
/// ... up to this.
const LAST_REST: Duration = Duration::from_millis(160);
/// The time that a worker has to end by itself once it has finished what it had and closed its channel. Timers or connections of its own,
/// to a database for instance, may keep it.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// All workers that are programs.
#[derive(Default)]
pub struct Programs {
    children: BTreeMap<Page, Child>,
    /// The listeners that Node programs have asked for.
    asked: Vec<Asked>,
}

/// A worker that is a program.
struct Child {
    worker: WorkerId,
    /// Says why it could not be executed; `None` once it runs.
    failure: Option<Failure>,
    /// By which it says that it is ready.
    notify: Option<NotifySocket>,
    /// When it counts as ready.
    ready_at: Time,
    /// True if it was told to finish, or said itself that it does.
    is_leaving: bool,
    /// The time until which it gets nothing, as it did not accept a connection.
    rests_until: Time,
    rest: Duration,
    /// When it gets the signal to end, since it has finished what it had and does not end by itself.
    end_at: Time,
    /// True if the poll watches its channel, and if for room too.
    watched: Option<Interest>,
}

impl Child {
    fn due(&self) -> Time {
        self.ready_at.min(self.rests_until).min(self.end_at)
    }
}

impl Programs {
    /// The time at which [`Master::run_program_timers`] has something to do.
    pub fn due(&self) -> Time {
        self.children.values().map(Child::due).min().unwrap_or(Time::NEVER)
    }
}

impl Master {
    /// Starts a worker that is a program.
    pub(super) fn spawn_program(
        &mut self,
        protocol: Protocol,
        page: Page,
        worker: Numbers,
    ) -> io::Result<()> {
        let Numbers { id, slot, generation } = worker;
        let mut command = self.source.command(worker).map_err(io::Error::other)?;
        let mut add = |name: &str, value: &str| {
            // Neither has a NUL in it.
            command.environment.extend(CString::new(format!("{name}={value}")));
        };
        for (name, value) in self.births.environments.get(&slot).into_iter().flatten() {
            add(name, value);
        }
        let counters = self.births.board.page(page);
        counters.clear();
        let pair = if protocol == Protocol::Node { Some(fdpass::stream_pair()?) } else { None };
        let mut notify = None;
        let mut passed: Vec<BorrowedFd<'_>> = Vec::new();
        match &pair {
            Some((_, theirs)) => {
                passed.push(theirs.as_fd());
                add("NODE_CHANNEL_FD", &FIRST_DESCRIPTOR.to_string());
                add("NODE_CHANNEL_SERIALIZATION_MODE", "json");
                add("NODE_UNIQUE_ID", &id.to_string());
            }
            None => {
                let sockets = self.pool.listeners.iter().filter_map(|listener| listener.socket_for(slot));
                passed.extend(sockets);
                let names = self.pool.listeners.iter().map(|listener| match listener.name.as_str() {
                    "" => "unknown",
                    name => name,
                });
                add("LISTEN_FDS", &passed.len().to_string());
                add("LISTEN_FDNAMES", &names.collect::<Vec<_>>().join(":"));
                add("LISTEN_PID", OWN_PID);
                let socket = NotifySocket::open(id)?;
                add("NOTIFY_SOCKET", socket.name());
                notify = Some(socket);
            }
        }
        let stderr = self.stderr.open(id, page, &self.poll);
        let started = command.start(stderr.as_ref().map(AsFd::as_fd), &passed);
        if started.is_err() {
            self.finish_stderr(page);
        }
        let started = started?;
        let queue = match pair {
            Some((ours, theirs)) => WorkerQueue::Node(NodeChannel::new(ours, theirs, counters)),
            None => WorkerQueue::Own,
        };
        let after = self.config.ready_after;
        let waits = protocol != Protocol::Node && !after.is_zero();
        let mut child = Child {
            worker: id,
            failure: Some(started.failure),
            notify,
            ready_at: if waits { self.clock.now + after } else { Time::NEVER },
            is_leaving: false,
            rests_until: Time::NEVER,
            rest: Duration::ZERO,
            end_at: Time::NEVER,
            watched: None,
        };
        let link = WorkerLink { process: started.process, page: counters, leads_group: true };
        let entry = WorkerEntry::new(id, slot, generation, link, queue, self.max_requests_of(id));
        let serves = if protocol == Protocol::Node { 0 } else { u64::MAX };
        self.add_worker(page, WorkerEntry { started: SystemTime::now(), serves, ..entry })?;
        let token = Token::Program(page).into();
        let poll = &self.poll;
        let watched = match (&child.notify, node_channel(&mut self.pool, page)) {
            (Some(notify), _) => poll::watch_level(poll, notify.as_fd(), token),
            (None, Some(channel)) => channel.with_descriptor(|fd| poll::watch_level(poll, fd, token)),
            (None, None) => Ok(()),
        };
        match watched {
            Ok(()) => child.watched = Some(Interest::READ),
            // It is never ready then, and is killed for that.
            Err(e) => log!(Error, "worker {id}: watch its channel: {e}"),
        }
        self.programs.children.insert(page, child);
        Ok(())
    }

    /// Reads what a program has said, which the poll has reported.
    pub(super) fn read_program(&mut self, page: Page) {
        let longest = self.config.max_message;
        let Some(channel) = node_channel(&mut self.pool, page) else { return self.read_notifications(page) };
        channel.flush();
        let end = channel.fill(longest).err();
        while let Some(event) = node_channel(&mut self.pool, page).and_then(NodeChannel::next) {
            self.act_on_node(page, event);
        }
        if let Some(event) = end {
            self.act_on_node(page, event);
        }
        self.update_program(page);
    }

    /// After the channel of a program was read or written: has others get what it did not accept, and watches for what is wanted.
    fn update_program(&mut self, page: Page) {
        let Some(channel) = node_channel(&mut self.pool, page) else { return };
        let (has_refused, has_accepted, has_unsent) =
            (channel.has_refused(), channel.has_accepted(), channel.has_unsent());
        if has_refused {
            self.pool.mark_returns(page, &self.poll);
        }
        let Some(child) = self.programs.children.get_mut(&page) else { return };
        if has_accepted && child.rests_until == Time::NEVER {
            child.rest = Duration::ZERO;
            if let Some(worker) = self.pool.workers.at(page).filter(|worker| worker.kind.is_some()) {
                worker.limit = WINDOW;
            }
        }
        let wanted = if has_unsent { Interest::BOTH } else { Interest::READ };
        let Some(child) = self.programs.children.get_mut(&page) else { return };
        if child.watched.is_some_and(|watched| watched != wanted) {
            child.watched = Some(wanted);
            if let Some(channel) = node_channel(&mut self.pool, page) {
                let token = Token::Program(page).into();
                let _ = channel.with_descriptor(|fd| poll::rewatch_level(&self.poll, fd, token, wanted));
            }
        }
    }

    fn act_on_node(&mut self, page: Page, event: Event) {
        let Some(worker) = self.pool.workers.at(page) else { return };
        let id = worker.id;
        match event {
            Event::Online => self.report_online(id),
            Event::Query(query) => self.answer_query(page, &query),
            Event::Listening if self.config.ready == Ready::Auto => self.program_is_ready(page),
            Event::Listening => {}
            Event::Close(listener) => worker.serves &= !(1u64.checked_shl(listener.0.into()).unwrap_or(0)),
            Event::Leaves => {
                if let Some(child) = self.programs.children.get_mut(&page) {
                    child.is_leaving = true;
                }
                self.feed(Input::Leaving(id));
            }
            // It has closed that listener: others have it.
            Event::Refused(listener) if !worker.serves(listener) => {}
            Event::Refused(_) => {
                worker.limit = 0;
                if let Some(child) = self.programs.children.get_mut(&page) {
                    child.rest = (2 * child.rest).clamp(FIRST_REST, LAST_REST);
                    child.rests_until = self.clock.now + child.rest;
                }
            }
            Event::Message(text) => {
                if self.config.ready == Ready::Message && text == wire::READY {
                    self.program_is_ready(page);
                }
                self.report_message(id, 0, text.len());
            }
            Event::Closed => {
                self.unwatch_program(page);
                // Node closes it when the last connection has ended, and ends then, in general.
                if let Some(child) = self.programs.children.get_mut(&page) {
                    child.end_at = self.clock.now + LAST_WORDS;
                }
            }
            Event::Broken(why) => {
                worker.failure.get_or_insert(why);
                self.unwatch_program(page);
                self.signal(id, SIGKILL);
            }
        }
    }

    fn read_notifications(&mut self, page: Page) {
        let Some(child) = self.programs.children.get_mut(&page) else { return };
        let (Some(notify), id) = (&child.notify, child.worker) else { return };
        let said = notify.read();
        if said.stopping && !child.is_leaving {
            child.is_leaving = true;
            self.feed(Input::Leaving(id));
        }
        if said.ready {
            self.program_is_ready(page);
        }
    }

    /// A program can serve from now on.
    fn program_is_ready(&mut self, page: Page) {
        if let Some(child) = self.programs.children.get_mut(&page) {
            (child.ready_at, child.failure) = (Time::NEVER, None);
        }
        let Some(worker) = self.pool.workers.at(page) else { return };
        let id = worker.id;
        if !self.lifecycle.is_starting(id) {
            return;
        }
        (worker.kind, worker.limit) = (Some(Kind::Stream), WINDOW);
        self.report.kind = Kind::Stream;
        self.report.kinds = vec![Kind::Stream; self.pool.listeners.len()];
        if matches!(worker.queue, WorkerQueue::Own) {
            self.report_online(id);
        }
        self.feed(Input::Ready(id));
    }

    /// Does what is due for programs.
    pub(super) fn run_program_timers(&mut self) {
        let now = self.clock.now;
        let due: Vec<Page> = (self.programs.children.iter())
            .filter(|(_, child)| child.due() <= now)
            .map(|(page, _)| *page)
            .collect();
        for page in due {
            let Some(child) = self.programs.children.get_mut(&page) else { continue };
            let id = child.worker;
            if child.rests_until <= now {
                child.rests_until = Time::NEVER;
                // One, to see if it has room again.
                self.pool.workers.at(page).into_iter().for_each(|worker| worker.limit = 1);
            }
            let ends = child.end_at <= now;
            child.end_at = if ends { Time::NEVER } else { child.end_at };
            let ready = child.ready_at <= now;
            child.ready_at = if ready { Time::NEVER } else { child.ready_at };
            if ends {
                self.signal(id, self.stop_signal());
            }
            if ready {
                self.program_is_ready(page);
            }
        }
    }

    /// Tells a program to finish; `at_once` if its time for that is over.
    pub(super) fn drain_program(&mut self, id: WorkerId, at_once: bool) {
        let Some(page) = self.pool.workers.page_of(id) else { return };
        let signal = self.stop_signal();
        let is_given = self.config.stop_signal != 0;
        let with_shutdown = self.config.shutdown_message;
        let Some(child) = self.programs.children.get_mut(&page) else { return };
        let was_leaving = std::mem::replace(&mut child.is_leaving, true);
        // What it has stays with it.
        if let Some(drain) = self.pool.workers.at(page).and_then(|worker| worker.drain.as_mut()) {
            drain.settled = true;
        }
        let channel = node_channel(&mut self.pool, page).filter(|_| !at_once);
        let Some(channel) = channel else { return self.signal(id, signal) };
        if with_shutdown {
            channel.send(wire::SHUTDOWN);
        }
        // One that leaves by its own decision has closed everything already.
        if !was_leaving {
            channel.send(wire::DISCONNECT);
        }
        channel.finish();
        if is_given {
            self.signal(id, signal);
        }
        self.update_program(page);
    }

    /// The signal that has a program finish.
    fn stop_signal(&self) -> i32 {
        if self.config.stop_signal == 0 { SIGTERM } else { self.config.stop_signal }
    }

    /// True if a program has ended by the signal that has it finish; a shell says so by its exit code.
    pub(super) fn is_stop_signal(&self, exit: Exit) -> bool {
        let signal = self.stop_signal();
        self.source.protocol().is_some()
            && match exit {
                Exit::Signal { number, .. } => number == signal,
                Exit::Code(code) => code == 128 + signal,
                Exit::Unknown => false,
            }
    }

    /// Before a worker is reaped: ends what is left of its process group.
    pub(super) fn end_group(&mut self, page: Page) {
        if let Some(worker) = self.pool.workers.at(page)
            && worker.link.leads_group
        {
            worker.link.process.kill_group();
        }
    }

    /// A worker was reaped: reads its last answers, and notes why it could not be executed.
    pub(super) fn close_program(&mut self, page: Page) {
        if let Some(channel) = node_channel(&mut self.pool, page) {
            channel.end();
        }
        self.unwatch_program(page);
        let Some(child) = self.programs.children.remove(&page) else { return };
        let Some((step, why)) = child.failure.as_ref().and_then(Failure::take) else { return };
        let what = match step {
            "exec" => format!("start {}", self.source.name()),
            "chdir" => format!("start {}: cwd {}", self.source.name(), self.config.cwd.display()),
            step => format!("start {}: {step}", self.source.name()),
        };
        if let Some(worker) = self.pool.workers.at(page) {
            worker.failure = Some(Error::io(ErrorKind::Handler, what, why).to_string());
        }
    }

    fn unwatch_program(&mut self, page: Page) {
        let Some(child) = self.programs.children.get_mut(&page) else { return };
        if child.watched.take().is_none() {
            return;
        }
        if let Some(notify) = &child.notify {
            let _ = poll::unwatch(&self.poll, notify.as_fd());
        }
        if let Some(channel) = node_channel(&mut self.pool, page) {
            let _ = channel.with_descriptor(|fd| poll::unwatch(&self.poll, fd));
        }
    }

    /// Asks for an upgrade.
    ///
    /// # Errors
    /// As [`super::upgrade::Upgrade::request`]; workers that are programs.
    pub(super) fn request_upgrade(&mut self) -> Result<()> {
        if self.source.protocol().is_some() {
            let text = "upgrade: a server whose workers are programs cannot be upgraded; it continues";
            return Err(Error::new(ErrorKind::State, text));
        }
        self.upgrade.request()
    }

    /// Opens the addresses of a server at its start.
    ///
    /// # Errors
    /// As [`sockets::open_all`].
    pub(super) fn open_listeners(
        config: &crate::config::Config,
        protocol: Option<Protocol>,
        workers: usize,
        token: impl Fn(usize) -> mio::Token,
    ) -> Result<Vec<sockets::Listener>> {
        // A Node program says itself where it listens.
        let asks = protocol == Some(Protocol::Node) && config.listen.is_empty();
        if asks {
            return Ok(Vec::new());
        }
        let mut listeners = sockets::open_all(config, workers, token)?;
        let left = protocol == Some(Protocol::ListenFds);
        listeners.iter_mut().for_each(|listener| listener.left_to_workers = left);
        Ok(listeners)
    }

    /// The token of a listener.
    fn token_of(listener: ListenerId) -> mio::Token {
        Token::Listener(listener).into()
    }
}

/// The channel of the worker of a page, if that is a Node program.
fn node_channel(pool: &mut Pool<Kernel>, page: Page) -> Option<&NodeChannel> {
    match &pool.workers.at(page)?.queue {
        WorkerQueue::Node(channel) => Some(channel),
        _ => None,
    }
}
