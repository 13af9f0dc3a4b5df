//! Buffers between uses: what a connection needs only while something is partial is borrowed from here.

/// Capacity beyond which a buffer goes back to the allocator after its use.
pub(super) const KEEP: usize = 256 * 1024;
/// What the buffers of one pool may weigh together.
const POOL: usize = 16 * 1024 * 1024;

/// What a pool holds.
pub(super) trait Pooled: Default {
    /// Empties it, frees what is over [`KEEP`], and says how many bytes it keeps.
    fn reset(&mut self) -> usize;
    /// How many bytes it has kept.
    fn weight(&self) -> usize;
}

/// A pool; the last one returned is the first one taken, so that it is still in the cache.
pub(super) struct Pool<T> {
    free: Vec<Box<T>>,
    weight: usize,
}

impl<T: Pooled> Pool<T> {
    pub const fn new() -> Self {
        Self { free: Vec::new(), weight: 0 }
    }

    /// An empty one.
    pub fn take(&mut self) -> Box<T> {
        let Some(item) = self.free.pop() else { return Box::default() };
        self.weight -= item.weight();
        item
    }

    /// Takes one back.
    pub fn put(&mut self, mut item: Box<T>) {
        let weight = item.reset();
        if self.weight + weight <= POOL {
            self.weight += weight;
            self.free.push(item);
        }
    }
}

/// Empties a buffer, and frees it if it is over [`KEEP`].
pub(super) fn reset(buf: &mut Vec<u8>) {
    if buf.capacity() > KEEP { *buf = Vec::new() } else { buf.clear() }
}
