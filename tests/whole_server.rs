//! How a program's own tests start it as a whole: what docs/testing.md shows.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod util;

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use util::host::example;

const DOCS: &str = include_str!("../docs/testing.md");

/// A server that ends with the test.
struct Server {
    process: Child,
    url: String,
}

impl Server {
    fn start(program: &Path) -> Self {
        let mut process = Command::new(program).arg("127.0.0.1:0").stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        // Printed when all workers are ready; a server that cannot start ends, and there is no line.
        let line = lines.next().expect("the server has not started").unwrap();
        let url = line.split_once("listening on ").unwrap().1.to_owned();
        Self { process, url }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // SIGKILL: workers whose master is gone end by themselves. `kill -TERM` would let requests finish.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The code blocks of a language in the document.
fn blocks(language: &str) -> impl Iterator<Item = &str> {
    let rest = DOCS.split("\n```").filter_map(move |rest| rest.strip_prefix(language)?.strip_prefix('\n'));
    rest.map(|block| block.split("\n```").next().unwrap())
}

#[test]
fn a_program_in_rust_is_started_as_the_document_says() {
    let shown = blocks("rust,ignore").next().unwrap();
    assert!(include_str!("whole_server.rs").contains(shown), "{shown}");
    let servers: Vec<_> = (0..3).map(|_| Server::start(&example("hello"))).collect();
    for server in &servers {
        let out = Command::new("curl").args(["-s", &server.url]).output().unwrap();
        assert_eq!(out.stdout, b"hello world\n", "{}", server.url);
    }
}

#[test]
fn a_module_is_started_as_the_document_says() {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("whole_server");
    fs::create_dir_all(&folder).unwrap();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut cc = Command::new("cc");
    cc.args(["-shared", "-fPIC", "-I"]).arg(root.join("include")).arg(root.join("ffi-examples/hello.c"));
    assert!(cc.arg("-o").arg(folder.join("hello.so")).status().unwrap().success());
    let script = blocks("sh").find(|block| block.contains("banner")).unwrap();
    let programs = Path::new(env!("CARGO_BIN_EXE_prefork")).parent().unwrap().to_owned();
    let path = format!("{}:{}", programs.display(), std::env::var("PATH").unwrap());
    let out =
        Command::new("sh").args(["-exc", script]).env("PATH", path).current_dir(&folder).output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
}
