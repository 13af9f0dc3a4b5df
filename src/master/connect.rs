//! The master's calls to owners that know nothing of it: the router, the capture of standard error, the control server.

use super::lifecycle::Input;
use super::router::RouterEvent;
use super::{Master, News, Token, tokens};
use crate::Kind;
use crate::event::Status;
use crate::ids::{Page, WorkerId};
use crate::log::log;
use crate::message::{Budget, Notice};
use crate::sys::signal;
use crate::sys::time::Time;
use mio::Events;

/// The budget for messages in a turn without connections to accept.
const AT_EASE: Budget = Budget::new(128 * 1024, 128);
/// The budget in a turn with one: about as much work as the connection.
const IN_HASTE: Budget = Budget::new(16 * 1024, 4);

/// A command of a client of the control socket.
#[cfg_attr(not(feature = "control"), allow(dead_code, reason = "the control server makes them"))]
pub enum Command {
    /// Return [`Answer::Status`].
    Status,
    /// Replace all workers.
    Reload,
    /// Run this many workers.
    Scale(usize),
    /// Have a worker finish and leave.
    Drain(WorkerId),
    /// Stop the server; `now`: at once.
    Stop { now: bool },
}

/// The answer to a [`Command`]. An accepted one has its outcome in a later event.
#[cfg_attr(not(feature = "control"), allow(dead_code, reason = "the control server reads them"))]
pub enum Answer {
    Accepted,
    Refused(String),
    Status(Box<Status>),
}

impl Master {
    /// Carries messages, and acts on what workers say.
    pub(super) fn carry_messages(&mut self, connections_wait: bool) {
        let mut budget = if connections_wait { IN_HASTE } else { AT_EASE };
        while let Some(event) = self.messages.carry(&mut budget, Time::from_millis(self.now)) {
            self.act_on(event);
        }
    }

    /// The time at which one of these owners has something to do even if the poll reports nothing (0: at once).
    pub(super) fn owners_due(&self) -> u64 {
        self.messages.router().due().min(self.control.due()).as_millis()
    }

    /// Executes the commands of clients of the control socket.
    pub(super) fn serve_control(&mut self, events: &Events) {
        let now = Time::from_millis(self.now);
        self.control.serve(events, &self.poll, now);
        while let Some((client, command)) = self.control.next_command(&self.lifecycle, &self.poll, now) {
            let answer = self.execute_command(command);
            self.control.answer(client, answer, &self.lifecycle, now);
        }
    }

    fn execute_command(&mut self, command: Command) -> Answer {
        let done = match command {
            Command::Status => return Answer::Status(Box::new(self.status())),
            Command::Reload => self.reload(),
            Command::Scale(workers) => self.scale(workers),
            Command::Drain(id) => self.drain_worker(id.0, None),
            Command::Stop { now } => {
                // A second stop means at once, so it is not repeated unless that is asked for.
                if now || !self.lifecycle.is_stopping() {
                    self.stop();
                }
                if now {
                    self.stop();
                }
                Ok(())
            }
        };
        done.map_or_else(|e| Answer::Refused(e.to_string()), |()| Answer::Accepted)
    }

    fn act_on(&mut self, event: RouterEvent) {
        match event {
            RouterEvent::Notice(id, notice) => self.heard(id.0, notice),
            RouterEvent::Message(envelope, bytes) => {
                self.report_message(envelope.from.into(), envelope.kind, bytes.len());
                self.report.add(News::Message(envelope, bytes));
            }
            RouterEvent::Reply(call, result) => self.report.add(News::Reply(call, result)),
            RouterEvent::Broken(WorkerId(id), e) => {
                if let Some(worker) = self.crew.find(id) {
                    worker.failure = Some(format!("unreadable message ({e})"));
                    let _ = worker.process.kill(signal::SIGKILL);
                }
            }
            // The worker is about to end. If it is not, nothing could be sent to it any more; and if it is, the signal comes
            // too late to change its exit status.
            RouterEvent::Closed(WorkerId(id)) => {
                if let Some(worker) = self.crew.find(id) {
                    let _ = worker.process.kill(signal::SIGKILL);
                }
            }
            RouterEvent::Overflowing(id) => log!(
                "worker {id} has taken no message for 3 s and its queue is full: messages to it are dropped until it does"
            ),
        }
    }

    fn heard(&mut self, id: u32, notice: Notice) {
        let Some(worker) = self.crew.find(id) else { return };
        match notice {
            // Too late if SIGKILL is on its way.
            Notice::Ready { .. } if !self.lifecycle.is_starting(id) => {}
            Notice::Ready { kind, limit } => {
                let kind = Kind::from_number(kind).unwrap_or(Kind::Request);
                worker.kind = Some(kind);
                worker.limit =
                    if kind == Kind::Connection { 1 } else { limit.clamp(1, self.config.max_conns) };
                self.kind = kind;
                self.feed(Input::Ready(id));
            }
            Notice::Online => self.report_online(id),
            Notice::Failed(text) => worker.failure = Some(text),
            Notice::Leaving => self.feed(Input::Leaving(id)),
            other => log!("worker {id}: unexpected notice {other:?}; ignored"),
        }
    }

    /// Notes that the poll has reported the channel of a seat's worker.
    pub(super) fn mark_channel(&mut self, seat: usize) {
        if let Some(worker) = self.crew.at(seat) {
            self.messages.router().mark(WorkerId(worker.id));
        }
    }

    /// Carries the last messages of a worker that has been reaped, then closes its channel.
    pub(super) fn close_channel(&mut self, id: u32) {
        self.messages.router().read_rest(WorkerId(id));
        self.carry_messages(false);
        self.messages.router().remove(WorkerId(id), &self.poll);
    }

    /// Reads the standard error of workers that the poll has reported.
    pub(super) fn read_stderr(&mut self, events: &Events) {
        for token in tokens(events) {
            if let Token::Stderr(page) = token
                && self.stderr.read(page, &self.poll)
            {
                self.refill_reserve();
            }
        }
    }

    /// The worker of a seat has ended; returns its last lines.
    pub(super) fn finish_stderr(&mut self, seat: usize) -> Vec<String> {
        let lines = self.stderr.finish(Page::at(seat), &self.poll);
        self.refill_reserve();
        lines
    }

    /// Has workers that have proved themselves restore their standard error.
    pub(super) fn release_stderr(&mut self) {
        for id in self.stderr.release(|id| self.lifecycle.is_proved(id.0)) {
            // If it has ended, it is about to be reaped.
            let _ = self.messages.router().notify(id, &Notice::RestoreStderr);
        }
    }

    /// A descriptor was closed: the reserve may lack it, or its number may be lower than one in the reserve.
    fn refill_reserve(&mut self) {
        self.fd_reserve.move_down();
        if self.shortage.is_none() {
            self.fd_reserve.refill();
        }
    }
}
