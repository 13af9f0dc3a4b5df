//! Buffers between two uses: a connection borrows one only while something of it is partial.

/// The largest capacity a buffer keeps after its use.
pub(super) const KEEP: usize = 256 * 1024;
/// The most that the buffers of one pool weigh together.
const POOL: usize = 16 * 1024 * 1024;

/// An item of a pool.
pub(super) trait Pooled: Default {
    /// Empties it, and frees what is over [`KEEP`].
    fn reset(&mut self);
    /// The bytes allocated for it, which must not change while it is in the pool.
    fn weight(&self) -> usize;
}

/// A pool. The item returned last is taken first, so that it is still in the cache.
#[derive(Default)]
pub(super) struct Pool<T> {
    free: Vec<Box<T>>,
    weight: usize,
}

impl<T: Pooled> Pool<T> {
    /// Takes an empty item.
    pub fn take(&mut self) -> Box<T> {
        let item = self.free.pop().unwrap_or_default();
        self.weight -= item.weight();
        item
    }

    /// Puts an item back, or frees it if the pool is full.
    pub fn put(&mut self, mut item: Box<T>) {
        item.reset();
        if self.weight + item.weight() <= POOL {
            self.weight += item.weight();
            self.free.push(item);
        }
    }
}

/// Empties a buffer, and frees it if it is over [`KEEP`].
pub(super) fn reset(buf: &mut Vec<u8>) {
    if buf.capacity() > KEEP { *buf = Vec::new() } else { buf.clear() }
}
