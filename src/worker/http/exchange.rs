//! What a connection and the response that its handler keeps share.
//!
//! The handle of the response belongs to user code and may live longer than its connection, so neither refers to the other: both have
//! an [`Exchange`]. Calls of user code write there, send what is much or is to be flushed, and leave everything else to the worker's
//! loop.

use super::framing::Framing;
use super::output::{Body, Output};
use crate::sys::forks;
use crate::sys::lend::Lent;
use crate::worker::handover::Occasion;
use crate::worker::touched::Touched;
use mio::Token;
use std::cell::{Cell, OnceCell, RefCell, RefMut};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;

/// A producer is called while no more than this waits to be sent, or half of what may wait if that is less.
const LOW: usize = 64 * 1024;

/// A callback for the end of a client.
pub type OnGone = Box<dyn FnOnce()>;

/// A callback that writes down, in up to this number of bytes, what another worker needs to go on; `None` if the response stays.
pub type OnHandover = Box<dyn FnMut(usize) -> Option<Vec<u8>>>;

/// What a connection and the response that its handler keeps share.
pub struct Exchange<R> {
    /// `None` before the loop has got to know of this exchange, and when it is over.
    fd: RefCell<Option<Rc<OwnedFd>>>,
    /// Until then: the descriptor of the call of `on_request`.
    lent: Rc<Lent>,
    request: RequestTraits,
    /// Responses to earlier requests, and what has been written of this one.
    output: RefCell<Output>,
    /// The head has been written, and parts of the body follow, framed like this.
    framing: Cell<Option<Framing>>,
    /// The handler has the connection closed after the response.
    closes: Cell<bool>,
    /// The response, from its end until the loop has finished it.
    ended: RefCell<Option<Box<R>>>,
    /// The handler has failed: the loop answers, if the handle does not.
    failure: Cell<Option<Failure>>,
    /// Nothing of the handle reaches the client any more.
    is_over: Cell<bool>,
    /// A call has found that nothing can be sent any more.
    is_broken: Cell<bool>,
    on_gone: RefCell<Option<OnGone>>,
    on_handover: RefCell<Option<OnHandover>>,
    /// Another worker has given it, and the handler of this one has not taken it: nothing is sent.
    is_arriving: Cell<bool>,
    /// The last occasion on which the handler was asked whether it goes to another worker.
    asked: Cell<Occasion>,
    producer: RefCell<Option<Box<dyn Producer<R>>>>,
    /// The producer has written nothing, and is called again when something else happens to its response.
    is_starved: Cell<bool>,
    /// The size of a write that was refused for want of room; 0 if none was, or if it never finds room.
    refused: Cell<usize>,
    /// The bytes written so far, and those of them that the loop knows of.
    written: Cell<usize>,
    known: Cell<usize>,
    /// The connection's token, and the list of those that the loop is to serve.
    touched: OnceCell<(Token, Touched)>,
    is_touched: Cell<bool>,
    pending: usize,
}

/// The handler has failed.
#[derive(Clone, Copy)]
pub struct Failure {
    /// The connection is to be closed.
    pub close: bool,
}

/// The reason why a call has no effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unreachable {
    /// Nothing reaches the client any more.
    Gone,
    /// This is a copy of the worker.
    Copy,
}

/// The traits of a request that its response depends on.
#[derive(Clone, Copy, Default)]
pub struct RequestTraits {
    /// The response to HEAD has no body.
    pub is_head: bool,
    pub minor: u8,
    pub keep_alive: bool,
}

/// The source of a body's parts. It owns its response. Dropped when the response is over.
pub trait Producer<R> {
    /// The response.
    fn response(&mut self) -> &mut R;
    /// Writes parts; false if they were the last.
    ///
    /// # Errors
    /// The response is broken off, and the reason logged, if there is one.
    fn more(&mut self) -> Result<bool, String>;
}

impl<R> Exchange<R> {
    pub fn new(request: RequestTraits, lent: Rc<Lent>, pending: usize) -> Self {
        Self {
            fd: RefCell::default(),
            lent,
            request,
            output: RefCell::default(),
            framing: Cell::new(None),
            closes: Cell::new(false),
            ended: RefCell::default(),
            failure: Cell::new(None),
            is_over: Cell::new(false),
            is_broken: Cell::new(false),
            on_gone: RefCell::default(),
            on_handover: RefCell::default(),
            is_arriving: Cell::new(false),
            asked: Cell::new(Occasion::None),
            producer: RefCell::default(),
            is_starved: Cell::new(false),
            refused: Cell::new(0),
            written: Cell::new(0),
            known: Cell::new(0),
            touched: OnceCell::new(),
            is_touched: Cell::new(false),
            pending,
        }
    }

    /// Refuses calls that cannot have an effect.
    pub fn check(&self) -> Result<(), Unreachable> {
        match self.is_over.get() || self.is_broken.get() {
            // It has the connection's descriptor, too.
            _ if forks::is_copy() => Err(Unreachable::Copy),
            true => Err(Unreachable::Gone),
            false => Ok(()),
        }
    }

    /// Swaps the output with that of a response, during whose call it is there.
    pub(super) fn swap(&self, out: &mut Output) {
        std::mem::swap(&mut *self.output.borrow_mut(), out);
    }

    /// Runs `f` with the descriptor, if there is one.
    pub fn with_fd<T>(&self, f: impl FnOnce(BorrowedFd<'_>) -> T) -> Option<T> {
        match &*self.fd.borrow() {
            Some(fd) => Some(f(fd.as_fd())),
            None if self.is_over.get() => None,
            None => self.lent.with(f),
        }
    }

    /// Has the loop serve the connection before it sleeps. Does nothing while it does.
    pub fn touch(&self) {
        if !self.is_touched.replace(true) {
            self.is_starved.set(false);
            if let Some((token, touched)) = self.touched.get() {
                touched.borrow_mut().push(*token);
            }
        }
    }

    /// Notes a write.
    pub fn note_written(&self, n: usize) {
        self.written.set(self.written.get().wrapping_add(n));
    }

    /// Notes a write that found no room.
    pub fn note_refused(&self, n: usize) {
        self.refused.set(if n > self.pending { 0 } else { n });
    }

    pub fn note_broken(&self) {
        self.is_broken.set(true);
    }

    /// The bytes that the body lacks of the length that the handler has given.
    pub(super) fn left(&self) -> Option<u64> {
        if let Some(Framing::Declared(left)) = self.framing.get() { Some(left) } else { None }
    }

    /// The handler has the connection closed after the response.
    pub fn note_closes(&self) {
        self.closes.set(true);
    }

    /// True if it has.
    pub(super) fn closes(&self) -> bool {
        self.closes.get()
    }

    /// Notes that the head has been written.
    pub(super) fn note_begun(&self, framing: Framing) {
        self.framing.set(Some(framing));
    }

    /// Has the loop answer with 500, or cut the connection. The handle stays usable, to no effect.
    pub fn fail(&self, close: bool) {
        self.failure.set(Some(Failure { close }));
        self.touch();
    }

    /// Leaves the response to the loop, which finishes it.
    ///
    /// # Errors
    /// The client is gone, or this is not the process.
    pub fn end(&self, response: Box<R>) -> Result<(), Unreachable> {
        self.check()?;
        self.ended.replace(Some(response));
        self.touch();
        Ok(())
    }

    /// Has the parts written by a producer from now on. It owns the response.
    pub fn produce(&self, producer: Box<dyn Producer<R>>) {
        self.producer.replace(Some(producer));
        self.touch();
    }

    pub fn set_on_gone(&self, on_gone: OnGone) -> Result<(), Unreachable> {
        self.check()?;
        self.on_gone.replace(Some(on_gone));
        self.touch();
        Ok(())
    }

    pub fn set_on_handover(&self, on_handover: OnHandover) -> Result<(), Unreachable> {
        self.check()?;
        self.on_handover.replace(Some(on_handover));
        Ok(())
    }

    /// Takes the callback, to call it.
    pub fn take_on_handover(&self) -> Option<OnHandover> {
        self.on_handover.take()
    }

    /// Puts it back, unless there is another one by now: the response stays.
    pub fn put_on_handover_back(&self, on_handover: OnHandover) {
        self.on_handover.borrow_mut().get_or_insert(on_handover);
    }

    /// The handler was asked, or the response has come back, and stays.
    pub fn set_asked(&self, occasion: Occasion) {
        self.asked.set(occasion);
    }

    /// True if it may go to another worker, and the handler is to be asked on this occasion: nothing has ended it, and what waits are bytes.
    pub(super) fn may_go(&self, occasion: Occasion) -> bool {
        let is_ending = self.is_over.get() || self.is_broken.get() || self.failure.get().is_some();
        let has_callback = || self.on_handover.borrow().is_some();
        let only_bytes_wait = || matches!(self.output.borrow().body, Body::None);
        let can_go_on = !matches!(self.framing.get(), Some(Framing::Nothing | Framing::Length(_)));
        let is_ending = is_ending || self.ended.borrow().is_some();
        self.asked.get() < occasion && !is_ending && has_callback() && only_bytes_wait() && can_go_on
    }

    /// True while the handler decides whether it takes it.
    pub fn is_arriving(&self) -> bool {
        self.is_arriving.get()
    }

    pub fn set_arriving(&self, is_arriving: bool) {
        self.is_arriving.set(is_arriving);
    }

    /// True if the producer is to be called: it has a reason to write, and there is room.
    pub fn wants_more(&self) -> bool {
        let waiting = self.output.borrow().waiting();
        let has_room = waiting <= LOW.min(self.pending / 2)
            && waiting.saturating_add(self.refused.get()) <= self.pending;
        has_room && !self.is_starved.get() && self.producer.borrow().is_some()
    }

    /// From now on the handle reaches nobody.
    pub fn set_over(&self) {
        self.is_over.set(true);
        self.fd.take();
    }

    /// Lets the loop know of a new exchange: the connection's descriptor, its token, and the list of those that are to be served.
    pub fn attach(&self, fd: Rc<OwnedFd>, token: Token, touched: &Touched) {
        self.fd.replace(Some(fd));
        // It is new: nothing was set before.
        let _ = self.touched.set((token, Rc::clone(touched)));
    }

    /// The traits of the request.
    pub fn request(&self) -> RequestTraits {
        self.request
    }

    /// The output, for the loop.
    pub(super) fn output(&self) -> RefMut<'_, Output> {
        self.output.borrow_mut()
    }

    /// True if the head has been written.
    pub fn has_begun(&self) -> bool {
        self.framing.get().is_some()
    }

    /// True if the body ends with the connection.
    pub fn is_until_close(&self) -> bool {
        self.framing.get() == Some(Framing::UntilClose)
    }

    /// True if nothing of the handle reaches the client any more.
    pub fn is_over(&self) -> bool {
        self.is_over.get()
    }

    /// True if nothing can be sent any more.
    pub fn is_broken(&self) -> bool {
        self.is_broken.get()
    }

    /// True if a callback has done something with the response since [`Exchange::begin_serving`].
    pub fn is_touched(&self) -> bool {
        self.is_touched.get()
    }

    /// The loop serves the connection.
    pub fn begin_serving(&self) {
        self.is_touched.set(true);
    }

    /// The loop has served the connection.
    pub fn end_serving(&self) {
        self.is_touched.set(false);
    }

    /// True if the handler has ended the response and the loop has not finished it, or if it is over.
    pub fn has_ended(&self) -> bool {
        self.is_over.get() || self.ended.borrow().is_some()
    }

    /// Takes the response if it has ended.
    pub fn take_ended(&self) -> Option<Box<R>> {
        self.ended.take()
    }

    /// The failure of the handler.
    pub fn failure(&self) -> Option<Failure> {
        self.failure.get()
    }

    /// Takes the producer.
    pub fn take_producer(&self) -> Option<Box<dyn Producer<R>>> {
        self.producer.take()
    }

    /// Takes what is to be called when the client leaves.
    pub fn take_on_gone(&self) -> Option<OnGone> {
        self.on_gone.take()
    }

    /// The producer is about to be called; returns a mark for [`Exchange::put_back`].
    pub fn mark(&self) -> usize {
        self.refused.set(0);
        self.written.get()
    }

    /// Puts the producer back. If nothing has been written since the mark, and nothing refused, it waits.
    pub fn put_back(&self, producer: Box<dyn Producer<R>>, mark: usize) {
        self.is_starved.set(self.written.get() == mark && self.refused.get() == 0);
        self.producer.replace(Some(producer));
    }

    /// True if something has been written since the last time that this was asked.
    pub fn has_progress(&self) -> bool {
        let written = self.written.get();
        self.known.replace(written) != written
    }
}
