//! Request targets and authorities (RFC 9112 section 3.2, RFC 9110 sections 4.2 and 7.2, RFC 3986 sections 3.2 and 3.3).

use super::fault::Fault;
use std::net::Ipv6Addr;

/// A request target taken apart.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Target<'b> {
    pub path: &'b str,
    pub query: Option<&'b str>,
    /// The authority of an absolute-form target.
    pub authority: Option<&'b str>,
}

/// Takes a target apart. httparse has made sure that it holds no white space and no control byte.
pub(super) fn parse<'b>(method: &str, target: &'b str) -> Result<Target<'b>, Fault> {
    if target.bytes().any(|b| b == b'#' || !b.is_ascii()) {
        return Err(Fault::bad("the target has a fragment, or bytes that a URI escapes"));
    }
    if method == "CONNECT" {
        return Err(Fault::new(501, "there is no tunnel to connect to"));
    }
    if target.starts_with('/') {
        return Ok(split_query(target, None));
    }
    if target == "*" {
        return match method {
            "OPTIONS" => Ok(Target { path: target, query: None, authority: None }),
            _ => Err(Fault::bad("the target * is for OPTIONS")),
        };
    }
    parse_absolute(target)
}

fn parse_absolute(target: &str) -> Result<Target<'_>, Fault> {
    let Some((scheme, rest)) = target.split_once("://") else {
        return Err(Fault::bad("the target is neither a path nor a URI"));
    };
    if scheme.eq_ignore_ascii_case("https") {
        // RFC 9110 section 7.4: a request for a secured resource must not be answered on a connection that is not.
        return Err(Fault::new(421, "https is not spoken on this connection"));
    }
    if !scheme.eq_ignore_ascii_case("http") {
        return Err(Fault::bad("the target's scheme is not http"));
    }
    let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    if authority.is_empty() || !is_authority(authority.as_bytes()) {
        return Err(Fault::bad("the target has no valid host"));
    }
    Ok(split_query(path, Some(authority)))
}

fn split_query<'b>(target: &'b str, authority: Option<&'b str>) -> Target<'b> {
    let (path, query) = match target.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (target, None),
    };
    // RFC 9110 section 4.2.3: an empty path is that of the root.
    Target { path: if path.is_empty() { "/" } else { path }, query, authority }
}

/// The value of a Host field: a host with or without a port, or nothing.
pub(super) fn parse_host(value: &[u8]) -> Result<&str, Fault> {
    const INVALID: Fault = Fault::bad("the Host field is no host with an optional port");
    if !value.is_empty() && !is_authority(value) {
        return Err(INVALID);
    }
    str::from_utf8(value).map_err(|_| INVALID)
}

/// Whether `bytes` are a host and, behind a colon, a port. User information is not part of it (RFC 9110 section 4.2.4).
fn is_authority(bytes: &[u8]) -> bool {
    if let Some(rest) = bytes.strip_prefix(b"[") {
        let Some(end) = rest.iter().position(|b| *b == b']') else { return false };
        return is_ip_literal(&rest[..end]) && is_port(&rest[end + 1..]);
    }
    let end = bytes.iter().position(|b| *b == b':').unwrap_or(bytes.len());
    end > 0 && is_name(&bytes[..end]) && is_port(&bytes[end..])
}

/// Nothing, or a colon and a number of at most 65535; the number may be missing.
fn is_port(bytes: &[u8]) -> bool {
    let Some((b':', digits)) = bytes.split_first() else { return bytes.is_empty() };
    let number = |n: u32, d: &u8| (n * 10 + u32::from(d - b'0')).min(65_536);
    digits.iter().all(u8::is_ascii_digit) && digits.iter().fold(0, number) <= 65_535
}

/// The inside of the brackets: an IPv6 address, or `v`, a version and an address of the future.
fn is_ip_literal(bytes: &[u8]) -> bool {
    if let [b'v' | b'V', future @ ..] = bytes {
        let dot = future.iter().position(|b| *b == b'.').unwrap_or(0);
        let (version, address) = future.split_at(dot);
        return !version.is_empty()
            && version.iter().all(u8::is_ascii_hexdigit)
            && address.len() > 1
            && address[1..].iter().all(|b| *b == b':' || is_name_byte(*b));
    }
    str::from_utf8(bytes).is_ok_and(|text| text.parse::<Ipv6Addr>().is_ok())
}

/// A registered name, or an IPv4 address, which looks like one: unreserved, sub-delims and escapes.
fn is_name(bytes: &[u8]) -> bool {
    let mut rest = bytes;
    while let Some((byte, tail)) = rest.split_first() {
        rest = match tail {
            [high, low, tail @ ..]
                if *byte == b'%' && high.is_ascii_hexdigit() && low.is_ascii_hexdigit() =>
            {
                tail
            }
            _ if is_name_byte(*byte) => tail,
            _ => return false,
        };
    }
    true
}

fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_come_in_three_forms() {
        let parts =
            |target| parse("GET", target).map(|t| (t.path, t.query, t.authority)).map_err(|f| f.status);
        assert_eq!(parts("/a?b?c"), Ok(("/a", Some("b?c"), None)));
        assert_eq!(parts("//a"), Ok(("//a", None, None)));
        assert_eq!(parts("/?"), Ok(("/", Some(""), None)));
        assert_eq!(parts("http://h:1/p?q"), Ok(("/p", Some("q"), Some("h:1"))));
        assert_eq!(parts("HTTP://h"), Ok(("/", None, Some("h"))));
        assert_eq!(parts("http://h?q"), Ok(("/", Some("q"), Some("h"))));
        assert_eq!(parse("OPTIONS", "*").map(|t| t.path), Ok("*"));
        for bad in
            ["*", "a", "../a", "a:80", "http:/a", "http:///a", "http://u@h/", "http://h:x/", "ftp://h/", "/#"]
        {
            assert_eq!(parts(bad), Err(400), "{bad}");
        }
        assert_eq!(parts("https://h/"), Err(421));
        assert_eq!(parts("/\u{e9}"), Err(400));
        assert_eq!(parse("CONNECT", "h:80").unwrap_err().status, 501);
    }

    #[test]
    fn hosts_follow_the_grammar() {
        for good in [
            "",
            "a",
            "a.b-c_d",
            "1.2.3.4",
            "a:",
            "a:0",
            "a:65535",
            "[::1]",
            "[::1]:80",
            "[::ffff:1.2.3.4]",
            "[v1.a:b]",
            "a%20b",
            "a,b;c=d",
        ] {
            assert!(parse_host(good.as_bytes()).is_ok(), "{good}");
        }
        for bad in [
            " ", "a b", "a:b", "a:1:2", "a:65536", ":80", "[::1", "::1", "[::1]x", "[]", "[::g]", "[v.a]",
            "[v1.]", "u@h", "a/b", "a?b", "a#b", "a\\b", "\"a\"", "a|b", "%", "%2", "%zz", "\u{e9}",
            "http://a",
        ] {
            assert!(parse_host(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
