//! The control server of builds without the feature `control`: it has no socket and no clients.

use super::connect::{Answer, Command};
use super::lifecycle::Lifecycle;
use crate::config::Config;
use crate::event::Event;
use crate::sys::time::Time;
use mio::{Events, Poll};

pub const CLIENTS: usize = 0;

pub struct ControlServer;

impl ControlServer {
    pub fn open(_: &Config, _: &str, _: &Poll) -> Self {
        Self
    }

    pub fn disown(&mut self) {}

    pub fn serve(&mut self, _: &Events, _: &Poll, _: Time) {}

    pub fn next_command(&mut self, _: &Lifecycle, _: &Poll, _: Time) -> Option<(usize, Command)> {
        None
    }

    pub fn answer(&mut self, _: usize, _: Answer, _: &Lifecycle, _: Time) {}

    pub fn publish(&mut self, _: &Event, _: &Lifecycle, _: Time) {}

    pub fn has_followers(&self) -> bool {
        false
    }

    pub fn due(&self) -> Time {
        Time::NEVER
    }

    pub fn close(&mut self, _: u32, _: Time) {}
}
