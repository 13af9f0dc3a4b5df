//! Handlers: user code that runs in a worker, in one of three styles, or for datagrams.

use super::conn::Conn;
use super::datagram::Datagram;
use super::failure::{count, report, with_causes};
use super::http::handle::Later;
use super::http::request::Request;
use super::http::response::Response;
use super::http::upload::Take;
use super::this_worker::Worker;
use crate::event::Kind;
use crate::message::Message;
use std::error::Error;
use std::marker::PhantomData;

/// User code that serves connections in a worker: a closure given to [`crate::Server::http`] and its like, or a type of your
/// own, which may hold what it opened in its worker and implements the methods it needs.
///
/// Every method runs in the worker's first thread, one call at a time. A panic costs the connection that the method was called
/// for: an HTTP client gets 500.
pub trait Handler {
    /// The style for new connections. Called once, after [`Handler::start`].
    fn kind(&self) -> Kind;

    /// The style for new connections of a listener, by its index.
    #[doc(hidden)]
    fn kind_at(&self, _listener: u16) -> Kind {
        self.kind()
    }

    /// True if the style is the same at all listeners.
    #[doc(hidden)]
    fn is_same_everywhere(&self) -> bool {
        true
    }

    /// True if it serves datagrams of a listener, by its index.
    #[doc(hidden)]
    fn takes_datagrams_at(&self, _listener: u16) -> bool {
        self.takes_datagrams()
    }

    /// True if it serves datagrams, as any kind may in addition to connections. Called once, after [`Handler::start`]; if
    /// false, an address `udp:HOST:PORT` is refused.
    fn takes_datagrams(&self) -> bool {
        self.kind() == Kind::Datagram
    }

    /// True if it serves streams: as [`Kind::Stream`], or with [`Kind::Request`] connections after [`Response::upgrade`], which is
    /// refused if this is false. Called once, after [`Handler::start`].
    fn takes_streams(&self) -> bool {
        self.kind() == Kind::Stream
    }

    /// True if it decides about each HTTP request when its head has come ([`Handler::on_head`]). Called once, after
    /// [`Handler::start`]; if false, neither that nor [`Handler::on_body`] is called.
    fn takes_heads(&self) -> bool {
        false
    }

    /// Called after the fork, before the worker is ready.
    ///
    /// # Errors
    /// The reason why this worker cannot serve; the master prints it with its causes. A new worker tries again, after longer and longer
    /// delays, unless [`crate::Misconfigured`] is among them.
    fn start(&mut self, _worker: &Worker) -> Result<(), Box<dyn Error>> {
        Ok(())
    }

    /// Called when the worker has finished its last connection, before it exits. Afterwards what was buffered for output is written. The
    /// handler is dropped, and exit handlers run, only with [`crate::config::WorkerExit::Full`].
    fn stop(&mut self, _worker: &Worker) {}

    /// Called when the worker begins to drain.
    fn on_drain(&mut self, _worker: &Worker) {}

    /// A message has arrived, from another worker or from the master. Answer a request with [`Worker::reply`] before this
    /// returns.
    fn on_message(&mut self, _worker: &Worker, _message: &Message<'_>) {}

    /// The head of an HTTP request has come: decides about its body ([`Handler::takes_heads`]). Called once for every request, also
    /// for one without a body or whose body has come already, in order.
    ///
    /// With [`Take::Refuse`], what was set of `res` is the answer: 401, 413, 417, or any other; a client that expects a 100 gets none.
    /// If the request has a body, the connection is closed after that, in stages, so that the client can read the answer while it
    /// still sends; else it is kept. With the other two, what was set is forgotten. A response of which a part was written, or that
    /// was kept ([`Response::later`]), is the answer in any case. [`crate::config::Limits::body`] holds for bodies taken whole only.
    fn on_head(&mut self, _req: &Request<'_>, _res: &mut Response) -> Take {
        Take::Whole
    }

    /// A piece of a body has come that is taken in pieces ([`Take::Pieces`]): in order, decoded, up to 64 KiB or as much as came with
    /// the head. The last one, which may be empty, has `last` set; no other is. After it, [`Handler::on_request`] is called with an
    /// empty body, to answer. Between two pieces [`crate::config::Timeouts::body`] runs. If the client goes or the rest of the body is
    /// malformed, neither is called any more, and what [`Request::set_user`] was given is dropped. While this runs, nothing is read;
    /// [`Request::pause`] lets the client wait longer.
    fn on_body(&mut self, _req: &Request<'_>, _piece: &[u8], _last: bool) {}

    /// Answers one complete HTTP request ([`Kind::Request`]).
    fn on_request(&mut self, _req: &Request<'_>, _res: &mut Response) {}

    /// Serves one connection in blocking style and returns when done with it ([`Kind::Blocking`]).
    fn on_connection(&mut self, _conn: &Conn) {}

    /// A stream connection begins: a new one ([`Kind::Stream`]), or an HTTP connection after [`Response::upgrade`]
    /// ([`Handler::takes_streams`]) when its 101 has been sent, in front of all that is written here. What the client has sent
    /// behind its handshake can be read already; [`Handler::on_data`] is called for it next.
    fn on_open(&mut self, _conn: &Conn) {}

    /// A stream connection has bytes to read, or has reached its end of file; or it has input left, and room again for output
    /// ([`Conn::write`]).
    fn on_data(&mut self, _conn: &Conn) {}

    /// A stream that has refused a write ([`Conn::write`]) has room for it now. If it has input left, [`Handler::on_data`] is called
    /// next.
    fn on_writable(&mut self, _conn: &Conn) {}

    /// The version of what [`Handler::on_handover`] returns; 0 if this handler gives no stream away. Called before that.
    fn state_version(&self) -> u32 {
        0
    }

    /// The version at a listener, by its index.
    #[doc(hidden)]
    fn state_version_at(&self, _listener: u16) -> u32 {
        self.state_version()
    }

    /// This worker drains, or the handler transfers this stream ([`Conn::transfer`]): returns what another worker needs to go on with it,
    /// at most [`crate::Config::max_state`] bytes; or `None` if it stays, until this worker's deadline.
    ///
    /// With `Some` the stream is over for this worker: nothing can be read or written, [`Handler::on_close`] is not called, and its
    /// user value is dropped. What was read and not consumed, what was written and not sent, its subscriptions and
    /// settings go with it; timers do not ([`Handler::on_takeover`] may start new ones, and the clock of [`std::time::Instant`] is the same
    /// in all workers). If nobody takes it over, it comes back to this worker by [`Handler::on_takeover`].
    ///
    /// One that is closed in this call is closed by the worker that has taken it over.
    ///
    /// It is asked once in each stream's time in a worker that drains; not in blocking style.
    fn on_handover(&mut self, _conn: &Conn) -> Option<Vec<u8>> {
        None
    }

    /// As [`Handler::on_handover`], with the most bytes.
    #[doc(hidden)]
    fn write_state(&mut self, conn: &Conn, _room: usize) -> Option<Vec<u8>> {
        self.on_handover(conn)
    }

    /// A stream has come from another worker, whose handler has returned `state` and had this `version`; another program or another
    /// version of the module may run there. It has a new [`Conn::id`] here. What is written in this call is sent when it has returned.
    /// [`Handler::on_data`] is called next if there is something to read.
    ///
    /// # Errors
    /// It is not taken: this text is logged, what was written is forgotten, and the stream goes back to the worker from which it came;
    /// if that has refused it too, or is gone, it is reset.
    fn on_takeover(&mut self, _conn: &Conn, _version: u32, _state: &[u8]) -> Result<(), String> {
        Err("this handler takes no streams over".to_owned())
    }

    /// A response that another worker's handler had kept has come from there ([`Later::on_handover`]), with what that has returned.
    /// `res` is the response; nothing of it can be set any more if its head has been sent. What is written in this call is sent when it has
    /// returned.
    ///
    /// # Errors
    /// It is not taken, and goes back, as with [`Handler::on_takeover`]; `res` is of no use any more.
    fn on_resume(&mut self, _res: Later, _version: u32, _state: &[u8]) -> Result<(), String> {
        Err("this handler goes on with no response".to_owned())
    }

    /// The same at a listener, by its index.
    #[doc(hidden)]
    fn on_resume_at(&mut self, _listener: u16, res: Later, version: u32, state: &[u8]) -> Result<(), String> {
        self.on_resume(res, version, state)
    }

    /// A stream connection has ended; nothing can be read or written any more, and [`Worker::conn`] does not find it.
    /// [`Conn::end_reason`] says why.
    fn on_close(&mut self, _conn: &Conn) {}

    /// A datagram has arrived. A panic or a crash costs this datagram and no other.
    fn on_datagram(&mut self, _datagram: &Datagram<'_>) {}
}

/// The value that a closure returns: nothing, or a `Result` whose error is logged with its causes; an HTTP client gets 500. The
/// error is one of [`std::error::Error`], a boxed one, or text. `M` is found by the compiler; it tells the implementations apart.
pub trait Outcome<M> {
    /// The text of the error and its causes, if there is one.
    fn failure(self) -> Option<String>;
}

impl Outcome<()> for () {
    fn failure(self) -> Option<String> {
        None
    }
}

impl<E: Into<Box<dyn Error>>> Outcome<Box<dyn Error>> for Result<(), E> {
    fn failure(self) -> Option<String> {
        self.err().map(|e| with_causes(&*e.into()))
    }
}

/// Which is not `Into<Box<dyn Error>>`.
impl Outcome<BoxedSendSync> for Result<(), BoxedSendSync> {
    fn failure(self) -> Option<String> {
        self.err().map(|e| with_causes(&*e))
    }
}

type BoxedSendSync = Box<dyn Error + Send + Sync>;

/// The value that a factory of handlers returns ([`crate::Server::factory`]): a handler, or a `Result` with a handler. The error is one of
/// [`std::error::Error`], a boxed one, or text. `M` is found by the compiler; it tells the implementations apart.
pub trait IntoHandler<M> {
    /// The handler.
    ///
    /// # Errors
    /// The reason why this worker cannot serve, and perhaps none can ([`crate::Misconfigured`]).
    fn into_handler(self) -> Result<Box<dyn Handler>, Box<dyn Error>>;
}

impl<H: Handler + 'static> IntoHandler<()> for H {
    fn into_handler(self) -> Result<Box<dyn Handler>, Box<dyn Error>> {
        Ok(Box::new(self))
    }
}

impl<H: Handler + 'static, E: Into<Box<dyn Error>>> IntoHandler<Box<dyn Error>> for Result<H, E> {
    fn into_handler(self) -> Result<Box<dyn Handler>, Box<dyn Error>> {
        self.map(|handler| Box::new(handler) as _).map_err(Into::into)
    }
}

/// Which is not `Into<Box<dyn Error>>`.
impl<H: Handler + 'static> IntoHandler<BoxedSendSync> for Result<H, BoxedSendSync> {
    fn into_handler(self) -> Result<Box<dyn Handler>, Box<dyn Error>> {
        self.map(|handler| Box::new(handler) as _).map_err(|e| e as Box<dyn Error>)
    }
}

/// A handler of a type that is known only when the program runs: a factory can return one of several.
impl<T: Handler + ?Sized> Handler for Box<T> {
    fn kind(&self) -> Kind {
        (**self).kind()
    }

    fn kind_at(&self, listener: u16) -> Kind {
        (**self).kind_at(listener)
    }

    fn is_same_everywhere(&self) -> bool {
        (**self).is_same_everywhere()
    }

    fn takes_datagrams_at(&self, listener: u16) -> bool {
        (**self).takes_datagrams_at(listener)
    }

    fn takes_datagrams(&self) -> bool {
        (**self).takes_datagrams()
    }

    fn takes_streams(&self) -> bool {
        (**self).takes_streams()
    }

    fn takes_heads(&self) -> bool {
        (**self).takes_heads()
    }

    fn start(&mut self, worker: &Worker) -> Result<(), Box<dyn Error>> {
        (**self).start(worker)
    }

    fn stop(&mut self, worker: &Worker) {
        (**self).stop(worker);
    }

    fn on_drain(&mut self, worker: &Worker) {
        (**self).on_drain(worker);
    }

    fn on_message(&mut self, worker: &Worker, message: &Message<'_>) {
        (**self).on_message(worker, message);
    }

    fn on_head(&mut self, req: &Request<'_>, res: &mut Response) -> Take {
        (**self).on_head(req, res)
    }

    fn on_body(&mut self, req: &Request<'_>, piece: &[u8], last: bool) {
        (**self).on_body(req, piece, last);
    }

    fn on_request(&mut self, req: &Request<'_>, res: &mut Response) {
        (**self).on_request(req, res);
    }

    fn on_connection(&mut self, conn: &Conn) {
        (**self).on_connection(conn);
    }

    fn on_open(&mut self, conn: &Conn) {
        (**self).on_open(conn);
    }

    fn on_data(&mut self, conn: &Conn) {
        (**self).on_data(conn);
    }

    fn on_writable(&mut self, conn: &Conn) {
        (**self).on_writable(conn);
    }

    fn state_version(&self) -> u32 {
        (**self).state_version()
    }

    fn state_version_at(&self, listener: u16) -> u32 {
        (**self).state_version_at(listener)
    }

    fn on_handover(&mut self, conn: &Conn) -> Option<Vec<u8>> {
        (**self).on_handover(conn)
    }

    fn write_state(&mut self, conn: &Conn, room: usize) -> Option<Vec<u8>> {
        (**self).write_state(conn, room)
    }

    fn on_takeover(&mut self, conn: &Conn, version: u32, state: &[u8]) -> Result<(), String> {
        (**self).on_takeover(conn, version, state)
    }

    fn on_resume(&mut self, res: Later, version: u32, state: &[u8]) -> Result<(), String> {
        (**self).on_resume(res, version, state)
    }

    fn on_resume_at(&mut self, listener: u16, res: Later, version: u32, state: &[u8]) -> Result<(), String> {
        (**self).on_resume_at(listener, res, version, state)
    }

    fn on_close(&mut self, conn: &Conn) {
        (**self).on_close(conn);
    }

    fn on_datagram(&mut self, datagram: &Datagram<'_>) {
        (**self).on_datagram(datagram);
    }
}

/// Makes a handler of a closure that answers HTTP requests.
pub fn http<R: Outcome<M>, M>(f: impl FnMut(&Request<'_>, &mut Response) -> R) -> impl Handler {
    HttpClosure(f, PhantomData)
}

/// Makes a handler of a closure that serves one connection at a time in blocking style.
pub fn blocking<R: Outcome<M>, M>(f: impl FnMut(&Conn) -> R) -> impl Handler {
    ConnClosure(Kind::Blocking, f, PhantomData)
}

/// Makes a handler of a closure that is called whenever a stream connection has bytes.
pub fn stream<R: Outcome<M>, M>(f: impl FnMut(&Conn) -> R) -> impl Handler {
    ConnClosure(Kind::Stream, f, PhantomData)
}

/// Makes a handler of a closure that is called with each datagram.
pub fn datagram<R: Outcome<M>, M>(f: impl FnMut(&Datagram<'_>) -> R) -> impl Handler {
    DatagramClosure(f, PhantomData)
}

struct HttpClosure<F, M>(F, PhantomData<M>);
struct ConnClosure<F, M>(Kind, F, PhantomData<M>);
struct DatagramClosure<F, M>(F, PhantomData<M>);

impl<F: FnMut(&Request<'_>, &mut Response) -> R, R: Outcome<M>, M> Handler for HttpClosure<F, M> {
    fn kind(&self) -> Kind {
        Kind::Request
    }

    fn on_request(&mut self, req: &Request<'_>, res: &mut Response) {
        if let Some(reason) = (self.0)(req, res).failure() {
            if !res.has_told(&reason) {
                report("on_request", &req.brief(), &reason);
            }
            res.fail();
        }
    }
}

impl<F: FnMut(&Conn) -> R, R: Outcome<M>, M> ConnClosure<F, M> {
    /// True if it failed, for whatever reason.
    fn fails(&mut self, callback: &str, conn: &Conn) -> bool {
        let Some(reason) = (self.1)(conn).failure() else { return false };
        if !conn.has_told(&reason) {
            report(callback, &conn.client(), &reason);
            count();
        }
        true
    }
}

impl<F: FnMut(&Conn) -> R, R: Outcome<M>, M> Handler for ConnClosure<F, M> {
    fn kind(&self) -> Kind {
        self.0
    }

    fn on_connection(&mut self, conn: &Conn) {
        self.fails("on_connection", conn);
    }

    fn on_data(&mut self, conn: &Conn) {
        if self.fails("on_data", conn) {
            conn.close();
        }
    }
}

impl<F: FnMut(&Datagram<'_>) -> R, R: Outcome<M>, M> Handler for DatagramClosure<F, M> {
    fn kind(&self) -> Kind {
        Kind::Datagram
    }

    fn on_datagram(&mut self, datagram: &Datagram<'_>) {
        if let Some(reason) = (self.0)(datagram).failure() {
            report("on_datagram", &datagram.client(), &reason);
            count();
        }
    }
}
