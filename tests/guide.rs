//! docs/guide.md: its C compiles, its Rust is tested as the documentation of `prefork::guide`, and the names in it exist.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");
/// What the C of the guide follows, as its first page says.
const HEADERS: &str = "#include <prefork.h>\n#include <stdio.h>\n#include <stdlib.h>\n#include <string.h>\n";

fn text(path: &str) -> String {
    fs::read_to_string(Path::new(ROOT).join(path)).unwrap()
}

/// The code blocks of a language.
fn blocks(guide: &str, language: &str) -> Vec<String> {
    let begin = format!("\n```{language}\n");
    guide.split(&begin).skip(1).map(|rest| rest.split("\n```\n").next().unwrap().to_owned() + "\n").collect()
}

/// The words of a text that begin with `start`.
fn words(text: &str, start: &str, is_part: impl Fn(char) -> bool) -> BTreeSet<String> {
    let found = text.match_indices(start).filter(|(at, _)| !text[..*at].ends_with(&is_part));
    found.map(|(at, _)| text[at..].chars().take_while(|c| is_part(*c)).collect()).collect()
}

#[test]
fn its_c_compiles() {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("guide");
    fs::create_dir_all(&folder).unwrap();
    let postgres = Command::new("pg_config").arg("--includedir").output().unwrap();
    let postgres = PathBuf::from(String::from_utf8(postgres.stdout).unwrap().trim_end());
    let blocks = blocks(&text("docs/guide.md"), "c");
    assert!(blocks.len() >= 10, "{blocks:?}");
    for (i, block) in blocks.iter().enumerate() {
        let file = folder.join(format!("{i}.c"));
        fs::write(&file, format!("{HEADERS}{block}")).unwrap();
        // Not each function of an excerpt is used.
        let mut cc = Command::new("cc");
        cc.args(["-fsyntax-only", "-Wall", "-Werror", "-Wno-unused-function", "-I"]);
        cc.arg(Path::new(ROOT).join("include")).arg("-I").arg(&postgres).arg(&file);
        let out = cc.output().unwrap();
        assert!(out.status.success(), "{block}\n{}", String::from_utf8_lossy(&out.stderr));
    }
}

#[test]
fn its_rust_is_tested_as_documentation_and_stands_beside_its_c() {
    let guide = text("docs/guide.md");
    assert!(text("src/lib.rs").contains("#[doc = include_str!(\"../docs/guide.md\")]"));
    let fences: Vec<&str> = guide.lines().filter(|line| line.starts_with("```")).collect();
    let known = |line: &&str| ["```", "```c", "```rust"].contains(line);
    assert!(fences.iter().all(known), "{fences:?}");
    for section in guide.split("\n## ").skip(1) {
        let (c, rust) = (blocks(section, "c").len(), blocks(section, "rust").len());
        assert_eq!(c > 0, rust > 0, "{section}");
    }
}

#[test]
fn the_names_in_it_exist() {
    let guide = text("docs/guide.md");
    let (header, settings) = (text("include/prefork.h"), text("src/config/settings.rs"));
    let rust = ["handle", "response"].map(|file| text(&format!("src/worker/http/{file}.rs"))).concat();
    let is_name = |c: char| c.is_alphanumeric() || c == '_';
    let defined = |text: &str, name: &str| {
        text.lines()
            .any(|l| (l.contains("fn ") || l.starts_with("static ")) && l.contains(&format!(" {name}(")))
    };
    for start in ["prefork_", "PREFORK_", "on_"] {
        let known = words(&header, start, is_name);
        for name in words(&guide, start, is_name) {
            // `prefork_conn_*` stands for all of them.
            let is_group = name.ends_with('_') && known.iter().any(|one| one.starts_with(&name));
            let is_known =
                known.contains(&name) || is_group || defined(&guide, &name) || defined(&rust, &name);
            assert!(is_known, "{name}");
        }
    }
    for option in words(&guide, "--", |c| c.is_alphanumeric() || c == '-') {
        let name = option.trim_start_matches('-');
        assert!(name.is_empty() || settings.contains(&format!("\"{name}\"")), "{option}");
    }
}

#[test]
fn its_contents_and_the_readme_link_to_what_exists() {
    let guide = text("docs/guide.md");
    assert!(text("README.md").contains("(docs/guide.md)"));
    let anchor = |title: &str| {
        let kept = title.to_lowercase().replace(' ', "-");
        kept.chars().filter(|c| c.is_alphanumeric() || *c == '-').collect::<String>()
    };
    let titles: Vec<_> = guide.lines().filter_map(|line| line.strip_prefix("## ")).map(anchor).collect();
    let linked: Vec<_> =
        guide.split("](#").skip(1).map(|rest| rest.split(')').next().unwrap().to_owned()).collect();
    assert_eq!(linked, titles);
}

#[test]
fn the_chapter_about_requests_compiles_too() {
    let chapter = text("docs/requests.md");
    assert!(text("src/lib.rs").contains("#[doc = include_str!(\"../docs/requests.md\")]"));
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("guide");
    fs::create_dir_all(&folder).unwrap();
    let blocks = blocks(&chapter, "c");
    assert_eq!(blocks.len(), 3);
    for (i, block) in blocks.iter().enumerate() {
        let file = folder.join(format!("requests-{i}.c"));
        fs::write(&file, format!("{HEADERS}{block}")).unwrap();
        let mut cc = Command::new("cc");
        cc.args(["-std=c99", "-fsyntax-only", "-Wall", "-Werror", "-Wno-unused-function", "-I"]);
        let out = cc.arg(Path::new(ROOT).join("include")).arg(&file).output().unwrap();
        assert!(out.status.success(), "{block}\n{}", String::from_utf8_lossy(&out.stderr));
    }
    let header = text("include/prefork.h");
    for name in words(&chapter, "prefork_", |c| c.is_alphanumeric() || c == '_') {
        assert!(header.contains(name.trim_end_matches('_')), "{name}");
    }
}
