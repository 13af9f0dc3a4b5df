//! What a worker hands over to another copy of its code in the same process: that of a module in Rust, which has its own
//! (`ffi/rust_module.rs`). The two may have been compiled by different compilers, so this is bytes; descriptors are their numbers. What
//! stays the first copy's, pages of the scoreboard and the master's wake-up, goes beside it.

use super::WorkerSetup;
use super::messages::WorkerMessages;
use super::own_sockets::OwnSocket;
use super::this_worker::{Own, SelfInfo, Served, Worker};
use crate::config::Config;
use crate::event::{Crash, Exit, LastExit, Reason, WorkerInfo};
use crate::handoff::HandoffEnd;
use crate::ids::{Generation, ListenerId, Slot, WorkerId};
use crate::message::{Inbox, Outbox};
use crate::scoreboard::{Common, WorkerPage};
use crate::sys::process::adopt_descriptor;
use crate::sys::stderr::RestoreStderr;
use crate::sys::time::Time;
use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, IntoRawFd, OwnedFd};
use std::time::{Duration, UNIX_EPOCH};

/// The signals of a server that is one process.
#[derive(Clone, Copy, Debug)]
pub struct Signals {
    /// They are handled.
    pub are_taken: bool,
    /// Two within this time count as one.
    pub same: Duration,
}

/// What is handed over.
pub struct Handed<'a> {
    /// The settings.
    pub config: &'a Config,
    /// The worker, whose handler is not opened yet.
    pub setup: WorkerSetup<'a>,
    /// Set in a server that is one process.
    pub alone: Option<Signals>,
}

/// What another copy has handed over, to serve with.
pub struct Received {
    /// The settings.
    pub config: Config,
    /// The worker.
    pub setup: WorkerSetup<'static>,
    /// Set in a server that is one process.
    pub alone: Option<Signals>,
}

/// What the other copy uses too, and must not free.
#[derive(Clone, Copy)]
pub struct Shared<'a> {
    /// The worker's own page.
    pub page: WorkerPage,
    /// The pages about all workers.
    pub common: Common,
    /// Wakes the master.
    pub wake: BorrowedFd<'a>,
}

/// Stands for a descriptor that is not there.
const NONE: u64 = u64::MAX;

impl<'a> Handed<'a> {
    /// What stays this copy's.
    pub fn shared(&self) -> Shared<'a> {
        Shared { page: self.setup.worker.info.page, common: self.setup.common, wake: self.setup.wake }
    }

    /// All the rest. The descriptors are whoever's reads it.
    pub fn into_bytes(self) -> Vec<u8> {
        let Self { config, setup, alone } = self;
        let WorkerSetup { worker, master, queue, own_sockets, leave, stderr, .. } = setup;
        let info = &worker.info;
        let mut to = Writer::default();
        to.numbers(&[u64::from(master.cast_unsigned())]);
        to.numbers(&[info.id.0, info.slot.0, info.generation.0].map(u64::from));
        let started = info.started.duration_since(UNIX_EPOCH).unwrap_or_default();
        to.numbers(&[started.as_secs(), started.subsec_nanos().into(), info.forked_at.as_millis()]);
        to.list(info.last_exit.iter(), |to, last| {
            let WorkerInfo { id, slot, generation, pid } = last.worker;
            to.numbers(&[id, slot, generation, pid.cast_unsigned(), last.reason as u32].map(u64::from));
            to.numbers(&match last.exit {
                Exit::Unknown => [0, 0, 0],
                Exit::Code(code) => [1, code.cast_unsigned().into(), 0],
                Exit::Signal { number, core } => [2, number.cast_unsigned().into(), core.into()],
            });
            to.list(last.crash.iter(), |to, crash| {
                let Crash { callback, lasted, request, peer, address, backtrace } = &**crash;
                to.bytes(callback.as_bytes());
                to.list(lasted.iter(), |to, lasted| to.numbers(&[lasted.as_millis() as u64]));
                to.list(request.iter(), |to, request| to.bytes(request.as_bytes()));
                to.list(peer.iter(), |to, peer| to.bytes(peer.as_bytes()));
                to.list(address.iter(), |to, address| to.numbers(&[*address]));
                to.list(backtrace.iter(), |to, function| to.bytes(function.as_bytes()));
            });
        });
        // The worker lives as long as the process, and so do its messages.
        to.numbers(&[number(&*info.messages.socket())]);
        to.numbers(&[info.messages.loopback().map_or(NONE, |fd| number(&fd))]);
        to.numbers(&[queue.0, leave].map(|fd| u64::from(fd.into_raw_fd().cast_unsigned())));
        to.list(stderr.into_iter(), |to, stderr| {
            let (original, (device, inode)) = stderr.into_parts();
            to.numbers(&[original.into_raw_fd().cast_unsigned().into(), device, inode]);
        });
        to.list(own_sockets.into_iter(), |to, own| {
            let OwnSocket { fd, listener, alone, datagrams, .. } = own;
            let fd = fd.into_raw_fd().cast_unsigned();
            to.numbers(&[fd.into(), listener.0.into(), alone.into(), datagrams.into()]);
        });
        to.list(info.args.iter(), |to, arg| to.bytes(arg.as_bytes()));
        to.list(info.listeners.iter(), |to, served| {
            to.bytes(served.name.as_bytes());
            to.bytes(served.address.as_bytes());
            to.numbers(&[served.takes_datagrams.into()]);
        });
        to.list(alone.into_iter(), |to, signals| {
            to.numbers(&[signals.are_taken.into(), signals.same.as_millis() as u64]);
        });
        // The listeners are those above. An empty value is one that is not set.
        let settings = Config::settings().filter(|setting| setting.name != "listen");
        let settings: Vec<_> = settings.map(|setting| (setting.name, (setting.show)(config))).collect();
        to.list(settings.iter().filter(|(_, value)| !value.is_empty()), |to, (name, value)| {
            to.bytes(name.as_bytes());
            to.bytes(value.as_bytes());
        });
        to.0
    }
}

impl Received {
    /// Reads what [`Handed::into_bytes`] has written.
    ///
    /// # Errors
    /// `InvalidData`, and those of [`adopt_descriptor`]: it was not written by the same version.
    pub fn from_bytes(bytes: &[u8], shared: Shared<'static>) -> io::Result<Self> {
        let mut from = Reader(bytes);
        let [master, id, slot, generation, secs, nanos, forked_at] = from.numbers()?;
        let last_exit = from.list(|from| {
            let [id, slot, generation, pid, reason, how, value, core] = from.numbers()?;
            let worker = WorkerInfo {
                id: id as u32,
                slot: slot as u32,
                generation: generation as u32,
                pid: pid as i32,
            };
            let exit = match how {
                1 => Exit::Code(value as i32),
                2 => Exit::Signal { number: value as i32, core: core != 0 },
                _ => Exit::Unknown,
            };
            let reason = *Reason::ALL.iter().find(|known| **known as u64 == reason).ok_or_else(invalid)?;
            let crash = from.list(|from| {
                let callback = from.text()?.to_owned();
                let lasted = from.list(|from| from.numbers().map(|[ms]| Duration::from_millis(ms)))?.pop();
                let request = from.list(|from| from.text().map(str::to_owned))?.pop();
                let peer = from.list(|from| from.text().map(str::to_owned))?.pop();
                let address = from.list(|from| from.numbers().map(|[address]| address))?.pop();
                let backtrace = from.list(|from| from.text().map(str::to_owned))?;
                Ok(Box::new(Crash { callback, lasted, request, peer, address, backtrace }))
            })?;
            Ok(LastExit { worker, exit, reason, crash: crash.into_iter().next() })
        })?;
        let [socket, loopback, queue, leave] = from.numbers()?;
        let stderr = from.list(|from| {
            let [original, device, inode] = from.numbers()?;
            Ok(RestoreStderr::from_parts(adopt(original)?, (device, inode)))
        })?;
        let own_sockets = from.list(|from| {
            let [fd, listener, alone, datagrams] = from.numbers()?;
            let listener = ListenerId::at(listener as usize);
            let (alone, datagrams) = (alone != 0, datagrams != 0);
            Ok(OwnSocket { fd: adopt(fd)?, listener, alone, datagrams, watched: None })
        })?;
        let args = from.list(|from| from.c_string())?;
        let listeners = from.list(|from| {
            let (name, address) = (from.c_string()?, from.text()?.to_owned());
            let [takes_datagrams] = from.numbers()?;
            Ok(Served { name, address, takes_datagrams: takes_datagrams != 0 })
        })?;
        let alone = from.list(|from| {
            let [are_taken, same] = from.numbers()?;
            Ok(Signals { are_taken: are_taken != 0, same: Duration::from_millis(same) })
        })?;
        let mut config = Config::default();
        from.list(|from| config.set(from.text()?, from.text()?).map_err(io::Error::other))?;
        let (socket, outbox) = (adopt(socket)?, Outbox::new(config.max_message, &[]));
        let messages = match loopback {
            NONE => WorkerMessages::new(socket, outbox),
            other_end => WorkerMessages::alone(socket, adopt(other_end)?, outbox),
        };
        let info = SelfInfo {
            id: WorkerId(id as u32),
            slot: Slot(slot as u32),
            generation: Generation(generation as u32),
            args,
            started: UNIX_EPOCH + Duration::new(secs, nanos as u32),
            forked_at: Time::from_millis(forked_at),
            last_exit: last_exit.into_iter().next(),
            page: shared.page,
            messages,
            own: Own::default(),
            listeners,
        };
        let setup = WorkerSetup {
            worker: Worker::kept(info),
            master: master as i32,
            queue: HandoffEnd(adopt(queue)?),
            own_sockets,
            inbox: Inbox::new(config.max_message, Vec::new()),
            common: shared.common,
            wake: shared.wake,
            leave: adopt(leave)?,
            stderr: stderr.into_iter().next(),
        };
        Ok(Self { config, setup, alone: alone.into_iter().next() })
    }
}

fn number(fd: &impl AsRawFd) -> u64 {
    fd.as_raw_fd().cast_unsigned().into()
}

fn adopt(number: u64) -> io::Result<OwnedFd> {
    adopt_descriptor(number as u32)
}

fn invalid() -> io::Error {
    io::ErrorKind::InvalidData.into()
}

#[derive(Default)]
struct Writer(Vec<u8>);

impl Writer {
    fn numbers(&mut self, numbers: &[u64]) {
        self.0.extend(numbers.iter().flat_map(|n| n.to_le_bytes()));
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.numbers(&[bytes.len() as u64]);
        self.0.extend(bytes);
    }

    fn list<T>(&mut self, items: impl Iterator<Item = T>, mut write: impl FnMut(&mut Self, T)) {
        let (at, mut count) = (self.0.len(), 0u64);
        self.numbers(&[count]);
        for item in items {
            write(self, item);
            count += 1;
        }
        self.0[at..at + 8].copy_from_slice(&count.to_le_bytes());
    }
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn numbers<const N: usize>(&mut self) -> io::Result<[u64; N]> {
        let (bytes, rest) = self.0.split_at_checked(8 * N).ok_or_else(invalid)?;
        self.0 = rest;
        let words: &[[u8; 8]; N] = bytes.as_chunks().0.try_into().map_err(|_| invalid())?;
        Ok(words.map(u64::from_le_bytes))
    }

    fn bytes(&mut self) -> io::Result<&'a [u8]> {
        let [len] = self.numbers()?;
        let (bytes, rest) = self.0.split_at_checked(len as usize).ok_or_else(invalid)?;
        self.0 = rest;
        Ok(bytes)
    }

    fn text(&mut self) -> io::Result<&'a str> {
        str::from_utf8(self.bytes()?).map_err(|_| invalid())
    }

    fn c_string(&mut self) -> io::Result<CString> {
        CString::new(self.bytes()?).map_err(|_| invalid())
    }

    fn list<T>(&mut self, mut read: impl FnMut(&mut Self) -> io::Result<T>) -> io::Result<Vec<T>> {
        let [count] = self.numbers()?;
        (0..count).map(|_| read(self)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::Page;
    use crate::message;
    use crate::scoreboard::Scoreboard;
    use crate::sys::{memory, stderr};
    use std::os::fd::AsFd;
    use std::time::SystemTime;

    #[test]
    fn what_is_handed_over_is_received_and_nothing_less_is() {
        let board = Scoreboard::new(1).unwrap();
        let (channel, _other) = message::channel(4096).unwrap();
        let mut config = Config::default();
        for (name, value) in
            [("max-message", "4096"), ("timeout", "250ms"), ("name", "a"), ("dispatch", "source-hash")]
        {
            config.set(name, value).unwrap();
        }
        let last = WorkerInfo { id: 4, slot: 1, generation: 2, pid: 77 };
        let exit = Exit::Signal { number: 11, core: true };
        let crash = Crash {
            callback: "on_data".into(),
            lasted: Some(Duration::from_millis(3)),
            peer: Some("unix".into()),
            backtrace: vec!["main".into(), "start".into()],
            ..Crash::default()
        };
        let last_exit = LastExit { worker: last, exit, reason: Reason::Hang, crash: Some(Box::new(crash)) };
        let served = |name: &str, takes_datagrams| Served {
            name: CString::new(name).unwrap(),
            address: "127.0.0.1:80".into(),
            takes_datagrams,
        };
        let started = SystemTime::now();
        let worker = Worker::kept(SelfInfo {
            id: WorkerId(9),
            slot: Slot(1),
            generation: Generation(3),
            args: vec![c"one".into(), c"two words".into()],
            started,
            forked_at: Time::from_millis(5),
            last_exit: Some(last_exit.clone()),
            page: board.page(Page(0)),
            messages: WorkerMessages::new(channel.socket, channel.outbox),
            own: Own::default(),
            listeners: vec![served("", false), served("extra", true)],
        });
        let counter = || memory::wake_counter().unwrap();
        let (wake, leave, fd) = (counter(), counter(), counter());
        let numbers = [&leave, &fd].map(AsRawFd::as_raw_fd);
        let (_, pipe) = stderr::pipe().unwrap();
        let setup = WorkerSetup {
            worker,
            master: 12,
            queue: HandoffEnd(counter()),
            own_sockets: vec![OwnSocket {
                fd,
                listener: ListenerId(1),
                alone: true,
                datagrams: true,
                watched: None,
            }],
            inbox: Inbox::default(),
            common: board.common(),
            wake: wake.as_fd(),
            leave,
            stderr: Some(RestoreStderr::from_parts(pipe, (3, 4))),
        };
        let signals = Signals { are_taken: true, same: Duration::from_millis(7) };
        let handed = Handed { config: &config, setup, alone: Some(signals) };
        let shared = handed.shared();
        let stdin: &'static std::io::Stdin = Box::leak(Box::new(std::io::stdin()));
        let shared = Shared { page: shared.page, common: shared.common, wake: stdin.as_fd() };
        let bytes = handed.into_bytes();
        // Without adopting the same descriptors twice: what comes first does not need them.
        for len in [0, 8, 48] {
            assert!(Received::from_bytes(&bytes[..len], shared).is_err(), "{len}");
        }
        let received = Received::from_bytes(&bytes, shared).unwrap();
        let info = &received.setup.worker.info;
        assert_eq!((info.id, info.slot, info.generation), (WorkerId(9), Slot(1), Generation(3)));
        assert_eq!((info.started, info.forked_at), (started, Time::from_millis(5)));
        assert_eq!(info.last_exit, Some(last_exit));
        assert_eq!(info.args, [c"one".to_owned(), c"two words".to_owned()]);
        let names: Vec<_> = info.listeners.iter().map(|l| (l.name.as_c_str(), l.takes_datagrams)).collect();
        assert_eq!(names, [(c"", false), (c"extra", true)]);
        let own = &received.setup.own_sockets[0];
        assert_eq!([received.setup.leave.as_raw_fd(), own.fd.as_raw_fd()], numbers);
        assert_eq!(
            (own.listener, own.alone, own.datagrams, received.setup.master),
            (ListenerId(1), true, true, 12)
        );
        assert!(received.setup.stderr.is_some() && received.alone.is_some_and(|s| s.are_taken));
        for setting in Config::settings().filter(|setting| setting.name != "listen") {
            assert_eq!((setting.show)(&received.config), (setting.show)(&config), "{}", setting.name);
        }
    }
}
