//! In place of the control socket in builds without the feature `control`: nothing.

use super::Master;
use crate::config::Config;
use crate::event::Event;
use mio::{Events, Poll};

/// No clients.
pub const CLIENTS: usize = 0;

/// No control socket.
#[derive(Default)]
pub struct Control;

impl Control {
    pub fn open(_: &Config, _: &str, _: &Poll) -> Self {
        Self
    }

    pub fn disown(&mut self) {}
}

impl Master {
    pub(super) fn serve_control(&mut self, _: &Events) {}

    pub(super) fn control_hears(&mut self, _: &Event) {}

    pub(super) fn control_has_followers(&self) -> bool {
        false
    }

    pub(super) fn control_timers(&mut self) -> u64 {
        super::NEVER
    }

    pub(super) fn control_ends(&mut self) {}
}
