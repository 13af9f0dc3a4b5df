//! The source of the workers' handlers: prepared in the master, opened in each worker.

use super::failure::StartFailure;
use super::handed::Handed;
use super::handler::{Handler, IntoHandler};
use super::this_worker::Worker;
use crate::config::{Config, Protocol};
use crate::error::{Error, ErrorKind, Result};
use crate::event::{CodeFile, Kind};
use crate::ids::{Generation, Slot, WorkerId};
use crate::sys::exec::Command;
use std::ffi::CString;
use std::marker::PhantomData;
use std::os::fd::{BorrowedFd, OwnedFd};

/// The name of a handler that is part of the program.
pub const BUILT_IN: &str = "built-in";

/// What a source opens.
pub enum Opened {
    /// A handler for this copy of the worker's code.
    Handler(Box<dyn Handler>),
    /// A module that has a handler and the worker's code, and goes on as the worker.
    Successor(Box<dyn Successor>),
}

/// Another copy of the worker's code in the same process, for a handler that was compiled with it.
pub trait Successor {
    /// Serves until the worker ends, as [`super::run`] does.
    fn serve(&self, handed: Handed<'_>) -> !;

    /// Serves in a server that is one process, as [`super::one_process::run`] does, which says what the results mean.
    ///
    /// # Errors
    /// As that.
    fn serve_in_place(&self, handed: Handed<'_>, ready: &mut dyn FnMut(Kind, Vec<Kind>)) -> Result<u64>;
}

/// The numbers of a worker that is about to be started.
#[derive(Clone, Copy, Debug)]
pub struct Numbers {
    /// Its own.
    pub id: WorkerId,
    /// Its slot.
    pub slot: Slot,
    /// Its generation.
    pub generation: Generation,
}

/// The source of the workers' handlers.
pub trait Source {
    /// Takes the settings and the arguments, before anything else; may choose settings that the user has left open.
    ///
    /// # Errors
    /// [`ErrorKind::Config`]: settings that cannot be combined with this source.
    fn configure(&mut self, _config: &mut Config, _args: &[CString]) -> Result<()> {
        Ok(())
    }

    /// How a program takes connections, never [`Protocol::Auto`]; `None` if workers run handlers.
    fn protocol(&self) -> Option<Protocol> {
        None
    }

    /// The program that a worker executes; only if there is a [`Source::protocol`]. In the master.
    ///
    /// # Errors
    /// The reason why it cannot be started.
    fn command(&self, _worker: Numbers) -> Result<Command> {
        Err(Error::new(ErrorKind::State, "workers run handlers, no program"))
    }

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
    fn open(&mut self, worker: &Worker) -> std::result::Result<Opened, StartFailure>;

    /// As [`Source::open`], in a server that is one process, without [`Source::prepare`]: from the file itself, whose name debuggers find.
    ///
    /// # Errors
    /// The reason why it cannot serve.
    fn open_in_place(&mut self, worker: &Worker) -> std::result::Result<Opened, StartFailure> {
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

/// A handler that is made before the workers. Each has its own copy, as of its fork, and takes it.
pub struct Inherited<H>(Option<H>);

impl<H> Inherited<H> {
    /// The source of this handler.
    pub fn new(handler: H) -> Self {
        Self(Some(handler))
    }
}

impl<H: Handler + 'static> Source for Inherited<H> {
    fn open(&mut self, _: &Worker) -> std::result::Result<Opened, StartFailure> {
        let handler = self.0.take().ok_or_else(|| "the handler was taken already".to_owned())?;
        Ok(Opened::Handler(Box::new(handler)))
    }
}

/// A function that makes handlers, each in its worker.
pub struct Factory<F, M> {
    make: F,
    name: &'static str,
    result: PhantomData<M>,
}

impl<F, M> Factory<F, M> {
    /// The source of what this function makes.
    pub fn new(make: F) -> Self {
        Self { make, name: BUILT_IN, result: PhantomData }
    }

    /// As [`Factory::new`], in a module: the program that has loaded it knows its name.
    pub fn of_module(make: F) -> Self {
        Self { name: "", ..Self::new(make) }
    }
}

impl<R: IntoHandler<M>, F: FnMut(&Worker) -> R, M> Source for Factory<F, M> {
    fn open(&mut self, worker: &Worker) -> std::result::Result<Opened, StartFailure> {
        Ok(Opened::Handler((self.make)(worker).into_handler()?))
    }

    fn name(&self) -> &str {
        self.name
    }
}
