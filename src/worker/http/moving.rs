//! Responses that their handler keeps, on their way from one worker to another.

use super::HttpEngine;
use super::conn::Phase;
use super::exchange::{Exchange, RequestTraits};
use super::framing::Framing;
use super::handle::Later;
use super::later::{Answering, drop_callbacks};
use super::response::{Response, Stage};
use crate::sys::lend::Lent;
use crate::worker::call::Context;
use crate::worker::handover::{AnswerState, Occasion, StreamState};
use std::os::fd::OwnedFd;
use std::rc::Rc;

impl Answering {
    /// True if the handler may be asked whether it goes to another worker: not if requests wait behind it.
    pub(crate) fn may_go(&self, occasion: Occasion) -> bool {
        self.conn().phase == Phase::Open && self.conn().input.is_none() && self.exchange().may_go(occasion)
    }

    /// The handler is asked.
    pub(crate) fn set_asked(&self, occasion: Occasion) {
        self.exchange().set_asked(occasion);
    }

    /// Has the handler write down what another worker needs. `None` if it stays.
    pub(crate) fn ask(&self, room: usize, cx: &mut Context<'_>) -> Option<Option<Vec<u8>>> {
        let exchange = self.exchange();
        let Some(mut on_handover) = exchange.take_on_handover() else { return Some(None) };
        let given = cx.call("on_handover", |_| on_handover(room));
        // If the handler has ended it meanwhile, it is finished here.
        let given = if exchange.has_ended() { given.map(|_| None) } else { given };
        if !matches!(given, Some(Some(_))) {
            exchange.put_on_handover_back(on_handover);
        }
        given
    }

    /// What the worker to which it goes needs to know beside what `state` has.
    pub(crate) fn write_down(&self, state: StreamState) -> StreamState {
        let exchange = self.exchange();
        let RequestTraits { is_head, minor, keep_alive } = exchange.request();
        let answer = AnswerState {
            is_head,
            is_http_11: minor > 0,
            keeps_alive: keep_alive,
            closes: exchange.closes(),
            has_begun: exchange.has_begun(),
            until_close: exchange.is_until_close(),
            left: exchange.left(),
        };
        let unsent = exchange.output().unsent().to_vec();
        StreamState { unsent, at_end: self.conn().client_ended, answer: Some(answer), ..state }
    }
}

impl HttpEngine {
    /// Gives up a connection that goes to another worker: neither `on_gone` nor anything else is called for it but the end of a
    /// producer.
    pub(crate) fn let_go_later(&mut self, answering: Answering, cx: &mut Context<'_>) -> Option<OwnedFd> {
        let exchange = Rc::clone(answering.exchange());
        exchange.set_over();
        drop(exchange.take_on_gone());
        drop_callbacks(&exchange, cx);
        let (fd, mut conn) = answering.into_http()?;
        self.on_gone(&mut conn, cx);
        Some(fd)
    }

    /// Has the handler go on with a response of another worker. Returns what it shares with its connection, and whether the handler takes
    /// it; `None` if it panicked.
    pub(crate) fn arrive(
        &mut self,
        state: &StreamState,
        answer: AnswerState,
        listener: u16,
        cx: &mut Context<'_>,
    ) -> (Rc<Exchange<Response>>, Option<Result<(), String>>) {
        let request = RequestTraits {
            is_head: answer.is_head,
            minor: answer.is_http_11.into(),
            keep_alive: answer.keeps_alive,
        };
        let exchange = Rc::new(Exchange::new(request, Rc::new(Lent::new()), self.response.pending()));
        exchange.output().bytes.extend_from_slice(&state.unsent);
        if answer.closes {
            exchange.note_closes();
        }
        if answer.has_begun {
            exchange.note_begun(framing_of(answer));
        }
        exchange.set_arriving(true);
        let res = Later::new(self.response.resumed(&exchange, answer));
        let taken =
            cx.call("on_resume", |handler| handler.on_resume_at(listener, res, state.version, &state.bytes));
        exchange.set_arriving(false);
        (exchange, taken)
    }

    /// The handler has not taken a response that has come from another worker.
    pub(crate) fn give_back(&mut self, exchange: &Exchange<Response>, cx: &mut Context<'_>) {
        exchange.set_over();
        drop(exchange.take_ended());
        drop_callbacks(exchange, cx);
    }
}

fn framing_of(answer: AnswerState) -> Framing {
    match answer.left {
        Some(left) => Framing::Declared(left),
        None if answer.until_close => Framing::UntilClose,
        None => Framing::Chunked,
    }
}

impl Response {
    /// The response that a handler goes on with.
    fn resumed(&self, exchange: &Rc<Exchange<Self>>, answer: AnswerState) -> Box<Self> {
        let mut kept = Box::new(Self::new(self.pending(), self.takes_streams()));
        kept.begin(exchange.request(), answer.closes || answer.until_close);
        if answer.has_begun {
            kept.stage = Stage::Stream(framing_of(answer));
            (kept.partly_sent, kept.until_close) = (true, answer.until_close);
            (kept.length, kept.left) = (answer.left, answer.left.unwrap_or(0));
        }
        kept.exchange = Some(Rc::clone(exchange));
        kept
    }
}
