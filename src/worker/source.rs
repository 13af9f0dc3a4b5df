//! The source of the workers' handlers: prepared in the master, opened in each worker.

use super::handler::Handler;
use super::this_worker::Worker;
use crate::error::Result;
use crate::event::CodeFile;
use crate::ids::Generation;
use std::os::fd::{BorrowedFd, OwnedFd};

/// The name of a handler that is part of the program.
pub const BUILT_IN: &str = "built-in";

/// The source of the workers' handlers.
pub trait Source {
    /// Reads what the workers of a generation will need; in the master, before the first of them starts.
    ///
    /// # Errors
    /// The reason why no worker could serve with it.
    fn prepare(&mut self, _generation: Generation) -> Result<()> {
        Ok(())
    }

    /// Other generations start no more workers. In the master.
    fn keep_only(&mut self, _generation: Generation) {}

    /// Frees what generations need that start no more workers and, as `is_in_use` says, have none. In the master.
    fn free_unused(&mut self, _is_in_use: &dyn Fn(Generation) -> bool) {}

    /// Makes the handler, once; in the worker.
    ///
    /// # Errors
    /// The reason why this worker cannot serve.
    fn open(&mut self, worker: &Worker) -> std::result::Result<Box<dyn Handler>, String>;

    /// As [`Source::open`], in a server that is one process, without [`Source::prepare`]: from the file itself, whose name debuggers find.
    ///
    /// # Errors
    /// The reason why it cannot serve.
    fn open_in_place(&mut self, worker: &Worker) -> std::result::Result<Box<dyn Handler>, String> {
        self.open(worker)
    }

    /// The files that hold the handlers, by generation, for the program that takes over in an upgrade. In the master.
    fn images(&self) -> Vec<(Generation, BorrowedFd<'_>)> {
        Vec::new()
    }

    /// Adopts the [`Source::images`] of the program that this one replaces. In the master.
    fn adopt_images(&mut self, _images: Vec<(Generation, OwnedFd)>) {}

    /// The file that was read for the last generation; `None` if the handlers are in the program, or it could not be read.
    fn last_read(&self) -> Option<CodeFile> {
        None
    }

    /// The file of the generation that serves, compared with the one there now; `None` if the handlers are in the program.
    fn serving(&self) -> Option<CodeFile> {
        None
    }

    /// Adopts the [`Source::serving`] of the program that this one replaces. In the master.
    fn adopt_serving(&mut self, _file: Option<CodeFile>) {}

    /// True if the handlers are in a file of their own, which each generation reads.
    fn is_module(&self) -> bool {
        false
    }

    /// The name in messages: that of a file, or [`BUILT_IN`].
    fn name(&self) -> &str {
        BUILT_IN
    }
}
