//! Request targets and authorities (RFC 9112 section 3.2, RFC 9110 sections 4.2 and 7.2, RFC 3986 sections 3.2 and 3.3).

use super::fault::Fault;
use super::token;
use std::net::Ipv6Addr;

/// A request target and its parts, which are ASCII.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Target<'b> {
    /// All of it.
    pub raw: &'b [u8],
    pub path: &'b [u8],
    pub query: Option<&'b [u8]>,
    /// The authority of an absolute-form target.
    pub authority: Option<&'b [u8]>,
}

/// Parses a target. httparse has made sure that it has no white space and no control byte.
pub(super) fn parse<'b>(method: &str, target: &'b str) -> Result<Target<'b>, Fault> {
    if target.bytes().any(|b| b == b'#' || !b.is_ascii()) {
        return Err(Fault::bad("the target has a fragment, or bytes that a URI escapes"));
    }
    if method == "CONNECT" {
        return Err(Fault::new(501, "CONNECT is not supported"));
    }
    if target.starts_with('/') {
        return Ok(split_query(target, target, None));
    }
    if target == "*" {
        return match method {
            "OPTIONS" => Ok(split_query(target, target, None)),
            _ => Err(Fault::bad("only OPTIONS can have the target *")),
        };
    }
    let Some((scheme, rest)) = target.split_once("://") else {
        return Err(Fault::bad("the target is neither a path nor a URI"));
    };
    if scheme.eq_ignore_ascii_case("https") {
        // RFC 9110 section 7.4: a request for a secured resource must not be answered on a connection that is not secured.
        return Err(Fault::new(421, "https is not supported on this connection"));
    }
    if !scheme.eq_ignore_ascii_case("http") {
        return Err(Fault::bad("the target's scheme is not http"));
    }
    let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    if !is_authority(authority.as_bytes()) {
        return Err(Fault::bad("the target has no valid host"));
    }
    Ok(split_query(target, path, Some(authority)))
}

fn split_query<'b>(target: &'b str, rest: &'b str, authority: Option<&'b str>) -> Target<'b> {
    let (path, query) = match rest.split_once('?') {
        Some((path, query)) => (path, Some(query.as_bytes())),
        None => (rest, None),
    };
    // RFC 9110 section 4.2.3: an empty path is that of the root.
    let path = if path.is_empty() { "/" } else { path };
    Target { raw: target.as_bytes(), path: path.as_bytes(), query, authority: authority.map(str::as_bytes) }
}

/// True for a host, optionally with a port. User information is not allowed (RFC 9110 section 4.2.4).
pub(super) fn is_authority(bytes: &[u8]) -> bool {
    if let Some(literal) = bytes.strip_prefix(b"[") {
        let Some(end) = literal.iter().position(|b| *b == b']') else { return false };
        return str::from_utf8(&literal[..end]).is_ok_and(is_ip_literal) && is_port(&literal[end + 1..]);
    }
    let end = name_len(bytes);
    end > 0 && is_port(&bytes[end..])
}

/// True for nothing, or a colon and a number up to 65535, which may be missing.
fn is_port(bytes: &[u8]) -> bool {
    let Some((b':', digits)) = bytes.split_first() else { return bytes.is_empty() };
    let number = |n: u32, d: &u8| (n * 10 + u32::from(d - b'0')).min(65_536);
    digits.iter().all(u8::is_ascii_digit) && digits.iter().fold(0, number) <= 65_535
}

/// True for an IPv6 address, or `v`, a version, a point and an address of a later protocol.
fn is_ip_literal(text: &str) -> bool {
    let Some(later) = text.strip_prefix(['v', 'V']) else { return text.parse::<Ipv6Addr>().is_ok() };
    later.split_once('.').is_some_and(|(version, address)| {
        !version.is_empty()
            && version.bytes().all(|b| b.is_ascii_hexdigit())
            && !address.is_empty()
            && address.bytes().all(|b| b == b':' || NAME[b as usize])
    })
}

/// The length of the registered name, or IPv4 address, which looks like one, at the start: unreserved bytes, sub-delims and escapes.
fn name_len(bytes: &[u8]) -> usize {
    let mut len = 0;
    loop {
        let rest = &bytes[len..];
        len += rest.iter().position(|b| !NAME[*b as usize]).unwrap_or(rest.len());
        match &bytes[len..] {
            [b'%', high, low, ..] if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => len += 3,
            _ => return len,
        }
    }
}

const NAME: [bool; 256] = token::alphanumeric_and(b"-._~!$&'()*+,;=");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_come_in_three_forms() {
        let text = |bytes| str::from_utf8(bytes).unwrap();
        let parts = |target| {
            let parsed = parse("GET", target).map_err(|f| f.status)?;
            Ok((text(parsed.path), parsed.query.map(text), parsed.authority.map(text)))
        };
        assert_eq!(parts("/a?b?c"), Ok(("/a", Some("b?c"), None)));
        assert_eq!(parts("//a"), Ok(("//a", None, None)));
        assert_eq!(parts("/?"), Ok(("/", Some(""), None)));
        assert_eq!(parts("http://h:1/p?q"), Ok(("/p", Some("q"), Some("h:1"))));
        assert_eq!(parts("HTTP://h"), Ok(("/", None, Some("h"))));
        assert_eq!(parts("http://h?q"), Ok(("/", Some("q"), Some("h"))));
        assert_eq!(parse("OPTIONS", "*").map(|t| t.path), Ok(&b"*"[..]));
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
            assert!(is_authority(good.as_bytes()), "{good}");
        }
        for bad in [
            "", " ", "a b", "a:b", "a:1:2", "a:65536", ":80", "[::1", "::1", "[::1]x", "[]", "[::g]",
            "[v.a]", "[v1.]", "u@h", "a/b", "a?b", "a#b", "a\\b", "\"a\"", "a|b", "%", "%2", "%zz", "\u{e9}",
            "http://a",
        ] {
            assert!(!is_authority(bad.as_bytes()), "{bad}");
        }
    }
}
