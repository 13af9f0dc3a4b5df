//! A worker: takes connections from the handoff channel, runs the handler on them, counts.

pub mod conn;
pub mod engine;
pub mod handler;
pub mod http;

/// The worker this code runs in, as its handler sees it.
#[derive(Debug)]
pub struct Worker {
    pub(crate) id: u32,
    pub(crate) slot: u32,
    pub(crate) generation: u32,
    pub(crate) args: Vec<std::ffi::CString>,
}

impl Worker {
    /// A number no other worker of this master has had, from 1.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// The index of this worker's place, from 0; a successor has the same.
    pub fn slot(&self) -> u32 {
        self.slot
    }

    /// The start or reload this worker belongs to, from 1.
    pub fn generation(&self) -> u32 {
        self.generation
    }

    /// The arguments that stand behind the handler on the command line.
    pub fn args(&self) -> &[std::ffi::CString] {
        &self.args
    }
}
