//! Programs in C that embed the library: the results of its calls, and that they serve.
#![allow(clippy::unwrap_used)]

mod util;

use std::fs;
use std::path::Path;
use std::process::{Command, Output};
use util::host::{Link, program, search};
use util::{Start, Style, handler};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

fn run(program: &Path, args: &[&str]) -> Output {
    let mut command = Command::new("env");
    command.arg(search()).arg(program).args(args).output().unwrap()
}

#[test]
fn every_call_reports_what_it_refuses() {
    let out = run(&program("tests/host.c", "calls", Link::Shared), &["calls"]);
    let text = String::from_utf8(out.stdout).unwrap();
    assert!(out.status.success(), "{}{text}", String::from_utf8_lossy(&out.stderr));
    let expected = [
        "run: -8 run: expected a handler, none was set",
        "set: -6 workers = \"many\": expected auto",
        "set: -6 unknown setting \"colour\"",
        "set: -6 unknown setting \"wokers\"; did you mean \"workers\"?",
        "set: -2 dispatch: an argument is out of range",
        "set: -1 dispatch: a pointer is NULL",
        "listen: -6 listen = \"nowhere\": expected ",
        "workers: -6 workers = \"1025\": expected ",
        "args: 0 ",
        "args: -1 args: a pointer is NULL",
        "args: 0 ",
        "on_data: -1 handler: a pointer is NULL",
        "module: -8 module: found no handler",
        "module: -8 module: found on_connection together",
        "module: -8 module: found ABI 3.1",
        "module: 0 ",
        "module_file: 0 ",
        "run: -8 load /nowhere.so: No such file or directory",
        "on_request: 0 ",
        "listen: 0 ",
        "workers: 0 ",
        "on_start: 0 ",
        "started: 1 addresses, 2 workers, port 0: 0",
        "meanwhile: -4 -4",
        "run: 0 ",
        "killed: 0",
        "signals: 0",
        "started: 1 addresses, 2 workers, port 0: 0",
        "meanwhile: -4 -4",
        "run: 0 ",
        "killed: 0",
        "signals: 0",
    ];
    for (line, expected) in text.lines().zip(expected) {
        assert!(line.starts_with(expected), "{line:?}, expected {expected:?}");
        // A line that ends in a space has no reason.
        assert!(!expected.ends_with("0 ") || line == expected, "{line:?}");
    }
    assert_eq!(text.lines().count(), expected.len(), "{text}");
}

#[test]
fn a_program_with_threads_is_refused() {
    let out = run(&program("tests/host.c", "threads", Link::Shared), &["threads"]);
    let text = String::from_utf8(out.stdout).unwrap();
    assert!(text.starts_with("run: -4 ") && text.contains("thread"), "{text}");
}

#[test]
fn the_example_serves_with_the_shared_and_the_static_library() {
    for link in [Link::Shared, Link::Static] {
        let example = program("ffi-examples/embed.c", &format!("embed-{link:?}"), link);
        let words = [example.to_str().unwrap(), "127.0.0.1:0", "2"];
        let server = Start::new(Style::Request).program(words).through(&["env", &search()]).start();
        let mut client = server.connect();
        for n in 1..3 {
            client.send(b"GET /path HTTP/1.1\r\nHost: t\r\n\r\n").unwrap();
            let body = client.http_answer().unwrap().body;
            assert_eq!(body, format!("hello from request {n} to /path\n"), "{link:?}");
        }
        drop(client);
        server.stop();
    }
}

#[test]
fn a_program_serves_with_a_module_from_a_file() {
    let hello = fs::read_to_string(Path::new(ROOT).join("ffi-examples/hello.c")).unwrap();
    let module = handler::compile(&hello, &[]);
    for link in [Link::Shared, Link::Static] {
        let host = program("tests/host.c", &format!("module-{link:?}"), link);
        let words = [host.to_str().unwrap(), "module", module.to_str().unwrap()];
        let server = Start::new(Style::Request).program(words).through(&["env", &search()]).start();
        let mut client = server.connect();
        client.send(b"GET / HTTP/1.1\r\nHost: t\r\n\r\n").unwrap();
        assert_eq!(client.http_answer().unwrap().body, "hello world\n", "{link:?}");
        drop(client);
        server.stop();
    }
}

/// As the first page of the header says: no flag against warnings, but for the linker's about a static glibc.
#[test]
fn the_static_library_links_without_warnings() {
    let (source, program) = (Path::new(ROOT).join("ffi-examples/embed.c"), util::host::built("libprefork.a"));
    let out = Path::new(env!("CARGO_TARGET_TMPDIR")).join("embed").join("embed-quiet");
    let cc = |before: &[&str], behind: &[&str]| {
        let mut cc = Command::new("cc");
        cc.args(["-Wall", "-Wextra", "-Werror", "-pedantic"])
            .args(before)
            .arg("-I")
            .arg(Path::new(ROOT).join("include"));
        let out = cc.arg(&source).arg(&program).args(behind).arg("-o").arg(&out).output().unwrap();
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        assert!(out.status.success(), "{said}");
        said
    };
    assert_eq!(cc(&[], &["-lpthread", "-ldl", "-lm"]), "");
    let said = cc(&["-static"], &["-lpthread", "-ldl", "-lm"]);
    let of = |line: &str| {
        ["dlopen", "getaddrinfo", "getpwuid_r"].iter().any(|name| line.contains(&format!("'{name}'")))
    };
    assert!(said.lines().filter(|line| line.contains("warning:")).all(of), "{said}");
    assert_eq!(cc(&["-static", "-Wl,--no-warnings"], &["-lpthread", "-ldl", "-lm"]), "");
}
