//! Which kernel this is: uname(2).

use std::ffi::CStr;
use std::mem::MaybeUninit;

/// The first two numbers of the kernel's release; (0, 0) where it does not start with two.
pub fn release() -> (u32, u32) {
    let mut name = MaybeUninit::<libc::utsname>::zeroed();
    // SAFETY: `name` is writable and of the type asked for; the call writes nowhere else.
    let done = unsafe { libc::uname(name.as_mut_ptr()) };
    if done != 0 {
        return (0, 0);
    }
    // SAFETY: every bit pattern, the zeroes of before the call too, is a valid `utsname`.
    let name = unsafe { name.assume_init() };
    // SAFETY: uname(2) ends the string with a NUL inside the array.
    let text = unsafe { CStr::from_ptr(name.release.as_ptr()) };
    parse(&text.to_string_lossy()).unwrap_or_default()
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
    fn the_running_kernel_tells_its_release() {
        let text = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
        let (major, minor) = release();
        assert!(text.starts_with(&format!("{major}.{minor}")), "{text}");
    }
}
