//! What a handler may do with a request whose body comes in pieces: its number, its own value, to pause, resume and stop it.

use super::request::Request;
use super::response::Refused;
use super::upload::{BY_ID, LAST_ID, Part, Upload};
use crate::sys::forks;
use crate::worker::this_worker::Worker;
use crate::worker::user::User;
use std::any::Any;
use std::cell::RefMut;
use std::ffi::c_void;
use std::rc::Rc;

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
    /// [`crate::Take::Pieces`], also the first piece waits, and the client that expects a 100.
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
