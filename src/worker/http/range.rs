//! Ranges of bytes (RFC 9110 section 14).

/// What a Range field asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Range {
    /// All: it is no range of bytes, or several, which a server may answer so (section 14.2), and which would cost it more than they
    /// spare the client.
    Whole,
    /// The bytes from the first number on, as many as the second.
    Part(u64, u64),
    /// Bytes that are not there.
    Unsatisfiable,
}

/// Reads the value of a Range field for `size` bytes.
pub(super) fn range(value: &[u8], size: u64) -> Range {
    parse(value, size).unwrap_or(Range::Whole)
}

fn parse(value: &[u8], size: u64) -> Option<Range> {
    let text = str::from_utf8(value).ok()?;
    let (unit, ranges) = text.split_once('=')?;
    let (first, last) = ranges.trim_matches([' ', '\t']).split_once('-')?;
    if !unit.eq_ignore_ascii_case("bytes") || [first, last].concat().bytes().any(|b| !b.is_ascii_digit()) {
        return None;
    }
    // A number that does not fit is beyond any file.
    let number = |text: &str| text.parse().unwrap_or(u64::MAX);
    let (start, end) = match (first, last) {
        ("", "") => return None,
        // The last ones (section 14.1.2). Of an empty file these are none, for which there is no Content-Range.
        ("", _) if number(last) > 0 && size == 0 => return None,
        ("", _) => (size.saturating_sub(number(last)), size),
        (_, "") => (number(first), size),
        _ if number(first) > number(last) => return None,
        _ => (number(first), number(last).saturating_add(1).min(size)),
    };
    Some(if start < end { Range::Part(start, end - start) } else { Range::Unsatisfiable })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn ranges_are_read() {
        use Range::{Part, Unsatisfiable, Whole};
        for (value, expected) in [
            ("bytes=0-0", Part(0, 1)),
            ("bytes=2-4", Part(2, 3)),
            ("BYTES= 2-4 ", Part(2, 3)),
            ("bytes=8-", Part(8, 2)),
            ("bytes=8-99999999999999999999999", Part(8, 2)),
            ("bytes=-3", Part(7, 3)),
            ("bytes=-30", Part(0, 10)),
            ("bytes=-0", Unsatisfiable),
            ("bytes=10-", Unsatisfiable),
            ("bytes=10-11", Unsatisfiable),
            ("bytes=99999999999999999999999-", Unsatisfiable),
            ("bytes=4-2", Whole),
            ("bytes=0-0,2-2", Whole),
            ("bytes=0-0, 2-2", Whole),
            ("bytes=", Whole),
            ("bytes=-", Whole),
            ("bytes=1", Whole),
            ("bytes=a-b", Whole),
            ("bytes=+1-2", Whole),
            ("bytes 1-2", Whole),
            ("lines=1-2", Whole),
            ("", Whole),
        ] {
            assert_eq!(range(value.as_bytes(), 10), expected, "{value}");
        }
        assert_eq!(range(b"bytes=-5", 0), Whole);
        assert_eq!(range(b"bytes=0-", 0), Unsatisfiable);
    }

    proptest! {
        #[test]
        fn a_part_is_within_the_file(value in "bytes=[0-9]{0,21}-[0-9]{0,21}", size: u64) {
            if let Range::Part(start, len) = range(value.as_bytes(), size) {
                prop_assert!(len > 0 && start < size && len <= size - start, "{start} {len}");
            }
        }

        #[test]
        fn as_asked_for(first in 0..20u64, last in 0..20u64, size in 0..20u64) {
            let naive: Vec<u64> = (0..size).filter(|at| (first..=last).contains(at)).collect();
            let expected = match naive.first() {
                _ if first > last => Range::Whole,
                None => Range::Unsatisfiable,
                Some(start) => Range::Part(*start, naive.len() as u64),
            };
            prop_assert_eq!(range(format!("bytes={first}-{last}").as_bytes(), size), expected);
        }

        #[test]
        fn any_bytes_are_read(value: Vec<u8>, size: u64) {
            range(&value, size);
        }
    }
}
