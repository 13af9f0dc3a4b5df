//! The server, as a C program that embeds prefork sees it. Runs in the master-to-be and the master.

use super::conn::prefork_conn;
use super::event::{self, prefork_on_event};
use super::guard::{Opaque, Result, borrow, borrow_mut, bytes, c_str, file_path, guard, pointers, text};
use super::module::{Callbacks, PREFORK_ABI_MAJOR, PREFORK_ABI_MINOR, prefork_module};
use super::request::prefork_request;
use super::response::prefork_response;
use super::status::{answered, prefork_status};
use super::worker::{prefork_worker, reply_parts};
use crate::config::Config;
use crate::master::News;
use crate::master::router::OnMessage;
use crate::server::{Callbacks as HostCallbacks, OnEvent, OnStart};
use crate::sys::datagram::sockaddr;
use crate::{Error, ErrorKind, Event, Message, Messages, Running, Server, Started, Stopped};
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::path::PathBuf;
use std::time::Duration;

/// A server to be: a handler and its settings; `prefork_server_run()` makes the calling process its master.
/// Made by `prefork_server_new()`, ended by `prefork_server_free()`.
pub struct prefork_server {
    config: Config,
    handler: Option<Given>,
    args: Vec<CString>,
    pub(super) run: Run,
    callbacks: HostCallbacks,
    /// A callback of the program is being called; `callbacks` are with the caller meanwhile.
    telling: bool,
    messages: Messages,
    killed: u32,
    error: CString,
}

/// The state of a run.
pub(super) enum Run {
    No,
    /// Not to be touched: a turn of the master's loop is under way; in a worker, forever.
    Turn,
    Here(Box<Running>),
}

/// The handler a program gave.
#[derive(Clone)]
enum Given {
    Callbacks(Callbacks),
    File(PathBuf),
}

impl Opaque for prefork_server {
    type Inner<'a> = Self;
}

/// What has been started, given to the callback of `prefork_server_on_start()`. It may grow at its end.
#[repr(C)]
#[derive(Debug)]
pub struct prefork_started {
    /// The addresses really listened on, in the order they were given: `127.0.0.1:8080`, `[::1]:8080`,
    /// `udp:127.0.0.1:53` or `unix:/path`, each NUL-terminated.
    pub addresses: *const *const c_char,
    /// The number of addresses.
    pub address_count: usize,
    /// The number of workers, all of which are ready.
    pub workers: usize,
}

/// Called once, when every worker is ready for the first time.
pub type prefork_on_start = Option<unsafe extern "C" fn(started: *const prefork_started, state: *mut c_void)>;

/// Called with a message of a worker: its id, the type it gave, `size` bytes at `data`.
pub type prefork_on_message = Option<
    unsafe extern "C" fn(
        server: *mut prefork_server,
        from: u32,
        r#type: u32,
        data: *const c_void,
        size: usize,
        state: *mut c_void,
    ),
>;

type StartCallback = unsafe extern "C" fn(*const prefork_started, *mut c_void);
type MessageCallback = unsafe extern "C" fn(*mut prefork_server, u32, u32, *const c_void, usize, *mut c_void);

/// The version of the library, for instance `0.1.0`.
///
/// Returns a static string.
/// Process: any.
#[unsafe(no_mangle)]
pub extern "C" fn prefork_version() -> *const c_char {
    VERSION.as_ptr()
}

const VERSION: &CStr = match CStr::from_bytes_with_nul(concat!(env!("CARGO_PKG_VERSION"), "\0").as_bytes()) {
    Ok(version) => version,
    Err(_) => c"",
};

/// The version of the binary interface this library has: `PREFORK_ABI_MAJOR << 16 | PREFORK_ABI_MINOR`,
/// where the constants of the same name are those a program was compiled with.
///
/// Returns the version.
/// Process: any.
#[unsafe(no_mangle)]
pub extern "C" fn prefork_abi_version() -> u32 {
    u32::from(PREFORK_ABI_MAJOR) << 16 | u32::from(PREFORK_ABI_MINOR)
}

/// Makes a server with default settings and no handler. Nothing is opened or started.
///
/// Returns a new server (creates: free it with `prefork_server_free()`), or NULL after a fault in prefork
/// itself.
/// Process: any.
#[unsafe(no_mangle)]
pub extern "C" fn prefork_server_new() -> *mut prefork_server {
    guard(|| {
        Ok(Box::into_raw(Box::new(prefork_server {
            config: Config::default(),
            handler: None,
            args: Vec::new(),
            callbacks: HostCallbacks::default(),
            run: Run::No,
            telling: false,
            messages: Messages::default(),
            killed: 0,
            error: CString::default(),
        })))
    })
}

/// Frees a server. One that was started and has not ended is ended at once: its workers are killed. Does
/// nothing where `server` is NULL, in a callback, or in a worker. In another process, which the program
/// itself has forked, it frees that process's copy and leaves the master alone.
///
/// Process: master.
///
/// # Safety
/// Takes `server`: no other call with it after this one.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_server_free(server: *mut prefork_server) {
    guard(|| {
        // SAFETY: `server` is NULL or lent to the caller.
        let this = unsafe { borrow(server) }?;
        if this.telling || matches!(this.run, Run::Turn) {
            return Err(prefork_status::PREFORK_STATE);
        }
        // SAFETY: not NULL, so made by `Box::into_raw` in `prefork_server_new`, and given back here.
        drop(unsafe { Box::from_raw(server) });
        Ok(prefork_status::PREFORK_OK as c_int)
    });
}

/// Why the last call with this server was refused: one line, `operation on what: cause`, for instance `bind
/// 127.0.0.1:80: Permission denied (os error 13)`.
///
/// Returns a NUL-terminated string that borrows from `server` until the next call with it; empty where
/// nothing was refused, or where `server` is NULL.
/// Process: master.
///
/// # Safety
/// Borrows `server` until return.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_server_error(server: *const prefork_server) -> *const c_char {
    // SAFETY: `server` is NULL or lent to the caller.
    unsafe { borrow(server) }.map_or(c"", |s| s.error.as_c_str()).as_ptr()
}

/// Adds an address to listen on, from where `prefork_server_run()` is called on: `127.0.0.1:8080`,
/// `[::1]:8080`, `:8080` (every address), `udp:127.0.0.1:53` (for `on_datagram`), `unix:/path`, or `fd:3` (a
/// listening socket this process has inherited). Port 0 takes a free one. Without any it is
/// `127.0.0.1:8080`. The same as `prefork_server_set(server, "listen", address)`.
///
/// Returns PREFORK_OK, PREFORK_CONFIG, PREFORK_INVALID, PREFORK_STATE or PREFORK_NULL.
/// Process: master, before it runs.
///
/// # Safety
/// Borrows `server` until return. Copies `address`, which is NUL-terminated.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_server_listen(server: *mut prefork_server, address: *const c_char) -> c_int {
    guard(|| {
        // SAFETY: `server` is NULL or lent to the caller, who uses it in no other call meanwhile.
        let server = unsafe { idle(server) }?;
        // SAFETY: `address` is NULL or a C string that lives until return.
        let address = server.given("listen", unsafe { text(address) })?;
        let done = server.config.set("listen", address);
        server.say(done)
    })
}

/// Sets the number of workers, at most 1024; 0 (the default) takes one per CPU this process may use.
///
/// Returns PREFORK_OK, PREFORK_CONFIG, PREFORK_STATE or PREFORK_NULL.
/// Process: master, before it runs.
///
/// # Safety
/// Borrows `server` until return.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_server_workers(server: *mut prefork_server, count: u32) -> c_int {
    guard(|| {
        // SAFETY: `server` is NULL or lent to the caller, who uses it in no other call meanwhile.
        let server = unsafe { idle(server) }?;
        let done = server.config.set("workers", &count.to_string());
        server.say(done)
    })
}

/// Sets one setting by the name of its command-line option (`prefork --help` lists them), from text:
/// `prefork_server_set(server, "max-body", "1M")`. Sizes are bytes and take the suffixes K, M and G (powers
/// of 1024); times are seconds and take ms, s, m and h; switches are `on` or `off`. `listen` adds an
/// address, the others replace.
///
/// Returns PREFORK_OK, PREFORK_CONFIG (`prefork_server_error()` says what would do), PREFORK_INVALID,
/// PREFORK_STATE or PREFORK_NULL.
/// Process: master, before it runs.
///
/// # Safety
/// Borrows `server` until return. Copies `name` and `value`, which are NUL-terminated.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_server_set(
    server: *mut prefork_server,
    name: *const c_char,
    value: *const c_char,
) -> c_int {
    guard(|| {
        // SAFETY: `server` is NULL or lent to the caller, who uses it in no other call meanwhile.
        let server = unsafe { idle(server) }?;
        // SAFETY: `name` is NULL or a C string that lives until return.
        let name = server.given("set", unsafe { text(name) })?;
        // SAFETY: `value` is NULL or a C string that lives until return.
        let value = server.given(name, unsafe { text(value) })?;
        let done = server.config.set(name, value);
        server.say(done)
    })
}

/// Sets the arguments that workers find with `prefork_worker_arg()`.
///
/// Returns PREFORK_OK, PREFORK_STATE or PREFORK_NULL.
/// Process: master, before it runs.
///
/// # Safety
/// Borrows `server` until return. Copies `count` strings at `args`, each NUL-terminated; `args`
/// may be NULL where `count` is 0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_server_args(
    server: *mut prefork_server,
    count: usize,
    args: *const *const c_char,
) -> c_int {
    guard(|| {
        // SAFETY: `server` is NULL or lent to the caller, who uses it in no other call meanwhile.
        let server = unsafe { idle(server) }?;
        // SAFETY: `args` is NULL or has `count` pointers.
        let args = unsafe { pointers(args, count) }?;
        // SAFETY: `arg` is NULL or a C string that lives until return.
        let copy = |arg: &*const c_char| unsafe { c_str(*arg) }.map(CStr::to_owned);
        let args = args.iter().map(copy).collect::<Result<_>>();
        server.args = server.given("args", args)?;
        server.say(Ok(()))
    })
}

/// Serves HTTP requests with one function. Each of the functions that set a handler replaces the handler
/// set before; where several callbacks belong together, use `prefork_server_module()`.
///
/// Returns PREFORK_OK, PREFORK_STATE or PREFORK_NULL.
/// Process: master, before it runs; `on_request` is called in workers.
///
/// # Safety
/// Borrows `server` until return. Borrows `state`, which may be NULL, until `server` is freed:
/// workers have their own copy of the memory behind it, as it is when they are forked.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_server_on_request(
    server: *mut prefork_server,
    on_request: Option<
        unsafe extern "C" fn(req: *mut prefork_request, res: *mut prefork_response, state: *mut c_void),
    >,
    state: *mut c_void,
) -> c_int {
    let module = prefork_module { on_request, ..prefork_module::EMPTY };
    // SAFETY: `server` is NULL or lent to the caller; the callbacks and `state` may be used until it is freed.
    guard(|| unsafe { handle(server, module, state) })
}

/// Serves connections in blocking style with one function; a worker has one connection at a time.
///
/// Returns PREFORK_OK, PREFORK_STATE or PREFORK_NULL.
/// Process: master, before it runs; `on_connection` is called in workers.
///
/// # Safety
/// Borrows `server` until return. Borrows `state`, which may be NULL, until `server` is freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_server_on_connection(
    server: *mut prefork_server,
    on_connection: Option<unsafe extern "C" fn(conn: *mut prefork_conn, state: *mut c_void)>,
    state: *mut c_void,
) -> c_int {
    let module = prefork_module { on_connection, ..prefork_module::EMPTY };
    // SAFETY: `server` is NULL or lent to the caller; the callbacks and `state` may be used until it is freed.
    guard(|| unsafe { handle(server, module, state) })
}

/// Serves streams of bytes with up to three functions; `on_open` and `on_close` may be NULL.
///
/// Returns PREFORK_OK, PREFORK_STATE or PREFORK_NULL.
/// Process: master, before it runs; the functions are called in workers.
///
/// # Safety
/// Borrows `server` until return. Borrows `state`, which may be NULL, until `server` is freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_server_on_data(
    server: *mut prefork_server,
    on_open: Option<unsafe extern "C" fn(conn: *mut prefork_conn, state: *mut c_void)>,
    on_data: Option<unsafe extern "C" fn(conn: *mut prefork_conn, state: *mut c_void)>,
    on_close: Option<unsafe extern "C" fn(conn: *mut prefork_conn, state: *mut c_void)>,
    state: *mut c_void,
) -> c_int {
    let module = prefork_module { on_open, on_data, on_close, ..prefork_module::EMPTY };
    // SAFETY: `server` is NULL or lent to the caller; the callbacks and `state` may be used until it is freed.
    guard(|| unsafe { handle(server, module, state) })
}

/// Serves datagrams with one function, on addresses `udp:HOST:PORT`.
///
/// Returns PREFORK_OK, PREFORK_STATE or PREFORK_NULL.
/// Process: master, before it runs; `on_datagram` is called in workers.
///
/// # Safety
/// Borrows `server` until return. Borrows `state`, which may be NULL, until `server` is freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_server_on_datagram(
    server: *mut prefork_server,
    on_datagram: Option<
        unsafe extern "C" fn(
            worker: *mut prefork_worker,
            peer: *const sockaddr,
            data: *const c_void,
            len: usize,
            state: *mut c_void,
        ),
    >,
    state: *mut c_void,
) -> c_int {
    let module = prefork_module { on_datagram, ..prefork_module::EMPTY };
    // SAFETY: `server` is NULL or lent to the caller; the callbacks and `state` may be used until it is freed.
    guard(|| unsafe { handle(server, module, state) })
}

/// Serves with the callbacks of a descriptor, which `prefork_module_init()` or PREFORK_MODULE has begun.
///
/// Returns PREFORK_OK, PREFORK_HANDLER (another ABI, no handler in it, or more than one), PREFORK_STATE or
/// PREFORK_NULL.
/// Process: master, before it runs; the callbacks are called in workers.
///
/// # Safety
/// Borrows `server` until return. Copies `module`. Borrows `state`, which may be NULL, until
/// `server` is freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_server_module(
    server: *mut prefork_server,
    module: *const prefork_module,
    state: *mut c_void,
) -> c_int {
    guard(|| {
        // SAFETY: `server` is NULL or lent to the caller, who uses it in no other call meanwhile.
        let server = unsafe { idle(server) }?;
        if module.is_null() {
            return server.given("module", Err(prefork_status::PREFORK_NULL));
        }
        // SAFETY: as documented above, and not NULL.
        let read = unsafe { prefork_module::read(module) };
        // SAFETY: the callbacks and `state` may be used until the server is freed, and in workers for ever.
        let callbacks = read.and_then(|module| Ok(unsafe { Callbacks::new(module, state) }?));
        let done = callbacks.map(|callbacks| server.handler = Some(Given::Callbacks(callbacks)));
        server.say(done.map_err(|found| Error::new(ErrorKind::Handler, format!("module: {found}"))))
    })
}

/// Serves with a module from a file. It is read when the server runs: each worker loads a private copy.
/// The module finds the `prefork_*` functions in the program: one linked with libprefork.so has them
/// ready, one linked with libprefork.a needs `-Wl,--export-dynamic-symbol='prefork_*'`, and may not be
/// all static.
///
/// Returns PREFORK_OK, PREFORK_STATE or PREFORK_NULL. A file that does not load is told by
/// `prefork_server_run()`.
/// Process: master, before it runs.
///
/// # Safety
/// Borrows `server` until return. Copies `path`, which is NUL-terminated.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_server_module_file(
    server: *mut prefork_server,
    path: *const c_char,
) -> c_int {
    guard(|| {
        // SAFETY: `server` is NULL or lent to the caller, who uses it in no other call meanwhile.
        let server = unsafe { idle(server) }?;
        // SAFETY: `path` is NULL or a C string that lives until return.
        let path = server.given("module", unsafe { file_path(path) })?;
        server.handler = Some(Given::File(path.to_path_buf()));
        server.say(Ok(()))
    })
}

/// Calls a function once, when every worker is ready for the first time and the addresses are known. It may
/// not change the server, which runs.
///
/// Returns PREFORK_OK or PREFORK_STATE. NULL for `on_start` takes back what was set; PREFORK_NULL where
/// `server` is NULL.
/// Process: master, before it runs; `on_start` is called in the master.
///
/// # Safety
/// Borrows `server` until return. Borrows `state`, which may be NULL, until `server` is freed.
/// `started` and what it points to are borrowed until `on_start` returns.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_server_on_start(
    server: *mut prefork_server,
    on_start: prefork_on_start,
    state: *mut c_void,
) -> c_int {
    guard(|| {
        // SAFETY: `server` is NULL or lent to the caller, who uses it in no other call meanwhile.
        let server = unsafe { idle(server) }?;
        server.callbacks.on_start = on_start.map(|call| {
            let tell = move |started: &Started| tell(call, state, started);
            Box::new(tell) as OnStart
        });
        server.say(Ok(()))
    })
}

/// Calls a function with every event (`enum prefork_event_type`), in the order in which they happened. It is
/// called between two turns of the master's loop, and may ask the server for anything but a step, a start
/// and its end.
///
/// Returns PREFORK_OK or PREFORK_STATE. NULL for `on_event` takes back what was set; PREFORK_NULL where
/// `server` is NULL.
/// Process: master, before it runs; `on_event` is called in the master.
///
/// # Safety
/// Borrows `server` until return. Borrows `state`, which may be NULL, until `server` is freed.
/// `event` and what it points to are borrowed until `on_event` returns.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_server_on_event(
    server: *mut prefork_server,
    on_event: prefork_on_event,
    state: *mut c_void,
) -> c_int {
    guard(|| {
        // SAFETY: `server` is NULL or lent to the caller.
        let server = unsafe { idle(server) }?;
        server.callbacks.on_event = on_event.map(|call| {
            let tell = move |event: &Event| event::tell(call, state, event);
            Box::new(tell) as OnEvent
        });
        server.say(Ok(()))
    })
}

/// Calls a function in the master with each message that a worker sends to PREFORK_TO_MASTER: `from` is the
/// worker's id, `type` what it gave. A request is answered with `prefork_server_reply()`. Without a function
/// messages to the master are dropped, and requests unanswered. It is called between two turns of the
/// master's loop, and may ask the server for anything but a step, a start and its end; as long as it runs,
/// nothing is accepted.
///
/// Returns PREFORK_OK or PREFORK_STATE. NULL for `on_message` takes back what was set; PREFORK_NULL where
/// `server` is NULL.
/// Process: master, before it runs; `on_message` is called in the master.
///
/// # Safety
/// Borrows `server` until return. Borrows `state`, which may be NULL, until `server` is freed. `size` bytes
/// at `data` are borrowed until `on_message` returns.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_server_on_message(
    server: *mut prefork_server,
    on_message: prefork_on_message,
    state: *mut c_void,
) -> c_int {
    guard(|| {
        // SAFETY: `server` is NULL or lent to the caller, who uses it in no other call meanwhile.
        let this = unsafe { idle(server) }?;
        this.callbacks.on_message = on_message.map(|call| {
            let hand = move |_: &Messages, message: &Message<'_>| hand(server, call, state, message);
            Box::new(hand) as OnMessage
        });
        this.say(Ok(()))
    })
}

/// Sends a message to a worker by its id, or to all workers (PREFORK_TO_ALL): there it comes to `on_message`.
/// Never waits: what a worker does not take at once is kept for it. Messages to one worker arrive in the
/// order they were sent.
///
/// Returns PREFORK_OK; PREFORK_TOO_LARGE over the setting `max-message`; PREFORK_FULL where four messages of
/// that size wait for the worker already (to all: for one of them; the others got it); PREFORK_GONE where
/// there is no such worker; PREFORK_STATE where the server does not run, in another process, or to the
/// master itself; PREFORK_INVALID or PREFORK_NULL.
/// Process: master, while it runs, from its callbacks.
///
/// # Safety
/// Borrows `server` until return. Copies `size` bytes at `data`, which may be NULL where `size` is 0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_server_send(
    server: *mut prefork_server,
    to: u32,
    r#type: u32,
    data: *const c_void,
    size: usize,
) -> c_int {
    guard(|| {
        // SAFETY: `server` is NULL or lent to the caller.
        let server = unsafe { borrow(server) }?;
        // SAFETY: `data` is NULL or has `size` bytes that live until return.
        answered(server.messages.send(to, r#type, unsafe { bytes(data, size) }?))
    })
}

/// Sends a message that is to be answered. If this returns PREFORK_OK, `on_reply` is called once, from the
/// master's loop: with PREFORK_OK and the reply, or with the reason why there is none: PREFORK_TIMEOUT after
/// `deadline_ms` milliseconds (0: no deadline), PREFORK_GONE (the worker has ended) or PREFORK_UNANSWERED.
///
/// Returns as `prefork_server_send()`; PREFORK_STATE also to PREFORK_TO_ALL; PREFORK_NULL also where
/// `on_reply` is NULL.
/// Process: master, while it runs, from its callbacks.
///
/// # Safety
/// Borrows `server` until return. Copies `size` bytes at `data`, which may be NULL where `size` is 0.
/// Borrows `arg`, which may be NULL, until `on_reply` returns, or the run ends; the reply's bytes are
/// borrowed until then.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_server_request(
    server: *mut prefork_server,
    to: u32,
    r#type: u32,
    data: *const c_void,
    size: usize,
    deadline_ms: u32,
    on_reply: Option<
        unsafe extern "C" fn(
            server: *mut prefork_server,
            status: c_int,
            data: *const c_void,
            size: usize,
            arg: *mut c_void,
        ),
    >,
    arg: *mut c_void,
) -> c_int {
    guard(|| {
        // SAFETY: `server` is NULL or lent to the caller.
        let this = unsafe { borrow(server) }?;
        let on_reply = on_reply.ok_or(prefork_status::PREFORK_NULL)?;
        // SAFETY: `data` is NULL or has `size` bytes that live until return.
        let data = unsafe { bytes(data, size) }?;
        let deadline = Duration::from_millis(deadline_ms.into());
        answered(this.messages.request(to, r#type, data, deadline, move |result| {
            let (status, data, size) = reply_parts(result);
            // SAFETY: a callback and an argument that were given for this; the server is not freed while it runs.
            unsafe { on_reply(server, status, data, size, arg) }
        }))
    })
}

/// Answers the request that the callback of `prefork_server_on_message()` is being called for, once. If it
/// returns without, the worker is told PREFORK_UNANSWERED at once.
///
/// Returns as `prefork_server_send()`; PREFORK_STATE where no request is being handled, or it has its reply.
/// Process: master, while it runs, from that callback.
///
/// # Safety
/// Borrows `server` until return. Copies `size` bytes at `data`, which may be NULL where `size` is 0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_server_reply(
    server: *mut prefork_server,
    data: *const c_void,
    size: usize,
) -> c_int {
    guard(|| {
        // SAFETY: `server` is NULL or lent to the caller.
        let server = unsafe { borrow(server) }?;
        // SAFETY: `data` is NULL or has `size` bytes that live until return.
        answered(server.messages.reply(unsafe { bytes(data, size) }?))
    })
}

/// Makes this process the master and serves until a signal ends it: TERM, INT and QUIT finish what was
/// accepted, a second one stops at once; HUP reloads, TTIN and TTOU are for one worker more or less, USR2
/// executes this program's file anew in this process. Workers are forked from here: in them this call never
/// returns. It installs no signal handler; while it runs, the calling thread has those signals blocked and
/// reads them itself (signalfd(2)), unless `prefork_server_set(server, "signals", "off")` leaves them alone:
/// then a callback has to end it with `prefork_server_stop()`. Afterwards it may be called again.
///
/// Returns PREFORK_OK when all workers have ended (`prefork_server_killed()` says whether one had to be
/// killed); PREFORK_STATE where this process has more than one thread, or the server runs already;
/// PREFORK_CONFIG, PREFORK_LISTEN, PREFORK_HANDLER (also where none was set) or PREFORK_SYSTEM, before
/// anything was served; PREFORK_NULL. `prefork_server_error()` has the reason.
/// Process: becomes the master.
///
/// # Safety
/// Borrows `server` until return.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_server_run(server: *mut prefork_server) -> c_int {
    guard(|| {
        // SAFETY: `server` is NULL or lent to the caller, who uses it in no other call meanwhile.
        let this = unsafe { idle(server) }?;
        let begun = this.ready().and_then(Server::begin);
        let goes_on = matches!(begun, Ok(Some(_)));
        let status = this.begun(begun)?;
        if !goes_on {
            return Ok(status);
        }
        loop {
            // SAFETY: as above; callbacks may ask the server things meanwhile.
            let status = unsafe { step(server, None) }?;
            if status == prefork_status::PREFORK_OK as c_int {
                return Ok(status);
            }
        }
    })
}

/// The workers that had to be killed at the end of the last run, because they did not finish within the
/// setting `drain-timeout`.
///
/// Returns the number, or 0 where `server` is NULL.
/// Process: master.
///
/// # Safety
/// Borrows `server` until return.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_server_killed(server: *const prefork_server) -> u32 {
    // SAFETY: `server` is NULL or lent to the caller.
    guard(|| Ok(unsafe { borrow(server) }?.killed))
}

impl prefork_server {
    /// Keeps the reason of a refusal for `prefork_server_error`, or forgets the last one.
    pub(super) fn say(&mut self, done: crate::Result<()>) -> Result<c_int> {
        let Err(e) = done else {
            if !self.error.is_empty() {
                self.error = CString::default();
            }
            return Ok(prefork_status::PREFORK_OK as c_int);
        };
        self.error = CString::new(e.to_string().replace('\0', "\\0")).unwrap_or_default();
        Err(e.kind().into())
    }

    /// Keeps the reason where an argument was refused.
    fn given<T>(&mut self, what: &str, argument: Result<T>) -> Result<T> {
        if let Err(status) = argument {
            let _ = self.say(Err(Error::new(ErrorKind::Config, format!("{what}: {}", status.message()))));
        }
        argument
    }

    /// The Rust server with these settings. The settings stay, so that it may run again.
    fn ready(&self) -> crate::Result<Server> {
        let server = match self.handler.clone() {
            None => return Err(Error::new(ErrorKind::Handler, NO_HANDLER)),
            Some(Given::File(path)) => Server::module(path),
            Some(Given::Callbacks(callbacks)) => Server::factory(move |_| callbacks.clone()),
        };
        let mut server = server.config(self.config.clone()).args(self.args.clone());
        server.messages = self.messages.clone();
        Ok(server)
    }

    /// Becomes the master, with its signals left to the program.
    pub(super) fn start(&mut self) -> crate::Result<()> {
        let started = self.ready().and_then(Server::start).map(Some);
        self.keep(started)
    }

    fn begun(&mut self, begun: crate::Result<Option<Running>>) -> Result<c_int> {
        let done = self.keep(begun);
        self.say(done)
    }

    fn keep(&mut self, begun: crate::Result<Option<Running>>) -> crate::Result<()> {
        if let Some(mut running) = begun? {
            if self.callbacks.on_event.is_some() {
                running.keep_events();
            }
            self.run = Run::Here(Box::new(running));
        }
        Ok(())
    }

    /// Takes the next thing to be told, and says that it is being told.
    fn next_news(&mut self) -> Option<News> {
        let news = match &mut self.run {
            Run::Here(running) => running.next_news(),
            Run::No | Run::Turn => None,
        };
        self.telling = news.is_some();
        news
    }

    fn ended(&mut self, done: crate::Result<Option<Stopped>>) -> Result<c_int> {
        let goes_on = matches!(done, Ok(None));
        if !goes_on {
            self.run = Run::No;
        }
        let done = done.map(|stopped| self.killed = stopped.map_or(self.killed, |s| s.killed));
        let status = self.say(done)?;
        Ok(if goes_on { GOES_ON } else { status })
    }
}

/// What a step returns that did not end the run.
const GOES_ON: c_int = 1;

/// One turn of the master's loop, and then the callbacks, for which the server is not borrowed: they may ask it things.
///
/// # Safety
/// As [`borrow_mut`].
pub(super) unsafe fn step(server: *mut prefork_server, patience: Option<Duration>) -> Result<c_int> {
    // SAFETY: what the caller promises.
    let this = unsafe { borrow_mut(server) }?;
    if this.telling || !matches!(this.run, Run::Here(_)) {
        return Err(prefork_status::PREFORK_STATE);
    }
    let Run::Here(mut running) = std::mem::replace(&mut this.run, Run::Turn) else {
        return Err(prefork_status::PREFORK_STATE);
    };
    // Nothing is borrowed meanwhile: in a worker this does not return, and its callbacks may find the server.
    let done = running.turn(patience);
    // SAFETY: what the caller promises.
    unsafe { borrow_mut(server) }?.run = Run::Here(running);
    loop {
        // SAFETY: what the caller promises; nothing is borrowed while a callback runs.
        let this = unsafe { borrow_mut(server) }?;
        let Some(news) = this.next_news() else { return this.ended(done) };
        let (mut callbacks, messages) = (std::mem::take(&mut this.callbacks), this.messages.clone());
        callbacks.tell(news, &messages);
        // SAFETY: as above.
        unsafe { borrow_mut(server) }?.callbacks = callbacks;
    }
}

const NO_HANDLER: &str =
    "run: expected a handler, none was set: call prefork_server_on_request() or its like first";

/// The server behind a pointer, to be changed: not while it runs.
///
/// # Safety
/// As [`borrow_mut`].
pub(super) unsafe fn idle<'a>(server: *mut prefork_server) -> Result<&'a mut prefork_server> {
    // SAFETY: what the caller promises.
    let server = unsafe { borrow_mut(server) }?;
    if server.telling || !matches!(server.run, Run::No) {
        return Err(prefork_status::PREFORK_STATE);
    }
    Ok(server)
}

/// Sets callbacks as the handler, where the one that matters is not NULL.
///
/// # Safety
/// As [`Callbacks::new`] and [`borrow_mut`].
unsafe fn handle(server: *mut prefork_server, module: prefork_module, state: *mut c_void) -> Result<c_int> {
    // SAFETY: what the caller promises.
    let server = unsafe { idle(server) }?;
    // SAFETY: what the caller promises.
    let Ok(callbacks) = (unsafe { Callbacks::new(module, state) }) else {
        return server.given("handler", Err(prefork_status::PREFORK_NULL));
    };
    server.handler = Some(Given::Callbacks(callbacks));
    server.say(Ok(()))
}

/// Calls the program's callback with what has been started.
fn tell(call: StartCallback, state: *mut c_void, started: &Started) {
    let clean = |text: &String| CString::new(text.as_str()).unwrap_or_default();
    let texts: Vec<_> = started.addresses.iter().map(clean).collect();
    let addresses: Vec<_> = texts.iter().map(|text| text.as_ptr()).collect();
    let told = prefork_started {
        addresses: addresses.as_ptr(),
        address_count: addresses.len(),
        workers: started.workers,
    };
    // SAFETY: a callback and a state that were given for this; `told` and what it points to live until it returns.
    unsafe { call(&raw const told, state) }
}

/// Calls the program's callback with a message.
fn hand(server: *mut prefork_server, call: MessageCallback, state: *mut c_void, message: &Message<'_>) {
    let (data, size) = (message.bytes().as_ptr().cast(), message.bytes().len());
    // SAFETY: a callback and a state that were given for this; the server is not freed while it runs, nor borrowed here.
    unsafe { call(server, message.from(), message.kind(), data, size, state) }
}
