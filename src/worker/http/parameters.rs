//! Values with parameters: `form-data; name="a"` (RFC 9110 section 5.6.6).

use super::token::{self, trim};
use std::borrow::Cow;

/// The part in front of the parameters.
pub(super) fn essence(value: &[u8]) -> &[u8] {
    trim(value.split(|b| *b == b';').next().unwrap_or_default())
}

/// The first parameter with this name, compared without case, without its quotes. In quotes a backslash stands for the quote or
/// backslash behind it, and otherwise for itself: browsers have sent `filename="C:\file"`.
pub(super) fn parameter<'a>(value: &'a [u8], name: &[u8]) -> Option<Cow<'a, [u8]>> {
    let mut rest = value.get(essence_end(value)..)?;
    loop {
        rest = token::trim_start(rest.strip_prefix(b";")?);
        let end = rest.iter().position(|b| *b == b'=' || *b == b';').unwrap_or(rest.len());
        let own = trim(&rest[..end]);
        rest = &rest[end..];
        let Some(text) = rest.strip_prefix(b"=") else {
            if rest.is_empty() {
                return None;
            }
            continue;
        };
        let (text, after) = read(token::trim_start(text));
        if own.eq_ignore_ascii_case(name) {
            return Some(text);
        }
        let next = after.iter().position(|b| *b == b';')?;
        rest = &after[next..];
    }
}

fn essence_end(value: &[u8]) -> usize {
    value.iter().position(|b| *b == b';').unwrap_or(value.len())
}

/// Reads a token or a quoted string, and returns what follows it, too.
fn read(text: &[u8]) -> (Cow<'_, [u8]>, &[u8]) {
    let Some(quoted) = text.strip_prefix(b"\"") else {
        let end = essence_end(text);
        return (Cow::Borrowed(trim(&text[..end])), &text[end..]);
    };
    let mut plain = Vec::new();
    let (mut start, mut at) = (0, 0);
    while let Some(byte) = quoted.get(at) {
        match byte {
            b'"' => {
                let tail = &quoted[start..at];
                let text = if plain.is_empty() && start == 0 {
                    Cow::Borrowed(tail)
                } else {
                    plain.extend_from_slice(tail);
                    Cow::Owned(plain)
                };
                return (text, &quoted[at + 1..]);
            }
            b'\\' if matches!(quoted.get(at + 1), Some(b'"' | b'\\')) => {
                plain.extend_from_slice(&quoted[start..at]);
                (start, at) = (at + 1, at + 2);
            }
            _ => at += 1,
        }
    }
    // There is no other quote.
    (Cow::Borrowed(quoted), b"")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn get(value: &str, name: &str) -> Option<String> {
        parameter(value.as_bytes(), name.as_bytes()).map(|text| String::from_utf8(text.into_owned()).unwrap())
    }

    #[test]
    fn parameters_are_found_with_and_without_quotes() {
        for (value, found) in [
            ("form-data; name=a", Some("a")),
            ("form-data;NAME = a ;x=y", Some("a")),
            ("form-data; filename=\"name=no;\"; name=\"a b\"", Some("a b")),
            (r#"f; name="a\"b\\c""#, Some(r#"a"b\c"#)),
            (r#"f; name="\"""#, Some("\"")),
            (r#"f; name="C:\x\y""#, Some(r"C:\x\y")),
            ("f; name=\"\"", Some("")),
            ("f; name=\"open", Some("open")),
            ("f; x; name=a", Some("a")),
            ("f; xname=a", None),
            ("f; name", None),
            ("name=a", None),
            ("", None),
        ] {
            assert_eq!(get(value, "name").as_deref(), found, "{value}");
        }
        assert_eq!(essence(b" text/html ; charset=x"), b"text/html");
    }

    proptest! {
        #[test]
        fn what_is_quoted_is_read(text in "[^\r\n]*", before in "[a-z;]{0,8}") {
            let escaped = text.replace('\\', r"\\").replace('"', "\\\"");
            let value = format!("f; other=\"{before}\"; name=\"{escaped}\"; last=1");
            prop_assert_eq!(get(&value, "name"), Some(text));
        }

        #[test]
        fn any_bytes_are_read(value: Vec<u8>) {
            parameter(&value, b"name");
        }
    }
}
