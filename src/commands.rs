//! The commands of the host program to its running server, from callbacks: a handle that does not keep the server alive. In the master.

use crate::error::{Error, ErrorKind, Result};
use crate::event::Status;
use crate::master::Master;
use std::cell::RefCell;
use std::fmt;
use std::rc::{Rc, Weak};
use std::time::Duration;

/// Commands to a [`crate::Server`] that runs, for code that has no [`crate::Running`]: callbacks such as
/// [`crate::Server::on_event`], also with [`crate::Server::run`]. A clone is the same handle.
///
/// Every call is refused with [`ErrorKind::State`] before and after the run, in a worker, in a process that the host has forked, and in
/// a server that is one process. What a command starts happens after the callback has returned.
///
/// ```no_run
/// # fn main() -> prefork::Result<()> {
/// use prefork::{Event, Server};
/// let server = Server::http(|_req, res| res.body("hello world\n"));
/// let commands = server.commands();
/// server
///     .on_event(move |event| {
///         if let Event::Hang { .. } = event
///             && let Err(e) = commands.scale(8)
///         {
///             eprintln!("{e}");
///         }
///     })
///     .run()?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Default)]
pub struct Commands {
    master: Rc<RefCell<Weak<RefCell<Master>>>>,
}

impl Commands {
    /// As [`crate::Running::reload`].
    ///
    /// # Errors
    /// As that.
    pub fn reload(&self) -> Result<()> {
        self.with(Master::reload)
    }

    /// As [`crate::Running::upgrade`].
    ///
    /// # Errors
    /// As that.
    pub fn upgrade(&self) -> Result<()> {
        self.with(Master::upgrade)
    }

    /// As [`crate::Running::scale`].
    ///
    /// # Errors
    /// As that.
    pub fn scale(&self, workers: usize) -> Result<()> {
        self.with(|master| master.scale(workers))
    }

    /// As [`crate::Running::fork`].
    ///
    /// # Errors
    /// As that.
    pub fn fork(&self, environment: &[(&str, &str)]) -> Result<usize> {
        self.with(|master| master.fork_worker(environment))
    }

    /// As [`crate::Running::drain`].
    ///
    /// # Errors
    /// As that.
    pub fn drain(&self, id: u32, patience: Option<Duration>) -> Result<()> {
        self.with(|master| master.drain_worker(id, patience))
    }

    /// As [`crate::Running::kill`].
    ///
    /// # Errors
    /// As that.
    pub fn kill(&self, id: u32, signal: i32) -> Result<()> {
        self.with(|master| master.signal_worker(id, signal))
    }

    /// As [`crate::Running::stop`].
    ///
    /// # Errors
    /// As that.
    pub fn stop(&self) -> Result<()> {
        self.with(|master| {
            master.stop();
            Ok(())
        })
    }

    /// As [`crate::Running::status`].
    ///
    /// # Errors
    /// [`ErrorKind::State`]: the server does not run in this process.
    pub fn status(&self) -> Result<Status> {
        self.with(|master| Ok(master.status()))
    }

    /// From now on, the commands are for this master.
    pub(crate) fn open(&self, master: &Rc<RefCell<Master>>) {
        *self.master.borrow_mut() = Rc::downgrade(master);
    }

    fn with<T>(&self, command: impl FnOnce(&mut Master) -> Result<T>) -> Result<T> {
        let master = self.master.borrow().upgrade();
        let master = master.ok_or_else(|| Error::new(ErrorKind::State, "the server does not run"))?;
        with(&master, command)
    }
}

/// Executes a command, if this process is the master.
///
/// # Errors
/// [`ErrorKind::State`], and those of the command.
pub fn with<T>(master: &RefCell<Master>, command: impl FnOnce(&mut Master) -> Result<T>) -> Result<T> {
    // In a worker, which is forked in a turn of the master, it stays borrowed.
    match master.try_borrow_mut() {
        Ok(mut master) if master.is_here() => {
            master.read_clock();
            command(&mut master)
        }
        _ => Err(Error::new(ErrorKind::State, "the server runs in another process")),
    }
}

impl fmt::Debug for Commands {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let runs = self.with(|_| Ok(())).is_ok();
        f.debug_struct("Commands").field("runs", &runs).finish_non_exhaustive()
    }
}
