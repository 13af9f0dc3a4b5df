//! WebSocket (RFC 6455), the server's side, for streams of prefork, by the crate `tungstenite`: one file, to be copied.
//! `websocket.rs` and `chat.rs` use it.
//!
//! It does: the handshake; fragments, control frames between them, masks; UTF-8; a limit of the message (1009); close codes, the
//! close of either side, 1001 when the worker drains; pings, and the end of clients that do not answer; clients that read too slowly,
//! of whom nothing more is read until they have taken what was sent.
//!
//! It does not: extensions (permessage-deflate is not negotiated), the choice of a subprotocol, the check of Origin, TLS. The last
//! three are yours: see [`WebSocketHandler::on_request`].
//!
//! What is sent is always whole frames in one write, so frames sent here and frames published to topics do not mix.

use prefork::{Conn, Handler, Kind, Request, Response, Worker};
use std::any::Any;
use std::io::{self, ErrorKind::WouldBlock, Read, Write};
use std::rc::Rc;
use std::time::Duration;
use tungstenite::handshake::derive_accept_key;
use tungstenite::protocol::frame::Frame;
use tungstenite::protocol::frame::coding::{Data, OpCode};
use tungstenite::protocol::{CloseFrame, Role, WebSocket, WebSocketConfig};
use tungstenite::{Error, Message, error::ProtocolError};

/// What a worker does with its WebSocket connections. What it keeps of one it may keep under [`Conn::id`]; [`Conn::user`] is taken.
pub trait WebSocketHandler {
    /// A message, [`Message::Text`] or [`Message::Binary`]. The first [`send`] in it is taken.
    fn on_message(&mut self, conn: &Conn, message: Message);

    /// The handshake, or another request. Check here what is yours: the path, Origin, a cookie. After [`accept`] you may add
    /// `Sec-WebSocket-Protocol`, one that the request lists, and [`Response::set_user`].
    fn on_request(&mut self, req: &Request<'_>, res: &mut Response) {
        accept(req, res);
    }

    /// A connection begins. `user` is what [`Response::set_user`] was given in the handshake.
    fn on_open(&mut self, _conn: &Conn, _user: Option<Box<dyn Any>>) {}

    /// There is room again after [`send`] has returned [`Unsent::Full`].
    fn on_writable(&mut self, _conn: &Conn) {}

    /// The connection is over.
    fn on_close(&mut self, _conn: &Conn) {}
}

/// The handler of prefork for a [`WebSocketHandler`].
pub struct WebSockets<H> {
    pub handler: H,
    /// The most bytes of a message, of all its fragments together; and of one that is sent. Less than the setting `max-pending`, by 150.
    pub max_message: usize,
    /// A client is pinged each time this has passed, and dropped if it has sent nothing until the next time. Zero: never.
    pub ping: Duration,
    pub is_draining: bool,
}

/// A message that was not sent.
#[derive(Debug, PartialEq, Eq)]
pub enum Unsent {
    /// One waits for room already; [`WebSocketHandler::on_writable`] will be called.
    Full,
    /// The message is over [`WebSockets::max_message`].
    TooLarge,
    /// The connection has ended, or is about to.
    Gone,
}

/// Sends a message; what there is no room for is kept until there is.
pub fn send(conn: &Conn, message: Message) -> Result<(), Unsent> {
    with_socket(conn, |socket| socket.send(message)).unwrap_or(Err(Unsent::Gone))
}

/// Sends a close frame and ends the connection: nothing is sent after it, published or not, and what the client sends is dropped
/// until it has closed too.
pub fn close(conn: &Conn, code: u16, reason: &'static str) {
    let frame = CloseFrame { code: code.into(), reason: reason.into() };
    with_socket(conn, |socket| {
        if socket.ws.can_write() {
            let result = socket.ws.close(Some(frame));
            socket.settle(result);
        }
    });
}

/// Publishes a text to a topic of prefork, as one frame.
pub fn publish(worker: &Worker, topic: &str, text: String) -> Result<(), prefork::Undelivered> {
    let mut bytes = Vec::with_capacity(text.len() + 10);
    // Writing to a vector does not fail.
    let _ = Frame::message(text, OpCode::Data(Data::Text), true).format(&mut bytes);
    worker.publish(topic, &bytes)
}

/// Answers the handshake (RFC 6455 section 4.2), or says why not: 400, or 426 with what is offered. True if it is accepted.
pub fn accept(req: &Request<'_>, res: &mut Response) -> bool {
    let refuse = |res: &mut Response, status: u16| {
        let _ = res.status(status);
        if status == 426 {
            let _ = res.header("Upgrade", "websocket");
            let _ = res.header("Sec-WebSocket-Version", "13");
        }
        false
    };
    if req.header("Sec-WebSocket-Version") != Some(b"13") {
        return refuse(res, 426);
    }
    let fields = (0..req.header_count()).filter_map(|i| req.header_at(i));
    let mut keys =
        fields.filter(|(name, _)| name.eq_ignore_ascii_case("Sec-WebSocket-Key")).map(|(_, value)| value);
    let (key, None, "GET") = (keys.next().unwrap_or_default(), keys.next(), req.method()) else {
        return refuse(res, 400);
    };
    if !is_key(key) {
        return refuse(res, 400);
    }
    if res.upgrade("websocket").is_err() {
        return refuse(res, 426);
    }
    res.header("Sec-WebSocket-Accept", derive_accept_key(key)).is_ok()
}

/// True if it is a nonce of 16 bytes in base64: 22 digits, the last one of two bits, and "==".
fn is_key(key: &[u8]) -> bool {
    let is_digit = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'/');
    matches!(key.split_last_chunk(), Some((digits, b"=="))
        if digits.len() == 22 && digits.iter().all(is_digit) && b"AQgw".contains(&digits[21]))
}

/// The bytes of a connection, as tungstenite reads and writes them. A write takes all or nothing.
struct Bytes(Rc<Conn>);

impl Read for Bytes {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.0.read(buf)
    }
}

impl Write for Bytes {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.0.write(bytes) {
            Ok(()) => Ok(bytes.len()),
            Err(e) if e.kind() == io::ErrorKind::OutOfMemory => Err(WouldBlock.into()),
            Err(e) => Err(e),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A connection, in [`Conn::user`].
struct Socket {
    ws: WebSocket<Bytes>,
    max_message: usize,
    /// Frames wait for room; meanwhile nothing is read.
    is_held: bool,
    /// [`Unsent::Full`] was returned.
    was_refused: bool,
    /// A ping was sent, and nothing has come since.
    is_silent: bool,
}

impl Socket {
    fn send(&mut self, message: Message) -> Result<(), Unsent> {
        if !self.ws.can_write() {
            return Err(Unsent::Gone);
        }
        if self.is_held {
            self.was_refused = true;
            return Err(Unsent::Full);
        }
        if message.len() > self.max_message {
            return Err(Unsent::TooLarge);
        }
        let result = self.ws.send(message);
        self.settle(result);
        Ok(())
    }

    /// After each write: what was written has been taken, is held, or the connection is over. It ends once its close is written.
    fn settle(&mut self, result: tungstenite::Result<()>) {
        self.is_held = matches!(&result, Err(Error::Io(e)) if e.kind() == WouldBlock);
        if !self.is_held && (result.is_err() || !self.ws.can_write()) {
            self.ws.get_ref().0.close();
        }
    }
}

fn with_socket<T>(conn: &Conn, f: impl FnOnce(&mut Socket) -> T) -> Option<T> {
    conn.user().as_mut().and_then(|user| user.downcast_mut()).map(f)
}

impl<H: WebSocketHandler> Handler for WebSockets<H> {
    fn kind(&self) -> Kind {
        Kind::Request
    }

    fn takes_streams(&self) -> bool {
        true
    }

    fn start(&mut self, worker: &Worker) -> Result<(), String> {
        if !self.ping.is_zero() {
            worker.every(self.ping, ping_all).ok_or("no timer")?;
        }
        Ok(())
    }

    fn on_request(&mut self, req: &Request<'_>, res: &mut Response) {
        self.handler.on_request(req, res);
    }

    fn on_open(&mut self, conn: &Conn) {
        let Some(shared) = Worker::current().and_then(|worker| worker.conn(conn.id())) else { return };
        let config = WebSocketConfig::default()
            .read_buffer_size(4096)
            .write_buffer_size(0)
            .max_message_size(Some(self.max_message))
            .max_frame_size(Some(self.max_message));
        let ws = WebSocket::from_raw_socket(Bytes(shared), Role::Server, Some(config));
        let max_message = self.max_message;
        let socket = Socket { ws, max_message, is_held: false, was_refused: false, is_silent: false };
        let user = conn.user().replace(Box::new(socket));
        self.handler.on_open(conn, user);
        if self.is_draining {
            close(conn, 1001, "");
        }
    }

    fn on_data(&mut self, conn: &Conn) {
        loop {
            let next = with_socket(conn, |socket| {
                socket.is_silent = false;
                // What is held is sent first.
                (!socket.is_held && socket.ws.can_write()).then(|| socket.ws.read())
            });
            match next.flatten() {
                Some(Ok(message @ (Message::Text(_) | Message::Binary(_)))) => {
                    self.handler.on_message(conn, message);
                }
                Some(Ok(_)) => {
                    // The answer to a ping or a close.
                    with_socket(conn, |socket| {
                        let result = socket.ws.flush();
                        socket.settle(result);
                    });
                }
                Some(Err(e)) => match e {
                    Error::Io(e) if e.kind() == WouldBlock => return,
                    Error::Capacity(_) => close(conn, 1009, ""),
                    Error::Utf8(_) => close(conn, 1007, ""),
                    Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) => return conn.close(),
                    Error::Protocol(_) => close(conn, 1002, ""),
                    _ => return conn.close(),
                },
                None => return,
            }
        }
    }

    fn on_writable(&mut self, conn: &Conn) {
        let is_wanted = with_socket(conn, |socket| {
            let result = socket.ws.flush();
            socket.settle(result);
            !socket.is_held && socket.ws.can_write() && std::mem::take(&mut socket.was_refused)
        });
        if is_wanted == Some(true) {
            self.handler.on_writable(conn);
        }
    }

    fn on_close(&mut self, conn: &Conn) {
        self.handler.on_close(conn);
        // It holds the connection, which holds it.
        let socket = conn.user().take();
        drop(socket);
    }

    fn on_drain(&mut self, worker: &Worker) {
        self.is_draining = true;
        let _ = worker.each_conn(|conn| {
            close(conn, 1001, "");
            true
        });
    }
}

fn ping_all(worker: &Worker) {
    let _ = worker.each_conn(|conn| {
        // Nothing is read of one that is held, so its pong is not seen; the setting write-timeout watches it.
        let is_dead =
            with_socket(conn, |socket| !socket.is_held && std::mem::replace(&mut socket.is_silent, true));
        match is_dead {
            Some(true) => close(conn, 1011, "no answer to a ping"),
            Some(false) => drop(send(conn, Message::Ping(Default::default()))),
            None => {}
        }
        true
    });
}
