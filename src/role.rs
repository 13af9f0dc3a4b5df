//! The role of this process: none, master, or worker. Readable in any thread.

use crate::message::MASTER_NUMBER as MASTER;
use crate::sys::{process, test_thread};
use std::cell::Cell;
use std::sync::atomic::{AtomicI32, AtomicU32, Ordering::Relaxed};

/// The role of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Role {
    /// Neither master nor worker: no server runs here, or this is a process that a master's or a worker's user code forked.
    None,
    /// The master of a server.
    Master,
    /// A worker.
    Worker {
        /// Its id.
        id: u32,
        /// Its slot.
        slot: u32,
        /// Its generation.
        generation: u32,
    },
}

/// The process that has the role: a fork inherits these words, but not the role. 0 if there is none.
static PID: AtomicI32 = AtomicI32::new(0);
static ID: AtomicU32 = AtomicU32::new(MASTER);
static SLOT: AtomicU32 = AtomicU32::new(0);
static GENERATION: AtomicU32 = AtomicU32::new(0);

/// Returns the role of this process, in any thread. A worker finds the same in its environment: `PREFORK_WORKER_ID`,
/// `PREFORK_SLOT`, `PREFORK_GENERATION`.
pub fn role() -> Role {
    if test_thread::is_used()
        && let Some(role) = HERE.get()
    {
        return role;
    }
    match ID.load(Relaxed) {
        _ if PID.load(Relaxed) != process::own_pid() => Role::None,
        MASTER => Role::Master,
        id => Role::Worker { id, slot: SLOT.load(Relaxed), generation: GENERATION.load(Relaxed) },
    }
}

thread_local! {
    /// The role of this thread while it runs a worker of [`crate::testing`].
    static HERE: Cell<Option<Role>> = const { Cell::new(None) };
}

/// Sets the role of this thread alone; returns the one before.
pub(crate) fn set_here(role: Option<Role>) -> Option<Role> {
    HERE.replace(role)
}

/// Sets the role: in the master at the start and the end of a run, in a worker right after the fork.
pub(crate) fn set(role: Role) {
    process::keep_own_pid();
    let (pid, id) = match role {
        Role::None => (0, MASTER),
        Role::Master => (process::own_pid(), MASTER),
        Role::Worker { id, slot, generation } => {
            SLOT.store(slot, Relaxed);
            GENERATION.store(generation, Relaxed);
            (process::own_pid(), id)
        }
    };
    ID.store(id, Relaxed);
    PID.store(pid, Relaxed);
}
