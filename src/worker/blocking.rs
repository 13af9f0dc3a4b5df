//! The worker's loop for handlers in blocking style: one connection after the other.

use super::conn::{Conn, Style};
use super::datagram::DatagramEngine;
use super::engine::Context;
use super::events::{DATAGRAMS, LAST_DATAGRAMS};
use super::handler::Handler;
use super::inlet::{CHANNEL, Inlet, LEAVE};
use crate::config::Config;
use crate::scoreboard::Word;
use crate::sys::time;
use mio::{Events, Poll};
use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

/// How often a worker without a free descriptor looks for one.
const STARVING: Duration = Duration::from_millis(100);

/// Serves connections until the worker is told to leave.
///
/// # Errors
/// Where the poll fails.
pub fn serve(
    handler: &mut dyn Handler,
    config: &Config,
    inlet: &mut Inlet<'_>,
    poll: &mut Poll,
) -> io::Result<()> {
    let mut events = Events::with_capacity(4);
    let mut one = One { handler, config, conn: None, datagrams: DatagramEngine::new(), count: 0 };
    while inlet.draining.is_none() {
        inlet.mind_doors(true, poll, time::monotonic_ms());
        inlet.settle(poll, &mut context(one.handler, config, inlet));
        match poll.poll(&mut events, sleep(inlet)) {
            Err(e) if e.kind() != io::ErrorKind::Interrupted => return Err(e),
            Err(_) => events.clear(),
            Ok(()) => {}
        }
        let now = time::monotonic_ms();
        if events.iter().any(|e| e.token() == LEAVE) {
            inlet.asked_to_leave(poll, now);
        }
        if inlet.has_more() || events.iter().any(|e| e.token() == CHANNEL) {
            inlet.listen(poll, &mut context(one.handler, config, inlet));
        }
        for event in &events {
            if let Some(door) = inlet.door(event.token())
                && !one.read(door, DATAGRAMS, inlet, poll)
            {
                one.accept(door, inlet, poll);
            }
        }
        inlet.leave_if_due(now);
        // Also when only the master's word came: what lies in the queue was accepted and is to be served.
        if let Some((fd, origin)) = inlet.take(poll, now) {
            one.serve(fd, origin.listener, inlet);
        }
    }
    // A panic there is the handler's affair; what was accepted is served all the same.
    let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| one.handler.on_drain(inlet.worker)));
    while let Some((fd, origin)) = inlet.take(poll, time::monotonic_ms()) {
        one.serve(fd, origin.listener, inlet);
    }
    for door in inlet.doors() {
        if inlet.is_last_at(door) && !one.read(door, LAST_DATAGRAMS, inlet, poll) {
            (0..config.backlog).take_while(|_| one.accept(door, inlet, poll)).for_each(drop);
        }
    }
    inlet.leave_doors(poll, time::monotonic_ms());
    Ok(())
}

/// How long nothing is to be done unless the poll says so.
fn sleep(inlet: &Inlet<'_>) -> Option<Duration> {
    let due = inlet.due().map(|at| Duration::from_millis(at.saturating_sub(time::monotonic_ms())));
    let nap = match inlet.leave_due() {
        Some(0) => Some(Duration::ZERO),
        due => (inlet.starves() || due.is_some()).then_some(STARVING),
    };
    due.into_iter().chain(nap).min()
}

struct One<'a> {
    handler: &'a mut dyn Handler,
    config: &'a Config,
    conn: Option<Conn>,
    datagrams: DatagramEngine,
    count: u64,
}

impl One<'_> {
    fn accept(&mut self, door: usize, inlet: &mut Inlet<'_>, poll: &Poll) -> bool {
        let accepted = inlet.accept(door, poll, time::monotonic_ms());
        let found = accepted.is_some();
        if let Some((fd, listener)) = accepted {
            self.serve(fd, listener, inlet);
        }
        found
    }

    /// Serves datagrams, where the door has them.
    fn read(&mut self, index: usize, most: u32, inlet: &Inlet<'_>, poll: &Poll) -> bool {
        let Some(door) = inlet.datagrams(index) else { return false };
        let mut cx = context(self.handler, self.config, inlet);
        self.datagrams.serve(door, inlet.worker, most, &mut cx);
        inlet.step_back(index, poll);
        true
    }

    fn serve(&mut self, fd: OwnedFd, listener: u16, inlet: &mut Inlet<'_>) {
        self.count += 1;
        let (id, page) = (self.count, inlet.page);
        let style = Style::blocking(self.config);
        let conn = match &mut self.conn {
            Some(conn) => {
                conn.renew(fd, id, listener);
                conn
            }
            none => none.insert(Conn::new(fd, id, listener, style, page)),
        };
        let mut cx = context(self.handler, self.config, inlet);
        let result = cx.call(|handler| handler.on_connection(conn));
        page.add(if result.is_some() { Word::Requests } else { Word::Errors }, 1);
        conn.drop_unread();
        conn.end();
        inlet.finished(1);
    }
}

fn context<'a>(handler: &'a mut dyn Handler, config: &'a Config, inlet: &Inlet<'_>) -> Context<'a> {
    let (now, draining) = (time::monotonic_ms(), inlet.draining.is_some());
    Context { handler, config, page: inlet.page, now, draining }
}
