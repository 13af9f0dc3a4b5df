//! Handlers: user code that runs in a worker, in one of three styles, or for datagrams.

use super::conn::Conn;
use super::datagram::Datagram;
use super::http::request::Request;
use super::http::response::Response;
use super::this_worker::Worker;
use crate::event::Kind;
use crate::log::log;
use crate::message::Message;
use std::fmt::Display;

/// User code that serves connections in a worker: a closure given to [`crate::Server::http`] and its like, or a type of your
/// own, which may hold what it opened in its worker and implements the methods it needs.
///
/// Every method runs in the worker's first thread, one call at a time. A panic costs the connection that the method was called
/// for: an HTTP client gets 500.
pub trait Handler {
    /// The style for new connections. Called once, after [`Handler::start`].
    fn kind(&self) -> Kind;

    /// True if it serves datagrams, as any kind may in addition to connections. Called once, after [`Handler::start`]; if
    /// false, an address `udp:HOST:PORT` is refused.
    fn takes_datagrams(&self) -> bool {
        self.kind() == Kind::Datagram
    }

    /// True if it serves streams: as [`Kind::Data`], or with [`Kind::Request`] connections after [`Response::upgrade`], which is
    /// refused if this is false. Called once, after [`Handler::start`].
    fn takes_streams(&self) -> bool {
        self.kind() == Kind::Data
    }

    /// Called after the fork, before the worker is ready.
    ///
    /// # Errors
    /// The reason why this worker cannot serve; the master prints it.
    fn start(&mut self, _worker: &Worker) -> Result<(), String> {
        Ok(())
    }

    /// Called when the worker has finished its last connection, before it exits.
    fn stop(&mut self, _worker: &Worker) {}

    /// Called when the worker begins to drain.
    fn on_drain(&mut self, _worker: &Worker) {}

    /// A message has arrived, from another worker or from the master. Answer a request with [`Worker::reply`] before this
    /// returns.
    fn on_message(&mut self, _worker: &Worker, _message: &Message<'_>) {}

    /// Answers one complete HTTP request ([`Kind::Request`]).
    fn on_request(&mut self, _req: &Request<'_>, _res: &mut Response) {}

    /// Serves one connection in blocking style and returns when done with it ([`Kind::Connection`]).
    fn on_connection(&mut self, _conn: &mut Conn) {}

    /// A stream connection begins: a new one ([`Kind::Data`]), or an HTTP connection after [`Response::upgrade`]
    /// ([`Handler::takes_streams`]).
    fn on_open(&mut self, _conn: &mut Conn) {}

    /// A stream connection has bytes to read, or has reached its end of file; or it has input left, and room again for output
    /// ([`Conn::write`]).
    fn on_data(&mut self, _conn: &mut Conn) {}

    /// A stream connection has ended; nothing can be read or written any more.
    fn on_close(&mut self, _conn: &mut Conn) {}

    /// A datagram has arrived. A panic or a crash costs this datagram and no other.
    fn on_datagram(&mut self, _datagram: &Datagram<'_>) {}
}

/// The value that a closure returns: nothing, or a `Result` whose error is logged; an HTTP client gets 500.
pub trait Outcome {
    /// The text of the error, if there is one.
    fn failure(self) -> Option<String>;
}

impl Outcome for () {
    fn failure(self) -> Option<String> {
        None
    }
}

impl<E: Display> Outcome for Result<(), E> {
    fn failure(self) -> Option<String> {
        self.err().map(|e| e.to_string())
    }
}

/// Makes a handler of a closure that answers HTTP requests.
pub fn http<R: Outcome>(f: impl FnMut(&Request<'_>, &mut Response) -> R) -> impl Handler {
    HttpClosure(f)
}

/// Makes a handler of a closure that serves one connection at a time in blocking style.
pub fn blocking<R: Outcome>(f: impl FnMut(&mut Conn) -> R) -> impl Handler {
    ConnClosure(Kind::Connection, f)
}

/// Makes a handler of a closure that is called whenever a stream connection has bytes.
pub fn stream<R: Outcome>(f: impl FnMut(&mut Conn) -> R) -> impl Handler {
    ConnClosure(Kind::Data, f)
}

/// Makes a handler of a closure that is called with each datagram.
pub fn datagram<R: Outcome>(f: impl FnMut(&Datagram<'_>) -> R) -> impl Handler {
    DatagramClosure(f)
}

struct HttpClosure<F>(F);
struct ConnClosure<F>(Kind, F);
struct DatagramClosure<F>(F);

/// Logs the error of an outcome; true if it has one.
fn failed(outcome: impl Outcome) -> bool {
    outcome.failure().inspect(|text| log!("handler: {text}")).is_some()
}

impl<F: FnMut(&Request<'_>, &mut Response) -> R, R: Outcome> Handler for HttpClosure<F> {
    fn kind(&self) -> Kind {
        Kind::Request
    }

    fn on_request(&mut self, req: &Request<'_>, res: &mut Response) {
        if failed((self.0)(req, res)) {
            res.fail();
        }
    }
}

impl<F: FnMut(&mut Conn) -> R, R: Outcome> Handler for ConnClosure<F> {
    fn kind(&self) -> Kind {
        self.0
    }

    fn on_connection(&mut self, conn: &mut Conn) {
        failed((self.1)(conn));
    }

    fn on_data(&mut self, conn: &mut Conn) {
        if failed((self.1)(conn)) {
            conn.close();
        }
    }
}

impl<F: FnMut(&Datagram<'_>) -> R, R: Outcome> Handler for DatagramClosure<F> {
    fn kind(&self) -> Kind {
        Kind::Datagram
    }

    fn on_datagram(&mut self, datagram: &Datagram<'_>) {
        failed((self.0)(datagram));
    }
}
