//! The control server of builds without the feature `control`: it has no socket and no clients.

use super::commands::{Answer, Command};
use super::kept::Kept;
use super::lifecycle::Lifecycle;
use crate::config::Config;
use crate::error::Result;
use crate::event::{Event, Stopped};
use crate::sys::time::Time;
use mio::{Events, Poll};

pub struct ControlServer;

#[derive(Debug)]
pub struct SavedClient;

impl ControlServer {
    pub fn open(_: &Config, _: &str, _: &Poll) -> Self {
        Self
    }

    pub fn restore(&mut self, _: &Poll, _: Time) {}

    pub fn disown(&mut self) {}

    pub fn save<'a>(&'a self, _: &mut Kept<'a>) -> Vec<SavedClient> {
        Vec::new()
    }

    pub fn adopt(&mut self, _: Vec<SavedClient>, _: &Event, _: &Poll, _: Time) -> Result<()> {
        Ok(())
    }

    pub fn upgrade_failed(&mut self, _: &str, _: &Lifecycle, _: Time) {}

    pub fn serve(&mut self, _: &Events, _: &Poll, _: Time) {}

    pub fn next_command(&mut self, _: &Lifecycle, _: &Poll, _: Time) -> Option<(usize, Command)> {
        None
    }

    pub fn answer(&mut self, _: usize, _: Answer, _: &Lifecycle, _: Time) {}

    pub fn publish(&mut self, _: &Event, _: &Lifecycle, _: Time) {}

    pub fn answer_gone(&mut self, _: &Lifecycle, _: Time) {}

    pub fn has_followers(&self) -> bool {
        false
    }

    pub fn due(&self) -> Time {
        Time::NEVER
    }

    pub fn close(&mut self, _: Stopped, _: Time) {}
}
