//! The embedding API: what to serve, where, with how many workers; then `run`.

use crate::config::Config;
use crate::error::{Error, Result};
use crate::master::post::{OnMessage, Post};
use crate::worker::Worker;
use crate::worker::handler::{self, Handler, Outcome};
use crate::worker::http::{Request, Response};
use crate::worker::mailbox::Message;
use crate::{Conn, ffi};
use std::ffi::CString;
use std::path::Path;

/// Where workers get their handler from.
pub(crate) trait Source {
    /// Runs in the master, before the first worker of a generation starts: reads what the workers will need.
    ///
    /// # Errors
    /// Why no worker could serve with it.
    fn prepare(&mut self) -> Result<()>;

    /// Runs in the worker, once.
    ///
    /// # Errors
    /// Why this worker cannot serve.
    fn open(&mut self, worker: &Worker) -> std::result::Result<Box<dyn Handler>, String>;

    /// What to call it in messages: a file name, or `built-in`.
    fn name(&self) -> &str;
}

/// A server to be: a handler and its settings. [`Server::run`] makes this process its master.
///
/// ```no_run
/// # fn main() -> prefork::Result<()> {
/// prefork::Server::http(|_req, res| res.body("hello world\n")).listen("127.0.0.1:8080").workers(8).run()?;
/// # Ok(())
/// # }
/// ```
pub struct Server {
    pub(crate) config: Config,
    pub(crate) source: Box<dyn Source>,
    pub(crate) args: Vec<CString>,
    pub(crate) on_start: Option<OnStart>,
    pub(crate) on_message: Option<OnMessage>,
    pub(crate) post: Post,
    refused: Option<Error>,
}

/// What runs in the master when every worker is ready.
pub(crate) type OnStart = Box<dyn FnMut(&Started)>;

/// What has been started, told to [`Server::on_start`] in the master when every worker is ready.
#[derive(Clone, Debug)]
pub struct Started {
    /// The addresses really bound, as `127.0.0.1:8080`, `[::1]:8080` or `unix:/path`.
    pub addresses: Vec<String>,
    /// The number of workers.
    pub workers: usize,
    /// What the workers' handler takes: HTTP requests, connections in blocking style, or streams.
    pub kind: crate::Kind,
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stopped {
    /// Workers that had to be killed because they did not finish within [`Config::drain_timeout`].
    pub killed: u32,
}

impl Server {
    /// A server whose closure answers HTTP requests.
    pub fn http<F, R>(f: F) -> Self
    where
        F: FnMut(&Request<'_>, &mut Response) -> R + 'static,
        R: Outcome + 'static,
    {
        Self::with_source(Box::new(Inherited(Some(Box::new(handler::http(f))))))
    }

    /// A server whose closure serves one connection at a time in blocking style.
    pub fn blocking<F, R>(f: F) -> Self
    where
        F: FnMut(&mut Conn) -> R + 'static,
        R: Outcome + 'static,
    {
        Self::with_source(Box::new(Inherited(Some(Box::new(handler::blocking(f))))))
    }

    /// A server whose closure is called whenever a connection has bytes.
    pub fn stream<F, R>(f: F) -> Self
    where
        F: FnMut(&mut Conn) -> R + 'static,
        R: Outcome + 'static,
    {
        Self::with_source(Box::new(Inherited(Some(Box::new(handler::stream(f))))))
    }

    /// A server whose workers each make their own handler, after the fork: the place to open what must not be shared.
    pub fn factory<F, H>(f: F) -> Self
    where
        F: FnMut(&Worker) -> H + 'static,
        H: Handler + 'static,
    {
        Self::with_source(Box::new(Factory(f)))
    }

    /// A server whose handler is a shared object with a `prefork_module`; each worker opens its own private copy of it.
    pub fn module(path: impl AsRef<Path>) -> Self {
        Self::with_source(Box::new(ffi::module::ModuleSource::new(path.as_ref())))
    }

    pub(crate) fn with_source(source: Box<dyn Source>) -> Self {
        Self {
            config: Config::default(),
            source,
            args: Vec::new(),
            on_start: None,
            on_message: None,
            post: Post::default(),
            refused: None,
        }
    }

    /// Replaces all settings.
    #[must_use]
    pub fn config(mut self, config: Config) -> Self {
        self.config = config;
        self
    }

    /// The settings, to look at and change.
    pub fn config_mut(&mut self) -> &mut Config {
        &mut self.config
    }

    /// Adds an address to listen on; an address that cannot be read is reported by [`Server::run`].
    #[must_use]
    pub fn listen(self, addr: impl AsRef<str>) -> Self {
        self.set("listen", addr.as_ref())
    }

    /// Sets the number of workers; 0 takes one per CPU this process may use.
    #[must_use]
    pub fn workers(mut self, n: usize) -> Self {
        self.config.workers = n;
        self
    }

    /// Sets any setting by name ([`Config::set`]); what is refused is reported by [`Server::run`].
    #[must_use]
    pub fn set(mut self, name: &str, value: &str) -> Self {
        if let Err(e) = self.config.set(name, value) {
            self.refused.get_or_insert(e);
        }
        self
    }

    /// Arguments for the handler ([`Worker::args`]).
    #[must_use]
    pub fn args(mut self, args: Vec<CString>) -> Self {
        self.args = args;
        self
    }

    /// Calls `f` in the master when every worker is ready for the first time.
    #[must_use]
    pub fn on_start(mut self, f: impl FnMut(&Started) + 'static) -> Self {
        self.on_start = Some(Box::new(f));
        self
    }

    /// Calls `f` in the master with each message that a worker sends to [`crate::MASTER`]. The [`Post`] is the way to answer it,
    /// and to write to workers. Without it messages to the master are dropped, and requests unanswered.
    #[must_use]
    pub fn on_message(mut self, f: impl FnMut(&Post, &Message<'_>) + 'static) -> Self {
        self.on_message = Some(Box::new(f));
        self
    }

    /// The host's way to write to workers, of use in the master while the server runs, and refused before and after.
    pub fn post(&self) -> Post {
        self.post.clone()
    }

    /// Makes this process the master and serves until a signal ends it: TERM, INT and QUIT drain, a second one stops at once.
    ///
    /// Workers are forked from here and never return from this call. For its duration the calling thread has these signals
    /// blocked and reads them itself (signalfd(2)); no signal handler is installed.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Config`], [`crate::ErrorKind::Listen`] and [`crate::ErrorKind::Handler`] before anything was served;
    /// [`crate::ErrorKind::State`] where this process has several threads (a forked copy of such a process may only exec);
    /// [`crate::ErrorKind::System`] where the kernel refuses what prefork cannot do without.
    pub fn run(mut self) -> Result<Stopped> {
        if let Some(refused) = self.refused.take() {
            return Err(refused);
        }
        self.config.check()?;
        crate::master::run(self)
    }
}

/// A handler made before the fork; every worker has its copy of the process's memory and so its own.
struct Inherited(Option<Box<dyn Handler>>);

impl Source for Inherited {
    fn prepare(&mut self) -> Result<()> {
        Ok(())
    }

    fn open(&mut self, _worker: &Worker) -> std::result::Result<Box<dyn Handler>, String> {
        self.0.take().ok_or_else(|| "the handler was taken already".into())
    }

    fn name(&self) -> &str {
        "built-in"
    }
}

struct Factory<F>(F);

impl<F, H> Source for Factory<F>
where
    F: FnMut(&Worker) -> H,
    H: Handler + 'static,
{
    fn prepare(&mut self) -> Result<()> {
        Ok(())
    }

    fn open(&mut self, worker: &Worker) -> std::result::Result<Box<dyn Handler>, String> {
        Ok(Box::new((self.0)(worker)))
    }

    fn name(&self) -> &str {
        "built-in"
    }
}
