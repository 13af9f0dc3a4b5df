//! What this process is to prefork: nothing, a master, or a worker. Can be asked for anywhere.

use crate::sys::process;
use std::sync::atomic::{AtomicI32, AtomicU32, Ordering::Relaxed};

/// What a process is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Neither: no server runs here, or this is a process that a master or a worker forked by itself.
    None,
    /// The master of a server.
    Master,
    /// A worker.
    Worker {
        /// Its number.
        id: u32,
        /// Its slot.
        slot: u32,
        /// Its generation.
        generation: u32,
    },
}

const NONE: u32 = 0;
const MASTER: u32 = 1;
const WORKER: u32 = 2;

static WHAT: AtomicU32 = AtomicU32::new(NONE);
/// The process all this is said of: a fork has a copy of it.
static PID: AtomicI32 = AtomicI32::new(0);
static ID: AtomicU32 = AtomicU32::new(0);
static SLOT: AtomicU32 = AtomicU32::new(0);
static GENERATION: AtomicU32 = AtomicU32::new(0);

/// What this process is; in any process and any thread. A worker sees the same in its environment: `PREFORK_WORKER_ID`, `PREFORK_SLOT`, `PREFORK_GENERATION`.
pub fn role() -> Role {
    match WHAT.load(Relaxed) {
        _ if PID.load(Relaxed) != process::own_pid() => Role::None,
        MASTER => Role::Master,
        WORKER => Role::Worker {
            id: ID.load(Relaxed),
            slot: SLOT.load(Relaxed),
            generation: GENERATION.load(Relaxed),
        },
        _ => Role::None,
    }
}

/// Sets it; in the master at the start and the end of a run, in a worker right after the fork.
pub(crate) fn set(role: Role) {
    let what = match role {
        Role::None => NONE,
        Role::Master => MASTER,
        Role::Worker { id, slot, generation } => {
            ID.store(id, Relaxed);
            SLOT.store(slot, Relaxed);
            GENERATION.store(generation, Relaxed);
            WORKER
        }
    };
    PID.store(process::own_pid(), Relaxed);
    WHAT.store(what, Relaxed);
}
