//! Stream connections: bytes in, `on_data`, bytes out.

use super::call::Context;
use super::conn::{Buffers, Conn, EndReason};
use super::engine::Next;
use super::failure::{PANICKED, report, report_panic};
use super::linger;
use crate::scoreboard::Word;
use crate::sys::crash;
use std::os::fd::{BorrowedFd, OwnedFd};

/// Reads of one connection in one turn, so that a client that sends without pause does not stop the others.
const READS: usize = 16;

/// The state that all stream connections of a worker share.
#[derive(Default)]
pub struct StreamEngine {
    buffers: Buffers,
}

impl StreamEngine {
    /// A connection begins, with bytes that were read already.
    pub fn on_open(&mut self, conn: &Conn, read_already: &[u8], cx: &mut Context<'_>) -> Next {
        conn.borrow_buffers(&mut self.buffers);
        conn.preload(read_already);
        note_client(conn);
        let opened = cx.call("on_open", |h| h.on_open(conn)).is_some();
        conn.end_call();
        if !opened {
            return failed("on_open", conn, cx);
        }
        if !read_already.is_empty() {
            conn.begin_call();
            if !call(conn, cx) {
                return failed("on_data", conn, cx);
            }
        }
        self.flush(conn)
    }

    /// The socket may have bytes. `ended` is true if the poll has reported that the client ended its side.
    pub fn on_readable(&mut self, conn: &Conn, ended: bool, cx: &mut Context<'_>) -> Next {
        conn.borrow_buffers(&mut self.buffers);
        for _ in 0..READS {
            if conn.is_closing() {
                // A client may read the answer only when it has sent everything.
                let drop_input = |fd: BorrowedFd<'_>| linger::drop_input(fd, cx);
                let dropped =
                    if conn.at_end() { None } else { conn.with_fd(drop_input) }.unwrap_or(Next::Close);
                conn.set_end(matches!(dropped, Next::Close));
                return match self.flush(conn) {
                    Next::Wait { .. } if matches!(dropped, Next::Again) => Next::Again,
                    next => next,
                };
            }
            if !conn.has_room() {
                if conn.flush().is_err() {
                    return Next::Close;
                }
                if !conn.has_room() {
                    conn.pause();
                    return self.flush(conn);
                }
            }
            if conn.takes_room() {
                note_client(conn);
                let told = cx.call("on_writable", |h| h.on_writable(conn)).is_some();
                conn.end_call();
                if !told {
                    return failed("on_writable", conn, cx);
                }
                continue;
            }
            let more = if conn.begin_call() {
                // Whatever is in the socket was not looked at.
                true
            } else if conn.at_end() {
                return if ended && conn.is_gone() { gone(conn) } else { self.flush(conn) };
            } else if conn.is_held() {
                return self.flush(conn);
            } else {
                match conn.fill() {
                    Ok(Some(more)) => more,
                    Ok(None) => return self.flush(conn),
                    Err(e) => {
                        conn.note_failure(&e);
                        return Next::Close;
                    }
                }
            };
            cx.page.add(Word::Requests, 1);
            if !call(conn, cx) {
                return failed("on_data", conn, cx);
            }
            // The poll is edge-triggered and does not report the end again, so read up to it.
            if !more && (!ended || conn.at_end()) {
                return self.flush(conn);
            }
        }
        match self.flush(conn) {
            Next::Wait { .. } => Next::Again,
            next => next,
        }
    }

    /// The client has taken bytes, or there are more to send. What waited for room goes on.
    pub fn on_writable(&mut self, conn: &Conn, cx: &mut Context<'_>) -> Next {
        if conn.flush().is_err() {
            return Next::Close;
        }
        // What the poll has reported meanwhile was not looked at.
        if conn.can_resume() || conn.is_closing() {
            self.on_readable(conn, true, cx)
        } else {
            self.flush(conn)
        }
    }

    /// Sends what the client takes.
    fn flush(&mut self, conn: &Conn) -> Next {
        if conn.flush().is_err() {
            return Next::Close;
        }
        if conn.is_done() {
            return conn.close_in_stages();
        }
        conn.release_buffers(&mut self.buffers);
        let next = conn.wait();
        if conn.can_resume() { Next::Again } else { next }
    }

    /// Ends a connection and takes its buffers; returns its descriptor.
    pub fn end(&mut self, conn: &Conn, cx: &mut Context<'_>) -> Option<OwnedFd> {
        let _ = conn.flush();
        conn.note_end(if conn.at_end() { EndReason::Client } else { EndReason::Error });
        conn.set_over();
        note_client(conn);
        if cx.call("on_close", |h| h.on_close(conn)).is_none() {
            report("on_close", &conn.client(), PANICKED);
        }
        drop_user(conn, cx);
        let fd = conn.end();
        conn.release_buffers(&mut self.buffers);
        fd
    }
}

/// Drops the handler's own value, which may run code of it. Not with the connection's value, which the handler may keep for long.
pub fn drop_user(conn: &Conn, cx: &mut Context<'_>) {
    if let Some(user) = conn.take_user() {
        report_panic("release", cx.call("release", |_| drop(user)));
    }
}

/// Notes for whom the next call is, in case it crashes.
#[inline(always)]
pub fn note_client(conn: &Conn) {
    conn.with_fd(crash::note_client);
}

/// Calls the handler with what has arrived. False if it panicked.
fn call(conn: &Conn, cx: &mut Context<'_>) -> bool {
    note_client(conn);
    let returned = cx.call("on_data", |h| h.on_data(conn)).is_some();
    conn.end_call();
    returned
}

/// The client of a stream that is half open has gone.
fn gone(conn: &Conn) -> Next {
    conn.note_end(EndReason::Client);
    Next::Close
}

/// The handler panicked: that costs the connection.
fn failed(callback: &str, conn: &Conn, cx: &Context<'_>) -> Next {
    report(callback, &conn.client(), PANICKED);
    cx.page.add(Word::Errors, 1);
    conn.set_end_reason(EndReason::Error);
    Next::Close
}
