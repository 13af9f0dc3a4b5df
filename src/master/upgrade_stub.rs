//! Upgrades in builds without the feature `control`, which brings the format of the state that is handed over: they are refused.

use super::Master;
use super::lifecycle::Snapshot;
use super::sockets::SavedListener;
use crate::error::Result;
use crate::log::log;
use std::io;
use std::os::fd::OwnedFd;

pub struct Program;

impl Program {
    pub fn this() -> io::Result<Self> {
        Ok(Self)
    }
}

pub struct Upgrade;

impl Upgrade {
    pub fn new(_: Program) -> Self {
        Self
    }

    pub fn request(&mut self) {
        log!(
            "upgrade: this program was built without the feature `control` of prefork, which upgrades need; it continues"
        );
    }

    pub fn has_trial(&self) -> bool {
        false
    }

    pub fn end_trial(&mut self) {}
}

/// Never made.
pub enum SavedState {}

pub fn take_saved() -> Result<Option<SavedState>> {
    Ok(None)
}

impl SavedState {
    pub fn images(&self) -> Result<Vec<(crate::ids::Generation, OwnedFd)>> {
        match *self {}
    }

    pub fn wake(&self) -> Result<OwnedFd> {
        match *self {}
    }

    pub fn board(&self) -> Result<OwnedFd> {
        match *self {}
    }

    pub fn listeners(&mut self) -> Result<Vec<SavedListener<OwnedFd>>> {
        match *self {}
    }

    pub fn lifecycle(&self) -> &Snapshot {
        match *self {}
    }
}

impl Master {
    pub fn is_trial() -> Result<bool> {
        Ok(false)
    }

    pub(super) fn advance_upgrade(&mut self) {}

    pub(super) fn adopt(&mut self, saved: SavedState) -> io::Result<()> {
        match saved {}
    }
}
