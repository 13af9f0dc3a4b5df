//! HTTP/1.1 and HTTP/1.0 on one worker's connections: the state machine between the worker's loop and the handler.
//!
//! A worker has one [`HttpEngine`] with the buffers that are hot: requests that come in whole are parsed where they were
//! read, answered into one output buffer, and sent by one call, without any state of their connection. What is partial
//! lives in pooled buffers; an idle connection owns none.

mod chunked;
mod closing;
mod conn;
mod date;
mod encode;
mod fault;
#[cfg(any(fuzzing, test))]
pub mod fuzzing;
mod head;
mod input;
mod output;
mod pool;
mod request;
mod response;
mod scan;
mod target;
mod token;

#[cfg(test)]
mod tests;

pub(crate) use conn::HttpConn;
pub use request::Request;
pub use response::{Refused, Response};

use super::engine::{Context, Deadline, Next};
use crate::config::Config;
use crate::scoreboard::Word;
use crate::sys::socket;
use chunked::Piece;
use conn::{Phase, wait};
use encode::After;
use fault::Fault;
use head::Head;
use input::{Due, Fill, Input};
use output::{Output, Sent};
use pool::Pool;
use response::Asker;
use std::os::fd::BorrowedFd;
use std::rc::Rc;

/// Requests answered, and reads made, before other connections have their turn.
const REQUESTS: usize = 64;
const READS: usize = 16;
/// What is gathered of pipelined responses before it is sent.
const BATCH: usize = 64 * 1024;
/// Empty lines that may stand before a request (RFC 9112 section 2.2 wants at least one to be ignored).
const EMPTY_LINES: u8 = 8;

/// What the connections of one worker share.
pub(crate) struct HttpEngine {
    /// Where requests are read that come in whole; `None` while one is at work.
    scratch: Option<Box<Input>>,
    response: Response,
    inputs: Pool<Input>,
    outputs: Pool<Output>,
}

/// One connection during a call.
struct Link<'a> {
    fd: BorrowedFd<'a>,
    listener: u16,
    conn: &'a mut HttpConn,
}

/// What reading a request came to.
enum Step {
    Answered(After),
    /// More bytes are due.
    Short,
}

/// Why reading and answering stopped.
#[derive(PartialEq, Eq)]
enum Stop {
    /// There is nothing more to read.
    Drained,
    /// Others come first.
    Turn,
    /// The client has to read first.
    Blocked,
    /// The connection ends or changes, as its phase says.
    Over,
    /// Nothing can be sent or read any more.
    Gone,
}

impl HttpEngine {
    pub(crate) fn new(config: &Config) -> Self {
        Self {
            scratch: Some(Input::scratch()),
            response: Response::new(config.limits.pending),
            inputs: Pool::new(),
            outputs: Pool::new(),
        }
    }

    /// Bytes may be there. `at_end`: poll has said that the client has ended its side.
    pub(crate) fn on_readable(
        &mut self,
        fd: BorrowedFd<'_>,
        listener: u16,
        conn: &mut HttpConn,
        at_end: bool,
        cx: &mut Context<'_>,
    ) -> Next {
        conn.more = true;
        conn.ended |= at_end;
        self.run(&mut Link { fd, listener, conn }, cx)
    }

    /// The socket may take bytes again, or [`Next::Again`] was said.
    pub(crate) fn on_writable(
        &mut self,
        fd: BorrowedFd<'_>,
        listener: u16,
        conn: &mut HttpConn,
        cx: &mut Context<'_>,
    ) -> Next {
        self.run(&mut Link { fd, listener, conn }, cx)
    }

    /// The deadline is over. A client in the midst of a request is told so (RFC 9110 section 15.5.9).
    pub(crate) fn on_deadline(
        &mut self,
        fd: BorrowedFd<'_>,
        conn: &mut HttpConn,
        cx: &mut Context<'_>,
    ) -> Next {
        if conn.output.is_some() {
            cx.page.add(Word::Errors, 1);
        }
        if conn.phase != Phase::Open || conn.output.is_some() || conn.input.is_none() {
            return Next::Close;
        }
        let next = wait(conn);
        if matches!(next, Next::Wait { deadline: Deadline::Header, .. })
            && conn.used
            && cx.now < conn.head_since + cx.config.timeouts.header
        {
            // The deadline was that of an earlier head, answered since.
            return next;
        }
        self.response.date.refresh(cx.now);
        let link = &mut Link { fd, listener: 0, conn };
        if let Some(input) = link.conn.input.take() {
            self.refuse(Fault::new(408, "the request took too long to come"), &input, link, cx);
            self.inputs.put(input);
        }
        self.settle(Stop::Over, link, cx)
    }

    /// The connection is dropped: takes its buffers back.
    pub(crate) fn on_gone(&mut self, conn: &mut HttpConn) {
        if let Some(input) = conn.input.take() {
            self.inputs.put(input);
        }
        if let Some(output) = conn.output.take() {
            self.outputs.put(output);
        }
    }

    fn run(&mut self, link: &mut Link<'_>, cx: &mut Context<'_>) -> Next {
        self.response.date.refresh(cx.now);
        if let Some(output) = link.conn.output.take()
            && let Some(next) = self.resume(output, link, cx)
        {
            return next;
        }
        if link.conn.phase != Phase::Open {
            return self.leave(link, cx);
        }
        let stop = self.serve(link, cx);
        self.settle(stop, link, cx)
    }

    /// Sends on what the client did not take before. `None` once everything is out.
    fn resume(&mut self, mut output: Box<Output>, link: &mut Link<'_>, cx: &mut Context<'_>) -> Option<Next> {
        let sent = output.flush(link.fd);
        link.conn.progress |= output.sent > 0;
        cx.page.add(Word::BytesOut, std::mem::take(&mut output.sent));
        let Ok(blocked @ (Sent::Blocked | Sent::Again)) = sent else {
            self.outputs.put(output);
            return sent.is_err().then_some(Next::Close);
        };
        link.conn.output = Some(output);
        Some(if blocked == Sent::Again { Next::Again } else { wait(link.conn) })
    }

    /// Reads and answers requests until there is a reason to stop; responses wait in `self.response.out`.
    fn serve(&mut self, link: &mut Link<'_>, cx: &mut Context<'_>) -> Stop {
        let mut own = link.conn.input.is_some();
        let Some(mut input) = link.conn.input.take().or_else(|| self.take_scratch()) else {
            return Stop::Gone;
        };
        let (mut requests, mut reads) = (0, 0);
        let stop = loop {
            if requests == REQUESTS || reads == READS {
                break Stop::Turn;
            }
            match self.next_request(&mut input, link, cx) {
                Ok(Step::Answered(after)) => {
                    requests += 1;
                    if let Some(stop) = self.after(after, &input, link, cx) {
                        break stop;
                    }
                }
                Ok(Step::Short) if link.conn.more => {
                    reads += 1;
                    if !own && !input.is_empty() {
                        input = self.adopt(input);
                        own = true;
                    }
                    if let Some(stop) = self.read(&mut input, link, cx) {
                        break stop;
                    }
                }
                Ok(Step::Short) => {
                    self.continue_if_awaited(&mut input);
                    break Stop::Drained;
                }
                Err(fault) => {
                    self.refuse(fault, &input, link, cx);
                    break Stop::Over;
                }
            }
        };
        if !own || requests > 0 {
            link.conn.head_since = cx.now;
        }
        self.put_away(input, own, link.conn);
        stop
    }

    /// Reads one request, and answers it if it is complete.
    fn next_request(
        &mut self,
        input: &mut Input,
        link: &mut Link<'_>,
        cx: &mut Context<'_>,
    ) -> Result<Step, Fault> {
        if input.due.is_some() {
            return self.continue_body(input, link, cx);
        }
        skip_empty_lines(input, &mut link.conn.empty_lines)?;
        let limits = &cx.config.limits;
        let rest = &mut input.buf[input.start..];
        let Some(head_len) = input.scan.run(rest, limits)? else { return Ok(Step::Short) };
        let (head, rest) = rest.split_at_mut(head_len);
        let mut table = head::table();
        let head = Head::parse(head, &mut table)?;
        let mut body = input::Body::new(head.length, limits)?;
        match body.advance(rest, limits)? {
            Piece::End { len, used } => {
                let after = self.answer(&head, &rest[..len], link, cx);
                input.consume(head_len + used);
                Ok(Step::Answered(after))
            }
            Piece::More(len) => {
                input.due = Some(Due { head_len, body, continues: head.expects_continue });
                input.buf.truncate(input.start + head_len + len);
                Ok(Step::Short)
            }
        }
    }

    /// Goes on with a body; the head is parsed again once it is complete, which costs less than to keep its fields.
    fn continue_body(
        &mut self,
        input: &mut Input,
        link: &mut Link<'_>,
        cx: &mut Context<'_>,
    ) -> Result<Step, Fault> {
        let Some(due) = &mut input.due else { return Ok(Step::Short) };
        let head_len = due.head_len;
        let (head, rest) = input.buf[input.start..].split_at_mut(head_len);
        match due.body.advance(rest, &cx.config.limits)? {
            Piece::End { len, used } => {
                let mut table = head::table();
                let head = Head::parse(head, &mut table)?;
                let after = self.answer(&head, &rest[..len], link, cx);
                input.consume(head_len + used);
                Ok(Step::Answered(after))
            }
            Piece::More(len) => {
                input.buf.truncate(input.start + head_len + len);
                Ok(Step::Short)
            }
        }
    }

    /// Calls the handler with a complete request.
    fn answer(&mut self, head: &Head<'_>, body: &[u8], link: &mut Link<'_>, cx: &mut Context<'_>) -> After {
        let res = &mut self.response;
        let to = Asker { head: head.method == "HEAD", minor: head.minor, keep_alive: head.keep_alive };
        res.begin(to, cx.draining);
        if head.upgrade {
            offer(head, &mut res.offer);
        }
        let request = Request::new(head, body, link.fd, link.listener);
        let lent = Rc::clone(&res.lent);
        let called = lent.during(link.fd, || cx.call(|handler| handler.on_request(&request, res)));
        cx.page.add(Word::Requests, 1);
        if called.is_none() {
            cx.page.add(Word::Errors, 1);
            res.fail();
            res.close();
        }
        link.conn.used = true;
        link.conn.empty_lines = 0;
        res.finish()
    }

    /// After an answer: what ends the loop, if anything does.
    fn after(
        &mut self,
        after: After,
        input: &Input,
        link: &mut Link<'_>,
        cx: &mut Context<'_>,
    ) -> Option<Stop> {
        if after == After::Cut && self.response.ends_with_connection() {
            let _ = socket::reset_on_close(link.fd);
        }
        link.conn.phase = match after {
            After::Stay => Phase::Open,
            After::Cut => Phase::Closing,
            // Bytes left unread make the kernel reset the connection, which can destroy the response on its way.
            After::Close if input.is_empty() && !link.conn.more => Phase::Closing,
            After::Close | After::CloseFirst => Phase::Staged,
            After::Upgrade => Phase::Upgrading,
        };
        if self.response.is_gone() {
            return Some(Stop::Gone);
        }
        if after != After::Stay {
            return Some(Stop::Over);
        }
        let out = &self.response.out;
        if out.waiting() < BATCH && matches!(out.body, output::Body::None) {
            return None;
        }
        match self.flush(link, cx) {
            Ok(Sent::All) => None,
            Ok(Sent::Blocked) => Some(Stop::Blocked),
            Ok(Sent::Again) => Some(Stop::Turn),
            Err(_) => Some(Stop::Gone),
        }
    }

    /// One read. What ends the loop, if anything does.
    fn read(&mut self, input: &mut Input, link: &mut Link<'_>, cx: &mut Context<'_>) -> Option<Stop> {
        match input.fill(link.fd) {
            Ok(Fill::Bytes(n, full)) => {
                cx.page.add(Word::BytesIn, n as u64);
                link.conn.more = full || link.conn.ended;
                None
            }
            Ok(Fill::Empty) => {
                // A client that had ended its side would have shown its end.
                (link.conn.more, link.conn.ended) = (false, false);
                None
            }
            Ok(Fill::End) => {
                (link.conn.more, link.conn.ended) = (false, true);
                if !input.is_empty() {
                    self.refuse(Fault::bad("the request is not complete"), input, link, cx);
                }
                link.conn.phase = Phase::Closing;
                Some(Stop::Over)
            }
            Err(_) => Some(Stop::Gone),
        }
    }

    /// Says 100 where a client waits for it and nothing of the body has come (RFC 9110 section 10.1.1).
    fn continue_if_awaited(&mut self, input: &mut Input) {
        let have = input.rest().len();
        if let Some(due) = &mut input.due
            && std::mem::take(&mut due.continues)
            && have == due.head_len
        {
            self.response.out.bytes.extend_from_slice(b"HTTP/1.1 100 Continue\r\n\r\n");
        }
    }

    fn refuse(&mut self, fault: Fault, input: &Input, link: &mut Link<'_>, cx: &mut Context<'_>) {
        cx.page.add(Word::Errors, 1);
        self.response.refuse(fault, input.rest().starts_with(b"HEAD "));
        link.conn.phase = Phase::Staged;
    }

    /// The worker's buffer, empty whatever it was used for before.
    fn take_scratch(&mut self) -> Option<Box<Input>> {
        let mut scratch = self.scratch.take()?;
        scratch.clear();
        Some(scratch)
    }

    /// Moves what is partial from the worker's buffer to one of the connection's own.
    fn adopt(&mut self, scratch: Box<Input>) -> Box<Input> {
        let mut own = self.inputs.take();
        own.copy_rest(&scratch);
        self.scratch = Some(scratch);
        own
    }

    /// Ends the work with an input: what is partial stays with the connection.
    fn put_away(&mut self, mut input: Box<Input>, own: bool, conn: &mut HttpConn) {
        let keep = match conn.phase {
            Phase::Open => !input.is_empty(),
            Phase::Upgrading => true,
            _ => false,
        };
        match (own, keep) {
            (true, true) => {
                input.compact();
                conn.input = Some(input);
            }
            (true, false) => self.inputs.put(input),
            (false, true) => conn.input = Some(self.adopt(input)),
            (false, false) => self.scratch = Some(input),
        }
    }

    /// Sends what the responses made, and says how it goes on.
    fn settle(&mut self, stop: Stop, link: &mut Link<'_>, cx: &mut Context<'_>) -> Next {
        let sent = match stop {
            Stop::Gone => Err(std::io::ErrorKind::BrokenPipe.into()),
            _ => self.flush(link, cx),
        };
        match sent {
            Err(_) => {
                self.response.out.clear();
                Next::Close
            }
            Ok(Sent::All) if link.conn.phase != Phase::Open => self.leave(link, cx),
            Ok(Sent::All) if stop == Stop::Drained => wait(link.conn),
            Ok(Sent::All) => Next::Again,
            Ok(blocked) => {
                let mut output = self.outputs.take();
                std::mem::swap(&mut *output, &mut self.response.out);
                link.conn.output = Some(output);
                match blocked {
                    Sent::Again => Next::Again,
                    _ => wait(link.conn),
                }
            }
        }
    }

    fn flush(&mut self, link: &mut Link<'_>, cx: &mut Context<'_>) -> std::io::Result<Sent> {
        let out = &mut self.response.out;
        if out.is_empty() {
            return Ok(Sent::All);
        }
        out.last = link.conn.phase == Phase::Closing;
        if matches!(out.body, output::Body::File(..)) && !link.conn.nonblocking {
            socket::set_nonblocking(link.fd, true)?;
            link.conn.nonblocking = true;
        }
        let sent = out.flush(link.fd);
        link.conn.progress |= out.sent > 0;
        cx.page.add(Word::BytesOut, std::mem::take(&mut out.sent));
        if matches!(sent, Ok(Sent::All)) {
            pool::reset(&mut out.bytes);
            pool::reset(&mut out.copied);
        }
        sent
    }
}

/// Drops empty lines before a request.
fn skip_empty_lines(input: &mut Input, count: &mut u8) -> Result<(), Fault> {
    while input.rest().starts_with(b"\r\n") {
        input.start += 2;
        *count += 1;
        if *count > EMPTY_LINES {
            return Err(Fault::bad("too many empty lines before a request"));
        }
    }
    Ok(())
}

/// Gathers what the request offers to change to.
fn offer(head: &Head<'_>, offer: &mut Vec<u8>) {
    for field in head.fields.iter().filter(|f| f.name.eq_ignore_ascii_case("upgrade")) {
        offer.extend_from_slice(field.value);
        offer.push(b',');
    }
}
