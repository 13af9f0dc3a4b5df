//! What a handler that decides after the head has of a request, from `on_head` to the answer: a value of its own, and the pause of
//! the body that comes in pieces.

use crate::worker::touched::Touched;
use crate::worker::user::User;
use mio::Token;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;

/// The decision of [`crate::Handler::on_head`] about the body.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Take {
    /// [`crate::Handler::on_request`] gets the whole body, as without the question.
    #[default]
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

/// A request from `on_head` to the answer.
#[derive(Default)]
pub(crate) struct Upload {
    /// 0 until the handler asks for it.
    pub(super) id: Cell<u64>,
    pub(super) user: RefCell<User>,
    pub(super) part: Cell<Part>,
    pub(super) is_paused: Cell<bool>,
    is_resumed: Cell<bool>,
    pub(super) is_stopped: Cell<bool>,
    /// The connection's token, and the list of those that the loop is to serve, once it has been paused.
    touched: RefCell<Option<(Token, Touched)>>,
}

thread_local! {
    pub(super) static LAST_ID: Cell<u64> = const { Cell::new(0) };
    /// The requests of this worker that have been asked for their numbers.
    pub(super) static BY_ID: RefCell<HashMap<u64, Rc<Upload>>> = RefCell::default();
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
