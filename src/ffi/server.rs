//! A server in C, before it runs, and its run. In the process that is to be the master, and in the master.

use super::event::{self, prefork_on_event};
use super::guard::{Opaque, Result, borrow, borrow_mut, bytes, c_str, file_path, guard, strings, text};
use super::module::{
    Callbacks, PREFORK_ABI_MAJOR, PREFORK_ABI_MINOR, prefork_module, prefork_on_conn, prefork_on_datagram,
    prefork_on_request,
};
use super::status::{answered, prefork_status};
use super::worker::reply_parts;
use crate::config::Config;
use crate::log::OnLog;
use crate::master;
use crate::master::router::OnMessage;
use crate::message::Address;
use crate::server::{Callbacks as HostCallbacks, OnEvent, OnReload, OnStart};
use crate::{Error, ErrorKind, Event, Message, MessageKind, Messages, Running, Server, Started, Stopped};
use std::ffi::{CStr, CString, OsStr, c_char, c_int, c_void};
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

/// A server: a handler, its settings, and its run. Created by `prefork_server_new()`, freed by
/// `prefork_server_free()`.
pub struct prefork_server {
    config: Config,
    /// Makes a server with the handler that was set.
    handler: Option<Box<dyn Fn() -> Server>>,
    args: Vec<CString>,
    pub(super) running: Option<Box<Running>>,
    callbacks: HostCallbacks,
    pub(super) on_log: Option<OnLog>,
    /// True while a turn of the master's loop has taken `running` out (in a worker, forever) or a callback `callbacks`.
    is_busy: bool,
    messages: Messages,
    killed: u32,
    cut: u64,
    error: CString,
}

impl Opaque for prefork_server {
    type Inner<'a> = Self;
}

/// The start of a server, given to the callback of `prefork_server_on_start()`. Later versions may add members at
/// the end.
#[repr(C)]
#[derive(Debug)]
pub struct prefork_started {
    /// The addresses bound, in the order they were given: `127.0.0.1:8080`, `[::1]:8080`,
    /// `udp:127.0.0.1:53` or `unix:/path`, each NUL-terminated.
    pub addresses: *const *const c_char,
    /// The number of addresses.
    pub address_count: usize,
    /// The number of workers, all of which are ready.
    pub workers: usize,
}

/// Called once, when every worker is ready for the first time.
pub type prefork_on_start =
    Option<unsafe extern "C-unwind" fn(started: *const prefork_started, state: *mut c_void)>;

/// Called when a reload to `generation` is about to begin. Returns NULL to let it, or the reason not to, which is
/// copied.
pub type prefork_on_reload =
    Option<unsafe extern "C-unwind" fn(generation: u32, state: *mut c_void) -> *const c_char>;

/// Called with a message of the worker whose id is `from`: `type` is the worker's to choose.
pub type prefork_on_message = Option<
    unsafe extern "C-unwind" fn(
        server: *mut prefork_server,
        from: u32,
        r#type: u32,
        data: *const c_void,
        size: usize,
        state: *mut c_void,
    ),
>;

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

/// The version of the library's binary interface, as `PREFORK_ABI_MAJOR << 16 | PREFORK_ABI_MINOR`. The constants
/// have the version of the header that the program was compiled with.
///
/// Returns the version.
/// Process: any.
#[unsafe(no_mangle)]
pub extern "C" fn prefork_abi_version() -> u32 {
    u32::from(PREFORK_ABI_MAJOR) << 16 | u32::from(PREFORK_ABI_MINOR)
}

/// Creates a server with default settings and no handler. Nothing is opened or started.
///
/// Returns a new server (creates: free it with `prefork_server_free()`), or NULL after a bug in prefork.
/// Process: any.
#[unsafe(no_mangle)]
pub extern "C" fn prefork_server_new() -> *mut prefork_server {
    guard(|| {
        Ok(Box::into_raw(Box::new(prefork_server {
            config: Config::default(),
            handler: None,
            args: Vec::new(),
            running: None,
            callbacks: HostCallbacks::default(),
            on_log: None,
            is_busy: false,
            messages: Messages::default(),
            killed: 0,
            cut: 0,
            error: CString::default(),
        })))
    })
}

/// Frees a server. If it is running, its workers are killed. In another process, which the program has forked itself,
/// it frees the copy there and does not affect the master.
///
/// Returns PREFORK_OK; PREFORK_STATE in a callback and in a worker, and PREFORK_NULL, and then nothing is freed.
/// Process: master.
/// # Safety
/// Takes `server`: no other call with it after this one.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_server_free(server: *mut prefork_server) -> c_int {
    guard(|| {
        // SAFETY: `server` is NULL or lent to the caller.
        if unsafe { borrow(server) }?.is_busy {
            return Err(prefork_status::PREFORK_STATE);
        }
        // SAFETY: not NULL, so made by `Box::into_raw` in `prefork_server_new`, and given back here.
        drop(unsafe { Box::from_raw(server) });
        Ok(prefork_status::PREFORK_OK as c_int)
    })
}

/// The reason why the last call with this server was refused: one line, `operation on what: cause`, for instance
/// `bind 127.0.0.1:80: Permission denied (os error 13)`.
///
/// Returns a NUL-terminated string that borrows from `server` until the next call with it; empty if that call was
/// not refused, or if `server` is NULL.
/// Process: master.
/// # Safety
/// Borrows `server` until return.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_server_error(server: *const prefork_server) -> *const c_char {
    // SAFETY: `server` is NULL or lent to the caller.
    unsafe { borrow(server) }.map_or(c"", |s| s.error.as_c_str()).as_ptr()
}

/// Adds an address to listen on: `127.0.0.1:8080`, `[::1]:8080`, `localhost:8080` (127.0.0.1), `:8080` (all
/// addresses), `udp:127.0.0.1:53` (for `on_datagram`), `unix:/path` (any bytes), `unix:@name` (abstract, see unix(7):
/// no file, no permissions), or `fd:3` (an inherited socket that listens or receives datagrams). Port 0 is any free
/// port. The default is `127.0.0.1:8080`. The same as `prefork_server_set(server, "listen", address)`; the address is
/// bound when the server runs.
///
/// Returns PREFORK_OK, PREFORK_CONFIG or PREFORK_INVALID.
/// Process: master, before it runs.
/// # Safety
/// Borrows `server` until return. Copies `address`, which is NUL-terminated.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_server_listen(server: *mut prefork_server, address: *const c_char) -> c_int {
    // SAFETY: `server` is NULL or lent to the caller, who uses it in no other call meanwhile.
    unsafe { prefork_server_set(server, c"listen".as_ptr(), address) }
}

/// Sets the number of workers, at most 1024; 0 (the default) is one per CPU that this process may use.
///
/// Returns PREFORK_OK or PREFORK_CONFIG.
/// Process: master, before it runs.
/// # Safety
/// Borrows `server` until return.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_server_workers(server: *mut prefork_server, count: u32) -> c_int {
    // SAFETY: `server` is NULL or lent to the caller, who uses it in no other call meanwhile.
    unsafe { set_up(server, |server| Ok(server.config.set("workers", count.to_string())?)) }
}

/// Sets a setting by the name of its command-line option, as listed by `prefork --help`:
/// `prefork_server_set(server, "max-body", "1M")`. Sizes are bytes and take the suffixes K, M and G (powers
/// of 1024); times are seconds and take ms, s, m and h; switches are `on` or `off`. `listen` adds an
/// address; the other settings are replaced.
///
/// Returns PREFORK_OK, PREFORK_CONFIG (`prefork_server_error()` says what is expected) or PREFORK_INVALID.
/// Process: master, before it runs.
/// # Safety
/// Borrows `server` until return. Copies `name` and `value`, which are NUL-terminated.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_server_set(
    server: *mut prefork_server,
    name: *const c_char,
    value: *const c_char,
) -> c_int {
    let set = |server: &mut prefork_server| {
        // SAFETY: `name` is NULL or a C string that lives until return.
        let name = unsafe { text(name) }.map_err(|status| Refusal::argument("set", status))?;
        // SAFETY: `value` is NULL or a C string that lives until return.
        let value = unsafe { c_str(value) }.map_err(|status| Refusal::argument(name, status))?;
        // Only an address may have a path in it, which may be any bytes.
        if name != "listen" && value.to_str().is_err() {
            return Err(Refusal::argument(name, prefork_status::PREFORK_INVALID));
        }
        Ok(server.config.set(name, OsStr::from_bytes(value.to_bytes()))?)
    };
    // SAFETY: `server` is NULL or lent to the caller, who uses it in no other call meanwhile.
    unsafe { set_up(server, set) }
}

/// Sets the arguments of the handler, which `prefork_worker_arg()` returns in workers.
///
/// Returns PREFORK_OK.
/// Process: master, before it runs.
/// # Safety
/// Borrows `server` until return. Copies `count` strings at `args`, each NUL-terminated; `args`
/// may be NULL if `count` is 0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_server_args(
    server: *mut prefork_server,
    count: usize,
    args: *const *const c_char,
) -> c_int {
    let set = |server: &mut prefork_server| {
        // SAFETY: `args` is NULL or has `count` pointers to C strings that live until return.
        let args = unsafe { strings(args, count) }.map_err(|status| Refusal::argument("args", status))?;
        server.args = args.into_iter().map(CStr::to_owned).collect();
        Ok(())
    };
    // SAFETY: `server` is NULL or lent to the caller, who uses it in no other call meanwhile.
    unsafe { set_up(server, set) }
}

/// Sets the handler to a function that answers HTTP requests. A server has one handler: each function that sets
/// one replaces the one before. `prefork_server_module()` sets one of several callbacks.
///
/// Returns PREFORK_OK.
/// Process: master, before it runs; `on_request` is called in workers.
/// # Safety
/// Borrows `server` until return. Borrows `state`, which may be NULL, until `server` is freed: a worker has
/// its own copy of the memory behind it, as of its fork.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_server_on_request(
    server: *mut prefork_server,
    on_request: prefork_on_request,
    state: *mut c_void,
) -> c_int {
    let module = prefork_module { on_request, ..prefork_module::default() };
    // SAFETY: `server` is NULL or lent to the caller; the callbacks and `state` may be used until it is freed.
    unsafe { set_handler(server, module, state) }
}

/// Sets the handler to a function that serves connections in blocking style; a worker has one at a time.
///
/// Returns PREFORK_OK.
/// Process: master, before it runs; `on_connection` is called in workers.
/// # Safety
/// Borrows `server` until return. Borrows `state`, which may be NULL, until `server` is freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_server_on_connection(
    server: *mut prefork_server,
    on_connection: prefork_on_conn,
    state: *mut c_void,
) -> c_int {
    let module = prefork_module { on_connection, ..prefork_module::default() };
    // SAFETY: `server` is NULL or lent to the caller; the callbacks and `state` may be used until it is freed.
    unsafe { set_handler(server, module, state) }
}

/// Sets the handler to functions that serve streams; `on_open` and `on_close` may be NULL.
///
/// Returns PREFORK_OK.
/// Process: master, before it runs; the functions are called in workers.
/// # Safety
/// Borrows `server` until return. Borrows `state`, which may be NULL, until `server` is freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_server_on_data(
    server: *mut prefork_server,
    on_open: prefork_on_conn,
    on_data: prefork_on_conn,
    on_close: prefork_on_conn,
    state: *mut c_void,
) -> c_int {
    let module = prefork_module { on_open, on_data, on_close, ..prefork_module::default() };
    // SAFETY: `server` is NULL or lent to the caller; the callbacks and `state` may be used until it is freed.
    unsafe { set_handler(server, module, state) }
}

/// Sets the handler to a function that serves datagrams, on addresses `udp:HOST:PORT`.
///
/// Returns PREFORK_OK.
/// Process: master, before it runs; `on_datagram` is called in workers.
/// # Safety
/// Borrows `server` until return. Borrows `state`, which may be NULL, until `server` is freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_server_on_datagram(
    server: *mut prefork_server,
    on_datagram: prefork_on_datagram,
    state: *mut c_void,
) -> c_int {
    let module = prefork_module { on_datagram, ..prefork_module::default() };
    // SAFETY: `server` is NULL or lent to the caller; the callbacks and `state` may be used until it is freed.
    unsafe { set_handler(server, module, state) }
}

/// Sets the handler to the callbacks of a descriptor made by `prefork_module_init()` or PREFORK_MODULE.
///
/// Returns PREFORK_OK or PREFORK_HANDLER (another ABI, no handler in it, or more than one).
/// Process: master, before it runs; the callbacks are called in workers.
/// # Safety
/// Borrows `server` until return. Copies `module`. Borrows `state`, which may be NULL, until
/// `server` is freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_server_module(
    server: *mut prefork_server,
    module: *const prefork_module,
    state: *mut c_void,
) -> c_int {
    let set = |server: &mut prefork_server| {
        if module.is_null() {
            return Err(Refusal::argument("module", prefork_status::PREFORK_NULL));
        }
        // SAFETY: as documented above, and not NULL.
        let read = unsafe { prefork_module::read(module) };
        // SAFETY: the callbacks and `state` may be used until the server is freed, and in workers forever.
        let callbacks = read.and_then(|module| Ok(unsafe { Callbacks::new(module, state) }?));
        let wrong = |found| Error::new(ErrorKind::Handler, format!("module: {found}"));
        server.serve(callbacks.map_err(wrong)?);
        Ok(())
    };
    // SAFETY: `server` is NULL or lent to the caller, who uses it in no other call meanwhile.
    unsafe { set_up(server, set) }
}

/// Sets the handler to a module in a file. The file is read when the server runs, and by each reload, which follows
/// the path anew; each worker loads a private copy. A relative path is meant from the working directory at the run.
/// The module needs the `prefork_*` functions of the program: one linked with libprefork.so has them; one linked
/// with libprefork.a needs `-Wl,--export-dynamic-symbol='prefork_*'`, and cannot be fully static.
///
/// Returns PREFORK_OK. `prefork_server_run()` reports a file that cannot be loaded.
/// Process: master, before it runs.
/// # Safety
/// Borrows `server` until return. Copies `path`, which is NUL-terminated.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_server_module_file(
    server: *mut prefork_server,
    path: *const c_char,
) -> c_int {
    let set = |server: &mut prefork_server| {
        // SAFETY: `path` is NULL or a C string that lives until return.
        let path = unsafe { file_path(path) }.map_err(|status| Refusal::argument("module", status))?;
        let path = path.to_path_buf();
        server.handler = Some(Box::new(move || Server::module(&path)));
        Ok(())
    };
    // SAFETY: `server` is NULL or lent to the caller, who uses it in no other call meanwhile.
    unsafe { set_up(server, set) }
}

/// Sets a function that is called once, when every worker is ready for the first time and the addresses are known.
/// NULL unsets it.
///
/// Returns PREFORK_OK.
/// Process: master, before it runs; `on_start` is called in the master.
/// # Safety
/// Borrows `server` until return. Borrows `state`, which may be NULL, until `server` is freed.
/// `started` and what it points to are borrowed until `on_start` returns.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_server_on_start(
    server: *mut prefork_server,
    on_start: prefork_on_start,
    state: *mut c_void,
) -> c_int {
    let set = |server: &mut prefork_server| {
        server.callbacks.on_start = on_start.map(|call| {
            // SAFETY: a callback and a state that were given for this; `started` lives until it returns.
            let call =
                move |started: &Started| tell_start(started, |started| unsafe { call(started, state) });
            Box::new(call) as OnStart
        });
        Ok(())
    };
    // SAFETY: `server` is NULL or lent to the caller, who uses it in no other call meanwhile.
    unsafe { set_up(server, set) }
}

/// Sets a function that is called with every event (`enum prefork_event_type`), in the order in which they happened.
/// It runs between two turns of the master's loop, and may call anything except `prefork_server_step()`, `_start()`,
/// `_run()` and `_free()`. NULL unsets it.
///
/// Returns PREFORK_OK.
/// Process: master, before it runs; `on_event` is called in the master.
/// # Safety
/// Borrows `server` until return. Borrows `state`, which may be NULL, until `server` is freed.
/// `event` and what it points to are borrowed until `on_event` returns.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_server_on_event(
    server: *mut prefork_server,
    on_event: prefork_on_event,
    state: *mut c_void,
) -> c_int {
    let set = |server: &mut prefork_server| {
        server.callbacks.on_event = on_event.map(|call| {
            // SAFETY: a callback and a state that were given for this; `event` lives until it returns.
            let call = move |event: &Event| event::tell(event, |event| unsafe { call(event, state) });
            Box::new(call) as OnEvent
        });
        Ok(())
    };
    // SAFETY: `server` is NULL or lent to the caller, who uses it in no other call meanwhile.
    unsafe { set_up(server, set) }
}

/// Sets a function that is called when a reload begins, also that of an upgrade: after the event
/// PREFORK_EVENT_RELOAD_STARTED, and before any code of it is read and any worker of it is forked. What it changes in
/// this process, such as a configuration that workers inherit, all of them have. If it returns a reason, the reload is
/// rolled back with that, and nothing has changed. It may call what the function of `prefork_server_on_event()` may.
/// NULL unsets it.
///
/// Returns PREFORK_OK.
/// Process: master, before it runs; `on_reload` is called in the master.
/// # Safety
/// Borrows `server` until return. Borrows `state`, which may be NULL, until `server` is freed. Copies what
/// `on_reload` returns.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_server_on_reload(
    server: *mut prefork_server,
    on_reload: prefork_on_reload,
    state: *mut c_void,
) -> c_int {
    let set = |server: &mut prefork_server| {
        server.callbacks.on_reload = on_reload.map(|call| {
            let call = move |generation| {
                // SAFETY: a callback and a state that were given for this.
                let why = unsafe { call(generation, state) };
                if why.is_null() {
                    return Ok(());
                }
                // SAFETY: not NULL, so a string that lives until the callback is called again at least.
                Err(unsafe { CStr::from_ptr(why) }.to_string_lossy().into_owned())
            };
            Box::new(call) as OnReload
        });
        Ok(())
    };
    // SAFETY: `server` is NULL or lent to the caller, who uses it in no other call meanwhile.
    unsafe { set_up(server, set) }
}

/// Sets a function that is called with each message that a worker sends to PREFORK_TO_MASTER: `from` is the worker's
/// id, `type` is the worker's to choose. `prefork_server_reply()` answers a request. It runs as the function of
/// `prefork_server_on_event()` does; nothing is accepted meanwhile. Without a function messages are dropped, and
/// requests fail with PREFORK_UNANSWERED. NULL unsets it.
///
/// Returns PREFORK_OK.
/// Process: master, before it runs; `on_message` is called in the master.
/// # Safety
/// Borrows `server` until return. Borrows `state`, which may be NULL, until `server` is freed. `size` bytes
/// at `data` are borrowed until `on_message` returns.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_server_on_message(
    server: *mut prefork_server,
    on_message: prefork_on_message,
    state: *mut c_void,
) -> c_int {
    let set = |this: &mut prefork_server| {
        this.callbacks.on_message = on_message.map(|call| {
            let call = move |_: &Messages, message: &Message<'_>| {
                let (bytes, from, kind) = (message.bytes(), message.sender_number(), message.kind().0);
                // SAFETY: a callback and a state that were given for this; the server is not borrowed, nor freed meanwhile.
                unsafe { call(server, from, kind, bytes.as_ptr().cast(), bytes.len(), state) }
            };
            Box::new(call) as OnMessage
        });
        Ok(())
    };
    // SAFETY: `server` is NULL or lent to the caller, who uses it in no other call meanwhile.
    unsafe { set_up(server, set) }
}

/// Sends a message to the worker with the id `to`, or to all workers (PREFORK_TO_ALL), for `on_message` there. Never
/// waits: what the worker does not take at once is queued. Messages to one worker arrive in the order they were
/// sent.
///
/// Returns PREFORK_OK; PREFORK_TOO_LARGE if it is longer than the setting `max-message`; PREFORK_FULL if four
/// messages of that size are queued for the worker (to all: for one of them; the others get it); PREFORK_GONE if
/// there is no such worker; PREFORK_STATE if `to` is PREFORK_TO_MASTER; PREFORK_INVALID.
/// Process: master, while it runs, from its callbacks.
/// # Safety
/// Borrows `server` until return. Copies `size` bytes at `data`, which may be NULL if `size` is 0.
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
        answered(server.messages.send(Address::from(to), MessageKind(r#type), unsafe { bytes(data, size) }?))
    })
}

/// Sends a request: a message that is to be answered. If this returns PREFORK_OK, `on_reply` is called once, from the
/// master's loop: with PREFORK_OK and the reply, or with PREFORK_TIMEOUT after `deadline_ms` milliseconds (0: no
/// deadline), PREFORK_GONE (the worker has ended) or PREFORK_UNANSWERED.
///
/// Returns as `prefork_server_send()`; PREFORK_STATE also if `to` is PREFORK_TO_ALL.
/// Process: master, while it runs, from its callbacks.
/// # Safety
/// Borrows `server` until return. Copies `size` bytes at `data`, which may be NULL if `size` is 0.
/// Borrows `arg`, which may be NULL, until `on_reply` returns or the run ends; the bytes of the reply are
/// borrowed until `on_reply` returns.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_server_request(
    server: *mut prefork_server,
    to: u32,
    r#type: u32,
    data: *const c_void,
    size: usize,
    deadline_ms: u32,
    on_reply: Option<
        unsafe extern "C-unwind" fn(
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
        answered(this.messages.request(
            Address::from(to),
            MessageKind(r#type),
            data,
            deadline,
            move |result| {
                let (status, data, size) = reply_parts(result);
                // SAFETY: a callback and an argument that were given for this; the server is not freed while it runs.
                unsafe { on_reply(server, status, data, size, arg) }
            },
        ))
    })
}

/// Answers the request that `on_message` is being called for, once. If `on_message` returns without a reply, the
/// worker gets PREFORK_UNANSWERED at once.
///
/// Returns as `prefork_server_send()`; PREFORK_STATE if the message is no request, or has been answered.
/// Process: master, while it runs, from `on_message`.
/// # Safety
/// Borrows `server` until return. Copies `size` bytes at `data`, which may be NULL if `size` is 0.
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

/// Makes this process the master and serves until a signal ends it: TERM, INT and QUIT drain all workers, a second
/// one kills them; HUP reloads; TTIN and TTOU start and stop a worker; USR2 upgrades: it executes the program's file
/// anew in this process. In workers, which are forked from here, and in a program that an upgrade tries out (see
/// UPGRADES above), this call never returns, whether it is refused or not.
///
/// It installs no signal handler: the calling thread has these signals blocked meanwhile and reads them itself
/// (signalfd(2)). After `prefork_server_set(server, "signals", "off")` it leaves them alone, and only
/// `prefork_server_stop()` in a callback ends the run. Afterwards the server may run again.
///
/// After `prefork_server_set(server, "one-process", "on")` it forks nothing: this process binds the addresses and
/// serves itself, for gdb, valgrind, sanitizers, rr, perf and reports of coverage. It is worker 1 in slot 0, of
/// generation 1, may have several threads, and loads a module by its own path. TERM, INT and QUIT drain, for at most
/// the setting `drain-timeout`; a second one, a second later or more, ends the run at once, and if the handler is in a
/// call, the process. These have signal handlers then, and so have HUP, USR1 and USR2, which only print that they do
/// nothing. `prefork_worker_leave()` ends the run too; `prefork_server_stop()` and the like return PREFORK_STATE. There
/// is no reload, no upgrade, no control socket, no restart after a crash, and no limit by the setting `timeout`. Of the
/// host's callbacks only that of `prefork_server_on_start()` is called. A message to this worker itself arrives; one to
/// another worker or the master is dropped, and a request to them fails with PREFORK_GONE and PREFORK_UNANSWERED. A
/// stream that is transferred stays.
///
/// Standard input, output or error that is closed becomes /dev/null, so that no client gets what is printed.
///
/// Returns PREFORK_OK when all workers have ended (`prefork_server_killed()` says how many were killed,
/// `prefork_server_cut()` how many connections were cut);
/// PREFORK_STATE if this process has more than one thread and is to fork; PREFORK_CONFIG, PREFORK_LISTEN,
/// PREFORK_HANDLER (also if none was set), PREFORK_MISCONFIGURED or PREFORK_SYSTEM, before anything was served;
/// PREFORK_MISCONFIGURED also later, if all workers have ended with exit code 78.
/// `prefork_server_error()` has the reason.
/// Process: becomes the master.
/// # Safety
/// Borrows `server` until return.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_server_run(server: *mut prefork_server) -> c_int {
    let start = |server: &mut prefork_server| {
        let mut config = server.config.clone();
        config.signals.get_or_insert(true);
        server.start(config)
    };
    // SAFETY: `server` is NULL or lent to the caller.
    if unsafe { borrow(server) }.is_ok_and(|server| server.config.one_process) {
        // SAFETY: as above, and used in no other call meanwhile, except in callbacks.
        return guard(|| unsafe { run_here(server) });
    }
    // SAFETY: `server` is NULL or lent to the caller, who uses it in no other call meanwhile.
    let status = unsafe { set_up(server, start) };
    if status != prefork_status::PREFORK_OK as c_int {
        return status;
    }
    loop {
        // SAFETY: as above, except in callbacks.
        match guard(|| unsafe { step(server, None) }) {
            RUNNING => {}
            status => return status,
        }
    }
}

/// The number of workers that the stop at the end of the last run had to kill, because they did not end by themselves
/// after the setting `drain-timeout`; not those that a second request to stop has killed at once.
///
/// Returns the number, or 0 if `server` is NULL.
/// Process: master.
/// # Safety
/// Borrows `server` until return.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_server_killed(server: *const prefork_server) -> u32 {
    // SAFETY: `server` is NULL or lent to the caller.
    guard(|| Ok(unsafe { borrow(server) }?.killed))
}

/// The number of connections that workers have ended unfinished in the stop at the end of the last run, because the
/// setting `drain-timeout` was over.
///
/// Returns the number, or 0 if `server` is NULL.
/// Process: master.
/// # Safety
/// Borrows `server` until return.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_server_cut(server: *const prefork_server) -> u64 {
    // SAFETY: `server` is NULL or lent to the caller.
    guard(|| Ok(unsafe { borrow(server) }?.cut))
}

/// The refusal of a call.
pub(super) struct Refusal {
    status: prefork_status,
    text: String,
}

impl Refusal {
    /// An argument of `what` was refused.
    fn argument(what: &str, status: prefork_status) -> Self {
        Self { status, text: format!("{what}: {}", status.text()) }
    }
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        Self { status: error.kind().into(), text: error.to_string() }
    }
}

impl prefork_server {
    /// Keeps the text of a refusal for `prefork_server_error`, or forgets the last one.
    pub(super) fn keep_error<T>(&mut self, done: std::result::Result<T, Refusal>) -> Result<T> {
        let text = match &done {
            // This runs in each turn of the master's loop, and is not to allocate there.
            Ok(_) if self.error.is_empty() => return done.map_err(|refusal| refusal.status),
            Ok(_) => String::new(),
            Err(refusal) => refusal.text.replace('\0', "\\0"),
        };
        self.error = CString::new(text).unwrap_or_default();
        done.map_err(|refusal| refusal.status)
    }

    /// Makes this process the master. The settings stay here, so that the server may run again.
    fn start(&mut self, config: Config) -> std::result::Result<(), Refusal> {
        let running = self.make(config)?.start()?;
        if self.callbacks.on_event.is_some() {
            running.master.borrow_mut().keep_events();
        }
        self.running = Some(Box::new(running));
        Ok(())
    }

    /// Makes the server that is to run.
    fn make(&self, config: Config) -> std::result::Result<Server, Refusal> {
        let Some(handler) = &self.handler else {
            let refused = Error::new(ErrorKind::Handler, NO_HANDLER);
            if master::is_trial() {
                master::end_trial(Err(refused));
            }
            return Err(refused.into());
        };
        let mut server = handler().config(config).args(self.args.clone());
        server.messages = self.messages.clone();
        server.on_log = self.on_log.clone();
        Ok(server)
    }

    fn end_step(&mut self, done: crate::Result<Option<Stopped>>) -> Result<c_int> {
        match self.keep_error(done.map_err(Refusal::from)) {
            Ok(None) => Ok(RUNNING),
            ended => {
                self.running = None;
                if let Some(stopped) = ended? {
                    (self.killed, self.cut) = (stopped.killed, stopped.cut);
                }
                Ok(prefork_status::PREFORK_OK as c_int)
            }
        }
    }

    fn serve(&mut self, callbacks: Callbacks) {
        self.handler = Some(Box::new(move || {
            let callbacks = callbacks.clone();
            Server::factory(move |_| callbacks.clone())
        }));
    }
}

const NO_HANDLER: &str =
    "run: expected a handler, none was set: call prefork_server_on_request() or its like first";

/// As [`prefork_server::start`], with signals left to the program unless it has set them.
///
/// # Safety
/// As [`borrow_mut`].
pub(super) unsafe fn start(server: *mut prefork_server) -> c_int {
    // SAFETY: what the caller promises.
    unsafe { set_up(server, |server| server.start(server.config.clone())) }
}

/// Serves in this process alone.
///
/// # Safety
/// As [`borrow_mut`].
unsafe fn run_here(server: *mut prefork_server) -> Result<c_int> {
    // SAFETY: what the caller promises.
    let this = unsafe { borrow_mut(server) }?;
    if this.is_busy || this.running.is_some() {
        return Err(prefork_status::PREFORK_STATE);
    }
    let mut config = this.config.clone();
    config.signals.get_or_insert(true);
    let made = this.make(config);
    let made = this.keep_error(made)?;
    let mut callbacks = std::mem::take(&mut this.callbacks);
    this.is_busy = true;
    // The server is not borrowed meanwhile: callbacks may use it.
    let done = made.run_here(&mut callbacks);
    // SAFETY: as above.
    let this = unsafe { borrow_mut(server) }?;
    this.callbacks = callbacks;
    this.is_busy = false;
    this.end_step(done.map(Some))
}

/// The answer of a step that did not end the run.
const RUNNING: c_int = 1;

/// Runs one turn of the master's loop and then the callbacks. Returns [`RUNNING`], or how the run ended.
///
/// # Safety
/// As [`borrow_mut`].
pub(super) unsafe fn step(server: *mut prefork_server, patience: Option<Duration>) -> Result<c_int> {
    // SAFETY: what the caller promises.
    let this = unsafe { borrow_mut(server) }?;
    if this.is_busy {
        return Err(prefork_status::PREFORK_STATE);
    }
    let running = this.running.take().ok_or(prefork_status::PREFORK_STATE)?;
    this.is_busy = true;
    // The server is not borrowed meanwhile: a worker does not return from here, and its callbacks may use the server.
    let done = running.master.borrow_mut().step(patience);
    // SAFETY: what the caller promises.
    unsafe { borrow_mut(server) }?.running = Some(running);
    loop {
        // SAFETY: what the caller promises; no borrow outlives the round, so that a callback may use the server.
        let this = unsafe { borrow_mut(server) }?;
        let Some(news) = this.running.as_mut().and_then(|running| running.master.borrow_mut().next_news())
        else {
            let running = this.running.take().ok_or(prefork_status::PREFORK_STATE)?;
            // As above: this may fork a worker.
            let has_begun = running.master.borrow_mut().begin_announced();
            // SAFETY: as above.
            let this = unsafe { borrow_mut(server) }?;
            this.running = Some(running);
            if has_begun {
                continue;
            }
            this.is_busy = false;
            return this.end_step(done);
        };
        let (mut callbacks, messages) = (std::mem::take(&mut this.callbacks), this.messages.clone());
        let told = callbacks.tell(news, &messages);
        // SAFETY: as above.
        let this = unsafe { borrow_mut(server) }?;
        this.callbacks = callbacks;
        if let (Err(why), Some(running)) = (told, &mut this.running) {
            running.master.borrow_mut().refuse_reload(why);
        }
    }
}

/// Runs `f` on a server that is not running, and keeps the error.
///
/// # Safety
/// As [`borrow_mut`].
pub(super) unsafe fn set_up(
    server: *mut prefork_server,
    f: impl FnOnce(&mut prefork_server) -> std::result::Result<(), Refusal>,
) -> c_int {
    guard(|| {
        // SAFETY: what the caller promises.
        let server = unsafe { borrow_mut(server) }?;
        if server.is_busy || server.running.is_some() {
            return Err(prefork_status::PREFORK_STATE);
        }
        let done = f(server);
        server.keep_error(done)?;
        Ok(prefork_status::PREFORK_OK as c_int)
    })
}

/// Sets callbacks as the handler, if the one that serves is not NULL.
///
/// # Safety
/// As [`Callbacks::new`] and [`borrow_mut`].
unsafe fn set_handler(server: *mut prefork_server, module: prefork_module, state: *mut c_void) -> c_int {
    let set = |server: &mut prefork_server| {
        // SAFETY: what the caller promises.
        let callbacks = unsafe { Callbacks::new(module, state) };
        server.serve(callbacks.map_err(|_| Refusal::argument("handler", prefork_status::PREFORK_NULL))?);
        Ok(())
    };
    // SAFETY: what the caller promises.
    unsafe { set_up(server, set) }
}

/// Calls `call` with the start of a server as C has it.
fn tell_start(started: &Started, call: impl FnOnce(*const prefork_started)) {
    let string = |text: &String| CString::new(text.as_str()).unwrap_or_default();
    let strings: Vec<_> = started.addresses.iter().map(string).collect();
    let addresses: Vec<_> = strings.iter().map(|text| text.as_ptr()).collect();
    call(&prefork_started {
        addresses: addresses.as_ptr(),
        address_count: addresses.len(),
        workers: started.workers,
    });
}
