//! WebSocket (RFC 6455), the server's side, for streams of prefork, by the crate `tungstenite`: one file, to be copied.
//! `websocket.rs` and `chat.rs` use it.
//!
//! It does: the handshake; fragments, control frames between them, masks; UTF-8; a limit of the message (1009); close codes, the
//! close of either side; pings, and the end of clients that do not answer; clients that read too slowly, of whom nothing more is read
//! until they have taken what was sent.
//!
//! When its worker drains, for instance in a reload, a connection goes to another worker in the middle of whatever was sent, and its
//! client sees nothing. One that has more than 60,000 bytes of a message so far, or waiting, stays until it has not. When the server
//! stops, and if the handler does not give it away, it is closed with 1001.
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

    /// The connection goes to another worker: gives up what is kept of it, and returns what is needed there. `None`: it is closed with
    /// 1001. If it goes, [`WebSocketHandler::on_close`] is not called.
    fn on_handover(&mut self, _conn: &Conn) -> Option<Vec<u8>> {
        None
    }

    /// The version of what [`WebSocketHandler::on_handover`] returns.
    fn version(&self) -> u32 {
        1
    }

    /// A connection has come from another worker, which may run another version of this code. An error has it go back.
    fn on_takeover(&mut self, _conn: &Conn, _version: u32, _state: &[u8]) -> Result<(), String> {
        Err("it takes none over".into())
    }
}

/// The version of what goes to another worker of a connection.
const STATE: u32 = 1;
/// The most bytes of that, but for the handler's: less than the setting `max-state`.
const MOST: usize = 60_000;
/// Bits of what goes to another worker.
const IS_LAST: u8 = 1;
const WAS_REFUSED: u8 = 2;
const IS_OVER: u8 = 4;
const IS_SILENT: u8 = 8;

/// The handler of prefork for a [`WebSocketHandler`].
pub struct WebSockets<H> {
    pub handler: H,
    /// The most bytes of a message, of all its fragments together; and of one that is sent. Less than the setting `max-pending`, by 150.
    pub max_message: usize,
    /// A client is pinged each time this has passed, and dropped if it has sent nothing until the next time. Zero: never. At a change
    /// of the worker the time may be a quarter longer or shorter.
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
        if socket.can_write() {
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

/// The bytes of a connection, as tungstenite reads and writes them. What it has read and written cannot be had from it, so it gets one
/// frame at a time, and no byte beyond: what it has of a message is kept here too, to be read again in another worker.
struct Bytes {
    conn: Rc<Conn>,
    /// The bytes of the frame in progress that it has not read.
    left: u64,
    /// That frame is of a message; it is the last one of it.
    is_data: bool,
    is_last: bool,
    /// What it has read of a message that is not complete; empty if that is more than [`MOST`].
    message: Vec<u8>,
    is_large: bool,
    /// What it is to read again of that.
    again: Vec<u8>,
    /// Frames that wait for room; meanwhile nothing is read.
    held: Vec<u8>,
}

impl Bytes {
    fn new(conn: Rc<Conn>) -> Self {
        let [message, again, held] = [const { Vec::new() }; 3];
        Self { conn, left: 0, is_data: false, is_last: false, message, is_large: false, again, held }
    }

    fn is_between_messages(&self) -> bool {
        self.left == 0 && self.message.is_empty() && !self.is_large
    }

    /// How much of what has arrived may be read now. A head, and a control frame, are read when they are whole.
    fn readable(&mut self) -> usize {
        let data = self.conn.data();
        if self.left == 0 {
            let &[first, second, ..] = &*data else { return 0 };
            let more = [0, 2, 8][(second & 127).saturating_sub(125) as usize];
            let head = 2 + more + if second & 128 == 0 { 0 } else { 4 };
            let Some(number) = data.get(2..2 + more).filter(|_| data.len() >= head) else { return 0 };
            let size = number.iter().fold(0, |size, byte| size << 8 | u64::from(*byte));
            let size = if more == 0 { u64::from(second & 127) } else { size };
            let whole = size.saturating_add(head as u64);
            self.is_data = first & 8 == 0;
            if !self.is_data && more == 0 && (data.len() as u64) < whole {
                return 0;
            }
            (self.left, self.is_last) = (whole, first & 128 != 0);
        }
        data.len().min(usize::try_from(self.left).unwrap_or(usize::MAX))
    }

    fn note(&mut self, bytes: &[u8]) {
        self.left -= bytes.len() as u64;
        if !self.is_data {
            return;
        }
        self.is_large = self.is_large || self.message.len() + bytes.len() > MOST;
        if self.is_large {
            self.message = Vec::new();
        } else {
            self.message.extend(bytes);
        }
        if self.left == 0 && self.is_last {
            (self.message, self.is_large) = (Vec::new(), false);
        }
    }
}

impl Read for Bytes {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if !self.again.is_empty() {
            let n = self.again.len().min(buf.len());
            buf[..n].copy_from_slice(&self.again[..n]);
            self.again.drain(..n);
            return Ok(n);
        }
        let most = self.readable().min(buf.len());
        if most == 0 {
            return if self.conn.at_end() { Ok(0) } else { Err(WouldBlock.into()) };
        }
        let n = self.conn.read(&mut buf[..most])?;
        self.note(&buf[..n]);
        Ok(n)
    }
}

impl Write for Bytes {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.held.is_empty().then(|| self.conn.write(bytes)) {
            Some(Err(e)) if e.kind() != io::ErrorKind::OutOfMemory => return Err(e),
            Some(Ok(())) => {}
            _ => self.held.extend(bytes),
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A connection, in [`Conn::user`].
struct Socket {
    ws: WebSocket<Bytes>,
    max_message: usize,
    /// [`Unsent::Full`] was returned.
    was_refused: bool,
    /// A close waits in another worker's frames: nothing may follow.
    is_over: bool,
    /// A ping was sent, and nothing has come since.
    is_silent: bool,
    /// The quarters of the time between two pings that have passed since.
    ticks: u8,
    /// It was too large to go to another worker, and goes when it is not.
    is_late: bool,
}

impl Socket {
    fn new(bytes: Bytes, max_message: usize) -> Self {
        let config = WebSocketConfig::default()
            .read_buffer_size(4096)
            .write_buffer_size(0)
            .max_message_size(Some(max_message))
            .max_frame_size(Some(max_message));
        let ws = WebSocket::from_raw_socket(bytes, Role::Server, Some(config));
        let (was_refused, is_over, is_silent, is_late) = (false, false, false, false);
        Self { ws, max_message, was_refused, is_over, is_silent, ticks: 0, is_late }
    }

    fn is_held(&self) -> bool {
        !self.ws.get_ref().held.is_empty()
    }

    fn can_write(&self) -> bool {
        !self.is_over && self.ws.can_write()
    }

    fn send(&mut self, message: Message) -> Result<(), Unsent> {
        if !self.can_write() {
            return Err(Unsent::Gone);
        }
        if self.is_held() {
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
        if !self.is_held() && (result.is_err() || !self.can_write()) {
            self.ws.get_ref().conn.close();
        }
    }

    /// There may be room for what is held.
    fn write_held(&mut self) {
        let bytes = self.ws.get_mut();
        let is_full =
            matches!(bytes.conn.write(&bytes.held), Err(e) if e.kind() == io::ErrorKind::OutOfMemory);
        if !is_full {
            bytes.held = Vec::new();
            self.settle(Ok(()));
        }
    }

    /// True if it stayed because it was too large, and can go now.
    fn goes_late(&self) -> bool {
        self.is_late && self.ws.get_ref().is_between_messages() && !self.is_held()
    }

    /// What goes to another worker, in front of the handler's bytes.
    fn state(&self, version: u32) -> Vec<u8> {
        let bytes = self.ws.get_ref();
        let flags = [(bytes.is_last, IS_LAST), (self.was_refused, WAS_REFUSED), (self.is_silent, IS_SILENT)];
        let flags = flags.iter().map(|(is_set, bit)| if *is_set { *bit } else { 0 }).sum::<u8>();
        let mut state = vec![flags | if self.can_write() { 0 } else { IS_OVER }, self.ticks];
        state.extend(version.to_le_bytes());
        state.extend(bytes.left.to_le_bytes());
        for run in [&bytes.message, &bytes.held] {
            state.extend((run.len() as u32).to_le_bytes());
            state.extend(run);
        }
        state
    }

    /// Goes on with what another worker has written down. Returns the handler's version and bytes.
    fn restore(bytes: Bytes, max_message: usize, state: &[u8]) -> Option<(Self, u32, &[u8])> {
        let (&[flags, ticks], rest) = state.split_first_chunk()?;
        let (version, rest) = rest.split_first_chunk()?;
        let (left, mut rest) = rest.split_first_chunk()?;
        let mut run = || {
            let (size, behind) = rest.split_first_chunk()?;
            let (run, behind) = behind.split_at_checked(u32::from_le_bytes(*size) as usize)?;
            rest = behind;
            Some(run.to_vec())
        };
        let (message, held) = (run()?, run()?);
        let (left, is_last) = (u64::from_le_bytes(*left), flags & IS_LAST != 0);
        let bytes = Bytes { again: message.clone(), message, held, left, is_data: true, is_last, ..bytes };
        let socket = Self {
            was_refused: flags & WAS_REFUSED != 0,
            is_over: flags & IS_OVER != 0,
            is_silent: flags & IS_SILENT != 0,
            ticks,
            ..Self::new(bytes, max_message)
        };
        Some((socket, u32::from_le_bytes(*version), rest))
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

    fn start(&mut self, worker: &Worker) -> Result<(), Box<dyn std::error::Error>> {
        if !self.ping.is_zero() {
            worker.every(self.ping.max(Duration::from_millis(4)) / 4, ping_all).ok_or("no timer")?;
        }
        Ok(())
    }

    fn on_request(&mut self, req: &Request<'_>, res: &mut Response) {
        self.handler.on_request(req, res);
    }

    fn on_open(&mut self, conn: &Conn) {
        let Some(shared) = Worker::current().and_then(|worker| worker.conn(conn.id())) else { return };
        let socket = Socket::new(Bytes::new(shared), self.max_message);
        let user = conn.user().replace(Box::new(socket));
        self.handler.on_open(conn, user);
        // By a handshake that was in progress when the stop began.
        if self.is_draining && !Worker::current().is_some_and(Worker::hands_over) {
            close(conn, 1001, "");
        }
    }

    fn on_data(&mut self, conn: &Conn) {
        loop {
            let next = with_socket(conn, |socket| {
                socket.is_silent = false;
                // What is held is sent first; and the other worker goes on with the next message.
                (!socket.is_held() && socket.can_write() && !socket.goes_late()).then(|| socket.ws.read())
            });
            match next.flatten() {
                Some(Ok(message @ (Message::Text(_) | Message::Binary(_)))) => {
                    self.handler.on_message(conn, message);
                    if with_socket(conn, |socket| socket.goes_late()) == Some(true) {
                        conn.transfer(0);
                    }
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
            socket.write_held();
            if socket.goes_late() {
                conn.transfer(0);
            }
            !socket.is_held() && socket.can_write() && std::mem::take(&mut socket.was_refused)
        });
        if is_wanted == Some(true) {
            self.handler.on_writable(conn);
        }
    }

    fn state_version(&self) -> u32 {
        STATE
    }

    fn on_handover(&mut self, conn: &Conn) -> Option<Vec<u8>> {
        let mut state = with_socket(conn, |socket| {
            let bytes = socket.ws.get_ref();
            socket.is_late = bytes.is_large || bytes.message.len() + bytes.held.len() > MOST;
            (!socket.is_late).then(|| socket.state(self.handler.version()))
        })??;
        let Some(users) = self.handler.on_handover(conn) else {
            if self.is_draining {
                close(conn, 1001, "");
            }
            return None;
        };
        state.extend(users);
        Some(state)
    }

    fn on_takeover(&mut self, conn: &Conn, version: u32, state: &[u8]) -> Result<(), String> {
        let shared = Worker::current().and_then(|worker| worker.conn(conn.id())).ok_or("it has gone")?;
        let restored = Socket::restore(Bytes::new(shared), self.max_message, state);
        let (socket, users_version, users) =
            restored.filter(|_| version == STATE).ok_or_else(|| format!("state of version {version}"))?;
        let former = conn.user().replace(Box::new(socket));
        drop(former);
        self.handler.on_takeover(conn, users_version, users)
    }

    fn on_close(&mut self, conn: &Conn) {
        self.handler.on_close(conn);
        // It holds the connection, which holds it.
        let socket = conn.user().take();
        drop(socket);
    }

    fn on_drain(&mut self, worker: &Worker) {
        self.is_draining = true;
        leave_all(worker);
        // A stop may begin while this worker waits for the rest of a message.
        worker.every(Duration::from_millis(100), leave_all);
    }
}

/// Those that no other worker goes on with are told to go.
fn leave_all(worker: &Worker) {
    if !worker.hands_over() {
        let _ = worker.each_conn(|conn| {
            close(conn, 1001, "");
            true
        });
    }
}

fn ping_all(worker: &Worker) {
    let _ = worker.each_conn(|conn| {
        // Nothing is read of one that is held, so its pong is not seen; the setting write-timeout watches it.
        let is_dead = with_socket(conn, |socket| {
            socket.ticks += u8::from(!socket.is_held());
            let is_due = socket.ticks == 4;
            socket.ticks %= 4;
            is_due.then(|| std::mem::replace(&mut socket.is_silent, true))
        });
        match is_dead.flatten() {
            Some(true) => close(conn, 1011, "no answer to a ping"),
            Some(false) => drop(send(conn, Message::Ping(Default::default()))),
            None => {}
        }
        true
    });
}
