//! Notices and messages of workers to the master: carried by the router, acted on here.

use super::lifecycle::Input;
use super::router::RouterEvent;
use super::{Master, News};
use crate::event::Kind;
use crate::ids::{Page, WorkerId};
use crate::log::log;
use crate::message::{Budget, Notice};
use crate::sys::signal::SIGKILL;

/// The budget for messages in a turn that accepts nothing: a connection that comes meanwhile waits for it, about as long as for one or
/// two others.
const BUDGET: Budget = Budget::new(32 * 1024, 64);
/// The budget in a turn that accepts: less work than a connection, so that accepting comes first, and not nothing, so that messages
/// pass however many clients there are.
const BUDGET_WHILE_ACCEPTING: Budget = Budget::new(8 * 1024, 4);

impl Master {
    /// Carries messages, and acts on those to the master.
    pub(super) fn carry_messages(&mut self, connections_wait: bool) {
        let mut budget = if connections_wait { BUDGET_WHILE_ACCEPTING } else { BUDGET };
        while let Some(event) = self.messages.carry(&mut budget, self.clock.now) {
            self.act_on(event);
        }
    }

    fn act_on(&mut self, event: RouterEvent) {
        match event {
            RouterEvent::Notice(id, notice) => self.act_on_notice(id, notice),
            RouterEvent::Message(envelope, bytes) => {
                self.report_message(WorkerId(envelope.from.into()), envelope.kind, bytes.len());
                self.report.news.push_back(News::Message(envelope, bytes));
            }
            RouterEvent::Reply(call, result) => self.report.news.push_back(News::Reply(call, result)),
            RouterEvent::Broken(id, e) => {
                if let Some(worker) = self.pool.workers.get_mut(id) {
                    worker.failure = Some(format!("unreadable message ({e})"));
                }
                self.signal(id, SIGKILL);
            }
            // The worker is about to end, and the signal comes too late to change its exit status. If it is not, it must: nothing can
            // be sent to it any more.
            RouterEvent::Closed(id) => self.signal(id, SIGKILL),
            RouterEvent::Overflowing(id) => log!(
                Warn,
                "worker {id} has taken no message for 3 s and its queue is full: messages to it are dropped until it does"
            ),
        }
    }

    fn act_on_notice(&mut self, id: WorkerId, notice: Notice) {
        let Some(worker) = self.pool.workers.get_mut(id) else { return };
        match notice {
            // Too late if SIGKILL is on its way.
            Notice::Ready { .. } if !self.lifecycle.is_starting(id) => {}
            Notice::Ready { kind, limit } => {
                let kind = Kind::from_number(kind).unwrap_or(Kind::Request);
                worker.kind = Some(kind);
                worker.limit = if kind == Kind::Blocking { 1 } else { limit.clamp(1, self.config.max_conns) };
                self.report.kinds =
                    (0..self.pool.listeners.len()).filter_map(|i| worker.kind_at(i)).collect();
                self.report.kind = kind;
                self.defer_accept();
                self.feed(Input::Ready(id));
            }
            Notice::Serves { takes_requests } => worker.takes_requests = Some(takes_requests),
            Notice::Online => self.report_online(id),
            Notice::Failed(text) => worker.failure = Some(text),
            Notice::Leaving => self.feed(Input::Leaving(id)),
            Notice::TookOver { giver, count } => self.pool.streams.took_over(giver, id, count),
            Notice::GaveBack => {
                if let Some(drain) = &mut worker.drain {
                    drain.settled = true;
                }
            }
            other => log!(Warn, "worker {id}: unexpected notice {other:?}; ignored"),
        }
    }

    /// Notes that the poll has reported the message channel of a page's worker.
    pub(super) fn mark_channel(&mut self, page: Page) {
        if let Some(worker) = self.pool.workers.at(page) {
            self.messages.router().mark(worker.id);
        }
    }

    /// Tells workers of the streams that they have given away, and that will not come back.
    pub(super) fn tell_settled(&mut self) {
        for (giver, count) in self.pool.streams.settled.drain(..) {
            // It may have ended.
            let _ = self.messages.router().notify(giver, &Notice::Settled(count));
        }
    }

    /// Carries the last messages of a worker that has been reaped, then closes its channel.
    pub(super) fn close_channel(&mut self, id: WorkerId) {
        self.messages.router().read_rest(id);
        self.carry_messages(false);
        self.messages.router().remove(id, &self.poll);
    }
}
