//! New connections and datagrams: from the queue of the master, from the worker's own sockets, to the engine of their style.

use super::room::Place;
use super::{Cause, Context, DATAGRAMS, EventLoop, LINGERING, context};
use crate::event::Kind;
use crate::handoff::{Origin, Taken};
use crate::ids::ListenerId;
use crate::scoreboard::Word;
use crate::sys::time::Time;
use crate::worker::engine::{Deadline, Next};
use crate::worker::failure::{PANICKED, report};
use crate::worker::http::HttpConn;
use crate::worker::stream::{drop_user, note_client};
use crate::worker::table::Protocol;
use std::os::fd::OwnedFd;
use std::time::Duration;
/// Messages with connections that are taken in one turn, if it is longer than this.
const MESSAGES: u32 = 16;
const LONG_TURN: Duration = Duration::from_millis(2);

impl EventLoop<'_> {
    /// Takes a message from the queue; several if this turn has been a long one, since the next may be as long and more clients wait.
    pub(super) fn take_messages(&mut self) {
        for _ in 0..MESSAGES {
            if !self.take_message() || self.now - self.polled_at < LONG_TURN {
                return;
            }
        }
    }

    /// Takes a message from the queue, and begins its connections; false if there is none, or no place for a connection.
    pub(super) fn take_message(&mut self) -> bool {
        if self.intake.is_closed() {
            return false;
        }
        // A stream that comes back needs no place: the master gives nothing else to a worker that is full.
        let must_take = self.channel.orders.is_draining() || self.moves.may_come_back();
        let Some(place) = self.find_place(must_take) else { return false };
        match self.intake.take(self.poll) {
            Taken::Connections(message) => {
                let mut place = Some(place);
                for (passed, origin) in message {
                    self.intake.count_taken(&passed.fd);
                    // The master gives several only to a worker that has places for them. Nobody else can take them now.
                    let place = place.take().or_else(|| self.find_place(true)).unwrap_or(Place::Free);
                    self.clear(place);
                    if origin.stream.is_some() {
                        self.take_over(passed, origin);
                    } else {
                        self.begin(passed.fd, origin);
                    }
                }
                return true;
            }
            Taken::End => self.channel.lose_master(),
            _ => {}
        }
        false
    }

    /// Serves up to `most` datagrams of an own socket, or a connection; true if there may be another connection.
    pub(super) fn serve_own_socket(&mut self, index: usize, most: u32) -> bool {
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
    pub(super) fn serve_leftovers(&mut self) {
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

    pub(super) fn begin(&mut self, fd: OwnedFd, Origin { listener, used, .. }: Origin) {
        let kind = if self.is_same_everywhere { self.kind } else { self.handler.kind_at(listener.0) };
        match kind {
            // Another worker, of another style, has answered requests on it: its client expects no other protocol.
            Kind::Stream | Kind::Blocking if used => {
                drop(fd);
                self.intake.finished();
            }
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
    pub(super) fn serve_blocking(&mut self, fd: OwnedFd, listener: ListenerId) {
        let conn = self.conn(fd, listener);
        note_client(&conn);
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
}
