//! The embedding API: what to serve, where, with how many workers; then `run`.

use crate::config::Config;
use crate::error::{Error, ErrorKind, Result};
use crate::event::{Event, LastExit, Started, Status, Stopped, WorkerStatus};
use crate::master::router::{Messages, OnMessage};
use crate::master::{Master, News};
use crate::message::Message;
use crate::sys::process;
use crate::worker::Worker;
use crate::worker::handler::{self, Handler, Outcome};
use crate::worker::http::{Request, Response};
use crate::{Conn, Datagram, ffi};
use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

/// Where workers get their handler from.
pub(crate) trait Source {
    /// Runs in the master, before the first worker of a generation starts: reads what the workers will need.
    ///
    /// # Errors
    /// Why no worker could serve with it.
    fn prepare(&mut self, _generation: u32) -> Result<()> {
        Ok(())
    }

    /// Runs in the master: no other generation will start workers any more.
    fn keep_only(&mut self, _generation: u32) {}

    /// Runs in the worker, once.
    ///
    /// # Errors
    /// Why this worker cannot serve.
    fn open(&mut self, worker: &Worker) -> std::result::Result<Box<dyn Handler>, String>;

    /// Runs in the master: files that hold the handlers, by generation, for a program that takes this one's place.
    fn images(&self) -> Vec<(u32, BorrowedFd<'_>)> {
        Vec::new()
    }

    /// Runs in the master: goes on with the files of [`Source::images`] of a former program.
    fn adopt_images(&mut self, _images: Vec<(u32, OwnedFd)>) {}

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
    pub(crate) callbacks: Callbacks,
    pub(crate) messages: Messages,
    refused: Option<Error>,
}

/// Runs in the master when every worker is ready.
pub(crate) type OnStart = Box<dyn FnMut(&Started)>;

/// Runs in the master when something has happened.
pub(crate) type OnEvent = Box<dyn FnMut(&Event)>;

/// The host's callbacks in the master, of a program in Rust or in C.
#[derive(Default)]
pub(crate) struct Callbacks {
    pub on_start: Option<OnStart>,
    pub on_event: Option<OnEvent>,
    pub on_message: Option<OnMessage>,
}

impl Callbacks {
    /// Calls the callback that the news is for.
    pub fn tell(&mut self, news: News, messages: &Messages) {
        match news {
            News::Started(started) => self.on_start.iter_mut().for_each(|f| f(&started)),
            News::Event(event) => self.on_event.iter_mut().for_each(|f| f(&event)),
            News::Message(envelope, bytes) => {
                let call = self.on_message.as_mut().map(|f| |message: &Message<'_>| f(messages, message));
                messages.deliver(envelope, &bytes, call);
            }
            News::Reply(call, result) => call(result.as_deref().map_err(|e| *e)),
        }
    }
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

    /// A server whose closure is called with each datagram, for addresses `udp:HOST:PORT`.
    ///
    /// ```no_run
    /// # fn main() -> prefork::Result<()> {
    /// prefork::Server::datagram(|datagram| datagram.reply(datagram.data())).listen("udp:127.0.0.1:7").run()?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn datagram<F, R>(f: F) -> Self
    where
        F: FnMut(&Datagram<'_>) -> R + 'static,
        R: Outcome + 'static,
    {
        Self::with_source(Box::new(Inherited(Some(Box::new(handler::datagram(f))))))
    }

    /// A server whose workers each make their own handler, after the fork: the place to open what must not be shared.
    pub fn factory<F, H>(f: F) -> Self
    where
        F: FnMut(&Worker) -> H + 'static,
        H: Handler + 'static,
    {
        Self::with_source(Box::new(Factory(f)))
    }

    /// A server whose handler is a shared object with a `prefork_module`; each worker opens its own private copy of it. The
    /// module calls back into this program, which has to be linked with `-Wl,--export-dynamic-symbol=prefork_*` (in build.rs:
    /// `cargo:rustc-link-arg-bins=`).
    pub fn module(path: impl AsRef<Path>) -> Self {
        Self::with_source(Box::new(ffi::module::ModuleSource::new(path.as_ref())))
    }

    pub(crate) fn with_source(source: Box<dyn Source>) -> Self {
        Self {
            config: Config::default(),
            source,
            args: Vec::new(),
            callbacks: Callbacks::default(),
            messages: Messages::default(),
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
        self.callbacks.on_start = Some(Box::new(f));
        self
    }

    /// Calls `f` in the master whenever something happens to a worker, at the end of the turn in which it happened.
    #[must_use]
    pub fn on_event(mut self, f: impl FnMut(&Event) + 'static) -> Self {
        self.callbacks.on_event = Some(Box::new(f));
        self
    }

    /// Calls `f` in the master with each message that a worker sends to [`crate::MASTER`], at the end of the turn in which it
    /// came. [`Messages`] sends the reply, and messages to other workers. Without a callback messages to the master are dropped, and
    /// requests stay unanswered.
    #[must_use]
    pub fn on_message(mut self, f: impl FnMut(&Messages, &Message<'_>) + 'static) -> Self {
        self.callbacks.on_message = Some(Box::new(f));
        self
    }

    /// The handle that sends messages from the host to workers. It works in the master while the server runs; before and after, and in
    /// other processes, every call is refused.
    pub fn messages(&self) -> Messages {
        self.messages.clone()
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
    pub fn run(self) -> Result<Stopped> {
        match self.begin()? {
            Some(running) => running.run(),
            None => Ok(Stopped { killed: 0 }),
        }
    }

    /// The beginning of a run; `None` where it was only to be seen whether it could begin.
    pub(crate) fn begin(mut self) -> Result<Option<Running>> {
        if Master::is_trial()? {
            return self.try_out().map(|()| None);
        }
        self.config.signals.get_or_insert(true);
        self.start().map(Some)
    }

    /// A master that this program is to take the place of asks whether it could.
    fn try_out(&mut self) -> Result<()> {
        self.refused.take().map_or(Ok(()), Err)?;
        self.config.check()?;
        self.source.prepare(1)
    }

    /// As [`Server::run`], for a program that has an event loop of its own: it gets the master to step through. Signals stay
    /// the program's, unless [`Config::signals`] says otherwise. It may have children of its own; it must not start a thread.
    ///
    /// # Errors
    /// As [`Server::run`], but for what comes of the workers, which the first step starts.
    pub fn start(mut self) -> Result<Running> {
        if Master::is_trial()? {
            // This process is there for nothing else, and its exit code is the answer.
            self.try_out()?;
            process::exit(0);
        }
        if let Some(refused) = self.refused.take() {
            return Err(refused);
        }
        self.config.check()?;
        let (callbacks, messages) = (std::mem::take(&mut self.callbacks), self.messages.clone());
        let mut master = Master::new(self)?;
        if callbacks.on_event.is_some() {
            master.keep_events();
        }
        Ok(Running { master, callbacks, messages })
    }
}

/// A running master, to be used in the process that started it. Dropping it there ends its workers at once.
///
/// In any other process (a worker, or a child that the host forked) nothing can be done with it: what returns a [`Result`] gives
/// [`crate::ErrorKind::State`], what looks sees what was when that process was forked, and dropping it does nothing.
pub struct Running {
    master: Master,
    callbacks: Callbacks,
    messages: Messages,
}

impl Running {
    /// Serves until it is told to stop.
    ///
    /// # Errors
    /// As [`Server::run`].
    pub fn run(mut self) -> Result<Stopped> {
        // Asked once: a worker, which is another process, does not return from a step.
        self.here()?;
        loop {
            let done = self.turn(None);
            self.tell_news();
            if let Some(stopped) = done? {
                return Ok(stopped);
            }
        }
    }

    /// Does what there is to do, after waiting for it for `patience` at the most (`None`: as long as it takes), and then calls
    /// back for what has happened. Returns how the run ended, once it has; then it is not to be called again.
    ///
    /// # Errors
    /// As [`Server::run`]. Every worker has ended then.
    pub fn step(&mut self, patience: Option<Duration>) -> Result<Option<Stopped>> {
        let done = self.here()?.step(patience);
        self.tell_news();
        done
    }

    fn tell_news(&mut self) {
        while let Some(news) = self.next_news() {
            self.callbacks.tell(news, &self.messages);
        }
    }

    /// As [`Running::step`], but calls no callbacks, and does not check in which process this is.
    pub(crate) fn turn(&mut self, patience: Option<Duration>) -> Result<Option<Stopped>> {
        self.master.step(patience)
    }

    /// Takes the oldest news that was not told yet.
    pub(crate) fn next_news(&mut self) -> Option<News> {
        self.master.next_news()
    }

    /// Keeps events for [`Running::next_news`] from now on.
    pub(crate) fn keep_events(&mut self) {
        self.master.keep_events();
    }

    /// True if this process is the master.
    pub(crate) fn is_here(&self) -> bool {
        self.master.is_here()
    }

    /// The master, where this process is it.
    fn here(&mut self) -> Result<&mut Master> {
        if self.is_here() {
            Ok(&mut self.master)
        } else {
            Err(Error::new(ErrorKind::State, "the server runs in another process"))
        }
    }

    /// The handle that sends messages to workers; every call is refused in any process except the master.
    pub fn messages(&self) -> Messages {
        self.messages.clone()
    }

    /// When to call [`Running::step`] at the latest, though the descriptor ([`AsFd`], readable when there is something to do) does
    /// not ask for it; `None`: as late as that.
    pub fn timeout(&self) -> Option<Duration> {
        self.master.timeout()
    }

    /// Replaces all workers by a new generation, one after the other. What comes of it is told as an [`Event`].
    ///
    /// # Errors
    /// [`crate::ErrorKind::State`]: all stop.
    pub fn reload(&mut self) -> Result<()> {
        self.here()?.reload()
    }

    /// Runs so many workers from now on, 1 to 1024; those in the highest slots go first.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Config`]: there cannot be so many; [`crate::ErrorKind::State`]: the first workers are not all ready yet,
    /// or all stop.
    pub fn scale(&mut self, workers: usize) -> Result<()> {
        self.here()?.scale(workers)
    }

    /// Starts one more worker, and returns its slot, the highest. It and all that follow it there find these variables in their
    /// environment, beside those that this process has.
    ///
    /// # Errors
    /// As [`Running::scale`]; [`crate::ErrorKind::Config`] also: this can be no variable's name or value.
    pub fn fork(&mut self, environment: &[(&str, &str)]) -> Result<usize> {
        self.here()?.fork_worker(environment)
    }

    /// Has a worker finish what it has and leave, within `patience` ([`Config::drain_timeout`] where `None`; zero is for ever;
    /// in whole milliseconds). Another one takes its place at once. One that has not left by then is killed, and told as
    /// [`crate::Reason::DrainTimeout`].
    ///
    /// # Errors
    /// [`crate::ErrorKind::State`]: there is no such worker.
    pub fn drain(&mut self, id: u32, patience: Option<Duration>) -> Result<()> {
        self.here()?.drain_worker(id, patience)
    }

    /// Sends a signal to a worker (kill(2)); 0 only asks whether it is there. Where the signal ends it, the reason is
    /// [`crate::Reason::Killed`], and another one takes its place at once. After SIGTERM it finishes what it has first; what means
    /// nothing to a worker (HUP, INT, QUIT ...) does nothing, and what it dies of later is no intention.
    ///
    /// # Errors
    /// [`crate::ErrorKind::State`]: there is no such worker; [`crate::ErrorKind::System`]: the kernel refuses.
    pub fn kill(&mut self, id: u32, signal: i32) -> Result<()> {
        self.here()?.signal_worker(id, signal)
    }

    /// Begins an orderly stop: all workers finish what they have and leave. A second call ends them at once. Go on stepping
    /// until the last one is reaped.
    ///
    /// # Errors
    /// [`crate::ErrorKind::State`]: this process is not the master.
    pub fn stop(&mut self) -> Result<()> {
        self.here()?.stop();
        Ok(())
    }

    /// What runs, as of the last [`Running::step`]; counters as of now.
    pub fn status(&self) -> Status {
        self.master.status()
    }

    /// A worker, until it is reaped; then `None`.
    pub fn worker(&self, id: u32) -> Option<WorkerStatus> {
        self.master.worker(id)
    }

    /// How the worker ended that was the last one to end in a slot (from 0), if one has and the slot is still there.
    pub fn last_exit(&self, slot: usize) -> Option<LastExit> {
        self.master.last_exit(slot)
    }
}

impl AsFd for Running {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.master.descriptor()
    }
}

/// A handler made before the fork; every worker has its copy of the process's memory and so its own.
struct Inherited(Option<Box<dyn Handler>>);

impl Source for Inherited {
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
    fn open(&mut self, worker: &Worker) -> std::result::Result<Box<dyn Handler>, String> {
        Ok(Box::new((self.0)(worker)))
    }

    fn name(&self) -> &str {
        "built-in"
    }
}
