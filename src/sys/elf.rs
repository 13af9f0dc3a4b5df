//! Checks from its headers that a file is a complete shared object for this machine, and reads what it needs; elf(5).
//!
//! dlopen(3) cannot be asked: a file that was cut short kills the process (SIGBUS), and a file for another machine is reported
//! as one that does not exist.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::FileExt;

#[cfg(target_pointer_width = "32")]
use libc::{Elf32_Ehdr as Header, Elf32_Phdr as Segment};
#[cfg(target_pointer_width = "64")]
use libc::{Elf64_Ehdr as Header, Elf64_Phdr as Segment};

/// Checks a file of `len` bytes.
///
/// # Errors
/// `UnexpectedEof` if the file is cut short; else what it is instead, and what to do.
pub fn check(file: &File, len: u64) -> io::Result<()> {
    let mut magic = [0; 4];
    let n = file.read_at(&mut magic, 0)?;
    if n > 0 && magic != *b"\x7fELF" {
        return refuse(NOT_SHARED);
    }
    let header: Header = read(file, 0)?;
    // This program itself runs on this machine.
    let own: Header = read(&File::open("/proc/self/exe")?, 0)?;
    let machine = |h: &Header| (h.e_machine, h.e_ident[libc::EI_CLASS], h.e_ident[libc::EI_DATA]);
    if machine(&header) != machine(&own) {
        return refuse(format!("built for another machine: build it for {}", std::env::consts::ARCH));
    }
    match header.e_type {
        libc::ET_DYN => complete(file, &header, len),
        libc::ET_REL => refuse("an object file: link it with cc -shared"),
        _ => refuse(NOT_SHARED),
    }
}

const NOT_SHARED: &str = "not a shared object: build it with cc -shared -fPIC";

fn refuse(text: impl Into<String>) -> io::Result<()> {
    Err(io::Error::other(text.into()))
}

/// Checks that all the headers point to lies within the file. Section headers are not needed to load it, but they come last,
/// so they show a cut that loading would not notice.
#[allow(clippy::useless_conversion, reason = "offsets have 32 bits on narrower machines")]
fn complete(file: &File, header: &Header, len: u64) -> io::Result<()> {
    const SEGMENT: u64 = size_of::<Segment>() as u64;
    let cut = || Err(io::ErrorKind::UnexpectedEof.into());
    let within = |at: u64, size: u64| size == 0 || at.checked_add(size).is_some_and(|end| end <= len);
    let (sections, segments) = (u64::from(header.e_shoff), u64::from(header.e_phoff));
    let sections_size = u64::from(header.e_shentsize) * u64::from(header.e_shnum);
    let count = u64::from(header.e_phnum);
    if !within(sections, sections_size) || !within(segments, count * SEGMENT) {
        return cut();
    }
    for i in 0..count {
        let segment: Segment = read(file, segments + i * SEGMENT)?;
        if segment.p_type == libc::PT_LOAD && !within(segment.p_offset.into(), segment.p_filesz.into()) {
            return cut();
        }
    }
    Ok(())
}

/// What a shared object says of the libraries that it needs (elf(5), `PT_DYNAMIC`).
#[derive(Debug, Default)]
pub struct Dynamic {
    /// Their names (`DT_NEEDED`).
    pub needed: Vec<OsString>,
    /// The folders in which to look for them, separated by colons: `DT_RUNPATH`, and `DT_RPATH`, which counts if there is no other.
    pub runpath: Option<OsString>,
    pub rpath: Option<OsString>,
    /// Its own name (`DT_SONAME`).
    pub soname: Option<OsString>,
}

/// An entry of the dynamic section.
#[repr(C)]
struct Entry {
    tag: isize,
    value: usize,
}

/// The most entries that are looked at, and the longest string.
const MOST_ENTRIES: u64 = 10_000;
const LONGEST_STRING: usize = 16 << 10;

/// Reads what a shared object says of its libraries.
///
/// # Errors
/// If the file cannot be read, or contradicts itself.
#[allow(clippy::useless_conversion, reason = "offsets have 32 bits on narrower machines")]
pub fn dynamic(file: &File) -> io::Result<Dynamic> {
    const NEEDED: isize = 1;
    const STRINGS: isize = 5;
    const SONAME: isize = 14;
    const RPATH: isize = 15;
    const RUNPATH: isize = 29;
    let header: Header = read(file, 0)?;
    let mut segments = Vec::new();
    for i in 0..u64::from(header.e_phnum) {
        segments.push(read::<Segment>(file, u64::from(header.e_phoff) + i * size_of::<Segment>() as u64)?);
    }
    let mut entries = Vec::new();
    if let Some(segment) = segments.iter().find(|s| s.p_type == libc::PT_DYNAMIC) {
        let count = u64::from(segment.p_filesz) / size_of::<Entry>() as u64;
        for i in 0..count.min(MOST_ENTRIES) {
            let at = u64::from(segment.p_offset).saturating_add(i * size_of::<Entry>() as u64);
            let entry: Entry = read(file, at)?;
            if entry.tag == 0 {
                break;
            }
            entries.push(entry);
        }
    }
    let strings = entries.iter().find(|e| e.tag == STRINGS).map_or(0, |e| e.value as u64);
    // The address of the strings, where they lie in the file.
    let place = segments.iter().find_map(|s| {
        let within = strings.checked_sub(u64::from(s.p_vaddr))?;
        let is_there = s.p_type == libc::PT_LOAD && within < u64::from(s.p_filesz);
        is_there.then(|| u64::from(s.p_offset).saturating_add(within))
    });
    let text = |entry: &Entry| -> io::Result<OsString> {
        let at = place.ok_or(io::ErrorKind::InvalidData)?.saturating_add(entry.value as u64);
        let mut bytes = vec![0; LONGEST_STRING];
        let len = file.read_at(&mut bytes, at)?;
        let len = bytes[..len].iter().position(|byte| *byte == 0).ok_or(io::ErrorKind::InvalidData)?;
        bytes.truncate(len);
        Ok(OsString::from_vec(bytes))
    };
    let mut found = Dynamic::default();
    for entry in &entries {
        match entry.tag {
            NEEDED => found.needed.push(text(entry)?),
            SONAME => found.soname = Some(text(entry)?),
            RPATH => found.rpath = Some(text(entry)?),
            RUNPATH => found.runpath = Some(text(entry)?),
            _ => {}
        }
    }
    Ok(found)
}

/// # Safety
/// Any bytes are a value of the type.
unsafe trait Plain {}

// SAFETY: integers only, without padding between them.
unsafe impl Plain for Header {}
// SAFETY: as above.
unsafe impl Plain for Segment {}
// SAFETY: as above.
unsafe impl Plain for Entry {}

fn read<T: Plain>(file: &File, at: u64) -> io::Result<T> {
    let mut header = MaybeUninit::<T>::zeroed();
    // SAFETY: all bytes of `header`, which are initialised.
    let bytes = unsafe { std::slice::from_raw_parts_mut(header.as_mut_ptr().cast::<u8>(), size_of::<T>()) };
    file.read_exact_at(bytes, at)?;
    // SAFETY: any bytes are a `T`.
    Ok(unsafe { header.assume_init() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::memory::memory_file;
    use std::io::Write;
    use std::mem::offset_of;

    /// A header, one segment that is the whole file, and section headers at its end.
    fn image() -> Vec<u8> {
        let mut bytes = vec![0; 1024];
        let program = File::open("/proc/self/exe").unwrap();
        program.read_exact_at(&mut bytes[..size_of::<Header>()], 0).unwrap();
        put(&mut bytes, offset_of!(Header, e_type), libc::ET_DYN);
        put(&mut bytes, offset_of!(Header, e_phoff), size_of::<Header>());
        put(&mut bytes, offset_of!(Header, e_phnum), 1u16);
        put(&mut bytes, offset_of!(Header, e_shoff), 960usize);
        put(&mut bytes, offset_of!(Header, e_shentsize), 64u16);
        put(&mut bytes, offset_of!(Header, e_shnum), 1u16);
        put(&mut bytes, SEGMENT_AT + offset_of!(Segment, p_type), libc::PT_LOAD);
        put(&mut bytes, SEGMENT_AT + offset_of!(Segment, p_offset), 0usize);
        put(&mut bytes, SEGMENT_AT + offset_of!(Segment, p_filesz), 1024usize);
        bytes
    }

    const SEGMENT_AT: usize = size_of::<Header>();

    /// Writes an integer into a header.
    fn put<T: Into<Number>>(bytes: &mut [u8], at: usize, value: T) {
        let value = value.into().0;
        bytes[at..at + value.len()].copy_from_slice(&value);
    }

    struct Number(Vec<u8>);

    impl From<u16> for Number {
        fn from(n: u16) -> Self {
            Self(n.to_ne_bytes().into())
        }
    }

    impl From<u32> for Number {
        fn from(n: u32) -> Self {
            Self(n.to_ne_bytes().into())
        }
    }

    /// Offsets and sizes are as wide as pointers.
    impl From<usize> for Number {
        fn from(n: usize) -> Self {
            Self(n.to_ne_bytes().into())
        }
    }

    fn checked(bytes: &[u8]) -> io::Result<()> {
        let mut file = File::from(memory_file(c"test").unwrap());
        file.write_all(bytes).unwrap();
        check(&file, bytes.len() as u64)
    }

    fn refused(bytes: &[u8]) -> String {
        checked(bytes).unwrap_err().to_string()
    }

    fn is_cut(bytes: &[u8]) -> bool {
        checked(bytes).is_err_and(|e| e.kind() == io::ErrorKind::UnexpectedEof)
    }

    fn changed(at: usize, value: u16) -> String {
        let mut bytes = image();
        put(&mut bytes, at, value);
        refused(&bytes)
    }

    #[test]
    fn a_complete_shared_object_is_accepted() {
        checked(&image()).unwrap();
    }

    #[test]
    fn a_cut_at_any_byte_is_seen() {
        let whole = image();
        for len in [0].into_iter().chain(4..whole.len()) {
            assert!(is_cut(&whole[..len]), "{len}");
        }
    }

    #[test]
    fn a_cut_is_seen_without_section_headers_too() {
        let mut bytes = image();
        put(&mut bytes, offset_of!(Header, e_shnum), 0u16);
        checked(&bytes).unwrap();
        assert!(is_cut(&bytes[..1023]));
    }

    #[test]
    fn ranges_past_the_end_of_numbers_are_cuts() {
        for at in [
            offset_of!(Header, e_shoff),
            offset_of!(Header, e_phoff),
            SEGMENT_AT + offset_of!(Segment, p_offset),
        ] {
            let mut bytes = image();
            put(&mut bytes, at, usize::MAX);
            assert!(is_cut(&bytes), "{at}");
        }
    }

    #[test]
    fn files_of_other_kinds_are_refused() {
        for bytes in [&b"hello world\n"[..], b"#!/bin/sh\n", b"!<arch>\n", b"\n", &[0xff; 100]] {
            assert_eq!(refused(bytes), NOT_SHARED);
        }
        assert!(changed(offset_of!(Header, e_type), libc::ET_REL).starts_with("an object file: "));
        assert_eq!(changed(offset_of!(Header, e_type), libc::ET_EXEC), NOT_SHARED);
    }

    #[test]
    fn files_for_other_machines_are_refused() {
        for at in [offset_of!(Header, e_machine), libc::EI_CLASS, libc::EI_DATA] {
            let mut bytes = image();
            bytes[at] ^= 3;
            assert!(refused(&bytes).starts_with("built for another machine: "), "{at}");
        }
    }
}
