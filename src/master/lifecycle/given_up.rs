//! The end of a server whose slots all stay empty: each worker has said that its configuration is wrong. A supervisor learns it by the
//! exit code; a reload that comes soon still helps.

use super::{Action, EX_CONFIG, Lifecycle};
use crate::event::Event;
use crate::sys::time::Time;
use std::time::Duration;

/// The time in which a reload may begin.
const PATIENCE: Duration = Duration::from_secs(10);

impl Lifecycle {
    /// True if no slot has a worker, or gets one before a reload, and nobody finishes anything.
    fn has_given_up(&self) -> bool {
        let is_idle = self.stopping.is_none() && !self.booting && !self.is_reloading();
        let is_given_up = |slot: &super::Place| slot.is_empty() && slot.start_at == Time::NEVER;
        is_idle && self.workers.is_empty() && self.places.iter().all(is_given_up)
    }

    /// Notes whether that is so now.
    pub(super) fn note_given_up(&mut self, out: &mut Vec<Action>) {
        match (self.has_given_up(), self.gives_up_at) {
            (false, _) => self.gives_up_at = Time::NEVER,
            (true, Time::NEVER) => {
                self.gives_up_at = self.now + PATIENCE;
                let text = format!(
                    "all slots are empty: each worker has ended with exit code {EX_CONFIG}; so does the server in {} seconds, unless \
                     a reload begins",
                    PATIENCE.as_secs()
                );
                out.push(Action::Tell(Event::Error { text }));
            }
            (true, _) => {}
        }
    }

    /// Ends the run if its time is over.
    pub(super) fn give_up(&mut self, out: &mut Vec<Action>) {
        if self.gives_up_at <= self.now {
            let why =
                format!("all workers have ended with exit code {EX_CONFIG}: the configuration is wrong");
            out.push(Action::Fail { why, is_wrong_config: true });
        }
    }
}
