//! The descriptor of a C handler, from a shared object (`load.rs`) or a program that embeds prefork (`server.rs`), and the handler
//! made from it, whose callbacks are called in workers only.

use super::conn::prefork_conn;
use super::guard::{borrow, guard, lend, lend_mut, text};
use super::request::prefork_request;
use super::response::prefork_response;
use super::status::{answered, prefork_status};
use super::worker::prefork_worker;
use crate::log::log;
use crate::sys::datagram::sockaddr;
use crate::sys::{overdue, test_thread};
use crate::unwind::named;
use crate::worker::routes::Unserved;
use crate::{Conn, Datagram, Handler, Kind, Later, Message, Request, Response, Take, Worker};
use std::cell::RefCell;
use std::error::Error;
use std::ffi::{c_char, c_int, c_void};
use std::mem::offset_of;

/// The major version of the binary interface. A module loads only if its version is equal.
pub const PREFORK_ABI_MAJOR: u16 = 2;

/// The minor version of the binary interface, raised by each addition. A module with any minor version loads.
pub const PREFORK_ABI_MINOR: u16 = 1;

/// Called with a complete HTTP request.
pub type prefork_on_request = Option<
    unsafe extern "C-unwind" fn(req: *mut prefork_request, res: *mut prefork_response, state: *mut c_void),
>;

/// Called with the head of an HTTP request. Returns 0, 1, or another number.
pub type prefork_on_head = Option<
    unsafe extern "C-unwind" fn(
        req: *mut prefork_request,
        res: *mut prefork_response,
        state: *mut c_void,
    ) -> c_int,
>;

/// Called with a piece of the body of an HTTP request.
pub type prefork_on_body = Option<
    unsafe extern "C-unwind" fn(
        req: *mut prefork_request,
        data: *const c_void,
        size: usize,
        last: c_int,
        state: *mut c_void,
    ),
>;

/// Called for a connection.
pub type prefork_on_conn = Option<unsafe extern "C-unwind" fn(conn: *mut prefork_conn, state: *mut c_void)>;

/// Called with a datagram.
pub type prefork_on_datagram = Option<
    unsafe extern "C-unwind" fn(
        worker: *mut prefork_worker,
        peer: *const sockaddr,
        data: *const c_void,
        len: usize,
        state: *mut c_void,
    ),
>;

/// Called when a stream may go to another worker. Returns the bytes used, or a negative number.
pub type prefork_on_handover = Option<
    unsafe extern "C-unwind" fn(
        conn: *mut prefork_conn,
        buffer: *mut c_void,
        room: usize,
        state: *mut c_void,
    ) -> isize,
>;

/// Called when a stream has come from another worker. Returns 0 if it is taken over.
pub type prefork_on_takeover = Option<
    unsafe extern "C-unwind" fn(
        conn: *mut prefork_conn,
        version: u32,
        data: *const c_void,
        size: usize,
        state: *mut c_void,
    ) -> c_int,
>;

/// Called when a response has come from another worker. Returns 0 if the handler goes on with it.
pub type prefork_on_resume = Option<
    unsafe extern "C-unwind" fn(
        res: *mut prefork_response,
        version: u32,
        data: *const c_void,
        size: usize,
        state: *mut c_void,
    ) -> c_int,
>;

/// Called when the worker stops, is drained, or hangs.
pub type prefork_on_worker =
    Option<unsafe extern "C-unwind" fn(worker: *mut prefork_worker, state: *mut c_void)>;

/// A handler: the callbacks of a module or a program. One of `on_request`, `on_connection` and `on_data` serves
/// new connections; `on_datagram` serves datagrams, alone or in addition. The other members may be NULL.
///
/// Callbacks run in the worker, one at a time, in its one thread. `state` is the pointer that `worker_start`
/// has left. What a callback is given is borrowed until it returns. No callback may let a C++ exception or a
/// longjmp out.
///
/// PREFORK_MODULE or `prefork_module_init()` fills in the first three members. The struct grows at its end
/// only, and each side uses only those members that both know.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct prefork_module {
    /// The size of this struct in the header that the module was compiled with.
    pub size: u32,
    /// PREFORK_ABI_MAJOR of that header.
    pub abi_major: u16,
    /// PREFORK_ABI_MINOR of that header.
    pub abi_minor: u16,
    /// Called first, before the worker is ready: open here what processes must not share. `*state` is the
    /// pointer given with the handler (NULL for a module from a file) and may be replaced. Returns 0, or
    /// another number if this worker cannot serve: a new worker tries again, after longer and longer delays.
    /// If each try would fail, for instance because of a wrong configuration, call `_exit(78)` (EX_CONFIG):
    /// then the slot stays empty until a reload. If all slots do for ten seconds, the server ends
    /// (PREFORK_MISCONFIGURED).
    pub worker_start:
        Option<unsafe extern "C-unwind" fn(worker: *mut prefork_worker, state: *mut *mut c_void) -> c_int>,
    /// Called last, when the worker has finished its last connection; not called if the worker crashes or is killed.
    /// Then stdio's buffers are written. Exit handlers and destructors run only with "worker-exit" at "full".
    pub worker_stop: prefork_on_worker,
    /// Answers one complete HTTP request. The worker has many connections, but serves none of them meanwhile.
    pub on_request: prefork_on_request,
    /// Serves one connection in blocking style. It is the worker's only one, and closes when this returns.
    pub on_connection: prefork_on_conn,
    /// A stream begins: a new connection, or one that `prefork_response_upgrade()` has made a stream, when its 101
    /// has been sent, in front of all that is written here. What the client has sent behind its handshake can be
    /// read already; `on_data` is called for it next.
    pub on_open: prefork_on_conn,
    /// A stream has bytes to read, has reached its end, or has room again for a write that was refused and input
    /// left. Together with `on_request` it serves upgraded
    /// connections only.
    pub on_data: prefork_on_conn,
    /// A stream is over; nothing can be read or written any more. `prefork_conn_end_reason()` says why.
    pub on_close: prefork_on_conn,
    /// The worker is being drained: it finishes what it has and takes nothing new.
    pub on_drain: prefork_on_worker,
    /// A message has arrived from the worker with the id `from`, or from the master (PREFORK_TO_MASTER).
    /// `type` is the sender's. `prefork_worker_reply()` answers a request. In blocking style it is called
    /// between two connections.
    pub on_message: Option<
        unsafe extern "C-unwind" fn(
            worker: *mut prefork_worker,
            from: u32,
            r#type: u32,
            data: *const c_void,
            size: usize,
            state: *mut c_void,
        ),
    >,
    /// A datagram has arrived at an address `udp:HOST:PORT`, from `peer`: a `struct sockaddr_in` or
    /// `sockaddr_in6`, as its `sa_family` says. `prefork_datagram_reply()` answers it.
    pub on_datagram: prefork_on_datagram,
    /// The callback that is running has taken longer than the setting `timeout`; in one second the worker is
    /// aborted (SIGABRT). Called once, IN A SIGNAL HANDLER that interrupts that callback anywhere: only what
    /// signal-safety(7) lists may be called, and `prefork_worker_overdue()`; no malloc, no stdio, no lock,
    /// no longjmp. A system call in which the callback waits (read, nanosleep, poll, ...) ends with EINTR
    /// afterwards; prefork's own are restarted.
    ///
    /// Uses: write(2) a line, or a backtrace with backtrace_symbols_fd(3) if backtrace(3) was called once
    /// before; set a `volatile sig_atomic_t` that a long loop reads; shutdown(2) the socket that the callback
    /// waits for. If the callback returns in time, its client is answered and the worker keeps serving.
    pub on_hang: prefork_on_worker,
    /// A stream that has refused a write with PREFORK_FULL has room for it now. If input is left, `on_data` is
    /// called next.
    pub on_writable: prefork_on_conn,
    /// Together with `on_request`: the head of a request has come. Returns 0 to have the whole body given to
    /// `on_request`, as without this callback; 1 to have it given to `on_body` as it comes; or another number, for
    /// instance -1, to refuse it: then what was set of the response is the answer (401, 413, 417, or any other),
    /// no body is read, a client that expects a 100 gets none, and neither `on_body` nor `on_request` is called.
    /// If a refused request has a body, its connection is closed after the answer, in stages; else it is kept.
    ///
    /// Called once for every request, in order, also for one without a body, or whose body has come already. With
    /// 0 and 1, what was set of the response is forgotten; but a response of which a part was written, or that was
    /// kept, is the answer whatever is returned. The setting `max-body` holds with 0 only: see
    /// `prefork_request_length()` and `prefork_request_stop()`.
    pub on_head: prefork_on_head,
    /// A piece of a body for which `on_head` has returned 1: in order, decoded, up to 64 KiB or as much as came
    /// with the head. The last one, which may be empty, has `last` = 1, all others 0. After it `on_request` is
    /// called, with an empty body, to answer; keep what you need with `prefork_request_set_user()`. Between two
    /// pieces the setting `body-timeout` runs. If the client goes, or the rest of the body is malformed, neither
    /// is called any more. While this runs nothing is read; `prefork_request_pause()` lets the client wait longer.
    /// If it is NULL, such a body is read and dropped.
    pub on_body: prefork_on_body,
    /// The version of the bytes that `on_handover` writes; 0 if streams stay in their worker.
    pub state_version: u32,
    /// This worker drains, or `prefork_conn_transfer()` was called for this stream: writes what another worker
    /// needs to go on with it into `buffer`, which has `room` bytes (the setting `max-state`). Returns the bytes
    /// used, maybe 0; or a negative number if the stream stays, until this worker's deadline. More than `room`
    /// is logged, and it stays.
    ///
    /// If it does not stay, it is over for this worker: nothing can be read or written, `on_close` is not called, and
    /// what the pointer of `prefork_conn_set_user()` points to is to be freed here (what `prefork_response_set_user()`
    /// was given is released). What was read and not
    /// consumed, what was written and not sent, its subscriptions, and what was set for it go with it. Timers and
    /// watched descriptors do not: stop them here, and start them again in `on_takeover` (the time of
    /// clock_gettime(CLOCK_MONOTONIC) is the same in all workers). If no worker takes it over, it comes back to
    /// this one by `on_takeover`. One that is closed in this call is closed by the worker that has taken it over.
    pub on_handover: prefork_on_handover,
    /// A stream has come from another worker: `data` is what its `on_handover` wrote, `version` its
    /// `state_version`, since another version of the module may run there. It has a new `prefork_conn_id()`. What is
    /// written here is sent when this has returned; `on_data` is called next if there is something to read.
    /// `on_open` is not called.
    ///
    /// Returns 0 if it is taken over. Else what was written here is forgotten, and the stream goes back to the
    /// worker from which it came; if that refuses it too, or has ended, its client gets a reset. It must be
    /// set if `on_handover` is.
    pub on_takeover: prefork_on_takeover,
    /// A response that another worker had kept has come from there: `data` is what the callback of
    /// `prefork_response_on_handover()` wrote. `res` is as one returned by `prefork_response_later()`; if its head
    /// was sent, parts of the body follow. What is written here is sent when this has returned.
    ///
    /// Returns 0 if the handler goes on with it: then `res` is its own, to be ended. Else `res` is freed, and it goes
    /// back as a stream does; so it does if this is NULL. The handler must not end a response that it refuses.
    pub on_resume: prefork_on_resume,
}

/// The size of the part before the callbacks, which every version of the descriptor has.
const HEAD: usize = offset_of!(prefork_module, worker_start);

impl prefork_module {
    /// Copies as much of a descriptor as both sides know.
    ///
    /// # Errors
    /// What was found instead of a descriptor of this binary interface, and what to do.
    ///
    /// # Safety
    /// `at` points to the head of a descriptor, and, if its major version is ours, to as many bytes as it says.
    pub(super) unsafe fn read(at: *const Self) -> Result<Self, String> {
        let mut module = Self::default();
        let to = (&raw mut module).cast::<u8>();
        // SAFETY: both are HEAD bytes at least; the head has no padding and no invalid values.
        unsafe { std::ptr::copy_nonoverlapping(at.cast::<u8>(), to, HEAD) };
        if module.abi_major != PREFORK_ABI_MAJOR {
            return Err(format!("found ABI {}.{}: {RECOMPILE}", module.abi_major, module.abi_minor));
        }
        let size = module.size as usize;
        if size < HEAD {
            return Err(format!("found a prefork_module of {size} bytes: define it with PREFORK_MODULE"));
        }
        let known = size.min(size_of::<Self>());
        // SAFETY: `known` bytes are there on both sides; any bits but NULL are a function of the type the header asks for.
        unsafe { std::ptr::copy_nonoverlapping(at.cast::<u8>(), to, known) };
        Ok(module)
    }

    /// The style that these callbacks are for.
    ///
    /// # Errors
    /// What was found instead, and what to do.
    pub(super) fn kind(&self) -> Result<Kind, &'static str> {
        if self.on_request.is_none() && (self.on_head.is_some() || self.on_body.is_some()) {
            return Err("found on_head or on_body without on_request: set that too");
        }
        if self.on_head.is_none() && self.on_body.is_some() {
            return Err("found on_body without on_head: set that too, to return 1");
        }
        if self.on_handover.is_some() && self.on_takeover.is_none() {
            // Each stream would be reset as soon as its worker drains.
            return Err("found on_handover without on_takeover: set that too");
        }
        match (self.on_request, self.on_connection, self.on_data) {
            (Some(_), None, _) => Ok(Kind::Request),
            (None, Some(_), None) => Ok(Kind::Blocking),
            (None, None, Some(_)) => Ok(Kind::Stream),
            (None, None, None) if self.on_datagram.is_some() => Ok(Kind::Datagram),
            (None, None, None) => {
                Err("found no handler: set on_request, on_connection, on_data or on_datagram")
            }
            (_, Some(_), _) => {
                Err("found on_connection together with on_request or on_data: set one or the other")
            }
        }
    }
}

thread_local! {
    /// The last refusal of `prefork_worker_serve()`, for the message about a worker that does not start because of it.
    static UNSERVED: RefCell<Option<String>> = const { RefCell::new(None) };
}

const RECOMPILE: &str = "compile it against the prefork.h of this prefork";

/// A handler whose callbacks are C functions.
#[derive(Clone)]
pub(super) struct Callbacks {
    kind: Kind,
    module: prefork_module,
    state: *mut c_void,
    /// The room for `on_handover`.
    buffer: Vec<u8>,
}

impl Callbacks {
    /// # Errors
    /// As [`prefork_module::kind`].
    ///
    /// # Safety
    /// The callbacks are what the header says, and may be called with `state` as long as this process lives.
    pub(super) unsafe fn new(module: prefork_module, state: *mut c_void) -> Result<Self, &'static str> {
        Ok(Self { kind: module.kind()?, module, state, buffer: Vec::new() })
    }

    fn tell(&self, callback: prefork_on_worker, worker: &Worker) {
        if let Some(callback) = callback {
            // SAFETY: as in `start`.
            unsafe { callback(lend(worker), self.state) }
        }
    }

    fn stream(&self, callback: prefork_on_conn, conn: &Conn) {
        if let Some(callback) = callback {
            // SAFETY: as in `start`.
            unsafe { callback(lend(conn), self.state) }
        }
    }
}

impl Handler for Callbacks {
    fn kind(&self) -> Kind {
        self.kind
    }

    fn takes_datagrams(&self) -> bool {
        self.module.on_datagram.is_some()
    }

    fn takes_streams(&self) -> bool {
        self.module.on_data.is_some()
    }

    fn start(&mut self, worker: &Worker) -> Result<(), Box<dyn Error>> {
        if let Some(start) = self.module.worker_start {
            // SAFETY: a callback, as promised to `new`; both pointers are good until it returns.
            match unsafe { start(lend(worker), &raw mut self.state) } {
                0 => {}
                n => {
                    let reason = UNSERVED.take().map(|unserved| format!(": {unserved}")).unwrap_or_default();
                    return Err(format!("worker_start returned {n}{reason}").into());
                }
            }
        }
        // A test's worker is not watched.
        if let Some(on_hang) = self.module.on_hang.filter(|_| !test_thread::is_here()) {
            let (worker, state) = (lend(worker), self.state);
            // SAFETY: as in `start`; a worker and its state live as long as the process.
            let call = move || named("on_hang", || unsafe { on_hang(worker, state) });
            // SAFETY: the header asks that of the callback.
            unsafe { overdue::call(call) };
        }
        Ok(())
    }

    fn stop(&mut self, worker: &Worker) {
        self.tell(self.module.worker_stop, worker);
    }

    fn on_drain(&mut self, worker: &Worker) {
        self.tell(self.module.on_drain, worker);
    }

    fn on_message(&mut self, worker: &Worker, message: &Message<'_>) {
        if let Some(on_message) = self.module.on_message {
            let (bytes, from, kind) = (message.bytes(), message.sender_number(), message.kind().0);
            // SAFETY: as in `start`.
            unsafe { on_message(lend(worker), from, kind, bytes.as_ptr().cast(), bytes.len(), self.state) }
        }
    }

    fn on_request(&mut self, req: &Request<'_>, res: &mut Response) {
        if let Some(request) = self.module.on_request {
            // SAFETY: as in `start`.
            unsafe { request(lend(req), lend_mut(res), self.state) }
        }
    }

    fn takes_heads(&self) -> bool {
        self.module.on_head.is_some()
    }

    fn on_head(&mut self, req: &Request<'_>, res: &mut Response) -> Take {
        let Some(on_head) = self.module.on_head else { return Take::Whole };
        // SAFETY: as in `start`.
        match unsafe { on_head(lend(req), lend_mut(res), self.state) } {
            0 => Take::Whole,
            1 => Take::Pieces,
            _ => Take::Refuse,
        }
    }

    fn on_body(&mut self, req: &Request<'_>, piece: &[u8], last: bool) {
        if let Some(on_body) = self.module.on_body {
            let (data, last) = (piece.as_ptr().cast(), c_int::from(last));
            // SAFETY: as in `start`.
            unsafe { on_body(lend(req), data, piece.len(), last, self.state) }
        }
    }

    fn on_connection(&mut self, conn: &Conn) {
        self.stream(self.module.on_connection, conn);
    }

    fn on_open(&mut self, conn: &Conn) {
        self.stream(self.module.on_open, conn);
    }

    fn on_data(&mut self, conn: &Conn) {
        match self.module.on_data {
            None => conn.close(),
            data => self.stream(data, conn),
        }
    }

    fn on_writable(&mut self, conn: &Conn) {
        self.stream(self.module.on_writable, conn);
    }

    fn on_close(&mut self, conn: &Conn) {
        self.stream(self.module.on_close, conn);
    }

    fn state_version(&self) -> u32 {
        self.module.state_version
    }

    fn write_state(&mut self, conn: &Conn, room: usize) -> Option<Vec<u8>> {
        let on_handover = self.module.on_handover?;
        self.buffer.resize(room, 0);
        // SAFETY: as in `start`; the buffer has `room` bytes.
        let used = unsafe { on_handover(lend(conn), self.buffer.as_mut_ptr().cast(), room, self.state) };
        let used = usize::try_from(used).ok()?;
        let written = self.buffer.get(..used).map(<[u8]>::to_vec);
        if written.is_none() {
            log!(
                Warn,
                "on_handover: {}: returned {used}, and max-state is {room}: the stream stays",
                conn.client()
            );
        }
        written
    }

    fn on_resume(&mut self, res: Later, version: u32, state: &[u8]) -> Result<(), String> {
        let on_resume = self.module.on_resume.ok_or("there is no on_resume")?;
        let res = res.into_raw();
        let (data, size) = (state.as_ptr().cast(), state.len());
        // SAFETY: as in `start`; `res` is the handler's from now on.
        match unsafe { on_resume(res.cast(), version, data, size, self.state) } {
            0 => Ok(()),
            other => {
                // SAFETY: made by `into_raw`; a handler that refuses it does not use it any more.
                drop(unsafe { Box::from_raw(res) });
                Err(format!("returned {other}"))
            }
        }
    }

    fn on_takeover(&mut self, conn: &Conn, version: u32, state: &[u8]) -> Result<(), String> {
        let on_takeover = self.module.on_takeover.ok_or("there is no on_takeover")?;
        let (data, size) = (state.as_ptr().cast(), state.len());
        // SAFETY: as in `start`.
        match unsafe { on_takeover(lend(conn), version, data, size, self.state) } {
            0 => Ok(()),
            other => Err(format!("returned {other}")),
        }
    }

    fn on_datagram(&mut self, datagram: &Datagram<'_>) {
        if let Some(callback) = self.module.on_datagram {
            let (worker, peer) = (lend(datagram.worker()), datagram.peer_sockaddr());
            let (data, size) = (datagram.data().as_ptr().cast(), datagram.data().len());
            // SAFETY: as in `start`.
            super::datagram::during(datagram, || unsafe { callback(worker, peer, data, size, self.state) });
        }
    }
}

/// Has another handler serve the listeners of a name (`--listen NAME=ADDRESS`), in its own style, for instance a line
/// protocol beside requests; only in `worker_start`. Of its callbacks those about connections, requests and datagrams
/// are called, with `state`; all others are the module's own. The last handler for a name serves it.
///
/// Returns PREFORK_OK; PREFORK_GONE if no listener has this name; PREFORK_INVALID if `handler` is of another binary
/// interface, has no handler, or has `on_connection` (with which a worker serves all listeners or none);
/// PREFORK_STATE outside of `worker_start`; PREFORK_NULL.
/// Process: worker.
/// # Safety
/// Borrows `worker` until return. Copies `name`, which is NUL-terminated, and `handler`, which begins with the
/// members that `prefork_module_init()` fills in. Takes `state`, which may be NULL, as long as the worker lives.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_worker_serve(
    worker: *mut prefork_worker,
    name: *const c_char,
    handler: *const prefork_module,
    state: *mut c_void,
) -> c_int {
    guard(|| {
        // SAFETY: `worker` is NULL or lent to the caller.
        let worker = unsafe { borrow(worker) }?;
        // SAFETY: `name` is NULL or a C string that lives until return.
        let name = unsafe { text(name) }?;
        if handler.is_null() {
            return Err(prefork_status::PREFORK_NULL);
        }
        // SAFETY: not NULL; the rest is what the caller promises.
        let module = unsafe { prefork_module::read(handler) }.map_err(|_| prefork_status::PREFORK_INVALID)?;
        // SAFETY: the caller promises that the callbacks are what the header says.
        let callbacks =
            unsafe { Callbacks::new(module, state) }.map_err(|_| prefork_status::PREFORK_INVALID)?;
        answered(worker.serve_boxed(name, Box::new(callbacks)).map_err(|refused| {
            UNSERVED.set(Some(format!("serve {name:?}: {}", refused.text())));
            match refused {
                Unserved::Late => prefork_status::PREFORK_STATE,
                Unserved::Blocking => prefork_status::PREFORK_INVALID,
                Unserved::NoListener => prefork_status::PREFORK_GONE,
            }
        }))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    unsafe extern "C-unwind" fn on_request(
        _: *mut prefork_request,
        _: *mut prefork_response,
        _: *mut c_void,
    ) {
    }
    unsafe extern "C-unwind" fn on_conn(_: *mut prefork_conn, _: *mut c_void) {}

    unsafe extern "C-unwind" fn on_datagram(
        _: *mut prefork_worker,
        _: *const sockaddr,
        _: *const c_void,
        _: usize,
        _: *mut c_void,
    ) {
    }

    unsafe extern "C-unwind" fn on_head(
        _: *mut prefork_request,
        _: *mut prefork_response,
        _: *mut c_void,
    ) -> c_int {
        0
    }

    unsafe extern "C-unwind" fn on_body(
        _: *mut prefork_request,
        _: *const c_void,
        _: usize,
        _: c_int,
        _: *mut c_void,
    ) {
    }

    fn read(bytes: &[u8]) -> Result<prefork_module, String> {
        // SAFETY: the tests below give as many bytes as the head says, or a head that is refused.
        unsafe { prefork_module::read(bytes.as_ptr().cast()) }
    }

    fn head(size: u32, major: u16, minor: u16) -> Vec<u8> {
        [&size.to_ne_bytes()[..], &major.to_ne_bytes(), &minor.to_ne_bytes()].concat()
    }

    #[test]
    fn the_callbacks_say_how_connections_are_served() {
        let none = prefork_module::default();
        let request = prefork_module { on_request: Some(on_request), ..none };
        let both = prefork_module { on_data: Some(on_conn), ..request };
        assert_eq!(request.kind(), Ok(Kind::Request));
        assert_eq!(both.kind(), Ok(Kind::Request));
        assert_eq!(prefork_module { on_data: Some(on_conn), ..none }.kind(), Ok(Kind::Stream));
        let blocking = prefork_module { on_connection: Some(on_conn), ..none };
        assert_eq!(blocking.kind(), Ok(Kind::Blocking));
        let datagram = prefork_module { on_datagram: Some(on_datagram), ..none };
        assert_eq!(datagram.kind(), Ok(Kind::Datagram));
        assert_eq!(prefork_module { on_request: Some(on_request), ..datagram }.kind(), Ok(Kind::Request));
        assert!(none.kind().unwrap_err().contains("no handler"));
        let unasked = prefork_module { on_body: Some(on_body), ..request };
        assert!(unasked.kind().unwrap_err().contains("without on_head"));
        let unanswered = prefork_module { on_head: Some(on_head), on_data: Some(on_conn), ..none };
        assert!(unanswered.kind().unwrap_err().contains("without on_request"));
        assert_eq!(prefork_module { on_head: Some(on_head), ..unasked }.kind(), Ok(Kind::Request));
        for other in [both, request, prefork_module { on_data: Some(on_conn), ..none }] {
            let ambiguous = prefork_module { on_connection: Some(on_conn), ..other };
            assert!(ambiguous.kind().unwrap_err().contains("together"));
        }
    }

    #[test]
    fn an_older_and_shorter_descriptor_is_read_as_far_as_it_goes() {
        let module = read(&[head(16, PREFORK_ABI_MAJOR, 0), vec![0; 8]].concat()).unwrap();
        assert_eq!(module.size, 16);
        assert!(module.worker_start.is_none() && module.on_drain.is_none());
        // As modules were before there was `on_hang`: what follows them in memory is not theirs.
        let size = offset_of!(prefork_module, on_hang);
        let callbacks = vec![1; size - HEAD + size_of::<usize>()];
        let module = read(&[head(size as u32, PREFORK_ABI_MAJOR, 1), callbacks].concat()).unwrap();
        assert!(module.on_datagram.is_some() && module.on_hang.is_none());
    }

    #[test]
    fn a_newer_and_longer_descriptor_is_read_as_far_as_we_know_it() {
        let size = size_of::<prefork_module>() as u32 + 64;
        let rest = vec![0; size as usize - HEAD];
        assert!(read(&[head(size, PREFORK_ABI_MAJOR, 7), rest].concat()).is_ok());
    }

    #[test]
    fn another_major_version_is_refused_before_the_size_is_read() {
        let text = read(&head(u32::MAX, PREFORK_ABI_MAJOR + 1, 3)).unwrap_err();
        assert_eq!(text, format!("found ABI 3.3: {RECOMPILE}"));
    }

    #[test]
    fn a_descriptor_without_a_head_is_refused() {
        assert!(read(&head(4, PREFORK_ABI_MAJOR, 0)).unwrap_err().contains("4 bytes"));
    }
}
