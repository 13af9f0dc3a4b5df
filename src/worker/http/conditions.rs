//! Conditions of requests for a file (RFC 9110 section 13): If-Match, If-None-Match, If-Modified-Since, If-Unmodified-Since, If-Range.

use super::request::Request;
use super::token::trim;
use std::borrow::Cow;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The fields of a request that are looked at here, by name; the values of a field that is there several times are a list.
pub(super) trait Fields {
    fn combined(&self, name: &str) -> Option<Cow<'_, [u8]>>;
}

impl Fields for Request<'_> {
    fn combined(&self, name: &str) -> Option<Cow<'_, [u8]>> {
        let mut values = self.header_all(name);
        let first = values.next()?;
        let mut all = Cow::Borrowed(first);
        for value in values {
            all.to_mut().extend_from_slice(b", ");
            all.to_mut().extend_from_slice(value);
        }
        Some(all)
    }
}

/// What tells one version of a file from another (RFC 9110 section 8.8).
#[derive(Clone, Debug)]
pub(super) struct Validators {
    /// The entity tag, with its quotes.
    pub etag: String,
    /// The tag is weak: the file was changed in this second, and may be again without a sign of it.
    pub is_weak: bool,
    /// The time of the last change, in whole seconds.
    pub modified: SystemTime,
}

impl Validators {
    /// Those of a file. `modified`: seconds and nanoseconds since 1970; `date`: what the response has for Date.
    pub fn new(size: u64, inode: u64, modified: (i64, i64), now: SystemTime, date: SystemTime) -> Self {
        let (seconds, nanos) = modified;
        let since = Duration::from_secs(u64::try_from(seconds).unwrap_or_default());
        let changed = UNIX_EPOCH.checked_add(since).unwrap_or(UNIX_EPOCH);
        // RFC 9110 section 8.8.2.1: never later than Date.
        let modified = changed.min(date);
        let is_weak = changed.checked_add(Duration::from_secs(1)).is_none_or(|end| now < end);
        Self { etag: format!("\"{size:x}-{seconds:x}.{nanos:x}-{inode:x}\""), is_weak, modified }
    }

    /// The value of ETag.
    pub fn field(&self) -> String {
        if self.is_weak { format!("W/{}", self.etag) } else { self.etag.clone() }
    }
}

/// What a condition says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The file is sent.
    Send,
    /// The client has it: 304.
    NotModified,
    /// The client expects another one: 412.
    Failed,
}

/// Looks at the conditions of a GET or HEAD in the order of RFC 9110 section 13.2.2.
pub(super) fn evaluate(fields: &impl Fields, file: &Validators) -> Outcome {
    let date = |name| fields.combined(name).and_then(|value| date(&value));
    if let Some(tags) = fields.combined("if-match") {
        // Strong comparison (section 13.1.1).
        if !has_tag(&tags, |is_weak, tag| !is_weak && !file.is_weak && tag == file.etag.as_bytes()) {
            return Outcome::Failed;
        }
    } else if date("if-unmodified-since").is_some_and(|date| file.modified > date) {
        return Outcome::Failed;
    }
    if let Some(tags) = fields.combined("if-none-match") {
        // Weak comparison (section 13.1.2). With it If-Modified-Since is ignored.
        if has_tag(&tags, |_, tag| tag == file.etag.as_bytes()) {
            return Outcome::NotModified;
        }
    } else if date("if-modified-since").is_some_and(|date| file.modified <= date) {
        return Outcome::NotModified;
    }
    Outcome::Send
}

/// True if If-Range allows a range (section 13.1.5): it is the file's own tag, by strong comparison, or exactly its time.
pub(super) fn allows_range(fields: &impl Fields, file: &Validators) -> bool {
    let Some(value) = fields.combined("if-range") else { return true };
    if file.is_weak {
        return false;
    }
    let value = trim(&value);
    value == file.etag.as_bytes() || date(value) == Some(file.modified)
}

/// A date of HTTP (section 5.6.7). What is none is ignored.
fn date(value: &[u8]) -> Option<SystemTime> {
    httpdate::parse_http_date(str::from_utf8(trim(value)).ok()?).ok()
}

/// True if `is_it` is for one of the entity tags in a list (section 8.8.3), or the list is `*`. It gets whether the tag is weak, and
/// the tag with its quotes, in which there may be commas.
fn has_tag(list: &[u8], is_it: impl Fn(bool, &[u8]) -> bool) -> bool {
    let mut rest = trim(list);
    if rest == b"*" {
        return true;
    }
    loop {
        while let [b' ' | b'\t' | b',', tail @ ..] = rest {
            rest = tail;
        }
        let (is_weak, tag) = match rest.strip_prefix(b"W/") {
            Some(tag) => (true, tag),
            None => (false, rest),
        };
        let Some(end) = tag.strip_prefix(b"\"").and_then(|text| text.iter().position(|b| *b == b'"')) else {
            return false;
        };
        let (tag, tail) = tag.split_at(end + 2);
        if is_it(is_weak, tag) {
            return true;
        }
        rest = tail;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    impl Fields for &[(&str, &str)] {
        fn combined(&self, name: &str) -> Option<Cow<'_, [u8]>> {
            let found = self.iter().find(|(own, _)| *own == name);
            found.map(|(_, value)| Cow::Borrowed(value.as_bytes()))
        }
    }

    const NOW: u64 = 784_111_800;
    const DATE: &str = "Sun, 06 Nov 1994 08:49:37 GMT";
    const LATER: &str = "Sun, 06 Nov 1994 08:49:38 GMT";
    const EARLIER: &str = "Sun, 06 Nov 1994 08:49:36 GMT";

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn file() -> Validators {
        let mut file = Validators::new(1, 2, (784_111_777, 5), at(NOW), at(NOW));
        file.etag = "\"a,b\"".into();
        file
    }

    #[test]
    fn a_file_has_a_tag_and_a_time() {
        let old = Validators::new(0x10, 0xff, (784_111_777, 0xa), at(NOW), at(NOW));
        assert_eq!(old.field(), "\"10-2ebc9de1.a-ff\"".replace("2ebc9de1", &format!("{:x}", 784_111_777)));
        assert_eq!(httpdate::fmt_http_date(old.modified), DATE);
        let new = Validators::new(0, 0, (NOW as i64, 0), at(NOW), at(NOW));
        assert!(new.field().starts_with("W/\"") && new.is_weak);
        assert!(!Validators::new(0, 0, (NOW as i64, 0), at(NOW + 1), at(NOW)).is_weak);
        // Of the future: it would be later than Date.
        let future = Validators::new(0, 0, (NOW as i64 + 60, 0), at(NOW), at(NOW - 1));
        assert_eq!((future.modified, future.is_weak), (at(NOW - 1), true));
        assert_eq!(Validators::new(0, 0, (-1, 0), at(NOW), at(NOW)).modified, UNIX_EPOCH);
    }

    #[test]
    fn conditions_are_looked_at_in_their_order() {
        use Outcome::{Failed, NotModified, Send};
        for (fields, expected) in [
            (&[][..], Send),
            (&[("if-match", "\"a,b\"")], Send),
            (&[("if-match", "*")], Send),
            (&[("if-match", "\"x\", \"a,b\"")], Send),
            (&[("if-match", "W/\"a,b\"")], Failed),
            (&[("if-match", "\"x\"")], Failed),
            (&[("if-match", "a,b")], Failed),
            (&[("if-match", "\"a,b\""), ("if-unmodified-since", EARLIER)], Send),
            (&[("if-unmodified-since", DATE)], Send),
            (&[("if-unmodified-since", EARLIER)], Failed),
            (&[("if-unmodified-since", "yesterday")], Send),
            (&[("if-none-match", "\"a,b\"")], NotModified),
            (&[("if-none-match", "W/\"a,b\"")], NotModified),
            (&[("if-none-match", " *")], NotModified),
            (&[("if-none-match", ",, \"x\" ,\"a,b\"")], NotModified),
            (&[("if-none-match", "\"x\"")], Send),
            (&[("if-none-match", "\"x\""), ("if-modified-since", DATE)], Send),
            (&[("if-modified-since", DATE)], NotModified),
            (&[("if-modified-since", LATER)], NotModified),
            (&[("if-modified-since", EARLIER)], Send),
            (&[("if-modified-since", "Sunday, 06-Nov-94 08:49:37 GMT")], NotModified),
            (&[("if-modified-since", "")], Send),
            (&[("if-match", "\"x\""), ("if-none-match", "\"a,b\"")], Failed),
        ] {
            assert_eq!(evaluate(&fields, &file()), expected, "{fields:?}");
        }
        let changing = Validators { is_weak: true, ..file() };
        assert_eq!(evaluate(&&[("if-match", "\"a,b\"")][..], &changing), Failed);
        assert_eq!(evaluate(&&[("if-none-match", "\"a,b\"")][..], &changing), NotModified);
    }

    #[test]
    fn a_range_of_another_version_is_not_sent() {
        for (value, expected) in [
            ("\"a,b\"", true),
            ("W/\"a,b\"", false),
            ("\"x\"", false),
            (DATE, true),
            (LATER, false),
            (EARLIER, false),
            ("", false),
        ] {
            assert_eq!(allows_range(&&[("if-range", value)][..], &file()), expected, "{value}");
            assert!(!allows_range(&&[("if-range", value)][..], &Validators { is_weak: true, ..file() }));
        }
        assert!(allows_range(&&[][..], &file()));
    }

    proptest! {
        #[test]
        fn any_list_is_read(list: Vec<u8>, tags in proptest::collection::vec("[!#-~]{0,4}", 1..5), at: proptest::sample::Index) {
            has_tag(&list, |_, _| false);
            let wanted = format!("\"{}\"", at.get(&tags));
            let text: Vec<_> = tags.iter().map(|tag| format!("W/\"{tag}\"")).collect();
            let found = has_tag(text.join(",").as_bytes(), |is_weak, tag| is_weak && tag == wanted.as_bytes());
            prop_assert!(found);
        }
    }
}
