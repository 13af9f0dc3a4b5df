//! Tokens, field values and comma lists (RFC 9110 sections 5.5 and 5.6).

/// True for a byte of a token (RFC 9110 section 5.6.2).
pub(super) const fn is_tchar(byte: u8) -> bool {
    TCHAR[byte as usize]
}

const TCHAR: [bool; 256] = alphanumeric_and(b"!#$%&'*+-.^_`|~");

/// A table that is true for ASCII letters, digits, and `others`.
pub(super) const fn alphanumeric_and(others: &[u8]) -> [bool; 256] {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 128 {
        table[byte] = (byte as u8).is_ascii_alphanumeric();
        byte += 1;
    }
    let mut i = 0;
    while i < others.len() {
        table[others[i] as usize] = true;
        i += 1;
    }
    table
}

pub(super) fn is_token(bytes: &[u8]) -> bool {
    !bytes.is_empty() && bytes.iter().all(|b| is_tchar(*b))
}

/// True for the value of a field: HTAB is the only control byte in it (RFC 9110 section 5.5).
pub(super) fn is_field_value(bytes: &[u8]) -> bool {
    bytes.iter().all(|b| *b == b'\t' || !b.is_ascii_control())
}

/// True if these are the same words, whatever their case. `usual` is the spelling that most clients use, which is compared at once.
#[inline]
pub(super) fn is(bytes: &[u8], usual: &[u8]) -> bool {
    bytes == usual || bytes.eq_ignore_ascii_case(usual)
}

/// The elements of a comma list, also empty ones, without the white space around them.
pub(super) fn list(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|b| *b == b',').map(trim)
}

/// True for a list of protocols, each a name that a version may follow (RFC 9110 section 7.8).
pub(super) fn is_protocol_list(value: &[u8]) -> bool {
    list(value).all(|protocol| protocol.splitn(2, |b| *b == b'/').all(is_token))
}

/// Removes spaces and tabs at both ends.
pub(super) fn trim(bytes: &[u8]) -> &[u8] {
    trim_start(trim_end(bytes))
}

/// Removes spaces and tabs at the end.
#[inline]
pub(super) fn trim_end(mut bytes: &[u8]) -> &[u8] {
    while let [rest @ .., b' ' | b'\t'] = bytes {
        bytes = rest;
    }
    bytes
}

/// Removes spaces and tabs at the start.
pub(super) fn trim_start(mut bytes: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] = bytes {
        bytes = rest;
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_have_no_separators() {
        assert!(is_token(b"X-a_1!#$%&'*+.^`|~"));
        for bad in ["", "a b", "a:", "a@", "(", "\u{e9}", "a\0", "\"a\""] {
            assert!(!is_token(bad.as_bytes()), "{bad:?}");
        }
    }

    #[test]
    fn protocols_have_a_name_and_may_have_a_version() {
        for good in ["websocket", "HTTP/2.0, SHTTP/1.3,IRC/6.9"] {
            assert!(is_protocol_list(good.as_bytes()), "{good:?}");
        }
        for bad in ["", "web socket", "a,", "a/", "/1", "a/1/2"] {
            assert!(!is_protocol_list(bad.as_bytes()), "{bad:?}");
        }
    }

    #[test]
    fn lists_are_cut_at_commas_and_trimmed() {
        assert!(list(b" a,\tb ,,c d").eq([&b"a"[..], b"b", b"", b"c d"]));
        assert!(list(b"").eq([b""]));
    }
}
