//! The control server: serves the clients of the control socket in the master's own loop, which none of them can block.
//!
//! It accepts clients, reads their requests, and returns commands for the master to execute. Clients that wait for an
//! outcome are answered from the events that the master publishes. Only clients of the server's own user and root are
//! admitted (`SO_PEERCRED`). A command that changes something is logged with the client's process.

mod client;

use super::Token;
use super::commands::{Answer, Command};
use super::fd_reserve::FdReserve;
use super::kept::Kept;
use super::lifecycle::{EX_CONFIG, Lifecycle};
use super::token::CLIENTS;
use crate::config::{Config, MAX_WORKERS};
use crate::control::place::Place;
use crate::control::protocol::{
    Count, Hello, Refusal, RefusalKind, Reply, Request, Stamped, VERSION, Verdict, write_line,
};
use crate::error::Error;
use crate::event::{Departed, Event, Reason, ReloadFailure, ReloadStage, ReloadState, Stopped};
use crate::ids::{Generation, WorkerId};
use crate::log::{counted, log};
use crate::sys::peer::{self, Peer};
use crate::sys::time::Time;
use crate::sys::{errno, poll, process, socket};
pub use client::SavedClient;
use client::{Awaits, Client};
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::Duration;

/// The most clients that only follow events; they must not keep out clients with a command.
const FOLLOWERS: usize = 12;
/// The most clients accepted in one turn.
const BATCH: usize = 4;
/// The interval at which the master looks if the socket's file is still there.
const LOOK: Duration = Duration::from_secs(5);
/// The descriptors in reserve for clients.
const RESERVED: usize = 2;
/// The pause in accepting when descriptors have run out.
const PAUSE: Duration = Duration::from_millis(250);

/// The control socket and its clients.
pub struct ControlServer {
    /// `None` if it is not wanted or cannot be made.
    socket: Option<(Place, OwnedFd)>,
    hello: Hello,
    clients: [Option<Client>; CLIENTS],
    /// Clients are accepted again from this time on; [`Time::NEVER`] if accepting is not paused.
    paused_until: Time,
    /// The time of the next look if the socket's file is there; [`Time::NEVER`] if no socket is wanted.
    next_look: Time,
    /// Descriptors for clients when there are no others.
    reserve: FdReserve,
    /// True if the last client could not be accepted for want of a descriptor.
    is_short: bool,
    /// By client: it may have a request that was not returned yet, or be over.
    pending: u16,
}

impl ControlServer {
    /// Makes the socket and has the poll report it. If that fails, the log says so and the server runs without: serving
    /// matters more than being asked.
    pub fn open(config: &Config, name: &str, poll: &Poll) -> Self {
        let (prefork, pid) = (env!("CARGO_PKG_VERSION").into(), process::own_pid());
        let hello = Hello { prefork, protocol: VERSION, name: name.to_owned(), pid };
        let clients = Default::default();
        let mut server = Self {
            socket: None,
            hello,
            clients,
            paused_until: Time::NEVER,
            next_look: Time::NEVER,
            reserve: FdReserve::new(0),
            is_short: false,
            pending: 0,
        };
        if config.control {
            server.next_look = Time::now() + LOOK;
            server.reserve = FdReserve::new(RESERVED);
            if let Err(e) = server.make(poll) {
                log!(Warn, "no control socket, so `prefork ls` and the like will not find this server: {e}");
            }
        }
        server
    }

    fn make(&mut self, poll: &Poll) -> Result<(), String> {
        let (place, socket) = Place::make(&self.hello.name)?;
        socket::set_nonblocking(socket.as_fd(), true)
            .and_then(|()| poll::watch_level(poll, socket.as_fd(), Token::Control.into()))
            .map_err(|e| e.to_string())?;
        self.socket = Some((place, socket));
        Ok(())
    }

    /// Makes the socket anew if its file is gone, for example with a runtime directory that logind has cleared, or if it could not
    /// be made before. The clients that are connected stay.
    pub fn restore(&mut self, poll: &Poll, now: Time) {
        if self.next_look == Time::NEVER || self.socket.as_ref().is_some_and(|(place, _)| place.is_there()) {
            return;
        }
        self.next_look = now + LOOK;
        let gone = self.socket.take();
        if let Some((_, socket)) = &gone {
            // It is not watched while accepting is paused.
            let _ = poll::unwatch(poll, socket.as_fd());
            self.paused_until = Time::NEVER;
        }
        let made = self.make(poll);
        match (gone, made, &self.socket) {
            (Some((gone, _)), Ok(()), Some((new, _))) => {
                log!(Info, "the control socket {gone} is gone; made anew: {new}");
            }
            (Some((gone, _)), Err(e), _) => log!(
                Warn,
                "the control socket {gone} is gone and cannot be made anew, so `prefork ls` and the like will not find this \
                 server until it can: {e}"
            ),
            (None, Ok(()), Some((new, _))) => log!(Info, "the control socket is there again: {new}"),
            // That was told when it failed first.
            _ => {}
        }
    }

    /// Closes everything in a process that is not the master, and leaves the socket's file to the master.
    pub fn disown(&mut self) {
        if let Some((mut place, _)) = self.socket.take() {
            place.disown();
        }
        self.clients = Default::default();
        self.reserve.release();
    }

    /// Returns what another program in this process continues with, and keeps its descriptors.
    pub fn save<'a>(&'a self, kept: &mut Kept<'a>) -> Vec<SavedClient> {
        self.clients.iter().flatten().filter_map(|client| client.save(kept)).collect()
    }

    /// Continues with the clients of the former program in this process. Those that follow events get `setup`, with which the events
    /// of this program begin.
    ///
    /// # Errors
    /// [`ErrorKind::State`]: a descriptor is not open.
    pub fn adopt(
        &mut self,
        clients: Vec<SavedClient>,
        setup: &Event,
        poll: &Poll,
        now: Time,
    ) -> Result<(), Error> {
        for client in clients {
            self.watch(Client::resume(client, now)?, poll);
        }
        self.send(setup, now);
        Ok(())
    }

    /// Answers the clients that wait for an upgrade, which has failed.
    pub fn upgrade_failed(&mut self, why: &str, life: &Lifecycle, now: Time) {
        self.answer_waiting(now, |awaits| {
            let failure = ReloadFailure {
                stage: ReloadStage::Trial,
                reason: why.to_owned(),
                worker: None,
                exit: None,
                stderr: Vec::new(),
            };
            let (outcome, generation) = (ReloadState::RolledBack, life.generation().0);
            let verdict =
                || Verdict { outcome, generation, failure: Some(failure), code: None, connections: None };
            (awaits == Awaits::Upgrade).then(|| Reply::Reload(verdict()))
        });
    }

    /// Serves what the poll has reported, and clients whose time is over; to be called in each turn.
    /// [`ControlServer::next_command`] returns the commands that follow.
    pub fn serve(&mut self, events: &Events, poll: &Poll, now: Time) {
        for event in events.iter() {
            match event.token().into() {
                Token::Control => self.accept(poll, now),
                Token::ControlClient(n) => self.receive(n, event.is_write_closed() || event.is_error()),
                _ => {}
            }
        }
        if self.next_look <= now {
            self.next_look = now + LOOK;
            self.restore(poll, now);
        }
        self.expire(poll, now);
    }

    /// Returns the next command and its client; the master executes it and calls [`ControlServer::answer`].
    pub fn next_command(&mut self, life: &Lifecycle, poll: &Poll, now: Time) -> Option<(usize, Command)> {
        while self.pending != 0 {
            let index = self.pending.trailing_zeros() as usize;
            let request = self.clients[index].as_mut().and_then(Client::next_request);
            let refused = match request {
                None => {
                    self.pending &= !(1 << index);
                    self.remove_if_over(index, poll);
                    continue;
                }
                Some(Ok(request)) => match self.command(index, &request, life, now) {
                    Ok(command) => return Some((index, command)),
                    Err(refused) => refused,
                },
                Some(Err(why)) => refusal(RefusalKind::Usage, why),
            };
            if let Some(client) = &mut self.clients[index] {
                client.refuse(refused, now);
            }
        }
        None
    }

    /// Gives a client the result of its command, unless an event has ended its wait already.
    pub fn answer(&mut self, index: usize, answer: Answer, life: &Lifecycle, now: Time) {
        if let Some(client) = &mut self.clients[index] {
            match answer {
                Answer::Accepted => {}
                Answer::Setup(setup) => client.reply(&Reply::Event(Stamped::now(setup)), now),
                Answer::Status(status) => client.reply(&Reply::Status(status), now),
                Answer::Refused(why) => client.finish(&Reply::Error(failed(why)), now),
            }
        }
        // A command may have no event at all: a scale to as many workers as there are is done at once.
        self.answer_waiting(now, |awaits| outcome(awaits, life));
    }

    /// Sends an event to followers, and answers the clients that wait for it.
    pub fn publish(&mut self, event: &Event, life: &Lifecycle, now: Time) {
        // A stream of events begins with a setup of its own.
        if !matches!(event, Event::Setup { .. }) {
            self.send(event, now);
        }
        for client in self.clients.iter_mut().flatten() {
            client.note(event);
        }
        self.answer_waiting(now, |awaits| end_in(event, awaits, life).or_else(|| outcome(awaits, life)));
    }

    /// Answers the clients that wait for the end of old workers, if these have ended.
    pub fn answer_gone(&mut self, life: &Lifecycle, now: Time) {
        let has = |is_old: &dyn Fn(Generation) -> bool| life.workers().iter().any(|w| is_old(w.generation));
        for (index, client) in self.clients.iter_mut().enumerate() {
            let Some(client) = client else { continue };
            let Awaits::Gone { generation, is_committed } = client.awaits else { continue };
            let is_left = match is_committed {
                true => has(&|of| of < generation),
                false => has(&|of| of == generation),
            };
            if !is_left {
                client.finish(&Reply::Gone { connections: client.departed }, now);
                self.pending |= 1 << index;
            }
        }
    }

    /// True if a client follows events.
    pub fn has_followers(&self) -> bool {
        self.clients.iter().flatten().any(|client| client.awaits == Awaits::Events)
    }

    /// The time at which [`ControlServer::serve`] has something to do even if the poll reports nothing; zero for at once.
    pub fn due(&self) -> Time {
        if self.pending != 0 {
            return Time::default();
        }
        let deadlines = self.clients.iter().flatten().map(Client::deadline);
        deadlines.min().unwrap_or(Time::NEVER).min(self.paused_until).min(self.next_look)
    }

    /// Ends with the run: answers the clients that wait for the stop, or for something else.
    pub fn close(&mut self, Stopped { killed, cut }: Stopped, now: Time) {
        self.answer_waiting(now, |awaits| match awaits {
            Awaits::Stop => Some(Reply::Stopped { killed, cut }),
            Awaits::Nothing | Awaits::Events => None,
            _ => Some(Reply::Error(failed("the server has stopped"))),
        });
    }

    fn accept(&mut self, poll: &Poll, now: Time) {
        for n in 0..BATCH {
            let Some((_, listening)) = &self.socket else { return };
            let accepted = match socket::accept(listening.as_fd()) {
                // Only the first time is it known that a client waits.
                Err(e) if n == 0 && is_shortage(&e) && self.reserve.give_up_one() => {
                    socket::accept(listening.as_fd())
                }
                accepted => accepted,
            };
            let socket = match accepted {
                Ok(socket) => {
                    self.is_short = false;
                    socket
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock || n > 0 => return,
                Err(e) => {
                    // It would fail again at once.
                    if !std::mem::replace(&mut self.is_short, true) {
                        log!(Warn, "control: accept: {e}; clients wait meanwhile");
                    }
                    let _ = poll::unwatch(poll, listening.as_fd());
                    self.paused_until = now + PAUSE;
                    return;
                }
            };
            match peer::peer_of(socket.as_fd()) {
                Ok(peer) if peer.uid == 0 || peer.uid == process::own_user() => {
                    self.add(socket, peer, poll, now);
                }
                Ok(peer) => {
                    log!(Warn, "control: pid {} (uid {}) is refused", peer.pid, peer.uid);
                    let text = "only the server's own user and root are admitted";
                    Client::new(socket, peer, now).refuse(refusal(RefusalKind::Denied, text), now);
                }
                Err(e) => log!(Warn, "control: SO_PEERCRED: {e}"),
            }
        }
    }

    fn add(&mut self, socket: OwnedFd, peer: Peer, poll: &Poll, now: Time) {
        let mut client = Client::new(socket, peer, now);
        if self.clients.iter().all(Option::is_some) {
            let text = format!("{CLIENTS} clients are connected already");
            return client.refuse(refusal(RefusalKind::Busy, text), now);
        }
        client.reply(&Reply::Hello(self.hello.clone()), now);
        self.watch(client, poll);
    }

    /// Takes a client into the table, where there is room for it.
    fn watch(&mut self, client: Client, poll: &Poll) {
        let Some(index) = self.clients.iter().position(Option::is_none) else { return };
        let fd = client.socket.as_raw_fd();
        let both = Interest::READABLE | Interest::WRITABLE;
        if let Err(e) = poll.registry().register(&mut SourceFd(&fd), Token::ControlClient(index).into(), both)
        {
            return log!(Warn, "control: epoll_ctl: {e}");
        }
        self.clients[index] = Some(client);
        self.pending |= 1 << index;
    }

    fn receive(&mut self, index: usize, hung_up: bool) {
        if let Some(client) = &mut self.clients[index] {
            client.flush();
            client.read();
            client.hung_up |= hung_up;
            self.pending |= 1 << index;
        }
    }

    fn expire(&mut self, poll: &Poll, now: Time) {
        if self.paused_until <= now {
            self.paused_until = Time::NEVER;
            if let Some((_, socket)) = &self.socket
                && let Err(e) = poll::watch_level(poll, socket.as_fd(), Token::Control.into())
            {
                log!(Warn, "control: epoll_ctl: {e}");
            }
        }
        for (index, client) in self.clients.iter_mut().enumerate() {
            if let Some(client) = client.as_mut().filter(|c| c.deadline() <= now) {
                client.give_up(now);
                self.pending |= 1 << index;
            }
        }
    }

    fn remove_if_over(&mut self, index: usize, poll: &Poll) {
        if let Some(client) = self.clients[index].take_if(|client| client.is_over()) {
            let _ = poll.registry().deregister(&mut SourceFd(&client.socket.as_raw_fd()));
            drop(client);
            // At once, before anything else takes the number that is free now.
            self.reserve.refill();
        }
    }

    /// Returns the command of a request, or why it is refused. The client learns that its command is accepted before the
    /// master executes it, because the outcome may follow at once.
    fn command(
        &mut self,
        index: usize,
        request: &Request,
        life: &Lifecycle,
        now: Time,
    ) -> Result<Command, Refusal> {
        let followers = self.clients.iter().flatten().filter(|c| c.awaits == Awaits::Events).count();
        let Some(client) = &mut self.clients[index] else { return Err(failed("the client is gone")) };
        let (command, awaits, what) = match *request {
            Request::Status {} => return Ok(Command::Status),
            Request::Events {} if followers >= FOLLOWERS => {
                let text = format!("{FOLLOWERS} clients follow events already");
                return Err(refusal(RefusalKind::Busy, text));
            }
            Request::Events {} => {
                client.awaits = Awaits::Events;
                return Ok(Command::Follow);
            }
            Request::Reload { wait } => {
                refuse_if_stopping(life)?;
                client.departed = Departed::default();
                let awaits = if wait { Awaits::ReloadAndOld(None) } else { Awaits::Reload(None) };
                (Command::Reload, awaits, "reload".to_owned())
            }
            Request::Upgrade {} => {
                refuse_if_stopping(life)?;
                (Command::Upgrade, Awaits::Upgrade, "upgrade".to_owned())
            }
            Request::Scale(count) => {
                let (from, to) = (life.slots(), target(count, life)?);
                let what = format!("scale from {from} to {}", counted(to as u64, "worker"));
                (Command::Scale(to), Awaits::Scale { to, from }, what)
            }
            Request::Drain { worker } => {
                let id = WorkerId(worker);
                if life.workers().iter().all(|w| w.id != id) {
                    let text = format!("worker {worker}: no such worker");
                    return Err(refusal(RefusalKind::NoSuchWorker, text));
                }
                (Command::Drain(id), Awaits::Drain(id), format!("drain worker {worker}"))
            }
            Request::Stop { now } => {
                let what = if now { "stop at once" } else { "stop" };
                (Command::Stop { now }, Awaits::Stop, what.to_owned())
            }
        };
        log!(Info, "control: {what}, by pid {} (uid {})", client.peer.pid, client.peer.uid);
        let is_reload = matches!(awaits, Awaits::Reload(None) | Awaits::ReloadAndOld(None));
        let queued = is_reload && life.must_reload_wait();
        client.reply(&Reply::Accepted { queued }, now);
        client.awaits = awaits;
        Ok(command)
    }

    /// Answers each client whose wait is over, with the reply that `end` returns for it.
    fn answer_waiting(&mut self, now: Time, end: impl Fn(Awaits) -> Option<Reply>) {
        for (index, client) in self.clients.iter_mut().enumerate() {
            if let Some(client) = client
                && let Some(reply) = end(client.awaits)
            {
                match reply {
                    Reply::Reload(verdict) => client.finish_reload(verdict, now),
                    reply => client.finish(&reply, now),
                }
                // It may have sent another request already.
                self.pending |= 1 << index;
            }
        }
    }

    /// Sends an event to followers. Messages may be more than a follower can read, and must not cost it other events: it
    /// learns how many were left out.
    fn send(&mut self, event: &Event, now: Time) {
        let is_message = matches!(event, Event::Message { .. });
        let (mut line, mut left_out_in_it) = (Vec::new(), None);
        for (index, client) in self.clients.iter_mut().enumerate() {
            let Some(client) = client.as_mut().filter(|c| c.awaits == Awaits::Events) else { continue };
            let left_out = if is_message { client.room_for_message() } else { Some(0) };
            let Some(left_out) = left_out else { continue };
            // One line serves all followers, unless they differ in what was left out.
            if left_out_in_it.replace(left_out) != Some(left_out) {
                line.clear();
                let stamped = Stamped { left_out, ..Stamped::now(event.clone()) };
                if write_line(&Reply::Event(stamped), &mut line).is_err() {
                    return;
                }
            }
            if !client.send(&line, now) {
                log!(Warn, "control: pid {} does not read its events; disconnected", client.peer.pid);
                self.pending |= 1 << index;
            }
        }
    }
}

/// The reply for a client if this event ends its wait.
fn end_in(event: &Event, awaits: Awaits, life: &Lifecycle) -> Option<Reply> {
    match (awaits, event) {
        (
            Awaits::Reload(Some(Generation(generation))) | Awaits::ReloadAndOld(Some(Generation(generation))),
            _,
        ) => Verdict::of(event).filter(|v| v.generation == generation).map(Reply::Reload),
        (Awaits::Drain(WorkerId(id)), Event::Exit { worker, exit, reason, .. }) if worker.id == id => {
            let killed = *reason == Reason::DrainTimeout;
            Some(Reply::Drained { worker: id, exit: *exit, killed })
        }
        (Awaits::Scale { .. }, Event::Error { text }) if life.cannot_start() => {
            Some(Reply::Error(failed(text.clone())))
        }
        (Awaits::Scale { to, from }, Event::Exit { worker, exit, reason: Reason::BootFailure, .. })
            if (from..to).contains(&(worker.slot as usize)) && life.given_up().is_none() =>
        {
            Some(Reply::Error(failed(format!(
                "worker {} (slot {}) died before it was ready: {exit}; its slot is tried again",
                worker.id, worker.slot
            ))))
        }
        _ => None,
    }
}

/// The reply for a client if its condition is met by now, or can no longer be met.
fn outcome(awaits: Awaits, life: &Lifecycle) -> Option<Reply> {
    match awaits {
        Awaits::Reload(None) | Awaits::ReloadAndOld(None) | Awaits::Upgrade | Awaits::Scale { .. }
            if life.is_stopping() =>
        {
            Some(Reply::Error(stopping()))
        }
        Awaits::Scale { to, .. } if life.slots() != to => {
            let wanted = counted(life.slots() as u64, "worker");
            Some(Reply::Error(failed(format!("superseded by a scale to {wanted}"))))
        }
        Awaits::Scale { to, .. } if life.is_complete() => Some(Reply::Scaled { workers: to }),
        Awaits::Scale { to, .. } => life.given_up().map(|slot| {
            Reply::Error(failed(format!(
                "scale to {}: slot {slot} stays empty: its worker ended with exit code {EX_CONFIG}, which says that its \
                 configuration is wrong; correct it and reload",
                counted(to as u64, "worker")
            )))
        }),
        _ => None,
    }
}

/// The number of workers that a request to scale asks for.
fn target(count: Count, life: &Lifecycle) -> Result<usize, Refusal> {
    refuse_if_stopping(life)?;
    if life.is_booting() {
        return Err(failed("the first workers are not ready yet"));
    }
    let from = life.slots();
    let to = match count {
        Count::To(n) => i64::from(n),
        Count::By(n) => from as i64 + i64::from(n),
    };
    let in_range = usize::try_from(to).ok().filter(|n| (1..=MAX_WORKERS).contains(n));
    in_range
        .ok_or_else(|| failed(format!("expected 1 to {MAX_WORKERS} workers, found {to} ({from} run now)")))
}

/// True if no descriptor is free, for this process or for all.
fn is_shortage(e: &io::Error) -> bool {
    matches!(e.raw_os_error(), Some(errno::EMFILE | errno::ENFILE))
}

fn refuse_if_stopping(life: &Lifecycle) -> Result<(), Refusal> {
    if life.is_stopping() { Err(stopping()) } else { Ok(()) }
}

fn stopping() -> Refusal {
    failed("the server is stopping")
}

fn failed(text: impl Into<String>) -> Refusal {
    refusal(RefusalKind::Failed, text)
}

fn refusal(kind: RefusalKind, text: impl Into<String>) -> Refusal {
    Refusal { kind, text: text.into() }
}

#[cfg(test)]
mod tests;
