//! Percent-encoding (RFC 3986 section 2.1).

/// Appends the bytes that `text` stands for. A percent sign without two hexadecimal digits behind it stands for itself, as in browsers
/// (WHATWG URL, "percent-decode"). `plus`: `+` is a space, as in queries and forms.
pub(super) fn decode_into(to: &mut Vec<u8>, text: &[u8], plus: bool) {
    let mut rest = text;
    loop {
        let end = rest.iter().position(|b| *b == b'%' || plus && *b == b'+').unwrap_or(rest.len());
        to.extend_from_slice(&rest[..end]);
        rest = match &rest[end..] {
            [] => return,
            [b'+', tail @ ..] => {
                to.push(b' ');
                tail
            }
            [percent, tail @ ..] => match byte(tail) {
                Some(byte) => {
                    to.push(byte);
                    &tail[2..]
                }
                None => {
                    to.push(*percent);
                    tail
                }
            },
        };
    }
}

/// The byte that the two hexadecimal digits at the start stand for.
fn byte(text: &[u8]) -> Option<u8> {
    let digit = |at: usize| text.get(at).and_then(|b| char::from(*b).to_digit(16));
    u8::try_from(digit(0)? << 4 | digit(1)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn decode(text: &str, plus: bool) -> Vec<u8> {
        let mut to = Vec::new();
        decode_into(&mut to, text.as_bytes(), plus);
        to
    }

    #[test]
    fn two_digits_are_a_byte_and_all_else_stands_for_itself() {
        for (text, bytes) in [
            ("", &b""[..]),
            ("a%20b", b"a b"),
            ("%C3%a9", "é".as_bytes()),
            ("%00%ff", b"\0\xff"),
            ("100%", b"100%"),
            ("%4", b"%4"),
            ("%zz%41", b"%zzA"),
            ("%%41", b"%A"),
            ("%4%41", b"%4A"),
            ("%+1", b"%+1"),
        ] {
            assert_eq!(decode(text, false), bytes, "{text}");
        }
        assert_eq!(decode("a+b%2B", true), b"a b+");
        assert_eq!(decode("a+b%2B", false), b"a+b+");
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded(bytes: Vec<u8>, every: bool, plus: bool) {
            let mut text = String::new();
            for b in &bytes {
                match b {
                    b' ' if plus => text.push('+'),
                    b if !every && b.is_ascii_alphanumeric() => text.push(char::from(*b)),
                    b => text += &format!("%{b:02X}"),
                }
            }
            prop_assert_eq!(decode(&text, plus), bytes);
        }

        #[test]
        fn nothing_grows(text: String, plus: bool) {
            prop_assert!(decode(&text, plus).len() <= text.len());
        }
    }
}
