//! Rules for all sources: the places of unsafe code, system calls and C functions, and the libraries that come with ours.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// Every file under src with its text, by its path from the root.
fn sources() -> Vec<(String, String)> {
    let mut files = Vec::new();
    let mut folders = vec![PathBuf::from(ROOT).join("src")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                let name = path.strip_prefix(ROOT).unwrap().to_str().unwrap().to_owned();
                files.push((name, std::fs::read_to_string(path).unwrap()));
            }
        }
    }
    assert!(files.len() > 10, "{files:?}");
    files
}

/// The lines of code outside the given folders for which `found` is true, as `file:line`.
fn lines_outside(folders: &[&str], found: impl Fn(&str) -> bool) -> Vec<String> {
    let mut lines = Vec::new();
    for (file, text) in sources() {
        if folders.iter().any(|f| file.starts_with(f)) {
            continue;
        }
        for (i, line) in text.lines().enumerate() {
            if found(line.split("//").next().unwrap_or_default()) {
                lines.push(format!("{file}:{}", i + 1));
            }
        }
    }
    lines
}

fn has_word(line: &str, word: &str) -> bool {
    line.split(|c: char| !(c.is_alphanumeric() || c == '_')).any(|w| w == word)
}

const NONE: [String; 0] = [];

#[test]
fn unsafe_code_is_in_sys_and_ffi_alone() {
    let found = |line: &str| has_word(line, "unsafe") || line.contains("allow(unsafe_code)");
    assert_eq!(lines_outside(&["src/sys/", "src/ffi/"], found), NONE);
}

#[test]
fn the_kernel_is_called_in_sys_alone() {
    assert_eq!(lines_outside(&["src/sys/"], |line| line.contains("libc::")), NONE);
}

#[test]
fn c_functions_are_in_ffi_alone() {
    // The kernel and the C library call too: such a function has the C convention, and no name outside.
    let handler =
        |line: &str| line.trim_start().starts_with("extern \"C\" fn") || line.contains("= extern \"C\" fn");
    let found = |line: &str| line.contains("extern \"C\"") && !handler(line) || line.contains("no_mangle");
    assert_eq!(lines_outside(&["src/ffi/"], found), NONE);
    let exported = |line: &str| line.contains("extern \"C\"");
    assert_eq!(lines_outside(&["src/ffi/", "src/sys/signal.rs", "src/sys/forks.rs"], exported), NONE);
}

#[test]
fn every_file_begins_with_a_description() {
    for (file, text) in sources() {
        let head = text.lines().take_while(|l| l.starts_with("//!")).count();
        assert!(head > 0, "{file}: opens with no `//!`");
        // The crate's own documentation is a guide.
        assert!(head <= 10 || file == "src/lib.rs", "{file}: {head} lines of `//!`");
    }
}

#[test]
fn an_embedding_program_gets_four_libraries_and_no_more() {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let out = Command::new(cargo)
        .args(["tree", "--locked", "--offline", "--no-default-features", "-e", "normal"])
        .args(["--prefix", "none", "--format", "{lib}"])
        .current_dir(ROOT)
        .output()
        .unwrap();
    let text = String::from_utf8(out.stdout).unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let libraries: BTreeSet<&str> = text.lines().map(|l| l.trim_end_matches(" (*)").trim()).collect();
    assert_eq!(libraries, BTreeSet::from(["prefork", "libc", "mio", "httparse", "httpdate", "socket2"]));
}

#[test]
fn both_licences_are_present() {
    for (file, says) in [("LICENSE-MIT", "MIT License"), ("LICENSE-APACHE", "Apache License")] {
        let text = std::fs::read_to_string(Path::new(ROOT).join(file)).unwrap();
        assert!(text.contains(says) && text.contains("the prefork authors"), "{file}");
    }
}
