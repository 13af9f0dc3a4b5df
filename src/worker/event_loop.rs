//! The worker's loop: takes connections and datagrams, runs the engine of their style on them, hears the master, drains.
//!
//! A new connection is served before the poll ever hears of it: where its first request is already there and asks for the
//! close, it costs recvmsg, recv, send and close, and no more. What stays is watched edge-triggered.

use super::Worker;
use super::blocking;
use super::channel::{CHANNEL, Channel, LEAVE};
use super::conn::{Conn, Style};
use super::datagram::DatagramEngine;
use super::deadlines::Deadlines;
use super::engine::{Context, Deadline, Next};
use super::handler::{Handler, Kind};
use super::http::{HttpConn, HttpEngine};
use super::intake::{Intake, QUEUE, Took};
use super::stream::StreamEngine;
use super::table::{Protocol, Table};
use crate::config::Config;
use crate::handoff::Origin;
use crate::log::log;
use crate::sys::time::Time;
use mio::event::Event;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

/// Events read in one turn.
const EVENTS: usize = 256;
/// Stream connections kept for their memory.
const SPARE: usize = 256;
/// The time after which handing back is tried again if the channel to the master was full.
const HAND_BACK_AGAIN: Duration = Duration::from_millis(5);
/// Datagrams served in one turn, so that connections get theirs.
const DATAGRAMS: u32 = 16;
/// Datagrams served at the end, when what a socket still holds would be lost.
const LAST_DATAGRAMS: u32 = 1 << 16;
/// The time after which a worker without a free descriptor looks for one again.
const DESCRIPTOR_CHECK: Duration = Duration::from_millis(100);

/// The loop's state.
pub struct EventLoop<'a> {
    handler: &'a mut dyn Handler,
    kind: Kind,
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
    #[expect(clippy::vec_box, reason = "a C handler holds the address of a connection's value")]
    spare: Vec<Box<Conn>>,
    /// Connections that can go on at once, in their order.
    again: Vec<Token>,
    turn: Vec<Token>,
    now: Time,
    count: u64,
    /// The handler was told that the worker drains.
    drains: bool,
    /// While draining: idle connections are closed after a short grace.
    is_closing_idle: bool,
    /// The time to try again to hand back what the channel had no room for, draining or not.
    hand_back_at: Option<Time>,
}

/// What user code and engines may use; a macro, since it borrows some fields and leaves the others free.
macro_rules! context {
    ($self:ident) => {
        &mut Context {
            handler: $self.handler,
            config: $self.config,
            page: $self.intake.page,
            now: $self.now.as_millis(),
            draining: $self.drains && !$self.channel.orders.hands_back,
        }
    };
}

impl<'a> EventLoop<'a> {
    /// A loop for at most `limit` connections, whose new ones are of this kind.
    pub fn new(
        handler: &'a mut dyn Handler,
        kind: Kind,
        config: &'a Config,
        limit: u32,
        (worker, intake, channel): (&'static Worker, Intake<'a>, Channel),
        poll: &'a mut Poll,
    ) -> Self {
        Self {
            handler,
            kind,
            config,
            worker,
            intake,
            channel,
            poll,
            limit,
            table: Table::new(limit),
            deadlines: Deadlines::new(&config.timeouts),
            http: HttpEngine::new(config),
            stream: StreamEngine::new(),
            datagrams: DatagramEngine::new(),
            spare: Vec::with_capacity(SPARE),
            again: Vec::new(),
            turn: Vec::new(),
            now: Time::now(),
            count: 0,
            drains: false,
            is_closing_idle: false,
            hand_back_at: None,
        }
    }

    /// Serves until the worker is told to leave and its last connection is over.
    ///
    /// # Errors
    /// Where the poll fails.
    pub fn serve(mut self) -> io::Result<()> {
        let mut events = Events::with_capacity(EVENTS);
        while !self.is_done() {
            let (has_room, is_draining) =
                (self.table.len() < self.limit, self.channel.orders.drain.is_some());
            self.intake.watch_own_sockets(has_room, is_draining, self.poll, self.now);
            self.wait(&mut events)?;
            self.answer_own_sockets(&events);
            let (mut queue, mut channel) = (false, self.channel.has_more());
            for event in &events {
                match event.token() {
                    QUEUE => queue = true,
                    CHANNEL => channel = true,
                    LEAVE => self.channel.leave_on_signal(self.poll, self.now),
                    token => self.ready(token, event),
                }
            }
            if channel {
                self.read_channel();
            }
            self.run_again();
            self.channel.leave_if_due(self.now);
            if self.channel.orders.drain.is_some() {
                self.drain();
            } else if queue {
                self.take_one();
            } else if self.intake.lacks_descriptors() {
                self.intake.may_take(self.poll, self.now);
            }
            if let Some(keep) = self.channel.orders.keep {
                self.shed(keep);
            }
            self.expire();
            self.channel.update(self.poll, context!(self));
        }
        self.channel.close(context!(self));
        Ok(())
    }

    fn read_channel(&mut self) {
        self.channel.read(self.poll, context!(self));
        self.follow_orders();
    }

    /// Opens or closes the handoff queue as the orders of the master ask for it.
    fn follow_orders(&mut self) {
        if self.channel.orders.hands_back {
            self.intake.close_queue(self.poll);
        } else {
            self.intake.reopen_queue();
        }
    }

    fn is_done(&self) -> bool {
        let Some(until) = self.channel.orders.drain else { return false };
        (self.drains && self.table.len() == 0) || self.now >= until
    }

    fn wait(&mut self, events: &mut Events) -> io::Result<()> {
        let is_draining = self.channel.orders.drain.is_some();
        let lacks = (self.intake.lacks_descriptors() && !is_draining).then(|| self.now + DESCRIPTOR_CHECK);
        let expires = self.deadlines.next(&mut self.table).map(Time::from_millis);
        let dues = [expires, lacks, self.channel.orders.drain, self.hand_back_at];
        let due = dues.into_iter().flatten().fold(self.channel.due(), Time::min);
        let sleep = match due {
            _ if !self.again.is_empty() => Some(Duration::ZERO),
            Time::NEVER => None,
            at => Some(at - self.now),
        };
        match self.poll.poll(events, sleep) {
            Err(e) if e.kind() != io::ErrorKind::Interrupted => return Err(e),
            Err(_) => events.clear(),
            Ok(()) => {}
        }
        self.now = Time::now();
        Ok(())
    }

    fn take_one(&mut self) -> bool {
        match self.intake.take(self.poll, self.now) {
            Took::Connection(fd, origin) => {
                self.begin(fd, origin);
                return true;
            }
            Took::Nothing => {}
            Took::MasterGone => {
                self.channel.lose_master();
                self.follow_orders();
            }
        }
        false
    }

    /// Takes what this worker was woken for at its own sockets, before anything else: no other worker was woken for it.
    fn answer_own_sockets(&mut self, events: &Events) {
        for event in events {
            if let Some(index) = self.intake.own_socket(event.token())
                && !self.read(index, DATAGRAMS)
            {
                self.accept(index);
            }
        }
    }

    /// Serves datagrams, if the socket has them.
    fn read(&mut self, index: usize, most: u32) -> bool {
        let Some(socket) = self.intake.datagrams(index) else { return false };
        self.datagrams.serve(socket, self.worker, most, context!(self));
        self.intake.requeue(index, self.poll);
        true
    }

    fn accept(&mut self, index: usize) -> bool {
        let accepted = self.intake.accept(index, self.poll, self.now);
        let found = accepted.is_some();
        if let Some((fd, listener)) = accepted {
            self.begin(fd, Origin::listener(listener));
        }
        found
    }

    fn begin(&mut self, fd: OwnedFd, Origin { listener, used }: Origin) {
        self.count += 1;
        match self.kind {
            Kind::Data => self.open_stream(fd, listener, &[]),
            Kind::Connection => self.serve_to_its_end(fd, listener),
            // There is no address such a connection could come from.
            Kind::Datagram => self.intake.finished(1),
            Kind::Request => {
                let index = self.table.insert(Protocol::Http(fd, HttpConn::new(used)), listener);
                self.readable(index, false);
            }
        }
    }

    /// In blocking style: everything else waits meanwhile.
    fn serve_to_its_end(&mut self, fd: OwnedFd, listener: u16) {
        let mut conn = self.conn(fd, listener);
        blocking::serve(&mut conn, context!(self));
        self.spare.push(conn);
        self.intake.finished(1);
        self.now = Time::now();
    }

    fn open_stream(&mut self, fd: OwnedFd, listener: u16, read_already: &[u8]) {
        let conn = self.conn(fd, listener);
        let index = self.table.insert(Protocol::Stream(conn), listener);
        self.begin_stream(index, read_already);
    }

    /// A connection that the handler reads and writes itself.
    fn conn(&mut self, fd: OwnedFd, listener: u16) -> Box<Conn> {
        match self.spare.pop() {
            Some(mut conn) => {
                conn.renew(fd, self.count, listener);
                conn
            }
            None => {
                let style = match self.kind {
                    Kind::Connection => Style::blocking(self.config),
                    _ => Style::stream(self.config),
                };
                Box::new(Conn::new(fd, self.count, listener, style, self.intake.page))
            }
        }
    }

    fn begin_stream(&mut self, index: u32, read_already: &[u8]) {
        let Protocol::Stream(conn) = &mut self.table.row(index).protocol else { return };
        match self.stream.open(conn, read_already, context!(self)) {
            Next::Close => self.close(index),
            _ => self.readable(index, false),
        }
    }

    /// The poll has something to say about a connection.
    fn ready(&mut self, token: Token, event: &Event) {
        let Some(index) = self.table.find(token) else { return };
        if event.is_writable() && self.table.row(index).watches_write {
            self.writable(index);
        }
        let ended = event.is_read_closed() || event.is_error();
        if (event.is_readable() || ended) && self.table.find(token).is_some() {
            self.readable(index, ended);
        }
    }

    fn readable(&mut self, index: u32, ended: bool) {
        let row = self.table.row(index);
        let next = match &mut row.protocol {
            Protocol::Http(fd, conn) => {
                self.http.on_readable(fd.as_fd(), row.listener, conn, ended, context!(self))
            }
            Protocol::Stream(conn) => self.stream.on_readable(conn, ended, context!(self)),
            Protocol::Free(_) => return,
        };
        self.apply(index, next);
    }

    fn writable(&mut self, index: u32) {
        let row = self.table.row(index);
        let next = match &mut row.protocol {
            Protocol::Http(fd, conn) => self.http.on_writable(fd.as_fd(), row.listener, conn, context!(self)),
            Protocol::Stream(conn) => self.stream.on_writable(conn),
            Protocol::Free(_) => return,
        };
        self.apply(index, next);
    }

    fn apply(&mut self, index: u32, next: Next) {
        match next {
            Next::Wait { deadline: Deadline::Idle, .. } if self.hands_back(index) => {}
            Next::Wait { write, progress, deadline } => {
                if progress {
                    // A client that took something has `write-timeout` anew for the rest.
                    self.deadlines.clear_if(&mut self.table, index, Deadline::Write);
                }
                if let Err(e) = self.watch(index, write) {
                    log!("worker {}: watch a connection: {e}", self.worker.id);
                    return self.close(index);
                }
                self.deadlines.set(&mut self.table, index, deadline, self.now.as_millis());
            }
            Next::Again => {
                self.deadlines.clear(&mut self.table, index);
                if !std::mem::replace(&mut self.table.row(index).again, true) {
                    self.again.push(self.table.token(index));
                }
            }
            Next::Close => self.close(index),
            Next::Upgrade(bytes) => self.upgrade(index, &bytes),
        }
    }

    /// Has the poll report a connection, also when it can be written to where `write` is set.
    fn watch(&mut self, index: u32, write: bool) -> io::Result<()> {
        let token = self.table.token(index);
        let row = self.table.row(index);
        if row.registered && row.watches_write == write {
            return Ok(());
        }
        let interest = if write { Interest::READABLE | Interest::WRITABLE } else { Interest::READABLE };
        let fd = match &row.protocol {
            Protocol::Http(fd, _) => fd.as_fd(),
            Protocol::Stream(conn) => conn.as_fd(),
            Protocol::Free(_) => return Ok(()),
        };
        let registry = self.poll.registry();
        let raw = raw(fd);
        let mut source = SourceFd(&raw);
        if row.registered {
            registry.reregister(&mut source, token, interest)?;
        } else {
            registry.register(&mut source, token, interest)?;
        }
        (row.registered, row.watches_write) = (true, write);
        Ok(())
    }

    /// An HTTP connection becomes a stream: same descriptor, same row, same registration.
    fn upgrade(&mut self, index: u32, read_already: &[u8]) {
        let row = self.table.row(index);
        let (listener, free) = (row.listener, Protocol::Free(u32::MAX));
        let Protocol::Http(fd, mut conn) = std::mem::replace(&mut row.protocol, free) else { return };
        self.http.on_gone(&mut conn);
        self.count += 1;
        let conn = self.conn(fd, listener);
        self.table.row(index).protocol = Protocol::Stream(conn);
        self.begin_stream(index, read_already);
    }

    /// Runs the connections that had more to do than one turn.
    fn run_again(&mut self) {
        std::mem::swap(&mut self.again, &mut self.turn);
        while let Some(token) = self.turn.pop() {
            if let Some(index) = self.table.find(token) {
                self.table.row(index).again = false;
                self.readable(index, true);
            }
        }
    }

    fn expire(&mut self) {
        while let Some(index) = self.deadlines.expired(&mut self.table, self.now.as_millis()) {
            let row = self.table.row(index);
            let next = match &mut row.protocol {
                Protocol::Http(fd, conn) => self.http.on_deadline(fd.as_fd(), conn, context!(self)),
                Protocol::Stream(_) | Protocol::Free(_) => Next::Close,
            };
            // Whatever comes next, this deadline has done its work.
            self.deadlines.clear(&mut self.table, index);
            self.apply(index, next);
        }
    }

    /// The worker is to leave: what is in its queue was accepted and is served, idle connections get a short grace.
    fn drain(&mut self) {
        let worker = self.worker;
        if self.kind == Kind::Connection && !self.drains {
            // Before the rest is served, which may take long.
            let _ = context!(self).call(|handler| handler.on_drain(worker));
        }
        while self.take_one() {}
        if self.hand_back_at.is_some_and(|at| at <= self.now) {
            self.hand_back_at = None;
            self.settle_idle();
        }
        if !self.channel.orders.hands_back && !std::mem::replace(&mut self.is_closing_idle, true) {
            // Also if the master is gone, which was to take back what is idle.
            self.deadlines.shorten_idle();
            self.settle_idle();
        }
        if std::mem::replace(&mut self.drains, true) {
            return;
        }
        self.leave_own_sockets();
        if self.kind != Kind::Connection {
            let _ = context!(self).call(|handler| handler.on_drain(worker));
        }
        self.settle_idle();
    }

    /// While draining: what is idle goes back to the master, or has a short grace. What is under way goes on.
    fn settle_idle(&mut self) {
        for index in self.table.indexes() {
            let row = self.table.row(index);
            let next = match &mut row.protocol {
                Protocol::Http(_, conn) if conn.is_idle() => {
                    Next::Wait { write: false, progress: false, deadline: Deadline::Idle }
                }
                Protocol::Stream(conn) if !self.channel.orders.hands_back => self.stream.on_drain(conn),
                Protocol::Http(..) | Protocol::Stream(_) | Protocol::Free(_) => continue,
            };
            self.deadlines.clear(&mut self.table, index);
            self.apply(index, next);
        }
    }

    /// While draining for others to take over: gives an idle HTTP connection back to the master. `false` where it stays for now,
    /// because that is not so, or because the channel is full; then it is tried again soon.
    fn hands_back(&mut self, index: u32) -> bool {
        if !(self.drains && self.channel.orders.hands_back) {
            return false;
        }
        self.is_idle(index) && self.hand_back(index)
    }

    /// The others have less to do: gives idle HTTP connections back to the master, until no more than `keep` are left or none is
    /// idle. Where the channel is full it goes on soon.
    fn shed(&mut self, keep: u32) {
        if self.channel.orders.drain.is_some() {
            self.channel.orders.keep = None;
            return;
        }
        if self.hand_back_at.is_some_and(|at| at > self.now) {
            return;
        }
        self.hand_back_at = None;
        for index in self.table.indexes() {
            if self.table.len() <= keep {
                break;
            }
            if self.is_idle(index) && !self.hand_back(index) {
                return;
            }
        }
        self.channel.orders.keep = None;
    }

    /// Whether this is an HTTP connection on which nothing is under way.
    fn is_idle(&mut self, index: u32) -> bool {
        matches!(&self.table.row(index).protocol, Protocol::Http(_, conn) if conn.is_idle())
    }

    /// Gives an HTTP connection back to the master; `false` where the channel is full.
    fn hand_back(&mut self, index: u32) -> bool {
        let row = self.table.row(index);
        let listener = row.listener;
        let Protocol::Http(fd, _) = &row.protocol else { return false };
        if !self.intake.hand_back(fd.as_fd(), listener) {
            self.hand_back_at.get_or_insert(self.now + HAND_BACK_AGAIN);
            return false;
        }
        // The open file lives on elsewhere, and so would what this poll knows of it.
        if row.registered {
            let raw = raw(fd.as_fd());
            let _ = self.poll.registry().deregister(&mut SourceFd(&raw));
        }
        self.close(index);
        true
    }

    /// What waits at an own socket is for the next worker; if none follows, the kernel has accepted it in our name and it is served.
    fn leave_own_sockets(&mut self) {
        for index in self.intake.own_sockets() {
            let is_last = self.channel.orders.master_is_gone || self.intake.is_last_at(index);
            if is_last && !self.read(index, LAST_DATAGRAMS) {
                let most = self.config.backlog;
                (0..most).take_while(|_| self.accept(index)).for_each(drop);
            }
        }
        self.intake.close_own_sockets(self.poll, self.now);
    }

    fn close(&mut self, index: u32) {
        self.deadlines.clear(&mut self.table, index);
        match self.table.remove(index) {
            Protocol::Http(fd, mut conn) => {
                self.http.on_gone(&mut conn);
                drop(fd);
            }
            Protocol::Stream(mut conn) => {
                self.stream.close(&mut conn, context!(self));
                if self.spare.len() < SPARE {
                    self.spare.push(conn);
                }
            }
            Protocol::Free(_) => {}
        }
        self.intake.finished(1);
    }
}

fn raw(fd: BorrowedFd<'_>) -> std::os::fd::RawFd {
    fd.as_raw_fd()
}
