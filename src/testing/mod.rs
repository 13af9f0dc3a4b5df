//! Tests of a handler without a process: a worker in the test's own thread, and its clients.
#![doc = include_str!("about.md")]

mod client;
mod http;
mod stage;

pub use client::TestClient;
pub use http::{TestRequest, TestResponse};

use crate::config::{Config, Listen, ListenAddr};
use crate::error::{Error, ErrorKind, Result};
use crate::event::{Kind, WorkerStatus};
use crate::handoff;
use crate::ids::{Generation, ListenerId, Page, Slot, WorkerId};
use crate::message::{
    self, Address, Channel, Envelope, MASTER_NUMBER, MessageKind, Purpose, Sender, To, Undelivered,
};
use crate::scoreboard::Scoreboard;
use crate::sys::datagram::{self, LARGEST, Origin};
use crate::sys::test_thread::{self, Stay};
use crate::sys::time::Time;
use crate::sys::{fdpass, memory};
use crate::worker::failure::StartFailure;
use crate::worker::handler::{self, IntoHandler, Outcome};
use crate::worker::messages::WorkerMessages;
use crate::worker::own_sockets::OwnSocket;
use crate::worker::stepped::{self, Stepped};
use crate::worker::{Own, SelfInfo, Served, WorkerSetup};
use crate::{Conn, Datagram, Handler, Request, Response, Worker};
use stage::{Place, Stuck};
use std::cell::{Cell, RefCell};
use std::ffi::CString;
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

/// The time in which everything has to come to rest.
const PATIENCE: Duration = Duration::from_secs(10);
/// The ports of clients: those that a system gives by itself (RFC 6335 section 6).
const PORTS: std::ops::Range<u16> = 49_152..65_535;

/// A worker in this thread, with a handler to be tested. When it is dropped it stops, as by [`TestWorker::stop`].
pub struct TestWorker {
    place: Rc<Place>,
}

/// How a [`TestWorker`] is to be: settings, arguments, listeners, numbers.
#[derive(Clone, Debug)]
#[must_use = "start() starts the worker"]
pub struct TestOptions {
    config: Config,
    refused: Option<String>,
    args: Vec<CString>,
    id: Option<u32>,
    slot: u32,
    generation: u32,
    patience: Duration,
    catches_panics: bool,
}

/// A message that the handler has sent to the master, or to a worker that is not in the test; or a publication, which is for all.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TestMessage {
    /// The receiver.
    pub to: To,
    /// The type that the sender gave it; 0 for a publication.
    pub kind: MessageKind,
    /// The content.
    pub bytes: Vec<u8>,
    /// The topic, if it is a publication.
    pub topic: Option<String>,
    /// True if the sender waits for a reply ([`TestWorker::reply`]).
    pub is_request: bool,
    request: u64,
}

impl TestMessage {
    fn new(envelope: Envelope, bytes: Vec<u8>) -> Self {
        let Envelope { purpose, to, kind, request, .. } = envelope;
        let is_request = purpose == Purpose::Request;
        let published = (purpose == Purpose::Publication).then(|| bytes.split_at_checked(kind as usize));
        if let Some(Some((topic, content))) = published {
            let topic = Some(String::from_utf8_lossy(topic).into_owned());
            return Self {
                to: to.into(),
                kind: MessageKind(0),
                bytes: content.to_vec(),
                topic,
                is_request,
                request,
            };
        }
        Self { to: to.into(), kind: MessageKind(kind), bytes, topic: None, is_request, request }
    }
}

/// The connection on which a request is sent.
enum Target {
    Worker(Rc<Place>),
    Client(TestClient),
}

fn target_of(client: &TestClient) -> Target {
    Target::Client(client.clone())
}

/// An IP address with a port.
#[track_caller]
fn address(text: &str) -> SocketAddr {
    match text.parse() {
        Ok(address) => address,
        Err(_) => panic!("expected an IP address with a port, such as 192.0.2.1:5000, found \"{text}\""),
    }
}

impl Default for TestOptions {
    fn default() -> Self {
        Self {
            config: Config::default(),
            refused: None,
            args: Vec::new(),
            id: None,
            slot: 0,
            generation: 1,
            patience: PATIENCE,
            catches_panics: false,
        }
    }
}

impl TestOptions {
    /// Replaces all settings.
    pub fn config(mut self, config: Config) -> Self {
        self.config = config;
        self
    }

    /// Sets a setting by name, as [`crate::Server::set`] does; [`TestOptions::start`] reports what is refused.
    pub fn set(mut self, name: &str, value: &str) -> Self {
        if let Err(e) = self.config.set(name, value) {
            self.refused.get_or_insert(e.to_string());
        }
        self
    }

    /// For C: the settings, and the arguments.
    pub(crate) fn config_mut(&mut self) -> &mut Config {
        &mut self.config
    }

    pub(crate) fn set_args(&mut self, args: Vec<CString>) {
        self.args = args;
    }

    /// Adds a listener, such as `admin=127.0.0.1:8081` or `udp:127.0.0.1:53`. Nothing is bound. Without any there are two, `127.0.0.1:8080`
    /// and `udp:127.0.0.1:8080`, and the handler need not serve both.
    pub fn listen(self, address: &str) -> Self {
        self.set("listen", address)
    }

    /// Sets the arguments of the handler ([`crate::Worker::args`]). What is behind a NUL byte is left out.
    pub fn args<T: AsRef<str>>(mut self, args: impl IntoIterator<Item = T>) -> Self {
        let until_nul = |arg: T| arg.as_ref().split('\0').next().map(CString::new);
        self.args = args.into_iter().filter_map(until_nul).filter_map(std::result::Result::ok).collect();
        self
    }

    /// Sets the worker's number, from 1, which no other worker of this thread may have. The default is the next free one.
    pub fn id(mut self, id: u32) -> Self {
        self.id = Some(id);
        self
    }

    /// Sets the worker's slot; 0 is the default.
    pub fn slot(mut self, slot: u32) -> Self {
        self.slot = slot;
        self
    }

    /// Sets the worker's generation; 1 is the default.
    pub fn generation(mut self, generation: u32) -> Self {
        self.generation = generation;
        self
    }

    /// Sets the longest time, by the real clock, that a call of the test waits for threads and descriptors of the handler, and for callbacks
    /// that cause each other; ten seconds is the default.
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Keeps the panics of callbacks for [`TestWorker::panics`], in all workers of this thread.
    pub fn catch_panics(mut self) -> Self {
        self.catches_panics = true;
        self
    }

    /// Starts a worker with this handler.
    ///
    /// # Errors
    /// As [`TestOptions::start_with`].
    #[track_caller]
    pub fn start(self, handler: impl Handler + 'static) -> Result<TestWorker> {
        self.start_boxed(|_| Ok(Box::new(handler)))
    }

    /// Starts a worker with the handler that a function makes, as [`crate::Server::factory`] does.
    ///
    /// # Errors
    /// [`ErrorKind::Handler`]: the reason why the handler cannot serve; [`ErrorKind::Misconfigured`] if it says that none could
    /// ([`crate::Misconfigured`]). [`ErrorKind::Config`]: a setting is wrong. [`ErrorKind::State`]: a
    /// worker of this thread has the same number. [`ErrorKind::System`]: no descriptor or memory is left.
    #[track_caller]
    pub fn start_with<R: IntoHandler<M>, M>(self, f: impl FnOnce(&Worker) -> R) -> Result<TestWorker> {
        self.start_boxed(|worker| Ok(f(worker).into_handler()?))
    }

    #[track_caller]
    pub(crate) fn start_boxed(
        mut self,
        open: impl FnOnce(&Worker) -> std::result::Result<Box<dyn Handler>, StartFailure>,
    ) -> Result<TestWorker> {
        if let Some(refused) = self.refused.take() {
            return Err(Error::new(ErrorKind::Config, refused));
        }
        self.config.check()?;
        let is_lenient = self.config.listen.is_empty();
        if is_lenient {
            for address in ["127.0.0.1:8080", "udp:127.0.0.1:8080"] {
                self.config.set("listen", address)?;
            }
        }
        let id = self.id.unwrap_or_else(stage::free_id);
        if id == MASTER_NUMBER || stage::is_taken(id) {
            return Err(Error::new(ErrorKind::State, format!("a worker of this thread has the number {id}")));
        }
        let place = self.place(id, is_lenient, open)?;
        stage::add_worker(&place);
        let worker = TestWorker { place };
        stage::settle();
        Ok(worker)
    }

    fn place(
        self,
        id: u32,
        is_lenient: bool,
        open: impl FnOnce(&Worker) -> std::result::Result<Box<dyn Handler>, StartFailure>,
    ) -> Result<Rc<Place>> {
        let system = |what: &'static str| move |e: io::Error| Error::io(ErrorKind::System, what, e);
        let stay = Stay::new();
        let config = stepped::keep_config(self.config);
        let board = Board(Scoreboard::new(1).map_err(system("map the scoreboard"))?);
        let leave = memory::wake_counter().map_err(system("eventfd"))?;
        let (queue, theirs) = handoff::channel().map_err(system("socketpair"))?;
        let (channel, their_channel) = message::channel(config.max_message).map_err(system("socketpair"))?;
        let Channel { socket, inbox, outbox } = their_channel;
        let (mut own_sockets, mut datagrams) = (Vec::new(), Vec::new());
        for (at, listen) in config.listen.iter().enumerate() {
            datagrams.push(match listen.address {
                ListenAddr::Udp(_) => {
                    let (ours, fd) = fdpass::packet_pair().map_err(system("socketpair"))?;
                    let listener = ListenerId::at(at);
                    own_sockets.push(OwnSocket { fd, listener, alone: true, datagrams: true, watched: None });
                    Some(ours)
                }
                _ => None,
            });
        }
        let worker = Worker::kept(SelfInfo {
            id: WorkerId(id),
            slot: Slot(self.slot),
            generation: Generation(self.generation),
            args: self.args,
            started: SystemTime::now(),
            forked_at: Time::now(),
            last_exit: None,
            page: board.0.page(Page(0)),
            messages: WorkerMessages::new(socket, outbox),
            own: Own { woken: Arc::new(crate::worker::queue_of_test()), ..Own::default() },
            listeners: config.listen.iter().map(served).collect(),
        });
        let common = board.0.common();
        let wake = no_wake().map_err(system("eventfd"))?.as_fd();
        let setup = WorkerSetup {
            worker,
            master: 0,
            queue: theirs,
            own_sockets,
            inbox,
            common,
            wake,
            leave,
            stderr: None,
        };
        let started = Stepped::start(open, config, setup, is_lenient, stay);
        let stepped = started.map_err(|StartFailure { reason, is_misconfigured }| {
            // The test gets its text.
            drop(test_thread::take_panics());
            let kind = if is_misconfigured { ErrorKind::Misconfigured } else { ErrorKind::Handler };
            Error::new(kind, reason)
        })?;
        Ok(Rc::new(Place {
            id,
            stepped: RefCell::new(stepped),
            queue,
            channel: RefCell::new(channel),
            datagrams,
            successor: Cell::new(None),
            sent: RefCell::default(),
            replies: RefCell::default(),
            patience: self.patience,
            drain_timeout: config.drain_timeout,
            catches_panics: self.catches_panics,
            max_message: config.max_message,
            _board: board,
        }))
    }
}

/// A scoreboard, whose memory is given back at the end.
pub(crate) struct Board(Scoreboard);

impl Drop for Board {
    fn drop(&mut self) {
        self.0.release();
    }
}

fn served(listen: &Listen) -> Served {
    Served {
        // Names have letters and digits only.
        name: CString::new(listen.name.clone()).unwrap_or_default(),
        address: listen.address.to_string(),
        takes_datagrams: matches!(listen.address, ListenAddr::Udp(_)),
    }
}

/// What wakes the master of these workers, which never sleeps.
fn no_wake() -> io::Result<&'static OwnedFd> {
    static WAKE: OnceLock<OwnedFd> = OnceLock::new();
    if let Some(wake) = WAKE.get() {
        return Ok(wake);
    }
    let wake = memory::wake_counter()?;
    Ok(WAKE.get_or_init(|| wake))
}

/// Connects a client to the listener of a name, or to the first for connections.
///
/// # Errors
/// Why that is not possible, and what to do.
#[track_caller]
fn connect(
    place: &Rc<Place>,
    listener: Option<&str>,
    peer: Option<SocketAddr>,
    for_request: bool,
) -> std::result::Result<TestClient, String> {
    let stepped = place.stepped();
    if stepped.has_ended() {
        return Err(ENDED.to_owned());
    }
    let listeners = stepped.worker().listeners();
    let at = listeners.iter().position(|served| match listener {
        Some(name) => !served.takes_datagrams && served.name.to_bytes() == name.as_bytes(),
        None => !served.takes_datagrams,
    });
    let at = at.ok_or_else(|| match listener {
        Some(name) => format!("no listener for connections has the name \"{name}\": add one to the options"),
        None => "there is no listener for connections: add one to the options".to_owned(),
    })?;
    let kind = stepped.kind_at(at).unwrap_or(Kind::Request);
    let wrong = match (kind, for_request) {
        (Kind::Datagram, _) => Some("takes datagrams only: send a datagram"),
        (Kind::Stream, true) => Some("takes streams, and no requests: connect a client"),
        (Kind::Blocking, true) => Some("is in blocking style, and takes no requests: connect a client"),
        _ => None,
    };
    if let Some(wrong) = wrong {
        return Err(format!("the handler {wrong}"));
    }
    let is_unix = listeners[at].address.starts_with("unix:");
    drop(stepped);
    let peer = peer.or_else(|| (!is_unix).then(next_peer));
    Ok(TestClient::new(place, ListenerId::at(at), peer, kind == Kind::Blocking))
}

/// What a call returns, unless it is not possible.
#[track_caller]
fn must<T>(result: std::result::Result<T, String>) -> T {
    match result {
        Ok(value) => value,
        Err(why) => panic!("{why}"),
    }
}

const ENDED: &str = "the worker has ended";

/// The address of a client that has not asked for one.
fn next_peer() -> SocketAddr {
    thread_local! {
        static COUNT: Cell<u16> = const { Cell::new(0) };
    }
    COUNT.set((COUNT.get() + 1) % (PORTS.end - PORTS.start));
    SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), PORTS.start + COUNT.get())
}

impl TestWorker {
    /// A worker with this handler, and the default settings.
    ///
    /// # Errors
    /// As [`TestOptions::start_with`].
    #[track_caller]
    pub fn new(handler: impl Handler + 'static) -> Result<Self> {
        Self::options().start(handler)
    }

    /// A worker with the handler that a function makes, as [`crate::Server::factory`] does.
    ///
    /// # Errors
    /// As [`TestOptions::start_with`].
    #[track_caller]
    pub fn with<R: IntoHandler<M>, M>(f: impl FnOnce(&Worker) -> R) -> Result<Self> {
        Self::options().start_with(f)
    }

    /// A worker whose closure answers HTTP requests ([`crate::Server::http`]).
    ///
    /// # Errors
    /// As [`TestOptions::start_with`].
    #[track_caller]
    pub fn http<R: Outcome<M> + 'static, M: 'static>(
        f: impl FnMut(&Request<'_>, &mut Response) -> R + 'static,
    ) -> Result<Self> {
        Self::new(handler::http(f))
    }

    /// A worker whose closure is called whenever a connection has bytes ([`crate::Server::stream`]).
    ///
    /// # Errors
    /// As [`TestOptions::start_with`].
    #[track_caller]
    pub fn stream<R: Outcome<M> + 'static, M: 'static>(f: impl FnMut(&Conn) -> R + 'static) -> Result<Self> {
        Self::new(handler::stream(f))
    }

    /// A worker whose closure serves one connection at a time in blocking style ([`crate::Server::blocking`]).
    ///
    /// # Errors
    /// As [`TestOptions::start_with`].
    #[track_caller]
    pub fn blocking<R: Outcome<M> + 'static, M: 'static>(
        f: impl FnMut(&Conn) -> R + 'static,
    ) -> Result<Self> {
        Self::new(handler::blocking(f))
    }

    /// A worker whose closure is called with each datagram ([`crate::Server::datagram`]).
    ///
    /// # Errors
    /// As [`TestOptions::start_with`].
    #[track_caller]
    pub fn datagrams<R: Outcome<M> + 'static, M: 'static>(
        f: impl FnMut(&Datagram<'_>) -> R + 'static,
    ) -> Result<Self> {
        Self::new(handler::datagram(f))
    }

    /// Options for a worker: settings, arguments, listeners, numbers.
    pub fn options() -> TestOptions {
        TestOptions::default()
    }

    /// A GET, to be sent on a connection of its own.
    pub fn get(&self, target: &str) -> TestRequest {
        self.request("GET", target)
    }

    /// A POST.
    pub fn post(&self, target: &str) -> TestRequest {
        self.request("POST", target)
    }

    /// A PUT.
    pub fn put(&self, target: &str) -> TestRequest {
        self.request("PUT", target)
    }

    /// A DELETE.
    pub fn delete(&self, target: &str) -> TestRequest {
        self.request("DELETE", target)
    }

    /// A request with any method, to be sent on a connection of its own.
    pub fn request(&self, method: &str, target: &str) -> TestRequest {
        TestRequest::new(Target::Worker(Rc::clone(&self.place)), method, target)
    }

    /// Connects a client: for a stream, a connection in blocking style, or bytes of HTTP as they are.
    ///
    /// # Panics
    /// If the handler takes datagrams only, or the worker has ended.
    #[track_caller]
    #[must_use]
    pub fn connect(&self) -> TestClient {
        must(connect(&self.place, None, None, false))
    }

    /// Connects a client to the listener of this name.
    ///
    /// # Panics
    /// As [`TestWorker::connect`], and if there is no such listener.
    #[track_caller]
    #[must_use]
    pub fn connect_to(&self, listener: &str) -> TestClient {
        must(connect(&self.place, Some(listener), None, false))
    }

    /// Connects a client that has this address ([`Conn::peer`]).
    ///
    /// # Panics
    /// As [`TestWorker::connect`], and if it is no IP address with a port.
    #[track_caller]
    #[must_use]
    pub fn connect_from(&self, peer: &str) -> TestClient {
        must(connect(&self.place, None, Some(address(peer)), false))
    }

    /// Sends a datagram to the first listener for datagrams, and returns those that the handler answers it with.
    ///
    /// # Panics
    /// If the handler takes no datagrams, the worker has ended, or there are more bytes than UDP carries (65,507).
    #[track_caller]
    pub fn datagram(&self, bytes: impl AsRef<[u8]>) -> Vec<Vec<u8>> {
        self.send_datagram(next_peer(), bytes.as_ref())
    }

    /// As [`TestWorker::datagram`], from this address ([`Datagram::peer`]).
    ///
    /// # Panics
    /// As [`TestWorker::datagram`], and if it is no IP address with a port.
    #[track_caller]
    pub fn datagram_from(&self, peer: &str, bytes: impl AsRef<[u8]>) -> Vec<Vec<u8>> {
        self.send_datagram(address(peer), bytes.as_ref())
    }

    #[track_caller]
    fn send_datagram(&self, peer: SocketAddr, bytes: &[u8]) -> Vec<Vec<u8>> {
        must(self.try_send_datagram(peer, bytes).map_err(|(_, why)| why))
    }

    /// Sends a datagram, and returns the answers; or why not, and whether that is its size.
    #[track_caller]
    fn try_send_datagram(
        &self,
        peer: SocketAddr,
        bytes: &[u8],
    ) -> std::result::Result<Vec<Vec<u8>>, (bool, String)> {
        let (has_ended, at) = {
            let stepped = self.place.stepped();
            (stepped.has_ended(), stepped.takes_datagrams())
        };
        if has_ended {
            return Err((false, ENDED.to_owned()));
        }
        let fd = at.and_then(|at| self.place.datagrams[at].as_ref()).ok_or_else(|| {
            (false, "the handler takes no datagrams: send a request, or connect a client".to_owned())
        })?;
        datagram::send_in_test(fd.as_fd(), peer, bytes)
            .map_err(|e| (true, format!("send a datagram of {} bytes: {e}", bytes.len())))?;
        stage::settle();
        let (mut replies, mut buffer, mut origin) = (Vec::new(), vec![0; LARGEST], Origin::new());
        while let Ok(n) = datagram::recv(fd.as_fd(), &mut buffer, &mut origin) {
            replies.push(buffer[..n].to_vec());
        }
        Ok(replies)
    }

    /// For C: as [`TestWorker::datagram`].
    pub(crate) fn try_datagram(
        &self,
        peer: Option<&str>,
        bytes: &[u8],
    ) -> std::result::Result<Vec<Vec<u8>>, (bool, String)> {
        self.try_send_datagram(peer.map_or_else(next_peer, address), bytes)
    }

    /// For C: as [`TestWorker::connect`].
    pub(crate) fn try_connect(
        &self,
        listener: Option<&str>,
        peer: Option<&str>,
    ) -> std::result::Result<TestClient, String> {
        connect(&self.place, listener, peer.map(address), false)
    }

    /// True if its handler takes requests at one listener at least.
    pub(crate) fn has_requests(&self) -> bool {
        let stepped = self.place.stepped();
        (0..stepped.worker().listeners().len()).any(|at| stepped.kind_at(at) == Some(Kind::Request))
    }

    /// Sends the handler a message ([`crate::Handler::on_message`]) from a worker, or from the master.
    ///
    /// # Errors
    /// [`Undelivered::TooLarge`], [`Undelivered::Gone`].
    #[track_caller]
    pub fn message(
        &self,
        from: Sender,
        kind: MessageKind,
        bytes: impl AsRef<[u8]>,
    ) -> std::result::Result<(), Undelivered> {
        let (from, to) = (Address::from(To::from(from)), Address::Worker(WorkerId(self.place.id)));
        let envelope = Envelope { purpose: Purpose::Message, from, to, kind: kind.0, request: 0 };
        self.place.send(&envelope, bytes.as_ref())?;
        stage::settle();
        Ok(())
    }

    /// As [`TestWorker::message`], for a message that needs a reply, which is returned.
    ///
    /// # Errors
    /// Why there is none, as for [`crate::Worker::request`].
    #[track_caller]
    pub fn ask(
        &self,
        from: Sender,
        kind: MessageKind,
        bytes: impl AsRef<[u8]>,
    ) -> std::result::Result<Vec<u8>, Undelivered> {
        thread_local! {
            static LAST: Cell<u64> = const { Cell::new(1 << 48) };
        }
        LAST.set(LAST.get() + 1);
        let (from, to, request) =
            (Address::from(To::from(from)), Address::Worker(WorkerId(self.place.id)), LAST.get());
        self.place
            .send(&Envelope { purpose: Purpose::Request, from, to, kind: kind.0, request }, bytes.as_ref())?;
        stage::settle();
        let mut replies = self.place.replies.borrow_mut();
        let at = replies.iter().position(|(of, _)| *of == request);
        at.map_or(Err(Undelivered::Gone), |at| replies.swap_remove(at).1)
    }

    /// Returns what the handler has sent since the last time to the master and to workers that are not in the test, and what it has
    /// published.
    #[track_caller]
    pub fn sent(&self) -> Vec<TestMessage> {
        stage::settle();
        self.place.sent.take()
    }

    /// Replies to a request of the handler ([`crate::Worker::request`]), or says why there is no reply.
    ///
    /// # Errors
    /// [`Undelivered::Impossible`] if it was no request; [`Undelivered::TooLarge`], [`Undelivered::Gone`].
    #[track_caller]
    pub fn reply(
        &self,
        request: &TestMessage,
        reply: std::result::Result<&[u8], Undelivered>,
    ) -> std::result::Result<(), Undelivered> {
        if !request.is_request {
            return Err(Undelivered::Impossible);
        }
        let reason = reply.err().map(|reason| [reason as u8]);
        let (purpose, bytes) = match (&reply, &reason) {
            (Ok(bytes), _) => (Purpose::Reply, *bytes),
            (Err(_), reason) => (Purpose::Failure, reason.as_ref().map_or(&[][..], |reason| &reason[..])),
        };
        let (from, to) = (Address::from(request.to), Address::Worker(WorkerId(self.place.id)));
        self.place.send(&Envelope { purpose, from, to, kind: 0, request: request.request }, bytes)?;
        stage::settle();
        Ok(())
    }

    /// Publishes to a topic as a worker does that is not in the test: the streams that have subscribed to it get the bytes.
    ///
    /// # Errors
    /// [`Undelivered::TooLarge`], [`Undelivered::Gone`].
    #[track_caller]
    pub fn publish(&self, topic: &str, bytes: impl AsRef<[u8]>) -> std::result::Result<(), Undelivered> {
        let (from, to, kind) = (Address::Worker(WorkerId(u32::MAX - 1)), Address::All, topic.len() as u32);
        // Those without a number are taken as they come.
        let envelope = Envelope { purpose: Purpose::Publication, from, to, kind, request: 0 };
        self.place.send(&envelope, &[topic.as_bytes(), bytes.as_ref()].concat())?;
        stage::settle();
        Ok(())
    }

    /// Runs a function as a callback of the worker: to start timers, write to streams, send messages. Then lets the worker do what there is
    /// to do.
    #[track_caller]
    pub fn call<T>(&self, f: impl FnOnce(&Worker) -> T) -> T {
        let result = self.place.stepped().call(f);
        stage::settle();
        result
    }

    /// Advances the clock: timers and deadlines that come meanwhile are called in order, each at its time. All workers of this thread have
    /// the same clock.
    #[track_caller]
    pub fn advance(&self, by: Duration) {
        stage::advance(by);
    }

    /// Lets the worker do what there is to do now. The other methods do so too.
    #[track_caller]
    pub fn settle(&self) {
        stage::settle();
    }

    /// Waits, by the real clock, until a condition holds: for what threads and descriptors of the handler do.
    ///
    /// # Panics
    /// If it never will, or not within [`TestOptions::patience`].
    #[track_caller]
    pub fn run_until(&self, condition: impl FnMut() -> bool) {
        if let Err(Stuck { why }) = stage::wait_until(condition) {
            panic!("the condition does not hold: {why}");
        }
    }

    /// Tells the worker to drain, as a stop does: it takes nothing new, finishes what it has, and ends. What it has may last until
    /// [`Config::drain_timeout`] ([`TestWorker::advance`]).
    #[track_caller]
    pub fn drain(&self) {
        self.place.order_drain(false);
        stage::settle();
    }

    /// True if the worker has drained, and its handler has stopped.
    pub fn has_ended(&self) -> bool {
        self.place.stepped().has_ended()
    }

    /// Drains and stops the worker: what it cannot finish now is cut, as at the end of [`Config::drain_timeout`]. The handler stops
    /// and is dropped. Returns the number of connections that were cut.
    #[track_caller]
    pub fn stop(&self) -> u64 {
        self.drain();
        self.place.stepped().end();
        stage::settle();
        self.place.stepped().cut()
    }

    /// Has another worker go on, as in a reload: this one drains, and its streams ([`crate::Handler::on_handover`]), kept responses and
    /// idle connections go to the other one. What its handler keeps stays until [`Config::drain_timeout`].
    ///
    /// # Panics
    /// If `other` is this worker.
    #[track_caller]
    pub fn hand_over_to(&self, other: &Self) {
        assert!(self.place.id != other.place.id, "a worker cannot go on with its own streams");
        self.place.successor.set(Some(other.place.id));
        self.place.order_drain(true);
        stage::settle();
    }

    /// The worker's numbers and counters.
    pub fn status(&self) -> WorkerStatus {
        self.place.stepped().worker().status()
    }

    /// Takes the texts of the panics of callbacks since the last time, of all workers of this thread ([`TestOptions::catch_panics`]).
    pub fn panics(&self) -> Vec<String> {
        let panics = test_thread::take_panics();
        panics.iter().map(|panic| crate::worker::panic_text(&**panic).to_owned()).collect()
    }

    /// Takes the lines that were logged since the last time, of all workers of this thread: `prefork: worker 1: on_request: ...`.
    pub fn log(&self) -> Vec<String> {
        test_thread::take_lines()
    }
}

impl Drop for TestWorker {
    fn drop(&mut self) {
        // In a callback, it ends when that has returned.
        if let Ok(mut stepped) = self.place.stepped.try_borrow_mut() {
            stepped.end();
        }
    }
}

impl fmt::Debug for TestWorker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TestWorker").field("id", &self.place.id).finish_non_exhaustive()
    }
}
