//! HTTP/1.1 and HTTP/1.0 in a worker: the state machine between the worker's loop and the handler.
//!
//! Requests that arrive complete are parsed in one buffer of the worker, answered into another, and sent by one call; nothing
//! of them is kept per connection. What is partial lives in pooled buffers; an idle connection owns none.

mod bodies;
mod chunked;
pub(super) mod closing;
mod conditions;
mod conn;
pub mod content_type;
#[cfg(feature = "http")]
mod crate_types;
mod date;
mod encode;
pub(super) mod exchange;
mod fault;
mod files;
mod framing;
#[cfg(any(fuzzing, test))]
pub mod fuzzing;
pub(super) mod handle;
mod head;
mod heads;
mod input;
pub(super) mod later;
mod lookups;
mod moving;
pub mod multipart;
mod output;
pub mod pairs;
mod parameters;
mod percent;
pub mod pieces;
mod pool;
mod quick;
mod range;
pub mod request;
pub mod response;
mod scan;
mod target;
mod token;
pub mod upload;

#[cfg(test)]
mod tests;

pub use bodies::Writer;
pub(crate) use conn::HttpConn;
pub use content_type::content_type;
pub(crate) use exchange::Producer;
pub use handle::{Later, Resume};
pub use multipart::{Malformed, Multipart, Part, PartEvent};
pub use pairs::Pairs;
pub use request::Request;
pub use response::{Refused, Response, ToStatus};
pub use upload::Take;

use super::call::Context;
use super::engine::Next;
use super::failure::{PANICKED, report};
use crate::config::Config;
use crate::scoreboard::Word;
use crate::sys::socket;
use conn::Phase;
use encode::After;
use exchange::RequestTraits;
use fault::Fault;
use head::Head;
use input::Input;
use output::{Body, Output, Sent};
use pool::Pool;
use std::io;
use std::os::fd::BorrowedFd;
use std::rc::Rc;
use upload::Upload;

/// Requests answered, and reads made, before other connections have their turn.
const REQUESTS: usize = 64;
const READS: usize = 16;
/// Responses to pipelined requests are sent when they reach this size.
const BATCH: usize = 64 * 1024;

/// The parts that the connections of one worker share.
pub(crate) struct HttpEngine {
    /// The buffer for requests that arrive complete, when it is not in use.
    scratch: Option<Box<Input>>,
    response: Response,
    inputs: Pool<Input>,
    outputs: Pool<Output>,
    /// The handler decides after the head.
    takes_heads: bool,
    /// For the next request of such a handler.
    spare: Option<Rc<Upload>>,
}

/// One connection during a call.
struct Link<'a, 'h> {
    fd: BorrowedFd<'a>,
    listener: u16,
    conn: &'a mut HttpConn,
    cx: &'a mut Context<'h>,
}

/// The reason to stop reading and answering.
#[derive(PartialEq, Eq)]
enum Stop {
    /// The kernel has no more bytes of the client, or the phase of the connection has changed.
    Done,
    /// Other connections have their turn.
    Yield,
    /// The client takes no more bytes for now.
    Blocked,
    /// The client is gone.
    Gone,
    /// The handler keeps the response.
    Later,
    /// The handler has paused the body.
    Paused,
}

impl Link<'_, '_> {
    /// Reads once: the number of bytes, 0 if none are there; `None` if the client has ended its side.
    fn receive(&mut self, input: &mut Input) -> io::Result<Option<usize>> {
        match input.fill(self.fd) {
            Ok(0) => {
                (self.conn.has_more, self.conn.client_ended) = (false, true);
                Ok(None)
            }
            Ok(n) => {
                self.cx.page.add(Word::BytesIn, n as u64);
                self.conn.has_more = self.conn.client_ended || input.is_full();
                Ok(Some(n))
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                // If the client had ended its side, the read would have said so.
                (self.conn.has_more, self.conn.client_ended) = (false, false);
                Ok(Some(0))
            }
            Err(e) => Err(e),
        }
    }
}

impl HttpEngine {
    /// `takes_streams`: the handler serves upgraded connections; `takes_heads`: it decides after the head.
    pub(crate) fn new(config: &Config, takes_streams: bool, takes_heads: bool) -> Self {
        Self {
            scratch: None,
            response: Response::new(config.limits.pending, takes_streams),
            inputs: Pool::default(),
            outputs: Pool::default(),
            takes_heads,
            spare: None,
        }
    }

    /// Handles bytes that may have arrived. `at_end`: poll has reported that the client ended its side.
    pub(crate) fn on_readable(
        &mut self,
        fd: BorrowedFd<'_>,
        listener: u16,
        conn: &mut HttpConn,
        at_end: bool,
        cx: &mut Context<'_>,
    ) -> Next {
        conn.has_more = true;
        conn.client_ended |= at_end;
        self.on_writable(fd, listener, conn, cx)
    }

    /// Continues with a socket that may take bytes again.
    pub(crate) fn on_writable(
        &mut self,
        fd: BorrowedFd<'_>,
        listener: u16,
        conn: &mut HttpConn,
        cx: &mut Context<'_>,
    ) -> Next {
        let link = &mut Link { fd, listener, conn, cx };
        let unsent = link.conn.output.take().and_then(|mut output| {
            std::mem::swap(&mut *output, &mut self.response.out);
            self.outputs.put(output);
            self.flush(link)
        });
        let stop = match unsent {
            None if link.conn.phase == Phase::Open && self.takes_heads => self.serve_heads(link),
            None if link.conn.phase == Phase::Open => self.serve::<false>(link),
            stop => stop.unwrap_or(Stop::Done),
        };
        self.conclude(stop, link)
    }

    /// Ends a connection whose deadline has passed. A client with a partial request gets a 408 (RFC 9110 section 15.5.9).
    pub(crate) fn on_deadline(
        &mut self,
        fd: BorrowedFd<'_>,
        conn: &mut HttpConn,
        cx: &mut Context<'_>,
    ) -> Next {
        if conn.output.is_some() {
            cx.page.add(Word::Errors, u64::from(!std::mem::replace(&mut conn.counted, true)));
            return Next::Close;
        }
        let Some(mut input) = conn.input.take_if(|_| conn.phase == Phase::Open) else { return Next::Close };
        if input.partial.is_none() && conn.used && *cx.now < conn.since + cx.config.timeouts.header {
            // The deadline was that of an earlier head, which has been answered since.
            conn.input = Some(input);
            return conn.wait();
        }
        let link = &mut Link { fd, listener: 0, conn, cx };
        self.refuse(Fault::new(408, "the request took too long to arrive"), &input, link);
        if input.upload.is_some() {
            self.release(&mut input, link.cx);
        }
        self.inputs.put(input);
        let stop = self.flush(link).unwrap_or(Stop::Done);
        self.conclude(stop, link)
    }

    /// Takes back the buffers of a connection that is dropped.
    pub(crate) fn on_gone(&mut self, conn: &mut HttpConn, cx: &mut Context<'_>) {
        if let Some(mut input) = conn.input.take() {
            if input.upload.is_some() {
                self.release_unfinished(&mut input, conn.counted, cx);
            }
            self.inputs.put(input);
        }
        if let Some(output) = conn.output.take() {
            self.outputs.put(output);
        }
    }

    /// Reads and answers requests until there is a reason to stop, then sends the responses. `HEADS`: the handler decides after the head.
    #[inline(always)]
    fn serve<const HEADS: bool>(&mut self, link: &mut Link<'_, '_>) -> Stop {
        let own = link.conn.input.take();
        let mut is_own = own.is_some();
        let mut input = own.unwrap_or_else(|| self.take_scratch());
        let (mut requests, mut reads) = (0, 0);
        let stop = loop {
            if requests == REQUESTS || reads == READS {
                break Stop::Yield;
            }
            let next =
                if HEADS { self.next_asked(&mut input, link) } else { self.next_request(&mut input, link) };
            match next {
                Ok(Some(after)) => {
                    requests += 1;
                    if let Some(stop) = self.after(after, &input, link) {
                        break stop;
                    }
                }
                Ok(None) if HEADS && input.is_paused() => {
                    // The end of a client that has sent everything is seen when the rest is read.
                    let is_gone = link.conn.client_ended && socket::is_broken(link.fd);
                    break if is_gone { Stop::Gone } else { Stop::Paused };
                }
                Ok(None) if link.conn.has_more => {
                    reads += 1;
                    if !is_own && !input.is_empty() {
                        (input, is_own) = (self.adopt(input), true);
                    }
                    if let Some(stop) = self.read(&mut input, link) {
                        break stop;
                    }
                }
                Ok(None) => {
                    // RFC 9110 section 10.1.1.
                    if input.take_expectation() {
                        self.response.out.bytes.extend_from_slice(b"HTTP/1.1 100 Continue\r\n\r\n");
                    }
                    break Stop::Done;
                }
                Err(fault) => {
                    self.refuse(fault, &input, link);
                    break Stop::Done;
                }
            }
        };
        if HEADS && link.conn.phase != Phase::Open {
            self.release(&mut input, link.cx);
        }
        if !is_own || requests > 0 {
            link.conn.since = *link.cx.now;
        }
        if link.conn.phase == Phase::Upgrading || link.conn.phase == Phase::Open && !input.is_empty() {
            let mut own = if is_own { input } else { self.adopt(input) };
            own.compact();
            own.user = self.response.user.take();
            link.conn.input = Some(own);
        } else if is_own {
            self.inputs.put(input);
        } else {
            self.return_scratch(input);
        }
        match stop {
            Stop::Gone | Stop::Blocked => stop,
            _ => self.flush(link).unwrap_or(stop),
        }
    }

    #[inline(always)]
    fn take_scratch(&mut self) -> Box<Input> {
        self.scratch.take().unwrap_or_else(|| Box::new(Input::new(input::READ)))
    }

    #[inline(always)]
    fn return_scratch(&mut self, mut scratch: Box<Input>) {
        scratch.clear();
        // There is none: an assignment would look for one to drop.
        self.scratch.get_or_insert(scratch);
    }

    /// Copies a partial request from the worker's buffer to one for the connection.
    fn adopt(&mut self, mut scratch: Box<Input>) -> Box<Input> {
        let mut own = self.inputs.take();
        own.copy_rest(&mut scratch);
        self.return_scratch(scratch);
        own
    }

    /// Answers a request if it is complete; `None` if more bytes are needed.
    fn next_request(&mut self, input: &mut Input, link: &mut Link<'_, '_>) -> Result<Option<After>, Fault> {
        if input.is_empty() {
            // Before the read, and after the last of the requests that it brought.
            return Ok(None);
        }
        let mut empty_lines = link.conn.empty_lines;
        let limits = &link.cx.config.limits;
        let answered =
            input.next_request(&mut empty_lines, limits, |head, body| self.answer(head, body, link));
        link.conn.empty_lines = if let Ok(Some(_)) = answered { 0 } else { empty_lines };
        answered
    }

    /// Calls the handler with a complete request.
    fn answer(&mut self, head: &Head<'_>, body: &[u8], link: &mut Link<'_, '_>) -> After {
        let (res, cx) = (&mut self.response, &mut *link.cx);
        let is_head = head.line.method == b"HEAD";
        res.begin(
            RequestTraits { is_head, minor: head.line.minor, keep_alive: head.keep_alive },
            cx.draining,
        );
        if head.upgrade {
            res.offer(head);
        }
        let request = Request::new(head, body, link.fd, link.listener);
        request.note();
        let lent = Rc::clone(&res.lent);
        let called =
            lent.during(link.fd, || cx.call("on_request", |handler| handler.on_request(&request, res)));
        if called.is_none() {
            report("on_request", &request.brief(), PANICKED);
        }
        self.end_answer(called.is_some(), link)
    }

    /// Counts a request that the handler has answered, and finishes the response; `returned` is false if it panicked.
    #[inline(always)]
    fn end_answer(&mut self, returned: bool, link: &mut Link<'_, '_>) -> After {
        let (res, cx) = (&mut self.response, &mut *link.cx);
        if !returned {
            res.fail();
            res.close();
        }
        link.conn.used = true;
        if res.is_kept() {
            return later::kept(res, returned);
        }
        cx.page.add(Word::Requests, 1);
        link.conn.counted = res.has_failed();
        if link.conn.counted {
            cx.page.add(Word::Errors, 1);
        }
        res.finish(*cx.now)
    }

    /// As [`HttpEngine::serve`], for a handler that decides after the head. Apart, so that others do not pay for it.
    #[inline(never)]
    fn serve_heads(&mut self, link: &mut Link<'_, '_>) -> Stop {
        self.serve::<true>(link)
    }

    /// Sets the phase after a response, and sends what is large. Returns the reason to stop, if there is one.
    #[inline(always)]
    fn after(&mut self, after: After, input: &Input, link: &mut Link<'_, '_>) -> Option<Stop> {
        let is_last = || input.is_empty() && !link.conn.has_more;
        link.conn.phase = phase_after(after, self.response.until_close, is_last, link.fd);
        if self.response.client_gone {
            return Some(Stop::Gone);
        }
        if after != After::Stay {
            return Some(if after == After::Later { Stop::Later } else { Stop::Done });
        }
        let out = &self.response.out;
        if out.waiting() < BATCH && matches!(out.body, Body::None) {
            return None;
        }
        self.flush(link)
    }

    /// Reads once. Returns the reason to stop, if there is one.
    fn read(&mut self, input: &mut Input, link: &mut Link<'_, '_>) -> Option<Stop> {
        match link.receive(input) {
            Ok(Some(_)) => None,
            Ok(None) => {
                if !input.is_empty() {
                    self.refuse(Fault::bad("the request is not complete"), input, link);
                }
                link.conn.phase = Phase::Closing;
                Some(Stop::Done)
            }
            Err(_) => Some(Stop::Gone),
        }
    }

    fn refuse(&mut self, fault: Fault, input: &Input, link: &mut Link<'_, '_>) {
        link.cx.page.add(Word::Errors, 1);
        link.conn.counted = true;
        self.response.refuse(fault, input.rest().starts_with(b"HEAD "), *link.cx.now);
        link.conn.phase = Phase::ClosingSlowly;
    }

    /// Keeps what the client did not take of the responses, and returns what the loop is to do next.
    fn conclude(&mut self, stop: Stop, link: &mut Link<'_, '_>) -> Next {
        let out = &mut self.response.out;
        if stop == Stop::Gone {
            out.clear();
            return Next::Close;
        }
        if !out.is_empty() {
            let mut output = self.outputs.take();
            std::mem::swap(&mut *output, out);
            link.conn.output = Some(output);
        } else if link.conn.phase != Phase::Open {
            return self.finish(link);
        }
        if stop == Stop::Later {
            return later::next(&mut self.response);
        }
        if stop == Stop::Paused && link.conn.output.is_none() {
            return Self::pause(link);
        }
        if stop == Stop::Yield { Next::Again } else { link.conn.wait() }
    }

    /// Sends the gathered responses. Returns the reason to stop unless everything was sent.
    fn flush(&mut self, link: &mut Link<'_, '_>) -> Option<Stop> {
        let out = &mut self.response.out;
        // A handler that streams sends by itself, perhaps all of it, which is counted here.
        if out.is_empty() && out.sent == 0 {
            return None;
        }
        out.last = matches!(link.conn.phase, Phase::Cut | Phase::Closing | Phase::ClosingSlowly);
        if matches!(out.body, Body::File(..)) && !link.conn.nonblocking {
            link.conn.nonblocking = socket::set_nonblocking(link.fd, true).is_ok();
            if !link.conn.nonblocking {
                return Some(Stop::Gone);
            }
        }
        let sent = out.flush(link.fd);
        link.conn.progress |= out.sent > 0;
        link.conn.sent = link.conn.sent.saturating_add(u32::try_from(out.sent).unwrap_or(u32::MAX));
        link.cx.page.add(Word::BytesOut, std::mem::take(&mut out.sent));
        match sent {
            Ok(Sent::All) => {
                pool::reset(&mut out.bytes);
                pool::reset(&mut out.copied);
                None
            }
            Ok(Sent::Blocked) => Some(Stop::Blocked),
            Ok(Sent::Again) => Some(Stop::Yield),
            Err(e) => {
                // Not the client's fault: a file has become shorter than the head says.
                if e.kind() == io::ErrorKind::UnexpectedEof {
                    link.cx.page.add(Word::Errors, 1);
                }
                Some(Stop::Gone)
            }
        }
    }
}

/// The phase of a connection after a response. `is_last`: nothing of the client has come behind the request.
#[inline]
fn phase_after(after: After, until_close: bool, is_last: impl FnOnce() -> bool, fd: BorrowedFd<'_>) -> Phase {
    match after {
        After::Stay | After::Later => Phase::Open,
        After::Cut if until_close => {
            // A plain end of the connection would make the response look complete.
            let _ = socket::reset_on_close(fd);
            Phase::Cut
        }
        After::Close if is_last() => Phase::Closing,
        After::Close | After::CloseFirst | After::Cut => Phase::ClosingSlowly,
        After::Upgrade => Phase::Upgrading,
    }
}
