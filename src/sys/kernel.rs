//! The version of the running kernel (uname(2)).

/// The first two numbers of the kernel's release; (0, 0) if it does not start with two.
pub fn release() -> (u32, u32) {
    // SAFETY: utsname is plain data for which all zero bytes are a valid value.
    let mut name: libc::utsname = unsafe { std::mem::zeroed() };
    // SAFETY: `name` is writable. On failure it stays zeroed.
    unsafe { libc::uname(&raw mut name) };
    parse(&String::from_utf8_lossy(&name.release.map(|c| c as u8))).unwrap_or_default()
}

/// Reads `6.1` from `6.1.0-18-amd64`.
fn parse(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_release_begins_with_two_numbers() {
        assert_eq!(parse("6.1.0-18-amd64"), Some((6, 1)));
        assert_eq!(parse("5.10"), Some((5, 10)));
        assert_eq!(parse("6.12-rc3"), Some((6, 12)));
        for odd in ["", "linux", "6", ".1", "99999999999.1"] {
            assert_eq!(parse(odd), None, "{odd}");
        }
    }

    #[test]
    fn the_release_of_the_running_kernel_is_found() {
        let text = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
        let (major, minor) = release();
        assert!(text.starts_with(&format!("{major}.{minor}")), "{text}");
    }
}
