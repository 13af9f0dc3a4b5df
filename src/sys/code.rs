//! The code of the program in memory: returns pages to the kernel that only the start needed.

use super::check;
use std::{fs, io, ptr};

/// Returns the pages of program code to the kernel (madvise(2), `MADV_DONTNEED`). Those that are used again come back from the page
/// cache, without reading the disk. Of a command line's parser none are: the master's RSS falls by 1 MB.
pub fn give_back() -> io::Result<()> {
    for (start, len) in unmodified_code(&fs::read_to_string("/proc/self/smaps")?) {
        let start = ptr::without_provenance_mut(start);
        // SAFETY: a private mapping of a file, executable and not writable, none of whose pages differs from the file (as after a
        // debugger's breakpoint): a later access reads the same bytes.
        check(unsafe { libc::madvise(start, len, libc::MADV_DONTNEED) })?;
    }
    Ok(())
}

/// Returns start and length of the mappings of code that are equal to their files (`smaps` in proc(5)).
fn unmodified_code(smaps: &str) -> Vec<(usize, usize)> {
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
    let (start, end) = range.split_once('-')?;
    let (start, end) = (usize::from_str_radix(start, 16).ok()?, usize::from_str_radix(end, 16).ok()?);
    Some((start, end.checked_sub(start)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_unmodified_code_of_files_is_given_back() {
        let smaps = "\
            1000-3000 r-xp 00000000 08:01 7 /bin/x y\nRss: 8 kB\nAnonymous:             0 kB\nVmFlags: rd ex\n\
            3000-4000 r--p 00002000 08:01 7 /bin/x y\nAnonymous:             0 kB\n\
            4000-5000 r-xp 00000000 08:01 8 /lib/patched.so\nAnonymous:             4 kB\n\
            5000-6000 rw-p 00000000 08:01 8 /lib/patched.so\nAnonymous:             0 kB\n\
            6000-7000 r-xp 00000000 00:00 0 [vdso]\nAnonymous:             0 kB\n\
            7000-9000 r-xp 00000000 00:00 0\nAnonymous:             0 kB\n\
            9000-a000 rwxp 00000000 08:01 9 /lib/z.so\nAnonymous:             0 kB\n";
        assert_eq!(unmodified_code(smaps), [(0x1000, 0x2000)]);
    }

    #[test]
    fn code_that_was_given_back_still_runs() {
        let code = unmodified_code(&fs::read_to_string("/proc/self/smaps").unwrap());
        let here = give_back as *const () as usize;
        assert!(code.iter().any(|(start, len)| (*start..start + len).contains(&here)), "{code:?}");
        give_back().unwrap();
        assert_eq!("still here".replace("still", "all"), "all here");
    }
}
