//! The HTTP/1.1 cases, which are kept outside this repository, against the fixture as a module. A clone without them has the unit
//! tests of `src/worker/http`, with cases of their own in each category.
#![allow(clippy::unwrap_used)]

mod util;

use std::path::{Path, PathBuf};
use std::process::Command;
use util::{Start, Style, handler};

/// The percentage of cases that must have the preferred one of the permitted outcomes.
const PREFERRED: u32 = 97;

fn cases() -> Option<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/http1");
    folder.join("cases.json").exists().then_some(folder)
}

/// Runs all cases and returns how many passed and failed, and what was printed.
fn run(folder: &Path, port: u16, flags: &[&str]) -> (u32, u32, String) {
    let out = Command::new("python3")
        .args([folder.join("run_http1.py").to_str().unwrap(), "127.0.0.1", &port.to_string()])
        .arg(folder.join("cases.json"))
        .args(flags)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    let last = text.lines().last().unwrap_or_default();
    let numbers: Vec<u32> = last.split(' ').filter_map(|word| word.parse().ok()).collect();
    let [passed, failed] = numbers[..] else { panic!("{text}") };
    assert!(passed + failed > 300, "{text}");
    (passed, failed, text)
}

#[test]
fn requests_get_the_outcomes_that_the_rfcs_permit_and_nearly_always_the_best() {
    let Some(folder) = cases() else { return };
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixture.c");
    let module = handler::compile(&std::fs::read_to_string(fixture).unwrap(), &[]);
    let words = [
        env!("CARGO_BIN_EXE_prefork"),
        "--workers",
        "2",
        "--listen",
        "127.0.0.1:0",
        module.to_str().unwrap(),
    ];
    let server = Start::new(Style::Request).program(words).start();
    let (_, failed, text) = run(&folder, server.port(), &[]);
    assert_eq!(failed, 0, "{text}");
    let (passed, failed, text) = run(&folder, server.port(), &["--prefer"]);
    assert!(passed * 100 >= (passed + failed) * PREFERRED, "{text}");
    server.stop();
}
