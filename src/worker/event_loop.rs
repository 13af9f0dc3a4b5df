//! The worker's loop: takes connections and datagrams, runs their engines, obeys the master, drains.
//!
//! A new connection is served before it is registered with the poll: if its first request is already there and asks for the
//! close, it costs recvmsg, recv, send and close, and no more. Connections that stay are watched edge-triggered.

mod drain;
mod end;
mod handover;
mod later;
mod room;
mod streams;
mod take;

use super::WorkerSetup;
use super::call::Context;
use super::channel::{CHANNEL, Channel, LEAVE};
use super::conn::{Conn, EndReason};
use super::deadlines::Deadlines;
use super::engine::{Deadline, Next};
use super::handler::Handler;
use super::http::HttpEngine;
use super::intake::{Intake, QUEUE};
use super::linger;
use super::own_sockets::OwnSockets;
use super::stream::StreamEngine;
use super::table::{Protocol, Table};
use super::this_worker::{EXIT_FAILED, OnWake, Worker};
use super::touched::Touched;
use super::udp::DatagramEngine;
use super::wakeups;
use crate::config::Config;
use crate::event::Kind;
use crate::log::log;
use crate::message::Address;
use crate::scoreboard::Word;
use crate::sys::time::Time;
use crate::sys::{process, socket};
use mio::event::Event;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::rc::Rc;
use std::time::Duration;

/// The token of the descriptors that the handler has watched.
const WATCHES: Token = Token(usize::MAX - 4);
/// The token of what other threads of the handler have queued.
const WOKEN: Token = Token(usize::MAX - 5);
/// Events read in one turn.
const EVENTS: usize = 256;
/// Closed stream connections whose memory is kept.
const KEPT_CONNS: usize = 256;
/// Connections that a worker in blocking style keeps until their clients have closed too.
const LINGERING: u32 = 64;
/// Datagrams served in one turn before connections have theirs.
const DATAGRAMS: u32 = 16;
/// The time before a timer in which the loop waits for it exactly.
const SOON: Duration = Duration::from_millis(100);
/// The time after which a worker without a free descriptor looks for one again.
const DESCRIPTOR_CHECK: Duration = Duration::from_millis(100);

/// The state of the loop.
pub struct EventLoop<'a> {
    handler: Box<dyn Handler>,
    kind: Kind,
    /// It is the kind at all listeners.
    is_same_everywhere: bool,
    config: &'a Config,
    worker: &'static Worker,
    intake: Intake<'a>,
    channel: Channel,
    poll: &'a mut Poll,
    limit: u32,
    table: Table,
    deadlines: Deadlines,
    http: HttpEngine,
    stream: StreamEngine,
    datagrams: DatagramEngine,
    kept_conns: Vec<Rc<Conn>>,
    /// Connections whose engine has more to do than the poll reports.
    again: VecDeque<Token>,
    /// What other threads of the handler have queued, and the last turn had no time for.
    woken: VecDeque<OnWake>,
    /// Streams that a callback has written to or closed.
    touched: Touched,
    /// The room for those that are being served.
    serving: Vec<Token>,
    now: Time,
    /// The time of the last poll. A deadline that came later does not count yet: while a callback ran, what it waits for may have
    /// arrived.
    polled_at: Time,
    /// The number of times that a [`Conn`] has begun.
    count: u64,
    /// Draining has begun: the queue and the own sockets are done with, and the handler knows.
    drain_begun: bool,
    /// While draining: idle connections are closed after a short grace.
    is_closing_idle: bool,
    /// The master knows that this worker has given back what it could.
    has_given_back: bool,
    /// The deadline has come: clients take what was written, and nothing else goes on.
    is_ending: bool,
    /// The time from which on idle connections may be handed back, if the channel was full.
    hand_back_at: Time,
    /// The number of idle connections that the master knows of.
    idle: u32,
    /// Streams between this worker and others.
    moves: handover::Moves,
    /// The time at which an idle connection that can be closed is looked for again, as there was none; else never.
    search_at: Time,
}

/// The reason why an engine runs on a connection.
#[derive(Clone, Copy)]
enum Cause {
    /// There may be bytes; `ended` is true if the poll has reported the end of the client's side, or an error.
    Readable { ended: bool },
    /// The client has taken bytes.
    Writable,
    /// The connection's deadline has come.
    Deadline,
}

/// The context of the engines; a macro, since it borrows some fields and leaves the others free.
macro_rules! context {
    ($self:ident) => {
        &mut Context {
            handler: &mut *$self.handler,
            config: $self.config,
            page: $self.worker.info.page,
            now: &mut $self.now,
            draining: $self.drain_begun && !$self.channel.orders.hands_back,
        }
    };
}

use context;

/// Has the poll report what other threads of the handler queue. Returns what they have queued already.
fn open_queue(worker: &Worker, poll: &Poll) -> VecDeque<OnWake> {
    if let Err(e) = worker.info.own.woken.open(poll, WOKEN) {
        log!(Error, "eventfd: {e}");
        process::exit(EXIT_FAILED);
    }
    let mut queued = VecDeque::new();
    worker.info.own.woken.take(&mut queued);
    queued
}

impl<'a> EventLoop<'a> {
    /// A loop for at most `limit` connections.
    pub fn new(
        handler: Box<dyn Handler>,
        config: &'a Config,
        limit: u32,
        setup: WorkerSetup<'a>,
        poll: &'a mut Poll,
    ) -> Self {
        let WorkerSetup { worker, queue, own_sockets, inbox, common, wake, leave, stderr, .. } = setup;
        let (kind, takes_streams) = (handler.kind(), handler.takes_streams());
        let takes_heads = handler.takes_heads();
        let own = OwnSockets::new(own_sockets, kind == Kind::Blocking);
        let rows = if kind == Kind::Blocking { LINGERING } else { limit };
        worker.info.own.conns.set_blocking(kind == Kind::Blocking);
        worker.info.own.conns.set_most_unsent(config.limits.pending);
        let hands_over = |listener| handler.state_version_at(listener) > 0;
        worker
            .info
            .own
            .recent
            .set_keeps(takes_streams && (0..worker.info.listeners.len() as u16).any(hands_over));
        let woken = open_queue(worker, poll);
        Self {
            is_same_everywhere: handler.is_same_everywhere(),
            handler,
            kind,
            config,
            worker,
            intake: Intake::new(worker, queue, own, (common, wake), poll),
            channel: Channel::new(worker, inbox, leave, stderr, config.drain_timeout, poll),
            poll,
            limit,
            table: Table::new(rows),
            deadlines: Deadlines::new(&config.timeouts, rows),
            http: HttpEngine::new(config, takes_streams, takes_heads),
            stream: StreamEngine::default(),
            datagrams: DatagramEngine::new(),
            kept_conns: Vec::with_capacity(KEPT_CONNS),
            again: VecDeque::new(),
            woken,
            touched: Touched::default(),
            serving: Vec::new(),
            now: Time::now(),
            polled_at: Time::default(),
            count: 0,
            drain_begun: false,
            is_closing_idle: false,
            has_given_back: false,
            is_ending: false,
            hand_back_at: Time::default(),
            idle: 0,
            moves: handover::Moves::default(),
            search_at: Time::NEVER,
        }
    }

    /// Allows this worker to take connections and datagrams from its own sockets: there is no master to do it.
    pub fn take_in(&mut self) {
        self.channel.orders.takes_in = true;
    }

    /// Room for the events of a turn.
    pub fn events() -> Events {
        Events::with_capacity(EVENTS)
    }

    /// Serves until the worker has drained, and returns the handler.
    ///
    /// # Errors
    /// Those of the poll.
    pub fn serve(mut self) -> (Box<dyn Handler>, io::Result<()>) {
        let mut events = Self::events();
        while !self.is_done() {
            if let Err(e) = self.turn(&mut events, None) {
                return (self.handler, Err(e));
            }
        }
        (self.end().0, Ok(()))
    }

    /// Waits for what there is to do, at most for `longest`, and does it. Returns when there will be something to do at the latest if
    /// nothing comes; a time that has come if something was done.
    ///
    /// # Errors
    /// Those of the poll.
    #[inline(always)]
    pub fn turn(&mut self, events: &mut Events, longest: Option<Duration>) -> io::Result<Time> {
        self.publish_idle();
        if !self.intake.own.indexes().is_empty() {
            let orders = &self.channel.orders;
            let may_take = orders.takes_in && !orders.is_draining();
            self.intake.watch_own_sockets(may_take, self.accepts(), self.poll, self.now);
        }
        let first_due = self.deadlines.next();
        let (timer_due, last_timer) = self.timers();
        let due = self.wait(events, first_due, timer_due, longest)?;
        let due = if events.is_empty() { due } else { Time::default() };
        for event in &*events {
            // Before anything else: no other worker was woken for these.
            if let Some(index) = self.intake.own.find(event.token())
                && !self.intake.own.defer(index, self.now)
            {
                self.serve_own_socket(index, DATAGRAMS);
            }
        }
        if self.search_at <= self.now {
            self.search_at = Time::NEVER;
        }
        self.serve_leftovers();
        let (mut queue, mut channel, mut watches) = (false, self.channel.has_more, false);
        let mut woken = !self.woken.is_empty();
        for event in &*events {
            match event.token() {
                QUEUE => queue = true,
                CHANNEL => channel = true,
                WATCHES => watches = true,
                WOKEN => woken = true,
                LEAVE => self.channel.leave_on_signal(self.poll, self.now),
                token => self.ready(token, event),
            }
        }
        if channel {
            self.channel.read(self.poll, context!(self));
        }
        self.close_queue();
        self.run_again();
        self.channel.leave_if_due(self.now);
        if self.channel.orders.is_draining() {
            self.drain();
        } else if queue {
            self.take_messages();
        } else if self.intake.is_paused() && self.may_have_room() {
            self.intake.resume(self.poll);
        }
        self.hand_back_idle();
        self.move_streams();
        self.begin_end_if_due();
        self.tell_given_back();
        // Those set since then come later.
        if first_due <= self.polled_at {
            while let Some(index) = self.deadlines.expired(self.polled_at) {
                self.expire(index);
            }
        }
        // One that was started since then comes later; if this one was stopped, nothing is called.
        if timer_due <= self.now {
            wakeups::call_timers(self.worker, last_timer, context!(self));
        }
        if watches {
            wakeups::call_watches(self.worker, self.poll, WATCHES, context!(self));
        }
        if woken {
            wakeups::run_woken(self.worker, &mut self.woken, context!(self));
        }
        self.channel.update(self.poll, self.polled_at, context!(self));
        self.serve_touched();
        Ok(due)
    }

    /// Ends what is left. Returns the handler and the poll.
    pub fn end(mut self) -> (Box<dyn Handler>, &'a mut Poll) {
        self.worker.messages().end_requests_to(Address::Master, context!(self));
        self.end_rest();
        wakeups::end(self.worker, std::mem::take(&mut self.woken), context!(self));
        (self.handler, self.poll)
    }

    /// Ends all now, whatever the deadline: what a second signal to a server does that is one process.
    pub fn end_at_once(&mut self) {
        self.channel.orders.ends_at_once = true;
    }

    /// The time at which the next timer of the handler is due, and the number of the one that was started last.
    #[inline(always)]
    fn timers(&self) -> (Time, u64) {
        let timers = self.worker.info.own.timers.borrow();
        (timers.next_due(), timers.last())
    }

    /// True if the worker has drained.
    pub fn is_done(&self) -> bool {
        let Some(until) = self.channel.orders.drain else { return false };
        let is_over = self.drain_begun && self.table.len() == 0 && self.moves.are_settled();
        is_over || self.channel.orders.ends_at_once || self.is_ending && self.now >= until + end::LAST_MOMENT
    }

    /// Waits for events, at most until the first deadline of a connection or another time at which there is something to do, which it
    /// returns, and at most for `longest`.
    fn wait(
        &mut self,
        events: &mut Events,
        first_due: Time,
        timer_due: Time,
        longest: Option<Duration>,
    ) -> io::Result<Time> {
        let orders = &self.channel.orders;
        let own = &self.intake.own;
        // A full table has room when a connection ends or becomes idle, and not by itself.
        let lacks_descriptors = self.intake.is_paused() && !self.is_full() || own.is_paused();
        let mut due = self.channel.due().min(first_due).min(own.look_at()).min(self.search_at);
        if let Some(drain) = orders.drain {
            due = due.min(match self.is_ending {
                true => drain + end::LAST_MOMENT,
                // It has come, and streams are still going to other workers.
                false if drain <= self.now => self.now + drain::HAND_BACK_AGAIN,
                false => drain,
            });
        }
        if orders.keep.is_some() || self.moves.wait_for_channel() {
            due = due.min(self.hand_back_at);
        }
        if lacks_descriptors && !orders.is_draining() {
            due = due.min(self.now + DESCRIPTOR_CHECK);
        }
        if !self.again.is_empty() || !self.woken.is_empty() || self.moves.can_ask() {
            due = due.min(self.now);
        }
        if timer_due < due {
            // `now` may be some milliseconds old, and the timer would come so much later. The clock is read if it comes soon, not in
            // each turn: else the loop wakes before it is due, and looks again.
            due = if timer_due - self.now < SOON {
                self.now = Time::now();
                timer_due
            } else {
                timer_due.earlier_by(SOON / 2)
            };
        }
        if let Err(e) = self.worker.info.own.watches.borrow_mut().attach(self.poll, WATCHES) {
            log!(Error, "watch the handler's descriptors: {e}");
        }
        let sleep = (due != Time::NEVER).then(|| due - self.now);
        let sleep = if longest.is_some() { longest } else { sleep };
        match self.poll.poll(events, sleep) {
            Err(e) if e.kind() != io::ErrorKind::Interrupted => return Err(e),
            Err(_) => events.clear(),
            Ok(()) => {}
        }
        self.now = Time::now();
        self.polled_at = self.now;
        Ok(due)
    }

    /// The poll reports a connection.
    fn ready(&mut self, token: Token, event: &Event) {
        let Some(index) = self.table.find(token) else { return };
        if event.is_writable() && self.table.row(index).interest.is_some_and(Interest::is_writable) {
            self.run(index, Cause::Writable);
            if self.table.find(token).is_none() {
                return;
            }
        }
        let ended = event.is_read_closed() || event.is_error();
        if event.is_readable() || ended {
            self.run(index, Cause::Readable { ended });
        }
    }

    /// The deadline of a connection has come.
    fn expire(&mut self, index: u32) {
        let kind = self.deadlines.kind(index);
        if let Some(kind @ (Deadline::Write | Deadline::Idle | Deadline::Quiet)) = kind
            && self.is_taking(index)
        {
            self.deadlines.set(index, kind, true, self.now);
            return;
        }
        if kind == Some(Deadline::Write) {
            // The client cannot always see from what it gets that this is not all.
            self.table.row(index).protocol.with_fd(|fd| drop(socket::reset_on_close(fd)));
        }
        self.run(index, Cause::Deadline);
    }

    /// True if the client takes what the kernel holds for it. The poll reports that only when a third of the buffer has become free,
    /// and not at all when nothing more is to be written.
    fn is_taking(&mut self, index: u32) -> bool {
        let row = self.table.row(index);
        let unsent = row.protocol.with_fd(socket::unsent).unwrap_or(0);
        let before = std::mem::replace(&mut row.unsent, unsent);
        unsent < before && (unsent > 0 || before < u32::MAX)
    }

    /// Runs the engine of a connection.
    fn run(&mut self, index: u32, cause: Cause) {
        if let Cause::Deadline = cause {
            // Some would continue if the engine sets the same one again.
            self.deadlines.clear(index);
        }
        let row = self.table.row(index);
        let (listener, cx) = (row.listener.0, context!(self));
        let next = match (&mut row.protocol, cause) {
            (Protocol::Http(fd, conn), Cause::Readable { ended }) => {
                self.http.on_readable(fd.as_fd(), listener, conn, ended, cx)
            }
            (Protocol::Http(fd, conn), Cause::Writable) => {
                self.http.on_writable(fd.as_fd(), listener, conn, cx)
            }
            (Protocol::Http(fd, conn), Cause::Deadline) => self.http.on_deadline(fd.as_fd(), conn, cx),
            (Protocol::Stream(conn), Cause::Readable { ended }) => self.stream.on_readable(conn, ended, cx),
            (Protocol::Stream(conn), Cause::Writable) => self.stream.on_writable(conn, cx),
            (Protocol::Stream(conn), Cause::Deadline) => {
                conn.set_end_reason(EndReason::Timeout);
                Next::Close
            }
            (Protocol::Lingering(..), Cause::Deadline) => Next::Close,
            (Protocol::Later(_), _) => return self.run_later(index, cause),
            (Protocol::Lingering(fd, since), _) => linger::linger(fd.as_fd(), *since, cx),
            (Protocol::Free, _) => return,
        };
        self.apply(index, next);
    }

    /// Inlined where each request passes; others call [`EventLoop::apply_apart`].
    #[inline(always)]
    fn apply(&mut self, index: u32, next: Next) {
        match next {
            Next::Wait { deadline: Deadline::Idle, .. }
                if self.channel.orders.hands_back && self.hand_back(&[index]) => {}
            Next::Wait { write, progress, deadline } => {
                if let Err(e) = self.watch(index, write) {
                    log!(Error, "watch a connection: {e}");
                    return self.close(index);
                }
                if self.deadlines.set(index, deadline, progress, self.now) {
                    let row = self.table.row(index);
                    row.unsent = match deadline {
                        Deadline::Write => row.protocol.with_fd(socket::unsent).unwrap_or(u32::MAX),
                        _ => u32::MAX,
                    };
                }
            }
            Next::Again => {
                self.deadlines.clear(index);
                if !std::mem::replace(&mut self.table.row(index).again, true) {
                    self.again.push_back(self.table.token(index));
                }
            }
            Next::Close => self.close(index),
            Next::Linger => self.linger(index),
            Next::Later(exchange) => self.keep(index, exchange),
            Next::Pause(upload) => self.pause(index, &upload),
            Next::Answered => self.continue_http(index),
            Next::Upgrade { read, user } => self.upgrade(index, &read, user),
        }
    }

    /// Has the poll report a connection, if `write` is set also when it can be written to.
    #[inline(always)]
    fn watch(&mut self, index: u32, write: bool) -> io::Result<()> {
        let interest = if write { Interest::READABLE | Interest::WRITABLE } else { Interest::READABLE };
        let known = self.table.row(index).interest;
        if known == Some(interest) { Ok(()) } else { self.watch_anew(index, interest) }
    }

    fn watch_anew(&mut self, index: u32, interest: Interest) -> io::Result<()> {
        let token = self.table.token(index);
        let row = self.table.row(index);
        let Some(raw) = row.protocol.with_fd(|fd| fd.as_raw_fd()) else { return Ok(()) };
        let registry = self.poll.registry();
        match row.interest {
            Some(_) => registry.reregister(&mut SourceFd(&raw), token, interest)?,
            None => registry.register(&mut SourceFd(&raw), token, interest)?,
        }
        row.interest = Some(interest);
        Ok(())
    }

    /// Has the poll forget a connection that goes to another process: the open file lives on there, and so would its registration here.
    fn unwatch(&mut self, index: u32) {
        let row = self.table.row(index);
        if row.interest.take().is_some() {
            let registry = self.poll.registry();
            row.protocol.with_fd(|fd| drop(registry.deregister(&mut SourceFd(&fd.as_raw_fd()))));
        }
    }

    /// Runs the connections that had more to do than one turn.
    fn run_again(&mut self) {
        for _ in 0..self.again.len() {
            if let Some(index) = self.again.pop_front().and_then(|token| self.table.find(token)) {
                let row = self.table.row(index);
                row.again = false;
                let cause = match row.protocol {
                    // What the poll has reported of it was looked at.
                    Protocol::Later(_) => Cause::Writable,
                    _ => Cause::Readable { ended: true },
                };
                self.run(index, cause);
            }
        }
    }

    fn close(&mut self, index: u32) {
        self.deadlines.clear(index);
        // Before it counts as finished: the master must not count its place twice.
        self.publish_idle();
        match self.table.remove(index) {
            Protocol::Http(_, mut conn) => self.http.on_gone(&mut conn, context!(self)),
            Protocol::Later(answering) => {
                self.worker.info.page.take_one(Word::Later);
                self.http.on_gone_later(*answering, context!(self));
            }
            Protocol::Stream(conn) => drop(self.end_stream(conn)),
            // In blocking style it was finished when the handler was.
            Protocol::Lingering(..) if self.kind == Kind::Blocking => return,
            Protocol::Lingering(..) | Protocol::Free => {}
        }
        self.intake.finished();
    }
}
