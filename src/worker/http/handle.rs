//! The handles of responses that are finished after `on_request` has returned.

use super::exchange::{Exchange, Producer, Unreachable};
use super::framing::Framing;
use super::response::{Refused, Response, Stage};
use crate::log::log;
use crate::sys::forks;
use crate::worker::failure::with_causes;
use crate::worker::this_worker::Worker;
use std::error::Error;
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::rc::Rc;

/// A response that its handler has kept ([`Response::later`]), to be finished by [`Later::end`] from any callback of the worker, and in
/// its first thread only. Until then nothing further of that connection is read or answered.
///
/// What [`Response::write`] has written in one turn of the worker's loop is sent at the end of the turn, or at 64 KiB; by
/// [`Response::flush`] at once. A write that is refused with [`Refused::Full`] does no harm here: none of it is taken; let
/// [`Later::stream`] call you when there is room.
///
/// When the client is gone, or [`crate::config::Timeouts::response`] is over, calls return [`Refused::Gone`] and do nothing.
/// If it is dropped without an end, the client gets a 500, or if a part was written already, the connection is cut.
pub struct Later(Option<Box<Response>>);

impl Later {
    pub(super) const fn new(response: Box<Response>) -> Self {
        Self(Some(response))
    }

    /// Finishes the response: sends what has been set, and ends a body that was written in parts.
    ///
    /// # Errors
    /// [`Refused::Gone`]; [`Refused::Late`] if the response had been kept before.
    pub fn end(mut self) -> Result<(), Refused> {
        self.0.take().map_or(Err(Refused::Late), |response| response.end())
    }

    /// Gives up: a 500, or if a part was written already, the connection is cut so that the client does not take it for complete.
    pub fn fail(mut self) {
        if let Some(mut response) = self.0.take() {
            response.fail();
            // The client may be gone.
            let _ = response.end();
        }
    }

    /// As [`Response::stream`]. If it is refused, the response is dropped as it is.
    ///
    /// # Errors
    /// As [`Response::stream`].
    pub fn stream(
        mut self,
        more: impl FnMut(&mut Response) -> Result<bool, Box<dyn Error>> + 'static,
    ) -> Result<Resume, Refused> {
        self.begin_parts()?;
        let exchange = self.exchange().ok_or(Refused::Late)?;
        let response = self.0.take().ok_or(Refused::Late)?;
        exchange.produce(Box::new(Closure { response, more }));
        Ok(Resume(exchange))
    }

    /// Has `on_gone` called once if the client leaves before the end: when it has closed its side, was reset, or took nothing for
    /// [`crate::config::Timeouts::write`]; and when [`crate::config::Timeouts::response`] is over. It is called from the worker's
    /// loop, not within another callback. A client that has closed only its sending side still gets the response: end it as ever.
    /// A second call replaces the first.
    ///
    /// # Errors
    /// [`Refused::Gone`], and then it is not called; [`Refused::Late`].
    pub fn on_gone(&mut self, on_gone: impl FnOnce(&Worker) + 'static) -> Result<(), Refused> {
        let on_gone = || {
            if let Some(worker) = Worker::current() {
                on_gone(worker);
            }
        };
        self.exchange().ok_or(Refused::Late)?.set_on_gone(Box::new(on_gone)).map_err(Into::into)
    }

    /// Has another worker go on with this response if this one drains: then `give` is called, and returns what
    /// [`crate::Handler::on_resume`] needs there, at most [`crate::Config::max_state`] bytes; or `None` if the response stays, until this
    /// worker's deadline. After `Some` it is over here, as if the client had gone, but `on_gone` is not called; a closure of
    /// [`Later::stream`] is dropped. What was written and not sent goes with it; a head that has not been sent is forgotten, and so
    /// is what was set of it. It stays, without a call, if the client has sent another request behind it, and if
    /// [`crate::Handler::state_version`] is 0. If `give` ends it, it is finished here. A second call replaces the first.
    ///
    /// # Errors
    /// [`Refused::Gone`], and then it is not called; [`Refused::Late`].
    pub fn on_handover(
        &mut self,
        mut give: impl FnMut(&Worker) -> Option<Vec<u8>> + 'static,
    ) -> Result<(), Refused> {
        let give = move |_| Worker::current().and_then(&mut give);
        self.exchange().ok_or(Refused::Late)?.set_on_handover(Box::new(give)).map_err(Into::into)
    }

    /// The response, for C, which ends it by another way.
    #[allow(clippy::expect_used, reason = "as for Deref")]
    pub(crate) fn into_raw(mut self) -> *mut Response {
        Box::into_raw(self.0.take().expect("a response that has not ended"))
    }

    /// True if nothing reaches the client any more.
    pub fn is_gone(&self) -> bool {
        self.exchange().is_none_or(|exchange| exchange.check() == Err(Unreachable::Gone))
    }
}

impl Deref for Later {
    type Target = Response;

    #[expect(
        clippy::expect_used,
        reason = "only methods that take the handle itself take the response out of it"
    )]
    fn deref(&self) -> &Response {
        self.0.as_ref().expect("a response that has not ended")
    }
}

impl DerefMut for Later {
    #[expect(clippy::expect_used, reason = "as for Deref")]
    fn deref_mut(&mut self) -> &mut Response {
        self.0.as_mut().expect("a response that has not ended")
    }
}

impl Drop for Later {
    fn drop(&mut self) {
        let Some(mut response) = self.0.take() else { return };
        response.fail();
        if response.end().is_ok() && !std::thread::panicking() {
            log!(Error, "a response was dropped before its end");
        }
    }
}

impl fmt::Debug for Later {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Later").finish_non_exhaustive()
    }
}

/// A response whose parts are written by a closure ([`Response::stream`]).
#[derive(Clone)]
pub struct Resume(Rc<Exchange<Response>>);

impl Resume {
    /// Has the closure called again that has written nothing at its last call. Does nothing if it is called anyway, or if the response
    /// is over.
    pub fn resume(&self) {
        if !forks::is_copy() {
            self.0.touch();
        }
    }

    /// True if the response is over.
    pub fn is_over(&self) -> bool {
        self.0.is_over()
    }
}

impl fmt::Debug for Resume {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Resume").finish_non_exhaustive()
    }
}

/// A producer in Rust.
struct Closure<F> {
    response: Box<Response>,
    more: F,
}

impl<F: FnMut(&mut Response) -> Result<bool, Box<dyn Error>>> Producer<Response> for Closure<F> {
    fn response(&mut self) -> &mut Response {
        &mut self.response
    }

    fn more(&mut self) -> Result<bool, String> {
        (self.more)(&mut self.response).map_err(|e| with_causes(&*e))
    }
}

impl Response {
    /// Keeps this response: it is finished by [`Later::end`], after this callback has returned. What was set so far goes with it, and
    /// this value refuses every call from now on ([`Refused::Late`]). If it has been kept before, so does what is returned.
    pub fn later(&mut self) -> Later {
        Later::new(self.keep())
    }

    /// As [`Response::later`].
    pub(crate) fn keep(&mut self) -> Box<Self> {
        let mut kept = Box::new(Self::new(self.pending(), self.takes_streams()));
        if self.exchange.is_some() {
            kept.stage = Stage::Kept;
            return kept;
        }
        let exchange = Rc::new(Exchange::new(self.request, Rc::clone(&self.lent), self.pending()));
        self.move_to(&mut kept);
        if let Stage::Stream(framing) = kept.stage {
            kept.partly_sent = true;
            exchange.note_begun(if let Framing::Declared(_) = framing {
                Framing::Declared(kept.left)
            } else {
                framing
            });
        }
        if kept.close {
            exchange.note_closes();
        }
        if kept.client_gone {
            exchange.note_broken();
        }
        exchange.swap(&mut kept.out);
        // The bytes are the connection's; the body stays with the response until its head is written.
        let body = exchange.output().take_body();
        kept.out.put_body(body);
        kept.exchange = Some(Rc::clone(&exchange));
        self.exchange = Some(exchange);
        self.stage = Stage::Kept;
        kept
    }

    /// Finishes a response that was kept.
    pub(crate) fn end(self: Box<Self>) -> Result<(), Refused> {
        match self.exchange() {
            Some(exchange) => Ok(exchange.end(self)?),
            None => Err(Refused::Late),
        }
    }

    /// What this shares with its connection; `None` if it was not kept, or if it is the value that it was kept of.
    pub(crate) fn exchange(&self) -> Option<Rc<Exchange<Response>>> {
        self.exchange.clone().filter(|_| self.stage != Stage::Kept)
    }

    /// Writes the body by a closure, which is called from the worker's loop whenever little of what it has written waits for the client.
    /// The head is sent as for [`Response::write`]. The closure writes parts and returns true if more follow, false at the end. An error
    /// breaks the response off: the connection is cut, so that the client does not take it for complete, and the error is logged. If it
    /// returns true and has written nothing, it is not called again before [`Resume::resume`]. It is dropped when the response is
    /// over, also if the client has gone. It is not called if the response has no body: to HEAD, and with status 204, 205 and 304.
    ///
    /// A part may have up to [`crate::config::Limits::pending`] bytes. One for which there is no room yet is refused
    /// ([`Refused::Full`]); return true to be called when there is.
    ///
    /// # Errors
    /// [`Refused::Late`] if a body was set, or if the response has been kept; [`Refused::Gone`].
    pub fn stream(
        &mut self,
        more: impl FnMut(&mut Self) -> Result<bool, Box<dyn Error>> + 'static,
    ) -> Result<Resume, Refused> {
        self.may_stream()?;
        self.later().stream(more)
    }

    /// Refuses a producer for this response.
    pub(crate) fn may_stream(&self) -> Result<(), Refused> {
        if self.exchange.is_some() {
            return Err(Refused::Late);
        }
        self.may_write()
    }
}
