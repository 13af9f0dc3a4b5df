//! The worker's loop: takes connections and datagrams, runs their engines, obeys the master, drains.
//!
//! A new connection is served before it is registered with the poll: if its first request is already there and asks for the
//! close, it costs recvmsg, recv, send and close, and no more. Connections that stay are watched edge-triggered.

mod later;
mod room;

use super::WorkerSetup;
use super::call::Context;
use super::channel::{CHANNEL, Channel, LEAVE};
use super::conn::{Conn, Style, Touched};
use super::deadlines::Deadlines;
use super::engine::{Deadline, Next};
use super::failure::{PANICKED, report, report_panic};
use super::handler::Handler;
use super::http::{HttpConn, HttpEngine};
use super::intake::{Intake, QUEUE};
use super::linger;
use super::own_sockets::OwnSockets;
use super::stream::{StreamEngine, drop_user};
use super::table::{Protocol, Table};
use super::this_worker::{EXIT_FAILED, OnWake, Worker};
use super::udp::DatagramEngine;
use super::user::User;
use super::wakeups;
use crate::config::Config;
use crate::event::Kind;
use crate::handoff::{self, Origin, Taken};
use crate::ids::ListenerId;
use crate::log::log;
use crate::message::Address;
use crate::scoreboard::Word;
use crate::sys::time::Time;
use crate::sys::{process, socket};
use mio::event::Event;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use room::Place;
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::rc::Rc;
use std::time::Duration;

/// The token of the descriptors that the handler has watched.
const WATCHES: Token = Token(usize::MAX - 4);
/// The token of what other threads of the handler have queued.
const WOKEN: Token = Token(usize::MAX - 5);
/// Events read in one turn.
const EVENTS: usize = 256;
/// Messages with connections that are taken in one turn, if it is longer than this.
const MESSAGES: u32 = 16;
const LONG_TURN: Duration = Duration::from_millis(2);
/// Closed stream connections whose memory is kept.
const KEPT_CONNS: usize = 256;
/// Connections that a worker in blocking style keeps until their clients have closed too.
const LINGERING: u32 = 64;
/// The time after which handing back is tried again if the channel to the master was full.
const HAND_BACK_AGAIN: Duration = Duration::from_millis(5);
/// Datagrams served in one turn before connections have theirs.
const DATAGRAMS: u32 = 16;
/// Datagrams served at the end, when what a socket still holds would be lost.
const LAST_DATAGRAMS: u32 = 1 << 16;
/// Times in one turn that streams are served to which callbacks have written since the last time.
const ROUNDS: u32 = 8;
/// The time before a timer in which the loop waits for it exactly.
const SOON: Duration = Duration::from_millis(100);
/// The time after which a worker without a free descriptor looks for one again.
const DESCRIPTOR_CHECK: Duration = Duration::from_millis(100);

/// The state of the loop.
pub struct EventLoop<'a> {
    handler: &'a mut dyn Handler,
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
    /// The time from which on idle connections may be handed back, if the channel was full.
    hand_back_at: Time,
    /// The number of idle connections that the master knows of.
    idle: u32,
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
            handler: $self.handler,
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
    if let Err(e) = worker.info.woken.open(poll, WOKEN) {
        log!("worker {}: eventfd: {e}", worker.id());
        process::exit(EXIT_FAILED);
    }
    let mut queued = VecDeque::new();
    worker.info.woken.take(&mut queued);
    queued
}

impl<'a> EventLoop<'a> {
    /// A loop for at most `limit` connections.
    pub fn new(
        handler: &'a mut dyn Handler,
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
        worker.info.conns.set_blocking(kind == Kind::Blocking);
        worker.info.conns.set_most_unsent(config.limits.pending);
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
            hand_back_at: Time::default(),
            idle: 0,
            search_at: Time::NEVER,
        }
    }

    /// Serves until the worker has drained.
    ///
    /// # Errors
    /// Those of the poll.
    pub fn serve(mut self) -> io::Result<()> {
        let mut events = Events::with_capacity(EVENTS);
        while !self.is_done() {
            self.publish_idle();
            if !self.intake.own.indexes().is_empty() {
                let orders = &self.channel.orders;
                let may_take = orders.takes_in && !orders.is_draining();
                self.intake.watch_own_sockets(may_take, self.accepts(), self.poll, self.now);
            }
            let first_due = self.deadlines.next();
            let (timer_due, last_timer) = self.timers();
            self.wait(&mut events, first_due, timer_due)?;
            for event in &events {
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
            for event in &events {
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
                self.intake.set_closed(self.channel.orders.hands_back, self.poll);
            }
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
        }
        self.worker.messages().end_requests_to(Address::Master, context!(self));
        self.end_later();
        wakeups::end(self.worker, std::mem::take(&mut self.woken), context!(self));
        Ok(())
    }

    /// The time at which the next timer of the handler is due, and the number of the one that was started last.
    #[inline(always)]
    fn timers(&self) -> (Time, u64) {
        let timers = self.worker.info.timers.borrow();
        (timers.next_due(), timers.last())
    }

    fn is_done(&self) -> bool {
        let Some(until) = self.channel.orders.drain else { return false };
        (self.drain_begun && self.table.len() == 0) || self.now >= until
    }

    /// Waits for events, at most until the first deadline of a connection or another time at which there is something to do.
    fn wait(&mut self, events: &mut Events, first_due: Time, timer_due: Time) -> io::Result<()> {
        let orders = &self.channel.orders;
        let own = &self.intake.own;
        // A full table has room when a connection ends or becomes idle, and not by itself.
        let lacks_descriptors = self.intake.is_paused() && !self.is_full() || own.is_paused();
        let mut due = self.channel.due().min(first_due).min(own.look_at()).min(self.search_at);
        if let Some(drain) = orders.drain {
            due = due.min(drain);
        }
        if orders.keep.is_some() {
            due = due.min(self.hand_back_at);
        }
        if lacks_descriptors && !orders.is_draining() {
            due = due.min(self.now + DESCRIPTOR_CHECK);
        }
        if !self.again.is_empty() || !self.woken.is_empty() {
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
        if let Err(e) = self.worker.info.watches.borrow_mut().attach(self.poll, WATCHES) {
            log!("worker {}: watch the handler's descriptors: {e}", self.worker.id());
        }
        let sleep = (due != Time::NEVER).then(|| due - self.now);
        match self.poll.poll(events, sleep) {
            Err(e) if e.kind() != io::ErrorKind::Interrupted => return Err(e),
            Err(_) => events.clear(),
            Ok(()) => {}
        }
        self.now = Time::now();
        self.polled_at = self.now;
        Ok(())
    }

    /// Takes a message from the queue; several if this turn has been a long one, since the next may be as long and more clients wait.
    fn take_messages(&mut self) {
        for _ in 0..MESSAGES {
            if !self.take_message() || self.now - self.polled_at < LONG_TURN {
                return;
            }
        }
    }

    /// Takes a message from the queue, and begins its connections; false if there is none, or no place for a connection.
    fn take_message(&mut self) -> bool {
        if self.intake.is_closed() {
            return false;
        }
        let Some(place) = self.find_place(self.channel.orders.is_draining()) else { return false };
        match self.intake.take(self.poll) {
            Taken::Connections(message) => {
                let mut place = Some(place);
                for (fd, origin) in message {
                    self.intake.count_taken(&fd);
                    // The master gives several only to a worker that has places for them. Nobody else can take them now.
                    let place = place.take().or_else(|| self.find_place(true)).unwrap_or(Place::Free);
                    self.clear(place);
                    self.begin(fd, origin);
                }
                return true;
            }
            Taken::End => self.channel.lose_master(),
            _ => {}
        }
        false
    }

    /// Serves up to `most` datagrams of an own socket, or a connection; true if there may be another connection.
    fn serve_own_socket(&mut self, index: usize, most: u32) -> bool {
        if let Some(socket) = self.intake.own.datagrams(index) {
            let read = self.datagrams.serve(socket, self.worker, most, context!(self));
            self.intake.own.note_read(read, self.now);
            self.intake.own.requeue(index, self.poll);
            return false;
        }
        let must_take = self.channel.orders.is_draining() || self.intake.own.is_woken_alone(index);
        let Some(place) = self.find_place(must_take) else { return false };
        let Some((fd, listener)) = self.intake.accept(index, self.poll, self.now) else { return false };
        self.clear(place);
        self.begin(fd, Origin::listener(listener));
        true
    }

    /// Accepts what other workers have left at shared sockets although they had time to take it.
    fn serve_leftovers(&mut self) {
        if self.intake.own.look_at() > self.now {
            return;
        }
        let mut look_at = Time::NEVER;
        for index in self.intake.own.indexes() {
            if self.intake.own.is_shared(index) && self.serve_own_socket(index, DATAGRAMS) {
                look_at = self.now;
            }
        }
        // What was left there has waited already.
        self.intake.own.look_again(look_at.min(self.search_at));
    }

    fn begin(&mut self, fd: OwnedFd, Origin { listener, used }: Origin) {
        let kind = if self.is_same_everywhere { self.kind } else { self.handler.kind_at(listener.0) };
        match kind {
            Kind::Stream => {
                let conn = self.conn(fd, listener);
                let index = self.table.insert(Protocol::Stream(conn), listener);
                self.open_stream(index, &[]);
            }
            Kind::Blocking => self.serve_blocking(fd, listener),
            // Not reached: such a worker has no address for connections.
            Kind::Datagram => self.intake.finished(),
            Kind::Request => {
                let index = self.table.insert(Protocol::Http(fd, HttpConn::new(used)), listener);
                self.run(index, Cause::Readable { ended: false });
            }
        }
    }

    /// Serves a connection in blocking style to its end; everything else waits meanwhile.
    fn serve_blocking(&mut self, fd: OwnedFd, listener: ListenerId) {
        let conn = self.conn(fd, listener);
        let served = context!(self).call("on_connection", |handler| handler.on_connection(&conn)).is_some();
        if !served {
            report("on_connection", &conn.client(), PANICKED);
        }
        self.worker.info.page.add(if served { Word::Requests } else { Word::Errors }, 1);
        let next = conn.close_in_stages();
        if let Some(fd) = conn.end().filter(|_| matches!(next, Next::Linger)) {
            if self.table.len() >= LINGERING
                && let Some(oldest) = self.deadlines.first(Deadline::Linger)
            {
                self.close(oldest);
            }
            let index = self.table.insert(Protocol::Lingering(fd, self.now), listener);
            self.run(index, Cause::Readable { ended: false });
        }
        drop_user(&conn, context!(self));
        self.keep_conn(conn);
        self.intake.finished();
    }

    /// The value of a connection that the handler reads and writes itself.
    fn conn(&mut self, fd: OwnedFd, listener: ListenerId) -> Rc<Conn> {
        let new = || {
            let style = Style::of(self.kind, self.config);
            Rc::new(Conn::new(style, self.worker.info.page, Rc::clone(&self.touched)))
        };
        let conn = self.kept_conns.pop().unwrap_or_else(new);
        self.count += 1;
        conn.begin(fd, self.count, listener);
        conn
    }

    /// Keeps the memory of a connection's value for the next one, unless the handler has kept the value itself.
    fn keep_conn(&mut self, mut conn: Rc<Conn>) {
        if self.kept_conns.len() < KEPT_CONNS
            && let Some(unused) = Rc::get_mut(&mut conn)
        {
            unused.clear();
            self.kept_conns.push(conn);
        }
    }

    fn open_stream(&mut self, index: u32, read_already: &[u8]) {
        let token = self.table.token(index);
        let Protocol::Stream(conn) = &mut self.table.row(index).protocol else { return };
        conn.set_token(token);
        self.worker.info.conns.add(conn);
        match self.stream.on_open(conn, read_already, context!(self)) {
            Next::Close => self.close(index),
            Next::Linger => self.linger(index),
            _ => self.run(index, Cause::Readable { ended: false }),
        }
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
            (Protocol::Stream(_) | Protocol::Lingering(..), Cause::Deadline) => Next::Close,
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
                    log!("worker {}: watch a connection: {e}", self.worker.id());
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

    /// An HTTP connection becomes a stream: same descriptor, same row, same registration.
    fn upgrade(&mut self, index: u32, read_already: &[u8], user: Option<Box<User>>) {
        let row = self.table.row(index);
        let listener = row.listener;
        let Protocol::Http(fd, mut conn) = std::mem::replace(&mut row.protocol, Protocol::Free) else {
            return;
        };
        self.http.on_gone(&mut conn, context!(self));
        let conn = self.conn(fd, listener);
        if let Some(user) = user {
            conn.inherit(*user);
        }
        self.table.row(index).protocol = Protocol::Stream(conn);
        self.open_stream(index, read_already);
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

    /// Sends what callbacks have written to other streams than the one they were called for, and carries out their closes. A close
    /// has `on_close` called, which may write to others; what those have callbacks do may go on for ever, so the last round leaves it
    /// to the next turn.
    fn serve_touched(&mut self) {
        for _ in 0..ROUNDS {
            if self.touched.borrow().is_empty() {
                return;
            }
            let mut tokens = std::mem::take(&mut self.serving);
            std::mem::swap(&mut tokens, &mut self.touched.borrow_mut());
            for token in tokens.drain(..) {
                let Some(index) = self.table.find(token) else { continue };
                match &self.table.row(index).protocol {
                    Protocol::Stream(conn) if conn.is_touched() => self.run(index, Cause::Writable),
                    Protocol::Later(answering) if answering.is_touched() => self.run_touched(index),
                    Protocol::Http(_, conn) if conn.take_resumed() => self.resume(index),
                    _ => {}
                }
            }
            self.serving = tokens;
        }
        let left = std::mem::take(&mut *self.touched.borrow_mut());
        for token in left {
            let Some(index) = self.table.find(token) else { continue };
            let row = self.table.row(index);
            if let Protocol::Http(_, conn) = &row.protocol {
                // Its engine goes on with the body.
                conn.take_resumed();
            }
            if !std::mem::replace(&mut row.again, true) {
                self.again.push_back(token);
            }
        }
    }

    /// The worker is to exit: connections in its queue are accepted already and are served, idle ones are closed soon unless
    /// they are handed back ([`EventLoop::hand_back_idle`]).
    fn drain(&mut self) {
        let (worker, is_blocking) = (self.worker, self.kind == Kind::Blocking);
        if is_blocking && !self.drain_begun {
            // First, since serving the rest may take long.
            report_panic("on_drain", context!(self).call("on_drain", |handler| handler.on_drain(worker)));
        }
        while self.take_message() {}
        if !std::mem::replace(&mut self.drain_begun, true) {
            self.leave_own_sockets();
            if !is_blocking {
                report_panic("on_drain", context!(self).call("on_drain", |handler| handler.on_drain(worker)));
            }
        }
        // Also if the master, which was to take them, has died since.
        if !self.channel.orders.hands_back && !std::mem::replace(&mut self.is_closing_idle, true) {
            self.deadlines.shorten_idle(self.now);
            for index in self.table.indexes() {
                // New connections without a request so far are under another deadline.
                if self.is_idle(index) {
                    self.deadlines.set(index, Deadline::Idle, false, self.now);
                }
            }
        }
    }

    /// True if this is an HTTP connection without a request in progress.
    fn is_idle(&mut self, index: u32) -> bool {
        matches!(&self.table.row(index).protocol, Protocol::Http(_, conn) if conn.is_idle())
    }

    /// Hands idle HTTP connections back to the master as it has ordered, and continues later if the channel is full.
    fn hand_back_idle(&mut self) {
        let Some(keep) = self.channel.orders.keep.filter(|_| self.hand_back_at <= self.now) else { return };
        let (mut message, mut count) = ([0; handoff::MOST], 0);
        for index in self.table.indexes() {
            if self.table.len() - count as u32 <= keep {
                break;
            }
            if !self.is_idle(index) {
                continue;
            }
            message[count] = index;
            count += 1;
            if count == message.len() {
                if !self.hand_back(&message) {
                    return;
                }
                count = 0;
            }
        }
        if count == 0 || self.hand_back(&message[..count]) {
            self.channel.orders.keep = None;
        }
    }

    /// Hands connections back to the master, all or none; false if they are no HTTP connections, or if the channel is full.
    fn hand_back(&mut self, indexes: &[u32]) -> bool {
        let connections = indexes.iter().filter_map(|index| self.table.http(*index));
        if connections.clone().count() < indexes.len() {
            return false;
        }
        if !self.intake.hand_back(connections) {
            self.channel.orders.keep.get_or_insert(0);
            if self.hand_back_at <= self.now {
                self.hand_back_at = self.now + HAND_BACK_AGAIN;
            }
            return false;
        }
        for &index in indexes {
            let row = self.table.row(index);
            if row.interest.is_some() {
                // The open file lives on in the master, and so would its registration in this poll.
                let registry = self.poll.registry();
                row.protocol.with_fd(|fd| drop(registry.deregister(&mut SourceFd(&fd.as_raw_fd()))));
            }
            self.close(index);
        }
        true
    }

    /// Leaves what waits at the own sockets to the next worker; if none follows, serves it.
    fn leave_own_sockets(&mut self) {
        for index in self.intake.own.indexes() {
            let is_last = self.channel.orders.master_is_gone || self.intake.is_last_at(index);
            // A backlog holds at most so many connections; clients that connect meanwhile must not keep this worker.
            let most = if is_last { self.config.backlog } else { 0 };
            (0..most).take_while(|_| self.serve_own_socket(index, LAST_DATAGRAMS)).for_each(drop);
        }
        self.intake.own.close(self.poll, self.now);
    }

    /// Ends a stream for its handler, and drops what its client still sends.
    fn linger(&mut self, index: u32) {
        let protocol = std::mem::replace(&mut self.table.row(index).protocol, Protocol::Free);
        let Protocol::Stream(conn) = protocol else { return };
        // The row is taken all the while: the callback cannot reach it, and no other connection gets it.
        let Some(fd) = self.end_stream(conn) else { return };
        self.table.row(index).protocol = Protocol::Lingering(fd, self.now);
        self.run(index, Cause::Readable { ended: false });
    }

    fn end_stream(&mut self, conn: Rc<Conn>) -> Option<OwnedFd> {
        self.worker.info.conns.remove(conn.id());
        self.worker.info.topics.forget(conn.id());
        let fd = self.stream.end(&conn, context!(self));
        self.keep_conn(conn);
        fd
    }

    fn close(&mut self, index: u32) {
        self.deadlines.clear(index);
        // Before it counts as finished: the master must not count its place twice.
        self.publish_idle();
        match self.table.remove(index) {
            Protocol::Http(_, mut conn) => self.http.on_gone(&mut conn, context!(self)),
            Protocol::Later(answering) => self.http.on_gone_later(*answering, context!(self)),
            Protocol::Stream(conn) => drop(self.end_stream(conn)),
            // In blocking style it was finished when the handler was.
            Protocol::Lingering(..) if self.kind == Kind::Blocking => return,
            Protocol::Lingering(..) | Protocol::Free => {}
        }
        self.intake.finished();
    }
}
