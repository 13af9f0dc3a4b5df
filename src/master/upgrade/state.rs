//! What a program hands over to the next one in the same process: one definition, for writing and for reading.
//!
//! It is JSON in a memory file. Descriptors are in it by their numbers; the saver collects them, so that they stay open over the
//! exec, and the next program adopts them.

use crate::error::{Error, ErrorKind, Result};
use crate::event::{LastExit, Totals};
use crate::handoff::Origin;
use crate::ids::{Generation, Page, Slot, WorkerId};
use crate::master::lifecycle::Snapshot;
use crate::master::router::ChannelState;
use crate::master::sockets::SavedListener;
use crate::sys::time::Time;
use crate::sys::{memory, process};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Seek};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

/// The name and version of the format. A program of another version refuses in its trial.
pub const FORMAT: &str = "prefork-state-3";

/// A descriptor, by its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Fd(u32);

impl Fd {
    /// Takes ownership of the descriptor, which the former program has left open.
    ///
    /// # Errors
    /// `EBADF` if it is not open.
    pub fn adopt(self) -> io::Result<OwnedFd> {
        process::adopt_descriptor(self.0)
    }
}

impl std::fmt::Display for Fd {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// The descriptors that stay open over the exec.
#[derive(Default)]
pub struct Kept<'a>(Vec<BorrowedFd<'a>>);

impl<'a> Kept<'a> {
    /// Keeps a descriptor open.
    pub fn keep(&mut self, fd: BorrowedFd<'a>) -> Fd {
        self.0.push(fd);
        Fd(fd.as_raw_fd().unsigned_abs())
    }

    /// Sets whether the descriptors stay open over an exec.
    pub fn over_exec(&self, open: bool) {
        self.0.iter().for_each(|fd| process::keep_over_exec(*fd, open));
    }
}

/// Everything that the next program continues with.
#[derive(Debug, Serialize, Deserialize)]
pub struct SavedState {
    /// [`FORMAT`].
    pub format: String,
    /// When the first program in this process became the master.
    pub born: Time,
    /// The lifecycle.
    pub lifecycle: Snapshot,
    /// What workers that have ended have counted.
    pub totals: Totals,
    /// The eventfd that wakes the master.
    pub wake: Fd,
    /// The memory of the scoreboard.
    pub board: Fd,
    /// The listeners, in their order.
    pub listeners: Vec<SavedListener<Fd>>,
    /// The files of handlers, by generation.
    pub images: Vec<(Generation, Fd)>,
    /// The connection that no queue took.
    pub parked: Option<SavedConnection>,
    /// The workers.
    pub workers: Vec<SavedWorker>,
    /// The queues from which connections come back.
    pub returns: Vec<SavedReturn>,
    /// The workers whose standard error is captured.
    pub stderr: Vec<SavedStderr>,
    /// By slot: variables for its workers.
    pub environments: BTreeMap<Slot, Vec<(String, String)>>,
    /// By slot: the end of its last worker that ended.
    pub last_exits: BTreeMap<Slot, LastExit>,
}

/// A connection that has no worker.
#[derive(Debug, Serialize, Deserialize)]
pub struct SavedConnection {
    /// The connection.
    pub fd: Fd,
    /// The listener it came from.
    pub origin: Origin,
}

/// A worker. What the lifecycle knows of it is in the [`Snapshot`].
#[derive(Debug, Serialize, Deserialize)]
pub struct SavedWorker {
    /// Its number.
    pub id: WorkerId,
    /// The page of its counters.
    pub page: Page,
    /// Its process id.
    pub pid: i32,
    /// Its pidfd.
    pub process: Fd,
    /// The master's end of its handoff channel.
    pub giver: Fd,
    /// The master's copy of the worker's end.
    pub queue: Fd,
    /// Its message channel.
    pub channel: Fd,
    /// What is under way there.
    pub messages: ChannelState,
    /// Connections given to it and not reclaimed.
    pub given: u64,
    /// Connections it may have in flight.
    pub limit: u32,
    /// The number of its [`crate::Kind`]; 0 if it is not ready.
    pub kind: u8,
    /// Requests after which it is replaced.
    pub max_requests: u64,
    /// True if it took nothing of what waited for it.
    pub stuck: bool,
}

/// A queue from which connections come back. What a live worker hands back is watched anew instead.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SavedReturn {
    /// What this worker has not taken.
    Unclaimed(WorkerId),
    /// Both ends of the channel of a worker that has ended.
    OfDeadWorker {
        /// The master's end.
        giver: Fd,
        /// The worker's end.
        queue: Fd,
    },
}

/// The standard error of a worker.
#[derive(Debug, Serialize, Deserialize)]
pub struct SavedStderr {
    /// The worker.
    pub worker: WorkerId,
    /// The pipe.
    pub pipe: Fd,
    /// The line that has begun.
    pub begun: Vec<u8>,
}

impl SavedState {
    /// Writes the state to a memory file.
    ///
    /// # Errors
    /// If there is no memory or descriptor for it.
    pub fn write(&self) -> io::Result<File> {
        let mut file = File::from(memory::memory_file(c"prefork-state")?);
        serde_json::to_writer(io::BufWriter::new(&file), self)?;
        file.rewind()?;
        Ok(file)
    }

    /// Reads a state that [`SavedState::write`] has written.
    ///
    /// # Errors
    /// [`ErrorKind::State`] if it is none, or of another version.
    pub fn read(file: impl io::Read) -> Result<Self> {
        let refused = |why: String| Error::new(ErrorKind::State, format!("upgrade: {why}"));
        let state: Self = serde_json::from_reader(io::BufReader::new(file))
            .map_err(|e| refused(format!("unreadable state of the former program: {e}")))?;
        if state.format != FORMAT {
            return Err(refused(format!("expected {FORMAT}, found {}", state.format)));
        }
        Ok(state)
    }

    /// Takes the files of handlers.
    ///
    /// # Errors
    /// As [`adopted`].
    pub fn images(&self) -> Result<Vec<(Generation, OwnedFd)>> {
        self.images.iter().map(|(generation, fd)| Ok((*generation, adopted(*fd)?))).collect()
    }

    /// Takes the eventfd.
    ///
    /// # Errors
    /// As [`adopted`].
    pub fn wake(&self) -> Result<OwnedFd> {
        adopted(self.wake)
    }

    /// Takes the memory of the scoreboard.
    ///
    /// # Errors
    /// As [`adopted`].
    pub fn board(&self) -> Result<OwnedFd> {
        adopted(self.board)
    }

    /// Takes the listeners.
    ///
    /// # Errors
    /// As [`adopted`].
    pub fn listeners(&mut self) -> Result<Vec<SavedListener<OwnedFd>>> {
        std::mem::take(&mut self.listeners).into_iter().map(|l| l.try_map(adopted)).collect()
    }

    /// The lifecycle.
    pub fn lifecycle(&self) -> &Snapshot {
        &self.lifecycle
    }
}

/// Adopts a descriptor.
///
/// # Errors
/// [`ErrorKind::State`] if it is not open.
fn adopted(fd: Fd) -> Result<OwnedFd> {
    fd.adopt().map_err(|e| Error::io(ErrorKind::State, "upgrade: a descriptor of the former program", e))
}

/// Keeps what can be borrowed.
pub fn keep<'a>(kept: &mut Kept<'a>, fd: &'a impl AsFd) -> Fd {
    kept.keep(fd.as_fd())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn empty() -> SavedState {
        let lifecycle = Snapshot {
            generation: Generation(3),
            last_generation: Generation(4),
            last_id: WorkerId(9),
            slots: 2,
            workers: Vec::new(),
        };
        SavedState {
            format: FORMAT.into(),
            born: Time::from_millis(5),
            lifecycle,
            totals: Totals::default(),
            wake: Fd(3),
            board: Fd(4),
            listeners: Vec::new(),
            images: vec![(Generation(3), Fd(5))],
            parked: None,
            workers: Vec::new(),
            returns: vec![SavedReturn::Unclaimed(WorkerId(7))],
            stderr: vec![SavedStderr { worker: WorkerId(7), pipe: Fd(6), begun: vec![0xff, 0] }],
            environments: BTreeMap::from([(Slot(1), vec![("A".into(), " ".into())])]),
            last_exits: BTreeMap::new(),
        }
    }

    #[test]
    fn a_state_is_read_as_it_was_written() {
        let read = SavedState::read(empty().write().unwrap()).unwrap();
        assert_eq!(format!("{read:?}"), format!("{:?}", empty()));
    }

    #[test]
    fn a_state_of_another_version_and_garbage_are_refused() {
        let other = SavedState { format: "prefork-state-2".into(), ..empty() };
        let why = SavedState::read(other.write().unwrap()).unwrap_err().to_string();
        assert_eq!(why, "upgrade: expected prefork-state-3, found prefork-state-2");
        for garbage in ["", "prefork-state-2 3 4 9 2\n", "{}", "[]"] {
            assert!(SavedState::read(garbage.as_bytes()).is_err(), "{garbage}");
        }
    }
}
