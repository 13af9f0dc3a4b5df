//! Responses in C.

use super::guard::{Opaque, borrow, borrow_mut, bytes, c_str, guard, text, text_n};
use super::status::{answered, prefork_status};
use crate::log::log;
use crate::unwind::named;
use crate::worker::http::{Producer, Refused};
use crate::{Response, Worker};
use std::any::Any;
use std::ffi::{c_char, c_int, c_uint, c_void};
use std::os::fd::{FromRawFd, OwnedFd};
use std::rc::Rc;

/// The response to a request, given to `on_request`, and to `on_head`. If no function is called it is a 200 with an
/// empty body. It is sent when the callback returns, and is valid until then; `prefork_response_later()` and
/// `prefork_response_stream()` are for one that is not finished by then. prefork writes the header fields Date,
/// Connection, and Content-Length or Transfer-Encoding; the handler writes the others.
pub struct prefork_response(());

impl Opaque for prefork_response {
    type Inner<'a> = Response;

    fn is_usable() -> bool {
        Worker::is_first_thread()
    }
}

/// Sets the status code, from 200 to 599 (RFC 9110 section 15). The default is 200.
///
/// Returns PREFORK_OK, PREFORK_INVALID, PREFORK_LATE or PREFORK_NULL.
/// Process: worker.
/// # Safety
/// Borrows `res` until return.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_response_status(res: *mut prefork_response, code: c_uint) -> c_int {
    guard(|| {
        // SAFETY: `res` is NULL or lent to the caller, who uses it in no other call meanwhile.
        let res = unsafe { borrow_mut(res) }?;
        let code = u16::try_from(code).map_err(|_| prefork_status::PREFORK_INVALID)?;
        answered(res.status(code))
    })
}

/// Adds a header field; a name may be added several times. A `Date` replaces that of prefork, or the one added
/// before. `Upgrade` says which protocols the server offers, as it must with status 426 (RFC 9110 section 7.8);
/// prefork adds `Connection: upgrade`. `Content-Length` is the length of a body that is written in parts
/// (`prefork_response_write()`, `_stream()`), which is then not chunked, or of one that is not sent, to HEAD and with
/// status 304. A part that would make the body longer is refused; if it is shorter at its end, the connection is
/// cut. A second one replaces the first; a body that is set whole has its own length; statuses 204 and 205 have
/// none. Other fields that could break the framing of the message are refused.
///
/// Returns PREFORK_OK, PREFORK_FIELD (the name is not a token, or the value has CR, LF or another control
/// byte, RFC 9110 section 5.5, or is no length), PREFORK_FRAMING, PREFORK_LATE, PREFORK_FULL or PREFORK_NULL.
/// Process: worker.
/// # Safety
/// Borrows `res` until return. Copies `name` and `value`, which are NUL-terminated.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_response_header(
    res: *mut prefork_response,
    name: *const c_char,
    value: *const c_char,
) -> c_int {
    guard(|| {
        // SAFETY: `res` is NULL or lent to the caller, who uses it in no other call meanwhile.
        let res = unsafe { borrow_mut(res) }?;
        // SAFETY: `name` is NULL or a C string that lives until return.
        let name = unsafe { c_str(name) }?.to_str().map_err(|_| prefork_status::PREFORK_FIELD)?;
        // SAFETY: `value` is NULL or a C string that lives until return.
        answered(res.header(name, unsafe { c_str(value) }?.to_bytes()))
    })
}

/// As `prefork_response_header()`, with a name and a value that are not NUL-terminated, for instance of a
/// `prefork_slice`.
///
/// Returns as `prefork_response_header()`.
/// Process: worker.
/// # Safety
/// Borrows `res` until return. Copies `name_len` bytes at `name` and `value_len` bytes at `value`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_response_header_n(
    res: *mut prefork_response,
    name: *const c_char,
    name_len: usize,
    value: *const c_char,
    value_len: usize,
) -> c_int {
    guard(|| {
        // SAFETY: `res` is NULL or lent to the caller, who uses it in no other call meanwhile.
        let res = unsafe { borrow_mut(res) }?;
        // SAFETY: `name` is NULL or has that many bytes, which live until return.
        let name = unsafe { bytes(name.cast(), name_len) }?;
        let name = str::from_utf8(name).map_err(|_| prefork_status::PREFORK_FIELD)?;
        // SAFETY: `value` is NULL or has that many bytes, which live until return.
        answered(res.header(name, unsafe { bytes(value.cast(), value_len) }?))
    })
}

/// Sets the body, and with it Content-Length. A second body replaces the first. A body that the response must
/// not have is not sent: to HEAD, and with status 204, 205 or 304 (RFC 9110 section 6.4.1).
///
/// Returns PREFORK_OK, PREFORK_LATE (after `prefork_response_write()`), PREFORK_INVALID or PREFORK_NULL.
/// Process: worker.
/// # Safety
/// Borrows `res` until return. Copies `size` bytes at `data`, which may be NULL if `size` is 0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_response_body(
    res: *mut prefork_response,
    data: *const c_void,
    size: usize,
) -> c_int {
    guard(|| {
        // SAFETY: `res` is NULL or lent to the caller, who uses it in no other call meanwhile.
        let res = unsafe { borrow_mut(res) }?;
        // SAFETY: `data` is NULL or has `size` bytes that live until return.
        answered(res.body(unsafe { bytes(data, size) }?))
    })
}

/// As `prefork_response_body()`, without a copy, for bytes that stay unchanged as long as the worker lives:
/// literals, tables, files mapped at start.
///
/// Returns as `prefork_response_body()`.
/// Process: worker.
/// # Safety
/// Borrows `res` until return, and forever `size` bytes at `data`, which may be NULL if `size` is 0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_response_body_static(
    res: *mut prefork_response,
    data: *const c_void,
    size: usize,
) -> c_int {
    guard(|| {
        // SAFETY: `res` is NULL or lent to the caller, who uses it in no other call meanwhile.
        let res = unsafe { borrow_mut(res) }?;
        // SAFETY: `data` is NULL or has `size` bytes that live forever.
        answered(res.body_static(unsafe { bytes(data, size) }?))
    })
}

/// As `prefork_response_body()`, without a copy, for bytes that the caller gives away, for instance with
/// `prefork_response_body_owned(res, p, n, free, p)`. `release(owner)` is called exactly once, in this worker:
/// when the bytes have been sent, when the client is gone, or before this call returns a refusal.
///
/// Returns as `prefork_response_body()`; PREFORK_NULL also if `release` is NULL, and then nothing is taken.
/// Process: worker.
/// # Safety
/// Borrows `res` until return. Takes `owner` and `size` bytes at `data` until `release(owner)`; `owner` may
/// be NULL, and `data` too if `size` is 0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_response_body_owned(
    res: *mut prefork_response,
    data: *const c_void,
    size: usize,
    release: Option<unsafe extern "C-unwind" fn(owner: *mut c_void)>,
    owner: *mut c_void,
) -> c_int {
    guard(|| {
        let release = release.ok_or(prefork_status::PREFORK_NULL)?;
        // From here on each return releases the bytes.
        let mut owned = Owned { bytes: &[], owner, release };
        // SAFETY: `res` is NULL or lent to the caller, who uses it in no other call meanwhile.
        let res = unsafe { borrow_mut(res) }?;
        // SAFETY: `data` is NULL or has `size` bytes that live until `release`.
        owned.bytes = unsafe { bytes(data, size) }?;
        answered(res.body_owned(Box::new(owned)))
    })
}

/// Bytes that C gave away; `'static` stands for "until this is dropped".
pub(super) struct Owned {
    bytes: &'static [u8],
    owner: *mut c_void,
    release: unsafe extern "C-unwind" fn(*mut c_void),
}

impl Owned {
    /// A value whose drop calls `release(owner)`.
    pub(super) fn value(
        owner: *mut c_void,
        release: unsafe extern "C-unwind" fn(*mut c_void),
    ) -> Box<dyn Any> {
        Box::new(Self { bytes: &[], owner, release })
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        // SAFETY: the caller gave both for this call, which is the only one.
        named("release", || unsafe { (self.release)(self.owner) });
    }
}

impl AsRef<[u8]> for Owned {
    fn as_ref(&self) -> &[u8] {
        self.bytes
    }
}

/// Adds to a body whose length is not known yet. The head is sent with the first bytes, the end when
/// `on_request` returns: chunked in HTTP/1.1, until the close in HTTP/1.0 (RFC 9112 section 6.3), or by a
/// `Content-Length` that was set by `prefork_response_header()`. prefork collects 64 KiB before it sends, never
/// waits, and keeps what the client does not take yet, up to the setting `max-pending`. For a body of any size use
/// `prefork_response_stream()`. Of a response that is kept, what callbacks write is sent together when they have
/// returned.
///
/// Returns PREFORK_OK, PREFORK_LATE (after one of the functions that set a whole body), PREFORK_FULL (the
/// response is incomplete: the connection is cut behind the parts before; if there was none, it becomes a 500,
/// unless the handler sets another status or body. A response that is kept is not harmed: none of these bytes
/// was taken, and `prefork_response_stream()` calls back when there is room), PREFORK_TOO_LARGE (longer than that
/// Content-Length: none of these bytes was taken), PREFORK_GONE, PREFORK_INVALID or PREFORK_NULL.
/// Process: worker.
/// # Safety
/// Borrows `res` until return. Copies `size` bytes at `data`, which may be NULL if `size` is 0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_response_write(
    res: *mut prefork_response,
    data: *const c_void,
    size: usize,
) -> c_int {
    guard(|| {
        // SAFETY: `res` is NULL or lent to the caller, who uses it in no other call meanwhile.
        let res = unsafe { borrow_mut(res) }?;
        // SAFETY: `data` is NULL or has `size` bytes that live until return.
        answered(res.write(unsafe { bytes(data, size) }?))
    })
}

/// As `prefork_response_body()`, with the `size` bytes of a regular file that begin at `offset` (sendfile(2)).
/// If the file becomes shorter before they are sent, the connection is cut, since its head gives their number.
///
/// Returns as `prefork_response_body()`; PREFORK_INVALID if `fd` is negative, is not a regular file, cannot be
/// read, or does not have these bytes.
/// Process: worker.
/// # Safety
/// Borrows `res` until return. Takes `fd` in any case: prefork closes it when the bytes have been sent,
/// when the client is gone, or when the call is refused.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_response_file(
    res: *mut prefork_response,
    fd: c_int,
    offset: u64,
    size: u64,
) -> c_int {
    guard(|| {
        if fd < 0 {
            return Err(prefork_status::PREFORK_INVALID);
        }
        // SAFETY: not negative; the caller gives it away.
        let file = unsafe { OwnedFd::from_raw_fd(fd) };
        // SAFETY: `res` is NULL or lent to the caller, who uses it in no other call meanwhile.
        answered(unsafe { borrow_mut(res) }?.file(file, offset, size))
    })
}

/// Closes the connection after this response. If its head has not been sent yet, it says so
/// (`Connection: close`, RFC 9112 section 9.6).
///
/// Returns PREFORK_OK, PREFORK_LATE (also after `prefork_response_upgrade()`: `prefork_conn_close()` closes a stream),
/// PREFORK_GONE or PREFORK_NULL.
/// Process: worker.
/// # Safety
/// Borrows `res` until return.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_response_close(res: *mut prefork_response) -> c_int {
    guard(|| {
        // SAFETY: `res` is NULL or lent to the caller, who uses it in no other call meanwhile.
        let res = unsafe { borrow_mut(res) }?;
        if res.is_kept() || res.is_upgrade() {
            return Err(prefork_status::PREFORK_LATE);
        }
        res.check()?;
        res.close();
        Ok(prefork_status::PREFORK_OK as c_int)
    })
}

/// Gives up. The response becomes a 500; if some of it was sent already, the connection is cut, so that the
/// client does not take it for complete. A response that is kept still has to be ended; it is cut if some of it
/// was written.
///
/// Returns PREFORK_OK, PREFORK_LATE, PREFORK_GONE or PREFORK_NULL.
/// Process: worker.
/// # Safety
/// Borrows `res` until return.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_response_fail(res: *mut prefork_response) -> c_int {
    guard(|| {
        // SAFETY: `res` is NULL or lent to the caller, who uses it in no other call meanwhile.
        let res = unsafe { borrow_mut(res) }?;
        res.check()?;
        res.fail();
        Ok(prefork_status::PREFORK_OK as c_int)
    })
}

/// Sends now what has been written by `prefork_response_write()`; the head in any case, after which it is too
/// late to set a whole body. Does not wait: what the client does not take yet is kept.
///
/// Returns PREFORK_OK, PREFORK_LATE (after one of the functions that set a whole body), PREFORK_GONE or
/// PREFORK_NULL.
/// Process: worker.
/// # Safety
/// Borrows `res` until return.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_response_flush(res: *mut prefork_response) -> c_int {
    // SAFETY: `res` is NULL or lent to the caller, who uses it in no other call meanwhile.
    guard(|| answered(unsafe { borrow_mut(res) }?.flush()))
}

/// Keeps the response, which is finished by `prefork_response_end()` after `on_request` has returned, in any
/// callback of this worker. What was set so far goes with it. `res` answers every further call with
/// PREFORK_LATE.
///
/// Until then nothing further of that connection is read or answered: requests that the client has sent
/// meanwhile wait. The connection counts as busy for `max-conns` and `least-connections`; a worker that drains
/// waits for it, up to the setting `drain-timeout`; it is no hang for the setting `timeout`.
///
/// All functions for responses take the result. When the client has gone (it was reset, or took nothing for the
/// setting `write-timeout`), or when nothing has been written for the setting `response-timeout` while the
/// client had nothing to take (it then gets a 504, or if some of the response was written, the connection is
/// cut), they return PREFORK_GONE; the result stays valid until it is ended. If `on_request` fails by a panic,
/// the client gets a 500. A worker that is killed takes its responses with it, and their clients see the end of
/// the connection.
///
/// Returns the response, which the call creates: end it with `prefork_response_end()`, whatever happens; or
/// NULL if `res` is NULL or has been kept before, or in another process.
/// Process: worker.
/// # Safety
/// Borrows `res` until return.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_response_later(res: *mut prefork_response) -> *mut prefork_response {
    guard(|| {
        // SAFETY: `res` is NULL or lent to the caller, who uses it in no other call meanwhile.
        let res = unsafe { borrow_mut(res) }?;
        if res.is_kept() || res.exchange().is_some() {
            return Err(prefork_status::PREFORK_LATE);
        }
        if Worker::current().is_none() {
            return Err(prefork_status::PREFORK_STATE);
        }
        Ok(Box::into_raw(res.keep()).cast())
    })
}

/// Finishes a response that was kept: sends what was set, and the end of a body that was written in parts. The
/// call itself sends nothing: that happens when the callback has returned.
///
/// Returns PREFORK_OK or PREFORK_GONE (the client has gone, or the time was over), and in both cases `res` is
/// freed; PREFORK_STATE (`res` was not returned by `prefork_response_later()`, or `prefork_response_stream()`
/// has taken it) or PREFORK_NULL, and then it is not.
/// Process: worker.
/// # Safety
/// Takes `res`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_response_end(res: *mut prefork_response) -> c_int {
    guard(|| {
        // SAFETY: `res` is NULL or lent to the caller, who uses it in no other call meanwhile.
        let response = unsafe { borrow_mut(res) }?;
        if !response.is_own() || response.check() == Err(Refused::State) {
            return Err(prefork_status::PREFORK_STATE);
        }
        // SAFETY: made by `prefork_response_later`, and by the caller's promise not used after this.
        answered(unsafe { Box::from_raw(res.cast::<Response>()) }.end())
    })
}

/// Sends a body of any size, whose parts a callback writes when there is room for them: `more(res, arg)` is
/// called whenever little of what it has written waits for the client (64 KiB, or half of the setting
/// `max-pending`), not within another callback, and in turn with other connections. It writes with
/// `prefork_response_write()` and returns 1 if more follows, 0 at the end, or a negative number to break off:
/// then the connection is cut, so that the client does not take the body for complete. A slow client holds no
/// more than `max-pending` bytes of memory: a part that has no room is refused with PREFORK_FULL and does no
/// harm; return 1, and `more` is called when there is room. If `more` returns 1 and has tried to write nothing,
/// it is not called again before something is written to `res`, or `prefork_response_flush()` is called, in
/// another callback: keep the pointer that `more` was given. The setting `response-timeout` counts meanwhile.
///
/// The head is that of `prefork_response_write()`. If the response has no body (to HEAD; status 204, 205 and
/// 304), `more` is not called, and `done` is.
///
/// `done(arg)`, which may be NULL, is called once in this worker when the response is over: at its end, when it
/// was broken off, when the client has gone, when the time was over, or before `worker_stop`; not if this call
/// is refused. From then on `res` is freed.
///
/// `res` may be the response given to `on_request`, which is then kept as by `prefork_response_later()`: `more`
/// is given another pointer. It may also be one that was kept, also if some of it was written.
///
/// Returns PREFORK_OK; PREFORK_LATE (a whole body was set, or it has such a callback already, or it was kept),
/// PREFORK_GONE, PREFORK_NULL (also if `more` is NULL), and then `res` is as before.
/// Process: worker.
/// # Safety
/// Takes `res` if it was returned by `prefork_response_later()`, otherwise borrows it until return; borrows
/// `arg` until `done(arg)` returns.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_response_stream(
    res: *mut prefork_response,
    more: Option<unsafe extern "C-unwind" fn(res: *mut prefork_response, arg: *mut c_void) -> c_int>,
    done: Option<unsafe extern "C-unwind" fn(arg: *mut c_void)>,
    arg: *mut c_void,
) -> c_int {
    guard(|| {
        // SAFETY: `res` is NULL or lent to the caller, who uses it in no other call meanwhile.
        let given = unsafe { borrow_mut(res) }?;
        let more = more.ok_or(prefork_status::PREFORK_NULL)?;
        let kept = match given.is_own() {
            true => {
                given.begin_parts()?;
                res.cast::<Response>()
            }
            false => {
                given.may_stream()?;
                let mut kept = given.keep();
                kept.begin_parts()?;
                Box::into_raw(kept)
            }
        };
        // SAFETY: as above, or just made.
        let response = unsafe { &mut *kept };
        let exchange = response.exchange().ok_or(prefork_status::PREFORK_STATE)?;
        response.give_away();
        exchange.produce(Box::new(Callback { kept, more, done, arg }));
        Ok(prefork_status::PREFORK_OK as c_int)
    })
}

/// The source of a body's parts in C.
struct Callback {
    /// Owned.
    kept: *mut Response,
    more: unsafe extern "C-unwind" fn(*mut prefork_response, *mut c_void) -> c_int,
    done: Option<unsafe extern "C-unwind" fn(*mut c_void)>,
    arg: *mut c_void,
}

impl Producer<Response> for Callback {
    fn response(&mut self) -> &mut Response {
        // SAFETY: made by Box::into_raw and not freed yet; C uses it during its callbacks only, and this is not called in them.
        unsafe { &mut *self.kept }
    }

    fn more(&mut self) -> std::result::Result<bool, String> {
        // SAFETY: the caller gave the function for calls with this pointer and `arg`.
        match unsafe { (self.more)(self.kept.cast(), self.arg) } {
            n if n < 0 => Err(String::new()),
            n => Ok(n > 0),
        }
    }
}

impl Drop for Callback {
    fn drop(&mut self) {
        if let Some(done) = self.done {
            // SAFETY: the caller gave both for this call, which is the only one.
            unsafe { done(self.arg) };
        }
        // SAFETY: made by Box::into_raw; C does not use it after `done`.
        drop(unsafe { Box::from_raw(self.kept) });
    }
}

/// Has `gone(arg)` called once if the client leaves before the response has ended: when it has closed its side
/// or was reset, or has taken nothing for the setting `write-timeout`; and when the setting `response-timeout`
/// is over, or `on_request` has failed by a panic. It is called from the worker's loop, not within another
/// callback, and never after `prefork_response_end()`. A client that has closed only its sending side still
/// gets the response: end it as ever. A second call replaces the first. The end of a client that has sent more
/// than the kernel holds for it is not seen.
///
/// Returns PREFORK_OK; PREFORK_STATE (`res` was not kept: while `on_request` runs, nobody looks), PREFORK_GONE,
/// PREFORK_LATE or PREFORK_NULL (also if `gone` is NULL), and then it is not called.
/// Process: worker.
/// # Safety
/// Borrows `res` until return, and `arg` until `gone(arg)` returns or the response is over.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_response_on_gone(
    res: *mut prefork_response,
    gone: Option<unsafe extern "C-unwind" fn(arg: *mut c_void)>,
    arg: *mut c_void,
) -> c_int {
    guard(|| {
        // SAFETY: `res` is NULL or lent to the caller.
        let res = unsafe { borrow(res) }?;
        let gone = gone.ok_or(prefork_status::PREFORK_NULL)?;
        if res.is_kept() {
            return Err(prefork_status::PREFORK_LATE);
        }
        let exchange = res.exchange().ok_or(prefork_status::PREFORK_STATE)?;
        // SAFETY: the caller gave both for this call, which is the only one.
        answered(exchange.set_on_gone(Box::new(move || unsafe { gone(arg) })).map_err(Refused::from))
    })
}

/// Has another worker go on with a response that is kept if this one drains: then `give(res, buffer, room, arg)` is
/// called, and writes what `on_resume` needs there into `buffer`, which has `room` bytes (the setting `max-state`). It
/// returns the bytes used, maybe 0; or a negative number if the response stays, until this worker's deadline. More
/// than `room` is logged, and it stays.
///
/// If it does not stay, it is over here: `res` is freed when `give` has returned, the callback of
/// `prefork_response_on_gone()` is not called, and `done` of `prefork_response_stream()` is. What was written and not
/// sent goes with it; a head that has not been sent is forgotten, and so is what was set of it. It stays, without a
/// call, if the client has sent another request behind it, and if the handler's `state_version` is 0. If `give` ends
/// it, it is finished here, whatever `give` returns. A second call replaces the first.
///
/// Returns PREFORK_OK; PREFORK_STATE (`res` was not kept), PREFORK_GONE, PREFORK_LATE or PREFORK_NULL (also if `give`
/// is NULL), and then it is not called.
/// Process: worker.
/// # Safety
/// Borrows `res` until return, and `arg` until the response is over.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_response_on_handover(
    res: *mut prefork_response,
    give: Option<
        unsafe extern "C-unwind" fn(
            res: *mut prefork_response,
            buffer: *mut c_void,
            room: usize,
            arg: *mut c_void,
        ) -> isize,
    >,
    arg: *mut c_void,
) -> c_int {
    guard(|| {
        // SAFETY: `res` is NULL or lent to the caller.
        let of = unsafe { borrow(res) }?;
        let give = give.ok_or(prefork_status::PREFORK_NULL)?;
        if of.is_kept() {
            return Err(prefork_status::PREFORK_LATE);
        }
        let exchange = of.exchange().ok_or(prefork_status::PREFORK_STATE)?;
        let shared = Rc::downgrade(&exchange);
        let give = move |room| {
            let mut buffer = vec![0; room];
            // SAFETY: the caller gave both for this call; `res` lives as long as its response is not over; the buffer has `room` bytes.
            let used = usize::try_from(unsafe { give(res, buffer.as_mut_ptr().cast(), room, arg) }).ok()?;
            if shared.upgrade().is_none_or(|exchange| exchange.has_ended()) {
                // `res` is freed.
                return None;
            }
            if used > room {
                log!(Warn, "on_handover: returned {used}, and max-state is {room}: the response stays");
                return None;
            }
            buffer.truncate(used);
            // SAFETY: as above.
            if unsafe { &*res.cast::<Response>() }.is_own() {
                // SAFETY: made by Box::into_raw; C does not use it any more. One that a producer has is freed with that.
                drop(unsafe { Box::from_raw(res.cast::<Response>()) });
            }
            Some(buffer)
        };
        answered(exchange.set_on_handover(Box::new(give)).map_err(Refused::from))
    })
}

/// Answers 101 and makes the connection a stream, for which `on_open`, `on_data` and `on_close` are called.
/// Header fields added before or after go into the 101 (RFC 9110 section 7.8).
///
/// A response that is kept can do so too: the 101 is sent when it ends.
///
/// Returns PREFORK_OK, PREFORK_UPGRADE (the request's Upgrade field does not name `protocol`), PREFORK_STATE
/// (the handler has no `on_data`), PREFORK_LATE, PREFORK_GONE, PREFORK_INVALID or PREFORK_NULL.
/// Process: worker.
/// # Safety
/// Borrows `res` until return. Copies `protocol`, which is NUL-terminated.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_response_upgrade(
    res: *mut prefork_response,
    protocol: *const c_char,
) -> c_int {
    guard(|| {
        // SAFETY: `res` is NULL or lent to the caller, who uses it in no other call meanwhile.
        let res = unsafe { borrow_mut(res) }?;
        // SAFETY: `protocol` is NULL or a C string that lives until return.
        answered(res.upgrade(unsafe { text(protocol) }?))
    })
}

/// As `prefork_response_upgrade()`, with a protocol of `protocol_len` bytes that is not NUL-terminated.
///
/// Returns as `prefork_response_upgrade()`.
/// Process: worker.
/// # Safety
/// Borrows `res` until return. Copies `protocol_len` bytes at `protocol`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_response_upgrade_n(
    res: *mut prefork_response,
    protocol: *const c_char,
    protocol_len: usize,
) -> c_int {
    guard(|| {
        // SAFETY: `res` is NULL or lent to the caller, who uses it in no other call meanwhile.
        let res = unsafe { borrow_mut(res) }?;
        // SAFETY: `protocol` is NULL or has that many bytes, which live until return.
        answered(res.upgrade(unsafe { text_n(protocol, protocol_len) }?))
    })
}

/// Gives the stream that this connection becomes its first `prefork_conn_user()`, for instance what the request was
/// about; call it after `prefork_response_upgrade()`. `release`, which may be NULL, is called with it once: after the
/// stream's `on_close`, or when it is certain that there will be no stream (the response has failed, the client has
/// gone). A second call replaces what the first one gave, which is released.
///
/// Returns PREFORK_OK, or a status, and nothing is taken: PREFORK_UPGRADE (the response is none to an upgrade),
/// PREFORK_STATE or PREFORK_NULL.
/// Process: worker.
/// # Safety
/// Borrows `res` until return. Takes `user`, which may be NULL, until `release` is called.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_response_set_user(
    res: *mut prefork_response,
    user: *mut c_void,
    release: Option<unsafe extern "C-unwind" fn(user: *mut c_void)>,
) -> c_int {
    guard(|| {
        // SAFETY: `res` is NULL or lent to the caller, who uses it in no other call meanwhile.
        let of = unsafe { borrow_mut(res) }?.user_of_stream()?;
        (of.value, of.pointer) = (release.map(|release| Owned::value(user, release)), user);
        Ok(prefork_status::PREFORK_OK as c_int)
    })
}
