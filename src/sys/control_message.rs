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

    /// A message with one word.
    pub fn new(level: c_int, kind: c_int, word: c_int) -> Self {
        let mut data = [0; N];
        data[0] = word;
        Self { len: Self::HEADER + size_of::<c_int>(), level, kind, data }
    }

    /// The data of the message; none if it is of another kind.
    pub fn data_of(&mut self, level: c_int, kind: c_int) -> &mut [c_int] {
        let is_it = (self.level, self.kind) == (level, kind);
        let words = if is_it { self.len.saturating_sub(Self::HEADER) / size_of::<c_int>() } else { 0 };
        &mut self.data[..words.min(N)]
    }

    pub fn as_bytes(&self) -> &[u8] {
        // SAFETY: readable for the size of the struct, which has no padding.
        unsafe { std::slice::from_raw_parts(std::ptr::from_ref(self).cast(), Self::SIZE) }
    }

    /// The buffer, for recvmsg(2), which writes initialised bytes only; any are valid.
    pub fn as_buffer(&mut self) -> &mut [MaybeUninit<u8>] {
        // SAFETY: writable for the size of the struct.
        unsafe { std::slice::from_raw_parts_mut(std::ptr::from_mut(self).cast(), Self::SIZE) }
    }
}
