//! The birth of a worker, from its channels to its loop, and its death.

use super::kernel::{HandoffQueue, Kernel, WorkerLink, WorkerQueue};
use super::lifecycle::{Ended, Input};
use super::pool::WorkerEntry;
use super::sockets::Listener;
use super::{Master, Token, crashes};
use crate::handoff::{self, HandoffEnd};
use crate::ids::{Generation, ListenerId, Page, Slot, WorkerId};
use crate::log::log;
use crate::message::{self, Channel, Inbox};
use crate::sys::process::{self, Exit, Fork};
use crate::sys::stderr::RestoreStderr;
use crate::sys::{memory, signal};
use crate::worker::messages::WorkerMessages;
use crate::worker::own_sockets::OwnSocket;
use crate::worker::source::Numbers;
use crate::worker::{self, Own, SelfInfo, Served, Worker, WorkerSetup};
use mio::Interest;
use mio::unix::SourceFd;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::time::SystemTime;

/// The file of this program as the loader shows it in a stack: without its folder.
fn own_name() -> Option<String> {
    let path = std::env::args_os().next().map(PathBuf::from)?;
    path.file_name().map(|name| name.to_string_lossy().into_owned())
}

impl Master {
    /// Forks a worker.
    pub(super) fn spawn(&mut self, id: WorkerId, slot: Slot, generation: Generation) -> io::Result<()> {
        self.add_sockets();
        self.pool.system.reserve.release();
        let result = self.spawn_with(id, slot, generation);
        // During a shortage the descriptors set free are for the next start.
        if !self.pool.has_shortage() {
            self.pool.system.reserve.refill();
        }
        result
    }

    fn spawn_with(&mut self, id: WorkerId, slot: Slot, generation: Generation) -> io::Result<()> {
        let threads = process::thread_count()?;
        if threads != 1 {
            return Err(io::Error::other(format!("this process has {threads} threads, expected 1")));
        }
        let page = self.pool.workers.free_page().ok_or_else(|| io::Error::other("all pages are taken"))?;
        if let Some(protocol) = self.source.protocol() {
            return self.spawn_program(protocol, page, Numbers { id, slot, generation });
        }
        let (master_end, queue) = handoff::channel()?;
        let (channel, theirs) = message::channel(self.config.max_message)?;
        let counters = self.births.board.page(page);
        counters.clear();
        let started = SystemTime::now();
        let stderr = self.stderr.open(id, page, &self.poll);
        let forked = process::fork();
        if forked.is_err() {
            self.finish_stderr(page);
        }
        let process = match forked? {
            Fork::Parent(process) => process,
            Fork::Child => {
                drop((master_end, channel));
                let Channel { socket, inbox, outbox } = theirs;
                let info = SelfInfo {
                    id,
                    slot,
                    generation,
                    args: std::mem::take(&mut self.births.args),
                    started,
                    forked_at: self.clock.now,
                    last_exit: self.last_exit(slot.index()),
                    page: counters,
                    messages: WorkerMessages::new(socket, outbox),
                    own: Own::default(),
                    listeners: self.served(),
                };
                self.become_worker(page, Worker::new(info), queue, inbox, stderr)
            }
        };
        let queue = WorkerQueue::Handoff(HandoffQueue { master: master_end, worker: queue });
        let link = WorkerLink { process, page: counters, leads_group: false };
        let entry = WorkerEntry::new(id, slot, generation, link, queue, self.max_requests_of(id));
        self.add_worker(page, WorkerEntry { started, ..entry })?;
        self.messages.router().add(id, page, channel);
        Ok(())
    }

    /// Up to a tenth more than the setting, so that workers that started together are not replaced together.
    pub(super) fn max_requests_of(&self, id: WorkerId) -> u64 {
        let n = self.config.max_requests;
        n + id.spread() % (n / 10 + 1)
    }

    /// Adds a worker that was forked; kills it if its death would not be noticed.
    pub(super) fn add_worker(&mut self, page: Page, entry: WorkerEntry<Kernel>) -> io::Result<()> {
        let watched = self.watch_exit(page, &entry.link);
        if watched.is_err() {
            let _ = entry.link.kill(signal::SIGKILL);
            let _ = entry.link.process.wait();
            self.finish_stderr(page);
        } else {
            self.pool.workers.add(page, entry);
        }
        watched
    }

    /// Has the poll report the end of a worker.
    pub(super) fn watch_exit(&self, page: Page, link: &WorkerLink) -> io::Result<()> {
        let process = link.process.as_fd().as_raw_fd();
        self.poll.registry().register(&mut SourceFd(&process), Token::Exit(page).into(), Interest::READABLE)
    }

    /// Has the kernel hold connections until their first bytes come, if the handlers of all workers allow it.
    pub(super) fn defer_accept(&mut self) {
        for (index, listener) in self.pool.listeners.iter_mut().enumerate() {
            let kinds = self.pool.workers.iter().filter_map(|worker| worker.kind_at(index));
            listener.defer_accept(kinds, &self.config);
        }
    }

    /// Adds the sockets that slots lack, if each slot has its own.
    fn add_sockets(&mut self) {
        let slots = self.lifecycle.slots();
        for listener in &mut self.pool.listeners {
            if let Err(e) = listener.add_sockets(slots, &self.config, false) {
                log!(Warn, "{e}; a worker without a socket of its own uses another's");
            }
        }
    }

    /// In the child: closes all that is the master's, so that siblings and clients see ends of file when they should, and runs the
    /// worker. Descriptors that user code opened before the fork stay open: the handler may need them.
    fn become_worker(
        &mut self,
        page: Page,
        worker: Worker,
        queue: HandoffEnd,
        inbox: Inbox,
        stderr: Option<OwnedFd>,
    ) -> ! {
        let slot = Slot(worker.slot());
        let own_sockets = self.own_sockets_of(slot);
        self.scheduling.end_own();
        self.messages.close();
        self.control.disown();
        self.pool.system.reserve.release();
        self.stderr.clear();
        // If that fails, the worker writes to the master's standard error.
        let stderr = stderr.and_then(|pipe| RestoreStderr::into(&pipe).ok());
        for (name, value) in self.births.environments.get(&slot).into_iter().flatten() {
            process::set_environment(name, value);
        }
        if let Some(orphans) = self.orphans.take() {
            orphans.abandon();
        }
        if let Some(signals) = self.signals.take() {
            signals.abandon();
        }
        if let Err(e) = self.births.board.keep_only(page) {
            log!(Warn, "worker {}: protect the scoreboard: {e}", worker.id());
        }
        let made = mio::Poll::new().and_then(|poll| memory::wake_counter().map(|leave| (poll, leave)));
        let leave = match made {
            Ok((poll, leave)) => {
                // The new poll replaces the master's, which is thereby closed here.
                self.poll = poll;
                leave
            }
            Err(e) => worker::fail(&worker, format!("epoll_create, eventfd: {e}").into()),
        };
        let common = self.births.board.common();
        let wake = self.births.wake.as_fd();
        let worker = Box::leak(Box::new(worker));
        let setup =
            WorkerSetup { worker, master: self.home, queue, own_sockets, inbox, common, wake, leave, stderr };
        // A panic must not unwind into the caller of the master: this process is a worker.
        let _ = catch_unwind(AssertUnwindSafe(|| {
            worker::run(&mut *self.source, &self.config, setup, &mut self.poll)
        }));
        process::exit(worker::EXIT_FAILED)
    }

    /// The listeners as a worker knows them.
    fn served(&self) -> Vec<Served> {
        self.pool.listeners.iter().map(Listener::served).collect()
    }

    /// In a worker: returns its own sockets; closes the rest of the pool.
    fn own_sockets_of(&mut self, slot: Slot) -> Vec<OwnSocket> {
        let accept = self.config.accept;
        let own = |(index, listener): (usize, Listener)| {
            listener.into_socket_of(slot, ListenerId::at(index), accept)
        };
        self.pool.abandon().into_iter().enumerate().filter_map(own).collect()
    }

    /// Reaps the worker of a page if it has ended; the connections it had not taken go to others.
    pub(super) fn reap(&mut self, page: Page) {
        let Some(worker) = self.pool.workers.at(page) else { return };
        let (id, pid) = (worker.id, worker.link.process.pid());
        self.end_group(page);
        let Some(worker) = self.pool.workers.at(page) else { return };
        let exit = match worker.link.process.reap() {
            Ok(Some(exit)) => exit,
            Ok(None) => return,
            Err(e) => {
                log!(Warn, "wait for worker {id}: {e}; how it ended is unknown");
                Exit::Unknown
            }
        };
        // Its last notice may be that it is ready, or why it could not serve.
        self.close_channel(id);
        self.close_program(page);
        let stderr = self.finish_stderr(page);
        let Some(removed) = self.pool.remove(page) else { return };
        let program = self.source.is_module().then(own_name).flatten();
        // One that could not serve has said why.
        if removed.failure.is_none()
            && let Some(crash) =
                crashes::read(self.births.board.page(page), exit, self.clock.now, program.as_deref())
        {
            self.report.crashes.insert(id, crash);
        }
        if let Some(departed) = removed.departed {
            self.report.departures.note(id, departed);
        }
        self.defer_accept();
        self.feed(Input::Died(Ended {
            id,
            pid,
            exit,
            failure: removed.failure,
            stderr,
            was_ready: removed.was_ready,
            queued: removed.queued,
            lost: removed.lost,
            cut: removed.cut,
        }));
    }

    /// Kills and reaps all workers. No other process would reap them.
    pub(super) fn end_workers(&mut self) {
        for worker in self.pool.workers.iter() {
            let _ = worker.link.kill(signal::SIGKILL);
        }
        for page in self.pool.workers.pages() {
            if let Some(worker) = self.pool.workers.at(page) {
                let _ = worker.link.process.wait();
                self.finish_stderr(page);
                self.pool.remove(page);
            }
        }
    }

    /// Reads the standard error of the worker of a page.
    pub(super) fn read_stderr(&mut self, page: Page) {
        if self.stderr.read(page, &self.poll) {
            self.restore_reserve();
        }
    }

    /// Closes the standard error of a worker that has ended, and returns its last lines.
    pub(super) fn finish_stderr(&mut self, page: Page) -> Vec<String> {
        let lines = self.stderr.finish(page, &self.poll);
        self.restore_reserve();
        lines
    }

    /// Restores the reserve after a descriptor was closed: it may lack that, or have one with a higher number.
    fn restore_reserve(&mut self) {
        self.pool.system.reserve.move_down();
        if !self.pool.has_shortage() {
            self.pool.system.reserve.refill();
        }
    }
}
