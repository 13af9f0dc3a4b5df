//! Messages and replies that arrive for a worker: the calls of its handler with them.

use super::call::Context;
use super::failure::report_panic;
use super::messages::WorkerMessages;
use super::this_worker::Worker;
use crate::message::{Address, Envelope, Message, Purpose, Room, Undelivered};
use crate::sys::time::Time;

impl WorkerMessages {
    /// Ends the requests whose deadline had come at this time.
    pub fn expire(&self, at: Time, cx: &mut Context<'_>) {
        // All before the first is called: the callback may send requests.
        let expired = self.requests.borrow_mut().take_expired(at, None);
        for call in expired {
            report_panic("on_reply", cx.call("on_reply", |_| call(Err(Undelivered::TimedOut))));
        }
    }

    /// Ends the requests to a receiver that has ended; all requests if it is the master, which routes them.
    pub fn end_requests_to(&self, receiver: Address, cx: &mut Context<'_>) {
        if let Address::Worker(id) = receiver {
            self.overflowing.borrow_mut().remove(&id);
        }
        let only_to = (receiver != Address::Master).then_some(receiver);
        let ended = self.requests.borrow_mut().take_all(only_to);
        for call in ended {
            report_panic("on_reply", cx.call("on_reply", |_| call(Err(Undelivered::Gone))));
        }
    }

    /// Calls the handler with a message, or the callback of the request that it answers.
    pub fn deliver(&self, worker: &Worker, envelope: Envelope, bytes: &[u8], cx: &mut Context<'_>) {
        match envelope.purpose {
            Purpose::Message | Purpose::Request => {
                self.unanswered.set(Some(envelope).filter(|e| e.purpose == Purpose::Request));
                let message = Message::new(envelope, bytes);
                report_panic(
                    "on_message",
                    cx.call("on_message", |handler| handler.on_message(worker, &message)),
                );
                if let Some(request) = self.unanswered.take() {
                    let reason = [Undelivered::Unanswered as u8];
                    // Lost if the master is gone, like everything from now on.
                    let _ = self.send(&request.answer(Purpose::Failure), &reason, Room::Ignored);
                }
            }
            Purpose::Publication => worker.deliver_publication(envelope, bytes),
            Purpose::Reply | Purpose::Failure => {
                let pending = self.requests.borrow_mut().take_answered(envelope.request, envelope.from);
                let failed = envelope.purpose == Purpose::Failure;
                let result = if failed { Err(Undelivered::from_bytes(bytes)) } else { Ok(bytes) };
                // A request that is no longer pending has timed out.
                if let Some(call) = pending {
                    report_panic("on_reply", cx.call("on_reply", |_| call(result)));
                }
            }
        }
    }
}
