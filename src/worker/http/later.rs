//! Connections whose handler keeps the response: from the return of `on_request` to the end of the response. Nothing of them is read:
//! what a client sends meanwhile waits in the kernel.

use super::conn::HttpConn;
use super::encode::After;
use super::exchange::{Exchange, Failure, Producer};
use super::fault::Fault;
use super::output::Sent;
use super::response::Response;
use super::{HttpEngine, phase_after};
use crate::log::log;
use crate::scoreboard::Word;
use crate::sys::{crash, socket};
use crate::worker::call::Context;
use crate::worker::engine::{Deadline, Next};
use crate::worker::failure::report_panic;
use crate::worker::touched::Touched;
use mio::Token;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;

/// The calls of a producer before other connections have their turn, and the bytes sent after which they have it too.
const CALLS: u32 = 1;
const TURN: u64 = 64 * 1024;
/// An HTTP connection whose last response the handler keeps.
pub(crate) struct Answering {
    fd: Rc<OwnedFd>,
    conn: HttpConn,
    exchange: Rc<Exchange<Response>>,
}

/// Tells the handler that the client has gone, once.
fn call_on_gone(exchange: &Exchange<Response>, cx: &mut Context<'_>) {
    if let Some(on_gone) = exchange.take_on_gone() {
        report_panic("on_gone", cx.call("on_gone", |_| on_gone()));
    }
}

/// Drops what the handler has given, which may run code of it.
pub(super) fn drop_callbacks(exchange: &Exchange<Response>, cx: &mut Context<'_>) {
    if let Some(on_gone) = exchange.take_on_gone() {
        report_panic("on_gone", cx.call("on_gone", |_| drop(on_gone)));
    }
    if let Some(producer) = exchange.take_producer() {
        drop_producer(producer, cx);
    }
}

fn drop_producer(producer: Box<dyn Producer<Response>>, cx: &mut Context<'_>) {
    report_panic("done", cx.call("done", |_| drop(producer)));
}

/// The handler has kept its response; `returned` is false if it panicked afterwards.
#[cold]
pub(super) fn kept(response: &Response, returned: bool) -> After {
    if let (false, Some(exchange)) = (returned, &response.exchange) {
        exchange.fail(true);
    }
    After::Later
}

/// The next step of the loop after that.
#[cold]
pub(super) fn next(response: &mut Response) -> Next {
    response.exchange.take().map_or(Next::Close, Next::Later)
}

impl Answering {
    /// A connection whose handler has kept the response. `token` is the loop's for it.
    pub(crate) fn new(
        fd: OwnedFd,
        mut conn: HttpConn,
        exchange: Rc<Exchange<Response>>,
        token: Token,
        touched: &Touched,
    ) -> Self {
        let fd = Rc::new(fd);
        // It is also set to have the engine read up to the end, whether that has come or not.
        conn.client_ended = conn.client_ended && socket::has_ended(fd.as_fd());
        exchange.attach(Rc::clone(&fd), token, touched);
        Self { fd, conn, exchange }
    }

    /// The connection.
    pub(super) fn conn(&self) -> &HttpConn {
        &self.conn
    }

    /// What it shares with the handle.
    pub(super) fn exchange(&self) -> &Rc<Exchange<Response>> {
        &self.exchange
    }

    /// True if a callback has done something with the response since the loop has served the connection.
    pub(crate) fn is_touched(&self) -> bool {
        self.exchange.is_touched()
    }

    /// The number of bytes that wait to be sent.
    #[cfg(test)]
    pub(super) fn unsent(&self) -> usize {
        self.exchange.output().waiting()
    }

    /// The connection is served in the next turn.
    pub(crate) fn forget_touch(&self) {
        self.exchange.end_serving();
    }

    /// True if the producer of the body would be called.
    pub(crate) fn wants_more(&self) -> bool {
        self.exchange.wants_more()
    }

    /// True if what was sent would look like a whole response if the connection ended now.
    pub(crate) fn would_look_complete(&self) -> bool {
        self.exchange.has_begun() && self.exchange.is_until_close()
    }

    /// The connection, when its exchange is over.
    pub(crate) fn into_http(self) -> Option<(OwnedFd, HttpConn)> {
        Some((Rc::into_inner(self.fd)?, self.conn))
    }

    /// Waits for the handler, or for the client if that has to take what was written.
    fn wait(&mut self) -> Next {
        if !self.exchange.output().is_empty() {
            let progress = std::mem::take(&mut self.conn.progress);
            return Next::Wait { write: true, progress, deadline: Deadline::Write };
        }
        let progress = self.exchange.has_progress();
        Next::Wait { write: false, progress, deadline: Deadline::Response }
    }

    /// Sends what has been written.
    fn send(&mut self, cx: &Context<'_>) -> io::Result<Sent> {
        let mut output = self.exchange.output();
        let sent = output.flush(self.fd.as_fd());
        let n = std::mem::take(&mut output.sent);
        cx.page.add(Word::BytesOut, n);
        self.conn.progress |= n > 0;
        self.conn.sent = self.conn.sent.saturating_add(u32::try_from(n).unwrap_or(u32::MAX));
        sent
    }
}

impl AsFd for Answering {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl HttpEngine {
    /// The poll has reported bytes, or if `ended` is set that the client has ended its side, or an error.
    pub(crate) fn on_readable_later(
        &mut self,
        answering: &mut Answering,
        ended: bool,
        cx: &mut Context<'_>,
    ) -> Next {
        if ended {
            if socket::is_broken(answering.as_fd()) {
                return Next::Close;
            }
            answering.conn.client_ended = true;
        }
        self.serve_later(answering, cx)
    }

    /// Does what the handler has asked for since the last time, and sends what the client takes. [`Next::Answered`] if the response is
    /// finished.
    pub(crate) fn serve_later(&mut self, answering: &mut Answering, cx: &mut Context<'_>) -> Next {
        let exchange = Rc::clone(&answering.exchange);
        exchange.begin_serving();
        let next = self.advance(answering, cx);
        exchange.end_serving();
        if answering.conn.client_ended && !matches!(next, Next::Close) {
            call_on_gone(&exchange, cx);
        }
        next
    }

    fn advance(&mut self, answering: &mut Answering, cx: &mut Context<'_>) -> Next {
        let exchange = Rc::clone(&answering.exchange);
        let sent_before = answering.conn.sent;
        let mut calls = 0;
        loop {
            if exchange.is_broken() {
                return Next::Close;
            }
            if let Some(mut response) = exchange.take_ended() {
                return self.finish_later(answering, &mut response, cx);
            }
            if let Some(failure) = exchange.failure() {
                let fault = Fault::new(500, "the handler failed");
                return self.give_up(answering, fault, failure, cx);
            }
            if calls < CALLS && exchange.wants_more() {
                calls += 1;
                if let Some(next) = self.call_producer(answering, cx) {
                    return next;
                }
                continue;
            }
            match answering.send(cx) {
                Err(_) => return Next::Close,
                Ok(Sent::Again) => return Next::Again,
                Ok(Sent::All | Sent::Blocked) => {}
            }
            if !exchange.wants_more() {
                return answering.wait();
            }
            if calls == CALLS || u64::from(answering.conn.sent - sent_before) >= TURN {
                return Next::Again;
            }
        }
    }

    /// Calls the producer; returns what is next if it was the last time.
    fn call_producer(&mut self, answering: &mut Answering, cx: &mut Context<'_>) -> Option<Next> {
        let exchange = Rc::clone(&answering.exchange);
        let mut producer = exchange.take_producer()?;
        let mark = exchange.mark();
        let response = producer.response();
        let goes_on = response.takes_parts() && {
            crash::note_client(answering.fd.as_fd());
            let called = cx.call("more", |_| producer.more());
            match called {
                Some(Ok(more)) => more,
                Some(Err(reason)) => {
                    if !reason.is_empty() && !producer.response().has_told(&reason) {
                        log!(Error, "more: {reason}");
                    }
                    producer.response().fail();
                    false
                }
                None => {
                    report_panic("more", called);
                    producer.response().fail();
                    false
                }
            }
        };
        if goes_on && producer.response().takes_parts() {
            exchange.put_back(producer, mark);
            return None;
        }
        let next = match exchange.is_broken() {
            true => Next::Close,
            false => self.finish_later(answering, producer.response(), cx),
        };
        drop_producer(producer, cx);
        Some(next)
    }

    /// Ends a connection whose client does not read, or a response that its handler does not finish.
    pub(crate) fn on_deadline_later(&mut self, answering: &mut Answering, cx: &mut Context<'_>) -> Next {
        if !answering.exchange.output().is_empty() {
            cx.page.add(Word::Errors, 1);
            return Next::Close;
        }
        let fault = Fault::new(504, "the response took too long");
        self.give_up(answering, fault, Failure { close: false }, cx)
    }

    /// Takes back the buffers of a connection that is dropped, and tells its handler.
    pub(crate) fn on_gone_later(&mut self, mut answering: Answering, cx: &mut Context<'_>) {
        cx.page.add(Word::Requests, 1);
        let exchange = &answering.exchange;
        exchange.set_over();
        if exchange.take_ended().is_none() {
            call_on_gone(exchange, cx);
        }
        drop_callbacks(exchange, cx);
        self.on_gone(&mut answering.conn, cx);
    }

    /// Finishes a response that has ended.
    fn finish_later(
        &mut self,
        answering: &mut Answering,
        response: &mut Response,
        cx: &mut Context<'_>,
    ) -> Next {
        let exchange = &answering.exchange;
        response.close |= cx.draining;
        let body = response.out.take_body();
        exchange.swap(&mut response.out);
        response.out.put_body(body);
        let failed = response.has_failed();
        let after = response.finish(*cx.now);
        exchange.swap(&mut response.out);
        if let Some(user) = response.user.take() {
            let input = answering.conn.input.get_or_insert_with(|| self.inputs.take());
            input.user = Some(user);
        }
        self.conclude_later(answering, after, failed, cx)
    }

    /// Answers in place of the handler; if a part of the response has been written already, cuts the connection.
    fn give_up(
        &mut self,
        answering: &mut Answering,
        fault: Fault,
        Failure { close }: Failure,
        cx: &mut Context<'_>,
    ) -> Next {
        let exchange = Rc::clone(&answering.exchange);
        let after = if exchange.has_begun() {
            After::Cut
        } else {
            let res = &mut self.response;
            exchange.swap(&mut res.out);
            res.begin(exchange.request(), close || cx.draining);
            let after = res.finish_with(fault, *cx.now);
            exchange.swap(&mut res.out);
            after
        };
        exchange.set_over();
        call_on_gone(&exchange, cx);
        self.conclude_later(answering, after, true, cx)
    }

    fn conclude_later(
        &mut self,
        answering: &mut Answering,
        after: After,
        failed: bool,
        cx: &mut Context<'_>,
    ) -> Next {
        let Answering { fd, conn, exchange } = answering;
        exchange.set_over();
        drop_callbacks(exchange, cx);
        cx.page.add(Word::Requests, 1);
        cx.page.add(Word::Errors, u64::from(failed));
        // Whether more has come is seen before the close.
        let is_last = || conn.input.is_none();
        conn.phase = phase_after(after, exchange.is_until_close(), is_last, fd.as_fd());
        (conn.counted, conn.has_more) = (failed, true);
        let mut output = self.outputs.take();
        exchange.swap(&mut output);
        conn.output = Some(output);
        Next::Answered
    }
}
