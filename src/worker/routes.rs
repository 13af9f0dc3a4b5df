//! Handlers for single listeners, beside the worker's own handler: each callback about a client goes to the handler of its listener.

use super::conn::Conn;
use super::datagram::Datagram;
use super::handler::Handler;
use super::http::handle::Later;
use super::http::request::Request;
use super::http::response::Response;
use super::http::upload::Take;
use super::this_worker::{Served, Worker};
use crate::event::{Kind, WorkerState};
use crate::message::Message;
use std::cell::RefCell;
use std::ffi::CString;

/// The handler for the listeners of a name.
struct Route {
    name: CString,
    handler: Box<dyn Handler>,
}

thread_local! {
    /// Those of the worker that starts.
    static ROUTES: RefCell<Vec<Route>> = const { RefCell::new(Vec::new()) };
}

impl Worker {
    /// Has another handler serve the listeners of this name (`--listen NAME=ADDRESS`), in its own style; only in
    /// [`crate::Handler::start`]. Of its methods those about connections, requests and datagrams are called; messages, the drain and
    /// the stop are for the worker's own handler. The last one for a name serves it.
    ///
    /// # Errors
    /// What was expected: that there is a listener of this name ([`Worker::listener_name`] finds out), that the worker starts, and that
    /// neither handler is of the blocking style, which has the worker to itself.
    pub fn serve(&self, listener: &str, handler: impl Handler + 'static) -> Result<(), String> {
        self.serve_boxed(listener, Box::new(handler))
            .map_err(|refused| format!("serve {listener:?}: {}", refused.text()))
    }

    pub(crate) fn served(&self, index: usize) -> Option<&Served> {
        self.info.listeners.get(index)
    }

    pub(crate) fn serve_boxed(&self, listener: &str, handler: Box<dyn Handler>) -> Result<(), Unserved> {
        if Self::current().is_none() || self.state.get() != WorkerState::Starting {
            return Err(Unserved::Late);
        }
        if handler.kind() == Kind::Blocking {
            return Err(Unserved::Blocking);
        }
        let name = CString::new(listener).unwrap_or_default();
        if name.is_empty() || !self.info.listeners.iter().any(|served| served.name == name) {
            return Err(Unserved::NoListener);
        }
        ROUTES.with_borrow_mut(|routes| routes.push(Route { name, handler }));
        Ok(())
    }

    /// The name of a listener, by its index from 0 in the order of the settings ([`crate::Request::listener`]); empty if it has none, or
    /// if there is no such listener.
    pub fn listener_name(&self, index: u16) -> &str {
        self.served(index.into()).and_then(|served| served.name.to_str().ok()).unwrap_or_default()
    }
}

/// The reason why a handler cannot serve a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unserved {
    Late,
    Blocking,
    NoListener,
}

impl Unserved {
    pub(crate) fn text(self) -> &'static str {
        match self {
            Self::Late => "possible in the start of a worker only",
            Self::Blocking => "a handler in blocking style serves all listeners or none",
            Self::NoListener => "no listener has this name: add --listen NAME=ADDRESS",
        }
    }
}

/// A handler made of several.
struct Routes {
    /// The worker's own first.
    handlers: Vec<Box<dyn Handler>>,
    /// By listener.
    indexes: Vec<usize>,
}

/// Forgets the handlers of a worker that has not started.
pub(super) fn forget() {
    ROUTES.take();
}

/// Makes one handler of the worker's own and of those for single listeners.
///
/// # Errors
/// What the handler of a listener lacks.
pub(super) fn join(own: Box<dyn Handler>, worker: &Worker) -> Result<Box<dyn Handler>, String> {
    let handler = join_leniently(own, worker)?;
    for (i, served) in worker.info.listeners.iter().enumerate() {
        let (i, address) = (i as u16, &served.address);
        if served.takes_datagrams && !handler.takes_datagrams_at(i) {
            return Err(format!("listen {address}: the handler has no on_datagram"));
        }
        if !served.takes_datagrams && handler.kind_at(i) == Kind::Datagram {
            return Err(format!(
                "listen {address}: the handler has on_datagram only: listen on udp:HOST:PORT"
            ));
        }
    }
    Ok(handler)
}

/// As [`join`], whatever the handlers lack for the listeners.
///
/// # Errors
/// Why the handlers cannot be together.
pub(super) fn join_leniently(own: Box<dyn Handler>, worker: &Worker) -> Result<Box<dyn Handler>, String> {
    let (routes, listeners) = (ROUTES.take(), &worker.info.listeners);
    Ok(if routes.is_empty() {
        own
    } else {
        if own.kind() == Kind::Blocking {
            return Err(format!("serve {:?}: {}", routes[0].name, Unserved::Blocking.text()));
        }
        let index =
            |name: &CString| routes.iter().rposition(|route| route.name == *name).map_or(0, |at| at + 1);
        let indexes = listeners.iter().map(|served| index(&served.name)).collect();
        let others = routes.into_iter().map(|route| route.handler);
        Box::new(Routes { handlers: [own].into_iter().chain(others).collect(), indexes })
    })
}

impl Routes {
    fn at(&mut self, listener: u16) -> &mut dyn Handler {
        &mut *self.handlers[self.indexes.get(usize::from(listener)).copied().unwrap_or(0)]
    }

    fn seen_at(&self, listener: u16) -> &dyn Handler {
        &*self.handlers[self.indexes.get(usize::from(listener)).copied().unwrap_or(0)]
    }
}

impl Handler for Routes {
    fn kind(&self) -> Kind {
        // That of the first that serves connections.
        let kinds = self.handlers.iter().map(|handler| handler.kind());
        kinds.clone().find(|kind| *kind != Kind::Datagram).unwrap_or(Kind::Datagram)
    }

    fn kind_at(&self, listener: u16) -> Kind {
        self.seen_at(listener).kind()
    }

    fn is_same_everywhere(&self) -> bool {
        false
    }

    fn takes_datagrams_at(&self, listener: u16) -> bool {
        self.seen_at(listener).takes_datagrams()
    }

    fn takes_datagrams(&self) -> bool {
        self.handlers.iter().any(|handler| handler.takes_datagrams())
    }

    fn takes_streams(&self) -> bool {
        self.handlers.iter().any(|handler| handler.takes_streams())
    }

    fn stop(&mut self, worker: &Worker) {
        self.handlers[0].stop(worker);
    }

    fn on_drain(&mut self, worker: &Worker) {
        self.handlers[0].on_drain(worker);
    }

    fn on_message(&mut self, worker: &Worker, message: &Message<'_>) {
        self.handlers[0].on_message(worker, message);
    }

    fn on_request(&mut self, req: &Request<'_>, res: &mut Response) {
        let handler = self.at(req.listener());
        res.set_takes_streams(handler.takes_streams());
        handler.on_request(req, res);
    }

    fn takes_heads(&self) -> bool {
        self.handlers.iter().any(|handler| handler.takes_heads())
    }

    fn on_head(&mut self, req: &Request<'_>, res: &mut Response) -> Take {
        let handler = self.at(req.listener());
        if !handler.takes_heads() {
            return Take::Whole;
        }
        res.set_takes_streams(handler.takes_streams());
        handler.on_head(req, res)
    }

    fn on_body(&mut self, req: &Request<'_>, piece: &[u8], last: bool) {
        self.at(req.listener()).on_body(req, piece, last);
    }

    fn on_connection(&mut self, conn: &Conn) {
        self.at(conn.listener()).on_connection(conn);
    }

    fn on_open(&mut self, conn: &Conn) {
        self.at(conn.listener()).on_open(conn);
    }

    fn on_data(&mut self, conn: &Conn) {
        self.at(conn.listener()).on_data(conn);
    }

    fn on_writable(&mut self, conn: &Conn) {
        self.at(conn.listener()).on_writable(conn);
    }

    fn state_version(&self) -> u32 {
        self.handlers[0].state_version()
    }

    fn state_version_at(&self, listener: u16) -> u32 {
        self.seen_at(listener).state_version()
    }

    fn on_handover(&mut self, conn: &Conn) -> Option<Vec<u8>> {
        self.at(conn.listener()).on_handover(conn)
    }

    fn write_state(&mut self, conn: &Conn, room: usize) -> Option<Vec<u8>> {
        self.at(conn.listener()).write_state(conn, room)
    }

    fn on_takeover(&mut self, conn: &Conn, version: u32, state: &[u8]) -> Result<(), String> {
        self.at(conn.listener()).on_takeover(conn, version, state)
    }

    fn on_resume_at(&mut self, listener: u16, res: Later, version: u32, state: &[u8]) -> Result<(), String> {
        self.at(listener).on_resume(res, version, state)
    }

    fn on_close(&mut self, conn: &Conn) {
        self.at(conn.listener()).on_close(conn);
    }

    fn on_datagram(&mut self, datagram: &Datagram<'_>) {
        self.at(datagram.listener()).on_datagram(datagram);
    }
}
