//! The state that a program hands over to the next one in the same process: one definition, for writing and for reading.
//!
//! It is JSON in a memory file. Descriptors are in it by their numbers; the saver collects them, so that they stay open over the
//! exec, and the next program adopts them. Without the feature `control`, which brings the format, a state is neither written nor read.

use crate::error::{Error, ErrorKind, Result};
use crate::event::{CodeFile, LastExit, Totals};
use crate::handoff::Origin;
use crate::ids::{Generation, Page, Slot, WorkerId};
use crate::master::control::SavedClient;
use crate::master::kept::KeptFd;
use crate::master::lifecycle::Snapshot;
use crate::master::pool::Transit;
use crate::master::router::ChannelState;
use crate::master::sockets::SavedListener;
use crate::sys::time::Time;
#[cfg(feature = "control")]
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::File;
use std::io;

/// True if this program can upgrade and be upgraded to.
pub const IS_SUPPORTED: bool = cfg!(feature = "control");
/// The name and version of the format. A program of another version refuses in its trial.
pub const FORMAT: &str = if IS_SUPPORTED { "prefork-state-8" } else { "nothing" };

/// Everything that the next program continues with.
#[derive(Debug)]
#[cfg_attr(feature = "control", derive(Serialize, Deserialize))]
pub struct SavedState {
    /// [`FORMAT`].
    pub format: String,
    /// When the first program in this process became the master.
    pub born: Time,
    pub lifecycle: Snapshot,
    /// The sums of the counters of workers that have ended.
    pub totals: Totals,
    /// The eventfd that wakes the master.
    pub wake: KeptFd,
    /// The memory of the scoreboard.
    pub board: KeptFd,
    /// The listeners, in their order.
    pub listeners: Vec<SavedListener>,
    /// The files of handlers, by generation.
    pub images: Vec<(Generation, KeptFd)>,
    /// The connections that no queue took, with the states of those that are streams, and where they came from.
    pub parked: Vec<(KeptFd, Option<KeptFd>, Origin)>,
    /// Streams that have gone from one worker to another and are not settled.
    pub transits: Vec<Transit>,
    pub workers: Vec<SavedWorker>,
    /// The queues from which connections are taken back.
    pub returns: Vec<SavedReturn>,
    /// Captured standard error: the worker, the pipe, and the line that has not ended yet.
    pub stderr: Vec<(WorkerId, KeptFd, Vec<u8>)>,
    /// By slot: variables for its workers.
    pub environments: BTreeMap<Slot, Vec<(String, String)>>,
    /// By slot: the end of the last worker that ended there.
    pub last_exits: BTreeMap<Slot, LastExit>,
    /// True if this server has set the scheduling policy of its thread.
    #[cfg_attr(feature = "control", serde(default))]
    pub has_batch_policy: bool,
    /// The file of the module that serves.
    #[cfg_attr(feature = "control", serde(default))]
    pub serving: Option<CodeFile>,
    /// The clients of the control socket.
    #[cfg_attr(feature = "control", serde(default))]
    pub clients: Vec<SavedClient>,
}

/// A worker. The lifecycle's part of it is in the [`Snapshot`].
#[derive(Debug)]
#[cfg_attr(feature = "control", derive(Serialize, Deserialize))]
pub struct SavedWorker {
    pub id: WorkerId,
    pub page: Page,
    pub pid: i32,
    /// Its pidfd.
    pub process: KeptFd,
    /// The master's end of its handoff channel.
    #[cfg_attr(feature = "control", serde(rename = "giver"))]
    pub master_end: KeptFd,
    /// The master's copy of the worker's end.
    pub queue: KeptFd,
    /// The socket of its message channel ...
    pub channel: KeptFd,
    /// ... and what is under way there.
    pub messages: ChannelState,
    /// Connections given to it and not reclaimed.
    pub given: u64,
    /// Connections it may have in flight.
    pub limit: u32,
    /// The number of its [`crate::Kind`]; 0 if it is not ready.
    pub kind: u8,
    /// A bit for each listener at which it takes requests, if these are not all or none.
    #[cfg_attr(feature = "control", serde(default))]
    pub takes_requests: Option<u64>,
    /// Requests after which it is replaced.
    pub max_requests: u64,
    /// True if it took nothing of what was queued for it.
    pub stuck: bool,
}

/// A queue from which connections are taken back. One of connections that a live worker hands back is watched anew instead.
#[derive(Debug)]
#[cfg_attr(feature = "control", derive(Serialize, Deserialize), serde(rename_all = "kebab-case"))]
pub enum SavedReturn {
    /// The queue of this worker.
    Unclaimed(WorkerId),
    /// Both ends of the channel of a worker that has ended.
    OfDeadWorker(WorkerId, KeptFd, KeptFd),
}

#[cfg(feature = "control")]
impl SavedState {
    /// Writes the state to a memory file.
    ///
    /// # Errors
    /// If there is no memory or descriptor for it.
    pub fn write(&self) -> io::Result<File> {
        let mut file = File::from(crate::sys::memory::memory_file(c"prefork-state")?);
        serde_json::to_writer(io::BufWriter::new(&file), self)?;
        io::Seek::rewind(&mut file)?;
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
}

#[cfg(not(feature = "control"))]
impl SavedState {
    pub fn write(&self) -> io::Result<File> {
        Err(io::ErrorKind::Unsupported.into())
    }

    pub fn read(_: File) -> Result<Self> {
        Err(Error::io(ErrorKind::State, "upgrade", io::ErrorKind::Unsupported.into()))
    }
}

#[cfg(all(test, feature = "control"))]
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
            wake: KeptFd(3),
            board: KeptFd(4),
            listeners: Vec::new(),
            images: vec![(Generation(3), KeptFd(5))],
            parked: Vec::new(),
            transits: vec![Transit { giver: WorkerId(6), taker: WorkerId(7), count: 2 }],
            workers: Vec::new(),
            returns: vec![SavedReturn::Unclaimed(WorkerId(7))],
            stderr: vec![(WorkerId(7), KeptFd(6), vec![0xff, 0])],
            environments: BTreeMap::from([(Slot(1), vec![("A".into(), " ".into())])]),
            last_exits: BTreeMap::new(),
            has_batch_policy: true,
            serving: None,
            clients: Vec::new(),
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
        assert_eq!(why, "upgrade: expected prefork-state-8, found prefork-state-2");
        for garbage in ["", "prefork-state-2 3 4 9 2\n", "{}", "[]"] {
            assert!(SavedState::read(garbage.as_bytes()).is_err(), "{garbage}");
        }
    }
}
