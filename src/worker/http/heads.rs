//! Requests of a handler that decides after the head: it is asked, and then gets the body whole or in pieces.

use super::encode::After;
use super::exchange::RequestTraits;
use super::fault::Fault;
use super::head::{self, Head, Length};
use super::input::{Input, Partial};
use super::upload::{Part, Take, Upload};
use super::{HttpEngine, Link, Request};
use crate::scoreboard::Word;
use crate::worker::call::Context;
use crate::worker::engine::Next;
use crate::worker::failure::{PANICKED, report, report_panic};
use std::rc::Rc;

/// What becomes of a request after `on_head`.
enum Asked {
    Whole,
    Pieces,
    Answered(After),
}

impl HttpEngine {
    /// As [`HttpEngine::next_request`].
    pub(super) fn next_asked(
        &mut self,
        input: &mut Input,
        link: &mut Link<'_, '_>,
    ) -> Result<Option<After>, Fault> {
        if input.is_empty() || input.is_paused() {
            return Ok(None);
        }
        if input.upload.is_none() {
            if let Some(after) = self.ask(input, link)? {
                return Ok(Some(after));
            }
            if input.is_paused() {
                return Ok(None);
            }
        }
        let Some(upload) = input.upload.clone() else { return Ok(None) };
        let after = if input.is_in_pieces() {
            input.next_piece(|head, piece, is_last| self.give(head, piece, is_last, &upload, link))?
        } else {
            let limits = &link.cx.config.limits;
            upload.set_part(Part::End);
            input.next_scanned(limits, |head, body| self.answer_asked(head, body, &upload, true, link))?
        };
        if after.is_some() {
            drop(upload);
            self.release(input, link.cx);
        }
        Ok(after)
    }

    /// Calls `on_head` if a head is complete. Returns the answer if that was one.
    fn ask(&mut self, input: &mut Input, link: &mut Link<'_, '_>) -> Result<Option<After>, Fault> {
        let limits = &link.cx.config.limits;
        let found = input.find_head(&mut link.conn.empty_lines, limits);
        let Some(head_len) = found? else { return Ok(None) };
        link.conn.empty_lines = 0;
        let mut table = head::table();
        let head = Head::parse(&input.rest()[..head_len], &mut table)?;
        let has_body = head.length != Length::Sized(0);
        let upload = self.spare.take().unwrap_or_default();
        let asked = self.call_on_head(&head, &upload, has_body, link);
        let partial = match asked {
            Asked::Whole => Partial::whole(&head, limits).map(Some),
            Asked::Pieces => Ok(Some(Partial::in_pieces(&head, limits))),
            Asked::Answered(_) => Ok(None),
        };
        input.upload = Some(upload);
        input.partial = partial?;
        let Asked::Answered(after) = asked else {
            return Ok(None);
        };
        self.release(input, link.cx);
        // What is left of a body says that more of it may come: the connection is closed in stages.
        if !has_body {
            input.consume(head_len);
        }
        Ok(Some(after))
    }

    fn call_on_head(
        &mut self,
        head: &Head<'_>,
        upload: &Rc<Upload>,
        has_body: bool,
        link: &mut Link<'_, '_>,
    ) -> Asked {
        self.begin(head, !has_body, link);
        upload.set_part(Part::Head);
        let (res, cx) = (&mut self.response, &mut *link.cx);
        let request = Request::asked(head, &[], link.fd, link.listener, upload);
        request.note();
        let lent = Rc::clone(&res.lent);
        let take = lent.during(link.fd, || cx.call("on_head", |handler| handler.on_head(&request, res)));
        let take = match take {
            Some(take) => take,
            None => {
                report("on_head", &request.brief(), PANICKED);
                return Asked::Answered(self.end_asked(false, link));
            }
        };
        // A response of which the client may have a part is the only one that it can get.
        if take == Take::Refuse || res.has_begun() {
            return Asked::Answered(self.end_asked(true, link));
        }
        res.forget();
        link.conn.counted = false;
        if take == Take::Pieces {
            return Asked::Pieces;
        }
        upload.end_pause();
        Asked::Whole
    }

    /// Starts a response. `stays`: nothing of the request can come behind it.
    fn begin(&mut self, head: &Head<'_>, stays: bool, link: &mut Link<'_, '_>) {
        let res = &mut self.response;
        let is_head = head.line.method == b"HEAD";
        let keep_alive = head.keep_alive && stays;
        res.begin(RequestTraits { is_head, minor: head.line.minor, keep_alive }, link.cx.draining);
        if head.upgrade && stays {
            res.offer(head);
        }
    }

    /// Calls `on_body`; returns the answer if that was the last piece, or is to be.
    fn give(
        &mut self,
        head: &Head<'_>,
        piece: &[u8],
        is_last: bool,
        upload: &Rc<Upload>,
        link: &mut Link<'_, '_>,
    ) -> Option<After> {
        upload.set_part(if is_last { Part::End } else { Part::Piece });
        let request = Request::asked(head, &[], link.fd, link.listener, upload);
        request.note();
        let called = link.cx.call("on_body", |handler| handler.on_body(&request, piece, is_last));
        if called.is_none() {
            report("on_body", &request.brief(), PANICKED);
            self.begin(head, false, link);
            return Some(self.end_asked(false, link));
        }
        if is_last || upload.is_stopped() {
            upload.set_part(Part::End);
            return Some(self.answer_asked(head, &[], upload, is_last, link));
        }
        None
    }

    /// Calls `on_request`. `stays`: nothing of the request can come behind its answer.
    fn answer_asked(
        &mut self,
        head: &Head<'_>,
        body: &[u8],
        upload: &Rc<Upload>,
        stays: bool,
        link: &mut Link<'_, '_>,
    ) -> After {
        self.begin(head, stays, link);
        let (res, cx) = (&mut self.response, &mut *link.cx);
        let request = Request::asked(head, body, link.fd, link.listener, upload);
        request.note();
        let lent = Rc::clone(&res.lent);
        let called =
            lent.during(link.fd, || cx.call("on_request", |handler| handler.on_request(&request, res)));
        if called.is_none() {
            report("on_request", &request.brief(), PANICKED);
        }
        self.end_asked(called.is_some(), link)
    }

    /// As [`HttpEngine::end_answer`], not inlined.
    fn end_asked(&mut self, returned: bool, link: &mut Link<'_, '_>) -> After {
        self.end_answer(returned, link)
    }

    /// The request is over: the handler's value for it is dropped.
    pub(super) fn release(&mut self, input: &mut Input, cx: &mut Context<'_>) {
        let Some(mut upload) = input.upload.take() else { return };
        upload.end();
        if let Some(user) = upload.take_user() {
            report_panic("release", cx.call("release", |_| drop(user)));
        }
        // Its memory serves the next one.
        if let Some(unused) = Rc::get_mut(&mut upload) {
            *unused = Upload::default();
            self.spare = Some(upload);
        }
    }

    /// The connection of a request is dropped.
    #[cold]
    pub(super) fn release_unfinished(&mut self, input: &mut Input, counted: bool, cx: &mut Context<'_>) {
        if input.is_in_pieces() {
            cx.page.add(Word::Errors, u64::from(!counted));
        }
        self.release(input, cx);
    }

    /// The next step of the loop when the handler has paused the body.
    #[cold]
    pub(super) fn pause(link: &mut Link<'_, '_>) -> Next {
        let upload = link.conn.input.as_ref().and_then(|input| input.upload.clone());
        upload.map_or_else(|| link.conn.wait(), Next::Pause)
    }
}
