//! `prefork_test_*`: handlers of every style in a program of assertions, under valgrind and AddressSanitizer too.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// Compiles a program of these files with the shared library.
fn program(name: &str, files: &[&str], flags: &[&str]) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("testing_c").join(name);
    fs::create_dir_all(&folder).unwrap();
    let library = Path::new(env!("CARGO_BIN_EXE_prefork")).with_file_name("deps").join("libprefork.so");
    let soname = folder.join("libprefork.so.2");
    let _ = fs::remove_file(&soname);
    std::os::unix::fs::symlink(&library, &soname).unwrap();
    let program = folder.join("program");
    let mut cc = Command::new("cc");
    cc.args(["-std=c99", "-D_GNU_SOURCE", "-g", "-Wall", "-Wextra", "-Werror", "-pedantic", "-pthread"]);
    cc.arg("-Wno-use-after-free");
    cc.args(flags).arg("-I").arg(Path::new(ROOT).join("include"));
    cc.args(files.iter().map(|file| Path::new(ROOT).join(file))).arg("-o").arg(&program).arg(&soname);
    cc.arg(format!("-Wl,-rpath,{}", folder.display()));
    let out = cc.output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    program
}

/// What it printed, and its exit code.
fn run(command: &mut Command) -> (String, Option<i32>) {
    let Output { stdout, stderr, status } = command.output().unwrap();
    (String::from_utf8_lossy(&[stdout, stderr].concat()).into_owned(), status.code())
}

fn passes(command: &mut Command) -> String {
    let (text, code) = run(command);
    assert!(code == Some(0) && text.contains("all passed"), "{code:?}: {text}");
    text
}

fn valgrind(program: &Path) -> Command {
    let mut command = Command::new("valgrind");
    command.args(["-q", "--leak-check=full", "--errors-for-leak-kinds=definite", "--error-exitcode=99"]);
    command.arg(program);
    command
}

#[test]
fn every_style_is_tested_and_refusals_say_what_to_do() {
    let text = passes(&mut Command::new(program("all", &["tests/testing.c"], &[])));
    for line in [
        "prefork: prefork_test_new: the handler is NULL: give &prefork_module, which PREFORK_MODULE defines",
        "prefork: prefork_test_new: found no handler: set on_request, on_connection, on_data or on_datagram",
        "prefork: prefork_test_new: found ABI 1.",
        "prefork: prefork_test_advance: only the thread of the test may call it, and no callback",
        "prefork: prefork_test_set: the worker has started already",
        "prefork: prefork_test_request: GET /: the handler is in blocking style, and takes no requests: connect a client",
        "prefork: prefork_test_start: worker_start returned 1",
        "prefork: prefork_test_start: load /nowhere/handler.so: No such file or directory",
    ] {
        assert!(text.contains(line), "{line} is not in:\n{text}");
    }
}

#[test]
fn valgrind_finds_nothing_of_prefork_and_the_faults_of_the_handler() {
    passes(&mut valgrind(&program("valgrind", &["tests/testing.c"], &[])));
    let faulty = program("faulty", &["tests/testing.c"], &["-DHEAP"]);
    let (text, code) = run(valgrind(&faulty).arg("/leak"));
    assert!(code == Some(99) && text.contains("4,321 bytes in 1 blocks are definitely lost"), "{text}");
    let (text, code) = run(valgrind(&faulty).arg("/freed"));
    assert!(code == Some(99) && text.contains("Invalid read of size 1"), "{text}");
}

#[test]
fn so_does_address_sanitizer() {
    let flags = ["-fsanitize=address", "-fno-omit-frame-pointer", "-DHEAP"];
    let program = program("asan", &["tests/testing.c"], &flags);
    let text = passes(&mut Command::new(&program));
    assert!(!text.contains("Sanitizer"), "{text}");
    let (text, code) = run(Command::new(&program).arg("/leak"));
    assert!(code != Some(0) && text.contains("4321 byte(s) leaked"), "{text}");
    let (text, code) = run(Command::new(&program).arg("/freed"));
    assert!(code != Some(0) && text.contains("heap-use-after-free"), "{text}");
}

#[test]
fn a_module_is_tested_by_its_path() {
    let module = Path::new(env!("CARGO_TARGET_TMPDIR")).join("testing_c/hello.so");
    let program = program("load", &["tests/testing.c"], &[]);
    let mut cc = Command::new("cc");
    cc.args(["-shared", "-fPIC", "-I"]).arg(Path::new(ROOT).join("include"));
    let cc = cc.arg(Path::new(ROOT).join("ffi-examples/hello.c")).arg("-o").arg(&module).status();
    assert!(cc.unwrap().success());
    passes(Command::new(program).arg("load").arg(module));
}

#[test]
fn the_example_passes_under_valgrind() {
    for file in ["links.c", "test_links.c", "unit_test.rs"] {
        let text = fs::read_to_string(Path::new(ROOT).join("ffi-examples").join(file)).unwrap();
        assert!(text.lines().count() < 100, "{file} is long");
    }
    let program = program("links", &["ffi-examples/test_links.c", "ffi-examples/links.c"], &[]);
    passes(&mut Command::new(&program));
    passes(&mut valgrind(&program));
}

/// What the first program of docs/testing.md is linked with.
const OF_DOCS: &str = r#"
static void answer(prefork_request *req, prefork_response *res, void *state)
{
    (void)req;
    (void)state;
    prefork_response_header(res, "Content-Type", "text/plain");
    prefork_response_body(res, "POST /items\n", 12);
}

static void datagram(prefork_worker *worker, const struct sockaddr *peer, const void *data, size_t size, void *state)
{
    (void)peer;
    (void)state;
    prefork_datagram_reply(worker, data, size);
}

PREFORK_MODULE(.on_request = answer, .on_datagram = datagram)
"#;

#[test]
fn the_programs_of_the_document_pass() {
    let docs = fs::read_to_string(Path::new(ROOT).join("docs/testing.md")).unwrap();
    let headers = "#include <prefork.h>\n#include <stdio.h>\n#include <stdlib.h>\n#include <string.h>\n";
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("testing_c");
    fs::create_dir_all(&folder).unwrap();
    let handler = folder.join("handler.c");
    fs::write(&handler, format!("{headers}{OF_DOCS}")).unwrap();
    let blocks: Vec<_> =
        docs.split("\n```c\n").skip(1).map(|rest| rest.split("\n```\n").next().unwrap()).collect();
    assert_eq!(blocks.len(), 2);
    for (n, (block, handler)) in
        blocks.iter().zip([handler.to_str().unwrap(), "ffi-examples/echo.c"]).enumerate()
    {
        let test = folder.join(format!("docs{n}.c"));
        fs::write(&test, format!("{headers}{block}\n")).unwrap();
        let program = program(&format!("docs{n}"), &[test.to_str().unwrap(), handler], &[]);
        let (text, code) = run(&mut Command::new(program));
        assert_eq!((code, &*text), (Some(0), ""));
    }
}
