//! Spawning a worker and collecting it: channels, fork, pidfd, registration; messages; death.

use super::crew::Record;
use super::lifecycle::{Ended, Input};
use super::{Master, Token};
use crate::handoff;
use crate::ids::{Page, WorkerId};
use crate::log::log;
use crate::message::{self, Channel, Inbox};
use crate::scoreboard::Word;
use crate::sys::process::{self, Fork};
use crate::sys::stderr::Diverted;
use crate::sys::{memory, signal};
use crate::worker::mailbox::Mailbox;
use crate::worker::{self, Birth, Own, Worker};
use mio::Interest;
use mio::unix::SourceFd;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::SystemTime;

impl Master {
    /// Forks a worker.
    pub(super) fn spawn(&mut self, id: u32, slot: usize, generation: u32) -> io::Result<()> {
        self.make_doors();
        self.fd_reserve.release();
        let result = self.spawn_with(id, slot, generation);
        // Where a shortage was seen, the numbers set free are for the next start.
        if self.shortage.is_none() {
            self.fd_reserve.refill();
        }
        result
    }

    fn spawn_with(&mut self, id: u32, slot: usize, generation: u32) -> io::Result<()> {
        match process::thread_count()? {
            1 => {}
            threads => {
                return Err(io::Error::other(format!("this process has {threads} threads, expected 1")));
            }
        }
        let seat = self.crew.free_seat().ok_or_else(|| io::Error::other("all seats are taken"))?;
        let (giver, queue) = handoff::channel()?;
        let (channel, theirs) = message::channel(self.config.max_message)?;
        let page = self.board.page(Page::at(seat));
        page.clear();
        let (started, forked_at) = (SystemTime::now(), self.now);
        let stderr = self.stderr.open(WorkerId(id), Page::at(seat), &self.poll);
        let forked = process::fork();
        if forked.is_err() {
            self.finish_stderr(seat);
        }
        let process = match forked? {
            Fork::Parent(process) => process,
            Fork::Child => {
                drop((giver, channel));
                let Channel { socket, inbox, outbox } = theirs;
                let mailbox = Mailbox::new(id, socket, outbox);
                let last_exit = self.last_exit(slot);
                let own = Own { started, forked_at, last_exit, page };
                let worker = Worker::new(id, slot as u32, generation, &self.args, own, mailbox);
                self.become_worker(seat, worker, queue, inbox, stderr)
            }
        };
        let record = Record {
            id,
            slot,
            generation,
            started,
            process,
            giver,
            queue,
            page,
            failure: None,
            kind: None,
            given: 0,
            limit: 0,
            admitted: false,
            stuck: false,
            asked: 0,
            last_progress: 0,
            lay: false,
            max_requests: self.jittered_max_requests(id),
            watched: false,
            busy_told: 0,
        };
        let watched = self.watch(seat, &record);
        if watched.is_err() {
            let _ = record.process.kill(signal::SIGKILL);
            let _ = record.process.wait();
            self.finish_stderr(seat);
        } else {
            self.messages.router().add(WorkerId(id), Page::at(seat), channel);
            self.crew.sit(seat, record);
        }
        watched
    }

    pub(super) fn watch(&self, seat: usize, record: &Record) -> io::Result<()> {
        let process = record.process.as_fd().as_raw_fd();
        self.poll.registry().register(
            &mut SourceFd(&process),
            Token::Exit(Page::at(seat)).into(),
            Interest::READABLE,
        )
    }

    /// Spread over a tenth above the setting, so that workers that started together are not replaced together.
    fn jittered_max_requests(&self, id: u32) -> u64 {
        let n = self.config.max_requests;
        let spread = u64::from(id).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        n + spread % (n / 10 + 1)
    }

    /// In the child: lets go of all that is the master's, so that siblings and clients see ends of file when they should, and
    /// goes to work. What user code opened before the fork stays open: it may be the handler's.
    fn become_worker(
        &mut self,
        seat: usize,
        worker: Worker,
        queue: handoff::Taker,
        inbox: Inbox,
        stderr: Option<OwnedFd>,
    ) -> ! {
        let addresses = self.addresses_by_kind();
        let doors = self.doors_of(worker.slot() as usize);
        self.crew.clear();
        self.messages.close();
        self.returns.clear();
        self.in_hand = None;
        self.control.disown();
        self.fd_reserve.release();
        self.stderr.clear();
        // Where that cannot be, it writes where the master writes.
        let diverted = stderr.and_then(|pipe| Diverted::into(&pipe).ok());
        for (name, value) in self.environments.get(&(worker.slot() as usize)).into_iter().flatten() {
            process::set_environment(name, value);
        }
        if let Some(signals) = self.signals.take() {
            signals.abandon();
        }
        if let Err(e) = self.board.keep_only(Page::at(seat)) {
            log!("worker {}: protect the scoreboard: {e}", worker.id());
        }
        let made = mio::Poll::new().and_then(|poll| memory::wake_counter().map(|leave| (poll, leave)));
        let leave = match made {
            Ok((poll, leave)) => {
                // The new poll replaces the master's, which is thereby closed here.
                self.poll = poll;
                leave
            }
            Err(e) => worker::fail(&worker, format!("epoll_create, eventfd: {e}")),
        };
        let (page, common) = (self.board.page(Page::at(seat)), self.board.common());
        let wake = self.wake.as_fd();
        let worker = Box::leak(Box::new(worker));
        let birth = Birth { worker, queue, doors, addresses, inbox, page, common, wake, leave, diverted };
        // A panic of our own must not unwind into what the master's caller does next: this process is not the master.
        let _ = catch_unwind(AssertUnwindSafe(|| {
            worker::run(&mut *self.source, &self.config, birth, &mut self.poll)
        }));
        process::exit(worker::EXIT_FAILED)
    }

    /// Collects the worker in a seat if it has ended, and puts what it had not taken up for the others.
    pub(super) fn reap(&mut self, seat: usize) {
        let Some(worker) = self.crew.at(seat) else { return };
        let exit = match worker.process.reap() {
            Ok(Some(exit)) => exit,
            Ok(None) => return,
            Err(e) => return log!("wait for worker {}: {e}", worker.id),
        };
        let id = worker.id;
        self.close_channel(id);
        let stderr = self.finish_stderr(seat);
        let Some(mut worker) = self.crew.leave(seat) else { return };
        let ended = Ended {
            id: worker.id,
            pid: worker.process.pid(),
            exit,
            failure: worker.failure.take(),
            stderr,
            was_ready: worker.kind.is_some(),
            queued: worker.queued(),
            lost: u64::from(worker.in_flight()).saturating_sub(worker.queued()),
        };
        self.orphan_all(worker);
        self.feed(Input::Died(ended));
    }

    /// Tells the lifecycle who is busy, and since when; who has served enough.
    pub(super) fn look_at_work(&mut self) {
        for seat in self.crew.seats() {
            let Some(worker) = self.crew.at(seat) else { continue };
            let (id, since) = (worker.id, worker.page.get(Word::BusySince));
            let worn = worker.max_requests > 0 && worker.page.get(Word::Requests) >= worker.max_requests;
            let news = since != worker.busy_told;
            worker.busy_told = since;
            if worn {
                worker.max_requests = 0;
                self.feed(Input::Worn(id));
            }
            if news && self.config.timeout > std::time::Duration::ZERO {
                // A worker's own word: not later than now, whatever it says.
                self.feed(Input::Busy(id, since.min(self.now)));
            }
        }
    }

    /// Finds workers that have grown too large.
    pub(super) fn look_at_memory(&mut self) {
        let limit = self.config.max_memory;
        for seat in self.crew.seats() {
            let Some(worker) = self.crew.at(seat).filter(|w| w.admitted) else { continue };
            let id = worker.id;
            if process::resident_bytes(worker.process.pid()).is_some_and(|bytes| bytes > limit) {
                self.feed(Input::Worn(id));
            }
        }
    }
}
