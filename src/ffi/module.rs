//! The descriptor of a C handler, and the handler it makes.
//!
//! The descriptor comes from a shared object (`load.rs`) or from a program that embeds prefork (`server.rs`); its callbacks are
//! called in workers only.

use super::conn::prefork_conn;
use super::guard::{lend, lend_mut};
use super::request::prefork_request;
use super::response::prefork_response;
use super::worker::prefork_worker;
use crate::sys::datagram::sockaddr;
use crate::sys::overdue;
use crate::{Conn, Datagram, Handler, Kind, Message, Request, Response, Worker};
use std::ffi::{c_int, c_void};
use std::mem::offset_of;

pub(crate) use super::load::ModuleSource;

/// The major version of the binary interface: a module loads where it is equal.
pub const PREFORK_ABI_MAJOR: u16 = 2;

/// The minor version of the binary interface: it counts what was added, and does not keep a module from
/// loading.
pub const PREFORK_ABI_MINOR: u16 = 0;

/// A handler: the callbacks a module or a program offers. Every one may be NULL but for one of
/// `on_request`, `on_connection`, `on_data` and `on_datagram`. Which of the first three is set says how new
/// connections are served; `on_datagram` may stand beside each of them, or alone.
///
/// All run in the worker, which has one thread, one at a time. `state` is what `worker_start` left there.
/// No callback may let a C++ exception or a longjmp out.
///
/// The first three members are filled in by PREFORK_MODULE or `prefork_module_init()`. The struct grows at
/// its end only, and each side reads no more of it than both know.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct prefork_module {
    /// The size of this struct where the module was compiled.
    pub size: u32,
    /// PREFORK_ABI_MAJOR where the module was compiled.
    pub abi_major: u16,
    /// PREFORK_ABI_MINOR where the module was compiled.
    pub abi_minor: u16,
    /// Called first, before the worker is ready: open here what must not be shared between processes.
    /// `*state` is the pointer given with the handler (NULL for a module from a file) and may be replaced.
    /// Returns 0, or anything else where this worker cannot serve: it is tried again, later and later. One
    /// that would fail in the same way each time, since its configuration is wrong, calls `_exit(78)`
    /// (EX_CONFIG): its slot stays empty until a reload.
    pub worker_start:
        Option<unsafe extern "C" fn(worker: *mut prefork_worker, state: *mut *mut c_void) -> c_int>,
    /// Called last, when the worker has finished its last connection. A worker that is killed does not get
    /// here.
    pub worker_stop: Option<unsafe extern "C" fn(worker: *mut prefork_worker, state: *mut c_void)>,
    /// Answers one complete HTTP request. `req`, `res` and all they give are borrowed until it returns. The
    /// worker serves many connections, but none of them while this runs.
    pub on_request: Option<
        unsafe extern "C" fn(req: *mut prefork_request, res: *mut prefork_response, state: *mut c_void),
    >,
    /// Serves one connection in blocking style and returns when done with it, which closes it. The worker
    /// has this one only.
    pub on_connection: Option<unsafe extern "C" fn(conn: *mut prefork_conn, state: *mut c_void)>,
    /// A stream connection begins: a new one, or one that `prefork_response_upgrade()` has made.
    pub on_open: Option<unsafe extern "C" fn(conn: *mut prefork_conn, state: *mut c_void)>,
    /// A stream connection has bytes to read, or has reached its end. Beside `on_request` it serves
    /// upgraded connections.
    pub on_data: Option<unsafe extern "C" fn(conn: *mut prefork_conn, state: *mut c_void)>,
    /// A stream connection is over; nothing can be read or written any more.
    pub on_close: Option<unsafe extern "C" fn(conn: *mut prefork_conn, state: *mut c_void)>,
    /// The worker was told to finish what it has and takes nothing new.
    pub on_drain: Option<unsafe extern "C" fn(worker: *mut prefork_worker, state: *mut c_void)>,
    /// A message has come from the worker with the id `from`, or from the master (PREFORK_TO_MASTER).
    /// `type` is what the sender gave. A request is answered with `prefork_worker_reply()`. `size` bytes at
    /// `data` are borrowed until it returns. In blocking style it is called between two connections.
    pub on_message: Option<
        unsafe extern "C" fn(
            worker: *mut prefork_worker,
            from: u32,
            r#type: u32,
            data: *const c_void,
            size: usize,
            state: *mut c_void,
        ),
    >,
    /// A datagram has come to an address `udp:HOST:PORT`, from `peer`: a `struct sockaddr_in` or
    /// `sockaddr_in6`, as its `sa_family` says. All is borrowed until it returns;
    /// `prefork_datagram_reply()` answers.
    pub on_datagram: Option<
        unsafe extern "C" fn(
            worker: *mut prefork_worker,
            peer: *const sockaddr,
            data: *const c_void,
            len: usize,
            state: *mut c_void,
        ),
    >,
    /// The callback that is running has taken longer than the setting `timeout`; a second from now the
    /// worker is aborted (SIGABRT). Called once, IN A SIGNAL HANDLER that interrupts that callback wherever
    /// it is: only what signal-safety(7) lists may be called here, of this header `prefork_worker_overdue()`
    /// alone; no malloc, no stdio, no lock, no longjmp. A system call in which the callback waits (read,
    /// nanosleep, poll, ...) ends with EINTR afterwards; prefork's own are made again.
    ///
    /// It is good for: write(2) of a line, or of a backtrace with backtrace_symbols_fd(3) where backtrace(3)
    /// has been called once before; setting a `volatile sig_atomic_t` that a long loop looks at; shutdown(2)
    /// of a socket that the callback waits for. If the callback returns in time, its client is answered and
    /// the worker serves on.
    pub on_hang: Option<unsafe extern "C" fn(worker: *mut prefork_worker, state: *mut c_void)>,
}

/// What stands in front of the callbacks; every version of the descriptor has it.
const HEAD: usize = offset_of!(prefork_module, worker_start);

impl prefork_module {
    /// A descriptor without callbacks.
    pub(super) const EMPTY: Self = Self {
        size: size_of::<Self>() as u32,
        abi_major: PREFORK_ABI_MAJOR,
        abi_minor: PREFORK_ABI_MINOR,
        worker_start: None,
        worker_stop: None,
        on_request: None,
        on_connection: None,
        on_open: None,
        on_data: None,
        on_close: None,
        on_drain: None,
        on_message: None,
        on_datagram: None,
        on_hang: None,
    };

    /// Copies as much of a descriptor as both sides know.
    ///
    /// # Errors
    /// What was found instead of a descriptor of this binary interface, and what to do.
    ///
    /// # Safety
    ///
    /// `at` points to the head of a descriptor, and to as many bytes as it says where its major version is
    /// ours.
    pub(super) unsafe fn read(at: *const Self) -> Result<Self, String> {
        let mut module = Self::EMPTY;
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

    /// How new connections are served with these callbacks.
    ///
    /// # Errors
    /// Why that cannot be told, and what to do.
    pub(super) fn kind(&self) -> Result<Kind, &'static str> {
        match (self.on_request, self.on_connection, self.on_data) {
            (Some(_), None, _) => Ok(Kind::Request),
            (None, Some(_), None) => Ok(Kind::Connection),
            (None, None, Some(_)) => Ok(Kind::Data),
            (None, None, None) if self.on_datagram.is_some() => Ok(Kind::Datagram),
            (None, None, None) => {
                Err("found no handler: set on_request, on_connection, on_data or on_datagram")
            }
            (_, Some(_), _) => Err("found on_connection beside on_request or on_data: \
                 set on_connection alone, or leave it out"),
        }
    }
}

const RECOMPILE: &str = "compile it against the prefork.h of this prefork";

/// A handler whose callbacks are C functions.
#[derive(Clone)]
pub(super) struct Callbacks {
    kind: Kind,
    module: prefork_module,
    state: *mut c_void,
}

impl Callbacks {
    /// # Errors
    /// As [`prefork_module::kind`].
    ///
    /// # Safety
    ///
    /// The callbacks are what the header says they are, and may be called with `state` for the rest of this
    /// process's life.
    pub(super) unsafe fn new(module: prefork_module, state: *mut c_void) -> Result<Self, &'static str> {
        Ok(Self { kind: module.kind()?, module, state })
    }
}

impl Handler for Callbacks {
    fn kind(&self) -> Kind {
        self.kind
    }

    fn takes_datagrams(&self) -> bool {
        self.module.on_datagram.is_some()
    }

    fn start(&mut self, worker: &Worker) -> Result<(), String> {
        if let Some(start) = self.module.worker_start {
            // SAFETY: a callback, as `new` was promised; both pointers are good until it returns.
            match unsafe { start(lend(worker), &raw mut self.state) } {
                0 => {}
                n => return Err(format!("worker_start returned {n}")),
            }
        }
        if let Some(on_hang) = self.module.on_hang {
            let (worker, state) = (lend(worker), self.state);
            // SAFETY: as in `start`; a worker and its state live as long as the process.
            let call = move || unsafe { on_hang(worker, state) };
            // SAFETY: the header asks that of the callback.
            unsafe { overdue::call(call) };
        }
        Ok(())
    }

    fn stop(&mut self, worker: &Worker) {
        if let Some(stop) = self.module.worker_stop {
            // SAFETY: as in `start`.
            unsafe { stop(lend(worker), self.state) }
        }
    }

    fn on_drain(&mut self, worker: &Worker) {
        if let Some(drain) = self.module.on_drain {
            // SAFETY: as in `start`.
            unsafe { drain(lend(worker), self.state) }
        }
    }

    fn on_message(&mut self, worker: &Worker, message: &Message<'_>) {
        if let Some(on_message) = self.module.on_message {
            let (bytes, from, kind) = (message.bytes(), message.from(), message.kind());
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

    fn on_connection(&mut self, conn: &mut Conn) {
        self.stream(self.module.on_connection, conn);
    }

    fn on_open(&mut self, conn: &mut Conn) {
        self.stream(self.module.on_open, conn);
    }

    fn on_data(&mut self, conn: &mut Conn) {
        match self.module.on_data {
            None => conn.close(),
            data => self.stream(data, conn),
        }
    }

    fn on_close(&mut self, conn: &mut Conn) {
        self.stream(self.module.on_close, conn);
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

impl Callbacks {
    fn stream(
        &self,
        callback: Option<unsafe extern "C" fn(*mut prefork_conn, *mut c_void)>,
        conn: &mut Conn,
    ) {
        if let Some(callback) = callback {
            // SAFETY: as in `start`.
            unsafe { callback(lend_mut(conn), self.state) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    unsafe extern "C" fn on_request(_: *mut prefork_request, _: *mut prefork_response, _: *mut c_void) {}
    unsafe extern "C" fn on_conn(_: *mut prefork_conn, _: *mut c_void) {}

    unsafe extern "C" fn on_datagram(
        _: *mut prefork_worker,
        _: *const sockaddr,
        _: *const c_void,
        _: usize,
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
        let none = prefork_module::EMPTY;
        let request = prefork_module { on_request: Some(on_request), ..none };
        let both = prefork_module { on_data: Some(on_conn), ..request };
        assert_eq!(request.kind(), Ok(Kind::Request));
        assert_eq!(both.kind(), Ok(Kind::Request));
        assert_eq!(prefork_module { on_data: Some(on_conn), ..none }.kind(), Ok(Kind::Data));
        let blocking = prefork_module { on_connection: Some(on_conn), ..none };
        assert_eq!(blocking.kind(), Ok(Kind::Connection));
        let datagram = prefork_module { on_datagram: Some(on_datagram), ..none };
        assert_eq!(datagram.kind(), Ok(Kind::Datagram));
        assert_eq!(prefork_module { on_request: Some(on_request), ..datagram }.kind(), Ok(Kind::Request));
        assert!(none.kind().unwrap_err().contains("no handler"));
        for beside in [both, request, prefork_module { on_data: Some(on_conn), ..none }] {
            let ambiguous = prefork_module { on_connection: Some(on_conn), ..beside };
            assert!(ambiguous.kind().unwrap_err().contains("beside"));
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
    fn another_major_version_is_refused_before_the_size_is_looked_at() {
        let text = read(&head(u32::MAX, PREFORK_ABI_MAJOR + 1, 3)).unwrap_err();
        assert_eq!(text, format!("found ABI 3.3: {RECOMPILE}"));
    }

    #[test]
    fn a_descriptor_without_a_head_is_refused() {
        assert!(read(&head(4, PREFORK_ABI_MAJOR, 0)).unwrap_err().contains("4 bytes"));
    }
}
