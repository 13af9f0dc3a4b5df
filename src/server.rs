//! The embedding API: a [`Server`] before it runs, and the [`Running`] master.

use crate::commands::{self, Commands};
use crate::config::{Config, LogLevel};
use crate::error::{Error, ErrorKind, Result};
use crate::event::{Event, LastExit, Started, Status, Stopped, WorkerStatus};
use crate::ids::Generation;
use crate::log::{self, Hosted, OnLog, log};
use crate::master::router::{Messages, OnMessage};
use crate::master::{self, Master, News};
use crate::message::Message;
use crate::role::{Role, role};
use crate::sys::poll::Descriptor;
use crate::sys::{forks, stderr};
use crate::unwind::named;
use crate::worker::Worker;
use crate::worker::call::end_this_copy;
use crate::worker::handler::{self, Handler, IntoHandler, Outcome};
use crate::worker::http::{Request, Response};
use crate::worker::source::{Factory, Inherited, Source};
use crate::{Conn, Datagram};
use std::cell::RefCell;
use std::ffi::CString;
use std::fmt;
use std::os::fd::{AsFd, BorrowedFd};
use std::rc::Rc;
use std::time::Duration;

/// A handler and its settings. [`Server::run`] makes this process the master.
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
    pub(crate) on_log: Option<OnLog>,
    commands: Commands,
    refused: Option<Error>,
    adopts_orphans: bool,
}

pub(crate) type OnStart = Box<dyn FnMut(&Started)>;
pub(crate) type OnEvent = Box<dyn FnMut(&Event)>;
pub(crate) type OnReload = Box<dyn FnMut(u32) -> std::result::Result<(), String>>;

/// The callbacks of a host in Rust or in C; they run in the master.
#[derive(Default)]
pub(crate) struct Callbacks {
    pub on_start: Option<OnStart>,
    pub on_event: Option<OnEvent>,
    pub on_reload: Option<OnReload>,
    pub on_message: Option<OnMessage>,
}

impl Callbacks {
    /// Calls the callback that the news is for. Does not return in a process that the callback has forked.
    ///
    /// # Errors
    /// The reason for which the host refuses a reload.
    pub fn tell(&mut self, news: News, messages: &Messages) -> std::result::Result<(), String> {
        match news {
            News::Started(started) => self.tell_start(&started),
            News::Event(event) => self.on_event.iter_mut().for_each(|f| called("on_event", || f(&event))),
            News::Reload(generation) => {
                if let Some(f) = &mut self.on_reload {
                    return called("on_reload", || f(generation.0));
                }
            }
            News::Message(envelope, bytes) => {
                let call = self
                    .on_message
                    .as_mut()
                    .map(|f| |message: &Message<'_>| called("on_message", || f(messages, message)));
                messages.deliver(envelope, &bytes, call);
            }
            News::Reply(call, result) => called("on_reply", || call(result.as_deref().map_err(|e| *e))),
        }
        Ok(())
    }
}

impl Callbacks {
    /// Calls the callback for the start.
    pub fn tell_start(&mut self, started: &Started) {
        self.on_start.iter_mut().for_each(|f| called("on_start", || f(started)));
    }
}

/// Runs the callback of this name. A process that it has forked and that returns from it ends here: it would be a second master.
fn called<T>(callback: &str, f: impl FnOnce() -> T) -> T {
    let depth = forks::depth();
    let result = named(callback, f);
    if forks::depth() != depth {
        end_this_copy(callback);
    }
    result
}

impl Server {
    /// A server whose closure answers HTTP requests.
    pub fn http<R: Outcome<M> + 'static, M: 'static>(
        f: impl FnMut(&Request<'_>, &mut Response) -> R + 'static,
    ) -> Self {
        Self::inherited(handler::http(f))
    }

    /// A server whose closure serves one connection at a time in blocking style.
    pub fn blocking<R: Outcome<M> + 'static, M: 'static>(f: impl FnMut(&Conn) -> R + 'static) -> Self {
        Self::inherited(handler::blocking(f))
    }

    /// A server whose closure is called whenever a connection has bytes.
    pub fn stream<R: Outcome<M> + 'static, M: 'static>(f: impl FnMut(&Conn) -> R + 'static) -> Self {
        Self::inherited(handler::stream(f))
    }

    /// A server whose closure is called with each datagram, for addresses `udp:HOST:PORT`.
    ///
    /// ```no_run
    /// # fn main() -> prefork::Result<()> {
    /// prefork::Server::datagram(|datagram| datagram.reply(datagram.data())).listen("udp:127.0.0.1:7").run()?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn datagram<R: Outcome<M> + 'static, M: 'static>(
        f: impl FnMut(&Datagram<'_>) -> R + 'static,
    ) -> Self {
        Self::inherited(handler::datagram(f))
    }

    /// A server whose workers each make their own handler after the fork, and open there what processes must not share. The function
    /// returns a handler, or a `Result`: with an error the worker is not ready, and the master prints the error with its causes. A new
    /// worker tries again, after longer and longer delays, unless [`crate::Misconfigured`] is among them.
    ///
    /// ```no_run
    /// # use prefork::{Handler, Misconfigured, Server, http};
    /// # fn main() -> prefork::Result<()> {
    /// Server::factory(|_worker| {
    ///     let name = std::env::var("NAME").map_err(|e| Misconfigured::new(format!("NAME: {e}")))?;
    ///     let handler: Box<dyn Handler> = match name.as_str() {
    ///         "" => Box::new(http(|_req, res| res.status(404))),
    ///         _ => Box::new(http(move |_req, res| res.body(&name))),
    ///     };
    ///     Ok::<_, Misconfigured>(handler)
    /// })
    /// .run()?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn factory<R: IntoHandler<M>, M: 'static>(f: impl FnMut(&Worker) -> R + 'static) -> Self {
        Self::with_source(Factory::new(f))
    }

    fn inherited(handler: impl Handler + 'static) -> Self {
        Self::with_source(Inherited::new(handler))
    }

    pub(crate) fn with_source(source: impl Source + 'static) -> Self {
        Self {
            config: Config::default(),
            source: Box::new(source),
            args: Vec::new(),
            callbacks: Callbacks::default(),
            messages: Messages::default(),
            on_log: None,
            commands: Commands::default(),
            refused: None,
            adopts_orphans: false,
        }
    }

    /// Replaces all settings.
    #[must_use]
    pub fn config(mut self, config: Config) -> Self {
        self.config = config;
        self
    }

    /// The settings, to be read and changed.
    pub fn config_mut(&mut self) -> &mut Config {
        &mut self.config
    }

    /// Adds an address to listen on; [`Server::run`] reports one that is refused.
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

    /// Sets a setting by name ([`Config::set`]); [`Server::run`] reports what is refused.
    #[must_use]
    pub fn set(mut self, name: &str, value: &str) -> Self {
        if let Err(e) = self.config.set(name, value) {
            self.refused.get_or_insert(e);
        }
        self
    }

    /// For the binary alone: reaps every child that ends, if this process is the one that orphans are given to.
    #[doc(hidden)]
    #[must_use]
    pub fn adopt_orphans(mut self) -> Self {
        self.adopts_orphans = true;
        self
    }

    /// Sets the arguments of the handler ([`Worker::args`]).
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

    /// Calls `f` in the master with each event, at the end of the turn of its loop in which it happened. A reload begins only after that.
    #[must_use]
    pub fn on_event(mut self, f: impl FnMut(&Event) + 'static) -> Self {
        self.callbacks.on_event = Some(Box::new(f));
        self
    }

    /// Calls `f` in the master with the number of the new generation when a reload begins, also that of an upgrade: after the event
    /// [`Event::Reload`] of its start, and before any code of it is read and any worker of it is forked. What `f` changes in this process,
    /// such as a configuration that workers inherit, all of them have. If it returns an error, the reload is rolled back with that
    /// reason, and nothing has changed.
    #[must_use]
    pub fn on_reload(mut self, f: impl FnMut(u32) -> std::result::Result<(), String> + 'static) -> Self {
        self.callbacks.on_reload = Some(Box::new(f));
        self
    }

    /// Calls `f` in the master with each message that a worker sends to [`crate::To::Master`], at the end of the turn in which it
    /// arrived. [`Messages`] sends the reply, and messages to workers. Without a callback messages to the master are dropped and
    /// requests fail with [`crate::Undelivered::Unanswered`].
    #[must_use]
    pub fn on_message(mut self, f: impl FnMut(&Messages, &Message<'_>) + 'static) -> Self {
        self.callbacks.on_message = Some(Box::new(f));
        self
    }

    /// Calls `f` with each line that prefork itself logs, instead of writing it to standard error: in the master, and in each worker, which
    /// has its own copy of `f`, as of its fork. The line has no line end, no control characters, no time, and no `prefork: ` before it; that of
    /// a worker begins with `worker ID: `. Lines less important than [`Config::log_level`] are left out.
    ///
    /// It is called in the thread that runs the server, in the middle of prefork's work: it must not call prefork, and must not
    /// take long. If it panics, the line is written to standard error. What handlers and their panics print does not come here.
    #[must_use]
    pub fn on_log(mut self, mut f: impl FnMut(LogLevel, &str) + 'static) -> Self {
        let f = move |level, line: &str| named("on_log", || f(level, line));
        self.on_log = Some(Rc::new(RefCell::new(f)));
        self
    }

    /// The handle that sends messages to workers: in the master while the server runs. Any other call is refused.
    pub fn messages(&self) -> Messages {
        self.messages.clone()
    }

    /// The handle for commands to the running server, for callbacks, which have no [`Running`]. Any call in another process than the
    /// master is refused.
    pub fn commands(&self) -> Commands {
        self.commands.clone()
    }

    /// Makes this process the master and serves until a signal ends it: TERM, INT and QUIT drain, a second one stops at once.
    ///
    /// Standard input, output or error that is closed becomes /dev/null, so that no client gets what is printed.
    ///
    /// Workers are forked from here and never return from this call; nor does a program that an upgrade tries out, whether it could
    /// serve or not ([upgrades](crate#upgrades)). For the duration of the call the calling thread has these signals blocked and reads
    /// them itself (signalfd(2)); no signal handler is installed. The soft limit on open descriptors is raised as far as the
    /// workers need.
    ///
    /// # One process
    /// With the setting [`Config::one_process`] it forks nothing: this process binds the addresses and serves with the handler itself,
    /// for gdb, valgrind, sanitizers, rr, perf and reports of coverage. It is worker 1 in slot 0, of generation 1, and the call returns
    /// when it has drained, so that the program ends by exit(3). It may have several threads. A module is loaded by its own path.
    ///
    /// TERM, INT and QUIT drain, for at most [`Config::drain_timeout`]; a second one, a second later or more, ends the run at once, and
    /// if the handler is in a call, the process. They have signal handlers for the duration of the call, and so have HUP, USR1 and
    /// USR2, which only print that they do nothing. There is no reload, no upgrade, no control socket, no restart after a crash, and no
    /// limit by [`Config::timeout`]. [`Server::on_start`] is called; [`Server::on_event`], [`Server::on_reload`] and
    /// [`Server::on_message`] are not. A message to this worker itself arrives; one to another worker or the master is dropped, and a
    /// request to them fails with [`crate::Undelivered::Gone`] and [`crate::Undelivered::Unanswered`]. A stream that is transferred
    /// stays.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Config`], [`crate::ErrorKind::Listen`], [`crate::ErrorKind::Handler`] and
    /// [`crate::ErrorKind::Misconfigured`] before anything was served;
    /// [`crate::ErrorKind::State`] if this process has several threads (a forked copy of such a process may only exec; not if it is the
    /// one process);
    /// [`crate::ErrorKind::System`] if a system call fails that prefork cannot do without, or the hard limit on open descriptors is
    /// too low for the workers.
    pub fn run(mut self) -> Result<Stopped> {
        self.config.signals.get_or_insert(true);
        if self.config.one_process {
            let mut callbacks = std::mem::take(&mut self.callbacks);
            return self.run_here(&mut callbacks);
        }
        self.start()?.run()
    }

    /// Serves in this process alone.
    pub(crate) fn run_here(mut self, callbacks: &mut Callbacks) -> Result<Stopped> {
        let _hosted = self.prepare()?;
        let Self { config, source, args, .. } = self;
        if callbacks.on_event.is_some() || callbacks.on_message.is_some() || callbacks.on_reload.is_some() {
            log!(Warn, "one process: on_event, on_message and on_reload are not called: there is no master");
        }
        master::one_process::run(config, source, args, |started| callbacks.tell_start(started))
    }

    /// Makes this process the master, for a program with an event loop of its own, which calls [`Running::step`]. Signals stay the
    /// program's, unless [`Config::signals`] says otherwise. It may have children of its own; it must not start a thread.
    ///
    /// A program that an upgrade tries out does not return from this call ([upgrades](crate#upgrades)).
    ///
    /// # Errors
    /// As [`Server::run`], except for failures of the workers, which the first step starts.
    pub fn start(mut self) -> Result<Running> {
        let hosted = self.prepare()?;
        if self.config.one_process {
            let text = "start: a server that is one process serves in run alone: it has no steps";
            return Err(Error::new(ErrorKind::State, text));
        }
        let Self { config, source, args, callbacks, messages, commands, adopts_orphans, .. } = self;
        let mut master = Master::new(config, source, args, messages.clone())?;
        if adopts_orphans {
            master.adopt_orphans()?;
        }
        if callbacks.on_event.is_some() {
            master.keep_events();
        }
        let descriptor = Descriptor::of(master.descriptor());
        let master = Rc::new(RefCell::new(master));
        commands.open(&master);
        Ok(Running { master, descriptor, callbacks, messages, _hosted: hosted })
    }

    /// Checks all that can be before this process becomes a server. Does not return in a program that an upgrade tries out.
    fn prepare(&mut self) -> Result<Option<Hosted>> {
        // The log of a server that runs here already stays as it is.
        let hosted = (role() == Role::None).then(|| log::set_up(&self.config, self.on_log.take()));
        if master::is_trial() {
            master::end_trial(self.try_out());
        }
        // Before anything is opened that could get such a number.
        stderr::open_missing().map_err(|e| Error::io(ErrorKind::System, "open /dev/null", e))?;
        self.check()?;
        Ok(hosted)
    }

    fn check(&mut self) -> Result<()> {
        self.refused.take().map_or(Ok(()), Err)?;
        self.config.check()?;
        self.source.configure(&mut self.config, &self.args)
    }

    /// Does everything up to serving that changes nothing.
    fn try_out(&mut self) -> Result<()> {
        self.check()?;
        if self.config.one_process {
            return Err(master::one_process::refuse_upgrade());
        }
        master::check_host()?;
        self.source.prepare(Generation::FIRST)?;
        // The process ends without dropping anything.
        self.source.keep_only(Generation(0));
        self.source.free_unused(&|_| false);
        Ok(())
    }
}

/// A running master, for the process that started it. Dropping it there kills its workers.
///
/// In any other process (a worker, or a child that the host forked) a method that returns a [`Result`] fails with
/// [`crate::ErrorKind::State`], the others return what was true when that process was forked, and dropping it does nothing.
pub struct Running {
    /// Borrowed in a turn, in which a worker may be forked; not while a callback runs.
    pub(crate) master: Rc<RefCell<Master>>,
    descriptor: Descriptor,
    callbacks: Callbacks,
    messages: Messages,
    /// Dropped after the master, which logs.
    _hosted: Option<Hosted>,
}

impl Running {
    /// Serves until it is told to stop.
    ///
    /// # Errors
    /// As [`Server::run`].
    pub fn run(mut self) -> Result<Stopped> {
        // Once is enough: a worker, which is another process, does not return from a turn.
        self.command(|_| Ok(()))?;
        loop {
            if let Some(stopped) = self.turn(None)? {
                return Ok(stopped);
            }
        }
    }

    /// Waits until there is something to do, for at most `patience` (`None`: forever), does it, and then calls the callbacks.
    /// Returns `Some` once the run has ended; it is not to be called again then.
    ///
    /// # Errors
    /// As [`Server::run`]. Every worker has ended then.
    pub fn step(&mut self, patience: Option<Duration>) -> Result<Option<Stopped>> {
        self.command(|_| Ok(()))?;
        self.turn(patience)
    }

    fn turn(&mut self, patience: Option<Duration>) -> Result<Option<Stopped>> {
        let done = self.master.borrow_mut().step(patience);
        loop {
            let news = self.master.borrow_mut().next_news();
            match news {
                Some(news) => {
                    if let Err(why) = self.callbacks.tell(news, &self.messages) {
                        self.master.borrow_mut().refuse_reload(why);
                    }
                }
                None if self.master.borrow_mut().begin_announced() => {}
                None => return done,
            }
        }
    }

    fn command<T>(&mut self, command: impl FnOnce(&mut Master) -> Result<T>) -> Result<T> {
        commands::with(&self.master, command)
    }

    /// The handle that sends messages to workers; every call is refused in any process except the master.
    pub fn messages(&self) -> Messages {
        self.messages.clone()
    }

    /// The time after which to call [`Running::step`] although the descriptor ([`AsFd`]) is not readable; `None` is never.
    pub fn timeout(&self) -> Option<Duration> {
        self.master.borrow().timeout()
    }

    /// Replaces all workers by a new generation, one after the other; an [`Event::Reload`] reports the outcome. It begins in the next
    /// [`Running::step`], if [`Server::on_reload`] does not refuse it.
    ///
    /// # Errors
    /// [`crate::ErrorKind::State`]: the server is stopping.
    pub fn reload(&mut self) -> Result<()> {
        self.command(Master::reload)
    }

    /// Has the file now at the program's path take this program's place, in this process and with its workers, after a trial, and then
    /// replaces all workers ([upgrades](crate#upgrades)). If that succeeds, a later [`Running::step`] does not return: the new program
    /// runs instead. If it fails, an [`Event::Error`] has the reason.
    ///
    /// # Errors
    /// [`crate::ErrorKind::State`]: the server is stopping, an upgrade is under way, or the feature `control` is missing.
    pub fn upgrade(&mut self) -> Result<()> {
        self.command(Master::upgrade)
    }

    /// Sets the number of workers, 1 to 1024; if there are fewer than before, those in the highest slots leave.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Config`]: the number is out of range; [`crate::ErrorKind::State`]: the first workers are not all ready
    /// yet, or the server is stopping; [`crate::ErrorKind::System`]: the hard limit on open descriptors is too low for that many.
    pub fn scale(&mut self, workers: usize) -> Result<()> {
        self.command(|master| master.scale(workers))
    }

    /// Starts one more worker and returns its slot, the highest. This worker and its successors in the slot have these variables
    /// in their environment, in addition to those of this process.
    ///
    /// # Errors
    /// As [`Running::scale`]; [`crate::ErrorKind::Config`] also if a name or value cannot be that of a variable.
    pub fn fork(&mut self, environment: &[(&str, &str)]) -> Result<usize> {
        self.command(|master| master.fork_worker(environment))
    }

    /// Drains a worker and starts its successor at once. After `patience` (in whole milliseconds; `None`: [`Config::drain_timeout`]; zero:
    /// forever) it ends what it still has; a second later it is killed, for [`crate::Reason::DrainTimeout`].
    ///
    /// # Errors
    /// [`crate::ErrorKind::Gone`]: there is no such worker.
    pub fn drain(&mut self, id: u32, patience: Option<Duration>) -> Result<()> {
        self.command(|master| master.drain_worker(id, patience))
    }

    /// Sends a signal to a worker (kill(2)); 0 only checks that it exists. If the signal ends the worker, the reason is
    /// [`crate::Reason::Killed`], and its successor starts at once. SIGTERM drains it first; HUP, INT, QUIT and others that workers
    /// ignore have no effect, and do not count as the reason of a later death.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Gone`]: there is no such worker; [`crate::ErrorKind::System`]: kill(2) failed.
    pub fn kill(&mut self, id: u32, signal: i32) -> Result<()> {
        self.command(|master| master.signal_worker(id, signal))
    }

    /// Begins an orderly stop, which drains all workers; a second call kills them. Keep stepping until the last one is reaped.
    ///
    /// # Errors
    /// [`crate::ErrorKind::State`]: this process is not the master.
    pub fn stop(&mut self) -> Result<()> {
        self.command(|master| {
            master.stop();
            Ok(())
        })
    }

    /// The status as of the last [`Running::step`], with counters as of now.
    pub fn status(&self) -> Status {
        self.master.borrow().status()
    }

    /// A worker, until it is reaped; then `None`.
    pub fn worker(&self, id: u32) -> Option<WorkerStatus> {
        self.master.borrow().worker(id)
    }

    /// The last worker of a slot (from 0) that has ended, if there is one and the slot still exists.
    pub fn last_exit(&self, slot: usize) -> Option<LastExit> {
        self.master.borrow().last_exit(slot)
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let handler = self.source.name();
        f.debug_struct("Server")
            .field("handler", &handler)
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Running {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Borrowed only in a worker.
        let state = self.master.try_borrow().map(|master| master.status().state);
        f.debug_struct("Running").field("state", &state.ok()).finish_non_exhaustive()
    }
}

impl AsFd for Running {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}
