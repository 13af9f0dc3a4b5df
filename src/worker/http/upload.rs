//! What a handler that decides after the head has of a request, from `on_head` to the answer: a value of its own, and the pause of
//! the body that comes in pieces.

use super::request::Request;
use super::response::Refused;
use crate::sys::forks;
use crate::worker::this_worker::Worker;
use crate::worker::user::User;
use mio::Token;
use std::any::Any;
use std::cell::{Cell, RefCell, RefMut};
use std::collections::HashMap;
use std::ffi::c_void;
use std::rc::Rc;

/// The decision of [`crate::Handler::on_head`] about the body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Take {
    /// [`crate::Handler::on_request`] gets the whole body, as without the question.
    Whole,
    /// [`crate::Handler::on_body`] gets the body as it comes; then [`crate::Handler::on_request`] answers.
    Pieces,
    /// What was set of the response is the answer, and no body is read.
    Refuse,
}

/// The part of a request that the handler is called for.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Part {
    #[default]
    Head,
    /// A piece that others follow.
    Piece,
    /// The last piece, or the answer.
    End,
}

/// The connections that the loop is to serve before it sleeps.
type Touched = Rc<RefCell<Vec<Token>>>;

/// A request from `on_head` to the answer.
#[derive(Default)]
pub(crate) struct Upload {
    /// 0 until the handler asks for it.
    id: Cell<u64>,
    user: RefCell<User>,
    part: Cell<Part>,
    is_paused: Cell<bool>,
    is_resumed: Cell<bool>,
    is_stopped: Cell<bool>,
    /// The connection's token, and the list of those that the loop is to serve, once it has been paused.
    touched: RefCell<Option<(Token, Touched)>>,
}

thread_local! {
    static LAST_ID: Cell<u64> = const { Cell::new(0) };
    /// The requests of this worker that have been asked for their numbers.
    static BY_ID: RefCell<HashMap<u64, Rc<Upload>>> = RefCell::default();
}

impl Upload {
    pub(super) fn set_part(&self, part: Part) {
        self.part.set(part);
    }

    /// True if the handler does not want another piece now.
    pub(super) fn is_paused(&self) -> bool {
        self.is_paused.get()
    }

    /// True if the handler wants no other piece at all.
    pub(super) fn is_stopped(&self) -> bool {
        self.is_stopped.get()
    }

    /// The body is not taken in pieces, or the last has come.
    pub(super) fn end_pause(&self) {
        self.is_paused.set(false);
    }

    /// Lets the loop know of a pause.
    pub(crate) fn attach(&self, token: Token, touched: &Touched) {
        self.touched.replace(Some((token, Rc::clone(touched))));
    }

    /// True, once, if the handler has ended a pause.
    pub(crate) fn take_resumed(&self) -> bool {
        self.is_resumed.take()
    }

    /// Takes the handler's value; `None` if there is none.
    pub(super) fn take_user(&self) -> Option<User> {
        let user = self.user.take();
        user.value.is_some().then_some(user)
    }

    /// The request is over: no call finds it any more.
    pub(super) fn end(&self) {
        let id = self.id.take();
        if id != 0 {
            BY_ID.with_borrow_mut(|by_id| by_id.remove(&id));
        }
    }

    /// Has the loop continue with the body.
    pub(super) fn resume(&self) {
        if self.is_paused.take()
            && let Some((token, touched)) = &*self.touched.borrow()
            && !self.is_resumed.replace(true)
        {
            touched.borrow_mut().push(*token);
        }
    }
}

impl Request<'_> {
    /// The length of the body as declared by the client: 0 if there is none, `None` if it is sent in chunks, up to an end that only
    /// they tell.
    pub fn length(&self) -> Option<u64> {
        self.declared()
    }

    /// A number for [`Worker::resume`]. No other request of this worker has it; it is over when [`crate::Handler::on_request`] has
    /// returned. 0 if the handler has no [`crate::Handler::on_head`].
    pub fn id(&self) -> u64 {
        let Some(upload) = self.upload() else { return 0 };
        if upload.id.get() == 0 {
            let id = LAST_ID.get() + 1;
            LAST_ID.set(id);
            upload.id.set(id);
            BY_ID.with_borrow_mut(|by_id| by_id.insert(id, Rc::clone(upload)));
        }
        upload.id.get()
    }

    /// Has nothing more of the body read after this piece, until [`Worker::resume`]: the client can send as much as the kernel and a
    /// buffer of 64 KiB hold. No timeout runs meanwhile, except that of a drain. In [`crate::Handler::on_head`], if that returns
    /// [`Take::Pieces`], also the first piece waits, and the client that expects a 100.
    ///
    /// # Errors
    /// [`Refused::Late`] with the last piece, and in [`crate::Handler::on_request`]; [`Refused::State`] if the handler has no
    /// [`crate::Handler::on_head`], or in a copy of the worker.
    pub fn pause(&self) -> Result<(), Refused> {
        self.in_body()?.is_paused.set(true);
        Ok(())
    }

    /// No further piece is wanted: when [`crate::Handler::on_body`] has returned, [`crate::Handler::on_request`] is called to answer,
    /// for instance with 413, and the connection closes after the response, in stages, as more of the body may follow.
    ///
    /// # Errors
    /// As [`Request::pause`]; [`Refused::State`] in [`crate::Handler::on_head`], which can refuse.
    pub fn stop(&self) -> Result<(), Refused> {
        let upload = self.in_body()?;
        if upload.part.get() == Part::Head {
            return Err(Refused::State);
        }
        upload.is_stopped.set(true);
        Ok(())
    }

    fn in_body(&self) -> Result<&Upload, Refused> {
        let upload = self.upload().filter(|_| !forks::is_copy()).ok_or(Refused::State)?;
        if upload.part.get() == Part::End { Err(Refused::Late) } else { Ok(upload) }
    }

    /// Gives the request a value of the handler's own, from any of [`crate::Handler::on_head`], [`crate::Handler::on_body`] and
    /// [`crate::Handler::on_request`] for the ones that follow. It is dropped once, when the request is over: after
    /// [`crate::Handler::on_request`] has returned or it is refused, and also if the client goes, the body is malformed or takes too
    /// long, or the worker ends first. A second call replaces the first value.
    ///
    /// # Errors
    /// [`Refused::State`] if the handler has no [`crate::Handler::on_head`].
    pub fn set_user(&self, user: impl Any) -> Result<(), Refused> {
        self.give_user(User { value: Some(Box::new(user)), ..User::default() })
    }

    /// The value given by [`Request::set_user`]; `None` if there is none, or none of this type.
    ///
    /// # Panics
    /// If a former result is still there.
    pub fn user<T: Any>(&self) -> Option<RefMut<'_, T>> {
        let user = self.upload()?.user.borrow_mut();
        RefMut::filter_map(user, |user| user.value.as_mut()?.downcast_mut()).ok()
    }

    /// True if [`Request::give_user`] takes a value.
    pub(crate) fn takes_user(&self) -> bool {
        self.upload().is_some()
    }

    pub(crate) fn give_user(&self, user: User) -> Result<(), Refused> {
        let upload = self.upload().ok_or(Refused::State)?;
        // What is dropped may run code of the handler's.
        drop(upload.user.replace(user));
        Ok(())
    }

    pub(crate) fn user_pointer(&self) -> *mut c_void {
        self.upload().map_or(std::ptr::null_mut(), |upload| upload.user.borrow().pointer)
    }
}

impl Worker {
    /// Continues with the body of a request that was paused ([`Request::pause`]), from any callback; `request` is its
    /// [`Request::id`]. Its next piece comes in the next turn of the worker's loop. Does nothing if it is not paused.
    ///
    /// Returns false if that request is over.
    pub fn resume(&self, request: u64) -> bool {
        self.is_here() && resume(request)
    }
}

/// As [`Worker::resume`].
pub(super) fn resume(request: u64) -> bool {
    let upload = BY_ID.with_borrow(|by_id| by_id.get(&request).cloned());
    upload.is_some_and(|upload| {
        upload.resume();
        true
    })
}
