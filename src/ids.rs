//! Numbers that must not be mixed up, each a type of its own: workers, slots, generations, pages of the scoreboard, listeners.
//!
//! Inside the crate only; the public API shows them as plain integers.

use std::fmt;

/// The number of a worker, from 1; no other worker of this master has had it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "control", derive(serde::Serialize, serde::Deserialize), serde(transparent))]
pub struct WorkerId(pub u32);

/// The index of a worker's place, from 0; a worker's successor has the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "control", derive(serde::Serialize, serde::Deserialize), serde(transparent))]
pub struct Slot(pub u32);

/// The start (1) or reload a worker belongs to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "control", derive(serde::Serialize, serde::Deserialize), serde(transparent))]
pub struct Generation(pub u32);

/// The index of a page of the scoreboard, from 0: a worker has one from its fork until it is reaped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "control", derive(serde::Serialize, serde::Deserialize), serde(transparent))]
pub struct Page(pub u32);

/// The index of a listener, from 0, in the order of the settings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "control", derive(serde::Serialize, serde::Deserialize), serde(transparent))]
pub struct ListenerId(pub u16);

impl Slot {
    /// The slot at this place of a table.
    pub fn at(index: usize) -> Self {
        Self(index as u32)
    }

    /// Its place in a table.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

impl Page {
    /// The page at this place of a table.
    pub fn at(index: usize) -> Self {
        Self(index as u32)
    }

    /// Its place in a table.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

impl ListenerId {
    /// The listener at this place of a table.
    pub fn at(index: usize) -> Self {
        Self(index as u16)
    }

    /// Its place in a table.
    pub fn index(self) -> usize {
        self.0.into()
    }
}

impl Generation {
    /// The one of the first workers.
    pub const FIRST: Self = Self(1);

    /// The one after it.
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for WorkerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
