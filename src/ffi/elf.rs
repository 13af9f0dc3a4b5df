//! Whether a file is a complete shared object for this machine, told from its headers.
//!
//! dlopen(3) is a poor judge of that: it kills the process (SIGBUS) where a file is cut short, and says "no such file" of one
//! for another machine. Only headers of this machine's own width and byte order are read; others are refused by name. elf(5).

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// Checks `len` bytes of a file.
///
/// # Errors
/// What was found instead, and what to do: `found X: do Y`.
pub(super) fn check(file: &File, len: u64) -> Result<(), String> {
    if len == 0 {
        return Err("found an empty file: build it again".into());
    }
    let mut head = [0; HEADER];
    let got = read_at(file, &mut head, 0).map_err(|e| format!("cannot read it: {e}"))?;
    let head = &head[..got];
    if !head.starts_with(b"\x7fELF") {
        return Err(not_elf(head));
    }
    if got < HEADER {
        return Err(cut(len, HEADER as u64));
    }
    identity(head)?;
    match field(head, TYPE) {
        ET_DYN => {}
        1 => return Err("found an object file: link it with cc -shared".into()),
        2 => return Err(format!("found an executable: {BUILD}")),
        n => return Err(format!("found an ELF file of type {n}: {BUILD}")),
    }
    complete(file, head, len)
}

/// What to do about a file that was built for another purpose.
pub(super) const BUILD: &str = "build it with cc -shared -fPIC";

const WIDE: bool = cfg!(target_pointer_width = "64");
const HEADER: usize = if WIDE { 64 } else { 52 };
/// Name and number of this machine (`e_machine`); 0 where it is not known here, and then not checked.
const MACHINE: (&str, u64) = if cfg!(target_arch = "x86_64") {
    ("x86-64", 62)
} else if cfg!(target_arch = "aarch64") {
    ("AArch64", 183)
} else if cfg!(target_arch = "riscv64") {
    ("RISC-V", 243)
} else if cfg!(target_arch = "x86") {
    ("x86", 3)
} else if cfg!(target_arch = "arm") {
    ("ARM", 40)
} else if cfg!(target_arch = "powerpc64") {
    ("PowerPC64", 21)
} else if cfg!(target_arch = "s390x") {
    ("S/390", 22)
} else {
    ("this machine", 0)
};
const ET_DYN: u64 = 3;
const PT_LOAD: u64 = 1;
/// A file with more program headers than that is no module; it bounds the memory they take.
const MAX_PARTS: u64 = 4096;

/// A number in a header: where it is, and how many bytes it has.
type Field = (usize, usize);

/// Picks a field's place by the width of this machine.
const fn place(wide: Field, narrow: Field) -> Field {
    if WIDE { wide } else { narrow }
}

const TYPE: Field = (16, 2);
const MACHINE_FIELD: Field = (18, 2);
const PROGRAM_OFFSET: Field = place((32, 8), (28, 4));
const SECTION_OFFSET: Field = place((40, 8), (32, 4));
const PROGRAM_SIZE: Field = place((54, 2), (42, 2));
const PROGRAM_COUNT: Field = place((56, 2), (44, 2));
const SECTION_SIZE: Field = place((58, 2), (46, 2));
const SECTION_COUNT: Field = place((60, 2), (48, 2));
const PART_TYPE: Field = (0, 4);
const PART_OFFSET: Field = place((8, 8), (4, 4));
const PART_SIZE: Field = place((32, 8), (16, 4));
/// Bytes of a program header.
const PART: u64 = if WIDE { 56 } else { 32 };

fn field(bytes: &[u8], (at, width): Field) -> u64 {
    let mut value = [0; 8];
    if cfg!(target_endian = "little") {
        value[..width].copy_from_slice(&bytes[at..at + width]);
    } else {
        value[8 - width..].copy_from_slice(&bytes[at..at + width]);
    }
    u64::from_ne_bytes(value)
}

fn not_elf(head: &[u8]) -> String {
    let found = match head {
        [b'#', b'!', ..] => "a script",
        [b'!', b'<', b'a', b'r', ..] => "a static library",
        _ if head.iter().all(|b| matches!(b, b'\t' | b'\n' | b'\r' | 0x20..=0x7e)) => "text",
        _ => "no ELF file",
    };
    format!("found {found}: {BUILD}")
}

/// The first 16 bytes and the machine: read only after these are ours may the rest be.
fn identity(head: &[u8]) -> Result<(), String> {
    let bits = |wide| if wide { "64-bit" } else { "32-bit" };
    let order = |little| if little { "little-endian" } else { "big-endian" };
    let elsewhere = |found: &str, ours: &str| Err(format!("found one for {found}, not {ours}: {REBUILD}"));
    let (wide, little) = (head[4] == 2, head[5] == 1);
    if wide != WIDE {
        return elsewhere(&format!("{} machines", bits(wide)), bits(WIDE));
    }
    if little != cfg!(target_endian = "little") {
        return elsewhere(&format!("{} machines", order(little)), order(!little));
    }
    let machine = field(head, MACHINE_FIELD);
    if MACHINE.1 != 0 && machine != MACHINE.1 {
        return elsewhere(&machine_name(machine), MACHINE.0);
    }
    Ok(())
}

const REBUILD: &str = "build it for this machine";

fn machine_name(number: u64) -> String {
    let names = [(3, "x86"), (21, "PowerPC64"), (22, "S/390"), (40, "ARM"), (62, "x86-64"), (183, "AArch64")];
    let known = names.into_iter().chain([(243, "RISC-V")]).find(|(n, _)| *n == number);
    known.map_or_else(|| format!("machine {number}"), |(_, name)| name.to_owned())
}

/// Everything the headers point to lies within the file. The section headers are not needed to load it, but they stand last, so
/// they tell of a file that was cut where loading would not notice.
fn complete(file: &File, head: &[u8], len: u64) -> Result<(), String> {
    let table = |offset, size, count| end_of(field(head, offset), field(head, size) * field(head, count));
    let sections = table(SECTION_OFFSET, SECTION_SIZE, SECTION_COUNT);
    let programs = table(PROGRAM_OFFSET, PROGRAM_SIZE, PROGRAM_COUNT);
    let end = sections.max(programs);
    if end > len {
        return Err(cut(len, end));
    }
    let count = field(head, PROGRAM_COUNT);
    if count == 0 || count > MAX_PARTS || field(head, PROGRAM_SIZE) != PART {
        return Err(format!("found an ELF file without usable program headers: {BUILD}"));
    }
    let mut parts = vec![0; (count * PART) as usize];
    file.read_exact_at(&mut parts, field(head, PROGRAM_OFFSET))
        .map_err(|e| format!("cannot read it: {e}"))?;
    let loaded = parts.chunks_exact(PART as usize).filter(|part| field(part, PART_TYPE) == PT_LOAD);
    let end = loaded.map(|part| end_of(field(part, PART_OFFSET), field(part, PART_SIZE))).max();
    match end {
        None => Err(format!("found an ELF file with nothing to load: {BUILD}")),
        Some(end) if end > len => Err(cut(len, end)),
        Some(_) => Ok(()),
    }
}

fn end_of(offset: u64, size: u64) -> u64 {
    if size == 0 { 0 } else { offset.saturating_add(size) }
}

fn cut(len: u64, end: u64) -> String {
    format!("found it truncated, {len} bytes of at least {end}: build or copy it again")
}

/// Reads until `buf` is full or the file ends.
fn read_at(file: &File, buf: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut got = 0;
    while got < buf.len() {
        match file.read_at(&mut buf[got..], offset + got as u64) {
            Ok(0) => break,
            Ok(n) => got += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(got)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::memory::memory_file;
    use std::io::Write;

    /// A header with one PT_LOAD of the whole file behind it, and a section table at the end.
    fn image() -> Vec<u8> {
        let mut bytes = vec![0; 1024];
        bytes[..6].copy_from_slice(&[0x7f, b'E', b'L', b'F', if WIDE { 2 } else { 1 }, 1]);
        bytes[5] = if cfg!(target_endian = "little") { 1 } else { 2 };
        put(&mut bytes, TYPE, ET_DYN);
        put(&mut bytes, MACHINE_FIELD, MACHINE.1);
        put(&mut bytes, PROGRAM_OFFSET, HEADER as u64);
        put(&mut bytes, PROGRAM_SIZE, PART);
        put(&mut bytes, PROGRAM_COUNT, 1);
        put(&mut bytes, SECTION_OFFSET, 960);
        put(&mut bytes, SECTION_SIZE, 64);
        put(&mut bytes, SECTION_COUNT, 1);
        put(&mut bytes[HEADER..], PART_TYPE, PT_LOAD);
        put(&mut bytes[HEADER..], PART_SIZE, 1024);
        bytes
    }

    fn put(bytes: &mut [u8], (at, width): Field, value: u64) {
        let le = cfg!(target_endian = "little");
        let value = if le { value.to_le_bytes() } else { (value << (64 - 8 * width)).to_be_bytes() };
        bytes[at..at + width].copy_from_slice(&value[..width]);
    }

    fn checked(bytes: &[u8]) -> Result<(), String> {
        let mut file = File::from(memory_file(c"test").unwrap());
        file.write_all(bytes).unwrap();
        check(&file, bytes.len() as u64)
    }

    fn changed(field: Field, value: u64) -> String {
        let mut bytes = image();
        put(&mut bytes, field, value);
        checked(&bytes).unwrap_err()
    }

    #[test]
    fn a_complete_shared_object_is_taken() {
        assert_eq!(checked(&image()), Ok(()));
    }

    #[test]
    fn a_cut_at_any_byte_is_told_as_such() {
        let whole = image();
        assert!(checked(&[]).unwrap_err().contains("empty"));
        for len in 4..whole.len() {
            let text = checked(&whole[..len]).unwrap_err();
            assert!(text.contains("truncated"), "{len}: {text}");
        }
    }

    #[test]
    fn a_cut_is_seen_without_section_headers_too() {
        let mut bytes = image();
        put(&mut bytes, SECTION_COUNT, 0);
        assert_eq!(checked(&bytes), Ok(()));
        assert!(checked(&bytes[..1023]).unwrap_err().contains("truncated"));
    }

    #[test]
    fn ranges_past_the_end_of_numbers_are_truncated_files() {
        assert!(changed(SECTION_OFFSET, u64::MAX >> if WIDE { 0 } else { 32 }).contains("truncated"));
        let mut bytes = image();
        put(&mut bytes[HEADER..], PART_OFFSET, u64::MAX >> if WIDE { 0 } else { 32 });
        assert!(checked(&bytes).unwrap_err().contains("truncated"));
    }

    #[test]
    fn files_of_other_kinds_are_named() {
        assert!(checked(b"hello world\n").unwrap_err().contains("found text"));
        assert!(checked(b"#!/bin/sh\n").unwrap_err().contains("script"));
        assert!(checked(b"!<arch>\n").unwrap_err().contains("static library"));
        assert!(checked(&[0xff; 100]).unwrap_err().contains("no ELF file"));
        assert!(changed(TYPE, 1).contains("object file"));
        assert!(changed(TYPE, 2).contains("executable"));
        assert!(changed(PROGRAM_COUNT, 0).contains("program headers"));
        assert!(changed((HEADER, 4), 2).contains("nothing to load"));
    }

    #[test]
    fn files_for_other_machines_are_named() {
        let other = if MACHINE.1 == 183 { (62, "x86-64") } else { (183, "AArch64") };
        let text = changed(MACHINE_FIELD, other.0);
        assert!(text.contains(other.1) && text.contains(MACHINE.0), "{text}");
        assert!(changed(MACHINE_FIELD, 999).contains("machine 999"));
        assert!(changed((4, 1), if WIDE { 1 } else { 2 }).contains("-bit"));
        assert!(changed((5, 1), if cfg!(target_endian = "little") { 2 } else { 1 }).contains("endian"));
    }
}
