//! Unit tests of handlers in C: `crate::testing` for a program of assertions. In the process of the test, which runs no server.

use super::guard::{Answer, Opaque, Result, borrow, bytes, c_str, file_path, guard, strings, text};
use super::load;
use super::module::{Callbacks, prefork_module};
use super::request::prefork_slice;
use super::status::{answered, prefork_status};
use super::worker::prefork_worker;
use crate::log::log;
use crate::message::{Address, MASTER_NUMBER, MessageKind, Sender};
use crate::testing::{TestClient, TestMessage, TestOptions, TestRequest, TestResponse, TestWorker};
use crate::worker::failure::StartFailure;
use crate::{ErrorKind, Handler};
use std::cell::{Cell, RefCell};
use std::ffi::{CStr, CString, OsStr, c_char, c_int, c_void};
use std::os::unix::ffi::OsStrExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::thread::{self, ThreadId};
use std::time::Duration;

/// A worker with the handler that is tested, in the thread of the test, and the response that came last. Created by
/// `prefork_test_new()` or `prefork_test_load()`, freed by `prefork_test_free()`.
///
/// Only the thread that has created it may use it, and no callback of the handler: elsewhere calls return
/// PREFORK_STATE. A call that is refused prints one line on standard error, and `prefork_test_error()` returns it.
pub struct prefork_test {
    thread: ThreadId,
    /// Not borrowed while a callback may run.
    inner: RefCell<Inner>,
    is_busy: Cell<bool>,
    error: RefCell<CString>,
}

/// A client of the handler: the other end of its connection. Created by `prefork_test_connect()` and others, freed by
/// `prefork_test_close()`. Only the thread that has created it may use it, and no callback of the handler.
pub struct prefork_test_client {
    thread: ThreadId,
    client: TestClient,
    received: RefCell<Vec<u8>>,
}

impl Opaque for prefork_test {
    type Inner<'a> = Self;
}

impl Opaque for prefork_test_client {
    type Inner<'a> = Self;
}

/// Makes the handler.
type Open = Box<dyn FnOnce() -> std::result::Result<Box<dyn Handler>, StartFailure>>;

struct Inner {
    /// Before the start.
    options: TestOptions,
    open: Option<Open>,
    worker: Option<Rc<TestWorker>>,
    headers: Vec<(String, Vec<u8>)>,
    peer: Option<String>,
    response: Option<TestResponse>,
    replies: Vec<Vec<u8>>,
    sent: Vec<TestMessage>,
    /// The last one that was returned.
    message: Vec<u8>,
}

/// A refusal, and its reason.
struct Problem(prefork_status, String);

impl From<prefork_status> for Problem {
    fn from(status: prefork_status) -> Self {
        Self(status, status.text().to_owned())
    }
}

impl From<crate::Error> for Problem {
    fn from(e: crate::Error) -> Self {
        let status = match e.kind() {
            ErrorKind::Config => prefork_status::PREFORK_CONFIG,
            ErrorKind::Handler => prefork_status::PREFORK_HANDLER,
            ErrorKind::Misconfigured => prefork_status::PREFORK_MISCONFIGURED,
            ErrorKind::System => prefork_status::PREFORK_SYSTEM,
            _ => prefork_status::PREFORK_STATE,
        };
        Self(status, e.to_string())
    }
}

impl From<crate::Undelivered> for Problem {
    fn from(e: crate::Undelivered) -> Self {
        Self(e.into(), e.to_string())
    }
}

fn state(why: impl Into<String>) -> Problem {
    Problem(prefork_status::PREFORK_STATE, why.into())
}

type Outcome<T> = std::result::Result<T, Problem>;

/// Runs what may run callbacks. Its panics are those of `crate::testing`, which say what is wrong with the test.
fn caught<T>(f: impl FnOnce() -> Outcome<T>) -> Outcome<T> {
    catch_unwind(AssertUnwindSafe(f))
        .unwrap_or_else(|panic| Err(state(crate::worker::panic_text(&*panic).to_owned())))
}

impl prefork_test {
    fn create(open: Open) -> *mut Self {
        let inner = Inner {
            options: TestWorker::options().catch_panics(),
            open: Some(open),
            worker: None,
            headers: Vec::new(),
            peer: None,
            response: None,
            replies: Vec::new(),
            sent: Vec::new(),
            message: Vec::new(),
        };
        Box::into_raw(Box::new(Self {
            thread: thread::current().id(),
            inner: RefCell::new(inner),
            is_busy: Cell::new(false),
            error: RefCell::default(),
        }))
    }

    /// Runs the body of a call, and notes why it is refused.
    fn run<T>(&self, call: &str, f: impl FnOnce(&Self) -> Outcome<T>) -> Result<T> {
        if self.thread != thread::current().id() || self.is_busy.replace(true) {
            log!(Error, "prefork_test_{call}: only the thread of the test may call it, and no callback");
            return Err(prefork_status::PREFORK_STATE);
        }
        let outcome = caught(|| f(self));
        self.is_busy.set(false);
        let reason = outcome.as_ref().err().map(|Problem(_, why)| why.as_str()).unwrap_or_default();
        if !reason.is_empty() {
            log!(Error, "prefork_test_{call}: {reason}");
        }
        self.error.replace(CString::new(reason.replace('\0', " ")).unwrap_or_default());
        outcome.map_err(|Problem(status, _)| status)
    }

    /// Runs the body of a call with the worker, which is started if it was not.
    fn with_worker<T>(&self, call: &str, f: impl FnOnce(&TestWorker, &Self) -> Outcome<T>) -> Result<T> {
        self.run(call, |test| {
            let worker = test.start()?;
            f(&worker, test)
        })
    }

    fn start(&self) -> Outcome<Rc<TestWorker>> {
        let (options, open) = {
            let inner = &mut *self.inner.borrow_mut();
            if let Some(worker) = &inner.worker {
                return Ok(Rc::clone(worker));
            }
            let open = inner.open.take().ok_or_else(|| state("the handler has not started"))?;
            (inner.options.clone(), open)
        };
        let worker = Rc::new(options.start_boxed(|_| open())?);
        self.inner.borrow_mut().worker = Some(Rc::clone(&worker));
        Ok(worker)
    }

    /// Changes an option of the worker, before it starts.
    fn set_up(&self, call: &str, f: impl FnOnce(&mut Inner) -> Outcome<()>) -> Result<c_int> {
        self.run(call, |test| {
            let inner = &mut *test.inner.borrow_mut();
            match inner.worker {
                Some(_) => Err(state("the worker has started already")),
                None => f(inner).map(|()| prefork_status::PREFORK_OK as c_int),
            }
        })
    }

    /// A request, with the fields that were set for it.
    fn request(&self, worker: &TestWorker, method: &str, target: &str, body: &[u8]) -> TestRequest {
        let inner = &mut *self.inner.borrow_mut();
        let mut request = worker.request(method, target);
        for (name, value) in inner.headers.drain(..) {
            request = request.header(&name, value);
        }
        if !body.is_empty() || matches!(method, "POST" | "PUT" | "PATCH") {
            request = request.body(body);
        }
        match &inner.peer {
            Some(peer) => request.peer(peer),
            None => request,
        }
    }

    fn keep(&self, response: TestResponse) -> c_int {
        let status = response.status();
        self.inner.borrow_mut().response = Some(response);
        status.into()
    }
}

impl prefork_test_client {
    fn create(client: TestClient) -> *mut Self {
        let thread = thread::current().id();
        Box::into_raw(Box::new(Self { thread, client, received: RefCell::default() }))
    }

    fn run<T>(&self, call: &str, f: impl FnOnce(&Self) -> T) -> Result<T> {
        if self.thread != thread::current().id() {
            log!(Error, "prefork_test_{call}: only the thread of the test may call it");
            return Err(prefork_status::PREFORK_STATE);
        }
        caught(|| Ok(f(self))).map_err(|Problem(status, why)| {
            log!(Error, "prefork_test_{call}: {why}");
            status
        })
    }
}

/// Creates a test of a handler. `handler` is the descriptor that PREFORK_MODULE defines (`&prefork_module`) or that
/// `prefork_module_init()` has filled in; `state` is what `*state` is in `worker_start`, and may be NULL.
///
/// Returns a new test (creates: free it with `prefork_test_free()`); NULL if `handler` is NULL, of another ABI, or has
/// no handler in it, after a line on standard error that says what to do.
/// Process: any that runs no server.
/// # Safety
/// Copies `handler`. Borrows `state` until the test is freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_test_new(
    handler: *const prefork_module,
    state: *mut c_void,
) -> *mut prefork_test {
    guard(|| {
        let refuse = |why: &str| {
            log!(Error, "prefork_test_new: {why}");
            prefork_status::PREFORK_HANDLER
        };
        if handler.is_null() {
            return Err(refuse("the handler is NULL: give &prefork_module, which PREFORK_MODULE defines"));
        }
        // SAFETY: as documented above, and not NULL.
        let module = unsafe { prefork_module::read(handler) }.map_err(|found| refuse(&found))?;
        // SAFETY: the caller has the callbacks, and `state` lives as long as the test.
        let callbacks = unsafe { Callbacks::new(module, state) }.map_err(refuse)?;
        Ok(prefork_test::create(Box::new(move || Ok(Box::new(callbacks)))))
    })
}

/// Creates a test of the module in a file. It is loaded by its own path when the worker starts, and stays loaded.
///
/// Returns a new test (creates: free it with `prefork_test_free()`), or NULL.
/// Process: any that runs no server.
/// # Safety
/// Copies `path`, which is NUL-terminated.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_test_load(path: *const c_char) -> *mut prefork_test {
    guard(|| {
        // SAFETY: `path` is NULL or a C string that lives until return.
        let path = unsafe { file_path(path) }?.to_owned();
        Ok(prefork_test::create(Box::new(move || Ok(load::open_for_test(&path)?))))
    })
}

/// Frees a test. Its worker stops, as by `prefork_test_stop()`. Does nothing if `test` is NULL, in a callback, and in
/// another thread.
///
/// Process: that of the test.
/// # Safety
/// Takes `test`: no other call with it after this one. Its clients are to be closed too.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_test_free(test: *mut prefork_test) {
    guard(|| {
        // SAFETY: `test` is NULL or lent to the caller.
        unsafe { borrow(test) }?.run("free", |test| {
            let worker = test.inner.borrow_mut().worker.take();
            drop(worker);
            Ok(())
        })?;
        // SAFETY: made by `Box::into_raw`, and given back here.
        drop(unsafe { Box::from_raw(test) });
        Ok(prefork_status::PREFORK_OK as c_int)
    });
}

/// The reason why the last call with this test was refused: one line.
///
/// Returns a NUL-terminated string that borrows from `test` until the next call with it; empty if that call was not
/// refused, or if `test` is NULL.
/// Process: that of the test.
/// # Safety
/// Borrows `test` until return.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_test_error(test: *const prefork_test) -> *const c_char {
    // SAFETY: `test` is NULL or lent to the caller.
    unsafe { borrow(test) }.map_or(c"".as_ptr(), |test| test.error.borrow().as_ptr())
}

/// Sets a setting as `prefork_server_set()` does, before the worker starts: `prefork_test_set(test, "max-body", "1K")`.
/// `listen` adds a listener, such as `admin=127.0.0.1:8081`; nothing is bound. Without any there are two,
/// `127.0.0.1:8080` and `udp:127.0.0.1:8080`, and the handler need not serve both.
///
/// Returns PREFORK_OK, PREFORK_CONFIG, PREFORK_INVALID, or PREFORK_STATE after the start.
/// Process: that of the test.
/// # Safety
/// Borrows `test` until return. Copies `name` and `value`, which are NUL-terminated.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_test_set(
    test: *mut prefork_test,
    name: *const c_char,
    value: *const c_char,
) -> c_int {
    guard(|| {
        // SAFETY: `test` is NULL or lent to the caller.
        let test = unsafe { borrow(test) }?;
        // SAFETY: `name` is NULL or a C string that lives until return.
        let name = unsafe { text(name) }?;
        // SAFETY: `value` is NULL or a C string that lives until return.
        let value = OsStr::from_bytes(unsafe { c_str(value) }?.to_bytes());
        test.set_up("set", |inner| Ok(inner.options.config_mut().set(name, value)?))
    })
}

/// Sets the arguments of the handler, which `prefork_worker_arg()` returns, before the worker starts.
///
/// Returns PREFORK_OK, or PREFORK_STATE after the start.
/// Process: that of the test.
/// # Safety
/// Borrows `test` until return. Copies `count` strings at `args`, each NUL-terminated; `args` may be NULL if
/// `count` is 0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_test_args(
    test: *mut prefork_test,
    count: usize,
    args: *const *const c_char,
) -> c_int {
    guard(|| {
        // SAFETY: `test` is NULL or lent to the caller.
        let test = unsafe { borrow(test) }?;
        // SAFETY: `args` is NULL or has `count` pointers to C strings that live until return.
        let args: Vec<_> = unsafe { strings(args, count) }?.into_iter().map(CStr::to_owned).collect();
        test.set_up("args", |inner| {
            inner.options.set_args(args);
            Ok(())
        })
    })
}

/// Starts the worker: `worker_start` is called. The first of the other calls does so too.
///
/// Returns PREFORK_OK; PREFORK_HANDLER if the handler cannot serve; PREFORK_CONFIG if settings cannot be combined;
/// PREFORK_SYSTEM; PREFORK_STATE if it has failed to start before.
/// Process: that of the test.
/// # Safety
/// Borrows `test` until return.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_test_start(test: *mut prefork_test) -> c_int {
    // SAFETY: `test` is NULL or lent to the caller.
    guard(|| unsafe { borrow(test) }?.with_worker("start", |_, _| done()))
}

fn done() -> Outcome<c_int> {
    Ok(prefork_status::PREFORK_OK as c_int)
}

/// Sets the address of the clients that follow, for instance `203.0.113.7:4711`; NULL: one of 127.0.0.1.
///
/// Returns PREFORK_OK, or PREFORK_INVALID if it is no IP address with a port.
/// Process: that of the test.
/// # Safety
/// Borrows `test` until return. Copies `address`, which is NULL or NUL-terminated.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_test_peer(test: *mut prefork_test, address: *const c_char) -> c_int {
    guard(|| {
        // SAFETY: `test` is NULL or lent to the caller.
        let test = unsafe { borrow(test) }?;
        let address = if address.is_null() {
            None
        } else {
            // SAFETY: not NULL, so a C string that lives until return.
            Some(unsafe { text(address) }?)
        };
        test.run("peer", |test| {
            if let Some(address) = address
                && address.parse::<std::net::SocketAddr>().is_err()
            {
                let why = format!("expected an IP address with a port, found \"{address}\"");
                return Err(Problem(prefork_status::PREFORK_INVALID, why));
            }
            test.inner.borrow_mut().peer = address.map(str::to_owned);
            done()
        })
    })
}

/// Adds a field to the next request. `Host: localhost` and the length of the body need not be given.
///
/// Returns PREFORK_OK.
/// Process: that of the test.
/// # Safety
/// Borrows `test` until return. Copies `name` and `value`, which are NUL-terminated.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_test_set_header(
    test: *mut prefork_test,
    name: *const c_char,
    value: *const c_char,
) -> c_int {
    guard(|| {
        // SAFETY: `test` is NULL or lent to the caller.
        let test = unsafe { borrow(test) }?;
        // SAFETY: `name` is NULL or a C string that lives until return.
        let name = unsafe { text(name) }?;
        // SAFETY: `value` is NULL or a C string that lives until return.
        let value = unsafe { c_str(value) }?.to_bytes();
        test.run("set_header", |test| {
            test.inner.borrow_mut().headers.push((name.to_owned(), value.to_vec()));
            done()
        })
    })
}

/// Sends a request on a connection of its own and waits for the response, which `prefork_test_body()` and
/// `prefork_test_header()` read: `prefork_test_request(test, "GET", "/path?n=1", NULL, 0)`. A response that the handler
/// keeps for a timer does not come by itself: `prefork_test_begin()`. One that a thread of the handler ends is waited
/// for, up to ten seconds.
///
/// Returns the status code, 200 to 599 or 101; PREFORK_AGAIN if no response comes; PREFORK_STATE if the handler takes no
/// requests; those of `prefork_test_start()`.
/// Process: that of the test.
/// # Safety
/// Borrows `test` until return. Copies `method` and `target`, which are NUL-terminated, and `size` bytes at
/// `body`, which may be NULL if `size` is 0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_test_request(
    test: *mut prefork_test,
    method: *const c_char,
    target: *const c_char,
    body: *const c_void,
    size: usize,
) -> c_int {
    guard(|| {
        // SAFETY: `test` is NULL or lent to the caller.
        let test = unsafe { borrow(test) }?;
        // SAFETY: `method` is NULL or a C string that lives until return.
        let method = unsafe { text(method) }?;
        // SAFETY: `target` is NULL or a C string that lives until return.
        let target = unsafe { text(target) }?;
        // SAFETY: `body` is NULL or has `size` bytes that live until return.
        let body = unsafe { bytes(body, size) }?;
        test.with_worker("request", |worker, test| {
            let response = test.request(worker, method, target, body).try_send();
            response.map(|response| test.keep(response)).map_err(|why| {
                let status = if worker.has_requests() {
                    prefork_status::PREFORK_AGAIN
                } else {
                    prefork_status::PREFORK_STATE
                };
                Problem(status, format!("{method} {target}: {why}"))
            })
        })
    })
}

/// As `prefork_test_request()`, and does not wait for the response: `prefork_test_response()` returns it.
///
/// Returns a new client (creates: free it with `prefork_test_close()`), or NULL if the handler takes no requests.
/// Process: that of the test.
/// # Safety
/// As `prefork_test_request()`. Borrows `test` until return. Copies the rest.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_test_begin(
    test: *mut prefork_test,
    method: *const c_char,
    target: *const c_char,
    body: *const c_void,
    size: usize,
) -> *mut prefork_test_client {
    guard(|| {
        // SAFETY: `test` is NULL or lent to the caller.
        let test = unsafe { borrow(test) }?;
        // SAFETY: `method` is NULL or a C string that lives until return.
        let method = unsafe { text(method) }?;
        // SAFETY: `target` is NULL or a C string that lives until return.
        let target = unsafe { text(target) }?;
        // SAFETY: `body` is NULL or has `size` bytes that live until return.
        let body = unsafe { bytes(body, size) }?;
        let client = test.with_worker("begin", |worker, test| {
            test.request(worker, method, target, body).try_start().map_err(state)
        })?;
        Ok(prefork_test_client::create(client))
    })
}

/// The response to the request that a client has begun. If it is complete, `prefork_test_body()` and
/// `prefork_test_header()` read it.
///
/// Returns the status code; PREFORK_AGAIN if it has not come, or not all of it.
/// Process: that of the test.
/// # Safety
/// Borrows `test` and `client` until return.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_test_response(
    test: *mut prefork_test,
    client: *mut prefork_test_client,
) -> c_int {
    guard(|| {
        // SAFETY: `test` is NULL or lent to the caller.
        let test = unsafe { borrow(test) }?;
        // SAFETY: `client` is NULL or lent to the caller.
        let client = unsafe { borrow(client) }?;
        test.run("response", |test| match client.client.try_response() {
            Ok(response) => Ok(test.keep(response)),
            // To ask is no fault of the test.
            Err(_) => Err(Problem(prefork_status::PREFORK_AGAIN, String::new())),
        })
    })
}

/// The status code of the response that came last.
///
/// Returns it, or 0 before the first.
/// Process: that of the test.
/// # Safety
/// Borrows `test` until return.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_test_status(test: *mut prefork_test) -> c_int {
    guard(|| {
        // SAFETY: `test` is NULL or lent to the caller.
        unsafe { borrow(test) }?.run("status", |test| {
            Ok(test.inner.borrow().response.as_ref().map_or(0, |response| response.status().into()))
        })
    })
}

/// The body of the response that came last, decoded of chunks.
///
/// Returns bytes that borrow from `test` until the next response; no value before the first.
/// Process: that of the test.
/// # Safety
/// Borrows `test` until return.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_test_body(test: *mut prefork_test) -> prefork_slice {
    guard(|| {
        // SAFETY: `test` is NULL or lent to the caller.
        unsafe { borrow(test) }?.run("body", |test| {
            Ok(test.inner.borrow().response.as_ref().map_or(no_slice(), |r| prefork_slice::of(r.body())))
        })
    })
}

fn no_slice() -> prefork_slice {
    prefork_slice::refused(prefork_status::PREFORK_OK)
}

/// The value of a field of the response that came last; of several, the first.
///
/// Returns bytes that borrow from `test` until the next response; no value if there is no such field.
/// Process: that of the test.
/// # Safety
/// Borrows `test` until return, and `name`, which is NUL-terminated.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_test_header(test: *mut prefork_test, name: *const c_char) -> prefork_slice {
    guard(|| {
        // SAFETY: `test` is NULL or lent to the caller.
        let test = unsafe { borrow(test) }?;
        // SAFETY: `name` is NULL or a C string that lives until return.
        let name = unsafe { text(name) }?;
        test.run("header", |test| {
            let inner = test.inner.borrow();
            let mut fields = inner.response.iter().flat_map(TestResponse::headers);
            let found = fields.find(|(other, _)| other.eq_ignore_ascii_case(name));
            Ok(found.map_or(no_slice(), |(_, value)| prefork_slice::of(value)))
        })
    })
}

/// The connection of the response that came last: for another request by `prefork_test_send()`, or for the stream that
/// follows an upgrade (101).
///
/// Returns a new client (creates: free it with `prefork_test_close()`), or NULL before the first response.
/// Process: that of the test.
/// # Safety
/// Borrows `test` until return.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_test_connection(test: *mut prefork_test) -> *mut prefork_test_client {
    guard(|| {
        // SAFETY: `test` is NULL or lent to the caller.
        let client = unsafe { borrow(test) }?.run("connection", |test| {
            let inner = test.inner.borrow();
            let client = inner.response.as_ref().and_then(TestResponse::client).cloned();
            client.ok_or_else(|| state("no response has come"))
        })?;
        Ok(prefork_test_client::create(client))
    })
}

/// Connects a client: for a stream, a connection in blocking style, or bytes of HTTP as they are. `listener` is the name
/// of a listener, or NULL for the first one.
///
/// Returns a new client (creates: free it with `prefork_test_close()`); NULL if there is no such listener, or if the
/// handler takes datagrams only.
/// Process: that of the test.
/// # Safety
/// Borrows `test` until return, and `listener`, which is NULL or NUL-terminated.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_test_connect(
    test: *mut prefork_test,
    listener: *const c_char,
) -> *mut prefork_test_client {
    guard(|| {
        // SAFETY: `test` is NULL or lent to the caller.
        let test = unsafe { borrow(test) }?;
        let listener = if listener.is_null() {
            None
        } else {
            // SAFETY: not NULL, so a C string that lives until return.
            Some(unsafe { text(listener) }?)
        };
        let client = test.with_worker("connect", |worker, test| {
            let peer = test.inner.borrow().peer.clone();
            worker.try_connect(listener, peer.as_deref()).map_err(state)
        })?;
        Ok(prefork_test_client::create(client))
    })
}

/// Sends bytes from a client, and lets the worker do what there is to do. In blocking style they wait for
/// `prefork_test_receive()`, which sends them and the end of file, and calls the handler.
///
/// Returns PREFORK_OK.
/// Process: that of the test.
/// # Safety
/// Borrows `client` until return. Copies `size` bytes at `data`, which may be NULL if `size` is 0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_test_send(
    client: *mut prefork_test_client,
    data: *const c_void,
    size: usize,
) -> c_int {
    guard(|| {
        // SAFETY: `client` is NULL or lent to the caller.
        let client = unsafe { borrow(client) }?;
        // SAFETY: `data` is NULL or has `size` bytes that live until return.
        let data = unsafe { bytes(data, size) }?;
        client.run("send", |client| client.client.send(data))?;
        answered(Ok::<(), prefork_status>(()))
    })
}

/// What a client has received since the last call, when the worker has nothing more to do.
///
/// Returns bytes that borrow from `client` until the next call with it; an empty value if nothing has come.
/// Process: that of the test.
/// # Safety
/// Borrows `client` until return.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_test_receive(client: *mut prefork_test_client) -> prefork_slice {
    guard(|| {
        // SAFETY: `client` is NULL or lent to the caller.
        unsafe { borrow(client) }?.run("receive", |client| {
            let received = client.client.receive();
            client.received.replace(received);
            prefork_slice::of(&client.received.borrow())
        })
    })
}

/// Ends the client's side: the handler finds the end of file behind what was sent.
///
/// Returns PREFORK_OK.
/// Process: that of the test.
/// # Safety
/// Borrows `client` until return.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_test_finish(client: *mut prefork_test_client) -> c_int {
    guard(|| {
        // SAFETY: `client` is NULL or lent to the caller.
        unsafe { borrow(client) }?.run("finish", |client| client.client.finish())?;
        answered(Ok::<(), prefork_status>(()))
    })
}

/// Says whether a client reads what comes, as it does from the start. One that does not is slow: the handler's writes
/// find no room when the sockets' buffers are full (about 200 KiB) and `max-pending` bytes wait.
///
/// Returns PREFORK_OK.
/// Process: that of the test.
/// # Safety
/// Borrows `client` until return.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_test_set_reading(client: *mut prefork_test_client, reads: c_int) -> c_int {
    guard(|| {
        // SAFETY: `client` is NULL or lent to the caller.
        unsafe { borrow(client) }?.run("set_reading", |client| client.client.set_reading(reads != 0))?;
        answered(Ok::<(), prefork_status>(()))
    })
}

/// Says whether the worker has closed a client's connection.
///
/// Returns 1 if it has, in order or by a reset, else 0; PREFORK_NULL, PREFORK_STATE.
/// Process: that of the test.
/// # Safety
/// Borrows `client` until return.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_test_is_closed(client: *mut prefork_test_client) -> c_int {
    guard(|| {
        // SAFETY: `client` is NULL or lent to the caller.
        unsafe { borrow(client) }?.run("is_closed", |client| client.client.is_closed().into())
    })
}

/// Closes a client's connection, lets the worker notice, and frees the client. Does nothing if it is NULL, and in
/// another thread.
///
/// Process: that of the test.
/// # Safety
/// Takes `client`: no other call with it after this one.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_test_close(client: *mut prefork_test_client) {
    guard(|| {
        // SAFETY: `client` is NULL or lent to the caller.
        unsafe { borrow(client) }?.run("close", |client| client.client.clone().close())?;
        // SAFETY: made by `Box::into_raw`, and given back here.
        drop(unsafe { Box::from_raw(client) });
        answered(Ok::<(), prefork_status>(()))
    });
}

/// Sends the handler a datagram, at the first listener for datagrams. `prefork_test_reply()` returns those that it
/// answers with.
///
/// Returns the number of answers; PREFORK_STATE if the handler takes no datagrams; PREFORK_TOO_LARGE over 65,507 bytes.
/// Process: that of the test.
/// # Safety
/// Borrows `test` until return. Copies `size` bytes at `data`, which may be NULL if `size` is 0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_test_datagram(
    test: *mut prefork_test,
    data: *const c_void,
    size: usize,
) -> c_int {
    guard(|| {
        // SAFETY: `test` is NULL or lent to the caller.
        let test = unsafe { borrow(test) }?;
        // SAFETY: `data` is NULL or has `size` bytes that live until return.
        let data = unsafe { bytes(data, size) }?;
        test.with_worker("datagram", |worker, test| {
            let peer = test.inner.borrow().peer.clone();
            let replies = worker.try_datagram(peer.as_deref(), data).map_err(|(is_large, why)| {
                let (large, other) = (prefork_status::PREFORK_TOO_LARGE, prefork_status::PREFORK_STATE);
                Problem(if is_large { large } else { other }, why)
            })?;
            let count = replies.len() as c_int;
            test.inner.borrow_mut().replies = replies;
            Ok(count)
        })
    })
}

/// One of the answers to the last datagram, from 0.
///
/// Returns bytes that borrow from `test` until the next datagram; no value if there are fewer.
/// Process: that of the test.
/// # Safety
/// Borrows `test` until return.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_test_reply(test: *mut prefork_test, index: usize) -> prefork_slice {
    guard(|| {
        // SAFETY: `test` is NULL or lent to the caller.
        unsafe { borrow(test) }?.run("reply", |test| {
            Ok(test.inner.borrow().replies.get(index).map_or(no_slice(), |reply| prefork_slice::of(reply)))
        })
    })
}

/// Sends the handler a message (`on_message`) from the worker with the id `from`, or from PREFORK_TO_MASTER.
///
/// Returns PREFORK_OK, PREFORK_TOO_LARGE, or PREFORK_GONE if the worker has ended.
/// Process: that of the test.
/// # Safety
/// Borrows `test` until return. Copies `size` bytes at `data`, which may be NULL if `size` is 0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_test_message(
    test: *mut prefork_test,
    from: u32,
    r#type: u32,
    data: *const c_void,
    size: usize,
) -> c_int {
    guard(|| {
        // SAFETY: `test` is NULL or lent to the caller.
        let test = unsafe { borrow(test) }?;
        // SAFETY: `data` is NULL or has `size` bytes that live until return.
        let data = unsafe { bytes(data, size) }?;
        test.with_worker("message", |worker, _| {
            let from = match from {
                MASTER_NUMBER => Sender::Master,
                id => Sender::Worker(id),
            };
            worker.message(from, MessageKind(r#type), data)?;
            done()
        })
    })
}

/// Takes the next message that the handler has sent to the master, or to a worker that is not in the test; `*to` and
/// `*type` are what it has given with it. What it has published has the type 0 and PREFORK_TO_ALL, without its topic.
///
/// Returns bytes that borrow from `test` until the next call of this; no value if there is none.
/// Process: that of the test.
/// # Safety
/// Borrows `test` until return, and `to` and `type`, which may be NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_test_sent(
    test: *mut prefork_test,
    to: *mut u32,
    r#type: *mut u32,
) -> prefork_slice {
    guard(|| {
        // SAFETY: `test` is NULL or lent to the caller.
        let test = unsafe { borrow(test) }?;
        let (receiver, kind, bytes) = test.with_worker("sent", |worker, test| {
            let new = worker.sent();
            let inner = &mut *test.inner.borrow_mut();
            inner.sent.extend(new);
            if inner.sent.is_empty() {
                return Ok((MASTER_NUMBER, 0, no_slice()));
            }
            let message = inner.sent.remove(0);
            inner.message = message.bytes;
            Ok((Address::from(message.to).into(), message.kind.0, prefork_slice::of(&inner.message)))
        })?;
        // SAFETY: NULL or writable, as the caller promises.
        if let Some(to) = unsafe { to.as_mut() } {
            *to = receiver;
        }
        // SAFETY: as above.
        if let Some(into) = unsafe { r#type.as_mut() } {
            *into = kind;
        }
        Ok(bytes)
    })
}

/// Advances the clock of timers and deadlines, which stands still otherwise, for all tests of this thread. What is due
/// meanwhile happens in order, each at its time. time(2), clock_gettime(2), and the deadlines of reads and writes in
/// blocking style are not affected.
///
/// Returns PREFORK_OK.
/// Process: that of the test.
/// # Safety
/// Borrows `test` until return.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_test_advance(test: *mut prefork_test, milliseconds: u64) -> c_int {
    guard(|| {
        // SAFETY: `test` is NULL or lent to the caller.
        unsafe { borrow(test) }?.with_worker("advance", |worker, _| {
            worker.advance(Duration::from_millis(milliseconds));
            done()
        })
    })
}

/// Calls a function as a callback of the worker, in which the functions of prefork_worker_* can be used.
///
/// Returns PREFORK_OK.
/// Process: that of the test.
/// # Safety
/// Borrows `test` and `state` until return.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_test_call(
    test: *mut prefork_test,
    function: Option<unsafe extern "C-unwind" fn(worker: *mut prefork_worker, state: *mut c_void)>,
    state: *mut c_void,
) -> c_int {
    guard(|| {
        // SAFETY: `test` is NULL or lent to the caller.
        let test = unsafe { borrow(test) }?;
        let function = function.ok_or(prefork_status::PREFORK_NULL)?;
        test.with_worker("call", |worker, _| {
            // SAFETY: what the header asks of the function.
            worker.call(|worker| unsafe { function(super::guard::lend(worker), state) });
            done()
        })
    })
}

/// Tells the worker to drain, as a stop does: `on_drain` is called, nothing new is taken, and when it has finished what
/// it has, it ends. What it has may last until the setting `drain-timeout` (`prefork_test_advance()`).
///
/// Returns 1 if it has ended, else 0.
/// Process: that of the test.
/// # Safety
/// Borrows `test` until return.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_test_drain(test: *mut prefork_test) -> c_int {
    guard(|| {
        // SAFETY: `test` is NULL or lent to the caller.
        unsafe { borrow(test) }?.with_worker("drain", |worker, _| {
            worker.drain();
            Ok(worker.has_ended().into())
        })
    })
}

/// Stops the worker: it drains, what it cannot finish now is cut, and `worker_stop` is called.
///
/// Returns the number of connections that were cut.
/// Process: that of the test.
/// # Safety
/// Borrows `test` until return.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_test_stop(test: *mut prefork_test) -> c_int {
    guard(|| {
        // SAFETY: `test` is NULL or lent to the caller.
        unsafe { borrow(test) }?.with_worker("stop", |worker, _| Ok(worker.stop() as c_int))
    })
}

/// Has the worker of another test, with a handler of the same kind, go on with the streams and connections of this one,
/// as in a reload: this one drains, and `on_handover` and `on_takeover` are called. Clients stay as they are.
///
/// Returns 1 if this one has ended, 0 if it keeps something until the setting `drain-timeout`; PREFORK_INVALID if
/// `other` is `test`.
/// Process: that of the test.
/// # Safety
/// Borrows `test` and `other` until return.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_test_hand_over(test: *mut prefork_test, other: *mut prefork_test) -> c_int {
    guard(|| {
        // SAFETY: `test` is NULL or lent to the caller.
        let test = unsafe { borrow(test) }?;
        // SAFETY: `other` is NULL or lent to the caller.
        let other = unsafe { borrow(other) }?;
        if std::ptr::eq(test, other) {
            return Err(prefork_status::PREFORK_INVALID);
        }
        let successor = other.with_worker("hand_over", |_, other| other.start())?;
        test.with_worker("hand_over", |worker, _| {
            worker.hand_over_to(&successor);
            Ok(worker.has_ended().into())
        })
    })
}
