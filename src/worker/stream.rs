//! Stream connections: bytes in, `on_data`, bytes out.

use super::conn::{Buffers, Conn};
use super::engine::{Context, Next};
use crate::scoreboard::Word;

/// Reads of one connection in one turn, so that a client that never stops sending does not stop the others.
const READS: usize = 16;

/// What all stream connections of a worker share.
pub struct StreamEngine {
    buffers: Buffers,
}

impl StreamEngine {
    /// Nothing kept yet.
    pub fn new() -> Self {
        Self { buffers: Buffers::new() }
    }

    /// A connection begins, with bytes that were read already.
    pub fn open(&mut self, conn: &mut Conn, read_already: &[u8], cx: &mut Context<'_>) -> Next {
        conn.borrow_buffers(&mut self.buffers);
        conn.preload(read_already);
        if cx.call(|h| h.on_open(conn)).is_none() {
            return failed(cx);
        }
        if !read_already.is_empty() && cx.call(|h| h.on_data(conn)).is_none() {
            return failed(cx);
        }
        self.after(conn)
    }

    /// Bytes may be there. `ended`: the poll says that the client has ended its side.
    pub fn on_readable(&mut self, conn: &mut Conn, ended: bool, cx: &mut Context<'_>) -> Next {
        conn.borrow_buffers(&mut self.buffers);
        for _ in 0..READS {
            if conn.is_closing() {
                return self.after(conn);
            }
            let mut drained = false;
            match conn.fill(&mut drained) {
                Ok(false) => return self.after(conn),
                Ok(true) => {}
                Err(_) => return Next::Close,
            }
            cx.page.add(Word::Requests, 1);
            if cx.call(|h| h.on_data(conn)).is_none() {
                return failed(cx);
            }
            if drained && (!ended || conn.at_end()) {
                return self.after(conn);
            }
        }
        match self.after(conn) {
            Next::Close => Next::Close,
            _ => Next::Again,
        }
    }

    /// The client takes bytes again.
    pub fn on_writable(&mut self, conn: &mut Conn) -> Next {
        self.after(conn)
    }

    /// The worker is to leave: what is idle has but a short grace from now.
    pub fn on_drain(&mut self, conn: &mut Conn) -> Next {
        self.after(conn)
    }

    /// A connection is over: closes it and takes its buffers back.
    pub fn close(&mut self, conn: &mut Conn, cx: &mut Context<'_>) {
        let _ = conn.flush();
        let _ = cx.call(|h| h.on_close(conn));
        conn.end();
        conn.release_buffers(&mut self.buffers);
    }

    fn after(&mut self, conn: &mut Conn) -> Next {
        if conn.flush().is_err() || (conn.is_closing() && !conn.has_output()) {
            return Next::Close;
        }
        conn.release_buffers(&mut self.buffers);
        Next::Wait { write: conn.has_output(), progress: conn.take_progress(), deadline: conn.deadline() }
    }
}

/// The handler panicked: that costs the connection.
fn failed(cx: &Context<'_>) -> Next {
    cx.page.add(Word::Errors, 1);
    Next::Close
}
