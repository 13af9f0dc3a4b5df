//! The control message of a socket message (cmsg(3)): what sendmsg(2) and recvmsg(2) carry next to the bytes.

use std::ffi::c_int;
use std::mem::{MaybeUninit, offset_of};

/// A buffer for one control message with up to `N` words of data. `N` is even: the kernel pads the data to a multiple of eight
/// bytes, and this struct has no padding of its own.
#[repr(C)]
pub(super) struct ControlMessage<const N: usize> {
    /// Bytes of the header and the data; 0 if there is no message.
    len: usize,
    level: c_int,
    kind: c_int,
    data: [c_int; N],
}

impl<const N: usize> ControlMessage<N> {
    const HEADER: usize = offset_of!(Self, data);
    pub const SIZE: usize = size_of::<Self>();
    pub const EMPTY: Self = Self { len: 0, level: 0, kind: 0, data: [0; N] };

    /// A message with these words, of which the first `N` are taken.
    pub fn new(level: c_int, kind: c_int, words: impl Iterator<Item = c_int>) -> Self {
        let mut data = [0; N];
        let count = data.iter_mut().zip(words).map(|(place, word)| *place = word).count();
        Self { len: Self::HEADER + count * size_of::<c_int>(), level, kind, data }
    }

    /// The data of the message; none if it is of another kind.
    pub fn data_of(&mut self, level: c_int, kind: c_int) -> &mut [c_int] {
        let words =
            if self.is(level, kind) { self.len.saturating_sub(Self::HEADER) / size_of::<c_int>() } else { 0 };
        &mut self.data[..words.min(N)]
    }

    /// True if it is a message of this kind.
    pub fn is(&self, level: c_int, kind: c_int) -> bool {
        self.len > 0 && (self.level, self.kind) == (level, kind)
    }

    /// The message, for sendmsg(2); nothing if there is none.
    pub fn as_bytes(&self) -> &[u8] {
        let size = self.len.next_multiple_of(size_of::<usize>()).min(Self::SIZE);
        // SAFETY: readable for the size of the struct, which has no padding, and `size` is no more.
        unsafe { std::slice::from_raw_parts(std::ptr::from_ref(self).cast(), size) }
    }

    /// The buffer of several messages, for recvmsg(2), which writes initialised bytes only; any are valid. Each but the last has to
    /// fill its place for the next one to begin in its own.
    pub fn as_buffer(messages: &mut [Self]) -> &mut [MaybeUninit<u8>] {
        // SAFETY: writable for the size of the structs.
        unsafe { std::slice::from_raw_parts_mut(messages.as_mut_ptr().cast(), size_of_val(messages)) }
    }
}
