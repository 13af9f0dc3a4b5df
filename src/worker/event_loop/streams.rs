//! Streams from their begin to their end, and what callbacks have written to them.

use super::{Cause, Context, EventLoop, KEPT_CONNS, context};
use crate::ids::ListenerId;
use crate::scoreboard::Word;
use crate::worker::conn::{Conn, Style};
use crate::worker::engine::Next;
use crate::worker::table::Protocol;
use crate::worker::user::User;
use std::os::fd::OwnedFd;
use std::rc::Rc;
/// Times in one turn that streams are served to which callbacks have written since the last time.
const ROUNDS: u32 = 8;

impl EventLoop<'_> {
    /// The value of a connection that the handler reads and writes itself.
    pub(super) fn conn(&mut self, fd: OwnedFd, listener: ListenerId) -> Rc<Conn> {
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
    pub(super) fn keep_conn(&mut self, mut conn: Rc<Conn>) {
        if self.kept_conns.len() < KEPT_CONNS
            && let Some(unused) = Rc::get_mut(&mut conn)
        {
            unused.clear();
            self.kept_conns.push(conn);
        }
    }

    pub(super) fn open_stream(&mut self, index: u32, read_already: &[u8]) {
        let token = self.table.token(index);
        let Protocol::Stream(conn) = &mut self.table.row(index).protocol else { return };
        conn.set_token(token);
        self.worker.info.own.conns.add(conn);
        self.worker.info.page.add(Word::Streams, 1);
        match self.stream.on_open(conn, read_already, context!(self)) {
            Next::Close => self.close(index),
            Next::Linger => self.linger(index),
            _ if self.is_ending => self.begin_end(index),
            _ => {
                self.ask_stream(index);
                self.run(index, Cause::Readable { ended: false });
            }
        }
    }

    /// An HTTP connection becomes a stream: same descriptor, same row, same registration.
    pub(super) fn upgrade(&mut self, index: u32, read_already: &[u8], user: Option<Box<User>>) {
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

    /// Sends what callbacks have written to other streams than the one they were called for, and carries out their closes. A close
    /// has `on_close` called, which may write to others; what those have callbacks do may go on for ever, so the last round leaves it
    /// to the next turn.
    pub(super) fn serve_touched(&mut self) {
        for _ in 0..ROUNDS {
            if self.touched.borrow().is_empty() {
                return;
            }
            let mut tokens = std::mem::take(&mut self.serving);
            std::mem::swap(&mut tokens, &mut self.touched.borrow_mut());
            for token in tokens.drain(..) {
                let Some(index) = self.table.find(token) else { continue };
                match &self.table.row(index).protocol {
                    Protocol::Stream(conn) if conn.has_goal() => self.transfer(index),
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

    /// Ends a stream for its handler, and drops what its client still sends.
    pub(super) fn linger(&mut self, index: u32) {
        let protocol = std::mem::replace(&mut self.table.row(index).protocol, Protocol::Free);
        let Protocol::Stream(conn) = protocol else { return };
        // The row is taken all the while: the callback cannot reach it, and no other connection gets it.
        let Some(fd) = self.end_stream(conn) else { return };
        self.table.row(index).protocol = Protocol::Lingering(fd, self.now);
        self.run(index, Cause::Readable { ended: false });
    }

    pub(super) fn end_stream(&mut self, conn: Rc<Conn>) -> Option<OwnedFd> {
        self.worker.info.own.conns.remove(conn.id());
        self.worker.info.page.take_one(Word::Streams);
        self.worker.info.own.topics.forget(conn.id());
        self.worker.info.own.recent.forget(conn.id());
        let fd = self.stream.end(&conn, context!(self));
        self.keep_conn(conn);
        fd
    }
}
