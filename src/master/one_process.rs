//! A server without a master: this process binds the addresses and is the only worker itself, for debuggers, valgrind, sanitizers,
//! profilers and reports of coverage. It forks nothing and needs no pidfd.

use super::lifecycle::SAME_INTERRUPT;
use super::start::check_kernel;
use super::{sockets, upgrade};
use crate::config::{Accept, Config};
use crate::error::{Error, ErrorKind, Result};
use crate::event::{Started, Stopped};
use crate::handoff;
use crate::ids::{Generation, ListenerId, Page, Slot, WorkerId};
use crate::log::log;
use crate::message::{self, Channel};
use crate::role::{self, Role};
use crate::scoreboard::Scoreboard;
use crate::sys::time::Time;
use crate::sys::{forks, memory};
use crate::worker::handed::Signals;
use crate::worker::messages::WorkerMessages;
use crate::worker::source::Source;
use crate::worker::{Own, SelfInfo, Worker, WorkerSetup, one_process};
use std::ffi::CString;
use std::io;
use std::os::fd::AsFd;
use std::time::SystemTime;

/// Serves in this process until it is told to stop. `on_start` is told when it serves.
///
/// # Errors
/// As [`crate::Server::run`].
pub fn run(
    mut config: Config,
    mut source: Box<dyn Source>,
    args: Vec<CString>,
    mut on_start: impl FnMut(&Started),
) -> Result<Stopped> {
    let system = |what: &'static str| move |e: io::Error| Error::io(ErrorKind::System, what, e);
    check_kernel()?;
    if role::role() != Role::None {
        return Err(Error::new(ErrorKind::State, "run: a server runs in this process already"));
    }
    if upgrade::take_saved()?.is_some() {
        return Err(refuse_upgrade());
    }
    if config.workers > 1 {
        log!(Warn, "--one-process: --workers {} has no effect", config.workers);
    }
    config.accept = Accept::Shared;
    let takes_signals = config.signals == Some(true);
    let mut poll = mio::Poll::new().map_err(system("epoll_create"))?;
    // These keep the files of Unix sockets, and remove them at the end.
    let mut listeners = sockets::open_all(&config, 1, mio::Token)?;
    let board = Scoreboard::new(1).map_err(system("map the scoreboard"))?;
    let page = board.page(Page(0));
    let wake = memory::wake_counter().map_err(system("eventfd"))?;
    let leave = memory::wake_counter().map_err(system("eventfd"))?;
    // Nothing comes by this one; its other end stays open, so that the worker finds no end of file.
    let (_other_end, queue) = handoff::channel().map_err(system("socketpair"))?;
    let (other_end, Channel { socket, inbox, outbox }) =
        message::channel(config.max_message).map_err(system("socketpair"))?;
    let addresses: Vec<_> = listeners.iter().map(ToString::to_string).collect();
    let info = SelfInfo {
        id: WorkerId(1),
        slot: Slot(0),
        generation: Generation::FIRST,
        args,
        started: SystemTime::now(),
        forked_at: Time::now(),
        last_exit: None,
        page,
        messages: WorkerMessages::alone(socket, other_end.socket, outbox),
        own: Own::default(),
        listeners: listeners.iter().map(sockets::Listener::served).collect(),
    };
    let own =
        |(index, listener): (usize, &mut sockets::Listener)| listener.take_socket(ListenerId::at(index));
    let own_sockets = listeners.iter_mut().enumerate().filter_map(own).collect();
    forks::count();
    let worker = Worker::kept(info);
    let setup = WorkerSetup {
        worker,
        master: 0,
        queue,
        own_sockets,
        inbox,
        common: board.common(),
        wake: wake.as_fd(),
        leave,
        stderr: None,
    };
    let mut ready =
        |kind, kinds| on_start(&Started { addresses: addresses.clone(), workers: 1, kind, kinds });
    let signals = Signals { are_taken: takes_signals, same: SAME_INTERRUPT };
    let cut = one_process::run(&mut *source, &config, setup, &mut poll, signals, &mut ready)?;
    Ok(Stopped { killed: 0, cut })
}

/// The refusal to take the place of a server that has workers.
pub fn refuse_upgrade() -> Error {
    Error::new(ErrorKind::Config, "--one-process: it cannot take over from a server with workers")
}
