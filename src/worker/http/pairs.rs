//! Names with values, decoded: those of a query, of a form, and of cookies.

use super::percent::decode_into;
use super::token::trim;
use std::fmt;

/// Names with values, decoded, in the order sent: the parameters of a query or a form ([`crate::Request::query_pairs`],
/// [`crate::Request::form`]), or cookies ([`crate::Request::cookies`]). A name may be there several times.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Pairs {
    /// All names and values, one behind the other.
    bytes: Vec<u8>,
    /// The ends of each name and its value.
    ends: Vec<(usize, usize)>,
}

impl Pairs {
    /// Decodes `application/x-www-form-urlencoded` (WHATWG URL section 5.1), which is the form of queries, too: `a=1&b=x+y`. Without
    /// `=` the value is empty.
    pub fn urlencoded(text: &[u8]) -> Self {
        let mut pairs = Self { bytes: Vec::with_capacity(text.len()), ends: Vec::new() };
        for pair in text.split(|b| *b == b'&').filter(|pair| !pair.is_empty()) {
            let (name, value) = split(pair, b'=').unwrap_or((pair, b""));
            decode_into(&mut pairs.bytes, name, true);
            let middle = pairs.bytes.len();
            decode_into(&mut pairs.bytes, value, true);
            pairs.ends.push((middle, pairs.bytes.len()));
        }
        pairs
    }

    /// Decodes the values of Cookie fields (RFC 6265 section 4.2.1). Names are not decoded: `__%48ost-id` must not become
    /// `__Host-id`, which only a secure page of this host can set.
    pub(super) fn cookies<'a>(fields: impl Iterator<Item = &'a [u8]>) -> Self {
        let mut pairs = Self::default();
        let all = fields.flat_map(|field| field.split(|b| *b == b';'));
        for (name, value) in all.filter_map(|cookie| split(cookie, b'=')) {
            pairs.bytes.extend_from_slice(trim(name));
            let middle = pairs.bytes.len();
            let value = trim(value);
            let quoted = value.strip_prefix(b"\"").and_then(|v| v.strip_suffix(b"\""));
            decode_into(&mut pairs.bytes, quoted.unwrap_or(value), false);
            pairs.ends.push((middle, pairs.bytes.len()));
        }
        pairs
    }

    /// The first value with this name, which is case-sensitive.
    pub fn get(&self, name: &str) -> Option<&[u8]> {
        self.all(name).next()
    }

    /// As [`Pairs::get`], as text; `None` also if it is not UTF-8.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.get(name).and_then(|value| str::from_utf8(value).ok())
    }

    /// All values with this name.
    pub fn all(&self, name: &str) -> impl Iterator<Item = &[u8]> {
        self.iter().filter(move |(other, _)| *other == name.as_bytes()).map(|(_, value)| value)
    }

    /// All names with their values.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        (0..self.ends.len()).filter_map(|index| self.at(index))
    }

    /// Name and value at an index from 0, in the order sent.
    pub fn at(&self, index: usize) -> Option<(&[u8], &[u8])> {
        let (middle, end) = *self.ends.get(index)?;
        let start = index.checked_sub(1).and_then(|before| self.ends.get(before)).map_or(0, |(_, end)| *end);
        Some((self.bytes.get(start..middle)?, self.bytes.get(middle..end)?))
    }

    /// The number of values.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// True if there are none.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }
}

impl fmt::Debug for Pairs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = String::from_utf8_lossy;
        f.debug_list().entries(self.iter().map(|(name, value)| (text(name), text(value)))).finish()
    }
}

/// Splits at the first `byte`.
fn split(bytes: &[u8], byte: u8) -> Option<(&[u8], &[u8])> {
    let at = bytes.iter().position(|b| *b == byte)?;
    Some((&bytes[..at], &bytes[at + 1..]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn shown(pairs: &Pairs) -> Vec<(String, String)> {
        let text = |bytes: &[u8]| bytes.escape_ascii().to_string();
        pairs.iter().map(|(name, value)| (text(name), text(value))).collect()
    }

    fn owned(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect()
    }

    #[test]
    fn queries_and_forms_are_decoded() {
        for (text, pairs) in [
            ("", &[][..]),
            ("&&", &[]),
            ("a", &[("a", "")]),
            ("a=1&b=2&a=3", &[("a", "1"), ("b", "2"), ("a", "3")]),
            ("q=x+y%26z&=v&=", &[("q", "x y&z"), ("", "v"), ("", "")]),
            ("a=b=c", &[("a", "b=c")]),
            ("%61+=100%&%3d=%zz", &[("a ", "100%"), ("=", "%zz")]),
            ("n=%00", &[("n", "\\x00")]),
        ] {
            assert_eq!(shown(&Pairs::urlencoded(text.as_bytes())), owned(pairs), "{text}");
        }
    }

    #[test]
    fn a_name_has_a_first_value_and_all() {
        let pairs = Pairs::urlencoded(b"a=1&b=%ff&a=2&c");
        assert_eq!((pairs.get("a"), pairs.text("a")), (Some(&b"1"[..]), Some("1")));
        assert!(pairs.all("a").eq([b"1", b"2"]));
        assert_eq!((pairs.get("b"), pairs.text("b")), (Some(&b"\xff"[..]), None));
        assert_eq!((pairs.get("c"), pairs.get("A"), pairs.at(4)), (Some(&b""[..]), None, None));
        assert_eq!((pairs.len(), pairs.is_empty()), (4, false));
    }

    #[test]
    fn cookies_have_decoded_values_and_their_own_names() {
        let fields: [&[u8]; 3] =
            [b"a=1; b=\"x%20y\" ;c=a+b", b"", b"a=2; flag; __%48ost-id=evil;=v; d = e=f "];
        let pairs = Pairs::cookies(fields.into_iter());
        let expected = [
            ("a", "1"),
            ("b", "x y"),
            ("c", "a+b"),
            ("a", "2"),
            ("__%48ost-id", "evil"),
            ("", "v"),
            ("d", "e=f"),
        ];
        assert_eq!(shown(&pairs), owned(&expected));
        assert_eq!(pairs.get("__Host-id"), None);
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_found(pairs: Vec<(Vec<u8>, Vec<u8>)>) {
            let encode = |bytes: &[u8]| bytes.iter().map(|b| format!("%{b:02x}")).collect::<String>();
            let text: Vec<_> = pairs.iter().map(|(n, v)| format!("{}={}", encode(n), encode(v))).collect();
            let read = Pairs::urlencoded(text.join("&").as_bytes());
            let read: Vec<_> = read.iter().map(|(n, v)| (n.to_vec(), v.to_vec())).collect();
            prop_assert_eq!(read, pairs);
        }

        #[test]
        fn any_bytes_are_read(bytes: Vec<u8>) {
            let pairs = Pairs::urlencoded(&bytes);
            prop_assert_eq!(pairs.iter().count(), pairs.len());
            let cookies = Pairs::cookies([&bytes[..]].into_iter());
            prop_assert_eq!(cookies.iter().count(), cookies.len());
        }
    }
}
