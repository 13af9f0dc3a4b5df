//! The master's side of the control socket: a few clients in the master's own loop, none of which can hold it up.
//!
//! Who may come in is a matter of the kernel's word (`SO_PEERCRED`), not of theirs. A command that changes something is
//! logged with who gave it.

mod client;

use super::lifecycle::{EX_CONFIG, Lifecycle};
use super::{Master, Token};
use crate::config::{Config, MAX_WORKERS};
use crate::control::place::Place;
use crate::control::protocol::{
    Count, Hello, Refusal, RefusalKind, Reply, Request, Stamped, VERSION, Verdict, write_line,
};
use crate::event::{Event, Reason, ReloadState};
use crate::log::log;
use crate::sys::peer::{self, Peer};
use crate::sys::{poll, process, socket};
use client::{Client, Waits};
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

/// Clients at a time.
pub const CLIENTS: usize = 16;
/// Of those, clients that only listen: they must not keep out who has something to say.
const LISTENERS: usize = 12;
/// Clients let in in one turn.
const BATCH: usize = 4;
/// How long nobody is let in when descriptors ran out (milliseconds).
const REST: u64 = 250;
/// Later than any time.
const NEVER: u64 = u64::MAX;

/// The control socket and its clients; nothing where it is not wanted or cannot be.
#[derive(Default)]
pub struct Control(Option<Box<Desk>>);

struct Desk {
    socket: OwnedFd,
    place: Place,
    hello: Hello,
    clients: [Option<Client>; CLIENTS],
    /// Nobody is let in until then.
    rest_until: Option<u64>,
    /// By client: it has been answered, and may have asked more meanwhile.
    again: u16,
}

impl Control {
    /// Makes the socket and has the poll report it. Where that cannot be, the log says so: a service is worth more than a
    /// way to ask after it.
    pub fn open(config: &Config, name: &str, poll: &Poll) -> Self {
        if !config.control {
            return Self(None);
        }
        let made = Place::make(name).and_then(|(place, socket)| {
            let watched = socket::set_nonblocking(socket.as_fd(), true)
                .and_then(|()| poll::watch_level(poll, socket.as_fd(), Token::Control.into()));
            watched.map_err(|e| e.to_string()).map(|()| (place, socket))
        });
        let (place, socket) = match made {
            Ok(made) => made,
            Err(e) => {
                log!("no control socket, so `prefork ls` and the like will not find this server: {e}");
                return Self(None);
            }
        };
        Self(Some(Box::new(Desk {
            socket,
            place,
            hello: Hello {
                prefork: env!("CARGO_PKG_VERSION").into(),
                protocol: VERSION,
                name: name.to_owned(),
                pid: process::own_pid(),
            },
            clients: Default::default(),
            rest_until: None,
            again: 0,
        })))
    }

    /// In a worker: lets go of it all and leaves the file to the master.
    pub fn disown(&mut self) {
        if let Some(desk) = &mut self.0 {
            desk.place.disown();
        }
        self.0 = None;
    }

    fn client(&mut self, index: usize) -> Option<&mut Client> {
        self.0.as_mut()?.clients.get_mut(index)?.as_mut()
    }
}

impl Desk {
    fn clients(&mut self) -> impl Iterator<Item = (usize, &mut Client)> {
        self.clients.iter_mut().enumerate().filter_map(|(i, c)| Some((i, c.as_mut()?)))
    }

    /// Tells those who listen, and those who wait for this.
    fn hear(&mut self, event: &Event, life: &Lifecycle, now: u64) {
        if let Event::Message { .. } = event {
            return self.tell_message(event, now);
        }
        let verdict = Verdict::of(event);
        if self.clients().any(|(_, c)| c.waits == Waits::Events)
            // A stream begins with a setup of its own and ends with the master.
            && !matches!(event, Event::Setup { .. } | Event::Stopped { .. })
        {
            self.tell(&Reply::Event(Stamped::now(event.clone())), now);
        }
        for (i, client) in self.clients.iter_mut().enumerate() {
            let Some(client) = client else { continue };
            let reply = match (client.waits, event) {
                (Waits::Reload(None), Event::Reload { state: ReloadState::Started, generation, .. }) => {
                    client.waits = Waits::Reload(Some(*generation));
                    continue;
                }
                (Waits::Reload(Some(generation)), _) => {
                    verdict.clone().filter(|v| v.generation == generation).map(Reply::Reload)
                }
                (Waits::Drain(id), Event::Exit { worker, exit, reason, .. }) if worker.id == id => {
                    let killed = *reason == Reason::DrainTimeout;
                    Some(Reply::Drained { worker: id, exit: *exit, killed })
                }
                (
                    Waits::Scale { to, from },
                    Event::Exit { worker, exit, reason: Reason::BootFailure, .. },
                ) if (from..to).contains(&(worker.slot as usize)) && life.given_up().is_none() => {
                    Some(failed(format!(
                        "worker {} (slot {}) died before it was ready: {exit}; it is tried again",
                        worker.id, worker.slot
                    )))
                }
                _ => None,
            }
            .or_else(|| overtaken(client.waits, life));
            if let Some(reply) = reply {
                answer(client, &reply, now);
                self.again |= 1 << i;
            }
        }
    }

    /// Messages may be more than a follower can read, who is not to lose the other events for them: it is told how many it was
    /// spared.
    fn tell_message(&mut self, event: &Event, now: u64) {
        let (mut line, mut spared_in_it) = (Vec::new(), None);
        for client in self.clients.iter_mut().flatten().filter(|c| c.waits == Waits::Events) {
            let Some(spared) = client.room_for_message() else { continue };
            if spared_in_it != Some(spared) {
                line.clear();
                let stamped = Stamped { left_out: spared, ..Stamped::now(event.clone()) };
                if write_line(&Reply::Event(stamped), &mut line).is_err() {
                    return;
                }
                spared_in_it = Some(spared);
            }
            client.tell(&line, now);
        }
    }

    fn tell(&mut self, event: &Reply, now: u64) {
        let mut line = Vec::new();
        if write_line(event, &mut line).is_err() {
            return;
        }
        for (i, client) in self.clients.iter_mut().enumerate() {
            let Some(client) = client.as_mut().filter(|c| c.waits == Waits::Events) else { continue };
            if !client.tell(&line, now) {
                log!("control: pid {} does not read the events it asked for; dropped", client.peer.pid);
                self.again |= 1 << i;
            }
        }
    }

    /// Answers those whose wait is over by the state of things.
    fn look_again(&mut self, life: &Lifecycle, now: u64) {
        for (i, client) in self.clients.iter_mut().enumerate() {
            let Some(client) = client else { continue };
            if let Some(reply) = overtaken(client.waits, life) {
                answer(client, &reply, now);
                self.again |= 1 << i;
            }
        }
    }
}

fn answer(client: &mut Client, reply: &Reply, now: u64) {
    client.waits = Waits::No;
    client.reply(reply, now);
}

/// What there is to say to who waits for something that has come to be, or cannot come any more.
fn overtaken(waits: Waits, life: &Lifecycle) -> Option<Reply> {
    match waits {
        Waits::Reload(None) | Waits::Scale { .. } if life.is_stopping() => Some(failed("the master stops")),
        Waits::Scale { to, .. } if life.slots().len() != to => {
            Some(failed(format!("overtaken: {} workers are wanted by now", life.slots().len())))
        }
        Waits::Scale { to, .. } if life.is_complete() => Some(Reply::Scaled { workers: to }),
        Waits::Scale { to, .. } => life.given_up().map(|slot| {
            failed(format!(
                "{to} workers are wanted, but slot {slot} stays empty: its worker ended with exit code {EX_CONFIG}, which says that \
                 its configuration is wrong; mend that and reload"
            ))
        }),
        _ => None,
    }
}

fn failed(text: impl Into<String>) -> Reply {
    refusal(RefusalKind::Failed, text)
}

fn refusal(kind: RefusalKind, text: impl Into<String>) -> Reply {
    Reply::Error(Refusal { kind, text: text.into() })
}

impl Master {
    /// What the poll reports of the control socket and its clients.
    pub(super) fn serve_control(&mut self, events: &Events) {
        for event in events.iter() {
            match event.token().into() {
                Token::Control => self.let_in(),
                Token::ControlClient(n) => {
                    self.attend(n, event.is_write_closed() || event.is_error());
                }
                _ => {}
            }
        }
    }

    fn let_in(&mut self) {
        for _ in 0..BATCH {
            let Some(desk) = &mut self.control.0 else { return };
            let socket = match socket::accept(desk.socket.as_fd()) {
                Ok(socket) => socket,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return,
                Err(e) => return self.rest_control(&e),
            };
            match peer::peer_of(socket.as_fd()) {
                Ok(peer) if peer.uid == 0 || peer.uid == peer::own_user() => self.welcome(socket, peer),
                Ok(peer) => {
                    log!("control: pid {} (uid {}) is refused", peer.pid, peer.uid);
                    let mut client = Client::new(socket, peer, self.now);
                    client.dismiss(RefusalKind::Denied, "only its own user and root may", self.now);
                }
                Err(e) => log!("control: SO_PEERCRED: {e}"),
            }
        }
    }

    fn welcome(&mut self, socket: OwnedFd, peer: Peer) {
        let Some(desk) = &mut self.control.0 else { return };
        let mut client = Client::new(socket, peer, self.now);
        let Some(place) = desk.clients.iter().position(Option::is_none) else {
            let text = format!("{CLIENTS} clients speak to it already");
            return client.dismiss(RefusalKind::Busy, text, self.now);
        };
        let registry = self.poll.registry();
        let both = Interest::READABLE | Interest::WRITABLE;
        let fd = client.socket.as_raw_fd();
        if let Err(e) = registry.register(&mut SourceFd(&fd), Token::ControlClient(place).into(), both) {
            return log!("control: epoll_ctl: {e}");
        }
        client.reply(&Reply::Hello(desk.hello.clone()), self.now);
        let deadline = client.deadline();
        desk.clients[place] = Some(client);
        self.arm(deadline);
    }

    /// Nobody is let in for a moment: without a free descriptor accept would only fail again.
    fn rest_control(&mut self, cause: &io::Error) {
        let Some(desk) = &mut self.control.0 else { return };
        log!("control: accept: {cause}; clients wait meanwhile");
        let _ = poll::unwatch(&self.poll, desk.socket.as_fd());
        let until = self.now + REST;
        desk.rest_until = Some(until);
        self.arm(until);
    }

    /// Serves a client as far as it goes.
    fn attend(&mut self, index: usize, hung_up: bool) {
        if let Some(client) = self.control.client(index) {
            client.flush();
            client.read();
        }
        while let Some(request) = self.control.client(index).and_then(Client::next_request) {
            match request {
                Ok(request) => self.obey(index, request),
                Err(why) => {
                    let now = self.now;
                    if let Some(client) = self.control.client(index) {
                        client.dismiss(RefusalKind::Usage, why, now);
                    }
                }
            }
        }
        let Some(client) = self.control.client(index) else { return };
        if hung_up || client.is_over() {
            self.let_go(index);
        } else {
            let deadline = client.deadline();
            self.arm(deadline);
        }
    }

    fn let_go(&mut self, index: usize) {
        let Some(desk) = &mut self.control.0 else { return };
        if let Some(client) = desk.clients[index].take() {
            let _ = self.poll.registry().deregister(&mut SourceFd(&client.socket.as_raw_fd()));
        }
    }

    fn obey(&mut self, index: usize, request: Request) {
        let reply = self.begin(index, &request).err();
        let now = self.now;
        if let (Some(reply), Some(client)) = (reply, self.control.client(index)) {
            client.waits = Waits::No;
            client.reply(&reply, now);
        }
        if let Some(desk) = &mut self.control.0 {
            desk.look_again(&self.lifecycle, now);
        }
        self.attend_soon();
    }

    /// Begins what is asked for; `Err`: the answer, where there is nothing to wait for.
    fn begin(&mut self, index: usize, request: &Request) -> Result<(), Reply> {
        match *request {
            Request::Status {} => Err(Reply::Status(Box::new(self.status()))),
            Request::Events {} => self.begin_events(index),
            Request::Reload {} => {
                self.refuse_when_stopping()?;
                let queued = self.lifecycle.keeps_a_reload_waiting();
                self.accept_command(index, "reload", Waits::Reload(None), queued);
                self.reload().map_err(|e| failed(e.to_string()))
            }
            Request::Scale(count) => self.begin_scale(index, count),
            Request::Drain { worker } => {
                if self.crew.seat_of(worker).is_none() {
                    let text = format!("worker {worker}: no such worker");
                    return Err(refusal(RefusalKind::NoSuchWorker, text));
                }
                self.accept_command(index, &format!("drain worker {worker}"), Waits::Drain(worker), false);
                self.drain_worker(worker, None).map_err(|e| failed(e.to_string()))
            }
            Request::Stop { now } => {
                let what = if now { "stop at once" } else { "stop" };
                self.accept_command(index, what, Waits::Stop, false);
                // Asking twice would mean at once.
                if now || !self.lifecycle.is_stopping() {
                    self.stop();
                }
                if now {
                    self.stop();
                }
                Ok(())
            }
        }
    }

    fn begin_events(&mut self, index: usize) -> Result<(), Reply> {
        let listening = self
            .control
            .0
            .as_mut()
            .map_or(0, |d| d.clients().filter(|(_, c)| c.waits == Waits::Events).count());
        if listening >= LISTENERS {
            return Err(refusal(RefusalKind::Busy, format!("{LISTENERS} clients listen already")));
        }
        let setup = self.setup_event();
        let now = self.now;
        if let Some(client) = self.control.client(index) {
            client.reply(&Reply::Event(Stamped::now(setup)), now);
            client.waits = Waits::Events;
        }
        Ok(())
    }

    fn begin_scale(&mut self, index: usize, count: Count) -> Result<(), Reply> {
        self.refuse_when_stopping()?;
        if self.lifecycle.is_booting() {
            return Err(failed("the first workers are not ready yet"));
        }
        let from = self.lifecycle.slots().len();
        let to = match count {
            Count::To(n) => i64::from(n),
            Count::By(n) => from as i64 + i64::from(n),
        };
        let to = usize::try_from(to).ok().filter(|n| (1..=MAX_WORKERS).contains(n)).ok_or_else(|| {
            failed(format!("expected 1 to {MAX_WORKERS} workers, and {from} are wanted now; {to} cannot be"))
        })?;
        let what = format!("scale from {from} to {to} workers");
        self.accept_command(index, &what, Waits::Scale { to, from }, false);
        self.scale(to).map_err(|e| failed(e.to_string()))
    }

    fn refuse_when_stopping(&self) -> Result<(), Reply> {
        if self.lifecycle.is_stopping() { Err(failed("the master stops")) } else { Ok(()) }
    }

    /// Says that something is being done, to the client and in the log, before it is: what follows from it may follow at once.
    fn accept_command(&mut self, index: usize, what: &str, waits: Waits, queued: bool) {
        let now = self.now;
        let Some(client) = self.control.client(index) else { return };
        log!("control: {what}, by pid {} (uid {})", client.peer.pid, client.peer.uid);
        client.reply(&Reply::Accepted { queued }, now);
        client.waits = waits;
    }

    /// Something happened.
    pub(super) fn control_hears(&mut self, event: &Event) {
        if let Some(desk) = &mut self.control.0 {
            desk.hear(event, &self.lifecycle, self.now);
            self.attend_soon();
        }
    }

    /// Whether somebody is told what happens.
    pub(super) fn control_has_followers(&self) -> bool {
        let clients = self.control.0.iter().flat_map(|desk| desk.clients.iter().flatten());
        clients.into_iter().any(|client| client.waits == Waits::Events)
    }

    /// Those who were answered may have asked more meanwhile, but this is not the place to begin with it.
    fn attend_soon(&mut self) {
        if self.control.0.as_ref().is_some_and(|d| d.again != 0) {
            self.arm(self.now);
        }
    }

    /// What is due; when something is due next.
    pub(super) fn control_timers(&mut self) -> u64 {
        let now = self.now;
        let Some(desk) = &mut self.control.0 else { return NEVER };
        if desk.rest_until.is_some_and(|at| at <= now) {
            desk.rest_until = None;
            if let Err(e) = poll::watch_level(&self.poll, desk.socket.as_fd(), Token::Control.into()) {
                log!("control: epoll_ctl: {e}");
            }
        }
        let mut again = std::mem::take(&mut desk.again);
        for (i, client) in desk.clients() {
            if client.deadline() <= now {
                client.give_up(now);
                again |= 1 << i;
            }
        }
        (0..CLIENTS).filter(|i| again & (1 << i) != 0).for_each(|i| self.attend(i, false));
        let Some(desk) = &mut self.control.0 else { return NEVER };
        let rest = desk.rest_until.unwrap_or(NEVER);
        let soon = if desk.again == 0 { NEVER } else { now };
        desk.clients().map(|(_, c)| c.deadline()).chain([rest, soon]).min().unwrap_or(NEVER)
    }

    /// The run is over: who waited for it hears so, and so does who waited for something else.
    pub(super) fn control_ends(&mut self) {
        let Some(desk) = &mut self.control.0 else { return };
        let killed = self.lifecycle.killed();
        for (_, client) in desk.clients() {
            match client.waits {
                Waits::Stop => client.reply(&Reply::Stopped { killed }, self.now),
                Waits::Reload(_) | Waits::Scale { .. } | Waits::Drain(_) => {
                    client.reply(&failed("the master has stopped"), self.now);
                }
                Waits::No | Waits::Events => {}
            }
        }
    }
}
