//! Connections that the kernel holds until their first bytes come (`TCP_DEFER_ACCEPT`, tcp(7)).
//!
//! The kernel ignores the end of a client's handshake, so that the connection is no socket and in no backlog, until data comes; when
//! it would send its part of the handshake again, after a second at first, it takes the client's answer to that. A listener that
//! is closed before forgets such connections, and their clients are reset: a stop waits for them.

use super::{Kind, Listener};
use crate::config::{Config, DeferAccept};
use crate::event;
use crate::log::log;
use crate::sys::sock_diag;
use crate::sys::socket::{self, Address};
use crate::sys::time::Time;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::time::Duration;

/// The time for which `auto` holds a connection: the shortest there is.
const AUTO: Duration = Duration::from_secs(1);
/// The time within which the kernel accepts the connections that it holds, once it is to hold none: until it next sends its part
/// of the handshake, and the client's answer.
const LONGEST: Duration = Duration::from_millis(1200);

/// What the kernel holds at a listener.
#[derive(Default)]
pub struct Deferral {
    /// The time that the sockets have been given since the workers have said their styles, zero for none; `None` before.
    set: Option<Duration>,
    /// True if `auto` is on: the handler takes requests.
    wanted: bool,
    /// Set in a stop, which has ended the deferral: connections may still come out until then.
    until: Option<Time>,
}

impl Listener {
    /// The time for which the kernel is to hold connections, zero for none; `None` if the option is to be left as it is.
    pub(super) fn deferral(&self, config: &Config) -> Option<Duration> {
        match (config.defer_accept, self.kind, &self.address) {
            (DeferAccept::For(wait), Kind::Tcp | Kind::Inherited, Address::Inet(_)) => Some(wait),
            (DeferAccept::Auto, Kind::Tcp, _) if self.deferral.wanted => Some(AUTO),
            (_, Kind::Tcp, _) => Some(Duration::ZERO),
            _ => None,
        }
    }

    /// Has the kernel hold connections as the handlers of all workers allow; `kinds` are their styles at this listener.
    pub fn defer_accept(&mut self, kinds: impl Iterator<Item = event::Kind>, config: &Config) {
        let mut kinds = kinds.peekable();
        self.deferral.wanted = kinds.peek().is_some() && kinds.all(|kind| kind == event::Kind::Request);
        let wait = self.deferral(config).filter(|wait| self.deferral.set != Some(*wait));
        // Workers end during a stop, too.
        if let (Some(wait), None) = (wait, self.deferral.until) {
            self.set_deferral(wait);
        }
    }

    fn set_deferral(&mut self, wait: Duration) {
        self.deferral.set = Some(wait);
        for socket in &self.sockets {
            if let Err(e) = socket::set_defer_accept(socket.fd.as_fd(), wait) {
                log!(Warn, "{self}: TCP_DEFER_ACCEPT: {e}");
            }
        }
    }

    /// For a stop: has the kernel hold no connection any more.
    pub(super) fn end_deferral(&mut self) {
        if self.deferral.set != Some(Duration::ZERO) && matches!(self.kind, Kind::Tcp) {
            self.set_deferral(Duration::ZERO);
            self.deferral.until = Some(Time::now() + LONGEST);
        }
    }

    /// In a stop: true if a connection may still come out that the kernel has held.
    pub(super) fn holds_connections(&self, now: Time) -> bool {
        // If the kernel does not tell, they may be there.
        let has_some = |inet: SocketAddr| sock_diag::has_handshakes(inet.port()).unwrap_or(true);
        self.deferral.until.is_some_and(|until| now < until) && self.inet().is_some_and(has_some)
    }
}
