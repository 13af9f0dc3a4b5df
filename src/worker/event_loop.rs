//! The worker's loop: takes connections and datagrams, runs the engine of their style on them, hears the master, drains.
//!
//! A new connection is served before the poll ever hears of it: where its first request is already there and asks for the
//! close, it costs recvmsg, recv, send and close, and no more. What stays is watched edge-triggered.

use super::blocking;
use super::conn::{Conn, Style};
use super::datagram::DatagramEngine;
use super::deadlines::Deadlines;
use super::engine::{Context, Deadline, Next};
use super::handler::{Handler, Kind};
use super::http::{HttpConn, HttpEngine};
use super::inlet::{CHANNEL, Inlet, LEAVE, QUEUE};
use super::stream::StreamEngine;
use super::table::{Protocol, Table};
use crate::config::Config;
use crate::handoff::Origin;
use crate::log::log;
use crate::sys::time;
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
/// When the channel to the master is full, it is tried again after so long (milliseconds).
const HAND_BACK_AGAIN: u64 = 5;
/// Datagrams served in one turn, so that connections get theirs.
const DATAGRAMS: u32 = 16;
/// Datagrams served at the end, when what a socket still holds would be lost.
const LAST_DATAGRAMS: u32 = 1 << 16;
/// How often a worker without a free descriptor looks for one (milliseconds).
const STARVING: u64 = 100;

/// The loop's state.
pub struct EventLoop<'a, 'b> {
    handler: &'a mut dyn Handler,
    kind: Kind,
    config: &'a Config,
    inlet: &'a mut Inlet<'b>,
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
    now: u64,
    count: u64,
    drains: bool,
    /// While draining: idle connections have but a short grace.
    hurries: bool,
    /// When to try again to hand back what the channel had no room for, draining or not.
    hand_back_at: Option<u64>,
}

/// What user code and engines may use; a macro, since it borrows some fields and leaves the others free.
macro_rules! context {
    ($self:ident) => {
        &mut Context {
            handler: $self.handler,
            config: $self.config,
            page: $self.inlet.page,
            now: $self.now,
            draining: $self.drains && !$self.inlet.hands_back,
        }
    };
}

impl<'a, 'b> EventLoop<'a, 'b> {
    /// A loop for at most `limit` connections, whose new ones are of this kind.
    pub fn new(
        handler: &'a mut dyn Handler,
        kind: Kind,
        config: &'a Config,
        limit: u32,
        inlet: &'a mut Inlet<'b>,
        poll: &'a mut Poll,
    ) -> Self {
        Self {
            handler,
            kind,
            config,
            inlet,
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
            now: time::monotonic_ms(),
            count: 0,
            drains: false,
            hurries: false,
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
            self.inlet.mind_doors(self.table.len() < self.limit, self.poll, self.now);
            self.wait(&mut events)?;
            self.answer_doors(&events);
            let (mut queue, mut channel) = (false, self.inlet.has_more());
            for event in &events {
                match event.token() {
                    QUEUE => queue = true,
                    CHANNEL => channel = true,
                    LEAVE => self.inlet.asked_to_leave(self.poll, self.now),
                    token => self.ready(token, event),
                }
            }
            if channel {
                self.inlet.listen(self.poll, context!(self));
            }
            self.go_on();
            self.inlet.leave_if_due(self.now);
            if self.inlet.draining.is_some() {
                self.drain();
            } else if queue {
                self.take_one();
            } else if self.inlet.starves() {
                self.inlet.may_take(self.poll, self.now);
            }
            if let Some(keep) = self.inlet.sheds_to {
                self.shed(keep);
            }
            self.expire();
            self.inlet.settle(self.poll, context!(self));
        }
        Ok(())
    }

    fn is_done(&self) -> bool {
        let Some(until) = self.inlet.draining else { return false };
        (self.drains && self.table.len() == 0) || self.now >= until
    }

    fn wait(&mut self, events: &mut Events) -> io::Result<()> {
        let mut due = self.deadlines.next(&mut self.table);
        if self.inlet.starves() {
            due = Some(due.unwrap_or(u64::MAX).min(self.now + STARVING));
        }
        let others = [self.inlet.due(), self.inlet.draining, self.inlet.leave_due(), self.hand_back_at];
        for at in others.into_iter().flatten() {
            due = Some(due.unwrap_or(u64::MAX).min(at));
        }
        let sleep = match due {
            _ if !self.again.is_empty() => Some(Duration::ZERO),
            None | Some(u64::MAX) => None,
            Some(at) => Some(Duration::from_millis(at.saturating_sub(self.now))),
        };
        match self.poll.poll(events, sleep) {
            Err(e) if e.kind() != io::ErrorKind::Interrupted => return Err(e),
            Err(_) => events.clear(),
            Ok(()) => {}
        }
        self.now = time::monotonic_ms();
        Ok(())
    }

    fn take_one(&mut self) -> bool {
        let taken = self.inlet.take(self.poll, self.now);
        let found = taken.is_some();
        if let Some((fd, origin)) = taken {
            self.begin(fd, origin);
        }
        found
    }

    /// Takes what this worker was woken for at its own doors, before anything else: no other worker was told of it.
    fn answer_doors(&mut self, events: &Events) {
        for event in events {
            if let Some(door) = self.inlet.door(event.token())
                && !self.read(door, DATAGRAMS)
            {
                self.accept(door);
            }
        }
    }

    /// Serves datagrams, where the door has them.
    fn read(&mut self, index: usize, most: u32) -> bool {
        let Some(door) = self.inlet.datagrams(index) else { return false };
        self.datagrams.serve(door, self.inlet.worker, most, context!(self));
        self.inlet.step_back(index, self.poll);
        true
    }

    fn accept(&mut self, door: usize) -> bool {
        let accepted = self.inlet.accept(door, self.poll, self.now);
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
            Kind::Datagram => self.inlet.finished(1),
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
        self.inlet.finished(1);
        self.now = time::monotonic_ms();
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
                Box::new(Conn::new(fd, self.count, listener, style, self.inlet.page))
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
                    log!("worker {}: watch a connection: {e}", self.inlet.worker.id);
                    return self.close(index);
                }
                self.deadlines.set(&mut self.table, index, deadline, self.now);
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

    /// Connections that had more to do than one turn.
    fn go_on(&mut self) {
        std::mem::swap(&mut self.again, &mut self.turn);
        while let Some(token) = self.turn.pop() {
            if let Some(index) = self.table.find(token) {
                self.table.row(index).again = false;
                self.readable(index, true);
            }
        }
    }

    fn expire(&mut self) {
        while let Some(index) = self.deadlines.expired(&mut self.table, self.now) {
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

    /// The worker is told to leave: what lies in its queue was accepted and is served, what is idle gets a short grace.
    fn drain(&mut self) {
        let worker = self.inlet.worker;
        if self.kind == Kind::Connection && !self.drains {
            // Before the rest is served, which may take long.
            let _ = context!(self).call(|handler| handler.on_drain(worker));
        }
        while self.take_one() {}
        if self.hand_back_at.is_some_and(|at| at <= self.now) {
            self.hand_back_at = None;
            self.settle_idle();
        }
        if !self.inlet.hands_back && !std::mem::replace(&mut self.hurries, true) {
            // Also when the master is gone that was to take back what is idle.
            self.deadlines.shorten_idle();
            self.settle_idle();
        }
        if std::mem::replace(&mut self.drains, true) {
            return;
        }
        self.leave_doors();
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
                Protocol::Stream(conn) if !self.inlet.hands_back => self.stream.on_drain(conn),
                Protocol::Http(..) | Protocol::Stream(_) | Protocol::Free(_) => continue,
            };
            self.deadlines.clear(&mut self.table, index);
            self.apply(index, next);
        }
    }

    /// While draining for others to take over: gives an idle HTTP connection back to the master. `false` where it stays for now,
    /// because that is not so, or because the channel is full; then it is tried again soon.
    fn hands_back(&mut self, index: u32) -> bool {
        if !(self.drains && self.inlet.hands_back) {
            return false;
        }
        self.is_idle(index) && self.hand_back(index)
    }

    /// The others have less to do: gives idle HTTP connections back to the master, until no more than `keep` are left or none is
    /// idle. Where the channel is full it goes on soon.
    fn shed(&mut self, keep: u32) {
        if self.inlet.draining.is_some() {
            self.inlet.sheds_to = None;
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
        self.inlet.sheds_to = None;
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
        if !self.inlet.hand_back(fd.as_fd(), listener) {
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

    /// What waits at a door is for the next worker; where none comes, it was accepted by the kernel in our name and is served.
    fn leave_doors(&mut self) {
        for door in self.inlet.doors() {
            if self.inlet.is_last_at(door) && !self.read(door, LAST_DATAGRAMS) {
                let most = self.config.backlog;
                (0..most).take_while(|_| self.accept(door)).for_each(drop);
            }
        }
        self.inlet.leave_doors(self.poll, self.now);
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
        self.inlet.finished(1);
    }
}

fn raw(fd: BorrowedFd<'_>) -> std::os::fd::RawFd {
    fd.as_raw_fd()
}
