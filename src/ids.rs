//! Numbers that must not be mixed up, each a type of its own. The public API shows them as plain integers.

use std::fmt;

/// Defines a type of numbers, shown as the number.
macro_rules! number {
    ($($(#[$doc:meta])* $name:ident($integer:ty);)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[cfg_attr(feature = "control", derive(serde::Serialize, serde::Deserialize), serde(transparent))]
        pub struct $name(pub $integer);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    )*};
}

/// Converts between numbers and the places of a table that they count.
macro_rules! index {
    ($($name:ident($integer:ty);)*) => {$(
        impl $name {
            /// The number of the place `index`.
            pub fn at(index: usize) -> Self {
                Self(index as $integer)
            }

            /// The place in a table.
            pub fn index(self) -> usize {
                self.0 as usize
            }
        }
    )*};
}

number! {
    /// The number of a worker, from 1; no other worker of this master has had it.
    WorkerId(u32);
    /// The index of a worker's place, from 0; a worker's successor has the same.
    Slot(u32);
    /// The start (1) or reload that a worker belongs to.
    Generation(u32);
    /// The index of a page of the scoreboard, from 0: a worker has one from its fork until it is reaped.
    Page(u32);
    /// The index of a listener, from 0, in the order of the settings.
    ListenerId(u16);
}

index! {
    Slot(u32);
    Page(u32);
    ListenerId(u16);
}

impl WorkerId {
    /// A number that differs widely between workers, to spread what they would otherwise do together.
    pub fn spread(self) -> u64 {
        u64::from(self.0).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32
    }
}

impl Generation {
    /// The generation of the first workers.
    pub const FIRST: Self = Self(1);

    /// The generation after this one.
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}
