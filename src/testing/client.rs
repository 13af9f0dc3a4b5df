//! A client of a worker in a test: the other end of a pair of sockets.

use super::http::{self, TestRequest, TestResponse};
use super::stage::Stuck;
use super::stage::{self, Actor, Place};
use super::target_of;
use crate::handoff::{Origin, Passed};
use crate::ids::ListenerId;
use crate::sys::{fdpass, socket};
use std::borrow::Cow;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::fmt;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::rc::{Rc, Weak};
use std::thread;

/// Bytes that one read takes.
const READ: usize = 64 * 1024;

/// A client of a [`crate::testing::TestWorker`]: what it sends, and what has come back. A clone is the same client; the connection
/// closes when the last one is dropped.
#[derive(Clone)]
pub struct TestClient {
    state: Rc<State>,
}

/// How a connection has ended for its client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// In order.
    Closed,
    /// By a reset: what had been sent may be lost.
    Reset,
}

struct State {
    worker: Weak<Place>,
    socket: UnixStream,
    /// What the worker has not taken.
    unsent: RefCell<VecDeque<u8>>,
    received: RefCell<Vec<u8>>,
    end: Cell<Option<End>>,
    /// True if nothing follows what is unsent, ...
    finishes: Cell<bool>,
    /// ... and the worker knows.
    has_finished: Cell<bool>,
    reads: Cell<bool>,
    /// In blocking style, before it is served: the worker's end, and its listener.
    unserved: RefCell<Option<(OwnedFd, ListenerId)>>,
    is_blocking: bool,
    /// Of the requests whose responses have not come: is it HEAD?
    heads: RefCell<VecDeque<bool>>,
}

impl Actor for State {
    fn pump(&self) -> bool {
        !self.is_blocking && (self.send_some() | self.receive_some())
    }
}

impl State {
    fn send_some(&self) -> bool {
        let (mut unsent, mut is_busy) = (self.unsent.borrow_mut(), false);
        while !unsent.is_empty() {
            match socket::send(self.socket.as_fd(), unsent.as_slices().0) {
                Ok(n) => drop(unsent.drain(..n)),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return is_busy,
                // It has been closed, and what it has sent before tells more.
                Err(_) => unsent.clear(),
            }
            is_busy = true;
        }
        if self.finishes.get() && !self.has_finished.replace(true) {
            let _ = self.socket.shutdown(Shutdown::Write);
            is_busy = true;
        }
        is_busy
    }

    fn receive_some(&self) -> bool {
        let mut is_busy = false;
        while self.reads.get() && self.end.get().is_none() {
            let mut received = self.received.borrow_mut();
            received.reserve(READ);
            match socket::recv_append_up_to(self.socket.as_fd(), &mut received, READ) {
                Ok(0) => {
                    self.end.set(Some(End::Closed));
                    // As clients do: the worker waits for that, lest its last bytes be lost.
                    self.finishes.set(true);
                }
                Ok(_) => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return is_busy,
                Err(_) => self.end.set(Some(End::Reset)),
            }
            is_busy = true;
        }
        is_busy
    }

    /// Blocking style: has the worker serve the connection. Threads send and receive meanwhile, as the handler waits in its calls.
    #[track_caller]
    fn serve(&self) {
        let Some((fd, listener)) = self.unserved.take() else { return };
        let Some(worker) = self.worker.upgrade() else { return };
        let script: Vec<u8> = self.unsent.take().into();
        let ends = || Ok((self.socket.try_clone()?, self.socket.try_clone()?));
        let (mut to, mut from) = ends().unwrap_or_else(|e: io::Error| panic!("dup: {e}"));
        let sender = thread::spawn(move || {
            // The handler need not read all.
            let _ = to.write_all(&script);
            let _ = to.shutdown(Shutdown::Write);
        });
        let receiver = thread::spawn(move || {
            let mut received = Vec::new();
            let read = from.read_to_end(&mut received);
            // Lets go of the sender too.
            let _ = from.shutdown(Shutdown::Both);
            (received, read.is_ok())
        });
        let is_given = worker.give(&Passed::from(fd), Origin::listener(listener));
        if is_given {
            stage::settle_quietly();
        } else {
            let _ = self.socket.shutdown(Shutdown::Both);
        }
        let (received, is_whole) = receiver.join().unwrap_or_default();
        let _ = sender.join();
        self.received.borrow_mut().extend(received);
        self.end.set(Some(if is_whole { End::Closed } else { End::Reset }));
        stage::settle();
    }
}

impl TestClient {
    #[track_caller]
    pub(super) fn new(
        worker: &Rc<Place>,
        listener: ListenerId,
        peer: Option<SocketAddr>,
        is_blocking: bool,
    ) -> Self {
        thread_local! {
            static COUNT: Cell<u64> = const { Cell::new(0) };
        }
        COUNT.set(COUNT.get() + 1);
        let (ours, theirs) = fdpass::stream_pair().unwrap_or_else(|e| panic!("socketpair: {e}"));
        if let Some(peer) = peer {
            // Without the name it is a client of a Unix socket.
            let _ = socket::name_in_test(ours.as_fd(), peer, COUNT.get());
        }
        let state = Rc::new(State {
            worker: Rc::downgrade(worker),
            socket: ours.into(),
            unsent: RefCell::default(),
            received: RefCell::default(),
            end: Cell::new(None),
            finishes: Cell::new(false),
            has_finished: Cell::new(false),
            reads: Cell::new(true),
            unserved: RefCell::default(),
            is_blocking,
            heads: RefCell::default(),
        });
        let weak: Weak<State> = Rc::downgrade(&state);
        stage::add_client(weak);
        if is_blocking {
            state.unserved.replace(Some((theirs, listener)));
        } else {
            assert!(worker.give(&Passed::from(theirs), Origin::listener(listener)), "the worker has ended");
            stage::settle();
        }
        Self { state }
    }

    /// Sends bytes, and lets the worker do what there is to do. In blocking style they wait for [`TestClient::receive`] or
    /// [`TestClient::finish`].
    #[track_caller]
    pub fn send(&self, bytes: impl AsRef<[u8]>) {
        self.state.unsent.borrow_mut().extend(bytes.as_ref());
        if !self.state.is_blocking {
            stage::settle();
        }
    }

    /// Ends the client's side: the worker finds the end of file behind what was sent (shutdown(2)). In blocking style the handler is
    /// called now, with all that was sent.
    #[track_caller]
    pub fn finish(&self) {
        self.state.finishes.set(true);
        self.settle();
    }

    /// Returns what has come since the last time, when the worker has nothing more to do: maybe nothing. In blocking style the
    /// handler is called now, with what was sent and the end of file.
    #[track_caller]
    pub fn receive(&self) -> Vec<u8> {
        self.settle();
        self.state.received.take()
    }

    /// As [`TestClient::receive`], as text; bytes that are not UTF-8 are replaced.
    #[track_caller]
    pub fn receive_text(&self) -> String {
        let bytes = self.receive();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Waits until so many bytes have come, and compares them; what follows is left for the next call. If the handler has threads or
    /// watches descriptors, that may take real time.
    ///
    /// # Panics
    /// If others come, or fewer.
    #[track_caller]
    pub fn expect(&self, bytes: impl AsRef<[u8]>) {
        let expected = bytes.as_ref();
        self.settle();
        let state = &self.state;
        let waited = stage::wait_until(|| {
            state.received.borrow().len() >= expected.len() || state.end.get().is_some()
        });
        let mut received = state.received.borrow_mut();
        let len = received.len().min(expected.len());
        let found: Vec<u8> = received.drain(..len).collect();
        drop(received);
        let show = |bytes: &[u8]| -> String { bytes.escape_ascii().to_string() };
        let why = match waited {
            Err(Stuck { why }) => why,
            Ok(()) => told(state.end.get()).to_owned(),
        };
        assert!(found == expected, "expected \"{}\", received \"{}\": {why}", show(expected), show(&found));
    }

    /// True if the worker has closed or reset the connection, and what came before was received.
    #[track_caller]
    pub fn is_closed(&self) -> bool {
        self.settle();
        self.state.end.get().is_some()
    }

    /// True if the worker has ended the connection by a reset: what had been sent may be lost.
    #[track_caller]
    pub fn is_reset(&self) -> bool {
        self.settle();
        self.state.end.get() == Some(End::Reset)
    }

    /// Says whether the client reads what comes, as it does from the start. One that does not is slow: the worker's writes find
    /// no room when the sockets' buffers are full (about 200 KiB).
    #[track_caller]
    pub fn set_reading(&self, reads: bool) {
        self.state.reads.set(reads);
        self.settle();
    }

    /// Closes the connection, and lets the worker notice.
    #[track_caller]
    pub fn close(self) {
        let _ = self.state.socket.shutdown(Shutdown::Both);
        self.state.end.set(Some(End::Closed));
        drop(self);
        stage::settle();
    }

    #[track_caller]
    fn settle(&self) {
        self.state.serve();
        stage::settle();
    }

    /// A GET on this connection.
    pub fn get(&self, target: &str) -> TestRequest {
        self.request("GET", target)
    }

    /// A request on this connection, for instance a second one.
    pub fn request(&self, method: &str, target: &str) -> TestRequest {
        TestRequest::new(target_of(self), method, target)
    }

    pub(super) fn add_request(&self, is_head: bool) {
        self.state.heads.borrow_mut().push_back(is_head);
    }

    /// The response to the oldest request without one, when it is complete. If the handler has threads or watches descriptors, that may
    /// take real time.
    ///
    /// # Panics
    /// If it does not come.
    #[track_caller]
    pub fn response(&self) -> TestResponse {
        match self.try_response() {
            Ok(response) => response,
            Err(e) => panic!("{e}"),
        }
    }

    /// As [`TestClient::response`].
    ///
    /// # Errors
    /// Why it does not come.
    #[track_caller]
    pub fn try_response(&self) -> Result<TestResponse, String> {
        self.settle();
        let waited = stage::wait_until(|| match self.parse() {
            Ok(Some(response)) => response.is_complete(),
            Ok(None) => self.state.end.get().is_some(),
            Err(_) => true,
        });
        let parsed = self.parse()?;
        match parsed {
            Some(response) if response.is_complete() => {
                let state = &self.state;
                state.heads.borrow_mut().pop_front();
                let mut received = state.received.borrow_mut();
                received.drain(..response.len());
                drop(received);
                return Ok(response.with_client(self.clone(), state.end.get().is_none()));
            }
            _ => {}
        }
        let come = match parsed {
            None => Cow::Borrowed("no response"),
            Some(part) => Cow::Owned(format!(
                "a response {} that is not complete: {} bytes of body",
                part.status(),
                part.body().len()
            )),
        };
        let why = match (self.state.end.get(), waited) {
            (None, Err(Stuck { why })) => {
                format!("{why}; does the handler keep the response (Response::later)?")
            }
            (end, _) => told(end).to_owned(),
        };
        Err(format!("{come}: {why}"))
    }

    /// The response to the oldest request without one as far as it has come, for one that goes on: `None` before its head is complete. What
    /// it consists of is left for the next call.
    #[track_caller]
    pub fn partial_response(&self) -> Option<TestResponse> {
        self.settle();
        match self.parse() {
            Ok(response) => response.map(|r| r.with_client(self.clone(), self.state.end.get().is_none())),
            Err(e) => panic!("{e}"),
        }
    }

    fn parse(&self) -> Result<Option<TestResponse>, String> {
        let is_head = self.state.heads.borrow().front().copied().unwrap_or(false);
        http::parse(&self.state.received.borrow(), is_head, self.state.end.get().is_some())
    }
}

impl fmt::Debug for TestClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TestClient")
            .field("received", &self.state.received.borrow().len())
            .field("end", &self.state.end.get())
            .finish_non_exhaustive()
    }
}

/// The way in which a connection has ended, in words.
fn told(end: Option<End>) -> &'static str {
    match end {
        None => "the connection is open",
        Some(End::Closed) => "the worker has closed the connection",
        Some(End::Reset) => "the worker has reset the connection",
    }
}
