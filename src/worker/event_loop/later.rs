//! Connections whose handler keeps the response, from the return of `on_request` to the end of the response, or has paused the body
//! of a request.

use super::{Cause, Context, EventLoop, context};
use crate::log::log;
use crate::scoreboard::Word;
use crate::worker::engine::Next;
use crate::worker::http::Response;
use crate::worker::http::exchange::Exchange;
use crate::worker::http::later::Answering;
use crate::worker::http::upload::Upload;
use crate::worker::table::Protocol;
use std::rc::Rc;

impl EventLoop<'_> {
    /// As [`EventLoop::apply`].
    #[cold]
    fn apply_apart(&mut self, index: u32, next: Next) {
        self.apply(index, next);
    }

    /// The handler has kept the response to the last request.
    pub(super) fn keep(&mut self, index: u32, exchange: Rc<Exchange<Response>>) {
        let token = self.table.token(index);
        let row = self.table.row(index);
        let Protocol::Http(fd, conn) = std::mem::replace(&mut row.protocol, Protocol::Free) else { return };
        let answering = Answering::new(fd, conn, exchange, token, &self.touched);
        row.protocol = Protocol::Later(Box::new(answering));
        self.worker.info.page.add(Word::Later, 1);
        let Protocol::Later(answering) = &mut row.protocol else { return };
        match self.http.serve_later(answering, context!(self)) {
            // In the next turn: a client that sends thousands of requests at once would have each begin within the one before.
            Next::Answered => {
                self.turn_back(index);
                self.apply_apart(index, Next::Again);
            }
            next => self.apply_apart(index, next),
        }
    }

    pub(super) fn run_later(&mut self, index: u32, cause: Cause) {
        let Protocol::Later(answering) = &mut self.table.row(index).protocol else { return };
        let cx = context!(self);
        let next = match cause {
            Cause::Readable { ended } => self.http.on_readable_later(answering, ended, cx),
            Cause::Writable => self.http.serve_later(answering, cx),
            Cause::Deadline => self.http.on_deadline_later(answering, cx),
        };
        self.apply_apart(index, next);
    }

    /// A callback has done something with the response. A producer is not called before the next turn: two that write to each other's
    /// responses would go on for ever.
    pub(super) fn run_touched(&mut self, index: u32) {
        let Protocol::Later(answering) = &mut self.table.row(index).protocol else { return };
        if answering.wants_more() {
            answering.forget_touch();
            return self.apply_apart(index, Next::Again);
        }
        self.run(index, Cause::Writable);
    }

    /// The response is finished, and the connection continues.
    pub(super) fn continue_http(&mut self, index: u32) {
        self.turn_back(index);
        self.run(index, Cause::Writable);
    }

    fn turn_back(&mut self, index: u32) {
        let row = self.table.row(index);
        if let Protocol::Later(answering) = std::mem::replace(&mut row.protocol, Protocol::Free)
            // The exchange is over and has given up its share of the descriptor.
            && let Some((fd, conn)) = answering.into_http()
        {
            row.protocol = Protocol::Http(fd, conn);
            self.worker.info.page.take_one(Word::Later);
        }
    }

    /// The handler wants no more of a body for now.
    #[cold]
    pub(super) fn pause(&mut self, index: u32, upload: &Upload) {
        self.deadlines.clear(index);
        upload.attach(self.table.token(index), &self.touched);
        // For the reset of its client.
        if let Err(e) = self.watch(index, false) {
            log!(Error, "watch a connection: {e}");
            self.close(index);
        }
    }

    /// The handler wants more of it. In the next turn: two requests that resume each other would go on for ever.
    #[cold]
    pub(super) fn resume(&mut self, index: u32) {
        self.apply_apart(index, Next::Again);
    }
}
