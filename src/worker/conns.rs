//! The streams of a worker by their ids, for its handler: it keeps an id, which is never reused, and finds the connection in any
//! callback as long as there is one.

use super::conn::Conn;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::rc::Rc;

/// A table by the ids of streams.
pub type ById<T> = HashMap<u64, T, BuildHasherDefault<IdHasher>>;

/// The open streams. The worker's loop alone adds and removes them, never while a callback runs: a callback may walk them and call
/// what it likes meanwhile.
#[derive(Default)]
pub struct Conns {
    by_id: RefCell<ById<Rc<Conn>>>,
    /// A worker in blocking style has one connection at a time, which its handler has anyway.
    is_blocking: Cell<bool>,
    /// The bytes that may wait to be sent by one at most; `None` before the worker serves.
    most_unsent: Cell<Option<usize>>,
}

/// Ids count up, so a multiplication spreads them well enough (Knuth, The Art of Computer Programming, volume 3, section 6.4).
#[derive(Default)]
pub struct IdHasher(u64);

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64((*byte).into());
        }
    }

    fn write_u64(&mut self, id: u64) {
        self.0 = (self.0 ^ id).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}

impl Conns {
    pub(super) fn set_blocking(&self, is_blocking: bool) {
        self.is_blocking.set(is_blocking);
    }

    pub(super) fn add(&self, conn: &Rc<Conn>) {
        self.by_id.borrow_mut().insert(conn.id(), Rc::clone(conn));
    }

    pub(super) fn remove(&self, id: u64) {
        self.by_id.borrow_mut().remove(&id);
    }

    pub(super) fn find(&self, id: u64) -> Option<Rc<Conn>> {
        self.by_id.borrow().get(&id).map(Rc::clone)
    }

    /// Calls `f` with each until it returns false.
    pub(super) fn each(&self, f: impl FnMut(&Rc<Conn>) -> bool) {
        let _ = self.by_id.borrow().values().all(f);
    }

    pub(super) fn set_most_unsent(&self, most: usize) {
        self.most_unsent.set(Some(most));
    }

    pub(super) fn most_unsent(&self) -> usize {
        self.most_unsent.get().unwrap_or(usize::MAX)
    }

    pub(super) fn is_blocking(&self) -> bool {
        self.is_blocking.get()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_beyond_32_bits_are_others() {
        let mut ids: ById<u64> = ById::default();
        let all = || (0..1000).flat_map(|n| [n, n + (1 << 32), n << 32, u64::MAX - n]).filter(|id| *id != 0);
        for id in all() {
            ids.insert(id, id);
        }
        assert!(all().all(|id| ids.get(&id) == Some(&id)));
        assert_eq!(ids.len(), all().collect::<std::collections::BTreeSet<_>>().len());
    }
}
