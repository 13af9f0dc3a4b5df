//! The program's own code in memory: what only the start needed can be given back.

use super::check;
use std::io;

/// Gives the pages of program code back to the kernel (madvise(2), `MADV_DONTNEED`), of which those that are used again come back
/// from the page cache. After a start that was rich in code, such as parsing a command line, most do not: of 3.9 MB a master
/// keeps 2.1.
pub fn give_back() -> io::Result<()> {
    for (at, len) in clean_code(&std::fs::read_to_string("/proc/self/smaps")?) {
        let at = std::ptr::without_provenance_mut(at);
        // SAFETY: a private mapping of a file that may be executed and not written, without a page that differs from the file
        // (a debugger's or tracer's doing): what is read there next is what was there before.
        check(unsafe { libc::madvise(at, len, libc::MADV_DONTNEED) })?;
    }
    Ok(())
}

/// Start and length of the mappings of code that are as their files have them (proc(5), `smaps`).
fn clean_code(smaps: &str) -> Vec<(usize, usize)> {
    let mut found = Vec::new();
    let mut current = None;
    for line in smaps.lines() {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        match words.as_slice() {
            [range, "r-xp", _, _, _, path, ..] if path.starts_with('/') => current = parse_range(range),
            [range, mode, _, _, _, ..] if mode.len() == 4 && range.contains('-') => current = None,
            ["Anonymous:", "0", "kB"] => found.extend(current.take()),
            _ => {}
        }
    }
    found
}

fn parse_range(range: &str) -> Option<(usize, usize)> {
    let (from, to) = range.split_once('-')?;
    let (from, to) = (usize::from_str_radix(from, 16).ok()?, usize::from_str_radix(to, 16).ok()?);
    Some((from, to.checked_sub(from)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_code_that_nobody_has_changed_is_given_back() {
        let smaps = "\
            1000-3000 r-xp 00000000 08:01 7 /bin/x y\nRss: 8 kB\nAnonymous:             0 kB\nVmFlags: rd ex\n\
            3000-4000 r--p 00002000 08:01 7 /bin/x y\nAnonymous:             0 kB\n\
            4000-5000 r-xp 00000000 08:01 8 /lib/patched.so\nAnonymous:             4 kB\n\
            5000-6000 rw-p 00000000 08:01 8 /lib/patched.so\nAnonymous:             0 kB\n\
            6000-7000 r-xp 00000000 00:00 0 [vdso]\nAnonymous:             0 kB\n\
            7000-9000 r-xp 00000000 00:00 0\nAnonymous:             0 kB\n\
            9000-a000 rwxp 00000000 08:01 9 /lib/z.so\nAnonymous:             0 kB\n";
        assert_eq!(clean_code(smaps), [(0x1000, 0x2000)]);
    }

    #[test]
    fn what_is_given_back_still_runs() {
        let own = clean_code(&std::fs::read_to_string("/proc/self/smaps").unwrap());
        let here = give_back as *const () as usize;
        assert!(own.iter().any(|(at, len)| (*at..at + len).contains(&here)), "{own:?}");
        give_back().unwrap();
        assert_eq!("still here".replace("still", "all"), "all here");
    }
}
