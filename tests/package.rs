//! Rules for all sources: the places of unsafe code, system calls and C functions, who may import whom, and the libraries that
//! come with ours.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
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
    let handler = |line: &str| {
        let line = line.replace("unsafe extern \"C\" fn", "extern \"C\" fn");
        ["extern \"C\" fn", "unsafe extern \"C\" {"].iter().any(|it| line.trim_start().starts_with(it))
            || ["= extern \"C\" fn", ": extern \"C\" fn"].iter().any(|it| line.contains(it))
    };
    let found = |line: &str| line.contains("extern \"C\"") && !handler(line) || line.contains("no_mangle");
    assert_eq!(lines_outside(&["src/ffi/"], found), NONE);
    let exported = |line: &str| line.contains("extern \"C\"");
    let handlers =
        ["src/ffi/", "src/sys/signal.rs", "src/sys/forks.rs", "src/sys/crash.rs", "src/sys/exception.rs"];
    assert_eq!(lines_outside(&handlers, exported), NONE);
}

/// A module by its path from the root: `["worker", "http", "conn"]`. A folder's `mod.rs` is the folder.
type Module = Vec<String>;
/// By module: the modules that it imports from.
type Imports = BTreeMap<Module, BTreeSet<Module>>;

fn module(path: &str) -> Module {
    path.split(['/', ':']).filter(|part| !part.is_empty()).map(str::to_owned).collect()
}

/// Makes one path of each name in `a::{b, c::{d, e}}`.
fn expand(path: &str) -> Vec<String> {
    let Some((head, rest)) = path.split_once('{') else {
        return vec![path.split(" as ").next().unwrap().trim().to_owned()];
    };
    let (mut depth, mut parts) = (0, vec![String::new()]);
    for c in rest[..rest.rfind('}').unwrap()].chars() {
        depth += i32::from(c == '{') - i32::from(c == '}');
        match c {
            ',' if depth == 0 => parts.push(String::new()),
            c => parts.last_mut().unwrap().push(c),
        }
    }
    let parts = parts.iter().filter(|part| !part.trim().is_empty());
    parts.flat_map(|part| expand(&format!("{}{}", head.trim(), part.trim()))).collect()
}

/// The paths after `use` in a file, without those of its tests.
fn uses(text: &str) -> Vec<Module> {
    let code = text.split("mod tests {").next().unwrap();
    let code: Vec<&str> = code.lines().map(|line| line.split("//").next().unwrap()).collect();
    let is_path = |c: char| c.is_alphanumeric() || "_:{},* ".contains(c);
    let statements = code.join(" ");
    let paths = statements.split(';').filter_map(|statement| statement.rsplit_once("use "));
    let paths =
        paths.filter(|(before, path)| !before.ends_with(char::is_alphanumeric) && path.chars().all(is_path));
    paths.flat_map(|(_, path)| expand(path)).map(|path| module(&path)).collect()
}

/// The imports of all product code from product code. A module may use items of the folder that it is in: these do not count.
fn imports() -> Imports {
    let files = sources();
    let is_product = |name: &str| !["/tests", "/simulate/", "fuzzing"].iter().any(|part| name.contains(part));
    let path = |name: &str| {
        let path = name.trim_start_matches("src/").trim_end_matches(".rs");
        module(path.trim_end_matches("/mod"))
    };
    let modules: BTreeMap<Module, &str> = files
        .iter()
        .filter(|(name, _)| is_product(name))
        .map(|(name, text)| (path(name), text.as_str()))
        .collect();
    // `crate::Conn` is `crate::worker::conn::Conn`.
    let roots = uses(modules[&module("lib")]);
    let exported: BTreeMap<&String, &Module> =
        roots.iter().map(|path| (path.last().unwrap(), path)).collect();
    let resolve = |from: &Module, used: Module| {
        let ups = used.iter().take_while(|part| *part == "super").count();
        let from_here =
            |n: usize| [&from[..from.len() - n], &used[ups + usize::from(used[0] == "self")..]].concat();
        let full = match (used[0].as_str(), used.get(1).and_then(|name| exported.get(name))) {
            ("crate", Some(path)) if !modules.contains_key(&used[1..2]) => (*path).clone(),
            ("crate", _) => used[1..].to_vec(),
            _ => from_here(ups),
        };
        (1..=full.len()).rev().map(|n| full[..n].to_vec()).find(|path| modules.contains_key(path))
    };
    let imports_of = |from: &Module, text: &str| {
        let used = uses(text).into_iter().filter_map(|used| resolve(from, used));
        used.filter(|to| !from.starts_with(to)).collect::<BTreeSet<_>>()
    };
    let imports: Imports =
        modules.iter().map(|(from, text)| (from.clone(), imports_of(from, text))).collect();
    let count: usize = imports.values().map(BTreeSet::len).sum();
    assert!(count > 200, "{count}: {imports:?}");
    imports
}

/// The modules that a module imports, itself or by way of others.
fn reached<'a>(from: &'a Module, imports: &'a Imports) -> BTreeSet<&'a Module> {
    let (mut all, mut next) = (BTreeSet::new(), vec![from]);
    while let Some(to) = next.pop() {
        next.extend(imports.get(to).into_iter().flatten().filter(|to| all.insert(*to)));
    }
    all
}

/// The groups of modules of which each imports each other one, itself or by way of others.
fn circles(imports: &Imports) -> BTreeSet<BTreeSet<String>> {
    let circle = |from: &Module| -> BTreeSet<String> {
        let both = reached(from, imports).into_iter().filter(|to| reached(to, imports).contains(from));
        both.map(|to| to.join("/")).collect()
    };
    imports.keys().map(circle).filter(|circle| circle.len() > 1).collect()
}

#[test]
fn no_folder_imports_from_one_that_imports_from_it() {
    let mut folders = Imports::new();
    for (from, to) in imports() {
        let to = to.into_iter().map(|to| to[..1].to_vec()).filter(|to| *to != from[..1]);
        folders.entry(from[..1].to_vec()).or_default().extend(to);
    }
    assert_eq!(circles(&folders), BTreeSet::new());
}

#[test]
fn at_most_two_files_import_from_each_other() {
    let large: Vec<_> = circles(&imports()).into_iter().filter(|circle| circle.len() > 2).collect();
    assert!(large.is_empty(), "{large:?}");
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
