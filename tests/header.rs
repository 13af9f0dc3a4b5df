//! include/prefork.h: generated from src/ffi, accepted by every C and C++ compiler, and three quarters documentation.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");
const STRICT: [&str; 5] = ["-Wall", "-Wextra", "-Werror", "-pedantic", "-Wno-error=unused-function"];

fn header() -> String {
    fs::read_to_string(Path::new(ROOT).join("include/prefork.h")).unwrap()
}

fn scratch(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("header");
    fs::create_dir_all(&folder).unwrap();
    folder.join(name)
}

/// The output of a compiler for a file.
fn compiled(compiler: &str, standard: &str, file: &Path) -> Output {
    let mut command = Command::new(compiler);
    command.args(STRICT).args([standard, "-fsyntax-only", "-I"]).arg(Path::new(ROOT).join("include"));
    command.arg(file).output().unwrap_or_else(|e| panic!("{compiler}: {e}"))
}

fn compiles(compiler: &str, standard: &str, file: &Path) {
    let out = compiled(compiler, standard, file);
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{compiler} {standard} {}: {said}", file.display());
}

/// A source file with this text, for either language.
fn source(name: &str, text: &str) -> PathBuf {
    let path = scratch(name);
    fs::write(&path, text).unwrap();
    path
}

#[test]
fn the_committed_header_is_what_the_sources_make() {
    let made = scratch("made.h");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    // A folder of its own: the one in use is locked by the cargo that runs this test.
    let out = Command::new(cargo)
        .args(["check", "--quiet", "--locked", "--lib", "--no-default-features", "--features", "header"])
        .arg("--target-dir")
        .arg(scratch("target"))
        .env("PREFORK_HEADER", &made)
        .current_dir(ROOT)
        .output()
        .unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let (made, committed) = (fs::read_to_string(made).unwrap(), header());
    for (line, (made, committed)) in made.lines().zip(committed.lines()).enumerate() {
        assert_eq!(committed, made, "include/prefork.h:{} is stale: run `make header`", line + 1);
    }
    assert!(made == committed, "include/prefork.h is stale: run `make header`");
}

#[test]
fn it_compiles_alone_and_twice_in_every_standard() {
    let twice = "#include <prefork.h>\n#include <prefork.h>\n";
    let (c, cpp) = (source("twice.c", twice), source("twice.cpp", twice));
    for standard in ["-std=c99", "-std=c11", "-std=c17"] {
        compiles("cc", standard, &c);
    }
    for standard in ["-std=c++11", "-std=c++17", "-std=c++20"] {
        compiles("c++", standard, &cpp);
    }
}

#[test]
fn the_examples_and_the_fixture_compile_strictly() {
    let examples =
        [("hello", 80), ("echo", 80), ("blocking", 80), ("embed", 80), ("loop", 80), ("options", 80)];
    for (file, lines) in
        [&examples[..], &[("kv", 100), ("upload", 100), ("websocket", 120), ("chat", 120)]].concat()
    {
        let path = Path::new(ROOT).join(format!("ffi-examples/{file}.c"));
        compiles("cc", "-std=c99", &path);
        assert!(fs::read_to_string(path).unwrap().lines().count() < lines, "{file}.c");
    }
    let module = "PREFORK_MODULE(.on_request = NULL, WEBSOCKET_CALLBACKS)";
    let module = format!("#include \"{ROOT}/ffi-examples/websocket.h\"\n{module}\n");
    compiles("c++", "-std=c++11", &source("websocket.cpp", &module));
    for standard in ["-std=c++11", "-std=c++20"] {
        compiles("c++", standard, &Path::new(ROOT).join("ffi-examples/hello.cpp"));
    }
    compiles("cc", "-std=c99", &Path::new(ROOT).join("tests/fixture.c"));
}

#[test]
fn the_example_on_its_first_page_compiles() {
    let header = header();
    let code = header.split_once("A whole one:").unwrap().1.split_once("     cc -shared").unwrap().0;
    let code: String = code.lines().map(|l| l.trim_start_matches(" *").to_owned() + "\n").collect();
    let code = code.replace(" *req,", " *req __attribute__((unused)),");
    let code = code.replace("*state)", "*state __attribute__((unused)))");
    compiles("cc", "-std=c99", &source("page.c", &code));
    compiles("c++", "-std=c++11", &source("page.cpp", &code));
}

/// The same text is a module in C and in C++.
#[test]
fn a_module_is_written_the_same_way_in_both_languages() {
    let module = "#include <prefork.h>\n\
        static int start(prefork_worker *w, void **s) { *s = w; return 0; }\n\
        static void worker(prefork_worker *w, void *s) { (void)w; (void)s; }\n\
        static void message(prefork_worker *w, uint32_t from, uint32_t type, const void *data, size_t size, void *s)\n\
        { (void)w; (void)from; (void)type; (void)data; (void)size; (void)s; }\n\
        static void request(prefork_request *q, prefork_response *r, void *s) { (void)q; (void)r; (void)s; }\n\
        static void conn(prefork_conn *c, void *s) { (void)c; (void)s; }\n\
        static void datagram(prefork_worker *w, const struct sockaddr *p, const void *d, size_t n, void *s)\n\
        { (void)p; (void)s; prefork_datagram_reply(w, d, n); }\n\
        static int head(prefork_request *q, prefork_response *r, void *s) { (void)q; (void)r; (void)s; return 1; }\n\
        static void body(prefork_request *q, const void *d, size_t n, int last, void *s)\n\
        { (void)q; (void)d; (void)n; (void)last; (void)s; }\n\
        static ptrdiff_t handover(prefork_conn *c, void *b, size_t n, void *s)\n\
        { (void)c; (void)b; (void)n; (void)s; return 0; }\n\
        static int takeover(prefork_conn *c, uint32_t v, const void *d, size_t n, void *s)\n\
        { (void)c; (void)v; (void)d; (void)n; (void)s; return 0; }\n";
    for (name, callbacks) in [
        ("one", ".on_request = request"),
        ("two", ".on_open = conn, .on_data = conn"),
        (
            "all",
            ".worker_start = start, .worker_stop = worker, .on_request = request, .on_connection = conn,\n\
             .on_open = conn, .on_data = conn, .on_close = conn, .on_drain = worker,\n\
             .on_message = message, .on_datagram = datagram, .on_hang = worker, .on_writable = conn,\n\
             .on_head = head, .on_body = body, .state_version = 1, .on_handover = handover,\n\
             .on_takeover = takeover",
        ),
    ] {
        let text = format!("{module}PREFORK_MODULE({callbacks})\n");
        let callbacks_unused = ["-Wno-unused-function"];
        for (compiler, standard, extension) in
            [("cc", "-std=c99", "c"), ("c++", "-std=c++11", "cpp"), ("c++", "-std=c++20", "cpp")]
        {
            let file = source(&format!("{name}.{extension}"), &text);
            let object = scratch(&format!("{name}.{extension}.so"));
            let mut command = Command::new(compiler);
            command.args(STRICT).args(callbacks_unused).args([
                standard,
                "-shared",
                "-fPIC",
                "-fvisibility=hidden",
            ]);
            command.arg("-I").arg(Path::new(ROOT).join("include")).arg(&file).arg("-o").arg(&object);
            let out = command.output().unwrap();
            assert!(out.status.success(), "{name}: {}", String::from_utf8_lossy(&out.stderr));
            let symbols = Command::new("nm").args(["-D", "--defined-only"]).arg(&object).output().unwrap();
            let symbols = String::from_utf8(symbols.stdout).unwrap();
            let exported: Vec<_> = symbols.lines().filter_map(|l| l.split(' ').nth(2)).collect();
            assert_eq!(exported, ["prefork_module"], "{name} {standard}");
        }
    }
}

/// The layout is a promise: old modules have it compiled in.
#[test]
fn the_descriptor_has_the_promised_layout() {
    let text = "#include <prefork.h>\n\
        #define AT(member, n) typedef char member##_at[offsetof(struct prefork_module, member) == (n) ? 1 : -1];\n\
        #define P sizeof(void (*)(void))\n\
        AT(size, 0) AT(abi_major, 4) AT(abi_minor, 6) AT(worker_start, 8) AT(worker_stop, 8 + P)\n\
        AT(on_request, 8 + 2 * P) AT(on_connection, 8 + 3 * P) AT(on_open, 8 + 4 * P) AT(on_data, 8 + 5 * P)\n\
        AT(on_close, 8 + 6 * P) AT(on_drain, 8 + 7 * P) AT(on_message, 8 + 8 * P) AT(on_datagram, 8 + 9 * P)\n\
        AT(on_hang, 8 + 10 * P)\n";
    compiles("cc", "-std=c99", &source("layout.c", text));
}

/// The comment in front of each function, with its declaration.
fn functions(header: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for part in header.split("/**").skip(1) {
        let Some((comment, code)) = part.split_once("*/") else { continue };
        // Members are indented.
        let code = code.trim_start_matches('\n');
        let declaration = code.split(&[';', '{'][..]).next().unwrap_or_default();
        if declaration.contains('(')
            && !declaration.contains("(*)")
            && !declaration.starts_with(&[' ', '#', 't'][..])
        {
            found.push((declaration.to_owned(), comment.to_owned()));
        }
    }
    found
}

#[test]
fn every_function_documents_its_result_its_process_and_the_ownership_of_pointers() {
    let header = header();
    let functions: Vec<_> = functions(&header)
        .into_iter()
        .filter(|(code, _)| code.contains(" prefork_") || code.contains("*prefork_"))
        .collect();
    assert!(functions.len() > 50, "{functions:?}");
    for (code, comment) in &functions {
        let must = |word: &str| assert!(comment.contains(word), "{code}: no `{word}` in {comment}");
        must("Process: ");
        if !code.starts_with("void prefork_") {
            must("Returns ");
        }
        if code.split_once('(').unwrap().1.contains('*') {
            must("Pointers: ");
            assert!(
                ["Borrows ", "Copies ", "Takes "].iter().any(|w| comment.contains(w)),
                "{code}: {comment}"
            );
        }
    }
}

#[test]
fn it_is_three_quarters_documentation() {
    let header = header();
    let lines: Vec<_> = header.lines().filter(|l| !l.trim().is_empty()).collect();
    let comment = |l: &&&str| ["/*", " *", "    /*", "     *"].iter().any(|start| l.starts_with(start));
    let comments = lines.iter().filter(comment).count();
    assert!(comments * 4 >= lines.len() * 3, "{comments} of {} lines", lines.len());
    assert!(lines.iter().all(|l| l.len() <= 120), "lines of at most 120 columns");
}
