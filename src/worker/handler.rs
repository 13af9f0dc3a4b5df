//! What a handler is: user code that runs in a worker, in one of three styles, or for datagrams.

use super::Worker;
use super::conn::Conn;
use super::datagram::Datagram;
use super::http::{Request, Response};

use crate::log::log;
use crate::message::Message;
use std::fmt::Display;

/// How a handler wants its new connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// As HTTP requests: [`Handler::on_request`].
    #[default]
    Request = 1,
    /// One at a time, in blocking style: [`Handler::on_connection`].
    Connection = 2,
    /// As a stream of bytes: [`Handler::on_open`], [`Handler::on_data`], [`Handler::on_close`].
    Data = 3,
    /// Not at all: it takes datagrams only ([`Handler::on_datagram`]).
    Datagram = 4,
}

impl Kind {
    /// The kind of a number, if it is one's.
    pub(crate) fn from_number(n: u8) -> Option<Self> {
        [Self::Request, Self::Connection, Self::Data, Self::Datagram].into_iter().find(|k| *k as u8 == n)
    }
}

/// User code that serves connections in a worker. A closure given to [`crate::Server::http`] and its like is one; a type of
/// your own may hold what it opened in its worker and implement as many of these as it needs.
///
/// Every method runs in the worker, single-threaded, one call at a time. A panic in a method costs the connection it was
/// called for: an HTTP client gets 500.
pub trait Handler {
    /// How new connections are served. Asked once, after [`Handler::start`].
    fn kind(&self) -> Kind;

    /// Whether it takes datagrams, which any kind may do beside its connections. Asked once, after [`Handler::start`]; without it
    /// an address `udp:HOST:PORT` is refused.
    fn takes_datagrams(&self) -> bool {
        self.kind() == Kind::Datagram
    }

    /// Called after the fork, before the worker is ready.
    ///
    /// # Errors
    /// Why this worker cannot serve; the master prints it.
    fn start(&mut self, _worker: &Worker) -> Result<(), String> {
        Ok(())
    }

    /// Called when the worker has finished its last connection, before it exits.
    fn stop(&mut self, _worker: &Worker) {}

    /// Called when the worker is told to finish what it has and take nothing new.
    fn on_drain(&mut self, _worker: &Worker) {}

    /// A message has come, from another worker or from the master. To a request answer with [`Worker::reply`], before this returns.
    fn on_message(&mut self, _worker: &Worker, _message: &Message<'_>) {}

    /// Answers one complete HTTP request ([`Kind::Request`]).
    fn on_request(&mut self, _req: &Request<'_>, _res: &mut Response) {}

    /// Serves one connection in blocking style and returns when done with it ([`Kind::Connection`]).
    fn on_connection(&mut self, _conn: &mut Conn) {}

    /// A stream connection begins: a new one ([`Kind::Data`]), or one that [`Response::upgrade`] made of an HTTP connection.
    fn on_open(&mut self, _conn: &mut Conn) {}

    /// A stream connection has bytes to read, or has reached its end of file.
    fn on_data(&mut self, _conn: &mut Conn) {}

    /// A stream connection is over; nothing can be read or written any more.
    fn on_close(&mut self, _conn: &mut Conn) {}

    /// A datagram has come. A panic costs this one; a crash costs it too, and no other.
    fn on_datagram(&mut self, _datagram: &Datagram<'_>) {}
}

/// What a closure handler may return: nothing, or a `Result` whose error is answered with 500 and printed.
pub trait Outcome {
    /// The error's text, if it is one.
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
pub fn http<F, R>(f: F) -> impl Handler
where
    F: FnMut(&Request<'_>, &mut Response) -> R,
    R: Outcome,
{
    HttpClosure(f)
}

/// Makes a handler of a closure that serves one connection at a time in blocking style.
pub fn blocking<F, R>(f: F) -> impl Handler
where
    F: FnMut(&mut Conn) -> R,
    R: Outcome,
{
    BlockingClosure(f)
}

/// Makes a handler of a closure that is called whenever a stream connection has bytes.
pub fn stream<F, R>(f: F) -> impl Handler
where
    F: FnMut(&mut Conn) -> R,
    R: Outcome,
{
    StreamClosure(f)
}

/// Makes a handler of a closure that is called with each datagram.
pub fn datagram<F, R>(f: F) -> impl Handler
where
    F: FnMut(&Datagram<'_>) -> R,
    R: Outcome,
{
    DatagramClosure(f)
}

struct HttpClosure<F>(F);
struct BlockingClosure<F>(F);
struct StreamClosure<F>(F);
struct DatagramClosure<F>(F);

impl<F, R> Handler for HttpClosure<F>
where
    F: FnMut(&Request<'_>, &mut Response) -> R,
    R: Outcome,
{
    fn kind(&self) -> Kind {
        Kind::Request
    }

    fn on_request(&mut self, req: &Request<'_>, res: &mut Response) {
        if let Some(text) = (self.0)(req, res).failure() {
            log!("handler: {text}");
            res.fail();
        }
    }
}

impl<F, R> Handler for BlockingClosure<F>
where
    F: FnMut(&mut Conn) -> R,
    R: Outcome,
{
    fn kind(&self) -> Kind {
        Kind::Connection
    }

    fn on_connection(&mut self, conn: &mut Conn) {
        if let Some(text) = (self.0)(conn).failure() {
            log!("handler: {text}");
        }
    }
}

impl<F, R> Handler for StreamClosure<F>
where
    F: FnMut(&mut Conn) -> R,
    R: Outcome,
{
    fn kind(&self) -> Kind {
        Kind::Data
    }

    fn on_data(&mut self, conn: &mut Conn) {
        if let Some(text) = (self.0)(conn).failure() {
            log!("handler: {text}");
            conn.close();
        }
    }
}

impl<F, R> Handler for DatagramClosure<F>
where
    F: FnMut(&Datagram<'_>) -> R,
    R: Outcome,
{
    fn kind(&self) -> Kind {
        Kind::Datagram
    }

    fn on_datagram(&mut self, datagram: &Datagram<'_>) {
        if let Some(text) = (self.0)(datagram).failure() {
            log!("handler: {text}");
        }
    }
}
