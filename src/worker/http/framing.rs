//! How the end of a response's body is marked (RFC 9112 sections 6 and 7).

/// The way the end of a body is marked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    /// No body and no length: 204 and 304.
    Nothing,
    Length(u64),
    /// The length that the handler has given, of a body that is written in parts.
    Declared(u64),
    Chunked,
    UntilClose,
}

impl Framing {
    /// The framing of a streamed body; `length` is what the handler has given.
    pub fn of_stream(status: u16, minor: u8, length: Option<u64>) -> Self {
        match (Self::of_status(status), length) {
            (Some(none), _) => none,
            (None, Some(length)) => Self::Declared(length),
            (None, None) if minor == 0 => Self::UntilClose,
            (None, None) => Self::Chunked,
        }
    }

    /// Statuses that have no content (RFC 9110 sections 15.3.5, 15.3.6 and 15.4.5).
    pub fn of_status(status: u16) -> Option<Self> {
        match status {
            204 | 304 => Some(Self::Nothing),
            205 => Some(Self::Length(0)),
            _ => None,
        }
    }

    /// Appends a part of a streamed body; nothing if it is empty, since an empty chunk would end the body.
    pub fn put(self, to: &mut Vec<u8>, part: &[u8]) {
        match self {
            Self::Chunked if !part.is_empty() => {
                put_hex(to, part.len());
                to.extend_from_slice(b"\r\n");
                to.extend_from_slice(part);
                to.extend_from_slice(b"\r\n");
            }
            Self::UntilClose | Self::Declared(_) => to.extend_from_slice(part),
            _ => {}
        }
    }
}

fn put_hex(to: &mut Vec<u8>, n: usize) {
    let digits = (usize::BITS - n.leading_zeros()).div_ceil(4).max(1);
    for i in (0..digits).rev() {
        to.push(b"0123456789abcdef"[n >> (4 * i) & 15]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_of_chunks_are_hexadecimal() {
        for n in (0..64).map(|bits| 1usize << bits).flat_map(|n| [n - 1, n, n + 1]) {
            let mut bytes = Vec::new();
            put_hex(&mut bytes, n);
            assert_eq!(bytes, format!("{n:x}").as_bytes());
        }
    }
}
